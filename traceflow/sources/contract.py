"""What a run needs of whatever frames come from: files one after the other (`open.py`), or interfaces (`live.py`).

Declarations only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from traceflow.errors import TraceflowError
from traceflow.packets import Batch, Interface

__all__ = ["Source"]


class Source(Protocol):
    """Frames, batch by batch, once.

    Attributes:
        errors: What went wrong so far, in order.
        frames_read: Frames delivered so far.
        opened: Captures, or interfaces, that could be read.
        octets_total: Octets of all inputs; None where that is not known.
        live: Whether frames come when they are sent: results are then wanted at once.
    """

    errors: list[TraceflowError]
    frames_read: int
    opened: int
    octets_total: int | None
    live: bool

    @property
    def interfaces(self) -> list[Interface]:
        """All interfaces so far; FRAME `interface` is an index into it."""

    @property
    def octets_read(self) -> int:
        """Octets read so far."""

    def batches(self) -> Iterator[Batch]:
        """Batches of consecutive frames; octets and rows of one are overwritten when the next is asked for."""

    def close(self) -> None:
        """Close all that is open. May be called again."""
