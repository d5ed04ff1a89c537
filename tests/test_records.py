"""Frame records: fields counted by hand from octets, compared with tshark, and hostile octets."""

from __future__ import annotations

import pathlib
import shutil
import struct
import subprocess
from typing import Any

import dpkt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.decode import decode_batch
from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME, NO_TIME, PACKET, Interface, Verdict
from traceflow.sinks.records import epoch_text, frame_record

INTERFACE = Interface("test", 0, 1, 0, 10**6, "little")
NULL, ETHERNET, RAW, LOOP, SLL, SLL2 = 0, 1, 101, 108, 113, 276
MAC = bytes.fromhex("0a0b0c0d0e0f 010203040506")


PUSH = {"ack": True, "push": True}


def frame_row(octets: bytes, link: int, wire: int | None = None, **columns: int) -> np.void:
    row = np.zeros(1, FRAME)
    row["captured"], row["wire"], row["link"] = len(octets), len(octets) if wire is None else wire, link
    for name, value in columns.items():
        row[name] = value
    return row[0]


def record(octets: bytes, link: int = ETHERNET, wire: int | None = None, **columns: int) -> dict[str, Any]:
    frame = frame_row(octets, link, wire, **columns)
    buffer = np.frombuffer(octets + b"\0", np.uint8)
    packet = decode_batch(buffer, frame.reshape(1), np.zeros(1, PACKET))[0]
    return frame_record(7, octets, frame, packet, INTERFACE)


def ip4(
    payload: bytes, protocol: int = 6, options: bytes = b"", fragment: int = 0x4000, length: int | None = None
) -> bytes:
    size = 20 + len(options)
    total = size + len(payload) if length is None else length
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0xB9, total, 0x1234, fragment, 63, protocol, 0xABCD)
    return head + bytes([192, 0, 2, 1, 198, 51, 100, 2]) + options + payload


def ip6(payload: bytes, following: int = 6) -> bytes:
    head = struct.pack(">IHBB", 0x6B912345, len(payload), following, 61)
    return head + bytes.fromhex("20010db8000000000000000000000001 20010db80000000000000000000000ff") + payload


def tcp(payload: bytes = b"", options: bytes = b"", flags: int = 0x018) -> bytes:
    offset = (20 + len(options)) // 4 << 12 | flags
    return struct.pack(">HHIIHHHH", 50000, 443, 4000000000, 7, offset, 8192, 0xBEEF, 9) + options + payload


def ethernet(payload: bytes, ether: int = 0x0800) -> bytes:
    return MAC + struct.pack(">H", ether) + payload


# -- fields counted by hand ----------------------------------------------------------------------------------


def test_a_tcp_frame() -> None:
    octets = ethernet(ip4(tcp(b"hello"))) + b"\0"  # 60 octets, the smallest Ethernet frame: one octet of padding
    assert record(octets, time_ns=1_258_562_467_749_142_000, interface=2) == {
        "frame": {
            "number": 7,
            "time_epoch": "1258562467.749142",
            "time_ns": 1_258_562_467_749_142_000,
            "len": 60,
            "cap_len": 60,
            "link_type": 1,
            "interface_id": 2,
        },
        "eth": {"dst": "0a:0b:0c:0d:0e:0f", "src": "01:02:03:04:05:06", "type": 0x0800, "trailer": b"\0"},
        "ip": {
            "version": 4,
            "hdr_len": 20,
            "dsfield": {"dscp": 46, "ecn": 1},  # 0xb9 = 46 << 2 | 1
            "len": 45,
            "id": 0x1234,
            "flags": {"rb": False, "df": True, "mf": False},
            "frag_offset": 0,
            "ttl": 63,
            "proto": 6,
            "proto_name": "TCP",
            "checksum": 0xABCD,
            "src": "192.0.2.1",
            "dst": "198.51.100.2",
        },
        "tcp": {
            "srcport": 50000,
            "dstport": 443,
            "len": 5,
            "seq_raw": 4000000000,
            "ack_raw": 7,
            "hdr_len": 20,
            "flags": {"res": 0, **dict.fromkeys(("ae", "cwr", "ece", "urg", "reset", "syn", "fin"), False), **PUSH},
            "window_size_value": 8192,
            "checksum": 0xBEEF,
            "urgent_pointer": 9,
        },
        "payload": b"hello",
        "payload_len": 5,
    }


