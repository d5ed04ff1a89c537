"""`traceflow plugins`, and what plugins add to the other commands: their columns as fields of rows."""

from __future__ import annotations

from collections.abc import Sequence

from traceflow.cli.exits import Exit
from traceflow.cli.messages import say
from traceflow.cli.output import StandardOutput
from traceflow.errors import UsageError, suggest
from traceflow.plugins import Plugin, available, load_plugins
from traceflow.plugins.registry import Available
from traceflow.plugins.running import column_names, packet_column_names
from traceflow.sinks.rows import printable
from traceflow.sinks.rows_fields import FRAME_FIELDS, Field, kind_of

__all__ = ["flow_fields", "frame_fields", "load", "run"]


def load(given: Sequence[str]) -> list[Plugin]:
    """The plugins of a command line.

    Raises:
        UsageError: See `plugins.registry.load_plugins`.
    """
    return load_plugins(given)


def flow_fields(plugins: Sequence[Plugin]) -> dict[str, Field]:
    """The fields of rows of flows that plugins add, by name; where there is one already, the run refuses the plugin."""
    return {
        name: Field(name, kind_of(column.type)) for plugin in plugins for name, column in column_names(plugin).items()
    }


def frame_fields(plugins: Sequence[Plugin]) -> dict[str, Field]:
    """The fields of rows of frames that plugins add: what they keep of a direction.

    Raises:
        UsageError: There is a field of that name already.
    """
    fields: dict[str, Field] = {}
    for plugin in plugins:
        for name, column in packet_column_names(plugin).items():
            if name in FRAME_FIELDS or name in fields:
                raise UsageError(f"plugin {plugin.name}: there is a column {name} already; give it another prefix")
            fields[name] = Field(name, kind_of(column.type))
    return fields


def run(names: Sequence[str]) -> int:
    """List the plugins, or show some.

    Args:
        names: Those to show; none: a line for each that there is.

    Returns:
        The exit code: 3 where one cannot be loaded.

    Raises:
        UsageError: An unknown name.
    """
    found = {plugin.name: plugin for plugin in available()}
    for name in names:
        if name not in found:
            raise UsageError(suggest("plugin", name, found))
    chosen = [found[name] for name in names] if names else list(found.values())
    out = StandardOutput()
    for plugin in chosen:
        out.write("".join(f"{printable(line)}\n" for line in _lines(plugin, whole=bool(names))))
    broken = [plugin for plugin in chosen if plugin.kind is None]
    for plugin in broken:
        say(plugin.problem)
    return Exit.INCOMPLETE if broken else Exit.OK


def _lines(plugin: Available, *, whole: bool) -> list[str]:
    """What is said of a plugin."""
    if plugin.kind is None:
        return [f"{plugin.name} ({plugin.source}): cannot be loaded"]
    lines = [f"{plugin.name} ({plugin.source}): {plugin.kind.description}"]
    if not whole:
        return lines
    lines += [f"  option {option.name} = {option.default}: {option.description}" for option in plugin.kind.options]
    lines += [f"  needs {name}" for name in plugin.kind.needs]
    for name, column in column_names(plugin.kind).items():
        unit = f", {column.unit}" if column.unit else ""
        lines.append(f"  column {name} ({column.type}{unit}): {column.description}")
    return lines
