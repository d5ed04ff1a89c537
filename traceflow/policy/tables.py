"""A policy as a TOML file, and everything that is wrong in one, with lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from traceflow.errors import UsageError, suggest
from traceflow.filters.kinds import BUILT_IN, KINDS
from traceflow.policy.rules import KEYS, Mistake, Rule, brief, checked_functions, checked_rule
from traceflow.tomlfile import OCTETS_MAX, Lines, parsed, read_toml, refuse

__all__ = ["OCTETS_MAX", "checked_names", "parse_policy", "read_text"]

_WITHOUT = "without this policy nothing may run"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # as filters.kinds.register has it


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a policy file.

    Raises:
        CannotReadError: It cannot be opened or read, or is too large.
        UsageError: It is no path, or the file is not UTF-8.
    """
    return read_toml(path, "policy", "; without it nothing may run")


def parse_policy(text: str, file: str) -> tuple[list[Rule], tuple[str, ...]]:
    """The rules in a text, and the functions of users that it names.

    Args:
        text: TOML.
        file: What messages call it.

    Raises:
        UsageError: Everything that is wrong, with lines.
    """
    if len(text) > OCTETS_MAX:
        raise UsageError(f"{file}: a policy has at most {OCTETS_MAX} characters, this one {len(text)}")
    tree = parsed(text, file, _WITHOUT)
    lines = Lines(text)
    rules: list[Rule] = []
    names, wrong = checked_names(tree.get("functions", []))
    mistakes: list[Mistake] = [(("functions", *path), what) for path, what in wrong]
    for key, value in tree.items():
        if key == "functions":
            continue
        if key not in KEYS:
            mistakes.append(((key,), suggest("table", key[:64], [*KEYS, "functions"])))
        elif not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            mistakes.append(((key,), f"rules are tables in a list; write [[{key}]] and the keys below it"))
        else:
            for place, table in enumerate(value):
                rule, found = checked_rule(key, table, f"{file}:{lines.of((key, place))}")
                found += checked_functions(rule, {*KINDS, *names})
                mistakes += [((key, place, *path), what) for path, what in found]
                rules.append(rule)
    if mistakes:
        refuse(file, [(lines.of(path), path, what) for path, what in mistakes], _WITHOUT)
    return rules, names


def checked_names(value: Any) -> tuple[tuple[str, ...], list[Mistake]]:
    """The names of functions of users, and what is wrong with them."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return (), [((), f'it is {brief(value)}; write a list of names, such as ["drop", "return"]')]
    taken = {name.lower(): name for name in BUILT_IN}
    names: list[str] = []
    mistakes: list[Mistake] = []
    for place, name in enumerate(value):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            mistakes.append(((place,), f"{brief(name)} is no name; needed are letters, digits and _, a letter first"))
        elif name.lower() in taken:
            mistakes.append(((place,), f"{taken[name.lower()]} is a filter of traceflow; functions have other names"))
        else:
            names.append(name)
    return tuple(names), mistakes
