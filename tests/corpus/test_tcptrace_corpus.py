"""tcptrace and traceflow see the same TCP connections: packets, data, SYN, FIN and ACK of each direction.

Of 18 captures of tcptrace's own tests, ../shared/oracle/tcptrace_flows.jsonl has its long output. tcptrace keeps a
connection after its close until a SYN opens the next on the same ends, and so does traceflow here. Six captures are
in formats that traceflow refuses (snoop, ERF): their records are written anew as pcap here, and then compared as well.
Differences: differences.tsv, docs/differences.md.
"""

from __future__ import annotations

import gzip
import io
import ipaddress
import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from recount import (
    TCP,
    End,
    Frame,
    Rule,
    by_flow,
    captures_by_rule,
    documented,
    first_differences,
    frames_of,
    judged,
    listed,
    sides,
    sides_of_columns,
)

from traceflow import trace
from traceflow.errors import NotACaptureError, UnsupportedCaptureError
from traceflow.flows import FlowSet

ROOT = Path(__file__).resolve().parents[2]
REFUSED = (".erf.gz", ".snoop.gz", ".snp.gz")
FIN, SYN, ACK = 1, 2, 16


class Sent(NamedTuple):
    """What one end of a connection sent.

    Attributes:
        end: Address and port.
        packets: `total packets`.
        data: `actual data bytes`.
        data_packets: `actual data pkts`.
        syn: The first number of `SYN/FIN pkts sent`.
        fin: The second one.
        ack: `ack pkts sent`.
    """

    end: End
    packets: int
    data: int
    data_packets: int
    syn: int
    fin: int
    ack: int


Connection = tuple[Sent, Sent]
"""Both ends in order."""


def connection_of_row(row: dict[str, Any]) -> Connection:
    def sent(at: int, address: str, port: str) -> Sent:
        end = str(ipaddress.ip_address(address)), int(port)
        syn, fin = map(int, row["SYN/FIN_pkts_sent"][at].split("/"))
        names = ("total_packets", "actual_data_bytes", "actual_data_pkts", "ack_pkts_sent")
        packets, data, data_packets, ack = (int(row[name][at]) for name in names)
        return Sent(end, packets, data, data_packets, syn, fin, ack)

    low, high = sorted((sent(0, row["a"], row["a_port"]), sent(1, row["b"], row["b_port"])))
    return low, high


