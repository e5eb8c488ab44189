"""Text as detectors see it: compatibility forms folded (Unicode NFKC), invisible characters left out.

Full-width digits, ligatures and zero-width spaces would otherwise hide what a person reads.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["plain"]


def plain(text: str) -> tuple[str, Sequence[int]]:
    """The normalised text, and for each of its characters the place in `text` that it comes from."""
    if text.isascii():
        return text, range(len(text))
    characters, places = [], []
    for place, character in enumerate(text):
        if unicodedata.category(character) == "Cf":
            continue
        for folded in unicodedata.normalize("NFKC", character):
            characters.append(folded)
            places.append(place)
    return "".join(characters), places
