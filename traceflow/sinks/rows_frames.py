"""The frames of a Step to the fields of `traceflow frames`, column by column.

What a field means stands in docs/columns.md; where it is undefined its cell is None. Nothing here decides about frames
and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.analysis import analysis_text
from traceflow.decode import LINKS
from traceflow.packets import (
    ACK_KNOWN,
    DUPLICATE,
    FINER_THAN_MICROSECONDS,
    FLAGS_KNOWN,
    FRAGMENT,
    NO_TIME,
    SEQ_KNOWN,
    Interface,
    Verdict,
)
from traceflow.pipeline import Step
from traceflow.protocols import PROTOCOLS_WITH_PORTS, protocol_name
from traceflow.sinks.rows_fields import Field
from traceflow.sinks.rows_text import blank_where, column_cells, end_texts, time_texts
from traceflow.table import FROM_RESPONDER
from traceflow.tcp import ACK, flag_text

__all__ = ["frame_columns"]

_TCP = 6
_WINDOW_END = 16  # RFC 9293 section 3.1: the window is octets 14 and 15 of the TCP header
_FLAG_TEXTS = [flag_text(flags) for flags in range(256)]
_VERDICT_TEXTS = [None if verdict is Verdict.FLOW else verdict.text for verdict in Verdict]
_SIDES = ("orig", "resp")
# Verdicts that decode gives after it has passed the whole chain of headers: protocol and lengths are known then.
_BEHIND_IP = (int(Verdict.FLOW), int(Verdict.FRAGMENT_WITHOUT_PORTS), int(Verdict.NOT_TCP), int(Verdict.DUPLICATE))
_LINK_UNREAD = (int(Verdict.UNSUPPORTED_LINK), int(Verdict.TRUNCATED_LINK))
_WITH_PORTS = (int(Verdict.FLOW), int(Verdict.NOT_TCP), int(Verdict.DUPLICATE))


class _Frames:
    """Some frames of a step."""

    def __init__(self, step: Step, interfaces: Sequence[Interface], flow: int | None) -> None:
        assert step.batch is not None
        count = len(step.batch.frames)
        chosen: Any = slice(None)
        if flow is not None:
            chosen = np.flatnonzero(step.marks["flow"] == flow)
        elif (filtered := step.packets["verdict"] == Verdict.FILTERED).any():
            chosen = np.flatnonzero(~filtered)
        self.at: npt.NDArray[np.int64] = np.arange(count)[chosen]
        self.frames, self.packets, self.marks = step.batch.frames[chosen], step.packets[chosen], step.marks[chosen]
        self.quoted = step.quoted
        self.first_number, self.first_in_file = step.batch.first_number, step.batch.first_in_file
        self.interfaces = interfaces

    def without(self, bit: int) -> npt.NDArray[np.bool_]:
        """Which frames lack a bit of PACKET `bits`."""
        lacking: npt.NDArray[np.bool_] = self.packets["bits"] & bit == 0
        return lacking

    def not_ip(self) -> npt.NDArray[np.bool_]:
        """Which frames have no IP packet that could be read."""
        lacking: npt.NDArray[np.bool_] = self.packets["ip_version"] == 0
        return lacking

    def not_behind_ip(self) -> npt.NDArray[np.bool_]:
        """Which frames have no known length of what IP carries."""
        return ~np.isin(self.packets["verdict"], _BEHIND_IP)

    def without_ports(self) -> npt.NDArray[np.bool_]:
        """Which frames have neither ports nor the identifier of an ICMP query."""
        ports = np.isin(self.packets["protocol"], list(PROTOCOLS_WITH_PORTS)) | (self.packets["src_port"] != 0)
        # A fragment that was removed as a duplicate has not asked for the ports of the first one.
        ports &= (self.packets["verdict"] != Verdict.DUPLICATE) | self.without(FRAGMENT)
        without: npt.NDArray[np.bool_] = ~(ports & np.isin(self.packets["verdict"], _WITH_PORTS))
        return without

    def without_window(self) -> npt.NDArray[np.bool_]:
        """Which frames have no TCP window in what was captured."""
        captured = self.frames["captured"].astype(np.int64) - self.packets["transport"].astype(np.int64)
        lacking: npt.NDArray[np.bool_] = self.without(FLAGS_KNOWN) | (captured < _WINDOW_END)
        return lacking

    def named(self, column: str, name: Callable[[int], Any]) -> list[Any]:
        """A column of FRAME with each of its few values replaced by a name."""
        values = self.frames[column].tolist()
        names = {value: name(value) for value in set(values)}
        return [names[value] for value in values]


def _frame(name: str) -> Callable[[_Frames], list[Any]]:
    """A column of FRAME as it is."""
    return lambda some: some.frames[name].tolist()


def _packet(name: str, empty: Callable[[_Frames], npt.NDArray[np.bool_]]) -> Callable[[_Frames], list[Any]]:
    """A column of PACKET, empty where `empty` says so."""
    return lambda some: blank_where(empty(some), some.packets[name].tolist())


def _address(end: str) -> Callable[[_Frames], list[Any]]:
    def column(some: _Frames) -> list[Any]:
        upper, lower = some.packets[f"{end}_hi"], some.packets[f"{end}_lo"]
        return blank_where(some.not_ip(), end_texts(upper, lower, some.packets["ip_version"]))

    return column


def _times(some: _Frames) -> list[Any]:
    bits = some.frames["time_bits"]
    return blank_where(bits & NO_TIME != 0, time_texts(some.frames["time_ns"], bits & FINER_THAN_MICROSECONDS != 0))


def _directions(some: _Frames) -> list[Any]:
    sides = [_SIDES[bit] for bit in (some.marks["direction"] & FROM_RESPONDER).tolist()]
    return blank_where(some.marks["flow"] == 0, sides)


def _protocol_names(some: _Frames) -> list[Any]:
    numbers = some.packets["protocol"].tolist()
    names = {number: protocol_name(number) for number in set(numbers)}
    return blank_where(some.not_ip(), [names[number] for number in numbers])


def _flags(some: _Frames) -> list[Any]:
    return blank_where(some.without(FLAGS_KNOWN), [_FLAG_TEXTS[flags] for flags in some.packets["flags"].tolist()])


def _analysis(some: _Frames) -> list[Any]:
    found = some.marks["analysis"].tolist()
    texts = {flags: analysis_text(flags) or None for flags in set(found)}
    return [texts[flags] for flags in found]


def _quoted_flows(some: _Frames) -> list[Any]:
    """The flow that the packet quoted by an ICMP error belonged to."""
    flows = {int(number): int(flow) or None for number, flow in some.quoted.tolist()}
    return [flows.get(number) for number in (some.at + some.first_number).tolist()]


def _no_ack(some: _Frames) -> npt.NDArray[np.bool_]:
    empty: npt.NDArray[np.bool_] = some.without(ACK_KNOWN) | (some.packets["flags"] & ACK == 0)
    return empty


_MAKERS: dict[str, Callable[[_Frames], list[Any]]] = {
    "frame": lambda some: (some.at + some.first_number).tolist(),
    "file": lambda some: some.named("interface", lambda at: some.interfaces[at].source),
    "frame_in_file": lambda some: (some.at + some.first_in_file).tolist(),
    "offset": _frame("offset"),
    "time": _times,
    "time_ns": lambda some: blank_where(some.frames["time_bits"] & NO_TIME != 0, some.frames["time_ns"].tolist()),
    "flow": lambda some: blank_where(some.marks["flow"] == 0, some.marks["flow"].tolist()),
    "direction": _directions,
    "verdict": lambda some: [_VERDICT_TEXTS[verdict] for verdict in some.packets["verdict"].tolist()],
    "protocol_name": _protocol_names,
    "src": _address("src"),
    "src_port": _packet("src_port", _Frames.without_ports),
    "dst": _address("dst"),
    "dst_port": _packet("dst_port", _Frames.without_ports),
    "protocol": _packet("protocol", _Frames.not_ip),
    "ip_version": _packet("ip_version", _Frames.not_ip),
    "ttl": _packet("ttl", _Frames.not_ip),
    "flags": _flags,
    "seq": _packet("seq", lambda some: some.without(SEQ_KNOWN)),
    "ack": _packet("ack", _no_ack),
    "window": _packet("window", _Frames.without_window),
    "tcp_analysis": _analysis,
    "duplicate_ack": lambda some: blank_where(some.marks["duplicate_ack"] == 0, some.marks["duplicate_ack"].tolist()),
    "duplicate": lambda some: blank_where(some.without(DUPLICATE), [1] * len(some.frames)),
    "quoted_flow": _quoted_flows,
    "captured_octets": _frame("captured"),
    "wire_octets": _frame("wire"),
    "ip_octets": _packet("ip_octets", _Frames.not_ip),
    "payload_octets": _packet("payload_octets", _Frames.not_behind_ip),
    "vlan_tags": _packet("vlan_tags", lambda some: np.isin(some.packets["verdict"], _LINK_UNREAD)),
    "vlan_outer": _packet("vlan_outer", lambda some: some.packets["vlan_tags"] == 0),
    "vlan_inner": _packet("vlan_inner", lambda some: some.packets["vlan_tags"] < 2),
    "link": _frame("link"),
    "link_name": lambda some: some.named("link", LINKS.get),
    "interface": lambda some: some.named("interface", lambda at: some.interfaces[at].name or None),
}


def frame_columns(
    step: Step,
    interfaces: Sequence[Interface],
    fields: Sequence[Field],
    flow: int | None = None,
    plugin_columns: Mapping[str, Any] | None = None,
) -> list[list[Any]]:
    """The frames of a step as columns for `rows.py`.

    Args:
        step: A step with a batch.
        interfaces: Where frames came from, for the names.
        fields: Of FRAME_FIELDS, or columns of plugins.
        flow: Take only the frames of this flow; None: all but those that a filter left out.
        plugin_columns: Columns of plugins, arrays [m] by name: of all frames of the step.

    Returns:
        One list a field, cells int, str, or None where undefined.
    """
    some = _Frames(step, interfaces, flow)
    added = plugin_columns or {}
    return [
        _plugin_column(some, added[field.name]) if field.name in added else _MAKERS[field.name](some)
        for field in fields
    ]


def _plugin_column(some: _Frames, values: Any) -> list[Any]:
    """A column that a plugin keeps of a direction, as it is after each packet; empty without a flow."""
    return blank_where(some.marks["flow"] == 0, column_cells(values[some.at]))
