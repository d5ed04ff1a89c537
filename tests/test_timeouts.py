"""The room `timeouts`: the heap of live rows against a sorted list."""

from __future__ import annotations

import random

import numpy as np
import pytest

from traceflow.compiled import COMPILED, U64
from traceflow.live import LIVE
from traceflow.timeouts import HEAP, NEVER_NS, drop_row, push_row, wake_earlier, wake_first_again

ROWS = 64


class Heap:
    """The heap under test beside a plain dict: row to (wake time, number)."""

    def __init__(self) -> None:
        self.live = np.zeros(ROWS, LIVE)
        self.heap = np.zeros(ROWS, HEAP)
        self.model: dict[int, tuple[int, int]] = {}

    @property
    def count(self) -> np.uint64:
        return U64(len(self.model))

    def push(self, row: int, due_ns: int, number: int) -> None:
        self.live[row]["due_ns"], self.live[row]["number"] = due_ns, number
        push_row(self.heap, self.live, U64(row), self.count)
        self.model[row] = (due_ns, number)

    def drop(self, row: int) -> None:
        drop_row(self.heap, U64(row), self.count)
        del self.model[row]

    def set_due(self, row: int, due_ns: int) -> None:
        """An earlier time moves the row at once; a later one waits until the row wakes."""
        self.live[row]["due_ns"] = due_ns
        wake_earlier(self.heap, self.live, U64(row))
        wake_ns, number = self.model[row]
        self.model[row] = (min(wake_ns, due_ns), number)

    def wake_first(self) -> None:
        row = int(self.heap[0]["row"])
        wake_first_again(self.heap, self.live, self.count)
        self.model[row] = (int(self.live[row]["due_ns"]), self.model[row][1])

    def check(self) -> None:
        """No entry is before its parent; every row knows its place; nothing is there twice."""
        entries = self.heap[: len(self.model)]
        assert {int(e["row"]): (int(e["wake_ns"]), int(e["number"])) for e in entries} == self.model
        for at, entry in enumerate(entries):
            assert self.heap[int(entry["row"])]["place"] == at
            assert self.model[int(entry["row"])] >= self.model[int(entries[max(0, at - 1) // 2]["row"])]
        if self.model:
            assert self.model[int(entries[0]["row"])] == min(self.model.values())

    def drain(self) -> list[tuple[int, int]]:
        found = []
        while self.model:
            row = int(self.heap[0]["row"])
            found.append(self.model[row])
            self.drop(row)
            self.check()
        return found


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_out_in_order(seed: int) -> None:
    """Few different times, so that the number decides often."""
    dice = random.Random(seed)
    heap = Heap()
    for number, row in enumerate(dice.sample(range(ROWS), ROWS)):
        heap.push(row, dice.choice((-5, 0, 0, 1, 2, 2**62, NEVER_NS)), number + 1)
        heap.check()
    wanted = sorted(heap.model.values())
    assert heap.drain() == wanted


@pytest.mark.parametrize("seed", range(3))
def test_any_operation_keeps_the_order(seed: int) -> None:
    dice = random.Random(100 + seed)
    heap, number = Heap(), 0
    for _ in range(1500 if COMPILED else 200):
        what = dice.randrange(5)
        if what < 2 and len(heap.model) < ROWS:
            number += 1
            heap.push(dice.choice([row for row in range(ROWS) if row not in heap.model]), dice.randrange(40), number)
        elif what == 2 and heap.model:
            heap.drop(dice.choice(list(heap.model)))
        elif what == 3 and heap.model:
            heap.set_due(dice.choice(list(heap.model)), dice.randrange(60))
        elif what == 4 and heap.model and heap.live[int(heap.heap[0]["row"])]["due_ns"] > heap.heap[0]["wake_ns"]:
            heap.wake_first()
        heap.check()
    wanted = sorted(heap.model.values())
    assert heap.drain() == wanted


def test_what_fills_a_gap_may_have_to_rise() -> None:
    """0            Dropping 11 moves 3, the last one, below 10.
     10     1
    11 12  2 3
    """
    heap = Heap()
    for row, due_ns in enumerate((0, 10, 1, 11, 12, 2, 3)):
        heap.push(row, due_ns, row + 1)
    assert heap.heap["wake_ns"][:7].tolist() == [0, 10, 1, 11, 12, 2, 3]
    heap.drop(3)
    heap.check()
    assert [due_ns for due_ns, _ in heap.drain()] == [0, 1, 2, 3, 10, 12]


def test_a_later_due_time_waits_until_the_row_wakes() -> None:
    heap = Heap()
    heap.push(3, 10, 1)
    heap.push(4, 20, 2)
    heap.set_due(3, 100)
    assert heap.heap[0]["row"] == 3
    heap.wake_first()
    assert heap.heap[0]["row"] == 4
    heap.set_due(3, 5)
    assert heap.heap[0]["row"] == 3


def test_never_is_later_than_any_time_with_any_timeout() -> None:
    """Times go up to 2**62 and timeouts stay below it: see packets.TIME_MAX_NS and options."""
    assert NEVER_NS >= 2**62 + 2**62 - 1
    assert np.int64(NEVER_NS) == NEVER_NS
