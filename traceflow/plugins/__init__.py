"""Plugins: the contract (`contract.py`), and built-ins that use nothing but the contract.

`registry.py` finds them by name, `running.py` is what the pipeline talks to; every other module is a built-in.
"""

from traceflow.plugins.contract import Batch, Column, EndedFlow, EndedFlows, Option, Plugin
from traceflow.plugins.registry import BUILT_IN, available, load_plugins
from traceflow.plugins.running import PluginFailure, PluginSet

__all__ = [
    "BUILT_IN",
    "Batch",
    "Column",
    "EndedFlow",
    "EndedFlows",
    "Option",
    "Plugin",
    "PluginFailure",
    "PluginSet",
    "available",
    "load_plugins",
]
