"""What trying the device is worth: against draws, at its ends, and monotone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import PolicyError
from offload.worth import chance_kept, resolution, worth_of_trying

SHARES = st.floats(0, 1)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("rho", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("threshold", [0.1, 0.6, 0.9])
def test_both_are_those_of_drawn_confidences(p, rho, threshold):
    strength = (1 - rho) / rho
    drawn = np.random.default_rng(0).beta(p * strength, (1 - p) * strength, 50_000)
    assert drawn.var() == pytest.approx(rho * p * (1 - p), rel=0.1)
    assert worth_of_trying(p, threshold, rho) == pytest.approx(
        np.maximum(drawn - threshold, 0).mean(), abs=0.004
    )
    assert chance_kept(p, threshold, rho) == pytest.approx((drawn >= threshold).mean(), abs=0.008)


def test_the_ends_are_an_answer_that_tells_nothing_and_one_that_tells_all():
    assert worth_of_trying(0.6, 0.7, 0.0) == 0.0
    assert worth_of_trying(0.8, 0.7, 0.0) == pytest.approx(0.1)
    assert worth_of_trying(0.6, 0.7, 1.0) == pytest.approx(0.6 * 0.3)
    assert [chance_kept(p, 0.7, 0.0) for p in (0.6, 0.8)] == [0.0, 1.0]
    assert chance_kept(0.6, 0.7, 1.0) == 0.6
    assert worth_of_trying(0.2, -math.inf, 0.5) == math.inf  # the budget must not be spent
    assert worth_of_trying(0.2, -0.1, 0.5) == pytest.approx(0.3)
    assert worth_of_trying(1.0, 1.0, 0.5) == 0.0
    assert [worth_of_trying(p, 0.25, 0.5) for p in (0.0, 1.0)] == [0.0, 0.75]


@given(SHARES, SHARES, st.floats(-1, 1.5), SHARES)
@settings(max_examples=300, deadline=None)
def test_a_better_chance_is_never_worth_less(one, other, threshold, rho):
    low, high = sorted((one, other))
    less, more = (worth_of_trying(p, threshold, rho) for p in (low, high))
    assert -1e-12 <= less <= more + 1e-9
    assert max(0.0, low - threshold) <= less + 1e-12
    assert chance_kept(low, threshold, rho) <= chance_kept(high, threshold, rho) + 1e-9


def test_the_resolution_is_what_the_confidence_adds_to_the_prompt():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.2, 0.9, 50_000)
    for rho in (0.2, 0.6):
        strength = (1 - rho) / rho
        confidence = rng.beta(p * strength, (1 - p) * strength)
        right = rng.random(len(p)) < confidence
        assert resolution(p, confidence, right) == pytest.approx(rho, abs=0.02)
    assert resolution(p, p, rng.random(len(p)) < p) == 0.0
    assert resolution(p, np.ones(len(p)), rng.random(len(p)) < p) == 0.0  # worse than the prompt: 0, not less
    with pytest.raises(PolicyError, match="of 2 rows 0 have a chance from the prompt and a confidence"):
        resolution([math.nan, 0.5], [0.5, math.nan], [True, False])
