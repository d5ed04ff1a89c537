"""Entries of the index that are made on the way are those that are made in the end, in the same order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traceflow
from traceflow.flows import FlowSet
from traceflow.packets import FRAME
from traceflow.sinks import indexspool
from traceflow.sinks.catalog import Output, entries, outputs
from traceflow.sinks.indexspool import IndexSpool
from traceflow.sinks.perflow import ENTRY_SEPARATOR, layout_of

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(name="files")
def _files() -> tuple[FlowSet, list[Output]]:
    flows = traceflow.trace(FIXTURES / "http.pcap")
    rows = np.zeros(flows.account.frames, FRAME)
    made = list(outputs(flows, layout_of("json", "direction"), rows))
    assert len(made) > 4
    return flows, made


def joined(pieces: Any) -> bytes:
    """Pieces as the index has them."""
    return ENTRY_SEPARATOR.join(pieces)


@pytest.mark.parametrize("at_once", [1, 3, 4096])
@pytest.mark.parametrize("steps", [[], [0], [2], [0, 1, 1, 4], [99]])
def test_entries_come_in_the_order_of_the_files(
    files: tuple[FlowSet, list[Output]],
    steps: list[int],
    at_once: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flows, written = files
    monkeypatch.setattr(indexspool, "_ENTRIES", at_once)
    spool = IndexSpool(tmp_path, flows)
    for step in steps:
        spool.add(written[:step])
    assert joined(spool.pieces(written)) == joined(entries(flows, written))
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("buffer", [0, 1 << 20])
def test_a_full_disk_has_all_made_in_the_end(
    buffer: int, files: tuple[FlowSet, list[Output]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that is found out when entries are made, or when they are read again."""
    flows, written = files
    full = Path("/dev/full").open("r+b", buffer)  # noqa: SIM115 - the spool closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    spool = IndexSpool(tmp_path, flows)
    spool.add(written[:3])
    spool.add(written[:4])
    assert joined(spool.pieces(written)) == joined(entries(flows, written))


def test_a_folder_that_takes_no_temporary_file(files: tuple[FlowSet, list[Output]], tmp_path: Path) -> None:
    flows, written = files
    spool = IndexSpool(tmp_path / "none", flows)
    spool.add(written[:3])
    assert joined(spool.pieces(written)) == joined(entries(flows, written))


def test_what_is_closed_forgets(files: tuple[FlowSet, list[Output]], tmp_path: Path) -> None:
    """The room on the disk is needed: what was put away is made again."""
    flows, written = files
    spool = IndexSpool(tmp_path, flows)
    spool.add(written[:3])
    spool.close()
    assert joined(spool.pieces(written[:2])) == joined(entries(flows, written[:2]))
