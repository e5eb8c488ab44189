"""The answer of a word problem: read from a worked solution, and when two answers are the same.

`docs/pocket-format.md` ("Word problems") is the specification; `tests/vectors/pocket/problems.json` holds its
vectors. Knows nothing of models and files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Number", "parse_answer", "parse_reference", "well_formed"]

# A clock time (4:05) or a number; a currency sign and thousands separators may be there and say nothing.
_NUMBER = re.compile(
    r"(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d)(?!\d)"
    r"|(?:(?P<sign>[-+\u2212]) ?)?(?:[$€£] ?)?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<rest>\.\d+)?",
    re.ASCII,
)
_MARK = re.compile(r"answer\s*:", re.IGNORECASE)
_LAST_LINE = re.compile(r"answer: (?:-?\d+(?:\.\d+)?|\d{1,3}:[0-5]\d)", re.ASCII)
_GSM8K = "####"


@dataclass(frozen=True)
class Number:
    """An exact value; that of a clock time is its minutes, and equals no plain number."""

    value: Fraction
    clock: bool = False

    def __str__(self) -> str:
        """The form in which a solution states it: `35`, `-0.5`, `4:05`; `1/3` where decimals do not end."""
        if self.clock:
            return f"{self.value // 60}:{int(self.value % 60):02d}"
        if self.value.denominator == 1:
            return str(self.value.numerator)
        digits = next((n for n in range(1, 19) if (self.value * 10**n).denominator == 1), None)
        if digits is None:
            return str(self.value)
        whole, part = divmod(abs(self.value * 10**digits).numerator, 10**digits)
        return f"{'-' if self.value < 0 else ''}{whole}.{part:0{digits}d}"


def _number(found: re.Match[str]) -> Number:
    if found["hours"] is not None:
        return Number(Fraction(60 * int(found["hours"]) + int(found["minutes"])), clock=True)
    value = Fraction(found["digits"].replace(",", "") + (found["rest"] or ""))
    return Number(-value if found["sign"] in ("-", "\u2212") else value)


def parse_answer(text: str) -> Number | None:
    """The first number after the last `answer:`, or None where there is none."""
    marks = list(_MARK.finditer(text))
    found = _NUMBER.search(text, marks[-1].end()) if marks else None
    return None if found is None else _number(found)


def well_formed(text: str) -> bool:
    """Whether the last line is exactly `answer: NUMBER`, the number bare."""
    lines = text.strip().splitlines()
    return bool(lines) and _LAST_LINE.fullmatch(lines[-1].strip()) is not None


def parse_reference(answer: object) -> Number:
    """The right answer of a row: a number, a text with one number in it, or a written solution.

    In a written solution, what counts is behind the last `####` (the form of GSM8K: Cobbe et al., arXiv
    2110.14168) or the last `answer:`.

    Raises:
        ValueError: there is not exactly one number; the message has the value.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        return Number(Fraction(answer))
    if isinstance(answer, float) and math.isfinite(answer):
        return Number(Fraction(repr(answer)))
    if isinstance(answer, str):
        stated = answer.rpartition(_GSM8K)[2] if _GSM8K in answer else _MARK.split(answer)[-1]
        numbers = [_number(found) for found in _NUMBER.finditer(stated)]
        if len(numbers) == 1:
            return numbers[0]
    raise ValueError(f"needs 'answer' to be a number or a text that states one, not {answer!r}")
