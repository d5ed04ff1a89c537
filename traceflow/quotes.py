"""Which live flow an ICMP error points at: that of the packet it quotes (RFC 792, RFC 4443 section 2.4).

An error belongs to its own flow, like any ICMP message. The flow it points at is looked up before the error itself is
handled, so it is one that had opened before and is not over. A quote opens no flow, ends none and moves no timeout;
the flow counts it (`icmp_errors`), and that is all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, outline_kernel
from traceflow.keys import find_row, is_reversed
from traceflow.packets import PACKET

__all__ = ["NO_QUOTES", "QUOTED", "Quotes", "note_quote"]

QUOTED = np.dtype([("number", "u8"), ("flow", "u8")], align=True)
"""Number of a frame with an ICMP error, and of the flow it points at (0: none that was live)."""


@dataclass(frozen=True, slots=True)
class Quotes:
    """The packets that ICMP errors of a batch quote.

    Attributes:
        packets: PACKET[q]: the quoted packets whose key could be read.
        quoted: QUOTED[q] of the same, by ascending number; `flow` is filled by the table.
    """

    packets: npt.NDArray[np.void]
    quoted: npt.NDArray[np.void]

    def part(self, first: int, behind: int) -> Quotes:
        """Those of the frames with numbers from `first` up to `behind`, without that; both share their rows."""
        start, stop = np.searchsorted(self.quoted["number"], np.array([first, behind], np.uint64)).tolist()
        return Quotes(self.packets[start:stop], self.quoted[start:stop])


NO_QUOTES = Quotes(np.zeros(0, PACKET), np.zeros(0, QUOTED))


@outline_kernel
def note_quote(state: Any, live: Any, slots: Any, quotes: Any, quoted: Any, hashes: Any, number: Any) -> Any:
    """Write the flow that an ICMP error points at beside its number, and count the error there.

    Args:
        state: STATE of table.py; `quote` moves behind the quotes of this and earlier frames.
        live: LIVE[n].
        slots: The index of keys.py.
        quotes: PACKET[q].
        quoted: QUOTED[q].
        hashes: uint32[q], of the keys of `quotes`.
        number: Number of the frame.
    """
    at = U64(state["quote"])
    while at < U64(len(quoted)) and U64(quoted[at]["number"]) < number:
        at += U64(1)
    state["quote"] = at
    if at == U64(len(quoted)) or U64(quoted[at]["number"]) != number:
        return  # the quote could not be read
    packet = quotes[at]
    upside = False if state["directed"] else is_reversed(packet)
    found = find_row(slots, live, packet, upside, U64(hashes[at]), U64(state["key_mask"]))
    if found != U64(0):
        flow = live[found - U64(1)]
        flow["icmp_errors"] += U64(1)
        quoted[at]["flow"] = flow["number"]
