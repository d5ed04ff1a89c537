"""The plugin tcpwin: exchanges by hand, Tranalyzer's packet files, and the figures of its end report.

In the exchanges a frame comes 1 ms after the one before, unless something was waited. Bits of `status`: 0x01 FIN,
0x02 SYN, 0x04 RST, 0x08 PSH, 0x10 ACK, 0x40 TCP seen, 0x80 abnormal.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from exchange import ACK, FIN, SYN, TCP, Exchange, ipv4, tcp
from packetwise import packetwise

import traceflow
from traceflow.errors import UsageError
from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.plugins import Plugin, PluginSet, load_plugins
from traceflow.plugins.tcpwin import TcpWin
from traceflow.sources import open_source

Script = Callable[[Exchange], object]

EXERCISE_SHA256 = "26dc6e000aab63a9d3f43f11439f52090ba43a5cbcbb47ebd120a3f6386d4251"


def traced(talk: Exchange, plugin: str | Plugin = "tcpwin", profile: str = "tranalyzer") -> FlowSet:
    flows = traceflow.trace(io.BytesIO(talk.wire.pcap_octets(nanosecond=True)), profile=profile, plugins=[plugin])
    assert flows.plugin_failures == []
    return flows


def frames_of(talk: Exchange, plugin: str | Plugin = "tcpwin") -> list[list[int]]:
    return [flow.frames.tolist() for flow in traced(talk, plugin)]


def after_each(talk: Exchange, plugin: str = "tcpwin") -> list[tuple[str, int, int, int]]:
    """(side, state, status, small windows) of the sender after each packet."""
    rows = packetwise(io.BytesIO(talk.wire.pcap_octets(nanosecond=True)), plugin)
    columns = ("side", "tcpwin_state", "tcpwin_status", "tcpwin_zero_windows")
    return [tuple(row[name] for name in columns) for row in rows.values()]  # type: ignore[misc] # of this length


# --- states, and the timeout of each ----------------------------------------------------------------------------

STATES: dict[str, tuple[Script, int, int, int]] = {
    # script, state and status of `a`, its timeout in microseconds
    "SYN": (lambda e: e.a.syn(), 1, 0x42, 2_200_000),
    "SYN, and its ACK": (lambda e: [e.a.syn(), e.a.ack()], 1, 0x52, 1_000_000),
    "SYN again": (lambda e: [e.a.syn(), e.a.syn()], 1, 0x42, 1_000_000),  # the state is no longer NEW
    "mid-connection": (lambda e: e.a.data(b"x"), 2, 0x58, 1_000_000),
    "RST without ACK": (lambda e: e.a.rst(), 0, 0x44, 182_000_000),  # still NEW: nothing sets a timeout
    "RST, then ACK": (lambda e: [e.a.rst(), e.a.ack()], 4, 0x54, 1_000_000),  # the RST stays in the status
    "RST and ACK": (lambda e: e.a.rst_ack(), 4, 0x54, 1_000_000),
    "FIN": (lambda e: e.a.fin(), 4, 0x51, 1_000_000),
    "FIN, then ACK": (lambda e: [e.a.fin(), e.a.ack()], 4, 0x51, 1000),
    "SYN and FIN": (lambda e: e.a.segment(SYN | FIN), 1, 0x43, 2_200_000),  # a SYN is looked for first
    "SYN, then FIN": (lambda e: [e.a.syn(), e.a.fin()], 4, 0x53, 1_000_000),
    "small window": (lambda e: e.a.ack(window=0), 2, 0x50, 1_000_000),
    "two small windows": (lambda e: [e.a.ack(window=0), e.a.ack(window=0)], 4, 0xD0, 1000),
    "FIN with the second": (lambda e: [e.a.ack(window=0), e.a.segment(FIN | ACK, window=0)], 4, 0x51, 1_000_000),
    "URG, ECE and CWR": (lambda e: e.a.segment(0xF0), 2, 0x50, 1_000_000),  # only the low five flags are kept
    "two small SYNs": (lambda e: [e.a.syn(window=0), e.a.syn(window=0)], 4, 0xC2, 1000),
    "small, without ACK": (lambda e: [e.a.segment(0, window=0) for _ in range(3)], 0, 0x40, 182_000_000),
}


@pytest.mark.parametrize("name", STATES)
def test_state_status_and_timeout(name: str) -> None:
    """The state after the script; and a segment one nanosecond before the timeout belongs, at the timeout it does not.

    Nothing but `a` speaks, so its timeout is that of the flow.
    """
    script, state, status, timeout_us = STATES[name]
    for short_ns, flows in ((1, 1), (0, 2)):
        talk = Exchange()
        script(talk)
        (flow,) = traced(talk)
        assert (flow.orig_tcpwin_state, flow.orig_tcpwin_status, flow.resp_tcpwin_state) == (state, status, None)
        talk.wait(us=timeout_us, ns=-short_ns)
        talk.a.ack()
        assert len(traced(talk)) == flows


def test_an_orderly_connection() -> None:
    """Frame by frame. A FIN makes its sender ABRT, and only the next segment of it has the timeout of that."""
    talk = Exchange()
    talk.connection()
    assert after_each(talk) == [
        ("A", 1, 0x42, 0),
        ("B", 1, 0x52, 0),
        ("A", 1, 0x52, 0),
        ("A", 1, 0x5A, 0),
        ("B", 1, 0x5A, 0),
        ("A", 1, 0x5A, 0),
        ("A", 4, 0x5B, 0),
        ("B", 1, 0x5A, 0),
        ("B", 4, 0x5B, 0),
        ("A", 4, 0x5B, 0),
    ]
    talk.wait(ms=998)  # b has been silent for 999 ms of its 1 s, a for more than its 1 ms
    talk.b.ack()
    assert len(traced(talk)) == 1


def test_a_flow_ends_when_both_have_been_silent_for_their_own_timeouts() -> None:
    """The SYN of `a` holds for 2.2 s, the RST+ACK of `b` for 1 s: what comes 2.1 s behind the SYN still belongs."""
    talk = Exchange()
    talk.a.syn()
    talk.b.rst_ack()
    talk.wait(us=2_198_999)
    talk.b.ack()
    assert frames_of(talk) == [[1, 2, 3]]
    talk.wire.at(talk.wire.frames[0].time_ns + 4 * 10**9)
    talk.a.syn()
    assert frames_of(talk) == [[1, 2, 3], [4]]


def test_an_abnormal_direction_takes_its_partner_along() -> None:
    """The second small window of `b` has both ABRT with 1 ms; the status of `a` stays as it was."""
    for wait_us, frames in ((999, [[1, 2, 3, 4]]), (1000, [[1, 2, 3], [4]])):
        talk = Exchange()
        talk.a.data(b"x")
        talk.b.ack(window=0)
        talk.b.ack(window=0)
        talk.wait(us=wait_us)
        talk.a.ack()
        flows = traced(talk)
        assert [flow.frames.tolist() for flow in flows] == frames
        first = flows[0]
        assert (first.orig_tcpwin_state, first.orig_tcpwin_status, first.orig_tcpwin_zero_windows) == (4, 0x58, 0)
        assert (first.resp_tcpwin_state, first.resp_tcpwin_status, first.resp_tcpwin_zero_windows) == (4, 0xD0, 2)
        assert first.alarm == 1
    assert (flows[1].orig_tcpwin_state, flows[1].alarm) == (2, 0)  # the next flow begins anew


def test_a_partner_that_is_not_there_yet_begins_anew() -> None:
    """Abnormal `a` has 1 ms; `b` comes within, with a RST without ACK, so it is NEW, and has the 182 s of the core."""
    talk = Exchange()
    talk.a.ack(window=0)
    talk.a.ack(window=0)
    talk.wait(us=500)
    talk.b.rst()
    assert after_each(talk)[2] == ("B", 0, 0x44, 0)
    talk.wait(s=181)
    talk.a.ack()
    assert frames_of(talk) == [[1, 2, 3, 4]]


# --- windows -----------------------------------------------------------------------------------------------------


def test_the_first_window_and_time_to_live_of_each_direction() -> None:
    talk = Exchange()
    talk.a.syn(window=65535)
    talk.b.syn_ack(window=0)
    talk.a.ack(window=17)
    talk.b.ack(window=5840)
    octets = tcp(talk.a.address, talk.b.address, 1000, 80, window=1)
    talk.wire.packet(ipv4(talk.a.address, talk.b.address, TCP, octets, ttl=3))
    (flow,) = traced(talk)
    assert (flow.orig_tcpwin_window, flow.resp_tcpwin_window) == (65535, 0)
    assert (flow.orig_tcpwin_zero_windows, flow.resp_tcpwin_zero_windows, flow.alarm) == (0, 1, 1)
    assert (flow.orig_tcpwin_ttl, flow.resp_tcpwin_ttl) == (64, 64)


def test_later_fragments_say_nothing() -> None:
    """One segment in two fragments, in either order: one small window, and the flow has both frames."""
    talk = Exchange()
    a, b = talk.a.address, talk.b.address
    octets = tcp(a, b, 1000, 80, window=0, payload=bytes(12))  # 20 octets of header, 12 of payload
    first, later = ipv4(a, b, TCP, octets[:24], more=True, ttl=9), ipv4(a, b, TCP, octets[24:], fragment=3, ttl=7)
    for order in ((first, later), (later, first)):
        talk = Exchange()
        for packet in order:
            talk.wire.packet(packet)
        (flow,) = traced(talk)
        assert flow.orig.packets == 2
        assert (flow.orig_tcpwin_zero_windows, flow.orig_tcpwin_state, flow.orig_tcpwin_status) == (1, 2, 0x50)
        assert flow.orig_tcpwin_ttl == 9


def test_what_was_not_captured_says_nothing() -> None:
    """14 octets of Ethernet and 20 of IP; the flags lie in the 14th octet behind, the window in the 15th and 16th."""
    for captured, state, status, window in (
        (47, 0, 0, None),
        (48, 2, 0x58, None),
        (49, 2, 0x58, None),
        (50, 2, 0x58, 0),
    ):
        talk = Exchange()
        talk.a.window = 0
        talk.a.data(b"x", captured=captured)
        (flow,) = traced(talk)
        assert (flow.orig_tcpwin_state, flow.orig_tcpwin_status, flow.orig_tcpwin_window) == (state, status, window)
        assert flow.orig_tcpwin_zero_windows == flow.alarm == (window == 0)


def test_other_protocols() -> None:
    talk = Exchange()
    talk.a.udp()
    (flow,) = traced(talk)
    assert [getattr(flow, f"orig_tcpwin_{name}") for name in ("state", "status", "zero_windows", "window")] == [
        None
    ] * 4
    assert (flow.orig_tcpwin_ttl, flow.resp_tcpwin_ttl, flow.alarm) == (64, None, 0)


# --- constants ---------------------------------------------------------------------------------------------------


def cut_after(plugin: str, us: int, *, script: Script) -> bool:
    """Whether a segment of `a` that comes some microseconds behind a script opens another flow."""
    talk = Exchange()
    script(talk)
    talk.wait(us=us)
    talk.a.ack()
    return len(traced(talk, plugin)) == 2


@pytest.mark.parametrize(
    ("settings", "script", "timeout_us"),
    [
        ("est=5.0", lambda e: e.a.ack(), 5_000_000),
        ("est=5", lambda e: e.a.fin(), 5_000_000),
        ("bgn=0.25", lambda e: e.a.syn(), 250_000),
        ("abrt=3", lambda e: [e.a.fin(), e.a.ack()], 3_000_000),
        ("flwprg=1", lambda e: e.a.ack(window=0), 1000),
        ("flwprg=3", lambda e: [e.a.ack(window=0), e.a.ack(window=0)], 1_000_000),
        ("flwprg=0", lambda e: e.a.ack(), 1000),  # every segment is one too many
        ("flwprg=1,threshold=64241", lambda e: e.a.ack(), 1000),  # the window is 64240
        ("flwprg=1,threshold=64240", lambda e: e.a.ack(), 1_000_000),
        ("flwprg=1,threshold=0", lambda e: e.a.ack(window=0), 1_000_000),  # no window lies below 0
        ("new=5.0", lambda e: e.a.rst(), 182_000_000),
    ],
)
def test_other_constants(settings: str, script: Script, timeout_us: int) -> None:
    plugin = f"tcpwin:{settings}"
    assert [cut_after(plugin, us, script=script) for us in (timeout_us - 1, timeout_us)] == [False, True]


def test_other_constants_cut_otherwise() -> None:
    """`a` at 0, 4, 4.001, 7 s, its second and third segment with window 0.

    By default the silence of 4 s cuts, then the second small window has 1 ms: 3 flows. With est=5 nothing cuts before
    the second small window does. With flwprg=1 and est=5 the first one does, 1 ms before the next.
    """
    talk = Exchange()
    talk.a.ack()
    talk.wait(s=4)
    talk.a.ack(window=0)
    talk.a.ack(window=0)
    talk.wait(ms=2999)
    talk.a.ack()
    assert frames_of(talk) == [[1], [2, 3], [4]]
    assert frames_of(talk, "tcpwin:est=5.0") == [[1, 2, 3], [4]]
    assert frames_of(talk, "tcpwin:est=5.0,flwprg=3") == [[1, 2, 3, 4]]
    assert frames_of(talk, "tcpwin:est=5.0,flwprg=1") == [[1, 2], [3], [4]]
    assert frames_of(talk, "tcpwin:est=5.0,flwprg=1,abrt=0.0011") == [[1, 2, 3], [4]]


def test_a_timeout_of_nothing() -> None:
    """What comes at the same moment comes too late."""
    talk = Exchange()
    talk.a.ack()
    talk.wait()
    talk.a.ack()
    assert frames_of(talk, "tcpwin:est=0") == [[1], [2]]


@pytest.mark.parametrize("value", ["-0.001", "nan", "inf", "-inf", "1e10", "soon", ""])
@pytest.mark.parametrize("option", ["new", "bgn", "est", "abrt"])
def test_timeouts_that_are_refused(option: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"option {option} is"):
        load_plugins([f"tcpwin:{option}={value}"])


@pytest.mark.parametrize(
    ("option", "value"),
    [("threshold", -1), ("threshold", 65537), ("threshold", 1.0), ("flwprg", -1), ("flwprg", 2**32), ("flwprg", True)],
)
def test_numbers_that_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"option {option} is"):
        TcpWin(**{option: value})


def test_the_longest_timeouts_do_not_wrap() -> None:
    """1e9 s from the latest time stamp that there is."""
    talk = Exchange()
    talk.wire.at(2**32 * 10**9 - 10**9)  # the last second that a pcap can write
    talk.a.ack()
    talk.a.ack()
    assert frames_of(talk, "tcpwin:est=1e9,bgn=1e9,abrt=1e9,new=1e9") == [[1, 2]]


# --- the report --------------------------------------------------------------------------------------------------


def test_the_report_gathers_all_directions() -> None:
    """The flow of `a` ends ABRT with 0x51, that of `c` stays NEW with 0x44, and one small window of `b`."""
    talk = Exchange()
    talk.a.fin()
    talk.b.ack(window=0)
    Exchange("10.0.0.3:1", "10.0.0.2:2", wire=talk.wire).a.rst()
    plugin = TcpWin()
    for _ in range(2):  # a second run begins anew
        plugins = PluginSet([plugin])
        with open_source(io.BytesIO(talk.wire.pcap_octets())) as captures:
            for _step in Run(captures, options_for("tranalyzer"), plugins).steps():
                pass
        assert plugins.report() == {"tcpwin": ["status 0x55, state 0x06 (OR of all directions)", "1 windows below 1"]}


# --- Tranalyzer 0.9.3 --------------------------------------------------------------------------------------------

_SLOW = pytest.mark.slow_plain("10 000 packets")
SMALL, LARGE = "faf-prefix", pytest.param("m57-10k", marks=_SLOW)
CAPTURES = {"faf-prefix": "faf-prefix.pcap", "m57-10k": "2009-M57-day11-18-10k.pcap"}
FIGURES = {
    # packets, flows, directions of IPv4 and IPv6; OR of status and of state, small windows
    "faf-prefix": (246, 16, 32, 0x5B, 0x07, 0),
    "m57-10k": (8515, 1124, 1797, 0x5F, 0x07, 37),  # all counts with layer 2: 2182 - 385 = 1797 directions
}


def oracle_rows(name: str, shared: Path) -> dict[int, dict[str, str]]:
    """Rows of Tranalyzer's packet file by packet, IPv4 and IPv6 only."""
    oracle = shared / "oracle" / "tranalyzer" / f"{name}.tcpwin.packets.tsv.gz"
    if not oracle.exists():
        pytest.skip("../shared/oracle is absent")
    with gzip.open(oracle, "rt") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return {int(row["pktNo"]): row for row in rows if row["ethType"] in ("0x0800", "0x86dd")}


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_every_packet_is_judged_as_tranalyzer_does(name: str, shared: Path) -> None:
    """Flow, direction, status, state and count of each packet of two captures, and how many of each there are."""
    theirs = oracle_rows(name, shared)
    ours = packetwise(shared / "corpus" / "tranalyzer" / CAPTURES[name], "tcpwin")
    packets, flows, directions, *_ = FIGURES[name]
    assert ours.keys() == theirs.keys()
    assert len(ours) == packets
    wrong = [n for n, row in ours.items() if row["side"] != theirs[n]["dir"]]
    for n, row in ours.items():
        if theirs[n]["l4Proto"] == str(TCP):
            said = theirs[n]["tcpWinStat"], theirs[n]["tcpWinState"], theirs[n]["tcpWinThPktCnt"]
            found = row["tcpwin_status"], row["tcpwin_state"], row["tcpwin_zero_windows"]
            wrong += [n] if found != tuple(int(text, 0) for text in said) else []
    assert wrong == []
    met = {(row["flow"], theirs[n]["flowInd"]) for n, row in ours.items()}
    assert len(met) == len({one for one, _ in met}) == len({one for _, one in met}) == flows
    assert len({(row["flow"], row["side"]) for row in ours.values()}) == directions


