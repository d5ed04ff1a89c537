"""The room `decode`: octets to PACKET rows, whatever the octets are.

Expectations come from the author of a frame, from the standards, from dpkt, or from tshark's columns in the shared
corpus; never from decode. Every frame is decoded in several surroundings: what lies around it must not matter.
"""

from __future__ import annotations

import csv
import gzip
import ipaddress
import itertools
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import dpkt
import numpy as np
import pytest
from effort import examples
from exchange import (
    ETHER_ARP,
    ETHER_IPV4,
    ETHER_IPV6,
    LINK_ETHERNET,
    LINK_IPV4,
    LINK_IPV6,
    LINK_LOOP,
    LINK_NULL,
    LINK_RAW,
    LINK_RAW_BSD,
    LINK_RAW_OPENBSD,
    LINK_SLL,
    LINK_SLL2,
    TCP,
    UDP,
    ethernet,
    ipv4,
    ipv6,
    link_frame,
    tcp,
    udp,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceflow.compiled import COMPILED
from traceflow.decode import LINKS, decode_batch
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, FRAGMENT, FRAME, PACKET, SEQ_KNOWN, Verdict
from traceflow.sources import open_source

SHARED = Path(__file__).resolve().parents[2] / "shared"
ALL_LINKS = (*sorted(LINKS), 189, 65535)
A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"
ESP, AH, ICMP, ICMPV6, GRE, SCTP = 50, 51, 1, 58, 47, 132
HOP, ROUTING, FRAGMENT_HEADER, NO_NEXT, DESTINATION, MOBILITY, HIP, SHIM6 = 0, 43, 44, 59, 60, 135, 139, 140
EXAMPLES = examples(150, plain=20)
relaxed = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass
class Given:
    """A frame to decode: what was captured, the link type, what was on the wire."""

    octets: bytes
    link: int = LINK_ETHERNET
    wire: int | None = None

    @property
    def sent(self) -> int:
        return max(len(self.octets), len(self.octets) if self.wire is None else self.wire)


def decode_in(filler: int, frames: list[Given], gap: int = 3) -> np.ndarray:
    """PACKET rows of frames that lie in one buffer of `filler` octets, `gap` octets apart, the last at its end."""
    buffer = bytearray([filler]) * gap
    rows = np.zeros(len(frames), FRAME)
    for row, frame in zip(rows, frames, strict=True):
        row["start"], row["captured"], row["link"] = len(buffer), len(frame.octets), frame.link
        row["wire"] = len(frame.octets) if frame.wire is None else frame.wire
        buffer += frame.octets + bytes([filler]) * gap
    last = buffer[: len(buffer) - gap]  # nothing behind the last frame: a read there would be out of bounds
    octets = np.frombuffer(bytes(last) or b"\0", np.uint8)
    return decode_batch(octets, rows, np.full(len(frames) + 2, 0xA5, np.uint8).repeat(PACKET.itemsize).view(PACKET))


def decode_all(*frames: Given) -> np.ndarray:
    """PACKET rows; the surroundings of a frame must not matter, nor what the rows held before."""
    rows = decode_in(0x00, list(frames))
    for filler in (0x06, 0x45, 0xFF):
        assert decode_in(filler, list(frames)).tobytes() == rows.tobytes()
    for row, frame in zip(rows, frames, strict=True):
        assert_sane(row, frame)
    return rows


def decode_one(octets: bytes, link: int = LINK_ETHERNET, wire: int | None = None) -> np.void:
    return decode_all(Given(octets, link, wire))[0]


def assert_sane(row: np.void, frame: Given) -> None:
    """What holds for every frame, however broken."""
    verdict, sent = Verdict(int(row["verdict"])), frame.sent
    link, payload, octets = int(row["link_octets"]), int(row["payload"]), int(row["payload_octets"])
    assert link <= len(frame.octets), "the IP header begins behind what was captured"
    assert link + int(row["ip_octets"]) <= sent, "the IP packet ends behind the frame"
    assert int(row["transport"]) <= sent, "the transport header begins behind the frame"
    assert payload <= sent, "the payload begins behind the frame"
    assert payload + octets <= sent, "the payload ends behind the frame"
    if verdict == Verdict.FLOW:
        assert row["ip_version"] in (4, 6)
        assert link <= int(row["transport"]) <= payload
    if row["protocol"] not in (TCP, UDP, SCTP, 33, 136, ICMP, ICMPV6) or verdict != Verdict.FLOW:
        assert row["src_port"] == 0
        assert row["dst_port"] == 0
    if not row["bits"] & FLAGS_KNOWN:
        assert row["flags"] == 0
    if not row["bits"] & SEQ_KNOWN:
        assert row["seq"] == 0
    if not row["bits"] & ACK_KNOWN:
        assert row["ack"] == 0


def verdict_of(octets: bytes, link: int = LINK_ETHERNET, wire: int | None = None) -> Verdict:
    return Verdict(int(decode_one(octets, link, wire)["verdict"]))


def ends_of(row: np.void) -> tuple[str, int, str, int]:
    """Both ends as text, independent of `labels`."""
    found = []
    for side in ("src", "dst"):
        number = int(row[f"{side}_hi"]) << 64 | int(row[f"{side}_lo"])
        if row["ip_version"] == 4:
            assert number >> 32 == 0xFFFF, "an IPv4 address is held mapped (RFC 4291, 2.5.5.2)"
            found += [str(ipaddress.IPv4Address(number & 0xFFFFFFFF)), int(row[f"{side}_port"])]
        else:
            found += [str(ipaddress.IPv6Address(number)), int(row[f"{side}_port"])]
    return tuple(found)


def extension(following: int, units: int = 0) -> bytes:
    """An extension header of 8 * (units + 1) octets, filled with Pad1 (RFC 8200, 4.2)."""
    return bytes((following, units)) + bytes(8 * units + 6)


def fragment_header(following: int, offset: int = 0, more: bool = False) -> bytes:
    """RFC 8200, 4.5: the offset is in units of 8 octets, in the upper 13 bits."""
    return struct.pack(">BBHI", following, 0, offset << 3 | more, 7)


def authentication(following: int, words: int = 4) -> bytes:
    """RFC 4302: the length is in words of 4 octets, minus 2."""
    return struct.pack(">BBHII", following, words, 0, 1, 1) + bytes((words + 2) * 4 - 12)


SEGMENT4 = tcp(A4, B4, 1000, 80, seq=0x01020304, ack=0xFFFEFDFC, flags=0x1B, window=0x1234, payload=b"hello")
SEGMENT6 = tcp(A6, B6, 1000, 80, seq=0x01020304, ack=0xFFFEFDFC, flags=0x1B, window=0x1234, payload=b"hello")
P4 = ipv4(A4, B4, TCP, SEGMENT4)
P6 = ipv6(A6, B6, TCP, SEGMENT6)
D4 = ipv4(A4, B4, UDP, udp(A4, B4, 1000, 53, b"data"))


def assert_segment(row: np.void, version: int) -> None:
    """The columns of SEGMENT4 or SEGMENT6."""
    ends = (A4, 1000, B4, 80) if version == 4 else (A6, 1000, B6, 80)
    assert (row["verdict"], ends_of(row), row["protocol"], row["ip_version"]) == (Verdict.FLOW, ends, TCP, version)
    assert (row["seq"], row["ack"], row["flags"], row["window"]) == (0x01020304, 0xFFFEFDFC, 0x1B, 0x1234)
    assert row["bits"] & (SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN) == SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN
    assert row["payload_octets"] == 5
    assert row["payload"] == row["transport"] + 20


# --- link layer --------------------------------------------------------------------------------------------------


LINK_OCTETS = {
    LINK_NULL: 4,
    LINK_ETHERNET: 14,
    LINK_RAW_BSD: 0,
    LINK_RAW_OPENBSD: 0,
    LINK_RAW: 0,
    LINK_LOOP: 4,
    LINK_SLL: 16,
    LINK_SLL2: 20,
    LINK_IPV4: 0,
    LINK_IPV6: 0,
}
"""Header lengths from the LINKTYPE_ pages of the tcpdump group."""


def test_every_link_type_has_a_header_length_here() -> None:
    assert set(LINK_OCTETS) <= set(LINKS)  # the others: tests/test_links_rare.py


@pytest.mark.parametrize(("link", "version"), list(itertools.product(LINK_OCTETS, (4, 6))))
def test_link_type(link: int, version: int) -> None:
    if (link, version) in ((LINK_IPV4, 6), (LINK_IPV6, 4)):
        assert verdict_of((P6 if version == 6 else P4) + bytes(20), link) == Verdict.MALFORMED_IP
        return
    packet = P4 if version == 4 else P6
    row = decode_one(link_frame(link, packet), link)
    assert_segment(row, version)
    header = 20 if version == 4 else 40
    assert (row["link_octets"], row["transport"]) == (LINK_OCTETS[link], LINK_OCTETS[link] + header)
    assert row["ip_octets"] == len(packet)
    assert (row["vlan_tags"], row["vlan_outer"], row["vlan_inner"]) == (0, 0, 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("link", [LINK_NULL, LINK_LOOP])
@pytest.mark.parametrize("family", [24, 28, 30])
def test_address_family_of_ipv6(link: int, order: str, family: int) -> None:
    assert_segment(decode_one(struct.pack(order + "I", family) + P6, link), 6)


@pytest.mark.parametrize(
    "family", ["00000000", "00000003", "03000000", "00020002", "02000002", "00000200", "ffffffff", "00010002"]
)
def test_no_address_family(family: str) -> None:
    assert verdict_of(bytes.fromhex(family) + P4, LINK_NULL) == Verdict.NOT_IP


@pytest.mark.parametrize("link", [LINK_RAW, LINK_RAW_BSD, LINK_RAW_OPENBSD])
@pytest.mark.parametrize("version", [0, 1, 5, 7, 15])
def test_raw_packet_of_another_version(link: int, version: int) -> None:
    assert verdict_of(bytes([version << 4 | 5]) + bytes(59), link) == Verdict.MALFORMED_IP


@pytest.mark.parametrize("link", [2, 147, 189, 300, 65535])
def test_unsupported_link(link: int) -> None:
    assert verdict_of(ethernet(P4, ETHER_IPV4), link) == Verdict.UNSUPPORTED_LINK
    assert verdict_of(b"", link) == Verdict.UNSUPPORTED_LINK


@pytest.mark.parametrize("ethertype", [ETHER_ARP, 0x88CC, 0x0600, 0x0842, 0x8847, 0xFFFF])
def test_not_ip(ethertype: int) -> None:
    assert verdict_of(ethernet(P4, ethertype)) == Verdict.NOT_IP
    assert verdict_of(struct.pack(">HHH6s2xH", 0, 1, 6, b"", ethertype) + P4, LINK_SLL) == Verdict.NOT_IP


@pytest.mark.parametrize("protocol", [1, 3, 0x0C])  # Novell 802.3, all packets, CAN: kernel numbers, no LLC behind
def test_cooked_protocols_of_the_kernel(protocol: int) -> None:
    snap = b"\xaa\xaa\x03\0\0\0\x08\0" + P4
    assert verdict_of(struct.pack(">HHH6s2xH", 0, 1, 6, b"", protocol) + snap, LINK_SLL) == Verdict.NOT_IP


def test_cooked_802_2() -> None:
    """Protocol 4 of a cooked header says that an 802.2 header follows (packet(7), ETH_P_802_2)."""
    snap = b"\xaa\xaa\x03\0\0\0\x08\0" + P4
    row = decode_one(struct.pack(">HHH6s2xH", 0, 1, 6, b"", 4) + snap, LINK_SLL)
    assert_segment(row, 4)
    assert row["link_octets"] == 16 + 8


LINK_FRELAY = 107


@pytest.mark.parametrize(
    "header",
    [
        "1861 0800",  # an EtherType: Cisco's encapsulation; tshark 4.0.17 says fr:ip of it
        "1860 81 0800",  # Q.922, 3.2: the last octet of the address has its lowest bit set
        "1860 80 81 0800",
        "1861 03cc",  # RFC 2427, 5: NLPID of IP
        "1860 80 81 03cc",
        "1861 03 00 80 000000 0800",  # RFC 2427, 4.1: padding, NLPID of SNAP
    ],
)
def test_frame_relay(header: str) -> None:
    row = decode_one(bytes.fromhex(header) + P4, LINK_FRELAY)
    assert_segment(row, 4)
    assert row["link_octets"] == len(bytes.fromhex(header))


def test_frame_relay_without_ip() -> None:
    assert verdict_of(bytes.fromhex("1861 0806") + P4, LINK_FRELAY) == Verdict.NOT_IP  # ARP
    assert verdict_of(bytes.fromhex("1861 0308") + P4, LINK_FRELAY) == Verdict.NOT_IP  # NLPID of Q.933
    assert (
        verdict_of(bytes.fromhex("000c 0522") + P4, LINK_FRELAY) == Verdict.NOT_IP
    )  # an address of three octets, no EtherType of IP
    for octets in ("18", "1861", "1861 03", "1860 80 80 80", "1861 0300 80 000000 08"):
        assert verdict_of(bytes.fromhex(octets), LINK_FRELAY) == Verdict.TRUNCATED_LINK, octets


STACKS = [
    [(0x8100, 10)],
    [(0x88A8, 100), (0x8100, 10)],
    [(0x9100, 100), (0x8100, 10)],
    [(0x8100, 4095), (0x8100, 1)],
    [(0x88A8, 7), (0x8100, 100), (0x8100, 10)],
    [(0x8100, 0xF00A)],  # priority 7, drop eligible, VLAN 10
    [(0x8100, n + 1) for n in range(300)],  # more tags than the column can count
]


@pytest.mark.parametrize("tags", STACKS, ids=lambda tags: f"{len(tags)}x{tags[0][0]:x}-{tags[0][1]:x}")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("link", [LINK_ETHERNET, LINK_SLL, LINK_SLL2])
def test_vlan_stack(link: int, version: int, tags: list[tuple[int, int]]) -> None:
    row = decode_one(link_frame(link, P4 if version == 4 else P6, tags=tags), link)
    assert_segment(row, version)
    assert row["link_octets"] == LINK_OCTETS[link] + 4 * len(tags)
    assert row["vlan_tags"] == min(len(tags), 255)
    assert row["vlan_outer"] == tags[0][1] & 0xFFF
    assert row["vlan_inner"] == (tags[-1][1] & 0xFFF if len(tags) > 1 else 0)


def test_not_ip_behind_a_tag() -> None:
    assert verdict_of(ethernet(bytes(28), ETHER_ARP, tags=[(0x8100, 5)])) == Verdict.NOT_IP


SNAP4, SNAP6 = bytes.fromhex("aaaa03000000 0800"), bytes.fromhex("aaaa03000000 86dd")


@pytest.mark.parametrize("tags", [[], [(0x8100, 10)], [(0x88A8, 9), (0x8100, 10)]])
@pytest.mark.parametrize(
    ("header", "version"), [(SNAP4, 4), (SNAP6, 6), (b"\x06\x06\x03", 4)], ids=["snap4", "snap6", "sap6"]
)
def test_802_3(header: bytes, version: int, tags: list[tuple[int, int]]) -> None:
    body = header + (P4 if version == 4 else P6)
    row = decode_one(ethernet(body, len(body), tags=tags))
    assert_segment(row, version)
    assert (row["link_octets"], row["vlan_tags"]) == (14 + 4 * len(tags) + len(header), len(tags))


def test_vlan_behind_snap_behind_vlan() -> None:
    body = bytes.fromhex("aaaa03000000 8100 0014 0800") + P4
    row = decode_one(ethernet(body, len(body), tags=[(0x8100, 10)]))
    assert_segment(row, 4)
    assert (row["vlan_tags"], row["vlan_outer"], row["vlan_inner"]) == (2, 10, 20)


@pytest.mark.parametrize(
    "body", ["424203", "ffff", "aaaa03080007 80f3", "aaaa03000000 0004", "aaab03000000 0800", "e0e003"]
)
def test_802_3_without_ip(body: str) -> None:
    octets = bytes.fromhex(body.replace(" ", "")) + bytes(40)
    assert verdict_of(ethernet(octets, len(octets))) == Verdict.NOT_IP


# --- IPv4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", range(11))
def test_ipv4_options(words: int) -> None:
    row = decode_one(ethernet(ipv4(A4, B4, TCP, SEGMENT4, options=b"\x01" * 4 * words), ETHER_IPV4))
    assert_segment(row, 4)
    assert row["transport"] == 14 + 20 + 4 * words


@pytest.mark.parametrize("first", [0x40, 0x41, 0x44, 0x55, 0x65, 0x05, 0xF5])
def test_ipv4_header_that_contradicts_itself(first: int) -> None:
    assert verdict_of(ethernet(bytes([first]) + P4[1:], ETHER_IPV4)) == Verdict.MALFORMED_IP


def with_total(packet: bytes, total: int) -> bytes:
    return packet[:2] + struct.pack(">H", total) + packet[4:]


@pytest.mark.parametrize("total", [1, 19, 23])
def test_ipv4_total_length_below_its_header(total: int) -> None:
    packet = with_total(ipv4(A4, B4, TCP, SEGMENT4, options=b"\x01" * 4), total)
    assert verdict_of(ethernet(packet, ETHER_IPV4)) == Verdict.MALFORMED_IP


def test_ipv4_total_length_zero_fills_the_frame() -> None:
    """Segmentation offload: the packet has what the frame had on the wire, not what was captured of it."""
    row = decode_one(ethernet(with_total(P4, 0), ETHER_IPV4))
    assert_segment(row, 4)
    assert row["ip_octets"] == 45
    row = decode_one(ethernet(with_total(P4, 0), ETHER_IPV4), wire=14 + 20 + 20 + 65_000)
    assert (row["payload_octets"], row["ip_octets"]) == (65_000, 65_040)


def test_ipv4_total_length_beyond_the_frame() -> None:
    row = decode_one(ethernet(with_total(P4, 0xFFFF), ETHER_IPV4))
    assert_segment(row, 4)
    assert row["ip_octets"] == 45


def test_ethernet_padding_is_no_payload() -> None:
    """46 octets at least behind an Ethernet header: an ACK of 40 octets is padded with 6."""
    packet = ipv4(A4, B4, TCP, tcp(A4, B4, 1, 2))
    row = decode_one(ethernet(packet + b"\xee" * 6, ETHER_IPV4))
    assert (row["payload_octets"], row["ip_octets"], row["verdict"]) == (0, 40, Verdict.FLOW)


def test_padding_is_no_header() -> None:
    """A TCP packet of 4 octets in a padded frame has ports, and no sequence number."""
    packet = ipv4(A4, B4, TCP, struct.pack(">HH", 1000, 80))
    row = decode_one(ethernet(packet + b"\xff" * 22, ETHER_IPV4))
    assert (row["verdict"], row["src_port"], row["dst_port"]) == (Verdict.FLOW, 1000, 80)
    assert (row["bits"], row["seq"], row["flags"], row["window"], row["payload_octets"]) == (0, 0, 0, 0, 0)
    packet = ipv4(A4, B4, TCP, b"\x03\xe8\x00")  # three octets are no ports
    assert verdict_of(ethernet(packet + b"\xff" * 23, ETHER_IPV4)) == Verdict.TRUNCATED_PORTS


@pytest.mark.parametrize(
    ("length", "payload"),
    [(8, 0), (12, 4), (20, 12), (21, 12), (7, 12), (0, 12), (0xFFFF, 12)],
    ids=["empty", "shorter", "exact", "longer", "too small", "zero", "huge"],
)
def test_udp_length(length: int, payload: int) -> None:
    """12 octets lie behind the header. A smaller true length tells padding; one that cannot be true tells nothing."""
    datagram = struct.pack(">HHHH", 1000, 53, length, 0) + bytes(12)
    row = decode_one(ethernet(ipv4(A4, B4, UDP, datagram), ETHER_IPV4))
    assert (row["payload_octets"], row["payload"] - row["transport"], row["verdict"]) == (payload, 8, Verdict.FLOW)


@pytest.mark.parametrize(("words", "octets"), [(0, 20), (4, 20), (5, 20), (8, 32), (15, 60)])
def test_tcp_data_offset(words: int, octets: int) -> None:
    """60 octets follow the ports' place; an offset below the smallest header (5 words) cannot be true."""
    segment = bytearray(tcp(A4, B4, 1, 2, payload=bytes(60)))
    segment[12] = words << 4 | 0xF
    row = decode_one(ethernet(ipv4(A4, B4, TCP, bytes(segment)), ETHER_IPV4))
    assert (row["payload"] - row["transport"], row["payload_octets"]) == (octets, 80 - octets)


def test_tcp_data_offset_behind_the_packet() -> None:
    segment = bytearray(SEGMENT4)
    segment[12] = 0xF0  # 60 octets, of which 25 are there
    row = decode_one(ethernet(ipv4(A4, B4, TCP, bytes(segment)), ETHER_IPV4))
    assert (row["verdict"], row["payload_octets"]) == (Verdict.FLOW, 0)


@pytest.mark.parametrize("protocol", [ICMP, GRE, ESP, 0, 253, 255, HOP, FRAGMENT_HEADER, DESTINATION, NO_NEXT])
def test_other_protocol_over_ipv4(protocol: int) -> None:
    """Extension header numbers mean nothing special in IPv4."""
    row = decode_one(ethernet(ipv4(A4, B4, protocol, b"12345"), ETHER_IPV4))
    assert (row["verdict"], row["protocol"], ends_of(row)) == (Verdict.FLOW, protocol, (A4, 0, B4, 0))
    assert (row["transport"], row["payload"], row["payload_octets"]) == (34, 34, 5)


def test_authentication_header_over_ipv4() -> None:
    row = decode_one(ethernet(ipv4(A4, B4, AH, authentication(TCP) + SEGMENT4), ETHER_IPV4))
    assert_segment(row, 4)
    assert row["transport"] == 14 + 20 + 24


@pytest.mark.parametrize(
    ("protocol", "offset", "more", "verdict"),
    [
        (TCP, 0, True, Verdict.FLOW),
        (TCP, 1, True, Verdict.FRAGMENT_WITHOUT_PORTS),
        (TCP, 0x1FFF, False, Verdict.FRAGMENT_WITHOUT_PORTS),
        (UDP, 0, True, Verdict.FLOW),
        (UDP, 185, False, Verdict.FRAGMENT_WITHOUT_PORTS),
        (ICMP, 0, True, Verdict.FLOW),
        (ICMP, 185, False, Verdict.FRAGMENT_WITHOUT_PORTS),
    ],
)
def test_ipv4_fragment(protocol: int, offset: int, more: bool, verdict: Verdict) -> None:
    row = decode_one(ethernet(ipv4(A4, B4, protocol, SEGMENT4, fragment=offset, more=more), ETHER_IPV4))
    assert (row["verdict"], row["protocol"]) == (verdict, protocol)
    assert row["bits"] & FRAGMENT
    if offset:
        assert (row["src_port"], row["dst_port"]) == (0, 0), "no invented ports"
        assert row["payload_octets"] == len(SEGMENT4)


def test_dont_fragment_is_no_fragment() -> None:
    packet = P4[:6] + b"\x40\x00" + P4[8:]
    assert not decode_one(ethernet(packet, ETHER_IPV4))["bits"] & FRAGMENT


# --- IPv6 --------------------------------------------------------------------------------------------------------

CHAINS = {
    "hop-by-hop": (HOP, extension(TCP)),
    "routing": (ROUTING, extension(TCP, 2)),
    "destination": (DESTINATION, extension(TCP, 3)),
    "atomic fragment": (FRAGMENT_HEADER, fragment_header(TCP)),
    "authentication": (AH, authentication(TCP)),
    "shortest authentication": (AH, struct.pack(">BBHI", TCP, 0, 0, 1)),
    "mobility": (MOBILITY, extension(TCP)),
    "host identity": (HIP, extension(TCP)),
    "shim6": (SHIM6, extension(TCP)),
    "all": (
        HOP,
        extension(DESTINATION)
        + extension(ROUTING, 1)
        + extension(FRAGMENT_HEADER, 2)
        + fragment_header(AH)
        + authentication(DESTINATION)
        + extension(TCP),
    ),
    "64 headers": (DESTINATION, extension(DESTINATION) * 63 + extension(TCP)),
    "longest header": (DESTINATION, extension(TCP, 255)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_ipv6_chain(name: str) -> None:
    first, chain = CHAINS[name]
    packet = ipv6(A6, B6, first, chain + SEGMENT6)
    row = decode_one(ethernet(packet, ETHER_IPV6))
    assert_segment(row, 6)
    assert (row["transport"], row["ip_octets"]) == (14 + 40 + len(chain), len(packet))
    assert not row["bits"] & FRAGMENT  # an atomic fragment is a whole packet (RFC 6946)


def test_endless_chain_ends() -> None:
    """A frame of 60 000 octets that holds nothing but extension headers."""
    chain = extension(DESTINATION) * 7500
    assert verdict_of(ethernet(ipv6(A6, B6, DESTINATION, chain), ETHER_IPV6)) == Verdict.MALFORMED_IP


@pytest.mark.parametrize("name", CHAINS)
def test_chain_that_ends_where_a_header_should_begin(name: str) -> None:
    first, chain = CHAINS[name]
    assert verdict_of(ethernet(ipv6(A6, B6, first, chain), ETHER_IPV6)) == Verdict.TRUNCATED_PORTS
    header = ipv6(A6, B6, HOP, extension(first)[:8])  # and no header of `first` at all
    assert verdict_of(ethernet(header, ETHER_IPV6)) == Verdict.MALFORMED_IP


@pytest.mark.parametrize("protocol", [ICMPV6, ESP, NO_NEXT, 253])
def test_other_protocol_over_ipv6(protocol: int) -> None:
    row = decode_one(ethernet(ipv6(A6, B6, HOP, extension(protocol) + b"12345"), ETHER_IPV6))
    assert (row["verdict"], row["protocol"], ends_of(row)) == (Verdict.FLOW, protocol, (A6, 0, B6, 0))
    assert (row["transport"], row["payload_octets"]) == (14 + 48, 5)


def test_extension_header_longer_than_the_packet() -> None:
    """It announces 2048 octets and 13 are there: what follows lies nowhere, so no column may point behind the frame."""
    chain = bytes((ICMPV6, 255)) + bytes(11)
    row = decode_one(ethernet(ipv6(A6, B6, DESTINATION, chain), ETHER_IPV6))
    assert (row["payload_octets"], row["ip_octets"]) == (0, 53)


@pytest.mark.parametrize(
    ("following", "verdict"),
    [
        (TCP, Verdict.FRAGMENT_WITHOUT_PORTS),
        (UDP, Verdict.FRAGMENT_WITHOUT_PORTS),
        (ICMPV6, Verdict.FRAGMENT_WITHOUT_PORTS),
        (ESP, Verdict.FLOW),
        (DESTINATION, Verdict.FRAGMENT_WITHOUT_PORTS),
        (AH, Verdict.FRAGMENT_WITHOUT_PORTS),
        (FRAGMENT_HEADER, Verdict.FRAGMENT_WITHOUT_PORTS),
    ],
)
def test_later_ipv6_fragment(following: int, verdict: Verdict) -> None:
    """Behind a later fragment a chain cannot be followed: which protocol it is stays unknown."""
    packet = ipv6(A6, B6, HOP, extension(FRAGMENT_HEADER) + fragment_header(following, 3) + SEGMENT6)
    row = decode_one(ethernet(packet, ETHER_IPV6))
    assert row["verdict"] == verdict
    assert row["bits"] & FRAGMENT
    assert (row["src_port"], row["seq"], row["payload_octets"]) == (0, 0, len(SEGMENT6))


def test_first_ipv6_fragment_has_ports() -> None:
    row = decode_one(ethernet(ipv6(A6, B6, FRAGMENT_HEADER, fragment_header(TCP, 0, True) + SEGMENT6), ETHER_IPV6))
    assert_segment(row, 6)
    assert row["bits"] & FRAGMENT


def test_ipv6_payload_length_zero() -> None:
    """A jumbogram or segmentation offload fills the frame; with no next header there is nothing to fill it with."""
    row = decode_one(ethernet(ipv6(A6, B6, TCP, SEGMENT6, total=0), ETHER_IPV6))
    assert_segment(row, 6)
    assert row["ip_octets"] == 40 + len(SEGMENT6)
    row = decode_one(ethernet(ipv6(A6, B6, NO_NEXT, b"") + bytes(6), ETHER_IPV6))
    assert (row["verdict"], row["ip_octets"], row["payload_octets"]) == (Verdict.FLOW, 40, 0)


@pytest.mark.parametrize("version", [0, 4, 5, 7, 15])
def test_ipv6_of_another_version(version: int) -> None:
    packet = bytes([version << 4]) + P6[1:]
    assert verdict_of(ethernet(packet, ETHER_IPV6)) == Verdict.MALFORMED_IP


# --- truncation --------------------------------------------------------------------------------------------------


@dataclass
class Whole:
    """A frame with TCP or UDP in it, and where its headers end.

    `chained` is where the last header that tells the transport protocol is complete: before it, IP is truncated.
    """

    octets: bytes
    link: int
    linked: int
    chained: int
    transport: int


def _wholes() -> dict[str, Whole]:
    options4 = ipv4(A4, B4, TCP, SEGMENT4, options=b"\x01" * 40)
    stack = [(0x88A8, 1), (0x8100, 2), (0x9100, 3)]
    body = SNAP4 + D4
    chain = extension(ROUTING) + extension(FRAGMENT_HEADER) + fragment_header(AH, 0, True)
    chain += struct.pack(">BBHI", TCP, 0, 0, 1)
    chained = ipv6(A6, B6, HOP, chain + SEGMENT6)
    many = ipv6(A6, B6, DESTINATION, CHAINS["64 headers"][1] + SEGMENT6)
    found = {
        "options": Whole(ethernet(options4, ETHER_IPV4), 1, 14, 74, 74),
        "three tags": Whole(ethernet(P4, ETHER_IPV4, tags=stack), 1, 26, 46, 46),
        "SNAP": Whole(ethernet(body, len(body)), 1, 22, 42, 42),
        "chain": Whole(ethernet(chained, ETHER_IPV6), 1, 14, 14 + 40 + 32, 14 + 40 + 32),
        "64 headers": Whole(ethernet(many, ETHER_IPV6), 1, 14, 14 + 40 + 512, 14 + 40 + 512),
        "IPv4 AH": Whole(
            ethernet(ipv4(A4, B4, AH, struct.pack(">BBHI", TCP, 0, 0, 1) + SEGMENT4), ETHER_IPV4), 1, 14, 42, 42
        ),
    }
    for link, size in LINK_OCTETS.items():
        for version, header in ((4, 20), (6, 40)):
            if (link, version) not in ((LINK_IPV4, 6), (LINK_IPV6, 4)):
                octets = link_frame(link, P4 if version == 4 else P6)
                found[f"{LINKS[link]}-{link}-{version}"] = Whole(octets, link, size, size + header, size + header)
    return found


WHOLES = _wholes()


@pytest.mark.parametrize("name", WHOLES)
def test_cut_at_every_octet(name: str) -> None:
    """Cut by the snaplen: the verdict names the header that is cut; four octets of TCP are enough for a flow."""
    whole = WHOLES[name]
    frames = [Given(whole.octets[:cut], whole.link, len(whole.octets)) for cut in range(len(whole.octets) + 1)]
    complete = decode_one(whole.octets, whole.link)
    for cut, row in enumerate(decode_all(*frames)):
        if cut < whole.linked:
            expected = Verdict.TRUNCATED_LINK
        elif cut < whole.chained:
            expected = Verdict.TRUNCATED_IP
        elif cut < whole.transport + 4:
            expected = Verdict.TRUNCATED_PORTS
        else:
            expected = Verdict.FLOW
        assert (cut, Verdict(int(row["verdict"]))) == (cut, expected)
        if expected != Verdict.FLOW:
            continue
        assert ends_of(row) == ends_of(complete)
        assert row["ip_octets"] == complete["ip_octets"], "counted by the wire"
        if complete["protocol"] == UDP:
            assert row["payload_octets"] == complete["payload_octets"]
            continue
        # RFC 9293, 3.1: number in octets 4-7, acknowledgment 8-11, offset 12, flags 13, window 14-15.
        seen = cut - whole.transport
        for bit, name_, end in ((SEQ_KNOWN, "seq", 8), (ACK_KNOWN, "ack", 12), (FLAGS_KNOWN, "flags", 14)):
            assert bool(row["bits"] & bit) == (seen >= end)
            assert row[name_] == (complete[name_] if seen >= end else 0)
        assert row["window"] == (complete["window"] if seen >= 16 else 0)
        assert row["payload_octets"] == 5, "no options here, so 20 octets of header are right even unseen"


@pytest.mark.parametrize("name", WHOLES)
def test_frames_that_were_sent_too_short(name: str) -> None:
    """Nothing more was on the wire: whatever the verdict, positions stay inside (see `assert_sane`)."""
    whole = WHOLES[name]
    rows = decode_all(*[Given(whole.octets[:cut], whole.link) for cut in range(len(whole.octets) + 1)])
    assert all(row["verdict"] != Verdict.FLOW for row in rows[: whole.transport + 4])


def test_wire_length_below_the_captured() -> None:
    """A record that lies about the wire has been sent at least as long as it was captured."""
    assert_segment(decode_one(ethernet(P4, ETHER_IPV4), wire=0), 4)
    assert_segment(decode_one(ethernet(P4, ETHER_IPV4), wire=20), 4)


def test_every_verdict_of_decode_is_reached() -> None:
    """NOT_TCP and TABLE_FULL are the table's, FILTERED is the pipeline's, BAD_IP_CHECKSUM and DUPLICATE are of others:
    checksums.py and duplicates.py; NESTED_TOO_DEEP: test_tunnels.py."""
    found = {
        verdict_of(ethernet(P4, ETHER_IPV4)),
        verdict_of(ethernet(P4, ETHER_ARP)),
        verdict_of(P4, 189),
        verdict_of(b"\0" * 13),
        verdict_of(ethernet(P4[:19], ETHER_IPV4), wire=100),
        verdict_of(ethernet(P4[:23], ETHER_IPV4), wire=100),
        verdict_of(ethernet(b"\x40" + P4[1:], ETHER_IPV4)),
        verdict_of(ethernet(ipv4(A4, B4, UDP, bytes(8), fragment=1), ETHER_IPV4)),
    }
    elsewhere = {Verdict.NOT_TCP, Verdict.TABLE_FULL, Verdict.NESTED_TOO_DEEP}
    elsewhere |= {Verdict.BAD_IP_CHECKSUM, Verdict.DUPLICATE, Verdict.FILTERED}
    assert found == set(Verdict) - elsewhere


# --- anything at all ---------------------------------------------------------------------------------------------

HEADS = [
    b"",
    bytes(12) + b"\x08\x00\x45\x00",
    bytes(12) + b"\x08\x00\x46\x00",
    bytes(12) + b"\x86\xdd\x60\x00\x00\x00",
    bytes(12) + b"\x81\x00\x00\x01\x08\x00\x45",
    bytes(12) + b"\x81\x00\x00\x01\x81\x00",
    bytes(12) + b"\x00\x30\xaa\xaa\x03\x00\x00\x00\x86\xdd\x60",
    b"\x45\x00\x00\x00",
    b"\x60\x00\x00\x00",
    b"\x00\x00\x00\x02\x45",
    b"\x1e\x00\x00\x00\x60",
    bytes(14) + b"\x08\x00\x45",
    b"\x86\xdd" + bytes(18) + b"\x60",
    *(frame.octets[: frame.transport] for frame in WHOLES.values()),
]


@relaxed
@given(
    st.lists(
        st.builds(
            lambda head, tail, link, more: Given(head + tail, link, len(head + tail) + more),
            st.sampled_from(HEADS),
            st.binary(max_size=90),
            st.sampled_from(ALL_LINKS),
            st.sampled_from([0, 1, 7, 1000, 2**32 - 700]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_random_octets(frames: list[Given]) -> None:
    decode_all(*frames)


def test_mutated_frames() -> None:
    """Good frames with one to four octets changed, cut anywhere; the seed is fixed, so a failure stays."""
    dice = random.Random(20)
    frames = []
    for _ in range(20_000 if COMPILED else 400):
        whole = dice.choice(list(WHOLES.values()))
        octets = bytearray(whole.octets[: dice.randrange(len(whole.octets) + 1)])
        for _ in range(dice.randint(1, 4) if octets else 0):
            octets[dice.randrange(len(octets))] = dice.choice((0, 1, 4, 5, 6, 17, 44, 51, 60, 255, dice.randrange(256)))
        link = whole.link if dice.random() < 0.9 else dice.choice(ALL_LINKS)
        frames.append(Given(bytes(octets), link, len(octets) + dice.choice((0, 0, 1, 50, 2**31))))
    decode_all(*frames)


# --- dpkt as second opinion --------------------------------------------------------------------------------------

addresses4 = st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
addresses6 = st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n)))
ports = st.integers(0, 0xFFFF)
numbers = st.integers(0, 2**32 - 1)
DPKT = {LINK_ETHERNET: dpkt.ethernet.Ethernet, LINK_SLL: dpkt.sll.SLL, LINK_NULL: dpkt.loopback.Loopback}


@st.composite
def well_formed(draw: st.DrawFn) -> tuple[int, bytes]:
    """A frame by dpkt, over any link type that dpkt reads too."""
    src, dst = draw(st.tuples(addresses4, addresses4) | st.tuples(addresses6, addresses6))
    sport, dport, payload = draw(ports), draw(ports), draw(st.binary(max_size=40))
    if draw(st.booleans()):
        protocol = TCP
        octets = tcp(
            src,
            dst,
            sport,
            dport,
            seq=draw(numbers),
            ack=draw(numbers),
            flags=draw(st.integers(0, 255)),
            window=draw(ports),
            options=b"\x01" * 4 * draw(st.integers(0, 10)),
            payload=payload,
        )
    else:
        protocol, octets = UDP, udp(src, dst, sport, dport, payload)
    if ":" in src:
        first, chain = draw(st.sampled_from([(protocol, b""), (HOP, extension(protocol)), (ROUTING, None), (AH, None)]))
        if chain is None:
            chain = extension(protocol, 2) if first == ROUTING else authentication(protocol)
        packet = ipv6(src, dst, first, chain + octets)
    else:
        packet = ipv4(src, dst, protocol, octets, options=b"\x01" * 4 * draw(st.integers(0, 10)))
    link = draw(st.sampled_from(sorted(DPKT)))
    tags = draw(st.lists(st.tuples(st.just(0x8100), st.integers(1, 4094)), max_size=2)) if link == LINK_ETHERNET else []
    padding = bytes(draw(st.integers(0, 6))) if link == LINK_ETHERNET else b""
    return link, link_frame(link, packet, tags=tags) + padding


@relaxed
@given(well_formed())
def test_dpkt_agrees(frame: tuple[int, bytes]) -> None:
    link, octets = frame
    row = decode_one(octets, link)
    packet = DPKT[link](octets).data
    transport = packet.data
    assert row["verdict"] == Verdict.FLOW
    assert ends_of(row) == (
        str(ipaddress.ip_address(packet.src)),
        transport.sport,
        str(ipaddress.ip_address(packet.dst)),
        transport.dport,
    )
    assert row["payload_octets"] == len(transport.data)
    assert octets[row["payload"] : row["payload"] + row["payload_octets"]] == transport.data
    if row["protocol"] == TCP:
        assert (row["seq"], row["ack"]) == (transport.seq, transport.ack)
        assert (row["flags"], row["window"]) == (transport.flags, transport.win)
    else:
        assert isinstance(transport, dpkt.udp.UDP)


# --- tshark's columns --------------------------------------------------------------------------------------------

PLAIN = tuple(
    f"{link}{vlan}{version}:tcp"
    for link in ("eth:ethertype:", "sll:ethertype:", "sll:", "raw:", "null:")
    for vlan in ("", "vlan:ethertype:")
    for version in ("ip", "ipv6")
)
SAMPLE = 60
"""Captures compared: a bounded, fixed sample of those below, spread evenly over them."""


def sampled_captures() -> list[str]:
    """Captures of up to 3000 frames with TCP and with a link type of ours, as captures.tsv describes them."""
    if not (SHARED / "oracle").is_dir():
        return []
    with (SHARED / "oracle" / "captures.tsv").open(encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file, delimiter="\t")
            if row["format"] in ("pcap", "pcapng")
            and not row["compressed"]
            and row["linktype"] in ("1", "113", "101", "0")
            and row["tcp_frames"].isdigit()
            and 0 < int(row["tcp_frames"]) <= int(row["frames"]) <= 3000
        ]
    paths = [row["path"] for row in rows]
    return paths[:: max(1, len(paths) // SAMPLE)]


@pytest.mark.skipif(not (SHARED / "oracle").is_dir(), reason="the shared corpus is absent")
@pytest.mark.parametrize("path", sampled_captures()[:: 1 if COMPILED else 6])
def test_tshark_agrees(path: str) -> None:
    """tshark 4.0.17: src, sport, dst, dport, flags, seq_raw, ack_raw, tcp_len, window of each plain TCP frame."""
    found = {}
    with open_source(SHARED / "corpus" / path) as captures:
        number = 0
        for batch in captures.batches():
            for row in decode_batch(batch.octets, batch.frames, np.zeros(len(batch.frames), PACKET)):
                number += 1
                if row["verdict"] == Verdict.FLOW and row["protocol"] == TCP:
                    found[number] = row.copy()
    with gzip.open(SHARED / "oracle" / "tshark" / f"{path}.tsv.gz", "rt", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    compared = 0
    for line in lines:
        if line["icmp_quoted"] == "1" or line["tcp_layers"] != "1" or not _is_plain(line["protocols"]):
            continue
        number = int(line["frame"])
        row = found[number]
        if row["bits"] & FRAGMENT:
            continue  # tshark shows the reassembled segment
        compared += 1
        assert ends_of(row) == (
            str(ipaddress.ip_address(line["src"])),
            int(line["sport"]),
            str(ipaddress.ip_address(line["dst"])),
            int(line["dport"]),
        ), number
        ours = {"seq_raw": row["seq"], "ack_raw": row["ack"], "flags": row["flags"], "window": row["window"]}
        ours["tcp_len"] = row["payload_octets"]
        for name, value in ours.items():
            if line[name] != "":
                assert (number, name, int(value)) == (number, name, int(line[name], 0) & _WIDTH.get(name, 2**32 - 1))
    assert compared or all(line["icmp_quoted"] == "1" or not _is_plain(line["protocols"]) for line in lines)


_WIDTH = {"flags": 0xFF}  # tshark shows the reserved bits as well


def _is_plain(protocols: str) -> bool:
    return any(protocols == plain or protocols.startswith(plain + ":") for plain in PLAIN)
