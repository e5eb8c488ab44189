"""`learn route` and `evaluate --suite routing`: train on one file, measure on another."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge_runtime.cli import cli
from offload.outcomes import Outcome, write_outcomes

EASY, HARD, HOPELESS = "turn on the lamp", "prove the lemma of", "what did I dream of"


def rows(n: int, seed: int, *, suite: str | None = None, strong: bool = True) -> list[Outcome]:
    rng = random.Random(seed)
    made = []
    for i in range(n):
        start = rng.choice([EASY, HARD, HOPELESS])
        w, s = {EASY: (0.9, 0.95), HARD: (0.15, 0.9), HOPELESS: (0.1, 0.1)}[start]
        weak = rng.random() < w
        made.append(
            Outcome(
                f"{start} room {i}",
                weak,
                rng.random() < s if strong else None,
                suite=suite,
                extra={"sure": rng.random() * (1.0 if weak else 0.6), "score": rng.random() - (not weak)},
            )
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routing")
    write_outcomes(folder / "train.jsonl", rows(150, 0))
    write_outcomes(folder / "test.jsonl", rows(120, 1, suite="a") + rows(60, 2, suite="b"))
    write_outcomes(folder / "alone.jsonl", rows(80, 3, strong=False))
    found = invoke(
        "learn", "route", "--data", str(folder / "train.jsonl"), "--out", str(folder / "router.json")
    )
    assert found.exit_code == 0, found.output
    return folder


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def measured(*args: str) -> dict[str, Any]:
    found = invoke("evaluate", "--suite", "routing", *args, "--json")
    assert found.exit_code == 0, found.output
    value: dict[str, Any] = json.loads(found.stdout)
    return value


def test_a_router_trained_on_one_file_is_measured_on_another(folder: Path) -> None:
    value = measured("--router", str(folder / "router.json"), "--data", str(folder / "test.jsonl"))
    assert (value["suite"], value["model"], value["n"]) == ("routing", "router.json (prompt)", 180)
    apgr = value["metrics"]["apgr"]
    assert apgr["low"] <= apgr["value"] <= apgr["high"]
    assert apgr["value"] > 0.7 > value["beside"]["prompt_length"]["apgr"]["value"]
    assert value["beside"]["oracle"]["apgr"] > apgr["value"]
    assert {"ece", "ece_floor", "ece_excess", "brier", "auroc", "cpt_80", "oracle_share_30"} <= set(
        value["metrics"]
    )
    assert {suite: part["n"] for suite, part in value["sets"].items()} == {"a": 120, "b": 60}


def test_training_reports_what_it_measured_in_folds(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.json"
    found = invoke("learn", "route", "--data", str(folder / "train.jsonl"), "--out", str(out), "--json")
    value = json.loads(found.stdout)
    assert value["kind"] == "prompt"
    assert value["n"] == 150
    assert value["bytes"] == out.stat().st_size
    assert value["trained"]["data"] == "train.jsonl"
    assert len(value["trained"]["sha256"]) == 64
    assert value["metrics"]["apgr"]["value"] > 0.65


def test_a_given_signal_is_measured(folder: Path) -> None:
    value = measured("--confidence", "sure", "--data", str(folder / "test.jsonl"))
    assert value["model"] == "sure"
    assert value["metrics"]["auroc"]["value"] > 0.6
    assert "ece" in value["metrics"]
    value = measured("--confidence", "score", "--data", str(folder / "test.jsonl"))
    assert value["metrics"]["auroc"]["value"] == 1.0
    assert "ece" not in value["metrics"]  # it is no probability


def test_rows_of_one_model_alone_have_no_gap_but_an_auroc(folder: Path) -> None:
    value = measured("--confidence", "sure", "--data", str(folder / "alone.jsonl"))
    assert set(value["metrics"]) == {"weak", "auroc", "ece", "ece_floor", "ece_excess", "brier"}
    assert "beside" not in value


def test_a_person_reads_tables(folder: Path) -> None:
    found = invoke(
        "evaluate", "--suite", "routing", "--confidence", "sure", "--data", str(folder / "test.jsonl")
    )
    assert "sure · routing · all rows" in found.stdout
    assert "oracle_share_20" in found.stdout
    assert "beside it, prompt length: APGR 0." in found.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--confidence", "sure"), "name a file with --data"),
        (("--data", "{test}"), "give --router FILE"),
        (("--data", "{test}", "--router", "{router}", "--confidence", "sure"), "measures one thing"),
        (("--data", "{test}", "--confidence", "evidence.mean_logprob"), "no row has the figure"),
        (("--data", "{test}", "--router", "{test}"), "is not JSON"),
        (("--data", "{router}", "--confidence", "sure"), "router.json, line 1: not JSON"),
        (("--data", "{test}", "--data", "{alone}", "--confidence", "sure"), "row 181 has no strong_correct"),
    ],
)
def test_what_cannot_be_measured_says_why(folder: Path, args: tuple[str, ...], said: str) -> None:
    places = {name: str(folder / f"{name}.jsonl") for name in ("test", "alone")}
    places["router"] = str(folder / "router.json")
    found = invoke("evaluate", "--suite", "routing", *(arg.format(**places) for arg in args))
    assert found.exit_code != 0
    assert said in found.output


def test_flags_of_routing_belong_to_it(folder: Path) -> None:
    found = invoke("evaluate", "--suite", "frames", "--confidence", "sure")
    assert found.exit_code == 2
    assert "--router, --confidence and --embedder belong to --suite routing" in found.output


def test_rows_that_nothing_can_be_learnt_from_are_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "router.json"
    found = invoke("learn", "route", "--data", str(folder / "alone.jsonl"), "--out", str(out))
    assert found.exit_code == 7
    assert "row 1" in found.output
    assert "has no strong_correct" in found.output
    assert not out.exists()
