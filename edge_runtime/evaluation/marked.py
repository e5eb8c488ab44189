"""Cases asked one by one, and what came back: text, evidence, signals. Marking is each suite's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offload.confidence import SIGNALS, signal_value
from offload.evaluate.metrics import Metric, signal_metric
from offload.types import Evidence

if TYPE_CHECKING:
    from edge_runtime.model import LoadedModel

__all__ = ["NO_EVIDENCE", "REPORTED", "Asker", "Case", "Marked", "Messages", "ask", "asker", "signal_metrics"]

Messages = list[dict[str, str]]
Asker = Callable[[Messages], tuple[str, Evidence]]

REPORTED = tuple(
    name
    for name in SIGNALS
    if name.partition(".")[0] in (name, "answer") and name.endswith(("_logprob", "_entropy", "_margin"))
)
"""Signals that a report has an AUROC of: over the whole answer, and over its decisive part (`answer.…`)."""

NO_EVIDENCE = -1e9
"""Below any signal: an answer without evidence never counts as sure."""


class Case(Protocol):
    """What is asked."""

    @property
    def kind(self) -> str:
        """The set that it is of."""
        ...

    @property
    def text(self) -> str:
        """What the user says."""
        ...

    def messages(self, *, tagged: bool = True) -> Messages:
        """The conversation; `tagged=False` leaves task and dialect to the model."""
        ...


@dataclass(frozen=True)
class Marked(ABC):
    """One answered case. A subclass marks it."""

    text: str
    evidence: Evidence
    case: Any  # a Case; subclasses say which

    @property
    @abstractmethod
    def right(self) -> bool | None:
        """Whether the answer is right; None where nobody can say."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What a row says beside the common fields."""

    @cached_property
    def signals(self) -> dict[str, float]:
        """Every reported signal; `NO_EVIDENCE` where it is missing."""
        found = {name: signal_value(name, self.evidence) for name in REPORTED}
        return {name: NO_EVIDENCE if value is None else value for name, value in found.items()}

    def to_json(self) -> dict[str, Any]:
        """A row for calibration and for looking at mistakes; see `offload.outcomes`."""
        return {
            "suite": self.case.kind,
            "prompt": self.case.text,
            "response": self.text,
            "weak_correct": self.right,
            **self.details(),
            "evidence": self.evidence.to_dict(),
        }


def asker(model: LoadedModel, max_tokens: int) -> Asker:
    """Greedy answers of a loaded model, of at most `max_tokens` tokens, with their evidence."""
    from edge_runtime.sampling import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)

    def answer(messages: Messages) -> tuple[str, Evidence]:
        done = model.generate(model.prompt(messages), params)
        return done.text, done.evidence

    return answer


C = TypeVar("C", bound=Case)
M = TypeVar("M", bound=Marked)


def ask(
    cases: Iterable[C],
    answer: Asker,
    mark: Callable[[str, Evidence, C], M],
    *,
    tagged: bool = True,
    step: Callable[[], None] = lambda: None,
) -> list[M]:
    """Ask every case in turn and mark the answer; `step` is called after each."""
    marked = []
    for case in cases:
        text, evidence = answer(case.messages(tagged=tagged))
        marked.append(mark(text, evidence, case))
        step()
    return marked


def signal_metrics(marked: Sequence[Marked], right: Sequence[bool]) -> dict[str, Metric]:
    """AUROC of every signal that at least one answer has, for a right answer."""
    return {
        f"auroc_{name}": signal_metric([m.signals[name] for m in marked], right)
        for name in REPORTED
        if any(m.signals[name] > NO_EVIDENCE for m in marked)
    }
