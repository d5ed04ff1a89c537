"""Where our own time goes: the stages of a run, one after the other, in one process on one core.

    python benchmarks/stages.py CAPTURE [--no-analysis] [--runs 3] [--after FRAMES]

Does by hand what `pipeline.Engine` and `FlowCollector` do to a batch, with a look at the clock between the stages, and
ends what is live at the end as `Run.steps` does, some thousand flows at a time; kernels are compiled before. `--after`
counts the time of frames behind the first so many alone. Prints one line of json: seconds of each stage (medians of the
runs), frames, flows, octets of the capture. compare.py shows them as nanoseconds a frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import captures
import numpy as np

from traceflow.decode import decode_rows
from traceflow.duplicates import DuplicateFinder
from traceflow.flows import FlowSet
from traceflow.options import Options
from traceflow.packets import PACKET
from traceflow.pipeline import FlowCollector, Run, Step
from traceflow.quotes import NO_QUOTES
from traceflow.sinks.rows import CsvRows
from traceflow.sinks.rows_fields import FLOW_DEFAULT, FLOW_FIELDS
from traceflow.sinks.rows_flows import flow_columns
from traceflow.sources import open_source
from traceflow.table import LATE

__all__ = ["KERNELS", "STAGES", "stages"]

STAGES = (
    "read and walk",
    "decode",
    "duplicates",
    "hash",
    "table",
    "frame map",
    "flows that ended",
    "end of input",
    "frame lists",
    "flows in order",
    "rows (csv)",
)
KERNELS = STAGES[1:10]
"""What is between octets that were read and a FlowSet: decode, tracking with states, history and statistics, lists."""

_NO_LATE = np.zeros(0, LATE)


class _Nowhere:
    """A text stream that keeps nothing."""

    def write(self, text: str, /) -> int:
        return len(text)


class _Watch:
    """Adds up the time since it was looked at last."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def took(self, stage: str) -> None:
        """The time since the last call was that of a stage."""
        now = time.perf_counter()
        self.spent[stage] += now - self._last
        self._last = now


def stages(path: Path, *, analysis: bool = True, after: int = 0) -> dict[str, Any]:
    """Trace a capture once, and take the time of each stage.

    Args:
        path: The capture.
        analysis: With TCP analysis.
        after: Only frames behind so many count, up to the end of input.

    Returns:
        `seconds` of each of STAGES, `frames` that count, `all_frames`, `flows`.
    """
    rows, hashes = np.zeros(0, PACKET), np.zeros(0, np.uint32)
    options = Options(analysis=analysis)
    with open_source(path) as source:
        run = Run(source, options)
        duplicates, collector = DuplicateFinder(options), FlowCollector(run)
        frames = counted = 0
        watch = _Watch()
        for batch in source.batches():
            if counted == 0 and frames >= after:
                watch = _Watch()
            if len(rows) < len(batch.frames):
                rows, hashes = np.zeros(len(batch.frames), PACKET), np.zeros(len(batch.frames), np.uint32)
            watch.took("read and walk")
            signatures = duplicates.signatures(len(batch.frames))
            packets, _ = decode_rows(batch.octets, batch.frames, rows, signatures=signatures)
            watch.took("decode")
            duplicates.mark(batch.octets, batch.frames, packets, signed=True)
            watch.took("duplicates")
            hashed = run.table.hash_keys(packets, hashes)
            watch.took("hash")
            marks = run.table.track(batch.frames, packets, batch.first_number, hashes=hashed)
            watch.took("table")
            ended = run.table.drain()
            watch.took("flows that ended")
            collector.take(Step(batch, packets, marks, ended, _NO_LATE, NO_QUOTES.quoted))
            watch.took("frame map")
            counted += len(batch.frames) if frames >= after else 0
            frames += len(batch.frames)
        for step in run.end_in_parts():
            collector.take(step)
        watch.took("end of input")
        collector.frame_map.lists()
        watch.took("frame lists")
        flows = collector.flows()
        watch.took("flows in order")
        _write(flows)
        watch.took("rows (csv)")
    return {"seconds": watch.spent, "frames": counted, "all_frames": frames, "flows": len(flows)}


def _write(flows: FlowSet) -> None:
    """Write the default columns of all flows."""
    fields = [FLOW_FIELDS[name] for name in FLOW_DEFAULT]
    writer = CsvRows(_Nowhere(), fields)
    for columns in flow_columns(flows, fields):
        writer.write(columns)
    writer.close()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--no-analysis", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--after", type=int, default=0, metavar="FRAMES")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.pcap"
        captures.write_small(few, frames=1000)
        stages(few, analysis=not chosen.no_analysis)
    passes = [stages(chosen.capture, analysis=not chosen.no_analysis, after=chosen.after) for _ in range(chosen.runs)]
    found = {
        **passes[0],
        "seconds": {name: statistics.median(one["seconds"][name] for one in passes) for name in STAGES},
        "octets": chosen.capture.stat().st_size,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
