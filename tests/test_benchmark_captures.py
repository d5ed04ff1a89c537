"""The makers of synthetic captures: what they say about frames and flows is what is in the file, on every run.

Counts follow from the recipes: `small` and its kin are closed by FIN, `many` and floods have a flow a frame, `live`
opens all its flows and ends none. That sequence numbers are right is told by the TCP analysis, which has nothing to
say, and that checksums are, by verifying them: a wrong one of TCP or UDP would be a C in the history, one of IPv4 a
Verdict.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import traceflow
from traceflow.flows import EndCause

sys.path.append(str(ROOT / "benchmarks"))

import bare
import capped
import captures
import connections
import floods
from records import RECORD

FRAMES, FLOWS = 300, 10
"""30.1 frames a connection (2 000 000 / 66 453), so 10 in 300."""
CLOSED = ("small", "mix", "ipv6-vlan", "pcapng")


def made(path: Path, kind: str, frames: int = FRAMES, **more: int) -> traceflow.FlowSet:
    """A capture, traced: all frames are in flows, of the number that the maker says, and nothing is wrong with them."""
    makers = {**captures.KINDS, "live": captures.write_live, "segments": captures.write_segments}
    said = makers[kind](path, frames=frames, **more)
    flows = traceflow.trace(path, checksums=True)
    assert len(flows) == said
    assert (flows.account.frames, flows.account.in_flows) == (frames, frames)
    columns = flows.columns
    for side in ("orig", "resp"):
        assert not columns[side]["analysed"]["counts"].any()
    assert set(b"".join(columns["history"].tolist()).decode()) <= set("ShAaDdFfR")
    return flows


@pytest.mark.parametrize("kind", CLOSED)
def test_connections_are_whole_and_nothing_is_wrong_with_them(tmp_path: Path, kind: str) -> None:
    flows = made(tmp_path / "made", kind)
    assert len(flows) == FLOWS
    assert flows.columns["end_cause"].tolist() == [EndCause.FIN] * FLOWS
    assert flows.columns["protocol"].tolist() == [6] * FLOWS
    assert min(flow.packets for flow in flows) >= connections.SHORTEST
    tagged = flows.columns["vlan_outer"].all()
    assert (tagged, set(flows.columns["ip_version"].tolist())) == ((True, {6}) if kind == "ipv6-vlan" else (False, {4}))


def test_carriers_change_no_flow(tmp_path: Path) -> None:
    flows = [made(tmp_path / kind, kind) for kind in ("small", "ipv6-vlan", "pcapng")]
    for name in ("first_ns", "last_ns", "orig_port", "resp_port", "history"):
        assert len({flow_set.columns[name].tobytes() for flow_set in flows}) == 1
    payloads = {flow_set.columns["orig"]["payload_octets"].tobytes() for flow_set in flows}
    assert len(payloads) == 1


def test_many_and_one_and_floods(tmp_path: Path) -> None:
    many = made(tmp_path / "many", "many")
    assert len(many) == FRAMES
    assert set(many.columns["protocol"].tolist()) == {17}
    one = made(tmp_path / "one", "one")
    # 297 frames behind the handshake: 198 segments of 1000 octets of the server, 99 ACKs
    assert [(flow.orig.packets, flow.resp.packets, flow.resp.payload_octets) for flow in one] == [(101, 199, 198_000)]
    for flags, letter in ((floods.SYN, b"S"), (floods.RST, b"R")):
        flood = made(tmp_path / "flood", "segments", flags=flags)
        assert flood.columns["history"].tolist() == [letter] * FRAMES


def test_live_flows_open_first_and_never_end(tmp_path: Path) -> None:
    flows = made(tmp_path / "live", "live", live=20)
    assert len(flows) == 20
    assert [flow.frames[0] for flow in flows] == list(range(1, 21))
    assert flows.columns["end_cause"].tolist() == [EndCause.END_OF_INPUT] * 20
    # by chance each of the 20 has some of the other 280 frames; the responder's first one is a SYN-ACK
    assert {flow.history[:2] for flow in flows} == {"Sh"}


@pytest.mark.parametrize("kind", [*captures.KINDS, "live", "flows"])
def test_a_capture_is_the_same_on_every_run_and_changes_with_the_seed(tmp_path: Path, kind: str) -> None:
    def octets(seed: int) -> bytes:
        path = tmp_path / "made"
        if kind == "live":
            captures.write_live(path, frames=FRAMES, live=20, seed=seed)
        elif kind == "flows":
            assert captures.write_flows(path, connections=FLOWS, seed=seed) == 7 * FLOWS
        else:
            captures.KINDS[kind](path, frames=FRAMES, seed=seed)
        return path.read_bytes()

    assert octets(1) == octets(1)
    assert (octets(1) == octets(2)) == (kind in ("many", "one"))


def test_pieces_are_merged_by_time_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 connections open within 3 ms and live for 1.5 s: with pieces of 3, frames of all pieces interleave
    monkeypatch.setattr(connections, "_PIECE", 3)
    monkeypatch.setattr(floods, "_PIECE", 7)
    assert len(made(tmp_path / "small", "small")) == FLOWS
    pieces = list(connections.in_time_order(connections.small_counts(FRAMES, np.random.default_rng(1)),
                                            connections.small_script, 1))  # fmt: skip
    assert len(pieces) == 4
    times_us = np.concatenate([rows["seconds"].astype(np.int64) * 1_000_000 + rows["microseconds"] for rows in pieces])
    assert (np.diff(times_us) >= 0).all()
    for kind, flows in (("many", FRAMES), ("one", 1)):
        assert len(made(tmp_path / kind, kind)) == flows
    assert len(made(tmp_path / "live", "live", live=20)) == 20


def test_ends_of_floods_are_unique() -> None:
    # two frames that share an address lie 2**24 apart, and their ports then differ by 2**24 modulo 28 000
    rows = np.zeros(4, RECORD)
    flows = np.array([0, 1, 1 << 24, (1 << 24) + 1])
    floods._set_ends(rows, flows, 80)
    assert rows["src"][0] == rows["src"][2] != rows["src"][1] == rows["src"][3]
    assert (rows["src_port"] - 32_768).tolist() == [0, 1, 5216, 5217]


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 8 frames"):
        captures.write_small(tmp_path / "made", frames=7)
    with pytest.raises(ValueError, match="cannot open 9 flows"):
        captures.write_live(tmp_path / "made", frames=8, live=9)


@pytest.mark.once("another program reads the file")
@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed")
def test_capinfos_counts_the_same_frames(tmp_path: Path) -> None:
    paths = [tmp_path / kind for kind in captures.KINDS]
    for path in paths:
        captures.KINDS[path.name](path, frames=FRAMES)
    command = ["capinfos", "-c", "-M", "-T", "-r", *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line.split("\t")[-1] for line in done.stdout.splitlines()] == [str(FRAMES)] * len(paths)


def test_the_account_of_a_flood_is_judged() -> None:
    right = {"frames": 9, "frames_in_flows": 4, "frames_table_full": 5, "flows": 4, "flows_tcp": 4, "packets": 4,
             "flows_ended_by_rst": 0, "flows_ended_by_evicted": 0}  # fmt: skip
    assert capped.complaint(right, "syn", 9, 4, "skip") == ""
    assert capped.complaint({**right, "flows": 5}, "syn", 9, 4, "skip") == "flows is 5, not 4"
    assert "flows_ended_by_evicted is 0, not 5" in capped.complaint(right, "syn", 9, 4, "evict")


@pytest.mark.parametrize("kind", ["small", "mix"])
def test_the_bare_loop_counts_all_frames_and_connections(tmp_path: Path, kind: str) -> None:
    """As plain Python; arithmetic modulo 2**64 is meant."""
    path = tmp_path / "x.pcap"
    assert captures.KINDS[kind](path, frames=FRAMES) == FLOWS
    with np.errstate(over="ignore"):
        assert bare.bare(path, bare._loop)[1:] == (FRAMES, FLOWS)
