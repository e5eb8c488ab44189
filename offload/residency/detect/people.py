"""Names of the user's contacts. Other people's names are not looked for: a list cannot know them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["Names", "read_contacts"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_TOO = """
april art august bill bob chase christian dawn faith frank grace grant guy hope ivy jack jean joy june
jury lane lily long mark may mike miles nick olive pat paul penny pierce price ray rich rob rose ruby
sandy sky stone sue summer van victor will young
"""
_ALSO_WORDS = frozenset(_TOO.split())
"""Names that are words too: counted alone only where they are written with a capital within a sentence."""


class Names:
    """Whole names, and each part of three letters or more, without regard to case."""

    name = "name"
    labels = ("pii.name",)

    def __init__(self, contacts: Iterable[str]) -> None:
        parts = [tuple(w.casefold() for w in _WORD.findall(contact)) for contact in contacts]
        self._whole = {name for name in parts if len(name) > 1}
        self._parts = {part for name in parts for part in name if len(part) >= 3}
        self._longest = max(map(len, self._whole), default=1)

    def spans(self, text: str) -> Iterator[tuple[str, int, int]]:
        """The longest name at each place."""
        words = [(m.start(), m.end(), m[0].casefold()) for m in _WORD.finditer(text)]
        i = 0
        while i < len(words):
            length = self._length_at(words, i, text)
            if length:
                yield self.labels[0], words[i][0], words[i + length - 1][1]
            i += max(length, 1)

    def _length_at(self, words: list[tuple[int, int, str]], i: int, text: str) -> int:
        for length in range(min(self._longest, len(words) - i), 1, -1):
            if tuple(w for _, _, w in words[i : i + length]) in self._whole:
                return length
        start, end, word = words[i]
        bare = re.sub(r"['’]s$", "", word)
        if bare not in self._parts:
            return 0
        if bare in _ALSO_WORDS:
            within = i > 0 and not re.search(r"[.!?\n]", text[words[i - 1][1] : start])
            return int(text[start].isupper() and not text[start:end].isupper() and within)
        return 1


def read_contacts(text: str) -> list[str]:
    """Names out of a vCard file's `FN` lines (RFC 6350, 6.2.1), or out of a list with one name per line."""
    if "BEGIN:VCARD" in text.upper():
        found = re.findall(r"^FN(?:;[^:\r\n]*)?:(.+?)\r?$", text, re.MULTILINE | re.IGNORECASE)
        return [re.sub(r"\\([,;\\])", r"\1", name).strip() for name in found]
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
