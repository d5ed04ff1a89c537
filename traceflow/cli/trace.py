"""`traceflow trace`: per-flow files and their index."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from traceflow.cli.commands import Files, Input
from traceflow.cli.exits import Exit
from traceflow.cli.messages import note, say
from traceflow.cli.session import Session
from traceflow.errors import FileExists
from traceflow.pipeline import FlowCollector
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sinks.folder import INDEX_NAME
from traceflow.sinks.livefiles import MAX_OPEN_FILES, LiveFlowFiles
from traceflow.sources import Captures

__all__ = ["run"]

_SWITCH_S = 0.0003
"""How long a thread that comes back from the system waits, while files are written, for one that works in Python. With
Python's 5 ms, 66 000 files took 2.2 s instead of 2.0; flows alone are traced faster with these."""


def run(given: Input, wanted: Files) -> int:
    """Write the files.

    Args:
        given: The input. Of captures the files are written in the end, of interfaces as frames come.
        wanted: How they are written.

    Returns:
        The exit code.

    Raises:
        UsageError: An unknown format.
        CannotWriteError: The folder cannot be used; nothing was traced.
    """
    return _run_captures(given, wanted) if given.live is None else _run_live(given, wanted)


def _run_captures(given: Input, wanted: Files) -> int:
    place = Path(wanted.folder)
    with (
        _flow_files(given, wanted) as files,
        Session(given, spool_folder=place) as session,
    ):
        collector = FlowCollector(session.run)
        for step in session.steps():
            collector.take(step)
            files.take(step)
        if session.failed:
            return session.finish()
        failure = _write(session, files, collector, wanted, given.quiet)
        code = session.finish()
        return code if failure is None else _incomplete(session, place, code, [str(failure)])


def _run_live(given: Input, wanted: Files) -> int:
    place = Path(wanted.folder)
    with _live_files(given, wanted) as files, Session(given) as session:
        try:
            for step in session.steps():
                files.take(step, session.captures.interfaces)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what ended the run says more
                files.finish(session.account(), [*session.captures.errors, error])
            raise
        if session.failed:
            return session.finish()
        problems = _finish(session, files, place, given.quiet)
        code = session.finish()
        return code if not problems else _incomplete(session, place, code, problems)


def _incomplete(session: Session, folder: Path, code: int, problems: list[str]) -> int:
    """Say what makes the files incomplete. Returns the exit code."""
    listed = (folder / INDEX_NAME).is_file()
    for problem in problems[:-1]:
        say(f"incomplete: {problem}")
    note_of_index = f"; {folder / INDEX_NAME} lists the files that were written" if listed else ""
    say(f"incomplete: {problems[-1]}{note_of_index}")
    return code if session.interruption.asked else Exit.INCOMPLETE


def _flow_files(given: Input, wanted: Files) -> FlowFiles:
    folder = Path(wanted.folder)
    try:
        return FlowFiles(folder, format=wanted.format, by=wanted.by, overwrite=wanted.overwrite, outer=given.outer)
    except FileExists as error:
        raise _with_advice(error, folder) from error


def _live_files(given: Input, wanted: Files) -> LiveFlowFiles:
    folder = Path(wanted.folder)
    try:
        return LiveFlowFiles(
            folder,
            format=wanted.format,
            by=wanted.by,
            overwrite=wanted.overwrite,
            outer=given.outer,
            max_open_files=wanted.max_open or MAX_OPEN_FILES,
            alarms_only=wanted.alarms_only,
        )
    except FileExists as error:
        raise _with_advice(error, folder) from error


def _with_advice(error: FileExists, folder: Path) -> FileExists:
    """The same error, and the option that helps where one does."""
    return FileExists(f"{error} with --overwrite") if folder.is_dir() else error


def _write(session: Session, files: FlowFiles, collector: FlowCollector, wanted: Files, quiet: bool) -> OSError | None:
    """Write what was traced. Returns what went wrong on the way."""
    flows = collector.flows()
    flows.account = session.account()
    assert isinstance(session.captures, Captures)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        written = files.write(
            flows,
            session.captures,
            on_progress=lambda done, total: session.progress.show("writing", done, total),
            stopped=session.asked_while_writing,
            alarms_only=wanted.alarms_only,
        )
    except OSError as error:
        return error
    finally:
        sys.setswitchinterval(usual)
    session.progress.close()
    _say_written(written, Path(wanted.folder), quiet)
    return None


def _finish(session: Session, files: LiveFlowFiles, folder: Path, quiet: bool) -> list[str]:
    """Write the index. Returns what is missing in the files, a line each."""
    try:
        written = files.finish(session.account(), session.captures.errors)
    except OSError as error:
        return [*files.problems(), str(error)]
    _say_written(written, folder, quiet)
    return files.problems()


def _say_written(files: int, folder: Path, quiet: bool) -> None:
    if not quiet:
        note(f"{files} files written to {folder}, listed in {folder / INDEX_NAME}")
