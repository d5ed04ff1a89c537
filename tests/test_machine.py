"""The room `filters/machine`: instructions one by one, programs that are refused, and random ones against a model.

Expected values are by hand from McCanne and Jacobson's paper and bpf(4); tests/bpf_model.py is a slow machine that
shares no code with ours.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence

import bpf_model
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.compiled import COMPILED
from traceflow.errors import LibraryMissingError
from traceflow.filters.machine import CODE, PROGRAM_MAX, Machine, ProgramError, checked, execute
from traceflow.libpcap import PROGRAM, library
from traceflow.packets import FRAME

OCTETS = bytes.fromhex("45 00 01 02 ff fe fd fc 81 00")
"""Of the frame that programs look at, 10 octets; on the wire it had 1500."""
WIRE = 1500


def keeps(
    program: Sequence[tuple[int, int, int, int]], frames: Sequence[bytes] = (OCTETS,), limits: list[int] | None = None
) -> list[bool]:
    """Which frames a program lets through. Octets that are not theirs lie before and behind each of them."""
    buffer, rows = bytearray(b"\xaa\xaa\xaa"), np.zeros(len(frames), FRAME)
    for row, octets in zip(rows, frames, strict=True):
        row["start"], row["captured"], row["wire"] = len(buffer), len(octets), WIRE
        buffer += octets + b"\xaa\xaa\xaa\xaa"
    machine = Machine(np.array(list(program), PROGRAM))
    cut = None if limits is None else np.array(limits, np.uint32)
    return machine.run(np.frombuffer(bytes(buffer), np.uint8), rows, None, cut).tolist()


def ends_with(program: Sequence[tuple[int, int, int, int]], a: int) -> bool:
    """Whether a program without `ret` leaves this in the accumulator."""
    return keeps([*program, (0x15, 0, 1, a), (6, 0, 0, 1), (6, 0, 0, 0)]) == [True]


LDB0, LDX2 = (0x30, 0, 0, 0), (0x01, 0, 0, 2)
"""A = 0x45, X = 2."""


@pytest.mark.parametrize(("program", "a"), [
    ([(0x00, 0, 0, 7)], 7),
    ([(0x20, 0, 0, 2)], 0x0102FFFE),
    ([(0x28, 0, 0, 8)], 0x8100),
    ([(0x30, 0, 0, 9)], 0),
    ([LDX2, (0x40, 0, 0, 4)], 0xFDFC8100),  # 6 to 9, the last four
    ([LDX2, (0x48, 0, 0, 1)], 0x02FF),
    ([LDX2, (0x50, 0, 0, 6)], 0x81),
    ([(0x80, 0, 0, 0)], 1500),
    ([(0x81, 0, 0, 0), (0x87, 0, 0, 0)], 1500),
    ([(0xB1, 0, 0, 0), (0x87, 0, 0, 0)], 20),  # IHL 5, in octets
    ([(0xB1, 0, 0, 4), (0x87, 0, 0, 0)], 60),
    ([LDB0, (0x02, 0, 0, 15), (0x00, 0, 0, 1), (0x60, 0, 0, 15)], 0x45),
    ([LDX2, (0x03, 0, 0, 0), (0x60, 0, 0, 0)], 2),
    ([LDB0, (0x02, 0, 0, 3), (0x61, 0, 0, 3), (0x87, 0, 0, 0)], 0x45),
    ([(0x60, 0, 0, 5)], 0),  # memory begins as zeros
    ([LDB0, (0x07, 0, 0, 0), (0x00, 0, 0, 0), (0x87, 0, 0, 0)], 0x45),
    ([(0x00, 0, 0, 0xFFFFFFFF), (0x04, 0, 0, 2)], 1),
    ([LDX2, (0x00, 0, 0, 1), (0x1C, 0, 0, 0)], 0xFFFFFFFF),
    ([(0x00, 0, 0, 0x10001), (0x24, 0, 0, 0x10001)], 0x20001),  # 2**32 + 2 * 2**16 + 1
    ([LDX2, (0x00, 0, 0, 5), (0x2C, 0, 0, 0)], 10),
    ([(0x00, 0, 0, 0xFFFFFFFE), (0x34, 0, 0, 3)], 0x55555554),  # unsigned
    ([LDX2, (0x00, 0, 0, 7), (0x3C, 0, 0, 0)], 3),
    ([(0x00, 0, 0, 0xFFFFFFFF), (0x94, 0, 0, 10)], 5),  # 4294967295
    ([LDX2, (0x00, 0, 0, 7), (0x9C, 0, 0, 0)], 1),
    ([LDX2, (0x00, 0, 0, 5), (0x0C, 0, 0, 0)], 7),
    ([(0x00, 0, 0, 5), (0x14, 0, 0, 3)], 2),
    ([LDB0, (0x44, 0, 0, 0x0A)], 0x4F),
    ([LDX2, LDB0, (0x4C, 0, 0, 0)], 0x47),
    ([LDB0, (0x54, 0, 0, 0x0F)], 5),
    ([LDX2, (0x00, 0, 0, 7), (0x5C, 0, 0, 0)], 2),
    ([LDB0, (0xA4, 0, 0, 0xFF)], 0xBA),
    ([LDX2, LDB0, (0xAC, 0, 0, 0)], 0x47),
    ([LDB0, (0x64, 0, 0, 28)], 0x50000000),
    ([LDX2, LDB0, (0x6C, 0, 0, 0)], 0x114),
    ([LDB0, (0x74, 0, 0, 4)], 4),
    ([LDX2, LDB0, (0x7C, 0, 0, 0)], 0x11),
    ([LDB0, (0x64, 0, 0, 32)], 0),
    ([(0x01, 0, 0, 64), LDB0, (0x7C, 0, 0, 0)], 0),
    ([LDB0, (0x84, 0, 0, 0)], 0xFFFFFFBB),
    ([(0x84, 0, 0, 0)], 0),
    ([(0x05, 0, 0, 1), (0x00, 0, 0, 9), (0x04, 0, 0, 1)], 1),  # over the load
])  # fmt: skip
def test_instructions(program: list[tuple[int, int, int, int]], a: int) -> None:
    assert ends_with(program, a)
    assert not ends_with(program, a ^ 1)


@pytest.mark.parametrize(("jump", "yes", "no"), [(0x15, [5], [4, 6]), (0x25, [6, 0xFFFFFFFF], [5, 4]),
    (0x35, [5, 0x80000000], [4, 0]), (0x45, [1, 4, 7], [0, 2, 8])])  # fmt: skip
def test_jumps_compare_unsigned(jump: int, yes: list[int], no: list[int]) -> None:
    """With 5, from the instruction and from X."""
    for a in (*yes, *no):
        head = [(0x01, 0, 0, 5), (0x00, 0, 0, a)]
        for code in (jump, jump | 8):
            assert keeps([*head, (code, 0, 1, 5), (6, 0, 0, 1), (6, 0, 0, 0)]) == [a in yes]


def test_returns() -> None:
    assert keeps([(6, 0, 0, 0)]) == [False]
    assert keeps([(6, 0, 0, 1 << 31)]) == [True]
    assert keeps([(0x00, 0, 0, 3), (0x16, 0, 0, 0)]) == [True]
    assert keeps([(0x01, 0, 0, 3), (0x0E, 0, 0, 0)]) == [True]
    assert keeps([(0x01, 0, 0, 3), (0x16, 0, 0, 0)]) == [False]


@pytest.mark.parametrize("load", [
    *((0x20, 0, 0, k) for k in (7, 10, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF)),
    *((0x28, 0, 0, k) for k in (9, 10, 0xFFFFF000, 0xFFFFF02C)),  # the last two: Linux' own, SKF_AD_OFF and a VLAN tag
    *((0x30, 0, 0, k) for k in (10, 0xFFFFFFFF)),
    *((0xB1, 0, 0, k) for k in (10, 0xFFFFFFFF)),
    *((code, 0, 0, k) for code, k in ((0x40, 5), (0x48, 7), (0x50, 8), (0x40, 0xFFFFFFFE), (0x50, 0xFFFFFFFE))),
])  # fmt: skip
def test_loads_beyond_what_was_captured_reject(load: tuple[int, int, int, int]) -> None:
    """10 octets, X = 2: k + 2 + 4 > 10 from 5 on. X + k does not wrap to octets of the frame."""
    assert keeps([LDX2, load, (6, 0, 0, 1)]) == [False]


def test_the_limit_is_the_end_of_the_frame() -> None:
    program = [(0x28, 0, 0, 2), (6, 0, 0, 1)]
    assert keeps(program, [OCTETS] * 4, [4, 3, 0, 99]) == [True, False, False, True]
    assert keeps(program, [OCTETS[:4], OCTETS[:3], b""]) == [True, False, False]


@pytest.mark.parametrize("code", [0x3C, 0x9C])
def test_division_by_zero_rejects(code: int) -> None:
    assert keeps([(code, 0, 0, 0), (6, 0, 0, 1)]) == [False]


def test_some_frames_of_a_batch() -> None:
    """Frames 3, 0: those with 0x45 first."""
    rows = np.zeros(4, FRAME)
    rows["start"], rows["captured"] = [0, 1, 2, 3], 1
    machine = Machine(np.array([(0x30, 0, 0, 0), (0x15, 0, 1, 0x45), (6, 0, 0, 1), (6, 0, 0, 0)], PROGRAM))
    octets = np.array([0x45, 0, 0x45, 1], np.uint8)
    assert machine.run(octets, rows, np.array([1, 2, 3], np.uint32)).tolist() == [False, True, False]
    assert machine.run(octets, rows).tolist() == [True, False, True, False]
    assert machine.run(octets, rows[:0]).tolist() == []


def test_memory_is_not_that_of_the_frame_before() -> None:
    """M[1] is stored behind where it is read."""
    program = [(0x60, 0, 0, 1), (0x15, 1, 0, 0), (6, 0, 0, 0), (0x30, 0, 0, 0), (0x02, 0, 0, 1), (6, 0, 0, 1)]
    assert keeps(program, [OCTETS] * 3) == [True] * 3


def test_loops_end() -> None:
    """`ja -1` never ends by itself; a loop of twenty turns does: 20 down to 0."""
    assert keeps([(0x05, 0, 0, 0xFFFFFFFF), (6, 0, 0, 1)]) == [False]
    count = [(0x00, 0, 0, 20), (0x15, 2, 0, 0), (0x14, 0, 0, 1), (0x05, 0, 0, 0xFFFFFFFD), (6, 0, 0, 1)]
    assert keeps(count) == [True]


# --- programs that are refused -----------------------------------------------------------------------------------

RET = (6, 0, 0, 1)


@pytest.mark.parametrize(("program", "at", "words"), [
    ([], 0, "1 to 4096"),
    ([RET] * (PROGRAM_MAX + 1), 0, "4097 instructions"),
    ([(0x00, 0, 0, 1)], 0, "the last one does not return"),
    ([RET, (0x05, 0, 0, 0xFFFFFFFE)], 1, "the last one does not return"),
    ([(0xFF, 0, 0, 0), RET], 0, "an operation that there is not"),
    ([(0x106, 0, 0, 0), RET], 0, "an operation that there is not"),
    ([(0x8C, 0, 0, 0), RET], 0, "an operation that there is not"),
    ([RET, (0x15, 1, 0, 0), RET], 1, "out of the program"),
    ([(0x15, 0, 255, 0), RET], 0, "out of the program"),
    ([(0x05, 0, 0, 1), RET], 0, "out of the program"),
    ([(0x05, 0, 0, 0xFFFFFFFE), RET], 0, "out of the program"),
    ([(0x05, 0, 0, 0x7FFFFFFF), RET], 0, "out of the program"),
    ([RET, (0x60, 0, 0, 16), RET], 1, "16 words"),
    ([(0x03, 0, 0, 0xFFFFFFFF), RET], 0, "16 words"),
    ([(0x34, 0, 0, 0), RET], 0, "divides by zero"),
    ([(0x94, 0, 0, 0), RET], 0, "divides by zero"),
])  # fmt: skip
def test_refused(program: list[tuple[int, int, int, int]], at: int, words: str) -> None:
    assert not bpf_model.valid(program)
    with pytest.raises(ProgramError, match=words) as caught:
        checked(np.array(program, PROGRAM))
    assert caught.value.at == at


def test_other_arrays_are_no_programs() -> None:
    for array in (np.zeros(3, np.uint64), np.zeros((2, 2), PROGRAM)):
        with pytest.raises(ProgramError, match="one-dimensional"):
            checked(array)


def test_the_known_operations_are_those_of_the_model() -> None:
    """256 codes of one octet: 9 loads, 4 of X, 2 stores, 21 of arithmetic, 9 jumps, 3 returns, 2 moves."""
    known = []
    for code in range(256):
        try:
            checked(np.array([(code, 0, 0, 1), RET], PROGRAM))
        except ProgramError as error:
            if "there is not" in str(error):
                continue
        known.append(code)
    assert known == list(bpf_model.CODES)
    assert len(known) == 9 + 4 + 2 + 21 + 9 + 3 + 2


# --- the kernel alone: whatever it is given, it reads nothing that is not its own ----------------------------------


@pytest.mark.parametrize(("code", "captured"), [
    ([(0x05, 0, 7, 7)], 4),  # a jump behind the end
    ([(0x15, 0, 1 << 31, 1 << 31)], 4),
    ([(0x00, 0, 0, 0)], 4),  # no return
    ([(0x60, 16, 0, 0), (6, 1, 0, 0)], 4),
    ([(0x02, 0xFFFFFFFF, 0, 0), (6, 1, 0, 0)], 4),
    ([(0x20, 100, 0, 0), (6, 1, 0, 0)], 0xFFFFFFFF),  # a frame that claims octets which are not in the buffer
    ([(0x50, 100, 0, 0), (6, 1, 0, 0)], 0xFFFFFFFF),
    ([(0xB1, 100, 0, 0), (6, 1, 0, 0)], 0xFFFFFFFF),
])  # fmt: skip
def test_the_kernel_checks_its_bounds(code: list[tuple[int, int, int, int]], captured: int) -> None:
    frames = np.zeros(1, FRAME)
    frames["captured"] = captured
    arrays = (np.zeros(16, np.uint32), np.zeros(1, np.bool_))
    with pytest.raises(IndexError):
        execute(np.zeros(8, np.uint8), frames, np.array(code, CODE), np.zeros(1, np.uint32), arrays[0][:0], *arrays)


# --- random programs against the model ---------------------------------------------------------------------------


@given(
    st.integers(0, 2**64), st.integers(1, 40), st.booleans(), st.lists(st.binary(max_size=40), min_size=1, max_size=8)
)
def test_random_programs(seed: int, length: int, wild: bool, frames: list[bytes]) -> None:
    """Valid ones let through what the model lets through; the others are refused."""
    dice = random.Random(seed)
    program = bpf_model.random_program(dice, length, wild=wild)
    if not bpf_model.valid(program):
        with pytest.raises(ProgramError):
            checked(np.array(program, PROGRAM))
        return
    if not COMPILED and any(code == 5 and k >> 31 for code, _, _, k in program):
        return  # thousands of steps
    limits = [dice.randrange(50) for _ in frames]
    expected = [bpf_model.run(program, octets[:limit], WIRE) != 0 for octets, limit in zip(frames, limits, strict=True)]
    assert keeps(program, frames, limits) == expected


# --- and against libpcap's own machine ---------------------------------------------------------------------------


CLEARED = [(0x02, 0, 0, word) for word in range(16)]
"""Stores of zero in all of memory, which libpcap leaves as it finds it."""


def defined_in_libpcap(code: int, k: int) -> bool:
    """Whether its C says what an instruction does: it aborts on `ret x`, and shifts by more than 31 are undefined."""
    return code != 0x0E and not (code in (0x64, 0x74) and k > 31)


@pytest.mark.once("it calls C, which does not depend on the Python")
def test_libpcap_runs_random_programs_alike() -> None:
    """`bpf_filter` of the system's library, on programs that its `bpf_validate` accepts."""
    try:
        pcap = ctypes.CDLL(library()._name)
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")
    pcap.bpf_filter.restype = ctypes.c_uint
    pcap.bpf_filter.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
    pcap.bpf_validate.argtypes = [ctypes.c_void_p, ctypes.c_int]
    dice, compared, kept = random.Random(5), 0, 0
    for _ in range(1500):
        program = [*CLEARED, *bpf_model.random_program(dice, dice.randint(1, 30))]
        if not all(defined_in_libpcap(code, k) for code, _, _, k in program):
            continue
        ready = np.array(program, PROGRAM)
        assert pcap.bpf_validate(ready.ctypes.data, len(ready))
        frames = [dice.randbytes(dice.choice((0, 3, 14, 60))) for _ in range(4)]
        theirs = [pcap.bpf_filter(ready.ctypes.data, octets, WIRE, len(octets)) != 0 for octets in frames]
        assert keeps(program, frames) == theirs, program
        compared, kept = compared + len(frames), kept + sum(theirs)
    assert compared > 2000
    assert kept > compared // 20
