"""Routing figures against naive loops that escalate query by query."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import OutcomesError
from offload.evaluate.routing import (
    FRACTIONS,
    Deferral,
    calibration_metrics,
    oracle_gain,
    routing_metrics,
)

ROWS = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.booleans(), st.booleans()), min_size=1, max_size=20
)
Rows = list[tuple[float, bool, bool]]


def columns(rows: Rows) -> tuple[list[float], list[bool], list[bool]]:
    return [c for c, _, _ in rows], [w for _, w, _ in rows], [s for _, _, s in rows]


def naive_gain(rows: Rows, count: int) -> float:
    """Escalate `count` queries one by one, the least confident first; among equals, their mean gain."""
    gain = 0.0
    for place in range(count):
        level = sorted(c for c, _, _ in rows)[place]
        equal = [s - w for c, w, s in rows if c == level]
        gain += sum(equal) / len(equal)
    return gain / len(rows)


@settings(deadline=None)
@given(ROWS)
def test_the_curve_is_what_escalating_one_by_one_gives(rows: Rows) -> None:
    curve = Deferral.of(*columns(rows))
    for count in range(len(rows) + 1):
        fraction = count / len(rows)
        assert float(curve.gain(fraction)) == pytest.approx(naive_gain(rows, count))
        assert float(curve.accuracy(fraction)) == pytest.approx(curve.weak + naive_gain(rows, count))


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: Rows, rng: random.Random) -> None:
    mixed = rows.copy()
    rng.shuffle(mixed)
    assert Deferral.of(*columns(rows)).apgr() == pytest.approx(Deferral.of(*columns(mixed)).apgr())


@settings(deadline=None)
@given(ROWS)
def test_the_area_is_the_mean_height_of_the_curve(rows: Rows) -> None:
    curve = Deferral.of(*columns(rows))
    apgr = curve.apgr()
    if curve.gap <= 0:
        assert apgr is None
        return
    heights = [float(curve.gain(f)) / curve.gap for f in FRACTIONS]
    assert apgr == pytest.approx(sum((a + b) / 2 for a, b in pairwise(heights)) / 100)


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_the_price_of_a_share_is_the_first_fraction_that_reaches_it(rows: Rows, share: float) -> None:
    curve = Deferral.of(*columns(rows))
    price = curve.cpt(share)
    if curve.gap <= 0:
        assert price is None
        return
    assert price is not None
    pgr = curve.pgr(price)
    assert pgr is not None
    assert float(pgr) == pytest.approx(share)
    for fraction in np.linspace(0, price, 50)[:-1]:
        before = curve.pgr(float(fraction))
        assert before is not None
        assert float(before) < share + 1e-9


@settings(deadline=None)
@given(ROWS)
def test_no_order_gains_more_than_the_oracle(rows: Rows) -> None:
    c, w, s = columns(rows)
    curve = Deferral.of(c, w, s)
    for fraction in FRACTIONS:
        assert float(curve.gain(fraction)) <= float(oracle_gain(w, s, fraction)) + 1e-12


def test_the_oracle_takes_the_queries_that_only_the_strong_model_gets() -> None:
    weak, strong = [1, 0, 0, 0, 1], [1, 1, 1, 0, 0]
    assert oracle_gain(weak, strong, np.array([0.0, 0.2, 0.4, 1.0])).tolist() == [0.0, 0.2, 0.4, 0.4]


def test_equal_confidences_are_random_escalation() -> None:
    curve = Deferral.of([0.5] * 4, [0, 0, 1, 0], [1, 1, 1, 0])
    assert curve.apgr() == pytest.approx(0.5)
    assert curve.cpt(0.8) == pytest.approx(0.8)


def test_a_missing_confidence_is_escalated_first() -> None:
    curve = Deferral.of([0.9, math.nan, 0.1], [1, 0, 1], [1, 1, 1])
    assert curve.cpt(1.0) == pytest.approx(1 / 3)


def test_a_strong_model_that_is_no_better_has_no_gap_to_recover() -> None:
    found = routing_metrics([1, 2], [1, 0], [0, 1], resamples=5)
    assert found["apgr"].value is None
    assert found["cpt_50"].value is None
    assert found["pgr_20"].value is None
    assert found["accuracy_50"].value == 0.0


def test_figures_have_the_names_and_values_that_the_page_gives() -> None:
    c = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    w = [0, 0, 1, 0, 1, 1, 1, 1, 1, 1]
    found = routing_metrics(c, w, [1] * 10, resamples=50)
    assert found["weak"].value == pytest.approx(0.7)
    assert found["strong"].value == 1.0
    assert found["accuracy_20"].value == pytest.approx(0.9)
    assert found["pgr_20"].value == pytest.approx(2 / 3)
    assert found["oracle_share_20"].value == pytest.approx(1.0)
    assert found["oracle_share_30"].value == pytest.approx(2 / 3)
    assert found["cpt_95"].value == pytest.approx(0.385)
    assert found["auroc"].value == pytest.approx(20 / 21)
    for metric in found.values():
        assert metric.n == 10
        if metric.low is not None and metric.high is not None and metric.value is not None:
            assert metric.low <= metric.high


def test_probabilities_that_are_right_have_no_excess_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(4_000)
    found = calibration_metrics(p, rng.random(4_000) < p, resamples=20)
    assert found["ece_excess"].value == pytest.approx(0, abs=0.008)
    assert found["ece_floor"].value == pytest.approx(0.02, abs=0.01)
    wrong = calibration_metrics(p, rng.random(4_000) < p**3, resamples=20)
    assert (wrong["ece_excess"].value or 0) > 0.1
    assert (wrong["brier"].value or 0) > (found["brier"].value or 1)


def test_what_cannot_be_measured_says_so() -> None:
    with pytest.raises(OutcomesError, match="no rows"):
        routing_metrics([], [], [])
    with pytest.raises(OutcomesError, match="no rows"):
        calibration_metrics([], [])
    with pytest.raises(OutcomesError, match="probabilities from 0 to 1"):
        calibration_metrics([-1.5], [True])
