"""`traceflow warmup`: has all kernels compiled, and says how many, where they are kept, and how long it took."""

from __future__ import annotations

import os
import time
from pathlib import Path

from traceflow.cli.compiling import announce_compiling
from traceflow.cli.exits import Exit
from traceflow.cli.messages import note, say
from traceflow.compiled import COMPILED
from traceflow.warmup import warm_up

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
    if warmth.uncached:
        say(
            f"{len(warmth.uncached)} kernels could not be kept ({', '.join(warmth.uncached)}); "
            "name a folder that can be written in NUMBA_CACHE_DIR"
        )
        return Exit.FAILED
    if not quiet:
        took = time.perf_counter() - start
        note(f"kernels {warmth.kernels}, in {_common(warmth.folders)}, ready after {took:.1f} s")
    return Exit.OK


def _common(folders: tuple[Path, ...]) -> str:
    """The folder that holds the folders of caches."""
    return os.path.commonpath(folders) if folders else "no folder"
