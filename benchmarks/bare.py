"""How fast this machine is: a bare loop that walks a capture, decodes TCP over IPv4, looks flows up and counts.

    python benchmarks/bare.py CAPTURE [--runs 5]

The least that any tracer does, compiled as our kernels are (Numba, bounds checks, unsigned indexes), without states,
history, timeouts and frame lists; reading the file is part of it. Where the bars of issue 6 were set, such a loop did
44 million small frames/s: so their share of a bare loop's speed is what can be asked for on another machine. Takes
classic pcap files of this machine's octet order with microseconds and Ethernet, as captures.py makes them. Prints one
line of json: seconds (median of the runs), frames, flows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

__all__ = ["bare"]

U64 = np.uint64
_BUFFER = 1 << 20  # as our own reads
_SLOTS, _FLOWS = 1 << 18, 1 << 17
_FILE_HEADER = 24
_FLOW = np.dtype(
    [
        ("low", "u8"),
        ("high", "u8"),
        ("packets", "u8"),
        ("octets", "u8"),
        ("first_us", "u8"),
        ("last_us", "u8"),
    ],
    align=True,
)
"""Ends as address << 16 | port, and counters."""


def _loop(b: Any, used: Any, slots: Any, flows: Any, state: Any) -> Any:
    """Count the whole records among the first `used` octets; returns where the rest begins.

    Args:
        b: uint8[n].
        used: How many octets count.
        slots: int32[2**k], row of a flow plus one, or 0.
        flows: _FLOW[m].
        state: uint64[2]: frames and flows so far.
    """
    last = U64(len(slots) - 1)
    at = U64(0)
    while at + U64(16) <= used:
        captured = U64(0)
        for n in range(4):
            captured |= U64(b[at + U64(8 + n)]) << U64(8 * n)
        if at + U64(16) + captured > used:
            break
        seconds, micros = U64(0), U64(0)
        for n in range(4):
            seconds |= U64(b[at + U64(n)]) << U64(8 * n)
            micros |= U64(b[at + U64(4 + n)]) << U64(8 * n)
        e = at + U64(16)
        at = e + captured
        state[U64(0)] += U64(1)
        if captured < U64(54) or b[e + U64(12)] != 8 or b[e + U64(13)] != 0 or b[e + U64(23)] != 6:
            continue
        source, target = U64(0), U64(0)
        for n in range(4):
            source = source << U64(8) | U64(b[e + U64(26 + n)])
            target = target << U64(8) | U64(b[e + U64(30 + n)])
        ports = e + U64(14) + ((U64(b[e + U64(14)]) & U64(15)) << U64(2))
        source = source << U64(16) | U64(b[ports]) << U64(8) | U64(b[ports + U64(1)])
        target = target << U64(16) | U64(b[ports + U64(2)]) << U64(8) | U64(b[ports + U64(3)])
        low, high = min(source, target), max(source, target)
        mixed = (low * U64(0x9E3779B97F4A7C15)) ^ (high * U64(0xC2B2AE3D27D4EB4F))
        slot = (mixed ^ (mixed >> U64(29))) * U64(0xBF58476D1CE4E5B9) >> U64(40) & last
        time_us = seconds * U64(1_000_000) + micros
        while True:
            row = U64(slots[slot])
            if row == U64(0):
                row = state[U64(1)] + U64(1)
                state[U64(1)] = row
                slots[slot] = row
                flow = flows[row - U64(1)]
                flow["low"], flow["high"], flow["first_us"] = low, high, time_us
            else:
                flow = flows[row - U64(1)]
            if flow["low"] == low and flow["high"] == high:
                flow["packets"] += U64(1)
                flow["octets"] += captured
                flow["last_us"] = time_us
                break
            slot = (slot + U64(1)) & last
    return at


def bare(path: Path, loop: Any) -> tuple[float, int, int]:
    """Run the loop over a capture.

    Args:
        path: The capture.
        loop: `_loop`, compiled.

    Returns:
        (seconds, frames, flows).

    Raises:
        IndexError: It has more flows than there is room for.
    """
    b, state = np.zeros(2 * _BUFFER, np.uint8), np.zeros(2, np.uint64)
    slots, flows = np.zeros(_SLOTS, np.int32), np.zeros(_FLOWS, _FLOW)
    view, have = b.data, 0
    begin = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        file.seek(_FILE_HEADER)
        while count := file.readinto(view[have : have + _BUFFER]):
            have += count
            at = int(loop(b, np.uint64(have), slots, flows, state))
            b[: have - at] = b[at:have].copy()
            have -= at
    return time.perf_counter() - begin, int(state[0]), int(state[1])


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args(arguments)
    loop = njit(boundscheck=True, error_model="numpy")(_loop)
    bare(chosen.capture, loop)
    passes = [bare(chosen.capture, loop) for _ in range(chosen.runs)]
    seconds = statistics.median(one[0] for one in passes)
    json.dump({"seconds": seconds, "frames": passes[0][1], "flows": passes[0][2]}, sys.stdout)


if __name__ == "__main__":
    main()
