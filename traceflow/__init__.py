"""traceflow traces every flow in a packet capture back to its frames.

The front door: public names, loaded when they are touched (PEP 562), and no other logic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traceflow.adapters import from_dpkt, from_octets, from_scapy
    from traceflow.callbacks import CallbackWarning
    from traceflow.connstates import ConnState
    from traceflow.errors import IncompleteWarning, TraceflowError, UsageError
    from traceflow.feeding import FlowManager, LiveFlow, Tracer
    from traceflow.flows import EndCause, EndReason, Flow, FlowSet
    from traceflow.flowspec import FlowSpec
    from traceflow.grabber import Grabber, GrabberState
    from traceflow.monitor import Monitor
    from traceflow.options import PROFILES, Options
    from traceflow.packets import Tunnel, Verdict
    from traceflow.pipeline import trace
    from traceflow.plugins.peafowl import Direction, Statistic
    from traceflow.policy import Policy
    from traceflow.sources import open_source
    from traceflow.tracer import TraceFlow

__all__ = [
    "PROFILES",
    "CallbackWarning",
    "ConnState",
    "Direction",
    "EndCause",
    "EndReason",
    "Flow",
    "FlowManager",
    "FlowSet",
    "FlowSpec",
    "Grabber",
    "GrabberState",
    "IncompleteWarning",
    "LiveFlow",
    "Monitor",
    "Options",
    "Policy",
    "Statistic",
    "TraceFlow",
    "TraceflowError",
    "Tracer",
    "Tunnel",
    "UsageError",
    "Verdict",
    "from_dpkt",
    "from_octets",
    "from_scapy",
    "open_source",
    "trace",
]

__version__ = "0.1.0"

_HOMES = {
    "PROFILES": "options",
    "CallbackWarning": "callbacks",
    "ConnState": "connstates",
    "Direction": "plugins.peafowl",
    "EndCause": "flows",
    "EndReason": "flows",
    "Flow": "flows",
    "FlowManager": "feeding",
    "FlowSet": "flows",
    "FlowSpec": "flowspec",
    "Grabber": "grabber",
    "GrabberState": "grabber",
    "IncompleteWarning": "errors",
    "LiveFlow": "feeding",
    "Monitor": "monitor",
    "Options": "options",
    "Policy": "policy",
    "Statistic": "plugins.peafowl",
    "TraceFlow": "tracer",
    "TraceflowError": "errors",
    "Tracer": "feeding",
    "Tunnel": "packets",
    "UsageError": "errors",
    "Verdict": "packets",
    "from_dpkt": "adapters",
    "from_octets": "adapters",
    "from_scapy": "adapters",
    "open_source": "sources",
    "trace": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'traceflow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"traceflow.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
