"""Live capture through the whole program: two network namespaces, joined by a pair of interfaces.

Real servers stand in one and real clients in the other, while traceflow and tcpdump record the same interface. The
namespaces are made here, and the tests are skipped where that is not permitted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import traceflow
from traceflow.cli.exits import Exit
from traceflow.flows import flat_columns

pytestmark = [
    pytest.mark.once("it makes network namespaces, and starts servers and captures"),
    pytest.mark.slow_plain("the process that captures would not keep up"),
]

HERE, THERE = f"tf-here-{os.getpid()}", f"tf-there-{os.getpid()}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).parents[1])}

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
"""

TAGS = """
import socket
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


TRACER = """
import json, signal, struct, sys
import numpy as np
from traceflow.flows import flat_columns
from traceflow.options import options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources.live import open_live
from traceflow.warmup import compile_all

compile_all()
with open_live("v1") as capture, open(sys.argv[1], "wb") as file:
    signal.signal(signal.SIGINT, lambda *_: capture.stop())
    file.write(struct.pack("=IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
    run = Run(capture, options_for("default"))
    collector = FlowCollector(run)
    capture.start()
    print("capturing on", file=sys.stderr, flush=True)
    for step in run.steps():
        collector.take(step)
        for row in step.batch.frames if step.batch is not None else ():
            start, size = int(row["start"]), int(row["captured"])
            file.write(struct.pack("=4I", *divmod(int(row["time_ns"]), 10**9), size, int(row["wire"])))
            file.write(step.batch.octets[start : start + size])
flows = collector.flows()
assert capture.drops == 0 and capture.errors == []
columns = {name: np.asarray(values).tolist() for name, values in flat_columns(flows.columns).items()}
print(json.dumps(columns | {"frame lists": [list(map(int, flow.frames)) for flow in flows]}))
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


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    """What a test that failed left running is ended."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


class Started:
    """A process that captures."""

    def __init__(self, *arguments: str | Path, says: str) -> None:
        self.process = subprocess.Popen(
            command(THERE, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        STARTED.append(self.process)
        self.said, self._says = "", says

    def begun(self) -> Started:
        """Wait until it says that it captures."""
        stream: IO[bytes] = self.process.stderr  # type: ignore[assignment] # it is a pipe
        while self._says not in self.said:
            line = stream.readline().decode()
            assert line, self.said
            self.said += line
        return self

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self, number: int | None) -> tuple[int, str, str]:
        """Send a signal, and wait for the end: exit code, standard output, standard error."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, (out or b"").decode(), self.said + err.decode()


def traced(command_name: str, *arguments: str | Path) -> Started:
    options = [sys.executable, "-m", "traceflow", command_name, *arguments]
    return Started(*options, says="capturing on")


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def records_of(path: Path) -> list[bytes]:
    """The whole records of a pcap file of this machine's byte order, each with its header."""
    octets = path.read_bytes()
    at, records = 24, []
    while at + 16 <= len(octets):
        size = 16 + struct.unpack_from("=I", octets, at + 8)[0]
        if at + size > len(octets):  # it is being written
            break
        records.append(octets[at : at + size])
        at += size
    return records


def times_by_content(records: list[bytes]) -> dict[tuple[bytes, int], int]:
    """The time of each frame in ns, by lengths and octets, and by how many with the same came before."""
    seen: Counter[bytes] = Counter()
    times = {}
    for record in records:
        seconds, nano = struct.unpack_from("=II", record)
        times[record[8:], seen[record[8:]]] = seconds * 10**9 + nano
        seen[record[8:]] += 1
    return times


def test_live_flows_are_those_of_the_recorded_file(tmp_path: Path) -> None:
    servers = subprocess.Popen(command(THERE, sys.executable, "-c", SERVERS), stdout=subprocess.PIPE)
    STARTED.append(servers)
    assert servers.stdout is not None
    assert servers.stdout.readline() == b"ready\n"
    recorded, ours = tmp_path / "tcpdump.pcap", tmp_path / "ours.pcap"
    tcpdump = Started(
        "tcpdump", "-i", "v1", "-w", recorded, "--time-stamp-precision=nano", "-B", "65536", "-U", "-Z", "root",
        says="listening on",
    )  # fmt: skip
    live = Started(sys.executable, "-c", TRACER, ours, says="capturing on")
    for started in (tcpdump, live):
        started.begun()
    python(HERE, CLIENTS + TAGS)
    code, out, err = live.end(signal.SIGINT)
    assert (code, err) == (0, "capturing on\n")
    frames = records_of(ours)
    last_s = time.monotonic() + 10
    while len(records_of(recorded)) < len(frames) and time.monotonic() < last_s:
        select.select([], [], [], 0.05)  # what stands in a block that is not full yet, tcpdump would leave out
    assert "0 packets dropped by kernel" in tcpdump.end(signal.SIGINT)[2]
    servers.terminate()
    servers.communicate()

    # Both began before the first frame and ended behind the last, so both saw the same. The kernel stamps most frames
    # once for each who captures them, and two that went in opposite directions may stand in another order.
    mine, theirs = times_by_content(frames), times_by_content(records_of(recorded))
    lacking = [len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())]
    assert (len(frames) > 150, lacking) == (True, [0, 0])
    assert max(abs(mine[content] - theirs[content]) for content in mine) < 50_000_000
    # The same frames from a file, in the order and with the times of the live run: the same flows, in every column.
    flows = traceflow.trace(ours)
    columns = json.loads(out)
    filed = {name: np.asarray(values).tolist() for name, values in flat_columns(flows.columns).items()}
    assert columns.keys() == filed.keys() | {"frame lists"}
    assert [name for name in filed if columns[name] != filed[name]] == []
    assert columns["frame lists"] == [list(map(int, flow.frames)) for flow in flows]
    # 5 for HTTP, 1 bulk, 1 UDP, and the tagged frames, which are one: tags are not part of the key.
    assert len(flows) == 8
    assert flows[7].packets == 3
    assert sum(flow.protocol == 17 and flow.packets == 38 for flow in flows) == 1  # (10 + 3 * 3) * 2


def test_an_idle_flow_ends_on_a_silent_link_and_sigterm_ends_the_capture() -> None:
    fields = ("--fields", "orig_addr,packets,end_cause")
    live = traced("flows", "-i", "v1", "-T", "csv", *fields, "--idle-timeout", "500ms").begun()
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


def test_an_interface_that_leaves_ends_the_capture() -> None:
    captured = (("w1",), ("x1",), ("x1", "--backend", "libpcap"))
    with pair("w0", "w1", "10.78.0"), pair("x0", "x1", "10.79.0"):
        all_three = [
            traced("flows", "-T", "csv", "--fields", "orig_addr,packets,end_cause", "-i", *which) for which in captured
        ]
        for live in all_three:
            live.begun()
        python(HERE, UDP % "10.78.0.2" + UDP % "10.79.0.2")
        ip("-n", THERE, "link", "del", "w1")
        ip("-n", THERE, "link", "set", "x1", "down")
        results = [live.end(None) for live in all_three]
    down = "x1: the interface is down; switch it on"
    expected = ((78, "w1: the interface is gone"), (79, down), (79, down))
    for (code, out, err), (net, says) in zip(results, expected, strict=True):
        assert code == Exit.INCOMPLETE
        assert f"10.{net}.0.1,3,end of input\n" in out, "what had come before is there"
        assert f"traceflow: incomplete: {says}" in err


def test_loopback_frames_come_once_and_c_and_duration_end_the_capture() -> None:
    live = traced("frames", "-i", "lo", "-T", "csv", "--fields", "src_port,dst_port,link", "-c", "3").begun()
    python(THERE, UDP % "127.0.0.1")
    code, out, err = live.end(None)
    lines = [line.split(",") for line in out.splitlines()]
    # Port 9 is closed there: each datagram is answered by an ICMP error, which has no ports.
    assert (code, [line[1:] for line in lines]) == (0, [["dst_port", "link"], ["9", "1"], ["", "1"], ["9", "1"]])
    assert "frames read 3 = in flows 3" in err
    live = traced("flows", "-i", "lo", "--summary", "--duration", "300ms", "-T", "jsonl").begun()
    code, out, _ = live.end(None)
    assert code == 0
    assert json.loads(out)["kernel_drops"] == 0


def test_a_filter_goes_to_the_kernel_and_is_run_again_on_whole_frames() -> None:
    fields = ("--fields", "vlan_tags,vlan_outer,verdict")
    live = traced("frames", "-i", "v1", "-T", "csv", *fields, "-f", "vlan 7", "-c", "2").begun()
    python(HERE, TAGS)
    code, out, err = live.end(None)
    # Of three frames the kernel leaves out the one without a tag; the outer tag of the second is 100.
    assert (code, out.splitlines()[1:]) == (0, ["1,7,"])
    assert "frames read 2 = in flows 1 + without a flow 1" in err
    assert "filtered 1" in err


def test_rows_reach_a_pipe_at_once_and_its_end_is_the_end() -> None:
    live = traced("frames", "-i", "any", "-T", "csv", "--fields", "dst_port,link_name,interface").begun()
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
    assert by_name["lo"]["addresses"].split()[0] == "127.0.0.1"
