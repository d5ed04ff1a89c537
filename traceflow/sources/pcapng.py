"""pcapng: sections of blocks, each section with its own byte order and interfaces.

What lives here: section headers, interface descriptions, the errors of all blocks. The packet blocks are walked in
`blocks.py`. Read first: draft-ietf-opsawg-pcapng, sections 3 and 4. The length that a section header may give for
its section is not used: blocks are walked one by one, and it helps nobody who must not trust it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64
from traceflow.errors import MalformedCaptureError, TruncatedCaptureError, UnsupportedCaptureError
from traceflow.packets import FINER_THAN_MICROSECONDS, Interface
from traceflow.sources.blocks import INTERFACE, OPTIONS_OCTETS_MAX, Stop, walk_blocks
from traceflow.sources.clock import MICROSECONDS, clock_factors, units_of
from traceflow.sources.reading import Window
from traceflow.sources.registry import Registry, clamped_link, longest_frame_octets

__all__ = ["PcapngReader"]

_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET = 2, 9, 14
_OPTION_OCTETS = {_IF_TSRESOL: 1, _IF_TSOFFSET: 8}

_SECTION_HEAD_OCTETS = 24  # up to the options
_SECTION_LEAST_OCTETS = 28
_DESCRIPTION_LEAST_OCTETS = 20
_NAME_CHARACTERS_MAX = 255
"""Kept of if_name: the longest known names (Windows devices) have some 60; the format allows 65 535."""

_FAULTS = {
    Stop.BAD_LENGTH: "a block has the length {value}, which it cannot have",
    Stop.BAD_TRAILER: "a block ends with the length {value}, which is not the one it begins with",
    Stop.NO_INTERFACE: "a packet block names interface {value}, but the section has {known} of them so far",
    Stop.TOO_LONG: "a packet block claims {value} captured octets, more than a frame of this interface can have",
    Stop.NO_ROOM: "a packet block claims {value} captured octets, more than its length leaves room for",
}
_READ_SO_FAR = "Frames before it were read; what follows is not"


class PcapngReader:
    """Finds the frames of one pcapng file in a window."""

    def __init__(self, window: Window, registry: Registry) -> None:
        """Read the first section header.

        Raises:
            TruncatedCaptureError: The file ends inside it.
            MalformedCaptureError: Its length cannot be true.
            UnsupportedCaptureError: Its version is not 1.0 or 1.2.
        """
        self._window = window
        self._registry = registry
        self._name = registry.source
        self._section = np.zeros(1, INTERFACE)
        self._known = 0
        self._big = False
        self._last_ns = np.zeros(1, np.int64)
        self._begin_section()

    def walk(self, rows: npt.NDArray[np.void]) -> int:
        """Fill rows with the next frames; their octets stand in the window until the next call.

        Args:
            rows: FRAME[m], m >= 1.

        Returns:
            How many rows were filled, at least one; 0 at the end of the file.

        Raises:
            MalformedCaptureError: The next block holds what cannot be true.
            TruncatedCaptureError: The file ends inside the next block.
            UnsupportedCaptureError: A section of another version, a clock finer than 64 bits can hold, too
                many interfaces.
        """
        window = self._window
        while True:
            at, count, stop, value = walk_blocks(
                window.octets, U64(window.at), U64(window.end), U64(window.base),
                self._section, U64(self._known), self._big, self._last_ns, rows,
            )  # fmt: skip
            window.at = int(at)
            if count:
                return int(count)
            if stop == Stop.NEED:
                if not window.fill(int(value)):
                    if not window.left:
                        return 0
                    raise self._cut(int(value), window.left)
            elif stop == Stop.SECTION:
                self._begin_section()
            elif stop == Stop.DESCRIPTION:
                self._describe_interface(int(value))
            elif stop == Stop.SKIP:
                self._skip_block(int(value), 0)
            else:
                raise self._malformed(_FAULTS[Stop(int(stop))].format(value=int(value), known=self._known))

    def _begin_section(self) -> None:
        """Read a Section Header Block; the interfaces of the section before it are forgotten."""
        window = self._window
        if not window.fill(12):
            raise self._cut(12, window.left)
        magic = window.peek(12)[8:]
        if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
            raise self._malformed(f"a section header has the byte-order magic {magic.hex()}")
        self._big = magic == b"\x1a\x2b\x3c\x4d"
        length = self._unpack("I", window.peek(8)[4:])[0]
        if length < _SECTION_LEAST_OCTETS or length % 4:
            raise self._malformed(_FAULTS[Stop.BAD_LENGTH].format(value=length))
        if not window.fill(_SECTION_HEAD_OCTETS):
            raise self._cut(length, window.left)
        major, minor = self._unpack("HH", window.peek(16)[12:])
        if major != 1 or minor not in (0, 2):
            raise UnsupportedCaptureError(
                f"a pcapng section of version {major}.{minor}; 1.0 (also written 1.2) is read. "
                "Convert it with the tool that wrote it",
                file=self._name, offset=window.offset + 12,
            )  # fmt: skip
        self._known = 0
        window.skip(_SECTION_HEAD_OCTETS)
        self._skip_block(length, _SECTION_HEAD_OCTETS)

    def _describe_interface(self, length: int) -> None:
        """Read an Interface Description Block of a length that is a multiple of 4."""
        window = self._window
        if not _DESCRIPTION_LEAST_OCTETS <= length <= _DESCRIPTION_LEAST_OCTETS + OPTIONS_OCTETS_MAX:
            raise self._malformed(_FAULTS[Stop.BAD_LENGTH].format(value=length))
        if not window.fill(length):
            raise self._cut(length, window.left)
        block = window.peek(length)
        trailer = self._unpack("I", block[-4:])[0]
        if trailer != length:
            raise self._malformed(_FAULTS[Stop.BAD_TRAILER].format(value=trailer))
        link, snaplen = self._unpack("HxxI", block[8:16])
        options = self._options(block[16:-4])
        code = options.get(_IF_TSRESOL, bytes([MICROSECONDS]))[0]
        offset_s = self._unpack("q", options.get(_IF_TSOFFSET, bytes(8)))[0]
        name = options.get(_IF_NAME, b"").decode("utf-8", "replace").rstrip("\0")[:_NAME_CHARACTERS_MAX]
        units = units_of(code)
        if units is None:
            base = 2 if code & 0x80 else 10
            raise UnsupportedCaptureError(
                f"an interface has a clock of {base}**-{code & 0x7F} s, finer than 64 bits can count. {_READ_SO_FAR}",
                file=self._name, offset=window.offset,
            )  # fmt: skip
        registry = self._registry
        order = "big" if self._big else "little"
        index = registry.add(
            Interface(self._name, registry.source_index, link, snaplen, units, order, name), window.offset
        )
        self._remember(index, link, snaplen, units, clock_factors(code, offset_s))
        window.skip(length)

    def _remember(self, index: int, link: int, snaplen: int, units: int, clock: dict[str, int]) -> None:
        """Put an interface into the table of the section, which doubles when it is full."""
        if self._known == len(self._section):
            larger = np.zeros(2 * len(self._section), INTERFACE)
            larger[: self._known] = self._section
            self._section = larger
        row = self._section[self._known]
        for field, value in clock.items():
            row[field] = value
        row["longest"] = longest_frame_octets(snaplen)
        row["snaplen"] = snaplen
        row["interface"] = index
        row["link"] = clamped_link(link)
        row["bits"] = FINER_THAN_MICROSECONDS if units > 10**6 else 0
        self._known += 1

    def _options(self, octets: bytes) -> dict[int, bytes]:
        """The options that matter, the first of each kind, with their lengths checked."""
        found: dict[int, bytes] = {}
        for code, value in self._each_option(octets):
            if len(value) != _OPTION_OCTETS.get(code, len(value)):
                raise self._malformed(f"option {code} of an interface has {len(value)} octets")
            if code in (_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET):
                found.setdefault(code, value)
        return found

    def _each_option(self, octets: bytes) -> Iterator[tuple[int, bytes]]:
        """Walk over options: code, length, value, padding to 4 octets; code 0 ends them, and so does the block."""
        at = 0
        while at + 4 <= len(octets):
            code, length = self._unpack("HH", octets[at : at + 4])
            if code == 0:
                return
            value = octets[at + 4 : at + 4 + length]
            if len(value) < length:
                raise self._malformed(f"option {code} of an interface has {length} octets, more than the block holds")
            yield code, value
            at += 4 + (length + 3) // 4 * 4

    def _skip_block(self, length: int, used: int) -> None:
        """Step over the rest of a block without keeping it, and check the length at its end.

        Args:
            length: Of the whole block.
            used: Octets of it that are used up already.
        """
        window = self._window
        begin = window.offset - used
        skipped = used + window.skip(length - 4 - used)
        if skipped < length - 4 or not window.fill(4):
            raise self._cut(length, skipped + window.left, begin)
        trailer = self._unpack("I", window.peek(4))[0]
        if trailer != length:
            raise self._malformed(_FAULTS[Stop.BAD_TRAILER].format(value=trailer), begin)
        window.skip(4)

    def _unpack(self, form: str, octets: bytes) -> tuple[int, ...]:
        """`struct.unpack` in the byte order of the section."""
        return struct.unpack((">" if self._big else "<") + form, octets)

    def _malformed(self, text: str, offset: int | None = None) -> MalformedCaptureError:
        """The error for what cannot be true, at the block that comes next or at `offset`."""
        offset = self._window.offset if offset is None else offset
        return MalformedCaptureError(f"{text}. {_READ_SO_FAR}", file=self._name, offset=offset)

    def _cut(self, needed: int, had: int, offset: int | None = None) -> TruncatedCaptureError:
        """The error for a file that ends inside the block that comes next, or the one at `offset`."""
        offset = self._window.offset if offset is None else offset
        text = "the file ends inside a block. Frames before it were read"
        return TruncatedCaptureError(text, file=self._name, offset=offset, needed=needed, had=had)
