"""What becomes of the packets of a grabber of `traceflow grab`: rows of flows, pcap files, per-flow files, counters.

Every output is whole after each append. What cannot be written raises; whoever runs the grabber closes it then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np

from traceflow.cli.commands import View
from traceflow.cli.grabfile import STDOUT, CounterRows, FlowFolder, FlowRows, Named, PacketFile
from traceflow.cli.output import row_writer
from traceflow.errors import CannotWriteError, FileExists
from traceflow.filters.contract import Kind as FilterKind
from traceflow.filters.contract import Seen, Selection
from traceflow.filters.graph import Call, Graph, calls_of
from traceflow.filters.kinds import make_call, register
from traceflow.flows import Account, FlowSet
from traceflow.framelists import FrameMap
from traceflow.grabbing.grabbed import Packets
from traceflow.grabbing.inlets import device_of
from traceflow.labels import time_text
from traceflow.packets import Interface
from traceflow.pipeline import Step
from traceflow.sinks.folder import write_at
from traceflow.sinks.growing import GrowingFile
from traceflow.sinks.livefiles import MAX_OPEN_FILES, LiveFlowFiles
from traceflow.sinks.pcapfile import PCAPDumper, pcap_records
from traceflow.sinks.perflow import PcapKind, pcap_kind
from traceflow.sinks.rows import FORMATS, RowWriter
from traceflow.sinks.rows_fields import Field, Kind
from traceflow.sinks.rows_flows import flow_columns

__all__ = [
    "PASSED",
    "CounterSink",
    "FlowSink",
    "FolderSink",
    "Output",
    "PacketSink",
    "columns_of",
    "counted",
    "outputs_in_the_way",
]

PASSED: Final = "(grabbed)"
"""Text of the filter that is put behind each graph, and counts what comes out."""

_ETHERNET = 1


class _Passed:
    """Counts what comes out of a graph."""

    def __init__(self, _call: Call) -> None:
        self._packets = self._octets = 0

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All of them, counted."""
        self._packets += len(given)
        self._octets += int(seen.batch.frames["wire"][given.indexes].sum(dtype=np.int64))
        return given

    def counters(self) -> dict[str, int]:
        """`packets`, and `octets` as they were on the wire."""
        return {"packets": self._packets, "octets": self._octets}


_KIND = FilterKind("grabbed", "counts what comes out of a graph", "", lambda _parameter: "", _Passed)


def counted(graph: Graph) -> Graph:
    """A graph with a filter behind it that counts what comes out."""
    register(_KIND)
    return graph >> make_call(_KIND.name)


def columns_of(graph: Graph, named: Mapping[str, str]) -> dict[str, str]:
    """Names of the nodes of a graph in columns, by the names that their counters have.

    Args:
        graph: The graph.
        named: Names of nodes by the texts of their filters, where they have one.
    """
    nodes = [node for node in graph.nodes if device_of(node) is None]
    texts = [node.filter.text for node in graph.nodes]
    found: dict[str, str] = {}
    for node in nodes:
        text = node.filter.text
        kind = calls_of(node.filter)[0].kind.lower()
        name = named.get(text, kind) if texts.count(text) == 1 else kind
        number, free = 1, name
        while free in found.values():
            number += 1
            free = f"{name}{number}"
        found[text if texts.count(text) == 1 else Graph([node]).text] = free
    return found


class Output:
    """One output of a grabber.

    Attributes:
        incomplete: What is missing in it, a line each.
    """

    def __init__(self) -> None:
        self.incomplete: list[str] = []

    def take(self, step: Step) -> None:
        """A step of the flow table of the grabber."""

    def finish(self, account: Account | None, errors: Sequence[BaseException]) -> None:
        """No more comes. `account` is that of the flow table, `errors` what else is wrong.

        Raises:
            TraceflowError: What is left cannot be written.
        """

    def close(self) -> None:
        """Close what is open, whatever has happened."""


