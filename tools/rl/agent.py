"""An actor-critic that decides keep | send at both moments of a query; numpy when it acts.

State as in TMO (arXiv 2502.11007) where it carries over: the previous outcome is replaced by what a device
knows of the present query and its link, and the remaining budget and time are appended as in its
resource-constrained variant. Two moments share one small network; a flag says which it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offload.simulate import Step, View

__all__ = ["FEATURES", "Agent", "Network", "Rollout", "observation"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

FEATURES = 13


def observation(view: View) -> Floats:
    """What a device knows, scaled to about −1..1: float32 [D, FEATURES]."""
    after = ~np.isnan(view.confidence)
    prior = np.where(np.isnan(view.prior), 0.5, view.prior)
    confidence = np.where(after, np.nan_to_num(view.confidence), prior)
    rest = view.steps - view.step
    finite = np.isfinite(view.money_total) and view.money_total > 0
    left = view.money_left / view.money_total if finite else np.ones(len(prior))
    # Queries that the rest of the budget pays for, as a share of the queries that are to come.
    affordable = np.clip(view.money_left / np.maximum(view.cost, 1e-12) / rest, 0, 2) if finite else left + 1
    columns = (
        np.broadcast_to(view.local_s > 0, after.shape),
        2 * prior - 1,
        2 * confidence - 1,
        2 * view.strong_prior - 1,
        view.link,
        np.log10(np.maximum(view.rtt_s, 1e-4)) / 2,
        np.tanh(view.local_s / 10),
        np.tanh(view.cloud_s / 10),
        np.tanh(view.waited_s / 30),
        left,
        affordable - 1,
        np.full(len(prior), 2 * view.step / view.steps - 1),
        np.tanh(view.cost / (view.money_total / view.steps) - 1) if finite else np.zeros(len(prior)),
    )
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """Weights of a network of two tanh layers and one output, the log-odds of sending."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    head: Floats
    head_bias: Floats

    def logits(self, x: Floats) -> Floats:
        """Log-odds of sending for observations [N, FEATURES]: float32 [N]."""
        hidden = np.tanh(np.tanh(x @ self.w1 + self.b1) @ self.w2 + self.b2)
        result: Floats = (hidden @ self.head + self.head_bias)[:, 0]
        return result


@dataclass
class Rollout:
    """The decisions of one run, in order: [queries, 2, D], and [queries, D] for rewards and costs.

    `made` says which decisions were real: none after the device has tried where the query was sent at once,
    and none where there was nothing to choose.
    """

    observations: list[Floats] = field(default_factory=list)
    actions: list[Bools] = field(default_factory=list)
    made: list[Bools] = field(default_factory=list)
    rewards: list[npt.NDArray[np.float64]] = field(default_factory=list)
    costs: list[npt.NDArray[np.float64]] = field(default_factory=list)


@dataclass
class Agent:
    """A policy of the simulation. It samples while it is trained (`rollout` set); later the likelier action.

    With `masked` it cannot choose what the budget does not pay for; without, exceeding it is punished in
    training alone, as in TMO.
    """

    network: Network
    name: str = "rl"
    masked: bool = True
    rollout: Rollout | None = None
    sees_truth: bool = False
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _sent: Bools = field(default_factory=lambda: np.zeros(0, bool))

    def start(self, devices: int, rng: np.random.Generator) -> None:
        """Take the run's draws."""
        self.rng = rng

    def before(self, view: View) -> Bools:
        """Send at once, or let the device try."""
        self._sent = self._act(view, np.ones(len(view.cost), bool))
        return self._sent

    def after(self, view: View) -> Bools:
        """Escalate, or keep the device's answer."""
        return self._act(view, ~self._sent) & ~self._sent

    def observe(self, step: Step) -> None:
        """Record what came of it."""
        if self.rollout is not None:
            self.rollout.rewards.append(step.utility)
            self.rollout.costs.append(step.cost)

    def _act(self, view: View, asked: Bools) -> Bools:
        x = observation(view)
        logits = self.network.logits(x)
        possible = view.link & view.affordable() if self.masked else view.link
        if self.rollout is None:
            return (logits > 0) & possible
        chosen = self.rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
        action = chosen & possible
        self.rollout.observations.append(x)
        self.rollout.actions.append(action)
        self.rollout.made.append(asked & possible)
        return action
