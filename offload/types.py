"""The vocabulary that all parts share: plain, frozen data without tensors.

Field names are fixed (fields may be added, never renamed). Log-probabilities are natural logarithms (nats) of
the **raw** model distribution: before temperature, penalties and grammar mask. Missing evidence is `None` and
never reads as confident.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args

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
    """Signals that are not made from tokens, by name (`offload.confidence.EXTRA`)."""

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: every field under its name, quantile levels as strings (`"0.1"`)."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "quantiles": {str(level): value for level, value in self.quantiles.items()},
            "spans": {name: part.to_dict() for name, part in self.spans.items()},
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, data: object) -> Evidence:
        """The inverse of `to_dict`. Only `n` and `n_scored` must be there; other fields are `None` or empty.

        Raises:
            ValueError: a field is unknown, missing, of the wrong type, or not finite; names it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"evidence is {data!r}, not an object")  # noqa: TRY004 - wrong data, not a wrong call
        known = {f.name for f in fields(cls)}
        for name in data:
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"evidence has an unknown field '{name}'{hint}")
        finish = data.get("finish_reason")
        if finish is not None and finish not in get_args(FinishReason):
            raise ValueError(f"finish_reason is {finish!r}, not one of {', '.join(get_args(FinishReason))}")
        quantiles = {}
        for level, value in _object(data, "quantiles").items():
            try:
                at = float(level)
            except ValueError:
                at = math.nan
            if not 0 <= at <= 1:
                raise ValueError(f"quantiles has the level '{level}', not a number from 0 to 1")
            quantiles[at] = _number(f"quantiles['{level}']", value)
        spans = {}
        for name, part in _object(data, "spans").items():
            try:
                spans[name] = cls.from_dict(part)
            except ValueError as error:
                raise ValueError(f"spans['{name}']: {error}") from error
        return cls(
            n=_count(data, "n"),
            n_scored=_count(data, "n_scored"),
            quantiles=quantiles,
            finish_reason=finish,
            spans=spans,
            extra={name: _number(f"extra['{name}']", x) for name, x in _object(data, "extra").items()},
            **{name: None if data.get(name) is None else _number(name, data[name]) for name in _FIGURES},
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
    """What the router decided, and by which rule and numbers.

    `endpoint` is who is asked; `fallback` marks an answer that is kept because nobody else can be asked.
    """

    action: Action
    rule: str
    reason: str
    threshold: float | None = None
    expected_cost: float | None = None
    expected_latency_s: float | None = None
    endpoint: str | None = None
    fallback: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)


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


_FIGURES = (
    "sum_logprob",
    "mean_logprob",
    "min_logprob",
    "mean_entropy",
    "max_entropy",
    "mean_margin",
)
"""Fields of `Evidence` that are one number each, or missing."""


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}, not an object")  # noqa: TRY004 - wrong data, not a wrong call
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a finite number")
    return float(value)


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a whole number of tokens from 0 on")
    return value


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
