"""The commands that are measured side by side: ours, and every other tool that is installed; and who runs on what.

Tools run with their defaults and write as little as they can: no names are looked up, what is printed goes to
/dev/null. What is left out, and why, is in the result as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from other_tools import TOOLS, installed

__all__ = ["FIRST", "OURS", "RIVALS", "STREAM", "SUMMARY", "Program", "expected_s", "present", "why_not"]

SUMMARY = ("flows", "--summary")
_PLAIN = "--no-analysis"
FIRST = "flows --summary --no-analysis, 1 worker"
"""The command that all others are compared with."""
STREAM = "flows --stream --max-flows 10000 -T csv"

_WITH_TCP = ("small", "large", "mix", "one", "ipv6-vlan", "pcapng", "given")

_KEPT = """
import sys
import traceflow
flows = traceflow.trace(sys.argv[1], analysis=False, workers=1)
offsets, numbers = flows.frame_map.lists()
print(len(flows), len(numbers))
"""
_NFSTREAM = """
import sys
from nfstream import NFStreamer
if __name__ == "__main__":
    print(sum(1 for _ in NFStreamer(source=sys.argv[1], statistical_analysis=False, n_dissections=0)))
"""
_PYPCAPKIT = """
import sys
import pcapkit
chosen = {"trace": True, "tcp": True, "trace_format": "json", "trace_fout": sys.argv[2]}
pcapkit.extract(fin=sys.argv[1], nofile=True, engine="dpkt", **chosen)
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A command that is measured.

    Attributes:
        name: As in tables.
        arguments: The command for a capture, a folder to write into, and a Python interpreter.
        package: Of Python; empty: a program on the path, the first of the arguments.
        most_frames: It is not run on captures of more frames.
        part: It is given a capture of that many frames instead, because of its speed.
        only: Captures that it is run on; empty: all.
        reason: Why any of these three is set.
        expected: Frames a second on small frames, by which it is known beforehand that it would take too long.
        slow_on: The same on single captures.
    """

    name: str
    arguments: Callable[[str, str, str], list[str]]
    package: str = ""
    most_frames: int | None = None
    part: int | None = None
    only: tuple[str, ...] = ()
    reason: str = ""
    expected: float = 2e6
    slow_on: tuple[tuple[str, float], ...] = ()


def _ours(name: str, *options: str) -> Program:
    def arguments(capture: str, folder: str, python: str) -> list[str]:
        return [sys.executable, "-m", "traceflow", *options, "-q", capture]

    return Program(name, arguments, package="traceflow")


OURS = (
    _ours(FIRST, *SUMMARY, _PLAIN, "--workers", "1"),
    _ours("flows --summary --no-analysis, 2 workers", *SUMMARY, _PLAIN, "--workers", "2"),
    _ours("flows --summary, 1 worker", *SUMMARY, "--workers", "1"),
    _ours("flows --summary, 2 workers", *SUMMARY, "--workers", "2"),
    _ours("flows -T csv --no-analysis, 1 worker", "flows", "-T", "csv", _PLAIN, "--workers", "1"),
    _ours("flows -T jsonl --no-analysis, 1 worker", "flows", "-T", "jsonl", _PLAIN, "--workers", "1"),
    _ours(STREAM, "flows", "--stream", "--max-flows", "10000", "-T", "csv"),
    Program("trace() and all frame lists", lambda capture, folder, python: [sys.executable, "-c", _KEPT, capture],
            package="traceflow"),
)  # fmt: skip
"""All that the issue of speed asks of us on one capture."""

RIVALS = (
    Program("capinfos -c (counts only)", lambda capture, folder, python: ["capinfos", "-c", capture], expected=17e6),
    Program("nfpcapd", lambda capture, folder, python: ["nfpcapd", "-r", capture, "-w", folder], expected=6e6),
    Program(
        "softflowd -m 2000000",
        lambda capture, folder, python: [
            "softflowd", "-d", "-m", "2000000", "-p", f"{folder}/pid", "-c", f"{folder}/ctl", "-r", capture
        ],
        expected=4.8e6,
    ),
    Program("ndpiReader", lambda capture, folder, python: ["ndpiReader", "-q", "-i", capture], expected=3e6,
            slow_on=(("many", 2e5),)),
    Program("tcptrace", lambda capture, folder, python: ["tcptrace", "-n", capture], expected=2.8e6, only=_WITH_TCP,
            reason="it traces TCP alone"),
    Program(
        "argus",
        lambda capture, folder, python: ["argus", "-F", "/dev/null", "-r", capture, "-w", f"{folder}/records"],
    ),
    Program(
        "tcpflow (writes payload)",
        lambda capture, folder, python: ["tcpflow", "-r", capture, "-o", folder],
        only=("mix", "given"),
        reason="it writes the payload of connections, and other captures have none",
        expected=2e5,
    ),
    Program(
        "tshark -z conv,tcp",
        lambda capture, folder, python: ["tshark", "-q", "-n", "-z", "conv,tcp", "-r", capture],
        most_frames=4_000_000,
        only=_WITH_TCP,
        reason="it lists TCP alone, and its memory grows with the frames",
        expected=1.7e5,
    ),
    Program(
        "NFStream (n_dissections=0)",
        lambda capture, folder, python: [python, "-c", _NFSTREAM, capture],
        package="nfstream",
        expected=3.1e5,
        slow_on=(("many", 2.6e4),),
    ),
    Program(
        "PyPCAPKit (dpkt engine, json files)",
        lambda capture, folder, python: [python, "-c", _PYPCAPKIT, capture, f"{folder}/files"],
        package="pypcapkit",
        part=20_000,
        only=("small", "mix"),
        reason="it takes 10 s for 20 000 frames; with this engine it only traces if it writes files",
        expected=2e3,
    ),
    Program(
        "Zeek",
        lambda capture, folder, python: ["zeek", "-C", "-r", capture],
        expected=2e5,
    ),
)  # fmt: skip


def present(program: Program, pythons: list[str]) -> tuple[str, str] | None:
    """Look for a tool.

    Args:
        program: The tool.
        pythons: Interpreters that may have it, where it is a package.

    Returns:
        (version, interpreter); None where it is not there. Version is empty where it has no easy way to say it.
    """
    if program.package == "traceflow":
        return "", sys.executable
    words = program.name.split()
    for tool in TOOLS:
        if tool.name == words[0]:
            found = installed(tool, pythons)
            return None if found is None else (found.version, found.python)
    command = words[0]
    if not shutil.which(command):
        return None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, errors="replace", check=False)
    numbers = [word for word in (done.stdout + done.stderr).split() if word[0].isdigit() and "." in word]
    return numbers[0].rstrip(".,") if numbers else "", sys.executable


def why_not(program: Program, capture: str, frames: int, patience_s: float) -> str:
    """Why a tool is not run on a capture; empty: it is.

    Args:
        program: The tool.
        capture: Name of the capture.
        frames: Frames in it.
        patience_s: How long one run may take.
    """
    if program.only and capture not in program.only:
        return program.reason
    if program.part is not None:
        return ""
    if program.most_frames is not None and frames > program.most_frames:
        return f"{program.reason}; not run on more than {program.most_frames} frames"
    expected = dict(program.slow_on).get(capture, program.expected)
    if frames / expected > patience_s:
        return f"would take about {frames / expected:.0f} s"
    return ""


def expected_s(program: Program, capture: str, frames: int) -> float:
    """Seconds that a run is expected to take: slow tools are run fewer times."""
    return min(frames, program.part or frames) / dict(program.slow_on).get(capture, program.expected)
