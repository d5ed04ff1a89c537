"""Packets of dpkt, scapy and plain octets mean the same as the capture they came from.

The reference for a capture is `traceflow.trace`, whose own results are held against other programs elsewhere; what a
packet is made of is read by tests/oracle.py, or built by tests/exchange.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import dpkt
import exchange
import numpy as np
import oracle
import pytest

import traceflow
from traceflow import TraceFlow, from_dpkt, from_octets, from_scapy
from traceflow.adapters import TracedPacket, packet_of
from traceflow.errors import UsageError

ETHERNET = [
    *("http", "T01", "T02", "T04", "T06", "T07", "T08d", "T13", "T14", "T15a", "out-of-order", "other-protocols"),
    *("vlan-stacks", "llc-snap", "ipv4-options", "ipv6-extensions", "not-ip", "padding"),
]
OTHER_LINKS = [
    *("links-sll", "links-sll2", "links-loop", "links-null-little", "links-null-big", "links-raw", "links-raw-bsd"),
    *("links-ipv4", "links-ipv6", "links-raw-openbsd"),
]
CUT = ["T21a", "T21b", "T21c", "T21d", "T21e", "truncated", "malformed", "verdicts", "length-zero"]


def frames_of(path: Path) -> list[oracle.RawFrame]:
    return list(oracle.read_frames(path.read_bytes()))


def directions(path: Path) -> list[tuple[int, ...]]:
    """The frame lists of `traceflow.trace`, one a direction, in opening order."""
    flows = traceflow.trace(path)
    lists = [tuple(flow.frames_from(side).tolist()) for flow in flows for side in ("orig", "resp")]
    return sorted(filter(None, lists), key=min)


def index_of(packets: list[TracedPacket | None]) -> list[tuple[int, ...]]:
    tracer = TraceFlow()
    for one in packets:
        tracer.dump(one)
    return [index.index for index in tracer.index]


@pytest.fixture(scope="module")
def scapy() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what scapy's own imports warn of is not ours
        return pytest.importorskip("scapy.all", reason="scapy is not installed")


# --- the same capture by every way -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ETHERNET, *OTHER_LINKS, *CUT])
def test_octets_give_the_index_of_the_capture(name: str, fixtures_folder: Path) -> None:
    path = fixtures_folder / f"{name}.pcap"
    packets = [
        from_octets(
            frame.octets,
            timestamp=Decimal(frame.time_ns) / 10**9,
            index=number,
            link=frame.link,
            wire=frame.wire_octets,
        )
        for number, frame in enumerate(frames_of(path), 1)
    ]
    assert index_of(packets) == directions(path)


@pytest.mark.parametrize("name", ETHERNET)
def test_octets_and_objects_of_dpkt_give_the_index_of_the_capture(name: str, fixtures_folder: Path) -> None:
    path = fixtures_folder / f"{name}.pcap"
    with path.open("rb") as file:
        records = list(dpkt.pcap.Reader(file))
    plain = [from_dpkt(octets, timestamp=stamp, index=number) for number, (stamp, octets) in enumerate(records, 1)]
    assert index_of(plain) == directions(path)
    if name in ("fragments", "llc-snap", "ipv6-extensions", "not-ip", "vlan-stacks", "other-protocols"):
        return  # dpkt writes back something else than it read
    made = [
        from_dpkt(dpkt.ethernet.Ethernet(octets), timestamp=stamp, index=number)
        for number, (stamp, octets) in enumerate(records, 1)
    ]
    assert index_of(made) == directions(path)


@pytest.mark.parametrize("name", [*ETHERNET, *OTHER_LINKS, *CUT])
def test_packets_of_scapy_give_the_index_of_the_capture(name: str, fixtures_folder: Path, scapy: ModuleType) -> None:
    path = fixtures_folder / f"{name}.pcap"
    link = frames_of(path)[0].link
    told = link in (0, 1, 113, 276) and name not in CUT  # else its classes say only the IP version, or Raw
    known = None if told else link
    with scapy.PcapReader(str(path)) as reader:
        packets = [from_scapy(one, index=number, link=known) for number, one in enumerate(reader, 1)]
    assert index_of(packets) == directions(path)


def test_times_of_scapy_are_those_of_the_capture(fixtures_folder: Path, scapy: ModuleType) -> None:
    path = fixtures_folder / "T18b.pcap"  # five packets 1 ns apart
    with scapy.PcapReader(str(path)) as reader:
        packets = [from_scapy(one, index=number) for number, one in enumerate(reader, 1)]
    times = [frame.time_ns for frame in frames_of(path)]
    assert [one.time_ns for one in packets if one is not None] == times
    assert [times[at + 1] - times[at] for at in range(4)] == [1, 1, 1, 1]


# --- one packet --------------------------------------------------------------------------------------------------


def syn() -> bytes:
    segment = exchange.tcp("10.0.0.1", "10.0.0.2", 1000, 80, seq=100, flags=exchange.SYN)
    return exchange.ethernet(exchange.ipv4("10.0.0.1", "10.0.0.2", exchange.TCP, segment), exchange.ETHER_IPV4)


def data(payload: bytes = b"hello") -> bytes:
    flags = exchange.PSH | exchange.ACK | exchange.FIN | exchange.RST
    segment = exchange.tcp("2001:db8::1", "2001:db8::2", 1000, 80, seq=2**32 - 1, ack=0, flags=flags, payload=payload)
    packet = exchange.ipv6("2001:db8::1", "2001:db8::2", exchange.TCP, segment)
    return exchange.ethernet(packet, exchange.ETHER_IPV6)


def taken(packet: TracedPacket | None) -> TracedPacket:
    assert packet is not None
    return packet


def test_the_fields_of_a_packet() -> None:
    one = taken(from_octets(syn(), timestamp=1700000000.5, index=7, wire=2000))
    assert (one.protocol, one.index, one.transport, one.timestamp, one.time_ns) == (
        1,
        7,
        6,
        1700000000.5,
        1700000000500000000,
    )
    assert (str(one.src), one.srcport, str(one.dst), one.dstport) == ("10.0.0.1", 1000, "10.0.0.2", 80)
    assert (one.syn, one.fin, one.rst, one.seq, one.ack) == (True, False, False, 100, None)
    assert (one.octets, one.wire, one.payload_octets) == (syn(), 2000, 0)
    assert one.frame["frame"]["number"] == 7
    assert one.frame["tcp"]["srcport"] == 1000
    one = taken(from_octets(data(), timestamp=0, index=1))
    assert (str(one.src), str(one.dst)) == ("2001:db8::1", "2001:db8::2")
    assert (one.syn, one.fin, one.rst, one.seq, one.ack) == (False, True, True, 2**32 - 1, 0)
    assert one.payload_octets == 5
    assert one.wire == len(data())


def test_any_kind_of_octets_is_kept_as_it_was() -> None:
    buffer = bytearray(syn())
    packets = [from_octets(memoryview(buffer), timestamp=1, index=1), from_dpkt(buffer, timestamp=1, index=1)]  # type: ignore[arg-type]
    buffer[:] = bytes(len(buffer))
    assert [taken(one).octets for one in packets] == [syn(), syn()]
    assert type(taken(packets[0]).octets) is bytes


@pytest.mark.parametrize("cut", range(len(syn()) + 1))
def test_a_cut_frame_counts_from_the_ports_on_and_invents_nothing(cut: int) -> None:
    # Ethernet 14, IPv4 20: ports until 38, sequence number until 42, acknowledgment until 46, flags at 47.
    one = from_octets(syn()[:cut], timestamp=1, index=1, wire=54)
    if cut < 38:
        assert one is None
        return
    one = taken(one)
    assert (one.srcport, one.dstport, one.wire, one.octets) == (1000, 80, 54, syn()[:cut])
    assert one.seq == (100 if cut >= 42 else None)
    assert one.syn == (cut >= 48)


def test_what_belongs_to_no_flow_is_none() -> None:
    arp = exchange.ethernet(bytes(28), exchange.ETHER_ARP)
    for octets, link in ((arp, 1), (b"", 1), (b"\0", 101), (syn(), 105), (syn()[:20], 1), (bytes(2000), 1)):
        assert from_octets(octets, timestamp=1, index=1, link=link) is None


@pytest.mark.parametrize(
    "more",
    [
        *({"link": -1}, {"link": 2**16}, {"wire": -1}, {"wire": 2**32}, {"index": -1}, {"index": None}),
        *({"timestamp": "nan"}, {"timestamp": None}, {"timestamp": float("inf")}, {"index": 10**5000}),
    ],
    ids=lambda more: next(iter(more)),
)
def test_odd_numbers_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        from_octets(syn(), **{"timestamp": 1, "index": 1, **more})


@pytest.mark.parametrize(
    ("timestamp", "label"),
    [
        (1.5, "10.0.0.1_1000-10.0.0.2_80-1.5"),
        (1, "10.0.0.1_1000-10.0.0.2_80-1"),
        (Decimal("1.000000001"), "10.0.0.1_1000-10.0.0.2_80-1.000000001"),
        ("1.50", "10.0.0.1_1000-10.0.0.2_80-1.50"),  # seeds.md, labels: str(timestamp) as given
    ],
)
def test_the_timestamp_in_the_label(timestamp: Any, label: str) -> None:
    assert TraceFlow().trace(from_octets(syn(), timestamp=timestamp, index=1)) == label


def test_nanoseconds_of_the_clock_are_in_the_record() -> None:
    for nanosecond, digits in ((False, "1.123456"), (True, "1.123456789")):
        one = taken(from_octets(syn(), timestamp=Decimal("1.123456789"), index=1, nanosecond=nanosecond))
        assert one.time_ns == 1123456789
        assert one.frame["frame"]["time_epoch"] == digits


def test_classes_of_dpkt_tell_their_link_type() -> None:
    packet = syn()[14:]
    cooked = exchange.link_frame(exchange.LINK_SLL, packet)
    cooked2 = exchange.link_frame(exchange.LINK_SLL2, packet)
    loop = exchange.link_frame(exchange.LINK_NULL, packet)
    ip6 = data()[14:]
    for made, link in (
        (dpkt.ethernet.Ethernet(syn()), 1),
        (dpkt.ip.IP(packet), 101),
        (dpkt.ip6.IP6(ip6), 101),
        (dpkt.sll.SLL(cooked), 113),
        (dpkt.sll2.SLL2(cooked2), 276),
        (dpkt.loopback.Loopback(loop), 0),
    ):
        one = taken(from_dpkt(made, timestamp=1, index=1))
        assert (one.protocol, one.srcport, one.dstport) == (link, 1000, 80)
    with pytest.raises(UsageError, match="link type of a PPP"):
        from_dpkt(dpkt.ppp.PPP(b"\x00\x21" + packet), timestamp=1, index=1)
    one = taken(from_dpkt(packet, timestamp=1, index=1, link=228, wire=900))
    assert (one.protocol, one.wire) == (228, 900)


def test_built_packets_of_scapy(scapy: ModuleType) -> None:
    ends = {"src": "02:00:00:00:00:0a", "dst": "02:00:00:00:00:0b"}  # else scapy asks the network for them
    built = (
        scapy.Ether(**ends)
        / scapy.IP(src="10.0.0.1", dst="10.0.0.2")
        / scapy.TCP(sport=1000, dport=80, flags="S", seq=5)
    )
    one = taken(from_scapy(built / b"abc", index=3, timestamp=2))
    assert (one.protocol, one.index, one.syn, one.seq, one.ack, one.payload_octets) == (1, 3, True, 5, None, 3)
    assert taken(from_scapy(built[scapy.IP], index=1, timestamp=2)).protocol == 101
    ip6 = scapy.IPv6(src="::1", dst="::2") / scapy.UDP(sport=53, dport=53)
    assert taken(from_scapy(ip6, index=1, timestamp=2)).transport == 17
    with pytest.raises(UsageError, match="link type of a Raw"):
        from_scapy(scapy.Raw(b"abc"), index=1)


def test_what_scapy_read_counts_as_captured(scapy: ModuleType) -> None:
    octets = syn() + b"trailer"
    read = scapy.Ether(octets)
    read[scapy.TCP].flags = "F"
    assert taken(from_scapy(read, index=1, timestamp=1)).octets == octets
    changed = type(read)(bytes(read))
    one = taken(from_scapy(changed, index=1, timestamp=1))
    assert (one.syn, one.fin) == (False, True)


def test_a_packet_made_by_an_adapter_is_taken_as_it_is() -> None:
    one = taken(from_octets(syn(), timestamp=1, index=1))
    assert packet_of(one) is one


# --- imports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["traceflow.adapters", "traceflow.tracer"])
def test_importing_loads_no_packet_library(module: str) -> None:
    program = f"import sys, json, {module}; json.dump(sorted(sys.modules), sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "traceflow" in loaded
    assert not loaded & {"dpkt", "scapy"}


def test_addresses_that_look_alike_are_told_apart() -> None:
    # A cache of parsed addresses must not mix 4 and 6, text and numbers.
    tracer = TraceFlow()
    fields = {"frame": {}, "syn": False, "fin": False, "srcport": 1, "dstport": 2, "timestamp": 1}
    for index, (src, dst) in enumerate(
        [
            ("1.2.3.4", "1.2.3.5"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.5"),
            (0x01020304, 0x01020305),
            ("::102:304", "::102:305"),
        ],
        1,
    ):
        tracer.dump({**fields, "index": index, "src": src, "dst": dst})
    assert [index.index for index in tracer.index] == [(1, 3), (2,), (4,)]


def test_numpy_numbers_are_numbers() -> None:
    fields = {"frame": {}, "syn": np.bool_(True), "fin": np.bool_(False), "src": "1.2.3.4", "dst": "1.2.3.5"}
    numbers = {"srcport": np.uint16(1), "dstport": np.int64(2), "index": np.uint64(9), "timestamp": np.float32(0.5)}
    one = packet_of({**fields, **numbers, "seq": np.uint32(2**32 - 1)})
    assert (one.srcport, one.dstport, one.index, one.seq) == (1, 2, 9, 2**32 - 1)
    assert type(one.index) is int
