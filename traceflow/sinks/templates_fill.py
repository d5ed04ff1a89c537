"""The kernel that writes documents by templates: for each frame the operations of its shape.

An operation copies a piece of text that all records of a shape have in common, then writes one value, as its code
says. What a record holds is no matter of this module, nor what a document looks like: both come in the operations,
which `templates_learn` finds and `templates_layout` puts in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, kernel, put_octets
from traceflow.sinks.templates_shapes import KNOWN, PLAIN, find_leaf
from traceflow.sinks.templates_text import (
    put_base64,
    put_decimal,
    put_epoch,
    put_hex,
    put_ip4,
    put_ip6,
    put_json,
    put_mac,
    put_tree,
)

__all__ = [
    "BASE64",
    "BIT",
    "CAPTURED",
    "COLUMN",
    "EPOCH",
    "FIELD",
    "FIRST",
    "FIXED",
    "FULL",
    "HEX",
    "IP4",
    "IP6",
    "JSON",
    "LAST",
    "MAC",
    "NUMBER",
    "OP",
    "PAYLOAD",
    "PAYLOAD_OCTETS",
    "TIME",
    "TRAILER",
    "TREE",
    "WIRE",
    "classify",
    "fill",
]

OP = np.dtype([("text", "u4"), ("size", "u4"), ("code", "u4"), ("a", "u4"), ("b", "u4"), ("c", "u4"), ("mask", "u8")])
"""An operation: `size` octets of the texts from `text` on, then what the code says.

