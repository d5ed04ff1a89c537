"""Runs a command and says what it took: wall time, processor time, highest resident memory.

Each command is started by a small process of its own (this file, run as a script). The system counts what a process
held before it became the command, so a command that were started by a large process would seem to be as large.
Nothing below some 12 MB can be seen therefore. Of a command that starts others the largest process counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Cost", "TooSlow", "measure", "output_of"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took.

    Attributes:
        wall: Seconds from start to end.
        cpu: Seconds of all its processors, system time included.
        peak: Highest resident memory, octets.
        output: What it wrote to standard output, where that was asked for.
    """

    wall: float
    cpu: float
    peak: int
    output: str = ""


class TooSlow(Exception):  # noqa: N818 - says what happened
    """A command did not finish in time, and was ended."""


def measure(
    command: list[str],
    *,
    folder: Path | None = None,
    limit_s: float = 3600,
    keep: bool = False,
    environment: dict[str, str] | None = None,
    one_core: bool = False,
) -> Cost:
    """Run a command.

    Args:
        command: The command.
        folder: Where it runs.
        limit_s: Seconds after which it is ended, with all that it started.
        keep: Keep its standard output; otherwise that goes to /dev/null.
        environment: Variables to set.
        one_core: Let it run on one processor only.

    Raises:
        TooSlow: It took longer than `limit_s`.
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as place:
        out, talk = Path(place, "out"), Path(place, "talk")
        order = {
            "command": command,
            "out": str(out) if keep else os.devnull,
            "talk": str(talk),
            "limit_s": limit_s,
            "one_core": one_core,
        }
        starter = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
        done = subprocess.run(
            starter,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
        found = json.loads(done.stdout)
        if found["status"] is None:
            raise TooSlow(f"{' '.join(command)}: not done after {limit_s:.0f} s")
        if found["status"]:
            said = talk.read_text("utf-8", "replace").strip()[-500:]
            raise RuntimeError(f"{' '.join(command)}: exits with {found['status']}: {said}")
        output = out.read_text("utf-8") if keep else ""
    return Cost(found["wall"], found["cpu"], found["peak"], output)


def output_of(command: list[str]) -> str | None:
    """What a short command says on both outputs; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout + done.stderr


def _start(order: dict[str, Any]) -> dict[str, Any]:
    """Be the small process."""
    if order["one_core"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    with open(order["out"], "wb") as out, open(order["talk"], "wb") as talk:  # noqa: PTH123 - pathlib is slow to load
        before = time.perf_counter()
        process = subprocess.Popen(
            order["command"], stdin=subprocess.DEVNULL, stdout=out, stderr=talk, start_new_session=True
        )
        late = False

        def stop(*_: object) -> None:
            nonlocal late
            late = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        signal.signal(signal.SIGALRM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.setitimer(signal.ITIMER_REAL, order["limit_s"])
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - before
        signal.setitimer(signal.ITIMER_REAL, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "status": None if late else code,
    }


if __name__ == "__main__":
    json.dump(_start(json.load(sys.stdin)), sys.stdout)
