"""The lazy door to expressions: what a run needs of one, and how it is had without loading libpcap for all runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from traceflow.errors import UsageError
from traceflow.packets import Batch

__all__ = ["FrameFilter", "load_expression"]


class FrameFilter(Protocol):
    """What decides which frames of a run are traced."""

    @property
    def failures(self) -> Mapping[int, UsageError]:
        """Why frames of some link types could not be judged, by link type."""

    @property
    def judged(self) -> int:
        """Frames that were judged so far."""

    def keep(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Which frames of a batch are traced: bool[m]."""


def load_expression(text: str) -> FrameFilter:
    """An expression of pcap-filter(7), see `bpf.Expression`.

    Args:
        text: The expression.

    Raises:
        UsageError: It is wrong.
        LibraryMissingError: There is no libpcap.
    """
    return cast("FrameFilter", importlib.import_module("traceflow.filters.bpf").Expression(text))