@pytest.mark.parametrize(
    ("bit", "name"),
    [
        (1, "fin"),
        (2, "syn"),
        (4, "reset"),
        (8, "push"),
        (16, "ack"),
        (32, "urg"),
        (64, "ece"),
        (128, "cwr"),
        (256, "ae"),
    ],
)
def test_tcp_flags(bit: int, name: str) -> None:  # RFC 9293, 3.1; RFC 3168; bit 7 of octet 13: RFC 3540
    flags = record(ethernet(ip4(tcp(flags=bit))))["tcp"]["flags"]
    assert [key for key, value in flags.items() if value] == [name]
    flags["fin"] = "changed"
    assert record(ethernet(ip4(tcp(flags=bit))))["tcp"]["flags"]["fin"] is (name == "fin")


def test_tcp_options() -> None:
    options = bytes.fromhex(
        "020405b4"  # MSS 1460
        "01"  # NOP
        "030307"  # window scale 7: times 128
        "0402"  # SACK permitted
        "050a 00000001 00000002"  # SACK 1-2
        "080a 0000000a 0000000b"  # time stamps 10, 11
        "fd04 beef"  # experiment 0xbeef
        "63 03 aa"  # kind 99: unknown
        "00 0000"  # end, padding
    )
    assert len(options) == 40
    assert record(ethernet(ip4(tcp(b"x", options))))["tcp"]["options"] == [
        {"kind": 2, "name": "mss", "len": 4, "mss_val": 1460},
        {"kind": 1, "name": "nop"},
        {"kind": 3, "name": "wscale", "len": 3, "shift": 7, "multiplier": 128},
        {"kind": 4, "name": "sack_perm", "len": 2},
        {"kind": 5, "name": "sack", "len": 10, "blocks": [{"sack_le": 1, "sack_re": 2}]},
        {"kind": 8, "name": "timestamp", "len": 10, "tsval": 10, "tsecr": 11},
        {"kind": 253, "name": "experimental", "len": 4, "exid": 0xBEEF, "data": b""},
        {"kind": 99, "len": 3, "data": b"\xaa"},
        {"kind": 0, "name": "eol"},
    ]


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ("01010101 020005b4", {"kind": 2, "name": "mss", "data": bytes.fromhex("0005b4"), "malformed": True}),
        ("01010101 02ff05b4", {"kind": 2, "name": "mss", "data": bytes.fromhex("ff05b4"), "malformed": True}),
        ("01010101 010101 08", {"kind": 8, "name": "timestamp", "data": b"", "malformed": True}),
        ("01010101 0203 aa 01", {"kind": 1, "name": "nop"}),
    ],
)
def test_broken_tcp_options_are_kept_as_octets(options: str, last: dict[str, Any]) -> None:
    found = record(ethernet(ip4(tcp(b"x", bytes.fromhex(options)))))
    assert found["tcp"]["options"][-1] == last
    assert found["payload"] == b"x"


def test_a_tcp_header_that_contradicts_itself() -> None:
    short = bytearray(tcp(b"x"))
    short[12] = 0x10  # four octets
    found = record(ethernet(ip4(bytes(short))))
    assert found["tcp"]["malformed"] is True
    assert (found["payload"], found["tcp"]["len"]) == (b"x", 1)
    short[12] = 0xF0  # sixty octets: more than there are
    found = record(ethernet(ip4(bytes(short))))
    assert found["tcp"]["truncated"] is True
    assert (found["payload"], found["payload_len"], found["tcp"]["len"]) == (b"", 0, 0)


def test_vlan_tags_and_ipv6_udp() -> None:
    udp = struct.pack(">HHHH", 53, 5353, 12, 0x1111) + b"data"
    octets = MAC + bytes.fromhex("88a8 a064 8100 1fff 86dd") + ip6(udp, 17)
    found = record(octets)
    assert found["eth"]["type"] == 0x88A8
    # 0xa064 = priority 5, no DEI, id 100; 0x1fff = priority 0, DEI, id 4095
    assert found["vlan"] == [
        {"tpid": 0x88A8, "priority": 5, "dei": False, "id": 100, "etype": 0x8100},
        {"tpid": 0x8100, "priority": 0, "dei": True, "id": 4095, "etype": 0x86DD},
    ]
    assert found["ipv6"] == {
        "version": 6,
        "tclass": {"dscp": 46, "ecn": 1},  # 0xb9
        "flow": 0x12345,
        "plen": 12,
        "nxt": 17,
        "nxt_name": "UDP",
        "hlim": 61,
        "src": "2001:db8::1",
        "dst": "2001:db8::ff",
    }
    assert found["udp"] == {"srcport": 53, "dstport": 5353, "length": 12, "checksum": 0x1111}
    assert (found["payload"], found["payload_len"]) == (b"data", 4)


