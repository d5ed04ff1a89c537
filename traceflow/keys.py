"""Which live row holds this key: canonical order of the two ends, and the hash index over live rows.

The key of a flow is protocol, IP version and two ends (address, port), and by option what carried the packet: its VLAN
stack, its tunnel (`tag_of`); flow-rules 1. The lower end stands first, unless the profile keeps the direction. The
index is open addressing with linear probing; deletion moves later entries back, so that there are no tombstones to
collect. The hash has secret words, new in every run, so that nobody can craft keys that collide; nothing that is
visible depends on them.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, kernel, prefetch

__all__ = [
    "EMPTY",
    "TUNNEL_MASK",
    "VLAN_MASK",
    "find_first_rows",
    "find_row",
    "first_row",
    "forget_row",
    "hash_key",
    "hash_keys",
    "index_row",
    "is_low_end",
    "is_reversed",
    "is_row_of",
    "is_same_key",
    "is_same_tag",
    "reindex",
    "tag_of",
]

EMPTY = 0
"""Value of a free slot; a taken one holds the hash in its upper half, and the row number plus one in the lower one.

With the hash beside it, no look-up touches another flow's row, which would be a trip to memory."""
_AHEAD = U64(16)  # look-ups between the fetch of a slot and its use
_ALL = U64(0xFFFFFFFF_FFFFFFFF)
_ROW_BITS, _ROW_MASK = U64(32), U64(0xFFFFFFFF)

VLAN_MASK = 0x0FFFFFFF_00000000
"""Bits of a tag that say which VLAN stack carried a packet: the first id, and the last where there are several."""
TUNNEL_MASK = 0xF0000000_FFFFFFFF
"""Bits of a tag that say which tunnel carried it: its kind (`Tunnel`) and id."""


@inline_kernel
def _end(address: Any, port: Any) -> Any:
    """The last 48 bits of an address and a port in one word: all of an end of IPv4 that differs from others."""
    return U64(address) << U64(16) | U64(port)


@inline_kernel
def _exceeds(left: Any, right: Any) -> Any:
    """1 where the first of two uint64 is the larger one, else 0: what is borrowed to subtract it from the other.

    Which end sends is chance, and of a comparison, however it is used, LLVM makes a branch that a processor guesses
    wrong for every second packet: hashes took 8.9 ns a frame with it.
    """
    return ((right ^ _ALL) & left | ((right ^ left) ^ _ALL) & (right - left)) >> U64(63)


@inline_kernel
def is_reversed(packet: Any) -> Any:
    """Whether the source is the upper of the two ends. Equal ends count as not reversed."""
    source_hi, target_hi = U64(packet["src_hi"]), U64(packet["dst_hi"])
    source_lo, target_lo = U64(packet["src_lo"]), U64(packet["dst_lo"])
    if (source_hi ^ target_hi) | (source_lo | target_lo) >> U64(48) == U64(0):  # as all of IPv4
        return _exceeds(_end(source_lo, packet["src_port"]), _end(target_lo, packet["dst_port"])) != U64(0)
    ports = _exceeds(U64(packet["src_port"]), U64(packet["dst_port"]))
    low = _exceeds(source_lo, target_lo) | (U64(1) ^ _exceeds(target_lo, source_lo)) & ports
    return _exceeds(source_hi, target_hi) | (U64(1) ^ _exceeds(target_hi, source_hi)) & low != U64(0)


@inline_kernel
def tag_of(packet: Any) -> Any:
    """What carried a packet, exactly, in a uint64: tunnel (4 bits), two VLAN ids (12 bits each), tunnel id (32)."""
    vlans = (U64(packet["vlan_outer"]) & U64(0xFFF)) << U64(48) | (U64(packet["vlan_inner"]) & U64(0xFFF)) << U64(32)
    return U64(packet["tunnel"]) << U64(60) | vlans | U64(packet["tunnel_id"])


@inline_kernel
def _pair(value: Any, by: Any) -> Any:
    """Product of the two halves of a value, each added to a half of a secret word, as NH forms it (RFC 4418, 5.2)."""
    low = (value + by) & U64(0xFFFFFFFF)
    high = ((value >> U64(32)) + (by >> U64(32))) & U64(0xFFFFFFFF)
    return low * high


