"""Batches and reads of any size give the same results: a sample of the shared corpus, with compiled and plain kernels.

The fixtures are asked the same in test_pipeline.py, the whole corpus (compiled) in corpus/test_corpus.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

CORPUS = SHARED / "corpus"
EVERY, LARGEST_OCTETS = 8, 20_000
"""One small capture in so many: half a minute with plain kernels."""

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is absent")


def sample() -> list[Path]:
    files = sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.stat().st_size <= LARGEST_OCTETS)
    return files[::EVERY]


def traced(path: Path, profile: str, batch_frames: int, read_octets: int) -> FlowSet:
    with open_source(path, batch_frames=batch_frames, read_octets=read_octets) as captures:
        run = Run(captures, options_for(profile))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
        return collector.flows()


@pytest.mark.parametrize("profile", ["default", "zeek"])
def test_sample_of_the_corpus(profile: str) -> None:
    wrong, frames = [], 0
    for path in sample():
        one, two = traced(path, profile, 4096, 1 << 20), traced(path, profile, 1, 512)
        account = one.account
        frames += account.frames
        if account.frames != account.in_flows + sum(account.verdicts.values()) or account.flows != len(one):
            wrong.append(f"{path.relative_to(CORPUS)}: the account does not add up")
        same = (
            np.array_equal(one.columns, two.columns)
            and all(map(np.array_equal, one.frame_map.lists(), two.frame_map.lists()))
            and account == two.account
            and [str(error) for error in one.errors] == [str(error) for error in two.errors]
        )
        if not same:
            wrong.append(f"{path.relative_to(CORPUS)}: other batches, other results")
    assert wrong == []
    assert frames > 3000
