"""Live capture through the whole program: two network namespaces, joined by a pair of interfaces.

Real servers stand in one and real clients in the other, while traceflow and tcpdump record the same interface. The
namespaces are made here, and the tests are skipped where that is not permitted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import traceflow
from traceflow.cli.exits import Exit
from traceflow.sinks.rows_fields import FLOW_FIELDS, FRAME_FIELDS, FRAME_LISTS

pytestmark = [
    pytest.mark.once("it makes network namespaces, and starts servers and captures"),
    pytest.mark.slow_plain("the process that captures would not keep up"),
]

HERE, THERE = f"tf-here-{os.getpid()}", f"tf-there-{os.getpid()}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])}
_SO_TIMESTAMPNS = 35

SERVERS = """
import http.server, socket, threading

class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(bytes(100000))
    def log_message(self, *args):
        pass

web = http.server.ThreadingHTTPServer(("10.77.0.2", 8000), Quiet)
threading.Thread(target=web.serve_forever, daemon=True).start()
sink = socket.create_server(("10.77.0.2", 8001))
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(("10.77.0.2", 8002))

def swallow():
    while True:
        connection, _ = sink.accept()
        while connection.recv(1 << 20):
            pass
        connection.close()

threading.Thread(target=swallow, daemon=True).start()
print("ready", flush=True)
while True:
    data, sender = echo.recvfrom(65535)
    echo.sendto(data, sender)
"""

CLIENTS = """
import socket, urllib.request
for _ in range(5):
    assert len(urllib.request.urlopen("http://10.77.0.2:8000/").read()) == 100000
with socket.create_connection(("10.77.0.2", 8001)) as bulk:
    bulk.sendall(bytes(4_000_000))
    bulk.shutdown(socket.SHUT_WR)
    assert bulk.recv(1) == b""
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(5)
for size in [20] * 10 + [4000] * 3:  # those of 4000 octets go in three fragments
    asked.sendto(bytes(size), ("10.77.0.2", 8002))
    assert len(asked.recv(65535)) == size
# An interface for a VLAN needs a module that not every kernel has; tagged frames do not. The receiver's kernel takes
# the outer tag out of them as it does of any: 802.1Q, and 802.1ad with 802.1Q in it.
ip = bytes.fromhex("45000020000100004011000001020304050607080000000a000c0000") + b"tags"
ip = ip[:20] + bytes.fromhex("04d2162e000c0000") + b"tags"
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
raw.bind(("v0", 0))
for tags in ("81002007", "88a8006481000007", ""):
    raw.send(bytes.fromhex("ffffffffffff020000000001" + tags + "0800") + ip)
"""

UDP = """
import socket
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    asked.sendto(b"x", ("%s", 9))
"""


def command(namespace: str, *arguments: str | Path) -> list[str]:
    return ["ip", "netns", "exec", namespace, *map(str, arguments)]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def python(namespace: str, code: str) -> None:
    subprocess.run(command(namespace, sys.executable, "-c", code), check=True, timeout=30)


@contextlib.contextmanager
def pair(ours: str, theirs: str, net: str) -> Iterator[None]:
    """Two interfaces that are joined, `ours` in HERE with address 1 and `theirs` in THERE with address 2."""
    ip("-n", HERE, "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", THERE)
    for namespace, name, host in ((HERE, ours, 1), (THERE, theirs, 2)):
        ip("-n", namespace, "addr", "add", f"{net}.{host}/24", "dev", name)
        ip("-n", namespace, "link", "set", name, "up")
    yield
    with contextlib.suppress(subprocess.CalledProcessError):  # a test may have removed it
        ip("-n", HERE, "link", "del", ours)


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> Iterator[None]:
    """HERE with the interface v0, THERE with v1; no IPv6, so that nobody speaks unless asked to."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("tcpdump"):
        pytest.skip("it needs Linux with iproute2 and tcpdump")
    if subprocess.run(["ip", "netns", "add", HERE], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not permitted here")
    try:
        ip("netns", "add", THERE)
        for namespace in (HERE, THERE):
            quiet = "from pathlib import Path; p = Path('/proc/sys/net/ipv6/conf/default/disable_ipv6');"
            python(namespace, quiet + "p.is_file() and p.write_text('1')")
            ip("-n", namespace, "link", "set", "lo", "up")
        with pair("v0", "v1", "10.77.0"):
            yield
    finally:
        for namespace in (HERE, THERE):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


class Started:
    """A process that captures, from the moment on when it says so."""

    def __init__(self, *arguments: str | Path, says: str, out: Path | None = None) -> None:
        self._out = None if out is None else out.open("wb")
        self.process = subprocess.Popen(
            command(THERE, *arguments),
            stdout=self._out or subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        )  # fmt: skip
        self.said = ""
        stream: IO[bytes] = self.process.stderr  # type: ignore[assignment] # it is a pipe
        while says not in self.said:
            line = stream.readline().decode()
            assert line, self.said
            self.said += line

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self, number: int | None) -> tuple[int, str, str]:
        """Send a signal, and wait for the end: exit code, standard output, standard error."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        if self._out is not None:
            self._out.close()
        return self.process.returncode, (out or b"").decode(), self.said + err.decode()


def traced(command_name: str, *arguments: str | Path, out: Path | None = None) -> Started:
    options = [sys.executable, "-m", "traceflow", command_name, *arguments]
    return Started(*options, says="capturing on", out=out)


def records_of(path: Path) -> tuple[bytes, list[bytes]]:
    """The file header and the records of a pcap file of this machine's byte order."""
    octets = path.read_bytes()
    at, records = 24, []
    while at < len(octets):
        size = 16 + struct.unpack_from("=I", octets, at + 8)[0]
        records.append(octets[at : at + size])
        at += size
    return octets[:24], records


