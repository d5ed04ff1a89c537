"""Bursts of packets of each direction: a plugin with options, a record, a compiled hook and one in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.plugins import Column, EndedFlows, Option, Plugin

__all__ = ["Bursts"]

_ONE = np.uint32(1)
_MS_NS = 1_000_000


class Bursts(Plugin):
    """Counts the bursts of each direction. A silence, or a packet of the other direction, ends a burst."""

    name = "bursts"
    description = "runs of packets of one direction"
    columns = (
        Column("count", "u4", "bursts", "bursts of the direction"),
        Column("longest", "u4", "packets", "its longest burst"),
        Column("turns", "u4", "", "how often the other side took over", per="flow"),
    )
    options = (Option("gap_ms", 0, "silence that ends a burst, in ms; 0: none", lowest=0, highest=86_400_000),)
    record = np.dtype([("last_ns", "i8"), ("count", "u4"), ("run", "u4"), ("longest", "u4"), ("turns", "u4")])
    shared = np.dtype([("gap_ns", "i8")])

    def on_start(self, shared: Any) -> None:
        """Hand the option to the compiled hook."""
        shared["gap_ns"] = self.settings["gap_ms"] * _MS_NS

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Lengthen the burst, or begin one."""
        if partner["run"] != 0:
            partner["run"] = 0
            mine["turns"] += _ONE
        if shared["gap_ns"] > 0 and steer["now_ns"] - mine["last_ns"] >= shared["gap_ns"]:
            mine["run"] = 0
        if mine["run"] == 0:
            mine["count"] += _ONE
        mine["run"] += _ONE
        mine["longest"] = max(mine["longest"], mine["run"])
        mine["last_ns"] = steer["now_ns"]

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """The column of the flow: turns of both directions."""
        return {"turns": flows.orig["turns"] + flows.resp["turns"]}
