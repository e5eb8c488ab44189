"""Improving the rule keep | escalate from feedback, never far below the frozen one.

A bandit over rules. The frozen rule is the baseline; candidates are other thresholds on its probability, and
a small combiner that is refitted from feedback. Where a candidate would act otherwise than the rule in
charge, the *gain* (utility of escalating − utility of keeping) is measured: for nothing where the rule in
charge escalates after the device has answered, since then both answers exist; by exploring, that is by
escalating what would have been kept, where it keeps.

What is promised, with ε and δ of your choice:

1. *Exploring costs at most ε per query.* An exploration against the frozen rule's choice loses at most
   L = 1 + the largest price, and is made only while (explorations so far + 1)·L ≤ ε·t. So after every number
   t of queries the utility lost to exploring is at most ε·t: surely, with no assumption. This is the
   constraint of conservative bandits (Wu et al., ICML 2016, arXiv 1602.04282; Kazerouni et al., NeurIPS 2017,
   arXiv 1611.06426) with the worst case in the place of a confidence bound.
2. *Changes of rule are improvements, with probability ≥ 1 − δ.* A candidate replaces the rule in charge when
a
   bet against "its mean gain is ≤ 0" has multiplied its stake by K / δ' (testing by betting: Waudby-Smith and
   Ramdas, JRSS B 2024, arXiv 2010.09686; Ville's inequality makes it valid at every time). δ' = 6δ/(π²j²) for
   the j-th rule in charge, shared among its K candidates. Assumes that feedback is right on average
   (`offload.learn.feedback`) and that the mean gain does not change while it is being measured.

Together: with probability ≥ 1 − δ, the expected utility of what was done never falls behind that of the
frozen rule by more than ε·t. When the world changes after a replacement, 2 no longer covers it; a second test
compares the rule in charge with the frozen one on a share of the queries and goes back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from offload.errors import PolicyError

__all__ = ["Choice", "ConservativeLearner", "Event", "Rule"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Shares of the capital that a bet puts at risk; the capital is split evenly among them."""
CHECK_SHARE = 0.05
"""Share of queries on which the rule in charge is compared with the frozen one at the frozen one's choice."""
REVERT_EVERY = 1_000
"""A rule that is no worse than the frozen one is taken back at most once in so many comparisons."""
REFIT_EVERY = 200
MEMORY = 2_000
SHRINK = 20.0
"""Weight of the frozen rule in a refit, in labelled queries per feature."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Escalate when σ(weights · features + bias) < threshold; the left side is P(the device is right)."""

    name: str
    weights: tuple[float, ...]
    bias: float
    threshold: float

    def probability(self, features: Sequence[float]) -> float:
        """P(the device is right), as this rule sees it."""
        z = math.fsum(w * x for w, x in zip(self.weights, features, strict=True)) + self.bias
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))

    def escalates(self, features: Sequence[float]) -> bool:
        """Does it escalate?"""
        return self.probability(features) < self.threshold

    def same_score(self, other: Rule) -> bool:
        """Do both order queries alike, so that they differ in the threshold alone?"""
        return self.weights == other.weights and self.bias == other.bias


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do with one query. `frozen` is what the frozen rule would have done.

    With `measured`, both answers exist, and `ConservativeLearner.learn` wants the gain.
    """

    escalate: bool
    frozen: bool
    explored: bool
    measured: bool
    features: tuple[float, ...]
    candidates: tuple[bool, ...] = ()
    charge: bool = False
    checks: bool = False
    explores: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the rule in charge, explained."""

    kind: Literal["promoted", "reverted"]
    query: int
    rule: Rule
    message: str


