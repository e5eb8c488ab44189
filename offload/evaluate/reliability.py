"""Whether stated probabilities mean what they say: Brier score, calibration error and its noise floor.

Knows: numpy arrays. Does not know: where probabilities come from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "bins", "brier", "ece", "ece_floor"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = 15
REDRAWS = 1_000


def brier(p: Floats, correct: Bools) -> float:
    """Mean squared difference of probability and outcome (Brier 1950)."""
    return float(np.mean((np.asarray(p, np.float64) - np.asarray(correct, np.float64)) ** 2))


def bins(p: Floats, count: int = BINS) -> npt.NDArray[np.int64]:
    """The equal-width bin of each probability: int64 [n]; 1 belongs to the last."""
    return np.minimum((np.asarray(p, np.float64) * count).astype(np.int64), count - 1)


def ece(p: Floats, correct: Bools, count: int = BINS) -> float:
    """Expected calibration error: |mean probability − share of right ones| over equal-width bins, weighted by
    their rows (Naeini et al. 2015).
    """
    at = bins(p, count)
    gap = np.bincount(at, np.asarray(p, np.float64) - np.asarray(correct, np.float64), count)
    return float(np.abs(gap).sum() / len(at))


def ece_floor(p: Floats, *, count: int = BINS, redraws: int = REDRAWS, seed: int = 0) -> float:
    """What `ece` is on average when the probabilities are exactly right: the mean over label sets drawn from
    them. A finite number of rows never gives 0.
    """
    p = np.asarray(p, np.float64)
    rng = np.random.default_rng(seed)
    at = bins(p, count)
    total = 0.0
    for _ in range(redraws):
        gap = np.bincount(at, p - (rng.random(len(p)) < p), count)
        total += float(np.abs(gap).sum())
    return total / (redraws * len(p))
