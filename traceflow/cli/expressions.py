"""`-f EXPR` of all commands: the expression, checked before anything is read or written."""

from __future__ import annotations

from traceflow.filters.bpf import Expression

__all__ = ["expression"]


def expression(text: str) -> Expression:
    """The filter of a command line.

    Args:
        text: An expression of pcap-filter(7).

    Raises:
        UsageError: It is wrong.
        LibraryMissingError: There is no libpcap.
    """
    return Expression(text)
