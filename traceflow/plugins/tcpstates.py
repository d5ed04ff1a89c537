"""Plugin tcpstates: what is odd in the life of a TCP connection, as Tranalyzer2's tcpStates sees it.

Each direction has a state of its own, and the timeout of its state holds for it; until its first segment that of the
profile does. A segment is judged by the state of its sender; what it says of both is said of the sender alone while
the other direction was not heard (it has no partner).

- NEW, until the SYNs of both were acknowledged: all that is no SYN, SYN+ACK, ACK or RST+ACK of a handshake is a
  malformed establishment, and from there on the direction counts as established, closing or reset by what it sent.
- ESTABLISHED: SYN, or a segment without ACK, is malformed; FIN leads to CLOSING, RST has both RESET.
- CLOSING: the FINs of both acknowledged have both CLOSED.
- CLOSED and RESET: anything more is an anomaly. The ACK that leads to CLOSED is judged before.

An acknowledgment counts where its number is the one behind the SYN or FIN, exactly. Later fragments, and segments whose
flags were not captured, say nothing. What only the end of a flow shows is added there: SYNs or FINs that were never
acknowledged, and a FIN scan, which is suspected where a FIN+ACK is the first that was heard of a flow.

It is written with the public contract only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel
from traceflow.packets import FLAGS_KNOWN
from traceflow.plugins.contract import Column, EndedFlows, Option, Plugin
from traceflow.tcp import ACK, FIN, RST, SYN, sequence_difference

__all__ = [
    "CLOSED",
    "CLOSING",
    "ESTABLISHED",
    "MALFORMED_ESTABLISHMENT",
    "MALFORMED_FLAGS",
    "MALFORMED_TEARDOWN",
    "NEW",
    "PACKETS_AFTER_RESET",
    "PACKETS_AFTER_TEARDOWN",
    "RESET",
    "RESET_BY_SENDER",
    "SCAN",
    "TcpStates",
]

NEW, ESTABLISHED, CLOSING, CLOSED, RESET = range(5)
"""States of a direction."""

MALFORMED_ESTABLISHMENT = 0x01
"""Bit of `anomalies`: no handshake of three segments with the right numbers."""
MALFORMED_TEARDOWN = 0x02
"""Bit of `anomalies`: not the FINs of both sides, both acknowledged."""
MALFORMED_FLAGS = 0x04
"""Bit of `anomalies`: SYN, or no ACK, while established."""
PACKETS_AFTER_TEARDOWN = 0x08
"""Bit of `anomalies`: this side sent more when closed."""
PACKETS_AFTER_RESET = 0x10
"""Bit of `anomalies`: this side sent more after a RST of either side."""
RESET_BY_SENDER = 0x40
"""Bit of `anomalies`: this side sent the RST."""
SCAN = 0x80
"""Bit of `anomalies`: it may be a scan."""

# Bits of the field `known` of the record.
_SYN_SEEN, _SYN_ACKED, _FIN_SEEN, _FIN_ACKED, _SUSPECT = 1, 2, 4, 8, 16
_TCP = 6
_MOST_SECONDS = 1e9  # 32 years; with the latest time stamp, 2**62 ns, it still fits 64 bits


@inline_kernel
def _blame(record: Any, anomalies: Any) -> Any:
    record["anomalies"] = U64(record["anomalies"]) | U64(anomalies)


@inline_kernel
def _learn(record: Any, bits: Any) -> Any:
    record["known"] = U64(record["known"]) | U64(bits)


@inline_kernel
def _blame_both(mine: Any, partner: Any, paired: Any, anomalies: Any) -> Any:
    _blame(mine, anomalies)
    if paired:
        _blame(partner, anomalies)


@inline_kernel
def _lead_both(mine: Any, partner: Any, paired: Any, state: Any) -> Any:
    mine["state"] = state
    if paired:
        partner["state"] = state


@inline_kernel
def _acknowledges(packet: Any, partner: Any, seen: Any, number: Any) -> Any:
    """Whether a segment acknowledges the SYN or FIN of the other side exactly; a side not heard has sent neither."""
    if U64(packet["flags"]) & U64(ACK) == U64(0) or U64(partner["known"]) & U64(seen) == U64(0):
        return False
    return sequence_difference(packet["ack"], number) == U64(1)


@inline_kernel
def _note_fin(packet: Any, mine: Any) -> Any:
    """A FIN was sent. Its number lies behind the payload of its segment; that of a second one says nothing new."""
    mine["state"] = CLOSING
    if U64(mine["known"]) & U64(_FIN_SEEN) == U64(0):
        mine["fin"] = (U64(packet["seq"]) + U64(packet["payload_octets"])) & U64(0xFFFFFFFF)
        _learn(mine, _FIN_SEEN)


@inline_kernel
def _begin(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """A SYN was sent in state NEW, with ACK or without."""
    mine["syn"] = packet["seq"]
    _learn(mine, _SYN_SEEN)
    if U64(packet["flags"]) & U64(ACK) == U64(0):
        return
    if _acknowledges(packet, partner, _SYN_SEEN, partner["syn"]):
        _learn(partner, _SYN_ACKED)
    else:
        _lead_both(mine, partner, paired, ESTABLISHED)
        _blame_both(mine, partner, paired, MALFORMED_ESTABLISHMENT)


@inline_kernel
def _refuse(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """A RST was sent in state NEW: with ACK, to someone, it refuses a connection as it should."""
    _lead_both(mine, partner, paired, RESET)
    _blame(mine, RESET_BY_SENDER)
    if not paired:
        _blame(mine, MALFORMED_ESTABLISHMENT | SCAN)
    elif U64(packet["flags"]) & U64(ACK) == U64(0):
        _blame_both(mine, partner, paired, MALFORMED_ESTABLISHMENT)


@inline_kernel
def _finish(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """A FIN was sent in state NEW: alone it may be a scan at once, with ACK at the end of the flow."""
    if U64(packet["flags"]) & U64(ACK) == U64(0):
        _blame(mine, SCAN)
        return
    _note_fin(packet, mine)
    _blame_both(mine, partner, paired, MALFORMED_ESTABLISHMENT)
    if not paired:
        _learn(mine, _SUSPECT)


@inline_kernel
def _establish(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """Neither SYN, FIN nor RST was sent in state NEW: the last ACK of the handshake, or something in mid-connection."""
    if _acknowledges(packet, partner, _SYN_SEEN, partner["syn"]):
        _learn(partner, _SYN_ACKED)
        if U64(mine["known"]) & U64(_SYN_ACKED) != U64(0):
            _lead_both(mine, partner, paired, ESTABLISHED)
    else:
        _lead_both(mine, partner, paired, ESTABLISHED)
        _blame_both(mine, partner, paired, MALFORMED_ESTABLISHMENT)


@inline_kernel
def _go_on(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """A segment was sent in state ESTABLISHED or CLOSING."""
    flags = U64(packet["flags"])
    if mine["state"] == ESTABLISHED and flags & U64(SYN | ACK) != U64(ACK):
        _blame_both(mine, partner, paired, MALFORMED_FLAGS)
    if flags & U64(RST) != U64(0):
        _lead_both(mine, partner, paired, RESET)
        _blame_both(mine, partner, paired, MALFORMED_TEARDOWN)
        _blame(mine, RESET_BY_SENDER)
    elif flags & U64(FIN) != U64(0):
        _note_fin(packet, mine)


@inline_kernel
def _close(packet: Any, mine: Any, partner: Any, paired: Any) -> Any:
    """Note whether the FIN of the other side was acknowledged, and close both where that was the last thing to do."""
    if _acknowledges(packet, partner, _FIN_SEEN, partner["fin"]):
        _learn(partner, _FIN_ACKED)
    if U64(mine["known"]) & U64(partner["known"]) & U64(_FIN_ACKED) != U64(0):
        _lead_both(mine, partner, paired, CLOSED)


def _timeout(name: str, default_s: float, description: str) -> Option:
    return Option(name, default_s, f"{description}, in seconds", 0.0, _MOST_SECONDS)


class TcpStates(Plugin):
    """States, timeouts and anomalies of TCP connections."""

    name = "tcpstates"
    description = "anomalies of TCP connections, and timeouts by the state of each direction (Tranalyzer2's tcpStates)"
    columns = (
        Column("state", "u1", "", "0 new, 1 established, 2 closing, 3 closed, 4 reset"),
        Column(
            "anomalies",
            "u1",
            "",
            "0x01 malformed establishment, 0x02 malformed teardown, 0x04 malformed flags, 0x08 packets after teardown,"
            " 0x10 packets after reset, 0x40 reset by this side, 0x80 potential scan",
        ),
    )
    options = (
        _timeout("new", 120.0, "timeout of a direction that is new"),
        _timeout("established", 610.0, "timeout of one that is established"),
        _timeout("closing", 120.0, "timeout behind its FIN"),
        _timeout("closed", 10.0, "timeout behind the FINs of both"),
        _timeout("reset", 0.1, "timeout behind a RST"),
    )
    record = np.dtype(
        [
            ("syn", "u4"),  # number of its SYN
            ("fin", "u4"),  # number of its FIN
            ("state", "u1"),
            ("anomalies", "u1"),
            ("known", "u1"),
        ]
    )
    shared = np.dtype([("timeouts_ns", "i8", (RESET + 1,))])  # by state

    def on_start(self, shared: Any) -> None:
        """Hand the timeouts to the compiled hook."""
        for state, option in enumerate(self.options):
            shared["timeouts_ns"][state] = round(self.settings[option.name] * 1e9)
        self._anomalies = 0

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Judge a segment by the state of its sender, and set the timeouts of the states that it leads to."""
        if U64(packet["protocol"]) != U64(_TCP) or U64(packet["bits"]) & U64(FLAGS_KNOWN) == U64(0):
            return
        paired = U64(steer["partner_packets"]) != U64(0)
        flags = U64(packet["flags"])
        state, before = U64(mine["state"]), U64(partner["state"])
        if state == U64(CLOSED):
            _blame(mine, PACKETS_AFTER_TEARDOWN)
        elif state == U64(RESET):
            _blame(mine, PACKETS_AFTER_RESET)
        else:
            if state != U64(NEW):
                _go_on(packet, mine, partner, paired)
            elif flags & U64(SYN) != U64(0):
                _begin(packet, mine, partner, paired)
            elif flags & U64(RST) != U64(0):
                _refuse(packet, mine, partner, paired)
            elif flags & U64(FIN) != U64(0):
                _finish(packet, mine, partner, paired)
            else:
                _establish(packet, mine, partner, paired)
            if flags & U64(RST) == U64(0):
                _close(packet, mine, partner, paired)
        steer["timeout_ns"] = shared["timeouts_ns"][U64(mine["state"])]
        if U64(partner["state"]) != before:
            steer["partner_timeout_ns"] = shared["timeouts_ns"][U64(partner["state"])]

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """Add what only the end shows, and gather the anomalies; other protocols say nothing."""
        tcp = flows.rows["protocol"] == _TCP
        sides = {"orig": (flows.orig, flows.resp), "resp": (flows.resp, flows.orig)}
        values = {}
        for side, (mine, partner) in sides.items():
            known = mine["known"] & partner["known"]
            torn_down = known & _FIN_ACKED != 0
            found = mine["anomalies"].copy()
            found[known & _SYN_ACKED == 0] |= MALFORMED_ESTABLISHMENT
            found[~torn_down] |= MALFORMED_TEARDOWN
            found[~torn_down & (mine["known"] & _SUSPECT != 0)] |= SCAN
            spoke = tcp & (flows.rows[side]["packets"] != 0)
            self._anomalies |= int(np.bitwise_or.reduce(found[spoke], initial=0))
            values[f"{side}_anomalies"] = np.ma.array(found, mask=~tcp)
            values[f"{side}_state"] = np.ma.array(mine["state"], mask=~tcp)
        return values

    def report(self, shared: Any) -> Iterable[str]:
        """The anomalies of all directions together."""
        return (f"anomalies 0x{self._anomalies:02x} (OR of all directions)",)
