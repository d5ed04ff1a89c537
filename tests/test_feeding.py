"""The room `feeding`: flows can be read after each packet, callbacks hear of each end once, one by one is as at once.

Expected numbers are counted by hand beside the dialogues; Peafowl's contract is that of its documentation (FIN from
both sides, 30 s of silence, termination exactly once).
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import MS_NS, SECOND_NS, START_NS, Exchange, Frame, Wire, ipv4, udp
from hypothesis import given
from hypothesis import strategies as st

import traceflow
from traceflow import CallbackWarning, Direction, FlowManager, LiveFlow, Statistic, Tracer, UsageError, from_octets
from traceflow.errors import IncompleteWarning, TraceflowError
from traceflow.flows import EndCause, EndReason
from traceflow.packets import FINER_THAN_MICROSECONDS, NO_TIME, Verdict
from traceflow.plugins import Column, EndedFlow, Plugin
from traceflow.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
CAPTURES = sorted(path for path in (ROOT / "fixtures").iterdir() if path.suffix in (".pcap", ".pcapng"))
OUT, BACK = Direction.OUTBOUND, Direction.INBOUND


def fed(tracer: Tracer, frames: Iterable[Frame]) -> list[LiveFlow | None]:
    return [tracer.feed_frame(frame.octets, frame.time_ns, wire=frame.wire_octets) for frame in frames]


def udp_frames(*sent: tuple[int, int]) -> list[Frame]:
    """One datagram each: (host, nanoseconds after the start)."""
    wire = Wire()
    for host, after_ns in sent:
        wire.at(START_NS + after_ns)
        Exchange(f"10.0.0.{host}:1", "10.0.0.99:9", wire=wire).a.udp(b"?")
    return wire.frames


def recorded(path: Path) -> Iterator[tuple[Any, ...]]:
    """The frames of a capture as arguments of `feed_frame`, the last of them by name."""
    with open_source(path) as captures:
        for batch in captures.batches():
            for frame in batch.frames:
                start, bits = int(frame["start"]), int(frame["time_bits"])
                octets = batch.octets[start : start + int(frame["captured"])].tobytes()
                time_ns = None if bits & NO_TIME else int(frame["time_ns"])
                yield octets, time_ns, int(frame["link"]), int(frame["wire"]), bool(bits & FINER_THAN_MICROSECONDS)


def feed_all(tracer: Tracer, path: Path) -> None:
    for octets, time_ns, link, wire, nanosecond in recorded(path):
        tracer.feed_frame(octets, time_ns, link, wire, nanosecond=nanosecond)


# --- live statistics -----------------------------------------------------------------------------------------------


COUNTED = (
    Statistic.PACKETS, Statistic.BYTES, Statistic.L7_BYTES, Statistic.L4_TCP_COUNT_SYN, Statistic.L4_TCP_COUNT_FIN,
    Statistic.L4_TCP_COUNT_RST, Statistic.L4_TCP_COUNT_RETRANSMISSIONS, Statistic.L4_TCP_COUNT_ZERO_WINDOW,
)  # fmt: skip
# After each packet: packets, octets from IP on, payload, SYN, FIN, RST, retransmissions, zero windows. The headers of
# IP and TCP are 40 octets, those of the SYN 44.
HAND_COUNT = [
    # outbound (a)                  inbound (b)
    ((1, 44, 0, 1, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)),  # SYN, window scale 7
    ((1, 44, 0, 1, 0, 0, 0, 0), (1, 40, 0, 1, 0, 0, 0, 0)),  # SYN-ACK, 3 ms later
    ((2, 84, 0, 1, 0, 0, 0, 0), (1, 40, 0, 1, 0, 0, 0, 0)),  # ACK
    ((3, 127, 3, 1, 0, 0, 0, 0), (1, 40, 0, 1, 0, 0, 0, 0)),  # GET
    ((4, 170, 6, 1, 0, 0, 1, 0), (1, 40, 0, 1, 0, 0, 0, 0)),  # GET again
    ((4, 170, 6, 1, 0, 0, 1, 0), (2, 86, 6, 1, 0, 0, 0, 0)),  # 200 OK
    ((5, 210, 6, 1, 0, 0, 1, 1), (2, 86, 6, 1, 0, 0, 0, 0)),  # ACK, window 0
    ((5, 210, 6, 1, 0, 0, 1, 1), (3, 126, 6, 1, 1, 0, 0, 0)),  # FIN of b
    ((6, 250, 6, 1, 1, 0, 1, 1), (3, 126, 6, 1, 1, 0, 0, 0)),  # FIN of a
    ((6, 250, 6, 1, 1, 0, 1, 1), (4, 166, 6, 1, 1, 0, 0, 0)),  # ACK
]


def counted_exchange() -> Exchange:
    talk = Exchange()
    talk.a.syn(options=b"\x03\x03\x07")
    talk.wait(ms=3)
    talk.b.syn_ack()
    talk.a.ack()
    talk.a.data(b"GET")
    talk.a.data(b"GET", seq=101)
    talk.b.data(b"200 OK")
    talk.a.ack(window=0)
    talk.b.fin()
    talk.a.fin()
    talk.b.ack()
    return talk


def test_statistics_can_be_read_after_every_packet_and_in_the_callback() -> None:
    ended: list[LiveFlow] = []
    tracer = Tracer("peafowl", on_flow_end=ended.append)

    def read(flow: LiveFlow) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(flow.statistic(what, direction) for what in COUNTED) for direction in (OUT, BACK))

    frames = counted_exchange().wire.frames
    for at, (frame, expected) in enumerate(zip(frames, HAND_COUNT, strict=True)):
        flow = tracer.feed_frame(frame.octets, frame.time_ns)
        assert flow is not None
        assert (flow.number, flow.ended, read(flow)) == (1, False, expected), f"packet {at + 1}"
        assert flow.statistic(Statistic.TIMESTAMP_LAST, OUT if at in (0, 2, 3, 4, 6, 8) else BACK) == frame.time_ns
        assert flow.statistic(Statistic.TIMESTAMP_FIRST, OUT) == START_NS
        assert flow.statistic(Statistic.L4_TCP_WINDOW_SCALING, OUT) == 7
        if at:
            assert flow.statistic(Statistic.L4_TCP_RTT_SYN_ACK, OUT) == 3 * MS_NS
            assert flow.statistic(Statistic.L4_TCP_WINDOW_SCALING, BACK) == -1
    assert ended == []
    tracer.finish()
    assert [(flow.number, flow.ended, read(flow)) for flow in ended] == [(1, True, HAND_COUNT[-1])]
    assert (ended[0].end_cause, ended[0].end_reason) == (EndCause.FIN, EndReason.END_OF_FLOW_DETECTED)


def test_outbound_goes_as_the_first_packet_went_whoever_the_originator_is() -> None:
    """The SYN-ACK stands before the SYN: `a` is the originator, and `b` sent the first packet."""
    talk = Exchange()
    talk.b.syn_ack(ack=101)
    talk.a.syn()
    talk.a.ack()
    tracer = Tracer()
    (flow, *_) = fed(tracer, talk.wire.frames)
    assert flow is not None
    assert flow.flow.orig_port == 1000
    assert [flow.statistic(Statistic.PACKETS, direction) for direction in (OUT, BACK)] == [1, 2]


@pytest.mark.slow_plain("a hundred captures")
@pytest.mark.parametrize("profile", ["default", "peafowl", "pcapkit"])
@pytest.mark.parametrize("name", ["T01", "T04", "T05", "T12a", "T14", "T15a", "fragments", "http"])
def test_a_live_flow_is_as_if_the_input_were_over(name: str, profile: str) -> None:
    """After each frame, the flow that has it is the one that `trace` makes of the frames so far."""
    path = ROOT / "fixtures" / f"{name}.pcap"
    tracer, looks = Tracer(profile), 0
    for count, (octets, time_ns, link, wire, nanosecond) in enumerate(recorded(path), 1):
        live = tracer.feed_frame(octets, time_ns, link, wire, nanosecond=nanosecond)
        flows = traceflow.trace(path, profile=profile, limit=count)
        alive = {flow.number: flow for flow in tracer.live}
        if live is not None:
            alive[live.number] = live
        for number, one in alive.items():
            looks += 1
            assert one.flow.row == flows[number - 1].row
            assert one.flow.frames.tolist() == flows[number - 1].frames.tolist()
    assert looks > 0


def test_a_look_stays_as_it_was_when_the_flow_goes_on() -> None:
    tracer = Tracer()
    flow, *_ = fed(tracer, udp_frames((1, 0)))
    assert flow is not None
    look = flow.flow
    assert flow.flow is look
    fed(tracer, udp_frames((1, 5)))
    assert (look.packets, flow.flow.packets) == (1, 2)
    assert repr(flow).startswith("<LiveFlow 1: UDP_10.0.0.1_1-10.0.0.99_9-")
    assert repr(flow).endswith("2 frames, live>")


def test_looks_at_older_flows_find_their_rows() -> None:
    """Ten flows; the first five end when the eleventh comes, which takes a row that was used."""
    tracer = Tracer()
    flows = fed(tracer, udp_frames(*((host, host) for host in range(1, 6)), *((host, 9) for host in range(6, 11))))
    fed(tracer, udp_frames(*((host, 50 * SECOND_NS) for host in range(6, 11)), (11, 60 * SECOND_NS + 5)))
    assert [flow.ended for flow in flows if flow] == [True] * 5 + [False] * 5
    assert [flow.flow.packets for flow in flows if flow] == [1] * 5 + [2] * 5
    assert [str(flow.flow.orig_addr) for flow in flows if flow] == [f"10.0.0.{host}" for host in range(1, 11)]
    assert [flow.number for flow in tracer.live] == [6, 7, 8, 9, 10, 11]


# --- user data, callbacks ------------------------------------------------------------------------------------------


def test_user_data_is_kept_for_the_callback() -> None:
    seen: list[Any] = []
    tracer = Tracer()

    @tracer.on_flow_end
    def ended(flow: LiveFlow) -> None:
        seen.append((flow.number, flow.data))

    for flow in fed(tracer, udp_frames((1, 0), (2, 1), (1, 2), (1, 3), (3, 4))):
        assert flow is not None
        if flow.number != 3:
            flow.data = (flow.data or 0) + 1
    tracer.finish()
    assert seen == [(2, 1), (1, 3), (3, None)]  # the one that is due first ends first
    assert ended.__name__ == "ended"


def test_each_flow_is_called_back_once_in_the_order_of_the_ends() -> None:
    """UDP dies after 60 s. 2 speaks last, so 1 and 3 end first; the rest at the end, the one due first first."""
    seen: list[tuple[int, str, str]] = []
    with Tracer(on_flow_end=lambda f: seen.append((f.number, f.end_cause.text, f.end_reason.name))) as tracer:
        fed(tracer, udp_frames((1, 0), (2, 1), (3, 2), (2, 30 * SECOND_NS)))
        assert seen == []
        fed(tracer, udp_frames((4, 60 * SECOND_NS + 2)))
        assert seen == [(1, "idle", "IDLE_TIMEOUT"), (3, "idle", "IDLE_TIMEOUT")]
    assert seen[2:] == [(2, "end of input", "FORCED_END"), (4, "end of input", "FORCED_END")]
    tracer.finish()
    assert len(seen) == 4


def test_a_flow_may_end_with_its_packet() -> None:
    """Profile pcapkit: the FIN ends its flow at once."""
    talk = Exchange()
    talk.a.fin()
    talk.a.ack()
    ended: list[LiveFlow] = []
    tracer = Tracer("pcapkit", on_flow_end=ended.append)
    first, second = fed(tracer, talk.wire.frames)
    assert ended == [first]
    assert first is not None
    assert (first.ended, first.end_cause, first.flow.packets) == (True, EndCause.FIN, 1)
    assert second is not None
    assert (second.number, second.ended, second.end_cause, second.end_reason) == (2, False, None, None)


def test_what_a_callback_raises_costs_no_flow() -> None:
    seen: list[int] = []

    def fails(flow: LiveFlow) -> None:
        raise RuntimeError("the user's fault")

    tracer = Tracer(on_flow_end=fails)
    tracer.on_flow_end(lambda flow: seen.append(flow.number))
    fed(tracer, udp_frames((1, 0), (2, 1)))
    with pytest.warns(CallbackWarning, match="the user's fault") as caught:
        fed(tracer, udp_frames((3, 90 * SECOND_NS)))
    assert [re.findall(r"flow \d:", str(warning.message)) for warning in caught] == [["flow 1:"], ["flow 2:"]]
    with pytest.warns(CallbackWarning, match="flow 3:"):
        tracer.finish()
    assert (seen, len(tracer.flows)) == ([1, 2, 3], 3)


@pytest.mark.parametrize("what", ["feed", "tick", "finish"])
def test_a_callback_may_call_the_tracer(what: str) -> None:
    """1 and 2 end at 60 s, when 3 comes. Called back with 1: 4 is fed at 120 s, or time goes on to then, and 3 ends; or
    all end. Whatever it does, 2 ended before that, and has its turn before it."""
    seen: list[int] = []
    inner: list[int] = []
    (late,) = udp_frames((4, 120 * SECOND_NS + 1))

    def ended(flow: LiveFlow) -> None:
        seen.append(flow.number)
        if flow.number != 1:
            return
        if what == "feed":
            fourth = tracer.feed_frame(late.octets, late.time_ns)
            assert fourth is not None
            inner.append(fourth.number)
        elif what == "tick":
            tracer.tick(late.time_ns)
        else:
            tracer.finish()
        assert seen == [1]

    tracer = Tracer(on_flow_end=ended)
    fed(tracer, udp_frames((1, 0), (2, 1), (3, 60 * SECOND_NS + 1)))
    assert seen == [1, 2, 3]
    tracer.finish()
    frames = 4 if what == "feed" else 3
    assert seen == list(range(1, frames + 1))
    assert inner == ([4] if what == "feed" else [])
    assert [flow.number for flow in tracer.flows] == seen
    assert (tracer.account.frames, tracer.account.in_flows, tracer.account.flows) == (frames,) * 3


def test_nothing_can_be_fed_while_or_after_the_tracer_finishes() -> None:
    frames = udp_frames((1, 0), (2, 1))
    seen: list[int] = []

    def ended(flow: LiveFlow) -> None:
        seen.append(flow.number)
        fed(tracer, frames)

    tracer = Tracer(on_flow_end=ended)
    fed(tracer, frames)
    with pytest.warns(CallbackWarning, match="this tracer is finished") as caught:
        tracer.finish()
    assert (seen, len(caught), tracer.account.frames) == ([1, 2], 2, 2)
    for late in (lambda: fed(tracer, frames), lambda: tracer.tick(0), lambda: tracer.feed(packet_of_fields(1))):
        with pytest.raises(UsageError, match="finished"):
            late()
    tracer.finish()
    assert tracer.account.frames == 2


def test_an_interrupt_in_a_callback_loses_no_flow() -> None:
    seen: list[int] = []

    def ended(flow: LiveFlow) -> None:
        seen.append(flow.number)
        if flow.number == 1:
            raise KeyboardInterrupt

    tracer = Tracer(on_flow_end=ended)
    fed(tracer, udp_frames((1, 0), (2, 1)))
    with pytest.raises(KeyboardInterrupt):
        tracer.finish()
    assert (seen, len(tracer.flows)) == ([1], 2)
    tracer.finish()
    assert seen == [1, 2]


MOVES = st.lists(st.tuples(st.sampled_from(["feed", "feed", "feed", "tick", "finish"]), st.integers(1, 6)), max_size=30)


@given(MOVES, MOVES, st.sampled_from(["evict", "skip", "grow"]))
def test_whatever_callbacks_do_each_flow_ends_once(moves: Any, inner: Any, when_full: str) -> None:
    """Six hosts, four rows, up to a minute between moves; each callback makes the next inner move, or raises."""
    heard: list[LiveFlow] = []
    frames = {host: udp_frames((host, 0))[0].octets for host in range(1, 7)}
    now_ns = [START_NS]

    def move(what: str, number: int) -> None:
        now_ns[0] += number * 10 * SECOND_NS
        if what == "feed":
            tracer.feed_frame(frames[number], now_ns[0])
        elif what == "tick":
            tracer.tick(now_ns[0])
        else:
            tracer.finish()

    def ended(flow: LiveFlow) -> None:
        heard.append(flow)
        if inner:
            move(*inner.pop())

    tracer = Tracer(on_flow_end=ended, max_flows=4, when_full=when_full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CallbackWarning)  # what is fed too late is refused
        for what, number in moves:
            with contextlib.suppress(UsageError):
                move(what, number)
        tracer.finish()
    account = tracer.account
    assert sorted(flow.number for flow in heard) == [*range(1, account.flows + 1)]
    assert all(flow.ended for flow in heard)
    assert sum(flow.flow.packets for flow in heard) == account.in_flows
    assert account.frames == account.in_flows + account.verdicts[Verdict.TABLE_FULL]
    assert tracer.flows.columns.tobytes() == b"".join(
        one.flow.row.tobytes() for one in sorted(heard, key=lambda f: f.number)
    )


class Feeder(Plugin):
    """Feeds the tracer from within a step, which must not be."""

    name = "feeder"
    tracer: Tracer

    def on_flow_end(self, flow: EndedFlow) -> None:
        fed(self.tracer, udp_frames((9, 0)))


def test_a_hook_cannot_feed_the_tracer_that_calls_it() -> None:
    seen: list[int] = []
    feeder = Feeder()
    feeder.tracer = tracer = Tracer(plugins=[feeder], on_flow_end=lambda flow: seen.append(flow.number))
    fed(tracer, udp_frames((1, 0), (2, 60 * SECOND_NS)))
    with pytest.warns(IncompleteWarning, match=r"feeder failed in on_flow_end.* a callback can"):
        tracer.finish()
    assert (seen, tracer.account.frames) == ([1, 2], 2)


# --- Peafowl's contract --------------------------------------------------------------------------------------------


class Terminations(FlowManager):
    """Keeps what it hears."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.heard: list[tuple[int, int, str]] = []

    def on_termination(self, flow: LiveFlow) -> None:
        self.heard.append((flow.number, flow.flow.packets, flow.end_cause.text if flow.end_cause else "live"))


