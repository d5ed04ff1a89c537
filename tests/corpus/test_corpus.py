"""Every capture of the shared corpus: traced or refused with a message, in time, and with an account that adds up.

`tox -e corpus` runs this; the corpus lies beside the checkout and is never copied into it. What is checked of each:

- nothing but a TraceflowError says that something is wrong, and reading takes at most 10 s;
- every frame is in one flow or under one Verdict, and the flows' frame lists are what the account says;
- frames are as many as tshark 4.0.17 counted (oracle/captures.tsv), where the format is read and the file is whole;
- batches of one frame read 8 KiB at a time give the same flows as batches of 4096 read 1 MiB at a time.

And of all together: tests/oracle.py and tshark see the same flows.
"""

from __future__ import annotations

import csv
import gzip
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from oracle import trace_capture

from traceflow import trace
from traceflow.errors import TraceflowError, UnsupportedCaptureError
from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

SHARED = Path(__file__).resolve().parents[3] / "shared"
CORPUS = SHARED / "corpus"
FOLDERS = sorted(path.name for path in CORPUS.iterdir() if path.is_dir()) if CORPUS.is_dir() else ["absent"]
MOST_SECONDS = 10

CUSTOM_BLOCKS = {"test017": 4, "test018": 4, "test102": 3, "test202": 3}
"""Custom blocks of these pcapng files, in every folder that has them. tshark shows each as a frame (`frame.protocols`
is `data` there, `_ws.col.Protocol` PCAPNG); no octets of a network are in them, so they are no frames here.
"""
REFUSED = {
    "libpcap/tests/pcap-invalid-version-2.pcap": "version 2.5; tcpdump: unsupported file version",
}
"""Whole pcap and pcapng files that are refused all the same, with the reason."""


def frames_by_tshark(row: dict[str, str]) -> int | None:
    """Frames of a whole file, None where captures.tsv does not say."""
    if row["tshark_rc"] != "0" or not row["frames"].isdigit():
        return None
    stem = Path(row["path"]).stem.partition("-")[0]
    return int(row["frames"]) - (CUSTOM_BLOCKS.get(stem, 0) if row["format"] == "pcapng" else 0)


@dataclass
class Traced:
    """One pass over a capture."""

    flows: FlowSet
    ended: list[int]
    opened: int
    seconds: float


def traced(path: Path, *, batch_frames: int = 4096, read_octets: int = 1 << 20) -> Traced:
    began = time.perf_counter()
    ended: list[int] = []
    with open_source(path, batch_frames=batch_frames, read_octets=read_octets) as captures:
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            ended += step.ended["number"].tolist()
        return Traced(collector.flows(), ended, captures.opened, time.perf_counter() - began)


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """Have the kernels compiled before anything is timed: the first run may take longer for that, and the first rare
    frame: its kernel alone takes 7 s of the 10 that a capture may take.
    """
    for name in ("T01.pcap", "other-protocols.pcap"):
        traced(Path(__file__).resolve().parents[2] / "fixtures" / name)


@pytest.fixture(scope="session")
def counted(shared: Path) -> dict[str, dict[str, str]]:
    """Rows of captures.tsv by path."""
    with (shared / "oracle" / "captures.tsv").open(encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}


def faults(path: Path, counted: dict[str, dict[str, str]]) -> Iterator[str]:
    """What is wrong with how a capture was traced."""
    one = traced(path)
    two = traced(path, batch_frames=1, read_octets=8192)
    flows, account = one.flows, one.flows.account
    if one.seconds > MOST_SECONDS:
        yield f"took {one.seconds:.1f} s"
    for error in flows.errors:
        if not isinstance(error, TraceflowError) or path.name not in str(error):
            yield f"an error that does not name the file: {error!r}"
    if not one.opened and not flows.errors:
        yield "neither opened nor refused"
    if account.frames != account.in_flows + sum(account.verdicts.values()):
        yield f"the account does not add up: {account}"
    if account.flows != len(flows) or sum(account.causes.values()) != len(flows):
        yield f"{len(flows)} flows, but the account says {account.flows}"
    offsets, numbers = flows.frame_map.lists()
    if len(numbers) != account.in_flows or len(np.unique(numbers)) != len(numbers):
        yield "the frame lists are not a partition of the frames in flows"
    packets = flows.columns["orig"]["packets"] + flows.columns["resp"]["packets"]
    if not np.array_equal(np.diff(offsets), packets):
        yield "frame lists are not as long as the flows have packets"
    row = counted.get(str(path.relative_to(CORPUS)))
    wanted = frames_by_tshark(row) if row else None
    if wanted is not None and one.opened and not flows.errors and wanted != account.frames:
        yield f"{account.frames} frames, tshark counts {wanted}"
    same = (
        np.array_equal(flows.columns, two.flows.columns)
        and all(map(np.array_equal, flows.frame_map.lists(), two.flows.frame_map.lists()))
        and account == two.flows.account
        and one.ended == two.ended
        and [str(error) for error in flows.errors] == [str(error) for error in two.flows.errors]
    )
    if not same:
        yield "other batches, other results"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder(folder: str, counted: dict[str, dict[str, str]]) -> None:
    files = sorted(path for path in (CORPUS / folder).rglob("*") if path.is_file())
    assert files
    wrong = []
    for path in files:
        try:
            wrong += [f"{path.relative_to(CORPUS)}: {fault}" for fault in faults(path, counted)]
        except Exception as error:  # noqa: BLE001 - any exception is a fault, and the other files are still of interest
            wrong.append(f"{path.relative_to(CORPUS)}: raised {error!r}")
    assert wrong == []


def test_most_captures_are_read(shared: Path, counted: dict[str, dict[str, str]]) -> None:
    """Refusing everything would pass above: all whole pcap and pcapng files of tshark's list are read."""
    refused = []
    for name, row in counted.items():
        if row["format"] in ("pcap", "pcapng") and (CORPUS / name).is_file() and frames_by_tshark(row):
            result = traced(CORPUS / name)
            if result.flows.account.frames == 0:
                refused.append(name)
    assert refused == list(REFUSED)


# --- other opinions -----------------------------------------------------------------------------------------------

NOT_BY_THE_ORACLE = {
    "gopacket/pcapgo/tests/le/test901.pcapng": "its second section has an unknown version; the oracle reads on",
    "pcap-parser/assets/modified-format.pcap": "the oracle does not know Kuznetzov's format",
}
PLAIN = re.compile(r"(eth|sll|raw|null)(:ethertype|:vlan|:llc)*:(ip|ipv6):tcp(:.*)?")
"""Protocols of a frame, by tshark, that decode must see as TCP."""
LARGEST_OCTETS = 3_000_000
"""Larger captures are left out of comparisons with slow opinions."""


