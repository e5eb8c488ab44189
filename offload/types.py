"""The vocabulary that all parts share: plain, frozen data without tensors.

Field names are fixed (fields may be added, never renamed). Log-probabilities are natural logarithms (nats) of
the **raw** model distribution: before temperature, penalties and grammar mask. Missing evidence is `None` and
never reads as confident.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "QUANTILES",
    "Action",
    "Answer",
    "Confidence",
    "Decision",
    "Evidence",
    "FinishReason",
    "Message",
    "Query",
    "Source",
    "Token",
]

Action = Literal["keep", "escalate", "queue", "refuse"]
Source = Literal["device", "cloud", "cache", "queued", "refused"]
FinishReason = Literal["stop", "length", "cancelled", "error"]

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Levels of the log-probability quantiles kept in `Evidence` (Gupta et al., arXiv 2404.10136)."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Query:
    """What an application asks. Times are seconds, costs the currency of the configuration."""

    id: str
    messages: tuple[Message, ...]
    conversation_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    user: str | None = None
    labels: tuple[str, ...] = ()
    purpose: str | None = None
    consent: bool | None = None
    priority: int = 0
    deadline_s: float | None = None
    not_before_s: float | None = None
    max_cost: float | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token with its evidence.

    `logprob` is log p(token) and `entropy` −Σ p log p of the raw next-token distribution, in nats; `margin`
    is the log-probability of the most likely token minus that of the second most likely one (≥ 0), in nats.
    A token whose forward pass was skipped because a grammar left no choice is `forced` and has no evidence.
    """

    id: int
    text: str
    logprob: float | None = None
    entropy: float | None = None
    margin: float | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence folded over the tokens of an answer or of a named span of it.

    `n` counts tokens, `n_scored` those with a log-probability; every other figure is over the scored ones and
    `None` when there are none.
    """

    n: int
    n_scored: int
    sum_logprob: float | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    mean_entropy: float | None = None
    max_entropy: float | None = None
    mean_margin: float | None = None
    finish_reason: FinishReason | None = None
    spans: Mapping[str, Evidence] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    """Signals that cost further passes, by name (`offload.confidence.PROBES`)."""

    @classmethod
    def fold(
        cls,
        tokens: Iterable[Token],
        finish_reason: FinishReason | None = None,
        spans: Mapping[str, Sequence[Token]] | None = None,
    ) -> Evidence:
        """Fold tokens into evidence. A non-finite figure counts as missing: it must never read as sure."""
        kept = list(tokens)
        logprobs = sorted(_finite(t.logprob for t in kept))
        entropies = _finite(t.entropy for t in kept)
        margins = _finite(t.margin for t in kept)
        return cls(
            n=len(kept),
            n_scored=len(logprobs),
            sum_logprob=math.fsum(logprobs) if logprobs else None,
            mean_logprob=_mean(logprobs),
            min_logprob=logprobs[0] if logprobs else None,
            quantiles={level: _quantile(logprobs, level) for level in QUANTILES} if logprobs else {},
            mean_entropy=_mean(entropies),
            max_entropy=max(entropies, default=None),
            mean_margin=_mean(margins),
            finish_reason=finish_reason,
            spans={name: cls.fold(part) for name, part in (spans or {}).items()},
        )


@dataclass(frozen=True, slots=True)
class Confidence:
    """P(the answer is right). `p_correct` is `None` until a calibration exists; `raw` is the signal.

    `reason` says why there is no probability.
    """

    p_correct: float | None
    signal: str | None
    calibration_id: str | None
    raw: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router decided, and by which rule and numbers."""

    action: Action
    rule: str
    reason: str
    threshold: float | None = None
    expected_cost: float | None = None
    expected_latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an application gets back. `created_at` and `cached_at` are Unix seconds; timings are seconds."""

    id: str
    text: str
    source: Source
    model_id: str | None = None
    endpoint: str | None = None
    region: str | None = None
    confidence: Confidence | None = None
    evidence: Evidence | None = None
    decision: Decision | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    created_at: float | None = None
    cached_at: float | None = None
    fallback: bool = False
    queue_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON-ready data: the fields above, in their order."""
        return asdict(self)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _quantile(ordered: Sequence[float], level: float) -> float:
    """Linear-interpolation quantile (numpy's default, type 7 of Hyndman and Fan 1996) of a sorted list."""
    position = level * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
