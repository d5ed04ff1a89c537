"""How a live flow lies in memory: LIVE rows, and how FLOW rows are made of them when flows end.

A packet touches as few cache lines as possible, because with many live flows each of them is a trip to memory: the
first line of a row holds the key and the timeout, the second and third what most packets of the lower and of the upper
end change (HOT); the rest (REST) is touched when a direction opens, and by segments with rare flags; the state of a
connection (SIDE of states.py, and the history) by segments that may change it. Rows begin on a cache line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel, outline_kernel
from traceflow.connstates import conn_state
from traceflow.flows import FLOW, REASON_OF_CAUSE
from traceflow.states import HISTORY_OCTETS, SIDE

__all__ = [
    "LIVE",
    "as_octets",
    "assemble_flows",
    "cache_line_rows",
    "clear_words",
    "copy_words",
    "join_rows",
    "live_rows",
]

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
    ],
    align=True,
)
"""What most packets of a direction change; columns as in HALF."""

REST = np.dtype(
    [
        ("first_ns", "i8"),
        ("opened_ns", "i8"),
        ("opened_frame", "u8"),
        ("flags", "u8", (8,)),  # as in HALF, but ACK counts the segments without it, and PSH stands in HOT
    ],
    align=True,
)
"""What few packets of a direction change."""

LIVE = np.dtype(
    {
        "names": [
            *("low_hi", "low_lo", "high_hi", "high_lo", "low_port", "high_port", "protocol", "ip_version"),
            *("upper_originates", "closed_by", "hashed", "heap_at", "due_ns", "number"),
            *("low", "high", "low_rest", "high_rest", "turned", "cause"),
            *("partial", "letters", "low_side", "high_side", "history"),
        ],
        "formats": [
            *("u8", "u8", "u8", "u8", "u2", "u2", "u1", "u1"),
            *("u1", "u1", "u4", "u4", "i8", "u8"),
            *(HOT, HOT, REST, REST, "u1", "u1"),
            *("u1", "u1", SIDE, SIDE, f"{HISTORY_OCTETS}u1"),
        ],
        "offsets": [
            *(0, 8, 16, 24, 32, 34, 36, 37),
            *(38, 39, 40, 44, 48, 56),
            *(64, 128, 192, 280, 368, 369),
            *(370, 371, 384, 448, 512),
        ],
        "itemsize": 576,
        "aligned": True,
    }
)
"""A live flow.

- `low`, `high`: the lower and the upper end of the key; where the key keeps its direction, source and destination.
- `hashed`: hash of the key.
- `heap_at`: place in the heap of `timeouts.py`; in a free row: the next free row plus one.
- `due_ns`: when the flow ends if no frame comes.
- `closed_by`: 0, or the EndCause FIN or RST of a flow that is closing.
- `upper_originates`: 1 where the originator is the upper end; `turned`: 1 where that was found out later.
- `cause`: EndCause of a flow that ended.
- `partial`: 1 where the flow was met in mid-connection.
- `letters`: how many letters `history` holds.
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


