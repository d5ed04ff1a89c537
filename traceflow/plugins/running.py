"""The plugins of one run: what they declare is checked, their hooks are compiled and called, their columns gathered.

A hook that raises (compiled: that meets a wrong index or divides by zero) takes its plugin out of the run: it is named,
its columns mean nothing for flows that end from then on, and all else goes on. Where two plugins set the same timeout,
the one that runs later has the last word; plugins run in the order in which they were given, those they need before.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import Hook, compile_hook
from traceflow.errors import UsageError
from traceflow.live import LIVE
from traceflow.packets import FRAME, PACKET
from traceflow.plugins.cells import column_of, empty_column
from traceflow.plugins.contract import COLUMN_TYPES, Batch, Column, EndedFlow, EndedFlows, Plugin
from traceflow.steering import FAILED, NO_PLAN, ON_OPEN, ON_PACKET, PLAN_WORDS, RECORD_AT, SHARED_AT, STEER, Plan

__all__ = ["PluginFailure", "PluginSet"]

_PREFIX = re.compile(r"[A-Za-z0-9_]*\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_NOTHING = np.dtype([("nothing", "u8")])  # the record of a plugin that has none
_SIDES = ("orig", "resp")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME_OF_MESSAGE = ("Failed in nopython", "During:", 'File "', "<source", "- ", "No implementation", "There are")
_HOOKS = ("on_packet", "on_open")  # by their columns in the plan
_MOST_WORDS = 1 << 13  # 64 KiB a direction of all plugins together; a hundred flows that end are then copied in 12 MiB


@dataclasses.dataclass(frozen=True)
class PluginFailure:
    """A plugin that was taken out of the run.

    Attributes:
        name: Name of the plugin.
        hook: The hook that failed.
        error: What it raised.
    """

    name: str
    hook: str
    error: str

    def __str__(self) -> str:
        return f"plugin {self.name} failed in {self.hook} and was taken out of the run: {self.error}"


@dataclasses.dataclass(slots=True)
class _Member:
    """A plugin with its place in the run."""

    plugin: Plugin
    record: np.dtype[np.void]
    at: int  # words before its record in those of a direction
    shared_at: int
    shared: np.void | None
    names: dict[str, Column]  # names in outputs
    hooks: tuple[Hook | None, Hook | None]
    running: bool = True


def column_names(plugin: Plugin | type[Plugin]) -> dict[str, Column]:
    """The columns of a plugin by their names in outputs.

    Raises:
        UsageError: A declaration that is none, or a column twice.
    """
    named: dict[str, Column] = {}
    prefix = f"{plugin.name}_" if plugin.prefix is None else plugin.prefix
    if not isinstance(prefix, str) or not _PREFIX.match(prefix):
        raise UsageError(f"plugin {plugin.name}: prefix is {prefix!r}; it must be of letters, digits and _")
    if not isinstance(plugin.columns, list | tuple):
        raise UsageError(f"plugin {plugin.name}: columns is {plugin.columns!r}; it must be a tuple of Column")
    for column in plugin.columns:
        if not isinstance(column, Column) or not isinstance(column.name, str) or not _NAME.match(column.name):
            raise UsageError(f"plugin {plugin.name}: {column!r} is no Column with a name of letters, digits and _")
        if column.type not in COLUMN_TYPES:
            types = ", ".join(COLUMN_TYPES)
            raise UsageError(f"plugin {plugin.name}: column {column.name} is of type {column.type!r}; known: {types}")
        if column.per not in ("direction", "flow"):
            raise UsageError(
                f"plugin {plugin.name}: column {column.name} is per {column.per!r}; known: direction, flow"
            )
        for side in ("orig_", "resp_") if column.per == "direction" else ("",):
            name = f"{side}{prefix}{column.name}"
            if name in named:
                raise UsageError(f"plugin {plugin.name}: column {column.name} is declared twice")
            named[name] = column
    return named


def packet_column_names(plugin: Plugin) -> dict[str, Column]:
    """The columns that can be shown of each packet, by name: those of a direction that are fields of the record."""
    kept = (plugin.record.names or ()) if plugin.record is not None else ()
    return {
        name.removeprefix("orig_"): column
        for name, column in column_names(plugin).items()
        if column.per == "direction" and name.startswith("orig_") and column.name in kept
    }


def _words_of(plugin: Plugin, what: str, record: Any) -> np.dtype[np.void]:
    """A record with whole words.

    Raises:
        UsageError: It is no structured dtype of plain fields.
    """
    if record is None:
        return _NOTHING
    if not isinstance(record, np.dtype) or not record.names or record.hasobject:
        raise UsageError(f"plugin {plugin.name}: {what} is {record!r}; it must be a NumPy dtype with named fields")
    fields = record.fields
    assert fields is not None
    formats = [fields[name][0] for name in record.names]
    # Built anew of its fields: what was packed gets the alignment that the kernels count on.
    named = np.dtype({"names": list(record.names), "formats": formats}, align=True)
    assert named.fields is not None
    return np.dtype(
        {
            "names": list(record.names),
            "formats": formats,
            "offsets": [named.fields[name][1] for name in record.names],
            "itemsize": -(-named.itemsize // 8) * 8,
            "aligned": True,
        }
    )


def _check_fields(plugin: Plugin) -> None:
    """Hold the columns that are fields of the record against it.

    Raises:
        UsageError: One of them is text, or its field is no single number.
    """
    if plugin.record is None:
        return
    for column in plugin.columns:
        if column.name not in (plugin.record.names or ()):
            continue
        field = plugin.record[column.name]
        if column.type == "text" or field.shape or field.kind not in "biuf":
            raise UsageError(
                f"plugin {plugin.name}: column {column.name} of type {column.type} is {field} in the record; a column"
                " of the record is a single number; name the field otherwise, and return the column from on_flows_end"
            )


class PluginSet:
    """The plugins of one run.

    Args:
        plugins: In the order in which they run, see `registry.load_plugins`.
        taken: Names of columns that there are already.
        shots: Whether columns of packets are wanted, see `packet_columns`.

    Attributes:
        plan: What the table is handed.
        failures: Plugins that were taken out of the run.
        columns: All columns by their names in outputs, in order.
        sees_batches: Whether any of them has a hook for batches.

    Raises:
        UsageError: What a plugin declares does not hold together, or its compiled hook cannot be compiled.
    """

    def __init__(self, plugins: Sequence[Plugin], *, taken: Iterable[str] = (), shots: bool = False) -> None:
        self.failures: list[PluginFailure] = []
        self.sees_batches = any(type(plugin).on_batch is not Plugin.on_batch for plugin in plugins)
        self.columns: dict[str, Column] = {}
        self._members: list[_Member] = []
        taken = set(taken)
        record_words = shared_words = 0
        kinds = []
        for plugin in plugins:
            if not isinstance(plugin.name, str) or not _NAME.match(plugin.name):
                raise UsageError(f"{plugin!r} has no name of letters, digits and _")
            if plugin.each not in ("flow", "direction"):
                raise UsageError(f"plugin {plugin.name}: each is {plugin.each!r}; known: flow, direction")
            names = column_names(plugin)
            for name in names:
                if name in taken:
                    raise UsageError(f"plugin {plugin.name}: there is a column {name} already; give it another prefix")
            taken.update(names)
            self.columns.update(names)
            record = _words_of(plugin, "record", plugin.record)
            shared = _words_of(plugin, "shared", plugin.shared)
            _check_fields(plugin)
            if 8 * max(record_words, shared_words) + max(record.itemsize, shared.itemsize) > 8 * _MOST_WORDS:
                raise UsageError(
                    f"plugin {plugin.name}: the records of all plugins up to it, or their shared ones, are longer than"
                    f" the {8 * _MOST_WORDS} octets that there is room for"
                )
            hooks = _compiled(plugin, "on_packet", record, shared), _compiled(plugin, "on_open", record, shared)
            self._members.append(_Member(plugin, record, record_words, shared_words, None, names, hooks))
            kinds.append(shared)
            record_words += record.itemsize // 8
            shared_words += shared.itemsize // 8
        if not plugins:
            self.plan = NO_PLAN
            return
        words = np.zeros(shared_words, np.uint64)
        rows = np.zeros((len(plugins), PLAN_WORDS), np.uint64)
        for member, row, shared in zip(self._members, rows, kinds, strict=True):
            row[RECORD_AT], row[SHARED_AT] = member.at, member.shared_at
            for place, hook in zip((ON_PACKET, ON_OPEN), member.hooks, strict=True):
                row[place] = 0 if hook is None else hook.number
            if member.plugin.shared is not None:
                part = words[member.shared_at : member.shared_at + shared.itemsize // 8]
                member.shared = part.view(shared)[0]
        self.plan = Plan(rows, record_words, words, shots, tuple(member.hooks for member in self._members))
        for member in self._members:
            self._try(member, "on_start", member.plugin.on_start, member.shared)

    def __bool__(self) -> bool:
        return bool(self._members)

    def _try(self, member: _Member, hook: str, call: Callable[..., Any], *given: Any) -> Any:
        """Call a hook; where it raises, or would end the process, take its plugin out of the run and return None."""
        if not member.running:
            return None
        try:
            return call(*given)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises must not lose flows
            self._take_out(member, hook, _text_of(error))
            return None

    def _take_out(self, member: _Member, hook: str, error: str) -> None:
        member.running = False
        row = self.plan.rows[self._members.index(member)]
        row[ON_PACKET] = row[ON_OPEN] = 0
        self.failures.append(PluginFailure(member.plugin.name, hook, error))

    def _find_failed(self) -> None:
        """Name those whose compiled hook failed."""
        for member, row in zip(self._members, self.plan.rows, strict=True):
            if row[FAILED] and member.running:
                hook = _HOOKS[int(row[FAILED]) - 1]
                self._take_out(member, hook, "an index out of range, or an error that it raised (it is compiled)")

    def empty_columns(self, count: int) -> dict[str, Any]:
        """All columns, nothing known in them."""
        return {name: empty_column(column, count) for name, column in self.columns.items()}

    def batch(self, batch: Batch) -> None:
        """Show a batch to those that have a hook for it."""
        self._find_failed()
        batch = dataclasses.replace(
            batch,
            **{
                name: _read_only(getattr(batch, name))
                for name in ("octets", "frames", "packets", "flows", "from_responder")
            },
        )
        for member in self._members:
            if type(member.plugin).on_batch is not Plugin.on_batch:
                self._try(member, "on_batch", member.plugin.on_batch, batch)

    def ended(self, rows: npt.NDArray[np.void], records: npt.NDArray[np.uint64]) -> dict[str, Any]:
        """The columns of flows that ended.

        Args:
            rows: FLOW[k].
            records: uint64[k, 2, plan.record_words], of the lower and of the upper end.

        Returns:
            Masked arrays [k], by name, in the order in which they were declared.
        """
        self._find_failed()
        count = len(rows)
        if not count:
            return self.empty_columns(0)
        gathered: dict[str, Any] = {}
        upper = rows["upper_originates"] != 0
        each = np.arange(count)
        spoke = {side: rows[side]["packets"] != 0 for side in _SIDES} | {"flow": np.ones(count, np.bool_)}
        by_side = {"orig": records[each, upper.astype(np.intp)], "resp": records[each, (~upper).astype(np.intp)]}
        for member in self._members:
            if member.running:
                self._end_of(member, rows, by_side, spoke, gathered)
            for name, column in member.names.items():
                if name not in gathered:
                    gathered[name] = empty_column(column, count)
        return {name: gathered[name] for name in self.columns}

    def _end_of(
        self,
        member: _Member,
        rows: npt.NDArray[np.void],
        by_side: dict[str, npt.NDArray[np.uint64]],
        spoke: dict[str, npt.NDArray[np.bool_]],
        gathered: dict[str, Any],
    ) -> None:
        """Fill in the columns of one plugin."""
        last = member.at + member.record.itemsize // 8
        mine = {
            side: np.ascontiguousarray(words[:, member.at : last]).view(member.record)[:, 0]
            for side, words in by_side.items()
        }
        plugin = member.plugin
        fields = (plugin.record.names or ()) if plugin.record is not None else ()
        made = _Columns(
            {
                name: functools.partial(_of_record, column, mine, name, spoke)
                for name, column in member.names.items()
                if column.name in fields
            },
            {
                name: gathered[name]
                for other in self._members
                if other.plugin.name in plugin.needs
                for name in other.names
            },
        )
        rows = _read_only(rows)
        flows = EndedFlows(rows, mine["orig"], mine["resp"], made)
        if type(plugin).on_flows_end is not Plugin.on_flows_end:
            values = self._try(member, "on_flows_end", plugin.on_flows_end, flows)
            self._try(member, "on_flows_end", self._fill, member, spoke, values, gathered)
        self._try(member, "columns of its record", self._fill_from_records, made, gathered)
        if type(plugin).on_flow_end is not Plugin.on_flow_end:
            self._try(member, "on_flow_end", self._fill_each, member, rows, mine, spoke, gathered)
        if not member.running:
            gathered.update({name: empty_column(column, len(rows)) for name, column in member.names.items()})

    def _fill_from_records(self, made: _Columns, gathered: dict[str, Any]) -> None:
        """Take over the columns that are fields of the record, where a hook has said nothing else."""
        for name in made.of_record:
            if name not in gathered:
                gathered[name] = made[name]

    def _fill(self, member: _Member, spoke: dict[str, Any], values: Any, gathered: dict[str, Any]) -> None:
        """Take over what a hook returned for some flows."""
        for key, value in {} if values is None else dict(values).items():
            name, column = _named(member, key)
            gathered[name] = column_of(column, value, spoke[_owner(name, column)])

    def _fill_each(
        self, member: _Member, rows: Any, mine: dict[str, Any], spoke: dict[str, Any], gathered: dict[str, Any]
    ) -> None:
        """Call the hook of each flow, or direction, in the order in which they ended, and take over what it returns."""
        plugin = member.plugin
        said: dict[str, dict[int, Any]] = {}
        for at, row in enumerate(rows):
            for side in _SIDES if plugin.each == "direction" else (None,):
                if side is not None and not row[side]["packets"]:
                    continue
                values = plugin.on_flow_end(EndedFlow(row, mine["orig"][at], mine["resp"][at], side))
                for key, value in {} if values is None else dict(values).items():
                    name, _ = _named(member, key if side is None else f"{side}_{key}")
                    said.setdefault(name, {})[at] = value
        for name, given in said.items():
            places, column = list(given), member.names[name]
            gathered.setdefault(name, empty_column(column, len(rows)))[places] = column_of(
                column, list(given.values()), spoke[_owner(name, column)][places]
            )

    def packet_columns(self, shots: npt.NDArray[np.uint64], count: int) -> dict[str, Any]:
        """What the plugins have of the direction of each packet, after it: columns that are fields of records.

        Args:
            shots: uint64[>= count * plan.record_words], as the table took them.
            count: Frames of the batch.

        Returns:
            Masked arrays [count] by `{prefix}{column}`; empty of a plugin that failed.
        """
        self._find_failed()
        found: dict[str, Any] = {}
        words = shots[: count * self.plan.record_words].reshape(count, self.plan.record_words)
        everywhere = np.ones(count, np.bool_)
        for member in self._members:
            last = member.at + member.record.itemsize // 8
            records = np.ascontiguousarray(words[:, member.at : last]).view(member.record)[:, 0]
            for name, column in packet_column_names(member.plugin).items():
                what = self._try(member, "columns of its record", column_of, column, records[column.name], everywhere)
                found[name] = empty_column(column, count) if what is None else what
        return found

    def monitor(self, now_ns: int) -> dict[str, Mapping[str, Any]]:
        """What each plugin has to say at a moment, by its name."""
        said = {}
        for member in self._members:
            what = self._try(member, "on_monitor", _said, member, now_ns)
            if what:
                said[member.plugin.name] = what
        return said

    def report(self) -> dict[str, list[str]]:
        """Lines of the end report, by the name of the plugin."""
        self._find_failed()
        lines = {}
        for member in self._members:
            said = self._try(member, "report", _lines, member)
            if said:
                lines[member.plugin.name] = said
        return lines

    def finish(self) -> None:
        """After the last flow."""
        self._find_failed()
        for member in self._members:
            self._try(member, "on_finish", member.plugin.on_finish, member.shared)


def _compiled(plugin: Plugin, name: str, record: Any, shared: Any) -> Hook | None:
    function = getattr(plugin, name)
    if function is None:
        return None
    if getattr(function, "__self__", None) is not None:
        raise UsageError(f"plugin {plugin.name}: {name} is compiled and knows no self; it must be a static method")
    try:
        return compile_hook(function, FRAME, PACKET, LIVE, record, record, STEER, shared)
    except Exception as error:
        raise UsageError(
            f"plugin {plugin.name}: {name} cannot be compiled: {type(error).__name__}: {_heart_of(error)}. It takes"
            " (frame, packet, flow, mine, partner, steer, shared), uses numbers alone, and returns nothing"
        ) from error


def _heart_of(error: Exception) -> str:
    """What Numba's long message is about: its first line that names something, and where that stands."""
    lines = [line.strip() for line in _COLOURS.sub("", _text_of(error)).splitlines() if line.strip()]
    lines[0] = lines[0].removeprefix(f"{type(error).__name__}: ")
    said = next((line for line in lines if not line.startswith(_FRAME_OF_MESSAGE)), lines[0])
    place = next((line.rstrip(":") for line in reversed(lines) if line.startswith('File "')), "")
    return f"{said} ({place})" if place else said


