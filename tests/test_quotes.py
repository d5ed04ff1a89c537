"""The rooms `quotes` and `decode.quotes`: which flow an ICMP error points at, whatever stands in it.

Where not counted by hand, the slow tracer of oracle.py says what is right; it opens no tunnels.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pytest
from effort import examples
from exchange import ETHER_IPV4, ICMP, ICMPV6, SYN, TCP, UDP, Exchange, Wire, ethernet, ipv4, ipv6, tcp, udp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import trace_capture

from traceflow.decode import decode_batch, decode_quotes
from traceflow.flows import EndCause, FlowSet
from traceflow.options import options_for
from traceflow.packets import PACKET
from traceflow.pipeline import FlowCollector, Run, trace
from traceflow.sources import open_source

sys.path.append(str(Path(__file__).resolve().parents[1] / "fixtures"))
from quote_cases import error4, error6, redirect6

A4, B4, R4, A6, B6, R6 = "10.0.0.1", "10.0.0.2", "192.0.2.254", "2001:db8::1", "2001:db8::2", "2001:db8:ffff::1"
UNREACHABLE, TIME_EXCEEDED, TOO_BIG6 = 3, 11, 2
HOP, ROUTING, AH, DESTINATION = 0, 43, 51, 60
relaxed = settings(max_examples=examples(100, plain=15), deadline=None, suppress_health_check=list(HealthCheck))


def datagram(sport: int = 1001, src: str = A4, dst: str = B4) -> bytes:
    return ipv4(src, dst, UDP, udp(src, dst, sport, 53, b"data"))


def datagram6(*chain: tuple[int, int]) -> bytes:
    """A datagram behind extension headers: (number, octets)."""
    numbers = [number for number, _ in chain] + [UDP]
    headers = b"".join(
        bytes((after, size // 8 - 1)) + bytes(size - 2) for after, (_, size) in zip(numbers[1:], chain, strict=True)
    )
    return ipv6(A6, B6, numbers[0], headers + udp(A6, B6, 1002, 53, b"data"))


def run(
    path: Path, batch_frames: int = 4096, profile: str = "default", **options: Any
) -> tuple[dict[int, int], FlowSet]:
    """Frame -> flow it points at, and the flows."""
    quoted: dict[int, int] = {}
    with open_source(path, batch_frames=batch_frames) as captures:
        over = Run(captures, options_for(profile, **options))
        collector = FlowCollector(over)
        for step in over.steps():
            collector.take(step)
            quoted |= {number: flow for number, flow in step.quoted.tolist() if flow}
        return quoted, collector.flows()


def quoted_in(wire: Wire, where: Path, **options: Any) -> dict[int, int]:
    return run(wire.pcap(where), **options)[0]


def as_the_oracle(path: Path) -> dict[int, int]:
    """What every error points at: the same in batches of 1, 3 and 4096 frames, and what the slow tracer says."""
    expected = trace_capture(path).frame_quoted
    for batch_frames in (1, 3, 4096):
        quoted, flows = run(path, batch_frames, outer=True)
        assert quoted == expected
        pointed = list(expected.values())
        assert [flow.icmp_errors for flow in flows] == [pointed.count(flow.number) for flow in flows]
    return expected


# --- what a quote may be ------------------------------------------------------------------------------------------


def test_a_quote_cut_anywhere(tmp_path: Path) -> None:
    """Four octets behind the IP header are enough: the ports. Cut when it was sent, or when it was captured."""
    segment = ipv4(A4, B4, TCP, tcp(A4, B4, 1000, 80, flags=SYN), options=bytes(12))
    for packet, ports in ((datagram(), 24), (segment, 36), (datagram6((HOP, 8), (DESTINATION, 16)), 68)):
        for capture in (False, True):
            wire = Wire()
            wire.packet(packet)
            sizes = range(len(packet) + 1)
            for size in sizes:
                quote = packet if capture else packet[:size]
                about = error6(R6, A6, TOO_BIG6, quote) if packet[0] >> 4 == 6 else error4(R4, A4, UNREACHABLE, quote)
                wire.packet(about, captured=14 + len(about) - len(packet) + size if capture else None)
            assert as_the_oracle(wire.pcap(tmp_path)) == {2 + size: 1 for size in sizes if size >= ports}


def test_an_echo_needs_its_identifier(tmp_path: Path) -> None:
    """Without it, it would be taken for a message between the same ends that has none."""
    echo = ipv4(A4, B4, ICMP, struct.pack(">HHHH", 0x0800, 0, 7, 1))
    wire = Wire()
    wire.packet(ipv4(A4, B4, ICMP, bytes((10, 0)) + bytes(6)))  # 1: a router solicitation, which has no identifier
    wire.packet(echo)  # 2
    for size in range(20, 29):  # 3-11: of 6 octets and more, 26-28, the last three
        wire.packet(error4(R4, A4, TIME_EXCEEDED, echo[:size]))
    assert as_the_oracle(wire.pcap(tmp_path)) == {9: 2, 10: 2, 11: 2}


def test_messages_that_are_no_errors_quote_nothing(tmp_path: Path) -> None:
    wire = Wire()
    wire.packet(datagram())
    for kind in range(256):
        wire.packet(error4(R4, A4, kind, datagram()))  # frame 2 + kind
    wire.packet(datagram6())  # 258: the flow behind those of the kinds
    for kind in range(256):
        wire.packet(error6(R6, A6, kind, datagram6()))  # frame 259 + kind
    quoted = as_the_oracle(wire.pcap(tmp_path))
    assert sorted(quoted) == [2 + kind for kind in (3, 4, 5, 11, 12)] + [259 + kind for kind in (1, 2, 3, 4)]


def test_quotes_in_quotes_end_at_the_first(tmp_path: Path) -> None:
    wire = Wire()
    wire.packet(datagram())
    about = datagram()
    for _ in range(40):
        about = error4(B4, A4, UNREACHABLE, about)
        wire.packet(about)
    assert as_the_oracle(wire.pcap(tmp_path)) == {2: 1}


@pytest.mark.parametrize("number", [HOP, ROUTING, AH, DESTINATION])
def test_endless_chains_in_quotes(tmp_path: Path, number: int) -> None:
    """Headers that are followed by themselves up to the end of the quote, of the least and the greatest length."""
    wire = Wire()
    wire.packet(datagram6())
    for length in (0, 1, 255):
        wire.packet(error6(R6, A6, TOO_BIG6, ipv6(A6, B6, number, bytes((number, length, 0, 0, 0, 0, 0, 0)) * 150)))
    assert as_the_oracle(wire.pcap(tmp_path)) == {}


def test_options_of_redirects(tmp_path: Path) -> None:
    """RFC 4861 section 4.6.3: the packet stands in option 4, wherever that is; an option of length 0 ends the list."""
    packet = datagram6()
    whole = packet + bytes(-len(packet) % 8)
    redirected = struct.pack(">BB6x", 4, 1 + len(whole) // 8) + whole
    other, endless = bytes((2, 1)) + bytes(6), bytes(8)
    wire = Wire()
    wire.packet(packet)
    for options in ([redirected], [other, redirected], [endless, redirected], [other * 50], [redirected[:8]], []):
        wire.packet(redirect6(R6, A6, *options))
    wire.packet(redirect6(R6, A6, b"\4\377" + redirected[2:]))  # longer than there is: the packet is there all the same
    assert as_the_oracle(wire.pcap(tmp_path)) == {2: 1, 3: 1, 8: 1}


def test_a_quoted_fragment(tmp_path: Path) -> None:
    """Errors are about first fragments (RFC 1122, 3.2.2), which have the ports; of others the flow is not told."""
    whole = udp(A4, B4, 1001, 53, bytes(40))
    first, later = (ipv4(A4, B4, UDP, whole[at : at + 24], fragment=at // 8, more=at == 0) for at in (0, 24))
    wire = Wire()
    for packet in (first, later, error4(R4, A4, TIME_EXCEEDED, first), error4(R4, A4, TIME_EXCEEDED, later)):
        wire.packet(packet)
    assert as_the_oracle(wire.pcap(tmp_path)) == {3: 1}


def broken(choose: random.Random, quote: bytes) -> bytes:
    """A quote with some octets changed, cut or repeated."""
    octets = bytearray(quote)
    for _ in range(choose.randrange(4)):
        octets[choose.randrange(len(octets))] = choose.choice(
            (0, 1, 6, 17, 43, 44, 51, 58, 60, 255, choose.randrange(256))
        )
    return bytes(
        octets[: choose.randrange(len(octets) + 1)] if choose.random() < 0.4 else octets * choose.choice((1, 1, 2))
    )


@given(st.integers(0, 2**32))
@relaxed
def test_broken_quotes(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    choose = random.Random(seed)
    packets = (
        datagram(),
        ipv4(A4, B4, TCP, tcp(A4, B4, 1000, 80, flags=SYN), options=bytes(4)),
        ipv4(A4, B4, ICMP, struct.pack(">HHHH", 0x0800, 0, 7, 1)),
        datagram6((HOP, 8), (ROUTING, 24)),
        ipv6(A6, B6, ICMPV6, struct.pack(">HHHH", 0x8000, 0, 7, 1)),
    )
    wire = Wire(snaplen=choose.choice((None, 96, 128)))
    for _ in range(40):
        packet = choose.choice(packets)
        quote = broken(choose, packet)
        build = choose.choice((error4, error6))
        about = build(*((R4, A4) if build is error4 else (R6, A6)), choose.choice((1, 3, 3, 11, 137)), quote)
        wire.packet(choose.choice((packet, about, about, broken(choose, about) or about)))
    path = tmp_path_factory.getbasetemp() / "broken.pcap"
    path.write_bytes(wire.pcap_octets())
    as_the_oracle(path)


# --- which flow ---------------------------------------------------------------------------------------------------


def test_a_quote_opens_ends_and_times_nothing(tmp_path: Path) -> None:
    """UDP is over after 60 s of silence; an error in between is no word of the flow, at 60 s it points at none."""
    wire = Wire()
    wire.packet(datagram())  # 1
    wire.wait(s=59)
    wire.packet(error4(B4, A4, UNREACHABLE, datagram()))  # 2
    wire.wait(s=1)
    wire.packet(error4(B4, A4, UNREACHABLE, datagram()))  # 3
    wire.packet(datagram())  # 4: another flow
    wire.packet(error4(B4, A4, UNREACHABLE, datagram()))  # 5
    path = wire.pcap(tmp_path)
    assert as_the_oracle(path) == {2: 1, 5: 3}
    flows = trace(path)
    assert [flow.frames.tolist() for flow in flows] == [[1], [2, 3, 5], [4]]
    assert [flow.icmp_errors for flow in flows] == [1, 0, 1]
    assert (flows[0].packets, flows[0].end_cause) == (1, EndCause.IDLE)


def test_a_quoted_syn_or_reset_is_no_segment(tmp_path: Path) -> None:
    talk = Exchange(f"{A4}:1000", f"{B4}:80")
    talk.open()  # 1-3
    for flags in (SYN, 0x04):
        quote = ipv4(A4, B4, TCP, tcp(A4, B4, 1000, 80, seq=5000, flags=flags))
        talk.wire.packet(error4(R4, A4, TIME_EXCEEDED, quote))  # 4, 5
    talk.talk()  # 6-8
    path = talk.pcap(tmp_path)
    assert as_the_oracle(path) == {4: 1, 5: 1}
    first, _ = trace(path)
    assert (first.history, first.conn_state.text, first.orig.packets) == ("ShADd", "S1", 4)


def test_the_successor_on_the_same_ports(tmp_path: Path) -> None:
    talk = Exchange(f"{A4}:1000", f"{B4}:80")
    talk.connection()  # 1-10
    quote = ipv4(A4, B4, TCP, tcp(A4, B4, 1000, 80))
    talk.wire.packet(error4(R4, A4, TIME_EXCEEDED, quote))  # 11: the closed flow lingers
    talk.open((5000, 9000))  # 12-14
    talk.wire.packet(error4(R4, A4, TIME_EXCEEDED, quote))  # 15
    assert as_the_oracle(talk.pcap(tmp_path)) == {11: 1, 15: 3}


def test_the_flow_of_the_error_itself_is_none(tmp_path: Path) -> None:
    """An echo with identifier 0 has the key of errors between its ends: looked up before the error opens that flow."""
    echo = ipv4(A4, B4, ICMP, struct.pack(">HHHH", 0x0800, 0, 0, 1))
    wire = Wire()
    wire.packet(error4(B4, A4, UNREACHABLE, echo))
    wire.packet(error4(B4, A4, UNREACHABLE, echo))
    assert as_the_oracle(wire.pcap(tmp_path)) == {2: 1}


def test_the_flow_that_makes_room_for_the_error(tmp_path: Path) -> None:
    """In a table for one flow, the error's own flow takes the place of the one it points at, which has counted it."""
    wire = Wire()
    for _ in range(2):
        wire.packet(datagram())
        wire.packet(error4(B4, A4, UNREACHABLE, datagram()))
    quoted, flows = run(wire.pcap(tmp_path), max_flows=1)
    assert quoted == {2: 1, 4: 3}
    assert [flow.icmp_errors for flow in flows] == [1, 0, 1, 0]


