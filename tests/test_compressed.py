"""Compressed captures: every format gives what the capture gives, and cut, damaged or hostile ones what can be had."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import io
import lzma
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceflow.errors import (
    CannotReadError,
    CannotWriteError,
    CaptureError,
    MalformedCaptureError,
    NotACaptureError,
    TruncatedCaptureError,
    UnsupportedCaptureError,
    UsageError,
)
from traceflow.packets import FRAME
from traceflow.sources import open_source


def package_for(name):
    """The module that compresses zstd or lz4; None where it is not installed."""
    for module in {"zstd": ("compression.zstd", "zstandard"), "lz4": ("lz4.frame",)}[name]:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    return None


ZSTD, LZ4 = package_for("zstd"), package_for("lz4")
COMPRESS = {"gzip": lambda octets: gzip.compress(octets, mtime=0), "xz": lzma.compress, "bzip2": bz2.compress}
if ZSTD is not None:
    COMPRESS["zstd"] = ZSTD.compress
if LZ4 is not None:
    COMPRESS["lz4"] = LZ4.compress

needs_zstd = pytest.mark.skipif(ZSTD is None, reason="no package for zstd: python3 -m pip install zstandard")
needs_lz4 = pytest.mark.skipif(LZ4 is None, reason="no package for lz4: python3 -m pip install lz4")
FORMATS = [
    "gzip", "xz", "bzip2", pytest.param("zstd", marks=needs_zstd), pytest.param("lz4", marks=needs_lz4),
]  # fmt: skip


def pcap(*payloads):
    """A classic capture, microseconds, Ethernet."""
    octets = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for n, payload in enumerate(payloads):
        octets += struct.pack("<IIII", n, 0, len(payload), len(payload)) + payload
    return octets


def payloads_of(seed, count, most=400):
    """Frames that compress to about a half."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 16, int(generator.integers(1, most)), np.uint8).tobytes() for _ in range(count)]


SMALL = payloads_of(1, 12, 60)
PCAP = pcap(*SMALL)


class Read:
    """All that reading gave."""

    def __init__(self, *sources, **options):
        given_ = [io.BytesIO(source) if isinstance(source, bytes) else source for source in sources]
        rows, self.octets = [np.empty(0, FRAME)], []
        with open_source(*given_, **options) as captures:
            for batch in captures.batches():
                rows.append(batch.frames.copy())
                starts, lengths = batch.frames["start"].tolist(), batch.frames["captured"].tolist()
                for start, length in zip(starts, lengths, strict=True):
                    self.octets.append(batch.octets[start : start + length].tobytes())
            self.frames = np.concatenate(rows)
            self.errors = list(captures.errors)
            self.captures = captures

    @property
    def error(self):
        assert len(self.errors) == 1, self.errors
        return self.errors[0]


# --- whole files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_compressed_capture_gives_the_frames_of_the_capture(form, tmp_path):
    packed = COMPRESS[form](PCAP)
    plain = Read(PCAP)
    path = tmp_path / "x.txt"  # sniffed by content
    path.write_bytes(packed)
    (tmp_path / "plain").write_bytes(PCAP)
    for source in (packed, path):
        got = Read(source)
        assert got.errors == []
        assert got.octets == SMALL
        for field in set(FRAME.names) - {"start"}:
            assert got.frames[field].tolist() == plain.frames[field].tolist()
        assert got.captures.octets_read == got.captures.octets_total == len(packed)
    got = Read(path, tmp_path / "plain", packed, path)
    assert got.octets == SMALL * 4
    assert [interface.source_index for interface in got.captures.interfaces] == [0, 1, 2, 3]
    assert got.captures.interfaces[0].source == str(path)


@pytest.mark.parametrize("form", FORMATS)
def test_standard_input(form, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, COMPRESS[form](PCAP))
    os.close(writing)
    with io.TextIOWrapper(os.fdopen(reading, "rb")) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert Read("-").octets == SMALL


@pytest.mark.parametrize("form", FORMATS)
def test_an_open_file_begins_where_it_stands(form):
    stream = io.BytesIO(b"garbage" + COMPRESS[form](PCAP))
    stream.seek(7)
    assert Read(stream).octets == SMALL


