"""What is asked in a simulation: a pool of queries with the recorded outcome of both models.

A pool comes from recorded outcomes (`offload/outcomes.py` reads them), or from a generated population whose
probabilities are known. Prices and speeds of the cloud are parameters, never part of an outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offload.errors import SimulationError
from offload.outcomes import Outcome

__all__ = ["CLOUD", "CloudProfile", "Pool", "pool_from_outcomes", "synthetic_pool"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BYTES_PER_TOKEN = 4.0
"""Rough bytes of English text per token, where a row says nothing better."""
OVERHEAD_BYTES = 1_500
"""Headers, the key encapsulation and the framing of one request or answer."""


@dataclass(frozen=True, slots=True)
class CloudProfile:
    """A cloud model: seconds to its first token (median, log-normal spread), tokens per second, prices.

    Prices are in the currency of the configuration per million tokens.
    """

    name: str
    first_token_s: float
    first_token_sigma: float
    decode: float
    price_input: float
    price_output: float
    source: str

    def cost(self, prompt_tokens: Floats, answer_tokens: Floats) -> Floats:
        """Money per query: float64 of the shape of the token counts."""
        money: Floats = (prompt_tokens * self.price_input + answer_tokens * self.price_output) / 1e6
        return money


CLOUD = CloudProfile("nominal", 0.5, 0.4, 60.0, 2.5, 10.0, "nominal: list prices and speeds of a large model")


@dataclass(frozen=True, slots=True)
class Pool:
    """N queries: all arrays have length N.

    `weak` and `strong` say whether the device's and the cloud's answer is right. `confidence` is P(the
    device's answer is right) after it was made, `prior` the same from the prompt alone; NaN where unknown.
    `strong_prior` is P(the cloud's answer is right), a constant where nothing better is known. Token counts
    are floats.
    """

    weak: Bools
    strong: Bools
    confidence: Floats
    prior: Floats
    strong_prior: Floats
    prompt_tokens: Floats
    weak_tokens: Floats
    strong_tokens: Floats

    def __post_init__(self) -> None:
        """Check that the arrays agree.

        Raises:
            SimulationError: no rows, lengths that differ, or a probability outside 0..1.
        """
        names = self.__slots__
        lengths = {name: len(getattr(self, name)) for name in names}
        if not lengths["weak"]:
            raise SimulationError("a pool needs at least one query")
        for name, length in lengths.items():
            if length != lengths["weak"]:
                raise SimulationError(
                    f"a pool's arrays differ in length: weak {lengths['weak']}, {name} {length}"
                )
        for name in ("confidence", "prior", "strong_prior"):
            values: Floats = getattr(self, name)
            known = values[~np.isnan(values)]
            if ((known < 0) | (known > 1)).any():
                raise SimulationError(f"a pool's {name!r} must be a probability (0 to 1) or NaN")

    def __len__(self) -> int:
        return len(self.weak)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Pool:
        """The pool of some rows."""
        return Pool(*(getattr(self, name)[rows] for name in self.__slots__))

    def split(self, share: float, seed: int) -> tuple[Pool, Pool]:
        """Two pools of disjoint rows: the first holds `share` of them, drawn at random."""
        order = np.random.default_rng(seed).permutation(len(self))
        cut = round(share * len(self))
        if not 0 < cut < len(self):
            raise SimulationError(f"{len(self)} queries cannot be split at a share of {share:g}")
        return self.take(np.sort(order[:cut])), self.take(np.sort(order[cut:]))


def pool_from_outcomes(
    outcomes: Sequence[Outcome],
    confidence: Callable[[Outcome], float | None],
    prior: Callable[[Outcome], float | None],
    *,
    strong_tokens: float = 120.0,
) -> Pool:
    """A pool of recorded outcomes; `confidence` and `prior` give P(the device is right) or None.

    The length of the device's answer is its evidence's `n`, else taken from its text, else `strong_tokens`,
    which is also the length of the cloud's. P(the cloud is right) is its mean over the rows.

    Raises:
        SimulationError: no outcomes, or one without the cloud's.
    """
    if not outcomes:
        raise SimulationError("there are no outcomes to simulate")
    if (row := next((n for n, o in enumerate(outcomes, 1) if o.strong_correct is None), 0)) > 0:
        raise SimulationError(
            f"outcome {row} has no 'strong_correct'; a simulation needs what both models made of every query"
        )
    strong = np.array([bool(o.strong_correct) for o in outcomes])
    return Pool(
        weak=np.array([o.weak_correct for o in outcomes], bool),
        strong=strong,
        confidence=_probabilities([confidence(o) for o in outcomes]),
        prior=_probabilities([prior(o) for o in outcomes]),
        strong_prior=np.full(len(outcomes), strong.mean()),
        prompt_tokens=np.array([_tokens(o.prompt) for o in outcomes]),
        weak_tokens=np.array(
            [
                float(o.evidence.n) if o.evidence else _tokens(o.response) if o.response else strong_tokens
                for o in outcomes
            ]
        ),
        strong_tokens=np.full(len(outcomes), strong_tokens),
    )


def synthetic_pool(
    n: int,
    seed: int,
    *,
    weak_accuracy: float = 0.6,
    strong_accuracy: float = 0.93,
    sharpness: float = 2.0,
    prior_sharpness: float = 0.7,
    shift: float = 0.0,
) -> Pool:
    """A population of known risk. P(device right) = σ(a + sharpness·z), z ~ N(0, 1).

    Its confidence is that probability exactly, so it is calibrated by construction; `sharpness` sets its
    AUROC (2 gives about .86). The prior sees a noisy z, and is P(device right | noisy z). `shift` moves the
    logits of the truth but not of the stated confidence: a population that has drifted away from its
    calibration. The cloud is right independently of the device, less often on what is hard (its logit falls
    by z/2).
    """
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    offset = _offset(weak_accuracy, sharpness)
    stated = _sigmoid(offset + sharpness * z)
    truth = _sigmoid(offset + sharpness * z + shift)
    strong_offset = _offset(strong_accuracy, 0.5)
    strong_p = _sigmoid(strong_offset + 0.5 * z)
    # z given a noisy view of it: correlation r, so z | view ~ N(r·view, 1 − r²); the logistic-normal mean by
    # MacKay's probit approximation.
    r = prior_sharpness / math.hypot(prior_sharpness, 1.0)
    view = r * z + math.sqrt(1 - r * r) * rng.standard_normal(n)
    spread = sharpness**2 * (1 - r * r)
    prior = _sigmoid((offset + sharpness * r * view) / math.sqrt(1 + math.pi * spread / 8))
    tokens = np.exp(rng.normal(math.log(60), 0.25, n))
    return Pool(
        weak=rng.random(n) < truth,
        strong=rng.random(n) < strong_p,
        confidence=stated,
        prior=prior,
        strong_prior=np.full(n, strong_accuracy),
        prompt_tokens=np.exp(rng.normal(math.log(80), 0.4, n)),
        weak_tokens=tokens,
        strong_tokens=tokens * 1.5,
    )


def _tokens(text: str) -> float:
    return max(1.0, len(text.encode()) / BYTES_PER_TOKEN)


def _probabilities(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if v is None else v for v in values], np.float64)


def _sigmoid(x: Floats) -> Floats:
    y: Floats = 1 / (1 + np.exp(-x))
    return y


def _offset(mean: float, scale: float) -> float:
    """a with E σ(a + scale·z) = mean for z ~ N(0, 1), by bisection over a fixed grid of quantiles."""
    z = np.linspace(-5, 5, 2001)
    weights = np.exp(-(z**2) / 2)
    weights /= weights.sum()
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(weights @ _sigmoid(middle + scale * z)) < mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2
