"""One ring of packets: one writer, many readers, and every packet in it once, however many readers want it.

The ring numbers the packets that it stores: 1, 2, 3, ... (their *places*). Its oldest packets make room for new ones:
`tail` is the oldest one that is there. A Stream is what one selection let through, as a list of places; a Reader is one
or more ranges in the list of a Stream, and nothing else. So a batch costs one copy of each packet that anybody wants
and one array of places for each distinct selection, and a reader costs nothing until it reads: what it has lost is
found when it looks, because places only grow.

- Fast readers (`overwrite`): new packets overwrite the oldest, and each reader counts what it had not read.
- Slow readers (`drop`): a packet that an active reader has not read stays; new ones that find no room are dropped, and
  each reader that wanted them counts them. A reader that is paused or closed holds nothing.

Nothing here locks: whoever owns the ring has one thread at a time in it.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, copy_octets, kernel
from traceflow.errors import UsageError, suggest
from traceflow.filters.contract import Selection
from traceflow.grabbing.grabbed import NOTE, Packets
from traceflow.live import as_octets
from traceflow.packets import FRAME, PACKET, Batch

__all__ = ["MODES", "Reader", "Ring", "Stream"]

MODES: Final = ("overwrite", "drop")
"""What becomes of new packets when the ring is full: fast-reader mode, slow-reader mode."""

_OCTETS_MAX = 2**32 - 1  # FRAME `start` has 32 bits
_PACKETS_MAX = 2**26  # 16 GiB of rows
_ALL = np.uint64(2**32)  # in `need`: the whole packet; lengths are stored plus one there, 0 is a packet nobody wants

_RING = np.dtype(
    [
        ("head", "u8"),  # place of the next packet
        ("tail", "u8"),  # place of the oldest one
        ("end", "u8"),  # octets written so far, with those left free before the ring begins anew
        ("hold", "u8"),  # the oldest place that must stay
    ],
    align=True,
)
_NOTE = np.dtype([("at", "u8"), ("octets", "u8"), ("number", "u8"), ("flow", "u8"), ("device", "u8")], align=True)


@kernel
def _store(ring: Any, octets: Any, notes: Any, source: Any, frames: Any, need: Any, places: Any) -> Any:
    """Store the packets of a batch that somebody wants.

    Args:
        ring: _RING[1].
        octets: uint8[n] of the ring.
        notes: _NOTE[p] of the ring; `at` and `octets` are filled in.
        source: uint8[s], the octets of the batch.
        frames: FRAME[m].
        need: uint64[m], octets wanted of each, plus one; 0: none.
        places: uint64[m], filled with the place of each that was stored, 0 for those that were not.

    Returns:
        How many were dropped.
    """
    state = ring[U64(0)]
    room, slots = U64(len(octets)), U64(len(notes))
    dropped = U64(0)
    for i in range(len(frames)):
        place = U64(0)
        wanted = need[U64(i)]
        if wanted != U64(0):
            frame = frames[U64(i)]
            size = min(wanted - U64(1), U64(frame["captured"]))
            begin = U64(state["end"])
            left = room - begin % room
            if left < size:  # a packet lies in one piece
                begin += left
            # the oldest ones go until a row and the octets are free
            while size <= room and state["tail"] < state["head"] and state["tail"] < state["hold"]:
                oldest = notes[U64(state["tail"]) % slots]
                if U64(state["head"]) - U64(state["tail"]) < slots and U64(oldest["at"]) + room >= begin + size:
                    break
                state["tail"] = U64(state["tail"]) + U64(1)
            free = size <= room
            if free and state["tail"] < state["head"]:
                oldest = notes[U64(state["tail"]) % slots]
                free = U64(state["head"]) - U64(state["tail"]) < slots and U64(oldest["at"]) + room >= begin + size
            if free and copy_octets(octets, begin % room, source, U64(frame["start"]), size):
                place = U64(state["head"])
                note = notes[place % slots]
                note["at"] = begin
                note["octets"] = size
                state["head"] = place + U64(1)
                state["end"] = begin + size
            else:
                dropped += U64(1)
        places[U64(i)] = place
    return dropped


@kernel
def _gather(octets: Any, at: Any, sizes: Any, target: Any) -> Any:
    """Copy packets of the ring, one behind the other.

    Args:
        octets: uint8[n] of the ring.
        at: uint64[k], where each begins.
        sizes: uint64[k], octets wanted of each.
        target: uint8[sum of sizes].

    Returns:
        Whether all of them lay within both arrays.
    """
    behind = U64(0)
    for i in range(len(at)):
        if not copy_octets(target, behind, octets, at[U64(i)], sizes[U64(i)]):
            return False
        behind += sizes[U64(i)]
    return True


class _Chunk(NamedTuple):
    """What a stream got of one batch: the number of its first entry, places, and limits where there are any."""

    first: int
    places: npt.NDArray[np.uint64]
    limits: npt.NDArray[np.uint32] | None


class Stream:
    """The packets that one selection let through, as places in the ring. Made by `Ring.stream`.

    Attributes:
        behind: Entries so far.
        dropped: Packets that found no room.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.behind = 0
        self.dropped = 0
        self._chunks: deque[_Chunk] = deque()
        self._first, self._first_tail = 0, 0

    def append(self, places: npt.NDArray[np.uint64], limits: npt.NDArray[np.uint32] | None) -> None:
        """Add the packets of a batch. For the ring.

        Args:
            places: uint64[k], 0 for what was dropped.
            limits: uint32[k], as in Selection.
        """
        if self._ring.dropping:
            kept = places != 0
            stored = int(np.count_nonzero(kept))
            self.dropped += len(places) - stored
            places, limits = places[kept], None if limits is None else limits[kept]
        elif limits is not None:
            limits = limits.copy()
        if len(places):
            self._chunks.append(_Chunk(self.behind, places, limits))
            self.behind += len(places)
        if len(self._chunks) > 1:
            self._forget()

    def _forget(self) -> None:
        tail, chunks = self._ring.tail, self._chunks
        while chunks and chunks[0].places[-1] < tail:
            chunks.popleft()

    @property
    def first(self) -> int:
        """The oldest entry whose packet is still there; `behind` where there is none."""
        tail = self._ring.tail
        if self._first_tail != tail or self._first == self.behind:
            self._forget()
            self._first_tail, self._first = tail, self.behind
            if self._chunks:
                chunk = self._chunks[0]
                self._first = chunk.first + int(np.searchsorted(chunk.places, np.uint64(tail)))
        return self._first

    def parts(self, begin: int, behind: int) -> Iterator[tuple[npt.NDArray[np.uint64], Any]]:
        """Places and limits of some entries that are still there, part by part."""
        at = bisect.bisect_right(self._chunks, begin, key=lambda chunk: chunk.first) - 1
        while begin < behind:
            chunk = self._chunks[at]
            some = slice(begin - chunk.first, behind - chunk.first)
            yield chunk.places[some], None if chunk.limits is None else chunk.limits[some]
            begin = chunk.first + len(chunk.places)
            at += 1


