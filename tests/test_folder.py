"""The output folder: names that are given once, files that are whole or not there, nothing of others touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import CannotReadError, CannotWriteError, FileExists, TraceflowError
from traceflow.sinks import folder as room
from traceflow.sinks.folder import INDEX_NAME, listed_files, make_folder, refuse_earlier_run, remove_files, write_whole
from traceflow.sinks.naming import UniqueNames


def test_a_name_comes_back_with_the_smallest_free_suffix() -> None:
    names = UniqueNames()
    assert [names.unique(name) for name in ("a", "a", "a-1", "a", "a-2", "b")] == [
        "a",
        "a-1",
        "a-1-1",
        "a-2",
        "a-2-1",
        "b",
    ]
    assert names.unique("a") == "a-3"


def test_case_counts_only_where_asked() -> None:
    assert [UniqueNames().unique(name) for name in ("a", "A")] == ["a", "A"]
    names = UniqueNames()
    assert [names.unique(name) for name in ("a", "A")] == ["a", "A"]
    folded = UniqueNames(fold=True)
    assert [folded.unique(name) for name in ("a", "A", "A-1", "a-1")] == ["a", "A-1", "A-1-1", "a-1-2"]


@given(st.lists(st.sampled_from(["a", "A", "a-1", "a-1-1", "A-2", "b"]), max_size=40), st.booleans())
def test_no_name_is_given_twice_and_each_begins_as_asked(wanted: list[str], fold: bool) -> None:
    names = UniqueNames(fold=fold)
    given_out = [names.unique(name) for name in wanted]
    keys = [name.casefold() if fold else name for name in given_out]
    assert len(set(keys)) == len(keys)
    assert all(out.startswith(name) for out, name in zip(given_out, wanted, strict=True))


def test_ten_thousand_equal_names_take_no_search() -> None:
    folded = 0

    class Counted(str):
        """Counts how often it is made ready for a comparison."""

        __slots__ = ()

        def casefold(self) -> str:
            nonlocal folded
            folded += 1
            return super().casefold()

    names = UniqueNames(fold=True)
    for _ in range(10_000):
        names.unique(Counted("a"))
    assert names.unique("a") == "a-10000"
    assert folded <= 50_000  # a search from the first suffix on would take 50 million


def test_make_folder_makes_parents_and_accepts_what_is_there(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    make_folder(tmp_path / "link")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "dangling"):
        with pytest.raises(FileExists, match="in the way"):
            make_folder(path)


def test_a_folder_that_cannot_be_made() -> None:
    for path in (Path("/proc/none/x"), Path("a\0b"), Path("x" * 300)):
        with pytest.raises(CannotWriteError, match="cannot make the output folder"):
            make_folder(path)


def test_an_earlier_run_is_refused(tmp_path: Path) -> None:
    for name in ("notes.txt", ".traceflow-0123.json", ".traceflow-0123.part", "a.json.bak"):
        (tmp_path / name).touch()
    refuse_earlier_run(tmp_path, ".json")
    (tmp_path / "b.json").touch()
    with pytest.raises(FileExists, match=r"b\.json: exists from an earlier run"):
        refuse_earlier_run(tmp_path, ".json")
    refuse_earlier_run(tmp_path, ".pcap")
    (tmp_path / "b.json").unlink()
    (tmp_path / "..1_80-..2_443-1.000000.json").touch()  # a flow from ::1, which begins with a dot
    with pytest.raises(FileExists):
        refuse_earlier_run(tmp_path, ".json")
    (tmp_path / INDEX_NAME).touch()
    with pytest.raises(FileExists, match=r"index\.json"):
        refuse_earlier_run(tmp_path, ".pcap")
    with pytest.raises(CannotWriteError, match="cannot read the output folder"):
        refuse_earlier_run(tmp_path / "absent", ".json")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    seen: list[list[str]] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"one", b"two"):
            seen.append(sorted(each.name for each in tmp_path.iterdir()))
            yield piece

    write_whole(path, pieces(), overwrite=False)
    assert path.read_bytes() == b"onetwo"
    assert all(len(names) == 1 and names[0].startswith(".traceflow-") and names[0].endswith(".part") for names in seen)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_existing_files_and_links_are_kept_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExists):
        write_whole(tmp_path / "x", [b"new"], overwrite=False)
    write_whole(tmp_path / "x", [b"new"], overwrite=True)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt(), MemoryError()]
)
def test_what_fails_in_the_middle_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise error

    expected = CannotWriteError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_whole(tmp_path / "x", pieces(), overwrite=True)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("x", b"old")]


def test_an_error_of_the_source_stays_one(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b""
        raise CannotReadError("a.pcap: the file has become shorter")

    with pytest.raises(TraceflowError, match=r"^a\.pcap: the file has become shorter$") as caught:
        write_whole(tmp_path / "x", pieces(), overwrite=False)
    assert not isinstance(caught.value, CannotWriteError)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_whole(tmp_path / "folder", [b""], overwrite=True)
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_whole(tmp_path / "absent" / "x", [b""], overwrite=False)
    with pytest.raises(CannotWriteError, match="cannot write"):
        write_whole(tmp_path / ("x" * 300), [b""], overwrite=True)
    assert [each.name for each in tmp_path.rglob("*")] == ["folder", "full"]


KILLED = """
import os, signal, sys
from pathlib import Path
from traceflow.sinks.folder import write_whole
def pieces():
    yield b"x" * 10**6
    os.kill(os.getpid(), signal.SIGKILL)
write_whole(Path(sys.argv[1]) / "first", [b"whole"], overwrite=False)
write_whole(Path(sys.argv[1]) / "second", pieces(), overwrite=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 on this system")
def test_kill_9_leaves_whole_files_and_a_temporary_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(room.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -9
    names = sorted(each.name for each in tmp_path.iterdir())
    assert len(names) == 2
    assert names[0].startswith(".traceflow-")
    assert (tmp_path / "first").read_bytes() == b"whole"
    assert not (tmp_path / "second").exists()


def test_an_earlier_index_names_what_may_be_removed_and_nothing_elsewhere(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "precious.json"
    folder.mkdir()
    outside.write_text("kept")
    (folder / "flow.json").write_text("old")
    (folder / "link.json").symlink_to(outside)
    (folder / "sub").mkdir()
    names = ["flow.json", "../precious.json", str(outside), "link.json", "sub", "gone.json", 7, None, ""]
    (folder / INDEX_NAME).write_text(json.dumps({"files": [{"file": name} for name in names]}))
    assert listed_files(folder) == {"flow.json"}
    remove_files(folder, listed_files(folder))
    assert sorted(path.name for path in folder.iterdir()) == [INDEX_NAME, "link.json", "sub"]
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("octets", [b"", b"[]", b"{}", b'{"files": 3}', b'{"files": [1]}', b"\xff", b"[" * 100_000])
def test_an_index_that_is_none_lists_nothing(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / INDEX_NAME).write_bytes(octets)
    assert listed_files(tmp_path) == set()
