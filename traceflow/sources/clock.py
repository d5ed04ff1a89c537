"""The clock of a pcapng interface: from ticks of any resolution to nanoseconds, exactly.

What lives here: the integer factors of a resolution and offset, made once per interface with Python's big
integers, and the inline kernel that applies them. Read first: draft-ietf-opsawg-pcapng, if_tsresol and if_tsoffset.

A tick is 10**-e s (e to 19) or 2**-n s (n to 63); a time is `offset + ticks / units`, rounded down to a
nanosecond and kept within +-TIME_MAX_NS. All steps fit 64 bits, so that no packet needs a slow path:

- decimal, coarser than or equal to nanoseconds, below a limit computed here: one product, one sum;
- else seconds and remainder apart: the remainder times 10**9 fits 64 bits for n <= 32, and is split into two halves
  of 32 bits above; for e > 9 it is only divided.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel
from traceflow.packets import TIME_MAX_NS

__all__ = ["CLOCK_FIELDS", "MICROSECONDS", "clock_factors", "time_of", "units_of"]

MICROSECONDS = 6
"""The code of if_tsresol where the option is absent."""

_DECIMAL = 64
"""Value of `shift` that says: not a power of two."""

_NANO = 10**9
_SECONDS_MAX = TIME_MAX_NS // _NANO  # 4 611 686 018

CLOCK_FIELDS: list[tuple[str, str]] = [
    ("units", "u8"),  # ticks in a second
    ("times", "u8"),  # decimal: nanoseconds = remainder * times // over
    ("over", "u8"),
    ("plain_below", "u8"),  # decimal: below this many ticks, ticks * times + offset_ns cannot overflow
    ("offset_ns", "i8"),  # if_tsoffset; 0 where it does not fit (then plain_below is 0)
    ("offset_s", "u8"),  # if_tsoffset modulo 2**64
    ("first_valid", "u8"),  # seconds of ticks below it lie before -TIME_MAX_NS
    ("first_high", "u8"),  # from it on they lie after TIME_MAX_NS
    ("shift", "u1"),  # binary: units = 2**shift; _DECIMAL else
]
"""The fields of a structured type that `time_of` reads."""


def units_of(code: int) -> int | None:
    """Ticks per second of an if_tsresol octet, None where they do not fit 64 bits.

    Args:
        code: The octet: a power of two where the upper bit is set, else a power of ten.
    """
    exponent = code & 0x7F
    if code & 0x80:
        return 1 << exponent if exponent <= 63 else None
    return 10**exponent if exponent <= 19 else None


def clock_factors(code: int, offset_s: int) -> dict[str, int]:
    """Values of CLOCK_FIELDS for one interface.

    Args:
        code: An if_tsresol octet whose units fit 64 bits.
        offset_s: if_tsoffset, -2**63..2**63 - 1 seconds.
    """
    units = units_of(code)
    if units is None:
        raise ValueError(f"if_tsresol {code:#x} has no 64-bit units")
    binary = bool(code & 0x80)
    times = 1 if binary else max(1, _NANO // units)
    plain = not binary and units <= _NANO and abs(offset_s * _NANO) <= TIME_MAX_NS
    return {
        "units": units,
        "times": times,
        "over": 1 if binary else max(1, units // _NANO),
        "plain_below": (TIME_MAX_NS - 1) // times + 1 if plain else 0,
        "offset_ns": offset_s * _NANO if plain else 0,
        "offset_s": offset_s % 2**64,
        "first_valid": max(0, -_SECONDS_MAX - 1 - offset_s),
        "first_high": max(0, min(2**64 - 1, _SECONDS_MAX + 1 - offset_s)),
        "shift": code & 0x7F if binary else _DECIMAL,
    }


@inline_kernel
def time_of(clock: Any, ticks: Any) -> Any:
    """The time of a frame.

    Args:
        clock: A row with CLOCK_FIELDS.
        ticks: uint64 from the packet block.

    Returns:
        int64 nanoseconds since 1970, within +-TIME_MAX_NS.
    """
    if ticks < U64(clock["plain_below"]):
        time_ns = np.int64(ticks * U64(clock["times"])) + np.int64(clock["offset_ns"])
    else:
        shift = U64(clock["shift"])
        if shift < U64(_DECIMAL):
            seconds = ticks >> shift
            rest = ticks & ((U64(1) << shift) - U64(1))
            if shift <= U64(32):
                rest_ns = (rest * U64(_NANO)) >> shift
            else:
                low = ((rest & U64(0xFFFFFFFF)) * U64(_NANO)) >> U64(32)
                rest_ns = ((rest >> U64(32)) * U64(_NANO) + low) >> (shift - U64(32))
        else:
            units = U64(clock["units"])
            seconds = ticks // units
            rest_ns = (ticks - seconds * units) * U64(clock["times"]) // U64(clock["over"])
        if seconds < U64(clock["first_valid"]):
            return np.int64(-TIME_MAX_NS)
        if seconds >= U64(clock["first_high"]):
            return np.int64(TIME_MAX_NS)
        time_ns = np.int64(seconds + U64(clock["offset_s"])) * np.int64(_NANO) + np.int64(rest_ns)
    if time_ns > np.int64(TIME_MAX_NS):
        return np.int64(TIME_MAX_NS)
    if time_ns < np.int64(-TIME_MAX_NS):
        return np.int64(-TIME_MAX_NS)
    return time_ns
