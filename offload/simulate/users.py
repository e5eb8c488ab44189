"""Users who react: feedback for a learner that decides a stream of queries, and what learning was worth.

The learner sees what a product would: votes of the few who vote, whether both models agree, seldom a
judgement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offload.learn.feedback import gain_from_agreement, gain_from_labels, gain_from_vote, right_from_vote
from offload.learn.online import Choice, ConservativeLearner, Event
from offload.simulate.workload import Pool

__all__ = ["AgreementFeedback", "FeedbackModel", "LabelFeedback", "LearnerRun", "VoteFeedback", "run_learner"]

Floats = npt.NDArray[np.float64]

FeedbackModel = Callable[
    [Choice, bool, bool, float, np.random.Generator], tuple["float | None", "float | None"]
]
"""(choice, device right, cloud right, price, rng) → the gain and "device right" as feedback has them."""


@dataclass(frozen=True, slots=True)
class LabelFeedback:
    """Task success is seen on a share of the queries, of every answer that was made."""

    share: float = 1.0

    def __call__(
        self, choice: Choice, weak: bool, strong: bool, price: float, rng: np.random.Generator
    ) -> tuple[float | None, float | None]:
        """Look, or not."""
        if rng.random() >= self.share:
            return None, None
        return (gain_from_labels(weak, strong, price) if choice.measured else None), float(weak)


@dataclass(frozen=True, slots=True)
class AgreementFeedback:
    """Nobody judges; where both answered, agreement is seen. Right answers agree, wrong ones seldom do.

    `same_mistake` is P(both give the same wrong answer | both wrong).
    """

    cloud_wins: float
    same_mistake: float = 0.1

    def __call__(
        self, choice: Choice, weak: bool, strong: bool, price: float, rng: np.random.Generator
    ) -> tuple[float | None, float | None]:
        """Compare the two answers."""
        if not choice.measured:
            return None, None
        agree = (weak and strong) or (not weak and not strong and rng.random() < self.same_mistake)
        return gain_from_agreement(agree, price, self.cloud_wins), float(agree)


@dataclass(frozen=True, slots=True)
class VoteFeedback:
    """Votes on the shown answer: up with `rate_up` if it is right, down with `rate_down` if wrong."""

    rate_up: float
    rate_down: float
    device_wins: float
    same_mistake: float = 0.1

    def __call__(
        self, choice: Choice, weak: bool, strong: bool, price: float, rng: np.random.Generator
    ) -> tuple[float | None, float | None]:
        """Vote, or not."""
        shown = strong if choice.escalate else weak
        voted = rng.random() < (self.rate_up if shown else self.rate_down)
        right = right_from_vote(shown if voted else None, self.rate_up, self.rate_down)
        if not choice.measured:
            return None, float(shown) if voted else None
        agree = (weak and strong) or (not weak and not strong and rng.random() < self.same_mistake)
        return gain_from_vote(right, agree, price, self.device_wins), None

    def bound(self, price: float) -> float:
        """The largest absolute gain that such a vote can give."""
        ends = [right_from_vote(v, self.rate_up, self.rate_down) for v in (True, False, None)]
        return max(abs(gain_from_vote(e, False, price, self.device_wins)) for e in ends) + price


@dataclass(frozen=True, slots=True)
class LearnerRun:
    """`lead` is the cumulative utility of what was done minus that of the frozen rule: float64 [T].

    Utility is 1 if the shown answer is right, else 0, minus the price when escalated.
    """

    lead: Floats
    escalated: float
    events: tuple[Event, ...]

    def worst_shortfall(self, epsilon: float) -> float:
        """min over t of lead(t) + ε·t: below 0 where the promise was broken."""
        return float((self.lead + epsilon * np.arange(1, len(self.lead) + 1)).min())


def run_learner(
    learner: ConservativeLearner,
    pool: Pool,
    rows: npt.NDArray[np.int64],
    price: float,
    feedback: FeedbackModel,
    rng: np.random.Generator,
) -> LearnerRun:
    """Let a learner decide the queries `rows` of a pool, one after another, with feedback.

    The features of a query are the log-odds of its confidence and of its prior, in that order.
    """
    features = np.stack([_log_odds(pool.confidence), _log_odds(pool.prior)], axis=1)
    steps, escalated = np.zeros(len(rows)), 0
    for t, row in enumerate(rows):
        weak, strong = bool(pool.weak[row]), bool(pool.strong[row])
        choice = learner.choose(features[row])
        gain, device_right = feedback(choice, weak, strong, price, rng)
        learner.learn(choice, gain, device_right)
        escalated += choice.escalate
        if choice.escalate != choice.frozen:
            steps[t] = (strong - weak - price) * (1 if choice.escalate else -1)
    return LearnerRun(np.cumsum(steps), escalated / len(rows), tuple(learner.events))


def _log_odds(p: Floats) -> Floats:
    clipped = np.clip(np.where(np.isnan(p), 0.5, p), 1e-4, 1 - 1e-4)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds
