"""Functions of users as filters, under a name of their own: in texts and policies they stand like any other.

A plain function is called once a batch, with arrays, and answers with a mask. A compiled one is called for each packet
as machine code, and answers yes or no. Both are shown copies: what they write is lost. What a function does wrong (it
raises, or answers something else) is a FilterError that names it, and closes the graphs that it stands in.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from traceflow.compiled import compile_test
from traceflow.errors import FilterError, UsageError
from traceflow.filters.contract import Kind, ParameterError, Seen, Selection
from traceflow.filters.graph import Call
from traceflow.filters.kinds import register
from traceflow.filters.running import narrowed
from traceflow.packets import FRAME, PACKET

__all__ = ["register_function"]

_NUMBER = 2**63
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What Numba puts into its messages for terminals."""

_registered: dict[str, tuple[Callable[..., Any], bool, Kind]] = {}


def register_function(name: str, function: Callable[..., Any], compiled: bool = False) -> Kind:
    """Have a function stand in graphs as `(name,parameter)`.

    Args:
        name: Letters, digits and underscores; no filter that comes with traceflow, and no other function, may have it.
        function: Plain: `f(frames, packets, octets)` or `f(frames, packets, octets, parameter)` with FRAME[k],
            PACKET[k] of the packets that came, the buffer uint8[n] in which frame i lies from `frames["start"][i]` on,
            `frames["captured"][i]` octets long, and the parameter as text; gives bool[k]. Compiled:
            `f(frame, packet, octets)` or `f(frame, packet, octets, number)` with two records, the octets of the frame
            and the parameter as a whole number; gives a bool.
        compiled: Whether Numba compiles it, now.

    Returns:
        Its kind. Registering the same function again gives the same one.

    Raises:
        UsageError: The name is taken or none, or the function takes other arguments or cannot be compiled.
    """
    plain = getattr(function, "py_func", function)
    if name in _registered and _registered[name][:2] == (plain, compiled):
        register(_registered[name][2])
        return _registered[name][2]
    if not callable(plain):
        raise UsageError(f"{plain!r} is no function; the filter {name!r} needs one")
    told = _takes(plain, 4)
    if not told and not _takes(plain, 3):
        raise UsageError(f"the function of the filter {name!r} must take (frames, packets, octets[, parameter])")
    if compiled:
        kind = _compiled_kind(name, plain, told)
    else:
        kind = Kind(name, f"the function {name}", "TEXT" if told else "", lambda parameter: parameter,
                    lambda call: _Plain(call, plain), predicate=True)  # fmt: skip
    register(kind)
    _registered[name] = plain, compiled, kind
    return kind


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _compiled_kind(name: str, function: Callable[..., Any], told: bool) -> Kind:
    if not hasattr(function, "__code__"):
        raise UsageError(f"the filter {name!r} is to be compiled, so it must be a function, not {function!r}")
    try:
        kernel = compile_test(function, FRAME, PACKET)
    except Exception as error:  # whatever Numba raises of a user's code
        raise UsageError(f"the function of the filter {name!r} cannot be compiled: {_first_line(error)}") from error

    def canonical(parameter: str) -> str:
        if not told:
            return ""
        try:
            number = int(parameter if len(parameter) <= 20 else "")
            if not -_NUMBER <= number < _NUMBER:
                raise ValueError
        except ValueError:
            raise ParameterError(f"{name} needs a whole number of 64 bits") from None
        return str(number)

    return Kind(name, f"the compiled function {name}", "NUMBER" if told else "", canonical,
                lambda call: _Compiled(call, kernel), predicate=True)  # fmt: skip


def _first_line(error: Exception) -> str:
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"


class _Shown:
    """What functions are shown, as copies: rows of the packets that came, frames as long as may be looked at."""

    __slots__ = ("frames", "octets", "packets")

    def __init__(self, seen: Seen, given: Selection) -> None:
        self.frames, self.packets = seen.batch.frames[given.indexes], seen.packets[given.indexes]
        if given.limit is not None:
            self.frames["captured"] = np.minimum(self.frames["captured"], given.limit)
        self.octets = seen.batch.octets.view()
        self.octets.flags.writeable = False


class _Plain:
    __slots__ = ("_call", "_function", "_told")

    def __init__(self, call: Call, function: Callable[..., Any]) -> None:
        self._call, self._function = call, function
        self._told = (call.parameter,) if call.parameter or not _takes(function, 3) else ()

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets that the function means."""
        shown = _Shown(seen, given)
        try:
            answer = self._function(shown.frames, shown.packets, shown.octets, *self._told)
        except Exception as error:  # whatever a user's function raises closes its graph, not the program
            raise _failure(self._call, error) from error
        return narrowed(given, _mask(self._call, answer, len(given)))

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


def _failure(call: Call, error: Exception) -> FilterError:
    return FilterError(f"the function of the filter {call.text} raised {type(error).__name__}: {error}")


def _mask(call: Call, answer: Any, count: int) -> npt.NDArray[np.bool_]:
    """What a function answered, if it is what it should be."""
    if not isinstance(answer, np.ndarray) or answer.dtype != np.bool_ or answer.shape != (count,):
        was = f"an array of {answer.dtype}{list(answer.shape)}" if isinstance(answer, np.ndarray) else repr(answer)[:80]
        raise FilterError(f"the function of the filter {call.text} must give an array of bool[{count}], and gave {was}")
    return answer


class _Compiled:
    __slots__ = ("_call", "_kernel", "_number")

    def __init__(self, call: Call, kernel: Callable[..., None]) -> None:
        self._call, self._kernel, self._number = call, kernel, int(call.parameter or 0)

    def run(self, seen: Seen, given: Selection) -> Selection:
        """The packets of which the function says yes."""
        shown, found = _Shown(seen, given), np.zeros(len(given), np.bool_)
        try:
            self._kernel(shown.frames, shown.packets, shown.octets, self._number, found)
        except Exception as error:  # as above; an octet behind the frame is an IndexError
            raise _failure(self._call, error) from error
        return narrowed(given, found)

    def counters(self) -> dict[str, int]:
        """It counts nothing."""
        return {}
