"""One input of a chain: a path, standard input, or an open binary file.

What lives here: opening, reading, sizes, the copy kept of what cannot be read twice, and the sentences for all
that goes wrong with them. What must not: capture formats.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from traceflow.errors import CannotReadError, CannotWriteError, UsageError

__all__ = ["Given", "Input", "Spool"]

Given = str | os.PathLike[str] | BinaryIO
"""What a caller may give as a capture; `-` is standard input."""


class Spool:
    """An anonymous temporary file that keeps what can't be read twice, made when it is first needed."""

    def __init__(self, folder: Path | None) -> None:
        """Remember the folder.

        Args:
            folder: Where the temporary file is made; None for the system's folder.
        """
        self._folder = folder
        self._file: BinaryIO | None = None
        self.octets = 0

    def append(self, octets: memoryview) -> None:
        """Add octets at the end.

        Raises:
            CannotWriteError: No folder, no permission, or a full disk.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as long as the chain
            self._file.seek(self.octets)
            self._file.write(octets)
            self._file.flush()
        except OSError as error:
            raise CannotWriteError(
                f"cannot keep a copy of a piped or compressed capture in {self._folder or tempfile.gettempdir()}: "
                f"{_reason(error)}; give another spool folder, or the capture as a file that is not compressed"
            ) from error
        self.octets += len(octets)

    def forget_from(self, octets: int) -> None:
        """Keep no more than the first `octets`."""
        self.octets = octets

    @property
    def handle(self) -> BinaryIO:
        """The file, for reading again what was appended."""
        if self._file is None:
            raise UsageError("nothing was kept: no frames of this capture were read")
        return self._file

    def close(self) -> None:
        """Give the space back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Input:
    """One capture as it was given, opened when its turn comes.

    Attributes:
        name: As the user wrote it; `-` for standard input.
        index: Position among the captures given.
        base: Offset at which reading begins: 0, or where an open file stood.
        kind: What can't be read twice, for an error.
        octets_total: Octets to read; None where the input is a pipe.
        octets_read: Octets read so far; compressed octets, where it is compressed.
        path: Absolute path, None for standard input and open files.
        rereadable: A regular file by path, or an open file that can seek; not what is compressed.
        spooled_at: Position in the spool of the octet at `base`; None where nothing is kept.
        identity: (device, inode) of a path, to notice that it was replaced.
    """

    def __init__(self, given: Given, index: int, spool: Spool | None) -> None:
        """Note an input without opening it.

        Args:
            given: Path, `-`, or an open binary file.
            index: Position among the captures given.
            spool: Keeps what cannot be read twice; None: nothing is kept.

        Raises:
            UsageError: Neither a path nor a file open in binary mode.
        """
        self.index = index
        self.base = 0
        self.kind = "a pipe"
        self.octets_total: int | None = None
        self.octets_read = 0
        self.path: str | None = None
        self.rereadable = False
        self.spooled_at: int | None = None
        self.identity: tuple[int, int] | None = None
        self._spool = spool
        self._through: Callable[[memoryview], int] = self.read_file
        self._handle: BinaryIO | None = None
        if isinstance(given, str | os.PathLike):
            self.name = os.fsdecode(given)
            if self.name != "-":
                self.path = str(Path(self.name).absolute())
                self.octets_total = _size_of_path(self.path)
            elif sys.stdin is not None:
                self._handle = getattr(sys.stdin, "buffer", None)
        elif isinstance(given, io.TextIOBase) or not (hasattr(given, "readinto") or hasattr(given, "read")):
            raise UsageError(f"a capture is given by a path, '-' or a file open in binary mode, not by {given!r}")
        else:
            self.name = str(getattr(given, "name", "") or f"<{type(given).__name__}>")
            self._handle = given
        if self._handle is not None:
            self.octets_total = _size_of_handle(self._handle)

    @property
    def handle(self) -> BinaryIO | None:
        """The open file; for a path only while it is read."""
        return self._handle

    def open(self) -> None:
        """Make ready to read.

        Raises:
            CannotReadError: Missing, a directory, no permission, standard input closed.
        """
        if self.path is not None:
            handle = open_path(self.path, self.name)
            status = os.fstat(handle.fileno())
            self.identity = (status.st_dev, status.st_ino)
            self.rereadable = stat.S_ISREG(status.st_mode)
            self._handle = handle
        elif self._handle is None:
            raise CannotReadError("standard input is closed; give the capture as a file")
        else:
            self.rereadable = _can_seek(self._handle)
            if self.rereadable:
                self.base = self._handle.tell()
        if self._spool is not None and not self.rereadable:
            self.spooled_at = self._spool.octets

    def read_file(self, view: memoryview) -> int:
        """Fill a view from its front with what one read of the file gives.

        Returns:
            How many octets; 0 at the end.

        Raises:
            CannotReadError: The device or the stream failed.
        """
        try:
            got = _read_once(self._handle, view)
        except (OSError, ValueError, EOFError) as error:
            raise CannotReadError(
                f"{self.name}: cannot be read further: {_reason(error)}. Frames before it were read"
            ) from error
        self.octets_read += got
        return got

    def read_through(self, read_into: Callable[[memoryview], int]) -> None:
        """From now on give what a decompressor makes of the file, counted from offset 0.

        Args:
            read_into: The decompressor, which itself reads by `read_file`.
        """
        self._through = read_into
        self.base = 0
        self.kind = "a compressed capture"
        self.rereadable = False
        if self._spool is not None:
            if self.spooled_at is not None:  # by which the decompressor was recognised
                self._spool.forget_from(self.spooled_at)
            self.spooled_at = self._spool.octets

    def read_into(self, view: memoryview) -> int:
        """Fill a view from its front with the next octets of the capture, and keep a copy where one is needed.

        Returns:
            How many octets; 0 at the end.

        Raises:
            CannotReadError: The device or the stream failed.
            CannotWriteError: The octets could not be kept.
            CaptureError: What the decompressor raises.
        """
        got = self._through(view)
        if got and self._spool is not None and self.spooled_at is not None:
            self._spool.append(view[:got])
        return got

    def close(self) -> None:
        """Close a path; leave standard input and files of the caller open."""
        if self.path is not None and self._handle is not None:
            self._handle.close()
            self._handle = None


