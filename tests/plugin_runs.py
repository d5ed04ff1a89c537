"""What the tests of the built-in plugins share: a run over a dialogue, cells of its columns, and a wire of odd packets.

What must not live here: any expectation about a number of a plugin.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from exchange import ICMP, MS_NS, START_NS, Exchange, Wire

from traceflow.flows import FlowSet
from traceflow.pipeline import trace


def traced(talk: Exchange | Wire, *plugins: Any, profile: str = "default", **options: Any) -> FlowSet:
    """The flows of a dialogue, with plugins."""
    wire = talk.wire if isinstance(talk, Exchange) else talk
    flows = trace(io.BytesIO(wire.pcap_octets(nanosecond=True)), profile=profile, plugins=plugins, **options)
    assert flows.plugin_failures == []
    return flows


def cells(flows: FlowSet, names: str, at: int = 0) -> list[Any]:
    """Cells of one flow, by names with blanks between them; None where one is empty."""
    found = []
    for name in names.split():
        value = flows.plugin_columns[name][at]
        found.append(None if value is np.ma.masked else getattr(value, "item", lambda value=value: value)())
    return found


def dialogue() -> Exchange:
    """UDP at 0, 3, 4, 7 ms: payload 10, 30, 20 back, 20. On the wire 42 more: 52, 72, 62 back, 62."""
    talk = Exchange()
    talk.a.udp(bytes(10))
    talk.wait(ms=3)
    talk.a.udp(bytes(30))
    talk.wait(ms=1)
    talk.b.udp(bytes(20))
    talk.wait(ms=3)
    talk.a.udp(bytes(20))
    return talk


def odd_wire() -> Wire:
    """Flows 1 to 7: one UDP packet, an IPv6 SYN, ICMP both ways, equal times, times that fall, no payload, IPv6 UDP."""
    wire = Wire()
    Exchange("10.0.0.1:1", "10.0.0.2:53", wire=wire).a.udp(b"?")
    Exchange("[fd00::1]:1000", "[fd00::2]:80", wire=wire).a.syn()
    echo = Exchange("10.0.0.1:1", "10.0.0.3:1", wire=wire)
    echo.a.ip(ICMP, bytes.fromhex("0800000000070001") + b"ping")
    echo.b.ip(ICMP, bytes.fromhex("0000000000070001") + b"ping")
    same = Exchange("10.0.0.1:4", "10.0.0.2:53", wire=wire)
    for size in (1, 2, 3):
        wire.at(START_NS + 20 * MS_NS)
        same.a.udp(bytes(size))
    back = Exchange("10.0.0.1:5", "10.0.0.2:80", wire=wire)
    for ms in (30, 25, 40, 35):
        wire.at(START_NS + ms * MS_NS)
        (back.a if ms != 25 else back.b).data(b"data")
    Exchange("10.0.0.1:6", "10.0.0.2:53", wire=wire).a.udp()
    six = Exchange("[fd00::1]:7", "[fd00::2]:53", wire=wire)
    six.a.udp(b"question")
    six.b.udp(b"answer")
    return wire


def check_values(flows: FlowSet) -> None:
    """No column holds a NaN or an infinity, not even where it is masked, and text is text."""
    assert flows.plugin_columns
    for name, values in flows.plugin_columns.items():
        assert len(values) == len(flows), name
        if values.dtype == object:
            assert all(isinstance(value, str) for value in values.compressed()), name
        else:
            assert np.isfinite(np.asarray(values.data, np.float64)).all(), name
