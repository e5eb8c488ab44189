"""Free checks of an answer: its arithmetic, and what it takes from the question."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.evaluation.problems import generate
from offload.checks import check, with_checks
from offload.types import Evidence, Token

STORY = "Ann has 24 apples and buys 18 more. She gives 7 away."


def test_a_right_solution_passes_every_check() -> None:
    assert check(STORY, "24+18=42\n42-7=35\nanswer: 35") == {"arithmetic": 1, "grounded": 1, "used": 1}


@pytest.mark.parametrize(
    ("answer", "arithmetic"),
    [
        ("24+18=43\n43-7=36\nanswer: 36", 2 / 3),
        ("24+18=42\n42-7=35\nanswer: 42", 2 / 3),
        ("24+18=41\n42-7=34\nanswer: 9", 0),
    ],
)
def test_wrong_arithmetic_is_counted(answer: str, arithmetic: float) -> None:
    assert check(STORY, answer)["arithmetic"] == pytest.approx(arithmetic)


def test_numbers_from_nowhere_and_numbers_left_out_are_counted() -> None:
    found = check(STORY, "24+19=43\nanswer: 43")
    assert found["grounded"] == 0.5
    assert found["used"] == pytest.approx(1 / 3)


def test_percentages_times_divisions_and_thousands() -> None:
    assert check("", "50%*84=42\nanswer: 42")["arithmetic"] == 1
    assert check("", "3:40+25=4:05\nanswer: 4:05")["arithmetic"] == 1
    assert check("", "1,000/8=125\nanswer: 125")["arithmetic"] == 1
    assert check("", "0.5 × 3 = 1.5\nanswer: 1.5")["arithmetic"] == 1
    assert check("", "5/0=0\nanswer: 0")["arithmetic"] == 0.5


def test_an_answer_without_working_confirms_nothing() -> None:
    assert check(STORY, "answer: 35") == {"arithmetic": 0, "grounded": 0, "used": 0}


@pytest.mark.parametrize(
    ("question", "slots", "grounded"),
    [
        ("turn off the lights in the kitchen", '{"area":"kitchen","domain":"light"}', 1.0),
        ("turn off the lights in the kitchen", '{"area":"kitten"}', 0.0),
        ("play the beatles", '{"artist":"the beatles","genre":"rock"}', 0.5),
        ("set it to 50 percent", '{"brightness":50}', 1.0),
        ("hello", "{}", 1.0),
        ("area: Living Room\nlights off", '{"area":"living room"}', 1.0),
    ],
)
def test_a_frames_values_are_looked_for_in_the_question(question: str, slots: str, grounded: float) -> None:
    assert check(question, f'{{"intent":"x","slots":{slots}}}') == {"grounded": grounded}


def test_a_value_without_a_word_stands_nowhere() -> None:
    for value in ("-", "…"):
        assert check("dim the lamp", json.dumps({"intent": "x", "slots": {"name": value}})) == {"grounded": 0}


def test_plain_text_has_no_checks_and_evidence_stays_as_it_was() -> None:
    evidence = Evidence.fold([Token(0, "hi", logprob=-1.0)])
    assert check("a", "b") == {}
    assert with_checks(evidence, "a", "b") is evidence
    assert with_checks(evidence, "on 5", '{"a":5}').extra == {"grounded": 1.0}


def test_every_generated_solution_computes_right() -> None:
    for problem in generate(seed=3, count=60, split="val"):
        found = check(problem.text, problem.solution)
        assert found["arithmetic"] == 1, problem
        assert found["used"] > 0


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_checks_are_shares_for_any_text(question: str, answer: str) -> None:
    for text in (answer, f"answer: {answer}", f"{answer}=1\nanswer:", f"1+{answer}=3\n#### {answer}"):
        assert all(0 <= value <= 1 for value in check(question, text).values())
