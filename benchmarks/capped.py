"""What a flood of distinct keys costs when the table may hold few flows, and whether its account adds up.

SYNs or RSTs, each between ends of its own, 1 us apart, so that no flow is due while they are read. `traceflow flows
--summary` reads them with a full table that evicts and with one that skips, and `--stream` writes a row a flow.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captures
from floods import RST, SYN
from processes import measure

__all__ = ["capped_floods", "complaint"]

_FLAGS = {"syn": SYN, "rst": RST}
_SHAPES = {"--summary": ("--summary", "-T", "jsonl"), "--stream": ("--stream", "-T", "csv")}


def complaint(totals: dict[str, int], kind: str, frames: int, most: int, when_full: str) -> str:
    """What is wrong with the account of a flood; empty: it adds up, and is what the rules say.

    All frames are SYNs or RSTs of ends of their own. With `evict` each opens a flow; with `skip` the first `most` do.
    A flow that a RST had closed keeps that as its cause when it is evicted.
    """
    flows = min(frames, most) if when_full == "skip" else frames
    expected = {
        "frames": frames,
        "frames_in_flows": flows,
        "frames_table_full": frames - flows,
        "flows": flows,
        "flows_tcp": flows,
        "packets": flows,
        "flows_ended_by_rst": flows if kind == "rst" else 0,
        "flows_ended_by_evicted": max(0, flows - most) if kind == "syn" else 0,
    }
    return ", ".join(f"{name} is {totals[name]}, not {n}" for name, n in expected.items() if totals[name] != n)


def capped_floods(place: Path, frames: int, runs: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure floods with a table of a hundredth as many flows as come.

    Args:
        place: Where captures are made, and removed.
        frames: SYNs or RSTs.
        runs: How many times each command is run.
        say: Told of what is done.

    Returns:
        For each flood and command: `flood`, `command`, `frames`, `most`, `ns` a frame, `peak` octets, `wrong`: what is
        wrong with its account, or empty.
    """
    most, found = max(1, frames // 100), []
    for kind, flags in _FLAGS.items():
        path = place / f"{kind}.pcap"
        captures.write_segments(path, frames=frames, flags=flags)
        for when_full in ("evict", "skip"):
            for shape, options in _SHAPES.items():
                limits = ["--max-flows", str(most), "--when-full", when_full]
                command = [sys.executable, "-m", "traceflow", "flows", "-q", str(path), *options, *limits]
                costs = [measure(command, keep=True) for _ in range(runs)]
                if shape == "--summary":
                    totals = json.loads(costs[0].output.splitlines()[-1])
                    wrong = complaint(totals, kind, frames, most, when_full)
                else:
                    rows = costs[0].output.count("\n") - 1
                    due = min(frames, most) if when_full == "skip" else frames
                    wrong = "" if rows == due else f"{rows} rows, not {due}"
                found.append(
                    {
                        "flood": kind,
                        "command": f"{shape} --when-full {when_full}",
                        "frames": frames,
                        "most": most,
                        "ns": statistics.median(cost.wall for cost in costs) / frames * 1e9,
                        "peak": statistics.median(cost.peak for cost in costs),
                        "wrong": wrong,
                    }
                )
                say(f"capped: {kind} {found[-1]['command']}: {wrong or 'adds up'}")
        path.unlink()
    return found
