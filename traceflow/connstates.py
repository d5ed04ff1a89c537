"""What became of connections: ConnState, from the states of both ends, and histories as text; with Zeek's definitions.

Columns in, columns out, when flows have ended; the states themselves are the business of `states.py`.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from traceflow.states import (
    CLOSED,
    DATA_SEEN,
    ESTABLISHED,
    HAS_FIN,
    HISTORY_OCTETS,
    INACTIVE,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
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
    sent = (half["last_seq"] - side["start_seq"]).view(np.int32)
    acked = (side["acked_seq"] - side["start_seq"]).view(np.int32)
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
    orig, resp = np.minimum(orig, RESET), np.minimum(resp, RESET)
    orig_silent = (orig == INACTIVE) | (orig == PARTIAL)
    resp_silent = (resp == INACTIVE) | (resp == PARTIAL)
    attempted = (orig == SYN_SENT) | (orig == SYN_ACK_SENT)
    empty = _no_octets(gone["low"], gone["low_side"]) & _no_octets(gone["high"], gone["high_side"])
    half_open = np.zeros(len(gone), np.bool_)
    asked_for = (orig == RESET) & resp_silent  # few
    half_open[asked_for] = _syn_then_rst(history[asked_for])
    rules = (
        ((resp == RESET) & (attempted | ((orig == RESET) & empty)), ConnState.REJ),
        ((resp == RESET) & orig_silent, ConnState.RSTRH),
        (resp == RESET, ConnState.RSTR),
        ((orig == RESET) & ~resp_silent, ConnState.RSTO),
        (half_open, ConnState.RSTOS0),
        (orig == RESET, ConnState.OTH),
        ((orig == CLOSED) & (resp == CLOSED), ConnState.SF),
        ((orig == CLOSED) & resp_silent, ConnState.SH),
        (orig == CLOSED, ConnState.S2),
        ((resp == CLOSED) & orig_silent, ConnState.SHR),
        (resp == CLOSED, ConnState.S3),
        ((orig == SYN_SENT) & (resp == INACTIVE), ConnState.S0),
        ((orig == ESTABLISHED) & (resp == ESTABLISHED), ConnState.S1),
    )
    states = np.select([rule for rule, _ in rules], [np.uint8(state) for _, state in rules], np.uint8(ConnState.OTH))
    spoke = {end: (gone[end]["smooth"] & DATA_SEEN) != 0 for end in ("low", "high")}
    asked = np.where(upper, spoke["high"], spoke["low"])
    answered = np.where(upper, spoke["low"], spoke["high"])
    datagrams = np.array([[ConnState.OTH, ConnState.SHR], [ConnState.S0, ConnState.SF]], np.uint8)
    states = np.where(gone["protocol"] == _UDP, datagrams[asked.astype(int), answered.astype(int)], states)
    found: npt.NDArray[np.uint8] = np.where(
        np.isin(gone["protocol"], (_TCP, _UDP)), states, np.uint8(ConnState.OTH)
    ).astype(np.uint8)
    return found
