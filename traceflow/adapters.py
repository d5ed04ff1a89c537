"""Packets for `TraceFlow.dump`: what the engine takes, and how packets of dpkt, scapy or plain octets become it.

Each adapter hands the octets of the frame to the one decoder, so that a packet means the same whatever made it. No
packet library is imported here: the objects bring their own.
"""

from __future__ import annotations

import decimal
import functools
import ipaddress
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from traceflow.decode import decode_batch
from traceflow.errors import UsageError
from traceflow.labels import Address, address
from traceflow.packets import (
    ACK_KNOWN,
    FINER_THAN_MICROSECONDS,
    FLAGS_KNOWN,
    FRAME,
    NO_TIME,
    PACKET,
    SEQ_KNOWN,
    TIME_MAX_NS,
    Interface,
    Verdict,
)
from traceflow.sinks.records import frame_record
from traceflow.tcp import ACK, FIN, RST, SYN

__all__ = [
    "FrameRow",
    "PacketRow",
    "TracedPacket",
    "from_dpkt",
    "from_octets",
    "from_scapy",
    "packet_of",
    "timestamp_ns",
    "whole_number",
]

_TCP = 6


@dataclass(slots=True)
class TracedPacket:
    """One packet for the engine, with the field names of PyPCAPKit's TraceFlow.

    Attributes:
        protocol: Link type: its LINKTYPE_ number.
        index: Frame number, from 1.
        frame: The mapping that is written to the flow's file.
        syn: The SYN flag.
        fin: The FIN flag.
        src: Source address.
        dst: Destination address.
        srcport: Source port.
        dstport: Destination port.
        timestamp: Seconds since 1970; text keeps all its digits.
        rst: The RST flag.
        seq: TCP sequence number, None where unknown.
        ack: TCP acknowledgment number; not None means that the ACK flag is set.
        octets: The frame as captured, for pcap output.
        wire: Octets of the frame on the wire; 0 stands for those of `octets`.
        transport: IANA protocol number; TCP unless said otherwise.
        payload_octets: Octets behind the TCP or UDP header.
        time_ns: Nanoseconds since 1970 where known better than from `timestamp`.
    """

    protocol: int
    index: int
    frame: Mapping[str, Any]
    syn: bool
    fin: bool
    src: ipaddress.IPv4Address | ipaddress.IPv6Address
    dst: ipaddress.IPv4Address | ipaddress.IPv6Address
    srcport: int
    dstport: int
    timestamp: Any
    rst: bool = False
    seq: int | None = None
    ack: int | None = None
    octets: bytes | None = None
    wire: int = 0
    transport: int = _TCP
    payload_octets: int = 0
    time_ns: int | None = field(default=None)


_REQUIRED = ("index", "frame", "syn", "fin", "src", "dst", "srcport", "dstport", "timestamp")
_keys = operator.itemgetter(*_REQUIRED)
_attributes = operator.attrgetter(*_REQUIRED)


def packet_of(packet: Any) -> TracedPacket:
    """Take a mapping or an object with the engine's fields.

    Args:
        packet: `protocol`, `index`, `frame`, `syn`, `fin`, `src`, `dst`, `srcport`, `dstport`, `timestamp`, as keys or
            attributes; optional `rst`, `seq`, `ack`, `header`, `payload`, `octets`, `wire`, `transport`.

    Raises:
        UsageError: A field is missing or cannot be what it should be.
    """
    if isinstance(packet, TracedPacket):
        return packet
    mapping = isinstance(packet, Mapping)
    try:
        required = _keys(packet) if mapping else _attributes(packet)
    except (KeyError, AttributeError):
        raise UsageError(_lacking(packet, mapping)) from None
    optional = packet.get if mapping else functools.partial(getattr, packet)
    index, frame, syn, fin, src, dst, srcport, dstport, timestamp = required
    seq, ack, octets = optional("seq", None), optional("ack", None), optional("octets", None)
    payload = optional("payload", None)
    try:
        source, target = _address(src), _address(dst)
        if source.version != target.version:
            raise ValueError(f"src is {source} and dst is {target}; one packet has addresses of one version")
        return TracedPacket(
            protocol=_within("protocol", optional("protocol", 1), 0xFFFF),
            index=_within("index", index, 0xFFFFFFFFFFFFFFFF),
            frame=frame,
            syn=syn,
            fin=fin,
            src=source,
            dst=target,
            srcport=_within("srcport", srcport, 0xFFFF),
            dstport=_within("dstport", dstport, 0xFFFF),
            timestamp=timestamp,
            rst=optional("rst", False),
            seq=None if seq is None else _within("seq", seq, 0xFFFFFFFF),
            ack=None if ack is None else _within("ack", ack, 0xFFFFFFFF),
            octets=None if octets is None else bytes(memoryview(octets)),
            wire=_within("wire", optional("wire", 0), 0xFFFFFFFF),
            transport=_within("transport", optional("transport", _TCP), 0xFF),
            payload_octets=0 if payload is None else len(payload),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"packet {_shown(index)} cannot be traced: {error}") from error


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # an integer of more digits than Python prints
        return f"(an endless {type(value).__name__})"


