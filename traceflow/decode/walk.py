"""Octets to PACKET rows: the walk through the layers of a frame.

Decode looks at one frame at a time and never at flows. It raises nothing: a frame that cannot be understood
gets a Verdict. No length field is trusted: each is held against what was captured (`n`) and what was sent
(`end`). All positions count from the first octet of the frame; `s` is where the frame begins in the buffer.

The headers have modules of their own: `links.py` before IP, `internet.py` IP, `transport.py` behind it. Frames that
need more (tunnels, rare link headers) are left to `rare.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, clear_record, inline_kernel, kernel
from traceflow.decode.internet import ip_packet
from traceflow.decode.links import FIRST_RARE, IP4, IP6, is_rare, link_header, pass_tags
from traceflow.decode.octets import DEFERRED, NOT_IP, OK
from traceflow.decode.plain import plain_frame
from traceflow.decode.rare import FABRIC_FCS, OUTERMOST, decode_rare
from traceflow.decode.transport import UDP, is_tunnel_port, is_tunnel_protocol
from traceflow.packets import FRAGMENT, PACKET, QUOTES

__all__ = ["decode", "decode_batch", "decode_rows"]


@inline_kernel
def _frame(b: Any, s: Any, n: Any, sent: Any, link: Any, outer: Any, row: Any) -> Any:
    """Decode one frame of `n` captured and `sent` sent octets at `s` into `row`. Returns its verdict, or DEFERRED."""
    verdict, what, o = link_header(b, s, n, link)
    if verdict != OK:
        return verdict
    if what != U64(IP4):
        if what >= U64(FIRST_RARE):
            return DEFERRED
        verdict, what, o = pass_tags(b, s, n, what, o, row)
        if verdict != OK:
            return verdict
        if is_rare(what):
            return DEFERRED
        if what != U64(IP4) and what != U64(IP6):
            return NOT_IP
    verdict, protocol, _ = ip_packet(b, s, n, sent, what == U64(IP6), outer, o, row)
    if verdict == OK and not outer:
        if protocol == U64(UDP):
            if is_tunnel_port(U64(row["src_port"]), U64(row["dst_port"])):
                return DEFERRED
        elif is_tunnel_protocol(protocol):
            return DEFERRED
    return verdict


@kernel
def decode(octets: Any, frames: Any, packets: Any, signatures: Any, outer: Any, count: Any) -> Any:
    """Decode `count` frames.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m], m >= count; `start` and `captured` lie within `octets`.
        packets: PACKET[m]; rows 0 to count - 1 are written.
        signatures: uint64[count], written: what `sign` says of a plain frame, 0 of another; or uint64[0].
        outer: True: tunnels are not opened.
        count: Frames to decode.

    Returns:
        (the number of frames whose `verdict` is DEFERRED: `decode_rare` fills them; `bits` of any of the others that
        are not plain).
    """
    deferred, bits = U64(0), U64(0)
    signed = U64(len(signatures)) != U64(0)
    for i in range(count):
        frame = frames[U64(i)]
        row = packets[U64(i)]
        s, n, wire, link = U64(frame["start"]), U64(frame["captured"]), U64(frame["wire"]), U64(frame["link"])
        clear_record(row)
        plain, signature = plain_frame(octets, s, n, wire, link, outer, row)
        if signed:
            signatures[U64(i)] = signature
        if plain:
            continue
        verdict = _frame(octets, s, n, max(n, wire), link, outer, row)
        row["verdict"] = verdict
        if verdict == DEFERRED:
            deferred += U64(1)
        else:
            bits |= U64(row["bits"])
    return deferred, bits


_UNSIGNED = np.zeros(0, np.uint64)


def decode_rows(
    octets: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.void],
    packets: npt.NDArray[np.void],
    *,
    signatures: npt.NDArray[np.uint64] = _UNSIGNED,
    outer: bool = False,
    fabric_fcs: bool = False,
) -> tuple[npt.NDArray[np.void], int]:
    """Decode the frames of a batch into the first rows of `packets`.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[k], k >= m, used again from batch to batch.
        signatures: uint64[m], filled with signatures for `duplicates.py`, 0 where it has to find one itself.
        outer: Take the outermost packet of tunnels, not the innermost.
        fabric_fcs: See Options `fabric_path_fcs`.

    Returns:
        PACKET[m], and which of the bits FRAGMENT and QUOTES any of them has.
    """
    rows = packets[: len(frames)]
    deferred, bits = decode(octets, frames, rows, signatures, outer, len(frames))
    if deferred:
        how = U64(OUTERMOST * outer | FABRIC_FCS * fabric_fcs)
        bits |= decode_rare(octets, frames, rows, np.zeros(2, PACKET), how, len(frames))
    return rows, int(bits) & (FRAGMENT | QUOTES)


def decode_batch(
    octets: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.void],
    packets: npt.NDArray[np.void],
    *,
    outer: bool = False,
) -> npt.NDArray[np.void]:
    """As `decode_rows`, for whom the rows are enough."""
    return decode_rows(octets, frames, packets, outer=outer)[0]
