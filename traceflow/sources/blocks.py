"""The kernel that walks over the blocks of a pcapng section.

What lives here: packet blocks to FRAME rows, other blocks stepped over. What must not: section headers and
interface descriptions, at which the kernel stops and leaves them to `pcapng.py`. Read first:
draft-ietf-opsawg-pcapng, sections 4.3 (EPB), 4.4 (SPB), and the Packet Block of its appendix (OPB here).

A check is made as soon as the octets it needs have arrived and never earlier or later, so that what is
reported does not depend on how the octets were read.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, kernel
from traceflow.packets import NO_TIME
from traceflow.sources.clock import CLOCK_FIELDS, time_of
from traceflow.sources.words import two_numbers

__all__ = ["INTERFACE", "Stop", "walk_blocks"]

INTERFACE = np.dtype(
    [
        *CLOCK_FIELDS,
        ("longest", "u8"),  # octets that a packet block may claim
        ("snaplen", "u8"),  # 0 where there is no limit
        ("interface", "u4"),  # the rest is copied to every FRAME
        ("link", "u2"),
        ("bits", "u1"),
    ],
    align=True,
)
"""What the walk has to know of one interface of the section."""

OPTIONS_OCTETS_MAX = 16 * 1024 * 1024
"""Octets of options that a block with content we keep may have: the block limit of libpcap."""


class Stop(enum.IntEnum):
    """Why the kernel stopped; each has a value that goes with it."""

    FULL = 0
    """No row left."""
    NEED = 1
    """Octets are missing; the value is how many are needed from `at` on."""
    SECTION = 2
    """A Section Header Block."""
    DESCRIPTION = 3
    """An Interface Description Block with a valid length (the value)."""
    SKIP = 4
    """A block without frames that is not whole in the window; the value is its length."""
    BAD_LENGTH = 5
    """Not a length that this block can have (the value)."""
    BAD_TRAILER = 6
    """The length at the end of the block (the value) differs from the one at its front."""
    NO_INTERFACE = 7
    """A packet block names an interface (the value) that the section does not have."""
    TOO_LONG = 8
    """A packet block claims more captured octets (the value) than a frame can have."""
    NO_ROOM = 9
    """A packet block claims more captured octets (the value) than its length leaves room for."""


_FULL, _NEED, _SECTION, _DESCRIPTION, _SKIP = (int(Stop(value)) for value in range(5))
_BAD_LENGTH, _BAD_TRAILER, _NO_INTERFACE, _TOO_LONG, _NO_ROOM = (int(Stop(value)) for value in range(5, 10))

_SHB, _IDB, _OPB, _SPB, _EPB = 0x0A0D0D0A, 1, 2, 3, 6
_SHORTEST = 12
_PACKET_HEAD = 28  # EPB and OPB: up to the captured octets
_SPB_HEAD = 12
_OPTIONS_MAX = OPTIONS_OCTETS_MAX


@inline_kernel
def _u16(octets: Any, at: Any, big: Any) -> Any:
    a, b = U64(octets[at]), U64(octets[at + U64(1)])
    if big:
        return (a << U64(8)) | b
    return (b << U64(8)) | a


@inline_kernel
def _packet(octets: Any, at: Any, length: Any, kind: Any, section: Any, known: Any, big: Any) -> Any:
    """Read and check the head of a packet block, whose octets are there.

    Returns:
        (stop, value, interface of the section, captured, wire, ticks, octets of the head); stop is FULL where all is
        well.
    """
    named, ticks = U64(0), U64(0)
    if kind == U64(_SPB):
        head = U64(_SPB_HEAD)
        _, wire = two_numbers(octets, at + U64(4), big)
        captured = wire
    else:
        head = U64(_PACKET_HEAD)
        named, high = two_numbers(octets, at + U64(8), big)
        if kind == U64(_OPB):  # two octets, and two of drops
            named = _u16(octets, at + U64(8), big)
        low, captured = two_numbers(octets, at + U64(16), big)
        ticks = high << U64(32) | low
        _, wire = two_numbers(octets, at + U64(20), big)
    if named >= known:
        return U64(_NO_INTERFACE), named, named, captured, wire, ticks, head
    facts = section[named]
    if kind == U64(_SPB) and facts["snaplen"] != U64(0) and captured > facts["snaplen"]:
        captured = U64(facts["snaplen"])
    if captured > facts["longest"]:
        return U64(_TOO_LONG), captured, named, captured, wire, ticks, head
    if head + captured + U64(4) > length:
        return U64(_NO_ROOM), captured, named, captured, wire, ticks, head
    if length - head - captured > U64(_OPTIONS_MAX):
        return U64(_BAD_LENGTH), length, named, captured, wire, ticks, head
    return U64(_FULL), U64(0), named, captured, wire, ticks, head


@kernel
def walk_blocks(
    octets: Any, at: Any, end: Any, base: Any, section: Any, known: Any, big: Any, last_ns: Any, rows: Any
) -> Any:
    """Walk over whole blocks and describe each frame in a row.

    Args:
        octets: uint8[n], the window.
        at: uint64, index of the first block.
        end: uint64, exclusive end of what was read.
        base: uint64, offset in the file of octets[0].
        section: INTERFACE[k], the interfaces of the section, k >= 1.
        known: uint64, how many of them are in use.
        big: bool, the section is big-endian.
        last_ns: int64[1], time of the last frame of the file; kept up to date.
        rows: FRAME[m], filled from the front.

    Returns:
        (at, rows filled, Stop, its value), all uint64; `at` is the index of the block that comes next.
    """
    count, most = U64(0), U64(rows.shape[0])
    while count < most:
        if end - at < U64(8):
            return at, count, U64(_NEED), U64(8)
        kind, length = two_numbers(octets, at, big)
        if kind == U64(_SHB):
            return at, count, U64(_SECTION), U64(0)
        if length < U64(_SHORTEST) or (length & U64(3)) != U64(0):
            return at, count, U64(_BAD_LENGTH), length
        if kind == U64(_IDB):
            return at, count, U64(_DESCRIPTION), length
        if kind != U64(_EPB) and kind != U64(_SPB) and kind != U64(_OPB):
            if end - at < length:
                return at, count, U64(_SKIP), length
            _, trailer = two_numbers(octets, at + length - U64(8), big)
            if trailer != length:
                return at, count, U64(_BAD_TRAILER), trailer
            at += length
            continue
        head = U64(_PACKET_HEAD)
        if kind == U64(_SPB):
            head = U64(_SPB_HEAD)
        if length < head + U64(4):
            return at, count, U64(_BAD_LENGTH), length
        if end - at < head:
            return at, count, U64(_NEED), head
        stop, value, named, captured, wire, ticks, head = _packet(octets, at, length, kind, section, known, big)
        if stop != U64(_FULL):
            return at, count, stop, value
        if end - at < length:
            return at, count, U64(_NEED), length
        _, trailer = two_numbers(octets, at + length - U64(8), big)
        if trailer != length:
            return at, count, U64(_BAD_TRAILER), trailer
        facts = section[named]
        bits = U64(facts["bits"])
        if kind == U64(_SPB):
            bits |= U64(NO_TIME)
        else:
            last_ns[0] = time_of(facts, ticks)
        row = rows[count]
        row["time_ns"] = last_ns[0]
        row["offset"] = base + at + head
        row["start"] = at + head
        row["captured"] = captured
        row["wire"] = wire
        row["interface"] = facts["interface"]
        row["link"] = facts["link"]
        row["time_bits"] = bits
        at += length
        count += U64(1)
    return at, count, U64(_FULL), U64(0)
