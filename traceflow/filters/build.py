"""The object form: a function for each kind of filter. What they give is joined by `+`, `>>`, `~` and `&`.

    (device("eth0") + device("eth1")) >> sampler(2, memory=4) >> bpf("tcp port 80") >> bytecount(memory=8)

In Python `>>` binds tighter than `&` but looser than `+`, so `a + b >> c` is what `a | b -> c` is in a text, and only
`&` needs parentheses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Literal

from traceflow.errors import UsageError
from traceflow.filters.functions import register_function
from traceflow.filters.graph import Filter
from traceflow.filters.kinds import make_call
from traceflow.filters.needles import needles_text

__all__ = [
    "bpf",
    "bytecount",
    "device",
    "flags",
    "flow",
    "function",
    "host",
    "ip",
    "net",
    "packetcount",
    "port",
    "protocol",
    "rate",
    "sampler",
    "search",
    "truncate",
    "tunnel",
    "vlan",
]

Side = Literal["", "src", "dst"]
_Address = str | ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = str | ipaddress.IPv4Network | ipaddress.IPv6Network


def _sided(side: str, value: object) -> str:
    if side not in ("", "src", "dst"):
        raise UsageError(f"side is {side!r}; it is src, dst, or empty for either")
    return f"{side} {value}".strip()


def device(name: str) -> Filter:
    """Packets of an interface or capture."""
    return make_call("device", name)


def sampler(n: int, by: Literal["packet", "flow"] = "packet", memory: int | None = None) -> Filter:
    """The first of every n packets that come, or the packets of the first of every n flows of the source.

    Args:
        n: One in how many.
        by: `packet` or `flow`.
        memory: Octets of its counters.
    """
    return make_call("sampler", f"{n} by {by}", memory)


def bpf(expression: str) -> Filter:
    """Frames that a pcap-filter expression means."""
    return make_call("BPF", expression)


def host(address: _Address, side: Side = "") -> Filter:
    """Packets to or from an address."""
    return make_call("host", _sided(side, address))


def net(network: _Network, side: Side = "") -> Filter:
    """Packets to or from a network."""
    return make_call("net", _sided(side, network))


def port(*ports: int | str | range, side: Side = "") -> Filter:
    """Packets to or from ports: numbers, ranges of Python, or text such as `8000-8100`."""
    return make_call("port", _sided(side, ",".join(map(_port_text, ports))))


def _port_text(one: int | str | range) -> str:
    if not isinstance(one, range):
        return str(one)
    if one.step != 1 or not one:
        raise UsageError(f"{one!r} is no range of ports; it must hold some, and its step must be 1")
    return f"{one[0]}-{one[-1]}"


def protocol(*protocols: int | str) -> Filter:
    """Packets of IP protocols, by name or number."""
    return make_call("protocol", ",".join(map(str, protocols)))


def flags(wanted: str) -> Filter:
    """TCP segments with flags set or not: `syn,!ack`."""
    return make_call("flags", wanted)


def ip(version: Literal[4, 6]) -> Filter:
    """Packets of IPv4, or of IPv6."""
    return make_call("ip", str(version))


def vlan(*ids: int | str) -> Filter:
    """Packets with a VLAN tag; with ids, those whose first or last tag is one of them."""
    return make_call("vlan", ",".join(map(str, ids)))


def tunnel(name: str = "", number: int | None = None) -> Filter:
    """Packets that a tunnel carried, of any kind or of one, with an id or any."""
    return make_call("tunnel", name if number is None else f"{name} {number}")


def flow(terms: str) -> Filter:
    """Packets of flows of which something is true at that packet: `packets > 10 and state == established`."""
    return make_call("flow", terms)


def search(*needles: bytes | str) -> Filter:
    """Packets whose payload holds one of some strings of octets; text is taken as UTF-8."""
    return make_call("search", needles_text(needles))


def truncate(octets: int) -> Filter:
    """The first octets of each frame are all that filters and readers behind it are shown."""
    return make_call("truncate", str(octets))


def packetcount(memory: int | None = None) -> Filter:
    """Counts packets in a counter of 1, 2, 4 or 8 octets."""
    return make_call("packetcount", "", memory)


def bytecount(memory: int | None = None) -> Filter:
    """Counts octets, as they were on the wire, in a counter of 1, 2, 4 or 8 octets."""
    return make_call("bytecount", "", memory)


def rate(interval: str) -> Filter:
    """Packets and octets in an interval of packet time: `1s`, `100ms`."""
    return make_call("rate", interval)


def function(
    what: str | Callable[..., Any], parameter: str = "", *, name: str | None = None, compiled: bool = False
) -> Filter:
    """Packets that a function of the user means.

    Args:
        what: The function, which is registered, or the name of one that was.
        parameter: What it is told.
        name: The name under which it is registered; None: its own.
        compiled: Whether it is compiled, see `register_function`.
    """
    if isinstance(what, str):
        return make_call(what, parameter)
    own = getattr(what, "__name__", "") if name is None else name
    return make_call(register_function(own, what, compiled=compiled).name, parameter)
