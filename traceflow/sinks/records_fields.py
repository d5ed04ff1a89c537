"""What the modules of all layers share: headers that were cut, addresses, and the names of protocols."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

__all__ = ["cut", "ipv4_text", "ipv6_text", "whole"]

ipv4_text = socket.inet_ntoa
"""Four octets to dotted decimals."""


def ipv6_text(octets: bytes) -> str:
    """Sixteen octets to text as RFC 5952 has it."""
    return socket.inet_ntop(socket.AF_INET6, octets)


def whole(octets: bytes, at: int, size: int, stop: int) -> tuple[bytes, int]:
    """A header of fixed size, filled up with zeros where it was cut.

    Args:
        octets: The captured octets of the frame.
        at: Where the header begins.
        size: Its octets.
        stop: Where what carries it ends.

    Returns:
        The header, and how many octets of it are real.
    """
    header = octets[at : min(at + size, max(stop, at))]
    return header.ljust(size, b"\0"), len(header)


def cut(layer: dict[str, Any], ends: Mapping[str, int], had: int) -> dict[str, Any]:
    """A layer without the fields whose octets are missing, marked `truncated`.

    Args:
        layer: All fields, some of them read from the zeros of `whole`.
        ends: Field -> octets of the header up to its end; fields not named stay.
        had: Octets of the header that are real.
    """
    kept = {name: value for name, value in layer.items() if ends.get(name, 0) <= had}
    kept["truncated"] = True
    return kept
