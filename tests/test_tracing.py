"""The room `tracing`: a grabber's own flow table gives the flows that `trace` finds, with their frame numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grabbing import FIXTURES, Lab, batches_of, grabber_of, monitor_of

from traceflow import CallbackWarning, FlowSet, FlowSpec, GrabberState, Monitor, UsageError, trace
from traceflow.errors import TraceflowError
from traceflow.flows import EndCause
from traceflow.packets import Verdict
from traceflow.pipeline import Step

HTTP = FIXTURES / "http.pcap"


def frames_of(flows: FlowSet) -> list[list[int]]:
    return sorted(flow.frames.tolist() for flow in flows)


@pytest.mark.parametrize("batch_frames", [1, 7, 4096])
def test_flows_of_what_was_grabbed_are_those_of_the_capture(batch_frames: int) -> None:
    """No flow of http.pcap is both of port 80 and of others, so the filter leaves whole flows."""
    monitor = monitor_of("http", batch_frames)
    grabber = grabber_of(monitor, "(port,80)", tracer={})
    grabber.activate()
    monitor.run()
    expected = [flow.frames.tolist() for flow in trace(HTTP) if 80 in (flow.orig_port, flow.resp_port)]
    assert frames_of(grabber.flows) == sorted(expected)
    assert len(expected) == 2
    account = grabber.account
    assert (account.frames, account.in_flows, account.verdicts[Verdict.FILTERED]) == (59, 26, 33)
    grabber.close()
    assert frames_of(grabber.flows) == sorted(expected)  # readable after close


def test_two_grabbers_trace_by_their_own_rules() -> None:
    monitor = monitor_of("T02", 3)
    grabbers = [grabber_of(monitor, "(ip,4)", tracer={"profile": profile, "plugins": ["tcpflags"]})
                for profile in ("default", "nfstream")]  # fmt: skip
    for grabber, profile in zip(grabbers, ("default", "nfstream"), strict=True):
        grabber.activate()
        monitor.run()
        flows = trace(FIXTURES / "T02.pcap", profile=profile, plugins=["tcpflags"])
        if grabber is grabbers[0]:
            assert frames_of(grabber.flows) == frames_of(flows)
            assert set(grabber.flows.plugin_columns) == set(flows.plugin_columns) != set()
        else:
            assert len(grabber.flows) == 0  # it was activated when the input was over


def test_frames_keep_their_numbers_over_a_pause() -> None:
    """T01, four frames a batch, 5 to 8 pass by: the flow has 1 to 4, 9 and 10."""
    monitor = monitor_of("T01")
    grabber, other = grabber_of(monitor, "(ip,4)", tracer={}), grabber_of(monitor)
    grabber.activate()
    other.activate()
    monitor.step()
    grabber.pause()
    monitor.step()
    grabber.activate()
    monitor.run()
    assert frames_of(grabber.flows) == [[1, 2, 3, 4, 9, 10]]


def test_what_is_cut_off_is_not_looked_at() -> None:
    """Behind (truncate,30) no port is left of 14 octets of Ethernet and 20 of IPv4."""
    monitor = monitor_of("T01")
    grabber = grabber_of(monitor, "(ip,4) -> (truncate,30)", tracer={})
    grabber.activate()
    monitor.run()
    assert grabber.account.verdicts[Verdict.TRUNCATED_IP] == 10


def test_flows_go_to_a_function_and_to_sinks_as_they_end() -> None:
    said: list[Any] = []
    steps: list[int] = []

    class Sink:
        def take(self, step: Step) -> None:
            steps.append(-1 if step.batch is None else len(step.batch.frames))

    monitor = monitor_of("T01")
    grabber = grabber_of(monitor, "(ip,4)", tracer={"on_flow_end": said.append, "sinks": [Sink()]})
    grabber.activate()
    monitor.run()
    assert steps == [4, 4, 2, -1]
    assert [(flow.packets, flow.end_cause) for flow in said] == [(10, EndCause.FIN)]
    with pytest.raises(UsageError, match="keeps no flows"):
        _ = grabber.flows
    with pytest.raises(UsageError, match="has no tracer"):
        _ = grabber_of(monitor).account


def test_closing_ends_the_flows_and_says_so() -> None:
    said: list[Any] = []
    monitor = monitor_of("T01")
    with grabber_of(monitor, "(ip,4)", tracer={"on_flow_end": said.append}):
        monitor.step()
        assert said == []
    assert [(flow.packets, flow.end_cause) for flow in said] == [(4, EndCause.END_OF_INPUT)]


def test_a_sink_may_close_its_grabber_behind_whose_step_it_ends() -> None:
    steps: list[bool] = []

    class Sink:
        def take(self, step: Step) -> None:
            steps.append(step.batch is None)
            grabber.close()

    monitor = monitor_of("T01")
    other = grabber_of(monitor)
    grabber = grabber_of(monitor, "(ip,4)", tracer={"sinks": [Sink()], "keep": True})
    grabber.activate()
    other.activate()
    monitor.run()
    assert steps == [False, True]
    assert frames_of(grabber.flows) == [[1, 2, 3, 4]]
    assert other.waiting == 10


def test_a_sink_that_fails_closes_its_grabber_alone() -> None:
    class Full:
        def take(self, step: Step) -> None:
            raise OSError("the disk is full")

    monitor = monitor_of("T01")
    broken, other = grabber_of(monitor, "(ip,4)", tracer={"sinks": [Full()]}), grabber_of(monitor)
    broken.activate()
    other.activate()
    monitor.run()
    assert (broken.state, other.waiting) == (GrabberState.CLOSED, 10)
    assert isinstance(broken.error, TraceflowError)
    assert "the disk is full" in str(broken.error)


def test_a_function_that_raises_is_a_warning_and_hears_of_the_next_flow() -> None:
    said: list[int] = []

    def broken(flow: Any) -> None:
        said.append(flow.number)
        raise KeyError("a mistake of the user")

    monitor = monitor_of("http")
    grabber_of(monitor, "(port,80)", tracer={"on_flow_end": broken}).activate()
    with pytest.warns(CallbackWarning, match="a mistake of the user"):
        monitor.run()
    assert sorted(said) == [1, 2]


def test_time_goes_on_where_no_frame_comes() -> None:
    """One datagram, then a quiet link: an hour later its flow has ended by its timeout, before the input does."""
    lab = Lab()
    said: list[Any] = []
    batch = batches_of("http", 1)[6]
    lab.put(batch)
    lab.quiet(int(batch.frames[0]["time_ns"]) + 3600 * 10**9)
    monitor = Monitor({"eth0": lab})
    grabber = monitor.instantiate(FlowSpec.parse("(ip,4)", parameters={"tracer": {"on_flow_end": said.append}}))
    grabber.activate()
    monitor.step()
    assert said == []
    monitor.step()
    assert [flow.end_cause for flow in said] == [EndCause.IDLE]


def test_two_captures_are_traced_as_one_after_the_other(fixtures_folder: Path) -> None:
    names = ("T11a", "T11b")
    paths = {name: fixtures_folder / f"{name}.pcap" for name in names}
    monitor = Monitor(paths)
    grabber = grabber_of(monitor, "(ip,4)", tracer={})
    grabber.activate()
    monitor.run()
    assert frames_of(grabber.flows) == frames_of(trace(*paths.values()))
