"""The room `timeouts`: the heap of live rows against a sorted list."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.compiled import COMPILED, U64
from traceflow.live import LIVE, live_rows
from traceflow.timeouts import (
    FIRST,
    GONE_NS,
    HEAP,
    NEVER_NS,
    clear_heap,
    drop_row,
    due_row,
    grown_heap,
    push_row,
    wake_earlier,
    when_due,
)

ROWS = 64
MOST_STALE = 1024  # entries beside two for each live row


class Heap:
    """The heap under test beside a plain dict: row to (due time, number)."""

    def __init__(self, rows: int = ROWS, opened: int = 0) -> None:
        self.live, self.heap = live_rows(rows), grown_heap(np.zeros(0, HEAP), rows)
        self.opened = opened
        self.model: dict[int, tuple[int, int]] = {}
        self.free = list(range(rows))

    @property
    def entries(self) -> np.ndarray:
        return self.heap[int(FIRST) : int(self.heap["who"][0])]

    def push(self, due_ns: int) -> int:
        """Open a flow in a row: as in the table, the one that was freed last."""
        row = self.free.pop()
        self.opened += 1
        self.live["due_ns"][row], self.live["number"][row] = due_ns, self.opened
        push_row(self.heap, self.live, U64(row), U64(len(self.model)))
        self.model[row] = (due_ns, self.opened)
        return row

    def set_due(self, row: int, due_ns: int) -> None:
        """As a packet does: the heap hears of an earlier time alone."""
        earlier = due_ns < self.model[row][0]
        self.live["due_ns"][row] = due_ns
        if earlier:
            wake_earlier(self.heap, self.live, U64(row), U64(len(self.model)))
        self.model[row] = (due_ns, self.model[row][1])

    def drop(self, row: int) -> tuple[int, int]:
        drop_row(self.live, U64(row))
        self.free.append(row)
        return self.model.pop(row)

    def end_due(self, now_ns: int, most: int = 2**62) -> list[tuple[int, int]]:
        """End what is due: (due time, number), in the order in which the heap says it."""
        ended: list[tuple[int, int]] = []
        while len(ended) < most and (found := int(due_row(self.heap, self.live, np.int64(now_ns)))):
            ended.append(self.drop(found - 1))
        return ended

    def check(self) -> None:
        """No entry is before its parent, no live row without an entry that wakes in time, no more entries than may be.

        A parent is found as in any heap whose nodes have four children, counted from the first entry.
        """
        entries = [(int(wake_ns), int(who)) for wake_ns, who in self.entries.tolist()]
        assert all(one >= entries[(at - 1) // 4] for at, one in enumerate(entries) if at)
        assert len(entries) <= 2 * ROWS + MOST_STALE + 1
        assert int(self.heap["wake_ns"][FIRST]) == (entries[0][0] if entries else NEVER_NS)
        in_time = set()
        for wake_ns, who in entries:
            rank, row = divmod(who, 2**32)
            if row in self.model and self.live["rank"][row] == rank and wake_ns <= self.model[row][0]:
                in_time.add(row)
        assert in_time == set(self.model)


def test_an_entry_shares_its_cache_line_with_its_siblings() -> None:
    """Four of 16 octets in a line of 64: the children of the first entry begin one, and so do all others."""
    for rows in (1, 2, 3, 1000):
        heap = grown_heap(np.zeros(0, HEAP), rows)
        assert (HEAP.itemsize, heap[int(FIRST) + 1 :].ctypes.data % 64) == (16, 0)


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_out_in_order(seed: int) -> None:
    """Few different times, so that the number decides often."""
    dice, heap = random.Random(seed), Heap()
    dice.shuffle(heap.free)
    for _ in range(ROWS):
        heap.push(dice.choice((-5, 0, 0, 1, 2, 2**62, int(NEVER_NS))))
        heap.check()
    wanted = sorted(heap.model.values())
    assert heap.end_due(int(NEVER_NS)) == wanted
    heap.check()
    assert heap.heap["wake_ns"][FIRST] == NEVER_NS, "an empty heap wakes nobody"


TIMES = st.one_of(st.integers(0, 12), st.sampled_from([-(2**62), 2**62, int(NEVER_NS)]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), TIMES),
        st.tuples(st.just("set"), TIMES, st.integers(0, ROWS)),
        st.tuples(st.just("drop"), st.integers(0, ROWS)),
        st.tuples(st.just("end"), TIMES),
        st.tuples(st.just("evict"), st.integers(1, 3)),
    ),
    max_size=80,
)


@settings(max_examples=300 if COMPILED else 40, deadline=None)
@given(STEPS, st.sampled_from([0, 2**32 - 5, 2**32 - 20, 2**40]))
def test_any_steps_end_flows_in_order(steps: list[tuple[str, ...]], opened: int) -> None:
    """Opened flows, shorter and longer due times, flows that end otherwise and rows that are used again, against a
    list that is sorted. Numbers pass 2**32 in some, where ranks begin anew.
    """
    heap = Heap(opened=opened)
    for what, *how in steps:
        value = int(how[0])
        rows = sorted(heap.model)
        if what == "push" and heap.free:
            heap.push(value)
        elif what == "set" and rows:
            heap.set_due(rows[int(how[1]) % len(rows)], value)
        elif what == "drop" and rows:
            heap.drop(rows[value % len(rows)])
        elif what == "end":
            wanted = sorted(one for one in heap.model.values() if one[0] <= value)
            assert heap.end_due(value) == wanted
        elif what == "evict":
            wanted = sorted(heap.model.values())[:value]
            assert heap.end_due(int(NEVER_NS), value) == wanted
        heap.check()
    wanted = sorted(heap.model.values())
    assert heap.end_due(int(NEVER_NS)) == wanted


def test_an_entry_that_a_flow_left_does_not_end_the_next_in_its_row() -> None:
    """Flow 1 ends otherwise, flow 3 has its row and its due time: between the two stands flow 2, also due then."""
    heap = Heap()
    row = heap.push(10)
    heap.push(10)
    heap.drop(row)
    assert heap.push(10) == row
    assert heap.end_due(10) == [(10, 2), (10, 3)]


def test_an_entry_that_was_superseded_is_dropped_when_it_comes_up() -> None:
    """Due at 100, at 5, then at 200. The entry of 5 goes on to 200; that of 100 is gone at 100, not moved as well."""
    heap = Heap()
    row = heap.push(100)
    heap.set_due(row, 5)
    heap.set_due(row, 200)
    assert sorted(heap.entries["wake_ns"].tolist()) == [5, 100]
    assert (heap.end_due(99), sorted(heap.entries["wake_ns"].tolist())) == ([], [100, 200])
    assert (heap.end_due(100), heap.entries["wake_ns"].tolist()) == ([], [200])
    assert heap.end_due(200) == [(200, 1)]


def test_a_later_due_time_waits_until_the_row_wakes() -> None:
    heap = Heap()
    one, two = heap.push(10), heap.push(20)
    heap.set_due(one, 100)
    assert heap.heap["wake_ns"][FIRST] == 10
    assert heap.end_due(10) == []
    assert heap.heap["wake_ns"][FIRST] == 20
    heap.set_due(two, 200)
    assert (heap.end_due(20), heap.heap["wake_ns"][FIRST]) == ([], 100)
    heap.set_due(one, 300)
    assert (heap.end_due(100), heap.heap["wake_ns"][FIRST]) == ([], 200)
    heap.set_due(one, 50)
    assert heap.heap["wake_ns"][FIRST] == 50
    assert heap.end_due(300) == [(50, 1), (200, 2)]


def test_flows_that_end_otherwise_leave_a_bounded_heap() -> None:
    """One flow stays and each of many others ends before it is due. Two live at most, of which the newer one comes to
    a heap of one live row: with 2 + 1024 entries that is built anew.
    """
    heap, most = Heap(rows=2), 0
    heap.push(50)
    for _ in range(3000):
        heap.drop(heap.push(1000))
        most = max(most, len(heap.entries))
    assert most == 2 * 1 + MOST_STALE
    assert len(heap.entries) < most
    heap.check()
    assert heap.end_due(1000) == [(50, 1)]


def test_a_due_time_that_jumps_between_two_leaves_a_bounded_heap() -> None:
    """Each time it becomes shorter it adds an entry, and each of these goes on to the same later time when it wakes.
    All are equal then, so that only `kept` tells that they are of one row. From 3 entries on, after the first round,
    they become 1028, which is full, in round 1025 (counted from 0). The flow that opens then finds a heap of two.
    """
    heap = Heap(rows=3)
    row, other = heap.push(10**6), heap.push(3 * 10**6)

    def jump(now_ns: int) -> int:
        heap.set_due(row, now_ns)
        heap.set_due(row, 10**6)
        assert heap.end_due(now_ns) == []
        return len(heap.entries)

    assert [jump(now_ns) for now_ns in range(1026)] == [*range(3, 2 * 2 + MOST_STALE + 1)]
    heap.push(2 * 10**6)
    assert len(heap.entries) == 3
    heap.check()
    assert max(jump(now_ns) for now_ns in range(1026, 3000)) == 2 * 3 + MOST_STALE
    heap.set_due(other, 10**6)
    assert heap.end_due(2 * 10**6) == [(10**6, 1), (10**6, 2), (2 * 10**6, 3)]


def test_a_heap_that_is_built_anew_holds_each_row_once_and_wakes_it_when_it_is_due() -> None:
    """40 flows, the first the latest by now, and 1064 entries of flows that ended; the next one finds the heap full."""
    heap, dues = Heap(), [*range(140, 100, -1)]
    rows = [heap.push(due_ns) for due_ns in range(40)]
    for row, due_ns in zip(rows, dues, strict=True):
        heap.set_due(row, due_ns)
    while len(heap.entries) < 2 * 40 + MOST_STALE:
        heap.drop(heap.push(2000))
    heap.push(50)
    heap.check()
    assert sorted(heap.entries["wake_ns"].tolist()) == [50, *sorted(dues)]
    heap.set_due(rows[39], 500)  # the first of the 40 to wake, at 101
    assert heap.end_due(2000) == [(50, heap.opened), *((140 - at, at + 1) for at in range(38, -1, -1)), (500, 40)]


def test_a_shorter_time_that_finds_the_heap_full_needs_no_entry() -> None:
    heap = Heap(rows=2)
    row = heap.push(5000)
    while len(heap.entries) < 2 + MOST_STALE:
        heap.drop(heap.push(6000))
    heap.set_due(row, 40)
    assert heap.entries["wake_ns"].tolist() == [40]
    assert heap.end_due(40) == [(40, 1)]


def test_ranks_begin_anew_where_32_bits_end() -> None:
    """All are due at the same time, so that ranks alone decide. The flow 2**32 finds none left: the four that live
    get 0 to 3 by their numbers, whatever their rows, and it gets 4.
    """
    heap = Heap()
    heap.free[-5:] = [9, 3, 40, 1, 20]
    old = [heap.push(7), heap.push(7)]
    heap.opened = 2**32 - 3
    old += [heap.push(7), heap.push(7)]
    assert heap.live["rank"][old].tolist() == [1, 2, 2**32 - 2, 2**32 - 1]
    new = [heap.push(7), heap.push(7)]
    assert heap.live["rank"][[*old, *new]].tolist() == [0, 1, 2, 3, 4, 5]
    heap.check()
    assert [number for _, number in heap.end_due(7)] == [1, 2, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1]


def test_a_heap_that_grows_keeps_its_entries() -> None:
    heap = Heap(rows=4)
    for due_ns in (9, 3, 3, int(NEVER_NS)):
        heap.push(due_ns)
    live = np.zeros(40, LIVE)
    for name in ("due_ns", "number", "rank", "wake_ns"):
        live[name][:4] = heap.live[name]
    heap.live, heap.heap, heap.free = live, grown_heap(heap.heap, 40), list(range(4, 40))
    heap.push(4)
    assert [number for _, number in heap.end_due(int(NEVER_NS))] == [2, 3, 5, 1, 4]
    assert (len(grown_heap(heap.heap, 1000)), len(heap.heap)) == (3 + 2000 + 1025, 3 + 80 + 1025)


def test_a_heap_that_was_cleared_is_empty() -> None:
    heap = Heap()
    heap.push(3)
    clear_heap(heap.heap)
    assert (len(heap.entries), int(due_row(heap.heap, heap.live, NEVER_NS))) == (0, 0)


def test_when_due_lists_the_rows_that_have_a_flow() -> None:
    """Three of four rows that were used; rows behind them were used before the table was emptied."""
    live = np.zeros(6, LIVE)
    live["due_ns"], live["number"] = (5, GONE_NS, -3, NEVER_NS, 8, 9), (4, 1, 3, 2, 7, 8)
    rows, numbers, due_ns = np.zeros(3, np.uint32), np.zeros(3, np.uint64), np.zeros(3, np.int64)
    when_due(live, 4, rows, numbers, due_ns)
    assert (rows.tolist(), numbers.tolist(), due_ns.tolist()) == ([0, 2, 3], [4, 3, 2], [5, -3, NEVER_NS])


def test_never_is_later_than_any_time_with_any_timeout() -> None:
    """Times go up to 2**62 and timeouts stay below it: see packets.TIME_MAX_NS and options."""
    assert NEVER_NS >= 2**62 + 2**62 - 1
    assert np.int64(NEVER_NS) == NEVER_NS
    assert GONE_NS < -(2**62)
