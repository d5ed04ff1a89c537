"""Numbers, addresses and octets to text, in kernels: each writes at a place of a buffer and returns the place behind.

What they write is what Python writes: `repr` of integers, `bytes.hex`, `socket.inet_ntop`, JSON text of octets decoded
as UTF-8 with U+FFFD for what is not. They work on words: eight characters are computed in a register and stored at
once, so up to seven octets behind the text are overwritten; whoever calls has room for them. Bounds are checked.
"""

from __future__ import annotations

import string
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, load_word, outline_kernel, put_octets, store_word

__all__ = [
    "put_base64",
    "put_decimal",
    "put_epoch",
    "put_hex",
    "put_ip4",
    "put_ip6",
    "put_json",
    "put_mac",
    "put_tree",
]


def _words(texts: list[bytes]) -> npt.NDArray[np.uint64]:
    """Texts of up to eight octets as words for `store_word`."""
    return np.array([int.from_bytes(text.ljust(8, b"\0"), "little") for text in texts], np.uint64)


_JSON_TEXTS = [encode_basestring_ascii(bytes([octet]).decode(errors="replace"))[1:-1].encode() for octet in range(256)]
_JSON = _words(_JSON_TEXTS)
"""An octet in JSON text; those that begin no character are U+FFFD."""
_JSON_SIZES = np.array([len(text) for text in _JSON_TEXTS], np.uint8)
_JSON_SIZES[0xC2:0xF5] = 0  # may begin a character of several octets (RFC 3629)

_DECIMAL = _words([f"{octet}.".encode() for octet in range(256)])
_DECIMAL_SIZES = np.array([len(f"{octet}.") for octet in range(256)], np.uint8)
_HEX = _words([f"{octet:02x} ".encode() for octet in range(256)])

