"""What is measured: every part once, answers kept, held-out problems apart from training and test."""

import itertools
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hassil", reason="hassil is not installed: pip install 'edge-runtime[test]'")

from edge_runtime.evaluation.frames import Frame, hwu_frame
from edge_runtime.evaluation.problems import generate
from edge_runtime.evaluation.problems.grade import Number, parse_answer
from edge_runtime.evaluation.problems.rows import ProblemCase
from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST
from edge_runtime.evaluation.rows import FrameCase, data_folder, find
from offload.types import Evidence, Token
from tools.answers import AnswerBook
from tools.train import measure

FRAME = '{"intent":"alarm_set","slots":{"time":"five"}}'


class FakeModel:
    """Knows one frame and one number."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        return messages

    def generate(self, prompt: Any, params: Any) -> SimpleNamespace:
        self.asked.append(prompt)
        text = "answer: 35" if "problem" in prompt[0]["content"] else FRAME
        token = Token(0, "x", logprob=-0.5, entropy=0.5, margin=1.0)
        return SimpleNamespace(text=text, evidence=Evidence.fold([token], "stop"))

    def close(self) -> None: ...


def test_every_part_has_its_suites_figures_and_rows_asked_in_the_same_way_are_answered_once(
    tmp_path: Path,
) -> None:
    hwu = FrameCase("hwu64", "wake me at five", Frame("alarm_set", {"time": "five"}))
    outside = FrameCase("oos", "how tall is my dog", Frame("none", {}))
    problem = ProblemCase("a problem", Number(Fraction(35)), 1, ("sum",))
    asked = [
        measure.Part("hwu64", "frames", [hwu]),
        measure.Part("hwu64" + measure.UNTAGGED, "frames", [hwu], tagged=False),
        measure.Part("problems", "problems", [problem]),
        measure.Part("oos", "oos", [hwu, outside], tagged=False),
    ]
    model, steps = FakeModel(), itertools.count()
    with AnswerBook("a", tmp_path / "answers.jsonl", lambda: model) as book:
        found = measure.measure_package(book, asked, step=lambda: next(steps))
    assert found["hwu64"]["frame_accuracy"]["value"] == 1.0
    assert found["problems"]["accuracy_steps_1"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert found["oos"]["none_rate_out_of_scope"]["value"] == 0.0
    assert len(model.asked) == 4  # the untagged utterance was asked once for two parts
    assert next(steps) == 5


def test_held_out_problems_are_in_wordings_of_their_own_and_their_solutions_are_right() -> None:
    held = measure.held_out_problems()
    assert all(parse_answer(solution) == case.answer for case, solution in held)
    assert Counter(case.steps for case, _ in held) == dict.fromkeys(range(1, 7), 50)
    texts = {case.text for case, _ in held}
    assert not texts & {case.text for case in PROBLEMS_TEST.cases()}
    assert not texts & {problem.text for problem in generate(0, 2_000, "train")}


def test_a_rehearsal_draws_rows_from_all_over() -> None:
    drawn = measure._spread(range(1_000), 20)
    assert len(set(drawn)) == 20
    assert max(drawn) > 500
    assert len(measure._spread(range(5), 20)) == 5
    assert measure._spread(range(5), None) == range(5)


def test_the_reference_scheme_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "held_out_frames", lambda data, run: iter(()))
    monkeypatch.setattr(measure, "parts", lambda data, held: [])
    monkeypatch.setattr(
        "edge_runtime.evaluation.rows.find", lambda names: [tmp_path / "hwu64" / "test.jsonl"]
    )
    with pytest.raises(ValueError, match="fp32, not int8"):
        measure.measure("pocket", tmp_path, tmp_path, tmp_path, answers=tmp_path, schemes=("int8",))


@pytest.mark.skipif(
    not (data_folder() / "hwu64").is_dir(),
    reason="EDGE_DATA_DIR is not set: it names the folder with hwu64, ha_intents and the other data sets",
)
def test_the_parts_are_the_public_test_rows_and_what_was_held_out() -> None:
    held = {"hwu64 held out": [FrameCase("hwu64", "a", hwu_frame("x", []))]}
    parts = {part.name: part for part in measure.parts(find(["hwu64/test.jsonl"])[0].parent.parent, held)}
    assert list(parts) == [
        "hwu64 held out",
        "problems held out",
        "hwu64",
        "hwu64, no task asked",
        "ha_intents",
        "ha_intents, no task asked",
        "problems",
        "problems, no task asked",
        "oos",
    ]
    assert parts["problems"].cases == parts["problems, no task asked"].cases == PROBLEMS_TEST.cases()
    assert not parts["oos"].tagged
    kinds = Counter(case.kind for case in parts["oos"].cases)
    assert set(kinds) == {"hwu64", "ha_intents", "oos", "clinc150"}
