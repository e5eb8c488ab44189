"""How good an order of queries is for escalating: deferral curve, PGR, APGR, CPT, and the lines beside them.

Definitions after RouteLLM (arXiv 2406.18665), stated in `docs/routing.md`. Knows: arrays of confidence c
(higher for keeping) and of both models' correctness w, s ∈ {0, 1}. Does not know: routers, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offload.errors import OutcomesError
from offload.evaluate.metrics import LEVEL, RESAMPLES, Metric, auroc
from offload.evaluate.reliability import brier, ece, ece_floor

__all__ = [
    "FRACTIONS",
    "SHOWN",
    "Deferral",
    "area",
    "calibration_metrics",
    "oracle_gain",
    "routing_metrics",
]

Floats = npt.NDArray[np.float64]
Numbers = Sequence[float] | Sequence[bool] | npt.NDArray[np.float64] | npt.NDArray[np.bool_]

FRACTIONS: Floats = np.linspace(0, 1, 101)
"""Escalated fractions at which the curve is taken: 0, 0.01, …, 1."""

SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Fractions at which collaboration is reported."""

REACHED = (0.5, 0.8, 0.95)
"""Shares of the performance gap whose price (CPT) is reported."""


@dataclass(frozen=True)
class Deferral:
    """Accuracy when the least confident queries go to the strong model.

    Between two queries, and among queries of equal confidence, the curve is a straight line: what escalating
    a random part of them gives on average. So the result does not depend on the order of the rows.
    """

    weak: float
    strong: float
    places: Floats
    """Escalated fractions at which the curve bends, from 0 to 1."""
    gains: Floats
    """Accuracy above the weak model's at `places`."""

    @classmethod
    def of(cls, confidence: Numbers, weak: Numbers, strong: Numbers) -> Deferral:
        """The curve of n ≥ 1 queries. A confidence that is NaN counts as the lowest: it fails closed."""
        c = np.nan_to_num(np.asarray(confidence, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        w, s = np.asarray(weak, np.float64), np.asarray(strong, np.float64)
        order = np.argsort(c, kind="stable")
        ordered = c[order]
        total = np.concatenate([[0.0], np.cumsum((s - w)[order])])
        last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
        bends = np.concatenate([[0], np.flatnonzero(last_of_ties) + 1])
        return cls(float(w.mean()), float(s.mean()), bends / len(c), total[bends] / len(c))

    def gain(self, fraction: float | Floats) -> Floats:
        """Accuracy above the weak model's at an escalated fraction."""
        return np.asarray(np.interp(fraction, self.places, self.gains), np.float64)

    def accuracy(self, fraction: float | Floats) -> Floats:
        """Accuracy of the pair at an escalated fraction."""
        return self.weak + self.gain(fraction)

    @property
    def gap(self) -> float:
        """Accuracy of the strong model above the weak one's."""
        return self.strong - self.weak

    def pgr(self, fraction: float | Floats) -> Floats | None:
        """Share of the performance gap recovered; None where the strong model is no better."""
        return self.gain(fraction) / self.gap if self.gap > 0 else None

    def apgr(self) -> float | None:
        """Area under PGR over the fraction: trapezoid rule on `FRACTIONS`. Random escalation has 0.5."""
        pgr = self.pgr(FRACTIONS)
        return None if pgr is None else area(pgr)

    def cpt(self, share: float) -> float | None:
        """The smallest escalated fraction whose PGR reaches `share`."""
        if self.gap <= 0:
            return None
        wanted = share * self.gap - 1e-12
        if self.gains[0] >= wanted:
            return 0.0
        i = int(np.argmax(self.gains >= wanted))  # PGR(1) = 1: there is one
        rise = (wanted - self.gains[i - 1]) / (self.gains[i] - self.gains[i - 1])
        return float(self.places[i - 1] + rise * (self.places[i] - self.places[i - 1]))


def area(heights: Floats) -> float:
    """Area under values at `FRACTIONS` by the trapezoid rule."""
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(FRACTIONS)))


def oracle_gain(weak: Numbers, strong: Numbers, fraction: float | Floats) -> Floats:
    """What the oracle gains when it may escalate a fraction: it takes only queries with w = 0 and s = 1."""
    w, s = np.asarray(weak, np.float64), np.asarray(strong, np.float64)
    return np.minimum(fraction, float(np.mean((w == 0) & (s == 1))))


def routing_metrics(
    confidence: Numbers,
    weak: Numbers,
    strong: Numbers,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every figure of a confidence, with 95 % bootstrap intervals over the queries.

    `weak`, `strong`: accuracies; `apgr`; `cpt_50`, `cpt_80`, `cpt_95`; `auroc` of the confidence for a right
    weak answer; and at 10, 20, 30, 40, 50 % escalated: `accuracy_20`, `pgr_20`, `oracle_share_20` (gain ÷ the
    oracle's gain at the same fraction).

    Raises:
        OutcomesError: there is no query.
    """
    c, w, s = (np.asarray(x, np.float64) for x in (confidence, weak, strong))
    if not len(c):
        raise OutcomesError("there are no rows to measure")
    found = _figures(c, w, s)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        i = rng.integers(0, len(c), len(c))
        drawn.append(_figures(c[i], w[i], s[i]))
    return {
        name: Metric(value, *_interval([d[name] for d in drawn]), len(c)) for name, value in found.items()
    }


def calibration_metrics(
    p: Numbers, correct: Numbers, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Metric]:
    """`ece` (15 equal-width bins), `ece_floor` (1,000 redraws), `ece_excess`, `brier` of probabilities.

    Raises:
        OutcomesError: there is no row, or a value is no probability.
    """
    q, y = np.asarray(p, np.float64), np.asarray(correct, bool)
    if not len(q):
        raise OutcomesError("there are no rows to measure")
    if not np.all((q >= 0) & (q <= 1)):
        raise OutcomesError("a calibration error needs probabilities from 0 to 1; this confidence has others")
    floor = ece_floor(q, redraws=1_000, seed=seed)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        i = rng.integers(0, len(q), len(q))
        drawn.append((ece(q[i], y[i]), brier(q[i], y[i])))
    error = ece(q, y)
    return {
        "ece": Metric(error, *_interval([e for e, _ in drawn]), len(q)),
        "ece_floor": Metric(floor, None, None, len(q)),
        "ece_excess": Metric(error - floor, None, None, len(q)),
        "brier": Metric(brier(q, y), *_interval([b for _, b in drawn]), len(q)),
    }


def _figures(c: Floats, w: Floats, s: Floats) -> dict[str, float | None]:
    curve = Deferral.of(c, w, s)
    found: dict[str, float | None] = {"weak": curve.weak, "strong": curve.strong, "apgr": curve.apgr()}
    for share in REACHED:
        found[f"cpt_{round(100 * share)}"] = curve.cpt(share)
    found["auroc"] = auroc(np.nan_to_num(c, nan=-np.inf, posinf=np.inf, neginf=-np.inf), w > 0.5)
    for fraction in SHOWN:
        at = round(100 * fraction)
        pgr, gain = curve.pgr(fraction), float(curve.gain(fraction))
        best = float(oracle_gain(w, s, fraction))
        found[f"accuracy_{at}"] = curve.weak + gain
        found[f"pgr_{at}"] = None if pgr is None else float(pgr)
        found[f"oracle_share_{at}"] = gain / best if best > 0 else None
    return found


def _interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    kept = [x for x in values if x is not None]
    if not kept:
        return None, None
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
