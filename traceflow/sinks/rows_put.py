"""Many rows to text at once: a kernel that writes the cells of a table of forms and words into one buffer.

A cell has a form (a number, a time, an address, a text that lies ready ...) and a word, which is the value, or the
place where the value lies. What stands around cells - separators, names, quotation marks, what an empty cell is - is an
operation of its column, so one kernel writes csv and jsonl of any fields. It knows no field and no format; which form
a column takes is the business of rows_columns.py.

Up to seven octets behind the text are overwritten, as in templates_text.py, where numbers and addresses are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, kernel, load_word, outline_kernel, store_word
from traceflow.sinks.templates_text import put_decimal, put_epoch, put_ip4, put_ip6

__all__ = [
    "EMPTY",
    "IP4",
    "IP6",
    "MAPPED",
    "NEGATIVE",
    "NINE_DIGITS",
    "NUMBER",
    "OPERATION",
    "RANGES",
    "SIX_DIGITS",
    "SLACK",
    "TEXT",
    "put_rows",
]

EMPTY, NUMBER, TEXT, SIX_DIGITS, NINE_DIGITS, RANGES, IP4, IP6, MAPPED = range(9)
"""Forms of cells. NUMBER: the word in decimal. TEXT: `more` octets of `texts` from the word on. SIX_DIGITS and
NINE_DIGITS: the word as nanoseconds, in seconds. RANGES: `numbers` from the word up to `more`, as `1-3,7`. IP4, IP6 and
MAPPED: the 16 octets of `texts` from the word on, as the address they are; MAPPED is an IPv6 address with an IPv4
address in it."""
NEGATIVE = 64
"""Added to a form: a minus sign stands before it."""

OPERATION = np.dtype(
    [
        ("lead", "u8"),  # what stands before the cell: its place in `texts`
        ("lead_octets", "u8"),
        ("empty", "u8"),  # what an empty cell is, likewise
        ("empty_octets", "u8"),
        ("opens", "u1"),  # 1: a quotation mark before a cell that is not empty
        ("closes", "u1"),  # 1: one behind it
        ("several", "u1"),  # 1: both, around ranges with a comma
        ("dotted", "u1"),  # 1: the colons of an address become dots
        ("skipped", "u1"),  # 1: an empty cell has no lead either
    ],
    align=True,
)
"""How a column is written. The last operation has no column: its lead ends the row."""

SLACK = 16
"""Octets that `texts` and `out` have behind what they hold: texts are read and written eight at a time."""

_QUOTE, _MINUS, _COMMA, _COLON, _DOT = 0x22, 0x2D, 0x2C, 0x3A, 0x2E
_MAPPED_WORD = int.from_bytes(b"::ffff:\0", "little")


@outline_kernel
def _put_text(out: Any, at: Any, texts: Any, start: Any, octets: Any) -> Any:
    done = U64(0)
    while done < octets:
        store_word(out, at + done, load_word(texts, start + done))
        done += U64(8)
    return at + octets


@outline_kernel
def _put_number(out: Any, at: Any, number: Any) -> Any:
    return put_decimal(out, at, number)


@outline_kernel
def _put_address(out: Any, at: Any, texts: Any, start: Any, form: Any, dotted: Any) -> Any:
    begin = at
    if form == U64(IP4):
        return put_ip4(out, at, texts, start + U64(12))
    if form == U64(IP6):
        at = put_ip6(out, at, texts, start)
    else:
        store_word(out, at, U64(_MAPPED_WORD))
        at = put_ip4(out, at + U64(7), texts, start + U64(12))
    if dotted:
        while begin < at:
            if out[begin] == _COLON:
                out[begin] = _DOT
            begin += U64(1)
    return at


@outline_kernel
def _put_ranges(out: Any, at: Any, numbers: Any, start: Any, stop: Any, several: Any) -> Any:
    """Ascending numbers, one at least, as ranges; in quotation marks where there are several, if those are wanted."""
    quoted = several and numbers[stop - U64(1)] - numbers[start] != stop - start - U64(1)
    if quoted:
        store_word(out, at, U64(_QUOTE))
        at += U64(1)
    while start < stop:
        low = numbers[start]
        high = low
        start += U64(1)
        while start < stop and numbers[start] == high + U64(1):
            high += U64(1)
            start += U64(1)
        at = _put_number(out, at, low)
        if high != low:
            store_word(out, at, U64(_MINUS))
            at = _put_number(out, at + U64(1), high)
        if start < stop:
            store_word(out, at, U64(_COMMA))
            at += U64(1)
    if quoted:
        store_word(out, at, U64(_QUOTE))
        at += U64(1)
    return at


@kernel
def put_rows(
    operations: Any, forms: Any, words: Any, more: Any, texts: Any, numbers: Any, count: Any, out: Any, at: Any
) -> Any:
    """Write rows.

    Args:
        operations: OPERATION[c + 1], one a column, and the one that ends a row.
        forms: uint8[c * count], column by column.
        words: uint64[c * count].
        more: uint64[c * count], read for TEXT and RANGES alone.
        texts: uint8[...], with SLACK behind what is in it.
        numbers: uint64[...], of RANGES.
        count: How many rows.
        out: uint8[...], large enough, with SLACK.
        at: Where to begin in it.

    Returns:
        The place behind the last row.

    Raises:
        IndexError: It is not large enough, or a place is none.
    """
    at = U64(at)
    count = U64(count)
    columns = U64(operations.shape[0]) - U64(1)
    row = U64(0)
    while row < count:
        place = row
        column = U64(0)
        while column < columns:
            operation = operations[column]
            form = U64(forms[place])
            if form != U64(EMPTY) or not operation["skipped"]:
                at = _put_text(out, at, texts, operation["lead"], operation["lead_octets"])
            if form == U64(EMPTY):
                at = _put_text(out, at, texts, operation["empty"], operation["empty_octets"])
            else:
                if operation["opens"]:
                    store_word(out, at, U64(_QUOTE))
                    at += U64(1)
                word = words[place]
                if form & U64(NEGATIVE):
                    store_word(out, at, U64(_MINUS))
                    at += U64(1)
                    form -= U64(NEGATIVE)
                if form == U64(NUMBER):
                    at = _put_number(out, at, word)
                elif form == U64(TEXT):
                    at = _put_text(out, at, texts, word, more[place])
                elif form <= U64(NINE_DIGITS):
                    at = put_epoch(out, at, word, U64(6) if form == U64(SIX_DIGITS) else U64(9))
                elif form == U64(RANGES):
                    at = _put_ranges(out, at, numbers, word, more[place], operation["several"])
                else:
                    at = _put_address(out, at, texts, word, form, operation["dotted"])
                if operation["closes"]:
                    store_word(out, at, U64(_QUOTE))
                    at += U64(1)
            place += count
            column += U64(1)
        at = _put_text(out, at, texts, operations[columns]["lead"], operations[columns]["lead_octets"])
        row += U64(1)
    return at
