"""What a rule of a policy says, and what may stand in it. A rule is data: nothing here looks at a graph.

Six kinds. Each holds for some users and on some devices, all by default:

    allow       a function, perhaps only behind (`after`) or only before (`before`) others on the same path
    deny        a function, whatever is allowed
    require     each such function is behind or before others on the same path, whatever is allowed
    addresses   every path goes through a host or net filter that lies inside given ranges
    snaplen     every path is truncated to at most so many octets
    callbacks   at most so many callbacks a second
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from traceflow.errors import UsageError, suggest
from traceflow.filters.kinds import BUILT_IN, kind_of

__all__ = [
    "EVERY",
    "KEYS",
    "NUMBERED",
    "Mistake",
    "Network",
    "Rule",
    "Use",
    "addresses",
    "allow",
    "brief",
    "callbacks",
    "checked_functions",
    "checked_rule",
    "deny",
    "require",
    "snaplen",
]

EVERY: Final = "*"
"""Any function; as a pattern, any user and any device."""

KEYS: dict[str, tuple[str, ...]] = {
    "deny": ("function", "users", "devices"),
    "allow": ("function", "after", "before", "users", "devices"),
    "require": ("function", "after", "before", "users", "devices"),
    "addresses": ("inside", "users", "devices"),
    "snaplen": ("at_most", "users", "devices"),
    "callbacks": ("per_second", "users", "devices"),
}
"""The kinds of rules in their order, and what may stand in each. The first of it is needed."""

NUMBERED = ("sampler", "truncate")
"""Filters of the house whose parameter begins with a number, so that `at_least` and `at_most` mean something."""

LENGTH_MAX = 65536
"""Characters of a text at most, and the largest length of lists; the size of a file is capped elsewhere."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Mistake = tuple[tuple[str | int, ...], str]
"""Where in a rule (key, index, inner key), and what is wrong there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """Which calls of a function are meant.

    Attributes:
        name: Name of the filter or function; `*`: any.
        at_least: The number its parameter begins with is at least this: `(sampler,10)` for 10.
        at_most: It is at most this.
        parameter: Its parameter is exactly this, in the form in which graphs print it.
    """

    name: str
    at_least: float | None = None
    at_most: float | None = None
    parameter: str | None = None

    def __str__(self) -> str:
        demands = [f"at least {self.at_least}"] if self.at_least is not None else []
        demands += [f"at most {self.at_most}"] if self.at_most is not None else []
        demands += [f"parameter {self.parameter!r}"] if self.parameter is not None else []
        name = "any function" if self.name == EVERY else self.name
        return f"{name} with {' and '.join(demands)}" if demands else name


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Made by `allow`, `deny`, `require`, `addresses`, `snaplen`, `callbacks`, or read from a file.

    Attributes:
        kind: One of KEYS.
        function: Whom it is about.
        after: All of these must stand before it on the path.
        before: All of these must stand behind it on the path.
        inside: Address ranges, those that touch each other joined.
        number: Octets, or callbacks a second.
        users: Patterns of names of users.
        devices: Patterns of names of devices.
        where: `policy.toml:14`; empty where it was made in Python.
    """

    kind: str
    function: tuple[Use, ...] = ()
    after: tuple[Use, ...] = ()
    before: tuple[Use, ...] = ()
    inside: tuple[Network, ...] = ()
    number: int = 0
    users: tuple[str, ...] = (EVERY,)
    devices: tuple[str, ...] = (EVERY,)
    where: str = dataclasses.field(default="", compare=False)


Uses = str | Use | Iterable[str | Use]
Names = str | Iterable[str]


def allow(function: Uses, *, after: Uses = (), before: Uses = (), users: Names = EVERY, devices: Names = EVERY) -> Rule:
    """These functions may run, where all of `after` stand before them and all of `before` behind them on the path.

    Raises:
        UsageError: Everything that is wrong with it; likewise in the functions below.
    """
    return _made("allow", function=function, after=after, before=before, users=users, devices=devices)


def deny(function: Uses, *, users: Names = EVERY, devices: Names = EVERY) -> Rule:
    """These functions may not run, whatever is allowed."""
    return _made("deny", function=function, users=users, devices=devices)


def require(
    function: Uses, *, after: Uses = (), before: Uses = (), users: Names = EVERY, devices: Names = EVERY
) -> Rule:
    """Wherever one of these functions runs, all of `after` stand before it on the path, all of `before` behind."""
    return _made("require", function=function, after=after, before=before, users=users, devices=devices)


def addresses(inside: Names, *, users: Names = EVERY, devices: Names = EVERY) -> Rule:
    """Every path goes through a host or net filter whose addresses lie inside these ranges."""
    return _made("addresses", inside=inside, users=users, devices=devices)


