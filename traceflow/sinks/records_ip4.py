"""IPv4 as fields: the header with its options, and the authentication header (RFC 4302), which IPv6 has too.

Names are those of Wireshark's display filters (`ip.frag_offset`, `ip.dsfield.dscp`, `ah.spi`). Read first: RFC 791
(header, options), RFC 2474 and 3168 (the octet that was type of service), RFC 2113 (router alert).
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

from traceflow.protocols import protocol_name
from traceflow.sinks.records_fields import cut, ipv4_text, whole

__all__ = ["Next", "authentication", "ipv4"]

_HEADER = Struct(">BBHHHBBH4s4s")
_ENDS = {
    "version": 1,
    "hdr_len": 1,
    "dsfield": 2,
    "len": 4,
    "id": 6,
    "flags": 8,
    "frag_offset": 8,
    "ttl": 9,
    "proto": 10,
    "proto_name": 10,
    "checksum": 12,
    "src": 16,
    "dst": 20,
}
_OPTIONS = {
    0: "end of options",
    1: "no operation",
    7: "record route",
    68: "time stamp",
    82: "traceroute",
    130: "security",
    131: "loose source route",
    133: "extended security",
    134: "commercial security",
    136: "stream identifier",
    137: "strict source route",
    148: "router alert",
    149: "selective directed broadcast",
}
"""IANA's IP Option Numbers, those that were ever in use."""
_ROUTES = {7: "rec_rt", 131: "src_rt", 137: "src_rt"}


class Next(NamedTuple):
    """What follows a network header: `protocol` is None where that cannot be told or read."""

    protocol: int | None
    at: int
    end: int


def ipv4(record: dict[str, Any], octets: bytes, at: int, sent: int) -> Next:
    """Add `ip` (and `ah`) to a record.

    Args:
        record: Gets the layers.
        octets: The captured octets of the frame.
        at: Where the header begins.
        sent: Octets of the frame as it was sent.

    Returns:
        Protocol and position of what follows; no protocol behind a later fragment or a broken header, whose
        position is then that of the header. `end` is where the packet ends.
    """
    header, had = whole(octets, at, 20, len(octets))
    first, tos, length, ident, fragment, ttl, protocol, checksum, src, dst = _HEADER.unpack(header)
    size = (first & 15) << 2
    layer: dict[str, Any] = {
        "version": first >> 4,
        "hdr_len": size,
        "dsfield": {"dscp": tos >> 2, "ecn": tos & 3},
        "len": length,
        "id": ident,
        "flags": {"rb": fragment > 0x7FFF, "df": fragment & 0x4000 != 0, "mf": fragment & 0x2000 != 0},
        "frag_offset": fragment & 0x1FFF,  # in units of eight octets, as sent and as tshark has it
        "ttl": ttl,
        "proto": protocol,
        "proto_name": protocol_name(protocol),
        "checksum": checksum,
        "src": ipv4_text(src),
        "dst": ipv4_text(dst),
    }
    record["ip"] = layer
    if had < 20:
        record["ip"] = cut(layer, _ENDS, had)
        return Next(None, at, sent)
    if first >> 4 != 4 or size < 20 or 0 < length < size:
        layer["malformed"] = True
        return Next(None, at, sent)
    end = at + length if 0 < length <= sent - at else sent
    if size > 20:
        layer["options"] = _options(octets[at + 20 : min(at + size, end)])
        if len(octets) < at + size:
            layer["truncated"] = True
            return Next(None, at, end)
    if fragment & 0x1FFF:
        return Next(None, at + size, end)
    if protocol == 51:
        return authentication(record, octets, at + size, end)
    return Next(protocol, at + size, end)


def _options(octets: bytes) -> list[dict[str, Any]]:
    """The options of a header, as far as they were captured."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(octets):
        kind = octets[at]
        option: dict[str, Any] = {"type": kind}
        found.append(option)
        if kind in _OPTIONS:
            option["name"] = _OPTIONS[kind]
        if kind <= 1:
            at += 1
            if kind == 0:
                break
            continue
        length = octets[at + 1] if at + 1 < len(octets) else 0
        data = octets[at + 2 : at + max(length, 2)]
        if length < 2 or len(data) != length - 2:
            option.update({"data": octets[at + 1 :], "malformed": True})
            break
        option["len"] = length
        option.update(_option(kind, data))
        at += length
    return found


def _option(kind: int, data: bytes) -> dict[str, Any]:
    """The fields of an option; `data` alone where its kind is unknown or its length does not fit the kind."""
    if kind in _ROUTES and len(data) % 4 == 1:
        return {"ptr": data[0], _ROUTES[kind]: [ipv4_text(data[i : i + 4]) for i in range(1, len(data), 4)]}
    if kind == 68 and len(data) % 4 == 2:
        return {"ptr": data[0], "overflow": data[1] >> 4, "flag": data[1] & 15, **_stamps(data[1] & 15, data[2:])}
    if kind == 148 and len(data) == 2:
        return {"ra": int.from_bytes(data, "big")}
    if kind == 136 and len(data) == 2:
        return {"sid": int.from_bytes(data, "big")}
    return {"data": data}


def _stamps(flag: int, data: bytes) -> dict[str, Any]:
    """Time stamps, in milliseconds since midnight UTC; with flags 1 and 3 each behind an address."""
    words = [data[i : i + 4] for i in range(0, len(data), 4)]
    if flag not in (1, 3):
        return {"time_stamp": [int.from_bytes(word, "big") for word in words]}
    return {
        "time_stamp_addr": [ipv4_text(word) for word in words[::2]],
        "time_stamp": [int.from_bytes(word, "big") for word in words[1::2]],
    }


def authentication(record: dict[str, Any], octets: bytes, at: int, end: int) -> Next:
    """Add `ah` to a mapping (a record, or an entry of an IPv6 chain); returns what follows it."""
    stop = min(end, len(octets))
    if stop - at < 8:
        record["ah"] = {"truncated": True}
        return Next(None, at, end)
    size = (octets[at + 1] + 2) << 2
    layer: dict[str, Any] = {"next_header": octets[at], "length": octets[at + 1]}
    layer["reserved"] = octets[at + 2] << 8 | octets[at + 3]
    layer["spi"] = int.from_bytes(octets[at + 4 : at + 8], "big")
    record["ah"] = layer
    if size >= 12 and stop - at >= 12:
        layer["sequence"] = int.from_bytes(octets[at + 8 : at + 12], "big")
        layer["icv"] = octets[at + 12 : min(at + size, stop)]
    if at + size > stop:
        layer["truncated"] = True
    return Next(octets[at], at + size, end)
