"""The room `tcp`: flags, sequence arithmetic, and what a segment means for a boundary. RFC 9293."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from traceflow.compiled import U64
from traceflow.live import HOT, REST
from traceflow.packets import ACK_KNOWN, FLAGS_KNOWN, PACKET, SEQ_KNOWN
from traceflow.tcp import (
    ACK,
    BASE_KNOWN,
    CWR,
    ECE,
    FIN,
    FIN_SEEN,
    FLAG_NAMES,
    MORE_THAN_SYN,
    PSH,
    RST,
    SYN,
    URG,
    count_flags,
    flag_text,
    note_segment,
    opens_new_flow,
    sender_originates,
    sequence_difference,
    turns_direction,
)


@pytest.fixture(autouse=True, scope="module")
def as_in_a_kernel() -> Iterator[None]:
    """The pieces are called without their kernel here, so the error state that it gives plain Python is missing."""
    with np.errstate(over="ignore"):
        yield


ALL = SEQ_KNOWN | ACK_KNOWN | FLAGS_KNOWN


def segment(flags: int, seq: int = 0, ack: int = 0, bits: int = ALL) -> Any:
    row = np.zeros(1, PACKET)[0]
    row["flags"], row["seq"], row["ack"], row["bits"] = flags, seq, ack, bits
    return row


def half(**columns: int) -> Any:
    row = np.zeros(1, HOT)[0]
    for name, value in columns.items():
        row[name] = value
    return row


def rest(**flags: int) -> Any:
    row = np.zeros(1, REST)[0]
    for name, count in flags.items():
        row["flags"][FLAG_NAMES.index(name)] = count
    return row


def test_flag_bits_are_those_of_the_standard() -> None:
    """RFC 9293, 3.1, from the least significant bit: FIN SYN RST PSH ACK URG ECE CWR."""
    assert [FIN, SYN, RST, PSH, ACK, URG, ECE, CWR] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert FLAG_NAMES == ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (0x00, "........"),
        (0x02, "......S."),
        (0x12, "...A..S."),
        (0x18, "...AP..."),
        (0x11, "...A...F"),
        (0x04, ".....R.."),
        (0x20, "..U....."),
        (0xC2, "CE....S."),
        (0xFF, "CEUAPRSF"),
    ],
)
def test_flag_text(flags: int, text: str) -> None:
    """The letters and their order are those of tshark's tcp.flags.str, which has a middle dot for unset."""
    assert flag_text(flags) == text


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 2**32 - 1),
        (0, 2**32 - 1, 1),
        (2**32 - 1, 0, 2**32 - 1),
        (5, 2**32 - 5, 10),
        (2**31, 0, 2**31),
        (0, 2**31, 2**31),
    ],
)
def test_sequence_difference(a: int, b: int, difference: int) -> None:
    """RFC 9293, 3.4: modulo 2**32, whatever the type of the column."""
    for kind in (np.uint32, np.uint64, U64):
        assert int(sequence_difference(kind(a), kind(b))) == difference


def says(found: Any) -> bool:
    return bool(found)


@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, SYN | ACK | FIN, FIN, RST, RST | ACK, PSH, FIN | RST])
@pytest.mark.parametrize("closing", [True, False])
def test_only_a_syn_without_ack_opens(flags: int, closing: bool) -> None:
    assert not says(opens_new_flow(segment(flags, 5), half(packets=3, bits=7, base_seq=9), closing))


@pytest.mark.parametrize(
    ("sender", "seq", "opens"),
    [
        ({}, 5, False),  # its first segment
        ({"bits": BASE_KNOWN, "base_seq": 5}, 5, False),  # the number that the other side acknowledged
        ({"bits": BASE_KNOWN, "base_seq": 4}, 5, True),
        ({"packets": 1, "bits": BASE_KNOWN, "base_seq": 5}, 5, False),  # retransmission
        ({"packets": 1, "bits": BASE_KNOWN, "base_seq": 6}, 5, True),
        ({"packets": 9, "bits": BASE_KNOWN | MORE_THAN_SYN | FIN_SEEN, "base_seq": 5}, 5, False),
        ({"packets": 9, "bits": BASE_KNOWN, "base_seq": 2**32 - 1}, 0, True),
        ({"packets": 9, "bits": BASE_KNOWN, "base_seq": 2**32 - 1}, 2**32 - 1, False),
    ],
)
@pytest.mark.parametrize("closing", [True, False])
@pytest.mark.parametrize("flags", [SYN, SYN | ECE | CWR, SYN | FIN, SYN | RST])
def test_syn_with_a_number(sender: dict[str, int], seq: int, opens: bool, closing: bool, flags: int) -> None:
    """Flow-rules 4 and 5: its number alone decides, whatever the state."""
    assert says(opens_new_flow(segment(flags, seq), half(**sender), closing)) == opens


@pytest.mark.parametrize(
    ("sender", "closing", "opens"),
    [
        ({}, False, False),
        ({}, True, False),  # a buffer that has sent nothing yet
        ({"packets": 2}, False, False),  # only SYNs so far
        ({"packets": 2, "bits": MORE_THAN_SYN}, False, True),
        ({"packets": 2, "bits": FIN_SEEN}, False, True),
        ({"packets": 2}, True, True),
    ],
)
def test_syn_without_a_number(sender: dict[str, int], closing: bool, opens: bool) -> None:
    """The ten fields of the engine: a SYN on a buffer that has seen anything but SYNs, or has closed, opens."""
    assert says(opens_new_flow(segment(SYN, bits=FLAGS_KNOWN), half(**sender), closing)) == opens


