"""The active timeout: when a flow is cut, and what its next segment has from the one before (flow-rules 3).

A flow is cut at a packet, never by silence: what is silent ends by its idle timeout. Segments of one conversation have
one `parent`, the number of the first, and count from 1; a flow that was never cut is the first and only segment.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.timeouts import NEVER_NS

__all__ = ["begin_segment", "continue_segment", "is_cut", "parent_of"]


@inline_kernel
def begin_segment(state: Any, flow: Any) -> Any:
    """Make a flow that opens a first segment."""
    flow["segment"] = 1
    if state["active_ns"] != NEVER_NS:
        flow["cut_ns"] = state["clock_ns"] + state["active_ns"]


@inline_kernel
def parent_of(flow: Any) -> Any:
    """Number of the first segment of a flow."""
    return U64(flow["number"]) if flow["segment"] == U64(1) else U64(flow["parent"])


@outline_kernel
def continue_segment(flow: Any, parent: Any, before: Any, upper_originates: Any) -> Any:
    """Make a flow that opens the segment behind segment `before`, with its parent and direction."""
    flow["parent"] = parent
    flow["segment"] = before + U64(1)
    flow["upper_originates"] = upper_originates
    flow["letters"] = 0  # without the `^` that its own opening may have written
    flow["history"][U64(0)] = 0


@inline_kernel
def is_cut(state: Any, flow: Any) -> Any:
    """Whether a flow is as old as the active timeout, if there is one."""
    return state["active_ns"] != NEVER_NS and state["clock_ns"] >= flow["cut_ns"]
