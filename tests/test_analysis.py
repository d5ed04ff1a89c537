"""The room `analysis`: each flag, counters, options, handshake and round trips.

Expected flags follow from the Wireshark User's Guide, section "TCP Analysis"; every scenario was also read by
tshark 4.0.17 (`tshark -r capture.pcap -T fields -e frame.number -e tcp.analysis.retransmission ...`), and is again in
`test_tshark_says_the_same` where it is installed.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exchange import ACK, PSH, SYN, Exchange

from traceflow.analysis import analysis_text
from traceflow.flows import ANALYSIS_COLUMNS, ANALYSIS_FLAGS, FlowSet, flat_columns
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run, trace
from traceflow.sinks.rows_fields import FLOW_FIELDS, choose_fields
from traceflow.sinks.rows_flows import flow_columns
from traceflow.sources import open_source

OPTIONS = bytes.fromhex("020405b40402080a000000010000000001030307")  # MSS 1460, SACK, time stamps, scale 7


def flags_of(path: Path, profile: str = "default") -> dict[int, str]:
    """Frame number to flags, frames without flags left out."""
    found = {}
    with open_source(path) as captures:
        for step in Run(captures, options_for(profile)).steps():
            if step.batch is not None:
                for at in np.flatnonzero(step.marks["analysis"]):
                    found[step.batch.first_number + int(at)] = analysis_text(int(step.marks["analysis"][at]))
    return found


def cells_of(flows: FlowSet, name: str) -> list[object]:
    """A column of `traceflow flows`."""
    return [cell for (column,) in flow_columns(flows, choose_fields(name, FLOW_FIELDS)) for cell in column]


Scenario = tuple[Exchange, dict[int, str]]


def t25(first: int) -> Scenario:
    """A first number next to the wrap, and 3 kB each way over it.

    With 2**32-1 tshark takes the ACK of the handshake, whose number is 0, for a duplicate: of the SYN, whose unused
    acknowledgment field is 0 as well.
    """
    talk = Exchange(isn=(first, first))
    talk.open()
    for _ in range(3):
        talk.a.data(bytes(1000))
        talk.b.data(bytes(1000))
    talk.close()
    return talk, {}


def retransmission() -> Scenario:
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10), seq=101)
    talk.wait(ms=300)
    return talk, {talk.a.data(bytes(10), seq=101): "retransmission"}


def spurious() -> Scenario:
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10), seq=101)
    talk.b.ack()
    return talk, {talk.a.data(bytes(10), seq=101): "retransmission|spurious_retransmission"}


def lost_and_out_of_order() -> Scenario:
    """A gap, and what was missing within the round trip of the handshake (2 ms)."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10), seq=101)
    gap = talk.a.data(bytes(10), seq=121)
    late = talk.a.data(bytes(10), seq=111)
    return talk, {gap: "lost_segment", late: "out_of_order"}


def late_after_the_round_trip() -> Scenario:
    talk = Exchange()
    talk.open()
    gap = talk.a.data(bytes(10), seq=111)
    talk.wait(ms=2)
    return talk, {gap: "lost_segment", talk.a.data(bytes(10), seq=101): "retransmission"}


def fast_retransmission() -> Scenario:
    """Three ACKs of the same number (the first is none of the duplicates), then what they ask for."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10), seq=101)
    first = talk.b.ack(ack=111)
    gap = talk.a.data(bytes(10), seq=121)
    duplicates = [talk.b.ack(ack=111) for _ in range(2)]
    again = talk.a.data(bytes(10), seq=111)
    assert first == 5
    return talk, {
        gap: "lost_segment",
        **dict.fromkeys(duplicates, "duplicate_ack"),
        again: "retransmission|fast_retransmission",
    }


def keep_alive() -> Scenario:
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10))
    talk.b.ack()
    talk.wait(s=45)
    probe = talk.a.segment(ACK, b"\0", seq=110)
    return talk, {probe: "keep_alive", talk.b.ack(): "keep_alive_ack"}


def zero_window() -> Scenario:
    """No window, a probe into it, its answer, the window opens again."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10))
    closed = talk.b.ack(window=0)
    talk.wait(s=1)
    probe = talk.a.segment(ACK, b"\0", seq=111)
    answer = talk.b.ack(window=0, ack=111)
    opened = talk.b.ack(window=500, ack=111)
    return talk, {
        closed: "zero_window",
        probe: "zero_window_probe",
        answer: "zero_window|zero_window_probe_ack",
        opened: "window_update",
    }


