"""An iterator that works in a thread of its own, so that what is taken from it and what is done with it overlap.

Kernels and reads give the interpreter lock away, so reading and decoding the next batch costs the thread that tracks
this one nothing but the moments of Python between them. Order, and everything that is handed out, stay the same.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from traceflow.errors import UsageError

__all__ = ["AHEAD", "Ahead", "batches_ahead"]

AHEAD = 2
"""Items that exist besides the one in use: one that waits, and one that is being made."""

T = TypeVar("T")


def batches_ahead(workers: int | None) -> int:
    """How many batches are made ahead by so many threads: AHEAD by two, none by one.

    Args:
        workers: Threads that may work, more than two as two; None: as many as there are processors for this process.

    Raises:
        UsageError: Less than one.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be at least 1")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return AHEAD if (usable if workers is None else workers) > 1 else 0


class Ahead(Generic[T]):
    """Hands out what an iterator gives, while the next items are made by a thread. A context manager.

    An item stays valid until the next one is taken: not before then is the one behind the next AHEAD asked for.

    Args:
        items: The iterator; only the thread runs it, its end as well.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._made: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._closed = False
        self._over = False
        self._thread = threading.Thread(target=self._make, name="traceflow-ahead", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        """Make items until the iterator ends, fails, or nobody wants any more."""
        try:
            while True:
                self._room.acquire()
                item = None if self._closed else next(self._items, None)
                self._made.put((item, None))
                if item is None:
                    return
        except BaseException as error:  # noqa: BLE001 - whoever takes the items hears of it
            self._made.put((None, error))

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error = self._made.get()
        self._room.release()
        if item is None:
            self._over = True
            if error is not None:
                raise error
            raise StopIteration
        return item

    def close(self) -> None:
        """Have no further items made, and wait for the thread. May be called again."""
        self._closed = self._over = True
        self._room.release()
        self._thread.join()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
