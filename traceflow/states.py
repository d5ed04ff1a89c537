"""TCP connection state and history of a flow, with Zeek's definitions: one transition table, and what surrounds it.

Every end of a connection is in one of seven states, and each segment moves them: `_MOVES` below is the table, and the
only place that knows it. From the states at the end follows `conn_state` (connstates.py), from what was seen on the
way the letters of `history`. Sources of the definitions: RFC 9293 for segments, the documentation of Zeek's
`conn.log` for both columns.
Nothing here decides where a flow begins or ends; it says what is known (`timing`, `reopens`) and `table.py` decides.

Most segments are data or acknowledgments in order, which change nothing but a sequence number: they are done in a few
comparisons (`follow_segment`). All others take the long way (`_follow_rare`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.holes import ISLANDS, land, receive
from traceflow.packets import ACK_KNOWN, BAD_CHECKSUM, FLAGS_KNOWN, SEQ_KNOWN, WINDOW_KNOWN
from traceflow.tcp import ACK, FIN, RST, SYN, lies_after, sequence_difference

__all__ = [
    "CLOSED",
    "CLOSING",
    "DATA_SEEN",
    "ESTABLISHED",
    "HAS_FIN",
    "HISTORY_OCTETS",
    "INACTIVE",
    "PARTIAL",
    "RESET",
    "SIDE",
    "SYN_ACK_SENT",
    "SYN_SENT",
    "TIMINGS",
    "add_turn",
    "finished",
    "follow_datagram",
    "follow_segment",
    "reopens",
]


# States of an end. RESET_AFTER_FIN is Zeek's `reset` too: a RST after a FIN, which the other side's FIN makes good.
INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, CLOSED, RESET, RESET_AFTER_FIN = range(8)
_LETTERS = "ISHPECRr"  # the states above in `_MOVES`

# What a segment is to the table. SYN_KNOWN: a SYN whose number the other side has acknowledged before it came.
_SYN, _SYN_ACK, _SYN_KNOWN, _FIN, _RST, _PURE_ACK, _DATA, _BARE = range(8)
_EVENTS = ("syn", "syn+ack", "known syn", "fin", "rst", "ack", "data", "bare")

_MOVES = (
    # event, sender, its state, the other's state, its next state, the other's next state (= as it was)
    ("syn, known syn", "orig", "I", "ISHPECRr", "S", "="),
    ("known syn", "orig", "I", "E", "E", "="),  # the SYN+ACK stands before the SYN in the capture
    ("syn+ack", "orig", "I", "ISHPECRr", "H", "="),
    ("syn, syn+ack, known syn", "resp", "I", "S", "E", "E"),
    ("syn, syn+ack, known syn", "resp", "I", "IHPECRr", "E", "="),
    ("known syn", "resp", "I", "H", "E", "E"),  # the same, where the sender of the SYN+ACK was taken for originator
    ("syn, known syn", "orig resp", "P", "I", "S", "="),
    ("fin", "orig resp", "ISHPE", "ISHPECR", "C", "="),
    ("fin", "orig resp", "ISH", "r", "C", "="),
    ("fin", "orig resp", "PE", "r", "C", "C"),
    ("rst", "orig resp", "ISHPE", "ISHPECRr", "R", "="),
    ("rst", "orig resp", "C", "ISHPERr", "r", "="),
    ("ack", "orig resp", "I", "E", "E", "="),  # only the SYN was missed
    ("data", "orig resp", "I", "E", "E", "="),
    ("ack", "orig resp", "I", "IHPCRr", "P", "="),
    ("ack", "orig", "I", "S", "P", "="),  # of the responder it is no reason: some acknowledge before their SYN
    ("data", "orig resp", "I", "ISHPCRr", "P", "="),
    ("bare", "orig resp", "I", "IHPECRr", "P", "="),
    ("bare", "orig", "I", "S", "P", "="),
)


def _table() -> npt.NDArray[np.uint8]:
    """uint8[1024]: (event, sender is responder, its state, the other's state) to (its next | the other's next << 3)."""
    own, other = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    moves = np.broadcast_to(own | other << 3, (len(_EVENTS), 2, 8, 8)).astype(np.uint8)
    for events, senders, mine, others, next_own, next_other in _MOVES:
        for event in events.split(", "):
            for sender in senders.split():
                for a in mine:
                    for b in others:
                        after = b if next_other == "=" else next_other
                        place = (_EVENTS.index(event), int(sender == "resp"), _LETTERS.index(a), _LETTERS.index(b))
                        moves[place] = _LETTERS.index(next_own) | _LETTERS.index(after) << 3
    return moves.reshape(-1)


_TABLE = _table()

HISTORY_OCTETS = 48
"""Letters that a history holds; where there were more, the last one is `+`."""

SIDE = np.dtype(
    [
        ("start_seq", "u4"),  # number of the SYN, or what it must have been
        ("next_seq", "u4"),  # all octets before it were seen, or missed for good
        ("acked_seq", "u4"),  # acknowledged by the other side, as far as it lies behind `last_seq` of HOT
        ("fin_seq", "u4"),  # behind the FIN
        ("last_syn", "u4"),  # relative numbers of the last SYN, FIN, RST, for their repetition
        ("last_fin", "u4"),
        ("last_rst", "u4"),
        ("checksums", "u4"),  # counters of the letters C, G, T, W
        ("gaps", "u4"),
        ("repeats", "u4"),
        ("zero_windows", "u4"),
        ("islands", "u4", (2 * ISLANDS,)),  # (first, behind the last) of data behind a hole, in order
        ("state", "u1"),
        ("letters", "u1"),  # letters seen
        ("bits", "u1"),
        ("island_count", "u1"),
    ],
    align=True,
)
"""State of one direction apart from what HOT holds: one cache line, touched by the segments of the long way."""

# `smooth` of HOT. READY: data in order and acknowledgments change nothing but `last_seq`.
_READY, _ACK_SEEN, DATA_SEEN = 1, 2, 4

# `letters` of SIDE: the letters that are written once, or compared with the last of their kind.
_SAW_SYN, _SAW_FIN, _SAW_RST, _SAW_BOTH_ENDS, _SAW_MANY = 1, 2, 4, 8, 16

# `bits` of SIDE.
_SPOKE = 1  # the side has sent a segment
_START_GUESSED = 2  # `start_seq` comes from an acknowledgment
_CLEAN = 4  # it was established before it closed
HAS_FIN = 8
_RESET_FIRST = 16  # a RST was the first it sent

TIMINGS = ("other", "idle", "closed", "attempt", "handshake")
"""Which timeout holds for a flow, `timing` of HOT: the places in the table's list of timeouts.

