"""The decisive part of an answer is found by its looks, and never outside the answer."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.spans import decisive_spans, read
from offload.types import Token


def tokens(*texts: str) -> list[Token]:
    return [Token(i, text, logprob=-0.1 * i) for i, text in enumerate(texts)]


def spelled(spans: object, name: str) -> list[str]:
    return [token.text for token in spans.get(name, ())]  # type: ignore[attr-defined]


FRAME = tokens('{"intent":"', "HassTurnOff", '","slots":{', '"area":"', "living", " ", "room", '"', "}}", "")


def test_a_frames_values_and_their_ends_decide_and_the_rest_is_keys() -> None:
    spans = decisive_spans(FRAME)
    assert spelled(spans, "intent") == ["HassTurnOff", '","slots":{']
    assert spelled(spans, "slots") == ["living", " ", "room", '"']
    assert spelled(spans, "answer") == ["HassTurnOff", '","slots":{', "living", " ", "room", '"']
    assert spelled(spans, "keys") == ['{"intent":"', '","slots":{', '"area":"', "}}", ""]


def test_a_number_ends_with_what_follows_it() -> None:
    spans = decisive_spans(tokens('{"a":', "5", "0", ',"b":', "true", "}"))
    assert spelled(spans, "answer") == ["5", "0", ',"b":', "true", "}"]


def test_what_follows_the_last_mark_decides_a_solution_with_the_end_of_the_text() -> None:
    spans = decisive_spans(tokens("24+18=42", "\n", "answer: 4", "\n", "answer:", " ", "4", "2", ""))
    assert spelled(spans, "answer") == ["4", "2", ""]
    assert spelled(spans, "steps") == ["24+18=42", "\n", "answer: 4", "\n", "answer:", " "]


def test_text_after_the_answers_line_is_not_the_answer() -> None:
    spans = decisive_spans(tokens("#### ", "7", "\n", "Bye"))
    assert spelled(spans, "answer") == ["7", "\n"]


@pytest.mark.parametrize(
    "text", ["Paris is the capital.", '{"intent":"a","slots":{', "[1, 2]", "", '{"a":1} and more', "{" * 5000]
)
def test_plain_text_and_broken_json_have_no_spans(text: str) -> None:
    assert decisive_spans(tokens(*text)) == {}
    assert read(text).form == "text"


def test_a_token_that_is_half_a_character_goes_with_the_character() -> None:
    spans = decisive_spans(tokens('{"a":"', "", "é", '"}'))
    assert [token.id for token in spans["answer"]] == [1, 2, 3]


def test_a_frame_in_a_fence_is_a_frame() -> None:
    text = '```json\n{"intent": "a_b", "slots": {}}\n```'
    assert read(text).kind == "frame/a"
    assert "".join(spelled(decisive_spans(tokens(*text)), "answer")) == 'a_b"'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"intent":"HassTurnOn","slots":{}}', "frame/hass"),
        ('{"intent":"alarm_set","slots":{}}', "frame/alarm"),
        ('{"intent":"none","slots":{}}', "frame/none"),
        ('{"on":true}', "frame"),
        ("2+2=4\nanswer: 4", "solution"),
        ("The result is 4.", "text"),
    ],
)
def test_the_kind_is_read_from_the_answer(text: str, kind: str) -> None:
    assert read(text).kind == kind


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"intent":"a","slots":{"x":50,"y":"B"}}', '{ "slots": {"y":"b", "x":50.0}, "intent": "A" }'),
        ("2+3=5\nanswer: 1,200.50", "Answer:  1200.5"),
        ("so #### 7", "3+4=7\nanswer: 7 apples"),
        (" The  Answer ", "the answer"),
    ],
)
def test_answers_that_say_the_same_have_one_canonical_form(one: str, other: str) -> None:
    assert read(one).canonical == read(other).canonical


def test_answers_that_differ_have_different_forms() -> None:
    assert read("answer: 41").canonical != read("answer: 42").canonical
    assert read("answer: 4:05").canonical != read("answer: 4").canonical
    assert read("answer: -4").canonical != read("answer: 4").canonical
    assert read('{"a":"x"}').canonical != read('{"b":"x"}').canonical


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.randoms(use_true_random=False), st.booleans()
)
def test_every_value_of_any_object_is_covered_however_it_is_cut(
    value: dict[str, object], random, ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    cuts = sorted({0, len(text), *(random.randrange(len(text) + 1) for _ in range(6))})
    cut = tokens(*(text[a:b] for a, b in pairwise(cuts)))
    spans = decisive_spans(cut)
    covered = {token.id for name in ("answer", "keys") for token in spans.get(name, ())}
    assert covered == {token.id for token in cut}
    characters = tokens(*text)
    answer = "".join(spelled(decisive_spans(characters), "answer"))
    for leaf in _leaves(value):
        assert json.dumps(leaf, ensure_ascii=ascii_only).strip('"') in answer


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), max_size=12))
def test_spans_hold_tokens_of_the_text_in_their_order(texts: list[str]) -> None:
    given_tokens = tokens(*texts)
    for part in decisive_spans(given_tokens).values():
        ids = [token.id for token in part]
        assert ids == sorted(set(ids))
        assert set(ids) <= {token.id for token in given_tokens}
