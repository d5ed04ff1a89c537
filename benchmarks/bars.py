"""The bars that issue 6 sets for speed, held against what was measured. What was not measured has no line.

Ratios are medians of the ratios of runs that came in turn; where one side ran fewer times, of the medians. Where
start-up is taken off and next to nothing is left, because the capture was too small, the bar is not judged.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rivals import FIRST, STREAM
from stages import KERNELS

__all__ = ["SHARES", "Bar", "bars"]

Results = dict[str, Any]

TWO = "flows --summary --no-analysis, 2 workers"
ANALYSIS, ANALYSIS_TWO = "flows --summary, 1 worker", "flows --summary, 2 workers"
CSV, JSONL = "flows -T csv --no-analysis, 1 worker", "flows -T jsonl --no-analysis, 1 worker"
CAPINFOS, NFPCAPD, SOFTFLOWD = "capinfos -c (counts only)", "nfpcapd", "softflowd -m 2000000"
NFSTREAM, TSHARK = "NFStream (n_dissections=0)", "tshark -z conv,tcp"
SHARES = {"small": {"plain": 20 / 44, "analysis": 12 / 44}, "mix": {"plain": 6000 / 655 / 23}}
"""By capture and kind: what bar 2 asks for, as a share of the speed of a bare loop (bare.py) where the bar was set: 44
million small frames/s, and 23 of the mix of that time, whose frames had 655 octets."""
_LINEAR, _MISSES = 2.0, 4.0
"""How much time a frame may grow at ten times the size: where nothing but noise is due, and where cache misses are."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        number: As in the issue.
        what: What was compared.
        value: What was measured; not a number: the capture was too small to tell.
        limit: What is asked for.
        at_most: The value may be at most so much; otherwise it has to be at least that.
    """

    number: int
    what: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it is met; what cannot be told is not met."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        if math.isnan(self.value):
            return f"bar {self.number}: {self.what}: too small a capture to tell ({side} {self.limit:.3g})"
        answer = "met" if self.met else "not met"
        return f"bar {self.number}: {self.what}: {self.value:.3g} ({side} {self.limit:.3g}): {answer}"


class _Walls:
    """Wall times of one capture.

    Args:
        results: What compare.py found.
        capture: Name of the capture.
    """

    def __init__(self, results: Results, capture: str) -> None:
        self._costs = results.get("processes", {}).get(capture, {})
        self._starts = results.get("starts", {})
        self.about = results.get("captures", {}).get(capture, {})

    def has(self, *names: str, start: bool = False) -> bool:
        """Whether all of these were measured, and where wanted their start as well."""
        return all(name in self._costs and (not start or name in self._starts) for name in names)

    def of(self, name: str, *, apart: bool = False) -> list[float]:
        """Seconds of each run; `apart`: without the start."""
        start = statistics.median(self._starts[name]) if apart else 0.0
        return [run["wall"] - start for run in self._costs[name]]

    def peak(self, name: str) -> float:
        """Octets, median."""
        return float(statistics.median(run["peak"] for run in self._costs[name]))

    def ratio(self, name: str, other: str, *, apart: bool = False) -> float:
        """Time of one by that of another."""
        ours, theirs = self.of(name, apart=apart), self.of(other, apart=apart)
        if apart and not all(self._tells(one) for one in (name, other)):
            return math.nan
        if len(ours) == len(theirs):
            return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return statistics.median(ours) / statistics.median(theirs)

    def _tells(self, name: str) -> bool:
        """Whether more than a tenth of its start is left when that is taken off, in each run."""
        return min(self.of(name, apart=True)) > 0.1 * float(statistics.median(self._starts[name]))

    def more(self, name: str, other: str) -> float:
        """Seconds that one takes longer than another; not a number where it does not."""
        seconds = statistics.median(self.of(name)) - statistics.median(self.of(other))
        return seconds if seconds > 0 else math.nan


def bars(results: Results) -> list[Bar]:
    """All bars that can be computed.

    Args:
        results: What compare.py found.
    """
    return [
        *_against_rivals(results),
        *_kernels(results),
        *_shares(results),
        *_workers(results),
        *_writing(results),
        *_memory(results),
        *_start(results),
        *_flood(results),
        *_growth(results),
    ]


def _against_rivals(results: Results) -> Iterator[Bar]:
    large, small = _Walls(results, "large"), _Walls(results, "small")
    frames = large.about.get("frames", 0)
    for name, rival, limit in (
        (FIRST, CAPINFOS, 1.3),
        (TWO, CAPINFOS, 0.9),
        (FIRST, NFPCAPD, 0.5),
        (FIRST, NFSTREAM, 1 / 40),
        (ANALYSIS, FIRST, 1.7),
    ):
        if large.has(name, rival):
            yield Bar(
                1, f"{name}: wall time, times that of {rival}, {frames} small frames", large.ratio(name, rival), limit
            )
    if small.has(FIRST, TSHARK):
        frames = small.about["frames"]
        yield Bar(
            1, f"{FIRST}: wall time, times that of {TSHARK}, {frames} small frames", small.ratio(FIRST, TSHARK), 0.1
        )
    for name, limit in ((CSV, 500_000), (JSONL, 250_000)):
        if large.has(FIRST, name):
            flows = large.about["flows"]
            rate = flows / large.more(name, FIRST)
            yield Bar(1, f"{name}: rows/s on top of the summary, {flows} flows", rate, limit, at_most=False)


def _kernels(results: Results) -> Iterator[Bar]:
    found = results.get("stages", {})
    for kind, limit in (("plain", 20.0), ("analysis", 12.0)):
        if kind in found.get("small", {}):
            one = found["small"][kind]
            kernels_s = sum(one["seconds"][name] for name in KERNELS)
            all_s = kernels_s + one["seconds"]["read and walk"]
            word = "with TCP analysis" if kind == "analysis" else "without TCP analysis"
            read = f"with read and walk {one['frames'] / all_s / 1e6:.3g}"
            rate = one["frames"] / kernels_s / 1e6
            yield Bar(2, f"kernels, million small frames/s, {word} ({read})", rate, limit, at_most=False)
    for capture in ("mix", "given"):
        if "plain" in found.get(capture, {}):
            one = found[capture]["plain"]
            kernels_s = sum(one["seconds"][name] for name in KERNELS)
            all_s = kernels_s + one["seconds"]["read and walk"]
            name = results["captures"][capture].get("name", capture)
            read = f"with read and walk {one['octets'] / all_s / 1e9:.3g}"
            rate = one["octets"] / kernels_s / 1e9
            yield Bar(2, f"kernels, GB/s of capture {name} without TCP analysis ({read})", rate, 6.0, at_most=False)


def _shares(results: Results) -> Iterator[Bar]:
    """Bar 2 on a machine of another speed: frames a second of the kernels, times those of a bare loop beside them."""
    for capture, kinds in SHARES.items():
        for kind, limit in kinds.items():
            one, loop = results.get("stages", {}).get(capture, {}).get(kind), results.get("bare", {}).get(capture)
            if one and loop:
                rate = one["frames"] / sum(one["seconds"][name] for name in KERNELS)
                bare = loop["frames"] / loop["seconds"]
                word = "with TCP analysis" if kind == "analysis" else "without TCP analysis"
                what = (
                    f"kernels, {capture}, {word}, as a share of a bare loop's speed ({bare / 1e6:.3g} million frames/s)"
                )
                yield Bar(2, what, rate / bare, limit, at_most=False)


def _workers(results: Results) -> Iterator[Bar]:
    large = _Walls(results, "large")
    if large.has(FIRST, TWO, start=True):
        gain = large.ratio(FIRST, TWO, apart=True)
        yield Bar(3, "two workers, times the speed of one, start-up apart", gain, 1.6, at_most=False)


def _rate(row: dict[str, float]) -> float:
    """Frames a second of a writer; not a number where its start took all the time."""
    return row["frames"] / row["wall"] if row["wall"] > 0 else math.nan


def _writing(results: Results) -> Iterator[Bar]:
    table = results.get("writing", {})

    def rate(name: str) -> float:
        return float(statistics.median(_rate(row) for row in table[name]))

    for ours, other, limit in (
        ("traceflow json", "PyPCAPKit json (dpkt engine)", 40.0),
        ("traceflow pcap", "tcpflow", 2.0),
        ("traceflow pcap", "cp -r of these files", 0.5),
    ):
        if ours in table and other in table:
            what = f"trace --format {ours.split()[1]}, times the speed of {other}, start-up apart"
            yield Bar(4, what, rate(ours) / rate(other), limit, at_most=False)


def _memory(results: Results) -> Iterator[Bar]:
    large, small = _Walls(results, "large"), _Walls(results, "small")
    for name in (FIRST, ANALYSIS, ANALYSIS_TWO):
        if large.has(name):
            frames, flows = large.about["frames"], large.about["flows"]
            limit = (640 * flows + 8 * frames + 300e6) / 1e6
            yield Bar(5, f"{name}: peak MB, {frames} frames, {flows} flows", large.peak(name) / 1e6, limit)
    if large.has(STREAM) and small.has(STREAM):
        grown = large.peak(STREAM) / small.peak(STREAM)
        sizes = f"{large.about['frames']} frames, times that of {small.about['frames']}"
        yield Bar(5, f"{STREAM}: peak memory, {sizes}", grown, 1.05)


def _start(results: Results) -> Iterator[Bar]:
    found = {name: statistics.median(seconds) for name, seconds in results.get("starts", {}).items()}
    if "tiny" in found:
        yield Bar(6, "flows --summary of a tiny capture, s", found["tiny"], 0.45)
        yield Bar(6, "the same, first run ever, s", found["first run"], 8.0)
        imports = found["import traceflow"] - found["import numpy"]
        yield Bar(6, "import traceflow, s above import numpy", imports, 0.08)


def _flood(results: Results) -> Iterator[Bar]:
    many = _Walls(results, "many")
    flows = many.about.get("flows", 0)
    for rival, limit in ((NFPCAPD, 1.0), (SOFTFLOWD, 2.0)):
        if many.has(FIRST, rival, start=True):
            ratio = many.ratio(FIRST, rival, apart=True)
            what = f"{FIRST}: wall time, times that of {rival}, {flows} one-frame flows, start-up apart"
            yield Bar(7, what, ratio, limit)


def _grown(small: float, large: float) -> float:
    """How many times as large; not a number where noise made one of them negative."""
    return large / small if small > 0 and large > 0 else math.nan


def _growth(results: Results) -> Iterator[Bar]:
    growth = results.get("growth", {})
    if live := growth.get("live"):
        first = live[0]
        for other in live[1:]:
            what = f"time a frame at {other['live']} live flows, times that at {first['live']}"
            yield Bar(7, what, _grown(first["ns"], other["ns"]), _MISSES)
    for name, limit, text in (("one", _LINEAR, "of one flow"), ("many", _MISSES, "of one-frame flows")):
        if name in growth:
            small, large = growth[name]
            what = f"time a frame at {large['frames']} frames {text}, times that at {small['frames']}"
            yield Bar(7, what, _grown(small["ns"], large["ns"]), limit)
    for name, text in (("one", "one flow"), ("many", "a flow a packet")):
        if name in growth.get("index", {}):
            small, large = growth["index"][name]
            sizes = f"after {large['packets']} packets of {text}, times that after {small['packets']}"
            yield Bar(7, f"time a packet, reading `index` {sizes}", _grown(small["us"], large["us"]), _LINEAR)
