"""The fixed test set of word problems: generated on the spot, checked against its recorded SHA-256.

600 rows, 100 for each number of steps from 1 to 6, of template families that no training row has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_runtime.errors import DataError
from edge_runtime.evaluation.problems.generate import Problem, generate
from edge_runtime.evaluation.problems.rows import ProblemCase, to_case

__all__ = ["PROBLEMS_TEST", "TestSet"]


@dataclass(frozen=True)
class TestSet:
    """What the generator must write: its seed, rows, numbers of steps, and the SHA-256 of the lines."""

    __test__ = False  # pytest: no class of tests

    seed: int
    count: int
    steps: tuple[int, ...]
    sha256: str

    def text(self, make: Callable[..., Iterator[Problem]] = generate) -> str:
        """The rows as JSON lines.

        Raises:
            DataError: they are not the recorded ones; names both hashes.
        """
        problems = make(self.seed, self.count, "test", self.steps)
        text = "".join(
            json.dumps(
                {
                    "text": problem.text,
                    "answer": problem.answer,
                    "steps": problem.steps,
                    "kinds": list(problem.kinds),
                    "family": problem.family,
                    "solution": problem.solution,
                },
                ensure_ascii=False,
            )
            + "\n"
            for problem in problems
        )
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"the generated word problems are not the recorded test set (SHA-256 {found}, recorded "
                f"{self.sha256}): the generator or its sentences were changed, and figures on them would not "
                "compare; install the release anew, or name a file with --data"
            )
        return text

    def cases(self, make: Callable[..., Iterator[Problem]] = generate) -> list[ProblemCase]:
        """The rows as cases.

        Raises:
            DataError: see `text`.
        """
        return [to_case(json.loads(line)) for line in self.text(make).splitlines()]


PROBLEMS_TEST = TestSet(
    seed=6_000_001,
    count=600,
    steps=(1, 2, 3, 4, 5, 6),
    sha256="48e7a2f292b55aee67db3f66705abb37b2af0abeac55fac7dca4ad215c57c2ac",
)
