"""Whether a graph keeps the rules of a policy, on every path from each device to each end.

What a rule asks of a call is a set of guards before it and a set behind it. Calls of which the same guards are asked
share one walk over the graph in each direction (`paths`); then each call is looked at with the ways that lead to it
and on from it. Whether a call is allowed depends on the whole path, so one path may be allowed by one rule and
another by another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from traceflow.filters.graph import DEVICE, Call, Graph, calls_of
from traceflow.filters.kinds import BUILT_IN, KINDS
from traceflow.policy.guards import (
    MAY_STAND_BEFORE,
    Guard,
    Inside,
    Standing,
    device_perhaps,
    device_surely,
    may_be,
    strange_parts,
    surely_is,
)
from traceflow.policy.paths import Budget, Paths, TooMuchWorkError, Way, Ways
from traceflow.policy.rules import Rule, Use
from traceflow.policy.verdicts import REASONS_MAX, Reason, path_text, printable

__all__ = ["STEPS_MAX", "Labelled", "reasons_against"]

STEPS_MAX = 4_000_000
"""Comparisons of ways that a check may take, some seconds. A graph for which that is not enough is rejected."""

CONNECTIONS_MAX = 2**17
"""Connections of a graph that are looked at, after branches that are given the same were taken together."""

_BROKEN_MAX = 65536
_DEFAULT = -1
"""Number of the rule that nothing allows a call."""

Labelled = Sequence[tuple[str, Rule]]
"""The rules that hold for a user, each with what it is called in messages."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Demand:
    """What one rule asks: its number, and the guards before and behind as bits."""

    rule: int
    after: int = 0
    before: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Demands:
    """What all rules ask of a call, and the guards that the bits mean."""

    denies: tuple[int, ...]
    allows: tuple[_Demand, ...]
    requires: tuple[_Demand, ...]
    after: tuple[Guard, ...]
    before: tuple[Guard, ...]
    needs_allow: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class _Broken:
    """A rule that a call breaks, and the ways on which it does.

    Attributes:
        rule: Its number; _DEFAULT: none allows it.
        place: Where the call stands.
        call: The call; None: the path as a whole.
        way: How it is reached.
        onward: How it goes on.
    """

    rule: int
    place: int
    call: Call | None
    way: Way
    onward: Way


