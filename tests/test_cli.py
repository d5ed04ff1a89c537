"""The command line: what it prints where, and every exit code.

Most tests call `run`: what `main` does, without leaving the process. What needs a process, a pipe, a signal or a
terminal starts one. Expected values are the hand counts of fixtures/expected.json, or stand beside the test.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import traceflow
from traceflow.cli import trace as trace_module
from traceflow.cli.commands import FILE_FORMATS, Files, Input
from traceflow.cli.exits import Exit, Terminated
from traceflow.cli.interrupt import InterruptibleCaptures, Interruption
from traceflow.cli.output import RunningTable
from traceflow.compiled import COMPILED
from traceflow.flows import EndCause
from traceflow.packets import Verdict
from traceflow.sinks.perflow import FORMATS
from traceflow.sinks.rows_fields import FLOW_FIELDS

if TYPE_CHECKING:
    from conftest import Finished

RunCli = Callable[..., "Finished"]

ROOT = Path(__file__).resolve().parents[1]
EXPECTED: dict[str, Any] = json.loads((ROOT / "fixtures" / "expected.json").read_text("utf-8"))
MORE = ("payload_octets", "conn_state", "history")  # of a flow, where they were counted
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).resolve().parents[1])}
ESCAPE = "\x1b"

FAILS = {"not a capture": Exit.FAILED, "truncated": Exit.INCOMPLETE, "malformed": Exit.INCOMPLETE, None: Exit.OK}


Cli = Callable[..., tuple[int, str, str]]


def account_of(text: str) -> dict[str, int]:
    """The numbers of the account on standard error, by the words before them."""
    lines = [line for line in text.splitlines() if line.startswith(("frames ", "flows ", "  without a flow: "))]
    return {
        words.strip(): int(number)
        for words, number in re.findall(r"([a-z][a-z ]*?) (\d+)", " ".join(lines).replace("ended by:", ","))
    }


def ranges(text: str | None) -> list[int]:
    """`1-3,7` as numbers."""
    numbers: list[int] = []
    for part in text.split(",") if text else []:
        low, _, high = part.partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return numbers


# --- all fixtures: flows, frames, the account ------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_flows_are_those_counted_by_hand(name: str, cli: Cli, fixtures_folder: Path) -> None:
    case = EXPECTED[name]
    names = "protocol,orig_addr,orig_port,resp_addr,resp_port,frames,orig_frames,resp_frames,end_cause"
    paths = [fixtures_folder / file for file in case["files"]]
    code, out, err = cli("flows", *paths, "-T", "jsonl", "--fields", names)
    seen = [json.loads(line) for line in out.splitlines()]
    assert [
        {
            "protocol": row["protocol"],
            "orig": [row["orig_addr"], row["orig_port"] or 0],
            "resp": [row["resp_addr"], row["resp_port"] or 0],
            "frames": ranges(row["frames"]),
            "orig_frames": ranges(row["orig_frames"]),
            "resp_frames": ranges(row["resp_frames"]),
            "cause": row["end_cause"],
        }
        for row in seen
    ] == [{key: value for key, value in flow.items() if key not in MORE} for flow in case["flows"]]
    for row, flow in zip(seen, case["flows"], strict=True):
        assert row.keys() == set(names.split(",")), flow
    if case["error"] == "truncated" and not case["frames"]:
        assert code == Exit.FAILED, "cut inside the file header: nothing could be read"
    else:
        assert code == FAILS[case["error"]], err


@pytest.mark.parametrize("name", EXPECTED)
def test_the_account_adds_up(name: str, cli: Cli, fixtures_folder: Path) -> None:
    case = EXPECTED[name]
    paths = [fixtures_folder / file for file in case["files"]]
    code, out, err = cli("frames", *paths, "-T", "csv", "--fields", "frame,flow,verdict")
    if code == Exit.FAILED:
        assert (out, "frames read" in err) == ("", False)
        return
    rows = list(csv.DictReader(io.StringIO(out)))
    account = account_of(err)
    verdicts = {verdict.text: account[verdict.text] for verdict in Verdict if verdict is not Verdict.FLOW}
    causes = {cause.text: account[cause.text] for cause in EndCause}
    assert len(rows) == case["frames"] == account["frames read"]
    assert {text: count for text, count in verdicts.items() if count} == case["verdicts"]
    assert account["without a flow"] == sum(verdicts.values())
    assert account["frames read"] == account["in flows"] + account["without a flow"]
    assert account["in flows"] == sum(len(flow["frames"]) for flow in case["flows"])
    assert account["flows"] == sum(causes.values()) == len(case["flows"])
    assert account["frames out of time order"] == case["frames_out_of_order"]
    of_frames = {frame: number for number, flow in enumerate(case["flows"], 1) for frame in flow["frames"]}
    # Rows are written as frames come: a fragment whose first one comes later has a verdict there, and a flow later.
    late = [int(row["frame"]) for row in rows if row["verdict"] == "fragment without ports"]
    seen = {int(row["frame"]): int(row["flow"]) for row in rows if row["flow"]}
    assert seen == {frame: flow for frame, flow in of_frames.items() if frame not in late}
    assert len(seen) == len(rows) - sum(bool(row["verdict"]) for row in rows)


@pytest.mark.parametrize("name", ["http", "T32-cut", "not-ip"])
def test_summary_says_the_same_in_three_formats(name: str, cli: Cli, fixtures_folder: Path) -> None:
    case = EXPECTED[name]
    path = fixtures_folder / case["files"][0]
    _, lines, err = cli("flows", path, "--summary")
    assert "frames read" not in err, "the account stands on standard output"
    named = dict(line.split(": ") if ": " in line else (line.rstrip(":"), "") for line in lines.splitlines())
    assert int(named["frames"]) == case["frames"]
    assert int(named["flows"]) == len(case["flows"])
    assert int(named["packets"]) == int(named["frames_in_flows"]) == sum(len(flow["frames"]) for flow in case["flows"])
    assert int(named["frames"]) == int(named["frames_in_flows"]) + sum(
        int(named[f"frames_{verdict.name.lower()}"]) for verdict in Verdict if verdict is not Verdict.FLOW
    )
    assert named["complete"] == ("yes" if case["error"] is None else "no")
    assert (named["first_ns"] == "") == (case["flows"] == [])
    _, text, _ = cli("flows", path, "--summary", "-T", "jsonl")
    assert {key: "" if value is None else str(value) for key, value in json.loads(text).items()} == named
    _, text, _ = cli("flows", path, "--summary", "-T", "csv")
    assert list(csv.DictReader(io.StringIO(text))) == [named]


def test_profile_pcapkit(cli: Cli, fixtures_folder: Path) -> None:
    # what PyPCAPKit's TraceFlow makes of T01: three buffers
    path = fixtures_folder / "T01.pcap"
    _, out, _ = cli("flows", path, "--profile", "pcapkit", "--fields", "frames", "-T", "jsonl")
    assert [ranges(json.loads(line)["frames"]) for line in out.splitlines()] == [[1, 3, 4, 6, 7], [2, 5, 8, 9], [10]]


# --- trace -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "suffix", "files"), [
    ((), ".json", 2),
    (("--format", "plist"), ".plist", 2),
    (("--format", "tree"), ".txt", 2),
    (("--format", "pcap"), ".pcap", 1),
    (("--format", "pcap", "--by", "direction"), ".pcap", 2),
    (("--format", "json", "--by", "flow"), ".json", 1),
])  # fmt: skip
def test_trace_writes_files_and_index(
    arguments: tuple[str, ...], suffix: str, files: int, cli: Cli, fixtures_folder: Path, tmp_path: Path
) -> None:
    code, out, err = cli("trace", fixtures_folder / "T01.pcap", "-o", tmp_path / "out", *arguments)
    assert (code, out) == (0, "")
    assert f"{files} files written" in err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    names = {entry["file"] for entry in index["files"]}
    assert names | {"index.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert (len(names), {Path(name).suffix for name in names}) == (files, {suffix})
    assert sorted(frame for entry in index["files"] for frame in entry["frames"]) == list(range(1, 11))


def test_trace_does_not_overwrite(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    path, folder = fixtures_folder / "T01.pcap", tmp_path / "out"
    assert cli("trace", path, "-o", folder)[0] == 0
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    code, _, err = cli("trace", path, "-o", folder)
    assert code == Exit.FAILED
    assert "--overwrite" in err
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert cli("trace", path, "-o", folder, "--overwrite")[0] == 0


def test_trace_into_a_file(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    code, _, err = cli("trace", fixtures_folder / "T01.pcap", "-o", tmp_path / "taken")
    assert code == Exit.FAILED
    assert "taken" in err
    assert "--overwrite" not in err, "it would not help"
    assert (tmp_path / "taken").read_text() == "x"


def test_trace_of_a_pipe_and_of_a_cut_capture(run_cli: RunCli, fixtures_folder: Path, tmp_path: Path) -> None:
    octets = (fixtures_folder / "T32-cut.pcap").read_bytes()
    done = run_cli("trace", "-", "-o", tmp_path / "out", stdin=octets)
    assert done.code == Exit.INCOMPLETE
    assert "incomplete: -: at offset" in done.stderr
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert sorted(frame for entry in index["files"] for frame in entry["frames"]) == [1, 2, 3, 4]
    assert index["incomplete"]


def test_the_formats_of_the_command_line_are_those_of_the_files() -> None:
    assert set(FILE_FORMATS) == set(FORMATS)


# --- arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    (("flows", "T01.pcap", "--fields", "frame"), "Did you mean frames"),
    (("frames", "T01.pcap", "--fields", "flwo"), "Did you mean flow"),
    (("flows", "T01.pcap", "--fields", "flow,flow"), "twice"),
    (("flows", "T01.pcap", "-T", "jsnl"), "Did you mean jsonl"),
    (("trace", "T01.pcap", "-o", "x", "--format", "jason"), "Did you mean json"),
    (("trace", "T01.pcap", "-o", "x", "--by", "flows"), "Did you mean flow"),
    (("flows", "T01.pcap", "--profile", "pcapkitt"), "Did you mean pcapkit"),
    (("flow", "T01.pcap"), "Did you mean flows"),
    (("flows",), "CAPTURE"),
    (("flows", "-", "-"), "name it once"),
    (("frames", "T01.pcap", "-c", "0"), "-c"),
    (("frames", "T01.pcap", "--flow", "x"), "--flow"),
    (("flows", "T01.pcap", "--summary", "--fields", "flow"), "--summary has no fields"),
    (("trace", "T01.pcap"), "-o"),
    (("flows", "T01.pcap", "--nosuch"), "--nosuch"),
])  # fmt: skip
def test_a_wrong_command_line(arguments: tuple[str, ...], message: str, cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert message in err
    assert not Path("x").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["flows", "--help"], ["flows"], ["trace", "x"],
    ["flows", "x", "--fields", "nosuch"], ["trace", "x", "-o", "x", "--format", "nosuch"]])  # fmt: skip
def test_help_and_wrong_arguments_do_not_load_the_engine(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom traceflow.cli.program import run\n"
        f"run({arguments!r})\nsys.exit(bool({{'numba', 'numpy', 'rich', 'dpkt'}} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False).returncode == 0
    )


def test_help_has_an_example_for_each_command(cli: Cli) -> None:
    for command in ("trace", "flows", "frames"):
        code, out, err = cli(command, "--help")
        assert (code, err) == (0, "")
        assert f"Example: traceflow {command} " in out


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"traceflow {traceflow.__version__}\n", "")


def test_no_command_shows_the_help(cli: Cli) -> None:
    code, out, err = cli()
    assert code == Exit.USAGE
    assert "Commands:" in out + err


# --- inputs ----------------------------------------------------------------------------------------------------


def test_several_captures_with_running_numbers(cli: Cli, fixtures_folder: Path) -> None:
    first, second = fixtures_folder / "T29a.pcap", fixtures_folder / "T29b.pcap"
    _, out, _ = cli("frames", first, second, "-T", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0])[:3] == ["frame", "file", "frame_in_file"], "shown without being asked for"
    assert [int(row["frame"]) for row in rows] == list(range(1, 11))
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert {row["flow"] for row in rows} == {"1"}
    counted = {
        name: [int(row["frame_in_file"]) for row in rows if row["file"] == str(name)] for name in (first, second)
    }
    assert all(numbers == list(range(1, len(numbers) + 1)) and numbers for numbers in counted.values())


def test_a_limit_counts_over_all_captures(cli: Cli, fixtures_folder: Path) -> None:
    paths = [fixtures_folder / "T01.pcap", fixtures_folder / "T13.pcap"]
    code, out, err = cli("frames", *paths, "-c", "12", "-T", "csv", "--fields", "frame,frame_in_file")
    assert code == 0
    assert out.splitlines()[-2:] == ["11,1", "12,2"]
    assert account_of(err)["frames read"] == 12


def test_standard_input(run_cli: RunCli, cli: Cli, fixtures_folder: Path) -> None:
    for name in ("http.pcap", "T32-many.pcapng"):
        path = fixtures_folder / name
        piped = run_cli("flows", "-", stdin=path.read_bytes())
        assert (piped.code, piped.stdout) == (0, cli("flows", path)[1])


def test_one_of_several_is_missing(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    code, out, err = cli("flows", tmp_path / "nosuch.pcap", fixtures_folder / "T01.pcap", "-T", "csv")
    assert code == Exit.INCOMPLETE
    assert f"incomplete: {tmp_path / 'nosuch.pcap'}" in err
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty"])
def test_nothing_could_be_read(kind: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("no capture, but a text of more than two dozen octets" if kind == "text" else "")
    for command in (["flows"], ["frames"], ["trace", "-o", str(tmp_path / "out")]):
        code, out, err = cli(*command, path)
        assert (code, out) == (Exit.FAILED, "")
        assert f"failed: {path}" in err
        assert "Traceback" not in err


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_an_unreadable_file(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.pcap"
    path.write_bytes((fixtures_folder / "T01.pcap").read_bytes())
    path.chmod(0)
    code, _, err = cli("flows", path)
    assert code == Exit.FAILED
    assert "Permission denied" in err


def test_names_cannot_steer_the_terminal(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\nb.pcap"
    path.write_bytes((fixtures_folder / "T32-cut.pcap").read_bytes())
    code, _, err = cli("flows", path)
    assert code == Exit.INCOMPLETE
    assert ESCAPE not in err
    assert "a\\x1b[31m\\nb.pcap" in err


def test_names_that_are_not_utf8_come_out_as_they_are(run_cli: RunCli, fixtures_folder: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.pcap"
    try:
        with open(name, "wb") as file:  # noqa: PTH123 - pathlib takes no octets
            file.write((fixtures_folder / "T12a.pcap").read_bytes())
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    done = run_cli("frames", os.fsdecode(name), "--fields", "frame,file", "-q")
    assert done.stdout_octets == b"frame,file\n1," + name + b"\n2," + name + b"\n"


# --- outputs ---------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_but_errors(cli: Cli, fixtures_folder: Path, tmp_path: Path) -> None:
    for command in (["flows"], ["frames"], ["trace", "-o", str(tmp_path / "out")]):
        assert cli(*command, "-q", fixtures_folder / "T01.pcap")[2] == ""
    _, _, err = cli("flows", "-q", fixtures_folder / "T32-cut.pcap")
    assert [line.startswith("traceflow: incomplete: ") for line in err.splitlines()] == [True]


@pytest.mark.once("six processes, each with a pipe, which is one whatever the Python")
def test_pipes_get_no_colours_and_csv(run_cli: RunCli, fixtures_folder: Path) -> None:
    for arguments in (["flows"], ["frames"], ["flows", "-T", "table"], ["flows", "--summary"], ["flows", "--nosuch"]):
        done = run_cli(*arguments, fixtures_folder / "http.pcap", env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
        assert ESCAPE not in done.stdout + done.stderr
    assert run_cli("flows", fixtures_folder / "http.pcap").stdout.startswith("flow,protocol_name,")


def test_a_table_in_a_pipe_has_all_rows(run_cli: RunCli, fixtures_folder: Path) -> None:
    done = run_cli("frames", fixtures_folder / "http.pcap", "-T", "table", env={"LINES": "10", "COLUMNS": "40"})
    assert len(done.stdout.splitlines()) == 1 + 59
    assert "no room" not in done.stdout


def test_empty_captures_give_a_head(cli: Cli, fixtures_folder: Path) -> None:
    for command in ("flows", "frames"):
        code, out, err = cli(command, fixtures_folder / "T32-header-only.pcap", "-T", "csv")
        assert (code, len(out.splitlines())) == (0, 1)
        assert "frames read 0" in err


@pytest.fixture(scope="session")
def long_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One flow of 40 000 frames: more rows than a pipe holds."""
    import make  # fixtures/make.py, on the path of the tests

    path = tmp_path_factory.mktemp("long") / "T17.pcap"
    make.long_flow(path)
    return path


