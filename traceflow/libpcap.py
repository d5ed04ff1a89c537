"""The system's libpcap, reached by ctypes: the one door to it. It compiles filter expressions, and that is all here.

Rules:

- libpcap is looked for when it is first needed, once; without it everything but filters and live capture works;
- what it allocates is freed before a call returns: a program is copied into an array of ours;
- its compiler is not reentrant in versions before 1.8 (global variables of the parser), so a lock is held;
- link types are LINKTYPE_ numbers, those of capture files. libpcap's own DLT_ numbers differ from system to system;
  they do not leave this module.

Read first: pcap(3PCAP), pcap_compile(3PCAP), https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from traceflow.errors import CannotWriteError, LibraryMissingError, UsageError

__all__ = ["EXPRESSION_MAX", "PROGRAM", "SNAPLEN", "ExpressionError", "compile_expression", "library", "version"]

PROGRAM: Final = np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])
"""One instruction of classic BPF, as `struct bpf_insn` and Linux' `struct sock_filter` lie in memory."""

SNAPLEN: Final = 262_144
"""What a program returns for a frame that it lets through, unless said otherwise; tcpdump's own."""

EXPRESSION_MAX: Final = 4096
"""Octets of an expression at most. The time of libpcap's optimizer grows with the third power: for 1300 ports in 16 000
octets it took 350 s, during which nothing can stop it. Without it, programs are ten times as long."""

_NETMASK: Final = 0
"""tcpdump's for files: only 0.0.0.0 and 255.255.255.255 are `ip broadcast`."""

_RAW: Final = 101
_LINKTYPES_OF_RAW: Final = (12, 14)
"""Numbers that old files have for raw IP; 12 is DLT_RAW of most systems, 14 of OpenBSD."""

_LOCK: Final = threading.Lock()


class ExpressionError(UsageError):
    """An expression that libpcap does not compile.

    Attributes:
        expression: The expression.
        link: The link type (LINKTYPE_ number) for which it was compiled.
        words: What libpcap says.
    """

    def __init__(self, expression: str, link: int, words: str) -> None:
        self.expression, self.link, self.words = expression, link, words
        super().__init__(f"the filter {expression!r} cannot be compiled for frames of link type {link}: {words}")


