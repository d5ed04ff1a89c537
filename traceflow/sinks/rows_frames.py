"""The frames of a Step to the fields of `traceflow frames`, column by column.

What a field means stands in docs/columns.md; where it is undefined its cell is None. Nothing here decides about frames
and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.analysis import analysis_text
from traceflow.decode import LINKS
from traceflow.packets import (
    ACK_KNOWN,
    DUPLICATE,
    FINER_THAN_MICROSECONDS,
    FLAGS_KNOWN,
    FRAGMENT,
    NO_TIME,
    SEQ_KNOWN,
    Interface,
    Verdict,
)
from traceflow.pipeline import Step
from traceflow.protocols import PROTOCOLS_WITH_PORTS, protocol_name
from traceflow.sinks.rows_columns import (
    Addresses,
    Block,
    Column,
    Integers,
    Names,
    Seconds,
    by_number,
    names_of,
    plugin_column,
)
from traceflow.sinks.rows_fields import Field
from traceflow.table import FROM_RESPONDER
from traceflow.tcp import ACK, flag_text

__all__ = ["frame_columns"]

_TCP = 6
_WINDOW_END = 16  # RFC 9293 section 3.1: the window is octets 14 and 15 of the TCP header
_FLAG_TEXTS = [flag_text(flags) for flags in range(256)]
_VERDICT_TEXTS = by_number({verdict: verdict.text for verdict in Verdict if verdict is not Verdict.FLOW})
_PROTOCOLS = [protocol_name(number) for number in range(256)]
_SIDES = ("orig", "resp")
# Verdicts that decode gives after it has passed the whole chain of headers: protocol and lengths are known then.
_BEHIND_IP = (int(Verdict.FLOW), int(Verdict.FRAGMENT_WITHOUT_PORTS), int(Verdict.NOT_TCP), int(Verdict.DUPLICATE))
_LINK_UNREAD = (int(Verdict.UNSUPPORTED_LINK), int(Verdict.TRUNCATED_LINK))
_WITH_PORTS = (int(Verdict.FLOW), int(Verdict.NOT_TCP), int(Verdict.DUPLICATE))


class _Frames:
    """Some frames of a step."""

    def __init__(self, step: Step, interfaces: Sequence[Interface], flow: int | None) -> None:
        assert step.batch is not None
        count = len(step.batch.frames)
        chosen: Any = slice(None)
        if flow is not None:
            chosen = np.flatnonzero(step.marks["flow"] == flow)
        elif (filtered := step.packets["verdict"] == Verdict.FILTERED).any():
            chosen = np.flatnonzero(~filtered)
        self.count = count
        self.at: npt.NDArray[np.int64] = np.arange(count)[chosen]
        self.frames, self.packets, self.marks = step.batch.frames[chosen], step.packets[chosen], step.marks[chosen]
        self.quoted = step.quoted
        self.first_number, self.first_in_file = step.batch.first_number, step.batch.first_in_file
        self.interfaces = interfaces

    def without(self, bit: int) -> npt.NDArray[np.bool_]:
        """Which frames lack a bit of PACKET `bits`."""
        lacking: npt.NDArray[np.bool_] = self.packets["bits"] & bit == 0
        return lacking

    def not_ip(self) -> npt.NDArray[np.bool_]:
        """Which frames have no IP packet that could be read."""
        lacking: npt.NDArray[np.bool_] = self.packets["ip_version"] == 0
        return lacking

    def not_behind_ip(self) -> npt.NDArray[np.bool_]:
        """Which frames have no known length of what IP carries."""
        return ~np.isin(self.packets["verdict"], _BEHIND_IP)

    def without_ports(self) -> npt.NDArray[np.bool_]:
        """Which frames have neither ports nor the identifier of an ICMP query."""
        ports = np.isin(self.packets["protocol"], list(PROTOCOLS_WITH_PORTS)) | (self.packets["src_port"] != 0)
        # A fragment that was removed as a duplicate has not asked for the ports of the first one.
        ports &= (self.packets["verdict"] != Verdict.DUPLICATE) | self.without(FRAGMENT)
        without: npt.NDArray[np.bool_] = ~(ports & np.isin(self.packets["verdict"], _WITH_PORTS))
        return without

    def without_window(self) -> npt.NDArray[np.bool_]:
        """Which frames have no TCP window in what was captured."""
        captured = self.frames["captured"].astype(np.int64) - self.packets["transport"].astype(np.int64)
        lacking: npt.NDArray[np.bool_] = self.without(FLAGS_KNOWN) | (captured < _WINDOW_END)
        return lacking

    def without_flow(self) -> npt.NDArray[np.bool_]:
        """Which frames belong to no flow."""
        without: npt.NDArray[np.bool_] = self.marks["flow"] == 0
        return without


def _frame(name: str) -> Callable[[_Frames], Column]:
    """A column of FRAME as it is."""
    return lambda some: Integers(some.frames[name])


def _packet(name: str, empty: Callable[[_Frames], npt.NDArray[np.bool_]]) -> Callable[[_Frames], Column]:
    """A column of PACKET, empty where `empty` says so."""
    return lambda some: Integers(some.packets[name], empty(some))


def _address(end: str) -> Callable[[_Frames], Column]:
    def column(some: _Frames) -> Column:
        packets = some.packets
        return Addresses(packets[f"{end}_hi"], packets[f"{end}_lo"], packets["ip_version"], some.not_ip())

    return column


def _times(some: _Frames) -> Column:
    bits = some.frames["time_bits"]
    return Seconds(some.frames["time_ns"], bits & FINER_THAN_MICROSECONDS != 0, bits & NO_TIME != 0)


def _quoted_flows(some: _Frames) -> Column:
    """The flow that the packet quoted by an ICMP error belonged to."""
    flows = np.zeros(some.count, np.uint64)
    flows[some.quoted["number"].astype(np.int64) - some.first_number] = some.quoted["flow"]
    chosen = flows[some.at]
    return Integers(chosen, chosen == 0)


def _no_ack(some: _Frames) -> npt.NDArray[np.bool_]:
    empty: npt.NDArray[np.bool_] = some.without(ACK_KNOWN) | (some.packets["flags"] & ACK == 0)
    return empty


_MAKERS: dict[str, Callable[[_Frames], Column]] = {
    "frame": lambda some: Integers(some.at + some.first_number),
    "file": lambda some: names_of(some.frames["interface"], lambda at: some.interfaces[at].source),
    "frame_in_file": lambda some: Integers(some.at + some.first_in_file),
    "offset": _frame("offset"),
    "time": _times,
    "time_ns": lambda some: Integers(some.frames["time_ns"], some.frames["time_bits"] & NO_TIME != 0),
    "flow": lambda some: Integers(some.marks["flow"], some.without_flow()),
    "direction": lambda some: Names(some.marks["direction"] & FROM_RESPONDER, _SIDES, some.without_flow()),
    "verdict": lambda some: Names(some.packets["verdict"], _VERDICT_TEXTS),
    "protocol_name": lambda some: Names(some.packets["protocol"], _PROTOCOLS, some.not_ip()),
    "src": _address("src"),
    "src_port": _packet("src_port", _Frames.without_ports),
    "dst": _address("dst"),
    "dst_port": _packet("dst_port", _Frames.without_ports),
    "protocol": _packet("protocol", _Frames.not_ip),
    "ip_version": _packet("ip_version", _Frames.not_ip),
    "ttl": _packet("ttl", _Frames.not_ip),
    "flags": lambda some: Names(some.packets["flags"], _FLAG_TEXTS, some.without(FLAGS_KNOWN)),
    "seq": _packet("seq", lambda some: some.without(SEQ_KNOWN)),
    "ack": _packet("ack", _no_ack),
    "window": _packet("window", _Frames.without_window),
    "tcp_analysis": lambda some: names_of(some.marks["analysis"], lambda flags: analysis_text(flags) or None),
    "duplicate_ack": lambda some: Integers(some.marks["duplicate_ack"], some.marks["duplicate_ack"] == 0),
    "duplicate": lambda some: Integers(np.ones(len(some.at), np.uint8), some.without(DUPLICATE)),
    "quoted_flow": _quoted_flows,
    "captured_octets": _frame("captured"),
    "wire_octets": _frame("wire"),
    "ip_octets": _packet("ip_octets", _Frames.not_ip),
    "payload_octets": _packet("payload_octets", _Frames.not_behind_ip),
    "vlan_tags": _packet("vlan_tags", lambda some: np.isin(some.packets["verdict"], _LINK_UNREAD)),
    "vlan_outer": _packet("vlan_outer", lambda some: some.packets["vlan_tags"] == 0),
    "vlan_inner": _packet("vlan_inner", lambda some: some.packets["vlan_tags"] < 2),
    "link": _frame("link"),
    "link_name": lambda some: names_of(some.frames["link"], LINKS.get),
    "interface": lambda some: names_of(some.frames["interface"], lambda at: some.interfaces[at].name or None),
}


def frame_columns(
    step: Step,
    interfaces: Sequence[Interface],
    fields: Sequence[Field],
    flow: int | None = None,
    plugin_columns: Mapping[str, Any] | None = None,
) -> Block:
    """The frames of a step as columns for `rows.py`.

    Args:
        step: A step with a batch.
        interfaces: Where frames came from, for the names.
        fields: Of FRAME_FIELDS, or columns of plugins.
        flow: Take only the frames of this flow; None: all but those that a filter left out.
        plugin_columns: Columns of plugins, arrays [m] by name: of all frames of the step.

    Returns:
        One list a field, cells int, str, or None where undefined.
    """
    some = _Frames(step, interfaces, flow)
    added = plugin_columns or {}
    columns = [
        plugin_column(added[field.name][some.at], some.without_flow())  # what it keeps of a direction, after the packet
        if field.name in added
        else _MAKERS[field.name](some)
        for field in fields
    ]
    return Block(columns, fields, len(some.at))
