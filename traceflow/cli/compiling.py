"""Says when kernels are being compiled, which takes some seconds once; afterwards they come from Numba's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import event

from traceflow.cli.messages import note
from traceflow.compiled import cached_kernels

__all__ = ["announce_compiling"]

_COMPILES = "numba:compile"
"""The event that Numba has around each compilation."""


class _Announcer(event.Listener):
    """Prints one line when the first kernel is compiled. Kernels that are loaded from the cache cause no event."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: Any) -> None:
        if not self._said:
            self._said = True
            nowhere = "in every run: set NUMBA_CACHE_DIR to a folder to keep them"
            kept = "once, then cached" if cached_kernels else nowhere
            note(f"compiling kernels ({kept}) ...")

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


def announce_compiling() -> Callable[[], None]:
    """From now on, say that kernels are compiled when they are. Call what is returned to end it."""
    events: Any = event
    announcer = _Announcer()
    events.register(_COMPILES, announcer)
    return lambda: events.unregister(_COMPILES, announcer)
