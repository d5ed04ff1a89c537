"""Which calls of a graph a rule means, and which stand guard. Where it cannot be told, the answer is the strict one.

Two questions are asked of a call, and of a device. Is it surely meant: so an `allow` and a guard want it. May it be
meant: so a `deny` and a `require` want it, and there a parameter that is no number is as bad as the number in question.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import ipaddress
import re
from typing import Protocol

from traceflow.filters.graph import All, Call, Filter, Not
from traceflow.filters.parameters import side_of
from traceflow.policy.rules import EVERY, Network, Rule, Use

__all__ = [
    "MAY_STAND_BEFORE",
    "Guard",
    "Inside",
    "Standing",
    "device_perhaps",
    "device_surely",
    "holds_for",
    "may_be",
    "standing_of",
    "strange_parts",
    "surely_is",
]

_HEADERS = frozenset({"device", "flags", "flow", "host", "ip", "net", "port", "protocol", "truncate", "tunnel", "vlan"})
MAY_STAND_BEFORE = {
    "addresses": _HEADERS | {"BPF"},
    "snaplen": _HEADERS | {"bytecount", "packetcount", "rate", "sampler"},
}
"""Filters that may stand before the host or net filter, or the truncate filter, that a rule of this kind asks for.

Before the first, what counts nothing and shows nobody what it saw: of sampler and counters, users read how much there
is of others. Before the second, what looks at headers and lengths alone: BPF looks at any octet.
"""

SNAPLEN_MAX = 262144
"""Octets that live sources capture of a frame at most: a truncate filter above that does nothing."""

_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,18})?)(?: .*)?", re.DOTALL | re.ASCII)
_EVERY_DEVICE = ("", "any", EVERY)
"""Names that are no names: none was given, and what libpcap calls all interfaces together."""


class Guard(Protocol):
    """What a rule wants to find on a path."""

    def met_by(self, call: Call) -> bool:
        """Whether a call, which is not negated, is what is wanted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """A call that must stand on a path."""

    use: Use

    def met_by(self, call: Call) -> bool:
        """Whether it surely is meant, and does something at all."""
        return surely_is(self.use, call) and not _lets_all_pass(call)

    def __str__(self) -> str:
        return str(self.use)


@dataclasses.dataclass(frozen=True, slots=True)
class Inside:
    """A host or net filter that must stand on a path."""

    ranges: tuple[Network, ...]

    def met_by(self, call: Call) -> bool:
        """Whether all addresses that it lets pass lie in one of the ranges."""
        network = _network_of(call)
        return network is not None and any(_within(network, one) for one in self.ranges)

    def __str__(self) -> str:
        return f"host or net inside {', '.join(map(str, self.ranges))}"


def _network_of(call: Call) -> Network | None:
    """The addresses of a host or net filter; None where it is neither, or they cannot be read."""
    if call.kind not in ("host", "net"):
        return None
    try:
        return ipaddress.ip_network(side_of(call.parameter)[1])
    except ValueError:
        return None


def _within(network: Network, outer: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and network.subnet_of(outer)


def _number_of(call: Call) -> float | None:
    found = _NUMBER.fullmatch(call.parameter)
    return None if found is None else float(found[1]) if "." in found[1] else int(found[1])


def _lets_all_pass(call: Call) -> bool:
    """Whether a filter of the house is given a parameter with which it is none: 1 in 1, a network of all addresses."""
    number, network = _number_of(call), _network_of(call)
    match call.kind:
        case "sampler":
            return number is None or number <= 1
        case "truncate":
            return number is None or number >= SNAPLEN_MAX
        case "host" | "net":
            return network is None or network.prefixlen == 0
        case "port":
            return "0-65535" in call.parameter
        case "protocol":
            return call.parameter.count(",") >= 255  # each of the 256 by its name
        case "BPF" | "search":
            return not call.parameter.strip()
    return False


def _is(use: Use, call: Call, in_doubt: bool) -> bool:
    if use.name != EVERY and use.name.lower() != call.kind.lower():  # no two kinds differ by that alone
        return False
    if use.parameter is not None and use.parameter != call.parameter:
        return False
    if use.at_least is None and use.at_most is None:
        return True
    number = _number_of(call)
    if number is None:
        return in_doubt
    return (use.at_least is None or number >= use.at_least) and (use.at_most is None or number <= use.at_most)


def surely_is(use: Use, call: Call) -> bool:
    """Whether a call is meant without doubt."""
    return _is(use, call, in_doubt=False)


def may_be(use: Use, call: Call) -> bool:
    """Whether a call may be meant."""
    return _is(use, call, in_doubt=True)


def device_surely(rule: Rule, device: str) -> bool:
    """Whether a rule holds on a device without doubt: where none is named, only a rule for every device does."""
    if device in _EVERY_DEVICE:
        return EVERY in rule.devices or (device != "" and device in rule.devices)
    return _matches(rule.devices, device)


def device_perhaps(rule: Rule, device: str) -> bool:
    """Whether a rule may hold on a device: where none is named, it may be any."""
    return device in _EVERY_DEVICE or _matches(rule.devices, device)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def holds_for(rule: Rule, user: str) -> bool:
    """Whether a rule is about a user."""
    return _matches(rule.users, user)


def standing_of(one: Filter) -> tuple[Call, ...]:
    """The calls of a filter that every packet which passes it has passed: those that no `~` stands before."""
    waiting, found = [one], []
    while waiting:
        part = waiting.pop()
        if isinstance(part, All):
            waiting.extend(reversed(part.parts))
        elif isinstance(part, Call):
            found.append(part)
    return tuple(found)


def strange_parts(one: Filter) -> list[Filter]:
    """The parts of a filter that are neither a call nor made of calls, so that nobody knows what they do."""
    waiting: list[Filter] = [one]
    found: list[Filter] = []
    while waiting:
        part = waiting.pop()
        if type(part) is All:
            waiting.extend(reversed(part.parts))
        elif type(part) is Not:
            waiting.append(part.inner)
        elif type(part) is not Call:
            found.append(part)
    return found