@pytest.mark.parametrize("form", FORMATS)
def test_members_one_behind_the_other_and_zeros_between_them(form):
    compress = COMPRESS[form]
    for cut in (0, 5, 24, 100, len(PCAP)):
        parts = [compress(PCAP[:cut]), compress(b""), compress(PCAP[cut:])]
        for padding in (b"", bytes(4), bytes(70_000)):
            got = Read(padding.join(parts) + padding)
            assert (got.errors, got.octets) == ([], SMALL), (cut, len(padding))


@pytest.mark.parametrize(
    "form", [needs_zstd_form for needs_zstd_form in FORMATS if needs_zstd_form not in ("gzip", "xz", "bzip2")]
)
def test_skippable_frames_before_between_and_behind(form):
    compress = COMPRESS[form]
    for n in (0, 15):
        skip = struct.pack("<II", 0x184D2A50 + n, 5) + b"notes"
        large = struct.pack("<II", 0x184D2A50, 700_000) + bytes(700_000)
        got = Read(skip + large + compress(PCAP[:50]) + skip + compress(PCAP[50:]) + skip)
        assert (got.errors, got.octets) == ([], SMALL)
    only = Read(skip + skip)
    assert type(only.error) is NotACaptureError
    assert "skippable" in str(only.error)
    cut = Read(skip + compress(PCAP) + skip[:-1])
    assert (type(cut.error), cut.error.needed, cut.error.had, len(cut.frames)) == (TruncatedCaptureError, 1, 0, 12)


@needs_lz4
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_lz4_frames_of_all_kinds(linked, checked, sized):
    payloads = payloads_of(2, 900)
    for size in (LZ4.BLOCKSIZE_MAX64KB, LZ4.BLOCKSIZE_MAX4MB):
        packed = LZ4.compress(
            pcap(*payloads), block_size=size, block_linked=linked, content_checksum=checked, block_checksum=checked,
            store_size=sized,
        )  # fmt: skip
        assert Read(packed).octets == payloads


def zstd_frame(*blocks, window=0x38, magic=b"\x28\xb5\x2f\xfd", flags=0):
    """A frame by hand (RFC 8878, 3.1.1): window descriptor 0x38 is 2**17 octets; blocks are (type, size, octets)."""
    octets = magic + bytes([flags, window])
    for n, (kind, size, content) in enumerate(blocks):
        octets += struct.pack("<I", size << 3 | kind << 1 | (n == len(blocks) - 1))[:3] + content
    return octets


@needs_zstd
def test_zstd_frames_by_hand():
    assert Read(zstd_frame((0, 30, PCAP[:30]), (0, len(PCAP) - 30, PCAP[30:]))).octets == SMALL
    zeros = struct.pack("<IIII", 0, 0, 100_000, 100_000)
    got = Read(zstd_frame((0, 24, PCAP[:24]), (0, 16, zeros), (1, 100_000, b"\x07")))
    assert got.octets == [b"\x07" * 100_000]


@pytest.mark.parametrize("form", FORMATS)
def test_batch_and_read_sizes_do_not_matter(form):
    packed = COMPRESS[form](pcap(*payloads_of(3, 300)))
    first = outcome(packed)
    assert len(first[0]) == 300
    for batch_frames, read_octets in ((1, 1), (7, 13), (4096, 4097)):
        assert outcome(packed, batch_frames=batch_frames, read_octets=read_octets) == first


# --- cut and damaged files -------------------------------------------------------------------------------------


def outcome(octets, **options):
    got = Read(octets, **options)
    rows = [tuple(row[name].item() for name in FRAME.names if name != "start") for row in got.frames]
    return rows, got.octets, [(type(error), str(error)) for error in got.errors]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_anywhere_gives_whole_frames_and_one_error_of_the_compressed_data(form):
    packed = COMPRESS[form](PCAP)
    counts = []
    for cut in range(6, len(packed)):
        got = Read(packed[:cut])
        assert got.octets == SMALL[: len(got.octets)]
        assert type(got.error) is TruncatedCaptureError
        assert form in str(got.error)
        assert "compressed octets" in str(got.error)
        had = got.error.had or 0
        assert got.error.offset + had == cut
        counts.append(len(got.octets))
    assert counts == sorted(counts)