_BASE64 = np.frombuffer(f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/".encode(), np.uint8)

_ONES = 0x0101010101010101
_HIGHS = 0x8080808080808080
_REPLACED = int(_words([b"\\ufffd"])[0])
_ESCAPED = int(_words([b"\\u"])[0])


@inline_kernel
def _eight_digits(value: Any) -> Any:
    """The digits of a number below 10**8, as eight octets of values 0 to 9, the first digit lowest.

    Halves, quarters and digits are parted in lanes of one register; the factors are reciprocals rounded up.
    """
    high = value // U64(10_000)
    x = high | ((value - high * U64(10_000)) << U64(32))
    q = ((x * U64(10_486)) >> U64(20)) & U64(0x0000007F0000007F)
    x = q | ((x - q * U64(100)) << U64(16))
    q = ((x * U64(103)) >> U64(10)) & U64(0x000F000F000F000F)
    return q | ((x - q * U64(10)) << U64(8))


@inline_kernel
def _put_short(out: Any, at: Any, value: Any) -> Any:
    """A number below 10**8 without leading zeros."""
    digits = U64(1)
    digits += U64(value > U64(9)) + U64(value > U64(99)) + U64(value > U64(999)) + U64(value > U64(9_999))
    digits += U64(value > U64(99_999)) + U64(value > U64(999_999)) + U64(value > U64(9_999_999))
    text = _eight_digits(value) + U64(0x30 * _ONES)
    store_word(out, at, text >> ((U64(8) - digits) << U64(3)))
    return at + digits


@inline_kernel
def _put_padded(out: Any, at: Any, value: Any) -> Any:
    """A number below 10**8 with leading zeros."""
    store_word(out, at, _eight_digits(value) + U64(0x30 * _ONES))
    return at + U64(8)


@outline_kernel
def _put_long(out: Any, at: Any, value: Any) -> Any:
    upper = value // U64(100_000_000)
    if upper < U64(100_000_000):
        at = _put_short(out, at, upper)
    else:
        top = upper // U64(100_000_000)
        at = _put_padded(out, _put_short(out, at, top), upper - top * U64(100_000_000))
    return _put_padded(out, at, value - upper * U64(100_000_000))


@inline_kernel
def put_decimal(out: Any, at: Any, value: Any) -> Any:
    """A uint64 in decimal."""
    if value < U64(100_000_000):
        return _put_short(out, at, value)
    return _put_long(out, at, value)


@outline_kernel
def put_epoch(out: Any, at: Any, time_ns: Any, digits: Any) -> Any:
    """Seconds with `digits` (6 or 9) behind the point, of nanoseconds that are not negative."""
    seconds = time_ns // U64(1_000_000_000)
    rest = time_ns - seconds * U64(1_000_000_000)
    at = put_decimal(out, at, seconds)
    store_word(out, at, U64(0x2E))
    at += U64(1)
    if digits == U64(6):
        text = _eight_digits(rest // U64(1000)) + U64(0x30 * _ONES)
        store_word(out, at, text >> U64(16))
        return at + U64(6)
    at = _put_padded(out, at, rest // U64(10))
    store_word(out, at, U64(0x30) + rest % U64(10))
    return at + U64(1)


@outline_kernel
def put_mac(out: Any, at: Any, octets: Any, start: Any) -> Any:
    """Six octets as `02:00:00:00:00:0a`."""
    for i in range(6):
        word = _HEX[octets[start + U64(i)]]
        store_word(out, at, (word & U64(0xFFFF)) | U64(0x3A0000))
        at += U64(3)
    return at - U64(1)


@outline_kernel
def put_ip4(out: Any, at: Any, octets: Any, start: Any) -> Any:
    """Four octets as `192.0.2.1`."""
    for i in range(4):
        octet = octets[start + U64(i)]
        store_word(out, at, _DECIMAL[octet])
        at += U64(_DECIMAL_SIZES[octet])
    return at - U64(1)


@inline_kernel
def _group(octets: Any, start: Any, index: Any) -> Any:
    """One of the eight numbers of an IPv6 address."""
    place = start + (index << U64(1))
    return (U64(octets[place]) << U64(8)) | U64(octets[place + U64(1)])


@inline_kernel
def _hex_digit(value: Any) -> Any:
    return value + (U64(0x57) if value > U64(9) else U64(0x30))


@outline_kernel
def put_ip6(out: Any, at: Any, octets: Any, start: Any) -> Any:
    """Sixteen octets as RFC 5952 has it: the first longest run of zeros, two groups at least, is `::`.

    Not for mapped and compatible addresses, whose last four octets have the form of IPv4.
    """
    best = U64(8)
    longest = U64(1)
    run = U64(0)
    for i in range(8):
        run = run + U64(1) if _group(octets, start, U64(i)) == U64(0) else U64(0)
        if run > longest:
            longest = run
            best = U64(i) + U64(1) - run
    index = U64(0)
    while index < U64(8):
        if index == best:
            store_word(out, at, U64(0x3A3A))
            at += U64(2)
            index += longest
            continue
        if index > U64(0) and index != best + longest:
            store_word(out, at, U64(0x3A))
            at += U64(1)
        value = _group(octets, start, index)
        shift = U64(12)
        while shift > U64(0) and value >> shift == U64(0):
            shift -= U64(4)
        while True:
            store_word(out, at, _hex_digit((value >> shift) & U64(15)))
            at += U64(1)
            if shift == U64(0):
                break
            shift -= U64(4)
        index += U64(1)
    return at


@inline_kernel
def _eight_hex(x: Any) -> Any:
    """Four octets, the first lowest, as eight hexadecimal digits."""
    x = (x | (x << U64(16))) & U64(0x0000FFFF0000FFFF)
    x = (x | (x << U64(8))) & U64(0x00FF00FF00FF00FF)
    x = ((x >> U64(4)) | (x << U64(8))) & U64(0x0F0F0F0F0F0F0F0F)
    letters = ((x + U64(6 * _ONES)) >> U64(4)) & U64(_ONES)
    return x + U64(0x30 * _ONES) + letters * U64(39)


@outline_kernel
def put_hex(out: Any, at: Any, octets: Any, start: Any, stop: Any) -> Any:
    """Octets in hexadecimal."""
    while start + U64(8) <= stop:
        word = load_word(octets, start)
        store_word(out, at, _eight_hex(word & U64(0xFFFFFFFF)))
        store_word(out, at + U64(8), _eight_hex(word >> U64(32)))
        at += U64(16)
        start += U64(8)
    while start < stop:
        store_word(out, at, _HEX[octets[start]])
        at += U64(2)
        start += U64(1)
    return at


@inline_kernel
def _zero_octets(word: Any) -> Any:
    """A bit in each octet of a word that is zero; the first found is right, more may be wrong."""
    return (word - U64(_ONES)) & ~word & U64(_HIGHS)


@inline_kernel
def _is_plain(word: Any) -> Any:
    """Whether eight octets are printable ASCII without quotation mark and backslash: JSON text as they are."""
    odd = (word & U64(_HIGHS)) | ((word - U64(0x20 * _ONES)) & U64(_HIGHS))
    odd |= _zero_octets(word ^ U64(0x22 * _ONES)) | _zero_octets(word ^ U64(0x5C * _ONES))
    return (odd | _zero_octets(word ^ U64(0x7F * _ONES))) == U64(0)


@inline_kernel
def _four_hex(value: Any) -> Any:
    """A number below 2**16 as four digits in a word, the first lowest."""
    text = _hex_digit(value >> U64(12)) | (_hex_digit((value >> U64(8)) & U64(15)) << U64(8))
    text |= _hex_digit((value >> U64(4)) & U64(15)) << U64(16)
    return text | (_hex_digit(value & U64(15)) << U64(24))


@inline_kernel
def _escape(value: Any) -> Any:
    r"""`\u` and four digits."""
    return U64(_ESCAPED) | (_four_hex(value) << U64(16))


@inline_kernel
def _second_is_good(first: Any, second: Any) -> Any:
    """Whether an octet may be the second of a character of three or four (RFC 3629, section 4)."""
    low, high = U64(0x80), U64(0xBF)
    if first == U64(0xE0):
        low = U64(0xA0)
    elif first == U64(0xED):
        high = U64(0x9F)
    elif first == U64(0xF0):
        low = U64(0x90)
    elif first == U64(0xF4):
        high = U64(0x8F)
    return second >= low and second <= high


@outline_kernel
def _character(octets: Any, start: Any, stop: Any) -> Any:
    """A character whose first octet is 0xC2 to 0xF4.

    Returns:
        (its octets, its code point): U+FFFD for as much of one as there is, as Python's decoder counts it.
    """
    first = U64(octets[start])
    size = U64(2) + U64(first >= U64(0xE0)) + U64(first >= U64(0xF0))
    code = first & (U64(0x7F) >> size)
    used = U64(1)
    while used < size:
        if start + used >= stop:
            return used, U64(0xFFFD)
        octet = U64(octets[start + used])
        if octet & U64(0xC0) != U64(0x80) or (used == U64(1) and not _second_is_good(first, octet)):
            return used, U64(0xFFFD)
        code = (code << U64(6)) | (octet & U64(0x3F))
        used += U64(1)
    return size, code


@outline_kernel
def _put_character(out: Any, at: Any, code: Any) -> Any:
    """A character beyond ASCII, escaped; two escapes beyond U+FFFF."""
    if code > U64(0xFFFF):
        code -= U64(0x10000)
        store_word(out, at, _escape(U64(0xD800) | (code >> U64(10))))
        at += U64(6)
        code = U64(0xDC00) | (code & U64(0x3FF))
    store_word(out, at, _escape(code))
    return at + U64(6)


@outline_kernel
def put_json(out: Any, at: Any, octets: Any, start: Any, stop: Any) -> Any:
    """Octets as JSON text between its quotation marks; eight at once where they are plain."""
    slow = U64(0)  # up to here eight octets were not plain
    while start < stop:
        if start >= slow and start + U64(8) <= stop:
            word = load_word(octets, start)
            if _is_plain(word):
                store_word(out, at, word)
                at += U64(8)
                start += U64(8)
                continue
            slow = start + U64(8)
        octet = octets[start]
        size = U64(_JSON_SIZES[octet])
        if size:
            store_word(out, at, _JSON[octet])
            at += size
            start += U64(1)
            continue
        used, code = _character(octets, start, stop)
        start += used
        at = _put_character(out, at, code)
    return at


@outline_kernel
def put_base64(out: Any, at: Any, octets: Any, start: Any, stop: Any) -> Any:
    """Octets in base64 (RFC 4648, section 4), padded."""
    while start < stop:
        word = U64(0)
        left = min(stop - start, U64(3))
        for i in range(3):
            word = (word << U64(8)) | (U64(octets[start + U64(i)]) if U64(i) < left else U64(0))
        text = U64(_BASE64[word >> U64(18)]) | (U64(_BASE64[(word >> U64(12)) & U64(63)]) << U64(8))
        third = U64(_BASE64[(word >> U64(6)) & U64(63)]) if left > U64(1) else U64(0x3D)
        fourth = U64(_BASE64[word & U64(63)]) if left > U64(2) else U64(0x3D)
        store_word(out, at, text | (third << U64(16)) | (fourth << U64(24)))
        at += U64(4)
        start += left
    return at


@outline_kernel
def put_tree(out: Any, at: Any, octets: Any, start: Any, stop: Any, texts: Any, op: Any) -> Any:
    """Octets in hexadecimal with spaces, sixteen on a line.

    Args:
        out: The buffer.
        at: Where to write.
        octets: Where the octets are.
        start: The first.
        stop: Behind the last.
        texts: From the place `a` of the operation on: what stands for none, before a line, before the first of several
            lines, between them; of 16 and 16 and 64 octets at most, as the bits of `mask` say (16 bits each).
        op: The operation.
    """
    sizes = U64(op["mask"])
    none, one = sizes & U64(0xFFFF), (sizes >> U64(16)) & U64(0xFFFF)
    several, between = (sizes >> U64(32)) & U64(0xFFFF), sizes >> U64(48)
    place = U64(op["a"])
    if start >= stop:
        put_octets(out, at, texts, place, none)
        return at + none
    place += none
    if stop - start > U64(16):
        place += one
        one = several
    put_octets(out, at, texts, place, one)
    at += one
    place = U64(op["a"]) + none + ((sizes >> U64(16)) & U64(0xFFFF)) + several
    on_line = U64(0)
    while True:
        store_word(out, at, _HEX[octets[start]])
        at += U64(3)
        start += U64(1)
        on_line += U64(1)
        if start >= stop:
            return at - U64(1)
        if on_line == U64(16):
            at -= U64(1)
            put_octets(out, at, texts, place, between)
            at += between
            on_line = U64(0)
