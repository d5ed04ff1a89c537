"""The room `live`: how a live flow lies in memory, and how rows are moved."""

from __future__ import annotations

import numpy as np
import pytest

from traceflow.live import (
    BEHIND_STATE,
    HOT,
    LAST_LINE,
    LIVE,
    REST,
    STATE_OCTETS,
    as_octets,
    clear_words,
    copy_words,
    join_rows,
    live_rows,
)

LINE = 64


@pytest.mark.parametrize("count", [1, 2, 1023, 1024])
def test_rows_begin_on_a_cache_line(count: int) -> None:
    rows = live_rows(count)
    assert len(rows) == count
    assert rows.ctypes.data % LINE == 0
    assert LIVE.itemsize % LINE == 0
    assert not rows.view(np.uint8).any()


def test_columns_do_not_overlap() -> None:
    """Offsets are written by hand there; every octet belongs to one column at most."""
    owners: dict[int, str] = {}
    for name in LIVE.names or ():
        kind, offset = (LIVE.fields or {})[name][:2]
        for octet in range(offset, offset + kind.itemsize):
            assert owners.setdefault(octet, name) == name
        assert offset % min(8, kind.alignment) == 0
        assert offset + kind.itemsize <= LIVE.itemsize


def test_what_a_packet_touches_is_three_lines() -> None:
    """The key and the timeout in the first; each direction in one of its own."""
    fields = LIVE.fields or {}
    key = ("low_hi", "low_lo", "high_hi", "high_lo", "low_port", "high_port", "protocol", "ip_version", "hashed")
    for name in (*key, "due_ns", "number", "closed_by", "upper_originates"):
        assert fields[name][1] + fields[name][0].itemsize <= LINE
    for name in ("low", "high"):
        kind, offset = fields[name][:2]
        assert offset // LINE == (offset + kind.itemsize - 1) // LINE


def test_what_rare_segments_touch_are_lines_of_their_own() -> None:
    """The rest of each end, the state of each end, the history with its letters."""
    fields = LIVE.fields or {}
    lines = {name: fields[name][1] // LINE for name in ("low_rest", "high_rest", "low_side", "high_side", "history")}
    assert lines == {"low_rest": 3, "high_rest": 4, "low_side": 5, "high_side": 6, "history": 7}
    assert [lines["low_side"] * LINE, (lines["history"] + 1) * LINE] == [STATE_OCTETS, BEHIND_STATE]
    for name in (*lines, "letters"):
        kind, offset = fields[name][:2]
        assert offset // LINE == (offset + kind.itemsize - 1) // LINE
    assert fields["letters"][1] // LINE == lines["history"]
    assert fields["wake_ns"][1] // LINE == fields["kept"][1] // LINE == LAST_LINE // LINE


def test_rows_are_moved_word_by_word() -> None:
    """A row copied by words is the row, and its neighbours stay."""
    rows = live_rows(3)
    rows["number"], rows["turned"] = (1, 2, 3), (1, 0, 1)
    target = live_rows(3)
    words = LIVE.itemsize // 8
    source, copy = rows.view(np.uint64), target.view(np.uint64)
    copy_words(source, np.uint64(2 * words), copy, np.uint64(words), np.uint64(words))
    assert target["number"].tolist() == [0, 3, 0]
    assert target[1] == rows[2]
    clear_words(source, np.uint64(words), np.uint64(words))
    assert rows["number"].tolist() == [1, 0, 3]


def test_rows_are_joined() -> None:
    first, second = live_rows(2), live_rows(1)
    first["number"], second["number"] = (7, 8), 9
    joined = join_rows([first, second])
    assert joined.dtype == LIVE
    assert joined["number"].tolist() == [7, 8, 9]
    assert as_octets(joined).dtype.itemsize == LIVE.itemsize


def test_a_direction_lies_in_words() -> None:
    """`endings.py` copies HOT and REST word by word."""
    assert HOT.itemsize % 8 == REST.itemsize % 8 == 0
