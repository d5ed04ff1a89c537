"""Synthetic captures for measurements: many TCP connections, made fast and the same for the same seed.

    python benchmarks/captures.py small --frames 2000000 -o small.pcap
    python benchmarks/captures.py flows --connections 20000 -o flows.pcap
    python benchmarks/captures.py mix --frames 2000000 -o mix.pcap

`small`: frames of 54 captured octets (Ethernet, IPv4, TCP), the most packets per second that a file can hold. About
30 frames a connection: handshake, data both ways with their ACKs, FIN from both sides. The snaplen is 54: data segments
say on the wire and in IP how long they were, and their payload (zeros, as the checksums have it) was not captured.

`flows`: connections of seven frames (handshake, request with the ACK, response, FIN, FIN, ACK) with payload in text.

`mix`: connections as in `small`, with payload: text on ports 25, 80 and 8080, random octets (as if encrypted) on
others; most data of servers are full segments of 1460 octets.

Connections start evenly over the time of the capture and last about 1.5 s, so that thousands are live at once and
their frames interleave. Sequence and acknowledgment numbers, lengths and checksums are right; first sequence numbers
are random (some wrap); addresses and ports are unique. Time stamps are in microseconds and never go back. Nothing here
reads a capture or knows traceflow. Making one takes about 250 octets of memory a frame.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["write_flows", "write_mix", "write_small"]

Ints = npt.NDArray[np.int64]

FRAMES_PER_CONNECTION = 2_000_000 / 66_453
"""Of the capture that the figures of the tools were measured on: 2 000 000 frames, 66 453 connections."""
SHORTEST = 8
"""Frames of the shortest connection of `small`: three to open, one of data, four to close."""
HEADER_OCTETS = 54
ENCRYPTED_PORTS = (22, 443)
FULL_SEGMENTS = 0.7
"""Share of data segments of servers in `mix` that are full."""
START_S = 1_700_000_000
STARTS_PER_SECOND = 3_300
"""Connections that open in a second: `small` then runs at about 100 000 frames/s."""
LIFE_US = 1_500_000
FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10

RECORD = np.dtype(
    [
        # pcap record header, little-endian
        ("seconds", "<u4"),
        ("microseconds", "<u4"),
        ("captured", "<u4"),
        ("wire", "<u4"),
        # Ethernet
        ("ether_dst", "u1", (6,)),
        ("ether_src", "u1", (6,)),
        ("ether_type", ">u2"),
        # IPv4 (RFC 791)
        ("version_length", "u1"),
        ("service", "u1"),
        ("ip_octets", ">u2"),
        ("ident", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("ip_checksum", ">u2"),
        ("src", ">u4"),
        ("dst", ">u4"),
        # TCP (RFC 9293)
        ("src_port", ">u2"),
        ("dst_port", ">u2"),
        ("seq", ">u4"),
        ("ack", ">u4"),
        ("data_offset", "u1"),
        ("flags", "u1"),
        ("window", ">u2"),
        ("tcp_checksum", ">u2"),
        ("urgent", ">u2"),
    ]
)
"""A record without payload: 16 octets of pcap and 54 of headers."""

FILE_HEADER = np.dtype([("magic", "<u4"), ("major", "<u2"), ("minor", "<u2"), ("zone", "<i4"), ("figures", "<u4")])
LIMITS = np.dtype([("snaplen", "<u4"), ("link", "<u4")])


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """Who sends what, connection after connection, before it is mixed by time. All arrays have a row a frame.

    Attributes:
        connection: Number of the connection, from 0, ascending.
        place: Number of the frame in its connection, from 0.
        count: Frames of its connection.
        server: 1 where the responder sends.
        flags: TCP flags.
        payload: Payload octets on the wire.
    """

    connection: Ints
    place: Ints
    count: Ints
    server: Ints
    flags: Ints
    payload: Ints


def _places(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Connection, place and count of each frame, from the frames of each connection."""
    connection = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return connection, np.arange(len(connection)) - first[connection], counts[connection]


