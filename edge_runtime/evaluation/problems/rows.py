"""Rows of word problems: JSON lines as cases that can be asked and marked.

{"text" or "question": …, "answer": 35 or "35" or "… #### 35", "steps"?: 2, "kinds"?: ["rate"]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.evaluation.problems.grade import Number, parse_reference
from edge_runtime.evaluation.rows import read_rows

__all__ = ["ProblemCase", "messages", "read_problems", "to_case"]

TASK = "task: problem"


@dataclass(frozen=True)
class ProblemCase:
    """A word problem to ask, its right answer, and what is known of it."""

    text: str
    answer: Number
    steps: int | None = None
    kinds: tuple[str, ...] = ()
    kind: str = "problems"

    def messages(self, *, tagged: bool = True) -> list[dict[str, str]]:
        """The conversation; `tagged=False` leaves the task to the model."""
        return messages(self.text, tagged=tagged)


def messages(text: str, *, tagged: bool = True) -> list[dict[str, str]]:
    """The chat messages that ask a word problem."""
    system = [{"role": "system", "content": TASK}] if tagged else []
    return [*system, {"role": "user", "content": text}]


def to_case(row: Mapping[str, Any]) -> ProblemCase:
    """A row as a case.

    Raises:
        ValueError: something is missing or of the wrong type; the message says what.
    """
    text = row.get("text", row.get("question"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError("needs 'text' or 'question', a text")
    if "answer" not in row:
        raise ValueError("needs 'answer'")
    steps, kinds = row.get("steps"), row.get("kinds", [])
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
        raise ValueError(f"needs 'steps' to be a count, not {steps!r}")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"needs 'kinds' to be a list of texts, not {kinds!r}")
    return ProblemCase(text, parse_reference(row["answer"]), steps, tuple(kinds))


def read_problems(path: Path, limit: int | None = None) -> list[ProblemCase]:
    """Cases of a JSON-lines file; empty lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is no row; names file and line.
    """
    return read_rows(path, to_case, "a word problem has 'text' and 'answer'", limit)