def readable(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= LARGEST_OCTETS:
            yield str(path.relative_to(CORPUS)), path


@pytest.mark.filterwarnings("ignore::traceflow.errors.IncompleteWarning")
@pytest.mark.parametrize("profile", ["default", "pcapkit"])
def test_the_oracle_agrees(profile: str, shared: Path) -> None:
    """Frame by frame with tests/oracle.py, which shares no code with the package: flow, verdict, ends, cause.

    The oracle opens no tunnels, so neither does the package here; captures that are packed, or hold frames of link
    layers that the oracle does not know, are left out, and the rest must still be most of the corpus.
    """
    wrong, frames = [], 0
    for name, path in readable(shared / "corpus"):
        try:
            flows = trace(path, profile=profile, outer=True)
        except TraceflowError:
            continue
        if name in NOT_BY_THE_ORACLE:
            continue
        result = trace_capture(path, profile=profile)
        count = flows.account.frames
        numbers = (flows.frame_map.packed(np.arange(1, count + 1)) >> np.uint64(1)).tolist()
        verdicts = {verdict.text: n for verdict, n in flows.account.verdicts.items() if n}
        beyond = any(verdicts.get(text, 0) < result.verdicts.get(text, 0) for text in ("not ip", "unsupported link"))
        if result.error == "not a capture" or beyond:
            continue
        if profile == "pcapkit":  # whether a fragment of another protocol found its ports does not matter then
            for counts in (verdicts, result.verdicts):
                counts["not tcp"] = counts.get("not tcp", 0) + counts.pop("fragment without ports", 0)
        frames += count
        if numbers != result.frame_flow:
            first = [a == b for a, b in zip(numbers, result.frame_flow, strict=False)].index(False)
            wrong.append(f"{name}: {count} and {len(result.frame_flow)} frames, first to differ: {first + 1}")
        elif {text: n for text, n in verdicts.items() if n} != {text: n for text, n in result.verdicts.items() if n}:
            wrong.append(f"{name}: {verdicts} and {result.verdicts}")
        wrong += [
            f"{name}: {flow!r} and {other}"
            for flow, other in zip(flows, result.flows, strict=False)
            if ((str(flow.orig_addr), flow.orig_port or 0), flow.end_cause.text) != (other.orig, other.cause)
        ]
    assert wrong == []
    assert frames > 100_000


@pytest.mark.filterwarnings("ignore::traceflow.errors.IncompleteWarning")
def test_tshark_agrees(shared: Path) -> None:
    """With timeouts and closing switched off, the SYN rule alone cuts TCP flows, and that is how tshark 4.0.17 numbers
    streams. Compared are the partitions of the frames that both take for TCP. What tshark alone takes for TCP lies in
    the few tunnels and link layers that decode does not pass.
    """
    wrong, both, missed = [], 0, set()
    streams = shared / "oracle" / "tshark"
    for table in sorted(streams.rglob("*.tsv.gz")):
        name = str(table.relative_to(streams)).removesuffix(".tsv.gz")
        if not (CORPUS / name).is_file() or (CORPUS / name).stat().st_size > LARGEST_OCTETS:
            continue
        try:
            flows = trace(CORPUS / name, tcp_end="never", idle_timeout_tcp_ns=None)
        except TraceflowError:
            continue
        ours = {frame: flow.number for flow in flows if flow.protocol == 6 for frame in flow.frames.tolist()}
        with gzip.open(table, "rt", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["icmp_quoted"] != "1"]
        theirs = {int(row["frame"]): row["tcp_stream"] for row in rows}
        missed |= {name for row in rows if int(row["frame"]) not in ours and PLAIN.fullmatch(row["protocols"])}
        partitions: tuple[dict[object, list[int]], dict[object, list[int]]] = ({}, {})
        for frame in sorted(ours.keys() & theirs.keys()):
            partitions[0].setdefault(ours[frame], []).append(frame)
            partitions[1].setdefault(theirs[frame], []).append(frame)
            both += 1
        if list(partitions[0].values()) != list(partitions[1].values()):
            wrong.append(f"{name}: {len(partitions[0])} flows, {len(partitions[1])} streams")
    assert wrong == []
    assert both > 80_000
    assert missed == set()


# --- derived captures ---------------------------------------------------------------------------------------------

BASES = ("reasm_syn", "three_http", "wikipedia")


def partition(flows: FlowSet) -> list[tuple[list[int], list[int]]]:
    return [(flow.frames.tolist(), flow.frames_from("orig").tolist()) for flow in flows]


@pytest.mark.parametrize("base", BASES)
def test_derived(base: str, shared: Path) -> None:
    """Re-wrapped captures keep the partition of their base, by frame number (oracle/derived.tsv)."""
    folder = shared / "corpus" / "derived"
    wanted = partition(traced(folder / f"{base}.le-us.pcap").flows)
    assert len(wanted) > 2
    compared = 0
    for path in sorted(folder.glob(f"{base}.*")):
        kind = path.name.removeprefix(f"{base}.")
        result = traced(path)
        flows = result.flows
        if not result.opened:
            assert kind.rpartition(".")[2] == "snoop", kind
            assert [type(error) for error in flows.errors] == [UnsupportedCaptureError], kind
        elif kind.startswith("cut"):
            frames = flows.account.frames
            prefix = [[[n for n in numbers if n <= frames] for numbers in flow] for flow in wanted]
            assert [list(flow) for flow in partition(flows)] == [flow for flow in prefix if flow[0]], kind
            assert len(flows.errors) == 1, kind
        elif not kind.startswith("snap40"):  # the flags are cut off there, so its splits can't be decided
            assert partition(flows) == wanted, kind
            assert flows.errors == [], kind
            compared += 1
    assert compared >= 5
