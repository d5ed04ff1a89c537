"""Profile `tshark` and the TCP analysis held against tshark 4.0.17, over every pcap and pcapng capture with TCP.

The bars: all TCP frames in the flow of their tshark stream, and each of the 15 flags of the analysis on the same
frames. What differs on purpose stands in `tests/tshark_differences.tsv`, frame by frame with its reason; that list may
name 0.1 % of the frames at most, and apart from it nothing may differ. `pytest -rP` prints the figures.
"""

from __future__ import annotations

import csv
import gzip
import logging
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tshark_oracle import LEFT_OUT, STREAM, Comparison, captures, compare, meant, quoted_segments, recorded_flags

from traceflow.flows import ANALYSIS_FLAGS
from traceflow.pipeline import trace

SHARED = Path(__file__).resolve().parents[3] / "shared"
pytestmark = pytest.mark.skipif(not (SHARED / "oracle" / "tshark").is_dir(), reason="../shared/oracle is absent")

LOG = logging.getLogger(__name__)
ALLOWED = {
    *("FDDI", "ARCnet", "AYIYA", "IPoIB", "CAPWAP", "NFLOG", "IPComp", "L2TP", "802.1ah", "PPI", "decryption"),
}
"""What may keep a capture out of the comparison."""


@pytest.fixture(scope="module")
def total() -> Comparison:
    """All captures but those left out."""
    total, recorded = Comparison(), recorded_flags()
    for name in captures(SHARED):
        if name not in LEFT_OUT:
            compare(SHARED, name, total, recorded)
    return total


def test_left_out_captures(total: Comparison) -> None:
    """Each has a reason that counts, and frames that decode does not see; all in all 1 % of the frames at most."""
    assert set(LEFT_OUT.values()) <= ALLOWED
    frames = 0
    for name in LEFT_OUT:
        alone = Comparison()
        compare(SHARED, name, alone, {})
        assert any(what == STREAM for _, _, what in alone.differences), name
        frames += alone.frames
    LOG.warning(f"{frames} frames left out of {frames + total.frames}")
    assert frames <= 0.01 * total.frames


def test_partition(total: Comparison) -> None:
    listed = set().union(*meant().values())
    different = {difference for difference in total.differences if difference[2] == STREAM}
    LOG.warning(f"{total.frames} TCP frames, {len(different)} in another flow or in none")
    assert total.frames > 150_000
    assert sorted(different - listed) == []


def test_flags(total: Comparison) -> None:
    """Apart from the frames that are listed, no flag differs; 99.5 % of tshark's are ours, those included."""
    LOG.warning(total.table())
    listed = set().union(*meant().values())
    assert sorted(difference for difference in total.differences - listed if difference[2] != STREAM) == []
    assert min(total.theirs[flag] for flag in ANALYSIS_FLAGS) > 10
    missed = {flag: 1 - total.same[flag] / total.theirs[flag] for flag in ANALYSIS_FLAGS}
    below = {flag: (total.same[flag], total.theirs[flag]) for flag in ANALYSIS_FLAGS if missed[flag] > 0.005}
    assert below == {}


def test_the_list_of_differences(total: Comparison) -> None:
    """It is short, and everything in it does differ."""
    listed = set().union(*meant().values())
    LOG.warning(f"{len({(name, frame) for name, frame, _ in listed})} frames differ on purpose")
    assert len({(name, frame) for name, frame, _ in listed}) <= 0.001 * total.frames
    assert sorted(listed - total.differences) == []


def test_icmp_errors_point_at_the_stream_of_the_segment_they_quote() -> None:
    """Eight errors in pcap and pcapng files quote a TCP header; five of them one of a stream that had come before."""
    known, unknown = [], []
    for name in captures(SHARED):
        for frame, quoted, flows in quoted_segments(SHARED, name):
            (known if flows else unknown).append((name, frame, quoted, flows))
    assert [(name, frame) for name, frame, quoted, flows in known if [quoted] != flows] == []
    assert [(name, frame) for name, frame, quoted, _ in unknown if quoted] == []
    assert (len(known), len(unknown)) == (5, 3)


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
    # The oracle is of the whole capture: cut to 96 octets, frame 572254, a stream of its own, lost its ports.
    assert theirs[ours[theirs[:, 0]] == 0].tolist() == [[572_254, 67_453]]
    theirs = theirs[theirs[:, 0] != 572_254]
    pairs = np.unique(np.stack([theirs[:, 1], ours[theirs[:, 0]]]), axis=1)
    flows_of_tcp = int((flows.columns["protocol"] == 6).sum())
    assert flows_of_tcp + 1 == 106_829
    assert [len(np.unique(side)) for side in pairs] == [flows_of_tcp, flows_of_tcp] == 2 * [pairs.shape[1]]
