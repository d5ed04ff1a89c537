"""What per-flow files are, whether they are written at the end (`flowfiles`) or as frames come (`livefiles`).

Here is every rule that both follow: which formats there are, which directions and link types get a file of their own,
what a pcap file takes from its source, the records of frames, and what `index.json` says. Names are labels, see
`labels.py`; nothing here opens a file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.decode import LINKS
from traceflow.errors import UsageError, suggest
from traceflow.flows import Account, Flow
from traceflow.labels import address_text, direction_label, time_text
from traceflow.packets import FINER_THAN_MICROSECONDS, Interface
from traceflow.protocols import has_ports, protocol_name
from traceflow.sinks import dictdump
from traceflow.sinks.records import frame_record

__all__ = [
    "DEFAULT_BY",
    "ENTRY_SEPARATOR",
    "FORMATS",
    "GROUP_FRAMES",
    "GROUP_OCTETS",
    "INTERRUPTED",
    "Layout",
    "PcapKind",
    "Side",
    "frame_blocks",
    "index_entry",
    "index_pieces",
    "labels_of",
    "layout_of",
    "link_label",
    "pcap_kind",
    "plugin_values",
    "slices",
]

_PCAP_NAMES = ("pcap", "cap")
FORMATS = (*dictdump.FORMATS, *_PCAP_NAMES)
"""Names of the formats."""

DEFAULT_BY = {name: "flow" if name in _PCAP_NAMES else "direction" for name in FORMATS}
"""What gets a file of its own unless said otherwise."""

GROUP_FRAMES = 4096
"""Frames that are read again at once."""
GROUP_OCTETS = 32 << 20
"""Captured octets in memory at once, as long as one frame has not more."""

ENTRY_SEPARATOR = b",\n\t\t"
"""What stands between two entries of the index."""

INTERRUPTED = "interrupted by the user"
"""What the index says where a run was stopped."""

Side = str | None
"""`orig`, `resp`, or None for both."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a run are.

    Attributes:
        format: A name in FORMATS.
        by: `direction` or `flow`: what gets a file.
        pcap: They are pcap files.
        extension: Of their names, with the dot.
    """

    format: str
    by: str
    pcap: bool
    extension: str


def layout_of(format: str, by: str | None) -> Layout:  # noqa: A002 - the name of the option
    """What a user asks for.

    Args:
        format: A name in FORMATS.
        by: `direction`, `flow`, or None: DEFAULT_BY of the format.

    Raises:
        UsageError: An unknown format, or `by`.
    """
    if format not in FORMATS:
        raise UsageError(suggest("format", format, FORMATS))
    by = DEFAULT_BY[format] if by is None else by
    if by not in ("direction", "flow"):
        raise UsageError(suggest("--by", by, ("direction", "flow")))
    pcap = format in _PCAP_NAMES
    return Layout(format, by, pcap, ".pcap" if pcap else dictdump.FORMATS[format][1])


def labels_of(flow: Flow, by: str) -> list[tuple[Side, str]]:
    """What a flow has files for, in the order in which that opened, each with its label."""
    if by == "flow":
        return [(None, flow.label)]
    sides = [side for side in ("orig", "resp") if flow.row[side]["packets"]]
    sides.sort(key=lambda side: int(flow.row[side]["opened_frame"]))
    return [(side, direction_label(flow.row, side)) for side in sides]


def link_label(label: str, link: int) -> str:
    """The name for frames of one link type, in place of the label, where there are several: a pcap file has one."""
    return f"{label}-{LINKS[link]}"


def slices(captured: npt.NDArray[Any], most_frames: int, most_octets: int) -> Iterator[tuple[int, int]]:
    """Cut frames into pieces that fit into memory, each of one frame at least.

    Args:
        captured: Octets of each frame.
        most_frames: Of a piece.
        most_octets: Of a piece.
    """
    start = octets = 0
    for at, size in enumerate(captured.tolist()):
        if at > start and (at - start >= most_frames or octets + size > most_octets):
            yield start, at
            start, octets = at, 0
        octets += size
    yield start, len(captured)


@dataclasses.dataclass(frozen=True, slots=True)
class PcapKind:
    """What a pcap file takes from its source.

    Attributes:
        byteorder: `little` or `big`.
        nanosecond: Whether times have nanoseconds.
        snaplen: Octets a frame was cut to; 0: no limit.
    """

    byteorder: str
    nanosecond: bool
    snaplen: int

    def with_more(self, other: PcapKind) -> PcapKind:
        """Of a file that has the frames of both: byte order of the first, finest clock, largest snaplen."""
        snaplen = 0 if 0 in (self.snaplen, other.snaplen) else max(self.snaplen, other.snaplen)
        return PcapKind(self.byteorder, self.nanosecond or other.nanosecond, snaplen)


def pcap_kind(frames: npt.NDArray[np.void], interfaces: Sequence[Interface]) -> PcapKind:
    """What a file of some frames takes from their source: byte order of the first, finest clock, largest snaplen.

    Args:
        frames: FRAME[m], one at least.
        interfaces: Of the source.
    """
    limits = [interfaces[number].snaplen for number in np.unique(frames["interface"]).tolist()]
    return PcapKind(
        interfaces[int(frames[0]["interface"])].byteorder,
        bool(np.any(frames["time_bits"] & FINER_THAN_MICROSECONDS)),
        0 if 0 in limits else max(limits),
    )


def frame_blocks(
    numbers: npt.NDArray[Any],
    octets: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.void],
    packets: npt.NDArray[np.void],
    interfaces: Sequence[Interface],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Block name and record of each frame.

    Args:
        numbers: Numbers of the frames.
        octets: uint8[n], where their octets are.
        frames: FRAME[m].
        packets: PACKET[m] as decoded, without what other frames tell of them.
        interfaces: Of the source.
    """
    data = octets.data
    for number, frame, packet in zip(numbers.tolist(), frames, packets, strict=True):
        start = int(frame["start"])
        captured = bytes(data[start : start + int(frame["captured"])])
        yield f"Frame {number}", frame_record(number, captured, frame, packet, interfaces[int(frame["interface"])])


