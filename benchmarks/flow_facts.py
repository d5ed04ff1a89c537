"""What is said about flows, and whether two accounts of a capture agree.

An account is a list of flows, by whatever tool or by hand count. Tools tell different things about a flow: both
accounts are reduced to the facts that the tool states, and must then be equal as collections, in any order. A tool that
writes one record a direction is held against the directions of the expected flows. Nothing here runs a tool.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

End = tuple[str, int]
Pair = tuple[int, int]

FACTS = ("ends", "packets", "originator", "payload", "frames", "end")
"""In the order in which they are compared: protocol and ends; frames a direction; who is the originator; payload octets
a direction; numbers of the frames a direction; why it ended."""

WITH_PORTS = {6, 17, 33, 132, 136}
"""TCP, UDP, DCCP, SCTP, UDP-Lite. What tools put in the place of ports for other protocols is not compared."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow as somebody states it.

    Attributes:
        protocol: IANA number.
        orig: Address and port of the originator, or of the end that is named first.
        resp: The same of the other end.
        packets: Frames that `orig` and `resp` sent.
        payload: Octets behind the layer-4 header that they sent; None where it is not told.
        frames: Numbers of the frames that they sent; None where it is not told.
        end: Why it ended, in the words of the fixtures; None where it is not told.
    """

    protocol: int
    orig: End
    resp: End
    packets: Pair
    payload: Pair | None = None
    frames: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    end: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """All that a tool says about a capture: its flows, and its complaint about the file where it has one."""

    flows: list[Flow] = field(default_factory=list)
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Outcome of a comparison.

    Attributes:
        right: Nothing that was said is wrong, and the number of flows is as expected.
        flows: How many flows (or directions) were stated.
        wrong: The first fact that differs: `number`, one of FACTS, `no error`; empty when right.
        equal: How many of the expected flows are there with all facts.
    """

    right: bool
    flows: int
    wrong: str
    equal: int


def end(address: str, port: int | str) -> End:
    """One end of a flow, the address in its shortest form."""
    return str(ipaddress.ip_address(address)), int(port)


def expected_flows(case: dict[str, Any]) -> list[Flow]:
    """The hand count of a case of expected.json."""
    return [
        Flow(
            flow["protocol"],
            end(*flow["orig"]),
            end(*flow["resp"]),
            (len(flow["orig_frames"]), len(flow["resp_frames"])),
            None if flow.get("payload_octets") is None else (flow["payload_octets"][0], flow["payload_octets"][1]),
            (tuple(flow["orig_frames"]), tuple(flow["resp_frames"])),
            flow["cause"],
        )
        for flow in case["flows"]
    ]


def directions(flows: Iterable[Flow]) -> list[Flow]:
    """Each direction that has frames, as a flow of its own."""
    found = []
    for flow in flows:
        for side in (0, 1):
            if flow.packets[side]:
                ends = (flow.orig, flow.resp) if side == 0 else (flow.resp, flow.orig)
                payload = None if flow.payload is None else (flow.payload[side], 0)
                frames = None if flow.frames is None else (flow.frames[side], ())
                found.append(Flow(flow.protocol, *ends, (flow.packets[side], 0), payload, frames, flow.end))
    return found


def reduced(flow: Flow, facts: Sequence[str]) -> tuple[Any, ...]:
    """A flow with nothing but some facts, in a form that can be compared."""
    sides = []
    for side, (address, port) in enumerate((flow.orig, flow.resp)):
        told: list[Any] = [address, port if flow.protocol in WITH_PORTS else 0]
        told += [flow.packets[side]] if "packets" in facts else []
        told += [flow.payload[side]] if "payload" in facts and flow.payload else []
        told += [flow.frames[side]] if "frames" in facts and flow.frames else []
        sides.append(tuple(told))
    if "originator" not in facts or flow.orig == flow.resp:
        sides.sort()
    return flow.protocol, *sides, flow.end if "end" in facts else None


def judge(expected: Sequence[Flow], said: Account, facts: Sequence[str], *, error: bool, one_way: bool) -> Judgement:
    """Hold an account against the hand count.

    Args:
        expected: The hand count.
        said: What the tool says.
        facts: Those of FACTS that the tool tells and that are compared in this case.
        error: The file is damaged, and this has to be said.
        one_way: The tool states directions, not flows.
    """
    hand = directions(expected) if one_way else list(expected)
    if any(flow.payload is None for flow in hand):
        facts = [fact for fact in facts if fact != "payload"]
    told = [fact for fact in FACTS if fact in facts]
    common = Counter(reduced(flow, told) for flow in hand) & Counter(reduced(flow, told) for flow in said.flows)
    wrong = "" if len(hand) == len(said.flows) else "number"
    for upto in range(1, len(told) + 1):
        if not wrong and Counter(reduced(f, told[:upto]) for f in hand) != Counter(
            reduced(f, told[:upto]) for f in said.flows
        ):
            wrong = told[upto - 1]
    if not wrong and error and not said.complaint:
        wrong = "no error"
    return Judgement(not wrong, len(said.flows), wrong, common.total())
