"""One interface of a Linux system, captured through a ring of memory that its kernel fills.

What lives here: the socket (AF_PACKET), the order in which it is set up, and the blocks of the ring as they come and
go. What a block holds is read by `ring.py`. Nothing is received before the interface is bound, which comes last, so no
frame of another interface or from before the filter is in the ring.

Read first: packet(7), Documentation/networking/packet_mmap.rst of Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
import threading

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64
from traceflow.errors import CannotReadError, MalformedCaptureError, TraceflowError, UsageError
from traceflow.packets import FRAME, Interface
from traceflow.sources.interfaces import Device, no_permission
from traceflow.sources.ring import FAULTS, HEADROOM_OCTETS, NO_VLAN, WALK, give_back, walk_block

__all__ = ["BLOCK_OCTETS", "RETIRE_MS", "PacketSocket", "kernel_program"]

BLOCK_OCTETS = 1 << 20
"""Octets of a block: more than any frame has."""

RETIRE_MS = 50
"""A block that is not full goes to the reader when it is so old; the kernel looks twice at most, see `QUIET_NS`."""

_RING_OCTETS_MAX = 2 << 30  # FRAME `start` has 32 bits
_FRAME_OCTETS = 2048  # means nothing in a ring of this kind, but has to divide a block
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _RESERVE, _IGNORE_OUTGOING = 1, 2, 5, 6, 10, 12, 23
_TPACKET_V3 = 2
_MR_PROMISC = 1
_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT, linux/filter.h
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K

_INSTRUCTION = np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])  # struct sock_filter

Program = npt.NDArray[np.void]
"""PROGRAM[k] of `libpcap.py`."""


def _program(*instructions: tuple[int, int, int, int]) -> Program:
    return np.array(list(instructions), _INSTRUCTION)


def kernel_program(program: Program | None, snaplen: int, *, ethernet: bool) -> Program:
    """What the kernel runs on each frame: a filter, and the length to which frames are cut.

    The kernel runs it on frames without their VLAN tag, which it has taken out; so a frame that had one is let through
    whatever the program says, and is left to the same program here, on the whole frame.

    Args:
        program: The filter; None: everything passes. It returns the length to which a frame is cut.
        snaplen: That length.
        ethernet: Whether the frames may have VLAN tags.
    """
    if program is None:
        return _program((_RETURN, 0, 0, snaplen))
    if not ethernet:
        return program
    let_through = _program((_LOAD, 0, 0, _VLAN_TAG_PRESENT), (_JUMP_EQUAL, 1, 0, 0), (_RETURN, 0, 0, snaplen))
    return np.concatenate([let_through, program.astype(_INSTRUCTION)])


class PacketSocket:
    """One interface, captured.

    Args:
        device: The interface.
        at: Its place among the interfaces of the capture.
        snaplen: Octets to which frames are cut.
        promiscuous: Whether frames for others are wanted too.
        ring_octets: Size of the ring.
        program: A filter, for what the kernel need not give.

    Attributes:
        interface: The interface, as all sources describe theirs.
        octets: uint8[n], the ring.
        frames: Frames delivered so far.

    Raises:
        CannotReadError: No permission, or the interface cannot be captured.
        UsageError: A ring that is too small or too large.
    """

    def __init__(
        self, device: Device, at: int, *, snaplen: int, promiscuous: bool, ring_octets: int, program: Program | None
    ) -> None:
        blocks = ring_octets // BLOCK_OCTETS
        if not 2 <= blocks <= _RING_OCTETS_MAX // BLOCK_OCTETS:
            raise UsageError(f"a buffer of {ring_octets} octets; allowed: {2 * BLOCK_OCTETS} to {_RING_OCTETS_MAX}")
        self.interface = Interface(device.name, at, device.link, snaplen, 10**9, sys.byteorder, device.name)
        self.frames = 0
        self._device = device
        self._lock = threading.Lock()
        self._drops = 0
        self._freezes = 0
        self._block, self._begun, self._through = 0, False, False
        self._walk = np.zeros(1, WALK)
        here = self._walk[0]
        here["block"], here["snaplen"], here["interface"], here["link"] = BLOCK_OCTETS, snaplen, at, device.link
        here["vlan_at"] = {1: 12, 113: 14}.get(device.link, NO_VLAN)
        here["loopback"] = _loopback_index() if device.loopback or not device.index else 0
        self._socket = _opened(device)
        try:
            self._filter(None if device.cooked else program, snaplen)
            self._set_up(blocks, promiscuous)
        except OSError as error:
            self._socket.close()
            raise CannotReadError(
                f"{device.name}: the interface cannot be captured: {error.strerror or error}"
                + ("; ask for less memory with --buffer" if error.errno == errno.ENOMEM else "")
            ) from error

    def _filter(self, program: Program | None, snaplen: int) -> None:
        """Attach a filter. One that the kernel refuses, too long a one for instance, is left out."""
        try:
            self._attach(kernel_program(program, snaplen, ethernet=self._device.link == 1))
        except OSError:
            self._attach(kernel_program(None, snaplen, ethernet=False))

    def _attach(self, program: Program) -> None:
        instructions = np.ascontiguousarray(program)
        option = struct.pack("HP", len(instructions), instructions.ctypes.data)  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)

    def _set_up(self, blocks: int, promiscuous: bool) -> None:
        """Make the ring, and map it."""
        option = self._socket.setsockopt
        option(_SOL_PACKET, _VERSION, _TPACKET_V3)
        option(_SOL_PACKET, _RESERVE, HEADROOM_OCTETS)
        if self._device.loopback:
            with contextlib.suppress(OSError):  # before Linux 4.20; `walk_block` leaves them out in any case
                option(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        frames = blocks * (BLOCK_OCTETS // _FRAME_OCTETS)
        option(_SOL_PACKET, _RX_RING, struct.pack("7I", BLOCK_OCTETS, blocks, _FRAME_OCTETS, frames, RETIRE_MS, 0, 0))
        # The map holds the socket as well: both are gone when nobody has a batch any more.
        self._map = mmap.mmap(self._socket.fileno(), blocks * BLOCK_OCTETS)
        self.octets: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._halves: npt.NDArray[np.uint16] = self.octets.view(np.uint16)
        self._words: npt.NDArray[np.uint32] = self.octets.view(np.uint32)
        self.walk(np.zeros(1, FRAME))  # nothing is there yet: the kernels are compiled, or loaded
        self.release()
        self._block = 0
        self._promiscuous = promiscuous and self._device.index != 0
        if self._promiscuous:
            option(_SOL_PACKET, _ADD_MEMBERSHIP, self._membership())

    def _membership(self) -> bytes:
        return struct.pack("iHH8x", self._device.index, _MR_PROMISC, 0)

    def start(self) -> None:
        """Begin to receive.

        Raises:
            CannotReadError: The interface is down, or gone.
        """
        address = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), self._device.index)
        system = ctypes.CDLL(None, use_errno=True)
        if system.bind(self._socket.fileno(), address, len(address)) != 0:
            raise self._failed(ctypes.get_errno())
        fault = self.fault()
        if fault is not None:
            raise fault

    def fileno(self) -> int:
        """What to wait for."""
        return self._socket.fileno()

    def ready(self) -> bool:
        """Whether there are frames."""
        return bool(self._words[(self._block + 8) >> 2] & 1)

    def first_ns(self) -> int:
        """When the block that is ready was begun, or 0 where some of its frames were delivered."""
        word = (self._block + 32) >> 2
        return 0 if self._begun else int(self._words[word]) * 10**9 + int(self._words[word + 1])

    def pending(self) -> bool:
        """Whether the kernel has frames that are not ready yet; True now and then where it has none."""
        return bool(self._words[(self._block + 12) >> 2])

    def walk(self, rows: npt.NDArray[np.void]) -> int:
        """Fill rows with the next frames of the block that is ready; their octets stay until `release`.

        Args:
            rows: FRAME[m], m >= 1.

        Returns:
            How many rows were filled.
        """
        count, fault = walk_block(self.octets, self._halves, self._words, U64(self._block), self._walk, rows)
        self._begun = True
        self._through = not self._walk[0]["at"]
        self.frames += int(count)
        self._fault = int(fault)
        return int(count)

    def release(self) -> None:
        """Give the block back, if all its frames were delivered.

        Raises:
            MalformedCaptureError: It held something else behind them than frames.
        """
        if not self._through:
            return
        at, self._through, self._begun = self._block, False, False
        give_back(self._words, U64(at))
        self._block = (at + BLOCK_OCTETS) % len(self.octets)
        if self._fault:
            raise MalformedCaptureError(
                f"a block of the kernel's ring is damaged: {FAULTS[self._fault]}. Frames before it were read",
                file=self._device.name, offset=at,
            )  # fmt: skip

    def hold(self, now_ns: int) -> None:
        """Let no more frames come, from now on. Those that are there stay."""
        with contextlib.suppress(OSError):
            self._attach(_program((_RETURN, 0, 0, 0)))

    def drops(self) -> int:
        """Frames that the kernel had to drop so far, because there was no room in the ring."""
        with self._lock:
            if self._socket.fileno() >= 0:
                counts = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)  # struct tpacket_stats_v3
                _, drops, freezes = struct.unpack("3I", counts)  # since it was last asked
                self._drops += drops
                self._freezes += freezes
            return self._drops

    def fault(self) -> TraceflowError | None:
        """What ended the capture; None as long as it goes on."""
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return self._failed(number) if number else None

    def _failed(self, number: int) -> CannotReadError:
        name = self._device.name
        if number in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
            try:
                socket.if_indextoname(self._device.index)
            except OSError:
                return CannotReadError(f"{name}: the interface is gone")
            return CannotReadError(f"{name}: the interface is down; switch it on with: ip link set {name} up")
        return CannotReadError(f"{name}: the interface cannot be captured: {os.strerror(number)}")

    def close(self) -> None:
        """Give everything back; the ring itself when nobody has a batch of it any more. May be called again."""
        if self._socket.fileno() < 0:
            return
        self.drops()
        self.hold(0)
        if self._promiscuous:
            with contextlib.suppress(OSError):  # gone with the interface
                self._socket.setsockopt(_SOL_PACKET, _DROP_MEMBERSHIP, self._membership())
        self._socket.close()
        empty = np.zeros(16, np.uint32)
        self.octets, self._halves, self._words, self._block = empty.view(np.uint8), empty.view(np.uint16), empty, 0
        with contextlib.suppress(BufferError):
            self._map.close()


def _opened(device: Device) -> socket.socket:
    """A socket that receives nothing yet.

    Raises:
        CannotReadError: No permission, or a system without such sockets.
    """
    kind = socket.SOCK_DGRAM if device.cooked else socket.SOCK_RAW
    try:
        return socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise no_permission(device.name) from error
    except OSError as error:
        raise CannotReadError(f"{device.name}: this system has no packet sockets: {error.strerror or error}") from error


def _loopback_index() -> int:
    try:
        return socket.if_nametoindex("lo")
    except OSError:
        return 0
