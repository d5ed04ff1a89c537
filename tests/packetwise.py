"""What plugins have of the sender's direction after each packet: the columns that are fields of their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.plugins import Plugin, PluginSet, load_plugins
from traceflow.sources import open_source
from traceflow.table import FROM_RESPONDER

__all__ = ["packetwise"]


def packetwise(source: Path | BinaryIO, plugin: str | Plugin, profile: str = "tranalyzer") -> dict[int, dict[str, Any]]:
    """Go through a capture with a plugin.

    Returns:
        By the number of each frame that belongs to a flow: its `flow`, its `side` (A of the originator, B), and the
        columns of the plugin by their names in outputs.
    """
    plugins = PluginSet(load_plugins([plugin]), shots=True)
    rows: dict[int, dict[str, Any]] = {}
    with open_source(source) as captures:
        run = Run(captures, options_for(profile), plugins)
        for step in run.steps():
            if step.batch is None:
                continue
            columns = plugins.packet_columns(run.table.shots, len(step.packets))
            for at, mark in enumerate(step.marks):
                if mark["flow"]:
                    row = {name: int(values[at]) for name, values in columns.items()}
                    row |= {"flow": int(mark["flow"]), "side": "B" if mark["direction"] & FROM_RESPONDER else "A"}
                    rows[step.batch.first_number + at] = row
    assert plugins.failures == []
    return rows
