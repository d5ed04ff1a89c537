"""Plugin `cicflow`: columns with the names of cicflowmeter, one definition each; docs/mapped-columns.md is their page.

`fwd` is what the originator sent, `bwd` what the responder sent. Lengths are octets of payload, times microseconds with
their fraction, rates are per second. Inter-arrival times are one fewer than packets; standard deviations and the
variance are those of a sample (divisor: the count less one). What means nothing is empty.

A bulk is a run of at least 4 packets with payload in one direction, with none of the other direction between them and
no gap of more than 1 s. A subflow is a part of a flow without a gap of more than 1 s. A flow is active between gaps of
more than 5 s (option `idle_after`); such gaps are its idle times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.packets import WINDOW_KNOWN
from traceflow.plugins.contract import Column, EndedFlows, Option, Plugin, hook_helper
from traceflow.plugins.moments import (
    MOMENTS,
    TALK,
    gap_of,
    joined,
    mean_of,
    note,
    note_talk,
    of_home,
    once,
    ratio,
    spread_of,
    with_values,
)
from traceflow.tcp import FLAG_NAMES

__all__ = ["CicFlow"]

_TCP = 6
_US_NS, _SECOND_NS = 1e3, 10**9
_BULK_PACKETS = 4
_SIDES = {"fwd": "the originator", "bwd": "the responder"}
_WORDS = {"max": "largest", "min": "smallest", "mean": "mean", "std": "sample standard deviation of the"}


def _of_statistics(name: str, unit: str, what: str) -> list[Column]:
    """Columns of a sequence."""
    whole = ("max", "min") if unit == "octets" else ()
    return [
        Column(f"{name}_{short}", "u4" if short in whole else "f8", unit, f"{long} {what}", per="flow")
        for short, long in _WORDS.items()
    ]


def _columns() -> tuple[Column, ...]:
    found: list[Column] = []

    def add(name: str, kind: str, unit: str, what: str) -> None:
        found.append(Column(name, kind, unit, what, per="flow"))

    add("flow_duration", "f8", "us", "from the earliest to the latest time stamp")
    add("flow_byts_s", "f8", "octets/s", "payload of both directions divided by the duration")
    add("flow_pkts_s", "f8", "packets/s", "packets of both directions divided by the duration")
    add("down_up_ratio", "f8", "", "packets of the responder divided by those of the originator")
    add("pkt_size_avg", "f8", "octets", "mean payload of all packets, the same as pkt_len_mean")
    found.extend(_of_statistics("pkt_len", "octets", "payload length"))
    add("pkt_len_var", "f8", "octets squared", "sample variance of the payload length")
    for name, what in (
        ("flow_iat", "time between packets of the flow"),
        ("active", "time between gaps above option idle_after"),
        ("idle", "gap above option idle_after"),
    ):
        found.extend(_of_statistics(name, "us", what))
    for flag in FLAG_NAMES:
        add(f"{flag}_flag_cnt", "u8", "segments", f"segments with {flag.upper()}")
    for side, who in _SIDES.items():
        add(f"tot_{side}_pkts", "u8", "packets", f"packets of {who}")
        add(f"totlen_{side}_pkts", "u8", "octets", f"payload of {who}")
        found.extend(_of_statistics(f"{side}_pkt_len", "octets", f"payload length of {who}"))
        add(f"{side}_seg_size_avg", "f8", "octets", f"mean payload of {who}, the same as {side}_pkt_len_mean")
        add(f"{side}_iat_tot", "f8", "us", f"sum of the times between packets of {who}")
        found.extend(_of_statistics(f"{side}_iat", "us", f"time between packets of {who}"))
        add(f"{side}_pkts_s", "f8", "packets/s", f"packets of {who} divided by the duration of the flow")
        add(f"{side}_psh_flags", "u8", "segments", f"segments of {who} with PSH")
        add(f"{side}_urg_flags", "u8", "segments", f"segments of {who} with URG")
        add(f"{side}_header_len", "u8", "octets", f"headers behind IP (TCP, UDP, ...) of {who}, summed")
        add(f"{side}_seg_size_min", "u4", "octets", f"smallest such header of {who}")
        add(f"{side}_act_data_pkts", "u8", "packets", f"packets of {who} with payload")
        add(f"init_{side}_win_byts", "u2", "", f"window of the first segment of {who}, as sent")
        add(f"{side}_byts_b_avg", "f8", "octets", f"payload of {who} in a bulk, mean over its bulks")
        add(f"{side}_pkts_b_avg", "f8", "packets", f"packets with payload of {who} in a bulk, mean over its bulks")
        add(f"{side}_blk_rate_avg", "f8", "octets/s", f"payload in bulks of {who} divided by their duration")
        add(f"subflow_{side}_pkts", "f8", "packets", f"packets of {who} divided by the subflows")
        add(f"subflow_{side}_byts", "f8", "octets", f"payload of {who} divided by the subflows")
    return tuple(found)


@hook_helper
def _note_bulk(mine: Any, partner: Any, time_ns: Any, size: Any) -> None:
    """Add a packet with payload to the run of its direction, and end that of the other."""
    partner["run_packets"] = 0
    gap = gap_of(time_ns, mine["run_latest_ns"])
    if U64(mine["run_packets"]) == U64(0) or gap > U64(_SECOND_NS):
        mine["run_packets"] = 0
        mine["run_octets"] = 0
        mine["run_ns"] = 0
        mine["run_latest_ns"] = time_ns
        gap = U64(0)
    packets = U64(mine["run_packets"]) + U64(1)
    mine["run_packets"] = packets
    mine["run_octets"] = U64(mine["run_octets"]) + size
    mine["run_ns"] = U64(mine["run_ns"]) + gap
    mine["run_latest_ns"] = max(time_ns, mine["run_latest_ns"])
    if packets == U64(_BULK_PACKETS):
        mine["bulks"] = U64(mine["bulks"]) + U64(1)
        mine["bulk_packets"] = U64(mine["bulk_packets"]) + packets
        mine["bulk_octets"] = U64(mine["bulk_octets"]) + U64(mine["run_octets"])
        mine["bulk_ns"] = U64(mine["bulk_ns"]) + U64(mine["run_ns"])
    elif packets > U64(_BULK_PACKETS):
        mine["bulk_packets"] = U64(mine["bulk_packets"]) + U64(1)
        mine["bulk_octets"] = U64(mine["bulk_octets"]) + size
        mine["bulk_ns"] = U64(mine["bulk_ns"]) + gap


@hook_helper
def _note_pause(home: Any, time_ns: Any, before_ns: Any, gap: Any, idle_ns: Any) -> None:
    """Count subflows, and end an active time where a gap is long.

    Args:
        home: Record of the direction that sent the first packet.
        time_ns: Of the packet.
        before_ns: Latest time of both directions before it.
        gap: From there to the packet.
        idle_ns: The longest gap within an active time.
    """
    if gap > U64(_SECOND_NS):
        home["pauses"] = U64(home["pauses"]) + U64(1)
    if gap > idle_ns:
        note(home["active"], gap_of(before_ns, home["active_ns"]))
        note(home["idle"], gap)
        home["active_ns"] = time_ns


class CicFlow(Plugin):
    """CICFlowMeter's columns."""

    name = "cicflow"
    description = "the columns of CICFlowMeter under their names, with the definitions of docs/mapped-columns.md"
    prefix = ""
    columns = _columns()
    options = (Option("idle_after", 5.0, "seconds without a packet after which a flow is idle", 0.0, 1e9),)
    record = np.dtype(
        [
            ("talk", TALK),
            *((name, MOMENTS) for name in ("header", "active", "idle")),
            *((name, "u8") for name in ("data_packets", "bulks", "bulk_packets", "bulk_octets", "bulk_ns", "pauses")),
            *((name, "u8") for name in ("run_packets", "run_octets", "run_ns")),
            *((name, "i8") for name in ("run_latest_ns", "active_ns")),
            *((name, "u2") for name in ("window", "window_known")),
        ],
        align=True,
    )
    shared = np.dtype([("idle_ns", "u8")])

    def on_start(self, shared: Any) -> None:
        """Tell the hook after what time a flow is idle."""
        shared["idle_ns"] = round(self.settings["idle_after"] * _SECOND_NS)

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Count a packet."""
        time_ns, size = frame["time_ns"], U64(packet["payload_octets"])
        home = partner if U64(partner["talk"]["home"]) else mine
        if U64(home["talk"]["home"]) == U64(0):
            home["active_ns"] = time_ns
        before_ns = home["talk"]["flow_latest_ns"]
        gap = note_talk(mine["talk"], partner["talk"], time_ns, size)
        _note_pause(home, time_ns, before_ns, gap, U64(shared["idle_ns"]))
        header = U64(0)
        if U64(packet["transport"]) != U64(0) and U64(packet["payload"]) > U64(packet["transport"]):
            header = U64(packet["payload"]) - U64(packet["transport"])
        note(mine["header"], header)
        if size != U64(0):
            mine["data_packets"] = U64(mine["data_packets"]) + U64(1)
            _note_bulk(mine, partner, time_ns, size)
        if U64(mine["window_known"]) == U64(0) and U64(packet["bits"]) & U64(WINDOW_KNOWN):
            mine["window"] = packet["window"]
            mine["window_known"] = 1

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """All columns."""
        rows, home = flows.rows, of_home(flows.orig, flows.resp)
        duration_ns = rows["last_ns"].view(np.uint64) - rows["first_ns"].view(np.uint64)
        sizes = joined(flows.orig["talk"]["size"], flows.resp["talk"]["size"])
        latest_ns = home["talk"]["flow_latest_ns"].view(np.uint64)
        active = joined(home["active"], once(latest_ns - home["active_ns"].view(np.uint64)))
        no_tcp = rows["protocol"] != _TCP
        found: dict[str, Any] = {
            "flow_duration": duration_ns / _US_NS,
            "flow_byts_s": ratio(sizes["sum"], duration_ns) * _SECOND_NS,
            "flow_pkts_s": ratio(sizes["count"], duration_ns) * _SECOND_NS,
            "down_up_ratio": ratio(rows["resp"]["packets"], rows["orig"]["packets"]),
            "pkt_size_avg": mean_of(sizes),
            "pkt_len_var": spread_of(sizes, sample=True) ** 2,
            **_statistics("pkt_len", sizes),
        }
        for name, moments in (("flow_iat", home["talk"]["flow_gap"]), ("active", active), ("idle", home["idle"])):
            found |= _statistics(name, moments, _US_NS)
        flags = rows["orig"]["flags"] + rows["resp"]["flags"]
        for bit, flag in enumerate(FLAG_NAMES):
            found[f"{flag}_flag_cnt"] = np.ma.array(flags[:, bit], mask=no_tcp)
        for side, half, mine in (("fwd", rows["orig"], flows.orig), ("bwd", rows["resp"], flows.resp)):
            found |= _of_side(side, half["flags"], mine, duration_ns, home["pauses"] + np.uint64(1), no_tcp)
        return found


def _statistics(name: str, moments: Any, unit: float = 1.0) -> dict[str, Any]:
    """The statistics of a sequence.

    Args:
        name: What stands before their names.
        moments: MOMENTS[k].
        unit: By what they are divided.
    """
    return {
        f"{name}_max": with_values(moments, "highest") / unit,
        f"{name}_min": with_values(moments, "lowest") / unit,
        f"{name}_mean": mean_of(moments) / unit,
        f"{name}_std": spread_of(moments, sample=True) / unit,
    }


def _of_side(side: str, flags: Any, mine: Any, duration_ns: Any, subflows: Any, no_tcp: Any) -> dict[str, Any]:
    """The columns of a direction.

    Args:
        side: `fwd` or `bwd`.
        flags: Flag counters, uint64[k, 8].
        mine: Its records [k].
        duration_ns: Of the flows, [k].
        subflows: How many each flow has, [k].
        no_tcp: bool[k].
    """
    sizes, gaps = mine["talk"]["size"], mine["talk"]["gap"]
    return {
        f"tot_{side}_pkts": sizes["count"],
        f"totlen_{side}_pkts": sizes["sum"],
        **_statistics(f"{side}_pkt_len", sizes),
        f"{side}_seg_size_avg": mean_of(sizes),
        f"{side}_iat_tot": np.ma.array(gaps["sum"] / _US_NS, mask=sizes["count"] == 0),
        **_statistics(f"{side}_iat", gaps, _US_NS),
        f"{side}_pkts_s": ratio(sizes["count"], duration_ns) * _SECOND_NS,
        f"{side}_psh_flags": np.ma.array(flags[:, FLAG_NAMES.index("psh")], mask=no_tcp),
        f"{side}_urg_flags": np.ma.array(flags[:, FLAG_NAMES.index("urg")], mask=no_tcp),
        f"{side}_header_len": mine["header"]["sum"],
        f"{side}_seg_size_min": with_values(mine["header"], "lowest"),
        f"{side}_act_data_pkts": mine["data_packets"],
        f"init_{side}_win_byts": np.ma.array(mine["window"], mask=mine["window_known"] == 0),
        f"{side}_byts_b_avg": ratio(mine["bulk_octets"], mine["bulks"]),
        f"{side}_pkts_b_avg": ratio(mine["bulk_packets"], mine["bulks"]),
        f"{side}_blk_rate_avg": ratio(mine["bulk_octets"], mine["bulk_ns"]) * _SECOND_NS,
        f"subflow_{side}_pkts": ratio(sizes["count"], subflows),
        f"subflow_{side}_byts": ratio(sizes["sum"], subflows),
    }
