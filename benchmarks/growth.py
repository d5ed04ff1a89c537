"""Whether time and memory grow with the capture as they should: live flows, frames of one flow, flows, reading `index`.

`live`: N frames over 1/1000, 1/100, 1/10 and 1/2 as many flows that are all live, in any order: time a frame of all
stages in one process once all flows are open (stages.py), and of the whole process. `one`: one flow, of two sizes.
`many`: one-frame flows, two numbers of them. `index`: `TraceFlow.index` is read after every packet, for one flow and
for as many flows as packets, at two sizes. What is quadratic takes ten times as long a frame at ten times the size.

    python benchmarks/growth.py index-one 10000

does the last of these, once, in this process, and prints seconds.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captures
from processes import Cost, measure
from rivals import FIRST, OURS
from stages import STAGES

from traceflow.adapters import TracedPacket
from traceflow.tracer import FormatWarning, TraceFlow

__all__ = ["flood_growth", "index_growth", "live_growth"]

_HERE = Path(__file__).resolve().parent
_PARTS_LIVE = (1000, 100, 10, 2)
_IN_LOOP = STAGES[: STAGES.index("end of input")]
_SHAPES = ("one", "many")
_COMMAND = next(program for program in OURS if program.name == FIRST)

Say = Callable[[str], None]


def _whole(path: Path, runs: int, start_s: float) -> dict[str, float]:
    """Medians of whole processes: seconds without their start, and peak memory."""
    costs: list[Cost] = [measure(_COMMAND.arguments(str(path), "", "")) for _ in range(runs)]
    seconds = statistics.median(cost.wall for cost in costs) - start_s
    return {"seconds": seconds, "peak": statistics.median(cost.peak for cost in costs)}


def live_growth(place: Path, frames: int, runs: int, start_s: float, say: Say) -> list[dict[str, Any]]:
    """Time a frame with more and more live flows.

    Args:
        place: Where captures are made, and removed.
        frames: Frames of each capture.
        runs: How many times each is measured.
        start_s: Start-up of a process.
        say: Told of what is done.

    Returns:
        For each number of live flows: `live`, `frames`, `ns_table` (table alone) and `ns` (all stages) a frame in one
        process, `ns_whole` a frame, and `peak` octets of a whole process.
    """
    found = []
    for part in _PARTS_LIVE:
        live = frames // part
        path = place / f"live-{live}.pcap"
        captures.write_live(path, frames=frames, live=live)
        command = [sys.executable, str(_HERE / "stages.py"), str(path), "--no-analysis", "--runs", str(runs)]
        inside = json.loads(measure([*command, "--after", str(live)], keep=True, one_core=True).output)
        whole = _whole(path, runs, start_s)
        path.unlink()
        spent = inside["seconds"]
        loop_s = sum(spent[name] for name in _IN_LOOP)
        found.append(
            {
                "live": live,
                "frames": frames,
                "ns_table": spent["table"] / inside["frames"] * 1e9,
                "ns": (loop_s / inside["frames"] + spent["frame lists"] / inside["all_frames"]) * 1e9,
                "ns_whole": whole["seconds"] / frames * 1e9,
                "peak": whole["peak"],
            }
        )
        say(f"growth: {live} live flows: {found[-1]['ns']:.0f} ns a frame")
    return found


def flood_growth(place: Path, frames: int, runs: int, start_s: float, say: Say) -> dict[str, list[dict[str, float]]]:
    """Whole processes over one flow of `frames` and ten times as many, and over a quarter as many one-frame flows.

    Args:
        place: Where captures are made, and removed.
        frames: See above.
        runs: How many times each is measured.
        start_s: Start-up of a process.
        say: Told of what is done.

    Returns:
        For `one` and `many`, for the smaller and the larger: `frames`, `ns` a frame, `peak` octets.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for name, base in (("one", frames), ("many", frames // 4)):
        found[name] = []
        for count in (base, 10 * base):
            path = place / f"{name}-{count}.pcap"
            captures.KINDS[name](path, frames=count)
            whole = _whole(path, runs, start_s)
            path.unlink()
            found[name].append({"frames": count, "ns": whole["seconds"] / count * 1e9, "peak": whole["peak"]})
            say(f"growth: {name}, {count} frames: {found[name][-1]['ns']:.0f} ns a frame")
    return found


def index_growth(packets: int, runs: int, say: Say) -> dict[str, list[dict[str, float]]]:
    """Reading `index` after every packet, for `packets` and ten times as many.

    Args:
        packets: The smaller size.
        runs: How many times each is measured.
        say: Told of what is done.

    Returns:
        For `one` and `many` flows, for the smaller and the larger: `packets`, `us` a packet.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for shape in _SHAPES:
        found[shape] = []
        for count in (packets, 10 * packets):
            command = [sys.executable, str(Path(__file__).resolve()), f"index-{shape}", str(count)]
            seconds = [float(measure(command, keep=True).output) for _ in range(runs)]
            found[shape].append({"packets": count, "us": statistics.median(seconds) / count * 1e6})
            say(f"growth: index of {shape} after {count} packets: {found[shape][-1]['us']:.1f} us a packet")
    return found


def read_index(shape: str, packets: int) -> float:
    """Trace packets one by one, and read `index` after each: how many directions, the last of them, its label.

    Args:
        shape: `one` flow, or `many`: one a packet.
        packets: How many.

    Returns:
        Seconds of the processor.

    Raises:
        AssertionError: The index is not what it should be.
    """
    client, server = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("172.16.0.1")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FormatWarning)  # no such format: no files
        tracer = TraceFlow(fout=folder, format="none")
        before = time.process_time()  # of one thread that waits for nothing: what others do meanwhile does not matter
        for number in range(packets):
            flow = number if shape == "many" else 0
            packet = TracedPacket(
                protocol=1,
                index=number + 1,
                frame={},
                syn=False,
                fin=False,
                src=client,
                dst=server,
                srcport=flow % 60_000,
                dstport=1 + flow // 60_000,
                timestamp=number / 1_000_000,
                ack=1,
            )
            tracer.dump(packet)
            index = tracer.index
            last = index[-1]
            seen = len(index), len(last), last.label
        seconds = time.process_time() - before
    assert seen[:2] == ((packets, 1) if shape == "many" else (1, packets)), seen
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Read `index` after every packet, and print how long that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[f"index-{shape}" for shape in _SHAPES])
    parser.add_argument("packets", type=int)
    chosen = parser.parse_args(arguments)
    shape = chosen.what.removeprefix("index-")
    read_index(shape, 10)
    print(read_index(shape, chosen.packets))


if __name__ == "__main__":
    main()
