"""Ridge regression on a wide sparse matrix beside a few dense columns, by conjugate gradients.

Knows: numpy. Does not know: what the columns mean.
"""

from __future__ import annotations

import numpy as np

from offload.learn.features import Floats, Rows

__all__ = ["logistic", "ridge", "sigmoid"]

STEPS = 60
TOLERANCE = 3e-3


def ridge(wide: Rows, dense: Floats, y: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Weights (of `wide`, of `dense`) that minimise ‖Xv − y‖² + α‖v‖² with X = [wide, dense].

    Solved in the rows (XXᵀ + αI)c = y, v = Xᵀc, by conjugate gradients (Hestenes and Stiefel 1952), which
    takes few steps since α bounds the smallest eigenvalue. `y` should be centred: there is no intercept.
    Stops when the residual is 0.3 % of ‖y‖: a router needs the order, not the digits.
    """
    c = np.zeros_like(y)
    residual = y.astype(np.float64)
    direction = residual.copy()
    power = float(residual @ residual)
    enough = TOLERANCE**2 * power
    for _ in range(STEPS):
        if power <= enough:
            break
        image = wide.dot(wide.transposed_dot(direction)) + dense @ (dense.T @ direction) + alpha * direction
        step = power / float(direction @ image)
        c += step * direction
        residual -= step * image
        previous, power = power, float(residual @ residual)
        direction = residual + power / previous * direction
    return wide.transposed_dot(c), dense.T @ c


def logistic(x: Floats, y: Floats, alpha: float, *, steps: int = 30) -> tuple[Floats, float]:
    """Weights and intercept of P(y = 1) = σ(xw + b), with the penalty α‖w‖²/2, by Newton's method.

    With one class only the intercept is the smoothed log-odds and the weights are 0.
    """
    n, width = x.shape
    share = (float(y.sum()) + 0.5) / (n + 1)
    w, b = np.zeros(width), float(np.log(share / (1 - share)))
    if y.min() == y.max():
        return w, b
    with_one = np.hstack([x, np.ones((n, 1))])
    v = np.append(w, b)
    penalty = np.append(np.full(width, alpha), 1e-6)
    for _ in range(steps):
        p = sigmoid(with_one @ v)
        gradient = with_one.T @ (p - y) + penalty * v
        curvature = (with_one * (p * (1 - p))[:, None]).T @ with_one + np.diag(penalty)
        change = np.linalg.solve(curvature, gradient)
        v = v - change * min(1.0, 5.0 / max(float(np.abs(change).max()), 1e-12))
        if float(np.abs(change).max()) < 1e-6:
            break
    return v[:-1], float(v[-1])


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e⁻ˣ), without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return result
