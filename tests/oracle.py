"""A slow, obvious tracer that shares no code with traceflow: the second opinion of the tests.

It is written to be checked by eye against the rules of a correct flow, one packet at a time, with dicts and lists and
the standard library alone. Profile `default`:

- A flow is a protocol and two ends (address, port); who comes first in the key does not matter.
- A SYN without ACK whose number is not the base of its direction opens a new flow. The base of a direction is the
  number of its first segment if that was a SYN, that minus one if not, or the other side's acknowledgment minus one
  if that was seen first.
- FIN from both sides, or a RST, make a flow closing: it ends when it has been silent for the linger time.
- Other flows end when they have been silent for the idle time. Silence is measured on a clock that is the running
  maximum of the time stamps of all frames; a flow that is silent for exactly the time is over.

Profile `pcapkit`: TCP only, each direction by itself, a FIN ends its buffer after the frame, nothing else ends one.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECOND_NS = 1_000_000_000
TIME_MAX_NS = 2**62
LARGEST_FRAME_OCTETS = 16 * 1024 * 1024  # a record that claims more is not believed

TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

# ---------------------------------------------------------------- reading files


@dataclass
class RawFrame:
    """A record of a capture."""

    time_ns: int
    link: int
    octets: bytes
    wire_octets: int


class BadCaptureError(Exception):
    """Reading stops here; the text is `not a capture`, `truncated` or `malformed`."""


def read_frames(content: bytes) -> Iterator[RawFrame]:
    """Frames of a pcap or pcapng file, up to its end or its first fault."""
    magic = content[:4]
    if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        yield from _read_pcap(content, "<", nanosecond=magic[0] == 0x4D)
    elif magic in (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"):
        yield from _read_pcap(content, ">", nanosecond=magic[3] == 0x4D)
    elif magic == b"\x0a\x0d\x0d\x0a":
        yield from _read_pcapng(content)
    else:
        raise BadCaptureError("not a capture")


def _read_pcap(content: bytes, order: str, *, nanosecond: bool) -> Iterator[RawFrame]:
    if len(content) < 24:
        raise BadCaptureError("truncated")
    link = struct.unpack_from(order + "I", content, 20)[0] & 0xFFFF  # the upper bits tell of check sequences
    at = 24
    while at < len(content):
        if at + 16 > len(content):
            raise BadCaptureError("truncated")
        seconds, fraction, captured, wire = struct.unpack_from(order + "IIII", content, at)
        if captured > LARGEST_FRAME_OCTETS:
            raise BadCaptureError("malformed")
        at += 16
        if at + captured > len(content):
            raise BadCaptureError("truncated")
        time_ns = seconds * SECOND_NS + fraction * (1 if nanosecond else 1000)
        yield RawFrame(time_ns, link, content[at : at + captured], wire)
        at += captured


@dataclass
class InterfaceBlock:
    """What a frame's interface says about it."""

    link: int
    snaplen: int
    units_per_second: int = 1_000_000
    offset_s: int = 0


def _read_pcapng(content: bytes) -> Iterator[RawFrame]:
    order = "<"
    interfaces: list[InterfaceBlock] = []
    last_time_ns = 0
    at = 0
    while at < len(content):
        if at + 12 > len(content):
            raise BadCaptureError("truncated")
        if content[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}.get(content[at + 8 : at + 12], "")
            if not order:
                raise BadCaptureError("malformed")
            interfaces = []
        kind, length = struct.unpack_from(order + "II", content, at)
        if length < 12 or length % 4:
            raise BadCaptureError("malformed")
        if at + length > len(content):
            raise BadCaptureError("truncated")
        body = content[at + 8 : at + length - 4]
        at += length
        if kind == 1:
            interfaces.append(_interface(body, order))
        elif kind in (2, 3, 6):
            frame = _packet_block(kind, body, order, interfaces, last_time_ns)
            last_time_ns = frame.time_ns
            yield frame


def _interface(body: bytes, order: str) -> InterfaceBlock:
    if len(body) < 8:
        raise BadCaptureError("malformed")
    link, _, snaplen = struct.unpack_from(order + "HHI", body)
    found = InterfaceBlock(link, snaplen)
    at = 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == 0:
            break
        if code == 9 and len(value) == 1:
            exponent = value[0] & 0x7F
            found.units_per_second = 2**exponent if value[0] & 0x80 else 10**exponent
        if code == 14 and len(value) == 8:
            found.offset_s = struct.unpack(order + "q", value)[0]
        at += 4 + (length + 3) // 4 * 4
    return found


