"""Exit codes, and the errors that carry one. The table is part of the interface: docs/vocabulary.md."""

from __future__ import annotations

import enum

from traceflow.errors import CannotWriteError

__all__ = ["Exit", "IncompleteOutputError", "PipeClosedError", "Terminated"]


class Exit(enum.IntEnum):
    """What a run comes to."""

    OK = 0
    """Everything was traced and written."""
    FAILED = 1
    """Nothing was traced: no capture could be read, or the output cannot be written at all."""
    USAGE = 2
    """The command line is wrong; nothing was done."""
    INCOMPLETE = 3
    """Results are there, but an input was missing, cut or broken, or an output failed midway."""
    INTERRUPTED = 130
    """Ctrl-C (128 + SIGINT): what was traced until then was written."""
    TERMINATED = 143
    """SIGTERM (128 + its number): likewise."""
    PIPE_CLOSED = 141
    """The reader of the output went away (128 + SIGPIPE), as `| head` does."""


class IncompleteOutputError(CannotWriteError):
    """The output failed after some of it had been written."""


class PipeClosedError(Exception):
    """The reader of the output went away. Not a BrokenPipeError, which click would turn into exit code 1."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, as Ctrl-C would have."""
