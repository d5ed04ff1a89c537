"""Bad input on purpose: sequence numbers, clocks and floods that are chosen to do harm, through every profile.

Each test counts every frame, and looks at the memory that the table holds. Floods of other rooms stand with them:
fragments, quotes, duplicates, tunnels. The fuzz targets have a short run here.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from effort import examples
from exchange import ACK, FIN, PSH, RST, START_NS, SYN, Exchange, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from invariants import check_columns, check_flows

from traceflow.compiled import COMPILED
from traceflow.decode import decode_batch
from traceflow.flows import FlowSet
from traceflow.options import PROFILES, Options, options_for
from traceflow.packets import FLAGS_KNOWN, FRAME, PACKET, SEQ_KNOWN, TIME_MAX_NS
from traceflow.pipeline import FlowCollector, Run, trace
from traceflow.sources import open_source
from traceflow.table import FlowTable

ALL = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 99, 100, 101, 2**20, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]),
    st.integers(0, 300),
    st.integers(0, 2**32 - 1),
)
"""Around nothing, around the wrap, half the circle away, and anywhere."""
OPTIONS = (b"", b"\2\0\0\0", b"\2\1\0\0", b"\3\0", b"\1\1\1\2", b"\2\4\5\xb4\3\3\xff\0", b"\x05\xff\0\0", b"\4\2\0\0")
"""None, of length 0 and 1, cut, a scale above 14, longer than the header, SACK permitted."""
SEGMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "sender": st.booleans(),
            "flags": st.one_of(st.sampled_from([SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST]), st.integers(0, 255)),
            "seq": NUMBERS,
            "ack": NUMBERS,
            "window": st.sampled_from([0, 1, 512, 65535]),
            "payload": st.sampled_from([0, 0, 1, 2, 100]),
            "options": st.sampled_from(OPTIONS),
            "wait_ns": st.sampled_from([0, 1000, 3_000_000, -1000, 10**9, 61 * 10**9, 301 * 10**9, -(10**12)]),
            "vlan": st.sampled_from([0, 0, 0, 7]),
        }
    ),
    max_size=30,
)


def capture_of(segments: list[dict[str, Any]]) -> bytes:
    """A capture of segments between the same two ends, in VLANs or not, at any times."""
    talk, time_ns = Exchange(), START_NS
    for one in segments:
        side = talk.a if one["sender"] else talk.b
        time_ns = max(0, time_ns + one["wait_ns"])
        talk.wire.at(time_ns)
        tags = [(0x8100, one["vlan"])] if one["vlan"] else []
        numbers = {name: one[name] for name in ("seq", "ack", "window", "options")}
        side.segment(one["flags"], bytes(one["payload"]), **numbers, tags=tags)
    return talk.wire.pcap_octets(nanosecond=True)


def run(octets: bytes, rules: Options, batch_frames: int) -> tuple[FlowSet, list[Any]]:
    """Trace a capture in memory: flows, and all that must not depend on batches."""
    marks: list[Any] = []
    with open_source(io.BytesIO(octets), batch_frames=batch_frames) as captures:
        collector = FlowCollector(tracing := Run(captures, rules))
        for step in tracing.steps():
            collector.take(step)
            marks += [step.marks.tolist(), step.ended["number"].tolist()]
        flows = collector.flows()
    flat = [value for part in marks for value in part]
    rows = repr([np.asarray(flows.columns[name]).tolist() for name in flows.columns.dtype.names or ()])
    return flows, [rows, [v for v in flat if isinstance(v, tuple)], [v for v in flat if isinstance(v, int)]]


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=examples(50, plain=20))  # for each of seven profiles
@given(segments=SEGMENTS)
def test_any_segments_in_any_profile(profile: str, segments: list[dict[str, Any]]) -> None:
    """Nothing is raised, all is accounted for, columns lie in their ranges, and flags are those that were sent."""
    octets, rules = capture_of(segments), options_for(profile, analysis=True)
    flows, whole = run(octets, rules, 4096)
    check_flows(flows)
    assert flows.account.in_flows == flows.account.frames == len(segments)
    for bit, name in enumerate(ALL):
        sent = sum(one["flags"] >> bit & 1 for one in segments)
        assert sum(int(flow.orig.flags[bit]) + int(flow.resp.flags[bit]) for flow in flows) == sent, name
    assert run(octets, rules, 1)[1] == whole


# --- single attacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("behind", "gaps"), [(2**31 - 1, 1), (2**31, 0)])
def test_two_gigabytes_ahead(tmp_path: Path, behind: int, gaps: int) -> None:
    """One octet far ahead, acknowledged, `behind` counted from the SYN's number.

    Up to 2**31 - 1 it lies ahead: one gap in the history. From 2**31 on the shorter way goes back (RFC 9293, 3.4), so
    it is an acknowledgment of what lies before the connection. tshark's lost segment looks from 101, one further on.
    """
    talk = Exchange()
    talk.open()
    talk.a.data(b"x", seq=100 + behind - 1)
    talk.b.ack(ack=100 + behind)
    (flow,) = trace(talk.pcap(tmp_path))
    assert (flow.orig.packets, flow.orig.lost_segment, flow.orig.payload_octets) == (3, 1, 1)
    assert flow.history.count("G") == gaps


def test_acks_of_what_nobody_sent_end_nothing(tmp_path: Path) -> None:
    """ACKs that jump by 2**30, around the circle three times; then the connection goes on and closes as usual."""
    talk = Exchange()
    talk.open()
    for n in range(1, 13):
        talk.b.ack(ack=(101 + n * 2**30) % 2**32)
    talk.talk()
    talk.close()
    (flow,) = trace(talk.pcap(tmp_path))
    assert (flow.packets, flow.end_cause.text) == (22, "fin")
    check_columns(trace(talk.pcap(tmp_path)))


def test_syns_with_other_numbers_end_a_live_flow_once_each(tmp_path: Path) -> None:
    """Rule 4 of flow-rules: each SYN with another number of its direction opens a flow; repeated ones do not."""
    talk = Exchange()
    talk.open()
    for seq in (5, 5, 2**31 + 5, 2**32 - 1, 2**32 - 1, 0):
        talk.a.syn(seq=seq)
    flows = trace(talk.pcap(tmp_path))
    assert [flow.frames.tolist() for flow in flows] == [[1, 2, 3], [4, 5], [6], [7, 8], [9]]
    assert [flow.end_cause.text for flow in flows] == [*["new syn"] * 4, "end of input"]


@pytest.mark.parametrize("steps", [(1, -1), (-1, 1)])
def test_round_trips_between_the_ends_of_time(steps: tuple[int, int]) -> None:
    """Each ACK comes 2**63 ns after its segment, or before: longer than 64 bits hold, and sums of them all the more."""
    count = 8
    frames, packets = np.zeros(2 * count, FRAME), np.zeros(2 * count, PACKET)
    talk = Exchange()
    for n in range(count):
        talk.a.segment(PSH | ACK, bytes(10), seq=100 + 10 * n)
        talk.b.ack(ack=110 + 10 * n)
    with open_source(io.BytesIO(talk.wire.pcap_octets())) as captures:
        for batch in captures.batches():
            frames[:] = batch.frames
            packets[:] = decode_batch(batch.octets, batch.frames, packets)
    frames["time_ns"] = np.tile(np.array(steps, np.int64) * TIME_MAX_NS, count)
    table = FlowTable(options_for("tshark"))
    table.track(frames, packets, 1)
    table.end()
    (found,) = table.drain()
    analysed = found["orig"]["analysed"]
    assert analysed["rtt_samples"] == count
    flows = FlowSet(np.array([found]), None, table.account())  # type: ignore[arg-type]
    check_columns(flows)
    assert (analysed["rtt_min_ns"] > 0) == (steps[1] > 0)


# --- floods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [SYN, RST, SYN | ACK, ACK])
@pytest.mark.parametrize("when_full", ["evict", "skip"])
@pytest.mark.parametrize("profile", PROFILES)
def test_floods_are_bounded_and_accounted_for(profile: str, when_full: str, flags: int) -> None:
    """Each segment has ends of its own, 1 us apart, so none is idle: 500 (plain: 100) rows at most are ever used."""
    total, most = (20_000, 500) if COMPILED else (500, 100)
    frames, packets = np.zeros(total, FRAME), np.zeros(total, PACKET)
    frames["time_ns"] = START_NS + np.arange(total) * 1000
    packets["ip_version"], packets["protocol"], packets["flags"] = 4, 6, flags
    packets["bits"] = FLAGS_KNOWN | SEQ_KNOWN
    packets["src_lo"], packets["dst_lo"], packets["dst_port"] = 0xFFFF00000000 + np.arange(total), 0xFFFF0A000001, 80
    table = FlowTable(options_for(profile, max_flows=most, when_full=when_full))
    ended = 0
    batch = total // 20
    for at in range(0, total, batch):
        table.track(frames[at : at + batch], packets[at : at + batch], at + 1)
        assert table.live <= int(table._state[0]["fresh"]) <= most
        assert len(table._live) == most
        ended += len(table.drain())
    table.end()
    ended += len(table.drain())
    account = table.account()
    assert account.frames == total == account.in_flows + sum(account.verdicts.values())
    assert account.flows == ended == account.in_flows == (total if when_full == "evict" else most)


def test_a_flood_of_one_syn_and_its_copies(tmp_path: Path) -> None:
    """3000 times the same SYN: one flow; 2999 exact duplicates, as all lie within the window of the one before."""
    wire = Wire(step_ns=1000)
    talk = Exchange(wire=wire)
    for _ in range(3000):
        talk.a.syn(seq=7)
    flows = trace(talk.pcap(tmp_path))
    assert ([flow.packets for flow in flows], flows.account.duplicates) == ([3000], 2999)
    assert len(flows[0].history) <= 48


# --- a short run of the fuzz targets -----------------------------------------------------------------------------


@pytest.mark.slow_plain("a second an input")
@pytest.mark.parametrize(("name", "inputs"), [("fuzz_trace", 40), ("fuzz_sources", 300), ("fuzz_bpf", 300)])
def test_fuzz_targets_hold(name: str, inputs: int, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / "fuzz" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    target = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(target)
    assert target.main(["--inputs", str(inputs), "--seed", "7", "--save", str(tmp_path)]) == 0
