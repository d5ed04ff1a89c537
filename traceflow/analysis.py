"""What each TCP segment says of loss, order and windows: the flags of tshark's TCP analysis, handshake and round trips.

The definitions are those of the Wireshark User's Guide (section "TCP Analysis"), as tshark 4.0 applies them. Memory is
bounded: where tshark lists all segments that were not acknowledged, to time them, a direction has TIMED of them at
once; no flag depends on that list. Nothing here decides where a flow begins or ends. State is a row of ANALYSIS with
the index of the LIVE row; sequence numbers in it count from the base of their direction, so that the base is 0 and the
first octet of payload 1, and 0 as a highest number means none yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.flows import ANALYSIS_FLAGS, NOT_SEEN_NS
from traceflow.live import cache_line_rows
from traceflow.packets import (
    ACK_KNOWN,
    FLAGS_KNOWN,
    FRAGMENT,
    MSS_OPTION,
    SEQ_KNOWN,
    WHOLE_TCP_HEADER,
    WINDOW_SCALE_OPTION,
)
from traceflow.tcp import ACK, FIN, RST, SYN, comes_before, count_one, sequence_difference

__all__ = [
    "ANALYSIS",
    "COUNTED",
    "FIRST_IS_SYN",
    "HAS_RTT",
    "SENT_SYN",
    "SHIFT_UNKNOWN",
    "SMOOTH_OCTETS",
    "SPOKE",
    "add_ns",
    "analyse_segment",
    "analysis_rows",
    "analysis_text",
    "judge",
    "open_analysis",
    "shift_of",
]

(
    RETRANSMISSION, FAST_RETRANSMISSION, SPURIOUS_RETRANSMISSION, OUT_OF_ORDER, LOST_SEGMENT, ACK_LOST_SEGMENT,
    DUPLICATE_ACK, KEEP_ALIVE, KEEP_ALIVE_ACK, ZERO_WINDOW, ZERO_WINDOW_PROBE, ZERO_WINDOW_PROBE_ACK, WINDOW_UPDATE,
    WINDOW_FULL, REUSED_PORTS,
) = (1 << bit for bit in range(len(ANALYSIS_FLAGS)))  # fmt: skip

_WAYS, _SETS_BITS = 4, 1
TIMED = _WAYS << _SETS_BITS
"""Segments a direction times at once; others wait until one of them is acknowledged. A hash of the number behind a
segment says in which cache line it stands, in one of _WAYS places."""

_FAST_NS = 20_000_000  # a fast retransmission follows the last duplicate ACK within 20 ms (Wireshark User's Guide)
_REORDER_NS = 3_000_000  # out of order: within the round trip of the handshake, or 3 ms where it was not seen (same)
_LONGEST_NS = np.int64(2**63 - 1)
_MOST_SHIFT = 14  # RFC 7323 section 2.3
_NO_SHIFT, SHIFT_UNKNOWN = 254, 255
_LOSS_TOLD = 0xFFFFFFFF  # as many duplicate ACKs, for what asks whether there were two (tshark 4.0 has it so too)
_SPECIAL = SYN | FIN | RST
_NEEDED = SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN

# SIDE `bits`: it has sent a segment; its latest one has SYN; its first one had; a SYN of it was seen; `counts` holds
# numbers; it times a segment whose end had been acknowledged before; a round trip of it was timed; it has sent what can
# end a handshake.
SPOKE, _LAST_IS_SYN, FIRST_IS_SYN, SENT_SYN, COUNTED, _TIMED_AGAIN, HAS_RTT, _AT_START = (1 << b for b in range(8))

SIDE = np.dtype(
    [
        ("next_seq", "u4"),
        ("acked", "u4"),
        ("continuous", "u4"),
        ("duplicate_acks", "u4"),
        ("next_ns", "i8"),
        ("acked_ns", "i8"),
        ("rtt_min_ns", "i8"),
        ("rtt_max_ns", "i8"),
        ("window", "u2"),
        ("last_flags", "u2"),
        ("shift", "u1"),
        ("bits", "u1"),
        ("first_window", "u2"),
        ("mss", "u2"),
        ("window_scale", "u1"),
        ("options", "u1"),
        ("timed", "u1"),
    ],
    align=True,
)
"""What a direction has sent: one cache line, which every segment of either direction touches.

