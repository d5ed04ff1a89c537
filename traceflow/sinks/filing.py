"""Many small files in one folder, each whole or not there, with as few calls of the system as that takes.

As `folder.write_whole` does it: a file is written under a temporary name in the folder and renamed when it is
complete. For files of some kilobytes, opening and renaming is most of the work (20 microseconds); what can be left
out is: there is one temporary name for all, no buffer, and no question that the system was not asked before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from traceflow.errors import CannotWriteError, FileExists, TraceflowError
from traceflow.sinks.filing_calls import CALLED, NEW, put_files, zero_ended
from traceflow.sinks.folder import TEMPORARY

__all__ = ["AHEAD", "Errands", "Filing"]

AHEAD = 8
"""Errands that may be undone when the next is sent: what they need must last so long."""


class Filing:
    """Puts files into a folder, one after the other.

    Args:
        folder: The folder; it exists.
        overwrite: Replace files that exist.
    """

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self._folder, self._overwrite = f"{folder}{os.sep}", overwrite
        self._temporary = f"{self._folder}{TEMPORARY}{secrets.token_hex(8)}.part"
        self._coded_temporary, _ = zero_ended([self._temporary])
        self._called = CALLED

    def put(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a file.

        Args:
            name: Its name in the folder.
            pieces: Its content; each is written at once.

        Raises:
            FileExists: It exists and `overwrite` is off.
            CannotWriteError: A full disk, no permission; no half file is left.
        """
        path = self._folder + name
        if not self._overwrite and os.access(path, os.F_OK):
            raise FileExists(f"{path}: exists already; choose another folder, or ask to overwrite")
        made = False
        try:
            handle = os.open(self._temporary, NEW, 0o666)
            made = True
            try:
                for piece in pieces:
                    done = os.write(handle, piece)
                    while done < len(piece):  # a signal, or a disk that is nearly full
                        done += os.write(handle, memoryview(piece)[done:])
            finally:
                os.close(handle)
            os.replace(self._temporary, path)  # noqa: PTH105 - a Path takes longer to make than this call
        except BaseException as error:
            if made:
                with contextlib.suppress(OSError):
                    Path(self._temporary).unlink()
            if isinstance(error, OSError) and not isinstance(error, TraceflowError):  # that of a source says more
                raise CannotWriteError(f"{path}: cannot write: {error.strerror or error}") from error
            raise

    def put_all(self, names: Sequence[str], octets: memoryview, stops: Sequence[int]) -> Iterator[int]:
        """Write files whose contents lie one behind the other.

        Args:
            names: Their names in the folder.
            octets: Their contents.
            stops: Where the content of each ends.

        Yields:
            How many of them are there now, whenever more have become so.

        Raises:
            FileExists: As `put`; the files before are there.
            CannotWriteError: As `put`; the files before are there.
        """
        done = start = 0
        while done < len(names):
            if self._called:
                paths, starts = zero_ended([self._folder + name for name in names[done:]])
                ends = np.array(stops[done:], np.uint64) - np.uint64(start)
                contents = np.asarray(octets[start:].toreadonly())
                done += put_files(paths, starts, self._coded_temporary, contents, ends, self._overwrite)
                yield done
                start = stops[done - 1] if done else 0
            if done < len(names):
                self.put(names[done], (octets[start : stops[done]],))
                self._called = False  # the file system has not all of these calls
                start = stops[done]
                done += 1
                yield done


class Errands:
    """What is done meanwhile, one thing after the other, by another thread: files are written while the next are made.

    Both parts give up the interpreter lock, writing in the system and making in kernels.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "traceflow-filing")
        self._going: deque[Future[None]] = deque()
        self._failed = False

    def send(self, work: Callable[[], None]) -> None:
        """Have something done; of what was sent before, the last `AHEAD` may not be done yet when this returns.

        Raises:
            Exception: What something that was sent before raised; what was sent behind that is not done.
        """
        while len(self._going) >= AHEAD:
            self._going.popleft().result()
        self._going.append(self._thread.submit(self._do, work))

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise

    def wait(self) -> None:
        """Until all is done.

        Raises:
            Exception: As `send`.
        """
        while self._going:
            self._going.popleft().result()

    def close(self) -> None:
        """Wait, without a word of what went wrong, and end the thread."""
        self._thread.shutdown(wait=True)
