"""The answer to whether a graph may run: yes, or no with every reason, and the limits under which it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["REASONS_MAX", "Reason", "Verdict", "path_text", "printable"]

REASONS_MAX = 1000
"""Reasons that a verdict holds at most. Whoever mends these finds the rest."""

_SHOWN = 50  # reasons in the text of a verdict
_LENGTH = 160  # characters of one filter in it
_ENDS, _AROUND = 6, 3  # filters of a long path that are shown at its ends, and around the one that matters


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """One reason against a graph.

    Attributes:
        rule: `require 1 (policy.toml:9)`; `default` where no rule allows it, `graph` where no policy could.
        function: The call that breaks it; empty where it is the whole path.
        path: A path on which it does.
        needed: What would have to be otherwise.
    """

    rule: str
    function: str
    path: str
    needed: str

    def __str__(self) -> str:
        what = f"{self.function} on the path {self.path}" if self.function else f"the path {self.path}"
        return f"{self.rule}: {what if self.path else self.function}: {self.needed}"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a graph may run. True in conditions where it may.

    Attributes:
        user: Who wants to run it.
        reasons: Why not, in order of the rules; empty: it may.
        callbacks_per_second: Callbacks that may be called in a second of packet time; None: any number.
        more: Whether there are more than REASONS_MAX reasons.
    """

    user: str
    reasons: tuple[Reason, ...] = ()
    callbacks_per_second: int | None = None
    more: bool = False

    def __bool__(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        who = printable(self.user)
        if not self.reasons:
            limit = self.callbacks_per_second
            return f"accepted for user {who}{'' if limit is None else f', at most {limit} callbacks a second'}"
        lines = [f"  {number}. {reason}" for number, reason in enumerate(self.reasons[:_SHOWN], 1)]
        if len(self.reasons) > _SHOWN:
            lines.append(f"  and {len(self.reasons) - _SHOWN}{' or more' if self.more else ''} others")
        count = f"{len(self.reasons)}{' or more' if self.more else ''} reason{'s' if len(self.reasons) > 1 else ''}"
        return "\n".join([f"rejected for user {who}, {count}:", *lines])


def printable(text: str) -> str:
    """A text of others on one line, not longer than is of use."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: _LENGTH + 1])
    return clean if len(clean) <= _LENGTH else f"{clean[: _LENGTH - 3]}..."


def path_text(texts: Sequence[str], at: int) -> str:
    """A path as text. Of a long one, the ends and what is around one place.

    Args:
        texts: The filters of the path.
        at: The place that matters.
    """
    count = len(texts)
    near = range(at - _AROUND, at + _AROUND + 1)
    parts: list[str] = []
    left_out = 0
    for place, text in enumerate(texts):
        if count > 4 * _ENDS and not (place < _ENDS or place >= count - _ENDS or place in near):
            left_out += 1
            continue
        if left_out:
            parts.append(f"... {left_out} more ...")
            left_out = 0
        parts.append(printable(text))
    return " -> ".join(parts)
