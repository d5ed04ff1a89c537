"""The rules of the house, checked by reading its source: imports, sizes, names, docs, tests, packaging.

What a person could check by eye on every change stands here, so that nobody has to. Nothing here runs a capture.
The modules are parsed, not imported, except where names are taken from the code to look them up in the docs.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import hashlib
import importlib
import importlib.metadata
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest

import traceflow
from traceflow.compiled import COMPILED, U64, inline_kernel, kernel, outline_kernel
from traceflow.flows import FLOW, EndCause, EndReason, flat_columns
from traceflow.options import PROFILES, Options
from traceflow.packets import Verdict

if TYPE_CHECKING:
    from conftest import Finished

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "traceflow"

LAYERS = (
    ("errors", "ahead", "callbacks", "compilers", "compiled", "packets", "protocols", "tomlfile"),
    ("tcp", "holes", "states", "closing", "connstates", "directions", "options", "labels", "framelists", "keys"),
    ("live", "timeouts", "cuts", "quotes", "steering"),
    ("flows",),
    ("analysis", "runs", "findings", "endings", "plugins"),
    ("libpcap", "filters"),
    ("decode", "checksums", "duplicates", "fragments", "sources"),
    ("tracking", "harvest", "table"),
    ("pipeline", "policy"),
    ("sinks", "adapters"),
    ("tracer", "feeding"),
    ("grabbing", "warmup"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
"""The rooms, deepest first. A room imports from layers below its own, and from rooms to its left in its own."""

LAZY = {
    "traceflow.flows": {"pandas"},
    "traceflow.adapters": {"scapy"},
    "traceflow.sources.blockwise": {"compression", "lz4", "zstandard"},
}
"""Optional packages that a module may import inside a function; nothing else may be imported there."""

LATER_STANDARD_LIBRARY = {"compression"}
"""Packages that the standard library has in later Pythons than the oldest that we support."""

WHOLE_HOUSE = {
    "house": "this file",
    "rules": "docs/rules.md names a test of every rule and case",
    "cli_plugins": "plugins on the command line: columns in every output, reports, alarms, failures",
    "cli_grab": "traceflow grab: its file, outputs, policy, pictures, failures, interruptions",
    "oracle": "tests/oracle.py, the slow second opinion",
    "exchange": "tests/exchange.py, the language of scenarios",
    "fixtures": "the captures of fixtures/ are what their script makes",
    "chunking": "batches and reads of any size give the same results",
    "scenarios": "the cases of the fixtures through the whole program",
    "hostile": "bad input through every profile, floods, short runs of fuzz/",
    "flow_rules": "docs/rules.md names a test for every rule and case",
    "cases": "states, histories and the TCP analysis of the cases of the fixtures",
    "profiles": "profiles tranalyzer, peafowl and nfstream, and a full table",
    "zeek": "profile zeek against the connection logs that Zeek's own tests expect",
    "netns": "live capture through the whole program, between two network namespaces",
    "tshark": "flows and analysis flags held against tshark's",
    "benchmarks": "the judging of other tools",
    "benchmark_captures": "the makers of synthetic captures",
    "benchmark_report": "what compare.py of the benchmarks makes of its measurements",
}
"""Test files that belong to no single room, and what they are about."""

CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
MAY_READ_CLOCKS = ("traceflow.cli", "traceflow.sources.live")

Tree = ast.Module


def module_name(path: Path) -> str:
    """traceflow/sinks/__init__.py is traceflow.sinks."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}
TREES: dict[str, Tree] = {name: ast.parse(path.read_text("utf-8")) for name, path in PATHS.items()}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def room_of(module: str) -> str:
    """traceflow.sources.pcap is in room sources; traceflow itself is the room __init__."""
    return module.split(".")[1] if "." in module else "__init__"


ROOMS = {room_of(module) for module in PATHS}


def imports_of(module: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules that a tree imports, with the line; `from package import module` counts as the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import; write the whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in PATHS else str(node.module)), node.lineno


