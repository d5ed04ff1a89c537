"""What `-f` costs, beside no filter and beside tcpdump.

    python benchmarks/filter_cost.py [--frames 2000000] [--runs 5] [--json FILE]

Traces the synthetic capture of small TCP frames (captures.py) without a filter and with several, in turn in one process
on one core, kernels compiled before, and prints medians and their ratio to a run without. The last column is tcpdump
(`tcpdump -r FILE -w /dev/null EXPR`) where it is installed, as a ratio too: it starts a process and writes what it lets
through, but traces nothing. Ratios mean something; absolute times do not carry over to other machines.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from traceflow.filters.bpf import Expression
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

sys.path.insert(0, str(Path(__file__).parent))
import captures

EXPRESSIONS = (
    "ip",
    "tcp port 443",
    "udp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "net 10.0.0.0/8 and portrange 1000-2000 and greater 60",
    " or ".join(f"host 10.0.{n}.{n}" for n in range(1, 41)),
)
"""All pass, few, none, some; a long way through the program, and a very long one."""


def seconds(path: Path, text: str | None) -> float:
    """Seconds of a run that keeps all flows."""
    with open_source(path) as source:
        before = time.perf_counter()
        run = Run(source, options_for("default"), frame_filter=None if text is None else Expression(text))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
        collector.flows()
        return time.perf_counter() - before


def filter_seconds(path: Path, text: str) -> float:
    """Seconds of the filter alone."""
    expression, taken = Expression(text), 0.0
    with open_source(path) as source:
        for batch in source.batches():
            before = time.perf_counter()
            expression.keep(batch)
            taken += time.perf_counter() - before
    return taken


def tcpdump_seconds(path: Path, text: str) -> float:
    """Seconds of tcpdump, its process included."""
    before = time.perf_counter()
    subprocess.run(["tcpdump", "-r", str(path), "-w", "/dev/null", text], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args()
    tcpdump = shutil.which("tcpdump") is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pcap"
        captures.write_small(path, frames=chosen.frames)
        for text in (None, "ip"):  # compiled before
            seconds(path, text)
        times: dict[str, list[float]] = {"": [], **{text: [] for text in EXPRESSIONS}}
        alone: dict[str, list[float]] = {text: [] for text in EXPRESSIONS}
        theirs: dict[str, list[float]] = {text: [] for text in EXPRESSIONS}
        for _ in range(chosen.runs):
            times[""].append(seconds(path, None))
            for text in EXPRESSIONS:
                times[text].append(seconds(path, text))
                alone[text].append(filter_seconds(path, text))
                if tcpdump:
                    theirs[text].append(tcpdump_seconds(path, text))
    without = statistics.median(times[""])
    print(f"{chosen.frames} frames, medians of {chosen.runs} runs; without a filter 1, and of that:")
    print(f"  {'expression':48}{'whole run':>10}{'filter':>10}{'ns/frame':>10}{'tcpdump':>10}")
    for text in EXPRESSIONS:
        only = statistics.median(alone[text])
        ratios = [statistics.median(times[text]) / without, only / without]
        cells = [f"{ratio:10.2f}" for ratio in ratios] + [f"{only / chosen.frames * 1e9:10.1f}"]
        cells.append(f"{statistics.median(theirs[text]) / without:10.2f}" if tcpdump else f"{'-':>10}")
        print(f"  {text[:46]:48}{''.join(cells)}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"frames": chosen.frames, "runs": times, "filter": alone, "tcpdump": theirs}))


if __name__ == "__main__":
    main()
