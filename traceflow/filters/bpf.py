"""Expressions of pcap-filter(7), `tcp port 443`: compiled by libpcap, run by `machine.py` on captured octets.

Rules:

- an expression is compiled for each link type when the first frame of it comes, as `tcpdump -r` compiles it: without
  what only a live capture knows (`inbound`);
- an expression that is wrong for every link type is an error at once; one that is wrong for some is an error for
  their frames, which do not go on: nobody can say whether they should;
- where libpcap finds that no frame of a link type can ever match (`arp`, on raw IP) that is an answer, not an error;
- only octets count that were captured, and that `truncate` left.

Some link headers begin with a number in the byte order of the machine that captured (link types 0 and 109). libpcap
takes the byte order of the file for it; here each frame shows which one it is, since a file may have been written anew
on another machine: the number is below 65536, so either its first or its last two octets are zeros.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from traceflow.errors import UsageError
from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.machine import Machine, ProgramError
from traceflow.libpcap import PROGRAM, SNAPLEN, ExpressionError, compile_expression
from traceflow.packets import Batch

__all__ = ["BPF", "Expression"]

_ETHERNET: Final = 1
_HOST_ORDER: Final = (0, 109)
"""BSD loopback and OpenBSD's encapsulated IP: the address family is in the order of the capturing machine."""

_PROBES: Final = (
    *(101, 113, 105, 127, 0, 9, 8),  # raw IP, Linux cooked, 802.11, radiotap, BSD loopback, PPP, SLIP
    *(6, 10, 7, 100, 123, 140, 117),  # token ring, FDDI, ARCNET, ATM, SunATM, MTP2, PF's log
    *(
        137,
        276,
        226,
        166,
        99,
        107,
        219,
    ),  # Juniper, Linux cooked 2, IPNET, PPP with direction, Symantec, ...
)
"""Link types of which each has words of its own in expressions: one that none of them knows is wrong."""

_MATCHES_NOTHING: Final = "rejects all packets"
_WRONG_EVERYWHERE: Final = ("unknown ", "syntax error", "can't parse")
"""In libpcap's words where the link type has nothing to do with it; hosts are not looked up once more then."""

_NOTHING: Final = np.array([(0x06, 0, 0, 0)], PROGRAM)
"""A program that lets no frame through."""


