"""Frames are read again for files group by group, and those of the next group while the files of one are written.

A group is what fits into memory together; of a file whose frames do not fit, one part after the other. Reading gives
up the interpreter lock, in the system and in the kernel that sorts frames out. One thread does all of it, because
captures have one set of handles.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.decode import decode_batch
from traceflow.packets import FRAME, PACKET
from traceflow.sinks.catalog import Output
from traceflow.sinks.perflow import GROUP_OCTETS, frame_blocks, slices
from traceflow.sources import Captures

__all__ = ["Group", "Loaded", "ReadAhead"]


_AHEAD = 1
"""Groups that are read, or being read, when one is given."""


class Loaded:
    """Frames read again: their numbers, rows and octets; and decoded, when asked for.

    Args:
        rows: FRAME of every frame, by number.
        captures: Where they were read.
        numbers: uint[m], numbers of the frames.
        outer: As in `decode_batch`.
        room: See `Captures.reread`.
    """

    def __init__(
        self,
        rows: npt.NDArray[np.void],
        captures: Captures,
        numbers: npt.NDArray[Any],
        *,
        outer: bool,
        room: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        self.numbers, self._outer = numbers, outer
        self.octets, self.frames = captures.reread(rows.take(numbers.astype(np.intp) - 1), room)
        self._packets: npt.NDArray[np.void] | None = None

    @property
    def packets(self) -> npt.NDArray[np.void]:
        """PACKET rows of the frames."""
        if self._packets is None:
            self._packets = decode_batch(
                self.octets, self.frames, np.zeros(len(self.frames), PACKET), outer=self._outer
            )
        return self._packets

    def blocks(self, captures: Captures) -> Iterator[tuple[str, dict[str, Any]]]:
        """Block name and record of each frame."""
        return frame_blocks(self.numbers, self.octets, self.frames, self.packets, captures.interfaces)

    def part(self, start: int, stop: int) -> Loaded:
        """Some of the frames."""
        part = object.__new__(Loaded)
        part.numbers, part.octets = self.numbers[start:stop], self.octets
        part.frames, part._packets, part._outer = self.frames[start:stop], None, self._outer
        return part


@dataclass(frozen=True, slots=True)
class Group:
    """Files to write, and their frames.

    Attributes:
        outputs: The files; one, where its frames do not fit into memory together.
        whole: The frames are one part.
        parts: The frames, each part read when it is asked for at the latest, and good until the next part or the next
            group but one. Raises what reading raised.
    """

    outputs: list[Output]
    whole: bool
    parts: Iterator[Loaded]


class ReadAhead:
    """Reads frames again for files.

    Args:
        rows: FRAME of every frame, by number.
        captures: Where they were read.
        most_frames: Frames in memory at once, as long as one file has not more; twice as many with those of the next
            group, and the same of GROUP_OCTETS.
        outer: As in `decode_batch`.
    """

    def __init__(self, rows: npt.NDArray[np.void], captures: Captures, most_frames: int, *, outer: bool) -> None:
        self._rows, self._captures, self._most_frames, self._outer = rows, captures, most_frames, outer
        self._rooms = deque(np.empty(0, np.uint8) for _ in range(_AHEAD + 1))
        self._thread = ThreadPoolExecutor(1, "traceflow-reading")

    def groups(self, outputs: Iterator[Output]) -> Iterator[Group]:
        """Groups of files; when one is given, reading the next has begun."""
        begun: deque[Group] = deque()
        for some in self._grouped(outputs):
            begun.append(self._begin(some))
            if len(begun) > _AHEAD:
                yield begun.popleft()
        yield from begun

    def _grouped(self, outputs: Iterator[Output]) -> Iterator[list[Output]]:
        """Outputs whose frames fit into memory together; a larger one alone."""
        group: list[Output] = []
        frames = octets = 0
        for output in outputs:
            if group and (frames + len(output.numbers) > self._most_frames or octets + output.octets > GROUP_OCTETS):
                yield group
                group, frames, octets = [], 0, 0
            group.append(output)
            frames += len(output.numbers)
            octets += output.octets
        if group:
            yield group

    def _begin(self, outputs: list[Output]) -> Group:
        numbers = np.concatenate([output.numbers for output in outputs])
        octets = sum(output.octets for output in outputs)
        places = [(0, len(numbers))]
        if len(numbers) > self._most_frames or octets > GROUP_OCTETS:
            captured = self._rows["captured"][numbers.astype(np.intp) - 1]
            places = list(slices(captured, self._most_frames, GROUP_OCTETS))
        room = self._room(octets if len(places) == 1 else GROUP_OCTETS)
        loads = [functools.partial(self._load, numbers[start:stop], room) for start, stop in places]
        return Group(outputs, len(places) == 1, self._parts(self._thread.submit(loads[0]), loads[1:]))

    def _parts(self, first: Future[Loaded], later: Sequence[Callable[[], Loaded]]) -> Iterator[Loaded]:
        """The part that is being read, and the others, each read when it is asked for."""
        yield first.result()
        for load in later:
            yield self._thread.submit(load).result()

    def _room(self, octets: int) -> npt.NDArray[np.uint8]:
        """Memory for a group; that of the one before stays as it is."""
        self._rooms.rotate()
        if octets > len(self._rooms[0]):
            self._rooms[0] = np.empty(octets + octets // 4, np.uint8)
        return self._rooms[0]

    def _load(self, numbers: npt.NDArray[Any], room: npt.NDArray[np.uint8]) -> Loaded:
        return Loaded(self._rows, self._captures, numbers, outer=self._outer, room=room)

    def close(self) -> None:
        """Wait for what is being read, end the thread, and let the rows go."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._rows = np.zeros(0, FRAME)
