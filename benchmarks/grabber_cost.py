"""What grabbers cost: one against a hundred with a common prefix, and one beside a paused one. Ratios of medians.

    python benchmarks/grabber_cost.py [--frames 500000] [--rounds 9]

Each round measures all cases in turn, so that what else the machine does meets all of them alike. The bars: a hundred
grabbers cost at most 3 times one; a paused one costs nothing that can be measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from traceflow import FlowSpec, Monitor

sys.path.insert(0, str(Path(__file__).parent))
from captures import write_small

PREFIX = "(protocol,tcp) -> (sampler,16)"


def cost(path: Path, texts: list[str], *, active: int | None = None, buffer: bool = False) -> float:
    """Seconds in which a monitor reads a capture for some grabbers, of which only the first ones may be active."""
    with Monitor({"eth0": path}) as monitor:
        grabbers = [monitor.instantiate(FlowSpec.parse(text, (), {"buffer": buffer})) for text in texts]
        for grabber in grabbers:
            grabber.activate()
        for grabber in grabbers[active:] if active is not None else ():
            grabber.pause()
        begin = time.perf_counter()
        monitor.run()
        return time.perf_counter() - begin


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    one = [f"{PREFIX} -> (packetcount)"]
    different = [f"{PREFIX} -> (sampler,{n}) -> (packetcount)" for n in range(2, 102)]
    looking = [f"{PREFIX} -> (port,{port}) -> (packetcount)" for port in range(1, 101)]
    cases: dict[str, Callable[[Path], float]] = {
        "one": lambda path: cost(path, different[:1]),
        "100 that count": lambda path: cost(path, different),
        "one that looks at ports": lambda path: cost(path, looking[:1]),
        "100 that look at ports": lambda path: cost(path, looking),
        "one, packets kept": lambda path: cost(path, one, buffer=True),
        "100 equal, packets kept": lambda path: cost(path, one * 100, buffer=True),
        "one beside 99 paused": lambda path: cost(path, different, active=1),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.pcap"
        write_small(path, frames=given.frames)
        found: dict[str, list[float]] = {name: [] for name in cases}
        for measure in cases.values():
            measure(path)  # compiles, and brings the capture into memory
        for _ in range(given.rounds):
            for name, measure in cases.items():
                found[name].append(measure(path))
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, seconds in medians.items():
        print(f"{name:26} {seconds / given.frames * 1e9:7.1f} ns a frame")
    print(f"100 / 1, counting:         {medians['100 that count'] / medians['one']:.2f}")
    ports = medians["100 that look at ports"] / medians["one that looks at ports"]
    print(f"100 / 1, looking at ports: {ports:.2f}")
    print(f"100 / 1, packets kept:     {medians['100 equal, packets kept'] / medians['one, packets kept']:.2f}")
    print(f"99 paused beside one:      {medians['one beside 99 paused'] / medians['one']:.3f}")


if __name__ == "__main__":
    main()
