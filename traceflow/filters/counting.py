"""The filters `packetcount`, `bytecount` and `rate`: they let everything through, and count it.

Octets are those that a frame had on the wire. Counters of `packetcount` and `bytecount` have as many octets as is
said (8 where nothing is) and wrap, as a counter in memory shared with a reader does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.parameters import duration_ns, duration_text
from traceflow.filters.sampler import MEMORY_SIZES, highest_in

__all__ = ["BYTECOUNT", "PACKETCOUNT", "RATE"]


class _PacketCount:
    __slots__ = ("_count", "_highest")

    def __init__(self, call: Call) -> None:
        self._count, self._highest = 0, highest_in(call.memory)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All of them, counted."""
        self._count = (self._count + len(given)) & self._highest
        return given

    def counters(self) -> dict[str, int]:
        """`packets`."""
        return {"packets": self._count}


class _ByteCount:
    __slots__ = ("_count", "_highest")

    def __init__(self, call: Call) -> None:
        self._count, self._highest = 0, highest_in(call.memory)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All of them, their octets counted."""
        self._count = (self._count + int(_wire(seen, given).sum())) & self._highest
        return given

    def counters(self) -> dict[str, int]:
        """`octets`."""
        return {"octets": self._count}


def _wire(seen: Seen, given: Selection) -> npt.NDArray[np.int64]:
    """Octets on the wire of each, int64[k]."""
    octets: npt.NDArray[np.int64] = seen.batch.frames["wire"][given.indexes].astype(np.int64)
    return octets


def _nothing(parameter: str) -> str:
    return ""


def _interval(parameter: str) -> str:
    if not parameter.strip():
        raise ParameterError("rate needs an interval of packet time, such as 1s or 100ms")
    value_ns = duration_ns(parameter)
    if not value_ns:
        raise ParameterError("the interval of a rate is longer than 0")
    return duration_text(value_ns)


class _Rate:
    """Intervals lie between multiples of their length since 1970.

    Time never runs backwards: what comes late counts in the interval that is open.
    """

    __slots__ = ("_highest", "_interval_ns", "_last", "_now", "_open")
    gauges = ("packets", "octets", "packets_highest", "octets_highest")

    def __init__(self, call: Call) -> None:
        self._interval_ns = duration_ns(call.parameter)
        self._open: int | None = None  # number of the open interval, counted from 1970
        self._now = np.zeros(2, np.int64)  # packets and octets in it
        self._last = np.zeros(2, np.int64)
        self._highest = np.zeros(2, np.int64)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All of them, counted by interval."""
        numbers = seen.batch.frames["time_ns"][given.indexes] // np.int64(self._interval_ns)
        if self._open is not None:
            numbers[0] = max(int(numbers[0]), self._open)
        numbers = np.maximum.accumulate(numbers)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(numbers)) + 1))
        counted = np.column_stack(
            (np.diff(np.append(starts, len(numbers))), np.add.reduceat(_wire(seen, given), starts))
        )
        if self._open is not None and numbers[0] > self._open:
            self._finish(int(numbers[0]))
        self._now += counted[0]
        if len(starts) > 1:
            self._highest = np.maximum(self._highest, self._now)
            if len(starts) > 2:
                self._highest = np.maximum(self._highest, counted[1:-1].max(axis=0))
            adjacent = numbers[-1] - numbers[starts[-1] - 1] == 1
            before = counted[-2] if len(starts) > 2 else self._now
            self._last = before.copy() if adjacent else np.zeros(2, np.int64)
            self._now = counted[-1].copy()
        self._open = int(numbers[-1])
        return given

    def _finish(self, number: int) -> None:
        """Close the open interval, as one of a higher number has begun."""
        assert self._open is not None
        self._highest = np.maximum(self._highest, self._now)
        self._last = self._now if number - self._open == 1 else np.zeros(2, np.int64)
        self._now = np.zeros(2, np.int64)

    def counters(self) -> dict[str, int]:
        """`packets` and `octets` of the last whole interval, and the highest of all whole ones."""
        packets, octets = self._last.tolist()
        packets_highest, octets_highest = self._highest.tolist()
        return {
            "packets": packets,
            "octets": octets,
            "packets_highest": packets_highest,
            "octets_highest": octets_highest,
        }


PACKETCOUNT = Kind("packetcount", "counts packets", "", _nothing, _PacketCount, memory=MEMORY_SIZES)
BYTECOUNT = Kind("bytecount", "counts octets, as they were on the wire", "", _nothing, _ByteCount, memory=MEMORY_SIZES)
RATE = Kind("rate", "packets and octets in an interval: of the last one, the highest", "INTERVAL", _interval, _Rate)