def dotted(node: ast.AST) -> str:
    """`time.perf_counter` of an expression, empty where it isn't names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def in_room(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


# --- imports ---------------------------------------------------------------------------------------------------


def test_every_room_has_its_layer() -> None:
    placed = [room for layer in LAYERS for room in layer]
    assert len(placed) == len(set(placed))
    assert ROOMS - set(placed) == set(), "place a new room in LAYERS and in the table of ARCHITECTURE.md"


def test_the_layers_are_those_of_the_architecture_page() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", text, flags=re.MULTILINE)
    assert set(listed) == ROOMS - {"__init__", "__main__"}
    rank = {room: place for place, room in enumerate(listed)}
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, tree in TREES.items()
        for imported, line in imports_of(module, tree)
        if room_of(module) in rank and room_of(imported) in rank and imported in PATHS
        if rank[room_of(imported)] > rank[room_of(module)]
    ]
    assert wrong == [], "ARCHITECTURE.md says that imports go down its table only"


def test_imports_point_one_way() -> None:
    rank = {room: (layer, place) for layer, rooms in enumerate(LAYERS) for place, room in enumerate(rooms)}
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, tree in TREES.items()
        for imported, line in imports_of(module, tree)
        if imported in PATHS and room_of(imported) != room_of(module)
        if rank[room_of(imported)] > rank[room_of(module)]
    ]
    assert wrong == []


def test_modules_import_each_other_in_no_circle() -> None:
    edges = {
        module: {imported for imported, _ in imports_of(module, tree) if imported in PATHS and imported != module}
        for module, tree in TREES.items()
    }
    # take away, again and again, what imports nothing that is left: a circle is what remains
    left = dict(edges)
    while free := [module for module, imported in left.items() if not imported & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


def test_no_imports_inside_functions() -> None:
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for imported, line in imports_of(module, function)
        if imported.split(".")[0] not in LAZY.get(module, set())
    ]
    assert wrong == []


def test_the_optional_packages_are_extras() -> None:
    lines = "\n".join(setup_cfg()["options.extras_require"].values())
    extras = {re.split(r"[<>=;\[ ]", line)[0] for line in lines.split("\n")}
    assert {package for packages in LAZY.values() for package in packages} - LATER_STANDARD_LIBRARY <= extras


def test_only_the_front_door_and_the_lists_of_plugins_and_filters_import_by_name() -> None:
    users = {m for m, tree in TREES.items() if any(name == "importlib" for name, _ in imports_of(m, tree))}
    allowed = {"traceflow", "traceflow.plugins.registry", "traceflow.filters.kinds", "traceflow.filters.loading"}
    allowed.add("traceflow.warmup")  # every run loads it, and only `traceflow warmup` needs the rooms that it names
    assert {module for module in users if not in_room(module, ("traceflow.cli",))} <= allowed


def test_click_and_rich_stay_in_the_cli_and_numba_behind_its_door() -> None:
    # cli.compiling hears from Numba that something is being compiled, to say so; it compiles nothing
    numba_users = ("traceflow.compilers", "traceflow.compiled", "traceflow.cli.compiling")
    allowed = {"click": ("traceflow.cli",), "rich": ("traceflow.cli",), "numba": numba_users}
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, tree in TREES.items()
        for imported, line in imports_of(module, tree)
        if not in_room(module, allowed.get(imported.split(".")[0], (module,)))
    ]
    assert wrong == []


def test_importing_the_front_door_loads_nothing_heavy() -> None:
    code = "import sys, traceflow; print(sorted({'numpy', 'numba', 'dpkt', 'click', 'rich'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd="/")
    assert done.stdout.strip() == "[]"


# --- the front door and other __init__.py ----------------------------------------------------------------------


def test_init_files_hold_imports_and_all_only() -> None:
    wrong = []
    lazy = {"__version__", "_HOMES", "__getattr__", "__dir__"}
    for module, path in PATHS.items():
        if path.name != "__init__.py":
            continue
        allowed = {"__all__"} | (lazy if module == "traceflow" else set())
        for node in TREES[module].body:
            match node:
                case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                    continue
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.FunctionDef(name=name) if name in allowed:
                    continue
                case ast.If(test=ast.Name(id="TYPE_CHECKING")) if module == "traceflow":
                    continue
            wrong.append(f"{module}:{node.lineno}")
    assert wrong == []


def test_the_front_door_opens_to_every_public_name() -> None:
    typed = {
        alias.name
        for node in TREES["traceflow"].body
        if isinstance(node, ast.If)
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }
    assert typed == set(traceflow.__all__), "what a type checker sees is what __all__ says"
    for name in traceflow.__all__:
        assert getattr(traceflow, name) is not None
    assert dir(traceflow) == sorted(traceflow.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        traceflow.no_such_name  # noqa: B018 - the access is the test


def test_all_names_what_is_public() -> None:
    wrong = []
    for module, tree in TREES.items():
        if module == "traceflow.__main__":
            continue
        lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and dotted(n.targets[0]) == "__all__"]
        if not lists:
            wrong += [module] if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body) else []
            continue
        listed = ast.literal_eval(lists[0])
        missing = [name for name in listed if not hasattr(importlib.import_module(module), name)]
        wrong += [f"{module} lists {name}, which it does not have" for name in missing]
    assert wrong == []


# --- what must not be called -----------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node.lineno


def test_only_the_cli_prints() -> None:
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"}
    wrong = [
        f"{module}:{line}"
        for module, tree in TREES.items()
        if not in_room(module, ("traceflow.cli",))
        for called, line in calls(tree)
        if called in printing
    ]
    assert wrong == []


def test_only_the_cli_and_the_live_source_read_a_clock() -> None:
    wrong = []
    for module, tree in TREES.items():
        if in_room(module, MAY_READ_CLOCKS):
            continue
        for node in ast.walk(tree):
            parts = dotted(node).split(".")
            if isinstance(node, ast.Attribute) and len(parts) > 1 and parts[-1] in CLOCKS.get(parts[-2], set()):
                wrong.append(f"{module}:{node.lineno} {'.'.join(parts)}")
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                wrong.append(f"{module}:{node.lineno} from time import")
    assert wrong == []


def test_nothing_runs_or_loads_code_from_data() -> None:
    wrong = [
        f"{module}:{line} {name}"
        for module, tree in TREES.items()
        for names in (calls(tree), imports_of(module, tree))
        for name, line in names
        if name.split(".")[0] in {"eval", "exec", "pickle", "marshal", "shelve", "__import__"} or name == "os.system"
    ]
    assert wrong == []


@pytest.mark.once("sources are the same on every Python")
def test_tests_neither_sleep_nor_mock() -> None:
    wrong = []
    for path in TESTS:
        tree = ast.parse(path.read_text("utf-8"))
        wrong += [f"{path.name}:{line} sleeps" for called, line in calls(tree) if called in ("time.sleep", "sleep")]
        mocks = ("mock", "unittest.mock")
        wrong += [f"{path.name}:{line} mocks" for name, line in imports_of(path.stem, tree) if name.startswith(mocks)]
    assert wrong == []


# --- sizes, names, docstrings, kernels -------------------------------------------------------------------------


def test_modules_stay_small() -> None:
    lines = {module: len(path.read_text("utf-8").splitlines()) for module, path in PATHS.items()}
    assert {module: count for module, count in lines.items() if count > 600} == {}
    assert statistics.median(lines.values()) < 200


def test_no_room_without_a_subject() -> None:
    subjectless = re.compile(r"(^|_)(utils?|helpers?|common|misc|tools?)($|_)")
    names = {part for module in PATHS for part in module.split(".")} | {path.stem for path in TESTS}
    assert {name for name in names if subjectless.search(name)} == set()


def public_definitions(tree: Tree) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    marks = {dotted(mark).split(".")[-1] for mark in inner.decorator_list}
                    if not marks & {"overload", "setter", "override"}:
                        yield f"{node.name}.{inner.name}", inner


def test_everything_public_says_what_it_is() -> None:
    wrong = [module for module, tree in TREES.items() if not ast.get_docstring(tree)]
    wrong += [
        f"{module}.{name}"
        for module, tree in TREES.items()
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)  # type: ignore[arg-type] # functions and classes only
    ]
    assert wrong == []


def test_kernels_take_at_most_ten_arguments() -> None:
    doors = {"kernel", "inline_kernel", "outline_kernel"}
    kernels = [
        (f"{module}.{node.name}", len(node.args.args))
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and doors & {dotted(mark) for mark in node.decorator_list}
    ]
    assert len(kernels) > 10
    assert [(name, count) for name, count in kernels if count > 10] == []


# --- tests and docs --------------------------------------------------------------------------------------------


def names_of_tests_for(module: str) -> set[str]:
    """tests/test_<name>.py is about the module: sinks.dictdump_json has sinks, dictdump and dictdump_json."""
    if module in ("traceflow", "traceflow.__main__"):
        return {"house", "cli"}
    room, *inner = module.split(".")[1:]
    words = inner[-1].split("_") if inner else []
    return {room} | {"_".join(words[:count]) for count in range(1, len(words) + 1)}


def test_every_module_has_its_tests() -> None:
    present = {path.stem.removeprefix("test_") for path in TESTS if path.stem.startswith("test_")}
    assert [module for module in PATHS if not names_of_tests_for(module) & present] == []


def test_every_test_file_has_its_module() -> None:
    known = set(WHOLE_HOUSE).union(*map(names_of_tests_for, PATHS))
    files = [path for path in TESTS if path.parent.name == "tests" and path.stem.startswith("test_")]
    assert [path.name for path in files if path.stem.removeprefix("test_") not in known] == []


DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def not_in_the_docs(names: set[str]) -> set[str]:
    text = "\n".join(path.read_text("utf-8") for path in DOCS if path.is_file())
    return {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)}


def cli_words() -> set[str]:
    """Every command, and every long option (or the short one where there is no other), of the command line."""
    from_the_top: click.Group = importlib.import_module("traceflow.cli.commands").traceflow_command
    words = set(from_the_top.commands)
    for command in (from_the_top, *from_the_top.commands.values()):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                words.add(max(parameter.opts, key=len))
    return words


def test_the_docs_name_every_verdict() -> None:
    assert not_in_the_docs({verdict.text for verdict in Verdict if verdict is not Verdict.FLOW}) == set()


def test_the_docs_name_every_cause_and_reason_of_an_end() -> None:
    assert not_in_the_docs({cause.text for cause in EndCause}) == set()
    ipfix = {reason.name.lower().replace("_", " ") for reason in EndReason}  # IANA's names of flowEndReason, RFC 5102
    assert not_in_the_docs(ipfix) == set()


def test_the_docs_name_every_option_and_profile() -> None:
    assert not_in_the_docs({field.name for field in dataclasses.fields(Options)} | set(PROFILES)) == set()


def test_the_docs_name_every_column_of_a_flow() -> None:
    assert not_in_the_docs(set(flat_columns(np.zeros(0, FLOW)))) == set()


def test_the_docs_name_every_public_name() -> None:
    assert not_in_the_docs(set(traceflow.__all__)) == set()


def test_the_docs_name_every_command_and_its_options() -> None:
    words = cli_words()
    assert {"trace", "flows", "frames", "--format", "--profile", "--by", "--overwrite"} <= words
    assert not_in_the_docs(words) == set()


def test_links_of_the_docs_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    wrong = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert wrong == []


# --- packaging -------------------------------------------------------------------------------------------------


def setup_cfg() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg", "utf-8")
    return parsed


def test_everything_imported_is_declared() -> None:
    options = setup_cfg()["options"]["install_requires"]
    declared = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in options.split()}
    optional = {package for packages in LAZY.values() for package in packages}
    used = {imported.split(".")[0] for module, tree in TREES.items() for imported, _ in imports_of(module, tree)}
    assert used - set(sys.stdlib_module_names) - {"traceflow"} - optional <= declared


def test_the_console_script_is_a_command() -> None:
    script = setup_cfg()["options.entry_points"]["console_scripts"].strip()
    name, target = script.split(" = ")
    module, attribute = target.split(":")
    assert name == "traceflow"
    assert callable(getattr(importlib.import_module(module), attribute))


def test_python_m_starts_the_same_command(run_cli: Callable[..., Finished]) -> None:
    done = run_cli("--help")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: traceflow ")


@pytest.mark.skipif(os.environ.get("TRACEFLOW_INSTALLED") != "1", reason="it is about an installed package")
def test_the_installed_package_is_whole() -> None:
    here = Path(traceflow.__file__).parent
    assert importlib.metadata.version("traceflow") == traceflow.__version__
    assert {path.relative_to(here) for path in here.rglob("*.py")} == {p.relative_to(HOUSE) for p in PATHS.values()}
    assert (here / "py.typed").is_file()
    script = Path(sys.executable).with_name("traceflow")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: traceflow ")
    # and processes that tests start in the checkout find it, not traceflow/ there (PYTHONSAFEPATH in tox.ini)
    command = [sys.executable, "-c", "import traceflow; print(traceflow.__file__)"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()) == here / "__init__.py"


def test_the_changelog_knows_the_version() -> None:
    assert f"## {traceflow.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def digests(folder: Path) -> dict[str, Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}


def test_no_capture_of_others_is_in_the_project(shared: Path) -> None:
    if not (shared / "corpus").is_dir():
        pytest.skip("../shared/corpus is absent")
    ours: dict[str, Path] = {}
    for folder in ("fixtures", "tests", "docs", "fuzz", "traceflow"):
        ours |= digests(ROOT / folder)
    theirs = digests(shared / "corpus")
    assert [f"{ours[digest].name} is {theirs[digest].name}" for digest in ours.keys() & theirs.keys()] == []


# --- the door to Numba, as far as the rules above rely on it ---------------------------------------------------


@pytest.mark.skipif(not COMPILED, reason="the kernels are plain")
def test_kernels_are_compiled_and_check_their_bounds() -> None:
    for door in (kernel, inline_kernel, outline_kernel):
        assert hasattr(door(_third), "py_func")
    with pytest.raises(IndexError):
        kernel(_third)(np.zeros(2, np.uint8))


def _third(octets: Any) -> Any:
    return U64(octets[U64(2)])
