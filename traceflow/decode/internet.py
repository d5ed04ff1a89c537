"""IP packets to PACKET columns: IPv4 and IPv6 headers and the chains behind them; what they carry is `transport.py`.

Read first: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 4302 (_AH). Positions and lengths as in `walk.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel
from traceflow.decode.octets import BAD_IP, CUT_IP, NO_PORTS, OK, u16, u32, u64
from traceflow.decode.transport import is_tunnel_protocol, needs_first_fragment, transport
from traceflow.packets import FRAGMENT

__all__ = ["MAPPED", "ip_packet"]

_AH, _NO_NEXT = 51, 59
_IP6_FRAGMENT = 44

MAPPED = U64(0xFFFF00000000)  # upper part of the low half of ::ffff:a.b.c.d


@inline_kernel
def _end(o: Any, length: Any, sent: Any) -> Any:
    """Where an IP packet of `length` octets at `o` ends: never behind the frame as it was sent.

    A length of 0 is what segmentation offload and jumbograms leave: the packet then fills the frame.
    """
    end = o + length
    if length == U64(0) or end > sent:
        return sent
    return end


@inline_kernel
def _ip4(b: Any, s: Any, n: Any, sent: Any, o: Any, row: Any) -> Any:
    """IPv4 header at `o`.

    Returns:
        (verdict, next protocol, where it begins, where the packet ends, 1 for a later fragment).
    """
    zero = U64(0)
    if n < o + U64(20):
        return CUT_IP, zero, o, o, zero
    at = s + o
    header = (U64(b[at]) & U64(15)) << U64(2)
    length = u16(b, at + U64(2))
    if U64(b[at]) >> U64(4) != U64(4) or header < U64(20) or (length != zero and length < header):
        return BAD_IP, zero, o, o, zero
    if n < o + header:
        return (BAD_IP if sent < o + header else CUT_IP), zero, o, o, zero
    end = _end(o, length, sent)
    fragment = u16(b, at + U64(6))
    if fragment & U64(0x3FFF):
        row["bits"] = FRAGMENT
        row["ip_at"] = o
        row["fragment_at"] = o
    row["src_lo"] = MAPPED | u32(b, at + U64(12))
    row["dst_lo"] = MAPPED | u32(b, at + U64(16))
    row["ip_version"] = 4
    row["ttl"] = b[at + U64(8)]
    row["ip_octets"] = end - o
    return OK, U64(b[at + U64(9)]), o + header, end, U64(1) if fragment & U64(0x1FFF) else zero


@inline_kernel
def _ip6(b: Any, s: Any, n: Any, sent: Any, o: Any, row: Any) -> Any:
    """IPv6 header at `o` (its chain is passed by `_chain`). Returns as `_ip4`."""
    zero = U64(0)
    if n < o + U64(40):
        return CUT_IP, zero, o, o, zero
    at = s + o
    if U64(b[at]) >> U64(4) != U64(6):
        return BAD_IP, zero, o, o, zero
    length = u16(b, at + U64(4))
    protocol = U64(b[at + U64(6)])
    end = _end(o, length + U64(40) if length or protocol == U64(_NO_NEXT) else zero, sent)
    row["ttl"] = b[at + U64(7)]
    row["src_hi"] = u64(b, at + U64(8))
    row["src_lo"] = u64(b, at + U64(16))
    row["dst_hi"] = u64(b, at + U64(24))
    row["dst_lo"] = u64(b, at + U64(32))
    row["ip_version"] = 6
    row["ip_octets"] = end - o
    return OK, protocol, o + U64(40), end, zero


_EXTENSION = np.zeros(256, np.uint8)
_EXTENSION[[0, 43, 60, 135, 139, 140]] = 1  # hop-by-hop, routing, destination options, mobility, host identity, shim6


@inline_kernel
def _is_extension(protocol: Any) -> Any:
    """IPv6 extension headers that share one form: next header, length (IANA registry of RFC 7045)."""
    return _EXTENSION[protocol] != 0


@inline_kernel
def _chain(b: Any, s: Any, n: Any, protocol: Any, o: Any, end: Any, six: Any, row: Any) -> Any:
    """Pass the IPv6 extension headers, and the authentication header of both versions, from `o` on.

    Every header is at least eight octets, so the octets of the frame bound the loop.

    Returns:
        (verdict, next protocol, where it begins, 1 for a later fragment).
    """
    while True:
        extension = six and (_is_extension(protocol) or protocol == U64(_IP6_FRAGMENT))
        if not extension and protocol != U64(_AH):
            return OK, protocol, o, U64(0)
        if o + U64(8) > end:
            return BAD_IP, protocol, o, U64(0)
        if o + U64(8) > n:
            return CUT_IP, protocol, o, U64(0)
        following = U64(b[s + o])
        if protocol == U64(_IP6_FRAGMENT):
            fragment = u16(b, s + o + U64(2))
            if fragment & U64(0xFFF9):
                row["bits"] = FRAGMENT
                row["ip_at"] = row["link_octets"]
                row["fragment_at"] = o
            if fragment & U64(0xFFF8):
                return OK, following, o + U64(8), U64(1)
            o += U64(8)
        elif protocol == U64(_AH):
            o += (U64(b[s + o + U64(1)]) + U64(2)) << U64(2)
        else:
            o += (U64(b[s + o + U64(1)]) + U64(1)) << U64(3)
        protocol = following


@inline_kernel
def ip_packet(b: Any, s: Any, n: Any, sent: Any, six: Any, outer: Any, o: Any, row: Any) -> Any:
    """An IP packet at `o`, as far as the header behind IP. Returns (verdict, protocol, where the packet ends)."""
    row["link_octets"] = o
    if six:
        verdict, protocol, o, end, later = _ip6(b, s, n, sent, o, row)
    else:
        verdict, protocol, o, end, later = _ip4(b, s, n, sent, o, row)
    if verdict != OK:
        return verdict, protocol, end
    if later == U64(0) and (six or protocol == U64(_AH)):
        verdict, protocol, o, later = _chain(b, s, n, protocol, o, end, six, row)
    row["protocol"] = protocol
    if verdict != OK:
        return verdict, protocol, end
    if later == U64(0):
        return transport(b, s, n, protocol, o, end, row), protocol, end
    row["transport"] = o
    row["payload"] = o
    row["payload_octets"] = end - o if end > o else U64(0)
    # Behind a later IPv6 fragment the chain cannot be followed: which protocol it is stays unknown.
    chained = _is_extension(protocol) or protocol == U64(_IP6_FRAGMENT) or protocol == U64(_AH)
    if needs_first_fragment(protocol) or (six and chained) or (not outer and is_tunnel_protocol(protocol)):
        return NO_PORTS, protocol, end
    return OK, U64(0), end
