"""Text to graphs: what it means, that it comes back, and what is said of what is no graph."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import UsageError
from traceflow.filters.build import (
    bytecount,
    device,
    flags,
    flow,
    host,
    packetcount,
    port,
    rate,
    sampler,
    search,
    truncate,
)
from traceflow.filters.graph import EDGES_MAX, TEXT_MAX, Filter, Graph
from traceflow.filters.text import GraphTextError, parse_graph

H, P = "(host,10.0.0.1)", "(port,80)"


@pytest.mark.parametrize(
    ("text", "built", "nodes"),
    [
        (
            "(device,eth0) | (device,eth1) -> (sampler,2,4) -> (port,80) -> (bytecount,,8)",
            (device("eth0") + device("eth1")) >> sampler(2, memory=4) >> port(80) >> bytecount(memory=8),
            5,
        ),
        # & binds tighter than |, | tighter than ->, ~ tightest
        (f"~{H} & {P} | (ip,6) -> {P}", (~host("10.0.0.1") & port(80)) + parse_graph("(ip,6)") >> port(80), 3),
        (f"~({H} & {P})", Graph.of(~(host("10.0.0.1") & port(80))), 1),
        (f"({H} -> {P}) | (ip,6)", (host("10.0.0.1") >> port(80)) + parse_graph("(ip,6)"), 3),
        # a group behind something begins there, in all its parts
        (
            f"(device,eth0) -> ({H} -> {P}) | (packetcount)",
            device("eth0") >> ((host("10.0.0.1") >> port(80)) + packetcount()),
            4,
        ),
        # what is named twice is one node
        (f"({H} -> {P}) | ({H} -> (port,81))", host("10.0.0.1") >> (port(80) + port(81)), 3),
        (f"(( {H} ))", Graph.of(host("10.0.0.1")), 1),
        (" ( sampler , 2 by  flow , 4 ) ", Graph.of(sampler(2, by="flow", memory=4)), 1),
        ('(SEARCH,"\\x00\\"|b")', Graph.of(search(b"\0" + b'"', b"b")), 1),
        ("(flow,packets > 10 and state == established)", Graph.of(flow("state==established and packets>10")), 1),
        ('(flags,"syn,!ack")', Graph.of(flags("!ack,syn")), 1),
        ("(rate,1000ms)", Graph.of(rate("1s")), 1),
        ("(device,C:/a b.pcap)", Graph.of(device("C:/a b.pcap")), 1),
    ],
)
def test_text_and_object_form_give_equal_graphs(text: str, built: Graph, nodes: int) -> None:
    graph = parse_graph(text)
    assert graph == built
    assert len(graph.nodes) == nodes
    assert parse_graph(graph.text) == graph


def test_the_example_of_the_paper_prints_as_it_was_written() -> None:
    text = "(device,eth0) | (device,eth1) -> (sampler,2,4) -> (port,80) -> (bytecount,,8)"
    assert parse_graph(text).text == text


_PREDICATES = st.recursive(
    st.one_of(
        st.builds(port, st.integers(0, 65535)),
        st.builds(host, st.ip_addresses()),
        st.builds(search, st.binary(min_size=1, max_size=8)),
    ),
    lambda inner: st.one_of(st.builds(lambda a: ~a, inner), st.builds(lambda a, b: a & b, inner, inner)),
    max_leaves=4,
)
_FILTERS: st.SearchStrategy[Filter] = st.one_of(
    _PREDICATES,
    st.builds(sampler, st.integers(1, 255), st.sampled_from(["packet", "flow"]), st.sampled_from([None, 1, 8])),
    st.builds(truncate, st.integers(1, 9)),
    st.just(packetcount()),
)
_HEADS: st.SearchStrategy[Filter] = st.one_of(
    _FILTERS,
    st.builds(device, st.text(min_size=1, max_size=6).filter(lambda name: bool(name.strip()) and "\0" not in name)),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 7 filters, each behind any of those before it."""
    count = draw(st.integers(1, 7))
    filters: dict[str, Filter] = {}
    edges: list[tuple[str, str]] = []
    for place in range(count):
        before = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        filters[str(place)] = draw(_FILTERS if before else _HEADS)
        edges += [(str(one), str(place)) for one in sorted(before)]
    return Graph.from_edges(filters, edges)


