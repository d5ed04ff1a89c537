"""What stands in parameters of filters: whole numbers, lists of ranges, durations, and words with their places.

All of it raises ParameterError with the place of the fault, and has one form to write what it read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from traceflow.filters.contract import ParameterError
from traceflow.packets import TIME_MAX_NS

__all__ = [
    "SIDES",
    "duration_ns",
    "duration_text",
    "ranges_of",
    "ranges_table",
    "ranges_text",
    "side_of",
    "whole_number",
    "words_of",
]

_WORD = re.compile(r"\S+")
_DIGITS = re.compile(r"[0-9]+")

SIDES = ("src", "dst", "")
"""Sender, receiver, either of them."""


def words_of(text: str) -> list[tuple[str, int]]:
    """The words of a text, and where each begins."""
    return [(found.group(), found.start()) for found in _WORD.finditer(text)]


def whole_number(text: str, what: str, lowest: int, highest: int, at: int = 0) -> int:
    """A whole number.

    Args:
        text: The number, in decimal digits; blanks around it are left out.
        what: What it is, for messages.
        lowest: Smallest that may be given.
        highest: Largest that may be given.
        at: Where the text stands in the parameter.

    Raises:
        ParameterError: It is none, or out of range.
    """
    at += len(text) - len(text.lstrip())
    text = text.strip()
    # More digits than the largest has are out of range, and not worth converting: int() is slow for thousands.
    if not _DIGITS.fullmatch(text) or len(text.lstrip("0")) > len(str(highest)) or not lowest <= int(text) <= highest:
        raise ParameterError(f"{what} must be a whole number from {lowest} to {highest}, not {_short(text)}", at)
    return int(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def side_of(text: str) -> tuple[str, str, int]:
    """`src` or `dst` in front of a parameter.

    Returns:
        One of SIDES, what follows it without blanks around it, and where that begins.
    """
    words = words_of(text)
    side, at = "", words[0][1] if words else 0
    if len(words) >= 4 and [word.lower() for word, _ in words[:3]] in (["src", "or", "dst"], ["dst", "or", "src"]):
        at = words[3][1]
    elif len(words) >= 2 and words[0][0].lower() in ("src", "dst", "either"):
        side, at = words[0][0].lower().replace("either", ""), words[1][1]
    return side, text[at:].rstrip(), at


def ranges_of(text: str, what: str, highest: int, at: int = 0) -> tuple[tuple[int, int], ...]:
    """A list of numbers and ranges, `80,443,8000-8100`: (first, last) in order; those that touch are one.

    Args:
        text: The list.
        what: What a number is, for messages.
        highest: Largest number.
        at: Where the text stands in the parameter.

    Raises:
        ParameterError: A number that is none or too large, or a range that ends before it begins.
    """
    found = []
    for part in text.split(","):
        first_text, dash, last_text = part.partition("-")
        first = whole_number(first_text, what, 0, highest, at)
        last = whole_number(last_text, what, 0, highest, at + len(first_text) + 1) if dash else first
        if last < first:
            raise ParameterError(f"the range {first}-{last} ends before it begins; write {last}-{first}", at)
        found.append((first, last))
        at += len(part) + 1
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """The one form of a list of ranges."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def ranges_table(ranges: Iterable[tuple[int, int]], highest: int) -> npt.NDArray[np.bool_]:
    """bool[highest + 1], whether a number is in one of the ranges."""
    table = np.zeros(highest + 1, np.bool_)
    for first, last in ranges:
        table[first : last + 1] = True
    return table


_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,18}))?\s*([a-z]*)")


def duration_ns(text: str, at: int = 0) -> int:
    """A duration in nanoseconds: a number with `ns`, `us`, `ms`, `s`, `min` or `h`; seconds where none is written.

    Args:
        text: The duration.
        at: Where it stands in the parameter.

    Raises:
        ParameterError: It is none, is not a whole number of nanoseconds, or is longer than 2**62 of them.
    """
    at += len(text) - len(text.lstrip())
    match = _DURATION.fullmatch(text.strip())
    if match is None or (match[3] or "s") not in _UNITS:
        units = ", ".join(_UNITS)
        raise ParameterError(f"a duration is a number and one of {units}, not {_short(text.strip())}", at)
    unit, decimals = _UNITS[match[3] or "s"], match[2] or ""
    ten: int = 10 ** len(decimals)
    value, rest = divmod(int(match[1] + decimals) * unit, ten)
    if rest:
        raise ParameterError("a duration is a whole number of nanoseconds", at)
    if value > TIME_MAX_NS:
        raise ParameterError(f"a duration is at most 2**62 ns ({TIME_MAX_NS // 10**9} s)", at)
    return value


def duration_text(value_ns: int) -> str:
    """The one form of a duration: the largest unit of which it is a whole number."""
    for unit, size in reversed(_UNITS.items()):
        if value_ns % size == 0 and (value_ns or unit == "s"):
            return f"{value_ns // size}{unit}"
    raise AssertionError("every number is one of nanoseconds")
