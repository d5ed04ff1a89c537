"""The room `warmup`: what a first run compiles in two processes is what a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needs import LIBPCAP

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

from traceflow.cli.capturing import begin
from traceflow.filters.bpf import Expression
from traceflow.pipeline import Run
from traceflow.options import options_for
from traceflow.sources import open_source

class Nothing:
    def start(self):
        pass

begin(Nothing(), filtered=True, quiet=True)
rules = options_for("default", checksums=True)
with event.install_recorder("numba:compile") as recorder, open_source(*{more!r}) as captures:
    run = Run(captures, rules, frame_filter=Expression("ip"))
    for step in run.steps():
        run.tick(0)
account = run.account()
assert account.fragments_late and captures.frames_read
print(sorted({{item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}}))
"""


@LIBPCAP
@pytest.mark.once("all kernels compiled anew")
def test_nothing_is_left_to_compile(tmp_path: Path, fixtures_folder: Path) -> None:
    """With an empty cache, both processes together leave no kernel of a plain capture to compile.

    A live capture cannot wait for any other either: not on a quiet link, nor when the first fragment or ICMP error
    comes, while its ring fills.
    """
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    more = [str(fixtures_folder / name) for name in ("fragments.pcap", "T24.pcap")]
    script = _AFTER.format(path=str(fixtures_folder / "T01.pcap"), more=more)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]", "[]"]


def test_what_is_in_the_cache_is_not_to_be_compiled() -> None:
    """After a run in this process; of an object without a cache nothing can be said."""
    frame_map = FrameMap()
    assert frame_map.frames == 0
    assert not is_to_be_compiled(object())
    assert isinstance(is_to_be_compiled(track), bool)
