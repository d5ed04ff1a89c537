"""The room `flows`: what a user holds in the hand. The captures are exchanges whose columns are counted by hand."""

from __future__ import annotations

import copy
import io
import ipaddress
import pickle
from pathlib import Path

import numpy as np
import pytest
from exchange import ICMP, Exchange, Wire

from traceflow import trace
from traceflow.flows import FLOW, REASON_OF_CAUSE, EndCause, EndReason, Flow, FlowSet, flat_columns, undefined_where
from traceflow.tcp import FLAG_NAMES

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def flows() -> FlowSet:
    """T01 in frames 1-10, then UDP over IPv6 in 11 and 12, ICMP in 13, and what is no IP in 14."""
    wire = Wire(start_ns=10**9)
    Exchange(wire=wire).connection()
    talk = Exchange("[2001:db8::1]:1000", "[2001:db8::2]:53", wire=wire)
    talk.a.udp(b"ask")
    talk.b.udp(b"answer")
    Exchange("10.0.0.9:0", "10.0.0.8:0", wire=wire).a.ip(ICMP, b"12345678")
    wire.frame(bytes(60))
    return trace(io.BytesIO(wire.pcap_octets()))


def test_flow(flows: FlowSet) -> None:
    flow = flows[0]
    assert (flow.number, flow.protocol, flow.protocol_name, flow.ip_version) == (1, 6, "TCP", 4)
    assert (flow.orig_addr, flow.orig_port) == (ipaddress.IPv4Address("10.0.0.1"), 1000)
    assert (flow.resp_addr, flow.resp_port) == (ipaddress.IPv4Address("10.0.0.2"), 80)
    assert (flow.first_ns, flow.last_ns, flow.duration_ns) == (10**9, 1_009_000_000, 9_000_000)
    assert (flow.packets, flow.orig.packets, flow.resp.packets) == (10, 6, 4)
    assert (flow.end_cause, flow.end_reason, flow.turned) == (EndCause.FIN, EndReason.END_OF_FLOW_DETECTED, 0)
    assert flow.label == "10.0.0.1_1000-10.0.0.2_80-1.000000"
    assert type(flow.number) is int
    assert type(flow.orig.payload_octets) is int


def test_ipv6_flow(flows: FlowSet) -> None:
    flow = flows[1]
    assert (flow.orig_addr, flow.resp_addr) == (
        ipaddress.ip_address("2001:db8::1"),
        ipaddress.ip_address("2001:db8::2"),
    )
    assert (flow.protocol_name, flow.orig.payload_octets, flow.resp.payload_octets) == ("UDP", 3, 6)
    assert flow.orig.flags.tolist() == [0] * 8


def test_frames(flows: FlowSet) -> None:
    assert [flow.frames.tolist() for flow in flows] == [[*range(1, 11)], [11, 12], [13]]
    assert flows[0].frames_from("orig").tolist() == [1, 3, 4, 6, 7, 10]
    assert flows[0].frames_from("resp").tolist() == [2, 5, 8, 9]
    assert flows[2].frames_from("resp").tolist() == []
    assert flows.frame_map.flow_of(14) == 0


@pytest.mark.parametrize(("a", "b"), [("10.0.0.1:9", "10.0.0.2:9"), ("10.0.0.2:9", "10.0.0.1:9")])
def test_frames_from_either_end_of_the_key(a: str, b: str) -> None:
    talk = Exchange(a, b)
    talk.a.udp()
    talk.b.udp()
    talk.b.udp()
    (flow,) = trace(io.BytesIO(talk.wire.pcap_octets()))
    assert (flow.frames_from("orig").tolist(), flow.frames_from("resp").tolist()) == ([1], [2, 3])


def test_every_column_is_an_attribute(flows: FlowSet) -> None:
    """Of the fields that columns.md lists without a mark; what means nothing there is None, as in to_pandas()."""
    table = flat_columns(flows.columns)
    for name, values in table.items():
        side, _, part = name.partition("_")
        whole = side not in ("orig", "resp") or part in ("addr", "port")
        found = getattr(flows[0], name) if whole else getattr(getattr(flows[0], side), part)
        undefined = undefined_where(flows.columns, name)
        if undefined is not None and undefined[0]:
            assert found is None or name in ("tunnel", "history")
        elif name not in ("orig_addr", "resp_addr", "end_cause", "conn_state", "tunnel", "history"):
            assert found == values[0], name
        assert name in dir(flows[0]) or part in dir(flows[0].orig)
    assert flows[0].orig.flags.tolist() == [getattr(flows[0].orig, name) for name in FLAG_NAMES]