def test_gzip_cut_gives_every_frame_that_can_be_decompressed():
    packed = COMPRESS["gzip"](pcap(*payloads_of(4, 2000)))
    for cut in range(1000, len(packed), 9973):
        whole = zlib.decompressobj(31).decompress(packed[:cut])
        assert len(Read(packed[:cut]).octets) == len(Read(whole).octets)


def test_gzip_damage_loses_nothing_before_it():
    """Beside zlib fed octet by octet, which gives all that can be decoded before the damage."""
    packed = COMPRESS["gzip"](pcap(*payloads_of(5, 500)))
    kinds = set()
    for place in range(500, len(packed), len(packed) // 20):
        damaged = packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :]
        inflate, good, last = zlib.decompressobj(31), b"", len(damaged)
        for n in range(len(damaged)):
            try:
                good += inflate.decompress(damaged[n : n + 1])
            except zlib.error:
                last = n
                break
        expected, got = Read(good), Read(damaged)
        assert got.octets == expected.octets
        error = got.error
        kinds.add(type(error))
        if "gzip data is damaged" in str(error):
            assert error.offset == last
        else:  # what zlib decoded from damaged octets is no capture any more
            assert "decompressed gzip data" in str(error)
            assert error.offset == expected.errors[0].offset
    assert kinds == {MalformedCaptureError}


def test_a_wrong_check_sum_of_gzip_is_said_behind_all_frames():
    packed = bytearray(COMPRESS["gzip"](PCAP))
    packed[-8] ^= 1  # CRC32, then the length (RFC 1952, 2.3.1)
    got = Read(bytes(packed))
    assert got.octets == SMALL
    assert (type(got.error), got.error.offset) == (MalformedCaptureError, len(packed) - 5)  # the last octet of the CRC
    assert "gzip data is damaged (incorrect data check)" in str(got.error)


