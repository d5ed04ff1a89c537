"""Plugin `peafowl`: the 13 statistics of Peafowl for each direction, and its first lengths and inter-arrival times.

OUTBOUND is from the sender of the first packet of the flow, which is not always our originator: where a capture begins
with a SYN-ACK, or a profile judges by ports, it is the responder.

What is counted: BYTES from the IP header up; zero windows in segments without SYN, FIN and RST, as `zero_window` of the
TCP analysis does (a RST has the window 0 by habit); retransmissions as `retransmitted_segments` does. The round trip is
from the latest SYN to the first SYN-ACK for the sender of the SYN, and from the latest SYN-ACK to the other end's
ACK of exactly that for its sender. All of it is counted here, so nothing depends on the TCP analysis.

Its `syn_ack_to_ack_ns`, which `statistic` has to take where it is given a row alone, follows tshark: there a segment of
either end with these numbers ends the handshake, so the two differ where the sender of the SYN-ACK speaks again before
it is answered.

What a protocol or a flow does not have is empty; only the window scale is -1 in TCP where no SYN told one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64
from traceflow.flows import ANALYSIS_FLAGS, NOT_SEEN_NS
from traceflow.packets import FLAGS_KNOWN, WINDOW_KNOWN, WINDOW_SCALE_OPTION
from traceflow.plugins.contract import Column, EndedFlows, Option, Plugin
from traceflow.plugins.sequences import lists, steps_of
from traceflow.tcp import ACK, FIN, FLAG_NAMES, RST, SYN

__all__ = ["Direction", "Peafowl", "Statistic", "statistic"]


class Direction(enum.IntEnum):
    """Which packets of a flow."""

    OUTBOUND = 0
    """Those of the sender of the first packet."""
    INBOUND = 1
    """Those that came back."""


class Statistic(enum.IntEnum):
    """What is counted of a direction."""

    PACKETS = 0
    """Packets."""
    BYTES = 1
    """Octets from the IP header up."""
    TIMESTAMP_FIRST = 2
    """Earliest time stamp, ns since 1970."""
    TIMESTAMP_LAST = 3
    """Latest time stamp, ns since 1970."""
    L4_TCP_RTT_SYN_ACK = 4
    """From its SYN to the SYN-ACK, or from its SYN-ACK to the ACK, ns."""
    L4_TCP_COUNT_SYN = 5
    """Segments with SYN."""
    L4_TCP_COUNT_FIN = 6
    """Segments with FIN."""
    L4_TCP_COUNT_RST = 7
    """Segments with RST."""
    L4_TCP_COUNT_RETRANSMISSIONS = 8
    """Segments that repeat what was seen."""
    L4_TCP_COUNT_ZERO_WINDOW = 9
    """Segments without SYN, FIN and RST that offer no window."""
    L4_TCP_WINDOW_SCALING = 10
    """Window scale of its SYN; -1 where it had none."""
    L7_PACKETS = 11
    """Packets with payload."""
    L7_BYTES = 12
    """Octets of payload."""


_TCP = 6
_MOST_NS = 2**63 - 1
_where: Any = np.ma.where
_UNITS = {"BYTES": "octets", "L7_BYTES": "octets", "PACKETS": "packets", "L7_PACKETS": "packets"}
_ZERO_WINDOW_AT = ANALYSIS_FLAGS.index("zero_window")
_SYN_SENT, _SYN_ACK_SENT, _RTT_KNOWN, _SCALED = 1, 2, 4, 8  # bits of the record's `seen`
_PLAIN = {
    Statistic.PACKETS: "packets",
    Statistic.BYTES: "ip_octets",
    Statistic.TIMESTAMP_FIRST: "first_ns",
    Statistic.TIMESTAMP_LAST: "last_ns",
    Statistic.L7_PACKETS: "payload_packets",
    Statistic.L7_BYTES: "payload_octets",
    Statistic.L4_TCP_COUNT_RETRANSMISSIONS: "retransmitted_segments",
}
_FLAGS = {Statistic.L4_TCP_COUNT_SYN: "syn", Statistic.L4_TCP_COUNT_FIN: "fin", Statistic.L4_TCP_COUNT_RST: "rst"}


def _responder_first(rows: Any) -> Any:
    """Whether the responder sent the first packet.

    Args:
        rows: FLOW[k], or a row of it.
    """
    orig, resp = rows["orig"], rows["resp"]
    return (resp["packets"] != 0) & ((orig["packets"] == 0) | (resp["opened_frame"] < orig["opened_frame"]))


def statistic(
    row: np.void, which: Statistic, direction: Direction, records: tuple[np.void, np.void] | None = None
) -> int | None:
    """One statistic of one direction of a flow, live or ended.

    Args:
        row: FLOW row.
        which: The statistic.
        direction: The direction.
        records: What the plugin keeps of originator and responder, if it runs. Without it the row alone is asked, which
            has L4_TCP_RTT_SYN_ACK, L4_TCP_COUNT_ZERO_WINDOW and L4_TCP_WINDOW_SCALING only where the flow was analysed.

    Returns:
        Its value; None where it is not known, or means nothing for the protocol or for a direction without packets
        (where counts are 0).
    """
    side = ("orig", "resp")[int(direction != Direction.OUTBOUND) ^ int(_responder_first(row))]
    half, tcp = row[side], int(row["protocol"]) == _TCP
    if which.name.startswith("L4_TCP") and not tcp:
        return None
    if which in _FLAGS:
        return int(half["flags"][FLAG_NAMES.index(_FLAGS[which])])
    if which in _PLAIN:
        timeless = which in (Statistic.TIMESTAMP_FIRST, Statistic.TIMESTAMP_LAST) and not half["packets"]
        return None if timeless else int(half[_PLAIN[which]])
    if records is not None:
        return _of_record(records[side == "resp"], which)
    if not row["analysed"]:
        return None
    if which is Statistic.L4_TCP_COUNT_ZERO_WINDOW:
        return int(half["analysed"]["counts"][_ZERO_WINDOW_AT])
    if which is Statistic.L4_TCP_WINDOW_SCALING:
        return int(half["analysed"]["window_scale"])
    return _round_trip(row, side)


def _round_trip(row: np.void, side: str) -> int | None:
    """The round trip of one side by the times of the handshake."""
    # In some profiles the sender of a SYN can be the responder; the history has its letters in lower case then.
    history = bytes(row["history"])
    swapped = (b"s" in history and b"S" not in history) or (b"H" in history and b"h" not in history)
    time_ns = int(row["syn_to_syn_ack_ns" if (side == "orig") != swapped else "syn_ack_to_ack_ns"])
    return None if time_ns == NOT_SEEN_NS else time_ns


def _of_record(record: np.void, which: Statistic) -> int | None:
    """What the plugin counted of a direction."""
    if which is Statistic.L4_TCP_COUNT_ZERO_WINDOW:
        return int(record["zero_windows"])
    if which is Statistic.L4_TCP_WINDOW_SCALING:
        return int(record["window_scale"]) if record["seen"] & _SCALED else -1
    return int(record["rtt_ns"]) if record["seen"] & _RTT_KNOWN else None


def _columns() -> tuple[Column, ...]:
    columns = []
    for direction in Direction:
        side = direction.name.lower()
        for one in Statistic:
            kind = "i8" if one.name.startswith("TIMESTAMP") or one.name.endswith(("RTT_SYN_ACK", "SCALING")) else "u8"
            unit = "ns" if kind == "i8" else _UNITS.get(one.name, "segments")
            unit = "bits" if one is Statistic.L4_TCP_WINDOW_SCALING else unit
            columns.append(Column(f"{side}_{one.name.lower()}", kind, unit, f"Statistic.{one.name}", per="flow"))
        what = "the first packets with payload, joined by semicolons"
        columns.append(Column(f"{side}_l7_lengths", "text", "octets", f"octets of payload of {what}", per="flow"))
        columns.append(Column(f"{side}_l7_iats_ns", "text", "ns", f"times between {what}; first 0", per="flow"))
    return tuple(columns)


class Peafowl(Plugin):
    """Peafowl's statistics."""

    name = "peafowl"
    description = "Peafowl's 13 statistics, first payload lengths and inter-arrival times of each direction"
    prefix = ""
    columns = _columns()
    options = (Option("n", 10, "how many packets with payload are kept of each direction", 1, 255),)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        most = self.settings["n"]
        self.record = np.dtype(
            [
                *((name, "u8") for name in ("l7_packets", "zero_windows")),
                *((name, "i8") for name in ("asked_ns", "rtt_ns")),
                *((name, "u4") for name in ("answer_seq", "answer_ack")),  # numbers of the ACK of a SYN-ACK
                *((name, "u1") for name in ("window_scale", "seen")),
                ("length", "u4", (most,)),
                ("time_ns", "i8", (most,)),
            ],
            align=True,
        )

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Count a packet."""
        length = U64(packet["payload_octets"])
        if length != U64(0):
            at = U64(mine["l7_packets"])
            if at < U64(len(mine["length"])):
                mine["length"][at] = length
                mine["time_ns"][at] = frame["time_ns"]
            mine["l7_packets"] = at + U64(1)
        bits, flags = U64(packet["bits"]), U64(packet["flags"])
        if U64(packet["protocol"]) != U64(_TCP) or bits & U64(FLAGS_KNOWN) == U64(0):
            return
        if bits & U64(WINDOW_KNOWN) and U64(packet["window"]) == U64(0) and flags & U64(SYN | FIN | RST) == U64(0):
            mine["zero_windows"] = U64(mine["zero_windows"]) + U64(1)
        # This segment may answer the SYN or the SYN-ACK of the other end, and be a question itself.
        asked, time_ns = U64(partner["seen"]), frame["time_ns"]
        answers = flags & U64(SYN | ACK) == U64(SYN | ACK) and asked & U64(_SYN_SENT) != U64(0)
        if flags & U64(SYN | ACK | FIN | RST) == U64(ACK) and asked & U64(_SYN_ACK_SENT):
            answers = packet["seq"] == partner["answer_seq"] and packet["ack"] == partner["answer_ack"]
        if answers and asked & U64(_RTT_KNOWN) == U64(0):
            round_trip_ns = time_ns - partner["asked_ns"]
            wrapped = time_ns > partner["asked_ns"] and round_trip_ns < np.int64(0)
            partner["rtt_ns"] = np.int64(_MOST_NS) if wrapped else round_trip_ns
            partner["seen"] = asked | U64(_RTT_KNOWN)
        if flags & U64(SYN):
            kind = U64(_SYN_ACK_SENT) if flags & U64(ACK) else U64(_SYN_SENT)
            mine["asked_ns"] = time_ns
            mine["answer_seq"] = packet["ack"]
            mine["answer_ack"] = (U64(packet["seq"]) + U64(1)) & U64(0xFFFFFFFF)
            mine["seen"] = (U64(mine["seen"]) & U64(_RTT_KNOWN | _SCALED)) | kind
            if U64(packet["options"]) & U64(WINDOW_SCALE_OPTION):
                mine["seen"] = U64(mine["seen"]) | U64(_SCALED)
                mine["window_scale"] = packet["window_scale"]

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """Statistics by direction of the first packet."""
        turned = _responder_first(flows.rows)
        found: dict[str, Any] = {}
        sides = [_of_side(flows.rows, side, mine) for side, mine in (("orig", flows.orig), ("resp", flows.resp))]
        for name in sides[0]:
            for direction, (usual, other) in zip(Direction, (sides, sides[::-1]), strict=True):
                chosen = _where(turned, other[name], usual[name])
                found[f"{direction.name.lower()}_{name}"] = chosen
        return found


def _of_side(rows: npt.NDArray[np.void], side: str, mine: npt.NDArray[np.void]) -> dict[str, Any]:
    """All columns of one side."""
    half, silent = rows[side], rows[side]["packets"] == 0
    no_tcp = rows["protocol"] != _TCP
    found: dict[str, Any] = {}
    for which, name in _PLAIN.items():
        found[which.name.lower()] = np.ma.array(half[name], mask=no_tcp if which.name.startswith("L4") else False)
    for which, name in _FLAGS.items():
        found[which.name.lower()] = np.ma.array(half["flags"][:, FLAG_NAMES.index(name)], mask=no_tcp)
    for name in ("timestamp_first", "timestamp_last"):
        found[name] = np.ma.array(found[name].data, mask=silent)
    scale = np.where(mine["seen"] & _SCALED, mine["window_scale"].astype(np.int64), -1)
    found["l7_packets"] = np.ma.array(mine["l7_packets"])
    found["l4_tcp_count_zero_window"] = np.ma.array(mine["zero_windows"], mask=no_tcp)
    found["l4_tcp_window_scaling"] = np.ma.array(scale, mask=no_tcp)
    found["l4_tcp_rtt_syn_ack"] = np.ma.array(mine["rtt_ns"], mask=no_tcp | (mine["seen"] & _RTT_KNOWN == 0))
    kept = np.minimum(mine["l7_packets"], mine["length"].shape[1])
    found["l7_lengths"] = lists(mine["length"], kept)
    found["l7_iats_ns"] = lists(steps_of(mine["time_ns"]), kept)
    return found
