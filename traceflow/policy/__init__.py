"""Policies: which graphs a user may run. Rules as data, a check on every path of a graph, a verdict with all reasons.

`rules` holds what a rule says, `tables` reads them from TOML, `guards` says which calls they mean, `paths` walks a
graph, `checking` finds what is broken, `verdicts` says it, `policies` is what others use.
"""

from traceflow.policy.policies import Policy
from traceflow.policy.rules import Rule, Use, addresses, allow, callbacks, deny, require, snaplen
from traceflow.policy.verdicts import Reason, Verdict

__all__ = [
    "Policy",
    "Reason",
    "Rule",
    "Use",
    "Verdict",
    "addresses",
    "allow",
    "callbacks",
    "deny",
    "require",
    "snaplen",
]
