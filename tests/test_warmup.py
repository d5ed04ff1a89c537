"""The room `warmup`: what a first run compiles in two processes is what a run needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from needs import LIBPCAP

from traceflow.cli import warming
from traceflow.compiled import COMPILED, is_to_be_compiled
from traceflow.framelists import FrameMap
from traceflow.tracking import track
from traceflow.warmup import Warmth

pytestmark = pytest.mark.skipif(not COMPILED, reason="plain kernels are not compiled")

_AFTER = """
from numba.core import event
from traceflow.warmup import compile_side_by_side
with event.install_recorder("numba:compile") as recorder:
    compile_side_by_side()
here = {{item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}}
print(sorted(here & {{"track", "follow_rare", "judge", "decode_headers"}}))
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

_AGAIN = """
from numba.core import event
from traceflow.warmup import compile_all
with event.install_recorder("numba:compile") as recorder:
    compile_all()
print(sorted({item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}))
"""


@LIBPCAP
@pytest.mark.once("all kernels compiled anew")
def test_nothing_is_left_to_compile(tmp_path: Path, fixtures_folder: Path) -> None:
    """With an empty cache, both processes together leave no kernel of a plain capture to compile.

    This one compiles the table's kernel, all but the piece `judge`, which the other one sends.

    A live capture cannot wait for any other either: not on a quiet link, nor when the first fragment or ICMP error
    comes, while its ring fills.
    """
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    more = [str(fixtures_folder / name) for name in ("fragments.pcap", "T24.pcap")]
    script = _AFTER.format(path=str(fixtures_folder / "T01.pcap"), more=more)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['follow_rare', 'track']", "[]", "[]"]
    command = [sys.executable, "-c", _AGAIN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]


_KNOWN_KERNELS = """
import importlib, pkgutil, sys
import traceflow
for found in pkgutil.walk_packages(traceflow.__path__, "traceflow."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from traceflow.compiled import cached_kernels
print(sorted(k.py_func.__module__ + "." + k.py_func.__name__ for k in list(cached_kernels)))
from traceflow.warmup import warm_up
warmth = warm_up()
house = list(cached_kernels)
print(sorted(k.py_func.__name__ for k in house if len(k.signatures) != 1))
print(warmth.kernels - len(house) >= 0, warmth.uncached, [str(folder) for folder in warmth.folders][:1])

from numba.core import event
from traceflow.cli.program import run
with event.install_recorder("numba:compile") as recorder:
    for line in open(0):
        assert run(line.split()) in (0, 3), line
print(sorted({item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}))
print(sorted(k.py_func.__name__ for k in house if len(k.signatures) > 1))
"""

_COMMANDS = """\
flows {folder}/http.pcap -q -T csv
flows {folder}/http.pcap -q --summary --no-analysis --workers 1
flows {folder}/http.pcap -q --plugin tcpwin --plugin splt
flows {folder}/T24.pcap -q -f ip --duplicates remove
frames {folder}/fragments.pcap -q
frames {folder}/http.pcap -q --profile zeek
trace {folder}/http.pcap -q -o {out}/json
trace {folder}/http.pcap -q -o {out}/pcap --format pcap
"""


@LIBPCAP
@pytest.mark.once("all kernels compiled anew")
def test_warm_up_compiles_every_kernel_once(tmp_path: Path, fixtures_folder: Path) -> None:
    """Every kernel of every module has one set of argument types after `warm_up`, and commands need no other.

    A second one would be compiled in the middle of a run: an array that can be written here and not there, or a number
    of Python here and of NumPy there, is enough for that. So this holds explicit signatures without writing them down.
    """
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    commands = _COMMANDS.format(folder=fixtures_folder, out=tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _KNOWN_KERNELS],
        env=environment,
        input=commands,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("[", "True", "False"))]
    known, not_once, kept, compiled, more_than_once = said
    assert "traceflow.tracking.track" in known
    assert not_once == "[]"
    assert kept.startswith("True ()")
    assert str(tmp_path) in kept
    assert compiled == "[]"
    assert more_than_once == "[]"


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, and the way out in the message; with one, the count and the folder, or nothing with -q."""
    said: list[str] = []
    kept, away = tmp_path / "kept", tmp_path / "away"

    def warmed(warmth: Warmth, named: Path | None = None, *, quiet: bool = True) -> int:
        said.clear()
        monkeypatch.setattr(warming, "warm_up", lambda: warmth)
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        if named is not None:
            monkeypatch.setenv("NUMBA_CACHE_DIR", str(named))
        return warming.run(quiet=quiet)

    monkeypatch.setattr(warming, "say", said.append)
    monkeypatch.setattr(warming, "note", said.append)
    assert warmed(Warmth(3, ("decode", "track"), (kept,))) == 1
    assert said == [f"2 kernels could not be kept (decode, track): is {kept} full?"]
    assert warmed(Warmth(3, ("track",), (kept,))) == 1
    assert said == [f"1 kernel could not be kept (track): is {kept} full?"]
    assert warmed(Warmth(0, ("track",), ())) == 1
    assert said[0].startswith("no kernel could be kept: no folder for them was found; name a folder")
    assert warmed(Warmth(0, ("track",), ()), away) == 1
    assert said[0].startswith(f"no kernel could be kept: {away}, which NUMBA_CACHE_DIR names, cannot be written")
    assert warmed(Warmth(3, (), (kept,)), away) == 1
    assert said == [f"NUMBA_CACHE_DIR is {away}, which cannot be written: kernels were kept in {kept}"]
    assert warmed(Warmth(3, (), (kept / "a", kept / "b")), kept) == 0
    assert said == []
    assert warmed(Warmth(3, (), (kept / "a", kept / "b")), quiet=False) == 0
    assert said[0].startswith(f"kernels 3, in {kept}, ready after ")


def test_what_is_in_the_cache_is_not_to_be_compiled() -> None:
    """After a run in this process; of an object without a cache nothing can be said."""
    frame_map = FrameMap()
    assert frame_map.frames == 0
    assert not is_to_be_compiled(object())
    assert isinstance(is_to_be_compiled(track), bool)
