"""Word problems: grading against the vectors, rows, the fixed test set, the figures, the verb."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli import evaluate
from edge_runtime.errors import DataError
from edge_runtime.evaluation import ask, asker
from edge_runtime.evaluation.catalogue import SUITES, report
from edge_runtime.evaluation.problems import Problem
from edge_runtime.evaluation.problems.grade import Number, parse_answer, parse_reference, well_formed
from edge_runtime.evaluation.problems.rows import ProblemCase, read_problems
from edge_runtime.evaluation.problems.suite import PROBLEM_TOKENS, MarkedProblem, summarise_problems
from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST
from edge_runtime.model import LoadedModel
from offload.types import Evidence, Token

PACKAGE = Path(__file__).resolve().parents[2] / "model_zoo" / "packages" / "pocket"

VECTORS = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "pocket" / "problems.json").read_text(encoding="utf-8")
)


def evidence(logprob: float) -> Evidence:
    return Evidence.fold([Token(0, "x", logprob=logprob, entropy=-logprob, margin=1.0)], "stop")


def marked(text: str, case: ProblemCase, logprob: float = -0.1) -> MarkedProblem:
    return MarkedProblem(text, evidence(logprob), case)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class FakeModel:
    """Works out nothing: answers 35 to everything."""

    id = "fake"

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.limits: set[int] = set()

    def __enter__(self) -> "FakeModel":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        self.asked.append(messages)
        return [1]

    def generate(self, prompt: list[int], params: SimpleNamespace) -> SimpleNamespace:
        self.limits.add(params.max_tokens)
        return SimpleNamespace(text="30+5=35\nanswer: 35", evidence=evidence(-0.2))


@pytest.mark.parametrize(("text", "stated"), VECTORS["answers"])
def test_the_answer_is_the_first_number_after_the_last_mark(text: str, stated: str) -> None:
    found = parse_answer(text)
    assert found is not None
    assert str(found) == stated


@pytest.mark.parametrize("text", VECTORS["no answer"])
def test_text_that_states_no_answer_has_none(text: str) -> None:
    assert parse_answer(text) is None


@pytest.mark.parametrize(("left", "right"), VECTORS["same"])
def test_answers_compare_by_exact_value(left: str, right: str) -> None:
    assert parse_reference(left) == parse_reference(right)


@pytest.mark.parametrize(("left", "right"), VECTORS["different"])
def test_answers_of_other_value_or_kind_differ(left: str, right: str) -> None:
    assert parse_reference(left) != parse_reference(right)


@pytest.mark.parametrize(("row", "stated"), VECTORS["references"])
def test_a_right_answer_is_a_number_a_text_or_a_written_solution(row: object, stated: str) -> None:
    assert str(parse_reference(row)) == stated


@pytest.mark.parametrize("row", [*VECTORS["no reference"], float("nan")])
def test_a_right_answer_without_exactly_one_number_is_refused_with_its_value(row: object) -> None:
    with pytest.raises(ValueError, match="needs 'answer' to be a number or a text that states one") as caught:
        parse_reference(row)
    assert repr(row) in str(caught.value)


@pytest.mark.parametrize("text", VECTORS["well formed"])
def test_a_bare_number_in_the_last_line_is_well_formed(text: str) -> None:
    assert well_formed(text)


@pytest.mark.parametrize("text", VECTORS["not well formed"])
def test_anything_else_in_the_last_line_is_not(text: str) -> None:
    assert not well_formed(text)


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_every_decimal_is_read_back_as_it_is_written(digits: int, places: int) -> None:
    number = Number(Fraction(digits, 10**places))
    assert parse_answer(f"1+1=2\nanswer: {number}") == number
    assert well_formed(f"answer: {number}")


@given(st.integers(0, 24 * 60))
def test_every_clock_time_is_read_back_as_it_is_written(minutes: int) -> None:
    time = Number(Fraction(minutes), clock=True)
    assert parse_answer(f"answer: {time}") == time
    assert parse_answer(f"answer: {minutes}") != time


@given(st.text())
def test_any_text_can_be_graded(text: str) -> None:
    assert parse_answer(text) is None or "answer" in text.lower()
    assert not well_formed(text) or parse_answer(text) is not None


def test_rows_are_ours_or_gsm8ks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"text": "a", "answer": 3, "steps": 2, "kinds": ["rate", "money"]},
        {"question": "b", "answer": "1+1 is 2\n#### 2"},
    )
    cases = read_problems(path)
    assert cases == [
        ProblemCase("a", Number(Fraction(3)), 2, ("rate", "money")),
        ProblemCase("b", Number(Fraction(2))),
    ]
    assert [m["content"] for m in cases[0].messages()] == ["task: problem", "a"]
    assert [m["content"] for m in cases[0].messages(tagged=False)] == ["a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 3}, "needs 'text' or 'question'"),
        ({"text": " ", "answer": 3}, "needs 'text' or 'question'"),
        ({"text": "a"}, "needs 'answer';"),
        ({"text": "a", "answer": "x"}, "needs 'answer' to be a number or a text that states one, not 'x'"),
        ({"text": "a", "answer": 3, "steps": "two"}, "needs 'steps' to be a count, not 'two'"),
        ({"text": "a", "answer": 3, "kinds": "rate"}, "needs 'kinds' to be a list of texts, not 'rate'"),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "a", "answer": 1}, row)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: ") as caught:
        read_problems(path)
    assert message in str(caught.value)
    assert "a word problem has 'text' and 'answer'" in str(caught.value)


def test_the_test_set_is_the_recorded_one_with_equal_rows_per_number_of_steps() -> None:
    cases = PROBLEMS_TEST.cases()
    assert Counter(case.steps for case in cases) == dict.fromkeys(range(1, 7), 100)
    assert len({case.text for case in cases}) == len(cases) == 600
    assert all(case.kinds for case in cases)


def test_the_right_solutions_of_the_test_set_are_graded_right_and_well_formed() -> None:
    for line in PROBLEMS_TEST.text().splitlines():
        row = json.loads(line)
        assert parse_answer(row["solution"]) == parse_reference(row["answer"])
        assert well_formed(row["solution"])
        assert row["family"] == "test"


def test_a_generator_that_writes_other_rows_is_refused_with_both_hashes() -> None:
    def other(*_: object) -> Iterator[Problem]:
        yield Problem("a", "1+1=2\nanswer: 2", "2", 1, ("sum",), "test")

    with pytest.raises(DataError, match="are not the recorded test set") as caught:
        PROBLEMS_TEST.text(other)
    assert PROBLEMS_TEST.sha256 in str(caught.value)
    with pytest.raises(DataError):
        replace(PROBLEMS_TEST, seed=1).cases()


def test_figures_are_over_all_by_steps_by_kind_and_by_signal() -> None:
    one = ProblemCase("a", Number(Fraction(35)), 1, ("sum",))
    two = ProblemCase("b", Number(Fraction(4)), 2, ("sum", "rate"))
    metrics = summarise_problems(
        [
            marked("answer: 35", one, -0.1),
            marked("answer: $35", one, -0.2),
            marked("answer: 5", two, -2.0),
            marked("no idea", two, -3.0),
        ]
    )
    assert {name: (m.value, m.n) for name, m in metrics.items() if not name.startswith("auroc")} == {
        "accuracy": (0.5, 4),
        "well_formed": (0.5, 4),
        "accuracy_steps_1": (1.0, 2),
        "accuracy_steps_2": (0.0, 2),
        "accuracy_kind_rate": (0.0, 2),
        "accuracy_kind_sum": (0.5, 4),
    }
    assert metrics["auroc_mean_logprob"].value == 1.0


def test_rows_without_steps_have_the_overall_figures_alone() -> None:
    metrics = summarise_problems([marked("answer: 1", ProblemCase("a", Number(Fraction(1))))])
    assert not [name for name in metrics if "steps" in name or "kind" in name]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeModel, Callable[..., str]]:
    model = FakeModel()
    monkeypatch.setattr(evaluate, "open_model", lambda name, threads: model)

    def invoke(*args: str) -> str:
        done = CliRunner().invoke(evaluate.command, ["--suite", "problems", *args])
        assert done.exit_code == 0, done.output
        return done.stdout

    return model, invoke


def test_the_verb_measures_rows_and_writes_the_answers_with_their_evidence(
    tmp_path: Path, run: tuple[FakeModel, Callable[..., str]]
) -> None:
    model, invoke = run
    data = write(tmp_path / "rows.jsonl", {"text": "a", "answer": 35}, {"text": "b", "answer": 36})
    out = tmp_path / "out.jsonl"
    value = json.loads(invoke("--data", str(data), "--json", "--rows", str(out)))
    assert (value["suite"], value["model"], value["n"]) == ("problems", "fake", 2)
    assert value["metrics"]["accuracy"]["value"] == 0.5
    assert all(set(metric) == {"value", "low", "high", "n"} for metric in value["metrics"].values())
    assert [m[0]["content"] for m in model.asked] == ["task: problem"] * 2
    assert model.limits == {PROBLEM_TOKENS}
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["weak_correct"] for row in rows] == [1, 0]
    assert rows[0]["response"] == "30+5=35\nanswer: 35"
    assert Evidence.from_dict(rows[0]["evidence"]) == evidence(-0.2)


def test_without_data_the_fixed_set_is_asked_and_untagged_leaves_the_task_out(
    run: tuple[FakeModel, Callable[..., str]],
) -> None:
    model, invoke = run
    value = json.loads(invoke("--limit", "12", "--untagged", "--json"))
    assert value["n"] == 12
    assert {metric for metric in value["metrics"] if "steps" in metric} == {
        f"accuracy_steps_{i}" for i in range(1, 7)
    }
    assert all([m["role"] for m in messages] == ["user"] for messages in model.asked)


def test_the_fixed_rows_can_be_written_and_measured_again(
    tmp_path: Path, run: tuple[FakeModel, Callable[..., str]]
) -> None:
    model, invoke = run
    path = tmp_path / "problems.jsonl"
    value = json.loads(invoke("--write", str(path), "--json"))
    assert value == {"file": str(path), "n": 600, "sha256": PROBLEMS_TEST.sha256}
    assert not model.asked
    assert SUITES["problems"].cases([path]) == PROBLEMS_TEST.cases()


def test_only_generated_rows_can_be_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(evaluate.command, ["--suite", "oos", "--write", str(tmp_path / "x")])
    assert done.exit_code == 2
    assert (
        "--write has the rows of suite problems alone; those of oos are files in EDGE_DATA_DIR" in done.output
    )


def test_every_case_is_asked_once_and_progress_is_told() -> None:
    case, steps = ProblemCase("a", Number(Fraction(1))), []
    found = ask(
        [case] * 3, lambda m: ("answer: 1", evidence(-1.0)), MarkedProblem, step=lambda: steps.append(1)
    )
    assert [m.right for m in found] == [True] * 3
    assert len(steps) == 3


@pytest.mark.skipif(
    not (PACKAGE / "manifest.json").is_file(), reason="the package `pocket` is not in this checkout"
)
def test_the_shipped_package_is_asked_through_its_own_template() -> None:
    with LoadedModel.open(PACKAGE, threads=1) as model:
        cases = PROBLEMS_TEST.cases()[:6]
        found = ask(cases, asker(model, PROBLEM_TOKENS), MarkedProblem)
    assert all(m.evidence.n_scored for m in found)
    assert report(SUITES["problems"], "pocket", found)["n"] == 6
