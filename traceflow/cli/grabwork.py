"""A grabber of `traceflow grab` at work: its outputs, what went wrong with it, and its part of the account.

One that fails is closed and said, and its outputs are left whole; the others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from traceflow.cli.exits import PipeClosedError
from traceflow.cli.grabfile import Named
from traceflow.cli.grabsinks import PASSED, CounterSink, FlowSink, FolderSink, Output, PacketSink, columns_of, counted
from traceflow.cli.messages import counts_text, note, say_lines
from traceflow.errors import TraceflowError
from traceflow.filters.graph import Graph
from traceflow.flows import Account
from traceflow.grabbing.flowspec import FlowSpec
from traceflow.grabbing.grabber import Grabber, GrabberState
from traceflow.grabbing.monitor import Monitor
from traceflow.packets import Interface

__all__ = ["Work"]

_PACKETS_AT_ONCE = 4096


class Work:
    """A grabber and its outputs.

    Args:
        named: What the file says.
        graph: Its graph; every path begins with a device.
        interfaces: Where frames come from, as far as it is known; it grows.
        overwrite: Replace files.
        usual: Format of rows on standard output that was asked for.

    Attributes:
        named: As given.
        problems: What went wrong, a line each.
        pipe_closed: Whether the reader of its rows went away.

    Raises:
        CannotWriteError: An output cannot be made, or exists.
    """

    def __init__(
        self, named: Named, graph: Graph, interfaces: Sequence[Interface], *, overwrite: bool, usual: str | None
    ) -> None:
        self.named, self.pipe_closed = named, False
        self.problems: list[str] = []
        self._graph, self._overwrite, self._usual = graph, overwrite, usual
        self._grabber: Grabber | None = None
        self._packets: PacketSink | None = None
        self._counters: CounterSink | None = None
        self._outputs: list[Output] = []
        self._of_tracer: list[Output] = []
        self._failed = False
        if not named.active:
            return
        try:
            self._make(interfaces)
        except BaseException:
            self.close()
            raise

    def _make(self, interfaces: Sequence[Interface]) -> None:
        named = self.named
        if named.flows is not None:
            self._of_tracer.append(FlowSink(named.flows, overwrite=self._overwrite, usual=self._usual))
            self._outputs.append(self._of_tracer[-1])
        if named.files is not None:
            outer = bool(named.flows is not None and named.flows.rules.get("outer"))
            self._of_tracer.append(FolderSink(named.files, interfaces, outer=outer, overwrite=self._overwrite))
            self._outputs.append(self._of_tracer[-1])
        if named.packets is not None:
            self._packets = PacketSink(named.packets, interfaces, overwrite=self._overwrite)
            self._outputs.append(self._packets)

    def begin(self, monitor: Monitor) -> None:
        """Have the grabber made and activated, where it is to be active. What goes wrong is a problem.

        Raises:
            CannotWriteError: An output cannot be made, or exists.
        """
        if not self.named.active:
            return
        flows = self.named.flows
        try:
            grabber = monitor.instantiate(self._spec(self._of_tracer, () if flows is None else flows.plugins))
        except TraceflowError as error:
            self._fail(error)
            return
        self._grabber = grabber
        if self.named.counters is not None:
            self._counters = CounterSink(
                self.named.counters,
                columns_of(self._graph, self.named.nodes),
                grabber.counters,
                overwrite=self._overwrite,
                usual=self._usual,
            )
            self._outputs.append(self._counters)
        grabber.activate()

    def rehearse(self, monitor: Monitor) -> Callable[[], object]:
        """Have the same made of another monitor, without outputs and plugins. Returns what reads its packets."""
        with contextlib.suppress(TraceflowError):  # it is said when it begins in earnest
            if self.named.active:
                grabber = monitor.instantiate(self._spec((), ()))
                grabber.activate()
                if self._packets is not None:
                    return lambda: grabber.read(1)
        return lambda: None

    def _spec(self, sinks: Sequence[Output], plugins: Sequence[object]) -> FlowSpec:
        parameters: dict[str, object] = {"buffer": self._packets is not None}
        if self._of_tracer:
            flows = self.named.flows
            rules = {} if flows is None else {"profile": flows.profile, **flows.rules}
            parameters["tracer"] = {**rules, "plugins": plugins, "sinks": sinks, "keep": False}
        return FlowSpec().populate(counted(self._graph), (), parameters)

    # --- while it runs -------------------------------------------------------------------------------------------

    def time(self, now_ns: int) -> None:
        """Packet time is there, before the next packet is counted."""
        if self._counters is not None and self._grabber is not None and not self._failed:
            self._guarded(lambda counters, grabber: counters.time(now_ns, lambda: grabber.counters))

    def _guarded(self, act: Callable[[CounterSink, Grabber], None]) -> None:
        assert self._counters is not None
        assert self._grabber is not None
        try:
            act(self._counters, self._grabber)
        except (TraceflowError, PipeClosedError) as error:
            self._fail(error)

    def after_step(self) -> None:
        """A batch was handled."""
        grabber = self._grabber
        if grabber is None or self._failed:
            return
        if grabber.state is GrabberState.CLOSED:
            if grabber.error is not None:
                self._fail(grabber.error)
            return
        self._pump()

    def _pump(self) -> None:
        """Write the packets that are there."""
        assert self._grabber is not None
        if self._packets is None:
            return
        try:
            while len(packets := self._grabber.read(_PACKETS_AT_ONCE)):
                self._packets.write(packets)
        except TraceflowError as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Close it for a reason, which is said at once."""
        self._failed = True
        cause = error.__cause__ if isinstance(error.__cause__, PipeClosedError) else error
        if isinstance(cause, PipeClosedError):
            self.pipe_closed = True
        elif str(cause) not in self.problems:
            self.problems.append(str(cause))
            say_lines(f"grabber {self.named.name} was closed: {cause}")
        if self._grabber is not None:
            self._grabber.close()

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, errors: Sequence[BaseException], *, interrupted: bool) -> None:
        """Nothing more comes: write what is left. What goes wrong is a problem.

        Args:
            errors: What is wrong with the input.
            interrupted: Whether frames were left unread.
        """
        grabber = self._grabber
        if grabber is None:
            return
        if not self._failed:
            self.after_step()
        grabber.close()
        if not self._failed and grabber.error is not None:  # the flow table could not be emptied
            self._fail(grabber.error)
        if self._counters is not None and not self._failed:
            self._guarded(lambda counters, grabber: counters.last(grabber.counters))
        account = self.account
        if account is not None:
            account.interrupted = interrupted
        for output in self._outputs:
            try:
                output.finish(account, [*errors, *map(RuntimeError, self.problems)])
            except PipeClosedError:
                self.pipe_closed = True
            except TraceflowError as error:
                self._fail(error)
            for line in output.incomplete:
                self._incomplete(line)
        self._note_losses(grabber)

    def _note_losses(self, grabber: Grabber) -> None:
        if grabber.lost or grabber.dropped:
            self._incomplete(f"{grabber.lost + grabber.dropped} packets were not written, as the buffer had no room; "
                             "give it more in [buffer]")  # fmt: skip
        for text, counters in self.counters.items():
            if counters.get("unjudged"):
                self._incomplete(f"{text} could not judge {counters['unjudged']} packets, for their link type")

    def _incomplete(self, line: str) -> None:
        if line not in self.problems:
            self.problems.append(line)
            say_lines(f"incomplete: grabber {self.named.name}: {line}")

    def close(self) -> None:
        """Close what is open."""
        for output in self._outputs:
            with contextlib.suppress(OSError):
                output.close()

    # --- what is known of it -------------------------------------------------------------------------------------

    @property
    def ran(self) -> bool:
        """Whether it was made, and did not fail before any packet had passed."""
        return self._grabber is not None and not (self._failed and not self.passed["packets"])

    @property
    def state(self) -> str:
        """What it is doing, in a word."""
        if not self.named.active:
            return "not active"
        return "closed" if self._failed else "active"

    @property
    def passed(self) -> Mapping[str, int]:
        """`packets` and `octets` that came out of its graph."""
        found = {} if self._grabber is None else self._grabber.counters.get(PASSED, {})
        return {"packets": 0, "octets": 0, **found}

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        """The counters of its nodes by their texts."""
        found = {} if self._grabber is None else self._grabber.counters
        return {text: counters for text, counters in found.items() if text != PASSED}

    @property
    def lost(self) -> int:
        """Packets for which the buffer had no room."""
        return 0 if self._grabber is None else self._grabber.lost + self._grabber.dropped

    @property
    def account(self) -> Account | None:
        """The account of its flow table; None: it has none."""
        return self._grabber.account if self._of_tracer and self._grabber is not None else None

    def say_account(self) -> None:
        """Its part of the account."""
        if self._grabber is None:
            return
        passed = self.passed
        state = "" if self.state == "active" else f" ({self.state})"
        note(f"grabber {self.named.name}{state}: packets {passed['packets']}, octets {passed['octets']}, "
             f"lost {self._grabber.lost}, dropped {self._grabber.dropped}")  # fmt: skip
        for text, counters in self.counters.items():
            note(f"  {text}: {counts_text(counters.items())}")
        account = self.account
        if account is not None:
            causes = counts_text((cause.text, count) for cause, count in account.causes.items())
            note(f"  flows {account.flows}, ended by: {causes}")
