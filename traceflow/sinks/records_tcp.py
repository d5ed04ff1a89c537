"""TCP as fields: the header with its flags and options.

Names are those of Wireshark's display filters; sequence numbers are `seq_raw` and `ack_raw`, because `tcp.seq`
there is relative to the first of its stream, which one frame cannot know. The window is as sent, unscaled. Read
first: RFC 9293, RFC 7323 (window scale, timestamps), RFC 2018 (SACK), IANA's TCP Option Kind Numbers.
"""

from __future__ import annotations

import functools
from struct import Struct
from typing import Any

from traceflow.sinks.records_fields import cut, whole

__all__ = ["tcp"]

_HEADER = Struct(">HHIIHHHH")
_ENDS = {
    "srcport": 2,
    "dstport": 4,
    "seq_raw": 8,
    "ack_raw": 12,
    "hdr_len": 14,
    "len": 14,  # without the data offset nobody knows
    "flags": 14,
    "window_size_value": 16,
    "checksum": 18,
    "urgent_pointer": 20,
}
_OPTIONS = {
    0: "eol",
    1: "nop",
    2: "mss",
    3: "wscale",
    4: "sack_perm",
    5: "sack",
    6: "echo",
    7: "echoreply",
    8: "timestamp",
    11: "cc",
    12: "cc_new",
    13: "cc_echo",
    19: "md5",
    27: "qs",
    28: "user_to",
    29: "ao",
    30: "mptcp",
    34: "tfo",
    69: "eno",
    172: "acc_ecn",
    174: "acc_ecn",
    253: "experimental",
    254: "experimental",
}
"""Option kinds with Wireshark's names."""
_TIMESTAMPS = Struct(">II")


@functools.cache  # 4096 values at most
def _flags(bits: int) -> dict[str, Any]:
    """Twelve bits: three reserved, accurate ECN (the former nonce sum), and the eight flags of RFC 9293 and 3168."""
    return {
        "res": bits >> 9,
        "ae": bool(bits & 256),
        "cwr": bool(bits & 128),
        "ece": bool(bits & 64),
        "urg": bool(bits & 32),
        "ack": bool(bits & 16),
        "push": bool(bits & 8),
        "reset": bool(bits & 4),
        "syn": bool(bits & 2),
        "fin": bool(bits & 1),
    }


def tcp(record: dict[str, Any], octets: bytes, at: int, end: int) -> None:
    """Add `tcp` to a record.

    Args:
        record: Gets the layer.
        octets: The captured octets of the frame.
        at: Where the header begins.
        end: Where the packet ends; `len` counts to there, from where the data offset says, but at least 20 octets on.
    """
    stop = min(end, len(octets))
    header, had = whole(octets, at, 20, stop)
    sport, dport, seq, ack, offset, window, checksum, urgent = _HEADER.unpack(header)
    size = offset >> 12 << 2
    start = at + (size if size > 20 else 20)
    layer = {
        "srcport": sport,
        "dstport": dport,
        "len": end - start if end > start else 0,
        "seq_raw": seq,
        "ack_raw": ack,
        "hdr_len": size,
        "flags": _flags(offset & 0xFFF).copy(),
        "window_size_value": window,
        "checksum": checksum,
        "urgent_pointer": urgent,
    }
    record["tcp"] = layer
    if had < 20:
        record["tcp"] = cut(layer, _ENDS, had)
    elif size > 20:
        layer["options"] = _options(octets[at + 20 : min(start, stop)])
        if start > stop:
            layer["truncated"] = True
    elif size < 20:
        layer["malformed"] = True


def _options(octets: bytes) -> list[dict[str, Any]]:
    """The options of a header, as far as they were captured."""
    found: list[dict[str, Any]] = []
    at, stop = 0, len(octets)
    while at < stop:
        kind = octets[at]
        if kind == 1:
            found.append({"kind": 1, "name": "nop"})
            at += 1
            continue
        option: dict[str, Any] = {"kind": kind}
        found.append(option)
        if kind in _OPTIONS:
            option["name"] = _OPTIONS[kind]
        if kind == 0:
            break
        length = octets[at + 1] if at + 1 < stop else 0
        data = octets[at + 2 : at + length]
        if length < 2 or len(data) != length - 2:
            option["data"] = octets[at + 1 :]
            option["malformed"] = True
            break
        option["len"] = length
        _option(option, kind, data)
        at += length
    return found


def _option(option: dict[str, Any], kind: int, data: bytes) -> None:
    """Add the fields of an option; `data` where its kind is unknown or its length does not fit the kind."""
    size = len(data)
    if kind == 8 and size == 8:
        option["tsval"], option["tsecr"] = _TIMESTAMPS.unpack(data)
    elif kind == 2 and size == 2:
        option["mss_val"] = data[0] << 8 | data[1]
    elif kind == 3 and size == 1:
        option["shift"] = data[0]
        option["multiplier"] = 1 << min(data[0], 14)  # RFC 7323, 2.3: larger shifts count as 14
    elif kind == 4 and size == 0:
        pass
    elif kind == 5 and size % 8 == 0:
        edges = [_TIMESTAMPS.unpack_from(data, i) for i in range(0, size, 8)]
        option["blocks"] = [{"sack_le": left, "sack_re": right} for left, right in edges]
    elif kind in (6, 7, 11, 12, 13) and size == 4:
        option["cc_value" if kind > 7 else "echo_value"] = int.from_bytes(data, "big")
    elif kind == 19 and size == 16:
        option["digest"] = data
    elif kind == 28 and size == 2:
        option["granularity"], option["val"] = data[0] >> 7, (data[0] & 0x7F) << 8 | data[1]
    elif kind == 29 and size >= 2:
        option["keyid"], option["rnextkeyid"], option["mac"] = data[0], data[1], data[2:]
    elif kind == 30 and size >= 1:
        option["subtype"] = data[0] >> 4
        option["data"] = data
    elif kind == 34:
        option["cookie"] = data
    elif kind >= 253 and size >= 2:
        option["exid"], option["data"] = data[0] << 8 | data[1], data[2:]
    else:
        option["data"] = data
