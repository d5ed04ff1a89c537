"""Text of addresses, protocols, times and labels: what stands in tables and in file names.

Labels follow PyPCAPKit's TraceFlow: `{src}_{srcport}-{dst}_{dstport}-{timestamp}`, with `.` for the `:` of IPv6;
protocols other than TCP put their name first, and what has no ports leaves them out. A label made here holds only
letters, digits, `.`, `_` and `-`, so it is a safe file name on every system.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from traceflow.packets import FINER_THAN_MICROSECONDS
from traceflow.protocols import has_ports, protocol_name

__all__ = [
    "Address",
    "address",
    "address_text",
    "address_texts",
    "direction_label",
    "flow_label",
    "label_text",
    "packet_label",
    "protocol_name",
    "time_text",
    "time_texts",
]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNSAFE = re.compile(r"[^0-9A-Za-z.+_-]")


def address(halves: Any, ip_version: int) -> Address:
    """Address from its two 64-bit halves.

    Args:
        halves: Upper and lower half.
        ip_version: 4 or 6.
    """
    if ip_version == 4:
        return ipaddress.IPv4Address(int(halves[1]) & 0xFFFFFFFF)
    return ipaddress.IPv6Address((int(halves[0]) << 64) | int(halves[1]))


def address_text(end: Address) -> str:
    """An address as RFC 5952 writes it: IPv4-mapped ones as ::ffff:192.0.2.1, whatever the version of Python."""
    mapped = end.ipv4_mapped if end.version == 6 else None
    return str(end) if mapped is None else f"::ffff:{mapped}"


def address_texts(halves: npt.NDArray[np.uint64], ip_versions: npt.NDArray[np.uint8]) -> list[str]:
    """Addresses as text; each distinct one is written once.

    Args:
        halves: uint64[k, 2].
        ip_versions: uint8[k].
    """
    seen: dict[tuple[int, int, int], str] = {}
    texts = []
    for high, low, version in zip(halves[:, 0].tolist(), halves[:, 1].tolist(), ip_versions.tolist(), strict=True):
        text = seen.get((high, low, version))
        if text is None:
            if version == 4:  # as below, in a fifth of the time
                text = socket.inet_ntoa((low & 0xFFFFFFFF).to_bytes(4, "big"))
            else:
                text = address_text(address((high, low), version))
            seen[high, low, version] = text
        texts.append(text)
    return texts


def time_text(time_ns: int, time_bits: int = 0) -> str:
    """Seconds since 1970, a dot, and 6 digits, or 9 where the clock was finer than microseconds.

    Args:
        time_ns: Nanoseconds since 1970.
        time_bits: As in FRAME.
    """
    sign = "-" if time_ns < 0 else ""
    seconds, rest = divmod(abs(int(time_ns)), 1_000_000_000)
    if int(time_bits) & FINER_THAN_MICROSECONDS:
        return f"{sign}{seconds}.{rest:09d}"
    return f"{sign}{seconds}.{rest // 1000:06d}"


def time_texts(times_ns: npt.NDArray[np.int64], time_bits: npt.NDArray[np.uint8]) -> list[str]:
    """Each time as `time_text` has it.

    Args:
        times_ns: int64[k].
        time_bits: uint8[k].
    """
    finer = time_bits & FINER_THAN_MICROSECONDS
    if bool(finer.any()) or bool((times_ns < 0).any()):
        return [time_text(time, bits) for time, bits in zip(times_ns.tolist(), time_bits.tolist(), strict=True)]
    seconds, rest = np.divmod(times_ns // 1000, 1_000_000)
    return [f"{whole}.{part:06d}" for whole, part in zip(seconds.tolist(), rest.tolist(), strict=True)]


def label_text(protocol: str, src: str, src_port: int | None, dst: str, dst_port: int | None, time: str) -> str:
    """Put a label together; characters that do not belong into a file name become `_`.

    Args:
        protocol: Name of the protocol; `TCP` is left out.
        src: Source address.
        src_port: Source port, None where the protocol has none.
        dst: Destination address.
        dst_port: Destination port.
        time: Time stamp of the first frame.
    """
    ends = [end.replace(":", ".") for end in (src, dst)]
    if src_port is not None:
        ends = [f"{ends[0]}_{src_port}", f"{ends[1]}_{dst_port}"]
    name = "" if protocol == "TCP" else f"{protocol}_"
    return _UNSAFE.sub("_", f"{name}{ends[0]}-{ends[1]}-{time}")


def _ends_label(flow: np.void, side: str, half: np.void) -> str:
    """Label with `side` as the source, and the opening time of `half`."""
    far = "resp" if side == "orig" else "orig"
    return _label(
        flow,
        (flow[f"{side}_addr"], flow[f"{side}_port"]),
        (flow[f"{far}_addr"], flow[f"{far}_port"]),
        time_text(half["opened_ns"], half["time_bits"]),
    )


def _label(row: np.void, source: tuple[Any, Any], target: tuple[Any, Any], time: str) -> str:
    """Label of a FLOW or PACKET row from one end to the other; an end is an address in halves and a port."""
    with_ports = has_ports(int(row["protocol"]))
    return label_text(
        protocol_name(int(row["protocol"])),
        address_text(address(source[0], row["ip_version"])),
        int(source[1]) if with_ports else None,
        address_text(address(target[0], row["ip_version"])),
        int(target[1]) if with_ports else None,
        time,
    )


def packet_label(packet: np.void, time_ns: int, time_bits: int, *, answer: bool = False) -> str:
    """What the label of a flow, or direction of a flow, is that a packet opens.

    Args:
        packet: PACKET row.
        time_ns: When it came, nanoseconds since 1970.
        time_bits: As in FRAME.
        answer: The label is that of a flow, and the packet goes from its responder to its originator.
    """
    source = (packet["src_hi"], packet["src_lo"]), packet["src_port"]
    target = (packet["dst_hi"], packet["dst_lo"]), packet["dst_port"]
    if answer:
        source, target = target, source
    return _label(packet, source, target, time_text(time_ns, time_bits))


def direction_label(flow: np.void, side: str) -> str:
    """Label of one direction of a FLOW row: what `side` (`orig` or `resp`) sent, from its first frame on."""
    return _ends_label(flow, side, flow[side])


def flow_label(flow: np.void) -> str:
    """Label of a FLOW row, from originator to responder, with the time of its first frame."""
    orig, resp = flow["orig"], flow["resp"]
    late = not orig["packets"] or (resp["packets"] and resp["opened_frame"] < orig["opened_frame"])
    return _ends_label(flow, "orig", resp if late else orig)
