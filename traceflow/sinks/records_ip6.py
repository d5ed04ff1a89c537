"""IPv6 as fields: the header, and the chain of extension headers, each with its own fields.

Names are those of Wireshark's display filters (`ipv6.flow`, `ipv6.fraghdr.ident`, `ipv6.routing.segleft`). Read
first: RFC 8200; RFC 8754 (segment routing), RFC 6275 (mobility), RFC 2675 (jumbograms), RFC 2711 (router alert).
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from traceflow.protocols import protocol_name
from traceflow.sinks.records_fields import cut, ipv6_text, whole
from traceflow.sinks.records_ip4 import Next, authentication

__all__ = ["ipv6"]

_HEADER = Struct(">IHBB16s16s")
_ENDS = {"version": 1, "tclass": 2, "flow": 4, "plen": 6, "nxt": 7, "nxt_name": 7, "hlim": 8, "src": 24, "dst": 40}

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT, _DESTINATION = 0, 43, 44, 51, 59, 60
_EXTENSIONS = {
    _HOP_BY_HOP: "hopopts",
    _ROUTING: "routing",
    _FRAGMENT: "fraghdr",
    _AUTHENTICATION: "ah",
    _DESTINATION: "dstopts",
    135: "mip6",
    139: "hip",
    140: "shim6",
}
"""Headers that are passed, with Wireshark's names (IANA registry of RFC 7045)."""

_OPTIONS = {
    0x00: "pad1",
    0x01: "padn",
    0x04: "tel",
    0x05: "router_alert",
    0x0F: "pdm",
    0x22: "rpl",
    0x26: "qs",
    0x63: "rpl",
    0xC2: "jumbo",
    0xC9: "mipv6.home_address",
}
"""IANA's Destination Options and Hop-by-Hop Options, with Wireshark's names."""


def ipv6(record: dict[str, Any], octets: bytes, at: int, sent: int) -> Next:
    """Add `ipv6` to a record, with the headers between it and the transport in `extensions`.

    Args:
        record: Gets the layer.
        octets: The captured octets of the frame.
        at: Where the header begins.
        sent: Octets of the frame as it was sent.

    Returns:
        As `records_ip4.ipv4`.
    """
    header, had = whole(octets, at, 40, len(octets))
    word, length, following, hops, src, dst = _HEADER.unpack(header)
    layer: dict[str, Any] = {
        "version": word >> 28,
        "tclass": {"dscp": word >> 22 & 0x3F, "ecn": word >> 20 & 3},
        "flow": word & 0xFFFFF,
        "plen": length,
        "nxt": following,
        "nxt_name": protocol_name(following),
        "hlim": hops,
        "src": ipv6_text(src),
        "dst": ipv6_text(dst),
    }
    record["ipv6"] = layer
    if had < 40:
        record["ipv6"] = cut(layer, _ENDS, had)
        return Next(None, at, sent)
    if word >> 28 != 6:
        layer["malformed"] = True
        return Next(None, at, sent)
    end = at + 40 + length
    if end > sent or (length == 0 and following != _NO_NEXT):
        end = sent  # a length of 0 is what segmentation offload and jumbograms leave
    if following not in _EXTENSIONS:
        return Next(following, at + 40, end)
    return _chain(layer, octets, following, at + 40, end)


def _chain(layer: dict[str, Any], octets: bytes, protocol: int, at: int, end: int) -> Next:
    """Pass the extension headers; each is at least eight octets, so the octets of the frame bound the loop."""
    found: list[dict[str, Any]] = []
    layer["extensions"] = found
    stop = min(end, len(octets))
    while protocol in _EXTENSIONS:
        name = _EXTENSIONS[protocol]
        if stop - at < 8:
            found.append({name: {"truncated": True}})
            return Next(None, at, end)
        entry: dict[str, Any] = {}
        found.append(entry)
        if protocol == _AUTHENTICATION:
            after = authentication(entry, octets, at, end)
            following, size = octets[at], after.at - at
        elif protocol == _FRAGMENT:
            following, size = octets[at], 8
            word = octets[at + 2] << 8 | octets[at + 3]
            entry[name] = {
                "nxt": following,
                "reserved_octet": octets[at + 1],
                "offset": word >> 3,  # in units of eight octets
                "reserved_bits": word >> 1 & 3,
                "more": bool(word & 1),
                "ident": int.from_bytes(octets[at + 4 : at + 8], "big"),
            }
            if word & 0xFFF8:
                return Next(None, at + 8, end)
        else:
            following, size = octets[at], (octets[at + 1] + 1) << 3
            entry[name] = _extension(protocol, octets[at : min(at + size, stop)], size)
        at += size
        protocol = following
    return Next(protocol, at, end)


def _extension(protocol: int, header: bytes, size: int) -> dict[str, Any]:
    """Fields of a header that begins with next header and length; `header` may be cut, but not below 8 octets."""
    fields: dict[str, Any] = {"nxt": header[0], "len": header[1], "len_oct": size}
    if protocol in (_HOP_BY_HOP, _DESTINATION):
        fields["options"] = _options(header[2:])
    elif protocol == _ROUTING:
        fields["type"], fields["segleft"] = header[2], header[3]
        fields.update(_route(header[2], header))
    else:
        fields["data"] = header[2:]
    if len(header) < size:
        fields["truncated"] = True
    return fields


def _route(kind: int, header: bytes) -> dict[str, Any]:
    """What is special to a type of routing header: the addresses of those that Wireshark names so."""
    if kind == 0:
        return {"src": {"reserved": header[4:8], "addr": _addresses(header[8:])}}
    if kind == 2 and len(header) >= 24:
        return {"mipv6": {"reserved": header[4:8], "home_address": ipv6_text(header[8:24])}}
    if kind == 4:
        last, flags, tag = header[4], header[5], header[6] << 8 | header[7]
        addresses = _addresses(header[8 : 8 + 16 * (last + 1)])
        rest = header[8 + 16 * len(addresses) :]
        return {"srh": {"last_entry": last, "flags": flags, "tag": tag, "addr": addresses}, "unknown_data": rest}
    return {"unknown_data": header[4:]}


def _addresses(octets: bytes) -> list[str]:
    return [ipv6_text(octets[i : i + 16]) for i in range(0, len(octets) - 15, 16)]


def _options(octets: bytes) -> list[dict[str, Any]]:
    """Options of a hop-by-hop or destination options header, as far as they were captured."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(octets):
        kind = octets[at]
        option: dict[str, Any] = {"type": kind}
        found.append(option)
        if kind in _OPTIONS:
            option["name"] = _OPTIONS[kind]
        if kind == 0:
            at += 1
            continue
        length = octets[at + 1] if at + 1 < len(octets) else 256
        data = octets[at + 2 : at + 2 + length]
        if len(data) != length:
            option.update({"data": octets[at + 1 :], "malformed": True})
            break
        option["length"] = length
        option.update(_option(kind, data))
        at += 2 + length
    return found


def _option(kind: int, data: bytes) -> dict[str, Any]:
    """The value of an option; `data` where its kind is unknown or its length does not fit the kind."""
    name = _OPTIONS.get(kind, "")
    if (name, len(data)) in (("tel", 1), ("router_alert", 2), ("jumbo", 4)):
        return {name: int.from_bytes(data, "big")}
    if kind == 0xC9 and len(data) == 16:
        return {name: ipv6_text(data)}
    return {"data": data}
