"""Columns that a kernel writes: what `Block.drawn` makes is what the formats make of the same cells, octet by octet.

The cells themselves are held in tests/test_rows.py; lines by hand below say what both ways are.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.compiled import COMPILED, U64
from traceflow.flows import FLOW, Account, EndCause, FlowSet
from traceflow.framelists import FrameMap
from traceflow.options import options_for
from traceflow.packets import Tunnel
from traceflow.pipeline import Run, trace
from traceflow.sinks.rows import MANY_ROWS, CsvRows, JsonlRows
from traceflow.sinks.rows_columns import (
    Addresses,
    Block,
    Cells,
    Column,
    Integers,
    Labels,
    Names,
    Ranges,
    Seconds,
    Words,
    names_of,
    plugin_column,
)
from traceflow.sinks.rows_fields import FLOW_FIELDS, FRAME_FIELDS, Field, Kind
from traceflow.sinks.rows_flows import flow_columns
from traceflow.sinks.rows_frames import frame_columns
from traceflow.sinks.rows_put import NUMBER, OPERATION, SLACK, put_rows
from traceflow.sources import open_source
from traceflow.table import FROM_UPPER, MARK

FORMATS = (CsvRows, JsonlRows)
KINDS = {Integers: Kind.INTEGER, Seconds: Kind.DECIMAL, Ranges: Kind.TEXT}
"""Kinds of the fields that columns are written as; the others are words, or stand in the tests themselves."""


class Octets:
    """A stream that takes octets too, and counts how often it was given them."""

    def __init__(self) -> None:
        self.all, self.blocks = b"", 0

    def write(self, text: str) -> None:
        self.all += text.encode()

    def write_octets(self, octets: memoryview) -> None:
        self.all += octets
        self.blocks += 1


def by_cells(kind: Any, fields: list[Field], *batches: Any) -> str:
    """What a format writes of lists of cells."""
    stream = io.StringIO()
    writer = kind(stream, fields)
    for columns in batches:
        writer.write([list(column) for column in columns])
    writer.close()
    return stream.getvalue()


def drawn(kind: Any, fields: list[Field], block: Block) -> str | None:
    """What the kernel writes of the same."""
    writer = kind(io.StringIO(), fields)
    octets = block.drawn(writer._style, ",".join(field.name for field in fields).encode() + b"\n")
    if octets is None:
        return None
    text = str(octets, "utf-8")
    return text if kind is CsvRows else text.partition("\n")[2]


def agree(block: Block, fields: list[Field]) -> None:
    for kind in FORMATS:
        assert drawn(kind, fields, block) == by_cells(kind, fields, block)


def block_of(columns: list[Column], kinds: list[Kind] | None = None) -> tuple[Block, list[Field]]:
    kinds = kinds or [KINDS.get(type(column), Kind.WORD) for column in columns]
    fields = [Field(f"c{at}", kind) for at, kind in enumerate(kinds)]
    return Block(columns, fields, len(columns[0].cells())), fields


# --- by hand ---------------------------------------------------------------------------------------------------


def test_lines_by_hand() -> None:
    empty = np.array([False, True])
    halves = np.array([0, 0], np.uint64), np.array([0xFFFF_C000_0201, 0xFFFF_0A00_0001], np.uint64)
    columns: list[Column] = [
        Integers(np.array([-7, 0], np.int64), empty),
        Seconds(np.array([-1_500_000_000, 2_000_000_001], np.int64), np.array([False, True])),
        Addresses(*halves, np.array([4, 6], np.uint8)),
        Names(np.array([1, 0]), [None, "fin"]),
        Words(np.array([b"ShA", b""], "S8")),
        Ranges(np.array([3, 3]), np.array([1, 2, 3, 5, 7, 8], np.uint32)),
    ]
    block, fields = block_of(columns)
    # 192.0.2.1 is c0 00 02 01; RFC 5952 section 5: a mapped address ends in the dotted form
    assert drawn(CsvRows, fields, block) == (
        'c0,c1,c2,c3,c4,c5\n-7,-1.500000,192.0.2.1,fin,ShA,1-3\n,2.000000001,::ffff:10.0.0.1,,,"5,7-8"\n'
    )
    assert drawn(JsonlRows, fields, block) == (
        '{"c0":-7,"c1":-1.500000,"c2":"192.0.2.1","c3":"fin","c4":"ShA","c5":"1-3"}\n'
        '{"c0":null,"c1":2.000000001,"c2":"::ffff:10.0.0.1","c3":null,"c4":null,"c5":"5,7-8"}\n'
    )


def test_an_empty_cell_of_one_column_is_no_empty_line() -> None:
    block, fields = block_of([Integers(np.array([5, 6], np.uint8), np.array([True, False]))])
    assert drawn(CsvRows, fields, block) == 'c0\n""\n6\n'


def test_a_buffer_that_is_too_small_is_an_error() -> None:
    """One row, one column, the number 5: SLACK octets are enough for it, and seven are not."""
    table = np.zeros(2, OPERATION), np.full(1, NUMBER, np.uint8), np.full(1, 5, np.uint64), np.zeros(1, np.uint64)
    behind = np.zeros(SLACK, np.uint8), np.zeros(0, np.uint64), 1
    out = np.zeros(SLACK, np.uint8)
    assert put_rows(*table, *behind, out, 0) == 1
    assert out[0] == ord("5")
    with pytest.raises(IndexError):
        put_rows(*table, *behind, np.zeros(7, np.uint8), 0)


# --- every column and value ------------------------------------------------------------------------------------

ROWS = 6
WORDS = [*range(2), 9, 10, 99_999_999, 10**8, 10**16 - 1, 10**16, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
words = st.sampled_from(WORDS) | st.integers(0, 2**64 - 1)
flags = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array)
empties = st.none() | flags
NASTY = ["plain", "a,b", 'say "x"', "two\nlines", "", None, "caf\u00e9", "\U0001f600", "tab\tx", "back\\slash"]


def many(values: Any, kind: Any) -> Any:
    return st.lists(values, min_size=ROWS, max_size=ROWS).map(lambda some: np.array(some, kind))


def integers(kind: str) -> Any:
    range_of = np.iinfo(kind)
    extremes = st.sampled_from([int(range_of.min), int(range_of.max), 0])
    values = many(extremes | st.integers(int(range_of.min), int(range_of.max)), kind)
    return st.builds(Integers, values, empties)


halves = many(st.sampled_from([0, 1, 0xFFFF << 32, 0xFFFF_0A00_0001, 0x0A00_0001, 0x1_0000_0000]) | words, np.uint64)
addresses = st.builds(Addresses, halves, halves, many(st.sampled_from([4, 6, 6]), np.uint8), empties)
times = many(st.integers(-(2**62), 2**62) | st.sampled_from([-1, -999, -1000, 0, 999]), np.int64)
lists = st.lists(st.sets(st.integers(1, 12) | st.just(2**32), max_size=6), min_size=ROWS, max_size=ROWS).map(
    lambda sets: Ranges(
        np.array([len(one) for one in sets]), np.array([number for one in sets for number in sorted(one)], np.uint64)
    )
)
numbers = st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]).flatmap(integers)
names = many(st.integers(0, 3), np.uint8)
short = many(st.text("ShADadFfR^+", max_size=8).map(str.encode), "S8")
columns_of_any_kind = st.one_of(
    numbers,
    addresses,
    lists,
    st.builds(Seconds, times, flags, empties),
    st.builds(Seconds, many(words, np.uint64), flags),
    st.builds(Names, names, st.just(["fin", None, "end of input", "x"]), empties),
    st.builds(Words, short),
)


@settings(max_examples=120 if COMPILED else 30, deadline=None)
@given(columns=st.lists(columns_of_any_kind, min_size=1, max_size=6))
def test_columns_of_any_kind(columns: list[Column]) -> None:
    agree(*block_of(columns))


@settings(max_examples=60 if COMPILED else 20, deadline=None)
@given(
    texts=st.lists(st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=9),
    alone=st.booleans(),
)
def test_texts_of_any_kind(texts: list[Any], alone: bool) -> None:
    columns: list[Column] = [Cells(texts)]
    kinds = [Kind.TEXT]
    if not alone:
        places = np.arange(len(texts))
        columns += [Names(places[::-1], texts), names_of(places % 3, lambda at: texts[at])]
        kinds += [Kind.TEXT, Kind.TEXT]
    agree(*block_of(columns, kinds))


def test_columns_of_plugins() -> None:
    mask = [False, True, False, False]
    values = [
        np.ma.array([1, 2, 255, 0], mask=mask, dtype="u1"),
        np.ma.array([-(2**63), 2, 2**63 - 1, -1], mask=mask, dtype="i8"),
        np.ma.array([0.1, 2.0, np.nan, -1e300], mask=mask, dtype="f8"),
        np.ma.array([0.1, 2.0, np.inf, 3.0], mask=mask, dtype="f4"),
        np.ma.array(["a,b", "x", None, "\ud800"], mask=mask, dtype=object),  # half a pair becomes an escape
    ]
    kinds = [Kind.INTEGER, Kind.INTEGER, Kind.DECIMAL, Kind.DECIMAL, Kind.TEXT]
    agree(*block_of([plugin_column(one) for one in values], kinds))
    without = np.array([True, False, False, False])
    block, fields = block_of([plugin_column(one, without) for one in values], kinds)
    agree(block, fields)
    # the first row is empty in all columns, the second is masked
    assert str(drawn(CsvRows, fields, block)).splitlines()[1:3] == [",,,,", ",,,,"]


def flows_of(seed: int, extreme: bool) -> FlowSet:
    """Flows whose columns are random octets, but for those that have names, and times and letters of a history."""
    chance = np.random.default_rng(seed)
    rows = np.frombuffer(chance.bytes(ROWS * FLOW.itemsize), FLOW).copy()
    if extreme:
        rows = np.frombuffer(chance.choice([0, 255], ROWS * FLOW.itemsize, p=[0.9, 0.1]).astype("u1"), FLOW).copy()
    rows["number"] = np.arange(1, ROWS + 1)
    rows["ip_version"] = chance.choice([4, 6], ROWS)
    rows["protocol"] = chance.choice([1, 6, 17, 58, 132, 200], ROWS)
    rows["end_cause"] = chance.integers(1, max(EndCause) + 1, ROWS)
    rows["tunnel"] = chance.integers(0, max(Tunnel) + 1, ROWS)
    rows["conn_state"] = chance.integers(0, 13, ROWS)
    letters = np.frombuffer(b"ShADadFf^", np.uint8)
    rows["history"] = [chance.choice(letters, size).tobytes() for size in chance.integers(0, 49, ROWS)]
    for part in (rows, rows["orig"], rows["resp"]):
        for name in ("first_ns", "last_ns", "opened_ns"):
            if name in (part.dtype.names or ()):
                part[name] = chance.integers(-(2**62), 2**62, ROWS) // chance.choice([1, 10**9, 2**61], ROWS)
    for half in (rows["orig"], rows["resp"]):
        half["packets"] = chance.integers(0, 3, ROWS)
    marks = np.zeros(40, MARK)
    marks["flow"], marks["direction"] = chance.integers(0, ROWS + 1, 40), chance.integers(0, 4, 40)
    marks["flow"][0] = ROWS  # so that the map knows of all flows
    frame_map = FrameMap()
    frame_map.add(marks, FROM_UPPER)
    return FlowSet(rows, frame_map, Account())


@settings(max_examples=40 if COMPILED else 3, deadline=None)
@given(seed=st.integers(0, 2**32), extreme=st.booleans())
def test_all_fields_of_random_flows(seed: int, extreme: bool) -> None:
    fields = list(FLOW_FIELDS.values())
    for block in flow_columns(flows_of(seed, extreme), fields):
        agree(block, fields)


@pytest.mark.parametrize(
    "name",
    ["http.pcap", "T18b.pcap", "verdicts.pcapng", "vlan-stacks.pcap", "ipv6-extensions.pcap", "T32-blocks.pcapng"]
    + ["negative-time.pcapng"] * COMPILED,
)
def test_all_fields_of_fixtures(name: str, fixtures_folder: Path) -> None:
    path, fields = fixtures_folder / name, list(FLOW_FIELDS.values())
    for block in flow_columns(trace(path), fields):
        agree(block, fields)
    fields = list(FRAME_FIELDS.values())
    with open_source(path) as captures:
        for step in Run(captures, options_for()).steps():
            if step.batch is not None:
                agree(frame_columns(step, captures.interfaces, fields), fields)


def test_labels_of_few_fields(fixtures_folder: Path) -> None:
    """A label has six parts: columns before and behind it stay where they are."""
    flows = trace(fixtures_folder / "http.pcap")
    number = Integers(flows.columns["number"])
    block, fields = block_of([Labels(flows.columns), number, Labels(flows.columns)])
    agree(block, fields)
    lines = str(drawn(CsvRows, fields, block)).splitlines()
    assert lines[1:] == [f"{flow.label},{flow.number},{flow.label}" for flow in flows]


# --- which way is gone -----------------------------------------------------------------------------------------


def numbered(first: int, count: int) -> Block:
    columns: list[Column] = [Integers(np.arange(first, first + count)), Words(np.full(count, b"ShA", "S4"))]
    return block_of(columns)[0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sizes", [[MANY_ROWS], [5, MANY_ROWS, 70, 3, 100], [MANY_ROWS - 1, 1]])
def test_which_rows_a_kernel_writes_cannot_matter(kind: Any, sizes: list[int]) -> None:
    starts = np.cumsum([0, *sizes]).tolist()
    blocks = [numbered(first, count) for first, count in zip(starts, sizes, strict=False)]
    fields = [Field("c0", Kind.INTEGER), Field("c1", Kind.WORD)]
    stream, text = Octets(), io.StringIO()
    for target in (stream, text):
        writer = kind(target, fields)
        for block in blocks:
            writer.write(block)
        writer.close()
    assert stream.all.decode() == text.getvalue() == by_cells(kind, fields, *blocks)
    # Of the second list: the 8192 that come after 5, and 70 and 100 of those behind them, 64 at least.
    expected = {1: 1, 5: 3, 2: 0}[len(sizes)]
    assert stream.blocks == (expected if COMPILED else 0)


def test_text_that_is_not_unicode_is_left_to_the_stream() -> None:
    """A file name that is not UTF-8 comes as half a surrogate pair: what becomes of it, standard output knows."""
    block, fields = block_of([Names(np.zeros(MANY_ROWS, np.uint8), ["\udcff"])], [Kind.TEXT])
    assert drawn(CsvRows, fields, block) is None
    stream = io.StringIO()
    CsvRows(stream, fields).write(block)
    assert stream.getvalue() == "c0\n" + "\udcff\n" * MANY_ROWS
    assert str(drawn(JsonlRows, fields, block)).startswith('{"c0":"\\udcff"}\n'), "JSON has an escape for it"


def test_arguments_of_the_kernel_are_those_of_its_plain_form() -> None:
    """The place behind the rows is a uint64 either way, and no rows leave it where it is."""
    none = np.zeros(0, np.uint64)
    end = put_rows(
        np.zeros(1, OPERATION), np.zeros(0, np.uint8), none, none, np.zeros(SLACK, np.uint8), none, 0,
        np.zeros(SLACK, np.uint8), 3,
    )  # fmt: skip
    assert U64(end) == 3
