"""The room `steering`: timeouts of each direction, which plugins set, and flows that they end.

The rule is Tranalyzer2's: before a packet is handled, each flow ends whose directions (or the only one that was seen)
have been silent for at least their own timeout since their own last packet. `expected` is that sentence in Python,
which asks all live flows before each packet; the table must agree with it on any packets and any timeouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from exchange import SECOND_NS, START_NS, UDP, Exchange, Wire
from hypothesis import given

from traceflow.compiled import COMPILED
from traceflow.flows import FLOW, EndCause, EndReason, Flow
from traceflow.live import as_octets
from traceflow.options import PROFILES, Options
from traceflow.packets import FRAME, PACKET
from traceflow.pipeline import Run, trace
from traceflow.plugins import Plugin, PluginSet
from traceflow.sources import open_source
from traceflow.steering import NO_PLAN, STEER, UNSET_NS
from traceflow.table import FlowTable
from traceflow.timeouts import NEVER_NS

KEEP = -5  # of a script: leave the timeout as it is
NEVER = int(NEVER_NS)
MOST = 256  # packets of a script
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@dataclass(frozen=True)
class Act:
    """What the plugin does at one packet."""

    own: int = KEEP
    partner: int = KEEP
    alarm: bool = False
    end: bool = False


class Scripted(Plugin):
    """Does at the n-th packet of the run what a script says, and notes what it was told."""

    name = "scripted"
    shared = np.dtype(
        [
            ("calls", "u8"),
            ("opens", "u8"),
            ("own", "i8", (MOST,)),
            ("partner", "i8", (MOST,)),
            ("alarm", "u1", (MOST,)),
            ("end", "u1", (MOST,)),
            ("told", STEER, (MOST,)),
            ("opened", "u1", (MOST,)),
        ]
    )

    def __init__(self, script: dict[int, Act] | None = None) -> None:
        super().__init__()
        self.script = script or {}
        self.seen: Any = None

    def on_start(self, shared: Any) -> None:
        shared["own"], shared["partner"] = KEEP, KEEP
        for at, act in self.script.items():
            shared["own"][at], shared["partner"][at] = act.own, act.partner
            shared["alarm"][at], shared["end"][at] = act.alarm, act.end
        self.seen = shared

    @staticmethod
    def on_open(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        shared["opened"][shared["calls"]] = 1

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        at = shared["calls"]
        told = shared["told"][at]
        told["timeout_ns"] = steer["timeout_ns"]
        told["partner_timeout_ns"] = steer["partner_timeout_ns"]
        told["now_ns"] = steer["now_ns"]
        told["packets"] = steer["packets"]
        told["partner_packets"] = steer["partner_packets"]
        told["from_responder"] = steer["from_responder"]
        told["alarm"] = steer["alarm"]
        told["end"] = steer["end"]
        if shared["own"][at] != -5:
            steer["timeout_ns"] = shared["own"][at]
        if shared["partner"][at] != -5:
            steer["partner_timeout_ns"] = shared["partner"][at]
        if shared["alarm"][at] != 0:
            steer["alarm"] = 1
        if shared["end"][at] != 0:
            steer["end"] = 1
        shared["calls"] = at + np.uint64(1)


class Watcher(Plugin):
    """Has both hooks and a record, and steers nothing."""

    name = "watcher"
    record = np.dtype([("packets", "u8"), ("opens", "u8")])

    @staticmethod
    def on_open(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["opens"] += np.uint64(1)

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["packets"] += np.uint64(1)


# --- packets without a capture, and the rule as a sentence ------------------------------------------------------

Sent = tuple[int, int, bool]
"""Time in ns behind START_NS, which key, whether the upper end sent it."""


@dataclass
class Outcome:
    """Which flow each packet is in, and (number, cause) of the flows in the order in which they ended."""

    flows: list[int] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)


def rows_of(sent: Sequence[Sent]) -> tuple[Any, Any]:
    """FRAME[m] and PACKET[m] of UDP packets."""
    frames, packets = np.zeros(len(sent), FRAME), np.zeros(len(sent), PACKET)
    packets["ip_version"], packets["protocol"] = 4, UDP
    for frame, packet, (time_ns, key, upper) in zip(frames, packets, sent, strict=True):
        frame["time_ns"] = START_NS + time_ns
        packet["src_lo"], packet["dst_lo"] = (1000 + key, key) if upper else (key, 1000 + key)
    return frames, packets


def table_with(plugin: Plugin, **options: Any) -> tuple[FlowTable, PluginSet]:
    running = PluginSet([plugin])
    return FlowTable(Options(**options), plan=running.plan), running


def ended_of(table: FlowTable) -> list[tuple[int, str]]:
    return [(int(row["number"]), EndCause(int(row["end_cause"])).text) for row in table.drain()]


def tracked(script: dict[int, Act], sent: Sequence[Sent], batch: int = 4096, **options: Any) -> Outcome:
    """The table's word."""
    table, _ = table_with(Scripted(script), **options)
    frames, packets = rows_of(sent)
    outcome = Outcome()
    for at in range(0, len(sent), batch):
        marks = table.track(frames[at : at + batch], packets[at : at + batch], at + 1)
        outcome.flows += marks["flow"].tolist()
        outcome.ended += ended_of(table)
    table.end()
    outcome.ended += ended_of(table)
    return outcome


