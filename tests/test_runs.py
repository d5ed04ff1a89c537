"""The room `runs`: the short way through the table gives what the long way gives, and plain frames take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.decode import decode_batch
from traceflow.framelists import FrameMap
from traceflow.options import PROFILES, Options, options_for
from traceflow.packets import FRAME, PACKET
from traceflow.sources import open_source
from traceflow.table import FROM_UPPER, FlowTable
from traceflow.tcp import ACK, FIN, PSH, RST, SYN

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ALL_KNOWN = 1 | 2 | 4 | 32  # sequence and acknowledgment number, flags, window
TCP, UDP, ICMP = 6, 17, 1


def traced(frames: Any, packets: Any, options: Options, *, quick: bool, batch: int = 64) -> tuple[Any, ...]:
    """Marks, flows, and what became of the frames."""
    table, marks, packets = FlowTable(options, seed=1), [], packets.copy()
    table._state["quick"] = quick
    for at in range(0, len(frames), batch):
        some = slice(at, at + batch)
        marks += table.track(frames[some], packets[some], at + 1).tolist()
    table.end()
    flows = table.drain()
    return marks, [repr(row) for row in flows.tolist()], packets["verdict"].tolist(), table.account(), table.clock_ns


def decoded(path: Path) -> tuple[Any, Any]:
    frames, packets = [np.zeros(0, FRAME)], [np.zeros(0, PACKET)]
    with open_source(path) as captures:
        for batch in captures.batches():
            frames.append(batch.frames.copy())
            packets.append(decode_batch(batch.octets, batch.frames, np.zeros(len(batch.frames), PACKET)).copy())
    return np.concatenate(frames), np.concatenate(packets)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_both_ways_agree_on_the_fixtures(profile: str) -> None:
    for path in sorted(FIXTURES.glob("*.pcap")):
        frames, packets = decoded(path)
        options = options_for(profile)
        assert traced(frames, packets, options, quick=True) == traced(frames, packets, options, quick=False), path.name


MS_NS, SECOND_NS = 10**6, 10**9
NEXT = st.tuples(
    st.sampled_from([0, 0, 1, 2]),  # which of three flows
    st.booleans(),  # who sends
    st.sampled_from([ACK, ACK | PSH]),
    st.sampled_from([0, 1, 100]),  # octets
    st.just(0),
    st.just(0),
    st.sampled_from(
        [0, 1, MS_NS, MS_NS, SECOND_NS, 70 * SECOND_NS, 400 * SECOND_NS, 4000 * SECOND_NS]
    ),  # ns since the frame before
    st.just(0),
    st.just(0),
)
"""A segment that is the next one."""
ANY = st.tuples(
    st.sampled_from([0, 0, 1, 2]),
    st.booleans(),
    st.sampled_from([ACK, ACK, ACK | PSH, SYN, SYN | ACK, FIN | ACK, RST, 0]),
    st.sampled_from([0, 0, 1, 100]),
    st.sampled_from([0, 0, 0, 1, -1, -100, 2**31]),  # number beside the next one
    st.sampled_from([0, 0, 0, -1, 50]),  # acknowledged beside what was sent
    st.sampled_from([0, 1, MS_NS, -5, -2 * SECOND_NS, 4 * SECOND_NS]),
    st.sampled_from([0, 0, 0, 8, 16, 64]),  # FRAGMENT, BAD_CHECKSUM, DUPLICATE
    st.sampled_from([0, 0, 0, 1, 2, 4]),  # window 0, no time, number not captured and another VLAN
)
OPENS = st.tuples(
    st.sampled_from([0, 0, 1]),
    st.booleans(),
    st.sampled_from([SYN, SYN | ACK]),
    st.sampled_from([0, 0, 0, 5]),
    *map(st.just, (0, 0, MS_NS, 0, 0)),
)
"""A segment of a handshake."""
OPENING = [
    (flow, side, flags, octets, 0, 0, MS_NS, 0, 0)
    for flow in range(3)
    for side, flags, octets in [(False, SYN, 0), (True, SYN | ACK, 0), (False, ACK, 0), (True, ACK, 5), (False, ACK, 5)]
]
"""Three connections, open in both directions."""


def frames_of(steps: list[Any], protocol: int) -> tuple[Any, Any]:
    """A dialogue of three flows in which most segments are the next ones."""
    frames, packets = np.zeros(len(steps), FRAME), np.zeros(len(steps), PACKET)
    sent = {(flow, side): 2**32 - 150 if flow else 1000 for flow in range(3) for side in (False, True)}
    time_ns = 10**18
    for row, frame, step in zip(packets, frames, steps, strict=True):
        flow, side, flags, octets, off, ack_off, gap_ns, bits, odd = step
        time_ns += gap_ns
        frame["time_ns"], frame["wire"], frame["captured"] = time_ns, 54 + octets, 54
        frame["time_bits"] = 2 if odd == 2 else 0
        ends = [(0xFFFF00000001, 1000 + flow), (0xFFFF00000002, 80)]
        (row["src_lo"], row["src_port"]), (row["dst_lo"], row["dst_port"]) = ends[side], ends[not side]
        row["ip_version"], row["protocol"] = 4, protocol
        row["vlan_outer"] = 7 if odd == 4 else 0
        row["ip_octets"], row["payload_octets"] = 40 + octets, octets
        row["options"], row["bits"] = 16, bits | (ALL_KNOWN & ~(1 if odd == 4 else 0) if protocol == TCP else 0)
        if protocol == TCP:
            row["flags"], row["window"] = flags, 0 if odd == 1 else 1000
            row["seq"] = (sent[flow, side] + off) % 2**32
            row["ack"] = (sent[flow, not side] + ack_off) % 2**32 if flags & ACK else 0
            taken = octets + (flags & (SYN | FIN) != 0)
            sent[flow, side] = (sent[flow, side] + off + taken) % 2**32
    return frames, packets


@settings(deadline=None)
@given(
    steps=st.lists(st.one_of(NEXT, NEXT, NEXT, ANY), max_size=60),
    protocol=st.sampled_from([TCP, TCP, TCP, UDP, ICMP]),
    profile=st.sampled_from(sorted(PROFILES)),
    more=st.sampled_from([{}, {"analysis": False}, {"max_flows": 1}, {"key": ("vlan",)}, {"linger_ns": 10**9}]),
    batch=st.sampled_from([1, 5, 64]),
)
def test_both_ways_agree_on_any_dialogue(
    steps: list[Any], protocol: int, profile: str, more: dict[str, Any], batch: int
) -> None:
    """Most frames are the next ones of open connections, some are anything."""
    frames, packets = frames_of(OPENING + steps, protocol)
    options = options_for(profile, **more)
    short = traced(frames, packets, options, quick=True, batch=batch)
    assert short == traced(frames, packets, options, quick=False)


@settings(deadline=None, max_examples=300)
@given(
    steps=st.lists(st.one_of(NEXT, NEXT, OPENS, ANY), max_size=40),
    profile=st.sampled_from(sorted(PROFILES)),
    analysis=st.booleans(),
    batch=st.sampled_from([1, 64]),
)
def test_both_ways_agree_however_connections_begin(steps: list[Any], profile: str, analysis: bool, batch: int) -> None:
    """With a handshake, parts of one, or in midstream: the first segments of each kind take either way."""
    frames, packets = frames_of(steps, TCP)
    options = options_for(profile, analysis=analysis)
    short = traced(frames, packets, options, quick=True, batch=batch)
    assert short == traced(frames, packets, options, quick=False)


@settings(deadline=None)
@given(
    steps=st.lists(st.one_of(NEXT, NEXT, ANY), max_size=40),
    hints=st.lists(st.integers(0, 5), min_size=55, max_size=55),
)
def test_hints_decide_nothing(steps: list[Any], hints: list[int]) -> None:
    """Whatever another thread found in the index: rows of other flows, rows that are free, none."""
    frames, packets = frames_of(OPENING + steps, TCP)
    table, again = FlowTable(Options(), seed=1), packets.copy()
    marks = table.track(frames, again, 1, hints=np.array(hints[: len(frames)], np.uint32)).tolist()
    table.end()
    expected = traced(frames, packets, Options(), quick=False)
    assert (marks, [repr(row) for row in table.drain().tolist()]) == expected[:2]


@settings(deadline=None)
@given(steps=st.lists(st.one_of(NEXT, NEXT, ANY), max_size=60), batch=st.sampled_from([1, 5, 64]))
def test_rows_that_are_touched_beforehand_decide_nothing(steps: list[Any], batch: int) -> None:
    """Of 1 500 000 rows on they are; here of the first on, up to the end of each batch."""
    frames, packets = frames_of(OPENING + steps, TCP)
    table, again, marks = FlowTable(Options(), seed=1), packets.copy(), []
    state = table._state[0]
    state["many_rows"] = 0
    for at in range(0, len(frames), batch):
        some = slice(at, at + batch)
        marks += table.track(frames[some], again[some], 1 + at).tolist()
        assert at == 0 or state["touched"] == len(frames[some])
    table.end()
    expected = traced(frames, packets, Options(), quick=False)
    assert (marks, [repr(row) for row in table.drain().tolist()]) == expected[:2]


def test_few_rows_are_not_touched_beforehand() -> None:
    frames, packets = frames_of(OPENING, TCP)
    table = FlowTable(Options(), seed=1)
    for at in (0, len(frames)):
        table.track(frames, packets, 1 + at)
        assert table._state[0]["touched"] == 0


def test_hints_of_a_batch_are_the_rows_of_live_flows() -> None:
    """Flows 1 to 3 have the rows 1 to 3, each plus one; a packet of no live flow has none."""
    frames, packets = frames_of(OPENING, TCP)
    table, nothing = FlowTable(Options(), seed=1), np.zeros(len(frames), np.uint32)
    hashes = table.hash_keys(packets, nothing.copy())
    assert table.find_hints(hashes, nothing.copy()).tolist() == [0] * 15
    table.track(frames, packets, 1)
    assert table.find_hints(hashes, nothing.copy()).tolist() == [1] * 5 + [2] * 5 + [3] * 5


def handshake_and(*steps: tuple[bool, int, int]) -> tuple[Any, Any]:
    """One connection: its handshake, a segment of data each way, then some (sender, flags, octets)."""
    opening = [(False, SYN, 0), (True, SYN | ACK, 0), (False, ACK, 0), (False, ACK | PSH, 10), (True, ACK | PSH, 10)]
    rest = [*opening, (False, ACK, 0), (True, ACK, 0), *steps]
    return frames_of([(0, side, flags, octets, 0, 0, 1000, 0, 0) for side, flags, octets in rest], TCP)


@pytest.mark.parametrize(
    ("step", "short"),
    [
        ((False, ACK, 100), True),
        ((True, ACK | PSH, 100), True),
        ((True, ACK, 0), True),
        ((False, ACK | FIN, 0), False),
        ((False, RST, 0), False),
        ((False, SYN, 0), False),
    ],
)
def test_what_takes_the_short_way(step: tuple[bool, int, int], short: bool) -> None:
    """A frame in the middle of a batch is handled in the run before it where it is plain; else the run ends there.

    Told by the room for flows that end: none is left, so that the long way, which may need some, stops the kernel.
    """
    frames, packets = handshake_and(step)
    table = FlowTable(Options(), seed=1)
    table.track(frames[:-1], packets[:-1], 1)
    stopped: list[int] = []
    take_gone = table._take_gone

    def note() -> None:
        stopped.append(int(table._state["at"][0]))
        table._state["ended"] = 0
        take_gone()

    table._take_gone = note  # type: ignore[method-assign]
    table._state["ended"] = 256
    table.track(frames[-1:], packets[-1:], len(frames))
    assert stopped == ([] if short else [0])


@pytest.mark.parametrize(
    ("dialogue", "history", "repeats"),
    [
        # Data behind its own FIN is an island, which later repetitions are held against.
        (
            [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0), (0, FIN | ACK, 0), (0, ACK, 9), (1, ACK, 0), (0, ACK, 9, -9)],
            b"ShAFDaT",
            1,
        ),
        # More than 2 GiB behind a FIN, and then the first data of the other side, whose ACK tells of a gap by that.
        (
            [
                *[(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0), (0, ACK, 10), (1, ACK, 0)],
                *[(0, FIN | ACK, 0), (1, ACK, 0), (0, ACK, 2**30), (0, ACK, 2**30)],
                *[(1, ACK, 100), (0, ACK, 10), (1, FIN | ACK, 0), (0, ACK, 0)],
            ],
            b"ShADaFdGf",
            0,
        ),
        # Who acknowledges after a SYN+ACK that opened the flow is its responder; before it, a segment without a letter.
        ([(0, SYN | ACK, 0), (1, 0, 0), (0, ACK, 0), (1, ACK, 9)], b"^haD", 0),
    ],
)
def test_first_segments_that_are_not_plain(dialogue: list[Any], history: bytes, repeats: int) -> None:
    """A batch a frame, so that each flow is known when its next frame is looked up."""
    steps = [(0, bool(side), flags, octets, *(off or [0]), 0, 1000, 0, 0) for side, flags, octets, *off in dialogue]
    frames, packets = frames_of(steps, TCP)
    for quick in (True, False):
        table = FlowTable(options_for("zeek"), seed=1)
        table._state["quick"] = quick
        for at in range(len(frames)):
            table.track(frames[at : at + 1], packets[at : at + 1], at + 1)
        table.end()
        (flow,) = table.drain()
        assert (flow["history"], flow["orig"]["retransmitted_segments"]) == (history, repeats)


def test_first_data_and_first_acknowledgments_take_the_short_way() -> None:
    """All that follows the handshake does; the letters are written as on the long way. Told as above."""
    kinds = [(False, ACK, 0), (True, ACK | PSH, 5), (False, ACK, 7), (True, ACK, 0), (False, ACK, 9), (True, ACK, 9)]
    opening = [(False, SYN, 0), (True, SYN | ACK, 0)]
    steps = [(0, side, flags, octets, 0, 0, 1000, 0, 0) for side, flags, octets in opening + kinds]
    frames, packets = frames_of(steps, TCP)
    table = FlowTable(Options(), seed=1)
    table.track(frames[:2], packets[:2], 1)
    table._state["ended"] = 256

    def long_way() -> None:
        raise AssertionError(f"frame {table.handled + 1} took the long way")

    take_gone, table._take_gone = table._take_gone, long_way  # type: ignore[method-assign]
    table.track(frames[2:], packets[2:], 3)
    table._state["ended"] = 0
    table._take_gone = take_gone  # type: ignore[method-assign]
    table.end()
    (flow,) = table.drain()
    assert flow["history"] == b"ShAdDa"
    assert (flow["orig"]["packets"], flow["resp"]["packets"]) == (4, 4)


@pytest.mark.parametrize(
    ("profile", "gap_ns", "odd", "flow", "jumps", "back"),
    [
        ("default", 1, 0, 1, 0, 0),
        ("default", 400 * SECOND_NS, 0, 4, 0, 0),  # its idle timeout, 300 s, was over
        ("default", 4000 * SECOND_NS, 0, 4, 1, 0),
        ("tshark", 400 * SECOND_NS, 0, 1, 0, 0),  # none there
        ("tshark", 4000 * SECOND_NS, 0, 1, 1, 0),  # longer than an hour
        ("default", -5, 0, 1, 0, 1),
        ("default", 1, 4, 4, 0, 0),  # another VLAN, which belongs to the key here
        ("default", 5, 2, 1, 0, 0),  # it has no time
    ],
)
def test_what_else_ends_a_run(profile: str, gap_ns: int, odd: int, flow: int, jumps: int, back: int) -> None:
    """The next segment of the first of three open connections, which the clock or the key sends the long way."""
    frames, packets = frames_of([*OPENING, (0, True, ACK, 100, 0, 0, gap_ns, 0, odd)], TCP)
    table = FlowTable(options_for(profile, key=("vlan",)), seed=1)
    marks = table.track(frames, packets, 1)
    assert marks["flow"].tolist() == [1] * 5 + [2] * 5 + [3] * 5 + [flow]
    assert table.clock_ns == 10**18 + 15 * MS_NS + (0 if odd == 2 else max(gap_ns, 0))
    table.end()
    account = table.account()
    assert (account.forward_jumps, account.frames_out_of_order) == (jumps, back)


def test_datagrams_of_a_profile_of_tcp_alone() -> None:
    frames, packets = frames_of([(0, False, 0, 100, 0, 0, MS_NS, 0, 0)] * 5, UDP)
    marks = FlowTable(options_for("pcapkit"), seed=1).track(frames, packets, 1)
    assert marks["flow"].tolist() == [0] * 5


def test_numbers_of_a_run() -> None:
    """Five frames that take the short way, counted by hand; frame lists too."""
    steps = [(True, ACK, 100), (False, ACK, 0), (True, ACK | PSH, 200), (False, ACK, 0), (False, ACK, 300)]
    frames, packets = handshake_and(*steps)
    table, frame_map = FlowTable(Options(), seed=1), FrameMap()
    frame_map.add(table.track(frames, packets, 1), FROM_UPPER)
    table.end()
    (flow,) = table.drain()
    assert flow["orig"]["packets"] == 4 + 3
    assert flow["resp"]["packets"] == 3 + 2
    assert flow["orig"]["payload_octets"] == 10 + 300
    assert flow["resp"]["payload_octets"] == 10 + 300
    assert flow["orig"]["payload_packets"] == 2
    assert flow["resp"]["payload_packets"] == 3
    assert flow["resp"]["flags"].tolist() == [0, 1, 0, 2, 5, 0, 0, 0]
    assert flow["last_ns"] == 10**18 + 12 * 1000
    assert frame_map.frames_of(1).tolist() == list(range(1, 13))
    assert table.account().in_flows == 12
