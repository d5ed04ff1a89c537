"""What is to be grabbed, before anything runs: a graph, callbacks and parameters. A handle that captures nothing.

    spec = FlowSpec()                                   # create
    spec.populate(host("10.0.0.1") >> bytecount())      # say what is meant
    grabber = monitor.instantiate(spec)                 # have it authorised and connected

Everything a user can get wrong in a definition is said here, before a monitor sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from traceflow.errors import UsageError, suggest
from traceflow.filters.graph import Filter, Graph
from traceflow.filters.text import parse_graph
from traceflow.options import options_for

__all__ = ["FlowSpec", "PacketCallback", "TracerSpec"]

CALLBACK_PACKETS_MAX = 1 << 20
"""Packets that a callback may ask for at once; a buffer holds fewer unless it is told otherwise."""


@dataclasses.dataclass(frozen=True, slots=True)
class PacketCallback:
    """A function that is called with some packets at a time.

    Attributes:
        packets: How many at a time.
        function: Called with a `grabbed.Packets` of that many; of fewer where the input ends.
        lifetime: Calls after which it is called no more; None: never.
    """

    packets: int
    function: Callable[[Any], Any]
    lifetime: int | None = None

    def __post_init__(self) -> None:
        _whole("packets of a callback", self.packets, CALLBACK_PACKETS_MAX)
        if self.lifetime is not None:
            _whole("lifetime of a callback", self.lifetime, None)
        if not callable(self.function):
            raise UsageError(f"a callback is a function that takes packets, not {self.function!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class TracerSpec:
    """The flow table that a grabber feeds.

    Attributes:
        profile: Name of a profile, see `options.PROFILES`.
        plugins: As for `trace`.
        on_flow_end: Called with each `Flow` that has ended.
        sinks: Objects with `take(step)`, which are shown every `Step` while it lasts.
        keep: Whether `Grabber.flows` holds the flows; None: where they go nowhere else.
        options: Single rules to change, the attributes of `options.Options`.
    """

    profile: str = "default"
    plugins: tuple[Any, ...] = ()
    on_flow_end: Callable[[Any], Any] | None = None
    sinks: tuple[Any, ...] = ()
    keep: bool | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping):
            raise UsageError(f"options of a tracer is {self.options!r}; it must be a mapping")
        if self.keep is not None and not isinstance(self.keep, bool):
            raise UsageError(f"keep of a tracer is {self.keep!r}; it must be True or False")
        options_for(self.profile, **self.options)
        if self.on_flow_end is not None and not callable(self.on_flow_end):
            raise UsageError(f"on_flow_end is a function that takes a flow, not {self.on_flow_end!r}")
        for sink in self.sinks:
            if not callable(getattr(sink, "take", None)):
                raise UsageError(f"a sink of a tracer has a method take(step); {sink!r} has none")

    @property
    def keeps(self) -> bool:
        """Whether the flows are kept."""
        return not (self.sinks or self.on_flow_end) if self.keep is None else self.keep


_PARAMETERS = ("buffer", "snaplen", "tracer")
_OF_TRACER = tuple(field.name for field in dataclasses.fields(TracerSpec))


class FlowSpec:
    """A definition of a flow, in the widest sense: a stream of packets that a graph of filters selects.

    Attributes:
        callbacks: What is called with its packets.
        tracer: The flow table that it feeds; None: none.
        buffer: Whether its packets are kept for a reader, who iterates over the grabber; None: unless it has callbacks
            or a tracer.
        parameters: As they were given.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self.callbacks: tuple[PacketCallback, ...] = ()
        self.tracer: TracerSpec | None = None
        self.buffer: bool | None = None
        self.parameters: dict[str, Any] = {}

    def populate(
        self,
        graph: Graph | Filter,
        callbacks: Iterable[PacketCallback | tuple[Any, ...]] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> FlowSpec:
        """Say what is meant. Called again, it says something else; grabbers that were made before stay as they are.

        Args:
            graph: The graph of filters, or one filter.
            callbacks: PacketCallback, or tuples `(packets, function)` or `(packets, function, lifetime)`.
            parameters: `buffer` (yes or no); `snaplen`, octets of each packet that are handed out at most; `tracer`, a
                mapping of the attributes of TracerSpec, where `plugins` and `sinks` are lists; what is no attribute of
                it is one of `options.Options`.

        Returns:
            Itself.

        Raises:
            UsageError: Any of it is not what it should be.
        """
        if not isinstance(graph, Graph | Filter):
            raise UsageError(f"a FlowSpec is populated with a graph of filters, not with {graph!r}; see FlowSpec.parse")
        given = dict(parameters or {})
        for name in given:
            if name not in _PARAMETERS:
                raise UsageError(suggest("parameter", str(name), _PARAMETERS))
        if given.get("snaplen") is not None:
            _whole("parameter snaplen", given["snaplen"], None)
        buffer = given.get("buffer")
        if buffer is not None and not isinstance(buffer, bool):
            raise UsageError(f"parameter buffer is {buffer!r}; it must be True or False")
        made = tuple(one if isinstance(one, PacketCallback) else _callback_of(one) for one in callbacks)
        tracer = _tracer_of(given.get("tracer"))
        self._graph, self.callbacks, self.tracer, self.buffer = Graph.of(graph), made, tracer, buffer
        self.parameters = given
        return self

    @classmethod
    def parse(
        cls,
        text: str,
        callbacks: Iterable[PacketCallback | tuple[Any, ...]] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> FlowSpec:
        """A FlowSpec populated with the graph that a text means, see `filters.text`.

        Args:
            text: `(device,eth0) -> (sampler,2,4) -> (BPF,"tcp port 80") -> (bytecount,,8)`.
            callbacks: As for `populate`.
            parameters: As for `populate`.

        Raises:
            UsageError: The text means none; the place is shown.
        """
        return cls().populate(parse_graph(text), callbacks, parameters)

    @property
    def graph(self) -> Graph:
        """The graph.

        Raises:
            UsageError: It was not populated.
        """
        if self._graph is None:
            raise UsageError("this FlowSpec is not populated; give it a graph of filters with populate()")
        return self._graph

    @property
    def snaplen(self) -> int | None:
        """Octets of each packet that are handed out at most; None: all."""
        return self.parameters.get("snaplen")

    @property
    def buffered(self) -> bool:
        """Whether packets are kept for a reader."""
        return not (self.callbacks or self.tracer) if self.buffer is None else self.buffer

    def on(self, graph: Graph) -> FlowSpec:
        """The same with another graph: a copy."""
        made = FlowSpec()
        made._graph, made.callbacks, made.tracer, made.buffer = graph, self.callbacks, self.tracer, self.buffer
        made.parameters = dict(self.parameters)
        return made

    def __str__(self) -> str:
        return self.graph.text

    def __repr__(self) -> str:
        return "<FlowSpec, not populated>" if self._graph is None else f"<FlowSpec {self._graph.text}>"


def _whole(what: str, value: Any, most: int | None) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        UsageError: It is none, or beyond `most`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        bounds = "at least 1" if most is None else f"from 1 to {most}"
        raise UsageError(f"{what} is {value!r}; it must be a whole number, {bounds}")


def _callback_of(given: Any) -> PacketCallback:
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise UsageError(f"a callback is given as (packets, function) or (packets, function, lifetime), not {given!r}")
    return PacketCallback(*given)


def _tracer_of(given: Any) -> TracerSpec | None:
    """The tracer of parameters: the attributes of TracerSpec, and single rules beside them."""
    if given is None or isinstance(given, TracerSpec):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"parameter tracer is {given!r}; it must be a mapping such as {{'profile': 'tshark'}}")
    named: dict[str, Any] = {name: value for name, value in given.items() if name in _OF_TRACER}
    rules = {str(name): value for name, value in given.items() if name not in _OF_TRACER}
    for name in ("plugins", "sinks"):
        if name in named:
            value = named[name]
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise UsageError(f"{name} of a tracer is {value!r}; it must be a list")
            named[name] = tuple(value)
    if rules and isinstance(options := named.get("options", {}), Mapping):
        named["options"] = {**options, **rules}
    return TracerSpec(**named)
