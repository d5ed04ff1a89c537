"""The room `following`: what the flow table says right after each packet, by hand and against flows at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exchange import Exchange, Wire

from traceflow import trace
from traceflow.filters.contract import FLOW_FACTS
from traceflow.following import FlowFollower
from traceflow.sources import open_source
from traceflow.states import ESTABLISHED, FIN_WAIT, SYN_SENT, UNSEEN


def facts_of(path: Path, batch_frames: int = 4096) -> np.ndarray:  # type: ignore[type-arg]
    follower, found = FlowFollower(), [np.zeros(0, FLOW_FACTS)]
    with open_source(path, batch_frames=batch_frames) as captures:
        for batch in captures.batches():
            follower.step(batch)
            assert follower.flows.tolist() == follower.facts()["flow"].tolist()
            found.append(follower.facts())
    return np.concatenate(found)


def test_a_connection_beside_a_datagram(tmp_path: Path) -> None:
    """SYN, SYN+ACK, ACK, then a datagram of another flow, then the FIN of the client. Its sender is established from
    the ACK on, the server since its SYN+ACK; a datagram has no state."""
    wire = Wire()
    one, other = Exchange(wire=wire), Exchange("10.0.0.9:5", "10.0.0.2:53", wire=wire)
    one.open()
    other.a.udp(b"?")
    one.a.fin()
    one.b.ack()
    facts = facts_of(one.pcap(tmp_path))
    assert facts["flow"].tolist() == [1, 1, 1, 2, 1, 1]
    assert facts["packets"].tolist() == [1, 2, 3, 1, 4, 5]
    assert facts["state"].tolist() == [SYN_SENT, ESTABLISHED, ESTABLISHED, UNSEEN, FIN_WAIT, ESTABLISHED]
    assert facts["from_responder"].tolist() == [0, 1, 0, 0, 0, 1]
    start = wire.frames[0].time_ns
    assert (facts["first_ns"] - start).tolist() == [0, 0, 0, wire.frames[3].time_ns - start, 0, 0]


@pytest.mark.parametrize("name", ["http", "T10", "verdicts", "not-ip"])
def test_it_is_what_the_flows_say_in_the_end(fixtures_folder: Path, name: str) -> None:
    path = fixtures_folder / f"{name}.pcap"
    facts = facts_of(path)
    flows = trace(path)
    for flow in flows:
        of_it = facts[flow.frames.astype(np.intp) - 1]
        assert (of_it["flow"] == flow.number).all()
        assert of_it["packets"].tolist() == list(range(1, len(of_it) + 1))
    nowhere = facts[facts["flow"] == 0]
    assert len(nowhere) == len(facts) - sum(flow.packets for flow in flows)
    assert set(nowhere.tolist()) <= {(0, 0, 0, 0, 0)}  # nothing of the packet before them


def test_batches_do_not_matter(fixtures_folder: Path) -> None:
    path = fixtures_folder / "http.pcap"
    assert facts_of(path, 3).tolist() == facts_of(path).tolist()
