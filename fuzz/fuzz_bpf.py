"""Invariant: whatever the program, the machine of filters ends, reads nothing but the frame, and agrees with a model.

In detail: a program is refused exactly where tests/bpf_model.py calls it invalid; one that is not lets through what
the model lets through, whatever lies between and behind the frames; and code that was not checked at all stops with an
IndexError or an answer, as long as its jumps go forward.

    python fuzz/fuzz_bpf.py [--seconds N] [--inputs N] [--seed N] [--save FOLDER]

Exit code 1 where the invariant is broken; the seed of the input is printed then.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import bpf_model  # noqa: E402 - from the folder that was just added

from traceflow.filters.machine import CODE, Machine, ProgramError, execute  # noqa: E402
from traceflow.libpcap import PROGRAM  # noqa: E402
from traceflow.packets import FRAME  # noqa: E402


def frames_of(dice: random.Random, filling: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Some frames with other octets between them: buffer, FRAME rows, octets of each."""
    seen = [dice.randbytes(dice.choice((0, 1, 4, 14, 34, 60, 200))) for _ in range(dice.randint(1, 6))]
    buffer, rows = bytearray([filling] * 5), np.zeros(len(seen), FRAME)
    for row, octets in zip(rows, seen, strict=True):
        row["start"], row["captured"], row["wire"] = len(buffer), len(octets), dice.choice((0, len(octets), 2**32 - 1))
        buffer += octets + bytes([filling] * 5)
    return np.frombuffer(bytes(buffer), np.uint8), rows, seen


def check_program(dice: random.Random) -> None:
    """A program that is checked first."""
    program = bpf_model.random_program(dice, dice.choice((1, 3, 10, 40, 300)), wild=dice.random() < 0.5)
    ready = np.array(program, PROGRAM)
    if not bpf_model.valid(program):
        with contextlib.suppress(ProgramError):
            Machine(ready)
            raise AssertionError(f"an invalid program was accepted: {program}")
        return
    state = dice.getstate()
    for filling in (0, 255):
        dice.setstate(state)
        octets, rows, seen = frames_of(dice, filling)
        limits = np.array([dice.choice((0, 3, 14, 40, 2**32 - 1)) for _ in seen], np.uint32)
        kept = Machine(ready).run(octets, rows, None, limits).tolist()
        wires = rows["wire"].tolist()
        expected = [
            bpf_model.run(program, part[:limit], wire) != 0
            for part, limit, wire in zip(seen, limits.tolist(), wires, strict=True)
        ]
        assert kept == expected, f"{program}: {kept}, and the model says {expected}"


def check_kernel(dice: random.Random) -> None:
    """Code that nobody checked: any operation, any operand, jumps ahead to anywhere."""
    count = dice.randint(1, 30)
    code = np.zeros(count, CODE)
    for at in range(count):
        code[at]["code"] = dice.choice((*bpf_model.CODES, 0xFFFF, 8))
        code[at]["k"] = dice.choice((*bpf_model.NUMBERS, dice.randrange(60)))
        for jump in ("jt", "jf"):
            code[at][jump] = dice.choice((at + 1, at + 2, count, 2**32 - 1, dice.randint(at + 1, at + 300)))
    octets, rows, _ = frames_of(dice, 7)
    if dice.random() < 0.3:
        rows["captured"] = 2**32 - 1  # a frame that claims more than the buffer has
    if dice.random() < 0.1:
        rows["start"] = 2**32 - 1
    arrays = np.arange(len(rows), dtype=np.uint32), np.zeros(0, np.uint32), np.zeros(dice.choice((0, 16)), np.uint32)
    with contextlib.suppress(IndexError):
        execute(octets, rows, code, *arrays, np.zeros(len(rows), np.bool_))


def main(words: list[str] | None = None) -> int:
    """Try until the time is over, or the inputs are."""
    parser = argparse.ArgumentParser(description="random programs of classic BPF against a slow model")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--inputs", type=int, help="this many, however long it takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path(), help="as the other targets have it; nothing is saved here")
    arguments = parser.parse_args(words)
    tried, until = 0, time.monotonic() + arguments.seconds
    while tried < arguments.inputs if arguments.inputs else time.monotonic() < until:
        seed = arguments.seed * 1_000_003 + tried
        tried += 1
        try:
            check_program(random.Random(seed))
            check_kernel(random.Random(seed))
        except Exception:  # noqa: BLE001 - any exception is what is looked for
            traceback.print_exc()
            print(f"input {tried} of seed {arguments.seed} (random.Random({seed})) breaks the invariant")
            return 1
    print(f"{tried} inputs, seed {arguments.seed}: the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
