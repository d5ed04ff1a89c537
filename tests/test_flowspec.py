"""The room `flowspec`: a definition is checked as a whole before anything runs, and changes nothing that was made."""

from __future__ import annotations

from typing import Any

import pytest

from traceflow import FlowSpec, UsageError
from traceflow.filters.build import bytecount, device, packetcount, port
from traceflow.grabbing.flowspec import PacketCallback, TracerSpec


def test_text_and_objects_give_equal_graphs() -> None:
    spec = FlowSpec().populate((device("eth0") + device("eth1")) >> port(80) >> bytecount(memory=8))
    assert FlowSpec.parse("(device,eth0) | (device,eth1) -> (port,80) -> (bytecount,,8)").graph == spec.graph
    assert FlowSpec.parse(str(spec)).graph == spec.graph


def test_before_it_is_populated_there_is_no_graph() -> None:
    spec = FlowSpec()
    assert repr(spec) == "<FlowSpec, not populated>"
    with pytest.raises(UsageError, match="not populated"):
        _ = spec.graph


def test_populated_again_it_says_something_else() -> None:
    spec = FlowSpec.parse("(port,80)", [(2, print)], {"snaplen": 60})
    assert (spec.snaplen, len(spec.callbacks)) == (60, 1)
    assert spec.populate(packetcount()) is spec
    assert (str(spec), spec.snaplen, spec.callbacks) == ("(packetcount)", None, ())


@pytest.mark.parametrize(("callbacks", "parameters", "buffered"), [
    ([], {}, True),
    ([(1, print)], {}, False),  # whoever is called does not iterate
    ([], {"tracer": {}}, False),
    ([(1, print)], {"buffer": True}, True),
    ([], {"buffer": False}, False),
])  # fmt: skip
def test_packets_are_kept_for_a_reader_where_nobody_else_takes_them(
    callbacks: list[Any], parameters: dict[str, Any], buffered: bool
) -> None:
    assert FlowSpec.parse("(port,80)", callbacks, parameters).buffered is buffered


def test_single_rules_of_a_tracer_stand_beside_its_attributes() -> None:
    spec = FlowSpec.parse("(port,80)", parameters={"tracer": {"profile": "zeek", "max_flows": 5, "plugins": ["splt"]}})
    assert spec.tracer == TracerSpec("zeek", ("splt",), options={"max_flows": 5})
    assert spec.tracer is not None
    assert spec.tracer.keeps
    assert not TracerSpec(on_flow_end=print).keeps
    assert TracerSpec(on_flow_end=print, keep=True).keeps


@pytest.mark.parametrize(("callbacks", "parameters", "words"), [
    ([], {"bufer": True}, "Did you mean buffer"),
    ([], {"buffer": 1}, "True or False"),
    ([], {"snaplen": 0}, "snaplen is 0"),
    ([], {"tracer": "zeek"}, "must be a mapping"),
    ([], {"tracer": {"profile": "zek"}}, "Did you mean zeek"),
    ([], {"tracer": {"max_flow": 1}}, "max_flow"),
    ([], {"tracer": {"plugins": "splt"}}, "must be a list"),
    ([], {"tracer": {"sinks": [3]}}, r"take\(step\)"),
    ([], {"tracer": {"keep": "no"}}, "keep of a tracer is 'no'; it must be True or False"),
    ([], {"tracer": {"options": 5}}, "options of a tracer is 5; it must be a mapping"),
    ([], {"tracer": {"on_flow_end": 3}}, "takes a flow"),
    ([print], {}, r"\(packets, function\)"),
    ([(0, print)], {}, "packets of a callback is 0"),
    ([(True, print)], {}, "packets of a callback is True"),
    ([(1, 2)], {}, "takes packets"),
    ([(1, print, 0)], {}, "lifetime of a callback is 0"),
])  # fmt: skip
def test_what_is_wrong_is_said_and_changes_nothing(
    callbacks: list[Any], parameters: dict[str, Any], words: str
) -> None:
    spec = FlowSpec.parse("(port,80)", [PacketCallback(1, print)])
    with pytest.raises(UsageError, match=words):
        spec.populate(packetcount(), callbacks, parameters)
    assert (str(spec), len(spec.callbacks)) == ("(port,80)", 1)


def test_a_graph_is_no_text() -> None:
    with pytest.raises(UsageError, match=r"FlowSpec\.parse"):
        FlowSpec().populate("(port,80)")  # type: ignore[arg-type]
