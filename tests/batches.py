"""Batches for tests of filters: some frames, decoded, as a filter is shown them.

What lives here: making a `Seen` of octets, and running one filter over it. No expectation comes from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import exchange
import numpy as np

from traceflow.decode import decode_batch
from traceflow.filters.contract import FLOW_FACTS, Seen, Selection
from traceflow.filters.kinds import runner_of
from traceflow.filters.running import of_batch
from traceflow.filters.text import parse_graph
from traceflow.packets import FRAME, PACKET, Batch

__all__ = ["passes", "seen_of", "tcp_frame", "udp_frame"]


def tcp_frame(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", flags: int = exchange.ACK) -> bytes:
    """An Ethernet frame with a TCP segment."""
    return exchange.link_frame(
        exchange.LINK_ETHERNET,
        exchange.ip(src, dst, exchange.TCP, exchange.tcp(src, dst, sport, dport, flags=flags, payload=payload)),
    )


def udp_frame(src: str, dst: str, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """An Ethernet frame with a UDP datagram."""
    return exchange.link_frame(
        exchange.LINK_ETHERNET, exchange.ip(src, dst, exchange.UDP, exchange.udp(src, dst, sport, dport, payload))
    )


def seen_of(
    octets: Sequence[bytes],
    *,
    times_ns: Sequence[int] | None = None,
    wire: Sequence[int] | None = None,
    device: str = "",
    facts: Sequence[tuple[Any, ...]] | None = None,
) -> Seen:
    """A batch of Ethernet frames.

    Args:
        octets: The captured octets of each.
        times_ns: Their times; else the number of each, from 0.
        wire: Their lengths on the wire; else as captured.
        device: Where they come from.
        facts: Rows of FLOW_FACTS.
    """
    frames = np.zeros(len(octets), FRAME)
    frames["captured"] = [len(one) for one in octets]
    frames["start"] = np.cumsum([0, *frames["captured"][:-1]])
    frames["wire"] = frames["captured"] if wire is None else wire
    frames["time_ns"] = np.arange(len(octets)) if times_ns is None else times_ns
    frames["link"] = exchange.LINK_ETHERNET
    batch = Batch(np.frombuffer(b"".join(octets), np.uint8), frames, 1, 1)
    packets = decode_batch(batch.octets, frames, np.zeros(len(octets), PACKET))
    return Seen(batch, packets, device, None if facts is None else lambda: np.array(facts, FLOW_FACTS))


def passes(text: str, seen: Seen, given: Selection | None = None) -> list[int]:
    """Which frames, from 0, the filter of a text lets through of a batch, or of some of it."""
    (node,) = parse_graph(text).nodes
    return runner_of(node.filter).run(seen, of_batch(len(seen.packets)) if given is None else given).indexes.tolist()
