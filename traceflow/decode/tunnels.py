"""Tunnels: what a packet carries that is itself a frame or a packet.

`open_tunnel` looks behind a packet that may be one, and says what is in it; the walk in `walk.py` goes on there. It
checks what the header of the tunnel allows to check, and nothing of what follows: if that does not decode, the walk
takes the packet for an ordinary one.

Read first: RFC 2784 and 2890 (GRE), 2637 (PPTP), 7348 (VXLAN), 8926 (Geneve), 4380 (Teredo), 2003, 4213 (IP in IP),
3378 (EtherIP), 4023, 7510 (MPLS); 3GPP TS 29.281 (GTP-U); draft-foschiano-erspan.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, outline_kernel
from traceflow.decode.links import BY_VERSION, ETHERNET, IP4, IP6, MPLS, PPP, WLAN
from traceflow.decode.octets import u16, u32
from traceflow.decode.transport import (
    ETHERNET_IN_IP,
    GRE,
    IPIP,
    IPV4,
    IPV6,
    MPLS_IN_IP,
    PORT_AYIYA,
    PORT_GENEVE,
    PORT_GTP_U,
    PORT_L2TP,
    PORT_MPLS_IN_UDP,
    PORT_TEREDO,
    PORT_VXLAN,
    PORT_VXLAN_CISCO,
    PORT_VXLAN_GPE,
    PORT_VXLAN_LINUX,
    UDP,
)
from traceflow.packets import Tunnel

__all__ = ["open_tunnel"]

_IP_IN_IP, _GRE_KIND, _PPTP, _ERSPAN = U64(Tunnel.IP), U64(Tunnel.GRE), U64(Tunnel.PPTP), U64(Tunnel.ERSPAN)


@outline_kernel
def _gre(b: Any, s: Any, n: Any, o: Any) -> Any:
    """GRE at `o`, with ERSPAN and PPTP. Returns as `open_tunnel`."""
    none = U64(0)
    if n < o + U64(4):
        return none, o, none, none
    flags, what = u16(b, s + o), u16(b, s + o + U64(2))
    version = flags & U64(7)
    if flags & U64(0x4000) or version > U64(1):  # source routes were given up (RFC 2784)
        return none, o, none, none
    key_at = o + U64(4) + ((flags >> U64(13)) & U64(4))  # behind the checksum, if there is one
    at = key_at + ((flags >> U64(11)) & U64(4)) + ((flags >> U64(10)) & U64(4))
    if n < at:
        return none, o, none, none
    key = u32(b, s + key_at) if flags & U64(0x2000) else none
    sequenced = flags & U64(0x1000) != none
    if version == U64(1):
        if what != U64(0x880B):
            return none, o, none, none
        if flags & U64(0x80):
            at += U64(4)
        return U64(PPP), at, _PPTP, key & U64(0xFFFF)
    if what == U64(0x88BE) or what == U64(0x22EB):
        size = U64(8) if sequenced else none  # type II; type I has no header
        if what == U64(0x22EB):
            size = U64(12)
            if n >= at + size and U64(b[s + at + U64(11)]) & U64(1):
                size = U64(20)  # with the subheader of a platform
        if size != none:
            if n < at + size:
                return none, o, none, none
            key = u16(b, s + at + U64(2)) & U64(0x03FF)  # the session
        return U64(ETHERNET), at + size, _ERSPAN, key
    if what == U64(0x880B):
        what = U64(PPP)
    elif what >= U64(0x8200) and what <= U64(0x82FF):  # between Aruba's access points and controllers
        what = U64(WLAN)
    elif what == U64(0x883E):  # WCCP; version 2 has a header of its own
        if n > at and U64(b[s + at]) >> U64(4) != U64(4):
            at += U64(4)
        what = U64(IP4)
    return what, at, _GRE_KIND, key


@outline_kernel
def _vxlan(b: Any, s: Any, n: Any, o: Any, generic: Any) -> Any:
    """VXLAN at `o`, or its Generic Protocol Extension. Returns as `open_tunnel`."""
    none = U64(0)
    if n < o + U64(8) or U64(b[s + o]) & U64(0x08) == none:  # the VNI is valid
        return none, o, none, none
    vni = u32(b, s + o + U64(4)) >> U64(8)
    what = U64(ETHERNET)
    if generic and U64(b[s + o]) & U64(0x04):
        following = U64(b[s + o + U64(3)])
        if following == U64(1):
            what = U64(IP4)
        elif following == U64(2):
            what = U64(IP6)
        elif following == U64(5):
            what = U64(MPLS)
        elif following != U64(3):
            what = none
    return what, o + U64(8), U64(Tunnel.VXLAN), vni


@outline_kernel
def _gtp(b: Any, s: Any, n: Any, o: Any) -> Any:
    """GTP-U version 1 at `o`: user data (message 255) alone. Returns as `open_tunnel`."""
    none = U64(0)
    if n < o + U64(8):
        return none, o, none, none
    flags = U64(b[s + o])
    if flags >> U64(4) != U64(3) or U64(b[s + o + U64(1)]) != U64(255):
        return none, o, none, none
    at = o + U64(8)
    if flags & U64(7):
        at += U64(4)
        if n < at:
            return none, o, none, none
        following = U64(b[s + at - U64(1)]) if flags & U64(4) else none
        while following != none:  # extension headers: their length in fours, and what follows as the last octet
            if n <= at or U64(b[s + at]) == none:
                return none, o, none, none
            at += U64(b[s + at]) << U64(2)
            if n < at:
                return none, o, none, none
            following = U64(b[s + at - U64(1)])
    return U64(BY_VERSION), at, U64(Tunnel.GTP_U), u32(b, s + o + U64(4))


@outline_kernel
def _teredo(b: Any, s: Any, n: Any, o: Any, stop: Any) -> Any:
    """Teredo from `o` to `stop`: an IPv6 packet that fills the datagram. Returns as `open_tunnel`."""
    none = U64(0)
    if n >= o + U64(4) and u16(b, s + o) == U64(1):  # authentication: two lengths, nonce, confirmation
        o += U64(13) + U64(b[s + o + U64(2)]) + U64(b[s + o + U64(3)])
    if n >= o + U64(2) and u16(b, s + o) == none:  # origin
        o += U64(8)
    if n < o + U64(40) or U64(b[s + o]) >> U64(4) != U64(6) or u16(b, s + o + U64(4)) + o + U64(40) != stop:
        return none, o, none, none
    return U64(IP6), o, U64(Tunnel.TEREDO), none


@outline_kernel
def _l2tp(b: Any, s: Any, n: Any, o: Any) -> Any:
    """L2TP version 2 (RFC 2661) at `o`: data messages. Returns as `open_tunnel`."""
    none = U64(0)
    if n < o + U64(6):
        return none, o, none, none
    flags = u16(b, s + o)
    if flags & U64(0x8000) or flags & U64(15) != U64(2):
        return none, o, none, none
    at = o + U64(2)
    if flags & U64(0x4000):
        at += U64(2)
    if n < at + U64(4):
        return none, o, none, none
    identifier = u32(b, s + at)
    at += U64(4)
    if flags & U64(0x0800):
        at += U64(4)
    if flags & U64(0x0200):
        if n < at + U64(2):
            return none, o, none, none
        at += U64(2) + u16(b, s + at)
    return U64(PPP), at, U64(Tunnel.L2TP), identifier


@outline_kernel
def _ayiya(b: Any, s: Any, n: Any, o: Any) -> Any:
    """AYIYA (draft-massar-v6ops-ayiya) at `o`, with IPv6 in it. Returns as `open_tunnel`."""
    if n < o + U64(8) or U64(b[s + o + U64(3)]) != U64(IPV6):
        return U64(0), o, U64(0), U64(0)
    identity = U64(1) << (U64(b[s + o]) >> U64(4))  # octets, as a power of two
    signature = (U64(b[s + o + U64(1)]) >> U64(4)) << U64(2)
    return U64(IP6), o + U64(8) + identity + signature, U64(Tunnel.AYIYA), U64(0)


@outline_kernel
def _geneve(b: Any, s: Any, n: Any, o: Any) -> Any:
    """Geneve at `o`. Returns as `open_tunnel`."""
    if n < o + U64(8) or U64(b[s + o]) >> U64(6) != U64(0):
        return U64(0), o, U64(0), U64(0)
    options = (U64(b[s + o]) & U64(0x3F)) << U64(2)
    return u16(b, s + o + U64(2)), o + U64(8) + options, U64(Tunnel.GENEVE), u32(b, s + o + U64(4)) >> U64(8)


@outline_kernel
def _over_udp(b: Any, s: Any, n: Any, row: Any) -> Any:
    """A UDP datagram, told by its ports. Arguments and answer as of `open_tunnel`."""
    o = U64(row["payload"])
    source, target = U64(row["src_port"]), U64(row["dst_port"])
    if target == U64(PORT_VXLAN) or target == U64(PORT_VXLAN_LINUX) or target == U64(PORT_VXLAN_CISCO):
        return _vxlan(b, s, n, o, U64(0))
    if target == U64(PORT_VXLAN_GPE):
        return _vxlan(b, s, n, o, U64(1))
    if target == U64(PORT_GENEVE):
        return _geneve(b, s, n, o)
    if target == U64(PORT_MPLS_IN_UDP):
        return U64(MPLS), o, U64(Tunnel.MPLS), U64(0)
    # These answer from the port on which they were called.
    if source == U64(PORT_GTP_U) or target == U64(PORT_GTP_U):
        return _gtp(b, s, n, o)
    if source == U64(PORT_TEREDO) or target == U64(PORT_TEREDO):
        return _teredo(b, s, n, o, o + U64(row["payload_octets"]))
    if source == U64(PORT_L2TP) or target == U64(PORT_L2TP):
        return _l2tp(b, s, n, o)
    if source == U64(PORT_AYIYA) or target == U64(PORT_AYIYA):
        return _ayiya(b, s, n, o)
    return U64(0), o, U64(0), U64(0)


@outline_kernel
def open_tunnel(b: Any, s: Any, n: Any, protocol: Any, row: Any) -> Any:
    """Look behind the header of a packet that may be a tunnel.

    Args:
        b: The buffer.
        s: Where the frame begins in it.
        n: Captured octets of the frame that belong to the packet.
        protocol: What IP carries.
        row: PACKET row of the packet, filled.

    Returns:
        (what is in it, as `links.py` says it, or 0 where it is no tunnel; where; Tunnel; its number).
    """
    none = U64(0)
    o = U64(row["payload"])
    if protocol == U64(UDP):
        return _over_udp(b, s, n, row)
    if protocol == U64(GRE):
        return _gre(b, s, n, o)
    if protocol == U64(IPV4) or protocol == U64(IPIP):
        return U64(IP4), o, _IP_IN_IP, none
    if protocol == U64(IPV6):
        return U64(IP6), o, _IP_IN_IP, none
    if protocol == U64(MPLS_IN_IP):
        return U64(MPLS), o, U64(Tunnel.MPLS), none
    if protocol == U64(ETHERNET_IN_IP):
        return U64(ETHERNET), o, U64(Tunnel.ETHERIP), none
    if n < o + U64(2) or U64(b[s + o]) >> U64(4) != U64(3):  # EtherIP: version 3, no number
        return none, o, none, none
    return U64(ETHERNET), o + U64(2), U64(Tunnel.ETHERIP), none
