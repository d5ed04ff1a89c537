"""What compare.py of the benchmarks makes of measurements: which bars are met, and the tables. Nothing is timed.

The measurements are made up so that every value can be computed in the head, beside each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import compare
import report
import rivals
from bars import CAPINFOS, CSV, NFPCAPD, TWO, bars
from processes import TooSlow, measure
from rivals import FIRST, STREAM
from stages import STAGES


def runs(*walls: float, peak: float = 100e6, frames: int = 20_000_000) -> list[dict[str, float]]:
    return [{"wall": wall, "cpu": wall, "peak": peak, "frames": frames} for wall in walls]


def results() -> dict[str, Any]:
    return {
        "captures": {
            "small": {"about": "x", "frames": 2_000_000, "flows": 66_453, "octets": 140e6},
            "large": {"about": "y", "frames": 20_000_000, "flows": 664_530, "octets": 1400e6},
        },
        "starts": {FIRST: [0.5, 0.5, 0.5], TWO: [0.5, 0.5, 0.5], "tiny": [0.4], "first run": [9.0],
                   "import traceflow": [0.15], "import numpy": [0.1]},
        "processes": {
            "small": {STREAM: runs(1.0, frames=2_000_000)},
            "large": {
                FIRST: runs(2.5, 3.0, 2.6),
                TWO: runs(1.5, 1.5, 1.5),
                CSV: runs(4.0, 4.0, 4.0),
                STREAM: runs(9.0, peak=120e6),
                CAPINFOS: runs(2.0, 2.0, 2.0),
                NFPCAPD: runs(5.0),
            },
        },
        "stages": {"small": {"plain": {"seconds": dict.fromkeys(STAGES, 0.009), "frames": 2_000_000,
                                       "octets": 140e6}}},
        "bare": {"small": {"seconds": 0.05, "frames": 2_000_000, "flows": 66_453}},
        "growth": {"live": [{"live": 10, "frames": 100, "ns": 40.0, "ns_table": 30.0, "ns_whole": 80.0, "peak": 1e8},
                            {"live": 50, "frames": 100, "ns": 180.0, "ns_table": 30.0, "ns_whole": 80.0, "peak": 1e8}]},
        "left_out": {"large": {"argus": "would take about 130 s"}},
    }  # fmt: skip


def found(part: str) -> tuple[float, bool]:
    """Value of the bar whose text has a part, and whether it is met."""
    one = [bar for bar in bars(results()) if part in bar.what]
    assert len(one) == 1, [bar.what for bar in one]
    return round(one[0].value, 3), one[0].met


@pytest.mark.parametrize(
    ("part", "value", "met"),
    [
        (f"{FIRST}: wall time, times that of {CAPINFOS}", 1.3, True),  # of 1.25, 1.5, 1.3
        (f"{TWO}: wall time, times that of {CAPINFOS}", 0.75, True),
        (f"{FIRST}: wall time, times that of {NFPCAPD}", 0.52, False),  # 2.6 / 5: the other ran once
        ("rows/s", 474_664.286, False),  # 664 530 / (4.0 - 2.6)
        ("share of a bare loop's speed (40 million", 0.617, True),  # of 40 million; 20 by 44 are asked for
        ("kernels, million small frames/s", 24.691, True),  # 2 000 000 / (9 * 9 ms): nine of the stages are kernels
        ("two workers", 2.1, True),  # of 2.0, 2.5, 2.1
        ("peak MB", 100.0, True),
        ("peak memory", 1.2, False),
        ("of a tiny capture", 0.4, True),
        ("first run ever", 9.0, False),
        ("import traceflow", 0.05, True),
        ("at 50 live flows", 4.5, False),
    ],
)
def test_a_bar_is_met_or_not(part: str, value: float, met: bool) -> None:
    assert found(part) == (value, met)


def test_what_was_not_measured_has_no_bar() -> None:
    assert bars({}) == []
    assert {bar.number for bar in bars(results())} == {1, 2, 3, 5, 6, 7}


def test_where_start_up_is_all_there_is_no_bar_is_judged() -> None:
    slow_start = results()
    slow_start["starts"][FIRST] = [2.4]  # 2.5 s less 2.4 s is less than a tenth of them
    [two] = [bar for bar in bars(slow_start) if bar.number == 3]
    assert not two.met
    assert str(two).endswith("too small a capture to tell (at least 1.6)")
    assert [bar["met"] for bar in report.shown(slow_start)["bars"] if bar["bar"] == 3] == [None]


def test_a_bar_says_what_was_asked_for() -> None:
    lines = [str(bar) for bar in bars(results())]
    assert f"bar 1: {TWO}: wall time, times that of {CAPINFOS}, 20000000 small frames: 0.75 (at most 0.9): met" in lines
    assert "bar 6: the same, first run ever, s: 9 (at most 8): not met" in lines


def test_tables_have_medians_and_ratios() -> None:
    text = report.markdown(results())
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
            for cells in (line.split("|") for line in text.splitlines() if line.startswith("|"))}  # fmt: skip
    # seconds, million frames/s, times ours, processor seconds, MB
    assert rows[CAPINFOS] == ["2.00", "10", "0.77", "2.00", "100"]
    assert rows["decode"] == ["4.5"]  # 9 ms over 2 000 000 frames
    assert rows[STREAM][-3:] == ["100", "120", "1.1"]  # 20 MB over 18 000 000 frames
    assert "- argus (large): would take about 130 s" in text


def test_tables_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"head\n{report.BEGIN}\nold\n{report.END}\ntail\n")
    report.into_page(page, "new\n")
    assert page.read_text() == f"head\n{report.BEGIN}\n\nnew\n\n{report.END}\ntail\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="there is no"):
        report.into_page(page, "new\n")


def test_results_are_shown_again_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(results()))
    compare.main(["--parts", "none", "--json", str(kept), "--add"])
    assert capsys.readouterr().out == report.markdown(results()) + "\n"
    assert [bar["met"] for bar in json.loads(kept.read_text())["bars"]] == [bar.met for bar in bars(results())]


def test_slow_tools_are_left_out_with_a_reason() -> None:
    programs = {program.name.split()[0]: program for program in rivals.RIVALS}
    assert rivals.why_not(programs["NFStream"], "small", 2_000_000, 120) == ""
    assert rivals.why_not(programs["NFStream"], "many", 10_000_000, 120) == "would take about 385 s"  # 26 000 a second
    assert "not run on more than 4000000 frames" in rivals.why_not(programs["tshark"], "large", 20_000_000, 1e6)
    assert rivals.why_not(programs["tcptrace"], "many", 1000, 120) == "it traces TCP alone"


def test_the_page_has_the_marks_and_the_command() -> None:
    page = (ROOT / "docs" / "speed.md").read_text("utf-8")
    assert page.index(report.BEGIN) < page.index(report.END)
    assert "python benchmarks/compare.py" in page


@pytest.mark.once("processes are the same on every Python")
def test_a_process_is_measured_and_ended_when_it_takes_too_long() -> None:
    held = 80 << 20
    code = f"import sys, os; octets = b'x' * {held}; print(len(octets)); sys.exit(int(sys.argv[1]))"
    cost = measure([sys.executable, "-I", "-S", "-c", code, "0"], keep=True)
    assert cost.output == f"{held}\n"
    assert held < cost.peak < 2 * held
    assert 0 < cost.wall < 60
    with pytest.raises(RuntimeError, match="exits with 3"):
        measure([sys.executable, "-I", "-S", "-c", code, "3"])
    with pytest.raises(TooSlow):
        measure([sys.executable, "-I", "-S", "-c", "input_never = __import__('threading').Event().wait()"], limit_s=0.2)
