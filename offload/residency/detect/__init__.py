"""Detectors: what a text holds, as findings with a label and a place.

A detector only ever raises: its labels are added to those of the caller and never take one away. What it
misses changes nothing, what it finds wrongly keeps a query here, and one that fails raises all the labels it
could have found. Knows: patterns, checksums, lists of words. Does not know: rules, or what is done with a
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from offload.errors import ResidencyError
from offload.residency.detect.contact import addresses, emails, locations, phones
from offload.residency.detect.ids import NationalIds
from offload.residency.detect.money import cards, ibans
from offload.residency.detect.people import Names
from offload.residency.detect.secrets import keys, passwords
from offload.residency.detect.text import plain
from offload.residency.detect.words import Topic
from offload.types import Query

__all__ = ["BUILT_IN", "Detector", "Finding", "Raised", "find", "make_detectors", "raise_labels"]

Spans = Callable[[str], Iterable[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """`text[start:end]` looks like `label`, says `detector`."""

    label: str
    start: int
    end: int
    detector: str


class Detector(Protocol):
    """Give one of your own to `find` and `raise_labels`: a name, the labels it can give, and where they are.

    It is given normalised text (`detect.text.plain`) and returns `(label, start, end)`.
    """

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can give, kinds of these included."""
        ...

    def spans(self, text: str) -> Iterable[tuple[str, int, int]]:
        """Where what is."""
        ...


@dataclass(frozen=True, slots=True)
class _Simple:
    """A detector of one label out of a function."""

    name: str
    labels: tuple[str, ...]
    function: Spans

    def spans(self, text: str) -> Iterator[tuple[str, int, int]]:
        for start, end in self.function(text):
            yield self.labels[0], start, end


BUILT_IN: Mapping[str, Callable[[], Detector]] = {
    "address": lambda: _Simple("address", ("pii.address",), addresses),
    "card": lambda: _Simple("card", ("finance.card",), cards),
    "email": lambda: _Simple("email", ("pii.email",), emails),
    "finance": lambda: _Simple("finance", ("finance.topic",), Topic("finance")),
    "health": lambda: _Simple("health", ("health.topic",), Topic("health")),
    "iban": lambda: _Simple("iban", ("finance.iban",), ibans),
    "key": lambda: _Simple("key", ("secret.key",), keys),
    "location": lambda: _Simple("location", ("pii.location",), locations),
    "national_id": NationalIds,
    "password": lambda: _Simple("password", ("secret.password",), passwords),
    "phone": lambda: _Simple("phone", ("pii.phone",), phones),
}


def make_detectors(names: Iterable[str] = tuple(BUILT_IN), contacts: Sequence[str] = ()) -> list[Detector]:
    """The built-in detectors of these names, and one of the names of the user's contacts.

    Raises:
        ResidencyError: a name is unknown, or `national_id` lacks the package python-stdnum (names the extra).
    """
    found: list[Detector] = []
    for name in names:
        if name not in BUILT_IN:
            raise ResidencyError(f"there is no detector '{name}'; there are {', '.join(BUILT_IN)}")
        found.append(BUILT_IN[name]())
    return [*found, Names(contacts)] if contacts else found


def find(text: str, detectors: Iterable[Detector]) -> list[Finding]:
    """Everything that the detectors see in a text, in its order; places are those of the text as given.

    A detector that fails counts as having seen each of its labels in the whole text.
    """
    normal, places = plain(text)
    found = []
    for detector in detectors:
        try:
            spans = [
                (label, places[start], places[end - 1] + 1) for label, start, end in detector.spans(normal)
            ]
        except Exception:  # noqa: BLE001 - whatever goes wrong in it, a detector must not let a text pass
            spans = [(label, 0, len(text)) for label in detector.labels]
        found += [Finding(label, start, end, detector.name) for label, start, end in spans]
    return sorted(found, key=lambda f: (f.start, f.end, f.label))


@dataclass(frozen=True, slots=True)
class Raised:
    """A query's labels: the caller's and those that were found; findings per message."""

    labels: frozenset[str]
    findings: tuple[tuple[Finding, ...], ...]


def raise_labels(query: Query, detectors: Sequence[Detector]) -> Raised:
    """The labels that the caller gave, and what detectors find in any message on top of them."""
    findings = tuple(tuple(find(message.content, detectors)) for message in query.messages)
    seen = {finding.label for found in findings for finding in found}
    return Raised(frozenset(query.labels) | seen, findings)
