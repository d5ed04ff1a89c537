"""The profiles tranalyzer, peafowl and nfstream: dialogues cut by hand, and Tranalyzer's own packet file.

What the tools do: docs/profiles.md. Profile zeek has test_zeek.py, tshark test_tshark.py, pcapkit test_tracer.py.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import ICMP, Exchange, Wire

import traceflow
from traceflow.compiled import COMPILED
from traceflow.flows import EndCause, FlowSet
from traceflow.options import Options
from traceflow.packets import FLAGS_KNOWN, FRAME, PACKET, SEQ_KNOWN, Verdict
from traceflow.pipeline import trace
from traceflow.table import FlowTable

SYN, TCP = 0x02, 6


def traced(talk: Exchange | Wire, profile: str, **options: Any) -> FlowSet:
    wire = talk.wire if isinstance(talk, Exchange) else talk
    return trace(io.BytesIO(wire.pcap_octets(nanosecond=True)), profile=profile, **options)


def frames_of(flows: FlowSet) -> list[list[int]]:
    return [flow.frames.tolist() for flow in flows]


def causes_of(flows: FlowSet) -> list[str]:
    return [flow.end_cause.text for flow in flows]


# --- silence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("short", "flows"), [(1, 1), (0, 2), (-1, 2)])
@pytest.mark.parametrize("protocol", ["udp", "tcp", "icmp"])
@pytest.mark.parametrize(("profile", "idle_s"), [("tranalyzer", 182), ("peafowl", 30), ("nfstream", 120)])
def test_idle_timeout(profile: str, idle_s: int, protocol: str, short: int, flows: int) -> None:
    """One timeout for every protocol, over at equality, before the packet is handled."""
    talk = Exchange()
    send = {"udp": talk.a.udp, "tcp": talk.a.ack, "icmp": lambda: talk.a.ip(ICMP, b"")}[protocol]
    send()
    talk.wait(s=idle_s, ns=-short)
    send()
    found = traced(talk, profile)
    assert frames_of(found) == ([[1, 2]] if flows == 1 else [[1], [2]])
    assert causes_of(found)[:-1] == ["idle"] * (flows - 1)


def test_silence_of_either_direction_keeps_a_pair_alive() -> None:
    """Tranalyzer ends a pair when both directions were silent for 182 s: b speaks every 181 s, a only once."""
    talk = Exchange()
    talk.a.udp()
    for _ in range(3):
        talk.wait(s=181)
        talk.b.udp()
    talk.a.udp()
    assert frames_of(traced(talk, "tranalyzer")) == [[1, 2, 3, 4, 5]]


# --- tranalyzer --------------------------------------------------------------------------------------------------


def test_tranalyzer_ends_nothing_but_by_silence() -> None:
    """A whole connection, a reset one and a third on the same ports within 182 s are one flow."""
    talk = Exchange()
    talk.connection()
    talk.open((5000, 6000))
    talk.b.rst()
    talk.wait(s=100)
    talk.connection((70000, 80000))
    flows = traced(talk, "tranalyzer")
    assert frames_of(flows) == [[*range(1, 25)]]
    assert causes_of(flows) == ["end of input"]


def test_tranalyzer_judges_a_direction_by_ports() -> None:
    """The server's answer stands first: port 80 is well known and below 1000, so that is B. Nothing turns it later."""
    talk = Exchange()
    talk.b.data(b"200 OK")
    talk.a.ack()
    talk.b.syn(seq=5)
    (flow,) = traced(talk, "tranalyzer")
    assert (flow.orig_port, flow.turned, flow.frames_from("orig").tolist()) == (1000, 0, [2])
    talk = Exchange("10.0.0.1:2000", "10.0.0.2:3000")
    talk.b.syn_ack()
    talk.a.syn()
    talk.a.syn_ack()
    (flow,) = traced(talk, "tranalyzer")
    assert (flow.orig_port, flow.turned) == (2000, 0)


def test_tranalyzer_tells_vlans_apart() -> None:
    wire = Wire()
    for tags in ([], [(0x8100, 10)], [(0x8100, 20)], [(0x8100, 10)]):
        Exchange(wire=wire, tags=tags).a.udp(b"?")
    assert frames_of(traced(wire, "tranalyzer")) == [[1], [2, 4], [3]]


NAMES = {"faf-prefix": ("faf-prefix.pcap", 246, 11), "m57-10k": ("2009-M57-day11-18-10k.pcap", 8515, 901)}


