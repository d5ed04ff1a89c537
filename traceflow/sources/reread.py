"""Fetching frames again: the writers come back for the octets of the frames of each flow.

What lives here: the few open handles, and the order in which they are read. Frames of one flow lie scattered over
a file, so neighbours are fetched in one read and then sorted out by a kernel.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel, put_octets
from traceflow.errors import CannotReadError, UsageError
from traceflow.sources.inputs import Input, Spool, open_path

__all__ = ["Rereader"]

HANDLES_MAX = 8
"""Read handles held at once; the one unused for longest is closed first."""

_GAP_OCTETS = 16 * 1024
"""Frames nearer than this are fetched together: copying 16 KiB from the page cache costs about as much as a call."""

_RUN_OCTETS = 1 << 20
"""A read begins anew at each multiple of this offset, which bounds the scratch buffer."""

_START_MAX = 2**32 - 1


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
        run_rows, view = rows.take(order), octets.data  # an index would go field by field
        runs = _runs(run_rows["offset"], captured[order], sources[order])
        firsts = np.array([first for first, _ in runs], np.intp)
        heads, indexes = run_rows.take(firsts).tolist(), sources[order[firsts]].tolist()
        offset_at, start_at, captured_at = map(list(rows.dtype.names or ()).index, ("offset", "start", "captured"))
        for (first, behind), head, index in zip(runs, heads, indexes, strict=True):
            given, low = self._inputs[index], head[offset_at]
            if behind == first + 1:
                self._read_at(given, low, view[head[start_at] : head[start_at] + head[captured_at]])
                continue
            run = run_rows[first:behind]
            self._read_at(given, low, self._scratch_of(int((run["offset"] + run["captured"]).max()) - low))
            scatter(self._scratch, U64(low), run, octets)
        return octets, rows

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


def _runs(
    offsets: npt.NDArray[np.uint64], captured: npt.NDArray[np.uint64], sources: npt.NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Cut frames, sorted by source and offset, into runs that are each fetched by one read.

    Returns:
        (first, behind) of each run.
    """
    if not len(offsets):
        return []
    far = offsets[1:] > offsets[:-1] + captured[:-1] + U64(_GAP_OCTETS)
    blocks = offsets // U64(_RUN_OCTETS)
    cuts = np.flatnonzero(far | (blocks[1:] != blocks[:-1]) | (sources[1:] != sources[:-1])) + 1
    edges = [0, *cuts.tolist(), len(offsets)]
    return list(itertools.pairwise(edges))


@kernel
def scatter(scratch: Any, low: Any, run: Any, octets: Any) -> None:
    """Copy frames from where they were fetched to where they belong.

    Args:
        scratch: uint8[a], octets of the file from offset `low` on.
        low: uint64, see above.
        run: FRAME[k], all of it inside scratch.
        octets: uint8[n], each frame goes to its `start`.
    """
    for k in range(run.shape[0]):
        row = run[U64(k)]
        put_octets(octets, U64(row["start"]), scratch, U64(row["offset"]) - low, U64(row["captured"]))
