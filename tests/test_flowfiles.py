"""The per-flow files of a capture: each frame of a flow in one file, once, as it was captured.

Captures and pcap files are read by tests/oracle.py, which shares no code with the package; the frames of each flow are
the hand counts of fixtures/expected.json, or those of the oracle.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import plistlib
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exchange
import make
import oracle
import pytest
from blocks import Blocks

import traceflow
from traceflow.errors import CannotReadError, CannotWriteError, FileExists, UsageError
from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sinks import flowfiles
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sinks.perflow import DEFAULT_BY, FORMATS
from traceflow.sources import open_source

EXPECTED = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "expected.json").read_text("utf-8"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])}
TEMPORARY = re.compile(r"\.traceflow-[0-9a-f]{16}\.part")
RUN = (
    "from traceflow.options import options_for\n"
    + """
import sys
from pathlib import Path
from traceflow.errors import CannotWriteError
from traceflow.pipeline import FlowCollector, Run
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sources import open_source
def write(path, folder, fmt):
    with open_source(path, keep=True) as captures, FlowFiles(Path(folder), format=fmt) as files:
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            files.take(step)
            collector.take(step)
        return files.write(collector.flows(), captures)
"""
)


def write(
    sources: list[Any],
    folder: Path,
    fmt: str = "json",
    *,
    by: str | None = None,
    overwrite: bool = False,
    before_writing: Callable[[], object] = lambda: None,
    **more: Any,
) -> tuple[FlowSet, int]:
    """Trace and write, as the command does."""
    with (
        open_source(*sources, keep=True) as captures,
        FlowFiles(folder, format=fmt, by=by, overwrite=overwrite) as files,
    ):
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            files.take(step)
            collector.take(step)
        flows = collector.flows()
        before_writing()
        return flows, files.write(flows, captures, **more)


def read(path: Path) -> list[oracle.RawFrame]:
    """The good frames of a capture."""
    frames = []
    try:
        for frame in oracle.read_frames(path.read_bytes()):
            frames.append(frame)  # noqa: PERF402 - what comes before a fault counts
    except oracle.BadCaptureError:
        pass
    return frames


def frames_in(path: Path) -> list[int]:
    """The frame numbers in a json, plist or tree file, from the names of its blocks."""
    content = path.read_bytes()
    if path.suffix == ".json":
        names = list(json.loads(content))
    elif path.suffix == ".plist":
        names = list(plistlib.loads(content))
    else:
        names = re.findall(r"^(Frame \d+)$", content.decode(), flags=re.MULTILINE)
    return [int(re.fullmatch(r"Frame (\d+)", name)[1]) for name in names]  # type: ignore[index]


def check_folder(folder: Path, source: list[oracle.RawFrame], in_flows: set[int]) -> dict[str, Any]:
    """What holds for every output folder. Returns the index.

    Args:
        folder: The folder.
        source: The frames of the input.
        in_flows: Numbers of the frames that belong to flows.
    """
    index: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
    files = {entry["file"]: entry for entry in index["files"]}
    assert len(files) == len(index["files"])
    assert {path.name for path in folder.iterdir()} == {*files, "index.json"}
    numbers: list[int] = []
    for name, entry in files.items():
        assert re.fullmatch(r"[0-9A-Za-z.+_-]+", name)
        numbers += entry["frames"]
        if not name.endswith(".pcap"):
            assert frames_in(folder / name) == entry["frames"]
            continue
        written = read(folder / name)
        expected = [source[number - 1] for number in entry["frames"]]
        assert [frame.octets for frame in written] == [frame.octets for frame in expected]
        assert [(frame.wire_octets, frame.link) for frame in written] == [
            (frame.wire_octets, frame.link) for frame in expected
        ]
        unit = 1 if (folder / name).read_bytes()[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1000
        assert [frame.time_ns for frame in written] == [
            frame.time_ns // unit * unit % (2**32 * 10**9) for frame in expected
        ]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == in_flows
    assert index["frames"] == len(source) == index["frames_in_flows"] + sum(index["frames_without_flow"].values())
    assert index["frames_in_flows"] == len(in_flows)
    return index


def many_flows(path: Path, flows: int, packets: int = 1) -> Path:
    """A capture of UDP flows whose packets are interleaved."""
    wire = exchange.Wire(step_ns=1000)
    for _ in range(packets):
        for at in range(flows):
            source = f"10.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}"
            octets = exchange.udp(source, "10.255.255.1", 5000, 53, b"x" * 20)
            wire.packet(exchange.ipv4(source, "10.255.255.1", exchange.UDP, octets))
    path.write_bytes(wire.pcap_octets())
    return path


# --- every fixture in every format -------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["json", "plist", "tree", "pcap"])
@pytest.mark.parametrize("by", ["direction", "flow"])
def test_fixtures_become_files(fmt: str, by: str, fixtures_folder: Path, tmp_path: Path) -> None:
    for name, case in EXPECTED.items():
        paths = [fixtures_folder / file for file in case["files"]]
        folder = tmp_path / name
        flows, count = write(list(paths), folder, fmt, by=by)
        lists = [
            frames
            for flow in case["flows"]
            for frames in ([flow["orig_frames"], flow["resp_frames"]] if by == "direction" else [flow["frames"]])
            if frames
        ]
        source = [frame for path in paths for frame in read(path)]
        index = check_folder(folder, source, {number for frames in lists for number in frames})
        assert count == len(index["files"])
        assert len(flows) == len(case["flows"]) == index["flows"]
        if fmt != "pcap":  # there a flow over several link types is several files
            assert sorted(entry["frames"] for entry in index["files"]) == sorted(lists)
        assert bool(index["incomplete"]) == bool(case["error"])
        numbers = [entry["flow"] for entry in index["files"]]
        assert numbers == sorted(numbers)


@pytest.mark.once("10 000 frames in four formats")
@pytest.mark.slow_plain("10 000 frames, traced and decoded four times: a minute")
def test_the_real_capture(shared: Path, tmp_path: Path) -> None:
    path = shared / "corpus" / "tranalyzer" / "2009-M57-day11-18-10k.pcap"
    if not path.exists():
        pytest.skip(f"{path.name} is absent")
    source = read(path)
    assert len(source) == 10_000  # capinfos -c
    result = oracle.trace_capture(path)
    in_flows = {number for flow in result.flows for number in flow.frames}
    for fmt in ("json", "plist", "tree", "pcap"):
        write([path], tmp_path / fmt, fmt)
        index = check_folder(tmp_path / fmt, source, in_flows)
        lists = [
            frames
            for flow in result.flows
            for frames in ([flow.frames] if fmt == "pcap" else [flow.orig_frames, flow.resp_frames])
            if frames
        ]
        assert sorted(entry["frames"] for entry in index["files"]) == sorted(lists)


def test_an_entry_of_the_index(fixtures_folder: Path, tmp_path: Path) -> None:
    # T01 begins at 1700000000 s and has a frame each millisecond; frame 10 is the last.
    write([fixtures_folder / "T01.pcap"], tmp_path / "d", "json")
    index = json.loads((tmp_path / "d" / "index.json").read_bytes())
    assert index["captures"] == [str(fixtures_folder / "T01.pcap")]
    assert index["incomplete"] == []
    assert index["flows_by_end"]["fin"] == 1
    orig, resp = index["files"]
    assert orig == {
        "label": "10.0.0.1_1000-10.0.0.2_80-1700000000.000000",
        "file": "10.0.0.1_1000-10.0.0.2_80-1700000000.000000.json",
        "flow": 1,
        "direction": "orig",
        "protocol": "TCP",
        "orig": "10.0.0.1",
        "orig_port": 1000,
        "resp": "10.0.0.2",
        "resp_port": 80,
        "first": "1700000000.000000",
        "last": "1700000000.009000",
        "end": "fin",
        "end_reason": 3,
        "parent": 1,
        "segment": 1,
        "frames": [1, 3, 4, 6, 7, 10],
    }
    assert (resp["label"], resp["direction"], resp["first"], resp["last"], resp["frames"]) == (
        "10.0.0.2_80-10.0.0.1_1000-1700000000.001000",
        *("resp", "1700000000.001000", "1700000000.008000", [2, 5, 8, 9]),
    )
    write([fixtures_folder / "T01.pcap"], tmp_path / "f", "pcap")
    (both,) = json.loads((tmp_path / "f" / "index.json").read_bytes())["files"]
    assert (both["file"], both["direction"], both["frames"]) == (
        "10.0.0.1_1000-10.0.0.2_80-1700000000.000000.pcap",
        *(None, list(range(1, 11))),
    )


def test_formats_and_their_defaults() -> None:
    assert set(FORMATS) == {"json", "plist", "xml", "tree", "txt", "text", "pcap", "cap"}
    assert {name for name, by in DEFAULT_BY.items() if by == "flow"} == {"pcap", "cap"}


def test_an_unknown_format_or_division_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean json"):
        FlowFiles(tmp_path / "x", format="jsn")
    with pytest.raises(UsageError, match="direction"):
        FlowFiles(tmp_path / "x", by="directions")
    assert not (tmp_path / "x").exists()


# --- pcap: what the source had -----------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("nanosecond", [False, True])
@pytest.mark.parametrize("snaplen", [96, 65535, 2**31])
def test_pcap_keeps_byte_order_clock_snaplen_and_link(
    byteorder: str, nanosecond: bool, snaplen: int, tmp_path: Path
) -> None:
    talk = exchange.Exchange(wire=exchange.Wire(snaplen=96, step_ns=1_000_001))
    talk.open()
    talk.a.data(b"x" * 500)
    options: dict[str, Any] = {"nanosecond": nanosecond, "byteorder": byteorder}
    source = tmp_path / "source.pcap"
    source.write_bytes(exchange.pcap_octets(talk.wire.frames, snaplen=snaplen, **options))
    write([source], tmp_path / "out", "pcap")
    (name,) = (path for path in (tmp_path / "out").iterdir() if path.suffix == ".pcap")
    assert name.read_bytes() == source.read_bytes()  # one flow: the file is the capture again


def two_interfaces(links: tuple[int, int], resolutions: tuple[int, int], snaplens: tuple[int, int]) -> bytes:
    """A pcapng with one TCP flow whose frames alternate between two interfaces, at 1700000000.000000001 s and on."""
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


def test_two_clocks_give_the_finest(tmp_path: Path) -> None:
    path = tmp_path / "source.pcapng"
    path.write_bytes(two_interfaces((1, 1), (6, 9), (0, 0)))
    write([path], tmp_path / "out", "pcap")
    index = check_folder(tmp_path / "out", read(path), set(range(1, 11)))
    (entry,) = index["files"]
    content = (tmp_path / "out" / entry["file"]).read_bytes()
    assert struct.unpack("<I", content[:4])[0] == 0xA1B23C4D
    # ticks of 1 us on odd frames, of 1 ns on even ones
    assert [frame.time_ns % 10**9 for frame in oracle.read_frames(content)][:4] == [0, 1001, 2000, 3003]


def test_two_link_types_give_two_files(tmp_path: Path) -> None:
    path = tmp_path / "source.pcapng"
    path.write_bytes(two_interfaces((1, 101), (6, 6), (0, 96)))
    write([path], tmp_path / "out", "pcap")
    index = check_folder(tmp_path / "out", read(path), set(range(1, 11)))
    label = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000"
    assert [(entry["file"], entry["label"], entry["frames"]) for entry in index["files"]] == [
        (f"{label}-EN10MB.pcap", label, [1, 3, 5, 7, 9]),
        (f"{label}-RAW.pcap", label, [2, 4, 6, 8, 10]),
    ]
    heads = [
        struct.unpack("<IHHiIII", (tmp_path / "out" / entry["file"]).read_bytes()[:24]) for entry in index["files"]
    ]
    assert [(head[0], head[5], head[6]) for head in heads] == [(0xA1B2C3D4, 262144, 1), (0xA1B2C3D4, 96, 101)]
    # the other formats take both into one file
    write([path], tmp_path / "json", "json", by="flow")
    assert len(check_folder(tmp_path / "json", read(path), set(range(1, 11)))["files"]) == 1


def test_snaplens_give_the_largest_and_no_limit_is_no_limit(tmp_path: Path) -> None:
    for snaplens, expected in (((96, 128), 128), ((96, 0), 262144)):
        path = tmp_path / "source.pcapng"
        path.write_bytes(two_interfaces((1, 1), (6, 6), snaplens))
        write([path], tmp_path / str(expected), "pcap")
        (file,) = (tmp_path / str(expected)).glob("*.pcap")
        assert struct.unpack("<I", file.read_bytes()[16:20])[0] == expected


def test_wiresharks_tools_read_the_files(fixtures_folder: Path, tmp_path: Path) -> None:
    if not shutil.which("capinfos"):
        pytest.skip("capinfos is not installed")
    write([fixtures_folder / "http.pcap"], tmp_path / "out", "pcap")
    files = sorted((tmp_path / "out").glob("*.pcap"))
    done = subprocess.run(["capinfos", "-Mcr", *map(str, files)], capture_output=True, text=True, check=True)
    counts = [int(count) for count in re.findall(r"Number of packets: *(\d+)", done.stdout)]
    assert sorted(counts) == sorted(len(flow["frames"]) for flow in EXPECTED["http"]["flows"])
    assert done.stderr == ""


# --- where captures come from ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["json", "pcap"])
def test_a_flow_over_several_captures(fmt: str, fixtures_folder: Path, tmp_path: Path) -> None:
    paths = [fixtures_folder / name for name in ("T29a.pcap", "T32-ns-big-endian.pcap", "T29b.pcap")]
    write(list(paths), tmp_path / "out", fmt)
    source = [frame for path in paths for frame in read(path)]
    index = check_folder(tmp_path / "out", source, set(range(1, 21)))
    assert index["captures"] == [str(path) for path in paths]


@pytest.mark.parametrize("fmt", ["json", "plist", "tree", "pcap"])
def test_a_pipe_gives_the_same_files(fmt: str, fixtures_folder: Path, tmp_path: Path) -> None:
    path = fixtures_folder / "http.pcap"
    write([path], tmp_path / "path", fmt)
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(path.read_bytes())

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        write([pipe], tmp_path / "pipe", fmt)
    thread.join()
    for one in (tmp_path / "path").iterdir():
        if one.name != "index.json":
            assert (tmp_path / "pipe" / one.name).read_bytes() == one.read_bytes()
    first, second = (json.loads((tmp_path / name / "index.json").read_bytes()) for name in ("path", "pipe"))
    assert first.pop("captures") != second.pop("captures")
    assert first == second


def test_an_open_file_is_read_again(fixtures_folder: Path, tmp_path: Path) -> None:
    content = (fixtures_folder / "http.pcap").read_bytes()
    write([io.BytesIO(content)], tmp_path / "out", "pcap")
    in_flows = {number for flow in EXPECTED["http"]["flows"] for number in flow["frames"]}
    check_folder(tmp_path / "out", read(fixtures_folder / "http.pcap"), in_flows)


@pytest.mark.once("40 000 frames")
@pytest.mark.parametrize("fmt", ["json", "pcap"])
@pytest.mark.slow_plain("40 000 frames, decoded twice")
def test_a_flow_larger_than_what_is_held_in_memory(fmt: str, tmp_path: Path) -> None:
    path = make.long_flow(tmp_path / "T17.pcap")
    write([path], tmp_path / "out", fmt)
    check_folder(tmp_path / "out", read(path), set(range(1, 40_001)))


@pytest.mark.slow_plain("39 MB of octets, copied one by one")
def test_frames_larger_than_what_is_held_in_memory_together(tmp_path: Path) -> None:
    # 600 frames of 65 000 octets are 39 MB; groups end at 32 MiB.
    wire = exchange.Wire(step_ns=1)
    for at in range(600):
        octets = exchange.udp("10.0.0.1", "10.0.0.2", at % 3, 53, bytes([at & 255]) * 60_000)
        wire.packet(exchange.ipv4("10.0.0.1", "10.0.0.2", exchange.UDP, octets))
    path = wire.pcap(tmp_path, nanosecond=True)
    write([path], tmp_path / "out", "pcap")
    check_folder(tmp_path / "out", read(path), set(range(1, 601)))


# --- names -------------------------------------------------------------------------------------------------------


def test_the_same_label_twice_gets_a_suffix(tmp_path: Path) -> None:
    talk = exchange.Exchange(wire=exchange.Wire(step_ns=0))
    for isn in (1, 1001, 2001):
        talk.a.syn(seq=isn)
    path = talk.pcap(tmp_path)
    write([path], tmp_path / "out", "pcap")
    index = check_folder(tmp_path / "out", read(path), {1, 2, 3})
    label = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000"
    assert [entry["file"] for entry in index["files"]] == [f"{label}.pcap", f"{label}-1.pcap", f"{label}-2.pcap"]
    assert {entry["label"] for entry in index["files"]} == {label}


def test_labels_of_other_protocols_and_of_ipv6(fixtures_folder: Path, tmp_path: Path) -> None:
    write([fixtures_folder / "http.pcap"], tmp_path / "out", "pcap")
    names = {re.sub(r"-[0-9.]+\.pcap$", "", path.name) for path in (tmp_path / "out").glob("*.pcap")}
    assert names == {
        "UDP_192.0.2.10_53211-192.0.2.1_53",
        "192.0.2.10_49152-198.51.100.80_80",
        "192.0.2.10_49153-198.51.100.80_80",
        "2001.db8..10_49154-2001.db8.80..443_443",
        "192.0.2.10_49155-203.0.113.5_8080",
        "ICMP_192.0.2.10-198.51.100.80",
    }


# --- what is there already ---------------------------------------------------------------------------------------


def test_files_of_an_earlier_run_are_kept_unless_asked(fixtures_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write([fixtures_folder / "T01.pcap"], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExists, match="earlier run"):
        FlowFiles(folder)
    with pytest.raises(FileExists, match=r"index\.json"):
        FlowFiles(folder, format="pcap")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write([fixtures_folder / "T01.pcap"], folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_that_appears_meanwhile_is_kept_and_the_index_tells_what_was_written(
    fixtures_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    name = "10.0.0.2_80-10.0.0.1_1000-1700000000.001000.json"
    with pytest.raises(FileExists, match=re.escape(name)):
        write([fixtures_folder / "T01.pcap"], folder, before_writing=lambda: (folder / name).write_text("precious"))
    assert (folder / name).read_text() == "precious"
    index = json.loads((folder / "index.json").read_bytes())
    assert [entry["frames"] for entry in index["files"]] == [[1, 3, 4, 6, 7, 10]]
    assert {path.name for path in folder.iterdir()} == {name, "index.json", index["files"][0]["file"]}


def test_a_folder_in_the_way_of_a_file(fixtures_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    name = "10.0.0.2_80-10.0.0.1_1000-1700000000.001000.json"
    with pytest.raises(CannotWriteError, match=re.escape(name)):
        write(
            [fixtures_folder / "T01.pcap"],
            folder,
            overwrite=True,
            before_writing=lambda: (folder / name / "x").mkdir(parents=True),
        )
    index = json.loads((folder / "index.json").read_bytes())
    assert len(index["files"]) == 1


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileExists, match="in the way"):
            FlowFiles(path)
    for place in ("/proc/none", "/proc"):
        with pytest.raises(CannotWriteError):
            FlowFiles(Path(place))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_capture_that_has_changed_is_an_error_and_the_index_is_written(tmp_path: Path) -> None:
    path = many_flows(tmp_path / "x.pcap", 3)
    content = path.read_bytes()
    for fmt in ("json", "pcap"):
        with pytest.raises(CannotReadError, match="shorter"):
            write([path], tmp_path / fmt, fmt, before_writing=lambda: os.truncate(path, 100))
        path.write_bytes(content)
        assert json.loads((tmp_path / fmt / "index.json").read_bytes())["files"] == []


@pytest.mark.slow_plain("40 000 frames, decoded twice")
def test_a_capture_that_has_changed_in_the_middle_of_a_file_is_an_error_of_the_input(tmp_path: Path) -> None:
    path = make.long_flow(tmp_path / "T17.pcap")
    size = path.stat().st_size
    with pytest.raises(CannotReadError, match="shorter"):
        write([path], tmp_path / "out", "pcap", before_writing=lambda: os.truncate(path, size // 2))
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["index.json"]


# --- stopping, dying, full disks ---------------------------------------------------------------------------------


@pytest.mark.slow_plain("9000 frames, twice")
def test_progress_and_stopping(tmp_path: Path) -> None:
    path = many_flows(tmp_path / "x.pcap", 3000, packets=3)
    seen: list[tuple[int, int]] = []
    _, count = write([path], tmp_path / "all", "pcap", on_progress=lambda *at: seen.append(at))
    assert count == 3000
    assert seen[-1] == (9000, 9000)
    assert sorted(seen) == seen
    assert len(seen) == 3  # 9000 frames in groups of at most 4096
    answers = iter([False, True])
    _, count = write([path], tmp_path / "some", "pcap", stopped=lambda: next(answers))
    index = json.loads((tmp_path / "some" / "index.json").read_bytes())
    assert 0 < count == len(index["files"]) < 3000
    assert index["incomplete"] == [f"interrupted by the user: files hold {3 * count} of 9000 frames"]
    assert {each.name for each in (tmp_path / "some").iterdir()} == {"index.json", *(f["file"] for f in index["files"])}


@pytest.mark.slow_plain("9000 frames")
def test_an_interruption_leaves_whole_files_and_an_index(tmp_path: Path) -> None:
    path = many_flows(tmp_path / "x.pcap", 3000, packets=3)

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write([path], tmp_path / "out", "pcap", on_progress=interrupt)
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert len(index["files"]) == 4096 // 3
    assert index["incomplete"] == ["interrupted by the user: files hold 4095 of 9000 frames"]
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"index.json", *(f["file"] for f in index["files"])}


def test_an_index_for_which_room_must_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the index is written; what was put away until then is given back, and it fits."""
    path = many_flows(tmp_path / "x.pcap", 30, packets=3)
    flows, count = write([path], tmp_path / "all", "pcap")
    failed: list[Path] = []

    def full_at_first(at: Path, pieces: Iterator[bytes], *, overwrite: bool) -> None:
        octets = b"".join(pieces)
        if at.name == "index.json" and not failed:
            failed.append(at)
            raise CannotWriteError(f"{at}: cannot write: No space left on device")
        at.write_bytes(octets)

    monkeypatch.setattr(flowfiles, "write_whole", full_at_first)
    assert write([path], tmp_path / "again", "pcap")[1] == count == len(flows)
    assert failed == [tmp_path / "again" / "index.json"]
    assert (tmp_path / "again" / "index.json").read_bytes() == (tmp_path / "all" / "index.json").read_bytes()


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN + program, *map(str, arguments)], env=ENVIRONMENT)