@pytest.mark.parametrize("name", NAMES)
def test_partition_and_direction_are_those_of_tranalyzer(name: str, shared: Path) -> None:
    """Tranalyzer 0.9.3, default plugins, its packet file: every IPv4 and IPv6 packet has its flow number and A or B.

    Of the 1769 direction-flows of the second capture 385 are of layer 2, and have no packet here.
    """
    oracle = shared / "oracle" / "tranalyzer" / f"{name}.default.packets.tsv.gz"
    if not oracle.exists():
        pytest.skip("../shared/oracle is absent")
    file, packets, pairs = NAMES[name]
    with gzip.open(oracle, "rt") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["ethType"] in ("0x0800", "0x86dd")]
    theirs = {int(row["pktNo"]): (row["flowInd"], row["dir"]) for row in rows}
    ours: dict[int, tuple[int, str]] = {}
    for flow in traceflow.trace(shared / "corpus" / "tranalyzer" / file, profile="tranalyzer"):
        for side, letter in (("orig", "A"), ("resp", "B")):
            ours |= dict.fromkeys(flow.frames_from(side).tolist(), (flow.number, letter))
    assert ours.keys() == theirs.keys()
    assert len(theirs) == packets
    assert [n for n, (_, letter) in theirs.items() if ours[n][1] != letter] == []
    met = {(ours[n][0], number) for n, (number, _) in theirs.items()}
    assert len(met) == len({ours for ours, _ in met}) == len({theirs for _, theirs in met}) == pairs


# --- peafowl -----------------------------------------------------------------------------------------------------


def test_peafowl_last_ack_belongs_and_the_next_connection_does_not() -> None:
    """FIN of both sides in frames 7 and 9; 10 is the last ACK, 11 an ACK 29 s later; then a SYN."""
    talk = Exchange()
    talk.connection()
    talk.wait(s=29)
    talk.b.ack()
    talk.open((5000, 6000))
    flows = traced(talk, "peafowl")
    assert frames_of(flows) == [[*range(1, 12)], [12, 13, 14]]
    assert causes_of(flows) == ["fin", "end of input"]


def test_peafowl_tail_ends_with_the_linger_time() -> None:
    talk = Exchange()
    talk.connection()
    talk.wait(s=30)
    talk.b.ack()
    flows = traced(talk, "peafowl")
    assert frames_of(flows) == [[*range(1, 11)], [11]]
    assert causes_of(flows) == ["fin", "end of input"]


def test_peafowl_one_fin_or_a_reset_ends_nothing() -> None:
    """After the RST 29 s of silence are allowed, as always; and the SYN of another connection belongs: none closed."""
    talk = Exchange()
    talk.open()
    talk.a.fin()
    talk.b.rst()
    talk.wait(s=29)
    talk.b.data(b"x")
    talk.a.syn(seq=5000)
    talk.wait(s=30)
    talk.a.ack()
    flows = traced(talk, "peafowl")
    assert frames_of(flows) == [[1, 2, 3, 4, 5, 6, 7], [8]]
    assert causes_of(flows) == ["idle", "end of input"]


def test_peafowl_fin_of_both_after_a_reset() -> None:
    talk = Exchange()
    talk.open()
    talk.b.rst()
    talk.a.fin()
    talk.b.fin()
    assert causes_of(traced(talk, "peafowl")) == ["fin"]


def test_peafowl_retransmitted_syn_opens_nothing_in_the_tail() -> None:
    talk = Exchange()
    talk.connection()
    talk.a.syn(seq=100)
    assert frames_of(traced(talk, "peafowl")) == [[*range(1, 12)]]


@pytest.mark.parametrize("profile", ["peafowl", "nfstream"])
def test_the_first_sender_originates(profile: str) -> None:
    """Also where the SYN-ACK stands before the SYN."""
    talk = Exchange()
    talk.b.syn_ack(ack=101)
    talk.a.syn(seq=100)
    (flow,) = traced(talk, profile)
    assert (flow.orig_port, flow.turned, flow.frames_from("resp").tolist()) == (80, 0, [2])


def test_peafowl_does_not_look_at_vlans() -> None:
    wire = Wire()
    for tags in ([], [(0x8100, 10)]):
        Exchange(wire=wire, tags=tags).a.udp(b"?")
    assert frames_of(traced(wire, "peafowl")) == [[1, 2]]


# --- nfstream ----------------------------------------------------------------------------------------------------


def test_nfstream_ends_nothing_but_by_timeouts() -> None:
    """T02 and T04 at once: the table of flow-rules.md says that NFStream makes one flow of each."""
    talk = Exchange()
    talk.connection()
    talk.open((5000, 6000))
    talk.b.rst()
    talk.wait(s=5)
    talk.connection((70000, 80000))
    assert frames_of(traced(talk, "nfstream")) == [[*range(1, 25)]]


