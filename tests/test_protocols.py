"""The room `protocols`: names of IP protocols, against IANA's registry as far as this file copies it."""

from __future__ import annotations

import re

import pytest

from traceflow.protocols import has_ports, protocol_name


@pytest.mark.parametrize(
    ("number", "name"),
    [
        *[(1, "ICMP"), (2, "IGMP"), (6, "TCP"), (17, "UDP"), (41, "IPv6"), (47, "GRE"), (50, "ESP"), (51, "AH")],
        *[(58, "ICMPv6"), (89, "OSPF"), (103, "PIM"), (132, "SCTP"), (33, "DCCP"), (136, "UDPLite"), (0, "HOPOPT")],
    ],
)
def test_known_names(number: int, name: str) -> None:
    assert protocol_name(number) == name


@pytest.mark.parametrize("number", [61, 253, 254, 255])
def test_numbers_without_a_name(number: int) -> None:
    """IANA has no keyword for 61 (any host internal protocol) nor for 253 to 255 (experiments, reserved)."""
    assert protocol_name(number) == f"IP{number}"


def test_names_are_unique_and_safe_in_file_names() -> None:
    names = [protocol_name(number) for number in range(256)]
    assert len({name.lower() for name in names}) == 256
    assert all(re.fullmatch(r"[0-9A-Za-z.-]+", name) for name in names)


def test_ports() -> None:
    assert [number for number in range(256) if has_ports(number)] == [6, 17, 33, 132, 136]