def assemble_flows(gone: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Make FLOW rows of rows that ended: from a lower and an upper end to an originator and a responder.

    Args:
        gone: LIVE[k].

    Returns:
        FLOW[k], in the same order.
    """
    flows = np.zeros(len(gone), FLOW)
    if len(gone):
        _assemble(gone, gone.view(np.uint64), flows, flows.view(np.uint64), REASON_OF_CAUSE)
    return flows


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


@outline_kernel
def _copy_end(words: Any, start: Any, end: Any, flow_words: Any, at: Any) -> Any:
    """Copy HOT and REST of an end (0: lower, 1: upper) into a HALF."""
    copy_words(words, start + (_HIGH_WORD if end else _LOW_WORD), flow_words, at, _HOT_WORDS)
    rest = start + (_HIGH_REST_WORD if end else _LOW_REST_WORD)
    copy_words(words, rest, flow_words, at + _HOT_WORDS, _REST_WORDS)


@outline_kernel
def _finish_half(half: Any, hot: Any, tcp: Any) -> Any:
    """Count PSH, and ACK, which REST counts the other way round."""
    flags = half["flags"]
    flags[U64(3)] = hot["psh"]
    flags[U64(4)] = hot["packets"] - flags[U64(4)] if tcp else U64(0)


@outline_kernel
def _write_times(flow: Any, orig: Any, resp: Any) -> Any:
    """Earliest and latest time of both directions, of which at least one has packets."""
    some = orig if orig["packets"] != U64(0) else resp
    flow["first_ns"] = some["first_ns"]
    flow["last_ns"] = some["last_ns"]
    if orig["packets"] != U64(0) and resp["packets"] != U64(0):
        flow["first_ns"] = min(orig["first_ns"], resp["first_ns"])
        flow["last_ns"] = max(orig["last_ns"], resp["last_ns"])


@kernel
def _assemble(gone: Any, words: Any, flows: Any, flow_words: Any, reasons: Any) -> Any:
    """See `assemble_flows`.

    Args:
        gone: LIVE[k].
        words: The same as uint64[k * _LIVE_WORDS].
        flows: FLOW[k], filled.
        flow_words: The same as uint64[k * _FLOW_WORDS].
        reasons: uint8[n], EndReason by EndCause.
    """
    for i in range(len(gone)):
        row = gone[U64(i)]
        flow = flows[U64(i)]
        tcp = row["protocol"] == _TCP
        upper = row["upper_originates"] != 0
        start, at = U64(i) * _LIVE_WORDS, U64(i) * _FLOW_WORDS
        flow["number"] = row["number"]
        flow["protocol"] = row["protocol"]
        flow["ip_version"] = row["ip_version"]
        flow["turned"] = row["turned"]
        flow["partial"] = row["partial"]
        flow["upper_originates"] = row["upper_originates"]
        flow["end_cause"] = row["cause"]
        flow["end_reason"] = reasons[U64(row["cause"])]
        flow["conn_state"] = conn_state(row)
        copy_words(words, start + _HISTORY_WORD, flow_words, at + _FLOW_HISTORY_WORD, _HISTORY_WORDS)
        address, far = (U64(2), U64(0)) if upper else (U64(0), U64(2))
        copy_words(words, start + address, flow_words, at + _ORIG_ADDR_WORD, U64(2))
        copy_words(words, start + far, flow_words, at + _RESP_ADDR_WORD, U64(2))
        flow["orig_port"] = row["high_port"] if upper else row["low_port"]
        flow["resp_port"] = row["low_port"] if upper else row["high_port"]
        _copy_end(words, start, upper, flow_words, at + _ORIG_WORD)
        _copy_end(words, start, not upper, flow_words, at + _RESP_WORD)
        _finish_half(flow["orig"], row["high"] if upper else row["low"], tcp)
        _finish_half(flow["resp"], row["low"] if upper else row["high"], tcp)
        _write_times(flow, flow["orig"], flow["resp"])


def _word(row: np.dtype[np.void], name: str) -> np.uint64:
    """Where a column begins in a row, in words of eight octets."""
    assert row.fields is not None
    offset = row.fields[name][1]
    assert offset % 8 == 0
    return U64(offset // 8)


_TCP = 6
_LIVE_WORDS, _FLOW_WORDS = U64(LIVE.itemsize // 8), U64(FLOW.itemsize // 8)
_HOT_WORDS, _REST_WORDS, _HISTORY_WORDS = U64(HOT.itemsize // 8), U64(REST.itemsize // 8), U64(HISTORY_OCTETS // 8)
_LOW_WORD, _HIGH_WORD = _word(LIVE, "low"), _word(LIVE, "high")
_LOW_REST_WORD, _HIGH_REST_WORD = _word(LIVE, "low_rest"), _word(LIVE, "high_rest")
_HISTORY_WORD, _FLOW_HISTORY_WORD = _word(LIVE, "history"), _word(FLOW, "history")
_ORIG_ADDR_WORD, _RESP_ADDR_WORD = _word(FLOW, "orig_addr"), _word(FLOW, "resp_addr")
_ORIG_WORD, _RESP_WORD = _word(FLOW, "orig"), _word(FLOW, "resp")
