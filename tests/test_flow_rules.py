"""docs/rules.md is complete: every rule and case has its row, and every test and fixture that it names exists."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "rules.md").read_text("utf-8")
EXPECTED: dict[str, Any] = json.loads((ROOT / "fixtures" / "expected.json").read_text("utf-8"))

TO_COME: set[int] = set()
"""Rules without a test, because what they speak of does not exist yet: take a number out when its columns come."""

RULES, CASES = 25, 32
NAMED_TEST = re.compile(r"`(test_\w+\.py)::(\w+)`")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"{heading}\n")]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions_of(file: str) -> set[str]:
    """Names of the test functions of a file in tests/; none where there is no such file."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_rule_has_its_row() -> None:
    assert [row[0] for row in rows("Rules")] == [str(number) for number in range(1, RULES + 1)]


def test_every_case_has_its_row() -> None:
    assert [row[0] for row in rows("Cases")] == [f"T{number:02}" for number in range(1, CASES + 1)]


def test_rules_without_tests_are_those_to_come() -> None:
    assert {int(row[0]) for row in rows("Rules") if row[2] == "to come"} == TO_COME
    assert {int(row[0]) for row in rows("Rules") if not NAMED_TEST.search(row[2])} == TO_COME


def test_every_case_has_a_fixture_or_a_test() -> None:
    assert [case for case, _, fixtures, tests in rows("Cases") if not fixtures and not NAMED_TEST.search(tests)] == []


@pytest.mark.once("pages are the same on every Python")
def test_every_named_test_exists() -> None:
    named = set(NAMED_TEST.findall(PAGE))
    assert len(named) > 50
    there = {file: functions_of(file) for file, _ in named}
    assert sorted(f"{file}::{name}" for file, name in named if name not in there[file]) == []
    assert PAGE.count("::") == len(NAMED_TEST.findall(PAGE)), (
        "a test whose name is not written `test_file.py::test_name`"
    )


def test_every_named_fixture_exists() -> None:
    named = {name for _, _, _, fixtures in rows("Rules") for name in fixtures.split()}
    named |= {name for _, _, fixtures, _ in rows("Cases") for name in fixtures.split()}
    assert named - set(EXPECTED) == set()


def test_every_fixture_of_a_case_stands_in_its_row() -> None:
    of_cases = {name: re.match(r"T\d\d", name) for name in EXPECTED}
    there = {(found.group(), name) for name, found in of_cases.items() if found}
    assert {(case, name) for case, _, fixtures, _ in rows("Cases") for name in fixtures.split()} == there
