"""Flow files made in bulk are the files made one by one, octet by octet, with the same names and the same index.

The plain path of `flowfiles` is the oracle; what it writes is held against captures in test_flowfiles.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exchange
import numpy as np
import pytest

from traceflow.compiled import COMPILED
from traceflow.errors import CannotReadError, CannotWriteError, FileExists
from traceflow.options import options_for
from traceflow.packets import FRAME
from traceflow.pipeline import FlowCollector, Run
from traceflow.sinks import flowfiles
from traceflow.sinks.bulk import Lot, Pcaps, marks_of
from traceflow.sinks.flowfiles import FlowFiles
from traceflow.sinks.pcapfile import pcap_header, pcap_records
from traceflow.sinks.perflow import PcapKind
from traceflow.sinks.templates import FIRST, LAST
from traceflow.sources import open_source

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ONE_BY_ONE, IN_BULK = 2**63, 0


def write(sources: list[Path], folder: Path, bulk_from: int, fmt: str, by: str | None = None, **more: Any) -> int:
    """Trace and write, as the command does."""
    with (
        open_source(*sources, keep=True) as captures,
        FlowFiles(folder, format=fmt, by=by, bulk_from=bulk_from, overwrite=more.pop("overwrite", False)) as files,
    ):
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            files.take(step)
            collector.take(step)
        flows = collector.flows()
        more.pop("before", lambda: None)()
        return files.write(flows, captures, **more)


def content(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SOURCES = [
    ["T02.pcap"],
    ["http.pcap"],
    ["T29a.pcap", "T29b.pcap"],
    ["fragments.pcap"],
    ["T32-many.pcapng", "negative-time.pcapng", "T32-ns-big-endian.pcap", "links-sll2.pcap"],
    ["T32-cut.pcap"],
    ["not-ip.pcap"],
]
KINDS = [("json", "direction"), ("json", "flow"), ("plist", None), ("tree", None), ("pcap", "direction"), ("cap", None)]


@pytest.mark.parametrize(("fmt", "by"), KINDS)
def test_the_same_files(fmt: str, by: str | None, tmp_path: Path) -> None:
    for at, names in enumerate(SOURCES):
        paths = [FIXTURES / name for name in names]
        written = [write(paths, tmp_path / f"{at}-{way}", way, fmt, by) for way in (ONE_BY_ONE, IN_BULK)]
        assert written[0] == written[1]
        assert content(tmp_path / f"{at}-{ONE_BY_ONE}") == content(tmp_path / f"{at}-{IN_BULK}")


def talk(path: Path, connections: int, frames: int, payload: int) -> Path:
    """UDP exchanges, one behind the other; so many frames each, with payload that grows."""
    wire = exchange.Wire(step_ns=1000)
    for connection in range(connections):
        source = f"10.0.{connection >> 8}.{connection & 255}"
        for at in range(frames):
            segment = exchange.udp(source, "10.9.9.9", 1000, 53, bytes(payload + at % 7))
            wire.packet(exchange.ip(source, "10.9.9.9", exchange.UDP, segment))
    path.write_bytes(wire.pcap_octets())
    return path


@pytest.mark.parametrize("fmt", ["json", "pcap"])
def test_files_of_any_size(fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 10 frames and lots of 300 octets: files of 25 frames come in three parts, others several at once."""
    path = talk(tmp_path / "a.pcap", 3, 25, 10)
    small = talk(tmp_path / "b.pcap", 60 if COMPILED else 12, 2, 20)
    for name, source in (("large", path), ("small", small)):
        write([source], tmp_path / f"{name}-plain", ONE_BY_ONE, fmt)
    monkeypatch.setattr(flowfiles, "_BULK_FRAMES", 10)
    monkeypatch.setattr(flowfiles, "_LOT_OCTETS", 300)
    for name, source in (("large", path), ("small", small)):
        write([source], tmp_path / f"{name}-bulk", IN_BULK, fmt)
        assert content(tmp_path / f"{name}-bulk") == content(tmp_path / f"{name}-plain")


