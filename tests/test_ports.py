"""Parameters of `port`; which frames it means is in test_headers.py."""

from __future__ import annotations

import pytest

from traceflow.errors import UsageError
from traceflow.filters.build import port
from traceflow.filters.kinds import make_call


def test_all_spellings_have_one_form() -> None:
    spellings = ("80,443,81", "443,80-81", "either 80-81,443", " 80 , 81 , 443 ")
    assert {make_call("port", spelling).parameter for spelling in spellings} == {"80-81,443"}
    assert port(443, range(80, 82)) == port("80-81", 443) == make_call("port", "80-81,443")
    assert port(80, side="src") == make_call("port", "src 80")


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("", "a port is missing"),
        ("src", "not 'src'"),
        ("65536", "from 0 to 65535"),
        ("9-8", "write 8-9"),
        ("http", "not 'http'"),
        ("src 80 dst 90", "not '80 dst 90'"),
    ],
)
def test_wrong_parameters(parameter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call("port", parameter)


def test_ranges_of_python_hold_something_in_steps_of_one() -> None:
    for wrong in (range(5, 5), range(0, 10, 2)):
        with pytest.raises(UsageError, match="no range of ports"):
            port(wrong)
