"""What a graph of filters is: calls of filters, what each is connected to, and when two graphs are the same.

A node is a filter with all that stands before it. Two nodes are equal when their filters and everything before them
are equal; equal nodes of one graph, and of graphs that run together, are one node and run once. So a graph has no
names and no edges of its own: it is the set of its last nodes. Nothing here knows what a filter does.

    a + b       in parallel: what a or b lets through
    a >> b      what a lets through is given to b
    ~a, a & b   of predicates only: what a does not let through; what both let through
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from traceflow.errors import UsageError

__all__ = [
    "DEPTH_MAX",
    "DEVICE",
    "EDGES_MAX",
    "NESTING_MAX",
    "NODES_MAX",
    "TEXT_MAX",
    "All",
    "Call",
    "Filter",
    "Graph",
    "Node",
    "Not",
    "calls_of",
    "paths_of",
    "quoted",
]

DEVICE: Final = "device"
"""The kind of filter that begins a path: an interface, or a capture."""

NODES_MAX: Final = 4096
"""Nodes of one graph at most: every batch passes all of them."""

EDGES_MAX: Final = 16 * NODES_MAX
"""Connections of one graph at most: two long parallel parts have as many as the product of their lengths."""

TEXT_MAX: Final = 1 << 18
"""Characters of the text of one graph at most: 64 for each of NODES_MAX filters."""

NESTING_MAX: Final = 256
"""Parentheses in each other in a text at most, without those of predicates."""

DEPTH_MAX: Final = 64
"""Predicates in each other, by `~` and `&`, at most: what looks into them may call itself."""


class Filter:
    """One box of a graph: a call, or predicates joined by `~` and `&`. Immutable; equal by text."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The form that `FlowSpec.parse` reads; equal for equal filters."""
        raise NotImplementedError

    @property
    def predicate(self) -> bool:
        """Whether it only looks at one packet, so that `~` and `&` make sense."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """How many `~` and `&` stand in each other; 0 for a call."""
        return 0

    def __invert__(self) -> Filter:
        self._refuse_unless_predicate("~")
        return self.inner if isinstance(self, Not) else Not(self)

    def __and__(self, other: object) -> Filter:
        if isinstance(other, Graph):
            raise UsageError(f"& joins predicates, not graphs; put parentheses around it: {self.text} & {other.text}")
        if not isinstance(other, Filter):
            return NotImplemented
        for one in (self, other):
            one._refuse_unless_predicate("&")
        return All.of((self, other))

    def __add__(self, other: object) -> Graph:
        return Graph.of(self) + other

    def __rshift__(self, other: object) -> Graph:
        return Graph.of(self) >> other

    def _refuse_unless_predicate(self, sign: str) -> None:
        if not self.predicate:
            raise UsageError(f"{sign} is for predicates, which look at one packet; {self.text} is none")

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Filter):
    """A filter by name: `(kind,parameter,memory)`. Made by `filters.kinds`, which knows what may stand in it.

    Attributes:
        kind: Name of the kind of filter.
        parameter: Its parameter in the one form that all ways to write it come to; empty where it has none.
        memory: Octets of its memory; None where nothing is said.
        is_predicate: Whether it only looks at one packet.
    """

    kind: str
    parameter: str = ""
    memory: int | None = None
    is_predicate: bool = dataclasses.field(default=False, compare=False)

    @property
    def text(self) -> str:
        """`(sampler,2,4)`."""
        parts = [self.kind]
        if self.parameter or self.memory is not None:
            parts.append(quoted(self.parameter))
        if self.memory is not None:
            parts.append(str(self.memory))
        return f"({','.join(parts)})"

    @property
    def predicate(self) -> bool:
        """Whether it only looks at one packet."""
        return self.is_predicate


@dataclasses.dataclass(frozen=True, slots=True)
class _Joined(Filter):
    """What both forms of joined predicates have in common: text and depth are found once, when they are made."""

    _text: str = dataclasses.field(init=False, compare=False, repr=False)
    _depth: int = dataclasses.field(init=False, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The form that `FlowSpec.parse` reads."""
        return self._text

    @property
    def depth(self) -> int:
        """How many `~` and `&` stand in each other."""
        return self._depth

    @property
    def predicate(self) -> bool:
        """It is one."""
        return True

    def _remember(self, text: str, parts: Iterable[Filter]) -> None:
        depth = 1 + max(part.depth for part in parts)
        if depth > DEPTH_MAX:
            raise UsageError(f"at most {DEPTH_MAX} predicates stand in each other, by ~ and &; these stand deeper")
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_depth", depth)


