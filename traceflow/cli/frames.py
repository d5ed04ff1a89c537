"""`traceflow frames`: one row a frame, written as it is read."""

from __future__ import annotations

from traceflow.cli.commands import Input, View
from traceflow.cli.messages import say
from traceflow.cli.output import TerminalTable, is_terminal, row_writer
from traceflow.cli.session import Session
from traceflow.sinks.rows_frames import frame_columns

__all__ = ["run"]


def run(given: Input, view: View, flow: int | None) -> int:
    """List the frames.

    Args:
        given: The input.
        view: Format and fields.
        flow: Number of the flow whose frames are wanted; None: all frames.

    Returns:
        The exit code.
    """
    writer = row_writer(view, at_once=given.live is not None)
    # A bar would be drawn between the rows, unless they are held back or go elsewhere.
    bar = isinstance(writer, TerminalTable) or not is_terminal()
    with Session(given, progress=bar, shots=bool(given.plugins)) as session:
        for step in session.steps():
            if step.batch is None:
                continue
            added = (
                session.run.plugins.packet_columns(session.run.table.shots, len(step.packets))
                if given.plugins
                else None
            )
            block = frame_columns(step, session.captures.interfaces, view.fields, flow, added)
            if block.rows:
                writer.write(block)
        session.progress.close()
        if not session.failed:
            writer.close()
        opened = session.account().flows
        if flow is not None and flow > opened and not session.failed:
            say(f"there is no flow {flow}: {opened} flows were found")
        return session.finish()
