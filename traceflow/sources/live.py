"""Frames of network interfaces as they come: the same batches that captures give, until somebody says stop.

What lives here: the loop over one or several interfaces, when it ends, and what it says on a quiet link. How frames are
had from the system: `live_linux.py` (a ring of memory that the kernel fills), `live_libpcap.py` (other systems). The
clock is read here, and nowhere else below the command line: on a quiet link it says up to which time no frame is to
come any more, so that the table, which knows packet time alone, can end flows.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from traceflow.errors import LostFramesError, TraceflowError, UsageError, suggest
from traceflow.libpcap import compile_expression
from traceflow.packets import FRAME, Batch, Interface
from traceflow.sources.interfaces import device_named
from traceflow.sources.live_libpcap import LibpcapTap
from traceflow.sources.live_linux import PacketSocket

__all__ = ["BACKENDS", "RING_OCTETS", "SNAPLEN", "LiveCapture", "open_live"]

SNAPLEN = 262_144
"""Octets to which frames are cut unless said otherwise: more than any network frame, as tcpdump has it."""

RING_OCTETS = 64 << 20
"""Size of the ring of an interface: half a second of a full gigabit."""

BACKENDS = ("ring", "libpcap")
"""How frames are had: through a ring of the Linux kernel, or through libpcap."""

_QUIET_EVERY_NS = 150_000_000
_MARGIN_NS = 300_000_000
"""A frame is here so long after its time at the latest: a block goes to the reader 50 to 100 ms after its first frame,
and the rest is for a machine that is busy."""
_WAIT_S = 0.05
_HOLD_WAIT_S = 0.01
_HOLD_NS = 250_000_000
"""How long frames are waited for that are in the kernel when the capture ends."""
_ROWS = 8192


class Tap(Protocol):
    """One interface that is captured; see `live_linux.PacketSocket` for what each part says."""

    interface: Interface
    octets: npt.NDArray[np.uint8]
    frames: int

    def start(self) -> None:
        """Begin to receive."""

    def fileno(self) -> int:
        """What to wait for; -1: nothing that could be waited for."""

    def ready(self) -> bool:
        """Whether there are frames."""

    def first_ns(self) -> int:
        """When those that are ready began to come."""

    def pending(self) -> bool:
        """Whether the system has frames that are not ready yet."""

    def walk(self, rows: npt.NDArray[np.void]) -> int:
        """Fill rows with the next frames, and say how many; their octets stay until `release`."""

    def release(self) -> None:
        """The frames that were walked over are not needed any more."""

    def hold(self, now_ns: int) -> None:
        """Deliver no frame that comes later than `now_ns`, which is now."""

    def drops(self) -> int:
        """Frames that were lost so far because nobody read them in time."""

    def fault(self) -> TraceflowError | None:
        """What ended the capture; None as long as it goes on."""

    def close(self) -> None:
        """Give everything back."""


def open_live(
    *interfaces: str,
    snaplen: int = SNAPLEN,
    promiscuous: bool = True,
    ring_octets: int = RING_OCTETS,
    expression: str | None = None,
    limit: int | None = None,
    duration_ns: int | None = None,
    backend: str | None = None,
) -> LiveCapture:
    """Capture interfaces. Nothing is received before `start`, or the first batch is asked for.

    Args:
        *interfaces: Their names; `any` for all at once, with cooked headers.
        snaplen: Octets to which frames are cut.
        promiscuous: Whether frames for others are wanted too.
        ring_octets: Size of the ring of each interface.
        expression: A filter (pcap-filter(7)) that the system may use to leave out frames. It need not: frames that
            do not match may come all the same, so the exact filter has to be run on what comes.
        limit: Stop after that many frames.
        duration_ns: Stop after that many nanoseconds.
        backend: One of BACKENDS; None: the ring where there is one.

    Raises:
        CannotReadError: No such interface, no permission, or it cannot be captured.
        UsageError: A value that is out of range, or a wrong expression.
        LibraryMissingError: libpcap is needed, and not installed.
    """
    return LiveCapture(
        *interfaces, snaplen=snaplen, promiscuous=promiscuous, ring_octets=ring_octets,
        expression=expression, limit=limit, duration_ns=duration_ns, backend=backend,
    )  # fmt: skip


class LiveCapture:
    """Interfaces that are captured. A context manager; `stop` may be called by a signal handler or another thread.

    Attributes:
        errors: What went wrong so far, in order: an interface that went down, frames that were dropped.
        frames_read: Frames delivered so far.
        opened: Interfaces that are, or were, captured.
        octets_total: None: nobody knows.
        live: True.
    """

    live = True

    def __init__(
        self,
        *interfaces: str,
        snaplen: int = SNAPLEN,
        promiscuous: bool = True,
        ring_octets: int = RING_OCTETS,
        expression: str | None = None,
        limit: int | None = None,
        duration_ns: int | None = None,
        backend: str | None = None,
    ) -> None:
        """See `open_live`."""
        if not interfaces:
            raise UsageError("no interface was given; name one")
        if len(set(interfaces)) < len(interfaces):
            raise UsageError("an interface was given twice; name it once")
        if not 1 <= snaplen <= SNAPLEN:
            raise UsageError(f"snaplen is {snaplen}; it must be 1 to {SNAPLEN}")
        self.errors: list[TraceflowError] = []
        self.frames_read = 0
        self.octets_read = 0
        self.octets_total: int | None = None
        self._limit, self._duration_ns = limit, duration_ns
        self._taps: list[Tap] = []
        self._clock_zero_ns = 0
        self._stopping = self._started = self._begun = self._closed = False
        self._rows = np.zeros(_ROWS, FRAME)
        # A byte into one end wakes whoever waits at the other, also from a signal handler.
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ)
        try:
            make = _maker(backend)
            for at, name in enumerate(interfaces):
                self._taps.append(make(name, at, snaplen, promiscuous, ring_octets, expression))
        except BaseException:
            self.close()
            raise
        self.interfaces = [tap.interface for tap in self._taps]
        self._live_taps = list(self._taps)
        self._faults: dict[Tap, tuple[TraceflowError, int]] = {}

    @property
    def opened(self) -> int:
        """Interfaces that are, or were, captured."""
        return len(self._taps)

    @property
    def drops(self) -> int:
        """Frames that the system had to drop so far, because they were not read in time."""
        return sum(tap.drops() for tap in self._taps)

    def start(self) -> None:
        """Begin to receive; what comes is kept until it is asked for, as far as the ring has room.

        Raises:
            CannotReadError: An interface is down, or gone.
        """
        if self._started or self._closed:
            return
        self._started = True
        self._clock_zero_ns = time.monotonic_ns()
        for tap in self._taps:
            tap.start()
            if tap.fileno() >= 0:
                self._selector.register(tap.fileno(), selectors.EVENT_READ)

    def stop(self) -> None:
        """End the capture: frames that came until now are delivered, later ones are not."""
        self._stopping = True
        with contextlib.suppress(OSError):  # full: then it wakes already
            self._waker.send(b"\0")

    def batches(self) -> Iterator[Batch]:
        """Capture until `stop`, the limit, the end of the duration, or until no interface is left.

        Returns:
            Batches of consecutive frames of one interface. Their octets lie in the ring, and are overwritten when the
            next is asked for. On a quiet link a batch without frames comes several times a second, with its `quiet_ns`.

        Raises:
            UsageError: It was called before, or the capture is closed.
            CannotReadError: As `start`.
        """
        if self._begun or self._closed:
            raise UsageError("an interface is captured once; open it again with open_live")
        self._begun = True
        self.start()
        return self._capture()

    def _capture(self) -> Iterator[Batch]:
        quiet_from_ns, hold_until_ns = 0, None
        try:
            while not self._closed and self._live_taps and self._room():
                # Read before the ring is looked at: what is not in it then is not older than the margin.
                now_ns = time.time_ns()
                if hold_until_ns is None and self._is_over():
                    hold_until_ns = time.monotonic_ns() + _HOLD_NS
                    for tap in self._live_taps:
                        tap.hold(now_ns)
                ready = [tap for tap in self._live_taps if tap.ready()]
                if ready:
                    quiet_from_ns = now_ns
                    yield from self._read(min(ready, key=lambda tap: tap.first_ns()))
                elif hold_until_ns is not None:
                    if time.monotonic_ns() >= hold_until_ns or not any(tap.pending() for tap in self._live_taps):
                        return
                    self._selector.select(_HOLD_WAIT_S)
                else:
                    if not 0 <= now_ns - quiet_from_ns < _QUIET_EVERY_NS:
                        quiet_from_ns = now_ns
                        nothing = self._rows[:0], self.frames_read + 1, 1
                        yield Batch(self._taps[0].octets, *nothing, quiet_ns=now_ns - _MARGIN_NS)
                    self._wait()
        finally:
            self._note_drops()

    def _read(self, tap: Tap) -> Iterator[Batch]:
        """What is ready of one interface, as one batch; none where frames were left out."""
        first_in_file = tap.frames + 1
        count = tap.walk(self._rows[: self._room()])
        if count:
            first_number = self.frames_read + 1
            rows = self._rows[:count]
            self.frames_read += count
            self.octets_read += int(rows["captured"].sum())
            yield Batch(tap.octets, rows, first_number, first_in_file)
        if self._closed:
            return
        try:
            tap.release()
        except TraceflowError as error:
            self._end(tap, error)

    def _wait(self) -> None:
        """Wait until something may be ready, and look for interfaces that are gone."""
        waits = not self._faults and all(tap.fileno() >= 0 for tap in self._live_taps)
        self._selector.select(_WAIT_S if waits else _HOLD_WAIT_S)
        now_ns = time.monotonic_ns()
        for tap in list(self._live_taps):
            if tap in self._faults:
                error, until_ns = self._faults[tap]
                if not tap.ready() and (now_ns >= until_ns or not tap.pending()):
                    self._end(tap, error)
            elif (fault := tap.fault()) is not None:  # what came before is still on its way
                self._faults[tap] = fault, now_ns + _HOLD_NS
                self._forget(tap)

    def _end(self, tap: Tap, error: TraceflowError) -> None:
        """Go on without an interface."""
        self.errors.append(error)
        self._live_taps.remove(tap)
        self._forget(tap)

    def _forget(self, tap: Tap) -> None:
        """Do not wait for an interface any more."""
        if tap.fileno() >= 0 and tap.fileno() in self._selector.get_map():
            self._selector.unregister(tap.fileno())

    def _is_over(self) -> bool:
        """Whether somebody said stop, or the time is over."""
        if self._duration_ns is not None and time.monotonic_ns() - self._clock_zero_ns >= self._duration_ns:
            self._stopping = True
        return self._stopping

    def _room(self) -> int:
        """Rows that the next batch may have; 0 when the limit is reached."""
        return len(self._rows) if self._limit is None else min(len(self._rows), self._limit - self.frames_read)

    def _note_drops(self) -> None:
        for tap in self._taps:
            drops = tap.drops()
            if drops:
                self.errors.append(LostFramesError(
                    f"{tap.interface.name}: {drops} frames were dropped, because they were not read in time; give a "
                    "larger --buffer, or capture less: a filter, --snaplen, --no-analysis"
                ))  # fmt: skip

    def close(self) -> None:
        """Give everything back. Batches must not be used any more. May be called again."""
        self._closed = True
        for tap in self._taps:
            tap.close()
        self._selector.close()
        self._wakes.close()
        self._waker.close()

    def __iter__(self) -> Iterator[Batch]:
        """The same as `batches`."""
        return self.batches()

    def __enter__(self) -> LiveCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_Make = Callable[[str, int, int, bool, int, str | None], Tap]


def _maker(backend: str | None) -> _Make:
    """What makes a Tap of (name, place, snaplen, promiscuous, octets of the ring, expression).

    Raises:
        UsageError: An unknown backend, or one that this system has not.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(suggest("backend", backend, BACKENDS))
    if sys.platform == "linux":
        return _libpcap_tap if backend == "libpcap" else _ring_tap
    if backend == "ring":
        raise UsageError("the ring is a thing of Linux; leave out the backend, or name libpcap")
    return _libpcap_tap


def _ring_tap(name: str, at: int, snaplen: int, promiscuous: bool, ring_octets: int, expression: str | None) -> Tap:
    device = device_named(name)
    program = None if not expression else compile_expression(expression, device.link, snaplen)
    return PacketSocket(device, at, snaplen=snaplen, promiscuous=promiscuous, ring_octets=ring_octets, program=program)


def _libpcap_tap(name: str, at: int, snaplen: int, promiscuous: bool, ring_octets: int, expression: str | None) -> Tap:
    return LibpcapTap(
        name, at, snaplen=snaplen, promiscuous=promiscuous, buffer_octets=ring_octets, expression=expression
    )