def test_nfstream_cuts_after_half_an_hour() -> None:
    """A datagram a minute for 61 minutes: minutes 0-29, 30-59, 60; both directions, and one originator."""
    talk = Exchange()
    for minute in range(61):
        (talk.b if minute % 2 else talk.a).udp()
        talk.wait(s=60)
    flows = traced(talk, "nfstream")
    assert frames_of(flows) == [[*range(1, 31)], [*range(31, 61)], [61]]
    assert causes_of(flows) == ["active", "active", "end of input"]
    assert [(flow.parent, flow.segment, flow.orig_port) for flow in flows] == [(1, n, 1000) for n in (1, 2, 3)]


def test_nfstream_tells_vlans_apart() -> None:
    wire = Wire()
    for tags in ([], [(0x8100, 10)], [(0x88A8, 10), (0x8100, 20)], [(0x8100, 10)]):
        Exchange(wire=wire, tags=tags).a.udp(b"?")
    assert frames_of(traced(wire, "nfstream")) == [[1], [2, 4], [3]]


# --- a full table (rule 22, T30) ---------------------------------------------------------------------------------


def test_a_full_table_that_skips() -> None:
    """Two flows may live. Host 3 finds no room until the first has been silent for 60 s; the others go on."""
    wire = Wire()
    one, two, three = (Exchange(f"10.0.0.{n}:1", "10.0.0.9:9", wire=wire) for n in (1, 2, 3))
    one.a.udp()
    two.a.udp()
    three.a.udp()
    two.b.udp()
    three.b.udp()
    wire.wait(s=59)
    two.a.udp()
    wire.wait(s=2)
    three.a.udp()
    flows = traced(wire, "default", max_flows=2, when_full="skip")
    assert frames_of(flows) == [[1], [2, 4, 6], [7]]
    assert causes_of(flows) == ["idle", "end of input", "end of input"]
    assert {v.text: n for v, n in flows.account.verdicts.items() if n} == {"table full": 2}
    assert flows.account.in_flows == 5


def test_a_successor_takes_the_place_of_the_flow_it_ends() -> None:
    talk = Exchange()
    talk.a.syn(seq=1)
    talk.a.syn(seq=2)
    assert frames_of(traced(talk, "default", max_flows=1, when_full="skip")) == [[1], [2]]


@pytest.mark.parametrize("when_full", ["evict", "skip"])
def test_a_flood_of_syns_is_bounded(when_full: str) -> None:
    """Each SYN has ends of its own, 1 us apart: none is due. 1000 live at most, and every frame is accounted for."""
    total, most = 200_000 if COMPILED else 2000, 1000
    frames, packets = np.zeros(total, FRAME), np.zeros(total, PACKET)
    frames["time_ns"] = np.arange(total) * 1000
    packets["ip_version"], packets["protocol"], packets["flags"] = 4, TCP, SYN
    packets["bits"] = FLAGS_KNOWN | SEQ_KNOWN
    packets["src_lo"] = 0xFFFF00000000 + np.random.Generator(np.random.PCG64(5)).permutation(total)
    packets["dst_lo"], packets["dst_port"] = 0xFFFF0A000001, 80
    table = FlowTable(Options(max_flows=most, when_full=when_full))
    ended = 0
    for at in range(0, total, 4096):
        table.track(frames[at : at + 4096], packets[at : at + 4096], at + 1)
        assert table.live <= most
        ended += len(table.drain())
    assert len(table._live) == most
    assert len(table._slots) == 2048  # the power of two from twice 1000
    table.end()
    ended += len(table.drain())
    account = table.account()
    assert account.frames == total == account.in_flows + sum(account.verdicts.values())
    evicts = when_full == "evict"
    assert account.flows == ended == (total if evicts else most)
    assert account.causes[EndCause.EVICTED] == (total - most if evicts else 0)
    assert account.verdicts[Verdict.TABLE_FULL] == (0 if evicts else total - most)


def test_late_fragments_of_a_full_table_are_accounted_for() -> None:
    """Handled twice, counted once: the fragment that waited goes from one verdict to the other."""
    table = FlowTable(Options(max_flows=1, when_full="skip"))
    frames, packets = np.zeros(2, FRAME), np.zeros(2, PACKET)
    packets["ip_version"], packets["protocol"], packets["src_lo"] = 4, 17, [1, 2]
    packets[1]["verdict"] = Verdict.FRAGMENT_WITHOUT_PORTS
    table.track(frames, packets, 1)
    packets[1]["verdict"] = Verdict.FLOW
    assert table.track_late(frames[1:], packets[1:], 2) == (0, 0)
    account = table.account()
    assert (account.frames, account.in_flows) == (2, 1)
    assert {v.name: n for v, n in account.verdicts.items() if n} == {"TABLE_FULL": 1}
