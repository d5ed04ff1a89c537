"""How a live flow lies in memory: LIVE rows, and how rows are moved.

A packet touches as few cache lines as possible, because with many live flows each of them is a trip to memory: the
first line of a row holds the key and the timeout, the second and third what most packets of the lower and of the upper
end change (HOT); two more the rest of each end (REST), touched when a direction opens, and by segments with rare flags;
then three the state of a connection (SIDE of states.py for each end, and the history), touched by segments that may
change it. What else there is lies in the ninth. Rows begin on a cache line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, outline_kernel, prefetch
from traceflow.states import HISTORY_OCTETS, SIDE

__all__ = [
    "BEHIND_STATE",
    "HOT",
    "LAST_LINE",
    "LIVE",
    "REST",
    "STATE_OCTETS",
    "as_octets",
    "cache_line_rows",
    "clear_words",
    "copy_words",
    "fetch_row",
    "join_rows",
    "live_rows",
]

STATE_OCTETS, BEHIND_STATE = 320, 512
"""Of a row: the lines with the state of a connection."""
LAST_LINE = 512
"""Of a row: the line with `wake_ns` and `kept`."""
_LINE = 64  # octets of a cache line on x86-64 and most ARM; on others rows are merely aligned well

HOT = np.dtype(
    [
        ("packets", "u8"),
        ("wire_octets", "u8"),
        ("ip_octets", "u8"),
        ("payload_octets", "u8"),
        ("last_ns", "i8"),
        ("psh", "u8"),  # segments with PSH, the one flag besides ACK that is common
        ("base_seq", "u4"),
        ("bits", "u1"),  # state of tcp.py
        ("time_bits", "u1"),
        ("smooth", "u1"),  # state of states.py, with last_seq and timing
        ("timing", "u1"),  # which timeout holds for the flow, the same in both halves
        ("last_seq", "u4"),  # behind the last octet sent
        ("payload_packets", "u4"),
    ],
    align=True,
)
"""What most packets of a direction change; columns as in HALF."""

REST = np.dtype(
    [
        ("first_ns", "i8"),
        ("opened_ns", "i8"),
        ("opened_frame", "u8"),
        # As in HALF, but at most MOST_COUNTED; ACK counts the segments without it, PSH (which stands in HOT) goes on
        # with those behind MOST_COUNTED.
        ("flags", "u4", (8,)),
    ],
    align=True,
)
"""What few packets of a direction change."""

LIVE = np.dtype(
    {
        "names": [
            *("low_hi", "low_lo", "high_hi", "high_lo", "low_port", "high_port", "protocol", "ip_version"),
            *("upper_originates", "closed_by", "hashed", "rank", "due_ns", "number"),
            *("low", "high", "low_rest", "low_retransmissions", "high_rest", "high_retransmissions"),
            *("low_side", "high_side", "history", "turned", "cause", "partial", "letters", "segment", "parent"),
            *("tag", "cut_ns", "icmp_errors", "wake_ns", "kept", "next_free"),
        ],
        "formats": [
            *("u8", "u8", "u8", "u8", "u2", "u2", "u1", "u1"),
            *("u1", "u1", "u4", "u4", "i8", "u8"),
            *(HOT, HOT, REST, "u8", REST, "u8"),
            *(SIDE, SIDE, f"{HISTORY_OCTETS}u1", "u1", "u1", "u1", "u1", "u4", "u8"),
            *("u8", "i8", "u8", "i8", "u8", "u4"),
        ],
        "offsets": [
            *(0, 8, 16, 24, 32, 34, 36, 37),
            *(38, 39, 40, 44, 48, 56),
            *(64, 128, 192, 248, 256, 312),
            *(320, 384, 448, 496, 497, 498, 499, 500, 504),
            *(512, 520, 528, 536, 544, 552),
        ],
        "itemsize": 576,
        "aligned": True,
    }
)
"""A live flow.

- `low`, `high`: the lower and the upper end of the key; where the key keeps its direction, source and destination.
- `hashed`: hash of the key.
- `due_ns`: when the flow ends if no frame comes.
- `rank`, `wake_ns`, `kept`: of timeouts.py: the order of the flow among all, when it wakes, where its entry was last.
- `next_free`: in a row that was freed, the next such row plus one.
- `closed_by`: 0, or the EndCause FIN or RST of a flow that is closing.
- `upper_originates`: 1 where the originator is the upper end; `turned`: 1 where that was found out later.
- `cause`: what ended a flow, an EndCause; `closed_by` outranks it.
- `partial`: 1 where the flow was met in mid-connection.
- `letters`: how many letters `history` holds.
- `segment`: as in FLOW; `parent` as well, but it holds nothing where `segment` is 1.
- `tag`: what carried the first packet, see `tag_of` of keys.py.
- `cut_ns`: when the active timeout is over; nothing without one.
- `icmp_errors`: ICMP errors that quoted a packet of the flow while it lived.
- `low_retransmissions`, `high_retransmissions`: segments of each end that repeat what was seen, see states.py.
"""


def cache_line_rows(count: int, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """row[count], all zero, the first at the start of a cache line."""
    octets = np.zeros(count * row.itemsize + _LINE, np.uint8)
    start = -octets.ctypes.data % _LINE
    return octets[start : start + count * row.itemsize].view(row)


def as_octets(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The same rows without their columns: NumPy copies such a row at once, and one with columns part by part."""
    return rows.view(np.dtype((np.void, rows.dtype.itemsize)))


def join_rows(parts: list[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """One array of all rows, as np.concatenate makes it, but in a tenth of the time."""
    return np.concatenate([as_octets(part) for part in parts]).view(parts[0].dtype)


def live_rows(count: int) -> npt.NDArray[np.void]:
    """LIVE[count], all zero, the first row at the start of a cache line."""
    return cache_line_rows(count, LIVE)


@outline_kernel
def copy_words(source: Any, start: Any, target: Any, at: Any, count: Any) -> Any:
    """Copy `count` words. A row that is assigned whole is loaded and stored octet by octet, in code as long as that."""
    for i in range(count):
        target[at + U64(i)] = source[start + U64(i)]


@outline_kernel
def clear_words(target: Any, at: Any, count: Any) -> Any:
    """Set `count` words to zero."""
    for i in range(count):
        target[at + U64(i)] = U64(0)


@inline_kernel
def fetch_row(rows: Any, row: Any, first: Any, behind: Any) -> Any:
    """Have the processor fetch the octets from `first` up to `behind` of a row."""
    for octets in range(first, behind, U64(_LINE)):
        prefetch(rows, row, U64(octets))
