"""The router itself as a policy of the simulation: one `decide` per device and moment, with real budgets.

Slow beside the vectorised policies (some thousand decisions a second) and worth it: what is compared is the
code that runs on a device, not a model of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offload.budget import Budgets, Limit, Reservation
from offload.policy import DEFAULT_RESOLUTION, Device, Policy, State, Target
from offload.router import decide
from offload.simulate.world import Step, View
from offload.types import Confidence, Evidence, Query

__all__ = ["RouterPolicy"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WHOLE = Evidence(n=1, n_scored=1, sum_logprob=-0.1, mean_logprob=-0.1, finish_reason="stop")
"""Stands for "the device has answered"; its confidence is given beside it."""


@dataclass
class RouterPolicy:
    """`offload.router.decide` for every device, the objective being the utility within a money budget.

    `budget` is the money that one device may spend in any `window_s` seconds (None: no budget), one window
    for all devices or one for each; `prior_gains` begin the pacing, such as those of the calibration rows;
    `resolution` is what `offload.worth.resolution` finds on such rows.
    """

    latency_weight: float
    cost_weight: float = 0.0
    budget: float | None = None
    window_s: float | Sequence[float] = 86_400.0
    resolution: float = DEFAULT_RESOLUTION
    deadline_s: float | None = None
    prior_gains: Sequence[float] = ()
    name: str = "router"
    sees_truth: bool = False
    decisions: int = 0
    _budgets: list[Budgets] = field(default_factory=list)
    _asked: list[bool] = field(default_factory=list)
    _reserved: dict[int, Reservation] = field(default_factory=dict)

    def start(self, devices: int, rng: np.random.Generator) -> None:
        """A ledger for every device."""
        windows = [self.window_s] * devices if isinstance(self.window_s, float) else self.window_s
        self._budgets = [
            Budgets(
                () if self.budget is None else (Limit("money", "cost", self.budget, window),),
                prior_gains=self.prior_gains,
            )
            for _, window in zip(range(devices), windows, strict=True)
        ]
        self._asked = [False] * devices
        self._reserved, self.decisions = {}, 0

    def before(self, view: View) -> Bools:
        """Decide from the prompt alone."""
        self._asked = self._decide(view, None, list(range(len(self._budgets))))
        self._count(view, view.prior, [d for d, asked in enumerate(self._asked) if asked])
        return np.array(self._asked, bool)

    def after(self, view: View) -> Bools:
        """Decide with the confidence; what is not escalated is counted as such."""
        waiting = [d for d, asked in enumerate(self._asked) if not asked]
        self._count(view, view.confidence, waiting)
        answers = self._decide(view, WHOLE, waiting)
        escalated = np.zeros(len(self._budgets), bool)
        escalated[waiting] = answers
        for d, asked in zip(waiting, answers, strict=True):
            if not asked:
                self._budgets[d].passed()
        return escalated

    def observe(self, step: Step) -> None:
        """Give back what was reserved and not spent."""
        for d, reservation in self._reserved.items():
            self._budgets[d].settle(reservation, {"cost": float(step.cost[d])})
        self._reserved = {}

    def _count(self, view: View, probability: Floats, devices: list[int]) -> None:
        """Tell the pacing what escalating each query would gain, by the best that is known of it."""
        for d in devices:
            p = float(probability[d])
            gain = float(view.strong_prior[d]) - (0.0 if np.isnan(p) else p)
            self._budgets[d].observe(float(view.now_s[d]), gain, {"cost": float(view.cost[d])})

    def _decide(self, view: View, evidence: Evidence | None, devices: list[int]) -> list[bool]:
        policy = Policy(latency_weight=self.latency_weight, cost_weight=self.cost_weight, queue=False)
        answers = []
        for d in devices:
            now = float(view.now_s[d])
            target = Target(
                "cloud",
                allowed=True,
                quality=float(view.strong_prior[d]),
                cost=float(view.cost_bound[d]),
                latency_s=float(view.cloud_s[d]),
            )
            p, prior = float(view.confidence[d]), float(view.prior[d])
            state = State(
                policy=policy,
                targets=(target,),
                confidence=None
                if evidence is None
                else Confidence(None if np.isnan(p) else p, "simulated", "c"),
                p_before=None if np.isnan(prior) else prior,
                resolution=self.resolution,
                budgets=self._budgets[d].remaining(now),
                device=Device(latency_s=float(view.local_s[d])),
                elapsed_s=float(view.waited_s[d]),
                online=bool(view.link[d]),
            )
            query = Query(id="q", messages=(), deadline_s=self.deadline_s)
            asked = decide(query, evidence, state).action == "escalate"
            self.decisions += 1
            taken = self._budgets[d].reserve(now, target) if asked else None
            if taken is not None and taken.refused is None:
                self._reserved[d] = taken
            answers.append(d in self._reserved)
        return answers
