"""Checksums of IPv4, TCP, UDP, ICMP and ICMPv6 (RFC 1071, RFC 9293 3.1, RFC 768, RFC 4443 2.3), on request only.

A checksum is judged only where everything it covers was captured: a cut frame, a fragment, and a packet without a
length (segmentation offload) are not. Captures taken on the sending machine often hold checksums that the network card
had yet to fill in; therefore nothing is verified unless asked. Nothing here looks at flows, and nothing is dropped: a
wrong IPv4 header becomes a Verdict, a wrong checksum behind it a bit of the PACKET row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel
from traceflow.packets import BAD_CHECKSUM, FRAGMENT, Verdict

__all__ = ["verify", "verify_batch"]

_FLOW, _BAD_IP = int(Verdict.FLOW), int(Verdict.BAD_IP_CHECKSUM)
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58


@inline_kernel
def _sum(octets: Any, start: Any, count: Any) -> Any:
    """Sum of the 16-bit words, network order; a last odd octet counts as the upper half of a word."""
    total = U64(0)
    even = count & ~U64(1)
    for i in range(U64(0), even, U64(2)):
        at = start + U64(i)
        total += (U64(octets[at]) << U64(8)) | U64(octets[at + U64(1)])
    if count & U64(1):
        total += U64(octets[start + even]) << U64(8)
    return total


@inline_kernel
def _is_right(total: Any) -> Any:
    """Whether a sum that includes its checksum is all ones."""
    while total >> U64(16):
        total = (total & U64(0xFFFF)) + (total >> U64(16))
    return total == U64(0xFFFF)


@inline_kernel
def _words(number: Any) -> Any:
    """Sum of the four 16-bit words of a number."""
    low = (number & U64(0xFFFF)) + ((number >> U64(16)) & U64(0xFFFF))
    return low + ((number >> U64(32)) & U64(0xFFFF)) + (number >> U64(48))


@inline_kernel
def _addresses(packet: Any) -> Any:
    """The addresses of the pseudo header; the prefix of a mapped IPv4 address is no part of it."""
    mask = U64(0xFFFFFFFF) if packet["ip_version"] == 4 else U64(0xFFFFFFFFFFFFFFFF)
    total = _words(U64(packet["src_lo"]) & mask) + _words(U64(packet["dst_lo"]) & mask)
    return total + _words(U64(packet["src_hi"])) + _words(U64(packet["dst_hi"]))


@kernel
def verify(octets: Any, frames: Any, packets: Any) -> Any:
    """Verify the checksums of decoded frames.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m] of the same frames; `verdict` and `bits` may be set.

    Returns:
        How many checksums were wrong.
    """
    wrong = 0
    for i in range(len(packets)):
        packet = packets[U64(i)]
        if packet["verdict"] != _FLOW:
            continue
        start = U64(frames[U64(i)]["start"])
        captured = U64(frames[U64(i)]["captured"])
        ip = U64(packet["link_octets"])
        if packet["ip_version"] == 4:
            header = (U64(octets[start + ip]) & U64(15)) << U64(2)
            if not _is_right(_sum(octets, start + ip, header)):
                packet["verdict"] = _BAD_IP
                wrong += 1
                continue
            if octets[start + ip + U64(2)] == 0 and octets[start + ip + U64(3)] == 0:
                continue
        protocol = U64(packet["protocol"])
        at = U64(packet["transport"])
        end = ip + U64(packet["ip_octets"])
        if end > captured or U64(packet["bits"]) & U64(FRAGMENT) or at == U64(0):
            continue
        total = _addresses(packet) + protocol
        if protocol == U64(_TCP):
            if end < at + U64(18):
                continue
        elif protocol == U64(_UDP):
            if end < at + U64(8):
                continue
            field = start + at + U64(6)
            if packet["ip_version"] == 4 and octets[field] == 0 and octets[field + U64(1)] == 0:
                continue  # the sender made none
        elif protocol == U64(_ICMP6) or protocol == U64(_ICMP):
            if end < at + U64(4):
                continue
            if protocol == U64(_ICMP):
                total = U64(0)
        else:
            continue
        if protocol != U64(_ICMP):
            total += end - at
        if not _is_right(total + _sum(octets, start + at, end - at)):
            packet["bits"] = U64(packet["bits"]) | U64(BAD_CHECKSUM)
            wrong += 1
    return wrong


def verify_batch(
    octets: npt.NDArray[np.uint8], frames: npt.NDArray[np.void], packets: npt.NDArray[np.void]
) -> npt.NDArray[np.void]:
    """Verify the checksums of a batch, see `verify`.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m], changed.

    Returns:
        `packets`.
    """
    verify(octets, frames, packets)
    return packets
