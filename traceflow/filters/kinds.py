"""Which kinds of filters there are, calls of them that are checked, and their runners.

The kinds that come with the house are loaded when they are asked for: a search compiles a kernel, BPF loads libpcap,
and whoever samples needs neither. Others are added with `register`, and never take the place of one that is there.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping

from traceflow.errors import UsageError, suggest
from traceflow.filters.contract import Kind, ParameterError, Runner
from traceflow.filters.graph import All, Call, Filter, Not, calls_of
from traceflow.filters.running import AllRunner, NotRunner

__all__ = ["BUILT_IN", "KINDS", "call_of", "kind_of", "make_call", "needs_flows", "register", "runner_of", "shown"]

BUILT_IN: dict[str, str] = {
    "BPF": "bpf:BPF",
    "bytecount": "counting:BYTECOUNT",
    "device": "devices:DEVICE_KIND",
    "flags": "headers:FLAGS",
    "flow": "flowfacts:FLOW_KIND",
    "host": "addresses:HOST",
    "ip": "headers:IP",
    "net": "addresses:NET",
    "packetcount": "counting:PACKETCOUNT",
    "port": "ports:PORT",
    "protocol": "headers:PROTOCOL",
    "rate": "counting:RATE",
    "sampler": "sampler:SAMPLER",
    "search": "search:SEARCH",
    "truncate": "truncate:TRUNCATE",
    "tunnel": "headers:TUNNEL",
    "vlan": "headers:VLAN",
}
"""Name of a kind that comes with the house to `module:attribute` of this room."""

PARAMETER_MAX = 65536
"""Characters that a parameter may have."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

_added: dict[str, Kind] = {}


class _Kinds(Mapping[str, Kind]):
    """All kinds by name. Those of the house are loaded when they are looked up."""

    def __getitem__(self, name: str) -> Kind:
        if name in _added:
            return _added[name]
        module, _, attribute = BUILT_IN[name].partition(":")
        kind: Kind = getattr(importlib.import_module(f"traceflow.filters.{module}"), attribute)
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*BUILT_IN, *_added}, key=str.lower))

    def __len__(self) -> int:
        return len(BUILT_IN) + len(_added)

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in _added


KINDS: Mapping[str, Kind] = _Kinds()
"""All kinds by name."""


def _exact(name: str) -> str | None:
    """The name as the kind has it, whatever the case in which it was written; None where there is none."""
    if name in KINDS:
        return name
    return next((known for known in KINDS if known.lower() == name.lower()), None)


def kind_of(name: str) -> Kind:
    """The kind of a name; upper and lower case are the same.

    Raises:
        UsageError: There is none.
    """
    exact = _exact(name)
    if exact is None:
        raise UsageError(suggest("filter", name, KINDS))
    return KINDS[exact]


def register(kind: Kind) -> None:
    """Add a kind. The same one may be added again.

    Raises:
        UsageError: Its name is no name, or another kind has it.
    """
    if not isinstance(kind.name, str) or not _NAME.fullmatch(kind.name):
        raise UsageError(
            f"{kind.name!r} is no name for a filter; it has up to 64 letters, digits, underscores, a letter first"
        )
    exact = _exact(kind.name)
    if exact in BUILT_IN:
        raise UsageError(f"{exact} is a filter that comes with traceflow; choose another name than {kind.name!r}")
    if exact is not None and _added[exact] != kind:
        raise UsageError(f"there is another filter {exact!r} already; choose another name than {kind.name!r}")
    _added[kind.name] = kind


def call_of(kind: Kind, parameter: str, memory: int | None) -> Call:
    """A call in its one form.

    Raises:
        ParameterError: The kind cannot take that parameter or memory.
    """
    if len(parameter) > PARAMETER_MAX:
        raise ParameterError(f"a parameter has at most {PARAMETER_MAX} characters, this one {len(parameter)}")
    if memory is not None and memory not in kind.memory:
        if not kind.memory:
            raise ParameterError("it takes no memory; a parameter with commas stands in double quotes", None)
        raise ParameterError(f"its memory may have {', '.join(map(str, kind.memory))} octets", None)
    if parameter and not kind.form:
        raise ParameterError("it takes no parameter")
    call = Call(kind.name, kind.canonical(parameter), memory, kind.predicate)
    if kind.check is not None:
        kind.check(call)
    return call


def make_call(kind: str, parameter: str = "", memory: int | None = None) -> Call:
    """A call of a filter.

    Args:
        kind: Name of the kind.
        parameter: Its parameter, in any of the ways to write it.
        memory: Octets of its memory; None: as is usual.

    Raises:
        UsageError: There is no such kind, or it cannot take that; the place in the parameter is shown.
    """
    known = kind_of(kind)
    if not isinstance(parameter, str):
        raise UsageError(f"the parameter of {known.name} is {parameter!r}; it must be text: {known.form or 'none'}")
    if memory is not None and type(memory) is not int:
        raise UsageError(f"the memory of {known.name} is {memory!r}; it must be a number of octets")
    try:
        return call_of(known, parameter, memory)
    except ParameterError as error:
        where = "" if error.at is None or not parameter else f"\n{shown(parameter, error.at)}"
        raise UsageError(f"{known.name}: {error}{where}") from None


_WINDOW = 60
"""Characters of a text that are shown before and behind a fault."""


def shown(text: str, at: int) -> str:
    """Two lines: the text around a place, and a caret below the place."""
    at = max(0, min(at, len(text)))
    first, behind = max(0, at - _WINDOW), min(len(text), at + _WINDOW)
    before = "..." if first else ""
    part = "".join(letter if letter.isprintable() else "?" for letter in text[first:behind])
    return f"  {before}{part}{'...' if behind < len(text) else ''}\n  {' ' * (len(before) + at - first)}^"


def runner_of(one: Filter) -> Runner:
    """A new runner of a filter.

    Raises:
        UsageError: A kind in it is not known, or cannot be made to run.
    """
    if isinstance(one, Not):
        return NotRunner(runner_of(one.inner))
    if isinstance(one, All):
        return AllRunner([runner_of(part) for part in one.parts])
    if not isinstance(one, Call):
        raise UsageError(f"{one!r} is no filter")
    runner: Runner = kind_of(one.kind).make(one)
    return runner


def needs_flows(one: Filter) -> bool:
    """Whether a filter reads what the flow table says of packets (`Seen.facts`)."""
    for call in calls_of(one):
        said = kind_of(call.kind).needs_flows
        if said(call) if callable(said) else said:
            return True
    return False
