"""The one buffer that all captures are read through.

What lives here: reading in pieces, carrying the incomplete record to the front, skipping. What must not:
any knowledge of a capture format. The file is never mapped: a reused buffer of 256 KiB to 1 MiB is faster
(no page faults) and works for pipes too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Window"]

_SMALLEST_OCTETS = 4096
"""Capacity to begin with where reads are smaller: room for one frame of an ordinary network."""
_LARGE_OCTETS = 256 * 1024
_HUGE_OCTETS = 2 * 1024 * 1024


class Window:
    """A window of octets that slides over one input after the other.

    Attributes:
        octets: uint8[capacity]; what was read stands in `octets[at:end]`.
        at: Index of the first octet that is not yet used up.
        end: Index behind the last octet that was read.
        base: Offset in the file of `octets[0]`.
    """

    def __init__(self, read_octets: int, kept: int = 0) -> None:
        """Make an empty window.

        Args:
            read_octets: The largest piece that is asked of an input at once.
            kept: How many of the places that were marked by `keep` before the last one must stay as they are.
        """
        self._buffers = [_room(max(read_octets, _SMALLEST_OCTETS)) for _ in range(kept + 1)]
        self.octets: npt.NDArray[np.uint8] = self._buffers[0]
        self._kept = False
        self.at = 0
        self.end = 0
        self.base = 0
        self._piece_octets = read_octets
        self._read_into: Callable[[memoryview], int] = _nothing

    def attach(self, read_into: Callable[[memoryview], int], base: int) -> None:
        """Begin with another input.

        Args:
            read_into: Fills a memory view from its front and returns how many octets it got, 0 at the end.
            base: Offset in its file of the first octet that `read_into` will give.
        """
        if self._kept:  # batches of the input before may still be in use
            self._turn()
        self._read_into = read_into
        self.at = self.end = 0
        self.base = base

    @property
    def left(self) -> int:
        """Octets that are in the window and not used up."""
        return self.end - self.at

    @property
    def offset(self) -> int:
        """Offset in the file of the first octet that is not used up."""
        return self.base + self.at

    def fill(self, needed: int) -> bool:
        """Read until `needed` octets are in the window.

        Capacity doubles when the window is full of octets that did arrive, so a length field that lies costs
        nothing: memory stays within twice the octets that the input really holds.

        Returns:
            False where the input ends before that.
        """
        while self.end - self.at < needed:
            if self.at:
                self._carry_to_front()
            if self.end == len(self.octets):
                self._double()
            piece = min(self._piece_octets, len(self.octets) - self.end)
            got = self._read_into(self.octets.data[self.end : self.end + piece])
            if not got:
                return False
            self.end += got
        return True

    def keep(self) -> None:
        """Leave what is in the window now where it is, when room is needed for more."""
        self._kept = len(self._buffers) > 1

    def peek(self, count: int) -> bytes:
        """A copy of the next `count` octets, or of as many as are in the window."""
        return self.octets[self.at : min(self.at + count, self.end)].tobytes()

    def skip(self, count: int) -> int:
        """Use up `count` octets without keeping them.

        Returns:
            How many were skipped: fewer than `count` where the input ends before that.
        """
        skipped = 0
        while True:
            step = min(self.left, count - skipped)
            self.at += step
            skipped += step
            if skipped == count or not self.fill(1):
                return skipped

    def _carry_to_front(self) -> None:
        rest = self.left
        before = self.octets
        if self._kept:
            self._turn()
        if rest:
            self.octets[:rest] = before[self.at : self.end]
        self.base += self.at
        self.at, self.end = 0, rest

    def _turn(self) -> None:
        """Go on in the buffer that was left alone for longest."""
        before = self.octets
        self._buffers = [*self._buffers[1:], before]
        if len(self._buffers[0]) < len(before):
            self._buffers[0] = _room(len(before))
        self.octets, self._kept = self._buffers[0], False

    def _double(self) -> None:
        larger = _room(2 * len(self.octets))
        larger[: self.end] = self.octets[: self.end]
        self.octets = self._buffers[0] = larger


def _room(octets: int) -> npt.NDArray[np.uint8]:
    """A buffer; one of 256 KiB or more lies in huge pages where the system has some.

    The system copies a file a fifth faster into them. NumPy asks for them in arrays of 4 MiB, of which this is the part
    behind the first boundary between two; what is not touched takes no memory.
    """
    if octets < _LARGE_OCTETS:
        return np.empty(octets, np.uint8)
    around = np.empty(max(octets, _HUGE_OCTETS) + _HUGE_OCTETS, np.uint8)
    start = -around.ctypes.data % _HUGE_OCTETS
    return around[start : start + octets]


def _nothing(_: memoryview) -> int:
    """An input that has ended: what a window reads before it is attached."""
    return 0