def window_full() -> Scenario:
    """A window of 2 << 1 octets is filled to the last."""
    talk = Exchange()
    talk.a.syn(options=bytes.fromhex("030301"))
    talk.b.syn_ack(options=bytes.fromhex("030301"))
    talk.a.ack()
    talk.a.data(bytes(10))
    talk.b.ack(window=2)
    return talk, {talk.a.data(bytes(4)): "window_full"}


def ack_of_the_unseen() -> Scenario:
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10))
    return talk, {talk.b.ack(ack=200): "ack_lost_segment"}


def the_unseen_is_told_once() -> Scenario:
    """All that was seen is acknowledged, and more: said once, until the other end moves its own number."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10))
    found = {talk.b.data(bytes(5), ack=200): "ack_lost_segment"}
    talk.b.data(bytes(5), ack=300)
    talk.a.ack()
    found[talk.b.ack(ack=400)] = "ack_lost_segment"
    found[talk.a.data(bytes(10), seq=500)] = "lost_segment"
    found[talk.b.ack(ack=505)] = "ack_lost_segment"
    talk.b.ack(ack=600)
    return talk, found


def acknowledged_before_it_was_seen() -> Scenario:
    """In order, and yet spurious: its ACK was captured before it."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10))
    early = talk.b.ack(ack=121)
    late = talk.a.data(bytes(10), seq=111)
    talk.a.data(bytes(10), seq=121)
    return talk, {early: "ack_lost_segment", late: "retransmission|spurious_retransmission"}


def reused_ports() -> Scenario:
    talk = Exchange()
    talk.open()
    again = talk.a.syn(seq=5000)
    return talk, {again: "reused_ports"}


def options_that_lie() -> Scenario:
    """Length 0, length 1, and one that ends behind the header: the list ends there."""
    talk = Exchange()
    for options in ("0200", "0301", "0822", "02"):
        talk.a.syn(seq=100, options=bytes.fromhex(options))
    return talk, dict.fromkeys((2, 3, 4), "retransmission")


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "first number 0": lambda: t25(0),
    "first number 2**32-1": lambda: t25(2**32 - 1),
    "wrap": lambda: t25(2**32 - 1500),
    **{
        make.__name__: make
        for make in (
            retransmission, spurious, lost_and_out_of_order, late_after_the_round_trip, fast_retransmission, keep_alive,
            zero_window, window_full, ack_of_the_unseen, the_unseen_is_told_once, acknowledged_before_it_was_seen,
            reused_ports, options_that_lie,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_flags(name: str, tmp_path: Path) -> None:
    talk, expected = SCENARIOS[name]()
    path = talk.pcap(tmp_path, nanosecond=True)
    assert flags_of(path) == expected
    assert flags_of(path, "tshark") == expected


@pytest.mark.once("it starts tshark, whose flags are those that every Python is held to in test_flags")
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "first number 2**32-1"])  # see there
def test_tshark_says_the_same(name: str, tmp_path: Path) -> None:
    path = SCENARIOS[name]()[0].pcap(tmp_path, nanosecond=True)
    fields = [part for flag in ANALYSIS_FLAGS for part in ("-e", f"tcp.analysis.{flag}")]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "frame.number", *fields]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    theirs = {}
    for number, *cells in (row.split("\t") for row in rows):
        if any(cells):
            names = [flag for flag, cell in zip(ANALYSIS_FLAGS, cells, strict=True) if cell]
            theirs[int(number)] = "|".join(names)
    assert flags_of(path, "tshark") == theirs


def test_every_flag_has_a_scenario() -> None:
    seen = {name for make in SCENARIOS.values() for text in make()[1].values() for name in text.split("|")}
    assert seen == set(ANALYSIS_FLAGS)