@pytest.mark.slow_plain("40 000 frames")
def test_a_closed_pipe_is_no_error(long_capture: Path) -> None:
    command = [sys.executable, "-m", "traceflow", "frames", str(long_capture)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"frame,")
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == Exit.PIPE_CLOSED
    assert said.replace("compiling kernels (once, then cached) ...\n", "") == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_from_the_beginning(fixtures_folder: Path) -> None:
    command = [sys.executable, "-m", "traceflow", "flows", "-q", str(fixtures_folder / "http.pcap")]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False, text=True)
    assert done.returncode == Exit.FAILED
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def with_file_limit(octets: int) -> Callable[[], None]:
    """Let no file of a child grow beyond that: what a full disk does, at a moment of our choice."""
    resource = pytest.importorskip("resource")
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (octets, octets))


@pytest.mark.slow_plain("40 000 frames")
def test_an_output_that_fails_midway(long_capture: Path, tmp_path: Path) -> None:
    # 40 000 rows of some 80 octets are 3 MB
    with (tmp_path / "rows").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "traceflow", "frames", "-q", str(long_capture)],
            stdout=file,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            preexec_fn=with_file_limit(1 << 20),
            check=False,
            text=True,
        )
    assert done.returncode == Exit.INCOMPLETE
    assert "rows are missing" in done.stderr
    assert (tmp_path / "rows").stat().st_size > 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("more", [[], ["-T", "jsonl"], ["--stream"]])
