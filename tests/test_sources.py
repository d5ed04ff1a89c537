"""The room `sources`: octets to FRAME rows, pcap and pcapng, whatever the input and however it is read."""

from __future__ import annotations

import csv
import gzip
import io
import os
import struct
import sys
import tracemalloc
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceflow.errors import (
    CannotReadError,
    CannotWriteError,
    MalformedCaptureError,
    NotACaptureError,
    TraceflowError,
    TruncatedCaptureError,
    UnsupportedCaptureError,
    UsageError,
)
from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME, NO_TIME, TIME_MAX_NS
from traceflow.sources import open_source
from traceflow.sources.clock import CLOCK_FIELDS, clock_factors, time_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
CORPUS = SHARED / "corpus"
ORACLE = SHARED / "oracle"
S = 10**9


# --- captures made by hand -------------------------------------------------------------------------------------


def pcap_header(order="<", magic=0xA1B2C3D4, version=(2, 4), snaplen=65535, link=1):
    return struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, link)


def record(octets, seconds=1, ticks=2, order="<", wire=None, captured=None, extra=b""):
    lengths = (len(octets) if captured is None else captured, len(octets) if wire is None else wire)
    return struct.pack(order + "IIII", seconds, ticks, *lengths) + extra + octets


def block(kind, body, order="<", length=None, trailer=None):
    body += bytes(-len(body) % 4)
    length = len(body) + 12 if length is None else length
    trailer = length if trailer is None else trailer
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", trailer)


def shb(order="<", version=(1, 0), section_length=-1, options=b""):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, section_length) + options, order)


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def idb(order="<", link=1, snaplen=0, options=b""):
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def epb(octets, ticks=0, interface=0, order="<", wire=None, captured=None, options=b""):
    n = len(octets) if captured is None else captured
    head = struct.pack(order + "IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, n, wire or n)
    return block(6, head + octets + bytes(-len(octets) % 4) + options, order)


def opb(octets, ticks=0, interface=0, drops=0, order="<"):
    head = struct.pack(order + "HHIIII", interface, drops, ticks >> 32, ticks & 0xFFFFFFFF, len(octets), len(octets))
    return block(2, head + octets, order)


def spb(octets, wire, order="<"):
    return block(3, struct.pack(order + "I", wire) + octets, order)


@dataclass
class Read:
    frames: np.ndarray
    octets: list
    errors: list
    captures: object

    @property
    def times(self):
        return self.frames["time_ns"].tolist()

    @property
    def error(self):
        assert len(self.errors) == 1, self.errors
        return self.errors[0]


def read(*sources, **options):
    """Read everything; sources may be octets, which become files in memory."""
    given_ = [io.BytesIO(s) if isinstance(s, bytes) else s for s in sources]
    rows, octets = [np.empty(0, FRAME)], []
    with open_source(*given_, **options) as captures:
        number = 1
        for batch in captures.batches():
            assert 1 <= len(batch.frames) <= options.get("batch_frames", 4096)
            assert batch.first_number == number
            number += len(batch.frames)
            rows.append(batch.frames.copy())
            octets += [
                batch.octets[int(f["start"]) : int(f["start"]) + int(f["captured"])].tobytes() for f in batch.frames
            ]
        assert captures.frames_read == number - 1
        return Read(np.concatenate(rows), octets, list(captures.errors), captures)


# --- classic pcap ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "magic", "byteorder", "tick_ns", "bits"),
    [
        ("<", 0xA1B2C3D4, "little", 1000, 0),
        (">", 0xA1B2C3D4, "big", 1000, 0),
        ("<", 0xA1B23C4D, "little", 1, FINER_THAN_MICROSECONDS),
        (">", 0xA1B23C4D, "big", 1, FINER_THAN_MICROSECONDS),
    ],
)
def test_pcap_in_both_orders_and_resolutions(order, magic, byteorder, tick_ns, bits):
    octets = pcap_header(order, magic, snaplen=96, link=113)
    octets += record(b"first", 1_600_000_000, 123_456, order, wire=1500) + record(b"", 0, 0, order)
    got = read(octets)
    assert got.errors == []
    assert got.octets == [b"first", b""]
    assert got.times == [1_600_000_000 * S + 123_456 * tick_ns, 0]
    assert got.frames["wire"].tolist() == [1500, 0]
    assert got.frames["offset"].tolist() == [40, 61]  # 24 + 16; 40 + 5 + 16
    assert got.frames["link"].tolist() == [113, 113]
    assert got.frames["time_bits"].tolist() == [bits, bits]
    (interface,) = got.captures.interfaces
    assert (interface.byteorder, interface.link, interface.snaplen) == (byteorder, 113, 96)
    assert interface.units_per_second == S // tick_ns
    assert got.captures.opened == 1
    assert got.captures.octets_read == got.captures.octets_total == len(octets)


def test_pcap_largest_time_is_exact_and_needs_no_saturation():
    got = read(pcap_header() + record(b"x", 2**32 - 1, 2**32 - 1))
    assert got.times == [(2**32 - 1) * S + (2**32 - 1) * 1000]
    assert got.times[0] < TIME_MAX_NS


@pytest.mark.parametrize("order", ["<", ">"])
def test_modified_pcap_has_record_headers_of_24_octets(order):
    octets = pcap_header(order, 0xA1B2CD34)
    for payload in (b"abc", b"defgh"):
        octets += record(payload, order=order, extra=struct.pack(order + "IHBB", 3, 0x800, 0, 0))
    got = read(octets)
    assert got.errors == []
    assert got.octets == [b"abc", b"defgh"]
    assert got.frames["offset"].tolist() == [48, 75]


