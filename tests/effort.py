"""How much a test does, which depends on where it runs: kernels compiled or plain, all examples or those of one Python.

What must not live here: what a test is about.
"""

from __future__ import annotations

import os

from traceflow.compiled import COMPILED

__all__ = ["ELSEWHERE", "examples"]

ELSEWHERE: bool = os.environ.get("TRACEFLOW_ONCE") == "elsewhere"
"""Tests marked `once` are left to another environment, and most examples too."""


def examples(every: int, plain: int) -> int:
    """How many examples hypothesis tries.

    Args:
        every: All of them, in the environment that has the tests marked `once` as well. The others, which see whether
            their Python differs, have three of ten.
        plain: With plain kernels, which are some hundred times slower.
    """
    return plain if not COMPILED else every * 3 // 10 if ELSEWHERE else every
