"""Files that a kernel puts into a folder are those that `Filing.put` puts there, and it stops where a call fails."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from traceflow.errors import CannotWriteError, FileExists
from traceflow.sinks import filing
from traceflow.sinks.filing import Filing
from traceflow.sinks.filing_calls import CALLED, put_files, zero_ended

called = pytest.mark.skipif(not CALLED, reason="only compiled kernels call the system, and only that of Linux")

NAMES = ["one", "two", "three"]
OCTETS, STOPS = memoryview(b"1two3..."), [1, 4, 8]
FILES = {"one": b"1", "two": b"two", "three": b"3..."}


def put(folder: Path, *, overwrite: bool = False, names: list[str] = NAMES, stops: list[int] = STOPS) -> int:
    """Call the kernel."""
    paths, starts = zero_ended([f"{folder}/{name}" for name in names])
    temporary, _ = zero_ended([f"{folder}/.part"])
    ends = np.array(stops, np.uint64)
    return int(put_files(paths, starts, temporary, np.asarray(OCTETS.toreadonly()), ends, overwrite))


def content(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_paths_end_with_a_zero() -> None:
    octets, starts = zero_ended(["ab", "", "\udcff"])
    assert octets.tobytes() == b"ab\0\0\xff\0"
    assert starts.tolist() == [0, 3, 4]


@called
def test_all_files_are_there_with_the_mode_that_others_get(tmp_path: Path) -> None:
    assert put(tmp_path) == 3
    assert content(tmp_path) == FILES
    (tmp_path / "other").write_bytes(b"")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@called
@pytest.mark.parametrize("taken", range(3))
def test_the_first_name_that_is_taken_ends_it(taken: int, tmp_path: Path) -> None:
    (tmp_path / NAMES[taken]).write_bytes(b"mine")
    assert put(tmp_path) == taken
    assert content(tmp_path) == {name: FILES[name] for name in NAMES[:taken]} | {NAMES[taken]: b"mine"}
    for name in NAMES[:taken]:
        (tmp_path / name).unlink()
    assert put(tmp_path, overwrite=True) == 3
    assert content(tmp_path) == FILES


@called
def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.write_bytes(b"theirs")
    folder.mkdir()
    (folder / "two").symlink_to(target)
    assert put(folder) == 1
    (folder / "one").unlink()
    assert put(folder, overwrite=True) == 3
    assert target.read_bytes() == b"theirs"
    assert not (folder / "two").is_symlink()


@called
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    assert put(tmp_path / "none") == 0
    assert put(tmp_path, names=["one", "n" * 300, "three"]) == 1
    assert content(tmp_path) == {"one": b"1"}
    (tmp_path / "one").unlink()
    (tmp_path / "one").mkdir()
    assert put(tmp_path, overwrite=True) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@called
@pytest.mark.parametrize("stops", [[1, 4, 9], [4, 1, 8], [2**63, 4, 8]])
def test_contents_that_lie_elsewhere_are_not_written(stops: list[int], tmp_path: Path) -> None:
    good = 2 if stops[2] == 9 else stops.index(4) + 1 if stops[0] == 4 else 0
    assert put(tmp_path, stops=stops) == good
    assert len(content(tmp_path)) == good


@called
def test_a_path_without_its_end_is_no_path(tmp_path: Path) -> None:
    paths, starts = zero_ended([f"{tmp_path}/a"])
    temporary, _ = zero_ended([f"{tmp_path}/.part"])
    octets, stops = np.asarray(memoryview(b"x").toreadonly()), np.ones(1, np.uint64)
    assert put_files(paths[:-1], starts, temporary, octets, stops, False) == 0
    assert put_files(paths, starts, temporary[:-1], octets, stops, False) == 0
    assert put_files(paths, starts + np.uint64(len(paths)), temporary, octets, stops, False) == 0
    assert content(tmp_path) == {}
    assert put_files(paths, starts, temporary, octets, stops, False) == 1


@called
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted")
def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A file system of 64 KiB takes the first file and not the second, which is tried again, and says why."""
    folder = tmp_path / "small"
    folder.mkdir()
    system = ctypes.CDLL(None, use_errno=True)
    if system.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip("no file system can be mounted here")
    try:
        octets = memoryview(bytes(100_000))
        done = Filing(folder, overwrite=False).put_all(["a", "b", "c"], octets, [20_000, 90_000, 100_000])
        steps = []
        with pytest.raises(CannotWriteError, match="b: cannot write: No space left"):
            steps.extend(done)
        assert {name: len(octets) for name, octets in content(folder).items()} == {"a": 20_000}
    finally:
        system.umount2(os.fsencode(folder), 2)


@pytest.mark.parametrize("by_kernel", [pytest.param(True, marks=called), False])
def test_filing_puts_all_and_says_how_far_it_is(
    by_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filing, "CALLED", by_kernel)
    steps = list(Filing(tmp_path, overwrite=False).put_all(NAMES, OCTETS, STOPS))
    assert content(tmp_path) == FILES
    assert steps == ([3] if by_kernel else [1, 2, 3])


@pytest.mark.parametrize("by_kernel", [pytest.param(True, marks=called), False])
def test_filing_stops_at_a_name_that_is_taken(by_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filing, "CALLED", by_kernel)
    (tmp_path / "two").write_bytes(b"mine")
    steps = Filing(tmp_path, overwrite=False).put_all(NAMES, OCTETS, STOPS)
    assert next(steps) == 1
    with pytest.raises(FileExists, match="two: exists already"):
        next(steps)
    assert content(tmp_path) == {"one": b"1", "two": b"mine"}


def test_a_file_system_without_such_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses and Python can do is done by Python from then on."""
    refused = []

    def refuse(*args: object) -> int:
        refused.append(args)
        return 0

    monkeypatch.setattr(filing, "CALLED", True)
    monkeypatch.setattr(filing, "put_files", refuse)
    files = Filing(tmp_path, overwrite=False)
    assert list(files.put_all(NAMES, OCTETS, STOPS)) == [0, 1, 2, 3]
    list(files.put_all(["four"], OCTETS, [2]))
    assert content(tmp_path) == FILES | {"four": b"1t"}
    assert len(refused) == 1
