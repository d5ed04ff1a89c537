"""The room `buffers`: one ring, many readers, held against lists.

A packet of these tests holds its own number: four octets, repeated and cut to its size. So what a reader gets can be
checked against the packet alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.buffers import Reader, Ring, Stream
from traceflow.errors import UsageError
from traceflow.filters.contract import Selection
from traceflow.packets import FRAME, PACKET, Batch


def octets_of(number: int, size: int) -> bytes:
    return (number.to_bytes(4, "big") * (size // 4 + 1))[:size]


def batch_of(sizes: Sequence[int], first: int) -> Batch:
    """Frames of such sizes, numbered from `first`; their time is their number."""
    parts = [octets_of(first + at, size) for at, size in enumerate(sizes)]
    frames = np.zeros(len(sizes), FRAME)
    frames["captured"] = frames["wire"] = sizes
    frames["start"] = np.cumsum(sizes) - sizes
    frames["time_ns"] = np.arange(first, first + len(sizes))
    return Batch(np.frombuffer(b"".join(parts) + b"\0", np.uint8), frames, first, first)


def selection(indexes: Sequence[int], limits: Sequence[int] | None = None) -> Selection:
    return Selection(np.array(indexes, np.uint32), None if limits is None else np.array(limits, np.uint32))


class Writer:
    """Stores batches of frames, one after the other."""

    def __init__(self, ring: Ring) -> None:
        self.ring, self.next = ring, 1
        ring.devices.append("lab")

    def store(self, sizes: Sequence[int], *wanted: tuple[Stream, Selection]) -> None:
        columns = np.zeros(len(sizes), PACKET)
        columns["src_port"] = np.arange(self.next, self.next + len(sizes)) % 65536
        self.ring.store(batch_of(sizes, self.next), columns, [one for one in wanted if len(one[1])])
        self.next += len(sizes)

    def store_all(self, stream: Stream, *sizes: int) -> None:
        self.store(sizes, (stream, selection(range(len(sizes)))))


def numbers(reader: Reader, most: int = 1000) -> list[int]:
    """Read, and hold each packet against its number."""
    packets = reader.take(most)
    for packet in packets:
        assert packet.octets == octets_of(packet.number, len(packet.octets))
        assert (packet.time_ns, packet.src_port, packet.device) == (packet.number, packet.number % 65536, "lab")
    return [packet.number for packet in packets]


def active(ring: Ring, stream: Stream) -> Reader:
    reader = ring.reader(stream)
    reader.activate()
    return reader


def test_readers_of_one_stream_read_at_their_own_pace_and_a_packet_is_stored_once() -> None:
    ring = Ring(1000, 10)
    writer, stream, other = Writer(ring), ring.stream(), ring.stream()
    one, two, third = active(ring, stream), active(ring, stream), active(ring, other)
    writer.store([10] * 4, (stream, selection([0, 1, 3])), (other, selection([1, 2])))
    assert ring.stored == 4  # frames 1, 2, 4 for one stream, 2, 3 for the other: four packets, not five
    assert numbers(one, 2) == [1, 2]
    assert numbers(two) == [1, 2, 4]
    assert numbers(third) == [2, 3]
    assert (one.waiting, one.taken, two.waiting) == (1, 2, 0)
    assert numbers(one) == [4]


def test_each_reader_has_the_octets_that_its_own_limit_leaves() -> None:
    """Frame 1 has 8 octets; one branch may look at 3, the other at all: the ring keeps 8. Of frame 2 nobody wants
    more than 5."""
    ring = Ring(1000, 10)
    writer, cut, whole = Writer(ring), ring.stream(), ring.stream()
    short, long = active(ring, cut), active(ring, whole)
    writer.store([8, 8], (cut, selection([0, 1], [3, 5])), (whole, selection([0])))
    packets = short.take(9)
    assert [packet.octets for packet in packets] == [octets_of(1, 3), octets_of(2, 5)]
    assert [int(packet.frame["captured"]) for packet in packets] == [3, 5]
    assert [packet.wire for packet in packets] == [8, 8]
    assert long.take(9)[0].octets == octets_of(1, 8)


def test_overwriting_each_reader_counts_its_own_losses() -> None:
    """A ring of three packets gets seven. Who read the first two has lost 3 and 4, who read none has lost 1 to 4."""
    ring = Ring(1000, 3)
    writer, stream = Writer(ring), ring.stream()
    quick, slow = active(ring, stream), active(ring, stream)
    writer.store_all(stream, 10, 10)
    assert numbers(quick) == [1, 2]
    writer.store_all(stream, *[10] * 5)
    assert (quick.lost, slow.lost) == (2, 4)
    assert numbers(quick) == numbers(slow) == [5, 6, 7]
    assert (ring.dropped, quick.dropped) == (0, 0)


def test_dropping_what_an_active_reader_has_not_read_stays() -> None:
    """A ring of three packets: 1 to 3 stay, 4 and 5 are dropped; the reader reads 1, then 6 finds room."""
    ring = Ring(1000, 3, "drop")
    writer, stream = Writer(ring), ring.stream()
    quick, slow = active(ring, stream), active(ring, stream)
    writer.store_all(stream, *[10] * 5)
    assert numbers(quick) == [1, 2, 3]
    assert numbers(slow, 1) == [1]
    writer.store_all(stream, 10)
    assert numbers(quick) == [6]
    assert numbers(slow) == [2, 3, 6]
    assert (ring.dropped, quick.dropped, slow.dropped, slow.lost) == (2, 2, 2, 0)


@pytest.mark.parametrize("end", ["pause", "close"])
def test_a_reader_that_is_paused_or_closed_holds_nobody(end: str) -> None:
    ring = Ring(1000, 3, "drop")
    writer, stream = Writer(ring), ring.stream()
    idle, busy = active(ring, stream), active(ring, stream)
    writer.store_all(stream, 10, 10)
    getattr(idle, end)()
    assert numbers(busy) == [1, 2]
    writer.store_all(stream, 10, 10, 10)
    assert numbers(busy) == [3, 4, 5]
    assert ring.dropped == 0
    assert (idle.waiting, idle.lost) == (0, 2 if end == "pause" else 0)  # what was given up is not lost


def test_a_reader_is_given_nothing_while_it_is_paused() -> None:
    ring = Ring(1000, 10)
    writer, stream = Writer(ring), ring.stream()
    reader, other = active(ring, stream), active(ring, stream)
    writer.store_all(stream, 10)
    reader.pause()
    writer.store_all(stream, 10)
    reader.activate()
    writer.store_all(stream, 10)
    assert numbers(reader) == [1, 3]
    assert numbers(other) == [1, 2, 3]


def test_a_packet_lies_in_one_piece() -> None:
    """40 octets: packets of 15 begin at 0 and 15; the third would cross the end, so it begins anew at 0, over the
    first. The fourth, at 15, goes over the second."""
    ring = Ring(40, 10)
    writer, stream = Writer(ring), ring.stream()
    reader = active(ring, stream)
    writer.store_all(stream, 15, 15, 15)
    assert (reader.waiting, reader.lost) == (2, 1)
    writer.store_all(stream, 15)
    assert numbers(reader) == [3, 4]
    assert reader.lost == 2


def test_what_is_longer_than_the_ring_is_dropped_and_nothing_else() -> None:
    ring = Ring(20, 10)
    writer, stream = Writer(ring), ring.stream()
    reader = active(ring, stream)
    writer.store_all(stream, 5, 21, 20)
    assert numbers(reader) == [3]
    assert (ring.dropped, reader.dropped, reader.lost) == (1, 1, 1)
    writer.store_all(stream, 0, 0)
    assert numbers(reader) == [4, 5]


def test_a_place_of_a_frame_that_lies_outside_of_its_batch_is_not_read() -> None:
    ring = Ring(1000, 10)
    stream = ring.stream()
    reader = active(ring, stream)
    batch = batch_of([10, 10], 1)
    batch.frames["start"] = [4_000_000_000, 12]  # the buffer has 21 octets
    ring.store(batch, np.zeros(2, PACKET), [(stream, selection([0, 1]))])
    assert (ring.dropped, reader.waiting) == (2, 0)


@pytest.mark.parametrize(("given_", "words"), [
    ({"octets": 0}, "0 octets"), ({"octets": 2**32}, "octets"), ({"packets": 0}, "0 packets"),
    ({"packets": True}, "True"), ({"mode": "over"}, "Did you mean overwrite"),
])  # fmt: skip
def test_a_ring_that_cannot_be(given_: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Ring(**given_)  # type: ignore[arg-type]


class ListReader:
    """A reader as a list: the numbers that it was given and has not read, and how often it was given none."""

    def __init__(self) -> None:
        self.unread: list[int] = []
        self.lost = self.dropped = 0
        self.active = True


moves = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6)),
        st.tuples(st.sampled_from(["pause", "activate"]), st.integers(0, 2)),
        st.tuples(st.just("take"), st.integers(0, 2), st.integers(1, 4)),
    ),
    max_size=40,
)


@given(moves, st.integers(1, 7), st.sampled_from(["overwrite", "drop"]))
def test_the_ring_does_what_lists_do(done: list[tuple], packets: int, mode: str) -> None:  # type: ignore[type-arg]
    """Two streams, two readers of the first and one of the second, octets enough: a list of all packets that are there,
    and a list of what each reader was given."""
    ring = Ring(1 << 16, packets, mode)
    writer, streams = Writer(ring), (ring.stream(), ring.stream())
    of_stream = (0, 0, 1)
    readers = [active(ring, streams[at]) for at in of_stream]
    models = [ListReader() for _ in readers]
    there: list[int] = []
    for what, *rest in done:
        if what == "store":
            wanted = [[i for i, pair in enumerate(rest[0]) if pair[at]] for at in (0, 1)]
            held = min((one.unread[0] for one in models if one.active and one.unread), default=None)
            if held is None:
                held = writer.next  # what comes in this batch holds itself
            for i, pair in enumerate(rest[0]):
                number, room = writer.next + i, True
                if not any(pair):
                    continue
                if len(there) == packets:
                    room = mode == "overwrite" or there[0] < held
                    if room:
                        gone = there.pop(0)
                        for model in models:
                            if gone in model.unread:
                                model.unread.remove(gone)
                                model.lost += 1
                if room:
                    there.append(number)
                for at, model in zip(of_stream, models, strict=True):
                    if pair[at] and model.active:
                        model.unread += [number] * room
                        model.dropped += not room
            pairs = [(stream, selection(some)) for stream, some in zip(streams, wanted, strict=True)]
            writer.store([1 + i for i in range(len(rest[0]))], *pairs)
        elif what == "take":
            reader, model = readers[rest[0]], models[rest[0]]
            assert numbers(reader, rest[1]) == model.unread[: rest[1]]
            del model.unread[: rest[1]]
        else:
            getattr(readers[rest[0]], what)()
            models[rest[0]].active = what == "activate"
        for reader, model in zip(readers, models, strict=True):
            assert (reader.waiting, reader.lost, reader.dropped) == (len(model.unread), model.lost, model.dropped)
            assert [reader.time_ns(at) for at in range(reader.waiting)] == model.unread


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), max_size=25), st.integers(20, 120),
       st.sampled_from(["overwrite", "drop"]), st.integers(0, 8))  # fmt: skip
def test_nothing_is_lost_without_being_counted(batches: list[list[int]], octets: int, mode: str, most: int) -> None:
    """Octets are short. Every packet was read, waits, was lost, or was dropped; and the last ones, as many as fit
    beside one gap at the end of the ring, are there."""
    ring = Ring(octets, 8, mode)
    writer, stream = Writer(ring), ring.stream()
    reader, read, sizes = active(ring, stream), 0, [size for batch in batches for size in batch]
    for batch in batches:
        writer.store_all(stream, *batch)
        got = numbers(reader, most) if most else []
        read += len(got)
        assert got == sorted(set(got))
    assert read + reader.waiting + reader.lost + reader.dropped == len(sizes)
    if mode == "drop":
        assert reader.lost == 0
    elif most == 0:
        left, room = 0, octets - max(sizes, default=0)
        for size in reversed(sizes[-8:]):
            room -= size
            if room < 0:
                break
            left += 1
        assert reader.waiting >= left
    assert numbers(reader)[-1:] in ([], [len(sizes)]) or mode == "drop" or max(sizes) > octets
