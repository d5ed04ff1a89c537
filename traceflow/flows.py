"""What is known of one flow: FLOW rows, why it ended, and what a user holds in the hand: Flow and FlowSet.

Names follow Zeek (orig, resp) and IPFIX (RFC 5102 flowEndReason, RFC 7011). Nothing here decides where a flow
begins or ends (that is `table.py`) and nothing is written to files (that is `sinks/`).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from traceflow.connstates import ConnState
from traceflow.errors import TraceflowError
from traceflow.framelists import FrameMap
from traceflow.labels import Address, address, address_texts, flow_label
from traceflow.packets import Interface, Tunnel, Verdict
from traceflow.protocols import PROTOCOLS_WITH_PORTS, protocol_name
from traceflow.states import HISTORY_OCTETS
from traceflow.tcp import BASE_KNOWN, FLAG_NAMES

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped] # optional

__all__ = [
    "ANALYSED",
    "ANALYSIS_COLUMNS",
    "ANALYSIS_FLAGS",
    "FLOW",
    "HALF",
    "NOT_SEEN_NS",
    "REASON_OF_CAUSE",
    "Account",
    "EndCause",
    "EndReason",
    "Flow",
    "FlowSet",
    "Half",
    "analysis_column",
    "flat_columns",
    "undefined_where",
]


class EndReason(enum.IntEnum):
    """Why a flow ended, as IPFIX counts it (information element 136, flowEndReason)."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW_DETECTED = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5


class EndCause(enum.IntEnum):
    """Why a flow ended, finer than IPFIX; each has its EndReason."""

    IDLE = 1
    """No frame for the idle timeout."""
    FIN = 2
    """FIN from both sides (in profile pcapkit: a FIN; in profile zeek also where the other side was never heard)."""
    RST = 3
    """A RST from either side."""
    NEW_SYN = 4
    """A SYN with another sequence number opened its successor, and it was not closed before."""
    END_OF_INPUT = 5
    """The capture was over."""
    EVICTED = 6
    """The table was full, and this flow was the nearest to its timeout."""
    ACTIVE = 7
    """It was older than the active timeout; its packets go on in the next segment, a flow with the same parent."""
    PLUGIN = 8
    """A plugin ended it."""

    @property
    def reason(self) -> EndReason:
        """The IPFIX flowEndReason."""
        return _REASONS[self]

    @property
    def text(self) -> str:
        """The name in tables and files: lower case, with spaces."""
        return self.name.lower().replace("_", " ")


_REASONS = {
    EndCause.IDLE: EndReason.IDLE_TIMEOUT,
    EndCause.FIN: EndReason.END_OF_FLOW_DETECTED,
    EndCause.RST: EndReason.END_OF_FLOW_DETECTED,
    EndCause.NEW_SYN: EndReason.END_OF_FLOW_DETECTED,
    EndCause.END_OF_INPUT: EndReason.FORCED_END,
    EndCause.EVICTED: EndReason.LACK_OF_RESOURCES,
    EndCause.ACTIVE: EndReason.ACTIVE_TIMEOUT,
    EndCause.PLUGIN: EndReason.FORCED_END,
}

ANALYSIS_FLAGS = (
    "retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment",
    "ack_lost_segment", "duplicate_ack", "keep_alive", "keep_alive_ack", "zero_window", "zero_window_probe",
    "zero_window_probe_ack", "window_update", "window_full", "reused_ports",
)  # fmt: skip
"""Names of the flags of `analysis.py`, least significant bit first: those of tshark's `tcp.analysis` fields."""

NOT_SEEN_NS = -(1 << 63)
"""A time that was not measured. No two time stamps are that far apart, while -1 ns can be one: clocks step back."""

ANALYSED = np.dtype(
    [
        # Segments with each of ANALYSIS_FLAGS; 2**32 - 1 where there are more.
        ("counts", "u4", (len(ANALYSIS_FLAGS),)),
        ("rtt_samples", "u8"),  # segments of this side whose ACK was timed
        ("rtt_sum_ns", "i8"),
        ("rtt_min_ns", "i8"),  # these two: NOT_SEEN_NS without samples
        ("rtt_max_ns", "i8"),
        ("first_window", "i4"),  # as sent; -1 in this and the following: not known
        ("first_window_scaled", "i4"),  # in octets
        ("last_window", "i4"),
        ("last_window_scaled", "i4"),
        ("mss", "i4"),  # options of its SYN
        ("window_scale", "i2"),
        ("sack_permitted", "i1"),  # 0 or 1
        ("timestamps", "i1"),
    ],
    align=True,
)
"""What `analysis.py` found in one direction of a TCP flow."""

