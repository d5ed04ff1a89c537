"""Which flow is due at a moment: a heap of live rows by wake time, ties by flow number.

A packet only moves its flow's `due_ns` forward; the heap is left alone. When the earliest `wake_ns` is reached, that
flow either is due, or goes back into the heap with its true time. So a packet costs nothing here, any number of
different timeouts works, and flows still end in the exact order of (due time, flow number), whatever the batches:
a wake time is never later than the due time.

Nothing is taken out of the heap but its first entry. A timeout that becomes shorter adds an entry, and a flow that
ends for another reason leaves its own; such stale entries are dropped when they come to the top. Where more than half
of the entries are stale, the heap is built anew, so that its size follows the number of live flows.

An entry has 16 octets, and the four children of one share a cache line: with many live flows each line is a trip to
memory. Times are int64 nanoseconds of packet time; nothing here reads a clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel, prefetch
from traceflow.live import LAST_LINE, LIVE, cache_line_rows, fetch_row

__all__ = [
    "FIRST",
    "GONE_NS",
    "HEAP",
    "NEVER_NS",
    "clear_heap",
    "drop_row",
    "due_row",
    "grown_heap",
    "push_row",
    "wake_earlier",
    "when_due",
]

NEVER_NS = np.int64(2**63 - 1)
"""Due time of a flow without a timeout."""
GONE_NS = np.int64(-(2**63))
"""Due time of a row that was used and has no flow: before any other."""

HEAP = np.dtype([("wake_ns", "i8"), ("who", "u8")], align=True)
"""An entry of the heap: when to look at a flow; its rank, and below that, in 32 bits, its row.

