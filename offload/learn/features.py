"""What a router sees of a prompt and of an answer, without any download: hashed n-grams and plain counts.

Knows: characters, words, numbers. Does not know: models, outcomes, how features are weighted.

The n-grams are hashed into buckets (Weinberger et al., arXiv 0902.2206) with a hash that is written out here,
so that a saved router means the same in every process and on every machine. Word n-grams and n-grams of
characters within words are as in scikit-learn's `char_wb`, which is where the two kinds come from.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "ANSWER_FIGURES",
    "PROMPT_FIGURES",
    "NGrams",
    "Rows",
    "answer_figures",
    "hashed",
    "prompt_figures",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

LONGEST = 20_000
"""Characters of a text that are looked at: a prompt of megabytes must not hold a decision up."""

_WORD = re.compile(r"\w+", re.UNICODE)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_EQUATION = re.compile(r"(-?\d[\d,.]*)\s*([-+*/×÷x])\s*\$?(-?\d[\d,.]*)\s*=\s*\$?(-?\d[\d,.]*)")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class NGrams:
    """Which n-grams are counted, in 2^`bits` buckets: of 1…`words` words, of `chars` characters within words.

    The two kinds have buckets of their own: words the first half, characters the second.
    """

    words: int = 2
    chars: tuple[int, ...] = (3, 4, 5)
    bits: int = 17

    @property
    def size(self) -> int:
        """Buckets altogether."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True)
class Rows:
    """A sparse matrix by rows (CSR): row i has `values[starts[i]:starts[i+1]]` in columns `columns[…]`."""

    starts: Ints
    columns: Ints
    values: Floats
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dot(self, weights: Floats) -> Floats:
        """Matrix times vector: float64 [rows]."""
        products = np.concatenate([[0.0], np.cumsum(self.values * weights[self.columns])])
        result: Floats = products[self.starts[1:]] - products[self.starts[:-1]]
        return result

    def transposed_dot(self, weights: Floats) -> Floats:
        """Transposed matrix times vector: float64 [width]."""
        spread = np.repeat(weights, np.diff(self.starts))
        sums = np.bincount(self.columns, weights=self.values * spread, minlength=self.width)
        return sums.astype(np.float64)

    def take(self, chosen: Ints) -> Rows:
        """The rows of these numbers, in this order."""
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Rows(starts, self.columns[places], self.values[places], self.width)

    def document_frequency(self) -> Floats:
        """Rows in which each column is other than 0: float64 [width]."""
        return np.bincount(self.columns, minlength=self.width).astype(np.float64)

    def scaled(self, factor: Floats) -> Rows:
        """Every column times its factor, then every row divided by its Euclidean length."""
        values = self.values * factor[self.columns]
        squares = np.concatenate([[0.0], np.cumsum(values**2)])
        norms = np.sqrt(np.maximum(squares[self.starts[1:]] - squares[self.starts[:-1]], 0))
        norms[norms == 0] = 1
        return Rows(self.starts, self.columns, values / np.repeat(norms, np.diff(self.starts)), self.width)


def hashed(texts: Sequence[str], ngrams: NGrams) -> Rows:
    """Each text's n-grams: 1 + ln(count) per bucket."""
    columns, values, starts = [], [], [0]
    for text in texts:
        found, counts = np.unique(_buckets(text[:LONGEST].lower(), ngrams), return_counts=True)
        columns.append(found)
        values.append(1 + np.log(counts))
        starts.append(starts[-1] + len(found))
    return Rows(
        np.array(starts, np.int64),
        np.concatenate(columns) if columns else np.zeros(0, np.int64),
        np.concatenate(values) if values else np.zeros(0),
        ngrams.size,
    )


