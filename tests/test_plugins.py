"""The room `plugins`: contract, registry and running; and all that a plugin can do wrong.

A plugin that fails is named and taken out of the run, its columns are empty, and the flows are those of a run without
it. A plugin whose declaration does not hold together is refused before the first packet.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import Exchange, Wire, ipv4, udp

import traceflow
from traceflow.compiled import COMPILED
from traceflow.errors import IncompleteWarning, UsageError
from traceflow.flows import FlowSet
from traceflow.options import Options
from traceflow.pipeline import Run, trace
from traceflow.plugins import BUILT_IN, Batch, Column, EndedFlow, EndedFlows, Option, Plugin, PluginSet, load_plugins
from traceflow.plugins.contract import CompiledHook
from traceflow.plugins.registry import available, parse_plugin
from traceflow.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
ONE = np.uint64(1)
COUNTER = np.dtype([("packets", "u4"), ("opens", "u4")])


class Counter(Plugin):
    """Counts packets of each direction, in two hooks; all its columns lie in its record."""

    name = "counter"
    columns = (Column("packets", "u4", "packets"), Column("opens", "u4"))
    record = COUNTER
    shared = np.dtype([("packets", "u8"), ("step", "u8")])
    options = (Option("step", 1, lowest=0, highest=5), Option("share", 0.5), Option("word", "a"), Option("on", True))

    def on_start(self, shared: Any) -> None:
        shared["step"] = self.settings["step"]

    @staticmethod
    def on_open(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["opens"] += np.uint32(1)

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["packets"] += np.uint32(shared["step"])
        shared["packets"] += np.uint64(1)

    def report(self, shared: Any) -> list[str]:
        return [f"{shared['packets']} packets"]


def talk_of(where: Path) -> Path:
    """Three flows: T01 (6 frames of the originator, 4 of the responder), a lone datagram, a question and its answer."""
    talk = Exchange()
    talk.connection()
    Exchange("10.0.0.3:5000", "10.0.0.4:53", wire=talk.wire).a.udp(b"alone")
    asked = Exchange("10.0.0.5:5000", "10.0.0.4:53", wire=talk.wire)
    asked.a.udp(b"question")
    asked.b.udp(b"answer")
    return talk.pcap(where)


SENT, HEARD = [6, 1, 1], [4, None, 1]  # packets of originator and responder of these flows; None: it sent none


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return talk_of(tmp_path)


def columns_of(flows: FlowSet) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in flows.plugin_columns.items()}


# --- hooks, as documented ---------------------------------------------------------------------------------------


def test_columns_of_the_record(talk: Path) -> None:
    flows = trace(talk, plugins=[Counter])
    assert columns_of(flows) == {
        "orig_counter_packets": SENT,
        "resp_counter_packets": HEARD,
        "orig_counter_opens": [1, 1, 1],
        "resp_counter_opens": [0, None, 0],
    }
    assert [flow.resp_counter_packets for flow in flows] == HEARD
    assert "orig_counter_opens" in dir(flows[0])
    assert flows.plugin_failures == []


def test_records_follow_the_originator_that_turns_out_later(tmp_path: Path) -> None:
    """The SYN+ACK comes first: `b` opens the flow, and `a` is its originator."""
    e = Exchange()
    e.a._spoke = True
    e.a.next_seq += 1
    e.b.syn_ack()
    e.a.ack()
    (flow,) = trace(e.pcap(tmp_path), plugins=[Counter])
    assert (str(flow.orig_addr), flow.orig_counter_opens, flow.resp_counter_opens) == ("10.0.0.1", 0, 1)


@pytest.mark.parametrize("batch_frames", [1, 4096])
def test_batches_change_no_column(talk: Path, batch_frames: int) -> None:
    seen = []
    with open_source(talk, batch_frames=batch_frames) as captures:
        running = PluginSet([Counter()])
        for step in Run(captures, Options(), running).steps():
            if len(step.ended):
                seen += step.columns["orig_counter_packets"].tolist()
    assert sorted(seen) == sorted(SENT)
    assert running.report() == {"counter": ["13 packets"]}


class Diary(Plugin):
    """Writes down which hooks are called, and with what."""

    name = "diary"
    prefix = ""
    columns = (Column("said", "text", per="flow"), Column("ended_by", "text"))
    record = np.dtype([("ttl", "u1")])
    each = "direction"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["ttl"] = packet["ttl"]

    def on_start(self, shared: Any) -> None:
        assert shared is None
        self.lines.append("start")

    def on_batch(self, batch: Batch) -> None:
        parts = (batch.frames, batch.packets, batch.flows, batch.from_responder)
        assert len({len(part) for part in parts}) == 1
        self.lines.append(f"batch {batch.first_number} {batch.flows.tolist()} {batch.from_responder.astype(int).sum()}")

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        self.lines.append(f"flows {flows.rows['number'].tolist()}")
        assert flows.resp["ttl"].tolist() == [64 if packets else 0 for packets in flows.rows["resp"]["packets"]]
        return {"said": [f"flow {number} of {len(flows)}" for number in flows.rows["number"]]}

    def on_flow_end(self, flow: EndedFlow) -> Mapping[str, Any]:
        self.lines.append(f"flow {flow.row['number']} {flow.side} {flow.end_cause.text} {flow.mine['ttl']}")
        return {"ended_by": flow.end_reason.name}

    def on_monitor(self, now_ns: int, shared: Any) -> Mapping[str, Any]:
        return {"now": now_ns} if now_ns else {}

    def report(self, shared: Any) -> list[str]:
        return ["a", "b"]

    def on_finish(self, shared: Any) -> None:
        self.lines.append("finish")


def test_every_hook_is_called_in_its_turn(talk: Path) -> None:
    diary = Diary()
    flows = trace(talk, plugins=[diary])
    assert diary.lines == [
        "start",
        f"batch 1 {[1] * 10 + [2, 3, 3]} 5",  # four frames of T01's responder and an answer
        # the nearest to its timeout first: T01 was closed (profile default: 5 s), the datagrams wait for 60 s or more
        "flows [1, 2, 3]",
        "flow 1 orig fin 64",
        "flow 1 resp fin 64",
        "flow 2 orig end of input 64",
        "flow 3 orig end of input 64",
        "flow 3 resp end of input 64",
        "finish",
    ]
    reasons = ["END_OF_FLOW_DETECTED", "FORCED_END", "FORCED_END"]
    assert columns_of(flows) == {
        "said": [f"flow {number} of 3" for number in (1, 2, 3)],
        "orig_ended_by": reasons,
        "resp_ended_by": [reasons[0], None, reasons[2]],
    }


def test_monitor_and_report_by_name() -> None:
    running = PluginSet([Diary(), Counter()])
    assert running.monitor(5) == {"diary": {"now": 5}}
    assert running.monitor(0) == {}
    assert running.report() == {"diary": ["a", "b"], "counter": ["0 packets"]}


class Doubled(Plugin):
    """Builds on a column of another plugin, and gives columns of flows one by one."""

    name = "doubled"
    needs = ("counter",)
    columns = (Column("sent", "u8", per="flow"), Column("half", "f8"))

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        assert set(flows.columns) == {
            f"{side}_counter_{name}" for side in ("orig", "resp") for name in ("packets", "opens")
        }
        return {"sent": flows.columns["orig_counter_packets"].astype(np.uint64) * 2}

    def on_flow_end(self, flow: EndedFlow) -> Mapping[str, Any]:
        return {side + "_half": flow.row[side]["packets"] / 2 for side in ("orig", "resp")}


def test_a_plugin_sees_the_columns_of_those_it_needs(talk: Path) -> None:
    found = columns_of(trace(talk, plugins=[Doubled, Counter]))
    assert found["doubled_sent"] == [12, 2, 2]
    assert found["orig_doubled_half"] == [3.0, 0.5, 0.5]
    assert found["resp_doubled_half"] == [2.0, None, 0.5], "a direction without packets has no values"


class First(Plugin):
    name = "first"
    record = np.dtype([("order", "u8")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        steer["timeout_ns"] = 1_000_000_000


class Second(Plugin):
    """Doubles what `first` said, then sets its own."""

    name = "second"
    needs = ("first",)
    columns = (Column("heard", "i8"),)
    record = np.dtype([("heard", "i8")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["heard"] = steer["timeout_ns"]
        steer["timeout_ns"] = 3_000_000_000


def test_of_two_that_set_one_timeout_the_later_has_the_last_word(tmp_path: Path) -> None:
    """After 2 s the flow lives on: 3 s of `second` hold. Given in the other order, it still runs behind `first`."""
    e = Exchange()
    e.a.udp(b"1")
    e.wait(s=2)
    e.a.udp(b"2")
    e.wait(s=3)
    e.a.udp(b"3")
    given = load_plugins([Second(), First()])
    assert [plugin.name for plugin in given] == ["first", "second"]
    flows = trace(e.pcap(tmp_path), plugins=[Second(), First()])
    assert [flow.frames.tolist() for flow in flows] == [[1, 2], [3]]
    assert columns_of(flows)["orig_second_heard"] == [1_000_000_000] * 2


def test_records_after_each_packet(talk: Path) -> None:
    """`shots`: what a line of a packet shows, also where fragments have the batch tracked in parts."""
    assert shots_of(talk) == [1, 1, 2, 3, 2, 4, 5, 3, 4, 6, 1, 1, 1]


@pytest.mark.parametrize("batch_frames", [1, 2, 4096])
def test_records_after_each_fragment(tmp_path: Path, batch_frames: int) -> None:
    """Frames 2 to 4: the second fragment, the first one, the third of a datagram. 2 is counted late, behind 3."""
    wire = Wire()
    e = Exchange(wire=wire)
    e.a.udp(b"1")
    octets = udp("10.0.0.1", "10.0.0.2", 1000, 80, bytes(24))  # 32 octets with its header: 16, 8, 8
    for start, stop in ((16, 24), (0, 16), (24, 32)):
        part = octets[start:stop]
        wire.packet(ipv4("10.0.0.1", "10.0.0.2", 17, part, ident=9, fragment=start // 8, more=stop < 32))
    e.a.udp(b"5")
    assert shots_of(e.pcap(tmp_path), batch_frames) == [1, None, 2, 4, 5]


def shots_of(path: Path, batch_frames: int = 4096) -> list[int | None]:
    """Column `counter_packets` of the sender after each frame; None where it has no flow."""
    found: list[int | None] = []
    with open_source(path, batch_frames=batch_frames) as captures:
        running = PluginSet([Diary(), Counter()], shots=True)
        run = Run(captures, Options(), running)
        for step in run.steps():
            if step.batch is None:
                continue
            chosen = np.flatnonzero(step.marks["flow"] != 0)
            columns = running.packet_columns(run.table.shots, len(step.marks))
            assert list(columns) == ["counter_packets", "counter_opens"]
            said = {at: int(columns["counter_packets"][at]) for at in chosen.tolist()}
            found += [said.get(at) for at in range(len(step.marks))]
    return found


# --- options ----------------------------------------------------------------------------------------------------


def test_options_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "counter", f"{__name__}:Counter")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Counter.__module__])
    settings = parse_plugin("counter: step = 3, share=2.5,word=x=y,on=no").settings
    assert settings == {"step": 3, "share": 2.5, "word": "x=y", "on": False}
    assert parse_plugin("counter").settings == {"step": 1, "share": 0.5, "word": "a", "on": True}
    for text, says in {
        "counter:step": "'step' is no option; write option=value",
        "counter:step=1,step=2": "option step was given twice",
        "counter:stap=1": "unknown option 'stap'. Did you mean step",
        "counter:step=six": "option step is 'six'; it must be of type int, a whole number",
        "counter:step=6": "must lie within 0 to 5",
        "countre": "unknown plugin 'countre'. Did you mean counter",
        "": "unknown plugin ''",
    }.items():
        with pytest.raises(UsageError, match=re.escape(says)):
            parse_plugin(text)


@pytest.mark.parametrize(
    "given",
    [
        *({"share": float("nan")}, {"share": "nan"}, {"share": "1e999"}, {"share": float("inf")}, {"share": None}),
        *({"step": 1.0}, {"step": True}, {"step": "9" * 5000}, {"step": -1}, {"step": 2**64}),
        *({"on": 1}, {"on": "maybe"}, {"word": 5}),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"plugin counter: option \w+ is "):
        Counter(**given)


def test_options_from_python() -> None:
    assert Counter(share=2).settings["share"] == 2.0
    assert Counter(step=np.int64(2), share=np.float32(0.5), on=np.True_).settings == {
        "step": 2, "share": 0.5, "word": "a", "on": True,
    }  # fmt: skip
    with pytest.raises(UsageError, match=re.escape("it must lie within ... to 0")):
        Option("x", 0, highest=0).value("p", 1)


# --- the registry -----------------------------------------------------------------------------------------------


def test_what_can_be_named_is_listed_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "broken", "traceflow.no_such_module:Broken")
    found = {one.name: one for one in available()}
    assert list(found) == sorted(found)
    assert set(BUILT_IN) <= set(found)
    assert found["broken"].kind is None
    assert "cannot be loaded: ModuleNotFoundError" in found["broken"].problem


def test_a_name_must_lead_to_a_plugin_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "other", "traceflow.flows:FlowSet")
    monkeypatch.setitem(BUILT_IN, "base", "traceflow.plugins.contract:Plugin")
    with pytest.raises(UsageError, match=r"plugin other is .*FlowSet.*, and no subclass of"):
        load_plugins(["other"])
    with pytest.raises(UsageError, match="plugin base calls itself ''"):
        load_plugins("base")


class Demanding(Plugin):
    name = "demanding"

    def __init__(self) -> None:
        raise RuntimeError("no licence")


def named(name: str, *needs: str) -> Plugin:
    """A plugin of that name which does nothing."""
    return type(name, (Plugin,), {"name": name, "needs": needs})()  # type: ignore[no-any-return]


def test_plugins_given_wrongly() -> None:
    cases: dict[str, Any] = {
        "plugin counter was given twice": [Counter, Counter()],
        "5 is no plugin": [5],
        "<class 'int'> is no plugin": [int],
        "plugin demanding cannot be made: RuntimeError: no licence": [Demanding],
        "plugin a needs plugin zz: unknown plugin 'zz'": [named("a", "zz")],
        "in a circle: a -> b -> c -> a": [named("a", "b"), named("b", "c"), named("c", "a")],
        "in a circle: a -> a": [named("a", "a")],
        "plugin lazy: needs is 'counter'; it must be a tuple": [
            type("L", (Plugin,), {"name": "lazy", "needs": "counter"})
        ],
    }
    for says, given in cases.items():
        with pytest.raises(UsageError, match=re.escape(says)):
            load_plugins(given)
    assert [plugin.name for plugin in load_plugins(Counter)] == ["counter"], "one alone need not be in a list"


def test_order_is_that_given_with_what_is_needed_before() -> None:
    given = [named("d", "b"), named("a"), named("c", "a", "d"), named("b")]
    assert [plugin.name for plugin in load_plugins(given)] == ["b", "d", "a", "c"]


# --- declarations that do not hold together ---------------------------------------------------------------------


def declared(**what: Any) -> Plugin:
    return type("Declared", (Plugin,), {"name": "bad", **what})()  # type: ignore[no-any-return]


def x(kind: str = "u4", name: str = "x", **more: Any) -> Column:
    return Column(name, kind, **more)


def takes_two(frame: Any, packet: Any) -> None:
    """No hook: it takes seven records."""


def with_self(self: Any, frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
    """A method, where a static one is meant."""


def no_such_field(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
    mine["missing"] = 1


def returns(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> Any:
    return packet["ttl"]


WRONG: dict[str, dict[str, Any]] = {
    "column x is declared twice": {"columns": (x(), x("u8"))},
    "is of type 'u3'; known: u1,": {"columns": (x("u3"),)},
    "is of type 'S8'; known": {"columns": (x("S8"),)},
    "is per 'packet'; known: direction, flow": {"columns": (x(per="packet"),)},
    "is no Column with a name": {"columns": (x(name="a b"),)},
    "'x' is no Column": {"columns": ("x",)},
    "columns is Column(name='x',": {"columns": x()},
    "columns is None; it must be a tuple of Column": {"columns": None},
    "each is 'packet'; known: flow, direction": {"each": "packet"},
    "on_packet is compiled and knows no self; it must be a static method": {"on_packet": with_self},
    "has no name of letters": {"name": "a,b"},
    "prefix is 'a-'; it must be": {"prefix": "a-"},
    "there is a column orig_packets already": {"columns": (x(name="packets"),), "prefix": ""},
    "there is a column label already": {"columns": (x(name="label", per="flow"),), "prefix": ""},
    "record is 'u4'; it must be a NumPy dtype": {"record": "u4"},
    "record is dtype('uint32'); it must be": {"record": np.dtype("u4")},
    "it must be a NumPy dtype with named": {"record": np.dtype([("o", "O")])},
    "shared is dtype('float64'); it must be": {"shared": np.dtype("f8")},
    "longer than the 65536 octets": {"record": np.dtype([("x", "u1", (65537,))])},
    "their shared ones, are longer": {"shared": np.dtype([("x", "u8", (8193,))])},
    "column x of type text is uint32 in the record": {"record": np.dtype([("x", "u4")]), "columns": (x("text"),)},
    "in the record; a column of the record is a single number": {
        "record": np.dtype([("x", "u4", (3,))]), "columns": (x(),),
    },
}  # fmt: skip


@pytest.mark.parametrize("says", WRONG)
def test_wrong_declarations_are_refused(talk: Path, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        trace(talk, plugins=[declared(**WRONG[says])])


def test_options_must_be_a_tuple() -> None:
    with pytest.raises(UsageError, match=r"options is .*; it must be a tuple of Option"):
        declared(options=Option("x", 1))


def test_two_plugins_cannot_have_one_column(talk: Path) -> None:
    one, two = (type(name, (Plugin,), {"name": name, "prefix": "p_", "columns": (x(),)}) for name in ("one", "two"))
    with pytest.raises(UsageError, match="plugin two: there is a column orig_p_x already; give it another prefix"):
        trace(talk, plugins=[one, two])


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
@pytest.mark.parametrize("hook", [takes_two, no_such_field, returns])
def test_hooks_that_cannot_be_compiled_are_refused(talk: Path, hook: CompiledHook) -> None:
    plugin = declared(on_packet=staticmethod(hook), record=COUNTER)
    with pytest.raises(UsageError, match=r"plugin bad: on_packet cannot be compiled: .* It takes \(frame"):
        trace(talk, plugins=[plugin])


@pytest.mark.skipif(COMPILED, reason="compiled, it is refused before the first packet")
def test_a_plain_hook_that_returns_something_fails(talk: Path) -> None:
    with pytest.warns(IncompleteWarning, match="plugin bad failed in on_packet"):
        trace(talk, plugins=[declared(on_packet=staticmethod(returns))])


# --- plugins that fail ------------------------------------------------------------------------------------------


class Failing(Plugin):
    """Counts, and raises in the hook that it is told."""

    name = "failing"
    columns = (Column("packets", "u4"), Column("more", "u1", per="flow"))
    record = np.dtype([("packets", "u4")])
    shared = np.dtype([("calls", "u8"), ("fail_at", "u8"), ("few", "u8", (4,))])

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook
        self.called: list[str] = []

    def _reach(self, hook: str) -> None:
        self.called.append(hook)
        if hook == self.hook:
            raise RuntimeError("out of luck")

    def on_start(self, shared: Any) -> None:
        shared["fail_at"] = {"on_open": 1, "on_packet": 3}.get(self.hook, 999)
        self._reach("on_start")

    @staticmethod
    def on_open(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        if shared["fail_at"] == 1:
            shared["few"][shared["fail_at"] + np.uint64(99)] = 1

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["packets"] += np.uint32(1)
        shared["calls"] += np.uint64(1)
        if shared["calls"] == shared["fail_at"]:
            shared["few"][shared["calls"] + np.uint64(99)] = 1

    def on_batch(self, batch: Batch) -> None:
        self._reach("on_batch")

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        self._reach("on_flows_end")
        return {"more": np.zeros(len(flows), np.uint8)}

    def on_flow_end(self, flow: EndedFlow) -> Mapping[str, Any]:
        self._reach("on_flow_end")
        return {"more": 1}

    def on_finish(self, shared: Any) -> None:
        self._reach("on_finish")

    def on_monitor(self, now_ns: int, shared: Any) -> Mapping[str, Any]:
        self._reach("on_monitor")
        return {"x": 1}

    def report(self, shared: Any) -> Iterator[str]:
        yield "a line"
        self._reach("report")


@pytest.mark.parametrize("hook", ["on_start", "on_open", "on_packet", "on_batch", "on_flows_end", "on_flow_end"])
def test_a_plugin_that_fails_is_taken_out_and_the_flows_are_whole(talk: Path, hook: str) -> None:
    plain = trace(talk)
    with pytest.warns(IncompleteWarning, match=f"plugin failing failed in {hook} and was taken out of the run"):
        flows = trace(talk, plugins=[failing := Failing(hook), Counter])
    assert flows.columns.tobytes() == plain.columns.tobytes()
    assert flows.account == plain.account
    (said,) = flows.plugin_failures
    assert ("RuntimeError: out of luck" in said) == (hook not in ("on_open", "on_packet"))
    found = columns_of(flows)
    for name in ("orig_failing_packets", "resp_failing_packets", "failing_more"):
        assert found[name] == [None] * 3
    assert found["orig_counter_packets"] == SENT, "another plugin goes on"
    if hook not in ("on_open", "on_packet"):
        assert failing.called[-1] == hook, "no hook is called after the one that failed"


def test_one_that_fails_at_the_end_keeps_its_columns(talk: Path) -> None:
    with pytest.warns(IncompleteWarning, match="plugin failing failed in on_finish"):
        flows = trace(talk, plugins=[Failing("on_finish")])
    assert columns_of(flows)["orig_failing_packets"] == SENT


def test_the_failing_hook_of_every_packet_is_called_no_more(talk: Path) -> None:
    """It fails at the third packet: the count stands at three, of thirteen."""
    failing = Failing("on_packet")
    running = PluginSet([failing])
    with open_source(talk) as captures:
        for _ in Run(captures, Options(), running).steps():
            pass
    assert running.plan.shared.view(Failing.shared)["calls"].tolist() == [3]
    assert [(one.name, one.hook) for one in running.failures] == [("failing", "on_packet")]


@pytest.mark.parametrize("hook", ["on_monitor", "report"])
def test_one_that_fails_when_it_is_asked(hook: str) -> None:
    running = PluginSet([Failing(hook), Counter()])
    running.monitor(1)
    assert running.report() == {"counter": ["0 packets"]}
    (failure,) = running.failures
    assert (failure.name, failure.hook, failure.error) == ("failing", hook, "RuntimeError: out of luck")
    running.finish()
    assert len(running.failures) == 1, "and it is named once"


class Returning(Plugin):
    """Returns what it is told to."""

    name = "returning"
    columns = (Column("small", "u1", per="flow"), Column("real", "f8"), Column("words", "text", per="flow"))

    def __init__(self, of_flows: Any = None, of_flow: Any = None, other: Any = None) -> None:
        super().__init__()
        self.of_flows, self.of_flow, self.other = of_flows, of_flow, other

    def on_flows_end(self, flows: EndedFlows) -> Any:
        return self.of_flows

    def on_flow_end(self, flow: EndedFlow) -> Any:
        return self.of_flow

    def on_monitor(self, now_ns: int, shared: Any) -> Any:
        return self.other

    def report(self, shared: Any) -> Any:
        return self.other


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"of_flows": {"small": [1, 300, 2]}}, "on_flows_end.*column small is of type u1, which cannot hold 300"),
        ({"of_flow": {"small": -1}}, "on_flow_end.*column small is of type u1, which cannot hold -1"),
        ({"of_flow": {"small": 0.5}}, "on_flow_end.*cannot hold 0.5"),
        ({"of_flow": {"words": 5}}, "on_flow_end.*column words is text, and 5 is none"),
        ({"of_flow": {"tiny": 5}}, "on_flow_end.*tiny is no column that the plugin declares; it has returning_small"),
        ({"of_flows": {"small": [1]}}, "on_flows_end.*for 3 flows"),
        ({"of_flows": np.zeros(3)}, "on_flows_end.*"),
        ({"of_flow": 7}, "on_flow_end.*"),
    ],
)
def test_values_that_a_column_cannot_hold_take_the_plugin_out(talk: Path, given: dict[str, Any], says: str) -> None:
    with pytest.warns(IncompleteWarning, match=f"plugin returning failed in {says}"):
        flows = trace(talk, plugins=[Returning(**given)])
    assert all(values == [None] * 3 for values in columns_of(flows).values())
    assert len(flows) == 3


def test_values_that_mean_nothing_are_empty(talk: Path) -> None:
    flows = trace(talk, plugins=[Returning({"orig_real": [float("nan"), 1.5, float("inf")]}, {"words": "a\nb,"})])
    assert columns_of(flows)["orig_returning_real"] == [None, 1.5, None]
    assert columns_of(flows)["returning_words"] == ["a\nb,"] * 3
    assert columns_of(flows)["returning_small"] == [None] * 3


def test_what_is_said_at_intervals_and_in_the_end() -> None:
    assert PluginSet([Returning(other="one line")]).report() == {"returning": ["one line"]}
    running = PluginSet([Returning(other=5)])
    assert (running.monitor(1), running.report()) == ({}, {})
    assert [failure.hook for failure in running.failures] == ["on_monitor"]


class Overfull(Plugin):
    """A field of its record is wider than its column, and overflows it."""

    name = "overfull"
    columns = (Column("many", "u1"),)
    record = np.dtype([("many", "u4")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["many"] = 300


def test_a_record_that_does_not_fit_its_column(talk: Path) -> None:
    says = "failed in columns of its record .*column many is of type u1, which cannot hold 300"
    with pytest.warns(IncompleteWarning, match=says):
        trace(talk, plugins=[Overfull])


class Long(Plugin):
    """The longest record that there is room for: 65 536 octets, of which the last ones count."""

    name = "long"
    columns = (Column("seen", "u8"),)
    record = np.dtype([("many", "u8", (8191,)), ("seen", "u8")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["many"][8190] += np.uint64(2)
        mine["seen"] = mine["many"][8190]


def test_the_longest_record(talk: Path) -> None:
    found = columns_of(trace(talk, plugins=[Long]))
    assert found["orig_long_seen"] == [2 * count for count in SENT]


class Packed(Plugin):
    """A record without alignment, fields of all sizes, and one inside another."""

    name = "packed"
    columns = (Column("a", "u1"), Column("b", "u8"), Column("c", "f4"), Column("d", "i2"))
    record = np.dtype([("a", "u1"), ("b", "u8"), ("c", "f4"), ("d", "i2"), ("inner", [("e", "u1"), ("f", "u4")])])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["a"] = packet["ttl"]
        mine["b"] += np.uint64(1)
        mine["c"] = 0.5
        mine["d"] = -3
        mine["inner"]["f"] = 7


def test_a_packed_record(talk: Path) -> None:
    assert not Packed.record.isalignedstruct
    found = columns_of(trace(talk, plugins=[Counter, Packed, declared(name="last", **counting())]))
    assert [found[f"orig_packed_{name}"] for name in "abcd"] == [[64] * 3, SENT, [0.5] * 3, [-3] * 3]
    assert found["orig_counter_packets"] == found["orig_last_packets"] == SENT, "the neighbours are whole"


def counting() -> dict[str, Any]:
    """What a plugin that counts packets consists of."""
    hook = staticmethod(Counter.on_packet)
    shared, columns = Counter.shared, (Column("packets", "u4"),)
    return {"record": COUNTER, "columns": columns, "on_packet": hook, "shared": shared, "on_start": start_with_one}


def start_with_one(self: Plugin, shared: Any) -> None:
    shared["step"] = 1


def test_a_thousand_columns(talk: Path) -> None:
    """200 plugins with five columns of a flow each, a record, and one hook that they share."""
    many = []
    for at in range(200):
        columns = tuple(Column(f"c{place}", "u4", per="flow") for place in range(5))
        what = {"name": f"p{at}", "columns": columns, "on_flows_end": five_columns}
        many.append(declared(**{**counting(), **what}))
    found = trace(talk, plugins=many).plugin_columns
    assert len(found) == 1000
    assert all(values.tolist() == [6, 1, 1] for values in found.values())


def five_columns(self: Plugin, flows: EndedFlows) -> dict[str, Any]:
    return {f"c{place}": flows.orig["packets"] for place in range(5)}


class Dividing(Plugin):
    """Divides by zero: NumPy's rules hold in hooks, so nothing fails, and the result is no number."""

    name = "dividing"
    columns = (Column("share", "f8"),)
    record = np.dtype([("share", "f8")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["share"] = np.float64(0) / np.float64(partner["share"])


@pytest.mark.skipif(not COMPILED, reason="plain, NumPy warns")
def test_a_hook_that_divides_by_zero(talk: Path) -> None:
    flows = trace(talk, plugins=[Dividing])
    assert columns_of(flows)["orig_dividing_share"] == [None] * 3
    assert flows.plugin_failures == []


# --- the cache of kernels, the pages, the example ---------------------------------------------------------------


def python(*arguments: str | Path, cwd: Path, **env: str) -> str:
    """Run Python in a process of its own, with the package that is tested, and return its output."""
    here = str(Path(traceflow.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), here)))
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


