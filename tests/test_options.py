"""The room `options`: the rules, their bounds, and the profiles."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from traceflow.errors import UsageError
from traceflow.options import CHOICES, PROFILES, SECOND_NS, Options, options_for


def test_default_profile() -> None:
    """The blueprint's table of profiles: tcp 300 s, other 60 s; flow-rules 6: linger 60 s, Linux's TIME_WAIT."""
    rules = options_for()
    assert rules == Options() == PROFILES["default"]
    assert (rules.idle_timeout_tcp_ns, rules.idle_timeout_other_ns) == (300 * 10**9, 60 * 10**9)
    assert (rules.linger_ns, rules.tcp_end, rules.syn_opens) == (60 * 10**9, "both", True)
    assert (rules.directed, rules.tcp_only) == (False, False)


def test_pcapkit_profile() -> None:
    """The blueprint's table: one direction, TCP only, FIN closes the direction, no idle timeout, SYN does nothing."""
    rules = options_for("pcapkit")
    assert (rules.directed, rules.tcp_only, rules.tcp_end, rules.syn_opens) == (True, True, "fin", False)
    assert (rules.idle_timeout_tcp_ns, rules.idle_timeout_other_ns) == (None, None)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_knows_its_name(name: str) -> None:
    assert options_for(name).profile == name


def test_rules_can_be_changed_one_by_one() -> None:
    rules = options_for("pcapkit", max_flows=5, linger_ns=1)
    assert (rules.max_flows, rules.linger_ns, rules.directed, rules.profile) == (5, 1, True, "pcapkit")
    assert PROFILES["pcapkit"].max_flows != 5


def test_rules_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        options_for().max_flows = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["idle_timeout_tcp_ns", "idle_timeout_other_ns", "active_timeout_ns", "linger_ns"])
@pytest.mark.parametrize("value", [0, -1, -(10**9), 2**62, 2**63, 2**64])
def test_timeouts_out_of_range(name: str, value: int) -> None:
    """Times go up to 2**62 ns: a timeout of 2**62 more would be 2**63, which is no int64."""
    with pytest.raises(UsageError, match=name):
        options_for(**{name: value})


@pytest.mark.parametrize("name", ["idle_timeout_tcp_ns", "idle_timeout_other_ns", "active_timeout_ns", "linger_ns"])
@pytest.mark.parametrize("value", [1, SECOND_NS, 2**62 - 1])
def test_timeouts_in_range(name: str, value: int) -> None:
    assert getattr(options_for(**{name: value}), name) == value


@pytest.mark.parametrize("value", [0, -5, 2**31 - 1, 2**40])
def test_max_flows_out_of_range(value: int) -> None:
    with pytest.raises(UsageError, match="max_flows"):
        options_for(max_flows=value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"profile": "pcapkti"}, ["pcapkti", "Did you mean pcapkit?", "default"]),
        ({"profile": ""}, ["unknown profile ''", "default, nfstream, pcapkit"]),
        ({"max_flow": 5}, ["max_flow", "Did you mean max_flows?"]),
        ({"tcp_end": "fnis"}, ["fnis", "Did you mean fins?"]),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        options_for(**arguments)
    for word in words:
        assert word in str(refused.value)


def test_every_option_says_what_it_is() -> None:
    """Units stand in the names, meanings in the docstring."""
    for field in dataclasses.fields(Options):
        assert f"\n    {field.name}: " in inspect.cleandoc(Options.__doc__ or "")  # 3.13 dedents by itself
        if "timeout" in field.name or "linger" in field.name:
            assert field.name.endswith("_ns")


# --- docs/profiles.md --------------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "profiles.md").read_text("utf-8")


def table(first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with some cells, by the option in the first cell."""
    lines = PAGE.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(first))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name.strip("`")] = cells
    return rows


def documented(name: str, value: Any) -> str:
    """How the page writes a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "-"
    if name.endswith("_ns"):
        return f"{value // SECOND_NS} s" if value >= SECOND_NS else f"{value // 1000} us"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def test_the_page_has_the_value_of_every_option_in_every_profile() -> None:
    head = "| option | " + " | ".join(f"`{name}`" for name in PROFILES)
    expected = {
        field.name: [documented(field.name, getattr(rules, field.name)) for rules in PROFILES.values()]
        for field in dataclasses.fields(Options)
        if field.name != "profile"
    }
    assert table(head) == expected


def test_the_page_says_what_every_option_means() -> None:
    rows = table("| option | switch |")
    assert set(rows) == {field.name for field in dataclasses.fields(Options)}
    for name, choices in CHOICES.items():
        for choice in choices:
            assert f"`{choice}`" in rows[name][-1], (name, choice)


@pytest.mark.parametrize("name", PROFILES)
def test_the_page_describes_every_profile(name: str) -> None:
    assert f"\n**`{name}`**: " in PAGE


# --- options that came with more profiles ------------------------------------------------------------------------


def test_tranalyzer_profile() -> None:
    """seeds.md section 3: 182 s for each direction, the core does nothing on FIN and RST, its own direction rule."""
    rules = options_for("tranalyzer")
    assert (rules.idle_timeout_tcp_ns, rules.idle_timeout_other_ns) == (182 * 10**9, 182 * 10**9)
    assert (rules.tcp_end, rules.syn_opens, rules.direction) == ("never", False, "tranalyzer")


def test_peafowl_profile() -> None:
    """seeds.md section 2: 30 s, FIN from both sides, direction of the first packet."""
    rules = options_for("peafowl")
    assert (rules.idle_timeout_tcp_ns, rules.idle_timeout_other_ns) == (30 * 10**9, 30 * 10**9)
    assert (rules.tcp_end, rules.direction, rules.active_timeout_ns) == ("fins", "first", None)


def test_nfstream_profile() -> None:
    """The blueprint's table: VLAN in the key, first sender, nothing ends TCP, idle 120 s, active 1800 s."""
    rules = options_for("nfstream")
    assert (rules.idle_timeout_tcp_ns, rules.active_timeout_ns) == (120 * 10**9, 1800 * 10**9)
    assert (rules.key, rules.tcp_end, rules.direction, rules.syn_opens) == ({"vlan"}, "never", "first", False)


@pytest.mark.parametrize("given", [("vlan",), ["vlan"], {"vlan"}, "vlan", ("vlan", "vlan"), iter(["vlan"])])
def test_a_key_in_any_form_is_the_same(given: Any) -> None:
    rules = options_for(key=given)
    assert rules.key == frozenset({"vlan"})
    assert hash(rules) == hash(options_for(key=("vlan",)))


@pytest.mark.parametrize("given", ["vlna", ("vlan", "vni"), ("",)])
def test_an_unknown_part_of_the_key(given: Any) -> None:
    with pytest.raises(UsageError, match=r"part of the key .* Known: tunnel, vlan"):
        options_for(key=given)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("linger_ns", "5s", "whole number of nanoseconds"),
        ("linger_ns", 5.5e9, "whole number of nanoseconds"),
        ("linger_ns", None, "whole number of nanoseconds"),
        ("idle_timeout_tcp_ns", True, "or None"),
        ("max_flows", "10", "whole number"),
        ("max_flows", 2.5, "whole number"),
        ("analysis", "no", "True or False"),
        ("key", None, "tuple of parts"),
        ("profile", PROFILES["zeek"], "given by its name"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_usage_error(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options_for(**{name: value})
