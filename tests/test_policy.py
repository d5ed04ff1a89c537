"""The room `policy`: rules, the check on every path against counting up all paths, files with mistakes.

Graphs are built of calls as `make_call` makes them. `drop` and `return` are functions of users, as in the paper's
second example; what they do does not matter here, as no graph runs.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from traceflow import Policy
from traceflow.errors import CannotReadError, TraceflowError, UsageError
from traceflow.filters import kinds
from traceflow.filters.contract import Kind
from traceflow.filters.functions import register_function
from traceflow.filters.graph import All, Call, Filter, Graph, Node, Not
from traceflow.filters.kinds import make_call, register
from traceflow.filters.text import parse_graph
from traceflow.policy import Rule, Use, Verdict, addresses, allow, callbacks, deny, require, snaplen
from traceflow.policy.rules import KEYS
from traceflow.policy.tables import OCTETS_MAX, parse_policy


def _never(call: Call) -> Any:
    raise AssertionError("a policy runs nothing")


@pytest.fixture(autouse=True, scope="module")
def _functions_of_users() -> Iterator[None]:
    """Registered while these tests run, and not for others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("drop", "return"):
            patch.setitem(kinds._added, name, Kind(name, "of the tests", "TEXT", str.strip, _never, predicate=True))
        yield


ETH0, ETH1 = make_call("device", "eth0"), make_call("device", "eth1")
SAMPLER = make_call("sampler", "10")
SEARCH = Call("search", "password", is_predicate=True)  # its module needs a kernel to be loaded, its call does not
COUNT, BYTES = make_call("packetcount"), make_call("bytecount")
DROP, RETURN = Call("drop", is_predicate=True), Call("return", is_predicate=True)
INSIDE = make_call("net", "10.1.0.0/16")
HTTP = make_call("port", "80")


