"""What the TCP analysis found, from ANALYSIS rows into FLOW rows of flows that ended. What is not known stays unknown.

Nothing here looks at a segment: that is `analysis.py`.
"""

from __future__ import annotations

from typing import Any

from traceflow.analysis import COUNTED, FIRST_IS_SYN, HAS_RTT, SENT_SYN, SHIFT_UNKNOWN, SPOKE, add_ns, shift_of
from traceflow.compiled import U64, outline_kernel
from traceflow.flows import ANALYSIS_FLAGS, NOT_SEEN_NS
from traceflow.packets import MSS_OPTION, SACK_PERMITTED_OPTION, TIMESTAMPS_OPTION, WINDOW_SCALE_OPTION

__all__ = ["forget_analysed", "write_analysed"]


@outline_kernel
def forget_analysed(out: Any) -> Any:
    """Set the columns of an ANALYSED row, otherwise zero, to "not known"."""
    out["rtt_min_ns"] = NOT_SEEN_NS
    out["rtt_max_ns"] = NOT_SEEN_NS
    out["first_window"] = -1
    out["first_window_scaled"] = -1
    out["last_window"] = -1
    out["last_window_scaled"] = -1
    out["mss"] = -1
    out["window_scale"] = -1
    out["sack_permitted"] = -1
    out["timestamps"] = -1


@outline_kernel
def _write_windows(side: Any, out: Any) -> Any:
    """Enter the windows of a direction that spoke."""
    bits = U64(side["bits"])
    out["first_window"] = side["first_window"]
    out["last_window"] = side["window"]
    if bits & U64(FIRST_IS_SYN):
        out["first_window_scaled"] = side["first_window"]
    if U64(side["shift"]) != U64(SHIFT_UNKNOWN):
        out["last_window_scaled"] = U64(side["window"]) << shift_of(side)


@outline_kernel
def _write_round_trips(side: Any, timings: Any, out: Any) -> Any:
    """Enter the round trips of a direction that has some: those of all its TIMINGs in use."""
    used = U64(side["timed"])
    for at in range(len(timings)):
        if (used >> U64(at)) & U64(1):
            out["rtt_samples"] += timings[U64(at)]["rtt_samples"]
            out["rtt_sum_ns"] = add_ns(out["rtt_sum_ns"], timings[U64(at)]["rtt_sum_ns"])
    out["rtt_min_ns"] = side["rtt_min_ns"]
    out["rtt_max_ns"] = side["rtt_max_ns"]


@outline_kernel
def _write_options(side: Any, out: Any) -> Any:
    """Enter the options of the SYNs of a direction."""
    options = U64(side["options"])
    if options & U64(MSS_OPTION):
        out["mss"] = side["mss"]
    if options & U64(WINDOW_SCALE_OPTION):
        out["window_scale"] = side["window_scale"]
    if U64(side["bits"]) & U64(SENT_SYN):
        out["sack_permitted"] = 1 if options & U64(SACK_PERMITTED_OPTION) else 0
        out["timestamps"] = 1 if options & U64(TIMESTAMPS_OPTION) else 0


@outline_kernel
def _write_side(side: Any, timings: Any, counts: Any, out: Any) -> Any:
    """Enter what was found in a direction into an ANALYSED row that is zero."""
    forget_analysed(out)
    bits = U64(side["bits"])
    if bits & U64(COUNTED):
        target = out["counts"]
        for bit in range(len(ANALYSIS_FLAGS)):
            target[U64(bit)] = counts[U64(bit)]
    if bits & U64(SPOKE):
        _write_windows(side, out)
    if bits & U64(HAS_RTT):
        _write_round_trips(side, timings, out)
    _write_options(side, out)


@outline_kernel
def write_analysed(deep: Any, flow: Any, upper: Any) -> Any:
    """Enter what the analysis found into a FLOW row of a TCP flow that is zero there.

    Args:
        deep: ANALYSIS row of the flow.
        flow: FLOW row; changed.
        upper: Whether the upper end is the originator.
    """
    low, high = (flow["resp"], flow["orig"]) if upper else (flow["orig"], flow["resp"])
    _write_side(deep["low"], deep["low_timing"], deep["low_counts"], low["analysed"])
    _write_side(deep["high"], deep["high_timing"], deep["high_counts"], high["analysed"])
    flow["analysed"] = 1
    flow["syn_to_syn_ack_ns"] = deep["syn_to_syn_ack_ns"]
    flow["syn_ack_to_ack_ns"] = deep["syn_ack_to_ack_ns"]