def connections(shared: Path) -> dict[str, list[Connection]]:
    """The connections of each capture."""
    captures: dict[str, list[Connection]] = {}
    with (shared / "oracle" / "tcptrace_flows.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            captures.setdefault(row["path"], []).append(connection_of_row(row))
    return captures


def connection_of_frames(flow: list[Frame]) -> Connection:
    def sent(end: End) -> Sent:
        mine = [frame for frame in flow if frame.src == end]
        flags = [sum(bool(frame.packet["flags"] & flag) for frame in mine) for flag in (SYN, FIN, ACK)]
        data = [frame.data for frame in mine]
        return Sent(end, len(mine), sum(data), sum(map(bool, data)), *flags)

    low, high = sorted((sent(flow[0].src), sent(flow[0].dst)))
    return low, high


def believed_ip_length(frames: list[Frame]) -> list[Frame]:
    """IP's total length says how much data there is, also where the frame is recorded as shorter than that."""

    def believed(frame: Frame) -> Frame:
        at, transport = int(frame.packet["link_octets"]), int(frame.packet["transport"])
        if frame.protocol != TCP or frame.packet["ip_version"] != 4:
            return frame
        headers = transport - at + 4 * (frame.octets[transport + 12] >> 4)
        return frame.but(data=frame.u16(at + 2) - headers)

    return [believed(frame) for frame in frames]


class Tcptrace:
    """The opinion of tcptrace; a row is a Connection."""

    rules: ClassVar[dict[str, Rule]] = {"ip-length": Rule(believed_ip_length)}

    def faults(self, frames: list[Frame], rows: list[Connection]) -> list[str]:
        mine = Counter(map(connection_of_frames, by_flow(frames)))
        return first_differences(mine, Counter(rows))

    def totals(self, rows: list[Connection]) -> tuple[int, int]:
        return len(rows), sum(low.packets + high.packets for low, high in rows)


# --- formats that traceflow refuses -------------------------------------------------------------------------------


def snoop_records(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Seconds, microseconds, octets on the wire, and captured octets (RFC 1761)."""
    at = 16
    while at < len(octets):
        wire, captured, record, _, seconds, micros = struct.unpack_from(">6I", octets, at)
        yield seconds, micros, wire, octets[at + 24 : at + 24 + captured]
        at += record


ERF_SKIPPED = {1: 0, 2: 2, 3: 4}
"""Octets before the link header in a record of ERF: HDLC none, Ethernet an offset and a pad, ATM the cell's header."""
LINK_OF_ERF = {1: 104, 2: 1, 3: 100}
"""Record type of ERF to link type: Cisco HDLC, Ethernet, RFC 1483."""


def erf_records(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The same of Endace's format: a time stamp of 32.32 bits in little-endian order, type, flags, three lengths."""
    at = 0
    while at < len(octets):
        fraction, seconds, kind, _, record, _, wire = struct.unpack("<II", octets[at : at + 8]) + struct.unpack(
            ">BBHHH", octets[at + 8 : at + 16]
        )
        taken = octets[at + 16 + ERF_SKIPPED[kind] : at + record]
        yield seconds, fraction * 10**6 >> 32, max(wire, len(taken)), taken
        at += record


def as_pcap(octets: bytes) -> bytes:
    """The records of a snoop or ERF capture as a pcap file."""
    snoop = octets.startswith(b"snoop\0\0\0")
    if snoop:
        assert struct.unpack_from(">II", octets, 8) == (2, 4), "version 2, Ethernet"
    link = 1 if snoop else LINK_OF_ERF[octets[8]]
    records = snoop_records(octets) if snoop else erf_records(octets)
    packed = [struct.pack("<IIII", s, us, len(taken), wire) + taken for s, us, wire, taken in records]
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link) + b"".join(packed)


def traced(shared: Path, capture: str) -> tuple[FlowSet, list[Frame]]:
    """Flows and frames of TCP."""
    path = shared / "corpus" / capture
    rewritten = capture.endswith(REFUSED)
    source = io.BytesIO(as_pcap(gzip.decompress(path.read_bytes()))) if rewritten else path
    flows, frames = frames_of(source, tcp_end="never", idle_timeout_tcp_ns=None, idle_timeout_other_ns=None)
    assert sides_of_columns(flows) == Counter(map(sides, by_flow(frames))), capture
    return flows, [frame for frame in frames if frame.protocol == TCP]


def columns_of(flows: FlowSet) -> Counter[tuple[tuple[End, int, int, int, int, int], ...]]:
    """What `Sent` has, from the columns of the flows: all but data packets, which have no column."""
    found: Counter[tuple[tuple[End, int, int, int, int, int], ...]] = Counter()
    for flow in flows:
        if flow.protocol == TCP:
            halves = ((flow.orig_addr, flow.orig_port, flow.orig), (flow.resp_addr, flow.resp_port, flow.resp))
            found[
                tuple(
                    sorted(
                        ((str(a), p), half.packets, half.payload_octets, *(int(half.flags[at]) for at in (1, 0, 4)))
                        for a, p, half in halves
                    )
                )
            ] += 1
    return found


def test_tcptrace_sees_the_same_connections(shared: Path) -> None:
    lines, wrong = listed("tcptrace"), []
    captures = connections(shared)
    for capture, rows in captures.items():
        flows, frames = traced(shared, capture)
        mine = Counter(map(connection_of_frames, by_flow(frames)))
        recounted = Counter(tuple((*s[:3], *s[4:]) for s in both) for both in mine.elements())
        assert columns_of(flows) == recounted, capture
        wrong += judged(Tcptrace(), capture, frames, rows, lines.pop(capture, None))
    assert wrong == []
    assert lines == {}, "captures that the oracle does not have"
    assert (len(captures), sum(map(len, captures.values()))) == (18, 92)


def test_the_rewritten_captures_are_refused(shared: Path) -> None:
    """The day that traceflow reads one of them, it should be compared as it is."""
    captures = [capture for capture in connections(shared) if capture.endswith(REFUSED)]
    assert len(captures) == 6
    for capture in captures:
        with pytest.raises((UnsupportedCaptureError, NotACaptureError)):
            trace(shared / "corpus" / capture)


def test_the_docs_count_the_rules_of_tcptrace() -> None:
    assert set(captures_by_rule("tcptrace")) == set(Tcptrace.rules)
    assert documented(ROOT / "docs" / "differences.md", "tcptrace") == captures_by_rule("tcptrace")
