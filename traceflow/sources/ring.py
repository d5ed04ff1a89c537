"""A block of the kernel's ring to rows: where its frames lie, and what the kernel took from them put back in place.

Linux lays captured frames into memory that is mapped here as well (AF_PACKET, TPACKET_V3): blocks of equal size, in
each a header and frames one behind the other, each with a header and an address of its own in front. What lives
here: that layout, and the kernel that walks over it. What must not: sockets (`live_linux.py`).

The frames are not copied. Two things are written in front of a frame, into octets that the kernel leaves free there:
the VLAN tag that it takes out of a frame, and the header of a cooked frame. A block is ours from when its status says
so until it is given back, so nobody else writes there. Nothing in a header is believed: each offset is held against
the block.

Read first: Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h of Linux.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, fence, inline_kernel, kernel
from traceflow.packets import FINER_THAN_MICROSECONDS

__all__ = ["COOKED_1", "COOKED_2", "FAULTS", "HEADROOM_OCTETS", "NO_VLAN", "WALK", "give_back", "walk_block"]

WALK = np.dtype(
    [
        ("at", "u8"),  # of the next frame, from the start of its block; 0: the block is not begun
        ("left", "u8"),  # frames of the block that are still to come
        ("block", "u8"),  # octets of a block
        ("snaplen", "u8"),  # octets that a frame is cut to
        ("offset", "u8"),  # captured octets of all frames so far
        ("vlan_at", "u8"),  # where a VLAN tag stands in a frame, NO_VLAN where there is none
        ("loopback", "u8"),  # index of the loopback interface, whose outgoing frames come twice; 0: none
        ("skipped", "u8"),  # frames that were left out for that so far
        ("interface", "u4"),  # the rest is copied to every FRAME
        ("link", "u2"),
    ],
    align=True,
)
"""Where a walk stands, and what it has to know of its capture, in one row."""

NO_VLAN = 255
"""Value of WALK `vlan_at`: no place for a VLAN tag in such frames."""

HEADROOM_OCTETS = 4
"""What the kernel is asked to leave free in front of a frame, besides what it leaves anyway: room for a VLAN tag."""

COOKED_1, COOKED_2 = 113, 276
"""Link types whose header is made here: Linux cooked capture, versions 1 and 2 (of all interfaces at once)."""

FAULTS = (
    "",
    "its first frame does not begin inside of it",
    "a frame does not begin inside of it",
    "the octets of a frame do not lie inside of it",
    "a frame was longer captured than it was on the wire",
    "a time stamp has a second or more of nanoseconds",
    "there is no room for the VLAN tag or link header of a frame",
    "a frame lies upon the one before it",
)
"""What can be wrong with a block, by the number that `walk_block` gives; 0: nothing."""
_FIRST, _BEGIN, _INSIDE, _LONGER, _NANOSECONDS, _ROOM, _UPON = range(1, 8)

_BLOCK_HEADER = 48
_STATUS, _FRAMES, _FIRST_AT = 8, 12, 16  # in the header of a block
_SECONDS, _NANO, _CAPTURED, _WIRE, _FRAME_STATUS, _MAC, _TCI, _TPID = 4, 8, 12, 16, 20, 24, 32, 36  # of a frame
_ADDRESS, _PROTOCOL, _INDEX, _HARDWARE, _KIND, _LENGTH, _OCTETS = 48, 50, 52, 56, 58, 59, 60  # struct sockaddr_ll
_HEADERS = 68
"""Octets of the header of a frame and the address behind it."""
_VLAN_VALID, _TPID_VALID = 1 << 4, 1 << 6
_USUAL_TPID = 0x8100
_OUTGOING = 4
_COOKED_1_OCTETS, _COOKED_2_OCTETS = 16, 20
_TAG_OCTETS = 4


@inline_kernel
def _put_be16(octets: Any, at: Any, value: Any) -> None:
    octets[at] = value >> U64(8) & U64(0xFF)
    octets[at + U64(1)] = value & U64(0xFF)


@inline_kernel
def _move(octets: Any, source: Any, target: Any, count: Any) -> None:
    """Move octets to the front."""
    for at in range(count):
        octets[target + U64(at)] = octets[source + U64(at)]


@kernel
def give_back(words: Any, block: Any) -> None:
    """Give a block back to the kernel.

    Args:
        words: uint32[n], the ring.
        block: uint64, where the block begins in it, in octets.
    """
    words[(block + U64(_FRAMES)) >> U64(2)] = 0  # so that a block that is not begun yet is seen to have no frame
    fence()
    words[(block + U64(_STATUS)) >> U64(2)] = 0


@inline_kernel
def _cook(octets: Any, halves: Any, words: Any, header: Any, start: Any, link: Any) -> None:
    """Write the header of a cooked frame in front of it."""
    address = header + U64(_ADDRESS)
    kind, length = U64(octets[header + U64(_KIND)]), U64(octets[header + U64(_LENGTH)])
    hardware = U64(halves[(header + U64(_HARDWARE)) >> U64(1)])
    index = U64(words[(header + U64(_INDEX)) >> U64(2)])
    protocol = address + U64(_PROTOCOL - _ADDRESS)  # in network order there as well as in the cooked header
    if link == U64(COOKED_1):
        at = start - U64(_COOKED_1_OCTETS)
        _put_be16(octets, at, kind)
        _put_be16(octets, at + U64(2), hardware)
        _put_be16(octets, at + U64(4), length)
        _move(octets, header + U64(_OCTETS), at + U64(6), U64(8))
        _move(octets, protocol, at + U64(14), U64(2))
        return
    at = start - U64(_COOKED_2_OCTETS)
    _move(octets, protocol, at, U64(2))
    _put_be16(octets, at + U64(2), U64(0))
    _put_be16(octets, at + U64(4), index >> U64(16))
    _put_be16(octets, at + U64(6), index & U64(0xFFFF))
    _put_be16(octets, at + U64(8), hardware)
    octets[at + U64(10)] = kind
    octets[at + U64(11)] = length
    _move(octets, header + U64(_OCTETS), at + U64(12), U64(8))


@inline_kernel
def _judge(halves: Any, words: Any, header: Any, at: Any, size: Any, left: Any, cooked: Any) -> Any:
    """What is wrong with a frame: a place in FAULTS; its headers lie inside the block."""
    word, half = header >> U64(2), header >> U64(1)
    captured = U64(words[word + U64(_CAPTURED >> 2)])
    mac = U64(halves[half + U64(_MAC >> 1)])
    step = U64(words[word])
    if mac < U64(_HEADERS) or at + mac + captured > size:
        return U64(_INSIDE)
    if captured > U64(words[word + U64(_WIRE >> 2)]):
        return U64(_LONGER)
    if words[word + U64(_NANO >> 2)] >= 1_000_000_000:
        return U64(_NANOSECONDS)
    if mac < U64(_HEADERS) + cooked:
        return U64(_ROOM)
    if left > U64(1):
        if step < mac + captured:
            return U64(_UPON)
        if step & U64(7) != U64(0) or at + step + U64(_HEADERS) > size:
            return U64(_BEGIN)
    return U64(0)


@inline_kernel
def _tag(octets: Any, halves: Any, words: Any, header: Any, start: Any, vlan_at: Any) -> None:
    """Put the VLAN tag of a frame back in place; the frame then begins that much further to the front."""
    word = header >> U64(2)
    tpid = U64(_USUAL_TPID)
    if U64(words[word + U64(_FRAME_STATUS >> 2)]) & U64(_TPID_VALID) != U64(0):
        tpid = U64(halves[(header + U64(_TPID)) >> U64(1)])
    _move(octets, start, start - U64(_TAG_OCTETS), vlan_at)
    at = start - U64(_TAG_OCTETS) + vlan_at
    _put_be16(octets, at, tpid)
    _put_be16(octets, at + U64(2), U64(words[word + U64(_TCI >> 2)]))


@inline_kernel
def _is_tagged(words: Any, word: Any) -> Any:
    """Whether the kernel took a VLAN tag out of a frame."""
    status = U64(words[word + U64(_FRAME_STATUS >> 2)])
    return words[word + U64(_TCI >> 2)] != 0 or status & U64(_VLAN_VALID) != U64(0)


@kernel
def walk_block(octets: Any, halves: Any, words: Any, block: Any, walk: Any, rows: Any) -> Any:
    """Walk over the next frames of a block and describe each in a row.

    Args:
        octets: uint8[n], the ring.
        halves: uint16[n / 2], the same memory.
        words: uint32[n / 4], the same memory.
        block: uint64, where the block begins in it, in octets; a multiple of 8, and the whole block is in the ring.
        walk: WALK[1]; goes on behind the frames that were described. `at` is 0 again when the block is through.
        rows: FRAME[m], filled from the front.

    Returns:
        (rows filled, what is wrong with the block: a place in FAULTS), uint64. Behind a fault the block is through.
    """
    here = walk[0]
    size, snaplen, vlan_at, link = U64(here["block"]), U64(here["snaplen"]), U64(here["vlan_at"]), U64(here["link"])
    loopback, offset, at, left = U64(here["loopback"]), U64(here["offset"]), U64(here["at"]), U64(here["left"])
    interface, skipped, count, fault = here["interface"], U64(here["skipped"]), U64(0), U64(0)
    cooked = U64(0)
    if link == U64(COOKED_1):
        cooked = U64(_COOKED_1_OCTETS)
    elif link == U64(COOKED_2):
        cooked = U64(_COOKED_2_OCTETS)
    if at == U64(0):
        fence()
        left = U64(words[(block + U64(_FRAMES)) >> U64(2)])
        at = U64(words[(block + U64(_FIRST_AT)) >> U64(2)])
        if left != U64(0) and (at < U64(_BLOCK_HEADER) or at & U64(7) != U64(0) or at + U64(_HEADERS) > size):
            left, fault = U64(0), U64(_FIRST)
    while left != U64(0) and count < U64(rows.shape[0]):
        header = block + at
        word = header >> U64(2)
        fault = _judge(halves, words, header, at, size, left, cooked)
        if fault != U64(0):
            left = U64(0)
            break
        captured, wire = U64(words[word + U64(_CAPTURED >> 2)]), U64(words[word + U64(_WIRE >> 2)])
        start = header + U64(halves[(header + U64(_MAC)) >> U64(1)])
        at += U64(words[word])
        left -= U64(1)
        outgoing = octets[header + U64(_KIND)] == _OUTGOING
        if outgoing and loopback != U64(0) and U64(words[word + U64(_INDEX >> 2)]) == loopback:
            skipped += U64(1)
            continue
        if cooked != U64(0):
            _cook(octets, halves, words, header, start, link)
            start, captured, wire = start - cooked, captured + cooked, wire + cooked
        if vlan_at != U64(NO_VLAN) and captured >= vlan_at and _is_tagged(words, word):
            if start < header + U64(_HEADERS + _TAG_OCTETS):
                left, fault = U64(0), U64(_ROOM)
                break
            _tag(octets, halves, words, header, start, vlan_at)
            start, captured, wire = start - U64(_TAG_OCTETS), captured + U64(_TAG_OCTETS), wire + U64(_TAG_OCTETS)
        row = rows[count]
        row["time_ns"] = np.int64(
            U64(words[word + U64(_SECONDS >> 2)]) * U64(1_000_000_000) + U64(words[word + U64(_NANO >> 2)])
        )
        row["offset"] = offset
        row["start"] = start
        row["captured"] = min(captured, snaplen)
        row["wire"] = min(wire, U64(0xFFFFFFFF))
        row["interface"] = interface
        row["link"] = link
        row["time_bits"] = FINER_THAN_MICROSECONDS
        offset += U64(row["captured"])
        count += U64(1)
    if left == U64(0):
        at = U64(0)
    here["at"], here["left"], here["offset"], here["skipped"] = at, left, offset, skipped
    return count, fault
