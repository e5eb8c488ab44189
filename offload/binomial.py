"""The binomial distribution and exact bounds on its rate, without scipy.

Knows: counts. Does not know: what is promised with them (`offload.guarantee`).
"""

from __future__ import annotations

import math

from offload.errors import GuaranteeError

__all__ = [
    "beta_quantile",
    "binomial_cdf",
    "check_levels",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "incomplete_beta",
]


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b) for a, b > 0 and 0 ≤ x ≤ 1.

    Continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, evaluated by Lentz's
    method; the side of the mean on which it converges quickly is chosen by I_x(a, b) = 1 − I_{1−x}(b, a).
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + step * d
            c = 1 + step / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, math.exp(front) * fraction)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = `probability`, by bisection to double precision."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if incomplete_beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """P(Binomial(n, p) ≤ successes) = I_{1−p}(n − k, k + 1) (DLMF 8.17.5)."""
    if successes < 0:
        return 0.0
    return 1.0 if successes >= n else incomplete_beta(n - successes, successes + 1, 1 - p)


def clopper_pearson_upper(errors: int, n: int, delta: float) -> float:
    """The error rate above which `errors` or fewer of `n` have probability below `delta` (one-sided).

    1.0 when n is 0 or all are errors.

    Raises:
        GuaranteeError: errors is not from 0 to n, or delta not between 0 and 1.
    """
    _check_counts(errors, n, delta)
    return 1.0 if errors >= n else beta_quantile(1 - delta, errors + 1, n - errors)


def clopper_pearson_lower(errors: int, n: int, delta: float) -> float:
    """The error rate below which `errors` or more of `n` have probability below `delta` (one-sided).

    Raises:
        GuaranteeError: errors is not from 0 to n, or delta not between 0 and 1.
    """
    _check_counts(errors, n, delta)
    return 0.0 if errors == 0 else beta_quantile(delta, errors, n - errors + 1)


def check_levels(alpha: float, delta: float) -> None:
    """Refuse levels that are no share strictly between 0 and 1.

    Raises:
        GuaranteeError: names the level and its value.
    """
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise GuaranteeError(f"{name} is {value!r}: it is a share between 0 and 1, without the ends")


def _check_counts(errors: int, n: int, delta: float) -> None:
    check_levels(0.5, delta)
    if not 0 <= errors <= n:
        raise GuaranteeError(f"{errors} errors of {n} rows: the errors are from 0 to the rows")
