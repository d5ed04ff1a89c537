"""What some tests need of the machine: marks that skip them, with a reason, where it is not there."""

from __future__ import annotations

import pytest

from traceflow.errors import LibraryMissingError
from traceflow.libpcap import library

__all__ = ["LIBPCAP"]


def _has_libpcap() -> bool:
    try:
        library()
    except LibraryMissingError:
        return False
    return True


LIBPCAP = pytest.mark.skipif(not _has_libpcap(), reason="libpcap is not installed")
"""It compiles an expression, or captures through libpcap."""
