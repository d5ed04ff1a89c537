"""Classic BPF once more, slow and plain: what `machine.py` is held against. It shares no code with it.

Written from the paper (McCanne and Jacobson, 1993) and FreeBSD's bpf(4): an instruction is taken apart into class,
size, mode, operation and source, where the machine knows whole codes. Used by test_machine.py and fuzz/fuzz_bpf.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]
"""code, jt, jf, k."""

MOST = 4096
WORD, HALF, BYTE = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
CLASSES = ("ld", "ldx", "st", "stx", "alu", "jmp", "ret", "misc")
ALU = ("add", "sub", "mul", "div", "or", "and", "lsh", "rsh", "neg", "mod", "xor")
JUMPS = ("ja", "jeq", "jgt", "jge", "jset")


def _loads(kind: str, code: int) -> bool:
    size, mode = code & 0x18, code & 0xE0
    if kind == "ldx":
        return (size, mode) in {(WORD, IMM), (WORD, MEM), (WORD, LEN), (BYTE, MSH)}
    return size != 0x18 and (mode in (ABS, IND) or (size == WORD and mode in (IMM, MEM, LEN)))


def known(code: int) -> bool:
    """Whether there is such an operation."""
    if code > 0xFF:
        return False
    kind, operation, source = CLASSES[code & 7], code >> 4, code & 8
    if kind in ("ld", "ldx"):
        return _loads(kind, code)
    if kind == "alu":
        return operation < len(ALU) and not (ALU[operation] == "neg" and source)
    if kind == "jmp":
        return operation < len(JUMPS) and not (operation == 0 and source)
    return code in {"st": {2}, "stx": {3}, "ret": {6, 0x0E, 0x16}, "misc": {7, 0x87}}[kind]


def signed(k: int) -> int:
    """32 bits as a signed number."""
    return k - (1 << 32) if k >> 31 else k


def valid(program: Sequence[Instruction]) -> bool:
    """Whether a program may run at all."""
    if not 1 <= len(program) <= MOST or CLASSES[program[-1][0] & 7] != "ret":
        return False
    for at, (code, jt, jf, k) in enumerate(program):
        if not known(code):
            return False
        kind, targets = CLASSES[code & 7], [at + 1]
        if kind == "jmp":
            targets = [at + 1 + signed(k)] if code == 5 else [at + 1 + jt, at + 1 + jf]
        if kind == "jmp" and not all(0 <= target < len(program) for target in targets):
            return False
        if (kind in ("st", "stx") or (kind in ("ld", "ldx") and code & 0xE0 == MEM)) and k > 15:
            return False
        if code in (0x34, 0x94) and k == 0:
            return False
    return True


def _alu(name: str, a: int, b: int) -> int | None:
    """The result, not cut to 32 bits yet; None: it ends the program."""
    if name in ("div", "mod") and b == 0:
        return None
    results = {"add": a + b, "sub": a - b, "mul": a * b, "or": a | b, "and": a & b, "xor": a ^ b, "neg": -a}
    if name in results:
        return results[name]
    if name in ("lsh", "rsh"):
        return 0 if b > 31 else a << b if name == "lsh" else a >> b
    return a // b if name == "div" else a % b


def run(program: Sequence[Instruction], seen: bytes, wire: int) -> int:
    """What a valid program returns for the octets that may be looked at; 0: not let through."""
    a = x = at = 0
    memory = [0] * 16
    back = len(seen) + 4096
    while True:
        code, jt, jf, k = program[at]
        kind = CLASSES[code & 7]
        at += 1
        if kind == "ret":
            return {6: k, 0x0E: x, 0x16: a}[code]
        if kind in ("ld", "ldx"):
            octets = {WORD: 4, HALF: 2, BYTE: 1}[code & 0x18]
            place = {ABS: k, IND: x + k, MSH: k}.get(code & 0xE0)
            if place is not None:
                part = seen[place : place + octets]
                if len(part) < octets:
                    return 0
                value = int.from_bytes(part, "big")
                value = (value & 15) * 4 if kind == "ldx" else value
            else:
                value = {IMM: k, MEM: memory[k & 15], LEN: wire}[code & 0xE0]
            a, x = (value, x) if kind == "ld" else (a, value)
        elif kind in ("st", "stx"):
            memory[k] = a if kind == "st" else x
        elif kind == "misc":
            a, x = (a, a) if code == 7 else (x, x)
        elif code == 5:
            back -= signed(k) < 0
            if back < 0:
                return 0
            at += signed(k)
        elif kind == "jmp":
            b = x if code & 8 else k
            holds = {"jeq": a == b, "jgt": a > b, "jge": a >= b, "jset": a & b != 0}[JUMPS[code >> 4]]
            at += jt if holds else jf
        else:
            result = _alu(ALU[code >> 4], a, x if code & 8 else k)
            if result is None:
                return 0
            a = result % (1 << 32)


CODES = tuple(code for code in range(256) if known(code))
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 12, 14, 15, 16, 31, 32, 33, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF)


def random_program(dice: random.Random, length: int, *, wild: bool = False) -> list[Instruction]:
    """A program; most are valid. Wild ones have anything anywhere, and loops."""
    program = []
    for at in range(length):
        code = dice.choice(CODES) if not wild or dice.random() < 0.95 else dice.randrange(1 << 16)
        left = length - at - 2
        k = dice.choice(NUMBERS) if dice.random() < 0.5 else dice.randrange(40)
        jt, jf = (dice.randint(0, max(0, min(255, left))) for _ in range(2))
        if wild and dice.random() < 0.05:
            jt, jf = dice.randrange(256), dice.randrange(256)
        if code == 5:
            k = dice.randint(-at, max(0, left)) % (1 << 32) if wild else max(0, min(jt, left))
        elif not wild or dice.random() < 0.9:
            kind = CLASSES[code & 7]
            if kind in ("st", "stx") or (kind in ("ld", "ldx") and code & 0xE0 == MEM):
                k %= 16
            elif code in (0x34, 0x94):
                k = k or 5
        program.append((code, jt, jf, k))
    if not wild or dice.random() < 0.9:
        program[-1] = (dice.choice((6, 0x0E, 0x16)), 0, 0, dice.choice(NUMBERS))
    return program
