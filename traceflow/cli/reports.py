"""The end report, and the lines of a run that is watched: words on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.cli.messages import note
from traceflow.labels import time_text
from traceflow.pipeline import Run

__all__ = ["Report", "watch"]

_SIDES = ("orig", "resp")
_COUNTED = ("packets", "wire_octets", "ip_octets", "payload_octets")


class Report:
    """Sums over the flows of a run, and what the plugins say at its end."""

    def __init__(self) -> None:
        self._flows = 0
        self._alarms = 0
        self._spoke = dict.fromkeys(_SIDES, 0)
        self._sums = {(side, name): 0 for side in _SIDES for name in _COUNTED}

    def add(self, flows: npt.NDArray[np.void]) -> None:
        """Add FLOW[k]."""
        self._flows += len(flows)
        self._alarms += int(flows["alarm"].sum())
        for side in _SIDES:
            self._spoke[side] += int(np.count_nonzero(flows[side]["packets"]))
            for name in _COUNTED:
                self._sums[side, name] += int(flows[side][name].sum())

    def lines(self, run: Run) -> list[str]:
        """The report.

        Args:
            run: After its last step.
        """
        account = run.account()
        flows, directions = run.table.most_live
        lines = [
            f"report: {self._flows} flows, {sum(self._spoke.values())} directions with packets"
            f" ({self._spoke['orig']} of originators (A), {self._spoke['resp']} of responders (B))"
        ]
        for name in _COUNTED:
            sent, back = self._sums["orig", name], self._sums["resp", name]
            asymmetry = (sent - back) / (sent + back) if sent + back else 0.0
            lines.append(f"  {name.replace('_', ' ')}: A {sent}, B {back}, asymmetry {asymmetry:.6f}")
        lines.append(f"  frames in flows: {account.in_flows} of {account.frames}")
        lines.append(f"  flows live at most: {flows}, directions of flows: {directions}")
        lines.append(f"  flows with an alarm: {self._alarms}")
        for plugin, said in run.plugins.report().items():
            lines += [f"  {plugin}: {line}" for line in said]
        return lines


def watch(run: Run, interval_ns: int) -> None:
    """Have a line said for each interval of packet time.

    Args:
        run: Before its first step.
        interval_ns: The interval.
    """

    def say(now_ns: int, said: Mapping[str, Mapping[str, Any]]) -> None:
        parts = [f"frames {run.table.handled}", f"flows opened {run.table.opened}", f"live {run.table.live}"]
        for plugin, values in said.items():
            parts += [f"{plugin} {name} {value}" for name, value in values.items()]
        note(f"monitor {time_text(now_ns, 0)}: {', '.join(parts)}")

    run.monitor(interval_ns, say)
