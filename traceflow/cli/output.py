"""Rows to standard output: which format, what a failing write means, and the table that fits a terminal."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from traceflow.cli.commands import View
from traceflow.cli.exits import IncompleteOutputError, PipeClosedError
from traceflow.errors import CannotWriteError
from traceflow.sinks.rows import FORMATS, RowWriter, TableRows, table_cells
from traceflow.sinks.rows_fields import Field, Kind

__all__ = ["RunningTable", "StandardOutput", "TerminalTable", "is_terminal", "row_writer"]

_LINES_AROUND = 9
"""Lines of a terminal that the head, the note, the account and the prompt take."""
_GAP = 2


def is_terminal() -> bool:
    """Whether rows are read by a person."""
    return sys.stdout.isatty()


def row_writer(view: View, *, at_once: bool = False) -> RowWriter:
    """The writer of a view to standard output.

    Args:
        view: How rows are shown.
        at_once: Rows come when they happen, and are shown then.
    """
    name = view.format or ("table" if is_terminal() else "csv")
    if name == "table" and is_terminal():
        return RunningTable(view.fields) if at_once else TerminalTable(view.fields)
    return FORMATS[name](StandardOutput(), view.fields)


class StandardOutput:
    """Standard output as a stream whose rows are there at once, and whose failure says what was lost."""

    def __init__(self) -> None:
        self._written = False
        self._begin = _position()

    def write(self, text: str) -> None:
        """Write and flush.

        Raises:
            PipeClosedError: The reader went away.
            CannotWriteError: Nothing can be written.
            IncompleteOutputError: Some rows had been written before.
        """
        with self._failing():
            sys.stdout.write(text)
            sys.stdout.flush()

    def write_octets(self, octets: memoryview) -> None:
        """Write UTF-8 and flush: without a detour where that is what standard output takes.

        Args:
            octets: Whole characters, with bare line ends.

        Raises:
            CannotWriteError: As above; the others too.
        """
        if not _takes_octets(sys.stdout):
            self.write(str(octets, "utf-8"))
            return
        with self._failing():
            sys.stdout.flush()
            rest = octets
            while rest:  # an unbuffered stream may take a part
                rest = rest[sys.stdout.buffer.write(rest) :]
            sys.stdout.buffer.flush()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Say what it means when writing fails."""
        try:
            yield
        except BrokenPipeError:
            raise PipeClosedError from None
        except OSError as error:
            some = self._written or _position() > self._begin
            kind = IncompleteOutputError if some else CannotWriteError
            lost = "rows are missing" if some else "nothing was written"
            raise kind(f"standard output cannot be written: {error.strerror or error}; {lost}") from error
        self._written = True


def _position() -> int:
    """How many octets stand in the file that standard output is; 0 where it is none."""
    try:
        return os.lseek(sys.stdout.fileno(), 0, os.SEEK_CUR)
    except (OSError, ValueError, AttributeError):
        return 0


def _takes_octets(stream: Any) -> bool:
    """Whether a text stream has octets below it, which are UTF-8 with line ends as they are."""
    encoding = getattr(stream, "encoding", None)
    plain = encoding is not None and codecs.lookup(encoding).name == "utf-8" and os.linesep == "\n"
    return plain and hasattr(stream, "buffer")


class TerminalTable:
    """The first rows and columns that fit the terminal, and a note on the rest.

    Args:
        fields: The columns.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._console = importlib.import_module("rich.console").Console(highlight=False)
        self._fields = fields
        self._room = max(self._console.height - _LINES_AROUND, 5)
        self._rows: list[tuple[str, ...]] = []
        self._seen = 0

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Take rows; only those that fit are kept."""
        lacking = self._room - len(self._rows)
        if lacking > 0:
            self._rows += zip(*(table_cells(column[:lacking]) for column in columns), strict=True)
        self._seen += len(columns[0])

    def close(self) -> None:
        """Print the table."""
        shown = self._columns_that_fit()
        table = importlib.import_module("rich.table").Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        text = importlib.import_module("rich.text").Text
        for field in self._fields[:shown]:
            right = field.kind in (Kind.INTEGER, Kind.DECIMAL)
            table.add_column(field.name, justify="right" if right else "left", no_wrap=True, header_style="bold")
        for row in self._rows:
            table.add_row(*(text(cell) for cell in row[:shown]))
        self._console.print(table)
        left_out = ", ".join(field.name for field in self._fields[shown:])
        notes = []
        if self._seen > len(self._rows):
            notes.append(f"{self._seen - len(self._rows)} more rows")
        if left_out:
            notes.append(f"no room for {left_out}")
        if notes:
            self._console.print(text(f"{'; '.join(notes)} (-T csv shows all)", style="dim"))

    def _columns_that_fit(self) -> int:
        """How many of the first columns fit into a line; at least one."""
        used = 0
        for at, field in enumerate(self._fields):
            width = max([len(field.name), *(len(row[at]) for row in self._rows)])
            used += width + _GAP
            if used > self._console.width + _GAP and at:
                return at
        return len(self._fields)


_RUNNING_WIDTHS = {Kind.INTEGER: 7, Kind.DECIMAL: 13, Kind.WORD: 15, Kind.TEXT: 20}
"""What the cells of a column take, where the rows are not known yet; a wider one moves its row, and those after it."""
_TIME_WIDTH = 20  # seconds since 1970, a dot and nine digits
_TIMES = ("first", "last", "time")


class RunningTable(TableRows):
    """A table whose rows are printed as they come, with as many of the first columns as fit the terminal.

    Args:
        fields: The columns.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._console = importlib.import_module("rich.console").Console(highlight=False)
        widths = [
            max(len(field.name), _TIME_WIDTH if field.name in _TIMES else _RUNNING_WIDTHS[field.kind])
            for field in fields
        ]
        shown, used = 0, 0
        for width in widths:
            used += width + _GAP
            if used > self._console.width + _GAP and shown:
                break
            shown += 1
        super().__init__(StandardOutput(), fields[:shown])
        self._widths = widths[:shown]
        self._left_out = ", ".join(field.name for field in fields[shown:])

    def write(self, columns: Sequence[Sequence[Any]]) -> None:
        """Print rows."""
        super().write(columns[: len(self._widths)])

    def close(self) -> None:
        """Say what was left out."""
        super().close()
        if self._left_out:
            text = importlib.import_module("rich.text").Text
            self._console.print(text(f"no room for {self._left_out} (-T csv shows all)", style="dim"))
