"""A Grabber: one graph at work, with its life cycle, its readers, callbacks, counters and flows.

    INSTANTIATED --activate--> ACTIVE <--activate/pause--> PAUSED;  any --close--> CLOSED

Everything a grabber has is guarded by the one lock of its monitor (`condition`): each method takes it for as long as it
looks, and none of them holds it while it waits, steps the monitor, or calls a function of a user.
"""

from __future__ import annotations

import enum
import math
import numbers
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from traceflow.errors import NotAllowedError, StateError, TraceflowError, UsageError
from traceflow.filters.kinds import needs_flows
from traceflow.flows import Account, FlowSet
from traceflow.grabbing.buffers import Reader, Ring, Stream
from traceflow.grabbing.delivery import Delivery, Pace, PacketCalls
from traceflow.grabbing.flowspec import FlowSpec, PacketCallback
from traceflow.grabbing.grabbed import Packet, Packets
from traceflow.grabbing.inlets import Device
from traceflow.grabbing.sharing import Counts
from traceflow.grabbing.tracing import GrabberTracer

__all__ = ["Grabber", "GrabberState", "Host", "seconds", "tracer_failed"]

_AHEAD = 256
"""Packets that iteration takes from the buffer at once: one look at the buffer costs as much as some packets."""


class GrabberState(enum.Enum):
    """What a grabber is doing."""

    INSTANTIATED = "instantiated"
    """It was authorised, its filters are made and connected; it has grabbed nothing yet."""
    ACTIVE = "active"
    PAUSED = "paused"
    CLOSED = "closed"
    """It has given up everything but its counters and flows."""


_MOVES = {
    GrabberState.ACTIVE: (GrabberState.INSTANTIATED, GrabberState.PAUSED),
    GrabberState.PAUSED: (GrabberState.ACTIVE,),
}


class Host(Protocol):
    """What a grabber needs of its monitor."""

    condition: threading.Condition
    ring: Ring
    running: bool

    @property
    def inside(self) -> bool:
        """Whether this thread is handling a batch."""

    def pull(self) -> bool:
        """Handle one batch; False where there is none."""

    def changed(self) -> None:
        """Plan anew before the next batch."""

    def dismiss(self, grabber: Grabber) -> None:
        """Give back the nodes of a grabber that closes."""


