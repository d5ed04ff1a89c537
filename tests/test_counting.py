"""The filters `packetcount`, `bytecount` and `rate`."""

from __future__ import annotations

import numpy as np
import pytest
from batches import seen_of, udp_frame
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import UsageError
from traceflow.filters.contract import Selection
from traceflow.filters.kinds import make_call, runner_of
from traceflow.filters.running import of_batch

FRAME = udp_frame("10.0.0.1", "10.0.0.2", 1, 2)


def test_octets_are_those_on_the_wire() -> None:
    seen = seen_of([FRAME] * 4, wire=[100, 1000, 4_000_000_000, 4_000_000_000])
    packets, octets = runner_of(make_call("packetcount")), runner_of(make_call("bytecount"))
    given = Selection(np.array([0, 2, 3], np.uint32))
    assert packets.run(seen, given) is given
    assert octets.run(seen, given) is given
    assert packets.counters() == {"packets": 3}
    assert octets.counters() == {"octets": 8_000_000_100}  # more than 32 bits hold


@pytest.mark.parametrize(
    ("memory", "octets", "packets"),
    [
        # 300 frames of 1000 octets: 300 000 = 1 * 256**3... modulo 256: 224, modulo 65 536: 37 856; 300 modulo 256: 44
        (1, 224, 44),
        (2, 37_856, 300),
        (4, 300_000, 300),
        (8, 300_000, 300),
        (None, 300_000, 300),
    ],
)
def test_counters_wrap_at_their_size(memory: int | None, octets: int, packets: int) -> None:
    seen = seen_of([FRAME] * 100, wire=[1000] * 100)
    for kind, expected in (("bytecount", octets), ("packetcount", packets)):
        runner = runner_of(make_call(kind, "", memory))
        for _ in range(3):
            runner.run(seen, of_batch(100))
        assert list(runner.counters().values()) == [expected]


def test_memory_has_the_size_of_a_number() -> None:
    for kind in ("packetcount", "bytecount"):
        with pytest.raises(UsageError, match="1, 2, 4, 8 octets"):
            make_call(kind, "", 3)
    with pytest.raises(UsageError, match="takes no parameter"):
        make_call("bytecount", "8")


def rates(times_ns: list[int], cuts: list[int], interval: str = "10ns") -> list[int]:
    """[packets, octets, highest packets, highest octets] of frames of 100 octets, in batches that end at `cuts`."""
    runner = runner_of(make_call("rate", interval))
    for first, behind in zip([0, *cuts], [*cuts, len(times_ns)], strict=True):
        if behind > first:
            part = times_ns[first:behind]
            runner.run(seen_of([FRAME] * len(part), times_ns=part, wire=[100] * len(part)), of_batch(len(part)))
    return list(runner.counters().values())


TIMES = [3, 4, 5, 12, 25, 26, 31, 39, 21, 70]
# Intervals of 10 ns: 0 has 3 frames, 1 has 1, 2 has 2 (25, 26), 3 has 3 (31, 39, and 21, which comes late), 4 to 6 have
# none, 7 is open.


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, [0, 0, 0, 0]),
        (4, [3, 300, 3, 300]),
        (5, [1, 100, 3, 300]),
        (6, [1, 100, 3, 300]),
        (7, [2, 200, 3, 300]),
        (9, [2, 200, 3, 300]),
        (10, [0, 0, 3, 300]),
    ],
)
def test_the_last_whole_interval_and_the_highest(count: int, expected: list[int]) -> None:
    assert rates(TIMES[:count], []) == expected
    assert rates(TIMES[:count], list(range(1, count))) == expected


@given(st.lists(st.integers(-50, 80), min_size=1, max_size=12), st.sets(st.integers(1, 11)))
def test_rates_do_not_depend_on_batches(times_ns: list[int], cuts: set[int]) -> None:
    counted: dict[int, int] = {}
    clock = times_ns[0]
    for time_ns in times_ns:
        clock = max(clock, time_ns)
        counted[clock // 10] = counted.get(clock // 10, 0) + 1
    whole = [number for number in counted if number < clock // 10]
    last, highest = counted.get(clock // 10 - 1, 0), max((counted[number] for number in whole), default=0)
    expected = [last, 100 * last, highest, 100 * highest]
    assert rates(times_ns, sorted(cut for cut in cuts if cut < len(times_ns))) == expected


@pytest.mark.parametrize(("parameter", "says"), [("", "an interval"), ("0s", "longer than 0"), ("x", "a duration")])
def test_wrong_intervals(parameter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call("rate", parameter)
