"""Selections and what is done with them in every graph: `~`, `&`, and branches that come together.

Nothing here knows a kind of filter. All work is done on whole arrays; there is no Python per packet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.filters.contract import Runner, Seen, Selection

__all__ = ["NO_LIMIT", "AllRunner", "MaskRunner", "NotRunner", "narrowed", "of_batch", "union"]

NO_LIMIT = 0xFFFFFFFF
"""A limit that is none: no frame is longer."""

_EMPTY = np.zeros(0, np.uint32)


def of_batch(frames: int) -> Selection:
    """All packets of a batch of so many frames."""
    return Selection(np.arange(frames, dtype=np.uint32))


def narrowed(given: Selection, keep: npt.NDArray[np.bool_]) -> Selection:
    """Some of a selection.

    Args:
        given: The selection.
        keep: bool[k], which of its packets go on.

    Returns:
        They; `given` itself where all go on.
    """
    if keep.all():
        return given
    return Selection(given.indexes[keep], None if given.limit is None else given.limit[keep])


def union(selections: Sequence[Selection]) -> Selection:
    """What at least one of several branches let through.

    A packet that came by more than one may be looked at as far as the branch allows that allows most.

    Args:
        selections: Selections of one batch, as many as there are.
    """
    distinct = list({id(one): one for one in selections if len(one)}.values())
    if len(distinct) <= 1:
        return distinct[0] if distinct else Selection(_EMPTY)
    behind = max(int(one.indexes[-1]) for one in distinct) + 1
    if all(one.limit is None for one in distinct):
        found = np.zeros(behind, np.bool_)
        for one in distinct:
            found[one.indexes] = True
        return Selection(np.flatnonzero(found).astype(np.uint32))
    # Limits plus one, so that 0 says that no branch let the packet through: a limit may be 0 as well.
    most = np.zeros(behind, np.uint64)
    for one in distinct:
        limit = NO_LIMIT if one.limit is None else one.limit.astype(np.uint64)
        most[one.indexes] = np.maximum(most[one.indexes], np.uint64(1) + limit)
    indexes = np.flatnonzero(most)
    limits = (most[indexes] - np.uint64(1)).astype(np.uint32)
    return Selection(indexes.astype(np.uint32), None if (limits == NO_LIMIT).all() else limits)


class MaskRunner:
    """A predicate over columns of PACKET.

    Args:
        test: Given a function that has the column of a name, of the packets that came here, [k]; answers bool[k].
    """

    __slots__ = ("_test",)

    def __init__(self, test: Callable[[Callable[[str], Any]], npt.NDArray[np.bool_]]) -> None:
        self._test = test

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets that it means."""
        packets, indexes = seen.packets, given.indexes
        if len(indexes) == len(packets):
            return narrowed(given, self._test(packets.__getitem__))
        return narrowed(given, self._test(lambda name: packets[name][indexes]))

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


class NotRunner:
    """What a predicate does not let through."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Runner) -> None:
        self._inner = inner

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All that came but those that the predicate means."""
        found = self._inner.run(seen, given)
        if found is given:
            return Selection(_EMPTY)
        keep = np.ones(len(given), np.bool_)
        keep[np.searchsorted(given.indexes, found.indexes)] = False
        return narrowed(given, keep)

    def counters(self) -> dict[str, int]:
        """What the predicate has counted."""
        return self._inner.counters()


class AllRunner:
    """What all of several predicates let through; each is shown what those before it left."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Runner]) -> None:
        self._parts = tuple(parts)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets that all of them mean."""
        for part in self._parts:
            if not len(given):
                break
            given = part.run(seen, given)
        return given

    def counters(self) -> dict[str, int]:
        """What they have counted; what has the same name is added up."""
        total: dict[str, int] = {}
        for part in self._parts:
            for name, count in part.counters().items():
                total[name] = total.get(name, 0) + count
        return total
