"""The room `decode`, tunnels: what a packet carries, and when it is only a packet."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from exchange import ETHER_IPV4, TCP, UDP, ethernet, ipv4, ipv6, udp

from traceflow.decode import decode_batch, decode_rows
from traceflow.packets import FRAME, PACKET, Tunnel, Verdict

sys.path.append(str(Path(__file__).resolve().parents[1] / "fixtures"))
from tunnel_cases import OUT_A, OUT_B, WRAPPINGS, over_ip, over_udp

A4, B4 = "10.0.0.1", "10.0.0.2"
GRE, IP_IN_IP = 47, 4


def decoded(octets: bytes, *, outer: bool = False, link: int = 1, captured: int | None = None) -> np.void:
    frames = np.zeros(1, FRAME)
    frames["captured"], frames["wire"], frames["link"] = captured or len(octets), len(octets), link
    buffer = np.frombuffer(octets[:captured] or b"\0", np.uint8)  # nothing behind it: a read there would fail
    row = decode_batch(buffer, frames, np.zeros(1, PACKET), outer=outer)[0]
    assert row["payload"] + row["payload_octets"] <= len(octets)
    return row


def nested(count: int) -> bytes:
    packet = ipv4(A4, B4, UDP, udp(A4, B4, 1, 2, b"x"))
    for _ in range(count):
        packet = ipv4(OUT_A, OUT_B, IP_IN_IP, packet)
    return ethernet(packet, ETHER_IPV4)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_inner_packet(name: str) -> None:
    build, six, identifier = WRAPPINGS[name]
    row = decoded(build(1234))
    assert (row["verdict"], row["src_port"], row["dst_port"], row["payload_octets"]) == (Verdict.FLOW, 1234, 53, 4)
    assert (row["ip_version"], row["tunnel_id"]) == (6 if six else 4, identifier)
    assert bool(row["tunnel"]) == bool(row["tunnels"])


@pytest.mark.parametrize("name", WRAPPINGS)
def test_outer_packet(name: str) -> None:
    row = decoded(WRAPPINGS[name][0](1234), outer=True)
    assert (row["verdict"], row["tunnels"], row["tunnel"]) == (Verdict.FLOW, 0, Tunnel.NONE)
    # What is not a tunnel in IP or UDP is a link header, which has no outer packet.
    in_link = name.startswith(("802", "two", "MPLS", "PPPoE"))
    assert (row["src_port"] == 1234) == in_link


@pytest.mark.parametrize("name", WRAPPINGS)
def test_cut_anywhere(name: str) -> None:
    """With fewer octets it is the inner packet, one around it, or a Verdict; nothing is read behind the end."""
    frame = WRAPPINGS[name][0](1234)
    for captured in range(1, len(frame)):
        row = decoded(frame, captured=captured)
        assert row["verdict"] in set(Verdict) - {Verdict.NESTED_TOO_DEEP, Verdict.NOT_TCP}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_any_octet_changed(name: str) -> None:
    frame = bytearray(WRAPPINGS[name][0](1234))
    for at in range(len(frame)):
        for value in (0, 0xFF, frame[at] ^ 0x80):
            kept, frame[at] = frame[at], value
            decoded(bytes(frame))
            frame[at] = kept


@pytest.mark.parametrize(("count", "verdict"), [(1, 0), (64, 0), (65, Verdict.NESTED_TOO_DEEP), (300, 9)])
def test_nesting(count: int, verdict: int) -> None:
    row = decoded(nested(count))
    assert row["verdict"] == verdict
    assert (row["tunnels"], row["src_port"]) == ((count, 1) if verdict == 0 else (64, 0))


def test_unreadable_inner_packet_leaves_the_tunnel() -> None:
    for inner in (b"", b"\x45", bytes(60), b"\x65" + bytes(60)):
        row = decoded(over_ip(GRE, struct.pack(">HH", 0, ETHER_IPV4) + inner))
        assert (row["verdict"], row["protocol"], row["tunnels"]) == (Verdict.FLOW, GRE, 0)


def test_ports_of_tunnels_with_other_things() -> None:
    for port in (4789, 8472, 48879, 4790, 6081, 2152, 3544, 6635, 5072, 1701):
        for payload in (b"", b"x", bytes(8), b"\xff" * 64, bytes(64)):
            row = decoded(over_udp(port, payload))
            assert (row["verdict"], row["protocol"], row["dst_port"]) == (Verdict.FLOW, UDP, port), (port, payload)


def test_endless_gtp_extension_headers() -> None:
    """An extension header of length 0 would follow itself for ever."""
    row = decoded(over_udp(2152, struct.pack(">BBHIHBB", 0x34, 255, 60, 1, 0, 0, 0x85) + bytes(60)))
    assert (row["protocol"], row["dst_port"]) == (UDP, 2152)


def test_inner_packet_ends_with_the_outer_one() -> None:
    """The inner length says 1000 octets more than the outer packet has; behind that is padding."""
    inner = bytearray(ipv4(A4, B4, TCP, bytes(20) + b"data"))
    inner[2:4] = struct.pack(">H", 1044)
    row = decoded(over_ip(IP_IN_IP, bytes(inner)) + bytes(100))
    assert (row["tunnels"], row["payload_octets"]) == (1, 4)


def test_teredo_must_fill_its_datagram() -> None:
    inner = ipv6("2001::1", "2001::2", UDP, udp("2001::1", "2001::2", 5, 6, b"x"))
    assert decoded(over_udp(3544, inner))["src_port"] == 5
    assert decoded(over_udp(3544, inner + b"x"))["dst_port"] == 3544


def test_vn_tag() -> None:
    """Four octets of tag and an EtherType, behind EtherType 0x8926; here a VLAN tag follows, then IPv4."""
    packet = ipv4(A4, B4, UDP, udp(A4, B4, 1234, 53, b"query"))
    tagged = bytes.fromhex("00000000 8100 000b 0800".replace(" ", "")) + packet
    row = decoded(ethernet(tagged, 0x8926))
    assert (row["verdict"], row["src_port"], row["vlan_tags"], row["vlan_outer"]) == (Verdict.FLOW, 1234, 1, 11)
    for captured in range(15, 24):
        assert decoded(ethernet(tagged, 0x8926), captured=captured)["verdict"] == Verdict.TRUNCATED_LINK


def test_pppoe_ends_what_it_carries() -> None:
    """A frame padded by 6 octets, which IP counts and PPPoE does not: no payload, as in tshark."""
    packet = ipv4(A4, B4, TCP, struct.pack(">HHIIBBHHH", 1234, 443, 1, 1, 0x50, 0x10, 100, 0, 0) + bytes(6))
    for octets, payload in ((42, 0), (46, 4), (48, 6), (900, 6)):
        row = decoded(ethernet(struct.pack(">BBHHH", 0x11, 0, 1, octets, 0x21) + packet, 0x8864))
        assert (row["verdict"], row["src_port"], row["payload_octets"]) == (Verdict.FLOW, 1234, payload)
    for octets in range(42):  # an IP packet or a TCP header that PPPoE cuts
        row = decoded(ethernet(struct.pack(">BBHHH", 0x11, 0, 1, octets, 0x21) + packet, 0x8864))
        assert row["ip_octets"] <= max(octets - 2, 0)


def test_fabric_path() -> None:
    """Outer addresses, EtherType 0x8903, two octets of forwarding tag, then a whole Ethernet frame."""
    packet = ipv4(A4, B4, UDP, udp(A4, B4, 1234, 53, b"query"))
    frame = bytes.fromhex("020abd000000 020abc000000 8903 4020") + ethernet(packet, ETHER_IPV4, tags=((0x8100, 7),))
    row = decoded(frame)
    assert (row["verdict"], row["src_port"], row["dst_port"], row["payload_octets"]) == (Verdict.FLOW, 1234, 53, 5)
    assert (row["vlan_tags"], row["vlan_outer"], row["link_octets"]) == (1, 7, 16 + 14 + 4)
    for captured in range(14, 34):
        assert decoded(frame, captured=captured)["verdict"] == Verdict.TRUNCATED_LINK


def test_a_frame_inside_fabric_path_may_end_with_its_check_sequence() -> None:
    """As tshark 4.0.17 takes it: `IPv4 total length exceeds packet length`, and 4 octets less of payload.

    A frame that is padded has its padding there, and loses nothing; what is too short for the header loses all.
    """
    around = bytes.fromhex("020abd000000 020abc000000 8903 4020")
    for payload, padding, left in (
        (b"query12", 0, 3),
        (b"query12", 3, 6),
        (b"query12", 4, 7),
        (b"q", 0, 0),
        (b"", 0, 0),
    ):
        packet = ipv4(A4, B4, UDP, udp(A4, B4, 1234, 53, payload)) + bytes(padding)
        octets = np.frombuffer(around + ethernet(packet, ETHER_IPV4), np.uint8)
        frames = np.zeros(1, FRAME)
        frames["captured"], frames["wire"], frames["link"] = len(octets), len(octets), 1
        for fcs, expected in ((False, len(payload)), (True, left)):
            rows, _ = decode_rows(octets, frames, np.zeros(1, PACKET), fabric_fcs=fcs)
            assert (rows["verdict"][0], rows["payload_octets"][0]) == (Verdict.FLOW, expected)
            assert rows["src_port"][0] == 1234
