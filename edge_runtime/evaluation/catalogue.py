"""The suites by name: their rows, how they are asked and marked, what is summed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_runtime.evaluation.marked import Case, Marked
from edge_runtime.evaluation.problems.rows import ProblemCase, read_problems
from edge_runtime.evaluation.problems.suite import PROBLEM_TOKENS, MarkedProblem, summarise_problems
from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST
from edge_runtime.evaluation.rows import FrameCase, find, read
from edge_runtime.evaluation.suites import FRAME_TOKENS, MarkedFrame, summarise_frames, summarise_oos
from offload.evaluate.metrics import Metric
from offload.types import Evidence

__all__ = ["SUITES", "Suite", "report"]

C = TypeVar("C", bound=Case)
M = TypeVar("M", bound=Marked)


@dataclass(frozen=True)
class Suite(Generic[C, M]):
    """One suite. `tagged` says whether cases are asked with their task and dialect."""

    name: str
    read: Callable[[Path, int | None], list[C]]
    mark: Callable[[str, Evidence, C], M]
    summarise: Callable[[Sequence[M]], dict[str, Metric]]
    max_tokens: int
    tagged: bool
    files: tuple[str, ...] = ()
    generated: Callable[[], list[C]] | None = None
    by_set: bool = False

    def cases(self, files: Sequence[Path] = (), limit: int | None = None) -> list[C]:
        """The cases of `files`; without any, the public test rows.

        Args:
            limit: rows taken at most of each file.

        Raises:
            DataError: a file is missing or a row is wrong.
        """
        if not files and self.generated is not None:
            return self.generated()[:limit]
        return [case for path in files or find(self.files) for case in self.read(path, limit)]


_FRAMES = ("hwu64/test.jsonl", "ha_intents/tests_en.jsonl")
_OUTSIDE = ("clinc150/oos_test.jsonl", "clinc150/test.jsonl")

SUITES: Mapping[str, Suite[Any, Any]] = {
    "frames": Suite[FrameCase, MarkedFrame](
        "frames", read, MarkedFrame, summarise_frames, FRAME_TOKENS, tagged=True, files=_FRAMES, by_set=True
    ),
    "oos": Suite[FrameCase, MarkedFrame](
        "oos", read, MarkedFrame, summarise_oos, FRAME_TOKENS, tagged=False, files=(*_FRAMES, *_OUTSIDE)
    ),
    "problems": Suite[ProblemCase, MarkedProblem](
        "problems",
        read_problems,
        MarkedProblem,
        summarise_problems,
        PROBLEM_TOKENS,
        tagged=True,
        generated=PROBLEMS_TEST.cases,
    ),
}


def report(suite: Suite[Any, M], model: str, marked: Sequence[M]) -> dict[str, Any]:
    """One JSON object: suite, model, n, each metric with its interval; for frames, those of each set too."""
    value = {"suite": suite.name, "model": model, "n": len(marked), "metrics": _figures(suite, marked)}
    if not suite.by_set:
        return value
    sets: dict[str, list[M]] = defaultdict(list)
    for one in marked:
        if one.right is not None:
            sets[one.case.kind].append(one)
    parts = {kind: {"n": len(part), "metrics": _figures(suite, part)} for kind, part in sets.items()}
    return {**value, "sets": parts}


def _figures(suite: Suite[Any, M], marked: Sequence[M]) -> dict[str, Any]:
    return {name: metric.to_json() for name, metric in suite.summarise(marked).items()}
