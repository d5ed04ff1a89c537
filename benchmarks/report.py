"""What compare.py found, as Markdown: tables that read well on a terminal and on a page."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bars import Results, bars
from rivals import FIRST, STREAM
from stages import KERNELS, STAGES

__all__ = ["BEGIN", "END", "into_page", "markdown", "shown"]

BEGIN, END = "<!-- made by benchmarks/compare.py -->", "<!-- end of what is made -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table, text to the left and all else to the right."""
    every = [list(head), *map(list, rows)]
    widths = [max(len(row[at]) for row in every) for at in range(len(head))]
    every.insert(1, ["-" * width if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths)])
    for row in every:
        cells = [cell.rjust(widths[at]) if at else cell.ljust(widths[at]) for at, cell in enumerate(row)]
        yield f"| {' | '.join(cells)} |"
    yield ""


def markdown(results: Results) -> str:
    """All tables.

    Args:
        results: What compare.py found.
    """
    parts = (_machine, _bars, _captures, _stages, _starts, _growth, _memory, _writing, _capped, _left_out)
    return "\n".join(line for part in parts for line in part(results)).strip() + "\n"


def into_page(page: Path, text: str) -> None:
    """Put the tables between the two marks of a page.

    Raises:
        ValueError: The page lacks a mark.
    """
    old = page.read_text("utf-8")
    new, count = re.subn(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{text}\n{END}", old, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{page}: there is no {BEGIN} with {END} behind it")
    page.write_text(new, "utf-8")


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _median(rows: Iterable[dict[str, float]], part: str) -> float:
    return statistics.median(row[part] for row in rows)


def _machine(results: Results) -> Iterator[str]:
    machine = results.get("machine", {})
    if machine:
        yield (
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB; "
            f"Python {machine['python']}, NumPy {machine['numpy']}, Numba {machine['numba']}, "
            f"traceflow {machine['traceflow']}."
        )
        tools = ", ".join(f"{name.split()[0]} {version}" for name, version in results["versions"].items() if version)
        yield f"Beside it: {tools}. Medians of {machine['runs']} runs, slow tools fewer." if tools else ""
        yield ""


def _bars(results: Results) -> Iterator[str]:
    lines = [str(bar) for bar in bars(results)]
    if lines:
        yield "### Bars"
        yield ""
        yield from (f"- {line}" for line in lines)
        yield ""


def _captures(results: Results) -> Iterator[str]:
    for capture, programs in results.get("processes", {}).items():
        about = results["captures"][capture]
        yield f"### {about.get('name', capture)}: {about['about']}"
        yield ""
        yield f"{about['frames']} frames, {about['flows']} flows, {about['octets'] / 1e6:.0f} MB. Whole processes."
        yield ""
        first = _median(programs[FIRST], "wall") / programs[FIRST][0]["frames"] if FIRST in programs else 0.0
        rows = []
        for name, runs in programs.items():
            frames, wall = runs[0]["frames"], _median(runs, "wall")
            ratio = f"{wall / frames / first:.2f}" if first else ""
            rows.append(
                (
                    name + (f", {frames} frames" if frames != about["frames"] else ""),
                    _seconds(wall),
                    f"{frames / wall / 1e6:.3g}",
                    ratio,
                    _seconds(_median(runs, "cpu")),
                    f"{_median(runs, 'peak') / 1e6:.0f}",
                )
            )
        head = ("command", "wall s", "million frames/s", "time a frame, times ours", "processor s", "peak MB")
        yield from table(head, rows)


def _stages(results: Results) -> Iterator[str]:
    found = [
        (results["captures"][capture].get("name", capture), kind, one)
        for capture, kinds in results.get("stages", {}).items()
        for kind, one in kinds.items()
    ]
    if not found:
        return
    yield "### Where our own time goes"
    yield ""
    yield "Nanoseconds a frame in one process on one core, kernels compiled; kernels are all between reading and rows."
    yield ""
    head = ("", *(f"{name}, TCP analysis" if kind == "analysis" else name for name, kind, _ in found))

    def row(name: str, stages: Sequence[str]) -> tuple[str, ...]:
        times = (sum(one["seconds"][stage] for stage in stages) / one["frames"] * 1e9 for *_, one in found)
        return (name, *(f"{ns:.1f}" for ns in times))

    def rate(name: str, stages: Sequence[str], part: str, unit: float) -> tuple[str, ...]:
        seconds = [sum(one["seconds"][stage] for stage in stages) for *_, one in found]
        return (name, *(f"{one[part] / s / unit:.3g}" for s, (*_, one) in zip(seconds, found, strict=True)))

    both = ("read and walk", *KERNELS)
    rows = [row(stage, (stage,)) for stage in STAGES]
    rows += [row("kernels", KERNELS), rate("kernels, million frames/s", KERNELS, "frames", 1e6)]
    rows += [rate("with read and walk, million frames/s", both, "frames", 1e6)]
    rows += [rate("kernels, GB/s", KERNELS, "octets", 1e9), rate("with read and walk, GB/s", both, "octets", 1e9)]
    yield from table(head, rows)


