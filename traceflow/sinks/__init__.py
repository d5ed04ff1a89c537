"""Sinks: where flows and frames are written, one module a kind of output."""
