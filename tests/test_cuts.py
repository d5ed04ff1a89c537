"""The room `cuts`: the active timeout (flow-rules 3, case T16), as exchanges and against a model."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from effort import examples
from exchange import SECOND_NS, START_NS, Exchange, Wire
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.flows import EndCause, FlowSet
from traceflow.options import Options
from traceflow.packets import FRAME, PACKET
from traceflow.pipeline import trace
from traceflow.table import FROM_RESPONDER, FlowTable

MINUTE_NS = 60 * SECOND_NS
HALF_HOUR_NS = 30 * MINUTE_NS
UDP = 17


def traced(talk: Exchange | Wire, **options: Any) -> FlowSet:
    wire = talk.wire if isinstance(talk, Exchange) else talk
    return trace(io.BytesIO(wire.pcap_octets(nanosecond=True)), **options)


def frames_of(flows: FlowSet) -> list[list[int]]:
    return [flow.frames.tolist() for flow in flows]


def two_hours() -> Exchange:
    """SYN at 0:00, SYN-ACK, ACK, then a segment of the responder every minute up to 1:59: 3 + 119 frames."""
    talk = Exchange()
    talk.open()
    for minute in range(1, 120):
        talk.wire.at(START_NS + minute * MINUTE_NS)
        talk.b.data(b"x" * 1000)
    return talk


def test_two_hours_are_four_segments() -> None:
    """T16. The frame of minute 30 (number 3 + 30) is 30 min old and opens the second segment, and so on."""
    flows = traced(two_hours(), active_timeout_ns=HALF_HOUR_NS)
    assert frames_of(flows) == [[*range(1, 33)], [*range(33, 63)], [*range(63, 93)], [*range(93, 123)]]
    assert [(flow.parent, flow.segment) for flow in flows] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert [flow.end_cause.text for flow in flows] == ["active", "active", "active", "end of input"]
    assert [int(flow.end_reason) for flow in flows] == [2, 2, 2, 4]
    assert {(flow.orig_port, flow.resp_port, flow.turned) for flow in flows} == {(1000, 80, 0)}
    assert [(flow.orig.packets, flow.resp.packets) for flow in flows] == [(2, 30), (0, 30), (0, 30), (0, 30)]
    assert [flow.history for flow in flows] == ["ShAd", "d", "d", "d"]
    assert flows.account.causes[EndCause.ACTIVE] == 3


def test_without_an_active_timeout_it_is_one() -> None:
    (flow,) = traced(two_hours())
    assert (flow.frames.tolist(), flow.parent, flow.segment) == ([*range(1, 123)], 1, 1)


@pytest.mark.parametrize(("short", "flows"), [(1, 1), (0, 2), (-1, 2)])
def test_at_equality(short: int, flows: int) -> None:
    """Two frames 10 s apart, and an active timeout of 10 s; one nanosecond less, one more."""
    talk = Exchange()
    talk.a.udp()
    talk.wait(s=10, ns=-short)
    talk.a.udp()
    assert len(traced(talk, active_timeout_ns=10 * SECOND_NS)) == flows


def test_each_segment_counts_from_its_own_opening() -> None:
    """Frames at 0, 9, 12, 20, 22 s and 10 s: 12 s is cut, 20 s is 8 s into the second segment, 22 s cuts again."""
    wire = Wire()
    talk = Exchange(wire=wire)
    for second in (0, 9, 12, 20, 22):
        wire.at(START_NS + second * SECOND_NS)
        talk.a.udp()
    assert frames_of(traced(wire, active_timeout_ns=10 * SECOND_NS)) == [[1, 2], [3, 4], [5]]


def test_silence_ends_a_flow_by_idle_and_nothing_goes_on() -> None:
    """61 s of silence are more than both timeouts: the idle one was over first, so it is another conversation."""
    talk = Exchange()
    talk.a.udp()
    talk.wait(s=61)
    talk.b.udp()
    flows = traced(talk, active_timeout_ns=10 * SECOND_NS)
    assert [(f.end_cause.text, f.parent, f.segment, f.orig_port) for f in flows] == [
        ("idle", 1, 1, 1000),
        ("end of input", 2, 1, 80),
    ]


def test_a_new_connection_is_no_segment() -> None:
    """Rule 4 comes first: a SYN with another number opens a flow of its own, however old the one before is."""
    talk = Exchange()
    talk.open()
    talk.wait(s=100)
    talk.b.syn(seq=5000)
    flows = traced(talk, active_timeout_ns=10 * SECOND_NS)
    assert [(f.end_cause.text, f.parent, f.segment, f.orig_port) for f in flows] == [
        ("new syn", 1, 1, 1000),
        ("end of input", 2, 1, 80),
    ]


def test_parent_is_the_number_of_the_first_segment() -> None:
    """Another flow opens first, so the parent is 2; its own cut has parent 1."""
    wire = Wire()
    other, talk = Exchange("10.0.0.9:1", "10.0.0.2:2", wire=wire), Exchange(wire=wire)
    for _ in range(3):
        other.a.udp()
        talk.a.udp()
        wire.wait(s=10)
    flows = traced(wire, active_timeout_ns=10 * SECOND_NS)
    assert [(f.number, f.parent, f.segment) for f in flows] == [
        *((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 2, 2), (5, 1, 3), (6, 2, 3)),
    ]


def test_a_turned_direction_is_kept() -> None:
    """The originator is known from the late SYN; the segment that the responder opens keeps it, without a `^`."""
    talk = Exchange()
    talk.b.data(b"strays in", ack=101)
    talk.a.syn(seq=100)
    talk.wait(s=10)
    talk.b.data(b"x")
    first, second = traced(talk, active_timeout_ns=10 * SECOND_NS)
    assert (first.orig_port, first.turned) == (1000, 1)
    assert (second.orig_port, second.turned, second.history) == (1000, 0, "d")


def test_a_first_syn_ack_does_not_turn_the_next_segment_twice() -> None:
    """A segment that opens with a SYN+ACK of the responder: its own rule would write `^`, but nothing was found."""
    talk = Exchange()
    talk.a.syn(seq=100)
    talk.wait(s=10)
    talk.b.syn_ack(seq=900)
    first, second = traced(talk, active_timeout_ns=10 * SECOND_NS)
    assert [(f.orig_port, f.turned, f.history) for f in (first, second)] == [(1000, 0, "S"), (1000, 0, "h")]


def test_a_full_table_cuts_without_an_eviction() -> None:
    talk = Exchange()
    talk.a.udp()
    talk.wait(s=10)
    talk.b.udp()
    for when_full in ("evict", "skip"):
        flows = traced(talk, active_timeout_ns=10 * SECOND_NS, max_flows=1, when_full=when_full)
        assert [f.end_cause.text for f in flows] == ["active", "end of input"]


def test_clock_not_time_stamps_decides() -> None:
    """Rule 14: frame 2 is at 20 s; frame 3 says 5 s, but the clock stands at 20, and the flow opened at 0."""
    wire = Wire()
    talk, other = Exchange(wire=wire), Exchange("10.0.0.9:1", "10.0.0.2:2", wire=wire)
    for side, second in ((talk.a, 0), (other.a, 20), (talk.a, 5)):
        wire.at(START_NS + second * SECOND_NS)
        side.udp()
    assert frames_of(traced(wire, active_timeout_ns=10 * SECOND_NS)) == [[1], [2], [3]]


steps = st.tuples(
    st.integers(0, 3),  # which pair of hosts
    st.booleans(),  # who sends
    st.sampled_from([0, 0, 1, 3 * SECOND_NS, 5 * SECOND_NS, 9 * SECOND_NS, 10 * SECOND_NS, -4 * SECOND_NS]),
)


@settings(max_examples=examples(200, plain=20))
@given(st.lists(steps, min_size=1, max_size=80), st.sampled_from([1, 3, 200]))
def test_segments_equal_a_model(script: list[tuple[int, bool, int]], batch: int) -> None:
    """Idle 10 s, active 20 s: a dict of what lives, each [number, parent, segment, opened at, last, originator]."""
    frames, packets = np.zeros(len(script), FRAME), np.zeros(len(script), PACKET)
    packets["ip_version"], packets["protocol"] = 4, UDP
    now = clock = opened = 0
    live: dict[int, list[Any]] = {}
    numbers, from_responder = [], []
    ranks: dict[int, tuple[int, int]] = {}
    for n, (pair, up, step_ns) in enumerate(script):
        now = max(0, now + step_ns)
        clock = max(clock, now)
        frames[n]["time_ns"] = now
        ends = (2 * pair, 2 * pair + 1)
        packets[n]["src_lo"], packets[n]["dst_lo"] = ends[::-1] if up else ends
        flow = live.get(pair)
        if flow and clock - flow[4] >= 10 * SECOND_NS:
            flow = None
        if flow is None:
            opened += 1
            flow = live[pair] = [opened, opened, 1, clock, clock, up]
        elif clock - flow[3] >= 20 * SECOND_NS:
            opened += 1
            flow = live[pair] = [opened, flow[1], flow[2] + 1, clock, clock, flow[5]]
        flow[4] = clock
        numbers.append(flow[0])
        from_responder.append(up != flow[5])
        ranks[flow[0]] = (flow[1], flow[2])
    table = FlowTable(Options(idle_timeout_other_ns=10 * SECOND_NS, active_timeout_ns=20 * SECOND_NS))
    found, sides, ended = [], [], []
    for at in range(0, len(script), batch):
        marks = table.track(frames[at : at + batch], packets[at : at + batch], at + 1)
        found += marks["flow"].tolist()
        sides += [bool(mark & FROM_RESPONDER) for mark in marks["direction"].tolist()]
        ended.append(table.drain())
    table.end()
    rows = np.concatenate([*ended, table.drain()])
    assert (found, sides) == (numbers, from_responder)
    assert {int(row["number"]): (int(row["parent"]), int(row["segment"])) for row in rows} == ranks
