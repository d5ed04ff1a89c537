"""Nodes that graphs have in common: one Runner for each, and the order in which they run.

A node is shared when its filter and everything before it are equal, which is what equality of nodes means. Its Runner
is made when the first graph needs it and dropped when the last one is closed. Which nodes run, and in which order, is
planned when the set of active graphs changes, not for each batch: a node that only paused graphs need is in no plan.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from traceflow.errors import FilterError, TraceflowError, UsageError
from traceflow.filters.contract import Runner, Seen, Selection
from traceflow.filters.graph import Graph, Node, calls_of
from traceflow.filters.kinds import needs_flows, runner_of
from traceflow.filters.running import union
from traceflow.grabbing.inlets import device_of

__all__ = ["Counts", "Outlet", "Plan", "SharedNodes", "User", "plans_of"]


class SharedNodes:
    """The nodes of all graphs that are not closed, each with its Runner."""

    def __init__(self) -> None:
        self._runners: dict[Node, Runner] = {}
        self._users: dict[Node, int] = {}

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, node: object) -> bool:
        return node in self._users

    def runner(self, node: Node) -> Runner:
        """The Runner of a node; devices have none."""
        return self._runners[node]

    def take(self, graph: Graph) -> None:
        """Have all nodes of a graph.

        Raises:
            UsageError: A filter cannot be made to run. Then nothing of the graph is kept.
        """
        made = {
            node: runner_of(node.filter)
            for node in graph.nodes
            if node not in self._runners and device_of(node) is None
        }
        self._runners.update(made)
        for node in graph.nodes:
            self._users[node] = self._users.get(node, 0) + 1

    def give_back(self, graph: Graph) -> None:
        """Drop the nodes that no other graph has."""
        for node in graph.nodes:
            self._users[node] -= 1
            if not self._users[node]:
                del self._users[node]
                self._runners.pop(node, None)


class Counts:
    """What the nodes of one graph counted while it was active.

    Counters that are no sums (the attribute `gauges` of a Runner names them) are shown as the node has them. Sums have
    as many octets as the memory of their filter, and wrap as it does.

    Args:
        graph: The graph.
        nodes: Where its Runners are.
    """

    def __init__(self, graph: Graph, nodes: SharedNodes) -> None:
        self._runners = {node: nodes.runner(node) for node in graph.nodes if device_of(node) is None}
        self._wraps = {node: _wrap_of(node) for node in self._runners}
        times = collections.Counter(node.filter.text for node in graph.nodes)
        self._names = {
            node: node.filter.text if times[node.filter.text] == 1 else _path_text(node, number)
            for number, node in enumerate(graph.nodes, 1)
            if node in self._runners
        }
        self._sums: dict[Node, dict[str, int]] = {}
        self._before: dict[Node, dict[str, int]] | None = None

    def begin(self) -> None:
        """It is active from now on."""
        self._before = {node: runner.counters() for node, runner in self._runners.items()}

    def end(self) -> None:
        """It is active no more."""
        self._sums, self._before = self._now(), None

    def close(self) -> None:
        """Keep the numbers, and nothing that counts."""
        if self._before is not None:
            self.end()
        self._sums = self._now()
        self._runners = {}

    def _now(self) -> dict[Node, dict[str, int]]:
        found = dict(self._sums)
        for node, runner in self._runners.items():
            counters = runner.counters()
            before, sums = (self._before or {}).get(node), self._sums.get(node, {})
            gauges: Iterable[str] = getattr(runner, "gauges", ())
            found[node] = {
                name: value
                if name in gauges
                else (sums.get(name, 0) + (0 if before is None else value - before.get(name, 0))) % self._wraps[node]
                for name, value in counters.items()
            }
        return found

    def by_text(self) -> dict[str, dict[str, int]]:
        """The counters of each node that has any, by its text; by that of its whole path where two have the same.

        Where the text of that path would be too long, it is the text of the node and its number in the graph.
        """
        return {self._names[node]: counters for node, counters in self._now().items() if counters}


def _path_text(node: Node, number: int) -> str:
    """The text of a node with all before it, or, where that would be too long, with its number in its graph."""
    try:
        return Graph([node]).text
    except UsageError:
        return f"{node.filter.text} as filter {number}"


def _wrap_of(node: Node) -> int:
    memory = {call.memory for call in calls_of(node.filter)}
    only = memory.pop() if len(memory) == 1 else None
    return 1 << (64 if only is None else 8 * only)


class User(Protocol):
    """Whose packets a plan selects: what planning has to know of a grabber."""

    graph: Graph

    @property
    def outlet(self) -> Hashable:
        """Equal for users that are given the same packets."""

    @property
    def wants_packets(self) -> bool:
        """Whether it does anything with them besides counting."""


@dataclasses.dataclass(slots=True)
class Outlet:
    """Where packets leave the graphs: some last nodes, and who is given what they let through.

    Attributes:
        key: `User.outlet` of all its users.
        slots: Places of the nodes.
        users: Users that want packets.
    """

    key: Hashable
    slots: tuple[int, ...]
    users: list[Any]

    def selected(self, found: Sequence[Selection | None]) -> Selection | None:
        """The packets; None where there are none."""
        parts = [part for slot in self.slots if (part := found[slot]) is not None]
        return union(parts) if len(parts) > 1 else parts[0] if parts else None


@dataclasses.dataclass(slots=True)
class Plan:
    """What runs on each batch of one device.

    Attributes:
        steps: Runner, node, places of what stands before it. The node at `steps[i]` has place `i + 1`; 0 is the device.
        outlets: Where packets leave.
        needs_flows: Whether any node reads what the flow table says.
    """

    steps: list[tuple[Runner, Node, tuple[int, ...]]]
    outlets: list[Outlet]
    needs_flows: bool

    def run(
        self, seen: Seen, everything: Selection, failed: Callable[[Node, TraceflowError], None]
    ) -> list[Selection | None]:
        """Run all nodes, each once.

        Args:
            seen: The batch.
            everything: All its packets.
            failed: Told of a node that raised; it lets nothing through.

        Returns:
            What each place let through, None where nothing.
        """
        found: list[Selection | None] = [everything]
        for runner, node, before in self.steps:
            if len(before) == 1:
                given = found[before[0]]
            else:
                parts = [part for slot in before if (part := found[slot]) is not None]
                given = union(parts) if len(parts) > 1 else parts[0] if parts else None
            got = None
            if given is not None:
                try:
                    got = runner.run(seen, given)
                except TraceflowError as error:
                    failed(node, error)
                except Exception as error:  # noqa: BLE001 - a user's filter must not stop the graphs of others
                    failed(node, _as_ours(node, error))
            found.append(got if got is not None and len(got.indexes) else None)
        return found


def _as_ours(node: Node, error: Exception) -> FilterError:
    made = FilterError(f"the filter {node.filter.text} failed: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def plans_of(users: Iterable[User], nodes: SharedNodes) -> dict[str, Plan]:
    """Plans by the name of the device.

    Args:
        users: The graphs that are active.
        nodes: Where their Runners are.
    """
    users = list(users)
    order: dict[Node, None] = {}
    for user in users:
        order.update(dict.fromkeys(user.graph.nodes))
    # each graph has its nodes behind those before them, and a node has the same before it in every graph
    plans: dict[str, Plan] = {}
    for device in [node for node in order if device_of(node) is not None]:
        slots = {device: 0}
        steps: list[tuple[Runner, Node, tuple[int, ...]]] = []
        for node in order:
            before = tuple(slots[one] for one in node.upstream if one in slots)
            if before:
                steps.append((nodes.runner(node), node, before))
                slots[node] = len(steps)
        outlets: dict[Hashable, Outlet] = {}
        for user in users:
            places = tuple(slots[node] for node in user.graph.sinks if node in slots)
            if user.wants_packets and places:
                outlets.setdefault(user.outlet, Outlet(user.outlet, places, [])).users.append(user)
        flows = any(needs_flows(node.filter) for _, node, _ in steps)
        plans[str(device_of(device))] = Plan(steps, list(outlets.values()), flows)
    return plans
