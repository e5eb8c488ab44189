"""Mail addresses, telephone numbers, postal addresses and coordinates, by form."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["addresses", "emails", "locations", "phones"]

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+'-]{1,64}(?:@|\s?[\[(]at[\])]\s?)"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.|\s?[\[(]dot[\])]\s?)){1,8}[^\W\d_]{2,24}(?![\w-])",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w.,:/-])(?:\+|\(\+?)?\d(?:[ ./()-]{0,2}\d){6,14}(?![\w]|[.,:/-]\d)")
_CALLED = re.compile(
    r"\b(?:call|phone|tel|telephone|mobile|cell|fax|dial|ring|text|sms|whatsapp|number|telefon\w*|handy\w*|"
    r"nummer|rufnummer|anrufen|ruf|mobil)\b[^.!?\d]{0,30}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}|(?:\d{1,3}\.){3}\d{1,3}")
_STREET_EN = (
    r"street|st|road|rd|avenue|ave|lane|ln|drive|dr|boulevard|blvd|court|ct|square|sq|place|pl|way|terrace|"
    r"crescent|close|parkway|pkwy|highway|hwy"
)
_ADDRESS = re.compile(
    # 12b Baker Street; 12 rue de la Paix; Musterstraße 12a; Via Roma 5; P.O. Box 12
    rf"(?<!\w)\d{{1,5}}[a-z]?,? (?:[^\W\d_][\w.'-]{{0,30}} ){{1,4}}(?:{_STREET_EN})\b"
    r"|(?<!\w)\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|boulevard|place|chemin|impasse|quai) "
    r"[^\W\d_][\w' -]{2,40}"
    r"|(?<!\w)(?:[^\W\d_][\w-]{1,30}(?:straße|strasse|str\.|weg|platz|gasse|allee|ufer|damm|ring)|"
    r"[^\W\d_][\w-]{1,30} (?:straße|strasse|str\.|weg|platz|allee)) \d{1,4} ?[a-z]?\b"
    r"|(?<!\w)(?:via|viale|piazza|corso|calle|avenida|plaza|paseo|rua) "
    r"(?:[^\W\d_][\w'.-]{1,30},? ){1,4}\d{1,5}\b"
    r"|\bp\.? ?o\.? box \d{1,6}\b",
    re.IGNORECASE,
)
_DECIMAL = re.compile(
    r"(?<![\d.])([+-]?\d{1,2}\.\d{3,})°? ?([NS])?[,;\s]\s?([+-]?\d{1,3}\.\d{3,})°? ?([EW])?(?![\d.]\d)",
    re.IGNORECASE,
)
_DEGREES = re.compile(
    r"\d{1,2}° ?\d{1,2}['′](?: ?[\d.]{1,6}[\"″])? ?[NS][,;]?\s?"
    r"\d{1,3}° ?\d{1,2}['′](?: ?[\d.]{1,6}[\"″])? ?[EWO]",
    re.IGNORECASE,
)
_PLUS_CODE = re.compile(r"(?<!\w)[23456789CFGHJMPQRVWX]{4,8}\+[23456789CFGHJMPQRVWX]{2,3}(?!\w)")


def emails(text: str) -> Iterator[tuple[int, int]]:
    """`name@host.tld`, also with `(at)` and `[dot]`; a simple form of RFC 5321's mailbox."""
    for match in _EMAIL.finditer(text):
        yield match.span()


def phones(text: str) -> Iterator[tuple[int, int]]:
    """7 to 15 digits (E.164) that are written as a telephone number, or follow a word about calling."""
    for match in _PHONE.finditer(text):
        shown = match[0]
        if _DATE.fullmatch(shown):
            continue
        international = shown.startswith(("+", "(+", "00"))
        grouped = re.search(r"\d[ ./()-]+\d", shown) is not None
        national = grouped and shown.startswith(("0", "(0"))
        american = (
            re.fullmatch(r"(?:1[ .-])?\(?[2-9]\d{2}\)?[ .-]{0,2}[2-9]\d{2}[ .-]\d{4}", shown) is not None
        )
        called = _CALLED.search(text, max(0, match.start() - 40), match.start()) is not None
        if international or national or american or called:
            yield match.span()


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """A street with a house number, in English, French, German, Italian, Spanish or Portuguese order."""
    for match in _ADDRESS.finditer(text):
        yield match.span()


def locations(text: str) -> Iterator[tuple[int, int]]:
    """Coordinates: decimal degrees with three places or more, degrees and minutes, Open Location Codes."""
    for match in _DECIMAL.finditer(text):
        if abs(float(match[1])) <= 90 and abs(float(match[3])) <= 180:
            yield match.span()
    for pattern in (_DEGREES, _PLUS_CODE):
        for match in pattern.finditer(text):
            yield match.span()
