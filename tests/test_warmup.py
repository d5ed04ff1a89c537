"""The room `warmup`: what a first run compiles in two processes is what a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from traceflow.compiled import COMPILED, is_to_be_compiled
from traceflow.framelists import FrameMap
from traceflow.tracking import track

pytestmark = pytest.mark.skipif(not COMPILED, reason="plain kernels are not compiled")

_AFTER = """
from traceflow.warmup import compile_side_by_side
compile_side_by_side()
from numba.core import event
import traceflow
with event.install_recorder("numba:compile") as recorder:
    flows = traceflow.trace({path!r})
    flows[0].frames
assert len(flows) == 1
print(sorted({{item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}}))
"""


@pytest.mark.once("all kernels compiled anew")
def test_nothing_is_left_to_compile(tmp_path: Path, fixtures_folder: Path) -> None:
    """With an empty cache, both processes together leave no kernel of a plain capture to compile."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    script = _AFTER.format(path=str(fixtures_folder / "T01.pcap"))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_what_is_in_the_cache_is_not_to_be_compiled() -> None:
    """After a run in this process; of an object without a cache nothing can be said."""
    frame_map = FrameMap()
    assert frame_map.frames == 0
    assert not is_to_be_compiled(object())
    assert isinstance(is_to_be_compiled(track), bool)
