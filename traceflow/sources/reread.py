"""Fetching frames again: the writers come back for the octets of the frames of each flow.

What lives here: the few open handles, and the order in which they are read. Frames of one flow lie scattered over
a file, so neighbours are fetched in one read and then sorted out by a kernel.

Where it can, the kernel reads as well: 14 000 reads that each give up the interpreter lock and wait for it took twice
their time while another thread made files. What goes wrong there is read once more from Python, which can say why.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel, put_octets, system_function, system_has
from traceflow.errors import CannotReadError, UsageError
from traceflow.sources.inputs import Input, Spool, open_path

__all__ = ["Rereader"]

HANDLES_MAX = 8
"""Read handles held at once; the one unused for longest is closed first."""

_GAP_OCTETS = 16 * 1024
"""Frames nearer than this are fetched together: copying 16 KiB from the page cache costs about as much as a call."""

_RUN_OCTETS = 1 << 20
"""A read begins anew at each multiple of this offset, which bounds the scratch buffer."""

_SCRATCH_OCTETS = 2 * _RUN_OCTETS
"""For a run and the frame that ends it; a larger one is read from Python."""

_START_MAX = 2**32 - 1

CALLED = system_has("pread")
"""Whether `fetch_runs` can be called."""
_pread = system_function("pread", np.int64, np.int32, np.uint64, np.uint64, np.int64)


class Rereader:
    """Reads the captured octets of frames that were seen before."""

    def __init__(self, inputs: list[Input], spool: Spool) -> None:
        """Note where the inputs are; nothing is opened.

        Args:
            inputs: In the order of `source_index`.
            spool: Holds what was kept of pipes and compressed captures.
        """
        self._inputs = inputs
        self._spool = spool
        self._handles: OrderedDict[int, BinaryIO] = OrderedDict()
        self._scratch = np.empty(0, np.uint8)

    def fetch(
        self, frames: npt.NDArray[np.void], sources: npt.NDArray[np.int64], room: npt.NDArray[np.uint8] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Read frames into one buffer, one behind the other in the order given.

        Args:
            frames: FRAME[m], any order, any files, repeats allowed.
            sources: int64[m], the input of each.
            room: uint8[...] to use as the buffer, as far as it is large enough.

        Returns:
            uint8[n] and FRAME[m], a copy with `start` set into it.

        Raises:
            CannotReadError: A file is gone, was replaced or has become shorter.
            UsageError: The frames have 4 GiB or more, or come from what cannot be read twice and was not kept.
        """
        rows = frames.copy()
        captured = rows["captured"].astype(np.uint64)
        ends = np.cumsum(captured, dtype=np.uint64)
        total = int(ends[-1]) if len(ends) else 0
        if total > _START_MAX:
            raise UsageError(f"the frames have {total} octets together, more than {_START_MAX}: ask for fewer at once")
        rows["start"] = ends - captured
        octets = np.empty(total, np.uint8) if room is None or len(room) < total else room[:total]
        order = np.lexsort((rows["offset"], sources))
        run_rows = rows.take(order)  # an index would go field by field
        edges = _edges(run_rows["offset"], captured[order], sources[order])
        indexes = sources[order[edges[:-1].astype(np.intp)]]
        at = 0
        while at < len(indexes):
            at = self._call(run_rows, edges, indexes, at, octets)
            if at < len(indexes):
                self._fetch_run(self._inputs[indexes[at]], run_rows[int(edges[at]) : int(edges[at + 1])], octets)
                at += 1
        return octets, rows

    def _call(
        self,
        run_rows: npt.NDArray[np.void],
        edges: npt.NDArray[np.uint64],
        indexes: npt.NDArray[np.int64],
        at: int,
        octets: npt.NDArray[np.uint8],
    ) -> int:
        """Have the kernel read runs of one file, from number `at` on. Returns the first that it has not read."""
        given = self._inputs[indexes[at]]
        if not CALLED or given.path is None or given.spooled_at is not None or not given.rereadable:
            return at
        others = np.flatnonzero(indexes[at:] != indexes[at])
        behind = at + int(others[0]) if len(others) else len(indexes)
        if len(self._scratch) < _SCRATCH_OCTETS:
            self._scratch = np.empty(_SCRATCH_OCTETS, np.uint8)
        handle = np.int32(self._handle_of(given, given.path).fileno())
        return at + int(fetch_runs(handle, run_rows, edges[at : behind + 1], self._scratch, octets))

    def _fetch_run(self, given: Input, run: npt.NDArray[np.void], octets: npt.NDArray[np.uint8]) -> None:
        """Read a run from Python."""
        low = int(run["offset"][0])
        if len(run) == 1:
            start = int(run["start"][0])
            self._read_at(given, low, octets.data[start : start + int(run["captured"][0])])
            return
        self._read_at(given, low, self._scratch_of(int((run["offset"] + run["captured"]).max()) - low))
        scatter(self._scratch, U64(low), run, octets)

    def _scratch_of(self, length: int) -> memoryview:
        """The first octets of the scratch buffer, made larger where it is too small for them."""
        if length > len(self._scratch):
            self._scratch = np.empty(length, np.uint8)
        return self._scratch.data[:length]

    def _read_at(self, given: Input, offset: int, view: memoryview) -> None:
        """Fill a view with the octets of an input from an offset on."""
        handle, position = self._place(given, offset)
        borrowed = handle is given.handle and given.path is None
        try:
            before = handle.tell() if borrowed else 0
            handle.seek(position)
            got = 0
            while got < len(view):
                step = handle.readinto(view[got:] if got else view)  # type: ignore[attr-defined]
                if not step:
                    break
                got += step
            if borrowed:
                handle.seek(before)
        except (OSError, ValueError, EOFError) as error:
            text = f"{given.name}: cannot be read again: {error}; leave it in place until the end"
            raise CannotReadError(text) from error
        if got < len(view):
            raise CannotReadError(
                f"{given.name}: at offset {offset}: the file has become shorter since it was traced "
                f"(needed {len(view)} octets, had {got}); trace it again when nothing writes to it"
            )

    def _place(self, given: Input, offset: int) -> tuple[BinaryIO, int]:
        """The open file that holds an octet of an input, and its position there."""
        if given.spooled_at is not None:
            return self._spool.handle, given.spooled_at + offset - given.base
        if not given.rereadable:
            raise UsageError(f"{given.name}: {given.kind} cannot be read twice; open it with keep=True, or give a file")
        if given.path is None:
            assert given.handle is not None
            return given.handle, offset
        return self._handle_of(given, given.path), offset

    def _handle_of(self, given: Input, path: str) -> BinaryIO:
        """A read handle of a path, opened again where it was closed meanwhile."""
        handle = self._handles.get(given.index)
        if handle is None:
            if len(self._handles) >= HANDLES_MAX:
                self._handles.popitem(last=False)[1].close()
            handle = open_path(path, given.name)
            status = os.fstat(handle.fileno())
            if (status.st_dev, status.st_ino) != given.identity:
                handle.close()
                raise CannotReadError(
                    f"{given.name}: another file has taken its place since it was traced; trace it again"
                )
            self._handles[given.index] = handle
        self._handles.move_to_end(given.index)
        return handle

    def close(self) -> None:
        """Close all handles."""
        while self._handles:
            self._handles.popitem()[1].close()


