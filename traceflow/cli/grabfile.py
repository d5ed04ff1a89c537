"""The file of `traceflow grab`: named graphs, where their packets come from, and what becomes of them.

Everything that is wrong is found in one reading, and said with its line. Nothing is opened here but the file itself.
Documented in docs/grab.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NoReturn

import click

from traceflow import tomlfile
from traceflow.cli.checks import duration_ns, size_octets
from traceflow.cli.commands import FILE_FORMATS
from traceflow.cli.plugins import flow_fields
from traceflow.cli.rules import RULE_NAMES, rule_named
from traceflow.errors import TraceflowError, UsageError, suggest
from traceflow.filters.graph import DEVICE, Filter, Graph
from traceflow.filters.kinds import make_call
from traceflow.filters.text import GraphTextError, parse_graph
from traceflow.grabbing.buffers import MODES
from traceflow.grabbing.inlets import device_of
from traceflow.options import PROFILES, options_for
from traceflow.plugins import load_plugins
from traceflow.sinks.rows_fields import FLOW_DEFAULT, FLOW_FIELDS, FRAME_LISTS, Field, choose_fields

__all__ = ["STDOUT", "CounterRows", "FlowFolder", "FlowRows", "GrabFile", "Named", "PacketFile", "read_grab_file"]

STDOUT = "-"
"""Standard output, as a file."""

_CONSEQUENCE = "nothing was run"
_TABLES = ("buffer", "grabbers", "policy", "source")
_OF_GRABBER = ("active", "counters", "edges", "files", "flows", "graph", "nodes", "packets")
_OUTPUTS = ("counters", "files", "flows", "packets")
_ROWS = ("csv", "jsonl")
_NODE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_NAME_MAX = 64
_SHORTEST_NS = 1_000_000  # of an interval of counters: rows have six digits behind the second
_MOST_FILES = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class FlowRows:
    """How packets of a grabber become flows, and where their rows go.

    Attributes:
        file: Where rows go; None: nowhere.
        format: `csv` or `jsonl`; None: as standard output has it.
        profile: Name of a profile.
        plugins: Objects of `plugins.Plugin`.
        rules: Changes to the profile, by the names of Options.
        fields: The columns.
    """

    file: str | None = None
    format: str | None = None
    profile: str = "default"
    plugins: tuple[Any, ...] = ()
    rules: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: tuple[Field, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class PacketFile:
    """A pcap file of packets that pass.

    Attributes:
        file: Its name.
    """

    file: str


@dataclasses.dataclass(frozen=True, slots=True)
class FlowFolder:
    """A folder of per-flow files.

    Attributes:
        folder: Its name.
        format: Format of the files.
        by: `direction`, `flow`, or None for the default of the format.
        max_open_files: Files open at once at most; None: the default.
    """

    folder: str
    format: str = "json"
    by: str | None = None
    max_open_files: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class CounterRows:
    """Rows of counters, one for each interval of packet time.

    Attributes:
        file: Where they go.
        format: `csv` or `jsonl`; None: as standard output has it.
        interval_ns: The interval.
    """

    file: str
    format: str | None
    interval_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A grabber of the file.

    Attributes:
        name: Its name.
        graph: Its graph, without the devices that are added to paths that name none.
        active: Whether it runs.
        nodes: Names of its nodes by the text of their filters, where the file names them.
        flows: Its flows; None: its packets go through no flow table.
        packets: Where its packets are written.
        files: Where per-flow files are written.
        counters: Where its counters are written.
        line: Where it stands in the file.
    """

    name: str
    graph: Graph
    active: bool = True
    nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flows: FlowRows | None = None
    packets: PacketFile | None = None
    files: FlowFolder | None = None
    counters: CounterRows | None = None
    line: int = 0

    @property
    def outputs(self) -> list[str]:
        """Names of files and folders that it writes; `-` for standard output."""
        files = [one.file for one in (self.flows, self.packets, self.counters) if one is not None and one.file]
        return files if self.files is None else [*files, self.files.folder]


@dataclasses.dataclass(frozen=True, slots=True)
class GrabFile:
    """What stands in a file.

    Attributes:
        path: Its name.
        source: Captures and interfaces by the names that graphs give them.
        policy: Name of the policy; None: none.
        mode: What becomes of new packets when the buffer is full.
        buffer_octets: Octets of packets that the buffer keeps.
        buffer_packets: Packets that it keeps.
        grabbers: The grabbers.
    """

    path: str
    source: Mapping[str, str]
    policy: str | None
    mode: str
    buffer_octets: int
    buffer_packets: int
    grabbers: tuple[Named, ...]


