"""The room `duplicates`: what a capture has twice. The definition is written down here once more, frame by frame."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import ETHER_ARP, LINK_ETHERNET, LINK_RAW, UDP, Exchange, Frame, Wire, ethernet, ipv4, pcap_octets, udp
from hypothesis import given
from hypothesis import strategies as st

import traceflow
from traceflow.cli.exits import Exit
from traceflow.decode import decode_batch
from traceflow.duplicates import REACH, DuplicateFinder
from traceflow.errors import TraceflowError, UsageError
from traceflow.flows import FlowSet
from traceflow.options import Options, options_for
from traceflow.packets import DUPLICATE, FRAME, NO_TIME, PACKET, Verdict
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source
from traceflow.tracer import TraceFlow

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
SOUND = [name for name, case in EXPECTED.items() if len(case["files"]) == 1 and case["error"] is None]
EDITCAP = shutil.which("editcap")
US_NS = 1000
WINDOW_NS = 500 * US_NS  # Options, vocabulary.md
NINE = b"nine byte"


def traced(capture: Path | Wire, *, batch_frames: int = 4096, **options: Any) -> tuple[list[int], FlowSet]:
    """Numbers of the duplicates, and the flows. Times of a wire keep their nanoseconds."""
    source = io.BytesIO(capture.pcap_octets(nanosecond=True)) if isinstance(capture, Wire) else capture
    found: list[int] = []
    with open_source(source, batch_frames=batch_frames) as captures:
        whole = Run(captures, options_for(**options))
        collector = FlowCollector(whole)
        for step in whole.steps():
            collector.take(step)
            if step.batch is not None:
                found += (np.flatnonzero(step.packets["bits"] & DUPLICATE) + step.batch.first_number).tolist()
        return found, collector.flows()


def duplicates(capture: Path | Wire, **options: Any) -> list[int]:
    found, flows = traced(capture, **options)
    assert flows.account.duplicates == len(found)
    return found


def datagram(payload: bytes = NINE, **fields: Any) -> bytes:
    """An Ethernet frame of 14 + 20 + 8 + 9 octets."""
    packet = ipv4("10.0.0.1", "10.0.0.2", UDP, udp("10.0.0.1", "10.0.0.2", 1000, 53, payload), **fields)
    return ethernet(packet, 0x0800)


def at_times(frames: Sequence[bytes], *times_ns: int) -> Wire:
    wire = Wire()
    for octets, time_ns in zip(frames, times_ns, strict=True):
        wire.at(time_ns)
        wire.frame(octets)
    return wire


# --- fixtures, and a second opinion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("T28", [2, 5, 7, 9, 13, 16]),  # counted in fixtures/analysis_cases.py, where the capture is made
        ("duplicates", list(range(2, 21, 2))),  # fixtures/tcp_cases.py: frame n of T01 is 2n - 1 and 2n
        ("T01", []),
        ("T06", []),  # SYNs sent again, after seconds
        ("T08b", []),  # an ACK sent again, after a millisecond
    ],
)
def test_fixtures_by_hand(name: str, numbers: list[int]) -> None:
    path = FIXTURES / f"{name}.pcap"
    for batch_frames in (1, 2, 4096):
        assert duplicates(path, batch_frames=batch_frames) == numbers


@pytest.mark.once("it starts editcap a hundred times")
@pytest.mark.skipif(EDITCAP is None, reason="editcap is not installed")
@pytest.mark.parametrize("name", SOUND)
def test_editcap_finds_as_many(name: str, tmp_path: Path) -> None:
    """`editcap -w 0.0005`; where it cannot write all kinds of frames into one file, it says no number (4.0.17)."""
    path = FIXTURES / EXPECTED[name]["files"][0]
    command = [str(EDITCAP), "-w", "0.0005", str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = re.search(r"(\d+) packets? skipped", done.stdout + done.stderr)
    if said is None:
        pytest.skip("editcap says no number")
    assert traceflow.trace(path).account.duplicates == int(said[1])


# --- what becomes of them ----------------------------------------------------------------------------------------


def test_removed() -> None:
    """T28 without 2, 5, 7, 9, 13, 16: nothing is sent twice any more but the question of 11, 2 s after 10."""
    _, flows = traced(FIXTURES / "T28.pcap", duplicates="remove")
    talk, name = flows
    assert (talk.frames_from("orig").tolist(), talk.frames_from("resp").tolist()) == ([1, 4, 6, 15], [3, 8])
    assert (name.frames_from("orig").tolist(), name.frames_from("resp").tolist()) == ([10, 11], [12, 14])
    assert (talk.history, talk.conn_state.name) == ("ShADdF", "S2")
    assert (talk.orig.payload_octets, talk.resp.payload_octets) == (3, 6)
    assert [half.retransmission + half.duplicate_ack for half in (talk.orig, talk.resp)] == [0, 0]
    account = flows.account
    assert (account.frames, account.in_flows, account.verdicts[Verdict.DUPLICATE]) == (16, 10, 6)
    assert sum(account.verdicts.values()) == 6


def test_counted_ones_stay_in_their_flows() -> None:
    _, counted = traced(FIXTURES / "T28.pcap")
    _, ignored = traced(FIXTURES / "T28.pcap", duplicates="ignore")
    assert (counted.account.duplicates, ignored.account.duplicates) == (6, None)
    assert counted.account.verdicts[Verdict.DUPLICATE] == 0
    assert np.array_equal(counted.columns, ignored.columns)


def test_one_that_is_in_no_flow_keeps_its_verdict() -> None:
    arp = ethernet(bytes.fromhex("0001080006040001") + bytes(20), ETHER_ARP)
    found, flows = traced(at_times([arp, arp], 0, 1), duplicates="remove")
    assert found == [2]
    assert (flows.account.verdicts[Verdict.NOT_IP], flows.account.verdicts[Verdict.DUPLICATE]) == (2, 0)


def test_removed_fragments_reach_no_datagram() -> None:
    """Both fragments twice. Removed copies bring no octets that the datagram has already."""
    later = ethernet(ipv4("10.0.0.1", "10.0.0.2", UDP, bytes(8), ident=7, fragment=2), 0x0800)
    first = datagram(bytes(8), ident=7, more=True)
    wire = at_times([first, first, later, later], 0, 1, 2, 3)
    found, flows = traced(wire, duplicates="remove")
    assert (found, flows[0].frames.tolist()) == ([2, 4], [1, 3])
    assert (flows.account.fragments_overlapping, flows.account.verdicts[Verdict.DUPLICATE]) == (0, 2)
    found, flows = traced(wire)
    assert (found, flows[0].frames.tolist(), flows.account.fragments_overlapping) == ([2, 4], [1, 2, 3, 4], 1)


def test_a_removed_one_moves_the_clock() -> None:
    """As any frame without a flow does (rule 13): the timeout of 60 s counts from it no more, but it ends others."""
    other = Exchange("10.0.0.9:9", "10.0.0.2:53")
    other.a.udp()
    wire = other.wire
    wire.at(wire.frames[0].time_ns + 60 * 10**9 - 1)
    wire.frame(datagram())
    wire.wait(ns=1)
    wire.frame(datagram())
    _, flows = traced(wire, duplicates="remove")
    assert [(flow.frames.tolist(), flow.end_cause.text) for flow in flows] == [([1], "idle"), ([2], "end of input")]


# --- what is one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"duplicate_window_ns": 7}, {"duplicate_window_ns": 10**12}])
def test_window(options: dict[str, int]) -> None:
    """At equality it is one, a nanosecond later it is not; likewise where the later frame has the earlier time."""
    window_ns = options.get("duplicate_window_ns", WINDOW_NS)
    start_ns = 10**15
    assert duplicates(at_times([datagram()] * 2, start_ns, start_ns), **options) == [2]
    for late_ns, numbers in ((window_ns, [2]), (window_ns + 1, []), (-window_ns, [2]), (-window_ns - 1, [])):
        assert duplicates(at_times([datagram()] * 2, start_ns, start_ns + late_ns), **options) == numbers


def test_no_window() -> None:
    wire = at_times([datagram()] * 3, 10**18, 0, 2 * 10**18)
    assert duplicates(wire) == []
    assert duplicates(wire, duplicate_window_ns=None) == [2, 3]


@pytest.mark.parametrize("at", [0, 5, 14, 22, 33, 34, 42, 50])
def test_one_difference_is_enough(at: int) -> None:
    """An octet of any header or of the payload, the first and the last."""
    other = bytearray(datagram())
    assert len(other) == 51
    other[at] ^= 1
    assert duplicates(at_times([datagram(), bytes(other)], 0, 1)) == []
    assert duplicates(at_times([datagram(), bytes(other), datagram()], 0, 1, 2)) == [3]


def test_lengths_and_vlans_are_compared() -> None:
    """A frame that was cut, one that was longer on the wire, and one with a VLAN tag are other frames."""
    wire = Wire(step_ns=1)
    wire.frame(datagram())
    wire.frame(datagram(), captured=50)
    wire.frame(datagram(), captured=50, wire_octets=52)
    wire.frame(datagram(), wire_octets=52)
    tagged = Exchange(wire=wire, tags=[(0x8100, 5)])
    tagged.a.udp(NINE)
    Exchange(wire=wire, tags=[(0x8100, 6)]).a.udp(NINE)
    Exchange(wire=wire).a.udp(NINE)
    assert duplicates(wire) == []
    tagged.a.udp(NINE)
    assert duplicates(wire) == [8]


def test_link_types_are_compared_and_files_go_on() -> None:
    """The same octets, lengths and times, of which decode makes nothing either way: only the link type differs."""
    frame = Frame(10**15, bytes(40), 40)

    def account(*links: int) -> int | None:
        files = [io.BytesIO(pcap_octets([frame], link=link)) for link in links]
        return traceflow.trace(*files).account.duplicates

    assert account(LINK_ETHERNET, LINK_RAW) == 0
    assert account(LINK_ETHERNET, LINK_ETHERNET, LINK_RAW, LINK_RAW) == 2


def test_three_copies_and_two_flows() -> None:
    """Copies are compared with all that stands before them, copies too; other flows in between do not matter."""
    a, b = Exchange(wire=Wire(step_ns=US_NS)), datagram()
    for _ in range(3):
        a.a.udp(NINE)
    wire = a.wire
    assert duplicates(wire) == [2, 3]
    first = wire.frames[0].octets
    times_ns = [n * 100 * US_NS for n in range(6)]
    # 300 us from a to the second a, 500 us from b to the second b: just within; c stands alone.
    assert duplicates(at_times([first, b, datagram(b"c"), first, datagram(b"d"), datagram(b"e")], *times_ns)) == [4]
    assert duplicates(at_times([b, first, datagram(b"c"), first, first, b], *times_ns)) == [4, 5, 6]
    # A chain: each is 400 us behind the one before, the third 800 us behind the first.
    assert duplicates(at_times([b] * 3, 0, 400 * US_NS, 800 * US_NS)) == [2, 3]


@pytest.mark.parametrize("batch_frames", [1, 3, 19, 4096])
def test_reach(batch_frames: int) -> None:
    """The 16th frame before it is looked at, the 17th is not. Three others stand before."""
    assert REACH == 16, "docs/vocabulary.md says so"
    others = [datagram(bytes([n])) for n in range(REACH + 3)]
    for apart, numbers in ((REACH, [3 + REACH + 1]), (REACH + 1, [])):
        frames = [*others[:3], datagram(), *others[3:][: apart - 1], datagram()]
        assert duplicates(at_times(frames, *range(len(frames))), batch_frames=batch_frames) == numbers


def rows(octets: bytes, count: int, **columns: int) -> tuple[Any, Any, Any]:
    """`count` frames that share their octets: buffer, FRAME and PACKET rows."""
    buffer, frames = np.frombuffer(octets, np.uint8), np.zeros(count, FRAME)
    frames["captured"], frames["wire"], frames["link"] = len(octets), len(octets), 1
    for name, value in columns.items():
        frames[name] = value
    return buffer, frames, decode_batch(buffer, frames, np.zeros(count, PACKET))


def test_frames_without_a_time() -> None:
    """Within no window that can be told; with none, octets alone decide."""
    for window_ns, found in ((WINDOW_NS, 0), (2**62 - 1, 0), (None, 2)):
        finder = DuplicateFinder(Options(duplicate_window_ns=window_ns))
        finder.mark(*rows(datagram(), 2, time_bits=NO_TIME))
        finder.mark(*rows(datagram(), 1, time_bits=NO_TIME))
        assert finder.found == found
    finder = DuplicateFinder(Options())
    for time_bits in (NO_TIME, 0, NO_TIME):  # it takes two with a time
        finder.mark(*rows(datagram(), 1, time_bits=time_bits))
    assert finder.found == 0


def test_times_at_both_ends() -> None:
    buffer, frames, packets = rows(datagram(), 2)
    frames["time_ns"] = -(2**62), 2**62
    finder = DuplicateFinder(Options(duplicate_window_ns=2**62 - 1))
    finder.mark(buffer, frames, packets)
    assert finder.found == 0


# --- the definition once more, and hostile captures --------------------------------------------------------------


def by_definition(frames: Sequence[tuple[bytes, int]], window_ns: int | None) -> list[int]:
    """Numbers of the frames (octets, time) that repeat one of the 16 before them."""
    return [
        n + 1
        for n, (octets, time_ns) in enumerate(frames)
        if any(
            octets == other and (window_ns is None or abs(time_ns - other_ns) <= window_ns)
            for other, other_ns in frames[max(0, n - 16) : n]
        )
    ]


CONTENTS = [
    *(datagram(), datagram(ident=1), datagram(b"nine bytE"), b"", b"\0", bytes(60), bytes(2049), bytes(2500) + b"!"),
    *(datagram(bytes(3000)), datagram(bytes(3000), ttl=63), datagram(bytes(2999) + b"\1")),
]


@given(
    frames=st.lists(st.tuples(st.sampled_from(CONTENTS), st.integers(0, 30).map(lambda n: n * 50_000)), max_size=60),
    window_ns=st.sampled_from([None, 1, 50_000, 500_000, 10**6]),
    batches=st.lists(st.integers(1, 40), min_size=1),
)
def test_any_batches_find_what_the_definition_says(
    frames: list[tuple[bytes, int]], window_ns: int | None, batches: list[int]
) -> None:
    """Few contents, long and short, at times that go back and forth, cut into batches of any size."""
    finder = DuplicateFinder(Options(duplicate_window_ns=window_ns))
    found, at = [], 0
    while at < len(frames):
        some = frames[at : at + batches[0]]
        batches = [*batches[1:], batches[0]]
        buffer = np.frombuffer(b"\xff" + b"".join(octets for octets, _ in some), np.uint8)  # differs a batch
        batch, packets = np.zeros(len(some), FRAME), np.zeros(len(some), PACKET)
        batch["captured"] = batch["wire"] = [len(octets) for octets, _ in some]
        batch["time_ns"], batch["link"] = [time_ns for _, time_ns in some], 1
        batch["start"] = 1 + np.cumsum(batch["captured"]) - batch["captured"]
        packets = decode_batch(buffer, batch, packets)
        finder.mark(buffer, batch, packets)
        found += (np.flatnonzero(packets["bits"] & DUPLICATE) + at + 1).tolist()
        at += len(some)
    assert found == by_definition(frames, window_ns)
    assert finder.found == len(found)


def test_a_flood_of_one_frame_is_all_duplicates_but_the_first() -> None:
    frames = 400
    wire = at_times([datagram()] * frames, *range(frames))
    for batch_frames in (1, 7, 4096):
        assert duplicates(wire, batch_frames=batch_frames) == list(range(2, frames + 1))
    _, flows = traced(wire, duplicates="remove")
    assert (len(flows), flows[0].packets) == (1, 1)


def test_a_flood_of_frames_that_differ_where_they_are_compared_last() -> None:
    """Same lengths, ports and all octets but the first: every comparison goes to the end, and finds nothing."""
    frames = [bytes([n % 256]) + datagram()[1:] for n in range(200)]
    assert duplicates(at_times(frames, *range(len(frames)))) == []


def test_frames_that_outgrow_the_room_that_was_kept() -> None:
    """One frame a batch, each longer than what was kept so far; those before it are known all the same."""
    short, longer, long = datagram(), datagram(bytes(3000)), datagram(bytes(40_000))
    finder = DuplicateFinder(Options())
    for frame, found in ((short, 0), (longer, 0), (short, 1), (long, 1), (short, 2), (longer, 3), (long, 4)):
        finder.mark(*rows(frame, 1))
        assert finder.found == found
    # One octet more than the room of 2048 there is at first, right before the place of the first frame.
    finder = DuplicateFinder(Options())
    for frame in (short, *(datagram(bytes([n])) for n in range(14)), bytes(2049), short):
        finder.mark(*rows(frame, 1))
    assert finder.found == 1


@pytest.mark.slow_plain("8 MiB octet by octet")
def test_what_is_kept_is_bounded() -> None:
    """Frames of 256 KiB, the longest that a source hands out: 16 of them are kept, 4 MiB, however many come."""
    finder = DuplicateFinder(Options())
    for count in (1, 20, 3):
        finder.mark(*rows(bytes(2**18), count))
        assert finder._last_octets.nbytes == REACH * 2**18 == 4 * 2**20
    assert finder.found == 23


# --- options, command line, engine -------------------------------------------------------------------------------


WRONG = [("duplicates", "keep"), *(("duplicate_window_ns", window_ns) for window_ns in (0, -1, 2**62))]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_options(name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        options_for(**{name: value})


Cli = Callable[..., tuple[int, str, str]]


def test_frames_shows_them(cli: Cli) -> None:
    """Rows 2 and 3 of T28, the SYN's copy and the SYN+ACK: ports and lengths of a removed frame are still shown."""
    names = "frame,flow,verdict,src_port,payload_octets,duplicate"
    code, out, err = cli("frames", FIXTURES / "T28.pcap", "--fields", names)
    assert (code, out.splitlines()[2:4]) == (0, ["2,1,,1000,0,1", "3,1,,80,0,"])
    assert "exact duplicates 6" in err
    code, out, err = cli("frames", FIXTURES / "T28.pcap", "--fields", names, "--duplicates", "remove")
    assert (code, out.splitlines()[2:4]) == (0, ["2,,duplicate,1000,0,1", "3,1,,80,0,"])
    assert "frames read 16 = in flows 10 + without a flow 6" in err
    code, out, err = cli("frames", FIXTURES / "T28.pcap", "--fields", names, "--duplicates", "ignore")
    assert (code, out.splitlines()[2]) == (0, "2,1,,1000,0,")
    assert "exact duplicates" not in err


