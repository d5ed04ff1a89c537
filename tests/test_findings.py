"""The room `findings`: ANALYSIS rows into FLOW rows. What leads to such rows is in test_analysis.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from traceflow.analysis import COUNTED, HAS_RTT, SPOKE, analysis_rows, open_analysis
from traceflow.findings import forget_analysed, write_analysed
from traceflow.flows import FLOW, NOT_SEEN_NS


def opened() -> Any:
    """A row that held other things before."""
    rows = analysis_rows(1)
    rows.view(np.uint8)[:] = 0xA5
    open_analysis(rows[0])
    return rows[0]


def test_of_a_fresh_row_nothing_is_known() -> None:
    """The same as of a flow that was not analysed."""
    written, forgotten = np.zeros(1, FLOW), np.zeros(1, FLOW)
    write_analysed(opened(), written[0], False)
    for side in ("orig", "resp"):
        forget_analysed(forgotten[0][side]["analysed"])
        assert written[0][side]["analysed"] == forgotten[0][side]["analysed"]
    assert written[0]["analysed"] == 1
    assert written[0]["syn_to_syn_ack_ns"] == written[0]["syn_ack_to_ack_ns"] == NOT_SEEN_NS


@pytest.mark.parametrize("upper", [False, True])
def test_ends_become_originator_and_responder(upper: bool) -> None:
    deep = opened()
    deep["low"]["bits"], deep["low"]["first_window"], deep["low"]["window"] = SPOKE, 1000, 2000
    deep["high"]["bits"], deep["high_counts"][:] = COUNTED, range(15)
    flows = np.zeros(1, FLOW)
    write_analysed(deep, flows[0], upper)
    low, high = ("resp", "orig") if upper else ("orig", "resp")
    assert flows[0][low]["analysed"]["first_window"] == 1000
    assert flows[0][low]["analysed"]["last_window"] == 2000
    assert flows[0][low]["analysed"]["counts"].tolist() == [0] * 15
    assert flows[0][high]["analysed"]["first_window"] == -1
    assert flows[0][high]["analysed"]["counts"].tolist() == [*range(15)]


def test_round_trips_of_lines_in_use_are_added() -> None:
    """Two lines of timings, of which only the second is in use; the first holds anything."""
    deep = opened()
    deep["low"]["bits"], deep["low"]["timed"] = HAS_RTT, 0b10
    deep["low"]["rtt_min_ns"], deep["low"]["rtt_max_ns"] = 3, 5
    deep["low_timing"][1]["rtt_samples"], deep["low_timing"][1]["rtt_sum_ns"] = 2, 8
    flows = np.zeros(1, FLOW)
    write_analysed(deep, flows[0], False)
    found = flows[0]["orig"]["analysed"]
    assert [found[f"rtt_{name}"] for name in ("samples", "sum_ns", "min_ns", "max_ns")] == [2, 8, 3, 5]
