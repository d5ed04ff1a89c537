"""The layout of property lists: a `dict` of blocks in Apple's XML form, as dictdumper writes it.

Text and keys are escaped. What XML 1.0 cannot hold, even escaped (most control characters, U+FFFE, U+FFFF, lone
surrogates), becomes U+FFFD: there is no way to keep it. A carriage return is written as `&#13;`, since a parser
makes a line feed of a bare one. What a property list has no element for is kept in dictdumper's form:

- None: `{"type": "NoneType", "value": "None"}`;
- a date with a fraction of a second or an offset: `{"type": "datetime", "value": <date>, "isoformat": text}`, the
  `<date>` in UTC and cut to the second (a date without an offset is taken as UTC);
- a time of day, an integer beyond 64 bits (signed or unsigned, as plistlib has it), a complex number:
  `{"type": ..., "value": text}`.
"""

from __future__ import annotations

import binascii
import datetime
import re
from typing import Any, ClassVar

from traceflow.sinks.dictdump_plain import Octets, joined_surrogates, made
from traceflow.sinks.dictdump_render import KEYS_KEPT, Renderer, distinct, iso_text

__all__ = ["PLISTRenderer"]

_HEADS: dict[int, dict[str, str]] = {}
"""For each depth: key -> its line, and the tabs of the value's line."""

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""What XML 1.0, section 2.2, leaves out; surrogates are dealt with before."""
_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", joined_surrogates(text))


def _text(value: str) -> str:
    if _SPECIAL.search(value) is None:
        return value
    value = _clean(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return value.replace("\r", "&#13;")


class PLISTRenderer(Renderer):
    """One block to the XML form of a property list."""

    HEAD: ClassVar[str] = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
        '<plist version="1.0">\n'
        "<dict>\n"
    )
    TAIL: ClassVar[str] = "</dict>\n</plist>\n"
    __slots__ = ()

    @staticmethod
    def clean(text: str) -> str:
        """Text of characters that XML 1.0 can hold."""
        return _clean(text)

    def _block(self, name: str, content: dict[Any, Any], first: bool) -> None:
        self.out.append(_head(name, 1))
        self._dict(content, 2)

    def _value(self, value: Any, depth: int) -> bool:
        kind = type(value)
        if kind is dict:
            self._dict(value, depth + 1)
        elif kind is list:
            self._array(value, depth + 1)
        elif kind is bytes:
            self.out.append(f"<data>{binascii.b2a_base64(value, newline=False).decode()}</data>\n")
        elif kind is str:
            self.out.append(f"<string>{_text(value)}</string>\n")
        elif kind is int:
            self._integer(value, depth)
        elif kind is bool:
            self.out.append("<true/>\n" if value else "<false/>\n")
        elif value is None:
            self._dict(made(value, "None"), depth + 1)
        elif kind is float:
            self.out.append(f"<real>{value!r}</real>\n")
        else:
            self._foreign(value, depth)
        return False

    def _dict(self, mapping: dict[Any, Any], depth: int) -> None:
        """Write a `dict` whose keys are `depth` tabs deep."""
        if not self._enter(mapping, depth):
            self._refuse(mapping, depth)
            return
        out = self.out
        known = _HEADS.get(depth) or _HEADS.setdefault(depth, {})
        out.append("<dict>\n")
        members = mapping
        try:
            heads = [known[key] for key in mapping]
        except KeyError:
            heads, members = _learned(mapping, depth, known)
        for head, value in zip(heads, members.values(), strict=True):
            kind = type(value)
            if kind is int and 0 <= value <= _LARGEST:
                out.append(f"{head}<integer>{value}</integer>\n")
            elif kind is str:
                out.append(f"{head}<string>{_text(value)}</string>\n")
            elif kind is bool:
                out.append(head + ("<true/>\n" if value else "<false/>\n"))
            else:
                out.append(head)
                self._value(value, depth)
        out.append("\t" * (depth - 1) + "</dict>\n")
        self._path.discard(id(mapping))

    def _array(self, items: list[Any], depth: int) -> None:
        """Write an `array` whose items are `depth` tabs deep."""
        if not self._enter(items, depth):
            self._refuse(items, depth)
            return
        tabs = "\t" * depth
        self.out.append("<array>\n")
        for item in items:
            self.out.append(tabs)
            self._value(item, depth)
        self.out.append(tabs[1:] + "</array>\n")
        self._path.discard(id(items))

    def _integer(self, value: int, depth: int) -> None:
        if _SMALLEST <= value <= _LARGEST:
            self.out.append(f"<integer>{value}</integer>\n")
            return
        try:
            digits = repr(value)
        except ValueError:  # more than 4300 digits, which Python refuses
            digits = hex(value)
        self._dict(made(value, digits), depth + 1)

    def _special(self, value: Any, depth: int) -> bool | None:
        if isinstance(value, Octets):
            self._dict({"type": value.type, "value": value.octets}, depth + 1)
        elif isinstance(value, datetime.date):
            self._date(value, depth)
        elif isinstance(value, (datetime.time, complex)):
            text = iso_text(value) if isinstance(value, datetime.time) else str(value)
            self._dict(made(value, text), depth + 1)
        else:
            return None
        return False

    def _date(self, value: datetime.date, depth: int) -> None:
        """Write a date of whole seconds in UTC; what that leaves out is added as ISO text."""
        whole, exact = _whole_seconds(value)
        if whole is None:
            self._dict(made(value, iso_text(value)), depth + 1)
        elif exact:
            self.out.append(f"<date>{whole}</date>\n")
        else:
            tabs = "\n" + "\t" * (depth + 1)
            self.out.append(
                f"<dict>{tabs}<key>type</key>{tabs}<string>{_text(type(value).__name__)}</string>"
                f"{tabs}<key>value</key>{tabs}<date>{whole}</date>"
                f"{tabs}<key>isoformat</key>{tabs}<string>{_text(iso_text(value))}</string>{tabs[:-1]}</dict>\n"
            )


def _whole_seconds(value: datetime.date) -> tuple[str | None, bool]:
    """Text of a `<date>`, and whether it says all; None where the date has no place in UTC."""
    try:
        if not isinstance(value, datetime.datetime):
            return f"{value.year:04}-{value.month:02}-{value.day:02}T00:00:00Z", True
        offset = value.utcoffset()
        utc = value if offset is None else value.replace(tzinfo=None) - offset
        exact = not value.microsecond and not offset and not getattr(value, "nanosecond", 0)
        return (
            f"{utc.year:04}-{utc.month:02}-{utc.day:02}T{utc.hour:02}:{utc.minute:02}:{utc.second:02}Z",
            exact,
        )
    except Exception:  # noqa: BLE001 - years 1 and 9999 with an offset, or subclasses such as a missing time
        return None, False


def _learned(mapping: dict[Any, Any], depth: int, known: dict[str, str]) -> tuple[list[str], dict[Any, Any]]:
    """What stands before each member of a mapping with new keys, and the mapping itself.

    Keys that are clean text are kept in `known`; a mapping that has others gets distinct ones.
    """
    if any(type(key) is not str or _clean(key) != key for key in mapping):
        mapping = distinct(mapping, _clean)
    elif len(mapping) <= KEYS_KEPT:
        if len(known) + len(mapping) > KEYS_KEPT:
            known.clear()
        known.update((key, _head(key, depth)) for key in mapping)
    return [_head(key, depth) for key in mapping], mapping


def _head(key: str, depth: int) -> str:
    tabs = "\t" * depth
    return f"{tabs}<key>{_text(key)}</key>\n{tabs}"
