"""Flows packet by packet: what is known of a flow can be read after each packet, and a callback hears of its end.

The same engine as that of `pipeline.py`, with batches of one frame: what is fed as octets is handled as in a capture,
with duplicates, fragments, checksums and quotes, and gives the same flows. Here live only the objects in the hands of a
user. Each frame goes through Python on its own; where nothing is to be read in between, `trace` is the way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import numpy as np

from traceflow.adapters import FrameRow, PacketRow, packet_of, whole_number
from traceflow.callbacks import Callbacks
from traceflow.errors import IncompleteWarning, UsageError
from traceflow.flows import Account, EndCause, EndReason, Flow, FlowSet
from traceflow.options import options_for
from traceflow.packets import TIME_MAX_NS, Batch
from traceflow.pipeline import Engine, FlowCollector, Step, plugin_set
from traceflow.plugins.contract import Plugin
from traceflow.plugins.peafowl import Direction, Statistic, statistic

__all__ = ["FlowManager", "LiveFlow", "Tracer"]

_NO_OCTETS = np.zeros(1, np.uint8)


class LiveFlow:
    """A flow that may still go on.

    Attributes:
        number: Its number, from 1, in opening order.
        data: Anything of the user's; the callback finds it here.
    """

    __slots__ = ("_flow", "_moment", "_row", "_tracer", "data", "number")

    def __init__(self, tracer: Tracer, number: int, row: int | None) -> None:
        self.number = number
        self.data: Any = None
        self._tracer: Tracer | None = tracer  # None once it has ended
        self._row = row
        self._flow: Flow | None = None
        self._moment = -1

    @property
    def ended(self) -> bool:
        """Whether it has ended; then nothing changes any more."""
        return self._tracer is None

    @property
    def end_cause(self) -> EndCause | None:
        """Why it ended; None while it lives."""
        return self.flow.end_cause if self.ended else None

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ended, as IPFIX counts it; None while it lives."""
        return self.flow.end_reason if self.ended else None

    @property
    def flow(self) -> Flow:
        """All its columns as of now: what would be known of it if the input were over.

        A view of a moment: it stays as it is while the flow goes on. Columns of plugins are there once it has ended.
        """
        if self._tracer is not None and self._moment != self._tracer.moment:
            assert self._row is not None
            self._flow, self._moment = self._tracer.look(self._row), self._tracer.moment
        assert self._flow is not None
        return self._flow

    def statistic(self, what: Statistic, direction: Direction) -> Any:
        """One of Peafowl's statistics as of now.

        Args:
            what: Which one.
            direction: Of the packets that go as the first one went (OUTBOUND), or of the others.
        """
        return statistic(self.flow.row, what, direction)

    def close(self, flow: Flow) -> None:
        """Take over what is known at the end. For the tracer; nobody else calls it."""
        self._flow, self._tracer, self._row = flow, None, None

    def __repr__(self) -> str:
        state = f"ended by {self.flow.end_cause.text}" if self.ended else "live"
        return f"<LiveFlow {self.number}: {self.flow.label}, {self.flow.packets} frames, {state}>"


