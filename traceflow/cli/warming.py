"""`traceflow warmup`: has all kernels compiled, and says how many, where they are kept, and how long it took."""

from __future__ import annotations

import os
import time
from pathlib import Path

from traceflow.cli.compiling import announce_compiling
from traceflow.cli.exits import Exit
from traceflow.cli.messages import note, say
from traceflow.compiled import COMPILED
from traceflow.warmup import Warmth, warm_up

__all__ = ["run"]


def run(*, quiet: bool) -> int:
    """Compile all kernels.

    Args:
        quiet: Say nothing but errors.

    Returns:
        The exit code: 1 where any of them is in no cache.
    """
    if not COMPILED:
        say("NUMBA_DISABLE_JIT is set, so kernels are not compiled; run warmup without it")
        return Exit.FAILED
    start = time.perf_counter()
    stop = None if quiet else announce_compiling()
    warmth = warm_up()
    if stop is not None:
        stop()
    if failure := _failure(warmth):
        say(failure)
        return Exit.FAILED
    if not quiet:
        took = time.perf_counter() - start
        note(f"kernels {warmth.kernels}, in {_common(warmth.folders)}, ready after {took:.1f} s")
    return Exit.OK


def _failure(warmth: Warmth) -> str | None:
    """What keeps later runs from finding the kernels; None: nothing."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if not warmth.folders:
        where = f"{named}, which NUMBA_CACHE_DIR names, cannot be written" if named else "no folder for them was found"
        return f"no kernel could be kept: {where}; name a folder that can be written in NUMBA_CACHE_DIR"
    if named and not all(folder.resolve().is_relative_to(Path(named).resolve()) for folder in warmth.folders):
        return f"NUMBA_CACHE_DIR is {named}, which cannot be written: kernels were kept in {_common(warmth.folders)}"
    if warmth.uncached:
        kernels = "1 kernel" if len(warmth.uncached) == 1 else f"{len(warmth.uncached)} kernels"
        return f"{kernels} could not be kept ({', '.join(warmth.uncached)}): is {_common(warmth.folders)} full?"
    return None


def _common(folders: tuple[Path, ...]) -> str:
    """The folder that holds the folders of caches."""
    return os.path.commonpath(folders) if folders else "no folder"
