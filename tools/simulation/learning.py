"""Learning from feedback and watching for drift, in worlds whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from offload.learn.drift import CalibrationMonitor, DriftMonitor, Reference
from offload.learn.online import ConservativeLearner, Rule
from offload.simulate import Pool, synthetic_pool
from offload.simulate.users import (
    AgreementFeedback,
    FeedbackModel,
    LabelFeedback,
    VoteFeedback,
    run_learner,
)
from offload.types import Evidence

__all__ = ["drift_study", "online_study"]

PRICE = 0.1
EPSILON, DELTA = 0.02, 0.05
FROZEN = Rule("frozen", (1.0, 0.0), 0.0, 0.8)
THRESHOLDS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.9)
WORLDS = {
    "as calibrated": (0.0, 0.0),
    "device worse than stated": (-2.0, -2.0),
    "device better than stated": (2.0, 2.0),
    "better, then worse": (2.0, -2.0),
}
"""Shift of the truth's logits against the stated confidence in the first and second half."""
SAME_MISTAKE = 0.1


def online_study(queries: int, seeds: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One row per world and kind of feedback; the leads over the frozen rule with task success."""
    rows, curves = [], {}
    for world, shifts in WORLDS.items():
        for kind in ("task success", "agreement", "votes"):
            runs, learners = [], []
            for seed in range(seeds):
                pool = _joined(queries, seed, shifts)
                feedback, bound = _feedback(kind)
                learner = ConservativeLearner(
                    FROZEN,
                    THRESHOLDS,
                    np.random.default_rng((seed, 1)),
                    epsilon=EPSILON,
                    delta=DELTA,
                    max_price=PRICE,
                    bound=bound,
                )
                order, rng = np.arange(queries), np.random.default_rng((seed, 2))
                runs.append(run_learner(learner, pool, order, PRICE, feedback, rng))
                learners.append(learner)
            leads = np.stack([run.lead for run in runs])
            if kind == "task success":
                curves[world] = leads
            first = [run.events[0].query for run in runs if run.events]
            rows.append(
                {
                    "world": world,
                    "feedback": kind,
                    "lead": float(leads[:, -1].mean() / queries),
                    "lead_low": float(leads[:, -1].min() / queries),
                    "broken": int(sum(run.worst_shortfall(EPSILON) < 0 for run in runs)),
                    "seeds": seeds,
                    "changed": len(first),
                    "first": float(np.median(first)) if first else None,
                    "reverted": int(sum(any(e.kind == "reverted" for e in run.events) for run in runs)),
                    "explored": float(np.mean([x.explorations for x in learners]) / queries),
                    "escalated": float(np.mean([run.escalated for run in runs])),
                }
            )
    return rows, curves


def _joined(queries: int, seed: int, shifts: tuple[float, float]) -> Pool:
    half = queries // 2
    first = synthetic_pool(half, 2 * seed, shift=shifts[0])
    second = synthetic_pool(queries - half, 2 * seed + 1, shift=shifts[1])
    return Pool(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in Pool.__slots__))


def _feedback(kind: str) -> tuple[FeedbackModel, float | None]:
    """A kind of feedback; its constants come from a calibrated population, as a product's would."""
    labelled = synthetic_pool(4_000, 999)
    weak, strong = labelled.weak, labelled.strong
    differ = (weak != strong).mean() + (~weak & ~strong).mean() * (1 - SAME_MISTAKE)
    if kind == "task success":
        return LabelFeedback(), None
    if kind == "agreement":
        wins = float((strong.astype(float) - weak).mean() / differ)
        return AgreementFeedback(wins, SAME_MISTAKE), None
    wrong = (weak & ~strong).mean() + (~weak & ~strong).mean() * (1 - SAME_MISTAKE)
    votes = VoteFeedback(0.2, 0.4, float((weak & ~strong).mean() / wrong), SAME_MISTAKE)
    return votes, votes.bound(PRICE)


def drift_study(seeds: int, every: int, stable: int) -> dict[str, Any]:
    """False alarms over `stable` answers beside their bound, and delays after a change of several sizes."""
    alarms = 0
    for seed in range(seeds):
        rng = np.random.default_rng((seed, 3))
        watch = DriftMonitor(Reference.of(_answers(rng, 600, 0.0), rng), rng, every)
        alarms += any(watch.update(e) is not None for e in _answers(rng, stable, 0.0))
    rows = []
    for shift in (0.25, 0.5, 1.0, 2.0):
        delays = [_delay((seed, 4), shift, every, stable // 2) for seed in range(seeds)]
        found = [d for d in delays if d is not None]
        rows.append({"shift": shift, "found": len(found), "of": seeds, **_spread(found)})
    labels = []
    for shift in (-0.5, -1.0, -2.0):
        found = [d for seed in range(seeds) if (d := _label_delay((seed, 5), shift, every)) is not None]
        labels.append({"shift": shift, "found": len(found), "of": seeds, **_spread(found)})
    return {
        "every": every,
        "answers": stable,
        "seeds": seeds,
        "false_alarms": alarms,
        "bound": stable / every,
        "evidence": rows,
        "labels": labels,
    }


def _spread(delays: list[int]) -> dict[str, float | None]:
    if not delays:
        return {"median": None, "p90": None}
    return {"median": float(np.median(delays)), "p90": float(np.quantile(delays, 0.9))}


def _answers(rng: np.random.Generator, n: int, shift: float) -> list[Evidence]:
    """Answers with a log-normal mean log-probability; `shift` in standard deviations of its logarithm."""
    sure = rng.standard_normal(n) + shift
    made = []
    for z in sure:
        tokens = int(rng.integers(5, 25))
        mean = -math.exp(-2 + float(z))
        entropy = math.exp(-1.5 + 0.8 * float(z) + 0.4 * float(rng.standard_normal()))
        worst = mean * (1 + 2 * float(rng.random()))
        made.append(
            Evidence(
                n=tokens,
                n_scored=tokens,
                sum_logprob=mean * tokens,
                mean_logprob=mean,
                min_logprob=worst,
                mean_entropy=entropy,
                max_entropy=2 * entropy,
                mean_margin=1.0,
                finish_reason="stop",
            )
        )
    return made


def _delay(seed: tuple[int, int], shift: float, every: int, before: int) -> int | None:
    """Answers from the change to the alarm; None where there is none in 4,000, or one before the change."""
    rng = np.random.default_rng(seed)
    watch = DriftMonitor(Reference.of(_answers(rng, 600, 0.0), rng), rng, every)
    if any(watch.update(e) is not None for e in _answers(rng, before, 0.0)):
        return None
    return next((k for k, e in enumerate(_answers(rng, 4_000, shift), 1) if watch.update(e)), None)


def _label_delay(seed: tuple[int, int], shift: float, every: int) -> int | None:
    pool = synthetic_pool(4_000, seed[0], shift=shift)
    watch = CalibrationMonitor(false_alarm_every=every)
    pairs = zip(pool.confidence.tolist(), pool.weak.tolist(), strict=True)
    return next((k for k, (p, right) in enumerate(pairs, 1) if watch.update(p, right)), None)
