"""The filter `device`: packets of one interface or capture. It begins a path."""

from __future__ import annotations

import numpy as np

from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import DEVICE, Call

__all__ = ["DEVICE_KIND"]

_NAME_MAX = 4096  # octets of a path on Linux; names of interfaces have 15


def _canonical(parameter: str) -> str:
    """The name as it is: names of files may hold anything but NUL."""
    if not parameter.strip():
        raise ParameterError("a device needs its name: an interface such as eth0, or the name of a capture")
    if "\0" in parameter:
        raise ParameterError("no name of a device holds a NUL", parameter.index("\0"))
    if len(parameter) > _NAME_MAX:
        raise ParameterError(f"the name of a device has at most {_NAME_MAX} characters", _NAME_MAX)
    return parameter


class _Runner:
    __slots__ = ("_name",)

    def __init__(self, call: Call) -> None:
        self._name = call.parameter

    def run(self, seen: Seen, given: Selection) -> Selection:
        """All where the batch comes from the device, none where it does not."""
        return given if seen.device == self._name else Selection(np.zeros(0, np.uint32))

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


DEVICE_KIND = Kind(DEVICE, "packets of an interface, or of a capture", "NAME", _canonical, _Runner)
