"""Frames that need more than `walk.py` has: tunnels, and link headers that few captures have.

The walk through all layers, packets in packets included. It is a kernel of its own, compiled when the first such frame
comes: compiling takes longer than all else in a short run, and most captures do without.
"""

from __future__ import annotations

from typing import Any

from traceflow.compiled import U64, inline_kernel, kernel, outline_kernel
from traceflow.decode.internet import ip_packet
from traceflow.decode.links import FIRST_RARE, IP4, IP6, link_header
from traceflow.decode.links_rare import first_header, pass_headers
from traceflow.decode.octets import CUT_LINK, DEFERRED, NO_PORTS, NOT_IP, OK, TOO_DEEP
from traceflow.decode.transport import UDP, is_tunnel_port, is_tunnel_protocol
from traceflow.decode.tunnels import open_tunnel

__all__ = ["FABRIC_FCS", "MOST_TUNNELS", "OUTERMOST", "decode_rare"]

OUTERMOST, FABRIC_FCS = 1, 2
"""Bits of `how` of `decode_rare`."""

MOST_TUNNELS = 64
"""How many tunnels may lie in each other; deeper ones are not opened, and the frame gets a Verdict."""


@outline_kernel
def _enter(row: Any, scratch: Any, kind: Any, identifier: Any) -> Any:
    """Keep the row of a packet that carries another one, and make it ready for that."""
    scratch[U64(0)] = row
    row["src_hi"] = 0
    row["dst_hi"] = 0
    row["src_port"] = 0
    row["dst_port"] = 0
    row["protocol"] = 0
    row["tunnels"] += 1
    row["tunnel"] = kind
    row["tunnel_id"] = identifier


@inline_kernel
def _frame(b: Any, s: Any, n: Any, sent: Any, link: Any, outer: Any, fabric_fcs: Any, row: Any, scratch: Any) -> Any:
    """Decode one frame of `n` captured and `sent` sent octets at `s` into `row`.

    Returns:
        Its verdict. Where that says that a tunnel was opened in vain, `scratch` has the packet that is the tunnel.
    """
    verdict, what, o = link_header(b, s, n, link)
    if verdict == OK and what >= U64(FIRST_RARE):
        verdict, what, o = first_header(b, s, n, link, what, o)
        if verdict == OK and n < o:
            verdict = CUT_LINK
    if verdict != OK:
        return verdict
    while True:
        if what != U64(IP4) and what != U64(IP6):
            verdict, what, o, sent = pass_headers(b, s, n, sent, what, o, row, fabric_fcs)
            if verdict != OK:
                break
            n = min(n, sent)
            if what != U64(IP4) and what != U64(IP6):
                verdict = NOT_IP
                break
        verdict, protocol, end = ip_packet(b, s, n, sent, what == U64(IP6), outer, o, row)
        if verdict != OK or outer:
            break
        if protocol == U64(UDP):
            if not is_tunnel_port(U64(row["src_port"]), U64(row["dst_port"])):
                break
        elif not is_tunnel_protocol(protocol):
            break
        sent = min(end, U64(row["payload"]) + U64(row["payload_octets"]))
        n = min(n, sent)
        what, o, kind, identifier = open_tunnel(b, s, n, protocol, row)
        if what == U64(0):
            break
        if U64(row["tunnels"]) == U64(MOST_TUNNELS):
            row["src_port"] = 0
            row["dst_port"] = 0
            return TOO_DEEP
        _enter(row, scratch, kind, identifier)
    return verdict


@kernel
def decode_rare(octets: Any, frames: Any, packets: Any, scratch: Any, how: Any, count: Any) -> Any:
    """Decode the frames among the first `count` that were deferred.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m], m >= count.
        packets: PACKET[m]; rows whose `verdict` is DEFERRED are filled.
        scratch: PACKET[2], the second row zero.
        how: OUTERMOST: tunnels are not opened; FABRIC_FCS: frames inside FabricPath end with their check sequence.
        count: Frames to look at.

    Returns:
        `bits` of any of those that were deferred.
    """
    bits = U64(0)
    outer, fabric_fcs = U64(how) & U64(OUTERMOST) != U64(0), U64(how) & U64(FABRIC_FCS) != U64(0)
    for i in range(count):
        if packets[U64(i)]["verdict"] != DEFERRED:
            continue
        frame = frames[U64(i)]
        packets[U64(i)] = scratch[U64(1)]
        row = packets[U64(i)]
        n = U64(frame["captured"])
        sent = max(n, U64(frame["wire"]))
        verdict = _frame(octets, U64(frame["start"]), n, sent, U64(frame["link"]), outer, fabric_fcs, row, scratch)
        if verdict != OK and row["tunnels"] and verdict != NO_PORTS and verdict != TOO_DEEP:
            # A packet whose inner packet does not decode is an ordinary packet of its own protocol.
            packets[U64(i)] = scratch[U64(0)]
            verdict = OK
        row["verdict"] = verdict
        bits |= U64(row["bits"])
    return bits
