"""TOML files that people write: their text, and the line of everything that is wrong in one.

The parser of the standard library says where the syntax is wrong, but not where a key stood that it read. So the text
is cut into statements (a header, or a key with its value), which are read one by one; each says what it sets.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from typing import Any, NoReturn

from traceflow.errors import CannotReadError, UsageError

__all__ = ["OCTETS_MAX", "Lines", "Path", "parsed", "read_toml", "refuse"]

OCTETS_MAX = 262144
"""Octets of a file: some thousand rules of a policy."""

_MISTAKES_SHOWN = 50
_DOTS_MAX = 16  # of one key: the parser takes time and memory with the square of its parts
_DEPTH_MAX = 8  # lists and tables in each other that are looked through for places

Path = tuple[str | int, ...]
"""A key, with the keys and places in lists around it."""


def read_toml(path: str | os.PathLike[str], what: str, consequence: str = "") -> str:
    """The text of a file.

    Args:
        path: Its name.
        what: What it is, for messages: `policy`.
        consequence: Text behind the message where it cannot be read.

    Raises:
        CannotReadError: It cannot be opened or read, or is too large.
        UsageError: It is no path, or the file is not UTF-8.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{path!r} is no path of a {what} file")
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - the name may be one that Path would change
            octets = file.read(OCTETS_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise CannotReadError(f"the {what} {name!r} cannot be read: {why}{consequence}") from error
    if len(octets) > OCTETS_MAX:
        raise CannotReadError(f"the {what} {name!r} has more than {OCTETS_MAX} octets; a {what} is shorter")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{line}: octet 0x{octets[error.start]:02x} is not UTF-8; save it as UTF-8") from None


def refuse(file: str, mistakes: list[tuple[int, Path, str]], consequence: str) -> NoReturn:
    """Raise the error of some mistakes.

    Args:
        file: What messages call the file.
        mistakes: Lines, the key that is wrong, and what is wrong with it.
        consequence: What follows from it: "nothing was run".

    Raises:
        UsageError: Always.
    """
    mistakes.sort(key=lambda one: (one[0], str(one[1])))
    shown = [f"  {file}:{line}: {_name_of(path)}{what}" for line, path, what in mistakes[:_MISTAKES_SHOWN]]
    if len(mistakes) > _MISTAKES_SHOWN:
        shown.append(f"  and {len(mistakes) - _MISTAKES_SHOWN} more")
    count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
    raise UsageError("\n".join([f"{file}: {count}; {consequence}", *shown]))


def _name_of(path: Path) -> str:
    """`allow, after: ` of a path in the file."""
    words = [str(part)[:60] for part in path if isinstance(part, str)]
    return f"{', '.join(words)}: " if words else ""


# --- syntax, and lines ---------------------------------------------------------------------------------------------

_AT = re.compile(r"\(at line (\d+), column \d+\)")

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""(?!")|\Z)'  # strings, in which nothing else counts; one without an end takes the rest
    r"|'''.*?(?:'''(?!')|\Z)"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n.=,]",
    re.DOTALL,
)


def parsed(text: str, file: str, consequence: str) -> dict[str, Any]:
    """The text as the standard library reads it.

    Args:
        text: TOML.
        file: What messages call it.
        consequence: As for `refuse`.

    Raises:
        UsageError: It is no TOML; the line is shown.
    """
    _refuse_long_keys(text, file, consequence)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT.search(str(error))
        line_number = int(found[1]) if found else text.count("\n") + 1
        what = _AT.sub("", str(error)).strip()
        refuse(file, [(line_number, (), what[:1].lower() + what[1:])], consequence)
    except (ValueError, RecursionError, OverflowError) as error:  # a number too long to read, lists too deep
        refuse(file, [(_line_that_fails(text), (), f"it cannot be read: {str(error)[:80]}")], consequence)


def _refuse_long_keys(text: str, file: str, consequence: str) -> None:
    """Refuse keys of very many parts, before the parser sees them.

    Raises:
        UsageError: There is one; the line is shown.
    """
    dots = 0
    for token in _TOKEN.finditer(text):
        sign = token.group()
        if sign == ".":
            dots += 1
        elif len(sign) == 1:  # what ends a key; a string is a part of one
            dots = 0
        if dots > _DOTS_MAX:
            refuse(file, [(text.count("\n", 0, token.start()) + 1, (), "the key has too many parts")], consequence)


def _line_that_fails(text: str) -> int:
    """The line of the first statement that cannot be read by itself."""
    for line, statement in _statements(text):
        try:
            tomllib.loads(statement)
        except (ValueError, RecursionError, OverflowError):
            return line
    return 1


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a text, and the line where each begins. Blank lines and comments are statements too."""
    start, line, depth, lines = 0, 1, 0, 0
    for token in _TOKEN.finditer(text):
        sign = token.group()
        depth += (sign in ("[", "{")) - (sign in ("]", "}"))
        lines += sign.count("\n")
        if sign == "\n" and depth <= 0:
            yield line, text[start : token.end()]
            start, line, depth = token.end(), line + lines, 0
            lines = 0
    yield line, text[start:]


class Lines:
    """Where in a text each key and table stands.

    Args:
        text: Valid TOML.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        table: Path = ()
        for line, statement in _statements(text):
            try:
                tree = tomllib.loads(statement)
            except (ValueError, RecursionError):
                continue
            if statement.lstrip().startswith("["):
                table = self._header(tree, line)
            else:
                self._remember(table, tree, line)

    def of(self, path: Path) -> int:
        """The line of a key or table, or of the nearest around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _header(self, tree: dict[str, Any], line: int) -> Path:
        """The table that `[a.b]` or `[[a.b]]` begins."""
        path: Path = ()
        inner: Any = tree
        while isinstance(inner, dict) and inner:
            ((key, inner),) = inner.items()
            path += (key,)
            if isinstance(inner, list):  # [[a]]: one more of them
                self._counts[path] = self._counts.get(path, -1) + 1
                self._lines.setdefault(path, line)
                path += (self._counts[path],)
                inner = None
            elif inner and path in self._counts:  # [a.b] below [[a]] means the last a
                path += (self._counts[path],)
            self._lines.setdefault(path, line)
        return path

    def _remember(self, table: Path, value: Any, line: int) -> None:
        waiting = [(table, value)]
        while waiting:
            path, inner = waiting.pop()
            if path != table:
                self._lines.setdefault(path, line)
            if len(path) > len(table) + _DEPTH_MAX:
                continue
            if isinstance(inner, dict):
                waiting += [((*path, key), part) for key, part in inner.items()]
            elif isinstance(inner, list):
                waiting += [((*path, place), part) for place, part in enumerate(inner)]
