"""Parameters of `host` and `net`; which frames they mean is in test_headers.py."""

from __future__ import annotations

import ipaddress

import pytest

from traceflow.errors import UsageError
from traceflow.filters.build import host, net
from traceflow.filters.kinds import make_call


@pytest.mark.parametrize(
    ("kind", "spellings", "canonical"),
    [
        ("host", ("10.0.0.1", "either 10.0.0.1", "src or dst 10.0.0.1"), "10.0.0.1"),
        ("host", ("SRC  2001:0DB8::0001",), "src 2001:db8::1"),
        ("host", ("::ffff:a00:1",), "::ffff:10.0.0.1"),
        ("net", ("10.0.0.0/8", "10.0.0.0/255.0.0.0"), "10.0.0.0/8"),
        ("net", ("10.0.0.1",), "10.0.0.1/32"),
        ("net", ("dst 2001:db8::/032",), "dst 2001:db8::/32"),
    ],
)
def test_all_spellings_have_one_form(kind: str, spellings: tuple[str, ...], canonical: str) -> None:
    assert {make_call(kind, spelling).parameter for spelling in (*spellings, canonical)} == {canonical}


@pytest.mark.parametrize(
    ("kind", "parameter", "says"),
    [
        ("host", "", "an address is missing"),
        ("host", "src", "'src' is no address"),
        ("host", "10.0.0.1 10.0.0.2", "is no address"),
        ("host", "010.0.0.1", "is no address"),
        ("host", "10.0.0.0/8", "is no address"),
        ("host", "fe80::1%eth0", "the zone"),
        ("host", "1" * 9999, "is no address"),
        ("net", "10.0.0.0/33", "from 0 to 32"),
        ("net", "::/129", "from 0 to 128"),
        ("net", "10.0.0.0/", "from 0 to 32"),
        ("net", "10.0.0.0/ 8", "from 0 to 32"),
        ("net", "10.0.0.1/8", "the network is 10.0.0.0/8"),
    ],
)
def test_wrong_parameters(kind: str, parameter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_call(kind, parameter)


def test_objects_of_the_standard_library_will_do() -> None:
    assert host(ipaddress.ip_address("10.0.0.1"), "src") == make_call("host", "src 10.0.0.1")
    assert net(ipaddress.ip_network("10.0.0.0/8")) == make_call("net", "10.0.0.0/8")
