"""The room `tracking`: what the kernel of the table promises its caller. The rules themselves are in test_table.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from traceflow.options import Options
from traceflow.packets import FRAME, PACKET
from traceflow.table import FlowTable
from traceflow.tracking import GONE_ROWS, MARK, STATE, track

UDP = 17


def datagrams(sources: list[int], gap_ns: int = 0) -> tuple[Any, Any]:
    """One UDP packet from each of some hosts to the same one."""
    frames, packets = np.zeros(len(sources), FRAME), np.zeros(len(sources), PACKET)
    frames["time_ns"] = np.arange(len(sources)) * gap_ns
    packets["ip_version"], packets["protocol"] = 4, UDP
    packets["src_lo"] = 0xFFFF00000000 + np.array(sources)
    packets["dst_lo"] = 0xFFFF0A000000
    return frames, packets


class Kernel:
    """The kernel under test, with the arrays of a table that never makes room."""

    def __init__(self, packets: Any, frames: Any, **options: Any) -> None:
        self.table = FlowTable(Options(analysis=False, **options), seed=1)
        self.marks = np.zeros(len(packets), MARK)
        hashes = np.arange(len(packets), dtype=np.uint32) % np.uint32(64)  # any, as long as a key has always the same
        self.batch = (
            frames,
            packets,
            self.marks,
            hashes,
            np.zeros(0, PACKET),
            np.zeros(0, [("number", "u8"), ("flow", "u8")]),
        )
        self.state["at"], self.state["first"] = 0, 1

    @property
    def state(self) -> Any:
        return self.table._state[0]

    def run(self) -> int:
        table = self.table
        track(table._state, table._live, table._slots, table._heap, table._deep, table._words, self.batch)
        return int(self.state["at"])


def test_stops_before_a_frame_for_which_no_row_is_free() -> None:
    """The index, of 2048 slots, is half full with 1024 flows; the next frame is untouched."""
    frames, packets = datagrams(list(range(1100)))
    kernel = Kernel(packets, frames)
    assert kernel.run() == 1024
    assert kernel.state["live"] == kernel.state["fresh"] == 1024
    assert kernel.marks["flow"][1024:].any() == False  # noqa: E712 - an array's bool
    assert kernel.run() == 1024, "again, as long as nobody makes room"
    kernel.table._make_room()
    assert kernel.run() == 1100
    assert kernel.marks["flow"].tolist() == [*range(1, 1101)]


def test_stops_where_no_room_is_left_for_flows_that_end() -> None:
    """A table of one flow ends one at every frame; three may end at once, so it stops with two places left."""
    frames, packets = datagrams(list(range(300)))
    kernel = Kernel(packets, frames, max_flows=1)
    assert kernel.run() == GONE_ROWS - 1
    assert kernel.state["ended"] == GONE_ROWS - 2
    kernel.state["ended"] = 0
    assert kernel.run() == 300


@pytest.mark.parametrize("name", ["at", "first", "quote", "live", "free", "fresh", "ended"])
def test_what_counts_has_64_bits(name: str) -> None:
    assert STATE[name] == np.uint64


# --- rows that are handed out ------------------------------------------------------------------------------------


def ended_one_by_one(rounds: int) -> Iterator[Any]:
    """What ends in each of some batches: two flows of the batch before, by a timeout of one second."""
    table = FlowTable(Options(analysis=False, idle_timeout_other_ns=10**9), seed=1)
    for n in range(rounds):
        frames, packets = datagrams([2 * n, 2 * n + 1])
        frames["time_ns"] = n * 2 * 10**9
        table.track(frames, packets, 2 * n + 1)
        yield table.drain()


def test_rows_that_nobody_holds_are_used_again() -> None:
    """Two places take turns: what was handed out last may still be looked at while the next flows end."""
    places, numbers = [], []
    for ended in ended_one_by_one(10):
        if len(ended):
            places.append(ended.ctypes.data)
            numbers.append(ended["number"].tolist())
            assert not ended["alarm"].any()
    assert numbers == [[2 * n + 1, 2 * n + 2] for n in range(9)]
    assert len(set(places)) == 2
    assert places[2:] == places[:-2]


@pytest.mark.parametrize("kept", [lambda rows: rows, lambda rows: rows["orig"]["packets"], lambda rows: rows[:1]])
def test_rows_that_somebody_holds_stay_as_they_are(kept: Any) -> None:
    """Whatever is held of them: the rows, a column, some."""
    held = [kept(ended) for ended in ended_one_by_one(10)]
    ended_since = [ended.copy() for ended in ended_one_by_one(10)]
    assert [repr(rows.tolist()) for rows in held] == [repr(kept(rows).tolist()) for rows in ended_since]


def test_the_end_of_the_input_comes_in_parts() -> None:
    """10 000 flows, the first of which is due first: 4096, 4096 and 1808 of them, and the table is empty."""
    frames, packets = datagrams(list(range(10_000)), gap_ns=1)
    table = FlowTable(Options(analysis=False), seed=1)
    table.track(frames, packets, 1)
    parts = [table.drain()["number"].tolist() for _ in table.end_in_parts()]
    assert [len(part) for part in parts] == [4096, 4096, 1808]
    assert [number for part in parts for number in part] == list(range(1, 10_001))
    assert table.live == 0
    assert [len(table.drain()) for _ in table.end_in_parts()] == [0]


@pytest.mark.parametrize(("flows", "slots"), [(1024, 2048), (1025, 8192), (2048, 8192), (2049, 32768), (8192, 32768)])
def test_the_index_grows_when_a_quarter_of_it_is_taken(flows: int, slots: int) -> None:
    """By four times; the smallest one when it is half full."""
    frames, packets = datagrams(list(range(flows)))
    table = FlowTable(Options(analysis=False), seed=1)
    table.track(frames, packets, 1)
    assert table.live == flows
    assert len(table._slots) == slots
