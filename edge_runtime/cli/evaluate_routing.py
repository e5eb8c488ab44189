"""Suite `routing` of `edge-runtime evaluate`: how well a router or a signal orders recorded outcomes.

Knows: the report. Does not know: the figures' definitions (`offload.evaluate.routing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from offload.errors import OutcomesError
from offload.evaluate import Metric, calibration_metrics, routing_metrics, signal_metric
from offload.evaluate.routing import FRACTIONS, SHOWN, Deferral, area, oracle_gain
from offload.learn.route import Router
from offload.outcomes import Outcome, number_of, read_outcomes

__all__ = ["evaluate_routing"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def evaluate_routing(
    files: Sequence[Path],
    router: Path | None,
    confidence: str | None,
    limit: int | None = None,
    embedder: str | None = None,
) -> dict[str, Any]:
    """The report: suite, model, n, metrics with intervals, the lines to compare with, and each set's figures.

    Raises:
        click.UsageError: not exactly one of router and confidence, or no file.
        OutcomesError, RouterFileError: a file is wrong, or has no such figure.
    """
    if not files:
        raise click.UsageError("suite routing needs recorded outcomes: name a file with --data")
    if (router is None) == (confidence is None):
        raise click.UsageError(
            "suite routing measures one thing: give --router FILE (of `edge-runtime learn route`) or "
            "--confidence FIELD, such as evidence.mean_logprob"
        )
    rows = [row for path in files for row in read_outcomes(path, limit=limit)]
    if router is not None:
        loaded = Router.load(router, embedder)
        name = f"{router.name} ({loaded.kind})"
        order, probability = -loaded.gains(rows), loaded.weak_probabilities(rows)
    else:
        assert confidence is not None  # exactly one of the two is given
        name = confidence
        order = np.array([_or_nan(number_of(row, confidence)) for row in rows])
        if np.isnan(order).all():
            raise OutcomesError(
                f"no row has the figure '{confidence}'; name one such as evidence.mean_logprob, "
                "option_probs.max, or a numeric field of your own"
            )
        inside = np.isnan(order) | ((order >= 0) & (order <= 1))
        probability = order if inside.all() else np.full(len(rows), np.nan)
    value = {"suite": "routing", "model": name, **_figures(rows, order, probability)}
    sets: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        sets[row.suite or "(no suite)"].append(i)
    if len(sets) > 1:
        value["sets"] = {
            suite: _figures([rows[i] for i in at], order[at], probability[at]) for suite, at in sets.items()
        }
    return value


def _figures(rows: Sequence[Outcome], order: Floats, probability: Floats) -> dict[str, Any]:
    weak = np.array([row.weak_correct for row in rows])
    missing = int(np.isnan(order).sum())
    told = ~np.isnan(probability)
    lines: dict[str, Any] = {}
    if all(row.strong_correct is not None for row in rows):
        strong = np.array([bool(row.strong_correct) for row in rows])
        found = routing_metrics(order, weak, strong)
        lines = _lines(rows, weak, strong)
    elif any(row.strong_correct is not None for row in rows):
        first = next(i for i, row in enumerate(rows, 1) if row.strong_correct is None)
        raise OutcomesError(
            f"row {first} has no strong_correct while others have: give it on every row, or on none"
        )
    else:  # one model alone: how well the confidence tells its right answers from its wrong ones
        surely = np.nan_to_num(order, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        found = {"weak": Metric(float(weak.mean()), None, None, len(rows))}
        found["auroc"] = signal_metric(list(surely), list(weak))
    if told.any():
        found |= calibration_metrics(probability[told], weak[told])
    return {
        "n": len(rows),
        "missing": missing,
        "metrics": {key: metric.to_json() for key, metric in found.items()},
        **({"beside": lines} if lines else {}),
    }


def _lines(
    rows: Sequence[Outcome], weak: npt.NDArray[np.bool_], strong: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """What a router has to clear, and what none can: random, prompt length, the oracle."""
    length = routing_metrics([-float(len(row.prompt)) for row in rows], weak, strong)
    gap = float(strong.mean() - weak.mean())
    best = oracle_gain(weak, strong, FRACTIONS) / gap if gap > 0 else None
    oracle: dict[str, float | None] = {"apgr": None if best is None else round(area(best), 6)}
    random: dict[str, float | None] = {"apgr": None if best is None else 0.5}
    flat = Deferral.of(np.zeros(len(weak)), weak, strong)
    for fraction in SHOWN:
        at = round(100 * fraction)
        oracle[f"accuracy_{at}"] = round(float(weak.mean() + oracle_gain(weak, strong, fraction)), 6)
        random[f"accuracy_{at}"] = round(float(flat.accuracy(fraction)), 6)
    return {
        "random": random,
        "prompt_length": {
            key: metric.to_json()
            for key, metric in length.items()
            if key.partition("_")[0] in ("apgr", "cpt", "accuracy")
        },
        "oracle": oracle,
    }


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