def test_rows_of_one_write_that_the_disk_takes_a_part_of(
    unbuffered: str, more: list[str], fixtures_folder: Path, tmp_path: Path
) -> None:
    """The rows of http.pcap are more than 300 octets, of which the file may have 100; Python may buffer or not."""
    with (tmp_path / "rows").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "traceflow", "flows", "-q", *more, str(fixtures_folder / "http.pcap")],
            stdout=file,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered},
            preexec_fn=with_file_limit(100),
            check=False,
            text=True,
        )
    assert done.returncode == Exit.INCOMPLETE
    assert "rows are missing" in done.stderr
    assert (tmp_path / "rows").stat().st_size == 100


@pytest.mark.slow_plain("40 000 frames")
def test_flow_files_that_fail_midway(long_capture: Path, fixtures_folder: Path, tmp_path: Path) -> None:
    # positions of 40 059 frames are 1.6 MB; the json of one direction of T17 is more than 4 MB, the others are less
    folder = tmp_path / "out"
    captures = [str(fixtures_folder / "http.pcap"), str(long_capture)]
    done = subprocess.run(
        [sys.executable, "-m", "traceflow", "trace", *captures, "-o", str(folder)],
        capture_output=True,
        env=ENVIRONMENT,
        preexec_fn=with_file_limit(4 << 20),
        check=False,
        text=True,
    )
    assert done.returncode == Exit.INCOMPLETE, done.stderr
    assert "incomplete: " in done.stderr
    assert "frames read 40059" in done.stderr, "the account comes all the same"
    index = json.loads((folder / "index.json").read_text())
    frames = sorted(frame for entry in index["files"] for frame in entry["frames"])
    assert frames == sorted(frame for flow in EXPECTED["http"]["flows"] for frame in flow["frames"])
    assert {path.name for path in folder.iterdir()} == {entry["file"] for entry in index["files"]} | {"index.json"}


