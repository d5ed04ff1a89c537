"""What a search looks for: its text form, and an automaton that finds all needles in one pass (Aho and Corasick, 1975).

The automaton is a table: a state for each beginning of a needle, and for each state and octet the next one. A state at
which a needle ends is HIT: whoever comes there is done, since one needle is enough.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from traceflow.errors import UsageError
from traceflow.filters.contract import ParameterError

__all__ = ["HIT", "NEEDLES_MAX", "OCTETS_MAX", "automaton", "needles_of", "needles_text"]

OCTETS_MAX = 4096
"""Octets of all needles together at most: the table has 512 octets for each, 2 MiB in all."""

NEEDLES_MAX = 1024
"""Needles of one search at most."""

HIT = 0xFFFF
"""The state in which a needle has been found."""

_PIECE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([|\\]))|([^\\])", re.DOTALL)


def needles_of(parameter: str) -> list[bytes]:
    r"""The needles in a parameter, each once, in order.

    Args:
        parameter: Needles with `|` between them; `\|`, `\\` and `\xHH` stand for an octet, other characters for
            their UTF-8.

    Raises:
        ParameterError: An empty needle, another escape, or too much of anything.
    """
    needles, needle, at, begun, octets = [], bytearray(), 0, 0, 0
    while at <= len(parameter):
        if at == len(parameter) or parameter[at] == "|":
            if not needle:
                raise ParameterError("a needle of no octets is found in everything; leave it out", begun)
            needles.append(bytes(needle))
            octets += len(needle)
            needle, begun = bytearray(), at + 1
            at += 1
            continue
        piece = _PIECE.match(parameter, at)
        if piece is None:
            raise ParameterError(r"behind a backslash may stand | or \ or xHH, an octet as two hexadecimal digits", at)
        hexadecimal, sign, letter = piece.groups()
        needle += bytes([int(hexadecimal, 16)]) if hexadecimal else (sign or letter).encode("utf-8", "surrogatepass")
        at = piece.end()
        if octets + len(needle) > OCTETS_MAX:
            raise ParameterError(f"the needles have more than {OCTETS_MAX} octets together", at)
    if len(needles) > NEEDLES_MAX:
        raise ParameterError(f"a search has at most {NEEDLES_MAX} needles, this one {len(needles)}")
    return sorted(set(needles))


def needles_text(needles: Iterable[bytes | str]) -> str:
    """The parameter of some needles, in the form that `needles_of` reads.

    Raises:
        UsageError: One is neither octets nor text.
    """
    parts = []
    for needle in needles:
        if not isinstance(needle, bytes | bytearray | str):
            raise UsageError(f"{needle!r} is no needle; it must be octets, or text")
        octets = needle.encode("utf-8", "surrogatepass") if isinstance(needle, str) else bytes(needle)
        parts.append("".join(_TEXTS[octet] for octet in octets))
    return "|".join(parts)


_TEXTS = [chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02x}" for octet in range(256)]
_TEXTS[ord("|")], _TEXTS[ord("\\")] = r"\|", r"\\"


def automaton(needles: Sequence[bytes]) -> npt.NDArray[np.uint16]:
    """uint16[states, 256]: the next state by state and octet, HIT where a needle ends. State 0 is the beginning.

    Args:
        needles: None of them empty, OCTETS_MAX octets in all at most.
    """
    # the trie: what is a beginning of a needle, and where it goes on; behind a needle nothing needs to be looked for
    children: list[dict[int, int]] = [{}]
    for needle in sorted(needles, key=len):
        state = 0
        for place, octet in enumerate(needle, 1):
            following = children[state].get(octet)
            if following == HIT:
                break
            if place == len(needle):
                children[state][octet] = HIT
            elif following is None:
                children[state][octet] = len(children)
                children.append({})
            state = children[state][octet]
    # Breadth first: the row of a state is that of its longest proper ending that is a beginning too, and its children.
    table = np.zeros((len(children), 256), np.uint16)
    waiting: deque[tuple[int, int]] = deque([(0, 0)])
    while waiting:
        state, ending = waiting.popleft()
        if state:
            table[state] = table[ending]
        for octet, following in children[state].items():
            before = int(table[ending, octet]) if state else 0
            # a shorter needle ends here too, although this one goes on
            table[state, octet] = HIT if before == HIT else following
            if following != HIT and before != HIT:
                waiting.append((following, before))
    return table