def test_counters_are_per_direction(tmp_path: Path) -> None:
    talk, _ = fast_retransmission()
    (flow,) = trace(talk.pcap(tmp_path))
    assert (flow.orig.retransmission, flow.orig.fast_retransmission, flow.orig.lost_segment) == (1, 1, 1)
    assert (flow.resp.duplicate_ack, flow.orig.duplicate_ack, flow.resp.retransmission) == (2, 0, 0)


def test_duplicate_acks_are_numbered(tmp_path: Path) -> None:
    path = fast_retransmission()[0].pcap(tmp_path)
    with open_source(path) as captures:
        steps = Run(captures, options_for()).steps()
        assert next(steps).marks["duplicate_ack"].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 0]


def test_handshake_options_windows_and_round_trips(tmp_path: Path) -> None:
    """SYN at 0, SYN-ACK at 3 ms, ACK at 10 ms, data at 11 ms, its ACK at 15 ms."""
    talk = Exchange()
    talk.a.syn(options=OPTIONS, window=1000)
    talk.wait(ms=3)
    talk.b.syn_ack(options=bytes.fromhex("020405a0030302"), window=2000)
    talk.wait(ms=7)
    talk.a.ack(window=10)
    talk.a.data(bytes(5))
    talk.wait(ms=4)
    talk.b.ack(window=20)
    (flow,) = trace(talk.pcap(tmp_path, nanosecond=True))
    assert (flow.row["syn_to_syn_ack_ns"], flow.row["syn_ack_to_ack_ns"]) == (3_000_000, 7_000_000)
    orig, resp = flow.orig, flow.resp
    assert (orig.mss, orig.window_scale, orig.sack_permitted, orig.timestamps) == (1460, 7, 1, 1)
    assert (resp.mss, resp.window_scale, resp.sack_permitted, resp.timestamps) == (1440, 2, 0, 0)
    assert (orig.first_window, orig.first_window_scaled) == (1000, 1000)
    assert (resp.last_window, resp.last_window_scaled) == (20, 80)
    # of a: SYN 3 ms, data 4 ms; of b: SYN-ACK 7 ms
    assert (orig.rtt_samples, orig.rtt_min_ns, orig.rtt_max_ns, orig.rtt_sum_ns) == (2, 3_000_000, 4_000_000, 7_000_000)
    assert (resp.rtt_samples, resp.rtt_min_ns, resp.rtt_max_ns) == (1, 7_000_000, 7_000_000)


def test_scales_need_both_ends(tmp_path: Path) -> None:
    talk = Exchange()
    talk.a.syn(options=bytes.fromhex("030307"))
    talk.b.syn_ack()
    talk.a.ack(window=10)
    (flow,) = trace(talk.pcap(tmp_path))
    assert (flow.orig.window_scale, flow.orig.last_window_scaled) == (7, 10)


def test_what_was_not_seen_is_not_known(tmp_path: Path) -> None:
    talk = Exchange()
    talk.a.data(bytes(10))
    (flow,) = trace(talk.pcap(tmp_path))
    assert (flow.syn_to_syn_ack_ns, flow.syn_ack_to_ack_ns) == (None, None)
    orig, resp = flow.orig, flow.resp
    assert (orig.mss, orig.window_scale, orig.sack_permitted, orig.timestamps) == (None, None, None, None)
    assert (orig.rtt_samples, orig.rtt_sum_ns, orig.rtt_min_ns, orig.rtt_mean_ns, orig.rtt_max_ns) == (0, *4 * (None,))
    assert (orig.first_window, orig.first_window_scaled) == (64240, None)
    assert (orig.last_window, orig.last_window_scaled) == (64240, None)
    assert (resp.first_window, resp.last_window, resp.retransmission) == (None, None, 0)


def test_a_segment_that_is_sent_again_is_timed_from_its_first_time(tmp_path: Path) -> None:
    """tshark: `tcp.analysis.ack_rtt` of the last frame is 0.110000000 (frames are 1 ms apart)."""
    talk = Exchange()
    talk.open()
    talk.a.data(bytes(10), seq=101)
    talk.wait(ms=100)
    talk.a.data(bytes(10), seq=101)
    talk.wait(ms=10)
    talk.b.ack(ack=111)
    (flow,) = trace(talk.pcap(tmp_path, nanosecond=True))
    assert (flow.orig.rtt_samples, flow.orig.rtt_max_ns) == (2, 110_000_000)


