"""Frames marked, and the figures of the suites over them.

`frames`  intent and frame accuracy, validity of the JSON, AUROC of each raw signal for a right frame
`oos`     in-domain utterances against out-of-scope ones, asked without a dialect
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge_runtime.evaluation.frames import NO_INTENT, Frame, normalise_text, parse_frame, same_frame
from edge_runtime.evaluation.marked import Marked, signal_metrics
from edge_runtime.evaluation.rows import FrameCase
from offload.evaluate.metrics import Metric, auroc, fpr_at_tpr, mean_metric, signal_metric

__all__ = ["FRAME_TOKENS", "MarkedFrame", "domain_score", "summarise_frames", "summarise_oos"]

FRAME_TOKENS = 128
"""No right frame is longer."""

VERDICT_SIGNALS = ("mean_logprob", "min_logprob", "sum_logprob", "mean_entropy", "max_entropy")


@dataclass(frozen=True)
class MarkedFrame(Marked):
    """One answered utterance."""

    case: FrameCase

    @cached_property
    def frame(self) -> Frame | None:
        """The frame that the model wrote, if it is one."""
        return parse_frame(self.text)

    @property
    def intent_right(self) -> bool:
        """Whether the intent is the reference's."""
        wanted = self.case.reference
        if self.frame is None or wanted is None:
            return False
        return normalise_text(self.frame.intent) == normalise_text(wanted.intent)

    @property
    def right(self) -> bool | None:
        """Whether intent and all slots are the reference's; None where there is no reference."""
        wanted = self.case.reference
        if wanted is None:
            return None
        return self.frame is not None and same_frame(self.frame, wanted)

    @property
    def none(self) -> bool:
        """Whether the model says that the utterance is none of its business."""
        return self.frame is not None and self.frame.intent == NO_INTENT

    def details(self) -> dict[str, Any]:
        """The reference, and what was right about the answer."""
        wanted = self.case.reference
        return {
            "area": self.case.area,
            "reference": None if wanted is None else wanted.to_json(),
            "intent_right": self.intent_right,
        }


def summarise_frames(marked: Sequence[MarkedFrame]) -> dict[str, Metric]:
    """Metrics over the answers that have a reference."""
    known = [m for m in marked if m.case.reference is not None]
    right = [bool(m.right) for m in known]
    return {
        "intent_accuracy": mean_metric([m.intent_right for m in known]),
        "frame_accuracy": mean_metric(right),
        "valid_json": mean_metric([m.frame is not None for m in known]),
        **signal_metrics(known, right),
    }


def domain_score(marked: MarkedFrame, signal: str) -> float:
    """How sure the model is that an utterance is its business, from -1 (sure that not) to 1.

    The sign is the verdict (a frame or `none`), the size e to the power of the signal, which is at most 0 for
    log-probabilities and negated entropies. Text that is no frame scores 0.
    """
    if marked.frame is None:
        return 0.0
    sure = math.exp(min(0.0, marked.signals[signal]))
    return -sure if marked.none else sure


def summarise_oos(marked: Sequence[MarkedFrame]) -> dict[str, Metric]:
    """In-domain cases (hwu64, ha_intents) against out-of-scope ones; clinc150's in-scope cases are apart."""
    judged = [m for m in marked if m.case.kind != "clinc150"]
    inside = [m.case.kind != "oos" for m in judged]
    within = [m for m in judged if m.case.kind != "oos"]
    apart = [m for m in marked if m.case.kind == "clinc150"]
    metrics = {
        "none_rate_out_of_scope": mean_metric([m.none for m in judged if m.case.kind == "oos"]),
        "none_rate_in_domain": mean_metric([m.none for m in within]),
        "in_domain_intent_accuracy": mean_metric([m.intent_right for m in within]),
    }
    for name in VERDICT_SIGNALS:
        verdict = [domain_score(m, name) for m in judged]
        metrics[f"auroc_{name}"] = signal_metric([m.signals[name] for m in judged], inside, auroc)
        metrics[f"auroc_verdict_{name}"] = signal_metric(verdict, inside, auroc)
        metrics[f"fpr95_verdict_{name}"] = signal_metric(verdict, inside, fpr_at_tpr)
    if apart:
        metrics["none_rate_clinc150_in_scope"] = mean_metric([m.none for m in apart])
    return metrics
