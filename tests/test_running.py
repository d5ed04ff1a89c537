"""Selections: narrowing, `~`, `&`, and branches that come together."""

from __future__ import annotations

import numpy as np
import pytest
from batches import passes, seen_of, udp_frame
from hypothesis import given
from hypothesis import strategies as st

from traceflow.filters.contract import Selection
from traceflow.filters.running import NO_LIMIT, narrowed, of_batch, union


def selection(indexes: list[int], limit: list[int] | None = None) -> Selection:
    return Selection(np.array(indexes, np.uint32), None if limit is None else np.array(limit, np.uint32))


def shown(one: Selection) -> tuple[list[int], list[int] | None]:
    assert one.indexes.dtype == np.uint32
    return one.indexes.tolist(), None if one.limit is None else one.limit.tolist()


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ([], ([], None)),
        ([([], None), ([], None)], ([], None)),
        ([([1, 4], None), ([0, 4, 9], None)], ([0, 1, 4, 9], None)),
        # 4 came by both: the larger of 10 and 20; a limit of 0 is one too
        ([([1, 4], [10, 10]), ([4, 9], [20, 0])], ([1, 4, 9], [10, 20, 0])),
        # without a limit a branch allows everything
        ([([1, 4], [10, 10]), ([4], None)], ([1, 4], [10, NO_LIMIT])),
        ([([1, 4], [10, 10]), ([1, 4], None)], ([1, 4], None)),
        ([([1], [10]), ([], None)], ([1], [10])),
    ],
)
def test_branches_come_together(
    branches: list[tuple[list[int], list[int] | None]], expected: tuple[list[int], list[int] | None]
) -> None:
    assert shown(union([selection(*branch) for branch in branches])) == expected


def test_one_branch_stays_what_it_is() -> None:
    one = selection([1, 2], [3, 4])
    assert union([one]) is one
    assert union([one, one]) is one
    assert narrowed(one, np.array([True, True])) is one
    assert shown(narrowed(one, np.array([False, True]))) == ([2], [4])


_BRANCH = st.dictionaries(st.integers(0, 40), st.integers(0, 9), max_size=12)


@given(st.lists(st.tuples(_BRANCH, st.booleans()), max_size=5))
def test_a_union_is_what_a_dictionary_says(branches: list[tuple[dict[int, int], bool]]) -> None:
    most: dict[int, int] = {}
    given = []
    for branch, limited in branches:
        places = sorted(branch)
        given.append(selection(places, [branch[place] for place in places] if limited else None))
        for place in places:
            most[place] = max(most.get(place, 0), branch[place] if limited else NO_LIMIT)
    indexes, limit = shown(union(given))
    assert indexes == sorted(most)
    assert (limit or [NO_LIMIT] * len(indexes)) == [most[place] for place in indexes]


PORTS = [80, 443, 80, 53, 443, 80]


def test_not_and_all_over_some_of_a_batch() -> None:
    seen = seen_of([udp_frame("10.0.0.1", "10.0.0.2", 9, port) for port in PORTS])
    assert passes("~(port,80)", seen) == [1, 3, 4]
    assert passes("~(port,80)", seen, selection([0, 3, 5])) == [3]
    assert passes("~(port,9)", seen) == []
    assert passes("~(port,1)", seen) == list(range(6))
    assert passes("~(port,53) & ~(port,443)", seen, selection([1, 2, 3])) == [2]
    # nothing is left after the first part, so the second is not asked
    assert passes("(port,1) & (port,80)", seen) == []
    assert passes("~((port,80) & (host,10.0.0.1))", seen) == [1, 3, 4]
    assert shown(of_batch(3)) == ([0, 1, 2], None)