def test_where_the_key_keeps_its_direction(tmp_path: Path) -> None:
    """The quoted packet was sent by the side that is told: its direction, not the other one."""
    wire = Wire()
    wire.packet(datagram())  # 1: flow 1
    wire.packet(ipv4(B4, A4, UDP, udp(B4, A4, 53, 1001)))  # 2: flow 2
    wire.packet(error4(B4, A4, UNREACHABLE, datagram()))
    wire.packet(error4(A4, B4, UNREACHABLE, ipv4(B4, A4, UDP, udp(B4, A4, 53, 1001))))
    assert quoted_in(wire, tmp_path, directed=True) == {3: 1, 4: 2}


def test_frames_without_a_flow_quote_nothing(tmp_path: Path) -> None:
    wire = Wire()
    talk = Exchange(f"{A4}:1000", f"{B4}:80", wire=wire)
    talk.a.syn()
    wire.packet(error4(R4, A4, TIME_EXCEEDED, ipv4(A4, B4, TCP, tcp(A4, B4, 1000, 80))))
    assert quoted_in(wire, tmp_path) == {2: 1}
    assert quoted_in(wire, tmp_path, profile="pcapkit") == {}


def test_an_error_with_a_wrong_checksum_quotes_nothing(tmp_path: Path) -> None:
    """Where checksums are verified; the RFC 1071 sum is dpkt's."""
    wire = Wire()
    wire.packet(datagram())
    wrong = error4(R4, A4, UNREACHABLE, datagram())  # 0 is wrong here
    message = wrong[20:]
    right = wrong[:20] + message[:2] + struct.pack(">H", dpkt.dpkt.in_cksum(message)) + message[4:]
    wire.packet(wrong)
    wire.packet(right)
    path = wire.pcap(tmp_path)
    assert run(path)[0] == {2: 1, 3: 1}
    assert run(path, checksums=True)[0] == {3: 1}


