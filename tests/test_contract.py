"""What filters are given, and what kinds declare."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from batches import seen_of, udp_frame

from traceflow.filters.contract import FLOW_FACTS, ParameterError, Seen, Selection


def test_facts_are_asked_for_once_and_only_when_needed() -> None:
    asked = []

    def facts() -> npt.NDArray[np.void]:
        asked.append(True)
        return np.zeros(1, FLOW_FACTS)

    batch = seen_of([udp_frame("10.0.0.1", "10.0.0.2", 1, 2)])
    seen = Seen(batch.batch, batch.packets, "eth0", facts)
    assert (seen.device, asked) == ("eth0", [])
    assert seen.facts is seen.facts
    assert asked == [True]


def test_without_a_flow_table_there_are_none() -> None:
    with pytest.raises(RuntimeError, match="no flow table follows this batch"):
        _ = seen_of([udp_frame("10.0.0.1", "10.0.0.2", 1, 2)]).facts


def test_a_column_is_made_once_and_cannot_be_changed_for_others() -> None:
    seen = seen_of([udp_frame("10.0.0.1", "10.0.0.2", 1, 2)] * 2)
    for indexes in (np.array([0, 1], np.uint32), np.array([1], np.uint32)):
        for what in ("src_port", one_less):
            assert seen.column(what, indexes) is seen.column(what, indexes)
            with pytest.raises(ValueError, match="read-only"):
                seen.column(what, indexes)[:] = 7
            assert seen.column(what, indexes).tolist() == [1] * len(indexes)


def one_less(column: Any) -> Any:
    return column("dst_port") - 1


def test_small_things() -> None:
    assert len(Selection(np.array([3, 5], np.uint32))) == 2
    assert [ParameterError("wrong").at, ParameterError("wrong", None).at, ParameterError("wrong", 3).at] == [0, None, 3]
    assert str(ParameterError("wrong", 3)) == "wrong"
