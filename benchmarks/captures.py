"""Synthetic captures for measurements, made fast and the same for the same seed.

    python benchmarks/captures.py small --frames 2000000 -o small.pcap
    python benchmarks/captures.py flows --connections 20000 -o flows.pcap
    python benchmarks/captures.py live --frames 10000000 --live 1000000 -o live.pcap

`small`: frames of 54 captured octets (Ethernet, IPv4, TCP), the most packets per second that a file can hold. About
30 frames a connection: handshake, data both ways with their ACKs, FIN from both sides. The snaplen is 54: data segments
say on the wire and in IP how long they were, and their payload (zeros, as the checksums have it) was not captured.

`mix`: connections as in `small`, with payload: text on ports 25, 80 and 8080, random octets (as if encrypted) on
others; most data of servers are full segments of 1460 octets.

`flows`: connections of seven frames (handshake, request with the ACK, response, FIN, FIN, ACK) with payload in text.

`ipv6-vlan`: `small` over IPv6 behind VLAN tags. `pcapng`: the frames of `small` as enhanced packet blocks.

`many`: UDP flows of one frame. `one`: one TCP connection. `live`: TCP connections that are all open at once.
`syn`, `rst`: TCP segments, each of a connection of its own.

Sequence and acknowledgment numbers, lengths and checksums are right; addresses and ports are unique. Time stamps are
in microseconds and never go back. Nothing here reads a capture or knows traceflow. All are made piece by piece, so that
memory does not grow with the capture. connections.py and floods.py say what is sent, records.py how it lies in a file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import floods
import numpy as np
from connections import (
    SHORTEST,
    in_time_order,
    mix_script,
    seven_counts,
    seven_script,
    small_counts,
    small_script,
    with_payload,
)
from records import (
    EVERYTHING,
    HEADER_OCTETS,
    IP6_RECORD,
    as_ip6_vlan,
    as_ng,
    file_header,
    ng_header,
    write_rows,
)

__all__ = [
    "KINDS",
    "SHORTEST",
    "write_flows",
    "write_ip6_vlan",
    "write_live",
    "write_many",
    "write_mix",
    "write_one",
    "write_pcapng",
    "write_segments",
    "write_small",
]

_ENCRYPTED_PORTS = (22, 443)


def write_small(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `small`.

    Args:
        path: The file to write, 70 octets a frame.
        frames: How many frames; at least 8.
        seed: Chooses sizes, gaps and numbers.

    Returns:
        The number of connections.

    Raises:
        ValueError: Fewer than 8 frames.
    """
    counts = small_counts(frames, np.random.default_rng(seed))
    write_rows(path, file_header(HEADER_OCTETS), in_time_order(counts, small_script, seed))
    return len(counts)


def write_ip6_vlan(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `ipv6-vlan`, 94 octets a frame; as `write_small` otherwise."""
    counts = small_counts(frames, np.random.default_rng(seed))
    pieces = map(as_ip6_vlan, in_time_order(counts, small_script, seed))
    write_rows(path, file_header(IP6_RECORD.itemsize - 16), pieces)
    return len(counts)


def write_pcapng(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `pcapng`, 88 octets a frame; as `write_small` otherwise."""
    counts = small_counts(frames, np.random.default_rng(seed))
    write_rows(path, ng_header(HEADER_OCTETS), map(as_ng, in_time_order(counts, small_script, seed)))
    return len(counts)


def write_mix(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `mix`.

    Args:
        path: The file to write, about 370 octets a frame.
        frames: How many frames; at least 8.
        seed: Chooses lengths, payload, gaps and numbers.

    Returns:
        The number of connections.

    Raises:
        ValueError: Fewer than 8 frames.
    """
    random = np.random.default_rng(seed)
    counts = small_counts(frames, random)
    rows = in_time_order(counts, mix_script, seed)
    write_rows(path, file_header(EVERYTHING), (with_payload(some, random, _ENCRYPTED_PORTS) for some in rows))
    return len(counts)


def write_flows(path: Path, *, connections: int = 20_000, seed: int = 1) -> int:
    """Write the capture `flows`.

    Args:
        path: The file to write, about 780 octets a connection.
        connections: How many, of seven frames each.
        seed: Chooses lengths, payload, gaps and numbers.

    Returns:
        The number of frames.

    Raises:
        ValueError: No connection.
    """
    random = np.random.default_rng(seed)
    counts = seven_counts(connections)
    rows = in_time_order(counts, seven_script, seed)
    write_rows(path, file_header(EVERYTHING), (with_payload(some, random, ()) for some in rows))
    return int(counts.sum())


def write_many(path: Path, *, frames: int = 1_000_000, seed: int = 1) -> int:
    """Write the capture `many`, 76 octets a frame. `seed` is not used. Returns the number of flows: `frames`."""
    return write_rows(path, file_header(EVERYTHING), floods.udp_flows(frames))


def write_one(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `one`, 70 octets a frame. `seed` is not used. Returns the number of connections: 1."""
    write_rows(path, file_header(HEADER_OCTETS), floods.one_flow(frames))
    return 1


def write_live(path: Path, *, frames: int, live: int, seed: int = 1) -> int:
    """Write the capture `live`.

    Args:
        path: The file to write, 70 octets a frame.
        frames: How many frames.
        live: How many connections; they open with the first frames and do not end.
        seed: Chooses whose frame comes next.

    Returns:
        The number of connections.

    Raises:
        ValueError: Fewer frames than connections, or none of them.
    """
    write_rows(path, file_header(HEADER_OCTETS), floods.live_flows(frames, live, seed))
    return live


def write_segments(path: Path, *, frames: int, flags: int) -> int:
    """Write a flood of TCP segments with some flags, 70 octets a frame. Returns the number of connections: `frames`."""
    return write_rows(path, file_header(HEADER_OCTETS), floods.segments(frames, flags))


KINDS: dict[str, Callable[..., int]] = {
    "small": write_small,
    "mix": write_mix,
    "ipv6-vlan": write_ip6_vlan,
    "pcapng": write_pcapng,
    "many": write_many,
    "one": write_one,
}
"""Captures that take a path, `frames` and `seed`, and return the number of flows."""


def main(arguments: list[str] | None = None) -> None:
    """Write one of the captures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "flows", "live", "syn", "rst"])
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--connections", type=int, default=20_000, help="of `flows`")
    parser.add_argument("--live", type=int, default=100_000, help="connections of `live`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    frames, flows = chosen.frames, chosen.connections
    try:
        if chosen.kind == "flows":
            frames = write_flows(chosen.output, connections=flows, seed=chosen.seed)
        elif chosen.kind == "live":
            flows = write_live(chosen.output, frames=frames, live=chosen.live, seed=chosen.seed)
        elif chosen.kind in KINDS:
            flows = KINDS[chosen.kind](chosen.output, frames=frames, seed=chosen.seed)
        else:
            flags = floods.SYN if chosen.kind == "syn" else floods.RST
            flows = write_segments(chosen.output, frames=frames, flags=flags)
    except ValueError as error:
        parser.error(str(error))
    print(f"{chosen.output}: {frames} frames, {flows} flows")


if __name__ == "__main__":
    main()
