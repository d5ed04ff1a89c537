"""The object form: each function gives what the text gives."""

from __future__ import annotations

import inspect

import pytest

from traceflow.errors import UsageError
from traceflow.filters import build
from traceflow.filters.build import (
    bytecount,
    device,
    flags,
    flow,
    function,
    host,
    ip,
    net,
    packetcount,
    port,
    protocol,
    rate,
    sampler,
    search,
    truncate,
    tunnel,
    vlan,
)
from traceflow.filters.graph import Filter, Graph
from traceflow.filters.kinds import BUILT_IN
from traceflow.filters.text import parse_graph

PAIRS = [
    (device("eth0"), "(device,eth0)"),
    (sampler(2, by="packet", memory=4), "(sampler,2,4)"),
    (sampler(2, by="flow"), '(sampler,"2 by flow")'),
    (host("10.0.0.1", side="src"), '(host,"src 10.0.0.1")'),
    (net("2001:db8::/32"), "(net,2001:db8::/32)"),
    (port(80, 443, range(8000, 8101), side="dst"), '(port,"dst 80,443,8000-8100")'),
    (protocol("tcp", 17), '(protocol,"TCP,UDP")'),
    (flags("syn,!ack"), '(flags,"syn,!ack")'),
    (ip(6), "(ip,6)"),
    (vlan(), "(vlan)"),
    (vlan(7, "9-12"), '(vlan,"7,9-12")'),
    (tunnel(), "(tunnel)"),
    (tunnel("gre", 5), '(tunnel,"gre 5")'),
    (flow("packets > 10"), '(flow,"packets > 10")'),
    (search(b"GET ", "é", b"|\0"), r'(search,"GET |\\xc3\\xa9|\\|\\x00")'),
    (truncate(64), "(truncate,64)"),
    (packetcount(), "(packetcount)"),
    (bytecount(memory=8), "(bytecount,,8)"),
    (rate("1s"), "(rate,1s)"),
    (function("packetcount"), "(packetcount)"),
]


@pytest.mark.parametrize(("built", "text"), PAIRS, ids=[text for _, text in PAIRS])
def test_a_call_and_its_text(built: Filter, text: str) -> None:
    graph = parse_graph(text)
    assert graph == Graph.of(built)
    # needles are sorted in the one form: \xc3 comes after | and GET
    assert built.text == (text if "search" not in text else r'(search,"GET |\\|\\x00|\\xc3\\xa9")')


def test_every_kind_has_a_function() -> None:
    functions = {name for name, _ in inspect.getmembers(build, inspect.isfunction) if name in build.__all__}
    assert functions == {name.lower() for name in BUILT_IN} | {"function"}
    assert set(build.__all__) == functions


def test_signs_bind_as_the_text_says() -> None:
    built = device("eth0") + device("eth1") >> sampler(2) >> port(80) + (port(443) & ~host("10.0.0.1")) >> bytecount()
    text = "(device,eth0) | (device,eth1) -> (sampler,2) -> (port,80) | (port,443) & ~(host,10.0.0.1) -> (bytecount)"
    assert built == parse_graph(text)
    assert len(built.nodes) == 6  # two devices, a sampler, two predicates, a counter


def test_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="side is 'source'"):
        host("10.0.0.1", side="source")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`by flow` or `by packet`"):
        sampler(2, by="flows")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no name for a filter"):
        function(lambda frames, packets, octets: packets["ttl"] > 1)
    with pytest.raises(TypeError):
        device("eth0") + 5  # type: ignore[operator]