@dataclasses.dataclass(frozen=True, slots=True)
class Not(_Joined):
    """What a predicate does not let through: `~(host,10.0.0.1)`."""

    inner: Filter

    def __post_init__(self) -> None:
        text = self.inner.text
        self._remember(f"~({text})" if isinstance(self.inner, All) else f"~{text}", (self.inner,))


@dataclasses.dataclass(frozen=True, slots=True)
class All(_Joined):
    """What several predicates let through, in the order of their texts: `(host,10.0.0.1) & (port,53)`."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        self._remember(" & ".join(part.text for part in self.parts), self.parts)

    @classmethod
    def of(cls, given: Iterable[Filter]) -> Filter:
        """Predicates joined by `&`: each once, whatever the order; one alone stays as it is."""
        parts = {part for one in given for part in (one.parts if isinstance(one, All) else (one,))}
        return parts.pop() if len(parts) == 1 else cls(tuple(sorted(parts, key=lambda part: part.text)))


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/-*+%@")


def quoted(parameter: str) -> str:
    """A parameter as it stands in the text form: bare where it may be, else in double quotes with backslashes."""
    if all(letter in _PLAIN for letter in parameter) and "->" not in parameter:
        return parameter
    escaped = parameter.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def calls_of(one: Filter) -> tuple[Call, ...]:
    """The calls in a filter, as they stand in its text."""
    waiting, found = [one], []
    while waiting:
        part = waiting.pop()
        if isinstance(part, Not):
            waiting.append(part.inner)
        elif isinstance(part, All):
            waiting.extend(reversed(part.parts))
        elif isinstance(part, Call):
            found.append(part)
    return tuple(found)


class Node:
    """A filter and what is connected to it. Equal where the filters and everything before them are.

    Attributes:
        filter: The filter.
        upstream: The nodes whose packets it is given, each once; none: it begins a path.
        key: The same for equal nodes.
    """

    __slots__ = ("filter", "key", "upstream")
    key: bytes

    def __init__(self, one: Filter, upstream: Iterable[Node] = ()) -> None:
        self.filter = one
        self.upstream = tuple(dict.fromkeys(upstream))
        digest = hashlib.blake2b(one.text.encode("utf-8", "surrogatepass"), digest_size=16)
        for before in sorted(node.key for node in self.upstream):
            digest.update(before)
        self.key = digest.digest()

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Node) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Node {self.filter.text} behind {len(self.upstream)}>"


class Graph:
    """A graph of filters: the set of its last nodes. Immutable; the order of parallel parts does not count.

    Attributes:
        sinks: The last nodes, each once.
        nodes: All nodes, each once, every one behind those before it.
    """

    __slots__ = ("nodes", "sinks")

    def __init__(self, sinks: Iterable[Node]) -> None:
        """Make a graph of its last nodes.

        Raises:
            UsageError: More than NODES_MAX nodes, none at all, or a device that is not the beginning of a path.
        """
        self.sinks = tuple(dict.fromkeys(sinks))
        self.nodes = _in_order(self.sinks)
        if not self.sinks:
            raise UsageError("a graph needs at least one filter")
        for node in self.nodes:
            if node.upstream and any(call.kind == DEVICE for call in calls_of(node.filter)):
                raise UsageError(f"{node.filter.text} begins a path; nothing can be connected to it")

    @classmethod
    def of(cls, one: Filter | Graph) -> Graph:
        """A graph of one filter; a graph stays as it is."""
        return one if isinstance(one, Graph) else cls([Node(one)])

    @classmethod
    def from_edges(cls, filters: Mapping[str, Filter], edges: Iterable[tuple[str, str]]) -> Graph:
        """A graph of named filters.

        Args:
            filters: The filters by name.
            edges: (from, to) by name.

        Raises:
            UsageError: A name that is no filter, or a cycle, which is named.
        """
        before: dict[str, list[str]] = {name: [] for name in filters}
        for one, other in edges:
            for name in (one, other):
                if name not in before:
                    raise UsageError(f"there is no filter {name!r} for the edge {one} -> {other}; known: "
                                     f"{', '.join(sorted(before)) or 'none'}")  # fmt: skip
            before[other].append(one)
        if len(before) > NODES_MAX or sum(map(len, before.values())) > EDGES_MAX:
            raise UsageError(_TOO_LARGE)
        behind: dict[str, list[str]] = {name: [] for name in filters}
        for name, needed in before.items():
            for one in dict.fromkeys(needed):
                behind[one].append(name)
        missing = {name: len(dict.fromkeys(needed)) for name, needed in before.items()}
        ready = [name for name, count in missing.items() if not count]
        nodes: dict[str, Node] = {}
        for name in ready:  # it grows while it is gone through
            nodes[name] = Node(filters[name], (nodes[one] for one in before[name]))
            for other in behind[name]:
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)
        if len(nodes) < len(before):
            waiting = {name: needed for name, needed in before.items() if name not in nodes}
            raise UsageError(
                f"these filters are connected in a cycle: {' -> '.join(_cycle(waiting))}; a graph has none"
            )
        used = {one for needed in before.values() for one in needed}
        return cls(node for name, node in nodes.items() if name not in used)

    @property
    def heads(self) -> tuple[Node, ...]:
        """The nodes that begin a path."""
        return tuple(node for node in self.nodes if not node.upstream)

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls of all filters, in the order of `nodes`."""
        return tuple(call for node in self.nodes for call in calls_of(node.filter))

    def behind(self, upstream: Graph) -> Graph:
        """This graph with every beginning connected to the end of another. The same as `upstream >> self`.

        Raises:
            UsageError: It begins with a device, or the two have too many nodes.
        """
        moved: dict[Node, Node] = {}
        for node in self.nodes:
            moved[node] = Node(node.filter, (moved[one] for one in node.upstream) if node.upstream else upstream.sinks)
        return Graph(moved[node] for node in self.sinks)

    def __add__(self, other: object) -> Graph:
        if not isinstance(other, Graph | Filter):
            return NotImplemented
        return Graph((*self.sinks, *Graph.of(other).sinks))

    def __rshift__(self, other: object) -> Graph:
        if not isinstance(other, Graph | Filter):
            return NotImplemented
        return Graph.of(other).behind(self)

    def __and__(self, other: object) -> Graph:
        raise UsageError("& joins predicates, not graphs; put parentheses around a & b, since >> and + bind tighter")

    def __invert__(self) -> Graph:
        raise UsageError("~ is for a predicate, not for a graph; put it before the filter that is meant")

    def __eq__(self, other: object) -> bool:
        return set(self.sinks) == set(other.sinks) if isinstance(other, Graph) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.sinks))

    @property
    def text(self) -> str:
        """The text form. `FlowSpec.parse` makes an equal graph of it.

        Raises:
            UsageError: It would be longer than TEXT_MAX, or nest deeper than NESTING_MAX. What stands before several
                parts that do not begin together is written once for each of them, so a graph made with `from_edges`
                can have a text that doubles with every node.
        """
        return _text_of(self)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        try:
            return f"<Graph of {len(self.nodes)} nodes: {self.text}>"
        except UsageError:
            return f"<Graph of {len(self.nodes)} nodes that has no text>"


