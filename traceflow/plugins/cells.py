"""Values that a hook returns, or that lie in a record, as the column of a plugin: a masked array of its type.

What a column cannot hold is an error and never something else that it can hold: a count of 300 in a column of type u1
would be 44. What is no number (NaN, infinity) is an empty cell, as None and what is masked: numbers in outputs are
never NaN. Text is kept as it is, whatever it holds; what writes it has to quote it.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from traceflow.plugins.contract import Column

__all__ = ["column_of", "empty_column"]


def empty_column(column: Column, count: int) -> Any:
    """`count` empty cells."""
    kind = object if column.type == "text" else np.dtype(column.type)
    return np.ma.array(np.zeros(count, kind), mask=np.ones(count, np.bool_))


def column_of(column: Column, values: Any, defined: Any) -> Any:
    """Values as a column, in memory of its own.

    Args:
        column: The column.
        values: One a flow: an array, masked or not, or a list, where None is an empty cell.
        defined: bool[k], where the column means something; all other cells are empty.

    Raises:
        ValueError: Not as many values as flows, or one that the column cannot hold.
        TypeError: Text in a column of numbers, or the other way round.
    """
    given = _listed(values) if isinstance(values, list | tuple) else np.ma.asarray(values)
    if given.shape != defined.shape:
        raise ValueError(f"column {column.name} has values of shape {given.shape} for {len(defined)} flows")
    mask = np.ma.getmaskarray(given) | ~defined
    if given.dtype.kind in "iu" and given.dtype == column.type:  # nothing can be out of range
        return np.ma.array(np.where(mask, given.dtype.type(0), given.data), mask=mask)
    cells = empty_column(column, len(defined))
    if column.type == "text":
        for at in np.flatnonzero(~mask).tolist():
            if not isinstance(given.data[at], str):
                raise TypeError(f"column {column.name} is text, and {given.data[at]!r} is none")
            cells[at] = str(given.data[at])
        return cells
    places = np.flatnonzero(~mask)
    numbers = _numbers(column, given.data[places])
    finite = np.isfinite(numbers) if numbers.dtype.kind == "f" else np.ones(len(numbers), np.bool_)
    cells[places[finite]] = _fitting(column, numbers[finite])
    return cells


def _listed(values: Any) -> Any:
    """A list as an array of objects: mixed integers would become floats, and lose digits."""
    cells = np.empty(len(values), object)
    for at, value in enumerate(values):
        cells[at] = value
    return np.ma.array(cells, mask=[value is None or value is np.ma.masked for value in values])


def _numbers(column: Column, values: Any) -> Any:
    """Values as integers or floats of any size; objects where integers are beyond 64 bits."""
    if values.dtype.kind == "O":
        if column.type[0] == "f" or any(isinstance(value, float | np.floating) for value in values):
            values = np.array([_float(column, value) for value in values], np.float64)
        else:
            try:
                return np.array([operator.index(value) for value in values], object)
            except TypeError as error:
                raise TypeError(f"column {column.name} is of type {column.type}: {error}") from None
    if values.dtype.kind not in "biuf":
        raise TypeError(f"column {column.name} is of type {column.type}, and its values are {values.dtype}")
    if column.type[0] == "f":
        with np.errstate(over="ignore"):  # beyond the largest float of the type: infinite, and so an empty cell
            return values.astype(column.type)
    return values


def _float(column: Column, value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"column {column.name} is of type {column.type}, and {value!r} is no number")
    return float(value)


def _fitting(column: Column, numbers: Any) -> Any:
    """Finite numbers as the type of the column."""
    kind = np.dtype(column.type)
    if kind.kind == "f" or not len(numbers):
        return numbers.astype(kind)
    range_of = np.iinfo(kind)
    for number in (numbers.min(), numbers.max()):
        # as Python's integers: 2**64 - 1 and 2**64 are the same float
        if not range_of.min <= int(number) <= range_of.max:
            raise ValueError(f"column {column.name} is of type {column.type}, which cannot hold {number}")
    if numbers.dtype.kind == "f" and (broken := numbers[numbers != np.floor(numbers)]).size:
        raise ValueError(f"column {column.name} is of type {column.type}, which cannot hold {broken[0]}")
    return numbers.astype(kind)
