"""Plugins on the command line: columns in every output, reports, alarms, monitoring, failures, and their exit codes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import Exchange, Wire

from traceflow.cli.exits import Exit
from traceflow.plugins import BUILT_IN, Column, EndedFlows, Option, Plugin

Cli = Callable[..., tuple[int, str, str]]

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
T01 = FIXTURES / "T01.pcap"


class Counter(Plugin):
    """Counts packets of a direction; raises the alarm at a number of them."""

    name = "counter"
    description = "Counts packets."
    columns = (
        Column("seen", "u2", "packets", "packets of this direction"),
        Column("share", "f8", "", "of the packets of both"),
        Column("word", "text", "", "a text", per="flow"),
    )
    options = (Option("alarm_at", 1000, "packets", 1, 1000),)
    record = np.dtype([("seen", "u2")])
    shared = np.dtype([("alarm_at", "u8"), ("alarms", "u8")])

    def on_start(self, shared: Any) -> None:
        shared["alarm_at"] = self.settings["alarm_at"]

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["seen"] += 1
        if mine["seen"] == shared["alarm_at"]:
            steer["alarm"] = 1
            shared["alarms"] += 1

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        orig, resp = flows.orig["seen"].astype(float), flows.resp["seen"].astype(float)
        both = orig + resp
        return {"orig_share": orig / both, "resp_share": resp / both, "word": ['a "b", c'] * len(flows)}

    def on_monitor(self, now_ns: int, shared: Any) -> Mapping[str, Any]:
        return {"alarms": int(shared["alarms"])}

    def report(self, shared: Any) -> Iterable[str]:
        yield f"alarms {int(shared['alarms'])}"


class Broken(Plugin):
    """Fails with the first packet."""

    name = "broken"
    record = np.dtype([("four", "u1", (4,))])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["four"][packet["ip_version"] + np.uint64(4)] = 1


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins of this file, by name."""
    monkeypatch.setitem(BUILT_IN, "counter", "test_cli_plugins:Counter")
    monkeypatch.setitem(BUILT_IN, "broken", "test_cli_plugins:Broken")
    monkeypatch.setitem(BUILT_IN, "missing", "test_cli_plugins:NotThere")


