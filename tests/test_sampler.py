"""The filter `sampler`: by packet and by flow, across batches, with small counters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from batches import seen_of, udp_frame

from traceflow.errors import UsageError
from traceflow.filters.contract import Selection
from traceflow.filters.kinds import make_call, needs_flows, runner_of
from traceflow.filters.running import of_batch

FRAME = udp_frame("10.0.0.1", "10.0.0.2", 1, 2)


def sampled(parameter: str, batches: Sequence[int], memory: int | None = None) -> tuple[list[int], dict[str, int]]:
    """Which packets, counted from 0 over all batches, are taken; and the counters in the end."""
    runner = runner_of(make_call("sampler", parameter, memory))
    taken, first = [], 0
    for count in batches:
        seen = seen_of([FRAME] * count)
        taken += (runner.run(seen, of_batch(count)).indexes + first).tolist()
        first += count
    return taken, runner.counters()


@pytest.mark.parametrize("batches", [[10], [1] * 10, [3, 4, 3], [2, 1, 7]])
def test_the_first_of_every_n_wherever_batches_end(batches: list[int]) -> None:
    assert sampled("3", batches) == ([0, 3, 6, 9], {"packets": 10, "passed": 4})
    assert sampled("1", batches) == (list(range(10)), {"packets": 10, "passed": 10})
    assert sampled("100", batches) == ([0], {"packets": 10, "passed": 1})


def test_counters_wrap_and_the_choice_does_not() -> None:
    # 600 packets, one in 7: 0, 7, ..., 595 are 86. A counter of one octet shows 600 - 2 * 256 = 88.
    taken, counters = sampled("7", [256, 1, 343], memory=1)
    assert taken == list(range(0, 600, 7))
    assert counters == {"packets": 88, "passed": 86}


def test_what_comes_counts_and_limits_go_along() -> None:
    runner = runner_of(make_call("sampler", "2"))
    given = Selection(np.array([1, 4, 5, 9], np.uint32), np.array([10, 40, 50, 90], np.uint32))
    passed = runner.run(seen_of([FRAME] * 10), given)
    assert passed.limit is not None
    assert (passed.indexes.tolist(), passed.limit.tolist()) == ([1, 5], [10, 50])


def test_one_in_n_flows_of_the_source() -> None:
    # flows 1, 4, 7 are the first of every three; 0 is a frame without flow
    flows = [1, 2, 3, 4, 1, 0, 5, 7]
    seen = seen_of([FRAME] * 8, facts=[(flow, 1, 0, 0, 0) for flow in flows])
    runner = runner_of(make_call("sampler", "3 by flow"))
    assert runner.run(seen, of_batch(8)).indexes.tolist() == [0, 3, 4, 7]
    # what came before in the graph makes no difference
    assert runner.run(seen, Selection(np.array([1, 2, 4, 5], np.uint32))).indexes.tolist() == [4]
    assert runner.counters() == {"packets": 12, "passed": 5}
    assert runner_of(make_call("sampler", "1 by flow")).run(seen, of_batch(8)).indexes.tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_only_sampling_by_flow_needs_flows() -> None:
    assert [needs_flows(make_call("sampler", one)) for one in ("2", "2 by packet", "2 BY flow")] == [False, False, True]
    assert make_call("sampler", "02 by packet") == make_call("sampler", "2")


@pytest.mark.parametrize(
    ("parameter", "memory", "says"),
    [
        ("", None, "needs n"),
        ("0", None, "from 1 to"),
        ("x", None, "not 'x'"),
        ("2 by", None, "by flow"),
        ("2 flows", None, "by flow"),
        ("256", 1, "n is 256, and a counter of 1 octet holds 255"),
        ("65536", 2, "of 2 octets holds 65535"),
        ("2", 3, "1, 2, 4, 8 octets"),
    ],
)
def test_wrong_parameters(parameter: str, memory: int | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call("sampler", parameter, memory)
