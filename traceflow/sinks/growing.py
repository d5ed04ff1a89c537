"""A file that grows: made once, opened again and again, and never another one that has come into its place.

It is held open between writes, or not, as its owner likes; what stands in it is the owner's matter (`dictdump`,
`pcapfile`). A write that does not fit leaves room to put the end of the file back as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
from io import FileIO
from pathlib import Path
from typing import Self

from traceflow.errors import CannotWriteError, FileExists
from traceflow.sinks.folder import create_file, grow_file

__all__ = ["GrowingFile"]


class GrowingFile:
    """A new file.

    Args:
        path: Its name.
        head: Its first octets, which it has as soon as it has its name.
        overwrite: Replace a file, or a link, that has the name.
        keep_open: Hold it open between writes until `close`; else it is opened for each.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be made.
    """

    __slots__ = ("_identity", "_keep_open", "_path", "_stream")

    def __init__(self, path: str | os.PathLike[str], head: bytes, *, overwrite: bool, keep_open: bool) -> None:
        self._path, self._keep_open = path, keep_open
        self._stream: FileIO | None = create_file(Path(path), head, overwrite=overwrite)
        self._identify(self._stream)
        self.rest()

    @classmethod
    def known(cls, path: str | os.PathLike[str], *, keep_open: bool) -> Self:
        """A file that is there already, and that the caller made.

        Raises:
            OSError: It is gone, or a link.
        """
        known = cls.__new__(cls)
        known._path, known._keep_open = path, keep_open
        known._stream = grow_file(path)
        known._identify(known._stream)
        known.rest()
        return known

    def _identify(self, stream: FileIO) -> None:
        status = os.fstat(stream.fileno())
        self._identity = status.st_dev, status.st_ino

    def stream(self) -> FileIO:
        """The open file.

        Raises:
            OSError: It was removed, or another has taken its name. Also where it was held open: a write into a file
                that has no name any more would succeed, and be lost.
        """
        if self._stream is None:
            self._stream = grow_file(self._path)
        status = os.fstat(self._stream.fileno())
        if not status.st_nlink or (status.st_dev, status.st_ino) != self._identity:
            self.close()
            raise FileNotFoundError(errno.ENOENT, "the file was removed while it was written")
        return self._stream

    def rename(self, path: Path, *, overwrite: bool) -> None:
        """Give it another name, which must be free.

        Args:
            path: The name.
            overwrite: Replace what has the name.

        Raises:
            FileExists: The name is taken.
            CannotWriteError: The file is gone, or cannot be renamed.
        """
        if not overwrite and os.path.lexists(path):
            raise FileExists(f"{path}: the file exists; choose another name or ask to overwrite it")
        try:
            self.stream()
            self.close()
            Path(self._path).replace(path)
        except OSError as error:
            raise CannotWriteError(f"{self._path}: cannot rename it to {path}: {error.strerror or error}") from error
        self._path = path

    def remove(self) -> None:
        """Remove it, unless it is gone; another one that has its name stays."""
        with contextlib.suppress(OSError):
            self.stream()
            self.close()
            Path(self._path).unlink()

    def rest(self) -> None:
        """Say that a write is over."""
        if not self._keep_open:
            self.close()

    def close(self) -> None:
        """Give the open file back, if there is one; `stream` opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