def _packet_block(kind: int, body: bytes, order: str, interfaces: list[InterfaceBlock], last_time_ns: int) -> RawFrame:
    """A Packet Block (2), Simple Packet Block (3) or Enhanced Packet Block (6)."""
    if len(body) < (4 if kind == 3 else 20):
        raise BadCaptureError("malformed")
    if kind == 3:
        number, high, low = 0, 0, 0
        wire = struct.unpack_from(order + "I", body)[0]
        captured, start = wire, 4
    elif kind == 2:
        number, _, high, low, captured, wire = struct.unpack_from(order + "HHIIII", body)
        start = 20
    else:
        number, high, low, captured, wire = struct.unpack_from(order + "IIIII", body)
        start = 20
    if number >= len(interfaces):
        raise BadCaptureError("malformed")
    interface = interfaces[number]
    if kind == 3 and interface.snaplen:
        captured = min(captured, interface.snaplen)
    if start + captured > len(body):
        raise BadCaptureError("malformed")
    ticks = high << 32 | low
    time_ns = interface.offset_s * SECOND_NS + ticks * SECOND_NS // interface.units_per_second
    if kind == 3:
        time_ns = last_time_ns  # it has none of its own
    time_ns = max(-TIME_MAX_NS, min(TIME_MAX_NS, time_ns))
    return RawFrame(time_ns, interface.link, body[start : start + captured], wire)


# ---------------------------------------------------------------- reading one frame


@dataclass
class Packet:
    """What matters of a frame that may belong to a flow."""

    protocol: int
    version: int
    source: tuple[bytes, int]  # address, port
    target: tuple[bytes, int]
    flags: int | None = None  # None: cut off, or not TCP
    seq: int = 0
    ack: int = 0
    datagram: object = None  # of a first fragment: what all fragments of the datagram have in common
    quote: bytes = b""  # of an ICMP error: the start of the packet that it is about


class NoFlowError(Exception):
    """The frame belongs to no flow; the text is its verdict.

    Attributes:
        datagram: Of a later fragment, as in Packet.
    """

    datagram: object = None


IPV4, IPV6, LLC, VERSION = "ipv4", "ipv6", "llc", "by version"
ETHERTYPES = {0x0800: IPV4, 0x86DD: IPV6}
VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
ADDRESS_FAMILIES = {2: IPV4, 10: IPV6, 23: IPV6, 24: IPV6, 28: IPV6, 30: IPV6}
EXTENSIONS = (0, 43, 60, 135, 139, 140)  # length in units of 8 octets, without the first 8
FRAGMENT_HEADER, AUTHENTICATION, NO_NEXT_HEADER = 44, 51, 59
ICMP, ICMPV6 = 1, 58
ICMP_ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}  # the first two words are theirs, then comes the quote
REDIRECT6 = 137
ICMP_QUERIES = {ICMP: (0, 8, 13, 14, 15, 16, 17, 18), ICMPV6: (128, 129)}  # their identifier tells flows apart
OTHERS_WITH_PORTS = (33, 132, 136)  # DCCP, SCTP, UDP-Lite
TUNNELS = (
    4,
    41,
    47,
    94,
    97,
    137,
    143,
)  # this tracer opens none; their later fragments wait for the first one all the same


def read_packet(frame: RawFrame) -> Packet:
    """Understand a frame.

    Raises:
        NoFlowError: With the verdict.
    """
    kind, at = _after_link(frame)
    wire = max(frame.wire_octets, len(frame.octets))
    if kind == VERSION:
        if not frame.octets:
            raise NoFlowError("truncated ip")
        kind = IPV6 if frame.octets[0] >> 4 == 6 else IPV4
    # From here on positions count from the IP header: `data` was captured, `sent` octets were on the wire.
    data, sent = frame.octets[at:], wire - at
    return _read_ipv4(data, sent) if kind == IPV4 else _read_ipv6(data, sent)


