"""What the router is told: the user's policy, and the state of the world at the moment of a decision.

Plain, frozen data. Knows: names, units, and which settings contradict one another. Does not know: how a
decision follows from it (`offload.router`), or who measures the state.

Qualities are probabilities of a right answer, times seconds, costs the currency of the configuration,
energies joules, traffic bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from offload.errors import PolicyError
from offload.guarantee import Certificate
from offload.types import Confidence

if TYPE_CHECKING:
    from offload.calibration import Calibration
    from offload.stopping import EarlyStop

__all__ = [
    "DEFAULT_RESOLUTION",
    "DEFAULT_THRESHOLD",
    "Device",
    "Objective",
    "Place",
    "Policy",
    "Preference",
    "Remaining",
    "State",
    "Target",
    "Unit",
    "policy_from",
]

Objective = Literal["budget", "quality", "guarantee"]
Preference = Literal["auto", "device", "cloud"]
Place = Literal["cloud", "device"]
Unit = Literal["queries", "cost", "bytes", "joules"]

DEFAULT_THRESHOLD = 0.7
"""Kept from this confidence on when the user named none and the quality of the others is unknown."""

DEFAULT_RESOLUTION = 0.5
"""How much of the doubt about an answer its confidence removes, where that has not been measured."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user wants. `[router]` of the configuration (`docs/router.md`).

    Args:
        objective: `budget`: the best answers that the budgets allow; `quality`: the fewest escalations that
        keep `accuracy`; `guarantee`: keep only what `certificate` promises.
        threshold: keep from this confidence on (objective `budget`); `None`: where keeping and escalating are
            worth the same, see `offload.router`.
        accuracy: share of right answers wanted (objective `quality`). Used directly as the confidence from
        which an answer is kept, unless a certificate of the promise `overall` says a looser one will do.
        certificate: made by `offload.guarantee` on labelled rows.
        certified_calibration: id of the calibration whose confidences the certificate is about; another one
            voids it. `None`: not checked.
        cost_weight, latency_weight, energy_weight: what one unit of cost, a second, a joule is worth in
            probability of a right answer (the λ and μ of the utility).
        uncalibrated: what a missing confidence means: `escalate` or `keep`.
        otherwise: what happens when an answer should be escalated and cannot be: `keep` it (marked as a
            fallback) or `refuse`. `None`: `refuse` under the objective `guarantee`, else `keep`.
        queue: an escalation that only lacks a network waits for it, if the deadline allows.
        max_queue: queries that may wait.
        skip_below: chance of a right answer, told from the prompt, below which the device does not try.
        max_temperature_c, min_battery: limits beyond which the device does not try while another can answer;
            `min_battery` is a share of the charge and holds off the charger.
        metered: use a metered network for escalations.
    """

    objective: Objective = "budget"
    threshold: float | None = None
    accuracy: float | None = None
    certificate: Certificate | None = None
    certified_calibration: str | None = None
    cost_weight: float = 0.0
    latency_weight: float = 0.0
    energy_weight: float = 0.0
    uncalibrated: Literal["escalate", "keep"] = "escalate"
    otherwise: Literal["keep", "refuse"] | None = None
    queue: bool = True
    max_queue: int = 1000
    skip_below: float = 0.05
    max_temperature_c: float | None = None
    min_battery: float = 0.0
    metered: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            PolicyError: names the setting, its value and the way out.
        """
        for name, choices in (
            ("objective", get_args(Objective)),
            ("uncalibrated", ("escalate", "keep")),
            ("otherwise", (None, "keep", "refuse")),
        ):
            if getattr(self, name) not in choices:
                told = ", ".join(str(c) for c in choices if c is not None)
                raise PolicyError(f"{name} is {getattr(self, name)!r}, not one of {told}")
        for name in ("threshold", "accuracy", "skip_below", "min_battery"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise PolicyError(f"{name} is {value!r}: it is a share from 0 to 1")
        for name in ("cost_weight", "latency_weight", "energy_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise PolicyError(f"{name} is {value!r}: it is a finite number from 0 on")
        if self.max_queue < 0:
            raise PolicyError(f"max_queue is {self.max_queue}: it is 0 or more")
        if self.objective == "quality" and self.accuracy is None:
            raise PolicyError(
                "objective 'quality' needs accuracy, the share of right answers wanted, such as 0.9"
            )
        if self.objective == "guarantee" and self.certificate is None:
            raise PolicyError(
                "objective 'guarantee' needs a certificate: edge-runtime certify makes one from labelled rows"
            )

    @property
    def fallback(self) -> Literal["keep", "refuse"]:
        """`otherwise`, with its default filled in."""
        if self.otherwise is not None:
            return self.otherwise
        return "refuse" if self.objective == "guarantee" else "keep"


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody else who could answer: an endpoint, or another model on this device.

    Args:
        allowed: the residency verdict on this query for this target, and `verdict` its words. It has no
            default: who has not asked must not send. For a model on the device it is true.
        quality: P(right) on a query like this one; `None`: unknown, and then taken as 1 for the cloud and as
            useless for a device model.
        cost: the most that this query can cost there.
        latency_s, latency_high_s: expected seconds to the whole answer, and a high quantile of them that is
        held against deadlines (the expected ones when `None`). sent_bytes, energy_j: what asking costs in
        traffic and energy.
        reachable: the network and the target's circuit breaker are up.
        retry_s: seconds after which it is worth trying an unreachable target again, where that is known.
    """

    name: str
    allowed: bool
    verdict: str = ""
    place: Place = "cloud"
    quality: float | None = None
    cost: float = 0.0
    latency_s: float | None = None
    latency_high_s: float | None = None
    sent_bytes: float = 0.0
    energy_j: float = 0.0
    reachable: bool = True
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Remaining:
    """What a budget allows now: `left` of `limit` per window; `offload.budget` makes it.

    `least_gain` is the pacing: the gain in probability that an escalation must promise to be worth spending
    this budget on now (`-inf`: any).
    """

    name: str
    unit: Unit
    left: float
    limit: float
    least_gain: float = -math.inf


@dataclass(frozen=True, slots=True)
class Device:
    """This device and the model that would answer or has answered.

    `latency_s` and `energy_j` are what the rest of the attempt takes (all of it before, nothing after);
    `waiting` queries stand before this one, each taking as long.
    """

    latency_s: float | None = None
    energy_j: float = 0.0
    waiting: int = 0
    temperature_c: float | None = None
    battery: float | None = None
    charging: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """Everything but the query and the evidence that a decision depends on.

    Args:
        targets: who else could answer.
        confidence: the calibrated confidence, when it has been computed; otherwise `calibration` is applied
        to the evidence (with `text`, the answer so far).
        p_before: P(the device is right) told from the prompt alone (`offload.learn`).
        resolution: how much of the doubt that the prompt leaves is removed by the confidence of the answer, 0
            to 1; `offload.worth.resolution` measures it on labelled rows.
        budgets: what is left of each.
        elapsed_s: seconds since the query was asked.
        online: there is a network; `metered`: it costs the user per byte.
        queued: queries that wait for the network.
        stop: bounds for stopping early; `None`: answers are always finished.
        tokens_left: the most tokens that the answer can still get.
    """

    policy: Policy = field(default_factory=Policy)
    targets: tuple[Target, ...] = ()
    confidence: Confidence | None = None
    calibration: Calibration | None = None
    text: str | None = None
    p_before: float | None = None
    resolution: float = DEFAULT_RESOLUTION
    budgets: tuple[Remaining, ...] = ()
    device: Device = field(default_factory=Device)
    preference: Preference = "auto"
    elapsed_s: float = 0.0
    online: bool = True
    metered: bool = False
    queued: int = 0
    stop: EarlyStop | None = None
    tokens_left: int | None = None


def policy_from(settings: Mapping[str, Any], certificate: Certificate | None = None) -> Policy:
    """The policy of the configuration's `[router]` table; `None` values are left to the defaults.

    Raises:
        PolicyError: a setting is unknown or cannot be followed.
    """
    known = {f.name for f in fields(Policy)}
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in known:
            raise PolicyError(f"the policy has no setting '{name}'; it has {', '.join(sorted(known))}")
    return Policy(**given, certificate=certificate)
