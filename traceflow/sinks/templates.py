"""Many records to text at once: templates, learned for each shape of frames, filled in by a kernel.

What is written is what `dictdump.render_document` writes of the records of the same frames, octet by octet. Rendering
a record takes Python 60 microseconds; but records of frames with the same headers differ in some thirty values alone.
So for each *shape* of frames that comes often (`templates_shapes`) a template is learned from the records themselves
(`templates_learn`) and laid out by the renderers themselves (`templates_layout`); `templates_fill` does the work.
Frames that have no template are rendered one by one, and stand between the others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64
from traceflow.packets import Interface
from traceflow.sinks import templates_fill as fills
from traceflow.sinks.dictdump import FORMATS
from traceflow.sinks.records import frame_record
from traceflow.sinks.templates_layout import Texts, operations, outline
from traceflow.sinks.templates_learn import learn
from traceflow.sinks.templates_shapes import KNOWN, UNKNOWN, Shapes

__all__ = ["FIRST", "LAST", "Templates"]

FIRST, LAST = fills.FIRST, fills.LAST

_LEARN_AFTER = 64
"""Frames of a shape that are rendered one by one before its template is learned, which takes as long as a hundred."""

_BUFFER = 1 << 22


class Templates:
    """The templates of one run.

    Args:
        fmt: A name in `dictdump.FORMATS`.
        interfaces: Of the source; more may be added while it is read.
        outer: As in `decode_batch`.
        learn_after: Frames of a shape that are rendered one by one before its template is learned.
        lasting: For how many more calls of `render` a text is good.
    """

    def __init__(
        self,
        fmt: str,
        interfaces: Sequence[Interface],
        *,
        outer: bool = False,
        learn_after: int = _LEARN_AFTER,
        lasting: int = 0,
    ) -> None:
        self._renderer = FORMATS[fmt][0].renderer
        self._interfaces, self._outer, self._learn_after = interfaces, outer, learn_after
        self._shapes = Shapes()
        self._seen: Counter[int] = Counter()
        self._texts = Texts()
        self._ops = outline(self._renderer, self._texts)
        self._text = self._texts.array()
        self._others = deque(np.empty(_BUFFER, np.uint8) for _ in range(lasting))
        self._out = np.empty(_BUFFER, np.uint8)
        self.filled = 0
        """Frames that a template wrote."""

    def render(
        self,
        octets: npt.NDArray[np.uint8],
        frames: npt.NDArray[np.void],
        packets: npt.NDArray[np.void],
        numbers: npt.NDArray[Any],
        marks: npt.NDArray[np.uint8],
    ) -> tuple[memoryview, npt.NDArray[np.uint64]]:
        """The blocks of frames, with head and tail of their documents.

        Args:
            octets: uint8[n], where their octets are.
            frames: FRAME[m].
            packets: PACKET[m] as decoded, without what other frames tell of them.
            numbers: uint[m], their numbers; no number twice in a document.
            marks: uint8[m]: FIRST of a document, LAST of one.

        Returns:
            The text, which is good for `lasting` more calls; and where each frame ends in it, uint64[m].
        """
        batch = octets, frames, packets, numbers.astype(np.uint64, copy=False)
        ends = np.zeros(len(frames), np.uint64)
        at = np.zeros(3, np.uint64)
        self._others.append(self._out)
        self._out = self._others.popleft()
        while True:
            tree = (self._shapes.edges, self._shapes.nodes)
            before = int(at[0])
            leaves = self._shapes.leaves
            status = int(fills.fill(batch, marks, ends, tree, leaves, self._ops, self._text, at, self._out))
            self.filled += int(at[0]) - before
            if status == KNOWN:
                return self._out.data[: int(at[1])], ends
            here = int(at[0])
            if status == fills.FULL:
                self._grow(int(at[1]), 2 * len(self._out) + 8 * int(frames[here]["captured"]))
                continue
            captured = self._octets(batch, here)
            if status == UNKNOWN:
                if self._shapes.add(captured, frames[here], packets[here]):
                    continue
            elif at[2] and self._learned(int(at[2]), captured, frames[here], packets[here]):
                continue
            self._put(captured, batch, here, int(marks[here]), at)
            ends[here] = at[1]

    @staticmethod
    def _octets(batch: tuple[Any, ...], at: int) -> bytes:
        frame = batch[1][at]
        start = int(frame["start"])
        return bytes(batch[0].data[start : start + int(frame["captured"])])

    def _learned(self, leaf: int, octets: bytes, frame: np.void, packet: np.void) -> bool:
        """Count a frame of a shape without template; whether it has one now."""
        self._seen[leaf] += 1
        if self._seen[leaf] != self._learn_after:
            return False
        interface = self._interfaces[int(frame["interface"])]
        record = learn(self._shapes, leaf, octets, frame, packet, interface, self._outer)
        if record is None:
            return False
        ops, most = operations(self._renderer, self._texts, record)
        row = self._shapes.leaves[leaf]
        row["op"], row["ops"], row["most"] = len(self._ops), len(ops), most
        self._ops = np.concatenate([self._ops, ops])
        self._text = self._texts.array()
        return True

    def _put(self, octets: bytes, batch: tuple[Any, ...], here: int, mark: int, at: npt.NDArray[np.uint64]) -> None:
        """Render a frame by itself."""
        _, frames, packets, numbers = batch
        number, frame = int(numbers[here]), frames[here]
        record = frame_record(number, octets, frame, packets[here], self._interfaces[int(frame["interface"])])
        renderer, first = self._renderer, bool(mark & FIRST)
        text = renderer().block(renderer.clean(f"Frame {number}"), record, first).encode()
        if first:
            text = renderer.HEAD.encode() + text
        if mark & LAST:
            text += renderer.TAIL.encode()
        start = int(at[1])
        if start + len(text) > len(self._out):
            self._grow(start, 2 * len(self._out) + len(text))
        self._out[start : start + len(text)] = np.frombuffer(text, np.uint8)
        at[0] += U64(1)
        at[1] += U64(len(text))

    def _grow(self, used: int, size: int) -> None:
        larger = np.empty(size, np.uint8)
        larger[:used] = self._out[:used]
        self._out = larger
