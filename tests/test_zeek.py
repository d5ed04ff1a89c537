"""Profile `zeek` against the connection logs that Zeek's own tests expect (`../shared/oracle/zeek_conns.jsonl`).

Each capture counts once, whatever it holds and however many commands read it: its `conn_state` are right when all TCP
and UDP connections of all its logs have the same ends and the same word, its `history` likewise. What differs stands in
zeek_differences.tsv with its reason; nothing else may.

How a command is followed: `-C` and `ignore_checksums_nets` leave checksums alone; `-f` keeps the flows of its ports;
`-b` means that no ports are known to Zeek, unless a `^` in the log shows that the test's script loaded some. Zeek's
letter X is of its protocol analyzers and is passed over.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import traceflow
from traceflow.errors import IncompleteWarning, TraceflowError

SHARED = Path(__file__).resolve().parents[2] / "shared"
ORACLE = SHARED / "oracle" / "zeek_conns.jsonl"
TRACES = "zeek/testing/btest/Traces/"
DIFFERENCES = Path(__file__).with_name("zeek_differences.tsv")

pytestmark = [
    pytest.mark.skipif(not ORACLE.exists(), reason="the shared oracle is absent"),
    pytest.mark.filterwarnings("ignore", category=IncompleteWarning),
]

Row = dict[str, Any]
_ENDS = ("id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")


def known_differences() -> dict[str, tuple[str, str]]:
    """What differs, and what is needed for it to be equal (empty: nothing, it stays)."""
    lines = DIFFERENCES.read_text("utf-8").splitlines()[3:]
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 4 and row[3] for row in rows), "a path, what differs, what is needed, the reason"
    return {row[0]: (row[1], row[2]) for row in rows}


def logs() -> dict[str, list[Row]]:
    """The logs of each capture that name at least one of the two columns, and their TCP and UDP connections."""
    found: dict[str, list[Row]] = defaultdict(list)
    for line in ORACLE.read_text("utf-8").splitlines():
        log = json.loads(line)
        log["conns"] = [conn for conn in log["conns"] if conn.get("proto") in ("tcp", "udp", None)]
        if log["conns"] and any(name in log["conns"][0] for name in ("conn_state", "history")):
            found[log["path"].removeprefix(TRACES)].append(log)
    return found


def ours(log: Row) -> list[traceflow.Flow]:
    """Our flows for a command."""
    command = log["cmd"]
    options: dict[str, Any] = {}
    ports_known = any("^" in conn.get("history", "") for conn in log["conns"])
    if re.search(r" -\w*b", command) and not ports_known:
        options["direction"] = "order"
    if re.search(r" -\w*C", command) or "ignore_checksums_nets" in command:
        options["checksums"] = False
    flows = traceflow.trace(SHARED / "corpus" / log["path"], profile="zeek", **options)
    chosen = [flow for flow in flows if flow.protocol in (6, 17)]
    kept = re.search(r"""-f +['"]([^'"]*)""", command)
    if kept:
        ports = {int(port) for port in re.findall(r"port (\d+)", kept[1])}
        chosen = [flow for flow in chosen if {flow.orig_port, flow.resp_port} & ports]
    return chosen


def compare(log: Row) -> Iterator[str]:
    """Which of `state` and `history` differ."""
    try:
        flows = ours(log)
    except TraceflowError:
        flows = []
    for name in ("conn_state", "history"):
        if name not in log["conns"][0]:
            continue
        with_ends = _ENDS[0] in log["conns"][0]
        expected = Counter(
            (tuple(conn[end] for end in _ENDS) if with_ends else (), conn[name].replace("X", ""))
            for conn in log["conns"]
        )
        found: Counter[Any] = Counter()
        for flow in flows:
            ends = (str(flow.orig_addr), str(flow.orig_port), str(flow.resp_addr), str(flow.resp_port))
            word = flow.conn_state.text if name == "conn_state" else flow.history
            found[ends if with_ends else (), word] += 1
        if found != expected:
            yield "state" if name == "conn_state" else "history"


def test_connections_are_those_of_zeek() -> None:
    """All captures but those listed are equal, and with those that wait for decode the bars are 95 % and 90 %."""
    captures = logs()
    differing: dict[str, str] = {}
    for path, group in captures.items():
        wrong = {word for log in group for word in compare(log)}
        if wrong:
            differing[path] = "both" if len(wrong) == 2 else wrong.pop()
    known = known_differences()
    waiting = {path for path, (_, needs) in known.items() if needs}
    assert differing == {path: what for path, (what, _) in known.items() if path in differing or path not in waiting}
    stay = [what for path, what in differing.items() if path not in waiting]
    assert len(captures) == 89
    assert sum(what != "history" for what in stay) <= 0.05 * len(captures)
    assert sum(what != "state" for what in stay) <= 0.10 * len(captures)