PLUGIN_FILE = """
import json
import numpy as np
from traceflow import trace
from traceflow.plugins import Column, Plugin
from traceflow.tracking import track

class One(Plugin):
    name = "one"
    columns = (Column("seen", "u8"),)
    record = np.dtype({record})

    @staticmethod
    def on_packet(frame, packet, flow, mine, partner, steer, shared):
        mine["seen"] += np.uint64({step})

flows = trace({path!r}, plugins={plugins})
seen = [values.tolist() for values in flows.plugin_columns.values()]
entries = len(track._cache._cache_file._load_index())
print(json.dumps([seen, entries, sum(track.stats.cache_hits.values()), sum(track.stats.cache_misses.values())]))
"""


@pytest.mark.once("it starts processes")
@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_no_set_of_plugins_compiles_the_table_anew(tmp_path: Path, cache_without: Callable[[str], Path]) -> None:
    """Hooks are called by their address, so one compiled `track` serves all sets: none, this one, and that one."""
    path, cache = talk_of(tmp_path), cache_without("any that is called so")
    said = []
    for name, record, step, plugins in (
        ("filling", "[('seen', 'u8')]", 1, "[]"),  # where the cache of the tests has no `track` yet
        ("none", "[('seen', 'u8')]", 1, "[]"),
        ("one", "[('seen', 'u8')]", 1, "[One]"),
        ("another", "[('other', 'u2', (50,)), ('seen', 'u8')]", 2, "[One]"),
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(PLUGIN_FILE.format(record=record, step=step, plugins=plugins, path=str(path)))
        said.append(json.loads(python(script, cwd=tmp_path, NUMBA_CACHE_DIR=str(cache))))
    # columns; entries of `track` in the cache; loaded from there; compiled
    twice = [[None if count is None else 2 * count for count in counts] for counts in (SENT, HEARD)]
    entries = said[0][1]
    assert entries >= 1
    assert said[1:] == [[[], entries, 1, 0], [[SENT, HEARD], entries, 1, 0], [twice, entries, 1, 0]]


def blocks_of(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.once("a page says the same on every Python")
def test_the_page_about_plugins_runs_and_says_what_it_shows(tmp_path: Path) -> None:
    """All its code is one program, run beside fixtures/; its output is all that stands in blocks of text."""
    page = ROOT / "docs" / "plugins.md"
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks_of(page, "python")))
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    assert python(script, cwd=tmp_path) == "".join(blocks_of(page, "text"))