class Reader:
    """One who reads a stream. Made by `Ring.reader`; it is given nothing before `activate`.

    Attributes:
        taken: Packets that it has read.
        active: Whether it is given packets.
    """

    def __init__(self, ring: Ring, stream: Stream) -> None:
        self._ring, self._stream = ring, stream
        self._ranges: deque[list[int]] = deque()  # the last one goes on while it is active
        self._lost = self._dropped = 0
        self._dropped_before = 0
        self.taken = 0
        self.active = False

    def activate(self) -> None:
        """From now on it is given what the stream gets."""
        if not self.active:
            self.active = True
            self._ranges.append([self._stream.behind, self._stream.behind])
            self._dropped_before = self._stream.dropped

    def pause(self) -> None:
        """From now on it is given nothing. What it has not read yet it can still read, but nothing waits for that."""
        if self.active:
            self._look()
            self._dropped += self._stream.dropped - self._dropped_before
            self.active = False
            if self._ranges[-1][0] == self._ranges[-1][1]:
                self._ranges.pop()

    def close(self) -> None:
        """Give up all that was not read."""
        self.pause()
        self._ranges.clear()

    def _look(self) -> None:
        """Bring the ranges up to date: what has come, and what is lost."""
        ranges, first = self._ranges, self._stream.first
        if self.active:
            ranges[-1][1] = self._stream.behind
        while ranges and ranges[0][0] < first:
            begin, behind = ranges[0]
            self._lost += min(first, behind) - begin
            ranges[0][0] = min(first, behind)
            if not self._drop_if_read():
                break

    def _drop_if_read(self) -> bool:
        """Drop the first range where all of it was read; the one that goes on stays."""
        begin, behind = self._ranges[0]
        if begin < behind or (self.active and len(self._ranges) == 1):
            return False
        self._ranges.popleft()
        return True

    @property
    def waiting(self) -> int:
        """Packets that it can read now."""
        self._look()
        return sum(behind - begin for begin, behind in self._ranges)

    @property
    def lost(self) -> int:
        """Packets that were overwritten before it read them."""
        self._look()
        return self._lost

    @property
    def dropped(self) -> int:
        """Packets that it would have been given, had there been room."""
        return self._dropped + (self._stream.dropped - self._dropped_before if self.active else 0)

    @property
    def oldest(self) -> int | None:
        """Place of the oldest packet that it can read; None: none."""
        return self._place(0) if self.waiting else None

    def time_ns(self, at: int) -> int:
        """Time stamp of a packet that it can read, the first one for 0."""
        self._look()
        return self._ring.time_ns(self._place(at))

    def _place(self, at: int) -> int:
        for begin, behind in self._ranges:
            if at < behind - begin:
                return int(next(self._stream.parts(begin + at, begin + at + 1))[0][0])
            at -= behind - begin
        raise IndexError(at)

    def take(self, most: int) -> Packets:
        """Read the next packets.

        Args:
            most: How many at most.
        """
        self._look()
        found: list[tuple[npt.NDArray[np.uint64], Any]] = []
        left = most
        while left and self._ranges:
            begin, behind = self._ranges[0]
            behind = min(behind, begin + left)
            found.extend(self._stream.parts(begin, behind))
            self._ranges[0][0] = behind
            left -= behind - begin
            if not self._drop_if_read():
                break
        self.taken += most - left
        return self._ring.fetch(found)


