"""The room `pipeline`: whole runs. Chunking cannot matter, several captures are one, and bad files cost no flows."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import SECOND_NS, Exchange, Wire
from make import long_flow
from oracle import trace_capture

import traceflow
from traceflow import trace
from traceflow.callbacks import CallbackWarning
from traceflow.errors import (
    CannotReadError,
    IncompleteWarning,
    NotACaptureError,
    TraceflowError,
    TruncatedCaptureError,
    UsageError,
)
from traceflow.flows import EndCause, Flow, FlowSet
from traceflow.options import options_for
from traceflow.packets import Verdict
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
INCOMPLETE = "ignore::traceflow.errors.IncompleteWarning"


@dataclass
class Everything:
    """All that a run gives: rows of frames, flows in the order in which they ended, and the set of flows."""

    frames: list[Any]
    packets: list[Any]
    marks: list[Any]
    quoted: list[Any]
    ended: list[int]
    flows: FlowSet


def run_all(
    paths: list[Path], *, batch_frames: int, read_octets: int, profile: str = "default", **options: Any
) -> Everything:
    found = Everything([], [], [], [], [], None)  # type: ignore[arg-type]
    with open_source(*paths, batch_frames=batch_frames, read_octets=read_octets) as captures:
        run = Run(captures, options_for(profile, **options))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            assert len(step.packets) == len(step.marks)
            if step.batch is None:
                assert len(step.packets) == 0
            else:
                assert 0 < len(step.batch.frames) <= batch_frames
                frames = step.batch.frames.copy()
                frames["start"] = 0  # where a frame lies in the buffer of its batch is the one thing that differs
                found.frames += frames.tolist()
            found.packets += step.packets.tolist()
            found.marks += step.marks.tolist()
            found.quoted += step.quoted.tolist()
            found.ended += step.ended["number"].tolist()
        found.flows = collector.flows()
    return found


def assert_same(one: Everything, two: Everything) -> None:
    assert one.frames == two.frames
    assert one.packets == two.packets
    assert one.marks == two.marks
    assert one.quoted == two.quoted
    assert one.ended == two.ended
    assert np.array_equal(one.flows.columns, two.flows.columns)
    for a, b in zip(one.flows.frame_map.lists(), two.flows.frame_map.lists(), strict=True):
        assert np.array_equal(a, b)
    numbers = np.arange(1, len(one.frames) + 1)
    assert np.array_equal(one.flows.frame_map.packed(numbers), two.flows.frame_map.packed(numbers))
    assert one.flows.account == two.flows.account
    assert [str(error) for error in one.flows.errors] == [str(error) for error in two.flows.errors]
    assert one.flows.interfaces == two.flows.interfaces
    assert [flow.label for flow in one.flows] == [flow.label for flow in two.flows]


CHUNKS = [(1, 1 << 20), (7, 1 << 20), (4096, 1), (1, 1), (7, 333)]


# --- invariant 1: chunking cannot matter -------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_chunking(name: str) -> None:
    """Every fixture: 4096 frames a batch against 1 and 7, reads of 1 MiB against reads of 1 octet."""
    paths = [FIXTURES / file for file in EXPECTED[name]["files"]]
    for profile, options in (("default", {}), ("default", {"max_flows": 2}), ("pcapkit", {})):
        whole = run_all(paths, batch_frames=4096, read_octets=1 << 20, profile=profile, **options)
        assert len(whole.frames) == EXPECTED[name]["frames"]
        for batch_frames, read_octets in CHUNKS:
            part = run_all(paths, batch_frames=batch_frames, read_octets=read_octets, profile=profile, **options)
            assert_same(whole, part)


@pytest.mark.slow_plain("40 000 frames, four times")
def test_chunking_of_a_long_flow(tmp_path: Path) -> None:
    """T17: 40 000 frames in one flow; odd ones by the originator, even ones by the responder."""
    path = tmp_path / "T17.pcap"
    long_flow(path)
    whole = run_all([path], batch_frames=4096, read_octets=1 << 20)
    (flow,) = whole.flows
    assert flow.frames.tolist() == list(range(1, 40_001))
    assert flow.frames_from("orig").tolist() == list(range(1, 40_001, 2))
    assert (flow.orig_port, flow.end_cause) == (1000, EndCause.END_OF_INPUT)
    for batch_frames, read_octets in ((1, 1 << 20), (7, 1 << 20), (4096, 4096)):
        assert_same(whole, run_all([path], batch_frames=batch_frames, read_octets=read_octets))


def test_batches_that_end_flows_of_earlier_batches(tmp_path: Path) -> None:
    """Timeouts fall into every place of a batch: 300 UDP flows, 7 s apart, each spoken to once more 50 s later."""
    wire = Wire()
    for n in range(300):
        Exchange(f"10.0.1.{n % 250}:{1000 + n}", "10.0.0.2:53", wire=wire).a.udp()
        if n >= 7:
            Exchange(f"10.0.1.{(n - 7) % 250}:{1000 + n - 7}", "10.0.0.2:53", wire=wire).b.udp()
        wire.wait(s=7)
    path = wire.pcap(tmp_path)
    whole = run_all([path], batch_frames=4096, read_octets=1 << 20)
    due = {flow.number: (flow.last_ns, flow.number) for flow in whole.flows}
    assert whole.ended == sorted(due, key=lambda number: due[number])
    assert whole.flows.account.causes[EndCause.IDLE] > 250
    for batch_frames in (1, 2, 3, 5, 64):
        assert_same(whole, run_all([path], batch_frames=batch_frames, read_octets=100))


# --- invariant 2: every frame is accounted for --------------------------------------------------------------------


@pytest.mark.filterwarnings(INCOMPLETE)
@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name]["frames"]])
@pytest.mark.parametrize("profile", ["default", "pcapkit"])
def test_every_frame_is_in_one_flow_or_under_one_verdict(name: str, profile: str) -> None:
    flows = trace(*[FIXTURES / file for file in EXPECTED[name]["files"]], profile=profile)
    account = flows.account
    numbers = np.concatenate([np.zeros(0, int), *[flow.frames for flow in flows]])
    assert len(np.unique(numbers)) == len(numbers) == account.in_flows
    assert set(numbers.tolist()) <= set(range(1, account.frames + 1))
    assert account.frames == account.in_flows + sum(account.verdicts.values()) == EXPECTED[name]["frames"]
    assert account.flows == len(flows) == sum(account.causes.values())
    assert [flow.number for flow in flows] == list(range(1, len(flows) + 1))
    for flow in flows:
        assert flow.packets == len(flow.frames)
        assert flow.frames.tolist() == sorted(flow.frames_from("orig").tolist() + flow.frames_from("resp").tolist())
        opened = min(half.opened_frame for half in (flow.orig, flow.resp) if half.packets)
        # A flow opens with the frame that shows its ports; fragments before that one belong to it all the same.
        assert flow.frames[0] == opened or (flow.frames[0] < opened and account.fragments_late)
    firsts = [min(half.opened_frame for half in (flow.orig, flow.resp) if half.packets) for flow in flows]
    assert firsts == sorted(firsts), "numbered in opening order"


@pytest.mark.parametrize("source", ["path", "text", "file"])
def test_kinds_of_sources(source: str) -> None:
    path = FIXTURES / "T01.pcap"
    if source == "file":
        with path.open("rb") as file:
            flows = trace(file)
    else:
        flows = trace(path if source == "path" else str(path))
    assert [flow.frames.tolist() for flow in flows] == [list(range(1, 11))]
    assert flows.errors == []


# --- several captures ---------------------------------------------------------------------------------------------


def test_flows_go_on_across_captures() -> None:
    """T29: one connection cut over two files; frames have a running number."""
    flows = trace(FIXTURES / "T29a.pcap", FIXTURES / "T29b.pcap")
    assert [flow.frames.tolist() for flow in flows] == [list(range(1, 11))]
    assert [interface.source_index for interface in flows.interfaces] == [0, 1]
    with open_source(FIXTURES / "T29a.pcap", FIXTURES / "T29b.pcap") as captures:
        places = [(batch.first_number, batch.first_in_file) for batch in captures.batches()]
    assert [place[1] for place in places] == [1, 1]
    assert places[1][0] > 1


def test_many_captures_are_as_one(tmp_path: Path) -> None:
    """Frame by frame in 10 files, over two link types and two clock resolutions."""
    talk = Exchange()
    talk.connection()
    paths = []
    for n, frame in enumerate(talk.wire.frames):
        raw = n % 2
        wire = Wire(link=101 if raw else 1)
        wire.at(frame.time_ns)
        wire.frame(frame.octets[14:] if raw else frame.octets)
        paths.append(wire.pcap(tmp_path / f"{n}.pcap", nanosecond=n % 3 == 0))
    flows = trace(*paths)
    assert [flow.frames.tolist() for flow in flows] == [list(range(1, 11))]
    assert flows[0].end_cause == EndCause.FIN
    result = trace_capture(paths)
    assert [flow.frames for flow in result.flows] == [list(range(1, 11))]


def test_the_same_capture_twice() -> None:
    """20 frames; the second SYN has the number of the first, so it is a retransmission (flow-rules 5)."""
    flows = trace(FIXTURES / "T01.pcap", FIXTURES / "T01.pcap")
    assert [flow.frames.tolist() for flow in flows] == [list(range(1, 21))]
    assert flows.account.frames_out_of_order == 9, "all of the second file but its last, which equals the maximum"


# --- what is wrong with the input ---------------------------------------------------------------------------------


def test_a_missing_capture_costs_only_itself(tmp_path: Path) -> None:
    with pytest.warns(IncompleteWarning, match=r"missing\.pcap"):
        flows = trace(tmp_path / "missing.pcap", FIXTURES / "T01.pcap")
    assert [flow.frames.tolist() for flow in flows] == [list(range(1, 11))]
    assert [type(error) for error in flows.errors] == [CannotReadError]


def test_every_fault_is_listed(tmp_path: Path) -> None:
    (tmp_path / "text.pcap").write_text("this is no capture at all, only a text of some length")
    sources = [FIXTURES / "T32-cut.pcap", tmp_path / "text.pcap", tmp_path, FIXTURES / "T12a.pcap"]
    with pytest.warns(IncompleteWarning) as warned:
        flows = trace(*sources)
    assert [type(error) for error in flows.errors] == [TruncatedCaptureError, NotACaptureError, CannotReadError]
    assert len(warned) == 1
    for name in ("T32-cut.pcap", "text.pcap", tmp_path.name):
        assert name in str(warned[0].message)
    assert warned[0].filename == __file__, "the warning points at the caller"
    frames = EXPECTED["T32-cut"]["frames"] + EXPECTED["T12a"]["frames"]
    assert flows.account.frames == frames


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty"])
def test_nothing_readable_is_an_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "capture.pcap"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"just some text, and no capture")
    expected = CannotReadError if kind in ("missing", "folder") else NotACaptureError
    with pytest.raises(expected, match=r"capture\.pcap"):
        trace(path)


def test_no_source_at_all() -> None:
    with pytest.raises(TraceflowError, match="no capture was given"):
        trace()


def test_header_alone_is_a_capture_without_frames() -> None:
    flows = trace(FIXTURES / "T32-header-only.pcap")
    assert (len(flows), flows.account.frames, flows.account.flows) == (0, 0, 0)
    assert flows.frame_map.lists()[1].tolist() == []


def test_cut_capture_gives_its_flows_and_the_error() -> None:
    """T32-cut.pcap ends in frame 5 (fixtures/README.md)."""
    with pytest.warns(IncompleteWarning, match="T32-cut"):
        flows = trace(FIXTURES / "T32-cut.pcap")
    assert [flow.frames.tolist() for flow in flows] == [[1, 2, 3, 4]]
    (error,) = flows.errors
    assert isinstance(error, TruncatedCaptureError)
    assert error.file.endswith("T32-cut.pcap")
    assert error.had is not None
    assert error.needed is not None
    assert error.had < error.needed
    assert error.offset <= (FIXTURES / "T32-cut.pcap").stat().st_size


@pytest.mark.filterwarnings(INCOMPLETE)
def test_cut_anywhere_gives_the_frames_before() -> None:
    """T01 cut behind each octet: frames whose record is complete, by the lengths that this test wrote itself."""
    octets = (FIXTURES / "T01.pcap").read_bytes()
    ends, at = [], 24
    while at < len(octets):
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]
        ends.append(at)
    assert len(ends) == 10
    for cut in range(len(octets) + 1):
        try:
            flows = trace(io.BytesIO(octets[:cut]))
        except (NotACaptureError, TruncatedCaptureError):
            assert cut < 24
            continue
        assert cut >= 24
        assert flows.account.frames == sum(end <= cut for end in ends)
        assert bool(flows.errors) == (cut not in (24, *ends))


# --- limit, stop, options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 4, 9, 10, 11, 10**9])
def test_limit(limit: int) -> None:
    flows = trace(FIXTURES / "T01.pcap", FIXTURES / "T12a.pcap", limit=limit)
    frames = min(limit, 10 + EXPECTED["T12a"]["frames"])
    assert flows.account.frames == frames
    assert sum(len(flow.frames) for flow in flows) == frames
    assert not flows.account.interrupted


def test_stop_ends_the_flows_of_what_was_read() -> None:
    with open_source(FIXTURES / "T01.pcap", batch_frames=4) as captures:
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            run.stop()
        flows = collector.flows()
    assert [flow.frames.tolist() for flow in flows] == [[1, 2, 3, 4]]
    assert flows.account.interrupted
    assert flows[0].end_cause == EndCause.END_OF_INPUT


def test_flows_come_in_the_step_in_which_they_end() -> None:
    """T05: the SYN in frame 7 ends flow 1 at once; flow 2 lives to the end of the input."""
    with open_source(FIXTURES / "T05.pcap", batch_frames=1) as captures:
        steps = [step.ended["number"].tolist() for step in Run(captures, options_for()).steps()]
    assert steps == [[]] * 6 + [[1]] + [[]] * 9 + [[2]]


# --- on_flow_end -------------------------------------------------------------------------------------------------


def test_a_callback_hears_of_each_flow_once_as_it_ends() -> None:
    """T15g: 1 is silent for 70 s and ends first; 2 and 3, its successor, with the input."""
    heard: list[tuple[int, str, list[int], int]] = []

    def ended(flow: Flow) -> None:
        heard.append((flow.number, flow.end_cause.text, flow.frames.tolist(), flow.packets))

    flows = trace(FIXTURES / "T15g.pcap", on_flow_end=ended)
    assert heard[0] == (1, "idle", [1], 1)
    assert sorted(heard[1:]) == [(2, "end of input", [2, 3, 5], 3), (3, "end of input", [4], 1)]
    assert len(flows) == 3


def test_what_a_callback_raises_is_told_and_costs_nothing() -> None:
    heard: list[int] = []

    def ended(flow: Flow) -> None:
        heard.append(flow.number)
        raise RuntimeError("the user's fault")

    with pytest.warns(CallbackWarning, match="failed on flow (.|\n)*the user's fault") as caught:
        flows = trace(FIXTURES / "T02.pcap", on_flow_end=ended)
    assert (heard, len(caught), len(flows)) == ([1, 2], 2, 2)


@pytest.mark.parametrize("wrong", [{"profile": "nope"}, {"max_flow": 3}, {"max_flows": 0}, {"limit": -1}])
def test_wrong_options_are_refused_before_anything_is_read(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        trace(tmp_path / "missing.pcap", **wrong)


def test_options_reach_the_table() -> None:
    talk = Exchange()
    talk.a.udp()
    talk.wait(s=5)
    talk.a.udp()
    octets = talk.wire.pcap_octets()
    assert len(trace(io.BytesIO(octets))) == 1
    assert len(trace(io.BytesIO(octets), idle_timeout_other_ns=5 * SECOND_NS)) == 2
    assert trace(io.BytesIO(octets), profile="pcapkit").account.verdicts[Verdict.NOT_TCP] == 2


def test_a_pipe_is_read_like_a_file() -> None:
    """Standard input of another process; what cannot be read twice gives the same flows."""
    script = "import traceflow; print([f.frames.tolist() for f in traceflow.trace('-')])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=(FIXTURES / "T02.pcap").read_bytes(),
        cwd=Path(traceflow.__file__).resolve().parents[1],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == [list(range(1, 11)), list(range(11, 21))]


@pytest.mark.slow_plain("100 064 frames")
def test_100_000_flows_at_once_in_a_table_of_64() -> None:
    """Case T30: each flow beyond the 64th evicts the oldest (flowEndReason 5, lack of resources).

    100 000 UDP flows of one frame, 1 us apart; then one frame more of each of the last 64, which are still live.
    """
    ends = [*range(100_000), *range(99_936, 100_000)]
    frames = []
    for number, end in enumerate(ends):
        head = struct.pack(">BBHHHBBH4sI", 0x45, 0, 28, 0, 0, 64, 17, 0, b"\x0a\0\0\1", 0x0B000000 + end)
        frames.append(struct.pack("<IIII", 0, number, 28, 28) + head + struct.pack(">HHHH", 1000, 53, 8, 0))
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + b"".join(frames)
    flows = trace(io.BytesIO(capture), max_flows=64)
    account = flows.account
    assert (account.frames, account.in_flows, account.flows) == (100_064, 100_064, 100_000)
    assert {cause.text: count for cause, count in account.causes.items() if count} == {
        "evicted": 99_936,
        "end of input": 64,
    }
    assert set(flows.columns["end_reason"][:99_936].tolist()) == {5}
    assert set(flows.columns["end_reason"][99_936:].tolist()) == {4}
    assert flows.columns["number"].tolist() == list(range(1, 100_001))
    assert flows[99_936].frames.tolist() == [99_937, 100_001]
    assert flows[-1].frames.tolist() == [100_000, 100_064]