def _edges(
    offsets: npt.NDArray[np.uint64], captured: npt.NDArray[np.uint64], sources: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Cut frames, sorted by source and offset, into runs that are each fetched by one read.

    Returns:
        uint64[k + 1]: where each of the k runs begins, and the end of the last.
    """
    if not len(offsets):
        return np.zeros(1, np.uint64)
    far = offsets[1:] > offsets[:-1] + captured[:-1] + U64(_GAP_OCTETS)
    blocks = offsets // U64(_RUN_OCTETS)
    cuts = np.flatnonzero(far | (blocks[1:] != blocks[:-1]) | (sources[1:] != sources[:-1])) + 1
    return np.concatenate([[0], cuts, [len(offsets)]]).astype(np.uint64)


@inline_kernel
def _scatter(scratch: Any, low: Any, run: Any, first: Any, behind: Any, octets: Any) -> Any:
    for k in range(first, behind):
        row = run[U64(k)]
        put_octets(octets, U64(row["start"]), scratch, U64(row["offset"]) - low, U64(row["captured"]))


@kernel
def scatter(scratch: Any, low: Any, run: Any, octets: Any) -> None:
    """Copy frames from where they were fetched to where they belong.

    Args:
        scratch: uint8[a], octets of the file from offset `low` on.
        low: uint64, see above.
        run: FRAME[k], all of it inside scratch.
        octets: uint8[n], each frame goes to its `start`.
    """
    _scatter(scratch, low, run, U64(0), U64(run.shape[0]), octets)


@inline_kernel
def _read_whole(handle: Any, target: Any, start: Any, count: Any, offset: Any) -> Any:
    """Read octets of a file into target[start:]. False where they do not fit, or are not all there."""
    if count > U64(target.shape[0]) or start > U64(target.shape[0]) - count:
        return False
    got = U64(0)
    while got < count:
        step = _pread(handle, U64(target.ctypes.data) + start + got, count - got, np.int64(offset + got))
        if step <= 0:
            return False
        got += U64(step)
    return True


@kernel
def fetch_runs(handle: Any, rows: Any, edges: Any, scratch: Any, octets: Any) -> Any:
    """Read runs of frames from a file, each by one read, and copy frames to where they belong.

    Args:
        handle: int32, the file.
        rows: FRAME[m], sorted by offset.
        edges: uint64[k + 1], where runs begin in `rows`, see `_edges`.
        scratch: uint8[...], for a run at a time.
        octets: uint8[n], each frame goes to its `start`.

    Returns:
        How many runs were read. The next one is larger than `scratch`, or cannot be read.
    """
    for r in range(edges.shape[0] - 1):
        first, behind = edges[U64(r)], edges[U64(r + 1)]
        row = rows[first]
        low = U64(row["offset"])
        if behind == first + U64(1):
            if not _read_whole(handle, octets, U64(row["start"]), U64(row["captured"]), low):
                return r
            continue
        high = low
        for k in range(first, behind):
            high = max(high, U64(rows[U64(k)]["offset"]) + U64(rows[U64(k)]["captured"]))
        if not _read_whole(handle, scratch, U64(0), high - low, low):
            return r
        _scatter(scratch, low, rows, first, behind, octets)
    return edges.shape[0] - 1
