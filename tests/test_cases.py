"""What the cases of fixtures/ expect of connection states, histories and the TCP analysis, through the whole program.

The expectations are hand counts that stand beside the case (fixtures/*_cases.py); tshark is held against those of the
analysis in test_oracle.py. Flows and frames of every case are compared there and in test_cli.py.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import traceflow
from traceflow.cli.program import run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
WITH_QUOTES = [name for name, case in EXPECTED.items() if "quoted" in case]
WITH_STATES = [name for name, case in EXPECTED.items() if any("conn_state" in flow for flow in case["flows"])]


@pytest.mark.filterwarnings("ignore::traceflow.IncompleteWarning")
@pytest.mark.parametrize("name", WITH_STATES)
def test_states_and_histories(name: str) -> None:
    """Where a flow has an expectation of its state, and of its history, both are as counted."""
    case = EXPECTED[name]
    found = traceflow.trace(*(FIXTURES / file for file in case["files"]))
    assert len(found) == len(case["flows"])
    for flow, expected in zip(found, case["flows"], strict=True):
        if "conn_state" in expected:
            assert flow.conn_state.text == expected["conn_state"]
        if "history" in expected:
            assert flow.history == expected["history"]


@pytest.mark.parametrize("profile", ["default", "tshark"])
@pytest.mark.parametrize("name", [name for name, case in EXPECTED.items() if "analysis" in case])
def test_analysis_of_frames(name: str, profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`traceflow frames` names what the hand count names, at the same frames and at no others."""
    case = EXPECTED[name]
    files = [str(FIXTURES / file) for file in case["files"]]
    arguments = ["frames", *files, "-q", "-T", "csv", "--profile", profile, "--fields", "frame,tcp_analysis"]
    assert run(arguments) == 0
    rows = csv.DictReader(capsys.readouterr().out.splitlines())
    found = {row["frame"]: row["tcp_analysis"].split("|") for row in rows if row["tcp_analysis"]}
    assert found == case["analysis"]


@pytest.mark.parametrize("name", WITH_QUOTES)
def test_flows_that_errors_quote(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`traceflow frames` names the flow that each ICMP error points at, and the flows count them."""
    case = EXPECTED[name]
    files = [str(FIXTURES / file) for file in case["files"]]
    assert run(["frames", *files, "-q", "-T", "csv", "--fields", "frame,quoted_flow"]) == 0
    rows = csv.DictReader(capsys.readouterr().out.splitlines())
    assert {row["frame"]: int(row["quoted_flow"]) for row in rows if row["quoted_flow"]} == case["quoted"]
    flows = traceflow.trace(*files)
    pointed = list(case["quoted"].values())
    assert [flow.icmp_errors for flow in flows] == [pointed.count(number) for number in range(1, len(flows) + 1)]
