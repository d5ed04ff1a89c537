"""Classic pcap files out: read back by tests/oracle.py, by dpkt, and by Wireshark's tools where they are installed."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import dpkt
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import CannotWriteError, FileExists
from traceflow.packets import FRAME, TIME_MAX_NS
from traceflow.sinks.pcapfile import MAX_SNAPLEN, PCAPDumper, pcap_header, pcap_record, pcap_records

ORDERS = ("little", "big")
S = 10**9
FRAMES = [
    (1700000000 * S + 123456789, 60, bytes(range(60))),
    (1700000000 * S + 123456790, 1514, b"\xff" * 96),  # cut
    (1699999999 * S, 0, b""),
    (0, 1, b"\0"),
    (2**31 * S + 1, 4, b"2038"),
    ((2**32 - 1) * S + 999_999_999, 4, b"2106"),
]
"""time_ns, octets on the wire, octets captured."""


def content(byteorder: str, nanosecond: bool, snaplen: int = 65535) -> bytes:
    header = pcap_header(1, byteorder=byteorder, nanosecond=nanosecond, snaplen=snaplen)
    return header + b"".join(pcap_record(*frame, byteorder=byteorder, nanosecond=nanosecond) for frame in FRAMES)


@pytest.mark.parametrize("byteorder", ORDERS)
def test_header_octet_by_octet(byteorder: str) -> None:
    # draft-ietf-opsawg-pcap: magic, version 2.4, two reserved words, snaplen, link type
    expected = bytes.fromhex("a1b2c3d4 0002 0004 00000000 00000000 0000ffff 00000071")
    nano = bytes.fromhex("a1b23c4d 0002 0004 00000000 00000000 00040000 00000114")
    if byteorder == "little":
        expected, nano = (struct.pack("<IHHIIII", *struct.unpack(">IHHIIII", octets)) for octets in (expected, nano))
    assert pcap_header(113, byteorder=byteorder, nanosecond=False, snaplen=65535) == expected
    assert pcap_header(276, byteorder=byteorder, nanosecond=True, snaplen=0) == nano
    assert MAX_SNAPLEN == 0x40000


def test_record_octet_by_octet() -> None:
    big = bytes.fromhex("00000001 00000002 00000003 00000004") + b"abc"
    assert pcap_record(S + 2, 4, b"abc", byteorder="big", nanosecond=True) == big
    assert pcap_record(S + 2999, 4, b"abc", byteorder="big", nanosecond=False) == big
    little = bytes.fromhex("01000000 02000000 03000000 04000000") + b"abc"
    assert pcap_record(S + 2, 4, b"abc", byteorder="little", nanosecond=True) == little


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("nanosecond", [False, True])
def test_records_are_read_back(byteorder: str, nanosecond: bool) -> None:
    octets = content(byteorder, nanosecond)
    unit = 1 if nanosecond else 1000
    read = [(frame.time_ns, frame.wire_octets, frame.octets) for frame in oracle.read_frames(octets)]
    assert read == [(time_ns // unit * unit, wire, captured) for time_ns, wire, captured in FRAMES]
    reader = dpkt.pcap.Reader(io.BytesIO(octets))
    assert (reader.snaplen, reader.datalink()) == (65535, 1)
    found = list(reader)
    assert [captured for _, captured in found] == [captured for _, _, captured in FRAMES]
    if nanosecond:  # dpkt gives exact Decimals only then
        assert [stamp for stamp, _ in found] == [Decimal(time_ns) / S for time_ns, _, _ in FRAMES]


@pytest.mark.once("it starts programs that read octets which every Python is held to in the test above")
@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("nanosecond", [False, True])
def test_wiresharks_tools_read_it(byteorder: str, nanosecond: bool, tmp_path: Path) -> None:
    if not (shutil.which("tshark") and shutil.which("capinfos")):
        pytest.skip("tshark and capinfos are not installed")
    path = tmp_path / "x.pcap"
    path.write_bytes(content(byteorder, nanosecond))
    fields = ["frame.time_epoch", "frame.len", "frame.cap_len"]
    command = ["tshark", "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    unit = 1 if nanosecond else 1000
    assert [(int(Decimal(stamp) * S), int(wire), int(captured)) for stamp, wire, captured in rows] == [
        (time_ns // unit * unit, wire, len(captured)) for time_ns, wire, captured in FRAMES
    ]
    done = subprocess.run(["capinfos", "-TmtlEc", str(path)], capture_output=True, text=True, check=True)
    # type, encapsulation, snaplen, shortest and longest captured length where they were cut, frames
    kind = "nsecpcap" if nanosecond else "pcap"
    assert done.stdout.splitlines()[-1] == f"{path},{kind},ether,65535,96,96,{len(FRAMES)}"


@pytest.mark.parametrize(
    ("time_ns", "seconds", "nanoseconds"),
    [
        (-1, 2**32 - 1, 999_999_999),
        (-S, 2**32 - 1, 0),
        (-S - 1, 2**32 - 2, 999_999_999),
        (2**32 * S + 5, 0, 5),
        (TIME_MAX_NS, 4611686018 % 2**32, 427387904),
        (-TIME_MAX_NS, -4611686019 % 2**32, 572612096),
    ],
)
@pytest.mark.parametrize("nanosecond", [False, True])
def test_times_outside_of_32_bits_are_written_modulo(
    time_ns: int, seconds: int, nanoseconds: int, nanosecond: bool
) -> None:
    fraction = nanoseconds if nanosecond else nanoseconds // 1000
    expected = struct.pack("<IIII", seconds, fraction, 1, 1) + b"x"
    assert pcap_record(time_ns, 1, b"x", byteorder="little", nanosecond=nanosecond) == expected
    frames = np.zeros(1, FRAME)
    frames[0] = (time_ns, 0, 0, 1, 1, 0, 1, 0)
    assert pcap_records(np.frombuffer(b"x", np.uint8), frames, byteorder="little", nanosecond=nanosecond) == expected


@given(
    st.lists(st.tuples(st.integers(-TIME_MAX_NS, TIME_MAX_NS), st.integers(0, 2**32 - 1), st.binary(max_size=40))),
    st.sampled_from(ORDERS),
    st.booleans(),
)
def test_many_records_are_the_single_ones_together(
    frames: list[tuple[int, int, bytes]], byteorder: str, nanosecond: bool
) -> None:
    # In the buffer they stand in reverse order, with gaps.
    rows, buffer = np.zeros(len(frames), FRAME), b""
    for row, (time_ns, wire, octets) in reversed(list(zip(rows, frames, strict=True))):
        buffer += b"gap"
        row["time_ns"], row["wire"], row["captured"], row["start"] = time_ns, wire, len(octets), len(buffer)
        buffer += octets
    together = pcap_records(np.frombuffer(buffer, np.uint8), rows, byteorder=byteorder, nanosecond=nanosecond)
    assert together == b"".join(pcap_record(*frame, byteorder=byteorder, nanosecond=nanosecond) for frame in frames)


# --- the file that grows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("nanosecond", [False, True])
def test_the_dumper_writes_what_the_functions_make_and_is_valid_after_each_frame(
    tmp_path: Path, byteorder: str, nanosecond: bool
) -> None:
    path = tmp_path / "x.pcap"
    with PCAPDumper(path, protocol=1, byteorder=byteorder, nanosecond=nanosecond, snaplen=65535, other=1) as dumper:
        for count, (time_ns, wire, octets) in enumerate(FRAMES):
            assert len(list(oracle.read_frames(path.read_bytes()))) == count
            value = {"octets": octets, "time_ns": time_ns, "wire": wire}
            assert dumper(value, name=f"Frame {count}") is dumper
    assert dumper.filename == str(path)
    expected = content(byteorder, nanosecond)
    # Frame 3 has no octets and gives 0 on the wire, which stands for those captured: also 0.
    assert path.read_bytes() == expected


def test_without_wire_the_captured_octets_count(tmp_path: Path) -> None:
    PCAPDumper(tmp_path / "x").append({"octets": bytearray(b"abc"), "time_ns": 0})
    (frame,) = oracle.read_frames((tmp_path / "x").read_bytes())
    assert (frame.wire_octets, frame.octets, frame.link) == (3, b"abc", 1)


@pytest.mark.parametrize("keep_open", [False, True])
def test_many_frames_are_appended_at_once(tmp_path: Path, keep_open: bool) -> None:
    path = tmp_path / "x.pcap"
    records = [pcap_record(*frame, byteorder="big", nanosecond=True) for frame in FRAMES]
    with PCAPDumper(path, byteorder="big", nanosecond=True, snaplen=65535, keep_open=keep_open) as dumper:
        dumper.append_records(records[0])
        dumper.append_records(b"".join(records[1:]))
    dumper.append_records(b"")  # opens it again
    assert path.read_bytes() == content("big", True)
    dumper.close()


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("byteorder", ORDERS)
def test_a_header_is_widened(tmp_path: Path, byteorder: str, keep_open: bool) -> None:
    """Frames of a clock of microseconds keep their times; the first of nanoseconds has the file written anew."""
    path = tmp_path / "x.pcap"
    first, second = 1_700_000_000_123_456_000, 1_700_000_000_123_456_789
    dumper = PCAPDumper(path, byteorder=byteorder, snaplen=96, keep_open=keep_open)
    dumper.append({"octets": b"abc", "time_ns": first})
    dumper.widen(nanosecond=False, snaplen=128)
    assert path.read_bytes() == pcap_header(1, byteorder=byteorder, nanosecond=False, snaplen=128) + pcap_record(
        first, 3, b"abc", byteorder=byteorder, nanosecond=False
    )
    dumper.widen(nanosecond=True, snaplen=0)
    dumper.append({"octets": b"de", "time_ns": second})
    dumper.widen(nanosecond=False, snaplen=0)  # it keeps its nanoseconds
    dumper.close()
    assert path.read_bytes() == (
        pcap_header(1, byteorder=byteorder, nanosecond=True, snaplen=0)
        + pcap_record(first, 3, b"abc", byteorder=byteorder, nanosecond=True)
        + pcap_record(second, 2, b"de", byteorder=byteorder, nanosecond=True)
    )
    assert [each.name for each in tmp_path.iterdir()] == ["x.pcap"]


def test_a_file_that_was_cut_is_not_made_finer(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    dumper = PCAPDumper(path)
    dumper.append({"octets": b"abc", "time_ns": 0})
    os.truncate(path, 30)  # 24 octets of the header, and 6 of the 16 of a record's
    before = path.read_bytes()
    with pytest.raises(CannotWriteError, match="cut"):
        dumper.widen(nanosecond=True, snaplen=0)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.pcap"]


def test_a_file_is_renamed_and_removed(tmp_path: Path) -> None:
    dumper = PCAPDumper(tmp_path / "x.pcap", keep_open=True)
    dumper.rename(tmp_path / "y.pcap")
    assert dumper.filename == str(tmp_path / "y.pcap")
    dumper.append({"octets": b"abc", "time_ns": 0})
    assert len(list(oracle.read_frames((tmp_path / "y.pcap").read_bytes()))) == 1
    dumper.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_text("precious")
    with pytest.raises(FileExists, match=r"x\.pcap exists"):
        PCAPDumper(path)
    assert path.read_text() == "precious"
    PCAPDumper(path, overwrite=True, snaplen=1, byteorder="big")
    assert path.read_bytes() == pcap_header(1, byteorder="big", nanosecond=False, snaplen=1)


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="cannot create"):
        PCAPDumper(tmp_path / "absent" / "x.pcap")
    dumper = PCAPDumper(tmp_path / "x.pcap")
    (tmp_path / "x.pcap").unlink()
    with pytest.raises(CannotWriteError, match="cannot append"):
        dumper.append({"octets": b"abc", "time_ns": 0})
    assert not (tmp_path / "x.pcap").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_that_is_full_is_an_error_and_stays(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError):
        PCAPDumper("/dev/full", overwrite=True)
    assert Path("/dev/full").is_char_device()


def test_a_link_in_the_place_of_a_file_is_replaced_and_never_followed(tmp_path: Path) -> None:
    victim, name = tmp_path / "victim", tmp_path / "x.pcap"
    victim.write_text("precious")
    name.symlink_to(victim)
    with pytest.raises(CannotWriteError):
        PCAPDumper(name)
    dumper = PCAPDumper(name, overwrite=True)
    assert not name.is_symlink()
    name.unlink()
    name.symlink_to(victim)
    with pytest.raises(CannotWriteError):
        dumper.append({"octets": b"abc", "time_ns": 0})
    assert victim.read_text() == "precious"


LIMITED = """
import resource, sys
from pathlib import Path
from traceflow.errors import CannotWriteError
from traceflow.sinks.pcapfile import PCAPDumper
path = Path(sys.argv[1])
dumper = PCAPDumper(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for octets in (b"a" * 400, b"b" * 400, b"c" * 400, b"d" * 100):
    try:
        dumper.append({"octets": octets, "time_ns": 0})
        print("written")
    except CannotWriteError as error:
        print("refused")
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    PCAPDumper(path.with_name("none.pcap"))
except CannotWriteError:
    print("not made")
"""


def test_a_frame_that_does_not_fit_on_the_disk_leaves_the_file_valid(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="no limits on this system")
    root = Path(pcap_header.__code__.co_filename).parents[2]
    path = tmp_path / "x.pcap"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # 24 + 416 + 416 = 856; the third does not fit below 1000, the fourth does: 972.
    assert done.stdout.split() == ["written", "written", "refused", "written", "not", "made"]
    frames = list(oracle.read_frames(path.read_bytes()))
    assert [frame.octets for frame in frames] == [b"a" * 400, b"b" * 400, b"d" * 100]
    assert [each.name for each in tmp_path.iterdir()] == ["x.pcap"]