def test_fragments_among_errors(tmp_path: Path) -> None:
    """Fragments that come before their first one split a batch; the quotes stay with their frames."""
    wire = Wire()
    for n in range(12):
        whole = udp(A4, B4, 2000 + n, 53, bytes(40))
        first, later = (
            ipv4(A4, B4, UDP, whole[at : at + 24], ident=n, fragment=at // 8, more=at == 0) for at in (0, 24)
        )
        about = error4(R4, A4, UNREACHABLE, first)
        for packet in ((later, about, first, about), (first, about, later, about), (about, later, about, first))[n % 3]:
            wire.packet(packet)
    quoted = as_the_oracle(wire.pcap(tmp_path))
    # Per three datagrams: frame 4 of the first; 2 and 4 of the second; none of the third, whose errors come too early.
    assert sorted(quoted) == [12 * n + at for n in range(4) for at in (4, 6, 8)]


def test_a_first_fragment_of_an_error(tmp_path: Path) -> None:
    """An error in fragments: the first has the quote, the later one belongs to the flow of the error."""
    whole = error4(B4, A4, UNREACHABLE, datagram())[20:]
    wire = Wire()
    wire.packet(datagram())
    wire.packet(ipv4(B4, A4, ICMP, whole[:32], ident=3, more=True))
    wire.packet(ipv4(B4, A4, ICMP, whole[32:], ident=3, fragment=4))
    path = wire.pcap(tmp_path)
    assert as_the_oracle(path) == {2: 1}
    assert [flow.frames.tolist() for flow in trace(path)] == [[1], [2, 3]]


def test_columns_taken_from_around(tmp_path: Path) -> None:
    """VLAN tags are those of the frame with the error."""
    wire = Wire()
    wire.packet(error4(R4, A4, UNREACHABLE, datagram()), tags=((0x88A8, 7), (0x8100, 10)))
    with open_source(wire.pcap(tmp_path)) as captures:
        (batch,) = captures.batches()
        packets = decode_batch(batch.octets, batch.frames, np.zeros(1, PACKET))
        quotes = decode_quotes(batch, packets)
    (row,) = quotes.packets
    assert (row["vlan_tags"], row["vlan_outer"], row["vlan_inner"]) == (2, 7, 10)
    assert (row["src_port"], row["dst_port"], row["protocol"], quotes.quoted["number"].tolist()) == (1001, 53, UDP, [1])


def test_outermost_packets(tmp_path: Path) -> None:
    """With `outer`, tunnels are not opened in quotes either."""
    tunnel = ipv4("192.0.2.1", "192.0.2.2", 4, datagram())
    wire = Wire()
    wire.frame(ethernet(tunnel, ETHER_IPV4))
    wire.packet(error4(R4, "192.0.2.1", TIME_EXCEEDED, tunnel))
    wire.packet(error4(R4, "192.0.2.1", TIME_EXCEEDED, datagram()))
    assert quoted_in(wire, tmp_path, outer=True) == {2: 1}
    assert quoted_in(wire, tmp_path) == {2: 1, 3: 1}


def test_numbers_go_on_over_captures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        wire = Wire()
        wire.packet(datagram())
        wire.packet(error4(B4, A4, UNREACHABLE, datagram()))
        wire.pcap(tmp_path / name)
    flows = trace(tmp_path / "one", tmp_path / "two")
    assert [(flow.frames.tolist(), flow.icmp_errors) for flow in flows] == [([1, 3], 2), ([2, 4], 0)]


@pytest.mark.slow_plain("thousands of quotes")
def test_a_flood_of_errors(tmp_path: Path) -> None:
    """3000 errors about ten flows, in one batch and in many."""
    wire = Wire(step_ns=1000)
    for n in range(10):
        wire.packet(datagram(2000 + n))
    for n in range(3000):
        wire.packet(error4(f"192.0.2.{n % 250}", A4, TIME_EXCEEDED, datagram(2000 + n % 20)))
    path = wire.pcap(tmp_path)
    expected = {11 + n: 1 + n % 20 for n in range(3000) if n % 20 < 10}
    for batch_frames in (4096, 100):
        quoted, flows = run(path, batch_frames)
        assert quoted == expected
        assert [flow.icmp_errors for flow in flows][:10] == [150] * 10
    pandas = pytest.importorskip("pandas")
    assert isinstance(flows.to_pandas(), pandas.DataFrame)
    assert flows.to_pandas()["icmp_errors"].sum() == 1500