def test_a_round_trip_of_nothing_and_a_clock_that_steps_back(tmp_path: Path) -> None:
    """-1 ns is a time like others: SYN-ACK 1 ns before the SYN, its ACK at the same time."""
    talk = Exchange()
    talk.a.syn()
    talk.wait(ns=-1)
    talk.b.syn_ack()
    talk.wait(ms=0)
    talk.a.ack()
    flows = trace(talk.pcap(tmp_path, nanosecond=True))
    assert (flows[0].syn_to_syn_ack_ns, flows[0].syn_ack_to_ack_ns) == (-1, 0)
    assert (flows[0].orig.rtt_mean_ns, flows[0].resp.rtt_mean_ns) == (-1, 0)
    assert cells_of(flows, "syn_to_syn_ack_ns") == [-1]


def test_flights_longer_than_what_is_timed(tmp_path: Path) -> None:
    """40 segments under way are five times what is timed at once; behind their ACK places are free again."""
    talk = Exchange()
    talk.open()
    for _ in range(40):
        talk.a.data(bytes(10))
    talk.b.ack()
    for _ in range(5):
        talk.a.data(bytes(10))
        talk.b.ack()
    (flow,) = trace(talk.pcap(tmp_path, nanosecond=True))
    assert flow.orig.rtt_samples in (6, 7)  # the SYN, those 5, and the 40th if its cache line had a place left
    assert (flow.orig.rtt_min_ns, flow.orig.rtt_max_ns, flow.orig.rtt_mean_ns) == (1_000_000, 1_000_000, 1_000_000)


FIELDS = (
    "-e frame.number -e frame.time_relative -e tcp.stream -e tcp.window_size_value -e tcp.window_size"
    " -e tcp.options.mss_val -e tcp.options.wscale.shift -e tcp.options.sack_perm -e tcp.options.timestamp.tsval"
    " -e tcp.analysis.ack_rtt -e tcp.analysis.acks_frame"
)
"""`tshark -n -r fixtures/http.pcap -T fields` + these: from its lines come the numbers of the next two tests."""


def test_t01_as_tshark_reads_it(fixtures_folder: Path) -> None:
    """1 ms between frames, of which 2, 5, 8 acknowledge the originator's 1, 4, 7, and 3, 6, 10 the others'."""
    (flow,) = trace(fixtures_folder / "T01.pcap")
    assert (flow.syn_to_syn_ack_ns, flow.syn_ack_to_ack_ns) == (1_000_000, 1_000_000)
    for half in (flow.orig, flow.resp):
        assert (half.rtt_samples, half.rtt_min_ns, half.rtt_mean_ns, half.rtt_max_ns) == (3, *3 * (1_000_000,))
        assert (half.first_window, half.first_window_scaled) == (64240, 64240)
        assert (half.last_window, half.last_window_scaled) == (64240, 64240)
        assert (half.mss, half.window_scale, half.sack_permitted, half.timestamps) == (None, None, 0, 0)


def test_http_as_tshark_reads_it(fixtures_folder: Path) -> None:
    """Port 49152 is stream 0 (frames 7-17, 49-52), 49153 stream 1, and the SYNs of 49155 are not answered."""
    flows = {flow.orig_port: flow for flow in trace(fixtures_folder / "http.pcap") if flow.protocol == 6}
    first, second, silent = flows[49152], flows[49153], flows[49155]
    assert (first.syn_to_syn_ack_ns, first.syn_ack_to_ack_ns) == (18_000_000, 137_000)
    half = first.orig  # ack_rtt of frames 8, 11, 52
    assert (half.rtt_samples, half.rtt_min_ns, half.rtt_max_ns) == (3, 137_000, 20_000_000)
    assert half.rtt_mean_ns == (18_000_000 + 20_000_000 + 137_000) // 3
    half = first.resp  # of frames 9, 13, 15, 17, 50
    assert (half.rtt_samples, half.rtt_min_ns, half.rtt_mean_ns, half.rtt_max_ns) == (5, *3 * (137_000,))
    half = second.resp  # of frames 20, 32, 34
    assert (half.rtt_samples, half.rtt_min_ns, half.rtt_mean_ns, half.rtt_max_ns) == (3, 137_000, 228_333, 411_000)
    for half in (first.orig, first.resp, second.orig, second.resp):
        assert (half.first_window, half.first_window_scaled) == (64240, 64240)
        assert (half.last_window, half.last_window_scaled) == (502, 64256)
        assert (half.mss, half.window_scale, half.sack_permitted, half.timestamps) == (1460, 7, 1, 1)
    assert (silent.syn_to_syn_ack_ns, silent.orig.rtt_samples, silent.orig.rtt_mean_ns) == (None, 0, None)


