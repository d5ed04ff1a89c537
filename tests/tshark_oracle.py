"""What tshark 4.0.17 said of the captures beside the checkout (`oracle/tshark`), held against profile `tshark`.

Used by test_tshark.py (a sample) and corpus/test_tshark_corpus.py (all). Frames that decode does not hand out as TCP
are left out, by reason; differences that are meant stand in `tshark_differences.tsv` (capture, frame, what, reason).
"""

from __future__ import annotations

import collections
import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from traceflow.errors import UnsupportedCaptureError
from traceflow.flows import ANALYSIS_FLAGS
from traceflow.options import options_for
from traceflow.packets import Verdict
from traceflow.pipeline import Run
from traceflow.sources import open_source

FLAGS = (*ANALYSIS_FLAGS[:5], "duplicate_ack", "keep_alive", "zero_window", "reused_ports")
"""Those that the oracle has."""
SHIFTED = ("test017", "test018", "test102", "test202")
"""tshark counts the custom blocks of these as frames."""
_DIFFERENCES = Path(__file__).with_name("tshark_differences.tsv")


@dataclass
class Comparison:
    """Counters over some captures.

    Attributes:
        frames: TCP frames compared.
        left_out: Frames that decode does not hand out as TCP, by Verdict.
        moved: (capture, frame) where the partition differs.
        flags: Per flag: frames where both say it, and frames where only one does.
    """

    frames: int = 0
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)
    moved: list[tuple[str, int]] = field(default_factory=list)
    same: collections.Counter[str] = field(default_factory=collections.Counter)
    unlike: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: collections.defaultdict(list))


def differences() -> set[tuple[str, int, str]]:
    """(capture, frame, flag or `stream`) that are meant to differ."""
    with _DIFFERENCES.open(encoding="utf-8") as file:
        return {(row["capture"], int(row["frame"]), row["what"]) for row in csv.DictReader(file, delimiter="\t")}


def captures(shared: Path) -> list[str]:
    """Captures with an oracle, by path; those with shifted numbers left out."""
    folder = shared / "oracle" / "tshark"
    names = sorted(str(path.relative_to(folder)).removesuffix(".tsv.gz") for path in folder.rglob("*.tsv.gz"))
    return [name for name in names if not Path(name).name.startswith(SHIFTED)]


def _rows(shared: Path, name: str) -> list[dict[str, str]]:
    bare = shared / "oracle" / "tshark_nodefrag" / f"{name.replace('/', '__')}.tsv"
    packed = shared / "oracle" / "tshark" / f"{name}.tsv.gz"
    if bare.exists():  # IP fragments read one by one, as here; innermost values stand last
        with bare.open(encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return [
                {"frame": row["frame.number"], "tcp_stream": row["tcp.stream"]} for row in rows if row["tcp.stream"]
            ]
    with gzip.open(packed, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _ours(path: Path) -> dict[int, tuple[int, int, str]]:
    """Frame -> (flow, flags, verdict) of TCP."""
    found = {}
    with open_source(path) as source:
        for step in Run(source, options_for("tshark")).steps():
            if step.batch is None:
                continue
            packets, marks = step.packets, step.marks
            columns = zip(
                packets["protocol"].tolist(),
                marks["flow"].tolist(),
                marks["analysis"].tolist(),
                packets["verdict"].tolist(),
                strict=True,
            )
            for number, (protocol, flow, flags, verdict) in enumerate(columns, step.batch.first_number):
                if protocol == 6:
                    found[number] = (flow, flags, Verdict(verdict).text)
    return found


def quoted_segments(shared: Path, name: str) -> Iterator[tuple[int, int | None, list[int]]]:
    """ICMP errors to which tshark gives a `tcp.stream`, that of the TCP header they quote.

    Returns:
        Number of each such frame, the flow that we have it point at (0: none was live; None: the quote was not read),
        and the flows of earlier frames with the same stream, of which there is at most one where both agree.
    """
    with gzip.open(shared / "oracle" / "tshark" / f"{name}.tsv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    errors = [row for row in rows if row.get("icmp_quoted") == "1"]
    if not errors:
        return
    flows: dict[int, int] = {}
    quoted: dict[int, int] = {}
    with open_source(shared / "corpus" / name) as source:
        for step in Run(source, options_for("tshark")).steps():
            if step.batch is not None:
                flows.update(enumerate(step.marks["flow"].tolist(), step.batch.first_number))
            quoted.update(step.quoted.tolist())
    for error in errors:
        frame, stream = int(error["frame"]), error["tcp_stream"]
        same = (int(row["frame"]) for row in rows if row["tcp_stream"] == stream and row["icmp_quoted"] != "1")
        yield frame, quoted.get(frame), sorted({flows[number] for number in same if number < frame})


def compare(shared: Path, name: str, total: Comparison) -> None:
    """Compare a capture, and add to the counters."""
    try:
        ours = _ours(shared / "corpus" / name)
    except UnsupportedCaptureError:
        ours = {}
    meant, whole = differences(), True
    theirs_of: dict[int, str] = {}
    ours_of: dict[str, int] = {}
    found = []
    for row in _rows(shared, name):
        frame, stream = int(row["frame"]), row["tcp_stream"]
        if row.get("icmp_quoted") == "1" or row.get("tcp_layers", "1") != "1" or "," in stream:
            continue
        flow, flags, verdict = ours.get(frame, (0, 0, "no TCP found"))
        if not flow:
            total.left_out[verdict] += 1
            whole = False
            continue
        total.frames += 1
        moved = theirs_of.setdefault(flow, stream) != stream or ours_of.setdefault(stream, flow) != flow
        if moved and (name, frame, "stream") not in meant:
            total.moved.append((name, frame))
        if "analysis" in row:
            found.append((frame, flags, set(row["analysis"].split(","))))
    if not whole:  # where frames of a connection are missing, the analysis of the others cannot be the same
        return
    for frame, flags, said in found:
        for flag in FLAGS:
            we = bool(flags >> ANALYSIS_FLAGS.index(flag) & 1)
            if we and flag in said:
                total.same[flag] += 1
            elif we != (flag in said) and (name, frame, flag) not in meant:
                total.unlike[flag].append((name, frame))
