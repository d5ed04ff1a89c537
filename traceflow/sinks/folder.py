"""The output folder: made, checked for an earlier run, and filled with files that are whole or not there.

A file is written under a temporary name in the same folder and renamed when it is complete, so that a reader (or a
crash) never sees half of one. Names come from labels, which hold no separators; nothing is written outside the folder.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from traceflow.errors import CannotWriteError, FileExists, TraceflowError

__all__ = [
    "INDEX_NAME",
    "TEMPORARY",
    "create_file",
    "grow_file",
    "listed_files",
    "make_folder",
    "refuse_earlier_run",
    "remove_files",
    "write_at",
    "write_whole",
]

INDEX_NAME = "index.json"
"""The file that lists the flow files of a run."""

TEMPORARY = ".traceflow-"
"""How temporary names begin."""


def make_folder(folder: Path) -> None:
    """Make the output folder where it does not exist.

    Raises:
        FileExists: It exists and is not a folder.
        CannotWriteError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FileExists(f"{folder}: a file is in the way of the output folder; choose another name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotWriteError(f"{folder}: cannot make the output folder: {reason}") from error


def refuse_earlier_run(folder: Path, extension: str) -> None:
    """Refuse a folder that holds the index or flow files of an earlier run.

    Args:
        folder: The output folder.
        extension: Extension of the files that are to be written, with the dot.

    Raises:
        FileExists: There is one; nothing was touched.
        CannotWriteError: The folder cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise CannotWriteError(f"{folder}: cannot read the output folder: {error.strerror or error}") from error
    for name in names:
        if name == INDEX_NAME or (name.endswith(extension) and not name.startswith(TEMPORARY)):
            raise FileExists(f"{folder / name}: exists from an earlier run; choose another folder, or ask to overwrite")


def create_file(path: Path, head: bytes, *, overwrite: bool) -> io.FileIO:
    """Make a new file that grows, and that has its first octets as soon as it has its name.

    A link in its place is replaced, never followed. A crash leaves a file with a temporary name at worst.

    Args:
        path: Its name.
        head: The octets.
        overwrite: Replace a file, or a link, that has the name.

    Raises:
        FileExistsError: The name is taken, and `overwrite` is off, or by what is no file.
        OSError: It cannot be made; nothing is left.
    """
    replaces = overwrite and (path.is_symlink() or path.is_file())
    if not replaces and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = _temporary(path)
    stream = io.FileIO(temporary, "x")
    try:
        write_at(stream, 0, head)
        if replaces or not _linked(temporary, path):
            temporary.replace(path)
    except BaseException:
        stream.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return stream


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file another name, which must be free also by now. False where the file system has no links.

    Raises:
        FileExistsError: The name is taken.
        OSError: Something else is wrong.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        return False
    temporary.unlink()
    return True


def _temporary(path: Path) -> Path:
    """A name beside another for what is not whole yet."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.part")


def write_at(stream: io.FileIO, position: int, octets: bytes | bytearray | memoryview) -> None:
    """Write at a position with as few calls as the system allows: one, but for a full disk or a signal.

    Raises:
        OSError: They do not all fit; some may have been written.
    """
    stream.seek(position)
    rest = memoryview(octets)
    while rest:
        rest = rest[stream.write(rest) :]


def grow_file(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file that `create_file` made, to write into it; a link that has come into its place is not followed.

    Raises:
        OSError: It is gone, or a link.
    """
    return io.FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0)))


def listed_files(folder: Path) -> set[str]:
    """Names of the flow files that the index of an earlier run lists and that are still there.

    Names with a separator, links and folders are not taken: whoever wrote the index does not decide what is removed
    elsewhere. An index that cannot be read lists nothing.
    """
    try:
        listed = json.loads((folder / INDEX_NAME).read_bytes())["files"]
        names = {entry["file"] for entry in listed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {
        name
        for name in names
        if isinstance(name, str)
        and name == Path(name).name
        and (folder / name).is_file()
        and not (folder / name).is_symlink()
    }


def remove_files(folder: Path, names: set[str]) -> None:
    """Remove files of an earlier run; one that cannot be removed stays."""
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def write_whole(path: Path, pieces: Iterable[bytes], *, overwrite: bool) -> None:
    """Write a file under a temporary name and rename it when it is complete.

    Args:
        path: Its name.
        pieces: Its content.
        overwrite: Replace an existing file.

    Raises:
        FileExists: It exists and `overwrite` is off.
        CannotWriteError: A full disk, no permission; no half file is left.
    """
    if not overwrite and path.exists():
        raise FileExists(f"{path}: exists already; choose another folder, or ask to overwrite")
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.writelines(pieces)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, TraceflowError):  # that of a source says more
            raise CannotWriteError(f"{path}: cannot write: {error.strerror or error}") from error
        raise
