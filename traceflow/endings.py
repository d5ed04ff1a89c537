"""FLOW rows of the flows that ended: from a lower and an upper end to an originator and a responder.

Rows of LIVE and ANALYSIS in, rows of FLOW out, in the same order; nothing else happens to a flow here. It is a kernel,
because NumPy, which goes through such rows column by column, takes a microsecond a flow and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.analysis import ANALYSIS
from traceflow.compiled import U64, kernel, outline_kernel
from traceflow.connstates import conn_state
from traceflow.cuts import parent_of
from traceflow.findings import forget_analysed, write_analysed
from traceflow.flows import FLOW, NOT_SEEN_NS, REASON_OF_CAUSE, EndCause
from traceflow.live import HOT, LIVE, REST, copy_words, fetch_row
from traceflow.states import HISTORY_OCTETS

__all__ = ["assemble_flows"]


def assemble_flows(
    ended: npt.NDArray[np.void],
    rows: npt.NDArray[np.uint32],
    deep: npt.NDArray[np.void],
    flows: npt.NDArray[np.void],
    *,
    analysis: bool,
    cause: EndCause | None = None,
) -> None:
    """Write FLOW rows of rows that ended.

    Args:
        ended: LIVE[n].
        rows: uint32[k], which of them, in order.
        deep: ANALYSIS[n] of the same flows, those of TCP filled; anything where `analysis` is False.
        flows: FLOW[k], zero; filled.
        analysis: Whether segments were analysed.
        cause: What ended them; None: what their rows say. What closed a flow outranks it.
    """
    words, flow_words = ended.view(np.uint64), flows.view(np.uint64)
    _assemble(ended, words, rows, deep, flows, flow_words, REASON_OF_CAUSE, analysis, U64(cause or 0))


@outline_kernel
def _copy_end(words: Any, start: Any, end: Any, flow_words: Any, at: Any) -> Any:
    """Copy HOT and the times of REST of an end (0: lower, 1: upper) into a HALF."""
    copy_words(words, start + (_HIGH_WORD if end else _LOW_WORD), flow_words, at, _HOT_WORDS)
    rest = start + (_HIGH_REST_WORD if end else _LOW_REST_WORD)
    copy_words(words, rest, flow_words, at + _HOT_WORDS, _TIME_WORDS)


@outline_kernel
def _finish_half(half: Any, hot: Any, rest: Any, tcp: Any) -> Any:
    """Count flags: PSH stands in HOT, and ACK is counted the other way round."""
    flags, counted = half["flags"], rest["flags"]
    for bit in range(8):
        flags[U64(bit)] = counted[U64(bit)]
    flags[U64(3)] = hot["psh"]
    lacking = U64(counted[U64(4)]) + U64(counted[U64(3)])
    flags[U64(4)] = hot["packets"] - lacking if tcp else U64(0)


@outline_kernel
def _untag(tag: Any, flow: Any) -> Any:
    """Write what carried the first packet: the parts of `tag_of`."""
    flow["tunnel"] = tag >> U64(60)
    flow["vlan_outer"] = (tag >> U64(48)) & U64(0xFFF)
    flow["vlan_inner"] = (tag >> U64(32)) & U64(0xFFF)
    flow["tunnel_id"] = tag & U64(0xFFFFFFFF)


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
def _assemble(
    ended: Any, words: Any, rows: Any, deep: Any, flows: Any, flow_words: Any, reasons: Any, analysis: Any, cause: Any
) -> Any:
    """See `assemble_flows`.

    Args:
        ended: LIVE[n].
        words: The same as uint64[n * _LIVE_WORDS].
        rows: uint32[k].
        deep: ANALYSIS[n]; ANALYSIS[0] without analysis.
        flows: FLOW[k], filled.
        flow_words: The same as uint64[k * _FLOW_WORDS].
        reasons: uint8[m], EndReason by EndCause.
        analysis: Whether segments were analysed.
        cause: EndCause; 0: what the rows say.
    """
    for i in range(len(rows)):
        if U64(i) + _AHEAD < U64(len(rows)):
            fetch_row(ended, U64(rows[U64(i) + _AHEAD]), U64(0), _LIVE_OCTETS)
            if analysis:
                fetch_row(deep, U64(rows[U64(i) + _AHEAD]), U64(0), _DEEP_OCTETS)
        number = U64(rows[U64(i)])
        row = ended[number]
        flow = flows[U64(i)]
        tcp = row["protocol"] == _TCP
        upper = row["upper_originates"] != 0
        start, at = number * _LIVE_WORDS, U64(i) * _FLOW_WORDS
        flow["number"] = row["number"]
        flow["protocol"] = row["protocol"]
        flow["ip_version"] = row["ip_version"]
        flow["turned"] = row["turned"]
        flow["partial"] = row["partial"]
        flow["icmp_errors"] = row["icmp_errors"]
        flow["upper_originates"] = row["upper_originates"]
        why = U64(row["closed_by"])
        if why == U64(0):
            why = cause if cause != U64(0) else U64(row["cause"])
        flow["end_cause"] = why
        flow["end_reason"] = reasons[why]
        flow["conn_state"] = conn_state(row)
        flow["segment"] = row["segment"]
        flow["parent"] = parent_of(row)
        _untag(U64(row["tag"]), flow)
        copy_words(words, start + _HISTORY_WORD, flow_words, at + _FLOW_HISTORY_WORD, _HISTORY_WORDS)
        address, far = (U64(2), U64(0)) if upper else (U64(0), U64(2))
        copy_words(words, start + address, flow_words, at + _ORIG_ADDR_WORD, U64(2))
        copy_words(words, start + far, flow_words, at + _RESP_ADDR_WORD, U64(2))
        flow["orig_port"] = row["high_port"] if upper else row["low_port"]
        flow["resp_port"] = row["low_port"] if upper else row["high_port"]
        _copy_end(words, start, upper, flow_words, at + _ORIG_WORD)
        _copy_end(words, start, not upper, flow_words, at + _RESP_WORD)
        low_rest, high_rest = row["low_rest"], row["high_rest"]
        _finish_half(flow["orig"], row["high"] if upper else row["low"], high_rest if upper else low_rest, tcp)
        _finish_half(flow["resp"], row["low"] if upper else row["high"], low_rest if upper else high_rest, tcp)
        low, high = row["low_retransmissions"], row["high_retransmissions"]
        flow["orig"]["retransmitted_segments"] = high if upper else low
        flow["resp"]["retransmitted_segments"] = low if upper else high
        _write_times(flow, flow["orig"], flow["resp"])
        if analysis and tcp:
            write_analysed(deep[number], flow, upper)
        else:
            _write_unknown(flow)


@outline_kernel
def _write_unknown(flow: Any) -> Any:
    """Say of a flow that was not analysed that nothing is known."""
    flow["syn_to_syn_ack_ns"] = NOT_SEEN_NS
    flow["syn_ack_to_ack_ns"] = NOT_SEEN_NS
    forget_analysed(flow["orig"]["analysed"])
    forget_analysed(flow["resp"]["analysed"])


def _word(row: np.dtype[np.void], name: str) -> np.uint64:
    """Where a column begins in a row, in words of eight octets."""
    assert row.fields is not None
    offset = row.fields[name][1]
    assert offset % 8 == 0
    return U64(offset // 8)


_TCP = 6
_AHEAD = U64(3)  # rows lie anywhere in memory, where all live flows end; a row takes about 100 ns
_LIVE_OCTETS, _DEEP_OCTETS = U64(LIVE.itemsize), U64(ANALYSIS.itemsize)
_LIVE_WORDS, _FLOW_WORDS = U64(LIVE.itemsize // 8), U64(FLOW.itemsize // 8)
_HOT_WORDS, _TIME_WORDS, _HISTORY_WORDS = U64(HOT.itemsize // 8), _word(REST, "flags"), U64(HISTORY_OCTETS // 8)
_LOW_WORD, _HIGH_WORD = _word(LIVE, "low"), _word(LIVE, "high")
_LOW_REST_WORD, _HIGH_REST_WORD = _word(LIVE, "low_rest"), _word(LIVE, "high_rest")
_HISTORY_WORD, _FLOW_HISTORY_WORD = _word(LIVE, "history"), _word(FLOW, "history")
_ORIG_ADDR_WORD, _RESP_ADDR_WORD = _word(FLOW, "orig_addr"), _word(FLOW, "resp_addr")
_ORIG_WORD, _RESP_WORD = _word(FLOW, "orig"), _word(FLOW, "resp")
