"""The fields of rows: their names, their kinds, and which are shown unless asked otherwise.

Declarations only, and nothing of the engine is imported: the command line checks a `--fields` with this before it
loads the rest. What a field means stands in docs/columns.md; how it is made, in rows_flows.py and rows_frames.py.
A test holds the three, and the columns of FLOW, against each other.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from traceflow.errors import UsageError, suggest

__all__ = [
    "FLOW_DEFAULT",
    "FLOW_FIELDS",
    "FRAME_DEFAULT",
    "FRAME_FIELDS",
    "FRAME_LISTS",
    "INTERFACE_FIELDS",
    "Field",
    "Kind",
    "choose_fields",
    "kind_of",
]


class Kind(enum.Enum):
    """What the cells of a field are; an empty cell is None in all of them."""

    INTEGER = "integer"
    """int."""
    DECIMAL = "decimal"
    """str: a number with a fraction, digits as they are to be written."""
    WORD = "word"
    """str of printable ASCII without comma, quotation mark and backslash."""
    TEXT = "text"
    """Any str."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row.

    Attributes:
        name: Its name.
        kind: What its cells are.
    """

    name: str
    kind: Kind


def _fields(*groups: tuple[Kind, str]) -> dict[str, Field]:
    return {name: Field(name, kind) for kind, names in groups for name in names.split()}


_HALF = (
    "packets wire_octets ip_octets payload_octets payload_packets first_ns last_ns opened_ns opened_frame"
    " fin syn rst psh ack urg ece cwr base_seq retransmitted_segments"
    " retransmission fast_retransmission spurious_retransmission out_of_order lost_segment ack_lost_segment"
    " duplicate_ack keep_alive keep_alive_ack zero_window zero_window_probe zero_window_probe_ack window_update"
    " window_full reused_ports rtt_samples rtt_sum_ns rtt_min_ns rtt_mean_ns rtt_max_ns first_window"
    " first_window_scaled last_window last_window_scaled mss window_scale sack_permitted timestamps"
)

FLOW_FIELDS = _fields(
    (Kind.INTEGER, "flow number protocol"),
    (Kind.WORD, "protocol_name orig_addr"),
    (Kind.INTEGER, "orig_port"),
    (Kind.WORD, "resp_addr"),
    (Kind.INTEGER, "resp_port ip_version"),
    (Kind.DECIMAL, "first last duration"),
    (Kind.INTEGER, "first_ns last_ns duration_ns packets wire_octets ip_octets payload_octets"),
    (Kind.WORD, "end_cause"),
    (Kind.INTEGER, "end_reason turned"),
    (Kind.WORD, "conn_state history"),
    (Kind.INTEGER, "partial parent segment vlan_outer vlan_inner"),
    (Kind.WORD, "tunnel"),
    (Kind.INTEGER, "tunnel_id alarm icmp_errors analysed syn_to_syn_ack_ns syn_ack_to_ack_ns"),
    (Kind.WORD, "label"),
    (Kind.TEXT, "frames orig_frames resp_frames"),
    (Kind.INTEGER, " ".join(f"{side}_{part}" for side in ("orig", "resp") for part in _HALF.split())),
)
"""The fields of `traceflow flows`, by name."""

FRAME_LISTS = ("frames", "orig_frames", "resp_frames")
"""Those of them that need the frame lists; all others need the FLOW rows alone."""

FLOW_DEFAULT = (
    "flow", "protocol_name", "orig_addr", "orig_port", "resp_addr", "resp_port", "first", "duration",
    "orig_packets", "resp_packets", "orig_wire_octets", "resp_wire_octets", "end_cause",
)  # fmt: skip

FRAME_FIELDS = _fields(
    (Kind.INTEGER, "frame"),
    (Kind.TEXT, "file"),
    (Kind.INTEGER, "frame_in_file offset"),
    (Kind.DECIMAL, "time"),
    (Kind.INTEGER, "time_ns flow"),
    (Kind.WORD, "direction verdict protocol_name src"),
    (Kind.INTEGER, "src_port"),
    (Kind.WORD, "dst"),
    (Kind.INTEGER, "dst_port protocol ip_version ttl"),
    (Kind.WORD, "flags"),
    (Kind.INTEGER, "seq ack window captured_octets wire_octets ip_octets payload_octets"),
    (Kind.WORD, "tcp_analysis"),
    (Kind.INTEGER, "duplicate_ack duplicate quoted_flow"),
    (Kind.INTEGER, "vlan_tags vlan_outer vlan_inner link"),
    (Kind.WORD, "link_name"),
    (Kind.TEXT, "interface"),
)
"""The fields of `traceflow frames`, by name."""

FRAME_DEFAULT = (
    "frame", "time", "flow", "direction", "verdict", "protocol_name", "src", "src_port", "dst", "dst_port",
    "flags", "wire_octets", "payload_octets",
)  # fmt: skip
"""With more than one capture, `file` and `frame_in_file` follow `frame`; with more than one interface, `interface`."""

INTERFACE_FIELDS = _fields(
    (Kind.TEXT, "interface"),
    (Kind.INTEGER, "index"),
    (Kind.WORD, "state capture"),
    (Kind.INTEGER, "link"),
    (Kind.WORD, "link_name"),
    (Kind.INTEGER, "mtu"),
    (Kind.WORD, "addresses"),
)
"""The fields of `traceflow interfaces`, by name. The long addresses come last: a narrow terminal cuts the end."""


def kind_of(type_name: str) -> Kind:
    """What the cells of a plugin's column are.

    Args:
        type_name: Type of the column, see `plugins.contract.COLUMN_TYPES`.
    """
    if type_name == "text":
        return Kind.TEXT
    return Kind.DECIMAL if type_name.startswith("f") else Kind.INTEGER


def choose_fields(names: str, known: dict[str, Field]) -> list[Field]:
    """Find the fields of a comma-separated list.

    Args:
        names: Names, separated by commas.
        known: The fields there are.

    Raises:
        UsageError: An unknown name (with a suggestion), or one that stands there twice.
    """
    chosen: list[Field] = []
    for name in (part.strip() for part in names.split(",")):
        if name not in known:
            raise UsageError(suggest("field", name, known))
        if known[name] in chosen:
            raise UsageError(f"field {name!r} was given twice; name it once")
        chosen.append(known[name])
    return chosen