def run(program: str, *arguments: object) -> str:
    """Run a program that calls `write`; what it prints."""
    command = [sys.executable, "-c", RUN + program, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_while(child: subprocess.Popen[bytes], folder: Path) -> Iterator[list[str]]:
    """The names in a folder, every few milliseconds until a process ends."""
    while child.poll() is None:
        yield os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - Paths of thousands take longer
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.002)


@pytest.mark.once("thousands of files")
@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 on this system")
@pytest.mark.parametrize("fmt", ["json", "pcap"])
@pytest.mark.slow_plain("some thousand files in another process")
def test_kill_9_leaves_whole_files_and_temporary_ones(fmt: str, tmp_path: Path) -> None:
    path = many_flows(tmp_path / "x.pcap", 20_000)
    source = read(path)
    for at_least in (1, 700, 3000):
        folder = tmp_path / str(at_least)
        child = start("write(*sys.argv[1:])", path, folder, fmt)
        for names in names_while(child, folder):
            if len(names) > at_least:
                child.kill()
                break
        assert child.wait() == -9
        left = list(folder.iterdir())
        whole = [one for one in left if not TEMPORARY.fullmatch(one.name)]
        assert len(left) - len(whole) <= 1
        assert not (folder / "index.json").exists()
        assert at_least - 1 <= len(whole) < 20_000
        for one in whole:
            third, fourth = re.match(r"UDP_10\.0\.(\d+)\.(\d+)_", one.name).groups()  # type: ignore[union-attr]
            at = 256 * int(third) + int(fourth)
            if fmt == "json":
                assert frames_in(one) == [at + 1]
            else:
                assert [frame.octets for frame in read(one)] == [source[at].octets]