HALF = np.dtype(
    {
        "names": [
            "packets",  # frames sent by this side
            "wire_octets",  # their octets on the wire, link header included
            "ip_octets",  # IP header and what it carries
            "payload_octets",  # behind TCP or UDP (for other protocols: behind IP)
            "last_ns",  # latest time stamp; 0 where packets is 0, as in the next three
            "base_seq",  # first TCP sequence number, see tcp.py
            "bits",  # state of tcp.py
            "time_bits",  # of the frame that came first, as in FRAME
            "payload_packets",  # packets with payload; 2**32 - 1 where there are more
            "first_ns",  # earliest time stamp
            "opened_ns",  # time stamp of the frame that came first
            "opened_frame",  # and its number
            "flags",  # how many segments had FIN, SYN, RST, PSH, ACK, URG, ECE, CWR
            "retransmitted_segments",  # how many repeated what was seen before, SYN and FIN included (flow-rules 11)
            "analysed",
        ],
        "formats": [
            *("u8", "u8", "u8", "u8", "i8", "u4", "u1", "u1", "u4"),
            *("i8", "i8", "u8", ("u8", (8,)), "u8", ANALYSED),
        ],
        # The first 88 as in HOT and REST of live.py, one behind the other, so that a row is copied word by word.
        "offsets": [*(0, 8, 16, 24, 32, 48, 52, 53, 60), *(64, 72, 80, 88, 152, 160)],
        "itemsize": 160 + ANALYSED.itemsize,
        "aligned": True,
    }
)
"""One direction of a flow."""

FLOW = np.dtype(
    [
        ("number", "u8"),  # from 1, in opening order
        ("orig_addr", "u8", (2,)),  # address of the originator: upper and lower half, IPv4 mapped
        ("resp_addr", "u8", (2,)),
        ("orig_port", "u2"),  # 0 where the protocol has no ports
        ("resp_port", "u2"),
        ("protocol", "u1"),  # IANA protocol number
        ("ip_version", "u1"),  # 4 or 6
        ("end_cause", "u1"),  # EndCause
        ("end_reason", "u1"),  # EndReason (IPFIX)
        ("turned", "u1"),  # 1: the originator was found to be the other end only later (Zeek's ^)
        ("upper_originates", "u1"),  # 1: the originator is the upper end of the key (see keys.py)
        ("conn_state", "u1"),  # ConnState
        ("partial", "u1"),  # 1: met in mid-connection (TCP)
        ("parent", "u8"),  # number of the first segment of what the active timeout cut; its own if it is that one
        ("segment", "u4"),  # which segment it is, from 1; 1 also where nothing was cut
        ("vlan_outer", "u2"),  # of the first frame, as in PACKET
        ("vlan_inner", "u2"),
        ("tunnel_id", "u4"),  # likewise
        ("tunnel", "u1"),  # likewise, a Tunnel
        ("analysed", "u1"),  # 1: a TCP flow that was analysed, see `Options`
        ("alarm", "u1"),  # 1: a plugin raised the alarm
        ("icmp_errors", "u8"),  # ICMP errors and redirects that quoted a packet of it, see decode/quotes.py
        ("syn_to_syn_ack_ns", "i8"),  # times of the handshake, or NOT_SEEN_NS
        ("syn_ack_to_ack_ns", "i8"),
        ("first_ns", "i8"),  # earliest and latest time stamp of all its frames
        ("last_ns", "i8"),
        ("history", f"S{HISTORY_OCTETS}"),  # letters of states.py
        ("orig", HALF),
        ("resp", HALF),
    ],
    align=True,
)
"""One flow that ended."""

REASON_OF_CAUSE = np.array(
    [_REASONS.get(EndCause(cause), 0) if cause else 0 for cause in range(max(EndCause) + 1)], "u1"
)
"""The EndReason of each EndCause."""


@dataclasses.dataclass(slots=True)
class Account:
    """What became of every frame: `frames == in_flows + sum(verdicts.values())`.

    Attributes:
        frames: Frames read.
        in_flows: Frames that belong to flows.
        verdicts: Frames under each Verdict but FLOW, zeros too.
        flows: Flows that ended.
        causes: Flows by EndCause, zeros too.
        frames_out_of_order: Frames whose time stamp lies before that of an earlier frame.
        forward_jumps: Steps of the clock above one hour.
        fragments_late: Fragments that came before the first one of their datagram, and were counted in its flow then.
        fragments_overlapping: Fragments by which a datagram had got more octets than it is long.
        datagrams_evicted: Datagrams in fragments that were forgotten to make room, so that later fragments of them have
            no ports.
        duplicates: Frames that are exact duplicates of one shortly before them; None where none were looked for.
        interrupted: True when the user stopped the run before the end of the input.
    """

    frames: int = 0
    in_flows: int = 0
    verdicts: dict[Verdict, int] = dataclasses.field(default_factory=dict)
    flows: int = 0
    causes: dict[EndCause, int] = dataclasses.field(default_factory=dict)
    frames_out_of_order: int = 0
    forward_jumps: int = 0
    fragments_late: int = 0
    fragments_overlapping: int = 0
    datagrams_evicted: int = 0
    duplicates: int | None = None
    interrupted: bool = False


