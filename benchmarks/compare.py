"""How fast flows are traced, beside every other tool that is installed, in one run: the one command for it.

    python benchmarks/compare.py [--python PATH]... [--runs 5] [--frames 2000000] [--capture FILE]
                                 [--parts ...] [--captures ...] [--only ...]
                                 [--folder DIR] [--json FILE [--add]] [--markdown FILE] [--docs docs/speed.md]

Makes its own captures (captures.py), runs traceflow and the others on them in turn, several times, and prints medians,
ratios to ours and peak memory, as Markdown; the bars that were set for speed come first. Parts:

    starts    processes with nothing to do: a tiny capture, a first run ever, the import (starts.py)
    captures  whole processes, ours and others', on each capture (rivals.py)
    stages    where our own time goes, in one process on one core (stages.py), and how fast that core is (bare.py)
    growth    many live flows, one flow, one-frame flows, reading `index` after every packet (growth.py)
    writing   a file for each flow (writing.py)
    capped    floods against a table of few flows (capped.py)

Captures of N frames (`--frames`): `small`, `mix`, `one`, `ipv6-vlan`, `pcapng`; `large` is `small` with 10 N, `many`
has N/2; `given` is the one that `--capture` names. Each is made when its turn comes and removed behind it. `--add` goes
on with the results in `--json`, so that parts can be measured one by one; `--parts none` only shows them. `--python`
names an interpreter that has NFStream or PyPCAPKit. Files of `writing` are some 7 GB for 2 000 000 frames.

Absolute times mean nothing across machines; nothing else should run on this one meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import captures
import report
from bars import SHARES, Results
from capped import capped_floods
from growth import flood_growth, index_growth, live_growth
from processes import TooSlow, measure
from rivals import FIRST, OURS, RIVALS, Program, expected_s, present, why_not
from starts import TINY_FRAMES, starts
from writing import writing

import traceflow

PARTS = ("starts", "captures", "stages", "growth", "writing", "capped")
_STAGES, _BARE = (Path(__file__).resolve().parent / name for name in ("stages.py", "bare.py"))
_SLOW_RUNS_S = 60
"""Tools run fewer times where all runs of one capture would take longer than this."""

_CAPTURES = {
    "small": ("small", 1.0, "TCP frames of 54 octets, 30 a connection"),
    "large": ("small", 10.0, "ten times `small`"),
    "mix": ("mix", 1.0, "TCP with payload of all sizes, 30 frames a connection"),
    "many": ("many", 0.5, "UDP flows of one frame"),
    "one": ("one", 1.0, "one TCP connection"),
    "ipv6-vlan": ("ipv6-vlan", 1.0, "`small` over IPv6 with VLAN tags"),
    "pcapng": ("pcapng", 1.0, "`small` as pcapng"),
}
"""Kind of captures.py, frames as a multiple of `--frames`, and what it is."""
_NOT_STAGED = ("large",)
_ANALYSED = ("small", "mix", "given")
"""Of these, stages are measured with TCP analysis as well."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """One run of the command.

    Args:
        chosen: What was asked for on the command line.
        place: A folder for captures and files.
        results: What there is already.
    """

    def __init__(self, chosen: argparse.Namespace, place: Path, results: Results) -> None:
        self._chosen, self._place, self.results = chosen, place, results
        pythons = [*chosen.python, sys.executable]
        self._programs: dict[str, tuple[Program, str]] = {}
        self.results["machine"] = _machine(chosen.runs)
        versions: dict[str, str] = self.results.setdefault("versions", {})
        for program in (*OURS, *RIVALS):
            wanted = program.name == FIRST or not chosen.only or any(part in program.name for part in chosen.only)
            found = present(program, pythons) if wanted else None
            if found is not None:
                version, python = found
                self._programs[program.name] = program, python
                versions[program.name] = version
        self._pythons = pythons

    def run(self) -> None:
        """Measure all parts that were asked for."""
        chosen, place = self._chosen, self._place
        parts = chosen.parts
        if "starts" in parts or ("growth" in parts and FIRST not in self.results.get("starts", {})):
            tiny = place / "tiny.pcap"
            captures.write_small(tiny, frames=TINY_FRAMES)
            self.results["starts"] = starts(tiny, self._programs, chosen.runs, say)
        for name in chosen.captures:
            if "captures" in parts or "stages" in parts:
                self._capture(name)
        few = (chosen.runs + 1) // 2
        if "growth" in parts:
            start_s = sorted(self.results["starts"][FIRST])[len(self.results["starts"][FIRST]) // 2]
            grown = self.results["growth"] = {"live": live_growth(place, 5 * chosen.frames, few, start_s, say)}
            grown |= flood_growth(place, chosen.frames, few, start_s, say)
            grown["index"] = index_growth(max(chosen.frames // 200, 100), few, say)
        if "writing" in parts:
            folder = place / "writing"
            folder.mkdir()
            self.results["writing"] = writing(folder, chosen.writing_frames, few, self._pythons, say)
        if "capped" in parts:
            self.results["capped"] = capped_floods(place, chosen.frames, 1, say)

    def _capture(self, name: str) -> None:
        """Make a capture, measure it, remove it."""
        if name == "given":
            path, about = self._chosen.capture, {"name": self._chosen.capture.stem, "about": "given by the user"}
        else:
            kind, times, text = _CAPTURES[name]
            path, about = self._place / f"{name}.pcap", {"about": text}
            say(f"{name}: made")
            captures.KINDS[kind](path, frames=int(self._chosen.frames * times))
        try:
            command = [sys.executable, "-m", "traceflow", "flows", "--summary", "-T", "jsonl", "-q", str(path)]
            account = json.loads(measure(command, keep=True).output.splitlines()[-1])  # reads the file, and compiles
            octets = path.stat().st_size
            found = {**about, "frames": account["frames"], "flows": account["flows"], "octets": octets}
            self.results.setdefault("captures", {})[name] = found
            if "captures" in self._chosen.parts:
                self._processes(name, path, account["frames"])
            if "stages" in self._chosen.parts and name not in _NOT_STAGED:
                kinds = {"plain": self._profile(_STAGES, path, "--no-analysis")}
                if name in _ANALYSED:
                    kinds["analysis"] = self._profile(_STAGES, path)
                self.results.setdefault("stages", {})[name] = kinds
                if name in SHARES:
                    self.results.setdefault("bare", {})[name] = self._profile(_BARE, path)
        finally:
            if name != "given":
                path.unlink(missing_ok=True)

    def _profile(self, script: Path, path: Path, *more: str) -> dict[str, Any]:
        """What a script that runs on one core finds about a capture."""
        command = [sys.executable, str(script), str(path), "--runs", str(self._chosen.runs), *more]
        found: dict[str, Any] = json.loads(measure(command, keep=True, one_core=True).output)
        return found

    def _processes(self, capture: str, path: Path, frames: int) -> None:
        """All programs on a capture, in turn."""
        costs: dict[str, list[dict[str, float]]] = {}
        left_out: dict[str, str] = {}
        part = self._place / "part.pcap"
        for name, (program, _) in self._programs.items():
            reason = why_not(program, capture, frames, self._chosen.patience)
            if reason:
                left_out[name] = reason
        for at in range(self._chosen.runs):
            for name, (program, python) in self._programs.items():
                if name in left_out or at >= max(1, int(_SLOW_RUNS_S / expected_s(program, capture, frames))):
                    continue
                given, count = path, frames
                if program.part is not None and program.part < frames:
                    given, count = part, program.part
                    if not part.exists():
                        captures.KINDS[_CAPTURES[capture][0]](part, frames=count)
                folder = self._place / "written"
                folder.mkdir()
                try:
                    cost = measure(
                        program.arguments(str(given), str(folder), python),
                        folder=folder,
                        limit_s=2 * self._chosen.patience,
                    )
                except (TooSlow, RuntimeError) as error:
                    left_out[name] = f"not done after {2 * self._chosen.patience:.0f} s"
                    if isinstance(error, RuntimeError):
                        left_out[name] = "failed"
                        say(f"{capture}: {error}")
                    continue
                finally:
                    shutil.rmtree(folder)
                costs.setdefault(name, []).append({**asdict(cost), "frames": count})
                say(f"{capture}: {name}: {cost.wall:.2f} s, {cost.peak / 1e6:.0f} MB")
        part.unlink(missing_ok=True)
        self.results.setdefault("processes", {})[capture] = costs
        self.results.setdefault("left_out", {})[capture] = left_out


def _machine(runs: int) -> dict[str, Any]:
    """What this ran on."""
    processor = platform.processor() or platform.machine()
    if (told := Path("/proc/cpuinfo")).is_file():
        names = [line.partition(":")[2].strip() for line in told.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "memory_gb": pages / 2**30,
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "numba": importlib.metadata.version("numba"),
        "traceflow": traceflow.__version__,
        "runs": runs,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000_000, help="frames of `small`; all else follows")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "none"], default=list(PARTS))
    parser.add_argument("--captures", nargs="+", choices=_CAPTURES, help="default: all")
    parser.add_argument("--capture", type=Path, help="one of yours as well")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of programs: parts of their names")
    parser.add_argument("--python", action="append", default=[], help="a Python with NFStream or PyPCAPKit")
    parser.add_argument("--patience", type=float, default=120, help="seconds that one run may be expected to take")
    parser.add_argument("--writing-frames", type=int, help="frames of the capture of `writing`; default: --frames")
    parser.add_argument("--folder", type=Path, help="where captures and files go; default: that of temporary files")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument("--add", action="store_true", help="go on with the results that --json names")
    parser.add_argument("--markdown", type=Path, help="write the tables there as well")
    parser.add_argument("--docs", type=Path, help="renew the tables of this page")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.frames < captures.SHORTEST or chosen.runs < 1:
        parser.error(f"at least {captures.SHORTEST} frames and one run")
    if chosen.add and not chosen.json:
        parser.error("--add goes with --json")
    if chosen.captures is None:
        chosen.captures = [] if chosen.capture and chosen.add else list(_CAPTURES)
    if chosen.capture:
        chosen.captures.append("given")
        chosen.capture = chosen.capture.resolve()
    chosen.writing_frames = chosen.writing_frames or chosen.frames
    results: Results = {}
    if chosen.add and chosen.json.is_file():
        results = json.loads(chosen.json.read_text("utf-8"))
    try:
        if chosen.parts != ["none"]:
            with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                Comparison(chosen, Path(folder).resolve(), results).run()
    finally:
        text = report.markdown(results) if results else ""
        print(text)
        if chosen.json and results:
            chosen.json.write_text(json.dumps(report.shown(results), indent=1), "utf-8")
        if chosen.markdown:
            chosen.markdown.write_text(text, "utf-8")
    if chosen.docs:
        report.into_page(chosen.docs, text)


if __name__ == "__main__":
    main()
