"""Count, extremes, sum, mean and spread of numbers that come one at a time: what the built-ins of statistics share.

The sum is an exact integer, and the mean is that sum divided by the count, so no error grows with the packets. Numbers
are sizes of 32 bits, or gaps that add up to a duration: the sum of either fits 64 bits for 2**32 packets. The spread is
kept as Welford's sum of squared deviations: the sum of the plain squares of gaps in nanoseconds passes 64 bits within
five seconds, and its difference from the squared sum would lose all digits where the spread is small.

A gap is how much later a frame is than the latest time stamp before it, 0 where it is not later. So no gap is negative,
and all gaps of a sequence add up to its duration where no time stamp lies before the first one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64
from traceflow.plugins.contract import hook_helper

__all__ = [
    "MOMENTS",
    "TALK",
    "gap_of",
    "joined",
    "mean_of",
    "note",
    "note_talk",
    "of_home",
    "once",
    "ratio",
    "spread_of",
    "with_values",
]

MOMENTS = np.dtype(
    [("count", "u8"), ("lowest", "u8"), ("highest", "u8"), ("sum", "u8"), ("mean", "f8"), ("squares", "f8")], align=True
)
"""What is kept of a sequence; `squares` are those of the deviations from the mean, summed."""

TALK = np.dtype(
    [
        ("size", MOMENTS),
        ("gap", MOMENTS),  # between packets of this direction
        ("latest_ns", "i8"),  # of this direction
        ("home", "u8"),  # 1: it sent the first packet, and what follows is of both directions; of the other: nothing
        ("flow_gap", MOMENTS),
        ("flow_latest_ns", "i8"),
    ],
    align=True,
)
"""Sizes and gaps of a direction, and of the flow: a part of a plugin's record. Gaps are one fewer than packets."""


@hook_helper
def note(moments: Any, value: Any) -> None:
    """Add a number.

    Args:
        moments: MOMENTS record.
        value: uint64.
    """
    count = U64(moments["count"]) + U64(1)
    moments["count"] = count
    if count == U64(1):
        moments["lowest"] = value
        moments["highest"] = value
    elif value < U64(moments["lowest"]):
        moments["lowest"] = value
    elif value > U64(moments["highest"]):
        moments["highest"] = value
    total = U64(moments["sum"]) + value
    moments["sum"] = total
    before = moments["mean"]
    after = np.float64(total) / np.float64(count)
    moments["mean"] = after
    if count > U64(1):
        # Of values that are all the same both factors are 0: the mean of k times v is v without an error.
        moments["squares"] += (np.float64(value) - before) * (np.float64(value) - after)


@hook_helper
def gap_of(time_ns: Any, latest_ns: Any) -> Any:
    """How much later a time is, uint64 ns; 0 where it is not. Times lie within 2**62, so that is at most 2**63."""
    if time_ns <= latest_ns:
        return U64(0)
    return U64(time_ns) - U64(latest_ns)  # modulo 2**64, which is right for any two times


@hook_helper
def note_talk(mine: Any, partner: Any, time_ns: Any, size: Any) -> Any:
    """Add a packet.

    Args:
        mine: TALK record of the direction that sent it.
        partner: That of the other direction.
        time_ns: Its time stamp.
        size: Its size, uint64.

    Returns:
        The gap to the packets of both directions before it, uint64 ns; 0 for the first.
    """
    if U64(mine["home"]) == U64(0) and U64(partner["home"]) == U64(0):
        mine["home"] = 1
        mine["flow_latest_ns"] = time_ns
    home = mine if U64(mine["home"]) else partner
    if U64(mine["size"]["count"]) == U64(0):
        mine["latest_ns"] = time_ns
    else:
        note(mine["gap"], gap_of(time_ns, mine["latest_ns"]))
    gap = gap_of(time_ns, home["flow_latest_ns"])
    if U64(mine["size"]["count"]) or U64(partner["size"]["count"]):
        note(home["flow_gap"], gap)
    mine["latest_ns"] = max(time_ns, mine["latest_ns"])
    home["flow_latest_ns"] = max(time_ns, home["flow_latest_ns"])
    note(mine["size"], size)
    return gap


def of_home(orig: Any, resp: Any, name: str = "talk") -> Any:
    """The records that keep what is of both directions.

    Args:
        orig: Records [k] of the originators.
        resp: Records [k] of the responders.
        name: Field of the records that is a TALK.
    """
    return np.where(orig[name]["home"] != 0, orig, resp)


def once(values: Any) -> Any:
    """The moments of one number each.

    Args:
        values: uint64[k].

    Returns:
        MOMENTS[k].
    """
    moments = np.zeros(len(values), MOMENTS)
    moments["count"] = 1
    for name in ("lowest", "highest", "sum", "mean"):
        moments[name] = values
    return moments


def mean_of(moments: Any) -> Any:
    """Mean, masked without values.

    Args:
        moments: MOMENTS[k].
    """
    return ratio(moments["sum"], moments["count"])


def spread_of(moments: Any, *, sample: bool = False) -> Any:
    """Standard deviation: of the population (divisor: count), or of a sample (count - 1); masked where that is 0.

    Args:
        moments: MOMENTS[k].
        sample: Whether it is that of a sample.
    """
    divisor = moments["count"].astype(np.float64) - (1.0 if sample else 0.0)
    return np.ma.sqrt(ratio(np.maximum(moments["squares"], 0.0), np.maximum(divisor, 0.0)))


def with_values(moments: Any, name: str) -> Any:
    """A field, masked where there are no values.

    Args:
        moments: MOMENTS[k].
        name: Name of the field.
    """
    return np.ma.array(moments[name], mask=moments["count"] == 0)


def joined(one: Any, other: Any) -> Any:
    """The moments of two sequences together (Chan, Golub and LeVeque, 1979).

    Args:
        one: MOMENTS[k].
        other: MOMENTS[k].

    Returns:
        MOMENTS[k].
    """
    both = np.zeros(len(one), MOMENTS)
    empty, empty_too = one["count"] == 0, other["count"] == 0
    both["count"] = one["count"] + other["count"]
    both["sum"] = one["sum"] + other["sum"]
    for name, choose in (("lowest", np.minimum), ("highest", np.maximum)):
        both[name] = np.where(empty, other[name], np.where(empty_too, one[name], choose(one[name], other[name])))
    count = np.maximum(both["count"].astype(np.float64), 1.0)
    both["mean"] = both["sum"] / count
    apart = other["mean"] - one["mean"]
    weight = one["count"].astype(np.float64) * other["count"].astype(np.float64) / count
    both["squares"] = one["squares"] + other["squares"] + apart * apart * weight
    return both


def ratio(above: Any, below: Any) -> Any:
    """A quotient as float64, masked where the divisor is 0.

    Args:
        above: Numbers [k].
        below: Numbers [k].
    """
    nothing = np.asarray(below) == 0
    return np.ma.array(np.asarray(above, np.float64) / np.where(nothing, 1, below), mask=nothing)
