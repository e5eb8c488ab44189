"""Rows to calibrate on: questions with the right answer, or answers that were marked before.

    {"prompt" | "messages", "reference", "suite"?}   asked here; what the reference is says how it is marked
    the outcomes format (`offload.outcomes`)         with `evidence`: nothing is asked

A reference that is an object with an `intent` is a frame, a number (or `suite` `problems`) the answer of a
word problem; any other is compared as the answer's decisive part, by `offload.spans`. Does not know: engines
beyond "messages in, text and evidence out".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError
from edge_runtime.evaluation.frames import Frame, pairs, parse_frame, same_frame
from edge_runtime.evaluation.marked import Asker, Messages
from edge_runtime.evaluation.problems.grade import parse_answer, parse_reference
from offload.calibrate import Labelled
from offload.checks import CHECKS, with_checks
from offload.outcomes import Outcome
from offload.spans import read

__all__ = ["Question", "Rows", "answer_all", "labelled_outcome", "mark", "read_rows"]

FORMS = "{prompt or messages, reference, suite} or the outcomes format (prompt, weak_correct, evidence)"


@dataclass(frozen=True)
class Question:
    """What is asked, and what the right answer is."""

    messages: Messages
    reference: Any
    suite: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a file: questions still to be asked, and answers that are labelled already."""

    questions: tuple[Question, ...]
    labelled: tuple[Labelled, ...]


def read_rows(path: Path, limit: int | None = None) -> Rows:
    """The rows of a JSON-lines file, of either form; empty lines are skipped.

    Raises:
        DataError: the file cannot be read, has no rows, or a line is no row; names file, line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    questions: list[Question] = []
    labelled: list[Labelled] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(questions) + len(labelled) >= limit:
            break
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
            if not isinstance(row, dict):
                raise ValueError("is not a JSON object")  # noqa: TRY004, TRY301 - a wrong row, not a wrong call
            if "weak_correct" in row:
                labelled.append(labelled_outcome(Outcome.from_dict(row)))
            else:
                questions.append(_question(row))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; a row is {FORMS}") from error
    if not questions and not labelled:
        raise DataError(f"{path} has no rows; a row is {FORMS}")
    return Rows(tuple(questions), tuple(labelled))


def labelled_outcome(outcome: Outcome) -> Labelled:
    """An outcome as it is calibrated on.

    Raises:
        ValueError: it has no evidence or no response.
    """
    if outcome.evidence is None:
        raise ValueError("has no 'evidence' (edge-runtime evaluate --rows writes rows that have it)")
    if outcome.response is None:
        raise ValueError("has no 'response', which tells the kind of answer")
    evidence = outcome.evidence
    if not set(CHECKS) & set(evidence.extra):  # written by another program: answers of ours have their checks
        evidence = with_checks(evidence, outcome.prompt, outcome.response)
    kind = read(outcome.response).kind
    return Labelled(evidence, outcome.weak_correct, kind, outcome.strong_correct)


def answer_all(
    questions: Iterable[Question], answer: Asker, step: Callable[[], None] = lambda: None
) -> list[Labelled]:
    """Ask every question in turn and mark the answer; `step` is called after each."""
    found = []
    for question in questions:
        text, evidence = answer(question.messages)
        found.append(Labelled(evidence, mark(question, text), read(text).kind))
        step()
    return found


def mark(question: Question, text: str) -> bool:
    """Whether an answer is right."""
    reference = question.reference
    if isinstance(reference, Mapping) and "intent" in reference:
        frame = parse_frame(text)
        return frame is not None and same_frame(frame, _frame(reference))
    if _is_problem(question):
        return parse_answer(text) == parse_reference(reference)
    wanted = reference if isinstance(reference, str) else json.dumps(reference)
    return read(text).canonical == read(wanted).canonical


def _question(row: Mapping[str, Any]) -> Question:
    missing = [key for key in ("reference",) if row.get(key) is None]
    if missing:
        raise ValueError(f"has no '{missing[0]}'")
    prompt, messages, suite = row.get("prompt"), row.get("messages"), row.get("suite")
    if (prompt is None) == (messages is None):
        raise ValueError("needs either 'prompt' or 'messages'")
    if suite is not None and not isinstance(suite, str):
        raise ValueError(f"'suite' is {suite!r}, not text")
    if messages is None:
        if not isinstance(prompt, str):
            raise ValueError(f"'prompt' is {prompt!r}, not text")
        messages = [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise ValueError("'messages' is not a list of objects with 'role' and 'content'")
    question = Question(messages, row["reference"], suite)
    if isinstance(question.reference, Mapping) and "intent" in question.reference:
        _frame(question.reference)
    elif _is_problem(question):
        parse_reference(question.reference)
    return question


def _is_problem(question: Question) -> bool:
    reference = question.reference
    is_number = isinstance(reference, int | float) and not isinstance(reference, bool)
    return is_number or question.suite == "problems"


def _frame(reference: Mapping[str, Any]) -> Frame:
    intent, slots = reference.get("intent"), reference.get("slots", {})
    if not isinstance(intent, str) or not isinstance(slots, dict):
        raise ValueError("'reference' is no frame: it needs a text 'intent' and 'slots'")  # noqa: TRY004 - as above
    pairs(slots)
    return Frame(intent, slots)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number; leave the field out, or write null, where there is none")
