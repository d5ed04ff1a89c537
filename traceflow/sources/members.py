"""Members of gzip, xz and bzip2 files, decompressed piece by piece with the standard library.

What lives here: one generator a format, which uses up one member and gives its content in pieces of at most
256 KiB, so that a member that unpacks to terabytes takes no more memory than another. What must not: what
stands between members (`compressed.py`).

A decoder that meets damage raises, and what it had decoded in that call is lost. That must be little, and must not
depend on how the octets were read. xz and bzip2 are therefore fed in short pieces of one length, counted from the
begin of the member; gzip, whose decoder can be copied, is decoded again octet by octet up to the damage: nothing is
lost.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Protocol

from traceflow.errors import CaptureError
from traceflow.sources.packed import Packed

__all__ = ["bzip2_member", "gzip_member", "xz_member"]

_GZIP_STEP_OCTETS = 256 * 1024
"""Decompressed octets of a call at most."""

XZ_MEMORY_OCTETS = 132 * 1024 * 1024
"""Memory that an xz decoder may take: a dictionary of 128 MiB, twice that of `xz -9`."""

_GZIP_PIECE_OCTETS = 16 * 1024
"""Compressed octets of a call. Copying the decoder, some 40 KiB, before each costs 2 % of what the call does."""

_PIECE_OCTETS = 64
_PIECE_STEP_OCTETS = 16 * 1024
"""Likewise for xz and bzip2, compressed and decompressed: what damage loses at most. A call costs 0.3 us; xz needs 2 to
decode 64 octets, bzip2 10."""

_GZIP_WINDOW_BITS = 31
"""For zlib: a window of 32 KiB, with the header and trailer of gzip (RFC 1952)."""


class _Decoder(Protocol):
    """What BZ2Decompressor and LZMADecompressor have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def gzip_member(packed: Packed) -> Iterator[bytes]:
    """Decompress one member (RFC 1952).

    Args:
        packed: Stands at the member's first octet; behind its last when the generator is exhausted.

    Raises:
        MalformedCaptureError: Damaged data, or a wrong check sum or length at its end.
        TruncatedCaptureError: The input ends before the member does.
    """
    inflate = zlib.decompressobj(_GZIP_WINDOW_BITS)
    while not inflate.eof:
        piece = packed.take_some(_GZIP_PIECE_OCTETS)
        ended = not piece
        octets = b""
        while piece or ended or len(octets) == _GZIP_STEP_OCTETS:
            before = inflate.copy()
            try:
                octets = inflate.decompress(piece, _GZIP_STEP_OCTETS)
            except zlib.error as error:
                octets, good = _inflate_until_damage(before, piece)
                yield octets
                place = packed.offset - len(piece) + good
                raise packed.malformed(f"the gzip data is damaged ({_words_of(error)})", place) from error
            if octets:
                yield octets
            piece = inflate.unconsumed_tail
            if inflate.eof:
                break
            if ended and not octets:
                raise packed.cut("a member")
    packed.give_back(len(inflate.unused_data))


def _inflate_until_damage(inflate: zlib._Decompress, piece: bytes) -> tuple[bytes, int]:
    """Decode a piece in which damage was met, octet by octet.

    Returns:
        What could be decoded, at most some KiB more than a call gives, and how many octets of the piece are good.
    """
    decoded = bytearray()
    for place in range(len(piece)):
        try:
            decoded += inflate.decompress(piece[place : place + 1])
        except zlib.error:
            return bytes(decoded), place
    return bytes(decoded), len(piece)


def _words_of(error: zlib.error) -> str:
    """What zlib said: `Error -3 while decompressing data: incorrect data check` -> `incorrect data check`."""
    return str(error).rpartition(": ")[2]


def xz_member(packed: Packed) -> Iterator[bytes]:
    """Decompress one xz stream (the .xz file format, 1.1.0, section 2.1). Arguments and errors: see `gzip_member`.

    Raises:
        UnsupportedCaptureError: It needs more memory than XZ_MEMORY_OCTETS.
    """
    yield from _by_pieces(lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_OCTETS), packed)


def bzip2_member(packed: Packed) -> Iterator[bytes]:
    """Decompress one bzip2 stream; it needs 4 MiB of memory at most. Arguments and errors: see `gzip_member`."""
    yield from _by_pieces(bz2.BZ2Decompressor(), packed)


def _by_pieces(decoder: _Decoder, packed: Packed) -> Iterator[bytes]:
    """Feed a decoder that keeps its input, until its member is over."""
    begin = packed.offset
    while not decoder.eof:
        piece = b""
        if decoder.needs_input:
            begin = packed.offset
            piece = packed.take(_PIECE_OCTETS)
            if not piece:
                raise packed.cut("a stream")
        try:
            octets = decoder.decompress(piece, _PIECE_STEP_OCTETS)
        except (lzma.LZMAError, OSError, ValueError) as error:
            raise _fault(packed, begin, error) from error
        if octets:
            yield octets
    packed.give_back(len(decoder.unused_data))


def _fault(packed: Packed, begin: int, error: Exception) -> CaptureError:
    """The error for what a decoder said of the piece that begins there."""
    if isinstance(error, lzma.LZMAError) and "memory" in str(error).lower():
        text = (
            f"decompressing this xz data needs more than {XZ_MEMORY_OCTETS >> 20} MiB of memory, which is not taken "
            "for it; decompress it with `xz -dc` and pipe that to traceflow"
        )
        return packed.unsupported(text, begin)
    return packed.malformed(f"the {packed.word} data is damaged ({error})", begin)
