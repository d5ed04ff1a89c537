r"""Text to graphs. What `Graph.text` writes comes back as an equal graph; what people write has some more freedom.

    graph    = parallel { "->" parallel }
    parallel = joined { "|" joined }
    joined   = negated { "&" negated }
    negated  = { "~" } ( filter | "(" graph ")" )
    filter   = "(" name [ "," parameter [ "," memory ] ] ")"

A parameter is bare, and holds none of `( ) , " \` and no `->`; or it stands in double quotes, with a backslash before
`"` and a backslash. Nothing here calls itself, and nodes are made where they are read, so a text costs what it is long;
text, nesting, filters and connections are capped.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from traceflow.errors import UsageError, suggest
from traceflow.filters.contract import Kind, ParameterError
from traceflow.filters.graph import DEPTH_MAX, DEVICE, EDGES_MAX, NESTING_MAX, TEXT_MAX, All, Call, Filter, Graph, Node
from traceflow.filters.kinds import KINDS, call_of, kind_of, shown

__all__ = ["GraphTextError", "parse_graph"]

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\s(),|&~\"\\]*")
_BARE = re.compile(r"(?:(?!->)[^(),\"\\])*")
_MEMORY = re.compile(r"[0-9]+")
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", '"': '"'}
_LEVELS_MAX: Final = NESTING_MAX + DEPTH_MAX


class GraphTextError(UsageError):
    """A text that is no graph. The message shows the place.

    Attributes:
        text: The text.
        at: Place of the fault, from 0.
    """

    def __init__(self, message: str, text: str, at: int) -> None:
        self.text, self.at = text, at
        where = f"\n{shown(text, at)}" if text.strip() else ""
        super().__init__(f"at character {at + 1} of the graph: {message}{where}")


@dataclasses.dataclass(slots=True)
class _Level:
    """What was read of the text, or of a group in it.

    Attributes:
        opened_at: Where its parenthesis stands.
        upstream: What stands before the filters that are read now.
        ends: Parts of the current parallel part that are complete.
        joined: Operands of the current `&`: filters, or the ends of a group.
        nots: Places of the `~` before the next operand.
        ands: Places of `&` between the operands.
        began_at: Where the first of the operands stands.
        compound: Whether `|` or `->` was read, so that it is no filter.
    """

    opened_at: int
    upstream: tuple[Node, ...]
    began_at: int = 0
    ends: dict[Node, None] = dataclasses.field(default_factory=dict)
    joined: list[Filter | tuple[Node, ...]] = dataclasses.field(default_factory=list)
    nots: list[int] = dataclasses.field(default_factory=list)
    ands: list[int] = dataclasses.field(default_factory=list)
    compound: bool = False


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.edges = text, 0, 0

    def fault(self, message: str, at: int | None = None) -> GraphTextError:
        return GraphTextError(message, self.text, self.at if at is None else at)

    def next_is(self, sign: str) -> bool:
        """Pass blanks, and the sign where it stands there."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr] # it always matches
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        return True

    def found(self) -> str:
        """What stands at the place, for messages."""
        return repr(self.text[self.at]) if self.at < len(self.text) else "the end"

    def parse(self) -> Graph:
        levels = [_Level(0, ())]
        while True:
            self._operand(levels)
            while True:
                level = levels[-1]
                if self.next_is("&"):
                    self._refuse_graph(level.joined[-1], "&", self.at - 1)
                    level.ands.append(self.at - 1)
                    break
                if self.next_is("|"):
                    self._end_joined(level)
                    level.compound = True
                    break
                if self.next_is("->"):
                    self._end_joined(level)
                    level.upstream, level.ends, level.compound = tuple(level.ends), {}, True
                    break
                if len(levels) > 1 and self.next_is(")"):
                    self._end_group(levels)
                    continue
                if self.at == len(self.text) and len(levels) == 1:
                    self._end_joined(level)
                    return self._graph(level)
                raise self._unexpected(levels)

    def _unexpected(self, levels: list[_Level]) -> GraphTextError:
        if len(levels) == 1:
            return self.fault(f"expected ->, |, & or the end, found {self.found()}")
        opened = levels[-1].opened_at + 1
        return self.fault(f"expected ->, |, & or the ) of the ( at character {opened}, found {self.found()}")

    def _graph(self, level: _Level) -> Graph:
        try:
            return Graph(level.ends)
        except UsageError as error:
            raise self.fault(str(error), 0) from None

    def _operand(self, levels: list[_Level]) -> None:
        """Read up to the next filter; groups on the way open levels."""
        while True:
            level = levels[-1]
            if self.next_is("~"):
                level.nots.append(self.at - 1)
            elif not self.next_is("("):
                raise self.fault(f"expected a filter, such as (device,eth0), or ( for a group; found {self.found()}")
            else:
                opened_at = self.at - 1
                self.next_is("")
                if self.at < len(self.text) and self.text[self.at] in "(~":
                    if len(levels) > _LEVELS_MAX:
                        raise self.fault(f"at most {_LEVELS_MAX} groups stand in each other", opened_at)
                    levels.append(_Level(opened_at, level.upstream))
                else:
                    self._take(level, self._filter(), opened_at)
                    return

    def _take(self, level: _Level, operand: Filter | tuple[Node, ...], at: int) -> None:
        """An operand has been read."""
        for place in level.nots[-1:]:
            self._refuse_graph(operand, "~", place)
        if level.ands:
            self._refuse_graph(operand, "&", level.ands[-1])
        if isinstance(operand, Filter) and len(level.nots) % 2:
            try:
                operand = ~operand
            except UsageError as error:
                raise self.fault(str(error), level.nots[-1]) from None
        level.nots.clear()
        if not level.joined:
            level.began_at = at
        level.joined.append(operand)

    def _refuse_graph(self, operand: Filter | tuple[Node, ...], sign: str, at: int) -> None:
        if not isinstance(operand, Filter):
            raise self.fault(f"{sign} is for predicates, which look at one packet; a group with -> or | is none", at)
        if not operand.predicate:
            raise self.fault(f"{sign} is for predicates, which look at one packet; {operand.text} is none", at)

    def _joined(self, level: _Level) -> Filter | tuple[Node, ...]:
        """The operands between which `&` stands, as one."""
        operands, place = level.joined, level.ands[-1] if level.ands else self.at
        level.joined, level.ands = [], []
        if len(operands) == 1:
            return operands[0]
        try:
            return All.of(operand for operand in operands if isinstance(operand, Filter))
        except UsageError as error:
            raise self.fault(str(error), place) from None

    def _end_joined(self, level: _Level) -> None:
        """A part of a parallel one is complete."""
        whole = self._joined(level)
        if not isinstance(whole, Filter):
            level.ends.update(dict.fromkeys(whole))
            return
        if level.upstream and isinstance(whole, Call) and whole.kind == DEVICE:
            raise self.fault(f"{whole.text} begins a path; nothing can be connected to it", level.began_at)
        self.edges += len(level.upstream)
        if self.edges > EDGES_MAX:
            raise self.fault(f"a graph has at most {EDGES_MAX} connections; this one has more", level.began_at)
        level.ends[Node(whole, level.upstream)] = None

    def _end_group(self, levels: list[_Level]) -> None:
        """A group is complete, and an operand of what is around it: a filter, if it holds nothing else."""
        level = levels.pop()
        if level.compound:
            self._end_joined(level)
            self._take(levels[-1], tuple(level.ends), level.opened_at)
        else:
            self._take(levels[-1], self._joined(level), level.opened_at)

    def _filter(self) -> Call:
        """A filter, behind its parenthesis."""
        name_at = self.at
        name = _NAME.match(self.text, self.at).group()  # type: ignore[union-attr] # it always matches
        if not name:
            raise self.fault(f"expected the name of a filter, found {self.found()}")
        kind = self._kind(name)
        self.at += len(name)
        parameter, places, memory, memory_at = "", [self.at], None, name_at
        if self.next_is(","):
            parameter, places = self._parameter()
            if self.next_is(","):
                self.next_is("")
                memory_at, memory = self.at, self._memory()
        if not self.next_is(")"):
            more = "" if memory is not None else ", or a comma"
            raise self.fault(f"expected the ) of ({name}{more}, found {self.found()}")
        try:
            return call_of(kind, parameter, memory)
        except ParameterError as error:
            place = memory_at if error.at is None else places[max(0, min(error.at, len(places) - 1))]
            raise self.fault(f"{kind.name}: {error}", place) from None

    def _kind(self, name: str) -> Kind:
        try:
            return kind_of(name)
        except UsageError:
            raise self.fault(suggest("filter", name[:64], KINDS)) from None

    def _memory(self) -> int:
        found = _MEMORY.match(self.text, self.at)
        if found is None:
            raise self.fault(f"expected the size of the memory in octets, found {self.found()}")
        self.at = found.end()
        return int(found.group()[:9])  # no kind has that much; int() is slow for thousands of digits

    def _parameter(self) -> tuple[str, list[int]]:
        """A parameter, and where each of its characters stands; one place more for its end."""
        if self.next_is('"'):
            return self._quoted()
        found = _BARE.match(self.text, self.at).group().rstrip()  # type: ignore[union-attr] # it always matches
        start = self.at
        for place, letter in enumerate(found, start):
            if not letter.isprintable():
                raise self.fault("a parameter with such a character stands in double quotes", place)
        self.at += len(found)
        return found, list(range(start, self.at + 1))

    def _quoted(self) -> tuple[str, list[int]]:
        opened_at = self.at - 1
        letters: list[str] = []
        places: list[int] = []
        while self.at < len(self.text):
            letter = self.text[self.at]
            places.append(self.at)
            self.at += 1
            if letter == '"':
                return "".join(letters), places
            # Other characters behind a backslash keep it, so that "\x00" of a search need not be written "\\x00".
            if letter == "\\" and (escaped := _ESCAPES.get(self.text[self.at : self.at + 1])):
                letter = escaped
                self.at += 1
            letters.append(letter)
        raise self.fault('the " that ends this parameter is missing', opened_at)


def parse_graph(text: str) -> Graph:
    """The graph that a text means.

    Args:
        text: `(device,eth0) | (device,eth1) -> (sampler,2,4) -> (BPF,"tcp port 80") -> (bytecount,,8)`.

    Raises:
        GraphTextError: It means none; the message shows the place, and what was expected there.
    """
    if not isinstance(text, str):
        raise UsageError(f"a graph in text form is text, not {type(text).__name__}")
    if len(text) > TEXT_MAX:
        raise GraphTextError(f"a graph has at most {TEXT_MAX} characters, this one {len(text)}", text, TEXT_MAX)
    return _Parser(text).parse()
