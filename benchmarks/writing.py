"""Writing a file for each flow: traceflow beside tcpflow, `cp -r` and PyPCAPKit.

    python benchmarks/writing.py [--frames 2000000] [--runs 3] [--folder DIR] [--python PYTHON]... [--json FILE]

A part of compare.py, which prints and judges it; alone, it writes plist and tree files as well. Makes the capture `mix`
of captures.py (2 000 000 frames with payload: 66 453 connections, 730 MB) and writes it as files, a new process each,
in turn with the other tools, several times. From all times the start is taken off: of traceflow what the same command
takes for the first frame alone, of PyPCAPKit what it takes for eight frames. `cp -r` copies the pcap files that were
just written. PyPCAPKit (dpkt engine, json files) gets 20 000 frames.

Files go to the folder, which should be on the disk in question. They are removed at the very end where there is room
for all of them (2 000 000 frames as json are 5 GB): some file systems take ten times as long to make files soon after
a removal. Where there is not, they are removed when room is needed, and that is said. Of a folder in memory (tmpfs)
they are always removed before the next are written: more would have to fit beside the processes, and memory that a
virtual machine has used before is faster than new memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import captures
from other_tools import TOOLS, installed
from processes import Cost, measure

__all__ = ["writing"]

_OCTETS_A_FRAME = {"pcap": 450, "json": 2900, "plist": 4200, "tree": 3000}
_PCAPKIT_FRAMES = 20_000
_PCAPKIT = """
import sys
import pcapkit
chosen = {"trace": True, "tcp": True, "trace_format": "json", "trace_fout": sys.argv[2]}
pcapkit.extract(fin=sys.argv[1], nofile=True, engine="dpkt", **chosen)
"""

Say = Callable[[str], None]


@dataclass(slots=True)
class Written:
    """One process: wall and processor seconds without its start, frames that it read, what it wrote."""

    wall: float
    cpu: float
    frames: int
    files: int
    octets: int


def _written(cost: Cost, start: Cost | None, frames: int, folder: Path) -> Written:
    """What a command that wrote files took."""
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()]
    wall, cpu = (cost.wall, cost.cpu) if start is None else (cost.wall - start.wall, cost.cpu - start.cpu)
    return Written(wall, cpu, frames, len(sizes), sum(sizes))


def _in_memory(place: Path) -> bool:
    """Whether files of a folder take memory, as Linux says."""
    mounts = Path("/proc/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    kinds = {Path(words[1]): words[2] for words in map(str.split, lines)}
    folders = (place.resolve(), *place.resolve().parents)
    return next((kinds[folder] for folder in folders if folder in kinds), "") == "tmpfs"


class _Writers:
    """Runs all writers on one capture.

    Args:
        place: Where all files go.
        frames: Frames of the capture.
        say: Told of what is done.
    """

    def __init__(self, place: Path, frames: int, say: Say) -> None:
        self._place, self._frames, self._say, self._count = place, frames, say, 0
        self._capture, self._part, self._few = (place / f"{name}.pcap" for name in ("mix", "part", "few"))
        self._in_memory = _in_memory(place)
        captures.write_mix(self._capture, frames=frames)
        captures.write_mix(self._part, frames=_PCAPKIT_FRAMES)
        captures.write_mix(self._few, frames=8)

    def _folder(self, octets: int, needed: Path | None = None) -> Path:
        """A new name for a folder of about so many octets.

        Earlier ones are removed where there is no room; in memory all but what is needed.
        """
        if self._in_memory:
            for folder in self._place.iterdir():
                if folder.is_dir() and folder != needed:
                    shutil.rmtree(folder)
        elif shutil.disk_usage(self._place).free < 1.1 * octets:
            self._say("writing: no room to keep what was written before; it is removed, which may slow what follows")
            for folder in self._place.iterdir():
                if folder.is_dir():
                    shutil.rmtree(folder)
        self._count += 1
        return self._place / f"files-{self._count}"

    def ours(self, file_format: str, *more: str) -> tuple[Written, Path]:
        """`traceflow trace`; returns the folder as well."""

        def command(folder: Path, *limit: str) -> list[str]:
            trace = [sys.executable, "-m", "traceflow", "trace", "-q", str(self._capture), "-o", str(folder)]
            return [*trace, "--format", file_format, *more, *limit]

        start = measure(command(self._folder(0), "-c", "1"))
        folder = self._folder(_OCTETS_A_FRAME[file_format] * self._frames)
        return _written(measure(command(folder)), start, self._frames, folder), folder

    def copy(self, folder: Path) -> Written:
        """`cp -r` of a folder."""
        target = self._folder(_OCTETS_A_FRAME["pcap"] * self._frames, folder)
        if not folder.is_dir():
            raise RuntimeError(f"{self._place}: there is no room for pcap files and their copy")
        return _written(measure(["cp", "-r", str(folder), str(target)]), None, self._frames, target)

    def tcpflow(self) -> Written:
        """tcpflow, which writes the payload of each direction."""
        folder = self._folder(_OCTETS_A_FRAME["pcap"] * self._frames)
        folder.mkdir()
        return _written(measure(["tcpflow", "-r", str(self._capture)], folder=folder), None, self._frames, folder)

    def pcapkit(self, python: str) -> Written:
        """PyPCAPKit."""
        folder, other = self._folder(0), self._folder(0)
        start = measure([python, "-c", _PCAPKIT, str(self._few), str(other)])
        cost = measure([python, "-c", _PCAPKIT, str(self._part), str(folder)])
        return _written(cost, start, _PCAPKIT_FRAMES, folder)

    def compile(self) -> None:
        """Have kernels compiled where they are not yet."""
        folder = self._folder(0)
        command = [sys.executable, "-m", "traceflow", "trace", "-q", str(self._capture), "-o", str(folder)]
        measure([*command, "-c", "25000"])


def writing(
    place: Path, frames: int, runs: int, pythons: list[str], say: Say, formats: tuple[str, ...] = ("json",)
) -> dict[str, list[dict[str, float]]]:
    """Measure every writer.

    Args:
        place: An empty folder for captures and files; whoever made it removes it.
        frames: Frames of the capture.
        runs: How many times each is run.
        pythons: Interpreters that may have PyPCAPKit.
        say: Told of what is done.
        formats: Formats of ours besides pcap, a file a direction; json is written with a file a flow as well.

    Returns:
        For each writer its runs: `wall` and `cpu` seconds, `frames`, `files`, `octets`.
    """
    writers = _Writers(place, frames, say)
    writers.compile()
    pcapkit = next(found for tool in TOOLS if tool.name == "PyPCAPKit" for found in [installed(tool, pythons)])
    table: dict[str, list[dict[str, float]]] = {}

    def note(name: str, written: Written) -> None:
        table.setdefault(name, []).append(asdict(written))
        say(f"writing: {name}: {written.wall:.2f} s, {written.frames / max(written.wall, 1e-9):.0f} frames/s")

    for _ in range(runs):
        written, folder = writers.ours("pcap")
        note("traceflow pcap", written)
        note("cp -r of these files", writers.copy(folder))
        if shutil.which("tcpflow"):
            note("tcpflow", writers.tcpflow())
        for file_format in formats:
            note(f"traceflow {file_format}", writers.ours(file_format)[0])
        if "json" in formats:
            note("traceflow json --by flow", writers.ours("json", "--by", "flow")[0])
        if pcapkit is not None:
            note("PyPCAPKit json (dpkt engine)", writers.pcapkit(pcapkit.python))
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are written; default: the folder for temporary files")
    parser.add_argument("--python", action="append", default=[], help="a Python that has PyPCAPKit and dpkt")
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    chosen = parser.parse_args(arguments)
    pythons = [*chosen.python, sys.executable]
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        place, formats = Path(name), ("json", "plist", "tree")
        table = writing(place, chosen.frames, chosen.runs, pythons, print, formats)
    for tool, rows in table.items():
        wall, cpu = (statistics.median(row[part] for row in rows) for part in ("wall", "cpu"))
        sizes = f"{rows[0]['files']:9.0f} files {rows[0]['octets'] / 1e6:7.0f} MB"
        print(f"{tool:30}{wall:8.2f} s {cpu:8.2f} s of processors {sizes} {rows[0]['frames'] / wall:10.0f} frames/s")
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=1), "utf-8")


if __name__ == "__main__":
    main()
