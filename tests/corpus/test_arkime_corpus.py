"""Arkime and traceflow see the same sessions, frame by frame.

Of 99 captures of Arkime's own tests, ../shared/oracle/arkime_sessions.jsonl has what those tests expect: ends, packets
and octets of each direction, payload octets of UDP, and the frame numbers of each session. (Of TCP Arkime counts the
payload that it reassembled, and of other protocols not always the same.) Four sessions have fewer frame numbers than
packets (their tests run with settings that save fewer); of these all the rest is compared. Arkime cuts a TCP session
where a new SYN comes, not at its close; so does traceflow here.
Differences: differences.tsv, docs/differences.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

from recount import (
    UDP,
    End,
    Frame,
    Rule,
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

from traceflow.flows import FlowSet
from traceflow.packets import Verdict

ROOT = Path(__file__).resolve().parents[2]
NO_END: End = ("", 0)
IDLE_OTHER_NS = 60 * 10**9
"""After what silence a UDP session of Arkime ends; with 50 s or 90 s, the two captures that show it would differ."""
IGMP, PIM = 2, 103
DHCP_PORTS, DHCP6_PORTS = {67, 68}, {546, 547}


Amounts = tuple[int, ...]
"""Packets, octets and, of UDP, payload octets."""


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """A session that Arkime saves.

    Attributes:
        protocol: IANA number, 0 where it has no IP.
        src: The end that sent first.
        dst: The other one.
        sent: What each of them sent.
        frames: Frame numbers; fewer than packets where not all were saved.
        segment: From 2 on: a further piece of a session that was saved before.
    """

    protocol: int
    src: End
    dst: End
    sent: tuple[Amounts, Amounts]
    frames: tuple[int, ...]
    segment: int

    @property
    def packets(self) -> int:
        return self.sent[0][0] + self.sent[1][0]

    @property
    def key(self) -> tuple[Hashable, ...]:
        return self.protocol, *sorted(zip((self.src, self.dst), self.sent, strict=True))

    def joined(self, other: Session) -> Session:
        assert {self.src, self.dst} == {other.src, other.dst}
        theirs = other.sent if other.src == self.src else other.sent[::-1]
        here, there = (tuple(map(sum, zip(*pair, strict=True))) for pair in zip(self.sent, theirs, strict=True))
        return dataclasses.replace(self, sent=(here, there), frames=tuple(sorted(self.frames + other.frames)))


def session_of_row(row: dict[str, Any]) -> Session:
    src, dst = ((row[end] or "", row[port] or 0) for end, port in (("src", "sport"), ("dst", "dport")))
    here, there = (
        (row[f"{side}_pkts"], row[f"{side}_bytes"], row[f"{role}_data"] if row["ip_proto"] == UDP else 0)
        for side, role in (("src", "client"), ("dst", "server"))
    )
    return Session(row["ip_proto"], src, dst, (here, there), tuple(row["frames"]), row["segment"])


def sessions(shared: Path) -> dict[str, list[Session]]:
    """The sessions of each capture."""
    captures: dict[str, list[Session]] = {}
    with (shared / "oracle" / "arkime_sessions.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            captures.setdefault(row["path"], []).append(session_of_row(row))
    return captures


def session_of_frames(flow: list[Frame]) -> Session:
    first = flow[0]
    sent = {first.dst: [0, 0, 0], first.src: [0, 0, 0]}
    for frame in flow:
        for at, count in enumerate((1, frame.counted, frame.data if frame.protocol == UDP else 0)):
            sent[frame.src][at] += count
    back = tuple(sent[first.dst]) if first.dst != first.src else (0, 0, 0)
    both: tuple[Amounts, Amounts] = (tuple(sent[first.src]), back)
    return Session(first.protocol, first.src, first.dst, both, tuple(frame.number for frame in flow), 1)


def frames_without_ip(frames: list[Frame]) -> list[Frame]:
    """Frames without IP (ARP, LLDP, ...) have sessions of their own; all of them are taken together here."""
    return [
        frame.but(flow="no ip", src=NO_END, dst=NO_END) if frame.packet["verdict"] == Verdict.NOT_IP else frame
        for frame in frames
    ]


def sessions_without_ip(rows: list[Session]) -> list[Session]:
    """And so are the sessions, which Arkime tells apart by what is in them."""
    rest, bare = [row for row in rows if row.protocol], [row for row in rows if not row.protocol]
    if bare:
        packets, octets = (sum(row.sent[0][at] for row in bare) for at in (0, 1))
        numbers = tuple(sorted(number for row in bare for number in row.frames))
        rest.append(Session(0, NO_END, NO_END, ((packets, octets, 0), (0, 0, 0)), numbers, 1))
    return rest


def pieces(rows: list[Session]) -> list[Session]:
    """A session that is open for long is saved in pieces, which Arkime numbers."""
    whole: list[Session] = []
    for row in rows:
        if row.segment > 1:
            at = max(i for i, one in enumerate(whole) if {one.src, one.dst} == {row.src, row.dst})
            whole[at] = whole[at].joined(row)
        else:
            whole.append(row)
    return whole


def one_of_protocol(frames: list[Frame]) -> list[Frame]:
    """All IGMP is one session, and all PIM, sent by the one who sent first."""
    first: dict[int, Frame] = {}

    def merged(frame: Frame) -> Frame:
        if frame.protocol not in (IGMP, PIM):
            return frame
        ends = first.setdefault(frame.protocol, frame)
        return frame.but(flow=("all of", frame.protocol), src=ends.src, dst=ends.dst)

    return [merged(frame) for frame in frames]


def by_client(frames: list[Frame]) -> list[Frame]:
    """DHCP is told apart by the client's hardware address, DHCPv6 by the transaction, not by address.

    (RFC 2131, 2: `chaddr` at 28; RFC 8415, 8: transaction id at 1.) Ends are those of the first frame.
    """
    first: dict[Hashable, dict[int, End]] = {}

    def merged(frame: Frame) -> Frame:
        ports, at = {frame.src[1], frame.dst[1]}, int(frame.packet["payload"])
        if frame.protocol != UDP or ports not in (DHCP_PORTS, DHCP6_PORTS):
            return frame
        flow = frame.octets[at + 28 : at + 34] if ports == DHCP_PORTS else frame.octets[at + 1 : at + 4]
        ends = first.setdefault(flow, {end[1]: end for end in (frame.src, frame.dst)})
        return frame.but(flow=flow, src=ends[frame.src[1]], dst=ends[frame.dst[1]])

    return [merged(frame) for frame in frames]


def late_idle_timeout(frames: list[Frame]) -> list[Frame]:
    """UDP sessions end after 60 s of silence, but when a frame comes, what is due ends only after it.

    So a session that is silent for longer goes on, if its next frame is the first to come after that minute.
    """
    last_ns: dict[Hashable, int] = {}
    ended: Counter[Hashable] = Counter()
    found = []
    for frame in frames:
        found.append(frame.but(flow=(frame.flow, ended[frame.flow])) if frame.protocol == UDP else frame)
        if frame.protocol == UDP:
            last_ns[frame.flow] = frame.time_ns
        for flow in [flow for flow, seen_ns in last_ns.items() if frame.time_ns - seen_ns > IDLE_OTHER_NS]:
            ended[flow] += 1
            del last_ns[flow]
    return found


class Arkime:
    """The opinion of Arkime; a row is a Session."""

    rules: ClassVar[dict[str, Rule]] = {
        "not-ip": Rule(frames_without_ip, sessions_without_ip),
        "pieces": Rule(rows=pieces),
        "icmp-id": Rule(without_icmp_ids),
        "one-of-protocol": Rule(one_of_protocol),
        "dhcp-client": Rule(by_client),
        "late-idle": Rule(late_idle_timeout),
    }

    def faults(self, frames: list[Frame], rows: list[Session]) -> list[str]:
        mine = Counter((one.key, one.frames) for one in map(session_of_frames, by_flow(frames)))
        whole = Counter((row.key, row.frames) for row in rows if len(row.frames) == row.packets)
        rest = Counter(row.key for row in rows if len(row.frames) != row.packets)
        unnumbered = Counter(key for key, _ in (mine - whole).elements())
        if not whole - mine and unnumbered == rest:
            return []
        return first_differences(mine, whole) + first_differences(unnumbered, rest)

    def totals(self, rows: list[Session]) -> tuple[int, int]:
        return len(rows), sum(row.packets for row in rows)


def traced(shared: Path, capture: str) -> tuple[FlowSet, list[Frame]]:
    return frames_of(shared / "corpus" / capture, tcp_end="never", idle_timeout_tcp_ns=None, idle_timeout_other_ns=None)


def test_arkime_sees_the_same_sessions(shared: Path) -> None:
    lines, wrong, with_frames = listed("Arkime"), [], 0
    captures = sessions(shared)
    for capture, rows in captures.items():
        flows, frames = traced(shared, capture)
        assert sides_of_columns(flows) == Counter(map(sides, by_flow(frames))), capture
        wrong += judged(Arkime(), capture, frames, rows, lines.pop(capture, None))
        with_frames += sum(len(row.frames) == row.packets for row in rows)
    assert wrong == []
    assert lines == {}, "captures that the oracle does not have"
    assert (len(captures), with_frames) == (99, 193)


def test_the_docs_count_the_rules_of_arkime() -> None:
    assert set(captures_by_rule("Arkime")) == set(Arkime.rules)
    assert documented(ROOT / "docs" / "differences.md", "Arkime") == captures_by_rule("Arkime")
