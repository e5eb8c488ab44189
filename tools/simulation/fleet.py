"""Policies on the same simulated episodes: links × budgets, and board by board."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offload.outcomes import Outcome
from offload.simulate import (
    CLOUD,
    NETWORKS,
    PROFILES,
    CloudOnly,
    ExpectedUtility,
    Hindsight,
    LocalOnly,
    ModelSize,
    Policy,
    Pool,
    Random,
    Scenario,
    Threshold,
    World,
    pool_from_outcomes,
)
from offload.simulate.router import RouterPolicy
from offload.worth import resolution
from tools.rl.train import Settings, Trained, train

__all__ = ["Study", "agents", "boards", "fleets", "formula_table", "recorded_pools"]

LATENCY_PRICE = 0.01
"""What a second is worth in quality: a wrong answer is as bad as 100 s of waiting."""
SHARE = 0.2
"""The budget pays for this share of the queries at the mean price."""


@dataclass(frozen=True)
class Study:
    """What is compared: policies are fitted or trained on `fit`, and compared on `test`."""

    fit: Pool
    test: Pool
    size: ModelSize
    devices: int
    queries: int
    seed: int

    @property
    def budget(self) -> float:
        """Money that one device may spend."""
        return SHARE * self.queries * float(CLOUD.cost(self.fit.prompt_tokens, self.fit.strong_tokens).mean())

    def world(self, link: str, limited: bool, *, fit: bool = False, devices: int = 0, seed: int = 0) -> World:
        """Episodes on one kind of link; the ones to fit on have other queries and other draws."""
        scenario = Scenario(
            self.fit if fit else self.test,
            tuple(PROFILES.values()),
            self.size,
            NETWORKS[link],
            devices=devices or self.devices,
            queries=self.queries,
            budget=self.budget if limited else math.inf,
            price_latency=LATENCY_PRICE,
            seed=self.seed + seed + (1_000 if fit else 0),
        )
        return World(scenario)

    def policies(self, world: World, limited: bool) -> list[Policy]:
        """Everything but the agents."""
        gains = np.sort(self.fit.strong_prior - np.nan_to_num(self.fit.confidence))
        # The threshold that a user would set: it spends the budget if queries are like those it was fitted
        # on.
        cut = SHARE if limited else 1 - float(np.mean(gains <= 0))
        threshold = float(np.quantile(np.nan_to_num(self.fit.confidence), cut))
        # A device's period, from its first query to the end of its last: the others plan by its queries.
        periods = world.arrival[-1] - world.arrival[0] + 2 * world.scenario.deadline_s
        return [
            LocalOnly(),
            CloudOnly(name="cloud until the budget ends" if limited else "cloud only", within_budget=limited),
            Random(share=SHARE if limited else 0.5),
            Threshold(threshold=threshold, name="threshold on confidence"),
            RouterPolicy(
                LATENCY_PRICE,
                budget=self.budget if limited else None,
                window_s=periods.tolist(),
                resolution=resolution(self.fit.prior, self.fit.confidence, self.fit.weak),
                prior_gains=gains[:: max(1, len(gains) // 256)].tolist(),
                name="our router",
            ),
            ExpectedUtility.fit(self.fit, name="expected utility, paced"),
            Hindsight(),
        ]


def agents(
    study: Study, runs: int, seconds: float, report: Callable[[str], None]
) -> dict[bool, list[tuple[Trained, str]]]:
    """Agents by whether the budget is limited, each trained for at most `seconds` on all kinds of links."""
    plans = {
        True: [
            ("PPO, cannot overspend", Settings("ppo", masked=True, runs=runs, seconds=seconds)),
            ("PPO, multiplier", Settings("ppo", masked=False, runs=runs, seconds=seconds, entropy=0.01)),
            (
                "A2C, cannot overspend",
                Settings("a2c", masked=True, runs=3 * runs, seconds=seconds, rate=3e-3),
            ),
            ("A2C, multiplier", Settings("a2c", masked=False, runs=3 * runs, seconds=seconds, rate=3e-3)),
        ],
        False: [
            ("PPO", Settings("ppo", runs=runs, seconds=seconds)),
            ("A2C", Settings("a2c", runs=3 * runs, seconds=seconds, rate=3e-3)),
        ],
    }
    found: dict[bool, list[tuple[Trained, str]]] = {True: [], False: []}
    for limited, settings in plans.items():
        worlds = [
            study.world(link, limited, fit=True, devices=64, seed=s) for s in range(2) for link in NETWORKS
        ]
        for name, wanted in settings:
            trained = train(worlds, wanted)
            trained.agent.name = name
            report(f"{name}: {trained.runs} runs, {trained.seconds:.0f} s")
            found[limited].append((trained, name))
    return found


def fleets(
    study: Study, trained: dict[bool, list[tuple[Trained, str]]], report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row per budget, link and policy."""
    rows = []
    for limited in (True, False):
        for link in NETWORKS:
            world = study.world(link, limited)
            policies = [*study.policies(world, limited), *(t.agent for t, _ in trained[limited])]
            for policy in policies:
                summary = world.run(policy).summary().to_json()
                rows.append({"link": link, "budget": SHARE if limited else None, **summary})
            report(f"{link}, {'limited' if limited else 'unlimited'}: {len(policies)} policies")
    return rows


