"""The link layer of a frame as fields: Ethernet, Linux cooked, NULL/LOOP, VLAN tags, IEEE 802.2 (LLC, SNAP).

Names are those of Wireshark's display filters (`eth.dst`, `sll.hatype`, `vlan.id`, `llc.dsap`). It follows the same
rules as `decode`, field by field. Read first: IEEE 802.3, 802.1Q, RFC 1042, and the LINKTYPE_ registry's pages.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from traceflow.sinks.records_fields import cut, ipv4_text, whole

__all__ = ["IP4", "IP6", "link_layer"]

IP4, IP6 = 0x0800, 0x86DD
_OTHER = 0
"""No EtherType: what follows is not known, or not there."""
_LLC = -1
"""No EtherType: an IEEE 802.2 header follows."""
_NO_END = 2**32 - 1  # no length says where the frame ends
_FIRST_ETHERTYPE = 0x0600  # smaller values of the field are an IEEE 802.3 length
_VLAN = frozenset({0x8100, 0x88A8, 0x9100})

_ETHERNET, _SLL, _SLL2 = 1, 113, 276
_NULL, _LOOP = 0, 108
_RAW = frozenset({101, 12, 14})  # LINKTYPE_RAW and what old writers left in files for it
_RAW_IP4, _RAW_IP6 = 228, 229
# 2 is AF_INET everywhere; AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS
_FAMILIES = {2: IP4, 10: IP6, 23: IP6, 24: IP6, 28: IP6, 30: IP6}

_SLL_HEADER = Struct(">HHH8sH")
_SLL2_HEADER = Struct(">HHIHBB8s")

_ETH_ENDS = {"dst": 6, "src": 12, "type": 14, "len": 14}
_SLL_ENDS = {"pkttype": 2, "hatype": 4, "halen": 6, "src": 14, "unused": 14, "etype": 16, "ltype": 16}
_SLL2_ENDS = {"etype": 2, "ltype": 2, "ifindex": 8, "hatype": 10, "pkttype": 11, "halen": 12, "src": 20, "unused": 20}


def link_layer(record: dict[str, Any], octets: bytes, link: int) -> tuple[int, int, int]:
    """Add the link layer, VLAN tags and IEEE 802.2 headers to a record.

    Args:
        record: Gets `eth`, `sll` or `null`, and `vlan` (a list, outermost first) and `llc` where they are.
        octets: The captured octets of the frame.
        link: Its link type.

    Returns:
        (EtherType of what follows, 0 where that is unknown; where it begins; where it ends by an IEEE 802.3
        length, 2**32 - 1 where there is none).
    """
    ether, at, stop = _header(record, octets, link)
    while True:
        if ether == IP4:
            return ether, at, stop
        if ether in _VLAN:
            ether, at, stop = _vlan(record, octets, ether, at, stop)
        elif ether == _LLC:
            ether, at = _llc(record, octets, at)
        else:
            return ether, at, stop


def _header(record: dict[str, Any], octets: bytes, link: int) -> tuple[int, int, int]:
    """The header of the link type itself; returns as `link_layer`."""
    if link == _ETHERNET:
        return _ethernet(record, octets)
    if link in (_SLL, _SLL2):
        return (*_cooked(record, octets, link), _NO_END)
    if link in (_NULL, _LOOP):
        return (*_null(record, octets), _NO_END)
    if link in _RAW:
        return IP6 if octets[:1] and octets[0] >> 4 == 6 else IP4, 0, _NO_END
    return IP4 if link == _RAW_IP4 else IP6 if link == _RAW_IP6 else _OTHER, 0, _NO_END


def _ethernet(record: dict[str, Any], octets: bytes) -> tuple[int, int, int]:
    had = len(octets)
    header = octets if had >= 14 else octets.ljust(14, b"\0")
    ether = header[12] << 8 | header[13]
    layer: dict[str, Any] = {"dst": header[0:6].hex(":"), "src": header[6:12].hex(":")}
    layer["type" if ether >= _FIRST_ETHERTYPE else "len"] = ether
    record["eth"] = layer
    if had < 14:
        record["eth"] = cut(layer, _ETH_ENDS, had)
        return _OTHER, had, _NO_END
    if ether >= _FIRST_ETHERTYPE:
        return ether, 14, _NO_END
    return _LLC, 14, 14 + ether


def _cooked(record: dict[str, Any], octets: bytes, link: int) -> tuple[int, int]:
    """Linux cooked capture, version 1 or 2."""
    size, ends = (16, _SLL_ENDS) if link == _SLL else (20, _SLL2_ENDS)
    header, had = whole(octets, 0, size, size)
    layer: dict[str, Any] = {}
    if link == _SLL:
        layer["pkttype"], layer["hatype"], halen, address, ether = _SLL_HEADER.unpack(header)
    else:
        ether, _, layer["ifindex"], layer["hatype"], layer["pkttype"], halen, address = _SLL2_HEADER.unpack(header)
    layer["halen"] = halen
    if halen == 6:
        layer["src"] = {"eth": address[:6].hex(":")}
    elif halen == 4:
        layer["src"] = {"ipv4": ipv4_text(address[:4])}
    elif halen:
        layer["src"] = {"other": address[:halen]}
    if halen < 8:
        layer["unused"] = address[halen:]
    layer["etype" if ether >= _FIRST_ETHERTYPE else "ltype"] = ether
    record["sll"] = layer
    if had < size:
        record["sll"] = cut(layer, ends, had)
        return _OTHER, had
    if ether >= _FIRST_ETHERTYPE:
        return ether, size
    return _LLC if ether == 4 else _OTHER, size  # 4 is the kernel's number for "802.2 frame"


def _null(record: dict[str, Any], octets: bytes) -> tuple[int, int]:
    """NULL or LOOP: an address family, in the byte order of the capturing host."""
    if len(octets) < 4:
        record["null"] = {"truncated": True}
        return _OTHER, len(octets)
    family = int.from_bytes(octets[:4], "little" if octets[3] == 0 and octets[2] == 0 else "big")
    record["null"] = {"family": family}
    return _FAMILIES.get(family, _OTHER), 4


def _vlan(record: dict[str, Any], octets: bytes, tpid: int, at: int, stop: int) -> tuple[int, int, int]:
    """One VLAN tag; behind it an EtherType, or an IEEE 802.3 length. Returns as `link_layer`."""
    tags = record.setdefault("vlan", [])
    had = len(octets) - at
    if had < 2:
        tags.append({"tpid": tpid, "truncated": True})
        return _OTHER, len(octets), stop
    tag = octets[at] << 8 | octets[at + 1]
    layer: dict[str, Any] = {"tpid": tpid, "priority": tag >> 13, "dei": bool(tag & 0x1000), "id": tag & 0x0FFF}
    tags.append(layer)
    if had < 4:
        layer["truncated"] = True
        return _OTHER, len(octets), stop
    ether = octets[at + 2] << 8 | octets[at + 3]
    if ether >= _FIRST_ETHERTYPE:
        layer["etype"] = ether
        return ether, at + 4, stop
    layer["len"] = ether
    return _LLC, at + 4, min(stop, at + 4 + ether)


def _llc(record: dict[str, Any], octets: bytes, at: int) -> tuple[int, int]:
    """IEEE 802.2: SNAP (RFC 1042) carries an EtherType, SAP 6 is IPv4. Returns EtherType and position."""
    if octets[at : at + 2] == b"\xff\xff":  # IPX straight behind the length ("raw 802.3"): no 802.2 header
        return _OTHER, at
    layer: dict[str, Any] = {}
    record["llc"] = layer
    had = len(octets) - at
    if had < 3:
        layer["truncated"] = True
        return _OTHER, at
    layer["dsap"], layer["ssap"], control = octets[at], octets[at + 1], octets[at + 2]
    unnumbered = control & 3 == 3
    if not unnumbered and had < 4:
        layer["truncated"] = True
        return _OTHER, at
    # I and S frames have a control field of two octets, little-endian as 802.2 numbers its bits
    layer["control"] = control if unnumbered else control | octets[at + 3] << 8
    sap = layer["dsap"] << 8 | layer["ssap"]
    if sap == 0x0606:
        return IP4, at + 3
    if sap != 0xAAAA:
        return _OTHER, at + (3 if unnumbered else 4)
    if had < 8:
        layer["truncated"] = True
        return _OTHER, at + 3
    layer["oui"] = int.from_bytes(octets[at + 3 : at + 6], "big")
    ether = octets[at + 6] << 8 | octets[at + 7]
    if ether < _FIRST_ETHERTYPE:
        layer["pid"] = ether
        return _OTHER, at + 8
    layer["type"] = ether
    return ether, at + 8
