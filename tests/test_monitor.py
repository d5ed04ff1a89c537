"""The room `monitor`: what is shared runs once, what is paused runs never, devices, policy, threads, ends.

Captures are fixtures, four frames a batch unless said otherwise. T01 has 10 frames, T02 20, http.pcap 59 (tcpdump -nr).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grabbing import FIXTURES, PATIENCE_S, Lab, batches_of, counted, grabber_of, monitor_of

import traceflow
from traceflow import FlowSpec, GrabberState, Monitor, UsageError
from traceflow.errors import CannotReadError, NotAllowedError, StateError, TraceflowError, TruncatedCaptureError
from traceflow.filters.build import function, packetcount
from traceflow.filters.contract import Kind, Seen, Selection
from traceflow.filters.graph import Call, Graph
from traceflow.filters.kinds import register
from traceflow.filters.text import parse_graph
from traceflow.policy import Policy, allow, snaplen

ran: list[str] = []
"""Which runners ran, in order."""


class Noting:
    """Lets all through, and notes that it ran."""

    def __init__(self, call: Call) -> None:
        self._name = call.parameter

    def run(self, seen: Seen, given: Selection) -> Selection:
        ran.append(self._name)
        return given

    def counters(self) -> dict[str, int]:
        return {}


register(Kind("noting", "notes that it runs", "NAME", str, Noting))


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()


# --- sharing -----------------------------------------------------------------------------------------------------


def test_a_hundred_grabbers_run_what_they_share_once_a_batch() -> None:
    """100 graphs (noting,all) -> (port,N) -> (noting,N), 10 frames in three batches. Nodes: a device, (noting,all), and
    two of each of 99 distinct graphs: 80 is there twice. (noting,all) runs three times; behind it only the ports 80 and
    1000 let any packet pass."""
    monitor = monitor_of("T01")
    for port in (80, 1000, *range(2, 100)):
        grabber_of(monitor, f"(noting,all) -> (port,{port}) -> (noting,{port})", buffer=False).activate()
    assert monitor.nodes == 2 + 2 * 99
    monitor.run()
    assert (ran.count("all"), ran.count("80"), ran.count("1000")) == (3, 3, 3)
    assert len(ran) == 9


def test_equal_graphs_share_all_and_each_packet_is_stored_once() -> None:
    monitor = monitor_of("T01")
    grabbers = [grabber_of(monitor, "(port,80) -> (packetcount)") for _ in range(20)]
    for grabber in grabbers:
        grabber.activate()
    monitor.run()
    assert (monitor.nodes, monitor.ring.stored) == (3, 10)
    assert {grabber.waiting for grabber in grabbers} == {10}
    assert [packet.number for packet in grabbers[7]] == list(range(1, 11))
    assert {grabber.waiting for grabber in grabbers[8:]} == {10}


def test_what_only_paused_grabbers_need_does_not_run() -> None:
    monitor = monitor_of("T01")
    one = grabber_of(monitor, "(noting,all) -> (noting,one)", buffer=False)
    two = grabber_of(monitor, "(noting,all) -> (noting,two)", buffer=False)
    one.activate()
    two.activate()
    monitor.step()
    two.pause()
    monitor.step()
    two.activate()
    two.close()
    monitor.run()
    assert ran == ["all", "one", "two", "all", "one", "all", "one"]


def test_when_all_are_paused_a_capture_stands_still() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    assert not monitor.step()
    grabber.activate()
    assert monitor.step()
    grabber.pause()
    assert not monitor.step()
    monitor.run()
    assert monitor.frames == 4
    grabber.activate()
    monitor.run()
    assert (monitor.frames, counted(grabber)) == (10, 10)


def test_runners_are_dropped_with_the_last_grabber_that_needs_them() -> None:
    monitor = monitor_of("T01")
    one, two = grabber_of(monitor, "(port,80) -> (sampler,3)"), grabber_of(monitor, "(port,80)")
    assert monitor.nodes == 3
    one.close()
    assert monitor.nodes == 2
    two.close()
    assert (monitor.nodes, monitor.grabbers) == (0, ())


def test_closed_grabbers_with_nothing_to_say_are_not_kept() -> None:
    """Without a step between, which would look who is to be called."""
    monitor = monitor_of("T01")
    gone = [weakref.ref(grabber_of(monitor)) for _ in range(3)]
    for grabber in monitor.grabbers:
        grabber.close()
    del grabber
    gc.collect()
    assert [one() for one in gone] == [None] * 3


def test_a_grabber_that_is_closed_is_forgotten() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    with grabber:
        monitor.run()
    monitor.step()
    gone = weakref.ref(grabber)
    del grabber
    gc.collect()
    assert gone() is None


def test_batches_do_not_matter() -> None:
    found = []
    for batch_frames in (1, 5, 4096):
        monitor = monitor_of("http", batch_frames)
        grabbers = [
            grabber_of(monitor, text)
            for text in ("(port,80) -> (sampler,3)", '(flow,"packets>2") -> (bytecount)', "(port,80) | (protocol,icmp)")
        ]
        for grabber in grabbers:
            grabber.activate()
        monitor.run()
        packets = [[(packet.number, packet.octets, packet.flow) for packet in grabber] for grabber in grabbers]
        found.append((packets, [grabber.counters for grabber in grabbers]))
    assert found[0] == found[1] == found[2]


# --- devices -----------------------------------------------------------------------------------------------------


def test_captures_are_read_in_their_order_and_frames_numbered_on() -> None:
    monitor = Monitor({"b": FIXTURES / "T01.pcap", "a": FIXTURES / "T02.pcap"})
    grabber = grabber_of(monitor)
    with grabber:
        packets = list(grabber)
    assert [packet.number for packet in packets] == list(range(1, 31))
    assert [packet.device for packet in packets] == ["b"] * 10 + ["a"] * 20
    assert monitor.devices == ("b", "a")


def test_only_the_devices_of_active_graphs_are_read() -> None:
    monitor = Monitor({"b": FIXTURES / "T01.pcap", "a": FIXTURES / "T02.pcap"})
    grabber = grabber_of(monitor, "(device,a) -> (packetcount)")
    grabber.activate()
    monitor.run()
    assert (monitor.frames, counted(grabber)) == (20, 20)


def test_interfaces_take_turns_beside_a_capture() -> None:
    one, two = Lab(), Lab()
    one.put(*batches_of("T01"), None)  # 4, 4 and 2 frames
    two.put(*batches_of("T01", 10), None)
    monitor = Monitor({"one": one, "file": FIXTURES / "T02.pcap", "two": two})
    grabber = grabber_of(monitor)
    with grabber:
        packets = list(grabber)
    # the capture comes first (20 frames, one batch), then one, two; then its end, and so on
    order = [packets[0].device] + [b.device for a, b in itertools.pairwise(packets) if a.device != b.device]
    assert order == ["file", "one", "two", "one"]
    assert len(packets) == 40


def test_a_capture_is_opened_where_a_graph_names_it_and_an_unknown_device_is_suggested() -> None:
    path = FIXTURES / "T01.pcap"
    monitor = Monitor({"eth0": FIXTURES / "T02.pcap"})
    grabber = grabber_of(monitor, f'(device,"{path}") -> (packetcount)')
    with pytest.raises(UsageError, match="Did you mean eth0"):
        grabber_of(monitor, "(device,eth1) -> (packetcount)")
    with grabber:
        assert [packet.device for packet in grabber] == [str(path)] * 10
    assert monitor.nodes == 0


def test_a_capture_that_cannot_be_opened_says_so_when_a_graph_names_it(tmp_path: Path) -> None:
    """And a pipe is not opened for that, as what comes through it comes once."""
    for path in (tmp_path / "none.pcap", tmp_path):
        with pytest.raises(CannotReadError, match="cannot be opened"):
            grabber_of(Monitor(path))
    os.mkfifo(tmp_path / "pipe")
    assert grabber_of(Monitor(tmp_path / "pipe")).state is GrabberState.INSTANTIATED


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(UsageError, match=r"policy is 'p\.toml'; it must be a Policy"):
        monitor_of("T01", policy="p.toml")


def test_a_cut_capture_ends_with_its_error() -> None:
    """fixtures/T32-cut.pcap ends inside of its last record; tcpdump -nr prints 4 packets of it."""
    monitor = Monitor(FIXTURES / "T32-cut.pcap")
    grabber = grabber_of(monitor)
    with grabber:
        assert len(list(grabber)) == 4
    assert [type(error) for error in grabber.errors] == [TruncatedCaptureError]


def test_an_interface_that_nobody_needs_is_read_where_a_thread_runs() -> None:
    """It cannot wait: what comes while its grabber is paused is gone."""
    lab = Lab()
    with Monitor({"eth0": lab}) as monitor:
        grabber = grabber_of(monitor)
        grabber.activate()
        grabber.pause()
        monitor.start()
        lab.put(batches_of("T01")[0])
        with monitor.condition:
            assert monitor.condition.wait_for(lambda: monitor.frames == 4, PATIENCE_S)
        grabber.activate()
        lab.put(batches_of("T01")[1])
        assert grabber.wait(4) == 4
        assert next(iter(grabber)).number == 5


# --- policy ------------------------------------------------------------------------------------------------------


def test_the_whole_graph_is_authorised_with_the_devices_that_it_does_not_name() -> None:
    """Allowed are packetcount everywhere, and search behind a sampler only."""
    policy = Policy(allow("device"), allow("sampler"), allow("packetcount"), allow("search", after="sampler"))
    monitor = monitor_of("T01", policy=policy, user="anna")
    grabber_of(monitor, "(sampler,2) -> (search,GET)").close()
    with pytest.raises(NotAllowedError, match="anna") as caught:
        grabber_of(monitor, "(search,GET) -> (packetcount)")
    assert not caught.value.verdict
    assert "(device,eth0) -> (search,GET)" in str(caught.value)
    assert (monitor.nodes, monitor.grabbers) == (0, ())


def test_what_is_not_allowed_opens_no_capture() -> None:
    policy = Policy(allow("device", devices="eth0"), allow("packetcount", devices="eth0"))
    monitor = monitor_of("T01", policy=policy, user="anna")
    with pytest.raises(NotAllowedError):
        grabber_of(monitor, f'(device,"{FIXTURES / "T02.pcap"}") -> (packetcount)')
    assert monitor.devices == ("eth0",)


_LITTLE = Policy(allow(["device", "packetcount"]))


def test_what_is_checked_is_what_runs() -> None:
    """A graph whose `nodes` are not those before its last ones, and a definition that says something else when it is
    asked again: the search that nobody allowed does not run."""
    innocent, forbidden = parse_graph("(packetcount)"), parse_graph("(search,GET) -> (packetcount)")
    monitor = monitor_of("http", policy=_LITTLE, user="anna")
    liar = parse_graph("(device,eth0) -> (packetcount)")
    liar.nodes = (*parse_graph("(device,eth0) -> (search,GET) -> (packetcount)").nodes, liar.nodes[1])
    grabber = monitor.instantiate(FlowSpec().populate(liar))
    assert [node.filter.text for node in grabber.graph.nodes] == ["(device,eth0)", "(packetcount)"]

    class Changing(FlowSpec):
        asked = 0

        @property
        def graph(self) -> Graph:
            self.asked += 1
            return innocent if self.asked == 1 else forbidden

        def on(self, graph: Graph) -> FlowSpec:
            return self

    grabber = monitor.instantiate(Changing().populate(innocent))
    assert [node.filter.text for node in grabber.graph.nodes] == ["(device,eth0)", "(packetcount)"]


def test_what_becomes_of_a_definition_later_changes_nothing() -> None:
    monitor = monitor_of("T01", policy=Policy(allow("*"), snaplen(20)), user="anna")
    spec = FlowSpec.parse("(port,80)", (), {"snaplen": 20})
    grabber = monitor.instantiate(spec)
    grabber.activate()
    for parameters in (spec.parameters, grabber.spec.parameters):
        parameters["snaplen"] = 1000
    assert {len(packet) for packet in grabber} == {20}


# --- running -----------------------------------------------------------------------------------------------------


def test_a_thread_runs_what_is_activated_until_it_is_stopped() -> None:
    with Monitor([FIXTURES / "T01.pcap", FIXTURES / "T02.pcap"]) as monitor:
        monitor.start()
        assert monitor.join(PATIENCE_S)
        grabber = grabber_of(monitor)
        grabber.activate()
        with pytest.raises(StateError, match="stop it first"):
            monitor.step()
        with pytest.raises(StateError, match="runs already"):
            monitor.start()
        assert [packet.number for packet in grabber] == list(range(1, 31))
        assert monitor.join(PATIENCE_S)
        assert monitor.stop(PATIENCE_S)
        assert not monitor.running
        assert not monitor.step()
        monitor.start()  # once more
    assert not monitor.running


def test_who_stops_is_not_kept_by_who_starts_anew() -> None:
    """The thread is stopped, and started again before the one who stopped it hears of that."""
    monitor = monitor_of("T01")
    monitor.start()
    notify_all, started = monitor.condition.notify_all, threading.Event()

    def start_anew() -> None:
        notify_all()
        if not monitor.running and not started.is_set():
            started.set()
            monitor.start()

    monitor.condition.notify_all = start_anew  # type: ignore[method-assign]
    assert monitor.stop(20)
    assert started.is_set()
    assert monitor.running
    monitor.close()


def test_a_monitor_that_is_closed_does_nothing() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    grabber.activate()
    for _ in range(2):
        monitor.close()
    assert grabber.state is GrabberState.CLOSED
    for move in (monitor.step, monitor.start, lambda: grabber_of(monitor)):
        with pytest.raises(StateError, match="closed"):
            move()


def test_a_monitor_that_is_closed_while_it_runs_just_ends() -> None:
    """By a callback; and while the thread is between two batches, where it must not take that for a mistake."""
    monitor = monitor_of("T01")
    grabber_of(monitor, "(packetcount)", (1, lambda packets: monitor.close(), 1)).activate()
    monitor.run()
    assert monitor.frames == 4
    other = monitor_of("T01")
    grabber = grabber_of(other)
    grabber.activate()
    pull = other.pull

    def closed_before() -> bool:
        other._closed = other._stopping = True  # what `close` does first, from another thread
        return pull()

    other.pull = closed_before  # type: ignore[method-assign]
    other.start()
    with other.condition:
        assert other.condition.wait_for(lambda: not other.running, PATIENCE_S)
    assert (other.errors, grabber.error) == ([], None)
    other.close()


def steps_in_tests(frames: Any, packets: Any, octets: Any) -> Any:
    for move in moves:
        move()
    return packets["protocol"] >= 0


moves: list[Any] = []


def test_a_filter_can_do_all_but_step_wait_and_close_the_monitor() -> None:
    monitor = monitor_of("T01")
    grabber = monitor.instantiate(FlowSpec().populate(function(steps_in_tests) >> packetcount()))
    other = grabber_of(monitor)
    refused: list[str] = []

    def refuse(move: Any) -> Any:
        def tried() -> None:
            with pytest.raises(UsageError) as caught:
                move()
            refused.append(str(caught.value)[:25])

        return tried

    wrong = [monitor.step, monitor.close, monitor.join, lambda: other.wait(1)]
    moves[:] = [*map(refuse, wrong), monitor.stop, other.pause, other.activate]
    other.activate()
    grabber.activate()
    monitor.step()
    moves.clear()
    assert refused == ["a filter, sink or plugin "] * 4
    assert (grabber.error, other.state) == (None, GrabberState.ACTIVE)


class Breaking(Lab):
    """A source with a mistake in it."""

    def batches(self) -> Iterator[Any]:
        yield batches_of("T01")[0]
        raise ZeroDivisionError("a mistake in the source")


def test_whoever_waits_hears_of_a_mistake_in_the_thread() -> None:
    monitor = Monitor({"eth0": Breaking()})
    grabber = grabber_of(monitor)
    grabber.activate()
    monitor.start()
    with pytest.raises(TraceflowError, match="a mistake in the source"):
        list(grabber)
    assert monitor.join(PATIENCE_S)
    assert len(monitor.errors) == 1
    monitor.close()


def test_a_mistake_of_a_source_without_a_thread_comes_to_who_steps() -> None:
    monitor = Monitor({"eth0": Breaking()})
    grabber = grabber_of(monitor)
    grabber.activate()
    monitor.step()
    with pytest.raises(ZeroDivisionError):
        monitor.step()
    monitor.run()  # as if that were the end, but no secret
    assert counted(grabber) == 4
    assert ["ZeroDivisionError" in str(error) for error in grabber.errors] == [True]


def test_ctrl_c_in_the_middle_of_a_batch_is_no_secret_and_the_rest_goes_on() -> None:
    """4, 4 and 2 frames; the second batch is broken off before it is counted, and so is the end, in a sink."""

    def interrupt() -> None:
        moves.clear()
        raise KeyboardInterrupt

    class AtTheEnd:
        def take(self, step: Any) -> None:
            if step.batch is None:
                raise KeyboardInterrupt

    monitor = monitor_of("T01")
    tracer = {"tracer": {"sinks": [AtTheEnd()]}}
    grabber = monitor.instantiate(FlowSpec().populate(function(steps_in_tests) >> packetcount(), (), tracer))
    grabber.activate()
    monitor.step()
    moves[:] = [interrupt]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            monitor.run()
    monitor.run()
    assert counted(grabber) == 6
    assert [str(error).partition(":")[0] for error in monitor.errors] == [
        "a batch of 4 frames of eth0 was broken off by KeyboardInterrupt()",
        "the end of eth0 was broken off by KeyboardInterrupt()",
    ]


def test_several_threads_move_one_grabber_while_another_reads() -> None:
    """Whatever they do, the reader is given each packet once, in order, and the states are those of the moves."""
    monitor = monitor_of("http", 1)
    steady = grabber_of(monitor)
    steady.activate()
    shaky = grabber_of(monitor, "(port,80) -> (packetcount)")

    def move() -> None:
        for _ in range(50):
            for step in (shaky.activate, shaky.pause):
                with contextlib.suppress(StateError):
                    step()

    threads = [threading.Thread(target=move) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert [packet.number for packet in steady] == list(range(1, 60))
    for thread in threads:
        thread.join(PATIENCE_S)
    assert shaky.state in (GrabberState.ACTIVE, GrabberState.PAUSED)
    numbers = [packet.number for packet in shaky]
    assert numbers == sorted(set(numbers))
    assert counted(shaky) == len(numbers) <= 26


def test_an_interface_that_cannot_be_opened_says_so() -> None:
    def no_permission(name: str) -> Any:
        raise CannotReadError(f"{name}: no permission")

    monitor = Monitor("eth0", open_interface=no_permission)
    with pytest.raises(CannotReadError, match="eth0: no permission"):
        grabber_of(monitor)
    assert monitor.nodes == 0


@pytest.mark.once("the system gives back what a process had, whatever its Python")
def test_a_crash_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import os, sys; from traceflow import *;"
        "m = Monitor(sys.argv[1]);"
        "g = m.instantiate(FlowSpec.parse('(packetcount)', [(3, lambda p: None)], {'buffer': True, 'tracer': {}}));"
        "g.activate(); m.start(); m.join(60); print(g.waiting, flush=True); os.abort()"
    )
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    done = subprocess.run(
        [sys.executable, "-c", code, str(FIXTURES / "T01.pcap")],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(traceflow.__file__).parents[1])},
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("10\n", -6)
    assert list(tmp_path.iterdir()) == []
    now = set(shm.iterdir()) if shm.is_dir() else set()
    assert [path for path in now - before if "traceflow" in path.name] == []
