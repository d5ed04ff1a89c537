"""The plugin contract. A plugin is a class that declares what it adds, and has the hooks it needs; all are optional.

    class Bursts(Plugin):
        name = "bursts"
        columns = (Column("longest", "u4", "packets", "longest run without a packet of the other side"),)
        record = np.dtype([("run", "u4"), ("longest", "u4")])

        @staticmethod
        def on_packet(frame, packet, flow, mine, partner, steer, shared):
            partner["run"] = 0
            mine["run"] += 1
            mine["longest"] = max(mine["longest"], mine["run"])

`on_packet` and `on_open` are compiled by Numba and called inside the packet loop; all other hooks are plain Python and
run at the end of a flow, of a batch, of an interval, or of the run. docs/plugins.md is the long form.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from traceflow.compiled import inline_kernel
from traceflow.errors import UsageError, suggest
from traceflow.flows import EndCause, EndReason
from traceflow.packets import FRAME, PACKET

__all__ = [
    "COLUMN_TYPES",
    "FRAME",
    "PACKET",
    "Batch",
    "Column",
    "EndedFlow",
    "EndedFlows",
    "Option",
    "Plugin",
    "hook_helper",
]

hook_helper = inline_kernel
"""Decorator of a function that compiled hooks call: what several hooks share, or what would make one too long."""

COLUMN_TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "text")
"""Types of columns: NumPy's codes, or `text`."""


_KINDS = {bool: "yes or no", int: "of type int, a whole number", float: "a finite number", str: "text"}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column that a plugin adds.

    Attributes:
        name: Letters, digits and underscores. In outputs the plugin's prefix stands before it, and for a column of a
            direction `orig_` or `resp_` before that: `orig_tcpwin_status`.
        type: One of COLUMN_TYPES.
        unit: Its unit, empty where it has none.
        description: One line.
        per: `direction` or `flow`.
    """

    name: str
    type: str
    unit: str = ""
    description: str = ""
    per: Literal["direction", "flow"] = "direction"


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a plugin.

    Attributes:
        name: Its name.
        default: Its default; the type of this is that of all values: bool, int, float (finite) or str.
        description: One line, with the unit.
        lowest: Smallest value of a number.
        highest: Largest value of a number.
    """

    name: str
    default: bool | int | float | str
    description: str = ""
    lowest: float | None = None
    highest: float | None = None

    def value(self, plugin: str, given: Any) -> Any:
        """A value as it was typed, or given in Python, as the type of the default.

        Raises:
            UsageError: It is of another type, or out of range.
        """
        kind = type(self.default)
        if isinstance(given, np.generic):
            given = given.item()
        try:
            if kind is bool and isinstance(given, str):
                value: Any = {
                    **dict.fromkeys(("1", "true", "yes", "on"), True),
                    **dict.fromkeys(("0", "false", "no", "off"), False),
                }[given.lower()]
            elif isinstance(given, str) or (kind is float and type(given) is int):
                value = kind(given)
            else:
                value = given
            fits = type(value) is kind and (not isinstance(value, float) or math.isfinite(value))
        except (ValueError, KeyError):
            fits = False
        if not fits:
            raise UsageError(f"plugin {plugin}: option {self.name} is {given!r}; it must be {_KINDS[kind]}")
        below = self.lowest is not None and value < self.lowest
        if below or (self.highest is not None and value > self.highest):
            bounds = " to ".join("..." if bound is None else str(bound) for bound in (self.lowest, self.highest))
            raise UsageError(f"plugin {plugin}: option {self.name} is {value!r}; it must lie within {bounds}")
        return value


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some consecutive frames, as the hook `on_batch` sees them. The arrays are used again: copy what must outlive it.

    Attributes:
        octets: uint8[n], the captured octets.
        frames: FRAME[m].
        packets: PACKET[m].
        flows: uint64[m], number of the flow of each, 0 where it has none.
        from_responder: bool[m].
        first_number: Number of the first frame.
    """

    octets: npt.NDArray[np.uint8]
    frames: npt.NDArray[np.void]
    packets: npt.NDArray[np.void]
    flows: npt.NDArray[np.uint64]
    from_responder: npt.NDArray[np.bool_]
    first_number: int


@dataclasses.dataclass(frozen=True)
class EndedFlows:
    """Flows that ended, in that order, as the hook `on_flows_end` sees them.

    Attributes:
        rows: FLOW[k].
        orig: The plugin's records of the originators, [k]; of no columns where it has none.
        resp: Those of the responders.
        columns: Columns of this plugin that are fields of its record, and those of the plugins that it needs, by name
            in outputs: masked arrays.
    """

    rows: npt.NDArray[np.void]
    orig: npt.NDArray[np.void]
    resp: npt.NDArray[np.void]
    columns: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class EndedFlow:
    """A flow that ended, or one direction of it, as the hook `on_flow_end` sees it.

    Attributes:
        row: FLOW row.
        orig: The plugin's record of the originator.
        resp: That of the responder.
        side: `orig` or `resp` where the hook is called for each direction, else None.
    """

    row: np.void
    orig: np.void
    resp: np.void
    side: str | None = None

    @property
    def end_cause(self) -> EndCause:
        """Why the flow ended."""
        return EndCause(int(self.row["end_cause"]))

    @property
    def end_reason(self) -> EndReason:
        """Why the flow ended, as IPFIX counts it."""
        return EndReason(int(self.row["end_reason"]))

    @property
    def mine(self) -> np.void:
        """The record of this direction; of the originator where the hook is called for the flow."""
        return self.resp if self.side == "resp" else self.orig


CompiledHook = Callable[[Any, Any, Any, Any, Any, Any, Any], None]
"""(frame, packet, flow, mine, partner, steer, shared): records FRAME, PACKET, LIVE, the plugin's own of the direction
that sent the packet, of the other direction, STEER of `steering.py`, and the plugin's shared one."""