@pytest.mark.once("thousands of files")
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
@pytest.mark.parametrize("fmt", ["json", "pcap"])
@pytest.mark.slow_plain("some thousand files in another process")
def test_at_most_64_files_are_open_at_any_time(fmt: str, tmp_path: Path) -> None:
    path = many_flows(tmp_path / "x.pcap", 5000, packets=2)
    child = start("write(*sys.argv[1:])", path, tmp_path / "out", fmt)
    most = samples = 0
    for names in names_while(child, tmp_path / "out"):
        try:
            most = max(most, len(list(os.scandir(f"/proc/{child.pid}/fd"))))
        except OSError:  # it has ended
            break
        samples += len(names) > 1
    assert child.wait() == 0
    assert samples > 20
    assert 3 < most <= 64
    assert len(list((tmp_path / "out").iterdir())) == 5001


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    write(*sys.argv[1:4])
except CannotWriteError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.once("a process with little disk")
def test_frame_positions_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="no limits on this system")
    path = many_flows(tmp_path / "x.pcap", 100)
    # 100 FRAME rows need 4000 octets; they fail when they are kept, or when the buffer is flushed
    for limit in (0, 1000, 3999):
        folder = tmp_path / str(limit)
        assert run(LIMITED, path, folder, "json", limit).startswith("CannotWriteError")
        assert list(folder.iterdir()) == []


