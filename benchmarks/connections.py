"""TCP connections side by side: who sends what and when, connection after connection, mixed by time.

Connections start evenly over the time of the capture and last about 1.5 s, so that thousands are live at once and
their frames interleave. They are made some thousands at a time: a piece is sorted by time together with what is left
of the pieces before it, and what lies before the first connection of the next piece is handed on. So memory does not
grow with the capture. Everything follows from the seed; each piece has random numbers of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from records import HEADER_OCTETS, RECORD, START_S, Ints, Rows, empty_rows, folded, seal

__all__ = [
    "SHORTEST",
    "Script",
    "in_time_order",
    "mix_script",
    "seven_counts",
    "seven_script",
    "small_counts",
    "small_script",
    "with_payload",
]

FRAMES_PER_CONNECTION = 2_000_000 / 66_453
"""Of the capture that the figures of the tools were measured on: 2 000 000 frames, 66 453 connections."""
SHORTEST = 8
"""Frames of the shortest connection of `small`: three to open, one of data, four to close."""
FULL_SEGMENTS = 0.7
"""Share of data segments of servers in `mix` that are full."""
STARTS_PER_SECOND = 3_300
"""Connections that open in a second: `small` then runs at about 100 000 frames/s."""
LIFE_US = 1_500_000
FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10
_PIECE = 4096
"""Connections made at a time: 123 000 frames of `small`, 30 MB with all that is computed on the way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """Who sends what, connection after connection, before it is mixed by time. All arrays have a row a frame.

    Attributes:
        connection: Number of the connection in its piece, from 0, ascending.
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


Writer = Callable[[Ints, np.random.Generator], Script]
"""Makes the script of connections of which the number of frames is given."""


def _places(counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Connection, place and count of each frame, from the frames of each connection."""
    connection = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return connection, np.arange(len(connection)) - first[connection], counts[connection]