def test_who_originates() -> None:
    """Flow-rules 2: all senders but that of a SYN+ACK."""
    assert [says(sender_originates(segment(flags))) for flags in (SYN, ACK, 0, RST | ACK, SYN | RST)] == [True] * 5
    assert [says(sender_originates(segment(flags))) for flags in (SYN | ACK, SYN | ACK | PSH, 0xFF)] == [False] * 3


@pytest.mark.parametrize(
    ("flags", "from_originator", "turns"),
    [(SYN, False, True), (SYN, True, False), (SYN | ACK, True, True), (SYN | ACK, False, False), (ACK, False, False)],
)
def test_first_syn_may_turn_the_direction(flags: int, from_originator: bool, turns: bool) -> None:
    assert says(turns_direction(segment(flags), rest(), rest(), from_originator)) == turns
    assert not says(turns_direction(segment(flags), rest(syn=1), rest(), from_originator)), "not the first SYN"
    assert not says(turns_direction(segment(flags), rest(), rest(syn=1), from_originator))


@pytest.mark.parametrize(("flags", "seq", "base"), [(SYN, 5, 5), (ACK, 5, 4), (ACK, 0, 2**32 - 1), (SYN | ACK, 0, 0)])
def test_base_of_the_sender(flags: int, seq: int, base: int) -> None:
    """The number of its first segment, minus one in mid-connection."""
    sender = half()
    note_segment(segment(flags, seq), sender, half())
    assert (sender["base_seq"], sender["bits"] & BASE_KNOWN) == (base, BASE_KNOWN)
    note_segment(segment(ACK, 77), sender, half())
    assert sender["base_seq"] == base, "the first one stays"


@pytest.mark.parametrize(("ack", "base"), [(5, 4), (0, 2**32 - 1)])
def test_base_of_the_receiver(ack: int, base: int) -> None:
    receiver = half()
    note_segment(segment(ACK, 1, ack), half(), receiver)
    assert (receiver["base_seq"], receiver["bits"]) == (base, BASE_KNOWN)
    note_segment(segment(ACK, 1, 1000), half(), receiver)
    assert receiver["base_seq"] == base


@pytest.mark.parametrize(("flags", "bits"), [(RST, ALL), (ACK, SEQ_KNOWN | FLAGS_KNOWN), (SYN, ALL)])
def test_no_base_of_the_receiver_without_an_acknowledgment(flags: int, bits: int) -> None:
    receiver = half()
    note_segment(segment(flags, 1, 5, bits), half(), receiver)
    assert receiver["bits"] == 0


def test_nothing_is_noted_of_unknown_flags() -> None:
    """A header cut behind the sequence number: whether it was a SYN is not known, so no base can be."""
    sender, receiver = half(), half()
    assert [says(x) for x in note_segment(segment(0, 5, 6, SEQ_KNOWN), sender, receiver)] == [False, False]
    assert (sender["bits"], receiver["bits"]) == (0, 0)


def test_what_closes() -> None:
    """FIN from both sides, or a RST from either."""
    a, b = half(), half()

    def closes(flags: int, sender: Any, receiver: Any) -> list[bool]:
        return [says(x) for x in note_segment(segment(flags, 5, 6), sender, receiver)]

    assert closes(SYN, a, b) == [False, False]
    assert closes(FIN | ACK, a, b) == [False, False]
    assert closes(FIN | ACK, a, b) == [False, False], "twice from one side is not from both"
    assert closes(ACK, b, a) == [False, False]
    assert closes(FIN | ACK, b, a) == [True, False]
    assert closes(ACK, a, b) == [True, False]
    assert closes(RST, half(), half()) == [False, True]


def test_more_than_syn() -> None:
    sender = half()
    note_segment(segment(SYN), sender, half())
    assert not sender["bits"] & MORE_THAN_SYN
    note_segment(segment(SYN | ACK), sender, half())
    assert not sender["bits"] & MORE_THAN_SYN
    note_segment(segment(ACK), sender, half())
    assert sender["bits"] & MORE_THAN_SYN


def test_flags_are_counted() -> None:
    """All 256 combinations once: each flag is set in 128. PSH stands in HOT, and ACK counts those without it."""
    hot, cold = half(), rest()
    for flags in range(256):
        count_flags(segment(flags), hot, cold)
    assert hot["psh"] == 128
    wanted = [128] * 8
    wanted[FLAG_NAMES.index("psh")] = 0
    assert cold["flags"].tolist() == wanted


def test_segments_without_ack_are_counted_on() -> None:
    """Those with ACK are the others, so this counter has no end: it goes on in the place of PSH."""
    hot, cold = half(), rest(ack=2**32 - 2)
    for flags in (SYN, PSH, ACK, 0):
        count_flags(segment(flags), hot, cold)
    assert cold["flags"].tolist() == [0, 1, 0, 2, 2**32 - 1, 0, 0, 0]


def test_counters_of_rare_flags_stay_at_their_end() -> None:
    """32 bits each: what would begin anew at 0 stays."""
    hot, cold = half(), rest(fin=2**32 - 2, urg=2**32 - 1)
    for _ in range(3):
        count_flags(segment(FIN | URG | ACK), hot, cold)
    assert cold["flags"].tolist() == [2**32 - 1, 0, 0, 0, 0, 2**32 - 1, 0, 0]
