"""Calling the functions of a grabber: behind the batch, or on a thread of their own; never with a lock held.

A Delivery knows the callbacks of one grabber. One thread at a time calls them; who comes while a callback runs, be it
the callback itself, leaves what is to be said to the one that is there. So a callback may do anything to its grabber
and its monitor. What it raises becomes a CallbackWarning.
"""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from traceflow.callbacks import CallbackWarning
from traceflow.flows import Flow
from traceflow.grabbing.buffers import Reader
from traceflow.grabbing.flowspec import PacketCallback
from traceflow.grabbing.grabbed import Packets
from traceflow.grabbing.tracing import GrabberTracer

__all__ = ["FLOWS_WAITING_MAX", "Delivery", "Pace", "PacketCalls"]

FLOWS_WAITING_MAX = 1 << 16
"""Flows that wait for `on_flow_end` at most, where a call blocks; those beyond are counted, not said."""

_SECOND_NS = 1_000_000_000

Job = Callable[[], Any]


class Pace:
    """How often the callbacks of a grabber are called, all of them together.

    So to have several of them, or a new one for each call, gains nobody anything.

    Args:
        per_second: Calls in a second of packet time at most; None: any number.
    """

    def __init__(self, per_second: int | None) -> None:
        self.limited = per_second is not None
        self._interval_ns = 0 if per_second is None else -(-_SECOND_NS // per_second)
        self._next_ns: int | None = None

    def allows(self, due_ns: int) -> bool:
        """Whether there may be a call at a time; if so, it is taken for done."""
        if not self.limited:
            return True
        if self._next_ns is not None and due_ns < self._next_ns:
            return False
        self._next_ns = due_ns + self._interval_ns
        return True


class PacketCalls:
    """The calls of one callback.

    Args:
        callback: The function, and how many packets it takes.
        reader: Where they come from.
        pace: How often it is called, with the others of its grabber.

    Attributes:
        held: Calls that were held back for the next one.
        calls: Calls so far.
    """

    def __init__(self, callback: PacketCallback, reader: Reader, pace: Pace) -> None:
        self.callback, self.reader, self.pace = callback, reader, pace
        self.held = self.calls = 0
        self._behind = 0  # packets of calls that were held back
        self._lost = 0

    @property
    def over(self) -> bool:
        """Whether its lifetime is over."""
        return self.callback.lifetime is not None and self.calls >= self.callback.lifetime

    def is_due(self, *, at_end: bool) -> bool:
        """Whether `next` has something to say, be it that a call is held back."""
        more = self.reader.waiting - (0 if at_end else self._behind)
        return not self.over and more >= (1 if at_end else self.callback.packets)

    def next(self, *, at_end: bool) -> Packets | None:
        """The packets of the next call; None: it is not due yet.

        Args:
            at_end: Whether no more packets come: the last call has what is there.
        """
        if self.over:
            return None
        size, waiting, lost = self.callback.packets, self.reader.waiting, self.reader.lost
        if lost != self._lost:  # of those that were held back, the first
            self._behind = max(0, self._behind - (lost - self._lost)) // size * size
            self._lost = lost
        while waiting >= self._behind + size:
            if self.pace.allows(self.reader.time_ns(self._behind + size - 1)):
                return self._take(self._behind + size)
            self._behind += size
            self.held += 1
        return self._take(waiting) if at_end and waiting else None

    def _take(self, count: int) -> Packets:
        self._behind = 0
        self.calls += 1
        return self.reader.take(count)


class Delivery:
    """The callbacks of one grabber.

    Args:
        name: What warnings call the grabber.
        condition: Of the monitor; its lock guards all of this but the calls themselves.
        may_call: Whether packets may be handed out now.
        at_end: Whether no more packets come.
        forget: Told of a callback whose lifetime is over.

    Attributes:
        packets: Callbacks for packets.
        flows_missed: Flows that were not said, because too many waited.
    """

    def __init__(
        self,
        name: str,
        condition: threading.Condition,
        may_call: Callable[[], bool],
        at_end: Callable[[], bool],
        forget: Callable[[PacketCalls], None],
    ) -> None:
        self.packets: list[PacketCalls] = []
        self.flows_missed = 0
        self._name, self._condition = name, condition
        self._may_call, self._at_end, self._forget = may_call, at_end, forget
        self._tracer: GrabberTracer | None = None
        self._on_flow_end: Callable[[Flow], Any] | None = None
        self._caller: int | None = None  # the thread that is calling somebody
        self._thread: threading.Thread | None = None

    def follow(self, tracer: GrabberTracer, on_flow_end: Callable[[Flow], Any]) -> None:
        """Have a function called with each flow of a tracer that ends."""
        self._tracer, self._on_flow_end = tracer, on_flow_end

    @property
    def idle(self) -> bool:
        """Whether nothing is called, and nothing waits to be."""
        return self._caller is None and not self._due()

    @property
    def inside(self) -> bool:
        """Whether this thread is in one of the callbacks."""
        return self._caller == threading.get_ident()

    def _due(self) -> bool:
        """Whether a call is due, as far as is known without taking its packets."""
        if self._tracer is not None and self._tracer.ended:
            return True
        if not self._may_call():
            return False
        at_end = self._at_end()
        return any(one.is_due(at_end=at_end) for one in self.packets)

    def limit_waiting(self) -> None:
        """Count flows beyond what may wait. For whoever adds flows."""
        if self._tracer is not None:
            while len(self._tracer.ended) > FLOWS_WAITING_MAX:
                self._tracer.ended.pop()
                self.flows_missed += 1

    def _next(self) -> Job | None:
        """The next call, with the lock held."""
        if self._tracer is not None and self._tracer.ended:
            flow, said = self._tracer.ended.popleft(), self._on_flow_end
            assert said is not None
            return lambda: self._try(said, flow, f"flow {flow.number}")
        if not self._may_call():
            return None
        for one in tuple(self.packets):
            some = one.next(at_end=self._at_end())
            if one.over:
                self._forget(one)
            if some is not None:
                if one.pace.limited and not one.over:  # next time it is the turn of the others
                    self.packets.remove(one)
                    self.packets.append(one)
                function = one.callback.function
                return lambda: self._try(function, some, f"{len(some)} packets")
        return None

    def _try(self, function: Callable[[Any], Any], given: Any, what: str) -> None:
        try:
            function(given)
        except Exception:  # noqa: BLE001 - whatever a user's function raises must not stop the grabber
            said = f"callback {function!r} of {self._name} failed on {what}:\n{traceback.format_exc()}"
            warnings.warn(said, CallbackWarning, stacklevel=3)

    def run(self) -> None:
        """Call what is due, unless somebody is at it."""
        while True:
            with self._condition:
                if self._caller is not None or (job := self._next()) is None:
                    return
                self._caller = threading.get_ident()
            self._call(job)

    def _call(self, job: Job) -> None:
        try:
            job()
        finally:
            with self._condition:
                self._caller = None
                self._condition.notify_all()

    def start(self, goes_on: Callable[[], bool]) -> None:
        """Have a thread call what is due, until `goes_on` says no and nothing is. With the lock held."""
        if self._thread is None or not self._thread.is_alive():
            name = f"callbacks of {self._name}"
            self._thread = threading.Thread(target=self._loop, args=(goes_on,), name=name, daemon=True)
            self._thread.start()

    def _loop(self, goes_on: Callable[[], bool]) -> None:
        while True:
            with self._condition:
                while self._caller is not None or (job := self._next()) is None:
                    if not goes_on() and self._caller is None:
                        self._thread = None
                        return
                    self._condition.wait()
                self._caller = threading.get_ident()
            try:
                self._call(job)
            except BaseException:  # noqa: BLE001 - sys.exit, or a warning that is an error: nobody else would call on
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own calls."""
        return self._thread is not None
