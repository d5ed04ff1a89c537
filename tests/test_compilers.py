"""The room `compilers`: what is loaded, made and compiled when, and that it means the same in any order."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import cgutils

import traceflow
from traceflow import compilers
from traceflow.compilers import COMPILED, inline_kernel, is_to_be_compiled, kernel, outline_kernel

pytestmark = pytest.mark.skipif(not COMPILED, reason="plain kernels are not compiled")

U64 = np.uint64

_MODULE = """
import numpy as np
from traceflow.compilers import inline_kernel, kernel, outline_kernel
U64 = np.uint64

@inline_kernel
def add(a, b):
    return U64(a) + U64(b)

@outline_kernel
def lower(a, b, upside):
    if upside:
        return max(a, b)
    return min(a, b)

@kernel
def first(numbers):
    for i in range(len(numbers)):
        numbers[U64(i)] = add(numbers[U64(i)], U64(1))

@kernel
def second(numbers):
    for i in range(len(numbers)):
        numbers[U64(i)] = lower(add(numbers[U64(i)], U64(10)), U64(30), False)
"""

_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import some_kernels
from numba.core import event
from numba.core.registry import cpu_target
with event.install_recorder("numba:compile") as recorder:
    for name in sys.argv[2:]:
        numbers = np.arange(10, 40, 10, dtype=np.uint64)
        getattr(some_kernels, name)(numbers)
        print(name, *numbers.tolist())
compiled = {item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}
print("compiled", *sorted(compiled & {"first", "second", "add", "lower"}))
print("made", *sorted(n for n in ("add", "lower") if "_made" in vars(getattr(some_kernels, n))))
print("registries", len(cpu_target.target_context._registries) > 5)
"""


def _run(folder: Path, *names: str) -> list[str]:
    """Call kernels of `_MODULE` with 10, 20, 30, in a process of its own, and hear what was compiled for it."""
    home = str(Path(traceflow.__file__).resolve().parents[1])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": home}
    command = [sys.executable, "-c", _RUN, str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.once("kernels compiled anew")
def test_loading_and_compiling_may_come_in_any_order(tmp_path: Path) -> None:
    """10, 20, 30 and one; with ten more, at most 30: 20, 30, 30.

    What is loaded makes no piece and asks for none of Numba's registries; what is compiled behind it finds them all.
    """
    (tmp_path / "some_kernels.py").write_text(_MODULE, "utf-8")
    one, two = "first 11 21 31", "second 20 30 30"
    assert _run(tmp_path, "first") == [one, "compiled add first", "made add", "registries True"]
    assert _run(tmp_path, "first") == [one, "compiled", "made", "registries False"]
    loaded_first = [one, two, "compiled add lower second", "made add lower", "registries True"]
    assert _run(tmp_path, "first", "second") == loaded_first
    for names in (("first", "second"), ("second", "first")):
        said = dict(zip(("first", "second"), (one, two), strict=True))
        assert _run(tmp_path, *names) == [*(said[name] for name in names), "compiled", "made", "registries False"]
    for cached in (tmp_path / "cache").rglob("*first*"):
        cached.unlink()
    compiled_last = [two, one, "compiled add first", "made add", "registries True"]
    assert _run(tmp_path, "second", "first") == compiled_last
    for cached in (tmp_path / "cache").rglob("*first*"):
        cached.unlink()
    assert _run(tmp_path, "first", "second")[:3] == [one, two, "compiled add first"]


@pytest.mark.once("kernels compiled anew")
def test_a_damaged_cache_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "some_kernels.py").write_text(_MODULE, "utf-8")
    _run(tmp_path, "first")
    data = list((tmp_path / "cache").rglob("*.nbc"))
    assert data
    for path in data:
        path.write_bytes(b"nothing of the kind")
    assert _run(tmp_path, "first")[:2] == ["first 11 21 31", "compiled add first"]
    assert _run(tmp_path, "first")[:2] == ["first 11 21 31", "compiled"]


_SENT = """
import sys
import numpy as np
from traceflow.compilers import expect_piece, export_piece, kernel
from traceflow.live import LIVE, live_rows
from traceflow.states import _add
U64 = np.uint64

def write(rows, letter):
    _add(rows[U64(0)], letter)

if sys.argv[1] == "send":
    open(sys.argv[2], "wb").write(export_piece(_add, LIVE, U64))
else:
    from numba.core import event
    sent, rows, write = open(sys.argv[2], "rb").read(), live_rows(1), kernel(write)
    with event.install_recorder("numba:compile") as recorder, expect_piece(_add, lambda: sent):
        write(rows, U64(ord("S")))
        write(rows, U64(ord("h")))
    compiled = {item.data["dispatcher"].py_func.__name__ for _, item in recorder.buffer}
    print(rows["history"][0].tobytes()[:3], rows["letters"][0], "_add" in compiled)
"""