def read_grab_file(path: str, known: Callable[[str], bool]) -> GrabFile:
    """What stands in a file.

    Args:
        path: Its name.
        known: Whether there is a device of a name besides those of the file: one of the command line, an interface, a
            capture.

    Raises:
        CannotReadError: It cannot be read.
        UsageError: Everything that is wrong with it, with lines.
    """
    text = tomlfile.read_toml(path, "grab file")
    return _Reader(text, path, known).read()


class _Reader:
    """One reading of a file; mistakes are gathered."""

    def __init__(self, text: str, file: str, known: Callable[[str], bool]) -> None:
        self._file, self._known = file, known
        self._tree = tomlfile.parsed(text, file, _CONSEQUENCE)
        self._lines = tomlfile.Lines(text)
        self._mistakes: list[tuple[int, tomlfile.Path, str]] = []
        self._source: dict[str, str] = {}

    def wrong(self, path: tomlfile.Path, what: str) -> None:
        """Note a mistake."""
        self._mistakes.append((self._lines.of(path), path, what.replace("\n", "\n    ")))

    def read(self) -> GrabFile:
        """The file.

        Raises:
            UsageError: Everything that is wrong.
        """
        top = self._known_keys((), self._tree, _TABLES)
        for name, value in self._table(("source",), top.get("source", {})).items():
            self._source[name] = self._text(("source", name), value, "the name of an interface or of a capture")
            if not name.strip():
                self.wrong(("source", name), "a device needs a name")
        policy = self._text(("policy",), top["policy"], "the name of a policy file") if "policy" in top else None
        buffer = self._known_keys(("buffer",), top.get("buffer", {}), ("mode", "packets", "size"))
        mode = self._choice(("buffer", "mode"), buffer.get("mode", MODES[0]), MODES)
        octets = self._size(("buffer", "size"), buffer.get("size", 1 << 26), 2**32 - 1)
        packets = self._whole(("buffer", "packets"), buffer.get("packets", 1 << 16), 2**26)
        grabbers = []
        for name, value in self._table(("grabbers",), top.get("grabbers", {})).items():
            if not name.isprintable() or not name.strip() or len(name) > _NAME_MAX:
                self.wrong(("grabbers", name), f"a name has 1 to {_NAME_MAX} characters that can be printed")
            made = self._grabber(("grabbers", name), name, value)
            if made is not None:
                grabbers.append(made)
        if "grabbers" not in top or (not grabbers and not self._mistakes):
            self.wrong(("grabbers",), "there is no grabber; write [grabbers.NAME] and its graph below it")
        self._check_outputs(grabbers)
        if self._mistakes:
            self._refuse()
        return GrabFile(self._file, self._source, policy, mode, octets, packets, tuple(grabbers))

    def _refuse(self) -> NoReturn:
        tomlfile.refuse(self._file, self._mistakes, _CONSEQUENCE)

    # --- values --------------------------------------------------------------------------------------------------

    def _table(self, path: tomlfile.Path, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(path, f"it is {_brief(value)}; it must be a table: [{'.'.join(map(str, path))}]")
            return {}
        return value

    def _known_keys(self, path: tomlfile.Path, value: Any, known: Sequence[str]) -> dict[str, Any]:
        """A table of which only these keys may stand there."""
        table = self._table(path, value)
        for key in table:
            if key not in known:
                self.wrong((*path, key), suggest("key", key, known))
        return {key: one for key, one in table.items() if key in known}

    def _text(self, path: tomlfile.Path, value: Any, what: str) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.wrong(path, f"it is {_brief(value)}; it must be {what}, as text")
            return ""
        return value

    def _choice(self, path: tomlfile.Path, value: Any, known: Sequence[str]) -> str:
        if not isinstance(value, str) or value not in known:
            self.wrong(path, suggest(str(path[-1]), str(value)[:60], known))
            return known[0]
        return value

    def _whole(self, path: tomlfile.Path, value: Any, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.wrong(path, f"it is {_brief(value)}; it must be a whole number from 1 to {most}")
            return 1
        return value

    def _size(self, path: tomlfile.Path, value: Any, most: int) -> int:
        octets = value
        if isinstance(value, str):
            try:
                octets = size_octets(value)
            except click.BadParameter as error:
                self.wrong(path, error.message)
                return 1
        return self._whole(path, octets, most)

    def _duration(self, path: tomlfile.Path, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.wrong(path, f'it is {_brief(value)}; it must be a time such as "10s"')
            return _SHORTEST_NS
        try:
            interval_ns = duration_ns(str(value), none=False)
        except click.BadParameter as error:
            self.wrong(path, error.message)
            return _SHORTEST_NS
        assert interval_ns is not None
        if interval_ns < _SHORTEST_NS:
            self.wrong(path, f"it is {_brief(value)}; the shortest is 1ms")
        return interval_ns

    def _names(self, path: tomlfile.Path, value: Any, what: str) -> list[str]:
        """A list of texts, or one text."""
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.wrong(path, f"it is {_brief(value)}; it must be {what}, in a list")
            return []
        return value

    # --- grabbers ------------------------------------------------------------------------------------------------

    def _grabber(self, path: tomlfile.Path, name: str, value: Any) -> Named | None:
        table = self._known_keys(path, value, _OF_GRABBER)
        active = table.get("active", True)
        if not isinstance(active, bool):
            self.wrong((*path, "active"), f"it is {_brief(active)}; it must be true or false")
            active = True
        nodes: dict[str, str] = {}
        graph = self._graph(path, table, nodes)
        made: dict[str, Any] = {
            key: getattr(self, f"_read_{key}")((*path, key), table[key]) for key in _OUTPUTS if key in table
        }
        return None if graph is None else Named(name, graph, active, nodes, line=self._lines.of(path), **made)

    def _graph(self, path: tomlfile.Path, table: dict[str, Any], nodes: dict[str, str]) -> Graph | None:
        if "graph" in table and ("nodes" in table or "edges" in table):
            self.wrong(path, "a graph is one text (graph), or named nodes (nodes, edges), not both")
            return None
        if "nodes" in table:
            graph = self._graph_of_nodes(path, table, nodes)
        elif "edges" in table:
            self.wrong(path, "edges connect nodes; add nodes = { NAME = '(KIND,PARAMETER)' }")
            return None
        elif "graph" not in table:
            self.wrong(path, "graph is missing; write graph = '(device,eth0) -> (packetcount)', or nodes and edges")
            return None
        else:
            graph = self._parsed((*path, "graph"), table["graph"])
        for name in [] if graph is None else dict.fromkeys(filter(None, map(device_of, graph.heads))):
            if name not in self._source and not self._known(name):
                where = "nodes" if "nodes" in table else "graph"
                self.wrong((*path, where), f"{suggest('device', name, self._source)}. There is no interface and no "
                           "capture of that name either; add it to [source]")  # fmt: skip
        return graph

    def _parsed(self, path: tomlfile.Path, value: Any) -> Graph | None:
        text = self._text(path, value, "a graph of filters, such as '(port,80) -> (bytecount)'")
        try:
            return parse_graph(text) if text else None
        except GraphTextError as error:
            self.wrong(path, str(error))
        except TraceflowError as error:  # libpcap is missing
            self.wrong(path, str(error))
        return None

    def _graph_of_nodes(self, path: tomlfile.Path, table: dict[str, Any], names: dict[str, str]) -> Graph | None:
        """The graph of named filters; `names` is filled."""
        before = len(self._mistakes)
        filters: dict[str, Filter] = {}
        given = self._table((*path, "nodes"), table["nodes"])
        for name, text in given.items():
            here = (*path, "nodes", name)
            if not _NODE_NAME.fullmatch(name):
                self.wrong(here, "a node has a name of letters, digits and _, a letter first")
            graph = self._parsed(here, text)
            if graph is not None and len(graph.nodes) > 1:
                self.wrong(here, "a node is one filter; connect several with edges")
            elif graph is not None:
                filters[name] = graph.nodes[0].filter
        edges = self._edges((*path, "edges"), table.get("edges", []), given, filters)
        if not filters and len(self._mistakes) == before:
            self.wrong((*path, "nodes"), "it is empty; a graph needs at least one filter")
        if len(self._mistakes) > before:
            return None
        try:
            made = Graph.from_edges(filters, edges)
        except UsageError as error:
            self.wrong((*path, "edges"), str(error))
            return None
        texts = [one.text for one in filters.values()]
        names |= {one.text: name for name, one in filters.items() if texts.count(one.text) == 1}
        return made

    def _edges(
        self, path: tomlfile.Path, value: Any, nodes: Container[str], filters: dict[str, Filter]
    ) -> list[tuple[str, str]]:
        """Pairs of names. A name that is no node, and that a device has, becomes a node of that device."""
        edges: list[tuple[str, str]] = []
        for place, text in enumerate(self._names(path, value, "texts such as 'eth0 -> s'")):
            parts = [part.strip() for part in text.split("->")]
            if len(parts) < 2 or not all(parts):
                self.wrong((*path, place), f"{text!r:.60} is no edge; write 'FROM -> TO'")
                continue
            for name in parts:
                if name in nodes or name in filters:
                    continue
                if name in self._source or self._known(name):
                    filters[name] = make_call(DEVICE, name)
                else:
                    self.wrong((*path, place), f"{suggest('node', name, [*filters, *self._source])}; nor is it a "
                               "device")  # fmt: skip
            edges += itertools.pairwise(parts)
        return edges

    # --- outputs -------------------------------------------------------------------------------------------------

    def _read_flows(self, path: tomlfile.Path, value: Any) -> FlowRows:
        table = self._known_keys(path, value, ("fields", "file", "format", "options", "plugins", "profile"))
        file = self._file_of(path, table) if "file" in table else None
        profile = self._choice((*path, "profile"), table.get("profile", "default"), tuple(PROFILES))
        rules = self._rules((*path, "options"), table.get("options", {}))
        try:
            options_for(profile, **rules)
        except UsageError as error:
            self.wrong((*path, "options"), str(error))
        plugins: list[Any] = []
        names = self._names((*path, "plugins"), table.get("plugins", []), "names of plugins")
        try:
            plugins = load_plugins(names) if names else []
        except UsageError as error:
            self.wrong((*path, "plugins"), str(error))
        fields = self._fields((*path, "fields"), table.get("fields"), flow_fields(plugins))
        shape = self._format(path, table, file)
        return FlowRows(file, shape, profile, tuple(plugins), rules, tuple(fields))

    def _rules(self, path: tomlfile.Path, value: Any) -> dict[str, Any]:
        rules: dict[str, Any] = {}
        for name, given in self._known_keys(path, value, RULE_NAMES).items():
            try:
                rules |= rule_named(name, given)
            except click.BadParameter as error:
                self.wrong((*path, name), error.message)
        return rules

    def _fields(self, path: tomlfile.Path, value: Any, added: dict[str, Field]) -> list[Field]:
        if value is None:
            return [*(FLOW_FIELDS[name] for name in FLOW_DEFAULT), *added.values()]
        names = self._names(path, value, "names of columns")
        try:
            fields = choose_fields(",".join(names), FLOW_FIELDS | added) if names else []
        except UsageError as error:
            self.wrong(path, str(error))
            return []
        lists = [field.name for field in fields if field.name in FRAME_LISTS]
        if lists:
            self.wrong(path, f"{', '.join(lists)} cannot be written as flows end: a flow's frames are known only at "
                       "the end of the input; leave it out")  # fmt: skip
        return fields

    def _read_packets(self, path: tomlfile.Path, value: Any) -> PacketFile:
        table = self._known_keys(path, value, ("file",))
        file = self._file_of(path, table)
        if file == STDOUT:
            self.wrong((*path, "file"), "packets are not written to standard output; name a file")
        return PacketFile(file)

    def _read_files(self, path: tomlfile.Path, value: Any) -> FlowFolder:
        table = self._known_keys(path, value, ("by", "folder", "format", "max_open_files"))
        folder = self._text((*path, "folder"), table.get("folder"), "the name of a folder")
        shape = self._choice((*path, "format"), table.get("format", "json"), FILE_FORMATS)
        by = self._choice((*path, "by"), table["by"], ("direction", "flow")) if "by" in table else None
        most = (
            self._whole((*path, "max_open_files"), table["max_open_files"], _MOST_FILES)
            if "max_open_files" in table
            else None
        )
        return FlowFolder(folder, shape, by, most)

    def _read_counters(self, path: tomlfile.Path, value: Any) -> CounterRows:
        table = self._known_keys(path, value, ("file", "format", "interval"))
        file = self._file_of(path, table)
        interval_ns = self._duration((*path, "interval"), table.get("interval", "10s"))
        return CounterRows(file, self._format(path, table, file), interval_ns)

    def _file_of(self, path: tomlfile.Path, table: dict[str, Any]) -> str:
        return self._text((*path, "file"), table.get("file"), "the name of a file")

    def _format(self, path: tomlfile.Path, table: dict[str, Any], file: str | None) -> str | None:
        """Format of rows: as said, or as the name of the file has it."""
        if "format" in table:
            return self._choice((*path, "format"), table["format"], _ROWS)
        if file == STDOUT:
            return None
        return "jsonl" if file is not None and FilePath(file).suffix in (".jsonl", ".json") else "csv"

    def _check_outputs(self, grabbers: Sequence[Named]) -> None:
        """No output twice, and none within a folder of flow files."""
        taken: dict[str, str] = {}
        folders = {os.path.realpath(one.files.folder): one.name for one in grabbers if one.files is not None}
        for one in grabbers:
            for key in _OUTPUTS:
                output = getattr(one, key)
                file = getattr(output, "folder" if key == "files" else "file", None)
                if not file:
                    continue
                path, here = ("grabbers", one.name, key), f"grabber {one.name}, {key}"
                real = STDOUT if file == STDOUT else os.path.realpath(file)
                if real in taken:
                    what = "standard output" if file == STDOUT else file
                    self.wrong(path, f"{what} is the output of {taken[real]} already; each output needs its own")
                elif key != "files" and (inside := folders.get(os.path.dirname(real))) is not None:  # noqa: PTH120
                    self.wrong(path, f"{file} lies in the folder of flow files of grabber {inside}; put it elsewhere")
                taken.setdefault(real, here)


def _brief(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.60}"
