"""Maps from signals to a probability of being right, as they are stored in a calibration: applying them needs
numpy alone.

Each takes a matrix of signals that `scaled` was applied to, float64 [n, k], and gives probabilities float64
[n], strictly between 0 and 1. How their parameters are found is in `offload.calibrate`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "CALIBRATORS",
    "Calibrator",
    "Isotonic",
    "Logistic",
    "Platt",
    "Temperature",
    "Trees",
    "reads_as_probability",
    "scaled",
    "scaled_value",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SUREST = 1e-7
"""Probabilities and entropies nearer to certain than this are taken as this near: below lies rounding."""


MAX_DEPTH = 16


def reads_as_probability(signal: str) -> bool:
    """Whether a signal is a log-probability, so that the model itself states a probability of being right."""
    return signal.endswith("logprob") or signal in ("p_true", "agreement", "second_prompt")


def scaled(signal: str, values: npt.ArrayLike) -> Floats:
    """A signal on the scale on which calibrators are straight lines; order is kept, the shape too.

    A log-probability s becomes its logit, s − log(1 − eˢ); a share p becomes log(p / (1 − p)); a negated
    entropy −H becomes −log H. Sure answers crowd into the last thousandth below 0 of the raw signals, and are
    spread out by this. Margins and lengths stay as they are.
    """
    x = np.asarray(values, np.float64)
    if signal.endswith("logprob"):
        x = np.minimum(x, -SUREST)
        return np.asarray(x - np.log(-np.expm1(x)))
    if signal.endswith("entropy"):
        return np.asarray(-np.log(np.maximum(-x, SUREST)))
    if reads_as_probability(signal):
        # A share of a handful of samples is often 0 or 1 exactly: that is one hundredth away from it here.
        p = np.clip(x, 0.01, 0.99)
        return np.asarray(np.log(p) - np.log1p(-p))
    return x


def scaled_value(signal: str, value: float) -> float:
    """`scaled` of one number, without numpy's fixed costs: it is on the way of every answer."""
    if signal.endswith("logprob"):
        x = min(value, -SUREST)
        return x - math.log(-math.expm1(x))
    if signal.endswith("entropy"):
        return -math.log(max(-value, SUREST))
    if reads_as_probability(signal):
        p = min(max(value, 0.01), 0.99)
        return math.log(p) - math.log1p(-p)
    return value


class Calibrator(ABC):
    """What every map can do; each is a frozen dataclass whose fields are its parameters."""

    __slots__ = ()
    method: ClassVar[str]
    """Its name in a calibration file."""

    @abstractmethod
    def __call__(self, x: Floats) -> Floats:
        """float64 [n, k] → probabilities float64 [n]."""

    def parameters(self) -> dict[str, Any]:
        """What makes it anew through `CALIBRATORS[method]`, as JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Temperature(Calibrator):
    """σ(z / T): one number that says how much too sure the model is (Guo et al., arXiv 1706.04599)."""

    temperature: float
    method: ClassVar[str] = "temperature"

    def __call__(self, x: Floats) -> Floats:
        """σ(z / T) per row."""
        return _sigmoid(x[:, 0] / self.temperature)


@dataclass(frozen=True, slots=True)
class Platt(Calibrator):
    """σ(a z + b) with a ≥ 0 (Platt 1999)."""

    slope: float
    intercept: float
    method: ClassVar[str] = "platt"

    def __call__(self, x: Floats) -> Floats:
        """σ(a z + b) per row."""
        return _sigmoid(self.slope * x[:, 0] + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic(Calibrator):
    """A non-decreasing line through knots, flat beyond them.

    Centred isotonic regression (Oron and Flournoy, Statistics in Biopharmaceutical Research 2017).
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    method: ClassVar[str] = "isotonic"

    def __call__(self, x: Floats) -> Floats:
        """The line's height per row."""
        return np.asarray(np.interp(x[:, 0], self.knots, self.values))


@dataclass(frozen=True, slots=True)
class Logistic(Calibrator):
    """σ(b + Σ wᵢ (xᵢ − mᵢ) / sᵢ): a small combiner of several signals.

    A signal outside the range [low, high] of the rows it was fitted on counts as the nearest value inside: a
    line says nothing beyond them.
    """

    weights: tuple[float, ...]
    intercept: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    method: ClassVar[str] = "logistic"

    def __call__(self, x: Floats) -> Floats:
        """The weighted sum's σ per row."""
        inside = np.clip(x, self.low, self.high)
        return _sigmoid((inside - self.mean) / self.scale @ np.asarray(self.weights) + self.intercept)