def _lacking(packet: Any, mapping: bool) -> str:
    """Which of the required fields are not there."""
    missing = [name for name in _REQUIRED if not (name in packet if mapping else hasattr(packet, name))]
    return f"a packet needs {', '.join(_REQUIRED)}; this {type(packet).__name__} lacks {', '.join(missing)}"


def _within(name: str, value: Any, most: int) -> int:
    """A whole number from 0 to `most`."""
    number = value if type(value) is int else int(value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} is {number:.6g}; it must be between 0 and {most}")
    if number != value and not isinstance(value, str):
        raise ValueError(f"{name} is {value}; it must be a whole number")
    return number


_parsed_address = functools.lru_cache(maxsize=16384)(ipaddress.ip_address)  # parsing one costs 5 us, a third of `dump`


def _address(value: Any) -> Address:
    if isinstance(value, str):
        return _parsed_address(value)
    return value if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)) else ipaddress.ip_address(value)


class PacketRow:
    """Rows of one packet, as the table reads them.

    Attributes:
        frames: FRAME[1].
        packets: PACKET[1].
    """

    def __init__(self) -> None:
        self.frames, self.packets = np.zeros(1, FRAME), np.zeros(1, PACKET)
        # Views of the fields that `fill` sets: one assignment of a tuple takes 0.4 us, each single field as much.
        self._frame_fields, self._packet_fields = self.frames[_FRAME_FIELDS], self.packets[_PACKET_FIELDS]

    def fill(self, packet: TracedPacket) -> None:
        """Write the fields of a packet into the rows.

        Raises:
            UsageError: Its timestamp is none.
        """
        time_ns = timestamp_ns(packet.timestamp) if packet.time_ns is None else packet.time_ns
        src, dst, version = int(packet.src), int(packet.dst), packet.src.version
        if version == 4:
            src, dst = src | _MAPPED, dst | _MAPPED
        flags = (SYN if packet.syn else 0) | (FIN if packet.fin else 0) | (RST if packet.rst else 0)
        bits, seq, ack = FLAGS_KNOWN, packet.seq, packet.ack
        if seq is not None:
            bits |= SEQ_KNOWN
        if ack is not None:
            bits, flags = bits | ACK_KNOWN, flags | ACK
        self._frame_fields[0] = (time_ns, packet.wire, packet.protocol)
        self._packet_fields[0] = (
            *(src >> 64, src & _HALF, dst >> 64, dst & _HALF, packet.srcport, packet.dstport),
            *(packet.transport, version, 0),
            *(flags, bits, seq or 0, ack or 0, packet.payload_octets),
        )