def test_two_connections_on_one_tuple_terminate_once_each() -> None:
    """T02: the SYN of the second connection, frame 11, ends the first one, whose last ACK, frame 10, belongs to it."""
    manager = Terminations()
    for number, (octets, time_ns, *_) in enumerate(recorded(ROOT / "fixtures" / "T02.pcap"), 1):
        flow = manager.feed_frame(octets, time_ns)
        assert flow is not None
        assert flow.number == (1 if number <= 10 else 2)
        assert manager.heard == ([] if number <= 10 else [(1, 10, "fin")])
    manager.finish()
    manager.finish()
    assert manager.heard == [(1, 10, "fin"), (2, 10, "fin")]


@pytest.mark.parametrize("between", ["nothing", "traffic", "ticks"])
@pytest.mark.parametrize(("silence_ns", "flows"), [(29_999_000_000, 1), (30 * SECOND_NS - 1, 1), (30 * SECOND_NS, 2)])
def test_silence_of_30_s_terminates(silence_ns: int, flows: int, between: str) -> None:
    """Whatever else happens meanwhile: another flow that speaks every 10 s, or a clock that ticks every second."""
    manager = Terminations()
    fed(manager, udp_frames((1, 0)))
    if between == "traffic":
        fed(manager, udp_frames((2, 10 * SECOND_NS), (2, 20 * SECOND_NS), (2, silence_ns)))
    for second in range(1, 30) if between == "ticks" else ():
        manager.tick(START_NS + second * SECOND_NS)
    if between == "ticks":
        manager.tick(START_NS + silence_ns)
        assert manager.heard == ([(1, 1, "idle")] if flows == 2 else [])
    (flow,) = fed(manager, udp_frames((1, silence_ns)))
    manager.finish()
    assert flow is not None
    heard = [one for one in manager.heard if one[0] in (1, flow.number)]
    assert heard == ([(1, 2, "end of input")] if flows == 1 else [(1, 1, "idle"), (flow.number, 1, "end of input")])


