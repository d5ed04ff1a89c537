"""Captures that try the table: many flows of one frame, one flow of many frames, many flows that live all at once.

Each frame follows from its number, so pieces of any size are made one after the other, and memory does not grow with
the capture. Ends of flow n: 10.0.0.0/8 by a multiplication that visits each address once, and a port, to 172.16.0.1.
Time stamps are so close together that no idle timeout ends a flow while 20 000 000 frames pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from records import HEADER_OCTETS, RECORD, START_S, UDP_RECORD, Ints, Rows, empty_rows, seal

__all__ = ["live_flows", "one_flow", "segments", "udp_flows"]

_PIECE = 1 << 17
_ODD = 10_368_889
"""Odd, so that its multiples modulo 2**24 visit each number once; about 0.618 of 2**24, so that they lie far apart."""
_SERVER = 172 << 24 | 16 << 16 | 1
_FIRST_PORT, _PORTS = 32_768, 28_000
_DISCARD, _HTTPS, _HTTP = 9, 443, 80
_SEGMENT, _DATA = 1000, 10
SYN, RST, PSH, ACK = 0x02, 0x04, 0x08, 0x10
_ISN, _SERVER_ISN = 1000, 2_000_000_000


def _numbers(frames: int) -> Iterator[Ints]:
    """The numbers of frames from 0, piece by piece."""
    for first in range(0, frames, _PIECE):
        yield np.arange(first, min(first + _PIECE, frames))


def _set_times(rows: Rows, times_us: Ints) -> None:
    rows["seconds"], rows["microseconds"] = START_S + times_us // 1_000_000, times_us % 1_000_000


def _set_ends(rows: Rows, flows: Ints, server_port: int, from_server: Ints | None = None) -> None:
    """Fill in addresses and ports of flows. `from_server`: 1 where the responder sends; None: nowhere."""
    client, port = (10 << 24) + (flows * _ODD & 0xFF_FFFF), _FIRST_PORT + flows % _PORTS
    back = np.zeros(len(rows), bool) if from_server is None else from_server == 1
    rows["src"], rows["dst"] = np.where(back, _SERVER, client), np.where(back, client, _SERVER)
    rows["src_port"], rows["dst_port"] = np.where(back, server_port, port), np.where(back, port, server_port)


def udp_flows(frames: int) -> Iterator[Rows]:
    """One frame a flow, UDP, 1 us apart: UDP_RECORD rows."""
    for number in _numbers(frames):
        rows = empty_rows(UDP_RECORD, len(number))
        _set_times(rows, number)
        _set_ends(rows, number, _DISCARD)
        yield seal(rows)


def segments(frames: int, flags: int) -> Iterator[Rows]:
    """One TCP segment a flow with some flags, a flood of SYNs or RSTs, 1 us apart: RECORD rows."""
    for number in _numbers(frames):
        rows = empty_rows(RECORD, len(number))
        _set_times(rows, number)
        _set_ends(rows, number, _HTTP)
        rows["seq"], rows["flags"] = number % 2**32, flags
        yield seal(rows)


def one_flow(frames: int) -> Iterator[Rows]:
    """One TCP connection: a handshake, then again and again two segments of 1000 octets of the server and an ACK.

    10 us apart; payload was not captured. RECORD rows. It does not end.
    """
    for number in _numbers(frames):
        rows = empty_rows(RECORD, len(number))
        turn, rest = np.divmod(number - 3, 3)
        server = np.where(number < 3, number == 1, rest < 2)
        opens = number == 0
        data = (number >= 3) & server
        sent = np.where(number < 3, 0, _SEGMENT * (2 * turn + np.minimum(rest, 2)))
        _set_times(rows, 10 * number)
        _set_ends(rows, np.zeros_like(number), _HTTPS, server.astype(np.int64))
        client_next = _ISN + 1
        server_next = _SERVER_ISN + (number > 1) + sent
        rows["seq"] = np.where(opens, _ISN, np.where(server, server_next, client_next)) % 2**32
        rows["ack"] = np.where(opens, 0, np.where(server, client_next, server_next)) % 2**32
        rows["flags"] = np.where(opens, SYN, np.where(number == 1, SYN | ACK, ACK))
        rows["wire"] = HEADER_OCTETS + np.where(data, _SEGMENT, 0)
        rows["ip_octets"] = HEADER_OCTETS - 14 + np.where(data, _SEGMENT, 0)
        yield seal(rows)


def _ranks(flows: Ints, sent: Ints) -> Ints:
    """How many frames of its flow stand before each frame; `sent` is brought up to date.

    Args:
        flows: Flow of each frame of a piece.
        sent: Frames of each flow so far.
    """
    order = np.argsort(flows, kind="stable")
    ordered = flows[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    lengths = np.diff(np.append(starts, len(flows)))
    ranks = np.empty(len(flows), np.int64)
    ranks[order] = np.arange(len(flows)) - np.repeat(starts, lengths)
    ranks += sent[flows]
    sent[ordered[starts]] += lengths
    return ranks


def live_flows(frames: int, live: int, seed: int) -> Iterator[Rows]:
    """TCP connections that are all open at once: the first `live` frames are their SYNs, the others come in any order.

    SYN-ACK, then 10 octets a frame, client and server in turn, each with the ACK of what was sent before; 1 us apart.
    No connection ends. RECORD rows.

    Raises:
        ValueError: Fewer frames than connections, or none of them.
    """
    if not 0 < live <= frames:
        raise ValueError(f"{frames} frames cannot open {live} flows")
    random = np.random.default_rng([seed, live])
    sent = np.zeros(live, np.int64)
    for number in _numbers(frames):
        flows: Ints = np.where(number < live, number, random.integers(0, live, len(number)))
        count = _ranks(flows, sent)
        half, server = np.divmod(count, 2)  # frames of the sender before this one; whether it is the server
        rows = empty_rows(RECORD, len(number))
        _set_times(rows, number)
        _set_ends(rows, flows, _HTTPS, server)
        # the first frame of either took one number, its SYN; each later one ten
        own = np.where(half > 0, 1 + _DATA * (half - 1), 0)
        before = half + server  # frames of the other
        other = np.where(before > 0, 1 + _DATA * (before - 1), 0)
        rows["seq"] = np.where(server == 1, _SERVER_ISN, _ISN) + own
        rows["ack"] = np.where(count > 0, np.where(server == 1, _ISN, _SERVER_ISN) + other, 0)
        rows["flags"] = np.where(count == 0, SYN, np.where(count == 1, SYN | ACK, PSH | ACK))
        data = np.where(count > 1, _DATA, 0)
        rows["wire"], rows["ip_octets"] = HEADER_OCTETS + data, HEADER_OCTETS - 14 + data
        yield seal(rows)
