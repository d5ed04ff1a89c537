"""What all tests share: where things are, how the command line is started, and what is skipped with plain kernels.

Environment variables, set by tox.ini:
    TRACEFLOW_INSTALLED    1: traceflow/ of the checkout must not be what is tested
    TRACEFLOW_DERANDOMIZE  1: hypothesis tries the same examples on every run
    NUMBA_DISABLE_JIT      1: kernels run as plain Python
    TRACEFLOW_ONCE         elsewhere: tests marked `once` are left to another environment
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from effort import ELSEWHERE, examples

import traceflow
from traceflow.cli.program import run
from traceflow.compiled import COMPILED
from traceflow.filters import kinds

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(traceflow.__file__).resolve().parent
SHARED = ROOT.parent / "shared"

# No deadline: the first example may compile a kernel.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=os.environ.get("TRACEFLOW_DERANDOMIZE") == "1",
    max_examples=examples(100, plain=20),
)
hypothesis.settings.load_profile("house")


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Attributes:
        code: Its exit code.
        stdout_octets: What it wrote to standard output.
        stderr: What it wrote to standard error.
    """

    code: int
    stdout_octets: bytes
    stderr: str

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.stdout_octets.decode()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test the checkout where the installed package is meant; give Ctrl-C its usual meaning back.

    A shell that starts a job in the background has it ignore SIGINT, and so would every process that a test starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("TRACEFLOW_INSTALLED") == "1" and PACKAGE == ROOT / "traceflow":
        raise pytest.UsageError("TRACEFLOW_INSTALLED=1, but traceflow/ of the checkout would be tested: run `pytest`")


def pytest_report_header() -> str:
    """Say in the first lines of a run what is tested."""
    place = "the checkout" if PACKAGE == ROOT / "traceflow" else "the installed package"
    return f"traceflow {traceflow.__version__} from {place}, kernels {'compiled' if COMPILED else 'plain'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is too slow with plain kernels, and what one Python tells for all; both marks must say why."""
    for item in items:
        for name, skips, why in (("slow_plain", not COMPILED, "plain kernels"), ("once", ELSEWHERE, "in py313")):
            mark = item.get_closest_marker(name)
            if mark is None:
                continue
            if len(mark.args) != 1 or not isinstance(mark.args[0], str):
                raise pytest.UsageError(f'{item.nodeid}: write @pytest.mark.{name}("why")')
            if skips:
                item.add_marker(pytest.mark.skip(reason=f"{why}: {mark.args[0]}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of captures and oracles beside the checkout; it isn't part of the project."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: captures of other projects and what other programs say of them")
    return SHARED


@pytest.fixture(scope="session")
def fixtures_folder() -> Path:
    """The folder of our own small captures."""
    return ROOT / "fixtures"


@pytest.fixture(autouse=True)
def forget_kinds() -> Iterator[None]:
    """Kinds of filters that a test adds are there for that test: messages list all kinds."""
    before = dict(kinds._added)
    yield
    kinds._added.clear()
    kinds._added.update(before)


@pytest.fixture
def cache_without(tmp_path: Path) -> Callable[[str], Path]:
    """Make a copy of the cache of kernels that lacks one of them, so that a test compiles that one and no other.

    Where tests have no folder for kernels of their own (NUMBA_CACHE_DIR), the copy is empty.
    """

    def make(kernel: str) -> Path:
        folder, given = tmp_path / "kernels", os.environ.get("NUMBA_CACHE_DIR")
        if given and Path(given).is_dir():
            shutil.copytree(given, folder, ignore=shutil.ignore_patterns(f"*.{kernel}-*", "*tmp*"))
        return folder

    return make


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., Finished]:
    """Start `python -m traceflow` with arguments as a process of its own.

    The call takes the arguments (text or paths) and, by name, `stdin` (octets, default none), `cwd` (default a folder
    of its own, so that the checkout is not imported by accident), `env` (variables to add) and `timeout_s`.
    """

    def run(
        *arguments: str | Path,
        stdin: bytes = b"",
        cwd: Path = tmp_path,
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
    ) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "traceflow", *map(str, arguments)],
            input=stdin,
            cwd=cwd,
            # PYTHONPATH: the very package that the tests import, installed or not
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "utf-8", **(env or {})},
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, standard output, standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        seen = capsys.readouterr()
        return int(code), seen.out, seen.err

    return call
