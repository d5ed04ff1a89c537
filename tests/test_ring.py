"""Blocks of the kernel's ring, laid out by hand: what is read of them, what is put back, and what is refused.

The layout is that of struct tpacket_block_desc, tpacket3_hdr and sockaddr_ll (linux/if_packet.h); numbers are in the
order of the machine, except for the protocol of the address, which is in network order.
"""

from __future__ import annotations

import struct
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from traceflow.compiled import U64
from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME
from traceflow.sources.ring import COOKED_1, COOKED_2, FAULTS, NO_VLAN, WALK, give_back, walk_block

BLOCK = 4096
MACS = bytes.fromhex("0200000000020200000000 01".replace(" ", ""))
IP = b"\x45" + bytes(19) + b"payload!"
FRAME_OF_ETHERNET = MACS + b"\x08\x00" + IP


def frame(
    octets: bytes = FRAME_OF_ETHERNET,
    *,
    seconds: int = 5,
    nano: int = 7,
    captured: int | None = None,
    wire: int | None = None,
    status: int = 1,
    tci: int = 0,
    tpid: int = 0,
    mac: int = 86,
    following: int | None = None,
    kind: int = 0,
    index: int = 3,
) -> bytes:
    """A frame with its headers: `following` is how far it is to the next one, of itself the next multiple of 16."""
    size = mac + len(octets)
    step = (size + 15) // 16 * 16
    header = struct.pack(
        "=6I2H2IH10x", step if following is None else following, seconds, nano,
        len(octets) if captured is None else captured, len(octets) if wire is None else wire, status, mac, mac + 14,
        0, tci, tpid,
    )  # fmt: skip
    address = struct.pack("=H2siHBB8s", 17, b"\x08\x00", index, 1, kind, 6, MACS[6:] + b"\0\0")
    return (header + address + bytes(mac - 68) + octets).ljust(step, b"\0")


def ring(*frames: bytes, count: int | None = None, first: int = 48, block_at: int = BLOCK) -> Any:
    """A ring of three blocks, of which the one at `block_at` holds the frames."""
    octets = np.zeros(3 * BLOCK, np.uint8)
    number = len(frames) if count is None else count
    block = struct.pack("=8I2Q", 1, 0, 1, number, first, 0, 0, 0, 0, 0)[:48] + b"".join(frames)
    octets[block_at : block_at + len(block)] = np.frombuffer(block, np.uint8)
    return octets


def walk_of(**facts: int) -> Any:
    """A WALK that begins."""
    walk = np.zeros(1, WALK)
    walk[0]["block"], walk[0]["snaplen"], walk[0]["vlan_at"], walk[0]["link"] = BLOCK, 262_144, 12, 1
    for name, value in facts.items():
        walk[0][name] = value
    return walk


def walked(octets: Any, walk: Any, rows: int = 8, block_at: int = BLOCK) -> tuple[Any, int]:
    """The rows of one call, and what was wrong."""
    frames = np.zeros(rows, FRAME)
    count, fault = walk_block(octets, octets.view(np.uint16), octets.view(np.uint32), U64(block_at), walk, frames)
    return frames[: int(count)], int(fault)


def content(octets: Any, row: Any) -> bytes:
    return bytes(octets[int(row["start"]) : int(row["start"]) + int(row["captured"])])


def test_frames_are_described_where_they_lie() -> None:
    second = MACS + b"\x86\xdd" + bytes(50)
    octets = ring(frame(), frame(second, seconds=2**32 - 1, nano=999_999_999, wire=1514))
    rows, fault = walked(octets, walk_of(interface=4, offset=1000))
    assert fault == 0
    # The first frame begins 48 + 86 octets into its block, is 42 long, and the next header 128 behind its own.
    assert rows["start"].tolist() == [BLOCK + 48 + 86, BLOCK + 48 + 128 + 86]
    assert [content(octets, row) for row in rows] == [FRAME_OF_ETHERNET, second]
    assert rows["time_ns"].tolist() == [5_000_000_007, 4_294_967_295_999_999_999]
    assert rows["wire"].tolist() == [42, 1514]
    assert rows["offset"].tolist() == [1000, 1042]
    assert (rows["interface"] == 4).all()
    assert (rows["link"] == 1).all()
    assert (rows["time_bits"] == FINER_THAN_MICROSECONDS).all()