class Half:
    """One direction of a Flow. Its columns are attributes: `half.packets`, `half.syn`, `half.rtt_mean_ns`.

    What is not known, or means nothing for the protocol, is None. `half.flags` are all eight counters, in the order of
    `FLAG_NAMES`: fin, syn, rst, psh, ack, urg, ece, cwr.
    """

    __slots__ = ("_rows", "_side")

    def __init__(self, rows: npt.NDArray[np.void], side: str) -> None:
        self._rows = rows
        self._side = side

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked of an object that copy or pickle has not filled yet
            raise AttributeError(name)
        row = self._rows[0][self._side]
        if name == "flags":
            return row["flags"]
        if name not in _HALF_COLUMNS:
            raise AttributeError(f"a direction has no column {name!r}; it has {', '.join(_HALF_COLUMNS)}")
        undefined = undefined_where(self._rows, f"{self._side}_{name}")
        if undefined is not None and undefined[0]:
            return None
        if name in ANALYSIS_COLUMNS:
            return analysis_column(row["analysed"], name).item()
        return row["flags"][FLAG_NAMES.index(name)].item() if name in FLAG_NAMES else row[name].item()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HALF_COLUMNS, "flags"})

    def __repr__(self) -> str:
        return f"<Half: {self.packets} packets, {self.payload_octets} payload octets>"


