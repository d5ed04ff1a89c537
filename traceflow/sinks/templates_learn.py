"""Which operation gives each value of a record: found by trying, never written down a second time.

`records` alone says what fields a frame has. For a shape, some dozens of *probes* are made: frames of that shape
whose other octets, times and lengths are random. Their records must have the same fields; a value that is the same in
all belongs to the shape; each other one must be what one operation makes of every probe (a number of some bits of the
frame, an address, the payload ...). With random octets a wrong operation that fits them all does not occur (a single
bit: 2**-64). Where a field or a value fits no operation, the shape has no template; its frames are rendered one by
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.decode import decode_batch
from traceflow.packets import FRAME, PACKET, Interface
from traceflow.sinks import templates_fill as fills
from traceflow.sinks.records import epoch_text, frame_record
from traceflow.sinks.records_fields import ipv4_text, ipv6_text
from traceflow.sinks.templates_shapes import Shapes

__all__ = ["Slot", "learn"]

_TRIED = 96
_ENOUGH = 64
_UDP = 17
_FIELD_BITS = 32
"""A number is taken for a field of up to so many bits; no header that has a shape has longer ones."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in a record for a value that differs: the operation that gives it, see OP.

    Attributes:
        kind: Its type in records: int, bool, str or bytes.
    """

    kind: type
    code: int
    a: int = 0
    b: int = 0
    c: int = 0
    mask: int = 0


class _Probes:
    """Frames of one shape and their records."""

    def __init__(
        self, octets: npt.NDArray[np.uint8], frames: npt.NDArray[np.void], packets: npt.NDArray[np.void], header: int
    ) -> None:
        self.frames, self.packets = frames, packets
        data = octets.data
        starts, ends = frames["start"].tolist(), (frames["start"] + frames["captured"]).tolist()
        self.octets = [bytes(data[start:end]) for start, end in zip(starts, ends, strict=True)]
        self.numbers = [17 * 7919**at % 2**40 for at in range(1, len(frames) + 1)]
        heads = np.array([list(one[:header]) for one in self.octets], np.uint8).reshape(len(frames), header)
        self.bits = np.unpackbits(heads, axis=1)  # uint8[probes, 8 * header], the highest bit of an octet first
        self.header = header
        self.columns = {
            fills.NUMBER: self.numbers,
            fills.TIME: frames["time_ns"].tolist(),
            fills.WIRE: frames["wire"].tolist(),
            fills.CAPTURED: frames["captured"].tolist(),
            fills.PAYLOAD_OCTETS: packets["payload_octets"].tolist(),
        }

    def records(self, interface: Interface) -> list[dict[str, Any]]:
        """What `records` says of each."""
        every = zip(self.numbers, self.octets, self.frames, self.packets, strict=True)
        return [frame_record(number, octets, frame, packet, interface) for number, octets, frame, packet in every]

    def payload(self, at: int) -> slice:
        """Where the payload of a probe is."""
        start = int(self.packets[at]["payload"])
        return slice(start, start + int(self.packets[at]["payload_octets"]))


def learn(
    shapes: Shapes, leaf: int, octets: bytes, frame: np.void, packet: np.void, interface: Interface, outer: bool
) -> dict[str, Any] | None:
    """The record of a shape, with a Slot for each value that differs.

    Args:
        shapes: Knows the shape.
        leaf: Its leaf.
        octets: The captured octets of a frame that has it.
        frame: The FRAME row of that.
        packet: The PACKET row.
        interface: Where it came from.
        outer: As in `decode_batch`.

    Returns:
        None where the shape can have no template.
    """
    headers = shapes.leaves[leaf]
    if headers["header"] > len(octets):
        return None
    fixed = shapes.questions(octets, packet, int(frame["link"]))
    made, rows = _made(octets, frame, packet, fixed, headers)
    packets = decode_batch(made, rows, np.zeros(len(rows), PACKET), outer=outer)
    found = np.zeros(len(rows), np.uint32)
    numbers = np.zeros(len(rows), np.uint64)
    fills.classify((made, rows, packets, numbers), (shapes.edges, shapes.nodes), shapes.leaves, found)
    chosen = np.flatnonzero(found == leaf)[:_ENOUGH]
    if len(chosen) < _ENOUGH:
        return None
    probes = _Probes(made, rows[chosen], packets[chosen], int(headers["header"]))
    try:
        return dict(_merged(probes.records(interface), probes))
    except _NoOperation:
        return None


def _made(
    octets: bytes, frame: np.void, packet: np.void, fixed: Sequence[tuple[int, int, int]], headers: np.void
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
    """Frames that are likely to have the shape of a frame: its fixed octets, and lengths that agree.

    Lengths, sizes and times are of all magnitudes: the logarithm is random.
    """
    random = Random(1)
    header, ip = int(headers["header"]), int(headers["ip"])
    six = int(packet["ip_version"]) == 6
    trails = int(frame["captured"]) > int(packet["payload"]) + int(packet["payload_octets"])
    most = ip + 65535 + 40 * six - header  # behind the headers
    pieces = [b""] * _TRIED
    rows = np.zeros(_TRIED, FRAME)
    for name in ("interface", "link", "time_bits"):
        rows[name] = frame[name]
    start = 0
    for at in range(_TRIED):
        behind = min(random.getrandbits(random.randint(0, 16)), most)
        end = header + behind
        captured = end + random.randint(1, 40) if trails else header + random.randint(0, min(behind, 99))
        head = _random_head(random, octets, fixed, header)
        _set_short(head, ip + 4 if six else ip + 2, end - ip - 40 * six)
        if packet["protocol"] == _UDP and random.random() < 0.8:  # a shorter length makes a trailer, as others do
            _set_short(head, int(headers["transport"]) + 4, end - int(headers["transport"]))
        pieces[at] = bytes(head) + random.randbytes(captured - header)
        wire = max(captured, end) + random.getrandbits(random.randint(0, 31))
        rows[at]["start"], rows[at]["captured"], rows[at]["wire"] = start, captured, wire
        rows[at]["time_ns"] = random.getrandbits(random.randint(0, 62))
        start += captured
    # that can be written, as the octets of sources are: decode would be compiled once more for others
    return np.frombuffer(bytearray(b"".join(pieces)), np.uint8), rows


def _set_short(head: bytearray, at: int, value: int) -> None:
    head[at : at + 2] = (value & 0xFFFF).to_bytes(2, "big")


def _random_head(random: Random, octets: bytes, fixed: Sequence[tuple[int, int, int]], header: int) -> bytearray:
    head = bytearray(random.randbytes(header))
    for offset, width, mask in fixed:
        place = slice(offset, offset + width)
        kept = int.from_bytes(octets[place], "big") & mask
        head[place] = (int.from_bytes(head[place], "big") & ~mask | kept).to_bytes(width, "big")
    return head


class _NoOperation(Exception):  # noqa: N818 - says that a value cannot be explained
    """The records of a shape differ in their fields, or in a value that no operation gives."""


def _merged(values: list[Any], probes: _Probes) -> Any:
    """One value that stands for those of all probes."""
    kind = type(values[0])
    if any(type(value) is not kind for value in values):
        raise _NoOperation
    if kind is dict:
        keys = list(values[0])
        if any(list(value) != keys for value in values):
            raise _NoOperation
        return {key: _merged([value[key] for value in values], probes) for key in keys}
    if kind is list:
        if any(len(value) != len(values[0]) for value in values):
            raise _NoOperation
        merged = [_merged(list(items), probes) for items in zip(*values, strict=True)]
        if any(type(item) is Slot and item.kind is bytes for item in merged):
            raise _NoOperation  # in a list, the form of octets depends on how many there are
        return merged
    if all(value == values[0] for value in values):
        return values[0]
    if kind not in _EXPLAIN:
        raise _NoOperation
    return _EXPLAIN[kind](values, probes)


def _number(values: list[int], probes: _Probes) -> Slot:
    """A column, or bits of the header: the longest field that has these values, no longer than 32 bits.

    Lengths fill their field seldom, so a field is continued to the left over bits that no probe has set.
    """
    for which, column in probes.columns.items():
        if values == column:
            return Slot(int, fills.COLUMN, which)
    longest = max(values).bit_length()
    if min(values) < 0 or longest > _FIELD_BITS:
        raise _NoOperation
    of_values = np.array([[value >> k & 1 for k in range(longest)] for value in values], np.uint8)
    for last in np.flatnonzero((probes.bits == of_values[:, :1]).all(axis=0)).tolist():
        if last + 1 < longest:
            continue
        field = probes.bits[:, last - longest + 1 : last + 1][:, ::-1]
        if np.array_equal(field, of_values):
            first = last - longest + 1
            while first > 0 and last - first + 1 < _FIELD_BITS and not probes.bits[:, first - 1].any():
                first -= 1
            begin, end = first // 8, last // 8
            return Slot(int, fills.FIELD, end - begin + 1, begin, 7 - last % 8, 2 ** (last - first + 1) - 1)
    raise _NoOperation


def _truth(values: list[bool], probes: _Probes) -> Slot:
    """One bit of the header."""
    wanted = np.array(values, np.uint8)[:, None]
    for at in np.flatnonzero((probes.bits == wanted).all(axis=0)).tolist():
        return Slot(bool, fills.BIT, at // 8, mask=0x80 >> at % 8)
    raise _NoOperation


def _mac_text(octets: bytes) -> str:
    return octets.hex(":")


_ADDRESSES: tuple[tuple[int, int, Callable[[bytes], str]], ...] = (
    (fills.IP4, 4, ipv4_text),
    (fills.MAC, 6, _mac_text),
    (fills.IP6, 16, ipv6_text),
)


def _text(values: list[str], probes: _Probes) -> Slot:
    """The time, or an address somewhere in the header."""
    times = probes.columns[fills.TIME]
    for digits in (6, 9):
        if values == [epoch_text(time, digits) for time in times]:
            return Slot(str, fills.EPOCH, digits)
    for code, size, text in _ADDRESSES:
        for at in range(probes.header - size + 1):
            if text(probes.octets[0][at : at + size]) == values[0] and values == [
                text(octets[at : at + size]) for octets in probes.octets
            ]:
                return Slot(str, code, at)
    raise _NoOperation


def _spans(probes: _Probes, size: int) -> Iterator[tuple[int, int, Callable[[int], slice]]]:
    """(kind, place and size as in OP, where it is in a probe) of all octets that a record may show."""
    yield fills.PAYLOAD, 0, probes.payload
    yield fills.TRAILER, 0, lambda at: slice(probes.payload(at).stop, None)
    for first in range(probes.header - size + 1):
        yield fills.FIXED, first << 16 | size, lambda at, first=first: slice(first, first + size)  # type: ignore[misc]


def _octets(values: list[bytes], probes: _Probes) -> Slot:
    """The payload, what follows it, or some octets of the header."""
    size = len(values[0]) if len({len(value) for value in values}) == 1 else math.inf
    for kind, place, span in _spans(probes, min(size, probes.header + 1)):  # type: ignore[arg-type]
        if all(octets[span(at)] == values[at] for at, octets in enumerate(probes.octets)):
            return Slot(bytes, 0, 0, kind, place)
    raise _NoOperation


_EXPLAIN: dict[type, Callable[[Any, _Probes], Slot]] = {int: _number, bool: _truth, str: _text, bytes: _octets}
