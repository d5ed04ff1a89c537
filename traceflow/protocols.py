"""IP protocols: their names, and which of them have ports.

Names are the keywords of IANA's registry "Protocol Numbers", with the short forms that the field uses where the keyword
is long (OSPF, ICMPv6) or holds a space. They stand in labels, so they are safe in file names.
"""

from __future__ import annotations

__all__ = ["PROTOCOLS_WITH_PORTS", "has_ports", "protocol_name"]

_NAMES: dict[int, str] = {
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
    58: "ICMPv6",
    59: "IPv6-NoNxt",
    60: "IPv6-Opts",
    73: "CPHB",
    81: "VMTP",
    88: "EIGRP",
    89: "OSPF",
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
    124: "ISIS",
    132: "SCTP",
    133: "FC",
    134: "RSVP-E2E-IGNORE",
    135: "Mobility",
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

PROTOCOLS_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
"""Protocols behind whose header decode reads ports."""


def protocol_name(number: int) -> str:
    """Name of an IP protocol, or `IP` and its number where it has no common one."""
    return _NAMES.get(number) or f"IP{number}"


def has_ports(number: int) -> bool:
    """Whether decode reads ports behind this protocol."""
    return number in PROTOCOLS_WITH_PORTS
