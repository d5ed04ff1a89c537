"""Putting many files into a folder from a kernel: the calls of the system that `Filing.put` makes, without Python.

A kernel gives up the interpreter lock once for all files of a lot. Four calls a file that each give it up and wait for
it took twice the time of the calls, as long as another thread makes the next files. What goes wrong is not judged
here: the first file that is not put ends the work, and `Filing.put`, which can say why, tries it again.

Only where a 64-bit Linux has these functions under these names; elsewhere files are put one by one. `renameat2` can
rename unless the name is taken: asking first took an eighth of the time, and somebody could take it meanwhile.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel, system_function, system_has

__all__ = ["CALLED", "NEW", "put_files", "zero_ended"]

CALLED = system_has("open", "write", "close", "renameat2", "unlink")
"""Whether `put_files` can be called."""

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened that must not be there."""

_open = system_function("open", np.int32, np.uint64, np.int32, np.int32)
_write = system_function("write", np.int64, np.int32, np.uint64, np.uint64)
_close = system_function("close", np.int32, np.int32)
_rename = system_function("renameat2", np.int32, np.int32, np.uint64, np.int32, np.uint64, np.uint32)
_unlink = system_function("unlink", np.int32, np.uint64)
_HERE = -100
"""AT_FDCWD: a path that is not absolute is meant from where the process stands."""
_UNLESS_TAKEN, _ANYWAY = np.uint32(1), np.uint32(0)
"""RENAME_NOREPLACE, and its absence."""


def zero_ended(paths: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Paths as the system takes them.

    Args:
        paths: None of them holds a zero octet.

    Returns:
        uint8[n], each path with a zero octet behind it; and uint64[k], where each begins.
    """
    coded = [os.fsencode(path) + b"\0" for path in paths]
    ends = np.cumsum([len(path) for path in coded], dtype=np.uint64)
    starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]])
    return np.frombuffer(b"".join(coded), np.uint8), starts


@kernel
def put_files(paths: Any, starts: Any, temporary: Any, octets: Any, stops: Any, overwrite: Any) -> Any:
    """Write files under a temporary name and rename each when it is complete, up to the first where a call fails.

    Args:
        paths: uint8[n], their names as of `zero_ended`.
        starts: uint64[k], where each begins in `paths`.
        temporary: uint8[...], the temporary name, as of `zero_ended`.
        octets: uint8[m], their contents, one behind the other.
        stops: uint64[k], where each ends in `octets`, ascending.
        overwrite: bool, whether a file that has the name is replaced.

    Returns:
        How many of them are there now; of the next there is nothing.
    """
    if paths[U64(paths.shape[0] - 1)] != 0 or temporary[U64(temporary.shape[0] - 1)] != 0:
        return 0
    unfinished = U64(temporary.ctypes.data)
    how = _ANYWAY if overwrite else _UNLESS_TAKEN
    start = U64(0)
    for k in range(starts.shape[0]):
        stop = stops[U64(k)]
        if stop < start or stop > U64(octets.shape[0]) or starts[U64(k)] >= U64(paths.shape[0]):
            return k
        path = U64(paths.ctypes.data) + starts[U64(k)]
        handle = _open(unfinished, NEW, 0o666)
        if handle < 0:
            return k
        written = _write(handle, U64(octets.ctypes.data) + start, stop - start)
        whole = written >= 0 and U64(written) == stop - start
        closed = _close(handle) == 0
        if not whole or not closed or _rename(_HERE, unfinished, _HERE, path, how) != 0:
            _unlink(unfinished)
            return k
        start = stop
    return starts.shape[0]
