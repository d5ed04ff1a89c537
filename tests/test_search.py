"""The filter `search`: where it looks, and where it does not."""

from __future__ import annotations

import exchange
import numpy as np
from batches import passes, seen_of, tcp_frame, udp_frame
from exchange import ETHER_ARP, ETHER_IPV4, ethernet, ipv4, tcp

from traceflow.filters.contract import Selection
from traceflow.filters.search import find_needles

A, B = "10.0.0.1", "10.0.0.2"
HEADERS = 14 + 20 + 20  # Ethernet, IPv4, TCP


def test_payloads_are_searched_as_far_as_they_go() -> None:
    padded = tcp_frame(A, B, 1, 2, b"ab") + b"cNEEDLE"  # octets behind the IP packet, as short Ethernet frames have
    seen = seen_of(
        [
            tcp_frame(A, B, 1, 2, b"xxNEEDLE"),
            tcp_frame(A, B, 1, 2, b"xxNEEDL"),
            tcp_frame(A, B, 1, 2, b"xxNEEDLE")[:-1],  # its last octet was not captured
            padded,
            udp_frame(A, B, 1, 2, b"other"),
            tcp_frame(A, B, 1, 2),
            ethernet(b"NEEDLE" * 5, ETHER_ARP),
            ethernet(ipv4(A, B, exchange.TCP, tcp(A, B, 1, 2, options=b"NEEDLE")), ETHER_IPV4),
            tcp_frame(A, B, 1, 2, b"NNEEDLE"),
        ]
    )
    assert passes("(search,NEEDLE)", seen) == [0, 8]
    assert passes("(search,NEEDLE|the)", seen) == [0, 4, 8]
    assert passes("(search,NEEDLE|L|zz)", seen) == [0, 1, 2, 8]
    assert passes("~(search,NEEDLE|the)", seen) == [1, 2, 3, 5, 6, 7]
    assert passes("(search,c)", seen) == []  # the padding


def test_the_limit_ends_a_search() -> None:
    frame = tcp_frame(A, B, 1, 2, b"ab")
    seen = seen_of([frame] * 4)
    limits = [0, HEADERS, HEADERS + 1, HEADERS + 2]
    given = Selection(np.arange(4, dtype=np.uint32), np.array(limits, np.uint32))
    assert passes("(search,a)", seen, given) == [2, 3]
    assert passes("(search,ab)", seen, given) == [3]
    one = Selection(np.array([1], np.uint32), np.array([HEADERS + 1], np.uint32))
    assert passes("(search,a)", seen, one) == [1]
    assert passes("(search,ab)", seen, one) == []


def test_needles_are_octets_of_any_kind() -> None:
    seen = seen_of([udp_frame(A, B, 1, 2, bytes(range(256))), udp_frame(A, B, 1, 2, "é|".encode())])
    assert passes(r'(search,"\xfe\xff")', seen) == [0]
    assert passes(r'(search,"\x00")', seen) == [0]
    assert passes(r'(search,"é\|")', seen) == [1]


def test_nothing_is_read_outside_the_frame_whatever_decode_said() -> None:
    """Rows that contradict the frame: the payload begins behind it, or is longer than it."""
    seen = seen_of([udp_frame(A, B, 1, 2, b"a"), udp_frame(A, B, 1, 2, b"NEEDLE")])
    seen.packets["payload_octets"] = 2**32 - 1
    assert passes("(search,NEEDLE)", seen) == [1]  # the second frame lies behind the first, and is not read with it
    seen.packets["payload"] = 2**32 - 1
    assert passes("(search,NEEDLE)", seen) == []
    assert find_needles.__name__ == "find_needles"
