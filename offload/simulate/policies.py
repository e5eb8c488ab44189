"""Policies to compare: the two ends, chance, thresholds, expected utility paced to a budget, and hindsight.

`ExpectedUtility` is the vectorised form of what `offload.router` decides for one query;
`tools/compare_policies.py` runs the router itself on the same episodes through an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offload.simulate.workload import Pool
from offload.simulate.world import Step, View

__all__ = ["CloudOnly", "ExpectedUtility", "Fixed", "Hindsight", "LocalOnly", "Random", "Threshold"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = 10
LEVELS = 33


@dataclass
class Fixed:
    """What most policies share: no state between queries, nothing sent before the device has tried."""

    name: str = "fixed"
    sees_truth: bool = False

    def start(self, devices: int, rng: np.random.Generator) -> None:
        """Nothing to prepare."""

    def before(self, view: View) -> Bools:
        """Let the device try."""
        return np.zeros(len(view.cost), bool)

    def after(self, view: View) -> Bools:
        """Keep its answer."""
        return np.zeros(len(view.cost), bool)

    def observe(self, step: Step) -> None:
        """Learn nothing."""


@dataclass
class LocalOnly(Fixed):
    """Every answer is the device's."""

    name: str = "local only"


@dataclass
class CloudOnly(Fixed):
    """Every query goes to the cloud at once when there is a link, whatever it costs or within the budget."""

    name: str = "cloud only"
    within_budget: bool = False

    def before(self, view: View) -> Bools:
        """Send whatever can be sent."""
        return view.link & view.affordable() if self.within_budget else view.link.copy()


@dataclass
class Random(Fixed):
    """A query is escalated with a fixed probability, within the budget."""

    share: float = 0.5
    name: str = "random"
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self, devices: int, rng: np.random.Generator) -> None:
        """Take the run's own draws."""
        self.rng = rng

    def after(self, view: View) -> Bools:
        """Toss a coin."""
        return (self.rng.random(len(view.cost)) < self.share) & view.link & view.affordable()


@dataclass
class Threshold(Fixed):
    """Escalate what the device is less sure of than `threshold`, until the budget is spent.

    An answer without a confidence counts as unsure. Without a view of its budget it spends on the first
    queries that come.
    """

    threshold: float = 0.5
    name: str = "threshold"

    def after(self, view: View) -> Bools:
        """Compare."""
        unsure = ~(view.confidence >= self.threshold)
        return unsure & view.link & view.affordable()


@dataclass
class Hindsight(Fixed):
    """What no policy can know: sends at once what the cloud is worth, looking at both answers.

    With a budget it sends what only the cloud gets right, first come, first served. A line to compare with;
    not a bound, since it spends without choosing the cheapest of those queries.
    """

    name: str = "hindsight"
    sees_truth: bool = True

    def before(self, view: View) -> Bools:
        """Look at the truth."""
        assert view.truth is not None
        weak, strong = view.truth
        gain = strong.astype(float) - weak + view.price_latency * (view.local_s - view.cloud_s)
        worth = gain - view.price_cost * view.cost > 0
        if np.isfinite(view.money_total):
            worth &= strong & ~weak
        return worth & view.link & view.affordable()


@dataclass
class ExpectedUtility(Fixed):
    """Send a query where the expected utility of the cloud's answer exceeds that of the device's, at a pace.

    Before: compare sending at once with trying the device first, whose confidence is not known yet; its
    distribution given the prior is the one of the queries that the policy was fitted on (deciles of the
    prior). After: escalate when P(cloud right) − P(device right) − latency − cost exceeds a pace θ ≥ 0. Pace:
    θ is the quantile of the gains seen in fitting above which there are as many queries as the rest of the
    budget pays for, so that hard queries late in a period find money left. A query that the budget no longer
    pays for is never sent.
    """

    name: str = "expected utility"
    edges: Floats = field(default_factory=lambda: np.zeros(0))
    table: Floats = field(default_factory=lambda: np.zeros((1, 1)))
    gains: Floats = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def fit(cls, pool: Pool, name: str = "expected utility") -> ExpectedUtility:
        """From queries whose confidences are known (no outcomes are read).

        A pool without priors never sends before the device has tried.
        """
        confidence = np.where(np.isnan(pool.confidence), 0.0, pool.confidence)
        known = ~np.isnan(pool.prior)
        edges, table = np.zeros(0), np.quantile(confidence, np.linspace(0, 1, LEVELS))[None]
        if known.any():
            edges = np.unique(np.quantile(pool.prior[known], np.linspace(0, 1, BINS + 1)[1:-1]))
            bins = np.digitize(pool.prior, edges)
            filled = [
                confidence[known & (bins == b)] if (known & (bins == b)).any() else confidence
                for b in range(len(edges) + 1)
            ]
            table = np.stack([np.quantile(c, np.linspace(0, 1, LEVELS)) for c in filled])
        return cls(name=name, edges=edges, table=table, gains=np.sort(pool.strong_prior - confidence))

    def pace(self, view: View) -> Floats:
        """θ for each device: float64 [D]; 0 where the rest of the budget pays for every query."""
        queries = np.where(view.cost > 0, view.money_left / np.where(view.cost > 0, view.cost, 1.0), np.inf)
        share = np.clip(queries / (view.steps - view.step), 0.0, 1.0)
        theta = np.interp(1 - share, np.linspace(0, 1, len(self.gains)), self.gains)
        return np.where(share >= 1, 0.0, np.maximum(theta, 0.0))

    def before(self, view: View) -> Bools:
        """Send at once where trying first is not expected to be worth its time."""
        theta = self.pace(view)
        cloud = view.strong_prior - view.price_latency * view.cloud_s - view.price_cost * view.cost - theta
        row = np.where(np.isnan(view.prior), 0, np.digitize(view.prior, self.edges))
        best = np.maximum(self.table[row], cloud[:, None]).mean(axis=1)
        tried = best - view.price_latency * view.local_s
        hopeless: Bools = (cloud > tried) & ~np.isnan(view.prior)
        return hopeless & view.link & view.affordable()

    def after(self, view: View) -> Bools:
        """Escalate what gains more than the pace. Without a confidence the device counts as wrong."""
        p = np.where(np.isnan(view.confidence), 0.0, view.confidence)
        gain = view.strong_prior - p - view.price_latency * view.cloud_s - view.price_cost * view.cost
        worth: Bools = gain > self.pace(view)
        return worth & view.link & view.affordable()
