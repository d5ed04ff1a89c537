"""The devices of `traceflow grab`: which there are, and how their frames come to the monitor.

All interfaces are one capture, so that a quiet one holds up none of the others; each is handed its own frames. A batch
never reaches over the end of an interval for which counters are written, nor over the limit of frames.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.cli.commands import Live
from traceflow.cli.interrupt import InterruptibleCaptures, Interruption
from traceflow.errors import TraceflowError, UsageError
from traceflow.packets import FRAME, Batch, Interface
from traceflow.sources.live import LiveCapture, open_live

__all__ = ["Place", "Sources", "is_file", "places_of"]

_BATCH_FRAMES, _READ_OCTETS = 8192, 2 << 20  # as inlets.py has them


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where packets come from.

    Attributes:
        target: Name of an interface, or path of a capture, `-` for standard input.
        live: Whether it is an interface.
    """

    target: str
    live: bool

    @classmethod
    def named(cls, target: str) -> Place:
        """What a name means that does not say what it is of: a capture where it is a path, or there is such a file."""
        return cls(target, not (is_file(target) or os.sep in target or target == "-"))


def is_file(name: str) -> bool:
    """Whether there is a file, or pipe, of that name."""
    try:
        path = Path(name)
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        return False


def places_of(captures: Sequence[str], interfaces: Sequence[str]) -> dict[str, Place]:
    """The devices that were typed, by their names: `PATH`, or `NAME=PATH`; likewise of interfaces.

    Raises:
        UsageError: A name twice.
    """
    found: dict[str, Place] = {}
    for live, several in ((False, captures), (True, interfaces)):
        for text in several:
            name, equals, target = text.partition("=")
            if not equals or not name or not target or os.sep in name or (not live and is_file(text)):
                name, target = text, text
            if name in found:
                raise UsageError(f"two devices have the name {name}; give one another name: NAME={target}")
            found[name] = Place(target, live)
    return found


