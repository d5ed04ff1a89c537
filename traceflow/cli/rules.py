"""The options of all commands that change single rules of a profile; what is not given keeps the profile's value.

The rules themselves stand in options.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from traceflow.cli.checks import duration_ns, one_of
from traceflow.options import CHOICES

__all__ = ["add_rule_options", "take_rules"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _duration(name: str, *, none: bool) -> Callable[[Any, Any, str | None], dict[str, int | None]]:
    return lambda _context, _parameter, given: {} if given is None else {name: duration_ns(given, none=none)}


def _choice(name: str) -> Callable[[Any, Any, str | None], dict[str, str]]:
    check = one_of(f"--{name.replace('_', '-')}", CHOICES[name])
    return lambda context, parameter, given: {} if check(context, parameter, given) is None else {name: str(given)}


_OPTIONS = (
    click.option(
        "--duplicates",
        metavar="|".join(CHOICES["duplicates"]),
        callback=_choice("duplicates"),
        help="Frames that the capture has twice, as mirror ports give them: count, remove from flows, or do not look.",
    ),
    click.option(
        "--duplicate-window",
        metavar="TIME",
        callback=_duration("duplicate_window_ns", none=True),
        help="How far apart in time the two may lie: 500us, none for however far.",
    ),
)
_NAMES = ("duplicates", "duplicate_window")


def add_rule_options(command: _Command) -> _Command:
    """Add the options to a command."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def take_rules(typed: dict[str, Any]) -> dict[str, Any]:
    """Take the rules out of what was typed: changes for `options_for`.

    Args:
        typed: The parameters of a command; the options of this module are taken out.
    """
    rules: dict[str, Any] = {}
    for name in _NAMES:
        rules |= typed.pop(name)
    return rules
