"""Frames of zstd and lz4 files, decompressed block by block with optional packages.

What lives here: the walk over the blocks of a frame, one generator a format; each block goes to the decoder alone.
A block unpacks to 128 KiB (zstd) or 4 MiB (lz4) at most, so memory stays bounded; the place of damage is known to
the block; and all blocks before it are kept. What must not: what stands between frames (`compressed.py`).
Read first: RFC 8878, section 3.1.1, and the LZ4 frame format description, 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from traceflow.errors import UnsupportedCaptureError
from traceflow.sources.packed import Packed

__all__ = ["lz4_frame", "zstd_frame"]

ZSTD_WINDOW_OCTETS = 128 * 1024 * 1024
"""The largest window that is decoded, as in the zstd program without `--long=31`."""

_ZSTD_BLOCK_OCTETS = 128 * 1024
_ZSTD_RAW, _ZSTD_RLE, _ZSTD_RESERVED = 0, 1, 3
_ZSTD_DICTIONARY_OCTETS = (0, 1, 2, 4)
_ZSTD_CONTENT_SIZE_OCTETS = (0, 2, 4, 8)

_LZ4_BLOCK_OCTETS = {4: 64 * 1024, 5: 256 * 1024, 6: 1024 * 1024, 7: 4 * 1024 * 1024}
_LZ4_UNCOMPRESSED = 0x80000000

Decode = Callable[[bytes], bytes]
"""Compressed octets of one block -> what they unpack to."""


def zstd_frame(packed: Packed) -> Iterator[bytes]:
    """Decompress one zstd frame.

    Args:
        packed: Stands at the frame's magic number; behind the frame when the generator is exhausted.

    Raises:
        UnsupportedCaptureError: No package that decodes zstd, a dictionary, or a larger window than is decoded.
        MalformedCaptureError: A damaged block, or a wrong check sum.
        TruncatedCaptureError: The input ends before the frame does.
    """
    begin = packed.offset
    decode, failure = _zstd_decoder(packed)
    header = packed.take_all_of(5, "a frame header")
    flags = header[4]
    single = flags >> 5 & 1
    dictionary_octets = _ZSTD_DICTIONARY_OCTETS[flags & 3]
    size_octets = _ZSTD_CONTENT_SIZE_OCTETS[flags >> 6] or single
    header += packed.take_all_of((1 - single) + dictionary_octets + size_octets, "a frame header")
    size_at = 5 + (1 - single) + dictionary_octets
    window_octets = int.from_bytes(header[size_at:], "little") if single else _zstd_window_octets(header[5])
    if any(header[size_at - dictionary_octets : size_at]):
        raise packed.unsupported("this zstd data needs a dictionary; decompress it with `zstd -d -D`", begin)
    if window_octets > ZSTD_WINDOW_OCTETS:
        text = (
            f"this zstd data has a window of {window_octets} octets, more than the {ZSTD_WINDOW_OCTETS} that are "
            "decoded; decompress it with `zstd -dc --long=31` and pipe that to traceflow"
        )
        raise packed.unsupported(text, begin)
    octets = header
    last = False
    while True:
        try:
            content = decode(octets)
        except failure as error:
            raise packed.malformed(f"the zstd data is damaged ({error})", begin) from error
        if content:
            yield content
        begin = packed.offset
        if last:
            return
        octets = _zstd_block(packed)
        last = bool(octets[0] & 1)
        if last and flags & 4:
            octets += packed.take_all_of(4, "a check sum")


def _zstd_window_octets(descriptor: int) -> int:
    """Octets of the window, from its descriptor (RFC 8878, section 3.1.1.1.2)."""
    base = 1 << (10 + (descriptor >> 3))
    return base + base // 8 * (descriptor & 7)


def _zstd_block(packed: Packed) -> bytes:
    """Use up one block, its header included."""
    begin = packed.offset
    header = packed.take_all_of(3, "a block header")
    value = int.from_bytes(header, "little")
    kind, size = value >> 1 & 3, value >> 3
    if kind == _ZSTD_RESERVED or size > _ZSTD_BLOCK_OCTETS:
        raise packed.malformed(f"a zstd block has the kind {kind} and {size} octets, which cannot be", begin)
    return header + packed.take_all_of(1 if kind == _ZSTD_RLE else size, "a block")


def _zstd_decoder(packed: Packed) -> tuple[Decode, type[Exception]]:
    """A new decoder of one frame, and what it raises.

    Raises:
        UnsupportedCaptureError: No package that decodes zstd.
    """
    decoder: Any
    try:
        from compression import zstd  # the standard library's, from Python 3.14 on

        limits = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_OCTETS.bit_length() - 1}
        decoder = zstd.ZstdDecompressor(options=limits)
        return decoder.decompress, zstd.ZstdError
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError as error:
        raise _missing(packed, "zstandard", "zstd") from error
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_OCTETS).decompressobj()
    return decoder.decompress, zstandard.ZstdError


def lz4_frame(packed: Packed) -> Iterator[bytes]:
    """Decompress one lz4 frame. Arguments and errors: see `zstd_frame`."""
    begin = packed.offset
    decode = _lz4_decoder(packed)
    header = packed.take_all_of(6, "a frame header")
    flags, sizes = header[4], header[5]
    if flags & 1:
        raise packed.unsupported("this lz4 data needs a dictionary; decompress it with `lz4 -d -D`", begin)
    if flags >> 6 != 1 or (sizes >> 4) not in _LZ4_BLOCK_OCTETS:
        raise packed.malformed(f"an lz4 frame has the flags {flags:#x} and {sizes:#x}, which cannot be", begin)
    block_octets = _LZ4_BLOCK_OCTETS[sizes >> 4]
    octets = header + packed.take_all_of((8 if flags & 8 else 0) + 1, "a frame header")
    last = False
    while True:
        try:
            content = decode(octets)
        except RuntimeError as error:
            raise packed.malformed(f"the lz4 data is damaged ({error})", begin) from error
        if content:
            yield content
        begin = packed.offset
        if last:
            return
        octets = packed.take_all_of(4, "a block header")
        size = int.from_bytes(octets, "little")
        last = size == 0
        size &= ~_LZ4_UNCOMPRESSED
        if size > block_octets:
            raise packed.malformed(f"an lz4 block has {size} octets, more than the {block_octets} of its frame", begin)
        check_octets = 4 if flags & (4 if last else 16) else 0
        octets += packed.take_all_of(size + check_octets, "a block")


def _lz4_decoder(packed: Packed) -> Decode:
    """A new decoder of one frame.

    Raises:
        UnsupportedCaptureError: The package lz4 is missing.
    """
    try:
        import lz4.frame
    except ImportError as error:
        raise _missing(packed, "lz4", "lz4") from error
    decoder: Any = lz4.frame.LZ4FrameDecompressor()
    decode: Decode = decoder.decompress
    return decode


def _missing(packed: Packed, package: str, command: str) -> UnsupportedCaptureError:
    """The error for a package that is not installed."""
    text = (
        f"this is a file compressed with {packed.word}, and the Python package {package}, which decompresses it, is "
        f"not installed; install it with `python3 -m pip install {package}`, or decompress the file with `{command} -d`"
    )
    return UnsupportedCaptureError(text, file=packed.name, offset=packed.offset)
