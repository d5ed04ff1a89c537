"""The room `sharing`: nodes that graphs have in common are one, and each runs once a batch.

A filter of these tests is a function that counts its calls. Node counts and calls are counted by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from traceflow.errors import FilterError, TraceflowError
from traceflow.filters.contract import Kind, Seen, Selection
from traceflow.filters.graph import Call, Graph
from traceflow.filters.kinds import register
from traceflow.filters.text import parse_graph
from traceflow.grabbing.inlets import device_of
from traceflow.grabbing.sharing import Counts, SharedNodes, plans_of
from traceflow.packets import FRAME, PACKET, Batch

runs: list[str] = []
"""What was called: parameter and how many packets came."""


class Spy:
    """Lets the first half of what comes through, or fails."""

    def __init__(self, call: Call) -> None:
        self.name, self.packets = call.parameter, 0
        self.gauges = ("last",)

    def run(self, seen: Seen, given: Selection) -> Selection:
        runs.append(f"{self.name} {len(given)}")
        self.packets += len(given)
        if self.name == "raises":
            raise KeyError("a mistake")
        return Selection(given.indexes[: len(given) // 2])

    def counters(self) -> dict[str, int]:
        return {"packets": self.packets, "last": 7}


register(Kind("spy", "counts its calls", "NAME", str, Spy, memory=(1, 8)))


@pytest.fixture(autouse=True)
def _no_runs() -> Iterator[None]:
    runs.clear()
    yield
    runs.clear()


class User:
    """A graph that is active."""

    def __init__(self, text: str, *, wants_packets: bool = True) -> None:
        self.graph = parse_graph(text)
        self.outlet = frozenset(self.graph.sinks)
        self.wants_packets = wants_packets


def batch_of(count: int) -> tuple[Seen, Selection]:
    batch = Batch(np.zeros(1, np.uint8), np.zeros(count, FRAME), 1, 1)
    return Seen(batch, np.zeros(count, PACKET), "a"), Selection(np.arange(count, dtype=np.uint32))


def run(users: list[Any], device: str = "a", count: int = 8) -> dict[str, int]:
    """Run the graphs on a batch of a device: how many packets leave them, by text."""
    nodes = SharedNodes()
    for user in users:
        nodes.take(user.graph)
    plan = plans_of(users, nodes)[device]
    found = plan.run(*batch_of(count), lambda node, error: None)
    selected = [(outlet, outlet.selected(found)) for outlet in plan.outlets]
    return {outlet.users[0].graph.text: len(some) for outlet, some in selected if some is not None}


def test_a_common_prefix_runs_once() -> None:
    """Two graphs behind (spy,x): 8 packets, x lets 4 through, y and z get these."""
    users = [User("(device,a) -> (spy,x) -> (spy,y)"), User("(device,a) -> (spy,x) -> (spy,z)")]
    assert set(run(users).values()) == {2}
    assert runs == ["x 8", "y 4", "z 4"]


def test_the_two_flows_of_the_paper_share_their_sampler_where_their_upstream_is_equal() -> None:
    """FFPF's two examples: both sample eth0 and eth1. Nodes: two devices, a sampler, two BPF or counters behind it.
    With eth0 alone before it, the second sampler is another one."""
    nodes = SharedNodes()
    one = parse_graph("(device,eth0) | (device,eth1) -> (sampler,2,4) -> (port,80) -> (bytecount,,8)")
    two = parse_graph("(device,eth0) | (device,eth1) -> (sampler,2,4) -> (port,53) -> (packetcount)")
    nodes.take(one)
    assert len(nodes) == 5
    nodes.take(two)
    assert len(nodes) == 7
    other = parse_graph("(device,eth0) -> (sampler,2,4) -> (packetcount)")
    nodes.take(other)
    assert len(nodes) == 9
    for graph in (one, other, two):
        nodes.give_back(graph)
    assert len(nodes) == 0


def test_a_node_keeps_its_runner_as_long_as_any_graph_has_it() -> None:
    nodes = SharedNodes()
    one, two = parse_graph("(device,a) -> (spy,x) -> (spy,y)"), parse_graph("(device,a) -> (spy,x)")
    nodes.take(one)
    shared = nodes.runner(two.sinks[0])
    nodes.take(two)
    nodes.give_back(one)
    assert nodes.runner(two.sinks[0]) is shared
    assert one.sinks[0] not in nodes
    nodes.give_back(two)
    nodes.take(two)
    assert nodes.runner(two.sinks[0]) is not shared


def test_branches_that_come_together_give_each_packet_once() -> None:
    """x lets 0 to 3 of 8 through, y as well: z gets 4 packets, not 8."""
    run([User("(device,a) -> (spy,x) | (spy,y) -> (spy,z)")])
    assert runs == ["x 8", "y 8", "z 4"]


def test_what_belongs_to_another_device_does_not_run() -> None:
    users = [User("(device,a) -> (spy,x)"), User("(device,b) -> (spy,y)"), User("(device,a) | (device,b) -> (spy,z)")]
    assert len(run(users, "b")) == 2
    assert runs == ["y 8", "z 8"]


def test_filters_are_not_called_for_nothing() -> None:
    """1 packet: x lets none of it through (1 // 2), so nothing comes to y."""
    assert run([User("(device,a) -> (spy,x) -> (spy,y)")], count=1) == {}
    assert runs == ["x 1"]


def test_packets_that_nobody_wants_leave_nowhere() -> None:
    users = [User("(device,a) -> (spy,x)", wants_packets=False), User("(device,a) -> (spy,y)")]
    assert set(run(users)) == {"(device,a) -> (spy,y)"}
    assert runs == ["x 8", "y 8"]


def test_graphs_with_the_same_ends_leave_at_one_outlet() -> None:
    users = [User("(device,a) -> (spy,x)"), User("(device,a) -> (spy,x)"), User("(device,a) -> (spy,x)")]
    nodes = SharedNodes()
    for user in users:
        nodes.take(user.graph)
    outlets = plans_of(users, nodes)["a"].outlets
    assert [len(outlet.users) for outlet in outlets] == [3]


def test_a_filter_that_fails_stops_what_is_behind_it_and_nothing_else() -> None:
    users = [User("(device,a) -> (spy,raises) -> (spy,y)"), User("(device,a) -> (spy,z)")]
    nodes = SharedNodes()
    for user in users:
        nodes.take(user.graph)
    failed: list[tuple[str, TraceflowError]] = []
    plans_of(users, nodes)["a"].run(*batch_of(8), lambda node, error: failed.append((node.filter.text, error)))
    assert [text for text, _ in failed] == ["(spy,raises)"]
    assert isinstance(failed[0][1], FilterError)
    assert "(spy,raises) failed: KeyError" in str(failed[0][1])
    assert runs == ["raises 8", "z 8"]


def test_only_filters_that_ask_have_flows_followed() -> None:
    nodes = SharedNodes()
    users = [User("(device,a) -> (spy,x)"), User('(device,b) -> (flow,"packets>3")')]
    for user in users:
        nodes.take(user.graph)
    plans = plans_of(users, nodes)
    assert (plans["a"].needs_flows, plans["b"].needs_flows) == (False, True)
    assert [device_of(node) for node in users[1].graph.heads] == ["b"]


class Counted:
    """One graph with a single node, shared with whoever else runs it."""

    def __init__(self, text: str) -> None:
        self.graph: Graph = parse_graph(text)
        self.nodes = SharedNodes()
        self.nodes.take(self.graph)
        self.counts = Counts(self.graph, self.nodes)

    def pass_by(self, packets: int) -> None:
        self.nodes.runner(self.graph.sinks[0]).run(*batch_of(packets))


def test_a_graph_counts_what_passes_while_it_is_active() -> None:
    """2 before, 3 in a first time, 5 in between, 7 in a second time, 9 after it was closed: 3 + 7."""
    one = Counted("(device,a) -> (spy,x)")
    one.pass_by(2)
    one.counts.begin()
    one.pass_by(3)
    assert one.counts.by_text() == {"(spy,x)": {"packets": 3, "last": 7}}
    one.counts.end()
    one.pass_by(5)
    assert one.counts.by_text()["(spy,x)"]["packets"] == 3
    one.counts.begin()
    one.pass_by(7)
    one.counts.close()
    one.pass_by(9)
    assert one.counts.by_text() == {"(spy,x)": {"packets": 10, "last": 7}}


def test_sums_wrap_where_the_memory_of_their_filter_ends() -> None:
    """One octet: 200 and 100 packets are 300 - 256."""
    one = Counted("(device,a) -> (spy,x,1)")
    one.counts.begin()
    one.pass_by(200)
    one.pass_by(100)
    assert one.counts.by_text()["(spy,x,1)"]["packets"] == 44


def test_rates_are_shown_as_they_are() -> None:
    one = Counted("(device,a) -> (rate,1s)")
    one.pass_by(4)
    one.counts.begin()
    assert set(one.counts.by_text()["(rate,1s)"].values()) == {0}


def test_two_nodes_of_one_text_are_told_apart_by_their_paths() -> None:
    one = Counted("((device,a) -> (packetcount)) | ((device,b) -> (packetcount))")
    assert set(one.counts.by_text()) == {"(device,a) -> (packetcount)", "(device,b) -> (packetcount)"}
