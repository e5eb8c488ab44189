"""Where a query may go: rules over labels, purposes, places and endpoints, and verdicts that name their rule.

Knows: the rule language (`rules`), what it means for a query (`evaluate`), what is odd about a policy
(`lint`), and detectors that raise labels from a text (`detect`). Nothing leaves without a `permit`, a
`forbid` wins, and a further label never allows more. Does not know: the configuration file, networks, or how
anything is sent, redacted, stored or audited.
"""

from offload.errors import ResidencyError
from offload.residency.evaluate import Evaluator, Ruling, Verdict, targets_allowed
from offload.residency.lint import PolicyWarning, warnings_of
from offload.residency.rules import Endpoint, Facts, Policy, Rule

__all__ = [
    "Endpoint",
    "Evaluator",
    "Facts",
    "Policy",
    "PolicyWarning",
    "ResidencyError",
    "Rule",
    "Ruling",
    "Verdict",
    "targets_allowed",
    "warnings_of",
]
