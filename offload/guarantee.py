"""Promises about wrong answers, from a labelled sample: which threshold keeps them, or why none does.

Three promises, each about a confidence c and the rule "keep the device's answer when c ≥ threshold":

- `selective`: with probability 1 − δ over the sample, at most α of the *kept* answers are wrong
  (learn-then-test, arXiv 2110.01052; SGR, arXiv 1705.08500; each test is an exact binomial one, Clopper and
  Pearson 1934);
- `conformal`: on average over samples, at most α of *all* queries are answered by a kept wrong answer
  (conformal risk control, arXiv 2208.02814);
- `overall`: with probability 1 − δ, at most α of all answers are wrong, where the rest are answered by a
  stronger model whose outcomes are in the sample too.

All need queries that come like those of the sample (exchangeable): a certificate belongs to one model,
quantization, prompt template and mix of tasks. Knows: confidences, labels, numpy. Does not know: where they
come from, when the mix drifts (`offload.learn.drift`), what is done with a threshold (`offload.router`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from offload.binomial import binomial_cdf, check_levels, clopper_pearson_upper
from offload.errors import GuaranteeError

__all__ = [
    "Certificate",
    "Promise",
    "conformal",
    "overall",
    "rows_needed",
    "selective",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Promise = Literal["selective", "conformal", "overall"]

STARTS = 4
"""Places at which the walk over thresholds starts, see `selective` and the comparison in `docs/router.md`."""


def rows_needed(alpha: float, delta: float, error_rate: float = 0.0) -> int:
    """The fewest kept rows that can certify α at δ when a share `error_rate` of them is wrong.

    Without errors: (1 − α)ⁿ ≤ δ.

    Raises:
        GuaranteeError: α or δ is not between 0 and 1, or the error rate is not below α.
    """
    check_levels(alpha, delta)
    if not 0 <= error_rate < alpha:
        raise GuaranteeError(f"an error rate of {error_rate:g} cannot be certified at alpha {alpha:g}")
    low = math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-12)

    def suffice(n: int) -> bool:
        return binomial_cdf(math.ceil(error_rate * n - 1e-9), n, alpha) <= delta

    high = low
    while not suffice(high):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffice(middle) else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a labelled sample allows to promise. `threshold` is `None` when nothing can be promised.

    `n` rows were given, `kept` of them lie at or above the threshold, `errors` of these count against the
    promise (for `overall`: of all n), `bound` is the promised side's upper limit. `reason` explains a missing
    threshold.
    """

    promise: Promise
    alpha: float
    delta: float | None
    threshold: float | None
    n: int
    kept: int = 0
    errors: int = 0
    bound: float | None = None
    reason: str = ""

    @property
    def coverage(self) -> float:
        """The share of the sample that the threshold keeps."""
        return self.kept / self.n if self.n else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Certificate:
        """The inverse of `to_dict`.

        Raises:
            GuaranteeError: a field is missing, unknown or impossible; names it.
        """
        if not isinstance(data, Mapping):
            raise GuaranteeError(f"a certificate is an object, not {data!r}")
        known = {f.name for f in fields(cls)}
        for name in data:
            if name not in known:
                raise GuaranteeError(
                    f"a certificate has no field '{name}'; it has {', '.join(sorted(known))}"
                )
        for name in ("promise", "alpha", "threshold", "n"):
            if name not in data:
                raise GuaranteeError(f"the certificate's field '{name}' is missing")
        made = cls(**{"delta": None, **data})
        if made.promise not in get_args(Promise):
            raise GuaranteeError(f"promise is {made.promise!r}, not one of {', '.join(get_args(Promise))}")
        for name in ("alpha", "delta", "threshold", "bound"):
            value = getattr(made, name)
            optional = value is None and name != "alpha"
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not optional and not (number and math.isfinite(value)):
                raise GuaranteeError(f"the certificate's {name} is {value!r}, not a finite number")
        return made

    def explain(self) -> str:
        """One sentence for a person."""
        whom = "of the kept answers" if self.promise == "selective" else "of all answers"
        sure = "on average" if self.delta is None else f"with confidence {1 - self.delta:g}"
        if self.threshold is None:
            return f"nothing can be promised at {self.alpha:g} wrong {whom} {sure}: {self.reason}"
        return (
            f"at most {self.alpha:g} wrong {whom}, {sure}: keep from {self.threshold:.4g} on "
            f"({self.kept} of {self.n} rows kept, {self.errors} wrong, bound {self.bound:.4g})"
        )


