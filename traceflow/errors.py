"""The exceptions traceflow raises, sorted by who can act.

Every exception a user may see derives from `TraceflowError` and says four things where it knows
them: what was done, where (file and offset), what was needed and had, and what to do now.
A bad packet is never an exception: it is a `Verdict` and a counter (see `packets.py`). End of file
is not an error either. Nothing here imports anything of traceflow.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CannotReadError",
    "CannotWriteError",
    "FileExists",
    "IncompleteWarning",
    "LibraryMissingError",
    "LostFramesError",
    "MalformedCaptureError",
    "NotACaptureError",
    "TraceflowError",
    "TruncatedCaptureError",
    "UnsupportedCaptureError",
    "UsageError",
    "suggest",
]


class TraceflowError(Exception):
    """Root of all errors of traceflow."""


class UsageError(TraceflowError, ValueError):
    """The caller asked for something that does not exist: a format, field, profile or option."""


class CannotReadError(TraceflowError, OSError):
    """The input cannot be opened or read: missing, a directory, no permission, a device error."""


class CannotWriteError(TraceflowError, OSError):
    """The output cannot be written: no permission, a full disk, a path that is a file."""


class LibraryMissingError(TraceflowError, ImportError):
    """A library of the system that this needs is not installed; the message says how to install it."""


class FileExists(CannotWriteError, FileExistsError):  # noqa: N818 - the name PyPCAPKit's users know
    """The output exists already, from an earlier run or as a file where a folder is needed."""


class CaptureError(TraceflowError):
    """The input was opened, but what it holds is not what a capture should hold.

    Attributes:
        file: Name of the capture, `-` for standard input.
        offset: Octets from the start of the file to the place of the fault.
        needed: Octets needed there; None where the fault is not a lack of octets.
        had: Octets that were there; None likewise.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str,
        offset: int = 0,
        needed: int | None = None,
        had: int | None = None,
    ) -> None:
        self.file = file
        self.offset = offset
        self.needed = needed
        self.had = had
        lengths = "" if needed is None else f" (needed {needed} octets, had {had})"
        super().__init__(f"{file}: at offset {offset}: {message}{lengths}")


class NotACaptureError(CaptureError):
    """The content is no packet capture at all: nothing could be read from it."""


class UnsupportedCaptureError(CaptureError):
    """A capture of a kind that traceflow does not read (yet); the message names it."""


class TruncatedCaptureError(CaptureError):
    """The file ends inside a record. All complete frames before it have been delivered."""


class MalformedCaptureError(CaptureError):
    """A record header holds what cannot be true. All frames before it have been delivered."""


class LostFramesError(TraceflowError):
    """Frames of a live capture were dropped before they could be read: results are without them."""


class IncompleteWarning(UserWarning):
    """Results are incomplete; `FlowSet.errors` holds the reasons."""


def suggest(what: str, given: str, known: Iterable[str]) -> str:
    """Say that `given` is unknown, with the nearest known names and the whole list.

    Args:
        what: The kind of thing, such as `format` or `field`.
        given: What the user wrote.
        known: The names that exist.

    Returns:
        One line for an error message.
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=2, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {what} {given!r}.{hint} Known: {', '.join(names)}"