def identities(told: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What tells frames apart besides their time, and the how manieth each is of those that are alike."""
    names = ("src", "src_port", "dst", "dst_port", "seq", "ack", "flags", "window", "wire_octets", "vlan_tags")
    seen: Counter[tuple[Any, ...]] = Counter()
    known = []
    for row in told:
        same = tuple(row[name] for name in names)
        seen[same] += 1
        known.append((*same, seen[same]))
    return known


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def differing(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[Any]:
    """The cells that differ: place of the row, field, both cells."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return [(at, name, a[name], b.get(name)) for at, (a, b) in pairs for name in a if a[name] != b.get(name)]


def run_here(*arguments: str | Path) -> list[dict[str, Any]]:
    """The rows of a command about a file."""
    done = subprocess.run(
        [sys.executable, "-m", "traceflow", *map(str, arguments), "-T", "jsonl", "-q"],
        capture_output=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    return rows(done.stdout.decode())


@pytest.mark.parametrize("backend", ["ring", "libpcap"])
def test_live_flows_are_those_of_the_recorded_file(tmp_path: Path, backend: str) -> None:
    frame_fields = ",".join(name for name in FRAME_FIELDS if name not in ("file", "offset", "interface", "duplicate"))
    numbered = (*FRAME_LISTS, "orig_opened_frame", "resp_opened_frame")  # frame numbers: ARP may come before us
    flow_fields = ",".join(name for name in FLOW_FIELDS if name not in numbered)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stamped:
        # With this, the kernel stamps each frame once, when it comes, instead of once for each who captures it.
        stamped.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        servers = subprocess.Popen(command(THERE, sys.executable, "-c", SERVERS), stdout=subprocess.PIPE)
        assert servers.stdout is not None
        assert servers.stdout.readline() == b"ready\n"
        recorded, shown, listed = tmp_path / "live.pcap", tmp_path / "frames", tmp_path / "flows"
        tcpdump = Started(
            "tcpdump", "-i", "v1", "-w", recorded, "--time-stamp-precision=nano", "-B", "65536", "-Z", "root",
            says="listening on",
        )  # fmt: skip
        how = ("-i", "v1", "-T", "jsonl", "--backend", backend)
        frames = traced("frames", *how, "--fields", frame_fields, out=shown)
        flows = traced("flows", *how, "--fields", flow_fields, out=listed)
        python(HERE, CLIENTS)
        results = [started.end(signal.SIGINT) for started in (frames, flows, tcpdump)]
        servers.terminate()
        servers.communicate()
    assert [code for code, _, _ in results] == [Exit.INTERRUPTED, Exit.INTERRUPTED, 0]
    assert all("kernel drops 0\n" in said for _, _, said in results[:2])
    assert "0 packets dropped by kernel" in results[2][2]

    # The order of two frames that went in opposite directions may differ between two recordings, and the kernel stamps
    # most frames once for each who captures them. So a frame is known by all else that is told of it, and by how many
    # such frames came before; and the octets of the file are traced with the times and in the order of the live run.
    live = rows(shown.read_text())
    header, records = records_of(recorded)
    told = run_here("frames", recorded, "--fields", frame_fields)
    places = dict(zip(identities(told), range(len(records)), strict=True))
    assert len(places) == len(live) == len(records)
    ordered = [places[identity] for identity in identities(live)]
    apart = [abs(row["time_ns"] - told[at]["time_ns"]) for row, at in zip(live, ordered, strict=True)]
    assert max(apart) < 50_000_000
    again = tmp_path / "again.pcap"
    stamps = (struct.pack("=II", *divmod(row["time_ns"], 10**9)) for row in live)
    again.write_bytes(header + b"".join(stamp + records[at][8:] for stamp, at in zip(stamps, ordered, strict=True)))
    assert differing(live, run_here("frames", again, "--fields", frame_fields)) == []
    by_number = sorted(rows(listed.read_text()), key=lambda flow: int(flow["flow"]))
    filed = run_here("flows", again, "--fields", flow_fields)
    assert differing(by_number, filed) == []
    # 5 for HTTP, 1 bulk, 1 UDP, and the tagged frames, which are one: tags are not part of the key.
    assert len(by_number) == 8
    assert sorted(row["vlan_tags"] for row in live if row["src"] == "1.2.3.4") == [0, 1, 2]


def test_an_idle_flow_ends_on_a_silent_link_and_sigterm_ends_the_capture() -> None:
    live = traced(
        "flows", "-i", "v1", "-T", "csv", "--fields", "orig_addr,packets,end_cause", "--idle-timeout", "500ms"
    )
    python(HERE, UDP % "10.77.0.2")
    sent_ns = time.time_ns()
    assert live.line() == "orig_addr,packets,end_cause\n"
    assert live.line() == "10.77.0.1,3,idle\n"
    assert time.time_ns() - sent_ns < 500_000_000 + 10**9
    python(HERE, UDP % "10.77.0.2")
    code, out, err = live.end(signal.SIGTERM)
    assert code == Exit.TERMINATED == 128 + signal.SIGTERM
    assert "10.77.0.1,3,end of input\n" in out or "10.77.0.1,3,idle\n" in out
    assert "frames read " in err
    assert "kernel drops 0\n" in err
    assert err.endswith("traceflow: terminated\n")


@pytest.mark.parametrize(("change", "says"), [("del", "the interface is gone"), ("down", "the interface is down")])
def test_an_interface_that_leaves_ends_the_capture(change: str, says: str) -> None:
    with pair("w0", "w1", "10.78.0"):
        live = traced("flows", "-i", "w1", "-T", "csv", "--fields", "orig_addr,packets,end_cause")
        python(HERE, UDP % "10.78.0.2")
        ip("-n", THERE, "link", *(("del", "w1") if change == "del" else ("set", "w1", "down")))
        code, out, err = live.end(None)
    assert code == Exit.INCOMPLETE
    assert "10.78.0.1,3,end of input\n" in out
    assert f"traceflow: incomplete: w1: {says}" in err


def test_loopback_frames_come_once_and_c_and_duration_end_the_capture() -> None:
    live = traced("frames", "-i", "lo", "-T", "csv", "--fields", "src_port,dst_port,link", "-c", "3")
    python(THERE, UDP % "127.0.0.1")
    code, out, err = live.end(None)
    lines = [line.split(",") for line in out.splitlines()]
    # Port 9 is closed there: each datagram is answered by an ICMP error, which has no ports.
    assert (code, [line[1:] for line in lines]) == (0, [["dst_port", "link"], ["9", "1"], ["", "1"], ["9", "1"]])
    assert "frames read 3 = in flows 3" in err
    live = traced("flows", "-i", "lo", "--summary", "--duration", "300ms", "-T", "jsonl")
    code, out, _ = live.end(None)
    assert code == 0
    assert json.loads(out)["kernel_drops"] == 0


def test_rows_reach_a_pipe_at_once_and_its_end_is_the_end() -> None:
    live = traced("frames", "-i", "any", "-T", "csv", "--fields", "dst_port,link_name,interface")
    python(HERE, UDP % "10.77.0.2")
    seen = [live.line() for _ in range(2)]
    while "9," not in seen[-1]:  # ARP
        seen.append(live.line())
    assert seen[0] == "dst_port,link_name,interface\n"
    assert seen[-1] == "9,LINUX_SLL2,any\n"
    assert live.process.stdout is not None
    live.process.stdout.close()
    live.process.stdout = None
    python(HERE, UDP % "10.77.0.2")
    assert live.end(None)[0] == Exit.PIPE_CLOSED


def test_without_permission_it_says_how_to_grant_it() -> None:
    bare = ("setpriv", "--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-net_raw,-net_admin")
    if not shutil.which("setpriv"):
        pytest.skip("it needs setpriv of util-linux")
    for backend in ("ring", "libpcap"):
        done = subprocess.run(
            command(THERE, *bare, sys.executable, "-m", "traceflow", "flows", "-i", "v1", "--backend", backend),
            capture_output=True, env=ENVIRONMENT, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (Exit.FAILED, b"")
        assert b"v1: no permission to capture" in done.stderr
        assert b"sudo setcap cap_net_raw,cap_net_admin=eip /" in done.stderr


def test_the_interfaces_of_a_namespace() -> None:
    done = subprocess.run(
        command(THERE, sys.executable, "-m", "traceflow", "interfaces", "-T", "jsonl"),
        capture_output=True, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    by_name = {row["interface"]: row for row in rows(done.stdout.decode())}
    assert by_name["v1"]["addresses"] == "10.77.0.2"
    assert {name: by_name["v1"][name] for name in ("state", "link", "link_name", "mtu", "capture")} == {
        "state": "up", "link": 1, "link_name": "EN10MB", "mtu": 1500, "capture": "yes",
    }  # fmt: skip
    assert by_name["lo"]["addresses"].split() == ["127.0.0.1"]
