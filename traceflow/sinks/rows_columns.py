"""Columns of rows as arrays: one class for each kind of value, which can say its cells, or have a kernel write them.

`cells` is what a cell is, as Python objects: a table, a few rows and plain kernels are written from these. `draw` lays
the same column out for `put_rows`, which writes csv and jsonl of many rows at once. That the two agree on every field
and value is held by a test (tests/test_rows_columns.py); whoever adds a class here adds it there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from traceflow.compiled import COMPILED
from traceflow.labels import flow_label, label_text
from traceflow.packets import FINER_THAN_MICROSECONDS
from traceflow.protocols import PROTOCOLS_WITH_PORTS, protocol_name
from traceflow.sinks.rows import RowBlock, Style
from traceflow.sinks.rows_fields import Field, Kind
from traceflow.sinks.rows_put import (
    EMPTY,
    IP4,
    IP6,
    MAPPED,
    NEGATIVE,
    NINE_DIGITS,
    NUMBER,
    OPERATION,
    RANGES,
    SIX_DIGITS,
    SLACK,
    TEXT,
    put_rows,
)
from traceflow.sinks.rows_text import blank_where, column_cells, end_texts, range_texts, span_texts, time_texts

__all__ = [
    "Addresses",
    "Block",
    "Cells",
    "Column",
    "Integers",
    "Labels",
    "Names",
    "Ranges",
    "Seconds",
    "Words",
    "by_number",
    "compile_rows",
    "names_of",
    "plugin_column",
]

_Empty = npt.NDArray[np.bool_] | None
_NO_NUMBERS = np.zeros(0, np.uint64)
_NUMBER_ROOM = 21  # a sign and 20 digits
_TIME_ROOM = 22  # a sign, 11 digits, a point, 9 digits
_ADDRESS_ROOM = 40  # eight groups of four digits, and seven colons


class Sheet:
    """A table for `put_rows` that columns are laid out in.

    Args:
        style: The format.
        count: How many rows.
        parts: How many parts the columns have.

    Attributes:
        style: As given.
        count: As given.
    """

    def __init__(self, style: Style, count: int, parts: int) -> None:
        self.style, self.count = style, count
        self._operations = np.zeros(parts + 1, OPERATION)
        self._forms = np.empty(parts * count, np.uint8)
        self._words = np.empty(parts * count, np.uint64)
        self._more = np.empty(parts * count, np.uint64)
        self._texts: list[Any] = []
        self._octets = 0
        self._numbers: list[npt.NDArray[np.uint64]] = []
        self._listed = 0
        self._room = 0
        self._parts = 0
        self.lead = b""
        """What stands before the next part."""

    def text(self, octets: Any) -> int:
        """Keep octets (bytes, or uint8[n]).

        Returns:
            Their place.
        """
        place = self._octets
        self._texts.append(np.frombuffer(octets, np.uint8) if isinstance(octets, bytes) else octets)
        self._octets += len(octets)
        return place

    def numbers(self, numbers: npt.NDArray[Any]) -> int:
        """Keep numbers of frames.

        Returns:
            The place of the first.
        """
        place = self._listed
        self._numbers.append(numbers.astype(np.uint64, copy=False))
        self._listed += len(numbers)
        return place

    def part(self, forms: Any, words: Any, more: Any = 0, *, room: int, blank: bytes | None = None, **how: Any) -> None:
        """Lay out a part of a column.

        Args:
            forms: A form, or uint8[count].
            words: A word, or integers [count] that are not negative.
            more: Likewise.
            room: Octets that all cells together take at most, without what stands around them.
            blank: What an empty cell is, if not what it is in the style.
            how: Columns of OPERATION, True where they are 1.
        """
        blank = self.style.empty if blank is None else blank
        operation = self._operations[self._parts]
        operation["lead"], operation["lead_octets"] = self.text(self.lead), len(self.lead)
        operation["empty"], operation["empty_octets"] = self.text(blank), len(blank)
        for name, wanted in how.items():
            operation[name] = wanted
        here = slice(self._parts * self.count, (self._parts + 1) * self.count)
        self._forms[here], self._words[here], self._more[here] = forms, words, more
        self._room += room + self.count * (len(self.lead) + len(blank) + 2)
        self._parts += 1
        self.lead = b""

    def octets(self, head: bytes) -> memoryview:
        """The rows, behind a head."""
        last = self._operations[self._parts]
        last["lead"], last["lead_octets"] = self.text(self.style.end), len(self.style.end)
        texts = np.concatenate([*self._texts, np.zeros(SLACK, np.uint8)])
        # One list is not copied: that of a flow of many frames is long.
        numbers = self._numbers[0] if len(self._numbers) == 1 else np.concatenate([_NO_NUMBERS, *self._numbers])
        out = np.empty(len(head) + self._room + self.count * len(self.style.end) + SLACK, np.uint8)
        out[: len(head)] = np.frombuffer(head, np.uint8)
        table = self._operations, self._forms, self._words, self._more, texts, numbers
        end = put_rows(*table, self.count, out, len(head))
        return out.data[: int(end)]


class Column(ABC):
    """A column of rows."""

    parts = 1
    """How many parts of a Sheet it takes."""

    @abstractmethod
    def cells(self) -> list[Any]:
        """Its cells: int, str, or None where it is empty."""

    @abstractmethod
    def draw(self, sheet: Sheet, field: Field) -> None:
        """Lay it out as the field of a sheet.

        Raises:
            UnicodeEncodeError: It holds text that is not Unicode.
        """


def _forms(form: Any, count: int, empty: _Empty, negative: _Empty = None) -> Any:
    """Forms of cells, of which some are empty, and some negative."""
    if (empty is None or not empty.any()) and negative is None:
        return form
    forms = np.empty(count, np.uint8)
    forms[:] = form
    if negative is not None:
        forms[negative] |= np.uint8(NEGATIVE)
    if empty is not None:
        forms[empty] = EMPTY
    return forms


def _magnitudes(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], _Empty]:
    """Integers without sign, and where they are negative."""
    if values.dtype.kind == "u" or not len(values) or values.min() >= 0:
        return values, None
    negative = values < 0
    words = values.astype(np.int64).view(np.uint64)
    return np.where(negative, ~words + np.uint64(1), words), negative


def _blank(empty: _Empty, cells: list[Any]) -> list[Any]:
    return cells if empty is None else blank_where(empty, cells)


class Integers(Column):
    """Numbers.

    Args:
        values: Integers [k].
        empty: bool[k].
    """

    def __init__(self, values: npt.NDArray[Any], empty: _Empty = None) -> None:
        self._values, self._empty = values, empty

    def cells(self) -> list[Any]:
        """See Column."""
        return _blank(self._empty, self._values.tolist())

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        words, negative = _magnitudes(self._values)
        forms = _forms(NUMBER, sheet.count, self._empty, negative)
        sheet.part(forms, words, room=sheet.count * _NUMBER_ROOM)


class Seconds(Column):
    """Times, or spans of time, in seconds.

    Args:
        values_ns: int64[k], times; or uint64[k], spans.
        fine: bool[k], where they have nine digits; elsewhere six.
        empty: bool[k].
    """

    def __init__(self, values_ns: npt.NDArray[Any], fine: npt.NDArray[np.bool_], empty: _Empty = None) -> None:
        self._values_ns, self._fine, self._empty = values_ns, fine, empty

    def cells(self) -> list[Any]:
        """See Column."""
        texts = span_texts if self._values_ns.dtype.kind == "u" else time_texts
        return _blank(self._empty, texts(self._values_ns, self._fine))

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        _draw_seconds(sheet, self._values_ns, self._fine, self._empty)


def _draw_seconds(
    sheet: Sheet, values_ns: npt.NDArray[Any], fine: npt.NDArray[np.bool_], empty: _Empty, **how: Any
) -> None:
    words, negative = _magnitudes(values_ns)
    forms = np.where(fine, np.uint8(NINE_DIGITS), np.uint8(SIX_DIGITS))
    sheet.part(_forms(forms, sheet.count, empty, negative), words, room=sheet.count * _TIME_ROOM, **how)


def _steps(place: int, width: int, count: int) -> npt.NDArray[np.uint64]:
    """Places of values of one width, one behind the other."""
    return np.arange(count, dtype=np.uint64) * np.uint64(width) + np.uint64(place)


class Addresses(Column):
    """Addresses.

    Args:
        upper: uint64[k], upper halves.
        lower: uint64[k], lower halves.
        ip_versions: uint8[k].
        empty: bool[k].
    """

    def __init__(
        self, upper: npt.NDArray[Any], lower: npt.NDArray[Any], ip_versions: npt.NDArray[Any], empty: _Empty = None
    ) -> None:
        self._ends, self._empty = (upper, lower, ip_versions), empty

    def cells(self) -> list[Any]:
        """See Column."""
        return _blank(self._empty, end_texts(*self._ends))

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        quoted = sheet.style.quoted
        _draw_addresses(sheet, *self._ends, self._empty, opens=quoted, closes=quoted)


def _draw_addresses(sheet: Sheet, upper: Any, lower: Any, ip_versions: Any, empty: _Empty, **how: Any) -> None:
    place = sheet.text(np.column_stack((upper, lower)).astype(">u8").view(np.uint8).reshape(-1))
    forms: Any = IP4
    if not (ip_versions == 4).all():
        mapped = (upper == 0) & (lower >> np.uint64(32) == 0xFFFF)
        six = np.where(mapped, np.uint8(MAPPED), np.uint8(IP6))
        forms = np.where(ip_versions == 4, np.uint8(IP4), six)
    words = _steps(place, 16, sheet.count)
    sheet.part(_forms(forms, sheet.count, empty), words, room=sheet.count * _ADDRESS_ROOM, **how)


class Names(Column):
    """Values that have names.

    Args:
        indexes: Integers [k], places in `names`.
        names: None: the cell is empty.
        empty: bool[k].
    """

    def __init__(self, indexes: npt.NDArray[Any], names: Sequence[str | None], empty: _Empty = None) -> None:
        self._indexes, self._names, self._empty = indexes, names, empty

    def cells(self) -> list[Any]:
        """See Column."""
        names = self._names
        return _blank(self._empty, [names[index] for index in self._indexes.tolist()])

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        write = _written(sheet.style, field.kind)
        _draw_names(sheet, self._indexes, self._names, self._empty, write)


def _draw_names(
    sheet: Sheet, indexes: Any, names: Sequence[str | None], empty: _Empty, write: Callable[[Any], str], **how: Any
) -> None:
    counts = np.bincount(indexes, minlength=len(names))
    places, sizes = np.zeros(len(counts), np.uint64), np.zeros(len(counts), np.uint64)
    for index in np.flatnonzero(counts).tolist():
        name = names[index]
        octets = b"" if name is None else write(name).encode()
        places[index], sizes[index] = sheet.text(octets), len(octets)
    nothing = (sizes == 0)[indexes] if not sizes[counts > 0].all() else None
    if nothing is not None:
        empty = nothing if empty is None else nothing | empty
    room = int((counts * sizes.astype(np.int64)).sum())
    sheet.part(_forms(TEXT, sheet.count, empty), places[indexes], sizes[indexes], room=room, **how)


def by_number(names: Mapping[int, str]) -> list[str | None]:
    """Names for `Names`, from those of some numbers."""
    return [names.get(number) for number in range(max(names) + 1)]


def names_of(values: npt.NDArray[Any], name: Callable[[int], str | None]) -> Names:
    """A column of few different values, each of which has a name.

    Args:
        values: Integers [k].
        name: Names one of them.
    """
    different, indexes = np.unique(values, return_inverse=True)
    return Names(indexes, [name(value) for value in different.tolist()])


class Words(Column):
    """Short words of ASCII; no word is an empty cell.

    Args:
        values: S[k].
    """

    def __init__(self, values: npt.NDArray[np.bytes_]) -> None:
        self._values = values

    def cells(self) -> list[Any]:
        """See Column."""
        return [word.decode("ascii") or None for word in self._values.tolist()]

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        width = self._values.dtype.itemsize
        octets = np.ascontiguousarray(self._values).view(np.uint8)
        filled = octets.reshape(sheet.count, width) != 0
        sizes = np.where(filled.any(axis=1), width - np.argmax(filled[:, ::-1], axis=1), 0)
        place = sheet.text(octets)
        words = _steps(place, width, sheet.count)
        quoted = sheet.style.quoted
        forms = _forms(TEXT, sheet.count, sizes == 0)
        sheet.part(forms, words, sizes, room=int(sizes.sum()), opens=quoted, closes=quoted)


class Ranges(Column):
    """Lists of ascending numbers, as ranges; no number is an empty cell.

    Args:
        sizes: Integers [k], how many numbers each list has.
        numbers: The lists, one after the other; their sizes add up to its length.
    """

    def __init__(self, sizes: npt.NDArray[Any], numbers: npt.NDArray[Any]) -> None:
        self._sizes, self._numbers = sizes, numbers

    def cells(self) -> list[Any]:
        """See Column."""
        return range_texts(self._sizes, self._numbers)

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        quoted = sheet.style.quoted
        ends = np.cumsum(self._sizes) + sheet.numbers(self._numbers)
        digits = len(str(int(self._numbers.max()))) if len(self._numbers) else 0
        room = len(self._numbers) * (digits + 1)
        forms = _forms(RANGES, sheet.count, self._sizes == 0)
        sheet.part(
            forms, ends - self._sizes, ends, room=room, opens=quoted, closes=quoted, several=not quoted
        )  # fmt: skip


class Labels(Column):
    """Labels of flows, see `labels.flow_label`.

    Args:
        rows: FLOW[k].
    """

    parts = 6

    def __init__(self, rows: npt.NDArray[np.void]) -> None:
        self._rows = rows

    def cells(self) -> list[Any]:
        """See Column."""
        return [flow_label(row) for row in self._rows]

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        rows, quoted = self._rows, sheet.style.quoted
        orig, resp = rows["orig"], rows["resp"]
        late = (orig["packets"] == 0) | ((resp["packets"] > 0) & (resp["opened_frame"] < orig["opened_frame"]))
        times_ns = np.where(late, resp["opened_ns"], orig["opened_ns"])
        fine = np.where(late, resp["time_bits"], orig["time_bits"]) & FINER_THAN_MICROSECONDS != 0
        sheet.lead += b'"' if quoted else b""
        _draw_names(sheet, rows["protocol"], _LABEL_STARTS, None, str, blank=b"")
        without_ports = ~_HAS_PORTS[rows["protocol"]]
        for lead, end in ((b"", "orig"), (b"-", "resp")):
            sheet.lead = lead
            halves = rows[f"{end}_addr"]
            _draw_addresses(sheet, halves[:, 0], halves[:, 1], rows["ip_version"], None, dotted=True)
            sheet.lead = b"_"
            forms = _forms(NUMBER, sheet.count, without_ports)
            sheet.part(forms, rows[f"{end}_port"], room=sheet.count * _NUMBER_ROOM, blank=b"", skipped=True)
        sheet.lead = b"-"
        _draw_seconds(sheet, times_ns, fine, None, closes=quoted)


_LABEL_STARTS = [label_text(protocol_name(number), "", None, "", None, "").removesuffix("--") for number in range(256)]
"""What stands before the addresses of a label, by protocol."""
_HAS_PORTS = np.isin(np.arange(256), list(PROTOCOLS_WITH_PORTS))


class Cells(Column):
    """Cells of any kind, as they are.

    Args:
        cells: int, str or None.
    """

    def __init__(self, cells: list[Any]) -> None:
        self._cells = cells

    def cells(self) -> list[Any]:
        """See Column."""
        return self._cells

    def draw(self, sheet: Sheet, field: Field) -> None:
        """See Column."""
        write = _written(sheet.style, field.kind)
        texts = [b"" if cell is None else write(cell).encode() for cell in self._cells]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        whole = b"".join(texts)
        places = np.cumsum(sizes) - sizes + sheet.text(whole)
        sheet.part(_forms(TEXT, sheet.count, sizes == 0), places, sizes, room=len(whole))


def _written(style: Style, kind: Kind) -> Callable[[Any], str]:
    """How a cell is written."""
    if kind is Kind.TEXT:
        return style.text
    return style.word if kind is Kind.WORD else str


def plugin_column(values: Any, empty: _Empty = None) -> Column:
    """A column that a plugin added.

    Args:
        values: Array, or masked array, [k].
        empty: bool[k], where it is empty besides.
    """
    if values.dtype.kind not in "iu":
        return Cells(_blank(empty, column_cells(values)))
    masked = np.ma.getmaskarray(values)
    return Integers(np.ma.getdata(values), masked if empty is None else masked | empty)


class Block(RowBlock):
    """Some rows.

    Args:
        columns: Their columns.
        fields: One a column.
        count: How many rows.

    Attributes:
        rows: Their number.
    """

    def __init__(self, columns: Sequence[Column], fields: Sequence[Field], count: int) -> None:
        self._columns, self._fields, self.rows = columns, fields, count

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, at: int) -> list[Any]: ...

    @overload
    def __getitem__(self, at: slice) -> list[list[Any]]: ...

    def __getitem__(self, at: int | slice) -> list[Any]:
        if isinstance(at, slice):
            return [column.cells() for column in self._columns[at]]
        return self._columns[at].cells()

    def octets(self, style: Style, head: bytes) -> memoryview | None:
        """See RowBlock."""
        return self.drawn(style, head) if COMPILED else None

    def drawn(self, style: Style, head: bytes) -> memoryview | None:
        """As `octets`, also where kernels are plain Python."""
        sheet = Sheet(style, self.rows, sum(column.parts for column in self._columns))
        try:
            for column, field, lead in zip(self._columns, self._fields, style.leads, strict=True):
                sheet.lead = lead
                column.draw(sheet, field)
        except UnicodeEncodeError:  # a file name that is not UTF-8: the stream decides what becomes of it
            return None
        return sheet.octets(head)


def compile_rows() -> None:
    """Compile what many rows need, or load it."""
    style = Style((b"",), b"", b"", quoted=False, word=str, text=str)
    Sheet(style, 0, 0).octets(b"")
