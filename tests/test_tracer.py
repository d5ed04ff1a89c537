"""The engine, fed packet by packet: row by row what it takes, what it gives, and what it must never do.

Expected labels and frame lists are written by hand from the scenario; those of fixtures are the hand counts of
fixtures/expected.json. Packets of fixtures are read by tests/oracle.py, which shares no code with the package.
"""

from __future__ import annotations

import dataclasses
import decimal
import ipaddress
import itertools
import json
import os
import plistlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dictdumper
import dpkt
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import traceflow
from traceflow import TraceFlow, from_octets
from traceflow.errors import CannotWriteError, FileExists, UsageError
from traceflow.packets import TIME_MAX_NS
from traceflow.sinks import dictdump
from traceflow.tracer import CallbackWarning, FormatWarning, Index, IndexView

CLIENT, SERVER = ("10.0.0.1", 1000), ("10.0.0.2", 80)
OPEN_FILES = Path("/proc/self/fd")

needs_proc = pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="open files are counted in /proc")


def packet(index: int, end: str | tuple[str, int], flags: str = "", **more: Any) -> dict[str, Any]:
    """The ten fields. `end` is c (client to server), s (server to client) or a source talking to the server."""
    source, target = {"c": (CLIENT, SERVER), "s": (SERVER, CLIENT)}[end] if isinstance(end, str) else (end, SERVER)
    return {
        "protocol": 1,
        "index": index,
        "frame": {"number": index, "text": 'a<b & "c"'},
        "syn": "S" in flags,
        "fin": "F" in flags,
        "src": source[0],
        "dst": target[0],
        "srcport": source[1],
        "dstport": target[1],
        "timestamp": 1700000000 + index,
        **({"rst": True} if "R" in flags else {}),
        **more,
    }


T01 = ["cS", "sS", "c", "c", "s", "c", "cF", "s", "sF", "c"]
"""SYN, SYN-ACK, ACK, data, data, ACK, FIN, ACK, FIN, ACK with the ten fields, which have no ACK flag."""


def packets(script: list[str], **more: Any) -> list[dict[str, Any]]:
    """Packets 1, 2, ... of a script of sender and flags."""
    return [packet(at, one[0], one[1:], **more) for at, one in enumerate(script, 1)]


def traced(script: list[Any], **options: Any) -> list[tuple[int, ...]]:
    """Frame lists of all buffers."""
    tracer = TraceFlow(**options)
    for one in script if script and isinstance(script[0], dict) else packets(script):
        tracer.dump(one)
    return [index.index for index in tracer.finish()]


def fixture_packets(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """The packets of captures as a user's own dissector would hand them over: with seq and ack."""
    number = 0
    for path in paths:
        for frame in oracle.read_frames(path.read_bytes()):
            number += 1
            try:
                found = oracle.read_packet(frame)
            except oracle.NoFlowError:
                continue
            flags = found.flags or 0
            tcp = found.flags is not None
            yield {
                "protocol": frame.link,
                "index": number,
                "frame": {},
                "syn": bool(flags & oracle.SYN),
                "fin": bool(flags & oracle.FIN),
                "rst": bool(flags & oracle.RST),
                "src": ipaddress.ip_address(found.source[0]),
                "dst": ipaddress.ip_address(found.target[0]),
                "srcport": found.source[1],
                "dstport": found.target[1],
                "timestamp": Decimal(frame.time_ns) / 10**9,
                "seq": found.seq if tcp else None,
                "ack": found.ack if flags & oracle.ACK else None,
                "transport": found.protocol,
            }


EXPECTED = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "expected.json").read_text("utf-8"))
SCENARIOS = [
    *("http", "T01", "T02", "T03", "T04", "T05", "T06", "T07", "T08a", "T08b", "T08c", "T08d", "T08e", "T08f"),
    *("T12a", "T12b", "T13", "T14", "T15a", "T15b", "T15c", "T15d", "T15e", "T15f", "T15g", "T29", "out-of-order"),
    *("wild-time", "time-zero"),
]


# --- Data: what dump takes ---------------------------------------------------------------------------------------


def test_t01_gives_two_buffers_with_labels_and_the_last_ack_stays() -> None:
    tracer = TraceFlow()
    for one in packets(T01):
        tracer.dump(one)
    assert [(index.index, index.label, index.fpout) for index in tracer.index] == [
        ((1, 3, 4, 6, 7, 10), "10.0.0.1_1000-10.0.0.2_80-1700000001", None),
        ((2, 5, 8, 9), "10.0.0.2_80-10.0.0.1_1000-1700000002", None),
    ]


def test_t01_with_pcapkit_boundaries_gives_the_three_flows_of_the_old_tool() -> None:
    tracer = TraceFlow(boundaries="pcapkit")
    for one in packets(T01):
        tracer.dump(one)
    assert [(index.index, index.label) for index in tracer.index] == [
        ((1, 3, 4, 6, 7), "10.0.0.1_1000-10.0.0.2_80-1700000001"),
        ((2, 5, 8, 9), "10.0.0.2_80-10.0.0.1_1000-1700000002"),
        ((10,), "10.0.0.1_1000-10.0.0.2_80-1700000010"),
    ]


def test_pcapkit_boundaries_cut_at_fin_alone_and_only_tcp() -> None:
    # A second SYN and a RST end nothing there ("RST ignored; port reuse merges two connections").
    script = ["cS", "c", "cR", "cS", "c", "cF", "cF", "c"]
    assert traced(script, boundaries="pcapkit") == [(1, 2, 3, 4, 5, 6), (7,), (8,)]
    tracer = TraceFlow(boundaries="pcapkit")
    assert tracer.trace(packet(1, "c", transport=17)) is None
    assert len(tracer.index) == 0


