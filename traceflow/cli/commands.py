"""What can be typed: the commands, their arguments and options, and their help.

Declarations only: a wrong command line and `--help` end here, before the engine (and with it Numba, half a second)
is loaded. A command that is right loads its module, which does the work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

import traceflow
from traceflow.cli.checks import one_of
from traceflow.cli.rules import add_rule_options, take_rules
from traceflow.errors import suggest
from traceflow.options import PROFILES
from traceflow.sinks.rows import FORMATS as ROW_FORMATS
from traceflow.sinks.rows_fields import FLOW_DEFAULT, FLOW_FIELDS, FRAME_DEFAULT, FRAME_FIELDS, Field, choose_fields

__all__ = ["FILE_FORMATS", "Input", "View", "traceflow_command"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

FILE_FORMATS = ("json", "plist", "xml", "tree", "txt", "text", "pcap", "cap")
"""The formats of `trace`, here as well as in sinks/flowfiles.py, which loads the engine; a test compares the two."""


@dataclass(frozen=True, slots=True)
class Input:
    """What every command is given.

    Attributes:
        captures: Paths, `-` for standard input.
        profile: Name of a profile.
        limit: Frames to read at most; None: all.
        outer: The flows of tunnels are those of the outermost packets.
        quiet: No account, notes and progress; errors are said all the same.
        analysis: Whether TCP segments are analysed.
        rules: Changes to the profile, by the names of Options.
    """

    captures: tuple[str, ...]
    profile: str
    limit: int | None
    quiet: bool
    outer: bool = False
    analysis: bool = True
    rules: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """How rows are shown.

    Attributes:
        format: `table`, `csv`, `jsonl`; None: table on a terminal, else csv.
        fields: The columns.
    """

    format: str | None
    fields: list[Field]


def _captures(_context: Any, _parameter: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    if given.count("-") > 1:
        raise click.BadParameter("standard input (-) can be read once; name it once")
    return given


def _reserved(_context: Any, _parameter: Any, given: str | None) -> None:
    if given is not None:
        raise click.BadParameter("-f is kept for filters, which come in a later version; leave it out")


def _common(command: _Command) -> _Command:
    """Add the argument and the options that all commands have."""
    for decorate in reversed(
        (
            click.argument("captures", metavar="CAPTURE...", nargs=-1, required=True, callback=_captures),
            click.option(
                "--profile",
                default="default",
                metavar="|".join(PROFILES),
                callback=one_of("profile", tuple(PROFILES)),
                help="Where flows begin and end.",
            ),
            click.option(
                "--no-analysis",
                "analysis",
                is_flag=True,
                flag_value=False,
                default=True,
                help="Leave out the TCP analysis (retransmissions, round trips ...), which takes some time.",
            ),
            click.option(
                "-c", "limit", metavar="N", type=click.IntRange(min=1), help="Stop after N frames over all captures."
            ),
            add_rule_options,
            click.option("--outer", is_flag=True, help="Flows of tunnels: the outermost packet, not the innermost."),
            click.option("-q", "quiet", is_flag=True, help="No account, notes or progress; errors only."),
            click.option("-f", "reserved", hidden=True, expose_value=False, callback=_reserved),
        )
    ):
        command = decorate(command)
    return command


def _input(**typed: Any) -> Input:
    """What every command is given, of what was typed."""
    rules = take_rules(typed)
    return Input(rules=rules, **typed)


def _view(fields: dict[str, Field]) -> Callable[[_Command], _Command]:
    """Add the options of the commands that show rows."""

    def check(_context: Any, _parameter: Any, given: str | None) -> list[Field] | None:
        if given is None:
            return None
        try:
            return choose_fields(given, fields)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    def decorate(command: _Command) -> _Command:
        named = click.option("--fields", metavar="A,B,...", callback=check, help="Columns, see docs/columns.md.")
        shaped = click.option(
            "-T",
            "shape",
            metavar="|".join(ROW_FORMATS),
            callback=one_of("format", tuple(ROW_FORMATS)),
            help="Default: table on a terminal, else csv.",
        )
        return shaped(named(command))

    return decorate


def _load(name: str) -> Any:
    """The module that does the work of a command: the one lazy door of the command line."""
    return importlib.import_module(f"traceflow.cli.{name}")


class _Group(click.Group):
    """A group that suggests the nearest command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(suggest("command", args[0], self.commands))
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(traceflow.__version__, prog_name="traceflow", message="%(prog)s %(version)s")
def traceflow_command() -> None:
    """Trace every flow in a capture back to its frames.

    A CAPTURE is a pcap or pcapng file, or - for standard input. Several are read one after the other; flows go on
    across them.
    """


@traceflow_command.command(
    "trace", short_help="Write one file a flow.", epilog="Example: traceflow trace web.pcap -o flows --format pcap"
)
@click.option("-o", "folder", metavar="DIR", required=True, help="Folder of the files; made if missing.")
@click.option(
    "--format",
    "file_format",
    metavar="json|plist|tree|pcap",
    default="json",
    show_default=True,
    callback=one_of("format", FILE_FORMATS),
    help="Format of the files.",
)
@click.option(
    "--by",
    metavar="direction|flow",
    callback=one_of("--by", ("direction", "flow")),
    help="One file for each direction, or for both. Default: direction; flow for pcap.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
@_common
def trace_command(folder: str, file_format: str, by: str | None, overwrite: bool, quiet: bool, **common: Any) -> int:
    """Write one file for each flow, or direction of a flow, and DIR/index.json with the frames of each."""
    given = _input(quiet=quiet, **common)
    if not folder:
        raise click.UsageError("-o needs the name of a folder")
    code: int = _load("trace").run(given, folder, file_format, by, overwrite)
    return code


@traceflow_command.command(
    "flows",
    short_help="List the flows.",
    epilog="Example: traceflow flows web.pcap --fields flow,label,frames",
)
@_view(FLOW_FIELDS)
@click.option("--summary", is_flag=True, help="Only the account and the totals.")
@_common
def flows_command(shape: str | None, fields: list[Field] | None, summary: bool, **common: Any) -> int:
    """List the flows, one row each, in the order in which they opened."""
    if summary and fields is not None:
        raise click.UsageError("--summary has no fields; leave out --fields or --summary")
    given = _input(**common)
    view = View(shape, fields or [FLOW_FIELDS[name] for name in FLOW_DEFAULT])
    code: int = _load("flows").run_summary(given, shape) if summary else _load("flows").run(given, view)
    return code


@traceflow_command.command(
    "frames", short_help="List the frames.", epilog="Example: traceflow frames web.pcap --flow 3 -T csv"
)
@_view(FRAME_FIELDS)
@click.option("--flow", "flow", metavar="N", type=click.IntRange(min=1), help="Only the frames of flow N.")
@_common
def frames_command(shape: str | None, fields: list[Field] | None, flow: int | None, **common: Any) -> int:
    """List the frames as they are read, each with its flow, or the reason why it has none."""
    given = _input(**common)
    names = list(FRAME_DEFAULT)
    if len(given.captures) > 1:
        names[1:1] = ["file", "frame_in_file"]
    view = View(shape, fields or [FRAME_FIELDS[name] for name in names])
    code: int = _load("frames").run(given, view, flow)
    return code
