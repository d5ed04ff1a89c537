"""The machine that runs programs of classic BPF over the captured octets of a batch of frames.

Rules:

- a program is checked as a whole before anything runs (`checked`): every instruction is known, every jump ends inside
  the program and goes forward, memory has 16 words, and the last instruction returns. So it ends, and needs no clock;
- one jump may go back: `ja`, of which libpcap makes loops over chains of headers (`ip6 protochain 6`). A frame has
  so many steps back as it has octets, and some: each turn of such a loop passes eight octets;
- a load that is not wholly within the captured octets ends the program, and the frame is not let through. So do a
  division by zero and the offsets near 2**32 at which Linux has what is no octet of the frame;
- arithmetic is that of unsigned numbers of 32 bits; a shift by more than 31 gives 0; memory begins as zeros;
- `len` is the length on the wire, not that of what was captured.

That is what `bpf_filter` of libpcap does, so `tcpdump -r` lets the same frames through. Read first: S. McCanne and
V. Jacobson, The BSD Packet Filter, 1993; bpf(4) of FreeBSD.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from traceflow.compiled import U64, inline_kernel, kernel
from traceflow.libpcap import PROGRAM

__all__ = ["MEMORY_WORDS", "PROGRAM_MAX", "Machine", "ProgramError", "checked"]

PROGRAM_MAX: Final = 4096
"""Instructions of a program at most, as in the kernels of Linux and BSD."""

MEMORY_WORDS: Final = 16

CODE: Final = np.dtype([("code", "u4"), ("k", "u4"), ("jt", "u4"), ("jf", "u4")], align=True)
"""One instruction as the kernel takes it: places to jump to count from the first instruction."""

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
"""Classes of instructions, the lowest three bits."""

_LD_IMM, _LD_LEN, _LD_MEM = 0x00, 0x80, 0x60
_LDW_ABS, _LDH_ABS, _LDB_ABS = 0x20, 0x28, 0x30
_LDW_IND, _LDH_IND, _LDB_IND = 0x40, 0x48, 0x50
_LDX_IMM, _LDX_LEN, _LDX_MEM, _LDX_MSH = 0x01, 0x81, 0x61, 0xB1
_ST_MEM, _STX_MEM = 0x02, 0x03
_ADD_K, _SUB_K, _MUL_K, _DIV_K, _OR_K, _AND_K, _LSH_K, _RSH_K = 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74
_ADD_X, _SUB_X, _MUL_X, _DIV_X, _OR_X, _AND_X, _LSH_X, _RSH_X = 0x0C, 0x1C, 0x2C, 0x3C, 0x4C, 0x5C, 0x6C, 0x7C
_NEG, _MOD_K, _MOD_X, _XOR_K, _XOR_X = 0x84, 0x94, 0x9C, 0xA4, 0xAC
_JA, _JEQ_K, _JGT_K, _JGE_K, _JSET_K = 0x05, 0x15, 0x25, 0x35, 0x45
_JEQ_X, _JGT_X, _JGE_X, _JSET_X = 0x1D, 0x2D, 0x3D, 0x4D
_RET_K, _RET_X, _RET_A = 0x06, 0x0E, 0x16
_TAX, _TXA = 0x07, 0x87

_MEMORY: Final = (_LD_MEM, _LDX_MEM, _ST_MEM, _STX_MEM)
_DIVISIONS: Final = (_DIV_K, _MOD_K)
_BRANCHES: Final = (_JEQ_K, _JGT_K, _JGE_K, _JSET_K, _JEQ_X, _JGT_X, _JGE_X, _JSET_X)
_RETURNS: Final = (_RET_K, _RET_X, _RET_A)
_KNOWN: Final = (
    *(_LD_IMM, _LD_LEN, _LDW_ABS, _LDH_ABS, _LDB_ABS, _LDW_IND, _LDH_IND, _LDB_IND, _LDX_IMM, _LDX_LEN, _LDX_MSH),
    *(_ADD_K, _SUB_K, _MUL_K, _OR_K, _AND_K, _LSH_K, _RSH_K, _ADD_X, _SUB_X, _MUL_X, _DIV_X, _OR_X, _AND_X, _LSH_X),
    *(_RSH_X, _NEG, _MOD_X, _XOR_K, _XOR_X, _JA, _TAX, _TXA),
    *(*_MEMORY, *_DIVISIONS, *_BRANCHES, *_RETURNS),
)

_MASK = U64(0xFFFF_FFFF)
_BACK_FREE = U64(4096)
"""Steps that any frame may go back; more come with its octets."""
_NO_LIMITS: Final = np.zeros(0, np.uint32)


class ProgramError(ValueError):
    """A program that cannot be run.

    Attributes:
        at: Place of the instruction, from 0.
    """

    def __init__(self, at: int, words: str) -> None:
        super().__init__(f"instruction {at}: {words}")
        self.at = at


def checked(program: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Check a program, and bring it into the form in which it runs.

    Args:
        program: PROGRAM[k].

    Returns:
        CODE[k].

    Raises:
        ProgramError: It could not be run to an end, or does what no machine can.
    """
    if program.dtype != PROGRAM or program.ndim != 1:
        raise ProgramError(0, f"a program is an array of {PROGRAM}, one-dimensional")
    count = len(program)
    if not 1 <= count <= PROGRAM_MAX:
        raise ProgramError(0, f"the program has {count} instructions; 1 to {PROGRAM_MAX} can be run")
    place, k, code = np.arange(count, dtype=np.int64), program["k"].astype(np.int64), program["code"]
    branch, always = np.isin(code, _BRANCHES), code == _JA
    ahead = np.where(always, program["k"].view(np.int32), 0)
    true = place + 1 + np.where(branch, program["jt"], ahead)
    false = place + 1 + np.where(branch, program["jf"], ahead)
    for wrong, words in (
        (~np.isin(code, _KNOWN), "an operation that there is not"),
        (np.isin(code, _MEMORY) & (k >= MEMORY_WORDS), f"memory has {MEMORY_WORDS} words"),
        (np.isin(code, _DIVISIONS) & (k == 0), "it divides by zero"),
        ((branch | always) & ((true >= count) | (false >= count) | (true < 0)), "it jumps out of the program"),
        ((place == count - 1) & ~np.isin(code, _RETURNS), "the last one does not return"),
    ):
        if wrong.any():
            raise ProgramError(int(np.flatnonzero(wrong)[0]), words)
    ready = np.zeros(count, CODE)
    ready["code"], ready["k"], ready["jt"], ready["jf"] = code, k, true, false
    return ready


