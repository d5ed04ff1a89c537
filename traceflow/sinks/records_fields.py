"""What the modules of all layers share: headers that were cut, addresses, and the names of protocols."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

__all__ = ["PROTOCOL_NAMES", "cut", "ipv4_text", "ipv6_text", "whole"]

ipv4_text = socket.inet_ntoa
"""Four octets to dotted decimals."""


def ipv6_text(octets: bytes) -> str:
    """Sixteen octets to text as RFC 5952 has it."""
    return socket.inet_ntop(socket.AF_INET6, octets)


def whole(octets: bytes, at: int, size: int, stop: int) -> tuple[bytes, int]:
    """A header of fixed size, filled up with zeros where it was cut.

    Args:
        octets: The captured octets of the frame.
        at: Where the header begins.
        size: Its octets.
        stop: Where what carries it ends.

    Returns:
        The header, and how many octets of it are real.
    """
    header = octets[at : min(at + size, max(stop, at))]
    return header.ljust(size, b"\0"), len(header)


def cut(layer: dict[str, Any], ends: Mapping[str, int], had: int) -> dict[str, Any]:
    """A layer without the fields whose octets are missing, marked `truncated`.

    Args:
        layer: All fields, some of them read from the zeros of `whole`.
        ends: Field -> octets of the header up to its end; fields not named stay.
        had: Octets of the header that are real.
    """
    kept = {name: value for name, value in layer.items() if ends.get(name, 0) <= had}
    kept["truncated"] = True
    return kept


PROTOCOL_NAMES: dict[int, str] = {
    0: "HOPOPT",
    1: "ICMP",
    2: "IGMP",
    3: "GGP",
    4: "IPv4",
    5: "ST",
    6: "TCP",
    7: "CBT",
    8: "EGP",
    9: "IGP",
    12: "PUP",
    17: "UDP",
    20: "HMP",
    22: "XNS-IDP",
    27: "RDP",
    29: "ISO-TP4",
    33: "DCCP",
    36: "XTP",
    37: "DDP",
    40: "IL",
    41: "IPv6",
    42: "SDRP",
    43: "IPv6-Route",
    44: "IPv6-Frag",
    45: "IDRP",
    46: "RSVP",
    47: "GRE",
    48: "DSR",
    50: "ESP",
    51: "AH",
    54: "NARP",
    55: "Min-IPv4",
    57: "SKIP",
    58: "IPv6-ICMP",
    59: "IPv6-NoNxt",
    60: "IPv6-Opts",
    73: "CPHB",
    81: "VMTP",
    88: "EIGRP",
    89: "OSPFIGP",
    92: "MTP",
    93: "AX.25",
    94: "IPIP",
    97: "ETHERIP",
    98: "ENCAP",
    103: "PIM",
    108: "IPComp",
    111: "IPX-in-IP",
    112: "VRRP",
    113: "PGM",
    115: "L2TP",
    120: "UTI",
    124: "ISIS over IPv4",
    132: "SCTP",
    133: "FC",
    134: "RSVP-E2E-IGNORE",
    135: "Mobility Header",
    136: "UDPLite",
    137: "MPLS-in-IP",
    138: "manet",
    139: "HIP",
    140: "Shim6",
    141: "WESP",
    142: "ROHC",
    143: "Ethernet",
    144: "AGGFRAG",
    145: "NSH",
}
"""Keywords of IANA's Protocol Numbers for those that are met in captures; a record of others has the number alone."""
