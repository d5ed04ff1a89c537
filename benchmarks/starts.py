"""How long processes take that have nothing to do: a tiny capture, a first run without compiled kernels, the import."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from processes import measure
from rivals import Program

__all__ = ["starts"]

TINY_FRAMES = 8
_FIRST_RUNS = 2


def starts(
    tiny: Path, programs: dict[str, tuple[Program, str]], runs: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of processes with next to nothing to do, in turn.

    Args:
        tiny: A capture of TINY_FRAMES frames.
        programs: By name: what is measured on larger captures, and its interpreter.
        runs: How many times each is run; the first run at most twice.
        say: Told of what is done.

    Returns:
        By name of a program; and `tiny` (`traceflow flows --summary`), `first run` (the same, nothing compiled yet),
        `import traceflow` and `import numpy`.
    """
    tiny_command = [sys.executable, "-m", "traceflow", "flows", "--summary", "-q", str(tiny)]
    found: dict[str, list[float]] = {"first run": []}
    for _ in range(min(runs, _FIRST_RUNS)):
        with tempfile.TemporaryDirectory() as folder:
            found["first run"].append(measure(tiny_command, environment={"NUMBA_CACHE_DIR": folder}).wall)
    say(f"start: first run: {found['first run'][0]:.1f} s")
    measure(tiny_command)
    for _ in range(runs):
        plain = {
            "tiny": tiny_command,
            "import traceflow": [sys.executable, "-c", "import traceflow"],
            "import numpy": [sys.executable, "-c", "import numpy"],
        }
        for name, command in plain.items():
            found.setdefault(name, []).append(measure(command).wall)
        for name, (program, python) in programs.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    wall = measure(program.arguments(str(tiny), folder, python), folder=Path(folder)).wall
                except RuntimeError as error:
                    say(f"start: {error}")
                    continue
            found.setdefault(name, []).append(wall)
    return found