class Tracer:
    """Traces what it is fed, frame by frame.

    Frames are numbered from 1 as they are fed. A flow that ends is given to the callbacks: each flow once to each, in
    the order in which they end, those that live at the end too. A callback may feed the tracer, tick or finish it; what
    ends by that is called back once the callback returns. After `finish` nothing can be fed.

    Args:
        profile: Name of a profile, see `options.PROFILES`.
        plugins: As for `trace`.
        on_flow_end: The first callback; others by the decorator `on_flow_end`.
        keep: Whether `flows` holds the flows that ended and their frame numbers, some 900 octets a flow and four a
            frame. Without, memory is bounded by the flows that live at once.
        options: Single rules to change, the attributes of `options.Options`.

    Attributes:
        moment: Counts what was fed, ticks, and the end: while it is the same, nothing has changed.

    Raises:
        UsageError: An unknown profile, option or plugin.
    """

    def __init__(
        self,
        profile: str = "default",
        plugins: Iterable[str | Plugin | type[Plugin]] = (),
        on_flow_end: Callable[[LiveFlow], Any] | None = None,
        *,
        keep: bool = True,
        **options: Any,
    ) -> None:
        self._engine = Engine(options_for(profile, **options), plugin_set(plugins))
        self._collector = FlowCollector(self._engine)
        self._keep = keep
        self._callbacks: Callbacks[LiveFlow] = Callbacks(lambda flow: f"flow {flow.number}")
        if on_flow_end is not None:
            self._callbacks.register(on_flow_end)
        self._row, self._frame = PacketRow(), FrameRow()
        self._seen = self.moment = 0
        self._open: dict[int, LiveFlow] = {}
        self._finished = self._stepping = self._broken = False

    def on_flow_end(self, function: Callable[[LiveFlow], Any]) -> Callable[[LiveFlow], Any]:
        """Have a function called with each flow that ends from now on. A decorator; returns the function."""
        self._callbacks.register(function)
        return function

    def feed(self, packet: Any) -> LiveFlow | None:
        """Trace a packet.

        Args:
            packet: See `adapters.packet_of`. Where it has `octets`, these are decoded, and of its other fields only
                time, link type and `wire` count; without, what is no field of it stays unknown, and nothing is known
                of duplicates and fragments. None, as adapters give it for frames without a flow, is passed over.

        Returns:
            Its flow; None where it belongs to none.

        Raises:
            UsageError: A field is missing or wrong, or it is too late: see `finish`.

        Warns:
            CallbackWarning: A callback raised.
        """
        if packet is None:
            return None
        taken = packet_of(packet)
        row = self._row
        row.fill(taken)
        time_ns = int(row.frames[0]["time_ns"])
        if taken.octets is not None:
            return self.feed_frame(taken.octets, time_ns, taken.protocol, taken.wire or None)
        self._refuse_late()
        self._frame.frames[0]["time_ns"] = time_ns  # what a frame without a time repeats
        self._seen += 1
        batch = Batch(_NO_OCTETS, row.frames, self._seen, self._seen)
        return self._take(lambda: self._engine.step_decoded(batch, row.packets))

    def feed_frame(
        self, octets: Any, time_ns: int | None, link: int = 1, wire: int | None = None, *, nanosecond: bool = False
    ) -> LiveFlow | None:
        """Trace the octets of a frame.

        Args:
            octets: What was captured, from the link header on: bytes or any buffer.
            time_ns: Nanoseconds since 1970; None where it has no time: it comes with the frame before it.
            link: Link type, its LINKTYPE_ number; 1 is Ethernet.
            wire: Octets it had on the wire; None: those captured.
            nanosecond: Whether the clock has nanoseconds, for the digits in labels.

        Returns:
            Its flow; None where it belongs to none (`account.verdicts` says why). A fragment that comes before the
            first one of its datagram has none then, and is counted in its flow when that comes.

        Raises:
            UsageError: A number is out of range, `octets` is no buffer, or it is too late: see `finish`.

        Warns:
            CallbackWarning: A callback raised.
        """
        self._refuse_late()
        row = self._frame
        row.fill(octets, time_ns, link, wire, nanosecond)
        self._seen += 1
        batch = Batch(row.octets, row.frames, self._seen, self._seen)
        return self._take(lambda: self._engine.step(batch))

    def tick(self, now_ns: int) -> None:
        """Let time go on without a frame, as on a quiet link: end the flows that are due.

        Args:
            now_ns: Nanoseconds since 1970; where it lies before the latest frame, nothing happens.

        Raises:
            UsageError: No whole number, or it is too late: see `finish`.

        Warns:
            CallbackWarning: A callback raised.
        """
        self._refuse_late()
        now = max(-TIME_MAX_NS, min(TIME_MAX_NS, whole_number("now_ns", now_ns)))
        self._take(lambda: self._engine.tick(now))

    def finish(self) -> None:
        """End all flows. What is fed afterwards is refused; to finish again changes nothing.

        Raises:
            UsageError: A plugin called it.

        Warns:
            CallbackWarning: A callback raised.
            IncompleteWarning: Plugins failed.
        """
        if self._finished:
            self._callbacks.deliver()  # where Ctrl-C left some
            return
        self._refuse_late()
        self._finished = True
        self._take(self._engine.end)
        failures = self._engine.plugins.failures
        if failures:
            warnings.warn("; ".join(map(str, failures)), IncompleteWarning, stacklevel=2)

    def _refuse_late(self) -> None:
        """Refuse what would change flows that are over or a step that is not.

        Raises:
            UsageError: It comes after `finish`, or from the hook of a plugin.
        """
        if self._broken:
            raise UsageError(
                "this tracer was interrupted in the middle of a frame: what it holds is not whole; make another one"
            )
        if self._finished:
            raise UsageError("this tracer is finished: its flows have ended, and nothing can be fed; make another one")
        if self._stepping:
            raise UsageError("a hook of a plugin cannot feed the tracer that calls it; a callback can")

    def _take(self, make: Callable[[], Step]) -> LiveFlow | None:
        """Make a step, take over what it brings, and call back. Returns the flow of its frame."""
        self._stepping = True
        try:
            step = make()
            answer = self._note(step)
        except BaseException:
            self._broken = True  # the table went on, and what it said is lost
            raise
        finally:
            self._stepping = False
        self._callbacks.deliver()
        return answer

    def _note(self, step: Step) -> LiveFlow | None:
        """Know the flows that opened and ended in a step. All of them are over before the first callback runs."""
        self.moment += 1
        number = int(step.marks[0]["flow"]) if len(step.marks) else 0
        if self._keep:
            self._collector.take(step)
        for one in (number, *step.late["flow"].tolist()):
            if one and one not in self._open:
                self._open[one] = LiveFlow(self, one, self._engine.table.row_of(one))
        answer = self._open.get(number)
        if len(step.ended):
            for flow in self._collector.ended(step):
                live = self._open.pop(flow.number)
                live.close(flow)
                self._callbacks.add(live)
        return answer

    def look(self, row: int) -> Flow:
        """What is known of a live flow. For LiveFlow; nobody else knows rows."""
        return FlowSet(self._engine.table.snapshot(row), self._collector.frame_map, Account())[0]

    @property
    def live(self) -> list[LiveFlow]:
        """The flows that live now, in opening order."""
        return list(self._open.values())

    @property
    def flows(self) -> FlowSet:
        """The flows that have ended so far, in opening order; after `finish` all. Empty with `keep=False`."""
        return self._collector.flows()

    @property
    def account(self) -> Account:
        """What became of every frame so far."""
        return self._engine.account()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._broken:
            self.finish()


class FlowManager(Tracer):
    """To be subclassed, as Peafowl's Python interface is: `on_termination` is called with every flow that ends, once.

    Args:
        profile: As for Tracer, but Peafowl's unless said otherwise.
        plugins: As for Tracer.
        options: As for Tracer, `keep` as well.
    """

    def __init__(
        self, profile: str = "peafowl", plugins: Iterable[str | Plugin | type[Plugin]] = (), **options: Any
    ) -> None:
        super().__init__(profile, plugins, **options)
        self._callbacks.register(self.on_termination)

    def on_termination(self, flow: LiveFlow) -> None:
        """Called with each flow that has ended. This one does nothing."""