def _small_script(frames: int, random: np.random.Generator) -> Script:
    """Connections of 8 frames and more, together exactly `frames`."""
    connections = max(1, min(round(frames / FRAMES_PER_CONNECTION), frames // SHORTEST))
    spare = max(frames - SHORTEST * connections, 0)
    counts = SHORTEST + random.multinomial(spare, random.dirichlet(np.ones(connections)))
    connection, place, count = _places(counts)
    left = count - place
    # from the fourth frame on: data of the client, an ACK of the server, data of the server, an ACK of the client
    turn = (place - 3) % 4
    server = np.where(place < 3, place == 1, (turn == 1) | (turn == 2))
    server = np.where(left <= 4, (left == 3) | (left == 2), server)  # FIN; ACK, FIN; ACK
    flags: Ints = np.where(place == 0, SYN, np.where(place == 1, SYN | ACK, ACK))
    flags |= np.where((left == 4) | (left == 2), FIN, 0)
    data = (place >= 3) & (left > 4) & (turn % 2 == 0)
    flags |= np.where(data, PSH, 0)
    sizes = np.where(server, random.integers(1, 1461, len(place)), random.integers(1, 600, len(place)))
    return Script(connection, place, count, np.where(server, 1, 0), flags, np.where(data, sizes, 0))


_SEVEN = (  # sender is the server, flags, mean payload in words of two octets
    (0, SYN, 0),
    (1, SYN | ACK, 0),
    (0, ACK | PSH, 40),
    (1, ACK | PSH, 100),
    (0, ACK | FIN, 0),
    (1, ACK | FIN, 0),
    (0, ACK, 0),
)


def _flows_script(connections: int, random: np.random.Generator) -> Script:
    """Connections of seven frames; payload lengths are even, which keeps the sums of checksums in words."""
    connection, place, count = _places(np.full(connections, len(_SEVEN)))
    server, flags, words = np.array(_SEVEN).T
    spread = random.integers(1, 2 * np.maximum(words[place], 1))
    return Script(connection, place, count, server[place], flags[place], np.where(words[place] > 0, 2 * spread, 0))


def _times_us(script: Script, random: np.random.Generator) -> Ints:
    """Microseconds since the start; within a connection they ascend by random gaps."""
    connections = int(script.connection[-1]) + 1
    opens: Ints = np.arange(connections) * 1_000_000 // STARTS_PER_SECOND
    gaps = random.exponential(1, len(script.place)) * LIFE_US / script.count
    gaps[script.place == 0] = 0
    since_all = np.cumsum(gaps)
    since_open = since_all - since_all[script.place == 0][script.connection]
    times_us: Ints = opens[script.connection] + since_open.astype(np.int64)
    return times_us


def _numbers(script: Script, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Sequence and acknowledgment number of each frame: all that was sent before has arrived."""
    connections = int(script.connection[-1]) + 1
    first_number = random.integers(0, 2**32, (2, connections))
    opens = script.place == 0
    consumed = script.payload + ((script.flags & SYN) > 0) + ((script.flags & FIN) > 0)
    sent = []
    for side in (0, 1):
        before = np.cumsum(np.where(script.server == side, consumed, 0))
        before -= np.where(script.server == side, consumed, 0)
        sent.append(first_number[side][script.connection] + before - before[opens][script.connection])
    seq = np.where(script.server == 0, sent[0], sent[1])
    ack = np.where(script.server == 0, sent[1], sent[0])
    ack[(script.flags & ACK) == 0] = 0
    return seq % 2**32, ack % 2**32


def _folded(sums: Ints) -> Ints:
    """The Internet checksum (RFC 1071) of sums of 16-bit words."""
    for _ in range(3):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return ~sums & 0xFFFF


def _words(numbers: Ints) -> Ints:
    """The two 16-bit words of 32-bit numbers, added."""
    return (numbers >> 16) + (numbers & 0xFFFF)


def _headers(script: Script, seed: int) -> npt.NDArray[np.void]:
    """RECORD rows in time order within the connection, TCP checksums as for a payload of zeros."""
    random = np.random.default_rng([seed, 1])
    connections = int(script.connection[-1]) + 1
    number = np.arange(connections)
    client = (10 << 24) + 1 + number % 60_000  # 10/8; a host uses its ports one after the other
    client_port = 32_768 + number // 60_000 % 28_000
    server = (172 << 24) + (16 << 16) + 1 + random.integers(0, 500, connections)  # 172.16/12
    server_port = random.choice(np.array([22, 25, 80, 443, 443, 443, 8080]), connections)

    rows = np.zeros(len(script.place), RECORD)
    times_us = _times_us(script, random)
    rows["seconds"] = START_S + times_us // 1_000_000
    rows["microseconds"] = times_us % 1_000_000
    rows["captured"] = HEADER_OCTETS
    rows["wire"] = HEADER_OCTETS + script.payload
    from_server = script.server == 1
    macs = np.array([[2, 0, 0, 0, 0, 0xA], [2, 0, 0, 0, 0, 0xB]], np.uint8)  # locally administered
    rows["ether_src"], rows["ether_dst"] = macs[script.server], macs[1 - script.server]
    rows["ether_type"] = 0x0800
    rows["version_length"], rows["ttl"], rows["protocol"] = 0x45, 64, 6
    rows["fragment"] = 0x4000  # do not fragment
    rows["ip_octets"] = ip_octets = HEADER_OCTETS - 14 + script.payload
    rows["ident"] = ident = script.place & 0xFFFF
    ends = [column[script.connection] for column in (client, server, client_port, server_port)]
    rows["src"] = np.where(from_server, ends[1], ends[0])
    rows["dst"] = np.where(from_server, ends[0], ends[1])
    rows["src_port"] = np.where(from_server, ends[3], ends[2])
    rows["dst_port"] = np.where(from_server, ends[2], ends[3])
    seq, ack = _numbers(script, random)
    rows["seq"], rows["ack"], rows["flags"] = seq, ack, script.flags
    rows["data_offset"], rows["window"] = 0x50, 64_240
    addresses = _words(ends[0]) + _words(ends[1])
    rows["ip_checksum"] = _folded(0x4500 + ip_octets + ident + 0x4000 + 0x4006 + addresses)
    pseudo = addresses + 6 + ip_octets - 20
    segment = ends[2] + ends[3] + _words(seq) + _words(ack) + 0x5000 + script.flags + 64_240
    rows["tcp_checksum"] = _folded(pseudo + segment)
    return rows


def _in_time_order(rows: npt.NDArray[np.void]) -> Ints:
    """Where each record of the file is found in `rows`; equal times keep their order."""
    times_us = rows["seconds"].astype(np.int64) * 1_000_000 + rows["microseconds"]
    return np.argsort(times_us, kind="stable")


def _file_header(snaplen: int) -> bytes:
    figures = np.array([(0xA1B2C3D4, 2, 4, 0, 0)], FILE_HEADER).tobytes()
    return figures + np.array([(snaplen, 1)], LIMITS).tobytes()


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
    if frames < SHORTEST:
        raise ValueError(f"a connection has at least {SHORTEST} frames; {frames} were asked for")
    script = _small_script(frames, np.random.default_rng(seed))
    rows = _headers(script, seed)
    with path.open("wb") as out:
        out.write(_file_header(HEADER_OCTETS))
        rows[_in_time_order(rows)].tofile(out)
    return int(script.connection[-1]) + 1


def write_flows(path: Path, *, connections: int = 20_000, seed: int = 1) -> int:
    """Write the capture `flows`.

    Args:
        path: The file to write, about 550 octets a connection.
        connections: How many, of seven frames each.
        seed: Chooses lengths, payload, gaps and numbers.

    Returns:
        The number of frames.

    Raises:
        ValueError: No connection.
    """
    if connections < 1:
        raise ValueError(f"at least 1 connection is needed; {connections} were asked for")
    random = np.random.default_rng(seed)
    return _write_payload(path, _headers(_flows_script(connections, random), seed), random, ())


def write_mix(path: Path, *, frames: int = 2_000_000, seed: int = 1) -> int:
    """Write the capture `mix`.

    Args:
        path: The file to write, about 480 octets a frame.
        frames: How many frames; at least 8.
        seed: Chooses lengths, payload, gaps and numbers.

    Returns:
        The number of connections.

    Raises:
        ValueError: Fewer than 8 frames.
    """
    if frames < SHORTEST:
        raise ValueError(f"a connection has at least {SHORTEST} frames; {frames} were asked for")
    random = np.random.default_rng(seed)
    script = _small_script(frames, random)
    full = (script.server == 1) & (random.random(len(script.payload)) < FULL_SEGMENTS)
    payload: Ints = np.where(script.payload == 0, 0, np.where(full, 1460, script.payload + script.payload % 2))
    rows = _headers(dataclasses.replace(script, payload=payload), seed)
    _write_payload(path, rows, random, ENCRYPTED_PORTS)
    return int(script.connection[-1]) + 1


def _write_payload(
    path: Path, rows: npt.NDArray[np.void], random: np.random.Generator, encrypted: tuple[int, ...]
) -> int:
    """Write rows in time order, each with payload of an even length; returns the number of frames.

    Args:
        path: The file to write.
        rows: Headers, with checksums as for a payload of zeros.
        random: Chooses the payload: letters.
        encrypted: Ports whose payload is any octets instead.
    """
    rows = rows[_in_time_order(rows)]
    payload = rows["wire"].astype(np.int64) - HEADER_OCTETS
    lengths = RECORD.itemsize + payload
    starts = np.cumsum(lengths) - lengths
    # everything is payload at first; its sums go into the checksums; then the headers take their places
    octets = random.integers(0, 256, int(lengths.sum()), dtype=np.uint8)
    letters = ~np.repeat(np.isin(rows["src_port"], encrypted) | np.isin(rows["dst_port"], encrypted), lengths)
    octets[letters] = octets[letters] % 26 + ord("a")
    sums = np.concatenate(([0], np.cumsum(octets.view(">u2"), dtype=np.int64)))
    added = sums[(starts + lengths) // 2] - sums[(starts + RECORD.itemsize) // 2]
    rows["tcp_checksum"] = _folded((~rows["tcp_checksum"].astype(np.int64) & 0xFFFF) + added)
    rows["captured"] = rows["wire"]
    octets[starts[:, None] + np.arange(RECORD.itemsize)] = rows.view(np.uint8).reshape(len(rows), -1)
    with path.open("wb") as out:
        out.write(_file_header(65_535))
        octets.tofile(out)
    return len(rows)


def main(arguments: list[str] | None = None) -> None:
    """Write one of the captures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    small = kinds.add_parser("small", help="frames of 54 octets")
    small.add_argument("--frames", type=int, default=2_000_000)
    flows = kinds.add_parser("flows", help="connections of seven frames with payload")
    flows.add_argument("--connections", type=int, default=20_000)
    mix = kinds.add_parser("mix", help="connections of all lengths with payload")
    mix.add_argument("--frames", type=int, default=2_000_000)
    for kind in (small, flows, mix):
        kind.add_argument("--seed", type=int, default=1)
        kind.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.kind != "flows":
            write = write_small if chosen.kind == "small" else write_mix
            connections = write(chosen.output, frames=chosen.frames, seed=chosen.seed)
            print(f"{chosen.output}: {chosen.frames} frames, {connections} connections")
        else:
            frames = write_flows(chosen.output, connections=chosen.connections, seed=chosen.seed)
            print(f"{chosen.output}: {frames} frames, {chosen.connections} connections")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
