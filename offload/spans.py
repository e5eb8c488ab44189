"""The decisive part of an answer: what makes it right or wrong, apart from the boiler-plate around it.

Two forms are known by their looks, whatever was asked:

    frame     a JSON object, alone or in a fence: its leaf values decide
    solution  lines of working and a last `answer: …` (or GSM8K's `#### …`): what follows the mark decides

Anything else is `text`, all of which may decide. Knows: characters and the tokens they came from. Does not
know: prompts, references, what is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from offload.types import Token

__all__ = ["SPANS", "Form", "Reading", "decisive_spans", "read"]

Form = Literal["frame", "solution", "text"]

SPANS = ("answer", "intent", "slots", "keys", "steps")
"""Names of spans. `answer` is the decisive part of either form.

A frame's has the parts `intent` (the value of that key) and `slots` (all other values); `keys` is what is
left of the frame: which keys there are, and where it ends. `steps` is a solution's working, up to the mark.
"""

_FENCE = re.compile(r"\A\s*```[\w-]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_MARK = re.compile(r"(?:\banswer\s*:|####)[ \t]*", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?::\d\d)?")
_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*"|[-+\d.eE]+|true|false|null|[{}\[\],:]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer's form and its decisive part.

    `canonical` is equal for answers that say the same: a frame's sorted (path, value) pairs, a solution's
    number, otherwise the words. `family` is a coarse kind within the form, for calibrations of their own: the
    first word of a frame's intent (`HassTurnOn` → `hass`, `alarm_set` → `alarm`), else ``""``.
    """

    form: Form
    canonical: str
    family: str = ""

    @property
    def kind(self) -> str:
        """`form/family`, or the form alone."""
        return f"{self.form}/{self.family}" if self.family else self.form


def read(text: str) -> Reading:
    """Tell the form of an answer, and reduce it to what it says."""
    body, _ = _unfenced(text)
    frame = _json_object(body)
    if frame is not None:
        pairs = sorted((path, _value(value)) for path, value in _leaves(frame))
        intent = frame.get("intent")
        family = _family(intent) if isinstance(intent, str) else ""
        return Reading("frame", json.dumps(pairs, ensure_ascii=False), family)
    mark = _last_mark(text)
    if mark is not None:
        start, stop = mark
        said = text[start:stop]
        number = _NUMBER.search(said)
        return Reading("solution", _plain_number(number.group()) if number else _words(said))
    return Reading("text", _words(text))


def decisive_spans(tokens: Sequence[Token]) -> Mapping[str, tuple[Token, ...]]:
    """The tokens of each span of `SPANS` that the answer has; `{}` for plain text and for broken JSON.

    A token belongs to a span when one of its characters does. A value's span reaches over the character that
    ends it (the closing quote, the comma, the end-of-text token): that a value ends *here* is part of it.
    """
    text, starts = "", []
    for token in tokens:
        starts.append(len(text))
        text += token.text
    return {
        name: part
        for name, ranges in _ranges(text).items()
        if (part := tuple(_covered(tokens, starts, len(text), ranges)))
    }


Ranges = list[tuple[int, int]]


def _ranges(text: str) -> dict[str, Ranges]:
    body, offset = _unfenced(text)
    if _json_object(body) is not None:
        intent: Ranges = []
        slots: Ranges = []
        for path, start, stop in _values(body):
            (intent if path == ("intent",) else slots).append((offset + start, offset + stop))
        values = sorted(intent + slots)
        return {"answer": values, "intent": intent, "slots": slots, "keys": _between(values, len(text) + 1)}
    mark = _last_mark(text)
    if mark is not None:
        start, stop = mark
        return {"answer": [(start, stop + 1)], "steps": [(0, start)]}
    return {}


def _covered(tokens: Sequence[Token], starts: Sequence[int], length: int, ranges: Ranges) -> Iterator[Token]:
    """Tokens with a character in one of the ranges.

    A token without characters of its own (half of a multi-byte character, the end of the text) stands for the
    character that comes next.
    """
    for token, start in zip(tokens, starts, strict=True):
        stop = max(start + len(token.text), start + 1)
        if start > length:
            return
        if any(start < b and a < stop for a, b in ranges):
            yield token


def _between(ranges: Ranges, length: int) -> Ranges:
    """What the ranges leave of 0…length."""
    gaps, at = [], 0
    for start, stop in ranges:
        if at < start:
            gaps.append((at, start))
        at = max(at, stop)
    return [*gaps, (at, length)] if at < length else gaps


def _unfenced(text: str) -> tuple[str, int]:
    """What stands in a Markdown fence around the whole text, and where it starts; else the text itself."""
    fence = _FENCE.match(text)
    return (fence.group(1), fence.start(1)) if fence else (text, 0)


def _json_object(text: str) -> dict[str, object] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _values(text: str) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(path of keys, start, stop) of every leaf of a valid JSON object; `stop` is past its end mark."""
    path: list[str] = []
    stack: list[str] = []
    key_next = False
    for lexeme in _LEXEME.finditer(text):
        word, first = lexeme.group(), lexeme.group()[0]
        if first in "{[":
            stack.append(first)
            path.append("")
            key_next = first == "{"
        elif first in "}]":
            stack.pop()
            path.pop()
        elif first == ",":
            key_next = stack[-1] == "{"
        elif first == ":":
            key_next = False
        elif key_next:
            path[-1] = str(json.loads(word))
        elif first == '"':
            yield tuple(filter(None, path)), lexeme.start() + 1, lexeme.end()
        else:
            yield tuple(filter(None, path)), lexeme.start(), lexeme.end() + 1


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def _last_mark(text: str) -> tuple[int, int] | None:
    """Start and end of what follows the last `answer:` or `####`, to the end of its line; `None` without."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    start = marks[-1].end()
    stop = text.find("\n", start)
    return start, len(text) if stop < 0 else stop


def _family(intent: str) -> str:
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", intent)
    return words[0].lower() if words else ""


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def _value(value: object) -> str:
    """A leaf in the form in which it is compared: 50, 50.0 and "50" are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _words(str(value))


def _plain_number(text: str) -> str:
    """`1,200.50` → `1200.5`; clock times and other text stay as they are."""
    plain = text.replace(",", "").lstrip("+")
    if ":" in plain or "." not in plain:
        return plain
    return plain.rstrip("0").rstrip(".")