def _after_link(frame: RawFrame) -> tuple[str, int]:
    """What follows the link header with its VLAN tags, and where."""
    octets, link = frame.octets, frame.link
    if link in (12, 14, 101):
        return VERSION, 0
    if link == 228:
        return IPV4, 0
    if link == 229:
        return IPV6, 0
    if link in (0, 108):
        _need(octets, 4, "truncated link")
        for order in "><":
            family = struct.unpack_from(order + "I", octets)[0]
            if family in ADDRESS_FAMILIES:
                return ADDRESS_FAMILIES[family], 4
        raise NoFlowError("not ip")
    if link == 1:
        _need(octets, 14, "truncated link")
        ethertype, at = _u16(octets, 12), 14
        return _after_ethertype(octets, ethertype, at)
    if link in (113, 276):
        size, where = (16, 14) if link == 113 else (20, 0)
        _need(octets, size, "truncated link")
        ethertype = _u16(octets, where)
        if ethertype < 0x0600 and ethertype != 4:  # 4 is "802.2"; other small numbers are no protocol of ours
            raise NoFlowError("not ip")
        return _after_ethertype(octets, ethertype, size)
    raise NoFlowError("unsupported link")


def _after_ethertype(octets: bytes, ethertype: int, at: int) -> tuple[str, int]:
    """Pass VLAN tags and IEEE 802.2 headers. An EtherType below 0x600 is a length: 802.2 follows."""
    while True:
        if ethertype in ETHERTYPES:
            return ETHERTYPES[ethertype], at
        if ethertype in VLAN_TYPES:
            _need(octets, at + 4, "truncated link")
            ethertype = _u16(octets, at + 2)
            at += 4
        elif ethertype < 0x0600:
            _need(octets, at + 3, "truncated link")
            if octets[at : at + 2] == b"\x06\x06":
                return IPV4, at + 3
            if octets[at : at + 2] != b"\xaa\xaa":
                raise NoFlowError("not ip")
            _need(octets, at + 8, "truncated link")
            ethertype = _u16(octets, at + 6)
            if ethertype < 0x0600:
                raise NoFlowError("not ip")
            at += 8
        else:
            raise NoFlowError("not ip")


def _u16(octets: bytes, at: int) -> int:
    return int.from_bytes(octets[at : at + 2], "big")


def _need(octets: bytes, count: int, verdict: str) -> None:
    if len(octets) < count:
        raise NoFlowError(verdict)


def _read_ipv4(data: bytes, sent: int) -> Packet:
    _need(data, 20, "truncated ip")
    version, header = data[0] >> 4, (data[0] & 15) * 4
    total, fragment, protocol = _u16(data, 2), _u16(data, 6), data[9]
    if version != 4 or header < 20 or (total and total < header) or sent < header:
        raise NoFlowError("malformed ip")
    _need(data, header, "truncated ip")
    end = min(total, sent) if total else sent
    source, target = data[12:16], data[16:20]
    if fragment & 0x1FFF:
        return _later_fragment(protocol, 4, source, target, (4, source, target, protocol, data[4:6]))
    at, datagram = header, (4, source, target, protocol, data[4:6]) if fragment & 0x2000 else None
    if protocol == AUTHENTICATION:
        protocol, at, _ = _pass_extensions(data, protocol, at, end, 4)
    packet = _read_transport(data[:end], at, protocol, 4, source, target)
    packet.datagram = datagram
    return packet


def _read_ipv6(data: bytes, sent: int) -> Packet:
    _need(data, 40, "truncated ip")
    if data[0] >> 4 != 6:
        raise NoFlowError("malformed ip")
    length, protocol = _u16(data, 4), data[6]
    end = min(40 + length, sent) if length or protocol == NO_NEXT_HEADER else sent
    source, target = data[8:24], data[24:40]
    protocol, at, later = _pass_extensions(data, protocol, 40, end, 6)
    if later:
        return _later_fragment(protocol, 6, source, target, (6, source, target, data[at - 4 : at]))
    packet = _read_transport(data[:end], at, protocol, 6, source, target)
    packet.datagram = _datagram6(data, source, target)
    return packet


def _datagram6(data: bytes, source: bytes, target: bytes) -> object:
    """What tells the datagram of an IPv6 packet that is known to be whole or a first fragment."""
    protocol, at = data[6], 40
    while protocol in (*EXTENSIONS, AUTHENTICATION):
        protocol, at = data[at], at + ((data[at + 1] + 2) * 4 if protocol == AUTHENTICATION else (data[at + 1] + 1) * 8)
    if protocol == FRAGMENT_HEADER and data[at + 3] & 1:
        return 6, source, target, data[at + 4 : at + 8]
    return None


