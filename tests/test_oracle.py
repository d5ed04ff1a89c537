"""The oracle against the hand counts of fixtures/expected.json, against seeds of the rules, and against tshark."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from exchange import ACK, RST, SECOND_NS, SYN, Exchange
from oracle import Result, trace_capture

pytestmark = pytest.mark.once("the oracle has nothing of the package, so no kernels, and is the same on every Python")

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SHARED = FIXTURES.parent.parent / "shared"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
MORE = ("payload_octets", "conn_state", "history")  # of a flow, where they were counted
TSHARK = shutil.which("tshark")
ANALYSIS = (
    *("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment"),
    *("ack_lost_segment", "duplicate_ack", "keep_alive", "keep_alive_ack", "zero_window", "zero_window_probe"),
    *("zero_window_probe_ack", "window_update", "window_full", "reused_ports"),
)


def traced(name: str, **rules: Any) -> Result:
    return trace_capture([FIXTURES / file for file in EXPECTED[name]["files"]], **rules)


def partition(flow_of_frame: Iterable[tuple[int, object]]) -> list[list[int]]:
    """Frames that belong together, from (frame, name of what it belongs to)."""
    together: dict[object, list[int]] = {}
    for frame, flow in flow_of_frame:
        together.setdefault(flow, []).append(frame)
    return sorted(together.values())


def frames_of(result: Result) -> list[list[int]]:
    return [flow.frames for flow in result.flows]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("T19", "T24c")])  # it opens no tunnels
def test_hand_count(name: str) -> None:
    expected = EXPECTED[name]
    result = traced(name)
    assert [
        {
            "protocol": flow.protocol,
            "orig": list(flow.orig),
            "resp": list(flow.resp),
            "frames": flow.frames,
            "orig_frames": flow.orig_frames,
            "resp_frames": flow.resp_frames,
            "cause": flow.cause,
        }
        for flow in result.flows
    ] == [{key: value for key, value in flow.items() if key not in MORE} for flow in expected["flows"]]
    assert result.verdicts == expected["verdicts"]
    assert result.error == expected["error"]
    assert len(result.frame_flow) == expected["frames"]
    assert result.frames_out_of_order == expected["frames_out_of_order"]
    assert result.frame_quoted == {int(frame): flow for frame, flow in expected.get("quoted", {}).items()}
    if "times_ns" in expected:
        assert result.times_ns == expected["times_ns"]


@functools.cache
def said_by_tshark(file: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """One start of tshark a capture, for all tests: a row a frame of its number, streams, and flags of the analysis."""
    fields = ["frame.number", "tcp.stream", "udp.stream", *(f"tcp.analysis.{flag}" for flag in ANALYSIS)]
    command = [str(TSHARK), "-n", "-r", str(FIXTURES / file), "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run, [line.split("\t") for line in run.stdout.splitlines()]


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if case["tshark_streams"]])
def test_hand_count_is_what_tshark_says(name: str) -> None:
    """TCP and UDP frames: same stream in tshark, same flow in the hand count; one file each."""
    (file,) = EXPECTED[name]["files"]
    run, rows = said_by_tshark(file)  # its exit code is not looked at: a file that is cut on purpose makes it 2
    streams = partition((int(number), (tcp, udp)) for number, tcp, udp, *_ in rows if tcp or udp)
    expected = [flow["frames"] for flow in EXPECTED[name]["flows"] if flow["protocol"] in (6, 17)]
    assert streams == sorted(expected), run.stderr


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if "analysis" in case])
def test_analysis_by_hand_is_what_tshark_says(name: str) -> None:
    """Every frame has the flags that were counted, and no others (tshark 4.0.17; its two errors are in the case)."""
    case = EXPECTED[name]
    (file,) = case["files"]
    run, rows = said_by_tshark(file)
    run.check_returncode()
    said = {
        number: [flag for flag, value in zip(ANALYSIS, values, strict=True) if value] for number, _, _, *values in rows
    }
    assert len(said) == case["frames"]
    counted = case["analysis"] | case.get("tshark_analysis", {})
    assert {number: sorted(found) for number, found in said.items() if found} == {
        number: sorted(found) for number, found in counted.items() if found
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared with its corpus is not there")
def test_splits_of_the_corpus_are_those_of_tshark() -> None:
    """Without timeouts and linger, only SYNs split, by the rule of `tcp.stream` (tshark 4.0.17).

    Compared are the frames that both see as TCP and that have no second TCP layer (tunnels, quoted segments).
    """
    compared, wrong = 0, []
    with (SHARED / "oracle" / "captures.tsv").open(encoding="utf-8", newline="") as table:
        captures = [row for row in csv.DictReader(table, delimiter="\t") if not row["compressed"]]
    for row in captures:
        capture = SHARED / "corpus" / row["path"]
        streams = SHARED / "oracle" / "tshark" / (row["path"] + ".tsv.gz")
        if not capture.exists() or not streams.exists() or capture.stat().st_size > 300_000:
            continue
        result = trace_capture(capture, idle_tcp_s=None, idle_other_s=None, linger_s=1e9)
        theirs: list[tuple[int, object]] = []
        with gzip.open(streams, "rt", encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                frame = int(line["frame"])
                flow = result.frame_flow[frame - 1] if frame <= len(result.frame_flow) else 0
                single = line["icmp_quoted"] == "0" and line["tcp_layers"] == "1"
                if single and flow and result.flows[flow - 1].protocol == 6:
                    theirs.append((frame, line["tcp_stream"]))
        compared += len(theirs)
        if partition(theirs) != partition((frame, result.frame_flow[frame - 1]) for frame, _ in theirs):
            wrong.append(row["path"])
    assert not wrong
    assert compared > 0


def test_files_on_disk_are_what_the_script_makes() -> None:
    script = FIXTURES / "make.py"
    run = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_long_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T17: odd frames from the originator, even ones from the responder (the ACK of the opening is frame 3)."""
    monkeypatch.syspath_prepend(str(FIXTURES))
    import make

    (flow,) = trace_capture(make.long_flow(tmp_path / "T17.pcap")).flows
    assert flow.orig_frames == list(range(1, 40_001, 2))
    assert flow.resp_frames == list(range(2, 40_001, 2))


