"""The room `table`: PACKET rows to flows. Rules by their numbers, as packet exchanges; then models and the oracle.

Expectations are hand counts, a model of ten lines, or `oracle.py`, which shares no code with the package. Frames are
1 ms apart unless a test waits; the capture has nanoseconds.
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from effort import examples
from exchange import ACK, FIN, ICMP, PSH, RST, SECOND_NS, SYN, TCP, UDP, Exchange, Wire, ip, tcp, udp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Result, trace_capture

from traceflow import trace
from traceflow.compiled import COMPILED
from traceflow.errors import MalformedCaptureError, NotACaptureError, TruncatedCaptureError
from traceflow.flows import EndCause, EndReason, FlowSet
from traceflow.options import Options, options_for
from traceflow.packets import FLAGS_KNOWN, FRAME, NO_TIME, PACKET, SEQ_KNOWN, Verdict
from traceflow.table import FROM_RESPONDER, FROM_UPPER, FlowTable

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
MORE = ("payload_octets", "conn_state", "history")  # of a flow, where they were counted
ERRORS = {"not a capture": NotACaptureError, "truncated": TruncatedCaptureError, "malformed": MalformedCaptureError}
HOUR_S = 3600


def traced(talk: Exchange | Wire, **options: Any) -> FlowSet:
    wire = talk.wire if isinstance(talk, Exchange) else talk
    return trace(io.BytesIO(wire.pcap_octets(nanosecond=True)), **options)


def frames_of(flows: FlowSet) -> list[list[int]]:
    return [flow.frames.tolist() for flow in flows]


def causes_of(flows: FlowSet) -> list[str]:
    return [flow.end_cause.text for flow in flows]


# --- rule 1: the key ---------------------------------------------------------------------------------------------


def test_protocol_is_in_the_key() -> None:
    talk = Exchange()
    talk.a.udp(b"?")
    talk.a.syn()
    talk.a.ip(ICMP, b"12345678")
    talk.b.udp(b"!")
    assert frames_of(traced(talk)) == [[1, 4], [2], [3]]


def test_ip_version_is_in_the_key() -> None:
    """::ffff:10.0.0.1 and 10.0.0.1 have the same 128 bits here, and are two hosts."""
    wire = Wire()
    Exchange("10.0.0.1:1000", "10.0.0.2:80", wire=wire).a.syn()
    Exchange("[::ffff:10.0.0.1]:1000", "[::ffff:10.0.0.2]:80", wire=wire).a.syn()
    assert frames_of(traced(wire)) == [[1], [2]]


@pytest.mark.parametrize(
    "other",
    [
        ("10.0.0.1:1000", "10.0.0.2:81"),
        ("10.0.0.1:1001", "10.0.0.2:80"),
        ("10.0.0.1:80", "10.0.0.2:1000"),
        ("10.0.0.3:1000", "10.0.0.2:80"),
        ("10.0.0.1:1000", "10.0.0.3:80"),
        ("10.0.0.1:1000", "10.0.0.1:80"),
    ],
)
def test_every_part_of_both_ends_is_in_the_key(other: tuple[str, str]) -> None:
    wire = Wire()
    for ends in (("10.0.0.1:1000", "10.0.0.2:80"), other):
        talk = Exchange(*ends, wire=wire)
        talk.a.udp(b"?")
        talk.b.udp(b"!")
    assert frames_of(traced(wire)) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("bit", [0, 31, 63, 64, 95, 127])
def test_every_bit_of_an_ipv6_address_is_in_the_key(bit: int) -> None:
    wire = Wire()
    first = "2001:db8:0:0:0:0:0:10"
    words = first.split(":")
    words[7 - bit // 16] = f"{int(words[7 - bit // 16], 16) ^ 1 << bit % 16:x}"
    for address in (first, ":".join(words)):
        talk = Exchange(f"[{address}]:7", "[2001:db8::2]:7", wire=wire)
        talk.a.udp(b"?")
        talk.b.udp(b"!")
    assert frames_of(traced(wire)) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("10.0.0.1:1000", "10.0.0.2:80"),
        ("10.0.0.2:80", "10.0.0.1:1000"),
        ("10.0.0.1:80", "10.0.0.1:1000"),
        ("10.0.0.1:1000", "10.0.0.1:80"),
        ("[2001:db8::1]:7", "[2001:db8::2]:7"),
        ("[2001:db8:1::]:7", "[2001:db8::2]:7"),
        ("[fe80::1]:65535", "[ff02::1]:0"),
        ("[::2]:7", "[::1:0:0:0:1]:7"),
    ],
)
def test_directions_meet(a: str, b: str) -> None:
    """Whichever end is the lower one: both directions are one flow, and its originator is who began."""
    talk = Exchange(a, b)
    talk.a.udp(b"?")
    talk.b.udp(b"!")
    talk.a.udp(b"?")
    (flow,) = traced(talk)
    assert flow.frames.tolist() == [1, 2, 3]
    assert flow.frames_from("orig").tolist() == [1, 3]
    assert (str(flow.orig_addr), flow.orig_port) == (talk.a.address, talk.a.port)
    assert (str(flow.resp_addr), flow.resp_port) == (talk.b.address, talk.b.port)


def test_equal_ends_neither_crash_nor_split() -> None:
    """T27: a socket connected to itself."""
    talk = Exchange("127.0.0.1:7", "127.0.0.1:7")
    talk.a.syn(seq=100)
    talk.a.segment(SYN | ACK, seq=100, ack=101)
    talk.a.segment(ACK, seq=101, ack=101)
    (flow,) = traced(talk)
    assert (flow.frames.tolist(), flow.frames_from("orig").tolist()) == ([1, 2, 3], [1, 2, 3])
    assert (flow.orig.packets, flow.resp.packets, flow.turned) == (3, 0, 0)


def test_vlan_is_not_in_the_key() -> None:
    wire = Wire()
    for tags in ([], [(0x8100, 10)], [(0x88A8, 10), (0x8100, 20)]):
        Exchange(wire=wire, tags=tags).a.udp(b"?")
    assert frames_of(traced(wire)) == [[1, 2, 3]]


# --- rule 2: direction -------------------------------------------------------------------------------------------


def test_first_sender_originates_where_nothing_says_otherwise() -> None:
    talk = Exchange()
    talk.b.data(b"mid-stream")
    talk.a.ack()
    (flow,) = traced(talk)
    assert (flow.orig_port, flow.turned, flow.frames_from("resp").tolist()) == (80, 0, [2])


def test_receiver_of_syn_ack_originates() -> None:
    """T07: the SYN-ACK stands before the SYN."""
    talk = Exchange()
    talk.b.syn_ack(ack=101)
    talk.a.syn(seq=100)
    (flow,) = traced(talk)
    assert (flow.orig_port, flow.turned, flow.frames_from("orig").tolist()) == (1000, 0, [2])


def test_late_syn_turns_the_direction_and_that_is_recorded() -> None:
    talk = Exchange()
    talk.b.data(b"strays in", ack=101)  # the next octet of `a` is 101, so its SYN has 100
    talk.a.syn(seq=100)
    talk.b.syn_ack(seq=900)
    flows = traced(talk)
    (flow,) = flows
    assert (flow.frames.tolist(), flow.orig_port, flow.turned) == ([1, 2, 3], 1000, 1)
    assert (flow.orig.packets, flow.resp.packets) == (1, 2)
    assert flow.frames_from("orig").tolist() == [2]


def test_late_syn_ack_turns_the_direction() -> None:
    talk = Exchange()
    talk.b.data(b"strays in", seq=901, ack=101)
    talk.b.syn_ack(seq=900, ack=101)
    (flow,) = traced(talk)
    assert (flow.orig_port, flow.turned) == (1000, 1)


def test_only_the_first_syn_tells() -> None:
    """Simultaneous open: both send a SYN, then both a SYN-ACK; who was first stays the originator."""
    talk = Exchange()
    talk.a.syn(seq=100)
    talk.b.syn(seq=900)
    talk.a.syn_ack(seq=100, ack=901)
    talk.b.syn_ack(seq=900, ack=101)
    (flow,) = traced(talk)
    assert (flow.frames.tolist(), flow.orig_port, flow.turned) == ([1, 2, 3, 4], 1000, 0)


def test_marks_say_what_was_known_when_the_frame_came() -> None:
    table = FlowTable(Options())
    frames, packets = rows(
        [{"src": 2, "dst": 1}, {"src": 1, "dst": 2, "flags": SYN}, {"src": 2, "dst": 1, "flags": SYN | ACK}]
    )
    marks = table.track(frames, packets, 1)
    assert [int(m) & FROM_UPPER for m in marks["direction"]] == [FROM_UPPER, 0, FROM_UPPER]
    assert [int(m) & FROM_RESPONDER for m in marks["direction"]] == [0, 0, FROM_RESPONDER]


# --- rules 4 and 5: a SYN ----------------------------------------------------------------------------------------


def connect(talk: Exchange) -> None:
    talk.open()


def half_close(talk: Exchange) -> None:
    talk.open()
    talk.a.fin()


STATES = {
    "SYN sent": (lambda talk: talk.a.syn(seq=100), 1, "new syn"),
    "established": (lambda talk: talk.open(), 3, "new syn"),
    "data": (lambda talk: (talk.open(), talk.talk()), 6, "new syn"),
    "half closed": (half_close, 4, "new syn"),
    "closed": (lambda talk: talk.connection(), 10, "fin"),
    "reset": (lambda talk: (talk.open(), talk.b.rst()), 4, "rst"),
    "refused": (lambda talk: (talk.a.syn(seq=100), talk.b.rst_ack(seq=0)), 2, "rst"),
}


@pytest.mark.parametrize("state", STATES)
def test_syn_with_another_number_opens_a_new_flow(state: str) -> None:
    """Rule 4, whatever the state; what closed the first flow stays its cause."""
    build, sent, cause = STATES[state]
    talk = Exchange()
    build(talk)
    talk.a.syn(seq=7000)
    talk.b.syn_ack(seq=8000)
    flows = traced(talk)
    assert frames_of(flows) == [list(range(1, sent + 1)), [sent + 1, sent + 2]]
    assert causes_of(flows) == [cause, "end of input"]
    assert flows[0].end_reason == EndReason.END_OF_FLOW_DETECTED


@pytest.mark.parametrize("state", STATES)
def test_syn_with_the_same_number_is_a_retransmission(state: str) -> None:
    """Rule 5, also while the flow is closing."""
    build, sent, _ = STATES[state]
    talk = Exchange()
    build(talk)
    talk.a.syn(seq=100)
    assert frames_of(traced(talk)) == [list(range(1, sent + 2))]


@pytest.mark.parametrize("state", STATES)
def test_syn_ack_never_opens_a_new_flow(state: str) -> None:
    build, sent, _ = STATES[state]
    talk = Exchange()
    build(talk)
    talk.b.syn_ack(seq=123_456)
    talk.a.syn_ack(seq=654_321)
    assert frames_of(traced(talk)) == [list(range(1, sent + 3))]


def test_the_responder_may_open_the_next_one() -> None:
    talk = Exchange()
    talk.open()
    talk.b.syn(seq=12_345)
    flows = traced(talk)
    assert frames_of(flows) == [[1, 2, 3], [4]]
    assert flows[1].orig_port == 80


def test_first_syn_of_the_other_side_belongs() -> None:
    talk = Exchange()
    talk.a.syn(seq=100)
    talk.b.syn(seq=900)
    assert frames_of(traced(talk)) == [[1, 2]]


@pytest.mark.parametrize("isn", [0, 1, 2**31, 2**32 - 1])
def test_base_at_the_ends_of_the_number_space(isn: int) -> None:
    """T25: the base of a direction met in mid-connection is its first number minus one, modulo 2**32."""
    talk = Exchange()
    talk.a.data(b"x", seq=(isn + 1) % 2**32)
    talk.a.syn(seq=isn)
    talk.a.syn(seq=(isn + 1) % 2**32)
    assert frames_of(traced(talk)) == [[1, 2], [3]]


@pytest.mark.parametrize("isn", [0, 1, 2**31, 2**32 - 1])
def test_base_from_the_other_sides_acknowledgment(isn: int) -> None:
    talk = Exchange()
    talk.b.data(b"x", seq=77, ack=(isn + 1) % 2**32)
    talk.a.syn(seq=isn)
    talk.a.syn(seq=(isn - 1) % 2**32)
    assert frames_of(traced(talk)) == [[1, 2], [3]]


def test_data_in_syn_and_ecn_and_all_flags() -> None:
    """T27: TCP Fast Open, ECN, and a Christmas tree are one flow each."""
    wire = Wire()
    for port, flags, payload in ((1, SYN, b"early"), (2, SYN | 0xC0, b""), (3, 0xFF, b"")):
        talk = Exchange(f"10.0.0.1:{port}", "10.0.0.2:80", wire=wire)
        talk.a.segment(flags, payload)
        talk.b.syn_ack()
    assert frames_of(traced(wire)) == [[1, 2], [3, 4], [5, 6]]


# --- rules 6 and 8: the end --------------------------------------------------------------------------------------


def test_whole_connection() -> None:
    """T01, by hand: 54 octets a frame (14 + 20 + 20), `GET` in frame 4, `200 OK` in frame 5."""
    talk = Exchange()
    talk.connection()
    (flow,) = traced(talk)
    assert (flow.frames.tolist(), flow.end_cause, flow.end_reason) == ([*range(1, 11)], EndCause.FIN, 3)
    assert (flow.orig.packets, flow.orig.wire_octets, flow.orig.ip_octets, flow.orig.payload_octets) == (6, 327, 243, 3)
    assert (flow.resp.packets, flow.resp.wire_octets, flow.resp.ip_octets, flow.resp.payload_octets) == (4, 222, 166, 6)
    assert flow.orig.flags.tolist() == [1, 1, 0, 1, 5, 0, 0, 0]  # FIN, SYN, RST, PSH, ACK, URG, ECE, CWR
    assert flow.resp.flags.tolist() == [1, 1, 0, 1, 4, 0, 0, 0]
    first_ns = talk.wire.frames[0].time_ns
    assert (flow.first_ns, flow.last_ns, flow.duration_ns) == (first_ns, first_ns + 9_000_000, 9_000_000)
    assert (flow.orig.opened_frame, flow.resp.opened_frame) == (1, 2)
    assert (flow.resp.first_ns, flow.resp.last_ns) == (first_ns + 1_000_000, first_ns + 8_000_000)


@pytest.mark.parametrize("short", [1, 0])
@pytest.mark.parametrize("close", ["fin", "rst"])
def test_linger(close: str, short: int) -> None:
    """60 s after the close, one nanosecond less or not: a frame without SYN belongs, or opens a partial flow."""
    talk = Exchange()
    talk.open()
    if close == "fin":
        talk.close()
    else:
        talk.b.rst()
    closed = len(talk.wire.frames)
    talk.wait(s=60, ns=-short)
    talk.b.ack()
    flows = traced(talk)
    tail = [closed + 1]
    assert frames_of(flows) == ([[*range(1, closed + 1), *tail]] if short else [[*range(1, closed + 1)], tail])
    assert causes_of(flows) == ([close] if short else [close, "end of input"])


def test_linger_counts_from_the_last_frame() -> None:
    talk = Exchange()
    talk.connection()
    for seconds in (59, 59, 59, 60):
        talk.wait(s=seconds)
        talk.a.ack()
    assert frames_of(traced(talk)) == [[*range(1, 14)], [14]]


def test_linger_can_be_changed() -> None:
    talk = Exchange()
    talk.connection()
    talk.wait(s=400)
    talk.a.ack()
    assert frames_of(traced(talk, linger_ns=401 * SECOND_NS)) == [[*range(1, 12)]]  # longer than the idle timeout
    assert frames_of(traced(talk, linger_ns=SECOND_NS)) == [[*range(1, 11)], [11]]


def test_one_fin_does_not_close() -> None:
    """T10: half close. 299 s of silence are allowed, since nothing is closing."""
    talk = Exchange()
    talk.open()
    talk.a.fin()
    talk.wait(s=299)
    talk.b.data(b"x" * 1000)
    flows = traced(talk)
    assert (frames_of(flows), causes_of(flows)) == ([[1, 2, 3, 4, 5]], ["end of input"])


def test_fin_twice_from_one_side_does_not_close() -> None:
    talk = Exchange()
    talk.open()
    talk.a.fin()
    talk.a.fin()
    assert causes_of(traced(talk)) == ["end of input"]


def test_what_closed_first_is_the_cause() -> None:
    """T11: a RST behind both FINs, and FIN behind a RST."""
    wire = Wire()
    one, two = Exchange(wire=wire), Exchange("10.0.0.3:1", "10.0.0.2:80", wire=wire)
    one.connection()
    one.b.rst()
    two.open()
    two.a.rst()
    two.a.fin()
    two.b.fin()
    assert causes_of(traced(wire)) == ["fin", "rst"]


def test_refused_connect_is_one_flow() -> None:
    """T12."""
    talk = Exchange()
    talk.a.syn()
    talk.b.rst_ack(seq=0)
    flows = traced(talk)
    assert (frames_of(flows), causes_of(flows)) == ([[1, 2]], ["rst"])


def test_flow_met_in_mid_connection_is_kept() -> None:
    """Rule 10, T14."""
    talk = Exchange(isn=(40_000, 90_000))
    talk.b.data(b"more", ack=40_000)
    talk.a.ack()
    talk.connection((5000, 7000))
    flows = traced(talk)
    assert frames_of(flows) == [[1, 2], [*range(3, 13)]]
    assert causes_of(flows) == ["new syn", "fin"]


# --- rules 13 and 14: the clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("short", "flows"), [(1, 1), (0, 2), (-1, 2)])
@pytest.mark.parametrize(("protocol", "idle_s"), [("udp", 60), ("tcp", 300), ("icmp", 60)])
def test_idle_timeout_at_equality(protocol: str, idle_s: int, short: int, flows: int) -> None:
    """T15: silence of the timeout, one nanosecond less, one more."""
    talk = Exchange()
    send = {"udp": talk.a.udp, "tcp": talk.a.ack, "icmp": lambda: talk.a.ip(ICMP, b"")}[protocol]
    send()
    talk.wait(s=idle_s, ns=-short)
    send()
    found = traced(talk)
    assert frames_of(found) == ([[1, 2]] if flows == 1 else [[1], [2]])
    if flows == 2:
        assert (found[0].end_cause, found[0].end_reason) == (EndCause.IDLE, EndReason.IDLE_TIMEOUT)
    assert found[-1].end_reason == EndReason.FORCED_END


def test_idle_timeouts_can_be_switched_off() -> None:
    wire = Wire()
    one, two = Exchange(wire=wire), Exchange("10.0.0.3:1", "10.0.0.2:80", wire=wire)
    one.a.udp()
    two.a.ack()
    wire.wait(s=10**6)
    one.a.udp()
    two.a.ack()
    flows = traced(wire, idle_timeout_tcp_ns=None, idle_timeout_other_ns=None)
    assert frames_of(flows) == [[1, 3], [2, 4]]
    assert flows.account.forward_jumps == 1


def test_frames_without_a_flow_move_the_clock() -> None:
    talk = Exchange()
    talk.a.udp()
    first_ns = talk.wire.frames[0].time_ns
    talk.wire.at(first_ns + 60 * SECOND_NS)
    talk.wire.frame(bytes(60))
    talk.wire.at(first_ns + SECOND_NS)
    talk.a.udp()
    assert frames_of(traced(talk)) == [[1], [3]]


def test_one_wild_time_does_not_idle_out_the_rest_twice() -> None:
    """Rule 13: frame 3 lies two hours ahead. Flows end once; what follows goes on at the clock of frame 3."""
    talk = Exchange()
    other = Exchange("10.0.0.3:1", "10.0.0.2:80", wire=talk.wire)
    first_ns = 1_700_000_000 * SECOND_NS
    for n, (side, at_s) in enumerate(
        [(talk.a, 0), (talk.a, 1), (other.a, 2 * HOUR_S), (talk.a, 2), (talk.a, 3), (talk.a, 100)]
    ):
        talk.wire.at(first_ns + at_s * SECOND_NS)
        assert side.udp() == n + 1
    flows = traced(talk)
    assert frames_of(flows) == [[1, 2], [3], [4, 5, 6]]
    assert (flows.account.forward_jumps, flows.account.frames_out_of_order) == (1, 3)


@pytest.mark.parametrize(("jump_ns", "counted"), [(3600 * SECOND_NS, 0), (3600 * SECOND_NS + 1, 1)])
def test_forward_jumps_are_steps_above_an_hour(jump_ns: int, counted: int) -> None:
    talk = Exchange()
    talk.a.udp()
    talk.wait(ns=jump_ns)
    talk.a.udp()
    assert traced(talk).account.forward_jumps == counted


def test_clock_never_runs_backwards() -> None:
    """Rule 14: 59 s forward, 59 s back, 59.5 s: the flow was seen at clock 59, so 60 s of silence end at 119."""
    talk = Exchange()
    first_ns = talk.wire.frames[-1].time_ns if talk.wire.frames else 1_700_000_000 * SECOND_NS
    for at_s in (0, 59, 0, 118, 0, 178):
        talk.wire.at(first_ns + at_s * SECOND_NS)
        talk.a.udp()
    flows = traced(talk)
    assert frames_of(flows) == [[1, 2, 3, 4, 5], [6]]
    assert flows.account.frames_out_of_order == 2
    assert (flows[0].first_ns, flows[0].last_ns) == (first_ns, first_ns + 118 * SECOND_NS)


def test_equal_times_are_in_order() -> None:
    talk = Exchange(wire=Wire(step_ns=0))
    talk.connection()
    flows = traced(talk)
    assert (flows.account.frames_out_of_order, flows[0].duration_ns) == (0, 0)


def test_frames_before_the_first_have_earlier_times() -> None:
    talk = Exchange()
    first_ns = 1_700_000_000 * SECOND_NS
    for at_s in (10, 5, 20):
        talk.wire.at(first_ns + at_s * SECOND_NS)
        talk.a.udp()
    (flow,) = traced(talk)
    assert (flow.first_ns, flow.last_ns) == (first_ns + 5 * SECOND_NS, first_ns + 20 * SECOND_NS)
    assert (flow.orig.opened_ns, flow.orig.opened_frame) == (first_ns + 10 * SECOND_NS, 1)


def test_frame_without_time_leaves_the_clock_alone() -> None:
    table = FlowTable(Options())
    frames, packets = rows([{"time_ns": 100 * SECOND_NS}, {"time_ns": 0}, {"time_ns": 160 * SECOND_NS}])
    frames["time_bits"][1] = NO_TIME
    assert table.track(frames, packets, 1)["flow"].tolist() == [1, 1, 2]
    assert table.account().frames_out_of_order == 0


# --- rule 21: reasons --------------------------------------------------------------------------------------------


def test_reason_of_every_cause() -> None:
    """IPFIX information element 136: 1 idle, 2 active, 3 end of flow detected, 4 forced end, 5 lack of resources."""
    assert {cause.name: int(cause.reason) for cause in EndCause} == {
        "IDLE": 1,
        "FIN": 3,
        "RST": 3,
        "NEW_SYN": 3,
        "END_OF_INPUT": 4,
        "EVICTED": 5,
        "ACTIVE": 2,
        "PLUGIN": 4,
    }


def test_counters_have_64_bits() -> None:
    """Rule 17: three frames, each of the most that a frame can have, 2**32 - 1 octets."""
    most = 2**32 - 1
    frames, packets = many(1, rounds=3)
    frames["wire"] = packets["ip_octets"] = packets["payload_octets"] = most
    _, ended = run(FlowTable(Options()), frames, packets)
    orig = ended["orig"][0]
    assert (orig["wire_octets"], orig["ip_octets"], orig["payload_octets"]) == (3 * most, 3 * most, 3 * most)


def test_account_adds_up() -> None:
    talk = Exchange()
    talk.connection()
    talk.wait(s=100)
    talk.wire.frame(bytes(60))
    talk.a.udp()
    account = traced(talk).account
    assert (account.frames, account.in_flows, account.verdicts[Verdict.NOT_IP]) == (12, 11, 1)
    assert set(account.verdicts) == set(Verdict) - {Verdict.FLOW}
    assert sum(account.verdicts.values()) == 1
    assert (account.flows, account.causes[EndCause.FIN], account.causes[EndCause.END_OF_INPUT]) == (2, 1, 1)
    assert set(account.causes) == set(EndCause)


# --- fixtures ----------------------------------------------------------------------------------------------------


REFUSED = [name for name, case in EXPECTED.items() if case["error"] and not case["frames"]]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_fixture(name: str) -> None:
    """Nothing could be read of these."""
    with pytest.raises(ERRORS[EXPECTED[name]["error"]]):
        trace(*[FIXTURES / file for file in EXPECTED[name]["files"]])


@pytest.mark.filterwarnings("ignore::traceflow.errors.IncompleteWarning")
@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in REFUSED])
def test_fixture(name: str) -> None:
    """expected.json: the hand count of the author of each case, for profile `default`."""
    expected = EXPECTED[name]
    paths = [FIXTURES / file for file in expected["files"]]
    kind = ERRORS.get(expected["error"])
    flows = trace(*paths)
    assert [type(error) for error in flows.errors] == ([] if kind is None else [kind])
    assert [
        {
            "protocol": flow.protocol,
            "orig": [str(flow.orig_addr), flow.orig_port or 0],
            "resp": [str(flow.resp_addr), flow.resp_port or 0],
            "frames": flow.frames.tolist(),
            "orig_frames": flow.frames_from("orig").tolist(),
            "resp_frames": flow.frames_from("resp").tolist(),
            "cause": flow.end_cause.text,
        }
        for flow in flows
    ] == [{key: value for key, value in flow.items() if key not in MORE} for flow in expected["flows"]]
    account = flows.account
    assert account.frames == expected["frames"]
    assert {v.text: count for v, count in account.verdicts.items() if count} == expected["verdicts"]
    assert account.in_flows + sum(account.verdicts.values()) == account.frames
    assert account.frames_out_of_order == expected["frames_out_of_order"]
    for flow, wanted in zip(flows, expected["flows"], strict=True):
        assert (flow.orig.packets, flow.resp.packets) == (len(wanted["orig_frames"]), len(wanted["resp_frames"]))
        if "payload_octets" in wanted:
            assert [flow.orig.payload_octets, flow.resp.payload_octets] == wanted["payload_octets"]
        if "times_ns" in expected:
            times = [expected["times_ns"][n - 1] for n in wanted["frames"]]
            assert (flow.first_ns, flow.last_ns) == (min(times), max(times))


# --- profile pcapkit ---------------------------------------------------------------------------------------------


def pcapkit(*names: str) -> FlowSet:
    return trace(*[FIXTURES / file for name in names for file in EXPECTED[name]["files"]], profile="pcapkit")


def test_pcapkit_cuts_one_connection_into_three_buffers() -> None:
    """Measured on PyPCAPKit 0.15 to 1.5: a FIN closes its direction, and the last ACK is alone."""
    flows = pcapkit("T01")
    assert frames_of(flows) == [[1, 3, 4, 6, 7], [2, 5, 8, 9], [10]]
    assert causes_of(flows) == ["fin", "fin", "end of input"]
    assert [(flow.orig_port, flow.resp.packets) for flow in flows] == [(1000, 0), (80, 0), (1000, 0)]


def test_pcapkit_merges_reused_ports_and_ignores_syn_and_rst() -> None:
    """T04: RST is frame 5, SYN of the second connection frame 6, FIN 12 and 14."""
    assert frames_of(pcapkit("T04")) == [[1, 3, 4, 6, 8, 9, 11, 12], [2, 5, 7, 10, 13, 14], [15]]


def test_pcapkit_takes_tcp_alone() -> None:
    flows = pcapkit("T13")  # UDP is 1, 2 and 13
    assert flows.account.verdicts[Verdict.NOT_TCP] == 3
    assert frames_of(flows) == [[3, 5, 6, 8, 9], [4, 7, 10, 11], [12]]


def test_pcapkit_has_no_timeouts() -> None:
    talk = Exchange()
    talk.a.ack()
    talk.wait(s=10**7)
    talk.a.ack()
    talk.b.syn_ack()
    assert frames_of(traced(talk, profile="pcapkit")) == [[1, 2], [3]]


def test_never_ending_rule() -> None:
    talk = Exchange()
    talk.connection()
    talk.wait(s=200)
    talk.a.ack()
    flows = traced(talk, tcp_end="never")
    assert (frames_of(flows), causes_of(flows)) == ([[*range(1, 12)]], ["end of input"])


def test_syn_rule_can_be_switched_off() -> None:
    talk = Exchange()
    talk.open()
    talk.a.syn(seq=9999)
    assert frames_of(traced(talk, syn_opens=False)) == [[1, 2, 3, 4]]


# --- rows by hand ------------------------------------------------------------------------------------------------


def rows(packets: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """FRAME and PACKET rows: IPv4 hosts by number, UDP unless there are flags, 1 s apart unless a time is given."""
    frames, found = np.zeros(len(packets), FRAME), np.zeros(len(packets), PACKET)
    for n, packet in enumerate(packets):
        frames[n]["time_ns"] = packet.get("time_ns", n * SECOND_NS)
        frames[n]["wire"] = frames[n]["captured"] = 60
        row = found[n]
        row["ip_version"] = 4
        row["src_lo"], row["dst_lo"] = 0xFFFF00000000 | packet.get("src", 1), 0xFFFF00000000 | packet.get("dst", 2)
        row["src_port"], row["dst_port"] = packet.get("sport", 7), packet.get("dport", 7)
        row["protocol"] = TCP if "flags" in packet or "protocol" in packet else UDP
        row["flags"] = packet.get("flags", 0)
        row["seq"] = packet.get("seq", 0)
        row["bits"] = FLAGS_KNOWN | SEQ_KNOWN if row["protocol"] == TCP else 0
    return frames, found


def run(table: FlowTable, frames: np.ndarray, packets: np.ndarray, batch: int = 4096) -> tuple[list[int], np.ndarray]:
    """Flow of each frame, and FLOW rows in the order in which they ended."""
    flows: list[int] = []
    ended = []
    for at in range(0, len(frames), batch):
        marks = table.track(frames[at : at + batch], packets[at : at + batch].copy(), at + 1)
        flows += marks["flow"].tolist()
        ended.append(table.drain())
    table.end()
    return flows, np.concatenate([*ended, table.drain()])


def many(flows: int, *, gap_ns: int = 0, rounds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """`rounds` packets of each of many UDP flows, in turn, without Python per packet."""
    total = flows * rounds
    frames, packets = np.zeros(total, FRAME), np.zeros(total, PACKET)
    frames["time_ns"] = np.arange(total) * gap_ns
    packets["ip_version"], packets["protocol"] = 4, UDP
    packets["src_lo"] = 0xFFFF00000000 + np.arange(total) % flows
    packets["dst_lo"] = 0xFFFF0A000000
    return frames, packets


@pytest.mark.parametrize(
    "flows", [1023, 1024, 1025, 4095, 4096, 4097, pytest.param(33_000, marks=pytest.mark.slow_plain("66 000 frames"))]
)
def test_growth(flows: int) -> None:
    """All live at once, past 1024 (half the index), 4096 and 32 768 rows: all are found again."""
    frames, packets = many(flows, rounds=2)
    found, ended = run(FlowTable(Options()), frames, packets, batch=977)
    assert found == [*range(1, flows + 1)] * 2
    assert ended["number"].tolist() == [*range(1, flows + 1)]
    assert (ended["orig"]["packets"] == 2).all()


def test_one_frame_may_end_any_number_of_flows() -> None:
    """5000 flows are due when the last frame comes: far more than the kernels hand out at once."""
    frames, packets = many(5001)
    frames["time_ns"][-1] = 61 * SECOND_NS
    table = FlowTable(Options())
    marks = table.track(frames, packets, 1)
    assert marks["flow"].tolist() == [*range(1, 5002)]
    ended = table.drain()
    assert ended["number"].tolist() == [*range(1, 5001)]
    assert set(ended["end_cause"].tolist()) == {EndCause.IDLE}
    assert table.live == 1
    assert table.account().forward_jumps == 0


def test_clock_of_a_frame_counts_once_however_often_it_is_resumed() -> None:
    """The same with a jump above an hour, which must not be counted again on each return of the kernel."""
    frames, packets = many(5001)
    frames["time_ns"][-1] = 2 * HOUR_S * SECOND_NS
    table = FlowTable(Options())
    table.track(frames, packets, 1)
    assert (table.account().forward_jumps, table.account().frames_out_of_order) == (1, 0)
    assert table.account().frames == 5001


def test_frame_out_of_order_counts_once_however_often_it_is_resumed() -> None:
    """A table of one flow: every frame ends one, so the kernel returns now and then. Time runs backwards."""
    frames, packets = many(3000)
    frames["time_ns"] = np.arange(3000, 0, -1)
    table = FlowTable(Options(max_flows=1))
    table.track(frames, packets, 1)
    assert (table.account().frames_out_of_order, table.account().forward_jumps) == (2999, 0)


@pytest.mark.parametrize("total", [200, pytest.param(200_000, marks=pytest.mark.slow_plain("200 000 frames"))])
def test_rows_are_used_again(total: int) -> None:
    """Memory follows the live flows: 60 of them here, however many there were."""
    frames, packets = many(total, gap_ns=SECOND_NS)
    table = FlowTable(Options())
    table.track(frames, packets, 1)
    assert table.live == 60
    assert table._state[0]["fresh"] == 60, "rows that were ever used; the others cost no memory"
    assert len(table.drain()) == total - 60


def test_bounded_table() -> None:
    table = FlowTable(Options(max_flows=100))
    frames, packets = many(3000)
    table.track(frames, packets, 1)
    assert table.live == 100
    assert len(table._live) == 100
    ended = table.drain()
    assert ended["number"].tolist() == [*range(1, 2901)]
    assert set(ended["end_cause"].tolist()) == {EndCause.EVICTED}
    assert set(ended["end_reason"].tolist()) == {EndReason.LACK_OF_RESOURCES}


def test_a_table_that_grows_has_no_limit() -> None:
    table = FlowTable(Options(max_flows=1, when_full="grow"))
    frames, packets = many(3000)
    table.track(frames, packets, 1)
    assert (table.live, len(table.drain())) == (3000, 0)
    table.end()
    assert table.account().causes[EndCause.EVICTED] == 0
    assert table.drain()["number"].tolist() == [*range(1, 3001)]


def test_the_row_of_a_flow_can_be_asked_while_it_lives() -> None:
    """100 flows, 1 s apart, of which the last 60 live; then all end, and another opens in the first row."""
    frames, packets = many(100, gap_ns=SECOND_NS)
    table = FlowTable(Options())
    table.track(frames, packets, 1)
    assert table.live == 60
    rows = [table.row_of(number) for number in range(102)]
    assert [number for number, row in enumerate(rows) if row is not None] == [*range(41, 101)]
    assert [int(table._live[row]["number"]) for row in rows if row is not None] == [*range(41, 101)]
    table.end()
    assert [table.row_of(number) for number in range(102)] == [None] * 102
    table.track(frames[:1], packets[:1], 101)
    assert (table.row_of(100), table.row_of(101)) == (None, 0)


def test_the_row_of_a_flow_that_ended_is_not_that_of_the_latest() -> None:
    """Flow 2, the latest, is over by its FIN, and flow 1 lives on: its row is no longer to be had."""
    frames, packets = many(2)
    packets[1]["protocol"], packets[1]["flags"], packets[1]["bits"] = TCP, FIN, FLAGS_KNOWN
    table = FlowTable(Options(tcp_end="fin"))
    table.track(frames, packets, 1)
    assert table.drain()["number"].tolist() == [2]
    assert (table.row_of(1) is None, table.row_of(2)) == (False, None)


def test_a_snapshot_is_what_the_end_would_give_and_changes_nothing() -> None:
    frames, packets = many(5)
    packets["protocol"], packets["flags"], packets["bits"] = TCP, SYN, FLAGS_KNOWN | SEQ_KNOWN
    table = FlowTable(Options())
    table.track(frames, packets, 1)
    rows = [table.row_of(number) for number in range(1, 6)]
    looks = [table.snapshot(row) for row in rows if row is not None]
    assert (table.live, len(table.drain())) == (5, 0)
    evicted = table.snapshot(rows[0] or 0, EndCause.EVICTED)[0]
    assert (evicted["end_cause"], evicted["end_reason"]) == (EndCause.EVICTED, EndReason.LACK_OF_RESOURCES)
    table.end()
    assert np.array_equal(np.concatenate(looks), table.drain())


def test_eviction_takes_the_nearest_to_its_timeout() -> None:
    """UDP at 0 s is due at 60 s; TCP at 1 s at 301 s; the RST of host 3 at 2 s makes it due at 62 s. Host 1 speaks
    again at 10 s (due 70 s), so the order is: host 3, host 1, then the UDP of host 4 (72 s).
    """
    frames, packets = rows(
        [
            {"src": 1, "time_ns": 0},
            {"src": 2, "flags": ACK, "time_ns": 1 * SECOND_NS},
            {"src": 3, "flags": RST, "time_ns": 2 * SECOND_NS},
            {"src": 1, "time_ns": 10 * SECOND_NS},
            {"src": 4, "time_ns": 12 * SECOND_NS},
            {"src": 5, "time_ns": 13 * SECOND_NS},
            {"src": 6, "time_ns": 14 * SECOND_NS},
        ]
    )
    table = FlowTable(Options(max_flows=3))
    assert table.track(frames, packets, 1)["flow"].tolist() == [1, 2, 3, 1, 4, 5, 6]
    ended = table.drain()
    assert ended["number"].tolist() == [3, 1, 4]
    assert ended["end_cause"].tolist() == [EndCause.RST, EndCause.EVICTED, EndCause.EVICTED]


def test_a_table_of_one_flow() -> None:
    table = FlowTable(Options(max_flows=1))
    frames, packets = rows([{"src": 1, "flags": SYN}, {"src": 1, "flags": SYN, "seq": 9}, {"src": 2}, {"src": 2}])
    flows, ended = run(table, frames, packets)
    assert flows == [1, 2, 3, 3]
    assert ended["end_cause"].tolist() == [EndCause.NEW_SYN, EndCause.EVICTED, EndCause.END_OF_INPUT]


def test_table_goes_on_after_its_end() -> None:
    table = FlowTable(Options())
    frames, packets = rows([{}, {}])
    assert table.track(frames[:1], packets[:1], 1)["flow"].tolist() == [1]
    table.end()
    assert table.track(frames[1:], packets[1:], 2)["flow"].tolist() == [2]
    table.end()
    table.end()
    assert table.drain()["number"].tolist() == [1, 2]
    assert len(table.drain()) == 0
    assert table.account().flows == 2


def test_an_empty_batch_changes_nothing() -> None:
    table = FlowTable(Options())
    assert len(table.track(np.zeros(0, FRAME), np.zeros(0, PACKET), 1)) == 0
    assert (table.live, table.account().frames) == (0, 0)


def test_timeouts_at_the_end_of_time() -> None:
    """Times go up to 2**62 ns; with the longest timeout that Options takes, the sum still fits 64 bits."""
    longest = Options(idle_timeout_other_ns=2**62 - 1)
    frames, packets = rows([{"time_ns": 2**62}, {"time_ns": 2**62}])
    assert run(FlowTable(longest), frames, packets)[0] == [1, 1]


def test_numbers_count_from_the_first_frame_given() -> None:
    """Frame numbers may begin anywhere (several captures): the opening frame is what the caller says."""
    table = FlowTable(Options())
    frames, packets = rows([{}])
    table.track(frames, packets, 2**33)
    table.end()
    assert table.drain()["orig"]["opened_frame"].tolist() == [2**33]


# --- order of what ends ------------------------------------------------------------------------------------------


def random_rows(dice: random.Random, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Few hosts and ports, TCP with any flags and few numbers, UDP; time goes on and sometimes back."""
    packets, now_ns = [], 0
    for _ in range(count):
        now_ns += dice.choice((0, 0, 1, SECOND_NS, 20 * SECOND_NS, 60 * SECOND_NS, -5 * SECOND_NS))
        packet: dict[str, Any] = {
            "time_ns": max(0, now_ns),
            "src": dice.randrange(4),
            "dst": dice.randrange(4),
            "sport": dice.randrange(2),
            "dport": dice.randrange(2),
        }
        if dice.random() < 0.8:
            packet |= {"flags": dice.choice((SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST)), "seq": dice.randrange(3)}
        packets.append(packet)
    return rows(packets)