USE = """
import json
from traceflow import trace
from traceflow.plugins.registry import available
(found,) = [one for one in available() if one.name == "bursts"]
flows = trace("capture.pcap", plugins=["bursts"])
slow = trace("capture.pcap", plugins=["bursts:gap_ms=1"])
columns = {name: values.tolist() for name, values in flows.plugin_columns.items()}
print(json.dumps([found.source, found.problem, columns, slow.plugin_columns["orig_bursts_count"].tolist()]))
"""


@pytest.mark.once("it installs a package")
def test_the_example_can_be_installed_and_is_known_by_name(tmp_path: Path) -> None:
    version = importlib.metadata.version("setuptools").split(".")
    if [int(part) for part in version[:2]] < [70, 1]:
        pytest.skip("setuptools before 70.1, which builds no wheel alone; the extra `test` asks for a later one")
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(ROOT / "examples" / "burst-plugin", project)
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    python(*install, "--target", site, project, cwd=tmp_path)
    talk_of(tmp_path)
    said = json.loads(python("-c", USE, cwd=tmp_path, PYTHONPATH=str(site)))
    # T01: SYN / SYN-ACK / ACK, data / data / ACK, FIN / ACK, FIN / ACK: 4 bursts of the originator, the longest of two;
    # three of the responder; six turns. A millisecond lies between any two packets: with a gap of that each is a burst.
    columns = {
        "orig_bursts_count": [4, 1, 1],
        "resp_bursts_count": [3, None, 1],
        "orig_bursts_longest": [2, 1, 1],
        "resp_bursts_longest": [2, None, 1],
        "bursts_turns": [6, 0, 1],
    }
    assert said == ["traceflow-bursts", "", columns, [6, 1, 1]]
    flows = ("-m", "traceflow", "flows", "capture.pcap", "-q", "--plugin", "bursts")
    table = list(csv.DictReader(io.StringIO(python(*flows, "-T", "csv", cwd=tmp_path, PYTHONPATH=str(site)))))
    lines = python(*flows, "-T", "jsonl", cwd=tmp_path, PYTHONPATH=str(site)).splitlines()
    for name, values in columns.items():
        assert [row[name] for row in table] == ["" if value is None else str(value) for value in values]
        assert [json.loads(line)[name] for line in lines] == values


