"""What the flow table says of each packet of a device, for filters that ask: FLOW_FACTS.

There is one flow table in the house. Here it is run over all frames of a device, with a plugin that keeps what is
asked for in the records of each direction and has them copied after each packet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.filters.contract import FLOW_FACTS
from traceflow.options import options_for
from traceflow.packets import Batch
from traceflow.pipeline import Engine, plugin_set
from traceflow.plugins import Column, Plugin
from traceflow.table import FROM_RESPONDER

__all__ = ["FlowFacts", "FlowFollower"]


class FlowFacts(Plugin):
    """The part of FLOW_FACTS that only the packet loop sees."""

    name = "flowfacts"
    description = "frames, time of the first frame and TCP state right after each packet"
    columns = (
        Column("packets", "u8", "frames", "frames of the flow so far, of both directions"),
        Column("first_ns", "i8", "ns", "time stamp of the first frame of the flow"),
        Column("state", "u1", "", "state of the sender by TCP, see states.py"),
    )
    record = np.dtype([("packets", "u8"), ("first_ns", "i8"), ("state", "u1")])

    @staticmethod
    def on_open(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Both directions know when the flow began."""
        mine["first_ns"] = frame["time_ns"]
        partner["first_ns"] = frame["time_ns"]

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """What is known right after the packet, in the record of its sender, which is copied then."""
        mine["packets"] = steer["packets"] + steer["partner_packets"]
        if steer["from_responder"] != flow["upper_originates"]:
            mine["state"] = flow["high_side"]["state"]
        else:
            mine["state"] = flow["low_side"]["state"]


class FlowFollower:
    """Follows the flows of one device.

    Args:
        profile: Name of a profile, see `options.PROFILES`.

    Raises:
        UsageError: An unknown profile.
    """

    def __init__(self, profile: str = "default") -> None:
        self._engine = Engine(options_for(profile, analysis=False), plugin_set([FlowFacts()], shots=True))
        self._marks: npt.NDArray[np.void] | None = None

    def step(self, batch: Batch) -> None:
        """Take the next frames, or that time went on."""
        self._marks = self._engine.step(batch).marks

    @property
    def flows(self) -> npt.NDArray[np.uint64]:
        """uint64[m], number of the flow of each frame of the last batch, 0 where it has none."""
        assert self._marks is not None
        return self._marks["flow"]

    def facts(self) -> npt.NDArray[np.void]:
        """FLOW_FACTS[m] of the last batch; all zero for frames without a flow."""
        assert self._marks is not None
        marks = self._marks
        engine, found = self._engine, np.zeros(len(marks), FLOW_FACTS)
        columns = engine.plugins.packet_columns(engine.table.shots, len(marks))
        there = marks["flow"] != 0
        found["flow"] = marks["flow"]
        found["from_responder"] = (marks["direction"] & FROM_RESPONDER != 0) & there
        for name in ("packets", "first_ns", "state"):
            found[name] = np.where(there, columns[f"flowfacts_{name}"].filled(0), 0)
        return found
