"""Episodes against a slow reference for one device at a time, and what every policy must keep to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import SimulationError
from offload.simulate import (
    NETWORKS,
    PROFILES,
    CloudOnly,
    ExpectedUtility,
    Fixed,
    Hindsight,
    LocalOnly,
    ModelSize,
    Policy,
    Random,
    Scenario,
    Threshold,
    Traces,
    World,
    synthetic_pool,
)
from offload.simulate.workload import BYTES_PER_TOKEN, OVERHEAD_BYTES
from offload.simulate.world import ATTEMPTS, ROUND_TRIPS, View

SIZE = ModelSize(0.5e9, 0.4e9)
POOL = synthetic_pool(400, 1)
ONE_QUERY = 0.00115


def scenario(**changes: object) -> Scenario:
    base = Scenario(
        POOL, (PROFILES["pi5"], PROFILES["pi4"]), SIZE, NETWORKS["rural"], devices=5, queries=30, gap_s=30.0
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Scripted(Fixed):
    """Decides by the query's position: a third direct, a third after trying, a third kept."""

    def before(self, view: View) -> np.ndarray:
        return np.full(len(view.cost), view.step % 3 == 0)

    def after(self, view: View) -> np.ndarray:
        return np.full(len(view.cost), view.step % 3 == 1)


def slow(world: World, device: int) -> list[tuple[bool, float, float, float]]:
    """(correct, latency, cost, energy) of every query of one device under `Scripted`, in plain Python."""
    s, t = world.scenario, world.traces
    profile = s.profiles[device % len(s.profiles)]
    rows, free = [], 0.0

    def step_of(seconds: float) -> int:
        return min(int(seconds // t.step_s), t.up.shape[1] - 1)

    for k in range(s.queries):
        q = int(world.query[k, device])
        arrival = float(world.arrival[k, device])
        local = float(
            s.pool.prompt_tokens[q] * profile.prefill_seconds(s.size)
            + s.pool.weak_tokens[q] * profile.decode_seconds(s.size)
        )
        start = max(arrival, free)
        direct, asked = k % 3 == 0, k % 3 != 2
        sent = start if direct else start + local
        limit = max(arrival + s.deadline_s, sent)
        answer, begun, now = math.inf, math.inf, sent
        for _ in range(ATTEMPTS):
            at = step_of(now)
            while at < t.up.shape[1] and not t.up[device, at]:
                at += 1
            if at == t.up.shape[1]:
                break
            now = max(now, at * t.step_s)
            begun = min(begun, now)
            at = step_of(now)
            end = (
                now
                + ROUND_TRIPS * t.rtt_s[device, at]
                + (OVERHEAD_BYTES + s.pool.prompt_tokens[q] * BYTES_PER_TOKEN) / t.uplink[device, at]
                + (OVERHEAD_BYTES + s.pool.strong_tokens[q] * BYTES_PER_TOKEN) / t.downlink[device, at]
                + float(world.first_token[k, device])
                + s.pool.strong_tokens[q] / s.cloud.decode
            )
            lost = at
            while lost < t.up.shape[1] and t.up[device, lost]:
                lost += 1
            if lost == t.up.shape[1] or end <= lost * t.step_s:
                answer = end
                break
            now = lost * t.step_s
        price = float(s.cloud.cost(s.pool.prompt_tokens[q], s.pool.strong_tokens[q]))
        if not asked:
            finish, right, cost, waited, computed = start + local, s.pool.weak[q], 0.0, 0.0, local
        elif answer <= limit:
            finish, right, cost, waited = answer, s.pool.strong[q], price, answer - sent
            computed = 0.0 if direct else local
        else:
            finish, right, cost = limit + (local if direct else 0.0), s.pool.weak[q], price * (begun < limit)
            waited, computed = limit - sent, local
        energy = profile.active_watts * computed + profile.idle_watts * waited
        rows.append((bool(right), finish - arrival, cost, energy))
        free = finish
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_all_devices_at_once_do_what_one_after_another_does(seed: int) -> None:
    world = World(scenario(seed=seed, deadline_s=12.0))
    run = world.run(Scripted(name="scripted"))
    assert run.stack("asked").any()
    assert (run.stack("asked") > run.stack("from_cloud")).any(), "no deadline was missed"
    for device in range(world.scenario.devices):
        right, latency, cost, energy = zip(*slow(world, device), strict=True)
        assert run.stack("correct")[:, device].tolist() == [float(r) for r in right]
        np.testing.assert_allclose(run.stack("latency_s")[:, device], latency)
        np.testing.assert_allclose(run.stack("cost")[:, device], cost)
        np.testing.assert_allclose(run.stack("energy_j")[:, device], energy)


def test_every_policy_faces_the_same_episodes() -> None:
    first, second = World(scenario(seed=7)), World(scenario(seed=7))
    assert first.run(LocalOnly()).summary() == second.run(LocalOnly()).summary()
    np.testing.assert_array_equal(first.query, second.query)
    again = first.run(LocalOnly()).summary()
    assert again == second.run(LocalOnly()).summary(), "a run must leave the world as it was"


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 12 * ONE_QUERY))
def test_a_policy_that_knows_its_budget_never_exceeds_it(seed: int, budget: float) -> None:
    world = World(scenario(seed=seed, budget=budget, devices=3, queries=20))
    policies: list[Policy] = [
        Random(share=0.7),
        Threshold(threshold=0.8),
        Hindsight(),
        CloudOnly(within_budget=True),
        ExpectedUtility.fit(POOL),
    ]
    for policy in policies:
        spent = world.run(policy).stack("cost").sum(axis=0)
        assert (spent <= budget * (1 + 1e-9)).all(), policy.name


