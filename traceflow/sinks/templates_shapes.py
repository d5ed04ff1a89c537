"""Shapes of frames: which frames have records that differ in values alone, and how the shape of a frame is found.

A *shape* is fixed by a few octets of the frame (types, header lengths, kinds and lengths of options) and by what its
rows say (interface, link type, clock, whether something follows the payload). `walk` asks for those octets, one after
the other; what it asks next depends on the answers alone. So all walks together are a tree, `Shapes`, and a kernel
finds the leaf of a frame with some look-ups in one hash table. Only plain frames have a shape: whole headers, one
packet of IP, lengths that agree. Others are left to the renderers (`dictdump`), and so is a frame that no walk
knows yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, kernel
from traceflow.packets import FRAGMENT

__all__ = ["KNOWN", "LEAF", "PLAIN", "UNKNOWN", "Headers", "Shapes", "enter", "find_leaf", "root_of", "walk"]

LEAF = np.dtype([("op", "u4"), ("ops", "u4"), ("most", "u4"), ("ip", "u4"), ("transport", "u4"), ("header", "u4")])
"""What is known of a shape: its operations (none: it has no template) and the most octets that they write apart from
octets of the frame; where IP, what it carries, and what follows the headers begin."""

_NODE = np.dtype([("offset", "u4"), ("width", "u4"), ("mask", "u8")])
"""A question: which big-endian number do `width` octets at `offset` have under the mask?"""

_EDGE = np.dtype([("value", "u8"), ("node", "u4"), ("child", "u4")])
"""An answer, in the hash table: the node it leads to, or with the bit IS_LEAF the leaf; 0 for an empty row."""

_IS_LEAF = 1 << 31
_EDGES = 1 << 14
_MOST_SHAPES = 2048
"""Shapes that are kept; hostile captures must not pile them up. Captures of all kinds have some hundred."""

KNOWN, PLAIN, UNKNOWN = 0, 1, 2
"""What `find_leaf` found: a leaf, a frame without shape, a frame whose walk is not in the tree."""

_IP4, _IP6, _VLAN = 0x0800, 0x86DD, (0x8100, 0x88A8, 0x9100)
_ETHERNET, _SLL, _SLL2, _NULL, _LOOP = 1, 113, 276, 0, 108
_RAW = (101, 12, 14, 228, 229)
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58


@dataclass(frozen=True, slots=True)
class Headers:
    """Where headers begin in a frame, in octets from its first; `header` is where the last of them ends."""

    ip: int
    transport: int
    header: int


Ask = Callable[[int, int, int], int]
"""Asks for the number that `width` octets at `offset` have under a mask: `ask(offset, width, mask)`."""


def walk(ask: Ask, link: int, ip: int, version: int) -> Headers | None:
    """Ask for all octets that decide which fields a record has, and those whose value no operation can show.

    Args:
        ask: Answers.
        link: Link type.
        ip: Where decode found the IP header.
        version: Of IP.

    Returns:
        Where the headers are; None for a frame without shape.
    """
    if not _link(ask, link, ip):
        return None
    if version == 4:
        word = ask(ip, 8, 0xFF00000000003FFF)
        if word != 0x45 << 56:  # options, or a fragment
            return None
        protocol, at = ask(ip + 9, 1, 0xFF), ip + 20
    else:
        if ask(ip, 1, 0xF0) != 0x60:
            return None
        protocol, at = ask(ip + 6, 1, 0xFF), ip + 40
    if protocol == _TCP:
        size = _tcp(ask, at)
        return None if size is None else Headers(ip, at, at + size)
    if protocol in (_ICMP, _ICMP6):
        ask(at, 1, 0xFF)
        return Headers(ip, at, at + 8)
    return Headers(ip, at, at + 8 if protocol == _UDP else at)


def _link(ask: Ask, link: int, ip: int) -> bool:
    """Everything before IP. False where that is no plain link header with VLAN tags."""
    if link in _RAW:
        return ip == 0
    if link in (_NULL, _LOOP):
        ask(0, 4, 0xFFFFFFFF)
        return ip == 4
    if link == _ETHERNET:
        ether, at = ask(12, 2, 0xFFFF), 14
    elif link == _SLL:
        ask(4, 2, 0xFFFF)
        ether, at = ask(14, 2, 0xFFFF), 16
    elif link == _SLL2:
        ask(11, 1, 0xFF)
        ether, at = ask(0, 2, 0xFFFF), 20
    else:
        return False
    while ether in _VLAN and at < ip:
        ether = ask(at + 2, 2, 0xFFFF)
        at += 4
    return at == ip and ether in (_IP4, _IP6)


def _tcp(ask: Ask, at: int) -> int | None:
    """A TCP header with its options; its octets, or None where it contradicts itself."""
    size = ask(at + 12, 1, 0xF0) >> 2
    if size < 20:
        return None
    place = 20
    while place < size:
        kind = ask(at + place, 1, 0xFF)
        if kind == 0:
            break
        if kind == 1:
            place += 1
            continue
        length = ask(at + place + 1, 1, 0xFF) if place + 1 < size else 0
        if length < 2 or place + length > size:
            return None
        if kind == 3 and length == 3:
            ask(at + place + 2, 1, 0xFF)  # a power of two is made of it
        place += length
    return size


@inline_kernel
def _root(frame: Any, packet: Any) -> Any:
    trails = U64(frame["captured"]) > U64(packet["payload"]) + U64(packet["payload_octets"])
    value = (U64(frame["interface"]) << U64(32)) | (U64(frame["link"]) << U64(16))
    value |= (U64(frame["time_bits"]) & U64(15)) << U64(12) | (U64(packet["ip_version"]) & U64(7)) << U64(8)
    return value | (min(U64(packet["link_octets"]), U64(127)) << U64(1)) | U64(trails)


@kernel
def root_of(frame: Any, packet: Any) -> Any:
    """What a FRAME row and its PACKET row say of the shape, in one number."""
    return _root(frame, packet)


@inline_kernel
def _slot(node: Any, value: Any) -> Any:
    """Where a look-up begins."""
    mixed = (value ^ (node << U64(40))) * U64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> U64(29))) >> U64(8)


@inline_kernel
def _child(edges: Any, node: Any, value: Any) -> Any:
    """Where an answer leads; 0 where nobody went."""
    mask = U64(edges.shape[0] - 1)
    slot = _slot(node, value) & mask
    while True:
        edge = edges[slot]
        if U64(edge["child"]) == U64(0) or (U64(edge["node"]) == node and U64(edge["value"]) == value):
            return U64(edge["child"])
        slot = (slot + U64(1)) & mask


@kernel
def enter(edges: Any, node: Any, value: Any, child: Any) -> None:
    """Enter an answer that is not in the table; there is always an empty row."""
    mask = U64(edges.shape[0] - 1)
    slot = _slot(node, value) & mask
    while edges[slot]["child"]:
        slot = (slot + U64(1)) & mask
    edges[slot]["node"] = node
    edges[slot]["value"] = value
    edges[slot]["child"] = child


@inline_kernel
def _short(octets: Any, at: Any) -> Any:
    return (U64(octets[at]) << U64(8)) | U64(octets[at + U64(1)])


@inline_kernel
def _is_mapped(high: Any, low: Any) -> Any:
    """Whether inet_ntop may write an IPv6 address with the form of IPv4 in it."""
    return high == U64(0) and low >> U64(48) == U64(0) and low > U64(1)


@inline_kernel
def _agrees(octets: Any, frame: Any, packet: Any, leaf: Any) -> Any:
    """Whether all lengths of a frame are as its shape has them: headers whole, as captured and as sent."""
    start, captured = U64(frame["start"]), U64(frame["captured"])
    sent = max(captured, U64(frame["wire"]))
    ip, header = U64(leaf["ip"]), U64(leaf["header"])
    if captured < header or U64(packet["transport"]) != U64(leaf["transport"]):
        return False
    if U64(packet["ip_version"]) == U64(4):
        end = ip + _short(octets, start + ip + U64(2))
    else:
        length = _short(octets, start + ip + U64(4))
        end = ip + U64(40) + length
        if length == U64(0) or _is_mapped(U64(packet["src_hi"]), U64(packet["src_lo"])):
            return False
        if _is_mapped(U64(packet["dst_hi"]), U64(packet["dst_lo"])):
            return False
    return header <= end and end <= sent and end == ip + U64(packet["ip_octets"])


@inline_kernel
def find_leaf(octets: Any, frame: Any, packet: Any, edges: Any, nodes: Any, leaves: Any) -> Any:
    """The shape of a frame.

    Args:
        octets: uint8[n].
        frame: FRAME row.
        packet: PACKET row.
        edges: The hash table.
        nodes: The questions.
        leaves: LEAF rows.

    Returns:
        (KNOWN, PLAIN or UNKNOWN, index of the leaf).
    """
    none = U64(0)
    if packet["verdict"] or packet["tunnels"] or packet["bits"] & FRAGMENT or frame["time_ns"] < 0:
        return PLAIN, none
    if not packet["ip_version"] or packet["link_octets"] > 120:
        return PLAIN, none
    start, captured = U64(frame["start"]), U64(frame["captured"])
    child = _child(edges, none, _root(frame, packet))
    while child and child < U64(_IS_LEAF):
        node = nodes[child]
        offset, width = U64(node["offset"]), U64(node["width"])
        if offset + width > captured:
            return PLAIN, none
        value = none
        for i in range(node["width"]):
            value = (value << U64(8)) | U64(octets[start + offset + U64(i)])
        child = _child(edges, child, value & U64(node["mask"]))
    if child == none:
        return UNKNOWN, none
    found = child - U64(_IS_LEAF)
    return (KNOWN, found) if _agrees(octets, frame, packet, leaves[found]) else (PLAIN, none)


class _Cut(Exception):  # noqa: N818 - says that a walk left what was captured
    """A question behind what was captured."""


class Shapes:
    """All walks so far, and a LEAF row for each shape.

    Attributes:
        edges, nodes: What `find_leaf` takes.
        leaves: LEAF rows; row 0 stands for walks that lead to no shape.
        count: Leaves in use.
    """

    def __init__(self) -> None:
        self.edges = np.zeros(_EDGES, _EDGE)
        self.nodes = np.zeros(1, _NODE)
        self.leaves = np.zeros(_MOST_SHAPES, LEAF)
        self.leaves[0]["header"] = 2**32 - 1  # no frame is that long
        self.count = 1
        self._children: dict[tuple[int, int], int] = {}

    def add(self, octets: bytes, frame: np.void, packet: np.void) -> bool:
        """Enter the walk of a frame that `find_leaf` does not know.

        Args:
            octets: Its captured octets.
            frame: Its FRAME row.
            packet: Its PACKET row.

        Returns:
            Whether `find_leaf` finds its leaf now. False where there is no room, or the walk left what was captured.
        """
        asked: list[tuple[int, int, int]] = []
        answers = [int(root_of(frame, packet))]

        def ask(offset: int, width: int, mask: int) -> int:
            asked.append((offset, width, mask))
            if offset + width > len(octets):
                raise _Cut
            answers.append(int.from_bytes(octets[offset : offset + width], "big") & mask)
            return answers[-1]

        headers: Headers | None = None
        with contextlib.suppress(_Cut):
            headers = walk(ask, int(frame["link"]), int(packet["link_octets"]), int(packet["ip_version"]))
        if len(self._children) + len(asked) + 1 > _EDGES // 2 or self.count >= len(self.leaves):
            return False
        at = 0
        for question, answer in zip(asked, answers, strict=False):
            at = self._step(at, answer, question)
        if len(answers) == len(asked):
            return False  # the last question is behind what was captured; `find_leaf` gets there and sees it
        leaf = 0
        if headers is not None:
            leaf = self.count
            self.count += 1
            self.leaves[leaf] = (0, 0, 0, headers.ip, headers.transport, headers.header)
        self._enter(at, answers[-1], leaf | _IS_LEAF)
        return True

    def questions(self, octets: bytes, packet: np.void, link: int) -> list[tuple[int, int, int]]:
        """What the walk of a frame asks: (offset, width, mask) of octets that its shape fixes."""
        asked: list[tuple[int, int, int]] = []

        def ask(offset: int, width: int, mask: int) -> int:
            asked.append((offset, width, mask))
            return int.from_bytes(octets[offset : offset + width], "big") & mask

        walk(ask, link, int(packet["link_octets"]), int(packet["ip_version"]))
        return asked

    def _step(self, at: int, answer: int, question: tuple[int, int, int]) -> int:
        """The node behind an answer, made where nobody went yet."""
        found = self._children.get((at, answer))
        if found is None:
            found = len(self.nodes)
            self.nodes = np.append(self.nodes, np.array([question], _NODE))
            self._enter(at, answer, found)
        return found

    def _enter(self, at: int, answer: int, child: int) -> None:
        self._children[at, answer] = child
        enter(self.edges, U64(at), U64(answer), U64(child))
