"""Functions of users as filters: plain and compiled, and what they may do wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batches import passes, seen_of, udp_frame

from traceflow.compiled import COMPILED
from traceflow.errors import FilterError, UsageError
from traceflow.filters.build import function
from traceflow.filters.contract import Seen, Selection
from traceflow.filters.functions import register_function
from traceflow.filters.kinds import kind_of, make_call
from traceflow.filters.text import parse_graph


def seen() -> Seen:
    return seen_of([udp_frame("10.0.0.1", "10.0.0.2", 1000 + number, 53, b"abc"[:number]) for number in range(4)])


def odd_ports(frames: Any, packets: Any, octets: Any) -> Any:
    return packets["src_port"] % 2 == 1


def at_least(frames: Any, packets: Any, octets: Any, parameter: str) -> Any:
    return packets["src_port"] >= int(parameter or 0)


def ends_with_b(frame: Any, packet: Any, octets: Any) -> Any:
    return octets[len(octets) - 1] == 98


def port_is(frame: Any, packet: Any, octets: Any, number: Any) -> Any:
    return packet["src_port"] == number


def test_a_plain_function_is_shown_arrays_and_gives_a_mask() -> None:
    filter_ = function(odd_ports)
    assert filter_.text == "(odd_ports)"
    assert passes("(odd_ports)", seen()) == [1, 3]
    assert passes("~(odd_ports) & (port,53)", seen()) == [0, 2]
    assert passes("(odd_ports)", seen(), Selection(np.array([2, 3], np.uint32))) == [3]


def test_parameters_reach_it_as_text() -> None:
    register_function("at_least", at_least)
    assert passes("(at_least,1002)", seen()) == [2, 3]
    assert passes("(at_least)", seen()) == [0, 1, 2, 3]
    assert make_call("at_least", " 1002") != make_call("at_least", "1002")  # only the function knows what it means


def test_a_compiled_function_is_asked_for_each_packet() -> None:
    register_function("ends_with_b", ends_with_b, compiled=True)
    assert passes("(ends_with_b)", seen()) == [2]  # payloads: none, a, ab, abc
    register_function("port_is", port_is, compiled=True)
    assert passes("(port_is,1003)", seen()) == [3]
    assert make_call("port_is", " +7") == make_call("port_is", "7")
    for wrong in ("x", "", "9223372036854775808", "9" * 5000):
        with pytest.raises(UsageError, match="whole number of 64 bits"):
            make_call("port_is", wrong)
    with pytest.raises(UsageError, match="takes no parameter"):
        make_call("ends_with_b", "7")


def test_limits_are_what_the_function_is_shown() -> None:
    register_function("ends_with_b", ends_with_b, compiled=True)
    headers = 14 + 20 + 8
    limit = np.array([headers + 2, headers + 2, headers + 1], np.uint32)
    assert passes("(ends_with_b)", seen(), Selection(np.array([1, 3, 2], np.uint32)[[0, 2, 1]], limit)) == [2]

    def lengths(frames: Any, packets: Any, octets: Any) -> Any:
        return frames["captured"] == headers + 1

    function(lengths)
    assert passes("(lengths)", seen(), Selection(np.array([1, 2, 3], np.uint32), limit)) == [1, 3]


def test_what_a_function_writes_is_lost() -> None:
    def scribbles(frames: Any, packets: Any, octets: Any) -> Any:
        frames["captured"] = packets["src_port"] = 0
        return np.ones(len(frames), np.bool_)

    def scribbles_on_octets(frames: Any, packets: Any, octets: Any) -> Any:
        octets[:] = 0

    batch = seen()
    assert passes(function(scribbles).text, batch) == [0, 1, 2, 3]
    assert batch.packets["src_port"].tolist() == [1000, 1001, 1002, 1003]
    assert batch.batch.frames["captured"].tolist() == [42, 43, 44, 45]
    with pytest.raises(FilterError, match="read-only"):
        passes(function(scribbles_on_octets).text, batch)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "and gave None"),
        ([True] * 4, "and gave .True"),
        (np.ones(3, np.bool_), r"bool\[4\], and gave an array of bool\[3\]"),
        (np.ones((4, 1), np.bool_), r"gave an array of bool\[4, 1\]"),
        (np.ones(4), "gave an array of float64"),
    ],
)
def test_another_answer_is_an_error_that_names_the_function(answer: Any, says: str) -> None:
    name = f"answers_{len(repr(answer))}"
    register_function(name, lambda frames, packets, octets: answer)
    with pytest.raises(FilterError, match=rf"the function of the filter \({name}\) must give .*{says}"):
        passes(f"({name})", seen())


def test_what_a_function_raises_is_named_with_it() -> None:
    def by_zero(frames: Any, packets: Any, octets: Any) -> Any:
        raise ZeroDivisionError("by zero")

    with pytest.raises(FilterError, match=r"\(by_zero\) raised ZeroDivisionError: by zero"):
        passes(function(by_zero).text, seen())

    def reads_on(frame: Any, packet: Any, octets: Any) -> Any:
        return octets[len(octets)] == 0

    with pytest.raises(FilterError, match=r"\(reads_on\) raised IndexError"):
        passes(function(reads_on, compiled=True).text, seen())


def test_names_are_names_and_nobody_elses() -> None:
    register_function("mine", odd_ports)
    assert register_function("mine", odd_ports) is kind_of("MINE")
    assert parse_graph("(mine)").text == "(mine)"
    for name, says in (
        ("mine", "another filter 'mine'"),
        ("Mine", "another filter 'mine'"),
        ("device", "comes with traceflow"),
        ("bpf", "BPF is a filter that comes"),
        ("<lambda>", "no name for a filter"),
        ("", "no name for a filter"),
        ("a b", "no name for a filter"),
        ("a" * 65, "no name for a filter"),
        (None, "None is no name for a filter"),
    ):
        with pytest.raises(UsageError, match=says):
            register_function(name, at_least)
    with pytest.raises(UsageError, match="another filter 'mine'"):
        register_function("mine", odd_ports, compiled=True)


def test_what_is_no_such_function() -> None:
    with pytest.raises(UsageError, match="is no function"):
        register_function("broken", 5)  # type: ignore[arg-type]
    for wrong in (lambda: None, lambda a, b, c, d, e: None):
        with pytest.raises(UsageError, match="must take"):
            register_function("broken", wrong)
    with pytest.raises(UsageError, match="must be a function, not"):
        register_function("broken", at_least.__call__, compiled=True)


@pytest.mark.skipif(not COMPILED, reason="plain kernels compile nothing")
def test_what_cannot_be_compiled() -> None:
    def is_text(frame: Any, packet: Any, octets: Any) -> Any:
        return 5

    def allocates(frame: Any, packet: Any, octets: Any) -> Any:
        return np.zeros(3)[0] == 0

    def unknown(frame: Any, packet: Any, octets: Any) -> Any:
        return packet["no_such_column"] == 0

    for wrong, says in ((is_text, "must return a bool"), (allocates, ""), (unknown, "no_such_column")):
        with pytest.raises(UsageError, match=f"filter 'broken' cannot be compiled: [^\x1b]*{says}[^\x1b]*$"):
            register_function("broken", wrong, compiled=True)


def test_a_compiled_function_may_always_say_yes() -> None:
    def always(frame: Any, packet: Any, octets: Any) -> Any:
        return True  # to Numba a literal, which is not the type bool

    register_function("always", always, compiled=True)
    assert passes("(always)", seen()) == [0, 1, 2, 3]
