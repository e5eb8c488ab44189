"""The router in the simulation: within its budgets, and deciding as it does for one query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offload.simulate import (
    NETWORKS,
    PROFILES,
    CloudOnly,
    LocalOnly,
    ModelSize,
    Scenario,
    World,
    synthetic_pool,
)
from offload.simulate.router import RouterPolicy
from offload.worth import resolution

POOL = synthetic_pool(500, 1)
COST = 0.0012
SCENARIO = Scenario(
    POOL,
    (PROFILES["pi5"],),
    ModelSize(0.5e9, 0.4e9),
    NETWORKS["lte"],
    devices=20,
    queries=40,
    budget=8 * COST,
)


def test_the_router_never_exceeds_a_budget_and_uses_most_of_it() -> None:
    world = World(SCENARIO)
    periods = world.arrival[-1] - world.arrival[0] + 120.0
    router = RouterPolicy(0.01, budget=SCENARIO.budget, window_s=periods.tolist())
    run = world.run(router)
    spent = run.stack("cost").sum(axis=0)
    assert (spent <= SCENARIO.budget * (1 + 1e-9)).all()
    assert spent.mean() > 0.7 * SCENARIO.budget
    fifths = run.stack("asked").reshape(5, 8, -1).mean(axis=(1, 2))
    assert fifths[0] < 0.3  # from a cold start
    assert fifths[-1] > 0.1
    assert run.summary().utility > world.run(LocalOnly()).summary().utility
    assert router.decisions >= run.stack("asked").size


def test_without_a_budget_what_is_escalated_is_what_gains() -> None:
    world = World(replace(SCENARIO, budget=float("inf"), price_latency=0.0))
    run = world.run(RouterPolicy(0.0))
    confidence = POOL.confidence[world.query]
    asked = run.stack("asked") > 0
    link = run.stack("from_cloud") > 0
    assert confidence[asked & link].max() <= POOL.strong_prior[0] + 1e-9
    kept = ~asked
    assert np.quantile(confidence[kept], 0.1) >= 0.5


def test_an_answer_that_tells_nothing_new_is_not_tried_on_a_slow_board() -> None:
    blind = replace(POOL, confidence=POOL.prior)
    world = World(replace(SCENARIO, pool=blind, profiles=(PROFILES["pi4"],), budget=float("inf")))
    rho = resolution(blind.prior, blind.confidence, blind.weak)
    assert rho == 0
    asked = world.run(RouterPolicy(0.01, resolution=rho)).summary().utility
    assert asked >= world.run(CloudOnly()).summary().utility - 0.002


@pytest.mark.parametrize("field", ["confidence", "prior"])
def test_what_is_not_known_is_not_taken_for_sure(field: str) -> None:
    blind = replace(POOL, **{field: np.full(len(POOL), np.nan)})
    world = World(replace(SCENARIO, pool=blind, budget=float("inf"), links=NETWORKS["wifi"]))
    share = world.run(RouterPolicy(0.0)).summary().escalated
    assert share > (0.9 if field == "confidence" else 0.2)