@dataclass(slots=True)
class ConservativeLearner:
    """Choose, act, learn. One per device; state goes to JSON and back.

    `epsilon` is the utility per query that exploring may cost, `delta` the probability of ever taking a worse
    rule, `max_price` the largest price (latency and money, in units of quality) of an escalation, `bound` the
    largest absolute gain that feedback can give (1 + max_price for labels and agreement; more for votes that
    are rare).
    """

    frozen: Rule
    thresholds: tuple[float, ...]
    rng: np.random.Generator
    epsilon: float = 0.02
    delta: float = 0.05
    max_price: float = 0.2
    bound: float | None = None
    refit: bool = True
    incumbent: Rule = field(init=False)
    candidates: list[Rule] = field(init=False)
    events: list[Event] = field(init=False)
    queries: int = field(init=False, default=0)
    explorations: int = field(init=False, default=0)
    _capital: Floats = field(init=False)
    _against: Floats = field(init=False)
    _labels: deque[tuple[tuple[float, ...], float, float]] = field(init=False)
    _unfitted: int = field(init=False, default=0)
    _refits: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Check the numbers; the frozen rule takes charge.

        Raises:
            PolicyError: names the setting, its value and what it may be.
        """
        for name, value, high in (("epsilon", self.epsilon, 1.0), ("delta", self.delta, 1.0)):
            if not 0 <= value < high or (name == "delta" and value == 0):
                raise PolicyError(f"{name} must be between 0 and 1, not {value!r}")
        if not (self.max_price >= 0 and math.isfinite(self.max_price)):
            raise PolicyError(f"max_price must be a number that is not negative, not {self.max_price!r}")
        if self.bound is None:
            self.bound = 1 + self.max_price
        if not self.bound > 0:
            raise PolicyError(f"bound must be positive, not {self.bound!r}")
        wrong = [t for t in self.thresholds if not 0 <= t <= 1]
        if wrong:
            raise PolicyError(f"a threshold is a probability (0 to 1), not {wrong[0]!r}")
        self.events = []
        self._labels = deque(maxlen=MEMORY)
        self._take_charge(self.frozen)

    def choose(self, features: Sequence[float]) -> Choice:
        """What to do with the next query."""
        x = tuple(float(v) for v in features)
        if not all(math.isfinite(v) for v in x):
            raise ValueError(f"features must be finite numbers, not {x!r}")
        self.queries += 1
        # Decided before looking at the query, so that what is measured is a fair sample of each disagreement.
        explores = (self.explorations + 1) * (1 + self.max_price) <= self.epsilon * self.queries
        checks = float(self.rng.random()) < CHECK_SHARE
        frozen, charge = self.frozen.escalates(x), self.incumbent.escalates(x)
        others = tuple(rule.escalates(x) for rule in self.candidates)
        explored = not charge and (
            (explores and (frozen or any(o != charge for o in others))) or (checks and frozen)
        )
        escalate = charge or explored
        if explored and not frozen:
            self.explorations += 1
        return Choice(
            escalate=escalate,
            frozen=frozen,
            explored=explored,
            measured=escalate,
            features=x,
            candidates=others,
            charge=charge,
            checks=checks or explores,
            explores=explores,
        )

    def learn(
        self,
        choice: Choice,
        gain: float | None = None,
        device_right: float | None = None,
        weight: float = 1.0,
    ) -> Event | None:
        """What came of a choice: the measured gain, and whether the device was right, where they are known.

        `device_right` may be an estimate; `weight` is 1 / P(this feedback was given).

        Raises:
            ValueError: a gain beyond `bound`, which would make the promise void.
        """
        assert self.bound is not None
        if device_right is not None:
            self._labels.append((choice.features, min(max(device_right, 0.0), 1.0), weight))
            self._unfitted += 1
        event = None
        if gain is not None and choice.measured:
            if not abs(gain) <= self.bound * (1 + 1e-9):
                raise ValueError(f"the gain {gain!r} is beyond the learner's bound of ±{self.bound:g}")
            event = self._revert(choice, gain) or self._promote(choice, gain)
        if self.refit and self._unfitted >= REFIT_EVERY:
            self._propose()
        return event

    def _promote(self, choice: Choice, gain: float) -> Event | None:
        if not self.candidates or len(choice.candidates) != len(self.candidates):
            return None
        assert self.bound is not None
        for k, (rule, escalates) in enumerate(zip(self.candidates, choice.candidates, strict=True)):
            # A candidate that keeps more is measured on every query; one that escalates more only where
            # exploring was possible, and its two kinds of disagreement must be sampled alike.
            keeps_more = rule.same_score(self.incumbent) and rule.threshold < self.incumbent.threshold
            if escalates == choice.charge or not (keeps_more or choice.explores):
                continue
            won = (gain if escalates else -gain) / self.bound
            self._capital[k] *= 1 + STAKES * won
        levels = [self._level(rule) for rule in self.candidates]
        best = int(np.argmax(self._capital.mean(axis=1) / levels))
        if self._capital[best].mean() < (level := levels[best]):
            return None
        rule, old = self.candidates[best], self.incumbent
        self._take_charge(rule)
        event = Event(
            "promoted",
            self.queries,
            rule,
            f"after {self.queries} queries '{rule.name}' replaces '{old.name}': a bet that it is no better "
            f"has lost {level:.0f} to 1",
        )
        self.events.append(event)
        return event

    def _revert(self, choice: Choice, gain: float) -> Event | None:
        # Where the two rules differ in both directions, both must be sampled alike; else all that is there
        # counts.
        one_way = self.incumbent.same_score(self.frozen) and choice.charge
        if choice.charge == choice.frozen or not (choice.checks or one_way):
            return None
        assert self.bound is not None
        worse = (gain if choice.frozen else -gain) / self.bound
        # Shiryaev-Roberts: summed over the times at which the rule may have become worse.
        self._against = (self._against + 1 / len(STAKES)) * (1 + STAKES * worse)
        if self._against.sum() < REVERT_EVERY:
            return None
        old = self.incumbent
        self._take_charge(self.frozen)
        event = Event(
            "reverted",
            self.queries,
            self.frozen,
            f"after {self.queries} queries the frozen rule is back: '{old.name}' has become worse than it",
        )
        self.events.append(event)
        return event

    def _level(self, rule: Rule) -> float:
        """How many times its stake a bet on this candidate must have won: K / δ' with δ' = 6δ / (π² j²).

        The n-th refit shares its place with all others, by the same series.
        """
        j = 1 + len(self.events)
        n = 1 if rule.same_score(self.incumbent) else max(1, self._refits)
        return (len(self.thresholds) + 1) * (math.pi**2 / 6) ** (1 + (n > 1)) * (j * n) ** 2 / self.delta

    def _take_charge(self, rule: Rule) -> None:
        self.incumbent = rule
        self.candidates = [
            Rule(f"threshold {t:.2f}", rule.weights, rule.bias, t)
            for t in self.thresholds
            if t != rule.threshold
        ]
        self._capital = np.ones((len(self.candidates), len(STAKES)))
        self._against = np.zeros(len(STAKES))

    def _propose(self) -> None:
        """Refit the combiner and let it stand as the last candidate, with nothing won yet."""
        self._unfitted = 0
        self._refits += 1
        rule = self._fitted()
        self.candidates = [c for c in self.candidates if c.same_score(self.incumbent)]
        self._capital = np.vstack([self._capital[: len(self.candidates)], np.ones((1, len(STAKES)))])
        self.candidates.append(rule)

    def _fitted(self) -> Rule:
        """Logistic regression on the labelled queries, shrunk towards the frozen rule (ridge, by Newton)."""
        X = np.array([(*x, 1.0) for x, _, _ in self._labels])
        y = np.array([v for _, v, _ in self._labels])
        w = np.array([v for _, _, v in self._labels])
        start = np.array([*self.frozen.weights, self.frozen.bias])
        theta = start.copy()
        for _ in range(25):
            p = 1 / (1 + np.exp(-np.clip(X @ theta, -30, 30)))
            gradient = X.T @ (w * (y - p)) - SHRINK * (theta - start)
            hessian = (X * (w * p * (1 - p))[:, None]).T @ X + SHRINK * np.eye(len(theta))
            step = np.linalg.solve(hessian, gradient)
            theta = theta + np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-8:
                break
        return Rule("refitted", tuple(theta[:-1].tolist()), float(theta[-1]), self.incumbent.threshold)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready state (not the random source)."""
        return {
            "frozen": _rule(self.frozen),
            "incumbent": _rule(self.incumbent),
            "candidates": [_rule(c) for c in self.candidates],
            "thresholds": list(self.thresholds),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "max_price": self.max_price,
            "bound": self.bound,
            "refit": self.refit,
            "queries": self.queries,
            "explorations": self.explorations,
            "capital": self._capital.tolist(),
            "against": self._against.tolist(),
            "labels": [[list(x), y, w] for x, y, w in self._labels],
            "unfitted": self._unfitted,
            "refits": self._refits,
            "events": [
                {"kind": e.kind, "query": e.query, "rule": _rule(e.rule), "message": e.message}
                for e in self.events
            ],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], rng: np.random.Generator) -> ConservativeLearner:
        """Back from `to_dict`.

        Raises:
            PolicyError: not the state of a learner.
        """
        try:
            learner = cls(
                _read(value["frozen"]),
                tuple(float(t) for t in value["thresholds"]),
                rng,
                float(value["epsilon"]),
                float(value["delta"]),
                float(value["max_price"]),
                float(value["bound"]),
                bool(value["refit"]),
            )
            learner.incumbent = _read(value["incumbent"])
            learner.candidates = [_read(c) for c in value["candidates"]]
            learner.queries, learner.explorations = int(value["queries"]), int(value["explorations"])
            learner._capital = np.asarray(value["capital"], np.float64).reshape(-1, len(STAKES))
            learner._against = np.asarray(value["against"], np.float64)
            learner._labels.extend((tuple(x), float(y), float(w)) for x, y, w in value["labels"])
            learner._unfitted, learner._refits = int(value["unfitted"]), int(value["refits"])
            learner.events = [
                Event(e["kind"], int(e["query"]), _read(e["rule"]), str(e["message"]))
                for e in value["events"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"this is not the state of a learner: {error!r}") from error
        return learner


def _rule(rule: Rule) -> dict[str, Any]:
    return {"name": rule.name, "weights": list(rule.weights), "bias": rule.bias, "threshold": rule.threshold}


def _read(value: Mapping[str, Any]) -> Rule:
    weights = tuple(float(w) for w in value["weights"])
    return Rule(str(value["name"]), weights, float(value["bias"]), float(value["threshold"]))
