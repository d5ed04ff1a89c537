"""Peafowl's statistics of a flow: thirteen numbers a direction, read off a FLOW row.

A direction is outbound where it goes as the first packet of the flow went, inbound against it.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from traceflow.flows import ANALYSIS_FLAGS, NOT_SEEN_NS
from traceflow.tcp import FLAG_NAMES

__all__ = ["Direction", "Statistic", "statistic"]


class Direction(enum.IntEnum):
    """Whose packets are meant."""

    OUTBOUND = 0
    """Those of the sender of the first packet."""
    INBOUND = 1
    """Those of the other end."""


class Statistic(enum.IntEnum):
    """What can be asked of a direction."""

    PACKETS = 0
    """Packets."""
    BYTES = 1
    """Octets from the IP header on."""
    TIMESTAMP_FIRST = 2
    """Earliest time stamp, nanoseconds since 1970; None without packets."""
    TIMESTAMP_LAST = 3
    """Latest time stamp, likewise."""
    L4_TCP_RTT_SYN_ACK = 4
    """Outbound from SYN to SYN-ACK, inbound from SYN-ACK to its ACK, in nanoseconds; None where that was not seen."""
    L4_TCP_COUNT_SYN = 5
    """Segments with SYN."""
    L4_TCP_COUNT_FIN = 6
    """Segments with FIN."""
    L4_TCP_COUNT_RST = 7
    """Segments with RST."""
    L4_TCP_COUNT_RETRANSMISSIONS = 8
    """Segments that repeat what was seen."""
    L4_TCP_COUNT_ZERO_WINDOW = 9
    """Segments that offer no window."""
    L4_TCP_WINDOW_SCALING = 10
    """The window scale of its SYN; -1 without."""
    L7_PACKETS = 11
    """Packets with payload; None: FLOW rows do not count them."""
    L7_BYTES = 12
    """Octets of payload."""


_FLAGS = {
    Statistic.L4_TCP_COUNT_SYN: FLAG_NAMES.index("syn"),
    Statistic.L4_TCP_COUNT_FIN: FLAG_NAMES.index("fin"),
    Statistic.L4_TCP_COUNT_RST: FLAG_NAMES.index("rst"),
}
_COLUMNS = {
    Statistic.PACKETS: "packets",
    Statistic.BYTES: "ip_octets",
    Statistic.L7_BYTES: "payload_octets",
    Statistic.L4_TCP_COUNT_RETRANSMISSIONS: "retransmitted_segments",
}
_TIMES = {Statistic.TIMESTAMP_FIRST: "first_ns", Statistic.TIMESTAMP_LAST: "last_ns"}


def _orig_sent_first(row: Any) -> bool:
    orig, resp = row["orig"], row["resp"]
    return bool(orig["packets"] and (not resp["packets"] or orig["opened_frame"] < resp["opened_frame"]))


def statistic(row: np.void, statistic: Statistic, direction: Direction) -> int | None:
    """A statistic of a flow.

    Args:
        row: FLOW row.
        statistic: Which one.
        direction: Of whose packets.

    Returns:
        The value; None where it is not known.
    """
    from_orig = _orig_sent_first(row) == (direction == Direction.OUTBOUND)
    half = row["orig" if from_orig else "resp"]
    if statistic in _COLUMNS:
        return int(half[_COLUMNS[statistic]])
    if statistic in _FLAGS:
        return int(half["flags"][_FLAGS[statistic]])
    if statistic in _TIMES:
        return int(half[_TIMES[statistic]]) if half["packets"] else None
    if statistic is Statistic.L4_TCP_COUNT_ZERO_WINDOW:
        return int(half["analysed"]["counts"][ANALYSIS_FLAGS.index("zero_window")])
    if statistic is Statistic.L4_TCP_WINDOW_SCALING:
        return int(half["analysed"]["window_scale"])
    if statistic is Statistic.L4_TCP_RTT_SYN_ACK:
        value = int(row["syn_to_syn_ack_ns" if from_orig else "syn_ack_to_ack_ns"])
        return None if value == NOT_SEEN_NS else value
    return None
