"""Per-flow files written as frames come: what `flowfiles` writes of the same frames in the end, whole at any time.

What the files of a capture are is known from test_flowfiles.py, which holds them against tests/oracle.py; here they are
what is expected. Each test of a difference says why there is one.
"""

from __future__ import annotations

import itertools
import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exchange
import numpy as np
import oracle
import pytest
from blocks import Blocks

import traceflow
from traceflow.compiled import COMPILED
from traceflow.errors import CannotWriteError, FileExists, UsageError
from traceflow.flows import Account
from traceflow.options import options_for
from traceflow.packets import Verdict
from traceflow.pipeline import FlowCollector, Run, Step, plugin_set, trace
from traceflow.plugins import Column, EndedFlows, Plugin
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sinks.framegroups import FrameGroups
from traceflow.sinks.livefiles import LiveFlowFiles
from traceflow.sources import open_source

EXPECTED = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "expected.json").read_text("utf-8"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])}
EXTENSIONS = {"json": ".json", "plist": ".plist", "tree": ".txt", "pcap": ".pcap"}
A, B = "10.0.0.1", "10.0.0.2"

Contents = dict[str, bytes]
OnStep = Callable[[Step], object]


def contents(folder: Path) -> Contents:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def at_the_end(
    sources: list[Path], folder: Path, fmt: str, by: str | None = None, plugins: Any = (), **rules: Any
) -> Contents:
    """The files that FlowFiles writes."""
    alarms_only = rules.pop("alarms_only", False)
    with open_source(*sources, keep=True) as captures, FlowFiles(folder, format=fmt, by=by) as files:
        run = Run(captures, options_for(**rules), plugin_set(plugins))
        collector = FlowCollector(run)
        for step in run.steps():
            files.take(step)
            collector.take(step)
        files.write(collector.flows(), captures, alarms_only=alarms_only)
    return contents(folder)


