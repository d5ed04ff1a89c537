"""The room `framelists`: frame lists against a plain dict."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow import framelists
from traceflow.compiled import COMPILED
from traceflow.framelists import FrameMap
from traceflow.table import FROM_RESPONDER, FROM_UPPER, MARK

CHUNK = 1 << 20
"""Frames of one piece of the map, by its source."""


def marks_of(flows: list[int] | np.ndarray, uppers: list[bool] | np.ndarray) -> np.ndarray:
    marks = np.zeros(len(flows), MARK)
    marks["flow"] = flows
    # The other bit of `direction` must not matter. A frame without a flow has no direction.
    direction = np.where(uppers, FROM_UPPER, 0) | np.where(np.arange(len(flows)) % 2, FROM_RESPONDER, 0)
    marks["direction"] = np.where(marks["flow"] != 0, direction, 0)
    return marks


def assert_equals_dict(found: FrameMap, flows: list[int], uppers: list[bool]) -> None:
    wanted: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for number, (flow, upper) in enumerate(zip(flows, uppers, strict=True), 1):
        wanted[flow].append((number, upper))
    assert (found.frames, found.flows) == (len(flows), max(flows, default=0))
    offsets, numbers = found.lists()
    assert offsets.dtype == np.uint64
    assert len(offsets) == found.flows + 1
    assert (offsets[0], offsets[-1]) == (0, len(numbers))
    assert len(numbers) == sum(flow != 0 for flow in flows)
    for flow in range(1, found.flows + 1):
        frames, sides = found.frames_and_sides_of(flow)
        assert list(zip(frames.tolist(), sides.tolist(), strict=True)) == wanted[flow]
        assert found.frames_of(flow).tolist() == frames.tolist()
        assert numbers[int(offsets[flow - 1]) : int(offsets[flow])].tolist() == frames.tolist()
    for number, flow in enumerate(flows, 1):
        assert found.flow_of(number) == flow
    assert found.packed(np.arange(1, len(flows) + 1)).tolist() == [
        2 * flow + upper if flow else 0 for flow, upper in zip(flows, uppers, strict=True)
    ]


frames = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=60)


@given(frames, st.lists(st.integers(0, 9), max_size=20))
def test_map_equals_a_dict(script: list[tuple[int, bool]], cuts: list[int]) -> None:
    """Whatever the batches, and also where lists are asked for in between."""
    flows, uppers = [flow for flow, _ in script], [upper for _, upper in script]
    found, at = FrameMap(), 0
    for size in [*cuts, len(flows)]:
        found.add(marks_of(flows[at : at + size], uppers[at : at + size]), FROM_UPPER)
        at += len(flows[at : at + size])
        assert_equals_dict(found, flows[:at], uppers[:at])


def test_empty() -> None:
    found = FrameMap()
    assert_equals_dict(found, [], [])
    found.add(np.zeros(0, MARK), FROM_UPPER)
    assert_equals_dict(found, [], [])
    assert found.frames_of(1).tolist() == []
    assert len(found.packed(np.zeros(0, np.int64))) == 0


def test_only_frames_without_a_flow() -> None:
    found = FrameMap()
    found.add(marks_of([0, 0], [True, False]), FROM_UPPER)
    assert_equals_dict(found, [0, 0], [False, False])


@pytest.mark.parametrize("flow", [0, -1, 3, 10**9])
def test_a_flow_that_does_not_exist_has_no_frames(flow: int) -> None:
    found = FrameMap()
    found.add(marks_of([1, 2, 1], [True, False, True]), FROM_UPPER)
    assert found.frames_of(flow).tolist() == []
    assert found.frames_and_sides_of(flow)[1].tolist() == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_borders_of_pieces(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few frames, batches that end before, at and behind their borders."""
    monkeypatch.setattr(framelists, "_CHUNK", chunk)
    flows = [1, 2, 0, 1, 3, 3, 2, 1, 0, 4, 1, 1, 2, 5, 1, 0, 2, 3]
    uppers = [bool(n % 3) for n in range(len(flows))]
    for size in range(1, len(flows) + 1):
        found = FrameMap()
        for at in range(0, len(flows), size):
            found.add(marks_of(flows[at : at + size], uppers[at : at + size]), FROM_UPPER)
        assert_equals_dict(found, flows, uppers)


