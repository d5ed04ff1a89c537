"""The room `checksums`: RFC 1071 over what was captured. Good ones are dpkt's work (exchange.py), not ours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from exchange import ETHER_IPV4, ETHER_IPV6, Exchange, ethernet, ipv4, ipv6, tcp, udp

import traceflow
from traceflow.checksums import verify_batch
from traceflow.decode import decode_batch
from traceflow.packets import BAD_CHECKSUM, FRAME, PACKET, Verdict

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.2", "2001:db8::1", "2001:db8::2"
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
# RFC 792: type 8, code 0, checksum, id 0, number 0: ~0x0800 = 0xf7ff.
PING = bytes.fromhex("0800f7ff00000000")
# RFC 4443: the sum over the pseudo header 2001:db8::1, 2001:db8::2, 8, 58 and 0x8000 is
# 2*(0x2001+0x0db8)+1+2+8+0x3a+0x8000 = 0xdbb7; ~ = 0x2448.
PING6 = bytes.fromhex("8000244800000000")


def judge(frame: bytes, *, captured: int | None = None) -> str:
    """What is said of one Ethernet frame: its verdict, `bad` or `good`."""
    rows = np.zeros(1, FRAME)
    octets = np.frombuffer(frame[:captured], np.uint8)
    rows["captured"], rows["wire"], rows["link"] = len(octets), len(frame), 1
    packets = verify_batch(octets, rows, decode_batch(octets, rows, np.zeros(1, PACKET)))
    if packets[0]["verdict"]:
        return Verdict(int(packets[0]["verdict"])).text
    return "bad" if packets[0]["bits"] & BAD_CHECKSUM else "good"


def four(protocol: int, content: bytes, **fields: int) -> bytes:
    return ethernet(ipv4(A4, B4, protocol, content, **fields), ETHER_IPV4)  # type: ignore[arg-type]


def six(protocol: int, content: bytes) -> bytes:
    return ethernet(ipv6(A6, B6, protocol, content), ETHER_IPV6)


SEGMENT4, SEGMENT6 = (tcp(*ends, 1, 2, seq=3, ack=4, flags=16, payload=b"odd") for ends in ((A4, B4), (A6, B6)))
WHOLE = {
    "tcp": four(TCP, SEGMENT4),
    "udp": four(UDP, udp(A4, B4, 1, 2, b"payload")),
    "icmp": four(ICMP, PING),
    "tcp6": six(TCP, SEGMENT6),
    "udp6": six(UDP, udp(A6, B6, 1, 2, b"payload")),
    "icmp6": six(ICMP6, PING6),
}


@pytest.mark.parametrize("name", WHOLE)
def test_right_and_wrong(name: str) -> None:
    """Any one bit behind the IP header that changes makes it wrong; padding does not count."""
    frame = WHOLE[name]
    start = 14 + (40 if name.endswith("6") else 20)
    assert judge(frame) == "good"
    assert judge(frame + bytes(6)) == "good"
    assert judge(frame + b"\xff" * 5) == "good"
    for at in (start + 4, len(frame) - 1):
        wrong = bytearray(frame)
        wrong[at] ^= 0x10
        assert judge(bytes(wrong)) == "bad"


def test_a_wrong_ip_header_is_a_verdict() -> None:
    frame = bytearray(WHOLE["tcp"])
    frame[22] ^= 1  # time to live
    assert judge(bytes(frame)) == "bad ip checksum"


def test_what_is_not_judged() -> None:
    """UDP without a checksum, later protocols, frames that are cut, fragments, packets without a length."""
    broken = SEGMENT4[:-1] + b"!"
    datagram = udp(A4, B4, 1, 2, b"payload")
    assert judge(four(TCP, broken)) == "bad"
    assert judge(four(TCP, broken), captured=14 + 20 + len(broken) - 1) == "good"
    assert judge(four(TCP, broken, more=True)) == "good"
    assert judge(four(TCP, broken, total=0)) == "good"
    assert judge(four(UDP, datagram[:6] + bytes(2) + datagram[8:])) == "good"
    assert judge(four(89, b"hello")) == "good"
    assert judge(four(UDP, struct.pack(">HH", 1, 2))) == "good"
    assert judge(four(ICMP, b"\x08")) == "good"
    datagram = udp(A6, B6, 1, 2, b"payload")
    assert judge(six(UDP, datagram[:6] + bytes(2) + datagram[8:])) == "bad"  # RFC 8200 8.1: not optional


def test_nothing_is_verified_unless_asked(tmp_path: Path) -> None:
    e = Exchange()
    e.connection()
    frame = e.wire.frames[0]
    octets = bytearray(frame.octets)
    octets[22] ^= 1
    e.wire.frames[0] = type(frame)(frame.time_ns, bytes(octets), frame.wire_octets)
    path = e.pcap(tmp_path)
    assert traceflow.trace(path).account.verdicts[Verdict.BAD_IP_CHECKSUM] == 0
    assert traceflow.trace(path, checksums=True).account.verdicts[Verdict.BAD_IP_CHECKSUM] == 1
    assert traceflow.trace(path, profile="zeek").account.verdicts[Verdict.BAD_IP_CHECKSUM] == 1