def test_pcapkit_cuts_one_connection_into_three_buffers() -> None:
    """Measured on PyPCAPKit 0.15 to 1.5: a FIN closes its direction, and the last ACK is alone."""
    result = traced("T01", profile="pcapkit")
    assert frames_of(result) == [[1, 3, 4, 6, 7], [2, 5, 8, 9], [10]]
    assert [flow.cause for flow in result.flows] == ["fin", "fin", "end of input"]


def test_pcapkit_takes_tcp_alone() -> None:
    result = traced("T13", profile="pcapkit")  # UDP is 1, 2 and 13
    assert result.verdicts == {"not tcp": 3}
    assert frames_of(result) == [[3, 5, 6, 8, 9], [4, 7, 10, 11], [12]]


def test_pcapkit_ignores_syn_and_rst() -> None:
    """T04: the RST of frame 5 and the SYN of frame 6 do nothing; client FIN is 12, server FIN 14 (6 is its SYN)."""
    result = traced("T04", profile="pcapkit")
    assert frames_of(result) == [[1, 3, 4, 6, 8, 9, 11, 12], [2, 5, 7, 10, 13, 14], [15]]


def test_pcapkit_has_no_timeouts() -> None:
    assert frames_of(traced("T15a", profile="pcapkit")) == [[1, 3, 4, 6], [2, 5]]


