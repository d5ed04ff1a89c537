"""Needles: their text, and the automaton, against `in` of Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import UsageError
from traceflow.filters.contract import ParameterError
from traceflow.filters.needles import HIT, NEEDLES_MAX, OCTETS_MAX, automaton, needles_of, needles_text


def finds(needles: list[bytes], text: bytes) -> bool:
    table, state = automaton(needles), 0
    for octet in text:
        state = int(table[state, octet])
        if state == HIT:
            return True
    return False


@pytest.mark.parametrize(
    ("parameter", "needles"),
    [
        ("GET |POST ", [b"GET ", b"POST "]),
        (r"a\|b|\\", [b"\\", b"a|b"]),
        (r"\x00\xfF", [b"\x00\xff"]),
        ("é", [b"\xc3\xa9"]),
        ("b|a|b", [b"a", b"b"]),
        ("a\nb", [b"a\nb"]),
        (" ", [b" "]),
    ],
)
def test_the_text_form(parameter: str, needles: list[bytes]) -> None:
    assert needles_of(parameter) == needles
    assert needles_of(needles_text(needles)) == needles


def test_text_is_printable() -> None:
    assert needles_text([b"a|b\\\x00\xe9 ", "é"]) == r"a\|b\\\x00\xe9 |\xc3\xa9"
    assert needles_of("\ud800") == [b"\xed\xa0\x80"]  # half of a surrogate pair, which no UTF-8 has
    with pytest.raises(UsageError, match="no needle"):
        needles_text([5])  # type: ignore[list-item]


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=5))
def test_needles_come_back(needles: list[bytes]) -> None:
    assert needles_of(needles_text(needles)) == sorted(set(needles))


@pytest.mark.parametrize(
    ("parameter", "at", "says"),
    [
        ("a||b", 2, "no octets"),
        ("a|", 2, "no octets"),
        ("", 0, "no octets"),
        (r"ab\q", 2, "behind a backslash"),
        (r"a\x4", 1, "behind a backslash"),
        ("a\\", 1, "behind a backslash"),
        ("a" * (OCTETS_MAX + 1), OCTETS_MAX + 1, f"more than {OCTETS_MAX} octets"),
    ],
)
def test_what_are_no_needles(parameter: str, at: int, says: str) -> None:
    with pytest.raises(ParameterError, match=says) as raised:
        needles_of(parameter)
    assert raised.value.at == at


def test_there_is_a_largest_number_of_needles() -> None:
    with pytest.raises(ParameterError, match=f"at most {NEEDLES_MAX} needles, this one {NEEDLES_MAX + 1}"):
        needles_of("|".join(["a"] * (NEEDLES_MAX + 1)))


def test_the_largest_automaton_has_a_state_for_each_octet() -> None:
    # one needle: the states are its beginnings, from none of its octets to all but the last
    assert automaton([b"a" * OCTETS_MAX]).shape == (OCTETS_MAX, 256)
    assert automaton([b"he", b"she", b"his", b"hers"]).shape[0] == 5  # none, h, hi, s, sh: "he" ends "hers" as well


@given(
    st.lists(st.text("ab", min_size=1, max_size=5).map(str.encode), min_size=1, max_size=5),
    st.text("abc", max_size=20).map(str.encode),
)
def test_it_finds_what_python_finds(needles: list[bytes], text: bytes) -> None:
    assert finds(needles, text) == any(needle in text for needle in needles)