- `next_seq`: behind the highest number sent; `next_ns`: when that was sent.
- `acked`, `acked_ns`, `window`: acknowledgment number, time and window of its latest segment.
- `continuous`: behind the highest number sent without a gap.
- `duplicate_acks`: how many repeat its latest acknowledgment number; _LOSS_TOLD: see `_judge_unseen`.
- `last_flags`: flags of its latest segment.
- `shift`: window scale, or _NO_SHIFT, SHIFT_UNKNOWN.
- `timed`: which TIMING of it are in use, one bit each; the others hold anything.
- `mss`, `window_scale`, `options`: of its latest SYN, as in PACKET; the first two of the latest that had them.
"""

TIMING = np.dtype(
    [("ns", "i8", (_WAYS,)), ("ends", "u4", (_WAYS,)), ("rtt_sum_ns", "i8"), ("rtt_samples", "u8")], align=True
)
"""Round trips of some segments of a direction: one cache line, touched by new payload and by its acknowledgment.

`ends`, `ns`: numbers behind segments that wait for their ACK (0: free), and when those were sent.
"""

_TIMINGS = np.dtype((TIMING, (1 << _SETS_BITS,)))
_COUNTS = np.dtype(("u4", (len(ANALYSIS_FLAGS),)))

ANALYSIS = np.dtype(
    {
        "names": [
            *("low", "high", "low_timing", "high_timing", "low_counts", "high_counts"),
            *("syn_ns", "syn_ack_ns", "first_rtt_ns", "syn_to_syn_ack_ns", "syn_ack_to_ack_ns"),
        ],
        "formats": [SIDE, SIDE, _TIMINGS, _TIMINGS, _COUNTS, _COUNTS, *5 * ("i8",)],
        "offsets": [0, 64, 128, 256, 384, 448, 512, 520, 528, 536, 544],
        "itemsize": 576,
        "aligned": True,
    }
)
"""Analysis of a live flow: its ends as in LIVE, times of the handshake (or NOT_SEEN_NS).

