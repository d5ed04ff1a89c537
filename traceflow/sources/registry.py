"""The list of interfaces over all captures, and the limits that a capture's header may set.

What lives here: what the two readers share about interfaces. What must not: octets.
"""

from __future__ import annotations

from traceflow.errors import UnsupportedCaptureError
from traceflow.packets import Interface

__all__ = ["Registry", "clamped_link", "longest_frame_octets"]

FRAME_OCTETS_MAX = 262_144
"""Octets a record may hold where its file says nothing: the largest snaplen of libpcap and of Wireshark
(WTAP_MAX_PACKET_SIZE_STANDARD), more than any network frame."""

SNAPLEN_MAX = 128 * 1024 * 1024
"""The largest snaplen that is believed: D-Bus messages and USB transfers reach 128 MiB, and tools that
capture them write such a snaplen. A larger one (many write 2**31 - 1 or 2**32 - 1) means `no limit`, says nothing
of the records, and must not let one damaged length swallow the file."""

INTERFACES_MAX = 100_000
"""Interfaces over all captures: bounds the memory that a file of nothing but interface blocks takes."""


class Registry:
    """Gives every interface of every capture its index.

    Attributes:
        interfaces: All so far; FRAME `interface` is an index into it.
        source: Name of the capture that is being read.
        source_index: Its position among the captures given.
    """

    def __init__(self) -> None:
        self.interfaces: list[Interface] = []
        self.source = ""
        self.source_index = 0

    def add(self, interface: Interface, offset: int) -> int:
        """Append an interface.

        Args:
            interface: What its header says.
            offset: Of that header in the file, for the error.

        Returns:
            Its index.

        Raises:
            UnsupportedCaptureError: There are INTERFACES_MAX already.
        """
        if len(self.interfaces) >= INTERFACES_MAX:
            raise UnsupportedCaptureError(
                f"more than {INTERFACES_MAX} interfaces over all captures. Frames before this place were read; "
                "trace the captures one at a time",
                file=self.source, offset=offset,
            )  # fmt: skip
        self.interfaces.append(interface)
        return len(self.interfaces) - 1


def longest_frame_octets(snaplen: int) -> int:
    """Captured octets that a record may claim, given the snaplen of its interface."""
    return snaplen if FRAME_OCTETS_MAX < snaplen <= SNAPLEN_MAX else FRAME_OCTETS_MAX


def clamped_link(link: int) -> int:
    """The link type as FRAME holds it: 65535, which names nothing, for all above 16 bits."""
    return min(link, 0xFFFF)
