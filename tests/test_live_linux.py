"""Capturing the loopback interface in this process: how a capture begins, ends and fails, on both backends.

The datagrams go to ports of 127.0.0.1 that were bound here, so what others send on the same interface is told apart.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from needs import LIBPCAP

from traceflow.errors import CannotReadError, LostFramesError, MalformedCaptureError, UsageError
from traceflow.libpcap import compile_expression
from traceflow.options import options_for
from traceflow.packets import FINER_THAN_MICROSECONDS, FRAME
from traceflow.pipeline import Run
from traceflow.sources.interfaces import device_named, may_capture
from traceflow.sources.live import BACKENDS, LiveCapture, open_live
from traceflow.sources.live_linux import PacketSocket, kernel_program

pytestmark = [
    LIBPCAP,
    pytest.mark.once("it captures an interface of the machine"),
    pytest.mark.skipif(
        sys.platform != "linux" or not may_capture(), reason="capturing is not permitted here, or this is not Linux"
    ),
]
_ETHERNET_TO_PAYLOAD = 14 + 20 + 8  # Ethernet, IPv4, UDP


class Pair:
    """Two UDP sockets on the loopback interface; `send` sends a datagram from one to the other."""

    def __init__(self) -> None:
        self.ours, self.theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.ours.bind(("127.0.0.1", 0))
        self.theirs.bind(("127.0.0.1", 0))
        self.port: int = self.theirs.getsockname()[1]

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.ours.sendto(payload, ("127.0.0.1", self.port))

    def payload_of(self, octets: Any, row: Any) -> bytes | None:
        """The payload of a frame, where it is one of these datagrams."""
        frame = bytes(octets[int(row["start"]) : int(row["start"]) + int(row["captured"])])
        return frame[_ETHERNET_TO_PAYLOAD:] if frame[36:38] == self.port.to_bytes(2, "big") else None


@pytest.fixture
def pair() -> Iterator[Pair]:
    sockets = Pair()
    yield sockets
    sockets.ours.close()
    sockets.theirs.close()


def payloads_of(capture: LiveCapture, pair: Pair) -> list[bytes]:
    """The payloads of all datagrams of the pair until the capture ends."""
    seen = []
    for batch in capture.batches():
        seen += [pair.payload_of(batch.octets, row) for row in batch.frames]
    return [payload for payload in seen if payload is not None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_came_before_stop_is_delivered(pair: Pair, backend: str) -> None:
    sent = [b"%d" % number * (number + 1) for number in range(50)]
    with open_live("lo", backend=backend, ring_octets=4 << 20) as capture:
        capture.start()
        pair.send(*sent)
        capture.stop()
        assert payloads_of(capture, pair) == sent
        assert (capture.drops, capture.errors, capture.opened) == (0, [], 1)
        assert capture.frames_read >= 50
        assert capture.octets_read >= sum(map(len, sent)) + 50 * _ETHERNET_TO_PAYLOAD
    interface = capture.interfaces[0]
    assert (interface.name, interface.link, interface.units_per_second) == ("lo", 1, 10**9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_have_times_and_numbers_and_are_cut(pair: Pair, backend: str) -> None:
    before_ns = time.time_ns()
    with open_live("lo", backend=backend, snaplen=60, expression=f"udp dst port {pair.port}", limit=3) as capture:
        capture.start()
        pair.send(b"x" * 200, b"y" * 10, b"z" * 300, b"too many")
        numbers, frames = [], []
        for batch in capture.batches():
            numbers += [(batch.first_number + at, batch.first_in_file + at) for at in range(len(batch.frames))]
            frames += [(row.copy(), pair.payload_of(batch.octets, row)) for row in batch.frames]
    assert numbers == [(1, 1), (2, 2), (3, 3)]
    assert [payload for _, payload in frames] == [b"x" * 18, b"y" * 10, b"z" * 18]
    assert [int(row["wire"]) for row, _ in frames] == [242, 52, 342]
    assert [int(row["captured"]) for row, _ in frames] == [60, 52, 60]
    assert all(row["time_bits"] == FINER_THAN_MICROSECONDS for row, _ in frames)
    assert all(before_ns <= row["time_ns"] <= time.time_ns() for row, _ in frames)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_quiet_link_the_time_is_told(backend: str) -> None:
    # A filter that nothing passes makes the link quiet; on the loopback interface nobody is.
    nothing = "udp src port 1 and dst port 1"
    with open_live("lo", backend=backend, expression=nothing, duration_ns=900_000_000) as capture:
        began_ns = time.monotonic_ns()
        told = [(time.time_ns(), batch.quiet_ns, len(batch.frames)) for batch in capture.batches()]
        took_ns = time.monotonic_ns() - began_ns
    assert 900_000_000 <= took_ns < 3_000_000_000
    assert all(frames == 0 for _, _, frames in told)
    lags = [now - (quiet or 0) for now, quiet, _ in told]
    assert len(lags) >= 0.9 * 4, "four times a second"
    assert min(lags) >= 200_000_000, "a frame may be on its way for 100 ms, and as long again on a busy machine"


def test_stop_wakes_a_capture_that_waits_and_quiet_flows_end(pair: Pair) -> None:
    with open_live("lo", expression=f"udp dst port {pair.port}") as capture:
        run = Run(capture, options_for("default", idle_timeout_other_ns=100_000_000))
        capture.start()
        pair.send(b"one", b"two")
        ended = []
        for step in run.steps():
            ended += [(int(row["orig"]["packets"]), int(row["end_cause"])) for row in step.ended]
            if ended:
                threading.Thread(target=capture.stop).start()
    assert len(ended) == 1
    assert ended[0][0] == 2
    assert run.account().causes
    assert not run.account().interrupted


def test_what_is_not_read_in_time_is_counted(pair: Pair) -> None:
    with open_live("lo", expression=f"udp dst port {pair.port}", ring_octets=2 << 20) as capture:
        capture.start()
        batches = capture.batches()
        pair.send(*[bytes(60_000)] * 60)  # 3.6 MB into 2 MiB
        capture.stop()
        read = sum(len(batch.frames) for batch in batches)
        drops = capture.drops
        assert 0 < drops < 60
        assert read + drops == 60
        assert [type(error) for error in capture.errors] == [LostFramesError]
        assert f"lo: {drops} frames were dropped" in str(capture.errors[0])
    assert capture.drops == drops, "it is known after the end"


def test_a_damaged_block_is_an_error_and_is_given_back() -> None:
    tap = PacketSocket(device_named("lo"), 0, snaplen=60, promiscuous=False, ring_octets=2 << 20, program=None)
    words = tap.octets.view(np.uint32)
    words[2:5] = 1, 1, 40  # ready, with one frame, which begins inside the header of the block
    assert tap.ready()
    assert tap.walk(np.zeros(4, FRAME)) == 0
    with pytest.raises(MalformedCaptureError, match=r"lo: .* damaged: its first frame does not begin inside of it"):
        tap.release()
    assert words[2] == 0
    assert not tap.ready(), "the next block is looked at"
    del words
    tap.close()


def test_several_interfaces_at_once(pair: Pair) -> None:
    with open_live("lo", "any", expression=f"udp dst port {pair.port}") as capture:
        capture.start()
        pair.send(b"twice")
        capture.stop()
        seen = []
        for batch in capture.batches():
            for row in batch.frames:
                frame = bytes(batch.octets[int(row["start"]) : int(row["start"]) + int(row["captured"])])
                seen.append((int(row["interface"]), int(row["link"]), frame.endswith(b"twice")))
    assert (0, 1, True) in seen
    assert (1, 276, True) in seen


def test_octets_outlive_the_capture_while_somebody_has_them(pair: Pair) -> None:
    with open_live("lo", expression=f"udp dst port {pair.port}", limit=1, ring_octets=2 << 20) as capture:
        capture.start()
        pair.send(b"kept")
        batch = next(batch for batch in capture.batches() if len(batch.frames))
        octets, start, size = batch.octets, int(batch.frames[0]["start"]), int(batch.frames[0]["captured"])
    capture.close()
    assert bytes(octets[start : start + size]).endswith(b"kept")
    assert capture.drops == 0


def test_what_cannot_be_captured_is_said_with_what_to_do() -> None:
    with pytest.raises(CannotReadError, match=r"unknown interface 'lo0'\. Did you mean lo\? Known: .*any.*lo"):
        open_live("lo0")
    with pytest.raises(CannotReadError, match="unknown interface 'lo0'"):
        open_live("lo0", backend="libpcap")
    for wrong, says in (
        (lambda: open_live(), "no interface was given"),
        (lambda: open_live("lo", "lo"), "given twice"),
        (lambda: open_live("lo", snaplen=0), "snaplen is 0"),
        (lambda: open_live("lo", ring_octets=1 << 20), "a buffer of 1048576 octets; allowed: 2097152 to 2147483648"),
        (lambda: open_live("lo", backend="rings"), "unknown backend 'rings'"),
        (lambda: open_live("lo", expression="udp prot 5"), "the filter 'udp prot 5' cannot be compiled"),
        (lambda: open_live("lo", expression="udp prot 5", backend="libpcap"), "'udp prot 5' cannot be compiled"),
    ):
        with pytest.raises(UsageError, match=says):
            wrong()
    with open_live("lo") as capture:
        capture.batches()
        with pytest.raises(UsageError, match="captured once"):
            capture.batches()


def test_the_kernel_lets_tagged_frames_through_whatever_the_filter() -> None:
    """Its filter sees frames without their tag: `vlan` would find none, and `not vlan` all."""
    program = compile_expression("vlan 7", 1, 100)
    whole = kernel_program(program, 100, ethernet=True)
    # load the word "has a tag" (SKF_AD_OFF + 48), go on to the filter where it is 0, else let 100 octets through
    assert whole[:3].tolist() == [(0x20, 0, 0, 0xFFFFF030), (0x15, 1, 0, 0), (0x06, 0, 0, 100)]
    assert (whole[3:] == program).all()
    assert kernel_program(None, 100, ethernet=True).tolist() == [(0x06, 0, 0, 100)]
    assert (kernel_program(program, 100, ethernet=False) == program).all()
    assert np.dtype(whole.dtype).itemsize == 8
