"""`tcpdump -r FILE EXPR` lets the same frames through as our filters, over the captures of the shared corpus.

A sample: every 41st capture, and of the expressions those at even and at odd places in turn. With TRACEFLOW_TCPDUMP=all
in the environment all of both, 1800 captures times 75 expressions, which takes half an hour on one core. Nothing may
differ that DIFFERENCES does not explain.

Left out before anything is compared: what only one of the two reads, and octets of a frame behind the longest that its
file announces, which libpcap drops (22 captures, made to break programs). `-f` looks at those too, as decode does.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from tcpdump_oracle import EXPRESSIONS, Found, captures, compare

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
pytestmark = [
    pytest.mark.once("it starts tcpdump thousands of times"),
    pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/corpus is absent"),
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed"),
]

LOG = logging.getLogger(__name__)
EVERY = 1 if os.environ.get("TRACEFLOW_TCPDUMP") == "all" else 41

DIFFERENCES: dict[str, str] = {}
"""Captures in which something differs, with the reason."""


def test_the_same_frames() -> None:
    found = Found()
    for at, path in enumerate(captures(CORPUS)[::EVERY]):
        some = EXPRESSIONS if EVERY == 1 else EXPRESSIONS[at % 2 :: 2]
        compare(path, str(path.relative_to(CORPUS)), found, some)
    LOG.warning(
        f"{found.captures} captures, {found.comparisons} comparisons, {found.refused} refused by both, "
        f"{found.frames} frames judged, {found.kept} let through, {len(found.differences)} differences"
    )
    assert [difference for difference in found.differences if difference[0] not in DIFFERENCES] == []
    assert found.captures > 1600 // EVERY
    assert found.kept > 1000
