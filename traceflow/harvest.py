"""Flows that ended on their way out of the table: rows of LIVE become rows of FLOW, in the order in which they ended.

The kernels put what ended into a buffer of GONE_ROWS rows. When that is full, its rows are made FLOW rows: at once, or,
where a second thread prepares batches and has time to spare, by that one (`help`), while the kernels fill another
buffer. Their places are taken in order beforehand, so it makes no difference who makes them, and when; `drain` makes
what nobody has made yet.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from traceflow.analysis import analysis_rows
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW, EndCause
from traceflow.live import join_rows, live_rows
from traceflow.tracking import GONE_ROWS

__all__ = ["Harvest"]

_NO_FLOWS = np.zeros(0, FLOW)
_ROWS_IN_ORDER = np.arange(GONE_ROWS, dtype=np.uint32)
_CHUNK_FLOWS = 16384  # 13 MiB: from 4 on, NumPy asks for huge pages; 66 000 flows then end in 12 ns a frame, not 17
_BUFFERS = 4
"""Buffers that the kernels fill in turn where another thread helps: it comes once a batch, in which some 300 flows end;
more would leave the cache that both share."""


class Chunk:
    """FLOW rows for flows that end, one after the other.

    Args:
        count: How many.

    Attributes:
        rows: FLOW[count].
    """

    def __init__(self, count: int) -> None:
        self.rows = np.zeros(count, FLOW)
        self._fresh = 0  # the first row that was never used, and so is all zero
        self._users = sys.getrefcount(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_free(self) -> bool:
        """Whether nobody else has rows of it: every view of NumPy counts as a user of the array that it shows."""
        return sys.getrefcount(self.rows) == self._users

    def part(self, start: int, count: int) -> tuple[npt.NDArray[np.void], int]:
        """Rows from `start` on, and how many of them were used before and are not zero."""
        used = min(max(self._fresh - start, 0), count)
        self._fresh = max(self._fresh, start + count)
        return self.rows[start : start + count], used


@dataclass(slots=True)
class Gone:
    """A buffer of rows that ended.

    Attributes:
        rows: LIVE[GONE_ROWS].
        deep: ANALYSIS[GONE_ROWS], or none without analysis.
        words: Both as uint64 words.
    """

    rows: npt.NDArray[np.void]
    deep: npt.NDArray[np.void]
    words: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


@dataclass(slots=True)
class _Work:
    """FLOW rows that are still to be made.

    Attributes:
        flows: FLOW[k], their place.
        used: Rows of it, from the first on, that are not zero.
        ended: LIVE[n].
        rows: uint32[k], which of them, in order.
        deep: ANALYSIS[n].
        cause: What ended them; None: what their rows say.
        gone: The buffer that is free when they are made; None: no buffer.
    """

    flows: npt.NDArray[np.void]
    used: int
    ended: npt.NDArray[np.void]
    rows: npt.NDArray[np.uint32]
    deep: npt.NDArray[np.void]
    cause: EndCause | None = None
    gone: Gone | None = None


def _count_causes(flows: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    return np.bincount(flows["end_cause"], minlength=max(EndCause) + 1)


class Harvest:
    """Makes and holds FLOW rows until somebody takes them.

    Args:
        analysis: Whether segments are analysed.
        helped: Whether another thread calls `help`.

    Attributes:
        gone: The buffer for the next rows that end.
    """

    def __init__(self, *, analysis: bool, helped: bool = False) -> None:
        self._analysis = analysis
        buffers = [self._buffer() for _ in range(_BUFFERS if helped else 1)]
        self.gone, self._free = buffers[0], deque(buffers[1:])
        self._work: deque[_Work] = deque()
        self._lock = threading.Lock()
        self._chunk, self._spare, self._taken, self._drained = Chunk(0), Chunk(0), 0, 0
        self._ended: list[npt.NDArray[np.void]] = []
        self._causes = _count_causes(_NO_FLOWS)

    def _buffer(self) -> Gone:
        rows, deep = live_rows(GONE_ROWS), analysis_rows(GONE_ROWS if self._analysis else 0)
        return Gone(rows, deep, (rows.view(np.uint64), deep.view(np.uint64)))

    def take_gone(self, count: int) -> npt.NDArray[np.void]:
        """Take over the first rows of `gone`, which may be another buffer then.

        Args:
            count: How many.

        Returns:
            FLOW[count], their place; they are made by now where nobody helps.
        """
        flows, used = self._room(count)
        work = _Work(flows, used, self.gone.rows, _ROWS_IN_ORDER[:count], self.gone.deep)
        if self._free:
            work.gone, self.gone = self.gone, self._free.popleft()
            self._work.append(work)
        else:
            self._make(work)
        return flows

    def take_live(
        self,
        live: npt.NDArray[np.void],
        rows: npt.NDArray[np.uint32],
        deep: npt.NDArray[np.void],
        cause: EndCause,
    ) -> npt.NDArray[np.void]:
        """Take over rows that lived until now.

        Args:
            live: LIVE[n].
            rows: uint32[k], which of them, in order.
            deep: ANALYSIS[n].
            cause: What ends them. What closed a flow outranks it.

        Returns:
            FLOW[k].
        """
        flows, used = self._room(len(rows))
        self._make(_Work(flows, used, live, rows, deep, cause))
        return flows

    def help(self) -> None:
        """Make what is still to be made; when this returns, nobody else is at it either."""
        with self._lock:
            while self._work:
                self._make(self._work.popleft())

    def _make(self, work: _Work) -> None:
        """Make FLOW rows. Either only the thread that tracks comes here, or `help` holds the lock."""
        flows = work.flows
        flows[: work.used].view(np.uint8)[:] = 0
        assemble_flows(work.ended, work.rows, work.deep, flows, analysis=self._analysis, cause=work.cause)
        if work.gone is not None:
            self._free.append(work.gone)

    def _room(self, count: int) -> tuple[npt.NDArray[np.void], int]:
        """Rows for the next flows that end, and how many of them are not zero.

        Two chunks take turns: what was drained from one is in use until the next flows are asked for, and then nobody
        may have it any more. Where that is so, as with all that streams, its rows are used again: memory that a
        processor knows, where the system would have to clear new pages (a tenth of the time of a run).
        """
        if self._taken == self._drained and self._taken and self._spare.is_free:
            self._chunk, self._spare, self._taken, self._drained = self._spare, self._chunk, 0, 0
        if self._taken + count > len(self._chunk):
            self._hand_over()
            self._chunk, self._taken, self._drained = Chunk(_CHUNK_FLOWS), 0, 0
        self._taken += count
        return self._chunk.part(self._taken - count, count)

    def _hand_over(self) -> None:
        """Put what was taken since the last time among the flows to drain."""
        if self._taken > self._drained:
            self._ended.append(self._chunk.rows[self._drained : self._taken])
        self._drained = self._taken

    def drain(self) -> npt.NDArray[np.void]:
        """The flows that were taken over since the last call: FLOW[k]."""
        self.help()
        self._hand_over()
        ended, self._ended = self._ended, []
        for flows in ended:
            self._causes += _count_causes(flows)
        if len(ended) < 2:
            return ended[0] if ended else _NO_FLOWS
        return join_rows(ended)

    @property
    def undrained(self) -> int:
        """Flows that were taken over since `drain` was called last."""
        return self._taken - self._drained + sum(map(len, self._ended))

    @property
    def causes(self) -> npt.NDArray[np.int64]:
        """How many flows ended by each EndCause: int64[...]."""
        self.help()
        causes = self._causes.copy()
        for flows in (*self._ended, self._chunk.rows[self._drained : self._taken]):
            causes += _count_causes(flows)
        return causes
