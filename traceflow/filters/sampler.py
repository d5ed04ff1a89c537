"""The filter `sampler`: one packet in n, or the packets of one flow in n.

By packet it is the systematic count-based sampling of RFC 5475, section 5.1: of the packets that come to it, the first
of every n. By flow, it takes the packets of the first of every n flows of the source, as the flow table numbers them;
what came before in the graph makes no difference, and frames that belong to no flow are never taken.
"""

from __future__ import annotations

import numpy as np

from traceflow.filters.contract import Kind, ParameterError, Runner, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.parameters import whole_number, words_of
from traceflow.filters.running import narrowed

__all__ = ["MEMORY_SIZES", "SAMPLER", "highest_in"]

MEMORY_SIZES = (1, 2, 4, 8)
"""Octets that a counter may have."""

_N_MAX = 2**63 - 1


def highest_in(memory: int | None) -> int:
    """The highest number that a counter of so many octets (None: 8) holds; one more is 0 again."""
    return int(2 ** (8 * (memory or 8)) - 1)


def _parts(parameter: str) -> tuple[int, bool]:
    """n, and whether flows are counted."""
    words = words_of(parameter)
    if not words:
        raise ParameterError("a sampler needs n: 1 in n packets, or in n flows with `n by flow`")
    n = whole_number(words[0][0], "n", 1, _N_MAX, words[0][1])
    by = [word.lower() for word, _ in words[1:]]
    if by not in ([], ["by", "packet"], ["by", "flow"]):
        raise ParameterError("behind n may stand `by flow` or `by packet`", words[1][1])
    return n, by == ["by", "flow"]


def _canonical(parameter: str) -> str:
    n, by_flow = _parts(parameter)
    return f"{n} by flow" if by_flow else str(n)


def _check(call: Call) -> None:
    n, highest = _parts(call.parameter)[0], highest_in(call.memory)
    if n > highest:
        octets = f"{call.memory or 8} octet{'' if call.memory == 1 else 's'}"
        raise ParameterError(f"n is {n}, and a counter of {octets} holds {highest} at most")


class _Sampler:
    """What both have in common: they count what came and what went on, in counters that wrap."""

    __slots__ = ("_came", "_highest", "_n", "_passed")

    def __init__(self, call: Call) -> None:
        self._n, _ = _parts(call.parameter)
        self._highest = highest_in(call.memory)
        self._came = self._passed = 0

    def _counted(self, came: Selection, passed: Selection) -> Selection:
        self._came = (self._came + len(came)) & self._highest
        self._passed = (self._passed + len(passed)) & self._highest
        return passed

    def counters(self) -> dict[str, int]:
        """`packets` that came, `passed` that went on."""
        return {"packets": self._came, "passed": self._passed}


class _ByPacket(_Sampler):
    __slots__ = ("_phase",)

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._phase = 0  # packets since the last that was taken, that one included, modulo n: never wraps unevenly

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The first of every n that came so far."""
        first, self._phase = -self._phase % self._n, (self._phase + len(given)) % self._n
        limit = None if given.limit is None else given.limit[first :: self._n]
        return self._counted(given, given if self._n == 1 else Selection(given.indexes[first :: self._n], limit))


class _ByFlow(_Sampler):
    __slots__ = ()

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets of the flows 1, n + 1, 2n + 1, ... of the source."""
        flows = seen.facts["flow"][given.indexes]
        taken = (flows != 0) & ((flows - np.uint64(1)) % np.uint64(self._n) == 0)
        return self._counted(given, narrowed(given, taken))


def _make(call: Call) -> Runner:
    return _ByFlow(call) if _parts(call.parameter)[1] else _ByPacket(call)


SAMPLER = Kind(
    "sampler",
    "the first of every n packets that come, or of every n flows of the source",
    "N [by flow]",
    _canonical,
    _make,
    memory=MEMORY_SIZES,
    needs_flows=lambda call: _parts(call.parameter)[1],
    check=_check,
)