@pytest.mark.once("kernels compiled anew")
def test_a_piece_comes_from_another_process(tmp_path: Path) -> None:
    """It does the same, and is compiled here only where what came is cut off, or of another source."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    sent = tmp_path / "sent"

    def call(what: str) -> str:
        command = [sys.executable, "-c", _SENT, what, str(sent)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    call("send")
    whole = sent.read_bytes()
    assert call("take") == r"b'Sh\x00' 2 False"
    name, digest, code = whole.split(b"\n", 2)
    for other in (b"", name, whole[: len(whole) // 2], b"\n".join((name, digest[::-1], code))):
        sent.write_bytes(other)
        assert call("take") == r"b'Sh\x00' 2 True", other[:200]


def _of_the_house(function: Any) -> Any:
    """What others write is compiled as Numba does it, so this says it is ours."""
    function.__module__ = "traceflow.some"
    return function


@inline_kernel
@_of_the_house
def _distance(a: Any, b: Any) -> Any:
    """A piece that is called with columns of every size below."""
    return U64(a) - U64(b)


@outline_kernel
@_of_the_house
def _sum(a: Any, b: Any) -> Any:
    return a + b


@kernel
def _mixtures(small: Any, large: Any, found: Any) -> None:
    a, b = small[U64(0)], large[U64(0)]
    found[U64(0)] = _distance(a["two"], a["four"])
    found[U64(1)] = _distance(b, a["four"])
    found[U64(2)] = _distance(b, a["one"])
    found[U64(3)] = _sum(a["two"], a["two"])


def test_a_piece_is_compiled_once_for_unsigned_numbers_of_all_sizes() -> None:
    """Differences of 200, 65535, 2**32 - 1, 2**40 modulo 2**64. 65535 twice is 131070, not what 16 bits hold."""
    small = np.array([(200, 65535, 2**32 - 1)], [("one", "u1"), ("two", "u2"), ("four", "u4")])
    found = np.zeros(4, np.uint64)
    _mixtures(small, np.array([2**40], np.uint64), found)
    assert found.tolist() == [(65535 - (2**32 - 1)) % 2**64, 2**40 - (2**32 - 1), 2**40 - 200, 131070]
    piece: Any = _distance
    assert [str(kinds) for kinds in piece.signatures] == ["(uint64, uint64)"]


def test_a_piece_is_made_when_something_of_it_is_wanted() -> None:
    """Its name and its text cost nothing; a call from Python compiles it, with the function at hand beside it."""

    def thrice(value: Any) -> Any:
        """Three times as much."""
        return value * U64(3)

    piece: Any = inline_kernel(thrice)
    assert (piece.__name__, piece.__doc__) == ("thrice", "Three times as much.")
    assert "_made" not in vars(piece)
    copied = copy.copy(piece)
    assert piece(U64(5)) == 15
    assert "_made" in vars(piece)
    assert piece.py_func is thrice
    assert piece.targetoptions["boundscheck"]
    assert numba.typeof(piece) == numba.typeof(piece._made)
    assert copied(U64(2)) == 6


_DIGEST = """
import sys
sys.path.insert(0, sys.argv[1])
from traceflow.compilers import _sources_digest
print(_sources_digest())
"""


def test_the_digest_is_that_of_the_contents(tmp_path: Path) -> None:
    """Of every source that may hold kernels; the same octets give the same, wherever they lie."""
    package = Path(compilers.__file__).parent
    rooms = {path.parent.relative_to(package).as_posix() for path in package.rglob("*.py")}
    copies = tmp_path / "traceflow"
    for path in package.rglob("*.py"):
        to = copies / path.relative_to(package)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())

    command = [sys.executable, "-P", "-c", _DIGEST, str(tmp_path)]

    def digest() -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    here = compilers._sources_digest()
    assert digest() == here
    for room in sorted(rooms - {"cli", "policy"}):
        path = copies / room / "__init__.py"
        before = path.read_bytes()
        path.write_bytes(before + b"#")
        assert digest() != here, room
        path.write_bytes(before)
    assert digest() == here


def test_whether_a_kernel_is_in_the_cache_can_be_asked() -> None:
    def once(value: Any) -> Any:
        return value

    assert not is_to_be_compiled(once)
    assert not is_to_be_compiled(object())


def _element(numbers: Any, at: Any) -> Any:
    return numbers[at]


def _set_element(numbers: Any, at: Any) -> Any:
    numbers[at] = 7
    return 0


def _cell(numbers: Any, at: Any) -> Any:
    return numbers.reshape(2, 3)[at, at]


@pytest.mark.parametrize("function", [_element, _set_element, _cell])
def test_an_index_out_of_bounds_stops_a_kernel_of_the_house(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comparison without signs is enough: what is negative, or beyond 2**63, is above every length."""
    monkeypatch.setattr(function, "__module__", "traceflow.of_a_test")
    theirs = cgutils.do_boundscheck
    compiled = numba.njit(**compilers._way(function), **compilers.HOUSE)(function)
    length = 2 if function is _cell else 6
    for number in (np.uint64, np.int64, np.uint32, np.int8):
        numbers = np.arange(6, dtype=np.uint64)
        for at in range(length):
            compiled(numbers, number(at))
        for beyond in (length, length + 1, 127, np.iinfo(number).max):
            with pytest.raises(IndexError, match="out of bounds"):
                compiled(numbers, number(beyond))
    if function is _element:
        assert compiled(np.arange(6, dtype=np.uint64), np.int64(-1)) == 5, "signed, it counts from the end"
    for negative in (-length - 1, -100, -(2**63)):
        with pytest.raises(IndexError, match="out of bounds"):
            compiled(np.arange(6, dtype=np.uint64), np.int64(negative))
    for huge in (2**63 - 1, 2**63, 2**64 - 1):
        with pytest.raises(IndexError, match="out of bounds"):
            compiled(np.arange(6, dtype=np.uint64), np.uint64(huge))
    assert cgutils.do_boundscheck is theirs, "what others compile is Numba's business"
