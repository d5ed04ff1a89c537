"""The room `filters/bpf`: expressions over batches, held against tcpdump, and what is wrong for which link type.

Frames are counted by hand beside each test; `tcpdump -r FILE EXPR` says the same of all captures of fixtures/ that are
named here, and of the corpus in corpus/test_tcpdump_corpus.py.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from exchange import (
    LINK_ETHERNET,
    UDP,
    Exchange,
    Wire,
    ipv4,
    link_frame,
    udp,
)  # fmt: skip
from tcpdump_oracle import EXPRESSIONS, TCPDUMP, Found, compare

from traceflow.errors import LibraryMissingError, UsageError
from traceflow.filters.bpf import BPF, Expression
from traceflow.filters.contract import ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.loading import load_expression
from traceflow.libpcap import ExpressionError, library
from traceflow.packets import FRAME, PACKET, Batch


@pytest.fixture(autouse=True, scope="module")
def _present() -> None:
    try:
        library()
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")


def batch_of(*frames: tuple[bytes, int]) -> Batch:
    """A batch of frames, each with its link type."""
    rows, buffer = np.zeros(len(frames), FRAME), b""
    for row, (octets, link) in zip(rows, frames, strict=True):
        row["start"], row["captured"], row["wire"], row["link"] = len(buffer), len(octets), len(octets), link
        buffer += octets
    return Batch(np.frombuffer(buffer or b"\0", np.uint8), rows, 1, 1)


QUERY = ipv4("10.0.0.1", "10.0.0.2", UDP, udp("10.0.0.1", "10.0.0.2", 1000, 53, b"?"))
ANSWER = ipv4("10.0.0.2", "10.0.0.1", UDP, udp("10.0.0.2", "10.0.0.1", 53, 1000, b"!"))


def on(link: int, packet: bytes = QUERY, order: str = "little") -> tuple[bytes, int]:
    return link_frame(link, packet, byteorder=order), link


def test_frames_of_several_link_types() -> None:
    """Queries and answers in turn on three link types; only queries go to port 53."""
    batch = batch_of(*(on(link, packet) for link in (1, 101, 1, 113) for packet in (QUERY, ANSWER)))
    expression = Expression("udp dst port 53")
    assert expression.keep(batch).tolist() == [True, False] * 4
    assert (expression.judged, expression.unjudged, expression.failures) == (8, 0, {})
    assert expression.program(1) is expression.program(1)
    assert len(expression.program(101)) != len(expression.program(113))


def test_an_empty_expression_and_an_empty_batch() -> None:
    assert Expression("").keep(batch_of(on(1), on(0))).tolist() == [True, True]
    assert Expression("udp").keep(batch_of()).tolist() == []


def test_the_byte_order_of_the_capturing_machine() -> None:
    """BSD loopback, written in either order, a frame of two octets, and a family that is neither."""
    odd = b"\1\2\3\4" + QUERY
    batch = batch_of(on(0), on(0, QUERY, "big"), (b"\0\0", 0), (odd, 0), (b"\0\0\0", 0))
    assert Expression("udp").keep(batch).tolist() == [True, True, False, False, False]
    assert Expression("not ip").keep(batch).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]  # a short frame matches nothing
    assert Expression("udp").select(batch, np.array([1], np.uint32), np.array([24], np.uint32)).tolist() == [True]


def test_limits_are_the_end_of_what_is_looked_at() -> None:
    """Ethernet 14, IPv4 20, the destination port ends 4 further on: 38. `len` stays the length on the wire."""
    batch, indexes = batch_of(on(1), on(1), on(1)), np.array([0, 1, 2], np.uint32)
    limits = np.array([38, 37, 4000], np.uint32)
    assert Expression("udp dst port 53").select(batch, indexes, limits).tolist() == [True, False, True]
    assert Expression("len = 43").select(batch, indexes, limits).tolist() == [True] * 3  # 14 + 20 + 8 + 1


# --- what is wrong, and for which link type ------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [
    ("tcp port 80 foo", "syntax error"),
    ("port 70000", "illegal port number"),
    ("ip host 1::2", "'ip' modifier applied to ip6 host"),
    ("ether host 1.2.3", "illegal link layer address"),
    ("x" * 5000, "may have 4096"),
    ("tcp and\0udp", "NUL"),
])  # fmt: skip
def test_wrong_for_all_link_types(text: str, words: str) -> None:
    for make in (Expression, load_expression):
        with pytest.raises(UsageError, match=words) as caught:
            make(text)
        assert not isinstance(caught.value, ExpressionError)


def test_wrong_for_some_link_types() -> None:
    """`wlan` says nothing of Ethernet: its frames do not go on, and that is said once."""
    expression = Expression("wlan type data or udp")
    radio = b"\x08" + bytes(23), 105  # type 2 in bits 2 and 3 of octet 0
    for _ in range(2):
        assert expression.keep(batch_of(on(1), radio, on(1))).tolist() == [False, True, False]
    assert (expression.judged, expression.unjudged, list(expression.failures)) == (2, 4, [1])
    assert "link type 1: 802.11 link-layer types supported only on 802.11" in str(expression.failures[1])
    with pytest.raises(ExpressionError):
        expression.program(1)


def test_what_a_file_does_not_know_is_refused() -> None:
    """Linux cooked captures say which way a frame went (packet type 4: outgoing); Ethernet does not."""
    cooked = struct.pack(">HHH8sH", 4, 1, 6, bytes(8), 0x800) + QUERY
    expression = Expression("outbound")
    back = b"\0\0" + cooked[2:]  # 0: to this machine
    assert expression.keep(batch_of((cooked, 113), (back, 113), on(1))).tolist() == [True, False, False]
    assert "reading savefiles" in str(expression.failures[1])


def test_nothing_can_match_is_an_answer() -> None:
    """Raw IP has no ARP: libpcap calls that an error, and it is none of the user's."""
    expression = Expression("arp")
    assert expression.keep(batch_of(on(101), on(101))).tolist() == [False, False]
    assert (expression.judged, expression.failures) == (2, {})


