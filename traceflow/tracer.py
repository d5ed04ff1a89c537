"""TraceFlow: the engine that is fed one packet at a time, with a file for each direction of a flow.

The interface is that of PyPCAPKit's TraceFlow; what a flow is decides the same table as everywhere,
with a batch of one row. Here live only the buffers (label, frame numbers, file) that go with the table's flows.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, overload

from traceflow.adapters import PacketRow, TracedPacket, packet_of
from traceflow.callbacks import Callbacks, CallbackWarning
from traceflow.errors import CannotWriteError, FileExists, suggest
from traceflow.flows import Account
from traceflow.labels import address_text, label_text
from traceflow.options import options_for
from traceflow.protocols import has_ports, protocol_name
from traceflow.sinks import dictdump
from traceflow.sinks.folder import make_folder, refuse_earlier_run
from traceflow.sinks.naming import UniqueNames
from traceflow.sinks.pcapfile import PCAPDumper
from traceflow.table import FROM_UPPER, FlowTable

__all__ = ["BufferID", "CallbackWarning", "FormatWarning", "Index", "TraceFlow"]

BufferID = tuple[Any, int, Any, int]
"""(src, srcport, dst, dstport): one direction."""

_DEFAULT_FOLDER = "./tmp"
_DEFAULT_FORMAT = "json"
_OUR_DUMPERS = (dictdump.JSONDumper, dictdump.PLISTDumper, dictdump.TreeDumper, PCAPDumper)


class FormatWarning(UserWarning):
    """The output format is not known: flows are traced, but no files are written."""


class Dumper(Protocol):
    """What writes the blocks of a file: a dictdumper dumper, or any class with its call."""

    def __call__(self, value: Any, name: str | None = None) -> Any:
        """Append one block."""


class Index:
    """One direction of a flow, as it was when it was asked for.

    Args:
        fpout: Path of its file, None where there is none.
        index: Frame numbers in the order in which they came. A list may grow afterwards.
        label: `{src}_{srcport}-{dst}_{dstport}-{timestamp}` of its first packet.
    """

    __slots__ = ("_count", "_fpout", "_frames", "_label")

    def __init__(self, fpout: str | None, index: Sequence[int], label: str) -> None:
        self._fpout, self._frames, self._label = fpout, index, label
        self._count = len(index)

    @property
    def fpout(self) -> str | None:
        """Path of its file, None where there is none."""
        return self._fpout

    @property
    def index(self) -> tuple[int, ...]:
        """Frame numbers in the order in which they came.

        The tuple is made when it is touched: to look at all directions after each packet must not copy all frames.
        """
        if not isinstance(self._frames, tuple):
            self._frames = tuple(self._frames[: self._count])
        return self._frames

    @property
    def label(self) -> str:
        """`{src}_{srcport}-{dst}_{dstport}-{timestamp}` of its first packet."""
        return self._label

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Index):
            return NotImplemented
        return (self._fpout, self._label, self.index) == (other._fpout, other._label, other.index)

    def __hash__(self) -> int:
        return hash((self._fpout, self._label, self.index))

    def __repr__(self) -> str:
        return f"Index(fpout={self._fpout!r}, index={self.index!r}, label={self._label!r})"


class Buffer:
    """What is kept of one direction: its dumper, its frame numbers, its label."""

    __slots__ = ("_seen", "fpath", "fpout", "index", "label", "opened")

    def __init__(self, fpath: str | None, label: str, opened: int) -> None:
        self.fpout: Dumper | None = None
        self.fpath = fpath
        self.opened = opened  # how many buffers had opened before
        self.index: list[int] = []
        self.label = label
        self._seen: Index | None = None

    def snapshot(self) -> Index:
        """The Index of now; made anew only when frames have come since."""
        if self._seen is None or len(self._seen) != len(self.index):
            self._seen = Index(self.fpath, self.index, self.label)
        return self._seen


class IndexView(Sequence[Index]):
    """All directions in opening order; reading it changes nothing and costs only what is looked at."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers = buffers

    def __len__(self) -> int:
        return len(self._buffers)

    @overload
    def __getitem__(self, at: int) -> Index: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Index, ...]: ...

    def __getitem__(self, at: int | slice) -> Index | tuple[Index, ...]:
        if isinstance(at, slice):
            return tuple(buffer.snapshot() for buffer in self._buffers[at])
        return self._buffers[at].snapshot()

    def __iter__(self) -> Iterator[Index]:
        return (buffer.snapshot() for buffer in self._buffers)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # it grows

    def __repr__(self) -> str:
        return repr(tuple(self))