class Pair:
    """A live flow: of each end its timeout, and when it was last heard."""

    def __init__(self, number: int, default: int) -> None:
        self.number = number
        self.default = default
        self.timeout = [UNSET_NS, UNSET_NS]
        self.last: list[int | None] = [None, None]

    @property
    def due(self) -> int:
        dues = [
            last + (self.default if timeout < 0 else timeout)
            for last, timeout in zip(self.last, self.timeout, strict=True)
            if last is not None
        ]
        return max(dues)


def expected(script: dict[int, Act], sent: Sequence[Sent], default: int) -> Outcome:
    """The rule's word."""
    outcome, live, opened, clock = Outcome(), dict[int, Pair](), 0, 0
    for at, (time_ns, key, upper) in enumerate(sent):
        clock = max(clock, START_NS + time_ns)
        for pair_key, pair in sorted(live.items(), key=lambda one: (one[1].due, one[1].number)):
            if pair.due <= clock:
                outcome.ended.append((pair.number, "idle"))
                del live[pair_key]
        if key not in live:
            opened += 1
            live[key] = Pair(opened, default)
        pair, act = live[key], script.get(at, Act())
        outcome.flows.append(pair.number)
        pair.last[upper] = clock
        for end, timeout in ((upper, act.own), (not upper, act.partner)):
            if timeout != KEEP:
                pair.timeout[end] = timeout
        if act.end:
            outcome.ended.append((pair.number, "plugin"))
            del live[key]
    rest = sorted(live.values(), key=lambda pair: (min(pair.due, NEVER), pair.number))
    outcome.ended += [(pair.number, "end of input") for pair in rest]
    return outcome


TIMEOUTS = st.sampled_from([KEEP, KEEP, UNSET_NS, -7, 0, 1, 2, 3, 5, 8, 20, 2**62, NEVER])
STEPS = st.sampled_from([0, 0, 1, 1, 2, 3, 5, 9, 40, -3])  # time steps back too


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[int, Act], list[Sent]]:
    count = draw(st.integers(1, 40))
    script, sent, now = {}, [], 0
    for at in range(count):
        now += draw(STEPS)
        sent.append((now, draw(st.integers(0, 3)), draw(st.booleans())))
        script[at] = Act(draw(TIMEOUTS), draw(TIMEOUTS), end=draw(st.integers(0, 9)) == 0)
    return script, sent


@given(scenes(), st.integers(1, 12))
def test_the_table_does_what_the_rule_says(scene: tuple[dict[int, Act], list[Sent]], default: int) -> None:
    script, sent = scene
    wanted = expected(script, sent, default)
    for batch in (1, 3, 4096):
        assert tracked(script, sent, batch, idle_timeout_other_ns=default) == wanted


# --- the rule, case by case -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("silent_ns", "flows"), [(99, [1, 1]), (100, [1, 2]), (101, [1, 2])])
def test_a_timeout_is_over_when_it_is_reached(silent_ns: int, flows: list[int]) -> None:
    """Silent for *at least* the timeout, and asked before the packet is handled: it ends its own old flow."""
    outcome = tracked({0: Act(own=100)}, [(0, 0, False), (silent_ns, 0, False)])
    assert outcome.flows == flows


