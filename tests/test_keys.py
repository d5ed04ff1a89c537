"""The room `keys`: canonical order of two ends, and the hash index against a dict."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import ETHER_IPV4, UDP, Exchange, Wire, ethernet, ipv4, udp
from hypothesis import given
from hypothesis import strategies as st

from traceflow.compiled import COMPILED, U64
from traceflow.flows import FlowSet
from traceflow.keys import (
    EMPTY,
    TUNNEL_MASK,
    VLAN_MASK,
    find_row,
    first_row,
    forget_row,
    hash_key,
    hash_keys,
    index_row,
    is_reversed,
    reindex,
    tag_of,
)
from traceflow.live import LIVE
from traceflow.packets import PACKET, Tunnel
from traceflow.pipeline import trace

sys.path.append(str(Path(__file__).resolve().parents[1] / "fixtures"))
from tunnel_cases import WRAPPINGS


@pytest.fixture(autouse=True, scope="module")
def as_in_a_kernel() -> Iterator[None]:
    """The pieces are called without their kernel here, so the error state that it gives plain Python is missing."""
    with np.errstate(over="ignore"):
        yield


FIELDS = ("src_hi", "src_lo", "src_port", "dst_hi", "dst_lo", "dst_port", "protocol", "ip_version")


def packet(*values: int) -> Any:
    row = np.zeros(1, PACKET)[0]
    for name, value in zip(FIELDS, values, strict=True):
        row[name] = value
    return row


def swapped(row: Any) -> Any:
    values = [row[name] for name in FIELDS]
    return packet(*values[3:6], *values[:3], *values[6:])


def hashed(row: Any, upside: bool, seed: int = 1) -> int:
    words = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**64, 6, np.uint64)
    return int(hash_key(row, upside, words, U64(0)))


# Small numbers meet often; large ones show whether halves are compared as unsigned 64-bit numbers.
halves = st.sampled_from([0, 1, 2, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
ports = st.sampled_from([0, 1, 65535]) | st.integers(0, 65535)
packets = st.tuples(halves, halves, ports, halves, halves, ports, st.integers(0, 255), st.sampled_from([4, 6]))


@given(packets)
def test_the_upper_end_is_the_greater_one(values: tuple[int, ...]) -> None:
    """Python compares tuples of unbounded integers: address, upper half first, then port."""
    assert bool(is_reversed(packet(*values))) == (values[0:3] > values[3:6])


@pytest.mark.parametrize(
    ("source", "target", "upper"),
    [
        ((0, 5, 7), (0, 5, 8), False),
        ((0, 5, 8), (0, 5, 7), True),
        ((0, 5, 8), (0, 5, 8), False),
        ((0, 6, 7), (0, 5, 8), True),
        ((1, 4, 7), (0, 5, 8), True),
        ((0, 2**63, 0), (0, 1, 0), True),
        ((2**63, 0, 0), (1, 0, 0), True),
    ],
)
def test_order_of_two_ends(source: tuple[int, ...], target: tuple[int, ...], upper: bool) -> None:
    """Equal ends count as not reversed; halves of addresses are unsigned."""
    assert bool(is_reversed(packet(*source, *target, 6, 6))) == upper


@given(packets)
def test_both_directions_have_one_hash(values: tuple[int, ...]) -> None:
    one, two = packet(*values), swapped(packet(*values))
    assert hashed(one, bool(is_reversed(one))) == hashed(two, bool(is_reversed(two)))


MAPPED = 0xFFFF00000000
addresses4 = (st.sampled_from([0, 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)).map(lambda value: MAPPED | value)
packets4 = st.tuples(st.just(0), addresses4, ports, st.just(0), addresses4, ports, st.integers(0, 255), st.just(4))
packets6 = st.tuples(halves, halves, ports, halves, halves, ports, st.integers(0, 255), st.just(6))


@given(st.lists(packets4 | packets6, min_size=1, max_size=5), st.booleans(), st.sampled_from([0, 2**64 - 1]))
def test_the_hashes_of_a_batch_are_those_of_its_packets(made: list[Any], directed: bool, mask: int) -> None:
    """A quoted packet is looked up by `is_reversed` and `hash_key`, what it must find was entered by `hash_keys`."""
    rows = np.zeros(len(made), PACKET)
    rows["vlan_outer"] = 5
    for row, values in zip(rows, made, strict=True):
        for name, value in zip(FIELDS, values, strict=True):
            row[name] = value
    words = np.random.Generator(np.random.PCG64(1)).integers(0, 2**64, 6, np.uint64)
    hashes = np.zeros(len(made), np.uint32)
    hash_keys(rows, directed, words, U64(mask), hashes)
    expected = [hash_key(row, False if directed else is_reversed(row), words, U64(mask)) for row in rows]
    assert hashes.tolist() == [int(value) for value in expected]


def test_ipv4_keys_cannot_be_made_to_collide() -> None:
    """Address and port of an end share a word: neighbours whose numbers add up to the same, or differ in one bit."""
    total = 4096 if COMPILED else 512
    for other in (lambda n: 8192 - n, lambda n: 8192 ^ n, lambda n: n):
        for a, b in ((1, 2), (1, 4), (2, 5), (1, 5)):  # places in FIELDS
            keys = []
            for n in range(total):
                values = [0, MAPPED | 10 << 24, 3, 0, MAPPED | 20 << 24, 6, 6, 4]
                values[a], values[b] = values[a] + n, values[b] + other(n)
                keys.append(hashed(packet(*values), False))
            assert len(set(keys)) > 0.99 * total


def test_every_field_is_in_the_hash() -> None:
    """By chance two of these hashes of 32 bits are equal once in 10**8 runs; the seed is fixed, so not here."""
    base = (1, 2, 3, 4, 5, 6, 6, 6)
    seen = {hashed(packet(*base), False)}
    for at in range(len(FIELDS)):
        for bit in (1, 4, 64):
            changed = list(base)
            changed[at] ^= bit
            seen.add(hashed(packet(*changed), False))
    assert len(seen) == 1 + 3 * len(FIELDS)
    assert hashed(packet(*base), False, seed=2) not in seen
    assert hashed(packet(*base), True) not in seen, "a key that keeps its direction is another key turned round"


def test_every_protocol_of_two_ends_has_a_hash_of_its_own() -> None:
    """SIP over UDP and TCP, or 250 protocols between two hosts: of IPv4, whose addresses are mapped."""
    for seed in (1, 2):
        keys = {
            hashed(packet(0, MAPPED | 10 << 24, ports, 0, MAPPED | 20 << 24, ports, protocol, 4), False, seed=seed)
            for protocol in range(256)
            for ports in (0, 5060)
        }
        assert len(keys) == 512


def test_hash_spreads_ordinary_keys() -> None:
    """4096 clients with ports in a row: no slot of 8192 gets more than a fair hash would give once in a million."""
    slots = np.zeros(8192, int)
    for n in range(4096 if COMPILED else 512):
        slots[hashed(packet(0, 0xFFFF0A000000 + n % 64, 1024 + n, 0, 0xFFFF0A0000FF, 443, 6, 4), False) % 8192] += 1
    assert slots.max() <= 9  # Poisson with mean 0.5: more than 9 has probability 2e-10 a slot


def test_keys_cannot_be_made_to_collide() -> None:
    """IPv6 networks in a row whose number and port add up to the same, or differ in the same bits: a hash that adds or
    xors two parts of the key before it mixes them gives all of them one slot, whatever its seed.
    """
    total = 4096 if COMPILED else 512
    for other in (lambda n: 8192 - n, lambda n: 8192 ^ n, lambda n: n):
        for a, b in ((0, 5), (0, 2), (0, 3), (1, 4), (3, 5)):  # places in FIELDS
            keys = []
            for n in range(total):
                values = [1 << 61, 2, 3, 4, 5, 6, 6, 6]
                values[a], values[b] = n, other(n)
                keys.append(hashed(packet(*values), False))
            assert len(set(keys)) > 0.99 * total


class Index:
    """The index under test, over rows whose hash is chosen, so that they collide at will."""

    def __init__(self, slots: int, rows: int) -> None:
        self.slots = np.zeros(slots, np.uint64)
        self.live = np.zeros(rows, LIVE)

    def put(self, row: int, key: int, hash_value: int) -> None:
        flow = self.live[row]
        flow["low_lo"], flow["high_lo"], flow["hashed"] = key, 1 << 40, hash_value
        index_row(self.slots, U64(hash_value), U64(row))

    def find(self, key: int, hash_value: int, upside: bool = False) -> int:
        ends = (0, 1 << 40, 0, 0, key, 0) if upside else (0, key, 0, 0, 1 << 40, 0)
        return int(find_row(self.slots, self.live, packet(*ends, 0, 0), upside, U64(hash_value), U64(0)))

    def drop(self, row: int) -> None:
        forget_row(self.slots, U64(self.live[row]["hashed"]), U64(row))


@pytest.mark.parametrize("slots", [2, 4, 16, 64])
@pytest.mark.parametrize("seed", range(4))
def test_index_equals_a_dict(slots: int, seed: int) -> None:
    """Insert and delete at random, half full at most, with hashes that crowd at both ends of the slots: each key is
    found under its row after every step, and no other one; what is left is what a rebuilt index holds.
    """
    dice = random.Random(seed)
    rows = slots // 2
    index, model = Index(slots, rows), {}
    free = list(range(rows))
    hashes = {key: dice.choice((0, 1, slots - 1, slots - 2, dice.randrange(2**32))) for key in range(3 * rows)}
    for _ in range(600 if COMPILED else 150):
        key = dice.choice(list(hashes))
        if key in model:
            row = model.pop(key)
            index.drop(row)
            free.append(row)
        elif free:
            row = free.pop(dice.randrange(len(free)))
            model[key] = row
            index.put(row, key, hashes[key])
        assert {k: index.find(k, h) for k, h in hashes.items()} == {k: model.get(k, -1) + 1 for k in hashes}
        assert np.count_nonzero(index.slots != EMPTY) == len(model)


def test_both_directions_find_the_row() -> None:
    index = Index(4, 2)
    index.put(1, 7, 99)
    assert index.find(7, 99) == index.find(7, 99, upside=True) == 2
    assert index.find(7, 98) == index.find(8, 99) == 0


def test_equal_hash_is_not_an_equal_key() -> None:
    index = Index(8, 4)
    for row, key in enumerate((5, 6, 7)):
        index.put(row, key, 3)
    assert [index.find(key, 3) for key in (5, 6, 7, 8)] == [1, 2, 3, 0]
    index.drop(0)
    assert [index.find(key, 3) for key in (5, 6, 7)] == [0, 2, 3]


def test_protocol_and_version_are_compared() -> None:
    index = Index(4, 2)
    index.put(0, 7, 99)
    for protocol, version in ((6, 0), (0, 4)):
        row = packet(0, 7, 0, 0, 1 << 40, 0, protocol, version)
        assert find_row(index.slots, index.live, row, False, U64(99), U64(0)) == 0


def test_reindex_finds_all_rows() -> None:
    """Rows 0, 2, 4, ... live, in an index that is half full, and then in one of twice the slots."""
    index = Index(64, 64)
    for row in range(0, 64, 2):
        index.put(row, row, row % 5)
    old, index.slots = index.slots, np.zeros(128, np.uint64)
    reindex(old, index.slots)
    assert [index.find(key, key % 5) for key in range(64)] == [row + 1 if row % 2 == 0 else 0 for row in range(64)]


def test_a_look_ahead_finds_the_first_with_the_hash() -> None:
    """It touches no rows, so of keys with one hash it names the one that came first; a longer way round is taken."""
    index = Index(8, 4)
    for row, (key, hash_value) in enumerate(((5, 3), (6, 11), (7, 3), (8, 4))):  # 3 and 11 have the same home
        index.put(row, key, hash_value)
    assert [int(first_row(index.slots, U64(hash_value))) for hash_value in (3, 11, 4, 12, 5)] == [1, 2, 4, 0, 0]


# --- what carried a packet: an optional part of the key ----------------------------------------------------------

CARRIED = (("vlan_outer", 0xFFF, 48), ("vlan_inner", 0xFFF, 32), ("tunnel_id", 0xFFFFFFFF, 0), ("tunnel", 15, 60))


def carried(**columns: int) -> Any:
    row = packet(1, 2, 3, 4, 5, 6, 17, 4)
    for name, value in columns.items():
        row[name] = value
    return row


@pytest.mark.parametrize(("name", "most", "shift"), CARRIED)
def test_a_tag_holds_every_part_exactly(name: str, most: int, shift: int) -> None:
    assert int(tag_of(carried(**{name: most}))) == most << shift
    assert max(Tunnel) <= 15, "four bits of the tag"


def test_the_masks_part_a_tag() -> None:
    everything = int(tag_of(carried(vlan_outer=0xFFF, vlan_inner=0xFFF, tunnel_id=0xFFFFFFFF, tunnel=15)))
    assert everything & VLAN_MASK == 0x0FFF0FFF << 32
    assert everything & TUNNEL_MASK == 0xF0000000FFFFFFFF
    assert VLAN_MASK ^ TUNNEL_MASK == 2**64 - 1


@pytest.mark.parametrize("name", [name for name, _, _ in CARRIED])
@pytest.mark.parametrize("mask", [0, VLAN_MASK, TUNNEL_MASK, 2**64 - 1])
def test_only_what_the_mask_has_is_hashed_and_compared(name: str, mask: int) -> None:
    index, words = Index(4, 2), np.random.Generator(np.random.PCG64(1)).integers(0, 2**64, 6, np.uint64)
    one, other = carried(), carried(**{name: 3})
    counts = bool(mask & (VLAN_MASK if name.startswith("vlan") else TUNNEL_MASK))
    hashes = [int(hash_key(row, False, words, U64(mask))) for row in (one, other)]
    assert (hashes[0] != hashes[1]) == counts
    flow = index.live[0]
    for end, (hi, lo, port) in (("low", (1, 2, 3)), ("high", (4, 5, 6))):
        flow[f"{end}_hi"], flow[f"{end}_lo"], flow[f"{end}_port"] = hi, lo, port
    flow["protocol"], flow["ip_version"], flow["hashed"], flow["tag"] = 17, 4, 9, tag_of(one)
    index_row(index.slots, U64(9), U64(0))
    assert find_row(index.slots, index.live, one, False, U64(9), U64(mask)) == 1
    assert find_row(index.slots, index.live, other, False, U64(9), U64(mask)) == (0 if counts else 1)


def traced(wire: Wire, **options: Any) -> FlowSet:
    return trace(io.BytesIO(wire.pcap_octets()), **options)


def frames_of(flows: FlowSet) -> list[list[int]]:
    return [flow.frames.tolist() for flow in flows]


Q, AD = 0x8100, 0x88A8
STACKS = ([], [(Q, 10)], [(AD, 10), (Q, 20)], [(AD, 11), (Q, 20)], [(Q, 10), (Q, 20)], [(Q, 0)])


def test_vlan_stacks_in_the_key() -> None:
    """Ids count, not the kind of tag (5 is as 3), and id 0 is no VLAN but a priority (802.1Q): 6 is as 1."""
    wire = Wire()
    for tags in STACKS:
        Exchange(wire=wire, tags=tags).a.udp(b"?")
    for tags in STACKS:
        Exchange(wire=wire, tags=tags).b.udp(b"!")
    flows = traced(wire, key=("vlan",))
    assert frames_of(flows) == [[1, 6, 7, 12], [2, 8], [3, 5, 9, 11], [4, 10]]
    assert [(flow.vlan_outer, flow.vlan_inner) for flow in flows] == [(None, None), (10, None), (10, 20), (11, 20)]
    assert frames_of(traced(wire)) == frames_of(traced(wire, key="tunnel")) == [[*range(1, 13)]]
    assert traced(wire)[0].vlan_outer is None, "of the first frame"


def test_undefined_vlans_and_tunnels_are_empty_in_a_data_frame() -> None:
    pytest.importorskip("pandas")
    wire = Wire()
    Exchange(wire=wire, tags=[(Q, 10)]).a.udp(b"?")
    wire.frame(WRAPPINGS["VXLAN"][0](1234))
    table = traced(wire, key=("vlan", "tunnel")).to_pandas()
    columns = ["vlan_outer", "vlan_inner", "tunnel", "tunnel_id"]
    assert table[columns].astype(object).where(table[columns].notna(), None).to_numpy().tolist() == [
        [10, None, None, None],
        [None, None, "vxlan", 5],
    ]


def test_tunnels_in_the_key() -> None:
    """One inner datagram by VXLAN 5, GPE 5 (the same network), GRE without key, GRE with key 77, and none."""
    wire = Wire()
    names = ("VXLAN", "VXLAN GPE", "GRE", "GRE with checksum, key and sequence", "MPLS")
    for _ in range(2):
        for name in names:
            wire.frame(WRAPPINGS[name][0](1234))
    flows = traced(wire, key=("tunnel",))
    assert frames_of(flows) == [[1, 2, 6, 7], [3, 8], [4, 9], [5, 10]]
    kinds = [(flow.tunnel, flow.tunnel_id) for flow in flows]
    assert kinds == [(Tunnel.VXLAN, 5), (Tunnel.GRE, 0), (Tunnel.GRE, 77), (Tunnel.NONE, None)]
    assert frames_of(traced(wire)) == [[*range(1, 11)]]
    assert len(traced(wire, key=("tunnel",), outer=True)) == 4, "two ports of VXLAN, GRE, and the bare datagram"


A, B = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_fragments_have_the_vlan_of_their_flow(order: tuple[int, ...]) -> None:
    """In order, reversed, the first one late: each VLAN has its flow of three frames. Both have the same datagram."""
    whole, wire = udp(A, B, 1001, 53, b"x" * 40), Wire()
    for vlan, ident in ((10, 1), (20, 2)):
        for n in order:
            piece = ipv4(A, B, UDP, whole[16 * n : 16 * n + 16], ident=ident, fragment=2 * n, more=n < 2)
            wire.packet(piece, tags=[(Q, vlan)])
    flows = traced(wire, key=("vlan",))
    assert frames_of(flows) == [[1, 2, 3], [4, 5, 6]]
    assert [flow.vlan_outer for flow in flows] == [10, 20]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fragments_of_a_tunnel_have_the_vlan_within(order: tuple[int, ...]) -> None:
    """The outer datagram of VXLAN is in two pieces; the tag of VLAN 30 stands within, in the first one alone.

    What reads the first piece sees tags 7 and 30; the second one has tag 7, and must get the others.
    """
    inner = ethernet(ipv4(A, B, UDP, udp(A, B, 5, 6, b"y" * 100)), ETHER_IPV4, tags=[(Q, 30)])
    whole = udp("192.0.2.1", "192.0.2.2", 4000, 4789, bytes.fromhex("0800000000000500") + inner)
    wire = Wire()
    for n in order:
        part = whole[104 * n : 104 * n + 104]
        piece = ipv4("192.0.2.1", "192.0.2.2", UDP, part, ident=9, fragment=13 * n, more=n == 0)
        wire.packet(piece, tags=[(Q, 7)])
    (flow,) = traced(wire, key=("vlan", "tunnel"))
    assert (flow.frames.tolist(), flow.orig_port) == ([1, 2], 5)
    assert (flow.vlan_outer, flow.vlan_inner, flow.tunnel, flow.tunnel_id) == (7, 30, Tunnel.VXLAN, 5)


def test_tags_cannot_be_made_to_collide() -> None:
    """As above, with tunnel ids and VLANs in a row that go up as a port goes down."""
    words, total = np.random.Generator(np.random.PCG64(1)).integers(0, 2**64, 6, np.uint64), 4096 if COMPILED else 512
    for name, bits in (("tunnel_id", 32), ("vlan_outer", 12)):
        for other in (lambda n: 8192 - n, lambda n: 8192 ^ n):
            keys = set()
            for n in range(total):
                row = packet(0, 1, other(n), 0, 2, 80, 17, 4)
                row[name] = n % 2**bits
                keys.add(int(hash_key(row, False, words, U64(2**64 - 1))))
            assert len(keys) > 0.99 * total
