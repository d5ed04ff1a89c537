"""Per-flow files that are written as frames come, of an input that cannot be read again: a network interface.

Each file is whole after every step, and few are open at once, whatever the number of flows. Names, records and
`index.json` are those of `flowfiles`, as `perflow` has the rules; what differs comes of not knowing the future:

- A fragment that belongs to a flow only when the first one comes, in a later batch, stands behind the frames that were
  written before it. The index lists frames in the order of the file.
- Of files that want the same name, the one that is opened first gets it. A file whose label turns out to be another
  (the flow has turned) or whose frames turn out to have two link types is renamed. No file of others is replaced.
- A file that cannot be written is left as it is, with the frames that it has, and gets no more; others go on.

Memory follows live flows: their frame numbers. Entries of the index are put away when their flow ends.
"""

from __future__ import annotations

import array
import dataclasses
import errno
import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotWriteError, FileExists, UsageError
from traceflow.flows import Account, Flow, FlowSet
from traceflow.framelists import FrameMap
from traceflow.labels import packet_label
from traceflow.packets import Interface
from traceflow.pipeline import Step
from traceflow.sinks import dictdump
from traceflow.sinks.entrystore import EntryStore
from traceflow.sinks.folder import INDEX_NAME, listed_files, make_folder, refuse_earlier_run, remove_files, write_whole
from traceflow.sinks.framegroups import FrameGroups, Group, StepFrames
from traceflow.sinks.pcapfile import PCAPDumper, pcap_records
from traceflow.sinks.perflow import (
    ENTRY_SEPARATOR,
    GROUP_FRAMES,
    INTERRUPTED,
    PcapKind,
    frame_blocks,
    index_entry,
    index_pieces,
    labels_of,
    layout_of,
    link_label,
    pcap_kind,
    slices,
)
from traceflow.table import FROM_RESPONDER

__all__ = ["MAX_OPEN_FILES", "LiveFlowFiles"]

MAX_OPEN_FILES = 64
"""Files that are open at once unless said otherwise."""

_WRITE_OCTETS = 4 << 20
"""Captured octets in one write; a record takes up to eight times as many."""
_SAID = 10
"""Files that could not be written and are named; the others are counted."""
_COUNTED_NAMES = 4096
"""Names that came twice, and how often, so that the next suffix is found at once."""

_Dumper = dictdump.JSONDumper | dictdump.PLISTDumper | dictdump.TreeDumper | PCAPDumper


@dataclasses.dataclass(slots=True, eq=False)
class _File:
    """A file of a live flow."""

    label: str
    wanted: str  # its name, but for what makes it unique and the extension
    link: int
    name: str = ""
    kind: PcapKind | None = None
    dumper: _Dumper | None = None
    numbers: array.array[int] = dataclasses.field(default_factory=lambda: array.array("Q"))
    failed: bool = False

    def widen(self, kind: PcapKind) -> None:
        """Have frames of another source fit into a pcap file."""
        assert isinstance(self.dumper, PCAPDumper)
        self.dumper.widen(nanosecond=kind.nanosecond, snaplen=kind.snaplen)
        self.kind = kind


