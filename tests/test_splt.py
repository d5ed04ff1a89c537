"""Plugin splt: one sequence of both directions, by hand."""

from __future__ import annotations

import pytest
from exchange import MS_NS, START_NS, Exchange, Wire
from plugin_runs import cells, check_values, odd_wire, traced

import traceflow
from traceflow.errors import UsageError

NAMES = "splt_count splt_sizes splt_directions splt_times_ns"


def test_an_exchange() -> None:
    """T01 with 1 ms between frames: SYN, SYN-ACK, ACK, 3 octets, 6 octets, ACK, FIN, ACK, FIN, ACK; headers 40."""
    talk = Exchange()
    talk.connection()
    directions = "1;-1;1;1;-1;1;1;-1;-1;1"
    times = ";".join(["0", *["1000000"] * 9])
    assert cells(traced(talk, "splt"), NAMES) == [10, "40;40;40;43;46;40;40;40;40;40", directions, times]
    assert cells(traced(talk, "splt:size=payload"), "splt_sizes") == ["0;0;0;3;6;0;0;0;0;0"]
    assert cells(traced(talk, "splt:size=wire"), "splt_sizes") == ["54;54;54;57;60;54;54;54;54;54"]


def test_only_the_first_n() -> None:
    talk = Exchange()
    talk.connection()
    assert cells(traced(talk, "splt:n=4"), NAMES) == [4, "40;40;40;43", "1;-1;1;1", "0;1000000;1000000;1000000"]
    assert cells(traced(talk, "splt:n=1"), NAMES) == [1, "40", "1", "0"]


def test_up_to_255_of_more() -> None:
    """300 datagrams, the sides in turn."""
    talk = Exchange()
    for _ in range(150):
        talk.a.udp(b"ab")
        talk.b.udp(b"c")
    count, sizes, directions, _ = cells(traced(talk, "splt:n=255,size=payload"), NAMES)
    assert count == 255
    assert sizes == ";".join((["2", "1"] * 128)[:255])
    assert directions == ";".join((["1", "-1"] * 128)[:255])


@pytest.mark.parametrize("setting", ["n=0", "n=256", "n=x", "size=frame"])
def test_settings_out_of_range(setting: str) -> None:
    with pytest.raises(UsageError, match="plugin splt"):
        traceflow.trace("-", plugins=[f"splt:{setting}"])


def test_a_flow_that_turns() -> None:
    """Data of b, then a SYN-ACK of b: only that shows that b is the responder; all of b's packets are -1."""
    talk = Exchange()
    talk.b.data(b"12345")
    talk.b.syn_ack()
    talk.a.ack()
    flows = traced(talk, "splt:size=payload")
    assert (flows[0].turned, str(flows[0].orig_addr)) == (1, "10.0.0.1")
    assert cells(flows, "splt_sizes splt_directions") == ["5;0;0", "-1;-1;1"]


@pytest.mark.parametrize(("a", "b"), [("10.0.0.1:9", "10.0.0.2:8"), ("10.0.0.2:8", "10.0.0.1:9")])
def test_either_end_may_be_the_lower_one(a: str, b: str) -> None:
    talk = Exchange(a, b)
    talk.a.udp(b"1")
    talk.a.udp(b"22")
    talk.b.udp(b"333")
    talk.a.udp(b"4444")
    assert cells(traced(talk, "splt:size=payload"), "splt_sizes splt_directions") == ["1;2;3;4", "1;1;-1;1"]


def test_times_that_go_back_and_stand_still() -> None:
    """At 5, 3, 3, 9 ms: 0, -2, 0, 6; their sum is the 4 ms from the first to the last."""
    wire = Wire()
    talk = Exchange(wire=wire)
    for ms in (5, 3, 3, 9):
        wire.at(START_NS + ms * MS_NS)
        (talk.b if ms == 3 else talk.a).udp()
    assert cells(traced(wire, "splt"), "splt_times_ns splt_directions") == ["0;-2000000;0;6000000", "1;-1;-1;1"]


def test_each_segment_of_a_cut_flow_has_its_own() -> None:
    talk = Exchange()
    talk.a.udp(b"1")
    talk.wait(s=2)
    talk.b.udp(b"22")
    flows = traced(talk, "splt:size=payload", active_timeout_ns=10**9)
    assert [flow.segment for flow in flows] == [1, 2]
    assert cells(flows, NAMES, 0) == [1, "1", "1", "0"]
    assert cells(flows, NAMES, 1) == [1, "2", "-1", "0"]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "splt")
    check_values(flows)
    assert cells(flows, NAMES, 0) == [1, "29", "1", "0"]
    assert cells(flows, NAMES, 1) == [1, "60", "1", "0"]
    assert cells(flows, NAMES, 2) == [2, "32;32", "1;-1", "0;1000000"]
    assert cells(flows, NAMES, 3) == [3, "29;30;31", "1;1;1", "0;0;0"]
    assert cells(flows, NAMES, 4) == [4, "44;44;44;44", "1;-1;1;1", "0;-5000000;15000000;-5000000"]
    assert cells(flows, NAMES, 6) == [2, "56;54", "1;-1", "0;1000000"]  # IPv6 40, UDP 8
