"""Templates: what they write is what the renderers write of the same frames, octet by octet, whatever the frames are.

The renderers are the oracle: `dictdump.render_document` of the records of the same frames. Kernels that are plain
Python take milliseconds a frame, so there the same tests run over fewer frames.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exchange
import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.compiled import COMPILED
from traceflow.decode import decode_batch
from traceflow.errors import TraceflowError
from traceflow.packets import FRAME, PACKET, Interface
from traceflow.sinks import templates_learn
from traceflow.sinks.dictdump import render_document
from traceflow.sinks.perflow import frame_blocks
from traceflow.sinks.templates import FIRST, LAST, Templates
from traceflow.sources import open_source

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FORMATS = ("json", "plist", "tree")
ETHERNET = Interface("a.pcap", 0, 1, 0, 10**6, "little")
NAMED = Interface("a.pcap", 0, 1, 0, 10**9, "little", '7777777777777777 \0 "eth0" \ud800')

Frames = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def rows_of(given_frames: list[tuple[bytes, dict[str, int]]]) -> Frames:
    """Octets and FRAME rows of frames that are given as octets and columns."""
    rows = np.zeros(len(given_frames), FRAME)
    start = 0
    for row, (octets, columns) in zip(rows, given_frames, strict=True):
        row["start"], row["captured"], row["wire"], row["link"] = start, len(octets), len(octets), 1
        for name, value in columns.items():
            row[name] = value
        start += len(octets)
    return np.frombuffer(b"".join(octets for octets, _ in given_frames), np.uint8), rows


def both(templates: Templates, fmt: str, frames: Frames, interfaces: list[Interface], first: int = 1) -> None:
    """Have one document written both ways and hold the results against each other."""
    octets, rows = frames
    packets = decode_batch(octets, rows, np.zeros(len(rows), PACKET))
    numbers = np.arange(first, first + len(rows), dtype=np.uint32)
    marks = np.zeros(len(rows), np.uint8)
    marks[0] |= FIRST
    marks[-1] |= LAST
    view, ends = templates.render(octets, rows, packets, numbers, marks)
    assert ends[-1] == len(view)
    expected = b"".join(render_document(fmt, frame_blocks(numbers, octets, rows, packets, interfaces)))
    assert bytes(view) == expected


def captured(path: Path) -> Iterator[tuple[Frames, list[Interface]]]:
    """The batches of a capture."""
    try:
        with open_source(path) as captures:
            for batch in captures.batches():
                if len(batch.frames):
                    yield (batch.octets, batch.frames), captures.interfaces
    except TraceflowError:
        pass  # what comes before a fault counts


ALL = sorted(FIXTURES.glob("*.pcap*"))


@pytest.mark.parametrize("fmt", FORMATS)
def test_fixtures(fmt: str) -> None:
    """Every template is learned from the first frame that has its shape."""
    filled = frames = 0
    chosen = ALL if COMPILED and fmt == "json" else ALL[:: 5 if COMPILED else 10]
    for path in chosen:
        for batch, interfaces in captured(path):
            templates = Templates(fmt, interfaces, learn_after=1)
            both(templates, fmt, batch, interfaces)
            filled += templates.filled
            frames += len(batch[1])
    assert 0.5 * frames < filled < frames


BASES = [
    (bytes(batch[0][int(row["start"]) : int(row["start"]) + int(row["captured"])]), int(row["link"]))
    for name in (
        "http", "T20a", "T21c", "vlan-stacks", "links-ethernet", "links-sll", "links-sll2", "links-null-big",
        "links-raw", "other-protocols", "ipv6-extensions", "ipv4-options", "padding", "fragments", "T24",
    )
    for batch, _ in captured(FIXTURES / f"{name}.pcap")
    for row in batch[1][:12]
]  # fmt: skip
"""Frames of all kinds: octets and link type."""

TEMPLATES = {fmt: Templates(fmt, [ETHERNET, NAMED], learn_after=1) for fmt in FORMATS}
"""Kept over all examples: a template learned of one frame writes those that come later."""

mutated = st.builds(
    lambda base, flips, cut, more, columns: (base, flips, cut, more, columns),
    st.sampled_from(BASES),
    st.lists(st.integers(0, 100 * 8 - 1), max_size=5),
    st.none() | st.integers(0, 120),
    st.binary(max_size=20),
    st.fixed_dictionaries(
        {
            "wire": st.integers(-3, 70000),
            "time_ns": st.integers(-(2**62), 2**62) | st.integers(-5, 10**10),
            "time_bits": st.integers(0, 3),
            "interface": st.integers(0, 1),
        }
    ),
)


def changed(base: tuple[bytes, int], flips: list[int], cut: int | None, more: bytes) -> bytes:
    """A frame with some bits of its headers flipped, cut, and with more octets behind it."""
    octets = bytearray(base[0])
    for bit in flips:
        if bit // 8 < len(octets):
            octets[bit // 8] ^= 0x80 >> bit % 8
    return bytes(octets[:cut]) + more


@settings(max_examples=examples(250, plain=60), deadline=None)
@given(fmt=st.sampled_from(FORMATS), given_frames=st.lists(mutated, min_size=1, max_size=3 if COMPILED else 1))
def test_mutated_frames(fmt: str, given_frames: list[Any]) -> None:
    frames = []
    for base, flips, cut, more, columns in given_frames:
        octets = changed(base, flips, cut, more)
        wire = max(0, len(octets) + columns["wire"]) if columns["wire"] < 20 else columns["wire"]
        frames.append((octets, {**columns, "wire": wire, "link": base[1]}))
    both(TEMPLATES[fmt], fmt, rows_of(frames), [ETHERNET, NAMED])


@pytest.mark.parametrize("fmt", FORMATS)
def test_many_mutated_frames(fmt: str) -> None:
    """Frames of few shapes with all else random: most are written by templates."""
    chance = random.Random(7)
    frames = []
    for _ in range(3000 if COMPILED else 150):
        base = chance.choice(BASES[:12])
        flips = [chance.randrange(14 * 8, 54 * 8) for _ in range(chance.randrange(3))]
        more = chance.randbytes(chance.choice((0, 0, 0, 1, 6, 300)))
        columns = {"time_ns": chance.getrandbits(chance.randrange(1, 62)), "link": base[1]}
        frames.append((changed(base, flips, None, more), {**columns, "wire": 100_000 if chance.random() < 0.1 else 0}))
    templates = Templates(fmt, [ETHERNET], learn_after=1)
    both(templates, fmt, rows_of(frames), [ETHERNET], first=2**32 - 3500)
    assert templates.filled > 0.4 * len(frames)


def udp(payload: bytes, src: str = "10.0.0.1", dst: str = "10.0.0.2") -> bytes:
    """A UDP datagram over Ethernet."""
    packet = exchange.ip(src, dst, exchange.UDP, exchange.udp(src, dst, 1000, 53, payload))
    return exchange.ethernet(packet, exchange.ETHER_IPV6 if ":" in src else exchange.ETHER_IPV4)


HARD = [
    b"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xef\xbf\xbd",  # characters of two, three, four octets; U+FFFD itself
    b"\xed\xa0\x80\xed\x9f\xbf\xee\x80\x80",  # a surrogate is none; the last before and the first behind them
    b"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\xf4\x90\x80\x80\xf5",  # U+10000, U+10FFFF, beyond
    b"\xe0\x80\x80\xe0\xa0\xf0\x80\xf0\x90\x80a",  # too long, cut short
    bytes(range(256)),
    bytes(range(255, -1, -1)) * 2,
    b'a"\\/\b\f\n\r\t\x7f\x00\x1f' * 3,
    b"plain text, eight octets at once, and some more",
    *(b"\xe4\xb8\xad\xf0\x9f\x98\x80"[:size] for size in range(8)),
    *(b"0123456789abcdef" * 3 for _ in range(1)),
    *(bytes(size) for size in (1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 48, 49)),
]


@pytest.mark.parametrize("fmt", FORMATS)
def test_payloads_that_need_escapes(fmt: str) -> None:
    templates = Templates(fmt, [ETHERNET], learn_after=1)
    both(templates, fmt, rows_of([(udp(payload), {}) for payload in HARD]), [ETHERNET])
    assert templates.filled == len(HARD)


ADDRESSES = [
    "::",
    "::1",
    "::2",
    "::1:2",
    "::ffff:192.0.2.1",
    "::ffff:0:1",
    "0:0:0:0:1::",
    "1::",
    "1::2",
    "1:0:0:2::",
    "1:0:2:0:3:0:4:0",
    "0:1:0:2:0:3:0:4",
    "1:0:0:2:0:0:0:3",
    "1:2:3:4:5:6:7:0",
    "0:2:3:4:5:6:7:8",
    "2001:db8::",
    "fe80::a:b:c:d",
    "ff02::1",
    "1:2:3:4:5:6:7:8",
    "::3:4:5:6:7:8",
    "64:ff9b::192.0.2.33",
]


def test_addresses_of_ipv6() -> None:
    """Every form that RFC 5952 tells apart; those with an IPv4 address in them are rendered one by one."""
    templates = Templates("json", [ETHERNET], learn_after=1)
    frames = [(udp(b"x", address, "2001:db8::1"), {}) for address in ADDRESSES]
    both(templates, "json", rows_of(frames), [ETHERNET])
    assert templates.filled == len(ADDRESSES) - 4  # ::2, ::1:2, ::ffff:192.0.2.1, ::ffff:0:1


def test_numbers_of_all_sizes() -> None:
    """Powers of ten and their neighbours, as times, frame numbers and lengths."""
    templates = Templates("json", [ETHERNET], learn_after=1)
    values = sorted({min(max(10**k + d, 0), 2**62) for k in range(19) for d in (-1, 0, 1)})
    frames = [(udp(b"x"), {"time_ns": value, "wire": max(43, value % 2**32)}) for value in values]
    for first in (1, 9, 99, 99_999_990, 2**32 - 100):
        both(templates, "json", rows_of(frames), [ETHERNET], first)
    assert templates.filled == 5 * len(frames)


def test_times_with_nine_digits_before_1970_and_none() -> None:
    templates = Templates("json", [ETHERNET], learn_after=1)
    times = [(10**18 + 7, 1), (10**18 + 7, 0), (-1, 0), (-(10**9), 1), (5, 2), (0, 0)]
    frames = [(udp(b"x"), {"time_ns": time, "time_bits": bits}) for time, bits in times]
    both(templates, "json", rows_of(frames), [ETHERNET])
    assert templates.filled == 4  # two are before 1970


def test_names_of_interfaces_do_not_confuse() -> None:
    """The name is hostile: it has what stands for the frame number in a template, and what stands for a value."""
    for fmt in FORMATS:
        templates = Templates(fmt, [NAMED], learn_after=1)
        both(templates, fmt, rows_of([(udp(b"x"), {}), (udp(b"yz"), {})]), [NAMED])
        assert templates.filled == 2


def test_a_template_is_learned_when_its_shape_is_frequent() -> None:
    templates = Templates("tree", [ETHERNET], learn_after=3)
    both(templates, "tree", rows_of([(udp(b"x"), {})] * 7), [ETHERNET])
    assert templates.filled == 5  # two are rendered one by one, with the third the template is learned


def test_a_document_may_come_in_parts_and_a_part_may_hold_many() -> None:
    frames = rows_of([(udp(bytes([at])), {}) for at in range(7)])
    octets, rows = frames
    packets = decode_batch(octets, rows, np.zeros(7, PACKET))
    numbers = np.arange(1, 8)
    marks = np.array([FIRST | LAST, FIRST, 0, LAST, FIRST, 0, LAST], np.uint8)
    for learn_after in (1, 100):
        for cuts in ([0, 7], [0, 2, 3, 6, 7]):
            templates = Templates("json", [ETHERNET], learn_after=learn_after)
            text = b""
            for start, stop in itertools.pairwise(cuts):
                part = slice(start, stop)
                text += bytes(templates.render(octets, rows[part], packets[part], numbers[part], marks[part])[0])
            expected = b""
            for start, stop in ((0, 1), (1, 4), (4, 7)):
                part = slice(start, stop)
                blocks = frame_blocks(numbers[part], octets, rows[part], packets[part], [ETHERNET])
                expected += b"".join(render_document("json", blocks))
            assert text == expected


def test_a_text_larger_than_the_buffer() -> None:
    """300 frames of 3000 octets that take 8 characters each, 7.2 MB; one by one and by templates."""
    frames = rows_of([(udp(bytes(3000)), {})] * (300 if COMPILED else 2))
    for learn_after in (1, 10**6):
        both(Templates("json", [ETHERNET], learn_after=learn_after), "json", frames, [ETHERNET])


def test_a_value_that_no_operation_gives_has_no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record with one more field, a sum of two octets: the shape is rendered one by one, and rightly."""
    whole = templates_learn.frame_record

    def with_sum(number: int, octets: bytes, *rows: Any) -> dict[str, Any]:
        return {**whole(number, octets, *rows), "sum": octets[0] + octets[6]}

    monkeypatch.setattr(templates_learn, "frame_record", with_sum)
    templates = Templates("json", [ETHERNET], learn_after=1)
    both(templates, "json", rows_of([(udp(b"x"), {})] * 3), [ETHERNET])
    assert templates.filled == 0


def test_more_shapes_than_there_is_room_for() -> None:
    """2100 kinds of unknown TCP options, each a shape: what comes when the tree is full is rendered one by one."""
    count = 2100 if COMPILED else 20
    segment = exchange.tcp("10.0.0.1", "10.0.0.2", 1, 2, flags=exchange.ACK, options=bytes(8))
    head = exchange.ethernet(exchange.ip("10.0.0.1", "10.0.0.2", exchange.TCP, segment), exchange.ETHER_IPV4)
    at = len(head) - 8
    frames = []
    for number in range(count):
        kinds = bytes([40 + number % 20, 2, 60 + number // 20, 2])
        frames.append((head[:at] + kinds + b"\1\1\1\1", {}))
    templates = Templates("json", [ETHERNET], learn_after=10**6)
    both(templates, "json", rows_of(frames), [ETHERNET])
