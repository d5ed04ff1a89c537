"""The room `holes`: which octets of a direction were not seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from traceflow.compiled import U64
from traceflow.holes import ISLANDS, has_seen, land, receive
from traceflow.states import SIDE


@pytest.fixture(autouse=True, scope="module")
def as_in_a_kernel() -> Iterator[None]:
    with np.errstate(over="ignore"):
        yield


def side(start: int) -> Any:
    row = np.zeros(1, SIDE)[0]
    row["next_seq"] = start
    return row


def state(row: Any) -> tuple[int, list[tuple[int, int]]]:
    numbers = row["islands"].tolist()
    count = int(row["island_count"])
    return int(row["next_seq"]), list(zip(numbers[: 2 * count : 2], numbers[1 : 2 * count : 2], strict=True))


@pytest.mark.parametrize(
    ("pieces", "expected", "islands"),
    [
        ([(100, 110), (110, 120)], 120, []),
        ([(100, 110), (90, 105), (100, 110)], 110, []),  # sent again
        ([(120, 130)], 100, [(120, 130)]),
        ([(120, 130), (100, 120)], 130, []),  # the hole is filled
        ([(120, 130), (100, 125)], 130, []),
        ([(120, 130), (130, 140)], 100, [(120, 140)]),
        ([(120, 130), (110, 120)], 100, [(110, 130)]),
        ([(120, 130), (140, 150)], 100, [(120, 130), (140, 150)]),
        ([(140, 150), (120, 130)], 100, [(120, 130), (140, 150)]),
        ([(120, 130), (140, 150), (130, 140)], 100, [(120, 150)]),
        ([(120, 130), (140, 150), (100, 120)], 130, [(140, 150)]),
        ([(120, 130), (140, 150), (100, 120), (130, 140)], 150, []),
        ([(120, 130), (140, 150), (160, 170)], 100, [(120, 130), (140, 170)]),  # no third one is kept
    ],
)
def test_pieces(pieces: list[tuple[int, int]], expected: int, islands: list[tuple[int, int]]) -> None:
    """From 100 on, and again with the numbers wrapping behind 125."""
    for shift in (0, 2**32 - 125):
        row = side((100 + shift) % 2**32)
        for first, behind in pieces:
            receive(row, U64((first + shift) % 2**32), U64((behind + shift) % 2**32))
        moved = [((a + shift) % 2**32, (b + shift) % 2**32) for a, b in islands]
        assert state(row) == ((expected + shift) % 2**32, moved)
        assert len(islands) <= ISLANDS


def test_landing_takes_up_what_was_reached() -> None:
    row = side(100)
    for piece in ((120, 130), (140, 150)):
        receive(row, U64(piece[0]), U64(piece[1]))
    row["next_seq"] = 145
    land(row)
    assert state(row) == (150, [])


@pytest.mark.parametrize("start", [100, 2**32 - 15])
@pytest.mark.parametrize(
    ("first", "behind", "expected"),
    [(-10, 0, True), (-5, 1, False), (0, 10, False), (20, 30, True), (22, 28, True), (19, 30, False), (20, 31, False)],
)
def test_what_was_seen(start: int, first: int, behind: int, expected: bool) -> None:
    """All before `start`, and 20 to 30 behind it; also where the numbers wrap."""
    row = side(start)
    numbers = [U64((start + number) % 2**32) for number in (20, 30, first, behind)]
    receive(row, numbers[0], numbers[1])
    assert bool(has_seen(row, numbers[2], numbers[3])) == expected