@pytest.mark.parametrize(
    ("version", "first", "second", "captured", "wire"),
    [
        ((2, 4), 3, 9, 3, 9),
        ((2, 3), 3, 9, 3, 9),  # 2.3 was written both ways: the captured length is the smaller one
        ((2, 3), 9, 3, 3, 9),
        ((2, 2), 9, 3, 3, 9),
        ((2, 0), 9, 3, 3, 9),
        ((543, 0), 9, 3, 3, 9),
    ],
)
def test_pcap_versions_differ_in_the_order_of_lengths(version, first, second, captured, wire):
    got = read(pcap_header(version=version) + struct.pack("<IIII", 1, 0, first, second) + b"abc")
    assert got.errors == []
    assert got.frames["captured"].tolist() == [captured]
    assert got.frames["wire"].tolist() == [wire]


@pytest.mark.parametrize("version", [(1, 4), (2, 5), (3, 0), (543, 1)])
def test_pcap_of_unknown_version_is_refused(version):
    # libpcap reads 2.0 to 2.4 and 543.0 too: tcpdump refuses corpus/libpcap/tests/pcap-invalid-version-2.pcap (2.5)
    got = read(pcap_header(version=version) + record(b"abc"))
    assert isinstance(got.error, UnsupportedCaptureError)
    assert f"{version[0]}.{version[1]}" in str(got.error)
    assert len(got.frames) == 0


def test_link_type_loses_the_check_sequence_bits_and_is_clamped_in_frames():
    # 0x24000001: Ethernet, frame check sequence of 4 octets announced (upper six bits)
    got = read(pcap_header(link=0x24000001) + record(b"x"), pcap_header(link=70000) + record(b"y"))
    assert got.frames["link"].tolist() == [1, 65535]
    assert [interface.link for interface in got.captures.interfaces] == [1, 70000]


def test_a_record_above_256_kib_is_malformed_and_keeps_what_came_before():
    start = pcap_header() + record(b"good")
    got = read(start + record(b"", captured=262_145) + record(b"never"))
    assert isinstance(got.error, MalformedCaptureError)
    assert got.error.offset == len(start)
    assert "262145" in str(got.error)
    assert got.octets == [b"good"]


@pytest.mark.parametrize(
    ("snaplen", "captured", "good"),
    [
        (65535, 262_144, True),  # above the snaplen of the file, but no larger than any tool writes
        (300_000, 300_000, True),
        (300_000, 300_001, False),
        (128 * 2**20 + 1, 262_145, False),  # a snaplen that means `no limit` is no reason to believe a length
        (0xFFFFFFFF, 2**31, False),
        (0, 262_145, False),
    ],
)
def test_the_longest_record_follows_a_snaplen_up_to_128_mib(snaplen, captured, good):
    got = read(pcap_header(snaplen=snaplen) + record(bytes(captured if good else 0), captured=captured))
    assert [type(e) for e in got.errors] == ([] if good else [MalformedCaptureError])
    assert got.frames["captured"].tolist() == ([captured] if good else [])


def test_a_length_that_lies_costs_no_memory():
    octets = pcap_header(snaplen=128 * 2**20) + record(b"abc", captured=128 * 2**20)
    read(pcap_header() + record(b"x"))  # compile first
    tracemalloc.start()
    got = read(octets, read_octets=65536)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (type(got.error), got.error.needed, got.error.had) == (TruncatedCaptureError, 16 + 128 * 2**20, 19)
    assert peak < 4 * 2**20


# --- pcapng ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks_of_each_kind(order):
    octets = shb(order) + idb(order, link=1, snaplen=4, options=option(2, b"eth0", order) + option(0, b"", order))
    octets += epb(b"abc", 5_000_001, order=order, wire=60)
    octets += spb(b"wxyz", 1000, order)  # cut to the snaplen of interface 0
    octets += spb(b"12", 2, order)
    octets += opb(b"opb", 7_000_000, drops=9, order=order)
    octets += epb(b"opts", 8_000_000, order=order, options=option(1, b"a comment", order) + option(0, b"", order))
    got = read(octets)
    assert got.errors == []
    assert got.octets == [b"abc", b"wxyz", b"12", b"opb", b"opts"]
    assert got.times == [5 * S + 1000, 5 * S + 1000, 5 * S + 1000, 7 * S, 8 * S]
    assert got.frames["wire"].tolist() == [60, 1000, 2, 3, 4]
    assert got.frames["time_bits"].tolist() == [0, NO_TIME, NO_TIME, 0, 0]
    for row, payload in zip(got.frames, got.octets, strict=True):
        offset = int(row["offset"])
        assert octets[offset : offset + len(payload)] == payload
    (interface,) = got.captures.interfaces
    assert (interface.name, interface.byteorder, interface.units_per_second, interface.snaplen) == (
        "eth0",
        "little" if order == "<" else "big",
        10**6,
        4,
    )


def test_simple_packet_before_any_time_has_time_zero():
    got = read(shb() + idb() + spb(b"ab", 2) + epb(b"c", 3))
    assert got.times == [0, 3000]
    assert got.frames["time_bits"].tolist() == [NO_TIME, 0]


