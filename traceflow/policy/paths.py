"""What can stand before and behind a filter, on any path of a graph, without going through all paths.

There can be 2**n paths through n places where a graph divides and joins, so paths are not counted up. Instead, every
place keeps in how many ways it can be reached: a way is the device at its beginning and the set of guards that were
passed. A way that has all guards of another, and more, breaks no rule that the other keeps, so only the smallest
sets are kept. For one guard that is one way a place; each has the place it comes from, which gives a path to show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from traceflow.filters.graph import DEVICE, Call, Filter, Graph, Node, calls_of
from traceflow.policy.guards import Guard, standing_of

__all__ = ["Budget", "Paths", "TooMuchWorkError", "Way", "Ways", "devices_of"]

Way = tuple[int, int]
"""A device, by the number of its class, and the guards that stand on the way, a bit each."""

Ways = dict[int, dict[int, tuple[int, Way] | None]]
"""Of a place: class of the device -> guards -> the place before it and the way there; None: it begins here."""


class TooMuchWorkError(Exception):
    """The graph and the rules are so intertwined that checking them would take too long."""


class Budget:
    """How much work a check may still be.

    Args:
        steps: Comparisons of two ways at most.
    """

    __slots__ = ("_left",)

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Take some of it.

        Raises:
            TooMuchWorkError: It is used up.
        """
        self._left -= steps
        if self._left < 0:
            raise TooMuchWorkError


def _device_of(one: Filter) -> str | None:
    """The device that a filter names; empty: it hides one among others; None: it names none."""
    if isinstance(one, Call):
        return one.parameter if one.kind == DEVICE else None
    return "" if any(call.kind == DEVICE for call in calls_of(one)) else None


def devices_of(graph: Graph, default_devices: Sequence[str]) -> tuple[str, ...]:
    """The devices of a graph, each once; empty: nobody knows which.

    Args:
        graph: The graph.
        default_devices: Those of paths that name none.
    """
    names: dict[str, None] = {}
    for node in graph.heads:
        name = _device_of(node.filter)
        names |= dict.fromkeys((default_devices or ("",)) if name is None else (name,))
    return tuple(names)


