"""The room `packets`: the vocabulary. What can be wrong here is a name, a number, or room in memory."""

from __future__ import annotations

import numpy as np

from traceflow import packets
from traceflow.packets import FRAME, PACKET, TIME_MAX_NS, Verdict


def test_verdicts_count_from_zero_without_gaps() -> None:
    """The table counts frames in an array with one place a Verdict."""
    assert [int(verdict) for verdict in Verdict] == list(range(len(Verdict)))
    assert Verdict.FLOW == 0


def test_texts_of_verdicts() -> None:
    """Lower case, with spaces, all different; these are what fixtures/expected.json and the account say."""
    assert [verdict.text for verdict in Verdict] == [
        "in flows",
        "not ip",
        "unsupported link",
        "truncated link",
        "truncated ip",
        "truncated ports",
        "malformed ip",
        "fragment without ports",
        "not tcp",
        "nested too deep",
        "bad ip checksum",
        "table full",
        "duplicate",
        "filtered",
    ]


def test_bits_are_single_and_different() -> None:
    """`time_bits` of FRAME and `bits` of PACKET are one octet each."""
    assert {packets.FINER_THAN_MICROSECONDS, packets.NO_TIME} == {1, 2}
    assert {packets.SEQ_KNOWN, packets.ACK_KNOWN, packets.FLAGS_KNOWN, packets.FRAGMENT} == {1, 2, 4, 8}


def test_columns_hold_what_their_fields_may_be() -> None:
    """Widths from RFC 791, 8200, 9293, IEEE 802.1Q, and the file formats (32-bit lengths, 64-bit offsets)."""
    widths = {name: PACKET[name].itemsize * 8 for name in PACKET.names or ()}
    for name, bits in {"seq": 32, "ack": 32, "window": 16, "src_port": 16, "vlan_outer": 16, "flags": 8}.items():
        assert widths[name] == bits
    for name in ("src_hi", "src_lo", "dst_hi", "dst_lo"):
        assert PACKET[name] == np.uint64
    assert (FRAME["captured"], FRAME["wire"], FRAME["offset"]) == (np.uint32, np.uint32, np.uint64)
    assert FRAME["link"] == np.uint16


def test_time_has_room_for_a_timeout() -> None:
    assert FRAME["time_ns"] == np.int64
    most = int(np.iinfo(np.int64).max)
    assert most >= TIME_MAX_NS + (TIME_MAX_NS - 1)
