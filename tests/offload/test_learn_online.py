"""Learning from feedback: estimates that are right on average, and never far behind the frozen rule."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import PolicyError
from offload.learn.feedback import (
    gain_from_agreement,
    gain_from_labels,
    gain_from_vote,
    right_from_vote,
)
from offload.learn.online import ConservativeLearner, Rule
from offload.simulate import Pool, synthetic_pool
from offload.simulate.users import AgreementFeedback, LabelFeedback, VoteFeedback, run_learner

PRICE, EPSILON = 0.1, 0.05
FROZEN = Rule("frozen", (1.0, 0.0), 0.0, 0.8)
THRESHOLDS = (0.1, 0.3, 0.5, 0.65, 0.9)


def learner(seed: int = 0, **changes: object) -> ConservativeLearner:
    settings_: dict[str, object] = {"epsilon": EPSILON, "max_price": PRICE, **changes}
    return ConservativeLearner(FROZEN, THRESHOLDS, np.random.default_rng(seed), **settings_)  # type: ignore[arg-type]


def pool(n: int, seed: int, shift: float = 0.0) -> Pool:
    return synthetic_pool(n, seed, shift=shift)


@pytest.mark.parametrize(("up", "down"), [(0.05, 0.3), (1.0, 0.2), (0.5, 0.5)])
def test_votes_are_right_on_average_whoever_votes(up: float, down: float) -> None:
    for right in (0.0, 0.4, 1.0):
        mean = (
            right * up * right_from_vote(True, up, down)
            + (1 - right) * down * right_from_vote(False, up, down)
            + (right * (1 - up) + (1 - right) * (1 - down)) * right_from_vote(None, up, down)
        )
        assert mean == pytest.approx(right)


def test_gains_are_right_on_average_in_a_world_that_can_be_listed() -> None:
    # (device right, cloud right, answers agree) with probabilities; a query has one right answer.
    world = {
        (1, 1, True): 0.5,
        (0, 1, False): 0.3,
        (1, 0, False): 0.05,
        (0, 0, False): 0.1,
        (0, 0, True): 0.05,
    }
    true = sum(p * gain_from_labels(w, s, PRICE) for (w, s, _), p in world.items())
    differ = sum(p for (_, _, a), p in world.items() if not a)
    cloud_wins = sum(p * (s - w) for (w, s, a), p in world.items() if not a) / differ
    wrong = sum(p for (_, s, a), p in world.items() if not a and not s)
    device_wins = sum(p * w for (w, s, a), p in world.items() if not a and not s) / wrong
    agreement = sum(p * gain_from_agreement(a, PRICE, cloud_wins) for (_, _, a), p in world.items())
    votes = sum(p * gain_from_vote(s, a, PRICE, device_wins) for (_, s, a), p in world.items())
    assert agreement == pytest.approx(true)
    assert votes == pytest.approx(true)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: right_from_vote(True, 0.0, 0.5), r"rate_up .* not 0\.0"),
        (lambda: right_from_vote(True, 0.5, 1.5), r"rate_down .* not 1\.5"),
        (lambda: gain_from_agreement(True, 0.1, 2.0), r"cloud_wins .* not 2\.0"),
        (lambda: gain_from_vote(1.0, True, 0.1, -1.0), r"device_wins .* not -1\.0"),
    ],
)
def test_rates_that_cannot_be_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.0, 0.2),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4),
)
def test_exploring_never_costs_more_than_promised_even_against_an_adversary(
    seed: int, epsilon: float, answers: list[tuple[bool, bool]]
) -> None:
    # An adversary repeats a pattern of outcomes without regard to the confidence, and lies in the feedback,
    # so that nothing that is learnt is true. Without a promotion the promise must hold surely.
    rng = np.random.default_rng(seed)
    subject = learner(seed, epsilon=epsilon, delta=1e-9, refit=False)
    lead, shortfall = 0.0, math.inf
    for t in range(1, 400):
        weak, strong = answers[t % 4]
        choice = subject.choose((float(rng.normal()), 0.0))
        gain = strong - weak - PRICE
        subject.learn(choice, gain if choice.measured else None)
        if not subject.events and choice.escalate != choice.frozen:
            lead += gain if choice.escalate else -gain
        shortfall = min(shortfall, lead + epsilon * t)
        assert subject.explorations * (1 + PRICE) <= epsilon * t + 1e-9
    assert shortfall >= -1e-9


@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.5])
def test_the_frozen_rule_is_never_beaten_by_more_than_epsilon_per_query(shift: float) -> None:
    for seed in range(4):
        queries = pool(1_500, seed, shift)
        subject = learner(seed)
        run = run_learner(
            subject, queries, np.arange(1_500), PRICE, LabelFeedback(), np.random.default_rng((seed, 1))
        )
        assert run.worst_shortfall(EPSILON) >= 0, (shift, seed)
        if shift == 0:
            assert all(event.kind == "promoted" for event in run.events)


def test_a_rule_that_keeps_too_little_is_replaced_without_exploring() -> None:
    queries = pool(2_500, 1, shift=3.0)
    subject = learner(1, epsilon=0.0)
    run = run_learner(subject, queries, np.arange(2_500), PRICE, LabelFeedback(), np.random.default_rng(0))
    assert subject.explorations == 0
    assert run.events
    assert run.lead[-1] > 20
    assert subject.incumbent.threshold < FROZEN.threshold
    assert "replaces 'frozen'" in run.events[0].message


def test_a_rule_that_keeps_too_much_is_replaced_by_exploring() -> None:
    queries = pool(3_000, 2, shift=-4.0)
    subject = learner(2, epsilon=0.1)
    run = run_learner(subject, queries, np.arange(3_000), PRICE, LabelFeedback(), np.random.default_rng(0))
    assert subject.explorations > 20
    assert run.events
    assert run.lead[-1] > 20


def test_no_feedback_no_change() -> None:
    queries = pool(600, 3, shift=3.0)
    subject = learner(3)
    run = run_learner(subject, queries, np.arange(600), PRICE, LabelFeedback(0.0), np.random.default_rng(0))
    assert not run.events
    assert subject.incumbent == FROZEN


def test_worse_candidates_are_taken_as_rarely_as_promised() -> None:
    # Every candidate is worse: the cloud is never right, so escalating only costs, and the frozen rule keeps
    # all.
    never = Rule("keeps all", (1.0,), 0.0, 0.0)
    taken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        subject = ConservativeLearner(
            never, (0.5, 1.0), rng, epsilon=0.5, delta=0.2, max_price=PRICE, refit=False
        )
        for _ in range(200):
            choice = subject.choose((float(rng.normal()),))
            # Zero on average: the boundary case, in which a bet is as likely to win as it may be.
            gain = float(rng.choice([-1.0, 1.0]))
            taken += subject.learn(choice, gain if choice.measured else None) is not None
    assert taken / 40 <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 40)


def test_when_the_world_turns_the_frozen_rule_comes_back() -> None:
    subject = learner(5, epsilon=0.1)
    good, bad = pool(2_500, 7, shift=3.0), pool(2_500, 8, shift=-5.0)
    rng = np.random.default_rng(0)
    run_learner(subject, good, np.arange(2_500), PRICE, LabelFeedback(), rng)
    assert subject.incumbent.threshold < FROZEN.threshold
    run_learner(subject, bad, np.arange(2_500), PRICE, LabelFeedback(), rng)
    reverted = [event for event in subject.events if event.kind == "reverted"]
    assert reverted
    assert "the frozen rule is back" in reverted[0].message


def test_votes_and_agreement_teach_too() -> None:
    queries = pool(3_000, 11, shift=3.0)
    differ = queries.weak != queries.strong
    cloud_wins = float((queries.strong[differ].astype(float) - queries.weak[differ]).mean())
    agreement = learner(1)
    run = run_learner(
        agreement,
        queries,
        np.arange(3_000),
        PRICE,
        AgreementFeedback(cloud_wins, same_mistake=1.0),
        np.random.default_rng(0),
    )
    assert run.lead[-1] > 0
    votes = VoteFeedback(0.4, 0.6, device_wins=0.5)
    subject = learner(1, bound=votes.bound(PRICE))
    run = run_learner(subject, queries, np.arange(3_000), PRICE, votes, np.random.default_rng(0))
    assert run.worst_shortfall(EPSILON) >= 0


def test_a_refit_finds_a_feature_that_the_frozen_rule_ignores() -> None:
    rng = np.random.default_rng(0)
    subject = ConservativeLearner(Rule("frozen", (1.0, 0.0), 0.0, 0.5), (), rng, max_price=PRICE)
    for _ in range(400):
        x = rng.normal(size=2)
        choice = subject.choose(x)
        subject.learn(choice, device_right=float(rng.random() < 1 / (1 + math.exp(-2 * x[1]))))
    refitted = subject.candidates[-1]
    assert refitted.name == "refitted"
    assert refitted.weights[1] > 1.0
    assert abs(refitted.weights[0]) < 0.6


def test_a_learner_goes_on_after_a_restart() -> None:
    queries, rows = pool(1_200, 4, shift=3.0), np.arange(1_200)
    whole, half = learner(6), learner(6)
    run_learner(whole, queries, rows, PRICE, LabelFeedback(), np.random.default_rng(1))
    feedback_rng = np.random.default_rng(1)
    run_learner(half, queries, rows[:500], PRICE, LabelFeedback(), feedback_rng)
    again = ConservativeLearner.from_dict(json.loads(json.dumps(half.to_dict())), half.rng)
    run_learner(again, queries, rows[500:], PRICE, LabelFeedback(), feedback_rng)
    assert again.to_dict() == whole.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon must be between 0 and 1, not -0\.1"),
        ({"delta": 0.0}, r"delta must be between 0 and 1, not 0\.0"),
        ({"max_price": math.inf}, "max_price must be a number that is not negative, not inf"),
        ({"bound": 0.0}, r"bound must be positive, not 0\.0"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        learner(**changes)


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(PolicyError, match=r"a threshold is a probability \(0 to 1\), not 1\.5"):
        ConservativeLearner(FROZEN, (1.5,), np.random.default_rng(0))


def test_a_gain_beyond_the_bound_would_void_the_promise_and_is_refused() -> None:
    subject = learner()
    choice = subject.choose((-5.0, 0.0))
    assert choice.escalate
    with pytest.raises(ValueError, match=r"the gain 3\.0 is beyond the learner's bound of ±1\.1"):
        subject.learn(choice, 3.0)
    with pytest.raises(ValueError, match="features must be finite"):
        subject.choose((math.nan, 0.0))


def test_a_state_that_is_none_says_so() -> None:
    with pytest.raises(PolicyError, match="this is not the state of a learner"):
        ConservativeLearner.from_dict({}, np.random.default_rng(0))
