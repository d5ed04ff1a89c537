"""The devices of a monitor: names for captures and interfaces, and batches from each.

A name is a path of a capture, or an interface, or what a mapping gives to either, so that `eth0` may be a file. What is
given as a path, or is the name of a file that exists, is a capture; every other name is an interface.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from traceflow.errors import TraceflowError, UsageError, suggest
from traceflow.filters.graph import DEVICE, Call, Graph, Node
from traceflow.filters.kinds import make_call
from traceflow.packets import Batch
from traceflow.sources import open_source
from traceflow.sources.inputs import open_path
from traceflow.sources.live import open_live

__all__ = ["Device", "Devices", "Source", "device_of"]

# Twice the batch of other commands: what a batch costs for each filter of each graph is paid half as often.
_BATCH_FRAMES, _READ_OCTETS = 8192, 2 << 20


class Source(Protocol):
    """What gives batches: `Captures`, a live capture."""

    errors: list[TraceflowError]

    def batches(self) -> Iterator[Batch]:
        """Its batches, once."""

    def close(self) -> None:
        """Give back what it holds."""


class Device:
    """A source with its name.

    Attributes:
        name: Its name in graphs.
        number: Its place among the devices of the monitor.
        live: Whether it gives frames as they come, and cannot wait.
        ended: Whether it gives no more batches.
        errors: What went wrong with it so far.
    """

    def __init__(self, name: str, number: int, source: Source, *, ours: bool) -> None:
        self.name, self.number, self.source = name, number, source
        self.live = bool(getattr(source, "live", False))
        self.ended = False
        self._ours = ours
        self._failed: list[TraceflowError] = []
        self._batches: Iterator[Batch] | None = None

    @property
    def errors(self) -> list[TraceflowError]:
        """What went wrong with it so far."""
        return [*self.source.errors, *self._failed]

    def next(self) -> Batch | None:
        """The next batch, None at the end. Waits as long as the source does."""
        try:
            if self._batches is None:
                self._batches = iter(self.source.batches())
            return next(self._batches, None)
        except TraceflowError as error:
            self._failed.append(error)
            return None
        except BaseException as error:  # Ctrl-C too: what gives the batches may be over by that, and says it is the end
            self._failed.append(TraceflowError(f"reading {self.name} was broken off by {error!r}: packets are missing"))
            raise

    def stop(self) -> None:
        """Have a live source give no more batches, so that whoever waits for one goes on."""
        stop = getattr(self.source, "stop", None)
        if callable(stop):
            stop()

    def close(self) -> None:
        """Close what was opened here."""
        self.ended = True
        if self._ours:
            self.source.close()


class Devices:
    """The devices of a monitor, opened when a graph first names them.

    Args:
        sources: Paths, sources that are open, or names of interfaces: one, several, or a mapping that gives each a
            name. None: whatever a graph names.
        open_interface: Opens an interface by its name; None: `open_live`.

    Raises:
        UsageError: Something that is none of these, or two devices of one name.
    """

    def __init__(self, sources: Any, open_interface: Callable[[str], Source] | None = None) -> None:
        self._open_interface = open_live if open_interface is None else open_interface
        self._anything = sources is None
        self._given: dict[str, Any] = _named({} if sources is None else sources)
        self._open: dict[str, Device] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all devices, in the order in which they are read."""
        return tuple(dict.fromkeys((*self._given, *self._open)))

    @property
    def opened(self) -> list[Device]:
        """Those that are open, in the order in which they are read."""
        return [self._open[name] for name in self.names if name in self._open]

    def __getitem__(self, name: str) -> Device:
        return self._open[name]

    def connected(self, graph: Graph) -> Graph:
        """A graph of which every path begins with a device: those that name none begin with all devices in parallel.

        It is made anew of the last nodes of the one that is given: what hangs on these is what a policy looks at, so
        nothing else may run, whatever attributes the graph and its nodes have been given.

        Raises:
            UsageError: There is no device.
        """
        graph = Graph(graph.sinks)
        heads = [node for node in graph.heads if device_of(node) is None]
        if heads and not self.names:
            raise UsageError(f"{heads[0].filter.text} has no device before it, and the monitor has none; begin the "
                             "graph with (device,NAME), or give the monitor its sources")  # fmt: skip
        before = [Node(make_call(DEVICE, name)) for name in self.names]
        moved: dict[Node, Node] = {}
        for node in graph.nodes:
            first = [moved[one] for one in node.upstream] or (before if device_of(node) is None else ())
            moved[node] = Node(node.filter, first)
        return Graph(moved[node] for node in graph.sinks)

    def open(self, graph: Graph) -> list[Device]:
        """Open the devices of a graph.

        Raises:
            UsageError: There is no such device.
            TraceflowError: A capture or an interface cannot be opened.
        """
        names = [name for node in graph.heads if (name := device_of(node)) is not None]
        for name in names:
            self._known(name)  # all of them, before any is opened
        return [self._opened(name) for name in names]

    def _known(self, name: str) -> None:
        if name not in self._given and name not in self._open and not self._anything and not _is_file(name):
            raise UsageError(f"{suggest('device', name, self.names)}; a path of a capture works as well")

    def _opened(self, name: str) -> Device:
        if name not in self._open:
            given = self._given.get(name, name)
            ours = isinstance(given, str | os.PathLike)
            source = self._source(given) if ours else given
            self._open[name] = Device(name, len(self._open), source, ours=ours)
        return self._open[name]

    def _source(self, given: str | os.PathLike[str]) -> Source:
        if not isinstance(given, str) or _is_file(given) or os.sep in given or given == "-":
            name = os.fsdecode(given)
            if name != "-" and not _is_pipe(name):  # which can be opened once only
                open_path(name, name).close()  # a mistake is said now, not as an error behind the end
            return open_source(given, batch_frames=_BATCH_FRAMES, read_octets=_READ_OCTETS)
        return self._open_interface(given)

    def close(self) -> None:
        """Close all of them."""
        for device in self._open.values():
            device.close()


