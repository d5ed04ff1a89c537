"""Plugins inside the packet loop: what they keep of each flow, the timeouts they set, and the calls of their hooks.

The rule for timeouts is Tranalyzer2's. Each direction has its own; a flow ends when *both* directions, or the only one
that was seen, have been silent for at least their own timeout since their own last packet, and that is found out before
the next packet is handled. Where no plugin has set a timeout, that of the profile holds, so a plugin that sets none
changes no flow.

Nothing here knows what a plugin is: there are records (uint64 words), a plan that says whose they are, and hooks to
call. The plugins themselves stand in `plugins/`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, call_hook, inline_kernel, outline_kernel, prefetch
from traceflow.timeouts import NEVER_NS

__all__ = [
    "FAILED",
    "NO_PLAN",
    "ON_OPEN",
    "ON_PACKET",
    "PLAN_WORDS",
    "RECORD_AT",
    "SHARED_AT",
    "STEER",
    "STEERED",
    "UNSET_NS",
    "Plan",
    "fetch_records",
    "hand_out",
    "steer_flow",
]

UNSET_NS = -1
"""A timeout that no plugin has set: that of the profile holds. Any negative one means the same."""

STEER = np.dtype(
    [
        ("timeout_ns", "i8"),  # of the direction of this packet; UNSET_NS; what is written here holds from now on
        ("partner_timeout_ns", "i8"),  # of the other direction
        ("now_ns", "i8"),  # packet time
        ("packets", "u8"),  # of this direction, this one included
        ("partner_packets", "u8"),
        ("from_responder", "u1"),  # 1: sent by the responder, as far as known now
        ("alarm", "u1"),  # 1: raised for this flow; stays
        ("end", "u1"),  # write 1: the flow ends right behind this packet
    ],
    align=True,
)
"""What a hook is told, and may change, besides records: the same record for all plugins, one after the other."""

STEERED = np.dtype(
    {
        "names": ["timeout_ns", "seen_ns", "alarm"],
        "formats": [("i8", (2,)), ("i8", (2,)), "u1"],
        "offsets": [0, 16, 32],
        "itemsize": 64,  # a cache line
        "aligned": True,
    }
)
"""What is kept of a live flow: timeout and time of the last packet of the lower and of the upper end."""

# Columns of the plan, one row a plugin: hook of every packet, hook of the first one, where its record begins among the
# words of a direction, where its shared record begins, and which hook failed: its column plus one, 0 for none.
ON_PACKET, ON_OPEN, RECORD_AT, SHARED_AT, FAILED = range(5)
PLAN_WORDS = 5

_ZERO = np.int64(0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Whose hooks are called, in which order, and where their records lie.

    Attributes:
        rows: uint64[p, PLAN_WORDS].
        record_words: Words that all of them keep of a direction.
        shared: uint64 words of their shared records, changed by hooks.
        shots: Whether what they have of a direction is copied after each packet.
        kept: What was compiled. `rows` hold its addresses, so it must live as long as they do.
    """

    rows: npt.NDArray[np.uint64]
    record_words: int
    shared: npt.NDArray[np.uint64]
    shots: bool = False
    kept: tuple[Any, ...] = ()


NO_PLAN = Plan(np.zeros((0, PLAN_WORDS), np.uint64), 0, np.zeros(0, np.uint64))
"""That of a table without plugins."""


@inline_kernel
def fetch_records(hooks: Any, row: Any, size: Any) -> Any:
    """Have the processor fetch what is kept of a flow: the first line of its records is what most plugins need."""
    prefetch(hooks[0], row, U64(0))
    prefetch(hooks[2], row * size * U64(2), U64(0))


@inline_kernel
def _due(seen_ns: Any, timeout_ns: Any) -> Any:
    """`seen_ns + timeout_ns`, NEVER_NS at most."""
    if seen_ns > _ZERO and timeout_ns > NEVER_NS - seen_ns:
        return NEVER_NS
    return seen_ns + timeout_ns


@inline_kernel
def _both_due(flow: Any, steered: Any, profile_ns: Any) -> Any:
    """When both directions that were seen will have been silent for their own timeouts."""
    timeouts, seen = steered["timeout_ns"], steered["seen_ns"]
    low_ns, high_ns = timeouts[U64(0)], timeouts[U64(1)]
    if low_ns == np.int64(UNSET_NS):
        low_ns = profile_ns
    if high_ns == np.int64(UNSET_NS):
        high_ns = profile_ns
    low_due, high_due = _due(seen[U64(0)], low_ns), _due(seen[U64(1)], high_ns)
    if flow["low"]["packets"] == U64(0):
        return high_due
    if flow["high"]["packets"] == U64(0):
        return low_due
    return max(low_due, high_due)


