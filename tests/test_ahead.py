"""The room `ahead`: a thread beside makes what is taken, and nobody can tell but by the clock."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from traceflow.ahead import AHEAD, Ahead, batches_ahead
from traceflow.errors import UsageError
from traceflow.options import options_for
from traceflow.packets import Batch
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source


def test_items_come_in_order_and_end() -> None:
    with Ahead(iter(range(1000))) as items:
        assert list(items) == list(range(1000))
        assert list(items) == []


def test_no_more_than_said_are_made_before_one_is_given_back() -> None:
    made: list[int] = []
    held = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == AHEAD - 1:
                held.set()  # the last one that may be made before the first is taken
            yield number

    with Ahead(numbers()) as items:
        assert held.wait(10)
        for number in items:
            assert len(made) <= number + 1 + AHEAD  # those before it, itself, and AHEAD behind it
    assert made == list(range(10))


def test_an_error_comes_behind_what_was_made_before_it() -> None:
    def two_and_an_error() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    with Ahead(two_and_an_error()) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)
        assert list(items) == []


def test_closing_ends_the_thread_and_runs_the_iterator_no_further() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    items = Ahead(endless())
    assert next(items) == 0
    items.close()
    items.close()
    count = len(made)
    assert count <= 1 + AHEAD + 1
    assert not any(thread.name == "traceflow-ahead" for thread in threading.enumerate())
    assert len(made) == count


@pytest.mark.parametrize(("batch_frames", "read_octets"), [(1, 1), (7, 300), (4096, 1 << 20)])
@pytest.mark.parametrize("name", ["http.pcap", "fragments.pcap", "T24.pcap", "T32-many.pcapng"])
def test_a_run_is_the_same_with_and_without(
    name: str, batch_frames: int, read_octets: int, fixtures_folder: Path
) -> None:
    """The octets of each step too: the thread fills other buffers meanwhile."""

    def trace(ahead: int) -> tuple[bytes, list[bytes], list[list[int]]]:
        with open_source(
            fixtures_folder / name, batch_frames=batch_frames, read_octets=read_octets, ahead=ahead
        ) as captures:
            run = Run(captures, options_for("default"))
            collector, octets = FlowCollector(run), []
            for step in run.steps():
                collector.take(step)
                if step.batch is not None:
                    octets += _frames_of(step.batch)
        flows = collector.flows()
        return flows.columns.tobytes(), octets, [flow.frames.tolist() for flow in flows]

    alone, beside = trace(0), trace(AHEAD)
    assert alone == beside
    assert alone[1]


def test_workers() -> None:
    assert batches_ahead(1) == 0
    assert batches_ahead(2) == batches_ahead(64) == AHEAD
    assert batches_ahead(None) in (0, AHEAD)
    with pytest.raises(UsageError, match="workers is 0; it must be at least 1"):
        batches_ahead(0)


def test_a_pipe_is_read_by_the_thread_that_can_be_interrupted(fixtures_folder: Path) -> None:
    with subprocess.Popen(["cat", str(fixtures_folder / "http.pcap")], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        with open_source(cat.stdout, ahead=AHEAD) as captures:
            assert captures.ahead == 0
            assert sum(len(batch.frames) for batch in captures.batches()) == 59


def _frames_of(batch: Batch) -> list[bytes]:
    return [
        batch.octets[start : start + captured].tobytes()
        for start, captured in np.stack([batch.frames["start"], batch.frames["captured"]], 1).tolist()
    ]


@pytest.mark.parametrize("damage", ["", "a length that cannot be"])
def test_a_batch_stays_as_it_is_while_the_next_captures_are_begun(
    fixtures_folder: Path, tmp_path: Path, damage: str
) -> None:
    # The end of a capture is found by a walk that fills no rows, and damage without a further read. Neither may cost
    # one of the AHEAD + 1 batches that exist at once its place.
    paths = []
    for number, name in enumerate(("T01.pcap", "T02.pcap", "T03.pcap", "T04.pcap")):
        paths.append(tmp_path / f"{number}.pcap")
        paths[-1].write_bytes((fixtures_folder / name).read_bytes() + (b"\xff" * 16 if damage else b""))

    def shown(batch: Batch) -> tuple[bytes, list[bytes]]:
        spans = zip(batch.frames["start"].tolist(), batch.frames["captured"].tolist(), strict=True)
        return batch.frames.tobytes(), [batch.octets[start : start + size].tobytes() for start, size in spans]

    with open_source(*paths, batch_frames=3, ahead=AHEAD) as captures:
        held: list[tuple[Batch, tuple[bytes, list[bytes]]]] = []
        for batch in captures.batches():
            held = [*held[-AHEAD:], (batch, shown(batch))]
            assert [shown(kept) for kept, _ in held] == [before for _, before in held]
    assert captures.opened == len(paths)
