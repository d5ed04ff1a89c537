"""Profile `tshark` and the TCP analysis held against tshark's own words, over every capture of the shared corpus."""

from __future__ import annotations

import csv
import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tshark_oracle import FLAGS, Comparison, captures, compare, quoted_segments

from traceflow.packets import Verdict
from traceflow.pipeline import trace

SHARED = Path(__file__).resolve().parents[3] / "shared"
pytestmark = pytest.mark.skipif(not (SHARED / "oracle" / "tshark").is_dir(), reason="../shared/oracle is absent")


def test_all_captures() -> None:
    """Every frame that decode reads is in the flow that tshark gives it; 99.5 % of each flag are the same."""
    total = Comparison()
    for name in captures(SHARED):
        compare(SHARED, name, total)
    assert total.moved == []
    unlike = {
        flag: total.unlike[flag]
        for flag in FLAGS
        if len(total.unlike[flag]) > 0.005 * (total.same[flag] + len(total.unlike[flag]))
    }
    assert unlike == {}


def test_icmp_errors_point_at_the_stream_of_the_segment_they_quote() -> None:
    """Ten errors of the corpus quote a TCP header; five of them one of a stream that had come before."""
    known, unknown = [], []
    for name in captures(SHARED):
        for frame, quoted, flows in quoted_segments(SHARED, name):
            (known if flows else unknown).append((name, frame, quoted, flows))
    assert [(name, frame) for name, frame, quoted, flows in known if [quoted] != flows] == []
    assert [(name, frame) for name, frame, quoted, _ in unknown if quoted] == []
    assert (len(known), len(unknown)) == (5, 5)


def test_the_big_mix(tmp_path: Path) -> None:
    """106,829 TCP flows, none split and none merged."""
    packed = SHARED / "corpus" / "throughput" / "mix-dev-96.pcap.zst"
    if shutil.which("zstd") is None or not packed.exists():
        pytest.skip("zstd or the capture is absent")
    path = tmp_path / "mix.pcap"
    subprocess.run(["zstd", "-q", "-d", str(packed), "-o", str(path)], check=True)
    flows = trace(path, profile="tshark", analysis=False)
    with gzip.open(SHARED / "oracle" / "mix-dev.frames.tsv.gz", "rt") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    theirs = np.array(rows)[:, :2].astype(np.int64)
    offsets, numbers = flows.frame_map.lists()
    ours = np.zeros(flows.account.frames + 1, np.int64)
    ours[numbers.astype(np.int64)] = np.repeat(np.arange(1, len(flows) + 1), np.diff(offsets.astype(np.int64)))
    pairs = np.unique(np.stack([theirs[:, 1], ours[theirs[:, 0]]]), axis=1)
    tcp = int((flows.columns["protocol"] == 6).sum())
    # Frame 572254, a flow of its own, lost its ports when the capture was cut to 96 octets; the oracle is of the whole.
    assert flows.account.verdicts[Verdict.TRUNCATED_PORTS] == 1
    tcp += 1
    assert (tcp, pairs.shape[1]) == (106_829, len(np.unique(theirs[:, 1])))
    assert len(np.unique(pairs[1])) == pairs.shape[1]
