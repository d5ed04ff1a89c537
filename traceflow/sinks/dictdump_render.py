"""What the renderers of all formats share: the walk over nested values, its bounds, and the text of keys.

A renderer turns one block (a name and a mapping) into text. It lives for one block. The subclasses write the
types of `BASIC` in the layout of their format; this class brings every other value to one of those, and keeps
hostile values in bounds: deep nesting, containers that hold themselves, keys that are not text or not distinct.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, ClassVar

from traceflow.sinks.dictdump_plain import BASIC, MAX_DEPTH, plain
from traceflow.sinks.naming import UniqueNames

__all__ = ["KEYS_KEPT", "Hook", "Renderer", "distinct", "iso_text"]

Hook = Callable[[Any], Any]
"""dictdumper's `object_hook`: is asked for a value of no basic type, returns it or what to write instead."""

KEYS_KEPT = 4096
"""Keys whose text is kept, for each format and depth. A frame record has some 150; hostile keys must not pile up."""


class Renderer:
    """One block to text.

    The methods that write a value return whether a list should give it lines of its own.

    Attributes:
        HEAD: Text before the first block of a document.
        TAIL: Text behind the last block.
        out: Pieces of the text, in order.
    """

    HEAD: ClassVar[str]
    TAIL: ClassVar[str]
    __slots__ = ("_hook", "_path", "out")

    def __init__(self, hook: Hook | None = None) -> None:
        self.out: list[str] = []
        self._path: set[int] = set()
        self._hook = hook

    def block(self, name: str, value: Any, first: bool) -> str:
        """Render a block.

        Args:
            name: Its name, already `clean` and unique in the document.
            value: Its content, a mapping; anything else is put under the key `value`.
            first: It is the first block of its document.

        Returns:
            What stands between the blocks before it and the tail of the document.
        """
        content = value
        if type(content) is not dict:
            content = plain(value if self._hook is None else self._hook(value))
            if type(content) is dict:
                self._path.add(id(value))
            else:
                content = {"value": value}
        self._block(name, content, first)
        return "".join(self.out)

    @staticmethod
    def clean(text: str) -> str:
        """Text that the format can hold, before its escapes."""
        raise NotImplementedError

    def _block(self, name: str, content: dict[Any, Any], first: bool) -> None:
        raise NotImplementedError

    def _value(self, value: Any, depth: int) -> bool:
        """Write a value whose type is basic; send others to `_foreign`."""
        raise NotImplementedError

    def _special(self, value: Any, depth: int) -> bool | None:
        """Write `Octets`, a date, a time or a complex number; None where the value is something else."""
        raise NotImplementedError

    def _foreign(self, value: Any, depth: int) -> bool:
        """Write a value of no basic type: ask the hook, then convert it, and write the outcome."""
        if not self._enter(value, depth):
            return self._refuse(value, depth)
        other = value if self._hook is None else self._hook(value)
        if other is not value and type(other) not in BASIC:
            lines = self._foreign(other, depth + 1)
        else:
            other = plain(other) if other is value else other
            special = self._special(other, depth)
            if special is None:
                special = self._value(other if type(other) in BASIC else repr(other), depth)
            lines = special
        self._path.discard(id(value))
        return lines

    def _enter(self, container: Any, depth: int) -> bool:
        """Whether a container may be written: it is not too deep and not inside itself. If so, it is noted."""
        if depth > MAX_DEPTH or id(container) in self._path:
            return False
        self._path.add(id(container))
        return True

    def _refuse(self, container: Any, depth: int) -> bool:
        """Write why a container is not written."""
        why = f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else "inside itself"
        return self._value(f"<{type(container).__name__} {why}>", depth)


def distinct(mapping: dict[Any, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """The mapping with clean, distinct text as keys, in the same order."""
    names = UniqueNames()
    return {names.unique(clean(_key_text(key))): value for key, value in mapping.items()}


def _key_text(key: Any) -> str:
    """The text of a key as dictdumper has it, `str(key)`; octets without the `b''` around them."""
    if isinstance(key, bytes):
        return key.decode(errors="backslashreplace")
    try:
        return str.__str__(str(key))
    except Exception:  # noqa: BLE001 - `__str__` of a foreign object may raise anything
        return f"<{type(key).__name__}>"


def iso_text(value: datetime.date | datetime.time) -> str:
    """ISO 8601 text of a date or time; its `repr` where a subclass cannot give one."""
    try:
        return str.__str__(value.isoformat())
    except Exception:  # noqa: BLE001 - subclasses of other packages may raise anything
        return repr(value)