def test_columns_stand_behind_the_usual_ones_in_csv(cli: Cli) -> None:
    """T01 is one connection of 10 frames: 6 from the originator, 4 back (seeds.md 1)."""
    code, out, _ = cli("flows", T01, "--plugin", "counter", "-T", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == Exit.OK
    assert list(row)[-5:] == [
        *("orig_counter_seen", "resp_counter_seen", "orig_counter_share", "resp_counter_share", "counter_word")
    ]
    assert [row[name] for name in list(row)[-5:]] == ["6", "4", "0.6", "0.4", 'a "b", c']


def test_columns_are_named_in_fields_wherever_the_plugin_stands(cli: Cli) -> None:
    for arguments in (["--fields", "flow,orig_counter_seen", "--plugin", "counter"],
                      ["--plugin", "counter", "--fields", "flow,orig_counter_seen"]):  # fmt: skip
        code, out, _ = cli("flows", T01, "-T", "jsonl", *arguments)
        assert (code, json.loads(out)) == (Exit.OK, {"flow": 1, "orig_counter_seen": 6})
    code, _, err = cli("flows", T01, "--plugin", "counter", "--fields", "orig_counter_sen")
    assert code == Exit.USAGE
    assert "orig_counter_seen" in err
    assert cli("flows", T01, "--fields", "orig_counter_seen")[0] == Exit.USAGE


def test_streamed_rows_have_them_too(cli: Cli) -> None:
    code, out, _ = cli("flows", T01, "--plugin", "counter", "-T", "jsonl", "--stream", "--fields", "counter_word,flow")
    assert (code, json.loads(out)) == (Exit.OK, {"counter_word": 'a "b", c', "flow": 1})


def test_frames_show_what_is_kept_after_each_packet(cli: Cli) -> None:
    """Frames 1, 3, 4, 6, 7, 10 of T01 are the originator's."""
    code, out, _ = cli("frames", T01, "--plugin", "counter", "-T", "csv", "--fields", "frame,counter_seen")
    rows = [tuple(map(int, line.split(","))) for line in out.splitlines()[1:]]
    assert code == Exit.OK
    assert rows == [(1, 1), (2, 1), (3, 2), (4, 3), (5, 2), (6, 4), (7, 5), (8, 3), (9, 4), (10, 6)]


@pytest.mark.slow_plain("all fixtures")
def test_frames_without_a_flow_have_empty_cells(cli: Cli) -> None:
    for path in sorted(FIXTURES.glob("*.pcap")):
        code, out, _ = cli("frames", path, "--plugin", "counter", "-T", "jsonl", "--fields", "flow,counter_seen")
        for line in out.splitlines():
            row = json.loads(line)
            assert (row["flow"] is None) == (row["counter_seen"] is None), path
        assert code in (Exit.OK, Exit.INCOMPLETE, Exit.FAILED)


def test_the_index_of_the_files_has_them(cli: Cli, tmp_path: Path) -> None:
    assert cli("trace", T01, "-o", tmp_path, "--plugin", "counter")[0] == Exit.OK
    entries = json.loads((tmp_path / "index.json").read_text("utf-8"))["files"]
    assert [entry["plugins"]["orig_counter_seen"] for entry in entries] == [6, 6]
    assert entries[0]["plugins"]["counter_word"] == 'a "b", c'


def test_alarms_only(cli: Cli, tmp_path: Path) -> None:
    few, many = FIXTURES / "T08a.pcap", T01  # 5 and 6 packets of the originator
    head = "flow\n"
    assert (
        cli("flows", many, "--plugin", "counter:alarm_at=7", "--alarms-only", "-T", "csv", "--fields", "flow")[1]
        == head
    )
    for stream in ("--stream", "--no-stream"):
        got = cli("flows", many, few, "--plugin", "counter:alarm_at=6", "--alarms-only", "-T", "csv", "--fields",
                  "flow,alarm", stream)  # fmt: skip
        assert got[1] == "flow,alarm\n1,1\n"
    cli("trace", many, few, "--plugin", "counter:alarm_at=6", "--alarms-only", "-o", tmp_path)
    assert {entry["flow"] for entry in json.loads((tmp_path / "index.json").read_text("utf-8"))["files"]} == {1}
    assert cli("flows", many, "--alarms-only")[0] == Exit.USAGE
    assert cli("flows", many, "--alarms-only", "--summary", "--plugin", "counter")[0] == Exit.USAGE


def test_the_report_stands_behind_the_account(cli: Cli) -> None:
    """Octets of IP in T01: hand count in fixtures/expected.json; here only that A and B are those of the row."""
    _, out, err = cli("flows", T01, "--plugin", "counter:alarm_at=4", "--report", "-T", "jsonl", "--fields",
                      "orig_wire_octets,resp_wire_octets")  # fmt: skip
    row = json.loads(out)
    lines = err.splitlines()
    assert "report: 1 flows, 2 directions with packets (1 of originators (A), 1 of responders (B))" in lines
    assert "  packets: A 6, B 4, asymmetry 0.200000" in lines
    assert any(f"wire octets: A {row['orig_wire_octets']}, B {row['resp_wire_octets']}," in line for line in lines)
    assert "  flows live at most: 1, directions of flows: 2" in lines
    assert lines[-1] == "  counter: alarms 2"  # the fourth packet of either side


def test_monitoring_goes_by_packet_time(cli: Cli) -> None:
    """A line for each interval that passed, before the first frame behind it; a silence of several is one line."""
    _, out, _ = cli("frames", T01, "-T", "csv", "--fields", "time_ns")
    times = [int(line) for line in out.splitlines()[1:]]
    step = max((times[-1] - times[0]) // 3, 1)
    expected, following = 0, times[0] + step
    for time_ns in times:
        if time_ns >= following:
            expected += 1
            following += (time_ns - following) // step * step + step
    _, _, err = cli("flows", T01, "--plugin", "counter", "--monitor", f"{step}ns")
    lines = [line for line in err.splitlines() if line.startswith("monitor ")]
    assert len(lines) == expected > 0
    assert all("counter alarms 0" in line and "live 1" in line for line in lines)


def test_a_plugin_that_fails_is_named_and_the_flows_are_whole(cli: Cli) -> None:
    fields = "flow,orig_packets,orig_counter_seen"
    code, out, err = cli("flows", T01, "--plugin", "broken", "--plugin", "counter", "-T", "csv", "--fields", fields)
    assert code == Exit.INCOMPLETE
    assert out == f"{fields}\n1,6,6\n"
    assert "plugin broken failed in" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonesuch", "unknown plugin 'nonesuch'"),
        ("missing", "plugin missing cannot be loaded"),
        ("counter:alarm=3", "Did you mean alarm_at?"),
        ("counter:alarm_at=x", "must be of type int"),
        ("counter:alarm_at=0", "must lie within"),
        ("counter:alarm_at", "write option=value"),
        ("counter:alarm_at=1,alarm_at=2", "given twice"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(cli: Cli, given: str, said: str) -> None:
    code, out, err = cli("flows", T01, "--plugin", given)
    assert (code, out) == (Exit.USAGE, "")
    assert said in err


def test_a_plugin_twice_is_a_usage_error(cli: Cli) -> None:
    assert cli("flows", T01, "--plugin", "counter", "--plugin", "counter:alarm_at=2")[0] == Exit.USAGE


def test_the_list_of_plugins(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = cli("plugins")
    assert code == Exit.INCOMPLETE  # `missing` cannot be loaded, and the list says why
    assert "counter (built in): Counts packets." in out.splitlines()
    assert "NotThere" in err
    monkeypatch.delitem(BUILT_IN, "missing")
    assert cli("plugins")[0] == Exit.OK
    _, out, _ = cli("plugins", "counter")
    assert "  option alarm_at = 1000: packets" in out.splitlines()
    assert "  column orig_counter_seen (u2, packets): packets of this direction" in out.splitlines()
    assert cli("plugins", "counte")[0] == Exit.USAGE


def test_rows_of_alarms_are_those_of_their_flows_also_where_a_step_brings_many(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two flows a chunk; the end of the input ends five at once, of which the second and the fifth have two packets.

    All are silent for less than a minute, so they end in the order of their last packets: as they opened.
    """
    monkeypatch.setattr("traceflow.sinks.rows_flows.CHUNK_FLOWS", 2)
    monkeypatch.setattr("traceflow.cli.flows.CHUNK_FLOWS", 2)
    wire = Wire()
    for flow, packets in enumerate((1, 2, 1, 1, 2), start=1):
        talk = Exchange(f"10.0.0.{flow}:1000", "10.0.0.9:9", wire=wire)
        for _ in range(packets):
            talk.a.udp(b"x")
    for stream in ("--stream", "--no-stream"):
        got = cli("flows", wire.pcap(tmp_path), "--plugin", "counter:alarm_at=2", "--alarms-only", "-T", "csv",
                  "--fields", "flow,alarm", stream)  # fmt: skip
        assert got[1] == "flow,alarm\n2,1\n5,1\n", stream
