"""The room `inlets`: names of devices, and what stands behind them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from traceflow.errors import CannotReadError, TraceflowError, UsageError
from traceflow.filters.text import parse_graph
from traceflow.grabbing.inlets import Device, Devices
from traceflow.packets import Batch
from traceflow.sources import open_source


def none(name: str) -> Any:
    raise CannotReadError(f"no interface {name}")


def test_paths_that_name_no_device_begin_with_all_of_them() -> None:
    devices = Devices({"eth0": "a.pcap", "eth1": "b.pcap"}, none)
    graph = devices.connected(parse_graph("(port,80) | ((device,eth1) -> (port,53))"))
    assert graph == parse_graph("((device,eth0) | (device,eth1) -> (port,80)) | ((device,eth1) -> (port,53))")
    named = parse_graph("(device,eth7) -> (port,80)")
    assert devices.connected(named) == named


def test_without_any_device_such_a_path_has_no_beginning() -> None:
    with pytest.raises(UsageError, match=r"\(port,80\) has no device before it"):
        Devices(None, none).connected(parse_graph("(port,80)"))


def test_a_file_that_exists_is_a_capture_and_every_other_name_an_interface(fixtures_folder: Path) -> None:
    opened: list[str] = []

    def interface(name: str) -> Any:
        opened.append(name)
        return open_source()

    devices = Devices(None, interface)
    path = str(fixtures_folder / "T01.pcap")
    devices.open(parse_graph(f'(device,"{path}") | (device,eth0) -> (packetcount)'))
    devices.open(parse_graph("(device,eth0) -> (bytecount)"))
    assert opened == ["eth0"]  # once
    assert devices.names == (path, "eth0")
    batch = devices[path].next()
    assert batch is not None
    assert len(batch.frames) == 10
    assert devices[path].next() is None


def test_a_mapping_lets_a_file_be_an_interface(fixtures_folder: Path) -> None:
    devices = Devices({"eth0": fixtures_folder / "T01.pcap"}, none)
    (device,) = devices.open(parse_graph("(device,eth0)"))
    assert (device.name, device.live, device.ended) == ("eth0", False, False)
    devices.close()
    assert device.ended


def test_where_devices_are_given_no_other_is_opened_but_files(fixtures_folder: Path) -> None:
    devices = Devices(["eth0", "wlan0"], none)
    with pytest.raises(UsageError, match=r"unknown device 'eht0'. Did you mean eth0"):
        devices.open(parse_graph("(device,eht0)"))
    devices.open(parse_graph(f'(device,"{fixtures_folder / "T01.pcap"}")'))
    with pytest.raises(CannotReadError, match="no interface eth0"):
        devices.open(parse_graph("(device,eth0)"))


def test_sources_that_are_open_have_the_name_of_their_capture(fixtures_folder: Path) -> None:
    path = fixtures_folder / "T01.pcap"
    with open_source(path) as captures:
        assert Devices(captures, none).names == (str(path),)
        assert Devices([captures, "b.pcap"], none).names == (str(path), "b.pcap")


@pytest.mark.parametrize(("sources", "words"), [
    ({"a": 3}, "it must be a path, an interface, or an open source"),
    ({"": "a.pcap"}, "text that is not empty"),
    (["a.pcap", "a.pcap"], "two devices have the name a.pcap"),
    ([open_source()], "has no name"),
    (3, "sources are paths, interfaces or open sources, not 3"),
])  # fmt: skip
def test_what_is_no_device(sources: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Devices(sources, none)


class Failing:
    """Gives nothing but an error."""

    def __init__(self) -> None:
        self.errors: list[TraceflowError] = []
        self.stopped = self.closed = False
        self.live = True

    def batches(self) -> Iterator[Batch]:
        raise CannotReadError("eth0 is down")

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def test_a_device_that_fails_has_an_end_and_an_error() -> None:
    source = Failing()
    device = Device("eth0", 0, source, ours=True)
    assert device.live
    assert device.next() is None
    assert [str(error) for error in device.errors] == ["eth0 is down"]
    device.stop()
    device.close()
    assert (source.stopped, source.closed) == (True, True)


def test_what_others_opened_is_left_open() -> None:
    source = Failing()
    Device("eth0", 0, source, ours=False).close()
    assert not source.closed
