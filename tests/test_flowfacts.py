"""The filter `flow`: what it reads of the flow table's facts."""

from __future__ import annotations

import pytest
from batches import passes, seen_of, tcp_frame, udp_frame

from traceflow import states
from traceflow.errors import UsageError
from traceflow.filters import flowfacts
from traceflow.filters.contract import Seen
from traceflow.filters.kinds import make_call, needs_flows, runner_of
from traceflow.filters.running import of_batch

A, B = "10.0.0.1", "10.0.0.2"
S = 10**9


def seen() -> Seen:
    """A TCP flow 1 from A, a UDP flow 2 over IPv6, a frame without flow, an echo of flow 3."""
    return seen_of(
        [
            tcp_frame(A, B, 1000, 80),  # 0: first of flow 1, from the originator
            tcp_frame(B, A, 80, 1000),  # 1: second, back
            tcp_frame(A, B, 1000, 80),  # 2: third, 5 s after the first
            udp_frame(
                "2001:db8::1", "2001:db8::2", 53, 5353
            ),  # 3: 12th of flow 2, which began 1 ns later than 10 s ago
            udp_frame(A, B, 1, 2),  # 4: no flow
        ],
        times_ns=[100 * S, 101 * S, 105 * S, 106 * S, 107 * S],
        facts=[
            (1, 1, 100 * S, states.SYN_SENT, 0),
            (1, 2, 100 * S, states.ESTABLISHED, 1),
            (1, 3, 100 * S, states.ESTABLISHED, 0),
            (2, 12, 96 * S + 1, 0, 0),
            (0, 0, 0, 0, 0),
        ],
    )


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("packets > 2", [2, 3]),
        ("packets >= 2", [1, 2, 3]),
        ("packets < 3", [0, 1]),
        ("packets <= 3 and packets != 2", [0, 2]),
        ("packets = 12", [3]),
        ("duration >= 5s", [2, 3]),
        ("duration > 5s", [3]),
        ("duration >= 10s", []),  # 106 s - 96.000000001 s
        ("duration < 1s", [0]),
        ("state == established", [1, 2]),
        ("state != established", [0]),  # of TCP only
        ("state == unseen", []),
        # labels are A_1000-B_80-time for both directions, and begin with the protocol unless that is TCP
        ("label ~ 10.0.0.1_1000-10.0.0.2_80-*", [0, 1, 2]),
        ("label ~ *-100.000000", [0, 1, 2]),
        ("label ~ UDP_2001.db8..1_53-*", [3]),
        ("label !~ UDP_*", [0, 1, 2]),
        ("label ~ 10.0.0.2*", []),
        ("label ~ [!1]*", [3]),
        ("label ~ * and packets > 1 and state == established and duration < 5s", [1]),
    ],
)
def test_which_packets_fulfil_the_terms(terms: str, expected: list[int]) -> None:
    text = f'(flow,"{terms}")'
    assert passes(text, seen()) == expected
    assert passes(f"~{text}", seen()) == [number for number in range(5) if number not in expected]


def test_the_names_of_states_are_those_of_their_numbers() -> None:
    named = {name: getattr(states, name.upper()) for name in flowfacts.STATES[:-1]}
    assert list(named.values()) == list(range(7))
    assert len(flowfacts.STATES) - 1 == states.ABORTED_AFTER_FIN


def test_a_label_is_found_once_a_flow_and_the_memory_of_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    label = flowfacts._label
    monkeypatch.setattr(flowfacts, "_label", lambda *rows: found.append(int(rows[2]["flow"])) or label(*rows))
    monkeypatch.setattr(flowfacts, "LABELS_MAX", 1)
    runner = runner_of(make_call("flow", "label ~ 10.*"))
    for _ in range(2):
        assert runner.run(seen(), of_batch(5)).indexes.tolist() == [0, 1, 2]
    # flow 1 is forgotten when 2 comes, and 2 when 1 comes again
    assert found == [1, 2, 1, 2]
    monkeypatch.setattr(flowfacts, "LABELS_MAX", 2)
    runner = runner_of(make_call("flow", "label ~ 10.*"))
    for _ in range(2):
        runner.run(seen(), of_batch(5))
    assert found == [1, 2, 1, 2, 1, 2]


def test_a_flow_that_turns_has_another_label() -> None:
    frame = tcp_frame(B, A, 80, 1000)
    runner = runner_of(make_call("flow", "label ~ 10.0.0.2*"))
    before = seen_of([frame], facts=[(1, 1, 0, 0, 0)])  # the sender B is taken for the originator
    after = seen_of([frame], facts=[(1, 2, 0, 0, 1)])  # a SYN has shown that it is the responder
    assert len(runner.run(before, of_batch(1))) == 1
    assert len(runner.run(after, of_batch(1))) == 0


def test_the_order_of_ends_is_that_of_the_whole_address() -> None:
    pairs = [(A, B, 1, 2), (B, A, 1, 2), (A, A, 1, 2), (A, A, 2, 1), ("::1", "1::", 1, 1), ("1::", "::1", 1, 1)]
    packets = seen_of([udp_frame(*pair) for pair in pairs]).packets
    assert flowfacts._from_lower(packets).tolist() == [True, False, True, False, True, False]


def test_all_spellings_have_one_form() -> None:
    spellings = ("packets>10 and state==Established", " state = established  and  packets > 010 and packets>10")
    assert {make_call("flow", one).parameter for one in spellings} == {"packets > 10 and state == established"}
    assert make_call("flow", "duration<0.5").parameter == "duration < 500ms"
    assert needs_flows(make_call("flow", "packets > 1"))


@pytest.mark.parametrize(
    ("terms", "at", "says"),
    [
        ("", 0, "unknown fact"),
        ("packet > 3", 0, "Did you mean packets"),
        ("packets ~ 3", 8, "may stand >="),
        ("packets 3", 8, "may stand >="),
        ("packets > x", 10, "not 'x'"),
        ("packets > 3 or packets < 2", 10, "not '3 or packets < 2'"),
        ("packets > 3 and", 10, "not '3 and'"),
        ("packets > 3 and state == establisht", 25, "Did you mean established"),
        ("state > established", 6, "may stand ==, !="),
        ("duration > 5x", 11, "a duration is"),
        ("label ~", 7, "a pattern has"),
        ("label ~ a b", 8, "no blanks"),
        ("label ~ " + "a" * 257, 8, "1 to 256 characters"),
        (" and ".join(f"packets > {number}" for number in range(33)), 0, "at most 32 terms"),
    ],
)
def test_wrong_terms(terms: str, at: int, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        make_call("flow", terms)
    if terms:
        assert str(raised.value).split("\n")[-1].index("^") - 2 == min(at, 63)


def test_without_a_flow_table_nothing_is_made_up() -> None:
    with pytest.raises(RuntimeError, match="no flow table"):
        passes("(flow,packets > 1)", seen_of([udp_frame(A, B, 1, 2)]))
