"""The short way through the table: runs of frames that change nothing but numbers of a flow that goes on.

Most frames acknowledge or carry the next octets of a connection. Of those it is known before they are handled that no
rule has a say: no flow opens, ends, turns or is cut, no other timeout begins to hold, and no letter is written but for
the first data and the first acknowledgment of a side (`follow_first`). They are handled here, in a loop that holds
nothing else: in the loop of tracking.py, whose values do not fit into a processor's registers, the same work takes
twice as long. The first frame that is not provably one of them ends the run, untouched, and takes the long way. So each
rule still stands in one place: what is done here are the pieces of the long way that do something (`count_more`,
`follow_in_order`, `note_segment`, `analyse_segment`), and the conditions say why the others would do nothing. Without
the short way (STATE `quick` 0) all results are the same; tests hold the two equal.

The flow of a frame is looked up some frames ahead: first its slot of the index is fetched, then the row that it names,
whose number waits in `hints` of STATE until the frame's turn, whichever way it takes. Whatever happens in between, that
is a hint alone: the key in the row decides, and a row that was freed matches none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.analysis import SMOOTH_OCTETS, analyse_segment
from traceflow.compiled import U64, inline_kernel, outline_kernel, prefetch
from traceflow.keys import first_row, is_low_end, is_row_of
from traceflow.live import BEHIND_STATE, LIVE, STATE_OCTETS, fetch_row
from traceflow.packets import BAD_CHECKSUM, NO_TIME, QUOTES, Verdict
from traceflow.states import DATA_SEEN, follow_first, follow_in_order, is_familiar, is_in_order
from traceflow.steering import fetch_records
from traceflow.tcp import BASE_KNOWN, FIN, RST, SYN, count_common_flags, count_one, has_common_flags, note_segment
from traceflow.timeouts import FIRST, NEVER_NS

__all__ = [
    "FROM_RESPONDER",
    "FROM_UPPER",
    "HINTS",
    "HOUR_NS",
    "MANY_ROWS",
    "MARK",
    "begin_touching",
    "count_more",
    "due_at",
    "fetch_state",
    "hint_of",
    "pass_run",
    "take_hints",
    "touch_rows",
    "write_mark",
]

MARK = np.dtype([("flow", "u8"), ("duplicate_ack", "u4"), ("analysis", "u2"), ("direction", "u1")], align=True)
"""What the table says of one frame: the number of its flow (0: none), FROM_RESPONDER | FROM_UPPER, what
`analysis.py` says of it (its flags, and of a duplicate ACK the how manieth it is)."""
FROM_RESPONDER = 1
"""Bit of MARK `direction`: sent by the responder, as far as was known when the frame came."""
FROM_UPPER = 2
"""Bit of MARK `direction`: sent by the upper end of the key, which no later frame changes."""

HOUR_NS = 3_600_000_000_000
"""Longer steps of the clock are counted (flow-rules 13)."""

_TCP, _UDP, _FLOW = 6, 17, int(Verdict.FLOW)
_ENDS, _LOW = U64(LIVE.itemsize // 64), U64(1)  # lines of a row, and which of them is the lower end
# Packets between the fetch of a slot, that of its row, and their use: far enough for a trip to memory of 100 ns.
_SLOT_AHEAD, _ROW_AHEAD = U64(12), U64(6)
_BLOCK = U64(16)  # frames whose rows are touched together, as many to twice as many before they are needed
_NO_TURN = U64(2**64 - 1)
MANY_ROWS = 1_500_000
"""From so many rows on, 0.9 GB, they are touched beforehand: of 2 000 000, a frame takes 154 ns for 175, of 1 000 000
it would take longer."""
HINTS = 8
"""Rows that were looked up ahead: more than _ROW_AHEAD, a power of 2."""
_HINT = U64(HINTS - 1)
_ROW_OCTETS, _COMMON_OCTETS = U64(LIVE.itemsize), U64(192)  # all of a LIVE row; what every packet touches, see live.py


@inline_kernel
def count_more(half: Any, frame: Any, packet: Any) -> Any:
    """Count a frame for its sender, apart from its time."""
    half["packets"] += U64(1)
    half["wire_octets"] += U64(frame["wire"])
    half["ip_octets"] += U64(packet["ip_octets"])
    half["payload_octets"] += U64(packet["payload_octets"])
    # Without a branch: whether a frame has payload is chance, and each wrong guess costs 5 ns (2.3 ns a frame in all).
    half["payload_packets"] = count_one(half["payload_packets"], U64(packet["payload_octets"] != 0))


@inline_kernel
def due_at(state: Any, flow: Any, clock_ns: Any, timing: Any, held: Any) -> Any:
    """When a flow is due if no further frame comes: clock + the timeout that holds for it now.

    Args:
        state: STATE.
        flow: LIVE row.
        clock_ns: The clock, at this frame.
        timing: Which timeout holds now.
        held: Which one held before the packet; another number for a new flow.
    """
    timeout_ns = state["timeouts_ns"][timing]
    if timing == held and state["fixed"][timing]:
        return flow["due_ns"]
    if timeout_ns == NEVER_NS:
        return timeout_ns
    return clock_ns + timeout_ns


@inline_kernel
def write_mark(mark: Any, flow: Any, upside: Any) -> Any:
    """Write flow and direction; what the analysis says stands there already."""
    mark["flow"] = flow["number"]
    upper = U64(1) if upside else U64(0)
    responder = upper ^ U64(flow["upper_originates"])
    mark["direction"] = upper * U64(FROM_UPPER) | responder * U64(FROM_RESPONDER)


@inline_kernel
def _find(slots: Any, hashes: Any, known: Any, at: Any) -> Any:
    """The row, plus one, that the key of a frame likely has; 0: none. Some were looked up by another thread."""
    found = U64(known[at]) if at < U64(len(known)) else U64(0)
    return found if found != U64(0) else first_row(slots, U64(hashes[at]))


@inline_kernel
def take_hints(state: Any, slots: Any, hashes: Any, known: Any, at: Any) -> Any:
    """Look up the first frames of a run, for which nobody looked ahead."""
    for i in range(at, at + _ROW_AHEAD):
        if U64(i) < U64(len(hashes)):
            state["hints"][U64(i) & _HINT] = _find(slots, hashes, known, U64(i))


@outline_kernel
def touch_rows(state: Any, live: Any, slots: Any, hashes: Any, known: Any) -> Any:
    """Have the processor fetch the first lines of the rows of the next frames, and the slots of those behind them.

    Where there are many rows, it has not translated their addresses lately, and a fetch holds up what comes after it
    for 100 ns and more until it has. In a loop that does nothing else it translates several at a time: with 5 000 000
    live flows a frame takes 165 ns for 230.
    """
    at, mask, count = U64(state["touched"]), U64(len(slots) - 1), U64(len(hashes))
    behind = min(at + _BLOCK, count)
    for i in range(behind, min(behind + _BLOCK, count)):
        prefetch(slots, U64(hashes[U64(i)]) & mask, U64(0))
    for i in range(at, behind):
        found = _find(slots, hashes, known, U64(i))
        if found != U64(0):
            prefetch(live, found - U64(1), U64(0))
    state["touched"] = behind
    state["turn"] = at if behind < count else _NO_TURN


@inline_kernel
def begin_touching(state: Any) -> Any:
    """Before the first frame of a batch."""
    state["touched"] = 0
    state["turn"] = U64(0) if U64(state["fresh"]) > U64(state["many_rows"]) else _NO_TURN


@inline_kernel
def _look_ahead(state: Any, live: Any, slots: Any, deep: Any, words: Any, batch: Any, at: Any) -> Any:
    """Have the processor fetch what later packets will look at: first the slot of the index, then the row."""
    _, packets, _, hashes, _, _ = batch
    mask, known = U64(len(slots) - 1), words[6]
    slot = at + _SLOT_AHEAD
    if slot < U64(len(hashes)) and (slot >= U64(len(known)) or known[slot] == 0):
        prefetch(slots, U64(hashes[slot]) & mask, U64(0))
    if at + _ROW_AHEAD < U64(len(hashes)):
        found = _find(slots, hashes, known, at + _ROW_AHEAD)
        state["hints"][(at + _ROW_AHEAD) & _HINT] = found
        if found != U64(0):
            row = found - U64(1)
            fetch_row(live, row, U64(0), _COMMON_OCTETS)
            if U64(packets[at + _ROW_AHEAD]["flags"]) & U64(SYN | FIN | RST):
                fetch_row(live, row, _COMMON_OCTETS, _ROW_OCTETS)
            if state["analysis"]:
                fetch_row(deep, row, U64(0), U64(SMOOTH_OCTETS))
            if state["plugins"]:
                fetch_records(words[4], row, U64(state["record_words"]))


@inline_kernel
def hint_of(state: Any, at: Any) -> Any:
    """The row, plus one, that a frame likely belongs to, for which was looked ahead; 0: none."""
    return U64(state["hints"][at & _HINT])


@inline_kernel
def fetch_state(state: Any, live: Any, at: Any) -> Any:
    """Have the processor fetch the state of the connection that a frame likely belongs to, all of it at once.

    The long way needs it some 20 ns later, line after line. With 1 000 000 live flows it takes 135 ns for 150 ns.
    """
    found = hint_of(state, at)
    if found != U64(0):
        fetch_row(live, found - U64(1), U64(STATE_OCTETS), U64(BEHIND_STATE))


@inline_kernel
def _is_next_segment(packet: Any, half: Any, other: Any) -> Any:
    """Whether a TCP segment is the next one of an open connection, which no rule but counting has a say in.

    Its flags are ACK and perhaps PSH, so it opens, closes, turns and resets nothing; both bases are known; both ends
    have spoken. That holds if it `is_familiar` as well: then states.py and `note_segment` have noted another like it.
    """
    if not has_common_flags(packet) or not is_in_order(packet, half, other):
        return False
    return U64(half["bits"]) & U64(other["bits"]) & U64(BASE_KNOWN) != U64(0)


@outline_kernel
def _note_first(packet: Any, flow: Any, half: Any, other: Any, upside: Any) -> Any:
    """Note what there is to note of a next segment that is not familiar. False, and nothing is, where it needs more."""
    if not follow_first(packet, flow, half, other, upside):
        return False
    note_segment(packet, half, other)
    return True


@inline_kernel
def _is_next_datagram(packet: Any, half: Any) -> Any:
    """Whether a packet that is no TCP is one more of a direction that has sent some, and quotes nothing."""
    if half["packets"] == U64(0) or U64(packet["bits"]) & U64(QUOTES | BAD_CHECKSUM):
        return False
    return packet["protocol"] != _UDP or U64(half["smooth"]) & U64(DATA_SEEN) != U64(0)


@inline_kernel
def pass_run(state: Any, live: Any, slots: Any, heap: Any, deep: Any, words: Any, batch: Any, at: Any) -> Any:
    """Handle frames from `at` on while they go the short way. Arguments as for `track`.

    Returns:
        The first frame that does not, for which was looked ahead; or `turn` of STATE, or the end of the batch.
    """
    frames, packets, marks, _, _, _ = batch
    ends = words[5]
    i, clock_ns = at, state["clock_ns"]
    until_ns = heap[FIRST]["wake_ns"]  # before it, no flow is due and nobody is to be told
    if state["pause_ns"] < until_ns:
        until_ns = state["pause_ns"]
    if state["quick"] == 0 or U64(state["clocked"]) == U64(0):
        until_ns = -NEVER_NS
    directed, mask, analysis = state["directed"] != 0, U64(state["key_mask"]), state["analysis"] != 0
    stop = min(U64(state["turn"]), U64(len(packets)))
    while i < stop:
        _look_ahead(state, live, slots, deep, words, batch, i)
        frame, packet, mark = frames[i], packets[i], marks[i]
        if U64(packet["flags"]) & U64(SYN | FIN | RST):  # said first: saves 0.7 ns a frame
            break
        time_ns, found = frame["time_ns"], hint_of(state, i)
        if time_ns >= until_ns or U64(time_ns) - U64(clock_ns) > U64(HOUR_NS):  # back in time: more than 2**63
            break
        if found == U64(0) or packet["verdict"] != _FLOW or U64(frame["time_bits"]) & U64(NO_TIME):
            break
        row = found - U64(1)
        flow = live[row]
        upside = not is_low_end(flow, packet)
        if (directed and upside) or not is_row_of(flow, packet, upside, mask):
            break
        up = U64(1) if upside else U64(0)
        half = ends[row * _ENDS + _LOW + up]
        other = ends[row * _ENDS + _LOW + (up ^ U64(1))]
        tcp = packet["protocol"] == _TCP
        if time_ns < half["last_ns"]:
            break
        if tcp:
            if not _is_next_segment(packet, half, other):
                break
            if is_familiar(packet, half):
                follow_in_order(packet, half)
            elif not _note_first(packet, flow, half, other, upside):
                break
        elif not _is_next_datagram(packet, half):
            break
        clock_ns = time_ns
        half["last_ns"] = time_ns
        count_more(half, frame, packet)
        mark["duplicate_ack"] = 0
        mark["analysis"] = 0
        if tcp:
            count_common_flags(packet, half)
            if analysis:
                analyse_segment(frame, packet, half, other, deep[row], upside, False, mark)
        write_mark(mark, flow, upside)
        timing = U64(half["timing"])  # the same as before: so this is never earlier than it was
        flow["due_ns"] = due_at(state, flow, clock_ns, timing, timing)
        i += U64(1)
    if i != at:
        state["clock_ns"] = clock_ns
        state["clocked"] = U64(state["first"]) + i - U64(1)
        state["verdicts"][U64(_FLOW)] += i - at
    return i
