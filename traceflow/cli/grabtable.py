"""The live table of `traceflow grab`: how far each grabber is, on a terminal's standard error only."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from traceflow.cli.grabwork import Work
from traceflow.cli.messages import counts_text
from traceflow.sinks.rows import printable

__all__ = ["LiveTable"]

_STEP_S = 0.25
_LINES_AROUND = 4


class LiveTable:
    """A table that is drawn anew some times a second.

    Args:
        works: The grabbers.
        wanted: False: never.
    """

    def __init__(self, works: Sequence[Work], *, wanted: bool) -> None:
        self._works, self._wanted = works, wanted and sys.stderr.isatty()
        self._shown: Any = None
        self._drawn_s = time.monotonic()
        self._before = [0] * len(works)

    def show(self, frames: int) -> None:
        """Draw it, where it is time to.

        Args:
            frames: Frames read so far.
        """
        now_s = time.monotonic()
        if not self._wanted or now_s < self._drawn_s + _STEP_S:
            return
        if self._shown is None:
            console = importlib.import_module("rich.console").Console(stderr=True)
            live = importlib.import_module("rich.live").Live
            # Without its own thread, which would take the interpreter lock from the engine.
            self._shown = live(console=console, transient=True, auto_refresh=False)
            self._shown.start()
        self._shown.update(self._table(frames, now_s - self._drawn_s), refresh=True)
        self._drawn_s = now_s

    def _table(self, frames: int, elapsed_s: float) -> Any:
        table = importlib.import_module("rich.table").Table(box=None, pad_edge=False, expand=False)
        text = importlib.import_module("rich.text").Text
        table.add_column("grabber", no_wrap=True)
        for name in ("packets", "octets", "packets/s", "lost", "flows"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("counters", no_wrap=True, overflow="ellipsis")
        room = max(self._shown.console.height - _LINES_AROUND, 1)
        for at, work in enumerate(self._works):
            packets, octets = work.passed["packets"], work.passed["octets"]
            rate, self._before[at] = (packets - self._before[at]) / elapsed_s, packets
            if at >= room:
                continue
            account = work.account
            name = work.named.name if work.state == "active" else f"{work.named.name} ({work.state})"
            counters = "; ".join(f"{node} {counts_text(one.items())}" for node, one in work.counters.items())
            flows = "" if account is None else str(account.flows)
            cells = (name, str(packets), str(octets), f"{rate:.0f}", str(work.lost), flows, counters)
            table.add_row(*(text(printable(cell)) for cell in cells))
        more = f", {len(self._works) - room} more grabbers" if len(self._works) > room else ""
        table.caption, table.caption_justify = f"frames read {frames}{more}", "left"
        return table

    def close(self) -> None:
        """Remove it."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None
