"""FLOW rows to the fields of `traceflow flows`, column by column.

What a field means stands in docs/columns.md; where it is undefined its cell is None. Nothing here decides about flows
and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.connstates import ConnState
from traceflow.flows import ANALYSIS_COLUMNS, EndCause, FlowSet, analysis_column, undefined_where
from traceflow.packets import FINER_THAN_MICROSECONDS, Tunnel
from traceflow.protocols import protocol_name
from traceflow.sinks.rows_columns import (
    Addresses,
    Block,
    Column,
    Integers,
    Labels,
    Names,
    Ranges,
    Seconds,
    Words,
    by_number,
    plugin_column,
)
from traceflow.sinks.rows_fields import Field
from traceflow.tcp import FLAG_NAMES

__all__ = ["CHUNK_FLOWS", "flow_columns"]

CHUNK_FLOWS = 8192
"""Flows that are rendered at once: enough to spread the cost of a column, few enough to stay in the cache."""

_CAUSES = by_number({cause: cause.text for cause in EndCause})
_TUNNELS = by_number({tunnel: tunnel.text for tunnel in Tunnel if tunnel})
_STATES = by_number({state: state.text for state in ConnState})
_PROTOCOLS = [protocol_name(number) for number in range(256)]


class _Chunk:
    """Some consecutive flows of a set."""

    def __init__(self, flows: FlowSet, start: int, stop: int) -> None:
        self.flows, self.start = flows, start
        self.rows = flows.columns[start:stop]

    def spans_ns(self) -> npt.NDArray[np.uint64]:
        """Durations: unsigned, because the ends of the range of times are 2**63 ns apart."""
        spans: npt.NDArray[np.uint64] = self.rows["last_ns"].astype(np.uint64) - self.rows["first_ns"].astype(np.uint64)
        return spans

    def fine(self) -> npt.NDArray[np.bool_]:
        """Which flows need 9 digits: a clock finer than microseconds took part."""
        bits = self.rows["orig"]["time_bits"] | self.rows["resp"]["time_bits"]
        odd = (self.rows["first_ns"] % 1000 != 0) | (self.rows["last_ns"] % 1000 != 0)
        fine: npt.NDArray[np.bool_] = (bits & FINER_THAN_MICROSECONDS != 0) | odd
        return fine

    def integers(self, name: str, values: npt.NDArray[Any]) -> Integers:
        """A column of numbers, empty where it means nothing."""
        return Integers(values, undefined_where(self.rows, name))


def _ranges(chunk: _Chunk, side: str | None) -> Ranges:
    """Frame numbers of the flows, or of one direction of them, as ranges."""
    offsets, numbers = chunk.flows.frame_map.lists()
    bounds = offsets[chunk.start : chunk.start + len(chunk.rows) + 1].astype(np.int64)
    sizes = np.diff(bounds)
    listed = numbers[int(bounds[0]) : int(bounds[-1])]
    if side is None:
        return Ranges(sizes, listed)
    upper = chunk.flows.frame_map.packed(listed) & np.uint64(1) != 0
    wanted = (chunk.rows["upper_originates"] != 0) == (side == "orig")
    owner = np.repeat(np.arange(len(sizes)), sizes)
    chosen = upper == wanted[owner]
    return Ranges(np.bincount(owner[chosen], minlength=len(sizes)), listed[chosen])


def _half(side: str, part: str) -> Callable[[_Chunk], Column]:
    """How a column of a direction is made."""

    def column(chunk: _Chunk) -> Column:
        half = chunk.rows[side]
        if part in ANALYSIS_COLUMNS:
            values = analysis_column(half["analysed"], part)
        elif part in FLAG_NAMES:
            values = half["flags"][:, FLAG_NAMES.index(part)]
        else:
            values = half[part]
        return chunk.integers(f"{side}_{part}", values)

    return column


def _plain(name: str) -> Callable[[_Chunk], Column]:
    """A column of FLOW as it is."""
    return lambda chunk: chunk.integers(name, chunk.rows[name])


def _sum(part: str) -> Callable[[_Chunk], Column]:
    """A counter summed over both directions."""
    return lambda chunk: Integers(chunk.rows["orig"][part] + chunk.rows["resp"][part])


def _address(side: str) -> Callable[[_Chunk], Column]:
    def column(chunk: _Chunk) -> Column:
        halves = chunk.rows[f"{side}_addr"]
        return Addresses(halves[:, 0], halves[:, 1], chunk.rows["ip_version"])

    return column


def _named(name: str, names: Sequence[str | None]) -> Callable[[_Chunk], Column]:
    """A column of FLOW whose values have names."""
    return lambda chunk: Names(chunk.rows[name], names)


def _plugin_column(name: str) -> Callable[[_Chunk], Column]:
    """A column that a plugin added."""

    def column(chunk: _Chunk) -> Column:
        stop = chunk.start + len(chunk.rows)
        return plugin_column(chunk.flows.plugin_columns[name][chunk.start : stop])

    return column


def _maker(name: str) -> Callable[[_Chunk], Column]:
    """How the column of a field is made."""
    special = _SPECIAL.get(name)
    if special is not None:
        return special
    side, _, part = name.partition("_")
    return _half(side, part) if side in ("orig", "resp") else _plain(name)


_SPECIAL: dict[str, Callable[[_Chunk], Column]] = {
    "flow": _plain("number"),
    "tunnel": _named("tunnel", _TUNNELS),
    "protocol_name": _named("protocol", _PROTOCOLS),
    "orig_addr": _address("orig"),
    "orig_port": _plain("orig_port"),
    "resp_addr": _address("resp"),
    "resp_port": _plain("resp_port"),
    "first": lambda chunk: Seconds(chunk.rows["first_ns"], chunk.fine()),
    "last": lambda chunk: Seconds(chunk.rows["last_ns"], chunk.fine()),
    "duration": lambda chunk: Seconds(chunk.spans_ns(), chunk.fine()),
    "duration_ns": lambda chunk: Integers(chunk.spans_ns()),
    "packets": _sum("packets"),
    "wire_octets": _sum("wire_octets"),
    "ip_octets": _sum("ip_octets"),
    "payload_octets": _sum("payload_octets"),
    "end_cause": _named("end_cause", _CAUSES),
    "conn_state": _named("conn_state", _STATES),
    "history": lambda chunk: Words(chunk.rows["history"]),
    "label": lambda chunk: Labels(chunk.rows),
    "frames": lambda chunk: _ranges(chunk, None),
    "orig_frames": lambda chunk: _ranges(chunk, "orig"),
    "resp_frames": lambda chunk: _ranges(chunk, "resp"),
}


def flow_columns(flows: FlowSet, fields: Sequence[Field]) -> Iterator[Block]:
    """The flows of a set as columns for `rows.py`, in their order there, CHUNK_FLOWS at a time.

    Args:
        flows: The flows; where frame lists are asked for, all of them and in opening order.
        fields: Of FLOW_FIELDS, or columns of plugins.

    Returns:
        One list a field, cells int, str, or None where undefined.
    """
    makers = [
        _plugin_column(field.name) if field.name in flows.plugin_columns else _maker(field.name) for field in fields
    ]
    for start in range(0, len(flows), CHUNK_FLOWS):
        chunk = _Chunk(flows, start, start + CHUNK_FLOWS)
        yield Block([maker(chunk) for maker in makers], fields, len(chunk.rows))