def selective(
    confidence: Sequence[float] | Floats,
    correct: Sequence[bool] | Bools,
    alpha: float,
    delta: float = 0.1,
    *,
    starts: int = STARTS,
) -> Certificate:
    """The loosest threshold of which P(error rate among kept ≤ α) ≥ 1 − δ can be said.

    The thresholds are walked from strict to loose and accepted while P(Binomial(kept, α) ≤ errors) is at most
    the level, which says the same as a Clopper-Pearson bound ≤ α at that level. A walk from the strictest
    threshold alone (`starts=1`) ends at the first unlucky row. So it starts anew at numbers of kept rows that
    are fixed beforehand: half of δ belongs to the strictest start, the rest to the others evenly, and a
    stretch that was accepted whole hands its level on to the next one (the fallback procedure: Wiens 2003,
    Pharmaceutical Statistics 2:211). That any threshold is accepted wrongly has probability ≤ δ.

    Args:
        confidence: float [n], higher is surer; NaN counts as never kept.
        correct: bool [n].
        starts: starting points; 1 is the plain walk of EVALUATION and SGR.

    Raises:
        GuaranteeError: α or δ is not between 0 and 1, or the rows do not fit.
    """
    check_levels(alpha, delta)
    c, wrong = _rows(confidence, correct)
    sure = np.isfinite(c)
    order = np.argsort(-c[sure], kind="stable")
    ordered, errors = c[sure][order], np.cumsum(wrong[sure][order], dtype=np.int64)
    shares = _shares(delta, starts)
    first = rows_needed(alpha, shares[0])
    n = len(ordered)
    if n < first:
        least = rows_needed(alpha, delta)
        return Certificate(
            "selective",
            alpha,
            delta,
            None,
            len(c),
            reason=f"{n} rows with a confidence, but at least {max(least, first)} are needed, all right",
        )
    # A threshold takes all rows of equal confidence or none.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    kept = ends + 1
    begins = _starting_points(first, n, starts)
    loosest, accepted_at, carried = -1, delta, 0.0
    for begin, end, share in zip(begins, [*begins[1:], n + 1], shares, strict=True):
        level = share + carried
        part = np.flatnonzero((kept >= begin) & (kept < end))
        allowed = _allowed_errors(n, alpha, round(level, 12))
        good = errors[ends[part]] <= allowed[kept[part]]
        whole = bool(good.all())
        passed = len(part) if whole else int(np.argmin(good))
        if passed:
            loosest, accepted_at = int(part[passed - 1]), level
        carried = level if whole else 0.0
    if loosest < 0:
        return Certificate(
            "selective", alpha, delta, None, len(c), reason=_why(kept, errors[ends], alpha, delta)
        )
    k, e = int(kept[loosest]), int(errors[ends[loosest]])
    bound = clopper_pearson_upper(e, k, accepted_at)
    return Certificate("selective", alpha, delta, float(ordered[ends[loosest]]), len(c), k, e, bound)


def conformal(
    confidence: Sequence[float] | Floats, correct: Sequence[bool] | Bools, alpha: float
) -> Certificate:
    """The loosest threshold with E[kept and wrong] ≤ α over all queries.

    λ̂ = inf{λ : n/(n+1) · R̂(λ) + 1/(n+1) ≤ α} for the loss 1[kept and wrong], which falls as the threshold
    rises (Angelopoulos et al., arXiv 2208.02814, theorem 1).

    Raises:
        GuaranteeError: α is not between 0 and 1, or the rows do not fit.
    """
    check_levels(alpha, 0.5)
    c, wrong = _rows(confidence, correct)
    n = len(c)
    sure = np.isfinite(c)
    order = np.argsort(-c[sure], kind="stable")
    ordered, errors = c[sure][order], np.cumsum(wrong[sure][order], dtype=np.int64)
    if (n + 1) * alpha < 1:
        needed = math.ceil(1 / alpha - 1e-9) - 1
        return Certificate(
            "conformal", alpha, None, None, n, reason=f"{n} rows, but at least {needed} are needed"
        )
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.empty(0, int)
    good = np.flatnonzero((errors[ends] + 1) / (n + 1) <= alpha)
    if not len(good):
        return Certificate("conformal", alpha, None, None, n, reason="the surest rows are wrong too often")
    at = int(ends[good[-1]])
    e = int(errors[at])
    return Certificate("conformal", alpha, None, float(ordered[at]), n, at + 1, e, (e + 1) / (n + 1))


