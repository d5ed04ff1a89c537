"""Octets in: captures read from files and pipes, in order, as batches of frames.

The path of an octet: `inputs` opens it, `reading` holds it in one reused buffer, `sniff` says what
kind of capture it belongs to, `pcap` or `pcapng` finds the frames, `open` chains the captures, and
`reread` fetches frames again for the writers. Interfaces (`live`) are another source of the same batches; what both
are to a run stands in `contract`. Nothing in this room looks inside a frame.
"""

from traceflow.sources.contract import Source
from traceflow.sources.open import Captures, open_source

__all__ = ["Captures", "Source", "open_source"]