@dataclasses.dataclass
class Packet:
    protocol: int
    index: int
    frame: dict[str, Any]
    syn: bool
    fin: bool
    src: Any
    dst: Any
    srcport: int
    dstport: int
    timestamp: Any


class Slotted:
    __slots__ = ("dst", "dstport", "fin", "frame", "index", "protocol", "src", "srcport", "syn", "timestamp")

    def __init__(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


class LowMapping(dict[str, Any]):
    """A mapping that makes up what it lacks: asking must not change it."""

    def __missing__(self, key: str) -> Any:
        self[key] = None
        return None


@pytest.mark.parametrize(
    "form",
    [dict, LowMapping, lambda one: Packet(**one), lambda one: SimpleNamespace(**one), Slotted],
    ids=["dict", "mapping", "packet", "namespace", "slots"],
)
@pytest.mark.parametrize(
    "address",
    [str, ipaddress.ip_address, lambda text: int(ipaddress.ip_address(text))],
    ids=["text", "address", "number"],
)
def test_mappings_and_objects_with_text_or_addresses_mean_the_same(form: Any, address: Any) -> None:
    tracer = TraceFlow()
    for one in packets(T01):
        tracer(form({**one, "src": address(one["src"]), "dst": address(one["dst"])}))
    assert [index.index for index in tracer.index] == [(1, 3, 4, 6, 7, 10), (2, 5, 8, 9)]
    assert tracer.index[0].label == "10.0.0.1_1000-10.0.0.2_80-1700000001"


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (1700000000, "1700000000"),
        (1258594163.408285, "1258594163.408285"),
        (0.91372, "0.91372"),
        (1e-05, "1e-05"),
        (Decimal("1700000000.000000001"), "1700000000.000000001"),
        ("1700000000.100000000", "1700000000.100000000"),
        (np.float64(2.5), "2.5"),
        (np.int64(7), "7"),
        (-1.5, "-1.5"),
    ],
)
def test_the_label_has_the_timestamp_as_given(timestamp: Any, text: str) -> None:
    assert TraceFlow().trace(packet(1, "c", timestamp=timestamp)) == f"10.0.0.1_1000-10.0.0.2_80-{text}"


def test_times_keep_their_nanoseconds_whatever_the_decimal_context_of_the_caller() -> None:
    # Idle for UDP is 60 s: at 60 s - 1 ns the flow goes on, at 60 s it is over (flow-rules 13).
    def buffers(second: Any) -> int:
        tracer = TraceFlow()
        for index, timestamp in ((1, Decimal("1700000000.000000001")), (2, second)):
            tracer.dump(packet(index, "c", transport=17, timestamp=timestamp))
        return len(tracer.index)

    with decimal.localcontext(prec=3):
        assert buffers("1700000060.000000000") == 1
        assert buffers(Decimal("1700000060.0000000009999999999999999999999999999999999999")) == 1
        assert buffers("1700000060.000000001") == 2
        assert buffers(Decimal("1700000060.000000001")) == 2


def test_header_payload_and_other_extras_are_taken_and_ignored_where_they_mean_nothing() -> None:
    one = packet(1, "cS"[0], "S", header=b"\0" * 20, payload=b"abc", comment="more")
    assert TraceFlow().trace(one) == "10.0.0.1_1000-10.0.0.2_80-1700000001"


@pytest.mark.parametrize("name", ["index", "frame", "syn", "fin", "src", "dst", "srcport", "dstport", "timestamp"])
@pytest.mark.parametrize("form", [dict, lambda one: SimpleNamespace(**one)], ids=["mapping", "object"])
def test_a_missing_field_is_named(name: str, form: Any) -> None:
    tracer = TraceFlow()
    one = packet(1, "c")
    del one[name]
    with pytest.raises(UsageError, match=f"lacks {name}$"):
        tracer.dump(form(one))
    assert tracer.account.frames == 0


ODD = {
    "srcport": [-1, 65536, 1e9, "http", None, float("inf"), float("nan"), 80.5, 10**5000],
    "dstport": [-1, 65536, 2**70],
    "seq": [-1, 2**32, 1.5, "x"],
    "ack": [-1, 2**32],
    "src": [
        "10.0.0.256",
        "",
        None,
        "10.0.0.1/8",
        b"abc",
        2**128,
        -1,
        1.5,
        "fe80::1%",
        "fe80::1%../../x",
        "fe80::1%a%b",
    ],
    "dst": ["::1", "host.example"],  # IPv4 to IPv6 is no packet
    "timestamp": [
        *(float("nan"), float("inf"), float("-inf"), "nan", "-Infinity", "sNaN", "", "now", None, [], 10**5000),
        *(Decimal("NaN"), Decimal("Infinity"), 1 + 2j),
    ],
    "index": [None, "one", float("inf"), -1, 2**64, 10**5000],
    "protocol": [-1, 2**16, "Ethernet"],
    "wire": [-1, 2**32, None],
    "transport": [-1, 256],
    "octets": ["text", 5, [1, 2]],
    "payload": [5],
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, values in ODD.items() for at in range(len(values))])
def test_odd_values_are_refused_before_anything_is_counted(name: str, at: int) -> None:
    tracer = TraceFlow()
    with pytest.raises(UsageError):
        tracer.dump({**packet(1, "c"), name: ODD[name][at]})
    assert tracer.account.frames == 0
    assert len(tracer.index) == 0
    tracer.dump(packet(2, "c"))
    assert [index.index for index in tracer.index] == [(2,)]


