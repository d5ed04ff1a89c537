"""At which rate of frames `tcpdump -w` and `traceflow flows -i` begin to lose some, between two network namespaces.

    sudo python benchmarks/live_rate.py [--rates 50000 100000 ...] [--seconds 5] [--octets 300] [--flows 1000]
                                        [--senders 1] [--folder /dev/shm] [--traceflow-options "--no-analysis"]

Makes two namespaces, joined by a pair of interfaces. For each rate, tcpdump and then traceflow capture one of them
while the senders write TCP segments of so many flows, in turn, to the other, by packet socket: that is what a sender in
Python can do without a driver of its own, some 10**5 frames a second each. tcpdump writes to a file in memory, with its
usual buffer and with one of the size of traceflow's; traceflow writes its rows to /dev/null. Prints what was asked,
what was sent, what each captured and what the kernel dropped. The first run of traceflow only compiles its kernels.
Sender and capture share the processors of the machine, so figures of a machine with two of them are low.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE, THERE = f"rate-a-{os.getpid()}", f"rate-b-{os.getpid()}"
ROOT = Path(__file__).resolve().parents[1]
_CHUNK = 32
_ETHERNET = bytes.fromhex("020000000002 020000000001 0800".replace(" ", ""))


@dataclass(frozen=True, slots=True)
class Captured:
    """What a program captured, and what was dropped."""

    frames: int
    drops: int


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("vector", ctypes.POINTER(_Vector)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def segment(flow: int, octets: int) -> bytes:
    """A TCP segment with ACK of one of many flows, so many octets in all; checksums are zero."""
    payload = bytes(octets - 54)
    source = 0x0A000000 + flow // 50_000
    header = struct.pack(">BBHHHBBHII", 0x45, 0, octets - 14, 0, 0x4000, 64, 6, 0, source, 0x0AFF0001)
    return (
        _ETHERNET + header + struct.pack(">HHIIBBHHH", 1024 + flow % 50_000, 80, 1, 1, 0x50, 0x10, 64, 0, 0) + payload
    )


def send(interface: str, rate: float, seconds: float, octets: int, flows: int, first: int) -> int:
    """Send at a rate. Returns how many frames were sent.

    Args:
        interface: Where.
        rate: Frames a second.
        seconds: How long.
        octets: Of each frame.
        flows: How many flows.
        first: Number of the first flow.
    """
    frames = [ctypes.create_string_buffer(segment(first + flow, octets), octets) for flow in range(max(flows, _CHUNK))]
    vectors = (_Vector * len(frames))(*[_Vector(ctypes.addressof(frame), octets) for frame in frames])
    messages = (_Message * len(frames))()
    for at, message in enumerate(messages):
        message.vector, message.vectors = ctypes.pointer(vectors[at]), 1
    system = ctypes.CDLL(None, use_errno=True)
    size, sent, at = ctypes.sizeof(_Message), 0, 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((interface, 0))
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < seconds:
            if sent > now_s * rate:
                time.sleep(max(sent / rate - now_s, 0))
                continue
            count = min(_CHUNK, len(frames) - at)
            done = system.sendmmsg(raw.fileno(), ctypes.byref(messages, at * size), count, 0)
            if done > 0:
                sent += done
                at = (at + done) % len(frames)
    return sent


def inside(namespace: str, *command: str) -> list[str]:
    """A command inside a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def run(command: list[str], says: str, given: argparse.Namespace, rate: float) -> tuple[int, str]:
    """Capture while the senders send. Returns the frames sent, and what the program said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    capture = subprocess.Popen(
        inside(THERE, *command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert capture.stderr is not None
    said = ""
    while says not in said:
        line = capture.stderr.readline()
        if not line:
            raise SystemExit(said)
        said += line
    share = [str(rate / given.senders), str(given.seconds), str(given.octets), str(given.flows)]
    senders = [
        subprocess.Popen(
            inside(HERE, sys.executable, __file__, "--send", *share, str(number * given.flows)),
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(given.senders)
    ]  # fmt: skip
    sent = sum(int(sender.communicate()[0]) for sender in senders)
    time.sleep(1.5)  # tcpdump leaves out what is in a block that is not full
    capture.send_signal(signal.SIGINT)
    return sent, said + capture.communicate()[1]


def number(pattern: str, said: str) -> int:
    """A number that a program said."""
    found = re.search(pattern, said)
    if found is None:
        raise SystemExit(f"{pattern!r} is not in: {said}")
    return int(found[1])


def tcpdump(given: argparse.Namespace, rate: float, *options: str) -> tuple[int, Captured]:
    """What tcpdump captures at a rate."""
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        command = ["tcpdump", "-i", "v1", "-n", "-Z", "root", "-w", f"{folder}/x.pcap", *options]
        sent, said = run(command, "listening on", given, rate)
    return sent, Captured(number(r"(\d+) packets? captured", said), number(r"(\d+) packets? dropped by kernel", said))


def traceflow(given: argparse.Namespace, rate: float) -> tuple[int, Captured]:
    """What traceflow captures at a rate."""
    options = shlex.split(given.traceflow_options)
    command = [sys.executable, "-m", "traceflow", "flows", "-i", "v1", "-T", "csv", *options]
    sent, said = run(command, "capturing on", given, rate)
    return sent, Captured(number(r"frames read (\d+)", said), number(r"kernel drops (\d+)", said))


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description="Rates at which live captures begin to lose frames.")
    parser.add_argument("--rates", type=float, nargs="+", default=[50e3, 100e3, 200e3, 300e3, 400e3, 600e3, 800e3])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--octets", type=int, default=300)
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--folder", default="/dev/shm")  # memory, so that no disk is measured
    parser.add_argument("--traceflow-options", default="")
    parser.add_argument("--send", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.send is not None:
        rate, seconds, octets, flows, first = given.send
        print(send("v0", float(rate), float(seconds), int(octets), int(flows), int(first)))
        return
    try:
        for namespace in (HERE, THERE):
            ip("netns", "add", namespace)
        ip("-n", HERE, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", THERE)
        ip("-n", HERE, "link", "set", "v0", "up")
        ip("-n", THERE, "link", "set", "v1", "up")
        traceflow(argparse.Namespace(**{**vars(given), "seconds": 0.2}), 1000)
        print(f"{'asked/s':>9} | {'tcpdump: sent/s':>15} {'captured':>9} {'drops':>8} | {'-B 65536: drops':>15} | "
              f"{'traceflow: sent/s':>17} {'captured':>9} {'drops':>8}")  # fmt: skip
        for rate in given.rates:
            sent, theirs = tcpdump(given, rate)
            _, large = tcpdump(given, rate, "-B", "65536")
            sent_ours, ours = traceflow(given, rate)
            print(f"{rate:9.0f} | {sent / given.seconds:15.0f} {theirs.frames:9} {theirs.drops:8} | {large.drops:15} | "
                  f"{sent_ours / given.seconds:17.0f} {ours.frames:9} {ours.drops:8}", flush=True)  # fmt: skip
    finally:
        for namespace in (HERE, THERE):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


if __name__ == "__main__":
    main()
