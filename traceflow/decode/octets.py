"""Big-endian loads from a buffer of octets, and the ways in which reading can end.

What every module of decode shares. `b` is the buffer, positions are unsigned; bounds are the business of the caller.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel
from traceflow.packets import Verdict

__all__ = [
    "BAD_IP",
    "CUT_IP",
    "CUT_LINK",
    "CUT_PORTS",
    "DEFERRED",
    "NOT_IP",
    "NO_PORTS",
    "OK",
    "TOO_DEEP",
    "UNSUPPORTED",
    "sign",
    "u16",
    "u32",
    "u64",
]

OK = int(Verdict.FLOW)
NOT_IP = int(Verdict.NOT_IP)
UNSUPPORTED = int(Verdict.UNSUPPORTED_LINK)
CUT_LINK = int(Verdict.TRUNCATED_LINK)
CUT_IP = int(Verdict.TRUNCATED_IP)
CUT_PORTS = int(Verdict.TRUNCATED_PORTS)
BAD_IP = int(Verdict.MALFORMED_IP)
NO_PORTS = int(Verdict.FRAGMENT_WITHOUT_PORTS)
TOO_DEEP = int(Verdict.NESTED_TOO_DEEP)
DEFERRED = 255
"""Not a Verdict: the frame needs `rare.py`."""


@inline_kernel
def u16(b: Any, at: Any) -> Any:
    """Two octets at `at`, most significant first."""
    return (U64(b[at]) << U64(8)) | U64(b[at + U64(1)])


@inline_kernel
def u32(b: Any, at: Any) -> Any:
    """Four octets."""
    return (u16(b, at) << U64(16)) | u16(b, at + U64(2))


@inline_kernel
def u64(b: Any, at: Any) -> Any:
    """Eight octets."""
    return (u32(b, at) << U64(32)) | u32(b, at + U64(4))


@inline_kernel
def sign(captured: Any, wire: Any, ports: Any, numbers: Any) -> Any:
    """The signature of a frame, by which `duplicates.py` tells most frames apart without a look at their octets.

    Equal for equal frames, and seldom for others; the upper bits are well mixed. Nothing is secret: who makes
    signatures meet only has octets compared.

    Args:
        captured: Octets captured.
        wire: Octets it had on the wire, as recorded.
        ports: Source and destination port, 16 bits each.
        numbers: Sequence and acknowledgment number of TCP; where both are 0, the first 8 octets behind IP.
    """
    return ((captured << U64(32) | wire) + (ports << U64(32)) ^ numbers) * U64(0x9E3779B97F4A7C15)