def as_they_come(
    sources: list[Path],
    folder: Path,
    fmt: str = "json",
    by: str | None = None,
    *,
    batch: int = 1,
    on_step: OnStep = lambda step: None,
    plugins: Any = (),
    rules: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[Contents, list[str]]:
    """The files that LiveFlowFiles writes, and its problems."""
    with (
        open_source(*sources, batch_frames=batch) as captures,
        LiveFlowFiles(folder, format=fmt, by=by, **more) as files,
    ):
        run = Run(captures, options_for(**(rules or {})), plugin_set(plugins))
        for step in run.steps():
            files.take(step, captures.interfaces)
            on_step(step)
        count = files.finish(run.account(), captures.errors)
        assert count == len(json.loads((folder / "index.json").read_bytes())["files"])
        problems = files.problems()
    return contents(folder), problems


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
    return index


def frames_in(path: Path) -> list[oracle.RawFrame] | list[int]:
    """What is in a whole file: frames of a pcap file, else the numbers in the names of its blocks."""
    content = path.read_bytes()
    if path.suffix == ".pcap":
        return list(oracle.read_frames(content))
    if path.suffix == ".json":
        names = list(json.loads(content))
    elif path.suffix == ".plist":
        names = list(plistlib.loads(content))
    else:
        names = re.findall(r"^(Frame \d+)$", content.decode(), flags=re.MULTILINE)
    return [int(name.removeprefix("Frame ")) for name in names]


def datagram(port: int, size: int = 20, *, source: str = A) -> bytes:
    return exchange.ipv4(source, B, exchange.UDP, exchange.udp(source, B, port, 53, b"x" * size))


def many_flows(path: Path, flows: int, packets: int = 1) -> Path:
    """UDP flows whose packets are interleaved: flow n has frames n, n + flows, ..."""
    wire = exchange.Wire(step_ns=1000)
    for _ in range(packets):
        for port in range(1, flows + 1):
            wire.packet(datagram(port))
    path.write_bytes(wire.pcap_octets())
    return path


# --- the same files as those written in the end --------------------------------------------------------------------

WAYS = list(itertools.product(("json", "plist", "tree", "pcap"), ("direction", "flow"), ((1, 1), (3, 3), (4096, 64))))


@pytest.mark.parametrize("part", range(4))
def test_every_fixture_gives_the_same_files(part: int, fixtures_folder: Path, tmp_path: Path) -> None:
    # Each way of WAYS meets every 24th fixture, in pcap by flow and in json by direction all of them, frame by frame.
    for place, (name, case) in enumerate(EXPECTED.items()):
        if place % 4 != part:
            continue
        paths = [fixtures_folder / file for file in case["files"]]
        ways = {("pcap", "flow", (1, 1)), ("json", "direction", (1, 2)), WAYS[place // 4 % len(WAYS)]}
        for fmt, by, (batch, most) in ways if COMPILED else {WAYS[place // 4 % len(WAYS)]}:
            folder = tmp_path / f"{name}-{fmt}-{by}-{batch}-{most}"
            expected = at_the_end(paths, folder / "end", fmt, by)
            found, problems = as_they_come(paths, folder / "live", fmt, by, batch=batch, max_open_files=most)
            assert found == expected, (name, fmt, by, batch)
            assert problems == []


@pytest.mark.once("10 000 frames, twice")
@pytest.mark.slow_plain("10 000 frames, traced and decoded four times")
@pytest.mark.parametrize(("fmt", "batch"), [("json", 4096), ("pcap", 100)])
def test_the_real_capture(fmt: str, batch: int, shared: Path, tmp_path: Path) -> None:
    path = shared / "corpus" / "tranalyzer" / "2009-M57-day11-18-10k.pcap"
    if not path.exists():
        pytest.skip(f"{path.name} is absent")
    expected = at_the_end([path], tmp_path / "end", fmt)
    assert as_they_come([path], tmp_path / "live", fmt, batch=batch, max_open_files=8) == (expected, [])


@pytest.mark.parametrize("fmt", ["json", "pcap"])
def test_the_same_label_twice_gets_a_suffix(fmt: str, tmp_path: Path) -> None:
    talk = exchange.Exchange(wire=exchange.Wire(step_ns=0))
    for isn in range(1, 5001, 1000):
        talk.a.syn(seq=isn)
    path = talk.pcap(tmp_path)
    expected = at_the_end([path], tmp_path / "end", fmt)
    label = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000"
    assert {*expected} - {"index.json"} == {f"{label}{end}{EXTENSIONS[fmt]}" for end in ("", "-1", "-2", "-3", "-4")}
    assert as_they_come([path], tmp_path / "live", fmt)[0] == expected


def two_interfaces(links: tuple[int, int], resolutions: tuple[int, int], snaplens: tuple[int, int]) -> bytes:
    """A pcapng with one TCP flow of ten frames that alternate between two interfaces."""
    talk = exchange.Exchange()
    blocks = Blocks("little")
    content = blocks.section()
    for at in (0, 1):
        content += blocks.interface(links[at], resolution=resolutions[at], snaplen=snaplens[at])
    talk.connection()
    for number, frame in enumerate(talk.wire.frames):
        which = number % 2
        octets = frame.octets if links[which] == 1 else frame.octets[14:]
        ticks = (1_700_000_000 * 10**9 + 1001 * number) * 10 ** resolutions[which] // 10**9
        content += blocks.enhanced(which, ticks, octets)
    return content


@pytest.mark.parametrize("by", ["flow", "direction"])
@pytest.mark.parametrize(
    ("links", "resolutions", "snaplens"),
    [
        ((1, 1), (6, 9), (0, 0)),  # a file with microseconds gets nanoseconds with its second frame
        ((1, 1), (9, 6), (96, 0)),
        ((1, 1), (6, 6), (96, 128)),  # and another a larger snaplen
        ((1, 101), (6, 9), (0, 96)),  # two files, of which the first is renamed
    ],
)
def test_what_the_first_frame_of_a_pcap_file_could_not_tell(
    links: Any, resolutions: Any, snaplens: Any, by: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.pcapng"
    path.write_bytes(two_interfaces(links, resolutions, snaplens))
    expected = at_the_end([path], tmp_path / "end", "pcap", by)
    for batch in (1, 2, 3):
        assert as_they_come([path], tmp_path / str(batch), "pcap", by, batch=batch, max_open_files=1)[0] == expected


def test_a_flow_that_turns_gets_its_name_in_the_end(tmp_path: Path) -> None:
    # Data from b, met in mid-connection, makes b the originator until its SYN+ACK shows that it answers.
    talk = exchange.Exchange()
    talk.b.data(b"stray")
    talk.b.syn_ack()
    path = talk.pcap(tmp_path)
    (flow,) = trace(path)
    assert flow.row["turned"] == 1
    seen: list[str] = []
    folder = tmp_path / "live"
    found, _ = as_they_come(
        [path], folder, "pcap", "flow", on_step=lambda step: seen.extend(one.name for one in folder.iterdir())
    )
    assert found == at_the_end([path], tmp_path / "end", "pcap", "flow")
    turned = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000.pcap"
    assert seen[0] == "10.0.0.2_80-10.0.0.1_1000-1700000000.000000.pcap"
    assert set(found) == {turned, "index.json"}


class Eager(Plugin):
    """Raises the alarm at the fourth packet of a direction; its columns are of every kind."""

    name = "eager"
    columns = (
        Column("seen", "u2", "packets", "packets of this direction"),
        Column("half", "f8", "", "of the packets; no number where there are none"),
        Column("word", "text", "", "a text", per="flow"),
    )
    record = np.dtype([("seen", "u2")])

    @staticmethod
    def on_packet(frame: Any, packet: Any, flow: Any, mine: Any, partner: Any, steer: Any, shared: Any) -> None:
        mine["seen"] += 1
        if mine["seen"] == 4:
            steer["alarm"] = 1

    def on_flows_end(self, flows: EndedFlows) -> dict[str, Any]:
        seen = flows.orig["seen"].astype(float)
        return {"orig_half": seen / 2, "resp_half": np.full(len(flows), np.nan), "word": ['a "b"'] * len(flows)}


def test_columns_of_plugins_and_alarms(fixtures_folder: Path, tmp_path: Path) -> None:
    path = fixtures_folder / "http.pcap"
    expected = at_the_end([path], tmp_path / "end", "json", plugins=[Eager])
    assert as_they_come([path], tmp_path / "live", plugins=[Eager], batch=7)[0] == expected
    alarms = at_the_end([path], tmp_path / "end-alarms", "json", plugins=[Eager], alarms_only=True)
    assert 1 < len(alarms) < len(expected)
    found, problems = as_they_come([path], tmp_path / "live-alarms", plugins=[Eager], alarms_only=True)
    assert (found, problems) == (alarms, [])


def test_records_show_the_packet_that_the_flow_is_made_of(fixtures_folder: Path, tmp_path: Path) -> None:
    path = fixtures_folder / "T19.pcap"
    found, _ = as_they_come([path], tmp_path / "outer", outer=True, rules={"outer": True})
    # fixtures/tunnel_cases.py: tunnels run from 192.0.2.1
    from_tunnel_ends = 0
    for entry in json.loads(found["index.json"])["files"]:
        for record in json.loads(found[entry["file"]]).values():
            layer = record.get("ip") or record["ipv6"]
            assert {layer["src"], layer["dst"]} == {entry["orig"], entry["resp"]}
            from_tunnel_ends += layer["src"] == "192.0.2.1"
    assert from_tunnel_ends > 10


# --- late fragments ------------------------------------------------------------------------------------------------


def late_fragment(tmp_path: Path) -> Path:
    """Frames 1, 3 and 4 are datagrams from port 7; 2 is the second fragment of a datagram whose first one is 4."""
    whole = exchange.udp(A, B, 7, 53, b"y" * 40)  # 48 octets
    wire = exchange.Wire()
    wire.packet(datagram(7))
    wire.packet(exchange.ipv4(A, B, exchange.UDP, whole[24:], ident=9, fragment=3))
    wire.packet(datagram(7))
    wire.packet(exchange.ipv4(A, B, exchange.UDP, whole[:24], ident=9, more=True))
    return wire.pcap(tmp_path)


@pytest.mark.parametrize("fmt", EXTENSIONS)
def test_a_late_fragment_stands_behind_what_was_written_before(fmt: str, tmp_path: Path) -> None:
    path = late_fragment(tmp_path)
    expected = at_the_end([path], tmp_path / "end", fmt)
    (entry,) = json.loads(expected["index.json"])["files"]
    assert entry["frames"] == [1, 2, 3, 4]
    # in one batch, and where frame 3 is in the batch of its first one, it is sorted in
    assert as_they_come([path], tmp_path / "4", fmt, batch=4)[0] == expected
    assert as_they_come([path], tmp_path / "2", fmt, batch=2)[0] == expected
    for batch, order in ((1, [1, 3, 2, 4]), (3, [1, 3, 2, 4])):
        folder = tmp_path / str(batch)
        as_they_come([path], folder, fmt, batch=batch)
        (late,) = index_of(folder)["files"]
        assert late == {**entry, "frames": order}
        if fmt == "pcap":
            source = list(oracle.read_frames(path.read_bytes()))
            written = list(oracle.read_frames((folder / late["file"]).read_bytes()))
            assert [one.octets for one in written] == [source[number - 1].octets for number in order]
            assert [one.time_ns for one in written] == [source[number - 1].time_ns for number in order]
        else:
            assert frames_in(folder / late["file"]) == order
        if fmt == "json":
            whole = json.loads(expected[entry["file"]])
            assert json.loads((folder / late["file"]).read_bytes()) == whole


@pytest.mark.parametrize("batch", [1, 2, 3, 4096])
def test_a_late_fragment_that_opens_a_flow_names_it(batch: int, tmp_path: Path) -> None:
    # Profile pcapkit ends a flow at its FIN. 1 is the end of a datagram whose beginning, with the FIN, is 2: flow 1 is
    # over when 1 is counted, which opens flow 2, also of frame 3.
    fin = exchange.tcp(A, B, 1000, 80, seq=1, flags=exchange.FIN | exchange.ACK, payload=b"z" * 28)
    wire = exchange.Wire()
    wire.packet(exchange.ipv4(A, B, exchange.TCP, fin[24:], ident=9, fragment=3))
    wire.packet(exchange.ipv4(A, B, exchange.TCP, fin[:24], ident=9, more=True))
    wire.packet(exchange.ipv4(A, B, exchange.TCP, exchange.tcp(A, B, 1000, 80, seq=30, payload=b"z")))
    path = wire.pcap(tmp_path)
    expected = at_the_end([path], tmp_path / "end", "json", profile="pcapkit")
    entries = {entry["file"]: entry["frames"] for entry in json.loads(expected["index.json"])["files"]}
    label = "10.0.0.1_1000-10.0.0.2_80-1700000000"
    assert entries == {f"{label}.001000.json": [2], f"{label}.000000.json": [1, 3]}
    assert as_they_come([path], tmp_path / "live", batch=batch, rules={"profile": "pcapkit"})[0] == expected


def test_fragments_that_are_no_longer_kept_are_counted_and_said(tmp_path: Path) -> None:
    path = late_fragment(tmp_path)
    # Frame 2 has 14 + 20 + 24 octets.
    for room, lost in ((58, 0), (57, 1)):
        groups = FrameGroups(by_direction=True, outer=False, waiting_octets=room)
        with open_source(path, batch_frames=1) as captures:
            run = Run(captures, options_for())
            found = [groups.frames_of(step) for step in run.steps()]
        numbers = [one.numbers.tolist() for one in found if one is not None]
        assert groups.lost == lost
        assert numbers == [[1], [3], [4] if lost else [4, 2]]
    with LiveFlowFiles(tmp_path / "live") as files, open_source(path, batch_frames=1) as captures:
        files._frames = FrameGroups(by_direction=True, outer=False, waiting_octets=57)
        run = Run(captures, options_for())
        for step in run.steps():
            files.take(step, captures.interfaces)
        files.finish(run.account())
    index = index_of(tmp_path / "live")
    assert index["files"][0]["frames"] == [1, 3, 4]
    assert index["incomplete"] == [
        f"{tmp_path / 'live'}: 1 late fragments are in no file because their octets were no longer kept"
    ]


@pytest.mark.slow_plain("5000 fragments")
def test_waiting_fragments_are_as_many_as_the_table_knows(tmp_path: Path) -> None:
    # 5000 fragments whose first ones never come: 4096 are kept, here as in fragments.py.
    wire = exchange.Wire(step_ns=1000)
    for ident in range(5000):
        wire.packet(exchange.ipv4(A, B, exchange.UDP, bytes(16), ident=ident, fragment=2))
    groups = FrameGroups(by_direction=True, outer=False)
    with open_source(wire.pcap(tmp_path), batch_frames=3000) as captures:
        for step in Run(captures, options_for()).steps():
            assert step.batch is None or set(step.packets["verdict"]) == {Verdict.FRAGMENT_WITHOUT_PORTS}
            groups.frames_of(step)
    assert len(groups._waiting) == 4096
    assert groups._waiting_octets == 4096 * (14 + 20 + 16)


# --- valid at any time, few open at any time -----------------------------------------------------------------------


def open_flow_files(folder: Path, extension: str) -> list[str]:
    """Flow files that this process has open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:  # that of the folder itself
            continue
    return [link for link in links if link.startswith(f"{folder}/") and link.endswith(extension)]


WATCHES: list[Callable[[str, tuple[Any, ...]], None]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook cannot be taken back; this one has nothing to call most of the time."""
    for call in WATCHES:
        call(event, arguments)


@pytest.fixture
def watching() -> Iterator[list[Callable[[str, tuple[Any, ...]], None]]]:
    """What is called before a file is opened, and at other events."""
    if not getattr(_watch, "installed", False):
        sys.addaudithook(_watch)
        _watch.installed = True  # type: ignore[attr-defined]
    yield WATCHES
    WATCHES.clear()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("fmt", EXTENSIONS)
def test_whole_after_every_step_and_few_are_open(
    fmt: str, most: int, fixtures_folder: Path, tmp_path: Path, watching: list[Any]
) -> None:
    path, folder, extension = fixtures_folder / "http.pcap", tmp_path / "live", EXTENSIONS[fmt]
    in_flows, before_opening, after_steps = 0, [], []

    def opens(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(f"{folder}/") and str(arguments[0]).endswith(extension):
            before_opening.append(len(open_flow_files(folder, extension)))

    def check(step: Step) -> None:
        nonlocal in_flows
        in_flows += int(np.count_nonzero(step.marks["flow"]))
        watched, watching[:] = list(watching), []
        files = [one for one in folder.iterdir() if one.suffix == extension]
        assert sum(len(frames_in(one)) for one in files) == in_flows
        assert all(frames_in(one) for one in files)
        after_steps.append(len(open_flow_files(folder, extension)))
        watching[:] = watched

    watching.append(opens)
    found, _ = as_they_come([path], folder, fmt, batch=2 if COMPILED else 9, on_step=check, max_open_files=most)
    assert len(found) > 6  # more files than may be open
    assert max(before_opening) == most - 1
    assert max(after_steps) == most
    assert open_flow_files(folder, extension) == []


def test_a_pcap_file_that_is_changed_and_renamed_leaves_room_too(tmp_path: Path, watching: list[Any]) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc")
    path, folder = tmp_path / "source.pcapng", tmp_path / "live"
    path.write_bytes(two_interfaces((1, 101), (6, 9), (96, 0)))
    counts = []

    def opens(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(f"{folder}/") and str(arguments[0]).endswith(".pcap"):
            counts.append(len(open_flow_files(folder, ".pcap")))

    watching.append(opens)
    as_they_come([path], folder, "pcap", max_open_files=1)
    assert len(counts) > 10
    assert max(counts) == 0


def test_a_batch_gives_each_file_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Any] = []
    path = many_flows(tmp_path / "x.pcap", 5, packets=20)
    for fmt, module in (("json", "dictdump"), ("pcap", "pcapfile")):
        import_path = f"traceflow.sinks.{module}.write_at"
        original = sys.modules[f"traceflow.sinks.{module}"].write_at  # type: ignore[attr-defined]
        writes.clear()

        def counted(stream: Any, position: int, octets: Any, original: Any = original) -> None:
            writes.append(position)
            original(stream, position, octets)

        monkeypatch.setattr(import_path, counted)
        as_they_come([path], tmp_path / fmt, fmt, batch=50)
        # five files, and one write into each of the two batches of 50 frames; the heads are written by another module
        assert len(writes) == 5 * 2


def test_frames_that_are_large_together_are_written_in_parts(tmp_path: Path) -> None:
    # 100 frames of 60 042 octets are 6 MB; a write has at most 4 MiB of captured octets.
    wire = exchange.Wire(step_ns=1000)
    for _ in range(100):
        wire.packet(datagram(7, 60_000))
    path = wire.pcap(tmp_path)
    expected = at_the_end([path], tmp_path / "end", "pcap")
    assert as_they_come([path], tmp_path / "live", "pcap", batch=4096)[0] == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.sinks.livefiles import LiveFlowFiles
from traceflow.sources import open_source
class Deadly(list):
    asked = 0
    def __getitem__(self, at):
        self.asked += 1
        if self.asked == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(at)
deadly = Deadly()
with (
    open_source(sys.argv[1], batch_frames=10) as captures,
    LiveFlowFiles(Path(sys.argv[2]), format=sys.argv[3], max_open_files=2) as files,
):
    for step in Run(captures, options_for()).steps():
        deadly[:] = captures.interfaces
        files.take(step, deadly)
"""


@pytest.mark.once("processes that kill themselves")
@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 on this system")
@pytest.mark.parametrize("fmt", ["json", "pcap"])
@pytest.mark.slow_plain("other processes")
def test_kill_9_midway_leaves_whole_files(fmt: str, tmp_path: Path) -> None:
    # 30 frames in 3 flows, 10 a batch; the interface is asked for with each record, of pcap twice a file and batch: it
    # dies between two files of the second batch, or between two records of one.
    path = many_flows(tmp_path / "x.pcap", 3, packets=10)
    died = 9 if fmt == "pcap" else 15
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "out"), fmt, str(died)]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == -9
    files = sorted((tmp_path / "out").iterdir())
    assert [one.suffix for one in files] == [EXTENSIONS[fmt]] * 3
    # first batch: frames 1 to 10, so 4, 3 and 3 of the flows; of the second, frames 13, 16 and 19 of flow 1
    assert [len(frames_in(one)) for one in files] == [7, 3, 3]


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 64])
@pytest.mark.parametrize("fmt", ["json", "pcap"])
def test_a_file_that_is_deleted_is_left_out_and_the_others_go_on(fmt: str, most: int, tmp_path: Path) -> None:
    # With most = 64 the file is held open: a write would succeed, and be lost.
    path, folder = many_flows(tmp_path / "x.pcap", 3, packets=3), tmp_path / "live"
    name = f"UDP_10.0.0.1_2-10.0.0.2_53-1700000000.000001{EXTENSIONS[fmt]}"

    def delete(step: Step) -> None:
        if step.batch is not None and step.batch.first_number == 4:
            (folder / name).unlink()

    found, problems = as_they_come([path], folder, fmt, batch=3, on_step=delete, max_open_files=most)
    # The index tells what had been written into it.
    assert {entry["orig_port"]: entry["frames"] for entry in json.loads(found["index.json"])["files"]} == {
        1: [1, 4, 7],
        2: [2, 5],
        3: [3, 6, 9],
    }
    assert set(found) == {"index.json", *(entry["file"] for entry in index_of(folder)["files"])} - {name}
    assert index_of(folder)["incomplete"] == problems
    assert len(problems) == 2
    assert name in problems[0]
    assert problems[1] == f"{folder}: 1 frames are in no file because it could not be written"


def test_a_file_that_has_taken_the_place_of_another_is_not_written(tmp_path: Path) -> None:
    path, folder = many_flows(tmp_path / "x.pcap", 2, packets=3), tmp_path / "live"
    name = "UDP_10.0.0.1_1-10.0.0.2_53-1700000000.000000.json"

    def replace(step: Step) -> None:
        if step.batch is not None and step.batch.first_number == 3:
            (folder / "theirs").write_text("precious")
            (folder / "theirs").replace(folder / name)

    found, problems = as_they_come([path], folder, batch=2, on_step=replace, max_open_files=1)
    assert found[name] == b"precious"
    assert name in problems[0]


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    path, folder = many_flows(tmp_path / "x.pcap", 30, packets=2), tmp_path / "live"

    def remove(step: Step) -> None:
        if step.batch is not None and step.batch.first_number == 16:
            shutil.rmtree(folder)

    with open_source(path, batch_frames=15) as captures, LiveFlowFiles(folder, max_open_files=2) as files:
        run = Run(captures, options_for())
        for step in run.steps():
            files.take(step, captures.interfaces)
            remove(step)
        with pytest.raises(CannotWriteError, match=r"index\.json"):
            files.finish(run.account())
        problems = files.problems()
    # All 30 files fail with their second frame. Ten are named, the others counted.
    assert len(problems) == 12
    assert problems[10:] == [
        f"{folder}: 20 more files could not be written",
        f"{folder}: 30 frames are in no file because it could not be written",
    ]


def test_a_folder_that_cannot_be_written(fixtures_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExists, match="in the way"):
        LiveFlowFiles(tmp_path / "file")
    for place in ("/proc/none", "/proc"):
        with pytest.raises(CannotWriteError):
            LiveFlowFiles(Path(place))
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    if os.geteuid():  # who may do everything may write there
        with pytest.raises(CannotWriteError):
            LiveFlowFiles(folder)


def test_names_that_others_have_taken_are_left_to_them(fixtures_folder: Path, tmp_path: Path) -> None:
    # What comes on an interface comes once: the frames get a name with a suffix, whatever has the first one.
    path, folder = many_flows(tmp_path / "x.pcap", 3), tmp_path / "live"
    labels = [f"UDP_10.0.0.1_{port}-10.0.0.2_53-1700000000.{port - 1:06}" for port in (1, 2, 3)]

    def take(step: Step) -> None:
        if step.batch is not None and step.batch.first_number == 1:
            (folder / f"{labels[1]}.json").mkdir()
            (folder / f"{labels[2]}.json").write_text("precious")

    with open_source(path, batch_frames=1) as captures, LiveFlowFiles(folder) as files:
        run = Run(captures, options_for())
        for step in run.steps():
            files.take(step, captures.interfaces)
            take(step)
        assert files.finish(run.account()) == 3
        assert files.problems() == []
    assert [entry["file"] for entry in index_of(folder)["files"]] == [
        f"{labels[0]}.json",
        f"{labels[1]}-1.json",
        f"{labels[2]}-1.json",
    ]
    assert {entry["label"] for entry in index_of(folder)["files"]} == set(labels)
    assert (folder / f"{labels[2]}.json").read_text() == "precious"


LIMITED = """
import resource, sys
from pathlib import Path
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.sinks.livefiles import LiveFlowFiles
from traceflow.sources import open_source
source, folder, fmt, kind, limit = sys.argv[1:]
with (
    open_source(source, batch_frames=10) as captures,
    LiveFlowFiles(Path(folder), format=fmt) as files,
):
    run = Run(captures, options_for())
    steps = run.steps()
    files.take(next(steps), captures.interfaces)
    _, hard = resource.getrlimit(getattr(resource, kind))
    resource.setrlimit(getattr(resource, kind), (int(limit), hard))
    for step in steps:
        files.take(step, captures.interfaces)
    resource.setrlimit(getattr(resource, kind), (hard, hard))
    files.finish(run.account())
"""


def limited(path: Path, folder: Path, fmt: str, kind: str, limit: int) -> dict[str, Any]:
    """Write in a process with little of something from the second batch on. Returns the index."""
    pytest.importorskip("resource", reason="no limits on this system")
    command = [sys.executable, "-c", LIMITED, str(path), str(folder), fmt, kind, str(limit)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return index_of(folder)


@pytest.mark.once("a process with little disk")
@pytest.mark.slow_plain("another process")
def test_a_file_that_does_not_fit_keeps_what_it_has_and_others_go_on(tmp_path: Path) -> None:
    # From the second batch on (frame 11) a file may have 20 000 octets. Datagrams of port 1 take 16 + 42 + 9000: two of
    # them fit behind the 24 of the header, and a third does not.
    wire = exchange.Wire()
    for port in (1, 1, *([2] * 8), 1, 2, 3, 1):
        wire.packet(datagram(port, 9000 if port == 1 else 20))
    folder = tmp_path / "out"
    index = limited(wire.pcap(tmp_path), folder, "pcap", "RLIMIT_FSIZE", 20_000)
    assert [entry["frames"] for entry in index["files"]] == [[1, 2], [*range(3, 11), 12], [13]]
    assert [len(frames_in(folder / entry["file"])) for entry in index["files"]] == [2, 9, 1]
    name = index["files"][0]["file"]
    assert index["incomplete"] == [
        f"cannot append to {folder / name}: File too large",
        f"{folder}: 2 frames are in no file because it could not be written",
    ]


@pytest.mark.once("a process with few files")
@pytest.mark.slow_plain("another process")
def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    # 40 files wanted open, 64 allowed by default, but the system gives no more than a few descriptors.
    path = many_flows(tmp_path / "x.pcap", 40, packets=2)
    index = limited(path, tmp_path / "out", "json", "RLIMIT_NOFILE", 12)
    assert index["incomplete"] == []
    assert [entry["frames"] for entry in index["files"]] == [[number, number + 40] for number in range(1, 41)]


FULL = """
import json, shutil, sys
from pathlib import Path
from traceflow.errors import CannotWriteError
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.sinks.livefiles import LiveFlowFiles
from traceflow.sources import open_source
folder = Path(sys.argv[2])
with open_source(sys.argv[1], batch_frames=100) as captures, LiveFlowFiles(folder, format=sys.argv[3]) as files:
    run = Run(captures, options_for())
    for step in run.steps():
        files.take(step, captures.interfaces)
    try:
        files.finish(run.account())
    except CannotWriteError as error:
        pass
    problems = files.problems()
shutil.copytree(folder, sys.argv[4])
print(json.dumps(problems))
"""


@pytest.mark.once("a disk of its own")
@pytest.mark.slow_plain("thousands of files in another process")
@pytest.mark.parametrize("fmt", ["json", "pcap"])
def test_a_full_disk_leaves_whole_files_and_says_so(fmt: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    inside = 'mount -t tmpfs -o size=512k tmpfs "$1" && shift && exec "$@"'
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path / "disk")]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    path = many_flows(tmp_path / "x.pcap", 1000, packets=2)
    program = [sys.executable, "-c", FULL, str(path), str(tmp_path / "disk" / "out"), fmt, str(tmp_path / "copy")]
    done = subprocess.run([*alone, *program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert "No space left on device" in problems[0]
    files = [one for one in (tmp_path / "copy").iterdir() if one.name != "index.json"]
    counts = [len(frames_in(one)) for one in files]
    assert 0 < len(files) < 1000
    assert set(counts) <= {1, 2}
    (missing,) = [line for line in problems if "in no file" in line]
    assert f" {2000 - sum(counts)} frames" in missing


# --- folders, ends -------------------------------------------------------------------------------------------------


def test_files_of_an_earlier_run_are_kept_unless_asked(fixtures_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, _ = as_they_come([fixtures_folder / "http.pcap"], folder)
    for fmt in ("json", "pcap"):
        with pytest.raises(FileExists, match="earlier run"):
            LiveFlowFiles(folder, format=fmt)
    assert contents(folder) == first
    (folder / "mine.json").write_text("of no run")
    second, _ = as_they_come([fixtures_folder / "http.pcap"], folder, overwrite=True)
    assert second == {**first, "mine.json": b"of no run"}  # the same names: no suffix
    third, _ = as_they_come([fixtures_folder / "T01.pcap"], folder, overwrite=True)
    # T01 has two directions; what the index had listed is gone, what it had not has stayed
    assert {*third} == {"index.json", "mine.json", *(entry["file"] for entry in index_of(folder)["files"])}
    assert len(third) == 4


def test_a_link_in_the_place_of_a_file_is_replaced_and_never_followed(fixtures_folder: Path, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    name = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000.json"
    (folder / name).symlink_to(victim)
    found, _ = as_they_come([fixtures_folder / "T01.pcap"], folder, overwrite=True)
    assert victim.read_text() == "precious"
    assert name in found
    assert not (folder / name).is_symlink()


def test_what_is_asked_wrongly_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean json"):
        LiveFlowFiles(tmp_path / "x", format="jsn")
    with pytest.raises(UsageError, match="direction"):
        LiveFlowFiles(tmp_path / "x", by="directions")
    with pytest.raises(UsageError, match="max_open_files"):
        LiveFlowFiles(tmp_path / "x", max_open_files=0)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_run_has_an_index_that_says_so(fixtures_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with open_source(fixtures_folder / "http.pcap", batch_frames=5) as captures, LiveFlowFiles(folder) as files:
        run = Run(captures, options_for())
        for step in run.steps():
            files.take(step, captures.interfaces)
            run.stop()
        files.finish(run.account(), [CannotWriteError("and this")])
    index = index_of(folder)
    assert index["incomplete"] == ["and this", "interrupted by the user"]
    assert sum(len(entry["frames"]) for entry in index["files"]) == index["frames_in_flows"] > 0
    assert index["frames"] == 5


def test_a_run_that_was_broken_off_lists_what_has_ended(fixtures_folder: Path, tmp_path: Path) -> None:
    # Nobody has ended the flows: their files stay, and the index counts them.
    folder = tmp_path / "out"
    with open_source(fixtures_folder / "T01.pcap", batch_frames=5) as captures, LiveFlowFiles(folder) as files:
        run = Run(captures, options_for())
        files.take(next(run.steps()), captures.interfaces)
        assert files.finish(run.account(), [KeyboardInterrupt()]) == 0
    assert index_of(folder)["incomplete"] == [
        "KeyboardInterrupt",
        f"{folder}: 2 files are not listed in the index because their flow had not ended",
    ]
    assert len(contents(folder)) == 3


def test_nothing_came(tmp_path: Path) -> None:
    with LiveFlowFiles(tmp_path) as files:
        assert files.finish(Account()) == 0
    assert index_of(tmp_path)["files"] == []
    assert len(contents(tmp_path)) == 1


def test_memory_follows_live_flows(tmp_path: Path) -> None:
    # Each flow is over (60 s of silence) before the next one comes.
    wire = exchange.Wire(step_ns=400_000_000_000)
    for port in range(1, 51):
        wire.packet(datagram(port))
    with open_source(wire.pcap(tmp_path), batch_frames=1) as captures, LiveFlowFiles(tmp_path / "out") as files:
        run = Run(captures, options_for())
        live = []
        for step in run.steps():
            files.take(step, captures.interfaces)
            live.append(len(files._live))
        files.finish(run.account())
    assert max(live) == 1
    assert [entry["flow"] for entry in index_of(tmp_path / "out")["files"]] == list(range(1, 51))


def test_flows_are_listed_as_they_opened_whenever_they_end(tmp_path: Path) -> None:
    talk = exchange.Exchange()
    long = exchange.Exchange("10.0.0.9:9", "10.0.0.2:80", wire=talk.wire)
    long.a.syn()
    talk.connection()
    for _ in range(3):
        talk.wait(s=30)
        long.a.ack()
    path = talk.wire.pcap(tmp_path)
    ended: list[int] = []
    found, _ = as_they_come(
        [path], tmp_path / "live", "pcap", on_step=lambda step: ended.extend(step.ended["number"].tolist())
    )
    assert ended == [2, 1]
    assert [entry["flow"] for entry in json.loads(found["index.json"])["files"]] == [1, 2]


# --- the command line ----------------------------------------------------------------------------------------------


def test_only_interfaces_have_files_that_are_held_open(
    cli: Callable[..., tuple[int, str, str]], fixtures_folder: Path, tmp_path: Path
) -> None:
    code, _, err = cli("trace", fixtures_folder / "T01.pcap", "-o", tmp_path / "out", "--max-open-files", "3")
    assert code == 2
    assert "-i" in err
    for number in ("0", "-1", "x"):
        assert cli("trace", "-i", "lo", "-o", tmp_path / "out", "--max-open-files", number)[0] == 2
    assert not (tmp_path / "out").exists()


def test_an_interface_that_is_not_there(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, err = cli("trace", "-i", "nosuch0", "-o", tmp_path / "out", "-q")
    assert code == 1
    assert "nosuch0" in err
    assert contents(tmp_path / "out") == {}


LIVE = """
import os, signal, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
folder, fmt, number = sys.argv[1:]
command = [sys.executable, "-m", "traceflow", "trace", "-i", "lo", "-o", folder, "--format", fmt]
child = subprocess.Popen([*command, "--max-open-files", "2"], stderr=subprocess.PIPE, text=True)
for line in child.stderr:
    if line.startswith("capturing"):
        break
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    for count in range(5):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(server.getsockname())
            for _ in range(3):
                client.send(b"question %d" % count)
                server.sendto(b"answer", server.recvfrom(100)[1])
                client.recv(100)
def written():
    return sum(name.endswith(("json", "pcap")) for name in os.listdir(folder))
while written() < (5 if fmt == "pcap" else 10) and child.poll() is None:
    os.sched_yield()
print(sum(folder in os.readlink(f"/proc/{child.pid}/fd/{one}") and "deleted" not in
          os.readlink(f"/proc/{child.pid}/fd/{one}") for one in os.listdir(f"/proc/{child.pid}/fd")))
child.send_signal(int(number))
print(child.stderr.read())
sys.exit(child.wait())
"""


@pytest.mark.once("an interface in a network of its own")
@pytest.mark.slow_plain("kernels in time for the frames")
@pytest.mark.parametrize(("fmt", "number", "code"), [("json", 2, 130), ("pcap", 15, 143)])
def test_an_interface_is_written_to_files(fmt: str, number: int, code: int, tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("unshare and ip make a network of their own; they are not installed")
    if subprocess.run([*alone, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("no network of its own can be made here")
    folder = tmp_path / "out"
    done = subprocess.run(
        [*alone, sys.executable, "-c", LIVE, str(folder), fmt, str(number)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert int(done.stdout.splitlines()[0]) <= 2
    index = index_of(folder)
    files = index["files"]
    assert (index["captures"], index["incomplete"]) == (["lo"], [])
    # Five flows of three questions and answers each.
    assert index["frames"] == index["frames_in_flows"] == 30
    assert len(files) == (5 if fmt == "pcap" else 10)
    assert {len(entry["frames"]) for entry in files} == ({6} if fmt == "pcap" else {3})
    assert {path.name for path in folder.iterdir()} == {"index.json", *(entry["file"] for entry in files)}
    for entry in files:
        found = frames_in(folder / entry["file"])
        assert [one.octets[42:] for one in found if isinstance(one, oracle.RawFrame)] or found == entry["frames"]