def test_a_flow_waits_for_both_directions() -> None:
    # lower end: 10 ns from 0 on; upper end: 50 ns from 5 on: due at 55, not at 10
    script = {0: Act(own=10), 1: Act(own=50)}
    sent = [(0, 0, False), (5, 0, True), (54, 0, False)]
    assert tracked(script, sent).flows == [1, 1, 1]
    # the lower end spoke at 54: due at max(54 + 10, 5 + 50) = 64
    assert tracked(script, [*sent, (63, 0, True)]).flows == [1, 1, 1, 1]
    assert tracked(script, [*sent, (64, 0, True)]).flows == [1, 1, 1, 2]


def test_a_direction_that_was_not_seen_does_not_count() -> None:
    """Its timeout is set, but there is only one direction."""
    sent = [(0, 0, False), (10, 0, False)]
    assert tracked({0: Act(own=10, partner=NEVER)}, sent).flows == [1, 2]


def test_a_fresh_direction_has_the_timeout_of_the_profile() -> None:
    # the upper end speaks for the first time at 5, and nobody set a timeout for it: the profile's 1000 from then on
    sent = [(0, 0, False), (5, 0, True)]
    assert tracked({0: Act(own=10)}, [*sent, (1004, 0, False)], idle_timeout_other_ns=1000).flows == [1, 1, 1]
    assert tracked({0: Act(own=10)}, [*sent, (1005, 0, False)], idle_timeout_other_ns=1000).flows == [1, 1, 2]


def test_a_timeout_for_the_partner_holds_when_it_speaks() -> None:
    sent = [(0, 0, False), (5, 0, True), (14, 0, False), (23, 0, True)]
    # both have 10: due at 15, then 24
    assert tracked({0: Act(own=10, partner=10)}, sent).flows == [1, 1, 1, 1]
    assert tracked({0: Act(own=10, partner=10)}, [*sent, (33, 0, True)]).flows == [1, 1, 1, 1, 2]


def test_a_new_flow_forgets_the_timeouts_of_the_old_one() -> None:
    table, running = table_with(plugin := Scripted({0: Act(own=10, partner=20)}))
    frames, packets = rows_of([(0, 0, False), (10, 0, False), (11, 0, True)])
    assert table.track(frames, packets, 1)["flow"].tolist() == [1, 2, 2]
    told = plugin.seen["told"]
    assert told["timeout_ns"][:3].tolist() == [UNSET_NS] * 3
    assert told["partner_timeout_ns"][:3].tolist() == [UNSET_NS] * 3
    assert running.failures == []


def test_flows_leave_in_the_order_in_which_they_ended() -> None:
    # due at 90, 40, 70, 40: flows 2 and 4 at the same time, by number
    script = {0: Act(own=90), 1: Act(own=39), 2: Act(own=68), 3: Act(own=37)}
    sent = [(0, 0, False), (1, 1, False), (2, 2, False), (3, 3, False), (100, 4, False)]
    ended = [(2, "idle"), (4, "idle"), (3, "idle"), (1, "idle"), (5, "end of input")]
    assert tracked(script, sent).ended == ended


def test_a_timeout_that_becomes_shorter_moves_a_flow_ahead() -> None:
    script = {0: Act(own=1000), 1: Act(own=30), 2: Act(own=5)}
    sent = [(0, 0, False), (1, 1, False), (2, 0, False), (100, 2, False)]
    assert tracked(script, sent).ended[:2] == [(1, "idle"), (2, "idle")]  # due at 7 and at 31


def test_any_number_of_different_timeouts() -> None:
    """200 flows, each with its own timeout, the earlier the longer: all end, in the order of their timeouts."""
    script = {at: Act(own=10_000 - 7 * at) for at in range(200)}
    sent = [(at, at, False) for at in range(200)]
    outcome = tracked(script, [*sent, (20_000, 300, False)])
    assert [number for number, _ in outcome.ended] == [*range(200, 0, -1), 201]
    assert {cause for _, cause in outcome.ended[:-1]} == {"idle"}


def test_timeouts_at_the_ends_of_their_range() -> None:
    # 0: over at once, also where the next packet has the same time; NEVER: not before the input is; negative: profile
    assert tracked({0: Act(own=0), 1: Act(own=0)}, [(0, 0, False)] * 3).flows == [1, 2, 3]
    far = [(0, 0, False), (2**61, 0, False)]
    assert tracked({0: Act(own=NEVER)}, far).flows == [1, 1]
    assert tracked({0: Act(own=NEVER, partner=NEVER)}, far).ended == [(1, "end of input")]
    for negative in (-1, -2, -(2**63)):
        sent = [(0, 0, False), (50, 0, False), (150, 0, False)]
        assert tracked({0: Act(own=negative)}, sent, idle_timeout_other_ns=100).flows == [1, 1, 2]


