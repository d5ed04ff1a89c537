"""Link headers that few captures have: MPLS, PPPoE, PPP, IEEE 802.11, Frame Relay, ARCnet, Ethernet in Ethernet.

`first_header` goes on where `links.link_header` left off, `pass_headers` passes whatever stands before IP.

Read first: RFC 1661 and 1662 (PPP), 2516 (PPPoE), 3032 and 4385 (MPLS), 2427 (Frame Relay), 1051 and 1201 (ARCnet);
IEEE 802.11; radiotap.org.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, outline_kernel
from traceflow.decode.links import (
    ARCNET,
    CISCO_HDLC,
    ETHERNET,
    FABRIC_PATH,
    FIRST_ETHERTYPE,
    FRAME_RELAY,
    IP4,
    IP6,
    LLC,
    MEASURED,
    MPLS,
    MPLS_MULTICAST,
    OTHER,
    PPP,
    PPPOE,
    PROVIDER_BACKBONE,
    RULESET,
    SOURCE_ROUTED,
    VN_TAG,
    WLAN,
    WLAN_PADDED,
    family,
    is_rare,
    pass_tags,
)
from traceflow.decode.octets import CUT_LINK, OK, UNSUPPORTED, u16

__all__ = ["first_header", "pass_headers"]


@outline_kernel
def _measured(b: Any, s: Any, n: Any, what: Any) -> Any:
    """Headers of a receiver before an 802.11 frame, at the beginning of a frame. Returns as `pass_headers`.

    Radiotap, PPI, AVS or Prism; the byte order of the last is that of the capturing host. The caller has seen to
    eight octets.
    """
    size = u16(b, s + U64(6))
    if what == U64(MEASURED):
        size = (U64(b[s + U64(3)]) << U64(8)) | U64(b[s + U64(2)])
    elif u16(b, s) != U64(0x8021) and U64(b[s + U64(7)]) == U64(0):
        size = (U64(b[s + U64(5)]) << U64(8)) | U64(b[s + U64(4)])
    if size < U64(8):
        return UNSUPPORTED, what, U64(0)
    return CUT_LINK if n < size else OK, U64(WLAN), size


@outline_kernel
def _radiotap_padding(b: Any, s: Any, size: Any) -> Any:
    """Whether a radiotap header of `size` captured octets says that the 802.11 header is filled up."""
    present = U64(b[s + U64(4)])
    if present & U64(2) == U64(0):  # there is no field `flags`
        return False
    at = U64(4)
    while at + U64(8) <= size and U64(b[s + at + U64(3)]) & U64(0x80):  # more words that say which fields are there
        at += U64(4)
    at += U64(4)
    if present & U64(1):  # TSFT comes first: eight octets at a multiple of eight
        at = ((at + U64(7)) & U64(0xFFF8)) + U64(8)
    return at < size and U64(b[s + at]) & U64(0x20) != U64(0)


@outline_kernel
def _frame_relay(b: Any, s: Any, n: Any, o: Any) -> Any:
    """Behind a Frame Relay address whose first two octets were passed. Returns as `pass_headers`.

    The last of the up to four octets of an address has its lowest bit set (ITU-T Q.922, 3.2). RFC 2427 puts the control
    octet 3 behind it, Cisco's encapsulation an EtherType.
    """
    while o < U64(4) and U64(b[s + o - U64(1)]) & U64(1) == U64(0) and n > o:
        o += U64(1)
    if n < o + U64(2):
        return CUT_LINK, U64(FRAME_RELAY), o
    if U64(b[s + o]) != U64(3):
        ether = u16(b, s + o)
        return OK, ether if ether >= U64(FIRST_ETHERTYPE) else U64(OTHER), o + U64(2)
    o += U64(2) if U64(b[s + o + U64(1)]) == U64(0) else U64(1)  # padding
    if n < o + U64(6):
        return CUT_LINK, U64(FRAME_RELAY), o
    identifier = U64(b[s + o])
    if identifier == U64(0x80):
        return OK, u16(b, s + o + U64(4)), o + U64(6)
    what = U64(IP4) if identifier == U64(0xCC) else U64(IP6) if identifier == U64(0x8E) else U64(OTHER)
    return OK, what, o + U64(1)


@outline_kernel
def first_header(b: Any, s: Any, n: Any, link: Any, what: Any, o: Any) -> Any:
    """Forms of link headers that need a look at their octets; `o` of them were passed. Returns as `pass_headers`."""
    first = U64(b[s]) if n != U64(0) else U64(0)
    if what == U64(RULESET):
        return OK, family(U64(b[s + U64(1)])), (first + U64(3)) & U64(0x1FC)
    if what == U64(SOURCE_ROUTED):
        if U64(b[s + U64(8)]) & U64(0x80) and n > o:
            o += U64(b[s + o]) & U64(31)
        return OK, U64(LLC), o
    if what == U64(ARCNET):
        system = U64(b[s + o - U64(1)])
        if system == U64(240):  # RFC 1051
            return OK, U64(IP4), o
        # RFC 1201: a flag, 0 for a whole packet, and a sequence number
        whole = system == U64(212) and n > o and U64(b[s + o]) == U64(0)
        return OK, U64(IP4) if whole else U64(OTHER), o + U64(3) if whole else o
    if what == U64(FRAME_RELAY):
        return _frame_relay(b, s, n, o)
    verdict, following, o = _measured(b, s, n, what)
    if verdict == OK and link == U64(192):  # PPI names the link type of what follows
        inner = U64(b[s + U64(4)])
        if inner == U64(1):
            return OK, U64(ETHERNET), o
        return OK if inner == U64(105) else UNSUPPORTED, following, o
    if verdict == OK and link == U64(127) and _radiotap_padding(b, s, o):
        return OK, U64(WLAN_PADDED), o
    return verdict, following, o


@outline_kernel
def _mpls(b: Any, s: Any, n: Any, o: Any) -> Any:
    """The label stack at `o`, to its last entry. Returns as `pass_headers`.

    Nothing says what it carries; the first four bits tell as far as they can (RFC 4928): IP by its version; 0 is the
    control word of a pseudowire (RFC 4385), 1 its associated channel; all else is taken for Ethernet.
    """
    last = U64(0)
    while last == U64(0):
        if n < o + U64(4):
            return CUT_LINK, U64(0), o
        last = U64(b[s + o + U64(2)]) & U64(1)
        o += U64(4)
    if n <= o:
        return CUT_LINK, U64(0), o
    version = U64(b[s + o]) >> U64(4)
    if version == U64(4):
        return OK, U64(IP4), o
    if version == U64(6):
        return OK, U64(IP6), o
    if version == U64(1):
        return OK, U64(OTHER), o
    return OK, U64(ETHERNET), o + U64(4) if version == U64(0) else o


@outline_kernel
def _ppp(b: Any, s: Any, n: Any, what: Any, o: Any) -> Any:
    """PPP or Cisco's HDLC at `o`; the first octet tells them apart. Returns as `pass_headers`."""
    if n < o + U64(2):
        return CUT_LINK, U64(0), o
    address = U64(b[s + o])
    framed = address == U64(0xFF) and U64(b[s + o + U64(1)]) == U64(3)
    if not framed and (what == U64(CISCO_HDLC) or address == U64(0x0F) or address == U64(0x8F)):
        if n < o + U64(4):
            return CUT_LINK, U64(0), o
        return OK, u16(b, s + o + U64(2)), o + U64(4)
    if framed:
        o += U64(2)
        if n < o + U64(2):
            return CUT_LINK, U64(0), o
    protocol = U64(b[s + o])
    if protocol & U64(1):  # compressed to one octet
        o += U64(1)
    else:
        protocol = u16(b, s + o)
        o += U64(2)
    if protocol == U64(0x21):
        return OK, U64(IP4), o
    if protocol == U64(0x57):
        return OK, U64(IP6), o
    if protocol == U64(0x0281) or protocol == U64(0x0283):
        return OK, U64(MPLS), o
    return OK, U64(OTHER), o