def test_a_udp_length_below_that_of_ip_ends_the_payload() -> None:
    udp = struct.pack(">HHHH", 1, 2, 10, 0) + b"abcd"
    found = record(ethernet(ip4(udp, 17)))
    assert (found["payload"], found["payload_len"], found["eth"]["trailer"]) == (b"ab", 2, b"cd")


def test_linux_cooked_headers() -> None:
    one = bytes.fromhex("0004 0001 0006 0a0b0c0d0e0f 0000 0800") + ip4(tcp())
    wanted = {
        "pkttype": 4,
        "hatype": 1,
        "halen": 6,
        "src": {"eth": "0a:0b:0c:0d:0e:0f"},
        "unused": b"\0\0",
        "etype": 0x0800,
    }
    assert record(one, SLL)["sll"] == wanted
    assert "tcp" in record(one, SLL)
    two = bytes.fromhex("0800 0000 00000003 0304 00 04 7f00000100000000") + ip4(tcp())
    wanted = {
        "ifindex": 3,
        "hatype": 772,
        "pkttype": 0,
        "halen": 4,
        "src": {"ipv4": "127.0.0.1"},
        "unused": b"\0\0\0\0",
        "etype": 0x0800,
    }
    assert record(two, SLL2)["sll"] == wanted
    assert "tcp" in record(two, SLL2)


@pytest.mark.parametrize(
    ("family", "link", "wanted", "layer"),
    [
        ("02000000", NULL, 2, "ip"),
        ("00000002", NULL, 2, "ip"),
        ("0000001e", LOOP, 30, "ipv6"),
        ("1e000000", NULL, 30, "ipv6"),
    ],
)
def test_null_and_loop(family: str, link: int, wanted: int, layer: str) -> None:
    found = record(bytes.fromhex(family) + (ip4 if layer == "ip" else ip6)(tcp(b"x")), link)
    assert found["null"] == {"family": wanted}
    assert found[layer]["version"] == (4 if layer == "ip" else 6)
    assert found["payload"] == b"x"


def test_raw_ip_has_no_link_layer() -> None:
    assert list(record(ip6(tcp(b"x")) + b"!", RAW)) == ["frame", "ipv6", "tcp", "payload", "payload_len", "trailer"]


def test_snap_and_llc() -> None:
    snap = MAC + struct.pack(">H", 8 + 45) + bytes.fromhex("aaaa03 000000 0800") + ip4(tcp(b"hello")) + b"pad"
    found = record(snap)
    assert found["eth"]["len"] == 53
    assert found["llc"] == {"dsap": 0xAA, "ssap": 0xAA, "control": 3, "oui": 0, "type": 0x0800}
    assert (found["payload"], found["eth"]["trailer"]) == (b"hello", b"pad")
    spanning_tree = MAC + bytes.fromhex("0007 424203 01020304") + b"padding"
    found = record(spanning_tree)
    assert found["llc"] == {"dsap": 0x42, "ssap": 0x42, "control": 3}
    assert (found["payload"], found["eth"]["trailer"]) == (b"\1\2\3\4", b"padding")
    supervisory = MAC + bytes.fromhex("0004 f0f1 0103")  # S frame: RR, control 0x0301 of two octets
    assert record(supervisory)["llc"] == {"dsap": 0xF0, "ssap": 0xF1, "control": 0x0301}


def test_frames_without_ip_keep_what_follows_the_link_layer() -> None:
    found = record(ethernet(b"who has", 0x0806))
    assert (found["eth"]["type"], found["payload"], found["payload_len"]) == (0x0806, b"who has", 7)
    found = record(b"anything", 189)  # USB: not known
    assert list(found) == ["frame", "payload", "payload_len"]
    assert (found["frame"]["link_type"], found["payload"]) == (189, b"anything")


