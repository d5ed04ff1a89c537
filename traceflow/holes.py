"""What of a direction's octets has not been seen: the next octet expected, and islands of data that lie behind holes.

A bounded memory of a TCP direction: the columns `next_seq`, `islands` and `island_count` of SIDE (`states.py`), handed
in as a row. Nothing here knows states or flows. Numbers are those of the segments, modulo 2**32.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.tcp import lies_after

__all__ = ["ISLANDS", "has_seen", "land", "receive"]

ISLANDS = 2
"""Islands that are kept of a direction; later ones join the last."""


@inline_kernel
def land(side: Any) -> Any:
    """Take up the islands that `next_seq` has reached."""
    islands = side["islands"]
    while side["island_count"] and not lies_after(islands[U64(0)], side["next_seq"]):
        if lies_after(islands[U64(1)], side["next_seq"]):
            side["next_seq"] = islands[U64(1)]
        islands[U64(0)] = islands[U64(2)]
        islands[U64(1)] = islands[U64(3)]
        side["island_count"] -= U64(1)


@inline_kernel
def has_seen(side: Any, first: Any, behind: Any) -> Any:
    """Whether all numbers from `first` up to `behind` were seen, or missed for good."""
    if not lies_after(behind, side["next_seq"]):
        return True
    islands = side["islands"]
    for at in range(U64(0), U64(side["island_count"]) << U64(1), U64(2)):
        if not lies_after(islands[at], first) and not lies_after(behind, islands[at + U64(1)]):
            return True
    return False


@outline_kernel
def receive(side: Any, first: Any, behind: Any) -> Any:
    """Note data of a side: in order it moves `next_seq`, behind a hole it is an island.

    Two islands are kept; what lies between a second one and later data counts as seen.
    """
    if not lies_after(behind, side["next_seq"]):
        return
    if not lies_after(first, side["next_seq"]):
        side["next_seq"] = behind
        land(side)
        return
    islands = side["islands"]
    if side["island_count"] == 0:
        islands[U64(0)], islands[U64(1)] = first, behind
        side["island_count"] = 1
    elif not lies_after(first, islands[U64(1)]) and not lies_after(islands[U64(0)], behind):  # touches the first
        if lies_after(islands[U64(0)], first):
            islands[U64(0)] = first
        if lies_after(behind, islands[U64(1)]):
            islands[U64(1)] = behind
        if side["island_count"] == U64(2) and not lies_after(islands[U64(2)], islands[U64(1)]):
            if lies_after(islands[U64(3)], islands[U64(1)]):
                islands[U64(1)] = islands[U64(3)]
            side["island_count"] = 1
    elif side["island_count"] == 1:
        if lies_after(islands[U64(0)], behind):
            islands[U64(2)], islands[U64(3)] = islands[U64(0)], islands[U64(1)]
            islands[U64(0)], islands[U64(1)] = first, behind
        else:
            islands[U64(2)], islands[U64(3)] = first, behind
        side["island_count"] = 2
    else:
        if lies_after(islands[U64(2)], first):
            islands[U64(2)] = first
        if lies_after(behind, islands[U64(3)]):
            islands[U64(3)] = behind
