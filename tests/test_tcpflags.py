"""Plugin tcpflags: anomalies flag by flag, windows, options, TTL and fragments by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from exchange import ACK, CWR, ECE, FIN, PSH, RST, SYN, UDP, URG, Exchange, Wire, ipv4, udp
from plugin_runs import cells, check_values, odd_wire, traced

import traceflow
from traceflow.plugins.tcpflags import Anomaly

A = Anomaly
ODD = [
    (SYN | FIN, 0, A.SYN_FIN),
    (SYN | FIN | ACK, 0, A.SYN_FIN),
    (SYN | RST, 0, A.SYN_RST),
    (FIN | RST | ACK, 0, A.FIN_RST),
    (0, 0, A.NULL),
    (ECE | CWR, 0, A.NULL),
    (FIN | PSH | URG, 0, A.XMAS | A.FIN_WITHOUT_ACK),
    (
        FIN | SYN | RST | PSH | ACK | URG,
        0,
        A.SYN_FIN | A.SYN_RST | A.FIN_RST | A.ALL_SIX | A.SYN_PSH_URG,
    ),
    (FIN, 0, A.FIN_WITHOUT_ACK),
    (PSH, 3, A.NO_ACK),
    (URG, 0, A.NO_ACK),
    (SYN | PSH, 0, A.SYN_PSH_URG),
    (SYN, 3, A.SYN_PAYLOAD),
    (RST, 3, A.RST_PAYLOAD),
]
SOUND = [SYN, SYN | ACK, SYN | ECE | CWR, ACK, PSH | ACK, FIN | ACK, FIN | PSH | ACK, RST, RST | ACK, URG | ACK]


@pytest.mark.parametrize(("flags", "octets", "anomalies"), ODD)
def test_odd_flags(flags: int, octets: int, anomalies: Anomaly) -> None:
    talk = Exchange()
    talk.a.segment(flags, bytes(octets))
    names = "orig_tcpflags_flags orig_tcpflags_anomalies orig_tcpflags_anomalous_segments"
    # A SYN-ACK opens a flow as its responder; FIN does not change that.
    side = "resp" if flags & (SYN | ACK) == SYN | ACK else "orig"
    flows = traced(talk, "tcpflags")
    assert cells(flows, names.replace("orig", side)) == [flags, int(anomalies), 1]


@pytest.mark.parametrize("flags", SOUND)
def test_sound_flags(flags: int) -> None:
    talk = Exchange()
    talk.a.segment(flags)
    side = "resp" if flags & (SYN | ACK) == SYN | ACK else "orig"
    names = f"{side}_tcpflags_flags {side}_tcpflags_anomalies {side}_tcpflags_anomalous_segments"
    assert cells(traced(talk, "tcpflags"), names) == [flags, 0, 0]


def test_all_anomalies_have_a_case() -> None:
    seen = Anomaly(0)
    for *_, anomalies in ODD:
        seen |= anomalies
    assert seen == ~(A.BAD_CHECKSUM | A.BAD_HEADER)


def test_aggregates_are_of_each_direction() -> None:
    """T01: the client sends SYN, ACK, PSH|ACK, ACK, FIN|ACK, ACK; the server SYN|ACK, PSH|ACK, ACK, FIN|ACK."""
    talk = Exchange()
    talk.connection()
    talk.b.segment(FIN | RST | ACK)
    talk.b.segment(PSH)
    names = "orig_tcpflags_flags orig_tcpflags_anomalies resp_tcpflags_flags resp_tcpflags_anomalies"
    flows = traced(talk, "tcpflags")
    everything = FIN | SYN | PSH | ACK
    assert cells(flows, names) == [everything, 0, everything | RST, int(A.FIN_RST | A.NO_ACK)]
    assert cells(flows, "resp_tcpflags_anomalous_segments") == [2]


def test_windows() -> None:
    """100, 200 (rise), 150 (fall, turn), 150, 300 (rise, turn), 0 (fall, turn): 900 / 6 = 150. Then a RST with 0."""
    talk = Exchange()
    for window in (100, 200, 150, 150, 300, 0):
        talk.a.ack(window=window)
    names = "first min max mean rises falls turns"
    names = " ".join(f"orig_tcpflags_window_{name}" for name in names.split())
    flows = traced(talk, "tcpflags")
    assert cells(flows, names + " orig_tcpflags_zero_windows") == [100, 0, 300, 150.0, 2, 2, 3, 1]
    talk.a.segment(RST, window=0)
    assert cells(traced(talk, "tcpflags"), "orig_tcpflags_zero_windows orig_tcpflags_window_falls") == [1, 2]


def test_options_of_a_syn() -> None:
    """MSS 1460 (2, 4, 0x05b4), no operation (1), window scale 7 (3, 3, 7)."""
    talk = Exchange()
    talk.a.syn(options=bytes.fromhex("020405b4 01 030307"))
    talk.b.syn_ack()
    talk.a.ack()
    flows = traced(talk, "tcpflags")
    assert cells(flows, "orig_tcpflags_options orig_tcpflags_mss orig_tcpflags_window_scale") == [3, 1460, 7]
    assert cells(flows, "resp_tcpflags_options resp_tcpflags_mss resp_tcpflags_window_scale") == [0, None, None]


def test_options_are_not_known_without_a_syn() -> None:
    talk = Exchange()
    talk.a.data(b"x")
    assert cells(traced(talk, "tcpflags"), "orig_tcpflags_options orig_tcpflags_mss") == [None, None]


def test_ttl_and_fragments() -> None:
    """TTL 64, 64, 60, 63: two changes. The last two packets are fragments of one datagram."""
    wire = Wire()
    datagram = udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(24))  # 32 octets
    for ttl in (64, 64):
        wire.packet(ipv4("10.0.0.1", "10.0.0.2", UDP, datagram, ttl=ttl))
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", UDP, datagram[:16], ident=7, more=True, ttl=60))
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", UDP, datagram[16:], ident=7, fragment=2, ttl=63))
    flows = traced(wire, "tcpflags")
    assert len(flows) == 1
    names = "ttl_min ttl_max ttl_changes fragments flags window_mean zero_windows"
    found = cells(flows, " ".join(f"orig_tcpflags_{name}" for name in names.split()))
    assert found == [60, 64, 2, 2, None, None, None]


def test_a_wrong_checksum_counts_where_checksums_are_verified() -> None:
    talk = Exchange()
    talk.open()
    frame = talk.wire.frames[-1]
    broken = frame.octets[:-4] + bytes([frame.octets[-4] ^ 1]) + frame.octets[-3:]  # in the checksum of TCP
    talk.wire.frame(broken)
    name = "orig_tcpflags_anomalies"
    assert cells(traced(talk, "tcpflags", checksums=True), name) == [int(A.BAD_CHECKSUM)]
    assert cells(traced(talk, "tcpflags"), name) == [0]


def test_a_header_that_is_longer_than_its_packet() -> None:
    """Data offset 15 (60 octets) in a segment of 20; cut by the capture behind the flags, nothing is said of it."""
    talk = Exchange()
    talk.a.ack()
    octets = bytearray(talk.wire.frames[0].octets)
    octets[14 + 20 + 12] = 0xF0
    wire = Wire()
    wire.frame(bytes(octets))
    assert cells(traced(wire, "tcpflags"), "orig_tcpflags_anomalies") == [int(A.BAD_HEADER)]
    wire = Wire(snaplen=14 + 20 + 15)
    wire.frame(bytes(octets))
    found = cells(traced(wire, "tcpflags"), "orig_tcpflags_flags orig_tcpflags_anomalies orig_tcpflags_window_min")
    assert found == [ACK, 0, None]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "tcpflags")
    check_values(flows)
    assert cells(flows, "orig_tcpflags_flags orig_tcpflags_ttl_min resp_tcpflags_ttl_min", 0) == [None, 64, None]
    assert cells(flows, "orig_tcpflags_flags orig_tcpflags_ttl_min orig_tcpflags_window_first", 1) == [SYN, 64, 64240]


def test_ttl_and_first_window_are_those_of_tranalyzer(shared: Path) -> None:
    """Tranalyzer 0.9.3 on the connection of port 1379: A has TTL 128 and first window 65535, B 52 and 5840."""
    path = shared / "corpus" / "tranalyzer" / "faf-prefix.pcap"
    if not path.exists():
        pytest.skip("../shared/corpus/tranalyzer is absent")
    flows = traceflow.trace(path, profile="tranalyzer", plugins=["tcpflags"])
    at = next(at for at, flow in enumerate(flows) if 1379 in (flow.orig_port, flow.resp_port))
    for side, ttl, window in (("orig", 128, 65535), ("resp", 52, 5840)):
        names = f"{side}_tcpflags_ttl_min {side}_tcpflags_ttl_max {side}_tcpflags_window_first"
        assert cells(flows, names, at) == [ttl, ttl, window]
