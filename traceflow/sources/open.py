"""A chain of captures, read one after the other as batches of frames.

What lives here: the order of things, the limit, and what happens when a capture fails: it is noted and the next one
is read. What must not: formats (`pcap`, `pcapng`, `compressed`) and files (`inputs`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotReadError, CaptureError, TraceflowError, UsageError
from traceflow.packets import FRAME, Batch, Interface
from traceflow.sources.compressed import Unpacked, compression_of, refuse_twice
from traceflow.sources.inputs import Given, Input, Spool
from traceflow.sources.pcap import PcapReader
from traceflow.sources.pcapng import PcapngReader
from traceflow.sources.reading import Window
from traceflow.sources.registry import Registry
from traceflow.sources.reread import Rereader
from traceflow.sources.sniff import Kind, sniff

__all__ = ["Captures", "open_source"]

_ROWS_MAX = 65_536
"""Rows that are allocated at most: a read of 1 MiB holds no more records of 16 octets."""

_READERS: dict[Kind, type[PcapReader] | type[PcapngReader]] = {Kind.PCAP: PcapReader, Kind.PCAPNG: PcapngReader}


def open_source(
    *paths: Given,
    batch_frames: int = 8192,
    read_octets: int = 1 << 20,
    limit: int | None = None,
    keep: bool = False,
    spool_folder: Path | None = None,
    ahead: int = 0,
) -> Captures:
    """Chain captures; nothing is opened before its turn comes.

    Args:
        *paths: Paths, `-` for standard input, or files open in binary mode.
        batch_frames: Frames of a batch at most.
        read_octets: Octets asked of an input at once. Neither of the two changes a result.
        limit: Stop after that many frames over all captures.
        keep: Copy what cannot be read twice (a pipe, the content of a compressed capture) to an anonymous temporary
            file, for `Captures.reread`.
        spool_folder: Where that file is made; None for the system's folder.
        ahead: How many batches may be asked for while an earlier one is still in use; of pipes none.

    Raises:
        UsageError: A number that is too small, or a capture that is neither path nor binary file. All that is wrong
            with a capture itself is found in `Captures.errors` once its turn has come.
    """
    return Captures(
        *paths, batch_frames=batch_frames, read_octets=read_octets, limit=limit, keep=keep, spool_folder=spool_folder,
        ahead=ahead,
    )  # fmt: skip


class Captures:
    """A chain of captures. A context manager; not for several threads at once.

    Attributes:
        errors: What went wrong so far, in order; after each, reading went on with the next capture.
        frames_read: Frames delivered so far, over all captures.
        opened: Captures whose file header was good.
        octets_total: Octets of all inputs, for a progress bar; None where one is a pipe.
        live: False.
        ahead: How many batches may be asked for while an earlier one is still in use.
    """

    live = False

    def __init__(
        self,
        *paths: Given,
        batch_frames: int = 8192,
        read_octets: int = 1 << 20,
        limit: int | None = None,
        keep: bool = False,
        spool_folder: Path | None = None,
        ahead: int = 0,
    ) -> None:
        """See `open_source`."""
        for name, value, least in (("batch_frames", batch_frames, 1), ("read_octets", read_octets, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        if limit is not None and limit < 0:
            raise UsageError(f"limit is {limit}; it must be at least 0")
        self.errors: list[TraceflowError] = []
        self.frames_read = 0
        self.opened = 0
        self._limit = limit
        self._spool = Spool(spool_folder)
        self._inputs = [Input(path, index, self._spool if keep else None) for index, path in enumerate(paths)]
        sizes = [given.octets_total for given in self._inputs]
        self.octets_total: int | None = None if None in sizes else sum(size for size in sizes if size is not None)
        self._read_octets = read_octets
        # A read of a pipe may have to be broken off, which only the main thread can.
        ahead = self.ahead = 0 if self.octets_total is None else ahead
        self._window = Window(read_octets, ahead)
        self._rows = deque(np.empty(min(batch_frames, _ROWS_MAX), FRAME) for _ in range(ahead + 1))
        self._registry = Registry()
        self._sources = np.empty(0, np.int64)
        self._rereader = Rereader(self._inputs, self._spool)
        self._begun = False
        self._closed = False

    @property
    def interfaces(self) -> list[Interface]:
        """All interfaces so far; FRAME `interface` is an index into it."""
        return self._registry.interfaces

    @property
    def paths(self) -> list[Path]:
        """Absolute paths of the captures that were given as paths."""
        return [Path(given.path) for given in self._inputs if given.path is not None]

    @property
    def octets_read(self) -> int:
        """Octets read so far, over all captures; of compressed ones, compressed octets."""
        return sum(given.octets_read for given in self._inputs)

    def batches(self) -> Iterator[Batch]:
        """Read all captures, once.

        Returns:
            Batches of 1 to batch_frames consecutive frames of one capture. Octets and rows of a batch are
            overwritten when the next one but `ahead` is asked for.

        Raises:
            UsageError: It was called before, or the chain is closed.
        """
        if self._begun or self._closed:
            raise UsageError("captures are read once; open them again with open_source")
        self._begun = True
        return self._read_all()

    def _read_all(self) -> Iterator[Batch]:
        if not self._inputs:
            self.errors.append(CannotReadError("no capture was given; name a file, or - for standard input"))
        standard_input_used = False
        for given in self._inputs:
            if self._closed or not self._room():
                return
            try:
                if given.path is None and given.name == "-":
                    if standard_input_used:
                        raise CannotReadError("-: standard input was given twice, and can be read once; name it once")
                    standard_input_used = True
                yield from self._read_one(given)
            except TraceflowError as error:
                self.errors.append(error)
            finally:
                given.close()

    def _read_one(self, given: Input) -> Iterator[Batch]:
        """The batches of one capture; what ends it early is raised behind the last one."""
        given.open()
        window = self._window
        window.attach(given.read_into, given.base)
        self._registry.source, self._registry.source_index = given.name, given.index
        if compression_of(window) is None:
            yield from self._read_opened(given)
            return
        unpacked = Unpacked(window, given.read_file, self._read_octets, given.name)
        given.read_through(unpacked.read_into)
        window.attach(given.read_into, given.base)
        try:
            refuse_twice(window, unpacked, given.name)
            yield from self._read_opened(given)
        except CaptureError as error:
            if error is not unpacked.error:
                error.args = (f"{error}. The offset counts octets of the decompressed {unpacked.word} data",)
            raise

    def _read_opened(self, given: Input) -> Iterator[Batch]:
        """The batches of the capture at which the window stands."""
        window = self._window
        reader = _READERS[sniff(window, given.name)](window, self._registry)
        self.opened += 1
        first_in_file = 1
        while not self._closed and (room := self._room()):
            rows = self._rows[0]
            count = reader.walk(rows[:room])
            if not count:  # the end; then the rows are those of the first batch of the next capture
                return
            self._rows.rotate()
            first_number = self.frames_read + 1
            self.frames_read += count
            yield Batch(window.octets[: window.end], rows[:count], first_number, first_in_file)
            window.keep()
            first_in_file += count

    def _room(self) -> int:
        """Rows that the next batch may have; 0 when the limit is reached."""
        if self._limit is None:
            return len(self._rows[0])
        return min(len(self._rows[0]), self._limit - self.frames_read)

    def reread(
        self, frames: npt.NDArray[np.void], room: npt.NDArray[np.uint8] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Fetch the captured octets of frames again.

        Args:
            frames: FRAME[m] that this chain gave, in any order, of any captures.
            room: uint8[...] to put them into, where it is large enough.

        Returns:
            uint8[n] with all of them in the order given, and FRAME[m]: copies of the rows with `start` set into it.

        Raises:
            CannotReadError: A file is gone, was replaced or has become shorter.
            UsageError: A pipe or compressed capture that was not kept (`keep=True`), 4 GiB at once, or the chain is
                closed.
        """
        if self._closed:
            raise UsageError("the captures are closed; fetch frames before that")
        if len(self._sources) != len(self.interfaces):
            self._sources = np.array([interface.source_index for interface in self.interfaces], np.int64)
        if len(frames) and int(frames["interface"].max()) >= len(self._sources):
            raise UsageError("these frames are not of this chain: they name an interface that it does not have")
        return self._rereader.fetch(frames, self._sources[frames["interface"]], room)

    def close(self) -> None:
        """Close all that was opened here, and give back what was kept. May be called again."""
        self._closed = True
        self._rereader.close()
        self._spool.close()
        for given in self._inputs:
            given.close()

    def __iter__(self) -> Iterator[Batch]:
        """The same as `batches`."""
        return self.batches()

    def __enter__(self) -> Captures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
