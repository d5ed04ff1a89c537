"""Compressed captures: recognised by content, decompressed while they are read.

What lives here: the signatures, the chain of members (gzip) or frames (zstd, lz4) or streams (xz, bzip2) of a file
with what may stand between them, and the pieces they give as one stream. What must not: the formats themselves
(`members.py`, `blockwise.py`), and any knowledge of captures.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from traceflow.errors import NotACaptureError, TraceflowError, UnsupportedCaptureError
from traceflow.sources.blockwise import lz4_frame, zstd_frame
from traceflow.sources.members import bzip2_member, gzip_member, xz_member
from traceflow.sources.packed import Packed
from traceflow.sources.reading import Window

__all__ = ["Compression", "Unpacked", "compression_of", "refuse_twice"]


class Compression(enum.Enum):
    """The compressions that are read; the value is the word for it."""

    GZIP = "gzip"
    ZSTD = "zstd"
    LZ4 = "lz4"
    XZ = "xz"
    BZIP2 = "bzip2"
    SKIPPABLE = "zstd or lz4"
    """A skippable frame, which both formats may begin with: what follows it decides."""


_MAGICS = (
    (bytes.fromhex("1f8b"), Compression.GZIP),
    (bytes.fromhex("28b52ffd"), Compression.ZSTD),
    (bytes.fromhex("04224d18"), Compression.LZ4),
    (bytes.fromhex("fd377a585a00"), Compression.XZ),
    *((b"BZh%d" % level, Compression.BZIP2) for level in range(1, 10)),
    *((bytes([0x50 + n]) + bytes.fromhex("2a4d18"), Compression.SKIPPABLE) for n in range(16)),
)
_MAGIC_OCTETS = 6

_MEMBERS: dict[Compression, Callable[[Packed], Iterator[bytes]]] = {
    Compression.GZIP: gzip_member,
    Compression.ZSTD: zstd_frame,
    Compression.LZ4: lz4_frame,
    Compression.XZ: xz_member,
    Compression.BZIP2: bzip2_member,
}

_READ_OCTETS = 256 * 1024
"""Compressed octets that are asked of an input at once: they unpack to about 1 MiB, a full window."""


def compression_of(window: Window) -> Compression | None:
    """Tell how the octets that come next are compressed, and use none of them up; None where they are not."""
    window.fill(_MAGIC_OCTETS)
    start = window.peek(_MAGIC_OCTETS)
    return next((compression for magic, compression in _MAGICS if start.startswith(magic)), None)


class Unpacked:
    """The decompressed octets of one input as a stream.

    Attributes:
        error: What ended it early; raised once all octets before it were read.
    """

    def __init__(self, first: Window, read_into: Callable[[memoryview], int], read_octets: int, name: str) -> None:
        """Go on where a window stands.

        Args:
            first: Holds the octets that were read to recognise the compression.
            read_into: Gives the compressed octets behind them.
            read_octets: The largest piece that is asked of it at once.
            name: Name of the capture, for the errors.
        """
        self.error: TraceflowError | None = None
        self._packed = Packed(first, read_into, min(read_octets, _READ_OCTETS), name)
        self._pieces = _pieces(self._packed)
        self._piece = memoryview(b"")

    @property
    def word(self) -> str:
        """Name of the compression."""
        return self._packed.word

    def read_into(self, view: memoryview) -> int:
        """Fill a view from its front; waits for compressed octets only while it is empty.

        Returns:
            How many octets; 0 at the end.

        Raises:
            CaptureError: The compressed data is damaged, cut or not read.
            CannotReadError: The input failed.
        """
        got = 0
        while got < len(view):
            if not self._piece:
                if self.error is not None or (got and not self._packed.left):
                    break
                try:
                    piece = next(self._pieces, None)
                except TraceflowError as error:
                    self.error = error
                    break
                if piece is None:
                    break
                self._piece = memoryview(piece)
            step = min(len(view) - got, len(self._piece))
            view[got : got + step] = self._piece[:step]
            self._piece = self._piece[step:]
            got += step
        if not got and self.error is not None:
            raise self.error
        return got


def _pieces(packed: Packed) -> Iterator[bytes]:
    """The content of all members, one behind the other."""
    kind: Compression | None = None
    while True:
        found = compression_of(packed)
        if found is Compression.SKIPPABLE and kind in (None, Compression.ZSTD, Compression.LZ4):
            _skip_frame(packed, found)
        elif found is not None and kind in (None, found):
            kind = found
            packed.word = kind.value
            yield from _MEMBERS[kind](packed)
        else:
            text = f"behind the {packed.word} data stands something else"
            raise packed.malformed(text, packed.offset)
        _skip_zeros(packed)
        if not packed.left:
            break
    if kind is None:
        text = "not a packet capture: skippable frames of zstd or lz4 and no data; give a pcap or pcapng file"
        raise NotACaptureError(text, file=packed.name)


def _skip_frame(packed: Packed, found: Compression) -> None:
    """Step over a skippable frame (RFC 8878, section 3.1.2) without keeping it."""
    packed.word = packed.word or found.value
    header = packed.take_all_of(8, "a skippable frame")
    size = int.from_bytes(header[4:], "little")
    skipped = packed.skip(size)
    if skipped < size:
        raise packed.cut("a skippable frame", size - skipped)


def _skip_zeros(packed: Packed) -> None:
    """Step over zeros: padding of xz streams, and of what came from a tape or a block device."""
    while packed.fill(1):
        piece = packed.peek(1)
        if piece != b"\0":
            return
        piece = packed.peek(packed.left)
        packed.skip(len(piece) - len(piece.lstrip(b"\0")))


def refuse_twice(window: Window, unpacked: Unpacked, name: str) -> None:
    """Refuse what is compressed inside of what was compressed.

    Raises:
        UnsupportedCaptureError: It is; each further layer could multiply the octets by a thousand.
    """
    inner = compression_of(window)
    if inner is not None:
        raise UnsupportedCaptureError(
            f"a file compressed with {inner.value} inside one compressed with {unpacked.word}, and only one "
            "compression is undone; decompress it once and give the result",
            file=name,
        )
