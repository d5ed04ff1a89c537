"""Plugin `basicstats`: packets, sizes, times between packets, rates and asymmetries of each direction.

The statistics of Tranalyzer2's plugin of that name. Divisors: the mean is over all packets of the direction, and the
standard deviation is that of the population. The first packet of a direction has the inter-arrival time 0, so the mean
is the duration divided by the packets. A packet whose time stamp is not later than one before it has the inter-arrival
time 0 as well, and `backward` counts those that are earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.plugins.contract import Column, EndedFlows, Plugin
from traceflow.plugins.moments import MOMENTS, gap_of, mean_of, note, ratio, spread_of, with_values

__all__ = ["BasicStats"]

_SIZES = {"wire": "frame on the wire", "ip": "IP packet", "payload": "payload"}
_SECOND_NS = 1e9


def _of_sizes(size: str, what: str) -> tuple[Column, ...]:
    return (
        Column(f"{size}_octets", "u8", "octets", f"sum of the octets: {what}"),
        Column(f"{size}_min", "u4", "octets", f"smallest {what}"),
        Column(f"{size}_max", "u4", "octets", f"largest {what}"),
        Column(f"{size}_mean", "f8", "octets", f"mean of all packets: {what}"),
        Column(f"{size}_std", "f8", "octets", f"population standard deviation: {what}"),
    )


class BasicStats(Plugin):
    """Numbers, sizes, inter-arrival times, rates and asymmetries."""

    name = "basicstats"
    description = "packets, sizes, inter-arrival times, rates and asymmetries of each direction"
    columns = (
        Column("packets", "u8", "packets", "packets of this direction"),
        Column("duration_ns", "u8", "ns", "from its earliest to its latest time stamp"),
        *(column for size, what in _SIZES.items() for column in _of_sizes(size, what)),
        Column("iat_min_ns", "u8", "ns", "shortest inter-arrival time, that of the first packet (0) included"),
        Column("iat_max_ns", "u8", "ns", "longest inter-arrival time"),
        Column("iat_mean_ns", "f8", "ns", "sum of the inter-arrival times divided by the packets"),
        Column("iat_std_ns", "f8", "ns", "their population standard deviation, the first one (0) included"),
        Column("backward", "u8", "packets", "packets with a time stamp before an earlier one of this direction"),
        Column("packets_per_second", "f8", "packets/s", "packets divided by the duration; empty where that is 0"),
        Column("octets_per_second", "f8", "octets/s", "octets on the wire divided by it; empty where that is 0"),
        Column("packets_asymmetry", "f8", "", "(sent - received) / (sent + received) of packets"),
        Column("octets_asymmetry", "f8", "", "the same of octets on the wire"),
        Column("payload_asymmetry", "f8", "", "the same of octets of payload; 0 where neither side sent any"),
    )
    record = np.dtype(
        [
            *((name, MOMENTS) for name in (*_SIZES, "iat")),
            ("latest_ns", "i8"),
            ("backward", "u8"),
        ],
        align=True,
    )

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Count a packet."""
        time_ns = frame["time_ns"]
        if U64(mine["wire"]["count"]) == U64(0):
            mine["latest_ns"] = time_ns
        note(mine["wire"], U64(frame["wire"]))
        note(mine["ip"], U64(packet["ip_octets"]))
        note(mine["payload"], U64(packet["payload_octets"]))
        note(mine["iat"], gap_of(time_ns, mine["latest_ns"]))
        if time_ns < mine["latest_ns"]:
            mine["backward"] = U64(mine["backward"]) + U64(1)
        else:
            mine["latest_ns"] = time_ns

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """All but `backward`, which is a field of the record."""
        found: dict[str, Any] = {}
        for side, mine, other in (("orig", flows.orig, flows.resp), ("resp", flows.resp, flows.orig)):
            half = flows.rows[side]
            # Modulo 2**64: the two may be 2**63 ns apart.
            duration_ns = half["last_ns"].view(np.uint64) - half["first_ns"].view(np.uint64)
            values = {
                "packets": mine["wire"]["count"],
                "duration_ns": duration_ns,
                "iat_min_ns": mine["iat"]["lowest"],
                "iat_max_ns": mine["iat"]["highest"],
                "iat_mean_ns": mean_of(mine["iat"]),
                "iat_std_ns": spread_of(mine["iat"]),
                "packets_per_second": ratio(mine["wire"]["count"], duration_ns) * _SECOND_NS,
                "octets_per_second": ratio(mine["wire"]["sum"], duration_ns) * _SECOND_NS,
                "packets_asymmetry": _asymmetry(mine["wire"]["count"], other["wire"]["count"]),
                "octets_asymmetry": _asymmetry(mine["wire"]["sum"], other["wire"]["sum"]),
                "payload_asymmetry": _asymmetry(mine["payload"]["sum"], other["payload"]["sum"]),
            }
            for size in _SIZES:
                moments = mine[size]
                values[f"{size}_octets"] = moments["sum"]
                values[f"{size}_min"] = with_values(moments, "lowest")
                values[f"{size}_max"] = with_values(moments, "highest")
                values[f"{size}_mean"] = mean_of(moments)
                values[f"{size}_std"] = spread_of(moments)
            found |= {f"{side}_{name}": value for name, value in values.items()}
        return found


def _asymmetry(sent: Any, received: Any) -> Any:
    """(sent - received) / (sent + received), 0 where the sum is 0."""
    sent, received = sent.astype(np.float64), received.astype(np.float64)
    return ratio(sent - received, sent + received).filled(0.0)
