"""The store of index entries: what goes in comes out by flow number, wherever it stood meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from traceflow.errors import CannotWriteError
from traceflow.sinks.entrystore import EntryStore


def entry(flow: int) -> bytes:
    return b"%d:" % flow + bytes(flow % 2000)


@pytest.mark.parametrize("count", [0, 1, 1000])  # 1000 entries are 1 MB, of which 256 KiB at a time go to the disk
def test_entries_come_in_the_order_of_flows(count: int, tmp_path: Path) -> None:
    flows = random.Random(1).sample(range(1, 10 * count + 1), count)
    store = EntryStore(tmp_path)
    for flow in flows:
        store.add(flow, entry(flow))
    assert list(tmp_path.iterdir()) == []  # the file has no name
    for _ in range(2):
        assert list(store.in_order()) == [entry(flow) for flow in sorted(flows)]
    assert (store._size > 0) == (count == 1000)
    assert store.into_memory() == [entry(flow) for flow in sorted(flows)]
    assert store.lost == 0


def test_entries_that_do_not_fit_on_the_disk_wait_in_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits stand for a full disk")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = EntryStore(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        for flow in range(500, 0, -1):  # half a megabyte: the first 256 KiB fit
            store.add(flow, bytes([flow & 255]) * 1000)
        assert 0 < store._size <= 300_000
        assert len(store._held) > 200_000
        assert list(store.in_order()) == [bytes([flow & 255]) * 1000 for flow in range(1, 501)]
        for flow in range(501, 545):  # a megabyte each: 32 MiB may wait
            store.add(flow, bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # 0.2 MB and 32 entries of a MiB are more than 32 MiB; what comes behind them is counted.
    assert store.lost == 44 - 32
    assert len(list(store.in_order())) == 532
    assert store.into_memory() is not None
    store.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="cannot write there"):
        EntryStore(tmp_path / "none")