def boards(study: Study) -> list[dict[str, Any]]:
    """Our router, the device alone and the cloud alone on each board over LTE, with the budget."""
    rows = []
    for profile in PROFILES.values():
        scenario = Scenario(
            study.test,
            (profile,),
            study.size,
            NETWORKS["lte"],
            devices=study.devices,
            queries=study.queries,
            budget=study.budget,
            price_latency=LATENCY_PRICE,
            seed=study.seed,
        )
        world = World(scenario)
        wanted = ("local only", "our router", "expected utility, paced")
        for policy in study.policies(world, True):
            if policy.name in wanted:
                rows.append({"board": profile.title, **world.run(policy).summary().to_json()})
    return rows


def formula_table(
    parameters: float = 3.21e9, weight_bytes: float = 1.9e9, tokens: int = 200
) -> list[dict[str, Any]]:
    """Seconds for a prompt and answer of `tokens` in all: by peak FLOPS as published, and by measured speeds.

    TMO's `compute_local_costs` takes 2·P/L_base operations a token and multiplies by L_total, which divides
    the cost by the length of the prompt; corrected it is 2·P·L_total at peak, which still ignores that
    decoding is bound by memory. Peaks are those of its `devices.py` (for the phone, its only one: an iPhone
    15 Pro).
    """
    peaks = {"pi4": 13.5e9, "pi5": 31.4e9, "phone": 35e12}
    size = ModelSize(parameters, weight_bytes)
    rows = []
    for name, peak in peaks.items():
        profile = PROFILES[name]
        half = tokens // 2
        rows.append(
            {
                "board": profile.title,
                "published": 2 * parameters / half * tokens / peak,
                "corrected": 2 * parameters * tokens / peak,
                "measured": half * (profile.prefill_seconds(size) + profile.decode_seconds(size)),
            }
        )
    return rows


def recorded_pools(outcomes: Sequence[Outcome], signal: str, seed: int) -> tuple[Pool, Pool]:
    """Pools to fit and to test on from recorded outcomes: halves of the rows, drawn at random.

    The confidence is a logistic regression on one signal of the evidence, fitted on the first half; the prior
    one on the length of the prompt and the digits in it. A row without evidence has the prior as its
    confidence.
    """
    from offload.confidence import signal_value

    order = np.random.default_rng(seed).permutation(len(outcomes))
    first = set(order[: len(outcomes) // 2].tolist())
    weak = np.array([o.weak_correct for o in outcomes], np.float64)
    chosen = np.array([i in first for i in range(len(outcomes))])
    shape = np.array(
        [[math.log(1 + len(o.prompt)), math.log(1 + sum(map(str.isdigit, o.prompt)))] for o in outcomes]
    )
    prior = _logistic(shape, weak, chosen)
    raw = np.array(
        [np.nan if o.evidence is None else signal_value(signal, o.evidence) or np.nan for o in outcomes]
    )
    confidence = prior.copy()
    if (known := ~np.isnan(raw)).any():
        confidence[known] = _logistic(raw[known][:, None], weak[known], chosen[known])
    by_id = {id(o): i for i, o in enumerate(outcomes)}
    pool = pool_from_outcomes(
        outcomes, lambda o: float(confidence[by_id[id(o)]]), lambda o: float(prior[by_id[id(o)]])
    )
    return pool.take(chosen), pool.take(~chosen)


def _logistic(x: np.ndarray, y: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """P(y) for all rows by logistic regression on the rows `fit` (Newton's method, a small ridge)."""
    mean, spread = x[fit].mean(axis=0), x[fit].std(axis=0) + 1e-9
    design = np.hstack([(x - mean) / spread, np.ones((len(x), 1))])
    theta = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design[fit] @ theta, -30, 30)))
        gradient = design[fit].T @ (y[fit] - p) - theta
        hessian = (design[fit] * (p * (1 - p))[:, None]).T @ design[fit] + np.eye(len(theta))
        theta += np.linalg.solve(hessian, gradient)
    return 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