def test_a_bug_is_called_one(cli: Cli, monkeypatch: pytest.MonkeyPatch, fixtures_folder: Path) -> None:
    # the engine breaks because the ground is taken from under it: no capture of ours does that
    monkeypatch.setattr("traceflow.cli.flows.flow_columns", None)
    monkeypatch.delenv("TRACEFLOW_DEBUG", raising=False)
    code, _, err = cli("flows", fixtures_folder / "T01.pcap")
    assert code == Exit.FAILED
    assert "this is a bug in traceflow: TypeError" in err
    assert "Traceback" not in err
    monkeypatch.setenv("TRACEFLOW_DEBUG", "1")
    assert "Traceback" in cli("flows", fixtures_folder / "T01.pcap")[2]


def test_closed_standard_streams(fixtures_folder: Path) -> None:
    command = f"{sys.executable} -m traceflow flows {fixtures_folder / 'T32-cut.pcap'} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], env=ENVIRONMENT, check=False).returncode == Exit.INCOMPLETE


# --- Ctrl-C ----------------------------------------------------------------------------------------------------


class QuietPipe(io.RawIOBase):
    """A stream that gives some octets and then, instead of an end, the user's Ctrl-C."""

    def __init__(self, octets: bytes) -> None:
        super().__init__()
        self._octets = octets

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        if not self._octets:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the read was not broken off")
        given, self._octets = self._octets[: len(view)], self._octets[len(view) :]
        view[: len(given)] = given
        return len(given)


