"""Plugins by name: the built-ins, and those that installed packages offer (entry points `traceflow.plugins`).

A plugin is named on the command line as `name` or `name:option=value,option=value`. Nothing of a plugin is loaded
before it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any

from traceflow.errors import UsageError, suggest
from traceflow.plugins.contract import Plugin

__all__ = ["BUILT_IN", "Available", "available", "load_plugins", "parse_plugin"]

_GROUP = "traceflow.plugins"
BUILT_IN: dict[str, str] = {
    "basicstats": "traceflow.plugins.basicstats:BasicStats",
    "cicflow": "traceflow.plugins.cicflow:CicFlow",
    "nfstream": "traceflow.plugins.nfstream:NFStream",
    "peafowl": "traceflow.plugins.peafowl:Peafowl",
    "splt": "traceflow.plugins.splt:Splt",
    "tcpflags": "traceflow.plugins.tcpflags:TcpFlags",
    "tcpstates": "traceflow.plugins.tcpstates:TcpStates",
    "tcpwin": "traceflow.plugins.tcpwin:TcpWin",
}
"""Name of a built-in to `module:class`."""


@dataclasses.dataclass(frozen=True)
class Available:
    """A plugin that can be named.

    Attributes:
        name: Its name.
        source: `built in`, or the package that offers it.
        kind: Its class; None where it cannot be loaded.
        problem: Why it cannot.
    """

    name: str
    source: str
    kind: type[Plugin] | None
    problem: str = ""


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=_GROUP)}


def _load(name: str) -> type[Plugin]:
    """The class of a name.

    Raises:
        UsageError: There is none, or it cannot be loaded.
    """
    try:
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            kind = getattr(importlib.import_module(module), attribute)
        else:
            points = _entry_points()
            if name not in points:
                raise UsageError(suggest("plugin", name, {*BUILT_IN, *points}))
            kind = points[name].load()
    except UsageError:
        raise
    except Exception as error:  # whatever the code of a package raises
        raise UsageError(f"plugin {name} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Plugin)):
        raise UsageError(f"plugin {name} is {kind!r}, and no subclass of traceflow.plugins.Plugin")
    if kind.name != name:
        raise UsageError(f"plugin {name} calls itself {kind.name!r}; its entry point must have the same name")
    return kind


def _make(name: str, kind: Any, given: dict[str, Any]) -> Any:
    """An object of a class.

    Raises:
        UsageError: An unknown option, a value that does not fit, or whatever its own code raised.
    """
    try:
        return kind(**given)
    except UsageError:
        raise
    except Exception as error:  # whatever the code of a package raises
        raise UsageError(f"plugin {name} cannot be made: {type(error).__name__}: {error}") from error


def available() -> list[Available]:
    """All plugins that can be named, in the order of their names, those too that cannot be loaded."""
    found = []
    points = _entry_points()
    for name in sorted({*BUILT_IN, *points}):
        source = "built in"
        if name not in BUILT_IN:
            package = points[name].dist
            source = package.name if package is not None else "unknown package"
        try:
            found.append(Available(name, source, _load(name)))
        except UsageError as error:
            found.append(Available(name, source, None, str(error)))
    return found


def parse_plugin(text: str) -> Plugin:
    """The plugin that `name:option=value,...` means.

    Raises:
        UsageError: An unknown plugin or option, a value that does not fit, or one that is given twice.
    """
    name, _, settings = text.partition(":")
    kind = _load(name.strip())
    given: dict[str, Any] = {}
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        option, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(f"plugin {name}: {setting!r} is no option; write option=value")
        if option in given:
            raise UsageError(f"plugin {name}: option {option} was given twice; give it once")
        given[option] = value
    plugin: Plugin = _make(name.strip(), kind, given)
    return plugin


def load_plugins(given: Iterable[str | Plugin | type[Plugin]] | str | Plugin | type[Plugin]) -> list[Plugin]:
    """Plugins from what a user gives, each once; those that they need are added before them, with default options.

    Args:
        given: Names with options as `parse_plugin` reads them, objects, or classes; or one of these alone.

    Raises:
        UsageError: As `parse_plugin`; a plugin twice; plugins that need each other in a circle.
    """
    chosen: dict[str, Plugin] = {}
    for one in [given] if isinstance(given, str | Plugin | type) else given:
        plugin = parse_plugin(one) if isinstance(one, str) else one
        if isinstance(one, type) and issubclass(one, Plugin):
            plugin = _make(one.name, one, {})
        if not isinstance(plugin, Plugin):
            raise UsageError(f"{plugin!r} is no plugin; give a name, or an object of a subclass of Plugin")
        if plugin.name in chosen:
            raise UsageError(f"plugin {plugin.name} was given twice; give it once")
        chosen[plugin.name] = plugin
    ordered: dict[str, Plugin] = {}
    for plugin in tuple(chosen.values()):
        _place(plugin, chosen, ordered, ())
    return list(ordered.values())


def _place(plugin: Plugin, chosen: dict[str, Plugin], ordered: dict[str, Plugin], above: Sequence[str]) -> None:
    """Put a plugin behind all that it needs."""
    if plugin.name in ordered:
        return
    path = (*above, plugin.name)
    if plugin.name in above:
        raise UsageError(f"plugins need each other in a circle: {' -> '.join(path)}")
    if isinstance(plugin.needs, str) or not all(isinstance(name, str) for name in plugin.needs):
        raise UsageError(f"plugin {plugin.name}: needs is {plugin.needs!r}; it must be a tuple of names")
    for name in plugin.needs:
        if name not in chosen:
            try:
                chosen[name] = parse_plugin(name)
            except UsageError as error:
                raise UsageError(f"plugin {plugin.name} needs plugin {name}: {error}") from error
        _place(chosen[name], chosen, ordered, path)
    ordered[plugin.name] = plugin
