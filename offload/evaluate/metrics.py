"""Figures over outcomes: means with bootstrap intervals, AUROC, false positives at a true-positive rate.

Knows: numpy arrays. Does not know: models, frames, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Metric", "auroc", "fpr_at_tpr", "interval", "mean_metric", "signal_metric"]

Floats = npt.NDArray[np.float64]

RESAMPLES = 1_000
LEVEL = 0.95


@dataclass(frozen=True)
class Metric:
    """A figure over `n` rows with its bootstrap interval; `None` where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """A plain object, figures rounded to 6 digits."""

        def short(x: float | None) -> float | None:
            return None if x is None else round(x, 6)

        return {"value": short(self.value), "low": short(self.low), "high": short(self.high), "n": self.n}


def ranks(x: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs: float64 [n]."""
    order = np.argsort(x, kind="stable")
    ordered = x[order]
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")
    result = np.empty(len(x))
    result[order] = (first + last + 1) / 2
    return result


def auroc(scores: Sequence[float] | Floats, positive: Sequence[bool] | npt.NDArray[np.bool_]) -> float | None:
    """P(score of a positive > score of a negative), ties counting half (Mann-Whitney U / n₁n₀).

    None when one of the classes is empty.
    """
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    n1 = int(p.sum())
    n0 = len(p) - n1
    if n1 == 0 or n0 == 0:
        return None
    return float((ranks(s)[p].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def fpr_at_tpr(
    scores: Sequence[float] | Floats, positive: Sequence[bool] | npt.NDArray[np.bool_], tpr: float = 0.95
) -> float | None:
    """Share of negatives at or above the highest threshold that at least `tpr` of the positives reach."""
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if p.all() or not p.any():
        return None
    positives = np.sort(s[p])[::-1]
    threshold = positives[int(np.ceil(tpr * len(positives))) - 1]
    return float((s[~p] >= threshold).mean())


def interval(
    figure: Callable[[npt.NDArray[np.int64]], float | None],
    n: int,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of `figure(indices)` over rows drawn with replacement (seeded).

    Resamples in which the figure is not defined (one class only) are left out; (None, None) if all are.
    """
    rng = np.random.default_rng(seed)
    drawn = (figure(rng.integers(0, n, n)) for _ in range(resamples)) if n else iter(())
    values = [x for x in drawn if x is not None]
    if not values:
        return None, None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_metric(values: Sequence[float] | Sequence[bool], *, seed: int = 0) -> Metric:
    """The mean with its interval."""
    x = np.asarray(values, np.float64)
    if not len(x):
        return Metric(None, None, None, 0)
    low, high = interval(lambda i: float(x[i].mean()), len(x), seed=seed)
    return Metric(float(x.mean()), low, high, len(x))


def signal_metric(
    scores: Sequence[float],
    positive: Sequence[bool],
    figure: Callable[[Floats, npt.NDArray[np.bool_]], float | None] = auroc,
    *,
    seed: int = 0,
) -> Metric:
    """`figure` (AUROC by default) of a score for a class, with its interval."""
    s, p = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if not len(s):
        return Metric(None, None, None, 0)
    low, high = interval(lambda i: figure(s[i], p[i]), len(s), seed=seed)
    return Metric(figure(s, p), low, high, len(s))
