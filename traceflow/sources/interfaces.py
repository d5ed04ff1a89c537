"""The network interfaces of a Linux system: which there are, in what state, and what their frames begin with.

Asked of the system call by call (ioctl, getifaddrs), in the network namespace of this process; /sys may show those of
another one. Interfaces of other systems: `live_libpcap.py`.

Read first: netdevice(7), getifaddrs(3), include/uapi/linux/if_arp.h of Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from dataclasses import dataclass

from traceflow.errors import CannotReadError, suggest

if sys.platform == "linux":
    import fcntl

__all__ = ["ANY", "Device", "device_named", "devices", "is_down", "may_capture", "no_permission"]

ANY = "any"
"""Name under which all interfaces are captured at once, as tcpdump has it."""

_GET_FLAGS, _GET_MTU, _GET_HARDWARE = 0x8913, 0x8921, 0x8927  # SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40  # IFF_
_NAME_OCTETS = 16
_ETHERNET = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_RAW_IP = (519, 768, 776, 0xFFFE)  # ARPHRD_RAWIP, _TUNNEL, _SIT, _NONE: nothing stands before the IP header
_WLAN = {801: 105, 803: 127}  # IEEE 802.11, without and with a radiotap header
_LINKS = dict.fromkeys(_ETHERNET, 1) | dict.fromkeys(_RAW_IP, 101) | _WLAN
_COOKED, _COOKED_ANY = 113, 276


@dataclass(frozen=True, slots=True)
class Device:
    """A network interface.

    Attributes:
        name: Its name.
        index: Its number in the system; 0 for all at once.
        state: `up`, `down`, or `no carrier`: switched on, but nobody at the other end.
        link: Link type of its frames when captured (LINKTYPE_ number); 0 where nobody knows before.
        cooked: The system gives the packets behind its link header, and a header is made for them.
        mtu: Octets of a packet at most; 0 where unknown.
        loopback: Whether it is the loopback interface.
        addresses: Its IP addresses, as text.
    """

    name: str
    index: int
    state: str
    link: int
    cooked: bool = False
    mtu: int = 0
    loopback: bool = False
    addresses: tuple[str, ...] = ()


def devices() -> list[Device]:
    """All interfaces, by index."""
    addresses = _addresses()
    found = []
    for index, name in sorted(socket.if_nameindex()):
        with contextlib.suppress(OSError):  # gone since the list was made
            found.append(_described(name, index, addresses.get(name, ())))
    return found


def device_named(name: str) -> Device:
    """The interface of that name; `any` is all at once.

    Raises:
        CannotReadError: There is none; the message names those that there are.
    """
    if name == ANY:
        return Device(ANY, 0, "up", _COOKED_ANY, cooked=True)
    known = [known for _, known in socket.if_nameindex()]
    if name not in known:
        raise CannotReadError(suggest("interface", name, [*known, ANY]))
    try:
        return _described(name, socket.if_nametoindex(name), ())
    except OSError as error:
        raise CannotReadError(f"{name}: the interface cannot be asked: {error.strerror or error}") from error


def is_down(index: int) -> bool:
    """Whether the interface of that number is switched off; of one that is gone this says no."""
    try:
        return _described(socket.if_indextoname(index), index, ()).state == "down"
    except OSError:
        return False


def no_permission(name: str) -> CannotReadError:
    """The error for a user who may not capture an interface."""
    if sys.platform == "win32":
        return CannotReadError(f"{name}: no permission to capture. Run traceflow as an administrator")
    if sys.platform != "linux":
        return CannotReadError(f"{name}: no permission to capture. Run traceflow as root (sudo)")
    python = os.path.realpath(sys.executable or "python3")
    return CannotReadError(
        f"{name}: no permission to capture. Run traceflow as root (sudo), or grant the permission once: "
        f"sudo setcap cap_net_raw,cap_net_admin=eip {python}"
    )


def may_capture() -> bool:
    """Whether this process may open packet sockets."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError:
        return False
    return True


def _described(name: str, index: int, addresses: tuple[str, ...]) -> Device:
    """Ask the system about an interface.

    Raises:
        OSError: It is gone.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:

        def ask(request: int) -> bytes:
            """The value of an `ifreq` that the system fills."""
            octets: bytes = fcntl.ioctl(asked, request, struct.pack("16s24x", os.fsencode(name)))
            return octets[_NAME_OCTETS:]

        flags: int = struct.unpack_from("H", ask(_GET_FLAGS))[0]
        mtu: int = struct.unpack_from("i", ask(_GET_MTU))[0]
        hardware: int = struct.unpack_from("H", ask(_GET_HARDWARE))[0]
    state = "down" if not flags & _UP else "up" if flags & _RUNNING else "no carrier"
    link = _LINKS.get(hardware, _COOKED)
    return Device(name, index, state, link, link == _COOKED, mtu, bool(flags & _LOOPBACK), addresses)


class _Address(ctypes.Structure):
    """`struct ifaddrs` of Linux: glibc and musl have the same."""


_Address._fields_ = (
    ("following", ctypes.POINTER(_Address)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("other", ctypes.c_void_p),
    ("facts", ctypes.c_void_p),
)


def _addresses() -> dict[str, tuple[str, ...]]:
    """The IP addresses of all interfaces, by name; none where they cannot be had."""
    system = ctypes.CDLL(None)
    first = ctypes.POINTER(_Address)()
    if system.getifaddrs(ctypes.byref(first)) != 0:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    try:
        here = first
        while here:
            entry = here.contents
            text = _address_text(entry.address)
            if text is not None:
                name = os.fsdecode(entry.name)
                found[name] = (*found.get(name, ()), text)
            here = entry.following
    finally:
        system.freeifaddrs(first)
    return found


def _address_text(address: int | None) -> str | None:
    """The text of a `struct sockaddr`; None where it is no IP address."""
    if not address:
        return None
    family: int = struct.unpack("H", ctypes.string_at(address, 2))[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(family, ctypes.string_at(address + 4, 4))
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, ctypes.string_at(address + 8, 16))
    return None
