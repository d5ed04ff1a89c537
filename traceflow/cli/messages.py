"""Words to the user on standard error: messages, and the account of a run. Every line is plain text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from traceflow.sinks.rows import printable

if TYPE_CHECKING:
    from traceflow.flows import Account

__all__ = ["account_lines", "note", "say"]


def say(text: str) -> None:
    """Print one message. Control characters, of file names for one, are shown as escapes."""
    note(f"traceflow: {text}")


def note(text: str) -> None:
    """Print one line on standard error; where nobody reads it any more, that is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr, flush=True)


def _counts(pairs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in pairs)


def account_lines(account: Account, kernel_drops: int | None = None) -> list[str]:
    """What became of every frame, zeros too.

    Args:
        account: Of the run.
        kernel_drops: Frames of a live capture that were lost before they could be read; None: it was none.
    """
    without = sum(account.verdicts.values())
    lines = [
        f"frames read {account.frames} = in flows {account.in_flows} + without a flow {without}",
        "  without a flow: " + _counts((verdict.text, count) for verdict, count in account.verdicts.items()),
        f"flows {account.flows}, ended by: " + _counts((cause.text, count) for cause, count in account.causes.items()),
        f"frames out of time order {account.frames_out_of_order}, "
        f"steps of the clock above one hour {account.forward_jumps}",
    ]
    if account.duplicates is not None:
        lines[-1] += f", exact duplicates {account.duplicates}"
    if kernel_drops is not None:
        lines.append(f"kernel drops {kernel_drops}")
    if account.interrupted:
        lines.append("interrupted: frames behind these were not read")
    return lines
