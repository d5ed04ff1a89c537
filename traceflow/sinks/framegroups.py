"""The frames of a step, by the file that they go to: for what is written as frames come.

Of a batch all octets are there. A fragment of an earlier batch that belongs to a flow after all (`Step.late`) has its
octets here: those of all fragments that may yet be released are kept, within bounds, since the flow table keeps none.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from traceflow.decode import decode_batch
from traceflow.packets import FRAGMENT, FRAME, PACKET, Batch, Verdict
from traceflow.pipeline import Step
from traceflow.table import FROM_UPPER

__all__ = ["FrameGroups", "Group", "StepFrames"]

_WAITING_FRAMES = 4096
"""As many as wait in `fragments.py`: the one that falls out there is the one that falls out here."""
_WAITING_OCTETS = 64 << 20


@dataclasses.dataclass(slots=True)
class StepFrames:
    """The frames of a step that belong to flows, in the order in which the flow table was shown them.

    Attributes:
        octets: uint8[n], where their octets are.
        frames: FRAME[m], `start` counts in `octets`.
        packets: PACKET[m] as decoded, without what other fragments tell of them.
        numbers: uint64[m], numbers of the frames.
        flows: uint64[m], numbers of their flows.
        directions: uint8[m], as in MARK.
        ends: PACKET[m] that have the ends of the flow.
    """

    octets: npt.NDArray[np.uint8]
    frames: npt.NDArray[np.void]
    packets: npt.NDArray[np.void]
    numbers: npt.NDArray[np.uint64]
    flows: npt.NDArray[np.uint64]
    directions: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.void]


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The frames of a step that go to the files of one flow, or of one direction of it.

    Attributes:
        key: Number of the flow, doubled; plus one for the upper end of a direction.
        first: The one that was handled first, an index into StepFrames.
        places: All, in the order of their numbers.
    """

    key: int
    first: int
    places: npt.NDArray[np.intp]


class FrameGroups:
    """Sorts the frames of steps, and keeps the octets of fragments that wait.

    Args:
        by_direction: Each direction of a flow is a group; else a flow is.
        outer: As in the Options of the run.
        waiting_octets: What may be kept of fragments that wait; the oldest make room.

    Attributes:
        lost: Late fragments whose octets were no longer there.
    """

    def __init__(self, *, by_direction: bool, outer: bool, waiting_octets: int = _WAITING_OCTETS) -> None:
        self._by_direction, self._outer, self._most_octets = by_direction, outer, waiting_octets
        self._waiting: OrderedDict[int, tuple[npt.NDArray[np.void], bytes]] = OrderedDict()
        self._waiting_octets = 0
        self.lost = 0

    def frames_of(self, step: Step) -> StepFrames | None:
        """The frames of a step that belong to flows; None where there are none. Copies, but for the octets."""
        batch = step.batch
        if batch is None or not len(batch.frames):
            return None
        at = np.flatnonzero(step.marks["flow"])
        found = StepFrames(
            batch.octets,
            batch.frames[at],
            step.packets[at],
            at.astype(np.uint64) + np.uint64(batch.first_number),
            step.marks["flow"][at],
            step.marks["direction"][at],
            step.packets[at],
        )
        if len(step.late):
            found = self._with_late(found, step, batch)
        self._keep(batch, step.packets)
        fragments = np.flatnonzero(found.packets["bits"] & FRAGMENT)
        if len(fragments):  # what the first one told the later ones is not in their own octets
            rows = np.zeros(len(fragments), PACKET)
            found.packets[fragments] = decode_batch(found.octets, found.frames[fragments], rows, outer=self._outer)
        return found if len(found.frames) else None

    def _with_late(self, found: StepFrames, step: Step, batch: Batch) -> StepFrames:
        """Enter the late fragments, each behind the frame that released it."""
        frames, kept, octets = [], [], [found.octets]
        size = len(found.octets)
        for place, number in enumerate(step.late["number"].tolist()):
            if number >= batch.first_number:
                at = number - batch.first_number
                frames.append(batch.frames[at : at + 1])
            elif number in self._waiting:
                frame, content = self._waiting.pop(number)
                self._waiting_octets -= len(content)
                frame["start"] = size
                frames.append(frame)
                octets.append(np.frombuffer(content, np.uint8))
                size += len(content)
            else:
                self.lost += 1
                continue
            kept.append(place)
        late = step.late[kept]
        ends = step.packets[late["behind"].astype(np.intp) - batch.first_number]
        order = np.argsort(np.concatenate([found.numbers, late["behind"]]), kind="stable")
        return StepFrames(
            np.concatenate(octets) if len(octets) > 1 else found.octets,
            np.concatenate([found.frames, *frames])[order],
            np.concatenate([found.packets, ends])[order],
            np.concatenate([found.numbers, late["number"]])[order],
            np.concatenate([found.flows, late["flow"]])[order],
            np.concatenate([found.directions, late["direction"]])[order],
            np.concatenate([found.ends, ends])[order],
        )

    def _keep(self, batch: Batch, packets: npt.NDArray[np.void]) -> None:
        """Keep the fragments of a batch that belong to no flow yet."""
        waiting = np.flatnonzero(packets["verdict"] == Verdict.FRAGMENT_WITHOUT_PORTS)
        for at in waiting[-_WAITING_FRAMES:].tolist():
            frame = np.zeros(1, FRAME)
            frame[0] = batch.frames[at]
            start = int(frame[0]["start"])
            content = bytes(batch.octets.data[start : start + int(frame[0]["captured"])])
            self._waiting[batch.first_number + at] = frame, content
            self._waiting_octets += len(content)
        while len(self._waiting) > _WAITING_FRAMES or self._waiting_octets > self._most_octets:
            _, (_, content) = self._waiting.popitem(last=False)
            self._waiting_octets -= len(content)

    def groups(self, found: StepFrames) -> Iterator[Group]:
        """The groups of a step: flow by flow, and of a flow first what was handled first."""
        upper = (found.directions & FROM_UPPER != 0) & self._by_direction
        keys = (found.flows << np.uint64(1)) | upper
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        behind = np.append(starts[1:], len(ordered))
        firsts = order[starts]
        for group in np.lexsort((firsts, ordered[starts] >> np.uint64(1))).tolist():
            places = order[starts[group] : behind[group]]
            by_number = places[np.argsort(found.numbers[places], kind="stable")]
            yield Group(int(ordered[starts[group]]), int(firsts[group]), by_number)
