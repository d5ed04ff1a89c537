"""Which files a run writes, and what the index says of them, for many flows at once.

The rules are those of `perflow`: `labels_of`, `link_label` and `index_entry` say the same of one flow. Here columns are
taken as a whole, some thousand flows at a time, because a view of a flow costs microseconds for each value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.flows import EndCause, FlowSet
from traceflow.labels import address_texts, label_text, time_texts
from traceflow.protocols import has_ports, protocol_name
from traceflow.sinks.naming import UniqueNames
from traceflow.sinks.perflow import Layout, Side, link_label, plugin_values

__all__ = ["Output", "entries", "outputs"]

_FLOWS = 4096
"""Flows at once."""

Ends = tuple[str, str, int | None, str, int | None]
"""Protocol, originator and its port, responder and its port; no ports where the protocol has none."""

_CAUSES = {int(cause): cause.text for cause in EndCause}


@dataclass(slots=True)
class Output:
    """A file to write.

    Attributes:
        name: Its name.
        label: Its label.
        at: Index of its flow in the FlowSet.
        side: Whose frames it has.
        numbers: Their numbers, ascending.
        link: Their link type, where files have one; else any.
        octets: Captured octets of its frames.
        ends: Protocol, originator and port, responder and port.
    """

    name: str
    label: str
    at: int
    side: Side
    numbers: npt.NDArray[Any]
    link: int
    octets: int
    ends: Ends


@dataclass(slots=True)
class _Part:
    """Some flows, and their frames in the order of their files."""

    first: int
    rows: npt.NDArray[np.void]
    chosen: npt.NDArray[np.int64]
    sides: list[Side]
    numbers: npt.NDArray[Any]
    edges: npt.NDArray[np.int64]


def outputs(
    flows: FlowSet, layout: Layout, frames: npt.NDArray[np.void], *, alarms_only: bool = False
) -> Iterator[Output]:
    """The files of a run in opening order, with names that are unique in the folder.

    Args:
        flows: What was traced.
        layout: How the files are.
        frames: FRAME of every frame, by number.
        alarms_only: Only flows on which a plugin raised the alarm.
    """
    names = UniqueNames(fold=True)
    for first in range(0, len(flows), _FLOWS):
        part = _part(flows, first, layout.by, alarms_only)
        flow_ends = list(_ends(part.rows))
        labels = _labels(part, flow_ends)
        rows = part.numbers.astype(np.intp) - 1
        sizes = np.concatenate([np.zeros(1, np.int64), np.cumsum(frames["captured"][rows], dtype=np.int64)])
        links = frames["link"][rows] if layout.pcap else np.zeros(len(rows), np.uint16)
        one = len(links) > 0 and bool((links == links[0]).all())
        edges, ends = part.edges.tolist(), sizes[part.edges].tolist()
        for k, (at, side, label) in enumerate(zip(part.chosen.tolist(), part.sides, labels, strict=True)):
            place = slice(edges[k], edges[k + 1])
            numbers = part.numbers[place]
            found = [int(links[0])] if one else list(dict.fromkeys(links[place].tolist()))
            if len(found) == 1:
                name = names.unique(label) + layout.extension
                yield Output(name, label, first + at, side, numbers, found[0], ends[k + 1] - ends[k], flow_ends[at])
                continue
            for link in found:
                name = names.unique(link_label(label, link)) + layout.extension
                mine = numbers[links[place] == link]
                octets = int(frames["captured"][mine.astype(np.intp) - 1].sum(dtype=np.int64))
                yield Output(name, label, first + at, side, mine, link, octets, flow_ends[at])


def _part(flows: FlowSet, first: int, by: str, alarms_only: bool) -> _Part:
    rows = flows.columns[first : first + _FLOWS]
    offsets, lists = flows.frame_map.lists()
    known = np.minimum(rows["number"].astype(np.int64), flows.frame_map.flows)  # those beyond have no frames
    starts = offsets[np.maximum(known - 1, 0)].astype(np.int64)
    sizes = np.where(rows["number"] == known, offsets[known].astype(np.int64) - starts, 0)
    if alarms_only:
        sizes = np.where(rows["alarm"] != 0, sizes, 0)
    flow = np.repeat(np.arange(len(rows)), sizes)
    before = np.cumsum(sizes) - sizes
    numbers = lists[np.arange(len(flow)) + np.repeat(starts - before, sizes)]
    wanted = rows["alarm"] != 0 if alarms_only else np.ones(len(rows), np.bool_)
    if by == "flow":
        chosen = np.flatnonzero(wanted)
        edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[chosen])])
        return _Part(first, rows, chosen, [None] * len(chosen), numbers, edges)
    orig, resp = rows["orig"], rows["resp"]
    resp_first = (orig["packets"] == 0) | ((resp["packets"] > 0) & (resp["opened_frame"] < orig["opened_frame"]))
    upper = flows.frame_map.packed(numbers) & np.uint64(1) != 0
    by_resp = upper != (rows["upper_originates"] != 0)[flow]
    key = 2 * flow + (by_resp != resp_first[flow])
    numbers = numbers[np.argsort(key, kind="stable")]
    counts = np.bincount(key, minlength=2 * len(rows))
    which = np.arange(2 * len(rows))
    is_resp = (which % 2 == 1) != resp_first[which // 2]
    has = np.where(is_resp, resp["packets"][which // 2], orig["packets"][which // 2]) > 0
    kept = np.flatnonzero(has & wanted[which // 2])
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[kept])])
    sides: list[Side] = ["resp" if one else "orig" for one in is_resp[kept].tolist()]
    return _Part(first, rows, kept // 2, sides, numbers, edges)


def _ends(rows: npt.NDArray[np.void]) -> Iterator[Ends]:
    """Protocol, originator and responder of flows, as text and numbers."""
    ports = zip(rows["protocol"].tolist(), rows["orig_port"].tolist(), rows["resp_port"].tolist(), strict=True)
    addresses = [address_texts(rows[name], rows["ip_version"]) for name in ("orig_addr", "resp_addr")]
    for (protocol, orig_port, resp_port), orig, resp in zip(ports, *addresses, strict=True):
        if has_ports(protocol):
            yield protocol_name(protocol), orig, orig_port, resp, resp_port
        else:
            yield protocol_name(protocol), orig, None, resp, None


def _labels(part: _Part, ends: Sequence[Ends]) -> list[str]:
    """Labels of files: from originator to responder with the time of the first frame, or from their side on."""
    rows = part.rows
    orig, resp = rows["orig"], rows["resp"]
    late = (orig["packets"] == 0) | ((resp["packets"] > 0) & (resp["opened_frame"] < orig["opened_frame"]))
    lates = late.tolist()
    times = {side: time_texts(half["opened_ns"], half["time_bits"]) for side, half in (("orig", orig), ("resp", resp))}
    labels = []
    for at, side in zip(part.chosen.tolist(), part.sides, strict=True):
        protocol, src, src_port, dst, dst_port = ends[at]
        if side == "resp":
            src, src_port, dst, dst_port = dst, dst_port, src, src_port
        half = side or ("resp" if lates[at] else "orig")
        labels.append(label_text(protocol, src, src_port, dst, dst_port, times[half][at]))
    return labels


def entries(flows: FlowSet, written: Sequence[Output]) -> Iterator[bytes]:
    """What the index says of files, as `perflow.index_entry`.

    Args:
        flows: What was traced.
        written: The files.
    """
    names = ("number", "end_cause", "end_reason", "parent", "segment")
    for first in range(0, len(written), _FLOWS):
        some = written[first : first + _FLOWS]
        rows = flows.columns.take([output.at for output in some])  # an index would go field by field
        columns = zip(*(rows[name].tolist() for name in names), strict=True)
        for output, first_time, last_time, values in zip(some, *_first_and_last(rows, some), columns, strict=True):
            protocol, orig, orig_port, resp, resp_port = output.ends
            number, cause, reason, parent, segment = values
            text = (  # labels, addresses and names of protocols need no escapes
                f'{{"label": "{output.label}", "file": "{output.name}", "flow": {number}, '
                f'"direction": {_quoted(output.side)}, "protocol": "{protocol}", '
                f'"orig": "{orig}", "orig_port": {_or_null(orig_port)}, '
                f'"resp": "{resp}", "resp_port": {_or_null(resp_port)}, '
                f'"first": "{first_time}", "last": "{last_time}", '
                f'"end": "{_CAUSES[cause]}", "end_reason": {reason}, "parent": {parent}, "segment": {segment}, '
                f'"frames": {output.numbers.tolist()}'
            )
            added = plugin_values(flows[output.at]) if flows.plugin_columns else None
            yield (f'{text}, "plugins": {json.dumps(added)}}}' if added else f"{text}}}").encode()


def _first_and_last(rows: npt.NDArray[np.void], some: Sequence[Output]) -> tuple[list[str], list[str]]:
    """Times of the first and the last frame of files; the digits are those of the clock of a direction."""
    orig, resp = rows["orig"], rows["resp"]
    whole = np.array([output.side is None for output in some])
    answers = np.array([output.side == "resp" for output in some]) | (orig["packets"] == 0)
    bits = np.where(answers, resp["time_bits"], orig["time_bits"])

    def times(name: str) -> list[str]:
        return time_texts(np.where(whole, rows[name], np.where(answers, resp[name], orig[name])), bits)

    return times("first_ns"), times("last_ns")


def _quoted(side: Side) -> str:
    return f'"{side}"' if side else "null"


def _or_null(port: int | None) -> str:
    return "null" if port is None else str(port)