def test_ipv4_options() -> None:
    options = bytes.fromhex(
        "94 04 0000"  # router alert (RFC 2113)
        "07 07 08 c0000201"  # record route: next free place at octet 8
        "44 0c 0d 13 c0000203 00000064"  # time stamps: pointer 13, 1 overflow, flag 3: with addresses; 100 ms
        "dd 04 aabb"  # unknown
        "01"
        "00 000000"
    )
    found = record(ethernet(ip4(tcp(b"x"), options=options)))
    assert found["ip"]["hdr_len"] == 20 + 32
    assert found["ip"]["options"] == [
        {"type": 148, "name": "router alert", "len": 4, "ra": 0},
        {"type": 7, "name": "record route", "len": 7, "ptr": 8, "rec_rt": ["192.0.2.1"]},
        {
            "type": 68,
            "name": "time stamp",
            "len": 12,
            "ptr": 13,
            "overflow": 1,
            "flag": 3,
            "time_stamp_addr": ["192.0.2.3"],
            "time_stamp": [100],
        },
        {"type": 0xDD, "len": 4, "data": b"\xaa\xbb"},
        {"type": 1, "name": "no operation"},
        {"type": 0, "name": "end of options"},
    ]
    assert found["payload"] == b"x"
    broken = record(ethernet(ip4(tcp(b"x"), options=bytes.fromhex("07ff0401"))))
    assert broken["ip"]["options"] == [{"type": 7, "name": "record route", "data": b"\xff\x04\x01", "malformed": True}]
    assert broken["payload"] == b"x"


def test_ipv4_fragments() -> None:
    first = record(ethernet(ip4(tcp(b"x" * 4), fragment=0x2000)))
    assert first["ip"]["flags"] == {"rb": False, "df": False, "mf": True}
    assert first["tcp"]["srcport"] == 50000
    later = record(ethernet(ip4(b"y" * 16, fragment=0x2003)))  # 3 * 8 = 24 octets behind the first
    assert later["ip"]["frag_offset"] == 3
    assert "tcp" not in later
    assert (later["payload"], later["payload_len"]) == (b"y" * 16, 16)


def test_authentication_header_of_ipv4() -> None:
    header = bytes.fromhex("06 04 0000 00000001 00000002 aaaaaaaaaaaaaaaaaaaaaaaa")  # (4 + 2) * 4 = 24 octets
    found = record(ethernet(ip4(header + tcp(b"x"), 51)))
    assert found["ah"] == {"next_header": 6, "length": 4, "reserved": 0, "spi": 1, "sequence": 2, "icv": b"\xaa" * 12}
    assert (found["tcp"]["dstport"], found["payload"]) == (443, b"x")


def test_ipv6_extension_headers() -> None:
    chain = bytes.fromhex(
        "2b 00 0502 0000 0100"  # hop-by-hop: router alert 0 (RFC 2711), PadN of no octets
        "2c 02 0001 00000000 20010db8000000000000000000000005"  # routing type 0, one segment left, 24 octets
        "3c 00 0001 deadbeef"  # fragment: offset 0, more
        "33 00 01 04 00000000"  # destination options: PadN of four octets
        "06 01 0000 00000007 00000008"  # authentication: (1 + 2) * 4 = 12 octets, no check value
    )
    found = record(ethernet(ip6(chain + tcp(b"x"), 0), 0x86DD))
    hop, routing, fragment, destination, authentication = found["ipv6"]["extensions"]
    alert = {"type": 5, "name": "router_alert", "length": 2, "router_alert": 0}
    pad = {"type": 1, "name": "padn", "length": 0, "data": b""}
    assert hop == {"hopopts": {"nxt": 43, "len": 0, "len_oct": 8, "options": [alert, pad]}}
    addresses = {"reserved": b"\0\0\0\0", "addr": ["2001:db8::5"]}
    assert routing == {"routing": {"nxt": 44, "len": 2, "len_oct": 24, "type": 0, "segleft": 1, "src": addresses}}
    fields = {"nxt": 60, "reserved_octet": 0, "offset": 0, "reserved_bits": 0, "more": True, "ident": 0xDEADBEEF}
    assert fragment == {"fraghdr": fields}
    pad = {"type": 1, "name": "padn", "length": 4, "data": b"\0\0\0\0"}
    assert destination == {"dstopts": {"nxt": 51, "len": 0, "len_oct": 8, "options": [pad]}}
    fields = {"next_header": 6, "length": 1, "reserved": 0, "spi": 7, "sequence": 8, "icv": b""}
    assert authentication == {"ah": fields}
    assert (found["tcp"]["srcport"], found["payload"]) == (50000, b"x")


