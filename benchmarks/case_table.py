"""What other tools make of the cases: the captures of fixtures/ through every flow tool that is installed.

    python benchmarks/case_table.py [--python PATH]... [--only T02,T07] [--write]

Prints a Markdown table: a row a case, a column a tool, each cell what the tool says and whether it agrees with the hand
count of fixtures/expected.json (see docs/cases.md for how this is judged). `--python` names an interpreter with
nfstream, cicflowmeter or pypcapkit; give it once for each. `--write` renews docs/cases.md. traceflow is run through its
command line and judged by the same code as the others.

Tools and how they are read stand in other_tools.py, the judging in flow_facts.py; cases with less to compare here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "benchmarks", ROOT / "fixtures"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

import make  # noqa: E402 - found by the path above
from flow_facts import Account, Flow, Judgement, expected_flows, judge  # noqa: E402
from other_tools import LIMIT_S, TOOLS, Installed, Job, Tool, installed  # noqa: E402

PAGE = ROOT / "docs" / "cases.md"
BEGIN, END = "<!-- made by benchmarks/case_table.py -->", "<!-- end of what is made -->"

RULES = {
    "T08d": "a late FIN after the linger time of 60 s",
    "T08e": "a late FIN just when the linger time is over",
    "T08f": "a late FIN just before the linger time is over",
    "T15a": "TCP silent for exactly the timeout",
    "T15b": "TCP silent for 1 ns less",
    "T15c": "TCP silent for 1 ns more",
    "T15d": "UDP silent for exactly the timeout",
    "T15e": "UDP silent for 1 ns less",
    "T15f": "UDP silent for 1 ns more",
    "T16": "what the active timeout does",
    "T19": "the flow inside of a tunnel, or the tunnel",
    "T20b": "fragments without their first one",
    "T24": "echoes by their id, and errors by themselves",
    "T28": "what is done with duplicates of a mirror port",
}
"""Cases decided by a rule that each tool may choose: they are compared, and nobody is wrong. A key stands for its
parts, T16 for T16a as well."""

NOT_COMPARED = {
    "T08d": ("originator",),
    "T08e": ("originator",),
    "T14": ("originator",),
    "T15a": ("originator",),
    "T15c": ("originator",),
    "T20a": ("payload",),
    "T20c": ("payload",),
    "T20d": ("payload",),
    "T21c": ("payload",),
    "T21d": ("payload",),
    "T27a": ("originator",),
    "T32-blocks": ("frames",),
}
"""Facts without a right answer: who is the originator of a connection met half-way, or opened by both; what of a
fragment is payload; what follows a header whose length was not captured; whether blocks without a packet have a frame
number."""

ABOUT_IDLE = "T15"
IDLE_S = {6: 300, 17: 60}
"""Timeouts of the cases T15, by protocol; tools are given them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A case as it is put to the tools."""

    name: str
    shows: str
    captures: list[Path]
    flows: list[Flow]
    error: bool

    @property
    def is_rule(self) -> bool:
        """A tool may answer it as it likes."""
        return bool({self.name, self.name.rstrip("abcdefgh")} & set(RULES))

    @property
    def is_file(self) -> bool:
        """It is about the file, not about flows."""
        return self.name.startswith("T32")

    @property
    def idle_s(self) -> int | None:
        """The idle timeout that it needs."""
        return IDLE_S[self.flows[0].protocol] if self.name.startswith(ABOUT_IDLE) else None


def questions(folder: Path) -> list[Question]:
    """All cases T of expected.json, and T17, which is made in `folder`."""
    expected: dict[str, dict[str, Any]] = json.loads((ROOT / "fixtures" / "expected.json").read_text())
    shows = {case.name: case.shows for case in make.all_cases()}
    found = [
        Question(
            name,
            shows.get(name, ""),
            [ROOT / "fixtures" / file for file in case["files"]],
            expected_flows(case),
            case["error"] is not None,
        )
        for name, case in expected.items()
        if re.match(r"T\d", name)
    ]
    long = make.long_flow(folder / "T17.pcap")
    # 40 000 frames to and fro, the client's are the odd ones; from frame 4 on each carries 5 octets of payload
    frames = (tuple(range(1, 40_001, 2)), tuple(range(2, 40_001, 2)))
    octets = (5 * 19_998, 5 * 19_999)
    flow = Flow(6, ("10.0.0.1", 1000), ("10.0.0.2", 80), (20_000, 20_000), octets, frames, "end of input")
    found.append(Question("T17", "one connection of 40 000 frames", [long], [flow], False))
    return sorted(found, key=lambda question: question.name)


def not_asked(tool: Tool, question: Question) -> str:
    """Why a tool has no answer to this question, in a few words; empty when it is asked."""
    protocols = {flow.protocol for flow in question.flows}
    if tool.protocols and not protocols <= tool.protocols:
        return "protocol"
    if not tool.ip6 and any(":" in flow.orig[0] for flow in question.flows):
        return "IPv6"
    if len(question.captures) > 1 and not tool.several:
        return "one file"
    if question.name.startswith(ABOUT_IDLE) and not tool.idle and tool.name != "traceflow":
        return "no timeout"
    return ""


def ask(there: Installed, question: Question) -> str:
    """The cell of a tool and a case."""
    tool = there.tool
    if reason := not_asked(tool, question):
        return f"- {reason}"
    idle_s = question.idle_s if tool.idle else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            said = tool.run(Job(question.captures, Path(folder), there.python, idle_s))
    except subprocess.TimeoutExpired:
        return f"- over {LIMIT_S} s"
    except (OSError, ValueError, KeyError, TypeError) as error:  # what it printed is not what the adapter knows
        return f"- {type(error).__name__}"
    return cell(tool, question, said)


def cell(tool: Tool, question: Question, said: Account) -> str:
    """What a tool says and the mark: right, wrong, `-`; of a rule: same, differs."""
    if question.flows and not said.flows and said.complaint:
        return "- can't read it"
    facts = [fact for fact in tool.facts if fact not in NOT_COMPARED.get(question.name, ())]
    found = judge(question.flows, said, facts, error=question.error, one_way=tool.one_way)
    return mark(found, question, "one-way" if tool.one_way else "")


def mark(found: Judgement, question: Question, unit: str) -> str:
    """The judgement in a cell."""
    count = f"{found.flows} {unit}".strip()
    right, wrong = ("same", "differs") if question.is_rule else ("✓", "**✗**")
    why = f", {found.wrong}" if found.wrong not in ("", "number") else ""
    if not found.right and len(question.flows) > 3:
        why += f" ({found.equal} of {len(question.flows)} flows)" if not unit else ""
    return f"{right if found.right else wrong} {count}{why}"


def table(asked: list[Question], there: list[Installed], cells: dict[tuple[str, str], str]) -> str:
    """Rows of some cases."""
    names = [each.tool.name for each in there]
    lines = ["| case | shows | flows | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for question in asked:
        shows = RULES.get(question.name) or textwrap.shorten(question.shows, 90, placeholder=" ...")
        row = [question.name, shows.replace("|", " "), str(len(question.flows))]
        row[2] += " + error" if question.error else ""
        lines.append("| " + " | ".join([*row, *(cells[question.name, name] for name in names)]) + " |")
    return "\n".join(lines) + "\n"


def score(asked: list[Question], there: list[Installed], cells: dict[tuple[str, str], str]) -> str:
    """How many cells of each tool are right, wrong, not asked."""
    lines = ["| tool | version | right | wrong | - |", "|---|---|---|---|---|"]
    for each in there:
        column = [cells[question.name, each.tool.name] for question in asked]
        wrong = sum("✗" in text for text in column)
        right = sum("✓" in text for text in column)
        lines.append(f"| {each.tool.name} | {each.version} | {right} | {wrong} | {len(column) - right - wrong} |")
    return "\n".join(lines) + "\n"


def report(asked: list[Question], there: list[Installed], cells: dict[tuple[str, str], str]) -> str:
    """All that is made: totals, tables, what was missing."""
    missing = [tool.name for tool in TOOLS if tool.name not in {each.tool.name for each in there}]
    judged = [question for question in asked if not question.is_rule]
    parts = [
        "## In short\n",
        f"{len(judged)} cases with a right answer:\n",
        score(judged, there, cells),
        "Not installed when this was made: " + (", ".join(missing) or "none") + ".\n",
        "## Flows\n",
        table([question for question in judged if not question.is_file], there, cells),
        "## Rules that a tool may choose\n",
        table([question for question in asked if question.is_rule], there, cells),
        "## Files: byte orders, clocks, pcapng, damage\n",
        table([question for question in judged if question.is_file], there, cells),
    ]
    return "\n".join(part for part in parts if part)


def write(made: str) -> None:
    """Put what is made between the marks of the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", "utf-8")


def main() -> None:
    """Run all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", action="append", metavar="PATH", help="interpreter of Python tools; may be repeated"
    )
    parser.add_argument("--only", metavar="CASES", help="these cases, parted by commas")
    parser.add_argument("--write", action="store_true", help="renew docs/cases.md")
    chosen = parser.parse_args()
    if chosen.write and chosen.only:
        parser.error("--write needs all cases")
    there = [found for tool in TOOLS if (found := installed(tool, chosen.python or [sys.executable]))]
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder))
        if chosen.only:
            asked = [question for question in asked if question.name in chosen.only.split(",")]
        cells: dict[tuple[str, str], str] = {}
        for question in asked:
            print(question.name, end=" ", flush=True, file=sys.stderr)
            cells |= {(question.name, each.tool.name): ask(each, question) for each in there}
        print(file=sys.stderr)
    made = report(asked, there, cells)
    print(made)
    if chosen.write:
        write(made)


if __name__ == "__main__":
    main()