@inline_kernel
def _in_order(source: Any, destination: Any, upside: Any) -> Any:
    """(Lower, upper) of two values of source and destination, without a branch."""
    swap = (U64(source) ^ U64(destination)) & (U64(0) - U64(upside))
    return U64(source) ^ swap, U64(destination) ^ swap


@inline_kernel
def hash_key(packet: Any, upside: Any, secret: Any, mask: Any) -> Any:
    """Hash of the key of a packet: 32 bits in a uint64. The same for both directions when `upside` is `is_reversed`.

    A sum of products with secret words: two keys collide with a chance of 2**-32 over the choice of the words, however
    they were chosen. One round of mixing spreads it over the low bits, which the index uses.

    Args:
        packet: PACKET row.
        upside: Whether the source is the upper end (False where the key keeps its direction).
        secret: uint64[6], random words of this run.
        mask: Bits of the tag that belong to the key; 0: none.
    """
    rest = U64(packet["protocol"]) | U64(packet["ip_version"]) << U64(8)
    if packet["ip_version"] == 4:
        source, target = _end(packet["src_lo"], packet["src_port"]), _end(packet["dst_lo"], packet["dst_port"])
        low, high = _in_order(source, target, upside)
        # The upper 16 bits of an end are those of every mapped address: the rest finds room there.
        value = _pair(low ^ rest << U64(48), secret[U64(0)]) + _pair(high, secret[U64(1)])
    else:
        low, high = _in_order(packet["src_lo"], packet["dst_lo"], upside)
        low_hi, high_hi = _in_order(packet["src_hi"], packet["dst_hi"], upside)
        low_port, high_port = _in_order(packet["src_port"], packet["dst_port"], upside)
        rest = rest << U64(32) | low_port << U64(16) | high_port
        value = _pair(low, secret[U64(0)]) + _pair(high, secret[U64(1)]) + _pair(rest, secret[U64(2)])
        value += _pair(low_hi, secret[U64(3)]) + _pair(high_hi, secret[U64(4)])
    if mask != U64(0):
        value += _pair(tag_of(packet) & mask, secret[U64(5)])
    value = (value ^ (value >> U64(32))) * U64(0x9E3779B97F4A7C15)
    return value >> U64(32)


@inline_kernel
def is_low_end(row: Any, packet: Any) -> Any:
    """Whether the source of a packet is the lower end of a row. Of a packet of the flow: whether it is not reversed."""
    unlike = U64(row["low_lo"]) ^ U64(packet["src_lo"]) | U64(row["low_hi"]) ^ U64(packet["src_hi"])
    return unlike | U64(row["low_port"]) ^ U64(packet["src_port"]) == U64(0)


@inline_kernel
def is_same_key(row: Any, packet: Any, upside: Any) -> Any:
    """Whether a row has the key of a packet, apart from the tag; a row that was freed has no key.

    Args:
        row: LIVE row.
        packet: PACKET row.
        upside: Whether its source is the upper end.
    """
    low_hi, high_hi = _in_order(packet["src_hi"], packet["dst_hi"], upside)
    low_lo, high_lo = _in_order(packet["src_lo"], packet["dst_lo"], upside)
    low_port, high_port = _in_order(packet["src_port"], packet["dst_port"], upside)
    unlike = U64(row["low_lo"]) ^ low_lo | U64(row["high_lo"]) ^ high_lo
    unlike |= U64(row["low_hi"]) ^ low_hi | U64(row["high_hi"]) ^ high_hi
    unlike |= U64(row["low_port"]) ^ low_port | U64(row["high_port"]) ^ high_port
    unlike |= U64(row["protocol"]) ^ U64(packet["protocol"]) | U64(row["ip_version"]) ^ U64(packet["ip_version"])
    return unlike == U64(0)


@inline_kernel
def is_same_tag(row: Any, packet: Any, mask: Any) -> Any:
    """Whether a row and a packet have the same tag, as far as it belongs to the key."""
    return (U64(row["tag"]) ^ tag_of(packet)) & mask == U64(0)


@inline_kernel
def is_row_of(row: Any, packet: Any, upside: Any, mask: Any) -> Any:
    """Whether a row is that of the live flow with the key of a packet; arguments as for `find_row`."""
    return is_same_key(row, packet, upside) and (mask == U64(0) or is_same_tag(row, packet, mask))