class TraceFlow:
    """Trace TCP (and other) flows packet by packet.

    Each direction of a flow is a buffer with its own label, frame list and file. Feed packets with `dump`, end with
    `finish`, or use it as a context manager.

    Args:
        fout: Folder of the output files. None: no files, unless a format is given (then `./tmp`).
        format: `json`, `plist`, `xml`, `tree`, `txt`, `text`, `pcap`, `cap`, or one that was registered; None: json.
        byteorder: Byte order of pcap files.
        nanosecond: Whether pcap files have nanoseconds.
        boundaries: Name of the profile: `default`, or `pcapkit` to cut as PyPCAPKit does.
        overwrite: Write into a folder that holds files of an earlier run.
        options: Single rules to change, the attributes of `options.Options`.

    Raises:
        FileExists: `fout` is a file, or holds files of an earlier run.
        UsageError: An unknown profile or option.

    Warns:
        FormatWarning: The format is not known; flows are traced without files.
    """

    _formats: dict[str, tuple[Any, str]] = {}  # noqa: RUF012 - registered for all, as in PyPCAPKit

    def __init__(
        self,
        fout: str | Path | None = None,
        format: str | None = None,  # noqa: A002 - PyPCAPKit's name
        byteorder: str = sys.byteorder,
        nanosecond: bool = False,
        *,
        boundaries: str = "default",
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        # No windows and options come with packets of few fields, and nothing here shows what analysis finds.
        self._table = FlowTable(options_for(boundaries, **{"analysis": False, **options}))
        self._byteorder, self._nanosecond, self._overwrite = byteorder, nanosecond, overwrite
        self._folder: Path | None = None
        self._dumper: Any = None
        self._extension: str | None = None
        if fout is not None or format is not None:
            self._folder = Path(_DEFAULT_FOLDER if fout is None else fout)
            self._dumper, self._extension = self.make_fout(self._folder, format)
            if self._dumper is not None and not overwrite:
                refuse_earlier_run(self._folder, self._extension or "")
        self._row = PacketRow()
        self._seen = 0
        self._buffers: dict[int, Buffer] = {}
        self._order: list[Buffer] = []
        self._ending: deque[Buffer] = deque()
        self._names = UniqueNames(fold=True)
        self._callbacks: Callbacks[Index] = Callbacks(lambda index: index.label)

    @classmethod
    def register_dumper(cls, format: str, dumper: Any, ext: str) -> None:  # noqa: A002 - PyPCAPKit's name
        """Make a format known.

        Args:
            format: Its name.
            dumper: A class called as `dumper(fname, protocol=..., byteorder=..., nanosecond=...)`; its objects are
                called as `object(frame, name=...)`.
            ext: Extension of its files, with the dot.
        """
        cls._formats[format] = (dumper, ext)

    def register_callback(self, callback: Callable[[Index], Any]) -> None:
        """Have `callback` called with the Index of every direction of a flow that ends, once each."""
        self._callbacks.register(callback)

    @classmethod
    def make_fout(cls, fout: str | Path = _DEFAULT_FOLDER, fmt: str | None = None) -> tuple[Any, str | None]:
        """Make the output folder and find the dumper of a format.

        Args:
            fout: The folder; made where it does not exist.
            fmt: Name of the format; None: json.

        Returns:
            (dumper class, extension), or (None, None) where the format is not known.

        Raises:
            FileExists: `fout` is a file.
            CannotWriteError: The folder cannot be made.
        """
        known = {**dictdump.FORMATS, "pcap": (PCAPDumper, ".pcap"), "cap": (PCAPDumper, ".pcap"), **cls._formats}
        name = _DEFAULT_FORMAT if fmt is None else fmt
        if name not in known:
            warnings.warn(f"{suggest('format', name, known)}; no files are written", FormatWarning, stacklevel=3)
            return None, None
        make_folder(Path(fout))
        dumper, extension = known[name]
        return dumper, extension

    def dump(self, packet: Any) -> None:
        """Trace a packet and write it to the file of its direction.

        Args:
            packet: See `adapters.packet_of`; None (what an adapter makes of a frame without a flow) is passed over.

        Raises:
            UsageError: The packet lacks a field.
            CannotWriteError: The file cannot be written; the packet is in `index` all the same.
        """
        if packet is not None:
            self.trace(packet)

    def __call__(self, packet: Any) -> None:
        """Same as `dump`."""
        self.dump(packet)

    def trace(self, packet: Any, *, output: bool = False) -> Any:
        """Trace a packet and write it.

        Args:
            packet: See `adapters.packet_of`.
            output: Return the dumper of the flow instead of its label.

        Returns:
            The label of the direction (with `output`, its dumper, None without files), or None where the profile
            traces no such packets.
        """
        taken = packet_of(packet)
        buffer, new = self._place(taken)
        answer: Any = None
        try:
            if buffer is not None:
                buffer.index.append(taken.index)
                self._write(buffer, taken, new)
                answer = buffer.fpout if output else buffer.label
        finally:
            self._end_buffers()
        return answer

    def _place(self, packet: TracedPacket) -> tuple[Buffer | None, bool]:
        """Let the table find the flow of a packet. Returns its buffer and whether it is new."""
        self._row.fill(packet)
        self._seen += 1
        mark = self._table.track(self._row.frames, self._row.packets, self._seen)[0]
        flow, direction = mark["flow"].item(), mark["direction"].item()
        if not flow:
            return None, False
        key = flow << 1 | (direction & FROM_UPPER != 0)
        buffer = self._buffers.get(key)
        if buffer is not None:
            return buffer, False
        with_ports = has_ports(packet.transport)
        label = label_text(
            protocol_name(packet.transport),
            address_text(packet.src),
            packet.srcport if with_ports else None,
            address_text(packet.dst),
            packet.dstport if with_ports else None,
            str(packet.timestamp),
        )
        label = self._names.unique(label)
        path = None if self._dumper is None or self._folder is None else str(self._folder / f"{label}{self._extension}")
        buffer = self._buffers[key] = Buffer(path, label, len(self._order))
        self._order.append(buffer)
        return buffer, True

    def _write(self, buffer: Buffer, packet: TracedPacket, new: bool) -> None:
        """Append a packet to the file of its buffer; the first one makes the file.

        Raises:
            CannotWriteError: It cannot be made (then the buffer goes on without a file), or not be written.
        """
        path = buffer.fpath
        if path is None:
            return
        try:
            if new:
                buffer.fpath = None
                buffer.fpout = self._open_dumper(path, packet)
                buffer.fpath = path
            if buffer.fpout is not None:
                buffer.fpout(self._written_form(buffer.fpout, path, packet), name=f"Frame {packet.index}")
        except CannotWriteError:
            raise
        except OSError as error:
            raise CannotWriteError(f"cannot write {path}: {error.strerror or error}") from error

    def _open_dumper(self, path: str, packet: TracedPacket) -> Dumper:
        """Make the dumper of a new buffer."""
        keywords: dict[str, Any] = {
            "protocol": packet.protocol,
            "byteorder": self._byteorder,
            "nanosecond": self._nanosecond,
        }
        if isinstance(self._dumper, type) and issubclass(self._dumper, _OUR_DUMPERS):
            keywords["overwrite"] = self._overwrite
        elif not self._overwrite and Path(path).exists():  # dictdumper's own classes would truncate it
            raise FileExists(f"{path} exists already; choose another folder or overwrite=True")
        dumper: Dumper = self._dumper(path, **keywords)
        return dumper

    def _written_form(self, dumper: Dumper, path: str, packet: TracedPacket) -> Any:
        """What a dumper is given of a packet: its `frame`, or for pcap its octets."""
        if not isinstance(dumper, PCAPDumper):
            return packet.frame
        if packet.octets is None:
            raise CannotWriteError(f"packet {packet.index} has no octets to write to {path}; use an adapter")
        return {"octets": packet.octets, "time_ns": int(self._row.frames[0]["time_ns"]), "wire": packet.wire}

    def _end_buffers(self) -> None:
        """Close the buffers of the flows that ended, and call back.

        They wait in a queue: whatever a callback does (it may feed this tracer) or raises, each has its turn once.
        """
        for flow in self._table.drain():
            number = int(flow["number"])
            ended = [self._buffers.pop(key) for key in (number << 1, number << 1 | 1) if key in self._buffers]
            # Directions of a flow end in the order in which they opened.
            self._ending.extend(sorted(ended, key=lambda buffer: buffer.opened))
        failure: CannotWriteError | None = None
        while self._ending:
            buffer = self._ending.popleft()
            close, buffer.fpout = getattr(buffer.fpout, "close", None), None
            try:
                if close is not None:
                    close()
            except OSError as error:
                failure = CannotWriteError(f"cannot close {buffer.fpath}: {error.strerror or error}")
            self._callbacks.call(buffer.snapshot())
        if failure is not None:
            raise failure

    @property
    def index(self) -> IndexView:
        """All directions of all flows, ended or not, in opening order. Reading it changes nothing."""
        return IndexView(self._order)

    def submit(self) -> tuple[Index, ...]:
        """The Index of every direction so far, in opening order. Flows stay open; `finish` ends them."""
        return tuple(self.index)

    def finish(self) -> tuple[Index, ...]:
        """End all flows; callbacks run for each. Packets that follow open new flows.

        Returns:
            What `submit` returns.
        """
        self._table.end()
        self._end_buffers()
        return self.submit()

    @property
    def account(self) -> Account:
        """What became of every packet."""
        return self._table.account()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
