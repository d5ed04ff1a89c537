"""The life of one packet in the flow table: which row it finds, what that does to the row, and which rows end.

The kernels of `table.py`, apart from the object that feeds them. They hold all rules by which flows are cut, with the
pieces in tcp.py, states.py, cuts.py, directions.py and timeouts.py; they know no files and no octets.

Reading order: `track` is the life of one packet; the pieces above it are what can happen to a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.analysis import ANALYSIS, analyse_segment, open_analysis
from traceflow.closing import finished, reopens
from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel, prefetch
from traceflow.cuts import begin_segment, continue_segment, is_cut, parent_of
from traceflow.directions import BY_FIRST, BY_SYN, BY_TRANALYZER, first_sender_originates
from traceflow.flows import EndCause
from traceflow.keys import find_row, forget_row, index_row, is_reversed, is_row_of, tag_of
from traceflow.live import LIVE, clear_words, copy_words
from traceflow.packets import BAD_CHECKSUM, NO_TIME, QUOTES, Verdict
from traceflow.quotes import note_quote
from traceflow.runs import (
    FROM_RESPONDER,
    FROM_UPPER,
    HINTS,
    HOUR_NS,
    MANY_ROWS,
    MARK,
    begin_touching,
    count_more,
    due_at,
    fetch_state,
    hint_of,
    pass_run,
    take_hints,
    touch_rows,
    write_mark,
)
from traceflow.states import CLOSING, TIMINGS, add_turn, follow_datagram, follow_segment
from traceflow.steering import hand_out, steer_flow
from traceflow.tcp import FIN, count_flags, note_segment, opens_new_flow, turns_direction
from traceflow.timeouts import FIRST, NEVER_NS, drop_row, due_row, push_row, wake_earlier

__all__ = ["FROM_RESPONDER", "FROM_UPPER", "GONE_ROWS", "MANY_ROWS", "MARK", "STATE", "TCP_END", "tick", "track"]

STATE = np.dtype(
    [
        ("at", "u8"),  # next frame of the batch to handle
        ("quote", "u8"),  # next quote of the batch
        ("first", "u8"),  # number of the first frame of the batch
        ("clock_ns", "i8"),  # running maximum of the time stamps
        ("opened", "u8"),  # flows opened so far: the number of the latest
        ("newest", "u8"),  # the row it was given
        ("live", "u8"),  # live flows
        ("index_room", "u8"),  # how many the index has room for
        ("most_live", "u8"),  # live flows at most so far
        ("directions", "u8"),  # directions of live flows that have packets
        ("most_directions", "u8"),
        ("free", "u8"),  # first row that was freed, plus one; 0: none
        ("fresh", "u8"),  # first row that was not used since the table was empty
        ("zero", "u8"),  # first row that was never used, and so is all zero
        ("ended", "u8"),  # rows waiting in `gone`
        ("clocked", "u8"),  # number of the last frame whose time is in the clock
        ("plugins", "u8"),  # how many of them see the packets, see steering.py
        ("record_words", "u8"),  # words that they keep of a direction
        ("shots", "u1"),  # 1: what they have of a direction is copied after each packet
        ("pause_ns", "i8"),  # the kernel stops before the first frame at or behind this time
        ("out_of_order", "u8"),  # frames with a time before the clock
        ("forward_jumps", "u8"),  # steps of the clock above an hour
        ("timeouts_ns", "i8", (len(TIMINGS),)),  # the rules, see Options
        ("fixed", "u1", (len(TIMINGS),)),  # 1: counted from when the timeout began to hold
        ("active_ns", "i8"),  # the active timeout, NEVER_NS where there is none
        ("key_mask", "u8"),  # bits of the tag that belong to the key
        ("max_flows", "u8"),
        ("skip_when_full", "u1"),
        ("directed", "u1"),
        ("tcp_only", "u1"),
        ("syn_opens", "u1"),
        ("analysis", "u1"),
        ("quick", "u1"),  # whether frames may take the short way of runs.py
        ("turn", "u8"),  # frame of the batch at which rows are touched again, see runs.py
        ("many_rows", "u8"),  # from how many rows on
        ("touched", "u8"),  # first frame of it whose row was not touched
        ("hints", "u8", (HINTS,)),  # rows, plus one, of the next frames; see runs.py
        ("tcp_end", "u1"),
        ("direction", "u1"),
        ("zeek_reuse", "u1"),
        ("reuse_closed", "u1"),
        ("server_ports", "u1", (65536,)),  # 1: of TCP, 2: of UDP, see LIKELY_SERVER_PORTS
        ("verdicts", "u8", (len(Verdict),)),  # frames by Verdict
    ],
    align=True,
)
"""The table apart from its rows: one record."""

TCP_END = {"never": 0, "both": 1, "fin": 2, "states": 3, "fins": 4}
"""Numbers of the values of the option `tcp_end` in STATE."""
_TCP_END_BOTH, _TCP_END_FIN, _TCP_END_STATES, _TCP_END_FINS = 1, 2, 3, 4
_TCP, _UDP = 6, 17
_OTHER_TIMING, _TCP_TIMING = U64(0), U64(1)
_FLOW, _NOT_TCP, _TABLE_FULL = int(Verdict.FLOW), int(Verdict.NOT_TCP), int(Verdict.TABLE_FULL)
# Causes are unsigned here: an integer literal would have Numba compile `_end_row` anew for each (4 s in all).
_IDLE, _EVICTED, _NEW_SYN = U64(EndCause.IDLE), U64(EndCause.EVICTED), U64(EndCause.NEW_SYN)
_BY_FIN, _BY_RST, _ACTIVE = U64(EndCause.FIN), U64(EndCause.RST), U64(EndCause.ACTIVE)
_BY_PLUGIN = U64(EndCause.PLUGIN)

# Besides the flows that are due, a frame can end one by its SYN or its age, one for lack of room, and its own.
_ENDED_BY_ONE_FRAME = 3
GONE_ROWS = 256
"""Rows that wait to be handed out at most: with their analysis, less than half of a second-level cache of 1 MiB."""
_NEW = len(TIMINGS)
_LIVE_WORDS, _DEEP_WORDS = U64(LIVE.itemsize // 8), U64(ANALYSIS.itemsize // 8)


@outline_kernel
def _end_row(state: Any, live: Any, slots: Any, words: Any, row: Any, cause: Any) -> Any:
    """End the flow of a row: hand it out and free the row. `words`: see `track`."""
    flow = live[row]
    prefetch(slots, U64(flow["hashed"]) & U64(len(slots) - 1), U64(0))  # for `forget_row`: 2 ns a frame
    flow["cause"] = cause
    ended = U64(state["ended"])
    copy_words(words[0], row * _LIVE_WORDS, words[1], ended * _LIVE_WORDS, _LIVE_WORDS)
    if state["analysis"] and flow["protocol"] == _TCP:
        copy_words(words[2], row * _DEEP_WORDS, words[3], ended * _DEEP_WORDS, _DEEP_WORDS)
    if state["plugins"]:
        hand_out(words[4], row, ended, U64(state["record_words"]))
    state["ended"] = ended + U64(1)
    forget_row(slots, U64(flow["hashed"]), row)
    drop_row(live, row)
    state["live"] = U64(state["live"]) - U64(1)
    both = flow["low"]["packets"] != U64(0) and flow["high"]["packets"] != U64(0)
    state["directions"] = U64(state["directions"]) - (U64(2) if both else U64(1))
    flow["ip_version"] = 0  # so that the key of no packet is that of a free row
    flow["next_free"] = state["free"]
    state["free"] = row + U64(1)


@outline_kernel
def _end_due(state: Any, live: Any, slots: Any, heap: Any, words: Any, now_ns: Any, most: Any, cause: Any) -> Any:
    """End the flows that are due at `now_ns`, earliest first, at most `most` of them.

    Returns:
        False where no room is left for flows that end and more may be due.
    """
    while U64(state["live"]) != U64(0) and most != U64(0):
        found = due_row(heap, live, now_ns)
        if found == U64(0):
            break
        if U64(state["ended"]) == U64(GONE_ROWS):
            return False
        _end_row(state, live, slots, words, found - U64(1), cause)
        most -= U64(1)
    return True


@outline_kernel
def _open_row(state: Any, live: Any, words: Any, packet: Any, upside: Any, hashed: Any) -> Any:
    """Take a free row for a new flow and write its key. Returns the row; the caller indexes and times it."""
    row = U64(state["fresh"])
    if state["free"] != U64(0):
        row = U64(state["free"]) - U64(1)
        state["free"] = live[row]["next_free"]
    else:
        state["fresh"] = row + U64(1)
    flow = live[row]
    state["opened"] = U64(state["opened"]) + U64(1)
    state["newest"] = row
    if row < U64(state["zero"]):
        clear_words(words[0], row * _LIVE_WORDS, _LIVE_WORDS)
    else:
        state["zero"] = row + U64(1)
    flow["number"] = state["opened"]
    flow["tag"] = tag_of(packet)
    begin_segment(state, flow)
    flow["hashed"] = hashed
    flow["protocol"] = packet["protocol"]
    flow["ip_version"] = packet["ip_version"]
    if upside:
        flow["low_hi"], flow["low_lo"], flow["low_port"] = packet["dst_hi"], packet["dst_lo"], packet["dst_port"]
        flow["high_hi"], flow["high_lo"], flow["high_port"] = packet["src_hi"], packet["src_lo"], packet["src_port"]
    else:
        flow["low_hi"], flow["low_lo"], flow["low_port"] = packet["src_hi"], packet["src_lo"], packet["src_port"]
        flow["high_hi"], flow["high_lo"], flow["high_port"] = packet["dst_hi"], packet["dst_lo"], packet["dst_port"]
    originates = True
    if not state["directed"]:
        originates = first_sender_originates(packet, state["direction"], state["server_ports"])
    flow["upper_originates"] = 1 if upside == originates else 0
    timing = _TCP_TIMING if packet["protocol"] == _TCP else _OTHER_TIMING
    flow["low"]["timing"] = timing
    flow["high"]["timing"] = timing
    if not originates:
        add_turn(flow)
    return row


@inline_kernel
def _opens_another(state: Any, packet: Any, flow: Any, upside: Any) -> Any:
    """Whether a segment opens a new flow, although its key has a live one."""
    if state["syn_opens"] == 0:
        return False
    if state["zeek_reuse"]:
        return reopens(packet, flow)
    closing = flow["closed_by"] != 0
    if state["reuse_closed"] and not closing:
        return False
    return opens_new_flow(packet, flow["high"] if upside else flow["low"], closing)


@inline_kernel
def _clear_mark(mark: Any) -> Any:
    mark["flow"] = 0
    mark["direction"] = 0
    mark["analysis"] = 0
    mark["duplicate_ack"] = 0


@inline_kernel
def _refuse(state: Any, packet: Any) -> Any:
    """Open no flow for a packet, because the table is full."""
    packet["verdict"] = _TABLE_FULL
    state["verdicts"][U64(_FLOW)] -= U64(1)
    state["verdicts"][U64(_TABLE_FULL)] += U64(1)


@inline_kernel
def _count_packet(half: Any, rest: Any, frame: Any, packet: Any, number: Any) -> Any:
    """Count a frame for its sender."""
    time_ns = frame["time_ns"]
    if half["packets"] == U64(0):
        half["last_ns"] = time_ns
        half["time_bits"] = frame["time_bits"]
        rest["first_ns"] = time_ns
        rest["opened_ns"] = time_ns
        rest["opened_frame"] = number
    elif time_ns >= half["last_ns"]:
        half["last_ns"] = time_ns
    elif time_ns < rest["first_ns"]:
        rest["first_ns"] = time_ns
    count_more(half, frame, packet)


@inline_kernel
def _note_tcp(state: Any, flow: Any, packet: Any, half: Any, other: Any, upside: Any) -> Any:
    """Let a TCP segment change its flow. Returns True where the flow ends right after it."""
    rest = flow["high_rest"] if upside else flow["low_rest"]
    bad = U64(packet["bits"]) & U64(BAD_CHECKSUM) != U64(0)  # it counts, and says nothing of the connection
    by_syn = state["direction"] == BY_SYN
    # A bool like `by_syn`, so that `follow_segment` is compiled once.
    stays = state["directed"] != 0 or state["direction"] == BY_FIRST or state["direction"] == BY_TRANALYZER
    if by_syn and not bad and not state["directed"]:
        from_originator = upside == (flow["upper_originates"] != 0)
        other_rest = flow["low_rest"] if upside else flow["high_rest"]
        if turns_direction(packet, rest, other_rest, from_originator):
            flow["upper_originates"] = 1 if flow["upper_originates"] == 0 else 0
            flow["turned"] = 1
            add_turn(flow)
    count_flags(packet, half, rest)
    follow_segment(packet, flow, half, other, upside, by_syn or stays)
    if bad:
        return False
    both, reset = note_segment(packet, half, other)
    if state["tcp_end"] == _TCP_END_STATES and half["timing"] != CLOSING:
        over = finished(flow)
        if over != U64(0):
            flow["closed_by"] = _BY_RST if over == U64(2) else _BY_FIN
            half["timing"] = CLOSING
            other["timing"] = CLOSING
    reset = reset and state["tcp_end"] == _TCP_END_BOTH
    ends_by_both = state["tcp_end"] == _TCP_END_BOTH or state["tcp_end"] == _TCP_END_FINS
    if ends_by_both and flow["closed_by"] == 0 and (reset or both):
        flow["closed_by"] = _BY_RST if reset else _BY_FIN
        half["timing"] = CLOSING
        other["timing"] = CLOSING
    if state["tcp_end"] == _TCP_END_FIN and U64(packet["flags"]) & U64(FIN):
        flow["closed_by"] = _BY_FIN
        return True
    return False


@inline_kernel
def _set_clock(state: Any, frame: Any, number: Any) -> Any:
    """Move the clock to the time of a frame; once for each frame, however often it is asked."""
    if U64(state["clocked"]) == number or U64(frame["time_bits"]) & U64(NO_TIME):
        return
    time_ns = frame["time_ns"]
    if U64(state["clocked"]) == U64(0):
        state["clock_ns"] = time_ns
    elif time_ns < state["clock_ns"]:
        state["out_of_order"] += U64(1)
    else:
        # Unsigned, because the step from one end of the range to the other is 2**63 ns.
        if U64(time_ns) - U64(state["clock_ns"]) > U64(HOUR_NS):
            state["forward_jumps"] += U64(1)
        state["clock_ns"] = time_ns
    state["clocked"] = number


@inline_kernel
def _lacks_room(state: Any, live: Any) -> Any:
    """Whether a flow that opens would find no row, though it may open, or no room in the index."""
    if state["live"] >= state["index_room"]:
        return True
    return state["fresh"] == U64(len(live)) and state["free"] == U64(0) and state["live"] < state["max_flows"]


@kernel
def track(state: Any, live: Any, slots: Any, heap: Any, deep: Any, words: Any, batch: Any) -> Any:
    """Give each packet its flow, from frame `at` of STATE on.

    Stops early where no room is left for flows that end, or no row is free; `at` is then the first frame that was not
    handled, and the caller makes room and calls again.

    Args:
        state: STATE[1].
        live: LIVE[n].
        slots: uint64[2**k >= 2 * n], the index of keys.py.
        heap: HEAP, the heap of timeouts.py for n rows.
        deep: ANALYSIS[n]; ANALYSIS[0] without analysis.
        words: Rows as uint64 words: those of `live`, those of flows that ended (GONE_ROWS), and both of `deep`; then
            the hooks of plugins: STEERED[n], STEERED[GONE_ROWS]; uint64 words of their records of both, lower end
            before upper end; the plan of steering.py; words of their shared records; STEER[1]; and words of the
            records of the sender after each packet, all of them empty without plugins; then HOT[n * lines of a row],
            where the ends of `live` are, at lines 1 and 2 of each row; then uint32[m], what `find_first_rows` said of
            the batch at some earlier time, or nothing; then uint32[q], hashes of the keys of quotes.
        batch: FRAME[m]; PACKET[m], where a Verdict may be set; MARK[m], filled; uint32[m], hashes of the keys; and the
            quotes of ICMP errors: PACKET[q], QUOTED[q].
    """
    frames, packets, marks, hashes, quotes, quoted = batch
    table = state[U64(0)]
    if table["at"] == U64(0):
        table["quote"] = 0
        begin_touching(table)
    verdicts = table["verdicts"]
    take_hints(table, slots, hashes, words[6], U64(table["at"]))
    while True:
        while U64(table["at"]) >= U64(table["turn"]):
            touch_rows(table, live, slots, hashes, words[6])
        i = pass_run(table, live, slots, heap, deep, words, batch, U64(table["at"]))
        table["at"] = i
        if i == U64(len(packets)) or _lacks_room(table, live):
            return
        if i >= U64(table["turn"]):
            continue
        frame = frames[i]
        packet = packets[i]
        mark = marks[i]
        number = U64(table["first"]) + i
        fetch_state(table, live, i)
        _set_clock(table, frame, number)
        if table["clock_ns"] >= table["pause_ns"] and U64(table["clocked"]) != U64(0):
            return
        # Asked here as well, because the call alone, with all its arrays, takes as long as the look-up of a flow.
        if heap[FIRST]["wake_ns"] <= table["clock_ns"]:
            most = U64(table["live"])
            if not _end_due(table, live, slots, heap, words, table["clock_ns"], most, _IDLE):
                return
        if U64(table["ended"]) + U64(_ENDED_BY_ONE_FRAME) > U64(GONE_ROWS):
            return
        table["at"] = i + U64(1)
        if table["tcp_only"] and packet["verdict"] == _FLOW and packet["protocol"] != _TCP:
            packet["verdict"] = _NOT_TCP
        verdicts[U64(packet["verdict"])] += U64(1)
        _clear_mark(mark)
        if packet["verdict"] != _FLOW:
            continue
        tcp = packet["protocol"] == _TCP
        upside = False if table["directed"] else is_reversed(packet)
        if not tcp and U64(packet["bits"]) & U64(QUOTES):
            note_quote(table, live, slots, quotes, quoted, words[7], number)
        hashed = U64(hashes[i])
        found = hint_of(table, i)
        if found == U64(0) or not is_row_of(live[found - U64(1)], packet, upside, U64(table["key_mask"])):
            found = find_row(slots, live, packet, upside, hashed, U64(table["key_mask"]))
        reused = found != U64(0) and tcp and _opens_another(table, packet, live[found - U64(1)], upside)
        if reused:
            _end_row(table, live, slots, words, found - U64(1), _NEW_SYN)
            found = U64(0)
        parent, segment, originates = U64(0), U64(0), U64(0)
        if found != U64(0) and is_cut(table, live[found - U64(1)]):
            flow = live[found - U64(1)]
            parent, segment, originates = parent_of(flow), U64(flow["segment"]), U64(flow["upper_originates"])
            _end_row(table, live, slots, words, found - U64(1), _ACTIVE)
            found = U64(0)
        row = found - U64(1)
        if found == U64(0):
            if table["live"] >= table["max_flows"]:
                if table["skip_when_full"]:
                    _refuse(table, packet)
                    continue
                _end_due(table, live, slots, heap, words, NEVER_NS, U64(1), _EVICTED)
            row = _open_row(table, live, words, packet, upside, hashed)
            if segment != U64(0):
                continue_segment(live[row], parent, segment, originates)
            if tcp and table["analysis"]:
                open_analysis(deep[row])
        flow = live[row]
        half = flow["high"] if upside else flow["low"]
        other = flow["low"] if upside else flow["high"]
        held = U64(half["timing"]) if found != U64(0) else U64(_NEW)
        _count_packet(half, flow["high_rest"] if upside else flow["low_rest"], frame, packet, number)
        if half["packets"] == U64(1):
            table["directions"] = U64(table["directions"]) + U64(1)
            if U64(table["directions"]) > U64(table["most_directions"]):
                table["most_directions"] = table["directions"]
        ends = _note_tcp(table, flow, packet, half, other, upside) if tcp else False
        if packet["protocol"] == _UDP:
            follow_datagram(packet, flow, half, upside)
        if tcp and table["analysis"]:
            analyse_segment(frame, packet, half, other, deep[row], upside, reused, mark)
        write_mark(mark, flow, upside)
        due_ns = due_at(table, flow, table["clock_ns"], U64(half["timing"]), held)
        if table["plugins"]:
            profile_ns = table["timeouts_ns"][U64(half["timing"])]
            opened = found == U64(0)
            due_ns, forced = steer_flow(table, frame, packet, flow, row, upside, opened, due_ns, profile_ns, words[4])
            if forced:
                flow["closed_by"] = _BY_PLUGIN
                ends = True
        shorter = due_ns < flow["due_ns"]
        flow["due_ns"] = due_ns
        if found == U64(0):
            index_row(slots, hashed, row)
            push_row(heap, live, row, U64(table["live"]))
            table["live"] = U64(table["live"]) + U64(1)
            if U64(table["live"]) > U64(table["most_live"]):
                table["most_live"] = table["live"]
        elif shorter:
            wake_earlier(heap, live, row, U64(table["live"]))
        if ends:
            _end_row(table, live, slots, words, row, _BY_FIN)


@kernel
def tick(state: Any, live: Any, slots: Any, heap: Any, words: Any, now_ns: Any) -> Any:
    """Move the clock to `now_ns`, if it lies before, and end the flows that are due. Arguments as for `track`.

    Returns:
        False where no room is left for flows that end and more may be due.
    """
    table = state[U64(0)]
    if now_ns > table["clock_ns"]:
        table["clock_ns"] = now_ns
    return _end_due(table, live, slots, heap, words, table["clock_ns"], U64(table["live"]), _IDLE)