def test_a_file_that_does_not_fit_leaves_the_ones_before_it(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="no limits on this system")
    wire = exchange.Wire()
    for port, length in ((1, 10), (2, 30_000), (3, 10)):
        octets = exchange.udp("10.0.0.1", "10.0.0.2", port, 53, b"x" * length)
        wire.packet(exchange.ipv4("10.0.0.1", "10.0.0.2", exchange.UDP, octets))
    path = wire.pcap(tmp_path)
    assert run(LIMITED, path, tmp_path / "out", "pcap", 20_000).startswith("CannotWriteError")
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    (entry,) = index["files"]
    assert entry["orig_port"] == 1
    assert {each.name for each in (tmp_path / "out").iterdir()} == {entry["file"], "index.json"}
    assert [frame.octets for frame in read(tmp_path / "out" / entry["file"])] == [read(path)[0].octets]


FULL = """
import json
folder = Path(sys.argv[2])
try:
    write(*sys.argv[1:4])
except CannotWriteError as error:
    names = sorted(each.name for each in folder.iterdir())
    whole = [name for name in names if name.endswith(".json") and name != "index.json"]
    loaded = [len(json.loads((folder / name).read_bytes())) for name in whole]
    print(json.dumps({"error": str(error), "names": names, "loaded": loaded,
        "listed": len(json.loads((folder / "index.json").read_bytes())["files"]) if "index.json" in names else None}))
"""


