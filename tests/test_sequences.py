"""Lists as text, steps of times, and the option for sizes."""

from __future__ import annotations

import numpy as np
import pytest

from traceflow.errors import UsageError
from traceflow.plugins.sequences import SIZES, lists, size_code, steps_of


def test_lists_hold_the_first_values() -> None:
    texts = lists(np.array([[1, -2, 3], [4, 5, 6]]), np.array([3, 1]))
    assert texts.tolist() == ["1;-2;3", "4"]


def test_a_list_of_nothing_is_masked() -> None:
    texts = lists(np.array([[1, 2], [3, 4]]), np.array([0, 2]))
    assert texts[0] is np.ma.masked
    assert texts[1] == "3;4"


def test_no_rows() -> None:
    assert lists(np.zeros((0, 3), np.int64), np.zeros(0, np.int64)).tolist() == []


def test_steps() -> None:
    """From the earliest to the latest time that there is, 2**63 ns do not fit: one less is said."""
    times = np.array([[10, 30, 25, 25], [-(2**62), 2**62, -(2**62), 0]])
    assert steps_of(times).tolist() == [[0, 20, -5, 0], [0, 2**63 - 1, -(2**63), 2**62]]
    assert times[0].tolist() == [10, 30, 25, 25]


def test_sizes_by_name() -> None:
    assert [size_code("p", size) for size in SIZES] == [0, 1, 2]
    with pytest.raises(UsageError, match=r"plugin p: unknown size 'payloud'.*payload"):
        size_code("p", "payloud")