def test_a_removed_fragment_has_no_ports(cli: Cli, tmp_path: Path) -> None:
    later = ethernet(ipv4("10.0.0.1", "10.0.0.2", UDP, bytes(8), ident=7, fragment=2), 0x0800)
    wire = at_times([datagram(bytes(8), ident=7, more=True), later, later], 0, US_NS, 2 * US_NS)
    arguments = ("--fields", "src_port,verdict,payload_octets", "--duplicates", "remove")
    _, out, _ = cli("frames", wire.pcap(tmp_path), *arguments)
    assert out.splitlines()[1:] == ["1000,,8", "1000,,8", ",duplicate,8"]


def test_summary_counts_them(cli: Cli) -> None:
    for arguments, line in (
        ((), "duplicates: 6"),
        (("--duplicates", "remove"), "frames_duplicate: 6"),
        (("--duplicate-window", "9us"), "duplicates: 0"),
        (("--duplicate-window", "10us"), "duplicates: 6"),
        (("--duplicate-window", "none"), "duplicates: 7"),  # 11 repeats 10, 2 s later: `editcap -d` says 7
        (("--duplicates", "ignore"), "duplicates:"),
    ):
        code, out, _ = cli("flows", FIXTURES / "T28.pcap", "--summary", *arguments)
        assert (code, line in out.splitlines()) == (0, True), arguments