def test_later_ipv6_fragments_have_no_transport() -> None:
    found = record(ethernet(ip6(bytes.fromhex("06 00 0010 00000001") + b"y" * 12, 44), 0x86DD))
    assert found["ipv6"]["extensions"][0]["fraghdr"]["offset"] == 2  # 2 * 8 = 16 octets
    assert "tcp" not in found
    assert (found["payload"], found["payload_len"]) == (b"y" * 12, 12)


def test_jumbo_and_segment_routing() -> None:
    jumbo = bytes.fromhex("3b 00 c204 00012345")
    assert record(ethernet(ip6(jumbo, 0), 0x86DD))["ipv6"]["extensions"][0]["hopopts"]["options"] == [
        {"type": 0xC2, "name": "jumbo", "length": 4, "jumbo": 0x12345}
    ]
    routing = bytes.fromhex("3b 02 04 00 00 08 0102 20010db8000000000000000000000009")
    assert record(ethernet(ip6(routing, 43), 0x86DD))["ipv6"]["extensions"][0]["routing"] == {
        "nxt": 59,
        "len": 2,
        "len_oct": 24,
        "type": 4,
        "segleft": 0,
        "srh": {"last_entry": 0, "flags": 8, "tag": 0x0102, "addr": ["2001:db8::9"]},
        "unknown_data": b"",
    }


def test_icmp_and_other_protocols_carry_what_ip_carries() -> None:
    echo = bytes.fromhex("0800 1234 0001 0002") + b"ping"
    found = record(ethernet(ip4(echo, 1)))
    assert found["icmp"] == {"type": 8, "code": 0, "checksum": 0x1234, "ident": 1, "seq": 2}
    assert (found["payload"], found["payload_len"]) == (echo, 12)
    unreachable = record(ethernet(ip4(bytes.fromhex("0303 1234 00000000"), 1)))
    assert unreachable["icmp"] == {"type": 3, "code": 3, "checksum": 0x1234}
    found = record(ethernet(ip6(bytes.fromhex("8000 1234 0001 0002"), 58), 0x86DD))
    assert found["icmpv6"] == {
        "type": 128,
        "code": 0,
        "checksum": 0x1234,
        "echo": {"identifier": 1, "sequence_number": 2},
    }
    gre = record(ethernet(ip4(b"\0\0\x08\0", 47)))
    assert (gre["ip"]["proto"], gre["ip"]["proto_name"], gre["payload"]) == (47, "GRE", b"\0\0\x08\0")
    assert record(ethernet(ip4(b"", 200)))["ip"]["proto_name"] == "IP200"


def test_segmentation_offload_fills_the_frame() -> None:
    found = record(ethernet(ip4(tcp(b"x" * 100), length=0)))
    assert (found["ip"]["len"], found["payload_len"], found["tcp"]["len"]) == (0, 100, 100)


# -- time and interface --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_ns", "digits", "text"),
    [
        (1, 9, "0.000000001"),
        (1_999, 6, "0.000001"),
        (-1_500_000_000, 6, "-1.500000"),
        (10**18, 9, "1000000000.000000000"),
    ],
)
def test_epoch_text(time_ns: int, digits: int, text: str) -> None:
    assert epoch_text(time_ns, digits) == text


def test_time_has_the_digits_of_its_clock() -> None:
    assert record(b"", time_ns=1_000_000_001)["frame"]["time_epoch"] == "1.000000"
    fine = record(b"", time_ns=1_000_000_001, time_bits=FINER_THAN_MICROSECONDS)["frame"]
    assert (fine["time_epoch"], fine["time_ns"]) == ("1.000000001", 1_000_000_001)
    assert "time_epoch" not in record(b"", time_ns=5, time_bits=NO_TIME)["frame"]


