"""Plugin `splt`: sizes, directions and times of the first packets of a flow, both directions in one sequence.

Each direction keeps its own packets, with their place in the flow, and the two are merged when the flow ends. So
nothing has to move when a flow turns: who sent a packet is known by the record it lies in, and who of the two is the
originator is asked at the end.

The time of a packet is that since the packet before it in the capture, whoever sent that: 0 for the first one, and
negative where the time stamp goes back; so the sum up to a packet is its distance from the first one, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.plugins.contract import Column, EndedFlows, Option, Plugin
from traceflow.plugins.sequences import SIZE_OPTION, lists, size_code, steps_of

__all__ = ["Splt"]


class Splt(Plugin):
    """Sequence of packet lengths and times."""

    name = "splt"
    description = "sizes, directions and times of the first packets of a flow"
    columns = (
        Column("count", "u1", "packets", "how many packets the lists hold", per="flow"),
        Column("sizes", "text", "octets", "size of each of the first packets, joined by semicolons", per="flow"),
        Column("directions", "text", "", "1: sent by the originator, -1: by the responder", per="flow"),
        Column("times_ns", "text", "ns", "time since the packet before, 0 for the first one", per="flow"),
    )
    options = (Option("n", 20, "how many packets are kept", 1, 255), SIZE_OPTION)
    shared = np.dtype([("size", "u8")])

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._size = size_code(self.name, self.settings["size"])
        most = self.settings["n"]
        # The time of a packet is kept as it is: those before it in the sequence may lie in the other record.
        self.record = np.dtype(
            [("count", "u8"), ("time_ns", "i8", (most,)), ("size", "u4", (most,)), ("place", "u1", (most,))], align=True
        )

    def on_start(self, shared: Any) -> None:
        """Tell the hook which size is meant."""
        shared["size"] = self._size

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Keep a packet, if it is one of the first of the flow."""
        place = U64(mine["count"]) + U64(partner["count"])
        if place >= U64(len(mine["place"])):
            return
        at = U64(mine["count"])
        mine["count"] = at + U64(1)
        mine["place"][at] = place
        mine["time_ns"][at] = frame["time_ns"]
        size = U64(packet["payload_octets"])
        if U64(shared["size"]) == U64(0):
            size = U64(frame["wire"])
        elif U64(shared["size"]) == U64(1):
            size = U64(packet["ip_octets"])
        mine["size"][at] = size

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """Merge the directions."""
        shape = (len(flows), self.settings["n"])
        times, sizes, directions = (np.zeros(shape, np.int64) for _ in range(3))
        for mine, direction in ((flows.orig, 1), (flows.resp, -1)):
            held = np.arange(shape[1]) < mine["count"][:, None].astype(np.int64)
            row, at = np.nonzero(held)
            place = mine["place"][row, at]
            times[row, place] = mine["time_ns"][row, at]
            sizes[row, place] = mine["size"][row, at]
            directions[row, place] = direction
        counts = flows.orig["count"] + flows.resp["count"]
        return {
            "count": counts,
            "sizes": lists(sizes, counts),
            "directions": lists(directions, counts),
            "times_ns": lists(steps_of(times), counts),
        }