def test_times_before_1970() -> None:
    frames, packets = rows_of([(0, 0, False), (99, 0, False), (199, 0, False)])
    frames["time_ns"] = [-(2**62), -(2**62) + 99, -(2**62) + 199]
    table, _ = table_with(Scripted({0: Act(own=100)}))
    assert table.track(frames, packets, 1)["flow"].tolist() == [1, 1, 2]


def test_what_a_hook_is_told() -> None:
    table, _ = table_with(plugin := Scripted({0: Act(own=500, partner=600), 1: Act(alarm=True)}))
    frames, packets = rows_of([(0, 0, False), (10, 0, True), (5, 0, False)])  # the last one steps back: now is 10
    table.track(frames, packets, 1)
    told = plugin.seen["told"][:3]
    assert told["timeout_ns"].tolist() == [UNSET_NS, 600, 500]
    assert told["partner_timeout_ns"].tolist() == [UNSET_NS, 500, 600]
    assert (told["now_ns"] - START_NS).tolist() == [0, 10, 10]
    assert told["packets"].tolist() == [1, 1, 2]
    assert told["partner_packets"].tolist() == [0, 1, 1]
    assert told["from_responder"].tolist() == [0, 1, 0]
    assert told["alarm"].tolist() == [0, 0, 1]
    assert told["end"].tolist() == [0, 0, 0]
    assert plugin.seen["opened"][:3].tolist() == [1, 0, 0]


# --- ends and alarms --------------------------------------------------------------------------------------------


def test_a_plugin_ends_a_flow_at_once() -> None:
    outcome = tracked({1: Act(end=True)}, [(0, 0, False), (1, 0, True), (2, 0, False)])
    assert outcome.flows == [1, 1, 2]
    assert outcome.ended == [(1, "plugin"), (2, "end of input")]


def test_the_packet_that_opens_a_flow_can_end_it() -> None:
    every = {at: Act(end=True) for at in range(3)}
    outcome = tracked(every, [(0, 0, False)] * 3)
    assert outcome.flows == [1, 2, 3]
    assert outcome.ended == [(1, "plugin"), (2, "plugin"), (3, "plugin")]


def flows_of(talk: Exchange, where: Path, plugin: Plugin, **options: Any) -> list[Flow]:
    return list(trace(talk.pcap(where, nanosecond=True), plugins=[plugin], **options))


def test_cause_and_reason_of_a_connection_that_a_plugin_ended(tmp_path: Path) -> None:
    """Also one that its FINs had closed: the plugin has the last word. What comes behind is a flow of its own."""
    talk = Exchange()
    talk.connection()
    first, second = flows_of(talk, tmp_path, Scripted({8: Act(end=True)}))
    assert (first.end_cause, first.end_reason) == (EndCause.PLUGIN, EndReason.FORCED_END)
    assert first.frames.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (second.frames.tolist(), second.end_cause) == ([10], EndCause.END_OF_INPUT)
    assert first.conn_state.text == "SF", "it was closed by both sides"


def test_the_alarm_stays_with_its_flow(tmp_path: Path) -> None:
    wire = Wire()
    one, other = Exchange(wire=wire), Exchange("10.0.0.3:5", wire=wire)
    one.a.udp(b"1")
    other.a.udp(b"2")
    one.b.udp(b"3")
    other.a.udp(b"4")
    flows = flows_of(one, tmp_path, Scripted({2: Act(alarm=True)}))
    assert [flow.alarm for flow in flows] == [1, 0]


def test_the_alarm_ends_with_its_flow(tmp_path: Path) -> None:
    talk = Exchange()
    talk.a.udp(b"1")
    talk.wait(ns=10)
    talk.a.udp(b"2")
    assert [flow.alarm for flow in flows_of(talk, tmp_path, Scripted({0: Act(own=10, alarm=True)}))] == [1, 0]


# --- time without packets ---------------------------------------------------------------------------------------


