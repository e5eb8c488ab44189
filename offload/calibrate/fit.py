"""Finding the parameters of calibrators from labelled rows.

Every function takes signals that `offload.calibrators.scaled` was applied to, float64 [n] or [n, k], and
labels bool [n]; both classes must be there. numpy alone, but for `fit_trees` (scikit-learn, extra `learn`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from offload.calibrators import Isotonic, Logistic, Platt, Temperature, Trees
from offload.errors import CalibrationError

__all__ = ["fit_isotonic", "fit_logistic", "fit_platt", "fit_temperature", "fit_trees", "has_scikit_learn"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Penalties that `fit_logistic` chooses from; 1 is scikit-learn's default."""


def fit_temperature(z: Floats, correct: Bools) -> Temperature:
    """The T that makes σ(z / T) most likely (Guo et al., arXiv 1706.04599), by golden section over log T."""
    z, y = _checked(z, correct)

    def loss(log_t: float) -> float:
        return _nll(z / np.exp(log_t), y)

    low, high = np.log(0.02), np.log(200.0)
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-5:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return Temperature(float(np.exp((low + high) / 2)))


def fit_platt(z: Floats, correct: Bools) -> Platt:
    """σ(a z + b) by Newton's method, with labels drawn in a little (Lin, Lin and Weng 2007) and a ≥ 0.

    A signal that falls with being right gets a = 0: the base rate alone.
    """
    z, y = _checked(z, correct)
    n1, n0 = y.sum(), (~y).sum()
    targets = np.where(y, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    centre, width = z.mean(), z.std() or 1.0
    design = np.column_stack([(z - centre) / width, np.ones_like(z)])
    slope, intercept = _newton(design, targets, np.array([1e-6, 0.0]))
    if slope <= 0:
        rate = targets.mean()
        return Platt(0.0, float(np.log(rate / (1 - rate))))
    return Platt(float(slope / width), float(intercept - slope * centre / width))


def fit_isotonic(z: Floats, correct: Bools) -> Isotonic:
    """The non-decreasing steps nearest to the labels, joined by lines.

    Pool adjacent violators (Barlow et al. 1972), with a knot in the middle of each step (Oron and Flournoy
    2017), kept off 0 and 1 by the rule of succession.
    """
    z, y = _checked(z, correct)
    order = np.argsort(z, kind="stable")
    points, counts = np.unique(z[order], return_counts=True)
    means = np.add.reduceat(y[order].astype(np.float64), np.r_[0, np.cumsum(counts)[:-1]]) / counts
    blocks: list[list[float]] = []  # [mean label, rows, mean signal]
    for point, count, mean in zip(points.tolist(), counts.tolist(), means.tolist(), strict=True):
        blocks.append([mean, count, point])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (m0, n0, x0), (m1, n1, x1) = blocks[-2], blocks.pop()
            total = n0 + n1
            blocks[-1] = [(m0 * n0 + m1 * n1) / total, total, (x0 * n0 + x1 * n1) / total]
    values = np.clip([b[0] for b in blocks], 1 / (len(y) + 2), (len(y) + 1) / (len(y) + 2))
    return Isotonic(tuple(b[2] for b in blocks), tuple(values.tolist()))


def fit_logistic(x: Floats, correct: Bools, *, seed: int = 0) -> Logistic:
    """A ridge-penalised logistic regression on standardised signals; the penalty is chosen in 5 folds.

    Penalised Newton steps (Hoerl and Kennard 1970; le Cessie and van Houwelingen 1992).
    """
    x, y = _checked(x, correct)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    targets = y.astype(np.float64)
    fold = folds(y, 5, seed)
    losses = []
    for ridge in RIDGES:
        loss = 0.0
        for k in range(5):
            inside = fold != k
            w = _newton(design[inside], targets[inside], np.zeros(design.shape[1]), ridge)
            loss += _nll(_times(design[~inside], w), y[~inside]) * (~inside).sum()
        losses.append(loss)
    weights = _newton(design, targets, np.zeros(design.shape[1]), RIDGES[int(np.argmin(losses))])
    bounds = {"low": x.min(axis=0), "high": x.max(axis=0), "mean": mean, "scale": scale}
    return Logistic(
        weights=tuple(weights[:-1].tolist()),
        intercept=float(weights[-1]),
        **{name: tuple(array.tolist()) for name, array in bounds.items()},
    )


def has_scikit_learn() -> bool:
    """Whether `fit_trees` can be used."""
    import importlib.util

    return importlib.util.find_spec("sklearn") is not None


def fit_trees(x: Floats, correct: Bools, *, seed: int = 0) -> Trees:
    """Gradient-boosted trees: 40 of depth 3, each on half of the rows and few of the signals.

    Raises:
        CalibrationError: scikit-learn is not installed; names the extra.
    """
    if not has_scikit_learn():
        raise CalibrationError(
            "the combiner 'gbdt' is fitted with scikit-learn, which is not installed. "
            "Install it with: pip install 'edge-runtime[learn]'"
        )
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = _checked(x, correct)
    model = GradientBoostingClassifier(
        n_estimators=40,
        learning_rate=0.1,
        max_depth=3,
        min_samples_leaf=min(20, max(1, len(y) // 20)),
        subsample=0.5,
        max_features="sqrt",
        random_state=seed,
    ).fit(x, y)
    return _plain_trees(model)


def _plain_trees(model: Any) -> Trees:
    """A fitted GradientBoostingClassifier as arrays."""
    trees = [stage[0].tree_ for stage in model.estimators_]
    sizes = [tree.node_count for tree in trees]
    roots = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.int64)
    own = np.arange(sum(sizes))
    first = np.repeat(roots, sizes)

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    leaf = joined("children_left") < 0
    rate = float(model.init_.class_prior_[1])
    return Trees(
        start=float(np.log(rate / (1 - rate))),
        depth=max(tree.max_depth for tree in trees),
        roots=roots,
        feature=np.where(leaf, 0, joined("feature")).astype(np.int64),
        threshold=np.where(leaf, 0.0, joined("threshold")),
        left=np.where(leaf, own, first + joined("children_left")),
        right=np.where(leaf, own, first + joined("children_right")),
        value=model.learning_rate * np.concatenate([tree.value[:, 0, 0] for tree in trees]),
    )


def folds(correct: Bools, count: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each row, 0…count−1, every fold with its share of both classes: int64 [n]."""
    rng = np.random.default_rng(seed)
    result = np.empty(len(correct), np.int64)
    for label in (False, True):
        rows = rng.permutation(np.flatnonzero(correct == label))
        result[rows] = (np.arange(len(rows)) + (0 if label else 1)) % count
    return result


def _checked(x: Floats, correct: Bools) -> tuple[Floats, Bools]:
    x, y = np.asarray(x, np.float64), np.asarray(correct, bool)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} signals for {len(y)} labels")
    if not np.isfinite(x).all():
        raise CalibrationError("a signal is not a finite number: leave such rows out")
    if y.all() or not y.any():
        which = "right" if len(y) and y.all() else "wrong"
        raise CalibrationError(
            f"all {len(y)} rows are {which}: a calibration needs right and wrong answers. Label more rows, "
            "or harder ones"
        )
    return x, y


def _newton(design: Floats, targets: Floats, start: Floats, ridge: float = 0.0) -> Floats:
    """Weights of a logistic regression of soft targets; the last column's is not penalised."""
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = 0.0

    def loss(w: Floats) -> float:
        z = _times(design, w)
        return float((np.logaddexp(0.0, z) - targets * z).sum() + 0.5 * (penalty * w * w).sum())

    w, best = start.copy(), loss(start)
    for _ in range(60):
        p = 1.0 / (1.0 + np.exp(-np.clip(_times(design, w), -30, 30)))
        gradient = np.einsum("nk,n->k", design, p - targets) + penalty * w
        hessian = _gram(design, p * (1 - p)) + np.diag(penalty + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(w - size * step) > best:
            size /= 2
        moved = loss(w - size * step)
        if moved > best - 1e-9:
            break
        w, best = w - size * step, moved
    return np.asarray(w)


# BLAS wakes all its threads for products of this size, which costs a hundred times the arithmetic where other
# work has the cores. Sums without it, and products of small blocks, stay on one thread.


def _times(design: Floats, w: Floats) -> Floats:
    return np.asarray(np.einsum("nk,k->n", design, w))


def _gram(design: Floats, weights: Floats, block: int = 64) -> Floats:
    """Dᵀ diag(weights) D."""
    rows = -len(design) % block
    padded = np.pad(design, ((0, rows), (0, 0))).reshape(-1, block, design.shape[1])
    weighted = padded * np.pad(weights, (0, rows)).reshape(-1, block, 1)
    return np.asarray((weighted.transpose(0, 2, 1) @ padded).sum(axis=0))


def _nll(z: Floats, y: Bools) -> float:
    return float((np.logaddexp(0.0, z) - np.where(y, z, 0.0)).mean())
