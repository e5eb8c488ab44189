"""Checks of an answer against its question and itself, that need no model: free evidence beside the tokens.

    arithmetic  of a solution: the share of its equations that hold; the last line counts as one more, which
                holds when the answer is the last equation's result
    grounded    the share of what the answer works with that the question gives: a frame's values that stand
                in the question; a solution's operands that are numbers of it or results of earlier lines
    used        of a solution: the share of the question's numbers that it works with

A frame without values has nothing ungrounded; a solution without equations has nothing confirmed. Plain text
has no checks. Knows: text. Does not know: models, references.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from offload.spans import read
from offload.types import Evidence

__all__ = ["CHECKS", "check", "with_checks"]

CHECKS = ("arithmetic", "grounded", "used")

_NUMBER = r"\d[\d,]*(?:\.\d+)?(?::[0-5]\d)?"
_NUMBERS = re.compile(_NUMBER)
_EQUATION = re.compile(
    rf"(?P<a>{_NUMBER})(?P<percent>%)?\s*(?P<op>[-+*/×÷−])\s*(?P<b>{_NUMBER})\s*=\s*(?P<c>{_NUMBER})"
)
_WORDS = re.compile(r"[\w']+")
_LONGEST = 20_000
"""Characters that are looked at: the last of the question, the first of the answer."""


def check(question: str, answer: str) -> dict[str, float]:
    """The checks that apply to this answer, each a share from 0 to 1."""
    question, answer = question[-_LONGEST:], answer[:_LONGEST]
    reading = read(answer)
    if reading.form == "frame":
        return _frame(question, reading.canonical)
    return _solution(question, answer, reading.canonical) if reading.form == "solution" else {}


def with_checks(evidence: Evidence, question: str, answer: str) -> Evidence:
    """The evidence with the checks among its `extra` signals."""
    found = check(question, answer)
    return replace(evidence, extra={**evidence.extra, **found}) if found else evidence


def _frame(question: str, canonical: str) -> dict[str, float]:
    values = [_WORDS.findall(value) for path, value in json.loads(canonical) if path != "/intent" and value]
    said = _WORDS.findall(question.lower())
    # A value without any word (`"-"`) is not looked for word by word, and stands nowhere.
    found = [bool(words) and _stands_in(words, said) for words in values]
    return {"grounded": sum(found) / len(found) if found else 1.0}


def _stands_in(words: list[str], said: list[str]) -> bool:
    """Whether the words follow one another in what was said; the last one may go on (`light` in `lights`)."""
    last = len(words) - 1
    return any(
        said[at : at + last] == words[:-1] and said[at + last].startswith(words[-1])
        for at in range(len(said) - last)
    )


def _solution(question: str, answer: str, canonical: str) -> dict[str, float]:
    given = [_value(text) for text in _NUMBERS.findall(question)]
    results: list[Fraction] = []
    holds: list[bool] = []
    grounded: list[bool] = []
    used: set[Fraction] = set()
    for left, right, result, stated in _equations(answer):
        holds.append(result == stated)
        for operand in (left, right):
            grounded.append(operand in given or operand in results)
            used.add(operand)
        results.append(stated)
    if not holds:  # an answer without working: nothing of it can be confirmed
        return dict.fromkeys(CHECKS, 0.0)
    final = _NUMBERS.fullmatch(canonical.removeprefix("-"))
    holds.append(final is not None and _value(canonical) == results[-1])
    return {
        "arithmetic": sum(holds) / len(holds),
        "grounded": sum(grounded) / len(grounded),
        "used": sum(number in used for number in given) / len(given) if given else 0.0,
    }


def _equations(text: str) -> Iterator[tuple[Fraction, Fraction, Fraction | None, Fraction]]:
    """(left, right, what they make, what is stated) of equations: `24+18=42`, `50%*84=42`, `3:40+25=4:05`."""
    for found in _EQUATION.finditer(text):
        a, b, c = (_value(found[name]) for name in "abc")
        left = a / 100 if found["percent"] else a
        made: Fraction | None
        match found["op"]:
            case "+":
                made = left + b
            case "-" | "−":
                made = left - b
            case "*" | "×":
                made = left * b
            case _:
                made = left / b if b else None
        yield a, b, made, c


def _value(text: str) -> Fraction:
    """A number; a clock time in minutes."""
    hours, colon, minutes = text.replace(",", "").partition(":")
    return Fraction(hours) * 60 + Fraction(minutes) if colon else Fraction(hours)