Ranks of live flows have the order of their numbers, in half the room, see `_rank_anew`. Elements 0 and 1 are no
entries: `who` of the first is the element behind the last entry, and of the second the number of rank 0. So the first
entry is element 3, and the children of element n are 4 n - 8 and the three behind it: a cache line."""
FIRST = U64(3)
"""Where the first entry stands. It wakes at NEVER_NS where there is none."""
_END, _BASE = U64(0), U64(1)
_ROW_BITS, _ROW_MASK = U64(32), U64(0xFFFFFFFF)
_RANKS = U64(1 << 32)
_STALE = 1024  # entries beside two for each flow: a small heap is not built anew all the time
_AHEAD = U64(16)
_KEY_OCTETS, _ROW_OCTETS = U64(64), U64(LIVE.itemsize)


def grown_heap(old: npt.NDArray[np.void], rows: int) -> npt.NDArray[np.void]:
    """A heap for as many rows, with the entries of another: HEAP[k].

    Args:
        old: HEAP, or an empty array.
        rows: How many flows may live.
    """
    heap = cache_line_rows(int(FIRST) + 2 * rows + _STALE + 1, HEAP)
    if len(old):
        used = int(old["who"][_END])
        heap[:used] = old[:used]
    else:
        clear_heap(heap)
    return heap


def clear_heap(heap: npt.NDArray[np.void]) -> None:
    """Forget all entries."""
    heap["who"][_END] = FIRST
    heap["wake_ns"][FIRST] = NEVER_NS


@inline_kernel
def _is_before(wake_ns: Any, who: Any, other_ns: Any, other: Any) -> Any:
    """Whether one entry wakes before another. No short cuts: a branch that nobody can predict takes longer."""
    return (wake_ns < other_ns) | ((wake_ns == other_ns) & (who < other))


@inline_kernel
def _write(heap: Any, at: Any, wake_ns: Any, who: Any) -> Any:
    entry = heap[at]
    entry["wake_ns"] = wake_ns
    entry["who"] = who


@inline_kernel
def _first_child(heap: Any, below: Any, end: Any) -> Any:
    """The child that wakes first, of the up to four from `below` on. The lines of all their children are fetched."""
    further = (below << U64(2)) - U64(8)
    for line in range(4):
        prefetch(heap, further, U64(64 * line))
    if below + U64(4) > end:
        first = below
        for at in range(below + U64(1), end):
            one, best = heap[U64(at)], heap[first]
            if _is_before(one["wake_ns"], U64(one["who"]), best["wake_ns"], U64(best["who"])):
                first = U64(at)
        return first
    a, b, c, d = heap[below], heap[below + U64(1)], heap[below + U64(2)], heap[below + U64(3)]
    low = below + U64(_is_before(b["wake_ns"], U64(b["who"]), a["wake_ns"], U64(a["who"])))
    high = below + U64(2) + U64(_is_before(d["wake_ns"], U64(d["who"]), c["wake_ns"], U64(c["who"])))
    a, b = heap[low], heap[high]
    return low + (high - low) * U64(_is_before(b["wake_ns"], U64(b["who"]), a["wake_ns"], U64(a["who"])))


@outline_kernel
def _rise(heap: Any, at: Any, wake_ns: Any, who: Any) -> Any:
    """Put an entry where it belongs, at `at`, which is free, or above it."""
    while at > FIRST:
        above = heap[(at >> U64(2)) + U64(2)]
        if not _is_before(wake_ns, who, above["wake_ns"], U64(above["who"])):
            break
        _write(heap, at, above["wake_ns"], U64(above["who"]))
        at = (at >> U64(2)) + U64(2)
    _write(heap, at, wake_ns, who)


@outline_kernel
def _sink(heap: Any, at: Any, end: Any, wake_ns: Any, who: Any) -> Any:
    """Put an entry where it belongs, at `at`, which is free, or below it."""
    while (at << U64(2)) - U64(8) < end:
        child = _first_child(heap, (at << U64(2)) - U64(8), end)
        first = heap[child]
        if _is_before(wake_ns, who, first["wake_ns"], U64(first["who"])):
            break
        _write(heap, at, first["wake_ns"], U64(first["who"]))
        at = child
    _write(heap, at, wake_ns, who)


@outline_kernel
def _drop_first(heap: Any) -> Any:
    """Take the first entry out. The gap goes to the bottom: the last entry, which fills it, rarely belongs higher."""
    end = U64(heap[_END]["who"]) - U64(1)
    heap[_END]["who"] = end
    last = heap[end]
    wake_ns, who = last["wake_ns"], U64(last["who"])
    at = FIRST
    while (at << U64(2)) - U64(8) < end:
        child = _first_child(heap, (at << U64(2)) - U64(8), end)
        first = heap[child]
        _write(heap, at, first["wake_ns"], U64(first["who"]))
        at = child
    _rise(heap, at, NEVER_NS if end == FIRST else wake_ns, who)


@outline_kernel
def _order_all(heap: Any) -> Any:
    """Make a heap of entries in any order."""
    end = U64(heap[_END]["who"])
    at = ((end - U64(1)) >> U64(2)) + U64(2) if end > FIRST + U64(1) else FIRST - U64(1)
    while at >= FIRST:
        _sink(heap, at, end, heap[at]["wake_ns"], U64(heap[at]["who"]))
        at -= U64(1)


@inline_kernel
def _is_live(flow: Any) -> Any:
    """Whether a row that was used has a flow."""
    return flow["due_ns"] != GONE_NS


@outline_kernel
def _keep_live(heap: Any, live: Any) -> Any:
    """Keep one entry of each live row, with its due time; in no order."""
    end, kept = U64(heap[_END]["who"]), FIRST
    heap[FIRST]["wake_ns"] = NEVER_NS
    for i in range(FIRST, end):
        at = U64(i)
        if at + _AHEAD < end:
            prefetch(live, U64(heap[at + _AHEAD]["who"]) & _ROW_MASK, U64(0))
            prefetch(live, U64(heap[at + _AHEAD]["who"]) & _ROW_MASK, U64(LAST_LINE))
        who = U64(heap[at]["who"])
        flow = live[who & _ROW_MASK]
        if _is_live(flow) and U64(flow["rank"]) == who >> _ROW_BITS:
            # `kept` may be of another time: it says where to look, and that entry whether it is one of this row.
            before = U64(flow["kept"])
            if before < FIRST or before >= kept or U64(heap[before]["who"]) != who:
                _write(heap, kept, flow["due_ns"], who)
                flow["wake_ns"] = flow["due_ns"]
                flow["kept"] = kept
                kept += U64(1)
    heap[_END]["who"] = kept


@outline_kernel
def _build_anew(heap: Any, live: Any) -> Any:
    """Drop all stale entries. Takes time for each entry, at most two thirds of which were made since the last time."""
    _keep_live(heap, live)
    _order_all(heap)


@outline_kernel
def _rank_anew(heap: Any, live: Any, number: Any) -> Any:
    """Rank all flows in a heap from 0 on, in the order of their numbers, and after them one with `number`.

    Numbers have 64 bits and ranks 32, because an entry has no room for more; this is done once in 2**32 flows.
    """
    _keep_live(heap, live)
    end = U64(heap[_END]["who"])
    for i in range(FIRST, end):
        heap[U64(i)]["wake_ns"] = np.int64(live[U64(heap[U64(i)]["who"]) & _ROW_MASK]["number"])
    _order_all(heap)
    left = end
    while left > FIRST:  # the first entry of those that are left goes behind them
        left -= U64(1)
        last, first = U64(heap[left]["who"]), U64(heap[FIRST]["who"])
        number_of_last = heap[left]["wake_ns"]
        _sink(heap, FIRST, left, number_of_last, last)
        heap[left]["who"] = first
    for i in range(FIRST, end):
        row = U64(heap[U64(i)]["who"]) & _ROW_MASK
        rank = end - U64(1) - U64(i)
        live[row]["rank"] = rank
        _write(heap, U64(i), live[row]["due_ns"], rank << _ROW_BITS | row)
    if end == FIRST:
        heap[FIRST]["wake_ns"] = NEVER_NS
    _order_all(heap)
    heap[_BASE]["who"] = number - (end - FIRST)


@inline_kernel
def _add(heap: Any, flow: Any, row: Any) -> Any:
    """Add an entry of a row, with its `due_ns`."""
    end = U64(heap[_END]["who"])
    flow["wake_ns"] = flow["due_ns"]
    heap[_END]["who"] = end + U64(1)
    _rise(heap, end, flow["due_ns"], U64(flow["rank"]) << _ROW_BITS | row)


@inline_kernel
def _is_full(heap: Any, count: Any) -> Any:
    """Whether more than half of the entries must be stale. What is allowed always has room, see `grown_heap`."""
    return U64(heap[_END]["who"]) >= FIRST + (count << U64(1)) + U64(_STALE)


@outline_kernel
def push_row(heap: Any, live: Any, row: Any, count: Any) -> Any:
    """Add a row, whose `due_ns` and `number` are set, to a heap that holds `count` live rows."""
    flow = live[row]
    number = U64(flow["number"])
    if number - U64(heap[_BASE]["who"]) >= _RANKS:
        _rank_anew(heap, live, number)
    flow["rank"] = number - U64(heap[_BASE]["who"])
    if _is_full(heap, count):
        _build_anew(heap, live)
    _add(heap, flow, row)


@outline_kernel
def wake_earlier(heap: Any, live: Any, row: Any, count: Any) -> Any:
    """Have a row of a heap of `count` live rows wake earlier, if its `due_ns` has become earlier than its wake time."""
    flow = live[row]
    if flow["due_ns"] < flow["wake_ns"]:
        if _is_full(heap, count):
            _build_anew(heap, live)  # which has all rows wake when they are due
        else:
            _add(heap, flow, row)


@inline_kernel
def drop_row(live: Any, row: Any) -> Any:
    """Take a row out, whose flow has ended: its entries are stale from now on."""
    live[row]["due_ns"] = GONE_NS


@inline_kernel
def _fetch_next(heap: Any, live: Any) -> Any:
    """Have the processor fetch the row that wakes next, and of the four that may be the next one what is looked at."""
    fetch_row(live, U64(heap[FIRST]["who"]) & _ROW_MASK, U64(0), _ROW_OCTETS)
    end = U64(heap[_END]["who"])
    if end >= FIRST + U64(5):
        for child in range(4):
            row = U64(heap[FIRST + U64(1 + child)]["who"]) & _ROW_MASK
            prefetch(live, row, U64(0))
            prefetch(live, row, U64(LAST_LINE))


@outline_kernel
def due_row(heap: Any, live: Any, now_ns: Any) -> Any:
    """The row plus one of the flow that is due first, if it is due at `now_ns`, or 0.

    It is the same one until that row is dropped.
    """
    while heap[FIRST]["wake_ns"] <= now_ns and U64(heap[_END]["who"]) != FIRST:
        wake_ns, who = heap[FIRST]["wake_ns"], U64(heap[FIRST]["who"])
        row = who & _ROW_MASK
        flow = live[row]
        stale = not _is_live(flow) or U64(flow["rank"]) != who >> _ROW_BITS
        if not stale and flow["due_ns"] == wake_ns:
            return row + U64(1)
        if stale or flow["wake_ns"] != wake_ns:  # a row that woke earlier went back with another entry
            _drop_first(heap)
        else:
            flow["wake_ns"] = flow["due_ns"]
            _sink(heap, FIRST, U64(heap[_END]["who"]), flow["due_ns"], who)
        _fetch_next(heap, live)
    return U64(0)


@kernel
def when_due(live: Any, used: Any, rows: Any, numbers: Any, due_ns: Any) -> Any:
    """When each live flow is due, in the order of their rows.

    Args:
        live: LIVE[n].
        used: The rows before this one were used.
        rows: uint32[m], filled with the rows of the m live flows.
        numbers: uint64[m], filled with their numbers.
        due_ns: int64[m], filled with their due times.
    """
    count = U64(0)
    for i in range(used):
        row = U64(i)
        prefetch(live, row + _AHEAD, U64(0))
        flow = live[row]
        if _is_live(flow):
            rows[count], numbers[count], due_ns[count] = row, flow["number"], flow["due_ns"]
            count += U64(1)