@pytest.mark.slow_plain("more than two million frames")
def test_borders_of_real_pieces() -> None:
    """Frame n belongs to flow n % 1000 (0: none), the upper end sends every third; expectations by arithmetic."""
    total = 2 * CHUNK + 5
    flows, uppers = np.arange(1, total + 1) % 1000, np.arange(1, total + 1) % 3 == 0
    found = FrameMap()
    for at in range(0, total, 70_001):
        found.add(marks_of(flows[at : at + 70_001], uppers[at : at + 70_001]), FROM_UPPER)
    assert (found.frames, found.flows) == (total, 999)
    for flow in (1, 153, 576, 577, 999):
        numbers, sides = found.frames_and_sides_of(flow)
        assert numbers.tolist() == list(range(flow, total + 1, 1000))
        assert np.array_equal(sides, numbers % 3 == 0)
    for border in (CHUNK, 2 * CHUNK):
        for frame in (border - 1, border, border + 1):
            assert found.flow_of(frame) == frame % 1000
    assert found.lists()[1].dtype == np.uint32


def test_lists_are_of_what_was_added_last() -> None:
    found = FrameMap()
    found.add(marks_of([1, 1], [False, True]), FROM_UPPER)
    assert found.frames_of(1).tolist() == [1, 2]
    found.add(marks_of([1, 2], [False, True]), FROM_UPPER)
    assert found.frames_of(1).tolist() == [1, 2, 3]
    assert found.frames_of(2).tolist() == [4]


MANY = 2**31 - 1
"""The highest flow number that fits 32 bits beside one for the sender."""


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_flow_numbers_above_31_bits(batch: int) -> None:
    """Pieces become wider when the first such number comes; those before stay as they are. (Lists of 2**31 flows would
    take 16 GiB, so only the map itself is asked.)
    """
    flows = [5, MANY - 1, MANY, MANY + 1, 7, 2**40, MANY, 0, 2**62]
    uppers = [True, False, True, False, True, True, False, False, True]
    found = FrameMap()
    for at in range(0, len(flows), batch):
        found.add(marks_of(flows[at : at + batch], uppers[at : at + batch]), FROM_UPPER)
    assert [found.flow_of(number) for number in range(1, 10)] == flows
    assert (found.packed(np.arange(1, 10)) & np.uint64(1)).tolist() == [int(upper) for upper in uppers]
    assert (found.frames, found.flows) == (9, 2**62)


@pytest.mark.parametrize("narrow", [1, 3])
def test_lists_over_narrow_and_wide_pieces(narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same switch with a small limit, so that the lists can be made."""
    monkeypatch.setattr(framelists, "_NARROW_FLOWS", narrow)
    flows, uppers = [1, 1, 2, 1, 3, 4, 2, 1, 0, 4], [True, False] * 5
    found = FrameMap()
    for flow, upper in zip(flows, uppers, strict=True):
        found.add(marks_of([flow], [upper]), FROM_UPPER)
    assert_equals_dict(found, flows, uppers)


def test_a_frame_costs_eight_octets_at_most() -> None:
    """Invariant 6: four octets a frame while frames come, and four in the lists; some thousand for the rest."""
    total = 3 * CHUNK if COMPILED else CHUNK // 16
    found = FrameMap()
    marks = marks_of(np.arange(total) % 50, np.zeros(total, bool))
    found.add(marks, FROM_UPPER)
    offsets, numbers = found.lists()
    whole = CHUNK * -(-total // CHUNK)  # the last piece is allocated whole
    assert sum(chunk.nbytes for chunk in found._chunks) <= 4 * whole
    assert offsets.nbytes + numbers.nbytes <= 4 * total + 8 * 51