class Paths:
    """The places of a graph, by number, each behind those before it.

    A place is a node; a device that is named by nobody, before nodes that begin a path without one; a meeting of
    branches, which nodes that are given the same share; and, as the last one, the end of all paths.

    Attributes:
        keys: The same for places that are the same of equal graphs, however these were written.
        calls: The calls of each place, also negated ones.
        standing: Those that are not negated.
        texts: What a path shows of each place; empty: nothing.
        before: The places right before each.
        behind: The places right behind each.
        devices: Name of the device of each place that begins a path; empty: nobody knows.
        end: Number of the last place.
    """

    def __init__(self, graph: Graph, default_devices: Sequence[str]) -> None:
        """Number the places.

        Args:
            graph: The graph.
            default_devices: Those of paths that begin without one.
        """
        self.keys: list[bytes] = []
        self.calls: list[tuple[Call, ...]] = []
        self.standing: list[tuple[Call, ...]] = []
        self.texts: list[str] = []
        self.before: list[tuple[int, ...]] = []
        self.devices: dict[int, str] = {}
        self._defaults = tuple(default_devices)
        self._default_places: tuple[int, ...] = ()
        self._places_of: dict[Guard, list[int]] = {}
        self._meetings: dict[tuple[int, ...], tuple[int, ...]] = {}
        numbers: dict[Node, int] = {}
        for node in graph.nodes:
            numbers[node] = self._add_node(node, [numbers[one] for one in node.upstream])
        self.end = self._add(b"end", before=self._meeting([numbers[node] for node in graph.sinks]))
        self.behind = self._turned()

    def _add(self, key: bytes, calls: tuple[Call, ...] = (), text: str = "", before: Iterable[int] = ()) -> int:
        self.keys.append(key)
        self.calls.append(calls)
        self.standing.append(calls)
        self.texts.append(text)
        self.before.append(tuple(before))
        return len(self.calls) - 1

    def _add_node(self, node: Node, upstream: list[int]) -> int:
        calls = calls_of(node.filter)
        device = None if upstream else _device_of(node.filter)
        if not upstream and device is None:
            upstream = list(self._unnamed())
        place = self._add(node.key, calls, node.filter.text, self._meeting(upstream))
        self.standing[place] = standing_of(node.filter)
        if device is not None:
            self.devices[place] = device
        return place

    def _unnamed(self) -> tuple[int, ...]:
        """The places of the devices of paths that name none."""
        if not self._default_places:
            for name in self._defaults or ("",):
                text = f"(the default device{f' {name}' if name else ''})"
                place = self._add(text.encode("utf-8", "surrogatepass"), (Call(DEVICE, name),), text)
                self.devices[place] = name
                self._default_places += (place,)
        return self._default_places

    def _meeting(self, upstream: list[int]) -> tuple[int, ...]:
        """The place where some branches meet, which is made when it is first asked for."""
        if len(upstream) <= 1:
            return tuple(upstream)
        # in the order of their keys: equal graphs give equal examples, however they were written
        members = tuple(sorted(upstream, key=self.keys.__getitem__))
        if members not in self._meetings:
            key = hashlib.blake2b(b"".join(self.keys[one] for one in members), digest_size=16).digest()
            self._meetings[members] = (self._add(key, before=members),)
        return self._meetings[members]

    def _turned(self) -> list[tuple[int, ...]]:
        behind: list[list[int]] = [[] for _ in self.before]
        for place, before in enumerate(self.before):
            for one in before:
                behind[one].append(place)
        return [tuple(sorted(places, key=self.keys.__getitem__)) for places in behind]

    @property
    def connections(self) -> int:
        """How many there are between places."""
        return sum(map(len, self.before))

    def ways_to(self, guards: Sequence[Guard], classes: Mapping[int, int], budget: Budget) -> list[Ways]:
        """The ways from a beginning to right before each place.

        Args:
            guards: What is looked for; the bits of the ways are in this order.
            classes: Class of the device of each place that begins a path.
            budget: How much work it may be.
        """
        start: dict[int, Ways] = {place: {classes[place]: {0: None}} for place in self.devices}
        return _walk(range(len(self.calls)), self.before, start, self._bits(guards, budget), budget)

    def ways_from(self, guards: Sequence[Guard], budget: Budget) -> list[Ways]:
        """The ways from right behind each place to an end; all devices are class 0."""
        places = range(len(self.calls) - 1, -1, -1)
        return _walk(places, self.behind, {self.end: {0: {0: None}}}, self._bits(guards, budget), budget)

    def _bits(self, guards: Sequence[Guard], budget: Budget) -> list[int]:
        """Which guards stand at each place."""
        bits = [0] * len(self.calls)
        for bit, guard in enumerate(guards):
            if guard not in self._places_of:
                budget.spend(sum(map(len, self.standing)))
                self._places_of[guard] = [
                    place for place, calls in enumerate(self.standing) if any(map(guard.met_by, calls))
                ]
            budget.spend(len(self._places_of[guard]) // 8)
            for place in self._places_of[guard]:
                bits[place] |= 1 << bit
        return bits

    def path(self, place: int, to: Sequence[Ways], way: Way, onwards: Sequence[Ways], onward: Way) -> tuple[int, ...]:
        """The places of a path that goes through a place by these ways."""
        first = [one for one, _ in _trace(place, to, way)]
        rest = [one for one, _ in _trace(place, onwards, onward)]
        return tuple(one for one in (*reversed(first), *rest[1:]) if self.texts[one])


def _trace(place: int, ways: Sequence[Ways], way: Way) -> list[tuple[int, Way]]:
    steps = [(place, way)]
    while (origin := ways[steps[-1][0]][steps[-1][1][0]][steps[-1][1][1]]) is not None:
        steps.append(origin)
    return steps


def _walk(
    order: Iterable[int],
    before: Sequence[tuple[int, ...]],
    start: Mapping[int, Ways],
    bits: Sequence[int],
    budget: Budget,
) -> list[Ways]:
    """The smallest ways to each place, from those where a path starts."""
    ways: list[Ways] = [{} for _ in before]
    for place in order:
        here = ways[place] = start.get(place) or {}
        for one in before[place]:
            for device, masks in ways[one].items():
                own = here.setdefault(device, {})
                for mask in masks:
                    budget.spend(1 + len(own))
                    _add(own, mask | bits[one], (one, (device, mask)))
    return ways


def _add(own: dict[int, tuple[int, Way] | None], mask: int, origin: tuple[int, Way]) -> None:
    """Keep a set of guards, unless one that is there is part of it; those that it is part of go."""
    if any(known & mask == known for known in own):
        return
    for known in [known for known in own if known & mask == mask]:
        del own[known]
    own[mask] = origin
