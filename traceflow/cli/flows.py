"""`traceflow flows`: one row a flow, in opening order or as they end; or the totals alone."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.cli.commands import Input, View
from traceflow.cli.output import StandardOutput, TerminalTable, is_terminal, row_writer
from traceflow.cli.session import Session
from traceflow.flows import Account, FlowSet
from traceflow.framelists import FrameMap
from traceflow.pipeline import MANY_FLOWS, FlowCollector
from traceflow.protocols import protocol_name
from traceflow.sinks.rows import CsvRows, RowBlock, RowWriter
from traceflow.sinks.rows_fields import FRAME_LISTS, Field, Kind
from traceflow.sinks.rows_flows import CHUNK_FLOWS, flow_columns

__all__ = ["run", "run_summary"]

_SUMS = ("packets", "wire_octets", "ip_octets", "payload_octets")


def _collect(session: Session, view: View) -> FlowSet:
    """Trace the captures of a session, and keep what is to be shown."""
    wanted = any(field.name in FRAME_LISTS for field in view.fields)
    collector = FlowCollector(session.run, frame_lists=wanted)
    for step in session.steps():
        collector.take(step)
    flows = collector.flows()
    flows.account = session.account()
    return flows


def run(given: Input, view: View) -> int:
    """List the flows.

    Args:
        given: The input.
        view: Format and fields.

    Returns:
        The exit code.
    """
    if view.stream:
        return _stream(given, view)
    with Session(given) as session:
        flows = _collect(session, view)
        session.progress.close()
        if not session.failed:
            writer = row_writer(view)
            for chunk, block in enumerate(flow_columns(flows, view.fields)):
                if session.asked_while_writing():
                    break
                _write(writer, flows, block, chunk * CHUNK_FLOWS, alarms_only=view.alarms_only)
            writer.close()
        return session.finish()


def _write(writer: RowWriter, flows: FlowSet, block: RowBlock, start: int, *, alarms_only: bool) -> None:
    """Write rows of flows that begin at `start`; where that is asked for, of those with an alarm alone."""
    if not alarms_only:
        writer.write(block)
        return
    alarms = (flows.columns["alarm"][start : start + block.rows] != 0).tolist()
    if any(alarms):
        writer.write([list(itertools.compress(column, alarms)) for column in block])


def _stream(given: Input, view: View) -> int:
    """List the flows as they end: nothing is kept of those that were written."""
    writer = row_writer(view, at_once=given.live is not None)
    # A bar would be drawn between the rows, unless they are held back or go elsewhere.
    with Session(given, progress=isinstance(writer, TerminalTable) or not is_terminal()) as session:
        if given.live is None and session.captures.octets_total is not None:  # nobody waits at the other end of a pipe
            session.run.enough_flows = MANY_FLOWS
        for step in session.steps():
            if len(step.ended):
                flows = FlowSet(step.ended, FrameMap(), Account())
                flows.plugin_columns = step.columns
                for chunk, block in enumerate(flow_columns(flows, view.fields)):
                    _write(writer, flows, block, chunk * CHUNK_FLOWS, alarms_only=view.alarms_only)
        session.progress.close()
        if not session.failed:
            writer.close()
        return session.finish()


def run_summary(given: Input, shape: str | None) -> int:
    """Print the account and the totals.

    Args:
        given: The input.
        shape: `jsonl` - one JSON object; `csv` - a head and a row; otherwise lines of `name: value`.

    Returns:
        The exit code.
    """
    with Session(given) as session:
        sums, session.run.enough_flows = _Sums(), MANY_FLOWS
        for step in session.steps():
            sums.add(step.ended)
        session.progress.close()
        if not session.failed:
            account, complete = session.account(), not session.run.errors
            totals = _totals(account, sums, complete=complete and not account.interrupted)
            if session.kernel_drops is not None:
                totals["kernel_drops"] = session.kernel_drops
            _print_totals(totals, shape)
        return session.finish(account=False)


class _Sums:
    """Sums over flows that ended; nothing is kept of them, so memory does not grow with their number."""

    def __init__(self) -> None:
        self.by_protocol = np.zeros(256, np.int64)
        self.columns = dict.fromkeys(_SUMS, 0)
        self.first_ns: int | None = None
        self.last_ns: int | None = None

    def add(self, flows: npt.NDArray[np.void]) -> None:
        """Add FLOW[k]."""
        if not len(flows):
            return
        self.by_protocol += np.bincount(flows["protocol"], minlength=256)
        for name in _SUMS:
            self.columns[name] += int(flows["orig"][name].sum()) + int(flows["resp"][name].sum())
        first_ns, last_ns = int(flows["first_ns"].min()), int(flows["last_ns"].max())
        self.first_ns = first_ns if self.first_ns is None else min(self.first_ns, first_ns)
        self.last_ns = last_ns if self.last_ns is None else max(self.last_ns, last_ns)


def _totals(account: Account, sums: _Sums, *, complete: bool) -> dict[str, int | str | None]:
    """The account and the sums over all flows, by name."""
    totals: dict[str, int | str | None] = {"frames": account.frames, "frames_in_flows": account.in_flows}
    for verdict, count in account.verdicts.items():
        totals[f"frames_{verdict.name.lower()}"] = count
    totals["flows"] = account.flows
    for cause, count in account.causes.items():
        totals[f"flows_ended_by_{cause.name.lower()}"] = count
    for protocol in (6, 17):
        totals[f"flows_{protocol_name(protocol).lower()}"] = int(sums.by_protocol[protocol])
    totals["flows_other"] = int(sums.by_protocol.sum() - sums.by_protocol[6] - sums.by_protocol[17])
    totals |= sums.columns
    totals["first_ns"], totals["last_ns"] = sums.first_ns, sums.last_ns
    totals["frames_out_of_order"] = account.frames_out_of_order
    totals["forward_jumps"] = account.forward_jumps
    totals["fragments_late"] = account.fragments_late
    totals["fragments_overlapping"] = account.fragments_overlapping
    totals["datagrams_evicted"] = account.datagrams_evicted
    totals["duplicates"] = account.duplicates
    totals["complete"] = "yes" if complete else "no"
    return totals


def _print_totals(totals: dict[str, Any], shape: str | None) -> None:
    stream = StandardOutput()
    if shape == "jsonl":
        stream.write(json.dumps(totals) + "\n")
    elif shape == "csv":
        writer = CsvRows(stream, [Field(name, Kind.WORD) for name in totals])
        writer.write([[value] for value in totals.values()])
    else:
        lines = (f"{name}: {'' if value is None else value}".rstrip() for name, value in totals.items())
        stream.write("\n".join(lines) + "\n")