def test_a_tick_ends_exactly_what_is_due() -> None:
    manager = Terminations()
    first, second = fed(manager, udp_frames((1, 0), (2, 5)))
    assert first is not None
    assert second is not None
    manager.tick(START_NS + 30 * SECOND_NS - 1)
    assert manager.live == [first, second]
    manager.tick(START_NS)  # time does not go back
    manager.tick(np.int64(START_NS + 30 * SECOND_NS))
    assert (manager.live, first.ended, manager.heard) == ([second], True, [(1, 1, "idle")])
    manager.tick(10**30)
    assert manager.heard == [(1, 1, "idle"), (2, 1, "idle")]
    with pytest.raises(UsageError, match=r"now_ns is 1\.5"):
        manager.tick(1.5)  # type: ignore[arg-type]


def test_a_manager_without_a_method_of_its_own_and_with_another_profile() -> None:
    with FlowManager("pcapkit") as manager:
        assert fed(manager, udp_frames((1, 0))) == [None]
        fed(manager, counted_exchange().wire.frames)
    assert manager.account.verdicts[Verdict.NOT_TCP] == 1
    assert len(manager.flows) == 3  # a's six packets up to its FIN; b's three; b's last ACK


# --- a table with a limit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when_full", "flows", "evicted", "skipped", "ended"),
    [
        # Three hosts, two rows. Host 1 speaks again last, so 2 is nearest to its timeout when 3 comes.
        ("grow", [1, 2, 1, 3, 2], 0, 0, []),
        ("skip", [1, 2, 1, None, 2], 0, 1, []),
        # 3 takes the place of 2; the second packet of 2 that of 1, as a new flow
        ("evict", [1, 2, 1, 3, 4], 2, 0, [2, 1]),
    ],
)
def test_strategies_of_a_full_table(
    when_full: str, flows: list[int | None], evicted: int, skipped: int, ended: list[int]
) -> None:
    heard: list[tuple[int, EndCause | None]] = []
    frames = udp_frames((1, 0), (2, 1), (1, 2), (3, 3), (2, 4))
    tracer = Tracer("peafowl", max_flows=2, when_full=when_full)
    tracer.on_flow_end(lambda flow: heard.append((flow.number, flow.end_cause)))
    assert [flow and flow.number for flow in fed(tracer, frames)] == flows
    assert heard == [(number, EndCause.EVICTED) for number in ended]
    tracer.finish()
    assert tracer.account.causes[EndCause.EVICTED] == evicted
    assert tracer.account.verdicts[Verdict.TABLE_FULL] == skipped
    assert sorted(number for number, _ in heard) == [*range(1, max(one or 0 for one in flows) + 1)]


