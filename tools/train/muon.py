"""Muon: momentum whose matrices are orthogonalised before they are applied (Keller Jordan et al. 2024).

https://kellerjordan.github.io/posts/muon/ describes the method; the coefficients of the Newton-Schulz
iteration are the quintic ones given there. Fused matrices (query, key and value; gate and up) are taken apart
first: each is a map of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(g: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix to `g` [rows, columns]: singular values 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        y = x @ x.T
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x.T if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters.

    Args:
        matrices: (parameter, number of rows of each map it holds) pairs.
        lr: step size: the largest singular value of an update, times sqrt(rows / columns) where that is more.
        momentum: of the gradient, applied in Nesterov's way.
        weight_decay: decoupled, times `lr`.
    """

    def __init__(
        self,
        matrices: Iterable[tuple[Tensor, Sequence[int]]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        pairs = list(matrices)
        self.rows = {id(p): tuple(rows) for p, rows in pairs}
        super().__init__(
            [p for p, _ in pairs], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                for part, target in zip(
                    update.split(self.rows[id(p)]), p.data.split(self.rows[id(p)]), strict=True
                ):
                    scale = max(1.0, part.shape[0] / part.shape[1]) ** 0.5
                    target.add_(orthogonalise(part), alpha=-group["lr"] * scale)