def test_the_first_interrupt_ends_the_input(fixtures_folder: Path) -> None:
    octets = (fixtures_folder / "T01.pcap").read_bytes()
    with Interruption() as interruption, InterruptibleCaptures(QuietPipe(octets)) as captures:
        captures.interruption = interruption
        batches = [len(batch.frames) for batch in captures.batches()]
    assert sum(batches) == 10
    assert interruption.asked
    assert captures.errors == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "given back"


def test_an_interrupt_outside_a_read_leaves_a_mark_and_the_second_ends_the_run() -> None:
    stops: list[None] = []
    with Interruption() as interruption:
        interruption.stop = lambda: stops.append(None)
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        assert len(stops) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_is_taken_over_and_given_back() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert (interruption.asked, interruption.exit_code) == (True, Exit.TERMINATED)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupted_trace_writes_what_it_has(
    fixtures_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe: Any = QuietPipe((fixtures_folder / "http.pcap").read_bytes())
    given = Input((pipe,), "default", None, quiet=False)
    code = trace_module.run(given, Files(str(tmp_path / "out"), "json", None, overwrite=False))
    assert code == Exit.INTERRUPTED
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    frames = [frame for entry in index["files"] for frame in entry["frames"]]
    assert sorted(frames) == sorted(frame for flow in EXPECTED["http"]["flows"] for frame in flow["frames"])
    err = capsys.readouterr().err
    assert account_of(err)["frames read"] == 59
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, Exit.INTERRUPTED, "interrupted"), (signal.SIGTERM, Exit.TERMINATED, "terminated")],
)
def test_interrupting_a_process_that_waits_for_a_pipe(fixtures_folder: Path, number: int, code: int, word: str) -> None:
    octets = (fixtures_folder / "http.pcap").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-m", "traceflow", "frames", "-", "--fields", "frame"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(octets)
    process.stdin.flush()
    # rows appear as they are read: the end of the input has not come
    rows = [process.stdout.readline() for _ in range(60)]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert rows == [b"frame\n", *(b"%d\n" % frame for frame in range(1, 60))]
    assert (process.returncode, out) == (code, b"")
    assert err.decode().endswith(f"traceflow: {word}\n")
    assert account_of(err.decode())["frames read"] == 59
    assert b"Traceback" not in err


