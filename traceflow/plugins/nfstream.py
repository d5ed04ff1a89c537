"""Plugin `nfstream`: columns with the names of NFStream, one definition each; docs/mapped-columns.md is their page.

`src2dst` is what the originator sent, `dst2src` what the responder sent, `bidirectional` both. Times are measured in
nanoseconds and given in milliseconds with their fraction. Inter-arrival times are one fewer than packets; standard
deviations are those of a sample (divisor: their count less one). What means nothing is empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.plugins.contract import Column, EndedFlows, Plugin
from traceflow.plugins.moments import TALK, joined, mean_of, note_talk, of_home, spread_of, with_values
from traceflow.plugins.sequences import SIZE_OPTION, size_code
from traceflow.tcp import FLAG_NAMES

__all__ = ["NFStream"]

_SIDES = {"bidirectional": "both directions", "src2dst": "the originator", "dst2src": "the responder"}
_FLAGS = ("syn", "cwr", "ece", "urg", "ack", "psh", "rst", "fin")
_STATISTICS = {"min": "smallest", "mean": "mean", "stddev": "sample standard deviation of the", "max": "largest"}
_MS_NS = 1e6
_TCP = 6


def _columns() -> tuple[Column, ...]:
    columns = []
    for side, who in _SIDES.items():
        for name, kind, unit, what in (
            ("first_seen_ms", "i8", "ms", "earliest time stamp, whole ms since 1970"),
            ("last_seen_ms", "i8", "ms", "latest time stamp, whole ms since 1970"),
            ("duration_ms", "f8", "ms", "from the earliest to the latest time stamp"),
            ("packets", "u8", "packets", "packets"),
            ("bytes", "u8", "octets", "octets, of the kind that option size says"),
        ):
            columns.append(Column(f"{side}_{name}", kind, unit, f"{what}, {who}", per="flow"))
    for side, who in _SIDES.items():
        for short, long in _STATISTICS.items():
            kind = "u4" if short in ("min", "max") else "f8"
            columns.append(Column(f"{side}_{short}_ps", kind, "octets", f"{long} packet size, {who}", per="flow"))
    for side, who in _SIDES.items():
        for short, long in _STATISTICS.items():
            what = f"{long} inter-arrival time, {who}"
            columns.append(Column(f"{side}_{short}_piat_ms", "f8", "ms", what, per="flow"))
    for side, who in _SIDES.items():
        for flag in _FLAGS:
            what = f"segments with {flag.upper()}, {who}"
            columns.append(Column(f"{side}_{flag}_packets", "u8", "segments", what, per="flow"))
    return tuple(columns)


class NFStream(Plugin):
    """NFStream's columns."""

    name = "nfstream"
    description = "the columns of NFStream under their names, with the definitions of docs/mapped-columns.md"
    prefix = ""
    columns = _columns()
    options = (dataclasses.replace(SIZE_OPTION, default="wire"),)
    record = np.dtype([("talk", TALK)], align=True)
    shared = np.dtype([("size", "u8")])

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._size = size_code(self.name, self.settings["size"])

    def on_start(self, shared: Any) -> None:
        """Tell the hook which size is meant."""
        shared["size"] = self._size

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Count a packet."""
        size = U64(packet["payload_octets"])
        if U64(shared["size"]) == U64(0):
            size = U64(frame["wire"])
        elif U64(shared["size"]) == U64(1):
            size = U64(packet["ip_octets"])
        note_talk(mine["talk"], partner["talk"], frame["time_ns"], size)

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """All columns."""
        rows, orig, resp = flows.rows, flows.orig["talk"], flows.resp["talk"]
        no_tcp = rows["protocol"] != _TCP
        flags = rows["orig"]["flags"], rows["resp"]["flags"]
        sizes = {
            "bidirectional": joined(orig["size"], resp["size"]),
            "src2dst": orig["size"],
            "dst2src": resp["size"],
        }
        gaps = {
            "bidirectional": of_home(flows.orig, flows.resp)["talk"]["flow_gap"],
            "src2dst": orig["gap"],
            "dst2src": resp["gap"],
        }
        times = {"bidirectional": rows, "src2dst": rows["orig"], "dst2src": rows["resp"]}
        counts = {"bidirectional": flags[0] + flags[1], "src2dst": flags[0], "dst2src": flags[1]}
        found: dict[str, Any] = {}
        for side in _SIDES:
            found |= _times(side, times[side], sizes[side]["count"] == 0)
            found |= {f"{side}_packets": sizes[side]["count"], f"{side}_bytes": sizes[side]["sum"]}
            found |= {f"{side}_{name}_ps": value for name, value in _statistics(sizes[side]).items()}
            found |= {f"{side}_{name}_piat_ms": value / _MS_NS for name, value in _statistics(gaps[side]).items()}
            for flag in _FLAGS:
                values = counts[side][:, FLAG_NAMES.index(flag)]
                found[f"{side}_{flag}_packets"] = np.ma.array(values, mask=no_tcp)
        return found


def _times(side: str, rows: Any, silent: Any) -> dict[str, Any]:
    """First and last time and the duration.

    Args:
        side: What stands before their names.
        rows: FLOW[k] or HALF[k].
        silent: Where there are no packets, bool[k].
    """
    first_ns, last_ns = rows["first_ns"], rows["last_ns"]
    duration_ns = last_ns.view(np.uint64) - first_ns.view(np.uint64)
    return {
        f"{side}_first_seen_ms": np.ma.array(first_ns // 10**6, mask=silent),
        f"{side}_last_seen_ms": np.ma.array(last_ns // 10**6, mask=silent),
        f"{side}_duration_ms": np.ma.array(duration_ns / _MS_NS, mask=silent),
    }


def _statistics(moments: Any) -> dict[str, Any]:
    """The four statistics of a sequence, MOMENTS[k]."""
    return {
        "min": with_values(moments, "lowest"),
        "mean": mean_of(moments),
        "stddev": spread_of(moments, sample=True),
        "max": with_values(moments, "highest"),
    }
