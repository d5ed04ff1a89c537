"""TCP as the flow table sees it: flag bits, sequence arithmetic, and what SYN, FIN and RST mean for a boundary.

The only place that compares sequence numbers (modulo 2**32, RFC 9293 section 3.4) and the only place that
decides whether a segment opens or closes a flow. It keeps no state of its own: the state of a direction is a
HOT and a REST row (`live.py`), handed in. An illegal segment is an observation, never an error.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, SEQ_KNOWN

__all__ = [
    "ACK",
    "BASE_KNOWN",
    "CWR",
    "ECE",
    "FIN",
    "FIN_SEEN",
    "FLAG_NAMES",
    "MORE_THAN_SYN",
    "MOST_COUNTED",
    "PSH",
    "RST",
    "SYN",
    "URG",
    "comes_before",
    "count_common_flags",
    "count_flags",
    "count_one",
    "flag_text",
    "has_common_flags",
    "lies_after",
    "note_segment",
    "opens_new_flow",
    "sender_originates",
    "sequence_difference",
    "turns_direction",
]

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80

FLAG_NAMES = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
"""Names of the flags, least significant bit first (RFC 9293 section 3.1)."""

BASE_KNOWN = 1
"""Bit of HOT `bits`: `base_seq` holds a number."""
MORE_THAN_SYN = 2
"""Bit of HOT `bits`: the direction has sent a segment without SYN."""
FIN_SEEN = 4
"""Bit of HOT `bits`: the direction has sent a FIN."""

MOST_COUNTED = 2**32 - 1
"""What the counters of 32 bits in the rows of a direction stay at."""


def flag_text(flags: int) -> str:
    """Write TCP flags as letters, as tshark's `tcp.flags.str` orders them (`CEUAPRSF`, `.` for unset)."""
    return "".join(
        letter if flags & bit else "."
        for letter, bit in zip("CEUAPRSF", (CWR, ECE, URG, ACK, PSH, RST, SYN, FIN), strict=True)
    )


@inline_kernel
def sequence_difference(a: Any, b: Any) -> Any:
    """How far `a` lies after `b`, modulo 2**32: uint64 in 0..2**32-1."""
    return (U64(a) - U64(b)) & U64(0xFFFFFFFF)


@inline_kernel
def comes_before(a: Any, b: Any) -> Any:
    """Whether `a` lies before `b`: the shorter way from `a` to `b` goes upwards (RFC 9293 section 3.4)."""
    return sequence_difference(a, b) >> U64(31) != U64(0)


@inline_kernel
def lies_after(a: Any, b: Any) -> Any:
    """Whether `a` lies behind `b`."""
    return comes_before(b, a)


@inline_kernel
def count_one(count: Any, more: Any) -> Any:
    """A counter of 32 bits and one more, or none (`more` is 1 or 0): MOST_COUNTED at most, and without a branch."""
    return U64(count) + (more & U64(count != MOST_COUNTED))


@inline_kernel
def opens_new_flow(packet: Any, half: Any, closing: Any) -> Any:
    """Whether a segment opens a new flow although its key has a live one (flow-rules 4 and 5).

    Only a SYN without ACK does. With sequence numbers: if its number is not the base of its direction. Without
    (a packet handed to the engine with few fields, or a cut header): if its direction has sent more than
    SYNs, or has closed.

    Args:
        packet: PACKET row of the segment.
        half: HOT row of the direction that sends it.
        closing: True when a RST, or the FINs of both sides, were seen.

    Returns:
        True when the live flow ends before this segment.
    """
    if U64(packet["flags"]) & U64(SYN | ACK) != U64(SYN):
        return False
    bits = U64(half["bits"])
    if U64(packet["bits"]) & U64(SEQ_KNOWN):
        if bits & U64(BASE_KNOWN):
            return sequence_difference(packet["seq"], half["base_seq"]) != U64(0)
        if half["packets"] == U64(0):
            return False
    if half["packets"] == U64(0):
        return False
    return closing or bits & U64(MORE_THAN_SYN | FIN_SEEN) != U64(0)


