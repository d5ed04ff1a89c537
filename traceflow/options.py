"""Everything that can be adjusted about where flows begin and end, and the profiles: named sets of it.

One frozen dataclass; units stand in the names. The table reads these rules and nothing else, so every profile
is the same table with other numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from traceflow.errors import UsageError, suggest

__all__ = ["PROFILES", "SECOND_NS", "Options", "options_for"]

SECOND_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The rules by which frames become flows.

    Attributes:
        profile: Name of the profile the rules came from.
        directed: The key keeps its direction, so that each direction of a conversation is a flow of its own.
        tcp_only: Packets of other protocols than TCP get the Verdict NOT_TCP.
        syn_opens: A SYN without ACK that does not belong to the live flow opens a new one (flow-rules 4).
        originator: Who is the originator of a flow: `syn` - the sender of the SYN, the receiver of the SYN+ACK,
            otherwise the first sender; `first` - the first sender, whatever comes later.
        tcp_end: What ends a TCP flow: `both` - FIN from both sides, or a RST, and then the linger time;
            `fin` - a FIN ends its flow at once, after its frame; `never` - only timeouts.
        idle_timeout_tcp_ns: Silence after which a TCP flow ends, in nanoseconds of packet time; None: never.
        idle_timeout_other_ns: The same for other protocols.
        linger_ns: How long a closed TCP flow keeps its key for frames that trail the close.
        analysis: Judge every TCP segment as tshark's analysis does (`analysis.py`).
        max_flows: Live flows the table holds at most; the one nearest to its timeout is ended for a new one.
    """

    profile: str = "default"
    directed: bool = False
    tcp_only: bool = False
    syn_opens: bool = True
    originator: Literal["syn", "first"] = "syn"
    tcp_end: Literal["both", "fin", "never"] = "both"
    idle_timeout_tcp_ns: int | None = 300 * SECOND_NS
    idle_timeout_other_ns: int | None = 60 * SECOND_NS
    linger_ns: int = 60 * SECOND_NS
    analysis: bool = True
    max_flows: int = 10_000_000

    def __post_init__(self) -> None:
        for name in ("idle_timeout_tcp_ns", "idle_timeout_other_ns", "linger_ns"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 2**62:  # so that TIME_MAX_NS plus a timeout fits 64 bits
                raise UsageError(f"{name} is {value}; it must be above 0 and below 2**62 nanoseconds")
        if not 0 < self.max_flows <= 2**31 - 2:
            raise UsageError(f"max_flows is {self.max_flows}; it must be between 1 and {2**31 - 2}")
        if self.tcp_end not in ("both", "fin", "never"):
            raise UsageError(suggest("tcp_end", self.tcp_end, ("both", "fin", "never")))
        if self.originator not in ("syn", "first"):
            raise UsageError(suggest("originator", self.originator, ("syn", "first")))


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
        originator="first",
        tcp_end="never",
        idle_timeout_tcp_ns=None,
        idle_timeout_other_ns=None,
    ),
}
"""The profiles by name: `default`; `pcapkit`, which cuts as PyPCAPKit's TraceFlow does; `tshark`, whose TCP flows are
the values of tshark's `tcp.stream`."""


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
    if profile not in PROFILES:
        raise UsageError(suggest("profile", profile, PROFILES))
    names = {field.name for field in dataclasses.fields(Options)} - {"profile"}
    for name in changes:
        if name not in names:
            raise UsageError(suggest("option", name, names))
    return dataclasses.replace(PROFILES[profile], **changes)
