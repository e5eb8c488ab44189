"""What trying the device is worth, told from the prompt alone.

The device's answer will come with a calibrated confidence P, and be kept where P reaches the threshold T.
Before there is an answer only the mean of P is known: it is p, the chance told from the prompt, since both
are calibrated. P is taken as beta-distributed with mean p and variance ρ·p·(1 − p). ρ, the *resolution*, is
the share of the prompt's doubt that the confidence removes: 0, the answer tells nothing that the prompt did
not (P = p); 1, it tells right from wrong surely (P is 0 or 1).

Knows: probabilities. Does not know: prices, or what is decided (`offload.router`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload.binomial import incomplete_beta
from offload.errors import PolicyError

__all__ = ["chance_kept", "resolution", "worth_of_trying"]

SHARP = 1e-3
"""Resolutions nearer to 0 or 1 than this count as 0 or 1."""

TINY = 1e-12
"""Chances nearer to 0 or 1 are taken as this far from them: the gamma function would overflow."""


def worth_of_trying(p: float, threshold: float, rho: float) -> float:
    """E[max(P, T)] − T = E[(P − T)⁺]: what the answers that are kept are worth beyond asking at once.

    T is the worth of asking (quality less prices, less what the budget is worth to other queries), so that
    whoever tries ends with max(P, T), and whoever asks at once with T. For a beta distribution with the
    parameters a, b it is p·(1 − I_T(a + 1, b)) − T·(1 − I_T(a, b)). Never falls while p rises.

    Args:
        p: the chance from the prompt, 0 to 1. threshold: may lie below 0 or above 1. rho: 0 to 1.
    """
    surely = max(0.0, p - threshold)
    if threshold <= 0:
        return surely
    if threshold >= 1:
        return 0.0
    at_best = p * (1 - threshold)
    if rho <= SHARP or not 0 < p < 1:
        return surely
    if rho >= 1 - SHARP:
        return at_best
    a, b = _shape(p, rho)
    mean_above = p * incomplete_beta(b, a + 1, 1 - threshold)
    worth = mean_above - threshold * incomplete_beta(b, a, 1 - threshold)
    return min(max(worth, surely), at_best)


def chance_kept(p: float, threshold: float, rho: float) -> float:
    """P(P ≥ T) = 1 − I_T(a, b): the chance that the device's answer will be kept. Arguments as above."""
    if threshold <= 0:
        return 1.0
    if rho <= SHARP or not 0 < p < 1:
        return float(p >= threshold)
    if rho >= 1 - SHARP:
        return p
    a, b = _shape(p, rho)
    return incomplete_beta(b, a, 1 - threshold)


def resolution(priors: Sequence[float], confidences: Sequence[float], right: Sequence[bool]) -> float:
    """ρ on labelled rows, 0 to 1: 1 − Brier(confidence) / Brier(prior), the Brier skill score.

    For calibrated probabilities E[(P − p)²] = Brier(p) − Brier(P), and Brier(p) = E[p(1 − p)]. Rows in which
    either is missing (NaN) are left out.

    Raises:
        PolicyError: no row has both, or the priors are never wrong.
    """
    p, c, y = (np.asarray(x, np.float64) for x in (priors, confidences, right))
    known = np.isfinite(p) & np.isfinite(c)
    before = float(((p - y)[known] ** 2).sum())
    if before <= 0:
        raise PolicyError(
            f"the resolution cannot be measured: of {len(p)} rows {int(known.sum())} have a chance from the "
            "prompt and a confidence, and the chances have no errors; give more labelled rows"
        )
    return min(1.0, max(0.0, 1 - float(((c - y)[known] ** 2).sum()) / before))


def _shape(p: float, rho: float) -> tuple[float, float]:
    strength = (1 - rho) / rho
    p = min(max(p, TINY), 1 - TINY)
    return p * strength, (1 - p) * strength
