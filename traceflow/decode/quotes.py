"""The packets that ICMP errors and redirects quote, to PACKET rows.

A quote is decoded as a frame of its own that begins with IP and was captured as far as the quote goes: headers are read
by the same rules as everywhere, cut quotes and tunnels in them included. It has the VLAN tags of the frame around
it, and its tunnel where it opens none itself. A quoted ICMP error is passed over: no error is sent about an error
(RFC 1122 section 3.2.2, RFC 4443 section 2.4), so what looks like one is no packet of any flow.

Only batches with such frames come here, so the kernels are compiled when the first one comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel, outline_kernel
from traceflow.decode.octets import OK
from traceflow.decode.walk import decode_batch
from traceflow.packets import BAD_CHECKSUM, FRAME, PACKET, QUOTES, Batch
from traceflow.quotes import QUOTED, Quotes

__all__ = ["decode_quotes"]

_ICMP, _ICMP6 = 1, 58
_LINK_RAW = 101  # LINKTYPE_RAW: IPv4 or IPv6, by the version in its first octet
_ERROR_OCTETS = 8  # of an ICMP error in front of the quote: RFC 792, RFC 4443 section 3
_REDIRECT6, _REDIRECT6_OCTETS, _REDIRECTED = 137, 40, 4  # RFC 4861 sections 4.5 and 4.6.3
_QUERY_OCTETS = 6  # of an ICMP query, up to its identifier


@outline_kernel
def _redirected(b: Any, s: Any, n: Any, o: Any) -> Any:
    """Where the packet in the options of an IPv6 redirect begins, or `n`; `o` is where the options begin.

    An option is at least eight octets, so the octets captured bound the loop; one that says 0 ends it.
    """
    while o + U64(8) < n:
        length = U64(b[s + o + U64(1)]) << U64(3)
        if length == U64(0):
            return n
        if U64(b[s + o]) == U64(_REDIRECTED):
            return o + U64(8)
        o += length
    return n


@kernel
def find_quotes(octets: Any, frames: Any, packets: Any, first_number: Any, quotes: Any, quoted: Any) -> Any:
    """Find the quotes in the frames of a batch.

    Args:
        octets: uint8[n], the buffer of the batch.
        frames: FRAME[m].
        packets: PACKET[m] of the same frames.
        first_number: Number of the first frame.
        quotes: FRAME[q], one for each packet with QUOTES; filled as if each quote were a frame.
        quoted: QUOTED[q]; `number` is filled.

    Returns:
        How many rows were filled.
    """
    count = U64(0)
    for i in range(len(packets)):
        packet = packets[U64(i)]
        bits = U64(packet["bits"])
        if bits & U64(QUOTES) == U64(0) or bits & U64(BAD_CHECKSUM) or packet["verdict"] != OK:
            continue
        frame = frames[U64(i)]
        at, sent = U64(packet["transport"]), U64(packet["payload"]) + U64(packet["payload_octets"])
        start, n = U64(frame["start"]), min(U64(frame["captured"]), sent)
        o = at + U64(_ERROR_OCTETS)
        if packet["protocol"] == _ICMP6 and octets[start + at] == _REDIRECT6:
            o = _redirected(octets, start, n, at + U64(_REDIRECT6_OCTETS))
        if o >= n:
            continue
        quote = quotes[count]
        quote["start"] = start + o
        quote["captured"] = n - o
        quote["wire"] = sent - o
        quote["link"] = _LINK_RAW
        quoted[count]["number"] = U64(first_number) + U64(i)
        count += U64(1)
    return count


@kernel
def keep_told(quotes: Any, rows: Any, quoted: Any, packets: Any, first_number: Any) -> Any:
    """Keep the quotes whose key can be told, and give them what they take from the frame around.

    Args:
        quotes: FRAME[q].
        rows: PACKET[q] of the same; those that are kept move to the front.
        quoted: QUOTED[q], likewise.
        packets: PACKET[m] of the batch.
        first_number: Number of its first frame.

    Returns:
        How many are kept.
    """
    kept = U64(0)
    for i in range(len(rows)):
        row = rows[U64(i)]
        if row["verdict"] != OK or U64(row["bits"]) & U64(QUOTES):
            continue
        # Where its type or identifier is cut off, decode has 0 for the ports of an ICMP message: those of other ones.
        icmp = row["protocol"] == _ICMP or row["protocol"] == _ICMP6
        if icmp and U64(quotes[U64(i)]["captured"]) < U64(row["transport"]) + U64(_QUERY_OCTETS):
            continue
        number = U64(quoted[U64(i)]["number"])
        around = packets[number - U64(first_number)]
        row["vlan_tags"] = around["vlan_tags"]
        row["vlan_outer"] = around["vlan_outer"]
        row["vlan_inner"] = around["vlan_inner"]
        if row["tunnels"] == 0:
            row["tunnels"] = around["tunnels"]
            row["tunnel"] = around["tunnel"]
            row["tunnel_id"] = around["tunnel_id"]
        if kept != U64(i):
            rows[kept] = row
            quoted[kept]["number"] = number
        kept += U64(1)
    return kept


def decode_quotes(batch: Batch, packets: npt.NDArray[np.void], *, outer: bool = False) -> Quotes:
    """Decode the packets that ICMP errors of a batch quote.

    Args:
        batch: The frames.
        packets: PACKET[m] of them.
        outer: As in `decode_batch`.

    Returns:
        The quotes whose key can be told.
    """
    most = int(np.count_nonzero(packets["bits"] & QUOTES))
    frames, quoted = np.zeros(most, FRAME), np.zeros(most, QUOTED)
    count = int(find_quotes(batch.octets, batch.frames, packets, U64(batch.first_number), frames, quoted))
    frames, quoted = frames[:count], quoted[:count]
    rows = decode_batch(batch.octets, frames, np.zeros(count, PACKET), outer=outer)
    told = int(keep_told(frames, rows, quoted, packets, U64(batch.first_number)))
    return Quotes(rows[:told], quoted[:told])
