"""Fits find what made the labels, agree with naive searches and scikit-learn, and refuse what they cannot."""

from __future__ import annotations

import json
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from offload.calibrate import (
    fit_isotonic,
    fit_logistic,
    fit_platt,
    fit_temperature,
    fit_trees,
)
from offload.calibrate.fit import _gram, folds
from offload.calibrators import CALIBRATORS, Calibrator, Platt, reads_as_probability, scaled, scaled_value
from offload.confidence import SIGNALS
from offload.errors import CalibrationError

Floats = npt.NDArray[np.float64]
FITS = {"temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}


def sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-z)))


def drawn(
    slope: float, intercept: float, n: int = 4_000, seed: int = 0
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    z = rng.normal(1.0, 2.0, n)
    return z, rng.random(n) < sigmoid(slope * z + intercept)


def nll(p: Floats, y: npt.NDArray[np.bool_]) -> float:
    return float(-np.log(np.where(y, p, 1 - p)).mean())


def test_a_temperature_is_found_again_and_no_other_is_likelier() -> None:
    z, y = drawn(1 / 3, 0.0)
    fitted = fit_temperature(z, y)
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    naive = min(np.linspace(1, 10, 901), key=lambda t: nll(sigmoid(z / t), y))
    assert fitted.temperature == pytest.approx(naive, abs=0.02)


def test_platt_finds_slope_and_intercept_and_is_unmoved_by_units() -> None:
    z, y = drawn(0.8, -1.0)
    fitted = fit_platt(z, y)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.8, -1.0), abs=0.12)
    other = fit_platt(1000 * z + 7, y)
    np.testing.assert_allclose(fitted(z[:, None]), other((1000 * z + 7)[:, None]), atol=1e-6)


def test_platt_agrees_with_scikit_learn_on_many_rows() -> None:
    from sklearn.linear_model import LogisticRegression

    z, y = drawn(0.8, -1.0)
    reference = LogisticRegression(C=1e9).fit(z[:, None], y)
    fitted = fit_platt(z, y)
    np.testing.assert_allclose(fitted(z[:, None]), reference.predict_proba(z[:, None])[:, 1], atol=2e-3)


def test_a_signal_that_says_the_opposite_is_worth_the_base_rate_alone() -> None:
    z, y = drawn(0.8, -1.0)
    fitted = fit_platt(-z, y)
    assert fitted.slope == 0
    assert fitted(z[:5, None]) == pytest.approx(y.mean(), abs=1e-3)


def test_isotonic_steps_are_those_of_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(1)
    z = np.round(rng.normal(0, 1, 400), 1)  # many ties
    y = rng.random(400) < sigmoid(2 * z)
    steps = np.unique(np.round(IsotonicRegression().fit(z, y).predict(np.sort(z)), 9))
    fitted = fit_isotonic(z, y)
    np.testing.assert_allclose(fitted.values, np.clip(steps, 1 / 402, 401 / 402), atol=1e-6)
    assert min(z) <= fitted.knots[0] <= fitted.knots[-1] <= max(z)


def test_a_logistic_combiner_is_the_penalised_one_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    x = rng.normal(3, [1, 10, 0.1], (300, 3))
    y = rng.random(300) < sigmoid((x - 3) @ [1.0, 0.1, 0.0])
    fitted = fit_logistic(x, y)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    nearest = min(
        np.abs(LogisticRegression(C=1 / r, tol=1e-10).fit(standard, y).coef_[0] - fitted.weights).max()
        for r in (0.3, 1, 3, 10, 30)
    )
    assert nearest < 1e-5


def test_a_logistic_combiner_does_not_go_on_beyond_the_rows_it_saw() -> None:
    z, y = drawn(1.0, 0.0, n=200)
    fitted = fit_logistic(np.column_stack([z, z * z]), y)
    far = np.array([[z.max() * 100, (z * z).max() * 100], [z.max(), (z * z).max()]])
    assert fitted(far)[0] == fitted(far)[1]


def test_trees_apply_as_scikit_learn_fitted_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import ensemble

    kept = []

    class Remembering(ensemble.GradientBoostingClassifier):  # type: ignore[misc]
        def fit(self, *args: object) -> object:
            kept.append(self)
            return super().fit(*args)

    monkeypatch.setattr(ensemble, "GradientBoostingClassifier", Remembering)
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (200, 4))
    y = rng.random(200) < sigmoid(2 * x[:, 0] * (x[:, 1] > 0))
    fitted = fit_trees(x, y)
    fresh = rng.normal(0, 1, (300, 4))
    np.testing.assert_allclose(fitted(fresh), kept[0].predict_proba(fresh)[:, 1], atol=1e-6)
    again = CALIBRATORS["gbdt"](json.loads(json.dumps(fitted.parameters())))
    np.testing.assert_array_equal(again(fresh), fitted(fresh))
    assert (again, hash(again)) == (fitted, hash(fitted))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("offload.calibrate.fit.has_scikit_learn", lambda: False)
    with pytest.raises(CalibrationError, match=r"edge-runtime\[learn\]"):
        fit_trees(np.zeros((4, 1)), np.array([True, False] * 2))


