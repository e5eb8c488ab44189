"""Topics by lists of words: coarse, and meant so. `*` at a word's end stands for any ending."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

__all__ = ["Topic"]


class Topic:
    """Words of a topic in English and German, from `words/TOPIC.txt`."""

    def __init__(self, topic: str) -> None:
        text = (resources.files(__package__) / "words" / f"{topic}.txt").read_text(encoding="utf-8")
        words = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        forms = sorted((re.escape(w).replace(r"\*", r"\w*") for w in words), key=len, reverse=True)
        self._pattern = re.compile(rf"\b(?:{'|'.join(forms)})\b", re.IGNORECASE)

    def __call__(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the words stand."""
        for match in self._pattern.finditer(text):
            yield match.span()
