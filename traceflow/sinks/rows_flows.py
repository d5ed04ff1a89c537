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
from traceflow.labels import flow_label
from traceflow.packets import FINER_THAN_MICROSECONDS, Tunnel
from traceflow.protocols import protocol_name
from traceflow.sinks.rows_fields import Field
from traceflow.sinks.rows_text import blank_where, column_cells, end_texts, range_texts, span_texts, time_texts
from traceflow.tcp import FLAG_NAMES

__all__ = ["CHUNK_FLOWS", "flow_columns"]

CHUNK_FLOWS = 8192
"""Flows that are rendered at once: enough to spread the cost of a column, few enough to stay in the cache."""

_CAUSES = {int(cause): cause.text for cause in EndCause}
_TUNNELS = {int(tunnel): tunnel.text if tunnel else None for tunnel in Tunnel}
_STATES = {int(state): state.text for state in ConnState}


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

    def defined(self, name: str, cells: list[Any]) -> list[Any]:
        """The cells of a column, None where it means nothing."""
        undefined = undefined_where(self.rows, name)
        return cells if undefined is None else blank_where(undefined, cells)

    def both(self, part: str) -> list[int]:
        """A counter summed over both directions."""
        total: list[int] = (self.rows["orig"][part] + self.rows["resp"][part]).tolist()
        return total


def _ranges(chunk: _Chunk, side: str | None) -> list[str | None]:
    """Frame numbers of the flows, or of one direction of them, as ranges."""
    offsets, numbers = chunk.flows.frame_map.lists()
    bounds = offsets[chunk.start : chunk.start + len(chunk.rows) + 1].astype(np.int64)
    if not len(chunk.rows):
        return []
    sizes = np.diff(bounds)
    listed = numbers[int(bounds[0]) : int(bounds[-1])]
    if side is None:
        return range_texts(sizes, listed)
    upper = chunk.flows.frame_map.packed(listed) & np.uint64(1) != 0
    wanted = (chunk.rows["upper_originates"] != 0) == (side == "orig")
    owner = np.repeat(np.arange(len(sizes)), sizes)
    chosen = upper == wanted[owner]
    return range_texts(np.bincount(owner[chosen], minlength=len(sizes)), listed[chosen])


def _half(side: str, part: str) -> Callable[[_Chunk], list[Any]]:
    """How a column of a direction is made."""

    def column(chunk: _Chunk) -> list[Any]:
        half = chunk.rows[side]
        if part in ANALYSIS_COLUMNS:
            cells = analysis_column(half["analysed"], part)
        elif part in FLAG_NAMES:
            cells = half["flags"][:, FLAG_NAMES.index(part)]
        else:
            cells = half[part]
        return chunk.defined(f"{side}_{part}", cells.tolist())

    return column


def _plain(name: str) -> Callable[[_Chunk], list[Any]]:
    """A column of FLOW as it is."""
    return lambda chunk: chunk.defined(name, chunk.rows[name].tolist())


def _carrier(name: str) -> Callable[[_Chunk], list[Any]]:
    """A column of what carried the first packet, empty where nothing of that kind did."""
    return lambda chunk: chunk.defined(name, chunk.rows[name].tolist())


def _sum(part: str) -> Callable[[_Chunk], list[Any]]:
    return lambda chunk: chunk.both(part)


def _address(side: str) -> Callable[[_Chunk], list[Any]]:
    def column(chunk: _Chunk) -> list[Any]:
        halves = chunk.rows[f"{side}_addr"]
        return end_texts(halves[:, 0], halves[:, 1], chunk.rows["ip_version"])

    return column


def _port(side: str) -> Callable[[_Chunk], list[Any]]:
    return lambda chunk: chunk.defined(f"{side}_port", chunk.rows[f"{side}_port"].tolist())


def _protocol_names(chunk: _Chunk) -> list[str]:
    numbers = chunk.rows["protocol"].tolist()
    names = {number: protocol_name(number) for number in set(numbers)}
    return [names[number] for number in numbers]


def _plugin_column(name: str) -> Callable[[_Chunk], list[Any]]:
    """A column that a plugin added."""

    def column(chunk: _Chunk) -> list[Any]:
        stop = chunk.start + len(chunk.rows)
        return column_cells(chunk.flows.plugin_columns[name][chunk.start : stop])

    return column


def _maker(name: str) -> Callable[[_Chunk], list[Any]]:
    """How the column of a field is made."""
    special = _SPECIAL.get(name)
    if special is not None:
        return special
    side, _, part = name.partition("_")
    return _half(side, part) if side in ("orig", "resp") else _plain(name)


_SPECIAL: dict[str, Callable[[_Chunk], list[Any]]] = {
    "flow": _plain("number"),
    "vlan_outer": _carrier("vlan_outer"),
    "vlan_inner": _carrier("vlan_inner"),
    "tunnel": lambda chunk: [_TUNNELS[tunnel] for tunnel in chunk.rows["tunnel"].tolist()],
    "tunnel_id": _carrier("tunnel_id"),
    "protocol_name": _protocol_names,
    "orig_addr": _address("orig"),
    "orig_port": _port("orig"),
    "resp_addr": _address("resp"),
    "resp_port": _port("resp"),
    "first": lambda chunk: time_texts(chunk.rows["first_ns"], chunk.fine()),
    "last": lambda chunk: time_texts(chunk.rows["last_ns"], chunk.fine()),
    "duration": lambda chunk: span_texts(chunk.spans_ns(), chunk.fine()),
    "duration_ns": lambda chunk: chunk.spans_ns().tolist(),
    "packets": _sum("packets"),
    "wire_octets": _sum("wire_octets"),
    "ip_octets": _sum("ip_octets"),
    "payload_octets": _sum("payload_octets"),
    "end_cause": lambda chunk: [_CAUSES[cause] for cause in chunk.rows["end_cause"].tolist()],
    "conn_state": lambda chunk: [_STATES[state] for state in chunk.rows["conn_state"].tolist()],
    "history": lambda chunk: [history.decode("ascii") or None for history in chunk.rows["history"].tolist()],
    "label": lambda chunk: [flow_label(row) for row in chunk.rows],
    "frames": lambda chunk: _ranges(chunk, None),
    "orig_frames": lambda chunk: _ranges(chunk, "orig"),
    "resp_frames": lambda chunk: _ranges(chunk, "resp"),
}


def flow_columns(flows: FlowSet, fields: Sequence[Field]) -> Iterator[list[list[Any]]]:
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
        yield [maker(chunk) for maker in makers]
