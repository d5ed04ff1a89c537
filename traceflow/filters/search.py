"""The filter `search`: packets whose payload holds one of several strings of octets.

The payload is what stands behind the header with ports (of other protocols: behind IP), as far as it was captured,
belongs to the packet, and may be looked at (`truncate`). Every packet is searched by itself: a needle that two
segments share is not found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, kernel
from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.needles import HIT, automaton, needles_of, needles_text
from traceflow.filters.running import NO_LIMIT, narrowed

__all__ = ["SEARCH", "find_needles"]

_NO_LIMITS = np.full(1, NO_LIMIT, np.uint32)


@kernel
def find_needles(octets: Any, frames: Any, packets: Any, indexes: Any, limits: Any, table: Any, found: Any) -> None:
    """Search the payloads of some packets.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m].
        indexes: uint32[k], the packets.
        limits: uint32[k], octets of each frame that may be looked at; uint32[1]: the same for all.
        table: uint16[s, 256], see `automaton`.
        found: bool[k], filled.
    """
    one = len(limits) != len(indexes)
    for i in range(len(indexes)):
        frame, packet = frames[U64(indexes[U64(i)])], packets[U64(indexes[U64(i)])]
        stop = min(U64(frame["captured"]), U64(limits[U64(0)] if one else limits[U64(i)]))
        stop = min(stop, U64(packet["payload"]) + U64(packet["payload_octets"]))
        start, state = U64(frame["start"]), U64(0)
        at = U64(packet["payload"])
        while at < stop and state != U64(HIT):
            state = U64(table[state, U64(octets[start + at])])
            at += U64(1)
        found[U64(i)] = state == U64(HIT)


def _canonical(parameter: str) -> str:
    if not parameter:
        raise ParameterError("a search needs what it looks for: strings with | between them")
    return needles_text(needles_of(parameter))


class _Runner:
    __slots__ = ("_table",)

    def __init__(self, call: Call) -> None:
        self._table = automaton(needles_of(call.parameter))

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets in which a needle is found."""
        found = np.zeros(len(given), np.bool_)
        batch, limits = seen.batch, _NO_LIMITS if given.limit is None else given.limit
        find_needles(batch.octets, batch.frames, seen.packets, given.indexes, limits, self._table, found)
        return narrowed(given, found)

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


SEARCH = Kind("search", "packets whose payload holds one of several strings", r"TEXT[|TEXT...], with \| \\ \xHH",
              _canonical, _Runner, predicate=True)  # fmt: skip
