"""The options of all commands that change single rules of a profile; what is not given keeps the profile's value.

The rules themselves stand in options.py, their description in docs/profiles.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from traceflow.cli.checks import duration_ns, one_of
from traceflow.errors import suggest
from traceflow.options import CHOICES, KEY_PARTS

__all__ = ["RULE_NAMES", "add_rule_options", "rule_named", "take_rules"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_IDLE = {"tcp": "idle_timeout_tcp_ns", "other": "idle_timeout_other_ns"}
_MOST_FLOWS = 2**31 - 2


def _idle(_context: Any, _parameter: Any, given: str | None) -> dict[str, int | None]:
    """`90s` for all protocols, or `tcp=300s,other=60s`, one of them or both."""
    if given is None:
        return {}
    if "=" not in given:
        return dict.fromkeys(_IDLE.values(), duration_ns(given, none=True))
    rules: dict[str, int | None] = {}
    for part in given.split(","):
        name, equals, value = part.partition("=")
        if name not in _IDLE or not equals:
            raise click.BadParameter(
                f"{suggest('protocol', name, _IDLE)}; allowed: one duration for all, or tcp=300s,other=60s"
            )
        if _IDLE[name] in rules:
            raise click.BadParameter(f"{name} was given twice; name it once")
        rules[_IDLE[name]] = duration_ns(value, none=True)
    return rules


def _duration(name: str, *, none: bool) -> Callable[[Any, Any, str | None], dict[str, int | None]]:
    return lambda _context, _parameter, given: {} if given is None else {name: duration_ns(given, none=none)}


def _choice(name: str) -> Callable[[Any, Any, str | None], dict[str, str]]:
    check = one_of(f"--{name.replace('_', '-')}", CHOICES[name])
    return lambda context, parameter, given: {} if check(context, parameter, given) is None else {name: str(given)}


def _key(_context: Any, _parameter: Any, given: str | None) -> dict[str, tuple[str, ...]]:
    if given is None:
        return {}
    parts = () if given == "none" else tuple(given.split(","))
    if "none" in parts or "" in parts:
        raise click.BadParameter("none stands alone; allowed: none, or vlan, tunnel, or vlan,tunnel")
    for part in parts:
        if part not in KEY_PARTS:
            raise click.BadParameter(suggest("part of the key", part, (*KEY_PARTS, "none")))
    return {"key": parts}


def _most(_context: Any, _parameter: Any, given: int | None) -> dict[str, int]:
    return {} if given is None else {"max_flows": given}


_READERS: dict[str, Callable[[Any, Any, str | None], dict[str, Any]]] = {
    "idle_timeout": _idle,
    "active_timeout": _duration("active_timeout_ns", none=True),
    "linger": _duration("linger_ns", none=False),
    "direction": _choice("direction"),
    "tcp_end": _choice("tcp_end"),
    "key": _key,
    "when_full": _choice("when_full"),
    "duplicates": _choice("duplicates"),
    "duplicate_window": _duration("duplicate_window_ns", none=True),
}

_OPTIONS = (
    click.option(
        "--idle-timeout",
        metavar="TIME",
        callback=_READERS["idle_timeout"],
        help="Silence that ends a flow: 90s, 5m, none; or tcp=300s,other=60s.",
    ),
    click.option(
        "--active-timeout",
        metavar="TIME",
        callback=_READERS["active_timeout"],
        help="Age at which a flow is cut and goes on as its next segment: 30m, none.",
    ),
    click.option(
        "--linger",
        metavar="TIME",
        callback=_READERS["linger"],
        help="How long a closed TCP flow waits for frames that trail the close.",
    ),
    click.option(
        "--direction",
        metavar="|".join(CHOICES["direction"]),
        callback=_READERS["direction"],
        help="Who is the originator, see docs/profiles.md.",
    ),
    click.option(
        "--tcp-end",
        metavar="|".join(CHOICES["tcp_end"]),
        callback=_READERS["tcp_end"],
        help="What ends a TCP flow, see docs/profiles.md.",
    ),
    click.option(
        "--key",
        metavar="vlan,tunnel",
        callback=_READERS["key"],
        help="What belongs to the key besides protocol, addresses and ports; none: nothing.",
    ),
    click.option(
        "--max-flows",
        metavar="N",
        type=click.IntRange(1, _MOST_FLOWS),
        callback=_most,
        help="Live flows at most.",
    ),
    click.option(
        "--when-full",
        metavar="|".join(CHOICES["when_full"]),
        callback=_READERS["when_full"],
        help="With so many live: end the one nearest to its timeout, open no new one, or live with more.",
    ),
    click.option(
        "--duplicates",
        metavar="|".join(CHOICES["duplicates"]),
        callback=_READERS["duplicates"],
        help="Frames that the capture has twice, as mirror ports give them: count, remove from flows, or do not look.",
    ),
    click.option(
        "--duplicate-window",
        metavar="TIME",
        callback=_READERS["duplicate_window"],
        help="How far apart in time the two may lie: 500us, none for however far.",
    ),
)
_NAMES = (
    *("idle_timeout", "active_timeout", "linger", "direction", "tcp_end", "key", "max_flows", "when_full"),
    *("duplicates", "duplicate_window"),
)


RULE_NAMES = (*_NAMES, "outer", "analysis")
"""What a file may say of the rules of flows: the switches, and the two that are on or off."""


def rule_named(name: str, given: Any) -> dict[str, Any]:
    """The changes for `options_for` that a rule in a file makes.

    Args:
        name: One of RULE_NAMES.
        given: What stands there.

    Raises:
        click.BadParameter: It means nothing.
    """
    if name not in _NAMES:
        if not isinstance(given, bool):
            raise click.BadParameter(f"it is {given!r:.60}; it must be true or false")
        return {name: given}
    if name == "max_flows":
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MOST_FLOWS:
            raise click.BadParameter(f"it is {given!r:.60}; it must be a whole number from 1 to {_MOST_FLOWS}")
        return {name: given}
    if isinstance(given, list) and all(isinstance(part, str) for part in given):
        given = ",".join(given) or "none"
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise click.BadParameter(f"it is {given!r:.60}; write it as behind --{name.replace('_', '-')}, as text")
    rules: dict[str, Any] = _READERS[name](None, None, str(given))
    return rules


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
