"""The filter `truncate`: what stands behind it may look at the first n octets of a frame only."""

from __future__ import annotations

import numpy as np

from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.parameters import whole_number
from traceflow.filters.running import NO_LIMIT

__all__ = ["TRUNCATE"]


def _canonical(parameter: str) -> str:
    if not parameter.strip():
        raise ParameterError("truncate needs the number of octets that are left of a frame")
    return str(whole_number(parameter, "the number of octets", 1, NO_LIMIT - 1))


class _Runner:
    __slots__ = ("_octets",)

    def __init__(self, call: Call) -> None:
        self._octets = np.uint32(int(call.parameter))

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All of them, none longer than that."""
        if given.limit is None:
            return Selection(given.indexes, np.full(len(given), self._octets, np.uint32))
        return Selection(given.indexes, np.minimum(given.limit, self._octets))

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


TRUNCATE = Kind("truncate", "shows of each frame its first octets only", "OCTETS", _canonical, _Runner)
