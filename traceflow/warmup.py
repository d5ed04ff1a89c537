"""A first run compiles kernels for some seconds: those of the table here, all others in a process beside it.

Numba compiles one kernel at a time in a process. Where nothing is in the cache yet, half of the kernels are compiled by
a second process, into the same cache, so that a first run takes two thirds of the time where there are two cores. The
table's kernel is more than half of it all: a piece of it comes from the other process as well, through its standard
output, which makes it 7.0 s for 8.1. Nothing depends on it: what the other process did not do, whatever the reason, is
compiled when it is needed.

`warm_up` has everything compiled that the house has, for images and test machines: what a usual run needs, a live
capture, tunnels, filters, grabbers, flow files in bulk, the plugins.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from traceflow.analysis import ANALYSIS, analysis_rows, judge
from traceflow.checksums import verify_batch
from traceflow.compiled import (
    COMPILED,
    U64,
    cached_kernels,
    compile_piece,
    expect_piece,
    export_piece,
    is_to_be_compiled,
)
from traceflow.decode import decode_batch, decode_quotes
from traceflow.duplicates import DuplicateFinder
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW
from traceflow.fragments import FragmentTable
from traceflow.framelists import FrameMap
from traceflow.keys import reindex
from traceflow.live import HOT, LIVE, live_rows
from traceflow.options import Options
from traceflow.packets import FRAME, PACKET, Batch, Interface
from traceflow.sources import open_source
from traceflow.states import follow_rare
from traceflow.table import FROM_UPPER, MARK, FlowTable
from traceflow.timeouts import when_due
from traceflow.tracking import track

__all__ = ["Warmth", "compile_all", "compile_others", "compile_side_by_side", "warm_up"]

_ONE_FRAME = (
    b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + b"\xff\xff\x00\x00\x01\x00\x00\x00"  # pcap, Ethernet
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x0e\x00\x00\x00\x0e\x00\x00\x00" + bytes(14)
)

_DATAGRAM = (
    bytes(12) + b"\x08\x00"  # Ethernet, IPv4
    b"\x45\x00\x00\x1c" + bytes(4) + b"\x40\x11\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02"  # 28 octets, UDP
    b"\x00\x01\x00\x02\x00\x08\x00\x00"  # ports 1 and 2, no payload
)
_TUNNEL = _DATAGRAM[:23] + b"\x2f" + _DATAGRAM[24:]  # GRE instead of UDP

_LEARNT = 64
"""Frames of one shape after which templates learn it (`sinks/templates.py`)."""


@dataclass(frozen=True)
class Warmth:
    """What `warm_up` came to.

    Attributes:
        kernels: Kernels that are compiled, hooks of plugins too.
        uncached: Names of those that are in no cache.
        folders: Where the caches are.
    """

    kernels: int
    uncached: tuple[str, ...]
    folders: tuple[Path, ...]


def compile_side_by_side() -> None:
    """Where the kernels are not in the cache, have them compiled, and put there, by two processes."""
    if is_to_be_compiled(track):
        _side_by_side(_compile_table, "compile_others")


def _side_by_side(work: Callable[[], None], other_work: str) -> None:
    """Work here while another process calls a function of this module; without one where there is one processor."""
    if not sys.executable or (os.cpu_count() or 1) < 2:
        work()
        return
    # -P: never the `traceflow` or `numpy` of whatever folder the user stands in
    command = [sys.executable, "-P", "-c", f"from traceflow import warmup; warmup.beside(warmup.{other_work})"]
    try:
        other = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        work()
        return
    collects = gc.isenabled()
    gc.disable()  # as the other one, see `beside`
    piece = _Reading(other.stdout)
    try:
        with expect_piece(judge, piece.result):
            work()
        other.wait()
    finally:
        if collects:
            gc.enable()
        other.kill()
        other.wait()
        piece.join()


class _Reading(threading.Thread):
    """Reads what the other process writes, so that it need not wait with it until it is asked for."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(name="traceflow-piece", daemon=True)
        self._pipe = pipe
        self._read = b""
        self.start()

    def run(self) -> None:
        """Read all until the other process closes its output."""
        assert self._pipe is not None
        with self._pipe, contextlib.suppress(OSError):
            self._read = self._pipe.read()

    def result(self) -> bytes:
        """Wait for the end, and give all of it."""
        self.join()
        return self._read


