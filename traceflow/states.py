"""TCP connection state and history of a flow, with Zeek's definitions: one transition table, and what surrounds it.

Every end of a connection is in one of seven states, and each segment moves them: `_MOVES` below is the table, and the
only place that knows it. From the states at the end follows `conn_state` (connstates.py), from what was seen on the
way the letters of `history`. Sources of the definitions: RFC 9293 for segments, the documentation of Zeek's
`conn.log` for both columns.
Nothing here decides where a flow begins or ends; it says what is known (`timing`, `reopens`) and `table.py` decides.

Most segments are data or acknowledgments in order, which change nothing but a sequence number: they are done in a few
comparisons (`follow_segment`). All others take the long way (`follow_rare`).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.holes import ISLANDS, has_seen, land, receive
from traceflow.packets import ACK_KNOWN, BAD_CHECKSUM, FLAGS_KNOWN, SEQ_KNOWN, WINDOW_KNOWN
from traceflow.tcp import ACK, FIN, RST, SYN, comes_before, lies_after, sequence_difference

__all__ = [
    "ABORTED",
    "CLOSING",
    "DATA_SEEN",
    "ESTABLISHED",
    "FIN_WAIT",
    "HAS_FIN",
    "HISTORY_OCTETS",
    "MIDSTREAM",
    "SIDE",
    "SYN_RECEIVED",
    "SYN_SENT",
    "TIMINGS",
    "UNSEEN",
    "add_turn",
    "follow_datagram",
    "follow_first",
    "follow_in_order",
    "follow_rare",
    "follow_segment",
    "is_familiar",
    "is_in_order",
]


# States of an end, by what it has sent. SYN_SENT, SYN_RECEIVED (it answered a SYN), ESTABLISHED and FIN_WAIT (its FIN
# was sent, and all that follows) are those of RFC 9293, 3.3.2. An observer needs the others: nothing was heard of the
# end, it was met in midstream, it has aborted the connection by a RST, or it did so after its FIN, which the FIN of the
# other end makes good.
UNSEEN, SYN_SENT, SYN_RECEIVED, MIDSTREAM, ESTABLISHED, FIN_WAIT, ABORTED, ABORTED_AFTER_FIN = range(8)
_STATES = "USRMEFAa"  # their letters in `_MOVES`

# What a segment is to the table, strongest first. "known syn": a SYN whose number the other side had acknowledged.
_RST, _FIN, _SYN_KNOWN, _SYN_ACK, _SYN, _DATA, _ACK, _BARE = range(8)
_EVENTS = ("rst", "fin", "known syn", "syn+ack", "syn", "data", "ack", "bare")

_MOVES = (
    # event, sender, its state, the other's state, its next state, the other's next state (= as it was)
    # Opening by the originator, then by the responder, then in another order than that of the handshake.
    ("syn, known syn", "orig", "U", "USRMEFAa", "S", "="),
    ("syn+ack", "orig", "U", "USRMEFAa", "R", "="),
    ("syn, known syn, syn+ack", "resp", "U", "S", "E", "E"),
    ("syn, known syn, syn+ack", "resp", "U", "URMEFAa", "E", "="),
    ("known syn", "orig", "U", "E", "E", "="),  # the SYN+ACK stands before the SYN in the capture
    ("known syn", "resp", "U", "R", "E", "E"),  # the same, where the sender of the SYN+ACK was taken for originator
    ("syn, known syn", "orig resp", "M", "U", "S", "="),
    # Without a SYN: it was missed alone, where the other end is established; otherwise all of it was.
    ("data, ack", "orig resp", "U", "E", "E", "="),
    ("data", "orig resp", "U", "USRMFAa", "M", "="),
    ("ack", "orig resp", "U", "URMFAa", "M", "="),
    ("ack", "orig", "U", "S", "M", "="),  # of the responder it is no reason: some acknowledge before their SYN
    ("bare", "orig resp", "U", "URMEFAa", "M", "="),
    ("bare", "orig", "U", "S", "M", "="),
    # Closing and aborting.
    ("fin", "orig resp", "USRME", "USRMEFA", "F", "="),
    ("fin", "orig resp", "USR", "a", "F", "="),
    ("fin", "orig resp", "ME", "a", "F", "F"),
    ("rst", "orig resp", "USRME", "USRMEFAa", "A", "="),
    ("rst", "orig resp", "F", "USRMEAa", "a", "="),
)


def _table() -> npt.NDArray[np.uint8]:
    """uint8[1024]: (event, sender is responder, its state, the other's state) to (its next | the other's next << 3)."""
    own, other = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    moves = np.broadcast_to(own | other << 3, (len(_EVENTS), 2, 8, 8)).astype(np.uint8)
    for events, senders, mine, others, next_own, next_other in _MOVES:
        for event, sender, a, b in itertools.product(events.split(", "), senders.split(), mine, others):
            after = _STATES.index(b if next_other == "=" else next_other)
            place = (_EVENTS.index(event), int(sender == "resp"), _STATES.index(a), _STATES.index(b))
            moves[place] = _STATES.index(next_own) | after << 3
    return moves.reshape(-1)


_TABLE = _table()

HISTORY_OCTETS = 48
"""Letters that a history holds; where there were more, the last one is `+`."""

SIDE = np.dtype(
    [
        ("iss", "u4"),  # number of the SYN, or what it must have been
        ("next_seq", "u4"),  # all octets before it were seen, or missed for good
        ("snd_una", "u4"),  # acknowledged by the other side, as far as it lies behind `last_seq` of HOT
        ("fin_seq", "u4"),  # behind the FIN
        ("last_syn", "u4"),  # relative numbers of the last SYN, FIN, RST, for their repetition
        ("last_fin", "u4"),
        ("last_rst", "u4"),
        ("counts", "u4", (4,)),  # of the letters C, G, T, W
        ("islands", "u4", (2 * ISLANDS,)),  # (first, behind the last) of data behind a hole, in order
        ("state", "u1"),
        ("letters", "u1"),  # letters seen
        ("bits", "u1"),
        ("island_count", "u1"),
    ],
    align=True,
)
"""State of one direction apart from what HOT holds: one cache line, touched by the segments of the long way."""

_CHECKSUMS, _GAPS, _REPEATS, _ZERO_WINDOWS = U64(0), U64(1), U64(2), U64(3)  # places in `counts` of SIDE

# `smooth` of HOT. READY: data in order and acknowledgments change nothing but `last_seq`.
_READY, _ACK_SEEN, DATA_SEEN = 1, 2, 4

# `letters` of SIDE: the letters that are written once, or compared with the last of their kind.
_SAW_SYN, _SAW_FIN, _SAW_RST, _SAW_BOTH_ENDS, _SAW_MANY = 1, 2, 4, 8, 16

# `bits` of SIDE.
_SPOKE = 1  # the side has sent a segment
_START_GUESSED = 2  # `iss` comes from an acknowledgment
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
# Letters of a history, as numbers: `ord` in a kernel would have Numba compile strings.
_LETTER_A, _LETTER_C, _LETTER_D, _LETTER_F, _LETTER_G, _LETTER_H = (U64(ord(letter)) for letter in "ACDFGH")
_LETTER_I, _LETTER_Q, _LETTER_R, _LETTER_S, _LETTER_T, _LETTER_W = (U64(ord(letter)) for letter in "IQRSTW")
_LETTER_LOWER_H, _TURNED, _MORE = U64(ord("h")), U64(ord("^")), U64(ord("+"))


@outline_kernel
def _add(flow: Any, letter: Any) -> Any:
    """Write a letter into the history."""
    count = U64(flow["letters"])
    if count < U64(HISTORY_OCTETS):
        flow["history"][count] = letter
        flow["letters"] = count + U64(1)
    else:
        flow["history"][U64(HISTORY_OCTETS - 1)] = _MORE


@outline_kernel
def add_turn(flow: Any) -> Any:
    """Write `^`: the originator is not who sent first."""
    _add(flow, _TURNED)


@outline_kernel
def _count(flow: Any, side: Any, what: Any, letter: Any) -> Any:
    """Count one of C, G, T, W, and write the letter for the first, the tenth, the hundredth, ..."""
    counts = side["counts"]
    counts[what] += U64(1)
    count = U64(counts[what])
    while count >= U64(10) and count % U64(10) == U64(0):
        count //= U64(10)
    if count == U64(1):
        _add(flow, letter)


@inline_kernel
def is_in_order(packet: Any, half: Any, other: Any) -> Any:
    """Whether a segment with ACK, and without SYN, FIN and RST, is the next of its side and acknowledges what was seen.

    Such a segment changes nothing but `last_seq`, if it `is_familiar` as well.

    Args:
        packet: PACKET row.
        half: HOT row of the sender.
        other: HOT row of the receiver.
    """
    return (
        U64(half["smooth"]) & U64(_READY) != U64(0)
        and packet["seq"] == half["last_seq"]
        and packet["window"] != 0
        and U64(packet["bits"]) & U64(_ALL_KNOWN | BAD_CHECKSUM) == U64(_ALL_KNOWN)
        and not comes_before(other["last_seq"], packet["ack"])
    )


@inline_kernel
def is_familiar(packet: Any, half: Any) -> Any:
    """Whether the sender of data, or of an acknowledgment without data, has sent such before: its letter is written."""
    needed = U64(DATA_SEEN) if packet["payload_octets"] != 0 else U64(_ACK_SEEN)
    return U64(half["smooth"]) & needed != U64(0)


@inline_kernel
def follow_in_order(packet: Any, half: Any) -> Any:
    """Note a segment in order that is familiar."""
    half["last_seq"] = (U64(packet["seq"]) + U64(packet["payload_octets"])) & _MASK


@outline_kernel
def follow_first(packet: Any, flow: Any, half: Any, other: Any, upside: Any) -> Any:
    """Note a segment in order that is not familiar, if it changes nothing but its letter and numbers.

    What `follow_rare` does to it, without the questions that are settled: data and acknowledgments move no end that was
    heard, and while neither side has sent a FIN, all octets up to `last_seq` were seen. A connection has up to four
    such segments: the first data and the first acknowledgment of each side.

    Returns:
        Whether it did; if not, nothing was changed.
    """
    side = flow["high_side"] if upside else flow["low_side"]
    peer = flow["low_side"] if upside else flow["high_side"]
    octets = U64(packet["payload_octets"])
    if (U64(side["bits"]) | U64(peer["bits"])) & U64(HAS_FIN) or flow["letters"] < 2:  # it may answer a SYN+ACK
        return False
    if octets >= _FAR or comes_before(packet["seq"], side["iss"]):
        return False
    case = U64(0) if upside == (flow["upper_originates"] != 0) else U64(_LOWER)
    letter, bit = (_LETTER_D, U64(DATA_SEEN)) if octets else (_LETTER_A, U64(_ACK_SEEN))
    half["smooth"] = U64(half["smooth"]) | bit
    _add(flow, letter | case)
    _note_acknowledgment(packet, other, peer)
    follow_in_order(packet, half)
    return True


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
    plain = U64(packet["flags"]) & U64(SYN | FIN | RST | ACK) == U64(ACK)
    if plain and is_familiar(packet, half) and is_in_order(packet, half, other):
        follow_in_order(packet, half)
        return
    follow_rare(packet, flow, half, other, upside, by_syn != 0)  # one type, whatever `by_syn` has: compiled once


@inline_kernel
def follow_datagram(packet: Any, flow: Any, half: Any, upside: Any) -> Any:
    """Let a UDP datagram change the history of its flow: D and d, once for each side, and C and c."""
    if U64(half["smooth"]) & U64(DATA_SEEN) == U64(0) or U64(packet["bits"]) & U64(BAD_CHECKSUM):
        case = U64(0) if upside == (flow["upper_originates"] != 0) else U64(_LOWER)
        side = flow["high_side"] if upside else flow["low_side"]
        if U64(packet["bits"]) & U64(BAD_CHECKSUM):
            _count(flow, side, _CHECKSUMS, _LETTER_C | case)
        else:
            half["smooth"] = U64(half["smooth"]) | U64(DATA_SEEN)
            _add(flow, _LETTER_D | case)


@outline_kernel
def follow_rare(packet: Any, flow: Any, half: Any, other: Any, upside: Any, by_syn: Any) -> Any:
    """The long way of `follow_segment`: what is new of the sender, its move, and what it says of the other end."""
    side = flow["high_side"] if upside else flow["low_side"]
    peer = flow["low_side"] if upside else flow["high_side"]
    case = U64(0) if upside == (flow["upper_originates"] != 0) else U64(_LOWER)
    known, flags, octets = U64(packet["bits"]), U64(packet["flags"]), U64(packet["payload_octets"])
    if known & U64(BAD_CHECKSUM):
        _count(flow, side, _CHECKSUMS, _LETTER_C | case)
        return
    if known & U64(FLAGS_KNOWN) == U64(0):
        return
    seq = U64(packet["seq"]) if known & U64(SEQ_KNOWN) else U64(half["last_seq"])
    event = _event(flags, octets, seq, side)
    _catch_up(half, side)
    _catch_up(other, peer)
    if not by_syn and _is_answered(flow, event):
        _turn_answered(flow)
        case ^= U64(_LOWER)
    state, peer_state = U64(side["state"]), U64(peer["state"])
    _note_partial(flow, side, flags, case == U64(0))
    if state != U64(UNSEEN) and _was_seen(half, side, flags, seq, octets):
        if upside:
            flow["high_retransmissions"] += U64(1)
        else:
            flow["low_retransmissions"] += U64(1)
    _begin(half, side, flags, seq)
    relative = sequence_difference(seq, side["iss"])
    before = comes_before(seq, side["iss"]) and half["payload_octets"] < _HALF
    _write_letters(flow, half, side, flags, relative, octets, case)
    listening = peer_state != U64(FIN_WAIT) and state < U64(ABORTED) and flags & U64(RST) == U64(0)
    if listening and packet["window"] == 0 and known & U64(WINDOW_KNOWN):
        _count(flow, side, _ZERO_WINDOWS, _LETTER_W | case)
    acknowledges = _note_acknowledgment(packet, other, peer)
    if _advance(half, side, state, flags, seq, octets) and octets:
        _count(flow, side, _REPEATS, _LETTER_T | case)

    sender = U64(1) if case else U64(0)
    moved = U64(_TABLE[(event << U64(7)) | (sender << U64(6)) | (state << U64(3)) | peer_state])
    if event == U64(_SYN_KNOWN) and not by_syn and case and peer_state == U64(SYN_RECEIVED):
        _turn(flow)
        add_turn(flow)
        case = U64(0)
    _move(flow, side, peer, moved)
    if acknowledges:
        _find_gaps(flow, peer, side, U64(packet["ack"]), case ^ U64(_LOWER))
    if octets and not before and flags & U64(RST) == U64(0):
        first = (seq + ((flags >> U64(1)) & U64(1))) & _MASK  # a SYN takes the number before
        receive(side, first, (first + octets) & _MASK)
    _settle(flow, half, other, side, peer)


@outline_kernel
def _was_seen(half: Any, side: Any, flags: Any, seq: Any, octets: Any) -> Any:
    """Whether all that a segment takes of its side's numbers was seen before, SYN and FIN included (flow-rules 11).

    A keep-alive, which repeats one octet or none before the next one, is none; nor is what lies before the first
    number that was seen, or fills a hole.
    """
    syn, fin = (flags >> U64(1)) & U64(1), flags & U64(FIN)
    first = (seq + syn) & _MASK
    end = (first + octets) & _MASK
    if syn + octets + fin == U64(0) or flags & U64(RST):
        return False
    if syn and seq != U64(side["iss"]):
        return False
    if fin and (U64(side["bits"]) & U64(HAS_FIN) == U64(0) or (end + U64(1)) & _MASK != U64(side["fin_seq"])):
        return False
    if octets == U64(0):
        return True
    if comes_before(first, side["iss"]) and half["payload_octets"] < _HALF:
        return False
    keeps_alive = octets == U64(1) and syn + fin == U64(0) and end == U64(side["next_seq"])
    return not keeps_alive and has_seen(side, first, end)


@inline_kernel
def _catch_up(half: Any, side: Any) -> Any:
    """Move `next_seq` over what came on the short way."""
    if U64(half["smooth"]) & U64(_READY):
        before = U64(1) if U64(side["bits"]) & U64(HAS_FIN) else U64(0)
        side["next_seq"] = sequence_difference(half["last_seq"], before)


@inline_kernel
def _event(flags: Any, octets: Any, seq: Any, side: Any) -> Any:
    """The row of the table for a segment."""
    if flags & U64(RST):
        return U64(_RST)
    if flags & U64(FIN):
        return U64(_FIN)
    if flags & U64(SYN | ACK) == U64(SYN):
        guessed = U64(side["bits"]) & U64(_START_GUESSED) and U64(side["state"]) == U64(UNSEEN)
        return U64(_SYN_KNOWN) if guessed and seq == U64(side["iss"]) else U64(_SYN)
    if flags & U64(SYN):
        return U64(_SYN_ACK)
    if flags & U64(ACK):
        return U64(_DATA) if octets else U64(_ACK)
    return U64(_BARE)


@inline_kernel
def _turn(flow: Any) -> Any:
    """Make the other end the originator."""
    flow["upper_originates"] = 1 if flow["upper_originates"] == 0 else 0
    flow["turned"] = 1


@inline_kernel
def _is_answered(flow: Any, event: Any) -> Any:
    """Whether acknowledgments or data follow a SYN+ACK that opened the flow: then it was no scan, but an answer."""
    follows = event == U64(_DATA) or event == U64(_ACK)
    return follows and flow["letters"] == 1 and flow["history"][U64(0)] == _LETTER_H


@outline_kernel
def _turn_answered(flow: Any) -> Any:
    """Make the sender of the SYN+ACK the responder, as if it had been so from the start."""
    side = flow["high_side"] if flow["upper_originates"] != 0 else flow["low_side"]
    side["state"] = ESTABLISHED
    flow["partial"] = 0
    flow["letters"] = 0
    _turn(flow)
    add_turn(flow)
    _add(flow, _LETTER_LOWER_H)


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
def _begin(half: Any, side: Any, flags: Any, seq: Any) -> Any:
    """Set where the numbers of a side begin: at its first segment, and anew at a SYN with another number."""
    state = U64(side["state"])
    syn = flags & U64(SYN) != U64(0)
    if state == U64(UNSEEN):
        side["iss"] = seq if syn else sequence_difference(seq, U64(1))
        side["snd_una"] = side["iss"]
        side["next_seq"] = (U64(side["iss"]) + U64(1)) & _MASK
        half["last_seq"] = seq
        side["bits"] = U64(side["bits"]) & U64(0xFF ^ _START_GUESSED)
        if flags & U64(RST):
            side["bits"] = U64(side["bits"]) | U64(_RESET_FIRST)
    elif syn and state != U64(FIN_WAIT):
        reset = state >= U64(ABORTED)
        if seq != U64(side["iss"]) and (not reset or U64(side["bits"]) & U64(_RESET_FIRST)):
            moved = sequence_difference(side["next_seq"], side["iss"])
            side["iss"] = seq
            side["snd_una"] = seq
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
            _add(flow, _LETTER_I | case)
        seen |= U64(_SAW_BOTH_ENDS)
    elif syn and (fin or rst):
        if seen & U64(_SAW_MANY) == U64(0):
            _add(flow, _LETTER_Q | case)
        seen |= U64(_SAW_MANY)
    elif syn:
        if seen & U64(_SAW_SYN) == U64(0) or relative != U64(side["last_syn"]):
            _add(flow, (_LETTER_H if flags & U64(ACK) else _LETTER_S) | case)
        seen |= U64(_SAW_SYN)
        side["last_syn"] = relative
    elif fin:
        relative = (relative + octets) & _MASK
        if seen & U64(_SAW_FIN) == U64(0) or relative != U64(side["last_fin"]):
            _add(flow, _LETTER_F | case)
        seen |= U64(_SAW_FIN)
        side["last_fin"] = relative
    elif rst:
        if seen & U64(_SAW_RST) == U64(0) or relative != U64(side["last_rst"]):
            _add(flow, _LETTER_R | case)
        seen |= U64(_SAW_RST)
        side["last_rst"] = relative
    else:
        letter, bit = (_LETTER_D, U64(DATA_SEEN)) if octets else (_LETTER_A, U64(_ACK_SEEN))
        if U64(half["smooth"]) & bit == U64(0) and (octets or flags & U64(ACK)):
            half["smooth"] = U64(half["smooth"]) | bit
            _add(flow, letter | case)
    side["letters"] = seen


@inline_kernel
def _note_acknowledgment(packet: Any, other: Any, peer: Any) -> Any:
    """Note an acknowledgment of the other end's octets; where it was not heard, they must begin before that.

    Returns:
        Whether the number can tell of gaps.
    """
    if U64(packet["flags"]) & U64(ACK) == U64(0) or U64(packet["bits"]) & U64(ACK_KNOWN) == U64(0):
        return False
    ack = U64(packet["ack"])
    if U64(peer["state"]) == U64(UNSEEN):
        peer["iss"] = sequence_difference(ack, U64(1))
        peer["snd_una"] = peer["iss"]
        peer["next_seq"] = ack
        peer["bits"] = U64(peer["bits"]) | U64(_START_GUESSED)
        other["last_seq"] = peer["iss"]
        return False
    if comes_before(ack, peer["iss"]) and other["payload_octets"] < _HALF:
        return False  # before its first octet
    if U64(packet["flags"]) & U64(RST) == U64(0) and lies_after(ack, peer["snd_una"]):
        unset = ack == U64(0) and sequence_difference(ack, peer["snd_una"]) > _FAR
        if not unset:
            peer["snd_una"] = ack
    return True


@inline_kernel
def _advance(half: Any, side: Any, state: Any, flags: Any, seq: Any, octets: Any) -> Any:
    """Move `last_seq` behind a segment. Returns True where all of it lies before: sent again."""
    taken = U64(0) if flags & U64(RST) else octets  # data of a RST is no part of the stream
    behind = (seq + taken + (flags & U64(FIN)) + ((flags >> U64(1)) & U64(1))) & _MASK  # FIN and SYN: one each
    only_syn = U64(half["last_seq"]) == (U64(side["iss"]) + U64(1)) & _MASK
    distance = sequence_difference(behind, half["last_seq"])
    if flags & U64(FIN):
        side["bits"] = U64(side["bits"]) | U64(HAS_FIN)
        side["fin_seq"] = behind
    if flags & U64(SYN | RST) and distance > _FAR and distance < (_MASK - _FAR):
        return False
    if flags & U64(FIN) and only_syn:  # whatever was not captured between the two
        half["last_seq"] = behind
        return False
    if state >= U64(ABORTED):
        return False
    if distance != U64(0) and distance < _HALF:
        half["last_seq"] = behind
        return False
    return True


@inline_kernel
def _move(flow: Any, side: Any, peer: Any, moved: Any) -> Any:
    """Write the next states."""
    state, after = U64(side["state"]), moved & U64(7)
    if after == U64(FIN_WAIT) and state == U64(ESTABLISHED):
        side["bits"] = U64(side["bits"]) | U64(_CLEAN)
    if after == U64(ESTABLISHED) and state == U64(UNSEEN) and moved >> U64(3) == U64(ESTABLISHED):
        flow["partial"] = 0  # the SYN alone was missed, or stood elsewhere
    side["state"] = after
    peer["state"] = moved >> U64(3)


@inline_kernel
def _is_clean(side: Any) -> Any:
    """Whether a side is established, or closed after it was."""
    state = U64(side["state"])
    return state == U64(ESTABLISHED) or (state == U64(FIN_WAIT) and U64(side["bits"]) & U64(_CLEAN) != U64(0))


@outline_kernel
def _find_gaps(flow: Any, side: Any, peer: Any, ack: Any, case: Any) -> Any:
    """An acknowledgment of `side`'s octets: those of them that were never seen are gaps."""
    if U64(side["bits"]) & U64(HAS_FIN) and not lies_after(side["fin_seq"], ack):
        ack = sequence_difference(side["fin_seq"], U64(1))
    if not lies_after(ack, side["next_seq"]):
        return
    if flow["partial"] and sequence_difference(ack, side["iss"]) <= U64(2):
        return  # the first octet of a flow met in mid-connection may be a keep-alive's
    clean = _is_clean(side) and _is_clean(peer)
    while lies_after(ack, side["next_seq"]):
        if clean:
            _count(flow, side, _GAPS, _LETTER_G | case)
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
    active = state != U64(UNSEEN) and peer_state != U64(UNSEEN)
    letters = U64(0xFF ^ _READY)
    ready = U64(1) if smooth and active else U64(0)
    half["smooth"] = (U64(half["smooth"]) & letters) | (ready if state < U64(ABORTED) else U64(0))
    other["smooth"] = (U64(other["smooth"]) & letters) | (ready if peer_state < U64(ABORTED) else U64(0))
    timing = U64(half["timing"])
    if timing != CLOSING:
        timing = _IDLE
        if state < U64(MIDSTREAM) and peer_state < U64(MIDSTREAM):
            timing = _HANDSHAKE
            orig_upper = flow["upper_originates"] != 0
            orig = flow["high_side"] if orig_upper else flow["low_side"]
            if U64(orig["state"]) != U64(UNSEEN) and (state == U64(UNSEEN) or peer_state == U64(UNSEEN)):
                timing = _ATTEMPT
        half["timing"] = timing
        other["timing"] = timing
