"""Promises hold on generated populations of known risk, and say when there is nothing to promise."""

import json
import math
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload import guarantee
from offload.binomial import binomial_cdf, clopper_pearson_lower, clopper_pearson_upper, incomplete_beta
from offload.errors import GuaranteeError
from offload.guarantee import Certificate, conformal, overall, rows_needed, selective

LOW = 0.3


def population(rng, n, top=0.0):
    """Confidences from `LOW` to 1, and answers right with that probability, but at least `top` wrong."""
    c = 1 - (1 - LOW) * rng.random(n) ** 1.5
    return c, rng.random(n) < np.minimum(c, 1 - top)


@lru_cache
def grid(top):
    """Confidences of the population from high to low, and the error rate above each of them."""
    c = 1 - (1 - LOW) * ((np.arange(50_000) + 0.5) / 50_000) ** 1.5
    return -c, np.cumsum(np.maximum(1 - c, top)) / np.arange(1, len(c) + 1)


def true_risk(threshold, top=0.0):
    """Error rate above the threshold and share of the population there, by numeric integration."""
    falling, risks = grid(top)
    kept = int(np.searchsorted(falling, -threshold, side="right"))
    return (float(risks[kept - 1]) if kept else 0.0), kept / len(falling)


def most_violations(draws, delta):
    """Violations that a valid promise exceeds with probability 1e-6."""
    return next(k for k in range(draws + 1) if 1 - binomial_cdf(k, draws, delta) < 1e-6)


def naive_cdf(k, n, p):
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_the_binomial_distribution_is_its_sum(n, k, p):
    assert binomial_cdf(k, n, p) == pytest.approx(1.0 if k >= n else naive_cdf(k, n, p), abs=1e-11)


@pytest.mark.parametrize(
    ("a", "b", "x", "value"),
    [
        (1, 1, 0.3, 0.3),
        (2, 2, 0.5, 0.5),
        (5, 1, 0.8, 0.8**5),
        (0.5, 0.5, 0.25, 2 / math.pi * math.asin(0.5)),
        (2, 3, 0.4, 0.5248),
    ],
)
def test_the_incomplete_beta_function_has_its_closed_forms(a, b, x, value):
    assert incomplete_beta(a, b, x) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("errors", "n", "delta", "bound"),
    [  # R: qbeta(1 - delta, errors + 1, n - errors)
        (0, 10, 0.05, 0.2588655508930522),
        (3, 50, 0.1, 0.1287564225866019),
        (200, 1000, 0.05, 0.22195143319958585),
        (7, 7, 0.1, 1.0),
    ],
)
def test_the_upper_bound_has_the_published_values(errors, n, delta, bound):
    assert clopper_pearson_upper(errors, n, delta) == pytest.approx(bound, abs=1e-12)


def test_the_bounds_agree_with_scipy_where_it_is_installed():
    stats = pytest.importorskip(
        "scipy.stats", reason="scipy is not installed: closed forms are checked alone"
    )
    for errors, n in [(1, 30), (40, 90), (999, 5000), (0, 3), (4999, 5000)]:
        for delta in (0.01, 0.2):
            upper = stats.beta.ppf(1 - delta, errors + 1, n - errors)
            lower = stats.beta.ppf(delta, errors, n - errors + 1) if errors else 0
            assert clopper_pearson_upper(errors, n, delta) == pytest.approx(upper, abs=1e-10)
            assert clopper_pearson_lower(errors, n, delta) == pytest.approx(lower, abs=1e-10)


def test_the_number_of_rows_needed_is_the_smallest_that_certifies():
    for alpha, delta in [(0.1, 0.1), (0.05, 0.05), (0.2, 0.01), (0.5, 0.5)]:
        n = rows_needed(alpha, delta)
        assert (
            clopper_pearson_upper(0, n, delta)
            <= alpha
            < (clopper_pearson_upper(0, n - 1, delta) if n > 1 else 1)
        )
    assert rows_needed(0.1, 0.1) == 22
    assert rows_needed(0.1, 0.1, 0.05) == 91