@inline_kernel
def first_row(slots: Any, hashed: Any) -> Any:
    """Row number plus one of the first entry with a hash, or 0: likely the flow of that hash; touches the index alone.

    Args:
        slots: uint64[2**k], the index; at least half of it is free.
        hashed: What `hash_key` said.
    """
    last = U64(len(slots) - 1)
    at = hashed & last
    while slots[at] != EMPTY:
        if U64(slots[at]) >> _ROW_BITS == hashed:
            return U64(slots[at]) & _ROW_MASK
        at = (at + U64(1)) & last
    return U64(0)


@kernel
def find_first_rows(slots: Any, hashes: Any, found: Any) -> Any:
    """Look up a batch with `first_row`, as the index is now.

    Another thread may change the index meanwhile: what is found is a hint, which a key decides. An entry is a word, so
    it is read as it was or as it will be, and there is always a free slot to stop at.

    Args:
        slots: uint64[2**k], the index; at least half of it is free.
        hashes: uint32[m].
        found: uint32[m], filled: row number plus one, or 0.
    """
    last = U64(len(slots) - 1)
    for i in range(len(hashes)):
        if U64(i) + _AHEAD < U64(len(hashes)):
            prefetch(slots, U64(hashes[U64(i) + _AHEAD]) & last, U64(0))
        found[U64(i)] = first_row(slots, U64(hashes[U64(i)]))


@inline_kernel
def find_row(slots: Any, live: Any, packet: Any, upside: Any, hashed: Any, mask: Any) -> Any:
    """Row number plus one of the live flow with the key of a packet, or 0.

    Args:
        slots: uint64[2**k], the index; at least half of it is free.
        live: LIVE[n].
        packet: PACKET row.
        upside: What `is_reversed` said of it (False where the key keeps its direction).
        hashed: What `hash_key` said of it.
        mask: Bits of the tag that belong to the key; 0: none.
    """
    last = U64(len(slots) - 1)
    at = hashed & last
    while slots[at] != EMPTY:
        if U64(slots[at]) >> _ROW_BITS == hashed:
            found = U64(slots[at]) & _ROW_MASK
            if is_row_of(live[found - U64(1)], packet, upside, mask):
                return found
        at = (at + U64(1)) & last
    return U64(0)


@inline_kernel
def _enter(slots: Any, entry: Any) -> Any:
    """Write an entry into the first free slot from its home on."""
    mask = U64(len(slots) - 1)
    at = (entry >> _ROW_BITS) & mask
    while slots[at] != EMPTY:
        at = (at + U64(1)) & mask
    slots[at] = entry


@inline_kernel
def index_row(slots: Any, hashed: Any, row: Any) -> Any:
    """Enter a row into the index, which must have a free slot."""
    _enter(slots, hashed << _ROW_BITS | (row + U64(1)))


@inline_kernel
def forget_row(slots: Any, hashed: Any, row: Any) -> Any:
    """Take a row out of the index and close the gap (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = U64(len(slots) - 1)
    at = hashed & mask
    while U64(slots[at]) & _ROW_MASK != row + U64(1):
        at = (at + U64(1)) & mask
    gap = at
    while True:
        at = (at + U64(1)) & mask
        if slots[at] == EMPTY:
            break
        home = (U64(slots[at]) >> _ROW_BITS) & mask
        # The entry may move into the gap unless its home lies cyclically between the gap and itself.
        if ((at - home) & mask) >= ((at - gap) & mask):
            slots[gap] = slots[at]
            gap = at
    slots[gap] = EMPTY


@kernel
def reindex(old: Any, slots: Any) -> Any:
    """Fill an empty index with all entries of another.

    Args:
        old: uint64[2**j].
        slots: uint64[2**k], zero.
    """
    for i in range(len(old)):
        if old[U64(i)] != EMPTY:
            _enter(slots, U64(old[U64(i)]))


@kernel
def hash_keys(packets: Any, directed: Any, secret: Any, mask: Any, hashes: Any) -> Any:
    """Hash the keys of a batch, so that the table knows some packets ahead where it will look.

    Args:
        packets: PACKET[m]; rows without a flow get the hash of whatever stands there.
        directed: Whether the key keeps its direction.
        secret: uint64[6], random words of this run.
        mask: Bits of the tag that belong to the key; 0: none.
        hashes: uint32[m], filled.
    """
    for i in range(len(packets)):
        packet = packets[U64(i)]
        upside = False if directed else is_reversed(packet)
        hashes[U64(i)] = hash_key(packet, upside, secret, mask)
