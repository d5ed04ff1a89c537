"""The rooms `cli.rules` and `cli.checks`: single rules of a profile on the command line, and rows as flows end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from exchange import SECOND_NS, START_NS, Exchange, Wire

from traceflow.cli.checks import duration_ns
from traceflow.cli.commands import traceflow_command
from traceflow.cli.exits import Exit
from traceflow.cli.rules import take_rules

Cli = Callable[..., tuple[int, str, str]]
RULES = {
    *("--idle-timeout", "--active-timeout", "--linger", "--direction", "--tcp-end", "--key", "--max-flows"),
    "--when-full",
}


@pytest.mark.parametrize(
    ("given", "value_ns"),
    [
        ("300", 300 * 10**9),
        ("90s", 90 * 10**9),
        ("5m", 300 * 10**9),
        ("1h", 3600 * 10**9),
        ("2d", 172_800 * 10**9),
        ("250ms", 250 * 10**6),
        ("7us", 7000),
        ("1ns", 1),
        ("1.5h", 5400 * 10**9),
        ("0.25", 250 * 10**6),
        ("0.000000001", 1),
        ("53375d", 53375 * 86400 * 10**9),
        ("none", None),
    ],
)
def test_durations(given: str, value_ns: int | None) -> None:
    assert duration_ns(given, none=True) == value_ns


@pytest.mark.parametrize(
    "given", ["", "s", "5x", "-1", "+1", "1e3", "1.", ".5", "5 s", "5S", "None", "nan", "inf", "\u0663", "1.0123456789"]
)
def test_what_is_no_duration(given: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no duration; allowed: .* or none"):
        duration_ns(given, none=True)


@pytest.mark.parametrize("given", ["0", "0s", "0.1ns", "53376d", "9999999999999999999d"])
def test_durations_out_of_range(given: str) -> None:
    with pytest.raises(click.BadParameter, match="out of range; allowed: at least 1ns and at most 53375d"):
        duration_ns(given, none=True)


def typed(*arguments: str, command: str = "flows") -> dict[str, Any]:
    """The rules that a command line means."""
    found = traceflow_command.commands[command]
    given = [*arguments, *(["-o", "x"] if command == "trace" else []), "x.pcap"]
    return take_rules(dict(found.make_context(command, given).params))


@pytest.mark.parametrize("command", ["flows", "frames", "trace"])
def test_every_command_has_the_rules(command: str) -> None:
    options = {name for option in traceflow_command.commands[command].params for name in option.opts}
    assert options >= RULES
    assert typed(command=command) == {}, "what is not given keeps the profile's value"
    assert typed("--linger", "5s", command=command) == {"linger_ns": 5 * SECOND_NS}


@pytest.mark.parametrize(
    ("arguments", "rules"),
    [
        (("--idle-timeout", "90"), {"idle_timeout_tcp_ns": 90 * 10**9, "idle_timeout_other_ns": 90 * 10**9}),
        (("--idle-timeout", "none"), {"idle_timeout_tcp_ns": None, "idle_timeout_other_ns": None}),
        (("--idle-timeout", "tcp=5m"), {"idle_timeout_tcp_ns": 300 * 10**9}),
        (("--idle-timeout", "other=1ms,tcp=none"), {"idle_timeout_tcp_ns": None, "idle_timeout_other_ns": 10**6}),
        (("--active-timeout", "30m"), {"active_timeout_ns": 1800 * 10**9}),
        (("--active-timeout", "none"), {"active_timeout_ns": None}),
        (("--direction", "tranalyzer", "--tcp-end", "fins"), {"direction": "tranalyzer", "tcp_end": "fins"}),
        (("--key", "vlan"), {"key": ("vlan",)}),
        (("--key", "tunnel,vlan"), {"key": ("tunnel", "vlan")}),
        (("--key", "none"), {"key": ()}),
        (("--max-flows", "7", "--when-full", "skip"), {"max_flows": 7, "when_full": "skip"}),
    ],
)
def test_what_is_typed_and_what_it_means(arguments: tuple[str, ...], rules: dict[str, Any]) -> None:
    assert typed(*arguments) == rules


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--idle-timeout", "5x"), "90s or 1.5h, or none"),
        (
            ("--idle-timeout", "tpc=5"),
            "Did you mean tcp? Known: other, tcp; allowed: one duration for all, or tcp=",
        ),
        (("--idle-timeout", "tcp=5,tcp=6"), "tcp was given twice"),
        (("--idle-timeout", "tcp=5,6"), "allowed: one duration for all"),
        (("--idle-timeout", "tcp="), "is no duration"),
        (("--active-timeout", "0"), "out of range"),
        (("--linger", "none"), "is no duration"),
        (("--direction", "sin"), "Did you mean syn?"),
        (("--tcp-end", "fn"), "Did you mean fin"),
        (("--key", "vlna"), "Did you mean vlan?"),
        (("--key", ""), "allowed: none, or vlan, tunnel"),
        (("--key", "none,vlan"), "none stands alone"),
        (("--max-flows", "0"), "1<=x<=2147483646"),
        (("--when-full", "drop"), "Known: evict, grow, skip"),
    ],
)
@pytest.mark.parametrize("command", ["flows", "trace"])
def test_a_wrong_rule_is_a_usage_error(
    arguments: tuple[str, ...], words: str, command: str, cli: Cli, tmp_path: Path, fixtures_folder: Path
) -> None:
    folder = tmp_path / "out"
    where = ("-o", str(folder)) if command == "trace" else ()
    code, out, err = cli(command, fixtures_folder / "T01.pcap", *where, *arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert words in " ".join(err.split())
    assert not folder.exists()


def written(wire: Wire, tmp_path: Path) -> Path:
    return wire.pcap(tmp_path, nanosecond=True)


def cells(out: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(out)))[1:]


def test_rules_reach_the_table(cli: Cli, tmp_path: Path) -> None:
    """Three datagrams in VLAN 10, 20, 10, then 40 s of silence, then one in VLAN 10: by hand for each rule."""
    wire = Wire()
    for vlan in (10, 20, 10):
        Exchange(wire=wire, tags=[(0x8100, vlan)]).a.udp()
    wire.wait(s=40)
    Exchange(wire=wire, tags=[(0x8100, 10)]).b.udp()
    path = written(wire, tmp_path)

    def listed(*arguments: str) -> list[list[str]]:
        code, out, _ = cli("flows", path, "--fields", "frames,end_cause,orig_port", *arguments)
        assert code == 0
        return cells(out)

    assert listed() == [["1-4", "end of input", "1000"]]
    assert listed("--idle-timeout", "other=40s") == [["1-3", "idle", "1000"], ["4", "end of input", "80"]]
    assert listed("--idle-timeout", "tcp=40s") == listed()
    assert listed("--active-timeout", "30s") == [["1-3", "active", "1000"], ["4", "end of input", "1000"]]
    assert listed("--key", "vlan") == [["1,3-4", "end of input", "1000"], ["2", "end of input", "1000"]]
    assert listed("--profile", "nfstream", "--key", "none") == listed()
    assert listed("--key", "vlan", "--max-flows", "1") == [
        *(["1", "evicted", "1000"], ["2", "evicted", "1000"], ["3-4", "end of input", "1000"]),
    ]
    code, out, _ = cli("frames", path, "--fields", "flow,verdict", "--key", "vlan", "--max-flows=1", "--when-full=skip")
    assert (code, cells(out)) == (0, [["1", ""], ["", "table full"], ["1", ""], ["1", ""]])
    code, _, _ = cli("trace", path, "-o", tmp_path / "out", "--by", "flow", "--active-timeout", "30s")
    assert (code, len(list((tmp_path / "out").glob("*.json")))) == (0, 3), "two flows, and the index"
    files = json.loads((tmp_path / "out" / "index.json").read_bytes())["files"]
    assert [(file["flow"], file["parent"], file["segment"]) for file in files] == [(1, 1, 1), (2, 1, 2)]


# --- rows as flows end (flow-rules 25) ---------------------------------------------------------------------------


@pytest.fixture
def four_flows(tmp_path: Path) -> Path:
    """UDP hosts 1 to 4 open at 0, 1, 2, 3 s; hosts 1 and 3 speak at 50 s, 4 at 100 s; host 5 opens at 200 s.

    By default (60 s) flow 2 ends at 61 s, 4 at 63 s, 1 and 3 at 110 s, the tie by number. Flow 5 is host 4 again and
    ends at 160 s, flow 6 is host 5.
    """
    wire = Wire()
    for second, host in ((0, 1), (1, 2), (2, 3), (3, 4), (50, 1), (50, 3), (100, 4), (200, 5)):
        wire.at(START_NS + second * SECOND_NS)
        Exchange(f"10.0.0.{host}:1", "10.0.0.9:9", wire=wire).a.udp()
    return written(wire, tmp_path)


def test_rows_as_flows_end(cli: Cli, four_flows: Path) -> None:
    code, out, err = cli("flows", four_flows, "--stream", "--fields", "flow,packets,end_cause")
    assert code == 0
    assert cells(out) == [
        *(["2", "1", "idle"], ["4", "1", "idle"], ["1", "2", "idle"], ["3", "2", "idle"], ["5", "1", "idle"]),
        ["6", "1", "end of input"],
    ]
    assert "frames read 8 = in flows 8" in err
    held = cli("flows", four_flows, "--fields", "flow,packets,end_cause")[1]
    assert sorted(cells(out)) == cells(held)


def test_tranalyzer_streams_unless_told_not_to(cli: Cli, four_flows: Path) -> None:
    """182 s: when the last frame comes at 200 s, only flow 2 is over (at 183 s); then the longest idle first.

    Flows 1 and 3 were last heard at 50 s (the tie by number), host 4, one flow here, at 100 s.
    """
    code, out, _ = cli("flows", four_flows, "--profile", "tranalyzer", "--fields", "flow,end_cause")
    ended = [["2", "idle"], *([number, "end of input"] for number in ("1", "3", "4", "5"))]
    assert (code, cells(out)) == (0, ended)
    code, out, _ = cli("flows", four_flows, "--profile", "tranalyzer", "--no-stream", "--fields", "flow,frames")
    assert (code, cells(out)) == (0, [["1", "1,5"], ["2", "2"], ["3", "3,6"], ["4", "4,7"], ["5", "8"]])


@pytest.mark.parametrize("arguments", [("--stream",), ("--profile", "tranalyzer")])
@pytest.mark.parametrize("field", ["frames", "orig_frames", "resp_frames"])
def test_frame_lists_cannot_be_streamed(arguments: tuple[str, ...], field: str, cli: Cli, four_flows: Path) -> None:
    code, out, err = cli("flows", four_flows, *arguments, "--fields", f"flow,{field}")
    assert (code, out) == (Exit.USAGE, "")
    assert f"{field} cannot be streamed" in err
    assert "--no-stream" in err


def test_a_summary_has_no_rows_to_stream(cli: Cli, four_flows: Path) -> None:
    assert cli("flows", four_flows, "--summary", "--stream")[0] == Exit.USAGE
    code, out, _ = cli("flows", four_flows, "--summary", "--profile", "tranalyzer")
    assert (code, "flows: 5" in out.splitlines()) == (0, True)


def test_streams_in_every_format_and_of_nothing(cli: Cli, four_flows: Path, fixtures_folder: Path) -> None:
    for shape, lines in (("csv", 7), ("jsonl", 6), ("table", 7)):
        code, out, _ = cli("flows", four_flows, "--stream", "-T", shape)
        assert (code, len(out.splitlines())) == (0, lines)
    code, out, _ = cli("flows", fixtures_folder / "T32-header-only.pcap", "--stream", "--fields", "flow")
    assert (code, out) == (0, "flow\n")
