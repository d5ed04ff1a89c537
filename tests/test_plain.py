"""The module `decode.plain`: the short way for the frames that most captures consist of.

It may say nothing that the long way would not. `decode_rare` goes the long way through every frame whose row has the
verdict DEFERRED, so it is the oracle here: rows are compared octet by octet.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from exchange import (
    ACK,
    ETHER_IPV4,
    ETHER_IPV6,
    LINK_ETHERNET,
    LINK_IPV4,
    SYN,
    TCP,
    UDP,
    ethernet,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from traceflow.compiled import COMPILED
from traceflow.decode import decode_rows
from traceflow.decode.octets import DEFERRED
from traceflow.decode.rare import decode_rare
from traceflow.duplicates import REACH, DuplicateFinder
from traceflow.errors import TraceflowError
from traceflow.options import Options
from traceflow.packets import FRAGMENT, FRAME, PACKET, QUOTES
from traceflow.sources import open_source

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
A, B = "10.0.0.1", "10.0.0.2"
HEADERS = 54  # Ethernet 14, IPv4 20, TCP 20
VXLAN, GTP_U = 4789, 2152
OPTIONS = struct.pack(">BBH", 2, 4, 1460) + bytes([4, 2, 3, 3, 7, 0])  # MSS, SACK permitted, window scale, end
DATAGRAM = udp(A, B, 1024, 53, b"question")

PLAIN = {
    "ack": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80, seq=7, ack=9)), ETHER_IPV4),
    "numbers of 0": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80)), ETHER_IPV4),
    "padded": ethernet(ipv4(B, A, TCP, tcp(B, A, 80, 1024, seq=2**32 - 1)), ETHER_IPV4) + bytes(6),
    "data": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80, flags=ACK | 8, payload=b"GET / HTTP")), ETHER_IPV4),
    "syn": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80, flags=SYN, options=OPTIONS)), ETHER_IPV4),
    "options": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80, options=bytes(12), payload=b"x")), ETHER_IPV4),
    "datagram": ethernet(ipv4(A, B, UDP, DATAGRAM), ETHER_IPV4),
    "length of 8 and padding": ethernet(ipv4(A, B, UDP, udp(A, B, 5, 6)), ETHER_IPV4) + bytes(18),
}
OTHERS = {
    "options of IPv4": ethernet(ipv4(A, B, UDP, DATAGRAM, options=bytes(4)), ETHER_IPV4) + bytes(20),
    "fragment": ethernet(ipv4(A, B, UDP, DATAGRAM, more=True), ETHER_IPV4) + bytes(20),
    "later fragment": ethernet(ipv4(A, B, UDP, DATAGRAM, fragment=8), ETHER_IPV4) + bytes(20),
    "length of 0": ethernet(ipv4(A, B, UDP, DATAGRAM, total=0), ETHER_IPV4) + bytes(20),
    "longer than sent": ethernet(ipv4(A, B, UDP, DATAGRAM, total=500), ETHER_IPV4) + bytes(20),
    "tunnel": ethernet(ipv4(A, B, UDP, udp(A, B, 5, VXLAN, bytes(40))), ETHER_IPV4),
    "answer of a tunnel": ethernet(ipv4(A, B, UDP, udp(A, B, GTP_U, 5, bytes(40))), ETHER_IPV4),
    "vlan": ethernet(ipv4(A, B, UDP, DATAGRAM), ETHER_IPV4, tags=[(0x8100, 5)]) + bytes(20),
    "version 6": ethernet(ipv6("::1", "::2", UDP, udp("::1", "::2", 5, 6)), ETHER_IPV6),
    "icmp": ethernet(ipv4(A, B, 1, bytes(30)), ETHER_IPV4),
    "short": ethernet(ipv4(A, B, TCP, tcp(A, B, 1024, 80)), ETHER_IPV4)[:-1],
}
Frames = list[tuple[bytes, int, int]]
"""Octets captured, octets on the wire, link type."""


def laid_out(frames: Frames, gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Buffer and FRAME rows; `gap` octets follow every frame, the last one too."""
    rows, buffer = np.zeros(len(frames), FRAME), bytearray()
    for row, (octets, wire, link) in zip(rows, frames, strict=True):
        row["start"], row["captured"], row["wire"], row["link"] = len(buffer), len(octets), wire, link
        buffer += octets + b"\x45" * gap
    return np.frombuffer(bytes(buffer) or b"\0", np.uint8), rows


def assert_same(octets: np.ndarray, frames: np.ndarray, *, outer: bool = False) -> np.ndarray:
    """Decode both ways; returns the signatures, which are 0 where the short way was not taken."""
    signatures = np.full(len(frames), 0xA5, np.uint64)
    rows, bits = decode_rows(octets, frames, filled(len(frames), 0xFF), signatures=signatures, outer=outer)
    long = np.zeros(len(frames), PACKET)
    long["verdict"] = DEFERRED
    found = int(decode_rare(octets, frames, long, np.zeros(2, PACKET), outer, len(frames)))
    for number in np.flatnonzero(rows != long):
        row = frames[number]
        frame = octets[row["start"] : row["start"] + row["captured"]].tobytes().hex()
        assert rows[number].item() == long[number].item(), (frame, row["wire"], row["link"], outer)
    assert bits == found & (FRAGMENT | QUOTES)
    return signatures


def filled(count: int, octet: int) -> np.ndarray:
    """Rows that hold something already."""
    return np.full(count * PACKET.itemsize, octet, np.uint8).view(PACKET)


