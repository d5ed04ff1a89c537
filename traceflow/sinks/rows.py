r"""Rows as csv, jsonl or a plain table, written to a text stream some thousands at a time.

Rows come as columns: one list a field, all of the same length. What is in a cell is decided by rows_flows.py and
rows_frames.py; here stands only how a cell is written. Nothing here prints, and nothing of the engine is imported.

Many rows are written by a kernel instead, where their columns can do that (RowBlock): a row of thirteen fields takes
Python 3 microseconds, and the kernel a tenth of it. What is written is the same.

csv follows RFC 4180 with `\n` as line end; a jsonl line is one JSON object (RFC 8259); an empty cell is nothing in
csv, null in jsonl.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from traceflow.sinks.rows_fields import Field, Kind

__all__ = [
    "FORMATS",
    "MANY_ROWS",
    "CsvRows",
    "JsonlRows",
    "RowBlock",
    "RowWriter",
    "Style",
    "TableRows",
    "TextStream",
    "printable",
    "table_cells",
]

MANY_ROWS = 8192
"""Rows from which on a kernel writes them. Python takes some 30 ms for so many, loading the kernel as long, and
compiling it more than a second."""
_SOME_ROWS = 64
"""Rows at once that a kernel is asked for: laying out a table for it takes as long as writing so many."""

_NEEDS_QUOTES = frozenset(',"\n\r')


class TextStream(Protocol):
    """Where rows are written to."""

    def write(self, text: str, /) -> Any:
        """Append text."""


@dataclass(frozen=True, slots=True)
class Style:
    """What a format puts around cells and into them.

    Attributes:
        leads: What stands before each cell of a row.
        end: What stands behind the last one.
        empty: What an empty cell is.
        quoted: Whether words stand in quotation marks.
        word: Writes a cell of Kind.WORD.
        text: Writes a cell of Kind.TEXT; no text is an empty cell.
    """

    leads: tuple[bytes, ...]
    end: bytes
    empty: bytes
    quoted: bool
    word: Callable[[str], str]
    text: Callable[[str], str]


class RowBlock(Sequence[Sequence[Any]]):
    """Rows as columns, one sequence of cells a field, that can be written without making their cells.

    Attributes:
        rows: How many rows.
    """

    rows: int

    @abstractmethod
    def octets(self, style: Style, head: bytes) -> memoryview | None:
        """The rows in a format, as UTF-8.

        Args:
            style: The format.
            head: What stands before them.

        Returns:
            None where the cells are to be written one by one.
        """


class RowWriter(Protocol):
    """A format of rows."""

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append rows: one sequence of cells (int, str or None) a field."""

    def close(self) -> None:
        """Write what is still to be written, a head without rows for one. The stream stays open."""