def _pass_extensions(data: bytes, protocol: int, at: int, end: int, version: int) -> tuple[int, int, bool]:
    """Pass extension headers (of IPv4: authentication only). Returns what follows, where, and if a fragment is
    not the first one.
    """
    known = (*EXTENSIONS, FRAGMENT_HEADER, AUTHENTICATION) if version == 6 else (AUTHENTICATION,)
    while protocol in known:
        if at + 8 > end:
            raise NoFlowError("malformed ip")
        _need(data, at + 8, "truncated ip")
        following, length = data[at], data[at + 1]
        if protocol == FRAGMENT_HEADER:
            if _u16(data, at + 2) >> 3:
                return following, at + 8, True
            at += 8
        elif protocol == AUTHENTICATION:
            at += (length + 2) * 4
        else:
            at += (length + 1) * 8
        protocol = following
    return protocol, at, False


def _later_fragment(protocol: int, version: int, source: bytes, target: bytes, datagram: object) -> Packet:
    """A fragment without the header behind IP: fine where nothing there tells flows apart."""
    hidden = version == 6 and protocol in (*EXTENSIONS, FRAGMENT_HEADER, AUTHENTICATION)
    if protocol in (TCP, UDP, ICMP, ICMPV6, *OTHERS_WITH_PORTS, *TUNNELS) or hidden:
        verdict = NoFlowError("fragment without ports")
        verdict.datagram = datagram
        raise verdict
    return Packet(protocol, version, (source, 0), (target, 0))


def _read_transport(data: bytes, at: int, protocol: int, version: int, source: bytes, target: bytes) -> Packet:
    if protocol in ICMP_QUERIES and len(data) >= at + 6 and data[at] in ICMP_QUERIES[protocol]:
        return Packet(protocol, version, (source, _u16(data, at + 4)), (target, _u16(data, at + 4)))
    if protocol not in (TCP, UDP, *OTHERS_WITH_PORTS):
        return Packet(protocol, version, (source, 0), (target, 0), quote=_quote(data[at:], protocol))
    _need(data, at + 4, "truncated ports")
    packet = Packet(protocol, version, (source, _u16(data, at)), (target, _u16(data, at + 2)))
    if protocol == TCP and len(data) >= at + 14:
        packet.seq = int.from_bytes(data[at + 4 : at + 8], "big")
        packet.ack = int.from_bytes(data[at + 8 : at + 12], "big")
        packet.flags = data[at + 13]
    return packet


def _quote(message: bytes, protocol: int) -> bytes:
    """What an ICMP message quotes of another packet; empty where it is no error."""
    if message and message[0] in ICMP_ERRORS.get(protocol, ()):
        return message[8:]
    if protocol == ICMPV6 and message and message[0] == REDIRECT6:
        at = 40
        while at + 8 <= len(message) and message[at + 1]:
            if message[at] == 4:
                return message[at + 8 :]
            at += message[at + 1] * 8
    return b""


def read_quote(quote: bytes) -> Packet | None:
    """The packet that a quote shows, if it can be told which flow it belongs to."""
    try:
        packet = read_packet(RawFrame(0, 101, quote, len(quote)))
    except NoFlowError:
        return None
    if packet.protocol not in (ICMP, ICMPV6):
        return packet
    message = quote[_behind_headers(quote) :]
    is_error = message[:1] and (message[0] in ICMP_ERRORS[packet.protocol] or message[0] == REDIRECT6)
    return None if len(message) < 6 or is_error else packet


def _behind_headers(packet: bytes) -> int:
    """Where the header behind IP begins in a packet that `read_packet` took."""
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        return header + (packet[header + 1] + 2) * 4 if packet[9] == AUTHENTICATION else header
    return _pass_extensions(packet, packet[6], 40, len(packet), 6)[1]


# ---------------------------------------------------------------- tracing


@dataclass
class OracleFlow:
    """A flow; its ends are (address, port), its frames numbers from 1."""

    number: int
    protocol: int
    version: int
    ends: tuple[tuple[bytes, int], tuple[bytes, int]]  # as in the first packet: source, target
    originator: int = 0  # index into `ends`
    sent: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # frames sent by each of `ends`
    cause: str = ""

    # State while it lives.
    base: list[int | None] = field(default_factory=lambda: [None, None])
    fin: list[bool] = field(default_factory=lambda: [False, False])
    syn_seen: bool = False
    closed_by: str = ""
    last_clock_ns: int = 0

    @property
    def frames(self) -> list[int]:
        return sorted(self.sent[0] + self.sent[1])

    @property
    def orig(self) -> tuple[str, int]:
        return self._end(self.originator)

    @property
    def resp(self) -> tuple[str, int]:
        return self._end(1 - self.originator)

    @property
    def orig_frames(self) -> list[int]:
        return sorted(self.sent[self.originator])

    @property
    def resp_frames(self) -> list[int]:
        return sorted(self.sent[1 - self.originator])

    def _end(self, which: int) -> tuple[str, int]:
        address, port = self.ends[which]
        return str(ipaddress.ip_address(address)), port