# --- one by one is as at once --------------------------------------------------------------------------------------


class Runs(Plugin):
    """The longest run of packets of one side, in a compiled hook; and which flow ended how manieth, in a plain one."""

    name = "runs"
    columns = (
        Column("longest", "u4", "packets", "longest run without a packet of the other side"),
        Column("place", "u8", "", "how manieth it ended", per="flow"),
    )
    record = np.dtype([("run", "u4"), ("longest", "u4")])

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ended = 0

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        partner["run"] = 0
        mine["run"] += 1
        mine["longest"] = max(mine["longest"], mine["run"])

    def on_flow_end(self, flow: EndedFlow) -> dict[str, Any]:
        self.ended += 1
        return {"place": self.ended}


@pytest.mark.filterwarnings("ignore::traceflow.errors.IncompleteWarning")
@pytest.mark.parametrize("plugins", [False, True], ids=["bare", "plugins"])
@pytest.mark.parametrize("profile", ["default", "peafowl", "zeek"])
def test_one_by_one_is_as_the_whole_capture(profile: str, plugins: bool) -> None:
    """All columns of all fixtures, frame lists, account; and each flow is called back once, in the same order."""
    wrong, frames = [], 0
    for path in CAPTURES:
        at_once: list[int] = []
        one_by_one: list[int] = []
        try:
            whole = traceflow.trace(
                path,
                profile=profile,
                plugins=[Runs()] if plugins else (),
                on_flow_end=lambda flow, ended=at_once: ended.append(flow.number),  # type: ignore[misc]
            )
        except TraceflowError:
            continue
        tracer = Tracer(profile, [Runs()] if plugins else ())
        tracer.on_flow_end(lambda flow, ended=one_by_one: ended.append(flow.number))  # type: ignore[misc]
        feed_all(tracer, path)
        tracer.finish()
        found = tracer.flows
        frames += whole.account.frames
        same = (
            np.array_equal(found.columns, whole.columns)
            and found.account == whole.account == tracer.account
            and all(map(np.array_equal, found.frame_map.lists(), whole.frame_map.lists()))
            and at_once == one_by_one
            and sorted(at_once) == [flow.number for flow in whole]
            and found.plugin_columns.keys() == whole.plugin_columns.keys()
            and len(found.plugin_columns) == (3 if plugins else 0)
            and all(
                found.plugin_columns[name].tolist() == whole.plugin_columns[name].tolist()
                for name in found.plugin_columns
            )
        )
        if not same:
            wrong.append(path.name)
    assert wrong == []
    assert frames > 1000