class _Check:
    """The check of one graph."""

    def __init__(self, rules: Labelled, graph: Graph, parameters: Mapping[str, Any], devices: Sequence[str]) -> None:
        self.rules = [rule for _, rule in rules]
        self.labels = [label for label, _ in rules]
        self.paths = Paths(graph, devices)
        self.snaplen = parameters.get("snaplen")
        self._budget = Budget(STEPS_MAX)
        self._demands: dict[Call | None, _Demands] = {}
        self._to: dict[tuple[Guard, ...], list[Ways]] = {}
        self._from: dict[tuple[Guard, ...], list[Ways]] = {}
        self._sort_devices()

    def _sort_devices(self) -> None:
        """Put the devices for which the same rules hold into one class."""
        self._surely: list[list[bool]] = []
        self._perhaps: list[list[bool]] = []
        self._classes: dict[int, int] = {}
        known: dict[tuple[tuple[bool, ...], tuple[bool, ...]], int] = {}
        of_name: dict[str, int] = {}
        for name in sorted(set(self.paths.devices.values())):
            surely = tuple(device_surely(rule, name) for rule in self.rules)
            perhaps = tuple(device_perhaps(rule, name) for rule in self.rules)
            of_name[name] = known.setdefault((surely, perhaps), len(known))
            if of_name[name] == len(self._surely):
                self._surely.append(list(surely))
                self._perhaps.append(list(perhaps))
        for place, name in self.paths.devices.items():
            self._classes[place] = of_name[name]

    # --- what is asked of a call -----------------------------------------------------------------------------

    def demands_of(self, call: Call | None) -> _Demands:
        """What all rules ask of a call; of None, of the path as a whole."""
        if call not in self._demands:
            self._demands[call] = self._asked(call)
        return self._demands[call]

    def _asked(self, call: Call | None) -> _Demands:
        after: dict[Guard, int] = {}
        before: dict[Guard, int] = {}
        denies: list[int] = []
        allows: list[_Demand] = []
        requires: list[_Demand] = []
        self._budget.spend(sum(1 + len(rule.function) for rule in self.rules))
        for number, rule in enumerate(self.rules):
            if rule.kind in ("addresses", "snaplen"):
                if not self._is_kept(rule) if call is None else call.kind not in MAY_STAND_BEFORE[rule.kind]:
                    requires.append(_Demand(number, _bits([_guard_of(rule)], after)))
            elif call is None:
                continue
            elif rule.kind == "deny" and any(may_be(use, call) for use in rule.function):
                denies.append(number)
            elif (rule.kind == "allow" and any(surely_is(use, call) for use in rule.function)) or (
                rule.kind == "require" and any(may_be(use, call) for use in rule.function)
            ):
                demand = _Demand(
                    number, _bits(map(Standing, rule.after), after), _bits(map(Standing, rule.before), before)
                )
                (allows if rule.kind == "allow" else requires).append(demand)
        return _Demands(
            tuple(denies), tuple(allows), tuple(requires), tuple(after), tuple(before), needs_allow=call is not None
        )

    def _is_kept(self, rule: Rule) -> bool:
        """Whether a rule for whole paths is kept without a filter: the parameter cuts what is handed out at their ends.

        What stands in the graph and looks at octets sees all of them all the same.
        """
        return rule.kind == "snaplen" and type(self.snaplen) is int and 1 <= self.snaplen <= rule.number

    # --- looking at all calls --------------------------------------------------------------------------------

    def broken(self) -> list[_Broken]:
        """All that is broken, once for each rule, place and call.

        Raises:
            TooMuchWorkError: It would take too long to tell.
        """
        if self.paths.connections > CONNECTIONS_MAX:
            raise TooMuchWorkError
        found: list[_Broken] = []
        for place, calls in enumerate(self.paths.calls):
            for call in dict.fromkeys(calls):
                found += self._broken_by(place, call)
            if len(found) > _BROKEN_MAX:
                raise TooMuchWorkError
        return found + self._broken_by(self.paths.end, None)

    def _broken_by(self, place: int, call: Call | None) -> list[_Broken]:
        demands = self.demands_of(call)
        to, onwards = self.ways_to(demands)[place], self.ways_from(demands)[place]
        found: dict[int, _Broken] = {}
        for device, masks in to.items():
            for mask in masks:
                for onward in onwards[0]:
                    self._budget.spend(1 + len(demands.denies) + len(demands.allows) + len(demands.requires))
                    for rule in self._broken_on(demands, device, mask, onward):
                        found.setdefault(rule, _Broken(rule, place, call, (device, mask), (0, onward)))
        return list(found.values())

    def ways_to(self, demands: _Demands) -> list[Ways]:
        """The ways to all places, with the guards of some demands."""
        if demands.after not in self._to:
            self._to[demands.after] = self.paths.ways_to(demands.after, self._classes, self._budget)
        return self._to[demands.after]

    def ways_from(self, demands: _Demands) -> list[Ways]:
        """The ways from all places, with the guards of some demands."""
        if demands.before not in self._from:
            self._from[demands.before] = self.paths.ways_from(demands.before, self._budget)
        return self._from[demands.before]

    def _broken_on(self, demands: _Demands, device: int, mask: int, onward: int) -> list[int]:
        """The rules that are broken on one way to a call and one way on."""
        surely, perhaps = self._surely[device], self._perhaps[device]
        wrong = [rule for rule in demands.denies if perhaps[rule]]
        if demands.needs_allow and not any(surely[one.rule] and _met(one, mask, onward) for one in demands.allows):
            wrong.append(_DEFAULT)
        return wrong + [one.rule for one in demands.requires if perhaps[one.rule] and not _met(one, mask, onward)]

    # --- saying why ------------------------------------------------------------------------------------------

    def reason(self, broken: _Broken) -> Reason:
        """A reason of something that is broken."""
        demands = self.demands_of(broken.call)
        places = self.paths.path(
            broken.place, self.ways_to(demands), broken.way, self.ways_from(demands), broken.onward
        )
        at = len(places) - 1 if broken.call is None else places.index(broken.place)
        path = path_text([self.paths.texts[place] for place in places], at)
        call = "" if broken.call is None else printable(_call_text(broken.call))
        if broken.rule == _DEFAULT:
            return Reason("default", call, path, self._what_would_allow(demands, broken))
        label = self.labels[broken.rule]
        if self.rules[broken.rule].kind == "deny":
            return Reason(label, call, path, "it is denied; leave it out")
        demand = next(one for one in demands.requires if one.rule == broken.rule)
        if broken.call is None:
            return Reason(label, call, path, f"needed is {_named(demands.after, demand.after)} on it")
        return Reason(label, call, path, f"needed is {_missing(demands, demand, broken)}")

    def _what_would_allow(self, demands: _Demands, broken: _Broken) -> str:
        """What would make the rules that allow a call apply to it."""
        ways = []
        for one in demands.allows:
            wanted = []
            if not self._surely[broken.way[0]][one.rule]:
                wanted.append(f"device {' or '.join(self.rules[one.rule].devices)}")
            if missing := _missing(demands, one, broken):
                wanted.append(missing)
            ways.append(f"{' and '.join(wanted)} ({self.labels[one.rule]})")
        return f"needed is {', or '.join(ways)}" if ways else "no rule allows it"


