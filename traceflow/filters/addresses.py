"""The filters `host` and `net`: packets to or from an address, or a network, of IPv4 or IPv6.

They mean the innermost packet, as everything else that is said of a frame. A frame without an IP packet matches
neither. An IPv4 address never matches the mapped address of IPv6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import numpy as np

from traceflow.filters.contract import Kind, ParameterError
from traceflow.filters.graph import Call
from traceflow.filters.parameters import side_of
from traceflow.filters.running import MaskRunner
from traceflow.labels import Address, address_text

__all__ = ["HOST", "NET"]

_MAPPED = 0xFFFF_0000_0000  # upper half of ::ffff:a.b.c.d's lower 64 bits, as PACKET holds IPv4
_HALF = 2**64 - 1
_TEXT_MAX = 64  # characters of the longest address with a prefix length, and some more

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _address(text: str, at: int) -> Address:
    if not text:
        raise ParameterError("an address is missing, of IPv4 or IPv6", at)
    try:
        found = ipaddress.ip_address(text if len(text) <= _TEXT_MAX else "")
        if found.version == 6 and found.scope_id is not None:
            raise ParameterError("packets do not carry the zone of an address; leave out what begins with %", at)
    except ParameterError:
        raise
    except ValueError:
        raise ParameterError(f"{text[:_TEXT_MAX]!r} is no address of IPv4 or IPv6", at) from None
    return found


def _host(parameter: str) -> str:
    side, text, at = side_of(parameter)
    return f"{side} {address_text(_address(text, at))}".strip()


def _network(text: str, at: int) -> _Network:
    first, slash, length = text.partition("/")
    address = _address(first, at)
    bits = address.max_prefixlen
    try:
        # digits alone, or for IPv4 a mask; ipaddress takes both, and int() in it takes more than ASCII
        network = ipaddress.ip_network(f"{address}/{length if slash else bits}", strict=False)
        if slash and not (length.isascii() and length.strip() == length and length):
            raise ValueError
    except ValueError:
        raise ParameterError(f"behind the slash must stand a length from 0 to {bits}", at + len(first) + 1) from None
    if network.network_address != address:
        right = f"{address_text(network.network_address)}/{network.prefixlen}"
        raise ParameterError(f"{text} has bits set behind its prefix; the network is {right}", at)
    return network


def _net(parameter: str) -> str:
    side, text, at = side_of(parameter)
    network = _network(text, at)
    return f"{side} {address_text(network.network_address)}/{network.prefixlen}".strip()


def _make(call: Call) -> MaskRunner:
    side, text, at = side_of(call.parameter)
    network = _network(text, at)
    version, prefix = network.version, network.prefixlen
    value, mask = int(network.network_address), int(network.netmask)
    if version == 4:
        value, mask = value | _MAPPED, mask | _HALF << 32
        value, mask = value & _HALF, mask & _HALF
    high, low = np.uint64(value >> 64), np.uint64(value & _HALF)
    high_mask, low_mask = np.uint64(mask >> 64 & _HALF), np.uint64(mask & _HALF)

    def one(column: Callable[[str], Any], end: str) -> Any:
        found = column(f"{end}_lo") & low_mask == low
        # the upper half of an IPv4 address is zero
        return found if version == 4 or not prefix else found & (column(f"{end}_hi") & high_mask == high)

    def test(column: Callable[[str], Any]) -> Any:
        same_version = column("ip_version") == version
        if side:
            return same_version & one(column, side)
        return same_version & (one(column, "src") | one(column, "dst"))

    return MaskRunner(test)


HOST = Kind("host", "packets to or from an address", "[src|dst] ADDRESS", _host, _make, predicate=True)
NET = Kind("net", "packets to or from a network", "[src|dst] ADDRESS/LENGTH", _net, _make, predicate=True)
