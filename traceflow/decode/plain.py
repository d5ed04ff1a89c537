"""The frame that most captures consist of, in one piece: Ethernet, IPv4 without options, TCP or UDP, all headers whole.

Whatever is not proven to be such a frame is left to `walk.py`, whose rules these are: a test holds both against each
other for every frame that it can think of. What is saved are checks and loads: one check for all headers, six words
in place of forty octets, and every column of the row is written once, where the general way needs a row of zeros.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, load_words
from traceflow.decode.internet import MAPPED
from traceflow.decode.links import IP4
from traceflow.decode.octets import OK, sign
from traceflow.decode.transport import SYN, TCP, UDP, is_tunnel_port, tcp_options
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, SEQ_KNOWN, WHOLE_TCP_HEADER, WINDOW_KNOWN

__all__ = ["clear_row", "plain_frame"]

_KNOWN = SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN | WINDOW_KNOWN
_LINK, _IP, _BEHIND_IP = 14, 34, 54  # where these headers end: Ethernet, IPv4, the shortest TCP
_UDP_END = 42
_WORDS_AT = 6  # six words from here on: two octets of addresses left over, then EtherType, IPv4, the shortest TCP


@inline_kernel
def _write(
    row: Any, second: Any, third: Any, length: Any, bits: Any, seq: Any, ack: Any, window: Any, flags: Any,
    options: Any, payload: Any, payload_octets: Any,
) -> None:  # fmt: skip
    """Every column of a row, in the order of PACKET: LLVM makes one store of neighbours that are constant."""
    row["src_hi"] = 0
    row["dst_hi"] = 0
    row["src_lo"] = MAPPED | (second & U64(0xFFFFFFFF))
    row["dst_lo"] = MAPPED | (third >> U64(32))
    row["src_port"] = (third >> U64(16)) & U64(0xFFFF)
    row["dst_port"] = third & U64(0xFFFF)
    row["protocol"] = (second >> U64(48)) & U64(0xFF)
    row["ip_version"] = 4
    row["verdict"] = OK
    row["bits"] = bits
    row["seq"] = seq
    row["ack"] = ack
    row["window"] = window
    row["flags"] = flags
    row["options"] = options
    row["ip_octets"] = length
    row["payload_octets"] = payload_octets
    row["payload"] = payload
    row["link_octets"] = _LINK
    row["transport"] = _IP
    row["vlan_outer"] = 0
    row["vlan_inner"] = 0
    row["tunnel_id"] = 0
    row["ip_at"] = 0
    row["fragment_at"] = 0
    row["mss"] = 0
    row["window_scale"] = 0
    row["vlan_tags"] = 0
    row["tunnel"] = 0
    row["tunnels"] = 0
    row["ttl"] = second >> U64(56)


@inline_kernel
def plain_frame(b: Any, s: Any, captured: Any, wire: Any, link: Any, outer: Any, row: Any) -> Any:
    """Decode a frame at `s` of which `captured` octets were captured, if it is a plain one.

    Returns:
        (whether it is, its signature); if not, nothing was written.
    """
    none = U64(0)
    size = U64(b.shape[0])
    if link != U64(1) or captured < U64(_UDP_END) or size < U64(_BEHIND_IP) or s > size - U64(_BEHIND_IP):
        return False, none
    ether, first, second, third, fourth, fifth = load_words(b, s + U64(_WORDS_AT))
    length = (first >> U64(32)) & U64(0xFFFF)
    end = U64(_LINK) + length
    # IPv4; version 4 and a header of 20 octets; no fragment
    unlike = ((ether ^ U64(IP4)) & U64(0xFFFF)) | ((first >> U64(56)) ^ U64(0x45)) | (first & U64(0x3FFF))
    if unlike != U64(0) or end > max(captured, wire):
        return False, none
    protocol = (second >> U64(48)) & U64(0xFF)
    behind_ip = third << U64(32) | fourth >> U64(32)
    n = min(captured, end)
    if protocol == U64(TCP):
        header = (fifth >> U64(60)) << U64(2)
        payload = U64(_IP) + header
        if n < U64(_BEHIND_IP) or header < U64(20) or payload > end:
            return False, none
        flags = (fifth >> U64(48)) & U64(0xFF)
        _write(
            row, second, third, length, _KNOWN, fourth >> U64(32), fourth & U64(0xFFFFFFFF),
            (fifth >> U64(32)) & U64(0xFFFF), flags, WHOLE_TCP_HEADER, payload, end - payload,
        )  # fmt: skip
        if flags & U64(SYN) and header > U64(20):
            tcp_options(b, s + U64(_BEHIND_IP), s + min(n, payload), row)
        numbers = fourth if fourth != none else behind_ip
        return True, sign(captured, wire, third & U64(0xFFFFFFFF), numbers)
    if protocol != U64(UDP) or n < U64(_UDP_END):
        return False, none
    if not outer and is_tunnel_port((third >> U64(16)) & U64(0xFFFF), third & U64(0xFFFF)):
        return False, none
    stop = U64(_IP) + (fourth >> U64(48))  # a UDP length that fits tells padding from payload
    if stop < U64(_UDP_END) or stop > end:
        stop = end
    _write(
        row, second, third, length, 0, U64(0), U64(0), U64(0), U64(0), 0, U64(_UDP_END), stop - U64(_UDP_END)
    )  # fmt: skip
    return True, sign(captured, wire, third & U64(0xFFFFFFFF), behind_ip)


@inline_kernel
def clear_row(row: Any) -> None:
    """Make a row ready for the general way, which writes the columns that are not zero."""
    row["src_hi"] = 0
    row["dst_hi"] = 0
    row["src_lo"] = 0
    row["dst_lo"] = 0
    row["src_port"] = 0
    row["dst_port"] = 0
    row["protocol"] = 0
    row["ip_version"] = 0
    row["verdict"] = 0
    row["bits"] = 0
    row["seq"] = 0
    row["ack"] = 0
    row["window"] = 0
    row["flags"] = 0
    row["options"] = 0
    row["ip_octets"] = 0
    row["payload_octets"] = 0
    row["payload"] = 0
    row["link_octets"] = 0
    row["transport"] = 0
    row["vlan_outer"] = 0
    row["vlan_inner"] = 0
    row["tunnel_id"] = 0
    row["ip_at"] = 0
    row["fragment_at"] = 0
    row["mss"] = 0
    row["window_scale"] = 0
    row["vlan_tags"] = 0
    row["tunnel"] = 0
    row["tunnels"] = 0
    row["ttl"] = 0
