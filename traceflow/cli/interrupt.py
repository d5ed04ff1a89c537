"""Ctrl-C and SIGTERM: the first ends reading and lets everything that was traced be written, the second ends the run.

A read of a quiet pipe would wait for its next octets before it noticed anything, so it is broken off; everywhere else
the first Ctrl-C only leaves a mark, because an exception between two steps of the engine would lose a batch.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from traceflow.cli.exits import Exit, Terminated
from traceflow.packets import Batch
from traceflow.sources import Captures

__all__ = ["InterruptibleCaptures", "Interruption"]


class Interruption:
    """Takes SIGINT and SIGTERM over while it is entered.

    Attributes:
        asked: One of them came.
        exit_code: What the run then comes to.
        reading: Set while an input is read; they then raise KeyboardInterrupt.
        stop: Called when the first comes.
    """

    def __init__(self) -> None:
        self.asked = False
        self.exit_code = Exit.INTERRUPTED
        self.reading = False
        self.stop: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        breaks_off = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.asked:
            raise breaks_off
        self.asked = True
        if number == signal.SIGTERM:
            self.exit_code = Exit.TERMINATED
        if self.stop is not None:
            self.stop()
        if self.reading:
            raise breaks_off

    def __enter__(self) -> Self:
        # A shell that starts a job in the background has it ignore SIGINT: that stays so.
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is usual:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()


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
