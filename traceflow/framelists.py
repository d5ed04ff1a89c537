"""Which frame belongs to which flow, kept in eight octets a frame at most, and the frame list of each flow.

While frames come, four octets a frame are kept: flow number and one bit for the sender (eight where there are more
than 2**31 flows). When the first list is asked for, a counting sort makes the compact form: one array with all
frame numbers, flow by flow in ascending order, and one with offsets into it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel

__all__ = ["FrameMap"]

_CHUNK = 1 << 20
_NARROW_FLOWS = 2**31 - 1  # flow number and one bit in 32


@kernel
def _pack(marks: Any, upper_bit: Any, packed: Any, at: Any) -> Any:
    """Write flow number and sender of marks into packed[at:]. A frame without a flow is 0. Returns the highest flow."""
    highest = U64(0)
    for i in range(len(marks)):
        mark = marks[U64(i)]
        upper = U64(1) if U64(mark["direction"]) & U64(upper_bit) else U64(0)
        highest = max(highest, U64(mark["flow"]))
        packed[U64(at + i)] = (U64(mark["flow"]) << U64(1)) | upper
    return highest


@kernel
def _count(packed: Any, sizes: Any) -> Any:
    """Count the frames of each flow: sizes[number] for number >= 1, sizes[0] for none."""
    for i in range(len(packed)):
        sizes[U64(packed[U64(i)]) >> U64(1)] += U64(1)


@kernel
def _place(packed: Any, first_number: Any, cursors: Any, numbers: Any) -> Any:
    """Write each frame number where the cursor of its flow stands, and move the cursor on."""
    for i in range(len(packed)):
        flow = U64(packed[U64(i)]) >> U64(1)
        if flow != U64(0):
            numbers[cursors[flow]] = U64(first_number + i)
            cursors[flow] += U64(1)


class FrameMap:
    """Grows with `add`, one batch after the other; answers in both directions.

    Frame numbers and flow numbers start at 1.
    """

    def __init__(self) -> None:
        self._chunks: list[npt.NDArray[Any]] = []
        self._used = _CHUNK
        self._lists: tuple[npt.NDArray[np.uint64], npt.NDArray[Any]] | None = None
        self.frames = 0
        """Frames added."""
        self.flows = 0
        """Highest flow number seen."""

    def add(self, marks: npt.NDArray[np.void], upper_bit: int) -> None:
        """Add the next frames.

        Args:
            marks: MARK[m] of `table.py`, for frames `frames + 1` and on.
            upper_bit: The bit of `direction` to keep.
        """
        self._lists = None
        done = 0
        while done < len(marks):
            if self._used == _CHUNK:
                self._open_chunk()
            take = min(len(marks) - done, _CHUNK - self._used)
            highest = int(_pack(marks[done : done + take], upper_bit, self._chunks[-1], self._used))
            self.flows = max(self.flows, highest)
            if self.flows > _NARROW_FLOWS and self._chunks[-1].dtype == np.uint32:
                self._open_chunk()  # for these once more, as they may have been cut off
                continue
            self._used += take
            done += take
        self.frames += len(marks)

    def _open_chunk(self) -> None:
        """Have an empty chunk behind the frames that were added."""
        self._chunks = [*self._filled(), np.empty(_CHUNK, np.uint32 if self.flows <= _NARROW_FLOWS else np.uint64)]
        self._used = 0

    def amend(self, late: npt.NDArray[np.void], upper_bit: int) -> None:
        """Enter frames that were added without a flow.

        Args:
            late: LATE[m] of `table.py`.
            upper_bit: The bit of `direction` to keep.
        """
        self._lists = None
        starts = np.cumsum([0] + [len(chunk) for chunk in self._filled()])
        for number, flow, direction in late[["number", "flow", "direction"]].tolist():
            at = int(np.searchsorted(starts, number - 1, side="right")) - 1
            packed = flow << 1 | (direction & upper_bit != 0)
            if packed > np.iinfo(self._chunks[at].dtype).max:
                self._chunks[at] = self._chunks[at].astype(np.uint64)
            self._chunks[at][number - 1 - starts[at]] = packed
            self.flows = max(self.flows, flow)

    def _filled(self) -> list[npt.NDArray[Any]]:
        return [*self._chunks[:-1], self._chunks[-1][: self._used]] if self._chunks else []

    def lists(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]:
        """The frame lists of all flows in the compact form.

        Returns:
            (offsets, numbers): the frames of flow n are `numbers[offsets[n - 1]:offsets[n]]`, ascending.
            offsets is uint64[flows + 1]; numbers is uint32, or uint64 for more than 2**32 - 1 frames.
        """
        if self._lists is None:
            sizes = np.zeros(self.flows + 1, np.uint64)
            for chunk in self._filled():
                _count(chunk, sizes)
            sizes[0] = 0
            offsets = np.cumsum(sizes, dtype=np.uint64)
            cursors = np.concatenate([np.zeros(1, np.uint64), offsets[:-1]])
            numbers = np.empty(int(offsets[-1]), np.uint32 if self.frames < 2**32 else np.uint64)
            first = 1
            for chunk in self._filled():
                _place(chunk, first, cursors, numbers)
                first += len(chunk)
            self._lists = offsets, numbers
        return self._lists

    def frames_of(self, flow: int) -> npt.NDArray[Any]:
        """Frame numbers of a flow, ascending.

        Args:
            flow: Flow number, from 1.
        """
        offsets, numbers = self.lists()
        if not 1 <= flow <= self.flows:
            return numbers[:0]
        return numbers[int(offsets[flow - 1]) : int(offsets[flow])]

    def frames_and_sides_of(self, flow: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Frame numbers of a flow, and for each whether the upper end of the key sent it."""
        frames = self.frames_of(flow)
        return frames, self.packed(frames) & 1 != 0

    def packed(self, frames: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """Flow number * 2 + sender (1: the upper end) of some frames; 0 for a frame without a flow.

        Args:
            frames: Frame numbers, from 1, at most `frames`.
        """
        result = np.empty(len(frames), np.uint64)
        chunks = self._filled()
        starts = np.cumsum([0] + [len(chunk) for chunk in chunks])
        index = frames.astype(np.int64) - 1
        which = np.searchsorted(starts, index, side="right") - 1
        for number in np.unique(which).tolist():
            here = which == number
            result[here] = chunks[number][index[here] - starts[number]]
        return result

    def flow_of(self, frame: int) -> int:
        """Flow number of a frame, 0 where it belongs to none."""
        return int(self.packed(np.array([frame]))[0]) >> 1
