"""The room `live`: how a live flow lies in memory, and FLOW rows made of rows that ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from traceflow.flows import EndCause
from traceflow.live import LIVE, assemble_flows, live_rows

LINE = 64
LOW, HIGH = (1, 2, 1000), (3, 4, 80)  # address halves and port


def ended(*, upper_originates: int = 0, low: dict[str, Any] | None = None, high: dict[str, Any] | None = None) -> Any:
    rows = live_rows(1)
    row = rows[0]
    row["low_hi"], row["low_lo"], row["low_port"] = LOW
    row["high_hi"], row["high_lo"], row["high_port"] = HIGH
    row["number"], row["protocol"], row["ip_version"], row["cause"] = 9, 6, 6, EndCause.RST
    row["upper_originates"] = upper_originates
    for end, columns in (("low", low), ("high", high)):
        for name, value in (columns or {}).items():
            part = row[end] if name in row[end].dtype.names else row[f"{end}_rest"]
            part[name] = value
    return assemble_flows(rows)[0]


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


@pytest.mark.parametrize(("upper", "orig", "resp"), [(0, LOW, HIGH), (1, HIGH, LOW)])
def test_ends_become_originator_and_responder(upper: int, orig: tuple[int, ...], resp: tuple[int, ...]) -> None:
    flow = ended(upper_originates=upper, low={"packets": 5, "wire_octets": 50}, high={"packets": 7, "wire_octets": 70})
    assert (*flow["orig_addr"], flow["orig_port"]) == orig
    assert (*flow["resp_addr"], flow["resp_port"]) == resp
    assert (flow["orig"]["packets"], flow["resp"]["packets"]) == ((7, 5) if upper else (5, 7))
    assert (flow["orig"]["wire_octets"], flow["resp"]["wire_octets"]) == ((70, 50) if upper else (50, 70))
    assert (flow["number"], flow["protocol"], flow["ip_version"], flow["upper_originates"]) == (9, 6, 6, upper)


@pytest.mark.parametrize("cause", EndCause)
def test_reason_follows_from_cause(cause: EndCause) -> None:
    rows = live_rows(1)
    rows["cause"] = cause
    flow = assemble_flows(rows)[0]
    assert (flow["end_cause"], flow["end_reason"]) == (cause, cause.reason)


@pytest.mark.parametrize(
    ("low", "high", "times"),
    [
        ({"packets": 1, "first_ns": 5, "last_ns": 9}, {"packets": 1, "first_ns": 3, "last_ns": 7}, (3, 9)),
        ({"packets": 1, "first_ns": 5, "last_ns": 9}, {}, (5, 9)),
        ({}, {"packets": 1, "first_ns": 5, "last_ns": 9}, (5, 9)),
        ({"packets": 1, "first_ns": -9, "last_ns": -5}, {}, (-9, -5)),  # and not the zeros of the silent side
    ],
)
def test_times_of_a_flow(low: dict[str, int], high: dict[str, int], times: tuple[int, int]) -> None:
    flow = ended(low=low, high=high)
    assert (flow["first_ns"], flow["last_ns"]) == times


def test_flags_are_put_together() -> None:
    """10 segments of which 3 without ACK and 4 with PSH: 7 ACK. UDP has none, whatever its packets."""
    flow = ended(low={"packets": 10, "psh": 4, "flags": [1, 2, 3, 0, 3, 6, 7, 8]})
    assert flow["orig"]["flags"].tolist() == [1, 2, 3, 4, 7, 6, 7, 8]
    rows = live_rows(1)
    rows["protocol"], rows["low"]["packets"] = 17, 10
    assert assemble_flows(rows)[0]["orig"]["flags"].tolist() == [0] * 8


def test_no_rows() -> None:
    assert len(assemble_flows(live_rows(0))) == 0