def test_what_is_not_known_is_na_in_pandas_and_empty_in_rows(fixtures_folder: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is optional")
    flows = trace(fixtures_folder / "http.pcap")
    frame = flows.to_pandas()
    names = [f"{side}_{name}" for side in ("orig", "resp") for name in ANALYSIS_COLUMNS]
    names += ["syn_to_syn_ack_ns", "syn_ack_to_ack_ns"]
    for name in names:
        cells = [None if pandas.isna(value) else value for value in frame[name]]
        assert cells == cells_of(flows, name), name
    silent = frame[frame["orig_port"] == 49155].iloc[0]
    assert all(pandas.isna(silent[name]) for name in ("syn_to_syn_ack_ns", "orig_rtt_min_ns", "resp_first_window"))
    other = frame[frame["protocol"] != 6].iloc[0]
    assert all(pandas.isna(other[name]) for name in names)


def test_without_analysis(tmp_path: Path) -> None:
    path = fast_retransmission()[0].pcap(tmp_path)
    (flow,) = trace(path, analysis=False)
    assert (flow.row["analysed"], flow.orig.retransmission, flow.orig.mss) == (0, None, None)
    (flow,) = trace(path)
    assert flow.row["analysed"] == 1


def test_other_protocols_are_not_analysed(tmp_path: Path) -> None:
    """UDP takes the row of a TCP flow that ended: nothing of it may show."""
    talk = Exchange()
    talk.connection()
    talk.wait(s=100)
    other = Exchange(wire=talk.wire)
    other.a.udp(b"x")
    flows = trace(talk.pcap(tmp_path), linger_ns=10**9)
    assert [(int(flow.row["analysed"]), flow.orig.mss, flow.orig.rtt_samples) for flow in flows] == [
        (1, None, 3),
        (0, None, None),
    ]


def test_a_short_header_is_not_analysed(tmp_path: Path) -> None:
    """Captured up to the flags, but not the window: nothing is said, and nothing is remembered."""
    talk = Exchange()
    talk.open()
    talk.a.segment(PSH | ACK, bytes(10), seq=5000, captured=14 + 20 + 14)
    talk.a.data(bytes(10), seq=101)
    assert flags_of(talk.pcap(tmp_path)) == {}


def _chunked(path: Path, size: int) -> tuple[FlowSet, list[int]]:
    with open_source(path, batch_frames=size) as captures:
        run = Run(captures, options_for())
        collector, marks = FlowCollector(run), []
        for step in run.steps():
            collector.take(step)
            marks += step.marks["analysis"].tolist()
        return collector.flows(), marks


def test_batches_do_not_matter(fixtures_folder: Path) -> None:
    for path in sorted(fixtures_folder.glob("T0*.pcap")):
        (one, first), (many, second) = _chunked(path, 1), _chunked(path, 4096)
        assert first == second
        first_columns, second_columns = flat_columns(one.columns), flat_columns(many.columns)
        assert all(list(first_columns[name]) == list(second_columns[name]) for name in first_columns)


@pytest.mark.parametrize("name", ANALYSIS_FLAGS)
def test_texts(name: str) -> None:
    assert analysis_text(1 << ANALYSIS_FLAGS.index(name)) == name
    assert analysis_text(0) == ""


def test_a_syn_with_many_options_of_one_octet(tmp_path: Path) -> None:
    talk = Exchange()
    talk.a.segment(SYN, options=b"\1" * 36 + struct.pack(">BBH", 2, 4, 536))
    (flow,) = trace(talk.pcap(tmp_path))
    assert flow.orig.mss == 536