@outline_kernel
def _wlan(b: Any, s: Any, n: Any, o: Any, padded: Any) -> Any:
    """IEEE 802.11 header at `o`: data frames that are neither encrypted nor in pieces. Returns as `pass_headers`."""
    if n < o + U64(24):
        # Control frames are shorter; a data frame is cut.
        data = n > o and U64(b[s + o]) & U64(0x0C) == U64(0x08)
        return CUT_LINK if data or n <= o else OK, U64(OTHER), o
    kind, flags = U64(b[s + o]), U64(b[s + o + U64(1)])
    if kind & U64(0x4F) != U64(0x08) or flags & U64(0x40) or U64(b[s + o + U64(22)]) & U64(0x0F):
        return OK, U64(OTHER), o
    size = U64(30) if flags & U64(3) == U64(3) else U64(24)
    if kind & U64(0x80):  # quality of service
        if n < o + size + U64(2):
            return CUT_LINK, U64(0), o
        if U64(b[s + o + size]) & U64(0x80):  # several packets in one frame (A-MSDU)
            return UNSUPPORTED, U64(0), o
        size += U64(6) if flags & U64(0x80) else U64(2)
    if padded:
        size = (size + U64(3)) & U64(0xFC)
    return OK, U64(LLC), o + size


@outline_kernel
def _pass_one(b: Any, s: Any, n: Any, what: Any, o: Any) -> Any:
    """Pass one header that `is_rare`. Returns as `pass_headers`."""
    if what == U64(MPLS) or what == U64(MPLS_MULTICAST):
        return _mpls(b, s, n, o)
    if what == U64(PPP) or what == U64(CISCO_HDLC):
        return _ppp(b, s, n, what, o)
    if what == U64(WLAN) or what == U64(WLAN_PADDED):
        return _wlan(b, s, n, o, what == U64(WLAN_PADDED))
    if what == U64(PPPOE):
        session = u16(b, s + o) == U64(0x1100)  # version 1, type 1, code 0
        return OK, U64(PPP) if session else U64(OTHER), o + U64(6)
    if what == U64(VN_TAG):
        if n < o + U64(6):
            return CUT_LINK, what, o
        following = u16(b, s + o + U64(4))
        return OK, U64(LLC) if following < U64(FIRST_ETHERTYPE) else following, o + U64(6)
    if what == U64(FABRIC_PATH):
        o += U64(2)
    elif what == U64(PROVIDER_BACKBONE):
        o += U64(4)
    if n < o + U64(14):
        return CUT_LINK, what, o
    following = u16(b, s + o + U64(12))
    return OK, U64(LLC) if following < U64(FIRST_ETHERTYPE) else following, o + U64(14)


@outline_kernel
def pass_headers(b: Any, s: Any, n: Any, sent: Any, what: Any, o: Any, row: Any, fabric_fcs: Any) -> Any:
    """Pass all that stands between `o` and IP.

    Every header but a PPP protocol of one octet has at least two, so the octets of the frame bound the loop. The length
    in a PPPoE header ends what it carries: access equipment that pads a frame may count the padding in the length of
    IP.

    `fabric_fcs`: the frame inside FabricPath ends with its check sequence.

    Returns:
        (verdict, what follows, where, where that ends at the latest).
    """
    while True:
        verdict, what, o = pass_tags(b, s, n, what, o, row)
        if verdict != OK or not is_rare(what):
            return verdict, what, o, sent
        if what == U64(PPPOE):
            if n < o + U64(6):
                return CUT_LINK, what, o, sent
            sent = min(sent, o + U64(6) + u16(b, s + o + U64(4)))
            n = min(n, sent)
        if what == U64(FABRIC_PATH) and fabric_fcs:
            sent -= U64(4)
            n = min(n, sent)
        verdict, what, o = _pass_one(b, s, n, what, o)
        if verdict != OK:
            return verdict, what, o, sent
