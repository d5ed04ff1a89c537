"""Invariant: whatever octets are read, nothing is raised, and nothing depends on how they were cut into reads.

In detail: `open_source(...).batches()` raises no exception; what is wrong stands in `errors` and is one of ALLOWED;
every frame's captured octets are octets of the file at its offset (of compressed files not checked); offsets rise;
times lie within +-TIME_MAX_NS;
any batch and read size gives the same frames, interfaces and errors; `reread` gives the same octets.

    python fuzz/fuzz_sources.py [--seconds N] [--inputs N] [--seed N] [--save FOLDER]

Exit code 1 where the invariant is broken; the input is saved then, and how to run it again is printed.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import importlib
import io
import lzma
import random
import struct
import sys
import time
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from traceflow.errors import (
    MalformedCaptureError,
    NotACaptureError,
    TruncatedCaptureError,
    UnsupportedCaptureError,
)
from traceflow.packets import FRAME, TIME_MAX_NS
from traceflow.sources import open_source

ALLOWED = (NotACaptureError, UnsupportedCaptureError, TruncatedCaptureError, MalformedCaptureError)
"""What a file in memory may be blamed for; CannotReadError and CannotWriteError would be wrong here."""

PLAIN = tuple(map(bytes.fromhex, ("a1b2", "d4c3", "4d3c", "34cd", "0a0d0d0a")))
"""How captures begin that are not compressed."""

INTERESTING = (0, 1, 2, 3, 4, 6, 8, 11, 12, 16, 20, 28, 32, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 262_144, 262_145)
HUGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF, 0x0A0D0D0A, 0x1A2B3C4D, 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)


def pcap(order: str, magic: int, version: tuple[int, int], sizes: list[int]) -> bytes:
    """A classic capture with frames of the given sizes."""
    octets = struct.pack(order + "IHHIIII", magic, *version, 0, 0, 65535, 1)
    extra = bytes(8) if magic == 0xA1B2CD34 else b""
    for n, size in enumerate(sizes):
        octets += struct.pack(order + "IIII", n, n, size, size) + extra + bytes([n & 0xFF]) * size
    return octets


def block(order: str, kind: int, body: bytes) -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def pcapng(order: str, sizes: list[int]) -> bytes:
    """A section with two interfaces, packet blocks of all kinds and some others."""
    octets = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    options = struct.pack(order + "HHB3x", 9, 1, 9) + struct.pack(order + "HHq", 14, 8, -5) + bytes(4)
    octets += block(order, 1, struct.pack(order + "HHI", 1, 0, 0))
    octets += block(order, 1, struct.pack(order + "HHI", 101, 0, 96) + options)
    for n, size in enumerate(sizes):
        data = bytes([n & 0xFF]) * size
        octets += block(order, 6, struct.pack(order + "IIIII", n % 2, n, n, size, size) + data)
        octets += block(order, 3, struct.pack(order + "I", size) + data)
        octets += block(order, 2, struct.pack(order + "HHIIII", n % 2, 0, n, n, size, size) + data)
        octets += block(order, 0xBAD, data)
    return octets


def seeds() -> list[bytes]:
    """Small captures of every kind."""
    sizes = [0, 1, 5, 60]
    made = [
        pcap(order, magic, version, sizes)
        for order in "<>"
        for magic in (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)
        for version in ((2, 4), (2, 3), (2, 2))
    ]
    made += [pcapng(order, sizes) for order in "<>"]
    return [*made, pcapng("<", sizes) + pcapng(">", sizes), pcapng(">", [5000])]


def packed_seeds() -> list[bytes]:
    """Compressed captures: each format, and two members one behind the other; zstd and lz4 where a package is there."""
    packers = [gzip.compress, lzma.compress, bz2.compress]
    for module in ("compression.zstd", "zstandard", "lz4.frame"):
        try:
            packers.append(importlib.import_module(module).compress)
        except ImportError:
            print(f"without {module}")
    skippable = struct.pack("<II", 0x184D2A53, 3) + b"abc"
    captures = [pcap("<", 0xA1B2C3D4, (2, 4), [60, 1, 0, 300, 5]), pcapng(">", [5, 70])]
    made = [pack(octets) for pack in packers for octets in captures]
    made += [pack(octets[:50]) + pack(octets[50:]) for pack in packers for octets in captures]
    return [*made, skippable + made[-1] + skippable]


def mutate(octets: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """Change a capture in one to eight places: octets, length fields, cuts, repeats, splices."""
    changed = bytearray(octets)
    for _ in range(dice.randint(1, 8)):
        place = dice.randrange(len(changed)) if changed else 0
        what = dice.randrange(8)
        if what == 0 and changed:
            changed[place] = dice.randrange(256)
        elif what == 1 and changed:
            changed[place] ^= 1 << dice.randrange(8)
        elif what in (2, 3):
            value = dice.choice(INTERESTING + HUGE)
            changed[place // 4 * 4 : place // 4 * 4 + 4] = struct.pack(dice.choice("<>") + "I", value)
        elif what == 4:
            del changed[place:]
        elif what == 5:
            del changed[place : place + dice.randint(1, 40)]
        elif what == 6:
            changed[place:place] = changed[place : place + dice.randint(1, 80)]
        else:
            other = dice.choice(others)
            begin = dice.randrange(len(other))
            changed[place:place] = other[begin : begin + dice.randint(1, 200)]
    return bytes(changed)


def outcome(
    octets: bytes, batch_frames: int, read_octets: int, *, packed: bool = False
) -> tuple[list[object], list[str], list[object]]:
    """Read a capture and check what can be checked in one reading.

    Returns:
        Frames without `start`, errors, interfaces.
    """
    sizes = {"batch_frames": batch_frames, "read_octets": read_octets}
    with open_source(io.BytesIO(octets), keep=packed, **sizes) as captures:
        found, pieces, last = [np.empty(0, FRAME)], b"", 0
        for batch in captures.batches():
            assert 1 <= len(batch.frames) <= batch_frames, "batch size"
            for row in batch.frames:
                start, offset, captured = int(row["start"]), int(row["offset"]), int(row["captured"])
                piece = batch.octets[start : start + captured].tobytes()
                assert packed or piece == octets[offset : offset + captured], "octets of a frame are not the file's"
                assert len(piece) == captured, "a frame that is not whole"
                assert offset > last, "offsets do not rise"
                assert abs(int(row["time_ns"])) <= TIME_MAX_NS, "time out of range"
                pieces, last = pieces + piece, offset
            found.append(batch.frames.copy())
        frames = np.concatenate(found)
        if len(frames):
            assert captures.reread(frames)[0].tobytes() == pieces, "reread gives other octets"
        for error in captures.errors:
            assert isinstance(error, ALLOWED), f"not an allowed error: {error!r}"
        frames["start"] = 0
        return frames.tolist(), [f"{type(e).__name__} {e}" for e in captures.errors], list(captures.interfaces)


def check(octets: bytes) -> None:
    """Raise where the invariant is broken."""
    packed = not octets.startswith(PLAIN)
    first = outcome(octets, 4096, 1 << 20, packed=packed)
    for batch_frames, read_octets in ((1, 1), (3, 7), (1, 4096), (4096, 1)):
        assert outcome(octets, batch_frames, read_octets, packed=packed) == first, (
            f"reads of {read_octets} octets differ"
        )


def main(words: list[str] | None = None) -> int:
    """Mutate until the time is over, or the inputs are."""
    parser = argparse.ArgumentParser(description="mutate small captures and read them")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--inputs", type=int, help="this many, however long it takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path(), help="folder for a failing input")
    arguments = parser.parse_args(words)
    dice, pool, tried = random.Random(arguments.seed), seeds() + packed_seeds(), 0
    for octets in pool:
        check(octets)
    until = time.monotonic() + arguments.seconds
    while tried < arguments.inputs if arguments.inputs else time.monotonic() < until:
        octets = mutate(dice.choice(pool), dice, pool)
        tried += 1
        try:
            check(octets)
        except Exception:  # noqa: BLE001 - any exception is what is looked for
            path = arguments.save / f"fuzz-sources-{hashlib.sha256(octets).hexdigest()[:12]}.bin"
            path.write_bytes(octets)
            traceback.print_exc()
            print(f"input {tried} of seed {arguments.seed} breaks the invariant; saved as {path}")
            return 1
    print(f"{tried} inputs, seed {arguments.seed}: the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
