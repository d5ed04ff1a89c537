"""What the commands share around the engine: captures, Ctrl-C, progress, errors, the account, the exit code."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from traceflow.cli.commands import Input
from traceflow.cli.compiling import announce_compiling
from traceflow.cli.exits import Exit
from traceflow.cli.interrupt import InterruptibleCaptures, Interruption
from traceflow.cli.messages import account_lines, note, say
from traceflow.cli.progress import Progress
from traceflow.cli.reports import Report, watch
from traceflow.flows import Account
from traceflow.options import options_for
from traceflow.pipeline import Run, Step, plugin_set
from traceflow.sinks.rows_fields import FLOW_FIELDS
from traceflow.warmup import compile_side_by_side

__all__ = ["Session"]


class Session:
    """One pass over the captures of a command. A context manager.

    Args:
        given: The input.
        progress: Whether a progress bar may be shown.
        spool_folder: Given where frames are read again: what cannot be read twice is kept there.
        shots: Whether columns of plugins are wanted for each packet.

    Attributes:
        captures: The open captures.
        run: The pass.
        interruption: Ctrl-C.
        progress: The progress bar.
    """

    def __init__(
        self, given: Input, *, progress: bool = True, spool_folder: Path | None = None, shots: bool = False
    ) -> None:
        options = options_for(given.profile, outer=given.outer, analysis=given.analysis, **given.rules)
        self._stop_announcing: Callable[[], None] | None = None if given.quiet else announce_compiling()
        compile_side_by_side()
        self._quiet = given.quiet
        self._cut_short = False
        self.progress = Progress(progress and not given.quiet)
        self.interruption = Interruption()
        self.captures = InterruptibleCaptures(
            *given.captures, limit=given.limit, keep=spool_folder is not None, spool_folder=spool_folder
        )
        self.captures.interruption = self.interruption
        self.run = Run(
            self.captures, options, plugin_set(given.plugins, taken=FLOW_FIELDS, shots=shots), given.expression
        )
        self._report = Report() if given.report else None
        if given.monitor_ns is not None:
            watch(self.run, given.monitor_ns)
        self.interruption.stop = self.run.stop

    def steps(self) -> Iterator[Step]:
        """The steps of the run."""
        if not gc.isenabled():  # `main` switched it off
            gc.freeze()  # what the imports made is never looked at again
            gc.enable()
        for step in self.run.steps():
            self.progress.show("reading", self.captures.octets_read, self.captures.octets_total)
            if self._report is not None:
                self._report.add(step.ended)
            yield step
        self._cut_short = self.interruption.asked

    @property
    def failed(self) -> bool:
        """Whether no capture at all could be read, or no frame be judged by the filter."""
        return self.run.failed

    def account(self) -> Account:
        """What became of every frame."""
        account = self.run.account()
        account.interrupted = account.interrupted or self._cut_short
        return account

    def asked_while_writing(self) -> bool:
        """Whether Ctrl-C was pressed after the reading: then the rest is not to be written."""
        return self.interruption.asked and not self._cut_short

    def finish(self, *, account: bool = True) -> int:
        """Print the account and what went wrong.

        Args:
            account: False where it stands in the output.

        Returns:
            The exit code.
        """
        self.progress.close()
        if account and not self._quiet and not self.failed:
            for line in account_lines(self.account()):
                note(line)
        if self._report is not None and not self.failed:
            for line in self._report.lines(self.run):
                note(line)
        failures = self.run.plugins.failures
        for failure in failures:
            say(f"incomplete: {failure}")
        for error in self.run.errors:
            say(f"failed: {error}" if self.failed else f"incomplete: {error}")
        if self.interruption.asked:
            say("interrupted" if self._cut_short else "interrupted: not everything was written")
            return Exit.INTERRUPTED
        if self.failed:
            return Exit.FAILED
        return Exit.INCOMPLETE if self.run.errors or failures else Exit.OK

    def __enter__(self) -> Self:
        self.interruption.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if self._stop_announcing is not None:
            self._stop_announcing()
        self.captures.close()
        self.interruption.__exit__(kind, error, trace)
