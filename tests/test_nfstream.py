"""Plugin nfstream: dialogues by hand."""

from __future__ import annotations

import pytest
from exchange import MS_NS, START_NS, Exchange
from plugin_runs import cells, check_values, dialogue, odd_wire, traced

START_MS = START_NS // MS_NS


def named(side: str, names: str, kind: str) -> str:
    return " ".join(f"{side}_{name}_{kind}" for name in names.split())


def test_times_packets_and_bytes() -> None:
    flows = traced(dialogue(), "nfstream")
    names = "first_seen_ms last_seen_ms duration_ms packets bytes"
    for side, expected in {
        "bidirectional": [START_MS, START_MS + 7, 7.0, 4, 248],
        "src2dst": [START_MS, START_MS + 7, 7.0, 3, 186],
        "dst2src": [START_MS + 4, START_MS + 4, 0.0, 1, 62],
    }.items():
        assert cells(flows, " ".join(f"{side}_{name}" for name in names.split())) == expected


def test_sizes() -> None:
    """Both: deviations from 62 are -10, 10, 0, 0, so the variance of the sample is 200 / 3; originator: 200 / 2."""
    flows = traced(dialogue(), "nfstream")
    names = "min mean stddev max"
    assert cells(flows, named("bidirectional", names, "ps")) == pytest.approx([52, 62, (200 / 3) ** 0.5, 72])
    assert cells(flows, named("src2dst", names, "ps")) == pytest.approx([52, 62, 10, 72])
    assert cells(flows, named("dst2src", names, "ps")) == [62, 62, None, 62]


@pytest.mark.parametrize(("size", "octets"), [("wire", 248), ("ip", 248 - 4 * 14), ("payload", 80)])
def test_what_a_size_is(size: str, octets: int) -> None:
    assert cells(traced(dialogue(), f"nfstream:size={size}"), "bidirectional_bytes") == [octets]


def test_inter_arrival_times() -> None:
    """Both: 3, 1, 3 ms; deviations from 7/3: 2/3, -4/3, 2/3; 24/9 / 2. Originator: 3, 4. Responder: one packet."""
    flows = traced(dialogue(), "nfstream")
    names = "min mean stddev max"
    assert cells(flows, named("bidirectional", names, "piat_ms")) == pytest.approx([1, 7 / 3, (4 / 3) ** 0.5, 3])
    assert cells(flows, named("src2dst", names, "piat_ms")) == pytest.approx([3, 3.5, 0.5**0.5, 4])
    assert cells(flows, named("dst2src", names, "piat_ms")) == [None] * 4


def test_fractions_of_a_millisecond_are_kept() -> None:
    """0.9 ms and 0.9 ms, from 0.9 ms past a whole one: whole milliseconds would make 1 and 1 of it, or 0 and 1."""
    talk = Exchange()
    talk.wire.at(START_NS + 900_000)
    for _ in range(3):
        talk.a.udp()
        talk.wait(us=900)
    flows = traced(talk, "nfstream")
    names = "src2dst_duration_ms src2dst_mean_piat_ms src2dst_first_seen_ms src2dst_last_seen_ms"
    assert cells(flows, names) == pytest.approx([1.8, 0.9, START_MS, START_MS + 2])


def test_flags() -> None:
    """T01: the client sends SYN, ACK, PSH|ACK, ACK, FIN|ACK, ACK; the server SYN|ACK, PSH|ACK, ACK, FIN|ACK."""
    talk = Exchange()
    talk.connection()
    flows = traced(talk, "nfstream")
    names = "syn cwr ece urg ack psh rst fin"
    assert cells(flows, named("src2dst", names, "packets")) == [1, 0, 0, 0, 5, 1, 0, 1]
    assert cells(flows, named("dst2src", names, "packets")) == [1, 0, 0, 0, 4, 1, 0, 1]
    assert cells(flows, named("bidirectional", names, "packets")) == [2, 0, 0, 0, 9, 2, 0, 2]


def test_src2dst_is_of_the_originator_also_where_the_responder_was_captured_first() -> None:
    """SYN-ACK, SYN, ACK, 1 ms each: the first sender is the server, the source is the client."""
    talk = Exchange()
    talk.b.syn_ack(seq=900, ack=101)
    talk.a.syn(seq=100)
    talk.a.ack()
    flows = traced(talk, "nfstream")
    assert cells(flows, "src2dst_packets dst2src_packets src2dst_mean_piat_ms") == [2, 1, 1.0]
    assert cells(flows, named("bidirectional", "min mean stddev max", "piat_ms")) == [1.0, 1.0, 0.0, 1.0]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "nfstream")
    check_values(flows)
    assert cells(flows, "bidirectional_mean_piat_ms bidirectional_stddev_ps bidirectional_syn_packets") == [None] * 3
    assert cells(flows, "dst2src_packets dst2src_first_seen_ms dst2src_min_ps dst2src_duration_ms") == [0, *[None] * 3]
    assert cells(flows, "bidirectional_syn_packets bidirectional_min_ps", 1) == [1, 74]  # 14 + 40 + 20
    assert cells(flows, "bidirectional_mean_piat_ms", 3) == [0.0]
    # 30, 25 (back), 40, 35 ms: the gaps of the flow are 0, 10, 0; those of the originator 10, 0; earliest is 25.
    assert cells(flows, "bidirectional_max_piat_ms bidirectional_min_piat_ms", 4) == [10.0, 0.0]
    assert cells(flows, "bidirectional_mean_piat_ms src2dst_mean_piat_ms", 4) == pytest.approx([10 / 3, 5.0])
    assert cells(flows, "bidirectional_duration_ms", 4) == [15.0]
