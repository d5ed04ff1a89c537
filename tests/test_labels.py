"""The room `labels`: text of addresses, times and labels. Expectations are written by hand."""

from __future__ import annotations

import io
import ipaddress
import re

import numpy as np
import pytest
from exchange import Exchange, Wire
from hypothesis import given
from hypothesis import strategies as st

from traceflow import trace
from traceflow.flows import FLOW
from traceflow.labels import address, address_texts, direction_label, flow_label, label_text, time_text, time_texts
from traceflow.packets import FINER_THAN_MICROSECONDS

V4, V6 = (0, 0xFFFF_0A00_0001), (0x2001_0DB8_0000_0000, 1)
MAPPED = (0, 0xFFFF_0A00_0001)


def test_addresses() -> None:
    assert address(V4, 4) == ipaddress.IPv4Address("10.0.0.1")
    assert address(V6, 6) == ipaddress.IPv6Address("2001:db8::1")
    assert address(MAPPED, 6) == ipaddress.IPv6Address("::ffff:10.0.0.1")


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from([4, 6])), max_size=8))
def test_address_texts(values: list[tuple[int, int, int]]) -> None:
    """Each as `ipaddress` writes it, repeated ones too."""
    values = values * 2
    halves = np.array([value[:2] for value in values], np.uint64).reshape(-1, 2)
    versions = np.array([value[2] for value in values], np.uint8)
    assert address_texts(halves, versions) == [
        str(ipaddress.IPv4Address(low % 2**32) if version == 4 else ipaddress.IPv6Address(high << 64 | low))
        for high, low, version in values
    ]


@pytest.mark.parametrize(
    ("time_ns", "bits", "text"),
    [
        (0, 0, "0.000000"),
        (0, FINER_THAN_MICROSECONDS, "0.000000000"),
        (1_700_000_000_000_001_000, 0, "1700000000.000001"),
        (1_700_000_000_123_456_789, FINER_THAN_MICROSECONDS, "1700000000.123456789"),
        (1_700_000_000_123_456_789, 0, "1700000000.123456"),
        (1_000_000_000, 2, "1.000000"),  # the other bit of `time_bits`
        (10_000, 0, "0.000010"),  # not 1e-05
        (-1_500_000_000, 0, "-1.500000"),
        (-1, FINER_THAN_MICROSECONDS, "-0.000000001"),
        (-(2**62), FINER_THAN_MICROSECONDS, "-4611686018.427387904"),
    ],
)
def test_time_text(time_ns: int, bits: int, text: str) -> None:
    assert time_text(time_ns, bits) == text
    assert time_text(np.int64(time_ns), np.uint8(bits)) == text  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62) | st.integers(0, 10**10), st.sampled_from([0, 0, 1, 2]))))
def test_time_texts_are_those_of_each(times: list[tuple[int, int]]) -> None:
    columns = np.array([time for time, _ in times], np.int64), np.array([bits for _, bits in times], np.uint8)
    assert time_texts(*columns) == [time_text(*time) for time in times]


@pytest.mark.parametrize(
    ("parts", "label"),
    [
        (("TCP", "10.0.0.1", 1000, "10.0.0.2", 80, "17.5"), "10.0.0.1_1000-10.0.0.2_80-17.5"),
        (("UDP", "10.0.0.1", 1000, "10.0.0.2", 80, "17.5"), "UDP_10.0.0.1_1000-10.0.0.2_80-17.5"),
        (("ICMP", "10.0.0.1", None, "10.0.0.2", None, "17.5"), "ICMP_10.0.0.1-10.0.0.2-17.5"),
        (("TCP", "2001:db8::1", 1, "::", 0, "17"), "2001.db8..1_1-.._0-17"),
        (("TCP", "fe80::1%eth0/..", 1, "a b\\c", 2, "1:2\n"), "fe80..1_eth0_.._1-a_b_c_2-1_2_"),
    ],
)
def test_label_text(parts: tuple[str, str, int | None, str, int | None, str], label: str) -> None:
    assert label_text(*parts) == label


def labels_of(wire: Wire) -> list[str]:
    return [flow.label for flow in trace(io.BytesIO(wire.pcap_octets(nanosecond=True)))]


def test_label_of_a_flow() -> None:
    """From originator to responder, with the time of its first frame, whoever sent that: T07's SYN-ACK comes first."""
    wire = Wire(start_ns=5 * 10**9)
    talk = Exchange(wire=wire)
    talk.b.syn_ack(ack=101)
    talk.a.syn(seq=100)
    Exchange("[2001:db8::1]:9", "[2001:db8::2]:53", wire=wire).a.udp()
    Exchange("10.0.0.1:0", "10.0.0.2:0", wire=wire).a.ip(1, b"")
    assert labels_of(wire) == [
        "10.0.0.1_1000-10.0.0.2_80-5.000000000",
        "UDP_2001.db8..1_9-2001.db8..2_53-5.002000000",
        "ICMP_10.0.0.1-10.0.0.2-5.003000000",
    ]


def flow_row() -> np.void:
    row = np.zeros(1, FLOW)[0]
    row["orig_addr"], row["resp_addr"], row["ip_version"], row["protocol"] = V4, (0, 0xFFFF_0A00_0002), 4, 6
    row["orig_port"], row["resp_port"] = 1000, 80
    for side, frame, time_ns in (("orig", 1, 10**9), ("resp", 2, 2 * 10**9)):
        row[side]["packets"], row[side]["opened_frame"], row[side]["opened_ns"] = 1, frame, time_ns
    return row


def test_label_of_a_direction() -> None:
    row = flow_row()
    assert direction_label(row, "orig") == "10.0.0.1_1000-10.0.0.2_80-1.000000"
    assert direction_label(row, "resp") == "10.0.0.2_80-10.0.0.1_1000-2.000000"
    row["resp"]["time_bits"] = FINER_THAN_MICROSECONDS
    assert direction_label(row, "resp") == "10.0.0.2_80-10.0.0.1_1000-2.000000000"


def test_label_takes_the_frame_that_came_first_not_the_earliest_time() -> None:
    row = flow_row()
    row["resp"]["opened_ns"] = 0
    assert flow_label(row) == "10.0.0.1_1000-10.0.0.2_80-1.000000"
    row["orig"]["opened_frame"] = 3
    assert flow_label(row) == "10.0.0.1_1000-10.0.0.2_80-0.000000"


def test_label_of_a_flow_of_one_direction() -> None:
    row = flow_row()
    row["resp"] = np.zeros(1, FLOW)["resp"][0]
    assert flow_label(row) == "10.0.0.1_1000-10.0.0.2_80-1.000000"
    row = flow_row()
    row["orig"] = np.zeros(1, FLOW)["orig"][0]
    assert flow_label(row) == "10.0.0.1_1000-10.0.0.2_80-2.000000"


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 65535), st.text(max_size=10))
def test_labels_are_safe_file_names(src: str, dst: str, port: int, time: str) -> None:
    assert re.fullmatch(r"[0-9A-Za-z.+_-]+", label_text("UDP", src, port, dst, port, time))
