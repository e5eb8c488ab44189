"""Metrics against naive references that count pairs and rows."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.evaluate.metrics import (
    Metric,
    auroc,
    fpr_at_tpr,
    interval,
    mean_metric,
    ranks,
    signal_metric,
)

ROWS = st.lists(st.tuples(st.integers(-4, 4).map(float), st.booleans()), min_size=1, max_size=40)


def naive_auroc(scores: list[float], positive: list[bool]) -> float | None:
    """Every pair of a positive and a negative: 1 for a win, a half for a tie."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, p in zip(scores, positive, strict=True)
        for b, q in zip(scores, positive, strict=True)
        if p and not q
    ]
    return sum(wins) / len(wins) if wins else None


def naive_fpr(scores: list[float], positive: list[bool], tpr: float) -> float | None:
    """Every score as a threshold, from the highest: the first that lets enough positives through."""
    inside = [s for s, p in zip(scores, positive, strict=True) if p]
    outside = [s for s, p in zip(scores, positive, strict=True) if not p]
    if not inside or not outside:
        return None
    for threshold in sorted(set(scores), reverse=True):
        if sum(s >= threshold for s in inside) >= tpr * len(inside) - 1e-9:
            return sum(s >= threshold for s in outside) / len(outside)
    raise AssertionError("the lowest score lets everything through")


@given(ROWS)
def test_auroc_counts_pairs_with_ties_half(rows: list[tuple[float, bool]]) -> None:
    scores, positive = [s for s, _ in rows], [p for _, p in rows]
    expected = naive_auroc(scores, positive)
    found = auroc(scores, positive)
    assert (found is None) == (expected is None)
    if expected is not None and found is not None:
        assert found == pytest.approx(expected)


@given(ROWS, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_false_positives_are_counted_at_the_highest_threshold_that_suffices(
    rows: list[tuple[float, bool]], tpr: float
) -> None:
    scores, positive = [s for s, _ in rows], [p for _, p in rows]
    assert fpr_at_tpr(scores, positive, tpr) == naive_fpr(scores, positive, tpr)


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20))
def test_equal_values_share_the_mean_of_their_ranks(values: list[float]) -> None:
    naive = [1 + sum(b < a for b in values) + (values.count(a) - 1) / 2 for a in values]
    assert ranks(np.array(values)).tolist() == naive


def test_a_mean_has_the_interval_that_its_spread_says() -> None:
    rng = random.Random(0)
    metric = mean_metric([rng.random() < 0.7 for _ in range(2_000)])
    assert metric.value is not None
    assert metric.low is not None
    assert metric.high is not None
    half = 1.96 * math.sqrt(metric.value * (1 - metric.value) / 2_000)
    assert metric.low == pytest.approx(metric.value - half, abs=0.003)
    assert metric.high == pytest.approx(metric.value + half, abs=0.003)


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        x = rng.normal(size=60)
        low, high = interval(lambda i, x=x: float(x[i].mean()), 60, resamples=200, seed=trial)
        covered += low is not None and high is not None and low <= 0 <= high
    assert 175 <= covered <= 199


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    assert mean_metric(values, seed=3) == mean_metric(values, seed=3)


def test_a_figure_of_one_class_is_undefined_and_not_a_half() -> None:
    assert signal_metric([1.0, 2.0], [True, True]) == Metric(None, None, None, 2)
    assert mean_metric([]).to_json() == {"value": None, "low": None, "high": None, "n": 0}