def test_time_goes_on_without_packets() -> None:
    table, _ = table_with(Scripted({0: Act(own=100), 1: Act(own=50)}))
    table.track(*rows_of([(0, 0, False), (0, 1, False)]), 1)
    table.tick(START_NS + 49)
    assert ended_of(table) == []
    table.tick(START_NS + 50)
    assert ended_of(table) == [(2, "idle")]
    table.tick(START_NS + 10)  # not backwards
    assert (ended_of(table), table.clock_ns - START_NS) == ([], 50)
    table.tick(START_NS + 1000)
    assert (ended_of(table), table.live) == ([(1, "idle")], 0)


def test_more_flows_end_in_one_tick_than_wait_at_once() -> None:
    """GONE_ROWS is 256: 600 flows that are due at one moment are handed out in three parts, all of them."""
    table, _ = table_with(Watcher(), idle_timeout_other_ns=100)
    table.track(*rows_of([(0, key, False) for key in range(600)]), 1)
    table.tick(START_NS + 100)
    assert [number for number, _ in ended_of(table)] == list(range(1, 601))
    assert table.ended_records.reshape(600, 2, 2)[:, 0].tolist() == [[1, 1]] * 600, "one packet, one opening each"


@pytest.mark.parametrize("batch", [1, 2, 4096])
def test_a_pause_comes_once_before_its_frame(batch: int) -> None:
    """At 25: before the third frame, whatever the batches; the flow that is due at 25 has not ended by then."""
    sent = [(0, 0, False), (10, 1, False), (30, 2, False), (40, 3, False), (50, 4, False)]
    table, _ = table_with(plugin := Scripted({0: Act(own=25)}))
    pauses: list[tuple[int, int, int]] = []
    table.on_pause = lambda: pauses.append((int(plugin.seen["calls"]), table.live, table.clock_ns - START_NS))
    table.pause_at(START_NS + 25)
    frames, packets = rows_of(sent)
    for at in range(0, len(sent), batch):
        table.track(frames[at : at + batch], packets[at : at + batch], at + 1)
    assert pauses == [(2, 2, 30)]
    assert ended_of(table) == [(1, "idle")]


def test_a_pause_can_set_the_next_one() -> None:
    """Every 10 ns: at 0, and so on; before the frame at 35 those at 10, 20 and 30 are made up for, one by one."""
    table, _ = table_with(plugin := Scripted())
    pauses: list[tuple[int, int]] = []
    next_ns = START_NS

    def pause() -> None:
        nonlocal next_ns
        pauses.append((next_ns - START_NS, int(plugin.seen["calls"])))
        next_ns += 10
        table.pause_at(next_ns)

    table.on_pause = pause
    table.pause_at(next_ns)
    table.track(*rows_of([(0, 0, False), (5, 0, False), (35, 0, False), (36, 0, False)]), 1)
    assert pauses == [(0, 0), (10, 2), (20, 2), (30, 2)]


def test_no_pause_after_it_was_taken_back() -> None:
    table, _ = table_with(Scripted())
    pauses: list[int] = []
    table.on_pause = lambda: pauses.append(1)
    table.pause_at(START_NS)
    table.pause_at(None)
    table.track(*rows_of([(0, 0, False), (5, 0, False)]), 1)
    assert pauses == []


# --- what must not change ---------------------------------------------------------------------------------------


@pytest.mark.once("all fixtures under all profiles, twice")
@pytest.mark.slow_plain("all fixtures under all profiles, twice")
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_plugin_that_steers_nothing_changes_no_flow(profile: str) -> None:
    compared = 0
    for path in sorted(FIXTURES.glob("*.pcap*")):
        with open_source(path) as captures:
            plain = [as_octets(step.ended).tobytes() for step in Run(captures, PROFILES[profile]).steps()]
        with open_source(path) as captures:
            run = Run(captures, PROFILES[profile], PluginSet([Watcher()]))
            watched = []
            for step in run.steps():
                watched.append(as_octets(step.ended).tobytes())
                records = run.table.ended_records
                upper = step.ended["upper_originates"].astype(int)
                for row, words, end in zip(step.ended, records, upper, strict=True):
                    counted = [int(words[end, 0]), int(words[1 - end, 0])]
                    assert counted == [int(row["orig"]["packets"]), int(row["resp"]["packets"])]
                    assert int(words[:, 1].sum()) == 1, "a flow opens once"
        assert b"".join(watched) == b"".join(plain), path.name  # with plugins, steps wait for more flows
        compared += sum(map(len, plain)) // FLOW.itemsize
    assert compared > 100


