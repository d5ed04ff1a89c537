"""A sample of the shared corpus: what templates write is what the renderers write, octet by octet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from traceflow.compiled import COMPILED
from traceflow.decode import decode_batch
from traceflow.errors import TraceflowError
from traceflow.packets import PACKET
from traceflow.sinks.dictdump import render_document
from traceflow.sinks.perflow import frame_blocks
from traceflow.sinks.templates import FIRST, Templates
from traceflow.sources import open_source

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
MOST_OCTETS = 200_000
EVERY = 25 if COMPILED else 400
"""One file in so many. All 1759 files of up to 3 MB were compared once, 435 492 records in three formats."""


@pytest.mark.once("it compares octets, which no version of Python changes")
@pytest.mark.parametrize("fmt", ["json", "plist", "tree"])
def test_captures_of_all_kinds(fmt: str) -> None:
    if not CORPUS.is_dir():
        pytest.skip("../shared/corpus is absent")
    paths = sorted(path for path in CORPUS.rglob("*.*cap*") if path.is_file() and path.stat().st_size < MOST_OCTETS)
    filled = frames = 0
    for path in paths[::EVERY]:
        try:
            with open_source(path) as captures:
                templates = Templates(fmt, captures.interfaces, learn_after=1)
                for batch in captures.batches():
                    if not len(batch.frames):
                        continue
                    rows = batch.octets, batch.frames, decode_batch(batch.octets, batch.frames, np.zeros(4096, PACKET))
                    numbers = np.arange(1, len(batch.frames) + 1)
                    marks = np.zeros(len(numbers), np.uint8)
                    marks[0] = FIRST
                    expected = list(render_document(fmt, frame_blocks(numbers, *rows, captures.interfaces)))[:-1]
                    assert bytes(templates.render(*rows, numbers, marks)[0]) == b"".join(expected), path
                    filled, frames = filled + templates.filled, frames + len(numbers)
                    templates.filled = 0
        except TraceflowError:
            pass  # what comes before a fault counts
    assert frames > 500 or not COMPILED
    assert filled > 0.5 * frames or not COMPILED
