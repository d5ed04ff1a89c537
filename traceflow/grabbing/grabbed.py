"""Packets as users get them: copies, which nothing that comes later changes.

`Packets` is some of them at once, as arrays; one of them, by index or in a loop, is a `Packet`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from traceflow.labels import address, address_text, time_text
from traceflow.packets import FRAME, PACKET

__all__ = ["NOTE", "Packet", "Packets"]


class Packet:
    """One packet.

    Attributes:
        number: Number of its frame, counted from 1 over all devices of the monitor, as they were read.
        octets: What was captured of the frame, from its link header on; behind `truncate`, the beginning of it.
        frame: FRAME row: `time_ns`, `captured`, `wire`, `link`, ...
        columns: PACKET row: `src_port`, `protocol`, `flags`, ...
        flow: Number of its flow in its device, where a graph of the monitor asked for flows; else 0.
        device: Name of its device.
    """

    __slots__ = ("columns", "device", "flow", "frame", "number", "octets")

    def __init__(
        self, number: int, octets: bytes, frame: np.void, columns: np.void, flow: int = 0, device: str = ""
    ) -> None:
        self.number, self.octets, self.frame, self.columns = number, octets, frame, columns
        self.flow, self.device = flow, device

    @property
    def time_ns(self) -> int:
        """Nanoseconds since 1970."""
        return int(self.frame["time_ns"])

    @property
    def wire(self) -> int:
        """Octets that the frame had on the wire."""
        return int(self.frame["wire"])

    @property
    def link(self) -> int:
        """Link type, its LINKTYPE_ number."""
        return int(self.frame["link"])

    @property
    def protocol(self) -> int:
        """IP protocol number."""
        return int(self.columns["protocol"])

    @property
    def src(self) -> str:
        """Source address; empty where there is no IP packet."""
        return self._address("src")

    @property
    def dst(self) -> str:
        """Destination address; empty where there is no IP packet."""
        return self._address("dst")

    @property
    def src_port(self) -> int:
        """Source port; 0 where there is none."""
        return int(self.columns["src_port"])

    @property
    def dst_port(self) -> int:
        """Destination port; 0 where there is none."""
        return int(self.columns["dst_port"])

    def _address(self, end: str) -> str:
        version = int(self.columns["ip_version"])
        halves = self.columns[f"{end}_hi"], self.columns[f"{end}_lo"]
        return address_text(address(halves, version)) if version else ""

    def __len__(self) -> int:
        return len(self.octets)

    def __repr__(self) -> str:
        time = time_text(self.time_ns, int(self.frame["time_bits"]))
        return f"<Packet {self.number} at {time}, {len(self.octets)} of {self.wire} octets>"


NOTE = np.dtype([("number", "u8"), ("flow", "u8"), ("device", "u8")])
"""What else is known of a packet: see Packet; `device` is a place in a list of names."""


class Packets(Sequence[Packet]):
    """Some packets, in the order in which they came.

    Attributes:
        octets: uint8[n], the octets of all of them.
        frames: FRAME[k]; `start` is a place in `octets`, `captured` what is there.
        columns: PACKET[k].
        notes: NOTE[k].
    """

    def __init__(
        self,
        octets: npt.NDArray[np.uint8],
        frames: npt.NDArray[np.void],
        columns: npt.NDArray[np.void],
        notes: npt.NDArray[np.void],
        names: Sequence[str],
    ) -> None:
        self.octets, self.frames, self.columns, self.notes = octets, frames, columns, notes
        self._names = names

    @classmethod
    def none(cls) -> Packets:
        """No packets."""
        return cls(np.zeros(0, np.uint8), np.zeros(0, FRAME), np.zeros(0, PACKET), np.zeros(0, NOTE), ())

    @property
    def numbers(self) -> npt.NDArray[np.uint64]:
        """uint64[k], numbers of their frames, see Packet."""
        return self.notes["number"]

    @property
    def flows(self) -> npt.NDArray[np.uint64]:
        """uint64[k], numbers of their flows, see Packet."""
        return self.notes["flow"]

    @functools.cached_property
    def _whole(self) -> bytes:
        """The octets, once more: a slice of bytes is one copy, a slice of an array a view and a copy."""
        return self.octets.tobytes()

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Packet: ...

    @overload
    def __getitem__(self, index: slice) -> Packets: ...

    def __getitem__(self, index: int | slice) -> Packet | Packets:
        if isinstance(index, slice):
            return Packets(self.octets, self.frames[index], self.columns[index], self.notes[index], self._names)
        frame, note = self.frames[index], self.notes[index]
        start = int(frame["start"])
        octets = self._whole[start : start + int(frame["captured"])]
        device = self._names[int(note["device"])]
        return Packet(int(note["number"]), octets, frame, self.columns[index], int(note["flow"]), device)

    def __iter__(self) -> Iterator[Packet]:
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} Packets, {int(self.frames['captured'].sum())} octets>"
