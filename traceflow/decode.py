"""Octets to PACKET rows: link layer, VLAN tags, IPv4 and IPv6 with their chains, TCP and UDP.

Decode looks at one frame at a time and never at flows. It raises nothing: a frame that cannot be understood
gets a Verdict. No length field is trusted: each is held against what was captured (`n`) and what was sent
(`end`). All positions count from the first octet of the frame; `s` is where the frame begins in the buffer.

Read first: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), IEEE 802.1Q, and the LINKTYPE_ registry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, FRAGMENT, SEQ_KNOWN, WINDOW_KNOWN, Verdict

__all__ = ["LINKS", "decode", "decode_batch"]

LINK_NULL, LINK_ETHERNET, LINK_LOOP, LINK_SLL, LINK_SLL2 = 0, 1, 108, 113, 276
LINK_IPV4, LINK_IPV6 = 228, 229
# 101 is LINKTYPE_RAW; 12 and 14 are DLT_RAW of most systems and of OpenBSD, which old writers left in files.
LINK_RAW, LINK_RAW_BSD, LINK_RAW_OPENBSD = 101, 12, 14

LINKS: dict[int, str] = {
    LINK_NULL: "NULL",
    LINK_ETHERNET: "EN10MB",
    LINK_RAW: "RAW",
    LINK_RAW_BSD: "RAW",
    LINK_RAW_OPENBSD: "RAW",
    LINK_LOOP: "LOOP",
    LINK_SLL: "LINUX_SLL",
    LINK_SLL2: "LINUX_SLL2",
    LINK_IPV4: "IPV4",
    LINK_IPV6: "IPV6",
}
"""The link types that decode knows, with their names in the LINKTYPE_ registry."""

_OK = int(Verdict.FLOW)
_NOT_IP = int(Verdict.NOT_IP)
_UNSUPPORTED = int(Verdict.UNSUPPORTED_LINK)
_CUT_LINK = int(Verdict.TRUNCATED_LINK)
_CUT_IP = int(Verdict.TRUNCATED_IP)
_CUT_PORTS = int(Verdict.TRUNCATED_PORTS)
_BAD_IP = int(Verdict.MALFORMED_IP)
_NO_PORTS = int(Verdict.FRAGMENT_WITHOUT_PORTS)

_IP4, _IP6 = 0x0800, 0x86DD
_BY_VERSION = 0x10000  # not an EtherType: the first four bits of the packet tell
_LLC = 0x10001  # not an EtherType: an IEEE 802.2 header follows
_OTHER = 0x10002  # not an EtherType: something that is not IP
_FIRST_ETHERTYPE = 0x0600  # smaller values of the field are an IEEE 802.3 length

_TCP, _UDP, _AH, _NO_NEXT = 6, 17, 51, 59
_IP6_FRAGMENT = 44

_MAPPED = U64(0xFFFF00000000)  # upper part of the low half of ::ffff:a.b.c.d


@inline_kernel
def _u16(b: Any, at: Any) -> Any:
    return (U64(b[at]) << U64(8)) | U64(b[at + U64(1)])


@inline_kernel
def _u32(b: Any, at: Any) -> Any:
    return (_u16(b, at) << U64(16)) | _u16(b, at + U64(2))


@inline_kernel
def _u64(b: Any, at: Any) -> Any:
    return (_u32(b, at) << U64(32)) | _u32(b, at + U64(4))


@inline_kernel
def _null_family(b: Any, s: Any) -> Any:
    """Address family of a NULL or LOOP header as an EtherType; the byte order is that of the capturing host."""
    family = _u16(b, s + U64(2))
    if family == U64(0):
        family = (U64(b[s + U64(1)]) << U64(8)) | U64(b[s])
    elif _u16(b, s) != U64(0):
        return U64(_OTHER)
    if family == U64(2):  # AF_INET everywhere
        return U64(_IP4)
    # AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS
    if family == U64(10) or family == U64(23) or family == U64(24) or family == U64(28) or family == U64(30):
        return U64(_IP6)
    return U64(_OTHER)


@inline_kernel
def _link_header(b: Any, s: Any, n: Any, link: Any) -> Any:
    """What follows the link header.

    Returns:
        (verdict, EtherType or a value above 0xffff, octets of the header).
    """
    if link == U64(LINK_ETHERNET):
        if n < U64(14):
            return _CUT_LINK, U64(0), U64(0)
        ether = _u16(b, s + U64(12))
        return _OK, U64(_LLC) if ether < U64(_FIRST_ETHERTYPE) else ether, U64(14)
    if link == U64(LINK_SLL) or link == U64(LINK_SLL2):
        size, at = (U64(16), U64(14)) if link == U64(LINK_SLL) else (U64(20), U64(0))
        if n < size:
            return _CUT_LINK, U64(0), U64(0)
        ether = _u16(b, s + at)
        if ether < U64(_FIRST_ETHERTYPE):  # kernel-internal numbers; 4 is "802.2 frame"
            ether = U64(_LLC) if ether == U64(4) else U64(_OTHER)
        return _OK, ether, size
    if link == U64(LINK_RAW) or link == U64(LINK_RAW_BSD) or link == U64(LINK_RAW_OPENBSD):
        return _OK, U64(_BY_VERSION), U64(0)
    if link == U64(LINK_IPV4):
        return _OK, U64(_IP4), U64(0)
    if link == U64(LINK_IPV6):
        return _OK, U64(_IP6), U64(0)
    if link == U64(LINK_NULL) or link == U64(LINK_LOOP):
        if n < U64(4):
            return _CUT_LINK, U64(0), U64(0)
        return _OK, _null_family(b, s), U64(4)
    return _UNSUPPORTED, U64(0), U64(0)


@inline_kernel
def _llc(b: Any, s: Any, n: Any, o: Any) -> Any:
    """IEEE 802.2 header at `o`: SNAP (RFC 1042) carries an EtherType, SAP 6 is IPv4."""
    if n < o + U64(3):
        return _CUT_LINK, U64(0), o
    sap = _u16(b, s + o)
    if sap == U64(0x0606):
        return _OK, U64(_IP4), o + U64(3)
    if sap != U64(0xAAAA):
        return _OK, U64(_OTHER), o
    if n < o + U64(8):
        return _CUT_LINK, U64(0), o
    ether = _u16(b, s + o + U64(6))
    if ether < U64(_FIRST_ETHERTYPE):
        return _OK, U64(_OTHER), o
    return _OK, ether, o + U64(8)


@inline_kernel
def _vlan_and_llc(b: Any, s: Any, n: Any, ether: Any, o: Any, row: Any) -> Any:
    """Pass VLAN tags (802.1Q 0x8100, 802.1ad 0x88a8, the older 0x9100) and 802.2 headers, and note the tags."""
    tags = U64(0)
    while True:
        if ether == U64(_LLC):
            verdict, ether, o = _llc(b, s, n, o)
            if verdict != _OK:
                return verdict, ether, o
        elif ether == U64(0x8100) or ether == U64(0x88A8) or ether == U64(0x9100):
            if n < o + U64(4):
                return _CUT_LINK, ether, o
            tag = _u16(b, s + o) & U64(0x0FFF)
            if tags == U64(0):
                row["vlan_outer"] = tag
            else:
                row["vlan_inner"] = tag
            if tags < U64(255):
                tags += U64(1)
            ether = _u16(b, s + o + U64(2))
            o += U64(4)
            if ether < U64(_FIRST_ETHERTYPE):
                ether = U64(_LLC)
        else:
            break
    row["vlan_tags"] = tags
    return _OK, ether, o


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
        return _CUT_IP, zero, o, o, zero
    at = s + o
    header = (U64(b[at]) & U64(15)) << U64(2)
    length = _u16(b, at + U64(2))
    if U64(b[at]) >> U64(4) != U64(4) or header < U64(20) or (length != zero and length < header):
        return _BAD_IP, zero, o, o, zero
    if n < o + header:
        return (_BAD_IP if sent < o + header else _CUT_IP), zero, o, o, zero
    end = _end(o, length, sent)
    fragment = _u16(b, at + U64(6))
    if fragment & U64(0x3FFF):
        row["bits"] = FRAGMENT
    row["src_lo"] = _MAPPED | _u32(b, at + U64(12))
    row["dst_lo"] = _MAPPED | _u32(b, at + U64(16))
    row["ip_version"] = 4
    row["ip_octets"] = end - o
    return _OK, U64(b[at + U64(9)]), o + header, end, U64(1) if fragment & U64(0x1FFF) else zero


@inline_kernel
def _ip6(b: Any, s: Any, n: Any, sent: Any, o: Any, row: Any) -> Any:
    """IPv6 header at `o` (its chain is passed by `_chain`). Returns as `_ip4`."""
    zero = U64(0)
    if n < o + U64(40):
        return _CUT_IP, zero, o, o, zero
    at = s + o
    if U64(b[at]) >> U64(4) != U64(6):
        return _BAD_IP, zero, o, o, zero
    length = _u16(b, at + U64(4))
    protocol = U64(b[at + U64(6)])
    end = _end(o, length + U64(40) if length or protocol == U64(_NO_NEXT) else zero, sent)
    row["src_hi"] = _u64(b, at + U64(8))
    row["src_lo"] = _u64(b, at + U64(16))
    row["dst_hi"] = _u64(b, at + U64(24))
    row["dst_lo"] = _u64(b, at + U64(32))
    row["ip_version"] = 6
    row["ip_octets"] = end - o
    return _OK, protocol, o + U64(40), end, zero


@inline_kernel
def _is_extension(protocol: Any) -> Any:
    """IPv6 extension headers that share one form: next header, length (IANA registry of RFC 7045)."""
    return (
        protocol == U64(0)  # hop-by-hop options
        or protocol == U64(43)  # routing
        or protocol == U64(60)  # destination options
        or protocol == U64(135)  # mobility
        or protocol == U64(139)  # host identity
        or protocol == U64(140)  # shim6
    )


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
            return _OK, protocol, o, U64(0)
        if o + U64(8) > end:
            return _BAD_IP, protocol, o, U64(0)
        if o + U64(8) > n:
            return _CUT_IP, protocol, o, U64(0)
        following = U64(b[s + o])
        if protocol == U64(_IP6_FRAGMENT):
            fragment = _u16(b, s + o + U64(2))
            if fragment & U64(0xFFF9):
                row["bits"] = FRAGMENT
            if fragment & U64(0xFFF8):
                return _OK, following, o + U64(8), U64(1)
            o += U64(8)
        elif protocol == U64(_AH):
            o += (U64(b[s + o + U64(1)]) + U64(2)) << U64(2)
        else:
            o += (U64(b[s + o + U64(1)]) + U64(1)) << U64(3)
        protocol = following


@inline_kernel
def _tcp(b: Any, s: Any, n: Any, o: Any, end: Any, row: Any) -> Any:
    """TCP header at `o`, as far as it was captured. Returns the octets of the header.

    Where the data offset was cut off, or is below the smallest header, 20 octets are taken.
    """
    bits = U64(row["bits"])
    at = s + o
    header = U64(20)
    if n >= o + U64(8):
        row["seq"] = _u32(b, at + U64(4))
        bits |= U64(SEQ_KNOWN)
    if n >= o + U64(12):
        row["ack"] = _u32(b, at + U64(8))
        bits |= U64(ACK_KNOWN)
    if n >= o + U64(14):
        row["flags"] = b[at + U64(13)]
        bits |= U64(FLAGS_KNOWN)
        header = max(header, (U64(b[at + U64(12)]) >> U64(4)) << U64(2))
    if n >= o + U64(16):
        row["window"] = _u16(b, at + U64(14))
        bits |= U64(WINDOW_KNOWN)
    row["bits"] = bits
    return header


@inline_kernel
def _transport(b: Any, s: Any, n: Any, protocol: Any, o: Any, end: Any, row: Any) -> Any:
    """The header behind IP at `o`: ports, TCP columns, and where the payload lies. Returns a verdict."""
    row["transport"] = min(o, end)  # an extension header may announce more than the packet has
    header = U64(0)
    n = min(n, end)
    stop = end
    if protocol == U64(_TCP) or protocol == U64(_UDP):
        if n < o + U64(4):
            return _CUT_PORTS
        row["src_port"] = _u16(b, s + o)
        row["dst_port"] = _u16(b, s + o + U64(2))
        if protocol == U64(_TCP):
            header = _tcp(b, s, n, o, end, row)
        else:
            header = U64(8)
            if n >= o + U64(6):  # a UDP length that fits tells padding from payload
                length = _u16(b, s + o + U64(4))
                if length >= U64(8) and o + length < end:
                    stop = o + length
    begin = min(o + header, end)  # so may a data offset, or a header was sent in part
    row["payload"] = begin
    row["payload_octets"] = stop - begin if stop > begin else U64(0)
    return _OK


@inline_kernel
def _frame(b: Any, s: Any, n: Any, sent: Any, link: Any, row: Any) -> Any:
    """Decode one frame of `n` captured and `sent` sent octets at `s` into `row`. Returns its verdict."""
    verdict, ether, o = _link_header(b, s, n, link)
    if verdict != _OK:
        return verdict
    if ether != U64(_IP4):
        verdict, ether, o = _vlan_and_llc(b, s, n, ether, o, row)
        if verdict != _OK:
            return verdict
        if ether == U64(_BY_VERSION):
            if n == U64(0):
                return _CUT_IP
            ether = U64(_IP6) if U64(b[s]) >> U64(4) == U64(6) else U64(_IP4)
    if ether != U64(_IP4) and ether != U64(_IP6):
        return _NOT_IP
    row["link_octets"] = o
    if ether == U64(_IP4):
        verdict, protocol, o, end, later = _ip4(b, s, n, sent, o, row)
    else:
        verdict, protocol, o, end, later = _ip6(b, s, n, sent, o, row)
    if verdict != _OK:
        return verdict
    if later == U64(0) and (ether == U64(_IP6) or protocol == U64(_AH)):
        verdict, protocol, o, later = _chain(b, s, n, protocol, o, end, ether == U64(_IP6), row)
    row["protocol"] = protocol
    if verdict != _OK:
        return verdict
    if later != U64(0):
        row["transport"] = o
        row["payload"] = o
        row["payload_octets"] = end - o if end > o else U64(0)
        if protocol == U64(_TCP) or protocol == U64(_UDP):
            return _NO_PORTS
        # Behind a later IPv6 fragment the chain cannot be followed: which protocol it is stays unknown.
        chained = _is_extension(protocol) or protocol == U64(_IP6_FRAGMENT) or protocol == U64(_AH)
        if ether == U64(_IP6) and chained:
            return _NO_PORTS
        return _OK
    return _transport(b, s, n, protocol, o, end, row)


@kernel
def decode(octets: Any, frames: Any, packets: Any, count: Any) -> Any:
    """Decode `count` frames.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m], m >= count; `start` and `captured` lie within `octets`.
        packets: PACKET[m], set to zero by the caller; rows 0 to count - 1 are filled.
        count: Frames to decode.

    Returns:
        The number of frames whose Verdict is FLOW.
    """
    good = 0
    for i in range(count):
        frame = frames[U64(i)]
        row = packets[U64(i)]
        n = U64(frame["captured"])
        verdict = _frame(octets, U64(frame["start"]), n, max(n, U64(frame["wire"])), U64(frame["link"]), row)
        row["verdict"] = verdict
        if verdict == _OK:
            good += 1
    return good


def decode_batch(
    octets: npt.NDArray[np.uint8], frames: npt.NDArray[np.void], packets: npt.NDArray[np.void]
) -> npt.NDArray[np.void]:
    """Decode the frames of a batch into the first rows of `packets`.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[k], k >= m, used again from batch to batch.

    Returns:
        PACKET[m].
    """
    rows = packets[: len(frames)]
    rows.view(np.uint8)[:] = 0
    decode(octets, frames, rows, len(frames))
    return rows