def test_columns_of_plugins_are_there_at_the_end() -> None:
    """a: GET, GET are frames 3 to 5, three in a row; b never has two. The other flow, of frame 11, ends first."""
    seen: list[tuple[int, Any, Any, Any]] = []
    tracer = Tracer("peafowl", [Runs()])
    tracer.on_flow_end(
        lambda one: seen.append(
            (one.number, one.flow.orig_runs_longest, one.flow.resp_runs_longest, one.flow.runs_place)
        )
    )
    flow, *_ = fed(tracer, counted_exchange().wire.frames)
    assert flow is not None
    with pytest.raises(AttributeError, match="runs_place"):
        _ = flow.flow.runs_place
    fed(tracer, udp_frames((7, 0)))  # earlier: out of order, the clock stays
    tracer.finish()
    assert seen == [(1, 3, 1, 1), (2, 1, None, 2)]


class Quits(Plugin):
    """Raises the alarm with the second packet of a side, and ends the flow with the third."""

    name = "quits"

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        if steer["packets"] == 2:
            steer["alarm"] = 1
        if steer["packets"] == 3:
            steer["end"] = 1


def test_what_plugins_do_to_a_live_flow_can_be_seen() -> None:
    ended: list[EndCause | None] = []
    tracer = Tracer(plugins=[Quits()], on_flow_end=lambda flow: ended.append(flow.end_cause))
    alarms = []
    for frame in udp_frames((1, 0), (1, 1), (1, 2), (1, 3)):
        flow = tracer.feed_frame(frame.octets, frame.time_ns)
        assert flow is not None
        alarms.append((flow.number, flow.flow.alarm, flow.ended))
    assert alarms == [(1, 0, False), (1, 1, False), (1, 1, True), (2, 0, False)]
    assert ended == [EndCause.PLUGIN]


