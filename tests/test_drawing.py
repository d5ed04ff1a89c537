"""Pictures of graphs."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from traceflow.errors import TraceflowError, UsageError
from traceflow.filters.build import bytecount, device, packetcount, port, sampler
from traceflow.filters.drawing import LABEL_MAX, dot_of, svg_of
from traceflow.filters.graph import Graph
from traceflow.filters.text import parse_graph

# two devices, one sampler, two predicates, a counter behind one of them: 6 boxes; 2 + 2 + 1 arrows
GRAPH = (device("eth0") + device("eth1")) >> sampler(2) >> (port(80) + (port(53) >> bytecount()))


def boxes(dot: str) -> list[str]:
    return re.findall(r"^  n\d+ \[label=(.*)\];$", dot, flags=re.MULTILINE)


def arrows(dot: str) -> int:
    return len(re.findall(r"^  n\d+ -> n\d+;$", dot, flags=re.MULTILINE))


def test_a_box_a_node_and_an_arrow_a_connection() -> None:
    dot = dot_of(GRAPH)
    assert (len(boxes(dot)), arrows(dot)) == (6, 5)
    assert boxes(dot)[0] == '"(device,eth0)", style=rounded'
    assert dot == dot_of(parse_graph(GRAPH.text))
    # what a text names twice is drawn once
    shared = parse_graph("((port,80) -> (port,1)) | ((port,80) -> (port,2))")
    assert (len(boxes(dot_of(shared))), arrows(dot_of(shared))) == (3, 2)


def test_counters_stand_in_their_boxes() -> None:
    graph = port(80) >> packetcount()
    (last,) = graph.sinks
    assert boxes(dot_of(graph, {last: {"packets": 12, "octets": 99}})) == [
        '"(port,80)"',
        r'"(packetcount)\npackets 12\noctets 99"',
    ]


def test_readers_stand_behind_what_they_are_given() -> None:
    first, second = port(80) >> packetcount(), Graph.of(port(80))
    dot = dot_of(first + second, readers={"a": first, 'b"': second})
    # nodes in order: the port, the counter behind it
    assert len(boxes(dot)) == 2
    assert dot.splitlines()[-5:] == [
        '  r1 [label="a", shape=note];', "  n2 -> r1;", r'  r2 [label="b\"", shape=note];', "  n1 -> r2;", "}"
    ]  # fmt: skip


def test_everything_is_escaped() -> None:
    (box,) = boxes(dot_of(parse_graph('(device,"a\\"b\\\\N\\n&lt;<b>];x")')))
    # the text of the filter is (device,"a\"b\\N\n&lt;<b>];x"); each backslash and quote of it has one more before it
    assert box == r'"(device,\"a\\\"b\\\\N\\n&amp;lt;<b>];x\")", style=rounded'
    (box,) = boxes(dot_of(parse_graph('(device,"a\x00b")'.replace("\x00", "\x1b"))))
    assert box == r'"(device,\"a?b\")", style=rounded'
    (box,) = boxes(dot_of(parse_graph(f"(device,{'a' * 4000})")))
    assert len(box) == LABEL_MAX + len('"..."') + len(", style=rounded")


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """A folder of programs that holds nothing but a `dot` of that shell script."""
    if script is not None:
        path = folder / "dot"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_svg_is_what_the_program_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, 'echo "<svg>$1"; while read -r line; do echo "$line"; done; echo "</svg>"')
    svg = svg_of(GRAPH)
    assert svg.startswith("<svg>-Tsvg\ndigraph flow {\n")
    assert svg.endswith("</svg>\n")


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        (None, UsageError, "install the package graphviz"),
        ("echo 'no fonts' >&2; exit 3", TraceflowError, "failed with 3: no fonts"),
        ("exit 1", TraceflowError, "failed with 1: it said nothing"),
        ("while :; do :; done", TraceflowError, r"of 6 filters within 0.2 s"),
    ],
)
def test_where_it_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, kind: type[TraceflowError], says: str
) -> None:
    program(tmp_path, monkeypatch, script)
    with pytest.raises(kind, match=says):
        svg_of(GRAPH, timeout_s=0.2 if "while" in str(script) else 20)
