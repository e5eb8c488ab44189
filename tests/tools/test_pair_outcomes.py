"""Answers are kept, survive a kill, and become outcomes of a pair."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edge_runtime.evaluation.catalogue import SUITES
from edge_runtime.evaluation.problems.grade import Number
from edge_runtime.evaluation.problems.rows import ProblemCase
from edge_runtime.evaluation.rows import FrameCase
from model_zoo.manifest import read_manifest
from offload.outcomes import read_outcomes, write_outcomes
from offload.types import Evidence, Token
from tools import pair_outcomes
from tools.answers import AnswerBook, identity_of

ROOT = Path(__file__).resolve().parents[2]


class FakeModel:
    """Answers `answer: N`, N from a table by what the user says."""

    def __init__(self, table: dict[str, int]) -> None:
        self.table, self.asked, self.closed = table, 0, False

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        return messages

    def generate(self, prompt: Any, params: SimpleNamespace) -> SimpleNamespace:
        self.asked += 1
        token = Token(0, "x", logprob=-0.5, entropy=0.5, margin=1.0)
        text = f"answer: {self.table[prompt[-1]['content']]}"
        return SimpleNamespace(text=text, evidence=Evidence.fold([token], "stop"))

    def close(self) -> None:
        self.closed = True


def book(path: Path, model: FakeModel, identity: str = "a" * 64) -> AnswerBook:
    ticks = itertools.count()
    return AnswerBook(identity, path, lambda: model, clock=lambda: next(ticks))


def ask(found: AnswerBook, words: Sequence[str]) -> list[str]:
    return [found.ask([{"role": "user", "content": word}], 8).text for word in words]


def test_an_answer_is_computed_once_and_read_back_with_its_evidence(tmp_path: Path) -> None:
    model, path = FakeModel({"a": 1, "b": 2}), tmp_path / "x" / "answers.jsonl"
    with book(path, model) as first:
        assert ask(first, ["a", "b", "a"]) == ["answer: 1", "answer: 2", "answer: 1"]
    assert (model.asked, model.closed) == (2, True)
    again = FakeModel({})
    with book(path, again) as second:
        answer = second.ask([{"role": "user", "content": "b"}], 8)
    assert (answer.text, answer.seconds, answer.evidence.mean_logprob) == ("answer: 2", 1, -0.5)
    assert again.asked == 0


@pytest.mark.parametrize("lost", [1, 20, 200])
def test_a_line_that_was_cut_is_asked_again_and_the_file_is_whole_after_it(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "answers.jsonl"
    with book(path, FakeModel({"a": 1, "b": 2})) as first:
        ask(first, ["a", "b"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    model = FakeModel({"a": 1, "b": 2})
    with book(path, model) as second:
        assert len(second) == 1
        ask(second, ["a", "b"])
    assert model.asked == 1
    assert path.read_bytes() == whole


def test_other_weights_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with book(path, FakeModel({"a": 1})) as first:
        ask(first, ["a"])
    with book(path, FakeModel({"a": 9}), identity="b" * 64) as second:
        assert ask(second, ["a"]) == ["answer: 9"]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        book(path, FakeModel({})),
        pytest.raises(BlockingIOError, match=r"answers\.jsonl is being written by another run"),
    ):
        book(path, FakeModel({}))


def test_an_identity_is_of_what_computes_alone() -> None:
    shipped = read_manifest(ROOT / "model_zoo" / "packages" / "pocket")[0]
    told = replace(shipped, evaluation={"other": 1}, licence=replace(shipped.licence, id="MIT"))
    card = replace(shipped, files={**shipped.files, "MODEL_CARD.md": shipped.files["LICENSE"]})
    other = replace(shipped, files={**shipped.files, "tokenizer.json": shipped.files["LICENSE"]})
    assert identity_of(told) == identity_of(card) == identity_of(shipped)
    assert identity_of(other) != identity_of(shipped)


def test_outcomes_say_who_was_right_with_the_devices_evidence(tmp_path: Path) -> None:
    cases = [ProblemCase(word, Number(Fraction(7)), steps, ("sum",)) for steps, word in enumerate("abc", 1)]
    weak, strong = FakeModel({"a": 7, "b": 1, "c": 1}), FakeModel({"a": 7, "b": 7, "c": 2})
    with book(tmp_path / "w", weak) as here, book(tmp_path / "s", strong) as there:
        found = list(pair_outcomes.outcomes(SUITES["problems"], cases, here, there, tagged=True))
    write_outcomes(tmp_path / "o.jsonl", found)
    rows = read_outcomes(tmp_path / "o.jsonl")
    assert [(row.weak_correct, row.strong_correct) for row in rows] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert rows[1].response == "answer: 1"
    assert rows[1].extra == {
        "strong_response": "answer: 7",
        "reference": "7",
        "steps": 2,
        "kinds": ["sum"],
    }
    assert rows[0].evidence is not None
    assert rows[0].evidence.mean_logprob == -0.5
    assert rows[0].latency_s == {"weak": 1.0, "strong": 1.0}
    assert [row.id for row in rows] == ["problems-0", "problems-1", "problems-2"]


def test_rows_that_nobody_can_mark_are_left_out(tmp_path: Path) -> None:
    case = FrameCase("clinc150", "a", None)
    with (
        book(tmp_path / "w", FakeModel({"a": 1})) as here,
        book(tmp_path / "s", FakeModel({"a": 1})) as there,
    ):
        assert not list(pair_outcomes.outcomes(SUITES["oos"], [case], here, there, tagged=False))


def test_a_file_of_rows_is_of_one_suite(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"text": "a", "answer": 1}) + "\n")
    done = CliRunner().invoke(pair_outcomes.main, ["--data", str(data), "--out", str(tmp_path / "o.jsonl")])
    assert done.exit_code == 2
    assert "--data needs exactly one --suite" in done.output
