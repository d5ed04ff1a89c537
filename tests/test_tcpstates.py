"""The plugin tcpstates: every state, timeout and anomaly, exchange by exchange.

States: 0 new, 1 established, 2 closing, 3 closed, 4 reset. Anomalies: 0x01 malformed establishment, 0x02 malformed
teardown, 0x04 malformed flags, 0x08 packets after teardown, 0x10 packets after reset, 0x40 reset by this side, 0x80
potential scan. In the exchanges a frame comes 1 ms after the one before, unless something was waited.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchange import ACK, FIN, PSH, RST, SYN, TCP, URG, Exchange, ipv4, tcp
from packetwise import packetwise

import traceflow
from traceflow.errors import UsageError
from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.plugins import PluginSet, load_plugins
from traceflow.plugins.tcpstates import TcpStates
from traceflow.sources import open_source

Script = Callable[[Exchange], object]
Judged = list[tuple[str, int, int]]
Ended = tuple[tuple[int, int] | None, tuple[int, int] | None]


def traced(talk: Exchange, plugin: str = "tcpstates") -> FlowSet:
    flows = traceflow.trace(io.BytesIO(talk.wire.pcap_octets(nanosecond=True)), profile="tranalyzer", plugins=[plugin])
    assert flows.plugin_failures == []
    return flows


def judged(talk: Exchange) -> Judged:
    """(side, state, anomalies) of the sender after each packet."""
    rows = packetwise(io.BytesIO(talk.wire.pcap_octets(nanosecond=True)), "tcpstates")
    return [(row["side"], row["tcpstates_state"], row["tcpstates_anomalies"]) for row in rows.values()]


def ended(flow: Any) -> Ended:
    """(state, anomalies) of A and B at the end, None of a side that was not heard."""
    orig = (flow.orig_tcpstates_state, flow.orig_tcpstates_anomalies)
    resp = (flow.resp_tcpstates_state, flow.resp_tcpstates_anomalies)
    return None if orig[0] is None else orig, None if resp[0] is None else resp


HANDSHAKE: Judged = [("A", 0, 0), ("B", 0, 0), ("A", 1, 0)]

# Of each script: what is judged packet by packet, and what the end of the flow adds: 0x01 unless both SYNs were
# acknowledged, 0x02 unless both FINs were. `a` has number 100, `b` 900; each acknowledges all that it has heard.
NEW: dict[str, tuple[Script, Judged, Ended]] = {
    "SYN": (lambda e: e.a.syn(), [("A", 0, 0)], ((0, 0x03), None)),
    "SYN and SYN+ACK": (
        lambda e: [e.a.syn(), e.b.syn_ack()],
        HANDSHAKE[:2],
        ((0, 0x03), (0, 0x03)),  # the SYN of b was not acknowledged
    ),
    "handshake": (lambda e: e.open(), HANDSHAKE, ((1, 0x02), (1, 0x02))),
    "handshake whose ACK brings data": (
        lambda e: [e.a.syn(), e.b.syn_ack(), e.a.data(b"GET")],
        HANDSHAKE,
        ((1, 0x02), (1, 0x02)),
    ),
    "handshake with numbers around 2**32": (
        lambda e: e.open((0xFFFFFFFF, 0xFFFFFFFF)),  # each is acknowledged by 0
        HANDSHAKE,
        ((1, 0x02), (1, 0x02)),
    ),
    "SYN sent twice": (
        lambda e: [e.a.syn(seq=100), e.a.syn(seq=300), e.b.syn_ack(), e.a.ack()],  # 301: the second one counts
        [("A", 0, 0), *HANDSHAKE],
        ((1, 0x02), (1, 0x02)),
    ),
    "SYNs of both at once": (
        lambda e: [e.a.syn(), e.b.syn(), e.a.ack(), e.b.ack()],  # new until the second ACK
        [("A", 0, 0), ("B", 0, 0), ("A", 0, 0), ("B", 1, 0)],
        ((1, 0x02), (1, 0x02)),
    ),
    "SYN+ACK of a wrong number": (
        lambda e: [e.a.syn(), e.b.syn_ack(ack=102), e.a.ack()],
        [("A", 0, 0), ("B", 1, 0x01), ("A", 1, 0x01)],  # both are established from there on
        ((1, 0x03), (1, 0x03)),
    ),
    "SYN+ACK alone": (lambda e: e.b.syn_ack(), [("B", 1, 0x01)], (None, (1, 0x03))),
    "SYN+ACK, and its ACK": (
        lambda e: [e.b.syn_ack(), e.a.ack()],  # right, but the SYN of a was never seen: a stays new
        [("B", 1, 0x01), ("A", 0, 0)],
        ((0, 0x03), (1, 0x03)),
    ),
    "ACK of a wrong number": (
        lambda e: [e.a.syn(), e.b.syn_ack(), e.a.ack(ack=902), e.b.ack()],
        [*HANDSHAKE[:2], ("A", 1, 0x01), ("B", 1, 0x01)],
        ((1, 0x03), (1, 0x03)),
    ),
    "ACK without partner": (lambda e: e.a.ack(), [("A", 1, 0x01)], ((1, 0x03), None)),
    "mid-connection": (
        lambda e: [e.a.data(b"x"), e.b.data(b"y"), e.a.ack()],
        [("A", 1, 0x01), ("B", 1, 0x01), ("A", 1, 0x01)],
        ((1, 0x03), (1, 0x03)),
    ),
    "ACK of 1, of no SYN": (
        lambda e: [e.a.data(b"x"), e.b.ack(ack=1)],  # 1 lies behind 0, but a number that was not seen is none
        [("A", 1, 0x01), ("B", 1, 0x01)],
        ((1, 0x03), (1, 0x03)),
    ),
    "the right number without ACK": (
        lambda e: [e.a.syn(), e.b.syn_ack(), e.a.segment(PSH, ack=901)],
        [*HANDSHAKE[:2], ("A", 1, 0x01)],
        ((1, 0x03), (1, 0x03)),
    ),
    "no flags at all": (lambda e: e.a.segment(0), [("A", 1, 0x01)], ((1, 0x03), None)),
    "URG alone, to someone": (
        lambda e: [e.a.syn(), e.b.segment(URG), e.a.ack(ack=7)],  # b has a established, so that its ACK is no handshake
        [("A", 0, 0), ("B", 1, 0x01), ("A", 1, 0x01)],
        ((1, 0x03), (1, 0x03)),
    ),
    "refused": (
        lambda e: [e.a.syn(), e.b.rst_ack(), e.a.ack()],  # nothing wrong but that a goes on
        [("A", 0, 0), ("B", 4, 0x40), ("A", 4, 0x10)],
        ((4, 0x13), (4, 0x43)),
    ),
    "SYN and RST without ACK": (
        lambda e: [e.a.syn(), e.b.rst(), e.a.ack()],
        [("A", 0, 0), ("B", 4, 0x41), ("A", 4, 0x11)],
        ((4, 0x13), (4, 0x43)),
    ),
    "RST+ACK to no one": (lambda e: e.a.rst_ack(), [("A", 4, 0xC1)], ((4, 0xC3), None)),
    "RST to no one": (lambda e: e.a.rst(), [("A", 4, 0xC1)], ((4, 0xC3), None)),
    "FIN alone": (lambda e: e.a.segment(FIN), [("A", 0, 0x80)], ((0, 0x83), None)),
    "FIN alone, to someone": (
        lambda e: [e.a.syn(), e.b.segment(FIN)],
        [("A", 0, 0), ("B", 0, 0x80)],
        ((0, 0x03), (0, 0x83)),
    ),
    "FIN+ACK to no one": (lambda e: e.a.fin(), [("A", 2, 0x01)], ((2, 0x83), None)),  # the suspicion comes at the end
    "FIN+ACK to someone": (
        lambda e: [e.a.syn(), e.b.fin(), e.a.syn()],  # no suspicion; the second SYN shows that a has 0x01 as well
        [("A", 0, 0), ("B", 2, 0x01), ("A", 0, 0x01)],
        ((0, 0x03), (2, 0x03)),
    ),
    "FIN+ACK to no one, and answered": (
        lambda e: [e.a.fin(), e.b.ack()],  # the ACK of b is of no SYN: both are established; the suspicion stays
        [("A", 2, 0x01), ("B", 1, 0x01)],
        ((1, 0x83), (1, 0x03)),
    ),
    "FIN+ACK to no one, and a correct teardown": (
        lambda e: [e.a.fin(), e.b.fin(), e.a.ack()],  # that clears the suspicion
        [("A", 2, 0x01), ("B", 2, 0x01), ("A", 3, 0x01)],
        ((3, 0x01), (3, 0x01)),
    ),
}

# The handshake stands before each of these, and is not judged again.
LATER: dict[str, tuple[Script, Judged, Ended]] = {
    "data": (
        lambda e: e.talk(),
        [("A", 1, 0), ("B", 1, 0), ("A", 1, 0)],
        ((1, 0x02), (1, 0x02)),
    ),
    "SYN": (
        lambda e: [e.a.segment(SYN | ACK), e.b.ack()],
        [("A", 1, 0x04), ("B", 1, 0x04)],
        ((1, 0x06), (1, 0x06)),
    ),
    "no ACK": (
        lambda e: [e.b.segment(PSH, b"x"), e.a.ack()],
        [("B", 1, 0x04), ("A", 1, 0x04)],
        ((1, 0x06), (1, 0x06)),
    ),
    "RST+ACK": (
        lambda e: [e.b.rst_ack(), e.a.ack(), e.b.ack()],
        [("B", 4, 0x42), ("A", 4, 0x12), ("B", 4, 0x52)],
        ((4, 0x12), (4, 0x52)),
    ),
    "RST without ACK": (
        lambda e: [e.a.rst(), e.b.ack()],
        [("A", 4, 0x46), ("B", 4, 0x16)],
        ((4, 0x46), (4, 0x16)),
    ),
    "RST and FIN": (
        lambda e: e.a.segment(RST | FIN | ACK),  # the RST is looked for first
        [("A", 4, 0x42)],
        ((4, 0x42), (4, 0x02)),
    ),
    "FIN of one": (
        lambda e: [e.a.fin(), e.b.ack(), e.b.data(b"more"), e.a.ack()],
        [("A", 2, 0), ("B", 1, 0), ("B", 1, 0), ("A", 2, 0)],
        ((2, 0x02), (1, 0x02)),
    ),
    "RST while closing": (
        lambda e: [e.a.fin(), e.a.rst(), e.b.ack()],  # a is no longer established: no malformed flags
        [("A", 2, 0), ("A", 4, 0x42), ("B", 4, 0x12)],
        ((4, 0x42), (4, 0x12)),
    ),
    "RST to one that closes": (
        lambda e: [e.a.fin(), e.b.rst_ack()],
        [("A", 2, 0), ("B", 4, 0x42)],
        ((4, 0x02), (4, 0x42)),
    ),
    "closed": (
        lambda e: e.close(),  # the last ACK does not count as a packet after the teardown
        [("A", 2, 0), ("B", 1, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FIN answered by a FIN": (
        lambda e: [e.a.fin(), e.b.fin(), e.a.ack()],
        [("A", 2, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FIN behind payload": (
        lambda e: [e.a.segment(FIN | PSH | ACK, b"bye"), e.b.ack(), e.b.fin(), e.a.ack()],
        [("A", 2, 0), ("B", 1, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FINs of both at once": (
        lambda e: [e.a.fin(), e.b.fin(ack=101), e.a.ack(), e.b.ack()],  # 101 acknowledges the SYN, not the FIN
        [("A", 2, 0), ("B", 2, 0), ("A", 2, 0), ("B", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FIN behind payload, around 2**32": (
        lambda e: [e.a.segment(FIN | ACK, b"bye", seq=0xFFFFFFFE), e.b.ack(ack=2), e.b.fin(ack=2), e.a.ack()],
        [("A", 2, 0), ("B", 1, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "RST that acknowledges the FIN": (
        lambda e: [e.a.fin(), e.b.fin(), e.a.rst_ack(), e.b.ack()],
        [("A", 2, 0), ("B", 2, 0), ("A", 4, 0x42), ("B", 4, 0x12)],
        ((4, 0x42), (4, 0x12)),
    ),
    "FIN with two numbers": (
        lambda e: [e.a.fin(), e.a.fin(seq=500), e.b.fin(ack=102), e.a.ack()],  # the first one counts
        [("A", 2, 0), ("A", 2, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FIN sent twice": (
        lambda e: [e.a.fin(), e.a.fin(seq=101), e.b.fin(), e.a.ack()],
        [("A", 2, 0), ("A", 2, 0), ("B", 2, 0), ("A", 3, 0)],
        ((3, 0), (3, 0)),
    ),
    "FIN never acknowledged": (
        lambda e: [e.a.fin(), e.b.fin(ack=101), e.a.ack()],
        [("A", 2, 0), ("B", 2, 0), ("A", 2, 0)],
        ((2, 0x02), (2, 0x02)),
    ),
    "FIN acknowledged beyond": (
        lambda e: [e.a.fin(), e.b.fin(ack=103), e.a.ack()],  # 102 would be right
        [("A", 2, 0), ("B", 2, 0), ("A", 2, 0)],
        ((2, 0x02), (2, 0x02)),
    ),
    "packets after the teardown": (
        lambda e: [e.close(), e.a.ack(), e.b.data(b"x"), e.b.rst()],  # the RST is one more, and nothing else
        [("A", 2, 0), ("B", 1, 0), ("B", 2, 0), ("A", 3, 0), ("A", 3, 0x08), ("B", 3, 0x08), ("B", 3, 0x08)],
        ((3, 0x08), (3, 0x08)),
    ),
    "one packet after the teardown": (
        lambda e: [e.close(), e.a.ack()],  # that of a alone
        [("A", 2, 0), ("B", 1, 0), ("B", 2, 0), ("A", 3, 0), ("A", 3, 0x08)],
        ((3, 0x08), (3, 0)),
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_new(name: str) -> None:
    script, packets, end = NEW[name]
    talk = Exchange()
    script(talk)
    assert judged(talk) == packets
    assert [ended(flow) for flow in traced(talk)] == [end]


@pytest.mark.parametrize("name", LATER)
def test_after_the_handshake(name: str) -> None:
    script, packets, end = LATER[name]
    talk = Exchange()
    talk.open()
    script(talk)
    assert judged(talk) == [*HANDSHAKE, *packets]
    assert [ended(flow) for flow in traced(talk)] == [end]


# --- timeouts ----------------------------------------------------------------------------------------------------

TIMEOUTS: dict[str, tuple[Script, int]] = {
    # script, and behind its last frame the milliseconds until the flow is over
    "new": (lambda e: e.a.syn(), 120_000),
    "established": (lambda e: e.a.ack(), 610_000),
    "closing": (lambda e: e.a.fin(), 120_000),
    "reset": (lambda e: e.a.rst(), 100),
    "new, by FIN alone": (lambda e: e.a.segment(FIN), 120_000),
    "both established": (lambda e: e.open(), 610_000),
    "one established": (lambda e: [e.open(), e.b.ack(), e.a.fin()], 610_000 - 1),  # b spoke 1 ms before; a has 120 s
    "both closing": (lambda e: [e.open(), e.a.fin(), e.b.fin(ack=101)], 120_000),
    "closed": (lambda e: e.connection(), 10_000),  # b spoke 1 ms before, and has 10 s as well
    "reset by the other": (lambda e: [e.open(), e.b.rst_ack()], 100),
    "partner by a wrong ACK": (lambda e: [e.a.syn(), e.b.syn_ack(ack=7)], 610_000),
    "packets after a reset": (lambda e: [e.a.rst(), e.a.ack()], 100),
    "packets after a teardown": (lambda e: [e.connection(), e.b.ack()], 10_000),
    "flags of the other not captured": (lambda e: [e.a.syn(), e.b.data(b"x", captured=47)], 182_000),
    "flags not captured": (lambda e: e.a.data(b"x", captured=47), 182_000),  # 14 + 20 octets, and 13 of 14
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_timeout(name: str) -> None:
    """A segment one nanosecond before belongs to the flow, at the timeout it opens another."""
    script, timeout_ms = TIMEOUTS[name]
    for short_ns, flows in ((1, 1), (0, 2)):
        talk = Exchange()
        script(talk)
        talk.wait(ms=timeout_ms, ns=-short_ns)
        talk.a.ack()
        assert len(traced(talk)) == flows


@pytest.mark.parametrize(
    ("option", "script"),
    [
        ("new", lambda e: e.a.syn()),
        ("established", lambda e: e.a.ack()),
        ("closing", lambda e: e.a.fin()),
        ("closed", lambda e: e.connection()),
        ("reset", lambda e: e.a.rst()),
    ],
)
def test_other_timeouts(option: str, script: Script) -> None:
    for us, flows in ((3_499_999, 1), (3_500_000, 2)):
        talk = Exchange()
        script(talk)
        talk.wait(us=us)
        talk.a.ack()
        assert len(traced(talk, f"tcpstates:{option}=3.5")) == flows


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e10", "soon"])
@pytest.mark.parametrize("option", ["new", "established", "closing", "closed", "reset"])
def test_timeouts_that_are_refused(option: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"option {option} is"):
        load_plugins([f"tcpstates:{option}={value}"])


def test_a_flow_that_was_cut_begins_anew() -> None:
    """120 s behind a SYN its answer has no partner."""
    talk = Exchange()
    talk.a.syn()
    talk.wait(s=120)
    talk.b.syn_ack()
    assert [ended(flow) for flow in traced(talk)] == [((0, 0x03), None), (None, (1, 0x03))]


# --- what says nothing -------------------------------------------------------------------------------------------


def test_later_fragments_say_nothing() -> None:
    """A reset, its segment in two fragments: the second one is no packet after it."""
    talk = Exchange()
    a, b = talk.a.address, talk.b.address
    octets = tcp(a, b, 1000, 80, flags=RST, payload=bytes(12))
    for packet in (ipv4(a, b, TCP, octets[:24], more=True), ipv4(a, b, TCP, octets[24:], fragment=3)):
        talk.wire.packet(packet)
    (flow,) = traced(talk)
    assert flow.orig.packets == 2
    assert ended(flow) == ((4, 0xC3), None)


def test_other_protocols() -> None:
    talk = Exchange()
    talk.a.udp()
    talk.b.udp()
    plugin = TcpStates()
    flows = traceflow.trace(io.BytesIO(talk.wire.pcap_octets()), profile="tranalyzer", plugins=[plugin])
    assert [ended(flow) for flow in flows] == [(None, None)]
    assert list(plugin.report(None)) == ["anomalies 0x00 (OR of all directions)"]


# --- the report --------------------------------------------------------------------------------------------------


def anomalies_of(source: Path | io.BytesIO) -> list[str]:
    """What the report says of a capture."""
    plugins = PluginSet(load_plugins(["tcpstates"]))
    with open_source(source) as captures:
        for _step in Run(captures, options_for("tranalyzer"), plugins).steps():
            pass
    return plugins.report()["tcpstates"]


def test_the_report_gathers_all_directions() -> None:
    """0x01 | 0x02 | 0x80 of a FIN alone, 0x08 of a connection that goes on after its end; a UDP flow adds nothing."""
    talk = Exchange()
    talk.connection()
    talk.a.ack()
    other = Exchange("10.0.0.3:1000", "10.0.0.2:80", wire=talk.wire)
    other.a.segment(FIN)
    other.a.udp()
    assert anomalies_of(io.BytesIO(talk.wire.pcap_octets())) == ["anomalies 0x8b (OR of all directions)"]


@pytest.mark.slow_plain("10 000 packets")
def test_tranalyzers_report_of_m57(shared: Path) -> None:
    """Tranalyzer 0.9.3 with tcpStates: 0x43, and so no direction has one of the other bits."""
    path = shared / "corpus" / "tranalyzer" / "2009-M57-day11-18-10k.pcap"
    if not path.exists():
        pytest.skip("../shared/corpus is absent")
    assert anomalies_of(path) == ["anomalies 0x43 (OR of all directions)"]
