"""What the states of both ends amount to while a flow lives: whether it is over, and whether a SYN opens another one.

The questions of the profiles that end flows by states, not by what a segment shows (`tcp_end`, `reuse` of Options).
The states themselves are the business of states.py; what follows from an answer is decided by tracking.py.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel
from traceflow.packets import SEQ_KNOWN
from traceflow.states import ABORTED, FIN_WAIT, SYN_RECEIVED, UNSEEN
from traceflow.tcp import ACK, SYN

__all__ = ["finished", "reopens"]


@inline_kernel
def finished(flow: Any) -> Any:
    """Whether the states say that a connection is over: by a RST, by both FINs, or by a FIN to an end never heard.

    Returns:
        0: it goes on; 1: by FINs; 2: by a RST.
    """
    low, high = U64(flow["low_side"]["state"]), U64(flow["high_side"]["state"])
    if low >= U64(ABORTED) or high >= U64(ABORTED):
        return U64(2)
    if low == U64(FIN_WAIT):
        return U64(1) if high == U64(FIN_WAIT) or high == U64(UNSEEN) else U64(0)
    return U64(1) if high == U64(FIN_WAIT) and low == U64(UNSEEN) else U64(0)


@inline_kernel
def reopens(packet: Any, flow: Any) -> Any:
    """Whether a segment opens a new flow by Zeek's rule, which looks at the originator's numbers alone.

    A SYN does after both sides have closed, and otherwise if its number is not that of the originator's start, whoever
    sends it. A SYN+ACK does where nothing was seen of the originator, and its number is not the responder's start.

    Args:
        packet: PACKET row.
        flow: LIVE row.
    """
    flags = U64(packet["flags"])
    if flags & U64(SYN) == U64(0) or U64(packet["bits"]) & U64(SEQ_KNOWN) == U64(0):
        return False
    upper = flow["upper_originates"] != 0
    orig = flow["high_side"] if upper else flow["low_side"]
    resp = flow["low_side"] if upper else flow["high_side"]
    state = U64(orig["state"])
    if flags & U64(ACK):
        return state == U64(UNSEEN) and packet["seq"] != resp["iss"]
    if state >= U64(FIN_WAIT) and U64(resp["state"]) >= U64(FIN_WAIT):
        return True
    belated = state == U64(SYN_RECEIVED) and U64(resp["state"]) == U64(UNSEEN)  # the SYN of that SYN+ACK
    return packet["seq"] != orig["iss"] and not (belated and packet["seq"] == resp["iss"])
