"""The first packets of a flow or a direction as columns of text: what the built-ins that keep sequences share.

Such a column is a list joined by semicolons, `60;-1;0`, so that it is one cell in csv and one string in jsonl.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traceflow.errors import UsageError, suggest
from traceflow.plugins.contract import Option

__all__ = ["SIZES", "SIZE_OPTION", "lists", "size_code", "steps_of"]

SIZES = ("wire", "ip", "payload")
"""What a size is: octets of the frame on the wire, of the IP packet, or of the payload."""

SIZE_OPTION = Option("size", "ip", "what the size of a packet is: wire, ip or payload")


def size_code(plugin: str, size: str) -> int:
    """Place of a value of SIZE_OPTION in SIZES.

    Raises:
        UsageError: It is none of them.
    """
    if size not in SIZES:
        raise UsageError(f"plugin {plugin}: {suggest('size', size, SIZES)}")
    return SIZES.index(size)


def lists(values: Any, counts: Any) -> Any:
    """The first values of each row as text.

    Args:
        values: Integers [k, n].
        counts: How many of each row there are, [k].

    Returns:
        Text [k], masked where there are none.
    """
    texts = np.empty(len(values), object)

    for at, (row, count) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        texts[at] = ";".join(map(str, row[:count]))
    return np.ma.array(texts, mask=np.asarray(counts) == 0)


def steps_of(times_ns: Any) -> Any:
    """How much later each time is than the one before it in its row; 0 for the first.

    Args:
        times_ns: int64[k, n], within 2**62.

    Returns:
        int64[k, n], in ns, negative where a time is earlier; 2**63 - 1 at most.
    """
    steps = np.zeros_like(times_ns)
    now, before = times_ns[:, 1:], times_ns[:, :-1]
    with np.errstate(over="ignore"):
        wrapped = now - before
    steps[:, 1:] = np.where((now > before) & (wrapped < 0), np.iinfo(np.int64).max, wrapped)
    return steps
