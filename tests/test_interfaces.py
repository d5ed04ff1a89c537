"""The list of interfaces: ours against libpcap's, and the command."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable

import pytest

from traceflow.errors import CannotReadError, LibraryMissingError
from traceflow.sinks.rows_fields import INTERFACE_FIELDS
from traceflow.sources.interfaces import device_named, devices, no_permission
from traceflow.sources.live_libpcap import libpcap_devices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces of Linux")


def test_the_loopback_interface() -> None:
    lo = device_named("lo")
    assert (lo.index, lo.link, lo.cooked, lo.loopback) == (socket.if_nametoindex("lo"), 1, False, True)
    listed = {device.name: device for device in devices()}
    assert "127.0.0.1" in listed["lo"].addresses
    assert listed.keys() == {name for _, name in socket.if_nameindex()}


def test_all_at_once_is_cooked() -> None:
    everything = device_named("any")
    assert (everything.index, everything.link, everything.cooked) == (0, 276, True)


def test_libpcap_finds_the_same() -> None:
    try:
        theirs = {device.name: device for device in libpcap_devices()}
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")
    ours = {device.name: device for device in devices()}
    assert theirs.keys() == ours.keys()
    for name, device in ours.items():
        assert set(theirs[name].addresses) == set(device.addresses), name
        assert (theirs[name].index, theirs[name].loopback) == (device.index, device.loopback)
        assert (theirs[name].state == "down") == (device.state == "down"), name


def test_an_unknown_interface_names_those_that_there_are() -> None:
    with pytest.raises(CannotReadError, match=r"unknown interface 'lo0'\. Did you mean lo\?"):
        device_named("lo0")
    with pytest.raises(CannotReadError, match="unknown interface"):
        device_named("a name that is longer than sixteen octets")


def test_the_permission_is_one_command_away() -> None:
    assert "sudo setcap cap_net_raw,cap_net_admin=eip /" in str(no_permission("eth0"))


def test_the_command(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("interfaces", "-T", "csv")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split(",") == list(INTERFACE_FIELDS)
    lo = next(line.split(",") for line in lines if line.startswith("lo,"))
    assert lo[4:7] == ["1", "EN10MB", str(device_named("lo").mtu)]
    code, out, _ = cli("interfaces", "-T", "jsonl", "--fields", "interface,capture")
    assert {json.loads(line)["interface"] for line in out.splitlines()} == {name for _, name in socket.if_nameindex()}
    assert {json.loads(line)["capture"] for line in out.splitlines()} <= {"yes", "no permission", "down"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("flows",), "Missing argument 'CAPTURE...'. Name a capture, or an interface with -i"),
        (("trace", "-o", "x"), "Missing argument 'CAPTURE...'."),
        (("flows", "x.pcap", "-i", "lo"), "-i captures interfaces; leave it out, or the captures (x.pcap)"),
        (("flows", "-i", "lo", "-i", "lo"), "an interface was given twice"),
        (("frames", "x.pcap", "--snaplen", "60"), "--snaplen is for interfaces; name one with -i"),
        (("frames", "x.pcap", "-p"), "-p is for interfaces; name one with -i"),
        (("flows", "-i", "lo", "--buffer", "many"), "'many' is no size"),
        (("flows", "-i", "lo", "--backend", "rings"), "unknown backend 'rings'"),
        (("flows", "-i", "lo", "--fields", "frames"), "frames cannot be streamed"),
        (("flows", "-i", "lo", "--buffer", "1MiB"), "a buffer of 1048576 octets; allowed: 2097152 to 2147483648"),
    ],
)
def test_what_is_refused(cli: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], says: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())


def test_an_unknown_interface_on_the_command_line(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cli("flows", "-i", "lo0")
    assert (code, out) == (1, "")
    assert "traceflow: unknown interface 'lo0'. Did you mean lo?" in err
