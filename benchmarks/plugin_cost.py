"""What a plugin in the packet loop costs, beside one of NFStream that does the same.

    python benchmarks/plugin_cost.py [--frames 2000000] [--runs 5] [--nfstream PYTHON] [--json FILE]

Traces the synthetic capture of small TCP frames (captures.py) with and without the built-in plugin `tcpwin`, in turn in
one process on one core, kernels compiled before, and prints medians: nanoseconds a packet that the plugin adds to a run
(its columns gathered for every flow included), and the start-up of a process that finds all compiled.
Where NFStream is installed (in this Python, or in the one that `--nfstream` names), it runs with the same rule written
as an NFPlugin, and without, on fewer frames (2 000 000 take it a minute). Ratios mean something; absolute times do not
carry over to other machines.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.plugins import PluginSet, load_plugins
from traceflow.sources import open_source

sys.path.insert(0, str(Path(__file__).parent))
import captures

_NFSTREAM_FRAMES = 200_000
_NFSTREAM = """
import sys, time
from nfstream import NFPlugin, NFStreamer

class Window(NFPlugin):
    def on_init(self, packet, flow):
        flow.udps.status = flow.udps.state = flow.udps.count = 0
        self.on_update(packet, flow)

    def on_update(self, packet, flow):
        udps = flow.udps
        udps.status |= packet.fin | packet.syn << 1 | packet.rst << 2 | packet.psh << 3 | packet.ack << 4
        if udps.state == 0:
            if packet.syn:
                udps.state = 1
                return
            if not packet.ack:
                return
            udps.state = 2
        elif udps.state == 2:
            if udps.status & 5:
                udps.state = 4
                return
            if udps.count < 2:
                return
            udps.status |= 0x80
            udps.state = 4

plugins = [Window()] if sys.argv[2] == "with" else []
before = time.perf_counter()
flows = sum(1 for _ in NFStreamer(source=sys.argv[1], udps=plugins, n_dissections=0, n_meters=1))
print(time.perf_counter() - before)
"""


def seconds(path: Path, plugins: list[str]) -> float:
    """Seconds of a run that keeps all flows."""
    with open_source(path) as source:
        before = time.perf_counter()
        run = Run(source, options_for("default", analysis=False), PluginSet(load_plugins(plugins)))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
        collector.flows()
        return time.perf_counter() - before


def start_up(path: Path, plugins: list[str]) -> float:
    """Seconds of a whole process on a capture of few frames."""
    command = [sys.executable, "-m", "traceflow", "flows", "--summary", "-q", str(path)]
    before = time.perf_counter()
    subprocess.run([*command, *(f"--plugin={name}" for name in plugins)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def nfstream(python: str, path: Path, which: str) -> float:
    """Seconds of NFStream, `with` or `without` a plugin."""
    done = subprocess.run([python, "-c", _NFSTREAM, str(path), which], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plugin", default="tcpwin")
    here = sys.executable if importlib.util.find_spec("nfstream") else ""
    parser.add_argument("--nfstream", default=here, metavar="PYTHON", help="a Python that has NFStream; empty: none")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args()
    named = [chosen.plugin]
    with tempfile.TemporaryDirectory() as folder:
        path, few = Path(folder) / "small.pcap", Path(folder) / "few.pcap"
        captures.write_small(path, frames=chosen.frames)
        captures.write_small(few, frames=1000)
        for plugins in ([], named):  # compiled before
            seconds(few, plugins)
            seconds(path, plugins)
        times: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(chosen.runs):
            times["without"].append(seconds(path, []))
            times["with"].append(seconds(path, named))
        starts = {
            name: [start_up(few, plugins) for _ in range(3)] for name, plugins in (("without", []), ("with", named))
        }
        added = (statistics.median(times["with"]) - statistics.median(times["without"])) / chosen.frames * 1e9
        print(f"{chosen.frames} frames, medians of {chosen.runs} runs")
        for name, taken in times.items():
            print(
                f"  {name + ' ' + chosen.plugin:24} {statistics.median(taken) / chosen.frames * 1e9:8.1f} ns a packet"
            )
        print(f"  {'added by the plugin':24} {added:8.1f} ns a packet")
        for name, taken in starts.items():
            print(f"  {'process ' + name:24} {statistics.median(taken):8.2f} s on 1000 frames")
        figures: dict[str, object] = {"frames": chosen.frames, "seconds": times, "added_ns": added, "start_s": starts}
        if chosen.nfstream:
            part = Path(folder) / "part.pcap"
            captures.write_small(part, frames=_NFSTREAM_FRAMES)
            theirs = {
                which: [nfstream(chosen.nfstream, part, which) for _ in range(3)] for which in ("without", "with")
            }
            more = (statistics.median(theirs["with"]) - statistics.median(theirs["without"])) / _NFSTREAM_FRAMES * 1e9
            print(f"  {'added by NFPlugin':24} {more:8.1f} ns a packet, {more / added:.0f} times ours")
            figures |= {"nfstream_seconds": theirs, "nfstream_added_ns": more}
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