class Ring:
    """The ring. Its memory is touched, and so taken, only as far as packets come.

    Args:
        octets: Octets of packets that it holds.
        packets: Packets that it holds.
        mode: One of MODES.

    Attributes:
        mode: As given.
        packets: As given.
        stored: Packets stored so far.
        dropped: Packets dropped so far: for want of room, or because they are longer than the ring.
        dropping: Whether any packet of the batch in hand was dropped.
        devices: Names of devices, by their numbers.

    Raises:
        UsageError: A number out of range, or an unknown mode.
    """

    def __init__(self, octets: int = 1 << 26, packets: int = 1 << 16, mode: str = MODES[0]) -> None:
        for name, value, most in (("octets", octets, _OCTETS_MAX), ("packets", packets, _PACKETS_MAX)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise UsageError(f"a buffer of {value!r} {name}: it must be a whole number from 1 to {most}")
        if mode not in MODES:
            raise UsageError(suggest("mode of a buffer", str(mode), MODES))
        self.mode, self.packets = mode, packets
        self.dropped = 0
        self.dropping = False
        self.devices: list[str] = []
        self._octets = np.zeros(octets, np.uint8)
        self._notes = np.zeros(packets, _NOTE)
        self._frames, self._columns = np.zeros(packets, FRAME), np.zeros(packets, PACKET)
        self._ring = np.zeros(1, _RING)
        self._ring[0]["head"] = self._ring[0]["tail"] = 1
        self.tail = 1
        self._need, self._places = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self._readers: list[Reader] = []

    @property
    def stored(self) -> int:
        """Packets stored so far."""
        return int(self._ring[0]["head"]) - 1

    def stream(self) -> Stream:
        """A stream; whoever asks for it gives it to `store` from then on."""
        return Stream(self)

    def reader(self, stream: Stream) -> Reader:
        """Somebody who reads a stream."""
        made = Reader(self, stream)
        self._readers.append(made)
        return made

    def forget(self, reader: Reader) -> None:
        """Close a reader."""
        reader.close()
        self._readers.remove(reader)

    def store(
        self,
        batch: Batch,
        columns: npt.NDArray[np.void],
        wanted: Sequence[tuple[Stream, Selection]],
        flows: npt.NDArray[np.uint64] | None = None,
        device: int = 0,
    ) -> None:
        """Store what streams are given of a batch.

        Args:
            batch: The frames.
            columns: PACKET[m].
            wanted: Selections, none of them empty, and the stream of each.
            flows: uint64[m], flow numbers; None: unknown.
            device: Number of the device.
        """
        count = len(batch.frames)
        if len(self._need) < count:
            self._need, self._places = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        need, places = self._need[:count], self._places[:count]
        need[:] = 0
        for _, selection in wanted:
            if selection.limit is None:
                need[selection.indexes] = _ALL
            else:
                limits = selection.limit.astype(np.uint64) + U64(1)
                need[selection.indexes] = np.maximum(need[selection.indexes], limits)
        self._ring[0]["hold"] = self._hold(batch, need)
        dropped = int(_store(self._ring, self._octets, self._notes, batch.octets, batch.frames, need, places))
        self.dropping = dropped > 0
        self.dropped += dropped
        self.tail = int(self._ring[0]["tail"])
        chosen = np.flatnonzero(places)[-self.packets :]  # those before were overwritten by these
        rows = places[chosen] % U64(self.packets)
        as_octets(self._frames)[rows] = as_octets(batch.frames)[chosen]
        as_octets(self._columns)[rows] = as_octets(columns)[chosen]
        self._notes["number"][rows] = chosen.astype(np.uint64) + U64(batch.first_number)
        self._notes["flow"][rows] = 0 if flows is None else flows[chosen]
        self._notes["device"][rows] = device
        for stream, selection in wanted:
            stream.append(places[selection.indexes], selection.limit)

    def _hold(self, batch: Batch, need: npt.NDArray[np.uint64]) -> int:
        """The oldest place that must stay; it is looked for only where a batch might overwrite any."""
        state = self._ring[0]
        if self.mode == MODES[0] or not self._readers:
            return 2**64 - 1
        wanted = need != 0
        # what the batch takes at most, with the room left free at the end of the ring
        octets = int(np.minimum(need[wanted] - U64(1), batch.frames["captured"][wanted]).sum())
        octets += int(batch.frames["captured"].max(initial=0))
        used = int(state["head"]) - int(state["tail"])
        if used:
            octets += int(state["end"]) - int(self._notes["at"][int(state["tail"]) % self.packets])
        if used + int(np.count_nonzero(wanted)) <= self.packets and octets <= len(self._octets):
            return 2**64 - 1
        places = [reader.oldest for reader in self._readers if reader.active]
        # What comes in this batch is not in their ranges yet, but must not be overwritten by what comes behind it.
        return min([place for place in places if place is not None], default=int(state["head"]))

    def time_ns(self, place: int) -> int:
        """Time stamp of a packet that is there."""
        return int(self._frames["time_ns"][place % self.packets])

    def fetch(self, parts: Sequence[tuple[npt.NDArray[np.uint64], Any]]) -> Packets:
        """Copies of packets that are there.

        Args:
            parts: Places uint64[k] and limits uint32[k] (None: none).
        """
        if not parts:
            return Packets.none()
        rows = np.concatenate([places for places, _ in parts]) % U64(self.packets)
        notes = self._notes[rows]
        sizes, at = notes["octets"], 0
        for places, limits in parts:
            if limits is not None:
                sizes[at : at + len(places)] = np.minimum(sizes[at : at + len(places)], limits)
            at += len(places)
        octets = np.zeros(int(sizes.sum()), np.uint8)
        if not _gather(self._octets, notes["at"] % U64(len(self._octets)), sizes, octets):
            raise AssertionError("a packet that is said to be in the buffer does not lie within it")
        frames, columns = np.empty(len(rows), FRAME), np.empty(len(rows), PACKET)
        as_octets(frames)[:] = as_octets(self._frames)[rows]
        as_octets(columns)[:] = as_octets(self._columns)[rows]
        frames["captured"] = sizes
        frames["start"] = np.cumsum(sizes) - sizes
        known = np.empty(len(rows), NOTE)
        for name in ("number", "flow", "device"):
            known[name] = notes[name]
        return Packets(octets, frames, columns, known, self.devices)
