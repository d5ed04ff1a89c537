"""Frames come back group by group, whatever fits into memory, and the next group is on its way when one is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exchange
import numpy as np
import pytest

import traceflow
from traceflow.errors import CannotReadError
from traceflow.packets import FRAME
from traceflow.sinks import readahead
from traceflow.sinks.catalog import Output, outputs
from traceflow.sinks.perflow import layout_of
from traceflow.sinks.readahead import Group, Loaded, ReadAhead
from traceflow.sources import Captures, open_source

FLOWS, FRAMES = 7, 5


@pytest.fixture(name="given")
def _given(tmp_path: Path) -> Iterator[tuple[Captures, Any, list[Output], bytes]]:
    """Captures, FRAME rows, files, and the capture: flows of 5 frames in turn, each frame with octets of its own."""
    wire = exchange.Wire(step_ns=1000)
    for at in range(FRAMES):
        for flow in range(FLOWS):
            source = f"10.0.0.{flow + 1}"
            payload = bytes([flow, at]) * (10 + flow)
            segment = exchange.udp(source, "10.9.9.9", 1000, 53, payload)
            wire.packet(exchange.ip(source, "10.9.9.9", exchange.UDP, segment))
    path = tmp_path / "a.pcap"
    path.write_bytes(wire.pcap_octets())
    flows = traceflow.trace(path)
    with open_source(path, keep=True) as captures:
        rows = np.concatenate([batch.frames.copy() for batch in captures.batches()])
        yield captures, rows, list(outputs(flows, layout_of("pcap", None), rows)), path.read_bytes()


def check(part: Loaded, numbers: list[int], rows: Any, capture: bytes) -> None:
    """The octets of a part are those of its frames in the file."""
    assert part.numbers.tolist() == numbers
    for number, frame in zip(numbers, part.frames, strict=True):
        start, place, size = int(frame["start"]), int(rows[number - 1]["offset"]), int(frame["captured"])
        assert part.octets[start : start + size].tobytes() == capture[place : place + size]


@pytest.mark.parametrize("most", [1, 3, 5, 12, 1000])
def test_every_frame_comes_back_once_in_the_order_of_the_files(
    most: int, given: tuple[Captures, Any, list[Output], bytes]
) -> None:
    captures, rows, files, capture = given
    reader, seen = ReadAhead(rows, captures, most, outer=False), 0
    for group in reader.groups(iter(files)):
        wanted = [number for one in group.outputs for number in one.numbers.tolist()]
        assert len(wanted) <= most or len(group.outputs) == 1
        assert group.whole == (len(wanted) <= most)
        done = 0
        for part in group.parts:
            assert len(part.numbers) <= most
            check(part, wanted[done : done + len(part.numbers)], rows, capture)
            done += len(part.numbers)
        assert done == len(wanted)
        seen += len(group.outputs)
    assert seen == FLOWS
    reader.close()


def test_groups_hold_so_many_octets(
    given: tuple[Captures, Any, list[Output], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    captures, rows, files, _ = given
    size = files[0].octets
    monkeypatch.setattr(readahead, "GROUP_OCTETS", size)
    reader = ReadAhead(rows, captures, 1000, outer=False)
    groups = list(map(summary, reader.groups(iter(files))))
    assert groups[0] == (1, True, [FRAMES])
    assert [count for count, _, _ in groups] == [1] * FLOWS
    assert all(len(parts) > 1 for one, (_, whole, parts) in zip(files, groups, strict=True) if one.octets > size)
    reader.close()


def summary(group: Group) -> tuple[int, bool, list[int]]:
    """Files of a group, whether it is whole, and frames of its parts."""
    return len(group.outputs), group.whole, [len(part.numbers) for part in group.parts]


class Slow:
    """Captures whose frames are fetched when somebody says so, and from the third call on never."""

    def __init__(self) -> None:
        self.calls, self.begun, self.threads = 0, threading.Semaphore(0), set[int]()

    def reread(self, frames: Any, room: Any = None) -> tuple[Any, Any]:
        """As that of Captures, without octets."""
        self.calls += 1
        self.threads.add(threading.get_ident())
        self.begun.release()
        if self.calls == 3:
            raise CannotReadError("has become shorter")
        return np.zeros(0, np.uint8), frames


def test_the_next_group_is_read_meanwhile_by_one_other_thread(
    given: tuple[Captures, Any, list[Output], bytes],
) -> None:
    _, rows, files, _ = given
    slow: Any = Slow()
    reader = ReadAhead(rows, slow, FRAMES, outer=False)
    groups = reader.groups(iter(files))
    next(groups)  # none of its parts is asked for
    assert slow.begun.acquire(timeout=10)
    assert slow.begun.acquire(timeout=10)
    reader.close()
    assert slow.calls == 2
    assert len(slow.threads) == 1
    assert threading.get_ident() not in slow.threads


def test_what_reading_raises_comes_when_its_frames_are_asked_for(
    given: tuple[Captures, Any, list[Output], bytes],
) -> None:
    """The two groups before the third are good."""
    _, rows, files, _ = given
    slow: Any = Slow()
    reader = ReadAhead(rows, slow, FRAMES, outer=False)
    groups = reader.groups(iter(files))
    assert [summary(next(groups)) for _ in range(2)] == [(1, True, [FRAMES])] * 2
    third = next(groups)
    with pytest.raises(CannotReadError, match="has become shorter"):
        next(third.parts)
    reader.close()


def test_rows_are_let_go_when_it_is_closed(given: tuple[Captures, Any, list[Output], bytes]) -> None:
    captures, _, files, _ = given
    reader = ReadAhead(np.zeros(FLOWS * FRAMES, FRAME), captures, 1000, outer=False)
    next(reader.groups(iter(files)))
    reader.close()
    assert len(reader._rows) == 0