def test_sections_have_their_own_order_and_interfaces():
    one = idb(link=1) + idb(link=101, options=option(9, b"\x09")) + epb(b"a", 1, 1) + epb(b"b", 2, 0)
    two = idb(">", link=113) + epb(b"c", 3, 0, ">")
    octets = shb(section_length=len(one)) + one + shb(">", version=(1, 2)) + two
    got = read(octets)
    assert got.errors == []
    assert got.frames["interface"].tolist() == [1, 0, 2]
    assert got.frames["link"].tolist() == [101, 1, 113]
    assert got.times == [1, 2000, 3000]
    assert got.frames["time_bits"].tolist() == [FINER_THAN_MICROSECONDS, 0, 0]
    assert [i.byteorder for i in got.captures.interfaces] == ["little", "little", "big"]


def test_unknown_and_other_blocks_are_skipped_by_length():
    others = b"".join(block(kind, b"some content") for kind in (4, 5, 10, 0xBAD, 0x40000BAD, 0x80000001, 0))
    got = read(shb() + others + idb() + others + epb(b"x", 9) + block(0xBAD, bytes(100_000)) + epb(b"y", 10))
    assert got.errors == []
    assert got.octets == [b"x", b"y"]


def test_an_interface_of_an_earlier_section_is_unknown():
    first = shb() + idb() + epb(b"a") + shb()
    got = read(first + epb(b"b"))
    assert isinstance(got.error, MalformedCaptureError)
    assert got.error.offset == len(first)
    assert "interface 0" in str(got.error)
    assert got.octets == [b"a"]


@pytest.mark.parametrize("packet", [epb(b"b", interface=1), opb(b"b", interface=1), epb(b"b", interface=0xFFFFFFFF)])
def test_an_interface_that_the_section_lacks_is_malformed(packet):
    got = read(shb() + idb() + epb(b"a") + packet + epb(b"c"))
    assert isinstance(got.error, MalformedCaptureError)
    assert got.octets == [b"a"]


@pytest.mark.parametrize(
    "fault",
    [
        block(6, bytes(20), length=33),  # not a multiple of 4
        block(6, b"", length=8),  # below 12
        block(6, b"", length=0),
        block(6, bytes(16)),  # EPB without room for its head
        block(3, b""),  # SPB likewise
        epb(b"abcd", captured=5),  # captured octets behind the block
        spb(b"ab", 100),
        epb(b"", captured=262_145),
        epb(b"", captured=0xFFFFFFFF),
        block(6, struct.pack("<IIIII", 0, 0, 0, 0, 0), trailer=36),
        block(0xBAD, bytes(4), trailer=20),
        block(0xBAD, bytes(100_000), trailer=20),
        block(1, bytes(8), trailer=24),
        block(1, b""),  # interface description without room for its fields
        idb(options=option(9, b"\x06\x06")),  # if_tsresol has one octet
        idb(options=option(14, b"\x06")),  # if_tsoffset has eight
        idb(options=struct.pack("<HH", 2, 400)),  # an option behind the block
        idb(options=struct.pack("<HH", 2, 65535) + bytes(8)),
        struct.pack("<III", 0x0A0D0D0A, 28, 0x12345678),  # neither byte order
        block(0x0A0D0D0A, struct.pack("<I", 0x1A2B3C4D), length=16),
        struct.pack("<II", 6, 0xFFFFFFFC) + struct.pack("<IIIII", 0, 0, 0, 4, 4),  # 4 GiB of options
        struct.pack("<II", 1, 0xFFFFFFFC),
    ],
)
def test_malformed_blocks_end_the_file_with_the_place(fault):
    start = shb() + idb() + epb(b"good", 1)
    for pieces in (1, 1 << 20):
        got = read(start + fault + epb(b"never"), read_octets=pieces)
        assert isinstance(got.error, MalformedCaptureError), got.error
        assert got.error.offset == len(start)
        assert f"at offset {len(start)}" in str(got.error)
        assert got.octets == [b"good"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (block(6, bytes(20), length=33), "length 33"),
        (block(0xBAD, bytes(20), length=34), "length 34"),
        (block(6, b"", length=8), "length 8"),
        (block(6, bytes(20), trailer=36), "ends with the length 36"),
        (epb(b"", captured=262_145), "262145 captured octets, more than a frame"),
        (epb(b"abcd", captured=5), "5 captured octets, more than its length"),
        (epb(b"", interface=7), "names interface 7, but the section has 1"),
    ],
)
def test_malformed_blocks_are_named(fault, said):
    assert said in str(read(shb() + idb() + fault).error)


def test_a_clock_finer_than_64_bits_and_other_versions_are_refused():
    for code in (0x14, 0x7F, 0xC0, 0xFF):  # 10**-20, 10**-127, 2**-64, 2**-127
        got = read(shb() + idb(options=option(9, bytes([code]))))
        assert isinstance(got.error, UnsupportedCaptureError)
    for version in ((0, 1), (1, 1), (2, 0)):
        got = read(shb(version=version) + idb() + epb(b"x"))
        assert isinstance(got.error, UnsupportedCaptureError)
        assert got.captures.opened == 0


def test_interfaces_are_capped_over_all_captures(monkeypatch):
    monkeypatch.setattr("traceflow.sources.registry.INTERFACES_MAX", 5)
    got = read(shb() + idb() * 4 + epb(b"a"), shb() + idb() + epb(b"b") + idb(), pcap_header() + record(b"c"))
    assert [type(e) for e in got.errors] == [UnsupportedCaptureError] * 2
    assert got.octets == [b"a", b"b"]