`other`: another protocol; `idle`: TCP; `closed`: the linger time; `attempt`: nothing but a SYN of the originator;
`handshake`: nothing but SYNs otherwise.
"""
_IDLE, CLOSING, _ATTEMPT, _HANDSHAKE = U64(1), U64(2), U64(3), U64(4)

_HALF = U64(0x80000000)
_MASK = U64(0xFFFFFFFF)
_FAR = U64(1 << 20)  # Zeek doubts numbers of SYN and RST that lie further away
_ALL_KNOWN = SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN | WINDOW_KNOWN
_LOWER = 0x20


@outline_kernel
def _add(flow: Any, letter: Any) -> Any:
    """Write a letter into the history."""
    count = U64(flow["letters"])
    if count < U64(HISTORY_OCTETS):
        flow["history"][count] = letter
        flow["letters"] = count + U64(1)
    else:
        flow["history"][U64(HISTORY_OCTETS - 1)] = ord("+")


@outline_kernel
def add_turn(flow: Any) -> Any:
    """Write `^`: the originator is not who sent first."""
    _add(flow, U64(ord("^")))


@inline_kernel
def _is_power_of_ten(count: Any) -> Any:
    """Whether the `count`th of its kind is written: the first, the tenth, the hundredth, ..."""
    while count >= U64(10) and count % U64(10) == U64(0):
        count //= U64(10)
    return count == U64(1)


@inline_kernel
def follow_segment(packet: Any, flow: Any, half: Any, other: Any, upside: Any, by_syn: Any) -> Any:
    """Let a TCP segment change the states and the history of its flow.

    Args:
        packet: PACKET row.
        flow: LIVE row, its direction as known now; changed.
        half: HOT row of the sender; changed.
        other: HOT row of the receiver; changed.
        upside: True where the upper end sent it.
        by_syn: True where SYNs have decided who is the originator; else the reversal is found here, as Zeek does.
    """
    if U64(packet["flags"]) & U64(SYN | FIN | RST | ACK) == U64(ACK):
        octets = U64(packet["payload_octets"])
        needed = U64(_READY | DATA_SEEN) if octets else U64(_READY | _ACK_SEEN)
        if (
            U64(half["smooth"]) & needed == needed
            and packet["seq"] == half["last_seq"]
            and packet["window"] != 0
            and U64(packet["bits"]) & U64(_ALL_KNOWN | BAD_CHECKSUM) == U64(_ALL_KNOWN)
            and sequence_difference(other["last_seq"], packet["ack"]) < _HALF
        ):
            half["last_seq"] = (U64(packet["seq"]) + octets) & _MASK
            return
    _follow_rare(packet, flow, half, other, upside, by_syn)


@inline_kernel
def follow_datagram(packet: Any, flow: Any, half: Any, upside: Any) -> Any:
    """Let a UDP datagram change the history of its flow: D and d, once for each side, and C and c."""
    if U64(half["smooth"]) & U64(DATA_SEEN) == U64(0) or U64(packet["bits"]) & U64(BAD_CHECKSUM):
        case = U64(0) if upside == (flow["upper_originates"] != 0) else U64(_LOWER)
        side = flow["high_side"] if upside else flow["low_side"]
        if U64(packet["bits"]) & U64(BAD_CHECKSUM):
            _checksum(flow, side, case)
        else:
            half["smooth"] = U64(half["smooth"]) | U64(DATA_SEEN)
            _add(flow, U64(ord("D")) | case)


@outline_kernel
def _checksum(flow: Any, side: Any, case: Any) -> Any:
    side["checksums"] += U64(1)
    if _is_power_of_ten(U64(side["checksums"])):
        _add(flow, U64(ord("C")) | case)


@outline_kernel
def _follow_rare(packet: Any, flow: Any, half: Any, other: Any, upside: Any, by_syn: Any) -> Any:
    """The long way of `follow_segment`."""
    side = flow["high_side"] if upside else flow["low_side"]
    peer = flow["low_side"] if upside else flow["high_side"]
    originates = upside == (flow["upper_originates"] != 0)
    case = U64(0) if originates else U64(_LOWER)
    known = U64(packet["bits"])
    if known & U64(BAD_CHECKSUM):
        _checksum(flow, side, case)
        return
    if known & U64(FLAGS_KNOWN) == U64(0):
        return
    flags = U64(packet["flags"])
    octets = U64(packet["payload_octets"])
    seq = U64(packet["seq"]) if known & U64(SEQ_KNOWN) else U64(half["last_seq"])
    taken = U64(0) if flags & U64(RST) else octets  # data of a RST is no part of the stream
    if flags & U64(SYN):
        taken += U64(1)
    if flags & U64(FIN):
        taken += U64(1)
    behind = (seq + taken) & _MASK
    state, peer_state = U64(side["state"]), U64(peer["state"])
    _catch_up(half, side)
    _catch_up(other, peer)

    _note_partial(flow, side, flags, originates)
    event = _event(flags, octets)
    guessed = U64(side["bits"]) & U64(_START_GUESSED) != U64(0)
    if event == U64(_SYN) and state == U64(INACTIVE) and guessed and seq == U64(side["start_seq"]):
        event = U64(_SYN_KNOWN)
    _begin(half, side, flags, seq)
    before = sequence_difference(seq, side["start_seq"]) >= _HALF and half["payload_octets"] < _HALF
    _write_letters(flow, half, side, flags, sequence_difference(seq, side["start_seq"]), octets, case)
    zero_window = packet["window"] == 0 and known & U64(WINDOW_KNOWN) != U64(0)
    if zero_window and flags & U64(RST) == U64(0) and peer_state != U64(CLOSED) and state < U64(RESET):
        side["zero_windows"] += U64(1)
        if _is_power_of_ten(U64(side["zero_windows"])):
            _add(flow, U64(ord("W")) | case)
    if flags & U64(FIN):
        side["bits"] = U64(side["bits"]) | U64(HAS_FIN)
        side["fin_seq"] = behind
    acknowledges = flags & U64(ACK) != U64(0) and known & U64(ACK_KNOWN) != U64(0)
    ack = U64(packet["ack"])
    if acknowledges:
        if peer_state == U64(INACTIVE):
            peer["start_seq"] = sequence_difference(ack, U64(1))
            peer["acked_seq"] = peer["start_seq"]
            peer["next_seq"] = ack
            peer["bits"] = U64(peer["bits"]) | U64(_START_GUESSED)
            other["last_seq"] = peer["start_seq"]
            acknowledges = False
        elif sequence_difference(ack, peer["start_seq"]) >= _HALF and other["payload_octets"] < _HALF:
            acknowledges = False  # before its first octet
        elif flags & U64(RST) == U64(0) and lies_after(ack, peer["acked_seq"]):
            broken = ack == U64(0) and sequence_difference(ack, peer["acked_seq"]) > _FAR
            if not broken:
                peer["acked_seq"] = ack
    if _advance(half, side, state, flags, behind) and octets:
        side["repeats"] += U64(1)
        if _is_power_of_ten(U64(side["repeats"])):
            _add(flow, U64(ord("T")) | case)

    sender = U64(0) if originates else U64(1)
    moved = U64(_TABLE[(event << U64(7)) | (sender << U64(6)) | (state << U64(3)) | peer_state])
    if event == U64(_SYN_KNOWN) and not by_syn and not originates and peer_state == U64(SYN_ACK_SENT):
        flow["upper_originates"] = 1 if flow["upper_originates"] == 0 else 0
        flow["turned"] = 1
        add_turn(flow)
        case = U64(0)
    _move(flow, side, peer, moved)
    if acknowledges:
        _acknowledge(flow, other, peer, side, ack, case ^ U64(_LOWER))
    if octets and not before and flags & U64(RST) == U64(0):
        first = (seq + U64(1)) & _MASK if flags & U64(SYN) else seq
        receive(side, first, (first + octets) & _MASK)
    _settle(flow, half, other, side, peer)


@inline_kernel
def _catch_up(half: Any, side: Any) -> Any:
    """Move `next_seq` over what came on the short way."""
    if U64(half["smooth"]) & U64(_READY):
        before = U64(1) if U64(side["bits"]) & U64(HAS_FIN) else U64(0)
        side["next_seq"] = sequence_difference(half["last_seq"], before)


@inline_kernel
def _note_partial(flow: Any, side: Any, flags: Any, originates: Any) -> Any:
    """Whether the flow was met in mid-connection, judged by the first segment of each side."""
    if U64(side["bits"]) & U64(_SPOKE):
        return
    side["bits"] = U64(side["bits"]) | U64(_SPOKE)
    syn = flags & U64(SYN) != U64(0)
    if originates:
        flow["partial"] = 0 if syn and flags & U64(ACK) == U64(0) else 1
    elif flow["partial"] == 0:
        flow["partial"] = 0 if syn else 1


@inline_kernel
def _event(flags: Any, octets: Any) -> Any:
    """The row of the table for a segment; RST outranks FIN, and FIN SYN."""
    if flags & U64(RST):
        return U64(_RST)
    if flags & U64(FIN):
        return U64(_FIN)
    if flags & U64(SYN):
        return U64(_SYN_ACK) if flags & U64(ACK) else U64(_SYN)
    if flags & U64(ACK):
        return U64(_DATA) if octets else U64(_PURE_ACK)
    return U64(_BARE)


@inline_kernel
def _begin(half: Any, side: Any, flags: Any, seq: Any) -> Any:
    """Set where the numbers of a side begin: at its first segment, and anew at a SYN with another number."""
    state = U64(side["state"])
    syn = flags & U64(SYN) != U64(0)
    if state == U64(INACTIVE):
        side["start_seq"] = seq if syn else sequence_difference(seq, U64(1))
        side["acked_seq"] = side["start_seq"]
        side["next_seq"] = (U64(side["start_seq"]) + U64(1)) & _MASK
        half["last_seq"] = seq
        side["bits"] = U64(side["bits"]) & U64(0xFF ^ _START_GUESSED)
        if flags & U64(RST):
            side["bits"] = U64(side["bits"]) | U64(_RESET_FIRST)
    elif syn and state != U64(CLOSED):
        reset = state >= U64(RESET)
        if seq != U64(side["start_seq"]) and (not reset or U64(side["bits"]) & U64(_RESET_FIRST)):
            moved = sequence_difference(side["next_seq"], side["start_seq"])
            side["start_seq"] = seq
            side["acked_seq"] = seq
            side["next_seq"] = (seq + moved) & _MASK
            side["island_count"] = 0
            half["last_seq"] = seq


@outline_kernel
def _write_letters(flow: Any, half: Any, side: Any, flags: Any, relative: Any, octets: Any, case: Any) -> Any:
    """The letters S H F R (again for another number), D A (once), I Q (once: flags that contradict each other)."""
    seen = U64(side["letters"])
    syn, fin, rst = flags & U64(SYN) != U64(0), flags & U64(FIN) != U64(0), flags & U64(RST) != U64(0)
    if fin and rst:
        if seen & U64(_SAW_BOTH_ENDS) == U64(0):
            _add(flow, U64(ord("I")) | case)
        seen |= U64(_SAW_BOTH_ENDS)
    elif syn and (fin or rst):
        if seen & U64(_SAW_MANY) == U64(0):
            _add(flow, U64(ord("Q")) | case)
        seen |= U64(_SAW_MANY)
    elif syn:
        if seen & U64(_SAW_SYN) == U64(0) or relative != U64(side["last_syn"]):
            _add(flow, (U64(ord("H")) if flags & U64(ACK) else U64(ord("S"))) | case)
        seen |= U64(_SAW_SYN)
        side["last_syn"] = relative
    elif fin:
        relative = (relative + octets) & _MASK
        if seen & U64(_SAW_FIN) == U64(0) or relative != U64(side["last_fin"]):
            _add(flow, U64(ord("F")) | case)
        seen |= U64(_SAW_FIN)
        side["last_fin"] = relative
    elif rst:
        if seen & U64(_SAW_RST) == U64(0) or relative != U64(side["last_rst"]):
            _add(flow, U64(ord("R")) | case)
        seen |= U64(_SAW_RST)
        side["last_rst"] = relative
    else:
        letter, bit = (U64(ord("D")), U64(DATA_SEEN)) if octets else (U64(ord("A")), U64(_ACK_SEEN))
        if U64(half["smooth"]) & bit == U64(0) and (octets or flags & U64(ACK)):
            half["smooth"] = U64(half["smooth"]) | bit
            _add(flow, letter | case)
    side["letters"] = seen


@inline_kernel
def _advance(half: Any, side: Any, state: Any, flags: Any, behind: Any) -> Any:
    """Move `last_seq` forward. Returns True where the segment lies before it: sent again."""
    distance = sequence_difference(behind, half["last_seq"])
    if flags & U64(SYN | RST) and distance > _FAR and distance < (_MASK - _FAR):
        return False
    only_syn = U64(half["last_seq"]) == (U64(side["start_seq"]) + U64(1)) & _MASK
    if flags & U64(FIN) and only_syn:  # whatever was not captured between the two
        half["last_seq"] = behind
        return False
    if state >= U64(RESET):
        return False
    if distance != U64(0) and distance < _HALF:
        half["last_seq"] = behind
        return False
    return True


@inline_kernel
def _move(flow: Any, side: Any, peer: Any, moved: Any) -> Any:
    """Write the next states."""
    state, after = U64(side["state"]), moved & U64(7)
    if after == U64(CLOSED) and state == U64(ESTABLISHED):
        side["bits"] = U64(side["bits"]) | U64(_CLEAN)
    if after == U64(ESTABLISHED) and state == U64(INACTIVE) and moved >> U64(3) == U64(ESTABLISHED):
        flow["partial"] = 0  # the SYN alone was missed, or stood elsewhere
    side["state"] = after
    peer["state"] = moved >> U64(3)


@inline_kernel
def _is_clean(side: Any) -> Any:
    """Whether a side is established, or closed after it was."""
    state = U64(side["state"])
    return state == U64(ESTABLISHED) or (state == U64(CLOSED) and U64(side["bits"]) & U64(_CLEAN) != U64(0))


@outline_kernel
def _acknowledge(flow: Any, half: Any, side: Any, peer: Any, ack: Any, case: Any) -> Any:
    """An acknowledgment of `side`'s octets: those of them that were never seen are gaps."""
    if U64(side["bits"]) & U64(HAS_FIN) and not lies_after(side["fin_seq"], ack):
        ack = sequence_difference(side["fin_seq"], U64(1))
    if not lies_after(ack, side["next_seq"]):
        return
    if flow["partial"] and sequence_difference(ack, side["start_seq"]) <= U64(2):
        return  # the first octet of a flow met in mid-connection may be a keep-alive's
    clean = _is_clean(side) and _is_clean(peer)
    while lies_after(ack, side["next_seq"]):
        if clean:
            side["gaps"] += U64(1)
            if _is_power_of_ten(U64(side["gaps"])):
                _add(flow, U64(ord("G")) | case)
        if side["island_count"] and lies_after(ack, side["islands"][U64(0)]):
            side["next_seq"] = side["islands"][U64(0)]
            land(side)
        else:
            side["next_seq"] = ack
            land(side)


