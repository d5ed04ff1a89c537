"""nDPI and traceflow see the same flows: protocol, ends, packets and octets of each direction.

Of 238 captures of nDPI's own tests, ../shared/oracle/ndpi_flows.jsonl has what `ndpiReader` printed. nDPI never ends a
flow on FIN, RST or SYN, so neither does traceflow here; VLAN ids are in the key of both. Differences: differences.tsv,
docs/differences.md.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from recount import (
    ICMP,
    ICMP6,
    TCP,
    UDP,
    End,
    Frame,
    Rule,
    Side,
    Sides,
    by_flow,
    captures_by_rule,
    documented,
    first_differences,
    frames_of,
    judged,
    listed,
    sides,
    sides_of_columns,
    without_icmp_ids,
)

from traceflow.packets import FRAGMENT, Verdict

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "ICMP": ICMP, "ICMPV6": ICMP6, "IGMP": 2, "ESP": 50}
FABRIC_PATH = 0x8903
CAPWAP_DATA = 5247
LEAST_HEADER = {TCP: 20, UDP: 8}


def end_of(text: str) -> End:
    """`10.0.0.1:80`, `[2001:db8::1]:53`; protocols without ports have 0."""
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def printed(end: End) -> End:
    """nDPI shortens every `:0:` of an IPv6 address to `::`."""
    return end[0].replace(":0:", "::"), end[1]


def captured_octets(frames: list[Frame]) -> list[Frame]:
    """Octets are those that were captured, not those on the wire."""
    return [frame.but(counted=len(frame.octets)) for frame in frames]


def ip_at(frame: Frame) -> int:
    return int(frame.packet["link_octets"])


def no_cut_ip(frames: list[Frame]) -> list[Frame]:
    """An IP packet that is longer than what was captured of it belongs to no flow."""

    def needed(frame: Frame) -> int:
        at = ip_at(frame)
        length = {4: frame.u16(at + 2), 6: frame.u16(at + 4) + 40}
        return at + length.get(frame.packet["ip_version"], 0)

    return [frame for frame in frames if needed(frame) <= len(frame.octets)]


def no_later_fragments(frames: list[Frame]) -> list[Frame]:
    """Only the first fragment of a datagram belongs to a flow."""

    def offset(frame: Frame) -> int:
        if not frame.packet["bits"] & FRAGMENT:
            return 0
        at = frame.packet["fragment_at"]
        return frame.u16(at + 6) & 0x1FFF if frame.packet["ip_version"] == 4 else frame.u16(at + 2) >> 3

    return [frame for frame in frames if offset(frame) == 0]


def no_fabric_path(frames: list[Frame]) -> list[Frame]:
    """Frames in Cisco FabricPath (EtherType 0x8903) belong to no flow."""
    return [frame for frame in frames if frame.u16(12) != FABRIC_PATH]


def short_header(frames: list[Frame]) -> list[Frame]:
    """Where IP carries less than a whole TCP or UDP header, the ports are 0."""

    def ports(frame: Frame) -> Frame:
        at = ip_at(frame)
        if frame.packet["ip_version"] != 4 or frame.protocol not in LEAST_HEADER:
            return frame
        carried = frame.u16(at + 2) - 4 * (frame.octets[at] & 15)
        if carried >= LEAST_HEADER[frame.protocol]:
            return frame
        src, dst = (frame.src[0], 0), (frame.dst[0], 0)
        return frame.but(flow=("short", frozenset((src, dst))), src=src, dst=dst)

    return [ports(frame) for frame in frames]


def any_header_length(frames: list[Frame]) -> list[Frame]:
    """An IPv4 header length below 20 octets is believed, and the ports are read behind it."""

    def believed(frame: Frame) -> Frame:
        at = ip_at(frame)
        if frame.packet["verdict"] != Verdict.MALFORMED_IP or frame.octets[at] not in (0x41, 0x42, 0x43, 0x44):
            return frame
        src, dst = (".".join(map(str, frame.octets[at + i : at + i + 4])) for i in (12, 16))
        ports = at + 4 * (frame.octets[at] & 15)
        ends = (src, frame.u16(ports)), (dst, frame.u16(ports + 2))
        return frame.but(flow=ends, protocol=frame.octets[at + 9], src=ends[0], dst=ends[1])

    return [believed(frame) for frame in frames]


def opened_capwap(frames: list[Frame]) -> list[Frame]:
    """CAPWAP data (RFC 5415, 4.3: UDP 5247, 802.11 with 802.2 inside) is opened, and counts as what it carries."""

    def inner(frame: Frame) -> Frame:
        at = int(frame.packet["payload"])
        if frame.protocol != UDP or CAPWAP_DATA not in (frame.src[1], frame.dst[1]):
            return frame
        at += 4 * (frame.octets[at + 1] >> 3)  # HLEN
        at += 26 if frame.octets[at] & 0x80 else 24  # QoS data has two octets more
        if frame.octets[at : at + 8] != bytes.fromhex("aaaa03000000 0800"):
            return frame
        at += 8
        src, dst = (".".join(map(str, frame.octets[at + i : at + i + 4])) for i in (12, 16))
        ports = at + 4 * (frame.octets[at] & 15)
        ends = (src, frame.u16(ports)), (dst, frame.u16(ports + 2))
        tags = frame.packet["vlan_outer"], frame.packet["vlan_inner"]
        return frame.but(flow=(tags, frozenset(ends)), protocol=frame.octets[at + 9], src=ends[0], dst=ends[1])

    return [inner(frame) for frame in frames]


class Ndpi:
    """The opinion of nDPI; a row is one of its flows."""

    rules: ClassVar[dict[str, Rule]] = {
        "header-length": Rule(any_header_length),
        "fabric-path": Rule(no_fabric_path),
        "cut-ip": Rule(no_cut_ip),
        "later-fragments": Rule(no_later_fragments),
        "capwap": Rule(opened_capwap),
        "short-header": Rule(short_header),
        "icmp-id": Rule(without_icmp_ids),
        "captured-octets": Rule(captured_octets),
    }

    def faults(self, frames: list[Frame], rows: list[Sides]) -> list[str]:
        mine = Counter(
            sides([frame.but(src=printed(frame.src), dst=printed(frame.dst)) for frame in flow])
            for flow in by_flow(frames)
        )
        return first_differences(mine, Counter(rows))

    def totals(self, rows: list[Sides]) -> tuple[int, int]:
        return len(rows), sum(one.packets + (other.packets if other != one else 0) for _, one, other in rows)


def sides_of_row(row: dict[str, Any]) -> Sides:
    a, b = end_of(row["a"]), end_of(row["b"])
    protocol = PROTOCOLS.get(row["proto"]) or int(row["proto"])
    if a == b:
        one = Side(a, row["a2b_pkts"] + row["b2a_pkts"], row["a2b_bytes"] + row["b2a_bytes"])
        return protocol, one, one
    low, high = sorted((Side(a, row["a2b_pkts"], row["a2b_bytes"]), Side(b, row["b2a_pkts"], row["b2a_bytes"])))
    return protocol, low, high


def test_ndpi_sees_the_same_flows(shared: Path) -> None:
    captures: dict[str, dict[str, list[Sides]]] = {}
    with (shared / "oracle" / "ndpi_flows.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            captures.setdefault(row["path"], {}).setdefault(row["cfg"], []).append(sides_of_row(row))
    lines, wrong, frames_in_all = listed("nDPI"), [], 0
    for capture, settings in captures.items():
        first, *others = settings.values()  # nDPI read some captures under several settings, which count the same
        wrong += [f"{capture}: two opinions" for other in others if Counter(other) != Counter(first)]
        flows, frames = frames_of(
            shared / "corpus" / capture,
            tcp_end="never",
            syn_opens=False,
            idle_timeout_tcp_ns=None,
            idle_timeout_other_ns=None,
            key=("vlan",),
        )
        assert sides_of_columns(flows) == Counter(map(sides, by_flow(frames))), capture
        wrong += judged(Ndpi(), capture, frames, first, lines.pop(capture, None))
        frames_in_all += len(frames)
    assert wrong == []
    assert lines == {}, "captures that the oracle does not have"
    assert len(captures) == 238
    assert frames_in_all > 60_000


def test_the_docs_count_the_rules_of_ndpi() -> None:
    assert set(captures_by_rule("nDPI")) == set(Ndpi.rules)
    assert documented(ROOT / "docs" / "differences.md", "nDPI") == captures_by_rule("nDPI")
