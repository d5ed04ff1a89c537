"""Fragments: which datagram a fragment belongs to, so that all of it is counted in one flow (flow-rules 18).

A bounded table from (source, destination, protocol, identification) to what the first fragment showed: ends, ports,
protocol, tunnel. Later fragments get it from there. Those that come before the first one have the Verdict
FRAGMENT_WITHOUT_PORTS when they come, and wait in a bounded ring; when the first one comes they are counted in its flow
after all (late). Nothing is reassembled, so overlapping fragments do no harm; they are counted. Entries die 30 s of
packet time after their first frame, or when newer ones need their place.

Read first: RFC 791, RFC 8200 section 4.5, RFC 5722.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel
from traceflow.decode.octets import u16, u32, u64
from traceflow.packets import FRAGMENT, FRAME, PACKET, Verdict

__all__ = ["FragmentTable"]

_TIMEOUT_NS = 30_000_000_000  # Linux's ipfrag_time
_WAYS = 4  # entries that share a place of the hash
_DATAGRAMS = 4096
_WAITING = 4096
_FLOW, _NO_PORTS = int(Verdict.FLOW), int(Verdict.FRAGMENT_WITHOUT_PORTS)
_AWAITED, _KNOWN = 1, 2

ENTRY = np.dtype(
    [
        ("src_hi", "u8"),
        ("src_lo", "u8"),
        ("dst_hi", "u8"),
        ("dst_lo", "u8"),
        ("ident", "u8"),  # identification, IP version and (IPv4) protocol
        ("opened_ns", "i8"),  # the clock at its first frame
        ("generation", "u8"),  # another one for each datagram
        ("octets", "u4"),  # of all its fragments
        ("end", "u4"),  # the highest octet seen of it
        ("oldest", "u4"),  # waiting fragments: place of the first plus one; 0: none
        ("newest", "u4"),
        ("state", "u1"),  # 0 free, _AWAITED, _KNOWN
    ],
    align=True,
)
"""A datagram."""

WAITING = np.dtype([("number", "u8"), ("generation", "u8"), ("entry", "u4"), ("next", "u4")], align=True)
"""A fragment that waits for the first of its datagram; `next` is a place plus one."""

STATE = np.dtype(
    [
        ("seed", "u8"),
        ("clock_ns", "i8"),
        ("first", "u8"),  # number of the first frame of the batch
        ("generations", "u8"),
        ("waited", "u8"),  # fragments that ever waited: the next place, modulo the ring
        ("released", "u8"),  # place plus one of the first fragment whose wait is over; 0: none
        ("overlapping", "u8"),
        ("evicted", "u8"),
        ("started", "u1"),
    ],
    align=True,
)
"""The table apart from its rows: one record."""


@outline_kernel
def _read(b: Any, s: Any, packet: Any, key: Any) -> Any:
    """Fill ENTRY `key` from the IP header of a fragment. Returns (offset in octets, its octets)."""
    ip, at = s + U64(packet["ip_at"]), s + U64(packet["fragment_at"])
    if U64(b[ip]) >> U64(4) == U64(4):
        field = u16(b, ip + U64(6))
        header = (U64(b[ip]) & U64(15)) << U64(2)
        key["src_hi"] = 0
        key["dst_hi"] = 0
        key["src_lo"] = u32(b, ip + U64(12))
        key["dst_lo"] = u32(b, ip + U64(16))
        key["ident"] = u16(b, ip + U64(4)) | (U64(b[ip + U64(9)]) << U64(40)) | (U64(4) << U64(32))
        total = u16(b, ip + U64(2))
        octets = total - header if total > header else U64(0)
        return (field & U64(0x1FFF)) << U64(3), octets
    field = u16(b, at + U64(2))
    key["src_hi"] = u64(b, ip + U64(8))
    key["src_lo"] = u64(b, ip + U64(16))
    key["dst_hi"] = u64(b, ip + U64(24))
    key["dst_lo"] = u64(b, ip + U64(32))
    key["ident"] = u32(b, at + U64(4)) | (U64(6) << U64(32))
    end = ip + U64(40) + u16(b, ip + U64(4))
    octets = end - (at + U64(8)) if end > at + U64(8) else U64(0)
    return field & U64(0xFFF8), octets


@inline_kernel
def _mix(value: Any, by: Any) -> Any:
    product = (value ^ by) * U64(0x9E3779B97F4A7C15)
    return product ^ (product >> U64(29))


@outline_kernel
def _place(state: Any, entries: Any, key: Any) -> Any:
    """Place of the entry with a key; where there is none, one is made: free, or the oldest of those that share it."""
    value = _mix(_mix(U64(key["src_lo"]), U64(state["seed"])), U64(key["dst_lo"]))
    value = _mix(_mix(_mix(value, U64(key["src_hi"])), U64(key["dst_hi"])), U64(key["ident"]))
    base = ((value >> U64(32)) % U64((len(entries) - 1) // _WAYS)) * U64(_WAYS)
    best = base
    for way in range(_WAYS):
        at = base + U64(way)
        entry = entries[at]
        if entry["state"] != 0 and state["clock_ns"] - entry["opened_ns"] > _TIMEOUT_NS:
            entry["state"] = 0
        if (
            entry["state"] != 0
            and entry["ident"] == key["ident"]
            and entry["src_lo"] == key["src_lo"]
            and entry["dst_lo"] == key["dst_lo"]
            and entry["src_hi"] == key["src_hi"]
            and entry["dst_hi"] == key["dst_hi"]
        ):
            return at
        taken = entries[best]
        if taken["state"] != 0 and (entry["state"] == 0 or entry["opened_ns"] < taken["opened_ns"]):
            best = at
    entry = entries[best]
    if entry["state"] != 0:
        state["evicted"] += U64(1)
    state["generations"] += U64(1)
    key["opened_ns"] = state["clock_ns"]
    key["generation"] = state["generations"]
    key["octets"] = 0
    key["end"] = 0
    key["oldest"] = 0
    key["newest"] = 0
    key["state"] = _AWAITED
    entries[best] = key
    return best


@outline_kernel
def _wait(state: Any, entries: Any, at: Any, waiting: Any) -> Any:
    """Take the next place of the ring for a fragment of the datagram at `at`. Returns the place."""
    place = U64(state["waited"]) % U64(len(waiting))
    state["waited"] += U64(1)
    one = waiting[place]
    other = entries[U64(one["entry"])]
    # A wrong number in a free place cannot do harm: generations are counted from 1.
    if one["generation"] != U64(0) and one["generation"] == other["generation"]:
        other["oldest"] = one["next"]  # places are taken in order, so the one that loses its place is the oldest
        if one["next"] == 0:
            other["newest"] = 0
    entry = entries[at]
    one["generation"] = entry["generation"]
    one["entry"] = at
    one["next"] = 0
    if entry["newest"] == 0:
        entry["oldest"] = place + U64(1)
    else:
        waiting[U64(entry["newest"]) - U64(1)]["next"] = place + U64(1)
    entry["newest"] = place + U64(1)
    return place


_GIVEN = (
    *("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "protocol", "ip_version"),
    *("tunnel", "tunnels", "tunnel_id"),
)
_GIVEN_VLANS = ("vlan_tags", "vlan_outer", "vlan_inner")


@inline_kernel
def _give(packet: Any, known: Any) -> Any:
    """Give a later fragment what the first one showed.

    VLANs are its own, unless the first one showed a packet within a tunnel, which has some too.
    """
    if packet["tunnels"] != known["tunnels"]:
        packet["vlan_tags"] = known["vlan_tags"]
        packet["vlan_outer"] = known["vlan_outer"]
        packet["vlan_inner"] = known["vlan_inner"]
    packet["src_hi"] = known["src_hi"]
    packet["src_lo"] = known["src_lo"]
    packet["dst_hi"] = known["dst_hi"]
    packet["dst_lo"] = known["dst_lo"]
    packet["src_port"] = known["src_port"]
    packet["dst_port"] = known["dst_port"]
    packet["protocol"] = known["protocol"]
    packet["ip_version"] = known["ip_version"]
    packet["tunnel"] = known["tunnel"]
    packet["tunnels"] = known["tunnels"]
    packet["tunnel_id"] = known["tunnel_id"]
    packet["verdict"] = _FLOW


@kernel
def resolve(
    octets: Any, frames: Any, packets: Any, at: Any, state: Any, entries: Any, store: Any, waiting: Any, held: Any
) -> Any:
    """Give the later fragments of a batch what the first ones showed.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m]; later fragments whose first one is known are changed, and their Verdict is FLOW.
        at: First frame to look at.
        state: STATE[1].
        entries: ENTRY[k + 1]; the last is scratch.
        store: PACKET[k + w], the first fragments of the entries, and the fragments that wait.
        waiting: WAITING[w].
        held: FRAME[w] of the fragments that wait.

    Returns:
        The index behind the first fragment that ends the wait of others (`released`), or m.
    """
    table = state[U64(0)]
    datagrams = U64(len(entries) - 1)
    key = entries[datagrams]
    for i in range(at, len(packets)):
        packet = packets[U64(i)]
        if U64(packet["bits"]) & U64(FRAGMENT) == U64(0):
            continue
        if packet["verdict"] != _FLOW and packet["verdict"] != _NO_PORTS:
            continue
        frame = frames[U64(i)]
        if table["started"] == 0 or frame["time_ns"] > table["clock_ns"]:
            table["clock_ns"] = frame["time_ns"]
            table["started"] = 1
        offset, size = _read(octets, U64(frame["start"]), packet, key)
        if offset != U64(0) and packet["verdict"] == _FLOW:
            continue  # of a protocol that needs no first fragment
        place = _place(table, entries, key)
        entry = entries[place]
        if offset == U64(0) and entry["state"] == _KNOWN and U64(entry["octets"]) >= U64(entry["end"]):
            entry["octets"] = 0  # the same identification again: another datagram, or a copy
            entry["end"] = 0
        entry["octets"] = min(U64(entry["octets"]) + size, U64(0xFFFFFFFF))
        entry["end"] = max(U64(entry["end"]), offset + size)
        if U64(entry["octets"]) > U64(entry["end"]):  # more octets came than it is long
            table["overlapping"] += U64(1)
        if offset == U64(0):
            entry["state"] = _KNOWN
            store[place] = packet
            if entry["oldest"] != 0:
                table["released"] = entry["oldest"]
                entry["oldest"] = 0
                entry["newest"] = 0
                return i + 1
        elif entry["state"] == _KNOWN:
            _give(packet, store[place])
        else:
            free = _wait(table, entries, place, waiting)
            waiting[free]["number"] = U64(table["first"]) + U64(i)
            held[free] = frame
            store[datagrams + free] = packet
    return len(packets)


class FragmentTable:
    """The table. Of a batch with fragments, ask `resolve` for a piece, track it, take what `released` says, go on.

    Args:
        datagrams: How many it holds, a multiple of four; the oldest of those that share a place make room.
        waiting: How many fragments wait for the first one of their datagram; the oldest make room.
    """

    def __init__(self, datagrams: int = _DATAGRAMS, waiting: int = _WAITING) -> None:
        self._state = np.zeros(1, STATE)
        self._state[0]["seed"] = secrets.randbits(64)
        self._entries = np.zeros(datagrams + 1, ENTRY)
        self._store = np.zeros(datagrams + waiting, PACKET)
        self._waiting = np.zeros(waiting, WAITING)
        self._held = np.zeros(waiting, FRAME)
        self.late = 0
        """Fragments that were counted in their flow after they had been handled: the first one came behind them."""

    def resolve(
        self,
        octets: npt.NDArray[np.uint8],
        frames: npt.NDArray[np.void],
        packets: npt.NDArray[np.void],
        first_number: int,
        at: int,
    ) -> int:
        """Give later fragments of a batch what the first ones showed, until fragments that waited are released.

        Args:
            octets: uint8[n], the buffer of the batch.
            frames: FRAME[m].
            packets: PACKET[m]; changed.
            first_number: Number of the first frame of the batch.
            at: Where to begin, at first 0, then what this method returned.

        Returns:
            Up to where the packets are ready to be tracked: m when the batch is done.
        """
        self._state[0]["first"] = first_number
        stop: int = resolve(
            octets, frames, packets, at, self._state, self._entries, self._store, self._waiting, self._held
        )
        return stop

    def released(self) -> list[tuple[int, npt.NDArray[np.void], npt.NDArray[np.void]]]:
        """Number, FRAME[1] and PACKET[1] of the fragments that waited for the one before the place `resolve` returned.

        They are as they would have been had they come behind it.
        """
        state, rows = self._state[0], []
        place = int(state["released"])
        state["released"] = 0
        datagrams = len(self._entries) - 1
        while place:
            one = self._waiting[place - 1]
            packets = self._store[datagrams + place - 1 :][:1].copy()
            known = self._store[int(one["entry"])]
            vlans = _GIVEN_VLANS if packets[0]["tunnels"] != known["tunnels"] else ()
            for name in (*_GIVEN, *vlans):
                packets[0][name] = known[name]
            packets[0]["verdict"] = _FLOW
            rows.append((int(one["number"]), self._held[place - 1 :][:1].copy(), packets))
            one["generation"] = 0
            place = int(one["next"])
        self.late += len(rows)
        return rows

    @property
    def overlapping(self) -> int:
        """Fragments by which a datagram had got more octets than it is long."""
        return int(self._state[0]["overlapping"])

    @property
    def evicted(self) -> int:
        """Datagrams that were forgotten before their time because newer ones needed their place."""
        return int(self._state[0]["evicted"])
