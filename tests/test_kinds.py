"""The registry of kinds: names, calls in their one form, runners, what is loaded when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from batches import passes, seen_of, tcp_frame

import traceflow
from traceflow.errors import LibraryMissingError, UsageError
from traceflow.filters.build import bpf, bytecount, device, flow, host, port, sampler
from traceflow.filters.contract import Kind, ParameterError, Runner
from traceflow.filters.graph import Call, Filter
from traceflow.filters.kinds import (
    BUILT_IN,
    KINDS,
    PARAMETER_MAX,
    kind_of,
    make_call,
    needs_flows,
    register,
    runner_of,
    shown,
)
from traceflow.filters.text import parse_graph

DOCS = Path(__file__).parents[1] / "docs" / "graphs.md"
LOADED = sorted(set(BUILT_IN) - {"BPF"})
"""All kinds that run without libpcap."""

EXAMPLES = {
    "device": "eth0",
    "flags": "syn",
    "flow": "packets > 1",
    "host": "10.0.0.1",
    "ip": "4",
    "net": "10.0.0.0/8",
    "port": "80",
    "protocol": "tcp",
    "rate": "1s",
    "sampler": "2",
    "search": "GET",
    "truncate": "64",
}


@pytest.mark.parametrize("name", LOADED)
def test_every_kind_is_what_the_contract_says(name: str) -> None:
    kind = kind_of(name)
    assert kind.name == name
    assert kind.summary
    call = make_call(name.upper(), EXAMPLES.get(name, ""))
    assert call.kind == name
    assert call.predicate is kind.predicate
    assert make_call(name, call.parameter) == call, "the one form of a parameter is that of itself"
    assert isinstance(runner_of(call).counters(), dict)
    assert runner_of(call) is not runner_of(call), "each node has a runner of its own"


def test_every_kind_stands_in_the_docs() -> None:
    text = DOCS.read_text("utf-8")
    assert [name for name in BUILT_IN if f"({name}" not in text or f"{name.lower()}(" not in text] == []


def test_the_example_of_the_paper_with_bpf() -> None:
    try:
        filter_ = bpf("tcp  port 80")
    except LibraryMissingError as error:
        pytest.skip(str(error))
    text = '(device,eth0) | (device,eth1) -> (sampler,2,4) -> (BPF,"tcp port 80") -> (bytecount,,8)'
    graph = device("eth0") + device("eth1") >> sampler(2, memory=4) >> filter_ >> bytecount(memory=8)
    assert parse_graph(text) == graph
    assert graph.text == text
    assert len(graph.nodes) == 5
    seen = seen_of([tcp_frame("10.0.0.1", "10.0.0.2", 1000, port) for port in (80, 81, 80)])
    assert passes('(bpf,"tcp port 80")', seen) == [0, 2]
    assert passes('~(BPF,"dst port 80") & (port,81)', seen) == [1]
    with pytest.raises(UsageError, match=r"BPF: .*tcp prt"):
        bpf("tcp prt 80")


def test_unknown_names_have_suggestions() -> None:
    with pytest.raises(UsageError, match=r"unknown filter 'smapler'. Did you mean sampler\?"):
        make_call("smapler", "2")
    assert "host" in KINDS
    assert "Host" not in KINDS
    assert set(KINDS) >= set(BUILT_IN)
    assert len(KINDS) >= len(BUILT_IN)


def test_a_wrong_parameter_is_shown_with_its_place() -> None:
    with pytest.raises(UsageError) as raised:
        make_call("port", "80,x")
    assert str(raised.value) == "port: a port must be a whole number from 0 to 65535, not 'x'\n  80,x\n     ^"
    with pytest.raises(UsageError, match=r"^host: an address is missing, of IPv4 or IPv6$"):
        make_call("host")
    with pytest.raises(UsageError, match="is 5; it must be text"):
        make_call("port", 5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="memory of sampler is '4'"):
        make_call("sampler", "2", "4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"at most {PARAMETER_MAX} characters"):
        make_call("device", "a" * (PARAMETER_MAX + 1))


def test_places_are_shown_within_long_lines() -> None:
    assert shown("abc", 1) == "  abc\n   ^"
    assert shown("abc", 9) == "  abc\n     ^"
    line, caret = shown("a" * 100 + "b" + "c\t" * 100, 100).split("\n")
    assert line[caret.index("^")] == "b"
    assert (line[:5], line[-3:], "\t" in line) == ("  ...", "...", False)


def test_which_filters_need_the_flow_table() -> None:
    assert not needs_flows(host("10.0.0.1") & ~port(80))
    assert needs_flows(host("10.0.0.1") & ~(port(80) & flow("packets > 1")))
    assert needs_flows(sampler(2, by="flow"))
    assert not needs_flows(sampler(2))


def test_kinds_of_others() -> None:
    class Counts:
        """Lets everything through."""

        def run(self, seen: object, given: object) -> object:
            return given

        def counters(self) -> dict[str, int]:
            return {"asked": 1}

    def canonical(parameter: str) -> str:
        if parameter == "bad":
            raise ParameterError("it is bad", 1)
        return parameter.lower()

    kind = Kind("counts_for_test", "counts", "WORD", canonical, lambda call: Counts(), memory=(4,))
    register(kind)
    register(kind)
    assert kind_of("Counts_For_Test") is kind
    runner: Runner = runner_of(make_call("counts_for_test", "A", 4))
    assert runner.counters() == {"asked": 1}
    assert make_call("counts_for_test", "ABC").text == "(counts_for_test,abc)"
    with pytest.raises(UsageError, match=r"it is bad\n  bad\n   \^"):
        make_call("counts_for_test", "bad")
    with pytest.raises(UsageError, match="another filter"):
        register(Kind("counts_for_test", "other", "", canonical, lambda call: Counts()))
    with pytest.raises(UsageError, match="comes with traceflow"):
        register(Kind("Device", "other", "", canonical, lambda call: Counts()))


def test_what_is_no_filter_has_no_runner() -> None:
    with pytest.raises(UsageError, match="unknown filter 'none'"):
        runner_of(Call("none"))
    with pytest.raises(UsageError, match="is no filter"):
        runner_of(Filter())


@pytest.mark.once("which modules are imported")
def test_kinds_are_loaded_when_they_are_asked_for() -> None:
    """Numba, which a search needs, and libpcap, which BPF needs, are left alone by what needs neither."""
    code = (
        "import sys\n"
        "from traceflow.filters.text import parse_graph\n"
        "parse_graph('(device,a) -> (sampler,2) -> (port,80) & ~(net,10.0.0.0/8) -> (flow,packets > 1) -> (rate,1s)')\n"
        "print(sorted({'numba', 'traceflow.libpcap', 'traceflow.filters.bpf'} & set(sys.modules)))\n"
    )
    env = {"PYTHONPATH": str(Path(traceflow.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