@pytest.mark.parametrize("fit", [*FITS.values()])
def test_one_class_and_odd_signals_are_refused(fit: object) -> None:
    with pytest.raises(CalibrationError, match="all 3 rows are right"):
        fit(np.zeros(3), np.ones(3, bool))  # type: ignore[operator]
    with pytest.raises(CalibrationError, match="all 3 rows are wrong"):
        fit(np.zeros(3), np.zeros(3, bool))  # type: ignore[operator]
    with pytest.raises(CalibrationError, match="not a finite number"):
        fit(np.array([0.0, np.nan]), np.array([True, False]))  # type: ignore[operator]


labelled = st.integers(4, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.floats(-1e3, 1e3)),
        hnp.arrays(np.bool_, n).filter(lambda y: y.any() and not y.all()),
    )
)


@pytest.mark.parametrize("name", FITS)
@settings(max_examples=40, deadline=None)
@given(data=labelled, at=hnp.arrays(np.float64, 9, elements=st.floats(-1e6, 1e6)))
def test_a_single_signals_probability_never_falls_while_it_rises_and_is_never_certain(
    name: str, data: tuple[Floats, npt.NDArray[np.bool_]], at: Floats
) -> None:
    fitted: Calibrator = FITS[name](*data)
    p = fitted(np.sort(at)[:, None])
    assert (np.diff(p) >= 0).all()
    assert ((p > 0) & (p < 1)).all()
    again = CALIBRATORS[name](json.loads(json.dumps(fitted.parameters())))
    np.testing.assert_array_equal(again(np.sort(at)[:, None]), p)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float64, (7, 3), elements=st.floats(-5, 5)), st.integers(1, 9))
def test_the_blocked_product_is_the_plain_one(x: Floats, block: int) -> None:
    w = np.linspace(0, 1, 7)
    np.testing.assert_allclose(_gram(x, w, block), x.T @ np.diag(w) @ x, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.bool_, st.integers(10, 80)), st.integers(0, 3))
def test_every_fold_has_its_share_of_both_classes(y: npt.NDArray[np.bool_], seed: int) -> None:
    fold = folds(y, 5, seed)
    for label in (True, False):
        counts = np.bincount(fold[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("signal", SIGNALS)
def test_scaling_keeps_the_order_and_is_finite_at_the_ends(signal: str) -> None:
    low, high = (
        (0.0, 1.0)
        if "." not in signal and not signal.endswith(("logprob", "entropy", "margin", "length"))
        else (-40.0, 0.0)
    )
    values = np.linspace(low, high, 500)
    z = scaled(signal, values)
    assert np.isfinite(z).all()
    assert (np.diff(z) >= 0).all()
    assert scaled(signal, values[7]) == z[7]
    np.testing.assert_allclose([scaled_value(signal, float(v)) for v in values], z, rtol=1e-12)


def test_the_scale_of_a_log_probability_is_its_logit() -> None:
    assert reads_as_probability("answer.q50_logprob")
    assert scaled("mean_logprob", np.log(0.8)) == pytest.approx(np.log(0.8 / 0.2))
    assert Platt(1.0, 0.0)(scaled("mean_logprob", [[np.log(0.8)]]))[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("temperature", {"temperature": 0}),
        ("temperature", {"temperature": "hot"}),
        ("platt", {"slope": -1, "intercept": 0}),
        ("platt", {"slope": 1}),
        ("platt", {"slope": float("nan"), "intercept": 0}),
        ("isotonic", {"knots": [0, 0], "values": [0.1, 0.2]}),
        ("isotonic", {"knots": [0, 1], "values": [0.2, 0.1]}),
        ("isotonic", {"knots": [0, 1], "values": [0.2, 1.0]}),
        ("isotonic", {"knots": [], "values": []}),
        (
            "logistic",
            {"weights": [1, 2], "intercept": 0, "mean": [0], "scale": [1, 1], "low": [0, 0], "high": [1, 1]},
        ),
        ("logistic", {"weights": [1], "intercept": 0, "mean": [0], "scale": [0], "low": [0], "high": [1]}),
        (
            "gbdt",
            {"start": 0, "depth": 1, "roots": [0], "feature": [0], "threshold": [0], "left": [1],
             "right": [0], "value": [0]},
        ),
        (
            "gbdt",
            {"start": 0, "depth": 99, "roots": [0], "feature": [0], "threshold": [0], "left": [0],
             "right": [0], "value": [0]},
        ),
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(method: str, parameters: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        CALIBRATORS[method](parameters)
