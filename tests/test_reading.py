"""The module `sources.reading`: where its buffers lie. What it reads is tested with all sources (`test_sources.py`)."""

from __future__ import annotations

import io

import numpy as np
import pytest

from traceflow.sources.reading import Window

HUGE_PAGE = 2 * 1024 * 1024  # of x86-64 and ARM64 with pages of 4 KiB


@pytest.mark.parametrize("octets", [256 * 1024, 1024 * 1024, 3 * 1024 * 1024])
def test_large_buffers_begin_at_a_huge_page(octets: int) -> None:
    window = Window(octets, kept=1)
    for buffer in window._buffers:
        assert len(buffer) == octets
        assert buffer.ctypes.data % HUGE_PAGE == 0
        assert buffer.flags.c_contiguous


def test_small_buffers_take_what_they_need() -> None:
    assert [buffer.base for buffer in Window(4096)._buffers] == [None]


def test_a_buffer_that_doubles_keeps_its_octets() -> None:
    """600 KiB are asked for at once and come in pieces of 256 KiB: the buffer doubles twice, to 1 MiB."""
    content = np.arange(600 * 1024, dtype=np.uint32).astype(np.uint8).tobytes()
    window = Window(256 * 1024)
    window.attach(io.BytesIO(content).readinto, 0)
    assert window.fill(len(content))
    assert len(window.octets) == 1024 * 1024
    assert window.octets.ctypes.data % HUGE_PAGE == 0
    assert window.peek(len(content)) == content
