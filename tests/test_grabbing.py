"""The room `grabbing` as a whole: the two flows of FFPF's paper at work, and a program that dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from needs import LIBPCAP

from traceflow import FlowSpec, Monitor

HTTP_FLOW = '(device,eth0) | (device,eth1) -> (sampler,2,4) -> (BPF,"tcp port 80") -> (bytecount,,8)'
OTHER_FLOW = "(device,eth0) | (device,eth1) -> (sampler,2,4) -> (packetcount,,4)"
ONE_DEVICE = "(device,eth0) -> (sampler,2,4) -> (packetcount,,4)"

SAMPLED_OCTETS = 4288
"""The wire lengths of the odd frames with TCP port 80 among the 59 of http.pcap, from

tshark -r fixtures/http.pcap -Y 'frame.number % 2 == 1 && tcp.port == 80' -T fields -e frame.len | paste -sd+ | bc
"""


@pytest.fixture
def monitor(fixtures_folder: Path) -> Monitor:
    """eth0 carries http.pcap; eth1 nothing at all, as if its cable were unplugged."""
    return Monitor({"eth0": fixtures_folder / "http.pcap", "eth1": fixtures_folder / "T32-header-only.pcap"})


@LIBPCAP
def test_the_flows_of_the_paper_share_their_sampler(monitor: Monitor) -> None:
    with monitor:
        first = monitor.instantiate(FlowSpec.parse(HTTP_FLOW))
        assert monitor.nodes == 5  # two devices, sampler, BPF, counter
        second = monitor.instantiate(FlowSpec.parse(OTHER_FLOW))
        assert monitor.nodes == 6  # and one counter: devices and sampler are there
        for grabber in (first, second):
            grabber.activate()
        monitor.run()
        assert first.counters["(bytecount,,8)"] == {"octets": SAMPLED_OCTETS}
        assert second.counters["(packetcount,,4)"] == {"packets": 30}  # frames 1, 3, ... 59
        assert first.counters["(sampler,2,4)"] == second.counters["(sampler,2,4)"] == {"packets": 59, "passed": 30}
        first.close()
        assert monitor.nodes == 4
        assert first.counters["(bytecount,,8)"] == {"octets": SAMPLED_OCTETS}


@LIBPCAP
def test_a_sampler_behind_other_devices_is_another_one(monitor: Monitor) -> None:
    with monitor:
        monitor.instantiate(FlowSpec.parse(HTTP_FLOW))
        monitor.instantiate(FlowSpec.parse(ONE_DEVICE))
        assert monitor.nodes == 7  # 5, a sampler of its own and its counter; eth0 is there


_DIES = """
import os, signal, sys
from traceflow import FlowSpec, Monitor
monitor = Monitor({"eth0": sys.argv[1]})
grabber = monitor.instantiate(FlowSpec.parse("(device,eth0) -> (sampler,1)"))
grabber.activate()
monitor.start()
assert grabber.wait(5, 60) >= 5
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.once("a process that is killed")
def test_a_program_that_dies_leaves_nothing_behind(fixtures_folder: Path, tmp_path: Path) -> None:
    """No file where it ran, and none in the folder for temporary ones; it makes none anywhere else."""
    command = [sys.executable, "-c", _DIES, str(fixtures_folder.resolve() / "http.pcap")]
    done = subprocess.run(
        command, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(tmp_path.iterdir()) == []


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(folder)}


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("grabbers", ["{'(packetcount)': {'packets': 26}}", "[34 35 49 50 51 52]", "198.51.100.80_80-"]),
        ("policy", ["needed is sampler before it"]),
    ],
)
def test_the_examples_of_the_pages_run(
    page: str, says: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """26 frames of http.pcap have TCP port 80, ten at a time; the last six are what
    tshark -r fixtures/http.pcap -Y 'tcp.port == 80' -T fields -e frame.number | tail -6 says."""
    root = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (root / "docs" / f"{page}.md").read_text("utf-8"), re.DOTALL):
        exec(block, names)  # noqa: S102 - our own pages
    printed = capsys.readouterr().out
    assert [words for words in says if words not in printed] == []
