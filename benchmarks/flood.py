"""What a flood of distinct keys costs in time and memory, whole processes, in one run.

    python benchmarks/flood.py [--frames 10000000] [--kinds syn rst] [--max-flows 100000] [--folder FOLDER]

Writes a capture of so many SYNs (or RSTs), each between ends of its own, 1 us apart, so that no flow is due while it is
read: 70 octets a frame. It is written piece by piece, so that this script needs little memory, and deleted afterwards.
Then `traceflow flows --summary` reads it with a full table that evicts and with one that skips, and `traceflow flows
--stream` writes a row a flow. Prints seconds and peak resident memory of each process, and exits with 1 where the
account does not add up. Kernels are compiled by a small flood before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import captures

_PIECE = 1 << 16
SYN, RST = 0x02, 0x04
FLAGS = {"syn": SYN, "rst": RST}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took, and the last line that it wrote to standard output."""

    seconds: float
    peak_octets: int
    lines: int
    last: str


def write_flood(path: Path, frames: int, flags: int) -> None:
    """Write a flood: one TCP segment of each of `frames` pairs of ends, to 10.255.0.1:80, checksums left zero.

    Frame n comes from address 1.0.0.0 + (n * odd number) modulo 2**32, port 1024 + n modulo 60000.
    """
    with path.open("wb") as file:
        header, limits = np.zeros(1, captures.FILE_HEADER), np.zeros(1, captures.LIMITS)
        header["magic"], header["major"], header["minor"] = 0xA1B2C3D4, 2, 4
        limits["snaplen"], limits["link"] = 262144, 1
        file.write(header.tobytes() + limits.tobytes())
        rows = np.zeros(_PIECE, captures.RECORD)
        rows["captured"] = rows["wire"] = captures.HEADER_OCTETS
        rows["ether_dst"], rows["ether_src"], rows["ether_type"] = 2, 6, 0x0800
        rows["version_length"], rows["ip_octets"], rows["ttl"], rows["protocol"] = 0x45, 40, 64, 6
        rows["dst"], rows["dst_port"], rows["data_offset"], rows["flags"] = 0x0AFF0001, 80, 0x50, flags
        for first in range(0, frames, _PIECE):
            numbers = np.arange(first, min(first + _PIECE, frames), dtype=np.uint64)
            piece = rows[: len(numbers)]
            piece["seconds"], piece["microseconds"] = 1_700_000_000 + numbers // 1_000_000, numbers % 1_000_000
            piece["src"] = 0x01000000 + numbers * np.uint64(2_654_435_761) & np.uint64(0xFFFFFFFF)
            piece["src_port"] = 1024 + numbers % 60_000
            piece["seq"] = numbers & np.uint64(0xFFFFFFFF)
            file.write(piece.tobytes())


def measure(*arguments: str | Path) -> Cost:
    """Run `traceflow` with arguments; standard output is counted while it comes, and not kept."""
    command = [sys.executable, "-m", "traceflow", *map(str, arguments)]
    before, lines, last = time.perf_counter(), 0, b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines, last = lines + 1, line
        # Of this child alone: RUSAGE_CHILDREN would be the highest of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exits with {process.returncode}")
    return Cost(time.perf_counter() - before, usage.ru_maxrss * 1024, lines, last.decode())


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


def flood(path: Path, kind: str, frames: int, most: int) -> bool:
    """Run all commands over a flood and print what they cost. Returns whether all accounts add up."""
    write_flood(path, frames, FLAGS[kind])
    right = True
    for when_full in ("evict", "skip"):
        limits = ("--max-flows", str(most), "--when-full", when_full)
        cost = measure("flows", path, "--summary", "-T", "jsonl", *limits)
        wrong = complaint(json.loads(cost.last), kind, frames, most, when_full)
        report(kind, f"--summary, {when_full}", cost, frames, wrong)
        right &= not wrong
        cost = measure("flows", path, "--stream", "-T", "csv", *limits)
        rows = min(frames, most) if when_full == "skip" else frames
        wrong = "" if cost.lines == rows + 1 else f"{cost.lines - 1} rows, not {rows}"
        report(kind, f"--stream, {when_full}", cost, frames, wrong)
        right &= not wrong
    return right


def report(kind: str, what: str, cost: Cost, frames: int, wrong: str) -> None:
    """Print a line."""
    each_ns = cost.seconds / frames * 1e9
    sizes = f"{cost.seconds:8.2f} s  {each_ns:7.0f} ns/frame  {cost.peak_octets / 2**20:7.0f} MiB"
    print(f"{kind}  {what:18}{sizes}  {wrong or 'adds up'}", flush=True)


def main() -> int:
    """Write the floods and measure."""
    parser = argparse.ArgumentParser(description="time and memory of floods of distinct keys")
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--max-flows", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=FLAGS, default=list(FLAGS))
    parser.add_argument("--folder", type=Path, help="where the capture is written; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "flood.pcap"
        write_flood(path, 1000, SYN)
        for shape in ("--summary", "--stream"):
            measure("flows", path, shape)
        right = [flood(path, kind, arguments.frames, arguments.max_flows) for kind in arguments.kinds]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