class Expression:
    """An expression, with its program for each link type that has come. One thread at a time.

    Args:
        text: The expression; empty: every frame.

    Attributes:
        text: As given.
        failures: Why frames of some link types could not be judged, by link type, in the order in which they came.
        judged: Frames that were judged so far.
        unjudged: Frames that could not be.

    Raises:
        UsageError: It is wrong whatever the link type; libpcap's words are in the message.
        LibraryMissingError: There is no libpcap.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.failures: dict[int, UsageError] = {}
        self.judged = self.unjudged = 0
        self._programs: dict[tuple[int, str], npt.NDArray[np.void] | UsageError] = {}
        self._machines: dict[tuple[int, str], Machine] = {}
        self._check()

    def _check(self) -> None:
        """Find out whether it is right for any link type.

        Raises:
            UsageError: It is not.
        """
        first = self._compiled(_ETHERNET)
        if not isinstance(first, ExpressionError):
            if isinstance(first, UsageError):
                raise first
            self._programs[_ETHERNET, "little"] = first
            return
        if not first.words.startswith(_WRONG_EVERYWHERE) and any(
            not isinstance(self._compiled(link), UsageError) for link in _PROBES
        ):
            return
        raise UsageError(f"the filter {self.text!r} is wrong: {first.words}; see pcap-filter(7)")

    def _compiled(self, link: int, order: str = "little") -> npt.NDArray[np.void] | UsageError:
        try:
            return compile_expression(self.text, link, SNAPLEN, order=order)
        except UsageError as error:
            return error

    def program(self, link: int, order: str = "little") -> npt.NDArray[np.void]:
        """The program for frames of a link type.

        Args:
            link: Link type (LINKTYPE_ number).
            order: `little` or `big`: byte order of the machine that captured; counts for link types 0 and 109.

        Returns:
            PROGRAM[k].

        Raises:
            ExpressionError: It cannot be compiled for this link type.
        """
        if (link, order) not in self._programs:
            made = self._compiled(link, order)
            nothing = isinstance(made, ExpressionError) and made.words.endswith(_MATCHES_NOTHING)
            self._programs[link, order] = _NOTHING if nothing else made
        found = self._programs[link, order]
        if isinstance(found, UsageError):
            raise found
        return found

    def keep(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Which frames of a batch it lets through.

        Args:
            batch: The frames.

        Returns:
            bool[m].
        """
        return self.select(batch, np.arange(len(batch.frames), dtype=np.uint32))

    def select(
        self, batch: Batch, indexes: npt.NDArray[np.uint32], limits: npt.NDArray[np.uint32] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which of some frames of a batch it lets through.

        Args:
            batch: The frames.
            indexes: uint32[k].
            limits: uint32[k], octets of each that may be looked at; None: all that were captured.

        Returns:
            bool[k].
        """
        keep = np.zeros(len(indexes), np.bool_)
        links = batch.frames["link"][indexes]
        whole = not len(links) or bool((links == links[0]).all())
        for link in links[:1].tolist() if whole else list(dict.fromkeys(links.tolist())):
            places: Any = slice(None) if whole else np.flatnonzero(links == link)
            part = None if limits is None else limits[places]
            keep[places] = self._judge(batch, link, indexes[places], part)
        return keep

    def _judge(
        self, batch: Batch, link: int, indexes: npt.NDArray[np.uint32], limits: npt.NDArray[np.uint32] | None
    ) -> npt.NDArray[np.bool_]:
        """Which frames of one link type are let through: bool[k]."""
        try:
            if link not in _HOST_ORDER:
                keep = self._machine(link, "little").run(batch.octets, batch.frames, indexes, limits)
            else:
                keep = np.zeros(len(indexes), np.bool_)
                big = _is_big(batch, indexes)
                for order, chosen in (("little", ~big), ("big", big)):
                    if not chosen.any():
                        continue
                    part = None if limits is None else limits[chosen]
                    keep[chosen] = self._machine(link, order).run(batch.octets, batch.frames, indexes[chosen], part)
        except UsageError as error:
            self.failures.setdefault(link, error)
            self.unjudged += len(indexes)
            return np.zeros(len(indexes), np.bool_)
        self.judged += len(indexes)
        return keep

    def _machine(self, link: int, order: str) -> Machine:
        """The machine with the program for a link type.

        Raises:
            UsageError: There is no such program, or none that can be run.
        """
        machine = self._machines.get((link, order))
        if machine is None:
            program = self.program(link, order)
            try:
                machine = Machine(program)
            except ProgramError as error:
                raise UsageError(
                    f"the filter {self.text!r}, compiled for frames of link type {link}, cannot be run: {error}; "
                    "use a shorter or simpler expression"
                ) from None
            self._machines[link, order] = machine
        return machine


def _is_big(batch: Batch, indexes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Which frames begin with a number below 65536 that is written most significant octet first."""
    frames = batch.frames[indexes]
    long = frames["captured"] >= 4
    start = np.where(long, frames["start"], 0).astype(np.intp)
    if not len(batch.octets):
        return np.zeros(len(indexes), np.bool_)
    big: npt.NDArray[np.bool_] = long & (batch.octets[start] == 0)
    big[big] &= batch.octets[start[big] + 1] == 0
    return big


class _Runner:
    """The BPF filter of a graph at work."""

    def __init__(self, call: Call) -> None:
        self._expression = Expression(call.parameter)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets that go on.

        Raises:
            UsageError: The first packet that came is of a link type for which the expression cannot be compiled. Later
                ones do not go on, and are counted.
        """
        expression = self._expression
        before = expression.judged + expression.unjudged
        keep = expression.select(seen.batch, given.indexes, given.limit)
        first = int(seen.batch.frames["link"][given.indexes[0]])
        if before == 0 and first in expression.failures:
            raise expression.failures[first]
        if keep.all():
            return given
        return Selection(given.indexes[keep], None if given.limit is None else given.limit[keep])

    def counters(self) -> dict[str, int]:
        """Packets of link types for which the expression could not be compiled, where there are any."""
        return {"unjudged": self._expression.unjudged} if self._expression.unjudged else {}


def _canonical(parameter: str) -> str:
    """An expression with single blanks.

    Raises:
        ParameterError: It is wrong, or missing.
    """
    text = " ".join(parameter.split())
    if not text:
        raise ParameterError("it needs an expression, as tcpdump takes it: tcp port 80")
    try:
        Expression(text)
    except UsageError as error:
        raise ParameterError(str(error)) from None
    return text


BPF: Final = Kind(
    name="BPF",
    summary="What an expression of pcap-filter(7) lets through, as tcpdump does.",
    form="EXPRESSION",
    canonical=_canonical,
    make=_Runner,
    predicate=True,
)
"""The kind of filter."""