@pytest.mark.parametrize("starts", [1, 4])
@pytest.mark.parametrize(("n", "alpha", "top"), [(300, 0.1, 0.0), (600, 0.2, 0.03), (1000, 0.1, 0.06)])
def test_the_selective_promise_is_broken_no_more_often_than_it_says(n, alpha, top, starts):
    rng, delta, draws = np.random.default_rng(n + starts), 0.1, 300
    broken = 0
    for _ in range(draws):
        found = selective(*population(rng, n, top), alpha, delta, starts=starts)
        broken += found.threshold is not None and true_risk(found.threshold, top)[0] > alpha
    assert broken <= most_violations(draws, delta)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_the_promise_holds_where_many_confidences_are_equal(alpha):
    """As behind an isotonic calibrator: eight levels, of which every second one is worse than it says."""
    rng, delta, draws, broken = np.random.default_rng(13), 0.1, 300, 0
    levels = np.round(np.arange(0.3, 1.01, 0.1), 3)
    risk = 1 - np.clip(levels + 0.04 * np.where(np.arange(len(levels)) % 2, 1, -1), 0, 0.999)
    for _ in range(draws):
        at = rng.integers(0, len(levels), 400)
        found = selective(levels[at], rng.random(400) >= risk[at], alpha, delta)
        broken += found.threshold is not None and risk[levels >= found.threshold].mean() > alpha
    assert broken <= most_violations(draws, delta)


def test_a_threshold_tuned_without_a_bound_breaks_the_promise():
    """The population can tell a valid promise from an empty one."""
    rng, alpha, draws, broken = np.random.default_rng(3), 0.1, 100, 0
    for _ in range(draws):
        c, right = population(rng, 300)
        order = np.argsort(-c)
        rate = np.cumsum(~right[order]) / np.arange(1, 301)
        threshold = c[order][np.flatnonzero(rate <= alpha)[-1]]
        broken += true_risk(threshold)[0] > alpha
    assert broken > most_violations(draws, 0.1)


def test_several_starts_keep_more_where_the_surest_rows_are_sometimes_wrong():
    rng = np.random.default_rng(5)
    draws = [population(rng, 600, 0.03) for _ in range(60)]
    plain = np.mean([selective(*d, 0.2, starts=1).coverage for d in draws])
    several = np.mean([selective(*d, 0.2).coverage for d in draws])
    assert several > plain + 0.1


def test_the_conformal_promise_holds_on_average():
    rng, alpha = np.random.default_rng(7), 0.05
    risks = []
    for _ in range(300):
        found = conformal(*population(rng, 200), alpha)
        risk, kept = true_risk(found.threshold) if found.threshold is not None else (0.0, 0.0)
        risks.append(risk * kept)
    assert np.mean(risks) <= alpha + 4 * np.std(risks) / math.sqrt(len(risks))
    assert np.mean(risks) > alpha - 0.015  # it is not bought by keeping nothing


def test_the_promise_over_all_answers_is_broken_no_more_often_than_it_says():
    rng, alpha, delta, draws, broken, kept = np.random.default_rng(11), 0.15, 0.1, 200, 0, []
    strong_risk = 0.05
    for _ in range(draws):
        c, right = population(rng, 400)
        found = overall(c, right, rng.random(400) >= strong_risk, alpha, delta)
        assert found.threshold is not None
        risk, share = true_risk(found.threshold)
        broken += risk * share + strong_risk * (1 - share) > alpha
        kept.append(share)
    assert broken <= most_violations(draws, delta)
    assert np.mean(kept) > 0.4


def naive_walk(c, right, alpha, delta):
    """EVALUATION's words: strict to loose, accepting while the Clopper-Pearson bound stays at most α."""
    threshold = None
    for t in sorted(set(c), reverse=True):
        keep = c >= t
        if keep.sum() < rows_needed(alpha, delta):
            continue
        if clopper_pearson_upper(int((~right[keep]).sum()), int(keep.sum()), delta) > alpha:
            break
        threshold = t
    return threshold


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.25]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_plain_walk_is_the_naive_one(seed, alpha, ties):
    rng = np.random.default_rng(seed)
    c, right = population(rng, 120)
    c = np.round(c, 1) if ties else c
    found = selective(c, right, alpha, 0.2, starts=1)
    assert found.threshold == naive_walk(c, right, alpha, 0.2)
    if found.threshold is not None:
        assert found.kept == (c >= found.threshold).sum()
        assert found.errors == (~right[c >= found.threshold]).sum()
        assert found.bound is not None
        assert found.bound <= alpha