def test_a_walk_goes_on_where_the_rows_were_full() -> None:
    octets = ring(*(frame(seconds=second) for second in range(5)))
    walk = walk_of()
    seen = []
    for more in (True, True, False):
        rows, fault = walked(octets, walk, rows=2)
        assert fault == 0
        seen += (rows["time_ns"] // 10**9).tolist()
        assert bool(walk[0]["at"]) is more
    assert seen == [0, 1, 2, 3, 4]


def test_frames_are_cut_to_the_snaplen() -> None:
    rows, _ = walked(ring(frame()), walk_of(snaplen=20))
    assert (rows[0]["captured"], rows[0]["wire"]) == (20, 42)


def test_an_empty_block_has_no_frame_and_no_fault() -> None:
    rows, fault = walked(ring(first=0), walk_of())
    assert (len(rows), fault) == (0, 0)


# --- VLAN tags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "tci", "tpid", "tag"),
    [
        (1 | 16 | 64, 0x2007, 0x88A8, "88a82007"),
        (1 | 16, 7, 0x1234, "81000007"),  # the TPID is not said to be valid: it is the usual one
        (1, 7, 0, "81000007"),  # kernels before 3.0 have no bit for it, and no tag 0
        (1 | 16, 0, 0, "81000000"),  # a priority tag with everything 0
    ],
)
def test_a_tag_is_put_back_behind_the_addresses(status: int, tci: int, tpid: int, tag: str) -> None:
    octets = ring(frame(status=status, tci=tci, tpid=tpid))
    rows, fault = walked(octets, walk_of())
    assert fault == 0
    assert content(octets, rows[0]) == MACS + bytes.fromhex(tag) + FRAME_OF_ETHERNET[12:]
    assert (rows[0]["captured"], rows[0]["wire"]) == (46, 46)


def test_a_frame_that_ends_before_its_tag_is_left_as_it_is() -> None:
    octets = ring(frame(MACS[:11], tci=7))
    rows, _ = walked(octets, walk_of())
    assert content(octets, rows[0]) == MACS[:11]


def test_a_tag_needs_room_and_a_place() -> None:
    rows, fault = walked(ring(frame(mac=71, tci=7)), walk_of())
    assert (len(rows), FAULTS[fault]) == (0, "there is no room for the VLAN tag or link header of a frame")
    rows, fault = walked(ring(frame(mac=71, tci=7)), walk_of(vlan_at=NO_VLAN))
    assert (len(rows), fault) == (1, 0)


# --- cooked frames and loopback --------------------------------------------------------------------------------


def test_cooked_headers() -> None:
    # Version 1: packet type, hardware type, length and octets of the address, protocol, each 16 bits but the address.
    octets = ring(frame(IP, kind=4, mac=100))
    rows, fault = walked(octets, walk_of(link=COOKED_1, vlan_at=14))
    assert fault == 0
    assert content(octets, rows[0]) == bytes.fromhex("0004000100060200000000010000 0800".replace(" ", "")) + IP
    assert (rows[0]["captured"], rows[0]["wire"], rows[0]["link"]) == (16 + 28, 16 + 28, 113)
    # Version 2: protocol, 0, index (32 bits), hardware type, then 8 bits each for packet type and length; address.
    octets = ring(frame(IP, kind=4, mac=100, index=0x10203))
    rows, fault = walked(octets, walk_of(link=COOKED_2, vlan_at=NO_VLAN))
    assert fault == 0
    assert content(octets, rows[0]) == bytes.fromhex("08000000000102030001040602000000 00010000".replace(" ", "")) + IP


def test_a_tag_of_a_cooked_frame_stands_before_its_protocol() -> None:
    octets = ring(frame(IP, mac=100, status=17, tci=7))
    rows, _ = walked(octets, walk_of(link=COOKED_1, vlan_at=14))
    assert content(octets, rows[0]) == bytes.fromhex("0000000100060200000000010000810000070800") + IP