def test_timeouts_can_be_changed(tmp_path: Path) -> None:
    talk = Exchange("10.0.0.1:1", "10.0.0.2:2")
    talk.a.udp(b"ask")
    talk.wait(s=5)
    talk.a.udp(b"ask")
    capture = talk.pcap(tmp_path)
    assert frames_of(trace_capture(capture, idle_other_s=5)) == [[1], [2]]
    assert frames_of(trace_capture(capture, idle_other_s=None)) == [[1, 2]]


def test_syn_of_a_direction_without_base_belongs(tmp_path: Path) -> None:
    """A RST without ACK tells nothing of the other side's numbers, so its SYN is no sign of a new connection."""
    talk = Exchange()
    talk.b.rst()
    talk.a.syn()
    result = trace_capture(talk.pcap(tmp_path))
    assert frames_of(result) == [[1, 2]]
    assert result.flows[0].orig == ("10.0.0.1", 1000)


def test_base_of_mid_stream_is_one_less(tmp_path: Path) -> None:
    """The first segment has 101, so 100 was the SYN's: a late SYN of that number belongs, one of 101 does not."""
    talk = Exchange()
    talk.a.data(b"late", seq=101)
    talk.a.syn(seq=100)
    talk.a.syn(seq=101)
    assert frames_of(trace_capture(talk.pcap(tmp_path))) == [[1, 2], [3]]


def test_base_from_the_acknowledgment_of_the_other_side(tmp_path: Path) -> None:
    talk = Exchange()
    talk.b.data(b"late", ack=0)  # so the number of the SYN was 2**32 - 1
    talk.a.syn(seq=2**32 - 1)
    talk.a.syn(seq=0)
    assert frames_of(trace_capture(talk.pcap(tmp_path))) == [[1, 2], [3]]


def test_linger_counts_from_the_last_frame(tmp_path: Path) -> None:
    """Frames 11 and 12 come 59 s after the one before each: they keep the flow; 13, after 60 s, does not belong."""
    talk = Exchange()
    talk.connection()
    for seconds in (59, 59, 60):
        talk.wait(s=seconds)
        talk.a.ack()
    assert frames_of(trace_capture(talk.pcap(tmp_path))) == [[*range(1, 13)], [13]]


def test_half_close_is_not_closing(tmp_path: Path) -> None:
    """FIN of one side only: 299 s of silence are allowed still."""
    talk = Exchange()
    talk.open()
    talk.a.fin()
    talk.wait(s=299)
    talk.b.data(b"late")
    assert frames_of(trace_capture(talk.pcap(tmp_path))) == [[1, 2, 3, 4, 5]]


def test_frames_without_flow_move_the_clock(tmp_path: Path) -> None:
    talk = Exchange("10.0.0.1:1", "10.0.0.2:2")
    talk.a.udp(b"ask")
    first_ns = talk.wire.frames[0].time_ns
    talk.wire.at(first_ns + 60 * SECOND_NS)
    talk.wire.frame(bytes(60))  # EtherType 0: neither IP nor a known 802.2 header
    talk.wire.at(first_ns + SECOND_NS)
    talk.a.udp(b"ask")
    result = trace_capture(talk.pcap(tmp_path))
    assert result.frame_flow == [1, 0, 2]


def test_equal_ends(tmp_path: Path) -> None:
    """A connection of a socket to itself neither crashes nor splits."""
    talk = Exchange("127.0.0.1:7", "127.0.0.1:7")
    talk.a.syn()
    talk.a.segment(SYN | ACK, seq=100, ack=101)
    talk.a.segment(ACK)
    assert frames_of(trace_capture(talk.pcap(tmp_path))) == [[1, 2, 3]]


def test_reset_from_both_sides_is_one_flow(tmp_path: Path) -> None:
    talk = Exchange()
    talk.open()
    talk.a.fin()
    talk.b.segment(RST | ACK)
    talk.a.rst()
    result = trace_capture(talk.pcap(tmp_path))
    assert frames_of(result) == [[1, 2, 3, 4, 5, 6]]
    assert result.flows[0].cause == "rst"
