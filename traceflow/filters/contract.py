"""What a kind of filter gives, and what it is given: indexes in, indexes out.

A filter never sees a packet by itself, and copies none: a batch lies in memory once, and every filter passes on which
of its packets it lets through. What a filter remembers from batch to batch is in its Runner; a Runner is made for each
node of the graphs that run together, and nodes that are equal have one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from traceflow.filters.graph import Call
from traceflow.packets import Batch

__all__ = ["FLOW_FACTS", "Derived", "Kind", "ParameterError", "Runner", "Seen", "Selection"]

FLOW_FACTS = np.dtype(
    [
        ("flow", "u8"),  # number of the flow of the packet, 0 where it has none
        ("packets", "u8"),  # frames of the flow so far, this one included
        ("first_ns", "i8"),  # time stamp of the first frame of the flow
        ("state", "u1"),  # TcpState of the sender of the packet, right after it
        ("from_responder", "u1"),  # whether the responder sent it, as far as is known now
    ],
    align=True,
)
"""What the flow table says of a packet right after it came."""


Derived = Callable[[Callable[[Any], Any]], Any]
"""What follows from columns: given a getter of these, it answers an array."""


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Some packets of a batch.

    Attributes:
        indexes: uint32[k], ascending, each once.
        limit: uint32[k], octets of each that may still be looked at (`truncate`); None: all that were captured.
    """

    indexes: npt.NDArray[np.uint32]
    limit: npt.NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.indexes)


class Seen:
    """A batch and what is known of it. Valid until the next one; copy what must outlive it.

    Attributes:
        batch: The frames and their octets.
        packets: PACKET[m].
        device: Name of the device it comes from.
    """

    __slots__ = ("_facts", "_facts_of", "_known", "batch", "device", "packets")

    def __init__(
        self,
        batch: Batch,
        packets: npt.NDArray[np.void],
        device: str = "",
        facts_of: Callable[[], npt.NDArray[np.void]] | None = None,
    ) -> None:
        self.batch, self.packets, self.device = batch, packets, device
        self._facts_of = facts_of
        self._facts: npt.NDArray[np.void] | None = None
        self._known: dict[tuple[Any, int], tuple[Any, Any]] = {}

    def column(self, what: str | Derived, indexes: npt.NDArray[np.uint32]) -> Any:
        """A column of some packets, or what follows from columns: made once for all filters that are given the same.

        A hundred filters behind one node look at the same few columns; taken from the rows each time, that alone costs
        100 times 30 microseconds a batch.

        Args:
            what: Name of a column of PACKET, or a function that is given a getter of these and answers an array [k].
            indexes: uint32[k], `Selection.indexes`, which must not change.

        Returns:
            The array [k], which cannot be written to.
        """
        key = what, id(indexes)
        found = self._known.get(key)
        if found is None:
            if callable(what):
                made = what(lambda name: self.column(name, indexes))
            else:
                column = self.packets[what]
                made = np.ascontiguousarray(column if len(indexes) == len(column) else column[indexes])
            made.flags.writeable = False  # others are shown the same
            found = self._known[key] = made, indexes  # held, so that nothing else can have its id
        return found[0]

    @property
    def facts(self) -> npt.NDArray[np.void]:
        """FLOW_FACTS[m] of all packets of the batch."""
        if self._facts is None:
            if self._facts_of is None:
                raise RuntimeError("no flow table follows this batch; the graph should have said that it needs one")
            self._facts = self._facts_of()
        return self._facts


class Runner(Protocol):
    """A filter at work."""

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets that go on.

        Args:
            seen: The batch.
            given: Those that came here, at least one.

        Returns:
            Some of them, in their order; `given` itself where all go on.

        Raises:
            TraceflowError: It cannot go on at all; the graphs it stands in are closed with that reason.
        """

    def counters(self) -> dict[str, int]:
        """What it has counted so far, by name (`packets`, `octets`, ...); empty where it counts nothing.

        Those that are no sums, such as a rate, are named by an attribute `gauges`, which other Runners need not have.
        """


class ParameterError(ValueError):
    """A parameter that a kind of filter cannot take.

    Attributes:
        at: Place in the parameter, from 0; None: the memory is wrong.
    """

    def __init__(self, message: str, at: int | None = 0) -> None:
        super().__init__(message)
        self.at = at


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of filter.

    Attributes:
        name: Its name in texts and policies.
        summary: One line for lists.
        form: What its parameter looks like, for messages: `N [by flow]`; empty where it takes none.
        canonical: Brings a parameter into its one form. Raises ParameterError.
        make: Makes the Runner of a call whose parameter is in that form.
        check: Looks at a call as a whole, where parameter and memory must fit each other. Raises ParameterError.
        predicate: Whether it only looks at one packet, so that `~` and `&` make sense.
        memory: Sizes of its memory that may be given, in octets; empty: none.
        needs_flows: Whether it reads `Seen.facts`; of some kinds the parameter decides.
    """

    name: str
    summary: str
    form: str
    canonical: Callable[[str], str]
    make: Callable[[Call], Any]
    predicate: bool = False
    memory: tuple[int, ...] = ()
    needs_flows: bool | Callable[[Call], bool] = False
    check: Callable[[Call], None] | None = None