def test_the_interface_is_named_where_it_has_a_name() -> None:
    frame, packet = frame_row(b"", ETHERNET), np.zeros(1, PACKET)[0]
    packet["verdict"] = Verdict.TRUNCATED_LINK
    named = Interface("test", 0, 1, 0, 10**9, "little", "eth0")
    assert frame_record(1, b"", frame, packet, named)["frame"]["interface_name"] == "eth0"
    assert "interface_name" not in frame_record(1, b"", frame, packet, INTERFACE)["frame"]


# -- cut and hostile octets ----------------------------------------------------------------------------------

WHOLE = {
    "tcp": (ethernet(ip4(tcp(b"payload", bytes.fromhex("0101080a0000000a0000000b")), options=bytes(4))), ETHERNET),
    "chain": (
        MAC
        + bytes.fromhex("8100 0001 86dd")
        + ip6(
            bytes.fromhex("2c00050200000100 3c00000100000007 3300010400000000 0601000000000001 00000002") + tcp(b"xyz"),
            0,
        ),
        ETHERNET,
    ),
    "snap": (
        MAC + bytes.fromhex("0040 aaaa03 000000 0800") + ip4(struct.pack(">4H", 1, 2, 12, 3) + b"data", 17),
        ETHERNET,
    ),
    "sll": (bytes.fromhex("0004 0001 0006 0a0b0c0d0e0f 0000 0800") + ip4(bytes.fromhex("0800 1234 0001 0002"), 1), SLL),
    "sll2": (bytes.fromhex("86dd 0000 00000003 0304 00 06 0a0b0c0d0e0f0000") + ip6(tcp(b"q")), SLL2),
    "null": (bytes.fromhex("02000000") + ip4(tcp(b"z")), NULL),
}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in leaves(item, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {key: leaf for i, item in enumerate(value) for key, leaf in leaves(item, f"{path}[{i}]").items()}
    return {path: value}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_frame_says_what_the_whole_one_says_or_less(name: str) -> None:
    octets, link = WHOLE[name]
    whole = leaves(record(octets, link))
    before = -1
    for size in range(len(octets) + 1):
        cut = leaves(record(octets[:size], link, len(octets)))
        said = {path for path in cut if path in whole and not isinstance(cut[path], bytes)}
        assert {path for path in said if cut[path] != whole[path]} <= {".frame.cap_len"}
        extra = {path.rsplit(".", 1)[-1] for path in cut.keys() - whole.keys()}
        assert extra <= {"truncated", "malformed", "data"}
        if ".payload_len" in cut:
            assert whole[".payload"].startswith(cut[".payload"])
        before = max(before, len(said))
    assert before == len([path for path in whole if not isinstance(whole[path], bytes)])


@pytest.mark.parametrize(
    ("octets", "layer", "missing"),
    [
        (ethernet(ip4(tcp(b"x")))[: 14 + 20 + 4], "tcp", "seq_raw"),
        (ethernet(ip4(tcp(b"x")))[: 14 + 20 + 13], "tcp", "flags"),
        (ethernet(ip4(tcp(b"x")))[: 14 + 10], "ip", "checksum"),
        (ethernet(ip4(tcp(b"x")))[:6], "eth", "src"),
        (ethernet(ip6(tcp(b"x")), 0x86DD)[: 14 + 30], "ipv6", "dst"),
        (ethernet(ip4(struct.pack(">4H", 1, 2, 12, 3) + b"data", 17))[: 14 + 24], "udp", "length"),
    ],
)
def test_cut_layers_are_marked_and_leave_fields_out(octets: bytes, layer: str, missing: str) -> None:
    found = record(octets, wire=60)[layer]
    assert found["truncated"] is True
    assert missing not in found


def test_payload_length_is_that_sent_and_payload_what_was_captured() -> None:
    octets = ethernet(ip4(tcp(b"x" * 1000)))
    found = record(octets[:96], wire=len(octets))
    assert (found["payload_len"], found["payload"], found["tcp"]["len"]) == (1000, b"x" * (96 - 54), 1000)


def test_layers_agree_with_the_columns_of_decode() -> None:
    # two independent readings of the same octets: ports and the place of the payload are the same
    for name, (octets, link) in WHOLE.items():
        packet = decode_batch(np.frombuffer(octets, np.uint8), frame_row(octets, link).reshape(1), np.zeros(1, PACKET))[
            0
        ]
        found = record(octets, link)
        transport = found.get("tcp") or found.get("udp")
        if transport:
            assert (transport["srcport"], transport["dstport"]) == (packet["src_port"], packet["dst_port"]), name
        assert found["payload_len"] == packet["payload_octets"]
        assert "tcp" not in found or found["tcp"]["len"] == packet["payload_octets"]


@given(
    st.binary(max_size=120),
    st.sampled_from([NULL, ETHERNET, RAW, LOOP, SLL, SLL2, 228, 229, 12, 127]),
    st.integers(0, 2**32 - 1),
)
def test_no_octets_raise(octets: bytes, link: int, wire: int) -> None:
    found = record(octets, link, wire)
    assert found["payload"] in octets
    assert 0 <= len(found["payload"]) <= found.get("payload_len", len(octets))


@given(
    st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.data()
)
def test_no_changed_octet_raises(name: str, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    octets, link = WHOLE[name]
    changed = bytearray(octets)
    for at, value in changes:
        changed[at % len(changed)] = value
    size = data.draw(st.integers(0, len(changed)))
    found = record(bytes(changed[:size]), link, len(changed))
    assert found["frame"]["cap_len"] == size


@given(st.binary(max_size=80), st.binary(min_size=PACKET.itemsize, max_size=PACKET.itemsize), st.integers(0, 300))
def test_no_columns_raise(octets: bytes, columns: bytes, link: int) -> None:
    # columns that no decode would fill: the record is built from what is there
    packet = np.frombuffer(columns, PACKET)[0]
    found = frame_record(1, octets, frame_row(octets, link), packet, INTERFACE)
    assert found["payload"] in octets


# -- tshark --------------------------------------------------------------------------------------------------

TSHARK_NAMES = {
    "frame": "number time_epoch len cap_len",
    "eth": "dst src type",
    "ip": "version hdr_len dsfield.dscp dsfield.ecn len id flags.rb flags.df flags.mf frag_offset ttl proto checksum"
    " src dst",
    "ipv6": "tclass.dscp tclass.ecn flow plen nxt hlim src dst",
    "tcp": "srcport dstport len seq_raw ack_raw hdr_len flags.res flags.cwr flags.ece flags.urg flags.ack flags.push"
    " flags.reset flags.syn flags.fin window_size_value checksum urgent_pointer",
    "udp": "srcport dstport length checksum",
    "icmp": "type code checksum ident seq",
    "icmpv6": "type code checksum echo.identifier echo.sequence_number",
}
TSHARK_FIELDS = [f"{layer}.{name}" for layer, names in TSHARK_NAMES.items() for name in names.split()]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_fields_are_those_of_tshark(tmp_path: pathlib.Path) -> None:
    frames = [
        ethernet(ip4(tcp(b"hello", bytes.fromhex("0101080a0000000a0000000b"), 0x0C2))),
        ethernet(ip4(b"y" * 16, fragment=0x2003)),
        ethernet(ip4(struct.pack(">4H", 1024, 9999, 12, 3) + b"data", 17)),
        ethernet(ip4(bytes.fromhex("0800 1234 0001 0002") + b"ping", 1)),
        ethernet(ip6(tcp(b"x", flags=0x3F)), 0x86DD),
        ethernet(ip6(bytes.fromhex("8000 1234 0001 0002"), 58), 0x86DD),
    ]
    with (tmp_path / "c.pcap").open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for i, octets in enumerate(frames):
            writer.writepkt(octets, 1_600_000_000 + i)
    command = ["tshark", "-n", "-r", str(tmp_path / "c.pcap"), "-o", "ip.defragment:FALSE", "-T", "fields"]
    for field in TSHARK_FIELDS:
        command += ["-e", field]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for i, (octets, line) in enumerate(zip(frames, lines, strict=True)):
        found = leaves(record(octets, time_ns=(1_600_000_000 + i) * 10**9))
        found[".frame.number"] = i + 1
        compared = 0
        for field, cell in zip(TSHARK_FIELDS, line.split("\t"), strict=True):
            own = found.get(f".{field}")
            if field == "ip.version" and ".ipv6.version" in found:
                continue  # tshark has that field for both versions
            assert (own is None) == (cell == ""), (i, field)
            if own is None:
                continue
            compared += 1
            if isinstance(own, int):
                assert int(own) == int(cell, 0), (i, field)
            else:
                assert cell == own or cell == f"{own}000", (i, field)  # tshark: nine digits of time
        assert compared >= 20