class Grabber:
    """A graph at work. Made by `Monitor.instantiate`; a context manager, which activates it, and closes it at the end.

    Attributes:
        spec: The definition.
        graph: The graph as it runs: every path begins with a device.
        error: Why it was closed, where it was not by `close`.
        verdict: What the policy said; None: there is none.
        snaplen: Octets of each packet that are handed out at most, as it was authorised; None: all.
        outlet: Equal for grabbers that are given the same packets. For the monitor.
        asks_for_flows: Whether a filter of it reads what the flow table says. For the monitor.
    """

    def __init__(self, host: Host, spec: FlowSpec, devices: Sequence[Device], counts: Counts, verdict: Any) -> None:
        self.spec, self.graph, self.verdict = spec, spec.graph, verdict
        self.error: TraceflowError | None = None
        self.asks_for_flows = any(needs_flows(node.filter) for node in self.graph.nodes)
        self.snaplen = spec.snaplen
        self.outlet: Hashable = (frozenset(self.graph.sinks), self.snaplen)
        self.tracer = None if spec.tracer is None else GrabberTracer(spec.tracer)
        self.stream: Stream | None = None
        self.delivery = Delivery(repr(self), host.condition, self._may_call, lambda: self._at_end, self._forget)
        self._host, self._devices, self._counts = host, devices, counts
        self._state = GrabberState.INSTANTIATED
        self._reader: Reader | None = None
        self._ahead: deque[Packet] = deque()
        self._at_end = False
        self._lost = self._dropped = self._held = 0
        self._per_second: int | None = getattr(verdict, "callbacks_per_second", None)
        self._pace = Pace(self._per_second or None)  # none at all is refused when a callback is added
        if self.tracer is not None and spec.tracer is not None and spec.tracer.on_flow_end is not None:
            self.delivery.follow(self.tracer, spec.tracer.on_flow_end)

    def connect(self, stream: Stream) -> None:
        """Take the stream of its packets. For the monitor, once, before anybody else knows the grabber."""
        for callback in self.spec.callbacks:
            self._refuse(callback)  # before there is anything that would have to be given back
        self.stream = stream
        if self.spec.buffered:
            self._reader = self._host.ring.reader(stream)
        for callback in self.spec.callbacks:
            self._add(callback)

    # --- life cycle ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> GrabberState:
        """What it is doing."""
        return self._state

    def activate(self) -> None:
        """Grab from now on.

        Raises:
            StateError: It is active, or closed.
        """
        with self._host.condition:
            self._move(GrabberState.ACTIVE)
            self._counts.begin()
            for reader in self._readers():
                reader.activate()
            self._host.changed()

    def pause(self) -> None:
        """Grab nothing from now on, at no cost. What was grabbed can still be read; callbacks wait for `activate`.

        Raises:
            StateError: It is not active.
        """
        with self._host.condition:
            self._move(GrabberState.PAUSED)
            self._counts.end()
            for reader in self._readers():
                reader.pause()
            self._host.changed()

    def close(self) -> None:
        """Give up everything but counters and flows: its flows end, what was not read is gone. May be called again."""
        self.fail(None)
        if not self.delivery.threaded and not self._host.inside:
            self.delivery.run()

    def fail(self, error: TraceflowError | None) -> None:
        """Close it for a reason. For the monitor, which calls the callbacks that are due then."""
        with self._host.condition:
            if self._state is GrabberState.CLOSED:
                return
            self._state, self.error = GrabberState.CLOSED, error
            self._counts.close()
            self.end()
            for one in tuple(self.delivery.packets):
                self._forget(one)
            if self._reader is not None:
                self._host.ring.forget(self._reader)
                self._lost, self._dropped = self._lost + self._reader.lost, self._dropped + self._reader.dropped
                self._reader = None
            self._ahead.clear()
            self._host.dismiss(self)
            self._host.changed()

    def _move(self, state: GrabberState) -> None:
        if self._state not in _MOVES[state]:
            possible = " or ".join(one.name for one in _MOVES[state])
            raise StateError(
                f"a grabber that is {self._state.name} cannot become {state.name}; it would have to be {possible}"
            )
        self._state = state

    def __enter__(self) -> Grabber:
        self.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what the monitor tells it -------------------------------------------------------------------------------

    @property
    def wants_packets(self) -> bool:
        """Whether anything is done with its packets besides counting. For the monitor."""
        return self.tracer is not None or self.stores

    @property
    def stores(self) -> bool:
        """Whether anybody reads its packets. For the monitor."""
        return self._reader is not None or bool(self.delivery.packets)

    @property
    def devices(self) -> Sequence[Device]:
        """Its devices. For the monitor."""
        return self._devices

    def end(self) -> None:
        """No more packets come: its flows end. For the monitor, which holds the lock."""
        self._at_end = True
        if self.tracer is not None:
            try:
                self.tracer.end()
            except Exception as error:  # noqa: BLE001 - a sink must not stop the grabbers of others
                failure = tracer_failed(error)
                self.fail(failure)
                self.error = self.error or failure  # where it was closing already
            self.delivery.limit_waiting()

    # --- packets -------------------------------------------------------------------------------------------------

    def _readers(self) -> Iterator[Reader]:
        if self._reader is not None:
            yield self._reader
        for one in self.delivery.packets:
            yield one.reader

    def __iter__(self) -> Iterator[Packet]:
        """Its packets as they come. Where no thread runs the monitor, it is stepped when there is none.

        It goes on until the input ends, the monitor is stopped, or the grabber is closed or paused and all was read.

        Raises:
            StateError: It was not activated yet, or is closed.
            UsageError: It has no buffer (parameter `buffer`).
            TraceflowError: What it was closed for, behind its last packet.
        """
        self._refuse_unread()
        return iter(self._next_packet, None)

    def _next_packet(self) -> Packet | None:
        if self._await(lambda: bool(self._ahead) or self._take_ahead()):
            with self._host.condition:
                if self._ahead:
                    return self._ahead.popleft()
        if self.error is not None:
            raise self.error
        return None

    def _take_ahead(self) -> bool:
        if self._reader is not None and self._reader.waiting:
            self._ahead.extend(self._reader.take(_AHEAD))
        return bool(self._ahead)

    @property
    def waiting(self) -> int:
        """Packets that can be read now."""
        with self._host.condition:
            return len(self._ahead) + (self._reader.waiting if self._reader is not None else 0)

    def wait(self, packets: int = 1, timeout: float | None = None) -> int:
        """Wait until some packets can be read. Where no thread runs the monitor, it is stepped meanwhile.

        Args:
            packets: How many.
            timeout: Seconds at most; None: as long as it takes.

        Returns:
            How many can be read: fewer where the time is over, or no more come.

        Raises:
            StateError: It was not activated yet, or is closed.
            UsageError: It has no buffer, or one that cannot hold so many; or the timeout is no number.
        """
        self._refuse_unread()
        if not isinstance(packets, int) or not 0 <= packets <= self._host.ring.packets:
            raise UsageError(f"cannot wait for {packets!r} packets; the buffer holds {self._host.ring.packets}")
        expired, timeout = threading.Event(), seconds(timeout)
        if timeout is not None and timeout <= 0:
            return self.waiting

        def expire() -> None:
            with self._host.condition:
                expired.set()
                self._host.condition.notify_all()

        timer = None if timeout is None else threading.Timer(timeout, expire)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            self._await(lambda: expired.is_set() or self.waiting >= packets)
        finally:
            if timer is not None:
                timer.cancel()
        return self.waiting

    def read(self, packets: int) -> Packets:
        """Packets that can be read now, as arrays; none where there are none. Not beside iteration, which reads ahead.

        Args:
            packets: How many at most.

        Raises:
            StateError: It was not activated yet, or is closed.
            UsageError: It has no buffer.
        """
        self._refuse_unread()
        with self._host.condition:
            return Packets.none() if self._reader is None else self._reader.take(packets)

    def _await(self, ready: Callable[[], bool]) -> bool:
        """Wait, or step the monitor, until something is so, asked with the lock held. False: it will never be."""
        if self._host.inside:
            raise UsageError("a filter, sink or plugin cannot wait for packets of the monitor that runs it")
        was_running = False
        while True:
            with self._host.condition:
                if ready():
                    return True
                if self._at_end or self._state is not GrabberState.ACTIVE:
                    return False
                if self._host.running:
                    was_running = True
                    self._host.condition.wait()
                    continue
                if was_running:  # it was stopped
                    return False
            if not self._host.pull():
                with self._host.condition:
                    return ready()

    def _refuse_unread(self) -> None:
        if self._state in (GrabberState.INSTANTIATED, GrabberState.CLOSED):
            raise StateError(
                f"a grabber that is {self._state.name} has nothing to read; it would have to be ACTIVE or PAUSED"
            ) from self.error
        if self._reader is None:
            raise UsageError("this grabber keeps no packets for a reader: it has callbacks or a tracer, or parameter "
                             "buffer is False; populate its FlowSpec with {'buffer': True}")  # fmt: skip

    # --- callbacks -----------------------------------------------------------------------------------------------

    def on_packets(self, packets: int, function: Callable[[Any], Any], lifetime: int | None = None) -> None:
        """Have a function called with so many packets at a time (`grabbed.Packets`); with the rest when the input ends.

        It is called behind the batch that brings the last of them, or on a thread of its own where a thread runs the
        monitor. Each function sees every packet that comes from now on. What it raises is a CallbackWarning.

        Args:
            packets: How many.
            function: The function.
            lifetime: Calls after which it is called no more; None: never.

        Raises:
            StateError: It is closed.
            NotAllowedError: The policy allows no callbacks.
            UsageError: A number out of range.
        """
        callback = PacketCallback(packets, function, lifetime)
        with self._host.condition:
            if self._state is GrabberState.CLOSED:
                raise StateError("a grabber that is CLOSED calls nobody; it would have to be INSTANTIATED, ACTIVE or "
                                 "PAUSED")  # fmt: skip
            self._refuse(callback)
            self._add(callback)
            self._host.changed()

    def _refuse(self, callback: PacketCallback) -> None:
        """Refuse a callback that may not be, or never would be called.

        Raises:
            NotAllowedError: The policy allows none.
            UsageError: The buffer cannot hold its packets.
        """
        if self._per_second == 0:
            raise NotAllowedError("callbacks are not allowed: the policy grants none in a second")
        if callback.packets > self._host.ring.packets:
            raise UsageError(f"a callback for {callback.packets} packets at a time would never be called; the buffer "
                             f"holds {self._host.ring.packets}")  # fmt: skip

    def _add(self, callback: PacketCallback) -> None:
        assert self.stream is not None
        reader = self._host.ring.reader(self.stream)
        if self._state is GrabberState.ACTIVE:
            reader.activate()
        self.delivery.packets.append(PacketCalls(callback, reader, self._pace))

    def _forget(self, one: PacketCalls) -> None:
        """Take a callback out whose lifetime is over."""
        self._host.ring.forget(one.reader)
        self._lost, self._dropped = self._lost + one.reader.lost, self._dropped + one.reader.dropped
        self._held += one.held
        self.delivery.packets.remove(one)
        self._host.changed()

    def _may_call(self) -> bool:
        return self._state is GrabberState.ACTIVE

    # --- what is known of it -------------------------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        """What each node that counts has counted while this grabber was active, by the text of the node."""
        with self._host.condition:
            return self._counts.by_text()

    @property
    def lost(self) -> int:
        """Packets that were overwritten before its readers, callbacks too, had read them."""
        with self._host.condition:
            return self._lost + sum(reader.lost for reader in self._readers())

    @property
    def dropped(self) -> int:
        """Packets for which there was no room in the buffer, once for each of its readers."""
        with self._host.condition:
            return self._dropped + sum(reader.dropped for reader in self._readers())

    @property
    def calls_held(self) -> int:
        """Calls that were held back because of the policy; their packets were in the next one."""
        with self._host.condition:
            return self._held + sum(one.held for one in self.delivery.packets)

    @property
    def errors(self) -> list[TraceflowError]:
        """Why it was closed, and what went wrong with its devices."""
        own = [] if self.error is None else [self.error]
        return [*own, *(error for device in self._devices for error in device.errors)]

    @property
    def flows(self) -> FlowSet:
        """The flows of its tracer that have ended so far; all of them when the input is over, or it is closed.

        Raises:
            UsageError: It has no tracer, or one that does not keep flows.
        """
        if self.tracer is None or self.spec.tracer is None or not self.spec.tracer.keeps:
            raise UsageError("this grabber keeps no flows; populate its FlowSpec with {'tracer': {'keep': True}}")
        with self._host.condition:
            return self.tracer.flows

    @property
    def account(self) -> Account:
        """What became of every frame that its tracer was shown.

        Raises:
            UsageError: It has no tracer.
        """
        if self.tracer is None:
            raise UsageError("this grabber has no tracer; populate its FlowSpec with {'tracer': {}}")
        with self._host.condition:
            return self.tracer.account

    def __repr__(self) -> str:
        try:
            return f"<Grabber {self.graph.text}>"
        except UsageError:  # shares too much to be written down
            return f"<Grabber of {len(self.graph.nodes)} filters>"


def tracer_failed(error: Exception) -> TraceflowError:
    """What a tracer or its sinks raised, as an error of ours."""
    if isinstance(error, TraceflowError):
        return error
    made = TraceflowError(f"the tracer of a grabber failed: {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def seconds(timeout: float | None) -> float | None:
    """A timeout, not longer than threads can wait.

    Args:
        timeout: Seconds; None: as long as it takes.

    Raises:
        UsageError: It is no number.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, numbers.Real) or math.isnan(timeout):
        raise UsageError(f"timeout is {timeout!r}; it must be a number of seconds, or None")
    return min(float(timeout), threading.TIMEOUT_MAX)
