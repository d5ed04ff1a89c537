"""`traceflow trace`: per-flow files and their index."""

from __future__ import annotations

from pathlib import Path

from traceflow.cli.commands import Input
from traceflow.cli.exits import Exit
from traceflow.cli.messages import note, say
from traceflow.cli.session import Session
from traceflow.errors import FileExists
from traceflow.pipeline import FlowCollector
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sinks.folder import INDEX_NAME
from traceflow.sources import Captures

__all__ = ["run"]


def run(
    given: Input, folder: str, file_format: str, by: str | None, overwrite: bool, *, alarms_only: bool = False
) -> int:
    """Write the files.

    Args:
        given: The input.
        folder: Output folder.
        file_format: Format of the files.
        by: `direction`, `flow`, or None for the default of the format.
        overwrite: Replace files of an earlier run.
        alarms_only: Only flows on which a plugin raised the alarm.

    Returns:
        The exit code.

    Raises:
        UsageError: An unknown format.
        CannotWriteError: The folder cannot be used; nothing was traced.
    """
    place = Path(folder)
    with (
        _flow_files(place, file_format, by, overwrite, given.outer) as files,
        Session(given, spool_folder=place) as session,
    ):
        collector = FlowCollector(session.run)
        for step in session.steps():
            collector.take(step)
            files.take(step)
        if session.failed:
            return session.finish()
        failure = _write(session, files, collector, place, given.quiet, alarms_only)
        code = session.finish()
        if failure is None:
            return code
        listed = (place / INDEX_NAME).is_file()
        say(f"incomplete: {failure}" + (f"; {place / INDEX_NAME} lists the files that were written" if listed else ""))
        return code if session.interruption.asked else Exit.INCOMPLETE


def _flow_files(folder: Path, file_format: str, by: str | None, overwrite: bool, outer: bool) -> FlowFiles:
    try:
        return FlowFiles(folder, format=file_format, by=by, overwrite=overwrite, outer=outer)
    except FileExists as error:
        if not folder.is_dir():
            raise
        raise FileExists(f"{error} with --overwrite") from error


def _write(
    session: Session, files: FlowFiles, collector: FlowCollector, folder: Path, quiet: bool, alarms_only: bool
) -> OSError | None:
    """Write what was traced. Returns what went wrong on the way."""
    flows = collector.flows()
    flows.account = session.account()
    assert isinstance(session.captures, Captures)
    try:
        written = files.write(
            flows,
            session.captures,
            on_progress=lambda done, total: session.progress.show("writing", done, total),
            stopped=session.asked_while_writing,
            alarms_only=alarms_only,
        )
    except OSError as error:
        return error
    session.progress.close()
    if not quiet:
        note(f"{written} files written to {folder}, listed in {folder / INDEX_NAME}")
    return None
