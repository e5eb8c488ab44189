"""The format of recorded outcomes: what is written is read again, and what is wrong is named."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import OutcomesError
from offload.outcomes import Outcome, number_of, read_outcomes, write_outcomes
from offload.types import QUANTILES, Evidence, Token

NUMBERS = st.none() | st.floats(-50, 0)
TOKENS = st.lists(
    st.builds(Token, id=st.just(1), text=st.just("a"), logprob=NUMBERS, margin=NUMBERS),
    max_size=6,
)


def evidence(tokens: list[Token], span: list[Token]) -> Evidence:
    found = Evidence.fold(tokens, "stop", {"answer": span})
    return replace(found, extra={"p_true": 0.5})


@settings(deadline=None)
@given(TOKENS, TOKENS)
def test_evidence_comes_back_from_json_as_it_was(tokens: list[Token], span: list[Token]) -> None:
    before = evidence(tokens, span)
    assert Evidence.from_dict(json.loads(json.dumps(before.to_dict(), allow_nan=False))) == before


def test_quantile_levels_are_written_as_text() -> None:
    value = Evidence.fold([Token(1, "a", -1.0)]).to_dict()
    assert list(value["quantiles"]) == [str(level) for level in QUANTILES]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean_logprb": -1.0}, "unknown field 'mean_logprb'; did you mean 'mean_logprob'?"),
        ({"mean_logprob": math.nan}, "mean_logprob is nan, not a finite number"),
        ({"mean_logprob": "-1"}, "mean_logprob is '-1', not a finite number"),
        ({"n": None}, "n is None, not a whole number"),
        ({"n": True}, "n is True, not a whole number"),
        ({"quantiles": {"x": -1.0}}, "quantiles has the level 'x'"),
        ({"quantiles": {"0.1": math.inf}}, "quantiles['0.1'] is inf"),
        ({"quantiles": [1]}, "quantiles is [1], not an object"),
        ({"finish_reason": "tired"}, "finish_reason is 'tired', not one of stop"),
        ({"spans": {"answer": {"n": 1}}}, "spans['answer']: n_scored is None"),
        ({"extra": {"p_true": None}}, "extra['p_true'] is None"),
    ],
)
def test_wrong_evidence_is_refused_by_its_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        Evidence.from_dict({"n": 1, "n_scored": 1, **change})
    assert said in str(error.value)


def test_rows_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    rows = [
        Outcome("What is 1+1?", True),
        Outcome(
            "Wie spät?",
            False,
            True,
            response="4:05",
            evidence=evidence([Token(1, "4", -0.5)], []),
            option_probs=((0.25, 0.75), (0.5, 0.5)),
            cost={"strong": 0.002},
            latency_s={"weak": 0.1, "strong": 1.5},
            suite="problems",
            id="7",
            extra={"subject": "time"},
        ),
    ]
    write_outcomes(tmp_path / "rows.jsonl", rows)
    assert read_outcomes(tmp_path / "rows.jsonl") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert read_outcomes(tmp_path / "rows.jsonl", limit=1) == rows[:1]


def test_short_forms_are_read() -> None:
    row = Outcome.from_dict(
        {
            "prompt": "p",
            "weak_correct": 1,
            "strong_correct": 0.0,
            "option_probs": [0.2, 0.8],
            "cost": 2,
            "latency_s": {"strong": 3, "weak": None},
            "id": 5,
        }
    )
    assert (row.weak_correct, row.strong_correct, row.id) == (True, False, "5")
    assert row.option_probs == ((0.2, 0.8),)
    assert row.cost == {"weak": 2.0}
    assert row.latency_s == {"strong": 3.0}


GOOD = {"prompt": "p", "weak_correct": True}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"weak_correct": True}, "prompt is missing"),
        ({"prompt": "p"}, "weak_correct is missing"),
        ({**GOOD, "prompt": None}, "prompt is null"),
        ({**GOOD, "prompt": 3}, "prompt is 3, not text"),
        ({**GOOD, "weak_correct": "yes"}, "weak_correct is 'yes', not true, false, 1 or 0"),
        ({**GOOD, "strong_correct": 0.4}, "strong_correct is 0.4"),
        ({**GOOD, "evidence": {"n": 1, "n_scored": 2, "max_entropy": "a"}}, "evidence: max_entropy is 'a'"),
        ({**GOOD, "evidence": []}, "evidence: evidence is [], not an object"),
        ({**GOOD, "cost": -1}, "cost is -1, not a finite number from 0 on"),
        ({**GOOD, "cost": {"cloud": 1}}, "cost has the key 'cloud'"),
        ({**GOOD, "latency_s": {"weak": "1"}}, "latency_s of the weak model is '1'"),
        ({**GOOD, "option_probs": [0.9, 0.9]}, "option_probs has [0.9, 0.9]"),
        ({**GOOD, "option_probs": [[0.5, 0.5], [1.0]]}, "option_probs has [1.0]"),
        ({**GOOD, "option_probs": "ab"}, "option_probs is 'ab'"),
        ({**GOOD, "id": 1.5}, "id is 1.5, not text"),
        ([1], "the row is not a JSON object"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(OutcomesError) as error:
        read_outcomes(path)
    assert str(error.value).startswith(f"{path}, line 3: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"\n \n", "has no rows"),
        (b"{oops}\n", "line 1: not JSON"),
        (b'{"prompt": "p", "weak_correct": 1, "score": NaN}\n', "line 1: NaN is not a number"),
        (b"\xff\n", "is not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutcomesError, match=said):
        read_outcomes(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutcomesError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_outcomes(tmp_path / "nowhere.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_outcomes(path, [Outcome("old", True)])
    with pytest.raises(ValueError):
        write_outcomes(path, [Outcome("new", True, extra={"score": math.nan})])
    assert read_outcomes(path) == [Outcome("old", True)]
    assert [found.name for found in tmp_path.iterdir()] == ["rows.jsonl"]


def test_figures_of_a_row_are_found_by_name() -> None:
    row = Outcome(
        "p",
        True,
        evidence=evidence([Token(1, "a", -1.0), Token(1, "b", -3.0)], [Token(1, "b", -3.0)]),
        option_probs=((0.2, 0.8), (0.4, 0.6)),
        latency_s={"weak": 0.5},
        extra={"score": 4, "flag": True, "huge": math.inf, "name": "x"},
    )
    assert number_of(row, "evidence.mean_logprob") == -2.0
    assert number_of(row, "evidence.quantiles.0.5") == -2.0
    assert number_of(row, "evidence.spans.answer.min_logprob") == -3.0
    assert number_of(row, "option_probs.max") == pytest.approx(0.7)
    assert number_of(row, "latency_s.weak") == 0.5
    assert number_of(row, "score") == 4.0
    for absent in ("flag", "huge", "name", "evidence", "evidence.n.x", "nothing", "cost.strong", "prompt"):
        assert number_of(row, absent) is None
    assert number_of(Outcome("p", True), "option_probs.max") is None