def test_too_few_rows_say_how_many_are_needed():
    found = selective([0.9] * 30, [True] * 30, 0.05, 0.05, starts=1)
    assert found.threshold is None
    assert found.reason == "30 rows with a confidence, but at least 59 are needed, all right"
    assert rows_needed(0.05, 0.05) == 59
    assert "at least 59 are needed" in overall([0.9] * 30, [True] * 30, [True] * 30, 0.05, 0.05).reason
    assert "at least 19 are needed" in conformal([0.9] * 10, [True] * 10, 0.05).reason
    assert "nothing can be promised at 0.05 wrong of the kept answers" in found.explain()


def test_a_hopeless_signal_certifies_nothing_and_says_why():
    rng = np.random.default_rng(1)
    found = selective(rng.random(500), rng.random(500) < 0.6, 0.1)
    assert found.threshold is None
    assert "not below alpha: ask for a larger alpha" in found.reason
    wrong = overall(rng.random(500), rng.random(500) < 0.5, rng.random(500) < 0.5, 0.1)
    assert "the strong model itself is wrong on" in wrong.reason
    few = selective(rng.random(60), np.arange(60) > 2, 0.1)
    assert "kept rows are needed" in few.reason


def test_a_missing_confidence_is_never_kept():
    c = [math.nan] * 50 + [0.9] * 50
    found = selective(c, [True] * 100, 0.1)
    assert (found.kept, found.n, found.coverage) == (50, 100, 0.5)
    assert conformal(c, [True] * 100, 0.1).kept == 50
    assert overall(c, [True] * 100, [True] * 100, 0.1).kept == 50


def test_equal_confidences_are_kept_together_or_not_at_all():
    c = [0.9] * 100 + [0.5] * 100
    right = [True] * 100 + [True] * 80 + [False] * 20
    found = selective(c, right, 0.05)
    assert (found.threshold, found.kept, found.errors) == (0.9, 100, 0)


def test_a_certificate_survives_a_file():
    found = selective(np.linspace(0.5, 1, 200), np.arange(200) > 20, 0.2)
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "keep from" in found.explain()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": None}, "alpha is None, not a finite number"),
        ({"threshold": "high"}, "threshold is 'high', not a finite number"),
        ({"bound": math.nan}, "bound is nan"),
        ({"promise": "hope"}, "not one of selective, conformal, overall"),
        ({"sure": 1}, "no field 'sure'"),
    ],
)
def test_a_wrong_certificate_is_refused_by_name(change, said):
    good = selective([0.9] * 50, [True] * 50, 0.1).to_dict()
    with pytest.raises(GuaranteeError, match=said):
        Certificate.from_dict({**good, **change})
    with pytest.raises(GuaranteeError, match="field 'n' is missing"):
        Certificate.from_dict({k: v for k, v in good.items() if k != "n"})
    with pytest.raises(GuaranteeError, match="is an object"):
        Certificate.from_dict([good])


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, math.nan])
def test_impossible_levels_are_refused(level):
    for call in (
        lambda: selective([0.5], [True], level),
        lambda: selective([0.5], [True], 0.1, level),
        lambda: conformal([0.5], [True], level),
        lambda: overall([0.5], [True], [True], level),
        lambda: rows_needed(0.1, level),
        lambda: clopper_pearson_upper(0, 5, level),
    ):
        with pytest.raises(GuaranteeError, match="between 0 and 1"):
            call()


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(GuaranteeError, match="2 confidences, but 1 labels"):
        selective([0.5, 0.6], [True], 0.1)
    with pytest.raises(GuaranteeError, match="3 outcomes of the strong model"):
        overall([0.5, 0.6], [True, False], [True] * 3, 0.1)
    with pytest.raises(GuaranteeError, match="6 errors of 5 rows"):
        clopper_pearson_upper(6, 5, 0.1)
    with pytest.raises(GuaranteeError, match="cannot be certified"):
        rows_needed(0.1, 0.1, 0.1)
    with pytest.raises(GuaranteeError, match="0 starting points"):
        selective([0.5], [True], 0.1, starts=0)


def test_the_table_of_allowed_errors_is_the_binomial_test():
    table = guarantee._allowed_errors(80, 0.15, 0.1)
    for k in range(81):
        most = max((e for e in range(k) if binomial_cdf(e, k, 0.15) <= 0.1), default=-1)
        assert table[k] == most