def snaplen(at_most: int, *, users: Names = EVERY, devices: Names = EVERY) -> Rule:
    """Every path is truncated to at most so many octets, by a truncate filter or by the parameter `snaplen`."""
    return _made("snaplen", at_most=at_most, users=users, devices=devices)


def callbacks(per_second: int, *, users: Names = EVERY, devices: Names = EVERY) -> Rule:
    """At most so many callbacks a second of packet time."""
    return _made("callbacks", per_second=per_second, users=users, devices=devices)


def _made(kind: str, **given: Any) -> Rule:
    kept = {key: value for key, value in given.items() if not (key in ("after", "before") and value == ())}
    rule, mistakes = checked_rule(kind, kept)
    if mistakes:
        raise UsageError(f"{kind}: {'; '.join(f'{path[0]}: {what}' if path else what for path, what in mistakes)}")
    return rule


def checked_rule(kind: str, given: Mapping[str, Any], where: str = "") -> tuple[Rule, list[Mistake]]:
    """A rule of what was written, and all that is wrong with it. With mistakes the rule is not to be used.

    Args:
        kind: One of KEYS.
        given: What stands in it, as Python or TOML has it.
        where: What the rule keeps of its place.
    """
    mistakes: list[Mistake] = [
        ((key,), suggest("key", str(key)[:64], KEYS[kind])) for key in given if key not in KEYS[kind]
    ]
    needed = KEYS[kind][0]
    if needed not in given and not mistakes:  # an unknown key may be meant to be it
        mistakes.append(((), f"{needed} is missing; {_FORMS[needed]}"))
    if kind == "require" and not {"after", "before"} & set(given) and not mistakes:
        mistakes.append(((), "after or before is missing; a rule of this kind needs at least one of them"))
    values: dict[str, Any] = {}
    for key in KEYS[kind]:
        if key in given:
            value, wrong = _READERS[key](given[key])
            mistakes += [((key, *path), what) for path, what in wrong]
            values["number" if key in ("at_most", "per_second") else key] = value
    rule = Rule(kind, where=where, **values)
    return rule, mistakes + _contradictions(rule)


def _contradictions(rule: Rule) -> list[Mistake]:
    """What is wrong with a rule whose parts are right by themselves."""
    mistakes: list[Mistake] = []
    for key in ("after", "before"):
        for use in getattr(rule, key):
            if use.name == EVERY:
                mistakes.append(((key,), f"{EVERY} is no guard; name the function that must be there"))
            if use.name == "device":
                mistakes.append(((key,), "every path begins with a device; say which ones with devices"))
            if use.name == "BPF" and use.parameter is None:
                what = "an expression such as `greater 0` lets all packets pass; say which one with parameter"
                mistakes.append(((key,), what))
    if rule.kind in ("deny", "require"):
        for use in rule.function:
            if use.parameter is not None:
                what = "parameter is for what is allowed; what is meant the same can be written in another way"
                mistakes.append((("function",), what))
    return mistakes


# --- the parts of a rule: each reader returns a value, and what is wrong ------------------------------------------

_FORMS = {
    "function": 'write a name such as "search", a list of names, or { name = "sampler", at_least = 10 }',
    "users": 'write a name or a pattern such as "guest*", or a list of them',
    "devices": 'write a name or a pattern such as "eth*", or a list of them',
    "inside": 'write a range such as "10.0.0.0/8", or a list of them',
    "at_most": "write a number of octets, at least 1",
    "per_second": "write a number of callbacks, 0 for none at all",
}


def _listed(value: Any) -> list[Any]:
    """One value or several, as a list."""
    if isinstance(value, str | Use | Mapping) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _read_list(value: Any, form: str, read: Callable[[Any], Any]) -> tuple[tuple[Any, ...], list[Mistake]]:
    """A list of which `read` takes each part; it raises UsageError, with the path within the part before its text."""
    parts, several = _listed(value), not isinstance(value, str | Use | Mapping)
    mistakes: list[Mistake] = []
    found: dict[Any, None] = {}
    if not parts:
        mistakes.append(((), f"it is empty; {form}"))
    for place, part in enumerate(parts):
        try:
            found[read(part)] = None
        except _PartError as error:
            mistakes.append(((*([place] if several else []), *error.path), str(error)))
    return tuple(found), mistakes


class _PartError(Exception):
    """What is wrong with a part, and where in it."""

    def __init__(self, what: str, *path: str) -> None:
        super().__init__(what)
        self.path = path


