"""The room of the sinks as a whole: names that never collide, and every format the docs promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.sinks import dictdump, perflow
from traceflow.sinks.naming import UniqueNames


def test_a_repeated_name_gets_the_next_free_suffix() -> None:
    names = UniqueNames()
    assert [names.unique(name) for name in ("a", "a", "b", "a")] == ["a", "a-1", "b", "a-2"]


def test_a_suffix_that_someone_else_took_is_passed_over() -> None:
    names = UniqueNames()
    assert [names.unique(name) for name in ("a-1", "a", "a", "a")] == ["a-1", "a", "a-2", "a-3"]


def test_case_counts_unless_the_file_system_may_fold_it() -> None:
    exact, folded = UniqueNames(), UniqueNames(fold=True)
    assert [exact.unique(name) for name in ("A", "a")] == ["A", "a"]
    assert [folded.unique(name) for name in ("A", "a")] == ["A", "a-1"]


@given(st.lists(st.sampled_from(["a", "A", "a-1", "a-1-1", "a-2", "b"]), max_size=30), st.booleans())
def test_no_name_is_given_twice(wanted: list[str], fold: bool) -> None:
    names = UniqueNames(fold=fold)
    given_names = [names.unique(name) for name in wanted]
    keys = [name.casefold() if fold else name for name in given_names]
    assert len(set(keys)) == len(keys)
    assert all(got == want or got.startswith(f"{want}-") for want, got in zip(wanted, given_names, strict=True))


@pytest.mark.parametrize("name", ["json", "plist", "xml", "tree", "txt", "text", "pcap", "cap"])
def test_every_format_of_pypcapkit_is_there(name: str) -> None:
    # The names are those of PyPCAPKit's TraceFlow: shared/seeds.md, section 1, "formats".
    assert name in perflow.FORMATS
    assert perflow.DEFAULT_BY[name] == ("flow" if name in ("pcap", "cap") else "direction")


def test_extensions_are_those_of_pypcapkit() -> None:
    extensions = {name: extension for name, (_, extension) in dictdump.FORMATS.items()}
    assert extensions == {
        "json": ".json",
        "plist": ".plist",
        "xml": ".plist",
        "tree": ".txt",
        "txt": ".txt",
        "text": ".txt",
    }
