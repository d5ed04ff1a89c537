"""Plugin `tcpflags`: TCP flags and their oddities, windows, options, TTL and fragments of each direction.

Flag combinations are judged by RFC 9293 (section 3.10.7 says which segments a receiver drops) and by what port scanners
send. An anomaly says that a segment is odd, not that it is an attack: SYN with payload is TCP Fast Open (RFC 7413), and
FIN without ACK was legal before RFC 793.

Of the headers, the packet loop has no IP flags but "fragment", no type of service, no IP identification and no options
of segments without SYN; so there are no columns for them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.packets import (
    BAD_CHECKSUM,
    FLAGS_KNOWN,
    FRAGMENT,
    MSS_OPTION,
    WHOLE_TCP_HEADER,
    WINDOW_KNOWN,
    WINDOW_SCALE_OPTION,
)
from traceflow.plugins.contract import Column, EndedFlows, Plugin, hook_helper
from traceflow.plugins.moments import MOMENTS, mean_of, note, with_values
from traceflow.tcp import ACK, FIN, PSH, RST, SYN, URG

__all__ = ["Anomaly", "TcpFlags"]


class Anomaly(enum.IntFlag):
    """Bits of the column `anomalies`."""

    SYN_FIN = 0x0001
    """SYN and FIN."""
    SYN_RST = 0x0002
    """SYN and RST."""
    FIN_RST = 0x0004
    """FIN and RST."""
    NULL = 0x0008
    """None of FIN, SYN, RST, PSH, ACK, URG."""
    XMAS = 0x0010
    """FIN, PSH and URG without SYN, RST and ACK."""
    ALL_SIX = 0x0020
    """All of FIN, SYN, RST, PSH, ACK, URG; the bits above are set as well."""
    FIN_WITHOUT_ACK = 0x0040
    """FIN without ACK, SYN and RST; an XMAS segment too."""
    NO_ACK = 0x0080
    """Other flags than those above, but none of ACK, SYN, RST, FIN: after a handshake every segment has ACK."""
    SYN_PSH_URG = 0x0100
    """SYN with PSH or URG."""
    SYN_PAYLOAD = 0x0200
    """SYN with payload."""
    RST_PAYLOAD = 0x0400
    """RST with payload."""
    BAD_CHECKSUM = 0x0800
    """The checksum is wrong, where checksums are verified."""
    BAD_HEADER = 0x1000
    """The header is longer than its packet, or shorter than 20 octets, by what it says itself."""


_SIX = FIN | SYN | RST | PSH | ACK | URG
_A = {one.name: int(one) for one in Anomaly}
_SYN_FIN, _SYN_RST, _FIN_RST, _NULL = _A["SYN_FIN"], _A["SYN_RST"], _A["FIN_RST"], _A["NULL"]
_XMAS, _ALL_SIX, _FIN_WITHOUT_ACK, _NO_ACK = _A["XMAS"], _A["ALL_SIX"], _A["FIN_WITHOUT_ACK"], _A["NO_ACK"]
_SYN_PSH_URG, _SYN_PAYLOAD, _RST_PAYLOAD = _A["SYN_PSH_URG"], _A["SYN_PAYLOAD"], _A["RST_PAYLOAD"]
_BAD_SUM, _BAD_HEADER = _A["BAD_CHECKSUM"], _A["BAD_HEADER"]
_TCP = 6
_RISES, _FALLS = 1, 2  # in which direction the window went last


@hook_helper
def _anomalies(flags: Any, payload: Any) -> Any:
    """Anomaly bits of flags, and of how many octets of payload come with them."""
    six = flags & U64(_SIX)
    found = U64(0)
    if six == U64(0):
        return U64(_NULL)
    if six & U64(SYN):
        found |= U64(_SYN_FIN) if six & U64(FIN) else U64(0)
        found |= U64(_SYN_RST) if six & U64(RST) else U64(0)
        found |= U64(_SYN_PSH_URG) if six & U64(PSH | URG) else U64(0)
        found |= U64(_SYN_PAYLOAD) if payload != U64(0) else U64(0)
        found |= U64(_ALL_SIX) if six == U64(_SIX) else U64(0)
    if six & U64(RST):
        found |= U64(_FIN_RST) if six & U64(FIN) else U64(0)
        found |= U64(_RST_PAYLOAD) if payload != U64(0) else U64(0)
    if six & U64(ACK | SYN | RST) == U64(0):
        found |= U64(_FIN_WITHOUT_ACK) if six & U64(FIN) else U64(_NO_ACK)
        found |= U64(_XMAS) if six == U64(FIN | PSH | URG) else U64(0)
    return found


@hook_helper
def _note_window(mine: Any, window: Any) -> None:
    """Note a window, and whether it rose or fell."""
    moments = mine["window"]
    if U64(moments["count"]) == U64(0):
        mine["window_first"] = window
    elif window != U64(mine["window_last"]):
        went = U64(_RISES) if window > U64(mine["window_last"]) else U64(_FALLS)
        if went == U64(_RISES):
            mine["window_rises"] = U64(mine["window_rises"]) + U64(1)
        else:
            mine["window_falls"] = U64(mine["window_falls"]) + U64(1)
        if U64(mine["window_went"]) != U64(0) and U64(mine["window_went"]) != went:
            mine["window_turns"] = U64(mine["window_turns"]) + U64(1)
        mine["window_went"] = went
    mine["window_last"] = window
    note(moments, window)


@hook_helper
def _note_ttl(mine: Any, ttl: Any, first: Any) -> None:
    """Note the TTL of a packet."""
    if first:
        mine["ttl_min"] = ttl
        mine["ttl_max"] = ttl
    elif ttl != U64(mine["ttl_last"]):
        mine["ttl_changes"] = U64(mine["ttl_changes"]) + U64(1)
        mine["ttl_min"] = min(ttl, U64(mine["ttl_min"]))
        mine["ttl_max"] = max(ttl, U64(mine["ttl_max"]))
    mine["ttl_last"] = ttl


class TcpFlags(Plugin):
    """Aggregates of the header fields of a direction."""

    name = "tcpflags"
    description = "TCP flags and their anomalies, windows, options of the SYN, TTL and fragments of each direction"
    columns = (
        Column("flags", "u1", "", "all TCP flags that were seen: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ..."),
        Column("anomalies", "u2", "", "bits of what was odd in any segment, see traceflow.plugins.tcpflags.Anomaly"),
        Column("anomalous_segments", "u8", "segments", "segments with any anomaly"),
        Column("window_first", "u2", "", "window of the first segment, as sent (not scaled), like all windows here"),
        Column("window_min", "u2", "", "smallest window"),
        Column("window_max", "u2", "", "largest window"),
        Column("window_mean", "f8", "", "mean window of its segments"),
        Column("window_rises", "u8", "segments", "segments with a larger window than the one before"),
        Column("window_falls", "u8", "segments", "segments with a smaller window than the one before"),
        Column("window_turns", "u8", "segments", "changes between rising and falling"),
        Column("zero_windows", "u8", "segments", "segments without SYN, FIN and RST with the window 0"),
        Column("options", "u1", "", "options of its SYNs: MSS 1, window scale 2, SACK permitted 4, time stamps 8"),
        Column("mss", "u2", "octets", "maximum segment size of its latest SYN that had one"),
        Column("window_scale", "u1", "bits", "window scale of its latest SYN that had one, as sent"),
        Column("ttl_min", "u1", "hops", "smallest IPv4 TTL or IPv6 hop limit"),
        Column("ttl_max", "u1", "hops", "largest"),
        Column("ttl_changes", "u8", "packets", "packets with another one than the packet before"),
        Column("fragments", "u8", "packets", "packets that are IP fragments, or lie in one"),
    )
    record = np.dtype(
        [
            ("window", MOMENTS),
            *((name, "u8") for name in ("packets", "segments", "anomalous_segments", "window_rises", "window_falls")),
            *((name, "u8") for name in ("window_turns", "zero_windows", "ttl_changes", "fragments")),
            *((name, "u2") for name in ("anomalies", "window_first", "window_last", "mss")),
            *((name, "u1") for name in ("flags", "options", "window_scale", "window_went")),
            *((name, "u1") for name in ("ttl_min", "ttl_max", "ttl_last")),
        ],
        align=True,
    )

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        """Aggregate a packet."""
        bits, flags = U64(packet["bits"]), U64(packet["flags"])
        _note_ttl(mine, U64(packet["ttl"]), U64(mine["packets"]) == U64(0))
        mine["packets"] = U64(mine["packets"]) + U64(1)
        if bits & U64(FRAGMENT):
            mine["fragments"] = U64(mine["fragments"]) + U64(1)
        if U64(packet["protocol"]) != U64(_TCP) or bits & U64(FLAGS_KNOWN) == U64(0):
            return
        mine["segments"] = U64(mine["segments"]) + U64(1)
        mine["flags"] = U64(mine["flags"]) | flags
        found = _anomalies(flags, U64(packet["payload_octets"]))
        if bits & U64(BAD_CHECKSUM):
            found |= U64(_BAD_SUM)
        options = U64(packet["options"])
        if bits & U64(WINDOW_KNOWN) and options & U64(WHOLE_TCP_HEADER) == U64(0):  # else the capture cut it
            found |= U64(_BAD_HEADER)
        if found:
            mine["anomalies"] = U64(mine["anomalies"]) | found
            mine["anomalous_segments"] = U64(mine["anomalous_segments"]) + U64(1)
        if bits & U64(WINDOW_KNOWN):
            _note_window(mine, U64(packet["window"]))
            if U64(packet["window"]) == U64(0) and flags & U64(SYN | FIN | RST) == U64(0):
                mine["zero_windows"] = U64(mine["zero_windows"]) + U64(1)
        if flags & U64(SYN):
            mine["options"] = U64(mine["options"]) | (options & ~U64(WHOLE_TCP_HEADER))
            if options & U64(MSS_OPTION):
                mine["mss"] = packet["mss"]
            if options & U64(WINDOW_SCALE_OPTION):
                mine["window_scale"] = packet["window_scale"]

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        """All values; what is of TCP is masked where no segment was seen."""
        found: dict[str, Any] = {}
        for side, mine in (("orig", flows.orig), ("resp", flows.resp)):
            no_segment, no_window = mine["segments"] == 0, mine["window"]["count"] == 0
            no_syn = no_segment | (mine["flags"] & SYN == 0)
            for name in ("flags", "anomalies", "anomalous_segments"):
                found[f"{side}_{name}"] = np.ma.array(mine[name], mask=no_segment)
            for name in ("window_first", "window_rises", "window_falls", "window_turns", "zero_windows"):
                found[f"{side}_{name}"] = np.ma.array(mine[name], mask=no_window)
            found[f"{side}_window_min"] = with_values(mine["window"], "lowest")
            found[f"{side}_window_max"] = with_values(mine["window"], "highest")
            found[f"{side}_window_mean"] = mean_of(mine["window"])
            found[f"{side}_options"] = np.ma.array(mine["options"], mask=no_syn)
            found[f"{side}_mss"] = np.ma.array(mine["mss"], mask=mine["options"] & MSS_OPTION == 0)
            no_scale = mine["options"] & WINDOW_SCALE_OPTION == 0
            found[f"{side}_window_scale"] = np.ma.array(mine["window_scale"], mask=no_scale)
        return found