def printable(text: str) -> str:
    """Text with control characters as escapes, so that a name cannot steer a terminal or break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _filled(column: Sequence[Any], empty: str) -> Sequence[Any]:
    """A column with `empty` for None."""
    return [empty if cell is None else cell for cell in column] if None in column else column


def _quoted(cell: str | None) -> str:
    if not cell:
        return ""
    if _NEEDS_QUOTES.isdisjoint(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


class _BlockRows:
    """What csv and jsonl share: writing many rows by a kernel.

    Args:
        stream: Where to write; its `write_octets`, if it has one, takes UTF-8.
        style: The format.
    """

    def __init__(self, stream: TextStream, style: Style) -> None:
        self._stream, self._style = stream, style
        self._seen = 0

    def _wrote(self, columns: Sequence[Sequence[Any]], head: str) -> bool:
        """Write rows, behind a head, by a kernel. False: nothing was written."""
        if not isinstance(columns, RowBlock):
            return False
        self._seen += columns.rows
        if self._seen < MANY_ROWS or columns.rows < _SOME_ROWS:
            return False
        octets = columns.octets(self._style, head.encode())
        if octets is None:
            return False
        write_octets = getattr(self._stream, "write_octets", None)
        if write_octets is None:
            self._stream.write(str(octets, "utf-8"))
        else:
            write_octets(octets)
        return True


class CsvRows(_BlockRows):
    """Comma-separated values with a head line.

    Args:
        stream: Where to write.
        fields: The fields, in the order of the columns.
    """

    def __init__(self, stream: TextStream, fields: Sequence[Field]) -> None:
        leads = (b"", *[b","] * (len(fields) - 1))
        empty = b'""' if len(fields) == 1 else b""  # an empty line would be no row
        super().__init__(stream, Style(leads, b"\n", empty, quoted=False, word=str, text=_quoted))
        self._fields = fields
        self._head = ",".join(field.name for field in fields) + "\n"
        self._template = ",".join(["%s"] * len(fields)) + "\n"

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        if self._wrote(columns, self._head):
            self._head = ""
            return
        cells = [
            list(map(_quoted, column)) if field.kind is Kind.TEXT else _filled(column, "")
            for field, column in zip(self._fields, columns, strict=True)
        ]
        if len(cells) == 1:
            cells = [[cell if cell != "" else '""' for cell in cells[0]]]
        rows = map(self._template.__mod__, zip(*cells, strict=True))
        self._stream.write(self._head + "".join(rows))
        self._head = ""

    def close(self) -> None:
        """Write the head if there was no row."""
        if self._head:
            self._stream.write(self._head)
            self._head = ""


class JsonlRows(_BlockRows):
    """One JSON object a line, with every field in it; numbers as numbers.

    Args:
        stream: Where to write.
        fields: The fields, in the order of the columns.
    """

    def __init__(self, stream: TextStream, fields: Sequence[Field]) -> None:
        leads = tuple(f'{"," if at else "{"}"{field.name}":'.encode() for at, field in enumerate(fields))
        super().__init__(stream, Style(leads, b"}\n", b"null", quoted=True, word='"{}"'.format, text=json.dumps))
        self._fields = fields
        self._template = "{" + ",".join(f'"{field.name}":%s' for field in fields) + "}\n"

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        if self._wrote(columns, ""):
            return
        cells = [self._cells(field, column) for field, column in zip(self._fields, columns, strict=True)]
        self._stream.write("".join(map(self._template.__mod__, zip(*cells, strict=True))))

    @staticmethod
    def _cells(field: Field, column: Sequence[Any]) -> Sequence[Any]:
        if field.kind is Kind.TEXT:
            return ["null" if cell is None else json.dumps(cell) for cell in column]
        if field.kind is Kind.WORD:
            return ["null" if cell is None else f'"{cell}"' for cell in column]
        return _filled(column, "null")

    def close(self) -> None:
        """Nothing is left to be written."""


class TableRows:
    """Aligned columns, two spaces apart, numbers to the right. A column grows when a later row needs it.

    Args:
        stream: Where to write.
        fields: The fields, in the order of the columns.
    """

    def __init__(self, stream: TextStream, fields: Sequence[Field]) -> None:
        self._stream, self._fields = stream, fields
        self._widths = [len(field.name) for field in fields]
        self._begun = False

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        cells = [table_cells(column) for column in columns]
        for at, column in enumerate(cells):
            self._widths[at] = max(self._widths[at], max(map(len, column), default=0))
        head = [] if self._begun else [tuple(field.name for field in self._fields)]
        self._begun = True
        self._stream.write("".join(map(self._line, [*head, *zip(*cells, strict=True)])))

    def _line(self, cells: Iterable[str]) -> str:
        texts = (
            cell.ljust(width) if field.kind in (Kind.WORD, Kind.TEXT) else cell.rjust(width)
            for cell, width, field in zip(cells, self._widths, self._fields, strict=True)
        )
        return "  ".join(texts).rstrip() + "\n"

    def close(self) -> None:
        """Write the head if there was no row."""
        if not self._begun:
            self.write([[] for _ in self._fields])


def table_cells(column: Sequence[Any]) -> list[str]:
    """Cells as a table shows them."""
    return ["" if cell is None else printable(str(cell)) for cell in column]


FORMATS: dict[str, Callable[[TextStream, Sequence[Field]], RowWriter]] = {
    "table": TableRows,
    "csv": CsvRows,
    "jsonl": JsonlRows,
}
"""The formats by name."""
