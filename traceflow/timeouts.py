"""Which flow is due at a moment: a heap of live rows by wake time, ties by flow number.

A packet only moves its flow's `due_ns` forward; the heap is left alone. When the earliest `wake_ns` is reached, that
flow either is due, or goes back into the heap with its true time. So a packet costs nothing here, any number of
different timeouts works, and flows still end in the exact order of (due time, flow number), whatever the batches:
a wake time is never later than the due time. A timeout that becomes shorter moves its row up at once.

The heap holds what it compares, and where each row stands in it, so that going through it touches no rows: with many
live flows each of them would be a trip to memory.
Times are int64 nanoseconds of packet time; nothing here reads a clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel, prefetch

__all__ = ["HEAP", "NEVER_NS", "drop_row", "fetch_place", "push_row", "wake_earlier", "wake_first_again", "when_due"]

NEVER_NS = np.int64(2**63 - 1)
"""Due time of a flow without a timeout."""

_AHEAD = U64(16)

HEAP = np.dtype([("wake_ns", "i8"), ("number", "u8"), ("row", "u4"), ("place", "u4")], align=True)
"""An entry of the heap: when to look at a flow, its number, its row. `place` is no part of the entry: in element n it
says where in the heap row n stands."""


@inline_kernel
def _before(a: Any, b: Any) -> Any:
    """Whether entry `a` wakes before entry `b`."""
    if a["wake_ns"] != b["wake_ns"]:
        return a["wake_ns"] < b["wake_ns"]
    return a["number"] < b["number"]


@inline_kernel
def _put(heap: Any, at: Any, wake_ns: Any, number: Any, row: Any) -> Any:
    """Write an entry, and where its row stands."""
    entry = heap[at]
    entry["wake_ns"] = wake_ns
    entry["number"] = number
    entry["row"] = row
    heap[row]["place"] = at


@outline_kernel
def _rise(heap: Any, at: Any) -> Any:
    """Move the entry at `at` up to its place."""
    wake_ns, number, row = heap[at]["wake_ns"], heap[at]["number"], U64(heap[at]["row"])
    while at > U64(0):
        above = heap[(at - U64(1)) >> U64(1)]
        if above["wake_ns"] < wake_ns or (above["wake_ns"] == wake_ns and above["number"] < number):
            break
        _put(heap, at, above["wake_ns"], above["number"], U64(above["row"]))
        at = (at - U64(1)) >> U64(1)
    _put(heap, at, wake_ns, number, row)


@outline_kernel
def _sink(heap: Any, at: Any, count: Any) -> Any:
    """Move the entry at `at` down to its place among `count` entries."""
    wake_ns, number, row = heap[at]["wake_ns"], heap[at]["number"], U64(heap[at]["row"])
    while True:
        below = (at << U64(1)) + U64(1)
        if below >= count:
            break
        if below + U64(1) < count and _before(heap[below + U64(1)], heap[below]):
            below += U64(1)
        next_one = heap[below]
        if wake_ns < next_one["wake_ns"] or (wake_ns == next_one["wake_ns"] and number < next_one["number"]):
            break
        _put(heap, at, next_one["wake_ns"], next_one["number"], U64(next_one["row"]))
        at = below
    _put(heap, at, wake_ns, number, row)


@inline_kernel
def fetch_place(heap: Any, row: Any) -> Any:
    """Have the processor fetch where a row stands in the heap."""
    prefetch(heap, row, U64(0))


@inline_kernel
def push_row(heap: Any, live: Any, row: Any, count: Any) -> Any:
    """Add a row, whose `due_ns` is set, to a heap of `count` entries."""
    _put(heap, count, live[row]["due_ns"], live[row]["number"], row)
    _rise(heap, count)


@inline_kernel
def wake_earlier(heap: Any, live: Any, row: Any) -> Any:
    """Move a row up if its `due_ns` has become earlier than its wake time."""
    at = U64(heap[row]["place"])
    if live[row]["due_ns"] < heap[at]["wake_ns"]:
        heap[at]["wake_ns"] = live[row]["due_ns"]
        _rise(heap, at)


@inline_kernel
def wake_first_again(heap: Any, live: Any, count: Any) -> Any:
    """Put the first row back at its true `due_ns`, because it was not due when it woke."""
    heap[U64(0)]["wake_ns"] = live[U64(heap[U64(0)]["row"])]["due_ns"]
    _sink(heap, U64(0), count)


@inline_kernel
def drop_row(heap: Any, row: Any, count: Any) -> Any:
    """Take any row out of a heap of `count` entries."""
    at = U64(heap[row]["place"])
    last = count - U64(1)
    if at != last:
        moved = heap[last]
        _put(heap, at, moved["wake_ns"], moved["number"], U64(moved["row"]))
        _rise(heap, at)
        _sink(heap, at, last)


@kernel
def when_due(heap: Any, live: Any, count: Any, due_ns: Any) -> Any:
    """When each row of a heap is due, in the order of the heap; rows lie anywhere in memory, so some are fetched ahead.

    Args:
        heap: HEAP[n].
        live: LIVE[n].
        count: Entries of the heap.
        due_ns: int64[count], filled.
    """
    for i in range(count):
        if U64(i) + _AHEAD < U64(count):
            prefetch(live, U64(heap[U64(i) + _AHEAD]["row"]), U64(0))
        due_ns[U64(i)] = live[U64(heap[U64(i)]["row"])]["due_ns"]