class Machine:
    """A program that was checked, and its memory. One thread at a time.

    Args:
        program: PROGRAM[k].

    Raises:
        ProgramError: It cannot be run.
    """

    __slots__ = ("_code", "_memory")

    def __init__(self, program: npt.NDArray[np.void]) -> None:
        self._code = checked(program)
        # cleared for each frame: of no length where nothing is ever read from it
        words = MEMORY_WORDS if np.isin(self._code["code"], _MEMORY).any() else 0
        self._memory = np.zeros(words, np.uint32)

    def run(
        self,
        octets: npt.NDArray[np.uint8],
        frames: npt.NDArray[np.void],
        indexes: npt.NDArray[np.uint32] | None = None,
        limits: npt.NDArray[np.uint32] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Which frames the program lets through.

        Args:
            octets: uint8[n], those of the batch.
            frames: FRAME[m].
            indexes: uint32[k], the frames that are asked about; None: all.
            limits: uint32[k], octets of each that may be looked at; None: all that were captured.

        Returns:
            bool[k].
        """
        if indexes is None:
            indexes = np.arange(len(frames), dtype=np.uint32)
        keep = np.zeros(len(indexes), np.bool_)
        execute(octets, frames, self._code, indexes, _NO_LIMITS if limits is None else limits, self._memory, keep)
        return keep


@kernel
def execute(octets: Any, frames: Any, program: Any, indexes: Any, limits: Any, memory: Any, keep: Any) -> None:
    """Run a program over frames.

    Args:
        octets: uint8[n].
        frames: FRAME[m].
        program: CODE[p], of `checked`.
        indexes: uint32[k].
        limits: uint32[k], or uint32[0].
        memory: uint32[16]; uint32[0] where the program has no use for it.
        keep: bool[k], to be filled.
    """
    for at in range(len(indexes)):
        n = U64(at)
        frame = frames[U64(indexes[n])]
        size = U64(frame["captured"])
        if len(limits) and U64(limits[n]) < size:
            size = U64(limits[n])
        keep[n] = _returned(octets, U64(frame["start"]), size, U64(frame["wire"]), program, memory) != U64(0)


@inline_kernel
def _word(octets: Any, at: Any) -> Any:
    """Four octets, most significant first."""
    upper = U64(octets[at]) << U64(24) | U64(octets[at + U64(1)]) << U64(16)
    return upper | U64(octets[at + U64(2)]) << U64(8) | U64(octets[at + U64(3)])


@inline_kernel
def _half(octets: Any, at: Any) -> Any:
    """Two octets, most significant first."""
    return U64(octets[at]) << U64(8) | U64(octets[at + U64(1)])


@inline_kernel
def _returned(octets: Any, start: Any, size: Any, wire: Any, program: Any, memory: Any) -> Any:
    """What a program returns for a frame; 0: it is not let through.

    The order of the branches does not count: LLVM makes a jump table of them.
    """
    a, x, pc = U64(0), U64(0), U64(0)
    back = size + _BACK_FREE
    for word in range(len(memory)):
        memory[U64(word)] = 0
    while True:
        row = program[pc]
        code, k = row["code"], U64(row["k"])
        pc += U64(1)
        # fmt: off
        if code == _LDH_ABS:
            if k + U64(2) > size:
                return U64(0)
            a = _half(octets, start + k)
        elif code == _JEQ_K:
            pc = U64(row["jt"]) if a == k else U64(row["jf"])
        elif code == _LDB_ABS:
            if k + U64(1) > size:
                return U64(0)
            a = U64(octets[start + k])
        elif code == _LDW_ABS:
            if k + U64(4) > size:
                return U64(0)
            a = _word(octets, start + k)
        elif code == _JSET_K:
            pc = U64(row["jt"]) if a & k else U64(row["jf"])
        elif code == _LDX_MSH:
            if k + U64(1) > size:
                return U64(0)
            x = (U64(octets[start + k]) & U64(15)) << U64(2)
        elif code == _LDH_IND:
            if x + k + U64(2) > size:
                return U64(0)
            a = _half(octets, start + x + k)
        elif code == _LDB_IND:
            if x + k + U64(1) > size:
                return U64(0)
            a = U64(octets[start + x + k])
        elif code == _LDW_IND:
            if x + k + U64(4) > size:
                return U64(0)
            a = _word(octets, start + x + k)
        elif code == _RET_K:
            return k
        elif code == _RET_A:
            return a
        elif code == _RET_X:
            return x
        elif code == _AND_K:
            a &= k
        elif code == _JA:
            if U64(row["jt"]) < pc:
                if back == U64(0):
                    return U64(0)
                back -= U64(1)
            pc = U64(row["jt"])
        elif code == _JGT_K:
            pc = U64(row["jt"]) if a > k else U64(row["jf"])
        elif code == _JGE_K:
            pc = U64(row["jt"]) if a >= k else U64(row["jf"])
        elif code == _JEQ_X:
            pc = U64(row["jt"]) if a == x else U64(row["jf"])
        elif code == _JGT_X:
            pc = U64(row["jt"]) if a > x else U64(row["jf"])
        elif code == _JGE_X:
            pc = U64(row["jt"]) if a >= x else U64(row["jf"])
        elif code == _JSET_X:
            pc = U64(row["jt"]) if a & x else U64(row["jf"])
        elif code == _LD_IMM:
            a = k
        elif code == _LD_LEN:
            a = wire
        elif code == _LD_MEM:
            a = U64(memory[k])
        elif code == _LDX_IMM:
            x = k
        elif code == _LDX_LEN:
            x = wire
        elif code == _LDX_MEM:
            x = U64(memory[k])
        elif code == _ST_MEM:
            memory[k] = a
        elif code == _STX_MEM:
            memory[k] = x
        elif code == _TAX:
            x = a
        elif code == _TXA:
            a = x
        elif code == _ADD_K:
            a = (a + k) & _MASK
        elif code == _ADD_X:
            a = (a + x) & _MASK
        elif code == _SUB_K:
            a = (a - k) & _MASK
        elif code == _SUB_X:
            a = (a - x) & _MASK
        elif code == _MUL_K:
            a = (a * k) & _MASK
        elif code == _MUL_X:
            a = (a * x) & _MASK
        elif code == _DIV_K or code == _DIV_X or code == _MOD_K or code == _MOD_X:
            divisor = k if code == _DIV_K or code == _MOD_K else x
            if divisor == U64(0):
                return U64(0)
            a = a // divisor if code == _DIV_K or code == _DIV_X else a % divisor
        elif code == _OR_K:
            a |= k
        elif code == _OR_X:
            a |= x
        elif code == _AND_X:
            a &= x
        elif code == _XOR_K:
            a ^= k
        elif code == _XOR_X:
            a ^= x
        elif code == _LSH_K or code == _LSH_X:
            shift = k if code == _LSH_K else x
            a = (a << shift) & _MASK if shift < U64(32) else U64(0)
        elif code == _RSH_K or code == _RSH_X:
            shift = k if code == _RSH_K else x
            a = a >> shift if shift < U64(32) else U64(0)
        elif code == _NEG:
            a = (U64(0) - a) & _MASK
        else:
            return U64(0)
        # fmt: on
