"""What the commands share around the engine: the source, Ctrl-C, progress, errors, the account, the exit code."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from traceflow.ahead import batches_ahead
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
from traceflow.sources import Source
from traceflow.warmup import compile_side_by_side

__all__ = ["Session"]


class Session:
    """One pass over the captures or interfaces of a command. A context manager.

    Args:
        given: The input.
        progress: Whether a progress bar may be shown.
        spool_folder: Given where frames are read again: what cannot be read twice is kept there.
        shots: Whether columns of plugins are wanted for each packet.

    Attributes:
        captures: The open captures, or interfaces.
        run: The pass.
        interruption: Ctrl-C and SIGTERM.
        progress: The progress bar.
    """

    def __init__(
        self, given: Input, *, progress: bool = True, spool_folder: Path | None = None, shots: bool = False
    ) -> None:
        options = options_for(given.profile, outer=given.outer, analysis=given.analysis, **given.rules)
        self._stop_announcing: Callable[[], None] | None = None if given.quiet else announce_compiling()
        compile_side_by_side()
        self._quiet = given.quiet
        self._filtered = given.expression is not None
        self._cut_short = False
        self.progress = Progress(progress and not given.quiet and given.live is None)
        self.interruption = Interruption()
        self._live = None if given.live is None else importlib.import_module("traceflow.cli.capturing")
        self.captures = self._source(given, spool_folder)
        running = plugin_set(given.plugins, taken=FLOW_FIELDS, shots=shots)
        self.run = Run(self.captures, options, running, given.expression)
        self._report = Report() if given.report else None
        if given.monitor_ns is not None:
            watch(self.run, given.monitor_ns)
        if self._live is None:
            self.interruption.stop = self.run.stop

    def _source(self, given: Input, spool_folder: Path | None) -> Source:
        """Where the frames come from."""
        if self._live is not None:
            capture: Source = self._live.open_capture(given, self.interruption)
            return capture
        captures = InterruptibleCaptures(
            *given.captures, limit=given.limit, keep=spool_folder is not None, spool_folder=spool_folder,
            ahead=batches_ahead(given.workers),
        )  # fmt: skip
        captures.interruption = self.interruption
        return captures

    def steps(self) -> Iterator[Step]:
        """The steps of the run."""
        if not gc.isenabled():  # `main` switched it off
            gc.freeze()  # what the imports made is never looked at again
            gc.enable()
        if self._live is not None:
            self._live.begin(self.captures, filtered=self._filtered, quiet=self._quiet)
        for step in self.run.steps():
            self.progress.show("reading", self.captures.octets_read, self.captures.octets_total)
            if self._report is not None:
                self._report.add(step.ended)
            yield step
        self._cut_short = self.interruption.asked

    @property
    def failed(self) -> bool:
        """Whether no capture or interface at all could be read, or no frame be judged by the filter."""
        return self.run.failed

    def account(self) -> Account:
        """What became of every frame."""
        account = self.run.account()
        # What comes on an interface has no end that could be missed.
        account.interrupted = account.interrupted or (self._cut_short and not self.captures.live)
        return account

    @property
    def kernel_drops(self) -> int | None:
        """Frames that the system dropped before they could be read; None where files are read."""
        return None if self._live is None else self._live.drops(self.captures)

    def asked_while_writing(self) -> bool:
        """Whether Ctrl-C was pressed (or SIGTERM came) after the reading: then the rest is not to be written."""
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
            for line in account_lines(self.account(), self.kernel_drops):
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
            word = "interrupted" if self.interruption.exit_code == Exit.INTERRUPTED else "terminated"
            say(word if self._cut_short else f"{word}: not everything was written")
            return self.interruption.exit_code
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