class Flow:
    """A light view of one row of a FlowSet. Every column of FLOW is an attribute; None where it means nothing."""

    __slots__ = ("_at", "_set")

    def __init__(self, flows: FlowSet, at: int) -> None:
        self._set = flows
        self._at = at

    @property
    def row(self) -> np.void:
        """The FLOW row."""
        row: np.void = self._set.columns[self._at]
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flow) and self._set is other._set and self._at == other._at

    def __hash__(self) -> int:
        return hash((id(self._set), self._at))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as in Half
            raise AttributeError(name)
        if name in self._set.plugin_columns:
            value = self._set.plugin_columns[name][self._at]
            return None if value is np.ma.masked else getattr(value, "item", lambda: value)()
        try:
            value = self.row[name].item()
        except (KeyError, ValueError):
            raise AttributeError(f"a flow has no column {name!r}; it has {', '.join(FLOW.names or ())}") from None
        undefined = undefined_where(self._rows, name)
        return value if undefined is None or not undefined[0] else None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(FLOW.names or ()), *self._set.plugin_columns})

    @property
    def _rows(self) -> npt.NDArray[np.void]:
        """Its row, as an array of one."""
        return self._set.columns[self._at : self._at + 1]

    @property
    def plugin_columns(self) -> tuple[str, ...]:
        """Names of the columns that plugins added."""
        return tuple(self._set.plugin_columns)

    @property
    def orig_addr(self) -> Address:
        """Address of the originator."""
        return address(self.row["orig_addr"], self.row["ip_version"])

    @property
    def resp_addr(self) -> Address:
        """Address of the responder."""
        return address(self.row["resp_addr"], self.row["ip_version"])

    @property
    def orig(self) -> Half:
        """What the originator sent."""
        return Half(self._rows, "orig")

    @property
    def resp(self) -> Half:
        """What the responder sent."""
        return Half(self._rows, "resp")

    @property
    def end_cause(self) -> EndCause:
        """Why it ended."""
        return EndCause(int(self.row["end_cause"]))

    @property
    def end_reason(self) -> EndReason:
        """Why it ended, as IPFIX counts it."""
        return EndReason(int(self.row["end_reason"]))

    @property
    def tunnel(self) -> Tunnel:
        """What carried its first packet, the innermost tunnel."""
        return Tunnel(int(self.row["tunnel"]))

    @property
    def conn_state(self) -> ConnState:
        """What became of the connection, with Zeek's definitions."""
        return ConnState(int(self.row["conn_state"]))

    @property
    def history(self) -> str:
        """What happened, one letter each in order, upper case for the originator; see docs/vocabulary.md."""
        return bytes(self.row["history"]).decode("ascii")

    @property
    def protocol_name(self) -> str:
        """Name of the protocol, such as `TCP`."""
        return protocol_name(self.protocol)

    @property
    def packets(self) -> int:
        """Frames of both directions."""
        return int(self.row["orig"]["packets"]) + int(self.row["resp"]["packets"])

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from the earliest to the latest time stamp."""
        return int(self.row["last_ns"]) - int(self.row["first_ns"])

    @property
    def label(self) -> str:
        """`{src}_{srcport}-{dst}_{dstport}-{time}` from originator to responder, with the time of the first frame.

        Protocols other than TCP put their name first. IPv6 addresses have `.` for `:`.
        """
        return flow_label(self.row)

    @property
    def frames(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Numbers of its frames in ascending order, from 1, counted over all captures."""
        return self._set.frame_map.frames_of(self.number)

    def frames_from(self, side: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Numbers of the frames that one side sent.

        Args:
            side: `orig` or `resp`.
        """
        frames, upper = self._set.frame_map.frames_and_sides_of(self.number)
        chosen: npt.NDArray[np.unsignedinteger[Any]] = frames[
            upper == (bool(self.row["upper_originates"]) == (side == "orig"))
        ]
        return chosen

    def __repr__(self) -> str:
        return f"<Flow {self.number}: {self.label}, {self.packets} frames, ended by {self.end_cause.text}>"


class FlowSet(Sequence[Flow]):
    """All flows of some captures, in opening order.

    Attributes:
        columns: FLOW[k].
        frame_map: Which frame belongs to which flow.
        account: What became of every frame.
        errors: What made the results incomplete; empty when nothing did.
        interfaces: Where frames came from.
        plugin_columns: Columns of plugins: masked arrays [k] by name, masked where they mean nothing.
        plugin_failures: Plugins that failed and were taken out of the run, a line each.
    """

    def __init__(
        self,
        columns: npt.NDArray[np.void],
        frame_map: FrameMap,
        account: Account,
        errors: Sequence[TraceflowError] = (),
        interfaces: Sequence[Interface] = (),
    ) -> None:
        self.columns = columns
        self.frame_map = frame_map
        self.account = account
        self.errors = list(errors)
        self.interfaces = list(interfaces)
        self.plugin_columns: dict[str, Any] = {}
        self.plugin_failures: list[str] = []

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, at: int) -> Flow: ...

    @overload
    def __getitem__(self, at: slice) -> list[Flow]: ...

    def __getitem__(self, at: int | slice) -> Flow | list[Flow]:
        if isinstance(at, slice):
            return [Flow(self, i) for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(f"flow {at} of {len(self)}")
        return Flow(self, at % len(self))

    def __iter__(self) -> Iterator[Flow]:
        return (Flow(self, at) for at in range(len(self)))

    def __repr__(self) -> str:
        return f"<FlowSet: {len(self)} flows, {self.account.in_flows} of {self.account.frames} frames>"

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row a flow, in opening order; its columns are those of `flat_columns`.

        Where a column means nothing (see `undefined_where`) it holds pandas' NA.

        Raises:
            ImportError: pandas is not installed (`pip install '.[pandas]'` in a checkout).
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error

        def series(name: str, values: Any) -> Any:
            undefined = undefined_where(self.columns, name)
            if undefined is None:
                return values
            if isinstance(values, list):
                return [pandas.NA if empty else value for value, empty in zip(values, undefined.tolist(), strict=True)]
            return pandas.arrays.IntegerArray(np.array(values), undefined)

        frame = {name: series(name, values) for name, values in flat_columns(self.columns).items()}
        for name, values in self.plugin_columns.items():
            frame[name] = pandas.array(values.tolist()) if values.dtype != object else values.tolist()
        return pandas.DataFrame(frame)


ANALYSIS_COLUMNS = (*ANALYSIS_FLAGS, *(ANALYSED.names or ())[1:], "rtt_mean_ns")
"""Names of all that the analysis says of a direction."""
_HANDSHAKE = ("syn_to_syn_ack_ns", "syn_ack_to_ack_ns")
_HIDDEN = ("flags", "analysed", "bits", "time_bits")
_HALF_COLUMNS = (*(name for name in HALF.names or () if name not in _HIDDEN), *FLAG_NAMES, *ANALYSIS_COLUMNS)


def analysis_column(analysed: Any, name: str) -> Any:
    """One of ANALYSIS_COLUMNS.

    Args:
        analysed: ANALYSED[k], or a row of it.
        name: Name of the column.
    """
    if name in ANALYSIS_FLAGS:
        return analysed["counts"][..., ANALYSIS_FLAGS.index(name)]
    if name == "rtt_mean_ns":  # rounded down
        mean = analysed["rtt_sum_ns"] // np.maximum(analysed["rtt_samples"].astype(np.int64), 1)
        # A sum that was kept within 64 bits is too small.
        held = np.clip(mean, analysed["rtt_min_ns"], analysed["rtt_max_ns"])
        return np.where(analysed["rtt_samples"] > 0, held, 0)
    return analysed[name]


def _not_known(analysed: Any, name: str) -> Any:
    """Where one of ANALYSIS_COLUMNS is not known although the flow was analysed; arguments as above."""
    if name in ("rtt_sum_ns", "rtt_min_ns", "rtt_mean_ns", "rtt_max_ns"):
        return analysed["rtt_samples"] == 0
    if name in ANALYSIS_FLAGS or name == "rtt_samples":
        return analysed["rtt_samples"] < 0  # nowhere
    return analysed[name] < 0


def flat_columns(flows: npt.NDArray[np.void]) -> dict[str, Any]:
    """Columns of FLOW rows without nesting: `orig_packets`, `resp_syn`, and addresses as text.

    Args:
        flows: FLOW[k].

    Returns:
        Name to column of length k, in the order of FLOW. Internal state (`bits`) is left out.
    """
    columns: dict[str, Any] = {}
    for name in FLOW.names or ():
        if name in ("orig", "resp"):
            half = flows[name]
            for part in HALF.names or ():
                if part == "flags":
                    for bit, flag in enumerate(FLAG_NAMES):
                        columns[f"{name}_{flag}"] = half["flags"][:, bit]
                elif part == "analysed":
                    for inner in ANALYSIS_COLUMNS:
                        columns[f"{name}_{inner}"] = analysis_column(half[part], inner)
                elif part not in ("bits", "time_bits"):
                    columns[f"{name}_{part}"] = half[part]
        elif name.endswith("_addr"):
            columns[name] = address_texts(flows[name], flows["ip_version"])
        elif name == "end_cause":
            columns[name] = [_CAUSE_TEXTS[cause] for cause in flows[name].tolist()]
        elif name == "conn_state":
            columns[name] = [_STATE_TEXTS[state] for state in flows[name].tolist()]
        elif name == "tunnel":
            columns[name] = [_TUNNEL_TEXTS[tunnel] for tunnel in flows[name].tolist()]
        elif name == "history":
            columns[name] = [history.decode("ascii") for history in flows[name].tolist()]
        elif name != "upper_originates":
            columns[name] = flows[name]
    return columns


def undefined_where(flows: npt.NDArray[np.void], name: str) -> npt.NDArray[np.bool_] | None:
    """Where a column of `flat_columns` means nothing, although a structured array must hold some number there.

    Args:
        flows: FLOW[k].
        name: Name of the column.

    Returns:
        bool[k]; None for a column that always means something.
    """
    side, _, part = name.partition("_")
    undefined: npt.NDArray[np.bool_] | None = None
    if name in _HANDSHAKE:
        return np.asarray(flows[name] == NOT_SEEN_NS)
    if name in ("vlan_outer", "vlan_inner"):
        return np.asarray(flows[name] == 0)
    if name in ("tunnel", "tunnel_id"):
        return np.asarray(flows["tunnel"] == Tunnel.NONE)
    if name == "history":
        return np.asarray(flows["history"] == b"")
    if side not in ("orig", "resp"):
        return undefined
    if part in ANALYSIS_COLUMNS:
        undefined = (flows["analysed"] == 0) | _not_known(flows[side]["analysed"], part)
    elif part == "port":
        # In place of ports, a query of ICMP has its identifier on both sides.
        undefined = _WITHOUT_PORTS[flows["protocol"]] & (flows["orig_port"] == 0)
    elif part in FLAG_NAMES or part == "retransmitted_segments":
        undefined = flows["protocol"] != _TCP
    elif part == "base_seq":
        undefined = flows[side]["bits"] & BASE_KNOWN == 0
    elif part in ("first_ns", "last_ns", "opened_ns", "opened_frame"):
        undefined = flows[side]["packets"] == 0
    return undefined


_TCP = 6
_WITHOUT_PORTS = ~np.isin(np.arange(256), list(PROTOCOLS_WITH_PORTS))
_CAUSE_TEXTS = {int(cause): cause.text for cause in EndCause}
_TUNNEL_TEXTS = {int(tunnel): tunnel.text if tunnel else "" for tunnel in Tunnel}
_STATE_TEXTS = {int(state): state.text for state in ConnState}
