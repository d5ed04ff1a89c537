"""Exact duplicates: frames that the capture has twice, as a mirror port gives them (flow-rules 15).

A frame is a duplicate where one of the REACH frames before it has the same octets, the same lengths (captured and on
the wire) and the same link type, and their times lie no further apart than the window, at equality too, in whichever
order. A frame without a time is none, unless any time will do. Octets are compared, not digests of them, so nothing
counts that differs anywhere; the last frames of a batch are copied for the next one (4 MiB at most, of frames of 256
KiB), so batches cannot matter. What a sender sends twice within the window, octet by octet, is the same as a copy.

Nothing here looks at flows. A duplicate is marked in its PACKET row, and gets a Verdict only where that is asked for.
Cost: 2 ns a frame that decode has signed (`sign`) where no two are alike, 13 one that it has not. The worst that a
capture can do is REACH comparisons of all its octets, 13 ns an octet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel
from traceflow.decode.octets import sign
from traceflow.options import Options
from traceflow.packets import DUPLICATE, FRAME, NO_TIME, Verdict

__all__ = ["REACH", "DuplicateFinder", "find_duplicates", "remember_last"]

REACH = 16
"""A duplicate is one of a frame at most so many places before it. A mirror port gives the copy right behind the frame,
or behind what its other ports had in the meantime: at 1 Gbit/s, 15 of the shortest frames in 10 us."""

ANY_TIME_NS = 2**64 - 1
"""The window that holds everything."""
# Slots of `latest`: of frames that nothing repeats, one in 64 meets a slot by chance and looks through signatures;
# with 256 slots, one in 16, which costs 1 ns more a frame.
_SLOT_BITS = 10
_TO_SLOT = U64(64 - _SLOT_BITS)
_NOTHING = 2**32 - 1  # captured octets of a place that holds no frame yet
_ROOM = 2048  # octets kept of each of the last frames, at first: more than an Ethernet frame has
_FLOW, _LATER_FRAGMENT = int(Verdict.FLOW), int(Verdict.FRAGMENT_WITHOUT_PORTS)
_DUPLICATE = int(Verdict.DUPLICATE)


@outline_kernel
def _signature(octets: Any, frame: Any, packet: Any) -> Any:
    """The signature of a frame that decode has not signed (`sign`)."""
    captured, start = U64(frame["captured"]), U64(frame["start"])
    numbers = U64(packet["seq"]) << U64(32) | U64(packet["ack"])
    at = U64(packet["transport"])
    # No TCP segment: UDP and ICMP have a checksum there, ESP a number. Without these a UDP stream of one size takes
    # 160 ns a frame.
    if numbers == U64(0) and at + U64(8) <= captured:
        for n in range(8):
            numbers = numbers << U64(8) | U64(octets[start + at + U64(n)])
    ports = U64(packet["src_port"]) << U64(16) | U64(packet["dst_port"])
    return sign(captured, U64(frame["wire"]), ports, numbers)


@inline_kernel
def _same_octets(octets: Any, start: Any, others: Any, other_start: Any, count: Any) -> Any:
    """Whether two runs of octets are equal. From the end, because frames of one flow have much the same headers."""
    while count != U64(0):
        count -= U64(1)
        if octets[start + count] != others[other_start + count]:
            return False
    return True


@inline_kernel
def _repeats(octets: Any, frame: Any, others: Any, other: Any, window_ns: Any) -> Any:
    """Whether a frame is the same as another, within the window."""
    if frame["captured"] != other["captured"] or frame["wire"] != other["wire"] or frame["link"] != other["link"]:
        return False
    if window_ns != U64(ANY_TIME_NS):
        if (U64(frame["time_bits"]) | U64(other["time_bits"])) & U64(NO_TIME):
            return False
        # Unsigned, because times may lie 2**63 ns apart.
        apart_ns = U64(frame["time_ns"]) - U64(other["time_ns"])
        if frame["time_ns"] < other["time_ns"]:
            apart_ns = U64(other["time_ns"]) - U64(frame["time_ns"])
        if apart_ns > window_ns:
            return False
    return _same_octets(octets, U64(frame["start"]), others, U64(other["start"]), U64(frame["captured"]))


@outline_kernel
def _repeats_at(octets: Any, frames: Any, last_octets: Any, last: Any, i: Any, back: Any, first: Any, ns: Any) -> Any:
    """Whether frame `i` of a batch repeats the one `back` before it, which may lie in an earlier batch."""
    if back <= i:
        return _repeats(octets, frames[i], octets, frames[i - back], ns)
    return _repeats(octets, frames[i], last_octets, last[(first + i - back) % U64(REACH)], ns)


@kernel
def find_duplicates(
    octets: Any,
    frames: Any,
    packets: Any,
    signatures: Any,
    last_octets: Any,
    last: Any,
    first: Any,
    window_ns: Any,
    removed: Any,
    latest: Any,
) -> Any:
    """Mark the duplicates of a batch.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m], fresh from decode; `bits` and `verdict` may be set.
        signatures: uint64[>= REACH + m]; the first REACH are those of the frames before, then those of the batch; where
            these are 0, they are filled.
        last_octets: uint8[k], octets of the frames before.
        last: FRAME[REACH], the frames before: frame number n at n % REACH.
        first: uint64, number of the first frame, > REACH.
        window_ns: uint64, how far apart a frame and its duplicate may lie; ANY_TIME_NS: however far.
        removed: Whether a duplicate that belonged to a flow gets the Verdict DUPLICATE.
        latest: uint64[2**_SLOT_BITS], changed: by upper bits of a signature, the number of the last frame with them.

    Returns:
        How many duplicates there are.
    """
    found = 0
    for i in range(len(frames)):
        here = U64(i) + U64(REACH)
        signature = U64(signatures[here])
        if signature == U64(0):
            signature = _signature(octets, frames[U64(i)], packets[U64(i)])
            signatures[here] = signature
        number = first + U64(i)
        slot = signature >> _TO_SLOT
        before = U64(latest[slot])
        latest[slot] = number
        if number - before > U64(REACH):
            continue
        repeats = False
        for back in range(1, REACH + 1):
            if signatures[here - U64(back)] == signature:
                repeats = _repeats_at(octets, frames, last_octets, last, U64(i), U64(back), first, window_ns)
                if repeats:
                    break
        if repeats:
            found += 1
            packet = packets[U64(i)]
            packet["bits"] = U64(packet["bits"]) | U64(DUPLICATE)
            if removed and (packet["verdict"] == _FLOW or packet["verdict"] == _LATER_FRAGMENT):
                packet["verdict"] = _DUPLICATE
    return found


@kernel
def remember_last(octets: Any, frames: Any, signatures: Any, last_octets: Any, last: Any, first: Any) -> Any:
    """Keep what the next batch has to know of the last REACH frames.

    Args:
        octets: As for `find_duplicates`, like all others.
        frames: FRAME[m].
        signatures: The last REACH are moved to the front.
        last_octets: uint8[REACH * room], changed.
        last: FRAME[REACH], changed.
        first: Number of the first frame.

    Returns:
        0, or where a frame is longer than the room for it, its octets; then nothing was changed.
    """
    count = U64(len(frames))
    at = count - U64(REACH) if count > U64(REACH) else U64(0)
    room = U64(len(last_octets)) // U64(REACH)
    for i in range(at, count):
        if U64(frames[U64(i)]["captured"]) > room:
            return U64(frames[U64(i)]["captured"])
    for i in range(at, count):
        frame = frames[U64(i)]
        place = (first + U64(i)) % U64(REACH)
        kept = last[place]
        start, kept_start, captured = U64(frame["start"]), place * room, U64(frame["captured"])
        for n in range(captured):
            last_octets[kept_start + U64(n)] = octets[start + U64(n)]
        kept["start"] = kept_start
        kept["captured"] = captured
        kept["wire"] = frame["wire"]
        kept["link"] = frame["link"]
        kept["time_ns"] = frame["time_ns"]
        kept["time_bits"] = frame["time_bits"]
    for n in range(REACH):
        signatures[U64(n)] = signatures[count + U64(n)]
    return U64(0)


class DuplicateFinder:
    """Finds the duplicates of a run, one batch after the other.

    Args:
        options: The rules.
    """

    def __init__(self, options: Options) -> None:
        self._removed = options.duplicates == "remove"
        window_ns = options.duplicate_window_ns
        self._window_ns = U64(ANY_TIME_NS if window_ns is None else window_ns)
        self._last = np.zeros(REACH, FRAME)
        self._last["captured"] = _NOTHING
        self._last_octets = np.zeros(REACH * _ROOM, np.uint8)
        self._signatures = np.zeros(REACH, np.uint64)
        self._latest = np.zeros(1 << _SLOT_BITS, np.uint64)
        self._number = REACH + 1  # of the next frame; so that what `latest` holds at first is out of reach
        self.found: int | None = None if options.duplicates == "ignore" else 0
        """Duplicates so far; None where none are looked for."""

    def signatures(self, count: int) -> npt.NDArray[np.uint64]:
        """Where signatures of the next batch of so many frames may be written before it is marked.

        Returns:
            uint64[count], or uint64[0] where no duplicates are looked for.
        """
        if self.found is None:
            return self._signatures[:0]
        if len(self._signatures) < REACH + count:
            self._signatures = np.concatenate([self._signatures[:REACH], np.zeros(count, np.uint64)])
        return self._signatures[REACH : REACH + count]

    def mark(
        self,
        octets: npt.NDArray[np.uint8],
        frames: npt.NDArray[np.void],
        packets: npt.NDArray[np.void],
        *,
        signed: bool = False,
    ) -> None:
        """Mark the duplicates of the next batch, see `find_duplicates`.

        Args:
            octets: uint8[n], the buffer of the batch.
            frames: FRAME[m].
            packets: PACKET[m], changed.
            signed: Whether decode has filled `signatures` for these frames.
        """
        if self.found is None:
            return
        if not signed:
            self.signatures(len(frames))[:] = 0
        first = U64(self._number)
        before = self._last_octets, self._last, first
        self.found += find_duplicates(
            octets, frames, packets, self._signatures, *before, self._window_ns, self._removed, self._latest
        )
        longest = int(remember_last(octets, frames, self._signatures, self._last_octets, self._last, first))
        while longest:
            self._make_room(longest)
            longest = int(remember_last(octets, frames, self._signatures, self._last_octets, self._last, first))
        self._number += len(frames)

    def _make_room(self, octets: int) -> None:
        """Let the last frames have so many octets each; no source hands out more than 256 KiB."""
        kept = self._last_octets.reshape(REACH, -1)
        room = 1 << (octets - 1).bit_length()
        larger = np.zeros((REACH, room), np.uint8)
        larger[:, : kept.shape[1]] = kept
        self._last_octets = larger.reshape(-1)
        self._last["start"] = np.arange(REACH) * room
