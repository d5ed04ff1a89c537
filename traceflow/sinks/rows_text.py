"""Whole columns to text: times, spans, addresses, ranges of frame numbers.

A column at a time, because one Python object a row is what rows cannot afford: csv is to take some microseconds a row.
Nothing here knows FLOW or PACKET.
"""

from __future__ import annotations

import math
import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.labels import address_texts, time_text
from traceflow.packets import FINER_THAN_MICROSECONDS

__all__ = ["blank_where", "column_cells", "end_texts", "range_texts", "span_texts", "time_texts"]

_NOT_FINITE = {"nan", "inf", "-inf"}
_SECOND_NS = 1_000_000_000


def blank_where(empty: npt.NDArray[np.bool_], cells: list[Any]) -> list[Any]:
    """Cells with None where `empty` says so.

    Args:
        empty: bool[k].
        cells: k cells.
    """
    if not empty.any():
        return cells
    if empty.all():
        return [None] * len(cells)
    return [None if blank else cell for cell, blank in zip(cells, empty.tolist(), strict=True)]


def column_cells(values: Any) -> list[Any]:
    """Cells of a column of a plugin.

    Args:
        values: Array, or masked array, [k].

    Returns:
        int, str, or None where masked; numbers with a fraction as text that reads back as the same number, and None
        where they are not finite, which no format of rows can say.
    """
    cells: list[Any] = values.tolist()
    if values.dtype.kind == "O":  # no output can hold half a surrogate pair: it becomes an escape
        return [None if cell is None else cell.encode("utf-8", "backslashreplace").decode() for cell in cells]
    if values.dtype.kind != "f":
        return cells
    if values.dtype.itemsize == 4:  # the shortest text that gives the same float32
        masked = np.ma.getmaskarray(values).tolist()
        texts = [str(value) for value in np.ma.getdata(values)]
        return [None if blank or text in _NOT_FINITE else text for text, blank in zip(texts, masked, strict=True)]
    return [None if cell is None or not math.isfinite(cell) else repr(cell) for cell in cells]


def end_texts(
    upper: npt.NDArray[np.uint64], lower: npt.NDArray[np.uint64], ip_versions: npt.NDArray[np.uint8]
) -> list[str]:
    """Addresses as text.

    Where all are IPv4, as in most captures, the C library writes them: 0.2 us each instead of 2.

    Args:
        upper: uint64[k], upper halves.
        lower: uint64[k], lower halves.
        ip_versions: uint8[k].
    """
    if (ip_versions == 4).all():
        # Four octets in network order each; a void of four octets becomes bytes.
        return list(map(socket.inet_ntoa, lower.astype(">u4").view("V4").tolist()))
    return address_texts(np.column_stack((upper, lower)), ip_versions)


def time_texts(times_ns: npt.NDArray[np.int64], fine: npt.NDArray[np.bool_]) -> list[str]:
    """Times as `labels.time_text` writes them: seconds since 1970, a dot, and 6 or 9 digits.

    Args:
        times_ns: int64[k], nanoseconds since 1970.
        fine: bool[k], where 9 digits are wanted.
    """
    if len(times_ns) and times_ns.min() < 0:
        bits = np.where(fine, FINER_THAN_MICROSECONDS, 0).tolist()
        return [time_text(time, bit) for time, bit in zip(times_ns.tolist(), bits, strict=True)]
    return span_texts(times_ns.astype(np.uint64), fine)


def span_texts(spans_ns: npt.NDArray[np.uint64], fine: npt.NDArray[np.bool_]) -> list[str]:
    """Spans of time in seconds with 6 or 9 digits.

    Args:
        spans_ns: uint64[k], nanoseconds.
        fine: bool[k], where 9 digits are wanted.
    """
    if not fine.any():  # at least seven digits, and a dot before the last six
        digits = map("%07d".__mod__, (spans_ns // np.uint64(1000)).tolist())
        return [f"{text[:-6]}.{text[-6:]}" for text in digits]
    seconds, rest = np.divmod(spans_ns, np.uint64(_SECOND_NS))
    patterns = np.where(fine, "%d.%09d", "%d.%06d").tolist()
    fractions = np.where(fine, rest, rest // np.uint64(1000)).tolist()
    rows = zip(patterns, seconds.tolist(), fractions, strict=True)
    return [pattern % (second, fraction) for pattern, second, fraction in rows]


def range_texts(sizes: npt.NDArray[np.int64], numbers: npt.NDArray[Any]) -> list[str | None]:
    """Lists of ascending numbers as `1-3,7`; an empty list is None.

    Args:
        sizes: int64[k], how many numbers each list has.
        numbers: The lists, one after the other; their sizes add up to its length.
    """
    if not len(numbers):
        return [None] * len(sizes)
    values = numbers.astype(np.int64)
    begins = np.ones(len(values), np.bool_)
    begins[1:] = np.diff(values) != 1
    ends = np.cumsum(sizes)
    begins[ends[:-1][ends[:-1] < len(values)]] = True
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], len(values)) - 1
    pairs = zip(values[starts].tolist(), values[stops].tolist(), strict=True)
    runs = [str(low) if low == high else f"{low}-{high}" for low, high in pairs]
    # The runs of list i are those that begin before its end and not before its start.
    upto = np.searchsorted(starts, ends, side="left").tolist()
    texts: list[str | None] = []
    at = 0
    for stop in upto:
        texts.append(",".join(runs[at:stop]) or None)
        at = stop
    return texts