@inline_kernel
def _in_order(half: Any, side: Any) -> Any:
    """Whether nothing of a side is missing."""
    expected = U64(half["last_seq"])
    if U64(side["bits"]) & U64(HAS_FIN):
        expected = sequence_difference(expected, U64(1))
    return side["island_count"] == 0 and expected == U64(side["next_seq"])


@inline_kernel
def _settle(flow: Any, half: Any, other: Any, side: Any, peer: Any) -> Any:
    """Say for both directions whether the short way holds from here on, and which timeout."""
    state, peer_state = U64(side["state"]), U64(peer["state"])
    smooth = _in_order(half, side) and _in_order(other, peer)
    active = state != U64(INACTIVE) and peer_state != U64(INACTIVE)
    letters = U64(0xFF ^ _READY)
    ready = U64(1) if smooth and active else U64(0)
    half["smooth"] = (U64(half["smooth"]) & letters) | (ready if state < U64(RESET) else U64(0))
    other["smooth"] = (U64(other["smooth"]) & letters) | (ready if peer_state < U64(RESET) else U64(0))
    timing = U64(half["timing"])
    if timing != CLOSING:
        timing = _IDLE
        if state < U64(PARTIAL) and peer_state < U64(PARTIAL):
            timing = _HANDSHAKE
            orig_upper = flow["upper_originates"] != 0
            orig = flow["high_side"] if orig_upper else flow["low_side"]
            if U64(orig["state"]) != U64(INACTIVE) and (state == U64(INACTIVE) or peer_state == U64(INACTIVE)):
                timing = _ATTEMPT
        half["timing"] = timing
        other["timing"] = timing