class Sources:
    """The devices of a run. A context manager.

    Args:
        places: Devices by their names.
        live: How interfaces are captured.
        limit: Frames to be read at most; None: all.
        interruption: Ctrl-C and SIGTERM.

    Attributes:
        devices: Sources for a Monitor, by name.
        interfaces: All interfaces so far; FRAME `interface` of all devices is an index into it.
        frames: Frames read so far.
        octets: Octets that these had on the wire.
        intervals_ns: Lengths of intervals; no batch reaches over the end of one.
        on_time: Told the time of the next frame, or that time has come without one.

    Raises:
        CannotReadError: An interface cannot be captured.
        UsageError: Two names for one interface, or for standard input.
    """

    def __init__(self, places: Mapping[str, Place], live: Live, limit: int | None, interruption: Interruption) -> None:
        self.interfaces: list[Interface] = []
        self.frames = self.octets = 0
        self.intervals_ns: tuple[int, ...] = ()
        self.on_time: Callable[[int], None] | None = None
        self._left, self._interruption = limit, interruption
        _refuse_twice(places)
        self._captures: list[InterruptibleCaptures] = []
        self._hub: _Hub | None = None
        self.devices: dict[str, _DeviceSource] = {}
        names = [place.target for place in places.values() if place.live]
        if names:
            capture = open_live(
                *names,
                snaplen=live.snaplen,
                promiscuous=live.promiscuous,
                ring_octets=live.buffer_octets,
                duration_ns=live.duration_ns,
                backend=live.backend,
            )
            self._hub = _Hub(capture, self.interfaces)
        for name, place in places.items():
            if place.live:
                assert self._hub is not None
                at = names.index(place.target)
                self.devices[name] = _DeviceSource(self, self._hub.numbers, self._hub.of(at), live=True)
            else:
                captures = InterruptibleCaptures(place.target, batch_frames=_BATCH_FRAMES, read_octets=_READ_OCTETS)
                captures.interruption = interruption
                self._captures.append(captures)
                numbers = _Numbers(captures.interfaces, self.interfaces)
                self.devices[name] = _DeviceSource(self, numbers, captures.batches, live=False)
        interruption.stop = self.stop

    def start(self) -> str:
        """Begin to receive. Returns the names of the interfaces; empty: there are none.

        Raises:
            CannotReadError: An interface is down, or gone.
        """
        if self._hub is None:
            return ""
        self._hub.capture.start()
        return ", ".join(interface.name for interface in self._hub.capture.interfaces)

    def stop(self) -> None:
        """End all captures of interfaces: frames that came until now are delivered."""
        if self._hub is not None:
            self._hub.capture.stop()

    @property
    def kernel_drops(self) -> int | None:
        """Frames that the system dropped before they could be read; None where no interface is captured."""
        return None if self._hub is None else self._hub.capture.drops

    @property
    def errors(self) -> list[TraceflowError]:
        """What went wrong so far."""
        found = [error for captures in self._captures for error in captures.errors]
        return found if self._hub is None else [*found, *self._hub.capture.errors]

    @property
    def opened(self) -> int:
        """Captures and interfaces that could be read."""
        return sum(captures.opened for captures in self._captures) + (0 if self._hub is None else 1)

    def close(self) -> None:
        """Close all of them."""
        for captures in self._captures:
            captures.close()
        if self._hub is not None:
            self._hub.capture.close()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- for the devices -----------------------------------------------------------------------------------------

    def over(self, *, live: bool) -> bool:
        """Whether no more is to be read: the limit is reached, or somebody said stop."""
        if self._left == 0:
            self.stop()
            return True
        return self._interruption.asked and not live

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """A batch, as far as the limit allows, cut where intervals end."""
        if batch.quiet_ns is not None:
            if self.on_time is not None:
                self.on_time(batch.quiet_ns)
            yield batch
            return
        frames = batch.frames if self._left is None else batch.frames[: self._left]
        times_ns = np.maximum.accumulate(frames["time_ns"]) if self.intervals_ns else frames["time_ns"]
        starts = {0, len(frames)}
        for interval_ns in self.intervals_ns:
            starts.update((np.flatnonzero(np.diff(times_ns // interval_ns)) + 1).tolist())
        places = sorted(starts)
        for start, stop in itertools.pairwise(places):
            if self._left is not None:
                self._left -= stop - start
            self.frames += stop - start
            self.octets += int(frames["wire"][start:stop].sum(dtype=np.int64))
            if self.on_time is not None:
                self.on_time(int(times_ns[start]))
            first, first_in_file = batch.first_number + start, batch.first_in_file + start
            yield Batch(batch.octets, frames[start:stop], first, first_in_file)
        if not len(batch.frames):
            yield batch


def _refuse_twice(places: Mapping[str, Place]) -> None:
    """Refuse two names for what can be read once.

    Raises:
        UsageError: There are.
    """
    names: dict[Place, str] = {}
    for name, place in places.items():
        if (place.live or place.target == "-") and place in names:
            what = f"the interface {place.target}" if place.live else "standard input"
            raise UsageError(f"the devices {names[place]} and {name} are both {what}; give it one name")
        names[place] = name


class _Numbers:
    """Numbers of interfaces, of one source, in the list of all.

    Args:
        interfaces: Those of the source; they may become more.
        everywhere: Those of all sources.
    """

    def __init__(self, interfaces: Sequence[Interface], everywhere: list[Interface]) -> None:
        self._interfaces, self._everywhere = interfaces, everywhere
        self._numbers = np.zeros(0, np.uint32)

    def change(self, frames: npt.NDArray[np.void]) -> None:
        """Give FRAME[m] the numbers of the list of all."""
        while len(self._numbers) < len(self._interfaces):
            self._everywhere.append(self._interfaces[len(self._numbers)])
            self._numbers = np.append(self._numbers, np.uint32(len(self._everywhere) - 1))
        if len(frames) and (self._numbers != np.arange(len(self._numbers))).any():
            frames["interface"] = self._numbers[frames["interface"]]


class _DeviceSource:
    """One device, as a source for a Monitor: frames with the numbers of interfaces of the whole run."""

    def __init__(self, sources: Sources, numbers: _Numbers, make: Callable[[], Iterable[Batch]], *, live: bool) -> None:
        self.live = live
        self.errors: list[TraceflowError] = []  # those of the capture are said once, by Sources
        self._sources, self._numbers, self._make = sources, numbers, make

    def batches(self) -> Iterator[Batch]:
        """Its batches, until the end, the limit, or Ctrl-C."""
        if self._sources.over(live=self.live):
            return
        for batch in self._make():
            if self._sources.over(live=self.live):
                return
            self._numbers.change(batch.frames)
            for part in self._sources.parts(batch):
                yield part
                if self._sources.over(live=self.live):
                    return

    def close(self) -> None:
        """Sources closes what it has opened."""


class _Hub:
    """One capture of several interfaces, and a source for each.

    Args:
        capture: The capture.
        everywhere: Interfaces of all sources.

    Attributes:
        capture: As given.
        numbers: Numbers of its interfaces.
    """

    def __init__(self, capture: LiveCapture, everywhere: list[Interface]) -> None:
        self.capture = capture
        self.numbers = _Numbers(capture.interfaces, everywhere)
        self._batches: Iterator[Batch] | None = None
        self._held: Batch | None = None
        self._quiet_ns: list[int | None] = [None] * capture.opened
        self._nothing = np.zeros(0, np.uint8), np.zeros(0, FRAME), 1, 1

    def of(self, at: int) -> Callable[[], Iterator[Batch]]:
        """What gives the batches of an interface."""
        return lambda: self._of(at)

    def _of(self, at: int) -> Iterator[Batch]:
        said_ns: int | None = None
        while True:
            if self._held is None and self._quiet_ns[at] is None and not self._pull():
                return
            if self._held is not None and int(self._held.frames["interface"][0]) == at:
                batch, self._held = self._held, None
                yield batch
                continue
            # Time went on, or it is the turn of another interface, whose frames lie in the ring until it has had them.
            quiet_ns, self._quiet_ns[at] = self._quiet_ns[at], None
            said_ns = said_ns if quiet_ns is None else quiet_ns
            yield Batch(*self._nothing, quiet_ns=said_ns)

    def _pull(self) -> bool:
        """Take the next batch of the capture; False where there is none."""
        if self._batches is None:
            self._batches = self.capture.batches()
        batch: Any = next(self._batches, None)
        if batch is None:
            return False
        if batch.quiet_ns is None:
            self._held = batch
        else:
            self._quiet_ns = [batch.quiet_ns] * len(self._quiet_ns)
        return True
