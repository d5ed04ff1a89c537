"""Invariant: whatever a capture holds, it is traced: nothing is raised, no frame is lost, and batches do not matter.

In detail: a whole run raises nothing; what is wrong stands in `errors`, and each is one of ALLOWED; frames read are
frames in flows plus frames under each Verdict; the frame lists are a partition of the frames in flows, ascending, as
long as the flows have packets, and each frame's flow in the map is the one whose list has it; flows are numbered from 1
in the order of the frames that opened them; every column lies in its range (tests/invariants.py); the same capture in
batches of 1, 7 and 4096 frames gives the same flows, in the same order of their ends, the same flows quoted by ICMP
errors (each counts them), and the same account. All profiles take part, and tables that are full, cut and remove.

    python fuzz/fuzz_trace.py [--seconds N] [--inputs N] [--seed N] [--save FOLDER]

The inputs are the captures of fixtures/, mutated. Exit code 1 where the invariant is broken; the input is saved then.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from invariants import check_flows

from traceflow.errors import (
    MalformedCaptureError,
    NotACaptureError,
    TruncatedCaptureError,
    UnsupportedCaptureError,
)
from traceflow.options import PROFILES, Options, options_for
from traceflow.pipeline import FlowCollector, Run
from traceflow.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = (NotACaptureError, UnsupportedCaptureError, TruncatedCaptureError, MalformedCaptureError)
"""What a file in memory may be blamed for."""

RULES = (
    options_for(),
    options_for(max_flows=1),
    options_for(max_flows=3, linger_ns=1),
    options_for(idle_timeout_tcp_ns=1, idle_timeout_other_ns=10**12, linger_ns=2**62 - 1),
    options_for("pcapkit", max_flows=2),
    options_for(max_flows=2, when_full="skip", duplicates="remove", duplicate_window_ns=None),
    options_for(outer=True, key=("vlan", "tunnel"), duplicates="remove"),
    options_for(key="tunnel", active_timeout_ns=1, checksums=True, analysis=False, duplicates="ignore"),
    options_for("zeek", active_timeout_ns=1_000_000, max_flows=3),
    options_for("nfstream", active_timeout_ns=2**62 - 1, idle_timeout_tcp_ns=None),
    *map(options_for, PROFILES),
)
LINKS = (0, 1, 12, 14, 101, 108, 113, 228, 229, 276, 147)
OCTETS = (0, 1, 2, 4, 5, 6, 8, 16, 17, 18, 20, 43, 44, 45, 46, 51, 58, 59, 60, 64, 96, 129, 135, 136, 255)
SIXTEENS = (0x0000, 0x0003, 0x0040, 0x05FF, 0x0600, 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8, 0x9100, 0xAAAA, 0xFFFF)


def seeds() -> list[bytes]:
    """The captures of fixtures/, small ones first."""
    found = [path.read_bytes() for path in sorted((ROOT / "fixtures").glob("*.pcap*"))]
    if not found:
        raise SystemExit("fixtures/ holds no captures; run python fixtures/make.py")
    return sorted(found, key=len)


def change_octets(changed: bytearray, dice: random.Random) -> None:
    """Change one to three places that lie anywhere: octets, pairs of them, bits."""
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(changed))
        what = dice.randrange(3)
        if what == 0:
            changed[place] = dice.choice(OCTETS)
        elif what == 1:
            changed[place : place + 2] = struct.pack(">H", dice.choice(SIXTEENS))[: len(changed) - place]
        else:
            changed[place] ^= 1 << dice.randrange(8)


def change_records(octets: bytes, dice: random.Random) -> bytes:
    """Repeat, drop, reorder and cut whole records of a little-endian pcap file, and change its link type."""
    header, records, at = bytearray(octets[:24]), [], 24
    while at + 16 <= len(octets):
        size = 16 + int.from_bytes(octets[at + 8 : at + 12], "little")
        records.append(octets[at : at + size])
        at += size
    for _ in range(dice.randint(1, 6)):
        if not records:
            break
        place = dice.randrange(len(records))
        what = dice.randrange(5)
        if what == 0:
            records.insert(dice.randrange(len(records) + 1), records[place])
        elif what == 1:
            del records[place]
        elif what == 2:
            dice.shuffle(records)
        elif what == 3:
            head, data = records[place][:8], records[place][16:]
            cut = dice.randrange(len(data) + 1)
            records[place] = head + struct.pack("<II", cut, len(data)) + data[:cut]
        else:
            seconds = dice.choice((0, 1, 60, 300, 1_700_000_000, 1_700_000_300, 0x7FFFFFFF, 0xFFFFFFFF))
            records[place] = struct.pack("<I", seconds) + records[place][4:]
    if dice.random() < 0.2:
        header[20:24] = struct.pack("<I", dice.choice(LINKS))
    return bytes(header) + b"".join(records)


def mutate(octets: bytes, dice: random.Random) -> bytes:
    """Change a capture; pcap files keep their records more often than not, so that decode and table see them."""
    if octets[:4] == b"\xd4\xc3\xb2\xa1" and dice.random() < 0.7:
        octets = change_records(octets, dice)
    changed = bytearray(octets)
    if changed and dice.random() < 0.8:
        change_octets(changed, dice)
    if dice.random() < 0.1:
        del changed[dice.randrange(len(changed) + 1) :]
    return bytes(changed)


def outcome(octets: bytes, rules: Options, batch_frames: int, read_octets: int) -> list[Any]:
    """Trace a capture; what must not depend on batches."""
    ended: list[int] = []
    quoted: list[tuple[int, int]] = []
    with open_source(io.BytesIO(octets), batch_frames=batch_frames, read_octets=read_octets) as captures:
        run = Run(captures, rules)
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            ended += step.ended["number"].tolist()
            quoted += step.quoted.tolist()
        flows = collector.flows()
    for error in flows.errors:
        assert isinstance(error, ALLOWED), f"not an allowed error: {error!r}"
    check_flows(flows)
    lists = [column.tolist() for column in flows.frame_map.lists()]
    rows = [[np.asarray(row[name]).tolist() for name in row.dtype.names] for row in flows.columns]
    labels = [flow.label for flow in flows]
    pointed = [flow for _, flow in quoted if flow]
    assert np.array_equal(np.bincount(pointed, minlength=len(flows) + 1)[1:], flows.columns["icmp_errors"]), (
        "errors differ"
    )
    return [repr(rows), labels, lists, ended, quoted, flows.account, [str(error) for error in flows.errors]]


def check(octets: bytes, rules: Options) -> None:
    """Raise where the invariant is broken."""
    whole = outcome(octets, rules, 4096, 1 << 20)
    for batch_frames, read_octets in ((1, 1 << 20), (7, 97)):
        assert outcome(octets, rules, batch_frames, read_octets) == whole, f"batches of {batch_frames} differ"


def main(words: list[str] | None = None) -> int:
    """Mutate until the time is over, or the inputs are."""
    parser = argparse.ArgumentParser(description="mutate the captures of fixtures/ and trace them")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--inputs", type=int, help="this many, however long it takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path(), help="folder for a failing input")
    arguments = parser.parse_args(words)
    dice, pool, tried = random.Random(arguments.seed), seeds(), 0
    until = time.monotonic() + arguments.seconds
    while tried < arguments.inputs if arguments.inputs else tried < len(pool) or time.monotonic() < until:
        octets = pool[tried] if tried < len(pool) and not arguments.inputs else mutate(dice.choice(pool), dice)
        rules = dice.choice(RULES)
        tried += 1
        try:
            check(octets, rules)
        except Exception:  # noqa: BLE001 - any exception is what is looked for
            path = arguments.save / f"fuzz-trace-{hashlib.sha256(octets).hexdigest()[:12]}.bin"
            path.write_bytes(octets)
            traceback.print_exc()
            print(f"input {tried} of seed {arguments.seed} breaks the invariant with {rules}; saved as {path}")
            return 1
    print(f"{tried} inputs, seed {arguments.seed}: the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
