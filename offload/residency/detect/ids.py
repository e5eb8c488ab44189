"""National identity numbers, by python-stdnum's checks (extra `detect`)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator

from offload.errors import ResidencyError

__all__ = ["NationalIds"]

_STRONG = (
    "es.dni",
    "es.nie",
    "it.codicefiscale",
    "fi.hetu",
    "fr.nir",
    "mx.curp",
    "cn.ric",
    "ro.cnp",
    "ch.ssn",
    "kr.rrn",
    "se.personnummer",
)
"""Letters, a date or a fixed beginning beside the check digit: counted wherever they stand."""

_WEAK = {
    "be.nn": r"rijksregister\w*|registre national|national number",
    "br.cpf": r"cpf",
    "ca.sin": r"sin|social insurance",
    "cz.rc": r"rodn\w+",
    "de.idnr": r"steuer\w*|idnr|tax id\w*",
    "dk.cpr": r"cpr\w*",
    "gb.nhs": r"nhs",
    "in_.aadhaar": r"aadhaar",
    "nl.bsn": r"bsn|burgerservicenummer",
    "no.fodselsnummer": r"f[øo]dselsnummer|personnummer",
    "pl.pesel": r"pesel",
    "pt.nif": r"nif|contribuinte",
    "us.ssn": r"ssn|social security",
    "za.idnr": r"(?:sa )?id(?: number)?",
}
"""Digits with a check that one number in ten or so passes by chance: counted after a word for them."""

_DIGITS = re.compile(r"(?<![\w.,])\d(?:[ ./-]?\d){7,14}(?!\w|[.,]\d)")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_NINO = re.compile(
    r"\b(?![DFIQUV])(?!BG|GB|KN|NK|NT|TN|ZZ)[A-Z](?![DFIOQUV])[A-Z](?: ?\d\d){3} ?[A-D]\b", re.I
)

_LENGTHS = {
    "fr.nir": 15,
    "ch.ssn": 13,
    "cn.ric": 18,
    "kr.rrn": 13,
    "ro.cnp": 13,
    "mx.curp": 18,
    "it.codicefiscale": 16,
}


class NationalIds:
    """Identity and social-security numbers of 24 countries.

    Raises:
        ResidencyError: python-stdnum is not installed.
    """

    name = "national_id"
    labels = ("pii.national_id",)

    def __init__(self) -> None:
        try:
            self._strong = {name: _validator(name) for name in _STRONG}
            self._weak = {
                name: (_validator(name), re.compile(rf"\b(?:{words})\b[^.!?\d]{{0,30}}$", re.IGNORECASE))
                for name, words in _WEAK.items()
            }
        except ImportError as error:
            raise ResidencyError(
                "the detector 'national_id' needs the Python package 'python-stdnum', which is missing. "
                "Install it with: pip install 'edge-runtime[detect]'"
            ) from error

    def spans(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Labels name the country: `pii.national_id.de`."""
        for pattern, country in ((_SSN, "us"), (_NINO, "gb")):
            for match in pattern.finditer(text):
                yield f"{self.labels[0]}.{country}", *match.span()
        for start, end in _pieces(text):
            for name, valid in self._strong.items():
                piece = text[start:end]
                compact = re.sub(r"[ ./-]", "", piece)
                if len(compact) == _LENGTHS.get(name, len(compact)) and valid(piece):
                    yield _label(name), start, end
        for match in _DIGITS.finditer(text):
            before = text[max(0, match.start() - 60) : match.start()]
            for name, (valid, words) in self._weak.items():
                if words.search(before) and valid(match[0]):
                    yield _label(name), *match.span()


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Words with a digit, and runs of up to eight groups that could be one number."""
    words = [m.span() for m in re.finditer(r"[A-Za-z0-9+-]+", text)]
    for i, (start, _) in enumerate(words):
        if not any(c.isdigit() for c in text[start : words[i][1]]) and words[i][1] - start > 3:
            continue
        for j in range(i, min(i + 8, len(words))):
            end = words[j][1]
            if end - start > 24 or (j > i and words[j][0] - words[j - 1][1] > 1):
                break
            if end - start >= 9 and sum(c.isdigit() for c in text[start:end]) >= 5:
                yield start, end


def _label(name: str) -> str:
    return f"pii.national_id.{name.partition('.')[0].strip('_')}"


def _validator(name: str) -> Callable[[str], bool]:
    module = importlib.import_module(f"stdnum.{name}")
    check: Callable[[str], bool] = module.is_valid
    return check
