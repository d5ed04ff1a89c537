"""The room `reread`: the kernel that reads fetches what Python fetches, and stops where it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traceflow.packets import FRAME
from traceflow.sources import open_source, reread
from traceflow.sources.reread import CALLED, fetch_runs

called = pytest.mark.skipif(not CALLED, reason="only compiled kernels call the system, and only that of Linux")

SIZES = [5, 0, 3, 7, 1]


@pytest.fixture(name="given")
def _given(tmp_path: Path) -> Iterator[tuple[int, Any, bytes]]:
    """An open file, FRAME rows of frames of some octets each, 2 octets apart, and the octets of the file."""
    octets = bytes(range(30))
    (tmp_path / "file").write_bytes(octets)
    rows = np.zeros(len(SIZES), FRAME)
    rows["captured"] = SIZES
    rows["offset"] = np.cumsum([0, *SIZES[:-1]]) + 2 * np.arange(len(SIZES))
    rows["start"] = np.cumsum([0, *SIZES[:-1]])
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    yield handle, rows, octets
    os.close(handle)


def fetched(handle: int, rows: Any, edges: list[int], scratch: int = 100, room: int = 16) -> tuple[int, list[int]]:
    """Runs that were read, and the octets."""
    octets = np.full(room, 255, np.uint8)
    done = fetch_runs(np.int32(handle), rows, np.array(edges, np.uint64), np.zeros(scratch, np.uint8), octets)
    return int(done), octets.tolist()


WHOLE = [*range(5), *range(9, 12), *range(14, 21), 23]


@called
@pytest.mark.parametrize("edges", [[0, 5], [0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 4, 5]])
def test_runs_of_any_length(edges: list[int], given: tuple[int, Any, bytes]) -> None:
    handle, rows, _ = given
    assert fetched(handle, rows, edges) == (len(edges) - 1, WHOLE)


@called
def test_no_run_at_all(given: tuple[int, Any, bytes]) -> None:
    assert fetched(given[0], given[1], [0]) == (0, [255] * 16)


@called
def test_a_run_that_is_larger_than_the_scratch_is_left_to_others(given: tuple[int, Any, bytes]) -> None:
    """Frames 3 to 5 lie in 15 octets; the first two are there."""
    handle, rows, _ = given
    assert fetched(handle, rows, [0, 2, 5], scratch=14) == (1, [*WHOLE[:5], *[255] * 11])
    assert fetched(handle, rows, [0, 2, 5], scratch=15) == (2, WHOLE)


@called
def test_a_file_that_is_too_short(given: tuple[int, Any, bytes], tmp_path: Path) -> None:
    handle, rows, _ = given
    os.truncate(tmp_path / "file", 20)  # within the fourth frame
    assert fetched(handle, rows, [0, 2, 3, 4, 5])[0] == 2
    assert fetched(handle, rows, [0, 2, 5])[0] == 1


@called
def test_a_file_that_is_none(given: tuple[int, Any, bytes]) -> None:
    assert fetched(-1, given[1], [0, 5])[0] == 0


@called
def test_a_place_beyond_the_octets_is_not_written(given: tuple[int, Any, bytes]) -> None:
    handle, rows, _ = given
    assert fetched(handle, rows, [0, 1, 2, 3, 4, 5], room=15)[0] == 4
    rows["start"][4] = 2**32 - 1
    assert fetched(handle, rows, [0, 1, 2, 3, 4, 5])[0] == 4
    with pytest.raises(IndexError):
        fetched(handle, rows, [0, 5])


@pytest.mark.parametrize("by_kernel", [pytest.param(True, marks=called), False])
def test_frames_of_several_files_and_runs_of_all_kinds(
    by_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far apart, near, in the same block and not, and one that does not fit into the scratch."""
    monkeypatch.setattr(reread, "CALLED", by_kernel)
    monkeypatch.setattr(reread, "_SCRATCH_OCTETS", 4096)
    monkeypatch.setattr(reread, "_GAP_OCTETS", 100)
    monkeypatch.setattr(reread, "_RUN_OCTETS", 10_000)
    generator = np.random.default_rng(7)
    paths = []
    for name in ("a", "b"):
        head = b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + b"\xff\xff\x00\x00\x01\x00\x00\x00"
        for size in (*generator.integers(0, 300, 200).tolist(), 6000, 20, 30, 9000, 1):
            head += bytes(8) + size.to_bytes(4, "little") * 2 + generator.bytes(size)
        paths.append(tmp_path / name)
        paths[-1].write_bytes(head)
    with open_source(*paths) as captures:
        rows, octets = [], []
        for batch in captures.batches():
            rows.append(batch.frames.copy())
            octets += [bytes(batch.octets[start : start + size]) for start, size in
                       zip(batch.frames["start"].tolist(), batch.frames["captured"].tolist(), strict=True)]  # fmt: skip
        frames = np.concatenate(rows)
        for count in (1, 7, 100, len(frames)):
            order = generator.permutation(len(frames))[:count]
            room = np.zeros(100_000, np.uint8)
            found, placed = captures.reread(frames[order], room)
            assert np.shares_memory(found, room)
            for row, number in zip(placed, order.tolist(), strict=True):
                start = int(row["start"])
                assert bytes(found[start : start + int(row["captured"])]) == octets[number]