def test_files_without_them(cli: Cli, tmp_path: Path) -> None:
    code, _, _ = cli("trace", FIXTURES / "T28.pcap", "-o", tmp_path / "out", "--by", "flow", "--duplicates", "remove")
    index = json.loads((tmp_path / "out" / "index.json").read_text("utf-8"))
    assert (code, index["frames_without_flow"]["duplicate"]) == (0, 6)
    assert [entry["frames"] for entry in index["files"]] == [[1, 3, 4, 6, 8, 15], [10, 11, 12, 14]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--duplicates", "cuont"), "Did you mean count?"),
        (("--duplicate-window", "0"), "out of range"),
        (("--duplicate-window", "soon"), "is no duration"),
    ],
)
def test_wrong_on_the_command_line(arguments: tuple[str, ...], words: str, cli: Cli) -> None:
    code, out, err = cli("flows", FIXTURES / "T28.pcap", *arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert words in " ".join(err.split())


def test_the_engine_that_is_fed_packets_looks_for_none() -> None:
    """Its packets may have no octets; what is fed twice is traced twice."""
    packet = {"index": 1, "frame": {}, "syn": True, "fin": False, "src": "10.0.0.1", "dst": "10.0.0.2"}
    packet |= {"srcport": 1, "dstport": 2, "timestamp": 1}
    tracer = TraceFlow()
    tracer.dump(packet)
    tracer.dump(packet)
    assert (tracer.index[0].index, tracer.account.duplicates) == ((1, 1), None)


def test_a_file_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "no.pcap").write_bytes(b"no capture")
    with pytest.raises(TraceflowError):
        traceflow.trace(tmp_path / "no.pcap", duplicates="remove")
