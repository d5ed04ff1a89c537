"""The filter `port`: packets to or from a port.

It means protocols whose header has ports (TCP, UDP, DCCP, SCTP, UDP-Lite) and packets in which they were read: later
fragments, and packets that were cut off before them, match no port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from traceflow.filters.contract import Kind, ParameterError
from traceflow.filters.graph import Call
from traceflow.filters.headers import protocol_known
from traceflow.filters.parameters import ranges_of, ranges_table, ranges_text, side_of
from traceflow.filters.running import MaskRunner
from traceflow.packets import Verdict
from traceflow.protocols import PROTOCOLS_WITH_PORTS

__all__ = ["PORT"]

_MAX = 65535
_HAS_PORTS = np.zeros(256, np.bool_)
_HAS_PORTS[list(PROTOCOLS_WITH_PORTS)] = True


def _canonical(parameter: str) -> str:
    side, text, at = side_of(parameter)
    if not text:
        raise ParameterError("a port is missing; needed is a list such as 80,443,8000-8100", at)
    return f"{side} {ranges_text(ranges_of(text, 'a port', _MAX, at))}".strip()


def _make(call: Call) -> MaskRunner:
    side, text, at = side_of(call.parameter)
    table = ranges_table(ranges_of(text, "a port", _MAX, at), _MAX)

    def test(column: Callable[[str], Any]) -> Any:
        verdict = column("verdict")
        known = protocol_known(column) & _HAS_PORTS[column("protocol")]
        known &= (verdict != Verdict.TRUNCATED_PORTS) & (verdict != Verdict.FRAGMENT_WITHOUT_PORTS)
        if side:
            return known & table[column(f"{side}_port")]
        return known & (table[column("src_port")] | table[column("dst_port")])

    return MaskRunner(test)


PORT = Kind("port", "packets to or from ports", "[src|dst] PORT[-PORT][,...]", _canonical, _make, predicate=True)
