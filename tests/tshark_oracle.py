"""What tshark 4.0.17 says of the captures beside the checkout, held against profile `tshark`.

Used by test_tshark.py (a sample) and corpus/test_tshark_corpus.py (all pcap and pcapng captures with TCP). Streams, and
nine of the flags, stand in `oracle/tshark`; of captures with IP fragments, streams as read without reassembly in
`oracle/tshark_nodefrag`, because here every fragment stands for itself. The other flags were asked of tshark by

    python tests/tshark_oracle.py

which takes five minutes and writes `tshark_flags.tsv`. Captures are left out by name and reason (LEFT_OUT); frames
that are meant to differ stand in `tshark_differences.tsv`.
"""

from __future__ import annotations

import collections
import csv
import gzip
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from traceflow.flows import ANALYSIS_FLAGS
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.sources import open_source

LEFT_OUT = {
    "libpcap/tests/filter/AH-IPcomp-IPv4.pcap": "IPComp",
    "libpcap/tests/filter/AH-IPcomp-IPv6.pcap": "IPComp",
    "nDPI/tests/cfgs/default/pcap/capwap_data.pcapng": "CAPWAP",
    "wireshark-4.0.17/test/captures/wireguard-ping-tcp-dsb.pcapng": "decryption",
    "zeek/testing/btest/Traces/nflog-http.pcap": "NFLOG",
}
"""Captures whose TCP frames lie in what decode does not open."""
IN_THE_ORACLE = (*ANALYSIS_FLAGS[:5], "duplicate_ack", "keep_alive", "zero_window", "reused_ports")
"""Flags in the column `analysis` of `oracle/tshark`."""
STREAM = "stream"
"""What differs where the partition does."""

_HERE = Path(__file__).parent
_RECORDED = _HERE / "tshark_flags.tsv"
_DIFFERENCES = _HERE / "tshark_differences.tsv"
_WITHOUT_REASSEMBLY = ("-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE")

Found = set[tuple[str, int, str]]
"""(capture, frame, flag or STREAM)."""


@dataclass
class Comparison:
    """Counters over some captures.

    Attributes:
        frames: TCP frames that tshark gives a stream.
        differences: Where we differ, meant or not.
        theirs: Frames with each flag, by tshark.
        ours: The same by us.
        same: Frames where both say it.
    """

    frames: int = 0
    differences: Found = field(default_factory=set)
    theirs: collections.Counter[str] = field(default_factory=collections.Counter)
    ours: collections.Counter[str] = field(default_factory=collections.Counter)
    same: collections.Counter[str] = field(default_factory=collections.Counter)

    def table(self) -> str:
        """The flags as a table."""
        rows = [f"{'flag':24}{'tshark':>8}{'ours':>8}{'both':>8}"]
        rows += [f"{flag:24}{self.theirs[flag]:8}{self.ours[flag]:8}{self.same[flag]:8}" for flag in ANALYSIS_FLAGS]
        return "\n".join(rows)


def numbers_of(ranges: str) -> list[int]:
    """Frame numbers of ranges: `3,7-9`."""
    bounds = [part.partition("-") for part in ranges.split(",")]
    return [number for low, _, high in bounds for number in range(int(low), int(high or low) + 1)]