@pytest.mark.parametrize(
    "timestamp",
    [*(0, -1, -0.5, 1e18, -1e18, 1e308, 2**63, -(2**63), True, "1e999999", "-1e999999", "1e999999999999"), "1e-999999"],
)
def test_huge_and_negative_times_are_traced(timestamp: Any) -> None:
    tracer = TraceFlow()
    tracer.dump(packet(1, "c", timestamp=timestamp))
    tracer.dump(packet(2, "c", timestamp=timestamp))
    assert [index.index for index in tracer.finish()] == [(1, 2)]


@pytest.mark.parametrize(
    ("timestamp", "time_ns"),
    [
        (1, 10**9),
        ("1258594163.408285", 1258594163_408285000),
        (1258594163.408285, 1258594163_408285000),
        ("0.0000000019", 1),
        (".5", 500_000_000),
        ("5.", 5 * 10**9),
        ("-0.0000000001", -1),  # rounded down
        ("-1.5", -1_500_000_000),
        ("1e-999999", 0),
        ("-1e-999999", -1),
        ("0e999999", 0),
        (1e-05, 10_000),
        (1e18, TIME_MAX_NS),
        (-1e18, -TIME_MAX_NS),
        ("4611686018.427387904", 2**62),
        ("4611686018.427387905", TIME_MAX_NS),
        ("99999999999", TIME_MAX_NS),
        (f"1.{'9' * 100}", 1_999_999_999),
    ],
)
def test_seconds_become_nanoseconds_rounded_down(timestamp: Any, time_ns: int) -> None:
    assert traceflow.adapters.timestamp_ns(timestamp) == time_ns


def test_frame_numbers_are_kept_as_given_also_when_they_do_not_increase() -> None:
    tracer = TraceFlow()
    for index in (7, 3, 3, 2**64 - 1, 0):
        tracer.dump(packet(index, "c", timestamp=5))
    assert tracer.index[0].index == (7, 3, 3, 2**64 - 1, 0)


@pytest.mark.parametrize("fmt", ["json", "plist", "tree"])
def test_frames_with_odd_values_are_written(tmp_path: Path, fmt: str) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    odd = [
        {"a": float("nan"), "b": 10**5000, "c": None, "d": b"\xff\0", "e": {1, 2}, "f": Decimal(1), "g": object()},
        {("k",): "\x00\x1b", 5: "\ud800", "": "\U0001f600", "]]>": "]]></plist>"},
        loop,
        {"ip": ipaddress.ip_address("::1"), "n": np.uint64(2**64 - 1), "r": np.zeros(2)},
        None,
        "text",
    ]
    with TraceFlow(tmp_path / "out", fmt) as tracer:
        for index, frame in enumerate(odd, 1):
            tracer.dump(packet(index, "c", frame=frame))
    path = Path(tracer.index[0].fpout or "")
    if fmt == "json":
        assert list(json.loads(path.read_bytes())) == [f"Frame {index}" for index in range(1, 7)]
    elif fmt == "plist":
        assert set(plistlib.loads(path.read_bytes())) == {f"Frame {index}" for index in range(1, 7)}
    else:
        assert path.read_text("utf-8").count("Frame ") == 6


# --- Boundaries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_with_sequence_numbers_give_the_hand_counted_buffers(name: str, fixtures_folder: Path) -> None:
    case = EXPECTED[name]
    expected = [frames for flow in case["flows"] for frames in (flow["orig_frames"], flow["resp_frames"]) if frames]
    tracer = TraceFlow()
    for one in fixture_packets([fixtures_folder / file for file in case["files"]]):
        tracer.dump(one)
    assert [list(index.index) for index in tracer.finish()] == sorted(expected, key=min)
    causes = {cause.text: count for cause, count in tracer.account.causes.items() if count}
    assert causes == {cause: [flow["cause"] for flow in case["flows"]].count(cause) for cause in causes}


@pytest.mark.parametrize(
    ("script", "buffers"),
    [
        # a SYN on a buffer that has seen anything but SYNs opens a new one
        (["cS", "c", "cS", "c"], [(1, 2), (3, 4)]),
        (["c", "cS"], [(1,), (2,)]),
        # SYNs that are sent again stay
        (["cS", "cS", "cS", "sS", "c"], [(1, 2, 3, 5), (4,)]),
        # the answer to a SYN looks like a SYN without the ACK flag: it belongs to the flow
        (["cS", "sS", "sS", "c"], [(1, 4), (2, 3)]),
        # RST closes both directions, and the next SYN opens
        (["cS", "sS", "c", "sR", "cS", "sS"], [(1, 3), (2, 4), (5,), (6,)]),
        (["cS", "sR", "cS"], [(1,), (2,), (3,)]),
        # frames that trail a RST stay
        (["cS", "sS", "cR", "s", "c"], [(1, 3, 5), (2, 4)]),
        # FIN from one side leaves the other open
        (["cS", "sS", "c", "cF", "s", "s", "sF", "c"], [(1, 3, 4, 8), (2, 5, 6, 7)]),
        # T01, and the same ports again
        ([*T01, *T01], [(1, 3, 4, 6, 7, 10), (2, 5, 8, 9), (11, 13, 14, 16, 17, 20), (12, 15, 18, 19)]),
        # a SYN after the own FIN, while the other side has not closed
        (["cS", "sS", "c", "cF", "cS"], [(1, 3, 4), (2,), (5,)]),
    ],
)
def test_boundaries_without_sequence_numbers(script: list[str], buffers: list[tuple[int, ...]]) -> None:
    assert traced(script) == buffers


