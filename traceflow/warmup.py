"""A first run compiles kernels for some seconds: those of the table here, all others in a process beside it.

Numba compiles one kernel at a time in a process. Where nothing is in the cache yet, half of the kernels are compiled by
a second process, into the same cache, so that a first run takes two thirds of the time where there are two cores.
Nothing depends on it: what the other process did not do, whatever the reason, is compiled when it is needed.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np

from traceflow.analysis import analysis_rows
from traceflow.checksums import verify_batch
from traceflow.compiled import is_to_be_compiled
from traceflow.decode import decode_batch, decode_quotes
from traceflow.duplicates import DuplicateFinder
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW
from traceflow.fragments import FragmentTable
from traceflow.framelists import FrameMap
from traceflow.live import live_rows
from traceflow.options import Options
from traceflow.packets import FRAME, PACKET, Batch
from traceflow.sources import open_source
from traceflow.table import FROM_UPPER, MARK, FlowTable
from traceflow.timeouts import when_due
from traceflow.tracking import track

__all__ = ["compile_all", "compile_others", "compile_side_by_side"]

_ONE_FRAME = (
    b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + b"\xff\xff\x00\x00\x01\x00\x00\x00"  # pcap, Ethernet
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x0e\x00\x00\x00\x0e\x00\x00\x00" + bytes(14)
)


def compile_side_by_side() -> None:
    """Where the kernels are not in the cache, have them compiled, and put there, by two processes."""
    if not sys.executable or (os.cpu_count() or 1) < 2 or not is_to_be_compiled(track):
        return
    command = [sys.executable, "-c", "from traceflow.warmup import compile_others; compile_others()"]
    try:
        other = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return
    try:
        _compile_table()
        other.wait()
    finally:
        other.kill()
        other.wait()


def _compile_table() -> None:
    FlowTable(Options()).track(np.zeros(0, FRAME), np.zeros(0, PACKET), 1)


def compile_all() -> None:
    """Compile all kernels of a run, or load them, here and now: for those who cannot wait later.

    Those too that only a quiet link, a fragment, an ICMP error or checksums need.
    """
    _compile_table()
    compile_others()
    rows = np.zeros(1, FRAME)
    batch = Batch(np.zeros(64, np.uint8), rows, 1, 1)
    packets = np.zeros(1, PACKET)
    decode_quotes(batch, packets)
    FragmentTable().resolve(batch.octets, rows, packets, 1, 0)
    verify_batch(batch.octets, rows, packets)
    table = FlowTable(Options())
    table.tick(0)
    table.end()


def compile_others() -> None:
    """Compile the kernels of a usual run, apart from that of the table."""
    rows = np.zeros(1, PACKET)
    with open_source(io.BytesIO(_ONE_FRAME)) as captures:
        for batch in captures.batches():
            packets = decode_batch(batch.octets, batch.frames, rows)
            DuplicateFinder(Options()).mark(batch.octets, batch.frames, packets)
    frame_map = FrameMap()
    frame_map.add(np.zeros(1, MARK), FROM_UPPER)
    frame_map.lists()
    when_due(live_rows(0), 0, np.zeros(0, np.uint32), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assemble_flows(live_rows(1), np.zeros(0, np.uint32), analysis_rows(1), np.zeros(0, FLOW), analysis=True)