def why(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    return [(reason.rule, reason.function, reason.path, reason.needed) for reason in verdict.reasons]


def broken(policy: Policy, graph: Any, **given: Any) -> list[str]:
    """The rules that a graph of user u breaks, once each."""
    return list(dict.fromkeys(reason.rule for reason in policy.check(graph, "u", **given).reasons))


# --- the paper's examples ----------------------------------------------------------------------------------------

SAMPLED_SEARCH_TOML = """
[[allow]]
function = "*"

[[require]]
function = "search"
after = "sampler"
devices = "eth0"
"""
SAMPLED_SEARCH = Policy(allow("*"), require("search", after="sampler", devices="eth0"))


def test_example_a_string_search_on_eth0_only_behind_a_sampler() -> None:
    assert Policy.parse(SAMPLED_SEARCH_TOML) == SAMPLED_SEARCH
    assert SAMPLED_SEARCH.check(ETH0 >> SAMPLER >> SEARCH, "u")
    assert SAMPLED_SEARCH.check(ETH1 >> SEARCH, "u")
    verdict = SAMPLED_SEARCH.check(ETH0 >> SEARCH >> SAMPLER, "u")
    assert str(verdict) == (
        "rejected for user u, 1 reason:\n  1. require 1: (search,password) on the path "
        "(device,eth0) -> (search,password) -> (sampler,10): needed is sampler before it"
    )


def test_example_a_on_every_path() -> None:
    """Of the two branches that join before the search, one has no sampler; on eth1 that does not matter."""
    one_branch = ETH0 >> (SAMPLER + COUNT) >> SEARCH
    path = "(device,eth0) -> (packetcount) -> (search,password)"
    assert why(SAMPLED_SEARCH.check(one_branch, "u")) == [
        ("require 1", "(search,password)", path, "needed is sampler before it")
    ]
    assert SAMPLED_SEARCH.check(ETH0 >> ((SAMPLER >> COUNT) + (SAMPLER >> BYTES)) >> SEARCH, "u")
    joined = ((ETH0 >> SAMPLER) + ETH1) >> SEARCH
    assert SAMPLED_SEARCH.check(joined, "u")
    assert not SAMPLED_SEARCH.check(((ETH1 >> SAMPLER) + ETH0) >> SEARCH, "u")


PAIRED_DROP_TOML = """
functions = ["drop", "return"]
allow = [{ function = "*" }]
require = [{ function = "drop", before = "return" }]
"""
PAIRED_DROP = Policy(allow("*"), require("drop", before="return"), functions=["drop", "return"])


def test_example_b_every_drop_is_followed_by_a_return() -> None:
    assert Policy.parse(PAIRED_DROP_TOML) == PAIRED_DROP
    assert PAIRED_DROP.check(ETH0 >> DROP >> RETURN, "u")
    assert PAIRED_DROP.check(ETH0 >> DROP >> COUNT >> (RETURN + (BYTES >> RETURN)), "u")
    assert PAIRED_DROP.check(ETH0 >> RETURN >> COUNT, "u")
    assert broken(PAIRED_DROP, ETH0 >> RETURN >> DROP) == ["require 1"]
    assert why(PAIRED_DROP.check(ETH0 >> DROP >> (RETURN + COUNT), "u")) == [
        ("require 1", "(drop)", "(device,eth0) -> (drop) -> (packetcount)", "needed is return behind it")
    ]


def test_both_ends_of_a_drop_are_checked_on_their_own_paths() -> None:
    """Two drops; the first is followed by a return on every path, the second on one of two."""
    graph = ETH0 >> DROP >> COUNT >> RETURN >> Call("drop", "again") >> (RETURN + BYTES)
    assert [reason.function for reason in PAIRED_DROP.check(graph, "u").reasons] == ["(drop,again)"]


# --- what is allowed, to whom, where -----------------------------------------------------------------------------


def test_what_no_rule_allows_is_rejected() -> None:
    verdict = Policy().check(ETH0 >> COUNT, "u")
    assert (bool(verdict), verdict.user, verdict.callbacks_per_second) == (False, "u", None)
    path = "(device,eth0) -> (packetcount)"
    assert why(verdict) == [
        ("default", "(device,eth0)", path, "no rule allows it"),
        ("default", "(packetcount)", path, "no rule allows it"),
    ]
    assert str(Policy(allow(["device", "packetcount"])).check(ETH0 >> COUNT, "u")) == "accepted for user u"


def test_deny_wins() -> None:
    policy = Policy([allow("*"), deny("search", devices="eth*"), deny("bytecount", users="guest*")])
    assert policy.check(ETH0 >> BYTES, "u")
    assert policy.check(make_call("device", "lo") >> SEARCH, "u")
    assert broken(policy, ETH0 >> SEARCH) == ["deny 1"]
    assert [reason.rule for reason in policy.check(ETH0 >> SEARCH >> BYTES, "guest7").reasons] == ["deny 1", "deny 2"]


def test_allowed_only_before_and_only_behind() -> None:
    policy = Policy(allow(["device", "sampler", "packetcount"]), allow("search", after="sampler", before="packetcount"))
    assert policy.check(ETH0 >> SAMPLER >> SEARCH >> COUNT, "u")
    graph = ETH0 >> (SAMPLER + COUNT) >> SEARCH
    assert why(policy.check(graph, "u")) == [
        (
            "default",
            "(search,password)",
            "(device,eth0) -> (packetcount) -> (search,password)",
            "needed is sampler before it and packetcount behind it (allow 2)",
        )
    ]


def test_each_path_may_be_allowed_by_another_rule() -> None:
    policy = Policy(allow(["device", "sampler", "net"]), allow("search", after="sampler"), allow("search", after="net"))
    assert policy.check(ETH0 >> (SAMPLER + INSIDE) >> SEARCH, "u")
    reasons = policy.check(ETH0 >> SEARCH, "u").reasons
    assert reasons[0].needed == "needed is sampler before it (allow 2), or net before it (allow 3)"


def test_two_guards_that_stand_on_two_paths_are_not_both_on_one() -> None:
    policy = Policy(allow("*"), require("search", after=["sampler", "net"]))
    assert policy.check(ETH0 >> SAMPLER >> INSIDE >> SEARCH, "u")
    assert [reason.needed for reason in policy.check(ETH0 >> (SAMPLER + INSIDE) >> SEARCH, "u").reasons] in (
        [["needed is sampler before it"], ["needed is net before it"]]
    )


def test_demands_on_parameters() -> None:
    policy = Policy(allow("*"), require("search", after=Use("sampler", at_least=10)))
    verdicts = [policy.check(ETH0 >> make_call("sampler", n) >> SEARCH, "u") for n in ("9", "10", "10 by flow", "11")]
    assert [bool(verdict) for verdict in verdicts] == [False, True, True, True]
    assert verdicts[0].reasons[0].needed == "needed is sampler with at least 10 before it"
    small = Policy(allow("*"), deny(Use("sampler", at_most=9)), deny({"name": "drop", "at_least": 5}))  # type: ignore[arg-type]
    assert not small.check(ETH0 >> make_call("sampler", "9"), "u")
    assert small.check(ETH0 >> SAMPLER, "u")
    assert small.check(ETH0 >> Call("drop", "4"), "u")
    assert not small.check(ETH0 >> Call("drop", "many"), "u")  # no number: it may be 5 or more
    guarded = Policy(allow("*"), require("search", after=Use("drop", at_least=5)))
    assert [bool(guarded.check(ETH0 >> Call("drop", n) >> SEARCH, "u")) for n in ("5", "4", "many", "-9", "5x")] == [
        True, False, False, False, False
    ]  # fmt: skip
    exact = Policy(allow(["device", "sampler"]), allow(Use("drop", parameter="a")))
    assert [bool(exact.check(ETH0 >> Call("drop", one), "u")) for one in ("a", "b")] == [True, False]


def test_users() -> None:
    policy = Policy(allow("*", users=["alice", "op*"]))
    assert [bool(policy.check(ETH0, user)) for user in ("alice", "op1", "alicia", "Alice", "*")] == [
        True, True, False, False, False
    ]  # fmt: skip
    for wrong in ("", 5):
        with pytest.raises(UsageError, match="it must be the name of a user"):
            policy.check(ETH0, wrong)  # type: ignore[arg-type]


def test_the_user_is_whoever_runs_the_process_now(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(allow("*", users="alice"))
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    assert policy.check(ETH0).user == "alice"
    assert policy.check(ETH0)
    monkeypatch.setattr(getpass, "getuser", lambda: "bob")
    assert not policy.check(ETH0)

    def nobody() -> str:
        raise KeyError("uid")

    monkeypatch.setattr(getpass, "getuser", nobody)
    with pytest.raises(UsageError, match="give one with user="):
        policy.check(ETH0)


# --- address ranges ----------------------------------------------------------------------------------------------

RANGES = Policy(allow("*"), addresses(["10.0.0.0/8", "fd00::/8"]))


@pytest.mark.parametrize(
    "parameter",
    ["net 10.0.0.0/8", "net 10.1.0.0/16", "net src 10.1.0.0/16", "host 10.1.2.3", "host dst 10.1.2.3", "net fd12::/16"],
)
def test_filters_inside_the_ranges(parameter: str) -> None:
    kind, _, text = parameter.partition(" ")
    assert RANGES.check(ETH0 >> make_call(kind, text) >> COUNT, "u")


@pytest.mark.parametrize(
    "parameter",
    ["net 0.0.0.0/0", "net 10.0.0.0/7", "net 11.0.0.0/8", "host 9.1.2.3", "net ::/0", "net ::ffff:a00:0/104"],
)
def test_filters_that_reach_beyond_the_ranges(parameter: str) -> None:
    kind, _, text = parameter.partition(" ")
    assert broken(RANGES, ETH0 >> make_call(kind, text) >> COUNT) == ["addresses 1"]


def test_ranges_that_touch_are_one() -> None:
    policy = Policy(allow("*"), addresses(["10.0.0.0/9", "10.128.0.0/9"]))
    assert policy.check(ETH0 >> make_call("net", "10.0.0.0/8"), "u")


def test_what_shows_packets_stands_behind_the_address_filter() -> None:
    """A counter before it counts packets of everybody; a BPF filter before it counts none."""
    bpf = Call("BPF", "tcp port 80", is_predicate=True)
    assert RANGES.check(ETH0 >> bpf >> HTTP >> INSIDE >> (COUNT + SEARCH), "u")
    for function in (COUNT, BYTES, SEARCH, SAMPLER, DROP):
        path = f"(device,eth0) -> {function} -> (net,10.1.0.0/16)"
        needed = "needed is host or net inside 10.0.0.0/8, fd00::/8 before it"
        assert why(RANGES.check(ETH0 >> function >> INSIDE, "u")) == [("addresses 1", function.text, path, needed)]


def test_every_path_needs_its_address_filter() -> None:
    graph = ETH0 >> (INSIDE + HTTP) >> COUNT
    needed = "needed is host or net inside 10.0.0.0/8, fd00::/8"
    path = "(device,eth0) -> (port,80) -> (packetcount)"
    assert why(RANGES.check(graph, "u")) == [
        ("addresses 1", "", path, f"{needed} on it"),
        ("addresses 1", "(packetcount)", path, f"{needed} before it"),
    ]
    only_eth1 = Policy(allow("*"), addresses("10.0.0.0/8", devices="eth1"))
    assert only_eth1.check(graph, "u")
    assert not only_eth1.check(graph + ETH1, "u")


# --- snaplen and callbacks ---------------------------------------------------------------------------------------


def test_snaplen() -> None:
    policy = Policy(allow("*"), snaplen(96))
    cut, longer = make_call("truncate", "96"), make_call("truncate", "97")
    assert policy.check(ETH0 >> HTTP >> cut >> (COUNT + SEARCH), "u")
    assert policy.check(ETH0 >> SAMPLER >> COUNT >> cut, "u")  # lengths are no octets
    assert broken(policy, ETH0 >> longer >> COUNT) == ["snaplen 1"]
    assert broken(policy, ETH0 >> (cut + longer) >> COUNT) == ["snaplen 1"]
    assert broken(policy, ETH0 >> SEARCH >> cut) == ["snaplen 1"]  # the search has seen all octets
    bpf = Call("BPF", "ip[1000] == 1", is_predicate=True)
    assert [reason.function for reason in policy.check(ETH0 >> bpf >> cut, "u").reasons] == [bpf.text]


@pytest.mark.parametrize(
    ("value", "is_accepted"),
    [(96, True), (1, True), (97, False), (0, False), (-1, False), (True, False), ("96", False), (None, False)],
)
def test_the_snaplen_of_the_parameters(value: Any, is_accepted: bool) -> None:
    """0 is no length: tcpdump takes it for the largest."""
    policy = Policy(allow("*"), snaplen(96))
    spec = SimpleNamespace(graph=ETH0 >> COUNT, callbacks=[], parameters={"snaplen": value})
    assert bool(policy.check(spec, "u")) is is_accepted
    spec.graph = ETH0 >> SEARCH  # it looks at octets before they are cut
    assert not policy.check(spec, "u")
    spec.graph = ETH0 >> make_call("truncate", "96") >> SEARCH
    assert policy.check(spec, "u")


def test_the_rate_of_callbacks_is_the_lowest_that_holds() -> None:
    policy = Policy(
        allow("*"), callbacks(100), callbacks(5, devices="eth1"), callbacks(7, users="guest"), callbacks(0, users="spy")
    )
    limits = [
        policy.check(graph, user).callbacks_per_second for graph in (ETH0, ETH0 + ETH1) for user in ("u", "guest")
    ]
    assert limits == [100, 7, 5, 5]
    assert policy.check(COUNT, "u").callbacks_per_second == 5  # its device is not named, so it may be eth1
    assert policy.check(COUNT, "u", devices="eth0").callbacks_per_second == 100
    assert str(policy.check(ETH1, "u")) == "accepted for user u, at most 5 callbacks a second"
    called = SimpleNamespace(graph=Graph.of(ETH0), callbacks=[(1, print, None)], parameters={})
    assert policy.check(called, "u")
    assert policy.check(ETH0, "spy")
    assert why(policy.check(called, "spy")) == [("callbacks 4", "the graph", "", "it has callbacks, and may have none")]
    flows = SimpleNamespace(graph=ETH0, tracer=SimpleNamespace(on_flow_end=print))
    assert broken(Policy(allow("*"), callbacks(0)), flows) == ["callbacks 1"]


# --- ways around a rule ------------------------------------------------------------------------------------------

GUARDED = Policy(
    allow(["device", "sampler", "net", "port", "packetcount", "truncate"]), allow("search", after="sampler")
)


def test_a_guard_that_does_nothing_is_none() -> None:
    assert not GUARDED.check(ETH0 >> make_call("sampler", "1") >> SEARCH, "u")
    assert not GUARDED.check(ETH0 >> make_call("sampler", "1 by flow") >> SEARCH, "u")
    for kind, useless, useful in (
        ("net", "0.0.0.0/0", "0.0.0.0/1"),
        ("net", "src ::/0", "src ::/1"),
        ("port", "0-65535", "0-65534"),
        ("port", "dst 0-65535", "dst 1-65535"),
        ("truncate", "262144", "262143"),
        ("protocol", ",".join(map(str, range(256))), ",".join(map(str, range(255)))),
    ):
        policy = Policy(allow("*"), require("search", after=kind))
        found = [bool(policy.check(ETH0 >> make_call(kind, one) >> SEARCH, "u")) for one in (useless, useful)]
        assert found == [False, True], kind


def test_a_negated_guard_is_none() -> None:
    policy = Policy(allow("*"), require("search", after="net"))
    assert policy.check(ETH0 >> INSIDE >> SEARCH, "u")
    assert policy.check(ETH0 >> (INSIDE & ~HTTP) >> SEARCH, "u")
    for other in (~INSIDE, ~(INSIDE & HTTP), ~INSIDE & HTTP, Not(Not(INSIDE))):
        assert broken(policy, ETH0 >> other >> SEARCH) == ["require 1"]
        assert broken(RANGES, ETH0 >> other) == ["addresses 1"]


def test_negating_a_function_uses_it() -> None:
    assert not GUARDED.check(ETH0 >> ~SEARCH, "u")
    assert not GUARDED.check(ETH0 >> ~(SEARCH & HTTP), "u")


def test_calls_of_one_filter_are_not_before_each_other() -> None:
    policy = Policy(allow("*"), require("search", after="net"), require("drop", before="return"))
    assert broken(policy, ETH0 >> (INSIDE & SEARCH)) == ["require 1"]
    assert broken(policy, ETH0 >> (DROP & RETURN)) == ["require 2"]
    assert broken(RANGES, ETH0 >> (INSIDE & SEARCH)) == ["addresses 1"]
    assert policy.check(ETH0 >> (INSIDE & HTTP) >> (SEARCH & DROP) >> (RETURN & HTTP), "u")


def test_every_call_of_a_filter_is_checked() -> None:
    assert [one.function for one in GUARDED.check(ETH0 >> (HTTP & DROP & ~RETURN), "u").reasons] == [
        "(drop)",
        "(return)",
    ]


def test_a_path_may_end_where_another_goes_on() -> None:
    assert broken(PAIRED_DROP, (ETH0 >> DROP) + (ETH0 >> DROP >> RETURN)) == ["require 1"]
    assert broken(SAMPLED_SEARCH, (ETH0 + (ETH0 >> SAMPLER)) >> SEARCH) == ["require 1"]


def test_a_hidden_device_is_found() -> None:
    policy = Policy(allow("*"), deny("*", devices="eth0"))
    assert policy.check(ETH1 >> COUNT, "u")
    for hidden in (All((ETH0, HTTP)), Not(ETH1), All((Not(ETH0), HTTP)), All((ETH1,))):
        verdict = policy.check(Graph([Node(hidden)]) >> COUNT, "u")
        assert {"graph", "deny 1"} <= {reason.rule for reason in verdict.reasons}
        assert "a device stands alone; connect the rest behind it" in {reason.needed for reason in verdict.reasons}


def test_a_path_that_names_no_device_may_be_on_any() -> None:
    """The monitor's own device must be allowed too, though no filter of the graph is it."""
    policy = Policy(allow("device", devices="lo"), allow("packetcount"))
    assert policy.check(make_call("device", "lo") >> COUNT, "u")
    assert why(policy.check(COUNT, "u")) == [
        ("default", "the default device", "(the default device) -> (packetcount)", "needed is device lo (allow 1)")
    ]
    assert policy.check(COUNT, "u", devices="lo")
    assert not policy.check(COUNT, "u", devices=["lo", "eth0"])
    assert not policy.check(COUNT, "u", devices=["lo", "wlan0"])
    assert broken(SAMPLED_SEARCH, SEARCH) == ["require 1"]
    assert SAMPLED_SEARCH.check(SEARCH, "u", devices="eth1")
    assert broken(SAMPLED_SEARCH, (SAMPLER >> COUNT) + SEARCH) == ["require 1"]
    with pytest.raises(UsageError, match="it must be names of devices"):
        policy.check(COUNT, "u", devices=[""])


def test_the_device_any_is_every_device() -> None:
    everywhere = make_call("device", "any")
    assert not Policy(allow("*"), deny("*", devices="eth0")).check(everywhere, "u")
    assert not Policy(allow("*", devices="a*")).check(everywhere, "u")  # a pattern that was meant for others
    assert Policy(allow("*", devices="any")).check(everywhere, "u")
    assert broken(SAMPLED_SEARCH, everywhere >> SEARCH) == ["require 1"]


def test_names_of_filters_cannot_be_taken() -> None:
    """A function of a user that calls itself sampler would be a guard."""
    with pytest.raises(UsageError, match="sampler is a filter that comes with traceflow"):
        register(Kind("Sampler", "mine", "", str, _never))
    with pytest.raises(UsageError, match="sampler is a filter of traceflow"):
        Policy(functions=["SAMPLER"])
    # filters run whatever the case of their names, so a rule for search must not miss SEARCH
    policy = Policy(allow("*"), deny("search"))
    assert why(policy.check(ETH0 >> Call("SEARCH", "x"), "u")) == [
        ("graph", "(SEARCH,x)", "", "there is no filter of the exact name SEARCH; make it with make_call"),
        ("deny 1", "(SEARCH,x)", "(device,eth0) -> (SEARCH,x)", "it is denied; leave it out"),
    ]


class _Strange(Filter):
    text, predicate = "(packetcount)", True


class _StrangeCall(Call):
    pass


def test_filters_that_are_none_are_rejected() -> None:
    policy = Policy(allow("*"))
    for one in (_Strange(), Not(_Strange()), All((HTTP, _Strange())), _StrangeCall("packetcount")):
        assert broken(policy, ETH0 >> one) == ["graph"]


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [("port", "0-1,2-65535"), ("sampler", "010"), ("net", "10.0.0.0/255.0.0.0"), ("truncate", "x"), ("sampler", "")],
)
def test_parameters_that_make_call_would_not_give_are_rejected(kind: str, parameter: str) -> None:
    assert broken(Policy(allow("*")), ETH0 >> Call(kind, parameter)) == ["graph"]


@pytest.mark.parametrize("memory", ["8", 3, True, 1.0])
def test_a_memory_that_make_call_would_not_give_is_rejected(memory: Any) -> None:
    assert broken(Policy(allow("*")), ETH0 >> Call("packetcount", "", memory)) == ["graph"]


def test_upper_and_lower_case_are_the_same_for_functions_of_users() -> None:
    """As they are in graphs: (TAKES_ALL) is the function `takes_all`, whatever the policy calls it."""
    policy = Policy(allow("*"), deny("Takes_All"), functions=["Takes_All"])
    register_function("takes_all", lambda frames, packets, octets: packets["ttl"] >= 0)
    assert broken(policy, ETH0 >> parse_graph("(TAKES_ALL)")) == ["deny 1"]


def test_what_is_checked_is_what_hangs_on_the_last_nodes() -> None:
    graph = ETH0 >> SEARCH
    graph.nodes = (ETH0 >> COUNT).nodes
    assert broken(Policy(allow(["device", "packetcount"])), graph) == ["default"]


def test_only_graphs_are_checked() -> None:
    for wrong in (None, "(device,eth0)", SimpleNamespace(graph=None), 7):
        with pytest.raises(UsageError, match="has no graph to check"):
            Policy().check(wrong, "u")


# --- large graphs ------------------------------------------------------------------------------------------------


def test_two_to_the_power_of_500_paths() -> None:
    """500 places where two branches join; in the last one, one branch goes without the sampler."""
    graph: Graph = ETH0 >> COUNT
    for place in range(500):
        graph = graph >> (Call("drop", f"a{place}") + Call("drop", f"b{place}"))
    behind = graph >> SAMPLER >> SEARCH
    assert SAMPLED_SEARCH.check(behind, "u")
    verdict = SAMPLED_SEARCH.check(graph >> (SAMPLER + COUNT) >> SEARCH, "u")
    assert [reason.function for reason in verdict.reasons] == ["(search,password)"]
    # 504 filters on the path: 6 at each end are shown, and 3 before the search, which are among those
    steps = verdict.reasons[0].path.split(" -> ")
    assert (steps[:2], steps[6], steps[-2:]) == (
        ["(device,eth0)", "(packetcount)"],
        "... 492 more ...",
        ["(packetcount)", "(search,password)"],
    )


def test_many_reasons_are_capped() -> None:
    node = Node(ETH0)
    for place in range(1200):
        node = Node(Call("drop", str(place)), [node])
    verdict = Policy(allow("device")).check(Graph([node]), "u")
    assert (len(verdict.reasons), verdict.more) == (1000, True)
    assert str(verdict).endswith("\n  and 950 or more others")


def test_what_would_take_too_long_is_rejected() -> None:
    """20 stages, each with one of two guards: 2**20 sets of guards, none of which is part of another."""
    graph: Graph = Graph.of(ETH0)
    for number in range(0, 40, 2):
        graph = graph >> (Call("drop", str(number)) + Call("drop", str(number + 1)))
    guards = [Use("drop", at_least=number, at_most=number) for number in range(40)]
    policy = Policy(allow("*"), require("search", after=guards))
    assert [reason.needed for reason in policy.check(graph >> SEARCH, "u").reasons] == [
        "too many paths with different guards to tell; use fewer parallel branches, or several graphs"
    ]


# --- against counting up all paths -------------------------------------------------------------------------------

# text -> (calls, of which stand without ~; each: kind, number, does it do something, does it lie inside 10.0.0.0/8)
_FACTS: dict[str, tuple[str, int, bool, bool]] = {
    "(sampler,1)": ("sampler", 1, False, False),
    "(sampler,2)": ("sampler", 2, True, False),
    "(sampler,10)": ("sampler", 10, True, False),
    "(truncate,64)": ("truncate", 64, True, False),
    "(truncate,1000)": ("truncate", 1000, True, False),
    "(net,10.1.0.0/16)": ("net", 0, True, True),
    "(net,11.0.0.0/8)": ("net", 0, True, False),
    "(net,0.0.0.0/0)": ("net", 0, False, False),
    "(packetcount)": ("packetcount", 0, True, False),
    "(search,password)": ("search", 0, True, False),
    "(drop)": ("drop", 0, True, False),
}
_CALLS = {"(search,password)": SEARCH} | {
    text: Call("drop") if text == "(drop)" else make_call(*text.strip("()").split(",", 1))
    for text in _FACTS
    if not text.startswith("(search")
}
_A, _B, _N = _CALLS["(net,10.1.0.0/16)"], _CALLS["(search,password)"], _CALLS["(net,11.0.0.0/8)"]
# a filter, the texts of its calls, and of those that no ~ stands before
_FILTERS: list[tuple[Filter, tuple[str, ...], tuple[str, ...]]] = [
    *((call, (text,), (text,)) for text, call in _CALLS.items()),
    (~_A, (_A.text,), ()),
    (_A & _B, (_A.text, _B.text), (_A.text, _B.text)),
    (_A & ~_B, (_A.text, _B.text), (_A.text,)),
    (~(_A & _N), (_A.text, _N.text), ()),
]
_DEVICES = ["eth0", "eth1", ""]
_NAMES = ["sampler", "truncate", "net", "packetcount", "search", "drop"]

_use = st.one_of(
    st.sampled_from(_NAMES).map(Use),
    st.builds(Use, st.just("sampler"), at_least=st.sampled_from([2, 5])),
    st.builds(Use, st.just("truncate"), at_most=st.sampled_from([64, 500])),
)
_guards = st.lists(_use, max_size=2, unique=True).map(tuple)
_devices = st.sampled_from(["*", "eth0", "eth1"])
_function = st.one_of(st.just(Use("*")), _use)


@st.composite
def _rules(draw: st.DrawFn) -> list[Rule]:
    rules = [allow("device")]
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["allow", "allow", "allow", "deny", "require", "require", "addresses", "snaplen"]))
        on = draw(_devices)
        if kind == "allow":
            rules.append(allow(draw(_function), after=draw(_guards), before=draw(_guards), devices=on))
        elif kind == "deny":
            rules.append(deny(draw(_function), devices=on))
        elif kind == "require":
            after, before = draw(_guards), draw(_guards)
            rules += [require(draw(_function), after=after, before=before, devices=on)] if after or before else []
        elif kind == "addresses":
            rules.append(addresses("10.0.0.0/8", devices=on))
        else:
            rules.append(snaplen(100, devices=on))
    return sorted(rules, key=lambda rule: list(KEYS).index(rule.kind))


