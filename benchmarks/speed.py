"""How fast flows are traced, side by side with what users would pick instead, in one run.

    python benchmarks/speed.py [--frames 2000000] [--runs 3] [--no-analysis] [--json FILE]

Makes a synthetic capture of small TCP frames (see captures.py), then measures in turn:

- our stages in one process on one core: reading and walking records, decode, duplicates, table (states, history and TCP
  analysis, the latter not with `--no-analysis`), frame lists (compiled before);
- whole processes: `traceflow flows --summary`, beside it `capinfos -c` (counts only), `tshark -z conv,tcp`, NFStream,
  whichever are installed. NFStream needs a minute for 2 000 000 frames; `--no-slow` leaves it and tshark out.

Prints medians and ratios; absolute times mean nothing across machines.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from traceflow.decode import decode_batch
from traceflow.duplicates import DuplicateFinder
from traceflow.framelists import FrameMap
from traceflow.options import Options
from traceflow.packets import PACKET
from traceflow.sources import open_source
from traceflow.table import FROM_UPPER, FlowTable

sys.path.insert(0, str(Path(__file__).parent))
import captures

_NFSTREAM = """
import sys
from nfstream import NFStreamer
print(sum(1 for _ in NFStreamer(source=sys.argv[1], statistical_analysis=False, n_dissections=0)))
"""


def stages(path: Path, *, analysis: bool = True) -> dict[str, float]:
    """Seconds of each stage over a capture, one pass, one core."""
    spent = {"read and walk": 0.0, "decode": 0.0, "duplicates": 0.0, "table": 0.0, "frame lists": 0.0}
    table, frame_map, rows = FlowTable(Options(analysis=analysis)), FrameMap(), np.zeros(4096, PACKET)
    duplicates = DuplicateFinder(Options())
    with open_source(path) as source:
        before = time.perf_counter()
        for batch in source.batches():
            walked = time.perf_counter()
            packets = decode_batch(batch.octets, batch.frames, rows)
            decoded = time.perf_counter()
            duplicates.mark(batch.octets, batch.frames, packets)
            compared = time.perf_counter()
            marks = table.track(batch.frames, packets, batch.first_number)
            tracked = time.perf_counter()
            frame_map.add(marks, FROM_UPPER)
            spent["read and walk"] += walked - before
            spent["decode"] += decoded - walked
            spent["duplicates"] += compared - decoded
            spent["table"] += tracked - compared
            before = time.perf_counter()
            spent["frame lists"] += before - tracked
    table.end()
    ended = time.perf_counter()
    spent["table"] += ended - before
    frame_map.lists()
    spent["frame lists"] += time.perf_counter() - ended
    return spent


def rivals(path: Path, slow: bool, *, analysis: bool = True) -> dict[str, list[str]]:
    """Commands that are installed, by name; ours first."""
    ours = ["flows", "--summary", *([] if analysis else ["--no-analysis"])]
    found = {f"traceflow {' '.join(ours)}": [sys.executable, "-m", "traceflow", *ours, "-q", str(path)]}
    if shutil.which("capinfos"):
        found["capinfos -c"] = ["capinfos", "-c", str(path)]
    if slow and shutil.which("tshark"):
        found["tshark -z conv,tcp"] = ["tshark", "-q", "-n", "-z", "conv,tcp", "-r", str(path)]
    if slow and importlib.util.find_spec("nfstream"):
        found["NFStream"] = [sys.executable, "-c", _NFSTREAM, str(path)]
    return found


def seconds(command: list[str]) -> float:
    """Wall time of a whole process; its output is read and thrown away."""
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-slow", action="store_true", help="leave out tshark and NFStream")
    parser.add_argument("--no-analysis", action="store_true", help="without the TCP analysis")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pcap"
        captures.write_small(path, frames=chosen.frames)
        warm = Path(folder) / "warm.pcap"
        captures.write_small(warm, frames=1000)
        stages(warm, analysis=not chosen.no_analysis)
        passes = [stages(path, analysis=not chosen.no_analysis) for _ in range(chosen.runs)]
        kernels = {name: statistics.median(one[name] for one in passes) for name in passes[0]}
        total = statistics.median(sum(one.values()) for one in passes)
        print(f"{chosen.frames} frames, {path.stat().st_size / 1e6:.0f} MB; medians of {chosen.runs} runs")
        for name, spent in kernels.items():
            print(f"  {name:28} {spent / chosen.frames * 1e9:8.1f} ns a frame")
        print(f"  {'all stages, one core':28} {chosen.frames / total / 1e6:8.1f} million frames/s")
        commands = rivals(path, not chosen.no_slow, analysis=not chosen.no_analysis)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(chosen.runs):
            for name, command in commands.items():
                times[name].append(seconds(command))
        ours = statistics.median(next(iter(times.values())))
        print("whole processes                      seconds   million frames/s   times ours")
        for name, taken in times.items():
            median = statistics.median(taken)
            print(f"  {name:32} {median:9.2f} {chosen.frames / median / 1e6:18.2f} {median / ours:12.2f}")
    if chosen.json:
        figures = {"frames": chosen.frames, "stages_s": kernels, "all_stages_s": total, "processes_s": times}
        chosen.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
