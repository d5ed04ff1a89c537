"""A progress bar on standard error: on a terminal only, and only for work above one second."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

__all__ = ["Progress"]

_FIRST_S = 1.0
_STEP_S = 0.1


class Progress:
    """A bar that appears when it is worth it.

    Args:
        wanted: False: never.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._due_s = time.monotonic() + _FIRST_S
        self._bar: Any = None
        self._task: Any = None
        self._what = ""

    def show(self, what: str, done: int, total: int | None) -> None:
        """Say how far a piece of work is.

        Args:
            what: Its name.
            done: How much is done.
            total: Of how much; None where that is unknown.
        """
        if not self._wanted or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _STEP_S
        if self._bar is None:
            rich = importlib.import_module("rich.progress")
            console = importlib.import_module("rich.console").Console(stderr=True)
            # Without its own thread, which would take the interpreter lock from the engine ten times a second.
            self._bar = rich.Progress(console=console, transient=True, auto_refresh=False)
            self._bar.start()
        if what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._what = self._bar.add_task(what, total=total), what
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
