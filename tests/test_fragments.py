"""The room `fragments`: all fragments of a datagram in its flow, in any order, in any batches, in bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import UDP, Wire, ipv4, udp

from traceflow.decode import decode_batch
from traceflow.flows import FlowSet
from traceflow.fragments import FragmentTable
from traceflow.packets import PACKET, Verdict
from traceflow.pipeline import trace
from traceflow.sources import open_source

A4, B4 = "10.0.0.1", "10.0.0.2"
UDP_LITE = 136


def pieces(ident: int, sport: int, count: int = 3) -> list[bytes]:
    whole = udp(A4, B4, sport, 53, b"x" * (16 * count - 8))
    parts = range(count)
    return [
        ipv4(A4, B4, UDP, whole[16 * n : 16 * n + 16], ident=ident, fragment=2 * n, more=n < count - 1) for n in parts
    ]


def traced(tmp_path: Path, wire: Wire, **options: Any) -> FlowSet:
    path = tmp_path / "fragments.pcap"
    path.write_bytes(wire.pcap_octets())
    return trace(path, **options)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    wire = Wire()
    for n in order:
        wire.packet(pieces(1, 1001)[n])
    flows = traced(tmp_path, wire)
    (flow,) = flows
    assert (flow.frames.tolist(), flow.orig_port, flow.orig.packets) == ([1, 2, 3], 1001, 3)
    assert flow.orig.payload_octets == 40
    assert flow.orig.ip_octets == 3 * 36
    assert flow.first_ns == min(wire.frames[0].time_ns, flow.last_ns)
    account = flows.account
    assert (account.frames, account.in_flows, sum(account.verdicts.values())) == (3, 3, 0)
    assert account.fragments_late == order.index(0)
    assert account.fragments_overlapping == 0


def test_two_datagrams_between_the_same_ends(tmp_path: Path) -> None:
    wire = Wire()
    for one, other in zip(pieces(1, 1001), pieces(2, 1002), strict=True):
        wire.packet(other)
        wire.packet(one)
    assert [flow.frames.tolist() for flow in traced(tmp_path, wire)] == [[1, 3, 5], [2, 4, 6]]


BASE = {"ident": 1, "protocol": UDP, "src": A4, "dst": B4}


@pytest.mark.parametrize("other", [{"ident": 2}, {"protocol": UDP_LITE}, {"src": "10.0.0.3"}, {"dst": "10.0.0.3"}])
def test_every_part_of_the_key_tells_datagrams_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    """RFC 791, 3.2: identification, protocol and both ends. Two datagrams in turn that differ in one of these."""
    wire = Wire()
    for more, at in ((True, 0), (False, 2)):
        for sport, parts in ((1001, BASE), (1002, BASE | other)):
            src, dst = parts["src"], parts["dst"]
            whole = udp(src, dst, sport, 53, b"x" * 24)
            piece = whole[8 * at : 8 * at + 16]
            wire.packet(ipv4(src, dst, parts["protocol"], piece, ident=parts["ident"], fragment=at, more=more))
    flows = traced(tmp_path, wire)
    assert [(flow.orig_port, flow.frames.tolist()) for flow in flows] == [(1001, [1, 3]), (1002, [2, 4])]
    assert flows.account.fragments_overlapping == 0


def test_the_first_is_missing(tmp_path: Path) -> None:
    wire = Wire()
    for piece in pieces(1, 1001)[1:]:
        wire.packet(piece)
    flows = traced(tmp_path, wire)
    assert len(flows) == 0
    assert flows.account.verdicts[Verdict.FRAGMENT_WITHOUT_PORTS] == 2


def test_an_entry_lives_for_thirty_seconds(tmp_path: Path) -> None:
    """30 s after its first frame it is known (what has that age is not older), 1 us later it is not."""
    for wait_ns, frames in ((30_000_000_000, [1, 2]), (30_000_001_000, [1])):
        wire = Wire()
        wire.packet(pieces(1, 1001)[0])
        wire.packet(pieces(1, 1001)[1])
        wire.frames[1] = dataclasses.replace(wire.frames[1], time_ns=wire.frames[0].time_ns + wait_ns)
        assert traced(tmp_path, wire)[0].frames.tolist() == frames


def test_overlap_is_counted(tmp_path: Path) -> None:
    wire = Wire()
    first, second, third = pieces(1, 1001)
    for piece in (first, ipv4(A4, B4, UDP, b"y" * 16, ident=1, fragment=1, more=True), second, third):
        wire.packet(piece)
    flows = traced(tmp_path, wire)
    assert flows[0].frames.tolist() == [1, 2, 3, 4]
    # 16 + 16 octets by frame 2, and the datagram is 24 long so far; 48 of 32 by frame 3; 64 of 48 by frame 4.
    assert flows.account.fragments_overlapping == 3


def test_profile_that_traces_tcp_only(tmp_path: Path) -> None:
    wire = Wire()
    for n in (1, 0, 2):
        wire.packet(pieces(1, 1001)[n])
    account = traced(tmp_path, wire, profile="pcapkit").account
    assert (account.frames, account.in_flows, account.verdicts[Verdict.NOT_TCP]) == (3, 0, 3)


@pytest.mark.parametrize("batch", [1, 2, 7, 4096])
def test_batches_do_not_matter(tmp_path: Path, batch: int) -> None:
    wire = Wire()
    for ident in range(40):
        for n in ((ident * 7 + 3) % 3, (ident * 7 + 4) % 3, (ident * 7 + 5) % 3):
            wire.packet(pieces(ident, 2000 + ident)[n])
    path = tmp_path / "fragments.pcap"
    path.write_bytes(wire.pcap_octets())
    table, late, verdicts = FragmentTable(), [], []
    with open_source(path) as captures:
        for read in captures.batches():
            for start in range(0, len(read.frames), batch):
                frames = read.frames[start : start + batch]
                packets = decode_batch(read.octets, frames, np.zeros(len(frames), PACKET))
                at = 0
                while at < len(packets):
                    at = table.resolve(read.octets, frames, packets, read.first_number + start, at)
                    late += [(number, int(packet[0]["src_port"])) for number, _, packet in table.released()]
                verdicts += packets["verdict"].tolist()
    assert [(number - 1) // 3 for number, port in late] == [port - 2000 for _, port in late]
    assert sorted(number for number, _ in late) == [
        number for number, verdict in enumerate(verdicts, 1) if verdict == Verdict.FRAGMENT_WITHOUT_PORTS
    ]


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    """1000 datagrams, first fragments last, in a table for 16 with 8 places to wait: 8 at most are late."""
    wire = Wire()
    wire.step_ns = 1000
    for ident in range(1000):
        wire.packet(pieces(ident, 2000 + ident, 2)[1])
    for ident in range(1000):
        wire.packet(pieces(ident, 2000 + ident, 2)[0])
    path = tmp_path / "flood.pcap"
    path.write_bytes(wire.pcap_octets())
    table, late = FragmentTable(16, 8), 0
    with open_source(path) as captures:
        for read in captures.batches():
            packets = decode_batch(read.octets, read.frames, np.zeros(len(read.frames), PACKET))
            at = 0
            while at < len(packets):
                at = table.resolve(read.octets, read.frames, packets, read.first_number, at)
                for number, _, packet in table.released():
                    assert packet[0]["src_port"] == 2000 + number - 1
                    late += 1
    assert late <= 8
    assert table.evicted >= 1000 - 16
