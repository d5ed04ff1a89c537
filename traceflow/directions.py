"""Who is the originator of a flow that opens: the rules that a profile can choose (option `direction`).

Only the first packet is looked at here. What later SYNs show (`turns_direction` of tcp.py, `follow_segment` of
states.py) is asked by the table. Which packets open a flow is not decided here.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.tcp import ACK, SYN, sender_originates

__all__ = ["BY_FIRST", "BY_ORDER", "BY_PORTS", "BY_SYN", "BY_TRANALYZER", "DIRECTIONS", "first_sender_originates"]

BY_FIRST, BY_SYN, BY_PORTS, BY_ORDER, BY_TRANALYZER = range(5)
DIRECTIONS = {"first": BY_FIRST, "syn": BY_SYN, "ports": BY_PORTS, "order": BY_ORDER, "tranalyzer": BY_TRANALYZER}
"""Values of the option to their numbers in kernels."""

_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_BROADCAST = U64(0xFFFFFFFFFFFF)  # ::ffff:255.255.255.255, its lower half


@inline_kernel
def first_sender_originates(packet: Any, direction: Any, server_ports: Any) -> Any:
    """Whether the sender of the first packet of a flow is its originator.

    Args:
        packet: PACKET row.
        direction: The rule.
        server_ports: uint8[65536], bit 0 of TCP, bit 1 of UDP: see LIKELY_SERVER_PORTS.
    """
    if direction == BY_PORTS:
        return _originates_by_ports(packet, server_ports)
    if direction == BY_TRANALYZER:
        return _originates_in_tranalyzer(packet)
    return direction != BY_SYN or packet["protocol"] != _TCP or sender_originates(packet)


@outline_kernel
def _originates_in_tranalyzer(packet: Any) -> Any:
    """Tranalyzer2's rule, by which the first packet goes in direction A unless it looks like an answer.

    It does from a well-known port to a higher one, from 8080 and its like (8080, 8081, 8088, 8089: bits 0 and 3 do not
    count), and with SYN+ACK. Identifiers of ICMP, which stand in place of ports here, are none to it.
    """
    if packet["protocol"] == _ICMP or packet["protocol"] == _ICMP6:
        return True
    source, target = U64(packet["src_port"]), U64(packet["dst_port"])
    if source < U64(1024) and source < target:
        return False
    if source & U64(0xFFF6) == U64(8080):
        return False
    return packet["protocol"] != _TCP or sender_originates(packet)


@outline_kernel
def _originates_by_ports(packet: Any, server_ports: Any) -> Any:
    """Whether the first sender is the originator, judged by ports where no SYN says it.

    A SYN's sender is. Otherwise the end with a server's port is the responder, and where both have one, the lower
    port; with UDP the first sender then stays, and where the first goes to all.
    """
    bit = U64(1) if packet["protocol"] == _TCP else U64(2)
    if packet["protocol"] != _TCP and packet["protocol"] != _UDP:
        return True
    if U64(server_ports[U64(packet["src_port"])]) & bit == U64(0):
        return True
    served = U64(server_ports[U64(packet["dst_port"])]) & bit != U64(0)
    if packet["protocol"] == _UDP:
        return served or (packet["dst_hi"] == 0 and packet["dst_lo"] == _BROADCAST)
    flags = U64(packet["flags"])
    if flags & U64(SYN | ACK) == U64(SYN):
        return True
    return served and packet["src_port"] >= packet["dst_port"]
