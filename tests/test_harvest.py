"""The room `harvest`: whoever makes the rows of flows that ended, and whenever, they are the same in the same order."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from traceflow import harvest
from traceflow.flows import EndCause
from traceflow.harvest import Harvest
from traceflow.options import Options
from traceflow.packets import FRAME, PACKET
from traceflow.table import FlowTable
from traceflow.tracking import GONE_ROWS

UDP = 17


def fill(garden: Harvest, first: int, count: int) -> None:
    """As kernels do: the next rows that ended, numbered from `first`."""
    rows = garden.gone.rows
    rows["number"][:count] = np.arange(first, first + count)
    rows["protocol"], rows["ip_version"] = UDP, 4
    rows["cause"][:count] = np.where(np.arange(first, first + count) % 3, EndCause.IDLE, EndCause.EVICTED)
    rows["tag"][:count] = 0


@pytest.mark.parametrize("helped", [False, True])
@pytest.mark.parametrize("help_every", [None, 1, 3])
@pytest.mark.parametrize("drain_every", [1, 5, 100])
def test_rows_come_in_the_order_in_which_they_ended(
    helped: bool, help_every: int | None, drain_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 buffers of 1 to 7 rows, in chunks of 50 rows: buffers run out, chunks are used again."""
    monkeypatch.setattr(harvest, "_CHUNK_FLOWS", 50)
    garden, given, number = Harvest(analysis=False, helped=helped), [], 1
    for turn in range(40):
        count = turn % 7 + 1
        fill(garden, number, count)
        garden.take_gone(count)
        number += count
        if help_every is not None and turn % help_every == 0:
            garden.help()
        if turn % drain_every == drain_every - 1:
            assert garden.undrained > 0
            given += garden.drain()["number"].tolist()
            assert garden.undrained == 0
    given += garden.drain()["number"].tolist()
    assert given == list(range(1, number))
    assert garden.causes.sum() == number - 1
    assert garden.causes[EndCause.EVICTED] == len([one for one in range(1, number) if one % 3 == 0])


def test_where_nobody_helps_there_is_one_buffer_and_its_rows_are_made_at_once() -> None:
    garden = Harvest(analysis=False)
    before = garden.gone
    fill(garden, 1, 5)
    assert garden.take_gone(5)["number"].tolist() == [1, 2, 3, 4, 5]
    assert garden.gone is before


def test_where_somebody_helps_the_kernels_get_another_buffer_until_all_wait() -> None:
    garden, seen = Harvest(analysis=False, helped=True), []
    places = []
    for turn in range(harvest._BUFFERS):
        seen.append(garden.gone)
        fill(garden, 1 + turn, 1)
        places.append(garden.take_gone(1))
    assert len({id(one) for one in seen}) == harvest._BUFFERS
    assert garden.gone is seen[-1], "none is free: the last was emptied at once"
    assert [int(place["number"][0]) for place in places] == [0] * (harvest._BUFFERS - 1) + [harvest._BUFFERS]
    garden.help()
    assert [int(place["number"][0]) for place in places] == list(range(1, harvest._BUFFERS + 1))


def test_the_end_of_input_comes_behind_what_waits() -> None:
    garden = Harvest(analysis=False, helped=True)
    fill(garden, 1, 2)
    garden.take_gone(2)
    live = Harvest(analysis=False)
    fill(live, 10, 3)
    order = np.array([2, 0, 1], np.uint32)
    garden.take_live(live.gone.rows, order, live.gone.deep, EndCause.END_OF_INPUT)
    flows = garden.drain()
    assert flows["number"].tolist() == [1, 2, 12, 10, 11]
    assert (flows["end_cause"][2:] == EndCause.END_OF_INPUT).all()


def test_rows_that_somebody_still_has_are_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest, "_CHUNK_FLOWS", 10)
    garden, kept = Harvest(analysis=False, helped=True), []
    for turn in range(30):
        fill(garden, 1 + 4 * turn, 4)
        garden.take_gone(4)
        kept.append(garden.drain())
    assert [number for flows in kept for number in flows["number"].tolist()] == list(range(1, 121))


def test_used_rows_are_zero_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin set in a row of the chunk is not there when the row has its second life."""
    monkeypatch.setattr(harvest, "_CHUNK_FLOWS", 4)
    garden = Harvest(analysis=False, helped=True)
    for turn in range(12):
        fill(garden, 1 + 3 * turn, 3)
        garden.take_gone(3)
        flows = garden.drain()
        assert not flows["alarm"].any()
        flows["alarm"] = 1
        del flows


def test_two_threads_make_each_row_once() -> None:
    """One thread takes over, the other one helps all the time."""
    garden, over = Harvest(analysis=False, helped=True), threading.Event()

    def helps() -> None:
        while not over.is_set():
            garden.help()

    thread = threading.Thread(target=helps)
    thread.start()
    given, number = [], 1
    try:
        for turn in range(300):
            count = turn % GONE_ROWS + 1 if turn % 10 == 0 else 3
            fill(garden, number, count)
            garden.take_gone(count)
            number += count
            if turn % 7 == 0:
                given += garden.drain()["number"].tolist()
        given += garden.drain()["number"].tolist()
    finally:
        over.set()
        thread.join()
    assert given == list(range(1, number))
    assert garden.causes.sum() == number - 1


def test_a_table_that_is_helped_hands_out_the_same() -> None:
    """A flood against a table of 50 flows, in batches of 100 frames; help comes before every third one."""
    given: list[list[bytes]] = []
    for helped in (False, True):
        table, ended = FlowTable(Options(max_flows=50), seed=1, helped=helped), list[bytes]()
        for turn in range(60):
            frames, packets = np.zeros(100, FRAME), np.zeros(100, PACKET)
            frames["time_ns"] = np.arange(100) + 100 * turn
            packets["ip_version"], packets["protocol"] = 4, UDP
            packets["src_lo"] = 0xFFFF00000000 + np.arange(100) + 100 * turn
            packets["dst_lo"] = 0xFFFF0A000000
            if turn % 3 == 0:
                table.help()
            table.track(frames, packets, 100 * turn + 1)
            if turn % 20 == 0:
                ended.append(table.drain().view(np.uint8).tobytes())
        table.end()
        ended.append(table.drain().view(np.uint8).tobytes())
        given.append(ended)
        assert table.account().flows == 6000
    assert given[0] == given[1]