def test_a_name_that_is_taken_meanwhile(tmp_path: Path) -> None:
    """The files before it stay and are listed; the file that took the name stays as it was."""
    write([FIXTURES / "T29a.pcap", FIXTURES / "T02.pcap"], tmp_path / "plain", ONE_BY_ONE, "pcap")
    names = sorted(content(tmp_path / "plain"))
    taken = names[1]

    def take() -> None:
        (tmp_path / "bulk" / taken).write_bytes(b"mine")

    with pytest.raises(FileExists, match="exists already"):
        write([FIXTURES / "T29a.pcap", FIXTURES / "T02.pcap"], tmp_path / "bulk", IN_BULK, "pcap", before=take)
    left = content(tmp_path / "bulk")
    assert left[taken] == b"mine"
    assert "exists already" in left["index.json"].decode()
    assert not [name for name in left if name.startswith(".")]
    expected = content(tmp_path / "plain")
    assert all(expected[name] == octets for name, octets in left.items() if name not in (taken, "index.json"))
    write([FIXTURES / "T29a.pcap", FIXTURES / "T02.pcap"], tmp_path / "bulk", IN_BULK, "pcap", overwrite=True)
    assert content(tmp_path / "bulk") == expected


def test_a_capture_that_has_become_shorter(tmp_path: Path) -> None:
    path = talk(tmp_path / "a.pcap", 3, 4, 10)
    octets = path.read_bytes()
    with pytest.raises(CannotReadError, match="has become shorter"):
        write([path], tmp_path / "out", IN_BULK, "json", before=lambda: path.write_bytes(octets[:-30]))
    assert "has become shorter" in (tmp_path / "out" / "index.json").read_text("utf-8")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Nothing can be written: that is said, and nothing is left behind."""
    folder = tmp_path / "out"
    with pytest.raises(CannotWriteError, match="cannot write"):
        write([FIXTURES / "T02.pcap"], folder, IN_BULK, "json", before=lambda: folder.rename(tmp_path / "moved"))
    assert content(tmp_path / "moved") == {}


def test_marks_of_files() -> None:
    """Files of 1, 3 and 2 frames."""
    assert marks_of([1, 3, 2]).tolist() == [FIRST | LAST, FIRST, 0, LAST, FIRST, LAST]


@pytest.mark.parametrize("cut", [0, 1, 3, 5])
def test_pcap_files_of_all_kinds_in_lots(cut: int) -> None:
    """Two files, of 3 and 2 frames, in one lot or two: each with its byte order, clock, snaplen and link type."""
    rows = np.zeros(5, FRAME)
    rows["time_ns"] = [-1, 0, 1_999_999_999, 2**62, 10**18 + 1]
    rows["captured"], rows["wire"] = [3, 0, 2, 4, 1], [3, 9, 2, 2**32 - 1, 1]
    rows["start"] = [0, 3, 3, 5, 9]
    octets = np.arange(10, dtype=np.uint8)
    kinds, links = [PcapKind("big", True, 0), PcapKind("little", False, 96)], [1, 113]
    expected = b""
    for kind, link, part in zip(kinds, links, (slice(0, 3), slice(3, 5)), strict=True):
        expected += pcap_header(link, byteorder=kind.byteorder, nanosecond=kind.nanosecond, snaplen=kind.snaplen)
        expected += pcap_records(octets, rows[part], byteorder=kind.byteorder, nanosecond=kind.nanosecond)
    marks = marks_of([3, 2])
    made = b""
    pcaps = Pcaps()
    for part in (slice(0, cut), slice(cut, 5)):
        if part.start == part.stop:
            continue
        touched = slice(0 if part.start < 3 else 1, 2 if part.stop > 3 else 1)
        lot = Lot(octets, rows[part], np.arange(5)[part], marks[part], links[touched], kinds[touched])
        view, ends = pcaps.documents(lot)
        assert ends[-1] == len(view)
        made += bytes(view)
    assert made == expected
