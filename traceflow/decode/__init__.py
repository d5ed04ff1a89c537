"""Octets to PACKET rows: `walk.py` goes through a frame, every family of headers has a module of its own.

Nothing here looks at flows or keeps anything from one frame to the next.
"""

from traceflow.decode.links import LINKS
from traceflow.decode.quotes import decode_quotes
from traceflow.decode.walk import decode, decode_batch, decode_rows

__all__ = ["LINKS", "decode", "decode_batch", "decode_quotes", "decode_rows"]
