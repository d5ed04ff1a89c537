"""The command line, and the only room that prints. `main` is the console script; each command has its module."""

from traceflow.cli.program import main

__all__ = ["main"]
