"""What a graph is: equality, sharing, counts of nodes, cycles, caps, and its text."""

from __future__ import annotations

import itertools

import pytest

from traceflow.errors import UsageError
from traceflow.filters.build import bytecount, device, host, packetcount, port, sampler, truncate
from traceflow.filters.graph import (
    DEPTH_MAX,
    EDGES_MAX,
    NODES_MAX,
    TEXT_MAX,
    All,
    Call,
    Filter,
    Graph,
    Node,
    calls_of,
    paths_of,
)
from traceflow.filters.text import parse_graph

A, B, C = host("10.0.0.1"), port(80), port(443)


def test_the_two_flows_of_the_paper_share_their_sampler_when_their_upstream_is_equal() -> None:
    # Flow 1: two devices, one sampler for both, then port 80 and octets: 2 + 1 + 1 + 1 = 5 nodes.
    # Flow 2: the same devices and sampler, then port 25 and packets: 5 nodes, of which 2 + 1 are those of flow 1.
    devices = device("eth0") + device("eth1")
    one = devices >> sampler(2, memory=4) >> port(80) >> bytecount(memory=8)
    two = devices >> sampler(2, memory=4) >> port(25) >> packetcount()
    assert (len(one.nodes), len(two.nodes)) == (5, 5)
    assert len({*one.nodes, *two.nodes}) == 7
    assert {node.filter.text for node in {*one.nodes} & {*two.nodes}} == {
        "(device,eth0)",
        "(device,eth1)",
        "(sampler,2,4)",
    }
    # the order of what is in parallel does not count
    swapped = (device("eth1") + device("eth0")) >> sampler(2, memory=4) >> port(25) >> packetcount()
    assert swapped == two
    assert len({*one.nodes, *swapped.nodes}) == 7


def test_they_share_no_sampler_when_their_upstream_differs() -> None:
    one = (device("eth0") + device("eth1")) >> sampler(2, memory=4) >> bytecount(memory=8)  # 4 nodes
    two = device("eth0") >> sampler(2, memory=4) >> bytecount(memory=8)  # 3, of which the device is shared
    assert {node.filter.text for node in {*one.nodes} & {*two.nodes}} == {"(device,eth0)"}
    assert len({*one.nodes, *two.nodes}) == 6
    # another parameter, or another memory, is another sampler
    other = device("eth0") >> sampler(3, memory=4) >> bytecount(memory=8)
    assert len({*two.nodes, *other.nodes}) == 5
    # nor is what stands behind a sampler shared with what stands before it
    assert len((device("eth0") >> A >> sampler(2) >> A).nodes) == 4


