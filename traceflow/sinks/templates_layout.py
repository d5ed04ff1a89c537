"""The text of a template: the renderers of `dictdump` write a record whose values are Slots.

So what stands around a value, and what a value of its type looks like, comes from the renderer itself. Where a Slot
stands, an ordinary value of that type is rendered, and found again in the text.
"""

from __future__ import annotations

import binascii
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.sinks import templates_fill as fills
from traceflow.sinks.dictdump_json import JSONRenderer
from traceflow.sinks.dictdump_plist import PLISTRenderer
from traceflow.sinks.dictdump_render import Renderer
from traceflow.sinks.dictdump_tree import TreeRenderer
from traceflow.sinks.templates_learn import Slot

__all__ = ["Texts", "operations", "outline"]

_NUMBER, _TEXT, _OCTETS = 7777777777777777, "~~~~~~~~", b"~~~~~~~~"
_MARK = re.compile("\0([0-9]+)\0")  # no renderer writes a NUL
_BEHIND = 16  # octets that a value may be stored behind its end, and more
_LONGEST = {fills.FIELD: 20, fills.COLUMN: 20, fills.EPOCH: 30, fills.MAC: 18, fills.IP4: 16, fills.IP6: 40}


class Texts:
    """All pieces of text of a run's templates, each kept once."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._places: dict[bytes, int] = {}

    def place(self, text: bytes) -> int:
        """Where a text begins."""
        found = self._places.get(text)
        if found is None:
            found = self._places[text] = len(self._octets)
            self._octets += text
        return found

    def array(self) -> npt.NDArray[np.uint8]:
        """All of them: uint8[t]."""
        return np.frombuffer(bytes(self._octets), np.uint8)


def _mark(ops: list[tuple[int, ...]], *op: int) -> str:
    """Note an operation (its columns from `code` on); a mark that stands for what it writes."""
    ops.append(op)
    return f"\0{len(ops) - 1}\0"


def _drawn(renderer: Any, value: Any, depth: int) -> str:
    """What a renderer writes for a value here, taken out of its text again."""
    before = len(renderer.out)
    renderer._value(value, depth)
    text = "".join(renderer.out[before:])
    del renderer.out[before:]
    return text


class _Slotted(Renderer):
    """What the three renderers with Slots share."""

    __slots__ = ()
    ops: list[tuple[int, ...]]
    texts: Texts

    def _foreign(self, value: Any, depth: int) -> bool:
        assert type(value) is Slot
        if value.kind is bytes:
            text = self._octets_marked(value, depth)
        elif value.kind is bool:
            text = self._truth_marked(value, depth)
        else:
            sample = _NUMBER if value.kind is int else _TEXT
            mark = _mark(self.ops, value.code, value.a, value.b, value.c, value.mask)
            text = _drawn(self, sample, depth).replace(str(sample), mark)
        self.out.append(text)
        return False

    def _truth_marked(self, value: Slot, depth: int) -> str:
        no, yes = (_drawn(self, truth, depth).encode() for truth in (False, True))
        place = self.texts.place(no.ljust(16, b"\0") + yes)
        return _mark(self.ops, fills.BIT, value.a, place, len(no) << 16 | len(yes), value.mask)

    def _octets_marked(self, value: Slot, depth: int) -> str:
        raise NotImplementedError


class _JSON(_Slotted, JSONRenderer):
    __slots__ = ("ops", "texts")

    def _octets_marked(self, value: Slot, depth: int) -> str:
        text = _mark(self.ops, fills.JSON, 0, value.b, value.c, 0)
        digits = _mark(self.ops, fills.HEX, 0, value.b, value.c, 0)
        return _drawn(self, _OCTETS, depth).replace(_OCTETS.decode(), text).replace(_OCTETS.hex(), digits)


class _PLIST(_Slotted, PLISTRenderer):
    __slots__ = ("ops", "texts")

    def _octets_marked(self, value: Slot, depth: int) -> str:
        mark = _mark(self.ops, fills.BASE64, 0, value.b, value.c, 0)
        return _drawn(self, _OCTETS, depth).replace(binascii.b2a_base64(_OCTETS, newline=False).decode(), mark)


class _Tree(_Slotted, TreeRenderer):
    __slots__ = ("ops", "texts")

    def _octets_marked(self, value: Slot, depth: int) -> str:
        line = " ".join(["7e"] * 16)
        none, one = _drawn(self, b"", depth), _drawn(self, b"~", depth).removesuffix("7e")
        several, between, rest = _drawn(self, b"~" * 32, depth).split(line)
        assert rest == ""
        assert len(between) <= 64, "see _PER_OCTET"
        texts = [text.encode() for text in (none, one, several, between)]
        sizes = sum(len(text) << 16 * at for at, text in enumerate(texts))
        return _mark(self.ops, fills.TREE, self.texts.place(b"".join(texts)), value.b, value.c, sizes)


_RENDERERS: dict[type[Renderer], Any] = {JSONRenderer: _JSON, PLISTRenderer: _PLIST, TreeRenderer: _Tree}


def _block(renderer: type[Renderer], texts: Texts, record: dict[str, Any], first: bool) -> tuple[str, list[Any]]:
    drawing = _RENDERERS[renderer]()
    drawing.ops, drawing.texts = [], texts
    text = drawing.block(f"Frame {_NUMBER}", record, first)
    mark = _mark(drawing.ops, fills.COLUMN, fills.NUMBER, 0, 0, 0)
    return text.replace(str(_NUMBER), mark, 1), drawing.ops  # the name of the block comes first


def outline(renderer: type[Renderer], texts: Texts) -> npt.NDArray[np.void]:
    """OP rows of what stands before, between and behind the blocks of a document.

    Args:
        renderer: Of the format.
        texts: Gets the texts.

    Returns:
        OP[3].
    """
    first, later = (_block(renderer, texts, {}, first)[0] for first in (True, False))
    assert later.endswith(first)
    pieces = [renderer.HEAD, later.removesuffix(first), renderer.TAIL]
    ops = np.zeros(3, fills.OP)
    for op, piece in zip(ops, pieces, strict=True):
        op["text"], op["size"] = texts.place(piece.encode()), len(piece.encode())
    return ops


def operations(renderer: type[Renderer], texts: Texts, record: dict[str, Any]) -> tuple[npt.NDArray[np.void], int]:
    """OP rows of a shape.

    Args:
        renderer: Of the format.
        texts: Gets the texts.
        record: What `learn` found.

    Returns:
        OP[k], and how many octets they write at most, apart from those of the frame.
    """
    text, drawn = _block(renderer, texts, record, True)
    parts = _MARK.split(text)
    ops = np.zeros(len(parts) // 2 + 1, fills.OP)
    most = 256  # head, what stands between blocks, tail
    for at, op in enumerate(ops):
        piece = parts[2 * at].encode()
        op["text"], op["size"] = texts.place(piece), len(piece)
        if 2 * at + 1 < len(parts):
            code, op["a"], op["b"], op["c"], op["mask"] = drawn[int(parts[2 * at + 1])]
            op["code"] = code
            most += _LONGEST.get(code, 192) + _BEHIND
        most += len(piece)
    return ops, most
