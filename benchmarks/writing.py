"""Writing a file for each flow: traceflow beside tcpflow, `cp -r` and PyPCAPKit.

    python benchmarks/writing.py [--frames 2000000] [--runs 3] [--folder DIR] [--pcapkit PYTHON] [--json FILE]

Makes the capture `mix` of captures.py (2 000 000 frames with payload: 66 453 connections, 730 MB) and writes it as
json, plist, tree and pcap files, a new process each, in turn with the other tools, several times; prints medians of
wall and processor seconds, frames and octets a second, and ratios. From the times of traceflow the start is taken off:
what the same command takes for the first frame alone. `cp -r` copies the pcap files that were just written.

PyPCAPKit is run where it can be imported (by this Python, or by the one that `--pcapkit` names), on 20 000 frames,
with its dpkt engine and json files. All files go to `--folder`, which should be on the disk in question (some 7 GB);
folders are removed at the very end: some file systems take ten times as long to make files soon after a removal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import captures

_FORMATS = ("json", "plist", "tree", "pcap")
_PCAPKIT_FRAMES = 20_000
_PCAPKIT = """
import sys
import pcapkit
pcapkit.extract(fin=sys.argv[1], nofile=True, engine="dpkt", trace=True, trace_format="json", trace_fout=sys.argv[2])
"""


@dataclass(slots=True)
class Run:
    """One process: wall seconds and processor seconds, what it wrote."""

    wall: float
    cpu: float
    files: int = 0
    octets: int = 0


def run(command: list[str], written: Path | None = None, folder: Path | None = None) -> Run:
    """Run a command.

    Args:
        command: The command.
        written: Where it writes files.
        folder: Where it runs.

    Raises:
        CalledProcessError: It failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if written is None:
        return Run(wall, cpu)
    sizes = [entry.stat().st_size for entry in os.scandir(written) if entry.is_file()]
    return Run(wall, cpu, len(sizes), sum(sizes))


def trace_command(capture: Path, folder: Path, file_format: str, *more: str) -> list[str]:
    """The command that writes flow files."""
    command = [sys.executable, "-m", "traceflow", "trace", "-q", str(capture), "-o", str(folder)]
    return [*command, "--format", file_format, *more]


def measured(capture: Path, place: Path, at: int, pcapkit: str | None) -> dict[str, Run]:
    """Every tool once."""
    found: dict[str, Run] = {}
    for file_format in _FORMATS:
        start = run(trace_command(capture, place / f"start-{file_format}-{at}", file_format, "-c", "1"))
        folder = place / f"{file_format}-{at}"
        whole = run(trace_command(capture, folder, file_format), folder)
        found[f"traceflow {file_format}"] = Run(
            whole.wall - start.wall, whole.cpu - start.cpu, whole.files, whole.octets
        )
    found["cp -r (pcap)"] = run(["cp", "-r", str(place / f"pcap-{at}"), str(place / f"cp-{at}")], place / f"cp-{at}")
    if shutil.which("tcpflow"):
        folder = place / f"tcpflow-{at}"
        folder.mkdir()
        found["tcpflow"] = run(["tcpflow", "-r", str(capture)], folder, folder)
    if pcapkit:
        short, folder = place / "short.pcap", place / f"pcapkit-{at}"
        captures.write_mix(short, frames=_PCAPKIT_FRAMES)
        found["PyPCAPKit json"] = run([pcapkit, "-c", _PCAPKIT, str(short), str(folder)], folder)
    return found


def with_pcapkit(python: str) -> str | None:
    """The Python, where it has PyPCAPKit and dpkt."""
    done = subprocess.run([python, "-c", "import pcapkit, dpkt"], check=False, capture_output=True)
    return python if done.returncode == 0 else None


def report(rounds: list[dict[str, Run]], frames: int) -> dict[str, dict[str, float]]:
    """Medians of each tool, and how they compare; printed as a table."""
    table: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        runs = [one[name] for one in rounds]
        wall, cpu = (statistics.median(getattr(one, part) for one in runs) for part in ("wall", "cpu"))
        count = _PCAPKIT_FRAMES if name.startswith("PyPCAPKit") else frames
        table[name] = {**asdict(runs[0]), "wall": wall, "cpu": cpu, "frames_per_second": count / wall}
    print(f"{'':18}{'wall s':>8}{'cpu s':>8}{'files':>9}{'MB':>7}{'frames/s':>11}")
    for name, row in table.items():
        print(
            f"{name:18}{row['wall']:8.2f}{row['cpu']:8.2f}{row['files']:9}{row['octets'] / 1e6:7.0f}"
            f"{row['frames_per_second']:11.0f}"
        )

    def compare(text: str, ours: str, other: str) -> None:
        if other in table:
            ratio = table[ours]["frames_per_second"] / table[other]["frames_per_second"]
            print(f"{text}: {ratio:.2f}")

    compare("pcap files, times the speed of tcpflow", "traceflow pcap", "tcpflow")
    compare("pcap files, times the speed of cp -r", "traceflow pcap", "cp -r (pcap)")
    compare("json files, times the speed of PyPCAPKit", "traceflow json", "PyPCAPKit json")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are written; default: the folder for temporary files")
    parser.add_argument("--pcapkit", default=sys.executable, help="a Python that has PyPCAPKit and dpkt")
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        place = Path(name)
        capture = place / "mix.pcap"
        captures.write_mix(capture, frames=chosen.frames)
        pcapkit = with_pcapkit(chosen.pcapkit)
        measured_before = trace_command(capture, place / "compiling", "json", "-c", "25000")
        run(measured_before)  # compiles kernels where they are not yet
        rounds = [measured(capture, place, at, pcapkit) for at in range(chosen.runs)]
        table = report(rounds, chosen.frames)
        if chosen.json:
            chosen.json.write_text(json.dumps(table, indent=1), "utf-8")


if __name__ == "__main__":
    main()