def _guard_of(rule: Rule) -> Guard:
    """The filter that a rule for whole paths asks for."""
    return Inside(rule.inside) if rule.kind == "addresses" else Standing(Use("truncate", at_most=rule.number))


def _bits(guards: Any, known: dict[Guard, int]) -> int:
    bits = 0
    for guard in guards:
        bits |= 1 << known.setdefault(guard, len(known))
    return bits


def _met(demand: _Demand, mask: int, onward: int) -> bool:
    return demand.after & ~mask == 0 and demand.before & ~onward == 0


def _named(guards: Sequence[Guard], bits: int) -> str:
    return " and ".join(str(guard) for bit, guard in enumerate(guards) if bits >> bit & 1)


def _missing(demands: _Demands, demand: _Demand, broken: _Broken) -> str:
    """The guards that a demand lacks."""
    before_it = _named(demands.after, demand.after & ~broken.way[1])
    behind_it = _named(demands.before, demand.before & ~broken.onward[1])
    return " and ".join(
        [*([f"{before_it} before it"] if before_it else []), *([f"{behind_it} behind it"] if behind_it else [])]
    )


def _call_text(call: Call) -> str:
    return "the default device" if call == Call(DEVICE) else call.text


_READ_ELSEWHERE = ("BPF", "search")
"""Filters whose parameters are not read here, as that takes libpcap or a kernel: what they let pass is not judged."""


def _odd_form(call: Call) -> str:
    """What is wrong with a call that `make_call` did not make: rules read parameters in the form that it gives."""
    if call.kind not in KINDS:
        return f"there is no filter of the exact name {printable(call.kind)}; make it with make_call"
    if call.memory is not None and (type(call.memory) is not int or call.memory not in KINDS[call.kind].memory):
        return f"it cannot have the memory {printable(repr(call.memory))}; make it with make_call"
    if call.kind in BUILT_IN and call.kind not in _READ_ELSEWHERE:
        try:
            right = KINDS[call.kind].canonical(call.parameter)
        except ValueError as error:
            return f"its parameter is none: {printable(str(error))}"
        if right != call.parameter:
            return f"its parameter is not in the form that make_call gives: {printable(right)}"
    return ""


def _of_the_graph(graph: Graph) -> list[Reason]:
    """What no policy can judge: filters that are none, names that are none, devices that are hidden."""
    reasons = []
    for node in graph.nodes:
        text, calls = printable(node.filter.text), calls_of(node.filter)
        for part in strange_parts(node.filter):
            what = f"it is a {type(part).__name__}; needed are calls made by make_call, `~` and `&` of them"
            reasons.append(Reason("graph", text, "", what))
        reasons += [Reason("graph", text, "", what) for call in dict.fromkeys(calls) if (what := _odd_form(call))]
        if any(call.kind == DEVICE for call in calls) and not (len(calls) == 1 and calls[0] == node.filter):
            reasons.append(Reason("graph", text, "", "a device stands alone; connect the rest behind it"))
    return sorted(dict.fromkeys(reasons), key=lambda reason: (reason.function, reason.needed))


def reasons_against(
    rules: Labelled, graph: Graph, parameters: Mapping[str, Any], devices: Sequence[str]
) -> tuple[tuple[Reason, ...], bool]:
    """Why a graph may not run, and whether there are more reasons than are told.

    Args:
        rules: The rules that hold for the user.
        graph: The graph.
        parameters: The parameters of its spec.
        devices: The devices of paths that name none; empty: nobody knows them.
    """
    reasons = _of_the_graph(graph)
    try:
        check = _Check(rules, graph, parameters, devices)
        found = check.broken()
    except TooMuchWorkError:
        what = "too many paths with different guards to tell; use fewer parallel branches, or several graphs"
        return (*reasons[: REASONS_MAX - 1], Reason("graph", "the graph", "", what)), len(reasons) >= REASONS_MAX
    found.sort(key=lambda one: (one.rule, one.call.text if one.call else "", check.paths.keys[one.place]))
    count = len(reasons) + len(found)
    reasons += [check.reason(one) for one in found[: max(0, REASONS_MAX - len(reasons))]]
    return tuple(reasons[:REASONS_MAX]), count > REASONS_MAX
