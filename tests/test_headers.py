"""Predicates over PACKET: host, net, port, protocol, flags, ip, vlan, tunnel. Which frames each means.

Files about one module each are beside it: test_addresses.py and test_ports.py are about what parameters may be.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import numpy as np
import pytest
from batches import passes, seen_of, tcp_frame, udp_frame
from exchange import ACK, ECE, ETHER_ARP, ETHER_IPV4, LINK_ETHERNET, PSH, SYN, ethernet, ipv4, udp

from traceflow.decode import decode_batch
from traceflow.errors import LibraryMissingError, UsageError
from traceflow.filters.contract import Seen, Selection
from traceflow.filters.kinds import make_call, runner_of
from traceflow.filters.text import parse_graph
from traceflow.packets import FRAGMENT, PACKET, Verdict
from traceflow.sources import open_source

A, B = "10.0.0.1", "10.0.0.2"
INNER = ipv4("172.16.0.1", "172.16.0.2", 17, udp("172.16.0.1", "172.16.0.2", 7, 9, b"in"))
VXLAN = struct.pack(">BxxxI", 8, 42 << 8) + ethernet(INNER, ETHER_IPV4)  # RFC 7348: flag I, VNI 42


def vlan(*ids: int) -> bytes:
    packet = ipv4("10.1.0.1", "10.1.0.2", 17, udp("10.1.0.1", "10.1.0.2", 1, 2))
    return ethernet(packet, ETHER_IPV4, tags=[(0x8100, one) for one in ids])


FRAMES = [
    tcp_frame(A, B, 1000, 80, flags=SYN),  # 0
    tcp_frame(B, A, 80, 1000, flags=SYN | ACK),  # 1
    tcp_frame(A, B, 1000, 80, b"GET /", flags=PSH | ACK),  # 2
    udp_frame(A, "192.168.7.9", 53, 5353, b"query"),  # 3
    udp_frame("2001:db8::1", "2001:db8::2", 4000, 53, b"x"),  # 4
    # an echo whose identifier is 80, which is no port
    ethernet(ipv4(B, A, 1, struct.pack(">BBHHH", 8, 0, 0, 80, 1)), ETHER_IPV4),  # 5
    ethernet(bytes(28), ETHER_ARP),  # 6: no IP packet
    vlan(42),  # 7
    vlan(7, 100),  # 8
    tcp_frame(A, B, 1000, 80)[: 14 + 10],  # 9: cut within the IP header: no IP packet
    ethernet(ipv4(A, B, 17, bytes(16), fragment=100), ETHER_IPV4),  # 10: a later fragment: no ports
    udp_frame("::ffff:10.0.0.1", "2001:db8::2", 1, 2),  # 11: IPv6, though the address is a mapped one
    ethernet(ipv4("10.9.0.1", "10.9.0.2", 4, INNER), ETHER_IPV4),  # 12: IP in IP
    ethernet(ipv4("10.9.0.1", "10.9.0.2", 17, udp("10.9.0.1", "10.9.0.2", 5, 4789, VXLAN)), ETHER_IPV4),  # 13
    tcp_frame(A, B, 1000, 80)[: 14 + 20 + 2],  # 14: cut within the ports
    tcp_frame(A, B, 1000, 80)[: 14 + 20 + 12],  # 15: cut before the flags
    tcp_frame(A, B, 1001, 65535, flags=SYN | ECE),  # 16
]


@functools.cache
def seen() -> Seen:
    return seen_of(FRAMES, wire=[max(60, len(frame)) for frame in FRAMES])


def others(frames: list[int]) -> list[int]:
    return [number for number in range(len(FRAMES)) if number not in frames]


CASES = [
    ("(host,10.0.0.1)", [0, 1, 2, 3, 5, 10, 14, 15, 16]),
    ("(host,src 10.0.0.1)", [0, 2, 3, 10, 14, 15, 16]),
    ("(host,dst 10.0.0.1)", [1, 5]),
    ("(host,2001:db8::2)", [4, 11]),
    ("(host,src 2001:DB8:0::1)", [4]),
    ("(host,::ffff:10.0.0.1)", [11]),
    ("(host,172.16.0.1)", [12, 13]),
    ("(host,10.9.0.1)", []),  # what carries a packet is not looked at
    ("(net,10.0.0.0/8)", [0, 1, 2, 3, 5, 7, 8, 10, 14, 15, 16]),
    ("(net,dst 192.168.0.0/16)", [3]),
    ("(net,0.0.0.0/0)", [0, 1, 2, 3, 5, 7, 8, 10, 12, 13, 14, 15, 16]),
    ("(net,::/0)", [4, 11]),
    ("(net,2001:db8::/126)", [4, 11]),
    ("(net,src 2001:db8::/64)", [4]),
    ("(net,::ffff:0:0/96)", [11]),
    ("(net,10.0.0.2/32)", [0, 1, 2, 5, 10, 14, 15, 16]),
    ("(port,80)", [0, 1, 2, 15]),
    ("(port,src 80)", [1]),
    ('(port,"dst 53,5000-5400")', [3, 4]),
    ('(port,"0-65535")', [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 15, 16]),
    ("(port,65535)", [16]),
    ("(protocol,tcp)", [0, 1, 2, 14, 15, 16]),
    ('(protocol,"1,udp")', [3, 4, 5, 7, 8, 10, 11, 12, 13]),
    ("(ip,6)", [4, 11]),
    ("(ip,4)", [0, 1, 2, 3, 5, 7, 8, 10, 12, 13, 14, 15, 16]),
    ("(flags,syn)", [0, 1, 16]),
    ('(flags,"syn,!ack")', [0, 16]),
    ('(flags,"syn,!ack,!ece")', [0]),
    ("(flags,!syn)", [2]),
    ("(vlan)", [7, 8]),
    ("(vlan,42)", [7]),
    ('(vlan,"1-7")', [8]),
    ("(vlan,100)", [8]),
    ("(vlan,0)", []),  # without a second tag its column is 0, which is no id then
    ("(tunnel)", [12, 13]),
    ("(tunnel,ip)", [12]),
    ("(tunnel,vxlan)", [13]),
    ("(tunnel,vxlan 42)", [13]),
    ("(tunnel,vxlan 41)", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_which_frames_a_predicate_means(text: str, expected: list[int]) -> None:
    assert passes(text, seen()) == expected
    # what is no packet, or has no such header, is what the negation means
    assert passes(f"~{text}", seen()) == others(expected)


@pytest.mark.parametrize(
    ("kind", "spellings", "canonical"),
    [
        ("protocol", ("tcp", "6", " TCP ", "6,tcp"), "TCP"),
        ("protocol", ("ospf,17", "89,UDP"), "UDP,OSPF"),
        ("protocol", ("253",), "IP253"),
        ("flags", ("syn,!ack", "! ACK , syn,syn"), "syn,!ack"),
        ("ip", ("4", "v4"), "4"),
        ("vlan", ("3,1,2", "1-3"), "1-3"),
        ("vlan", ("", " "), ""),
        ("tunnel", ("GTP-U  7",), "gtp-u 7"),
    ],
)
def test_all_spellings_have_one_form(kind: str, spellings: tuple[str, ...], canonical: str) -> None:
    calls = {make_call(kind, spelling) for spelling in (*spellings, canonical)}
    assert [call.parameter for call in calls] == [canonical]


@pytest.mark.parametrize(
    ("kind", "parameter", "says"),
    [
        ("protocol", "ucp", "Did you mean .*udp"),
        ("protocol", "tcp,", "a protocol is missing"),
        ("protocol", "256", "from 0 to 255"),
        ("protocol", "", "a protocol is missing"),
        ("flags", "sny", "Did you mean syn"),
        ("flags", "syn,!syn", "syn cannot be both"),
        ("flags", "", "unknown TCP flag ''"),
        ("ip", "5", "is 4 or 6"),
        ("vlan", "4096", "from 0 to 4095"),
        ("tunnel", "vlxan", "Did you mean vxlan"),
        ("tunnel", "vxlan 1 2", "nothing else"),
        ("tunnel", "vxlan 4294967296", "from 0 to 4294967295"),
        ("tunnel", "none", "unknown tunnel"),
    ],
)
def test_wrong_parameters(kind: str, parameter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call(kind, parameter)


def test_frames_are_what_their_comments_say() -> None:
    assert ETHER_ARP == 0x0806
    assert [int(version) for version in seen().packets["ip_version"][[0, 4, 6, 9, 11]]] == [4, 6, 0, 0, 6]


ORACLE = [
    ("(host,src 10.0.0.1)", "src host 10.0.0.1"),
    ("(net,10.0.0.0/8)", "net 10.0.0.0/8"),
    ("(net,2001:db8::/32)", "net 2001:db8::/32"),
    # libpcap knows no ports of DCCP and UDP-Lite
    ('(port,"80,1000-2000") & (protocol,"tcp,udp,sctp")', "port 80 or portrange 1000-2000"),
    ("(port,dst 53)", "dst port 53"),
    ('(protocol,"tcp,udp")', "tcp or udp"),
    ("(ip,6)", "ip6"),
    ('(ip,4) & (flags,"syn,!ack")', "tcp[tcpflags] & (tcp-syn | tcp-ack) == tcp-syn"),
]


@pytest.mark.once("libpcap is the oracle")
def test_libpcap_means_the_same_by_them(fixtures_folder: Path) -> None:
    """On our own captures, for whole IP headers right behind Ethernet: tags, tunnels and ARP are other things there."""
    try:
        make_call("BPF", "tcp")
    except LibraryMissingError as error:
        pytest.skip(str(error))
    runners = [[runner_of(parse_graph(text).nodes[0].filter) for text in (ours, f'(BPF,"{theirs}")')]
               for ours, theirs in ORACLE]  # fmt: skip
    found = [0] * len(ORACLE)
    for path in sorted(fixtures_folder.glob("*.pcap")):
        with open_source(path) as captures:
            for batch in captures.batches():
                packets = decode_batch(batch.octets, batch.frames, np.zeros(len(batch.frames), PACKET), outer=True)
                plain = (batch.frames["link"] == LINK_ETHERNET) & (packets["link_octets"] == 14)
                plain &= (packets["verdict"] == Verdict.FLOW) & (packets["bits"] & FRAGMENT == 0)
                rows = np.flatnonzero(plain)
                # libpcap passes neither extension headers of IPv6 nor authentication headers: compare where there are
                # none, so where the protocol stands in the IP header (octet 9 of IPv4, 6 of IPv6)
                at = batch.frames["start"][rows] + np.where(packets["ip_version"][rows] == 4, 14 + 9, 14 + 6)
                given = Selection(rows[batch.octets[at] == packets["protocol"][rows]].astype(np.uint32))
                for place, pair in enumerate(runners if len(given) else []):
                    mine, theirs = (one.run(Seen(batch, packets), given).indexes.tolist() for one in pair)
                    assert mine == theirs, (path.name, ORACLE[place])
                    found[place] += len(mine)
    assert min(found) > 0, "every pair means some frames"