NONE: nothing. FIELD: `a` octets from `b` on, big-endian, shifted down by `c`, under the mask, in decimal. COLUMN: the
column `a` in decimal. BIT: of the octet at `a` the bits of the mask: where one is set, `c` octets of the texts from
`b` + 16 on, else `c` >> 16 octets from `b` on. EPOCH: the time with `a` digits. MAC, IP4, IP6: of the octets at `a`.
JSON, HEX, BASE64, TREE: the octets that `b` tells: PAYLOAD, TRAILER, or FIXED: `c` & 0xffff of them
from `c` >> 16 on. TREE: see `put_tree`."""

NONE, FIELD, COLUMN, BIT, EPOCH, MAC, IP4, IP6, JSON, HEX, BASE64, TREE = range(12)
NUMBER, TIME, WIRE, CAPTURED, PAYLOAD_OCTETS = range(5)
PAYLOAD, TRAILER, FIXED = range(3)

FIRST, LAST = 1, 2
"""Bits of a mark: the frame is the first, or the last, of its document."""

_PER_OCTET = 8
"""Octets written for an octet of the frame at most: JSON text and hexadecimal; in a tree a line for sixteen."""


@inline_kernel
def _column(which: Any, number: Any, frame: Any, packet: Any) -> Any:
    if which == U64(NUMBER):
        return U64(number)
    if which == U64(TIME):
        return U64(frame["time_ns"])
    if which == U64(WIRE):
        return U64(frame["wire"])
    if which == U64(CAPTURED):
        return U64(frame["captured"])
    return U64(packet["payload_octets"])


@inline_kernel
def _span(op: Any, frame: Any, packet: Any) -> Any:
    """Where the octets of an operation begin and end in the frame, as far as they were captured."""
    captured = U64(frame["captured"])
    kind = U64(op["b"])
    if kind == U64(FIXED):
        first = U64(op["c"]) >> U64(16)
        return first, first + (U64(op["c"]) & U64(0xFFFF))
    end = min(U64(packet["payload"]) + U64(packet["payload_octets"]), captured)
    if kind == U64(PAYLOAD):
        return min(U64(packet["payload"]), end), end
    return end, captured


@inline_kernel
def _value(out: Any, at: Any, octets: Any, frame: Any, packet: Any, number: Any, op: Any, texts: Any) -> Any:
    """Write the value of an operation."""
    code = U64(op["code"])
    start = U64(frame["start"])
    place = start + U64(op["a"])
    if code == U64(FIELD):
        value = U64(0)
        place = start + U64(op["b"])
        for i in range(op["a"]):
            value = (value << U64(8)) | U64(octets[place + U64(i)])
        return put_decimal(out, at, (value >> U64(op["c"])) & U64(op["mask"]))
    if code == U64(BIT):
        text, size = U64(op["b"]), U64(op["c"]) >> U64(16)
        if U64(octets[place]) & U64(op["mask"]):
            text += U64(16)
            size = U64(op["c"]) & U64(0xFFFF)
        put_octets(out, at, texts, text, size)
        return at + size
    if code == U64(COLUMN):
        return put_decimal(out, at, _column(U64(op["a"]), number, frame, packet))
    if code == U64(IP4):
        return put_ip4(out, at, octets, place)
    if code == U64(MAC):
        return put_mac(out, at, octets, place)
    if code == U64(EPOCH):
        return put_epoch(out, at, U64(frame["time_ns"]), U64(op["a"]))
    if code == U64(NONE):
        return at
    if code == U64(IP6):
        return put_ip6(out, at, octets, place)
    first, end = _span(op, frame, packet)
    if code == U64(JSON):
        return put_json(out, at, octets, start + first, start + end)
    if code == U64(HEX):
        return put_hex(out, at, octets, start + first, start + end)
    if code == U64(BASE64):
        return put_base64(out, at, octets, start + first, start + end)
    return put_tree(out, at, octets, start + first, start + end, texts, op)


@inline_kernel
def _piece(out: Any, at: Any, texts: Any, place: Any, size: Any) -> Any:
    put_octets(out, at, texts, U64(place), U64(size))
    return at + U64(size)


FULL = 3
"""What `fill` returns when the buffer has no room for the next frame."""


@kernel
def fill(
    batch: Any, marks: Any, ends: Any, shapes: Any, leaves: Any, ops: Any, texts: Any, state: Any, out: Any
) -> Any:
    """Write the blocks of frames, with head and tail of their documents, until one has no template.

    Args:
        batch: (uint8[n], FRAME[m], PACKET[m], uint64[m] numbers).
        marks: uint8[m], FIRST | LAST.
        ends: uint64[m], set to where each frame ends in `out`.
        shapes: (edges, nodes) of Shapes.
        leaves: LEAF rows.
        ops: OP rows; the first three write nothing but their text: the head of a document, what stands between two
            blocks, its tail.
        texts: uint8[t].
        state: uint64[3]: the next frame, the place behind what was written, the leaf that it needs.
        out: uint8[k].

    Returns:
        KNOWN when all is written; else why not, of `find_leaf`, or FULL. A leaf without operations is KNOWN to
        `find_leaf`; here it counts as PLAIN, and stands in `state`.
    """
    octets, frames, packets, numbers = batch
    edges, nodes = shapes
    head, between, tail = ops[U64(0)], ops[U64(1)], ops[U64(2)]
    room = U64(out.shape[0])
    i, at = state[U64(0)], state[U64(1)]
    status = KNOWN
    while i < U64(frames.shape[0]):
        frame, packet = frames[i], packets[i]
        status, found = find_leaf(octets, frame, packet, edges, nodes, leaves)
        state[U64(2)] = found
        if status != KNOWN:
            break
        leaf = leaves[found]
        if leaf["ops"] == 0:
            status = PLAIN
            break
        if at + U64(leaf["most"]) + U64(_PER_OCTET) * U64(frame["captured"]) > room:
            status = FULL
            break
        mark = U64(marks[i])
        before = head if mark & U64(FIRST) else between
        at = _piece(out, at, texts, before["text"], before["size"])
        number = U64(numbers[i])
        for k in range(leaf["ops"]):
            op = ops[U64(leaf["op"]) + U64(k)]
            at = _piece(out, at, texts, op["text"], op["size"])
            at = _value(out, at, octets, frame, packet, number, op, texts)
        if mark & U64(LAST):
            at = _piece(out, at, texts, tail["text"], tail["size"])
        ends[i] = at
        i += U64(1)
    state[U64(0)], state[U64(1)] = i, at
    return status


@kernel
def classify(batch: Any, shapes: Any, leaves: Any, found: Any) -> None:
    """The leaf of each frame, 0 where it has none.

    Args:
        batch: As in `fill`.
        shapes: As in `fill`.
        leaves: LEAF rows.
        found: uint32[m], set.
    """
    octets, frames, packets, _ = batch
    edges, nodes = shapes
    for i in range(frames.shape[0]):
        status, leaf = find_leaf(octets, frames[U64(i)], packets[U64(i)], edges, nodes, leaves)
        found[U64(i)] = leaf if status == KNOWN else U64(0)
