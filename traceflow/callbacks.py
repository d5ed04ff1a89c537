"""Functions of users that are called when a flow ends: each once for each flow, and none of them can lose one.

What a callback raises becomes a CallbackWarning. What is to be said waits in a queue while a callback runs, so that a
callback may do anything to what calls it: feed it, end it, register another callback.
"""

from __future__ import annotations

import traceback
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["CallbackWarning", "Callbacks"]

T = TypeVar("T")


class CallbackWarning(UserWarning):
    """A callback raised; its flow is among the others all the same, and tracing goes on."""


class Callbacks(Generic[T]):
    """Callbacks that are given the same things.

    Args:
        name_of: What a warning calls a thing.
    """

    def __init__(self, name_of: Callable[[T], str]) -> None:
        self._name_of = name_of
        self._functions: list[Callable[[T], Any]] = []
        self._waiting: deque[tuple[Callable[[T], Any], T]] = deque()
        self._busy = False

    def register(self, function: Callable[[T], Any]) -> None:
        """Have a function called with each thing that comes from now on."""
        self._functions.append(function)

    def call(self, thing: T) -> None:
        """Call all functions with a thing at once.

        Warns:
            CallbackWarning: One of them raised.
        """
        for function in tuple(self._functions):
            self._try(function, thing)

    def add(self, thing: T) -> None:
        """Have all functions called with a thing, when its turn comes: `deliver`."""
        self._waiting.extend((function, thing) for function in self._functions)

    def deliver(self) -> None:
        """Call what waits, in the order in which it was added; within a callback nothing, as the call around goes on.

        Where a callback raises what is no Exception, as Ctrl-C does, the others wait for the next call.

        Warns:
            CallbackWarning: One of them raised.
        """
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._try(*self._waiting.popleft())
        finally:
            self._busy = False

    def _try(self, function: Callable[[T], Any], thing: T) -> None:
        try:
            function(thing)
        except Exception:  # noqa: BLE001 - whatever a user's function raises must not lose flows
            what = f"callback {function!r} failed on {self._name_of(thing)}:\n{traceback.format_exc()}"
            warnings.warn(what, CallbackWarning, stacklevel=5)