def open_path(path: str, name: str) -> BinaryIO:
    """Open a path for reading, without a buffer of its own.

    Raises:
        CannotReadError: Missing, a directory, no permission.
    """
    try:
        return io.FileIO(path, "rb")
    except (OSError, ValueError) as error:
        raise CannotReadError(
            f"{name}: cannot be opened: {_reason(error)}; give the path of a capture file that you may read"
        ) from error


def _read_once(handle: BinaryIO | None, view: memoryview) -> int:
    """One read, whatever kind of object it is; `readinto1` of a buffered pipe does not wait for a full piece."""
    read_into = getattr(handle, "readinto1", None) or getattr(handle, "readinto", None)
    if read_into is None:
        octets = handle.read(len(view)) if handle is not None else b""
        view[: len(octets)] = octets
        return len(octets)
    got = read_into(view)
    if got is None:
        raise BlockingIOError("it is in non-blocking mode and has nothing now")
    if not 0 <= got <= len(view):
        raise OSError(f"it says that it gave {got} octets of {len(view)}")
    return int(got)


def _can_seek(handle: BinaryIO) -> bool:
    try:
        return handle.seekable() and handle.tell() >= 0
    except (AttributeError, OSError, ValueError):
        return False


def _size_of_path(path: str) -> int | None:
    """Octets of a regular file, 0 for what is missing, None for a pipe or device."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return 0
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return 0 if stat.S_ISDIR(status.st_mode) else None


def _size_of_handle(handle: BinaryIO) -> int | None:
    """Octets from where an open file stands to its end; None where that is not known without reading.

    Only files of the operating system and octets in memory are asked: `fileno()` of a decompressing object is
    that of the packed file, and seeking to its end would unpack it.
    """
    try:
        if isinstance(handle, io.BytesIO):
            return max(0, handle.getbuffer().nbytes - handle.tell())
        raw = handle.raw if isinstance(handle, io.BufferedReader) else handle
        if isinstance(raw, io.FileIO):
            status = os.fstat(raw.fileno())
            return max(0, status.st_size - handle.tell()) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError):
        return None
    return None


def _reason(error: Exception) -> str:
    """The system's words for an error, without its number and path."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
