"""The filter `device`."""

from __future__ import annotations

import pytest
from batches import passes, seen_of, udp_frame

from traceflow.errors import UsageError
from traceflow.filters.kinds import make_call

FRAMES = [udp_frame("10.0.0.1", "10.0.0.2", 1, 2)] * 3


def test_all_packets_of_the_device_and_of_no_other() -> None:
    assert passes("(device,eth0)", seen_of(FRAMES, device="eth0")) == [0, 1, 2]
    assert passes("(device,eth0)", seen_of(FRAMES, device="eth1")) == []
    assert passes("(device,eth0)", seen_of(FRAMES)) == []


def test_a_name_may_hold_anything_that_a_path_may() -> None:
    assert make_call("device", 'a "b",(c).pcap').text == r'(device,"a \"b\",(c).pcap")'
    for wrong, says in (
        ("", "needs its name"),
        (" ", "needs its name"),
        ("a\0b", "a NUL"),
        ("a" * 5000, "at most 4096"),
    ):
        with pytest.raises(UsageError, match=says):
            make_call("device", wrong)