@dataclass
class Result:
    """What became of every frame.

    Attributes:
        flows: In opening order.
        verdicts: Frames by verdict, those that occur.
        frame_flow: For each frame, in order, the number of its flow, or 0.
        frame_quoted: For frames with an ICMP error about a packet of a live flow, the number of that flow.
        frame_verdict: For each frame its verdict, or an empty text.
        times_ns: The time stamp of each frame.
        frames_out_of_order: Frames with a time before that of an earlier frame.
        error: How reading ended: None, `not a capture`, `truncated` or `malformed`.
    """

    flows: list[OracleFlow] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    frame_flow: list[int] = field(default_factory=list)
    frame_verdict: list[str] = field(default_factory=list)
    frame_quoted: dict[int, int] = field(default_factory=dict)
    times_ns: list[int] = field(default_factory=list)
    frames_out_of_order: int = 0
    error: str | None = None


def trace_capture(
    path: Path | str | Sequence[Path | str],
    *,
    idle_tcp_s: float | None = 300,
    idle_other_s: float | None = 60,
    linger_s: float = 60,
    profile: str = "default",
) -> Result:
    """Trace one capture, or several as one.

    Args:
        path: A capture, or some.
        idle_tcp_s: Silence that ends a TCP flow, in seconds; None: never. Profile `pcapkit` has no timeouts.
        idle_other_s: The same for other protocols.
        linger_s: Silence that ends a closing flow.
        profile: `default` or `pcapkit`.

    Returns:
        What became of every frame; a fault of a file is in `error` (that of the first faulty file), and the frames
        before it count.
    """
    if profile == "pcapkit":
        idle_tcp_s = idle_other_s = None
    tracer = _Tracer(idle_tcp_s, idle_other_s, linger_s, profile)
    for each in [path] if isinstance(path, (str, Path)) else path:
        try:
            for frame in read_frames(Path(each).read_bytes()):
                tracer.take(frame)
        except BadCaptureError as error:
            tracer.result.error = tracer.result.error or str(error)
    tracer.finish()
    return tracer.result


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * SECOND_NS)


def _key(packet: Packet) -> object:
    return (packet.protocol, packet.version, *sorted((packet.source, packet.target)))