class _RowFile:
    """A file of rows; each write is there as a whole, or not."""

    def __init__(self, name: str, *, overwrite: bool) -> None:
        self._name = name
        self._growing: GrowingFile | None = None
        self._stream: FileIO | None = None
        try:
            if _is_special(name):
                self._stream = FileIO(name, "w")
            else:
                self._growing = GrowingFile(Path(name), b"", overwrite=overwrite, keep_open=True)
        except FileExistsError:
            raise FileExists(f"{name}: exists already; choose another name, or ask to overwrite") from None
        except OSError as error:
            raise CannotWriteError(f"cannot create {name}: {error.strerror or error}") from error

    def write(self, text: str) -> None:
        """Append rows.

        Raises:
            CannotWriteError: They do not fit; rows that were written before stay.
        """
        self.write_octets(memoryview(text.encode("utf-8", "surrogateescape")))

    def write_octets(self, octets: memoryview) -> None:
        """As `write`, of text in UTF-8."""
        try:
            if self._growing is None:
                assert self._stream is not None
                rest = octets
                while rest:
                    rest = rest[self._stream.write(rest) :]
                return
            stream = self._growing.stream()
            end = stream.seek(0, 2)
            try:
                write_at(stream, end, octets)
            except OSError:
                stream.truncate(end)
                raise
        except OSError as error:
            raise CannotWriteError(f"cannot append to {self._name}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close it."""
        for one in (self._growing, self._stream):
            if one is not None:
                one.close()


def _is_special(name: str) -> bool:
    """Whether it is a pipe or a device, which is written to as it is."""
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - of text that may hold what Path would change
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class _Rows(Output):
    """Rows to a file, or to standard output.

    Args:
        file: Where to.
        shape: Format; None: as standard output has it.
        fields: The columns.
        overwrite: Replace a file.
        usual: Format of standard output that was asked for.
    """

    def __init__(
        self, file: str | None, shape: str | None, fields: Sequence[Field], *, overwrite: bool, usual: str | None
    ) -> None:
        super().__init__()
        self._file: _RowFile | None = None
        self._writer: RowWriter | None = None
        if file == STDOUT:
            self._writer = row_writer(View(usual or shape, list(fields)), at_once=True)
        elif file is not None:
            self._file = _RowFile(file, overwrite=overwrite)
            self._writer = FORMATS[shape or "csv"](self._file, fields)

    def finish(self, account: Account | None, errors: Sequence[BaseException]) -> None:
        """Write the head where there was no row."""
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class FlowSink(_Rows):
    """Rows of flows as they end."""

    def __init__(self, wanted: FlowRows, *, overwrite: bool, usual: str | None) -> None:
        super().__init__(wanted.file, wanted.format, wanted.fields, overwrite=overwrite, usual=usual)
        self._fields = wanted.fields

    def take(self, step: Step) -> None:
        """Write the flows that ended."""
        if self._writer is not None and len(step.ended):
            flows = FlowSet(step.ended, FrameMap(), Account())
            flows.plugin_columns = step.columns
            for columns in flow_columns(flows, self._fields):
                self._writer.write(columns)


class CounterSink(_Rows):
    """A row of all counters for each interval of packet time in which there were frames.

    Args:
        wanted: What is wanted.
        columns: Names of nodes in columns, by those that counters have; see `columns_of`.
        counters: The counters before the first packet.
        overwrite: Replace a file.
        usual: Format of standard output that was asked for.
    """

    def __init__(
        self,
        wanted: CounterRows,
        columns: Mapping[str, str],
        counters: Mapping[str, Mapping[str, int]],
        *,
        overwrite: bool,
        usual: str | None,
    ) -> None:
        cells = [(text, name) for text, names in counters.items() if text != PASSED for name in names]
        self._cells = [(PASSED, "packets"), (PASSED, "octets"), *cells]
        fields = [Field("time", Kind.DECIMAL), Field("packets", Kind.INTEGER), Field("octets", Kind.INTEGER)]
        fields += [Field(f"{columns[text]}_{name}", Kind.INTEGER) for text, name in cells]
        super().__init__(wanted.file, wanted.format, fields, overwrite=overwrite, usual=usual)
        self._interval_ns = wanted.interval_ns
        self._open: int | None = None

    def time(self, now_ns: int, counters: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        """Packet time is there, before the next packet is counted: write the row of an interval that is over."""
        number = now_ns // self._interval_ns
        if self._open is not None and number > self._open:
            self._write(counters())
        if self._open is None or number > self._open:
            self._open = number

    def last(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        """Write the row of the interval in which the input ended."""
        if self._open is not None:
            self._write(counters)
            self._open = None

    def _write(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        assert self._open is not None
        assert self._writer is not None
        end = time_text((self._open + 1) * self._interval_ns, 0)
        self._writer.write([[end], *([counters.get(text, {}).get(name)] for text, name in self._cells)])


class PacketSink(Output):
    """A pcap file of packets, cut as the graph says. It is made with the first packet, or at the end.

    Args:
        wanted: What is wanted.
        interfaces: Where frames come from.
        overwrite: Replace a file.
    """

    def __init__(self, wanted: PacketFile, interfaces: Sequence[Interface], *, overwrite: bool) -> None:
        super().__init__()
        self._name, self._interfaces, self._overwrite = wanted.file, interfaces, overwrite
        self._dumper: PCAPDumper | None = None
        self._kind: PcapKind | None = None
        self._link = _ETHERNET

    def write(self, packets: Packets) -> None:
        """Append packets.

        Raises:
            CannotWriteError: They do not fit, or have another link type than the first one.
        """
        frames, kind = packets.frames, pcap_kind(packets.frames, self._interfaces)
        if self._dumper is None:
            self._make(kind, int(frames["link"][0]))
        assert self._dumper is not None
        assert self._kind is not None
        others = np.flatnonzero(frames["link"] != self._link)
        if len(others):
            frames = frames[: int(others[0])]
        wider = self._kind.with_more(kind)
        if wider != self._kind:
            self._dumper.widen(nanosecond=wider.nanosecond, snaplen=wider.snaplen)
            self._kind = wider
        if len(frames):
            records = pcap_records(packets.octets, frames, byteorder=wider.byteorder, nanosecond=wider.nanosecond)
            self._dumper.append_records(records)
        if len(others):
            other = int(packets.frames["link"][others[0]])
            raise CannotWriteError(f"{self._name} holds frames of link type {self._link}, and one of link type {other} "
                                   "came; have a grabber for each")  # fmt: skip

    def _make(self, kind: PcapKind, link: int) -> None:
        self._dumper = PCAPDumper(
            self._name,
            protocol=link,
            byteorder=kind.byteorder,
            nanosecond=kind.nanosecond,
            snaplen=kind.snaplen,
            overwrite=self._overwrite,
            keep_open=True,
        )
        self._kind, self._link = kind, link

    def finish(self, account: Account | None, errors: Sequence[BaseException]) -> None:
        """Make the file where no packet came."""
        if self._dumper is None:
            first = self._interfaces[0] if self._interfaces else None
            kind = PcapKind("little", False, 0) if first is None else PcapKind(first.byteorder, False, first.snaplen)
            self._make(kind, _ETHERNET if first is None else first.link)

    def close(self) -> None:
        """Close the file."""
        if self._dumper is not None:
            self._dumper.close()


class FolderSink(Output):
    """Per-flow files, and their index.

    Args:
        wanted: What is wanted.
        interfaces: Where frames come from.
        outer: Records show the outermost packet of a tunnel.
        overwrite: Replace the files of an earlier run.
    """

    def __init__(self, wanted: FlowFolder, interfaces: Sequence[Interface], *, outer: bool, overwrite: bool) -> None:
        super().__init__()
        self._interfaces = interfaces
        self._files = LiveFlowFiles(
            Path(wanted.folder),
            format=wanted.format,
            by=wanted.by,
            overwrite=overwrite,
            outer=outer,
            max_open_files=wanted.max_open_files or MAX_OPEN_FILES,
        )

    def take(self, step: Step) -> None:
        """Write the frames of a step."""
        self._files.take(step, self._interfaces)

    def finish(self, account: Account | None, errors: Sequence[BaseException]) -> None:
        """Write the index."""
        assert account is not None
        try:
            self._files.finish(account, errors)
        finally:
            self.incomplete = self._files.problems()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def outputs_in_the_way(grabbers: Sequence[Named]) -> list[str]:
    """What stands where an output is to be written: a line for each.

    Args:
        grabbers: The grabbers.
    """
    found = []
    for one in grabbers:
        for output in (one.flows, one.packets, one.counters):
            file = None if output is None else output.file
            if file and file != STDOUT and os.path.lexists(file) and not _is_special(file):
                found.append(f"grabber {one.name}: {file} exists already")
    return found
