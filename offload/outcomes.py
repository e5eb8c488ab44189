"""Recorded outcomes: what a weak and a strong model made of the same prompts, as JSON lines.

One format for calibration, for learning to route, for simulation and for the routing figures; every field is
described in `docs/data.md`. One object per line:

    prompt          text                                                        needed
    weak_correct    true | false | 1 | 0: was the device's answer right?        needed
    strong_correct  the same of the cloud's answer; null where none ran
    response        text of the weak answer
    evidence        `Evidence.to_dict()` of the weak answer
    option_probs    probabilities of the answer options, or a list of such lists (one per prompt wording)
    cost            a number (of the weak answer), or {"weak": …, "strong": …}, in any one currency
    latency_s       the same, in seconds
    suite, id       text; `id` may be a whole number

Other fields are kept in `extra`, so that a signal of one's own can be scored. Knows: the format. Does not
know: where outcomes come from, what is learnt from them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload.errors import OutcomesError
from offload.types import Evidence

__all__ = ["Outcome", "number_of", "read_outcomes", "write_outcomes"]

SIDES = ("weak", "strong")
SUM_SLACK = 0.01
"""How far a row of option probabilities may sum above 1: published ones are rounded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A prompt and whether each model answered it right.

    `response`, `evidence` and `option_probs` belong to the weak model's answer. `cost` and `latency_s` have
    the keys `weak` and `strong`, each where it is known.
    """

    prompt: str
    weak_correct: bool
    strong_correct: bool | None = None
    response: str | None = None
    evidence: Evidence | None = None
    option_probs: tuple[tuple[float, ...], ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    latency_s: Mapping[str, float] = field(default_factory=dict)
    suite: str | None = None
    id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready data, without the fields that are empty."""
        value: dict[str, Any] = {
            "id": self.id,
            "suite": self.suite,
            "prompt": self.prompt,
            "weak_correct": self.weak_correct,
            "strong_correct": self.strong_correct,
            "response": self.response,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
            "option_probs": [list(row) for row in self.option_probs] or None,
            "cost": dict(self.cost) or None,
            "latency_s": dict(self.latency_s) or None,
        }
        return {**{k: v for k, v in value.items() if v is not None}, **self.extra}

    @classmethod
    def from_dict(cls, row: object) -> Outcome:
        """The row of a JSON object.

        Raises:
            ValueError: a field is missing or wrong; the message begins with its name.
        """
        if not isinstance(row, Mapping):
            raise ValueError("the row is not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
        missing = [key for key in ("prompt", "weak_correct") if key not in row]
        if missing:
            raise ValueError(f"{missing[0]} is missing; every row needs prompt and weak_correct")
        rest = {k: v for k, v in row.items() if k not in _FIELDS}
        strong, evidence, name = row.get("strong_correct"), row.get("evidence"), row.get("id")
        prompt = _text(row, "prompt")
        if prompt is None:
            raise ValueError("prompt is null, not text")
        return cls(
            prompt=prompt,
            weak_correct=_verdict("weak_correct", row["weak_correct"]),
            strong_correct=None if strong is None else _verdict("strong_correct", strong),
            response=_text(row, "response"),
            evidence=None if evidence is None else _evidence(evidence),
            option_probs=_option_probs(row.get("option_probs")),
            cost=_sides(row, "cost"),
            latency_s=_sides(row, "latency_s"),
            suite=_text(row, "suite"),
            id=str(name) if isinstance(name, int) and not isinstance(name, bool) else _text(row, "id"),
            extra=rest,
        )


_FIELDS = {
    "prompt",
    "weak_correct",
    "strong_correct",
    "response",
    "evidence",
    "option_probs",
    "cost",
    "latency_s",
    "suite",
    "id",
}


def read_outcomes(path: str | Path, *, limit: int | None = None) -> list[Outcome]:
    """The rows of a JSON-lines file; empty lines are skipped.

    Raises:
        OutcomesError: the file cannot be read, has no rows, or a line is wrong; names file, line and field.
    """
    path = Path(path)
    rows: list[Outcome] = []
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if limit is not None and len(rows) >= limit:
                    break
                if line.strip():
                    rows.append(Outcome.from_dict(json.loads(line, parse_constant=_no_constant)))
    except UnicodeDecodeError as error:
        raise OutcomesError(f"{path} is not UTF-8 text, after line {number}: {error}") from error
    except OSError as error:
        raise OutcomesError(f"{path} cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise OutcomesError(f"{path}, line {number}: not JSON: {error.msg}, column {error.colno}") from error
    except ValueError as error:
        raise OutcomesError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise OutcomesError(f"{path} has no rows: it needs one JSON object per line")
    return rows


def write_outcomes(path: str | Path, rows: Iterable[Outcome]) -> None:
    """Write rows as JSON lines; the file is there whole or not at all. NaN is refused with a ValueError."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def number_of(row: Outcome, name: str) -> float | None:
    """A figure of a row by its dotted name; `None` where the row has none.

    `evidence.mean_logprob`, `evidence.quantiles.0.1`, `evidence.spans.answer.min_logprob`, `option_probs.max`
    (mean over the wordings, largest option), `cost.strong`, `latency_s.weak`, or a further field of the row.
    """
    if name == "option_probs.max":
        wordings = row.option_probs
        return max(math.fsum(p) / len(wordings) for p in zip(*wordings, strict=True)) if wordings else None
    head, _, tail = name.partition(".")
    value: object = row.to_dict().get(head)
    while tail and isinstance(value, Mapping):
        head, dot, tail = tail.partition(".")
        if head not in value and dot and f"{head}.{tail}" in value:  # a quantile's level holds a dot
            head, tail = f"{head}.{tail}", ""
        value = value.get(head)
    if tail or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number; leave the field out, or write null, where there is none")


def _evidence(value: object) -> Evidence:
    try:
        return Evidence.from_dict(value)
    except ValueError as error:
        raise ValueError(f"evidence: {error}") from error


def _text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not text")
    return value


def _verdict(name: str, value: object) -> bool:
    if value not in (0, 1) or not isinstance(value, bool | int | float):
        raise ValueError(f"{name} is {value!r}, not true, false, 1 or 0")
    return bool(value)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}, not a finite number from 0 on")
    return float(value)


def _sides(row: Mapping[str, Any], name: str) -> dict[str, float]:
    value = row.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"weak": _number(name, value)}
    for side in value:
        if side not in SIDES:
            raise ValueError(f"{name} has the key '{side}'; it is a number, or an object of weak and strong")
    return {side: _number(f"{name} of the {side} model", x) for side, x in value.items() if x is not None}


def _option_probs(value: object) -> tuple[tuple[float, ...], ...]:
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"option_probs is {value!r}, not a list of probabilities")
    wordings = value if isinstance(value[0], Sequence) else [value]
    rows = []
    for wording in wordings:
        if not isinstance(wording, Sequence) or isinstance(wording, str) or len(wording) < 2:
            raise ValueError(f"option_probs has {wording!r}, not a list of two or more probabilities")
        row = tuple(_number("option_probs", p) for p in wording)
        if math.fsum(row) > 1 + SUM_SLACK or len(row) != len(wordings[0]):
            raise ValueError(
                f"option_probs has {list(wording)!r}: every wording needs a probability for each of the same "
                "options, together at most 1"
            )
        rows.append(row)
    return tuple(rows)
