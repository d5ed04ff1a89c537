"""Numbers, ranges and durations in parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.filters.contract import ParameterError
from traceflow.filters.parameters import (
    duration_ns,
    duration_text,
    ranges_of,
    ranges_table,
    ranges_text,
    side_of,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "value_ns", "canonical"),
    [
        ("5s", 5 * 10**9, "5s"),
        ("5", 5 * 10**9, "5s"),
        ("0.5s", 5 * 10**8, "500ms"),
        ("90s", 90 * 10**9, "90s"),
        ("120s", 120 * 10**9, "2min"),
        ("3600 s", 3600 * 10**9, "1h"),
        ("1000us", 10**6, "1ms"),
        ("0.000000001", 1, "1ns"),
        ("0h", 0, "0s"),
    ],
)
def test_durations_have_one_form(text: str, value_ns: int, canonical: str) -> None:
    assert duration_ns(text) == value_ns
    assert duration_text(value_ns) == canonical


@given(st.integers(0, 2**62))
def test_every_duration_comes_back(value_ns: int) -> None:
    assert duration_ns(duration_text(value_ns)) == value_ns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a number and one of"),
        ("5 m", "a number and one of"),
        ("-5s", "a number and one of"),
        ("0.5ns", "whole number of nanoseconds"),
        ("4611686019s", "at most 2\\*\\*62"),  # 2**62 ns are 4 611 686 018.4 s
        ("9" * 40, "a number and one of"),
    ],
)
def test_what_is_no_duration(text: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        duration_ns(text)


def test_ranges_are_merged() -> None:
    ranges = ranges_of("80, 5-9,443,10,7-8", "a port", 65535)
    assert ranges == ((5, 10), (80, 80), (443, 443))
    assert ranges_text(ranges) == "5-10,80,443"
    assert ranges_table(ranges, 500).nonzero()[0].tolist() == [5, 6, 7, 8, 9, 10, 80, 443]


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("80,x", 3, "not 'x'"),
        ("80,,443", 3, "not ''"),
        ("80,90-70", 3, "write 70-90"),
        ("80,1-99999", 5, "from 0 to 65535"),
        ("80, 1-x", 6, "not 'x'"),
        ("-5", 0, "not ''"),
    ],
)
def test_what_is_no_list_of_ranges(text: str, at: int, says: str) -> None:
    with pytest.raises(ParameterError, match=says) as raised:
        ranges_of(text, "a port", 65535)
    assert raised.value.at == at


def test_numbers_are_plain_digits_in_range() -> None:
    assert whole_number(" 007 ", "n", 1, 9) == 7
    for text in ("0", "10", "1_0", "+1", "0x1", "²", "٣", "9" * 5000):
        with pytest.raises(ParameterError, match="from 1 to 9, not"):
            whole_number(text, "n", 1, 9)


def test_sides() -> None:
    assert side_of("src 10.0.0.1") == ("src", "10.0.0.1", 4)
    assert side_of(" SRC  or dst 80 ") == ("", "80", 13)
    assert side_of("either x") == ("", "x", 7)
    assert side_of("x") == ("", "x", 0)
    assert side_of("") == ("", "", 0)
    assert side_of("src") == ("", "src", 0)
