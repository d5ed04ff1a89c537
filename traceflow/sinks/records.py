"""A frame as nested fields: what json, property lists and text trees show of it.

Layers are keys, in the order of the frame: `frame`, `eth` / `sll` / `null`, `vlan` (a list, outermost first), `llc`,
`ip` / `ipv6`, `ah`, `tcp` / `udp` / `icmp` / `icmpv6`, then `payload` and `payload_len`. Names follow Wireshark's
display filters, nested: `tcp.flags.syn` is `record["tcp"]["flags"]["syn"]`. Values are numbers, text of addresses,
booleans and octets; nothing is guessed: a field that was not captured is left out and its layer is `truncated`, a
header that contradicts itself is `malformed`. Nothing here raises, whatever the octets are, and nothing is written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME, NO_TIME, PACKET, Interface, Verdict
from traceflow.sinks.records_datagram import icmp, icmpv6, udp
from traceflow.sinks.records_ip4 import ipv4
from traceflow.sinks.records_ip6 import ipv6
from traceflow.sinks.records_link import IP4, IP6, link_layer
from traceflow.sinks.records_tcp import tcp

__all__ = ["epoch_text", "frame_record"]

_FRAME_FIELDS = ("time_ns", "wire", "interface", "link", "time_bits")
_PACKET_FIELDS = ("verdict", "ip_version", "link_octets", "payload", "payload_octets")

_TRANSPORTS: dict[int | None, Callable[[dict[str, Any], bytes, int, int], None]] = {
    1: icmp,
    6: tcp,
    17: udp,
    58: icmpv6,
}
_NO_TCP = ("len",)  # stands for the TCP fields of a frame without TCP: nothing is missing


def _columns(names: tuple[str, ...] | None, wanted: tuple[str, ...]) -> operator.itemgetter[Any]:
    """A getter of some columns from the tuple of a row, which is faster than one field after the other."""
    return operator.itemgetter(*((names or ()).index(name) for name in wanted))


_frame_columns = _columns(FRAME.names, _FRAME_FIELDS)
_packet_columns = _columns(PACKET.names, _PACKET_FIELDS)

_PAYLOAD_DECODED = frozenset(map(int, (Verdict.FLOW, Verdict.FRAGMENT_WITHOUT_PORTS, Verdict.NOT_TCP)))
"""Verdicts of frames whose PACKET row says where the payload is."""
_LENGTH_KNOWN = _PAYLOAD_DECODED | frozenset(map(int, (Verdict.NOT_IP, Verdict.UNSUPPORTED_LINK)))
"""Verdicts of frames without a cut or broken header; in others the length of the payload would be a guess."""


def epoch_text(time_ns: int, digits: int) -> str:
    """Seconds since 1970 as decimal text.

    Args:
        time_ns: Nanoseconds since 1970-01-01 UTC.
        digits: Digits behind the point, 0 < digits <= 9; what is finer is cut off towards zero.
    """
    seconds, rest = divmod(abs(time_ns), 1_000_000_000)
    sign = "-" if time_ns < 0 else ""
    return f"{sign}{seconds}.{rest:09}"[: digits - 9 or None]


def frame_record(number: int, octets: bytes, frame: np.void, packet: np.void, interface: Interface) -> dict[str, Any]:
    """The fields of a frame, by layer.

    Args:
        number: Number of the frame, from 1.
        octets: The captured octets of this frame.
        frame: Its FRAME row.
        packet: Its PACKET row.
        interface: Where it came from.

    Returns:
        A new mapping that the caller may change. `payload` holds what was captured of the payload, `payload_len`
        its octets as sent: what TCP or UDP carries; for other protocols what IP carries; without IP what the link
        layer carries. Where a header is cut or broken, `payload` is all that follows the last whole header, and
        `payload_len` is left out. Octets behind the payload are the `trailer` of the link layer.
    """
    time_ns, wire, interface_id, link, time_bits = _frame_columns(frame.item())
    verdict, ip_version, link_octets, payload, payload_octets = _packet_columns(packet.item())
    about: dict[str, Any] = {"number": number}
    if not time_bits & NO_TIME:
        about["time_epoch"] = epoch_text(time_ns, 9 if time_bits & FINER_THAN_MICROSECONDS else 6)
        about["time_ns"] = time_ns
    about["len"] = wire
    about["cap_len"] = len(octets)
    about["link_type"] = link
    about["interface_id"] = interface_id
    if interface.name:
        about["interface_name"] = interface.name
    record: dict[str, Any] = {"frame": about}

    sent = max(len(octets), wire)
    ether, at, stop = link_layer(record, octets, link)
    if ip_version:
        ether, at = IP4 if ip_version == 4 else IP6, link_octets  # a tunnel may lie before it
    start, end = _layers(record, octets, ether, at, min(stop, sent), sent)
    if verdict in _PAYLOAD_DECODED:
        start, end = payload, payload + payload_octets
    record["payload"] = octets[start:end]
    if verdict in _LENGTH_KNOWN and "len" in record.get("tcp", _NO_TCP):
        record["payload_len"] = end - start
    if len(octets) > end:
        link_part = record.get("eth") or record.get("sll") or record.get("null") or record
        link_part["trailer"] = octets[end:]
    return record


def _layers(record: dict[str, Any], octets: bytes, ether: int, at: int, stop: int, sent: int) -> tuple[int, int]:
    """Add the layers from IP on; returns where what IP carries begins and ends."""
    if ether == IP4:
        following = ipv4(record, octets, at, sent)
    elif ether == IP6:
        following = ipv6(record, octets, at, sent)
    else:
        return at, max(stop, at)
    protocol, at, end = following
    add = _TRANSPORTS.get(protocol)
    if add is not None:
        add(record, octets, at, end)
    return at, max(end, at)
