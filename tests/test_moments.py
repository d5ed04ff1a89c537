"""Moments: exact sums, spreads against NumPy and against exact fractions, gaps that are never negative."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.compiled import U64, kernel
from traceflow.plugins.moments import MOMENTS, TALK, gap_of, joined, mean_of, note, note_talk, once, spread_of


@kernel
def _note_all(rows: Any, values: Any) -> None:
    for i in range(len(values)):
        note(rows[U64(0)], U64(values[U64(i)]))


@kernel
def _talk_all(rows: Any, times: Any, sides: Any, gaps: Any) -> None:
    for i in range(len(times)):
        at = U64(sides[U64(i)])
        gaps[U64(i)] = note_talk(rows[at], rows[U64(1) - at], times[U64(i)], U64(1))


@kernel
def _gap(times: Any, out: Any) -> None:
    out[U64(0)] = gap_of(times[U64(0)], times[U64(1)])


def noted(values: list[int]) -> Any:
    rows = np.zeros(1, MOMENTS)
    _note_all(rows, np.array(values, np.uint64))
    return rows


def exact_variance(values: list[int], divisor: int) -> Fraction:
    mean = Fraction(sum(values), len(values))
    return sum(((value - mean) ** 2 for value in values), Fraction(0)) / divisor


def test_by_hand() -> None:
    """2, 4, 9: sum 15, mean 5, squares 9 + 1 + 16 = 26; divided by 3 and by 2."""
    rows = noted([2, 4, 9])
    assert rows[0].item()[:5] == (3, 2, 9, 15, 5.0)
    assert spread_of(rows)[0] == pytest.approx(math.sqrt(26 / 3))
    assert spread_of(rows, sample=True)[0] == pytest.approx(math.sqrt(13))


def test_of_nothing_nothing_is_known_and_of_one_no_sample_spread() -> None:
    rows = np.zeros(1, MOMENTS)
    assert mean_of(rows)[0] is np.ma.masked
    assert spread_of(rows)[0] is np.ma.masked
    assert spread_of(rows, sample=True)[0] is np.ma.masked
    rows = noted([7])
    assert spread_of(rows)[0] == 0
    assert spread_of(rows, sample=True)[0] is np.ma.masked


@given(st.integers(0, 2**53 // 50), st.integers(1, 50))
def test_the_same_number_again_and_again_has_no_spread_at_all(value: int, count: int) -> None:
    assert noted([value] * count)["squares"][0] == 0


@given(st.integers(0, 2**40), st.lists(st.integers(0, 1000), min_size=2, max_size=50))
def test_a_small_spread_of_large_numbers_is_not_lost(base: int, values: list[int]) -> None:
    """With 2**40 ns plain squares have 80 bits: their float64 sum is off by 2**27, far above a variance of 10**6."""
    values = [base + value for value in values]
    rows = noted(values)
    assert int(rows["sum"][0]) == sum(values)
    expected = math.sqrt(exact_variance(values, len(values)))
    assert spread_of(rows)[0] == pytest.approx(expected, rel=1e-6, abs=1e-2)


@given(st.lists(st.integers(0, 2**40), max_size=20), st.lists(st.integers(0, 2**40), max_size=20))
def test_two_sequences_joined_are_one(one: list[int], other: list[int]) -> None:
    both, whole = joined(noted(one), noted(other))[0], noted(one + other)[0]
    for name in ("count", "lowest", "highest", "sum"):
        assert both[name] == whole[name]
    assert both["mean"] == whole["mean"]
    assert both["squares"] == pytest.approx(whole["squares"], rel=1e-9, abs=1e-3)


def test_once_is_noted_once() -> None:
    assert once(np.array([5], np.uint64))[0] == noted([5])[0]


@pytest.mark.parametrize(
    ("now", "before", "gap"), [(5, 3, 2), (3, 3, 0), (3, 5, 0), (2**62, -(2**62), 2**63), (-1, -4, 3)]
)
def test_gaps_are_never_negative_and_never_wrap(now: int, before: int, gap: int) -> None:
    out = np.zeros(1, np.uint64)
    _gap(np.array([now, before]), out)
    assert int(out[0]) == gap


def test_talk_of_two() -> None:
    """Times 0, 10, 8, 30 of sides 1, 0, 1, 1: gaps of the flow 10, 0 (8 is before 10), 20; of side 1: 8, 22."""
    rows, gaps = np.zeros(2, TALK), np.zeros(4, np.uint64)
    _talk_all(rows, np.array([0, 10, 8, 30]), np.array([1, 0, 1, 1]), gaps)
    assert gaps.tolist() == [0, 10, 0, 20]
    assert rows["home"].tolist() == [0, 1]
    assert rows["size"]["count"].tolist() == [1, 3]
    assert rows["flow_gap"]["count"].tolist() == [0, 3]
    assert rows["flow_gap"]["sum"].tolist() == [0, 30]
    assert rows["gap"]["sum"].tolist() == [0, 30]
    assert (rows["gap"]["lowest"][1], rows["gap"]["highest"][1]) == (8, 22)