def test_filters_are_equal_by_what_they_mean() -> None:
    assert (A & B) == (B & A) == ((A & B) & A)
    assert (A & (B & C)).text == " & ".join(sorted(one.text for one in (A, B, C)))
    assert ~~A == A
    assert (A & A) == A
    assert (~(A & B)).text == "~((host,10.0.0.1) & (port,80))"
    assert [call.parameter for call in calls_of(~(A & ~B))] == ["10.0.0.1", "80"]
    assert A + B == B + A
    assert (A + B).text == "(host,10.0.0.1) | (port,80)"
    assert Graph.of(A) + A == Graph.of(A)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ~truncate(4), "~ is for predicates"),
        (lambda: A & truncate(4), "& is for predicates"),
        (lambda: A & (B + C), "put parentheses"),
        (lambda: (B + C) & A, "put parentheses"),
        (lambda: ~(B + C), "put it before the filter"),
        (lambda: A >> device("eth0"), "begins a path"),
        (lambda: Graph([]), "at least one filter"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_so(make: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()  # type: ignore[operator] # a lambda


def test_edges_make_the_same_graph_as_signs() -> None:
    filters = {"a": device("eth0"), "b": device("eth1"), "s": sampler(2), "x": B, "y": C}
    edges = [("a", "s"), ("b", "s"), ("s", "x"), ("s", "y"), ("a", "s")]
    assert Graph.from_edges(filters, edges) == (device("eth0") + device("eth1")) >> sampler(2) >> (B + C)


def test_cycles_are_named_in_the_direction_of_their_edges() -> None:
    filters: dict[str, Filter] = {"a": A, "b": B, "c": C, "d": A}
    with pytest.raises(UsageError, match=r"cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"):
        Graph.from_edges(filters, [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])
    with pytest.raises(UsageError, match="cycle: a -> a"):
        Graph.from_edges(filters, [("a", "a")])
    with pytest.raises(UsageError, match="no filter 'e' for the edge a -> e"):
        Graph.from_edges(filters, [("a", "e")])


def test_paths_go_from_a_beginning_to_an_end() -> None:
    graph = (device("eth0") + device("eth1")) >> A >> (B + C)  # 2 beginnings, 2 ends
    assert sorted(" ".join(node.filter.text for node in path) for path in paths_of(graph)) == [
        f"(device,eth{number}) (host,10.0.0.1) (port,{end})" for number in (0, 1) for end in (443, 80)
    ]


def ladder(rungs: int) -> Graph:
    """Each rung has two filters; both stand behind the left one of the rung before, and the left one behind the right
    one too: so the two do not begin together, and the text names all that stands before for each."""
    filters: dict[str, Filter] = {}
    edges = []
    for rung in range(rungs):
        filters |= {f"l{rung}": port(rung), f"r{rung}": port(10_000 + rung)}
        if rung:
            edges += [(f"l{rung - 1}", f"l{rung}"), (f"r{rung - 1}", f"l{rung}"), (f"l{rung - 1}", f"r{rung}")]
    return Graph.from_edges(filters, edges)


def test_a_ladder_has_a_text_as_long_as_that_is_sensible() -> None:
    small = ladder(6)
    assert len(small.nodes) == 12
    assert parse_graph(small.text) == small
    # 40 rungs double more than 20 times: 2**20 times 9 characters are more than 2**18
    large = ladder(40)
    with pytest.raises(UsageError, match=f"longer than {TEXT_MAX} characters"):
        large.text  # noqa: B018 - the access is the test
    assert repr(large) == "<Graph of 80 nodes that has no text>"


def test_text_of_a_long_chain_is_made_at_once() -> None:
    filters: dict[str, Filter] = {str(number): port(number) for number in range(NODES_MAX)}
    names = list(filters)
    chain = Graph.from_edges(filters, itertools.pairwise(names))
    assert chain.text == " -> ".join(f"(port,{number})" for number in range(NODES_MAX))
    assert parse_graph(chain.text) == chain


def test_graphs_have_a_largest_size() -> None:
    ports = [Node(port(number)) for number in range(NODES_MAX + 1)]
    assert len(Graph(ports[:-1]).nodes) == NODES_MAX
    with pytest.raises(UsageError, match=f"at most {NODES_MAX} filters"):
        Graph(ports)
    side = ports[: EDGES_MAX // 512]  # 128 before each of 513 are more than 65 536 connections
    with pytest.raises(UsageError, match=f"{EDGES_MAX} connections"):
        Graph(Node(host(f"10.0.{number >> 8}.{number & 255}"), side) for number in range(513))
    with pytest.raises(UsageError, match=f"at most {NODES_MAX} filters"):
        Graph.from_edges({str(number): A for number in range(NODES_MAX + 1)}, [])


def test_predicates_nest_as_deep_as_may_be_looked_into() -> None:
    nested: Filter = A
    for _ in range(DEPTH_MAX // 2):
        nested = ~(nested & B)
    assert nested.depth == DEPTH_MAX
    assert parse_graph(nested.text) == Graph.of(nested)
    with pytest.raises(UsageError, match=f"at most {DEPTH_MAX} predicates"):
        All.of((nested, C))


def test_a_call_prints_what_was_said_and_no_more() -> None:
    assert Call("x").text == "(x)"
    assert Call("x", "1").text == "(x,1)"
    assert Call("x", "", 8).text == "(x,,8)"
    assert Call("x", "a b").text == '(x,"a b")'
    assert Call("x", 'a"\\\n').text == r'(x,"a\"\\\n")'
    assert Call("x", "a->b").text == '(x,"a->b")'
