"""Live captures of the command line: what `-i` opens, and in which order things begin."""

from __future__ import annotations

import numpy as np

from traceflow.cli.commands import Input
from traceflow.cli.interrupt import Interruption
from traceflow.cli.messages import note
from traceflow.filters.machine import Machine
from traceflow.libpcap import PROGRAM
from traceflow.packets import FRAME
from traceflow.sources.live import LiveCapture, open_live
from traceflow.warmup import compile_all

__all__ = ["begin", "drops", "open_capture"]

_NOTHING = np.array([(0x06, 0, 0, 0)], PROGRAM)
"""A filter that lets nothing through."""


def open_capture(given: Input, interruption: Interruption) -> LiveCapture:
    """Open the interfaces of a command; nothing is received yet.

    Args:
        given: The input, with `live`.
        interruption: Is told how the capture is stopped.

    Raises:
        CannotReadError: No such interface, no permission, or it cannot be captured.
    """
    live = given.live
    assert live is not None
    capture = open_live(
        *live.interfaces,
        snaplen=live.snaplen,
        promiscuous=live.promiscuous,
        ring_octets=live.buffer_octets,
        expression=None if given.expression is None else given.expression.text,
        limit=given.limit,
        duration_ns=live.duration_ns,
        backend=live.backend,
    )
    interruption.stop = capture.stop
    return capture


def begin(capture: LiveCapture, *, filtered: bool, quiet: bool) -> None:
    """Begin to receive, and say so.

    Args:
        capture: The capture.
        filtered: Whether there is a filter.
        quiet: Say nothing.

    Raises:
        CannotReadError: An interface is down, or gone.
    """
    compile_all()  # or load: the ring would fill meanwhile
    if filtered:
        Machine(_NOTHING).run(np.zeros(1, np.uint8), np.zeros(1, FRAME))
    capture.start()
    if not quiet:
        names = ", ".join(interface.name for interface in capture.interfaces)
        note(f"capturing on {names} (Ctrl-C ends it)")


def drops(capture: LiveCapture) -> int:
    """Frames that were dropped before they could be read."""
    return capture.drops
