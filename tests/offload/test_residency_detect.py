"""Detectors: what they find and what not, that they only raise, and that none can stop or pass a text."""

import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import ResidencyError
from offload.residency.detect import BUILT_IN, find, make_detectors, raise_labels
from offload.residency.detect.money import luhn, mod97
from offload.residency.detect.people import read_contacts
from offload.residency.labels import DETECTED
from offload.types import Message, Query
from tools import detector_figures

WITHOUT_STDNUM = [name for name in BUILT_IN if name != "national_id"]
CONTACTS = ["Anna Müller", "Will Smith", "O'Brien, Rose"]
DETECTORS = make_detectors(WITHOUT_STDNUM, CONTACTS)


def seen(text: str) -> list[tuple[str, str]]:
    return [(f.label, text[f.start : f.end]) for f in find(text, DETECTORS)]


@pytest.mark.parametrize(
    ("text", "label", "part"),
    [
        ("write to bob.x+y@mail.example.com.", "pii.email", "bob.x+y@mail.example.com"),
        ("joe (at) mail [dot] org", "pii.email", "joe (at) mail [dot] org"),
        ("it is +49 30 1234567, ok", "pii.phone", "+49 30 1234567"),
        ("(555) 234-5678 works", "pii.phone", "(555) 234-5678"),
        ("dial 5552345 now", "pii.phone", "5552345"),
        ("to DE89 3704 0044 0532 0130 00 please", "finance.iban", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432", "finance.iban", "GB82WEST12345698765432"),
        ("card 4111-1111-1111-1111.", "finance.card", "4111-1111-1111-1111"),
        ("I live at 12 Baker Street.", "pii.address", "12 Baker Street"),
        ("Musterstraße 12a in Bonn", "pii.address", "Musterstraße 12a"),
        ("meet at 52.52000, 13.40500", "pii.location", "52.52000, 13.40500"),
        ("AKIAIOSFODNN7EXAMPLE", "secret.key", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key = ab12cd34ef56gh78ij90", "secret.key", "ab12cd34ef56gh78ij90"),
        ("my password is hunter2", "secret.password", "hunter2"),
        ("ssh://me:s3cret@host", "secret.password", "s3cret"),
        ("remind anna müller", "pii.name", "anna müller"),
        ("remind Müller's wife", "pii.name", "Müller's"),
        ("ask Rose about it", "pii.name", "Rose"),
        ("I have a headache", "health.topic", "headache"),
        ("mein Gehalt", "finance.topic", "Gehalt"),
        ("４１１１ 1111 1111 1111", "finance.card", "４１１１ 1111 1111 1111"),
        ("a\u200b@b.com", "pii.email", "a\u200b@b.com"),
    ],
)
def test_what_is_there_is_found_at_its_place(text: str, label: str, part: str) -> None:
    assert (label, part) in seen(text)


@pytest.mark.parametrize(
    "text",
    [
        "turn on 4 lights at 10:30 on 2026-11-24",
        "version 10.0.0.1 of 1,234,567 files",
        "card 4111 1111 1111 1112",
        "DE88 3704 0044 0532 0130 00",
        "what will the weather be, a rose by any other name",
        "my password is wrong",
        "12 eggs and 3 streets away",
        "2 + 2 = 4, 3.14159 and 2.71828",
        "",
    ],
)
def test_what_is_not_there_is_not_found(text: str) -> None:
    assert seen(text) == []


def test_national_ids_are_found_by_form_and_checksum() -> None:
    pytest.importorskip("stdnum", reason="national ids need the extra: pip install 'edge-runtime[detect]'")
    detectors = make_detectors(["national_id"])

    def labels(text: str) -> set[str]:
        return {f.label for f in find(text, detectors)}

    assert labels("my ssn: 536-90-4399") == {"pii.national_id.us"}
    assert labels("RSSMRA85T10A562S e basta") == {"pii.national_id.it"}
    assert labels("my DNI 12345678Z") == {"pii.national_id.es"}
    assert labels("BSN 111222333") == {"pii.national_id.nl"}
    assert labels("order 111222333") == labels("12345678A") == set()


def test_without_the_extra_the_detector_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stdnum", None)
    monkeypatch.setitem(__import__("sys").modules, "stdnum.es", None)
    monkeypatch.setitem(__import__("sys").modules, "stdnum.es.dni", None)
    with pytest.raises(ResidencyError, match=r"pip install 'edge-runtime\[detect\]'"):
        make_detectors(["national_id"])


def test_an_unknown_detector_is_told() -> None:
    with pytest.raises(ResidencyError, match="there is no detector 'mail'; there are address, "):
        make_detectors(["mail"])


class _Broken:
    name, labels = "broken", ("pii.face", "pii.voice")

    def spans(self, text: str) -> Iterable[tuple[str, int, int]]:
        raise RuntimeError(text)


def test_a_detector_that_fails_raises_all_it_could_have_found() -> None:
    assert [(f.label, f.start, f.end) for f in find("hello", [_Broken()])] == [
        ("pii.face", 0, 5),
        ("pii.voice", 0, 5),
    ]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.frozensets(st.sampled_from(["work", "pii", "health"])))
def test_detectors_only_raise_and_take_any_text(text: str, given_labels: frozenset[str]) -> None:
    query = Query("q", (Message("user", text), Message("assistant", "b@c.de")), labels=tuple(given_labels))
    raised = raise_labels(query, DETECTORS)
    assert raised.labels >= given_labels | {"pii.email"}
    for message, findings in zip(query.messages, raised.findings, strict=True):
        for f in findings:
            assert 0 <= f.start < f.end <= len(message.content)
            assert f.label in DETECTED


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(categories=["L", "P", "Z"]), max_size=30),
    st.integers(0, 10**14),
)
def test_every_card_and_account_with_a_right_checksum_is_found_between_any_words(
    words: str, number: int
) -> None:
    body = f"4{number:014d}"
    card = next(body + d for d in "0123456789" if luhn(body + d))
    bban = f"{number:018d}"
    check = 98 - int("".join(str(int(c, 36)) for c in f"{bban}DE00")) % 97
    iban = f"DE{check:02d}{bban}"
    assert mod97(iban)
    labels = {label for label, _ in seen(f"{words} | {card} | {iban} | {words}")}
    assert {"finance.card", "finance.iban"} <= labels


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "a@", "a.", "1-", "12 a ", "DE12 ", "password ", "a b ", "-----BEGIN "]
)
def test_a_long_hostile_text_takes_time_in_proportion(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        find(text, DETECTORS)
        return time.process_time() - start

    seconds(1000)
    assert min(seconds(32_000) for _ in range(2)) < 12 * max(seconds(8_000), 0.02)


def test_contacts_are_read_from_a_vcard_or_a_list() -> None:
    card = "BEGIN:VCARD\r\nVERSION:4.0\r\nFN;CHARSET=utf-8:Müller\\, Anna\r\nEND:VCARD\r\n"
    assert read_contacts(card) == ["Müller, Anna"]
    assert read_contacts("# mine\nBob\n\nAnna B\n") == ["Bob", "Anna B"]


def test_the_order_of_detectors_does_not_matter() -> None:
    text = "bob@example.com or +49 30 1234567, my salary"
    shuffled = random.Random(1).sample(DETECTORS, len(DETECTORS))
    assert find(text, shuffled) == find(text, DETECTORS)


def test_the_documentation_shows_what_is_measured(repository: Path) -> None:
    pytest.importorskip("stdnum", reason="national ids need the extra: pip install 'edge-runtime[detect]'")
    detectors = make_detectors(contacts=detector_figures.CONTACTS)
    page = (repository / "docs" / "residency.md").read_text(encoding="utf-8")
    for rows in (detector_figures.hand_written(), detector_figures.generated(7, 100)):
        assert detector_figures.table(rows, detectors) in page, "run: python -m tools.detector_figures"
