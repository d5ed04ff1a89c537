"""The room `endings`: FLOW rows made of rows that ended. What the analysis adds is in test_analysis.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from traceflow.analysis import analysis_rows
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW, NOT_SEEN_NS, EndCause
from traceflow.live import live_rows
from traceflow.states import HISTORY_OCTETS

LOW, HIGH = (1, 2, 1000), (3, 4, 80)  # address halves and port


def assembled(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    flows = np.zeros(len(rows), FLOW)
    assemble_flows(rows, np.arange(len(rows), dtype=np.uint32), analysis_rows(0), flows, analysis=False)
    return flows


def ended(*, upper_originates: int = 0, low: dict[str, Any] | None = None, high: dict[str, Any] | None = None) -> Any:
    rows = live_rows(1)
    row = rows[0]
    row["low_hi"], row["low_lo"], row["low_port"] = LOW
    row["high_hi"], row["high_lo"], row["high_port"] = HIGH
    row["number"], row["protocol"], row["ip_version"], row["cause"] = 9, 6, 6, EndCause.RST
    row["upper_originates"] = upper_originates
    for end, columns in (("low", low), ("high", high)):
        for name, value in (columns or {}).items():
            part = row[end] if name in row[end].dtype.names else row[f"{end}_rest"]
            part[name] = value
    return assembled(rows)[0]


@pytest.mark.parametrize(("upper", "orig", "resp"), [(0, LOW, HIGH), (1, HIGH, LOW)])
def test_ends_become_originator_and_responder(upper: int, orig: tuple[int, ...], resp: tuple[int, ...]) -> None:
    flow = ended(upper_originates=upper, low={"packets": 5, "wire_octets": 50}, high={"packets": 7, "wire_octets": 70})
    assert (*flow["orig_addr"], flow["orig_port"]) == orig
    assert (*flow["resp_addr"], flow["resp_port"]) == resp
    assert (flow["orig"]["packets"], flow["resp"]["packets"]) == ((7, 5) if upper else (5, 7))
    assert (flow["orig"]["wire_octets"], flow["resp"]["wire_octets"]) == ((70, 50) if upper else (50, 70))
    assert (flow["number"], flow["protocol"], flow["ip_version"], flow["upper_originates"]) == (9, 6, 6, upper)


@pytest.mark.parametrize("cause", EndCause)
def test_reason_follows_from_cause(cause: EndCause) -> None:
    rows = live_rows(1)
    rows["cause"] = cause
    flow = assembled(rows)[0]
    assert (flow["end_cause"], flow["end_reason"]) == (cause, cause.reason)


@pytest.mark.parametrize(
    ("low", "high", "times"),
    [
        ({"packets": 1, "first_ns": 5, "last_ns": 9}, {"packets": 1, "first_ns": 3, "last_ns": 7}, (3, 9)),
        ({"packets": 1, "first_ns": 5, "last_ns": 9}, {}, (5, 9)),
        ({}, {"packets": 1, "first_ns": 5, "last_ns": 9}, (5, 9)),
        ({"packets": 1, "first_ns": -9, "last_ns": -5}, {}, (-9, -5)),  # and not the zeros of the silent side
    ],
)
def test_times_of_a_flow(low: dict[str, int], high: dict[str, int], times: tuple[int, int]) -> None:
    flow = ended(low=low, high=high)
    assert (flow["first_ns"], flow["last_ns"]) == times


def test_flags_are_put_together() -> None:
    """10 segments of which 3 without ACK and 4 with PSH: 7 ACK. UDP has none, whatever its packets."""
    flow = ended(low={"packets": 10, "psh": 4, "flags": [1, 2, 3, 0, 3, 6, 7, 8]})
    assert flow["orig"]["flags"].tolist() == [1, 2, 3, 4, 7, 6, 7, 8]
    many = ended(low={"packets": 2**33, "flags": [0, 2**32 - 1, 0, 5, 2**32 - 1, 0, 0, 0]})
    assert many["orig"]["flags"].tolist() == [0, 2**32 - 1, 0, 0, 2**33 - 2**32 - 4, 0, 0, 0]
    rows = live_rows(1)
    rows["protocol"], rows["low"]["packets"] = 17, 10
    assert assembled(rows)[0]["orig"]["flags"].tolist() == [0] * 8


def test_no_rows() -> None:
    assert len(assembled(live_rows(0))) == 0


def test_history_is_that_of_the_row() -> None:
    rows = live_rows(2)
    rows["history"][0] = ord("x")
    rows["history"][1][:3] = list(b"ShA")
    assert assembled(rows)["history"].tolist() == [b"x" * HISTORY_OCTETS, b"ShA"]


@pytest.mark.parametrize("protocol", [6, 17])
def test_what_was_not_analysed_is_not_known(protocol: int) -> None:
    rows = live_rows(1)
    rows["protocol"] = protocol
    flow = assembled(rows)[0]
    assert (flow["analysed"], flow["syn_to_syn_ack_ns"], flow["syn_ack_to_ack_ns"]) == (0, NOT_SEEN_NS, NOT_SEEN_NS)
    for side in ("orig", "resp"):
        found = flow[side]["analysed"]
        assert not found["counts"].any()
        assert (found["rtt_samples"], found["rtt_sum_ns"]) == (0, 0)
        assert (found["rtt_min_ns"], found["rtt_max_ns"]) == (NOT_SEEN_NS, NOT_SEEN_NS)
        names = ("first_window", "first_window_scaled", "last_window", "last_window_scaled", "mss", "window_scale")
        assert {int(found[name]) for name in (*names, "sack_permitted", "timestamps")} == {-1}
