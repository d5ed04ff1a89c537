"""Plugin peafowl: the 13 statistics by hand, with and without the TCP analysis, and `statistic` of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from exchange import ACK, ICMP, MS_NS, RST, START_NS, SYN, Exchange
from plugin_runs import cells, check_values, odd_wire, traced

import traceflow
from traceflow.compiled import COMPILED
from traceflow.flows import FlowSet
from traceflow.plugins import EndedFlows
from traceflow.plugins.peafowl import Direction, Peafowl, Statistic, statistic

OUT, BACK = Direction.OUTBOUND, Direction.INBOUND


class Watched(Peafowl):
    """Keeps the rows and records of the flows that ended."""

    seen: ClassVar[list[EndedFlows]] = []

    def on_flows_end(self, flows: EndedFlows) -> Mapping[str, Any]:
        if len(flows):
            self.seen.append(flows)
        return super().on_flows_end(flows)


def thirteen(flows: FlowSet, direction: Direction, at: int = 0) -> list[Any]:
    return cells(flows, " ".join(f"{direction.name}_{one.name}".lower() for one in Statistic), at)


def test_there_are_thirteen_in_two_directions() -> None:
    assert [(one.name, one.value) for one in Direction] == [("OUTBOUND", 0), ("INBOUND", 1)]
    assert [one.value for one in Statistic] == list(range(13))


@pytest.mark.parametrize("analysis", [True, False])
def test_a_connection(analysis: bool) -> None:
    """T01, 1 ms between frames. Client: frames 1, 3, 4, 6, 7, 10 with 40 octets of headers each, and 3 of payload.
    Server: frames 2, 5, 8, 9, and 6 octets. SYN to SYN-ACK and SYN-ACK to ACK: 1 ms each.
    """
    talk = Exchange()
    talk.connection()
    flows = traced(talk, "peafowl", analysis=analysis)
    first = START_NS
    assert thirteen(flows, OUT) == [6, 243, first, first + 9 * MS_NS, MS_NS, 1, 1, 0, 0, 0, -1, 1, 3]
    assert thirteen(flows, BACK) == [4, 166, first + MS_NS, first + 8 * MS_NS, MS_NS, 1, 1, 0, 0, 0, -1, 1, 6]


@pytest.mark.parametrize("analysis", [True, False])
def test_windows_and_retransmissions(analysis: bool) -> None:
    """Scale 7 in both SYNs; the server says zero window twice (the RST with 0 is no such word); data comes twice."""
    talk = Exchange()
    scale = bytes.fromhex("01030307")
    talk.a.syn(options=scale)
    talk.b.syn_ack(options=scale)
    talk.a.ack()
    talk.a.data(b"12345")
    talk.a.data(b"12345", seq=101)
    talk.b.ack(window=0)
    talk.b.ack(window=0)
    talk.b.segment(RST | ACK, window=0)
    flows = traced(talk, "peafowl", analysis=analysis)
    names = ("retransmissions", "zero_window", "rst")
    assert cells(flows, " ".join(f"outbound_l4_tcp_count_{name}" for name in names)) == [1, 0, 0]
    assert cells(flows, " ".join(f"inbound_l4_tcp_count_{name}" for name in names)) == [0, 2, 1]
    assert cells(flows, "outbound_l4_tcp_window_scaling inbound_l4_tcp_window_scaling") == [7, 7]
    assert cells(flows, "outbound_l7_packets outbound_l7_bytes inbound_l7_packets") == [2, 10, 0]


def test_round_trips_of_repeated_handshakes() -> None:
    """SYN at 0 and 3 ms, SYN-ACK at 4 and 9 ms, ACK at 11 ms: 4 - 3 and 11 - 9; later segments change nothing."""
    talk = Exchange()
    talk.a.syn(seq=100)
    talk.wait(ms=3)
    talk.a.syn(seq=100)
    talk.wait(ms=1)
    talk.b.syn_ack(seq=900, ack=101)
    talk.wait(ms=5)
    talk.b.syn_ack(seq=900, ack=101)
    talk.wait(ms=2)
    talk.a.ack()
    talk.a.data(b"x")
    flows = traced(talk, "peafowl")
    assert cells(flows, "outbound_l4_tcp_rtt_syn_ack inbound_l4_tcp_rtt_syn_ack") == [MS_NS, 2 * MS_NS]
    assert (flows[0].syn_to_syn_ack_ns, flows[0].syn_ack_to_ack_ns) == (MS_NS, 2 * MS_NS)


def test_only_the_ack_of_the_syn_ack_ends_its_round_trip() -> None:
    """The ACK of the handshake was lost: data at the second octet is no answer to the SYN-ACK, nor is a FIN."""
    talk = Exchange(isn=(100, 2**32 - 1))
    talk.a.syn()
    talk.b.syn_ack()
    talk.a.data(b"lo", seq=104)
    talk.a.fin()
    names = "outbound_l4_tcp_rtt_syn_ack inbound_l4_tcp_rtt_syn_ack"
    assert cells(traced(talk, "peafowl"), names) == [MS_NS, None]
    talk.a.ack(seq=101, ack=0)  # the number behind 2**32 - 1
    assert cells(traced(talk, "peafowl"), names) == [MS_NS, 3 * MS_NS]


@pytest.mark.parametrize("profile", ["default", "peafowl", "tranalyzer"])
def test_outbound_is_the_first_sender_whoever_originates(profile: str) -> None:
    """The SYN-ACK is captured before the SYN, so the server sent first; its SYN-ACK was answered after 2 ms."""
    talk = Exchange()
    talk.b.syn_ack(seq=900, ack=101)
    talk.a.syn(seq=100)
    talk.a.ack()
    flows = traced(talk, "peafowl", profile=profile)
    assert cells(flows, "outbound_packets inbound_packets") == [1, 2]
    assert cells(flows, "outbound_l4_tcp_rtt_syn_ack inbound_l4_tcp_rtt_syn_ack") == [2 * MS_NS, None]
    row = flows.columns[0]
    assert statistic(row, Statistic.PACKETS, OUT) == 1
    if row["analysed"]:
        assert statistic(row, Statistic.L4_TCP_RTT_SYN_ACK, OUT) == 2 * MS_NS
        assert statistic(row, Statistic.L4_TCP_RTT_SYN_ACK, BACK) is None


def test_first_lengths_and_times_are_of_packets_with_payload() -> None:
    """a: 1 octet at 0, nothing at 1, 2 octets at 3, 3 at 2 ms (back); b: 4 at 5 ms."""
    talk = Exchange()
    for side, size, ms in (("a", 1, 0), ("a", 0, 1), ("a", 2, 3), ("a", 3, 2), ("b", 4, 5)):
        talk.wire.at(START_NS + ms * MS_NS)
        getattr(talk, side).udp(bytes(size))
    names = "outbound_l7_lengths outbound_l7_iats_ns inbound_l7_lengths inbound_l7_iats_ns outbound_l7_packets"
    assert cells(traced(talk, "peafowl"), names) == ["1;2;3", "0;3000000;-1000000", "4", "0", 3]
    assert cells(traced(talk, "peafowl:n=2"), names) == ["1;2", "0;3000000", "4", "0", 3]


def test_ten_are_kept() -> None:
    talk = Exchange()
    for size in range(1, 13):
        talk.a.udp(bytes(size))
    names = "outbound_l7_lengths outbound_l7_packets outbound_l7_bytes inbound_l7_lengths"
    assert cells(traced(talk, "peafowl"), names) == ["1;2;3;4;5;6;7;8;9;10", 12, 78, None]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "peafowl")
    check_values(flows)
    assert thirteen(flows, OUT) == [1, 29, START_NS, START_NS, *[None] * 7, 1, 1]
    assert thirteen(flows, BACK) == [0, 0, *[None] * 9, 0, 0]
    assert thirteen(flows, OUT, 1)[4:] == [None, 1, 0, 0, 0, 0, -1, 0, 0]  # the IPv6 SYN
    assert flows[2].protocol == ICMP
    assert thirteen(flows, OUT, 2)[11:] == thirteen(flows, BACK, 2)[11:] == [1, 12]
    assert thirteen(flows, OUT, 4)[:4] == [3, 132, START_NS + 30 * MS_NS, START_NS + 40 * MS_NS]


def agreeing(flows: FlowSet, seen: list[EndedFlows]) -> int:
    """Hold `statistic` against the columns; how many values were compared."""
    compared = 0
    for ended in seen:
        for row, orig, resp in zip(ended.rows, ended.orig, ended.resp, strict=True):
            for direction in Direction:
                expected = thirteen(flows, direction, int(row["number"]) - 1)
                assert [statistic(row, one, direction, (orig, resp)) for one in Statistic] == expected
                alone = [statistic(row, one, direction) for one in Statistic]
                known = [one for one in Statistic if row["analysed"] or not 4 <= one <= 10 or 5 <= one <= 8]
                for one in known:
                    assert alone[one] == expected[one], (row["number"], one, direction)
                compared += len(expected)
    return compared


@pytest.mark.parametrize("analysis", [True, False])
def test_statistic_of_rows_agrees_with_the_columns(analysis: bool) -> None:
    talk = Exchange(wire=odd_wire())
    talk.a.syn(options=bytes.fromhex("01030302"))
    talk.b.syn_ack()
    talk.a.ack()
    talk.talk()
    talk.b.ack(window=0)
    Watched.seen.clear()
    flows = traced(talk, Watched(), analysis=analysis)
    assert agreeing(flows, Watched.seen) == 8 * 2 * 13


@pytest.mark.parametrize("profile", ["default", "peafowl"])
def test_statistic_agrees_on_a_capture(profile: str, shared: Path) -> None:
    """What is counted here packet by packet is what the TCP analysis finds: round trips, zero windows, scales."""
    path = shared / "corpus" / "tranalyzer" / "2009-M57-day11-18-10k.pcap"
    if not path.exists():
        pytest.skip("../shared/corpus/tranalyzer is absent")
    Watched.seen.clear()
    limit = None if COMPILED else 1000
    flows = traceflow.trace(path, profile=profile, plugins=[Watched()], limit=limit)
    assert flows.plugin_failures == []
    check_values(flows)
    assert agreeing(flows, Watched.seen) == len(flows) * 26
    assert np.count_nonzero(flows.columns["syn_to_syn_ack_ns"] > 0) > 10


def test_what_a_row_alone_does_not_tell() -> None:
    talk = Exchange()
    talk.connection()
    row = traced(talk, analysis=False).columns[0]
    unknown = {one for one in Statistic if statistic(row, one, OUT) is None}
    names = ("L4_TCP_RTT_SYN_ACK", "L4_TCP_COUNT_ZERO_WINDOW", "L4_TCP_WINDOW_SCALING")
    assert unknown == {Statistic[name] for name in names}


def test_a_syn_alone_has_no_round_trip() -> None:
    talk = Exchange()
    talk.a.segment(SYN)
    assert cells(traced(talk, "peafowl"), "outbound_l4_tcp_rtt_syn_ack") == [None]
