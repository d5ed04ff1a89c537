"""Ctrl-C: the first ends reading and lets everything that was traced be written, the second ends the run at once.

A read of a quiet pipe would wait for its next octets before it noticed anything, so it is broken off; everywhere else
the first Ctrl-C only leaves a mark, because an exception between two steps of the engine would lose a batch.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from traceflow.packets import Batch
from traceflow.sources import Captures

__all__ = ["InterruptibleCaptures", "Interruption"]


class Interruption:
    """Takes SIGINT over while it is entered.

    Attributes:
        asked: Ctrl-C was pressed.
        reading: Set while an input is read; Ctrl-C then raises KeyboardInterrupt.
        stop: Called at the first Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked = False
        self.reading = False
        self.stop: Callable[[], None] | None = None
        self._before: Any = None

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self.stop is not None:
            self.stop()
        if self.reading:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        # A shell that starts a job in the background has it ignore SIGINT: that stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class InterruptibleCaptures(Captures):
    """Captures whose batches end, as at the end of the input, when Ctrl-C breaks a read off.

    Attributes:
        interruption: What is told when a read begins and ends.
    """

    interruption: Interruption

    def batches(self) -> Iterator[Batch]:
        """As `Captures.batches`."""
        batches = super().batches()
        marks = self.interruption
        while True:
            try:
                marks.reading = True
                batch = next(batches, None)
                marks.reading = False
            except KeyboardInterrupt:
                marks.reading = False
                return
            if batch is None:
                return
            yield batch
