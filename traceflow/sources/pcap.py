"""Classic pcap: one file header, then records.

What lives here: the file header, the kernel that walks the records, the errors of both. Read first:
draft-ietf-opsawg-pcap, and pcap-savefile(5) of the tcpdump group. Versions older than 2.4 differ in the order of
the two lengths of a record; the modified variant (magic a1b2cd34) has 8 more octets in each record header.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, kernel
from traceflow.errors import MalformedCaptureError, TruncatedCaptureError, UnsupportedCaptureError
from traceflow.packets import FINER_THAN_MICROSECONDS, Interface
from traceflow.sources.reading import Window
from traceflow.sources.registry import Registry, clamped_link, longest_frame_octets
from traceflow.sources.sniff import PCAP_MAGICS
from traceflow.sources.words import two_numbers

__all__ = ["PcapReader"]

_FILE_HEADER_OCTETS = 24
_LINK_MASK = 0x03FFFFFF
"""The upper six bits of the link type field carry the length of the frame check sequence."""

_AS_WRITTEN, _SWAPPED, _SWAPPED_WHERE_ODD = 0, 1, 2
"""Order of the two lengths in a record: as today; reversed (before version 2.3); reversed where the captured
length would be above the wire length (version 2.3, which was written both ways)."""

_FULL, _NEED, _TOO_LONG = 0, 1, 2
"""Why the kernel stopped: no row left; octets missing (value: how many are needed); a length above the limit."""

_FORM = np.dtype(
    [
        ("longest", "u8"),  # octets that a record may claim
        ("tick_ns", "u8"),  # nanoseconds in a tick of the second half of a time stamp
        ("head", "u8"),  # octets of a record header
        ("lengths", "u8"),  # _AS_WRITTEN, _SWAPPED or _SWAPPED_WHERE_ODD
        ("interface", "u4"),  # the rest is copied to every FRAME
        ("link", "u2"),
        ("bits", "u1"),
        ("big", "u1"),  # 1 where the file is big-endian
    ],
    align=True,
)
"""What the walk has to know of a file, in one row."""


class PcapReader:
    """Finds the frames of one classic pcap file in a window."""

    def __init__(self, window: Window, registry: Registry) -> None:
        """Read the file header and register the one interface of the file.

        Raises:
            TruncatedCaptureError: The file ends inside its header.
            UnsupportedCaptureError: A version that is not 2.0 to 2.4 (or 543.0, an old DG/UX).
        """
        self._window = window
        self._name = registry.source
        byteorder, units_per_second, head = PCAP_MAGICS[window.peek(4)]
        if not window.fill(_FILE_HEADER_OCTETS):
            raise TruncatedCaptureError(
                "the file ends inside its file header; get the file again from where it was captured",
                file=self._name, offset=window.offset, needed=_FILE_HEADER_OCTETS, had=window.left,
            )  # fmt: skip
        order = ">" if byteorder == "big" else "<"
        fields = struct.unpack(order + "4xHHiIII", window.peek(_FILE_HEADER_OCTETS))
        major, minor, _thiszone, _sigfigs, snaplen, link = fields
        lengths = self._order_of_lengths(major, minor)
        link &= _LINK_MASK
        interface = registry.add(
            Interface(self._name, registry.source_index, link, snaplen, units_per_second, byteorder), window.offset
        )
        bits = FINER_THAN_MICROSECONDS if units_per_second > 10**6 else 0
        self._form = np.zeros(1, _FORM)
        self._form[0] = (
            longest_frame_octets(snaplen), 10**9 // units_per_second, head, lengths,
            interface, clamped_link(link), bits, byteorder == "big",
        )  # fmt: skip
        window.skip(_FILE_HEADER_OCTETS)

    def _order_of_lengths(self, major: int, minor: int) -> int:
        """Which of the two lengths comes first, by version, as libpcap decides it."""
        if (major, minor) == (2, 4):
            return _AS_WRITTEN
        if (major, minor) == (2, 3):
            return _SWAPPED_WHERE_ODD
        if (major == 2 and minor < 3) or (major, minor) == (543, 0):
            return _SWAPPED
        raise UnsupportedCaptureError(
            f"pcap of version {major}.{minor}; versions 2.0 to 2.4 are read. Convert it with the tool that wrote it",
            file=self._name, offset=self._window.offset + 4,
        )  # fmt: skip

    def walk(self, rows: npt.NDArray[np.void]) -> int:
        """Fill rows with the next frames; their octets stand in the window until the next call.

        Args:
            rows: FRAME[m], m >= 1.

        Returns:
            How many rows were filled, at least one; 0 at the end of the file.

        Raises:
            MalformedCaptureError: The next record claims more octets than a frame can have.
            TruncatedCaptureError: The file ends inside the next record.
        """
        window = self._window
        while True:
            at, count, stop, value = walk_pcap(
                window.octets, U64(window.at), U64(window.end), U64(window.base), self._form, rows
            )
            window.at = int(at)
            if count:
                return int(count)
            needed = int(value)
            if stop == _TOO_LONG:
                raise MalformedCaptureError(
                    f"a record claims {needed} captured octets, more than the {int(self._form[0]['longest'])} that "
                    "a frame of this file can have. Frames before it were read; what follows is not",
                    file=self._name, offset=window.offset,
                )  # fmt: skip
            if not window.fill(needed):
                if not window.left:
                    return 0
                raise TruncatedCaptureError(
                    "the file ends inside a record. Frames before it were read",
                    file=self._name, offset=window.offset, needed=needed, had=window.left,
                )  # fmt: skip


@kernel
def walk_pcap(octets: Any, at: Any, end: Any, base: Any, form: Any, rows: Any) -> Any:
    """Walk over whole records and describe each in a row.

    The largest time, 2**32 - 1 s and as many microseconds, is below TIME_MAX_NS: nothing to saturate.

    Args:
        octets: uint8[n], the window.
        at: uint64, index of the first record header.
        end: uint64, exclusive end of what was read.
        base: uint64, offset in the file of octets[0].
        form: _FORM[1].
        rows: FRAME[m], filled from the front.

    Returns:
        (at, rows filled, why it stopped, its value), all uint64; `at` is the index of the next record header.
    """
    facts = form[0]
    longest, tick_ns, head = U64(facts["longest"]), U64(facts["tick_ns"]), U64(facts["head"])
    lengths, big = U64(facts["lengths"]), facts["big"] != 0
    interface, link, bits = facts["interface"], facts["link"], facts["bits"]
    count, most = U64(0), U64(rows.shape[0])
    while count < most:
        if end - at < head:
            return at, count, U64(_NEED), head
        seconds, ticks = two_numbers(octets, at, big)
        captured, wire = two_numbers(octets, at + U64(8), big)
        if lengths != U64(_AS_WRITTEN) and (lengths == U64(_SWAPPED) or captured > wire):
            captured, wire = wire, captured
        if captured > longest:
            return at, count, U64(_TOO_LONG), captured
        if end - at < head + captured:
            return at, count, U64(_NEED), head + captured
        start = at + head
        row = rows[count]
        row["time_ns"] = np.int64(seconds * U64(1_000_000_000) + ticks * tick_ns)
        row["offset"] = base + start
        row["start"] = start
        row["captured"] = captured
        row["wire"] = wire
        row["interface"] = interface
        row["link"] = link
        row["time_bits"] = bits
        at = start + captured
        count += U64(1)
    return at, count, U64(_FULL), U64(0)
