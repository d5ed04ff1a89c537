"""`traceflow flows`: one row a flow, in opening order or as they end; or the totals alone."""

from __future__ import annotations

import json
from typing import Any

from traceflow.cli.commands import Input, View
from traceflow.cli.output import StandardOutput, TerminalTable, is_terminal, row_writer
from traceflow.cli.session import Session
from traceflow.flows import Account, FlowSet
from traceflow.framelists import FrameMap
from traceflow.pipeline import FlowCollector
from traceflow.protocols import protocol_name
from traceflow.sinks.rows import CsvRows
from traceflow.sinks.rows_fields import Field, Kind
from traceflow.sinks.rows_flows import flow_columns

__all__ = ["run", "run_summary"]

_SUMS = ("packets", "wire_octets", "ip_octets", "payload_octets")


def _collect(session: Session) -> FlowSet:
    """Trace the captures of a session."""
    collector = FlowCollector(session.run)
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
        flows = _collect(session)
        session.progress.close()
        if not session.failed:
            writer = row_writer(view)
            for columns in flow_columns(flows, view.fields):
                if session.asked_while_writing():
                    break
                writer.write(columns)
            writer.close()
        return session.finish()


def _stream(given: Input, view: View) -> int:
    """List the flows as they end: nothing is kept of those that were written."""
    writer = row_writer(view)
    # A bar would be drawn between the rows, unless they are held back or go elsewhere.
    with Session(given, progress=isinstance(writer, TerminalTable) or not is_terminal()) as session:
        for step in session.steps():
            if len(step.ended):
                for columns in flow_columns(FlowSet(step.ended, FrameMap(), Account()), view.fields):
                    writer.write(columns)
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
        flows = _collect(session)
        session.progress.close()
        if not session.failed:
            _print_totals(_totals(flows), shape)
        return session.finish(account=False)


def _totals(flows: FlowSet) -> dict[str, int | str | None]:
    """The account and the sums over all flows, by name."""
    account, rows = flows.account, flows.columns
    totals: dict[str, int | str | None] = {"frames": account.frames, "frames_in_flows": account.in_flows}
    for verdict, count in account.verdicts.items():
        totals[f"frames_{verdict.name.lower()}"] = count
    totals["flows"] = account.flows
    for cause, count in account.causes.items():
        totals[f"flows_ended_by_{cause.name.lower()}"] = count
    for protocol in (6, 17):
        totals[f"flows_{protocol_name(protocol).lower()}"] = int((rows["protocol"] == protocol).sum())
    totals["flows_other"] = len(rows) - sum(int((rows["protocol"] == protocol).sum()) for protocol in (6, 17))
    for name in _SUMS:
        totals[name] = int(rows["orig"][name].sum()) + int(rows["resp"][name].sum())
    totals["first_ns"] = int(rows["first_ns"].min()) if len(rows) else None
    totals["last_ns"] = int(rows["last_ns"].max()) if len(rows) else None
    totals["frames_out_of_order"] = account.frames_out_of_order
    totals["forward_jumps"] = account.forward_jumps
    totals["fragments_late"] = account.fragments_late
    totals["fragments_overlapping"] = account.fragments_overlapping
    totals["datagrams_evicted"] = account.datagrams_evicted
    totals["duplicates"] = account.duplicates
    totals["complete"] = "no" if flows.errors or account.interrupted else "yes"
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
