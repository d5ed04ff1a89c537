"""Which flow is due at a moment: a heap of live rows by wake time, ties by flow number.

A packet only moves its flow's `due_ns` forward; the heap is left alone. When the earliest `wake_ns` is reached, that
flow either is due, or goes back into the heap with its true time. So a packet costs nothing here, any number of
different timeouts works, and flows still end in the exact order of (due time, flow number), whatever the batches:
a wake time is never later than the due time. A timeout that becomes shorter moves its row up at once.

Times are int64 nanoseconds of packet time; nothing here reads a clock.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, outline_kernel

__all__ = ["NEVER_NS", "drop_row", "push_row", "wake_earlier", "wake_first_again"]

NEVER_NS = 2**63 - 1
"""Due time of a flow without a timeout."""


@inline_kernel
def _before(live: Any, a: Any, b: Any) -> Any:
    """Whether row `a` wakes before row `b`."""
    if live[a]["wake_ns"] != live[b]["wake_ns"]:
        return live[a]["wake_ns"] < live[b]["wake_ns"]
    return live[a]["number"] < live[b]["number"]


@outline_kernel
def _rise(heap: Any, live: Any, at: Any) -> Any:
    """Move the entry at `at` up to its place."""
    row = U64(heap[at])
    while at > U64(0):
        above = (at - U64(1)) >> U64(1)
        other = U64(heap[above])
        if not _before(live, row, other):
            break
        heap[at] = other
        live[other]["heap_at"] = at
        at = above
    heap[at] = row
    live[row]["heap_at"] = at


@outline_kernel
def _sink(heap: Any, live: Any, at: Any, count: Any) -> Any:
    """Move the entry at `at` down to its place among `count` entries."""
    row = U64(heap[at])
    while True:
        below = (at << U64(1)) + U64(1)
        if below >= count:
            break
        other = U64(heap[below])
        if below + U64(1) < count and _before(live, U64(heap[below + U64(1)]), other):
            below += U64(1)
            other = U64(heap[below])
        if not _before(live, other, row):
            break
        heap[at] = other
        live[other]["heap_at"] = at
        at = below
    heap[at] = row
    live[row]["heap_at"] = at


@inline_kernel
def push_row(heap: Any, live: Any, row: Any, count: Any) -> Any:
    """Add a row, whose `due_ns` is set, to a heap of `count` entries."""
    live[row]["wake_ns"] = live[row]["due_ns"]
    heap[count] = row
    _rise(heap, live, count)


@inline_kernel
def wake_earlier(heap: Any, live: Any, row: Any) -> Any:
    """Move a row up because its `due_ns` has become earlier than its `wake_ns`."""
    live[row]["wake_ns"] = live[row]["due_ns"]
    _rise(heap, live, U64(live[row]["heap_at"]))


@inline_kernel
def wake_first_again(heap: Any, live: Any, count: Any) -> Any:
    """Put the first row back at its true `due_ns`, because it was not due when it woke."""
    row = U64(heap[U64(0)])
    live[row]["wake_ns"] = live[row]["due_ns"]
    _sink(heap, live, U64(0), count)


@inline_kernel
def drop_row(heap: Any, live: Any, row: Any, count: Any) -> Any:
    """Take any row out of a heap of `count` entries."""
    at = U64(live[row]["heap_at"])
    last = count - U64(1)
    if at != last:
        moved = U64(heap[last])
        heap[at] = moved
        live[moved]["heap_at"] = at
        _rise(heap, live, at)
        _sink(heap, live, U64(live[moved]["heap_at"]), last)