def index_pieces(
    account: Account, interfaces: Iterable[Interface], missing: Sequence[str], entries: Iterable[bytes]
) -> Iterator[bytes]:
    """`index.json`: the account, then one entry a file, written entry by entry.

    Args:
        account: Of the run.
        interfaces: Where frames came from.
        missing: What makes the files incomplete, a line each.
        entries: What `index_entry` made.
    """
    head = {
        "frames": account.frames,
        "frames_in_flows": account.in_flows,
        "frames_without_flow": {verdict.text: count for verdict, count in account.verdicts.items()},
        "flows": account.flows,
        "flows_by_end": {cause.text: count for cause, count in account.causes.items()},
        "captures": list(dict.fromkeys(interface.source for interface in interfaces)),
        "incomplete": missing,
    }
    yield json.dumps(head, indent="\t")[:-2].encode() + b',\n\t"files": ['
    separator = ENTRY_SEPARATOR[1:]
    for entry in entries:
        yield separator + entry
        separator = ENTRY_SEPARATOR
    yield b"\n\t]\n}\n"


def index_entry(flow: Flow, name: str, label: str, side: Side, frames: Sequence[int]) -> bytes:
    """What the index says of a file.

    Args:
        flow: Its flow.
        name: Its name.
        label: Its label.
        side: Whose frames it has.
        frames: Their numbers, in the order of the file.
    """
    row = flow.row
    half = row["orig"] if side in (None, "orig") and row["orig"]["packets"] else row["resp"]
    times = row if side is None else half
    with_ports = has_ports(flow.protocol)
    entry = {
        "label": label,
        "file": name,
        "flow": flow.number,
        "direction": side,
        "protocol": protocol_name(flow.protocol),
        "orig": address_text(flow.orig_addr),
        "orig_port": flow.orig_port if with_ports else None,
        "resp": address_text(flow.resp_addr),
        "resp_port": flow.resp_port if with_ports else None,
        "first": time_text(int(times["first_ns"]), int(half["time_bits"])),
        "last": time_text(int(times["last_ns"]), int(half["time_bits"])),
        "end": flow.end_cause.text,
        "end_reason": int(flow.end_reason),
        "parent": flow.parent,
        "segment": flow.segment,
        "frames": frames,
    }
    added = plugin_values(flow)
    return json.dumps(entry | {"plugins": added} if added else entry).encode()


def plugin_values(flow: Flow) -> dict[str, Any]:
    """What the index says of the columns of plugins: None for what JSON has no number for."""
    values = ((name, getattr(flow, name)) for name in flow.plugin_columns)
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values}