def test_what_goes_out_on_loopback_is_left_out_and_nothing_else() -> None:
    frames = [frame(kind=kind, index=index, seconds=at) for at, (kind, index) in enumerate(((4, 1), (0, 1), (4, 3)))]
    walk = walk_of(loopback=1)
    rows, _ = walked(ring(*frames), walk)
    assert (rows["time_ns"] // 10**9).tolist() == [1, 2]
    assert walk[0]["skipped"] == 1
    rows, _ = walked(ring(*frames), walk_of())
    assert len(rows) == 3


# --- hostile headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "first", "count", "good", "says"),
    [
        ([frame()], 40, 1, 0, "its first frame does not begin inside of it"),
        ([frame()], 52, 1, 0, "its first frame does not begin inside of it"),
        ([frame()], BLOCK - 60, 1, 0, "its first frame does not begin inside of it"),
        ([frame()], 2**32 - 8, 1, 0, "its first frame does not begin inside of it"),
        ([frame(captured=BLOCK, wire=BLOCK)], 48, 1, 0, "the octets of a frame do not lie inside of it"),
        ([frame(captured=2**32 - 1, wire=2**32 - 1)], 48, 1, 0, "the octets of a frame do not lie inside of it"),
        ([frame(captured=BLOCK - 48 - 86 + 1, wire=BLOCK)], 48, 1, 0, "the octets of a frame do not lie inside of it"),
        ([frame(wire=41)], 48, 1, 0, "a frame was longer captured than it was on the wire"),
        ([frame(nano=10**9)], 48, 1, 0, "a time stamp has a second or more of nanoseconds"),
        ([frame(), frame()], 48, 3, 1, "a frame does not begin inside of it"),
        ([frame(following=127), frame()], 48, 2, 0, "a frame lies upon the one before it"),
        ([frame(following=0), frame()], 48, 2, 0, "a frame lies upon the one before it"),
        ([frame(following=132), frame()], 48, 2, 0, "a frame does not begin inside of it"),
        ([frame(following=2**32 - 16), frame()], 48, 2, 0, "a frame does not begin inside of it"),
    ],
)
def test_what_cannot_be_is_refused(frames: list[bytes], first: int, count: int, good: int, says: str) -> None:
    if count == 3:  # the second says that a third one follows where the block ends
        frames = [frames[0], frame(following=BLOCK - 48 - 128)]
    walk = walk_of()
    rows, fault = walked(ring(*frames, count=count, first=first), walk)
    assert (len(rows), FAULTS[fault]) == (good, says)
    assert walk[0]["at"] == 0, "the block is through"


def test_the_last_frame_may_fill_its_block() -> None:
    octets = ring(frame(captured=BLOCK - 48 - 86, wire=BLOCK))
    rows, fault = walked(octets, walk_of())
    assert (len(rows), fault) == (1, 0)


@hypothesis.given(st.binary(min_size=0, max_size=700), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_no_octets_make_it_read_or_write_elsewhere(junk: bytes, count: int, first: int) -> None:
    octets = ring(count=count, first=48 if first % 2 else first)
    octets[BLOCK + 48 : BLOCK + 48 + len(junk)] = np.frombuffer(junk, np.uint8)
    octets[:BLOCK] = octets[2 * BLOCK :] = 0xA5
    rows, _ = walked(octets, walk_of(link=COOKED_1, vlan_at=14), rows=4)
    ends = rows["start"].astype(np.int64) + rows["captured"]
    assert (rows["start"] >= BLOCK + 48).all()
    assert (ends <= 2 * BLOCK).all()
    assert (octets[:BLOCK] == 0xA5).all()
    assert (octets[2 * BLOCK :] == 0xA5).all()


def test_a_block_is_given_back() -> None:
    octets = ring(frame())
    words = octets.view(np.uint32)
    give_back(words, U64(BLOCK))
    # status and number of frames, 8 and 12 octets behind the start of the block
    assert words[(BLOCK + 8) // 4] == 0
    assert words[(BLOCK + 12) // 4] == 0