class _Program(ctypes.Structure):
    """`struct bpf_program`."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def _names() -> list[str]:
    """Where the library may be, best first."""
    if sys.platform == "win32":
        system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
        return [str(system / "Npcap" / "wpcap.dll"), "wpcap.dll"]
    if sys.platform == "darwin":
        return ["/usr/lib/libpcap.A.dylib", "libpcap.A.dylib", "libpcap.dylib"]
    return ["libpcap.so.1", "libpcap.so.0.8", "libpcap.so"]  # upstream's name, Debian's, BSD's


_loaded: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """The library; loaded by the first call.

    Raises:
        LibraryMissingError: It is not installed; the message says how to install it.
    """
    global _loaded
    with _LOCK:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load() -> ctypes.CDLL:
    for name in _names():
        try:
            return _declared(ctypes.CDLL(name))
        except (OSError, AttributeError):  # not there, or something else of that name
            continue
    found = ctypes.util.find_library("pcap") or ctypes.util.find_library("wpcap")  # starts processes: last
    try:
        if found is not None:
            return _declared(ctypes.CDLL(found))
    except (OSError, AttributeError):
        pass
    raise LibraryMissingError(
        "filter expressions and live capture need the library libpcap, which was not found; install it: "
        "Debian, Ubuntu: apt install libpcap0.8; Fedora, RHEL: dnf install libpcap; Alpine: apk add libpcap; "
        "macOS has it, or: brew install libpcap; Windows: Npcap"
    )


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the functions that are called here.

    Raises:
        AttributeError: One is not in it.
    """
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    declared: dict[str, tuple[Any, list[Any]]] = {
        "pcap_lib_version": (text, []),
        "pcap_open_dead": (pointer, [number, number]),
        "pcap_open_offline": (pointer, [text, pointer]),
        "pcap_compile": (number, [pointer, pointer, text, number, ctypes.c_uint32]),
        "pcap_freecode": (None, [pointer]),
        "pcap_geterr": (text, [pointer]),
        "pcap_close": (None, [pointer]),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def version() -> str:
    """What the library says of itself: `libpcap version 1.10.3 (with TPACKET_V3)`.

    Raises:
        LibraryMissingError: It is not installed.
    """
    said: bytes = library().pcap_lib_version()
    return said.decode("utf-8", "replace")


def compile_expression(
    expression: str, link: int = 1, snaplen: int = SNAPLEN, *, order: str | None = None
) -> npt.NDArray[np.void]:
    """Compile an expression of pcap-filter(7), optimized as tcpdump has it.

    Names of hosts, networks and services in it are looked up by the system, which may ask a name server.

    Args:
        expression: The expression; empty: everything.
        link: Link type of the frames, its LINKTYPE_ number.
        snaplen: What the program returns for a frame that it lets through, from 1.
        order: `little` or `big`: for frames of a file of that byte order, as `tcpdump -r` compiles it. The order counts
            where a link header is in the order of the capturing machine (link type 0); what only a live capture knows
            (`inbound`) is refused. None: for live frames, and for the order of this machine.

    Returns:
        PROGRAM[k].

    Raises:
        ExpressionError: libpcap refuses it; its words are in the message.
        UsageError: The expression is too long, or no text that libpcap could be given; or an impossible link type.
        LibraryMissingError: There is no libpcap.
        CannotWriteError: There is an order, and no temporary file can be written.
    """
    octets = expression.encode("utf-8", "surrogateescape")
    if b"\0" in octets:
        raise UsageError("a filter expression cannot hold a NUL character; leave it out")
    if len(octets) > EXPRESSION_MAX:
        raise UsageError(f"the filter expression has {len(octets)} octets, and may have {EXPRESSION_MAX}; "
                         "use networks instead of lists of hosts, or several runs")  # fmt: skip
    pcap = library()
    with _LOCK, _opened(pcap, link, snaplen, order) as handle:
        return _compiled(pcap, handle, expression, octets, link)


def _compiled(pcap: ctypes.CDLL, handle: int, expression: str, octets: bytes, link: int) -> npt.NDArray[np.void]:
    """Compile with a handle; what libpcap allocates is freed."""
    program = _Program()
    if pcap.pcap_compile(handle, ctypes.byref(program), octets, 1, _NETMASK) != 0:
        said: bytes = pcap.pcap_geterr(handle) or b""
        raise ExpressionError(expression, link, said.decode("utf-8", "replace").strip() or "no reason given")
    try:
        if not program.instructions:  # never seen; a null pointer must not be read
            return np.zeros(0, PROGRAM)
        whole = ctypes.string_at(program.instructions, program.length * PROGRAM.itemsize)
        return np.frombuffer(whole, PROGRAM).copy()
    finally:
        pcap.pcap_freecode(ctypes.byref(program))


@contextlib.contextmanager
def _opened(pcap: ctypes.CDLL, link: int, snaplen: int, order: str | None) -> Iterator[int]:
    """A handle to compile with.

    Raises:
        UsageError: libpcap makes none.
    """
    path: Path | None = None
    said = ctypes.create_string_buffer(b"out of memory", 256)
    try:
        if order is None:
            handle = pcap.pcap_open_dead(_dlt(link), snaplen)
        else:  # no other call of libpcap makes a handle that knows of a file and its byte order
            path = _empty_capture(_RAW if link in _LINKTYPES_OF_RAW else link, snaplen, order)
            handle = pcap.pcap_open_offline(os.fsencode(path), said)
        if not handle:
            raise UsageError(f"libpcap does not take link type {link}: {said.value.decode('utf-8', 'replace')}")
        try:
            yield handle
        finally:
            pcap.pcap_close(handle)
    finally:
        if path is not None:  # on Windows not before it is closed
            path.unlink()


def _empty_capture(link: int, snaplen: int, order: str) -> Path:
    """A temporary file that is the header of a capture and nothing else.

    Raises:
        CannotWriteError: There is no folder for it, or no room.
    """
    header = struct.pack("<IHHIIII" if order == "little" else ">IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link)
    try:
        place, name = tempfile.mkstemp(prefix="traceflow-", suffix=".pcap")
        with os.fdopen(place, "wb") as file:
            file.write(header)
    except OSError as error:
        raise CannotWriteError(
            f"a filter is compiled with a temporary file of 24 octets, which cannot be written: "
            f"{error.strerror or error}; set TMPDIR to a folder that may be written"
        ) from error
    return Path(name)


_DLT: Final = {100: 11, 101: 12, 102: 15, 103: 16, 106: 19}
"""LINKTYPE_ numbers that are not libpcap's DLT_ numbers on Linux: RFC 1483 ATM, raw IP, SLIP and PPP of BSD/OS, and
Classical IP over ATM. Those from 107 on were given after it had been agreed that both should be equal."""


def _dlt(link: int) -> int:
    """The number that libpcap has for a link type on this system."""
    number = _RAW if link in _LINKTYPES_OF_RAW else link
    if sys.platform.startswith("openbsd") and number == _RAW:
        return 14
    return _DLT.get(number, number)