@outline_kernel
def _begin(steered: Any, blocks: Any, at: Any, count: Any) -> Any:
    """Have nothing set and empty records for a flow that opens."""
    steered["alarm"] = 0
    for end in range(2):
        steered["timeout_ns"][U64(end)] = np.int64(UNSET_NS)
        steered["seen_ns"][U64(end)] = _ZERO
    for word in range(count):
        blocks[at + U64(word)] = U64(0)


@outline_kernel
def hand_out(hooks: Any, row: Any, ended: Any, size: Any) -> Any:
    """Copy what was kept of a row to that of the flows that ended."""
    source, target = hooks[0][row], hooks[1][ended]
    target["alarm"] = source["alarm"]
    count = size * U64(2)
    for word in range(count):
        hooks[3][ended * count + U64(word)] = hooks[2][row * count + U64(word)]


@inline_kernel
def _call(
    plan: Any, which: Any, frame: Any, packet: Any, flow: Any, blocks: Any, ends: Any, steer: Any, shared: Any
) -> Any:
    """Call a hook of all plugins, in their order. One that fails is called no more, and the plan says so."""
    for k in range(len(plan)):
        row = U64(k)
        number = U64(plan[row, which])
        if number == U64(0):
            continue
        at = U64(plan[row, U64(RECORD_AT)])
        if call_hook(
            number,
            frame,
            packet,
            flow,
            blocks,
            ends[0] + at,
            ends[1] + at,
            steer,
            shared,
            U64(plan[row, U64(SHARED_AT)]),
        ):
            plan[row, U64(ON_PACKET)] = U64(0)
            plan[row, U64(ON_OPEN)] = U64(0)
            plan[row, U64(FAILED)] = which + U64(1)


@inline_kernel
def steer_flow(state: Any, frame: Any, packet: Any, flow: Any, row: Any, upside: Any, opened: Any, due_ns: Any,
               profile_ns: Any, hooks: Any) -> Any:  # fmt: skip
    """Let the plugins see a packet.

    Args:
        state: STATE.
        frame: FRAME row.
        packet: PACKET row.
        flow: LIVE row.
        row: Its number.
        upside: Whether the upper end sent it.
        opened: Whether it opened the flow.
        due_ns: When the flow is due by the rules of the profile.
        profile_ns: The timeout that holds for it by them.
        hooks: See `track`.

    Returns:
        (when the flow is due, whether it is to end at once).
    """
    all_steered, _, blocks, _, plan, shared, steers, shots = hooks
    steered, steer = all_steered[row], steers[U64(0)]
    size = U64(state["record_words"])
    first = row * size * U64(2)
    if opened:
        _begin(steered, blocks, first, size * U64(2))
    mine, other = (U64(1), U64(0)) if upside else (U64(0), U64(1))
    half, peer = (flow["high"], flow["low"]) if upside else (flow["low"], flow["high"])
    steered["seen_ns"][mine] = state["clock_ns"]
    steer["timeout_ns"] = steered["timeout_ns"][mine]
    steer["partner_timeout_ns"] = steered["timeout_ns"][other]
    steer["now_ns"] = state["clock_ns"]
    steer["packets"] = half["packets"]
    steer["partner_packets"] = peer["packets"]
    steer["from_responder"] = 1 if upside != (flow["upper_originates"] != 0) else 0
    steer["alarm"] = steered["alarm"]
    steer["end"] = 0
    ends = first + mine * size, first + other * size
    if opened:
        _call(plan, U64(ON_OPEN), frame, packet, flow, blocks, ends, steer, shared)
    _call(plan, U64(ON_PACKET), frame, packet, flow, blocks, ends, steer, shared)
    steered["timeout_ns"][mine] = max(steer["timeout_ns"], np.int64(UNSET_NS))
    steered["timeout_ns"][other] = max(steer["partner_timeout_ns"], np.int64(UNSET_NS))
    steered["alarm"] = 1 if steer["alarm"] != 0 else 0
    if state["shots"]:
        at = U64(state["at"] - U64(1)) * size
        for word in range(size):
            shots[at + U64(word)] = blocks[ends[0] + U64(word)]
    unset = steered["timeout_ns"][U64(0)] == np.int64(UNSET_NS) and steered["timeout_ns"][U64(1)] == np.int64(UNSET_NS)
    return due_ns if unset else _both_due(flow, steered, profile_ns), steer["end"] != 0