def test_a_policy_that_does_not_is_reported() -> None:
    summary = World(scenario(budget=5 * ONE_QUERY)).run(CloudOnly()).summary()
    assert summary.over_budget == 1.0


def test_without_a_link_the_device_answers() -> None:
    dead = Traces(10.0, np.zeros((1, 50), bool), *(np.ones((1, 50)) for _ in range(3)))
    world = World(scenario(links=dead))
    for policy in (CloudOnly(), ExpectedUtility.fit(POOL), Threshold(threshold=1.0)):
        run = world.run(policy)
        assert not run.stack("asked").any()
        assert run.summary().quality == world.run(LocalOnly()).summary().quality


def test_an_answer_that_comes_too_late_is_the_devices_and_is_paid_for_once() -> None:
    slow_link = Traces(1e9, np.ones((1, 1), bool), np.full((1, 1), 100.0), np.ones((1, 1)), np.ones((1, 1)))
    world = World(scenario(links=slow_link, deadline_s=5.0))
    run = world.run(CloudOnly())
    assert run.summary().late == 1.0
    np.testing.assert_array_equal(run.stack("correct"), run.stack("weak"))
    sent = np.maximum.accumulate(run.stack("cost"), axis=0)
    assert (sent > 0).any()
    assert (run.stack("cost") < 2 * run.stack("cost").max()).all()


def test_pacing_leaves_money_for_hard_queries_late_in_the_period() -> None:
    world = World(
        scenario(links=NETWORKS["wifi"], devices=200, queries=60, budget=12 * ONE_QUERY, gap_s=60.0)
    )
    paced = world.run(ExpectedUtility.fit(POOL)).stack("asked").mean(axis=1)
    greedy = world.run(Threshold(threshold=0.8)).stack("asked").mean(axis=1)
    assert greedy[-20:].mean() < 0.02
    assert paced[-20:].mean() > 0.10
    assert paced[:20].mean() < 2 * paced[-20:].mean()


def test_expected_utility_beats_what_knows_less_on_a_calibrated_population() -> None:
    train, test = synthetic_pool(4000, 2).split(0.5, 0)
    world = World(scenario(pool=test, links=NETWORKS["lte"], devices=150, queries=60, budget=15 * ONE_QUERY))
    ours = world.run(ExpectedUtility.fit(train)).summary()
    for policy in (LocalOnly(), Random(share=0.25), Threshold(threshold=0.8)):
        other = world.run(policy).summary()
        assert ours.utility > other.utility, policy.name
    assert ours.utility_low < ours.utility < ours.utility_high


def test_missing_confidence_reads_as_unsure() -> None:
    blind = replace(POOL, confidence=np.full(len(POOL), np.nan), prior=np.full(len(POOL), np.nan))
    world = World(scenario(pool=blind, links=NETWORKS["wifi"], price_latency=0.0))
    for policy in (Threshold(threshold=0.01), ExpectedUtility.fit(blind)):
        assert world.run(policy).summary().escalated > 0.9, policy.name


@pytest.mark.parametrize(
    ("field", "value"),
    [("devices", 0), ("queries", -1), ("deadline_s", 0.0), ("budget", -1.0), ("gap_s", math.nan)],
)
def test_a_scenario_names_the_number_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(SimulationError, match=f"'{field}' must .* not {value!r}"):
        scenario(**{field: value})


def test_a_scenario_needs_a_device() -> None:
    with pytest.raises(SimulationError, match="at least one device profile"):
        scenario(profiles=())
