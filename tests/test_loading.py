"""The room `filters/loading`: without a filter, nothing of filters is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needs import LIBPCAP

from traceflow.errors import LibraryMissingError
from traceflow.filters.bpf import Expression
from traceflow.filters.loading import load_expression
from traceflow.libpcap import library

if TYPE_CHECKING:
    from conftest import Finished


def test_an_expression() -> None:
    try:
        library()
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")
    loaded = load_expression("tcp port 80")
    assert isinstance(loaded, Expression)
    assert (loaded.text, loaded.judged, loaded.failures) == ("tcp port 80", 0, {})


@LIBPCAP
@pytest.mark.once("it starts processes")
def test_without_a_filter_nothing_of_it_is_loaded(
    run_cli: Callable[..., Finished], fixtures_folder: Path, tmp_path: Path
) -> None:
    """Python says on standard error what it imports with -X importtime; PYTHONPROFILEIMPORTTIME is the same."""
    wanted = ("traceflow.libpcap", "traceflow.filters.machine")
    for more, loaded in (((), 0), (("-f", "tcp"), 2)):
        path = fixtures_folder / "T01.pcap"
        done = run_cli("flows", path, "-q", *more, cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert done.code == 0
        names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "traceflow.pipeline" in names
        assert len(names.intersection(wanted)) == loaded