_TOO_LARGE = f"a graph has at most {NODES_MAX} filters and {EDGES_MAX} connections; this one has more"


@dataclasses.dataclass(slots=True)
class _Part:
    """The text of some nodes in parallel, put together only when it is known to be short enough.

    Attributes:
        pieces: Text, or the nodes whose text stands there.
        length: Characters in all.
        nesting: Parentheses in each other, without those of predicates.
    """

    pieces: list[str | frozenset[Node]]
    length: int
    nesting: int


def _text_of(graph: Graph) -> str:
    """The text of a graph.

    Raises:
        UsageError: It is too long, or nests too deep.
    """
    parts: dict[frozenset[Node], _Part] = {}
    texts = {node: node.filter.text for node in graph.nodes}
    ends = frozenset(graph.sinks)
    # Sets are compared, and tuples written: the order of sets is another one in every process. Of what stands before a
    # node, the part is there when its turn comes.
    sets: dict[frozenset[Node], tuple[Node, ...]] = {}
    for nodes in (*(node.upstream for node in graph.nodes if node.upstream), graph.sinks):
        sets.setdefault(frozenset(nodes), nodes)
    for key, nodes in sets.items():
        parts[key] = part = _part_of(parts, texts, nodes)
        if part.length > TEXT_MAX or part.nesting > NESTING_MAX:
            raise UsageError(
                f"the text of this graph would be longer than {TEXT_MAX} characters, or have more than {NESTING_MAX} "
                "parentheses in each other, since text names what several parts share once for each; draw it instead"
            )
    written: list[str] = []
    waiting: list[str | frozenset[Node]] = [ends]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, str):
            written.append(piece)
        else:
            waiting.extend(reversed(parts[piece].pieces))
    return "".join(written)