def test_a_plan_without_plugins_is_none() -> None:
    assert PluginSet(()).plan is NO_PLAN
    assert not PluginSet(())


def test_a_timeout_outlives_the_plugin_that_failed() -> None:
    """It fails at the second packet. Its 100 ns hold on for the flow, the next one has those of the profile."""
    table, running = table_with(plugin := Scripted({0: Act(own=100)}), idle_timeout_other_ns=1000)
    frames, packets = rows_of([(0, 0, False), (50, 0, False), (149, 0, False), (249, 0, False), (1248, 0, False)])
    assert table.track(frames[:1], packets[:1], 1)["flow"].tolist() == [1]
    plugin.seen["calls"] = MOST  # an index out of range
    assert table.track(frames[1:], packets[1:], 2)["flow"].tolist() == [1, 1, 2, 2]
    assert running.report() == {}
    assert [(failure.name, failure.hook) for failure in running.failures] == [("scripted", "on_packet")]


@pytest.mark.parametrize("batch", [1, 4096])
def test_an_evicted_flow_hands_out_its_records(batch: int) -> None:
    table, _ = table_with(Watcher(), max_flows=1)
    frames, packets = rows_of([(0, 0, False), (1, 0, True), (2, 1, True)])
    for at in range(0, 3, batch):
        table.track(frames[at : at + batch], packets[at : at + batch], at + 1)
    assert ended_of(table) == [(1, "evicted")]
    assert table.ended_records.tolist() == [[[1, 1], [1, 0]]]  # lower end: a packet, the opening; upper end: a packet


def test_each_segment_of_a_cut_flow_opens_anew() -> None:
    """The active timeout of 100 ns cuts the flow at its third packet: the plugin sees an opening, nothing is kept."""
    table, _ = table_with(plugin := Scripted({0: Act(own=NEVER)}), active_timeout_ns=100)
    table.track(*rows_of([(0, 0, False), (50, 0, True), (100, 0, False)]), 1)
    assert plugin.seen["opened"][:3].tolist() == [1, 0, 1]
    assert plugin.seen["told"]["timeout_ns"][:3].tolist() == [UNSET_NS, UNSET_NS, UNSET_NS]
    assert plugin.seen["told"]["partner_timeout_ns"][:3].tolist() == [UNSET_NS, NEVER, UNSET_NS]


def test_records_move_along_when_the_table_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceflow.table._FIRST_ROWS", 4)
    table, _ = table_with(Scripted({0: Act(own=5000), 1: Act(own=7000)}))
    table.track(*rows_of([(at, at, False) for at in range(40)]), 1)
    table.tick(START_NS + 6000)
    assert ended_of(table) == [(1, "idle")]
    table.tick(START_NS + 7001)
    assert ended_of(table) == [(2, "idle")]


def test_long_records_need_no_more_memory_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as there is room for records; here 8 words, two ends of two words each: two rows, then 16."""
    monkeypatch.setattr("traceflow.table._FIRST_RECORDS", 8)
    table, _ = table_with(Watcher())
    table.track(*rows_of([(at, at, False) for at in range(10)]), 1)
    table.end()
    assert [number for number, _ in ended_of(table)] == list(range(1, 11))
    assert len(table.ended_records) == 10


@pytest.mark.skipif(not COMPILED, reason="plain hooks are kept in a list")
def test_hooks_outlive_the_set_that_compiled_them() -> None:
    """The plan holds addresses: whoever holds the plan holds the code."""
    plan = PluginSet([Watcher()]).plan
    assert [hook.number for hook in plan.kept[0] if hook is not None] == [int(plan.rows[0, 0]), int(plan.rows[0, 1])]


def test_seconds_of_a_capture_in_microseconds(tmp_path: Path) -> None:
    """182 s, Tranalyzer2's default, set by a plugin in profile default (60 s for UDP)."""
    talk = Exchange()
    talk.a.udp(b"1")
    talk.wait(s=181)
    talk.a.udp(b"2")
    talk.wait(s=182)
    talk.a.udp(b"3")
    flows = flows_of(talk, tmp_path, Scripted({at: Act(own=182 * SECOND_NS) for at in range(3)}))
    assert [flow.frames.tolist() for flow in flows] == [[1, 2], [3]]