Steps = list[tuple[int, list[int]]]
"""A filter by number and the nodes before it, for each node; a negative filter is a device."""


@st.composite
def _graphs(draw: st.DrawFn) -> Steps:
    steps: Steps = []
    for place in range(draw(st.integers(1, 8))):
        before = draw(st.lists(st.integers(0, place - 1), max_size=3, unique=True)) if place else []
        first = -len(_DEVICES) if not before else 0
        steps.append((draw(st.integers(first, len(_FILTERS) - 1)), before))
    return steps


def _filter_of(number: int) -> Filter:
    return _FILTERS[number][0] if number >= 0 else make_call("device", _DEVICES[number] or "any")


def _all_paths(steps: Steps) -> Iterator[list[int]]:
    """All paths, as the filters on them: from each node that nothing stands behind, back to a beginning."""
    ends = set(range(len(steps))) - {one for _, before in steps for one in before}
    waiting = [[end] for end in ends]
    while waiting:
        path = waiting.pop()
        if not steps[path[0]][1]:
            yield [steps[place][0] for place in path]
        waiting += [[one, *path] for one in steps[path[0]][1]]


def _naive(rules: list[Rule], path: list[int]) -> set[tuple[int, str]]:
    """What one path breaks: (rule, or -1 where none allows it; text of the call, or empty for the path)."""
    named = path[0] < 0
    device = _DEVICES[path[0]] if named else ""  # both `any` and no device at all may be any device
    rest = path[1:] if named else path
    standing = [[_FACTS[text] for text in _FILTERS[number][2]] for number in rest]
    wrong: set[tuple[int, str]] = set()

    def meant(use: Use, fact: tuple[str, int, bool, bool]) -> bool:
        return (
            use.name in ("*", fact[0])
            and (use.at_least is None or fact[1] >= use.at_least)
            and (use.at_most is None or fact[1] <= use.at_most)
        )

    def stands(use: Use, among: list[list[tuple[str, int, bool, bool]]]) -> bool:
        return any(meant(use, fact) and fact[2] for facts in among for fact in facts)

    def guarded(rule: Rule, at: int) -> bool:
        return all(stands(use, standing[:at]) for use in rule.after) and all(
            stands(use, standing[at + 1 :]) for use in rule.before
        )

    def on_path(rule: Rule, upto: int) -> bool:
        if rule.kind == "addresses":
            return any(fact[3] for facts in standing[:upto] for fact in facts)
        return any(fact[0] == "truncate" and fact[1] <= rule.number for facts in standing[:upto] for fact in facts)

    def holds(rule: Rule) -> bool:
        return device == "" or "*" in rule.devices or device in rule.devices

    for place, number in enumerate(rest):
        for text in _FILTERS[number][1]:
            fact = _FACTS[text]
            allowed = False
            for index, rule in enumerate(rules):
                about = any(meant(use, fact) for use in rule.function)
                if rule.kind == "allow" and about and guarded(rule, place):
                    allowed |= "*" in rule.devices or (device != "" and device in rule.devices)
                elif (
                    (rule.kind == "deny" and about and holds(rule))
                    or (rule.kind == "require" and about and holds(rule) and not guarded(rule, place))
                    or (
                        rule.kind in ("addresses", "snaplen")
                        and holds(rule)
                        and fact[0] not in ("net", "truncate")
                        and (rule.kind == "addresses" or fact[0] not in ("sampler", "packetcount"))
                        and not on_path(rule, place)
                    )
                ):
                    wrong.add((index, text))
            if not allowed:
                wrong.add((-1, text))
    first = f"(device,{device or 'any'})" if named else "the default device"
    for index, rule in enumerate(rules):
        if rule.kind in ("addresses", "snaplen") and holds(rule) and not on_path(rule, len(rest)):
            wrong.add((index, ""))
        if holds(rule) and any(use.name == "*" for use in rule.function):
            after_it = [standing]
            is_kept = not rule.after and all(stands(use, after_it[0]) for use in rule.before)
            if rule.kind == "deny" or (rule.kind == "require" and not is_kept):
                wrong.add((index, first))
    return wrong