def overall(
    confidence: Sequence[float] | Floats,
    correct: Sequence[bool] | Bools,
    strong_correct: Sequence[bool] | Bools,
    alpha: float,
    delta: float = 0.1,
) -> Certificate:
    """The cheapest threshold with P(error rate of all answers ≤ α) ≥ 1 − δ; a stronger model does the rest.

    Walks from escalating everything to keeping everything, one fixed sequence of exact binomial tests on the
    errors of the mixture (arXiv 2110.01052, section 2.2). When only escalating everything can be promised,
    the threshold is the next float above the highest confidence.

    Raises:
        GuaranteeError: α or δ is not between 0 and 1, or the rows do not fit.
    """
    check_levels(alpha, delta)
    c, wrong = _rows(confidence, correct)
    strong = np.asarray(strong_correct, bool)
    if strong.shape != c.shape:
        raise GuaranteeError(f"{len(c)} confidences, but {strong.size} outcomes of the strong model")
    n = len(c)
    if n < rows_needed(alpha, delta):
        return Certificate(
            "overall",
            alpha,
            delta,
            None,
            n,
            reason=f"{n} rows, but at least {rows_needed(alpha, delta)} are needed, all right",
        )
    order = np.argsort(np.where(np.isfinite(c), -c, np.inf), kind="stable")
    sure = int(np.isfinite(c).sum())
    ordered = c[order]
    change = wrong[order].astype(int) - (~strong[order]).astype(int)
    errors = int((~strong).sum()) + np.concatenate([[0], np.cumsum(change)])
    ends = [0, *(k for k in range(1, sure + 1) if k == sure or ordered[k] != ordered[k - 1])]
    allowed = int(_allowed_errors(n, alpha, round(delta, 12))[n])
    passed = list(takewhile(lambda k: bool(errors[k] <= allowed), ends))
    if not passed:
        e = int(errors[0])
        return Certificate(
            "overall",
            alpha,
            delta,
            None,
            n,
            reason=f"the strong model itself is wrong on {e} of {n} rows; at most {max(allowed, 0)} may be",
        )
    k = passed[-1]
    threshold = float(ordered[k - 1]) if k else float(np.nextafter(ordered[0], np.inf)) if sure else 1.0
    e = int(errors[k])
    return Certificate("overall", alpha, delta, threshold, n, k, e, clopper_pearson_upper(e, n, delta))


def _why(kept: npt.NDArray[np.int64], errors: npt.NDArray[np.int64], alpha: float, delta: float) -> str:
    """Why no threshold was accepted, with the number of rows that would do at the best error rate seen."""
    enough = kept >= min(rows_needed(alpha, delta), kept[-1])
    rates = (errors / kept)[enough]
    best = int(np.argmin(rates))
    k, e = int(kept[enough][best]), int(errors[enough][best])
    said = f"at best {e} of {k} kept rows are wrong"
    if rates[best] < alpha:
        return (
            f"{said}: at that rate about {rows_needed(alpha, delta, float(rates[best]))} kept rows are needed"
        )
    return f"{said}, which is not below alpha: ask for a larger alpha, or a better signal"


def _starting_points(first: int, n: int, starts: int) -> list[int]:
    """Numbers of kept rows at which the walk starts anew: `first`, then spread evenly on a logarithmic scale
    to half the rows. They depend on n, α and δ alone, never on the labels.
    """
    last = max(first, n // 2)
    points = np.geomspace(first, last, starts) if starts > 1 else np.array([first])
    return [round(float(x)) for x in points]


def _shares(delta: float, starts: int) -> list[float]:
    """How δ is shared: half to the walk from the strictest threshold, the rest evenly to the later ones."""
    if starts < 1:
        raise GuaranteeError(f"{starts} starting points: at least 1 is needed")
    if starts == 1:
        return [delta]
    return [delta / 2, *[delta / 2 / (starts - 1)] * (starts - 1)]


@lru_cache(maxsize=64)
def _allowed_errors(n: int, alpha: float, level: float) -> npt.NDArray[np.int64]:
    """For k = 0…n kept rows, the most errors e with P(Binomial(k, α) ≤ e) ≤ level; −1 where even none is too
    many.

    One more row allows no error more or one more, hence 2n evaluations at most.
    """
    allowed = np.empty(n + 1, np.int64)
    e = -1
    for k in range(n + 1):
        while e + 1 < k and binomial_cdf(e + 1, k, alpha) <= level:
            e += 1
        allowed[k] = e
    allowed.flags.writeable = False
    return allowed


def _rows(confidence: Sequence[float] | Floats, correct: Sequence[bool] | Bools) -> tuple[Floats, Bools]:
    c, right = np.asarray(confidence, np.float64), np.asarray(correct, bool)
    if c.ndim != 1 or c.shape != right.shape:
        raise GuaranteeError(f"{c.size} confidences, but {right.size} labels: one of each per row is needed")
    return c, ~right
