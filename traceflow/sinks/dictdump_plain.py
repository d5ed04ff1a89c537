"""Any Python value to one that a text document can hold.

The renderers write text, integers, reals, booleans, octets, mappings and lists by themselves. Every other value
comes here once, and goes back as one of those, or as a mapping `{"type": ..., "value": ...}`, dictdumper's form of
a value that was converted. Nothing here raises: what cannot be converted becomes its `repr`. Nothing here knows a
file format.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BASIC", "MAX_DEPTH", "Octets", "joined_surrogates", "made", "plain"]

MAX_DEPTH = 64
"""Containers nested deeper than this are named instead of written. Frame records are six deep; Python's own
recursion limit of 1000 would be met at some 300."""

BASIC = frozenset({str, int, float, bool, bytes, dict, list, type(None)})
"""The exact types that every renderer writes by itself."""


class Octets(NamedTuple):
    """Octets that came in another type than `bytes`; each format has its own form of them."""

    type: str
    octets: bytes


def made(value: Any, content: Any, **more: Any) -> dict[str, Any]:
    """A converted value with the name of its type: dictdumper's form.

    Args:
        value: What was converted.
        content: What it was converted to.
        **more: Further forms of it.

    Returns:
        A mapping of `type`, `value` and what else was given.
    """
    return {"type": type(value).__name__, "value": content, **more}


def joined_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: pairs of surrogates joined, lone ones replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def plain(value: Any) -> Any:
    """Convert one level of a value; its members are converted when they are rendered.

    Args:
        value: Anything.

    Returns:
        A value whose exact type is in `BASIC`, or `Octets`, or a date, a time, or a complex number.
    """
    try:
        return _converted(value)
    except Exception:  # noqa: BLE001 - methods of foreign objects may raise anything; the file must stay whole
        return _described(value)


def _described(value: Any) -> str:
    try:
        return str.__str__(repr(value))
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__} object that cannot be shown>"


def _converted(value: Any) -> Any:
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    members = getattr(value, "__dict__", None)
    if type(members) is dict and not callable(value):
        public = {name: member for name, member in members.items() if not str(name).startswith("_")}
        if public:
            return made(value, public)
    return _described(value)


def _enumeration(value: enum.Enum) -> Any:
    """Members that are integers or text count as those; others keep name and value."""
    if isinstance(value, (int, str)):
        return plain(value.value)
    return made(value, value.value, name=value.name)


def _ordered(value: Iterable[Any]) -> list[Any]:
    """Members of a set in one order on every run."""
    members = list(value)
    try:
        return sorted(members)
    except Exception:  # noqa: BLE001 - members of different types; their own comparison may raise anything
        return sorted(members, key=_described)


def _scalar(value: np.generic) -> Any:
    """A NumPy scalar: a record as a mapping, a time as ISO text (`item` makes an integer of nanoseconds)."""
    if isinstance(value, np.void):
        names = value.dtype.names
        return value.tobytes() if names is None else {name: value[name] for name in names}
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return str(value)
    item = value.item()
    return item if type(item) in BASIC or isinstance(item, complex) else str(item)


def _array(value: np.ndarray[Any, Any]) -> Any:
    """An array as a list; records and times stay NumPy scalars, which are converted one by one."""
    if value.ndim == 0:
        return made(value, value[()])
    return list(value) if value.dtype.kind in "mMV" else value.tolist()


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (enum.Enum, _enumeration),
    (np.ndarray, _array),
    (np.generic, _scalar),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (tuple, lambda value: made(value, list(value))),
    (collections.abc.Set, lambda value: made(value, _ordered(value))),
    (collections.abc.Mapping, lambda value: dict(value.items())),
    ((datetime.date, datetime.time, complex), lambda value: value),
    ((bytearray, memoryview), lambda value: Octets(type(value).__name__, bytes(value))),
    (datetime.timedelta, lambda value: made(value, value.total_seconds(), text=str(value))),
    ((decimal.Decimal, fractions.Fraction), lambda value: made(value, str(value))),
    (
        (
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
            pathlib.PurePath,
            uuid.UUID,
        ),
        str,
    ),
    (range, repr),
    (collections.abc.Sequence, list),
)
"""Conversions in the order of their test: the first type that fits decides."""
