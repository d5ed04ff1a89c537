"""The room `callbacks`: each function once for each thing, in order, whatever it does."""

from __future__ import annotations

import pytest

from traceflow.callbacks import Callbacks, CallbackWarning


def named(number: int) -> str:
    return f"thing {number}"


def test_all_functions_hear_of_each_thing_in_order() -> None:
    heard: list[tuple[str, int]] = []
    callbacks = Callbacks(named)
    callbacks.register(lambda thing: heard.append(("a", thing)))
    callbacks.register(lambda thing: heard.append(("b", thing)))
    callbacks.add(1)
    callbacks.add(2)
    assert heard == []
    callbacks.deliver()
    callbacks.deliver()
    callbacks.call(3)
    assert heard == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]


def test_a_function_hears_of_what_comes_after_it_was_registered() -> None:
    heard: list[int] = []
    callbacks = Callbacks(named)
    callbacks.add(1)
    callbacks.register(heard.append)
    callbacks.add(2)
    callbacks.deliver()
    assert heard == [2]


@pytest.mark.parametrize("queued", [True, False])
def test_what_one_raises_is_told_and_the_others_are_called(queued: bool) -> None:
    heard: list[int] = []
    callbacks = Callbacks(named)

    def fails(thing: int) -> None:
        raise ValueError(f"not {thing}")

    callbacks.register(fails)
    callbacks.register(heard.append)
    if queued:
        callbacks.add(7)
    with pytest.warns(CallbackWarning, match=r"fails.* failed on thing 7:(.|\n)*ValueError: not 7"):
        callbacks.deliver() if queued else callbacks.call(7)
    assert heard == [7]


def test_what_comes_while_a_function_runs_has_its_turn_behind_what_waits() -> None:
    heard: list[tuple[str, int]] = []
    callbacks = Callbacks(named)

    def nested(thing: int) -> None:
        heard.append(("begin", thing))
        if thing == 1:
            callbacks.add(3)
            callbacks.deliver()
        heard.append(("end", thing))

    callbacks.register(nested)
    callbacks.add(1)
    callbacks.add(2)
    callbacks.deliver()
    assert heard == [(word, thing) for thing in (1, 2, 3) for word in ("begin", "end")]


def test_an_interrupt_leaves_the_others_for_the_next_time() -> None:
    heard: list[int] = []
    callbacks = Callbacks(named)

    def interrupted(thing: int) -> None:
        heard.append(thing)
        if thing == 1:
            raise KeyboardInterrupt

    callbacks.register(interrupted)
    callbacks.register(lambda thing: heard.append(-thing))
    callbacks.add(1)
    callbacks.add(2)
    with pytest.raises(KeyboardInterrupt):
        callbacks.deliver()
    assert heard == [1]
    callbacks.deliver()
    assert heard == [1, -1, 2, -2]