def test_flows_can_be_asked_at_any_time_and_again() -> None:
    """2 ends before 1 does: numbers are missing at first."""
    tracer = Tracer()
    fed(tracer, udp_frames((1, 0), (2, 1), (1, 30 * SECOND_NS), (3, 61 * SECOND_NS)))
    assert [(flow.number, flow.frames.tolist()) for flow in tracer.flows] == [(2, [2])]
    fed(tracer, udp_frames((3, 91 * SECOND_NS)))
    for _ in range(2):
        assert [(flow.number, flow.frames.tolist()) for flow in tracer.flows] == [(1, [1, 3]), (2, [2])]
    tracer.finish()
    assert [(flow.number, flow.frames.tolist()) for flow in tracer.flows] == [(1, [1, 3]), (2, [2]), (3, [4, 5])]


def test_without_keeping_only_live_flows_take_memory() -> None:
    seen: list[tuple[int, int, int]] = []
    tracer = Tracer(keep=False)
    tracer.on_flow_end(lambda flow: seen.append((flow.number, flow.flow.packets, len(flow.flow.frames))))
    fed(tracer, udp_frames(*((host % 200, host * SECOND_NS) for host in range(400))))
    assert len(tracer.live) == 60  # one a second, 60 s each
    tracer.finish()
    assert seen == [(number, 1, 0) for number in range(1, 401)]
    assert (len(tracer.flows), tracer.account.flows) == (0, 400)


