"""The module `plugins/cells.py`: values of plugins as columns. What a column cannot hold is an error; NaN is empty."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from traceflow.plugins import Column
from traceflow.plugins.cells import column_of, empty_column

EMPTY = None
TOP64 = 2**64 - 1


def made(kind: str, values: Any, defined: list[bool] | None = None) -> list[Any]:
    """The cells of a column of some type."""
    count = len(values)
    column = column_of(Column("x", kind), values, np.array([True] * count if defined is None else defined, np.bool_))
    cells: list[Any] = column.tolist()
    return cells


@pytest.mark.parametrize(
    ("kind", "values", "cells"),
    [
        ("u1", [0, 255, None], [0, 255, EMPTY]),
        ("i1", [-128, 127], [-128, 127]),
        ("u8", [0, TOP64], [0, TOP64]),
        ("u8", [TOP64, None, 2**63], [TOP64, EMPTY, 2**63]),  # as floats the first would be 2**64
        ("i8", [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("u4", np.array([1.0, 2.0]), [1, 2]),  # whole numbers, as a division gives them
        ("u4", np.array([1.0, math.nan, math.inf]), [1, EMPTY, EMPTY]),
        ("u4", [1, math.nan], [1, EMPTY]),
        ("u1", np.array([True, False]), [1, 0]),
        ("u1", [np.uint64(7), np.int8(3)], [7, 3]),
        ("f8", [1, 0.5, math.nan, math.inf, -math.inf], [1.0, 0.5, EMPTY, EMPTY, EMPTY]),
        ("f4", [0.5, 1e39], [0.5, EMPTY]),  # the largest f4 is 3.4e38
        ("f8", [10**400 // 10**399], [10.0]),
        ("text", ["a", None, "two\nlines", 'x,"y"', ""], ["a", EMPTY, "two\nlines", 'x,"y"', ""]),
        ("text", np.array(["a", "bc"]), ["a", "bc"]),
        ("u1", np.ma.array([1, 999], mask=[False, True]), [1, EMPTY]),  # what is masked need not fit
        ("u2", (1, 2), [1, 2]),
        ("u1", [], []),
    ],
)
def test_what_a_column_holds(kind: str, values: Any, cells: list[Any]) -> None:
    assert made(kind, values) == cells


@pytest.mark.parametrize(
    ("kind", "values", "error", "says"),
    [
        ("u1", [0, 300], ValueError, "column x is of type u1, which cannot hold 300"),
        ("u1", np.array([5, -1]), ValueError, "cannot hold -1"),
        ("u8", [-1, TOP64], ValueError, "cannot hold -1"),
        ("u8", [2**64], ValueError, "cannot hold 18446744073709551616"),
        ("u8", np.array([2.0**64]), ValueError, "cannot hold"),
        ("i8", np.array([2**63], np.uint64), ValueError, "cannot hold 9223372036854775808"),
        ("u4", [1.5], ValueError, "cannot hold 1.5"),
        ("u4", ["3"], TypeError, "column x is of type u4"),
        ("f8", ["3"], TypeError, "'3' is no number"),
        ("f8", np.array(["3"]), TypeError, "its values are <U1"),
        ("f8", np.array([1j]), TypeError, "complex"),
        ("u4", [[1, 2]], TypeError, "column x is of type u4"),
        ("text", [7], TypeError, "column x is text, and 7 is none"),
        ("text", [b"7"], TypeError, "is none"),
        ("u4", 5, ValueError, r"shape \(\) for 1 flows"),
        ("u4", [1, 2], ValueError, r"shape \(2,\) for 1 flows"),
        ("u4", np.zeros((1, 2)), ValueError, r"shape \(1, 2\) for 1 flows"),
    ],
)
def test_what_it_cannot_hold(kind: str, values: Any, error: type[Exception], says: str) -> None:
    count = 1 if "for 1 flows" in says else len(values)
    with pytest.raises(error, match=says):
        column_of(Column("x", kind), values, np.ones(count, np.bool_))


def test_cells_that_mean_nothing_are_empty_and_need_not_fit() -> None:
    assert made("u1", [1, 300, None], [True, False, False]) == [1, EMPTY, EMPTY]
    assert made("text", ["a", 5], [True, False]) == ["a", EMPTY]


def test_the_cells_are_no_view_of_what_was_given() -> None:
    """A plugin may use its array again for the next flows."""
    given = np.array([1, 2], np.uint32)
    cells = column_of(Column("x", "u4"), given, np.ones(2, np.bool_))
    given[:] = 9
    assert cells.tolist() == [1, 2]


def test_empty_columns() -> None:
    for kind in ("u1", "f8", "text"):
        cells = empty_column(Column("x", kind), 2)
        assert cells.tolist() == [EMPTY, EMPTY]
        assert cells.dtype == (object if kind == "text" else np.dtype(kind))
