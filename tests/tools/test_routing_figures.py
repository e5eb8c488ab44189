"""Routing figures: averages over repetitions, re-splits, the page's sections, and a run that goes on."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from offload.evaluate import routing_metrics
from offload.outcomes import Outcome, write_outcomes
from offload.types import Evidence, Token
from tools import routing_figures as figures
from tools import routing_page

SECTIONS = "".join(
    f"<!-- routing: {n} -->\n<!-- /routing: {n} -->\n" for n in ("gsm8k", "mmlu", "llama13b", "pair")
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 20)
    monkeypatch.setattr(figures, "SPLITS", 20)
    monkeypatch.setattr(figures, "PAIR_REPETITIONS", 1)


def rows(n: int = 60) -> list[Outcome]:
    rng = random.Random(0)
    made = []
    for i in range(n):
        easy = rng.random() < 0.6
        tokens = [Token(1, "a", -rng.random() * (0.4 if easy else 3), 0.3, 0.2) for _ in range(4)]
        made.append(
            Outcome(
                f"{'turn on' if easy else 'prove'} thing {i}",
                easy,
                rng.random() < 0.95,
                response="fine",
                evidence=Evidence.fold(tokens, "stop"),
                suite="made",
            )
        )
    return made


def test_an_average_of_equal_repetitions_is_the_figure_itself() -> None:
    made = rows()
    weak, strong = figures.columns(made)
    order = np.arange(len(made), dtype=float)
    found = figures.averaged([order, order], weak, strong)
    alone = routing_metrics(order, weak, strong, resamples=0)
    assert found["metrics"]["apgr"]["value"] == pytest.approx(alone["apgr"].value, abs=1e-4)
    assert found["repetitions"][0] == found["repetitions"][1]
    assert found["curve"][0] == pytest.approx(weak.mean(), abs=1e-4)
    assert found["curve"][-1] == pytest.approx(strong.mean(), abs=1e-4)
    assert (
        found["metrics"]["apgr"]["low"] < found["metrics"]["apgr"]["value"] < found["metrics"]["apgr"]["high"]
    )


def test_a_promise_over_splits_keeps_much_where_the_confidence_is_good_and_nothing_where_it_is_none() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(1_000)
    good = figures.resplit(p, rng.random(1_000) < p, 0.2)
    assert good["certified"] == 1.0
    assert 0.2 < good["coverage"] < 0.7
    assert good["risk"] < 0.2
    none = figures.resplit(p, rng.random(1_000) < 0.5, 0.1)
    assert none["coverage"] < 0.02


def test_reliability_points_cover_all_rows() -> None:
    p = np.linspace(0, 1, 50)
    points = figures.reliability(p, p > 0.5)
    assert sum(n for *_, n in points) == 50
    assert points[0][1] == 0.0
    assert points[-1][1] == 1.0


def test_the_pair_is_measured_kept_and_put_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "routing.md"
    page.write_text(SECTIONS, encoding="utf-8")
    monkeypatch.setattr(figures, "PIECES", {})
    monkeypatch.setattr(figures, "write_page", lambda held: routing_page.write_page(held, page))
    write_outcomes(tmp_path / "pair.jsonl", rows())
    store = tmp_path / "routing.json"
    done = CliRunner().invoke(figures.main, ["--pair", str(tmp_path / "pair.jsonl"), "--store", str(store)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "### made" in text
    assert "| random | 0.500 |" in text
    assert "best signal on these rows (" in text
    assert (tmp_path / "images" / "routing_pair.png").stat().st_size > 10_000
    held = json.loads(store.read_text(encoding="utf-8"))["pair"]["made"]
    assert held["n"] == 60
    assert held["lines"]["router, prompt+evidence"]["metrics"]["apgr"]["value"] > 0.7
    again = CliRunner().invoke(figures.main, ["--page", "--store", str(store)])
    assert again.exit_code == 0, again.output
    assert page.read_text(encoding="utf-8") == text


def test_a_piece_that_is_held_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def piece() -> figures.Figure:
        asked.append("x")
        return {"n": 1}

    monkeypatch.setattr(figures, "PIECES", {"one": piece})
    monkeypatch.setattr(figures, "write_page", lambda held: None)
    for flags in ([], [], ["--again", "one"]):
        done = CliRunner().invoke(figures.main, [*flags, "--store", str(tmp_path / "routing.json")])
        assert done.exit_code == 0, done.output
    assert len(asked) == 2
