"""Whole graphs at work: filters, branches and `truncate` together, against what each packet does alone."""

from __future__ import annotations

import functools

import pytest
from batches import seen_of, tcp_frame, udp_frame
from hypothesis import given
from hypothesis import strategies as st

from traceflow.filters.build import host, ip, packetcount, port, protocol, search, truncate
from traceflow.filters.contract import Runner, Seen, Selection
from traceflow.filters.graph import Filter, Graph, Node
from traceflow.filters.kinds import runner_of
from traceflow.filters.running import of_batch, union
from traceflow.filters.text import parse_graph


@functools.cache
def seen() -> Seen:
    """Eight packets: bit 0 of the number says whether the port is 80 or 53, bit 1 the protocol, bit 2 the sender."""
    frames = []
    for number in range(8):
        make = udp_frame if number & 2 else tcp_frame
        source = "10.0.0.9" if number & 4 else "10.0.0.1"
        frames.append(make(source, "10.0.0.2", 1000, 53 if number & 1 else 80, b"needle"))
    return seen_of(frames)


def run(graph: Graph, seen: Seen, runners: dict[Node, Runner] | None = None) -> dict[Node, Selection]:
    """What each node lets through of a batch, each run once."""
    passed: dict[Node, Selection] = {}
    for node in graph.nodes:
        given = union([passed[one] for one in node.upstream]) if node.upstream else of_batch(len(seen.packets))
        runner = runner_of(node.filter) if runners is None else runners[node]
        passed[node] = runner.run(seen, given) if len(given) else given
    return passed


def ends(graph: Graph) -> list[int]:
    passed = run(graph, seen())
    return union([passed[node] for node in graph.sinks]).indexes.tolist()


MEANING = {
    "(port,53)": {1, 3, 5, 7},
    "(protocol,UDP)": {2, 3, 6, 7},
    "(host,10.0.0.9)": {4, 5, 6, 7},
    "(ip,6)": set(),
    "(ip,4)": set(range(8)),
}
_CALLS = st.sampled_from([port(53), protocol("udp"), host("10.0.0.9"), ip(6), ip(4)])
_PREDICATES = st.recursive(
    _CALLS,
    lambda inner: st.one_of(st.builds(lambda a: ~a, inner), st.builds(lambda a, b: a & b, inner, inner)),
    max_leaves=4,
)


def meant(one: Filter) -> set[int]:
    """The packets that a predicate means, by sets."""
    if one.text in MEANING:
        return MEANING[one.text]
    if hasattr(one, "inner"):
        return set(range(8)) - meant(one.inner)
    return set.intersection(*map(meant, one.parts))  # type: ignore[attr-defined] # the last kind there is


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 6 predicates, each behind any of those before it."""
    filters: dict[str, Filter] = {}
    edges = []
    for place in range(draw(st.integers(1, 6))):
        filters[str(place)] = draw(_PREDICATES)
        before = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        edges += [(str(one), str(place)) for one in sorted(before)]
    return Graph.from_edges(filters, edges)


@given(graphs())
def test_a_graph_lets_through_what_goes_along_one_of_its_paths(graph: Graph) -> None:
    reached: dict[Node, set[int]] = {}
    for node in graph.nodes:
        came = set.union(*(reached[one] for one in node.upstream)) if node.upstream else set(range(8))
        reached[node] = came & meant(node.filter)
    assert ends(graph) == sorted(set.union(*(reached[node] for node in graph.sinks)))
    assert {node: set(one.indexes.tolist()) for node, one in run(graph, seen()).items()} == reached


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(port,53) -> (protocol,udp)", [3, 7]),
        ("(port,53) | (protocol,udp) -> (host,10.0.0.9)", [5, 6, 7]),
        ("(port,53) & (protocol,udp) | (host,10.0.0.9)", [3, 4, 5, 6, 7]),
        ("~((port,53) & (protocol,udp)) -> ~(host,10.0.0.9)", [0, 1, 2]),
        # of 1, 3, 5, 7 the first and third, of 0, 2, 4, 6 as well
        ("(port,53) -> (sampler,2)", [1, 5]),
        ("((port,53) -> (sampler,2)) | (~(port,53) -> (sampler,2))", [0, 1, 4, 5]),
        ("(port,53) | ~(port,53) -> (sampler,2)", [0, 2, 4, 6]),
    ],
)
def test_what_graphs_let_through(text: str, expected: list[int]) -> None:
    assert ends(parse_graph(text)) == expected


def test_branches_with_truncate_come_together_with_the_larger_limit() -> None:
    # Ethernet, IPv4 and UDP have 42 octets, with TCP 54: 48 octets hold all of "needle" in UDP, nothing in TCP
    cut = truncate(48) >> search(b"needle")
    assert ends(Graph.of(cut)) == [2, 3, 6, 7]
    assert ends((truncate(48) + (port(53) >> truncate(60))) >> search(b"needle")) == [1, 2, 3, 5, 6, 7]
    assert ends((truncate(48) + port(53)) >> search(b"needle")) == [1, 2, 3, 5, 6, 7]
    assert ends(truncate(60) >> cut) == [2, 3, 6, 7]
    assert ends(truncate(40) >> truncate(48) >> search(b"n")) == []


def test_runners_keep_their_state_from_batch_to_batch() -> None:
    graph = parse_graph("(port,53) -> (sampler,3) -> (packetcount)")
    runners = {node: runner_of(node.filter) for node in graph.nodes}
    for _ in range(3):  # of 12 packets to port 53, the 1st, 4th, 7th and 10th
        run(graph, seen(), runners)
    (last,) = graph.sinks
    assert last.filter == packetcount()
    assert runners[last].counters() == {"packets": 4}