@dataclass(frozen=True, slots=True, eq=False)
class Trees(Calibrator):
    """σ of a sum of regression trees (gradient boosting, Friedman 2001), as arrays over all their nodes.

    At a node, go to node `left` when signal number `feature` ≤ `threshold`, else to node `right`; a leaf
    points to itself. `roots` are the trees' first nodes. All trees are walked at once, `depth` steps.
    """

    start: float
    depth: int
    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    method: ClassVar[str] = "gbdt"

    def __call__(self, x: Floats) -> Floats:
        """The σ of the leaves' sum per row."""
        # The trees were grown on float32, so a threshold separates float32 values.
        flat = x.astype(np.float32).astype(np.float64).ravel()
        row = np.arange(0, flat.size, x.shape[1])[:, None]
        at = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        for _ in range(self.depth):
            low = flat[row + self.feature[at]] <= self.threshold[at]
            at = np.where(low, self.left[at], self.right[at])
        return _sigmoid(self.start + self.value[at].sum(axis=1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trees) and self.parameters() == other.parameters()

    def __hash__(self) -> int:
        return hash((self.start, self.depth, len(self.value)))

    @classmethod
    def from_parameters(cls, p: Mapping[str, Any]) -> Trees:
        """From JSON values.

        Raises:
            ValueError: the arrays do not fit together, or an index leads out of them.
        """
        whole = {n: np.asarray(p[n], np.int64) for n in ("roots", "feature", "left", "right")}
        real = {n: np.asarray(p[n], np.float64) for n in ("threshold", "value")}
        nodes = whole["feature"].shape
        others = (whole["left"], whole["right"], *real.values())
        if len(nodes) != 1 or whole["roots"].ndim != 1 or any(a.shape != nodes for a in others):
            raise ValueError("the arrays of the trees have different lengths")
        for name in ("roots", "left", "right"):
            if not len(whole[name]) or whole[name].min() < 0 or whole[name].max() >= nodes[0]:
                raise ValueError(f"'{name}' of the trees points to a node that is not there")
        if whole["feature"].min() < 0:
            raise ValueError("a tree asks for a signal with a negative number")
        if not 0 <= int(p["depth"]) <= MAX_DEPTH:
            raise ValueError(f"the depth {p['depth']} is not from 0 to {MAX_DEPTH}")
        arrays: dict[str, Any] = {**whole, **real}
        return cls(float(p["start"]), int(p["depth"]), **arrays)


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _finite(calibrator: Calibrator) -> Calibrator:
    """Refuse parameters that would make a probability of anything.

    Raises:
        ValueError: a number is not finite or has the wrong sign, or lists differ in length.
    """
    flat = [np.ravel(np.asarray(v, np.float64)) for v in calibrator.parameters().values()]
    if not all(np.isfinite(v).all() for v in flat):
        raise ValueError("a parameter is not a finite number")
    if isinstance(calibrator, Temperature) and calibrator.temperature <= 0:
        raise ValueError(f"the temperature {calibrator.temperature} is not above 0")
    if isinstance(calibrator, Platt) and calibrator.slope < 0:
        raise ValueError(f"the slope {calibrator.slope} is negative: surer answers would count as worse")
    if isinstance(calibrator, Isotonic):
        knots, values = np.asarray(calibrator.knots), np.asarray(calibrator.values)
        if not len(knots) or len(knots) != len(values) or (np.diff(knots) <= 0).any():
            raise ValueError("knots and values must be as many, and knots increase")
        if (np.diff(values) < 0).any() or values.min() <= 0 or values.max() >= 1:
            raise ValueError("values must not decrease, and lie between 0 and 1")
    if isinstance(calibrator, Logistic):
        c = calibrator
        if not c.weights or len({len(v) for v in (c.weights, c.mean, c.scale, c.low, c.high)}) != 1:
            raise ValueError("weights, mean, scale, low and high must be as many")
        if min(c.scale) <= 0:
            raise ValueError("a scale is not above 0")
    return calibrator


CALIBRATORS: Mapping[str, Callable[[Mapping[str, Any]], Calibrator]] = {
    "temperature": lambda p: _finite(Temperature(float(p["temperature"]))),
    "platt": lambda p: _finite(Platt(float(p["slope"]), float(p["intercept"]))),
    "isotonic": lambda p: _finite(Isotonic(_numbers(p["knots"]), _numbers(p["values"]))),
    "logistic": lambda p: _finite(
        Logistic(
            intercept=float(p["intercept"]),
            **{name: _numbers(p[name]) for name in ("weights", "mean", "scale", "low", "high")},
        )
    ),
    "gbdt": lambda p: _finite(Trees.from_parameters(p)),
}
"""Method → a calibrator from its JSON parameters; `KeyError`, `TypeError` or `ValueError` for wrong ones."""


def _sigmoid(z: npt.ArrayLike) -> Floats:
    """1 / (1 + e⁻ᶻ), kept off 0 and 1: nothing is certain."""
    z = np.clip(np.asarray(z, np.float64), -16.0, 16.0)
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
