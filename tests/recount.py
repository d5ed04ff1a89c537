"""The frames of a capture, as traceflow sees them, to be counted again by the rules of another tool.

The opinions of nDPI, Arkime and tcptrace are compared flow by flow. Where a tool counts by another rule, the rule is
written down as a function from frames to frames: it leaves frames out, puts them into other flows, or counts other
octets. A difference is explained when the frames, put through the rule, give exactly the numbers of the tool. A rule
looks at frames only, never at what the tool says.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol

from traceflow.flows import FlowSet
from traceflow.options import options_for
from traceflow.packets import Batch
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58

End = tuple[str, int]
"""Address and port."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A frame and the flow that counts it.

    Attributes:
        number: From 1.
        flow: What frames of one flow have in common: the number of the flow, until a rule says something else.
        protocol: IANA number; 0 for a frame in no flow.
        src: The sending end, with the ports of the flow (a later fragment has none of its own).
        dst: The other end.
        counted: Octets that the frame counts.
        data: Octets behind the TCP or UDP header.
        time_ns: Packet time.
        wire: Octets on the wire, as recorded.
        octets: Those that were captured.
        packet: PACKET fields by name.
    """

    number: int
    flow: Hashable
    protocol: int
    src: End
    dst: End
    counted: int
    data: int
    time_ns: int
    wire: int
    octets: bytes
    packet: dict[str, Any]

    def but(self, **changes: Any) -> Frame:
        """The same frame with something changed."""
        return dataclasses.replace(self, **changes)

    def u16(self, at: int) -> int:
        """Two octets, 0 where they were not captured."""
        return int.from_bytes(self.octets[at : at + 2], "big") if len(self.octets) >= at + 2 else 0


class Side(NamedTuple):
    """One end of a flow and what it sent."""

    end: End
    packets: int
    octets: int


Sides = tuple[int, Side, Side]
"""Protocol, and what the two ends of a flow sent, in the order of the ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A rule by which another tool counts.

    Attributes:
        frames: From frames in ascending order to frames in ascending order.
        rows: From the flows that the tool lists to others, where its own marks say which belong together.
    """

    frames: Callable[[list[Frame]], list[Frame]] = lambda frames: frames
    rows: Callable[[list[Any]], list[Any]] = lambda rows: rows


class Difference(NamedTuple):
    """A line of corpus/differences.tsv: where flows and packets of another tool are not ours, and by which rules."""

    tool: str
    capture: str
    rules: str
    flows: str
    their_flows: str
    packets: str
    their_packets: str


def listed(tool: str) -> dict[str, Difference]:
    """The lines of corpus/differences.tsv that are about a tool, by capture."""
    with (Path(__file__).parent / "corpus" / "differences.tsv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert tuple(lines[0]) == Difference._fields
    found = [Difference(*line) for line in lines[1:]]
    return {line.capture: line for line in found if line.tool == tool}


def captures_by_rule(tool: str) -> Counter[str]:
    """How many captures are listed under each rule of a tool."""
    return Counter(rule for line in listed(tool).values() for rule in line.rules.split())


def documented(page: Path, tool: str) -> Counter[str]:
    """What docs/differences.md says of it: rows `| rule | captures | ...` under the heading of the tool."""
    text = page.read_text("utf-8")
    section = text[text.index(f"\n## {tool}\n") :].partition("\n## ")[2].partition("\n## ")[0]
    return Counter({name: int(number) for name, number in re.findall(r"^\| `([\w-]+)` \| (\d+) \|", section, re.M)})


class Opinion(Protocol):
    """How a tool is compared: its rules in the order in which they apply, and what differs without them."""

    rules: ClassVar[dict[str, Rule]]

    def faults(self, frames: list[Frame], rows: list[Any]) -> list[str]:
        """What differs between our frames and the flows that the tool lists."""
        ...

    def totals(self, rows: list[Any]) -> tuple[int, int]:
        """Flows and packets that the tool lists."""
        ...


def judged(opinion: Opinion, capture: str, frames: list[Frame], rows: list[Any], line: Difference | None) -> list[str]:
    """What is wrong with a capture: a difference that is not listed, or a line that is stale or does not explain it."""
    plain = opinion.faults(frames, rows)
    if line is None:
        return [f"{capture}: {fault}" for fault in plain]
    numbers = (*ours(frames), *opinion.totals(rows))
    wanted = (line.flows, line.packets, line.their_flows, line.their_packets)
    wrong = [] if tuple(map(str, numbers)) == wanted else [f"flows, packets, and theirs are {numbers}"]
    if not plain:
        wrong.append("is listed, but nothing differs")
    names = line.rules.split()

    def left(without: str = "") -> list[str]:
        some, other = frames, rows
        for name, rule in opinion.rules.items():
            if name in names and name != without:
                some, other = rule.frames(some), rule.rows(other)
        return opinion.faults(some, other)

    wrong += [f"{name} is no rule" for name in names if name not in opinion.rules]
    wrong += left()
    wrong += [f"does not need {name}" for name in names if not left(without=name)]
    return [f"{capture}: {fault}" for fault in wrong]


def frames_of(source: Path | BinaryIO, **options: Any) -> tuple[FlowSet, list[Frame]]:
    """Trace a capture: its flows, and all its frames in ascending order."""
    rows: list[tuple[int, int, bytes, dict[str, Any]]] = []
    with open_source(source) as captures:
        run = Run(captures, options_for(**options))
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            if step.batch is not None:
                rows += _rows(step.batch, step.packets)
        flows = collector.flows()
    frames = {number: _frame(number, row) for number, row in enumerate(rows, 1)}
    for flow in flows:
        orig, resp = (str(flow.orig_addr), flow.orig_port or 0), (str(flow.resp_addr), flow.resp_port or 0)
        for src, dst, side in ((orig, resp, "orig"), (resp, orig, "resp")):
            for number in flow.frames_from(side).tolist():
                data = frames[number].packet["payload_octets"]
                frames[number] = frames[number].but(
                    flow=flow.number, protocol=flow.protocol, src=src, dst=dst, data=data
                )
    return flows, list(frames.values())


def _rows(batch: Batch, packets: Any) -> Iterator[tuple[int, int, bytes, dict[str, Any]]]:
    names = packets.dtype.names
    for frame, packet in zip(batch.frames, packets, strict=True):
        start = int(frame["start"])
        octets = batch.octets[start : start + int(frame["captured"])].tobytes()
        yield int(frame["time_ns"]), int(frame["wire"]), octets, dict(zip(names, packet.item(), strict=True))


def _frame(number: int, row: tuple[int, int, bytes, dict[str, Any]]) -> Frame:
    time_ns, wire, octets, packet = row
    return Frame(number, None, 0, ("", 0), ("", 0), wire, 0, time_ns, wire, octets, packet)


def by_flow(frames: Iterable[Frame]) -> list[list[Frame]]:
    """The frames of each flow; frames in no flow are left out."""
    flows: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        if frame.flow is not None:
            flows.setdefault(frame.flow, []).append(frame)
    return list(flows.values())


def sides(flow: list[Frame]) -> Sides:
    """What the ends of a flow sent."""
    ends: dict[End, list[int]] = {}
    for frame in flow:
        ends.setdefault(frame.dst, [0, 0])
        sent = ends.setdefault(frame.src, [0, 0])
        sent[0] += 1
        sent[1] += frame.counted
    both = sorted(Side(end, *sent) for end, sent in ends.items())
    return flow[0].protocol, both[0], both[-1]


def sides_of_columns(flows: FlowSet) -> Counter[Sides]:
    """The same from the columns of the flows, which must agree with their frames."""
    found: Counter[Sides] = Counter()
    for flow in flows:
        orig = Side((str(flow.orig_addr), flow.orig_port or 0), flow.orig.packets, flow.orig.wire_octets)
        resp = Side((str(flow.resp_addr), flow.resp_port or 0), flow.resp.packets, flow.resp.wire_octets)
        if orig.end == resp.end:
            resp = orig = Side(orig.end, orig.packets + resp.packets, orig.octets + resp.octets)
        found[(flow.protocol, *sorted((orig, resp)))] += 1
    return found


def ours(frames: list[Frame]) -> tuple[int, int]:
    """Flows, and packets in them."""
    flows = by_flow(frames)
    return len(flows), sum(map(len, flows))


def first_differences(mine: Counter[Any], theirs: Counter[Any]) -> list[str]:
    """Up to three of each side: a failed test should fit on a screen."""
    sides = (("ours", mine - theirs), ("theirs", theirs - mine))
    return [f"only {side}: {str(key)[:200]}" for side, more in sides for key in list(more)[:3]]


def without_icmp_ids(frames: list[Frame]) -> list[Frame]:
    """Tools that put all ICMP between two hosts into one flow; here each query has a flow of its own, by its id."""
    return [
        frame.but(flow=("icmp", frozenset((frame.src[0], frame.dst[0]))), src=(frame.src[0], 0), dst=(frame.dst[0], 0))
        if frame.protocol in (ICMP, ICMP6)
        else frame
        for frame in frames
    ]
