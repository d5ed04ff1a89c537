"""Files that are whole or not there, many in a folder; and one thing done meanwhile."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from traceflow.errors import CannotReadError, CannotWriteError, FileExists
from traceflow.sinks.filing import AHEAD, Errands, Filing


def test_a_file_has_all_pieces(tmp_path: Path) -> None:
    filing = Filing(tmp_path, overwrite=False)
    filing.put("a", (b"one ", memoryview(b"two ")[:3], b""))
    filing.put("b", ())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one two", "b": b""}


def test_an_existing_file_stays_or_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExists, match="exists already"):
        Filing(tmp_path, overwrite=False).put("a", (b"new",))
    assert (tmp_path / "a").read_bytes() == b"old"
    Filing(tmp_path, overwrite=True).put("a", (b"new",))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").symlink_to(target)
    Filing(folder, overwrite=True).put("a", (b"new",))
    assert target.read_bytes() == b"theirs"
    assert not (folder / "a").is_symlink()


def test_no_half_file_is_left_when_a_piece_cannot_be_made(tmp_path: Path) -> None:
    def pieces(error: Exception) -> Iterator[bytes]:
        yield b"half"
        raise error

    filing = Filing(tmp_path, overwrite=False)
    for error, raised in (
        (CannotReadError("the source is gone"), CannotReadError),
        (OSError(28, "No space left on device"), CannotWriteError),
        (ValueError("x"), ValueError),
    ):
        with pytest.raises(raised):
            filing.put("a", pieces(error))
        assert list(tmp_path.iterdir()) == []
    filing.put("a", (b"whole",))
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="No such file"):
        Filing(tmp_path / "none", overwrite=False).put("a", (b"x",))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk(tmp_path: Path) -> None:
    """The temporary name leads to a device that takes nothing."""
    filing = Filing(tmp_path, overwrite=False)
    before = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        return before("/dev/full", os.O_WRONLY)

    os.open = full  # type: ignore[assignment]
    try:
        with pytest.raises(CannotWriteError, match="No space left"):
            filing.put("a", (b"x",))
    finally:
        os.open = before
    assert list(tmp_path.iterdir()) == []


def test_errands_are_done_in_order_and_not_too_many_are_open() -> None:
    """The first waits for the gate; the last that can be sent before it opens is the one of number AHEAD."""
    errands, gate = Errands(), threading.Event()
    done: list[int] = []
    errands.send(gate.wait)  # type: ignore[arg-type] # what it returns is nobody's matter
    for number in range(1, AHEAD):
        errands.send(functools.partial(done.append, number))
    assert done == []
    gate.set()
    for number in range(AHEAD, 30):
        errands.send(functools.partial(done.append, number))
        assert done[: number - AHEAD] == list(range(1, number - AHEAD + 1))
    errands.wait()
    assert done == list(range(1, 30))
    errands.close()


def test_behind_an_errand_that_fails_none_is_done_and_the_sender_is_told() -> None:
    errands, gate = Errands(), threading.Event()
    done: list[int] = []
    errands.send(gate.wait)  # type: ignore[arg-type]
    errands.send(lambda: done.append(1 // 0))
    errands.send(lambda: done.append(2))
    gate.set()
    with pytest.raises(ZeroDivisionError):
        errands.wait()
    errands.wait()
    errands.close()
    assert done == []
