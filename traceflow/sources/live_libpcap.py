"""One interface of any system, captured through the system's libpcap: for systems without a ring of ours.

What lives here: the calls, by ctypes, and what they mean. Frames are copied one by one into a buffer that is used
again and again, which takes some microseconds each. libpcap begins to receive when it is opened, not when it is told
to start.

Read first: pcap(3PCAP), pcap_create(3PCAP), pcap_next_ex(3PCAP), pcap_get_selectable_fd(3PCAP).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotReadError, TraceflowError, suggest
from traceflow.libpcap import ExpressionError, compile_expression, library
from traceflow.packets import FINER_THAN_MICROSECONDS, Interface
from traceflow.sources.interfaces import ANY, Device, is_down, no_permission

__all__ = ["LibpcapTap", "libpcap_devices"]

_BUFFER_OCTETS = 4 << 20
_TIMEOUT_MS = 50
_NANOSECONDS = 1
_ERROR_OCTETS = 256
_NO_SUCH_DEVICE, _PERMISSION, _NOT_UP, _PROMISCUOUS_PERMISSION = -5, -8, -9, -11
_LINKTYPES = {11: 100, 12: 101, 14: 101, 15: 102, 16: 103, 19: 106}
"""Link types of which libpcap's number in memory (DLT_) is another than that of files."""
_LOOPBACK, _UP, _RUNNING = 1, 2, 4  # PCAP_IF_


class _Header(ctypes.Structure):
    """`struct pcap_pkthdr`; the second part of the time has 32 bits, and four octets to fill up, on macOS."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("fraction", ctypes.c_int64 if struct.calcsize("l") == 8 and sys.platform != "darwin" else ctypes.c_int32),
        *((("filler", ctypes.c_int32),) if sys.platform == "darwin" else ()),
        ("captured", ctypes.c_uint32),
        ("wire", ctypes.c_uint32),
    )


class _Interface(ctypes.Structure):
    """`struct pcap_if`."""


class _Address(ctypes.Structure):
    """`struct pcap_addr`."""


_Address._fields_ = (("following", ctypes.POINTER(_Address)), ("address", ctypes.c_void_p))
_Interface._fields_ = (
    ("following", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("description", ctypes.c_char_p),
    ("addresses", ctypes.POINTER(_Address)),
    ("flags", ctypes.c_uint32),
)


class _Program(ctypes.Structure):
    """`struct bpf_program`."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


_declared: ctypes.CDLL | None = None


