"""`python -m traceflow`: the command line, as the console script `traceflow` starts it."""

from __future__ import annotations

from traceflow.cli import main

if __name__ == "__main__":
    main(prog_name="traceflow")
