"""The comparison of policies: small runs of every part, its tables and page, and recorded outcomes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from offload.evaluate.metrics import auroc
from offload.outcomes import Outcome
from offload.simulate import ModelSize, synthetic_pool
from offload.types import Evidence
from tools.compare_policies import renewed
from tools.simulation.fleet import Study, boards, fleets, formula_table, recorded_pools
from tools.simulation.learning import drift_study, online_study
from tools.simulation.report import draw, fill, recorded_tables, tables

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    fit, test = synthetic_pool(400, 1).split(0.5, 0)
    study = Study(fit, test, ModelSize(0.5e9, 0.4e9), devices=8, queries=6, seed=0)
    online, curves = online_study(60, 1)
    figures = {
        "fleet": fleets(study, {True: [], False: []}, lambda text: None),
        "boards": boards(study),
        "formula": formula_table(),
        "agents": [],
        "online": online,
        "drift": drift_study(1, 200, 20),
    }
    return figures, curves


def test_every_table_of_the_page_can_be_made(made: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    figures, _ = made
    page = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    filled = fill(page, tables(figures))
    assert filled.count("<!-- table ") == len(tables(figures)) + 1  # and the one of recorded outcomes
    assert "| our router |" in filled
    assert fill(filled, tables(figures)) == filled


def test_a_run_over_recorded_outcomes_says_what_they_are(
    made: tuple[dict[str, Any], dict[str, np.ndarray]],
) -> None:
    about = {
        "source": "pair.jsonl: 10 rows, confidence from mean_logprob",
        "rows": {"fit": 5, "test": 5},
        "device_right": 0.6,
        "cloud_right": 0.9,
        "auroc": 0.875,
    }
    table = recorded_tables({**made[0], **about})["recorded"]
    assert table.startswith("pair.jsonl: 10 rows, confidence from mean_logprob. Of the 5 rows that nothing")
    assert "60.0% and the cloud on 90.0%; AUROC of the confidence 0.875" in table
    page = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    assert table in fill(page, {"recorded": table})


def test_a_page_without_a_place_for_a_table_says_which() -> None:
    with pytest.raises(ValueError, match="no '<!-- table boards -->' with an '<!-- end -->'"):
        fill("nothing", {"boards": "|a|"})


def test_within_a_budget_only_what_cannot_see_it_exceeds_it(
    made: tuple[dict[str, Any], dict[str, np.ndarray]],
) -> None:
    limited = [r for r in made[0]["fleet"] if r["budget"]]
    assert len(limited) == 3 * 7
    assert all(r["over_budget"] == 0 for r in limited)


def test_renewed_figures_keep_the_agents_of_the_same_episodes_alone(
    made: tuple[dict[str, Any], dict[str, np.ndarray]],
) -> None:
    figures, _ = made
    agent = {**figures["fleet"][0], "policy": "PPO", "utility": 0.6}
    agents = [{"name": "PPO"}]
    router = [{**row, "utility": 0.0} if row["policy"] == "our router" else row for row in figures["fleet"]]
    former = {**figures, "fleet": [*router, agent], "agents": agents, "drift": "kept"}
    found = renewed(former, {"fleet": figures["fleet"], "agents": []})
    assert found["fleet"] == [*figures["fleet"], agent]
    assert (found["agents"], found["drift"]) == (agents, "kept")
    other = [{**row, "utility": row["utility"] + 0.01} for row in figures["fleet"]]
    with pytest.raises(click.ClickException, match="made on other episodes"):
        renewed(former, {"fleet": other, "agents": []})


def test_pictures_are_drawn(made: tuple[dict[str, Any], dict[str, np.ndarray]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib (the extra plot)")
    paths = draw(*made, 0.02, tmp_path)
    assert [path.stat().st_size > 10_000 for path in paths] == [True, True]


def test_the_page_shows_the_figures_that_are_kept_beside_it() -> None:
    page = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
    for name, made_of in (("simulation.json", tables), ("simulation_recorded.json", recorded_tables)):
        figures = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert fill(page, made_of(figures)) == page, "run: python tools/compare_policies.py"


def test_recorded_outcomes_become_calibrated_pools() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3_000):
        z = float(rng.normal())
        logprob = -math.exp(-1 - z)
        evidence = Evidence(
            n=4,
            n_scored=4,
            sum_logprob=4 * logprob,
            mean_logprob=logprob,
            mean_entropy=0.1,
            finish_reason="stop",
        )
        right = bool(rng.random() < 1 / (1 + math.exp(-1.5 * z)))
        rows.append(Outcome("word " * (1 + i % 9), right, True, evidence=None if i % 10 == 0 else evidence))
    fit, test = recorded_pools(rows, "mean_logprob", 0)
    assert len(fit) == len(test) == 1_500
    assert test.confidence.mean() == pytest.approx(test.weak.mean(), abs=0.04)
    sure = auroc(test.confidence, test.weak)
    assert sure is not None
    assert sure > 0.7
    blind = test.confidence == test.prior
    assert blind.mean() == pytest.approx(0.1, abs=0.03)


def test_the_published_formula_is_far_from_the_measured_speeds_and_says_so() -> None:
    rows = {row["board"].split(" (")[0].split(" with")[0]: row for row in formula_table()}
    assert rows["Raspberry Pi 5"]["measured"] > 50 * rows["Raspberry Pi 5"]["published"]
    assert rows["Phone"]["measured"] > 50 * rows["Phone"]["corrected"]
