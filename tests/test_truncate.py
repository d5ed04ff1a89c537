"""The filter `truncate`."""

from __future__ import annotations

import numpy as np
import pytest
from batches import seen_of, udp_frame

from traceflow.errors import UsageError
from traceflow.filters.contract import Selection
from traceflow.filters.kinds import make_call, runner_of


def test_the_smaller_limit_holds() -> None:
    seen = seen_of([udp_frame("10.0.0.1", "10.0.0.2", 1, 2)] * 3)
    runner = runner_of(make_call("truncate", "64"))
    once = runner.run(seen, Selection(np.array([0, 2], np.uint32)))
    assert once.limit is not None
    assert (once.indexes.tolist(), once.limit.tolist()) == ([0, 2], [64, 64])
    twice = runner.run(seen, Selection(np.array([0, 2], np.uint32), np.array([10, 100], np.uint32)))
    assert twice.limit is not None
    assert (twice.limit.tolist(), twice.limit.dtype) == ([10, 64], np.uint32)


@pytest.mark.parametrize(
    ("parameter", "says"), [("", "needs the number"), ("0", "from 1"), ("4294967295", "to 4294967294")]
)
def test_wrong_parameters(parameter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call("truncate", parameter)
