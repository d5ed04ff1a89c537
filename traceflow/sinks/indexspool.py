"""What the index says of files is made while files are written, and put away until all is known that stands before it.

For 66 000 files it takes half a second, which this way passes while another thread writes them. It is kept in an
anonymous temporary file in the folder, because it may be larger than memory. Where that does not fit, it is given up,
and everything is made in the end.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from traceflow.flows import FlowSet
from traceflow.sinks.catalog import Output, entries
from traceflow.sinks.perflow import ENTRY_SEPARATOR

__all__ = ["IndexSpool"]

_ENTRIES = 4096
"""Entries that are made, and kept in memory, at once."""


class IndexSpool:
    """Entries of the files of a run, in the order in which they were written.

    Args:
        folder: Where the temporary file is.
        flows: What was traced.
    """

    def __init__(self, folder: Path, flows: FlowSet) -> None:
        self._flows = flows
        self._sizes: list[int] = []
        self._known = 0
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()

    def add(self, written: Sequence[Output]) -> None:
        """Make the entries of files.

        Args:
            written: All that are written by now, those of earlier calls too.
        """
        if self._file is None:
            return
        known = len(written)
        try:
            for block in self._blocks(written[self._known : known]):
                self._file.write(block)
                self._sizes.append(len(block))
        except OSError:  # a full disk
            self.close()
            return
        self._known = known

    def _blocks(self, written: Sequence[Output]) -> Iterator[bytes]:
        """Entries, many in one piece, as `perflow.index_pieces` takes them."""
        for first in range(0, len(written), _ENTRIES):
            yield ENTRY_SEPARATOR.join(entries(self._flows, written[first : first + _ENTRIES]))

    def pieces(self, written: Sequence[Output]) -> Iterator[bytes]:
        """All entries, many in one piece.

        Args:
            written: All files.

        Raises:
            OSError: What was put away cannot be read again.
        """
        if self._file is not None:
            try:
                self._file.seek(0)  # and write what was not written yet
            except OSError:  # a full disk
                self.close()
        if self._file is not None:
            for size in self._sizes:
                yield self._file.read(size)
        yield from self._blocks(written[self._known :])

    def close(self) -> None:
        """Give the temporary file back, and forget what it holds."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of what it had not written yet
                self._file.close()
        self._file, self._known = None, 0
        self._sizes.clear()
