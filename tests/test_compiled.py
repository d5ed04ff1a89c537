"""The room `compiled`: the door to Numba, and that kernels mean the same compiled and plain."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import traceflow
from traceflow.compiled import (
    COMPILED,
    U64,
    clear_record,
    inline_kernel,
    kernel,
    load_word,
    load_words,
    outline_kernel,
    put_octets,
    store_word,
    system_function,
    system_has,
)

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"


@inline_kernel
def _next(value: Any) -> Any:
    return value + U64(1)


@outline_kernel
def _twice(value: Any) -> Any:
    return value * U64(2)


@kernel
def _walk(numbers: Any) -> Any:
    """Let every piece of the door work on a column of unsigned numbers."""
    for i in range(len(numbers)):
        numbers[U64(i)] = _twice(_next(numbers[U64(i)]))


@kernel
def _third(numbers: Any) -> Any:
    return numbers[U64(2)]


@kernel
def _room() -> Any:
    return np.zeros(3)


@kernel
def _half(numbers: Any) -> Any:
    """Divide by a number that may be zero, as NumPy does."""
    return numbers[U64(0)] / numbers[U64(1)]


@kernel
def _move(target: Any, at: Any, source: Any, start: Any, count: Any) -> None:
    put_octets(target, at, source, start, count)


@kernel
def _add_to_word(octets: Any, at: Any, more: Any) -> None:
    store_word(octets, at, load_word(octets, at) + more)


@kernel
def _header(octets: Any, at: Any, words: Any) -> None:
    words[U64(0)], words[U64(1)], words[U64(2)], words[U64(3)], words[U64(4)], words[U64(5)] = load_words(octets, at)


def test_copies_stay_within_both_arrays() -> None:
    source, target = np.arange(8, dtype=np.uint8), np.zeros(6, np.uint8)
    _move(target, U64(1), source, U64(3), U64(5))
    assert target.tolist() == [0, 3, 4, 5, 6, 7]
    _move(target, U64(6), source, U64(8), U64(0))
    assert target.tolist() == [0, 3, 4, 5, 6, 7]
    wrapping = 2**64 - 2
    for at, start, count in ((2, 0, 5), (0, 4, 5), (7, 0, 0), (0, 9, 0), (wrapping, 0, 4), (0, wrapping, 4)):
        with pytest.raises(IndexError):
            _move(target, U64(at), source, U64(start), U64(count))


def test_words_have_their_lowest_octet_first_anywhere() -> None:
    """0x0100 + 0x02ff is 0x03ff: octets ff 03, at an odd place; beyond the end nothing is touched."""
    octets = np.array([9, 0, 1, 0, 0, 0, 0, 0, 0, 9], np.uint8)
    _add_to_word(octets, U64(1), U64(0x02FF))
    assert octets.tolist() == [9, 0xFF, 3, 0, 0, 0, 0, 0, 0, 9]
    with pytest.raises(IndexError):
        _add_to_word(octets, U64(3), U64(1))
    with pytest.raises(IndexError):
        _add_to_word(octets, U64(2**64 - 4), U64(1))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_header_is_six_words_with_their_first_octet_highest(at: int) -> None:
    """Octets 0, 1, 2 ...: 48 of them from `at` on, of 50; from 3 on there are but 47."""
    octets, words = np.arange(50, dtype=np.uint8), np.zeros(6, np.uint64)
    _header(octets, U64(at), words)
    assert words.astype(">u8").tobytes() == bytes(range(at, at + 48))
    for beyond in (3, 2**64 - 8):
        with pytest.raises(IndexError):
            _header(octets, U64(beyond), words)
    with pytest.raises(IndexError):
        _header(octets[:47], U64(0), words)


@kernel
def _clear(rows: Any, at: Any) -> None:
    clear_record(rows[at])


def test_one_record_is_cleared_and_no_other() -> None:
    rows = np.zeros(3, [("a", "u1"), ("b", "u4"), ("c", "u2")])
    for name in "abc":
        rows[name] = 200
    _clear(rows, U64(1))
    assert rows.tolist() == [(200, 200, 200), (0, 0, 0), (200, 200, 200)]


def test_the_pieces_work_together_and_wrap_without_a_word() -> None:
    """2**64 - 1 and one is 0; 2**63 + 1 doubled is 2: modulo 2**64, compiled and plain, without a warning."""
    numbers = np.array([0, 2**64 - 1, 2**63], np.uint64)
    _walk(numbers)
    assert numbers.tolist() == [2, 0, 2]


def test_bounds_are_checked() -> None:
    """Captures are hostile: a wrong index stops the kernel."""
    assert _third(np.array([1, 2, 3], np.uint64)) == 3
    with pytest.raises(IndexError):
        _third(np.array([1, 2], np.uint64))


@pytest.mark.skipif(not COMPILED, reason="kernels are plain: NumPy may allocate")
def test_allocation_in_a_kernel_does_not_compile() -> None:
    with pytest.raises(numba.core.errors.NumbaError):
        _room()


def test_the_switch_is_numbas() -> None:
    disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    assert disabled != COMPILED
    assert hasattr(_walk, "py_func") == COMPILED


def test_the_interpreter_lock_is_given_up() -> None:
    if COMPILED:
        assert _walk.targetoptions["nogil"]  # type: ignore[attr-defined]
        assert _walk.targetoptions["boundscheck"]  # type: ignore[attr-defined]


SCRIPT = """
import hashlib, sys, warnings
import numpy as np
from traceflow.decode import decode_batch
from traceflow.options import options_for
from traceflow.packets import PACKET
from traceflow.sources import open_source
from traceflow.table import FlowTable

warnings.simplefilter("error")
digest = hashlib.sha256()
for path in sys.argv[1:]:
    for profile in ("default", "pcapkit"):
        with open_source(path) as captures:
            table = FlowTable(options_for(profile, max_flows=5))
            for batch in captures.batches():
                packets = decode_batch(batch.octets, batch.frames, np.zeros(len(batch.frames), PACKET))
                digest.update(repr(packets.tolist()).encode())
                digest.update(repr(table.track(batch.frames, packets, batch.first_number).tolist()).encode())
            table.end()
            for row in table.drain():
                digest.update(repr([np.asarray(row[name]).tolist() for name in row.dtype.names]).encode())
            digest.update(repr(table.account()).encode())
print(digest.hexdigest())
"""


@pytest.mark.slow_plain("it compares both kinds wherever it runs")
def test_compiled_and_plain_kernels_give_the_same() -> None:
    """All stored fixtures through decode and table, once in a process with kernels and once without."""
    paths = sorted(str(path) for path in FIXTURES.glob("*.pcap*"))
    assert len(paths) > 50
    found = []
    for disabled in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *paths],
            env={
                **os.environ,
                "NUMBA_DISABLE_JIT": disabled,
                "PYTHONPATH": str(Path(traceflow.__file__).resolve().parents[1]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.strip())
    assert found[0] == found[1]
    assert len(found[0]) == 2 * hashlib.sha256().digest_size


def test_whether_the_system_has_a_function_can_be_asked() -> None:
    assert not system_has("no_such_function_at_all")
    assert not system_has("pread", "no_such_function_at_all")
    if COMPILED and sys.platform == "linux" and struct.calcsize("P") == 8:
        assert system_has("pread", "write")
    if not COMPILED:
        assert not system_has("pread")
        assert system_function("pread", np.int64, np.int32) is None