@pytest.mark.parametrize("gap", [0, HEADERS])
def test_which_frames_are_plain(gap: int) -> None:
    """All of PLAIN, and none of OTHERS."""
    frames = [(octets, len(octets), LINK_ETHERNET) for octets in [*PLAIN.values(), *OTHERS.values()]]
    signatures = assert_same(*laid_out(frames, gap))
    assert [name for name, signature in zip([*PLAIN, *OTHERS], signatures, strict=True) if signature] == list(PLAIN)


def test_tunnels_are_plain_where_they_are_not_opened() -> None:
    frames = [(OTHERS["tunnel"], len(OTHERS["tunnel"]), LINK_ETHERNET)]
    assert assert_same(*laid_out(frames), outer=True).all()
    assert not assert_same(*laid_out(frames)).any()


def test_only_ethernet_is_plain() -> None:
    """A frame of raw IP whose octets look like Ethernet and IPv4 from its 15th octet on."""
    assert not assert_same(*laid_out([(PLAIN["ack"], HEADERS, LINK_IPV4)])).any()


def test_a_short_frame_at_the_end_of_the_buffer_goes_the_long_way() -> None:
    """The short way loads 54 octets; a datagram may have 42, and nothing behind it. Its row is the same."""
    shortest = ethernet(ipv4(A, B, UDP, udp(A, B, 5, 6)), ETHER_IPV4)
    assert len(shortest) == 42
    for gap in range(14):
        assert assert_same(*laid_out([(shortest, 42, LINK_ETHERNET)], gap)).all() == (gap >= 12)


@pytest.mark.parametrize("name", PLAIN)
def test_every_octet_of_a_header_may_be_anything(name: str) -> None:
    """Each of the 54 octets in turn takes every value (plain kernels: five of them)."""
    octets = PLAIN[name]
    frames: Frames = []
    for at in range(HEADERS):
        for value in range(256) if COMPILED else (0, 1, 0x50, 0x80, 0xFF):
            frames.append((octets[:at] + bytes([value]) + octets[at + 1 :], len(octets), LINK_ETHERNET))
    for outer in (False, True):
        assert_same(*laid_out(frames), outer=outer)


@pytest.mark.parametrize("name", PLAIN)
def test_a_frame_may_be_cut_anywhere(name: str) -> None:
    """Captured up to each octet, and sent so far as well, whole, or longer than IP says."""
    octets = PLAIN[name]
    frames = [
        (octets[:captured], wire, LINK_ETHERNET)
        for captured in range(len(octets) + 1)
        for wire in (0, captured, len(octets), 2 * len(octets))
    ]
    assert_same(*laid_out(frames, HEADERS))


def words(at: int) -> st.SearchStrategy[tuple[int, bytes]]:
    """Two octets that are put somewhere: lengths, offsets, ports and flags that contradict the rest of the frame."""
    some = st.sampled_from([0, 20, 28, 40, 41, 60, 0x2000, 0x4000, 0x5010, 0x5002, 0x6002, 0xF002, VXLAN, GTP_U])
    return st.tuples(st.just(at), (some | st.integers(0, 65535)).map(lambda value: value.to_bytes(2, "big")))


@settings(max_examples=300 if COMPILED else 20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted({**PLAIN, **OTHERS})),
            st.lists(st.integers(12, HEADERS - 2).flatmap(words), max_size=4),
            st.integers(0, 90),
            st.integers(0, 200),
        ),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
    st.sampled_from([0, 1, 60]),
)
def test_the_short_way_says_what_the_long_one_says(
    made: list[tuple[str, list[tuple[int, bytes]], int, int]], outer: bool, gap: int
) -> None:
    frames: Frames = []
    for name, changes, captured, wire in made:
        octets = bytearray({**PLAIN, **OTHERS}[name])
        for at, value in changes:
            octets[at : at + 2] = value
        frames.append((bytes(octets[:captured]), wire, LINK_ETHERNET))
    assert_same(*laid_out(frames, gap), outer=outer)


def test_all_fixtures_are_read_the_same_both_ways() -> None:
    paths = sorted(FIXTURES.glob("*.pcap*"))
    plain = 0
    for path in paths[:: 1 if COMPILED else 2]:
        try:
            with open_source(path) as captures:
                for batch in captures.batches():
                    for outer in (False, True):
                        plain += int((assert_same(batch.octets, batch.frames, outer=outer) != 0).sum())
        except TraceflowError:  # a broken file; what was read of it was compared
            continue
    assert plain > 200, "there are plain frames in them"


@pytest.mark.parametrize("gap", [0, 60])
def test_a_signature_does_not_depend_on_the_way(gap: int) -> None:
    """What decode writes for plain frames is what the search for duplicates finds for them itself."""
    octets, frames = laid_out([(frame, len(frame), LINK_ETHERNET) for frame in PLAIN.values()], gap)
    finder = DuplicateFinder(Options())
    signatures = finder.signatures(len(frames))
    packets, _ = decode_rows(octets, frames, np.zeros(len(frames), PACKET), signatures=signatures)
    short = signatures.copy()
    assert short.all()
    assert len(set(short.tolist())) == len(PLAIN)
    finder.mark(octets, frames, packets)
    # the batch had fewer frames than are remembered: its signatures are the last of those in front
    np.testing.assert_array_equal(finder._signatures[REACH - len(frames) : REACH], short)
