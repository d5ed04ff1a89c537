"""Plugin tcpwin: small TCP windows, as Tranalyzer2's tcpWin sees them. It cuts flows by timeouts of its own.

The rule, for each TCP segment but what later fragments of it carry, is a chain of steps that is entered at the state
of the sender's direction:

    NEW   a SYN leads to BGN, with the timeout `bgn`; without ACK nothing happens; else the state is EST, and
    BGN   the timeout is `est`, whichever of the two it is; and
    EST   a FIN or RST that this direction has ever sent leads to ABRT, with the timeout `est`; else fewer than `flwprg`
          small windows are no harm; else the direction is abnormal, and both directions are ABRT, with `abrt`; and
    ABRT  the timeout is `abrt`.

A window is small below `threshold`, as sent, without its scale. Each one raises the alarm of the flow. A direction
keeps the timeout of the profile until the first segment that sets one. The option `new` changes nothing, as in the
model, which has the constant and never sets it: its packet file of the M57 capture shows 182 s, that of the core, for
both directions that stay NEW (RSTs without ACK).

It is written with the public contract only, and may be read as an example of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.packets import FLAGS_KNOWN, WINDOW_KNOWN
from traceflow.plugins.contract import Column, EndedFlows, Option, Plugin
from traceflow.tcp import ACK, FIN, RST, SYN

__all__ = ["ABNORMAL", "ABRT", "BGN", "EST", "NEW", "SEEN", "TcpWin"]

NEW, BGN, EST, ABRT = 0, 1, 2, 4
"""States of a direction; bits, so that they can be gathered by OR. No packet leads to NEW."""

SEEN = 0x40
"""Bit of `status`: a TCP segment was seen (Tranalyzer2: THU). The low five bits are flags that were sent."""
ABNORMAL = 0x80
"""Bit of `status`: this direction sent `flwprg` small windows while established (Tranalyzer2: ABNRM)."""

_LOW_FLAGS = 0x1F
_TCP = 6
_MOST_SECONDS = 1e9  # 32 years; with the latest time stamp, 2**62 ns, it still fits 64 bits
_MOST_WINDOWS = 2**32 - 1


def _timeout(name: str, default_s: float, description: str) -> Option:
    return Option(name, default_s, description, 0.0, _MOST_SECONDS)


class TcpWin(Plugin):
    """Small windows, and the timeouts that follow from them."""

    name = "tcpwin"
    description = "small TCP windows, and timeouts by the state of each direction (Tranalyzer2's tcpWin)"
    columns = (
        Column("status", "u1", "", "flags sent (FIN, SYN, RST, PSH, ACK), 0x40 TCP seen, 0x80 abnormal"),
        Column("state", "u1", "", "0 new, 1 begun by a SYN, 2 met in mid-connection, 4 finished or abnormal"),
        Column("zero_windows", "u4", "segments", "segments with a window below the threshold"),
        Column("ttl", "u1", "", "time to live, or hop limit, of the first packet"),
        Column("window", "u2", "", "window of the first segment, as sent"),
    )
    options = (
        _timeout("new", 10.0, "timeout in state NEW, in seconds; changes nothing: no segment sets it"),
        _timeout("bgn", 2.2, "timeout behind a SYN, in seconds"),
        _timeout("est", 1.0, "timeout when established, in seconds"),
        _timeout("abrt", 0.001, "timeout behind a FIN or RST, or when abnormal, in seconds"),
        Option("threshold", 1, "windows below it are small, as sent", 0, 65536),
        Option("flwprg", 2, "small windows of a direction that make it abnormal", 0, _MOST_WINDOWS),
    )
    record = np.dtype(
        [
            ("zero_windows", "u4"),
            ("window", "u2"),
            ("status", "u1"),
            ("state", "u1"),
            ("ttl", "u1"),
            ("window_seen", "u1"),  # 1: `window` holds one
        ]
    )
    shared = np.dtype(
        [
            ("bgn_ns", "i8"),
            ("est_ns", "i8"),
            ("abrt_ns", "i8"),
            ("threshold", "u8"),
            ("flwprg", "u8"),
            ("zero_windows", "u8"),  # of all flows
        ]
    )

    def on_start(self, shared: Any) -> None:
        """Hand the constants to the compiled hook."""
        for name in ("bgn", "est", "abrt"):
            shared[f"{name}_ns"] = round(self.settings[name] * 1e9)
        shared["threshold"] = self.settings["threshold"]
        shared["flwprg"] = self.settings["flwprg"]
        self._status = self._state = 0

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """See the rule above. A segment whose flags were not captured, as in later fragments, says nothing."""
        if U64(steer["packets"]) == U64(1):
            mine["ttl"] = packet["ttl"]
        known = U64(packet["bits"])
        if U64(packet["protocol"]) != U64(_TCP) or known & U64(FLAGS_KNOWN) == U64(0):
            return
        if known & U64(WINDOW_KNOWN) != U64(0):
            if mine["window_seen"] == 0:
                mine["window"] = packet["window"]
                mine["window_seen"] = 1
            if U64(packet["window"]) < U64(shared["threshold"]):
                mine["zero_windows"] = U64(mine["zero_windows"]) + U64(1)
                shared["zero_windows"] = U64(shared["zero_windows"]) + U64(1)
                steer["alarm"] = 1
        flags = U64(packet["flags"])
        status = U64(mine["status"]) | (flags & U64(_LOW_FLAGS)) | U64(SEEN)
        mine["status"] = status
        if mine["state"] == NEW:
            if flags & U64(SYN) != U64(0):
                mine["state"] = BGN
                steer["timeout_ns"] = shared["bgn_ns"]
                return
            if flags & U64(ACK) == U64(0):
                return
            mine["state"] = EST
        if mine["state"] != ABRT:
            steer["timeout_ns"] = shared["est_ns"]
            if status & U64(FIN | RST) != U64(0):
                mine["state"] = ABRT
                return
            if U64(mine["zero_windows"]) < U64(shared["flwprg"]):
                return
            mine["status"] = status | U64(ABNORMAL)
            mine["state"] = ABRT
            if U64(steer["partner_packets"]) != U64(0):
                partner["state"] = ABRT
                steer["partner_timeout_ns"] = shared["abrt_ns"]
        steer["timeout_ns"] = shared["abrt_ns"]

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """Gather what all directions say; a window that was never seen is none, and other protocols say nothing."""
        tcp = flows.rows["protocol"] == _TCP
        values = {}
        for side, records in (("orig", flows.orig), ("resp", flows.resp)):
            self._status |= int(np.bitwise_or.reduce(records["status"], initial=0))
            self._state |= int(np.bitwise_or.reduce(records["state"], initial=0))
            for name in ("status", "state", "zero_windows"):
                values[f"{side}_{name}"] = np.ma.array(records[name], mask=~tcp)
            values[f"{side}_window"] = np.ma.array(records["window"], mask=records["window_seen"] == 0)
        return values

    def report(self, shared: Any) -> Iterable[str]:
        """What all directions say together."""
        return (
            f"status 0x{self._status:02x}, state 0x{self._state:02x} (OR of all directions)",
            f"{shared['zero_windows']} windows below {self.settings['threshold']}",
        )
