"""The suites: ask every case, mark the answers, and sum up.

`frames`  intent and frame accuracy, validity of the JSON, AUROC of each raw signal for a right frame
`oos`     in-domain utterances against out-of-scope ones, asked without a dialect
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.evaluation.frames import NO_INTENT, Frame, normalise_text, parse_frame, same_frame
from edge_runtime.evaluation.rows import Case
from offload.evaluate.metrics import Metric, auroc, fpr_at_tpr, mean_metric, signal_metric
from offload.types import Evidence

if TYPE_CHECKING:
    from edge_runtime.model import LoadedModel

__all__ = ["SIGNALS", "Outcome", "ask", "asker", "summarise_frames", "summarise_oos"]

# Each raw signal, turned so that a higher value means surer.
SIGNALS: Mapping[str, Callable[[Evidence], float | None]] = {
    "mean_logprob": lambda e: e.mean_logprob,
    "min_logprob": lambda e: e.min_logprob,
    "sum_logprob": lambda e: e.sum_logprob,
    "mean_entropy": lambda e: None if e.mean_entropy is None else -e.mean_entropy,
    "max_entropy": lambda e: None if e.max_entropy is None else -e.max_entropy,
    "mean_margin": lambda e: e.mean_margin,
}
VERDICT_SIGNALS = ("mean_logprob", "min_logprob", "sum_logprob", "mean_entropy", "max_entropy")
MAX_TOKENS = 128
# Below any signal: an answer without evidence never counts as sure.
NO_EVIDENCE = -1e9

Messages = list[dict[str, str]]
Asker = Callable[[Messages], tuple[str, Evidence]]


@dataclass(frozen=True)
class Outcome:
    """One answered case."""

    case: Case
    text: str
    frame: Frame | None
    signals: Mapping[str, float]

    @property
    def intent_right(self) -> bool:
        """Whether the intent is the reference's."""
        wanted = self.case.reference
        if self.frame is None or wanted is None:
            return False
        return normalise_text(self.frame.intent) == normalise_text(wanted.intent)

    @property
    def frame_right(self) -> bool:
        """Whether intent and all slots are the reference's."""
        wanted = self.case.reference
        return self.frame is not None and wanted is not None and same_frame(self.frame, wanted)

    @property
    def none(self) -> bool:
        """Whether the model says that the utterance is none of its business."""
        return self.frame is not None and self.frame.intent == NO_INTENT

    def to_json(self) -> dict[str, Any]:
        """A row for calibration and for looking at mistakes."""
        wanted = self.case.reference
        return {
            "suite": self.case.kind,
            "text": self.case.text,
            "area": self.case.area,
            "answer": self.text,
            "reference": None if wanted is None else wanted.to_json(),
            "intent_right": self.intent_right,
            "frame_right": self.frame_right,
            "signals": dict(self.signals),
        }


def asker(model: LoadedModel) -> Asker:
    """Greedy answers of a loaded model, with their evidence."""
    from edge_runtime.sampling import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    def answer(messages: Messages) -> tuple[str, Evidence]:
        done = model.generate(model.prompt(messages), params)
        return done.text, done.evidence

    return answer


def ask(
    cases: Iterable[Case], answer: Asker, *, tagged: bool = True, step: Callable[[], None] = lambda: None
) -> list[Outcome]:
    """Ask every case in turn; `step` is called after each."""
    outcomes = []
    for case in cases:
        text, evidence = answer(case.messages(tagged=tagged))
        found = {name: signal(evidence) for name, signal in SIGNALS.items()}
        signals = {name: NO_EVIDENCE if value is None else value for name, value in found.items()}
        outcomes.append(Outcome(case, text, parse_frame(text), signals))
        step()
    return outcomes


def summarise_frames(outcomes: Sequence[Outcome]) -> dict[str, Metric]:
    """Metrics over the outcomes that have a reference."""
    marked = [o for o in outcomes if o.case.reference is not None]
    right = [o.frame_right for o in marked]
    metrics = {
        "intent_accuracy": mean_metric([o.intent_right for o in marked]),
        "frame_accuracy": mean_metric(right),
        "valid_json": mean_metric([o.frame is not None for o in marked]),
    }
    for name in SIGNALS:
        metrics[f"auroc_{name}"] = signal_metric([o.signals[name] for o in marked], right)
    return metrics


def domain_score(outcome: Outcome, signal: str) -> float:
    """How sure the model is that an utterance is its business, from -1 (sure that not) to 1.

    The sign is the verdict (a frame or `none`), the size e to the power of the signal, which is at most 0 for
    log-probabilities and negated entropies. Text that is no frame scores 0.
    """
    if outcome.frame is None:
        return 0.0
    sure = math.exp(min(0.0, outcome.signals[signal]))
    return -sure if outcome.none else sure


def summarise_oos(outcomes: Sequence[Outcome]) -> dict[str, Metric]:
    """In-domain cases (hwu64, ha_intents) against out-of-scope ones; clinc150's in-scope cases are apart."""
    judged = [o for o in outcomes if o.case.kind != "clinc150"]
    inside = [o.case.kind != "oos" for o in judged]
    outside = [o for o in judged if o.case.kind == "oos"]
    apart = [o for o in outcomes if o.case.kind == "clinc150"]
    metrics = {
        "none_rate_out_of_scope": mean_metric([o.none for o in outside]),
        "none_rate_in_domain": mean_metric([o.none for o in judged if o.case.kind != "oos"]),
        "in_domain_intent_accuracy": mean_metric([o.intent_right for o in judged if o.case.kind != "oos"]),
    }
    for name in VERDICT_SIGNALS:
        verdict = [domain_score(o, name) for o in judged]
        metrics[f"auroc_{name}"] = signal_metric([o.signals[name] for o in judged], inside, auroc)
        metrics[f"auroc_verdict_{name}"] = signal_metric(verdict, inside, auroc)
        metrics[f"fpr95_verdict_{name}"] = signal_metric(verdict, inside, fpr_at_tpr)
    if apart:
        metrics["none_rate_clinc150_in_scope"] = mean_metric([o.none for o in apart])
    return metrics
