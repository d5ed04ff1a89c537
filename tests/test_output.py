"""Standard output: octets and text come in the order in which they were written, and a failure says what was lost."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from traceflow.cli.exits import IncompleteOutputError, PipeClosedError
from traceflow.cli.output import StandardOutput
from traceflow.errors import CannotWriteError

TEXT = "caf\u00e9\n"


class Narrow(io.RawIOBase):
    """Takes three octets at a time, and fails as the system does when it is full or nobody reads."""

    def __init__(self, room: int = 1000, failure: OSError | None = None) -> None:
        super().__init__()
        self.taken, self._room, self._failure = b"", room, failure

    def writable(self) -> bool:
        return True

    def write(self, octets: Any) -> int:
        if self._failure is not None and len(self.taken) >= self._room:
            raise self._failure
        self.taken += bytes(octets[:3])
        return len(octets[:3])


def written(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        out = StandardOutput()
        out.write("one\n")
        out.write_octets(memoryview(TEXT.encode()))
        out.write("two\n")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1"])
def test_octets_stand_between_texts(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    below = io.BytesIO()
    stream = io.TextIOWrapper(below, encoding=encoding, newline="\n")
    written(stream, monkeypatch)
    assert below.getvalue() == f"one\n{TEXT}two\n".encode(encoding)


def test_a_stream_without_octets_takes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    written(stream, monkeypatch)
    assert stream.getvalue() == f"one\n{TEXT}two\n"


def test_an_unbuffered_stream_takes_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # what `python -u` makes of standard output: no buffer between text and system
    raw = Narrow()
    monkeypatch.setattr(sys, "stdout", Unbuffered(raw))
    StandardOutput().write_octets(memoryview(b"0123456789"))
    assert raw.taken == b"0123456789"


class Unbuffered:
    """Text above a raw stream."""

    encoding = "utf-8"

    def __init__(self, raw: Narrow) -> None:
        self.buffer = raw

    def flush(self) -> None:
        self.buffer.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", Unbuffered(full))  # type: ignore[arg-type]
        with pytest.raises(CannotWriteError, match="No space left on device; nothing was written"):
            StandardOutput().write_octets(memoryview(b"0123456789"))


def test_what_a_failure_means(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StandardOutput()
    monkeypatch.setattr(sys, "stdout", Unbuffered(Narrow(10, OSError(28, "No space left on device"))))
    out.write_octets(memoryview(b"0123456789"))
    with pytest.raises(IncompleteOutputError, match="No space left on device; rows are missing"):
        out.write_octets(memoryview(b"0123456789"))
    monkeypatch.setattr(sys, "stdout", Unbuffered(Narrow(0, BrokenPipeError())))
    with pytest.raises(PipeClosedError):
        out.write_octets(memoryview(b"0"))
