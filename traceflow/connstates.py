"""What became of connections: ConnState, from the states of both ends; with Zeek's definitions.

Asked once, when a flow has ended; the states themselves are the business of `states.py`.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.states import (
    ABORTED,
    DATA_SEEN,
    HAS_FIN,
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


# A line for each state of the originator, a word for each of the responder, both in the order of states.py: unseen, SYN
# sent, SYN received, midstream, established, FIN wait, aborted, aborted after FIN. Two pairs say too little: an
# originator that aborted before any answer may have sent its SYN just before (RSTOS0), and where both aborted and there
# was no data, the connection was refused (REJ).
_PAIRS = """
OTH OTH OTH OTH OTH SHR RSTRH RSTRH
S0  OTH OTH OTH OTH S3  REJ   REJ
OTH OTH OTH OTH OTH S3  REJ   REJ
OTH OTH OTH OTH OTH SHR RSTRH RSTRH
OTH OTH OTH OTH S1  S3  RSTR  RSTR
SH  S2  S2  SH  S2  SF  RSTR  RSTR
OTH RSTO RSTO OTH RSTO RSTO RSTR RSTR
OTH RSTO RSTO OTH RSTO RSTO RSTR RSTR
"""


def _pairs() -> npt.NDArray[np.uint8]:
    """uint8[64]: state of the originator * 8 + state of the responder, to ConnState; from `_PAIRS`."""
    words = [line.split() for line in _PAIRS.strip().splitlines()]
    return np.array([ConnState[word] for line in words for word in line], np.uint8)


_OF_PAIR = _pairs()


@inline_kernel
def _has_no_octets(half: Any, side: Any) -> Any:
    """Whether the numbers of a side leave no room for data: neither sent nor acknowledged, SYN and FIN apart."""
    control = U64(2) if U64(side["bits"]) & U64(HAS_FIN) else U64(1)
    end = (U64(side["iss"]) + control) & U64(0xFFFFFFFF)
    return not lies_after(half["last_seq"], end) and not lies_after(side["snd_una"], end)


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
    """ConnState of a TCP flow by the states of its ends."""
    found = U64(_OF_PAIR[(orig << U64(3)) | resp])
    if orig < U64(ABORTED):
        return found
    if resp >= U64(ABORTED):
        low, high = flow["low"], flow["high"]
        empty = _has_no_octets(low, flow["low_side"]) and _has_no_octets(high, flow["high_side"])
        return U64(_REJ) if empty else found
    return U64(_RSTOS0) if found == U64(_OTH) and _attempted_and_reset(flow) else found


@outline_kernel
def conn_state(flow: Any) -> Any:
    """The ConnState of a flow that ended: a LIVE row."""
    upper = flow["upper_originates"] != 0
    if flow["protocol"] == _TCP:
        low, high = U64(flow["low_side"]["state"]), U64(flow["high_side"]["state"])
        return _tcp_state(flow, high if upper else low, low if upper else high)
    if flow["protocol"] == _UDP:
        low, high = U64(flow["low"]["smooth"]) & U64(DATA_SEEN), U64(flow["high"]["smooth"]) & U64(DATA_SEEN)
        asked, answered = (high, low) if upper else (low, high)
        if answered:
            return U64(_SF) if asked else U64(_SHR)
        return U64(_S0) if asked else U64(_OTH)
    return U64(_OTH)


_SYN, _RST, _TURN = ord("S"), ord("R"), ord("^")
_ENDS_ATTEMPT = tuple(ord(letter) for letter in "HAFGIQ")
_OTH, _S0, _SF, _SHR = int(ConnState.OTH), int(ConnState.S0), int(ConnState.SF), int(ConnState.SHR)
_REJ, _RSTOS0 = int(ConnState.REJ), int(ConnState.RSTOS0)