def whole(path: Path, plugin: Plugin | None) -> tuple[FlowSet, Run]:
    """All flows of a capture, and the run, with profile tranalyzer."""
    with open_source(path) as captures:
        run = Run(captures, options_for("tranalyzer"), PluginSet([] if plugin is None else [plugin]))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
        return collector.flows(), run


def directions(flows: FlowSet) -> tuple[int, int]:
    """Flow numbers (A, as Tranalyzer's end report counts), and the directions beyond them (B)."""
    both = sum(flow.orig.packets > 0 and flow.resp.packets > 0 for flow in flows)
    return len(flows), both


@pytest.mark.parametrize(
    ("name", "by_default", "with_tcpwin"),
    [
        ("faf-prefix", (11, 11), (16, 16)),
        # 385 of layer 2, all of them A
        pytest.param("m57-10k", (1286 - 385, 483), (1509 - 385, 673), marks=_SLOW),
    ],
)
def test_directions_of_tranalyzers_end_report(
    name: str, by_default: tuple[int, int], with_tcpwin: tuple[int, int], shared: Path
) -> None:
    path = shared / "corpus" / "tranalyzer" / CAPTURES[name]
    if not path.exists():
        pytest.skip("../shared/corpus is absent")
    assert directions(whole(path, None)[0]) == by_default
    flows, run = whole(path, TcpWin())
    assert directions(flows) == with_tcpwin
    if name == "faf-prefix":  # Tranalyzer holds at most 12 over the whole of faf-exercise, of which this is a part
        assert run.table.most_live[1] <= 12


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_the_figures_of_tranalyzers_end_report(name: str, shared: Path) -> None:
    path = shared / "corpus" / "tranalyzer" / CAPTURES[name]
    if not path.exists():
        pytest.skip("../shared/corpus is absent")
    flows, run = whole(path, TcpWin())
    *_, status, state, windows = FIGURES[name]
    assert run.plugins.report()["tcpwin"] == [
        f"status 0x{status:02x}, state 0x{state:02x} (OR of all directions)",
        f"{windows} windows below 1",
    ]
    assert len(flows) == FIGURES[name][1]
    small = [(flow.orig_tcpwin_zero_windows or 0) + (flow.resp_tcpwin_zero_windows or 0) for flow in flows]
    assert sum(small) == windows
    assert [flow.alarm for flow in flows] == [int(count > 0) for count in small]