def test_ack_not_none_means_that_the_ack_flag_is_set() -> None:
    # SYN with ack is a SYN+ACK, and that never opens a new flow (flow-rules 5), also with another number.
    syn_acks = [packet(1, "c", "S", seq=1), packet(2, "s", "S", seq=9, ack=2), packet(3, "s", "S", seq=77, ack=2)]
    assert traced(syn_acks) == [(1,), (2, 3)]
    syns = [packet(1, "c", "S", seq=1), packet(2, "s", "S", seq=9), packet(3, "s", "S", seq=77)]
    assert traced(syns) == [(1,), (2,), (3,)]


def test_a_direction_keeps_its_buffer_when_the_originator_is_found_out_late() -> None:
    # The client's data comes first, then its SYN from the other side's view: the SYN with the number that the first
    # acknowledgment names is no new flow (flow-rules 4), and shows that the sender of frame 1 is the responder (2).
    script = [packet(1, "s", seq=900, ack=101), packet(2, "c", "S", seq=100), packet(3, "s", seq=901, ack=101)]
    assert traced([*script, packet(4, "c", seq=101, ack=902)]) == [(1, 3), (2, 4)]


def test_idle_flows_end_on_packet_time_and_memory_is_bounded() -> None:
    ended: list[str] = []
    tracer = TraceFlow(max_flows=10)
    tracer.register_callback(lambda index: ended.append(index.label))
    tracer.dump(packet(1, ("10.1.0.1", 5), timestamp=0))
    tracer.dump(packet(2, ("10.1.0.2", 5), timestamp=299.999999999))
    assert ended == []
    tracer.dump(packet(3, ("10.1.0.2", 5), timestamp=300))
    assert ended == ["10.1.0.1_5-10.0.0.2_80-0"]
    for index in range(50):
        tracer.dump(packet(index, ("10.2.0.1", index), timestamp=300))
    assert len(ended) == 1 + 41
    assert tracer.account.causes[traceflow.EndCause.EVICTED] == 41


def test_options_are_those_of_the_table() -> None:
    assert traced([packet(1, "c"), packet(2, "c", timestamp=1700000007)], idle_timeout_tcp_ns=10**9) == [(1,), (2,)]
    with pytest.raises(UsageError, match="idle_timeout_tcp_ns"):
        TraceFlow(idle_timeout_tcp_sn=1)
    with pytest.raises(UsageError, match="pcapkit"):
        TraceFlow(boundaries="pcapkid")


# --- Labels ------------------------------------------------------------------------------------------------------


def test_colons_of_ipv6_become_points() -> None:
    one = packet(1, "c", src="2001:DB8:0::1", dst="::1", timestamp=1.5)
    assert TraceFlow().trace(one) == "2001.db8..1_1000-..1_80-1.5"
    mapped = packet(1, "c", src="::ffff:c000:201", dst="::1", timestamp=1.5)  # as RFC 5952, 5, writes it
    assert TraceFlow().trace(mapped) == "..ffff.192.0.2.1_1000-..1_80-1.5"


def test_other_protocols_put_their_name_first_and_leave_out_ports_that_do_not_exist() -> None:
    tracer = TraceFlow()
    assert tracer.trace(packet(1, "c", transport=17)) == "UDP_10.0.0.1_1000-10.0.0.2_80-1700000001"
    assert tracer.trace(packet(2, "c", transport=1, srcport=0, dstport=0)) == "ICMP_10.0.0.1-10.0.0.2-1700000002"
    assert tracer.trace(packet(3, "c")) == "10.0.0.1_1000-10.0.0.2_80-1700000003"


def test_a_label_that_comes_again_gets_a_suffix(tmp_path: Path) -> None:
    script = [packet(index, "c", "F", timestamp=1.0) for index in range(1, 5)]
    with TraceFlow(tmp_path / "out", "json", boundaries="pcapkit") as tracer:
        for one in script:
            tracer.dump(one)
    label = "10.0.0.1_1000-10.0.0.2_80-1.0"
    assert [index.label for index in tracer.index] == [label, f"{label}-1", f"{label}-2", f"{label}-3"]
    for number, index in enumerate(tracer.index, 1):
        assert index.fpout == str(tmp_path / "out" / f"{index.label}.json")
        assert list(json.loads(Path(index.fpout).read_bytes())) == [f"Frame {number}"]


SCOPES = st.text(st.characters(exclude_characters="%/"), min_size=1, max_size=20) | st.sampled_from(
    ["..", "\\..\\x", "a\0b", "con", "a:b", "\n"]
)