def _path_text(path: list[int]) -> str:
    first = [] if path[0] < 0 else ["(the default device)"]
    return " -> ".join([*first, *(_filter_of(number).text for number in path)])


@settings(max_examples=examples(300, plain=90))
@given(_rules(), _graphs())
def test_a_check_is_what_counting_up_all_paths_says(rules: list[Rule], steps: Steps) -> None:
    nodes: list[Node] = []
    for number, before in steps:
        nodes.append(Node(_filter_of(number), [nodes[one] for one in before]))
    used = {one for _, before in steps for one in before}
    graph = Graph(node for place, node in enumerate(nodes) if place not in used)
    expected: set[tuple[int, str]] = set()
    at_fault: dict[str, set[tuple[int, str]]] = {}
    for path in _all_paths(steps):
        found = _naive(rules, path)
        expected |= found
        at_fault.setdefault(_path_text(path), set()).update(found)

    verdict = Policy(rules).check(graph, "u")
    counts: dict[str, int] = {}
    numbers = {"default": -1}
    for index, rule in enumerate(rules):
        counts[rule.kind] = counts.get(rule.kind, 0) + 1
        numbers[f"{rule.kind} {counts[rule.kind]}"] = index
    assert {(numbers[reason.rule], reason.function) for reason in verdict.reasons} == expected
    assert bool(verdict) is not bool(expected)
    for reason in verdict.reasons:  # the path that is shown is one of the graph, and breaks that rule there
        assert (numbers[reason.rule], reason.function) in at_fault[reason.path]
    # the order in which a graph was put together does not show
    turned = Graph(Node(node.filter, reversed(node.upstream)) for node in reversed(graph.sinks))
    assert Policy(rules).check(turned, "u") == verdict


