"""The compressed octets of a capture, and the sentences for what is wrong with them.

What lives here: a window over the compressed file, from which the decoders take what they need and give back what
they took too much. What must not: any compression format.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traceflow.errors import CannotReadError, MalformedCaptureError, TruncatedCaptureError, UnsupportedCaptureError
from traceflow.sources.reading import Window

__all__ = ["Packed"]

_COMPRESSED = "Frames before it were read; what follows is not. The offset counts compressed octets"


class _Failed:
    """An input that failed, and fails again when the octets that came before are used up."""

    def __init__(self, error: CannotReadError) -> None:
        self._error = error

    def __call__(self, _: memoryview) -> int:
        raise self._error


class Packed(Window):
    """Compressed octets of one input.

    Attributes:
        name: Name of the capture, for the errors.
        word: Name of its compression, for the errors.
    """

    def __init__(self, first: Window, read_into: Callable[[memoryview], int], read_octets: int, name: str) -> None:
        """Go on where another window stands.

        Args:
            first: Holds the octets that were read to recognise the compression; they are copied.
            read_into: Gives the compressed octets behind them.
            read_octets: The largest piece that is asked at once.
            name: Name of the capture.
        """
        super().__init__(read_octets)
        self.name = name
        self.word = ""
        self.attach(read_into, first.offset)
        rest = first.left
        if rest > len(self.octets):
            self.octets = np.empty(rest, np.uint8)
        self.octets[:rest] = first.octets[first.at : first.end]
        self.end = rest

    def take_some(self, most: int) -> bytes:
        """Use up what is at hand, `most` octets at most; waits only where nothing is. Empty at the end."""
        self.fill(1)
        return self._used(most)

    def take(self, count: int) -> bytes:
        """Use up `count` octets, fewer only where the input ends or fails before that."""
        try:
            self.fill(count)
        except CannotReadError as error:
            if not self.left:
                raise
            self._read_into = _Failed(error)
        return self._used(count)

    def take_all_of(self, count: int, what: str) -> bytes:
        """Use up exactly `count` octets.

        Raises:
            TruncatedCaptureError: The input ends before that; `what` says inside what.
        """
        if not self.fill(count):
            raise self.cut(what, count)
        return self._used(count)

    def give_back(self, count: int) -> None:
        """Make the last `count` octets of those just taken be there again."""
        self.at -= count

    def _used(self, most: int) -> bytes:
        octets = self.peek(most)
        self.at += len(octets)
        return octets

    def cut(self, what: str, needed: int | None = None) -> TruncatedCaptureError:
        """The error for compressed data that ends too early.

        Args:
            what: Inside what it ends.
            needed: Octets needed from here on, where that is known.
        """
        text = f"the {self.word} data ends inside {what}. {_COMPRESSED}"
        had = None if needed is None else self.left
        return TruncatedCaptureError(text, file=self.name, offset=self.offset, needed=needed, had=had)

    def malformed(self, text: str, offset: int) -> MalformedCaptureError:
        """The error for compressed data that cannot be true."""
        return MalformedCaptureError(f"{text}. {_COMPRESSED}", file=self.name, offset=offset)

    def unsupported(self, text: str, offset: int) -> UnsupportedCaptureError:
        """The error for compressed data that is not read."""
        return UnsupportedCaptureError(f"{text}. {_COMPRESSED}", file=self.name, offset=offset)