# --- rows that come one by one ---------------------------------------------------------------------------------


def test_a_running_table_shows_each_row_at_once_and_the_columns_that_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    table = RunningTable([FLOW_FIELDS[name] for name in ("flow", "orig_addr", "first", "label")])
    # 7 for a number, 15 for a word, 20 for a time, and two between: 46, so the time does not fit.
    table.write([[1, 20], ["10.0.0.1", "192.168.100.200"], ["5.000000", "6.000000"], ["a", "b"]])
    shown = capsys.readouterr().out
    assert shown == "   flow  orig_addr\n      1  10.0.0.1\n     20  192.168.100.200\n"
    table.write([[3], ["2001:db8::1234:5678"], ["7.0"], ["c"]])
    assert capsys.readouterr().out == "      3  2001:db8::1234:5678\n"
    table.close()
    assert "no room for first, label" in capsys.readouterr().out


# --- terminals -------------------------------------------------------------------------------------------------


def on_terminal(
    *arguments: str | Path, rows: int = 24, columns: int = 120, feed: Iterator[bytes] | None = None, **env: str
) -> tuple[int, str]:
    """Run a command on a terminal of its own: exit code, and all that it showed.

    Args:
        arguments: The command.
        rows: Lines of the terminal.
        columns: Its width.
        feed: Octets for standard input; the next piece goes there when nothing was shown for a tenth of a second.
        env: Variables to add.
    """
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in ("LINES", "COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "traceflow", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", **env},
    )
    os.close(theirs)
    assert process.stdin is not None
    if feed is None:
        process.stdin.close()
    shown = b""
    while True:
        if feed is not None and not select.select([ours], [], [], 0.1)[0]:
            piece = b"" if b"reading" in shown else next(feed, b"")
            if piece:
                process.stdin.write(piece)
                process.stdin.flush()
            else:
                process.stdin.close()
                feed = None
            continue
        try:
            octets = os.read(ours, 65536)
        except OSError:  # the terminal was left by its last process
            break
        if not octets:
            break
        shown += octets
    os.close(ours)
    return process.wait(timeout=60), shown.decode().replace("\r\n", "\n")