# --- files -------------------------------------------------------------------------------------------------------

WHOLE = """\
functions = ["drop", "return"]

[[deny]]
function = { name = "sampler", at_most = 3 }
users = "guest*"

[[allow]]
function = ["device", "drop", { name = "truncate", at_most = 96 }]
devices = ["eth*", "*.pcap"]

[[allow]]
function = "search"
[allow.after]
name = "sampler"
at_least = 10

[[require]]
function = "drop"
before = ["return"]

[[addresses]]
inside = ["10.0.0.0/8",   # the lab
          "fd00::/8"]

[[snaplen]]
at_most = 96

[[callbacks]]
per_second = 100
"""


def test_a_file_says_what_python_says(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(WHOLE, "utf-8")
    policy = Policy.read(path)
    assert policy == Policy(
        deny(Use("sampler", at_most=3), users="guest*"),
        allow(["device", "drop", Use("truncate", at_most=96)], devices=["eth*", "*.pcap"]),
        allow("search", after=Use("sampler", at_least=10)),
        require("drop", before="return"),
        addresses(["10.0.0.0/8", "fd00::/8"]),
        snaplen(96),
        callbacks(100),
        functions=["drop", "return"],
    )
    assert policy.functions == ("drop", "return")
    assert [int(rule.where.removeprefix(f"{path}:")) for rule in policy.rules] == [3, 7, 11, 17, 21, 25, 28]
    assert policy.check(ETH0 >> SEARCH, "u").reasons[0].rule == "default"
    assert policy.check(ETH0 >> DROP, "u").reasons[0].rule == f"require 1 ({path}:17)"
    assert hash(policy) == hash(Policy(*policy.rules, functions=policy.functions))
    assert repr(policy) == "<Policy of 7 rules>"


MISTAKES = [
    ('[[allow]]\nfunction = "search\n', 2, "illegal character"),
    ('[[allow]]\nfunction = "search"\n[[allow]\n', 3, "expected ']]'"),
    ('[[allow]]\nfunction = "*"\nfunction = "*"\n', 3, "cannot overwrite a value"),
    ('\n\n[[alow]]\nfunction = "*"\n', 3, "unknown table 'alow'. Did you mean allow?"),
    ('[[allow]]\n# functon\nfuncton = "*"\n', 3, "unknown key 'functon'. Did you mean function?"),
    ('[[allow]]\n"fun\\u0063ton" = "*"\n', 2, "unknown key 'functon'"),
    ('[[allow]]\nfunction = "*"\n[[allow]]\nusers = "u"\n', 3, "function is missing"),
    ('[[require]]\nfunction = "search"\n', 1, "after or before is missing"),
    ('[[allow]]\nfunction = [\n"search",\n"serch"]\n', 2, "unknown function 'serch'. Did you mean search?"),
    ('[[allow]]\nfunction = "search"\nafter = { name = "sampler", at_leest = 3 }\n', 3, "Did you mean at_least"),
    ('[[allow]]\nfunction = "search"\n[allow.after]\nname = "sampler"\nat_least = "3"\n', 5, "write a number"),
    ('[[allow]]\nfunction = "search"\nafter.name = "sampler"\nafter.at_least = nan\n', 4, "write a number"),
    ('[[allow]]\nfunction = 5\n', 2, "it is 5; write a name"),
    ("[[allow]]\nfunction = []\n", 2, "it is empty"),
    ('[[allow]]\nfunction = ""\n', 2, "it is ''; write a name"),
    ('[[allow]]\nfunction = { at_least = 3 }\n', 2, "name is missing"),
    ('[[allow]]\nfunction = { name = 3 }\n', 2, "it is 3; write a name"),
    ('[[allow]]\nfunction = "search"\nafter = "*"\n', 3, "* is no guard"),
    ('[[allow]]\nfunction = "search"\nafter = "device"\n', 3, "say which ones with devices"),
    ('[[allow]]\nfunction = "search"\nafter = "BPF"\n', 3, "say which one with parameter"),
    ('[[allow]]\nfunction = { name = "search", at_least = 3 }\n', 2, "search has no number"),
    ('[[allow]]\nfunction = { name = "sampler", at_least = 3, at_most = 2 }\n', 2, "at least 3 and at most 2"),
    ('[[allow]]\nfunction = { name = "sampler", parameter = "x" }\n', 2, "whole number"),
    ('[[allow]]\nfunction = { name = "*", parameter = "x" }\n', 2, "a parameter needs the name"),
    ('[[allow]]\nfunction = { name = "sampler", parameter = 3 }\n', 2, "write the parameter as text"),
    ('[[deny]]\nfunction = { name = "sampler", parameter = "3" }\n', 2, "parameter is for what is allowed"),
    ('[[deny]]\nfunction = "search"\nafter = "sampler"\n', 3, "unknown key 'after'"),
    ('[[deny]]\nfunction = "search"\nusers = 1\n', 3, "it is 1; write a name or a pattern"),
    ('[[deny]]\nfunction = "search"\ndevices = ["eth0", ""]\n', 3, "it is ''; write a name or a pattern"),
    ('[[addresses]]\ninside = "10.0.0.1/8"\n', 2, "10.0.0.1/8 has bits behind its prefix; write 10.0.0.0/8"),
    ('[[addresses]]\n\ninside = ["10.0.0.0/33"]\n', 3, "'10.0.0.0/33' is no range of addresses"),
    ('[[addresses]]\nusers = "u"\n', 1, "inside is missing"),
    ('[[snaplen]]\nat_most = 0\n', 2, "it is 0; write a number of octets, at least 1"),
    ('[[snaplen]]\nat_most = true\n', 2, "it is True"),
    ('[[callbacks]]\nper_second = -1\n', 2, "it is -1"),
    ('[[callbacks]]\nper_second = 1.5\n', 2, "it is 1.5"),
    ('[allow]\nfunction = "*"\n', 1, "write [[allow]]"),
    ("\nallow = [1]\n", 2, "write [[allow]]"),
    ("functions = 'drop'\n", 1, "write a list of names"),
    ("functions = [\n'drop',\n'a b']\n", 1, "'a b' is no name"),
    ("functions = ['bpf']\n", 1, "BPF is a filter of traceflow"),
    (f"[[snaplen]]\nat_most = {'9' * 5000}\n", 2, "cannot be read"),
    (f"[[snaplen]]\nat_most = 0x{'f' * 5000}\n", 2, "very many digits; write a number"),
    (f"[[deny]]\nfunction = {{ name = 'sampler', at_least = 0x{'f' * 5000} }}\n", 2, "digits; write a number"),
    (f"functions = [0x{'f' * 5000}]\n", 1, "very many digits is no name"),
    (f"\nx = {'[' * 5000}{']' * 5000}\n", 2, "cannot be read"),
    (f"\n\n{'a.' * 5000}b = 1\n", 3, "the key has too many parts"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "what"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_shown_with_their_lines(text: str, line: int, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        Policy.parse(text, "p.toml")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("p.toml: 1 mistake; ")
    assert lines[1].startswith(f"  p.toml:{line}: ")
    assert what in lines[1]
    assert len(lines[1]) < 400


def test_all_mistakes_are_reported_at_once() -> None:
    text = WHOLE.replace("at_most = 96\n", "atmost = 96\n").replace("per_second = 100", "per_second = 'x'")
    text = text.replace('before = ["return"]', 'before = ["retrun"]')
    with pytest.raises(UsageError) as caught:
        Policy.parse(text)
    lines = str(caught.value).splitlines()
    assert lines[0] == "policy: 3 mistakes; without this policy nothing may run"
    assert [line.split(": ")[0:2] for line in lines[1:]] == [
        ["  policy:19", "require, before"],
        ["  policy:26", "snaplen, atmost"],
        ["  policy:29", "callbacks, per_second"],
    ]


def test_many_mistakes_are_capped() -> None:
    with pytest.raises(UsageError, match="120 mistakes") as caught:
        Policy.parse("[[allow]]\nx = 1\n" * 120)
    assert str(caught.value).endswith("\n  and 70 more")


def test_lines_behind_strings_and_comments() -> None:
    """What looks like a header or a quote within strings and comments begins nothing."""
    text = (
        '[[allow]] # """ [\nfunction = """\\\n  search"""\nusers = \'\'\'\n[[deny]]\n"\'\'\'\'\n'
        'devices = """a"""""\n[[allow]]\nfunction = "]#\\"["\n'
    )
    with pytest.raises(UsageError) as caught:
        Policy.parse(text)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()[1:]] == ["  policy:9"]


def test_the_same_mistakes_in_python() -> None:
    with pytest.raises(UsageError, match=r"^require: after or before is missing"):
        require("search")
    with pytest.raises(UsageError, match=r"^addresses: inside: '1.2' is no range"):
        addresses(["1.2"])
    with pytest.raises(UsageError, match=r"^rule 2, allow: function: unknown function 'serch'. Did you mean search"):
        Policy(allow("*"), allow("serch"))
    with pytest.raises(UsageError, match="is no rule; make rules with deny, allow"):
        Policy("allow")  # type: ignore[arg-type]
    assert Policy(allow("bpf")) == Policy(allow("BPF"))


@pytest.mark.parametrize("name", ["absent.toml", ".", "\0"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotReadError, match=r"cannot be read: .*; without it nothing may run"):
        Policy.read(f"{tmp_path}/{name}")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"[[allow]]\nfunction = '\xff'\n")
    with pytest.raises(UsageError, match=r"policy.toml:2: octet 0xff is not UTF-8"):
        Policy.read(path)
    path.write_bytes(b"#" * (OCTETS_MAX + 1))
    with pytest.raises(CannotReadError, match="has more than 262144 octets"):
        Policy.read(path)
    with pytest.raises(UsageError, match="at most 262144 characters"):
        Policy.parse("#" * (OCTETS_MAX + 1))
    with pytest.raises(UsageError, match="0 is no path of a policy file"):
        Policy.read(0)  # type: ignore[arg-type]


_PIECES = [*WHOLE.splitlines(keepends=True), *(text for text, _, _ in MISTAKES if len(text) < 200),
           '"', "'''", '"""', *"[]{}=.,#\n\0é", "\r\n", "1979-05-27", "1e999"]  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(_PIECES), max_size=12).map("".join)))
