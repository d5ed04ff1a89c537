"""What became of connections: ConnState, from the states of both ends, and histories as text; with Zeek's definitions.

Asked once, when a flow has ended; the states themselves are the business of `states.py`.
"""

from __future__ import annotations

import enum
from typing import Any

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.states import (
    CLOSED,
    DATA_SEEN,
    ESTABLISHED,
    HAS_FIN,
    INACTIVE,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
)
from traceflow.tcp import lies_after

__all__ = ["ConnState", "conn_state"]

_TCP, _UDP = 6, 17


class ConnState(enum.IntEnum):
    """What became of a connection: the 13 values of Zeek's `conn_state`, by their names there."""

    OTH = 0
    """No SYN was seen: traffic of a connection that was open before; or another protocol than TCP and UDP."""
    S0 = 1
    """A SYN without any answer. UDP: only the originator sent."""
    S1 = 2
    """Established, not closed."""
    SF = 3
    """Established and closed by both sides. UDP: both sides sent."""
    REJ = 4
    """The SYN was answered by a RST."""
    S2 = 5
    """Established; the originator closed, the responder did not."""
    S3 = 6
    """Established; the responder closed, the originator did not."""
    RSTO = 7
    """Established; the originator sent a RST."""
    RSTR = 8
    """The responder sent a RST."""
    RSTOS0 = 9
    """The originator sent a SYN and then a RST, the responder no SYN+ACK."""
    RSTRH = 10
    """The responder sent a SYN+ACK and then a RST, the originator no SYN."""
    SH = 11
    """The originator sent a SYN and then a FIN, the responder no SYN+ACK."""
    SHR = 12
    """The responder sent a SYN+ACK and then a FIN, the originator no SYN. UDP: only the responder sent."""

    @property
    def text(self) -> str:
        """The name in tables and files."""
        return self.name


@inline_kernel
def _leaves_no_room(half: Any, side: Any) -> Any:
    """Whether the numbers of a side leave no room for data: neither sent nor acknowledged, SYN and FIN apart."""
    control = U64(2) if U64(side["bits"]) & U64(HAS_FIN) else U64(1)
    end = (U64(side["start_seq"]) + control) & U64(0xFFFFFFFF)
    return not lies_after(half["last_seq"], end) and not lies_after(side["acked_seq"], end)


@outline_kernel
def _attempted_and_reset(flow: Any) -> Any:
    """Whether the originator sent a SYN and a RST, and none of its letters H A F G I Q stands between them."""
    history = flow["history"]
    at = U64(1) if history[U64(0)] == _TURN else U64(0)
    if history[at] != _SYN:
        return False
    for i in range(at, U64(flow["letters"])):
        letter = history[U64(i)]
        if letter == _RST:
            return True
        for other in _ENDS_ATTEMPT:
            if letter == other:
                return False
    return False


@outline_kernel
def _tcp_state(flow: Any, orig: Any, resp: Any) -> Any:
    """ConnState of a TCP flow by the states of its ends, RESET_AFTER_FIN taken for RESET."""
    orig_silent = orig == U64(INACTIVE) or orig == U64(PARTIAL)
    resp_silent = resp == U64(INACTIVE) or resp == U64(PARTIAL)
    if resp == U64(RESET):
        empty = _leaves_no_room(flow["low"], flow["low_side"]) and _leaves_no_room(flow["high"], flow["high_side"])
        if orig == U64(SYN_SENT) or orig == U64(SYN_ACK_SENT) or (orig == U64(RESET) and empty):
            return _REJ
        return _RSTRH if orig_silent else _RSTR
    if orig == U64(RESET):
        if not resp_silent:
            return _RSTO
        return _RSTOS0 if _attempted_and_reset(flow) else _OTH
    if orig == U64(CLOSED):
        if resp == U64(CLOSED):
            return _SF
        return _SH if resp_silent else _S2
    if resp == U64(CLOSED):
        return _SHR if orig_silent else _S3
    if orig == U64(SYN_SENT) and resp == U64(INACTIVE):
        return _S0
    return _S1 if orig == U64(ESTABLISHED) and resp == U64(ESTABLISHED) else _OTH


@outline_kernel
def conn_state(flow: Any) -> Any:
    """The ConnState of a flow that ended: a LIVE row."""
    upper = flow["upper_originates"] != 0
    if flow["protocol"] == _TCP:
        low, high = min(U64(flow["low_side"]["state"]), U64(RESET)), min(U64(flow["high_side"]["state"]), U64(RESET))
        return _tcp_state(flow, high if upper else low, low if upper else high)
    if flow["protocol"] == _UDP:
        low, high = U64(flow["low"]["smooth"]) & U64(DATA_SEEN), U64(flow["high"]["smooth"]) & U64(DATA_SEEN)
        asked, answered = (high, low) if upper else (low, high)
        if answered:
            return _SF if asked else _SHR
        return _S0 if asked else _OTH
    return _OTH


_SYN, _RST, _TURN = ord("S"), ord("R"), ord("^")
_ENDS_ATTEMPT = tuple(ord(letter) for letter in "HAFGIQ")
_OTH, _S0, _S1, _SF, _REJ, _S2, _S3, _RSTO, _RSTR, _RSTOS0, _RSTRH, _SH, _SHR = (U64(state) for state in ConnState)
