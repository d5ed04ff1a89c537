"""What `tcpdump -r FILE EXPR` lets through of the captures beside the checkout, held against our filters.

Used by test_bpf.py (captures of fixtures/) and corpus/test_tcpdump_corpus.py. tcpdump writes what it lets through as a
capture; compared are, frame by frame in their order, both lengths and the octets. Where tcpdump reads less of a file
than we do (cut and broken files, several link types in one), both are compared as far as both go.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.errors import UsageError
from traceflow.filters.bpf import Expression
from traceflow.sources import open_source

TCPDUMP = shutil.which("tcpdump")

EXPRESSIONS = (
    # hosts, nets, ports
    "host 10.0.0.1",
    "src host 10.0.0.1 or dst host 192.168.1.1",
    "net 192.168.0.0/16",
    "src net 10.0.0.0/8 and not dst net 10.0.0.0/8",
    "ip6 host ::1",
    "net 2000::/3",
    "port 53",
    "tcp port 80",
    "src port 443 or dst port 443",
    "udp portrange 1-1024",
    "tcp dst portrange 1024-65535",
    "sctp",
    # protocols
    "",
    "ip",
    "ip6",
    "arp or rarp",
    "tcp",
    "udp and ip6",
    "icmp or icmp6",
    "icmp[icmptype] == icmp-echo or icmp6[icmp6type] == 135",
    "igmp or pim or vrrp",
    "esp or ah",
    "ip proto 47 or ip proto 4 or ip proto 41",
    "ip6 proto 6",
    "ip protochain 6",
    "ip6 protochain 6",
    "not ip and not ip6",
    # link layer
    "ether broadcast or ether multicast",
    "ether proto 0x88cc",
    "ether[0] & 1 != 0 and ether[12:2] > 1500",
    "link[0] == 0",
    "vlan",
    "vlan 1 or vlan 100",
    "vlan and vlan and ip",
    "vlan and tcp port 80",
    "mpls",
    "mpls and mpls and ip",
    "pppoed",
    "pppoes and ip",
    "pppoes and tcp",
    "geneve",
    "atalk or aarp",
    "iso",
    "stp or netbeui or ipx",
    "llc",
    "llc s or llc u",
    "wlan type mgt",
    "wlan type data subtype qos-data",
    "wlan addr1 ff:ff:ff:ff:ff:ff",
    "dir fromds or dir tods",
    "inbound",
    "outbound",
    "fisu or lssu or msu",
    "lane or oamf4",
    "ether host 00:00:00:00:00:00",
    "ip broadcast or ip multicast",
    "ip6 multicast",
    # sizes and arithmetic
    "len > 100",
    "greater 1000",
    "less 60",
    "len != 60 and len - 14 >= 46",
    "ip[0] & 0xf != 5",
    "ip[2:2] > len",
    "ip[6:2] & 0x1fff != 0",
    "ip[8] < 5 and ip[8] != 1",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) != 0",
    "udp[4:2] * 3 / 2 % 7 = 1",
    "udp[8:2] ^ 0xffff < 4000 or -ip[4:2] > 4294900000",
    "ip6[6] = 44 or ip6[40] = 6",
    "ip[ip[0] & 0xf] > 100 or ip[20:4] | 1 = 1",
    "ip src net 10.0.0.0 mask 255.0.0.0",
    "(tcp or udp) and not port 53 and not (host 10.0.0.1 and port 80)",
)
"""Everything that the language has and that names nothing of one machine (services, interfaces, PF's rules)."""


@dataclass(slots=True)
class Found:
    """What came of some captures.

    Attributes:
        captures: Those that both read something of.
        comparisons: Pairs of capture and expression that both judged.
        refused: Pairs for which libpcap has no program, by both.
        frames: Frames judged, over all comparisons.
        kept: Those let through.
        differences: (capture, expression, what).
    """

    captures: int = 0
    comparisons: int = 0
    refused: int = 0
    frames: int = 0
    kept: int = 0
    differences: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Frames:
    """The frames of a capture: both lengths and a digest of the octets of each, in their order."""

    rows: list[tuple[int, int, bytes]]

    def equal(self, other: Frames, *, octets: bool) -> bool:
        """Whether both have the same frames; without `octets` only the lengths count."""
        if octets:
            return self.rows == other.rows
        return [row[:2] for row in self.rows] == [row[:2] for row in other.rows]


def written(octets: bytes) -> Frames:
    """The frames of a capture as tcpdump writes it: pcap 2.4 in the order of this machine."""
    order = "<" if octets[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at, rows = 24, []
    while at + 16 <= len(octets):
        captured, wire = struct.unpack_from(f"{order}II", octets, at + 8)
        at += 16
        rows.append((captured, wire, _digest(octets[at : at + captured])))
        at += captured
    return Frames(rows)


def _digest(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=8).digest()


def tcpdump(path: Path, expression: str) -> tuple[Frames | None, str]:
    """What tcpdump lets through of a capture; None where it wrote nothing at all. And its last words."""
    assert TCPDUMP is not None
    words = [TCPDUMP, "-n", "-r", str(path), "-w", "-", *([expression] if expression else [])]
    done = subprocess.run(words, capture_output=True, check=False, timeout=600)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return (written(done.stdout) if len(done.stdout) >= 24 else None), (said[-1] if said else "")


@dataclass(slots=True)
class Loaded:
    """A capture in memory: batches that keep their octets."""

    batches: list[Any]
    frames: Frames
    limits: list[npt.NDArray[np.uint32]]

    def kept(self, keeps: list[npt.NDArray[np.bool_]], first: int) -> Frames:
        """The frames that were let through, of the first `first`."""
        keep = np.concatenate(keeps)[:first] if keeps else np.zeros(0, np.bool_)
        return Frames([self.frames.rows[at] for at in np.flatnonzero(keep).tolist()])


def loaded(path: Path) -> Loaded:
    """Read a capture. libpcap cuts frames to what the file says is the longest, and what is compared is cut as well."""
    batches, rows = [], []
    with open_source(path) as captures:
        for batch in captures.batches():
            octets, frames = batch.octets.copy(), batch.frames.copy()
            batches.append(type(batch)(octets, frames, batch.first_number, batch.first_in_file))
            data = octets.tobytes()
            for frame in frames:
                most = captures.interfaces[int(frame["interface"])].snaplen or 2**32 - 1
                start, captured = int(frame["start"]), min(int(frame["captured"]), most)
                rows.append((captured, int(frame["wire"]), _digest(data[start : start + captured])))
    cuts = np.array([row[0] for row in rows], np.uint32)
    return Loaded(batches, Frames(rows), np.split(cuts, np.cumsum([len(batch.frames) for batch in batches])[:-1]))


def compare(path: Path, name: str, found: Found, expressions: tuple[str, ...] = EXPRESSIONS) -> None:
    """Compare a capture, and count what came of it."""
    ours = loaded(path)
    everything, _ = tcpdump(path, "")
    if everything is None or not everything.rows or not ours.frames.rows:
        return
    count = len(everything.rows)
    head = Frames(ours.frames.rows[:count])
    if not head.equal(everything, octets=False):
        found.differences.append((name, "", "the frames themselves differ, before any filter"))
        return
    octets = head.equal(everything, octets=True)  # libpcap turns the octets of some headers around (USB, NFLOG)
    found.captures += 1
    for text in expressions:
        theirs, said = tcpdump(path, text)
        _judge(name, text, ours, theirs, said, count, octets, found)


def _judge(
    name: str, text: str, ours: Loaded, theirs: Frames | None, said: str, count: int, octets: bool, found: Found
) -> None:
    """Compare what both let through of the first `count` frames."""
    try:
        expression = Expression(text)
        keeps = [
            expression.select(batch, np.arange(len(batch.frames), dtype=np.uint32), limits)
            for batch, limits in zip(ours.batches, ours.limits, strict=True)
        ]
    except UsageError as error:
        found.differences.append((name, text, f"we refuse it: {error}; tcpdump: {said}"))
        return
    first = ours.batches[0].frames["link"][0]
    mine = ours.kept(keeps, count)
    if theirs is None:
        if int(first) in expression.failures or ("rejects all packets" in said and not mine.rows):
            found.refused += 1
        else:
            found.differences.append((name, text, f"tcpdump refuses it: {said}; we let {len(mine.rows)} through"))
        return
    found.comparisons += 1
    found.frames += count
    found.kept += len(mine.rows)
    if not mine.equal(theirs, octets=octets):
        found.differences.append((name, text, f"{len(mine.rows)} of {count} pass, tcpdump: {len(theirs.rows)}"))


def captures(folder: Path) -> list[Path]:
    """All pcap and pcapng captures of a folder that are not compressed, by name."""
    magic = {bytes.fromhex(m) for m in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "0a0d0d0a", "34cdb2a1")}
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) in magic:
                    found.append(path)
    return found
