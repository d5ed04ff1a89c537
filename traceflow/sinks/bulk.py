"""The documents of many flows at once, as octets in one buffer: how flow files are made where there are many frames.

`Texts` makes json, property lists and trees by templates, `Pcaps` makes pcap files. Both take a *lot*: frames that were
read again, in the order of their files, with marks where a file begins and ends. Where the kernels are plain Python,
or there are few frames, rendering one by one is faster than compiling or loading kernels: see BULK_FROM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from traceflow.compiled import COMPILED, U64, kernel, put_octets
from traceflow.decode import decode_batch
from traceflow.packets import PACKET, Interface
from traceflow.sinks.filing import AHEAD
from traceflow.sinks.pcapfile import pcap_header
from traceflow.sinks.perflow import PcapKind
from traceflow.sinks.templates import FIRST, LAST, Templates

__all__ = ["BULK_FROM", "Bulk", "Lot", "Pcaps", "Texts", "marks_of"]

BULK_FROM = 20_000 if COMPILED else 2**63
"""Frames from which on files are made in bulk. Rendering so many one by one takes a second."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Frames, in the order of their files.

    Attributes:
        octets: uint8[n].
        frames: FRAME[m], `start` counts in `octets`.
        numbers: uint[m], their numbers.
        marks: uint8[m]: FIRST of a file, LAST of one.
        links: Link type of each file that begins here or goes on.
        kinds: What each of these files takes from its source, in pcap.
    """

    octets: npt.NDArray[np.uint8]
    frames: npt.NDArray[np.void]
    numbers: npt.NDArray[Any]
    marks: npt.NDArray[np.uint8]
    links: Sequence[int]
    kinds: Sequence[PcapKind]


class Bulk(Protocol):
    """Makes documents."""

    def documents(self, lot: Lot) -> tuple[memoryview, npt.NDArray[np.uint64]]:
        """The files of a lot.

        Returns:
            Their octets, good for AHEAD more calls; and where each frame ends in them, uint64[m].
        """
        ...


def marks_of(counts: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Marks of whole files.

    Args:
        counts: Frames of each, 1 at least.
    """
    ends = np.cumsum(counts)
    marks = np.zeros(int(ends[-1]), np.uint8)
    marks[ends - np.array(counts)] |= np.uint8(FIRST)
    marks[ends - 1] |= np.uint8(LAST)
    return marks


class Texts:
    """Documents in a format of `dictdump`.

    Args:
        fmt: The format.
        interfaces: Of the source.
        outer: As in `decode_batch`.
    """

    def __init__(self, fmt: str, interfaces: Sequence[Interface], *, outer: bool) -> None:
        self.templates = Templates(fmt, interfaces, outer=outer, lasting=AHEAD)
        self._outer = outer
        self._packets = np.zeros(0, PACKET)

    def documents(self, lot: Lot) -> tuple[memoryview, npt.NDArray[np.uint64]]:
        """See Bulk."""
        if len(lot.frames) > len(self._packets):
            self._packets = np.zeros(2 * len(lot.frames), PACKET)
        packets = decode_batch(lot.octets, lot.frames, self._packets, outer=self._outer)
        return self.templates.render(lot.octets, lot.frames, packets, lot.numbers, lot.marks)


class Pcaps:
    """Pcap files."""

    def __init__(self) -> None:
        self._outs = deque(np.empty(0, np.uint8) for _ in range(AHEAD + 1))
        self._headers: dict[tuple[int, PcapKind], bytes] = {}

    def documents(self, lot: Lot) -> tuple[memoryview, npt.NDArray[np.uint64]]:
        """See Bulk."""
        frames = lot.frames
        begins = np.flatnonzero(lot.marks & FIRST)
        files = zip(lot.links, lot.kinds, strict=True)
        headers = [self._header(link, kind) for link, kind in files]
        going_on = len(headers) - len(begins)  # a file that began in the lot before
        which = np.cumsum(lot.marks & FIRST) + going_on - 1
        big = np.array([kind.byteorder == "big" for kind in lot.kinds])[which]
        nanosecond = np.array([kind.nanosecond for kind in lot.kinds])[which]
        heads = _heads(frames, big, nanosecond)
        size = 24 * len(begins) + 16 * len(frames) + int(frames["captured"].sum(dtype=np.int64))
        out = self._outs.popleft()
        if size > len(out):
            out = np.empty(size + size // 4, np.uint8)
        self._outs.append(out)
        ends = np.zeros(len(frames), np.uint64)
        opened = np.frombuffer(b"".join(headers[going_on:]), np.uint8)
        pack(lot.octets, frames, heads, opened, lot.marks, ends, out)
        return out.data[:size], ends

    def _header(self, link: int, kind: PcapKind) -> bytes:
        header = self._headers.get((link, kind))
        if header is None:
            header = pcap_header(link, byteorder=kind.byteorder, nanosecond=kind.nanosecond, snaplen=kind.snaplen)
            self._headers[link, kind] = header
        return header


def _heads(
    frames: npt.NDArray[np.void], big: npt.NDArray[np.bool_], nanosecond: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Record headers, 16 octets each, one behind the other; fields as `pcap_record` has them."""
    heads = np.empty((len(frames), 4), "<u4")
    seconds, rest = np.divmod(frames["time_ns"], 1_000_000_000)
    heads[:, 0] = seconds & 0xFFFFFFFF
    heads[:, 1] = np.where(nanosecond, rest, rest // 1000)
    heads[:, 2], heads[:, 3] = frames["captured"], frames["wire"]
    if big.any():
        heads[big] = heads[big].byteswap()
    return heads.view(np.uint8).reshape(-1)


@kernel
def pack(octets: Any, frames: Any, heads: Any, opened: Any, marks: Any, ends: Any, out: Any) -> None:
    """Put pcap files together.

    Args:
        octets: uint8[n].
        frames: FRAME[m].
        heads: uint8[16 * m], their record headers.
        opened: uint8[24 * k], headers of the files that begin.
        marks: uint8[m].
        ends: uint64[m], set to where each frame ends in `out`.
        out: uint8[...], large enough.
    """
    at = U64(0)
    file = U64(0)
    for i in range(frames.shape[0]):
        if marks[U64(i)] & FIRST:
            put_octets(out, at, opened, file, U64(24))
            at += U64(24)
            file += U64(24)
        frame = frames[U64(i)]
        put_octets(out, at, heads, U64(i) << U64(4), U64(16))
        at += U64(16)
        put_octets(out, at, octets, U64(frame["start"]), U64(frame["captured"]))
        at += U64(frame["captured"])
        ends[U64(i)] = at
