"""A policy: rules that say who may run which graph. What no rule allows is rejected.

It is asked before a graph runs, and answers without running anything. It is a check inside one process, and no wall:
whoever can run other code in that process needs no graph to read packets.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Mapping
from typing import Any

from traceflow.errors import UsageError
from traceflow.filters.graph import Filter, Graph
from traceflow.filters.kinds import KINDS
from traceflow.policy.checking import reasons_against
from traceflow.policy.guards import device_perhaps, holds_for
from traceflow.policy.paths import devices_of
from traceflow.policy.rules import KEYS, Rule, checked_functions
from traceflow.policy.tables import checked_names, parse_policy, read_text
from traceflow.policy.verdicts import Reason, Verdict

__all__ = ["Policy"]


class Policy:
    """Who may run which graph. Immutable; equal where the rules are.

    Attributes:
        rules: Its rules, in the order of their kinds: deny, allow, require, addresses, snaplen, callbacks.
        functions: Names of functions of users that the rules speak of.
    """

    __slots__ = ("functions", "rules")

    def __init__(self, *rules: Rule | Iterable[Rule], functions: Iterable[str] = ()) -> None:
        """Make a policy of rules, or lists of them. Without any, it rejects every graph.

        Args:
            rules: Made by `allow`, `deny`, `require`, `addresses`, `snaplen`, `callbacks` of traceflow.policy.
            functions: Names of functions of users that the rules speak of, beyond filters that are registered.

        Raises:
            UsageError: All functions that nobody knows, and what is no rule.
        """
        given = [one for part in rules for one in ([part] if isinstance(part, Rule) else _listed(part))]
        names, wrong = checked_names(functions)
        mistakes = [f"functions: {what}" for _, what in wrong]
        for place, rule in enumerate(given, 1):
            if not isinstance(rule, Rule) or rule.kind not in KEYS:
                mistakes.append(f"{rule!r:.200} is no rule; make rules with {', '.join(KEYS)} of traceflow.policy")
            else:
                found = checked_functions(rule, {*KINDS, *names})
                mistakes += [f"rule {place}, {rule.kind}: {path[0]}: {what}" for path, what in found]
        if mistakes:
            raise UsageError("; ".join(mistakes))
        order = {kind: place for place, kind in enumerate(KEYS)}
        self.rules: tuple[Rule, ...] = tuple(sorted(given, key=lambda rule: order[rule.kind]))
        self.functions = names

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Policy:
        """The policy in a TOML file.

        Raises:
            CannotReadError: It cannot be read.
            UsageError: Everything that is wrong with it, with lines.
        """
        return cls.parse(read_text(path), os.fspath(path))

    @classmethod
    def parse(cls, text: str, file: str = "policy") -> Policy:
        """The policy in a text in TOML.

        Args:
            text: The text.
            file: What messages call it.

        Raises:
            UsageError: Everything that is wrong with it, with lines.
        """
        rules, functions = parse_policy(text, file)
        return cls(rules, functions=functions)

    def check(
        self, graph: Graph | Filter | Any, user: str | None = None, *, devices: str | Iterable[str] = ()
    ) -> Verdict:
        """Whether a user may run a graph. Runs nothing, and opens nothing.

        Args:
            graph: A graph, a filter, or a spec: an object with `graph`, and perhaps `callbacks` and `parameters`.
            user: Who wants to run it; None: the user of this process, as `getpass.getuser` says now.
            devices: The devices of paths that name none, where they are known.

        Raises:
            UsageError: It is neither, or nobody knows who the user is.
        """
        checked, callbacks, parameters = _parts_of(graph)
        who = _user(user)
        names = tuple(sorted({devices} if isinstance(devices, str) else set(devices)))
        if not all(isinstance(name, str) and name for name in names):
            raise UsageError(f"devices is {devices!r}; it must be names of devices")
        rules = [one for one in self._labelled() if holds_for(one[1], who)]
        reasons, more = reasons_against(rules, checked, parameters, names)
        at_work = devices_of(checked, names)
        limits = [
            one for one in rules if one[1].kind == "callbacks" and any(device_perhaps(one[1], name) for name in at_work)
        ]
        if callbacks:
            what = "it has callbacks, and may have none"
            reasons += tuple(Reason(label, "the graph", "", what) for label, rule in limits if rule.number == 0)
        return Verdict(who, reasons, min((rule.number for _, rule in limits), default=None), more)

    def _labelled(self) -> list[tuple[str, Rule]]:
        """The rules, each with what messages call it: `allow 2 (policy.toml:14)`."""
        counts = dict.fromkeys(KEYS, 0)
        labelled = []
        for rule in self.rules:
            counts[rule.kind] += 1
            where = f" ({rule.where})" if rule.where else ""
            labelled.append((f"{rule.kind} {counts[rule.kind]}{where}", rule))
        return labelled

    def __eq__(self, other: object) -> bool:
        return self.rules == other.rules if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.rules)

    def __repr__(self) -> str:
        return f"<Policy of {len(self.rules)} rules>"


def _listed(part: Any) -> list[Any]:
    return list(part) if isinstance(part, Iterable) and not isinstance(part, str | Mapping) else [part]


def _parts_of(given: Any) -> tuple[Graph, bool, Mapping[str, Any]]:
    """The graph, whether there are callbacks, and the parameters.

    Raises:
        UsageError: There is no graph.
    """
    graph = given if isinstance(given, Graph | Filter) else getattr(given, "graph", None)
    if not isinstance(graph, Graph | Filter):
        raise UsageError(f"{type(given).__name__} has no graph to check; give a graph, or a spec that was populated")
    parameters = getattr(given, "parameters", None)
    if not isinstance(parameters, Mapping):
        parameters = {}
    # Made again of its last nodes, so that what is checked is what hangs together, whatever `nodes` says.
    checked = Graph(Graph.of(graph).sinks)
    is_called = bool(getattr(given, "callbacks", ())) or getattr(getattr(given, "tracer", None), "on_flow_end", None)
    return checked, bool(is_called), parameters


def _user(user: str | None) -> str:
    if user is None:
        try:
            user = getpass.getuser()
        except (KeyError, OSError, ImportError) as error:
            raise UsageError("nobody knows the user of this process; give one with user=") from error
    if not isinstance(user, str) or not user:
        raise UsageError(f"user is {user!r}; it must be the name of a user")
    return user
