"""Word problems answered and marked, and the figures over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge_runtime.evaluation.marked import Marked, signal_metrics
from edge_runtime.evaluation.problems.grade import Number, parse_answer, well_formed
from edge_runtime.evaluation.problems.rows import ProblemCase
from offload.evaluate.metrics import Metric, mean_metric

__all__ = ["PROBLEM_TOKENS", "MarkedProblem", "summarise_problems"]

PROBLEM_TOKENS = 192
"""The longest solution has 69 tokens of the shipped tokenizer; another may need twice as many."""


@dataclass(frozen=True)
class MarkedProblem(Marked):
    """One answered word problem."""

    case: ProblemCase

    @cached_property
    def answer(self) -> Number | None:
        """The number that the model states, if any."""
        return parse_answer(self.text)

    @property
    def right(self) -> bool:
        """Whether that number is the right one."""
        return self.answer == self.case.answer

    def details(self) -> dict[str, Any]:
        """The reference, and what was right about the answer."""
        return {
            "reference": str(self.case.answer),
            "answer": None if self.answer is None else str(self.answer),
            "well_formed": well_formed(self.text),
            "steps": self.case.steps,
            "kinds": list(self.case.kinds),
        }


def summarise_problems(marked: Sequence[MarkedProblem]) -> dict[str, Metric]:
    """Accuracy over all, by number of steps and by kind; well-formed answers; AUROC of each raw signal."""
    right = [m.right for m in marked]
    metrics = {
        "accuracy": mean_metric(right),
        "well_formed": mean_metric([well_formed(m.text) for m in marked]),
    }
    for steps in sorted({m.case.steps for m in marked if m.case.steps is not None}):
        metrics[f"accuracy_steps_{steps}"] = mean_metric([m.right for m in marked if m.case.steps == steps])
    for kind in sorted({kind for m in marked for kind in m.case.kinds}):
        metrics[f"accuracy_kind_{kind}"] = mean_metric([m.right for m in marked if kind in m.case.kinds])
    return {**metrics, **signal_metrics(marked, right)}