def small_counts(frames: int, random: np.random.Generator) -> Ints:
    """Frames of each connection: 8 and more, exponentially distributed, together exactly `frames`.

    Raises:
        ValueError: Fewer than 8 frames.
    """
    if frames < SHORTEST:
        raise ValueError(f"a connection has at least {SHORTEST} frames; {frames} were asked for")
    connections = max(1, min(round(frames / FRAMES_PER_CONNECTION), frames // SHORTEST))
    spare = max(frames - SHORTEST * connections, 0)
    counts: Ints = SHORTEST + random.multinomial(spare, random.dirichlet(np.ones(connections)))
    return counts


def small_script(counts: Ints, random: np.random.Generator) -> Script:
    """Handshake, data both ways with their ACKs, FIN from both sides."""
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


def mix_script(counts: Ints, random: np.random.Generator) -> Script:
    """As `small_script`, with lengths that are even, and most data segments of servers full."""
    script = small_script(counts, random)
    full = (script.server == 1) & (random.random(len(script.payload)) < FULL_SEGMENTS)
    payload: Ints = np.where(script.payload == 0, 0, np.where(full, 1460, script.payload + script.payload % 2))
    return dataclasses.replace(script, payload=payload)


_SEVEN = (  # sender is the server, flags, mean payload in words of two octets
    (0, SYN, 0),
    (1, SYN | ACK, 0),
    (0, ACK | PSH, 40),
    (1, ACK | PSH, 100),
    (0, ACK | FIN, 0),
    (1, ACK | FIN, 0),
    (0, ACK, 0),
)


def seven_counts(connections: int) -> Ints:
    """Seven frames each.

    Raises:
        ValueError: No connection.
    """
    if connections < 1:
        raise ValueError(f"at least 1 connection is needed; {connections} were asked for")
    return np.full(connections, len(_SEVEN))


def seven_script(counts: Ints, random: np.random.Generator) -> Script:
    """Handshake, request, response, FIN both ways; payload lengths are even, so that checksums are sums of words."""
    connection, place, count = _places(counts)
    server, flags, sizes = np.array(_SEVEN).T
    spread = random.integers(1, 2 * np.maximum(sizes[place], 1))
    return Script(connection, place, count, server[place], flags[place], np.where(sizes[place] > 0, 2 * spread, 0))


def _opens_us(first: int, connections: int) -> Ints:
    """Microseconds since the start at which connections open."""
    opens: Ints = np.arange(first, first + connections) * 1_000_000 // STARTS_PER_SECOND
    return opens


def _times_us(script: Script, first: int, random: np.random.Generator) -> Ints:
    """Microseconds since the start; within a connection they ascend by random gaps."""
    gaps = random.exponential(1, len(script.place)) * LIFE_US / script.count
    gaps[script.place == 0] = 0
    since_all = np.cumsum(gaps)
    since_open = since_all - since_all[script.place == 0][script.connection]
    opens = _opens_us(first, int(script.connection[-1]) + 1)
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


def _headers(script: Script, first: int, random: np.random.Generator) -> Rows:
    """RECORD rows in time order within the connection, TCP checksums as for a payload of zeros."""
    connections = int(script.connection[-1]) + 1
    number = np.arange(first, first + connections)
    client = (10 << 24) + 1 + number % 60_000  # 10/8; a host uses its ports one after the other
    client_port = 32_768 + number // 60_000 % 28_000
    server = (172 << 24) + (16 << 16) + 1 + random.integers(0, 500, connections)  # 172.16/12
    server_port = random.choice(np.array([22, 25, 80, 443, 443, 443, 8080]), connections)

    rows = empty_rows(RECORD, len(script.place))
    times_us = _times_us(script, first, random)
    rows["seconds"] = START_S + times_us // 1_000_000
    rows["microseconds"] = times_us % 1_000_000
    rows["wire"] = HEADER_OCTETS + script.payload
    from_server = script.server == 1
    macs = np.array([[2, 0, 0, 0, 0, 0xA], [2, 0, 0, 0, 0, 0xB]], np.uint8)
    rows["ether_src"], rows["ether_dst"] = macs[script.server], macs[1 - script.server]
    rows["ip_octets"] = HEADER_OCTETS - 14 + script.payload
    rows["ident"] = script.place & 0xFFFF
    ends = [column[script.connection] for column in (client, server, client_port, server_port)]
    rows["src"] = np.where(from_server, ends[1], ends[0])
    rows["dst"] = np.where(from_server, ends[0], ends[1])
    rows["src_port"] = np.where(from_server, ends[3], ends[2])
    rows["dst_port"] = np.where(from_server, ends[2], ends[3])
    rows["seq"], rows["ack"] = _numbers(script, random)
    rows["flags"] = script.flags
    return seal(rows)


def _since_start_us(rows: Rows) -> Ints:
    times_us: Ints = (rows["seconds"].astype(np.int64) - START_S) * 1_000_000 + rows["microseconds"]
    return times_us


def in_time_order(counts: Ints, write: Writer, seed: int) -> Iterator[Rows]:
    """The frames of all connections, RECORD rows, piece by piece; of equal times the earlier connection comes first.

    Args:
        counts: Frames of each connection.
        write: Makes their script.
        seed: Chooses all that is random.
    """
    left = np.zeros(0, RECORD)
    for first in range(0, len(counts), _PIECE):
        random = np.random.default_rng([seed, first])
        some = counts[first : first + _PIECE]
        new = _headers(write(some, random), first, random)
        rows = np.empty(len(left) + len(new), RECORD)  # np.concatenate would turn the octets of numbers round
        rows[: len(left)], rows[len(left) :] = left, new
        times_us = _since_start_us(rows)
        order = np.argsort(times_us, kind="stable")
        rows = rows[order]
        if first + _PIECE < len(counts):
            ready = int(np.searchsorted(times_us[order], _opens_us(first + _PIECE, 1)[0]))
            rows, left = rows[:ready], rows[ready:]
        yield rows


def with_payload(rows: Rows, random: np.random.Generator, encrypted: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Rows with their payload, of an even length, as octets of a file.

    Args:
        rows: Headers, with checksums as for a payload of zeros.
        random: Chooses the payload: letters.
        encrypted: Ports whose payload is any octets instead.
    """
    payload = rows["wire"].astype(np.int64) - HEADER_OCTETS
    lengths = RECORD.itemsize + payload
    starts = np.cumsum(lengths) - lengths
    # everything is payload at first; its sums go into the checksums; then the headers take their places
    octets = random.integers(0, 256, int(lengths.sum()), dtype=np.uint8)
    letters = ~np.repeat(np.isin(rows["src_port"], encrypted) | np.isin(rows["dst_port"], encrypted), lengths)
    octets[letters] = octets[letters] % 26 + ord("a")
    sums = np.concatenate(([0], np.cumsum(octets.view(">u2"), dtype=np.int64)))
    added = sums[(starts + lengths) // 2] - sums[(starts + RECORD.itemsize) // 2]
    rows["tcp_checksum"] = folded((~rows["tcp_checksum"].astype(np.int64) & 0xFFFF) + added)
    rows["captured"] = rows["wire"]
    octets[starts[:, None] + np.arange(RECORD.itemsize)] = rows.view(np.uint8).reshape(len(rows), -1)
    return octets