@pytest.mark.once("a small disk of its own")
def test_a_full_disk_leaves_whole_files_only(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    # A disk of 512 KiB, in a mount namespace of its own that ends with the process.
    inside = 'mount -t tmpfs -o size=512k tmpfs "$1" && shift && exec "$@"'
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path / "disk")]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    path = many_flows(tmp_path / "x.pcap", 3000)
    program = [sys.executable, "-c", RUN + FULL, str(path), str(tmp_path / "disk" / "out"), "json"]
    done = subprocess.run([*alone, *program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "No space left on device" in said["error"]
    assert not [name for name in said["names"] if TEMPORARY.fullmatch(name)]
    assert 0 < len(said["loaded"]) < 3000
    assert set(said["loaded"]) == {1}
    assert said["listed"] in (None, len(said["loaded"]))


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path: Path, fixtures_folder: Path) -> None:
    def names() -> set[str]:
        return {path.name for path in (tmp_path / "out").iterdir()} - {"index.json"}

    for name in ("http.pcap", "T01.pcap"):
        with (
            FlowFiles(tmp_path / "out", overwrite=True) as files,
            open_source(fixtures_folder / name, keep=True) as captures,
        ):
            run = Run(captures, options_for())
            collector = FlowCollector(run)
            for step in run.steps():
                collector.take(step)
                files.take(step)
            (tmp_path / "out" / "mine.json").write_text("not of a run")
            files.write(collector.flows(), captures)
    # T01 has two directions (fixtures/README.md); the file that no index lists stays.
    assert len(names()) == 3
    assert "mine.json" in names()


@pytest.mark.parametrize("outer", [False, True])
def test_records_show_the_packet_that_the_flow_is_made_of(tmp_path: Path, fixtures_folder: Path, outer: bool) -> None:
    with FlowFiles(tmp_path, outer=outer) as files, open_source(fixtures_folder / "T19.pcap", keep=True) as captures:
        run = Run(captures, options_for(outer=outer))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            files.take(step)
        files.write(collector.flows(), captures)
    from_tunnel_ends = 0
    for entry in json.loads((tmp_path / "index.json").read_bytes())["files"]:
        for record in json.loads((tmp_path / entry["file"]).read_bytes()).values():
            layer = record.get("ip") or record["ipv6"]
            assert {layer["src"], layer["dst"]} == {entry["orig"], entry["resp"]}
            from_tunnel_ends += layer["src"] == "192.0.2.1"
    # fixtures/tunnel_cases.py: tunnels run from 192.0.2.1; of the inner packets only the last frame, which merely looks
    # like VXLAN, comes from there.
    assert from_tunnel_ends > 10 if outer else from_tunnel_ends == 1
