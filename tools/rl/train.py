"""Train an agent on simulated episodes: A2C or PPO, with a Lagrange multiplier on the budget.

PPO: Schulman et al., arXiv 1707.06347 (clipped objective); A2C is its first-order form, one pass without
clipping. Advantages: Schulman et al., arXiv 1506.02438. The constraint E[money spent] ≤ budget is met by a
multiplier that rises while it is exceeded (Altman 1999; Achiam and Amodei 2019 for PPO): the reward is
utility − multiplier · the query's price as a share of the highest. Needs torch (the extra `train`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_runtime.errors import MissingExtraError
from offload.simulate import World
from tools.rl.agent import FEATURES, Agent, Network, Rollout

__all__ = ["Settings", "Trained", "advantages", "train"]


@dataclass(frozen=True)
class Settings:
    """How to train. `seconds` ends the training early; a run is one world with all its devices."""

    algorithm: Literal["a2c", "ppo"] = "ppo"
    masked: bool = True
    runs: int = 120
    seconds: float = 120.0
    hidden: int = 32
    rate: float = 1e-2
    discount: float = 1.0
    trace: float = 0.9
    clip: float = 0.2
    passes: int = 4
    minibatches: int = 8
    entropy: float = 0.003
    multiplier_rate: float = 0.05
    start: float = -1.5
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """The agent, the mean utility of each run, the runs made and the seconds taken."""

    agent: Agent
    curve: tuple[float, ...]
    runs: int
    seconds: float
    multiplier: float


def advantages(
    rewards: np.ndarray, values: np.ndarray, made: np.ndarray, discount: float, trace: float
) -> np.ndarray:
    """Generalised advantages of decisions [K, 2, D] where query k's reward [K, D] follows its last decision.

    Between the two moments of a query nothing is discounted; a moment without a decision is skipped over.
    `trace` (λ) counts decisions, `discount` (γ) queries.
    """
    result = np.zeros_like(values)
    devices = values.shape[2]
    # As seen from the start of the query after this one: the next decision's value, with the rewards before
    # it, and its advantage.
    following, carried = np.zeros(devices), np.zeros(devices)
    for k in range(len(rewards) - 1, -1, -1):
        ahead, beyond = rewards[k] + discount * following, discount * carried
        second = ahead - values[k, 1] + trace * beyond
        result[k, 1] = np.where(made[k, 1], second, 0.0)
        ahead = np.where(made[k, 1], values[k, 1], ahead)
        beyond = np.where(made[k, 1], second, beyond)
        first = ahead - values[k, 0] + trace * beyond
        result[k, 0] = np.where(made[k, 0], first, 0.0)
        following = np.where(made[k, 0], values[k, 0], ahead)
        carried = np.where(made[k, 0], first, beyond)
    return result


def train(
    worlds: Sequence[World],
    settings: Settings,
    report: Callable[[int, float], None] = lambda run, utility: None,
) -> Trained:
    """Train on the worlds in turn.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train", "training an agent") from error
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    body = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, settings.hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(settings.hidden, settings.hidden),
        torch.nn.Tanh(),
    )
    head = torch.nn.Linear(settings.hidden, 1)
    critic = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, settings.hidden), torch.nn.Tanh(), torch.nn.Linear(settings.hidden, 1)
    )
    with torch.no_grad():
        head.weight *= 0.1
        head.bias.fill_(settings.start)
    parameters = [*body.parameters(), *head.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=settings.rate)
    multiplier, curve, begun = 0.0, [], time.monotonic()
    for run in range(settings.runs):
        world = worlds[run % len(worlds)]
        agent = Agent(_numpy(body, head), masked=settings.masked, rollout=(rollout := Rollout()))
        world.run(agent)
        rewards, costs = np.stack(rollout.rewards), np.stack(rollout.costs)
        budget = world.scenario.budget
        # Masked agents cannot exceed the budget; the others learn its price.
        limited = np.isfinite(budget) and budget > 0
        excess = float(costs.sum(axis=0).mean() / budget - 1) if limited else 0.0
        price = multiplier * costs / costs.max() if multiplier else 0.0
        curve.append(float(rewards.mean()))
        report(run, curve[-1])
        _update(torch, rollout, rewards - price, (body, head, critic), optimizer, settings)
        if not settings.masked:
            multiplier = max(0.0, multiplier + settings.multiplier_rate * excess)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * max(0.1, 1 - run / settings.runs)
        if time.monotonic() - begun > settings.seconds:
            break
    name = f"{settings.algorithm.upper()}{'' if settings.masked else ', unmasked'}"
    agent = Agent(_numpy(body, head), name=name, masked=settings.masked)
    return Trained(agent, tuple(curve), len(curve), time.monotonic() - begun, multiplier)


def _update(
    torch: Any,
    rollout: Rollout,
    rewards: np.ndarray,
    modules: tuple[Any, Any, Any],
    optimizer: Any,
    s: Settings,
) -> None:
    body, head, critic = modules
    steps, devices = rewards.shape

    def grid(rows: list[Any]) -> np.ndarray:
        stacked = np.stack(rows)
        return stacked.reshape(steps, 2, devices, *stacked.shape[2:])

    x, actions, made = grid(rollout.observations), grid(rollout.actions), grid(rollout.made)
    flat = torch.from_numpy(x.reshape(-1, FEATURES))
    with torch.no_grad():
        values = critic(flat)[:, 0].numpy().reshape(steps, 2, devices)
    gains = advantages(rewards, values.astype(np.float64), made, s.discount, s.trace)
    chosen = np.flatnonzero(made.reshape(-1))
    flat = flat[torch.from_numpy(chosen)]
    action = torch.from_numpy(actions.reshape(-1)[chosen].astype(np.float32))
    gain = torch.from_numpy(gains.reshape(-1)[chosen].astype(np.float32))
    target = gain + torch.from_numpy(values.reshape(-1)[chosen].astype(np.float32))
    gain = (gain - gain.mean()) / (gain.std() + 1e-6)

    def log_probability(rows: Any) -> tuple[Any, Any]:
        distribution = torch.distributions.Bernoulli(logits=head(body(flat[rows]))[:, 0])
        return distribution.log_prob(action[rows]), distribution.entropy().mean()

    everything = torch.arange(len(chosen))
    with torch.no_grad():
        old = log_probability(everything)[0]
    passes, parts = (s.passes, s.minibatches) if s.algorithm == "ppo" else (1, 1)
    for _ in range(passes):
        for rows in torch.randperm(len(chosen)).chunk(parts):
            new, entropy = log_probability(rows)
            if s.algorithm == "ppo":
                ratio = torch.exp(new - old[rows])
                clipped = torch.clamp(ratio, 1 - s.clip, 1 + s.clip)
                policy_loss = -torch.min(ratio * gain[rows], clipped * gain[rows]).mean()
            else:
                policy_loss = -(new * gain[rows]).mean()
            value_loss = ((critic(flat[rows])[:, 0] - target[rows]) ** 2).mean()
            loss = policy_loss + 0.5 * value_loss - s.entropy * entropy
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters()], 0.5)
            optimizer.step()


def _numpy(body: Any, head: Any) -> Network:
    def array(value: Any) -> np.ndarray:
        return value.detach().numpy().copy()

    first, second = body[0], body[2]
    return Network(
        array(first.weight).T,
        array(first.bias),
        array(second.weight).T,
        array(second.bias),
        array(head.weight).T,
        array(head.bias),
    )
