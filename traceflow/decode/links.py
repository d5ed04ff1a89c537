"""Link headers: what stands before IP in a frame. The link types that traceflow reads, and the common headers.

`link_header` passes the header that the link type of the capture announces, `pass_tags` VLAN tags and IEEE 802.2 behind
it; what is left to pass then `is_rare`, and stands in `links_rare.py`. What follows is told by its EtherType, or by one
of the numbers above 0xffff below. Nothing here knows of IP or of flows.

Read first: IEEE 802.1Q and 802.2; the LINKTYPE_ registry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.decode.octets import CUT_IP, CUT_LINK, OK, UNSUPPORTED, u16

__all__ = [
    "ARCNET",
    "BRIDGED",
    "BY_VERSION",
    "CISCO_HDLC",
    "ETHERNET",
    "FABRIC_PATH",
    "FIRST_ETHERTYPE",
    "FIRST_RARE",
    "FRAME_RELAY",
    "IP4",
    "IP6",
    "LINKS",
    "LLC",
    "MEASURED",
    "MPLS",
    "MPLS_MULTICAST",
    "OTHER",
    "PPP",
    "PPPOE",
    "PRISM",
    "PROVIDER_BACKBONE",
    "RULESET",
    "SOURCE_ROUTED",
    "VN_TAG",
    "WLAN",
    "WLAN_PADDED",
    "family",
    "is_rare",
    "link_header",
    "pass_tags",
]

IP4, IP6 = 0x0800, 0x86DD
MPLS, MPLS_MULTICAST, PPPOE = 0x8847, 0x8848, 0x8864
BRIDGED, FABRIC_PATH, PROVIDER_BACKBONE = 0x6558, 0x8903, 0x88E7  # Ethernet follows, behind 0, 2, 4 octets
VN_TAG = 0x8926  # an EtherType follows, behind 4 octets
# From here on these are no EtherTypes. 0x10000: the first four bits of the packet tell.
BY_VERSION = 0x10000
LLC = 0x10001  # an IEEE 802.2 header follows
OTHER = 0x10002  # something that is not IP
FAMILY = 0x10003  # an address family, at the beginning of the frame
ETHERNET = 0x10004  # from here on `links_rare.py` knows how to pass them
PPP = 0x10005
CISCO_HDLC = 0x10006
WLAN = 0x10007
WLAN_PADDED = 0x10008  # the 802.11 header is filled up to a multiple of four octets
FIRST_RARE = MEASURED = 0x10009  # from here on link types announce them; a header of the receiver: radiotap, PPI
PRISM = 0x1000A  # Prism or AVS
FRAME_RELAY = 0x1000B
RULESET = 0x1000C  # PF's log: length of the header and address family stand in front
ARCNET = 0x1000D  # a system code
SOURCE_ROUTED = 0x1000E  # source routes, if the source address has them, and IEEE 802.2
FIRST_ETHERTYPE = 0x0600  # smaller values of the field are an IEEE 802.3 length


# 101 is LINKTYPE_RAW; 12 and 14 are DLT_RAW of most systems and of OpenBSD, which old writers left in files.
_LINK_HEADERS: dict[int, tuple[str, int, int, int]] = {
    0: ("NULL", FAMILY, 4, 0),
    1: ("EN10MB", 0, 14, 12),
    6: ("IEEE802_5", SOURCE_ROUTED, 14, 0),
    7: ("ARCNET_BSD", ARCNET, 3, 0),
    8: ("SLIP", BY_VERSION, 16, 0),
    9: ("PPP", PPP, 0, 0),
    10: ("FDDI", LLC, 13, 0),
    12: ("RAW", BY_VERSION, 0, 0),
    14: ("RAW", BY_VERSION, 0, 0),
    50: ("PPP_HDLC", PPP, 0, 0),
    51: ("PPP_ETHER", PPP, 6, 0),
    100: ("ATM_RFC1483", LLC, 0, 0),
    101: ("RAW", BY_VERSION, 0, 0),
    104: ("C_HDLC", CISCO_HDLC, 0, 0),
    105: ("IEEE802_11", WLAN, 0, 0),
    107: ("FRELAY", FRAME_RELAY, 2, 0),
    108: ("LOOP", FAMILY, 4, 0),
    109: ("ENC", FAMILY, 12, 0),
    113: ("LINUX_SLL", 0, 16, 14),
    117: ("PFLOG", RULESET, 4, 0),
    119: ("IEEE802_11_PRISM", PRISM, 8, 0),
    122: ("IP_OVER_FC", LLC, 16, 0),
    127: ("IEEE802_11_RADIOTAP", MEASURED, 8, 0),
    129: ("ARCNET_LINUX", ARCNET, 5, 0),
    138: ("APPLE_IP_OVER_IEEE1394", 0, 18, 16),
    163: ("IEEE802_11_AVS", PRISM, 8, 0),
    192: ("PPI", MEASURED, 8, 0),
    204: ("PPP_WITH_DIR", PPP, 1, 0),
    228: ("IPV4", IP4, 0, 0),
    229: ("IPV6", IP6, 0, 0),
    242: ("IPOIB", 0, 44, 40),
    276: ("LINUX_SLL2", 0, 20, 0),
}
"""Link type to its name in the LINKTYPE_ registry, what follows its header, the octets of the header; where the first
is 0, an EtherType stands in the header, and the last says where."""

LINKS: dict[int, str] = {link: header[0] for link, header in _LINK_HEADERS.items()}
"""The link types that decode knows, with their names in the LINKTYPE_ registry."""

_NO_LINK = 0xFFFFFFFF
_MOST_LINK = max(_LINK_HEADERS)
LINK_TABLE = np.full((_MOST_LINK + 1, 3), _NO_LINK, np.uint32)
for _link, _header in _LINK_HEADERS.items():
    LINK_TABLE[_link] = _header[1:]


@outline_kernel
def family(number: Any) -> Any:
    """Address family of BSD systems and Linux as an EtherType."""
    if number == U64(2):  # AF_INET everywhere
        return U64(IP4)
    # AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS
    if number == U64(10) or number == U64(23) or number == U64(24) or number == U64(28) or number == U64(30):
        return U64(IP6)
    return U64(OTHER)


@outline_kernel
def _null_family(b: Any, s: Any) -> Any:
    """Address family of a NULL or LOOP header as an EtherType; the byte order is that of the capturing host."""
    number = u16(b, s + U64(2))
    if number == U64(0):
        number = (U64(b[s + U64(1)]) << U64(8)) | U64(b[s])
    elif u16(b, s) != U64(0):
        return U64(OTHER)
    return family(number)


@outline_kernel
def _other_link(b: Any, s: Any, n: Any, link: Any) -> Any:
    """Every link type but Ethernet. Returns as `link_header`."""
    if link > U64(_MOST_LINK) or U64(LINK_TABLE[link, U64(0)]) == U64(_NO_LINK):
        return UNSUPPORTED, U64(0), U64(0)
    what, size = U64(LINK_TABLE[link, U64(0)]), U64(LINK_TABLE[link, U64(1)])
    if n < size:
        return CUT_LINK, U64(0), U64(0)
    if what == U64(FAMILY):
        what = _null_family(b, s)
    elif what == U64(0):
        what = u16(b, s + U64(LINK_TABLE[link, U64(2)]))
        if what < U64(FIRST_ETHERTYPE):  # in cooked captures numbers of Linux; 4 is "802.2 frame"
            what = U64(LLC) if what == U64(4) else U64(OTHER)
    return OK, what, size


@inline_kernel
def link_header(b: Any, s: Any, n: Any, link: Any) -> Any:
    """Pass the link header of a frame of `n` captured octets at `s`.

    Returns:
        (verdict, what follows: an EtherType or a number above 0xffff, octets of the header).
    """
    if link == U64(1):
        if n < U64(14):
            return CUT_LINK, U64(0), U64(0)
        ether = u16(b, s + U64(12))
        return OK, U64(LLC) if ether < U64(FIRST_ETHERTYPE) else ether, U64(14)
    return _other_link(b, s, n, link)


@outline_kernel
def _llc(b: Any, s: Any, n: Any, o: Any) -> Any:
    """IEEE 802.2 header at `o`: SNAP (RFC 1042) carries an EtherType, SAP 6 is IPv4. Returns as `pass_headers`."""
    if n < o + U64(3):
        return CUT_LINK, U64(0), o
    sap = u16(b, s + o)
    if sap == U64(0x0606):
        return OK, U64(IP4), o + U64(3)
    if sap != U64(0xAAAA):
        return OK, U64(OTHER), o
    if n < o + U64(8):
        return CUT_LINK, U64(0), o
    ether = u16(b, s + o + U64(6))
    if ether < U64(FIRST_ETHERTYPE):
        return OK, U64(OTHER), o
    return OK, ether, o + U64(8)


@outline_kernel
def pass_tags(b: Any, s: Any, n: Any, what: Any, o: Any, row: Any) -> Any:
    """Pass VLAN tags (802.1Q 0x8100, 802.1ad 0x88a8, the older 0x9100) and 802.2 headers at `o`, and note the tags.

    Returns:
        (verdict, what follows, where).
    """
    verdict = OK
    tags = U64(row["vlan_tags"])
    while True:
        if what == U64(0x8100) or what == U64(0x88A8) or what == U64(0x9100):
            if n < o + U64(4):
                return CUT_LINK, what, o
            tag = u16(b, s + o) & U64(0x0FFF)
            if tags == U64(0):
                row["vlan_outer"] = tag
            else:
                row["vlan_inner"] = tag
            if tags < U64(255):
                tags += U64(1)
            what = u16(b, s + o + U64(2))
            o += U64(4)
            if what < U64(FIRST_ETHERTYPE):
                what = U64(LLC)
        elif what == U64(LLC):
            verdict, what, o = _llc(b, s, n, o)
            if verdict != OK:
                return verdict, what, o
        else:
            break
    if what == U64(BY_VERSION):
        if n <= o:
            return CUT_IP, what, o
        what = U64(IP6) if U64(b[s + o]) >> U64(4) == U64(6) else U64(IP4)
    row["vlan_tags"] = tags
    return OK, what, o


@inline_kernel
def is_rare(what: Any) -> Any:
    """Whether `rare.py` knows how to pass a header that stands before IP."""
    return (
        what >= U64(ETHERNET)
        or what == U64(MPLS)
        or what == U64(MPLS_MULTICAST)
        or what == U64(PPPOE)
        or what == U64(BRIDGED)
        or what == U64(FABRIC_PATH)
        or what == U64(PROVIDER_BACKBONE)
        or what == U64(VN_TAG)
    )
