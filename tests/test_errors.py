"""The room `errors`: the tree, and what a message says."""

from __future__ import annotations

import inspect

import pytest

from traceflow import errors
from traceflow.errors import (
    CannotReadError,
    CannotWriteError,
    FileExists,
    IncompleteWarning,
    MalformedCaptureError,
    NotACaptureError,
    TraceflowError,
    TruncatedCaptureError,
    UnsupportedCaptureError,
    UsageError,
    suggest,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
OF_A_CAPTURE = (MalformedCaptureError, NotACaptureError, TruncatedCaptureError, UnsupportedCaptureError)


def test_one_root() -> None:
    """`except TraceflowError` catches all; the one warning is a warning."""
    assert [kind for kind in KINDS if not issubclass(kind, TraceflowError)] == [IncompleteWarning]
    assert issubclass(IncompleteWarning, UserWarning)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (UsageError, ValueError),
        (CannotReadError, OSError),
        (CannotWriteError, OSError),
        (FileExists, FileExistsError),
        (FileExists, CannotWriteError),
    ],
)
def test_python_knows_them_by_its_own_names(kind: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what was done"):
        raise kind("what was done")


def test_who_can_act_tells_them_apart() -> None:
    """No kind of one group is caught as one of another."""
    groups = (UsageError, CannotReadError, CannotWriteError, *OF_A_CAPTURE)
    for kind in groups:
        assert [other for other in groups if issubclass(kind, other)] == [kind]


@pytest.mark.parametrize("kind", OF_A_CAPTURE)
def test_a_capture_error_says_where_and_how_much(kind: type[errors.CaptureError]) -> None:
    error = kind("the record ends early", file="a.pcap", offset=40, needed=16, had=3)
    assert str(error) == "a.pcap: at offset 40: the record ends early (needed 16 octets, had 3)"
    assert (error.file, error.offset, error.needed, error.had) == ("a.pcap", 40, 16, 3)


def test_a_capture_error_without_a_lack_of_octets() -> None:
    error = MalformedCaptureError("a block of 7 octets", file="-")
    assert str(error) == "-: at offset 0: a block of 7 octets"
    assert (error.needed, error.had) == (None, None)


def test_nothing_had_is_said() -> None:
    """Zero is a number, not a lack of one."""
    assert "(needed 24 octets, had 0)" in str(TruncatedCaptureError("x", file="f", needed=24, had=0))


@pytest.mark.parametrize(
    ("given", "hint"), [("jsno", " Did you mean json?"), ("plst", " Did you mean plist?"), ("qqqq", ""), ("", "")]
)
def test_suggest(given: str, hint: str) -> None:
    known = ["tree", "json", "plist"]
    assert suggest("format", given, known) == f"unknown format {given!r}.{hint} Known: json, plist, tree"


def test_suggest_takes_any_iterable_once() -> None:
    assert suggest("field", "x", iter(["b", "a"])) == "unknown field 'x'. Known: a, b"