@inline_kernel
def finished(flow: Any) -> Any:
    """Whether states and data say that a connection is over, as Zeek judges it.

    It is after a RST, after FINs of both sides, and after a FIN where the other side was never heard; but not while
    data before the end is missing.

    Returns:
        0: it goes on; 1: by FINs; 2: by a RST.
    """
    low, high = U64(flow["low_side"]["state"]), U64(flow["high_side"]["state"])
    if low < U64(CLOSED) and high < U64(CLOSED):
        return U64(0)
    reset = low >= U64(RESET) or high >= U64(RESET)
    lower_open = low < U64(CLOSED) and low != U64(INACTIVE)
    upper_open = high < U64(CLOSED) and high != U64(INACTIVE)
    if not reset and (lower_open or upper_open):
        return U64(0)
    return U64(2) if reset else U64(1)


@inline_kernel
def reopens(packet: Any, flow: Any) -> Any:
    """Whether a segment opens a new flow by Zeek's rule, which looks at the originator's numbers alone.

    A SYN does after both sides have closed, and otherwise if its number is not that of the originator's start, whoever
    sends it. A SYN+ACK does where nothing was seen of the originator, and its number is not the responder's start.

    Args:
        packet: PACKET row.
        flow: LIVE row.
    """
    flags = U64(packet["flags"])
    if flags & U64(SYN) == U64(0) or U64(packet["bits"]) & U64(SEQ_KNOWN) == U64(0):
        return False
    upper = flow["upper_originates"] != 0
    orig = flow["high_side"] if upper else flow["low_side"]
    resp = flow["low_side"] if upper else flow["high_side"]
    if flags & U64(ACK) and U64(orig["state"]) != U64(INACTIVE):
        return False
    if U64(orig["state"]) >= U64(CLOSED) and U64(resp["state"]) >= U64(CLOSED):
        return True
    if flags & U64(ACK):
        return packet["seq"] != resp["start_seq"]
    if packet["seq"] == orig["start_seq"]:
        return False
    reversed_order = U64(orig["state"]) == U64(SYN_ACK_SENT) and U64(resp["state"]) == U64(INACTIVE)
    return not (reversed_order and packet["seq"] == resp["start_seq"])