# --- what a hook may not do --------------------------------------------------------------------------------------


class Meddler(Plugin):
    """Writes where it may only read."""

    name = "meddler"
    options = (Option("where", "rows"),)

    def on_batch(self, batch: Batch) -> None:
        if self.settings["where"] == "batch":
            batch.flows[:] = 2
        if self.settings["where"] == "exit":
            raise SystemExit(9)

    def on_flows_end(self, flows: EndedFlows) -> None:
        if self.settings["where"] == "rows":
            flows.rows["number"] = 1

    def on_flow_end(self, flow: EndedFlow) -> None:
        if self.settings["where"] == "row":
            flow.row["number"] = 1


@pytest.mark.parametrize("where", ["batch", "rows", "row", "exit"])
def test_hooks_cannot_change_flows_or_end_the_process(where: str, talk: Path) -> None:
    plain = trace(talk)
    with pytest.warns(IncompleteWarning, match="plugin meddler failed in on_"):
        flows = trace(talk, plugins=[Meddler(where=where)])
    assert flows.columns.tobytes() == plain.columns.tobytes()
    assert [flow.frames.tolist() for flow in flows] == [flow.frames.tolist() for flow in plain]


class Unsayable(Plugin):
    """Raises what cannot say why."""

    name = "unsayable"

    class Mute(Exception):  # noqa: N818 - a name of somebody else
        def __str__(self) -> str:
            raise RuntimeError

    def on_flows_end(self, flows: EndedFlows) -> None:
        raise self.Mute


