"""Entries of an index, put away as flows end and read again in the order in which they opened.

They stand in an anonymous temporary file in the folder of the index, so that memory does not grow with the flows that
have ended; reading them in order takes 24 octets a flow. Where the disk is full they wait in memory, within bounds.
"""

from __future__ import annotations

import array
import contextlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from traceflow.errors import CannotWriteError
from traceflow.sinks.folder import write_at

__all__ = ["EntryStore"]

_HEAD = struct.Struct("<QI")  # number of the flow, octets that follow
_WRITE_OCTETS = 256 << 10
_READ_OCTETS = 256 << 10
_HELD_OCTETS = 32 << 20


class EntryStore:
    """Octets by flow number, once each.

    Args:
        folder: Where the temporary file is.

    Raises:
        CannotWriteError: It cannot be made.

    Attributes:
        lost: Flows whose octets did not fit: the disk was full, and so was what may wait in memory.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise CannotWriteError(f"{folder}: cannot write there: {error.strerror or error}") from error
        self._size = 0
        self._held = bytearray()
        self._write_at = _WRITE_OCTETS
        self.lost = 0

    def add(self, flow: int, octets: bytes) -> None:
        """Put octets away."""
        if len(self._held) >= _HELD_OCTETS:
            self.lost += 1
            return
        self._held += _HEAD.pack(flow, len(octets)) + octets
        if len(self._held) >= self._write_at:
            self._write()

    def _write(self) -> None:
        """Write what is held; where it does not fit, it stays, and is tried again when more has come."""
        try:
            write_at(self._file, self._size, self._held)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            self._write_at = len(self._held) + _WRITE_OCTETS
            return
        self._size += len(self._held)
        self._held.clear()
        self._write_at = _WRITE_OCTETS

    def in_order(self) -> Iterator[bytes]:
        """What was put away, by flow number.

        Raises:
            OSError: It cannot be read again.
        """
        numbers, places = array.array("Q"), array.array("Q")
        at, size = 0, self._size + len(self._held)
        with open(self._file.fileno(), "rb", _READ_OCTETS, closefd=False) as file:
            while at < size:
                flow, length = _HEAD.unpack(self._read(file, at, _HEAD.size))
                numbers.append(flow)
                places.append(at)
                at += _HEAD.size + length
            for place in np.argsort(np.frombuffer(numbers, np.uint64), kind="stable"):
                _, length = _HEAD.unpack(self._read(file, places[place], _HEAD.size))
                yield self._read(file, places[place] + _HEAD.size, length)

    def _read(self, file: BinaryIO, at: int, length: int) -> bytes:
        """Octets of the file, or of what stands behind it in memory."""
        if at >= self._size:
            return bytes(self._held[at - self._size : at - self._size + length])
        file.seek(at)
        octets = file.read(length)
        if len(octets) != length:
            raise OSError("the temporary file of the index has become shorter")
        return octets

    def into_memory(self) -> list[bytes] | None:
        """The same as `in_order`, and give the room on the disk back; None where it does not fit into memory."""
        if self._size > _HELD_OCTETS:
            return None
        entries = list(self.in_order())
        self.close()
        return entries

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()
