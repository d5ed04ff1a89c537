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

_Column = Callable[[Any], Any]
_MAX = 65535
_HAS_PORTS = np.zeros(256, np.bool_)
_HAS_PORTS[list(PROTOCOLS_WITH_PORTS)] = True


def _canonical(parameter: str) -> str:
    side, text, at = side_of(parameter)
    if not text:
        raise ParameterError("a port is missing; needed is a list such as 80,443,8000-8100", at)
    return f"{side} {ranges_text(ranges_of(text, 'a port', _MAX, at))}".strip()


_UNKNOWN = -1


def _ports_known(column: _Column) -> Any:
    """bool[k], whether both ports are known."""
    verdict = column("verdict")
    known = column(protocol_known) & _HAS_PORTS[column("protocol")]
    return known & (verdict != Verdict.TRUNCATED_PORTS) & (verdict != Verdict.FRAGMENT_WITHOUT_PORTS)


def _src_port(column: _Column) -> Any:
    """int32[k], _UNKNOWN where there is none."""
    return np.where(column(_ports_known), column("src_port").astype(np.int32), np.int32(_UNKNOWN))


def _dst_port(column: _Column) -> Any:
    """int32[k], _UNKNOWN where there is none."""
    return np.where(column(_ports_known), column("dst_port").astype(np.int32), np.int32(_UNKNOWN))


_SIDES = {"src": (_src_port,), "dst": (_dst_port,), "": (_src_port, _dst_port)}


def _make(call: Call) -> MaskRunner:
    side, text, at = side_of(call.parameter)
    ranges, sides = ranges_of(text, "a port", _MAX, at), _SIDES[side]
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        port = np.int32(ranges[0][0])

        def is_it(ports: Any) -> Any:
            return ports == port
    else:
        table = np.append(ranges_table(ranges, _MAX), False)

        def is_it(ports: Any) -> Any:
            return table[ports]

    if len(sides) == 1:
        return MaskRunner(lambda column: is_it(column(sides[0])))
    return MaskRunner(lambda column: is_it(column(_src_port)) | is_it(column(_dst_port)))


PORT = Kind("port", "packets to or from ports", "[src|dst] PORT[-PORT][,...]", _canonical, _make, predicate=True)
