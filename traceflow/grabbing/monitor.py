"""A Monitor: devices, and the graphs of all grabbers that run over them.

`step` handles one batch of one device: each node that an active grabber needs runs once, then packets go to the ring,
to tracers, and, behind the batch, to callbacks. Captures are read one after the other in the order of the devices;
interfaces in turn, beside the capture whose turn it is. A capture that no active grabber needs stands still; an
interface cannot, and is read for nobody where a thread runs the monitor.

Locks, always taken in this order:

1. `_turn`: who reads from the devices. Held while a source is waited for, and while a batch is handled.
2. `condition`: everything else. Held while a batch goes through filters, buffer and tracers (a filter or sink of a user
   is part of that), and for looks at what is there; never while anybody waits, and never while a callback runs.

So closing, pausing and reading from another thread wait for the batch in hand at most. A callback holds no lock: it may
call anything, `step` too. A filter or sink may do all but step.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any

import numpy as np

from traceflow.decode import decode_batch
from traceflow.errors import NotAllowedError, StateError, TraceflowError, UsageError
from traceflow.filters.contract import Seen, Selection
from traceflow.filters.graph import Node
from traceflow.grabbing.buffers import MODES, Ring, Stream
from traceflow.grabbing.flowspec import FlowSpec
from traceflow.grabbing.following import FlowFollower
from traceflow.grabbing.grabber import Grabber, GrabberState, seconds, tracer_failed
from traceflow.grabbing.inlets import Device, Devices, Source
from traceflow.grabbing.sharing import Counts, Plan, SharedNodes, plans_of
from traceflow.options import options_for
from traceflow.packets import PACKET, Batch

__all__ = ["Monitor"]


class Monitor:
    """Runs the graphs of grabbers. A context manager, which closes it at the end.

    Args:
        sources: Paths of captures, sources that are open, names of interfaces, or a mapping that gives each a name.
            None: whatever a graph names.
        policy: Asked before a graph is made to run, see `policy.Policy`; None: all may run.
        user: Who runs it, for the policy.
        profile: The rules for flows that filters ask for, see `options.PROFILES`.
        mode: `overwrite` (new packets take the place of the oldest, and readers count what they lost) or `drop` (what
            an active reader has not read stays, and new ones are dropped and counted).
        buffer_octets: Octets of packets that are kept.
        buffer_packets: Packets that are kept.
        open_interface: Opens an interface by its name; None: `sources.live.open_live`.

    Attributes:
        condition: The lock; it is notified when anything changes.
        ring: The buffer.
        running: Whether a thread runs it.
        frames: Frames read so far.
        errors: What went wrong besides the devices.

    Raises:
        UsageError: An unknown profile, a buffer that cannot be, sources that are none, or a policy that is none.
    """

    def __init__(
        self,
        sources: Any = None,
        *,
        policy: Any = None,
        user: str | None = None,
        profile: str = "default",
        mode: str = MODES[0],
        buffer_octets: int = 1 << 26,
        buffer_packets: int = 1 << 16,
        open_interface: Callable[[str], Source] | None = None,
    ) -> None:
        if policy is not None and not callable(getattr(policy, "check", None)):
            raise UsageError(f"policy is {policy!r}; it must be a Policy, such as Policy.read(path) gives")
        options = options_for(profile)
        self.condition = threading.Condition(threading.RLock())
        self.ring = Ring(buffer_octets, buffer_packets, mode)
        self.running = False
        self.frames = 0
        self.errors: list[TraceflowError] = []
        self._devices = Devices(sources, open_interface)
        self._policy, self._user, self._profile = policy, user, profile
        self._outer = options.outer
        self._nodes = SharedNodes()
        self._grabbers: list[Grabber] = []
        self._streams: dict[Hashable, Stream] = {}
        self._followers: dict[str, FlowFollower] = {}
        self._plans: dict[str, Plan] = {}
        self._stale = self._closed = self._stopping = False
        self._callers: list[Grabber] = []  # those with anybody to call: the others cost nothing behind a batch
        self._parting: list[Grabber] = []  # closed, with callbacks that may be due
        self._last: Device | None = None
        self._turn = threading.Lock()
        self._stepper: int | None = None  # the thread that has the turn
        self._thread: threading.Thread | None = None
        self._rows, self._everything = np.zeros(0, PACKET), np.zeros(0, np.uint32)

    # --- grabbers ------------------------------------------------------------------------------------------------

    def instantiate(self, spec: FlowSpec) -> Grabber:
        """Have a definition authorised, its filters made, and connected to those that other grabbers have already.

        Args:
            spec: The definition. Changing it later changes nothing of the grabber.

        Raises:
            NotAllowedError: The policy rejects it; `verdict` says why.
            UsageError: It is not populated, or names a device that is none.
            TraceflowError: A capture or an interface cannot be opened.
        """
        if not isinstance(spec, FlowSpec):
            raise UsageError(f"a FlowSpec is instantiated, not {spec!r}; see FlowSpec().populate(graph)")
        # a plain copy: what is checked is what runs, whatever becomes of the definition, and whatever overrides parts
        spec = FlowSpec.on(spec, self._devices.connected(spec.graph))
        verdict = None if self._policy is None else self._policy.check(spec, user=self._user)
        if verdict is not None and not verdict:
            raise NotAllowedError(verdict)
        with self.condition:
            if self._closed:
                raise StateError("a monitor that is closed runs nothing; make another one")
            devices = self._devices.open(spec.graph)
            self.ring.devices[:] = [device.name for device in sorted(self._devices.opened, key=lambda one: one.number)]
            self._nodes.take(spec.graph)
            try:
                grabber = Grabber(self, spec, devices, Counts(spec.graph, self._nodes), verdict)
                stream = self._streams.get(grabber.outlet, self.ring.stream())
                grabber.connect(stream)
                self._streams[grabber.outlet] = stream
            except BaseException:
                self._nodes.give_back(spec.graph)
                raise
            self._grabbers.append(grabber)
            if all(device.ended for device in devices):
                grabber.end()
            return grabber

    @property
    def grabbers(self) -> tuple[Grabber, ...]:
        """Those that are not closed, in the order in which they were instantiated."""
        with self.condition:
            return tuple(self._grabbers)

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, in the order in which captures are read."""
        return self._devices.names

    @property
    def nodes(self) -> int:
        """Distinct nodes of all grabbers that are not closed: each is there once, however many graphs have it."""
        with self.condition:
            return len(self._nodes)

    def changed(self) -> None:
        """Plan anew before the next batch. For grabbers."""
        self._stale = True
        self._callers = [one for one in self._grabbers if one.delivery.packets or one.tracer is not None]
        if self.running:
            for grabber in self._callers:
                grabber.delivery.start(functools.partial(self._goes_on, grabber))
        self.condition.notify_all()

    def _goes_on(self, grabber: Grabber) -> bool:
        """Whether a thread for the callbacks of a grabber is still of use."""
        return self.running and grabber.state is not GrabberState.CLOSED

    def dismiss(self, grabber: Grabber) -> None:
        """Give back the nodes of a grabber that closes. For grabbers."""
        self._nodes.give_back(grabber.graph)
        self._grabbers.remove(grabber)
        self._part(grabber)
        if not any(other.outlet == grabber.outlet for other in self._grabbers):
            del self._streams[grabber.outlet]

    def _part(self, *closed: Grabber) -> None:
        """Remember closed grabbers for as long as any of their callbacks is due."""
        self._parting = [one for one in (*self._parting, *closed) if not one.delivery.idle]

    # --- one batch -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Handle one batch of one device.

        Returns:
            False where there is none: all that active grabbers need was read.

        Raises:
            StateError: A thread runs it, or it is closed.
            UsageError: A filter, sink or plugin called it.
        """
        if self._closed:
            raise StateError("a monitor that is closed is not stepped; make another one")
        return self._step_if_stopped()

    def _step_if_stopped(self) -> bool:
        if self.running:
            raise StateError("a monitor that runs in a thread is not stepped; stop it first")
        return self.pull()

    @property
    def inside(self) -> bool:
        """Whether this thread is handling a batch. For grabbers."""
        return self._stepper == threading.get_ident()

    def pull(self) -> bool:
        """As `step`. For grabbers, which look at `running` themselves."""
        if self.inside:
            raise UsageError("a filter, sink or plugin cannot step the monitor that runs it; a callback can")
        stepped = self._step()
        with self.condition:
            self._part()
            grabbers = [*self._parting, *(one for one in self._callers if not one.delivery.idle)]
        for grabber in grabbers:
            if not grabber.delivery.threaded:
                grabber.delivery.run()
        return stepped

    def _step(self) -> bool:
        with self._turn:
            self._stepper = threading.get_ident()
            try:
                with self.condition:
                    device = None if self._closed else self._next_device()  # closed meanwhile: by a callback, say
                if device is None:
                    return False
                batch = device.next()
                with self.condition:
                    self._take(device, batch)
                    self.condition.notify_all()
                return True
            finally:
                self._stepper = None

    def _next_device(self) -> Device | None:
        """Whose batch is next: interfaces in turn, and the first capture that is not over."""
        self._plan()
        left = [device for device in self._devices.opened if not device.ended]
        needed = [device for device in left if device.name in self._plans]
        if not needed and not self.running:
            return None
        live = [device for device in left if device.live]
        several = [*[device for device in needed if not device.live][:1], *live]
        if not several:
            return None
        at = several.index(self._last) + 1 if self._last in several else 0
        self._last = several[at % len(several)]
        return self._last

    def _plan(self) -> None:
        """Plan what runs, where the active grabbers are others than before."""
        if self._stale:
            active = [one for one in self._grabbers if one.state is GrabberState.ACTIVE]
            self._plans, self._stale = plans_of(active, self._nodes), False
            if not any(one.asks_for_flows for one in self._grabbers):
                self._followers.clear()

    def _end(self, device: Device) -> None:
        """A device gives no more: grabbers of which no other is left see the end."""
        device.ended = True
        self._followers.pop(device.name, None)
        for grabber in tuple(self._grabbers):
            if device in grabber.devices and all(one.ended for one in grabber.devices):
                grabber.end()

    def _take(self, device: Device, batch: Batch | None) -> None:
        """Handle a batch, or the end of a device; what is broken off, by Ctrl-C for one thing, is no secret."""
        try:
            if batch is None:
                self._end(device)
            else:
                self._handle(device, batch)
        except BaseException as error:
            what = "the end" if batch is None else f"a batch of {len(batch.frames)} frames"
            said = (
                f"{what} of {device.name} was broken off by {error!r}: counters, buffer and flows may lack some of it"
            )
            self.errors.append(TraceflowError(said))
            raise

    def _handle(self, device: Device, given: Batch) -> None:
        """Take a batch through filters, buffer and tracers."""
        count = len(given.frames)
        batch = Batch(given.octets, given.frames, self.frames + 1, given.first_in_file, given.quiet_ns)
        self.frames += count
        self._plan()  # grabbers may have been activated while the source was waited for
        plan = self._plans.get(device.name)
        if plan is None:
            return
        follower = self._follower(device, plan, batch)
        if not count:
            for outlet in plan.outlets:
                self._trace(outlet.users, batch, None)
            return
        if len(self._rows) < count:
            self._rows, self._everything = np.zeros(count, PACKET), np.arange(count, dtype=np.uint32)
        packets = decode_batch(batch.octets, batch.frames, self._rows, outer=self._outer)
        seen = Seen(batch, packets, device.name, None if follower is None else follower.facts)
        failed: dict[Node, TraceflowError] = {}
        found = plan.run(seen, Selection(self._everything[:count]), failed.__setitem__)
        wanted = []
        for outlet in plan.outlets:
            selection = outlet.selected(found)
            if selection is not None:
                selection = _within(selection, outlet.users[0].snaplen)
                if any(user.stores and user.state is GrabberState.ACTIVE for user in outlet.users):
                    wanted.append((outlet.users[0].stream, selection))
            self._trace(outlet.users, batch, selection)
        if wanted:
            flows = None if follower is None else follower.flows
            self.ring.store(batch, packets, wanted, flows, device.number)
        for node, error in failed.items():
            for grabber in tuple(self._grabbers):
                if node in grabber.graph.nodes:
                    grabber.fail(error)

    def _follower(self, device: Device, plan: Plan, batch: Batch) -> FlowFollower | None:
        """The flow table of a device, which has taken the batch; None where no filter asks for flows."""
        if not plan.needs_flows:
            return None
        if device.name not in self._followers:
            self._followers[device.name] = FlowFollower(self._profile)
        follower = self._followers[device.name]
        follower.step(batch)
        return follower

    def _trace(self, grabbers: list[Grabber], batch: Batch, selection: Selection | None) -> None:
        for grabber in grabbers:
            if grabber.tracer is not None:
                try:
                    grabber.tracer.take(batch, selection)
                except Exception as error:  # noqa: BLE001 - a sink must not stop the grabbers of others
                    grabber.fail(tracer_failed(error))
                grabber.delivery.limit_waiting()

    # --- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Step until all that active grabbers need was read.

        Raises:
            StateError: A thread runs it, or it is closed.
        """
        goes_on = self.step()
        while goes_on:  # closed meanwhile, it is over
            goes_on = self._step_if_stopped()

    def start(self) -> None:
        """Have a thread step it from now on, and wait for grabbers to be activated, until `stop`.

        Callbacks then run on a thread of their grabber, so that one that blocks keeps nobody from anything.

        Raises:
            StateError: A thread runs it already, or it is closed.
        """
        with self.condition:
            if self._closed or self._thread is not None:
                raise StateError(f"a monitor that {'is closed' if self._closed else 'runs already'} cannot be started")
            self._stopping, self.running = False, True
            self._thread = threading.Thread(target=self._work, name="traceflow monitor", daemon=True)
            self.changed()
            self._thread.start()

    def _work(self) -> None:
        """What the thread does."""
        try:
            while not self._stopping:
                if not self.pull():
                    with self.condition:
                        if not self._stale and not self._stopping:
                            self.condition.notify_all()  # `join` waits for this
                            self.condition.wait()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            failure = error if isinstance(error, TraceflowError) else TraceflowError(f"the monitor failed: {error!r}")
            failure.__cause__ = None if failure is error else error
            with self.condition:
                self.errors.append(failure)
                for grabber in tuple(self._grabbers):
                    grabber.fail(failure)
        finally:
            with self.condition:
                self.running, self._thread = False, None
                self.condition.notify_all()

    def stop(self, timeout: float | None = None) -> bool:
        """Have the thread stop behind the batch in hand; whoever waits for packets goes on. May be called again.

        Args:
            timeout: Seconds that are waited for it at most.

        Returns:
            Whether it has stopped. From a filter, sink or plugin it is not waited for.
        """
        timeout = seconds(timeout)
        with self.condition:
            self._stopping = True
            self.condition.notify_all()
            thread = self._thread
            if thread is threading.current_thread() or self.inside:
                return not self.running
            # this one: who starts the monitor anew meanwhile does not keep anybody here
            return self.condition.wait_for(lambda: thread is None or self._thread is not thread, timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all that active grabbers need was read, and all callbacks that were due on threads were called.

        Where the thread was stopped, or the monitor closed, what was not read is not waited for; calls are, those of
        closed grabbers too.

        Args:
            timeout: Seconds at most; None: as long as it takes. An interface has no end, and is not waited for.

        Returns:
            Whether that is so. A callback does not wait for its own grabber's callbacks.

        Raises:
            UsageError: A filter, sink or plugin called it.
        """
        if self.inside:
            raise UsageError("a filter, sink or plugin cannot wait for the monitor that runs it")
        timeout = seconds(timeout)
        with self.condition:
            return self.condition.wait_for(lambda: (not self.running or self._all_read()) and self._all_said(), timeout)

    def _all_read(self) -> bool:
        left = [device for device in self._devices.opened if not device.ended]
        return not self._stale and not any(device.name in self._plans for device in left)

    def _all_said(self) -> bool:
        deliveries = [grabber.delivery for grabber in (*self._grabbers, *self._parting)]
        return all(one.idle or one.inside or not one.threaded for one in deliveries)

    def close(self) -> None:
        """Stop, close all grabbers and what was opened here. May be called again.

        Callbacks on threads may block, and are not waited for; `join` does that. A source that waits for frames, other
        than an interface, is waited for.

        Raises:
            UsageError: A filter, sink or plugin called it.
        """
        if self.inside:
            raise UsageError("a filter, sink or plugin cannot close the monitor that runs it; a callback can")
        with self.condition:
            self._closed = self._stopping = True
            self.condition.notify_all()
            for device in self._devices.opened:
                device.stop()
        self.stop()
        for grabber in self.grabbers:
            grabber.close()
        with self._turn:
            self._devices.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Monitor of {', '.join(self.devices) or 'no devices'}, {len(self.grabbers)} grabbers>"


def _within(selection: Selection, snaplen: int | None) -> Selection:
    """A selection of which no more than the first octets may be looked at."""
    if snaplen is None:
        return selection
    least = np.uint32(min(snaplen, 2**32 - 1))
    if selection.limit is None:
        return Selection(selection.indexes, np.full(len(selection), least, np.uint32))
    return Selection(selection.indexes, np.minimum(selection.limit, least))