def test_an_error_without_a_text_is_named_by_its_kind(talk: Path) -> None:
    with pytest.warns(IncompleteWarning, match=r"plugin unsayable failed in on_flows_end .*: Mute"):
        assert len(trace(talk, plugins=[Unsayable])) == 3


class NoField(Plugin):
    name = "nofield"
    record = np.dtype([("n", "u4")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["m"] += ONE


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_what_cannot_be_compiled_is_named_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"on_packet cannot be compiled: .*'?m'?.*") as raised:
        PluginSet([NoField()])
    assert "\x1b" not in str(raised.value)
    assert "Failed in nopython" not in str(raised.value)


class Wide(Plugin):
    """A field that holds more than its column."""

    name = "wide"
    columns = (Column("n", "u1"),)
    record = np.dtype([("n", "u4")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["n"] = np.uint32(300)


def test_packets_are_held_against_the_column_as_flows_are(talk: Path) -> None:
    with open_source(talk) as captures:
        running = PluginSet([Wide()], shots=True)
        run = Run(captures, Options(), running)
        for step in run.steps():
            if step.batch is not None:
                columns = running.packet_columns(run.table.shots, len(step.marks))
                assert columns["wide_n"].mask.all()
    assert [failure.name for failure in running.failures] == ["wide"]