def test_a_table_that_fits_the_terminal(fixtures_folder: Path) -> None:
    code, shown = on_terminal("frames", "-q", fixtures_folder / "http.pcap", rows=24, columns=60, NO_COLOR="1")
    assert code == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert lines[0].split()[:3] == ["frame", "time", "flow"]
    assert all(len(line) <= 60 for line in lines[:-2])
    table = [line for line in lines if re.match(r"\s+\d+ ", line)]
    assert 5 <= len(table) <= 24
    assert f"{59 - len(table)} more rows" in shown
    assert "no room for" in shown
    assert "-T csv" in shown


def test_a_wide_terminal_shows_all_of_few_flows(fixtures_folder: Path) -> None:
    code, shown = on_terminal("flows", fixtures_folder / "T01.pcap", columns=250)
    assert code == 0
    assert ESCAPE in shown, "the head is bold"
    assert "more rows" not in shown
    assert "no room" not in shown
    assert "10.0.0.2" in shown
    assert "frames read 10" in shown


def test_no_color(fixtures_folder: Path) -> None:
    _, shown = on_terminal("flows", fixtures_folder / "http.pcap", NO_COLOR="1")
    assert not re.search(r"\x1b\[(3|4|9|10)\d", shown), "bold is no colour"


@pytest.mark.once("a long run in a terminal")
def test_progress_appears_for_long_work_on_a_terminal_only(fixtures_folder: Path, run_cli: RunCli) -> None:
    octets = (fixtures_folder / "http.pcap").read_bytes()
    more = octets[24:]  # without the file header: further records

    def feed() -> Iterator[bytes]:
        yield octets
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            yield more

    code, shown = on_terminal("flows", "-", "-T", "csv", feed=feed())
    assert code == 0
    assert "reading" in shown
    code, shown = on_terminal("flows", "-", "-q", "-T", "csv", feed=iter([octets] + [more] * 20))
    assert (code, "reading" in shown) == (0, False)
    assert "reading" not in run_cli("flows", "-", stdin=octets + more * 20).stderr


# --- start-up --------------------------------------------------------------------------------------------------


@pytest.mark.once("a kernel compiled anew")
@pytest.mark.skipif(not COMPILED, reason="plain kernels are not compiled")
def test_the_first_run_says_that_it_compiles(
    run_cli: RunCli, fixtures_folder: Path, cache_without: Callable[[str], Path]
) -> None:
    cache = {"NUMBA_CACHE_DIR": str(cache_without("hash_keys"))}
    first = run_cli("flows", fixtures_folder / "T01.pcap", env=cache)
    second = run_cli("flows", fixtures_folder / "T01.pcap", env=cache)
    assert first.stderr.splitlines()[0] == "compiling kernels (once, then cached) ..."
    assert "compiling" not in second.stderr
    assert first.stdout == second.stdout
