"""UDP, ICMP and ICMPv6 as fields, with the names of Wireshark's display filters.

Read first: RFC 768, RFC 792, RFC 4443. What an ICMP error quotes stays in the payload.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from traceflow.sinks.records_fields import cut, whole

__all__ = ["icmp", "icmpv6", "udp"]

_UDP = Struct(">HHHH")
_UDP_ENDS = {"srcport": 2, "dstport": 4, "length": 6, "checksum": 8}
_ICMP = Struct(">BBHHH")
_ICMP_ENDS = {"type": 1, "code": 2, "checksum": 4, "ident": 6, "seq": 8, "echo": 8}


def udp(record: dict[str, Any], octets: bytes, at: int, end: int) -> None:
    """Add `udp` to a record.

    Args:
        record: Gets the layer.
        octets: The captured octets of the frame.
        at: Where the header begins.
        end: Where the packet ends.
    """
    header, had = whole(octets, at, 8, min(end, len(octets)))
    sport, dport, length, checksum = _UDP.unpack(header)
    layer = {"srcport": sport, "dstport": dport, "length": length, "checksum": checksum}
    record["udp"] = layer if had == 8 else cut(layer, _UDP_ENDS, had)


def icmp(record: dict[str, Any], octets: bytes, at: int, end: int) -> None:
    """Add `icmp` to a record: type, code, checksum; identifier and sequence number of echoes and the like."""
    header, had = whole(octets, at, 8, min(end, len(octets)))
    kind, code, checksum, ident, seq = _ICMP.unpack(header)
    layer = {"type": kind, "code": code, "checksum": checksum}
    if kind in (0, 8, 13, 14, 15, 16, 17, 18):  # echo, time stamp, information, address mask: reply and request
        layer["ident"], layer["seq"] = ident, seq
    record["icmp"] = layer if had == 8 else cut(layer, _ICMP_ENDS, had)


def icmpv6(record: dict[str, Any], octets: bytes, at: int, end: int) -> None:
    """Add `icmpv6` to a record: type, code, checksum; identifier and sequence number of echoes."""
    header, had = whole(octets, at, 8, min(end, len(octets)))
    kind, code, checksum, ident, seq = _ICMP.unpack(header)
    layer: dict[str, Any] = {"type": kind, "code": code, "checksum": checksum}
    if kind in (128, 129):
        layer["echo"] = {"identifier": ident, "sequence_number": seq}
    record["icmpv6"] = layer if had == 8 else cut(layer, _ICMP_ENDS, had)