class Plugin:
    """Base of all plugins.

    Attributes:
        name: Its name: letters, digits and underscores.
        description: One line.
        prefix: What stands before its columns in outputs; None: the name and an underscore.
        columns: What it adds. A column whose name is a field of the record is taken from there; the others are what
            `on_flows_end` or `on_flow_end` return.
        options: Its options; `self.settings` holds their values.
        needs: Names of the plugins that it builds on; they run before it.
        record: What is kept of each direction, all zero when a flow opens. Where its size is an option, set it in
            `__init__`: `self.record = ...`.
        shared: What is kept once, all zero at the start: settings for compiled hooks, and counters.
        each: Whether `on_flow_end` is called for each `flow`, or for each `direction` that has packets.
        on_packet: Compiled; for every packet that belongs to a flow.
        on_open: Compiled; for the packet that opens a flow, before `on_packet`.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = ""
    prefix: ClassVar[str | None] = None
    columns: ClassVar[Sequence[Column]] = ()
    options: ClassVar[Sequence[Option]] = ()
    needs: ClassVar[Sequence[str]] = ()
    record: np.dtype[np.void] | None = None
    shared: ClassVar[np.dtype[np.void] | None] = None
    each: ClassVar[Literal["flow", "direction"]] = "flow"
    # Each a static CompiledHook, or None. `Any`, because a type checker takes a Callable of a class for a method of it.
    on_packet: ClassVar[Any] = None
    on_open: ClassVar[Any] = None

    def __init__(self, **settings: Any) -> None:
        if not isinstance(self.options, list | tuple) or not all(isinstance(option, Option) for option in self.options):
            raise UsageError(f"plugin {self.name}: options is {self.options!r}; it must be a tuple of Option")
        known = {option.name: option for option in self.options}
        for name in settings:
            if name not in known:
                raise UsageError(f"plugin {self.name}: {suggest('option', name, known)}")
        self.settings: dict[str, Any] = {
            name: option.value(self.name, settings.get(name, option.default)) for name, option in known.items()
        }

    def on_start(self, shared: Any) -> None:
        """Before the first packet. `shared`: the shared record, to be filled; None where there is none."""

    def on_batch(self, batch: Batch) -> None:
        """After some frames were traced."""

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any] | None:
        """For some flows that ended: values of columns, one a flow each; of a direction by `orig_name`, `resp_name`.

        None, NaN and infinity are empty cells. A value that the type of its column cannot hold is an error.
        """
        return None

    def on_flow_end(self, flow: EndedFlow) -> Mapping[str, Any] | None:
        """For each flow that ended: values of columns. Takes some microseconds, where `on_flows_end` takes none."""
        return None

    def on_monitor(self, now_ns: int, shared: Any) -> Mapping[str, Any] | None:
        """At an interval of packet time: what there is to say."""
        return None

    def report(self, shared: Any) -> Iterable[str]:
        """Lines of the end report."""
        return ()

    def on_finish(self, shared: Any) -> None:
        """After the last flow has ended."""