def _lines(member: _Member) -> list[str]:
    said = member.plugin.report(member.shared)
    return [str(line) for line in ([said] if isinstance(said, str) else said)]


def _said(member: _Member, now_ns: int) -> dict[str, Any]:
    said = dict(member.plugin.on_monitor(now_ns, member.shared) or {})
    return {str(name): value if isinstance(value, int | float) else str(value) for name, value in said.items()}


def _named(member: _Member, key: str) -> tuple[str, Column]:
    """The column that a key of what a hook returned means."""
    prefix = f"{member.plugin.name}_" if member.plugin.prefix is None else member.plugin.prefix
    side, _, rest = key.partition("_")
    for name in (f"{side}_{prefix}{rest}", f"{prefix}{key}", key):
        if name in member.names:
            return name, member.names[name]
    raise KeyError(f"{key} is no column that the plugin declares; it has {', '.join(member.names)}")


def _read_only(rows: Any) -> Any:
    """The same array, through which nothing can be changed: a hook that tries fails."""
    view = rows.view()
    view.flags.writeable = False
    return view


def _text_of(error: BaseException) -> str:
    """What an exception says; one whose text raises says its name."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the text is the plugin's code, too
        return type(error).__name__


def _owner(name: str, column: Column) -> str:
    """Whose packets decide whether a column means something: those of a direction, or, for a flow, it always does."""
    return name[:4] if column.per == "direction" else "flow"


def _of_record(column: Column, mine: dict[str, Any], name: str, spoke: dict[str, Any]) -> Any:
    """A column that is a field of the record."""
    owner = _owner(name, column)
    return column_of(column, mine["orig" if owner == "flow" else owner][column.name], spoke[owner])


class _Columns(Mapping[str, Any]):
    """Columns of the record of a plugin, made when they are asked for, and those of the plugins that it needs."""

    def __init__(self, of_record: dict[str, Callable[[], Any]], others: dict[str, Any]) -> None:
        self.of_record, self._made = of_record, others

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self.of_record[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.of_record, **self._made})

    def __len__(self) -> int:
        return len({**self.of_record, **self._made})