def _text(value: Any, form: str) -> str:
    if not isinstance(value, str) or not value or len(value) > LENGTH_MAX:
        raise _PartError(f"it is {brief(value)}; {form}")
    return value


def brief(value: Any) -> str:
    """A value for a message, not longer than is of use."""
    try:
        text = repr(value)
    except ValueError:  # numbers of thousands of digits, which hexadecimal ones may have
        text = "a number of very many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_uses(value: Any) -> tuple[tuple[Use, ...], list[Mistake]]:
    return _read_list(value, _FORMS["function"], _use)


def _use(value: Any) -> Use:
    if isinstance(value, Use):
        value = {key: part for key, part in dataclasses.asdict(value).items() if part is not None}
    if not isinstance(value, Mapping):
        return Use(_name(_text(value, _FORMS["function"])))
    known = [field.name for field in dataclasses.fields(Use)]
    for key in value:
        if key not in known:
            raise _PartError(suggest("key", str(key)[:64], known), str(key))
    if "name" not in value:
        raise _PartError(f"name is missing; {_FORMS['function']}")
    try:
        name = _name(_text(value["name"], 'write a name such as "sampler"'))
    except _PartError as error:
        raise _PartError(str(error), "name") from None
    for key in ("at_least", "at_most"):
        _refuse_number(key, name, value.get(key, 0), key in value)
    least, most = value.get("at_least"), value.get("at_most")
    if least is not None and most is not None and least > most:
        raise _PartError(f"no number is at least {least} and at most {most}", "at_least")
    return Use(name, least, most, _parameter(name, value["parameter"]) if "parameter" in value else None)


_EXACT = {name.lower(): name for name in BUILT_IN}


def _name(name: str) -> str:
    """The name as the filter has it: upper and lower case are the same for those of the house."""
    return _EXACT.get(name.lower(), name)


def _refuse_number(key: str, name: str, value: Any, is_given: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**63) < value < 2**63:  # also nan
        raise _PartError(f"{key} is {brief(value)}; write a number", key)
    if is_given and (name == EVERY or (name in BUILT_IN and name not in NUMBERED)):
        raise _PartError(f"{name} has no number to compare; of the filters these have: {', '.join(NUMBERED)}", key)


def _parameter(name: str, value: Any) -> str:
    """A parameter in the one form that graphs have."""
    if not isinstance(value, str) or len(value) > LENGTH_MAX:
        raise _PartError(f"it is {brief(value)}; write the parameter as text", "parameter")
    if name == EVERY:
        raise _PartError("a parameter needs the name of its function", "parameter")
    if name not in BUILT_IN:
        return value
    try:
        return kind_of(name).canonical(value)
    except ValueError as error:  # ParameterError and UsageError are such
        raise _PartError(str(error), "parameter") from None


def _read_patterns(form: str) -> Callable[[Any], tuple[tuple[str, ...], list[Mistake]]]:
    return lambda value: _read_list(value, form, lambda part: _text(part, form))


def _read_ranges(value: Any) -> tuple[tuple[Network, ...], list[Mistake]]:
    found, mistakes = _read_list(value, _FORMS["inside"], _range)
    joined: list[Network] = []
    joined += ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv4Network))
    joined += ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv6Network))
    return tuple(joined), mistakes


def _range(value: Any) -> Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    text = _text(value, _FORMS["inside"])
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        right = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _PartError(f"{brief(text)} is no range of addresses; {_FORMS['inside']}") from None
    raise _PartError(f"{text} has bits behind its prefix; write {right}")


def _read_count(key: str, least: int) -> Callable[[Any], tuple[int, list[Mistake]]]:
    def read(value: Any) -> tuple[int, list[Mistake]]:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            return least, [((), f"it is {brief(value)}; {_FORMS[key]}")]
        return value, []

    return read


_READERS: dict[str, Callable[[Any], tuple[Any, list[Mistake]]]] = {
    "function": _read_uses,
    "after": _read_uses,
    "before": _read_uses,
    "inside": _read_ranges,
    "at_most": _read_count("at_most", 1),
    "per_second": _read_count("per_second", 0),
    "users": _read_patterns(_FORMS["users"]),
    "devices": _read_patterns(_FORMS["devices"]),
}


def checked_functions(rule: Rule, known: Iterable[str]) -> list[Mistake]:
    """The functions that a rule names and that are not known.

    Args:
        rule: The rule.
        known: Names of all filters and functions.
    """
    names = {EVERY, *known}
    return [
        ((key,), f"{suggest('function', use.name[:64], names - {EVERY})}. Functions of users are named in `functions`")
        for key in ("function", "after", "before")
        for use in getattr(rule, key)
        if use.name not in names
    ]
