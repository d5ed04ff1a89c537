"""What can be typed: the commands, their arguments and options, and their help.

Declarations only: a wrong command line and `--help` end here, before the engine (and with it Numba, half a second)
is loaded. A command that is right loads its module, which does the work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

import traceflow
from traceflow.cli.checks import duration_ns, one_of, size_octets
from traceflow.cli.rules import add_rule_options, take_rules
from traceflow.errors import suggest
from traceflow.options import PROFILES
from traceflow.sinks.rows import FORMATS as ROW_FORMATS
from traceflow.sinks.rows_fields import (
    FLOW_DEFAULT,
    FLOW_FIELDS,
    FRAME_DEFAULT,
    FRAME_FIELDS,
    FRAME_LISTS,
    INTERFACE_FIELDS,
    Field,
    choose_fields,
)

__all__ = ["FILE_FORMATS", "Files", "Grab", "Input", "Live", "View", "traceflow_command"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_STREAMING_PROFILES = ("tranalyzer",)
"""Whose rows come in the order in which flows ended, as that program writes them (flow-rules 25)."""

FILE_FORMATS = ("json", "plist", "xml", "tree", "txt", "text", "pcap", "cap")
"""The formats of `trace`, here as well as in sinks/perflow.py, which loads the engine; a test compares the two."""


@dataclass(frozen=True, slots=True)
class Live:
    """How interfaces are captured.

    Attributes:
        interfaces: Their names.
        promiscuous: Whether frames for others are wanted too.
        snaplen: Octets to which frames are cut.
        buffer_octets: Memory for frames that wait to be read, of each interface.
        duration_ns: When to stop; None: when somebody says so.
        backend: How frames are had from the system; None: as is best.
    """

    interfaces: tuple[str, ...]
    promiscuous: bool
    snaplen: int
    buffer_octets: int
    duration_ns: int | None
    backend: str | None


@dataclass(frozen=True, slots=True)
class Input:
    """What every command is given.

    Attributes:
        captures: Paths, `-` for standard input; none where interfaces are captured.
        profile: Name of a profile.
        limit: Frames to read at most; None: all.
        outer: The flows of tunnels are those of the outermost packets.
        workers: Threads that may work; None: as many as there are processors.
        quiet: No account, notes and progress; errors are said all the same.
        analysis: Whether TCP segments are analysed.
        rules: Changes to the profile, by the names of Options.
        plugins: Objects of `plugins.Plugin`, in the order in which they run.
        report: Whether the end report is wanted.
        monitor_ns: Interval of packet time at which the run says where it stands; None: never.
        expression: An Expression of `filters.bpf`: which frames are traced; None: all.
        live: Interfaces to be captured; None: captures are read.
    """

    captures: tuple[str, ...]
    profile: str
    limit: int | None
    quiet: bool
    outer: bool = False
    workers: int | None = None
    analysis: bool = True
    rules: dict[str, Any] = field(default_factory=dict)
    plugins: list[Any] = field(default_factory=list)
    report: bool = False
    monitor_ns: int | None = None
    expression: Any = None
    live: Live | None = None


@dataclass(frozen=True, slots=True)
class View:
    """How rows are shown.

    Attributes:
        format: `table`, `csv`, `jsonl`; None: table on a terminal, else csv.
        fields: The columns.
        stream: Rows of flows are written as the flows end, in that order.
        alarms_only: Only flows on which a plugin raised the alarm.
    """

    format: str | None
    fields: list[Field]
    stream: bool = False
    alarms_only: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """How per-flow files are written.

    Attributes:
        folder: Where.
        format: Their format.
        by: `direction`, `flow`, or None for the default of the format.
        overwrite: Replace files of an earlier run.
        alarms_only: Only flows on which a plugin raised the alarm.
        max_open: Files open at once where they are written as frames come; None: the default.
    """

    folder: str
    format: str
    by: str | None
    overwrite: bool
    alarms_only: bool = False
    max_open: int | None = None


@dataclass(frozen=True, slots=True)
class Grab:
    """What `traceflow grab` is told.

    Attributes:
        file: Name of the file with the grabbers.
        captures: Paths, or `NAME=PATH`.
        live: How interfaces are captured; its `interfaces` are names, or `NAME=INTERFACE`, or none.
        only_live: Options that were typed and are for interfaces.
        limit: Frames to read at most; None: all.
        quiet: No table, account and notes.
        policy: Name of the policy; None: what the file says.
        user: Who runs it, for the policy; None: the user of the process.
        check: Only ask the policy.
        draw: Where the picture goes, `-` for standard output; None: nothing is drawn.
        overwrite: Replace outputs of an earlier run.
        shape: Format of rows on standard output; None: as is usual.
    """

    file: str
    captures: tuple[str, ...]
    live: Live
    only_live: tuple[str, ...]
    limit: int | None
    quiet: bool
    policy: str | None
    user: str | None
    check: bool
    draw: str | None
    overwrite: bool
    shape: str | None


def _captures(_context: Any, _parameter: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    if given.count("-") > 1:
        raise click.BadParameter("standard input (-) can be read once; name it once")
    return given


def _common(command: _Command) -> _Command:
    """Add the argument and the options that all commands have."""
    for decorate in reversed(
        (
            click.argument("captures", metavar="CAPTURE...|-i IFACE", nargs=-1, callback=_captures),
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
            click.option(
                "-f",
                "expression",
                metavar="EXPR",
                help="Trace only frames that a pcap filter lets through: 'tcp port 443'. All frames keep their number.",
            ),
            add_rule_options,
            click.option(
                "--workers",
                metavar="N",
                type=click.IntRange(min=1),
                help="Threads: two read and decode files beside the rest. Default: two, of one processor one.",
            ),
            click.option("--outer", is_flag=True, help="Flows of tunnels: the outermost packet, not the innermost."),
            click.option(
                "--plugin",
                "plugins",
                metavar="NAME[:OPTION=VALUE,...]",
                multiple=True,
                is_eager=True,  # the names that --fields may have depend on it
                help="Have a plugin see every packet; several run in this order. See `traceflow plugins`.",
            ),
            click.option(
                "--report", is_flag=True, help="The end report, with the lines of the plugins, behind the account."
            ),
            click.option(
                "--monitor",
                "monitor_ns",
                metavar="TIME",
                callback=lambda _context, _parameter, given: None if given is None else duration_ns(given, none=False),
                help="Say where the run stands whenever so much packet time has passed: 10s.",
            ),
            click.option("-q", "quiet", is_flag=True, help="No account, notes or progress; errors only."),
        )
    ):
        command = decorate(command)
    return command


_LIVE_OPTIONS = (
    click.option(
        "-i",
        "interfaces",
        metavar="IFACE",
        multiple=True,
        help="Capture an interface until Ctrl-C, any: all of them; several are possible. See `traceflow interfaces`.",
    ),
    click.option(
        "-p", "promiscuous", is_flag=True, flag_value=False, default=True, help="Only frames for this machine."
    ),
    click.option(
        "--snaplen", metavar="N", type=click.IntRange(1, 262_144), help="With -i: octets to which frames are cut."
    ),
    click.option(
        "--duration",
        metavar="TIME",
        callback=lambda _context, _parameter, given: None if given is None else duration_ns(given, none=False),
        help="With -i: stop after that time: 10s.",
    ),
    click.option(
        "--buffer",
        metavar="SIZE",
        callback=lambda _context, _parameter, given: None if given is None else size_octets(given),
        help="With -i: memory for frames that wait to be read, of each interface: 64MiB.",
    ),
    click.option(
        "--backend",
        metavar="ring|libpcap",
        callback=one_of("backend", ("ring", "libpcap")),
        help="With -i: how frames are had from the system.",
    ),
)


def _or_live(command: _Command) -> _Command:
    """Add the options of commands that can capture interfaces."""
    for decorate in reversed(_LIVE_OPTIONS):
        command = decorate(command)
    return command


def _take_live(typed: dict[str, Any], captures: tuple[str, ...]) -> Live | None:
    """Take what says how interfaces are captured out of what was typed.

    Raises:
        click.UsageError: Neither captures nor interfaces, or both; or an option that needs an interface.
    """
    live, only_live = _live_of(typed)
    if not live.interfaces:
        if not captures:
            raise click.UsageError("Missing argument 'CAPTURE...'. Name a capture, or an interface with -i")
        if only_live:
            raise click.UsageError(f"{only_live[0]} is for interfaces; name one with -i")
        return None
    _refuse_both(live, captures)
    return live


def _live_of(typed: dict[str, Any]) -> tuple[Live, tuple[str, ...]]:
    """How interfaces are captured, of what was typed, and the options among it that are for interfaces."""
    names = ("snaplen", "duration", "buffer", "backend")
    given = {name: typed.pop(name, None) for name in names}
    interfaces, promiscuous = typed.pop("interfaces", ()), typed.pop("promiscuous", True)
    only_live = [f"--{name}" for name in names if given[name] is not None] + ["-p"] * (not promiscuous)
    live = Live(
        interfaces, promiscuous, given["snaplen"] or 262_144, given["buffer"] or 64 << 20, given["duration"],
        given["backend"],
    )  # fmt: skip
    return live, tuple(only_live)


def _refuse_both(live: Live, captures: tuple[str, ...]) -> None:
    """Refuse interfaces beside captures, and an interface that is named twice.

    Raises:
        click.UsageError: That is so.
    """
    if live.interfaces and captures:
        raise click.UsageError(f"-i captures interfaces; leave it out, or the captures ({', '.join(captures)})")
    if len(set(live.interfaces)) < len(live.interfaces):
        raise click.UsageError("an interface was given twice; name it once")


def _input(**typed: Any) -> Input:
    """What every command is given, of what was typed."""
    rules = take_rules(typed)
    text = typed.pop("expression")
    expression = None if text is None else _load("expressions").expression(text)
    names = typed.pop("plugins")
    live = _take_live(typed, typed["captures"])
    plugins = _load("plugins").load(names) if names else []
    return Input(rules=rules, plugins=plugins, expression=expression, live=live, **typed)


def _fields_of(
    given: str | None, known: dict[str, Field], usual: Sequence[str], added: dict[str, Field]
) -> list[Field]:
    """The columns of a view: those that were named, or the usual ones and all that plugins add.

    Raises:
        click.BadParameter: An unknown name.
    """
    if given is None:
        return [*(known[name] for name in usual), *added.values()]
    try:
        return choose_fields(given, known | added)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--fields'") from None


def _view(fields: dict[str, Field]) -> Callable[[_Command], _Command]:
    """Add the options of the commands that show rows."""

    def check(context: Any, _parameter: Any, given: str | None) -> str | None:
        if given is not None and not context.params.get("plugins"):  # theirs are known when they are loaded
            try:
                choose_fields(given, fields)
            except ValueError as error:
                raise click.BadParameter(str(error)) from None
        return given

    def decorate(command: _Command) -> _Command:
        named = click.option("--fields", metavar="A,B,...", callback=check, help="Columns, see docs/columns.md.")
        return _shaped(named(command))

    return decorate


def _shaped(command: _Command) -> _Command:
    """Add the option for the format of rows."""
    return click.option(
        "-T",
        "shape",
        metavar="|".join(ROW_FORMATS),
        callback=one_of("format", tuple(ROW_FORMATS)),
        help="Default: table on a terminal, else csv.",
    )(command)


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
@click.option("--alarms-only", is_flag=True, help="Only flows on which a plugin raised the alarm.")
@click.option(
    "--max-open-files",
    metavar="N",
    type=click.IntRange(min=1),
    help="With -i: files that are open at once, at most. Default: 64.",
)
@_or_live
@_common
def trace_command(
    folder: str,
    file_format: str,
    by: str | None,
    overwrite: bool,
    alarms_only: bool,
    max_open_files: int | None,
    **common: Any,
) -> int:
    """Write one file for each flow, or direction of a flow, and DIR/index.json with the frames of each.

    Of an interface (-i) the files are written as frames come; the index comes last.
    """
    given = _input(**common)
    if max_open_files is not None and given.live is None:
        raise click.UsageError("--max-open-files is for interfaces; name one with -i")
    if not folder:
        raise click.UsageError("-o needs the name of a folder")
    if alarms_only and not given.plugins:
        raise click.UsageError("only plugins raise alarms; name one with --plugin, or leave out --alarms-only")
    files = Files(folder, file_format, by, overwrite, alarms_only, max_open_files)
    code: int = _load("trace").run(given, files)
    return code


@traceflow_command.command(
    "flows",
    short_help="List the flows.",
    epilog="Example: traceflow flows web.pcap --fields flow,label,frames",
)
@_view(FLOW_FIELDS)
@click.option("--summary", is_flag=True, help="Only the account and the totals.")
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Write each row as its flow ends, in that order, without frame lists. Profile tranalyzer and -i do.",
)
@click.option("--alarms-only", is_flag=True, help="Only flows on which a plugin raised the alarm.")
@_or_live
@_common
def flows_command(
    shape: str | None, fields: str | None, summary: bool, stream: bool | None, alarms_only: bool, **common: Any
) -> int:
    """List the flows, one row each, in the order in which they opened; with --stream, in which they ended."""
    if summary and fields is not None:
        raise click.UsageError("--summary has no fields; leave out --fields or --summary")
    if summary and stream:
        raise click.UsageError("--summary has no rows to stream; leave out --stream or --summary")
    if alarms_only and summary:
        raise click.UsageError("--summary has no rows; leave out --alarms-only or --summary")
    given = _input(**common)
    if alarms_only and not given.plugins:
        raise click.UsageError("only plugins raise alarms; name one with --plugin, or leave out --alarms-only")
    added = _load("plugins").flow_fields(given.plugins) if given.plugins else {}
    chosen = _fields_of(fields, FLOW_FIELDS, FLOW_DEFAULT, added)
    stream = given.profile in _STREAMING_PROFILES or given.live is not None if stream is None else stream
    lists = [field.name for field in chosen if field.name in FRAME_LISTS]
    if stream and lists:
        raise click.UsageError(
            f"{', '.join(lists)} cannot be streamed: a flow's frames are known only at the end of "
            "the input; leave out the field, or add --no-stream"
        )
    view = View(shape, chosen, stream, alarms_only)
    code: int = _load("flows").run_summary(given, shape) if summary else _load("flows").run(given, view)
    return code


@traceflow_command.command(
    "frames", short_help="List the frames.", epilog="Example: traceflow frames web.pcap --flow 3 -T csv"
)
@_view(FRAME_FIELDS)
@click.option("--flow", "flow", metavar="N", type=click.IntRange(min=1), help="Only the frames of flow N.")
@_or_live
@_common
def frames_command(shape: str | None, fields: str | None, flow: int | None, **common: Any) -> int:
    """List the frames as they are read, each with its flow, or the reason why it has none."""
    given = _input(**common)
    names = list(FRAME_DEFAULT)
    if len(given.captures) > 1:
        names[1:1] = ["file", "frame_in_file"]
    if given.live is not None and len(given.live.interfaces) > 1:
        names[1:1] = ["interface"]
    added = _load("plugins").frame_fields(given.plugins) if given.plugins else {}
    view = View(shape, _fields_of(fields, FRAME_FIELDS, names, added))
    code: int = _load("frames").run(given, view, flow)
    return code


@traceflow_command.command(
    "grab",
    short_help="Run graphs of filters.",
    epilog="Example: traceflow grab web.toml monday.pcap",
)
@click.argument("file", metavar="CONFIG")
@click.argument("captures", metavar="[CAPTURE...]", nargs=-1, callback=_captures)
@_or_live
@click.option("-c", "limit", metavar="N", type=click.IntRange(min=1), help="Stop after N frames over all devices.")
@click.option("--policy", metavar="FILE", help="Who may run which graph; instead of the policy that CONFIG names.")
@click.option("--user", metavar="NAME", help="Who runs it, for the policy. Default: you.")
@click.option("--check", is_flag=True, help="Only ask the policy, and print its verdicts.")
@click.option("--draw", metavar="FILE.dot|FILE.svg|-", help="Only draw the graphs, with Graphviz.")
@click.option("--overwrite", is_flag=True, help="Replace outputs of an earlier run.")
@_shaped
@click.option("-q", "quiet", is_flag=True, help="No table, account or notes; errors only.")
def grab_command(captures: tuple[str, ...], **typed: Any) -> int:
    """Run the grabbers in CONFIG, a TOML file, on captures or interfaces: count, trace and write what they let through.

    A CAPTURE is a file or - for standard input; NAME=CAPTURE, or -i NAME=IFACE, is the device NAME of the graphs.
    """
    live, only_live = _live_of(typed)
    _refuse_both(live, captures)
    code: int = _load("grab").run(Grab(captures=captures, live=live, only_live=only_live, **typed))
    return code


@traceflow_command.command(
    "interfaces", short_help="List the network interfaces.", epilog="Example: traceflow interfaces -T csv"
)
@_view(INTERFACE_FIELDS)
def interfaces_command(shape: str | None, fields: str | None) -> int:
    """List the network interfaces of this system, and whether `-i` may capture them."""
    chosen = _fields_of(fields, INTERFACE_FIELDS, tuple(INTERFACE_FIELDS), {})
    code: int = _load("interfaces").run(View(shape, chosen))
    return code


@traceflow_command.command("plugins", short_help="List the plugins.", epilog="Example: traceflow plugins tcpwin")
@click.argument("names", metavar="[NAME...]", nargs=-1)
def plugins_command(names: tuple[str, ...]) -> int:
    """List the plugins that can be named, or show the columns and options of some."""
    code: int = _load("plugins").run(names)
    return code


@traceflow_command.command(
    "warmup",
    short_help="Compile all kernels, for images and CI.",
    epilog="Example: NUMBA_CACHE_DIR=/opt/kernels traceflow warmup",
)
@click.option("-q", "quiet", is_flag=True, help="Say nothing but errors.")
def warmup_command(quiet: bool) -> int:
    """Compile all kernels now and keep them, so that no later run has to; where they are there, load them.

    They are kept where NUMBA_CACHE_DIR says, else beside the package, else in the user's cache.
    """
    code: int = _load("warming").run(quiet=quiet)
    return code
