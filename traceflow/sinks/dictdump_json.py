"""The layout of JSON documents: an object of blocks, indented by tabs, as dictdumper writes it.

ASCII only, so that the octets are the same in every encoding; strict RFC 8259, so that every parser loads it:
keys and text are escaped, pairs of surrogates stand for characters beyond U+FFFF, a lone surrogate becomes
U+FFFD, and a real that is no number becomes `{"type": "float", "value": null, "number": "NaN"}`, as dictdumper
has it. Integers are written in full (up to 4300 digits, Python's limit; beyond it as hexadecimal text).
"""

from __future__ import annotations

import datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, ClassVar

from traceflow.sinks.dictdump_plain import Octets, joined_surrogates, made
from traceflow.sinks.dictdump_render import KEYS_KEPT, Renderer, distinct, iso_text

__all__ = ["JSONRenderer"]

_HEADS: dict[int, dict[str, str]] = {}
"""For each depth: key -> comma, line break, tabs, quoted key, colon."""


def _text(value: str) -> str:
    return quoted(value if value.isascii() else joined_surrogates(value))


def _integer(value: int) -> str:
    """The digits; as text in hexadecimal where Python refuses to write or read so many (4300 by default)."""
    try:
        return repr(value)
    except ValueError:
        return quoted(hex(value))


class JSONRenderer(Renderer):
    """One block to JSON."""

    HEAD: ClassVar[str] = "{\n"
    TAIL: ClassVar[str] = "\n}"
    __slots__ = ()

    @staticmethod
    def clean(text: str) -> str:
        """Text without lone surrogates."""
        return joined_surrogates(text)

    def _block(self, name: str, content: dict[Any, Any], first: bool) -> None:
        self.out.append(f"{'' if first else f',{chr(10)}'}\t{quoted(name)}: ")
        self._object(content, 2)

    def _value(self, value: Any, depth: int) -> bool:
        kind = type(value)
        if kind is dict:
            return self._object(value, depth + 1)
        if kind is list:
            return self._array(value, depth + 1)
        if kind is bytes:
            return self._octets("bytes", value, depth + 1)
        if kind is str:
            self.out.append(_text(value))
        elif kind is int:
            self.out.append(_integer(value))
        elif kind is bool:
            self.out.append("true" if value else "false")
        elif value is None:
            self.out.append("null")
        elif kind is float:
            if value - value != 0.0:  # an infinity, or not a number
                return self._object(made(value, None, number=_spelled(repr(value))), depth + 1)
            self.out.append(repr(value))
        else:
            return self._foreign(value, depth)
        return False

    def _object(self, mapping: dict[Any, Any], depth: int) -> bool:
        """Write an object whose members are `depth` tabs deep."""
        if not self._enter(mapping, depth):
            return self._refuse(mapping, depth)
        out = self.out
        known = _HEADS.get(depth) or _HEADS.setdefault(depth, {})
        start = len(out)
        out.append("{")
        members = mapping
        try:
            heads = [known[key] for key in mapping]
        except KeyError:
            heads, members = _learned(mapping, depth, known)
        for head, value in zip(heads, members.values(), strict=True):
            kind = type(value)
            if kind is int:
                out.append(head + _integer(value))
            elif kind is str:
                out.append(head + _text(value))
            elif kind is bool:
                out.append(head + ("true" if value else "false"))
            else:
                out.append(head)
                self._value(value, depth)
        if heads:
            out[start + 1] = out[start + 1][1:]
        out.append("\n" + "\t" * (depth - 1) + "}")
        self._path.discard(id(mapping))
        return True

    def _array(self, items: list[Any], depth: int) -> bool:
        """Write an array: on one line, or a line for each item where one of them is an object."""
        if not self._enter(items, depth):
            return self._refuse(items, depth)
        out = self.out
        lines = False
        slots = []
        for item in items:
            slots.append(len(out))
            out.append("")
            if self._value(item, depth):
                lines = True
        between = f",\n{chr(9) * depth}" if lines else ", "
        for slot in slots:
            out[slot] = between
        if slots:
            out[slots[0]] = f"[\n{chr(9) * depth}" if lines else "[ "
            out.append(f"\n{chr(9) * (depth - 1)}]" if lines else " ]")
        else:
            out.append("[  ]")
        self._path.discard(id(items))
        return False

    def _octets(self, kind: str, octets: bytes, depth: int) -> bool:
        """Write octets as an object: type, the octets as UTF-8 where they are that, and in hexadecimal."""
        line = "\n" + "\t" * depth
        self.out.append(
            f'{{{line}"type": "{kind}",{line}"value": {quoted(octets.decode(errors="replace"))},'
            f'{line}"hex": "{octets.hex()}"{line[:-1]}}}'
        )
        return True

    def _special(self, value: Any, depth: int) -> bool | None:
        if isinstance(value, Octets):
            return self._octets(value.type, value.octets, depth + 1)
        if isinstance(value, (datetime.date, datetime.time)):
            self.out.append(_text(iso_text(value)))
            return False
        if isinstance(value, complex):
            return self._object(made(value, str(value)), depth + 1)
        return None


def _learned(mapping: dict[Any, Any], depth: int, known: dict[str, str]) -> tuple[list[str], dict[Any, Any]]:
    """What stands before each member of a mapping with new keys, and the mapping itself.

    Keys that are clean text are kept in `known`; a mapping that has others gets distinct ones.
    """
    if any(type(key) is not str or joined_surrogates(key) != key for key in mapping):
        mapping = distinct(mapping, joined_surrogates)
    elif len(mapping) <= KEYS_KEPT:
        if len(known) + len(mapping) > KEYS_KEPT:
            known.clear()
        known.update((key, _head(key, depth)) for key in mapping)
    return [_head(key, depth) for key in mapping], mapping


def _head(key: str, depth: int) -> str:
    return f",\n{chr(9) * depth}{quoted(key)}: "


def _spelled(real: str) -> str:
    """`nan` and `inf` as JavaScript and XML Schema spell them."""
    return real.replace("nan", "NaN").replace("inf", "Infinity")