def ranges_of(numbers: Iterable[int]) -> str:
    """Ranges of frame numbers in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _listed(path: Path) -> dict[str, Found]:
    found: dict[str, Found] = collections.defaultdict(set)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found[row["capture"]] |= {(row["capture"], frame, row["what"]) for frame in numbers_of(row["frames"])}
    return found


def meant() -> dict[str, Found]:
    """Differences that are meant, by capture."""
    return _listed(_DIFFERENCES)


def captures(shared: Path) -> list[str]:
    """The pcap and pcapng captures with TCP, by path."""
    with (shared / "oracle" / "captures.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = [row["path"] for row in rows if row["format"].startswith("pcap")]
    return sorted(name for name in names if (shared / "oracle" / "tshark" / f"{name}.tsv.gz").exists())


def _bare(shared: Path, name: str) -> Path:
    return shared / "oracle" / "tshark_nodefrag" / f"{name.replace('/', '__')}.tsv"


def _theirs(shared: Path, name: str, recorded: dict[str, Found]) -> tuple[dict[int, str], Found]:
    """Streams by frame, and flags, by tshark; TCP headers that an ICMP error quotes are left out."""
    flags = set(recorded.get(name, ()))
    if _bare(shared, name).exists():
        with _bare(shared, name).open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["tcp.stream"]]
        quoted = {int(row["frame.number"]) for row in rows if "icmp" in row["frame.protocols"]}
        streams = {int(row["frame.number"]): row["tcp.stream"] for row in rows}
    else:
        with gzip.open(shared / "oracle" / "tshark" / f"{name}.tsv.gz", "rt", encoding="utf-8") as text:
            rows = list(csv.DictReader(text, delimiter="\t"))
        quoted = {int(row["frame"]) for row in rows if row["icmp_quoted"] == "1"}
        streams = {int(row["frame"]): row["tcp_stream"] for row in rows}
        flags |= {(name, int(row["frame"]), flag) for row in rows for flag in row["analysis"].split(",") if flag}
    streams = {frame: stream for frame, stream in streams.items() if frame not in quoted}
    return streams, {(name, frame, flag) for _, frame, flag in flags if frame in streams and flag in ANALYSIS_FLAGS}


def _ours(path: Path) -> dict[int, tuple[int, int]]:
    """Frame -> (flow, flags) of TCP."""
    found = {}
    with open_source(path) as source:
        for step in Run(source, options_for("tshark")).steps():
            if step.batch is None:
                continue
            packets, marks = step.packets, step.marks
            columns = (packets["protocol"].tolist(), marks["flow"].tolist(), marks["analysis"].tolist())
            for number, (protocol, flow, flags) in enumerate(zip(*columns, strict=True), step.batch.first_number):
                if protocol == 6 and flow:
                    found[number] = (flow, flags)
            for late in step.late:
                found[int(late["number"])] = (int(late["flow"]), 0)
    return found


def compare(shared: Path, name: str, total: Comparison, recorded: dict[str, Found]) -> None:
    """Compare a capture, and add to the counters; a frame of tshark's that is no TCP here differs in its stream."""
    ours = _ours(shared / "corpus" / name)
    streams, theirs = _theirs(shared, name, recorded)
    stream_of: dict[int, str] = {}
    flow_of: dict[str, int] = {}
    said: Found = set()
    for frame, stream in sorted(streams.items()):
        flow, flags = ours.get(frame, (0, 0))
        if not flow or stream_of.setdefault(flow, stream) != stream or flow_of.setdefault(stream, flow) != flow:
            total.differences.add((name, frame, STREAM))
        if flags:
            said |= {(name, frame, flag) for bit, flag in enumerate(ANALYSIS_FLAGS) if flags >> bit & 1}
    total.frames += len(streams)
    total.differences |= said ^ theirs
    for counter, found in ((total.theirs, theirs), (total.ours, said), (total.same, said & theirs)):
        counter.update(flag for _, _, flag in found)


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


def recorded_flags() -> dict[str, Found]:
    """What `tshark_flags.tsv` holds, by capture."""
    return _listed(_RECORDED)


def _ask(shared: Path, name: str) -> dict[str, list[int]]:
    """Frames with each flag that the oracle lacks, asked of tshark now."""
    bare = _bare(shared, name).exists()
    wanted = ANALYSIS_FLAGS if bare else [flag for flag in ANALYSIS_FLAGS if flag not in IN_THE_ORACLE]
    fields = [part for flag in wanted for part in ("-e", f"tcp.analysis.{flag}")]
    command = ["tshark", "-n", "-r", str(shared / "corpus" / name), "-Y", "tcp.analysis.flags", "-T", "fields"]
    command += [*(_WITHOUT_REASSEMBLY if bare else ()), "-e", "frame.number", *fields]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # 2: the end of the file is cut off
    found: dict[str, list[int]] = collections.defaultdict(list)
    for line in done.stdout.splitlines():
        number, *cells = line.split("\t")
        for flag, cell in zip(wanted, cells, strict=True):
            if cell:
                found[flag].append(int(number))
    return found


def main(shared: Path) -> None:
    """Write `tshark_flags.tsv`."""
    with _RECORDED.open("w", encoding="utf-8") as file:
        file.write("capture\twhat\tframes\n")
        for name in captures(shared):
            file.writelines(f"{name}\t{flag}\t{ranges_of(on)}\n" for flag, on in sorted(_ask(shared, name).items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _HERE.parents[1] / "shared")
