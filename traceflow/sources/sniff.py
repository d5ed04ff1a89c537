"""Which kind of file is this? Answered from its first octets, never from its name.

What lives here: the signatures, and the words with which everything but pcap and pcapng is refused. Read
first: draft-ietf-opsawg-pcap (section 4) and draft-ietf-opsawg-pcapng (section 4.1).
"""

from __future__ import annotations

import codecs
import enum

from traceflow.errors import NotACaptureError, TruncatedCaptureError, UnsupportedCaptureError
from traceflow.sources.reading import Window

__all__ = ["PCAP_MAGICS", "Kind", "sniff"]


class Kind(enum.Enum):
    """The kinds of capture that are read."""

    PCAP = "pcap"
    PCAPNG = "pcapng"


PCAP_MAGICS = {
    bytes.fromhex("a1b2c3d4"): ("big", 10**6, 16),
    bytes.fromhex("d4c3b2a1"): ("little", 10**6, 16),
    bytes.fromhex("a1b23c4d"): ("big", 10**9, 16),
    bytes.fromhex("4d3cb2a1"): ("little", 10**9, 16),
    bytes.fromhex("a1b2cd34"): ("big", 10**6, 24),
    bytes.fromhex("34cdb2a1"): ("little", 10**6, 24),
}
"""First four octets -> (byte order, ticks per second, octets of a record header)."""

_PCAPNG_BLOCK = bytes.fromhex("0a0d0d0a")
_PCAPNG_ORDERS = (bytes.fromhex("1a2b3c4d"), bytes.fromhex("4d3c2b1a"))
_PCAPNG_HEAD_OCTETS = 12
_LOOK_OCTETS = 64

_UNPACK = "unpack it first"
_CONVERT = "convert it first, for example with `editcap -F pcapng IN OUT`"

_UNSUPPORTED = (
    ("02214c18", "a file compressed with lz4 (legacy frame)", _UNPACK),
    ("1f9d", "a file compressed with compress", _UNPACK),
    ("504b0304", "a zip archive", _UNPACK),
    ("377abcaf271c", "a 7z archive", _UNPACK),
    ("526172211a07", "a rar archive", _UNPACK),
    ("736e6f6f70000000", "a snoop capture", _CONVERT),
    ("474d4255", "a Microsoft Network Monitor 2 capture", _CONVERT),
    ("52545353", "a Microsoft Network Monitor 1 capture", _CONVERT),
    ("6274736e6f6f7000", "a btsnoop capture", _CONVERT),
    ("6970747261636520", "an AIX iptrace capture", _CONVERT),
    ("5452534e4946462064617461", "a Sniffer capture", _CONVERT),
    ("58435000", "a NetXray or Sniffer capture", _CONVERT),
    ("564c0000", "a NetXray capture", _CONVERT),
    ("7f766572", "an OmniPeek capture", _CONVERT),
    ("4c4f4747", "a Vector BLF log", _CONVERT),
    ("05564e46", "a Visual Networks capture", _CONVERT),
    ("a1b234cd", "a pcap variant (magic a1b234cd)", _CONVERT),
    ("cd34b2a1", "a pcap variant (magic a1b234cd)", _CONVERT),
    ("a12b3c4d", "a pcap variant (magic a12b3c4d)", _CONVERT),
    ("4d3c2ba1", "a pcap variant (magic a12b3c4d)", _CONVERT),
    ("1c0001ac", "a pcap variant of IXIA", _CONVERT),
    ("ac01001c", "a pcap variant of IXIA", _CONVERT),
    ("1c0001ab", "a pcap variant of IXIA", _CONVERT),
    ("ab01001c", "a pcap variant of IXIA", _CONVERT),
)
"""Captures and packed files that are known but not read: (hexadecimal prefix, what it is, what to do)."""

_OTHER_FILES = (
    ("25504446", "a PDF document"),
    ("7f454c46", "a program (ELF)"),
    ("4d5a", "a program (Windows)"),
    ("89504e47", "a PNG picture"),
    ("ffd8ff", "a JPEG picture"),
    ("53514c69746520666f726d61742033", "an SQLite database"),
)
"""Files that are no capture: (hexadecimal prefix, what it is)."""


def sniff(window: Window, name: str) -> Kind:
    """Tell the kind of a capture from its first octets, and use none of them up.

    Args:
        window: Stands at the first octet of the file.
        name: Name of the file, for the errors.

    Raises:
        NotACaptureError: The file is empty, or something else than a capture.
        TruncatedCaptureError: A pcapng file that ends before its byte order is known.
        UnsupportedCaptureError: A capture or packed file of a known kind that is not read.
    """
    window.fill(4)
    magic = window.peek(4)
    if magic in PCAP_MAGICS:
        return Kind.PCAP
    offset = window.offset
    if magic == _PCAPNG_BLOCK:
        whole = window.fill(_PCAPNG_HEAD_OCTETS)
        if whole and window.peek(_PCAPNG_HEAD_OCTETS)[8:] in _PCAPNG_ORDERS:
            return Kind.PCAPNG
        if not whole:
            text = "the file ends inside its section header; get the file again from where it was captured"
            raise TruncatedCaptureError(text, file=name, offset=offset, needed=_PCAPNG_HEAD_OCTETS, had=window.left)
    window.fill(_LOOK_OCTETS)
    start = window.peek(_LOOK_OCTETS)
    for prefix, what, advice in _UNSUPPORTED:
        if start.startswith(bytes.fromhex(prefix)):
            raise UnsupportedCaptureError(f"this is {what}, which is not read; {advice}", file=name, offset=offset)
    raise NotACaptureError(f"not a packet capture: {_describe(start)}; give a pcap or pcapng file", file=name)


def _describe(start: bytes) -> str:
    """What a file that is no capture looks like, from its first octets."""
    if not start:
        return "the file is empty"
    for prefix, what in _OTHER_FILES:
        if start.startswith(bytes.fromhex(prefix)):
            return f"it looks like {what}"
    if all(octet >= 0x20 or octet in b"\t\n\r\f" for octet in start) and _is_utf8(start):
        return "it looks like text"
    if not any(start):
        return "it begins with zeros only"
    return f"it begins with the octets {start[:8].hex(' ')}"


def _is_utf8(start: bytes) -> bool:
    """Whether the octets are UTF-8; where the file goes on behind them, the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) < _LOOK_OCTETS)
    except UnicodeDecodeError:
        return False
    return True
