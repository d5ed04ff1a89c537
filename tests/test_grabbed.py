"""The room `grabbed`: packets as users get them are copies, by themselves and in slices."""

from __future__ import annotations

import numpy as np
import pytest

from traceflow.grabbing.grabbed import NOTE, Packet, Packets
from traceflow.packets import FRAME, PACKET


def three() -> Packets:
    """Three frames: `ab`, nothing, `cde`; the last one is TCP from 10.0.0.1, port 80."""
    frames, columns, notes = np.zeros(3, FRAME), np.zeros(3, PACKET), np.zeros(3, NOTE)
    frames["start"], frames["captured"], frames["wire"], frames["link"] = [0, 2, 2], [2, 0, 3], [2, 60, 90], 1
    frames["time_ns"] = [10, 20, 30]
    last = columns[2:]
    last["ip_version"], last["protocol"], last["src_port"], last["src_lo"] = 4, 6, 80, 0xFFFF_0A000001
    notes["number"], notes["flow"], notes["device"] = [4, 5, 9], [0, 0, 2], [0, 1, 1]
    return Packets(np.frombuffer(b"abcde", np.uint8), frames, columns, notes, ["eth0", "eth1"])


def test_one_packet_knows_what_is_known() -> None:
    packet = three()[2]
    assert (packet.number, packet.octets, packet.time_ns, packet.wire, packet.link) == (9, b"cde", 30, 90, 1)
    assert (packet.src, packet.src_port, packet.protocol, packet.flow, packet.device) == ("10.0.0.1", 80, 6, 2, "eth1")
    assert repr(packet) == "<Packet 9 at 0.000000, 3 of 90 octets>"
    assert len(packet) == 3


def test_where_there_is_no_ip_packet_there_are_no_addresses() -> None:
    packet = three()[0]
    assert (packet.src, packet.dst, packet.dst_port) == ("", "", 0)


def test_some_packets_are_a_sequence() -> None:
    packets = three()
    assert [packet.octets for packet in packets] == [b"ab", b"", b"cde"]
    assert [packet.number for packet in packets[1:]] == packets[1:].numbers.tolist() == [5, 9]
    assert packets[-1].number == 9
    assert packets.flows.tolist() == [0, 0, 2]
    assert isinstance(packets[0], Packet)
    assert repr(packets) == "<3 Packets, 5 octets>"
    assert (len(Packets.none()), list(Packets.none())) == (0, [])
    with pytest.raises(IndexError):
        packets[3]
