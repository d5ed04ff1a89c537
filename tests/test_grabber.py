"""The room `grabber`: life cycle, reading, waiting, callbacks, counters, flows.

Captures are fixtures as eth0, four frames a batch. T01 is one connection of ten frames: SYN, SYN+ACK, ACK, data of the
client (frame 4), data of the server (5), ACK, FIN, ACK, FIN, ACK. Of http.pcap, 59 frames, tcpdump says:
`tcpdump -nr fixtures/http.pcap 'port 80' | wc -l` 26, `'udp port 53'` 6.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from grabbing import PATIENCE_S, Lab, batches_of, counted, grabber_of, monitor_of

from traceflow import CallbackWarning, FlowSpec, GrabberState, Monitor, UsageError
from traceflow.errors import CannotReadError, FilterError, NotAllowedError, StateError
from traceflow.filters.build import device, function, ip, packetcount, port
from traceflow.filters.graph import Filter, Graph
from traceflow.policy import Policy, allow, callbacks

CREATED, ACTIVE, PAUSED, CLOSED = GrabberState


def read(grabber: Any) -> list[int]:
    return [packet.number for packet in grabber]


def fails_in_tests(frames: Any, packets: Any, octets: Any) -> Any:
    raise KeyError("a mistake of the user")


# --- life cycle --------------------------------------------------------------------------------------------------


def test_a_life() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    assert grabber.state is CREATED
    with grabber:
        assert grabber.state is ACTIVE
        assert read(grabber) == list(range(1, 11))
        grabber.pause()
        assert grabber.state is PAUSED
    assert grabber.state is CLOSED
    assert counted(grabber) == 10  # readable after close
    assert (monitor.grabbers, monitor.nodes) == ((), 0)
    grabber.close()
    assert grabber.state is CLOSED


MOVES: dict[str, list[str]] = {"activate": [], "pause": ["activate"], "close": ["close"]}
WRONG = [
    ([], "pause", "INSTANTIATED", "PAUSED"),
    (["activate"], "activate", "ACTIVE", "ACTIVE"),
    (["activate", "pause"], "pause", "PAUSED", "PAUSED"),
    (["close"], "activate", "CLOSED", "ACTIVE"),
    (["close"], "pause", "CLOSED", "PAUSED"),
]


@pytest.mark.parametrize(("before", "move", "state", "wanted"), WRONG)
def test_a_wrong_move_names_both_states_and_changes_nothing(
    before: list[str], move: str, state: str, wanted: str
) -> None:
    grabber = grabber_of(monitor_of("T01"))
    for step in before:
        getattr(grabber, step)()
    with pytest.raises(StateError, match=f"that is {state} cannot become {wanted}"):
        getattr(grabber, move)()
    assert grabber.state.name == state


def test_a_state_error_is_a_usage_error() -> None:
    assert issubclass(StateError, UsageError)


def test_who_was_not_activated_or_is_closed_has_nothing_to_read() -> None:
    grabber = grabber_of(monitor_of("T01"))
    for words in ("INSTANTIATED", "CLOSED"):
        with pytest.raises(StateError, match=words):
            iter(grabber)
        with pytest.raises(StateError, match=words):
            grabber.wait(1)
        grabber.close()
    with pytest.raises(StateError, match="CLOSED"):
        grabber.on_packets(1, print)


def test_a_pause_leaves_packets_out_and_counters_too() -> None:
    """Four frames a batch: 1-4 while active, 5-8 while paused (another grabber reads on), 9-10 while active."""
    monitor = monitor_of("T01")
    grabber, other = grabber_of(monitor), grabber_of(monitor, "(port,80) -> (packetcount)")
    other.activate()
    grabber.activate()
    monitor.step()
    grabber.pause()
    monitor.step()
    assert read(grabber) == [1, 2, 3, 4]  # what was grabbed before can still be read; then it ends
    grabber.activate()
    monitor.step()
    assert (read(grabber), counted(grabber), counted(other)) == ([9, 10], 6, 10)


# --- reading -----------------------------------------------------------------------------------------------------


def test_iteration_steps_the_monitor_when_there_is_nothing() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    grabber.activate()
    packets = iter(grabber)
    assert monitor.frames == 0
    assert next(packets).number == 1
    assert monitor.frames == 4
    assert grabber.waiting == 3
    grabber.close()
    assert list(packets) == []


def test_packets_are_what_the_capture_holds() -> None:
    batch = batches_of("T01", 100)[0]
    with grabber_of(monitor_of("T01"), "(port,80)") as grabber:
        packets = list(grabber)
    for packet, frame in zip(packets, batch.frames, strict=True):
        start = int(frame["start"])
        assert packet.octets == batch.octets[start : start + int(frame["captured"])].tobytes()
        assert packet.time_ns == int(frame["time_ns"])
    assert (packets[0].src, packets[0].dst_port, packets[0].device) == ("10.0.0.1", 80, "eth0")


def test_a_snaplen_cuts_what_is_handed_out() -> None:
    with grabber_of(monitor_of("T01"), "(port,80) -> (truncate,40)", snaplen=20) as grabber:
        assert {len(packet.octets) for packet in grabber} == {20}
    with grabber_of(monitor_of("T01"), "(port,80)", snaplen=20) as grabber:
        assert {(len(packet.octets), packet.wire >= 54) for packet in grabber} == {(20, True)}


def test_waiting_steps_as_far_as_is_needed() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    grabber.activate()
    assert grabber.wait(0) == 0
    assert grabber.wait(3) == 4
    assert grabber.wait(5) == 8
    assert monitor.frames == 8
    assert grabber.wait(100) == 10  # the input ends
    assert read(grabber) == list(range(1, 11))


def test_waiting_has_an_end_in_time() -> None:
    lab = Lab()
    with Monitor({"lab": lab}) as monitor:
        grabber = grabber_of(monitor)
        grabber.activate()
        assert grabber.wait(1, timeout=0) == 0
        monitor.start()
        assert grabber.wait(1, timeout=0.01) == 0
        lab.put(batches_of("T01")[0])
        assert grabber.wait(4) == 4
        assert grabber.wait(5, timeout=0.01) == 4


def test_a_timeout_is_a_number_and_may_be_longer_than_threads_can_wait() -> None:
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor)
    grabber.activate()
    wrong: Any
    for wrong in ("1", float("nan")):
        with pytest.raises(UsageError, match="timeout is"):
            grabber.wait(1, wrong)
        with pytest.raises(UsageError, match="timeout is"):
            monitor.join(wrong)
        with pytest.raises(UsageError, match="timeout is"):
            monitor.stop(wrong)
    monitor.start()
    for long in (float("inf"), 10**12):
        assert grabber.wait(10, long) == 10
        assert monitor.join(long)
    assert monitor.stop(float("inf"))


@pytest.mark.parametrize("packets", [-1, 1 << 30, "all"])
def test_nobody_can_wait_for_more_than_the_buffer_holds(packets: Any) -> None:
    grabber = grabber_of(monitor_of("T01"))
    grabber.activate()
    with pytest.raises(UsageError, match="the buffer holds 65536"):
        grabber.wait(packets)


def test_who_keeps_no_packets_has_none_to_iterate_over() -> None:
    monitor = monitor_of("T01")
    with grabber_of(monitor, buffer=False) as grabber:
        with pytest.raises(UsageError, match="buffer is False"):
            iter(grabber)
        monitor.run()
        assert counted(grabber) == 10
    assert monitor.ring.stored == 0


def test_a_reader_that_never_reads_loses_and_counts() -> None:
    """A buffer of 6 packets: of ten, the first four are overwritten; in the other mode the last four are dropped."""
    for mode, numbers, lost, dropped in (
        ("overwrite", [5, 6, 7, 8, 9, 10], 4, 0),
        ("drop", [1, 2, 3, 4, 5, 6], 0, 4),
    ):
        monitor = monitor_of("T01", buffer_packets=6, mode=mode)
        grabber = grabber_of(monitor)
        grabber.activate()
        monitor.run()
        assert (grabber.lost, grabber.dropped, read(grabber)) == (lost, dropped, numbers)
        grabber.close()
        assert (grabber.lost, grabber.dropped) == (lost, dropped)


# --- callbacks ---------------------------------------------------------------------------------------------------


def test_a_callback_is_given_so_many_at_a_time_and_the_rest_at_the_end() -> None:
    calls: list[list[int]] = []
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor, "(port,80)", (3, lambda packets: calls.append(packets.numbers.tolist())))
    grabber.activate()
    monitor.step()
    assert calls == [[1, 2, 3]]  # behind the batch that brought the third; 4 waits
    monitor.run()
    assert calls == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]


def test_a_callback_with_a_lifetime_and_one_beside_it() -> None:
    short: list[int] = []
    all_: list[int] = []
    monitor = monitor_of("T01", mode="drop", buffer_packets=4)
    grabber = grabber_of(monitor, "(port,80)", buffer=False)
    grabber.on_packets(2, lambda packets: short.extend(packets.numbers.tolist()), lifetime=2)
    grabber.activate()
    grabber.on_packets(1, lambda packets: all_.extend(packets.numbers.tolist()))
    monitor.run()
    assert (short, all_) == ([1, 2, 3, 4], list(range(1, 11)))
    assert grabber.dropped == 0  # whose lifetime is over holds nobody


def test_a_callback_that_raises_is_a_warning_and_is_called_on() -> None:
    calls = []

    def broken(packets: Any) -> None:
        calls.append(packets[0].number)
        raise KeyError("a mistake of the user")

    monitor = monitor_of("T01")
    grabber_of(monitor, "(port,80)", (4, broken, 2)).activate()
    with pytest.warns(CallbackWarning, match="a mistake of the user"):
        monitor.run()
    assert calls == [1, 5]


@pytest.mark.parametrize("move", ["close", "pause"])
def test_a_callback_may_stop_its_own_grabber(move: str) -> None:
    calls: list[int] = []
    monitor = monitor_of("T01")
    other = grabber_of(monitor)
    other.activate()

    def once(packets: Any) -> None:
        calls.append(packets[0].number)
        getattr(grabber, move)()

    grabber = grabber_of(monitor, "(port,80)", (1, once))
    grabber.activate()
    monitor.run()
    assert (calls, counted(other)) == ([1], 10)  # three more packets of the first batch were due
    if move == "pause":
        grabber.activate()
        monitor.run()
        assert calls == [1, 2]  # what waited is there again


def test_a_callback_may_step_iterate_and_make_grabbers() -> None:
    seen: list[int] = []
    monitor = monitor_of("T01")
    other = grabber_of(monitor, "(port,80) -> (bytecount)")
    other.activate()

    def busy(packets: Any) -> None:
        if packets[0].number == 1:
            made = grabber_of(monitor)
            made.activate()
            assert monitor.step()
            seen.extend(packet.number for packet in made)
        seen.append(-packets[0].number)

    grabber_of(monitor, "(port,80)", (4, busy)).activate()
    monitor.run()
    assert seen == [5, 6, 7, 8, 9, 10, -1, -5, -9]


def test_calls_beyond_what_the_policy_allows_are_held_back_and_merged() -> None:
    """A frame a millisecond, a call a frame wanted, 500 a second allowed: one every two milliseconds. 1 at 0 ms; 2 at
    1 ms is held, and comes with 3 at 2 ms; and so on; the tenth is alone when the input ends."""
    calls: list[list[int]] = []
    monitor = monitor_of("T01", policy=Policy(allow("*"), callbacks(500)), user="anna")
    grabber = grabber_of(monitor, "(port,80)", (1, lambda packets: calls.append(packets.numbers.tolist())))
    grabber.activate()
    monitor.run()
    assert calls == [[1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    assert grabber.calls_held == 5
    grabber.close()
    assert grabber.calls_held == 5


def test_all_callbacks_of_a_grabber_share_what_the_policy_allows() -> None:
    """As above, with two callbacks: they are called in turn, at 0, 2, 4, 6, 8 ms, and both with the rest at the end."""
    calls: list[tuple[str, list[int]]] = []
    monitor = monitor_of("T01", 10, policy=Policy(allow("*"), callbacks(500)), user="anna")
    both = [(1, lambda packets, name=name: calls.append((name, packets.numbers.tolist()))) for name in "ab"]
    grabber_of(monitor, "(port,80)", *both).activate()
    monitor.run()
    in_turn = [("a", [1]), ("b", [1, 2, 3]), ("a", [2, 3, 4, 5]), ("b", [4, 5, 6, 7]), ("a", [6, 7, 8, 9])]
    assert calls == [*in_turn, ("b", [8, 9, 10]), ("a", [10])]


def test_a_new_callback_for_each_call_is_not_called_more_often() -> None:
    """Frames 1 to 10 at 0 to 9 ms, one a batch, 250 calls a second: at 0, 4 and 8 ms, each by another registration."""
    calls: list[int] = []
    monitor = monitor_of("T01", 1, policy=Policy(allow("*"), callbacks(250)), user="anna")
    grabber = grabber_of(monitor, "(port,80)", buffer=False)

    def again(packets: Any) -> None:
        calls.append(packets[-1].number)
        grabber.on_packets(1, again, lifetime=1)

    grabber.on_packets(1, again, lifetime=1)
    grabber.activate()
    while monitor.frames < 10:
        monitor.step()
    assert calls == [1, 5, 9]


def test_where_no_callbacks_are_allowed_none_can_be_added() -> None:
    monitor = monitor_of("T01", policy=Policy(allow("*"), callbacks(0)), user="anna")
    with pytest.raises(NotAllowedError, match="callbacks"):
        grabber_of(monitor, "(port,80)", (1, print))
    with pytest.raises(NotAllowedError, match="callbacks are not allowed"):
        grabber_of(monitor, "(port,80)").on_packets(1, print)


def test_a_callback_for_more_than_the_buffer_holds_is_refused() -> None:
    monitor = monitor_of("T01", buffer_packets=8)
    with pytest.raises(UsageError, match="would never be called"):
        grabber_of(monitor, "(port,80)", (8, print), (9, print), buffer=True)
    assert (monitor.nodes, monitor.grabbers, monitor.ring._readers, monitor._streams) == (0, (), [], {})


# --- counters, errors, ends --------------------------------------------------------------------------------------


def test_counters_are_those_of_tcpdump() -> None:
    monitor = monitor_of("http", 7)
    web = grabber_of(monitor, "(port,80) -> (packetcount) -> (bytecount)", buffer=False)
    names = grabber_of(monitor, "(protocol,udp) -> (port,53) -> (packetcount)", buffer=False)
    for grabber in (web, names):
        grabber.activate()
    monitor.run()
    assert (counted(web), counted(names)) == (26, 6)
    octets = sum(int(batch.frames["wire"].sum()) for batch in batches_of("http"))
    assert 0 < counted(web, "octets") < octets


def test_a_filter_that_fails_closes_the_grabbers_that_have_it() -> None:
    monitor = monitor_of("T01")
    broken = monitor.instantiate(FlowSpec().populate(function(fails_in_tests) >> packetcount()))
    good = grabber_of(monitor)
    broken.activate()
    good.activate()
    assert read(good) == list(range(1, 11))
    assert broken.state is CLOSED
    assert isinstance(broken.error, FilterError)
    assert broken.errors == [broken.error]
    assert (good.error, monitor.nodes) == (None, 2)


def test_a_graph_that_has_no_text_runs() -> None:
    """A ladder of 40 rungs as in test_graph.py, whose text doubles more than 20 times. What counts is named by number
    where its path cannot be: with a device before the 80 filters and a counter there, the last one is the 83rd."""
    filters: dict[str, Filter] = {"d": device("eth0"), "c": packetcount(), "c0": packetcount()}
    edges = [("d", "c0")]
    left = right = "d"
    for rung in range(40):
        filters |= {f"l{rung}": port(80), f"r{rung}": ip(4)}
        edges += [(left, f"l{rung}"), (right, f"l{rung}"), (left, f"r{rung}")]
        left, right = f"l{rung}", f"r{rung}"
    graph = Graph.from_edges(filters, [*edges, (left, "c"), (right, "c")])
    with pytest.raises(UsageError, match="longer than"):
        _ = graph.text
    grabber = monitor_of("T01").instantiate(FlowSpec().populate(graph))
    with grabber:
        assert len(list(grabber)) == 10
    assert repr(grabber) == "<Grabber of 83 filters>"
    assert sorted(grabber.counters) == ["(device,eth0) -> (packetcount)", "(packetcount) as filter 83"]


def test_who_reads_hears_why_its_grabber_was_closed() -> None:
    monitor = monitor_of("T01")
    grabber = monitor.instantiate(FlowSpec().populate(function(fails_in_tests)))
    grabber.activate()
    packets = iter(grabber)
    with pytest.raises(FilterError, match="a mistake of the user"):
        next(packets)
    with pytest.raises(StateError) as caught:  # who comes later finds it as the cause
        iter(grabber)
    assert caught.value.__cause__ is grabber.error


def test_a_device_that_disappears_is_an_end_with_an_error() -> None:
    lab, gone = Lab(), CannotReadError("eth0 is gone")
    lab.put(batches_of("T01")[0], gone)
    monitor = Monitor({"eth0": lab})
    grabber = grabber_of(monitor)
    grabber.activate()
    assert read(grabber) == [1, 2, 3, 4]
    assert (grabber.errors, grabber.state) == ([gone], ACTIVE)
    late = grabber_of(monitor)
    late.activate()
    assert (read(late), late.errors) == ([], [gone])


# --- threads -----------------------------------------------------------------------------------------------------


def test_a_grabber_can_be_closed_while_another_thread_waits_for_its_packets() -> None:
    lab, waits, found = Lab(), threading.Event(), []
    monitor = Monitor({"eth0": lab})
    grabber = grabber_of(monitor)
    grabber.activate()
    monitor.start()

    def reader() -> None:
        for packet in grabber:
            found.append(packet.number)
            waits.set()

    thread = threading.Thread(target=reader)
    thread.start()
    lab.put(batches_of("T01", 1)[0])
    assert waits.wait(PATIENCE_S)
    grabber.close()
    thread.join(PATIENCE_S)
    assert (thread.is_alive(), found) == (False, [1])
    monitor.close()
    assert not lab.closed  # it was opened by others


def test_who_waits_goes_on_when_the_monitor_is_stopped() -> None:
    lab = Lab()
    monitor = Monitor({"eth0": lab})
    grabber = grabber_of(monitor)
    grabber.activate()
    monitor.start()
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(grabber.wait(100)))
    thread.start()
    lab.put(batches_of("T01")[0])
    for _ in range(2):
        assert lab.asked.acquire(timeout=PATIENCE_S)
    assert not monitor.stop(0)  # the first batch was handled, and the source gives no other yet
    lab.put(batches_of("T01")[1])
    assert monitor.stop(PATIENCE_S)
    lab.put(None)  # for a thread that was so slow that it found no other one running
    thread.join(PATIENCE_S)
    assert counts == [8]
    monitor.close()


def test_a_callback_that_blocks_holds_neither_the_monitor_nor_others() -> None:
    """A buffer of 6 packets. The callback of one grabber blocks on its first packet, while T01 passes: another grabber
    counts all ten; the blocked one has lost what was overwritten meanwhile, 2 to 4, and is called for the others."""
    lab, blocks, go_on = Lab(), threading.Event(), threading.Event()
    monitor = Monitor({"eth0": lab}, buffer_packets=6)
    seen: list[int] = []

    def slow(packets: Any) -> None:
        seen.append(packets[0].number)
        blocks.set()
        assert go_on.wait(PATIENCE_S)

    blocked, other = grabber_of(monitor, "(port,80)", (1, slow)), grabber_of(monitor)
    blocked.activate()
    other.activate()
    monitor.start()
    lab.put(batches_of("T01", 1)[0])
    assert blocks.wait(PATIENCE_S)
    lab.put(*batches_of("T01", 1)[1:], None)
    assert other.wait(6) == 6
    with monitor.condition:
        assert monitor.condition.wait_for(lambda: monitor.frames == 10, PATIENCE_S)
    assert counted(other) == 10
    go_on.set()
    assert monitor.join(PATIENCE_S)
    assert (seen, blocked.lost) == ([1, 5, 6, 7, 8, 9, 10], 3)
    monitor.close()


def test_a_callback_on_its_thread_may_close_everything() -> None:
    lab, done = Lab(), threading.Event()
    monitor = Monitor({"eth0": lab})

    def over(packets: Any) -> None:
        grabber.close()
        monitor.close()
        done.set()

    grabber = grabber_of(monitor, "(port,80)", (1, over))
    grabber.activate()
    monitor.start()
    lab.put(batches_of("T01")[0])
    assert done.wait(PATIENCE_S)
    assert (monitor.running, monitor.grabbers, grabber.state) == (False, (), CLOSED)
