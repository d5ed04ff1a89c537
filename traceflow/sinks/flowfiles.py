"""One file a flow (or a direction of it) for a capture that can be read again: trace first, write after.

While the capture is traced, only FRAME rows are kept, in an anonymous temporary file in the output folder. Then the
files are written one after the other, whole, from the octets read again: never more than a few are open, and memory
holds one group of frames. `index.json` comes last and lists every file.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotWriteError, FileExists
from traceflow.flows import FlowSet
from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME
from traceflow.pipeline import Step
from traceflow.sinks import dictdump
from traceflow.sinks.bulk import BULK_FROM, Bulk, Lot, Pcaps, Texts, marks_of
from traceflow.sinks.catalog import Output, outputs
from traceflow.sinks.filing import Errands, Filing
from traceflow.sinks.folder import INDEX_NAME, listed_files, make_folder, refuse_earlier_run, remove_files, write_whole
from traceflow.sinks.indexspool import IndexSpool
from traceflow.sinks.pcapfile import pcap_header, pcap_records
from traceflow.sinks.perflow import GROUP_FRAMES, INTERRUPTED, PcapKind, index_pieces, layout_of, pcap_kind
from traceflow.sinks.readahead import Group, Loaded, ReadAhead
from traceflow.sources import Captures

__all__ = ["FlowFiles"]


_BULK_FRAMES = 1 << 16
"""Frames that are read again at once in bulk. Frames of a flow lie scattered over seconds of the capture, all of which
is read for each group: with 4096 frames, the capture is read 20 times in all."""
_LOT_OCTETS = 1 << 19
"""Captured octets that files are made of at once. Text is ten times as long, and this little stays in the caches; pcap
files are made of four times as many: with fewer, threads wait for each other more often (66 000 files: 1.9 s with
512 KiB, 1.65 s with 2 MiB)."""


class FlowFiles:
    """The per-flow files of one run.

    Args:
        folder: Output folder; made where it does not exist.
        format: A name in FORMATS.
        by: `direction` - a file for each direction of a flow; `flow` - both in one; None: DEFAULT_BY of the format.
        overwrite: Replace the files of an earlier run: those that its index lists are removed in the end.
        outer: Records show the outermost packet of a tunnel: the `outer` of the Options of the run.
        bulk_from: Frames in flows from which on files are made in bulk; None: BULK_FROM.

    Raises:
        UsageError: An unknown format, or `by`.
        FileExists: The folder is a file, or holds files of an earlier run.
        CannotWriteError: The folder cannot be made or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        format: str = "json",  # noqa: A002 - the name of the option
        by: str | None = None,
        overwrite: bool = False,
        outer: bool = False,
        bulk_from: int | None = None,
    ) -> None:
        self._layout, self._outer = layout_of(format, by), outer
        self._bulk_from = BULK_FROM if bulk_from is None else bulk_from
        self._folder, self._overwrite = Path(folder), overwrite
        make_folder(self._folder)
        if not overwrite:
            refuse_earlier_run(self._folder, self._layout.extension)
        try:
            self._rows: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise CannotWriteError(f"{self._folder}: cannot write there: {error.strerror or error}") from error
        self._frames: npt.NDArray[np.void] = np.zeros(0, FRAME)
        self._kept = 0
        self._filing, self._errands = Filing(self._folder, overwrite=overwrite), Errands()
        self._one_kind: PcapKind | Literal[False] | None = None

    def take(self, step: Step) -> None:
        """Keep where the frames of a step stand.

        Raises:
            CannotWriteError: The disk is full.
        """
        if step.batch is None:
            return
        try:
            self._rows.write(step.batch.frames.tobytes())
        except OSError as error:
            raise self._lost_positions(error) from error
        self._kept += len(step.batch.frames)

    def _lost_positions(self, error: OSError) -> CannotWriteError:
        return CannotWriteError(f"{self._folder}: cannot keep frame positions: {error.strerror or error}")

    def write(
        self,
        flows: FlowSet,
        captures: Captures,
        on_progress: Callable[[int, int], None] | None = None,
        stopped: Callable[[], bool] | None = None,
        *,
        alarms_only: bool = False,
    ) -> int:
        """Write all files, and `index.json` at the end.

        Args:
            flows: What the run traced.
            captures: The captures, still open, made with `keep=True`.
            on_progress: Called with (frames written, frames to write) now and then.
            stopped: Asked before each group of files (some thousand frames); when it says True, the rest is left out.
            alarms_only: Only flows on which a plugin raised the alarm.

        Returns:
            How many flow files were written.

        Raises:
            CannotWriteError: The disk is full, or the like. The files written so far stay, and the index lists them.
        """
        if self._kept:
            try:
                self._rows.flush()
                self._frames = np.asarray(np.memmap(self._rows, FRAME, "r", shape=(self._kept,)))
            except OSError as error:
                raise self._lost_positions(error) from error
        written: list[Output] = []
        self._refuse_own_input(captures)
        earlier = listed_files(self._folder) if self._overwrite else set()
        bulk = self._bulk(captures) if flows.account.in_flows >= self._bulk_from else None
        ahead = ReadAhead(self._frames, captures, GROUP_FRAMES if bulk is None else _BULK_FRAMES, outer=self._outer)
        spool = IndexSpool(self._folder, flows)
        failure: BaseException | None = None
        stopped_early = False
        done = 0
        try:
            for group in ahead.groups(outputs(flows, self._layout, self._frames, alarms_only=alarms_only)):
                if stopped is not None and stopped():
                    stopped_early = True
                    break
                self._write_group(group, captures, written, bulk)
                spool.add(written)
                done += sum(len(output.numbers) for output in group.outputs)
                if on_progress is not None:
                    on_progress(done, flows.account.in_flows)
            self._errands.wait()
        except BaseException as error:  # noqa: BLE001 - raised again once the index is written
            failure = error
            self._errands.close()  # what was begun counts
        ahead.close()
        stopped_early = stopped_early or isinstance(failure, KeyboardInterrupt)
        missing = _missing(flows, written, None if stopped_early else failure, stopped_early=stopped_early)
        try:
            self._write_index(flows, missing, spool, written)
        except OSError as error:
            failure = failure or error
        spool.close()
        if failure is not None:
            raise failure
        remove_files(self._folder, earlier - {output.name for output in written})
        return len(written)

    def _write_index(self, flows: FlowSet, missing: list[str], spool: IndexSpool, written: list[Output]) -> None:
        """Write `index.json`; on a full disk once more, in the room of what was put away and of the positions."""

        def write() -> None:
            pieces = index_pieces(flows.account, flows.interfaces, missing, spool.pieces(written))
            write_whole(self._folder / INDEX_NAME, pieces, overwrite=self._overwrite)

        try:
            write()
        except CannotWriteError:
            self.close()
            spool.close()
            write()

    def _refuse_own_input(self, captures: Captures) -> None:
        """With `overwrite`, a flow file could take the name of a capture that is still to be read."""
        for path in captures.paths if self._overwrite else ():
            if path.parent.resolve() == self._folder.resolve():
                raise FileExists(f"{path}: lies in the output folder and could be overwritten; choose another folder")

    def _bulk(self, captures: Captures) -> Bulk:
        """What makes files in bulk."""
        if self._layout.pcap:
            return Pcaps()
        return Texts(self._layout.format, captures.interfaces, outer=self._outer)

    def _write_group(self, group: Group, captures: Captures, written: list[Output], bulk: Bulk | None) -> None:
        if bulk is not None:
            if group.whole:
                self._file_lots(group.outputs, next(group.parts), captures, written, bulk)
            else:
                self._errands.wait()
                self._filing.put(group.outputs[0].name, self._long_file(group.outputs[0], group.parts, captures, bulk))
                written.append(group.outputs[0])
            return
        loaded = next(group.parts) if group.whole else None
        at = 0
        for output in group.outputs:
            if loaded is not None:
                pieces = self._pieces(output, iter([loaded.part(at, at + len(output.numbers))]), captures)
            else:
                pieces = self._pieces(output, group.parts, captures)
            write_whole(self._folder / output.name, pieces, overwrite=self._overwrite)
            written.append(output)
            at += len(output.numbers)

    def _file_lots(
        self, group: list[Output], loaded: Loaded, captures: Captures, written: list[Output], bulk: Bulk
    ) -> None:
        """Write a group of whole files, lot by lot."""
        errands, most = self._errands, 4 * _LOT_OCTETS if self._layout.pcap else _LOT_OCTETS
        at = first = 0
        while first < len(group):
            octets, behind = group[first].octets, first + 1
            while behind < len(group) and octets + group[behind].octets <= most:
                octets += group[behind].octets
                behind += 1
            some = group[first:behind]
            counts = [len(output.numbers) for output in some]
            part = loaded.part(at, at + sum(counts))
            view, ends = bulk.documents(self._lot(part, marks_of(counts), some, captures))
            stops = ends[np.cumsum(counts) - 1].tolist()
            errands.send(functools.partial(self._file, some, view, stops, written))
            at, first = at + sum(counts), behind

    def _file(self, some: list[Output], view: memoryview, stops: list[int], written: list[Output]) -> None:
        """Write files whose contents lie one behind the other."""
        before = len(written)
        for done in self._filing.put_all([output.name for output in some], view, stops):
            written[before:] = some[:done]

    def _long_file(
        self, output: Output, parts: Iterator[Loaded], captures: Captures, bulk: Bulk
    ) -> Iterator[memoryview]:
        """The content of a file whose frames do not fit into memory together."""
        whole = marks_of([len(output.numbers)])
        done = 0
        for part in parts:
            marks = whole[done : done + len(part.numbers)]
            done += len(part.numbers)
            yield bulk.documents(self._lot(part, marks, [output], captures))[0]

    def _lot(self, part: Loaded, marks: npt.NDArray[np.uint8], some: list[Output], captures: Captures) -> Lot:
        kinds = [self._kind(output, captures) for output in some] if self._layout.pcap else ()
        return Lot(part.octets, part.frames, part.numbers, marks, [output.link for output in some], kinds)

    def _kind(self, output: Output, captures: Captures) -> PcapKind:
        """What a pcap file takes from its source."""
        if self._one_kind is None:
            same = len({(one.byteorder, one.snaplen) for one in captures.interfaces}) == 1
            finer = self._frames["time_bits"] & FINER_THAN_MICROSECONDS
            same = same and bool((finer == finer[0]).all())
            self._one_kind = pcap_kind(self._frames[:1], captures.interfaces) if same else False
        if self._one_kind:
            return self._one_kind
        return pcap_kind(self._frames[output.numbers.astype(np.intp) - 1], captures.interfaces)

    def _pieces(self, output: Output, parts: Iterator[Loaded], captures: Captures) -> Iterator[bytes]:
        """The content of a file."""
        if not self._layout.pcap:
            records = (block for part in parts for block in part.blocks(captures))
            return dictdump.render_document(self._layout.format, records)
        return self._pcap_pieces(output, parts, captures)

    def _pcap_pieces(self, output: Output, parts: Iterator[Loaded], captures: Captures) -> Iterator[bytes]:
        """A pcap file."""
        kind = self._kind(output, captures)
        yield pcap_header(output.link, byteorder=kind.byteorder, nanosecond=kind.nanosecond, snaplen=kind.snaplen)
        for part in parts:
            yield pcap_records(part.octets, part.frames, byteorder=kind.byteorder, nanosecond=kind.nanosecond)

    def close(self) -> None:
        """Give the temporary file and the thread back."""
        self._errands.close()
        self._frames = np.zeros(0, FRAME)
        with contextlib.suppress(OSError):  # of a full disk that `take` or `write` has reported
            self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _missing(flows: FlowSet, written: list[Output], failure: BaseException | None, *, stopped_early: bool) -> list[str]:
    """What makes the files incomplete, a line each."""
    errors = (*flows.errors, *(() if failure is None else (failure,)))
    missing = [str(error) or type(error).__name__ for error in errors]
    if flows.account.interrupted:
        missing.append(INTERRUPTED)
    if stopped_early:
        held = sum(len(output.numbers) for output in written)
        missing.append(f"{INTERRUPTED}: files hold {held} of {flows.account.in_flows} frames")
    return missing