def _part_of(parts: Mapping[frozenset[Node], _Part], texts: Mapping[Node, str], nodes: Iterable[Node]) -> _Part:
    """The text of some nodes in parallel; of what stands before them, the parts are there."""
    groups: dict[frozenset[Node], list[Node]] = {}
    for node in nodes:
        groups.setdefault(frozenset(node.upstream), []).append(node)
    alone = len(groups) == 1
    whole = _Part([], 0, 0)
    for before, behind in groups.items():
        pieces: list[str | frozenset[Node]] = [before, " -> "] if before else []
        for node in behind:
            pieces += [texts[node], " | "]
        pieces.pop()
        nesting = parts[before].nesting if before else 0
        if before and not alone:
            pieces, nesting = ["(", *pieces, ")"], nesting + 1
        whole.pieces += [*([" | "] if whole.pieces else []), *pieces]
        whole.nesting = max(whole.nesting, nesting)
    whole.length = sum(len(piece) if isinstance(piece, str) else parts[piece].length for piece in whole.pieces)
    return whole


def _in_order(sinks: tuple[Node, ...]) -> tuple[Node, ...]:
    """All nodes, every one behind those before it.

    Raises:
        UsageError: More than NODES_MAX, or more than EDGES_MAX connections.
    """
    order: dict[Node, None] = {}
    waiting = list(reversed(sinks))
    while waiting:
        node = waiting[-1]
        missing = [one for one in node.upstream if one not in order]
        if missing:
            waiting.extend(reversed(missing))
        else:
            order[waiting.pop()] = None
        # every node waits with those before it once, so there are never more than connections and last nodes
        if len(order) > NODES_MAX or len(waiting) > EDGES_MAX + NODES_MAX:
            raise UsageError(_TOO_LARGE)
    if sum(len(node.upstream) for node in order) > EDGES_MAX:
        raise UsageError(_TOO_LARGE)
    return tuple(order)


def _cycle(waiting: Mapping[str, list[str]]) -> list[str]:
    """One cycle among names that wait for each other, in the direction of the edges."""
    walk = [next(iter(waiting))]
    while True:
        before = next(name for name in waiting[walk[-1]] if name in waiting)
        if before in walk:
            return [before, *reversed(walk[walk.index(before) :])]
        walk.append(before)


def paths_of(graph: Graph) -> Iterator[tuple[Node, ...]]:
    """All paths from a beginning to an end. There can be very many: for pictures and tests of small graphs."""
    waiting: list[tuple[Node, ...]] = [(node,) for node in graph.sinks]
    while waiting:
        path = waiting.pop()
        if not path[0].upstream:
            yield path
        waiting.extend((one, *path) for one in path[0].upstream)