class LiveFlowFiles:
    """The per-flow files of one run. A context manager.

    Args:
        folder: Output folder; made where it does not exist.
        format: A name in `perflow.FORMATS`.
        by: `direction`, `flow`, or None: `perflow.DEFAULT_BY` of the format.
        overwrite: Replace the files of an earlier run: those that its index lists are removed in the end.
        outer: Records show the outermost packet of a tunnel: the `outer` of the Options of the run.
        max_open_files: Flow files open at once, at most. Besides them one temporary file is open.
        alarms_only: Remove the files of a flow when it ends and no plugin has raised the alarm on it.

    Raises:
        UsageError: An unknown format or `by`, or no file may be open.
        FileExists: The folder is a file, or holds files of an earlier run.
        CannotWriteError: The folder cannot be made or written.

    Attributes:
        written: Files of flows that have ended.
        frames_left_out: Frames that are in no file because one could not be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        format: str = "json",  # noqa: A002 - the name of the option
        by: str | None = None,
        overwrite: bool = False,
        outer: bool = False,
        max_open_files: int = MAX_OPEN_FILES,
        alarms_only: bool = False,
    ) -> None:
        if max_open_files < 1:
            raise UsageError(f"max_open_files is {max_open_files}; it must be at least 1")
        self._layout = layout_of(format, by)
        self._folder, self._overwrite, self._alarms_only = Path(folder), overwrite, alarms_only
        make_folder(self._folder)
        if not overwrite:
            refuse_earlier_run(self._folder, self._layout.extension)
        self._earlier = listed_files(self._folder) if overwrite else set()
        self._replaceable = self._names_there() if overwrite else set()
        self._entries = EntryStore(self._folder)
        self._frames = FrameGroups(by_direction=self._layout.by == "direction", outer=outer)
        self._live: dict[int, list[_File]] = {}
        self._open: OrderedDict[_File, None] = OrderedDict()
        self._most_open = max_open_files
        self._suffixes: OrderedDict[str, int] = OrderedDict()
        self._interfaces: Sequence[Interface] = ()
        self._said: list[str] = []
        self._failed_files = 0
        self.written = 0
        self.frames_left_out = 0

    def _names_there(self) -> set[str]:
        """Files of an earlier run, listed or not: their names may be taken."""
        try:
            with os.scandir(self._folder) as there:
                return {
                    entry.name
                    for entry in there
                    if entry.name.endswith(self._layout.extension)
                    and (entry.is_symlink() or entry.is_file())
                    and entry.name != INDEX_NAME
                }
        except OSError as error:
            reason = error.strerror or error
            raise CannotWriteError(f"{self._folder}: cannot read the output folder: {reason}") from error

    def take(self, step: Step, interfaces: Sequence[Interface]) -> None:
        """Write the frames of a step. What goes wrong with a file is in `problems`.

        Args:
            step: The step.
            interfaces: Where its frames come from; FRAME `interface` is an index into it.
        """
        self._interfaces = interfaces
        found = self._frames.frames_of(step)
        if found is not None:
            for group in self._frames.groups(found):
                self._write_group(group, found)
        if len(step.ended):
            ended = FlowSet(step.ended, FrameMap(), Account())
            ended.plugin_columns = step.columns
            for flow in ended:
                self._end(flow)

    # --- writing ------------------------------------------------------------------------------------------------

    def _write_group(self, group: Group, found: StepFrames) -> None:
        files = self._live.get(group.key)
        if files is None:
            files = self._live[group.key] = []
        if not self._layout.pcap:
            self._append(self._file_of(files, 0, group, found), group.places, found)
            return
        links = found.frames["link"][group.places]
        for link in dict.fromkeys(links.tolist()):
            self._append(self._file_of(files, link, group, found), group.places[links == link], found)

    def _file_of(self, files: list[_File], link: int, group: Group, found: StepFrames) -> _File:
        """The file of a link type; a new one, not yet made, where there is none. Of other formats link is 0."""
        for file in files:
            if file.link == link:
                return file
        if files:
            label = files[0].label
            if len(files) == 1:
                self._rename(files[0], link_label(label, files[0].link))
            files.append(_File(label, link_label(label, link), link))
            return files[-1]
        frame = found.frames[group.first]
        answer = self._layout.by == "flow" and bool(found.directions[group.first] & FROM_RESPONDER)
        times = int(frame["time_ns"]), int(frame["time_bits"])
        label = packet_label(found.ends[group.first], *times, answer=answer)
        files.append(_File(label, label, link))
        return files[0]

    def _append(self, file: _File, places: npt.NDArray[np.intp], found: StepFrames) -> None:
        """Write frames to their file, which the first of them make."""
        done = 0
        try:
            if not file.failed:
                for numbers, write in self._parts(file, places, found):
                    self._with_room(file, write)
                    file.numbers.frombytes(numbers.tobytes())
                    done += len(numbers)
        except CannotWriteError as error:
            self._give_up(file, error)
        finally:
            self.frames_left_out += len(places) - done

    def _parts(
        self, file: _File, places: npt.NDArray[np.intp], found: StepFrames
    ) -> Iterator[tuple[npt.NDArray[np.uint64], Callable[[], object]]]:
        """Some frames of a file at a time: their numbers, and what writes them."""
        frames = found.frames[places]
        kind = pcap_kind(frames, self._interfaces) if self._layout.pcap else None
        if file.dumper is None:
            self._with_room(file, lambda: self._make(file, kind))
        elif kind is not None and file.kind is not None and (wider := file.kind.with_more(kind)) != file.kind:
            self._with_room(file, lambda: file.widen(wider))
        dumper, kind = file.dumper, file.kind
        for start, stop in slices(frames["captured"], GROUP_FRAMES, _WRITE_OCTETS):
            rows, part = frames[start:stop], places[start:stop]
            numbers = found.numbers[part]
            if isinstance(dumper, PCAPDumper):
                assert kind is not None
                records = pcap_records(found.octets, rows, byteorder=kind.byteorder, nanosecond=kind.nanosecond)
                yield numbers, functools.partial(dumper.append_records, records)
            else:
                assert dumper is not None
                blocks = list(frame_blocks(numbers, found.octets, rows, found.packets[part], self._interfaces))
                yield numbers, functools.partial(dumper.append_all, blocks)

    def _with_room(self, file: _File, act: Callable[[], object]) -> None:
        """Do what opens a file, unless it is open: another one, which was not used for longest, makes room."""
        if file in self._open:
            self._open.move_to_end(file)
        else:
            self._shut_all_but(self._most_open - 1)
        try:
            act()
        except CannotWriteError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
            self._most_open = max(1, len(self._open) // 2)  # the system allows fewer than the user
            self._shut_all_but(self._most_open - 1)
            act()
        self._open[file] = None

    def _shut_all_but(self, left: int) -> None:
        while len(self._open) > left:
            self._shut(next(iter(self._open)))

    def _shut(self, file: _File) -> None:
        self._open.pop(file, None)
        if file.dumper is not None:
            file.dumper.close()

    def _make(self, file: _File, kind: PcapKind | None) -> None:
        """Make a file under its name, or under the first free one made from it."""

        def make(path: Path, overwrite: bool) -> None:
            if kind is None:
                dumper = dictdump.FORMATS[self._layout.format][0]
                file.dumper = dumper(path, overwrite=overwrite, keep_open=True, distinct=True)
                return
            pcap: dict[str, Any] = {"byteorder": kind.byteorder, "nanosecond": kind.nanosecond, "snaplen": kind.snaplen}
            file.dumper = PCAPDumper(path, protocol=file.link, overwrite=overwrite, keep_open=True, **pcap)

        file.name, file.kind = self._named(file.wanted, make), kind

    def _named(self, wanted: str, act: Callable[[Path, bool], None]) -> str:
        """Do something with a name, and where it is taken, with the next that is made from it. Returns the name."""
        count = self._suffixes.get(wanted, 0)
        while True:
            name = (f"{wanted}-{count}" if count else wanted) + self._layout.extension
            try:
                act(self._folder / name, name in self._replaceable)
                break
            except FileExists:
                count += 1
        self._replaceable.discard(name)
        if count:
            self._suffixes[wanted] = count + 1
            if len(self._suffixes) > _COUNTED_NAMES:
                self._suffixes.popitem(last=False)
        return name

    def _rename(self, file: _File, wanted: str) -> None:
        """Give a file another name; one that cannot be renamed is as good as one that cannot be written."""
        file.wanted = wanted
        if file.dumper is None or file.failed:
            return
        self._shut(file)
        self._shut_all_but(self._most_open - 1)
        try:
            file.name = self._named(wanted, file.dumper.rename)
        except CannotWriteError as error:
            self._give_up(file, error)

    def _give_up(self, file: _File, error: CannotWriteError) -> None:
        """Leave a file as it is; where it has no frames, it need not be there."""
        file.failed = True
        self._failed_files += 1
        if len(self._said) < _SAID:
            self._said.append(str(error))
        self._shut(file)
        if file.dumper is not None and not file.numbers:
            self._shut_all_but(self._most_open - 1)
            file.dumper.remove()
            file.dumper = None

    # --- the end of flows, and of all -----------------------------------------------------------------------------

    def _end(self, flow: Flow) -> None:
        """Put away what the index says of the files of a flow."""
        entries = []
        for side, label in labels_of(flow, self._layout.by):
            upper = side is not None and bool(flow.row["upper_originates"]) == (side == "orig")
            files = self._live.pop(flow.number << 1 | upper, [])
            for file in files:
                self._shut(file)
                if file.dumper is None:
                    continue
                if self._alarms_only and not flow.alarm:
                    self._shut_all_but(self._most_open - 1)
                    file.dumper.remove()
                    continue
                wanted = label if len(files) == 1 else link_label(label, file.link)
                if wanted != file.wanted:
                    self._rename(file, wanted)
                entries.append(index_entry(flow, file.name, label, side, file.numbers.tolist()))
        if entries:
            self._entries.add(flow.number, ENTRY_SEPARATOR.join(entries))
            self.written += len(entries)

    def problems(self) -> list[str]:
        """What makes the files incomplete, a line each."""
        more, live = self._failed_files - len(self._said), sum(map(len, self._live.values()))
        counted = (
            (more, "more files could not be written"),
            (self.frames_left_out, "frames are in no file because it could not be written"),
            (self._frames.lost, "late fragments are in no file because their octets were no longer kept"),
            (self._entries.lost, "flows are not listed in the index because the disk was full"),
            (live, "files are not listed in the index because their flow had not ended"),
        )
        return [*self._said, *(f"{self._folder}: {count} {text}" for count, text in counted if count)]

    def finish(self, account: Account, errors: Iterable[BaseException] = ()) -> int:
        """Write `index.json`. It says what is missing.

        Args:
            account: Of the run.
            errors: What else made the files incomplete: errors of the source, and the like.

        Returns:
            How many flow files were written.

        Raises:
            FileExists: Somebody else has made an index meanwhile.
            CannotWriteError: The disk is full, or the like. The flow files stay.
        """
        self._shut_all_but(0)
        missing = [*(str(error) or type(error).__name__ for error in errors), *self.problems()]
        if account.interrupted:
            missing.append(INTERRUPTED)
        index = self._folder / INDEX_NAME
        try:
            pieces = index_pieces(account, self._interfaces, missing, self._entries.in_order())
            write_whole(index, pieces, overwrite=self._overwrite)
        except FileExists:
            raise
        except CannotWriteError:
            held = self._entries.into_memory()
            if held is None:
                raise
            write_whole(index, index_pieces(account, self._interfaces, missing, held), overwrite=self._overwrite)
        remove_files(self._folder, self._earlier & self._replaceable)
        return self.written

    def close(self) -> None:
        """Close what is open, and give the temporary file back."""
        self._shut_all_but(0)
        self._entries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
