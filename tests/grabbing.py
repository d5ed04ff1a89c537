"""What the tests of grabbers and monitors share: a source that gives what a test puts into it, and monitors over it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traceflow import FlowSpec, Grabber, Monitor
from traceflow.errors import TraceflowError
from traceflow.packets import Batch
from traceflow.sources import open_source

PATIENCE_S = 300
"""Seconds after which a thread that does not answer is a failure: what it runs may have to be compiled first."""

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def batches_of(name: str, batch_frames: int = 4) -> list[Batch]:
    """The frames of a fixture, as batches that stay as they are."""
    with open_source(FIXTURES / f"{name}.pcap", batch_frames=batch_frames) as captures:
        return [
            Batch(batch.octets.copy(), batch.frames.copy(), batch.first_number, batch.first_in_file)
            for batch in captures.batches()
        ]


class Lab:
    """An interface in a test: `put` gives it a batch, an error that ends it, or None, its end. A thread that asks for
    more waits until there is more."""

    live = True

    def __init__(self) -> None:
        self.errors: list[TraceflowError] = []
        self.closed = False
        self.asked = threading.Semaphore(0)
        """Released each time that a thread asks for more."""
        self._given: queue.Queue[Any] = queue.Queue()

    def put(self, *things: Batch | TraceflowError | None) -> None:
        for thing in things:
            self._given.put(thing)

    def quiet(self, now_ns: int) -> None:
        """Say that no frame came up to a time."""
        nothing = batches_of("T01")[0]
        self.put(Batch(nothing.octets, nothing.frames[:0], 1, 1, quiet_ns=now_ns))

    def batches(self) -> Iterator[Batch]:
        while isinstance(given := self._get(), Batch):
            yield given
        if given is not None:
            self.errors.append(given)

    def _get(self) -> Any:
        self.asked.release()
        return self._given.get()

    def stop(self) -> None:
        self.put(None)

    def close(self) -> None:
        self.closed = True


def monitor_of(name: str, batch_frames: int = 4, **settings: Any) -> Monitor:
    """A monitor whose eth0 is a fixture, some frames at a time."""
    return Monitor({"eth0": open_source(FIXTURES / f"{name}.pcap", batch_frames=batch_frames)}, **settings)


def grabber_of(monitor: Monitor, text: str = "(packetcount)", *callbacks: Any, **parameters: Any) -> Grabber:
    """A grabber of a graph, not active yet."""
    return monitor.instantiate(FlowSpec.parse(text, callbacks, parameters))


def counted(grabber: Grabber, name: str = "packets") -> int:
    """The only counter of that name."""
    (count,) = [counters[name] for counters in grabber.counters.values() if name in counters]
    return int(count)
