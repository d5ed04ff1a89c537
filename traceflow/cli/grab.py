"""`traceflow grab`: several graphs of filters from a file, on one pass over captures or interfaces."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from traceflow.cli.commands import Grab, View
from traceflow.cli.compiling import announce_compiling
from traceflow.cli.exits import Exit
from traceflow.cli.grabfile import STDOUT, GrabFile, Named, read_grab_file
from traceflow.cli.grabsinks import outputs_in_the_way
from traceflow.cli.grabsources import Place, Sources, is_file, places_of
from traceflow.cli.grabtable import LiveTable
from traceflow.cli.grabwork import Work
from traceflow.cli.interrupt import Interruption
from traceflow.cli.messages import note, say, say_lines
from traceflow.cli.output import StandardOutput, is_terminal, row_writer
from traceflow.errors import CannotWriteError, FileExists, TraceflowError, UsageError
from traceflow.filters.drawing import dot_of, svg_of
from traceflow.filters.graph import DEVICE, Graph, Node
from traceflow.filters.kinds import make_call
from traceflow.grabbing.inlets import Devices, device_of
from traceflow.grabbing.monitor import Monitor
from traceflow.policy import Policy, Verdict
from traceflow.sinks.folder import write_whole
from traceflow.sinks.pcapfile import pcap_header, pcap_record
from traceflow.sinks.rows import printable
from traceflow.sinks.rows_fields import Field, Kind
from traceflow.sources import open_source
from traceflow.sources.interfaces import ANY

__all__ = ["run"]

_FIELDS = [
    Field("grabber", Kind.TEXT),
    Field("node", Kind.TEXT),
    Field("counter", Kind.WORD),
    Field("value", Kind.INTEGER),
]


def run(wanted: Grab) -> int:
    """Run the grabbers, ask the policy, or draw.

    Args:
        wanted: What was typed.

    Returns:
        The exit code.

    Raises:
        CannotReadError: The file or the policy cannot be read, or an interface cannot be captured.
        CannotWriteError: An output cannot be made, or exists; nothing was run.
    """
    try:
        return _run(wanted)
    except UsageError as error:
        say_lines(str(error))
        return Exit.USAGE


def _run(wanted: Grab) -> int:
    typed = places_of(wanted.captures, wanted.live.interfaces)
    file = read_grab_file(wanted.file, lambda name: name in typed or is_file(name) or _is_interface(name))
    named = {name: Place.named(target) for name, target in file.source.items()}
    graphs = _connected(file, typed or named)
    places = {
        name: typed.get(name) or named.get(name) or Place.named(name)
        for graph in graphs.values()
        for name in map(device_of, graph.heads)
        if name is not None
    }
    _refuse_unread(typed, places)
    _refuse_inputs(wanted, file, places)
    verdicts = _verdicts(wanted, file, graphs, places)
    if wanted.draw is not None:
        _draw(wanted.draw, graphs, overwrite=wanted.overwrite)
    if wanted.check:
        return _say_verdicts(verdicts)
    if wanted.draw is not None:
        return Exit.OK
    return _Run(wanted, file, graphs, places, verdicts).run()


# --- devices -----------------------------------------------------------------------------------------------------


def _is_interface(name: str) -> bool:
    """Whether there is an interface of that name; where nobody can tell by now, it is found out when it is opened."""
    if sys.platform != "linux":
        return True
    return name == ANY or name in (known for _, known in socket.if_nameindex())


def _connected(file: GrabFile, usual: Mapping[str, Place]) -> dict[str, Graph]:
    """The graphs by the names of their grabbers, each path with a device at its beginning.

    Raises:
        UsageError: There is no device for some.
    """
    devices = Devices({name: place.target for name, place in usual.items()})
    graphs: dict[str, Graph] = {}
    lacking = []
    for one in file.grabbers:
        if not usual and any(device_of(node) is None for node in one.graph.heads):
            lacking.append(f"  {file.path}:{one.line}: grabbers, {one.name}: its graph names no device")
        else:
            graphs[one.name] = devices.connected(one.graph)
    if lacking:
        raise UsageError("\n".join([f"{file.path}: there is nothing to read; name a CAPTURE, an interface with -i, or "
                                    "devices in [source]", *lacking]))  # fmt: skip
    return graphs


def _refuse_unread(typed: Mapping[str, Place], places: Mapping[str, Place]) -> None:
    """Refuse devices that were typed and that no graph reads: the interface of a graph would be captured instead.

    Raises:
        UsageError: There are.
    """
    first, read = next(iter(places)), ", ".join(places)
    unread = [
        f"{name}: no graph reads it, they read {read}; "
        f"write {'-i ' if place.live else ''}{first}={place.target}, or leave it out"
        for name, place in typed.items()
        if name not in places
    ]
    if unread:
        raise UsageError("\n".join(unread))


def _refuse_inputs(wanted: Grab, file: GrabFile, places: Mapping[str, Place]) -> None:
    """Refuse outputs that are inputs.

    Raises:
        UsageError: There are.
    """
    inputs = [place.target for place in places.values() if not place.live and place.target != STDOUT]
    inputs += [wanted.file, *filter(None, (wanted.policy, file.policy))]
    known = {os.path.realpath(name) for name in inputs}
    wrong = [
        f"  {file.path}:{one.line}: grabbers, {one.name}: {output} is an input; write to another file"
        for one in file.grabbers
        for output in one.outputs
        if output != STDOUT and os.path.realpath(output) in known
    ]
    if wrong:
        raise UsageError("\n".join([f"{file.path}: outputs would replace what is read; nothing was run", *wrong]))


# --- the policy --------------------------------------------------------------------------------------------------


def _verdicts(
    wanted: Grab, file: GrabFile, graphs: Mapping[str, Graph], places: Mapping[str, Place]
) -> dict[str, Verdict] | None:
    """What the policy says, by the names of grabbers; None: there is no policy.

    It is asked about devices by the names that graphs give them, and again by what they are, so that a name in
    [source] does not hide an interface.

    Raises:
        CannotReadError: The policy cannot be read.
        UsageError: There is something wrong with it.
    """
    name = wanted.policy or file.policy
    if name is None:
        if wanted.user is not None:
            raise UsageError("--user is for a policy; name one with --policy")
        return None
    policy = Policy.read(name)
    found: dict[str, Verdict] = {}
    for grabber, graph in graphs.items():
        verdict = policy.check(graph, wanted.user)
        real = _renamed(graph, places)
        if real != graph:
            also = policy.check(real, wanted.user)
            told = {(one.rule, one.function) for one in verdict.reasons}
            others = tuple(one for one in also.reasons if (one.rule, one.function) not in told)
            verdict = replace(verdict, reasons=verdict.reasons + others, more=verdict.more or also.more)
        found[grabber] = verdict
    return found


def _renamed(graph: Graph, places: Mapping[str, Place]) -> Graph:
    """A graph whose devices have the names of interfaces and captures."""
    moved: dict[Node, Node] = {}
    for node in graph.nodes:
        name = device_of(node)
        one = node.filter if name is None else make_call(DEVICE, places[name].target)
        moved[node] = Node(one, (moved[before] for before in node.upstream))
    return Graph(moved[node] for node in graph.sinks)


def _say_verdicts(verdicts: Mapping[str, Verdict] | None) -> int:
    """Print what the policy says: data, so on standard output. Returns the exit code."""
    out = StandardOutput()
    if verdicts is None:
        out.write("there is no policy: all grabbers may run\n")
        return Exit.OK
    for name, verdict in verdicts.items():
        out.write("".join(f"{printable(line)}\n" for line in f"{name}: {verdict}".split("\n")))
    return Exit.OK if all(verdicts.values()) else Exit.FAILED


# --- the picture -------------------------------------------------------------------------------------------------


def _draw(name: str, graphs: Mapping[str, Graph], *, overwrite: bool) -> None:
    """Draw all graphs as one, in which nodes that they share are there once.

    Raises:
        UsageError: A format that is none, or Graphviz is needed and not there.
        CannotWriteError: The file exists, or cannot be written.
    """
    suffix = Path(name).suffix.lower()
    if name != STDOUT and suffix not in (".dot", ".svg"):
        raise UsageError(f"--draw {name}: a picture is a .dot or a .svg file, or - for dot on standard output")
    everything = Graph(node for graph in graphs.values() for node in graph.sinks)
    drawn = svg_of(everything, readers=graphs) if suffix == ".svg" else dot_of(everything, readers=graphs)
    if name == STDOUT:
        StandardOutput().write(drawn)
        return
    try:
        write_whole(Path(name), [drawn.encode("utf-8", "replace")], overwrite=overwrite)
    except FileExists:
        raise FileExists(f"{name} exists already; choose another name, or add --overwrite") from None


# --- running -----------------------------------------------------------------------------------------------------


class _Run:
    """One run of the grabbers that may run."""

    def __init__(
        self,
        wanted: Grab,
        file: GrabFile,
        graphs: Mapping[str, Graph],
        places: Mapping[str, Place],
        verdicts: Mapping[str, Verdict] | None,
    ) -> None:
        self._wanted, self._file, self._graphs = wanted, file, graphs
        self._rejected = {} if verdicts is None else {name: one for name, one in verdicts.items() if not one}
        self._allowed = [one for one in file.grabbers if one.name not in self._rejected]
        used = {name for one in self._allowed if one.active for name in map(device_of, graphs[one.name].heads)}
        self._places = {name: place for name, place in places.items() if name in used}
        if wanted.only_live and not any(place.live for place in places.values()):
            raise UsageError(f"{wanted.only_live[0]} is for interfaces, and nothing here is one; name one with -i")
        self._works: list[Work] = []

    def run(self) -> int:
        """Run them. Returns the exit code."""
        for name, verdict in self._rejected.items():
            say_lines(f"grabber {name} was {verdict}")
        if not self._allowed:
            say("no grabber may run")
            return Exit.FAILED
        if not any(one.active for one in self._allowed):
            say("no grabber is active; nothing was read")
            return Exit.INCOMPLETE if self._rejected else Exit.OK
        self._refuse_existing()
        stop = None if self._wanted.quiet else announce_compiling()
        try:
            with (
                Interruption() as interruption,
                Sources(self._places, self._wanted.live, self._wanted.limit, interruption) as sources,
            ):
                return self._run(sources, interruption)
        finally:
            for work in self._works:
                work.close()
            if stop is not None:
                stop()

    def _refuse_existing(self) -> None:
        """Refuse files that exist.

        Raises:
            FileExists: Some do.
        """
        active = [one for one in self._allowed if one.active]
        found = [] if self._wanted.overwrite else outputs_in_the_way(active)
        if found:
            raise FileExists(f"{'; '.join(found)}; choose other names, or add --overwrite")

    def _run(self, sources: Sources, interruption: Interruption) -> int:
        file = self._file
        for one in self._allowed:
            self._works.append(self._work(one, sources))
        with Monitor(
            sources.devices,
            mode=file.mode,
            buffer_octets=file.buffer_octets,
            buffer_packets=file.buffer_packets,
        ) as monitor:
            for work in self._works:
                work.begin(monitor)
            self._begin(sources)
            self._step(monitor, sources)
            interrupted = interruption.asked
            for work in self._works:
                cut_short = interrupted and sources.kernel_drops is None  # an interface has no end to be missed
                work.finish(sources.errors, interrupted=cut_short)
            return self._finish(sources, interruption, interrupted)

    def _work(self, one: Named, sources: Sources) -> Work:
        """A grabber with its outputs.

        Raises:
            CannotWriteError: One cannot be made.
        """
        try:
            return Work(
                one,
                self._graphs[one.name],
                sources.interfaces,
                overwrite=self._wanted.overwrite,
                usual=self._wanted.shape,
            )
        except FileExists as error:
            raise FileExists(f"grabber {one.name}: {error} with --overwrite") from error
        except CannotWriteError as error:
            raise CannotWriteError(f"grabber {one.name}: {error}") from error

    def _begin(self, sources: Sources) -> None:
        """Get ready: kernels first, since frames of interfaces do not wait."""
        counting = [one.counters.interval_ns for one in self._allowed if one.active and one.counters is not None]
        sources.intervals_ns = tuple(sorted(set(counting)))
        if counting:
            sources.on_time = self._time
        if not gc.isenabled():  # `main` switched it off
            gc.freeze()
            gc.enable()
        if sources.kernel_drops is None:
            return
        self._rehearse()
        names = sources.start()
        if not self._wanted.quiet:
            note(f"capturing on {names} (Ctrl-C ends it)")

    def _rehearse(self) -> None:
        """Run the graphs over one frame, so that the kernels that they need are compiled, or loaded."""
        as_usual: dict[str, Any] = {"byteorder": "little", "nanosecond": False}
        one = pcap_header(1, snaplen=0, **as_usual) + pcap_record(0, 60, bytes(60), **as_usual)
        with Monitor({name: open_source(io.BytesIO(one)) for name in self._places}) as monitor:
            reads = [work.rehearse(monitor) for work in self._works]
            monitor.run()
            for read in reads:
                with contextlib.suppress(TraceflowError):
                    read()

    def _time(self, now_ns: int) -> None:
        for work in self._works:
            work.time(now_ns)

    def _step(self, monitor: Monitor, sources: Sources) -> None:
        """Handle all batches."""
        rows_shown = is_terminal() and self._to_stdout
        table = LiveTable(self._works, wanted=not self._wanted.quiet and not rows_shown)
        after: list[Callable[[], None]] = [work.after_step for work in self._works]
        try:
            while monitor.step():
                for call in after:
                    call()
                table.show(sources.frames)
        finally:
            table.close()

    @property
    def _to_stdout(self) -> bool:
        """Whether an output goes to standard output."""
        return any(STDOUT in work.named.outputs for work in self._works if work.named.active)

    def _finish(self, sources: Sources, interruption: Interruption, interrupted: bool) -> int:
        """Print counters, account, and what went wrong. Returns the exit code."""
        closed = [work for work in self._works if work.named.active and work.state == "closed"]
        if any(work.pipe_closed for work in closed) and all(
            work in closed for work in self._works if work.named.active
        ):
            return Exit.PIPE_CLOSED  # nothing is left to be said, and nobody to be told
        failed = (bool(sources.errors) and not sources.opened) or not any(work.ran for work in self._works)
        if not failed and not self._to_stdout:
            _print_counters(self._works, self._wanted.shape)
        if not self._wanted.quiet and not failed:
            for work in self._works:
                work.say_account()
            self._say_account(sources, interrupted)
        for error in sources.errors:
            say(f"failed: {error}" if failed else f"incomplete: {error}")
        if interruption.asked:
            word = "interrupted" if interruption.exit_code == Exit.INTERRUPTED else "terminated"
            say(word if interrupted else f"{word}: not everything was written")
            return interruption.exit_code
        if any(work.pipe_closed for work in self._works):
            return Exit.PIPE_CLOSED
        if failed:
            return Exit.FAILED
        wrong = bool(sources.errors or self._rejected) or any(work.problems for work in self._works)
        return Exit.INCOMPLETE if wrong else Exit.OK

    def _say_account(self, sources: Sources, interrupted: bool) -> None:
        active = sum(work.named.active for work in self._works)
        closed = sum(work.named.active and work.state == "closed" for work in self._works)
        note(f"frames read {sources.frames}, octets {sources.octets}, devices {len(self._places)}")
        note(f"grabbers {len(self._file.grabbers)}: to the end {active - closed}, closed before {closed}, "
             f"not active {len(self._works) - active}, rejected {len(self._rejected)}")  # fmt: skip
        if sources.kernel_drops is not None:
            note(f"kernel drops {sources.kernel_drops}")
        elif interrupted:
            note("interrupted: frames behind these were not read")


def _print_counters(works: Sequence[Work], shape: str | None) -> None:
    """Print the counters of all grabbers as rows; those of what came out have no node."""
    rows: list[tuple[str, str | None, str, int]] = []
    for work in works:
        rows += [(work.named.name, None, name, value) for name, value in work.passed.items()]
        for text, counters in work.counters.items():
            rows += [(work.named.name, text, name, value) for name, value in counters.items()]
    writer = row_writer(View(shape, _FIELDS))
    if rows:
        writer.write(list(zip(*rows, strict=True)))
    writer.close()