@given(
    st.builds(lambda scope: f"fe80::1%{scope}", SCOPES) | st.ip_addresses(v=6).map(str),
    st.floats(allow_nan=False, allow_infinity=False) | st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.integers(0, 65535),
    st.integers(0, 255),
)
def test_labels_never_leave_the_folder(src: str, timestamp: Any, port: int, transport: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "a" / "out"
        with TraceFlow(folder, "tree") as tracer:
            tracer.dump(packet(1, "c", src=src, dst="::1", srcport=port, transport=transport, timestamp=timestamp))
        (index,) = tracer.index
        assert index.fpout is not None
        assert Path(index.fpout).resolve().parent == folder.resolve()
        assert set(index.label) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+_-")
        inside = [path for path in Path(name).rglob("*") if path.is_file()]
        assert inside == [folder / f"{index.label}.txt"]


# --- index, submit, finish, callbacks ----------------------------------------------------------------------------


def test_index_stands_in_opening_order_and_reading_changes_nothing() -> None:
    tracer = TraceFlow(boundaries="pcapkit")
    script = [packet(1, ("10.1.0.1", 5)), packet(2, ("10.1.0.2", 5)), packet(3, ("10.1.0.1", 5), "F")]
    script += [packet(4, ("10.1.0.3", 5)), packet(5, ("10.1.0.2", 5), "F"), packet(6, ("10.1.0.1", 5))]
    seen = []
    for one in script:
        tracer.dump(one)
        assert tracer.index == tracer.index == tracer.submit()
        seen.append(tuple(tracer.index))
    assert [index.index for index in tracer.index] == [(1, 3), (2, 5), (4,), (6,)]
    for before, after in itertools.pairwise(seen):
        assert [index.label for index in after][: len(before)] == [index.label for index in before]
    # what was read earlier is what was true then
    assert [[index.index for index in view] for view in seen[:3]] == [[(1,)], [(1,), (2,)], [(1, 3), (2,)]]
    assert tracer.finish() == seen[-1]


def test_the_index_is_a_sequence() -> None:
    tracer = TraceFlow()
    assert (len(tracer.index), tuple(tracer.index), repr(tracer.index)) == (0, (), "()")
    for one in packets(T01):
        tracer.dump(one)
    view = tracer.index
    assert isinstance(view, IndexView)
    assert view[-1] is view[1]
    assert view[0:2] == (view[0], view[1])
    assert view[0] in view
    assert list(reversed(view)) == [view[1], view[0]]
    with pytest.raises(IndexError):
        view[2]


def test_an_index_is_a_value() -> None:
    one = Index(None, (1, 2), "a")
    assert one == Index(None, [1, 2], "a")
    assert len({one, Index(None, [1, 2], "a"), Index("x", (1, 2), "a")}) == 2
    assert one != (None, (1, 2), "a")
    assert repr(one) == "Index(fpout=None, index=(1, 2), label='a')"
    with pytest.raises(AttributeError):
        one.label = "b"  # type: ignore[misc]


@pytest.mark.slow_plain("4000 packets under a tracer of memory")
def test_reading_the_index_of_one_flow_after_each_packet_copies_no_frame_list() -> None:
    # 4000 packets, each followed by a look at the index that is kept: 4000 copies would be 4000 * 2000 * 8 = 64 MB.
    tracer = TraceFlow()
    views = []
    tracemalloc.start()
    try:
        for index in range(1, 4001):
            tracer.dump(packet(index, "c", timestamp=1))
            views.append(tracer.index[0])
        octets = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert octets < 8_000_000
    assert views[9].index == tuple(range(1, 11))
    assert views[9].index is views[9].index
    assert views[-1].index == tuple(range(1, 4001))


def test_reading_the_index_of_many_flows_makes_anew_only_what_changed() -> None:
    tracer = TraceFlow()
    flows, made = 300, 0
    before: tuple[Index, ...] = ()
    for index in range(1, 4 * flows + 1):
        tracer.dump(packet(index, (f"10.1.{index % flows >> 8}.{index % flows & 255}", 5), timestamp=1))
        now = tuple(tracer.index)
        made += sum(new is not old for new, old in zip(now, (*before, None), strict=False))
        before = now
    assert len(before) == flows
    assert made == 4 * flows


def test_callbacks_come_once_for_each_direction_that_ends_in_opening_order() -> None:
    ended: list[Index] = []
    tracer = TraceFlow()
    tracer.register_callback(ended.append)
    for one in packets([*T01, "cS"]):
        tracer.dump(one)
    assert [index.index for index in ended] == [(1, 3, 4, 6, 7, 10), (2, 5, 8, 9)]
    tracer.submit()
    assert len(ended) == 2
    tracer.finish()
    tracer.finish()
    assert [index.index for index in ended] == [(1, 3, 4, 6, 7, 10), (2, 5, 8, 9), (11,)]
    assert tuple(ended) == tuple(tracer.index)


def test_the_file_is_complete_when_the_callback_comes(tmp_path: Path) -> None:
    loaded = []
    with TraceFlow(tmp_path / "out") as tracer:
        tracer.register_callback(lambda index: loaded.append(json.loads(Path(index.fpout or "").read_bytes())))
        for one in packets(T01):
            tracer.dump(one)
    assert [list(content) for content in loaded] == [
        [f"Frame {number}" for number in numbers] for numbers in ((1, 3, 4, 6, 7, 10), (2, 5, 8, 9))
    ]


def test_a_callback_that_raises_is_reported_and_the_rest_goes_on() -> None:
    ended: list[str] = []

    def broken(index: Index) -> None:
        raise RuntimeError("the user's fault")

    tracer = TraceFlow()
    tracer.register_callback(broken)
    tracer.register_callback(lambda index: ended.append(index.label))
    for one in packets(T01):
        tracer.dump(one)
    with pytest.warns(CallbackWarning, match="the user's fault") as caught:
        tracer.finish()
    assert len(caught) == 2
    assert ended == [index.label for index in tracer.index]
    assert len(ended) == 2


def test_nothing_is_lost_where_warnings_are_errors_or_a_callback_is_interrupted() -> None:
    ended: list[str] = []
    tracer = TraceFlow()
    tracer.register_callback(lambda index: ended.append(index.label))

    def interrupted(index: Index) -> None:
        if len(ended) == 1:
            raise KeyboardInterrupt
        if len(ended) == 2:
            raise RuntimeError

    tracer.register_callback(interrupted)
    for index in range(1, 5):
        tracer.dump(packet(index, ("10.1.0.1", index)))
    with pytest.raises(KeyboardInterrupt):
        tracer.finish()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CallbackWarning):
            tracer.finish()
    tracer.finish()
    assert ended == [index.label for index in tracer.index]


