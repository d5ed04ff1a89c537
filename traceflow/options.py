"""Everything that can be adjusted about where flows begin and end, and the profiles: named sets of it.

One frozen dataclass; units stand in the names. The table reads these rules and nothing else, so every profile
is the same table with other numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from traceflow.errors import UsageError, suggest

__all__ = [
    "CHOICES",
    "KEY_PARTS",
    "LIKELY_SERVER_PORTS",
    "MOST_FLOWS",
    "PROFILES",
    "SECOND_NS",
    "Options",
    "options_for",
]

SECOND_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The rules by which frames become flows.

    Attributes:
        profile: Name of the profile the rules came from.
        key: What belongs to the key besides protocol and ends: `vlan` - the VLAN stack; `tunnel` - kind and id of the
            innermost tunnel. Any iterable of these; it is kept as a frozenset.
        directed: The key keeps its direction, so that each direction of a conversation is a flow of its own.
        tcp_only: Packets of other protocols than TCP get the Verdict NOT_TCP.
        syn_opens: A SYN without ACK that does not belong to the live flow opens a new one (flow-rules 4).
        direction: Who is the originator: `syn` - by SYN and SYN+ACK, otherwise the first sender (flow-rules 2);
            `first` - the first sender, whatever comes later; `order` - the first sender, unless a SYN+ACK stands before
            its SYN, or an ACK or data follow it; `ports` - likewise, but without a SYN the end that has no server port
            (Zeek); `tranalyzer` - the first sender, unless it has a lower well-known port, a port like 8080, or sends a
            SYN+ACK (`directions.py`).
        reuse: With whose first number that of a SYN is compared to tell whether it opens a new flow: `sender` - its own
            direction's; `closed` - likewise, and only where the flow is closed; `originator` - Zeek's rule, see
            `states.reopens`.
        tcp_end: What ends a TCP flow: `both` - FIN from both sides, or a RST, and then the linger time;
            `fins` - FIN from both sides alone; `states` - as `both`, and also a FIN where the other side was never
            heard; `fin` - a FIN ends its flow at once, after its frame; `never` - only timeouts.
        idle_timeout_tcp_ns: Silence after which a TCP flow ends, in nanoseconds of packet time; None: never.
        idle_timeout_other_ns: The same for other protocols.
        active_timeout_ns: Age at which a flow is cut at its next packet (flow-rules 3): what follows is its next
            segment, a flow of the same parent and direction; None: never.
        linger_ns: How long a closed TCP flow keeps its key for frames that trail the close.
        outer: The flow of a packet that carries another one is that of the outermost packet, not of the innermost.
        fabric_path_fcs: A frame inside Cisco FabricPath ends with its own check sequence of 4 octets, as tshark takes
            it; else with what IP says. Where IP fills the frame, these octets are missing from its packet then.
        wait_from: What the linger time counts from: the flow's `last frame`, or its `close`.
        attempt_timeout_ns: How long a SYN without answer waits, counted from the first SYN; None: as other TCP flows.
        handshake_timeout_ns: Silence after which a TCP flow ends that is not yet established; None: as others.
        checksums: Checksums are verified: a bad one of IPv4 is a Verdict, a bad one behind it counts, but says nothing
            of the connection.
        analysis: Judge every TCP segment as tshark's analysis does (`analysis.py`).
        duplicates: What becomes of exact duplicates (`duplicates.py`): `count` - they are counted and marked, and stay
            in their flows; `remove` - also, they get the Verdict DUPLICATE and are in none; `ignore` - nobody looks.
        duplicate_window_ns: How far apart in time a frame and its duplicate may lie, in nanoseconds of packet time;
            None: however far. The default is above the delay of a mirror port and below any retransmission timeout.
        max_flows: Live flows the table holds at most. It grows with them, so the largest number is hardly a limit.
        when_full: What a packet does that would open one more: `evict` - the flow nearest to its timeout ends for it;
            `skip` - none is opened, and the packet gets the Verdict TABLE_FULL; `grow` - it opens, `max_flows` is no
            limit.
    """

    profile: str = "default"
    key: Iterable[str] = frozenset()
    directed: bool = False
    tcp_only: bool = False
    syn_opens: bool = True
    direction: Literal["syn", "first", "order", "ports", "tranalyzer"] = "syn"
    reuse: Literal["sender", "closed", "originator"] = "sender"
    tcp_end: Literal["both", "fins", "states", "fin", "never"] = "both"
    idle_timeout_tcp_ns: int | None = 300 * SECOND_NS
    idle_timeout_other_ns: int | None = 60 * SECOND_NS
    active_timeout_ns: int | None = None
    linger_ns: int = 60 * SECOND_NS
    outer: bool = False
    fabric_path_fcs: bool = False
    wait_from: Literal["last frame", "close"] = "last frame"
    attempt_timeout_ns: int | None = None
    handshake_timeout_ns: int | None = None
    checksums: bool = False
    analysis: bool = True
    duplicates: Literal["count", "remove", "ignore"] = "count"
    duplicate_window_ns: int | None = 500_000
    max_flows: int = 10_000_000
    when_full: Literal["evict", "skip", "grow"] = "evict"

    def __post_init__(self) -> None:
        if not isinstance(self.key, Iterable):
            raise UsageError(f"key is {self.key!r}; it must be a tuple of parts: {', '.join(KEY_PARTS)}, or ()")
        object.__setattr__(self, "key", frozenset([self.key] if isinstance(self.key, str) else self.key))
        for part in self.key:
            if part not in KEY_PARTS:
                raise UsageError(suggest("part of the key", part, KEY_PARTS))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        for name in (*_TIMEOUTS, "max_flows"):
            value = getattr(self, name)
            if not (value is None and name in _MAY_BE_NONE) and (isinstance(value, bool) or not isinstance(value, int)):
                what = "a whole number" if name == "max_flows" else "a whole number of nanoseconds"
                raise UsageError(f"{name} is {value!r}; it must be {what}{' or None' if name in _MAY_BE_NONE else ''}")
        for name in _TIMEOUTS:
            value = getattr(self, name)
            if value is not None and not 0 < value < 2**62:  # so that TIME_MAX_NS plus a timeout fits 64 bits
                raise UsageError(f"{name} is {value}; it must be above 0 and below 2**62 nanoseconds")
        if not 0 < self.max_flows <= MOST_FLOWS:
            raise UsageError(f"max_flows is {self.max_flows}; it must be between 1 and {MOST_FLOWS}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(suggest(name, getattr(self, name), choices))


_TIMEOUTS = (
    "idle_timeout_tcp_ns",
    "idle_timeout_other_ns",
    "active_timeout_ns",
    "linger_ns",
    "attempt_timeout_ns",
    "handshake_timeout_ns",
    "duplicate_window_ns",
)
_MAY_BE_NONE = {*_TIMEOUTS} - {"linger_ns"}
_SWITCHES = ("directed", "tcp_only", "syn_opens", "outer", "fabric_path_fcs", "checksums", "analysis")
MOST_FLOWS = 2**31 - 2
"""Live flows that a table can hold at all: a row number plus one has 31 bits."""
KEY_PARTS = ("vlan", "tunnel")
"""Optional parts of the key."""
CHOICES = {
    "direction": ("syn", "first", "order", "ports", "tranalyzer"),
    "reuse": ("sender", "closed", "originator"),
    "tcp_end": ("both", "fins", "states", "fin", "never"),
    "wait_from": ("last frame", "close"),
    "when_full": ("evict", "skip", "grow"),
    "duplicates": ("count", "remove", "ignore"),
}
"""Values of the options that have few."""

LIKELY_SERVER_PORTS: dict[int, tuple[int, ...]] = {
    6: (
        *(21, 22, 23, 25, 43, 53, 80, 81, 88, 102, 110, 135, 139, 143, 389, 443, 445, 502, 513, 514, 563, 585, 587),
        *(614, 631, 636, 989, 990, 992, 993, 995, 1080, 1433, 1434, 1883, 2811, 3128, 3268, 3306, 3389, 5060, 5222),
        *(5223, 5269, 5432, 5900, 6379, 6666, 6667, 6668, 6669, 8000, 8080, 8888, 20000),
    ),
    17: (
        53,
        67,
        88,
        123,
        137,
        161,
        162,
        443,
        514,
        1812,
        2123,
        2152,
        3544,
        3389,
        4789,
        5060,
        5072,
        5353,
        5355,
        6081,
        20000,
    ),
}
"""Ports of TCP and UDP that `direction="ports"` takes for a server's: those that Zeek's standard scripts name."""


PROFILES: dict[str, Options] = {
    "default": Options(),
    "pcapkit": Options(
        profile="pcapkit",
        directed=True,
        tcp_only=True,
        syn_opens=False,
        tcp_end="fin",
        idle_timeout_tcp_ns=None,
        idle_timeout_other_ns=None,
    ),
    "tshark": Options(
        profile="tshark",
        direction="first",
        tcp_end="never",
        idle_timeout_tcp_ns=None,
        idle_timeout_other_ns=None,
        fabric_path_fcs=True,
    ),
    "zeek": Options(
        profile="zeek",
        direction="ports",
        reuse="originator",
        tcp_end="states",
        linger_ns=5 * SECOND_NS,
        wait_from="close",
        attempt_timeout_ns=5 * SECOND_NS,
        handshake_timeout_ns=60 * SECOND_NS,
        checksums=True,
    ),
    "tranalyzer": Options(
        profile="tranalyzer",
        key=("vlan",),
        syn_opens=False,
        direction="tranalyzer",
        tcp_end="never",
        idle_timeout_tcp_ns=182 * SECOND_NS,
        idle_timeout_other_ns=182 * SECOND_NS,
    ),
    "peafowl": Options(
        profile="peafowl",
        direction="first",
        reuse="closed",
        tcp_end="fins",
        idle_timeout_tcp_ns=30 * SECOND_NS,
        idle_timeout_other_ns=30 * SECOND_NS,
        linger_ns=30 * SECOND_NS,
    ),
    "nfstream": Options(
        profile="nfstream",
        key=("vlan",),
        syn_opens=False,
        direction="first",
        tcp_end="never",
        idle_timeout_tcp_ns=120 * SECOND_NS,
        idle_timeout_other_ns=120 * SECOND_NS,
        active_timeout_ns=1800 * SECOND_NS,
    ),
}
"""The profiles by name; docs/profiles.md says of each what it is like."""


def options_for(profile: str = "default", **changes: Any) -> Options:
    """Take a profile and change single rules of it.

    Args:
        profile: A name in PROFILES.
        changes: Attributes of Options by name.

    Returns:
        The rules.

    Raises:
        UsageError: An unknown profile or option, or a value out of range.
    """
    if not isinstance(profile, str):
        raise UsageError(f"a profile is given by its name: {', '.join(PROFILES)}; rules of your own as single options")
    if profile not in PROFILES:
        raise UsageError(suggest("profile", profile, PROFILES))
    names = {field.name for field in dataclasses.fields(Options)} - {"profile"}
    for name in changes:
        if name not in names:
            raise UsageError(suggest("option", name, names))
    return dataclasses.replace(PROFILES[profile], **changes)
