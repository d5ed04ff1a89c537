"""The room `closing`: what two states amount to. Exchanges that lead to them are in test_states.py and test_zeek.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from traceflow.closing import finished, reopens
from traceflow.compiled import U64, kernel
from traceflow.live import live_rows
from traceflow.packets import PACKET, SEQ_KNOWN
from traceflow.states import ABORTED, ESTABLISHED, FIN_WAIT, SYN_RECEIVED, SYN_SENT, UNSEEN
from traceflow.tcp import ACK, SYN


@kernel
def over(rows: Any) -> Any:
    return finished(rows[U64(0)])


@kernel
def opens_another(packets: Any, rows: Any) -> Any:
    return reopens(packets[U64(0)], rows[U64(0)])


def flow_of(orig: int, resp: int, *, upper: bool) -> Any:
    rows = live_rows(1)
    row = rows[0]
    row["upper_originates"] = upper
    near, far = ("high", "low") if upper else ("low", "high")
    row[f"{near}_side"]["state"], row[f"{far}_side"]["state"] = orig, resp
    row[f"{near}_side"]["iss"], row[f"{far}_side"]["iss"] = 100, 900
    return rows


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize(
    ("orig", "resp", "expected"),
    [
        (ESTABLISHED, ESTABLISHED, 0),
        (FIN_WAIT, ESTABLISHED, 0),
        (FIN_WAIT, FIN_WAIT, 1),
        (FIN_WAIT, UNSEEN, 1),
        (UNSEEN, FIN_WAIT, 1),
        (FIN_WAIT, ABORTED, 2),
        (ABORTED, ESTABLISHED, 2),
        (SYN_SENT, UNSEEN, 0),
    ],
)
def test_a_connection_is_over_by_both_fins_or_by_a_reset(orig: int, resp: int, expected: int, upper: bool) -> None:
    assert int(over(flow_of(orig, resp, upper=upper))) == expected


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize(
    ("orig", "resp", "flags", "seq", "expected"),
    [
        (ESTABLISHED, ESTABLISHED, SYN, 100, False),  # the same SYN once more
        (ESTABLISHED, ESTABLISHED, SYN, 101, True),
        (FIN_WAIT, FIN_WAIT, SYN, 100, True),  # whatever its number, behind the close
        (FIN_WAIT, ESTABLISHED, SYN, 100, False),
        (ESTABLISHED, ESTABLISHED, ACK, 101, False),
        (UNSEEN, SYN_RECEIVED, SYN | ACK, 900, False),
        (UNSEEN, SYN_RECEIVED, SYN | ACK, 901, True),
        (SYN_SENT, SYN_RECEIVED, SYN | ACK, 901, False),
        (SYN_RECEIVED, UNSEEN, SYN, 900, False),  # the SYN that the SYN+ACK of the originator answered
        (SYN_RECEIVED, UNSEEN, SYN, 901, True),
    ],
)
def test_a_syn_opens_another_flow_by_zeek_s_rule(
    orig: int, resp: int, flags: int, seq: int, expected: bool, upper: bool
) -> None:
    packet = np.zeros(1, PACKET)
    packet["flags"], packet["seq"], packet["bits"] = flags, seq, SEQ_KNOWN
    assert bool(opens_another(packet, flow_of(orig, resp, upper=upper))) is expected


def test_a_number_that_was_not_captured_opens_nothing() -> None:
    packet = np.zeros(1, PACKET)
    packet["flags"], packet["seq"] = SYN, 101
    assert not opens_another(packet, flow_of(ESTABLISHED, ESTABLISHED, upper=False))