# --- what can be fed -----------------------------------------------------------------------------------------------


def packet_of_fields(index: int, **more: Any) -> dict[str, Any]:
    """A SYN of 10.0.0.1:1000 as a mapping."""
    ends = {"src": "10.0.0.1", "srcport": 1000, "dst": "10.0.0.2", "dstport": 80}
    return {"index": index, "frame": {}, "syn": True, "fin": False, "timestamp": 1700000000 + index, **ends, **more}


def test_packets_of_fields_and_of_octets_meet_in_one_flow() -> None:
    """Frames are numbered as they are fed. Of fields alone no lengths are known."""
    (frame,) = Exchange().wire.frames or counted_exchange().wire.frames[:1]
    tracer = Tracer()
    first = tracer.feed(packet_of_fields(70, seq=100))
    second = tracer.feed(from_octets(frame.octets, timestamp="1700000001", index=90))
    third = tracer.feed(packet_of_fields(71, seq=100, octets=frame.octets, src="10.9.9.9"))
    assert first is not None
    assert first is second is third
    assert tracer.feed(None) is None
    assert (first.flow.packets, first.flow.orig.syn, first.flow.orig.ip_octets) == (3, 3, 2 * 44)
    assert first.flow.orig.window_scale == 7
    tracer.finish()
    assert [flow.frames.tolist() for flow in tracer.flows] == [[1, 2, 3]]
    assert tracer.account.frames == 3


def test_frames_without_a_flow_are_counted() -> None:
    tracer = Tracer()
    assert tracer.feed_frame(b"", 0) is None
    assert tracer.feed_frame(bytes(12) + b"\x08\x06" + bytes(28), 0) is None
    account = tracer.account
    assert (account.frames, account.verdicts[Verdict.TRUNCATED_LINK], account.verdicts[Verdict.NOT_IP]) == (2, 1, 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda octets: np.frombuffer(octets, np.uint8)])
def test_octets_may_stand_in_any_buffer(kind: Any) -> None:
    wire = Wire()
    Exchange(wire=wire).a.udp(bytes(5000))
    Exchange(wire=wire).a.udp(b"?")
    tracer = Tracer()
    for frame in wire.frames:
        flow = tracer.feed_frame(kind(frame.octets), frame.time_ns, wire=9000)
    assert flow is not None
    assert (flow.flow.orig.payload_octets, flow.flow.orig.wire_octets) == (5001, 18000)


