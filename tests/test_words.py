"""The module `sources.words`: two numbers by one load, in either byte order."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from traceflow.compiled import U64, kernel
from traceflow.sources.words import two_numbers


@kernel
def _read(octets: Any, at: Any, big: Any, numbers: Any) -> None:
    numbers[U64(0)], numbers[U64(1)] = two_numbers(octets, at, big)


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("values", [(0x01020304, 0xFFFEFDFC), (0, 0x80000000), (2**32 - 1, 1)])
def test_both_byte_orders(values: tuple[int, int], at: int) -> None:
    for order, big in (("<", False), (">", True)):
        octets = np.frombuffer(bytes(at) + struct.pack(order + "II", *values), np.uint8)
        numbers = np.zeros(2, np.uint64)
        _read(octets, U64(at), big, numbers)
        assert tuple(numbers.tolist()) == values
        with pytest.raises(IndexError):
            _read(octets, U64(at + 1), big, numbers)