def test_the_flows_of_port_1379(shared: Path) -> None:
    """Flows 10, 11, 13 and 16 of faf-prefix as Tranalyzer's flow file has them.

    (first, duration, packets, octets, status, time to live, first window) of A, then of B.
    """
    path = shared / "corpus" / "tranalyzer" / CAPTURES["faf-prefix"]
    if not path.exists():
        pytest.skip("../shared/corpus is absent")
    flows, _ = whole(path, TcpWin())

    def sides(number: int) -> Iterator[tuple[Any, ...]]:
        flow = flows[number - 1]
        assert (flow.number, flow.orig_port, flow.resp_port) == (number, 1379, 80)
        for side in ("orig", "resp"):
            half = getattr(flow, side)
            times = [Decimal(half.first_ns) / 10**9, Decimal(half.last_ns - half.first_ns) / 10**9]
            said = [getattr(flow, f"{side}_tcpwin_{name}") for name in ("status", "ttl", "window")]
            yield *(f"{time:.6f}" for time in times), half.packets, half.payload_octets, *said

    assert {number: [*sides(number)] for number in (10, 11, 13, 16)} == {
        10: [
            ("1258562467.749142", "0.150908", 4, 449, 0x5A, 128, 65535),
            ("1258562467.754689", "0.007003", 3, 444, 0x5A, 52, 5840),
        ],
        11: [
            ("1258562477.713894", "0.740531", 8, 1352, 0x58, 128, 65091),
            ("1258562477.772691", "0.681326", 13, 15162, 0x58, 52, 7504),
        ],
        13: [
            ("1258562501.432514", "0.000000", 1, 0, 0x50, 128, 65535),
            ("1258562501.432305", "0.000000", 1, 0, 0x51, 52, 9648),
        ],
        16: [
            ("1258562509.633370", "0.000000", 1, 0, 0x51, 128, 65535),
            ("1258562509.653962", "0.000000", 1, 0, 0x50, 52, 9648),
        ],
    }


