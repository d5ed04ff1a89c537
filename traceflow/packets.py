"""What is known of one frame: FRAME (from the source), PACKET (from decode), and Verdict.

A frame is one record of a capture, with its captured octets. A packet is the IP packet in it. Both
are rows of structured arrays with the same index inside a batch. Nothing here looks at flows, reads
files or computes: this module is the vocabulary that the rooms share.

Addresses are two unsigned 64-bit halves, most significant first; an IPv4 address is held as the mapped
address ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), and `ip_version` tells the two apart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = [
    "ACK_KNOWN",
    "BAD_CHECKSUM",
    "DUPLICATE",
    "FINER_THAN_MICROSECONDS",
    "FLAGS_KNOWN",
    "FRAGMENT",
    "FRAME",
    "MSS_OPTION",
    "NO_TIME",
    "PACKET",
    "QUOTES",
    "SACK_PERMITTED_OPTION",
    "SEQ_KNOWN",
    "TIMESTAMPS_OPTION",
    "TIME_MAX_NS",
    "WHOLE_TCP_HEADER",
    "WINDOW_KNOWN",
    "WINDOW_SCALE_OPTION",
    "Batch",
    "Interface",
    "Tunnel",
    "Verdict",
]

TIME_MAX_NS = 2**62
"""Times are kept within -2**62..2**62 ns of 1970 (the year 2116 and its mirror), so that a time plus
a timeout always fits 64 bits. Time stamps beyond it are set to it."""

FINER_THAN_MICROSECONDS = 1
"""Bit of FRAME `time_bits`: the clock of the interface is finer than microseconds."""
NO_TIME = 2
"""Bit of FRAME `time_bits`: the record carries no time (a Simple Packet Block); it repeats the time
of the frame before it."""

FRAME = np.dtype(
    [
        ("time_ns", "i8"),  # nanoseconds since 1970-01-01 UTC, within +-TIME_MAX_NS
        ("offset", "u8"),  # of the first captured octet, from the start of its file
        ("start", "u4"),  # of the first captured octet, in the buffer of the batch
        ("captured", "u4"),  # octets captured
        ("wire", "u4"),  # octets the frame had on the wire, as recorded
        ("interface", "u4"),  # index into the `interfaces` of the source
        ("link", "u2"),  # link type (LINKTYPE_ registry of the tcpdump group)
        ("time_bits", "u1"),  # FINER_THAN_MICROSECONDS | NO_TIME
    ],
    align=True,
)
"""One frame as its source describes it."""


class Verdict(enum.IntEnum):
    """Why a frame belongs to no flow. Every frame is in one flow or under exactly one Verdict."""

    FLOW = 0
    """No reason: the frame belongs to a flow."""
    NOT_IP = 1
    """A whole link header whose payload is not IPv4 or IPv6 (ARP, LLDP, spanning tree, ...)."""
    UNSUPPORTED_LINK = 2
    """A link type, or a form of it (several packets in one 802.11 frame), that decode does not know."""
    TRUNCATED_LINK = 3
    """Fewer octets were captured than the link header with its VLAN tags has."""
    TRUNCATED_IP = 4
    """Fewer octets were captured than the IP header, or a header of its extension chain, has."""
    TRUNCATED_PORTS = 5
    """A protocol with ports, but fewer than their four octets were captured or sent."""
    MALFORMED_IP = 6
    """An IP header that contradicts itself: version, header length, total length, endless chain."""
    FRAGMENT_WITHOUT_PORTS = 7
    """A fragment that is not the first, of a protocol whose flows are told apart by what stands behind IP (ports, ids,
    inner packets), and the first one was not seen."""
    NOT_TCP = 8
    """Another protocol than TCP, in a profile that traces TCP only."""
    NESTED_TOO_DEEP = 9
    """More tunnels in each other than decode opens."""
    BAD_IP_CHECKSUM = 10
    """The checksum of the IPv4 header is wrong, where checksums are verified."""
    TABLE_FULL = 11
    """It would have opened a flow, and the table was full, where that opens none (option `when_full`)."""
    DUPLICATE = 12
    """An exact duplicate of a frame shortly before it, where these are removed (option `duplicates`)."""
    FILTERED = 13
    """A filter did not let it through (`-f`, or the graph of a grabber)."""

    @property
    def text(self) -> str:
        """The name in the account and in `traceflow frames`: lower case, with spaces."""
        return "in flows" if self is Verdict.FLOW else self.name.lower().replace("_", " ")


class Tunnel(enum.IntEnum):
    """What carries a packet that is inside another one."""

    NONE = 0
    IP = 1
    """IPv4 or IPv6 in IPv4 or IPv6 (RFC 2003, 2473, 4213)."""
    GRE = 2
    PPTP = 3
    ERSPAN = 4
    VXLAN = 5
    GENEVE = 6
    GTP_U = 7
    TEREDO = 8
    ETHERIP = 9
    MPLS = 10
    """MPLS in IP or UDP (RFC 4023, 7510); label stacks right behind a link header are no tunnel."""
    L2TP = 11
    AYIYA = 12

    @property
    def text(self) -> str:
        """The name in `traceflow frames`: lower case."""
        return self.name.lower().replace("_", "-")


SEQ_KNOWN = 1
"""Bit of PACKET `bits`: `seq` was captured."""
ACK_KNOWN = 2
"""Bit of PACKET `bits`: `ack` was captured; it means something where the ACK flag is set too."""
FLAGS_KNOWN = 4
"""Bit of PACKET `bits`: the TCP flags (and with them the data offset) were captured."""
FRAGMENT = 8
"""Bit of PACKET `bits`: the IP packet, or one that carries it, is a fragment."""
BAD_CHECKSUM = 16
"""Bit of PACKET `bits`: the checksum behind IP was verified and is wrong (`checksums.py`)."""
WINDOW_KNOWN = 32
"""Bit of PACKET `bits`: `window` was captured."""
DUPLICATE = 64
"""Bit of PACKET `bits`: an exact duplicate of a frame shortly before it (`duplicates.py`)."""
QUOTES = 128
"""Bit of PACKET `bits`: an ICMP error or redirect, which quotes the packet that it is about."""

MSS_OPTION = 1
"""Bit of PACKET `options`: a SYN with a maximum segment size (RFC 9293 section 3.7.1); `mss` holds it."""
WINDOW_SCALE_OPTION = 2
"""Bit of PACKET `options`: a SYN with a window scale (RFC 7323 section 2); `window_scale` holds it."""
SACK_PERMITTED_OPTION = 4
"""Bit of PACKET `options`: a SYN that permits selective acknowledgments (RFC 2018 section 2)."""
TIMESTAMPS_OPTION = 8
"""Bit of PACKET `options`: a SYN with time stamps (RFC 7323 section 3)."""
WHOLE_TCP_HEADER = 16
"""Bit of PACKET `options`: the TCP header is as long as its data offset says, and was captured up to its window."""

PACKET = np.dtype(
    [
        # What nearly every packet is asked for stands in front, and no octets lie unused between: 96 in all.
        ("src_hi", "u8"),  # source address, upper half
        ("dst_hi", "u8"),  # destination address, upper half
        ("src_lo", "u8"),
        ("dst_lo", "u8"),
        ("src_port", "u2"),  # 0 where the protocol has no ports; of an ICMP query its identifier, in both
        ("dst_port", "u2"),
        ("protocol", "u1"),  # IANA protocol number of the payload of IP
        ("ip_version", "u1"),  # 4 or 6; 0 where there is no IP packet
        ("verdict", "u1"),  # a Verdict
        ("bits", "u1"),  # SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN | FRAGMENT | BAD_CHECKSUM | WINDOW_KNOWN | ...
        ("seq", "u4"),  # TCP sequence number
        ("ack", "u4"),  # TCP acknowledgment number
        ("window", "u2"),  # TCP window as sent (unscaled)
        ("flags", "u1"),  # TCP flags, see tcp.py; 0 where unknown
        ("options", "u1"),  # WHOLE_TCP_HEADER | MSS_OPTION | WINDOW_SCALE_OPTION | ...
        ("ip_octets", "u4"),  # IP header and what it carries, as sent
        ("payload_octets", "u4"),  # behind the header with ports (or behind IP for other protocols), as sent
        ("payload", "u4"),  # where the payload begins in the frame (it may lie behind what was captured)
        ("link_octets", "u4"),  # all headers before IP (of the innermost packet): where the IP header begins
        ("transport", "u4"),  # where the header behind IP begins in the frame; 0 where there is none
        ("vlan_outer", "u2"),  # VLAN id of the first tag, 0 where none
        ("vlan_inner", "u2"),  # VLAN id of the last tag where there are two or more, else 0
        ("tunnel_id", "u4"),  # VNI, TEID, key, session or call of the innermost tunnel; 0 where it has none
        ("ip_at", "u4"),  # of a fragment: where its IP header begins in the frame
        ("fragment_at", "u4"),  # of a fragment: where the header with offset and id begins (IPv4: as ip_at)
        ("mss", "u2"),  # TCP options of a SYN, see `options`
        ("window_scale", "u1"),
        ("vlan_tags", "u1"),  # how many VLAN tags were passed
        ("tunnel", "u1"),  # a Tunnel: what carries the packet, the innermost one
        ("tunnels", "u1"),  # how many tunnels were opened
        ("ttl", "u1"),  # IPv4 time to live, IPv6 hop limit, of the innermost packet
    ],
    align=True,
)
"""One frame as decode understands it. Positions count from the first octet of the frame."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Where frames came from: one interface of a section of a capture.

    Attributes:
        source: Name of the capture (`-` for standard input).
        source_index: Position of the capture among those given, from 0.
        link: Link type of the frames (LINKTYPE_ number).
        snaplen: Octets a frame is cut to; 0 where there is no limit.
        units_per_second: Ticks of the time stamps in a second (10**6, 10**9, or 2**n).
        byteorder: `little` or `big`, of the section.
        name: `if_name` of pcapng, empty where not given.
    """

    source: str
    source_index: int
    link: int
    snaplen: int
    units_per_second: int
    byteorder: str
    name: str = ""


@dataclass(slots=True)
class Batch:
    """Some consecutive frames of one source. The buffer is reused: copy what must outlive the batch.

    Attributes:
        octets: uint8[n], holds the captured octets of all frames of the batch.
        frames: FRAME[m].
        first_number: Number of the first frame, counted from 1 over all captures.
        first_in_file: Number of the first frame in its own file, from 1.
        quiet_ns: Of a batch without frames, which a live source gives now and then on a quiet link: the time up to
            which no frame is to come any more. None where there are frames.
    """

    octets: npt.NDArray[np.uint8] = field(repr=False)
    frames: npt.NDArray[np.void] = field(repr=False)
    first_number: int
    first_in_file: int
    quiet_ns: int | None = None