def test_a_link_type_that_libpcap_does_not_know() -> None:
    expression = Expression("len > 1")
    assert expression.keep(batch_of((QUERY, 9999), on(1))).tolist() == [False, True]
    assert "unknown data link type 9999" in str(expression.failures[9999])


def test_a_program_that_is_too_long() -> None:
    """580 loads behind a header of any length, as that of 802.11 is, are more than 4096 instructions."""
    expression = Expression("+".join(["tcp[0]"] * 580) + "=1")
    assert len(expression.program(105)) > 4096
    assert expression.keep(batch_of((bytes(60), 105))).tolist() == [False]
    assert "use a shorter or simpler expression" in str(expression.failures[105])


# --- the kind of filter ---------------------------------------------------------------------------------------------


def test_the_kind() -> None:
    assert (BPF.name, BPF.predicate, BPF.memory, BPF.needs_flows) == ("BPF", True, (), False)
    assert BPF.canonical("  tcp   port\n80 ") == "tcp port 80"
    for wrong, words in (("", "needs an expression"), (" ", "needs an expression"), ("tcp foo", "syntax error")):
        with pytest.raises(ParameterError, match=words):
            BPF.canonical(wrong)


def test_the_runner() -> None:
    batch = batch_of(on(1), on(1, ANSWER), on(1), on(1, ANSWER))
    seen, runner = Seen(batch, np.zeros(4, PACKET)), BPF.make(Call("BPF", "udp dst port 53"))
    some = Selection(np.array([1, 2, 3], np.uint32), np.array([99, 40, 99], np.uint32))
    passed = runner.run(seen, some)
    assert (passed.indexes.tolist(), passed.limit.tolist()) == ([2], [40])
    assert runner.run(seen, passed) is passed
    assert runner.run(seen, Selection(np.array([1], np.uint32))).indexes.tolist() == []
    assert runner.counters() == {}


def test_a_runner_of_the_wrong_link_type() -> None:
    """It cannot go on where the first packet cannot be judged; later ones are counted, however the batches lie."""
    radio = b"\x08" + bytes(23), 105
    both = batch_of(radio, on(1)), batch_of(on(1), radio)
    everything = Selection(np.array([0, 1], np.uint32))
    runner = BPF.make(Call("BPF", "wlan type data"))
    assert runner.run(Seen(both[0], np.zeros(2, PACKET)), everything).indexes.tolist() == [0]
    assert runner.run(Seen(both[1], np.zeros(2, PACKET)), everything).indexes.tolist() == [1]
    assert runner.counters() == {"unjudged": 2}
    with pytest.raises(ExpressionError, match=r"802\.11"):
        BPF.make(Call("BPF", "wlan type data")).run(Seen(both[1], np.zeros(2, PACKET)), everything)


# --- tcpdump --------------------------------------------------------------------------------------------------------

SOME = ("vlan-stacks.pcap", "fragments.pcap", "ipv6-extensions.pcap")


@pytest.mark.once("it starts tcpdump 230 times")
@pytest.mark.skipif(TCPDUMP is None, reason="tcpdump is not installed")
def test_tcpdump_lets_the_same_frames_through(fixtures_folder: Path) -> None:
    found = Found()
    for name in SOME:
        compare(fixtures_folder / name, name, found)
    assert found.differences == []
    assert found.captures == len(SOME)
    assert found.comparisons + found.refused == len(SOME) * len(EXPRESSIONS)
    assert found.kept > found.frames // 20


@pytest.mark.once("it starts tcpdump")
@pytest.mark.skipif(TCPDUMP is None, reason="tcpdump is not installed")
def test_chains_of_headers(tmp_path: Path) -> None:
    """`ip6 protochain` is a loop in the program: 0 to 60 destination options (60), 8 octets each, before UDP."""
    wire = Wire()
    for count in (0, 1, 2, 20, 60):
        chain = b"".join(bytes([60 if left else 17, 0]) + bytes(6) for left in reversed(range(count)))
        body = chain + b"\0\1\0\2\0\x08\0\0"
        wire.packet(
            struct.pack(">IHBB16s16s", 6 << 28, len(body), 60 if count else 17, 64, bytes(16), bytes(16)) + body
        )
    found, path = Found(), wire.pcap(tmp_path)
    expressions = ("ip6 protochain 17", "ip6 protochain 6", "ip6 protochain 60")
    compare(path, path.name, found, expressions)
    assert found.differences == []
    assert (found.comparisons, found.kept) == (
        3,
        5 + 0 + 4,
    )  # UDP ends each, and the first has no 60


def test_big_captures_are_judged_batch_by_batch() -> None:
    """The same answer for a batch as for its parts."""
    talk = Exchange()
    talk.connection()
    frames = [(frame.octets, LINK_ETHERNET) for frame in talk.wire.frames]
    whole = Expression("tcp[tcpflags] & tcp-fin != 0").keep(batch_of(*frames)).tolist()
    assert whole == [bool(Expression("tcp[tcpflags] & tcp-fin != 0").keep(batch_of(one))[0]) for one in frames]
    assert sum(whole) == 2
