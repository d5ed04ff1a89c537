"""What became of connections: ConnState, from the states of both ends, and histories as text; with Zeek's definitions.

Columns in, columns out, when flows have ended; the states themselves are the business of `states.py`.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from traceflow.states import (
    ABORTED,
    DATA_SEEN,
    HAS_FIN,
    HISTORY_OCTETS,
)

__all__ = ["ConnState", "conn_states", "histories"]

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


def histories(gone: npt.NDArray[np.void]) -> npt.NDArray[np.bytes_]:
    """The histories of LIVE[k]: S48[k]."""
    if not len(gone):
        return np.zeros(0, f"S{HISTORY_OCTETS}")
    letters = np.ascontiguousarray(gone["history"])
    letters[np.arange(HISTORY_OCTETS) >= gone["letters"][:, None]] = 0
    texts: npt.NDArray[np.bytes_] = letters.view(f"S{HISTORY_OCTETS}").reshape(-1)
    return texts


def _no_octets(half: npt.NDArray[np.void], side: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Whether the numbers of a side leave no room for data: neither sent nor acknowledged, SYN and FIN apart."""
    sent = (half["last_seq"] - side["iss"]).view(np.int32)
    acked = (side["snd_una"] - side["iss"]).view(np.int32)
    control = 1 + ((side["bits"] & HAS_FIN) != 0)
    none: npt.NDArray[np.bool_] = np.maximum(sent, acked) <= control
    return none


def _syn_then_rst(history: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Whether the originator sent a SYN and a RST, and none of its letters H A F G I Q stands between them."""
    letters = np.ascontiguousarray(history).view(np.uint8).reshape(len(history), HISTORY_OCTETS)
    letters = np.where((letters[:, :1] == ord("^")), np.roll(letters, -1, axis=1), letters)
    resets = letters == ord("R")
    first_reset = np.where(resets.any(axis=1), resets.argmax(axis=1), HISTORY_OCTETS)
    others = np.isin(letters, np.frombuffer(b"HAFGIQ", np.uint8))
    first_other = np.where(others.any(axis=1), others.argmax(axis=1), HISTORY_OCTETS)
    answer: npt.NDArray[np.bool_] = (letters[:, 0] == ord("S")) & (first_reset < first_other)
    return answer


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
    """uint8[8, 8]: state of the originator, state of the responder, to ConnState; from `_PAIRS`."""
    words = [line.split() for line in _PAIRS.strip().splitlines()]
    return np.array([[ConnState[word] for word in line] for line in words], np.uint8)


_OF_PAIR = _pairs()
_OF_DATAGRAMS = np.array([[ConnState.OTH, ConnState.SHR], [ConnState.S0, ConnState.SF]], np.uint8)


def conn_states(gone: npt.NDArray[np.void], history: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint8]:
    """The ConnState of LIVE rows.

    Args:
        gone: LIVE[k].
        history: Their histories.

    Returns:
        uint8[k].
    """
    upper = gone["upper_originates"] != 0
    low, high = gone["low_side"]["state"], gone["high_side"]["state"]
    orig, resp = np.where(upper, high, low), np.where(upper, low, high)
    found = _OF_PAIR[orig, resp]
    orig_aborted = orig >= ABORTED
    unanswered = np.flatnonzero(orig_aborted & (found == ConnState.OTH))
    found[unanswered[_syn_then_rst(history[unanswered])]] = ConnState.RSTOS0
    both = np.flatnonzero(orig_aborted & (resp >= ABORTED))
    ends = gone[both]
    empty = _no_octets(ends["low"], ends["low_side"]) & _no_octets(ends["high"], ends["high_side"])
    found[both[empty]] = ConnState.REJ
    heard = {end: (gone[end]["smooth"] & DATA_SEEN != 0).astype(np.intp) for end in ("low", "high")}
    asked, answered = np.where(upper, heard["high"], heard["low"]), np.where(upper, heard["low"], heard["high"])
    found = np.where(gone["protocol"] == _UDP, _OF_DATAGRAMS[asked, answered], found)
    found[~np.isin(gone["protocol"], (_TCP, _UDP))] = ConnState.OTH
    return found