def test_flows_come_out_by_due_time_and_number() -> None:
    """No SYN here, so a flow ends when due or at the end of input: in all, ascending (due time, number).

    Due by hand: the clock at the last frame of the flow, plus 60 s for UDP and a closing TCP flow, else 300 s.
    """
    dice = random.Random(3)
    frames, packets = random_rows(dice, 3000 if COMPILED else 300)
    packets["flags"] &= ~np.uint8(SYN)
    flows, ended = run(FlowTable(Options()), frames, packets, batch=50)
    clock = np.maximum.accumulate(frames["time_ns"])
    due: dict[int, int] = {}
    closed: dict[int, set[Any]] = {}
    for n, flow in enumerate(flows):
        seen = closed.setdefault(flow, set())
        if packets[n]["flags"] & FIN:
            seen.add((packets[n]["src_lo"], packets[n]["src_port"]))
        if packets[n]["flags"] & RST:
            seen |= {"rst", "both"}
        closing = packets[n]["protocol"] == UDP or len(seen) > 1
        due[flow] = int(clock[n]) + (60 if closing else 300) * SECOND_NS
    order = ended["number"].tolist()
    assert len(order) == max(flows) > 50
    assert order == sorted(order, key=lambda number: (due[number], number))


class Model:
    """The table for packets that all come from the first of two hosts: a dict, and a search for what is due next."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock_ns: int | None = None
        self.live: dict[tuple[int, bool], list[Any]] = {}  # key: [due, number, cause of its close]
        self.ended: list[tuple[int, int]] = []
        self.opened = 0

    def end_due(self, now_ns: float, most: float, cause: int) -> None:
        while self.live and most:
            key = min(self.live, key=lambda key: self.live[key][:2])
            due_ns, number, closed = self.live[key]
            if due_ns > now_ns:
                return
            self.ended.append((number, closed or cause))
            del self.live[key]
            most -= 1

    def take(self, time_ns: int, key: tuple[int, bool], reset: bool) -> int:
        self.clock_ns = time_ns if self.clock_ns is None else max(self.clock_ns, time_ns)
        self.end_due(self.clock_ns, float("inf"), EndCause.IDLE)
        if key not in self.live:
            if len(self.live) == self.options.max_flows:
                self.end_due(float("inf"), 1, EndCause.EVICTED)
            self.opened += 1
            self.live[key] = [0, self.opened, 0]
        flow = self.live[key]
        if reset:
            flow[2] = EndCause.RST
        timeout = self.options.idle_timeout_tcp_ns if key[1] else self.options.idle_timeout_other_ns
        timeout = self.options.linger_ns if flow[2] else timeout
        flow[0] = float("inf") if timeout is None else self.clock_ns + timeout
        return flow[1]


steps = st.tuples(
    st.integers(0, 11),  # who sends; odd hosts speak TCP
    st.booleans(),  # RST
    st.sampled_from([0, 0, 0, 1, SECOND_NS, 5 * SECOND_NS, 59 * SECOND_NS, 60 * SECOND_NS, -10 * SECOND_NS]),
)


@settings(max_examples=examples(300, plain=30), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(steps, min_size=1, max_size=120),
    st.integers(1, 9),
    st.sampled_from([Options(), Options(linger_ns=SECOND_NS), Options(idle_timeout_tcp_ns=None, linger_ns=1)]),
    st.sampled_from([1, 5, 200]),
    st.integers(0, 2**64 - 1),
)
def test_table_equals_model(script: list[Any], max_flows: int, rules: Options, batch: int, seed: int) -> None:
    """Order of timeouts, eviction, and deletion from a crowded index (2 to 32 slots), against the model."""
    options = options_for(max_flows=max_flows, linger_ns=rules.linger_ns, idle_timeout_tcp_ns=rules.idle_timeout_tcp_ns)
    model, packets, now_ns, wanted = Model(options), [], 0, []
    for host, reset, step_ns in script:
        now_ns = max(0, now_ns + step_ns)
        reset = reset and host % 2 == 1
        packet: dict[str, Any] = {"src": host, "dst": 100, "time_ns": now_ns}
        if host % 2:
            packet["flags"] = RST if reset else ACK
        packets.append(packet)
        wanted.append(model.take(now_ns, (host, host % 2 == 1), reset))
    flows, ended = run(FlowTable(options, seed=seed), *rows(packets), batch=batch)
    model.end_due(float("inf"), float("inf"), EndCause.END_OF_INPUT)
    assert flows == wanted
    assert list(zip(ended["number"].tolist(), ended["end_cause"].tolist(), strict=True)) == model.ended


def test_hash_seed_does_not_matter() -> None:
    frames, packets = random_rows(random.Random(8), 2000 if COMPILED else 300)
    results = []
    for seed in (0, 1, 2**63, 2**64 - 1, None):
        flows, ended = run(FlowTable(Options(max_flows=40), seed=seed), frames, packets)
        results.append((flows, ended))
    for flows, ended in results[1:]:
        assert flows == results[0][0]
        assert np.array_equal(ended, results[0][1])


def test_batches_do_not_matter() -> None:
    frames, packets = random_rows(random.Random(9), 2000 if COMPILED else 300)
    results = []
    for batch in (1, 2, 7, 500, 4096):
        table = FlowTable(Options(max_flows=40))
        flows, ended = run(table, frames, packets, batch)
        results.append((flows, ended, table.account()))
    for flows, ended, account in results[1:]:
        assert (flows, account) == (results[0][0], results[0][2])
        assert np.array_equal(ended, results[0][1])


# --- the oracle --------------------------------------------------------------------------------------------------

FLAGS = (SYN, SYN, SYN | ACK, ACK, ACK, PSH | ACK, FIN | ACK, FIN, RST, RST | ACK, SYN | FIN, SYN | RST, 0, 0xFF)
NUMBERS = (0, 1, 2, 99, 100, 101, 2**31, 2**32 - 2, 2**32 - 1)
STEPS_NS = (
    *(0, 1, 1, 1_000_000, 1_000_000, SECOND_NS, -SECOND_NS, -400 * SECOND_NS, 59 * SECOND_NS, 60 * SECOND_NS - 1),
    *(60 * SECOND_NS, 240 * SECOND_NS, 300 * SECOND_NS - 1, 300 * SECOND_NS, 4000 * SECOND_NS),
)
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2", "::ffff:10.0.0.1")


def draw_packet(dice: random.Random, wire: Wire) -> int:
    """Send one packet. Returns its TCP flags as far as they are captured, else 0."""
    src = dice.choice(ADDRESSES)
    dst = dice.choice([address for address in ADDRESSES if (":" in address) == (":" in src)])
    ends = (src, dst, dice.choice((1, 2)), dice.choice((1, 2)))
    protocol = dice.choice((TCP,) * 8 + (UDP, ICMP))
    octets, flags = b"12345678", 0
    if protocol == TCP:
        flags, seq, ack = dice.choice(FLAGS), dice.choice(NUMBERS), dice.choice(NUMBERS)
        octets = tcp(*ends, seq=seq, ack=ack, flags=flags, payload=dice.choice((b"", b"x")))
    elif protocol == UDP:
        octets = udp(*ends, b"x")
    captured = dice.choice((None,) * 30 + (10, 30, 36, 40))
    wire.packet(ip(src, dst, protocol, octets), captured=captured)
    wire.wait(ns=dice.choice(STEPS_NS))
    return flags if captured is None else 0  # all the cuts above end before the flags


def assert_as_the_oracle(flows: FlowSet, result: Result) -> None:
    count = len(result.frame_flow)
    assert (flows.frame_map.packed(np.arange(1, count + 1)) >> np.uint64(1)).tolist() == result.frame_flow
    assert {v.text: n for v, n in flows.account.verdicts.items() if n} == result.verdicts
    assert flows.account.frames_out_of_order == result.frames_out_of_order
    for flow, wanted in zip(flows, result.flows, strict=True):
        assert (str(flow.orig_addr), flow.orig_port or 0) == wanted.orig, wanted.number
        assert (str(flow.resp_addr), flow.resp_port or 0) == wanted.resp, wanted.number
        if flow.orig_addr != flow.resp_addr or flow.orig_port != flow.resp_port:
            assert flow.frames_from("orig").tolist() == wanted.orig_frames, wanted.number
            assert flow.frames_from("resp").tolist() == wanted.resp_frames, wanted.number
        assert (flow.protocol, flow.ip_version, flow.end_cause.text) == (wanted.protocol, wanted.version, wanted.cause)


def assert_oracle_agrees(seed: int, count: int, tmp_path: Path) -> None:
    dice, wire = random.Random(seed), Wire()
    flags = np.array([draw_packet(dice, wire) for _ in range(count)])
    path = wire.pcap(tmp_path, nanosecond=True)
    flows = trace(path)
    assert_as_the_oracle(flows, trace_capture(path))
    for flow in flows:
        for side, half in (("orig", flow.orig), ("resp", flow.resp)):
            sent = flags[flow.frames_from(side).astype(np.int64) - 1]
            assert half.flags.tolist() == [int((sent >> bit & 1).sum()) for bit in range(8)], flow
            wire_octets = [wire.frames[number - 1].wire_octets for number in flow.frames_from(side).tolist()]
            assert (half.packets, half.wire_octets) == (len(wire_octets), sum(wire_octets))
    assert_as_the_oracle(trace(path, profile="pcapkit"), trace_capture(path, profile="pcapkit"))
    assert_as_the_oracle(
        trace(path, linger_ns=350 * SECOND_NS, idle_timeout_tcp_ns=None),
        trace_capture(path, linger_s=350, idle_tcp_s=None),
    )


@settings(
    max_examples=examples(150, plain=15),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_oracle_agrees(seed: int, count: int, tmp_path: Path) -> None:
    """Few addresses, ports, flags, numbers and time steps, so that everything meets everything."""
    assert_oracle_agrees(seed, count, tmp_path)


@pytest.mark.once("10 000 frames, three times")
@pytest.mark.slow_plain("10 000 frames, three times")
def test_oracle_agrees_on_a_long_capture(tmp_path: Path) -> None:
    assert_oracle_agrees(1, 10_000, tmp_path)
