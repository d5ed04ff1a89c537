"""Classic pcap files out: captured octets verbatim, and times that never lose a digit they had.

Read first: draft-ietf-opsawg-pcap. Times are unsigned 32-bit seconds: what lies before 1970 or after 2106 is written
modulo 2**32, as every other writer of the format does.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator, Mapping
from io import BufferedReader, FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotWriteError, FileExists
from traceflow.sinks.folder import write_at, write_whole
from traceflow.sinks.growing import GrowingFile

__all__ = ["MAX_SNAPLEN", "PCAPDumper", "pcap_header", "pcap_record", "pcap_records"]

MAX_SNAPLEN = 262144
"""Snaplen of files whose source has no limit: the largest that other readers accept for every link type."""

_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D


def pcap_header(link: int, *, byteorder: str, nanosecond: bool, snaplen: int) -> bytes:
    """The 24 octets that open a pcap file.

    Args:
        link: LINKTYPE_ number.
        byteorder: `little` or `big`.
        nanosecond: Whether times have nanoseconds; else microseconds.
        snaplen: Octets a frame was cut to; 0 stands for no limit.
    """
    order = "<" if byteorder == "little" else ">"
    magic = _NANOSECONDS if nanosecond else _MICROSECONDS
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snaplen or MAX_SNAPLEN, link)


def pcap_record(time_ns: int, wire: int, octets: bytes, *, byteorder: str, nanosecond: bool) -> bytes:
    """One frame: record header and captured octets.

    Args:
        time_ns: Nanoseconds since 1970.
        wire: Octets on the wire.
        octets: What was captured.
        byteorder: `little` or `big`.
        nanosecond: As in the header of the file.
    """
    order = "<" if byteorder == "little" else ">"
    seconds, rest = divmod(time_ns, 1_000_000_000)
    fraction = rest if nanosecond else rest // 1000
    return struct.pack(f"{order}IIII", seconds & 0xFFFFFFFF, fraction, len(octets), wire) + octets


def pcap_records(
    octets: npt.NDArray[np.uint8], frames: npt.NDArray[np.void], *, byteorder: str, nanosecond: bool
) -> bytes:
    """Records of many frames.

    Args:
        octets: uint8[n].
        frames: FRAME[m], `start` counts in `octets`.
        byteorder: `little` or `big`.
        nanosecond: As in the header of the file.
    """
    order = "<" if byteorder == "little" else ">"
    heads = np.zeros((len(frames), 4), f"{order}u4")
    seconds, rest = np.divmod(frames["time_ns"], 1_000_000_000)
    heads[:, 0] = seconds & 0xFFFFFFFF
    heads[:, 1] = rest if nanosecond else rest // 1000
    heads[:, 2] = frames["captured"]
    heads[:, 3] = frames["wire"]
    head_octets, data = heads.tobytes(), octets.data
    pieces: list[bytes | memoryview] = []
    starts, lengths = frames["start"].tolist(), frames["captured"].tolist()
    for at, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        pieces.append(head_octets[16 * at : 16 * at + 16])
        pieces.append(data[start : start + length])
    return b"".join(pieces)


class PCAPDumper:
    """A pcap file that grows frame by frame and is valid after each.

    Args:
        fname: Path of the file.
        protocol: Link type: its LINKTYPE_ number.
        byteorder: `little` or `big`.
        nanosecond: Whether times have nanoseconds.
        snaplen: Snaplen in the header; 0 stands for no limit.
        overwrite: Replace an existing file.
        keep_open: Keep the file open between calls until `close`; else it is opened for each call.

    Raises:
        FileExists: The file exists, and `overwrite` is off.
        CannotWriteError: The file cannot be made.
    """

    kind = "pcap"

    def __init__(
        self,
        fname: str | Path,
        *,
        protocol: int = 1,
        byteorder: str = sys.byteorder,
        nanosecond: bool = False,
        snaplen: int = 0,
        overwrite: bool = False,
        keep_open: bool = False,
        **_kwargs: Any,
    ) -> None:
        self._path = Path(fname)
        self._link, self._byteorder, self._nanosecond = protocol, byteorder, nanosecond
        self._keep_open = keep_open
        header = pcap_header(protocol, byteorder=byteorder, nanosecond=nanosecond, snaplen=snaplen)
        try:
            self._growing = GrowingFile(self._path, header, overwrite=overwrite, keep_open=keep_open)
        except FileExistsError:
            raise FileExists(f"{self._path} exists already; choose another folder or overwrite=True") from None
        except OSError as error:
            raise CannotWriteError(f"cannot create {self._path}: {error.strerror or error}") from error

    def append(self, value: Mapping[str, Any], name: str | None = None) -> Self:
        """Append one frame.

        Args:
            value: `octets` (captured), `time_ns`, and `wire` (octets on the wire; default: those captured).
            name: Not used: a pcap record has no name.

        Raises:
            CannotWriteError: The disk is full or the file is gone; what was written before stays valid.
        """
        octets = bytes(value["octets"])
        record = pcap_record(
            int(value["time_ns"]),
            int(value.get("wire") or len(octets)),
            octets,
            byteorder=self._byteorder,
            nanosecond=self._nanosecond,
        )
        return self.append_records(record)

    def append_records(self, records: bytes) -> Self:
        """Append frames in one write.

        Args:
            records: What `pcap_records` makes of them, in the byte order and with the clock of the file.

        Raises:
            CannotWriteError: As `append`; none of them is written then.
        """
        try:
            stream = self._growing.stream()
            end = stream.seek(0, 2)
            try:
                write_at(stream, end, records)
            except OSError:
                with contextlib.suppress(OSError):
                    stream.truncate(end)
                raise
        except OSError as error:
            self.close()
            raise CannotWriteError(f"cannot append to {self._path}: {error.strerror or error}") from error
        self._growing.rest()
        return self

    def widen(self, *, nanosecond: bool, snaplen: int) -> None:
        """Have frames of another interface fit: what the header says is changed, and the frames stay as they are.

        A clock that becomes finer has the file written anew, beside the old one, and renamed.

        Args:
            nanosecond: Whether times have nanoseconds from now on; where they have, they keep them.
            snaplen: The new snaplen; 0 stands for no limit.

        Raises:
            CannotWriteError: As `append`; the file stays as it was.
        """
        finer = nanosecond and not self._nanosecond
        header = pcap_header(
            self._link, byteorder=self._byteorder, nanosecond=finer or self._nanosecond, snaplen=snaplen
        )
        try:
            stream = self._growing.stream()
            if not finer:
                write_at(stream, 0, header)
                self._growing.rest()
                return
            self.close()
            stream = self._growing.stream()  # opened again: what makes a file cannot read it
            stream.seek(len(header))
            write_whole(self._path, self._finer(header, stream), overwrite=True)
            self.close()
            self._growing = GrowingFile.known(self._path, keep_open=self._keep_open)
            self._nanosecond = True
        except OSError as error:
            self.close()
            if isinstance(error, CannotWriteError):
                raise
            raise CannotWriteError(f"cannot change {self._path}: {error.strerror or error}") from error

    def _finer(self, header: bytes, stream: FileIO) -> Iterator[bytes]:
        """The content of a file with microseconds, with nanoseconds."""
        yield header
        layout = struct.Struct("<IIII" if self._byteorder == "little" else ">IIII")
        reader = BufferedReader(stream)
        try:
            while head := reader.read(layout.size):
                if len(head) < layout.size:
                    raise OSError("the file was cut while it was written")
                seconds, microseconds, captured, wire = layout.unpack(head)
                yield layout.pack(seconds, 1000 * microseconds, captured, wire) + reader.read(captured)
        finally:
            reader.detach()

    def __call__(self, value: Mapping[str, Any], name: str | None = None) -> Self:
        """Same as `append`, as dictdumper's dumpers are called."""
        return self.append(value, name)

    @property
    def filename(self) -> str:
        """Path of the file."""
        return str(self._path)

    def rename(self, path: Path, overwrite: bool = False) -> None:
        """Give the file another name; it is closed.

        Args:
            path: The name.
            overwrite: Replace what has the name.

        Raises:
            FileExists: The name is taken.
            CannotWriteError: The file is gone, or cannot be renamed.
        """
        self._growing.rename(path, overwrite=overwrite)
        self._path = path

    def remove(self) -> None:
        """Remove the file, unless it is gone."""
        self._growing.remove()

    def close(self) -> None:
        """Give the open file back, if there is one; a later `append` opens it again."""
        self._growing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