def _starts(results: Results) -> Iterator[str]:
    if found := results.get("starts"):
        yield "### Start-up"
        yield ""
        yield "Seconds of processes that have next to nothing to do: a capture of 8 frames."
        yield ""
        yield from table(("", "s"), ((name, f"{statistics.median(times):.3f}") for name, times in found.items()))


def _growth(results: Results) -> Iterator[str]:
    growth = results.get("growth", {})
    if not growth:
        return
    yield "### Growth"
    yield ""
    if "live" in growth:
        yield "TCP flows that are all live, frames in any order; without TCP analysis, one worker."
        yield "Table and stages in one process, once all flows are open."
        yield ""
        head = ("live flows", "frames", "table alone, ns", "all stages, ns", "whole process, ns", "peak MB")
        rows = (
            (str(row["live"]), str(row["frames"]), f"{row['ns_table']:.0f}", f"{row['ns']:.0f}",
             f"{row['ns_whole']:.0f}", f"{row['peak'] / 1e6:.0f}")
            for row in growth["live"]
        )  # fmt: skip
        yield from table(head, rows)
    yield "Ten times the size, start-up apart:"
    yield ""
    texts = {"one": "one flow", "many": "one-frame flows"}
    grown = [
        (text, str(row["frames"]), f"{row['ns']:.0f} ns a frame", f"{row['peak'] / 1e6:.0f}")
        for name, text in texts.items()
        for row in growth.get(name, ())
    ]
    grown += [
        (f"`index` read after every packet, {text}", str(row["packets"]), f"{row['us']:.1f} us a packet", "")
        for name, text in (("one", "one flow"), ("many", "a flow a packet"))
        for row in growth.get("index", {}).get(name, ())
    ]
    yield from table(("", "frames", "time", "peak MB"), grown)


def _memory(results: Results) -> Iterator[str]:
    processes, about = results.get("processes", {}), results.get("captures", {})
    if not {"small", "large"} <= set(processes):
        return
    yield "### Memory"
    yield ""
    rows: list[tuple[str, ...]] = []
    for name in processes["small"]:
        ours = name == STREAM or name.startswith(("flows", "trace()"))
        if ours and name in processes["large"]:
            peaks = [_median(processes[capture][name], "peak") for capture in ("small", "large")]
            more = about["large"]["frames"] - about["small"]["frames"]
            rows.append((name, *(f"{peak / 1e6:.0f}" for peak in peaks), f"{(peaks[1] - peaks[0]) / max(more, 1):.1f}"))
    sizes = [f"peak MB, {about[capture]['frames']} frames" for capture in ("small", "large")]
    yield from table(("command", *sizes, "octets a frame more"), rows)


def _writing(results: Results) -> Iterator[str]:
    if found := results.get("writing"):
        yield "### A file for each flow"
        yield ""
        yield "Capture `mix`; start-up apart."
        yield ""
        head = ("", "wall s", "processor s", "files", "MB", "frames", "frames/s")
        rows = (
            (name, _seconds(_median(runs, "wall")), _seconds(_median(runs, "cpu")), str(runs[0]["files"]),
             f"{runs[0]['octets'] / 1e6:.0f}", str(runs[0]["frames"]),
             f"{runs[0]['frames'] / max(_median(runs, 'wall'), 1e-6):.0f}")
            for name, runs in found.items()
        )  # fmt: skip
        yield from table(head, rows)


def _capped(results: Results) -> Iterator[str]:
    if found := results.get("capped"):
        yield "### Floods against a table that is capped"
        yield ""
        yield f"{found[0]['frames']} TCP segments between ends of their own, --max-flows {found[0]['most']}."
        yield ""
        head = ("flood, command", "ns a frame", "peak MB", "account")
        rows = []
        for row in found:
            name, account = f"{row['flood']}, {row['command']}", row["wrong"] or "adds up"
            rows.append((name, f"{row['ns']:.0f}", f"{row['peak'] / 1e6:.0f}", account))
        yield from table(head, rows)


def _left_out(results: Results) -> Iterator[str]:
    lines: dict[tuple[str, str], list[str]] = {}
    for capture, programs in results.get("left_out", {}).items():
        for name, reason in programs.items():
            lines.setdefault((name, reason), []).append(capture)
    if lines:
        yield "### Left out"
        yield ""
        yield from (f"- {name} ({', '.join(where)}): {reason}" for (name, reason), where in lines.items())
        yield ""


def shown(results: Results) -> dict[str, Any]:
    """The results with their bars, as they are written as json."""
    judged = []
    for bar in bars(results):
        known = not math.isnan(bar.value)
        value, met = (bar.value, bar.met) if known else (None, None)
        limits = {"limit": bar.limit, "at_most": bar.at_most}
        judged.append({"bar": bar.number, "what": bar.what, "value": value, **limits, "met": met})
    return {**results, "bars": judged}
