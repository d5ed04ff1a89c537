"""The whole program on one page: captures -> decode -> table -> whoever listens.

An Engine makes Steps of batches. A Run goes through its input once and hands them out; commands and sinks are loops
over steps. `trace` is the loop that keeps everything: it makes a FlowSet. `feeding.py` gives an Engine one frame at a
time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from traceflow.ahead import AHEAD, Ahead, batches_ahead
from traceflow.callbacks import Callbacks
from traceflow.checksums import verify_batch
from traceflow.decode import decode_quotes, decode_rows
from traceflow.duplicates import DuplicateFinder
from traceflow.errors import IncompleteWarning, TraceflowError
from traceflow.filters.loading import FrameFilter, load_expression
from traceflow.flows import FLOW, Account, Flow, FlowSet, flat_columns
from traceflow.fragments import FragmentTable
from traceflow.framelists import FrameMap
from traceflow.live import as_octets
from traceflow.options import Options, options_for
from traceflow.packets import FRAGMENT, PACKET, QUOTES, Batch, Verdict
from traceflow.plugins import Batch as PluginBatch
from traceflow.plugins import Plugin, PluginSet, load_plugins
from traceflow.quotes import NO_QUOTES, Quotes
from traceflow.sources import Source, open_source
from traceflow.table import FROM_RESPONDER, FROM_UPPER, LATE, MARK, FlowTable
from traceflow.timeouts import NEVER_NS

__all__ = ["MANY_FLOWS", "Engine", "FlowCollector", "Run", "Step", "plugin_set", "trace"]

MANY_FLOWS = 4096
"""`enough_flows` of an Engine where whoever gets them is in no hurry."""
_NO_LATE = np.zeros(0, LATE)
_NO_FLOWS = np.zeros(0, FLOW)
_FILTERED = np.zeros(1, PACKET)
_FILTERED["verdict"] = Verdict.FILTERED


@dataclasses.dataclass(slots=True)
class Step:
    """One batch on its way. The arrays are used again for the next step: copy what must outlive it.

    Attributes:
        batch: The frames; None in the last steps, which only bring the flows that the end of the input ended.
        packets: PACKET[m].
        marks: MARK[m] of `table.py`.
        ended: FLOW[k], the flows that ended up to and including this batch, in the order in which they ended.
        late: LATE[j] of `table.py`: frames of this batch or of an earlier one that belong to a flow after all.
        quoted: QUOTED[q] of `quotes.py`: ICMP errors of this batch, and the flow of the packet that each quotes.
        columns: Columns of plugins for `ended`: masked arrays [k] by name.
    """

    batch: Batch | None
    packets: npt.NDArray[np.void]
    marks: npt.NDArray[np.void]
    ended: npt.NDArray[np.void]
    late: npt.NDArray[np.void]
    quoted: npt.NDArray[np.void]
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Prepared:
    """A batch of which everything is known that needs no flows.

    Attributes:
        batch: The frames.
        packets: PACKET[m].
        hashes: uint32[m], of their keys.
        hints: uint32[m], rows that they likely belong to, or nothing; see `FlowTable.find_hints`.
        bits: Which of the PACKET bits FRAGMENT and QUOTES any of them has.
        duplicates: Exact duplicates up to and including these; None where none are looked for.
    """

    batch: Batch
    packets: npt.NDArray[np.void]
    hashes: npt.NDArray[np.uint32]
    hints: npt.NDArray[np.uint32]
    bits: int
    duplicates: int | None


class Engine:
    """Batches to Steps, wherever they come from: decode, duplicates, fragments, table, plugins.

    Args:
        options: The rules.
        plugins: The plugins.
        ahead: How many batches may be prepared while an earlier Step is still in use.

    Attributes:
        plugins: As given.
        table: The flow table.
        fragments: The table of fragments.
        duplicates: Finds exact duplicates.
        enough_flows: How many flows must have ended before a step of frames brings them. Some hundred calls of NumPy
            take as long for one flow as for thousands.
    """

    def __init__(self, options: Options, plugins: PluginSet | None = None, *, ahead: int = 0) -> None:
        self.plugins = PluginSet(()) if plugins is None else plugins
        self.table = FlowTable(options, plan=self.plugins.plan, helped=ahead > 0)
        self.fragments = FragmentTable()
        self.duplicates = DuplicateFinder(options)
        self._duplicates = self.duplicates.found
        self._checksums = options.checksums
        self._rows = deque((np.zeros(0, PACKET), *(np.zeros(0, np.uint32),) * 2) for _ in range(ahead + 1))
        self._no_columns = self.plugins.empty_columns(0)
        self.enough_flows = 1

    def monitor(self, interval_ns: int, say: Callable[[int, dict[str, Mapping[str, Any]]], Any]) -> None:
        """Have something called whenever an interval of packet time is over, before the first frame behind it.

        Args:
            interval_ns: The interval; it begins with the first frame. Several that pass without a frame are one call.
            say: Called with the time at which the last of them was over, and what the plugins have to say, by name.
        """
        next_ns: int | None = None

        def pause() -> None:
            nonlocal next_ns
            clock_ns = self.table.clock_ns
            if next_ns is not None:
                over_ns = next_ns + (clock_ns - next_ns) // interval_ns * interval_ns
                say(over_ns, self.plugins.monitor(over_ns))
                next_ns = over_ns + interval_ns
            else:
                next_ns = clock_ns + interval_ns
            self.table.pause_at(next_ns)

        self.table.on_pause = pause
        self.table.pause_at(-int(NEVER_NS))

    def step(self, batch: Batch, keep: npt.NDArray[np.bool_] | None = None) -> Step:
        """Trace the next frames.

        Args:
            batch: The frames; none of them where only time went on.
            keep: bool[m], whether a filter lets each through: the others are numbered, and get the Verdict FILTERED.
                None: all.
        """
        return self.finish_step(self.prepare(batch, keep))

    def prepare(self, batch: Batch, keep: npt.NDArray[np.bool_] | None = None) -> Prepared:
        """Do what needs no flows: the first half of `step`. It may run in another thread than the second half.

        Returns:
            What `finish_step` is to be given, in the order in which it was made.
        """
        rows, hashes, hints = self._rows[0]
        if batch.quiet_ns is not None:
            return Prepared(batch, rows[:0], hashes[:0], hints[:0], 0, self.duplicates.found)
        if len(rows) < len(batch.frames):
            rows, (hashes, hints) = np.zeros(len(batch.frames), PACKET), np.zeros((2, len(batch.frames)), np.uint32)
            self._rows[0] = rows, hashes, hints
        self._rows.rotate()
        if len(self._rows) > 1:
            # The other thread had these rows last. While both processors share no cache (a line takes 320 ns to the
            # other and back, not 55), storing into them row by row took 150 ns a frame; cleared at once first, 20.
            rows[: len(batch.frames)].view(np.uint8)[:] = 0
        frames = batch.octets, batch.frames
        signatures = self.duplicates.signatures(len(batch.frames))
        rules = self.table.options
        packets, bits = decode_rows(
            *frames, rows, signatures=signatures, outer=rules.outer, fabric_fcs=rules.fabric_path_fcs
        )
        if keep is not None:
            as_octets(packets)[~keep] = as_octets(_FILTERED)  # column by column it takes 78 ns a frame, so 3
            bits = int(np.bitwise_or.reduce(packets["bits"])) if bits else 0
        self.duplicates.mark(*frames, packets, signed=keep is None)
        if self._checksums:
            verify_batch(*frames, packets)
        hashes = self.table.hash_keys(packets, hashes)
        if len(self._rows) > 1:  # this is another thread than that of the table, and has time to spare
            self.table.help()
            hints = self.table.find_hints(hashes, hints)
        else:
            hints = hints[:0]
        return Prepared(batch, packets, hashes, hints, bits, self.duplicates.found)

    def finish_step(self, prepared: Prepared) -> Step:
        """Do what needs the flows: the second half of `step`."""
        batch, packets, self._duplicates = prepared.batch, prepared.packets, prepared.duplicates
        if batch.quiet_ns is not None:
            return self.tick(batch.quiet_ns)
        quotes = NO_QUOTES
        if prepared.bits & QUOTES:
            quotes = decode_quotes(batch, packets, outer=self.table.options.outer)
        marks, late = self._track(prepared, quotes)
        ended, columns = self._ended(batch, packets, marks)
        return Step(batch, packets, marks, ended, late, quotes.quoted, columns)

    def step_decoded(self, batch: Batch, packets: npt.NDArray[np.void]) -> Step:
        """Trace packets that are known without their octets: no duplicates, fragments, checksums or quotes.

        Args:
            batch: Their frames.
            packets: PACKET[m]; a profile may set a Verdict.
        """
        marks = self.table.track(batch.frames, packets, batch.first_number)
        ended, columns = self._ended(batch, packets, marks)
        return Step(batch, packets, marks, ended, _NO_LATE, NO_QUOTES.quoted, columns)

    def tick(self, now_ns: int) -> Step:
        """Let time go on without a frame, see `FlowTable.tick`."""
        self.table.tick(now_ns)
        return self._step_of_none()

    def end(self) -> Step:
        """End all live flows; the last step."""
        self.table.end()
        step = self._step_of_none()
        self.plugins.finish()
        return step

    def end_in_parts(self) -> Iterator[Step]:
        """End all live flows, some thousand a step; the last steps."""
        for _ in self.table.end_in_parts():
            yield self._step_of_none()
        self.plugins.finish()

    def _step_of_none(self) -> Step:
        packets, marks = self._rows[0][0][:0], np.zeros(0, MARK)
        ended, columns = self._ended(None, packets, marks)
        return Step(None, packets, marks, ended, _NO_LATE, NO_QUOTES.quoted, columns)

    def _ended(
        self, batch: Batch | None, packets: npt.NDArray[np.void], marks: npt.NDArray[np.void]
    ) -> tuple[npt.NDArray[np.void], dict[str, Any]]:
        """The flows that ended up to and including a batch, and what plugins say of them; they see the batch first."""
        if batch is not None:
            if self.plugins and self.plugins.sees_batches:
                responder = marks["direction"] & FROM_RESPONDER != 0
                shown = PluginBatch(batch.octets, batch.frames, packets, marks["flow"], responder, batch.first_number)
                self.plugins.batch(shown)
            if self.table.undrained < self.enough_flows:
                return _NO_FLOWS, self._no_columns
        ended = self.table.drain()
        if not self.plugins:
            return ended, {}
        return ended, self.plugins.ended(ended, self.table.ended_records)

    def _track(self, prepared: Prepared, quotes: Quotes) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
        """Give each packet of a batch its flow: MARK[m], and LATE[j] of the fragments that waited for one of them."""
        batch, packets = prepared.batch, prepared.packets
        if not prepared.bits & FRAGMENT:
            marks = self.table.track(
                batch.frames, packets, batch.first_number, quotes, hashes=prepared.hashes, hints=prepared.hints
            )
            return marks, _NO_LATE
        marks, late, at = np.zeros(len(packets), MARK), [], 0
        while at < len(packets):
            stop = self.fragments.resolve(batch.octets, batch.frames, packets, batch.first_number, at)
            first, behind = batch.first_number + at, batch.first_number + stop
            part = quotes.part(first, behind)
            some = batch.frames[at:stop], packets[at:stop]
            marks[at:stop] = self.table.track(*some, first, part, shots_at=at)
            for number, frame, packet in self.fragments.released():
                late.append((number, *self.table.track_late(frame, packet, behind - 1, shots_at=stop), behind - 1))
            at = stop
        return marks, np.array(late, LATE) if late else _NO_LATE

    def account(self) -> Account:
        """What became of every frame."""
        account = self.table.account()
        account.fragments_late = self.fragments.late
        account.fragments_overlapping = self.fragments.overlapping
        account.datagrams_evicted = self.fragments.evicted
        account.duplicates = self._duplicates
        return account


class Run(Engine):
    """One pass over some captures, or over what comes on an interface.

    Args:
        captures: The open source.
        options: The rules.
        plugins: The plugins.
        frame_filter: Decides which frames are traced; None: all are.

    Attributes:
        captures: As given.
    """

    def __init__(
        self,
        captures: Source,
        options: Options,
        plugins: PluginSet | None = None,
        frame_filter: FrameFilter | None = None,
    ) -> None:
        super().__init__(options, plugins, ahead=captures.ahead)
        self.captures = captures
        self._filter = frame_filter
        if self.plugins and not captures.live:
            self.enough_flows = MANY_FLOWS
        self._stopped = False
        self._interrupted = False

    def stop(self) -> None:
        """Stop reading after the batch in hand; its flows are ended and handed out as at the end of input."""
        self._stopped = True

    def steps(self) -> Iterator[Step]:
        """Go through the input once. The flows of all steps together are all flows, each once."""
        with contextlib.closing(self._prepared()) as batches:
            for prepared in batches:
                yield self.finish_step(prepared)
                if self._stopped:
                    self._interrupted = True
                    break
        yield from self.end_in_parts()

    def _prepared(self) -> Generator[Prepared]:
        """The batches, prepared; where the captures allow it, in a thread beside this one."""
        prepared = (self.prepare(batch, self._kept(batch)) for batch in self.captures.batches())
        if self.captures.ahead < AHEAD:
            yield from prepared
            return
        with Ahead(prepared) as items:
            yield from items

    def _kept(self, batch: Batch) -> npt.NDArray[np.bool_] | None:
        """Which frames of a batch the filter lets through; None: all."""
        return None if self._filter is None or batch.quiet_ns is not None else self._filter.keep(batch)

    @property
    def errors(self) -> list[TraceflowError]:
        """What went wrong so far: of the captures, then frames that the filter cannot judge, once a link type."""
        return [*self.captures.errors, *(self._filter.failures.values() if self._filter is not None else ())]

    @property
    def failed(self) -> bool:
        """Whether nothing could be traced: no capture could be read, or no frame of them be judged by the filter."""
        if self._filter is not None and self._filter.failures and not self._filter.judged:
            return True
        return bool(self.captures.errors) and not self.captures.opened

    def account(self) -> Account:
        """What became of every frame."""
        account = super().account()
        account.interrupted = self._interrupted
        return account


_FLOWS_AT_FIRST = 131_072


class FlowCollector:
    """Keeps what a FlowSet needs from the steps of an engine.

    Args:
        engine: The engine; of a Run, its captures are told of as well.
        frame_lists: Whether the frames of flows are wanted; without, `frame_map` stays empty.

    Attributes:
        frame_map: Which frame belongs to which flow.
    """

    def __init__(self, engine: Engine, *, frame_lists: bool = True) -> None:
        self._engine, self._frame_lists = engine, frame_lists
        self._rows = np.zeros(0, FLOW)  # each flow at the place of its number; number 0: it has not ended
        self._count, self._highest = 0, 0
        self._columns: list[tuple[npt.NDArray[np.uint64], dict[str, Any]]] = []
        self.frame_map = FrameMap()

    def take(self, step: Step) -> None:
        """Keep the flows and the frame numbers of a step."""
        if self._frame_lists:
            self.frame_map.add(step.marks, FROM_UPPER)
            if len(step.late):
                self.frame_map.amend(step.late, FROM_UPPER)
        if len(step.ended):
            self._keep(step.ended)
            if step.columns:
                self._columns.append((step.ended["number"].copy(), step.columns))

    def _keep(self, ended: npt.NDArray[np.void]) -> None:
        """Put rows where they belong, once: memory that is touched for the first time costs more than what is copied.

        Room for more rows costs nothing until then, but where there is more than a machine could have, it is refused:
        so it grows eightfold to the first million, and twofold from there.
        """
        places = ended["number"].astype(np.intp) - 1
        highest = max(self._highest, int(places.max()) + 1)
        if highest > len(self._rows):
            room = len(self._rows) * (8 if len(self._rows) <= _FLOWS_AT_FIRST else 2)
            rows = np.zeros(max(_FLOWS_AT_FIRST, room, highest), FLOW)
            as_octets(rows)[: self._highest] = as_octets(self._rows)[: self._highest]
            self._rows = rows
        as_octets(self._rows)[places] = as_octets(ended)
        self._count, self._highest = self._count + len(ended), highest

    def flows(self) -> FlowSet:
        """All flows that have ended so far, in opening order."""
        # After the last step every number from 1 to the count is there, so that a number is a place; before, some are
        # missing. Rows are copied without their columns, which NumPy would copy one by one.
        ordered = self._rows[: self._highest]
        numbers: npt.NDArray[np.uint64] | None = None
        if self._count < self._highest:
            ordered = as_octets(ordered)[ordered["number"] != 0].view(FLOW)
            numbers = ordered["number"]
        columns = self._engine.plugins.empty_columns(len(ordered))
        for theirs, given in self._columns:
            places = theirs.astype(np.intp) - 1 if numbers is None else np.searchsorted(numbers, theirs)
            for name, values in given.items():
                columns[name][places] = values
        return self._set_of(ordered, columns)

    def ended(self, step: Step) -> FlowSet:
        """The flows that ended in a step that was taken, in that order."""
        return self._set_of(step.ended, step.columns)

    def _set_of(self, rows: npt.NDArray[np.void], columns: dict[str, Any]) -> FlowSet:
        engine = self._engine
        flows = FlowSet(rows, self.frame_map, engine.account())
        if isinstance(engine, Run):
            flows.errors, flows.interfaces = engine.errors, list(engine.captures.interfaces)
        flows.plugin_columns = columns
        flows.plugin_failures = [str(failure) for failure in engine.plugins.failures]
        return flows


def plugin_set(
    plugins: Iterable[str | Plugin | type[Plugin]], *, taken: Iterable[str] = (), shots: bool = False
) -> PluginSet:
    """The plugins of a run, from what a user gives; no column may have the name of a column or attribute of flows.

    Args:
        plugins: Names with options, objects, or classes.
        taken: Names besides those that a column may not have either.
        shots: Whether columns of plugins are wanted for each packet.

    Raises:
        UsageError: An unknown plugin, or one that does not fit.
    """
    attributes = (name for name in dir(Flow) if not name.startswith("_"))
    return PluginSet(load_plugins(plugins), taken=[*flat_columns(np.zeros(0, FLOW)), *attributes, *taken], shots=shots)


def trace(
    *sources: str | os.PathLike[str] | BinaryIO,
    profile: str = "default",
    limit: int | None = None,
    plugins: Iterable[str | Plugin | type[Plugin]] = (),
    on_flow_end: Callable[[Flow], Any] | None = None,
    filter: str | None = None,  # noqa: A002 - the word that users look for
    workers: int | None = None,
    **options: Any,
) -> FlowSet:
    """Trace every flow of some captures.

    Args:
        sources: Paths, `-` for standard input, or open binary files; read one after the other, and flows go on
            across them.
        profile: Name of a profile, see `options.PROFILES`.
        limit: Stop after that many frames.
        plugins: Plugins by name with options (`tcpwin:est=2.0`), as objects or as classes; their columns are in
            `FlowSet.plugin_columns`, and attributes of each flow.
        on_flow_end: Called once with each flow, those too that the end of the input ends, in the order in which they
            end: behind each batch, with plugins behind 4096 flows at the latest.
        filter: An expression of pcap-filter(7), `tcp port 443`: only frames that it lets through are traced. The others
            are numbered as well, and have the Verdict FILTERED.
        workers: Threads that may work: with two, files are read and decoded beside the tracking of flows. None: as many
            as there are processors. No result depends on it.
        options: Single rules to change, the attributes of `options.Options`.

    Returns:
        The flows. Where a capture is cut or broken, those of its good frames; `errors` then says what is missing, and
        an IncompleteWarning is issued.

    Raises:
        UsageError: An unknown profile or option, a filter that is wrong, or less than one worker.
        LibraryMissingError: There is a filter, and no libpcap.
        TraceflowError: Not one of the sources could be read, or not one frame of them be judged by the filter.

    Warns:
        CallbackWarning: `on_flow_end` raised; it is called with the next flow, and nothing is lost.
    """
    rules, running = options_for(profile, **options), plugin_set(plugins)
    callbacks: Callbacks[Flow] = Callbacks(lambda flow: f"flow {flow.number}")
    if on_flow_end is not None:
        callbacks.register(on_flow_end)
    frame_filter = None if filter is None else load_expression(filter)
    with open_source(*sources, limit=limit, ahead=batches_ahead(workers)) as captures:
        run = Run(captures, rules, running, frame_filter)
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            if on_flow_end is not None:
                for flow in collector.ended(step):
                    callbacks.call(flow)
        flows = collector.flows()
    if run.failed:
        raise flows.errors[0]
    if flows.errors or flows.plugin_failures:
        warnings.warn("; ".join(map(str, [*flows.errors, *flows.plugin_failures])), IncompleteWarning, stacklevel=2)
    return flows
