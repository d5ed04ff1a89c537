"""The room `delivery`: functions are called in order, by one thread at a time, and what cannot be said is counted."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from grabbing import PATIENCE_S, Lab, batches_of, grabber_of, monitor_of

from traceflow import Monitor
from traceflow.filters.contract import Selection
from traceflow.grabbing.buffers import Ring
from traceflow.grabbing.delivery import FLOWS_WAITING_MAX, Delivery, Pace, PacketCalls
from traceflow.grabbing.flowspec import PacketCallback
from traceflow.packets import FRAME, PACKET, Batch


class Times:
    """A reader of packets that come at given times, in milliseconds."""

    def __init__(self, packets: int = 1000) -> None:
        self.ring = Ring(1000, packets)
        self.ring.devices.append("lab")
        self.stream = self.ring.stream()
        self.reader = self.ring.reader(self.stream)
        self.reader.activate()
        self.next = 1

    def store(self, *times_ms: int) -> None:
        frames = np.zeros(len(times_ms), FRAME)
        frames["time_ns"] = np.array(times_ms) * 1_000_000
        batch = Batch(np.zeros(1, np.uint8), frames, self.next, self.next)
        indexes = np.arange(len(frames), dtype=np.uint32)
        self.ring.store(batch, np.zeros(len(frames), PACKET), [(self.stream, Selection(indexes))])
        self.next += len(frames)

    def calls(self, packets: int, per_second: int | None = None, lifetime: int | None = None) -> PacketCalls:
        return PacketCalls(PacketCallback(packets, print, lifetime), self.reader, Pace(per_second))


def said(calls: PacketCalls, *, at_end: bool = False) -> list[list[int]]:
    found = []
    while (packets := calls.next(at_end=at_end)) is not None:
        found.append(packets.numbers.tolist())
    return found


def test_calls_are_due_in_full_and_at_the_end() -> None:
    times = Times()
    calls = times.calls(2)
    times.store(0, 1, 2)
    assert calls.is_due(at_end=False)
    assert said(calls) == [[1, 2]]
    assert not calls.is_due(at_end=False)
    assert calls.is_due(at_end=True)
    assert said(calls, at_end=True) == [[3]]
    assert not calls.is_due(at_end=True)


def test_held_calls_come_with_the_first_that_is_late_enough() -> None:
    """Two packets a call, ten calls a second: 1, 2 at 1 ms; 3, 4 at 50 ms are held; 5, 6 at 101 ms are late enough."""
    times = Times()
    calls = times.calls(2, per_second=10)
    times.store(0, 1, 40, 50)
    assert said(calls) == [[1, 2]]
    assert (calls.held, calls.is_due(at_end=False)) == (1, False)
    times.store(100, 101)
    assert said(calls) == [[3, 4, 5, 6]]
    times.store(110, 120, 130)
    assert said(calls) == []
    assert said(calls, at_end=True) == [[7, 8, 9]]
    assert (calls.held, calls.calls) == (2, 3)


def test_packets_of_held_calls_may_be_overwritten() -> None:
    """A ring of three. 2 and 3 are held behind 1; 4 to 6 take their places, and are held as well; 7 is late enough."""
    times = Times(3)
    calls = times.calls(1, per_second=1)
    times.store(0, 1, 2)
    assert said(calls) == [[1]]
    times.store(3, 4, 5)
    assert said(calls) == []
    times.store(2000)
    assert said(calls) == [[5, 6, 7]]
    assert times.reader.lost == 3


def test_a_lifetime_is_a_number_of_calls() -> None:
    times = Times()
    calls = times.calls(1, lifetime=2)
    times.store(0, 1, 2)
    assert said(calls, at_end=True) == [[1], [2]]
    assert calls.over
    assert not calls.is_due(at_end=True)


def test_who_comes_while_a_callback_runs_leaves_the_rest_to_it() -> None:
    order: list[str] = []
    times = Times()
    delivery = Delivery("a test", threading.Condition(), lambda: True, lambda: False, lambda one: None)

    def again(packets: Any) -> None:
        order.append(f"begin {packets[0].number}")
        delivery.run()
        order.append("end")

    delivery.packets.append(PacketCalls(PacketCallback(1, again), times.reader, Pace(None)))
    times.store(0, 1)
    delivery.run()
    assert order == ["begin 1", "end", "begin 2", "end"]
    assert delivery.idle


def test_what_is_no_exception_goes_through_and_leaves_the_rest_for_later() -> None:
    calls: list[int] = []
    times = Times()
    delivery = Delivery("a test", threading.Condition(), lambda: True, lambda: False, lambda one: None)

    def interrupted(packets: Any) -> None:
        calls.append(packets[0].number)
        if calls == [1]:
            raise KeyboardInterrupt

    delivery.packets.append(PacketCalls(PacketCallback(1, interrupted), times.reader, Pace(None)))
    times.store(0, 1)
    with pytest.raises(KeyboardInterrupt):
        delivery.run()
    delivery.run()
    assert calls == [1, 2]


def test_flows_that_nobody_takes_are_counted_in_the_end() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor, "(ip,4)", tracer={"on_flow_end": print})
    assert grabber.tracer is not None
    grabber.tracer.ended.extend([None] * (FLOWS_WAITING_MAX + 3))  # type: ignore[list-item] # only their number counts
    grabber.delivery.limit_waiting()
    assert (len(grabber.tracer.ended), grabber.delivery.flows_missed) == (FLOWS_WAITING_MAX, 3)


def test_flows_are_said_on_the_thread_of_the_grabber() -> None:
    lab = Lab()
    found: list[tuple[int, str]] = []
    monitor = Monitor({"eth0": lab})
    told = {"on_flow_end": lambda flow: found.append((flow.packets, threading.current_thread().name))}
    grabber_of(monitor, "(ip,4)", tracer=told).activate()
    monitor.start()
    lab.put(*batches_of("T01"), None)
    assert monitor.join(PATIENCE_S)
    monitor.close()
    assert found == [(10, "callbacks of <Grabber (device,eth0) -> (ip,4)>")]


def test_three_calls_a_second_are_not_four() -> None:
    """A third of a second is 333 333 333.3 ns: rounded down, the fourth call would come 999 999 999 ns behind the
    first."""
    pace = Pace(3)
    assert [pace.allows(third * 333_333_333) for third in range(4)] == [True, False, True, False]


def test_a_callback_that_ends_its_thread_is_called_on_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """sys.exit in a callback, which a thread would die of; nobody else calls behind it."""
    lab = Lab()
    seen: list[int] = []
    said: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda given: said.append(given.exc_type))

    def leave(packets: Any) -> None:
        seen.append(packets[0].number)
        raise SystemExit

    monitor = Monitor({"eth0": lab})
    grabber_of(monitor, "(ip,4)", (5, leave)).activate()
    monitor.start()
    lab.put(*batches_of("T01"), None)
    assert monitor.join(20)
    monitor.close()
    assert (seen, said) == ([1, 6], [SystemExit] * 2)


def test_flows_of_a_closed_grabber_are_waited_for() -> None:
    lab, go_on = Lab(), threading.Event()
    found: list[int] = []

    def slow(flow: Any) -> None:
        assert go_on.wait(PATIENCE_S)
        found.append(flow.packets)

    monitor = Monitor({"eth0": lab})
    grabber_of(monitor, "(ip,4)", tracer={"on_flow_end": slow}).activate()
    monitor.start()
    lab.put(*batches_of("T01"), None)
    with monitor.condition:
        assert monitor.condition.wait_for(lambda: monitor.frames == 10, PATIENCE_S)
    monitor.close()
    assert not monitor.join(0)
    go_on.set()
    assert monitor.join(PATIENCE_S)
    assert found == [10]


def test_a_callback_may_wait_for_the_end_but_not_for_itself() -> None:
    monitor = monitor_of("T01")
    answers: list[bool] = []
    grabber_of(monitor, "(ip,4)", (10, lambda packets: answers.append(monitor.join(20)))).activate()
    monitor.start()
    assert monitor.join(PATIENCE_S)
    monitor.close()
    assert answers == [True]
