"""What to do with an answer: the vocabulary of queries, evidence, confidence and decisions.

Knows: the plain, frozen data that all parts share (`Query`, `Token`, `Evidence`, `Confidence`, `Decision`,
`Answer`), how token evidence is folded, and recorded outcomes; in modules of their own, confidence
(`offload.confidence`, `offload.calibration`), decisions (`offload.router`, `offload.guarantee`,
`offload.budget`), learning to route (`offload.learn`) and simulation (`offload.simulate`). The sealed
channel to a gateway (`offload.channel`), residency rules (`offload.residency`) and the queue
(`offload.queue`) in its store (`offload.store`) are built, and nothing sends yet. The courier, the cache and
the gateway belong here and are not built. Does not know: tensors, model files, or
engines.
"""

from offload.errors import OffloadError, OutcomesError
from offload.outcomes import Outcome, read_outcomes, write_outcomes
from offload.types import (
    QUANTILES,
    Action,
    Answer,
    Confidence,
    Decision,
    Evidence,
    FinishReason,
    Message,
    Query,
    Source,
    Token,
)

__all__ = [
    "QUANTILES",
    "Action",
    "Answer",
    "Confidence",
    "Decision",
    "Evidence",
    "FinishReason",
    "Message",
    "OffloadError",
    "Outcome",
    "OutcomesError",
    "Query",
    "Source",
    "Token",
    "read_outcomes",
    "write_outcomes",
]
