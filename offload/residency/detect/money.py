"""Payment cards and bank accounts, by form and checksum."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["cards", "ibans", "luhn", "mod97"]

_CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d]|[.,-]\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])")
_NETWORKS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5)|62|50|5[6-9]|6")


def luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def mod97(iban: str) -> bool:
    """The check digits of an IBAN (ISO 13616, by ISO 7064 MOD 97-10); letters in capitals, no spaces."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of 13 to 19 digits that begin as a card network's and have its check digit."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if _NETWORKS.match(digits) and luhn(digits) and len(set(digits)) > 1:
            yield match.span()


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """International bank account numbers, also when words follow without a mark between."""
    for match in _IBAN.finditer(text):
        # The pattern may run on into following words: the longest beginning with a right checksum counts.
        for end in range(match.end(), match.start() + 14, -1):
            compact = re.sub(r"[ -]", "", text[match.start() : end]).upper()
            whole = end == match.end() or not text[end].isalnum()
            if whole and 15 <= len(compact) <= 34 and mod97(compact):
                yield match.start(), end
                break