@inline_kernel
def sender_originates(packet: Any) -> Any:
    """Whether the sender of the first segment of a flow is its originator: all but a SYN+ACK (flow-rules 2)."""
    return U64(packet["flags"]) & U64(SYN | ACK) != U64(SYN | ACK)


@inline_kernel
def turns_direction(packet: Any, rest: Any, other_rest: Any, from_originator: Any) -> Any:
    """Whether a segment shows that the originator was taken wrongly (flow-rules 2). Ask before `note_segment`.

    It does when the first SYN of the flow comes from the responder, or the first SYN+ACK from the originator.
    """
    flags = U64(packet["flags"])
    if flags & U64(SYN) == U64(0) or U64(packet["bits"]) & U64(SEQ_KNOWN) == U64(0):
        return False
    if rest["flags"][U64(1)] != U64(0) or other_rest["flags"][U64(1)] != U64(0):
        return False
    return from_originator == (flags & U64(ACK) != U64(0))


@inline_kernel
def has_common_flags(packet: Any) -> Any:
    """Whether a segment has ACK, perhaps PSH, and no other flag."""
    return (U64(packet["flags"]) ^ U64(ACK)) & U64(0xFF ^ PSH) == U64(0)


@inline_kernel
def count_common_flags(packet: Any, half: Any) -> Any:
    """Count PSH, all that there is to count of a segment with common flags, see `count_flags`."""
    half["psh"] += (U64(packet["flags"]) >> U64(3)) & U64(1)


@inline_kernel
def count_flags(packet: Any, half: Any, rest: Any) -> Any:
    """Count the flags of a segment; common ones touch `half` alone.

    A segment whose flags were not captured counts as one without any.

    Args:
        packet: PACKET row of the segment.
        half: HOT row of its sender; changed.
        rest: REST row of its sender; changed where anything but PSH and ACK is set, or ACK is not.
    """
    count_common_flags(packet, half)
    if not has_common_flags(packet):
        rare = (U64(packet["flags"]) ^ U64(ACK)) & U64(0xFF ^ PSH)
        counters = rest["flags"]
        # Segments without ACK are counted on where those with PSH would be, so that those with ACK follow exactly.
        counters[U64(3)] += (rare >> U64(4)) & U64(counters[U64(4)] == MOST_COUNTED)
        for bit in range(8):
            counters[U64(bit)] = count_one(counters[U64(bit)], (rare >> U64(bit)) & U64(1))


@inline_kernel
def note_segment(packet: Any, half: Any, other: Any) -> Any:
    """Note a segment in the state of both directions.

    The base of a direction is the number of its first segment, minus one if that was not a SYN; or the other
    side's first acknowledgment number minus one, if that was seen earlier.

    Args:
        packet: PACKET row of the segment.
        half: HOT row of its sender; changed.
        other: HOT row of its receiver; changed.

    Returns:
        (FIN seen from both sides now, RST seen in this segment).
    """
    known = U64(packet["bits"])
    flags = U64(packet["flags"])
    bits = U64(half["bits"])
    if known & U64(FLAGS_KNOWN):
        if known & U64(SEQ_KNOWN) and bits & U64(BASE_KNOWN) == U64(0):
            before = U64(0) if flags & U64(SYN) else U64(1)
            half["base_seq"] = sequence_difference(packet["seq"], before)
            bits |= U64(BASE_KNOWN)
        acknowledges = flags & U64(ACK) and known & U64(ACK_KNOWN)
        if acknowledges and U64(other["bits"]) & U64(BASE_KNOWN) == U64(0):
            other["base_seq"] = sequence_difference(packet["ack"], U64(1))
            other["bits"] = U64(other["bits"]) | U64(BASE_KNOWN)
        if flags & U64(SYN) == U64(0):
            bits |= U64(MORE_THAN_SYN)
        if flags & U64(FIN):
            bits |= U64(FIN_SEEN)
        half["bits"] = bits
    both = bits & U64(other["bits"]) & U64(FIN_SEEN) != U64(0)
    return both, flags & U64(RST) != U64(0)