@example("[a.b]\n[[a.b.c]]\n[a.b.c.d]\nx = 1\n[[a.b.c]]\ny.z = [[{q = 1}]]\n")
@example("[[allow]]\n[[allow.after]]\nname = 'x'\n[[allow.after]]\nz = 1")
def test_any_text_is_a_policy_or_our_error(text: str) -> None:
    try:
        rules, _ = parse_policy(text, "p.toml")
    except TraceflowError:
        return
    assert all(isinstance(rule, Rule) for rule in rules)


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "policy.md").read_text("utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    files = [Policy.parse(text) for language, text in blocks if language == "toml"]
    assert files[:2] == [SAMPLED_SEARCH, PAIRED_DROP]
    says = SAMPLED_SEARCH.check(parse_graph("(device,eth0) -> (search,password)"), "guest")
    assert str(says) == next(text for language, text in blocks if language == "text").strip()
    lab = make_call("net", "10.0.0.0/8") >> make_call("truncate", "96")
    assert files[2].check(ETH1 >> lab >> SAMPLER >> SEARCH >> COUNT, "guest1").callbacks_per_second == 10
    assert [reason.rule.partition(" (")[0] for reason in files[2].check(ETH0 >> lab >> SEARCH, "guest1").reasons] == [
        "default", "default", "default", "default"
    ]  # fmt: skip
    assert files[2].check(ETH0 >> SEARCH, "op1")
