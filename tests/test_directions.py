"""The room `directions`: who originates a flow, by its first packet. Other rules: test_table.py, test_zeek.py."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from traceflow.directions import BY_TRANALYZER, DIRECTIONS, first_sender_originates
from traceflow.options import Options
from traceflow.packets import PACKET

SYN, ACK, TCP, UDP, ICMP = 0x02, 0x10, 6, 17, 1
NO_PORTS = np.zeros(65536, np.uint8)


def originates(direction: int, sport: int, dport: int, protocol: int = UDP, flags: int = 0) -> bool:
    row = np.zeros(1, PACKET)[0]
    row["src_port"], row["dst_port"], row["protocol"], row["flags"] = sport, dport, protocol, flags
    return bool(first_sender_originates(row, direction, NO_PORTS))


def test_every_value_of_the_option_has_its_number() -> None:
    values = typing.get_args(typing.get_type_hints(Options)["direction"])
    assert set(DIRECTIONS) == set(values)
    assert len(set(DIRECTIONS.values())) == len(values)


@pytest.mark.parametrize(
    ("sport", "dport", "a"),
    [
        (1000, 80, True),
        (80, 1000, False),
        (1023, 1024, False),
        (1024, 1025, True),  # 1024 is no well-known port
        (80, 80, True),  # not below the other one
        (0, 0, True),
        (0, 1, False),
        (443, 80, True),
        # 8080 is 0b1111110010000; 0xfff6 drops bits 0 and 3: 8080, 8081, 8088, 8089
        (8080, 1000, False),
        (8081, 60000, False),
        (8088, 60000, False),
        (8089, 1, False),
        (8082, 60000, True),
        (8084, 60000, True),
        (8079, 60000, True),
        (8090, 60000, True),
        (60000, 8080, True),
    ],
)
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_direction_of_tranalyzer(sport: int, dport: int, a: bool, protocol: int) -> None:
    """`B` if (sport < 1024 and sport < dport) or (sport & 0xfff6) == 8080, else `A`."""
    assert originates(BY_TRANALYZER, sport, dport, protocol, flags=ACK if protocol == TCP else 0) == a


def test_syn_ack_goes_in_direction_b() -> None:
    assert not originates(BY_TRANALYZER, 60000, 5000, TCP, SYN | ACK)
    assert originates(BY_TRANALYZER, 60000, 5000, TCP, SYN)


def test_identifiers_of_icmp_are_no_ports() -> None:
    assert originates(BY_TRANALYZER, 8080, 8080, ICMP)
    assert originates(BY_TRANALYZER, 8080, 8080, 58)