# --- time ------------------------------------------------------------------------------------------------------


def exact_ns(code, offset_s, ticks):
    """The definition, in rational numbers: offset + ticks / units, rounded down, kept within +-TIME_MAX_NS."""
    units = 2 ** (code & 0x7F) if code & 0x80 else 10**code
    exact = (Fraction(ticks, units) + offset_s) * S
    return max(-TIME_MAX_NS, min(TIME_MAX_NS, exact.numerator // exact.denominator))


CODES = [*range(20), *range(0x80, 0x80 + 64)]
TICKS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 10**12), st.sampled_from([0, 1, 2**63, 2**64 - 1]))
OFFSETS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-5 * S, 5 * S), st.just(0), st.sampled_from([-(2**63), 2**63 - 1])
)


def read_time(code, offset_s, ticks):
    """What the walk makes of a time, by way of a file."""
    options = option(9, bytes([code])) + option(14, struct.pack("<q", offset_s))
    got = read(shb() + idb(options=options) + epb(b"", ticks))
    assert got.errors == []
    return got.times[0]


@pytest.mark.parametrize(
    ("code", "offset_s", "ticks", "expected"),
    [
        (6, 0, 1_600_000_000_123_456, 1_600_000_000_123_456_000),
        (9, 0, 1_600_000_000_123_456_789, 1_600_000_000_123_456_789),
        (0, 0, 1_600_000_000, 1_600_000_000 * S),
        (12, 0, 1_000_000_001_999, S + 1),  # 1.000000001999 s
        (19, 0, 2**64 - 1, 1_844_674_407),  # 1.8446744073709551615 s
        (0x80 | 10, 0, 1025, S + 976_562),  # 1 + 1/1024 s = 1.0009765625
        (0x80 | 32, 0, 2**32 + 2**31, S + S // 2),
        (0x80 | 63, 0, 2**63 + 2**62, S + S // 2),
        (6, -1, 0, -S),  # a time before 1970
        (6, 3600, 1, 3600 * S + 1000),
        (0, -(2**63), 2**63 + 7, 7 * S),  # both huge, the sum is 7 s
        (0, 0, 2**64 - 1, TIME_MAX_NS),
        (0, 2**63 - 1, 2**64 - 1, TIME_MAX_NS),
        (6, -(2**63), 0, -TIME_MAX_NS),
        (9, 0, 2**62, TIME_MAX_NS),
        (9, 0, 2**62 + 1, TIME_MAX_NS),
        (9, -1, 2**62 + 1, TIME_MAX_NS + 1 - S),
    ],
)
def test_times_counted_by_hand(code, offset_s, ticks, expected):
    assert read_time(code, offset_s, ticks) == expected == exact_ns(code, offset_s, ticks)


def test_times_are_exact_at_the_edges_of_every_resolution():
    """Every resolution with ticks around its second, around words of 32 and 64 bits, and around +-TIME_MAX_NS."""
    last = TIME_MAX_NS // S
    offsets = [0, 1, -1, -(2**63), 2**63 - 1, *(sign * (last + d) for sign in (1, -1) for d in (-1, 0, 1))]
    for code in CODES:
        units = 2 ** (code & 0x7F) if code & 0x80 else 10**code
        for offset_s in offsets:
            ticks = {0, 1, units - 1, units, units + 1, 2 * units - 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1}
            for edge_ns in (TIME_MAX_NS, -TIME_MAX_NS, 2**63, 2**63 - S):
                near = (edge_ns - offset_s * S) * units // S
                ticks |= {near - 1, near, near + 1}
            ticks = sorted(t for t in ticks if 0 <= t < 2**64)
            options = option(9, bytes([code])) + option(14, struct.pack("<q", offset_s))
            got = read(shb() + idb(options=options) + b"".join(epb(b"", t) for t in ticks))
            assert got.times == [exact_ns(code, offset_s, t) for t in ticks], (hex(code), offset_s)


@given(st.sampled_from(CODES), OFFSETS, st.lists(TICKS, min_size=1, max_size=30))
def test_times_are_exact_for_every_resolution(code, offset_s, ticks):
    options = option(9, bytes([code])) + option(14, struct.pack("<q", offset_s))
    got = read(shb() + idb(options=options) + b"".join(epb(b"", t) for t in ticks))
    assert got.times == [exact_ns(code, offset_s, t) for t in ticks]


@given(st.sampled_from(CODES), st.data())
def test_times_at_the_edges_of_the_range(code, data):
    """Ticks and offset chosen so that the sum lies next to +-TIME_MAX_NS, where saturation begins."""
    clock = np.zeros(1, np.dtype(CLOCK_FIELDS, align=True))
    units = 2 ** (code & 0x7F) if code & 0x80 else 10**code
    edge = data.draw(st.sampled_from([TIME_MAX_NS, -TIME_MAX_NS])) + data.draw(st.integers(-3 * S, 3 * S))
    ticks = data.draw(st.integers(0, 2**64 - 1))
    offset_s = max(-(2**63), min(2**63 - 1, (edge - ticks * S // units) // S))
    for field, value in clock_factors(code, offset_s).items():
        clock[0][field] = value
    with np.errstate(over="ignore"):
        assert int(time_of(clock[0], np.uint64(ticks))) == exact_ns(code, offset_s, ticks)


def test_finer_than_microseconds_is_a_property_of_the_interface():
    codes = [6, 7, 9, 3, 0x80 | 19, 0x80 | 20]  # 2**19 < 10**6 < 2**20
    octets = shb() + b"".join(idb(options=option(9, bytes([c]))) for c in codes)
    got = read(octets + b"".join(epb(b"", 0, n) for n in range(len(codes))))
    assert got.frames["time_bits"].tolist() == [0, 1, 1, 0, 0, 1]
    assert [i.units_per_second for i in got.captures.interfaces] == [10**6, 10**7, S, 1000, 2**19, 2**20]


# --- cut, empty, something else --------------------------------------------------------------------------------


WHOLE = {
    "pcap": (pcap_header(), [record(b"abcd"), record(b""), record(b"xyz" * 20)]),
    "pcapng": (shb() + idb(), [epb(b"abcd", 1), spb(b"", 0), block(0xBAD, bytes(9)), epb(b"xyz" * 20, 2)]),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("read_octets", [1, 1 << 20])
def test_a_file_cut_anywhere_gives_the_whole_frames_and_one_error(kind, read_octets):
    head, records = WHOLE[kind]
    octets = head + b"".join(records)
    edges = [len(head) + sum(map(len, records[:k])) for k in range(len(records) + 1)]
    frames_until = {edge: sum(1 for r in records[:k] if r[:4] != b"\xad\x0b\0\0") for k, edge in enumerate(edges)}
    for cut in range(len(head), len(octets) + 1):
        got = read(octets[:cut], read_octets=read_octets)
        edge = max(e for e in edges if e <= cut)
        assert len(got.frames) == frames_until[edge]
        if cut == edge:
            assert got.errors == []
        else:
            assert isinstance(got.error, TruncatedCaptureError)
            assert (got.error.offset, got.error.had) == (edge, cut - edge)
            assert got.error.needed > got.error.had
            assert f"at offset {edge}" in str(got.error)


def test_needed_is_the_whole_record_once_its_header_is_there():
    assert read(pcap_header() + record(b"abcdef")[:-1]).error.needed == 22
    assert read(pcap_header() + record(b"abcdef")[:15]).error.needed == 16
    assert read(shb() + idb() + epb(b"abcdef")[:-1]).error.needed == 40  # 28 + 6 + 2 padding + 4


def test_a_header_alone_is_an_empty_capture():
    for octets in (pcap_header(), shb(), shb() + idb()):
        got = read(octets)
        assert got.errors == []
        assert len(got.frames) == 0
        assert got.captures.opened == 1


@pytest.mark.parametrize("octets", [pcap_header()[:23], pcap_header()[:4], shb()[:8], shb()[:27], shb()[:12]])
def test_a_file_header_that_is_cut(octets):
    got = read(octets)
    assert isinstance(got.error, TruncatedCaptureError)
    assert got.error.had == len(octets)
    assert got.captures.opened == 0


@pytest.mark.parametrize(
    ("octets", "error", "said"),
    [
        (b"", NotACaptureError, "the file is empty"),
        (b"\xa1\xb2", NotACaptureError, "a1 b2"),
        (b"Some notes\nof a day at sea\n", NotACaptureError, "looks like text"),
        ("Füße und Straßen, über und über und über und über, dreißig ü".encode(), NotACaptureError, "looks like text"),
        (b"\n\r\r\n and then words", NotACaptureError, "not a packet capture"),
        (b"%PDF-1.7", NotACaptureError, "PDF"),
        (bytes(100), NotACaptureError, "zeros"),
        (b"\x00G/\x00\x81\xd7HA", NotACaptureError, "00 47 2f 00 81 d7 48 41"),
        (b"\x02\x21\x4c\x181234", UnsupportedCaptureError, "lz4 (legacy frame)"),
        (b"\x1f\x9d\x901234", UnsupportedCaptureError, "compress"),
        (b"PK\3\0041234", UnsupportedCaptureError, "zip"),
        (b"snoop\0\0\0\0\0\0\2", UnsupportedCaptureError, "snoop"),
        (b"GMBU\0\2", UnsupportedCaptureError, "Network Monitor"),
        (struct.pack("<I", 0x1C0001AC) + bytes(20), UnsupportedCaptureError, "IXIA"),
        (struct.pack(">I", 0xA1B234CD) + bytes(20), UnsupportedCaptureError, "pcap variant"),
    ],
)
def test_what_is_no_capture_is_refused_by_name(octets, error, said):
    for pieces in (1, 1 << 20):
        got = read(octets, read_octets=pieces)
        assert type(got.error) is error
        assert said in str(got.error)
        assert got.captures.opened == 0


# --- inputs ----------------------------------------------------------------------------------------------------


PCAP = pcap_header() + b"".join(record(bytes([n]) * n, n, 0) for n in range(1, 9))
PCAPNG = shb() + idb(link=101) + b"".join(epb(bytes([n]) * n, n * 10**6) for n in range(1, 6))


def test_nothing_given():
    got = read()
    assert isinstance(got.error, CannotReadError)
    assert "no capture" in str(got.error)
    assert got.captures.octets_total == 0


def test_several_captures_and_the_bad_ones_between_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(PCAP)  # sniffed by content, not by name
    (tmp_path / "b.pcap").write_bytes(PCAPNG)
    (tmp_path / "cut.pcap").write_bytes(PCAP[:-1])
    (tmp_path / "text.pcap").write_text("hello, this is text")
    names = [tmp_path / "a.txt", tmp_path / "none", tmp_path, tmp_path / "cut.pcap", tmp_path / "text.pcap"]
    got = read(*names, str(tmp_path / "b.pcap"), "with\0nul")
    kinds = [CannotReadError, CannotReadError, TruncatedCaptureError, NotACaptureError, CannotReadError]
    assert [type(e) for e in got.errors] == kinds
    assert "No such file" in str(got.errors[0])
    assert str(tmp_path / "none") in str(got.errors[0])
    assert "directory" in str(got.errors[1])
    assert len(got.frames) == 8 + 7 + 5
    assert got.captures.opened == 3
    assert [i.source_index for i in got.captures.interfaces] == [0, 3, 5]
    assert [i.source for i in got.captures.interfaces] == [str(names[0]), str(names[3]), str(tmp_path / "b.pcap")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="every file is readable to root")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.pcap"
    path.write_bytes(PCAP)
    path.chmod(0)
    assert "Permission denied" in str(read(path).error)


def test_frames_have_a_running_number_and_one_in_their_file():
    with open_source(io.BytesIO(PCAP), io.BytesIO(PCAPNG), batch_frames=3) as captures:
        numbers = [(b.first_number, b.first_in_file, len(b.frames)) for b in captures.batches()]
    assert numbers == [(1, 1, 3), (4, 4, 3), (7, 7, 2), (9, 1, 3), (12, 4, 2)]


@pytest.mark.parametrize(
    ("limit", "frames", "opened"), [(0, 0, 0), (1, 1, 1), (8, 8, 1), (9, 9, 2), (13, 13, 2), (99, 13, 2)]
)
@pytest.mark.parametrize("batch_frames", [1, 5, 4096])
def test_limit_counts_over_all_captures(limit, frames, opened, batch_frames):
    got = read(PCAP, PCAPNG, limit=limit, batch_frames=batch_frames)
    assert len(got.frames) == frames
    assert got.captures.opened == opened
    assert got.errors == []


def test_limit_ends_before_a_fault_that_stands_behind_it():
    assert read(PCAP[:-1], limit=7).errors == []
    assert len(read(PCAP[:-1], limit=8).errors) == 1


def test_wrong_arguments_are_refused_at_once():
    for options in ({"batch_frames": 0}, {"read_octets": 0}, {"limit": -1}):
        with pytest.raises(UsageError):
            open_source("x", **options)
    for wrong in (io.StringIO("text"), 5, None):
        with pytest.raises(UsageError):
            open_source(wrong)


def test_captures_are_read_once():
    with open_source(io.BytesIO(PCAP)) as captures:
        list(captures.batches())
        with pytest.raises(UsageError):
            captures.batches()
    with pytest.raises(UsageError):
        captures.reread(np.empty(0, FRAME))


def as_stdin(monkeypatch, octets):
    """Make octets the standard input, through a pipe."""
    reading, writing = os.pipe()
    os.write(writing, octets)
    os.close(writing)
    stream = io.TextIOWrapper(os.fdopen(reading, "rb"))
    monkeypatch.setattr(sys, "stdin", stream)
    return stream


def test_standard_input_through_a_pipe(monkeypatch):
    with as_stdin(monkeypatch, PCAP):
        got = read("-")
        assert got.errors == []
        assert got.frames["captured"].tolist() == list(range(1, 9))
        assert got.captures.octets_total is None
        assert got.captures.octets_read == len(PCAP)
        assert got.captures.interfaces[0].source == "-"


def test_standard_input_twice_or_closed(monkeypatch):
    with as_stdin(monkeypatch, PCAP):
        assert "given twice" in str(read("-", "-").error)
    monkeypatch.setattr(sys, "stdin", None)
    assert "closed" in str(read("-").error)


def test_standard_input_from_a_file_begins_where_it_stands(monkeypatch, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"garbage" + PCAP)
    with path.open("rb") as raw:
        raw.read(7)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
        with open_source("-") as captures:
            assert captures.octets_total == len(PCAP)
            rows = np.concatenate([b.frames.copy() for b in captures.batches()])
            assert rows["offset"][0] == 7 + 24 + 16
            assert captures.reread(rows[2:3])[0].tobytes() == b"\3\3\3"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_and_kept(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    handle = os.open(path, os.O_RDWR)  # so that opening for reading does not wait
    os.write(handle, PCAP)
    with open_source(path, keep=True, limit=8) as captures:
        rows = np.concatenate([b.frames.copy() for b in captures.batches()])
        os.close(handle)
        assert captures.octets_total is None
        assert captures.reread(rows[7:])[0].tobytes() == bytes([8]) * 8


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


def test_a_device_error_keeps_what_was_read_and_goes_on():
    got = read(Failing(PCAP), PCAPNG)
    assert isinstance(got.error, CannotReadError)
    assert "Input/output error" in str(got.error)
    assert len(got.frames) == 13


class OnlyRead:
    """An object with nothing but read()."""

    def __init__(self, octets):
        self._octets = io.BytesIO(octets)

    def read(self, n):
        return self._octets.read(min(n, 5))


def test_an_object_that_can_only_read():
    assert read(OnlyRead(PCAP)).octets == read(PCAP).octets


# --- reading again ---------------------------------------------------------------------------------------------


def check_reread(captures, frames, octets, order):
    buffer, rows = captures.reread(frames[order])
    assert buffer.dtype == np.uint8
    assert len(buffer) == sum(len(octets[k]) for k in order)
    for row, k in zip(rows, order, strict=True):
        start = int(row["start"])
        assert buffer[start : start + int(row["captured"])].tobytes() == octets[k]
        for field in ("time_ns", "offset", "captured", "wire", "interface"):
            assert row[field] == frames[k][field]


def random_captures(generator, count, frames):
    """Captures with frames of different content and length, some far apart."""
    made = []
    for n in range(count):
        payloads = [generator.bytes(int(generator.integers(0, 3000))) for _ in range(frames)]
        if n % 2:
            made.append(shb() + idb() + b"".join(epb(p) for p in payloads))
        else:
            made.append(pcap_header() + b"".join(record(p) for p in payloads))
    return made


@pytest.mark.parametrize("how", ["paths", "memory", "kept", "kept and memory"])
def test_reread_any_order_any_files(tmp_path, how):
    generator = np.random.default_rng(1)
    made = random_captures(generator, 3, 40)
    sources = []
    for n, octets in enumerate(made):
        if how == "paths":
            (tmp_path / f"{n}").write_bytes(octets)
            sources.append(tmp_path / f"{n}")
        elif how == "memory" or (how == "kept and memory" and n == 1):
            sources.append(io.BytesIO(octets))
        else:
            sources.append(OnlyRead(octets))
    with open_source(*sources, keep=how.startswith("kept"), spool_folder=tmp_path) as captures:
        frames, octets = [], []
        for batch in captures.batches():
            frames.append(batch.frames.copy())
            octets += [
                batch.octets[int(f["start"]) : int(f["start"]) + int(f["captured"])].tobytes() for f in batch.frames
            ]
            check_reread(captures, np.concatenate(frames), octets, [len(octets) - 1, 0])  # in the midst of reading
        assert captures.errors == []
        frames = np.concatenate(frames)
        assert len(frames) == 120
        before = frames.copy()
        for order in ([], [5], [119, 0, 60, 60], generator.permutation(120).tolist(), list(range(120))):
            check_reread(captures, frames, octets, order)
        assert (frames == before).all()
    if how == "kept":
        assert list(tmp_path.iterdir()) == []  # the copy is anonymous


def test_reread_of_a_pipe_that_was_not_kept():
    with open_source(OnlyRead(PCAP)) as captures:
        rows = next(captures.batches()).frames.copy()
        with pytest.raises(UsageError, match="keep=True"):
            captures.reread(rows)


def test_reread_of_rows_of_another_chain():
    rows = read(PCAP, PCAPNG).frames
    with open_source(io.BytesIO(PCAP)) as captures:
        list(captures.batches())
        with pytest.raises(UsageError):
            captures.reread(rows)


def test_reread_of_a_file_that_shrank_or_was_replaced(tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(PCAP)
    with open_source(path) as captures:
        rows = np.concatenate([b.frames.copy() for b in captures.batches()])
        (tmp_path / "y").write_bytes(PCAP)
        (tmp_path / "y").replace(path)
        with pytest.raises(CannotReadError, match="place"):
            captures.reread(rows)
        path.unlink()
        with pytest.raises(CannotReadError, match="No such file"):
            captures.reread(rows)
    path.write_bytes(PCAP)
    with open_source(path) as captures:
        rows = np.concatenate([b.frames.copy() for b in captures.batches()])
        os.truncate(path, 60)
        with pytest.raises(CannotReadError, match="shorter"):
            captures.reread(rows)


def test_more_than_4_gib_at_once_is_refused():
    with open_source(io.BytesIO(PCAP)) as captures:
        rows = next(captures.batches()).frames[:1].copy()
        rows["captured"] = 2**31
        with pytest.raises(UsageError, match="fewer"):
            captures.reread(np.concatenate([rows, rows]))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_few_files_are_open_at_once(tmp_path):
    for n in range(30):
        (tmp_path / f"{n}.pcap").write_bytes(PCAP)

    def open_here():
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            try:
                found += str(entry.readlink()).startswith(str(tmp_path))
            except OSError:
                continue
        return found

    most = 0
    with open_source(*(tmp_path / f"{n}.pcap" for n in range(30))) as captures:
        rows = []
        for batch in captures.batches():
            rows.append(batch.frames.copy())
            most = max(most, open_here())
        assert most == 1
        rows = np.concatenate(rows)
        assert captures.reread(rows)[0].tobytes() == b"".join(read(PCAP).octets) * 30
        assert 1 <= open_here() <= 8
    assert open_here() == 0


def test_a_copy_that_cannot_be_kept(tmp_path):
    got = read(OnlyRead(PCAP), PCAPNG, keep=True, spool_folder=tmp_path / "missing")
    assert isinstance(got.error, CannotWriteError)
    assert "missing" in str(got.error)
    assert len(got.frames) == 5  # the other capture can seek and needs no copy


# --- chunking cannot matter, nothing but TraceflowError --------------------------------------------------------


def outcome(octets, **options):
    got = read(octets, **options)
    rows = [tuple(row[name].item() for name in FRAME.names if name != "start") for row in got.frames]
    assert all(isinstance(e, TraceflowError) for e in got.errors)
    return rows, got.octets, [(type(e), str(e)) for e in got.errors], got.captures.interfaces


def all_the_same(octets):
    first = outcome(octets)
    for batch_frames, read_octets in ((1, 1), (7, 1), (4096, 1), (1, 1 << 20), (7, 13), (3, 4097)):
        assert outcome(octets, batch_frames=batch_frames, read_octets=read_octets) == first
    return first


SEEDS = [
    PCAP,
    PCAPNG,
    pcap_header(">", 0xA1B23C4D) + record(b"abc", order=">") * 3,
    pcap_header("<", 0xA1B2CD34, version=(2, 3)) + record(b"abc", extra=bytes(8)) * 3,
    shb(">") + idb(">") + spb(b"ab", 2, ">") + opb(b"c", 1, order=">") + shb() + idb() + block(5, b"1234") + epb(b"x"),
    shb() + idb(options=option(9, b"\xbf") + option(14, b"\xff" * 8) + option(2, b"e")) + epb(b"y", 2**63) * 2,
]


@pytest.mark.parametrize(
    "octets", [*SEEDS, pcap_header() + record(bytes(9000)) * 3, shb() + idb() + epb(bytes(9000)) * 3]
)
def test_batch_and_read_sizes_do_not_matter(octets):
    rows, _, errors, _ = all_the_same(octets)
    assert rows
    assert errors == []


def test_records_longer_than_the_buffer_grow_it():
    payloads = [bytes([n]) * n * 20_000 for n in range(1, 6)]
    for octets in (
        pcap_header() + b"".join(record(p) for p in payloads),
        shb() + idb() + b"".join(epb(p) for p in payloads),
    ):
        for read_octets in (1000, 4096, 1 << 20):
            assert read(octets, read_octets=read_octets).octets == payloads


@given(st.binary(max_size=300))
def test_random_octets_never_raise(octets):
    all_the_same(octets)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_mutated_captures_never_raise(octets, changes, cut):
    changed = bytearray(octets)
    for place, value in changes:
        changed[place % len(changed)] = value
    if cut < len(changed):
        del changed[cut:]
    all_the_same(bytes(changed))


# --- other programs --------------------------------------------------------------------------------------------


def oracle_rows():
    path = ORACLE / "captures.tsv"
    if not path.is_file() or not CORPUS.is_dir():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


needs_corpus = pytest.mark.skipif(not oracle_rows(), reason="../shared/corpus and ../shared/oracle are not here")

CUSTOM_BLOCKS = ("test017", "test018", "test102", "test202")
"""Captures with Custom Blocks, which tshark lists as frames and capinfos (as we) does not: `capinfos -c`."""


def sample(rows, size):
    """Evenly spread captures, the same in each run."""
    return rows[:: max(1, len(rows) // size)]


@needs_corpus
def test_frames_link_order_and_resolution_as_other_programs_say():
    rows = [
        row
        for row in oracle_rows()
        if row["format"] in ("pcap", "pcapng") and not row["compressed"] and row["tshark_rc"] == "0"
        and "invalid-version" not in row["path"]  # tshark reads version 2.5, libpcap refuses it, as we do
        and not Path(row["path"]).name.startswith(CUSTOM_BLOCKS) and int(row["size"]) < 300_000
    ]  # fmt: skip
    rare = [r for r in rows if r["endian"] == "be" or r["res"] == "ns" or r["format"] == "pcapng"]
    checked = 0
    for row in sample(rows, 150) + sample(rare, 100):
        with open_source(CORPUS / row["path"]) as captures:
            frames = sum(len(batch.frames) for batch in captures.batches())
            where = (row["path"], captures.errors)
            assert captures.errors == [], where
            assert frames == int(row["frames"] or 0), where
            links = {interface.link for interface in captures.interfaces}
            for interface in captures.interfaces[:1]:
                assert {"little": "le", "big": "be"}[interface.byteorder] == row["endian"], where
                if len(links) == 1 and row["linktype"]:
                    assert interface.link == int(row["linktype"]), where
                if row["format"] == "pcap":
                    assert interface.snaplen == int(row["snaplen"]), where
                    assert {10**6: "us", 10**9: "ns"}[interface.units_per_second] == row["res"], where
        checked += 1
    assert checked > 200


@needs_corpus
def test_times_and_lengths_as_tshark_says():
    # Left out: captures whose microseconds are 10**6 or more, where tshark's 32-bit product wraps, and times beyond
    # TIME_MAX_NS, which are saturated here.
    odd = {"tcpdump/tests/timestamp_invalid_micro.pcap", "tcpflow/tests/bug8.pcap"}
    odd.add("PcapPlusPlus/Tests/Pcap++Test/PcapExamples/pcapng-example.pcapng")
    rows = [
        row
        for row in oracle_rows()
        if row["format"] in ("pcap", "pcapng") and not row["compressed"] and row["path"] not in odd
        and 0 < int(row["tcp_frames"] or 0) < 1000 and not Path(row["path"]).name.startswith(CUSTOM_BLOCKS)
    ]  # fmt: skip
    fine = [r for r in rows if r["res"] == "ns" or r["format"] == "pcapng"]
    compared = 0
    for row in sample(rows, 60) + sample(fine, 40):
        frames = read(CORPUS / row["path"]).frames
        with gzip.open(ORACLE / "tshark" / (row["path"] + ".tsv.gz"), "rt", newline="") as handle:
            for line in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE):
                frame = frames[int(line["frame"]) - 1]
                where = (row["path"], line["frame"])
                assert int(frame["time_ns"]) == int(Decimal(line["time_epoch"] or "0") * S), where
                assert int(frame["wire"]) == int(line["frame_len"]), where
                assert int(frame["captured"]) == int(line["cap_len"]), where
                compared += 1
    assert compared > 1000