def beside(work: Callable[[], object]) -> None:
    """Work in a process of its own, without the collector of garbage: it took a tenth of the time.

    First comes a piece of the table's kernel, which goes to standard output: the other process expects it where it has
    to compile that.
    """
    gc.disable()
    with open(1, "wb") as output:  # closed then, which that of sys.stdout is not
        if is_to_be_compiled(track):
            output.write(export_piece(judge, PACKET, ANALYSIS, np.bool_, *(U64,) * 4, np.int64, MARK))
    work()


def _compile_table() -> None:
    """Compile the longest kernel; that of the hashes, which is called before it, is left to the others."""
    if is_to_be_compiled(track):  # what needs no piece of the other process first: that one takes a second and a half
        compile_piece(follow_rare, PACKET, LIVE, HOT, HOT, np.bool_, np.bool_)
    nothing = np.zeros(0, np.uint32)
    FlowTable(Options()).track(np.zeros(0, FRAME), np.zeros(0, PACKET), 1, hashes=nothing)


def compile_all() -> None:
    """Compile all kernels of a run, or load them, here and now: for those who cannot wait later.

    Those too that only a quiet link, a fragment, an ICMP error or checksums need.
    """
    _compile_table()
    compile_others()
    _compile_rare()


def _compile_rare() -> None:
    """Compile what only a quiet link, a tunnel, a fragment, an ICMP error or checksums need."""
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
    table, numbers = FlowTable(Options()), np.zeros(1, np.uint32)
    table.find_hints(table.hash_keys(rows, numbers), numbers.copy())
    reindex(np.zeros(1, np.uint64), np.zeros(2, np.uint64))
    frame_map = FrameMap()
    frame_map.add(np.zeros(1, MARK), FROM_UPPER)
    frame_map.lists()
    when_due(live_rows(0), 0, np.zeros(0, np.uint32), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assemble_flows(live_rows(1), np.zeros(0, np.uint32), analysis_rows(1), np.zeros(0, FLOW), analysis=True)


def warm_up() -> Warmth:
    """Have everything compiled, and put into the cache, by two processes; what is there already is loaded.

    Compiled functions of users (filters, plugins that are not built in) are theirs to call.

    Returns:
        How many kernels there are now, and where.
    """
    _side_by_side(_compile_first_half, "compile_second_half")
    hooks = compile_second_half()  # loads it; or compiles what the other process failed to. They live while held
    kernels = [kernel for kernel in list(cached_kernels) if kernel.signatures] if COMPILED else []
    uncached = sorted(kernel.py_func.__name__ for kernel in kernels if is_to_be_compiled(kernel))
    if COMPILED and track not in kernels:  # no cache at all: a folder for it could be found nowhere
        uncached = [track.__name__]
    del hooks
    folders = sorted({Path(kernel.stats.cache_path) for kernel in kernels})
    return Warmth(len(kernels), tuple(uncached), tuple(folders))


def _compile_first_half() -> None:
    _compile_table()
    FlowTable(Options()).tick(0)
    _compile_outputs()


def compile_second_half() -> list[object]:
    """Compile all but the table's kernels and those of outputs. Returns what holds the hooks of plugins."""
    compile_others()
    _compile_rare()
    _compile_tunnels()
    _compile_sources()
    _compile_filters()
    return _compile_plugins()


def _pcapng(octets: bytes) -> bytes:
    """A capture of one frame in pcapng: a section, an interface for Ethernet, an enhanced packet block."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = (len(body) + 12).to_bytes(4, "little")
        return kind.to_bytes(4, "little") + size + body + size

    section = b"\x4d\x3c\x2b\x1a\x01\x00\x00\x00" + b"\xff" * 8
    packet = bytes(12) + len(octets).to_bytes(4, "little") * 2 + octets
    return block(0x0A0D0D0A, section) + block(1, b"\x01\x00\x00\x00" + bytes(4)) + block(6, packet)


def _batch_of(octets: bytes) -> Batch:
    """A batch of one frame, as a source gives it."""
    with open_source(io.BytesIO(_pcapng(octets))) as captures:
        for batch in captures.batches():
            return Batch(batch.octets.copy(), batch.frames.copy(), 1, 1)
    raise AssertionError("the capture has a frame")


def _compile_tunnels() -> None:
    batch = _batch_of(_TUNNEL)
    decode_batch(batch.octets, batch.frames, np.zeros(1, PACKET))


def _compile_sources() -> None:
    """Compile what reads frames again, and what walks over the ring of an interface."""
    rows = _batch_of(_DATAGRAM).frames
    octets = np.zeros(64, np.uint8)
    rows["start"], rows["offset"] = 0, 0
    reread = importlib.import_module("traceflow.sources.reread")
    reread.scatter(octets, U64(0), rows, octets.copy())
    if reread.CALLED:
        reread.fetch_runs(np.int32(-1), rows, np.zeros(1, np.uint64), octets, octets.copy())
    ring = importlib.import_module("traceflow.sources.ring")
    words = np.zeros(64, np.uint32)
    ring.walk_block(words.view(np.uint8), words.view(np.uint16), words, U64(0), np.zeros(1, ring.WALK), rows)
    ring.give_back(words, U64(0))


def _compile_filters() -> None:
    """Compile the machine that runs expressions, the search for strings, and the buffer of grabbers."""
    machine, search, needles, selections, buffers, libpcap = (
        importlib.import_module(f"traceflow.{name}")
        for name in (
            "filters.machine",
            "filters.search",
            "filters.needles",
            "filters.contract",
            "grabbing.buffers",
            "libpcap",
        )
    )
    batch, packets = _batch_of(_DATAGRAM), np.zeros(1, PACKET)
    nothing = np.array([(0x06, 0, 0, 0)], libpcap.PROGRAM)
    machine.Machine(nothing).run(batch.octets, batch.frames)
    indexes, limits = np.zeros(1, np.uint32), np.full(1, 64, np.uint32)
    found = np.zeros(1, np.bool_)
    search.find_needles(batch.octets, batch.frames, packets, indexes, limits, needles.automaton([b"a"]), found)
    ring = buffers.Ring(4096, 16)
    ring.store(batch, packets, [(ring.stream(), selections.Selection(indexes))])
    ring.fetch([(np.ones(1, np.uint64), None)])


def _compile_plugins() -> list[object]:
    """Compile the hooks of the plugins that are built in."""
    registry, pipeline = (importlib.import_module(f"traceflow.{name}") for name in ("plugins.registry", "pipeline"))
    return [pipeline.plugin_set([name]) for name in registry.BUILT_IN]


def _compile_outputs() -> None:
    """Compile what writes rows, and flow files in bulk, for as many frames as a template is learned from."""
    bulk, perflow, rows, columns, calls = (
        importlib.import_module(f"traceflow.sinks.{name}")
        for name in ("bulk", "perflow", "rows", "rows_columns", "filing_calls")
    )
    batch, count = _batch_of(_DATAGRAM), 2 * _LEARNT
    frames = np.repeat(batch.frames, count)
    kinds = [perflow.PcapKind("little", nanosecond=False, snaplen=0)]
    lot = bulk.Lot(batch.octets, frames, np.arange(1, count + 1), bulk.marks_of([count]), [1], kinds)
    bulk.Texts("json", [Interface("", 0, 1, 0, 10**6, "little")], outer=False).documents(lot)
    bulk.Pcaps().documents(lot)
    if calls.CALLED:
        name, none = calls.zero_ended([""])[0], np.zeros(0, np.uint64)
        calls.put_files(name, none, name, np.asarray(memoryview(b"").toreadonly()), none, False)
    style = rows.Style((b"",), b"\n", b"", quoted=False, word=str, text=str)
    columns.Sheet(style, 0, 0).octets(b"")