def test_xz_damage_loses_64_compressed_octets_at_most():
    payloads = payloads_of(5, 500)
    packed = lzma.compress(pcap(*payloads))
    places = [*range(64, len(packed) - 40, len(packed) // 30), len(packed) - 28]  # footer 12, index 12 or 16, CRC64 8
    for place in places:
        damaged = packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :]
        got = Read(damaged)
        before = Read(lzma.LZMADecompressor().decompress(packed[: place // 64 * 64]))
        assert got.octets[: len(before.octets)] == before.octets
        assert isinstance(got.error, CaptureError)
    assert "xz data is damaged" in str(got.error)  # the check sum


@needs_zstd
def test_zstd_damage_keeps_all_blocks_before_it():
    half = len(PCAP) // 2
    blocks = [(0, half, PCAP[:half]), (2, 50, bytes(range(50)))]  # a compressed block of nonsense
    got = Read(zstd_frame(*blocks))
    assert got.octets == Read(PCAP[:half]).octets
    assert type(got.error) is MalformedCaptureError
    assert got.error.offset == 6 + 3 + half
    reserved = Read(zstd_frame(blocks[0], (3, 5, b"12345")))
    assert (type(reserved.error), reserved.error.offset) == (MalformedCaptureError, 6 + 3 + half)
    large = Read(zstd_frame(blocks[0], (1, 2**21 - 1, b"0")))
    assert "2097151 octets" in str(large.error)


@needs_lz4
def test_lz4_damage_keeps_all_blocks_before_it():
    payloads = payloads_of(6, 2000)
    packed = LZ4.compress(pcap(*payloads), block_size=LZ4.BLOCKSIZE_MAX64KB, block_checksum=True)
    header = 4 + 2 + 8 + 1
    first = struct.unpack("<I", packed[header : header + 4])[0]
    place = header + 4 + first + 4  # the second block: its size, then its content
    damaged = packed[: place + 50] + bytes([packed[place + 50] ^ 1]) + packed[place + 51 :]
    got = Read(damaged)
    assert got.octets == Read(pcap(*payloads)[: 64 * 1024]).octets
    assert (type(got.error), got.error.offset) == (MalformedCaptureError, place)
    long = packed[:place] + struct.pack("<I", 70_000) + packed[place + 4 :]
    assert "70000 octets, more than the 65536" in str(Read(long).error)


def test_bzip2_damage_keeps_the_blocks_before_it():
    payloads = payloads_of(7, 3000)
    packed = bz2.compress(pcap(*payloads), 1)  # blocks of 100 000 octets
    damaged = packed[:-500] + bytes([packed[-500] ^ 1]) + packed[-499:]
    got = Read(damaged)
    whole = len(pcap(*payloads)) // 100_000
    assert whole >= 5
    # a block is given out before its check sum is known: the last one begins with what may be anything
    before = Read(pcap(*payloads)[: whole * 99_900]).octets
    assert got.octets[: len(before)] == before
    assert isinstance(got.error, MalformedCaptureError)
    assert "bzip2 data" in str(got.error)


@pytest.mark.parametrize("form", FORMATS)
def test_what_stands_behind_the_data_is_named(form):
    packed = COMPRESS[form](PCAP)
    others = {"gzip": bz2.compress(b"x"), "bzip2": lzma.compress(b"x")}
    for behind in (b"garbage", PCAP, others.get(form, gzip.compress(b"x"))):
        got = Read(packed + behind)
        assert got.octets == SMALL
        assert (type(got.error), got.error.offset) == (MalformedCaptureError, len(packed))
        assert "something else" in str(got.error)


def test_errors_of_the_capture_itself_say_that_they_count_decompressed_octets():
    got = Read(gzip.compress(PCAP[:-1]), gzip.compress(b"words and words"), gzip.compress(b""))
    assert [type(error) for error in got.errors] == [TruncatedCaptureError, NotACaptureError, NotACaptureError]
    assert got.errors[0].offset == len(PCAP) - len(SMALL[-1]) - 16
    assert got.errors[0].had == len(SMALL[-1]) - 1 + 16
    for error, said in zip(got.errors, ("inside a record", "looks like text", "empty"), strict=True):
        assert said in str(error)
        assert "decompressed gzip data" in str(error)
    assert len(got.frames) == 11


@pytest.mark.parametrize("form", FORMATS)
def test_the_limit_ends_before_a_fault_that_stands_behind_it(form):
    packed = COMPRESS[form](PCAP) + b"garbage"
    assert Read(packed, limit=12).errors == []
    assert len(Read(packed, limit=13).errors) == 1


class Failing(io.RawIOBase):
    """Gives the first octets, then a device error."""

    def __init__(self, octets):
        self.octets = io.BytesIO(octets)

    def readable(self):
        return True

    def readinto(self, view):
        got = self.octets.readinto(view)
        if not got:
            raise OSError(5, "Input/output error")
        return got


@pytest.mark.parametrize("form", FORMATS)
def test_a_device_error_is_no_damage(form):
    packed = COMPRESS[form](PCAP)
    got = Read(Failing(packed), packed)
    assert isinstance(got.error, CannotReadError)
    assert "Input/output error" in str(got.error)
    assert got.octets == SMALL * 2
    assert isinstance(Read(Failing(packed[:-20])).error, CannotReadError)


# --- hostile files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", FORMATS)
def test_compressed_twice_is_refused(outer):
    for inner in ("gzip", "xz", "bzip2"):
        got = Read(COMPRESS[outer](COMPRESS[inner](PCAP)))
        assert type(got.error) is UnsupportedCaptureError
        assert f"compressed with {inner} inside one compressed with {outer}" in str(got.error)
        assert got.captures.opened == 0


def bombs():
    """Files of a few KiB to 400 KiB that unpack to 64 MiB: a capture with 1024 records of 64 KiB of zeros."""
    record = struct.pack("<IIII", 0, 0, 65536 - 16, 65536 - 16) + bytes(65536 - 16)
    packers = [("gzip", zlib.compressobj(9, wbits=31)), ("xz", lzma.LZMACompressor()), ("bzip2", bz2.BZ2Compressor())]
    for form, packer in packers:
        yield form, packer.compress(PCAP[:24]) + b"".join(packer.compress(record) for _ in range(1024)) + packer.flush()
    if ZSTD is not None:
        blocks = [(0, 24, PCAP[:24]), *([(0, 16, record[:16]), (1, 65520, b"\0")] * 1024)]
        yield "zstd", zstd_frame(*blocks)
    if LZ4 is not None:
        yield "lz4", LZ4.compress(PCAP[:24] + record * 1024)


@pytest.mark.once("a bomb")
def test_a_bomb_takes_time_and_no_memory():
    Read(PCAP)  # compile first
    for form, packed in bombs():
        assert len(packed) < 400_000, form
        tracemalloc.start()
        with open_source(io.BytesIO(packed)) as captures:
            frames = sum(len(batch.frames) for batch in captures.batches())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (frames, captures.errors) == (1024, []), form
        assert peak < 24 * 2**20, (form, peak)  # lz4: blocks of 4 MiB and what its package reserves for them


def test_xz_that_needs_more_memory_than_is_taken():
    """The dictionary of a small file is declared to be 1 GiB: octet 17 of the file, code 36 (.xz format, 5.3.1)."""
    packed = bytearray(lzma.compress(PCAP))
    assert packed[14:16] == b"\x21\x01"  # filter LZMA2, one octet of properties
    packed[16] = 36
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[12 : end - 4]))
    got = Read(bytes(packed))
    assert type(got.error) is UnsupportedCaptureError
    assert "132 MiB" in str(got.error)
    assert "xz -dc" in str(got.error)


@needs_zstd
def test_zstd_with_a_window_or_dictionary_that_is_not_decoded():
    got = Read(zstd_frame((0, len(PCAP), PCAP), window=18 << 3))  # 2**28 octets
    assert type(got.error) is UnsupportedCaptureError
    assert "window of 268435456 octets" in str(got.error)
    assert Read(zstd_frame((0, len(PCAP), PCAP), window=17 << 3)).octets == SMALL
    dictionary = zstd_frame((0, len(PCAP), PCAP), flags=1)
    dictionary = dictionary[:6] + b"\x07" + dictionary[6:]
    assert "needs a dictionary" in str(Read(dictionary).error)


@needs_lz4
def test_lz4_header_that_cannot_be():
    packed = LZ4.compress(PCAP)
    assert "needs a dictionary" in str(Read(packed[:4] + bytes([packed[4] | 1]) + packed[5:]).error)
    assert "cannot be" in str(Read(packed[:4] + bytes([packed[4] & 0x3F]) + packed[5:]).error)
    assert "damaged" in str(Read(packed[:14] + bytes([packed[14] ^ 1]) + packed[15:]).error)


@pytest.mark.parametrize(
    ("magic", "package", "modules"),
    [
        (b"\x28\xb5\x2f\xfd", "zstandard", ("compression.zstd", "zstandard")),
        (b"\x04\x22\x4d\x18", "lz4", ("lz4.frame",)),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(magic, package, modules, monkeypatch):
    for module in (*modules, "compression"):
        monkeypatch.setitem(sys.modules, module, None)
    got = Read(magic + bytes(20), PCAP)
    assert type(got.error) is UnsupportedCaptureError
    assert f"package {package}" in str(got.error)
    assert f"`python3 -m pip install {package}`" in str(got.error)
    assert got.octets == SMALL


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(sorted(COMPRESS)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    st.integers(0, 4000),
)
def test_mutated_files_never_raise_and_reads_do_not_matter(form, changes, cut):
    changed = bytearray(COMPRESS[form](PCAP))
    for place, value in changes:
        changed[place % len(changed)] = value
    if cut < len(changed):
        del changed[cut:]
    first = outcome(bytes(changed))
    assert all(issubclass(kind, CaptureError) for kind, _ in first[2])
    for batch_frames, read_octets in ((1, 1), (7, 13)):
        assert outcome(bytes(changed), batch_frames=batch_frames, read_octets=read_octets) == first


# --- reading again ---------------------------------------------------------------------------------------------


class OnlyRead:
    """An object with nothing but read(), like a pipe."""

    def __init__(self, octets):
        self._octets = io.BytesIO(octets)

    def read(self, n):
        return self._octets.read(min(n, 7))


@pytest.mark.parametrize("form", FORMATS)
def test_reread_of_what_was_kept(form, tmp_path):
    payloads = payloads_of(8, 50)
    packed = COMPRESS[form](pcap(*payloads))
    (tmp_path / "x").write_bytes(packed)
    (tmp_path / "spool").mkdir()
    sources = [tmp_path / "x", OnlyRead(packed), OnlyRead(pcap(*payloads)), io.BytesIO(packed), io.BytesIO(PCAP)]
    with open_source(*sources, keep=True, spool_folder=tmp_path / "spool") as captures:
        rows = np.concatenate([batch.frames.copy() for batch in captures.batches()])
        assert captures.errors == []
        everything = payloads * 4 + SMALL
        order = np.random.default_rng(9).permutation(len(everything)).tolist()
        assert captures.reread(rows[order])[0].tobytes() == b"".join(everything[n] for n in order)
    assert list((tmp_path / "spool").iterdir()) == []


def test_reread_of_what_was_not_kept():
    with open_source(io.BytesIO(gzip.compress(PCAP))) as captures:
        rows = next(captures.batches()).frames.copy()
        with pytest.raises(UsageError, match="a compressed capture cannot be read twice"):
            captures.reread(rows)


def test_a_copy_that_cannot_be_kept(tmp_path):
    got = Read(gzip.compress(PCAP), PCAP, keep=True, spool_folder=tmp_path / "missing")
    assert isinstance(got.error, CannotWriteError)
    assert "compressed capture" in str(got.error)
    assert got.octets == SMALL


@pytest.mark.parametrize("form", FORMATS)
def test_flow_files_of_a_compressed_capture_are_those_of_the_capture(form, fixtures_folder, tmp_path, cli):
    octets = (fixtures_folder / "http.pcap").read_bytes()
    (tmp_path / "packed").write_bytes(COMPRESS[form](octets))
    (tmp_path / "plain").write_bytes(octets)
    for name in ("plain", "packed"):
        code, _, err = cli("trace", tmp_path / name, "--format", "pcap", "-o", tmp_path / f"{name}-out", "-q")
        assert (code, err) == (0, "")
    written = {path.name: path.read_bytes() for path in (tmp_path / "packed-out").glob("*.pcap")}
    assert len(written) == 6  # the flows of fixtures/README.md
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "plain-out").glob("*.pcap")}


def test_exit_code_and_message_of_a_cut_file(tmp_path, cli):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(PCAP)[:-9])
    code, out, err = cli("flows", tmp_path / "cut.gz", "--summary")
    assert code == 3
    assert "incomplete:" in err
    assert "gzip data ends inside a member" in err
    assert "frames: 12" in out


@pytest.mark.skipif(os.name != "posix", reason="signals to another process")
def test_interrupting_a_process_that_waits_for_a_compressed_pipe(fixtures_folder):
    """What had come before Ctrl-C is traced; the pipe stays open meanwhile."""
    packer = zlib.compressobj(wbits=31)
    octets = packer.compress((fixtures_folder / "T01.pcap").read_bytes()) + packer.flush(zlib.Z_SYNC_FLUSH)
    environment = {**os.environ, "PYTHONPATH": str(Path(open_source.__code__.co_filename).parents[2])}
    command = [sys.executable, "-m", "traceflow", "frames", "-", "-T", "csv"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdin.write(octets)
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(11)]  # T01: a header and ten frames
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (len([line for line in lines if line]), rest) == (11, b"")
    assert b"frames read 10" in said
    assert b"interrupted" in said


# --- other programs --------------------------------------------------------------------------------------------


def test_derived_captures(shared):
    """The frames of the plain ones, in all fields (oracle/derived.tsv: same partition)."""
    compared = 0
    for path in sorted((shared / "corpus" / "derived").glob("*.pcap.*")):
        form = {".gz": "gzip", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}[path.suffix]
        if form not in COMPRESS:
            continue
        assert outcome(path) == outcome(path.with_suffix("")), path.name
        compared += 1
    assert compared >= 6


def test_compressed_captures_of_the_corpus(shared):
    """Frames as tshark counts them (oracle/captures.tsv)."""
    forms = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
    compared = 0
    with (shared / "oracle" / "captures.tsv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE) if row["compressed"]]
    for row in rows:
        path = shared / "corpus" / row["path"]
        if not path.is_file() or forms[row["compressed"]] not in COMPRESS:
            continue
        got = Read(path)
        if row["format"] in ("pcap", "pcapng") or path.name.endswith(".pcapng.zst"):
            assert (got.errors, len(got.frames)) == ([], int(row["frames"])), row["path"]
            compared += 1
        else:  # ERF and snoop
            assert isinstance(got.error, UnsupportedCaptureError | NotACaptureError), row["path"]
            assert "decompressed" in str(got.error)
    assert compared >= 90
