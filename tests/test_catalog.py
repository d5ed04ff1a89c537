"""Names, frames and index of many flows at once are those of each flow, as `perflow` says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traceflow
from traceflow.compiled import COMPILED
from traceflow.flows import FlowSet
from traceflow.packets import FRAME
from traceflow.sinks import catalog
from traceflow.sinks.catalog import Output, entries, outputs
from traceflow.sinks.naming import UniqueNames
from traceflow.sinks.perflow import index_entry, labels_of, layout_of, link_label

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NAMES = [f"{name}.pcap" for name in ("T02", "http", "fragments", "T21c", "T15d", "T24", "verdicts", "out-of-order")]
NAMES += ["not-ip.pcap", "other-protocols.pcap", "ipv6-extensions.pcap", "negative-time.pcapng"]


def frames_of(flows: FlowSet, links: int) -> np.ndarray[Any, Any]:
    """FRAME rows for all frames of a run: some octets each, and link types in turn."""
    rows = np.zeros(flows.account.frames, FRAME)
    rows["captured"] = np.arange(len(rows)) % 100
    rows["link"] = np.array([1, 113, 101])[np.arange(len(rows)) // 3 % links]
    return rows


def one_by_one(flows: FlowSet, fmt: str, by: str, rows: np.ndarray[Any, Any]) -> list[tuple[Any, ...]]:
    """The same by the rules of one flow."""
    layout = layout_of(fmt, by)
    names = UniqueNames(fold=True)
    found: list[tuple[Any, ...]] = []
    for flow in flows:
        for side, label in labels_of(flow, by):
            numbers = flow.frames if side is None else flow.frames_from(side)
            links = rows["link"][numbers.astype(np.intp) - 1] if layout.pcap else np.zeros(1, np.uint16)
            several = list(dict.fromkeys(links.tolist()))
            for link in several:
                mine = numbers[links == link] if len(several) > 1 else numbers
                name = names.unique(link_label(label, link) if len(several) > 1 else label) + layout.extension
                octets = int(rows["captured"][mine.astype(np.intp) - 1].sum())
                entry = index_entry(flow, name, label, side, mine.tolist())
                found.append((name, label, side, mine.tolist(), link, octets, entry))
    return found


@pytest.mark.parametrize("fmt", ["json", "pcap"])
@pytest.mark.parametrize("by", ["direction", "flow"])
@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_many_flows_are_as_one(fmt: str, by: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_FLOWS", at_once)
    for name in NAMES if COMPILED else NAMES[::3]:
        flows = traceflow.trace(FIXTURES / name)
        for links in (1, 3):
            rows = frames_of(flows, links)
            made: list[Output] = list(outputs(flows, layout_of(fmt, by), rows))
            found = [
                (one.name, one.label, one.side, one.numbers.tolist(), one.link, one.octets, entry)
                for one, entry in zip(made, entries(flows, made), strict=True)
            ]
            assert found == one_by_one(flows, fmt, by, rows)


def test_flows_with_an_alarm_alone() -> None:
    flows = traceflow.trace(FIXTURES / "http.pcap")
    assert len(flows) > 2
    flows.columns["alarm"][::2] = 1
    for by in ("flow", "direction"):
        layout = layout_of("json", by)
        rows = frames_of(flows, 1)
        every = {one.label: one.numbers.tolist() for one in outputs(flows, layout, rows) if one.at % 2 == 0}
        found = {one.label: one.numbers.tolist() for one in outputs(flows, layout, rows, alarms_only=True)}
        assert found == every


def test_columns_of_plugins_are_in_the_index() -> None:
    flows = traceflow.trace(FIXTURES / "T02.pcap")
    flows.plugin_columns = {"mean": np.ma.array([0.5, np.nan]), "text": np.ma.array(['"', "b"], mask=[False, True])}
    made = list(outputs(flows, layout_of("json", "flow"), frames_of(flows, 1)))
    expected = [index_entry(flow, f"{flow.label}.json", flow.label, None, flow.frames.tolist()) for flow in flows]
    assert list(entries(flows, made)) == expected