@pytest.mark.parametrize("name", ["packetz", "payload_octets", "_hidden", "__len__"])
def test_no_such_column(flows: FlowSet, name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(flows[0], name)


def test_the_error_names_the_columns(flows: FlowSet) -> None:
    with pytest.raises(AttributeError, match=r"no column 'packetz'; it has number, .*orig_addr"):
        _ = flows[0].packetz
    with pytest.raises(AttributeError, match=r"no column 'packetz'; it has packets, wire_octets"):
        _ = flows[0].orig.packetz
    assert not hasattr(flows[0], "packetz")


def test_a_flow_set_is_a_sequence(flows: FlowSet) -> None:
    assert len(flows) == 3
    assert [flow.number for flow in flows] == [1, 2, 3]
    assert (flows[-1].number, flows[-3].number) == (3, 1)
    assert [flow.number for flow in flows[1:]] == [2, 3]
    assert [flow.number for flow in flows[::-1]] == [3, 2, 1]
    assert flows[5:] == []
    assert [flow.number for flow in reversed(flows)] == [3, 2, 1]
    assert flows[np.int64(1)].number == 2
    for at in (3, -4, 10**9):
        with pytest.raises(IndexError):
            _ = flows[at]


def test_flows_can_be_compared_and_kept_in_sets(flows: FlowSet) -> None:
    assert flows[0] == flows[0]
    assert flows[0] != flows[1]
    assert flows[1] in flows
    assert flows.index(flows[2]) == 2
    assert len({*flows, *flows}) == 3
    assert flows[0] != trace(FIXTURES / "T01.pcap")[0], "a flow of another capture"


def pickled(thing: object) -> object:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 - what it reads was written on the same line


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickled])
def test_flows_can_be_copied_and_pickled(flows: FlowSet, how: object) -> None:
    assert callable(how)
    again: Flow = how(flows[0])
    assert (again.label, again.frames.tolist()) == (flows[0].label, [*range(1, 11)])
    assert how(flows[0].orig).packets == 6
    assert [flow.label for flow in how(flows)] == [flow.label for flow in flows]


def test_reprs_say_what_matters(flows: FlowSet) -> None:
    assert repr(flows[0]) == "<Flow 1: 10.0.0.1_1000-10.0.0.2_80-1.000000, 10 frames, ended by fin>"
    assert repr(flows[0].resp) == "<Half: 4 packets, 6 payload octets>"
    assert repr(flows) == "<FlowSet: 3 flows, 13 of 14 frames>"


def test_flat_columns(flows: FlowSet) -> None:
    columns = flat_columns(flows.columns)
    assert {len(column) for column in columns.values()} == {3}
    assert list(columns)[:6] == ["number", "orig_addr", "resp_addr", "orig_port", "resp_port", "protocol"]
    assert list(columns["orig_addr"]) == ["10.0.0.1", "2001:db8::1", "10.0.0.9"]
    assert list(columns["orig_packets"]) == [6, 1, 1]
    assert list(columns["resp_payload_octets"]) == [6, 6, 0]
    assert list(columns["end_cause"]) == ["fin", "end of input", "end of input"]
    assert list(columns["end_reason"]) == [3, 4, 4]
    assert [int(columns[f"orig_{flag}"][0]) for flag in FLAG_NAMES] == [1, 1, 0, 1, 5, 0, 0, 0]
    assert [int(columns[f"resp_{flag}"][0]) for flag in FLAG_NAMES] == [1, 1, 0, 1, 4, 0, 0, 0]
    assert not {"orig_bits", "resp_time_bits", "upper_originates", "orig", "resp"} & set(columns)


def test_flat_columns_of_no_flows() -> None:
    assert {len(column) for column in flat_columns(np.zeros(0, FLOW)).values()} == {0}


def test_to_pandas(flows: FlowSet) -> None:
    pytest.importorskip("pandas", reason="pandas is optional")
    frame = flows.to_pandas()
    assert list(frame.columns) == list(flat_columns(flows.columns))
    assert frame["number"].tolist() == [1, 2, 3]
    assert frame["resp_addr"].tolist() == ["10.0.0.2", "2001:db8::2", "10.0.0.8"]
    assert frame["orig_wire_octets"].sum() == 327 + (14 + 40 + 8 + 3) + (14 + 20 + 8)


def test_reasons_of_causes() -> None:
    """RFC 5102, 5.11.3: 1 idle timeout, 2 active timeout, 3 end of flow detected, 4 forced end, 5 lack of resources."""
    assert [int(reason) for reason in EndReason] == [1, 2, 3, 4, 5]
    names = ("IDLE", "FIN", "RST", "NEW_SYN", "END_OF_INPUT", "EVICTED")
    causes = np.array([EndCause[name] for name in names], np.uint8)
    assert REASON_OF_CAUSE[causes].tolist() == [1, 3, 3, 3, 4, 5]
    assert [EndCause[name].text for name in names] == ["idle", "fin", "rst", "new syn", "end of input", "evicted"]
