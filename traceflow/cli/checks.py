"""What is wrong with a value that was typed, and what is allowed instead; nothing of the engine is loaded for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from traceflow.errors import suggest

__all__ = ["duration_ns", "one_of", "size_octets"]

_UNITS_NS = {
    "ns": 1,
    "us": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
}
_DURATION = re.compile(rf"([0-9]{{1,19}})(?:\.([0-9]{{1,9}}))?({'|'.join(_UNITS_NS)})?")
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"([0-9]{1,12})(?:([kmg])(?:i?b)?)?", re.IGNORECASE)
_LONGEST_NS = 2**62  # Options: a time plus a timeout must fit 64 bits


def one_of(what: str, known: tuple[str, ...]) -> Callable[[Any, Any, str | None], str | None]:
    """A check that suggests the nearest name."""

    def check(_context: Any, _parameter: Any, given: str | None) -> str | None:
        if given is not None and given not in known:
            raise click.BadParameter(suggest(what, given, known))
        return given

    return check


def duration_ns(given: str, *, none: bool) -> int | None:
    """Read a duration: a number of seconds, or a number with a unit.

    Args:
        given: What was typed: `300`, `90s`, `1.5h`, `none`.
        none: Whether `none` is allowed.

    Returns:
        Nanoseconds; None for `none`.

    Raises:
        click.BadParameter: It is none, or out of range.
    """
    if none and given == "none":
        return None
    found = _DURATION.fullmatch(given)
    if found is None:
        other = ", or none" if none else ""
        raise click.BadParameter(
            f"{given!r} is no duration; allowed: a number with {', '.join(_UNITS_NS)} or nothing (seconds) behind it, "
            f"such as 90s or 1.5h{other}"
        )
    whole, fraction, unit = found.groups()
    unit_ns = _UNITS_NS[unit or "s"]
    digits = str(fraction or "")
    value_ns: int = int(whole) * unit_ns + int(digits or "0") * unit_ns // int("1" + "0" * len(digits))
    if not 0 < value_ns < _LONGEST_NS:
        raise click.BadParameter(f"{given!r} is out of range; allowed: at least 1ns and at most 53375d")
    return value_ns


def size_octets(given: str) -> int:
    """Read a size of memory: octets, or a number with a unit.

    Args:
        given: What was typed: `64MiB`, `16M`, `1g`; a unit is a power of 1024.

    Raises:
        click.BadParameter: It is none.
    """
    found = _SIZE.fullmatch(given)
    if found is None:
        raise click.BadParameter(f"{given!r} is no size; allowed: a number with KiB, MiB, GiB or nothing behind it")
    number, unit = found.groups()
    return int(number) * _SIZES[(unit or "").lower()]
