"""The one door to Numba: the decorator that every kernel uses.

House rules for kernels (their reasons stand in ARCHITECTURE.md):

- arrays in, arrays out; at most 10 arguments; structured arrays group columns;
- bounds checks are on, because captures are hostile input: a wrong index must stop the kernel;
- every index and every octet that is loaded is unsigned (`U64(...)`): a signed index costs a test for
  negative values on each load, half the speed in all;
- a record's field is read with `row["name"]`, which means the same compiled and plain;
- differences of sequence numbers go through `tcp.py` only.

With `NUMBA_DISABLE_JIT=1` the same functions run as plain Python; the tests run both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

__all__ = ["COMPILED", "U64", "inline_kernel", "kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])

U64 = np.uint64
"""The type of every index, offset and loaded octet inside a kernel."""

COMPILED: bool = not numba.config.DISABLE_JIT
"""False when `NUMBA_DISABLE_JIT=1` makes kernels run as plain Python."""


def kernel(function: _F) -> _F:
    """Compile a kernel that Python code calls (cached on disk, without the interpreter lock).

    Args:
        function: A function over arrays and integers that raises nothing.

    Returns:
        The compiled function, or, with compilation switched off, the function under an error state
        in which unsigned arithmetic wraps without a warning, as it does compiled.
    """
    if COMPILED:
        compiled = numba.njit(cache=True, nogil=True, boundscheck=True, error_model="numpy")(function)
        return cast(_F, compiled)

    @functools.wraps(function)
    def plain(*args: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*args)

    return cast(_F, plain)


def inline_kernel(function: _F) -> _F:
    """Compile a piece of a kernel that only other kernels call; LLVM inlines it where it pays."""
    if not COMPILED:
        return function
    return cast(_F, numba.njit(cache=True, nogil=True, boundscheck=True, error_model="numpy")(function))