_MAPPED = 0xFFFF00000000  # upper part of ::ffff:a.b.c.d, see packets.py
_HALF = 0xFFFFFFFFFFFFFFFF
_FRAME_FIELDS = ["time_ns", "wire", "link"]
_PACKET_FIELDS = [
    *("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "protocol", "ip_version", "verdict"),
    *("flags", "bits", "seq", "ack", "payload_octets"),
]

_FLOORED = decimal.Context(prec=40, rounding=decimal.ROUND_FLOOR)  # ours: the caller's may have any precision
_NANOSECOND = decimal.Decimal("1e-9")


def timestamp_ns(timestamp: Any) -> int:
    """Nanoseconds since 1970 from seconds: a number, a Decimal or text.

    A float is taken as it prints, so that 1258594163.408285 means exactly that.

    Returns:
        Nanoseconds, rounded down, within +-TIME_MAX_NS.

    Raises:
        UsageError: Not a finite number.
    """
    if isinstance(timestamp, int):
        if timestamp.bit_length() > 1024:  # no float is larger, and Python prints only 4300 digits
            raise UsageError(f"a timestamp of {timestamp.bit_length()} bits is no number of seconds")
        return max(-TIME_MAX_NS, min(TIME_MAX_NS, timestamp * 1_000_000_000))
    text = str(timestamp)
    whole, _, fraction = text.partition(".")
    if len(whole) < 11 and whole.isdecimal() and fraction.isdecimal():  # as nearly all are; half the time of a Decimal
        return min(TIME_MAX_NS, int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0")))
    try:
        exact = decimal.Decimal(text)
        if not exact.is_finite():
            raise ValueError(text)
        if exact and exact.adjusted() >= 11:  # beyond TIME_MAX_NS, and 1e999999 would be an integer of a megabyte
            return TIME_MAX_NS if exact > 0 else -TIME_MAX_NS
        time_ns = int(exact.quantize(_NANOSECOND, context=_FLOORED).scaleb(9, _FLOORED))
    except (decimal.InvalidOperation, ValueError):
        raise UsageError(f"timestamp {text!r:.60} is not a finite number of seconds") from None
    return max(-TIME_MAX_NS, min(TIME_MAX_NS, time_ns))


def _fill_frame(frame: Any, captured: int, time_ns: int, link: Any, wire: Any, nanosecond: bool) -> None:
    """Write a FRAME row; `wire` 0 stands for the octets captured.

    Raises:
        ValueError: A number is out of range; TypeError and OverflowError: it is none.
    """
    frame["link"], frame["wire"] = _within("link", link, 0xFFFF), _within("wire", wire, 0xFFFFFFFF) or captured
    frame["time_ns"], frame["captured"] = time_ns, captured
    frame["time_bits"] = FINER_THAN_MICROSECONDS if nanosecond else 0


def whole_number(name: str, value: Any) -> int:
    """A whole number of Python's or NumPy's.

    Raises:
        UsageError: It is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is {_shown(value)}; it must be a whole number") from None


class FrameRow:
    """A row of one frame, and its octets, as the decoder reads them: used again for the next one.

    Attributes:
        frames: FRAME[1].
        octets: uint8[n], of the frame; one where it has none.
    """

    def __init__(self) -> None:
        self.frames = np.zeros(1, FRAME)
        self.octets = self._buffer = np.zeros(2048, np.uint8)

    def fill(self, octets: Any, time_ns: int | None, link: int, wire: int | None, nanosecond: bool) -> None:
        """Write a frame into the row.

        Args:
            octets: Any buffer.
            time_ns: Nanoseconds since 1970; None: it has no time, and repeats the one that stands there.
            link: LINKTYPE_ number.
            wire: Octets on the wire; None: those captured.
            nanosecond: Whether the clock has nanoseconds.

        Raises:
            UsageError: A number is out of range, or `octets` is no buffer.
        """
        frame = self.frames[0]
        try:
            view = memoryview(octets).cast("B")
            count = len(view)
            last_ns = int(frame["time_ns"])
            now_ns = last_ns if time_ns is None else max(-TIME_MAX_NS, min(TIME_MAX_NS, operator.index(time_ns)))
            _fill_frame(frame, count, now_ns, link, 0 if wire is None else wire, nanosecond)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"a frame cannot be traced: {error}") from error
        if wire is not None:
            frame["wire"] = wire
        if time_ns is None:
            frame["time_bits"] |= NO_TIME
        if count > len(self._buffer):
            self._buffer = np.zeros(1 << (count - 1).bit_length(), np.uint8)
        self._buffer[:count] = view
        self.octets = self._buffer[: max(count, 1)]


def from_octets(
    octets: bytes, *, timestamp: Any, index: int, link: int = 1, wire: int = 0, nanosecond: bool = False
) -> TracedPacket | None:
    """Make a packet for the engine from the octets of a frame.

    Args:
        octets: What was captured.
        timestamp: Seconds since 1970 (number or text).
        index: Frame number, from 1.
        link: Link type: LINKTYPE_ number.
        wire: Octets on the wire; 0 stands for those captured.
        nanosecond: Whether the clock of the capture has nanoseconds, for the digits in records.

    Returns:
        The packet, or None where the frame belongs to no flow (see Verdict).

    Raises:
        UsageError: A number is out of range, or the time stamp is none.
    """
    octets = bytes(octets)
    frames, packets = np.zeros(1, FRAME), np.zeros(1, PACKET)
    frame = frames[0]
    time_ns = timestamp_ns(timestamp)
    try:
        index = _within("index", index, 0xFFFFFFFFFFFFFFFF)
        _fill_frame(frame, len(octets), time_ns, link, wire, nanosecond)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"frame {_shown(index)} cannot be traced: {error}") from error
    link, wire = int(frame["link"]), int(frame["wire"])
    packet = decode_batch(np.frombuffer(octets or b"\0", np.uint8), frames, packets)[0]
    if packet["verdict"] != Verdict.FLOW:
        return None
    interface = Interface("-", 0, link, 0, 10**9 if nanosecond else 10**6, "little")
    flags, bits, version = int(packet["flags"]), int(packet["bits"]), int(packet["ip_version"])
    return TracedPacket(
        protocol=link,
        index=index,
        frame=frame_record(index, octets, frame, packet, interface),
        syn=bool(flags & SYN),
        fin=bool(flags & FIN),
        src=address((packet["src_hi"], packet["src_lo"]), version),
        dst=address((packet["dst_hi"], packet["dst_lo"]), version),
        srcport=int(packet["src_port"]),
        dstport=int(packet["dst_port"]),
        timestamp=timestamp,
        rst=bool(flags & RST),
        seq=int(packet["seq"]) if bits & SEQ_KNOWN else None,
        ack=int(packet["ack"]) if flags & ACK and bits & ACK_KNOWN else None,
        octets=octets,
        wire=wire,
        transport=int(packet["protocol"]),
        payload_octets=int(packet["payload_octets"]),
        time_ns=time_ns,
    )


_DPKT_LINKS = {"Ethernet": 1, "SLL": 113, "SLL2": 276, "Loopback": 0, "IP": 101, "IP6": 101}
_SCAPY_LINKS = {
    "Ether": 1,
    "Dot3": 1,
    "CookedLinux": 113,
    "CookedLinuxV2": 276,
    "Loopback": 0,
    "IP": 101,
    "IPv6": 101,
}


def _link_of(packet: Any, links: Mapping[str, int], link: int | None) -> int:
    """Link type of a packet object by the name of its class or of a base class of it."""
    if link is not None:
        return link
    for kind in type(packet).__mro__:
        if kind.__name__ in links:
            return links[kind.__name__]
    raise UsageError(f"the link type of a {type(packet).__name__} is not known; say link=, its LINKTYPE_ number")


def from_dpkt(
    packet: Any, *, timestamp: Any, index: int, link: int | None = None, wire: int = 0
) -> TracedPacket | None:
    """Make a packet for the engine from a dpkt packet.

    A dpkt object counts as the octets that dpkt makes of it, which for frames that were cut, padded or odd may
    differ from those captured; hand over the octets themselves where that matters.

    Args:
        packet: `dpkt.ethernet.Ethernet`, `dpkt.ip.IP`, `dpkt.ip6.IP6`, `dpkt.sll.SLL`, ... or the octets of a frame.
        timestamp: Seconds since 1970, as `dpkt.pcap.Reader` gives them.
        index: Frame number, from 1.
        link: Link type where the class does not tell it (octets: 1, Ethernet, unless said).
        wire: Octets on the wire; 0 stands for those there are.

    Returns:
        The packet, or None where the frame belongs to no flow.

    Raises:
        UsageError: The link type is not known.
    """
    if isinstance(packet, (bytes, bytearray, memoryview)):
        link = 1 if link is None else link
    else:
        link = _link_of(packet, _DPKT_LINKS, link)
    return from_octets(bytes(packet), timestamp=timestamp, index=index, link=link, wire=wire)


def from_scapy(packet: Any, *, index: int, timestamp: Any = None, link: int | None = None) -> TracedPacket | None:
    """Make a packet for the engine from a scapy packet.

    Args:
        packet: `Ether`, `IP`, `IPv6`, `CookedLinux`, ... as sniffed, read or built. What was sniffed or read counts
            as it was captured; after changing it, hand over `type(packet)(bytes(packet))`.
        index: Frame number, from 1.
        timestamp: Seconds since 1970; None takes `packet.time`.
        link: Link type where the class does not tell it.

    Returns:
        The packet, or None where the frame belongs to no flow.

    Raises:
        UsageError: The link type is not known.
    """
    captured = bytes(getattr(packet, "original", b"") or bytes(packet))
    wire = getattr(packet, "wirelen", None) or len(captured)
    when = packet.time if timestamp is None else timestamp
    return from_octets(captured, timestamp=when, index=index, link=_link_of(packet, _SCAPY_LINKS, link), wire=wire)
