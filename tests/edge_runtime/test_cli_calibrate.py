"""`edge-runtime calibrate`: rows in, a calibration that later answers find, tables and pictures out."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import make_package

from edge_runtime.calibration import find_calibration, user_file
from edge_runtime.cli import calibrate, cli
from edge_runtime.errors import DataError
from edge_runtime.evaluation.labelled import Question, answer_all, mark, read_rows
from edge_runtime.evaluation.pictures import deferral
from edge_runtime.model import LoadedModel
from edge_runtime.runtime import Runtime
from offload.calibration import Calibration
from offload.checks import with_checks
from offload.spans import decisive_spans
from offload.types import Evidence, Token

FRAME = '{"intent":"alarm_set","slots":{"time":"five"}}'


def evidence(text: str, logprob: float) -> Evidence:
    tokens = [Token(i, c, logprob=logprob, entropy=-logprob, margin=1.0) for i, c in enumerate(text)]
    return Evidence.fold(tokens, "stop", decisive_spans(tokens))


def outcome(i: int, rng: np.random.Generator, *, strong: bool = False) -> dict[str, object]:
    p = float(rng.uniform(0.2, 0.99))
    row: dict[str, object] = {
        "prompt": f"wake me {i}",
        "response": FRAME,
        "weak_correct": bool(rng.random() < p),
        "evidence": evidence(FRAME, float(np.log(p))).to_dict(),
    }
    return row | {"strong_correct": True} if strong else row


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write(tmp_path / "rows.jsonl", *(outcome(i, rng, strong=True) for i in range(120)))


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["calibrate", *map(str, args)])


def test_marked_rows_make_a_calibration_that_answers_of_the_model_find(package: Path, data: Path) -> None:
    done = run("-m", package, "--data", data, "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert (value["model"], value["n"], value["left_out"], value["pictures"]) == ("tiny", 120, {}, [])
    (kind,) = value["kinds"]
    assert kind["kind"] == "frame"
    assert kind["figures"]["ece_floor"] > 0
    assert {row["candidate"].split(" · ")[0] for row in kind["tried"]} >= {"temperature", "platt", "logistic"}
    assert kind["signal_auroc"]["mean_logprob"] > 0.6
    assert value["all"]["after"]["ece"] < 0.15
    with LoadedModel.open(package, threads=1) as model:
        assert model.manifest_sha256 is not None
        assert Path(value["file"]) == user_file(model.manifest_sha256)
        found = find_calibration(model)
        assert found is not None
        assert found.id == value["id"]
        again = Runtime(model, calibration=found).answer("x", regex='\\{"intent":"[a-z]{3}"\\}')
    assert again.confidence is not None
    assert again.confidence.p_correct is not None
    assert again.confidence.calibration_id == value["id"]


def test_a_person_gets_tables_and_pictures(package: Path, data: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "c.json", tmp_path / "pictures"
    done = run("-m", package, "--data", data, "--out", out, "--pictures", pictures)
    assert done.exit_code == 0, done.output
    for told in (
        "answers of kind frame: 120 rows",
        "chosen: ",
        "Brier",
        "ECE of chance alone",
        "before",
        "after",
    ):
        assert told in done.stdout
    assert f"wrote calibration {Calibration.load(out).id} to {out}" in done.stderr
    for name in ("reliability.png", "deferral.png"):
        raw = (pictures / name).read_bytes()
        assert raw.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", raw[16:24])
        assert min(width, height) > 400


@contextmanager
def opened(answers: dict[str, tuple[str, float]]) -> Iterator[Callable[..., object]]:
    def generate(prompt: str, params: object) -> SimpleNamespace:
        text, logprob = answers[prompt]
        return SimpleNamespace(text=text, evidence=with_checks(evidence(text, logprob), prompt, text))

    yield lambda *_: SimpleNamespace(prompt=lambda messages: messages[-1]["content"], generate=generate)


def test_questions_are_asked_and_marked(
    monkeypatch: pytest.MonkeyPatch, package: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    rows, answers = [], {}
    for i in range(90):
        p = float(rng.uniform(0.3, 0.99))
        right = rng.random() < p
        rows.append({"prompt": f"what is {i}+1", "reference": i + 1, "suite": "problems"})
        answers[rows[-1]["prompt"]] = (f"{i}+1={i + 1}\nanswer: {i + 1 if right else i}", float(np.log(p)))
    with LoadedModel.open(package, threads=1) as model, opened(answers) as fake:
        model.prompt, model.generate = fake().prompt, fake().generate  # type: ignore[method-assign,attr-defined]
        monkeypatch.setattr(calibrate, "open_model", lambda *_: model)
        done = run("-m", "tiny", "--data", write(tmp_path / "q.jsonl", *rows), "--json")
    assert done.exit_code == 0, done.output
    (kind,) = json.loads(done.stdout)["kinds"]
    assert (kind["kind"], kind["n"]) == ("solution", 90)
    assert kind["signal_auroc"]["arithmetic"] > 0.95, "a last line that is not the result gives itself away"


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (({"intent": "alarm_set", "slots": {"time": "Five"}}, None), FRAME, True),
        (({"intent": "alarm_set", "slots": {}}, None), FRAME, False),
        (({"intent": "alarm_set", "slots": {}}, None), "no frame", False),
        ((35, None), "24+11=35\nanswer: 35", True),
        (("the total is #### 35", "problems"), "answer: 35.0", True),
        ((35, None), "answer: 36", False),
        ((35, None), "35", False),
        (("Paris", None), " paris ", True),
        (("Paris", None), "It is Paris.", False),
        (({"on": True}, None), '{ "on": true }', True),
    ],
)
def test_what_the_reference_is_says_how_an_answer_is_marked(
    question: tuple[object, str | None], answer: str, right: bool
) -> None:
    reference, suite = question
    assert mark(Question([{"role": "user", "content": "?"}], reference, suite), answer) is right


def test_rows_of_another_program_get_the_checks_that_answers_of_ours_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    row = outcome(1, rng)
    other = row | {"evidence": {**row["evidence"], "extra": {"grounded": 0.5}}}  # type: ignore[dict-item]
    labelled = read_rows(write(tmp_path / "rows.jsonl", row, other)).labelled
    assert [one.evidence.extra for one in labelled] == [{"grounded": 0.0}, {"grounded": 0.5}]


def test_labels_come_with_the_kind_of_the_answer() -> None:
    questions = [
        Question([{"role": "user", "content": "a"}], {"intent": "alarm_set", "slots": {"time": "five"}})
    ]
    steps: list[int] = []
    found = answer_all(questions, lambda _: (FRAME, evidence(FRAME, -0.1)), lambda: steps.append(1))
    assert [(row.kind, row.correct) for row in found] == [("frame/alarm", True)]
    assert steps == [1]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "a"}, "line 2: has no 'reference'"),
        ({"reference": 1}, "needs either 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": [], "reference": 1}, "needs either 'prompt' or 'messages'"),
        ({"messages": ["a"], "reference": 1}, "'messages' is not a list of objects"),
        ({"prompt": 3, "reference": 1}, "'prompt' is 3, not text"),
        ({"prompt": "a", "reference": {"intent": 1}}, "'reference' is no frame"),
        ({"prompt": "a", "reference": "many", "suite": "problems"}, "not 'many'"),
        ({"prompt": "a", "reference": 1, "suite": 2}, "'suite' is 2"),
        ({"prompt": "a", "weak_correct": True}, "has no 'evidence'"),
        ({"prompt": "a", "weak_correct": True, "evidence": {"n": 1, "n_scored": 1}}, "has no 'response'"),
        (
            {"prompt": "a", "weak_correct": "yes", "evidence": {"n": 1, "n_scored": 1}},
            "weak_correct is 'yes'",
        ),
        ({"prompt": "a", "weak_correct": True, "response": "b", "evidence": {"n": 1}}, "evidence"),
        ([1], "is not a JSON object"),
    ],
)
def test_a_wrong_row_is_an_error_with_file_and_line(tmp_path: Path, row: object, told: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "reference": 1}, row)
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert f"{path}, line 2" in str(error.value)
    assert told in str(error.value)
    assert len(read_rows(path, limit=1).questions) == 1


def test_nan_and_no_rows_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a", "weak_correct": 1, "response": "b", "evidence": {"n": 1, "n_scored": NaN}}\n'
    )
    with pytest.raises(DataError, match="NaN is not a number"):
        read_rows(path)
    path.write_text("\n\n")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(path)


def test_too_few_rows_or_one_class_end_with_the_exit_code_of_offload(package: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    few = write(tmp_path / "few.jsonl", *(outcome(i, rng) for i in range(12)))
    done = run("-m", package, "--data", few)
    assert done.exit_code == 7
    assert "needs 50 with at least 10 of each" in done.stderr
    right = write(tmp_path / "right.jsonl", *(outcome(i, rng) | {"weak_correct": 1} for i in range(80)))
    done = run("-m", package, "--data", right)
    assert done.exit_code == 7
    assert "80 right and 0 wrong rows" in done.stderr


def test_handing_over_the_least_sure_is_as_a_naive_loop_counts_it() -> None:
    rng = np.random.default_rng(3)
    c, w, s = rng.permutation(20) / 20, rng.random(20) < 0.5, rng.random(20) < 0.8
    together, kept = deferral(c, w, s), deferral(c, w)
    for k in range(21):
        over = set(np.argsort(c)[:k])
        assert together[k] == pytest.approx(np.mean([s[i] if i in over else w[i] for i in range(20)]))
        if k < 20:
            assert kept[k] == pytest.approx(np.mean([w[i] for i in range(20) if i not in over]))