def test_the_whole_of_faf_exercise() -> None:
    """Every figure that is known of the capture of which faf-prefix is the beginning."""
    given = os.environ.get("TRACEFLOW_FAF_EXERCISE")
    if not given:
        pytest.skip("TRACEFLOW_FAF_EXERCISE names no faf-exercise.pcap")
    path = Path(given)
    if hashlib.sha256(path.read_bytes()).hexdigest() != EXERCISE_SHA256:
        pytest.skip(f"{path} is another file: its SHA-256 is not {EXERCISE_SHA256}")
    flows, run = whole(path, None)
    assert run.account().frames == 5902
    assert sum(directions(flows)) == 73
    flows, run = whole(path, TcpWin())
    assert directions(flows) == (48, 46)
    assert run.plugins.report()["tcpwin"] == [
        "status 0xdf, state 0x07 (OR of all directions)",
        "4 windows below 1",
    ]
    assert run.table.most_live[1] == 12  # its flows are directions
    talks = [flow for flow in flows if 49330 in (flow.orig_port, flow.resp_port)]
    assert [(flow.number, flow.orig.packets, flow.resp.packets) for flow in talks] == [
        (44, 49, 89),
        (45, 3012, 1464),
        (47, 1, 0),
    ]
    said = [(flow.orig_tcpwin_status, flow.resp_tcpwin_status) for flow in talks]
    assert said == [(0xD2, 0x5A), (0x59, 0x50), (0x54, None)]
    rows = packetwise(path, "tcpwin")
    of_flow = [(n, row["tcpwin_zero_windows"]) for n, row in rows.items() if row["flow"] == 44 and row["side"] == "A"]
    assert next(n for n, count in of_flow if count == 2) == 1422