class _Tracer:
    def __init__(self, idle_tcp_s: float | None, idle_other_s: float | None, linger_s: float, profile: str) -> None:
        self.idle_tcp_ns = _ns(idle_tcp_s)
        self.idle_other_ns = _ns(idle_other_s)
        self.linger_ns = _ns(linger_s)
        self.pcapkit = profile == "pcapkit"
        self.clock_ns: int | None = None
        self.live: dict[object, OracleFlow] = {}
        self.firsts: dict[object, Packet] = {}  # without a limit and a timeout: for captures of tests
        self.waiting: dict[object, list[int]] = {}  # numbers of later fragments that came before the first
        self.result = Result()

    def take(self, frame: RawFrame) -> None:
        """One frame, from its time stamp to its flow."""
        number = len(self.result.frame_flow) + 1
        self.result.times_ns.append(frame.time_ns)
        self._advance_clock(frame.time_ns)
        try:
            packet = self._read(frame, number)
            if self.pcapkit and packet.protocol != TCP:
                raise NoFlowError("not tcp")
        except NoFlowError as verdict:
            text = str(verdict)
            self.result.verdicts[text] = self.result.verdicts.get(text, 0) + 1
            self.result.frame_flow.append(0)
            self.result.frame_verdict.append(text)
            return
        if packet.quote:
            self._note_quote(packet.quote, number)
        flow = self._take_pcapkit(packet, number) if self.pcapkit else self._take_default(packet, number)
        self.result.frame_flow.append(flow.number)
        self.result.frame_verdict.append("")
        for late in self.waiting.pop(packet.datagram, []) if packet.datagram else []:  # rule 18
            flow.sent[flow.ends.index(packet.source)].append(late)
            self.result.frame_flow[late - 1] = flow.number
            self.result.frame_verdict[late - 1] = ""
            self.result.verdicts["fragment without ports"] -= 1
            if not self.result.verdicts["fragment without ports"]:
                del self.result.verdicts["fragment without ports"]

    def _note_quote(self, quote: bytes, number: int) -> None:
        """An error points at the flow of the packet it quotes, and changes nothing there."""
        packet = read_quote(quote)
        flow = self.live.get(_key(packet)) if packet else None
        if flow:
            self.result.frame_quoted[number] = flow.number

    def _read(self, frame: RawFrame, number: int) -> Packet:
        """Understand a frame; a later fragment by the first one of its datagram."""
        try:
            packet = read_packet(frame)
        except NoFlowError as verdict:
            first = self.firsts.get(verdict.datagram)
            if first is None:
                if verdict.datagram:
                    self.waiting.setdefault(verdict.datagram, []).append(number)
                raise
            return Packet(first.protocol, first.version, first.source, first.target)
        if packet.datagram:
            self.firsts[packet.datagram] = packet
        return packet

    def finish(self) -> None:
        """The input is over: what lives ends now."""
        for flow in self.live.values():
            flow.cause = flow.closed_by or "end of input"
        self.live = {}

    def _advance_clock(self, time_ns: int) -> None:
        """Rules 12 to 14: the clock never runs backwards, and what has been silent long enough is over."""
        if self.clock_ns is not None and time_ns < self.clock_ns:
            self.result.frames_out_of_order += 1
        if self.clock_ns is not None and time_ns <= self.clock_ns:
            return
        self.clock_ns = time_ns
        for key, flow in list(self.live.items()):
            limit_ns = self.linger_ns if flow.closed_by else self._idle_ns(flow)
            if limit_ns is not None and time_ns - flow.last_clock_ns >= limit_ns:
                flow.cause = flow.closed_by or "idle"
                del self.live[key]

    def _idle_ns(self, flow: OracleFlow) -> int | None:
        return self.idle_tcp_ns if flow.protocol == TCP else self.idle_other_ns

    def _open(self, key: object, packet: Packet) -> OracleFlow:
        flow = OracleFlow(len(self.result.flows) + 1, packet.protocol, packet.version, (packet.source, packet.target))
        self.result.flows.append(flow)
        self.live[key] = flow
        return flow

    def _take_pcapkit(self, packet: Packet, number: int) -> OracleFlow:
        key = (packet.version, packet.source, packet.target)
        flow = self.live.get(key) or self._open(key, packet)
        flow.sent[0].append(number)
        if packet.flags is not None and packet.flags & FIN:
            flow.cause = "fin"
            del self.live[key]
        return flow

    def _take_default(self, packet: Packet, number: int) -> OracleFlow:
        key = _key(packet)
        flags = packet.flags or 0
        flow = self.live.get(key)
        if flow is not None and packet.flags is not None and flags & (SYN | ACK) == SYN:  # rules 4 and 5
            base = flow.base[flow.ends.index(packet.source)]
            if base is not None and base != packet.seq:
                flow.cause = flow.closed_by or "new syn"  # what closed it outranks what comes after
                flow = None
        if flow is None:
            flow = self._open(key, packet)
        sender = flow.ends.index(packet.source)
        flow.sent[sender].append(number)
        assert self.clock_ns is not None
        flow.last_clock_ns = self.clock_ns
        if packet.flags is not None:
            self._note_segment(flow, sender, packet, flags)
        return flow

    def _note_segment(self, flow: OracleFlow, sender: int, packet: Packet, flags: int) -> None:
        receiver = 1 - sender
        # Rule 2: the first SYN tells who opened. Later ones (retransmissions, simultaneous open) tell nothing.
        if flags & SYN and not flow.syn_seen:
            flow.originator = receiver if flags & ACK else sender
            flow.syn_seen = True
        if flow.base[sender] is None:
            flow.base[sender] = packet.seq if flags & SYN else (packet.seq - 1) % 2**32
        if flags & ACK and flow.base[receiver] is None:
            flow.base[receiver] = (packet.ack - 1) % 2**32
        # Rules 6 and 8. What closed it first is the cause.
        if flags & FIN:
            flow.fin[sender] = True
        if flags & RST:
            flow.closed_by = flow.closed_by or "rst"
        if flow.fin[0] and flow.fin[1]:
            flow.closed_by = flow.closed_by or "fin"
