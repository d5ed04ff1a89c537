"""The room `connstates`: the word for a pair of states. The exchanges that lead to them are in test_states.py."""

from __future__ import annotations

import numpy as np
import pytest

from traceflow.analysis import analysis_rows
from traceflow.connstates import ConnState
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW
from traceflow.live import live_rows
from traceflow.states import CLOSED, ESTABLISHED, INACTIVE, PARTIAL, RESET, SYN_SENT


def word(orig: int, resp: int, history: bytes = b"", *, upper: bool = False, protocol: int = 6, sent: int = 0) -> str:
    rows = live_rows(1)
    row = rows[0]
    row["protocol"] = protocol
    row["upper_originates"] = upper
    row["history"][: len(history)] = list(history)
    row["letters"] = len(history)
    near, far = ("high", "low") if upper else ("low", "high")
    row[f"{near}_side"]["state"], row[f"{far}_side"]["state"] = orig, resp
    row["low"]["last_seq"] = sent
    flows = np.zeros(1, FLOW)
    assemble_flows(rows, analysis_rows(0), flows, False)
    return ConnState(int(flows["conn_state"][0])).text


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize(
    ("orig", "resp", "expected"),
    [
        (SYN_SENT, INACTIVE, "S0"),
        (ESTABLISHED, ESTABLISHED, "S1"),
        (CLOSED, CLOSED, "SF"),
        (SYN_SENT, RESET, "REJ"),
        (CLOSED, ESTABLISHED, "S2"),
        (ESTABLISHED, CLOSED, "S3"),
        (RESET, ESTABLISHED, "RSTO"),
        (ESTABLISHED, RESET, "RSTR"),
        (INACTIVE, RESET, "RSTRH"),
        (PARTIAL, RESET, "RSTRH"),
        (CLOSED, INACTIVE, "SH"),
        (PARTIAL, CLOSED, "SHR"),
        (PARTIAL, PARTIAL, "OTH"),
        (INACTIVE, INACTIVE, "OTH"),
    ],
)
def test_words(orig: int, resp: int, expected: str, upper: bool) -> None:
    """Zeek's definitions, one by one."""
    assert word(orig, resp, upper=upper) == expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [(b"SR", "RSTOS0"), (b"^SR", "RSTOS0"), (b"SDR", "RSTOS0"), (b"SAR", "OTH"), (b"R", "OTH"), (b"SaR", "RSTOS0")],
)
def test_reset_attempts(history: bytes, expected: str) -> None:
    """A SYN first, then a RST, and between them none of the originator's H A F G I Q."""
    assert word(RESET, INACTIVE, history) == expected


def test_resets_of_both() -> None:
    """Without octets it is a refusal: one number is the SYN's."""
    assert word(RESET, RESET, sent=1) == "REJ"
    assert word(RESET, RESET, sent=2) == "RSTR"


def test_other_protocols_are_oth() -> None:
    assert word(CLOSED, CLOSED, protocol=1) == "OTH"
