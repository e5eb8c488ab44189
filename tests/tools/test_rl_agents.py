"""The agents to compare with: advantages against a slow reference, and that training helps."""

from __future__ import annotations

import numpy as np
import pytest

from offload.simulate import NETWORKS, PROFILES, ModelSize, Scenario, World, synthetic_pool
from tools.rl.agent import FEATURES, Agent, Network, Rollout
from tools.rl.train import Settings, advantages, train

HIDDEN = 4


def network(seed: int = 0, bias: float = 0.0) -> Network:
    rng = np.random.default_rng(seed)
    shapes = ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN, 1), (1,))
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return Network(*arrays[:-1], np.full(1, bias, np.float32))


def world(seed: int = 0, budget: float = 0.006, queries: int = 20) -> World:
    pool = synthetic_pool(500, 3)
    size = ModelSize(0.5e9, 0.4e9)
    return World(
        Scenario(
            pool,
            (PROFILES["pi5"],),
            size,
            NETWORKS["lte"],
            devices=40,
            queries=queries,
            budget=budget,
            seed=seed,
        )
    )


def slow(
    rewards: np.ndarray, values: np.ndarray, made: np.ndarray, discount: float, trace: float
) -> np.ndarray:
    """One device at a time: list the decisions, sum what each is followed by, then fold from the end."""
    result = np.zeros_like(values)
    for d in range(values.shape[2]):
        moments = [(k, m) for k in range(len(rewards)) for m in (0, 1) if made[k, m, d]]
        carried = 0.0
        for i in range(len(moments) - 1, -1, -1):
            k, m = moments[i]
            after = moments[i + 1] if i + 1 < len(moments) else (len(rewards), 0)
            steps = after[0] - k
            # Rewards of this and the following queries up to the next decision, each discounted by its
            # distance.
            got = sum(discount ** (j - k) * rewards[j, d] for j in range(k, after[0]))
            following = values[after[0], after[1], d] if after[0] < len(rewards) else 0.0
            delta = got + discount**steps * following - values[k, m, d]
            carried = delta + (discount**steps * trace * carried)
            result[k, m, d] = carried
    return result


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_advantages_are_what_listing_the_decisions_gives(discount: float) -> None:
    rng = np.random.default_rng(0)
    values, rewards = rng.normal(size=(6, 2, 30)), rng.normal(size=(6, 30))
    made = rng.random((6, 2, 30)) < 0.7
    for trace in (0.0, 1.0, 0.5):
        fast = advantages(rewards, values, made, discount, trace)
        np.testing.assert_allclose(fast, slow(rewards, values, made, discount, trace), atol=1e-9)


def test_what_is_recorded_is_what_was_done() -> None:
    rollout = Rollout()
    run = world().run(Agent(network(), rollout=rollout))
    sent = np.stack(rollout.actions).reshape(20, 2, 40) & np.stack(rollout.made).reshape(20, 2, 40)
    np.testing.assert_array_equal(sent.any(axis=1), run.stack("asked") > 0)
    assert np.stack(rollout.observations).shape == (40, 40, FEATURES)
    assert np.isfinite(np.stack(rollout.observations)).all()


def test_a_masked_agent_stays_within_its_budget_and_an_unmasked_one_need_not() -> None:
    eager = network(bias=50.0)
    assert world().run(Agent(eager)).summary().over_budget == 0.0
    assert world().run(Agent(eager, masked=False)).summary().over_budget > 0.9


@pytest.mark.heavy
@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_training_improves_the_agent(algorithm: str) -> None:
    pytest.importorskip("torch", reason="training an agent needs torch")
    worlds = [world(seed, budget=float("inf")) for seed in range(2)]
    trained = train(worlds, Settings(algorithm=algorithm, runs=40, rate=1e-2))  # type: ignore[arg-type]
    assert np.mean(trained.curve[-4:]) > np.mean(trained.curve[:2]) + 0.02
    assert trained.runs == 40