def fragments(vlans: tuple[int, int, int]) -> list[Frame]:
    """The second, the first and the third fragment of a datagram of 32 octets behind IP, in these VLANs (0: none)."""
    whole, wire = udp("10.0.0.1", "10.0.0.2", 5, 6, bytes(24)), Wire()
    for (start, stop), vlan in zip([(8, 16), (0, 8), (16, 32)], vlans, strict=True):
        part = ipv4("10.0.0.1", "10.0.0.2", 17, whole[start:stop], ident=7, fragment=start // 8, more=stop < 32)
        wire.packet(part, tags=[(0x8100, vlan)] if vlan else [])
    return wire.frames


def test_a_fragment_counts_in_its_flow_once_the_first_one_has_come() -> None:
    """The headers of IP are 20 octets each: 28 of the first and of the second fragment, 36 of the third."""
    tracer, counts = Tracer(), []
    for frame in fragments((0, 0, 0)):
        flow = tracer.feed_frame(frame.octets, frame.time_ns)
        counts.append(flow and [flow.statistic(what, OUT) for what in (Statistic.PACKETS, Statistic.BYTES)])
    assert counts == [None, [2, 56], [3, 92]]
    assert (tracer.account.fragments_late, tracer.account.in_flows) == (1, 3)
    tracer.finish()
    assert [flow.frames.tolist() for flow in tracer.flows] == [[1, 2, 3]]


def test_one_frame_may_open_two_flows() -> None:
    """Where VLANs are in the key, the fragment that waited is in another flow than the first one, which released it."""
    tracer = Tracer("tranalyzer")
    *two, third = fragments((20, 10, 20))
    assert [flow and flow.number for flow in fed(tracer, two)] == [None, 1]
    for packets, more in ((1, [third]), (2, [])):
        looks = [(live.number, live.flow.vlan_outer, live.flow.packets) for live in tracer.live]
        assert looks == [(1, 10, 1), (2, 20, packets)]
        assert [flow and flow.number for flow in fed(tracer, more)] == [2] * len(more)


def test_duplicates_are_found_among_what_is_fed() -> None:
    (frame,) = udp_frames((1, 0))
    tracer = Tracer(duplicates="remove")
    assert [flow is None for flow in fed(tracer, [frame, frame])] == [False, True]
    assert (tracer.account.duplicates, tracer.account.verdicts[Verdict.DUPLICATE]) == (1, 1)


def test_a_frame_without_a_time_comes_with_the_one_before_it() -> None:
    (frame,) = udp_frames((1, 0))
    tracer = Tracer()
    tracer.feed(packet_of_fields(1))
    flow = tracer.feed_frame(frame.octets, None)
    assert flow is not None
    assert flow.flow.first_ns == 1700000001 * SECOND_NS


@pytest.mark.parametrize(
    "wrong",
    [
        ("text", 0),
        (None, 0),
        (b"", 1.5),
        (b"", "0"),
        (b"", 0, -1),
        (b"", 0, 65536),
        (b"", 0, 1, 2**32),
        (b"", 0, 1, -1),
    ],
)
def test_what_cannot_be_fed_is_refused_and_not_counted(wrong: tuple[Any, ...]) -> None:
    tracer = Tracer()
    with pytest.raises(UsageError, match="a frame cannot be traced"):
        tracer.feed_frame(*wrong)
    with pytest.raises(UsageError, match="lacks"):
        tracer.feed({})
    assert tracer.account.frames == 0
    fed(tracer, udp_frames((1, 0)))
    assert tracer.account.in_flows == 1


@pytest.mark.parametrize("wrong", [{"profile": "nope"}, {"max_flow": 3}, {"plugins": ["nope"]}, {"when_full": "drop"}])
def test_wrong_rules_are_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Tracer(**wrong)


# --- docs/callbacks.md ---------------------------------------------------------------------------------------------


PAGE = (ROOT / "docs" / "callbacks.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_the_examples_of_the_page_say_what_stands_below_them(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code, expected = EXAMPLES[at]
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as shown, warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, f"docs/callbacks.md, example {at + 1}", "exec"), {})  # noqa: S102 - our own page
    assert shown.getvalue() == expected


def test_every_example_of_the_page_is_run() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 3


class Interrupting(Plugin):
    """Ctrl-C in the middle of a hook."""

    name = "interrupting"

    def on_batch(self, batch: Any) -> None:
        raise KeyboardInterrupt


def test_a_tracer_that_was_interrupted_in_a_frame_says_so() -> None:
    """Its table went on and its lists did not: whatever it said of frames would be wrong."""
    tracer = Tracer(plugins=[Interrupting])
    with pytest.raises(KeyboardInterrupt), tracer:
        tracer.feed_frame(bytes(14), 0)
    with pytest.raises(UsageError, match="not whole; make another one"):
        tracer.feed_frame(bytes(14), 0)
    with pytest.raises(UsageError, match="not whole"):
        tracer.finish()