def test_a_callback_may_feed_the_tracer() -> None:
    ended: list[tuple[int, ...]] = []
    tracer = TraceFlow(boundaries="pcapkit")

    def again(index: Index) -> None:
        ended.append(index.index)
        if len(ended) < 5:
            tracer.dump(packet(100 + len(ended), ("10.3.0.1", len(ended)), "F"))
            tracer.dump(packet(200 + len(ended), ("10.4.0.1", 9)))

    tracer.register_callback(again)
    label = tracer.trace(packet(1, "c", "F"))
    assert label == "10.0.0.1_1000-10.0.0.2_80-1700000001"
    tracer.dump(packet(2, "c"))
    everything = tracer.finish()
    assert ended[:5] == [(1,), (101,), (102,), (103,), (104,)]
    assert sorted(number for frames in ended for number in frames) == [1, 2, 101, 102, 103, 104, *[205] * 4]
    assert sorted(ended) == sorted(index.index for index in everything)
    assert tracer.account.frames == tracer.account.in_flows == 10


def test_a_callback_may_finish_and_register() -> None:
    ended: list[str] = []
    tracer = TraceFlow()

    def nosy(index: Index) -> None:
        ended.append(index.label)
        assert len(ended) < 100
        tracer.register_callback(nosy)
        tracer.finish()

    tracer.register_callback(nosy)
    for index in range(1, 4):
        tracer.dump(packet(index, ("10.1.0.1", index)))
    tracer.finish()
    assert set(ended) == {index.label for index in tracer.index}
    assert ended[0] == tracer.index[0].label


def test_packets_after_finish_open_new_flows() -> None:
    tracer = TraceFlow()
    tracer.dump(packet(1, "c", timestamp=1))
    tracer.finish()
    tracer.dump(packet(2, "c", timestamp=1))
    assert [index.index for index in tracer.finish()] == [(1,), (2,)]
    assert tracer.index[1].label.endswith("-1-1")


def test_the_context_manager_finishes_also_after_an_exception() -> None:
    ended: list[str] = []
    tracer = TraceFlow()
    tracer.register_callback(lambda index: ended.append(index.label))

    def body() -> None:
        with tracer as same:
            assert same is tracer
            tracer.dump(packet(1, "c"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert len(ended) == 1


# --- Output ------------------------------------------------------------------------------------------------------


def test_trace_gives_the_label_or_the_dumper(tmp_path: Path) -> None:
    tracer = TraceFlow(tmp_path / "out", "json", boundaries="pcapkit")
    assert tracer.trace(packet(1, "c")) == "10.0.0.1_1000-10.0.0.2_80-1700000001"
    assert isinstance(tracer.trace(packet(2, "c"), output=True), dictdump.JSONDumper)
    assert isinstance(tracer.trace(packet(3, "c", "F"), output=True), dictdump.JSONDumper)  # it ends the buffer
    assert TraceFlow().trace(packet(1, "c"), output=True) is None


@pytest.mark.parametrize(
    ("fmt", "extension"),
    [
        *((None, ".json"), ("json", ".json"), ("plist", ".plist"), ("xml", ".plist"), ("tree", ".txt")),
        *(("txt", ".txt"), ("text", ".txt"), ("pcap", ".pcap"), ("cap", ".pcap")),
    ],
)
def test_make_fout_knows_the_formats_and_makes_the_folder(tmp_path: Path, fmt: str | None, extension: str) -> None:
    folder = tmp_path / "a" / "b"
    dumper, found = TraceFlow.make_fout(str(folder), fmt)
    assert found == extension
    assert folder.is_dir()
    assert callable(dumper)


def test_an_unknown_format_warns_and_tracing_goes_on(tmp_path: Path) -> None:
    with pytest.warns(FormatWarning, match="Did you mean json"):
        tracer = TraceFlow(tmp_path / "out", "jsno")
    for one in packets(T01):
        tracer.dump(one)
    assert [index.index for index in tracer.index] == [(1, 3, 4, 6, 7, 10), (2, 5, 8, 9)]
    assert [index.fpout for index in tracer.index] == [None, None]
    assert not (tmp_path / "out").exists()
    with pytest.warns(FormatWarning):
        assert TraceFlow.make_fout(tmp_path / "out", "nothing") == (None, None)


def test_no_folder_and_no_format_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TraceFlow() as tracer:
        tracer.dump(packet(1, "c"))
    assert list(tmp_path.iterdir()) == []
    with TraceFlow(format="json") as tracer:
        tracer.dump(packet(1, "c"))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")] == [
        "tmp/10.0.0.1_1000-10.0.0.2_80-1700000001.json"
    ]


def test_a_file_in_the_place_of_the_folder_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for fout in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileExistsError) as caught:
            TraceFlow(fout, "json")
        assert isinstance(caught.value, FileExists)
        assert str(tmp_path / "file") in str(caught.value)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(CannotWriteError, match="output folder"):
        TraceFlow("/proc/nothing/here", "json")
    with pytest.raises(CannotWriteError):
        TraceFlow("a\0b", "json")


