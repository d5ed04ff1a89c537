"""The filter `flow`: packets of flows of which something is true right after that packet.

    packets > 10        frames of the flow so far, this one included
    duration >= 5s      packet time since its first frame
    state == established  the TCP state of the sender of the packet, by the names of STATES
    label ~ 10.0.0.1_*  a pattern of the shell on the label of the flow

Terms are joined with `and`; a packet must fulfil all. A frame without a flow matches nothing.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.errors import suggest
from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.parameters import duration_ns, duration_text, whole_number
from traceflow.filters.running import narrowed
from traceflow.labels import address, address_text, label_text, protocol_name, time_text
from traceflow.protocols import has_ports

__all__ = ["FLOW_KIND", "LABELS_MAX", "STATES"]

STATES = (
    "unseen",
    "syn_sent",
    "syn_received",
    "midstream",
    "established",
    "fin_wait",
    "aborted",
    "aborted_after_fin",
)
"""Names of the states of an end of a TCP connection, by their numbers in `states.py`."""

LABELS_MAX = 1 << 16
"""Flows of which a filter remembers whether their label matches; the oldest are found anew when needed."""

_TERMS_MAX = 32
_PATTERN_MAX = 256

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_SIGNS = {
    "packets": (*_COMPARISONS, "="),
    "duration": (*_COMPARISONS, "="),
    "state": ("==", "!=", "="),
    "label": ("~", "!~"),
}
# Nothing in these two can fail behind a run of blanks and begin anew within it, which would take its length squared.
_TERM = re.compile(r"\s*(\w*)\s*([<>=!~]*)\s*")
_AND = re.compile(r"(?<=\s)and(?=\s)")
_TCP = 6


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Term:
    """One comparison: what, how, and with what, as text in its one form and as a value."""

    what: str
    sign: str
    text: str
    value: Any = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return f"{self.what} {self.sign} {self.text}"


def _term(text: str, at: int) -> _Term:
    match = _TERM.match(text)
    assert match is not None  # every part may be empty
    what, sign, value = match[1], match[2], text[match.end() :].rstrip()
    if what not in _SIGNS:
        raise ParameterError(suggest("fact of a flow", what, _SIGNS), at + match.start(1))
    if sign not in _SIGNS[what]:
        raise ParameterError(f"behind {what} may stand {', '.join(_SIGNS[what])}", at + match.start(2))
    at += match.end()
    sign = "==" if sign == "=" else sign
    if what == "packets":
        number = whole_number(value, "the number of packets", 0, 2**63 - 1, at)
        return _Term(what, sign, str(number), np.uint64(number))
    if what == "duration":
        time_ns = duration_ns(value, at)
        return _Term(what, sign, duration_text(time_ns), np.int64(time_ns))
    if what == "state":
        if value.lower() not in STATES:
            raise ParameterError(suggest("TCP state", value[:40], STATES), at)
        return _Term(what, sign, value.lower(), STATES.index(value.lower()))
    if not value or len(value) > _PATTERN_MAX or re.search(r"\s", value):
        raise ParameterError(f"a pattern has 1 to {_PATTERN_MAX} characters, and no blanks, as no label has any", at)
    return _Term(what, sign, value, value)


def _terms(parameter: str) -> list[_Term]:
    terms, at = set(), 0
    for separator in (*_AND.finditer(parameter), None):
        text = parameter[at : separator.start() if separator else len(parameter)]
        terms.add(_term(text, at))
        at = separator.end() if separator else at
    if len(terms) > _TERMS_MAX:
        raise ParameterError(f"at most {_TERMS_MAX} terms may be joined")
    return sorted(terms)


def _canonical(parameter: str) -> str:
    return " and ".join(map(str, _terms(parameter)))


class _LabelTest:
    """Whether the label of a flow matches a pattern; found once a flow, as long as its originator stays the same."""

    __slots__ = ("_matches", "_remembered")

    def __init__(self, pattern: str) -> None:
        self._matches = re.compile(fnmatch.translate(pattern)).match
        self._remembered: dict[int, bool] = {}

    def __call__(
        self, frames: npt.NDArray[np.void], packets: npt.NDArray[np.void], facts: npt.NDArray[np.void]
    ) -> npt.NDArray[np.bool_]:
        """bool[k] of packets that belong to flows."""
        backwards = facts["from_responder"] != 0
        # The label begins with the originator; a later SYN may show that it was taken wrongly.
        keys = facts["flow"] << np.uint64(1) | (_from_lower(packets) ^ backwards)
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        answers = np.zeros(len(distinct), np.bool_)
        for place, (key, row) in enumerate(zip(distinct.tolist(), first.tolist(), strict=True)):
            answer = self._remembered.get(key)
            if answer is None:
                answer = self._matches(_label(frames[row], packets[row], facts[row])) is not None
                if len(self._remembered) >= LABELS_MAX:
                    del self._remembered[next(iter(self._remembered))]
                self._remembered[key] = answer
            answers[place] = answer
        return answers[inverse.reshape(-1)]


def _from_lower(packets: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """bool[k], whether the sender stands before the receiver in some order of ends."""
    lower: npt.NDArray[np.bool_] = packets["src_port"] < packets["dst_port"]
    for name in ("lo", "hi"):
        source, target = packets[f"src_{name}"], packets[f"dst_{name}"]
        lower = (source < target) | ((source == target) & lower)
    return lower


def _label(frame: np.void, packet: np.void, facts: np.void) -> str:
    """The label of the flow of a packet, as far as is known now; as fine as the clock of this frame."""
    number, version = int(packet["protocol"]), int(packet["ip_version"])
    sides = ("dst", "src") if facts["from_responder"] else ("src", "dst")
    orig, resp = (address_text(address((packet[f"{side}_hi"], packet[f"{side}_lo"]), version)) for side in sides)
    orig_port, resp_port = (int(packet[f"{side}_port"]) if has_ports(number) else None for side in sides)
    time = time_text(int(facts["first_ns"]), int(frame["time_bits"]))
    return label_text(protocol_name(number), orig, orig_port, resp, resp_port, time)


class _Runner:
    __slots__ = ("_labels", "_terms")

    def __init__(self, call: Call) -> None:
        self._terms = _terms(call.parameter)
        self._labels = {term.text: _LabelTest(term.text) for term in self._terms if term.what == "label"}

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets of which all terms are true."""
        keep = seen.facts["flow"][given.indexes] != 0
        for term in self._terms:
            if not keep.any():
                break
            rows = given.indexes[keep]
            keep[keep] = self._holds(term, seen, rows)
        return narrowed(given, keep)

    def _holds(self, term: _Term, seen: Seen, rows: npt.NDArray[np.uint32]) -> Any:
        """bool[k], whether a term is true of packets that belong to flows."""
        if term.what == "packets":
            return _COMPARISONS[term.sign](seen.facts["packets"][rows], term.value)
        if term.what == "duration":
            age_ns = seen.batch.frames["time_ns"][rows] - seen.facts["first_ns"][rows]
            return _COMPARISONS[term.sign](age_ns, term.value)
        if term.what == "state":
            tcp = seen.packets["protocol"][rows] == _TCP
            return tcp & _COMPARISONS[term.sign](seen.facts["state"][rows], term.value)
        found = self._labels[term.text](seen.batch.frames[rows], seen.packets[rows], seen.facts[rows])
        return found if term.sign == "~" else ~found

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


FLOW_KIND = Kind(
    "flow",
    "packets of flows, by packets so far, duration, TCP state, label",
    "FACT SIGN VALUE [and ...]",
    _canonical,
    _Runner,
    predicate=True,
    needs_flows=True,
)