def device_of(node: Node) -> str | None:
    """Name of the device that a node is; None where it is none."""
    one = node.filter
    return one.parameter if isinstance(one, Call) and one.kind == DEVICE else None


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _is_pipe(name: str) -> bool:
    """Whether it is there, and neither a file nor a directory."""
    try:
        path = Path(name)
        return path.exists() and not (path.is_file() or path.is_dir())
    except (OSError, ValueError):
        return False


def _named(sources: Any) -> dict[str, Any]:
    """Sources by their names, in order.

    Raises:
        UsageError: Something that is no source, a source without a name, or a name twice.
    """
    if isinstance(sources, Mapping):
        pairs = [(name, given) for name, given in sources.items()]
    else:
        single = isinstance(sources, str | os.PathLike) or hasattr(sources, "batches")
        if not single and not isinstance(sources, Iterable):
            raise UsageError(f"sources are paths, interfaces or open sources, not {sources!r}")
        several: Iterable[Any] = [sources] if single else sources
        pairs = [(_name_of(given), given) for given in several]
    named: dict[str, Any] = {}
    for name, given in pairs:
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"a device has the name {name!r}; it must be text that is not empty")
        if not (isinstance(given, str | os.PathLike) or callable(getattr(given, "batches", None))):
            raise UsageError(f"device {name} is {given!r}; it must be a path, an interface, or an open source")
        if name in named:
            raise UsageError(f"two devices have the name {name}; give them as a mapping, with a name for each")
        named[name] = given
    return named


def _name_of(given: Any) -> str:
    if isinstance(given, str | os.PathLike):
        return os.fsdecode(given)
    paths, interfaces = getattr(given, "paths", None), getattr(given, "interfaces", None)
    name = str(paths[0]) if paths else interfaces[0].name if interfaces else getattr(given, "name", None)
    if not isinstance(name, str):
        raise UsageError(f"{given!r} has no name; give the sources as a mapping from name to source")
    return name