Most segments touch three cache lines: both of SIDE, and one of TIMING; whoever wants a row in the cache before it is
needed asks for its first 384 octets. `first_rtt_ns`: from the latest SYN to the ACK that ends the handshake (tshark's
initial RTT). A row holds anything until `open_analysis`, TIMING and counts until they are first used.
"""

SMOOTH_OCTETS = 384
"""Of an ANALYSIS row: what a smooth segment may touch."""


def analysis_rows(count: int) -> npt.NDArray[np.void]:
    """ANALYSIS[count], all zero, the first row at the start of a cache line; see `open_analysis`."""
    return cache_line_rows(count, ANALYSIS)


def analysis_text(flags: int) -> str:
    """Write the flags of a segment as names, joined by `|`."""
    return "|".join(name for bit, name in enumerate(ANALYSIS_FLAGS) if flags >> bit & 1)


@inline_kernel
def add_ns(a: Any, b: Any) -> Any:
    """Sum of two times, kept within +-(2**63 - 1): the ends of the range lie 2**63 apart, and sums have no end."""
    if b > 0 and a > _LONGEST_NS - b:
        return _LONGEST_NS
    if b < 0 and a < -_LONGEST_NS - b:
        return -_LONGEST_NS
    return a + b


@outline_kernel
def open_analysis(deep: Any) -> Any:
    """Make a row ready for a new flow: only what is read before it is written."""
    _open_side(deep["low"])
    _open_side(deep["high"])
    deep["syn_ns"] = NOT_SEEN_NS
    deep["syn_ack_ns"] = NOT_SEEN_NS
    deep["first_rtt_ns"] = NOT_SEEN_NS
    deep["syn_to_syn_ack_ns"] = NOT_SEEN_NS
    deep["syn_ack_to_ack_ns"] = NOT_SEEN_NS


@outline_kernel
def _open_side(side: Any) -> Any:
    side["next_seq"] = 0
    side["acked"] = 0
    side["continuous"] = 0
    side["duplicate_acks"] = 0
    side["window"] = 0
    side["last_flags"] = 0
    side["shift"] = SHIFT_UNKNOWN
    side["bits"] = 0
    side["mss"] = 0
    side["timed"] = 0
    side["options"] = 0


@outline_kernel
def _note_syn(packet: Any, near: Any, far: Any, deep: Any, time_ns: Any) -> Any:
    """Note options and time of a SYN or SYN+ACK. Scales hold only where both ends offer one (RFC 7323 section 2.2)."""
    options = U64(packet["options"])
    near["bits"] = U64(near["bits"]) | U64(_LAST_IS_SYN | SENT_SYN)
    had = U64(near["options"]) & U64(MSS_OPTION | WINDOW_SCALE_OPTION)
    near["options"] = options | had
    if options & U64(MSS_OPTION):
        near["mss"] = packet["mss"]
    if options & U64(WINDOW_SCALE_OPTION):
        near["window_scale"] = packet["window_scale"]
        if near["shift"] != _NO_SHIFT:
            near["shift"] = min(U64(packet["window_scale"]), U64(_MOST_SHIFT))
    else:
        near["shift"] = _NO_SHIFT
        far["shift"] = _NO_SHIFT
    if U64(packet["flags"]) & U64(ACK) == U64(0):
        deep["syn_ns"] = time_ns
    else:
        deep["syn_ack_ns"] = time_ns
        if deep["syn_ns"] != NOT_SEEN_NS and deep["syn_to_syn_ack_ns"] == NOT_SEEN_NS:
            deep["syn_to_syn_ack_ns"] = add_ns(time_ns, -deep["syn_ns"])


@outline_kernel
def _end_handshake(deep: Any, time_ns: Any) -> Any:
    """Note the ACK that ends the handshake."""
    if deep["syn_ack_to_ack_ns"] == NOT_SEEN_NS and deep["syn_ack_ns"] != NOT_SEEN_NS:
        deep["syn_ack_to_ack_ns"] = add_ns(time_ns, -deep["syn_ack_ns"])
        if deep["syn_ns"] != NOT_SEEN_NS and deep["syn_ns"] != 0:  # tshark takes the time 0 for none
            deep["first_rtt_ns"] = add_ns(time_ns, -deep["syn_ns"])


@outline_kernel
def _note_first(packet: Any, near: Any) -> Any:
    """Note the first segment of a direction."""
    syn = U64(packet["flags"]) & U64(SYN) != U64(0)
    near["bits"] = U64(near["bits"]) | (U64(SPOKE | FIRST_IS_SYN) if syn else U64(SPOKE))
    near["first_window"] = packet["window"]


@inline_kernel
def shift_of(side: Any) -> Any:
    """By how many bits the latest window of a direction is to be shifted."""
    shift = U64(side["shift"])
    return U64(0) if shift > U64(_MOST_SHIFT) or U64(side["bits"]) & U64(_LAST_IS_SYN) else shift


@inline_kernel
def _fills_window(far: Any, end: Any) -> Any:
    """Whether the number behind a segment is the end of the window of the other end."""
    room = U64(far["acked"]) + (U64(far["window"]) << shift_of(far))
    return sequence_difference(end, room) == U64(0) and U64(far["shift"]) != U64(SHIFT_UNKNOWN)


@inline_kernel
def _look_of_empty(near: Any, far: Any, seq: Any, ack: Any, window: Any) -> Any:
    """Flags of a segment without payload and without SYN, FIN and RST that stands at the next number."""
    same = ack == U64(near["acked"])
    last = U64(far["last_flags"])
    if window != U64(near["window"]):
        return U64(WINDOW_UPDATE) if same and window != U64(0) else U64(0)
    if window == U64(0):
        more = ack == sequence_difference(near["acked"], U64(0xFFFFFFFF))  # one octet more: it took the probe
        return U64(ZERO_WINDOW_PROBE_ACK) if (same or more) and last & U64(ZERO_WINDOW_PROBE) else U64(0)
    if not same:
        return U64(0)
    if last & U64(KEEP_ALIVE):
        return U64(KEEP_ALIVE_ACK)
    return U64(DUPLICATE_ACK) if ack != U64(0) else U64(0)


@inline_kernel
def _look(packet: Any, near: Any, far: Any, seq: Any, ack: Any, length: Any) -> Any:
    """What a segment shows by itself: windows, probes, keep-alives, a gap before it."""
    flags, window = U64(packet["flags"]), U64(packet["window"])
    next_seq = U64(near["next_seq"])
    heard = U64(far["bits"]) & U64(SPOKE) != U64(0)
    if length == U64(1) and seq == next_seq and heard and U64(far["window"]) == U64(0):
        return U64(ZERO_WINDOW_PROBE)
    plain = flags & U64(_SPECIAL) == U64(0)
    found = U64(0)
    if next_seq != U64(0) and comes_before(next_seq, seq) and flags & U64(RST) == U64(0):
        found |= U64(LOST_SEGMENT)
    if not plain:
        return found
    if window == U64(0):
        found |= U64(ZERO_WINDOW)
    if length <= U64(1) and sequence_difference(next_seq, seq) == U64(1):
        found |= U64(KEEP_ALIVE)
    if length == U64(0):
        if seq == next_seq and next_seq != U64(0):
            found |= _look_of_empty(near, far, seq, ack, window)
    elif heard and _fills_window(far, seq + length):
        found |= U64(WINDOW_FULL)
    return found


@inline_kernel
def _judge_unseen(far: Any) -> Any:
    """Whether an ACK of what was not seen is the first to tell so.

    Where all that was seen is acknowledged, it is told once, until the other end changes its acknowledgment number.
    """
    if U64(far["continuous"]) != U64(far["next_seq"]):
        far["continuous"] = far["next_seq"]
        return U64(ACK_LOST_SEGMENT)
    told = U64(far["duplicate_acks"]) != U64(0)
    far["duplicate_acks"] = _LOSS_TOLD
    return U64(0) if told else U64(ACK_LOST_SEGMENT)


@outline_kernel
def _judge_late(packet: Any, near: Any, far: Any, deep: Any, seq: Any, length: Any, time_ns: Any) -> Any:
    """Which kind of retransmission, or out of order, a segment is that was acknowledged, or lies below the highest."""
    phantom = U64(1) if U64(packet["flags"]) & U64(SYN | FIN) else U64(0)
    answered = U64(far["bits"]) & U64(SPOKE) != U64(0)
    if length > U64(0) and answered and not comes_before(far["acked"], seq + length):
        return U64(RETRANSMISSION | SPURIOUS_RETRANSMISSION)
    behind = sequence_difference(near["next_seq"], seq)
    if length > U64(1) and behind == U64(1):  # the octet before it may have been a window probe
        return U64(0)
    if U64(near["next_seq"]) == U64(0) or not comes_before(seq, near["next_seq"]):
        return U64(0)
    since_ns = add_ns(time_ns, -far["acked_ns"])
    if U64(far["duplicate_acks"]) >= U64(2) and U64(far["acked"]) == seq and 0 <= since_ns < _FAST_NS:
        return U64(RETRANSMISSION | FAST_RETRANSMISSION)
    limit_ns = _REORDER_NS if deep["first_rtt_ns"] <= 0 else deep["first_rtt_ns"]
    end = sequence_difference(seq + length + phantom, U64(0))
    if 0 <= add_ns(time_ns, -near["next_ns"]) < limit_ns and end != U64(near["next_seq"]):
        return U64(OUT_OF_ORDER)
    return U64(RETRANSMISSION)


@inline_kernel
def _line_of(end: Any) -> Any:
    """Which TIMING a segment belongs to: a multiplicative hash of the number behind it."""
    return ((end * U64(0x9E3779B1)) & U64(0xFFFFFFFF)) >> U64(32 - _SETS_BITS)


@outline_kernel
def _open_timing(near: Any, timing: Any, bit: Any) -> Any:
    """Take a TIMING into use."""
    near["timed"] = U64(near["timed"]) | bit
    timing["rtt_samples"] = 0
    timing["rtt_sum_ns"] = 0
    for way in range(_WAYS):
        timing["ends"][U64(way)] = 0


@outline_kernel
def _is_timed(near: Any, timings: Any, end: Any) -> Any:
    """Whether a segment that is sent again is waited for since its first time."""
    line = _line_of(end)
    if (U64(near["timed"]) >> line) & U64(1) == U64(0):
        return False
    waited = False
    for way in range(_WAYS):
        waited |= U64(timings[line]["ends"][U64(way)]) == end
    return waited


@inline_kernel
def _start_timing(near: Any, timings: Any, acked: Any, end: Any, time_ns: Any) -> Any:
    """Begin to wait for the ACK of a segment if there is a place for it."""
    line = _line_of(end)
    timing = timings[line]
    if (U64(near["timed"]) >> line) & U64(1) == U64(0):
        _open_timing(near, timing, U64(1) << line)
    for place in range(_WAYS):
        way = U64(place)
        waiting = U64(timing["ends"][way])
        if waiting == U64(0) or not comes_before(acked, waiting):
            timing["ends"][way] = end
            timing["ns"][way] = time_ns
            return


@inline_kernel
def _stop_timing(far: Any, timings: Any, ack: Any, time_ns: Any) -> Any:
    """Take the time of the segment of the other end that `ack` acknowledges to its last octet."""
    line = _line_of(ack)
    if (U64(far["timed"]) >> line) & U64(1) == U64(0) or ack == U64(0):
        return
    timing = timings[line]
    for place in range(_WAYS):
        way = U64(place)
        if U64(timing["ends"][way]) == ack:
            timing["ends"][way] = 0
            rtt_ns = add_ns(time_ns, -timing["ns"][way])
            first = U64(far["bits"]) & U64(HAS_RTT) == U64(0)
            far["bits"] = U64(far["bits"]) | U64(HAS_RTT)
            if first or rtt_ns < far["rtt_min_ns"]:
                far["rtt_min_ns"] = rtt_ns
            if first or rtt_ns > far["rtt_max_ns"]:
                far["rtt_max_ns"] = rtt_ns
            timing["rtt_samples"] += U64(1)
            timing["rtt_sum_ns"] = add_ns(timing["rtt_sum_ns"], rtt_ns)
            return


@outline_kernel
def _count_analysis(near: Any, counts: Any, found: Any) -> Any:
    """Count the flags of a segment for its sender."""
    if U64(near["bits"]) & U64(COUNTED) == U64(0):
        near["bits"] = U64(near["bits"]) | U64(COUNTED)
        for bit in range(len(ANALYSIS_FLAGS)):
            counts[U64(bit)] = 0
    for bit in range(len(ANALYSIS_FLAGS)):
        counts[U64(bit)] = count_one(counts[U64(bit)], (found >> U64(bit)) & U64(1))


@inline_kernel
def _advance(packet: Any, near: Any, far: Any, timings: Any, seq: Any, length: Any, found: Any, time_ns: Any) -> Any:
    """Move what the direction has sent."""
    phantom = U64(1) if U64(packet["flags"]) & U64(SYN | FIN) else U64(0)
    extent = length + phantom
    end = sequence_difference(seq + extent, U64(0))
    next_seq = U64(near["next_seq"])
    if found & U64(ZERO_WINDOW_PROBE):
        return
    if extent != U64(0):
        if not (comes_before(seq, next_seq) and _is_timed(near, timings, end)):
            _start_timing(near, timings, U64(far["acked"]), end, time_ns)
        if not comes_before(far["acked"], end):
            near["bits"] = U64(near["bits"]) | U64(_TIMED_AGAIN)
    if U64(near["continuous"]) == U64(0):
        near["continuous"] = next_seq
    if next_seq == U64(0) or comes_before(next_seq, end):
        near["next_seq"] = end
        near["next_ns"] = time_ns
    if U64(near["continuous"]) == seq or next_seq == U64(0):
        near["continuous"] = near["next_seq"]


@inline_kernel
def _is_smooth(packet: Any, near: Any, far: Any, seq: Any, ack: Any, length: Any) -> Any:
    """Whether nothing can be said of a segment: it follows the one before, and acknowledges what was seen.

    `judge` would find no flag for it, and `_pass_smoothly` does to the state what `judge` would do.
    """
    if U64(packet["flags"]) & U64(_SPECIAL | ACK) != U64(ACK) or packet["window"] == 0:
        return False
    if seq != U64(near["next_seq"]) or seq == U64(0) or U64(near["bits"]) & U64(_LAST_IS_SYN):
        return False
    if far["continuous"] != 0 and comes_before(far["continuous"], ack):
        return False
    if ack == U64(near["acked"]) and (length == U64(0) or U64(far["bits"]) & U64(_TIMED_AGAIN)):
        return False
    if seq + ack == U64(2) and U64(near["bits"]) & U64(_AT_START) == U64(0):  # both 1: it may end the handshake
        return False
    if length == U64(0):
        return True
    if far["window"] == 0 and U64(far["bits"]) & U64(SPOKE):
        return False
    return comes_before(far["acked"], seq + length) and not _fills_window(far, seq + length)


@inline_kernel
def _pass_smoothly(
    packet: Any, near: Any, far: Any, deep: Any, upside: Any, ack: Any, length: Any, time_ns: Any
) -> Any:
    """Note a smooth segment."""
    if length != U64(0):
        end = sequence_difference(U64(near["next_seq"]) + length, U64(0))
        _start_timing(near, deep["high_timing"] if upside else deep["low_timing"], U64(far["acked"]), end, time_ns)
        if near["continuous"] == near["next_seq"] or near["continuous"] == 0:
            near["continuous"] = end
        near["next_seq"] = end
        near["next_ns"] = time_ns
    elif near["continuous"] == 0:
        near["continuous"] = near["next_seq"]
    if ack != U64(near["acked"]):
        near["duplicate_acks"] = 0
        if U64(far["bits"]) & U64(SPOKE) and not comes_before(ack, near["acked"]):
            _stop_timing(far, deep["low_timing"] if upside else deep["high_timing"], ack, time_ns)
            far["bits"] = U64(far["bits"]) & U64(0xFF ^ _TIMED_AGAIN)
        near["acked"] = ack
    near["acked_ns"] = time_ns
    near["window"] = packet["window"]
    near["last_flags"] = 0


@inline_kernel
def analyse_segment(
    frame: Any, packet: Any, half: Any, other: Any, deep: Any, upside: Any, reused: Any, mark: Any
) -> Any:
    """Judge a segment, count its flags, and note it in the state of both directions.

    Args:
        frame: FRAME row.
        packet: PACKET row of the segment.
        half: HOT row of its sender, after `note_segment`.
        other: HOT row of its receiver.
        deep: ANALYSIS row of its flow; changed.
        upside: Whether the sender is the upper end.
        reused: Whether it is a SYN that opened a flow in place of another one.
        mark: MARK row of the frame; `analysis` and `duplicate_ack` are filled.
    """
    if U64(packet["bits"]) & U64(_NEEDED) != U64(_NEEDED):
        return
    if U64(packet["options"]) & U64(WHOLE_TCP_HEADER) == U64(0):
        return
    if U64(packet["bits"]) & U64(FRAGMENT) and packet["fragment_at"] >= packet["link_octets"]:
        return  # nothing tells how long the segment is; where a tunnel's datagram is in fragments, what is here counts
    length = U64(packet["payload_octets"])
    near = deep["high"] if upside else deep["low"]
    far = deep["low"] if upside else deep["high"]
    seq = sequence_difference(packet["seq"], half["base_seq"])
    acks = U64(packet["flags"]) & U64(ACK) != U64(0)
    ack = sequence_difference(packet["ack"], other["base_seq"]) if acks else U64(0)
    if _is_smooth(packet, near, far, seq, ack, length):
        _pass_smoothly(packet, near, far, deep, upside, ack, length, frame["time_ns"])
    else:
        again = U64(1) if reused else U64(0)  # one type, whether it is known or not: compiled once
        judge(packet, deep, upside, again, seq, ack, length, frame["time_ns"], mark)


@outline_kernel
def judge(
    packet: Any, deep: Any, upside: Any, reused: Any, seq: Any, ack: Any, length: Any, time_ns: Any, mark: Any
) -> Any:
    """Judge and note any segment; arguments as above."""
    near = deep["high"] if upside else deep["low"]
    far = deep["low"] if upside else deep["high"]
    timings = deep["high_timing"] if upside else deep["low_timing"]
    flags = U64(packet["flags"])
    acks = flags & U64(ACK) != U64(0)
    if U64(near["bits"]) & U64(SPOKE) == U64(0):
        _note_first(packet, near)
    found = _look(packet, near, far, seq, ack, length)
    if found & U64(DUPLICATE_ACK):
        told = U64(near["duplicate_acks"])
        near["duplicate_acks"] = U64(1) if told == U64(_LOSS_TOLD) else told + U64(1)
        mark["duplicate_ack"] = near["duplicate_acks"]
    elif found & U64(ZERO_WINDOW_PROBE_ACK) and ack != U64(near["acked"]):
        far["next_seq"] = ack
        far["continuous"] = ack
    if ack != U64(near["acked"]):
        near["duplicate_acks"] = 0
    if acks and U64(far["continuous"]) != U64(0) and comes_before(far["continuous"], ack):
        found |= _judge_unseen(far)
    fills = length != U64(0) or flags & U64(SYN | FIN) != U64(0)
    if fills and found & U64(KEEP_ALIVE) == U64(0):
        found |= _judge_late(packet, near, far, deep, seq, length, time_ns)
    if reused != U64(0) or (flags & U64(SYN | ACK) == U64(SYN | ACK) and seq != U64(0)):
        found |= U64(REUSED_PORTS)
    _advance(packet, near, far, timings, seq, length, found, time_ns)
    if acks:
        if U64(far["bits"]) & U64(SPOKE) and not comes_before(ack, near["acked"]):
            _stop_timing(far, deep["low_timing"] if upside else deep["high_timing"], ack, time_ns)
            far["bits"] = U64(far["bits"]) & U64(0xFF ^ _TIMED_AGAIN)
        if flags & U64(_SPECIAL) == U64(0) and seq == U64(1) and ack == U64(1):
            near["bits"] = U64(near["bits"]) | U64(_AT_START)
            _end_handshake(deep, time_ns)
    near["acked"] = ack
    near["acked_ns"] = time_ns
    near["window"] = packet["window"]
    near["last_flags"] = found
    near["bits"] = U64(near["bits"]) & U64(0xFF ^ _LAST_IS_SYN)
    if flags & U64(SYN):
        _note_syn(packet, near, far, deep, time_ns)
    if found != U64(0):
        mark["analysis"] = found
        _count_analysis(near, deep["high_counts"] if upside else deep["low_counts"], found)