def _library() -> ctypes.CDLL:
    """libpcap, with the functions of this module declared.

    Raises:
        LibraryMissingError: It is not installed.
        CannotReadError: It is older than 1.5, of 2013.
    """
    global _declared
    pcap = library()
    if _declared is pcap:
        return pcap
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    functions: dict[str, tuple[Any, list[Any]]] = {
        "pcap_create": (pointer, [text, pointer]),
        "pcap_activate": (number, [pointer]),
        "pcap_set_snaplen": (number, [pointer, number]),
        "pcap_set_promisc": (number, [pointer, number]),
        "pcap_set_timeout": (number, [pointer, number]),
        "pcap_set_buffer_size": (number, [pointer, number]),
        "pcap_set_tstamp_precision": (number, [pointer, number]),
        "pcap_get_tstamp_precision": (number, [pointer]),
        "pcap_setnonblock": (number, [pointer, number, pointer]),
        "pcap_datalink": (number, [pointer]),
        "pcap_next_ex": (number, [pointer, pointer, pointer]),
        "pcap_stats": (number, [pointer, pointer]),
        "pcap_setfilter": (number, [pointer, pointer]),
        "pcap_statustostr": (text, [number]),
        "pcap_findalldevs": (number, [pointer, pointer]),
        "pcap_freealldevs": (None, [pointer]),
    }
    try:
        for name, (result, arguments) in functions.items():
            function = getattr(pcap, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise CannotReadError("live capture needs libpcap 1.5 or later; the one that is installed is older") from error
    _declared = pcap
    return pcap


class LibpcapTap:
    """One interface, captured.

    Args:
        name: Of the interface.
        at: Its place among the interfaces of the capture.
        snaplen: Octets to which frames are cut.
        promiscuous: Whether frames for others are wanted too.
        buffer_octets: Memory for frames in the system.
        expression: A filter, for what need not come; None: all comes.

    Attributes:
        interface: The interface, as all sources describe theirs.
        octets: uint8[n], holds the frames of the last walk.
        frames: Frames delivered so far.

    Raises:
        CannotReadError: No permission, no such interface, or it cannot be captured.
        UsageError: The expression is wrong.
        LibraryMissingError: There is no libpcap.
    """

    def __init__(
        self, name: str, at: int, *, snaplen: int, promiscuous: bool, buffer_octets: int, expression: str | None
    ) -> None:
        self._pcap = pcap = _library()
        self._name, self._snaplen = name, snaplen
        said = ctypes.create_string_buffer(_ERROR_OCTETS)
        self._handle = pcap.pcap_create(os.fsencode(name), said)
        if not self._handle:
            raise CannotReadError(f"{name}: the interface cannot be captured: {_text(said.value)}")
        try:
            pcap.pcap_set_snaplen(self._handle, snaplen)
            pcap.pcap_set_promisc(self._handle, int(promiscuous))
            pcap.pcap_set_timeout(self._handle, _TIMEOUT_MS)
            pcap.pcap_set_buffer_size(self._handle, min(buffer_octets, 2**31 - 1))
            pcap.pcap_set_tstamp_precision(self._handle, _NANOSECONDS)
            self._activate()
            link = pcap.pcap_datalink(self._handle)
            link = _LINKTYPES.get(link, link)
            if expression:
                self._filter(expression, link)
            pcap.pcap_setnonblock(self._handle, 1, said)
        except BaseException:
            self.close()
            raise
        fine = pcap.pcap_get_tstamp_precision(self._handle) == _NANOSECONDS
        self._tick_ns, self._bits = (1, FINER_THAN_MICROSECONDS) if fine else (1000, 0)
        self.interface = Interface(name, at, link, snaplen, 10**9 if fine else 10**6, sys.byteorder, name)
        self.octets: npt.NDArray[np.uint8] = np.zeros(max(_BUFFER_OCTETS, 2 * snaplen), np.uint8)
        self.frames = 0
        self._offset = 0
        self._drops = 0
        self._header = ctypes.POINTER(_Header)()
        self._content = ctypes.c_void_p()
        self._held = False
        self._last_ns: int | None = None
        self._error: TraceflowError | None = None
        self._index = 0
        if sys.platform == "linux" and name != ANY:
            with contextlib.suppress(OSError):  # a device of libpcap's own, such as nflog
                self._index = socket.if_nametoindex(name)

    def _activate(self) -> None:
        code = self._pcap.pcap_activate(self._handle)
        if code >= 0:  # above 0: a warning, such as that promiscuous mode is not to be had
            return
        if code in (_PERMISSION, _PROMISCUOUS_PERMISSION):
            raise no_permission(self._name)
        if code == _NO_SUCH_DEVICE:
            known = [device.name for device in libpcap_devices()]
            raise CannotReadError(suggest("interface", self._name, [*known, ANY]))
        if code == _NOT_UP:
            raise CannotReadError(f"{self._name}: the interface is down; switch it on")
        words = _text(self._pcap.pcap_geterr(self._handle)) or _text(self._pcap.pcap_statustostr(code))
        raise CannotReadError(f"{self._name}: the interface cannot be captured: {words}")

    def _filter(self, expression: str, link: int) -> None:
        """Leave out what need not come.

        It is compiled for this handle, because VLAN tags of live frames are found in another way than those of files.

        Raises:
            UsageError: The expression is wrong.
        """
        compile_expression(expression, link, self._snaplen)  # all that can be wrong with it is said there
        program = _Program()
        octets = expression.encode("utf-8", "surrogateescape")
        if self._pcap.pcap_compile(self._handle, ctypes.byref(program), octets, 1, 0) != 0:
            raise ExpressionError(expression, link, _text(self._pcap.pcap_geterr(self._handle)))
        self._pcap.pcap_setfilter(self._handle, ctypes.byref(program))
        self._pcap.pcap_freecode(ctypes.byref(program))

    def start(self) -> None:
        """Nothing to do: libpcap receives since it was opened."""

    def fileno(self) -> int:
        """What to wait for; -1 where the system has nothing of the kind."""
        if not self._handle or not hasattr(self._pcap, "pcap_get_selectable_fd"):  # Windows
            return -1
        self._pcap.pcap_get_selectable_fd.argtypes = [ctypes.c_void_p]
        return int(self._pcap.pcap_get_selectable_fd(self._handle))

    def ready(self) -> bool:
        """Whether there are frames; the next one is then held."""
        if not self._held and self._error is None:
            code = self._pcap.pcap_next_ex(self._handle, ctypes.byref(self._header), ctypes.byref(self._content))
            if code < 0:
                words = _text(self._pcap.pcap_geterr(self._handle))
                self._error = CannotReadError(f"{self._name}: the capture broke off: {words}")
            self._held = code == 1 and (self._last_ns is None or self.first_ns() <= self._last_ns)
        return self._held

    def first_ns(self) -> int:
        """The time of the frame that is held."""
        header = self._header.contents
        return int(header.seconds) * 10**9 + int(header.fraction) * self._tick_ns

    def pending(self) -> bool:
        """Whether the system has frames that are not ready yet: nobody can say, so they are waited for."""
        return True

    def walk(self, rows: npt.NDArray[np.void]) -> int:
        """Copy the next frames, and fill a row for each; their octets stay until the next walk.

        Args:
            rows: FRAME[m], m >= 1.

        Returns:
            How many rows were filled.
        """
        count, start = 0, 0
        target = self.octets.ctypes.data
        while count < len(rows) and start + self._snaplen <= len(self.octets) and self.ready():
            header = self._header.contents
            captured = min(int(header.captured), self._snaplen)
            ctypes.memmove(target + start, self._content, captured)
            rows[count] = (
                self.first_ns(), self._offset, start, captured, header.wire, self.interface.source_index,
                min(self.interface.link, 0xFFFF), self._bits,
            )  # fmt: skip
            self._held = False
            self._offset += captured
            start += captured
            count += 1
        self.frames += count
        return count

    def release(self) -> None:
        """Nothing to do: the frames were copied."""

    def hold(self, now_ns: int) -> None:
        """Deliver no frame that comes after `now_ns`."""
        self._last_ns = now_ns

    def drops(self) -> int:
        """Frames that were dropped so far because they were not read in time."""
        counts = (ctypes.c_uint * 16)()  # struct pcap_stat is three of them; more on Windows
        if self._handle and self._pcap.pcap_stats(self._handle, counts) == 0:
            self._drops = int(counts[1])
        return self._drops

    def fault(self) -> TraceflowError | None:
        """What ended the capture; None as long as it goes on.

        From version 1.10 on, libpcap on Linux waits for an interface that goes down to come up again, and says nothing.
        """
        if self._error is None and self._index and is_down(self._index):
            return CannotReadError(f"{self._name}: the interface is down; switch it on")
        return self._error

    def close(self) -> None:
        """Give everything back. May be called again."""
        if self._handle:
            self._pcap.pcap_close(self._handle)
            self._handle = None


def _text(said: bytes | None) -> str:
    return (said or b"").decode("utf-8", "replace").strip()


def libpcap_devices() -> list[Device]:
    """All interfaces that libpcap finds, but those that are none of a network.

    Raises:
        CannotReadError: It cannot look.
        LibraryMissingError: There is no libpcap.
    """
    pcap = _library()
    first = ctypes.POINTER(_Interface)()
    said = ctypes.create_string_buffer(_ERROR_OCTETS)
    if pcap.pcap_findalldevs(ctypes.byref(first), said) != 0:
        raise CannotReadError(f"the interfaces cannot be listed: {_text(said.value)}")
    found = []
    try:
        here = first
        while here:
            entry = here.contents
            name, flags = os.fsdecode(entry.name), entry.flags
            index = 0
            with contextlib.suppress(OSError, AttributeError):
                index = socket.if_nametoindex(name)
            state = "up" if flags & _RUNNING else "no carrier" if flags & _UP else "down"
            addresses = tuple(_address_texts(entry.addresses))
            if index or sys.platform == "win32":
                found.append(Device(name, index, state, 0, loopback=bool(flags & _LOOPBACK), addresses=addresses))
            here = entry.following
    finally:
        pcap.pcap_freealldevs(first)
    return found


def _address_texts(here: Any) -> Iterator[str]:
    """The texts of a list of addresses, those that are of IP."""
    while here:
        address = here.contents.address
        if address:
            family = struct.unpack("H", ctypes.string_at(address, 2))[0]
            if sys.platform not in ("linux", "win32"):  # BSD has the length in the first octet
                family = ctypes.string_at(address, 2)[1]
            if family == socket.AF_INET:
                yield socket.inet_ntop(socket.AF_INET, ctypes.string_at(address + 4, 4))
            elif family == socket.AF_INET6:
                yield socket.inet_ntop(socket.AF_INET6, ctypes.string_at(address + 8, 16))
        here = here.contents.following
