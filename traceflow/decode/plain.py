"""The frame that most captures consist of, in one piece: Ethernet, IPv4 without options, TCP or UDP, all headers whole.

Whatever is not proven to be such a frame is left to `walk.py`, whose rules these are: a test holds both against each
other for every frame that it can think of. What is saved are checks and loads: one check for all headers, and six words
in place of forty octets.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, load_words
from traceflow.decode.internet import MAPPED
from traceflow.decode.links import IP4
from traceflow.decode.octets import sign
from traceflow.decode.transport import SYN, TCP, UDP, is_tunnel_port, tcp_options
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, SEQ_KNOWN, WHOLE_TCP_HEADER, WINDOW_KNOWN

__all__ = ["plain_frame"]

_KNOWN = SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN | WINDOW_KNOWN
_LINK, _IP, _BEHIND_IP = 14, 34, 54  # where these headers end: Ethernet, IPv4, the shortest TCP
_UDP_END = 42
_WORDS_AT = 6  # six words from here on: two octets of addresses left over, then EtherType, IPv4, the shortest TCP


@inline_kernel
def plain_frame(b: Any, s: Any, captured: Any, wire: Any, link: Any, outer: Any, row: Any) -> Any:
    """Decode a frame at `s` of which `captured` octets were captured into a row of zeros, if it is a plain one.

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
    ports = third & U64(0xFFFFFFFF)
    numbers = third << U64(32) | fourth >> U64(32)  # the first 8 octets behind IP
    n = min(captured, end)
    stop = end
    if protocol == U64(TCP):
        payload = U64(_IP) + ((fifth >> U64(60)) << U64(2))
        if n < U64(_BEHIND_IP) or payload < U64(_BEHIND_IP) or payload > end:
            return False, none
        flags = (fifth >> U64(48)) & U64(0xFF)
        row["bits"] = _KNOWN
        row["seq"] = fourth >> U64(32)
        row["ack"] = fourth & U64(0xFFFFFFFF)
        row["window"] = (fifth >> U64(32)) & U64(0xFFFF)
        row["flags"] = flags
        row["options"] = WHOLE_TCP_HEADER
        if flags & U64(SYN) and payload > U64(_BEHIND_IP):
            tcp_options(b, s + U64(_BEHIND_IP), s + min(n, payload), row)
        if fourth != none:
            numbers = fourth
    else:
        payload = U64(_UDP_END)
        if protocol != U64(UDP) or n < payload:
            return False, none
        if not outer and is_tunnel_port(ports >> U64(16), ports & U64(0xFFFF)):
            return False, none
        stop = U64(_IP) + (fourth >> U64(48))  # a UDP length that fits tells padding from payload
        if stop < payload or stop > end:
            stop = end
    row["src_lo"] = MAPPED | (second & U64(0xFFFFFFFF))
    row["dst_lo"] = MAPPED | (third >> U64(32))
    row["src_port"] = ports >> U64(16)
    row["dst_port"] = ports & U64(0xFFFF)
    row["protocol"] = protocol
    row["ip_version"] = 4
    row["ip_octets"] = length
    row["payload_octets"] = stop - payload
    row["payload"] = payload
    row["link_octets"] = _LINK
    row["transport"] = _IP
    row["ttl"] = second >> U64(56)
    return True, sign(captured, wire, ports, numbers)
