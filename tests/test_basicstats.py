"""Plugin basicstats: a dialogue by hand, odd packets, and every flow of a capture recounted from its packets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import Exchange
from plugin_runs import cells, check_values, dialogue, odd_wire, traced

from traceflow.compiled import COMPILED
from traceflow.options import options_for
from traceflow.pipeline import Run
from traceflow.plugins import PluginSet, load_plugins
from traceflow.sources import open_source
from traceflow.table import FROM_UPPER


def test_sizes_by_hand() -> None:
    """Ethernet 14, IPv4 20, UDP 8. Payload 10, 30, 20: mean 20, deviations -10, 10, 0, so the variance is 200 / 3."""
    flows = traced(dialogue(), "basicstats")
    names = "wire_octets wire_min wire_max wire_mean ip_octets ip_min ip_max ip_mean payload_octets payload_min"
    names = " ".join(f"orig_basicstats_{name}" for name in f"packets {names} payload_max payload_mean".split())
    assert cells(flows, names) == [3, 186, 52, 72, 62.0, 144, 38, 58, 48.0, 60, 10, 30, 20.0]
    for size in ("wire", "ip", "payload"):
        assert cells(flows, f"orig_basicstats_{size}_std") == pytest.approx([(200 / 3) ** 0.5])
    assert cells(flows, "resp_basicstats_packets resp_basicstats_payload_mean resp_basicstats_payload_std") == [
        1,
        20,
        0,
    ]


def test_times_by_hand() -> None:
    """Originator: 0, 3, 4 ms, mean 7/3 ms = duration / packets; deviations -7/3, 2/3, 5/3: variance 78/27."""
    flows = traced(dialogue(), "basicstats")
    names = "duration_ns iat_min_ns iat_max_ns iat_mean_ns iat_std_ns packets_per_second octets_per_second backward"
    found = cells(flows, " ".join(f"orig_basicstats_{name}" for name in names.split()))
    expected = [7e6, 0, 4e6, 7e6 / 3, (78 / 27) ** 0.5 * 1e6, 3 / 0.007, 186 / 0.007, 0]
    assert found == pytest.approx(expected)
    found = cells(flows, " ".join(f"resp_basicstats_{name}" for name in names.split()))
    assert found == [0, 0, 0, 0.0, 0.0, None, None, 0]


def test_asymmetries_by_hand() -> None:
    """3 packets to 1: 2 / 4; 186 octets to 62: 124 / 248; payload 60 to 20: 40 / 80."""
    flows = traced(dialogue(), "basicstats")
    for name in ("packets", "octets", "payload"):
        assert cells(flows, f"orig_basicstats_{name}_asymmetry resp_basicstats_{name}_asymmetry") == [0.5, -0.5]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "basicstats")
    check_values(flows)
    side = "orig_basicstats_"
    one = cells(flows, f"{side}packets_asymmetry {side}iat_mean_ns {side}packets_per_second {side}payload_std", 0)
    assert one == [1.0, 0.0, None, 0.0]
    assert cells(flows, "resp_basicstats_packets resp_basicstats_wire_min", 0) == [None, None]
    assert cells(flows, f"{side}ip_octets", 1) == [60]  # IPv6 40, TCP 20
    assert cells(flows, f"{side}packets_asymmetry {side}payload_octets", 2) == [0.0, 12]  # ICMP header and 4 octets
    assert cells(flows, f"{side}duration_ns {side}iat_max_ns {side}packets_per_second", 3) == [0, 0, None]
    # Originator at 30, 40, 35 ms: gaps 0, 10, 0 (35 is before 40); 25 ms is the responder's only packet.
    assert cells(flows, f"{side}duration_ns {side}iat_max_ns {side}backward", 4) == [10_000_000, 10_000_000, 1]
    assert cells(flows, f"{side}iat_mean_ns", 4) == [pytest.approx(1e7 / 3)]
    assert cells(flows, f"{side}payload_asymmetry {side}packets_asymmetry", 5) == [0.0, 1.0]  # no payload at all
    assert cells(flows, f"{side}payload_mean resp_basicstats_payload_mean", 6) == [8.0, 6.0]


def test_a_direction_that_turns_keeps_its_numbers() -> None:
    """The SYN-ACK (with payload) comes first in the capture: its sender is the responder all the same."""
    talk = Exchange()
    talk.b.segment(0x12, bytes(5), seq=900, ack=101)
    talk.a.syn(seq=100)
    flows = traced(talk, "basicstats")
    assert cells(flows, "orig_basicstats_payload_octets resp_basicstats_payload_octets") == [0, 5]


@pytest.mark.parametrize("profile", ["default", "tranalyzer"])
def test_every_flow_of_a_capture_recounted(profile: str, shared: Path) -> None:
    """NumPy over the packet rows of each direction: its own min, max, mean and std."""
    path = shared / "corpus" / "tranalyzer" / "2009-M57-day11-18-10k.pcap"
    if not path.exists():
        pytest.skip("../shared/corpus/tranalyzer is absent")
    packets: list[Any] = []
    ended: dict[int, tuple[bool, dict[str, Any]]] = {}
    with open_source(path, limit=None if COMPILED else 1500) as captures:
        for step in Run(captures, options_for(profile), PluginSet(load_plugins(["basicstats"]))).steps():
            assert len(step.late) == 0
            if step.batch is not None:
                kept, side = step.marks["flow"], step.marks["direction"] & FROM_UPPER != 0
                sizes = step.batch.frames["wire"], step.packets["ip_octets"], step.packets["payload_octets"]
                packets.append(np.array([kept, side, step.batch.frames["time_ns"], *sizes], np.int64))
            for at, row in enumerate(step.ended):
                cells_of = {name: values[at] for name, values in step.columns.items()}
                ended[int(row["number"])] = bool(row["upper_originates"]), cells_of
    table = np.concatenate(packets, axis=1)
    table = table[:, table[0] != 0]
    order = np.lexsort((np.arange(table.shape[1]), table[1], table[0]))
    table = table[:, order]
    starts = np.flatnonzero(np.any(np.diff(table[:2], axis=1), axis=0)) + 1
    groups = np.split(table, starts, axis=1)
    assert len(groups) > (1000 if COMPILED else 150)
    assert len(ended) == len({int(group[0, 0]) for group in groups})
    octets = {(int(group[0, 0]), bool(group[1, 0])): (group.shape[1], group[3].sum()) for group in groups}
    for group in groups:
        number, upper = int(group[0, 0]), bool(group[1, 0])
        upper_originates, found = ended[number]
        prefix = f"{'orig' if upper == upper_originates else 'resp'}_basicstats_"
        other = octets.get((number, not upper), (0, 0))
        wrong = {
            name: (found[prefix + name], value)
            for name, value in recounted(group, other).items()
            if not same(found[prefix + name], value)
        }
        assert wrong == {}, number


def recounted(group: Any, other: tuple[int, int]) -> dict[str, float | None]:
    """The statistics of one direction.

    Args:
        group: Flow, side, time, wire, IP and payload octets of its packets, int64[6, n].
        other: Packets and wire octets of the other direction.
    """
    times, count = group[2], group.shape[1]
    latest = np.maximum.accumulate(times)
    gaps = np.append(0, np.maximum(times[1:] - latest[:-1], 0))
    duration = int(times.max() - times.min())
    octets = int(group[3].sum())
    expected: dict[str, float | None] = {
        "packets": count,
        "duration_ns": duration,
        "iat_min_ns": gaps.min(),
        "iat_max_ns": gaps.max(),
        "iat_mean_ns": gaps.mean(),
        "iat_std_ns": gaps.std(),
        "backward": np.count_nonzero(times < latest),
        "packets_per_second": count / duration * 1e9 if duration else None,
        "octets_per_second": octets / duration * 1e9 if duration else None,
        "packets_asymmetry": (count - other[0]) / (count + other[0]),
        "octets_asymmetry": (octets - other[1]) / (octets + other[1]),
    }
    for size, values in zip(("wire", "ip", "payload"), group[3:], strict=True):
        expected[f"{size}_octets"] = values.sum()
        expected[f"{size}_min"], expected[f"{size}_max"] = values.min(), values.max()
        expected[f"{size}_mean"], expected[f"{size}_std"] = values.mean(), values.std()
    return expected


def same(found: Any, expected: float | None) -> bool:
    """Integers exactly; float64 to nine digits, and zero to what NumPy's own rounding leaves of it."""
    if expected is None or found is np.ma.masked:
        return expected is None and found is np.ma.masked
    if isinstance(found, np.integer):
        return int(found) == int(expected)
    return bool(np.isclose(found, expected, rtol=1e-9, atol=1e-6))
