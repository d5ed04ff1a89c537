"""From the arguments to an exit code: what no command catches is caught, said and sorted here.

No user sees a traceback: an exception that is none of ours is a bug, and is called one. With TRACEFLOW_DEBUG set, the
traceback is printed as well.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from traceflow.cli.commands import traceflow_command
from traceflow.cli.exits import Exit, IncompleteOutputError, PipeClosedError, Terminated
from traceflow.cli.messages import say
from traceflow.errors import TraceflowError, UsageError

__all__ = ["main", "run"]


def run(arguments: Sequence[str], prog_name: str = "traceflow") -> int:
    """Run a command.

    Args:
        arguments: What was typed behind the name of the program.
        prog_name: That name.

    Returns:
        The exit code, see `Exit`.
    """
    try:
        code = traceflow_command.main(list(arguments), prog_name, standalone_mode=False)
        sys.stdout.flush()
        return int(code or Exit.OK)
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # a full disk behind standard error does not change what went wrong
            error.show()
        return error.exit_code
    except Terminated:
        say("terminated")
        return Exit.TERMINATED
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return Exit.INTERRUPTED
    except (PipeClosedError, BrokenPipeError):
        return Exit.PIPE_CLOSED
    except TraceflowError as error:
        say(str(error))
        _explain()
        if isinstance(error, UsageError):
            return Exit.USAGE
        return Exit.INCOMPLETE if isinstance(error, IncompleteOutputError) else Exit.FAILED
    except OSError as error:
        say(f"standard output or error cannot be written: {error.strerror or error}")
        _explain()
        return Exit.FAILED
    except MemoryError:
        say("out of memory; trace fewer frames (-c N), or one capture at a time")
        _explain()
        return Exit.FAILED
    except Exception as error:  # noqa: BLE001 - the last door before a traceback
        say(
            f"this is a bug in traceflow: {type(error).__name__}: {error}. Please report it with the command you gave; "
            "with TRACEFLOW_DEBUG=1 in the environment the same command shows the traceback"
        )
        _explain()
        return Exit.FAILED


def _explain() -> None:
    """Print the traceback for those who asked for it."""
    if os.environ.get("TRACEFLOW_DEBUG"):
        traceback.print_exc()


def main(prog_name: str = "traceflow") -> NoReturn:
    """Run the command of the process, and leave.

    Args:
        prog_name: Name of the program in messages.
    """
    # Importing Numba makes some 10**5 objects that stay: without the collector, which would visit them again and
    # again, that takes 0.3 instead of 0.4 s. It is switched on again before the first frame (`Session`).
    gc.disable()
    # Where colorama is installed, Numba colours messages that it makes for itself, thousands of them while it compiles:
    # a fifteenth of a first run. What is shown of them has no colours in any case.
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    # Nothing here is linear algebra, and the threads that NumPy starts for it spin for 0.1 s before they rest.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _prepare_streams()
    code = run(sys.argv[1:], prog_name)
    _leave(code)


def _prepare_streams() -> None:
    """Make the standard streams fit for machines: UTF-8 and bare line ends in pipes, and never None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for the process
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        # PYTHONUNBUFFERED: a text stream right above the system drops what one call does not take.
        raw, terminal = sys.stdout.buffer, sys.stdout.isatty()
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), sys.stdout.encoding, sys.stdout.errors, line_buffering=terminal
        )
    # File names that are not UTF-8 come out as the octets they are.
    if not sys.stdout.isatty() and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
    elif hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal shows what it can


def _leave(code: int) -> NoReturn:
    """End the process.

    Where Numba was loaded this skips the interpreter's tidying up, which frees every object of the compiler one by
    one: 0.25 s of a run of 0.8. All that must be closed has been closed by now.
    """
    try:
        sys.stdout.flush()
    except OSError:
        code = code or Exit.PIPE_CLOSED
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    if "numba" in sys.modules and not os.environ.get("TRACEFLOW_DEBUG"):
        os._exit(code)
    if code == Exit.PIPE_CLOSED:  # or the interpreter tries to flush once more, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
