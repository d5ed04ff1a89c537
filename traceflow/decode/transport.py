"""The header behind IP to PACKET columns: ports, TCP columns, ids of ICMP echoes, and where the payload lies.

Read first: RFC 9293 (TCP), 768 (UDP), 9260 (SCTP), 4340 (DCCP), 3828 (UDP-Lite), 792 and 4443 (ICMP).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.compiled import U64, inline_kernel, outline_kernel
from traceflow.decode.octets import CUT_PORTS, OK, u16, u32
from traceflow.packets import (
    ACK_KNOWN,
    FLAGS_KNOWN,
    MSS_OPTION,
    QUOTES,
    SACK_PERMITTED_OPTION,
    SEQ_KNOWN,
    TIMESTAMPS_OPTION,
    WHOLE_TCP_HEADER,
    WINDOW_KNOWN,
    WINDOW_SCALE_OPTION,
)

__all__ = [
    "ETHERNET_IN_IP",
    "GRE",
    "IPIP",
    "IPV4",
    "IPV6",
    "MPLS_IN_IP",
    "PORT_AYIYA",
    "PORT_GENEVE",
    "PORT_GTP_U",
    "PORT_L2TP",
    "PORT_MPLS_IN_UDP",
    "PORT_TEREDO",
    "PORT_VXLAN",
    "PORT_VXLAN_CISCO",
    "PORT_VXLAN_GPE",
    "PORT_VXLAN_LINUX",
    "SYN",
    "TCP",
    "UDP",
    "is_tunnel_port",
    "is_tunnel_protocol",
    "needs_first_fragment",
    "tcp_options",
    "transport",
]

ICMP, TCP, UDP, _DCCP, ICMP6, _SCTP, _UDP_LITE = 1, 6, 17, 33, 58, 132, 136
SYN = 0x02
_REDIRECT6 = 137
IPV4, IPV6, GRE, IPIP, _ETHERIP, MPLS_IN_IP, ETHERNET_IN_IP = 4, 41, 47, 94, 97, 137, 143
PORT_VXLAN, PORT_VXLAN_LINUX, PORT_VXLAN_CISCO, PORT_VXLAN_GPE = 4789, 8472, 48879, 4790
PORT_GENEVE, PORT_GTP_U, PORT_TEREDO, PORT_MPLS_IN_UDP, PORT_AYIYA, PORT_L2TP = 6081, 2152, 3544, 6635, 5072, 1701

_IS_TUNNEL = np.zeros(256, np.uint8)
_IS_TUNNEL[[IPV4, IPV6, GRE, IPIP, _ETHERIP, MPLS_IN_IP, ETHERNET_IN_IP]] = 1


@inline_kernel
def is_tunnel_protocol(protocol: Any) -> Any:
    """Whether what IP carries may be a tunnel, by its protocol number; UDP is asked by its ports."""
    return _IS_TUNNEL[protocol] != 0


@inline_kernel
def _is_two_way(port: Any) -> Any:
    """Ports of tunnels that answer from the port on which they were called."""
    return port == U64(PORT_GTP_U) or port == U64(PORT_TEREDO) or port == U64(PORT_AYIYA) or port == U64(PORT_L2TP)


@outline_kernel
def is_tunnel_port(source: Any, target: Any) -> Any:
    """Whether a UDP datagram may be a tunnel, by its ports."""
    return (
        _is_two_way(source)
        or _is_two_way(target)
        or target == U64(PORT_VXLAN)
        or target == U64(PORT_VXLAN_LINUX)
        or target == U64(PORT_VXLAN_CISCO)
        or target == U64(PORT_VXLAN_GPE)
        or target == U64(PORT_GENEVE)
        or target == U64(PORT_MPLS_IN_UDP)
    )


_TELLS_BEHIND_IP = np.zeros(256, np.uint8)
_TELLS_BEHIND_IP[[ICMP, TCP, UDP, _DCCP, ICMP6, _SCTP, _UDP_LITE]] = 1


@inline_kernel
def needs_first_fragment(protocol: Any) -> Any:
    """Whether what tells the flows of a protocol apart stands behind IP, so that later fragments lack it."""
    return _TELLS_BEHIND_IP[protocol] != 0


@outline_kernel
def tcp_options(b: Any, at: Any, stop: Any, row: Any) -> Any:
    """TCP options of a SYN from `at` up to `stop` in the buffer (RFC 9293 section 3.1; numbers: IANA).

    An option that is cut off, or says it is shorter than its own head, ends the list. Every option is at least one
    octet, so the octets of the header bound the loop.
    """
    options = U64(0)
    while at < stop:
        kind = U64(b[at])
        if kind == U64(0):  # end of the list
            break
        if kind == U64(1):  # no operation
            at += U64(1)
            continue
        if at + U64(2) > stop:
            break
        length = U64(b[at + U64(1)])
        if length < U64(2) or at + length > stop:
            break
        if kind == U64(2) and length == U64(4):
            row["mss"] = u16(b, at + U64(2))
            options |= U64(MSS_OPTION)
        elif kind == U64(3) and length == U64(3):
            row["window_scale"] = b[at + U64(2)]
            options |= U64(WINDOW_SCALE_OPTION)
        elif kind == U64(4) and length == U64(2):
            options |= U64(SACK_PERMITTED_OPTION)
        elif kind == U64(8) and length == U64(10):
            options |= U64(TIMESTAMPS_OPTION)
        at += length
    row["options"] = U64(row["options"]) | options


@inline_kernel
def _tcp(b: Any, s: Any, n: Any, o: Any, end: Any, row: Any) -> Any:
    """TCP header at `o`, as far as it was captured. Returns the octets of the header.

    Where the data offset was cut off, or is below the smallest header, 20 octets are taken.
    """
    bits = U64(row["bits"])
    at = s + o
    header = U64(20)
    if n >= o + U64(8):
        row["seq"] = u32(b, at + U64(4))
        bits |= U64(SEQ_KNOWN)
    if n >= o + U64(12):
        row["ack"] = u32(b, at + U64(8))
        bits |= U64(ACK_KNOWN)
    if n >= o + U64(14):
        row["flags"] = b[at + U64(13)]
        bits |= U64(FLAGS_KNOWN)
        header = max(header, (U64(b[at + U64(12)]) >> U64(4)) << U64(2))
    if n >= o + U64(16):
        row["window"] = u16(b, at + U64(14))
        bits |= U64(WINDOW_KNOWN)
        if U64(b[at + U64(12)]) >= U64(0x50) and o + header <= end:
            row["options"] = WHOLE_TCP_HEADER
    if header > U64(20) and U64(row["flags"]) & U64(SYN):
        tcp_options(b, at + U64(20), s + min(n, o + header), row)
    row["bits"] = bits
    return header


@outline_kernel
def _other(b: Any, s: Any, n: Any, protocol: Any, o: Any, row: Any) -> Any:
    """SCTP, DCCP, UDP-Lite and ICMP at `o`: their ports or ids. Returns (verdict, octets of the header).

    Both ports of an ICMP query are its identifier, so that questions and answers with one id are a flow. Errors and
    redirects have the bit QUOTES. The payload of ICMP begins at its own header.
    """
    header = U64(0)
    if protocol == U64(ICMP) or protocol == U64(ICMP6):
        if n < o + U64(6):
            return OK, header
        kind = U64(b[s + o])
        query = kind == U64(128) or kind == U64(129)  # RFC 4443: echo
        quotes = (kind >= U64(1) and kind <= U64(4)) or kind == U64(_REDIRECT6)
        if protocol == U64(ICMP):  # RFC 792: echo, time stamp, information; RFC 950: mask
            query = kind == U64(0) or kind == U64(8) or (kind >= U64(13) and kind <= U64(18))
            quotes = (kind >= U64(3) and kind <= U64(5)) or kind == U64(11) or kind == U64(12)
        if query:
            row["src_port"] = u16(b, s + o + U64(4))
            row["dst_port"] = row["src_port"]
        elif quotes:
            row["bits"] = U64(row["bits"]) | U64(QUOTES)
        return OK, header
    if protocol == U64(_SCTP) or protocol == U64(_DCCP) or protocol == U64(_UDP_LITE):
        if n < o + U64(4):
            return CUT_PORTS, header
        row["src_port"] = u16(b, s + o)
        row["dst_port"] = u16(b, s + o + U64(2))
        header = U64(12) if protocol != U64(_UDP_LITE) else U64(8)
        if protocol == U64(_DCCP) and n >= o + U64(5):
            header = max(header, U64(b[s + o + U64(4)]) << U64(2))
    return OK, header


@inline_kernel
def transport(b: Any, s: Any, n: Any, protocol: Any, o: Any, end: Any, row: Any) -> Any:
    """The header behind IP at `o`: ports, TCP columns, and where the payload lies. Returns a verdict."""
    row["transport"] = min(o, end)  # an extension header may announce more than the packet has
    header = U64(0)
    n = min(n, end)
    stop = end
    if protocol == U64(TCP) or protocol == U64(UDP):
        if n < o + U64(4):
            return CUT_PORTS
        row["src_port"] = u16(b, s + o)
        row["dst_port"] = u16(b, s + o + U64(2))
        if protocol == U64(TCP):
            header = _tcp(b, s, n, o, end, row)
        else:
            header = U64(8)
            if n >= o + U64(6):  # a UDP length that fits tells padding from payload
                length = u16(b, s + o + U64(4))
                if length >= U64(8) and o + length < end:
                    stop = o + length
    else:
        verdict, header = _other(b, s, n, protocol, o, row)
        if verdict != OK:
            return verdict
    begin = min(o + header, end)  # so may a data offset, or a header was sent in part
    row["payload"] = begin
    row["payload_octets"] = stop - begin if stop > begin else U64(0)
    return OK