@given(graphs())
def test_the_text_of_a_graph_means_that_graph(graph: Graph) -> None:
    assert parse_graph(graph.text) == graph


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("", 0, "expected a filter"),
        ("  ", 2, "expected a filter"),
        ("device", 0, "expected a filter"),
        ("()", 1, "expected the name of a filter, found ')'"),
        ("(device,eth0) ->", 16, "expected a filter"),
        (f"{P} | | {P}", 12, "expected a filter"),
        (f"{P} {P}", 10, "expected ->, |, & or the end, found '('"),
        (f"{P})", 9, "expected ->, |, & or the end, found ')'"),
        (f"({P}", 10, "or the ) of the ( at character 1, found the end"),
        ("(devise,eth0)", 1, "unknown filter 'devise'. Did you mean device?"),
        ("(port,80", 8, "expected the ) of (port, or a comma"),
        ("(port,80,4,4)", 10, "expected the ) of (port, found ','"),
        ("(port,80,x)", 9, "expected the size of the memory"),
        ("(port,80,4)", 9, "takes no memory"),
        ("(sampler,2,3)", 11, "1, 2, 4, 8 octets"),
        ("(bytecount,,99999999999)", 12, "1, 2, 4, 8 octets"),
        ("(sampler,300,1)", 9, "holds 255 at most"),
        ('(port,"80)', 6, 'the " that ends'),
        ("(port,80,,)", 9, "expected the size"),
        ("(packetcount,x)", 13, "takes no parameter"),
        # the place within a parameter, also behind escapes: `\"` is one character of it
        ("(port,80,443)", 9, "a parameter with commas stands in double quotes"),
        ('(port,"80,x3")', 10, "whole number from 0 to 65535, not 'x3'"),
        (r'(search,"\"a\q")', 12, "behind a backslash"),
        ("(host,10.0.0.256)", 6, "no address"),
        ("(host,src 10.0.0)", 10, "no address"),
        ('(flow,"packets > 3 and stat == x")', 23, "Did you mean state"),
        (f"{P} & (truncate,4)", 10, "& is for predicates"),
        (f"(truncate,4) & {P}", 13, "& is for predicates"),
        (f"({P} | {H}) & {H}", 30, "& is for predicates"),
        (f"{H} & ({P} -> {H})", 16, "& is for predicates"),
        (f"~~({P} | {H})", 1, "~ is for predicates"),
        (f"{P} -> ~(sampler,2)", 13, "~ is for predicates"),
        (f"{P} -> {H} | (device,eth0)", 31, "begins a path"),
        ("(device)", 7, "needs its name"),
        ("(port,8\t0)", 7, "in double quotes"),
    ],
)
def test_what_is_no_graph_is_shown_with_its_place(text: str, at: int, says: str) -> None:
    with pytest.raises(GraphTextError, match=re.escape(says)) as raised:
        parse_graph(text)
    assert raised.value.at == at
    if text.strip():
        *_, line, caret = str(raised.value).split("\n")
        assert (line[2:], caret.index("^") - 2) == (text.replace("\t", "?"), at)


def test_the_fault_in_a_long_text_is_shown_with_what_is_around_it() -> None:
    text = " -> ".join([P] * 100 + ["(nothing)"] + [P] * 100)
    with pytest.raises(GraphTextError, match="unknown filter 'nothing'") as raised:
        parse_graph(text)
    *_, line, caret = str(raised.value).split("\n")
    assert line[caret.index("^") :].startswith("nothing)")
    assert len(line) < 140


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(" * 100_000, "groups stand in each other"),
        ("~(" * 100_000, "groups stand in each other"),
        ("~" * 100_000, "expected a filter"),
        ("~((port,1) & " * 65 + P + ")" * 65, "predicates stand in each other"),
        (P + " " * TEXT_MAX, f"at most {TEXT_MAX} characters"),
        (" | ".join(f"(port,{number})" for number in range(5000)), "at most 4096 filters"),
        (
            f"{' | '.join(f'(port,{number})' for number in range(300))} -> "
            f"{' | '.join(f'(port,{number})' for number in range(300))}",
            f"at most {EDGES_MAX} connections",
        ),
        (f'(device,"{"a" * 70_000}")', "at most 65536 characters"),
        (f"(port,{'9' * 60_000})", "whole number"),
        (f"(sampler,2,{'9' * 60_000})", "1, 2, 4, 8 octets"),
        (f'(flow,"packets{" " * 60_000}")', "behind packets may stand"),
    ],
    ids=[
        "groups",
        "negated",
        "nots",
        "predicates",
        "length",
        "filters",
        "connections",
        "parameter",
        "digits",
        "memory",
        "blanks",
    ],
)
def test_hostile_texts_meet_caps(text: str, says: str) -> None:
    with pytest.raises(GraphTextError, match=says):
        parse_graph(text)


@given(st.text('()|&~->," \\ax2', max_size=30))
def test_any_text_is_a_graph_or_an_error_with_a_place(text: str) -> None:
    fault: int | None = None
    try:
        graph = parse_graph(text)
    except GraphTextError as error:
        fault = error.at
    else:
        assert parse_graph(graph.text) == graph
    assert fault is None or 0 <= fault <= len(text)


def test_a_graph_is_made_of_text_only() -> None:
    with pytest.raises(UsageError, match="not bytes"):
        parse_graph(b"(port,80)")  # type: ignore[arg-type]
