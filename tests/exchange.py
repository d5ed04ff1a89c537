"""A small language for scenarios: packet exchanges that read like a dialogue and end as a capture.

What lives here: IP packets and link headers built from named fields (dpkt packs TCP, UDP and IP), `Wire`, which
records frames under a clock that only the author moves, and `Exchange`, two sides that talk over a wire and keep
count of sequence numbers. What must not: anything of traceflow, so that no expectation can come from it.

    talk = Exchange("10.0.0.1:1000", "10.0.0.2:80")
    talk.a.syn(seq=100)
    talk.b.syn_ack(seq=900)
    talk.wait(ms=1)
    talk.a.ack()
    talk.a.data(b"GET /")
    capture = talk.pcap(tmp_path)

Everything is deterministic. Each sending method returns the number of its frame, counted from 1. Several exchanges
interleave when they share a wire: `Exchange("10.0.0.3:7", "10.0.0.2:80", wire=talk.wire)`. The scripts in
`fixtures/` build their captures with this module too.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dpkt

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58

LINK_NULL, LINK_ETHERNET, LINK_LOOP, LINK_SLL, LINK_SLL2 = 0, 1, 108, 113, 276
LINK_RAW_BSD, LINK_RAW_OPENBSD, LINK_RAW, LINK_IPV4, LINK_IPV6 = 12, 14, 101, 228, 229
"""Numbers of the LINKTYPE_ registry."""

ETHER_IPV4, ETHER_ARP, ETHER_IPV6 = 0x0800, 0x0806, 0x86DD
MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")  # locally administered

START_NS = 1_700_000_000_000_000_000
"""Time of the first frame unless said otherwise: 2023-11-14 22:13:20 UTC."""
MS_NS = 1_000_000
SECOND_NS = 1_000_000_000


def _raw(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _with_checksum(segment: dpkt.tcp.TCP | dpkt.udp.UDP, src: str, dst: str, protocol: int) -> bytes:
    """Octets of a TCP or UDP packet with the checksum over the pseudo header (RFC 9293 3.1, RFC 8200 8.1)."""
    octets = bytes(segment)
    pseudo = _raw(src) + _raw(dst) + struct.pack(">II", len(octets), protocol)
    segment.sum = dpkt.dpkt.in_cksum(pseudo + octets) or (0xFFFF if protocol == UDP else 0)
    return bytes(segment)


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    *,
    seq: int = 0,
    ack: int = 0,
    flags: int = ACK,
    window: int = 64240,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """A TCP segment. `options` is padded with zeros to whole words."""
    options += bytes(-len(options) % 4)
    segment = dpkt.tcp.TCP(sport=sport, dport=dport, seq=seq, ack=ack, win=window, opts=options, data=payload)
    segment.off = 5 + len(options) // 4
    segment.flags = flags
    return _with_checksum(segment, src, dst, TCP)


def udp(src: str, dst: str, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """A UDP datagram."""
    return _with_checksum(dpkt.udp.UDP(sport=sport, dport=dport, ulen=8 + len(payload), data=payload), src, dst, UDP)


def ipv4(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    *,
    ident: int = 0,
    ttl: int = 64,
    options: bytes = b"",
    fragment: int = 0,
    more: bool = False,
    total: int | None = None,
) -> bytes:
    """An IPv4 packet.

    Args:
        src: Source address.
        dst: Destination address.
        protocol: IANA protocol number.
        payload: What follows the header.
        ident: Identification.
        ttl: Time to live.
        options: Padded with zeros to whole words.
        fragment: Offset of a fragment in units of 8 octets.
        more: More fragments follow.
        total: The total length field, where it shall not be the true one.
    """
    options += bytes(-len(options) % 4)
    header = dpkt.ip.IP(src=_raw(src), dst=_raw(dst), p=protocol, id=ident, ttl=ttl, data=b"")
    header.hl = 5 + len(options) // 4
    header.len = header.hl * 4 + len(payload) if total is None else total
    header.mf = int(more)
    header.offset = fragment
    header.sum = dpkt.dpkt.in_cksum(header.pack_hdr() + options)
    return bytes(header.pack_hdr()) + options + payload


def ipv6(
    src: str, dst: str, next_header: int, payload: bytes, *, hop_limit: int = 64, total: int | None = None
) -> bytes:
    """An IPv6 packet; extension headers, where there are any, begin `payload`. `total` is the payload length field."""
    length = len(payload) if total is None else total
    header = dpkt.ip6.IP6(src=_raw(src), dst=_raw(dst), nxt=next_header, hlim=hop_limit, plen=length, data=b"")
    return bytes(header.pack_hdr()) + payload


def ip(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    """An IP packet of the version of its addresses, with nothing special."""
    return (ipv6 if ":" in src else ipv4)(src, dst, protocol, payload)


def _ethertype(packet: bytes) -> int:
    return ETHER_IPV6 if packet[:1] and packet[0] >> 4 == 6 else ETHER_IPV4


def ethernet(payload: bytes, ethertype: int, *, from_a: bool = True, tags: Sequence[tuple[int, int]] = ()) -> bytes:
    """An Ethernet frame without frame check sequence. `tags` are (TPID, VLAN id), outermost first."""
    octets = (MAC_B + MAC_A) if from_a else (MAC_A + MAC_B)
    for tpid, vlan in tags:
        octets += struct.pack(">HH", tpid, vlan)
    return octets + struct.pack(">H", ethertype) + payload


def link_frame(
    link: int, packet: bytes, *, from_a: bool = True, tags: Sequence[tuple[int, int]] = (), byteorder: str = "little"
) -> bytes:
    """Put an IP packet behind a link header.

    Args:
        link: A LINKTYPE_ number of this module.
        packet: IPv4 or IPv6.
        from_a: Direction, for links that carry addresses.
        tags: VLAN tags as (TPID, VLAN id), outermost first (Ethernet and cooked links).
        byteorder: Of the host that captured (LINK_NULL only).
    """
    ethertype = _ethertype(packet)
    if link == LINK_ETHERNET:
        return ethernet(packet, ethertype, from_a=from_a, tags=tags)
    mac = MAC_A if from_a else MAC_B
    if link in (LINK_SLL, LINK_SLL2):
        kinds = [tpid for tpid, _ in tags] + [ethertype]
        inner = b"".join(struct.pack(">HH", vlan, kinds[at + 1]) for at, (_, vlan) in enumerate(tags))
        packet_type = 4 if from_a else 0  # sent by us, sent to us
        if link == LINK_SLL:
            return struct.pack(">HHH6s2xH", packet_type, 1, 6, mac, kinds[0]) + inner + packet
        return struct.pack(">HHIHBB6s2x", kinds[0], 0, 2, 1, packet_type, 6, mac) + inner + packet
    if link in (LINK_NULL, LINK_LOOP):
        family = 2 if ethertype == ETHER_IPV4 else 30  # AF_INET everywhere, AF_INET6 of macOS
        order = ">" if link == LINK_LOOP or byteorder == "big" else "<"
        return struct.pack(order + "I", family) + packet
    return packet


@dataclass(frozen=True, slots=True)
class Frame:
    """One record of a capture: its time, the octets captured, and how many there were on the wire."""

    time_ns: int
    octets: bytes
    wire_octets: int


def pcap_octets(
    frames: Sequence[Frame],
    *,
    link: int = LINK_ETHERNET,
    nanosecond: bool = False,
    byteorder: str = "little",
    snaplen: int = 262144,
) -> bytes:
    """A classic pcap file (draft-ietf-opsawg-pcap). Times are cut to microseconds unless `nanosecond`."""
    order = "<" if byteorder == "little" else ">"
    magic, unit_ns = (0xA1B23C4D, 1) if nanosecond else (0xA1B2C3D4, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link)]
    for frame in frames:
        seconds, rest_ns = divmod(frame.time_ns, SECOND_NS)
        sizes = (len(frame.octets), frame.wire_octets)
        parts.append(struct.pack(order + "IIII", seconds & 0xFFFFFFFF, rest_ns // unit_ns, *sizes))
        parts.append(frame.octets)
    return b"".join(parts)


class Wire:
    """Records frames. Each comes `step_ns` after the one before, or exactly what was waited.

    Attributes:
        frames: What was recorded.
        link: Link type of the frames that `packet` builds.
        snaplen: Octets that are captured of a frame; None for all.
    """

    def __init__(
        self,
        *,
        link: int = LINK_ETHERNET,
        start_ns: int = START_NS,
        step_ns: int = MS_NS,
        snaplen: int | None = None,
        byteorder: str = "little",
    ) -> None:
        self.frames: list[Frame] = []
        self.link = link
        self.snaplen = snaplen
        self.byteorder = byteorder
        self._step_ns = step_ns
        self._next_ns = start_ns
        self._waited = True

    def wait(self, *, s: int = 0, ms: int = 0, us: int = 0, ns: int = 0) -> None:
        """Let time pass since the last frame; waits add up, and take the place of the default step."""
        if not self._waited:
            self._next_ns = self.frames[-1].time_ns
            self._waited = True
        self._next_ns += s * SECOND_NS + ms * MS_NS + us * 1000 + ns

    def at(self, time_ns: int) -> None:
        """Set the time of the next frame (it may lie before the last one)."""
        self._next_ns = time_ns
        self._waited = True

    def frame(self, octets: bytes, *, captured: int | None = None, wire_octets: int | None = None) -> int:
        """Record a frame as it is.

        Args:
            octets: The frame from its link header on.
            captured: Octets captured of it, at most; else the snaplen decides.
            wire_octets: Octets it had on the wire; else all of `octets`.

        Returns:
            Its number, from 1.
        """
        cut = self.snaplen if captured is None else captured
        self.frames.append(Frame(self._next_ns, octets[:cut], len(octets) if wire_octets is None else wire_octets))
        self._next_ns += self._step_ns
        self._waited = False
        return len(self.frames)

    def packet(
        self,
        packet: bytes,
        *,
        from_a: bool = True,
        tags: Sequence[tuple[int, int]] = (),
        captured: int | None = None,
        wire_octets: int | None = None,
    ) -> int:
        """Record an IP packet behind the link header of this wire. Returns the number of the frame."""
        octets = link_frame(self.link, packet, from_a=from_a, tags=tags, byteorder=self.byteorder)
        return self.frame(octets, captured=captured, wire_octets=wire_octets)

    def pcap_octets(self, *, nanosecond: bool = False, byteorder: str = "little") -> bytes:
        """What was recorded, as the content of a pcap file."""
        return pcap_octets(
            self.frames, link=self.link, nanosecond=nanosecond, byteorder=byteorder, snaplen=self.snaplen or 262144
        )

    def pcap(self, where: Path, *, nanosecond: bool = False, byteorder: str = "little") -> Path:
        """Write what was recorded to a file, or as `capture.pcap` into a folder. Returns the path of the file."""
        path = where / "capture.pcap" if where.is_dir() else where
        path.write_bytes(self.pcap_octets(nanosecond=nanosecond, byteorder=byteorder))
        return path


class Side:
    """One end of an exchange. It numbers its octets and acknowledges all it has heard, unless told otherwise.

    Attributes:
        frames: Numbers of the frames it sent.
        next_seq: Sequence number of its next octet; the first one is its initial number.
        window: The window it offers, as sent, unless a segment says otherwise.
    """

    peer: Side

    def __init__(self, wire: Wire, end: str, *, isn: int, is_a: bool, tags: Sequence[tuple[int, int]]) -> None:
        address, _, port = end.rpartition(":")
        self.address = address.strip("[]")
        self.port = int(port)
        self.frames: list[int] = []
        self.next_seq = isn
        self.window = 64240
        self._spoke = False
        self._is_a = is_a
        self._wire = wire
        self._tags = tags

    def segment(
        self,
        flags: int = ACK,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int | None = None,
        options: bytes = b"",
        captured: int | None = None,
        tags: Sequence[tuple[int, int]] | None = None,
    ) -> int:
        """Send any TCP segment. Each field can be given; a number that is given moves `next_seq` only forward,
        or anywhere with a SYN.
        """
        number = self.next_seq if seq is None else seq
        if ack is None:
            ack = self.peer.next_seq if flags & ACK and self.peer._spoke else 0
        after = (number + len(payload) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        if flags & SYN or (after - self.next_seq) & 0xFFFFFFFF < 1 << 31:
            self.next_seq = after
        self._spoke = True
        octets = tcp(
            self.address,
            self.peer.address,
            self.port,
            self.peer.port,
            seq=number,
            ack=ack,
            flags=flags,
            window=self.window if window is None else window,
            options=options,
            payload=payload,
        )
        return self._send(TCP, octets, captured, tags)

    def syn(self, *, seq: int | None = None, options: bytes = b"", window: int | None = None) -> int:
        """Send a SYN without ACK."""
        return self.segment(SYN, seq=seq, options=options, window=window)

    def syn_ack(
        self,
        *,
        seq: int | None = None,
        ack: int | None = None,
        options: bytes = b"",
        window: int | None = None,
    ) -> int:
        """Send SYN and ACK."""
        return self.segment(SYN | ACK, seq=seq, ack=ack, options=options, window=window)

    def ack(self, *, seq: int | None = None, ack: int | None = None, window: int | None = None) -> int:
        """Send an ACK without payload."""
        return self.segment(ACK, seq=seq, ack=ack, window=window)

    def data(
        self, payload: bytes, *, seq: int | None = None, ack: int | None = None, captured: int | None = None
    ) -> int:
        """Send payload, with PSH and ACK."""
        return self.segment(PSH | ACK, payload, seq=seq, ack=ack, captured=captured)

    def fin(self, *, seq: int | None = None, ack: int | None = None) -> int:
        """Send FIN and ACK."""
        return self.segment(FIN | ACK, seq=seq, ack=ack)

    def rst(self, *, seq: int | None = None) -> int:
        """Send a RST without ACK."""
        return self.segment(RST, seq=seq)

    def rst_ack(self, *, seq: int | None = None, ack: int | None = None) -> int:
        """Send RST and ACK."""
        return self.segment(RST | ACK, seq=seq, ack=ack)

    def udp(self, payload: bytes = b"", *, captured: int | None = None) -> int:
        """Send a UDP datagram."""
        octets = udp(self.address, self.peer.address, self.port, self.peer.port, payload)
        return self._send(UDP, octets, captured, None)

    def ip(self, protocol: int, payload: bytes) -> int:
        """Send an IP packet of another protocol (the ports of the sides mean nothing then)."""
        return self._send(protocol, payload, None, None)

    def _send(self, protocol: int, octets: bytes, captured: int | None, tags: Sequence[tuple[int, int]] | None) -> int:
        packet = ip(self.address, self.peer.address, protocol, octets)
        tags = self._tags if tags is None else tags
        self.frames.append(self._wire.packet(packet, from_a=self._is_a, tags=tags, captured=captured))
        return self.frames[-1]


class Exchange:
    """Two sides that talk: `a` and `b`, over a wire of their own or a shared one."""

    def __init__(
        self,
        a: str = "10.0.0.1:1000",
        b: str = "10.0.0.2:80",
        *,
        wire: Wire | None = None,
        isn: tuple[int, int] = (100, 900),
        tags: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.wire = Wire() if wire is None else wire
        self.a = Side(self.wire, a, isn=isn[0], is_a=True, tags=tags)
        self.b = Side(self.wire, b, isn=isn[1], is_a=False, tags=tags)
        self.a.peer, self.b.peer = self.b, self.a

    def wait(self, *, s: int = 0, ms: int = 0, us: int = 0, ns: int = 0) -> None:
        """Let time pass since the last frame of the wire."""
        self.wire.wait(s=s, ms=ms, us=us, ns=ns)

    def open(self, isn: tuple[int, int] | None = None) -> None:
        """Three frames: SYN, SYN-ACK, ACK. `isn` are new initial numbers, for a second connection."""
        self.a.syn(seq=isn and isn[0])
        self.b.syn_ack(seq=isn and isn[1])
        self.a.ack()

    def close(self) -> None:
        """Four frames: FIN of `a`, ACK, FIN of `b`, ACK."""
        self.a.fin()
        self.b.ack()
        self.b.fin()
        self.a.ack()

    def talk(self, question: bytes = b"GET", answer: bytes = b"200 OK") -> None:
        """Three frames: data of `a`, data of `b`, ACK."""
        self.a.data(question)
        self.b.data(answer)
        self.a.ack()

    def connection(self, isn: tuple[int, int] | None = None) -> None:
        """Case T01, ten frames: SYN, SYN-ACK, ACK, data of `a`, data of `b`, ACK, FIN, ACK, FIN, ACK."""
        self.open(isn)
        self.talk()
        self.close()

    def pcap(self, where: Path, *, nanosecond: bool = False, byteorder: str = "little") -> Path:
        """Write the capture of the wire; see `Wire.pcap`."""
        return self.wire.pcap(where, nanosecond=nanosecond, byteorder=byteorder)
