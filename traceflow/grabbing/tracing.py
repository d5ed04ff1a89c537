"""The flow table that a grabber feeds: an Engine of its own, with its own profile, plugins and sinks.

It is shown whole batches, with the packets that were grabbed marked, so that frames keep their numbers. Batches that
passed while the grabber was paused are frames without a flow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from traceflow.filters.contract import Selection
from traceflow.flows import Account, Flow, FlowSet
from traceflow.grabbing.flowspec import TracerSpec
from traceflow.options import options_for
from traceflow.packets import Batch
from traceflow.pipeline import Engine, FlowCollector, Step, plugin_set
from traceflow.table import MARK

__all__ = ["GrabberTracer"]

_PASSED = np.zeros(1 << 16, MARK)  # frames that passed by, so many at a time


class GrabberTracer:
    """Traces what a grabber grabs.

    Args:
        spec: Profile, plugins, and where flows go.

    Attributes:
        ended: Flows that have ended and were not said to `on_flow_end` yet.

    Raises:
        UsageError: An unknown profile, option or plugin.
    """

    def __init__(self, spec: TracerSpec) -> None:
        self._spec = spec
        self._engine = Engine(options_for(spec.profile, **spec.options), plugin_set(spec.plugins))
        self._collector = FlowCollector(self._engine)
        self._stepping = self._over = self._finished = False
        self.ended: deque[Flow] = deque()

    def take(self, batch: Batch, selection: Selection | None) -> None:
        """Trace what was grabbed of a batch.

        Args:
            batch: The frames, numbered over all devices; or that time went on.
            selection: The packets that were grabbed; None: none.
        """
        if self._over:
            return
        if batch.quiet_ns is not None:
            self._run(lambda: self._engine.step(batch))
            return
        keep = np.zeros(len(batch.frames), np.bool_)
        if selection is not None:
            keep[selection.indexes] = True
            batch = _cut(batch, selection)
        if self._spec.keeps:
            while (missing := batch.first_number - 1 - self._collector.frame_map.frames) > 0:
                self._collector.frame_map.add(_PASSED[:missing], 0)
        self._run(lambda: self._engine.step(batch, keep))

    def end(self) -> None:
        """End all flows. Within a step, of which a sink may be the caller, behind that step."""
        self._over = True
        if not self._stepping and not self._finished:
            self._finished = True
            self._show(self._engine.end())

    def _run(self, make: Callable[[], Step]) -> None:
        self._stepping = True
        try:
            self._show(make())
        finally:
            self._stepping = False
        if self._over:
            self.end()

    def _show(self, step: Step) -> None:
        if self._spec.keeps:
            self._collector.take(step)
        for sink in self._spec.sinks:
            sink.take(step)
        if self._spec.on_flow_end is not None and len(step.ended):
            self.ended.extend(self._collector.ended(step))

    @property
    def flows(self) -> FlowSet:
        """The flows that have ended so far, in opening order."""
        return self._collector.flows()

    @property
    def account(self) -> Account:
        """What became of every frame so far."""
        return self._engine.account()


def _cut(batch: Batch, selection: Selection) -> Batch:
    """A batch whose grabbed frames were captured as far as they may be looked at."""
    if selection.limit is None:
        return batch
    frames: npt.NDArray[np.void] = batch.frames.copy()
    captured = frames["captured"][selection.indexes]
    frames["captured"][selection.indexes] = np.minimum(captured, selection.limit)
    return Batch(batch.octets, frames, batch.first_number, batch.first_in_file)