def test_files_of_an_earlier_run_are_refused_unless_asked(tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        with TraceFlow(tmp_path, "json", **options) as tracer:
            for one in packets(["c", "s"]):
                tracer.dump(one)

    run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExists, match="earlier run"):
        TraceFlow(tmp_path, "json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    TraceFlow(tmp_path, "plist")  # other files are no concern of this run
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(FileExists, match=r"index\.json"):
        TraceFlow(tmp_path, "plist")


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    class Foreign(dictdumper.JSON):  # type: ignore[misc]
        """dictdumper's own classes truncate what is there."""

    TraceFlow.register_dumper("foreign", Foreign, ".json")
    for number, fmt in enumerate(("json", "pcap", "foreign")):
        folder = tmp_path / str(number)
        tracer = TraceFlow(folder, fmt)
        extension = ".pcap" if fmt == "pcap" else ".json"
        path = folder / f"10.0.0.1_1000-10.0.0.2_80-1700000001{extension}"
        path.write_text("precious")
        with pytest.raises(FileExists, match="exists"):
            tracer.dump(packet(1, "c", octets=b"abc"))
        tracer.dump(packet(2, "c", octets=b"abc"))
        tracer.dump(packet(3, "s", octets=b"abc"))
        assert path.read_text() == "precious"
        assert [index.index for index in tracer.finish()] == [(1, 2), (3,)]
        assert tracer.index[0].fpout is None
        assert Path(tracer.index[1].fpout or "").exists()


class Lines:
    """A dumper made by hand."""

    made: tuple[Any, ...] = ()

    def __init__(self, fname: str, **keywords: Any) -> None:
        Lines.made = (fname, keywords)
        self.path = Path(fname)
        self.path.write_text("")

    def __call__(self, value: Any, name: str | None = None) -> Lines:
        self.path.write_text(f"{self.path.read_text()}{name}: {value['number']}\n")
        return self


def test_a_dumper_can_be_registered(tmp_path: Path) -> None:
    TraceFlow.register_dumper("lines", Lines, ".lines")
    with TraceFlow(tmp_path, "lines", byteorder="big", nanosecond=True) as tracer:
        for one in packets(T01):
            tracer.dump(one)
    path = Path(tracer.index[1].fpout or "")
    assert path.suffix == ".lines"
    assert path.read_text() == "Frame 2: 2\nFrame 5: 5\nFrame 8: 8\nFrame 9: 9\n"
    assert Lines.made == (str(path), {"protocol": 1, "byteorder": "big", "nanosecond": True})
    assert TraceFlow.make_fout(tmp_path, "lines") == (Lines, ".lines")


@pytest.mark.parametrize("name", ["JSON", "PLIST", "Tree", "VueJS"])
def test_dictdumpers_own_classes_can_be_registered(tmp_path: Path, name: str) -> None:
    TraceFlow.register_dumper(f"dictdumper-{name}", getattr(dictdumper, name), ".out")
    with TraceFlow(tmp_path, f"dictdumper-{name}") as tracer:
        for one in packets(T01):
            tracer.dump({**one, "frame": {"number": one["index"]}})
    text = Path(tracer.index[0].fpout or "").read_text("utf-8")
    assert [f"Frame {number}" in text for number in range(1, 11)] == [
        number in (1, 3, 4, 6, 7, 10) for number in range(1, 11)
    ]


def test_a_subclass_of_our_dumper_obeys_overwrite(tmp_path: Path) -> None:
    class Mine(dictdump.JSONDumper):
        pass

    TraceFlow.register_dumper("mine", Mine, ".json")
    for _ in range(2):
        with TraceFlow(tmp_path, "mine", overwrite=True) as tracer:
            tracer.dump(packet(1, "c"))
    assert list(json.loads(Path(tracer.index[0].fpout or "").read_bytes())) == ["Frame 1"]


class Failing:
    """A dumper whose parts can fail."""

    fails = ""

    def __init__(self, fname: str, **keywords: Any) -> None:
        if Failing.fails == "open":
            raise OSError(28, "No space left on device")

    def __call__(self, value: Any, name: str | None = None) -> None:
        if Failing.fails == "write":
            raise OSError(28, "No space left on device")
        if Failing.fails == "unsupported":
            raise TypeError("unsupported content type")

    def close(self) -> None:
        if Failing.fails == "close":
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", ["open", "write", "unsupported", "close"])
def test_a_dumper_that_fails_loses_no_frame_and_no_callback(tmp_path: Path, fails: str) -> None:
    TraceFlow.register_dumper("failing", Failing, ".out")
    ended: list[tuple[int, ...]] = []
    Failing.fails = fails
    tracer = TraceFlow(tmp_path, "failing", boundaries="pcapkit")
    tracer.register_callback(lambda index: ended.append(index.index))
    error = TypeError if fails == "unsupported" else CannotWriteError
    with pytest.raises(error, match=r"No space left on device|unsupported"):
        tracer.dump(packet(1, "c", "F"))
    assert ended == [(1,)]
    Failing.fails = ""
    tracer.dump(packet(2, "c"))
    tracer.dump(packet(3, ("10.1.0.1", 5)))
    Failing.fails = fails
    if fails == "close":
        with pytest.raises(CannotWriteError):
            tracer.finish()
    else:
        tracer.finish()
    assert ended == [(1,), (2,), (3,)]
    assert [index.index for index in tracer.index] == ended


def test_pcap_output_holds_the_octets_verbatim(tmp_path: Path) -> None:
    frames = [bytes(range(60)), b"", b"\xff" * 1514]
    for byteorder in ("little", "big"):
        for nanosecond in (False, True):
            folder = tmp_path / f"{byteorder}{nanosecond}"
            with TraceFlow(folder, "pcap", byteorder, nanosecond) as tracer:
                for index, octets in enumerate(frames, 1):
                    stamp = f"1700000000.12345678{index}"
                    tracer.dump(packet(index, "c", octets=bytearray(octets), wire=2000, timestamp=stamp, protocol=113))
            content = Path(tracer.index[0].fpout or "").read_bytes()
            read = list(oracle.read_frames(content))
            assert [frame.octets for frame in read] == frames
            assert {frame.link for frame in read} == {113}
            assert {frame.wire_octets for frame in read} == {2000}
            digits = 1 if nanosecond else 1000
            assert [frame.time_ns for frame in read] == [
                (1700000000_123456780 + index) // digits * digits for index in (1, 2, 3)
            ]
            order = "<" if byteorder == "little" else ">"
            assert struct.unpack(f"{order}I", content[:4])[0] == (0xA1B23C4D if nanosecond else 0xA1B2C3D4)


def test_a_name_that_no_file_system_takes_is_an_error_and_tracing_goes_on(tmp_path: Path) -> None:
    tracer = TraceFlow(tmp_path, "json")
    with pytest.raises(CannotWriteError):
        tracer.dump(packet(1, "c", timestamp=f"1.{'0' * 300}"))
    tracer.dump(packet(2, "c", timestamp=1))
    tracer.dump(packet(3, "s", timestamp=1))
    assert [(index.index, index.fpout is None) for index in tracer.index] == [((1, 2), True), ((3,), False)]


def test_pcap_output_needs_octets(tmp_path: Path) -> None:
    tracer = TraceFlow(tmp_path, "pcap")
    with pytest.raises(CannotWriteError, match="no octets"):
        tracer.dump(packet(1, "c"))
    assert tracer.index[0].index == (1,)


def loads(path: Path) -> int:
    """Blocks in a file of a flow, which must be valid."""
    if path.suffix == ".json":
        return len(json.loads(path.read_bytes()))
    if path.suffix == ".plist":
        return len(plistlib.loads(path.read_bytes()))
    if path.suffix == ".pcap":
        with path.open("rb") as file:
            return len(list(dpkt.pcap.Reader(file)))
    return len(re.findall(r"^Frame \d+$", path.read_text("utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("fmt", ["json", "plist", "tree", "pcap"])
def test_files_are_valid_after_each_append(tmp_path: Path, fmt: str) -> None:
    tracer = TraceFlow(tmp_path, fmt)
    counts = {CLIENT: 0, SERVER: 0}
    for one in packets(T01, octets=bytes(60)):
        tracer.dump(one)
        counts[one["src"], one["srcport"]] += 1
        assert [loads(Path(index.fpout or "")) for index in tracer.index] == [
            count for count in counts.values() if count
        ]


CHILD = """
import sys
from traceflow import TraceFlow
tracer = TraceFlow(sys.argv[1], sys.argv[2])
for index in range(1, 10**6):
    tracer.dump({"protocol": 1, "index": index, "frame": {"payload": bytes(500), "n": index}, "syn": False,
        "fin": False, "src": f"10.0.0.{index % 50}", "dst": "10.0.1.1", "srcport": 1, "dstport": 2, "timestamp": 0,
        "octets": bytes(500)})
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""


@pytest.mark.once("processes that are killed")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
@pytest.mark.parametrize("fmt", ["json", "plist", "tree", "pcap"])
@pytest.mark.slow_plain("some seconds of packets in another process")
def test_kill_9_leaves_valid_files(tmp_path: Path, fmt: str) -> None:
    for kill_after in (60, 301, 777):
        folder = tmp_path / str(kill_after)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), fmt],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        # It dies between two packets. Inside one, the system may cut its write at the end of a page: then that one
        # file is torn, which no order of writes into a file in place can prevent.
        with child.stdin, child.stdout:
            for number in range(1, kill_after + 1):
                assert child.stdout.readline() == b"%d\n" % number
                if number < kill_after:
                    child.stdin.write(b"\n")
                    child.stdin.flush()
            child.kill()
            child.wait()
        assert sum(loads(path) for path in folder.iterdir()) == kill_after
        assert len(list(folder.iterdir())) == 50


@needs_proc
@pytest.mark.parametrize("fmt", ["json", "plist", "tree", "pcap"])
def test_thousands_of_flows_hold_no_open_files(tmp_path: Path, fmt: str) -> None:
    before = len(list(OPEN_FILES.iterdir()))
    flows = 2000 if fmt == "json" else 300
    tracer = TraceFlow(tmp_path, fmt)
    for index in range(2 * flows):
        at = index % flows
        tracer.dump(packet(index, (f"10.1.{at >> 8}.{at & 255}", 5), timestamp=1, octets=b"abc"))
        if index % 100 == 0:
            assert len(list(OPEN_FILES.iterdir())) <= before + 1
    assert len(list(tmp_path.iterdir())) == flows
    tracer.finish()
    assert len(list(OPEN_FILES.iterdir())) == before


def test_what_an_adapter_passes_over_is_passed_over() -> None:
    tracer = TraceFlow()
    tracer.dump(from_octets(b"\xff" * 12 + b"\x08\x06" + bytes(46), timestamp=1, index=1))  # ARP
    tracer.dump(None)
    assert tracer.account.frames == 0
