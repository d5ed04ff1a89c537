r"""The layout of text trees: `name -> value` behind `|--` branches, as dictdumper writes it.

Text is wrapped at 40 characters, octets at 16. A character that would break the line or steer the terminal
(control characters, line separators, marks of writing direction) is written as its Python escape, such as `\n`
or `\x1b`; a lone surrogate becomes U+FFFD.
"""

from __future__ import annotations

import datetime
import re
import textwrap
from typing import Any, ClassVar

from traceflow.sinks.dictdump_plain import Octets, joined_surrogates
from traceflow.sinks.dictdump_render import Renderer, distinct, iso_text

__all__ = ["TreeRenderer"]

_WIDTH = 40  # characters of text on a line, dictdumper's figure
_OCTETS = 16  # octets on a line, dictdumper's figure; three characters each
_BRANCH, _SPACES = "  |   ", "      "

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""C0 and C1 controls, line and paragraph separators, marks of direction, surrogates, the byte order mark."""

_WRAPPER = textwrap.TextWrapper(width=_WIDTH)


def _clean(text: str) -> str:
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), joined_surrogates(text))


class TreeRenderer(Renderer):
    """One block to a text tree."""

    HEAD: ClassVar[str] = ""
    TAIL: ClassVar[str] = ""
    __slots__ = ("_margin",)

    @staticmethod
    def clean(text: str) -> str:
        """Text on one line."""
        return _clean(text)

    def _block(self, name: str, content: dict[Any, Any], first: bool) -> None:
        self._margin = "\n"
        self.out.append(name if first else f"\n{name}")
        self._branch(content, 0)
        self.out.append("\n")

    def _value(self, value: Any, depth: int) -> bool:
        kind = type(value)
        if kind is str:
            return self._string(value)
        if kind is bytes:
            return self._octets(value)
        if kind is dict:
            return self._branch(value, depth + 1)
        if kind is list:
            return self._array(value, depth + 1)
        if kind is bool or kind is int or kind is float:
            self.out.append(f"-> {_number(value)}")
        elif value is None:
            self.out.append("-> NIL")
        else:
            return self._foreign(value, depth)
        return False

    def _branch(self, mapping: dict[Any, Any], depth: int) -> bool:
        """Write the members of a mapping, each on lines of its own."""
        if not self._enter(mapping, depth):
            return self._refuse(mapping, depth)
        out, margin = self.out, self._margin
        if not mapping:
            out.append(" -> NIL")
        elif any(type(key) is not str or _UNSAFE.search(key) for key in mapping):
            members = distinct(mapping, _clean)
        else:
            members = mapping
        left = len(mapping)
        for key, value in members.items() if mapping else ():
            left -= 1
            kind = type(value)
            if kind is int or kind is bool:
                out.append(f"{margin}  |-- {key} -> {_number(value)}")
                continue
            out.append(f"{margin}  |-- {key} ")
            self._margin = margin + (_BRANCH if left else _SPACES)
            self._value(value, depth)
        self._margin = margin
        self._path.discard(id(mapping))
        return True

    def _array(self, items: list[Any], depth: int) -> bool:
        """Write the items of a list; a mapping or long value gets `-> --` before its lines."""
        if not self._enter(items, depth):
            return self._refuse(items, depth)
        out, margin = self.out, self._margin
        if not items:
            out.append(" -> NIL")
        left = len(items)
        for item in items:
            left -= 1
            slot = len(out)
            out.append(f"{margin}  |-")
            self._margin = margin + (_BRANCH if left else "")
            if self._value(item, depth):
                out[slot] += "-> --"
        self._margin = margin
        self._path.discard(id(items))
        return False

    def _string(self, text: str) -> bool:
        if not text:
            self.out.append(" -> NIL")
            return False
        text = _clean(text)
        if len(text) <= _WIDTH:
            self.out.append(f"-> {text}")
            return False
        self._lines(_WRAPPER.wrap(text) or [text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH)])
        return True

    def _octets(self, octets: bytes) -> bool:
        if not octets:
            self.out.append(" -> NIL")
            return False
        text = octets.hex(" ")
        if len(octets) <= _OCTETS:
            self.out.append(f"-> {text}")
            return False
        step = 3 * _OCTETS
        self._lines([text[at : at + step - 1] for at in range(0, len(text), step)])
        return True

    def _lines(self, lines: list[str]) -> None:
        """Write a value of several lines under its name."""
        between = f"{self._margin}       "
        self.out.append(f"{self._margin}  |--> {between.join(lines)}")

    def _special(self, value: Any, depth: int) -> bool | None:
        if isinstance(value, Octets):
            text = value.octets.decode(errors="replace")
            return self._branch({"type": value.type, "value": value.octets, "text": text}, depth + 1)
        if isinstance(value, (datetime.date, datetime.time)):
            return self._string(iso_text(value))
        if isinstance(value, complex):
            return self._string(_spelled(str(value)))
        return None


def _number(value: float) -> str:
    """Digits; `0x...` for an integer of more digits than Python writes (4300 by default)."""
    try:
        text = repr(value)
    except ValueError:
        return hex(value)  # type: ignore[arg-type] # only an integer is refused
    return text if type(value) is not float else _spelled(text)


def _spelled(real: str) -> str:
    """`nan` and `inf` as dictdumper spells them."""
    return real.replace("nan", "NaN").replace("inf", "Infinity")