def _buckets(text: str, ngrams: NGrams) -> Ints:
    half = np.uint64(ngrams.size // 2)
    words = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text)], np.uint64)
    of_words = [_windows(words, n) % half for n in range(1, ngrams.words + 1)]
    padded = " " + " ".join(text.split()) + " "
    codes = np.frombuffer(padded.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    of_chars = []
    for n in ngrams.chars:
        windows = _windows(codes, n)
        if len(windows):
            # A window may begin or end with a space; one with a space inside reaches over two words.
            spaces = np.concatenate([[0], np.cumsum(codes == ord(" "))])
            inside = spaces[n - 1 : len(codes)] - spaces[1 : len(codes) - n + 2]
            of_chars.append(windows[inside == 0] % half + half)
    return np.concatenate([np.zeros(0, np.uint64), *of_words, *of_chars]).astype(np.int64)


def _windows(codes: Hashes, n: int) -> Hashes:
    """A hash of every run of n codes: multiply, add, shift, mixed with n so that lengths differ."""
    count = len(codes) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    value = np.full(count, n, np.uint64)
    for k in range(n):
        value = (value + codes[k : k + count]) * _MULTIPLIER  # wraps at 2^64, which is meant
        value ^= value >> np.uint64(29)
    return value


PROMPT_FIGURES = (
    "characters",
    "words",
    "word_length",
    "lines",
    "numbers",
    "digits",
    "capitals",
    "symbols",
    "not_ascii",
    "questions",
    "sentences",
    "different_words",
    "longest_line",
    "blanks",
    "options",
    "option_length",
    "largest_number",
)
"""Names of the columns of `prompt_figures`."""


def prompt_figures(texts: Sequence[str]) -> Floats:
    """Length, numbers and structure of each text: float64 [texts, len(PROMPT_FIGURES)]."""
    rows = [_prompt_row(text[:LONGEST]) for text in texts]
    return np.array(rows, np.float64).reshape(len(texts), len(PROMPT_FIGURES))


def _prompt_row(text: str) -> list[float]:
    size = max(len(text), 1)
    words = _WORD.findall(text)
    lines = text.split("\n")
    options = [line for line in lines if re.match(r"\(?[A-Ja-j1-9][.):]\s", line)]
    numbers = [abs(_value(n)) for n in _NUMBER.findall(text)]
    return [
        np.log1p(len(text)),
        np.log1p(len(words)),
        sum(map(len, words)) / max(len(words), 1),
        np.log1p(len(lines)),
        np.log1p(len(numbers)),
        sum(c.isdigit() for c in text) / size,
        sum(c.isupper() for c in text) / size,
        sum(not c.isalnum() and not c.isspace() for c in text) / size,
        sum(ord(c) > 127 for c in text) / size,
        np.log1p(text.count("?")),
        np.log1p(len(re.findall(r"[.!?](?:\s|$)", text))),
        len({word.lower() for word in words}) / max(len(words), 1),
        np.log1p(max(map(len, lines))),
        float("__" in text),
        np.log1p(len(options)),
        np.log1p(sum(map(len, options)) / max(len(options), 1)),
        np.log1p(min(max(numbers, default=0.0), 1e12)),
    ]


ANSWER_FIGURES = (
    "characters",
    "lines",
    "numbers",
    "equations",
    "wrong_equations",
    "prompt_numbers_used",
    "foreign_numbers",
    "ends_in_number",
    "last_is_whole",
    "last_number",
    "words_of_prompt",
    "repeats",
)
"""Names of the columns of `answer_figures`."""


def answer_figures(prompts: Sequence[str], responses: Sequence[str]) -> Floats:
    """What an answer's own text tells: float64 [rows, len(ANSWER_FIGURES)].

    Equations written out (`3*4=12`) are worked out again; numbers are looked up in the prompt and in what the
    equations gave.
    """
    pairs = zip(prompts, responses, strict=True)
    rows = [_answer_row(prompt[:LONGEST], response[:LONGEST]) for prompt, response in pairs]
    return np.array(rows, np.float64).reshape(len(rows), len(ANSWER_FIGURES))


def _answer_row(prompt: str, response: str) -> list[float]:
    asked = {_value(n) for n in _NUMBER.findall(prompt)}
    numbers = [_value(n) for n in _NUMBER.findall(response)]
    equations = _EQUATION.findall(response)
    results = {_value(equation[3]) for equation in equations}
    wrong = sum(not _holds(*equation) for equation in equations)
    last = numbers[-1] if numbers else 0.0
    lines = [line for line in response.split("\n") if line.strip()]
    words, known = _WORD.findall(response.lower()), set(_WORD.findall(prompt.lower()))
    return [
        np.log1p(len(response)),
        np.log1p(len(lines)),
        np.log1p(len(numbers)),
        np.log1p(len(equations)),
        float(wrong),
        len(asked & set(numbers)) / max(len(asked), 1),
        sum(n not in asked and n not in results for n in numbers) / max(len(numbers), 1),
        float(bool(re.search(r"\d\W*$", response))),
        float(last == int(last)),
        np.log1p(min(abs(last), 1e12)),
        sum(word in known for word in words) / max(len(words), 1),
        1 - len(set(lines)) / max(len(lines), 1),
    ]


def _holds(left: str, sign: str, right: str, result: str) -> bool:
    a, b, c = _value(left), _value(right), _value(result)
    if sign in "/÷":
        if b == 0:
            return False
        found = a / b
    else:
        found = a + b if sign == "+" else a - b if sign == "-" else a * b
    return abs(found - c) <= max(0.005 * abs(found), 0.011)  # results are often rounded to cents


def _value(text: str) -> float:
    body = text.replace(",", "").rstrip(".")
    try:
        value = float(body)
    except ValueError:
        return 0.0
    return value if abs(value) < 1e15 else 1e15
