"""What holds for the flows of any capture, however hostile: the account, the partition, and the range of every column.

Shared by fuzz/fuzz_trace.py and the tests of random segments. `check_flows` raises AssertionError where it does not
hold. What must not stand here: an expectation of one capture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from traceflow.connstates import ConnState
from traceflow.flows import ANALYSIS_FLAGS, NOT_SEEN_NS, EndCause, FlowSet, analysis_column
from traceflow.states import HISTORY_OCTETS

__all__ = ["check_columns", "check_flows"]

_LETTERS = set(b"SHADFRCGTWIQshadfrcgtwiq^+")
"""Zeek's letters for `history` of which states.py has a rule, for both ends; `^`: turned; `+`: there were more."""
_WIDEST = 65535 << 14  # a window of 16 bits, the largest scale of RFC 7323


def check_flows(flows: FlowSet) -> None:
    """Check a whole result."""
    account = flows.account
    assert account.frames == account.in_flows + sum(account.verdicts.values()), "the account does not add up"
    assert account.flows == len(flows) == sum(account.causes.values()), "flows are missing in the account"
    assert flows.columns["number"].tolist() == list(range(1, len(flows) + 1)), "numbers are not 1, 2, 3, ..."
    offsets, numbers = flows.frame_map.lists()
    assert len(numbers) == account.in_flows == len(np.unique(numbers)), "not a partition"
    assert not len(numbers) or 1 <= numbers.min() <= numbers.max() <= account.frames, "a frame that does not exist"
    packets = flows.columns["orig"]["packets"] + flows.columns["resp"]["packets"]
    assert np.array_equal(np.diff(offsets), packets), "frame lists are not as long as flows have packets"
    owners = np.repeat(np.arange(1, len(flows) + 1), np.diff(offsets).astype(np.int64))
    assert np.array_equal(flows.frame_map.packed(numbers) >> np.uint64(1), owners), "map and lists differ"
    opened = []
    for flow in flows:
        frames = flow.frames.tolist()
        assert frames == sorted(frames), "frames do not ascend"
        assert len(flow.frames_from("orig")) == flow.orig.packets, "directions and packets differ"
        assert flow.first_ns <= flow.last_ns, "a flow that ends before it begins"
        # Of the frame that opened it: a fragment that waited for the first of its datagram may stand before that.
        opened.append(min(half.opened_frame for half in (flow.orig, flow.resp) if half.packets))
        assert frames[0] == opened[-1] or account.fragments_late, "not opened by its first frame"
    assert opened == sorted(opened), "not in opening order"
    check_columns(flows)


def check_columns(flows: FlowSet) -> None:
    """Check that every column lies in the range that docs/columns.md gives it."""
    rows = flows.columns
    assert set(rows["conn_state"].tolist()) <= set(ConnState), "conn_state"
    assert set(rows["end_cause"].tolist()) <= set(EndCause), "end_cause"
    for history in rows["history"].tolist():
        assert set(history) <= _LETTERS, f"history {history!r}"
        assert len(history) <= HISTORY_OCTETS, f"history {history!r}"
        assert b"+" not in history[:-1], f"history {history!r}"
    assert np.all((rows["parent"] <= rows["number"]) & (rows["parent"] > 0)), "parent"
    assert np.all((rows["segment"] == 1) == (rows["parent"] == rows["number"])), "segment"
    assert np.all(np.isin(rows["protocol"], 6) >= rows["analysed"].astype(bool)), "analysed, but no TCP"
    for side in ("orig", "resp"):
        half = rows[side]
        assert np.all(half["first_ns"] <= half["last_ns"]), "a direction that ends before it begins"
        assert np.all(half["flags"] <= half["packets"][:, None]), "more flags than packets"
        assert np.all(half["payload_octets"] <= half["ip_octets"]), "more payload than IP octets"
        _check_analysed(half["analysed"], half["packets"])


def _check_analysed(found: npt.NDArray[np.void], packets: npt.NDArray[np.uint64]) -> None:
    """Check what the analysis says of a direction."""
    assert np.all(found["counts"] <= packets[:, None]), "more analysis flags than packets"
    counts = {name: found["counts"][:, bit] for bit, name in enumerate(ANALYSIS_FLAGS)}
    for kind in ("fast_retransmission", "spurious_retransmission"):
        assert np.all(counts[kind] <= counts["retransmission"]), kind
    timed = found["rtt_samples"] > 0
    for bound in ("rtt_min_ns", "rtt_max_ns"):
        assert np.all((found[bound] != NOT_SEEN_NS) == timed), f"{bound} without samples, or samples without it"
    mean = analysis_column(found, "rtt_mean_ns")
    assert np.all(found["rtt_min_ns"][timed] <= mean[timed]), "the mean lies below the shortest round trip"
    assert np.all(mean[timed] <= found["rtt_max_ns"][timed]), "the mean lies above the longest round trip"
    for name, most in (("first_window", 65535), ("first_window_scaled", 65535), ("last_window", 65535),
                       ("last_window_scaled", _WIDEST), ("mss", 65535), ("window_scale", 255),
                       ("sack_permitted", 1), ("timestamps", 1)):  # fmt: skip
        assert np.all((found[name] >= -1) & (found[name] <= most)), name
