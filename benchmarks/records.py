"""How a made-up frame lies in a capture file: rows of NumPy with a column a field, checksums, heads of files.

A row is the record header of classic pcap and the headers of one frame behind it, so an array of rows is what stands in
the file. Payload is not captured, or zeros: checksums are for a payload of zeros. Nothing here chooses what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "EVERYTHING",
    "HEADER_OCTETS",
    "IP6_RECORD",
    "NG_RECORD",
    "RECORD",
    "START_S",
    "UDP_RECORD",
    "Ints",
    "Rows",
    "as_ip6_vlan",
    "as_ng",
    "empty_rows",
    "file_header",
    "folded",
    "ng_header",
    "seal",
    "words",
    "write_rows",
]

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]

START_S = 1_700_000_000
HEADER_OCTETS = 54
"""Ethernet, IPv4 and TCP without options: the snaplen of captures without payload."""
EVERYTHING = 65_535
"""A snaplen that cuts nothing here."""
TCP, UDP = 6, 17
_ETHERNET, _IP4, _IP6, _VLAN = 1, 0x0800, 0x86DD, 0x8100

_PCAP = [("seconds", "<u4"), ("microseconds", "<u4"), ("captured", "<u4"), ("wire", "<u4")]
_MACS = [("ether_dst", "u1", (6,)), ("ether_src", "u1", (6,))]
_IP4_HEADER = [  # RFC 791
    ("version_length", "u1"),
    ("service", "u1"),
    ("ip_octets", ">u2"),
    ("ident", ">u2"),
    ("fragment", ">u2"),
    ("ttl", "u1"),
    ("protocol", "u1"),
    ("ip_checksum", ">u2"),
    ("src", ">u4"),
    ("dst", ">u4"),
]
_PORTS = [("src_port", ">u2"), ("dst_port", ">u2")]
_TCP_HEADER = [  # RFC 9293
    *_PORTS,
    ("seq", ">u4"),
    ("ack", ">u4"),
    ("data_offset", "u1"),
    ("flags", "u1"),
    ("window", ">u2"),
    ("tcp_checksum", ">u2"),
    ("urgent", ">u2"),
]

RECORD = np.dtype([*_PCAP, *_MACS, ("ether_type", ">u2"), *_IP4_HEADER, *_TCP_HEADER])
"""16 octets of pcap and 54 of headers."""

UDP_RECORD = np.dtype(
    [*_PCAP, *_MACS, ("ether_type", ">u2"), *_IP4_HEADER, *_PORTS, ("udp_octets", ">u2"), ("udp_checksum", ">u2"),
     ("payload", "u1", (18,))]
)  # fmt: skip
"""The smallest frame that Ethernet sends, with UDP (RFC 768): 60 octets."""

IP6_RECORD = np.dtype(
    [*_PCAP, *_MACS, ("ether_type", ">u2"), ("vlan", ">u2"), ("inner_type", ">u2"),
     ("version", ">u4"), ("payload_octets", ">u2"), ("protocol", "u1"), ("ttl", "u1"),
     ("src_prefix", ">u4", (3,)), ("src", ">u4"), ("dst_prefix", ">u4", (3,)), ("dst", ">u4"), *_TCP_HEADER]
)  # fmt: skip
"""As RECORD, over IPv6 (RFC 8200) behind a VLAN tag (IEEE 802.1Q): 78 octets of headers."""

NG_RECORD = np.dtype(
    [("type", "<u4"), ("octets", "<u4"), ("interface", "<u4"), ("time_high", "<u4"), ("time_low", "<u4"),
     ("captured", "<u4"), ("wire", "<u4"), ("frame", "u1", (HEADER_OCTETS,)), ("padding", "u1", (2,)),
     ("octets_again", "<u4")]
)  # fmt: skip
"""An enhanced packet block of pcapng around the frame of a RECORD."""

_PREFIX = (0x2001_0DB8, 0, 0)
"""Of IPv6 addresses: 2001:db8::/32 is for documentation (RFC 3849); the last 32 bits are the IPv4 address."""
_FIRST_VLAN, _VLANS = 100, 8


def folded(sums: Ints) -> Ints:
    """The Internet checksum (RFC 1071) of sums of 16-bit words."""
    for _ in range(3):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return ~sums & 0xFFFF


def words(numbers: Ints) -> Ints:
    """The two 16-bit words of 32-bit numbers, added."""
    return (numbers >> 16) + (numbers & 0xFFFF)


def empty_rows(dtype: np.dtype[np.void], count: int) -> Rows:
    """Rows in which only times, ends, numbers, flags and lengths are left to be filled in."""
    rows = np.zeros(count, dtype)
    udp = "udp_octets" in (dtype.names or ())
    rows["captured"] = rows["wire"] = captured = dtype.itemsize - 16
    rows["ether_dst"], rows["ether_src"] = (2, 0, 0, 0, 0, 0xA), (2, 0, 0, 0, 0, 0xB)  # locally administered
    rows["ether_type"], rows["version_length"] = _IP4, 0x45
    rows["fragment"], rows["ttl"] = 0x4000, 64  # do not fragment
    rows["protocol"] = UDP if udp else TCP
    rows["ip_octets"] = captured - 14
    if udp:
        rows["udp_octets"] = captured - 34
    else:
        rows["data_offset"], rows["window"] = 0x50, 64_240
    return rows


def seal(rows: Rows) -> Rows:
    """Fill in both checksums of RECORD or UDP_RECORD rows, all else being there."""

    def of(name: str) -> Ints:
        return rows[name].astype(np.int64)

    addresses = words(of("src")) + words(of("dst"))
    lengths = of("ip_octets")
    head = 0x4500 + lengths + of("ident") + of("fragment")
    rows["ip_checksum"] = folded(head + (of("ttl") << 8) + of("protocol") + addresses)
    sums = addresses + of("protocol") + lengths - 20 + of("src_port") + of("dst_port")
    if "udp_octets" in (rows.dtype.names or ()):
        checksum = folded(sums + of("udp_octets"))
        rows["udp_checksum"] = np.where(checksum == 0, 0xFFFF, checksum)
    else:
        segment = words(of("seq")) + words(of("ack")) + (of("data_offset") << 8) + of("flags") + of("window")
        rows["tcp_checksum"] = folded(sums + segment)
    return rows


def as_ip6_vlan(rows: Rows) -> Rows:
    """RECORD rows as IP6_RECORD: ends, sizes and times are the same; both directions of a flow have one VLAN."""
    made = np.zeros(len(rows), IP6_RECORD)
    for name in ("seconds", "microseconds", "ether_dst", "ether_src", "protocol", "ttl", "src", "dst"):
        made[name] = rows[name]
    for name, _ in _TCP_HEADER:
        made[name] = rows[name]
    more = IP6_RECORD.itemsize - RECORD.itemsize
    made["captured"], made["wire"] = rows["captured"] + more, rows["wire"] + more
    made["ether_type"], made["inner_type"], made["version"] = _VLAN, _IP6, 6 << 28
    made["vlan"] = _FIRST_VLAN + (rows["src_port"].astype(np.int64) + rows["dst_port"]) % _VLANS
    made["payload_octets"] = rows["ip_octets"] - 20
    made["src_prefix"] = made["dst_prefix"] = _PREFIX
    # the pseudo-header has the same sum but for the prefix, which stands there twice
    sums = ~rows["tcp_checksum"].astype(np.int64) & 0xFFFF
    made["tcp_checksum"] = folded(sums + 2 * ((_PREFIX[0] >> 16) + (_PREFIX[0] & 0xFFFF)))
    return made


def as_ng(rows: Rows) -> Rows:
    """RECORD rows as NG_RECORD; time stamps in microseconds."""
    made = np.zeros(len(rows), NG_RECORD)
    times_us = rows["seconds"].astype(np.uint64) * np.uint64(1_000_000) + rows["microseconds"]
    made["type"], made["octets"], made["octets_again"] = 6, NG_RECORD.itemsize, NG_RECORD.itemsize
    made["time_high"], made["time_low"] = times_us >> np.uint64(32), times_us & np.uint64(0xFFFF_FFFF)
    made["captured"], made["wire"] = rows["captured"], rows["wire"]
    made["frame"] = rows.view(np.uint8).reshape(len(rows), -1)[:, 16:]
    return made


def file_header(snaplen: int) -> bytes:
    """The head of a classic pcap file of Ethernet frames, little-endian, microseconds."""
    return np.array([0xA1B2C3D4, 2 | 4 << 16, 0, 0, snaplen, _ETHERNET], "<u4").tobytes()


def ng_header(snaplen: int) -> bytes:
    """Section header and one interface of Ethernet, whose time stamps are microseconds for want of an option."""
    section = np.array([0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0xFFFF_FFFF, 0xFFFF_FFFF, 28], "<u4")
    return section.tobytes() + np.array([1, 20, _ETHERNET, snaplen, 20], "<u4").tobytes()


def write_rows(path: Path, head: bytes, pieces: Iterable[npt.NDArray[Any]]) -> int:
    """Write a file piece by piece.

    Args:
        path: The file.
        head: What stands before the rows.
        pieces: An iterable of arrays.

    Returns:
        The number of rows.
    """
    count = 0
    with path.open("wb") as out:
        out.write(head)
        for rows in pieces:
            out.write(rows.data)
            count += len(rows)
    return count
