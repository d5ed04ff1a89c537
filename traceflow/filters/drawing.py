"""Graphs as pictures: Graphviz's dot language, and SVG where its program `dot` is installed.

Each node is one box, whatever the text names twice. Everything in a label is escaped, since parameters may hold
anything that a user, or whoever wrote a file, put there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from traceflow.errors import TraceflowError, UsageError
from traceflow.filters.graph import DEVICE, Graph, Node, calls_of

__all__ = ["LABEL_MAX", "dot_of", "svg_of"]

LABEL_MAX = 200
"""Characters of a filter's text that a box shows; an expression or a list of needles may have thousands."""

Counters = Mapping[Node, Mapping[str, int]]
Readers = Mapping[str, Graph]


def _escaped(text: str) -> str:
    """Text as it may stand in a quoted string of dot.

    Graphviz reads a backslash as the start of an escape, and `&name;` as an entity of HTML.
    """
    shown = text if len(text) <= LABEL_MAX else f"{text[:LABEL_MAX]}..."
    printable = "".join(letter if letter.isprintable() else "?" for letter in shown)
    return printable.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def dot_of(graph: Graph, counters: Counters | None = None, readers: Readers | None = None) -> str:
    """A graph in the language of Graphviz.

    Args:
        graph: The graph.
        counters: What is shown in the boxes of nodes, by name: `packets 12`.
        readers: Who is given what some nodes let through: graphs whose nodes all are in `graph`, by name.
    """
    names = {node: f"n{place}" for place, node in enumerate(graph.nodes, 1)}
    lines = ["digraph flow {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for node, name in names.items():
        shown = [node.filter.text, *(f"{key} {value}" for key, value in (counters or {}).get(node, {}).items())]
        label = "\\n".join(_escaped(line) for line in shown)
        begins = any(call.kind == DEVICE for call in calls_of(node.filter))
        lines.append(f'  {name} [label="{label}"{", style=rounded" if begins else ""}];')
    lines += [f"  {names[before]} -> {name};" for node, name in names.items() for before in node.upstream]
    for place, (reader, part) in enumerate((readers or {}).items(), 1):
        lines.append(f'  r{place} [label="{_escaped(reader)}", shape=note];')
        lines += [f"  {names[node]} -> r{place};" for node in part.sinks]
    return "\n".join([*lines, "}", ""])


def svg_of(
    graph: Graph, counters: Counters | None = None, readers: Readers | None = None, *, timeout_s: float = 20
) -> str:
    """A graph as SVG, drawn by Graphviz.

    Args:
        graph: The graph.
        counters: As for `dot_of`.
        readers: As for `dot_of`.
        timeout_s: Seconds that drawing may take.

    Raises:
        UsageError: Graphviz is not installed.
        TraceflowError: It failed, or took longer.
    """
    program = shutil.which("dot")
    if program is None:
        raise UsageError("SVG needs Graphviz's program `dot`, which is not installed; install the package graphviz, "
                         "or take the dot form as it is")  # fmt: skip
    try:
        done = subprocess.run(
            [program, "-Tsvg"],
            input=dot_of(graph, counters, readers).encode("utf-8", "replace"),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TraceflowError(
            f"{program} did not draw this graph of {len(graph.nodes)} filters within {timeout_s:g} s; "
            "take the dot form, or draw a part of it"
        ) from None
    except OSError as error:
        raise TraceflowError(f"{program} cannot be started: {error}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise TraceflowError(f"{program} failed with {done.returncode}: {said or 'it said nothing'}")
    return done.stdout.decode("utf-8", "replace")
