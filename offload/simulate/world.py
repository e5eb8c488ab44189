"""Episodes: devices that answer queries one after another over a link that comes and goes, within a budget.

Every random draw (which query, when, how the link behaves, how fast the cloud starts) is made before a policy
runs, so that all policies face the same episodes and differences between them are not noise. A run advances
all devices together, one query at a time, in numpy: thousands of devices at once.

Not modelled: several queries in flight on one device, batteries that run empty, a device that slows down as
it gets hot, a cloud that is down while the link is up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from offload.errors import SimulationError
from offload.simulate.devices import DeviceProfile, ModelSize
from offload.simulate.network import NetworkModel, Traces
from offload.simulate.workload import BYTES_PER_TOKEN, CLOUD, OVERHEAD_BYTES, CloudProfile, Pool

__all__ = ["Policy", "Run", "Scenario", "Step", "Summary", "View", "World"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

ATTEMPTS = 4
"""An exchange that a lost link cuts is taken up again this often before the device gives up."""
ROUND_TRIPS = 2.0
"""Round trips of one exchange: a resumed connection, and the request."""
SMOOTHING = 0.3
"""Weight of the newest observation in a device's own estimates of its link."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. Devices take the profiles in turn; `links` is a model to draw from, or recorded.

    `gap_s` is the mean time between a device's queries (exponential), `deadline_s` how long a user waits for
    an answer before the device's own one is shown, `budget` the money that one device may spend on all its
    queries. `price_latency` (per second) and `price_cost` (per unit of money) turn latency and money into
    quality: the utility of an answer is 1 if right, else 0, minus both.
    """

    pool: Pool
    profiles: tuple[DeviceProfile, ...]
    size: ModelSize
    links: NetworkModel | Traces
    cloud: CloudProfile = CLOUD
    devices: int = 200
    queries: int = 100
    gap_s: float = 60.0
    deadline_s: float = 60.0
    budget: float = math.inf
    price_latency: float = 0.01
    price_cost: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SimulationError: names the field and its value.
        """
        for name in ("devices", "queries", "gap_s", "deadline_s"):
            if not getattr(self, name) > 0:
                raise SimulationError(f"a scenario's {name!r} must be positive, not {getattr(self, name)!r}")
        for name in ("budget", "price_latency", "price_cost"):
            if not getattr(self, name) >= 0:
                raise SimulationError(
                    f"a scenario's {name!r} must not be negative, not {getattr(self, name)!r}"
                )
        if not self.profiles:
            raise SimulationError("a scenario needs at least one device profile")


@dataclass(frozen=True, slots=True)
class View:
    """What D devices know when they decide; arrays of length D, float64 unless said otherwise.

    `confidence` is NaN before the device has answered. `local_s` is the time that the device's answer is
    expected to take (0 once it is there); `cloud_s` and `cost` are what this device expects of the cloud,
    from its own past exchanges, the list prices and an answer of mean length, `cost_bound` the price of the
    longest. `link` (bool) is what the operating system says now, `now_s` the time. `money_left` is inf
    without a budget. `truth` (weak, strong) is there for a policy with `sees_truth` alone.
    """

    step: int
    steps: int
    prior: Floats
    confidence: Floats
    strong_prior: Floats
    link: Bools
    rtt_s: Floats
    local_s: Floats
    cloud_s: Floats
    cost: Floats
    cost_bound: Floats
    money_left: Floats
    money_total: float
    waited_s: Floats
    now_s: Floats
    price_latency: float
    price_cost: float
    truth: tuple[Bools, Bools] | None = None

    def affordable(self) -> Bools:
        """Where one more query cannot exceed the budget, however long its answer."""
        fits: Bools = self.cost_bound <= self.money_left
        return fits


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one query on each of D devices: arrays of length D.

    `direct` (sent without trying the device), `asked` (sent to the cloud at all), `from_cloud` (its answer
    came in time), `correct` (of the shown answer), `weak`, `strong` (of each model's answer): bool.
    `latency_s` includes waiting for the query before; `energy_j` is the device's; `cost` money; `utility` as
    in `Scenario`.
    """

    direct: Bools
    asked: Bools
    from_cloud: Bools
    correct: Bools
    weak: Bools
    strong: Bools
    latency_s: Floats
    energy_j: Floats
    cost: Floats
    utility: Floats


class Policy(Protocol):
    """Decides for all devices at once. `sees_truth` is for the hindsight line alone."""

    name: str
    sees_truth: bool

    def start(self, devices: int, rng: np.random.Generator) -> None:
        """A new run begins."""

    def before(self, view: View) -> Bools:
        """Where to send the query at once, without trying the device: bool [D]."""

    def after(self, view: View) -> Bools:
        """Where to send it now that the device has answered: bool [D] (read only where it has)."""

    def observe(self, step: Step) -> None:
        """What came of the last query; a policy that learns simulates its own feedback from it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures. Shares and means are over all queries; `over_budget` is over devices."""

    policy: str
    quality: float
    utility: float
    latency_mean_s: float
    latency_p95_s: float
    escalated: float
    direct: float
    late: float
    cost: float
    energy_j: float
    over_budget: float
    quality_low: float
    quality_high: float
    utility_low: float
    utility_high: float

    def to_json(self) -> dict[str, float | str]:
        """A plain object, figures rounded to 6 digits."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {k: v if isinstance(v, str) else round(v, 6) for k, v in values.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """All steps of one policy; the arrays stack to [queries, D]."""

    policy: str
    steps: Sequence[Step]
    budget: float

    def stack(self, name: str) -> npt.NDArray[np.float64]:
        """One field of every step: float64 [queries, D]."""
        return np.stack([np.asarray(getattr(step, name), np.float64) for step in self.steps])

    def summary(self) -> Summary:
        """The figures; intervals (95 %) resample devices, since a device's queries are not independent."""
        correct, utility = self.stack("correct"), self.stack("utility")
        latency, cost = self.stack("latency_s"), self.stack("cost")
        asked = self.stack("asked")
        spent = cost.sum(axis=0)
        return Summary(
            policy=self.policy,
            quality=float(correct.mean()),
            utility=float(utility.mean()),
            latency_mean_s=float(latency.mean()),
            latency_p95_s=float(np.quantile(latency, 0.95)),
            escalated=float(asked.mean()),
            direct=float(self.stack("direct").mean()),
            late=float(((asked > 0) & (self.stack("from_cloud") == 0)).mean()),
            cost=float(cost.mean()),
            energy_j=float(self.stack("energy_j").mean()),
            # Rounding of a sum of prices is no overspending.
            over_budget=float((spent > self.budget * (1 + 1e-9)).mean()),
            **_interval("quality", correct.mean(axis=0)),
            **_interval("utility", utility.mean(axis=0)),
        )


@dataclass(slots=True)
class World:
    """A scenario with all its draws made. `run` may be called with any number of policies."""

    scenario: Scenario
    query: Ints = field(init=False)
    arrival: Floats = field(init=False)
    first_token: Floats = field(init=False)
    traces: Traces = field(init=False)

    def __post_init__(self) -> None:
        """Make the draws."""
        s = self.scenario
        rng = np.random.default_rng(s.seed)
        shape = (s.queries, s.devices)
        self.query = rng.integers(0, len(s.pool), shape)
        self.arrival = np.cumsum(rng.exponential(s.gap_s, shape), axis=0)
        self.first_token = s.cloud.first_token_s * np.exp(
            s.cloud.first_token_sigma * rng.standard_normal(shape)
        )
        if isinstance(s.links, Traces):
            at = np.arange(s.devices) % s.links.devices
            t = s.links
            self.traces = Traces(t.step_s, t.up[at], t.rtt_s[at], t.uplink[at], t.downlink[at])
        else:
            # Devices that fall behind outlive their last arrival; the last step of a trace holds.
            duration = float(self.arrival[-1].max()) + s.deadline_s
            step_s = max(1.0, s.gap_s / 10)
            self.traces = s.links.generate(s.devices, duration, rng, step_s)

    def run(self, policy: Policy) -> Run:
        """Let a policy decide every query of every device."""
        s, pool, cloud = self.scenario, self.scenario.pool, self.scenario.cloud
        devices = np.arange(s.devices)
        profiles = [s.profiles[i % len(s.profiles)] for i in range(s.devices)]
        decode = np.array([p.decode_seconds(s.size) for p in profiles])
        prefill = np.array([p.prefill_seconds(s.size) for p in profiles])
        active = np.array([p.active_watts for p in profiles])
        idle = np.array([p.idle_watts for p in profiles])
        edges = self.traces.edges()

        # What a device can know of lengths before it sees them: their mean, and for the budget the longest.
        weak_mean, strong_mean = pool.weak_tokens.mean(), np.full(s.devices, pool.strong_tokens.mean())
        longest = np.full(s.devices, pool.strong_tokens.max())

        policy.start(s.devices, np.random.default_rng((s.seed, 1)))
        free_at = np.zeros(s.devices)
        money = np.full(s.devices, s.budget)
        seen_rtt, seen_up, seen_down = (
            np.full(s.devices, 0.1),
            np.full(s.devices, 1e6),
            np.full(s.devices, 2e6),
        )
        steps = []
        for k in range(s.queries):
            row, arrival = self.query[k], self.arrival[k]
            start = np.maximum(arrival, free_at)
            local_s = pool.prompt_tokens[row] * prefill + pool.weak_tokens[row] * decode
            up_bytes = OVERHEAD_BYTES + pool.prompt_tokens[row] * BYTES_PER_TOKEN
            down_bytes = OVERHEAD_BYTES + pool.strong_tokens[row] * BYTES_PER_TOKEN
            speaking = pool.strong_tokens[row] / cloud.decode
            cost = cloud.cost(pool.prompt_tokens[row], pool.strong_tokens[row])
            answer_bytes = OVERHEAD_BYTES + strong_mean * BYTES_PER_TOKEN
            moving = ROUND_TRIPS * seen_rtt + up_bytes / seen_up + answer_bytes / seen_down
            # 1 before: some queries go straight to the cloud
            view = View(
                step=k,
                steps=s.queries,
                prior=pool.prior[row],
                confidence=np.full(s.devices, np.nan),
                strong_prior=pool.strong_prior[row],
                link=self.traces.up[devices, self.traces.index(start)],
                rtt_s=seen_rtt,
                local_s=pool.prompt_tokens[row] * prefill + weak_mean * decode,
                cloud_s=moving + cloud.first_token_s + strong_mean / cloud.decode,
                cost=cloud.cost(pool.prompt_tokens[row], strong_mean),
                cost_bound=cloud.cost(pool.prompt_tokens[row], longest),
                money_left=money,
                money_total=s.budget,
                waited_s=start - arrival,
                now_s=start,
                price_latency=s.price_latency,
                price_cost=s.price_cost,
                truth=(pool.weak[row], pool.strong[row]) if policy.sees_truth else None,
            )
            direct = policy.before(view)
            # 2 the device answers the others, and the policy sees how sure it is
            answered = start + local_s
            escalate = policy.after(
                replace(
                    view,
                    confidence=pool.confidence[row],
                    link=self.traces.up[devices, self.traces.index(answered)],
                    local_s=np.zeros(s.devices),
                    waited_s=answered - arrival,
                    now_s=answered,
                )
            )
            asked = direct | escalate
            sent = np.where(direct, start, answered)
            # 3 the exchange, until the user's patience ends
            done, begun, rtt, uplink, downlink = self._exchange(
                sent, up_bytes, down_bytes, self.first_token[k] + speaking, edges
            )
            limit = np.maximum(arrival + s.deadline_s, sent)
            in_time = asked & (done <= limit)
            paid = asked & (begun < limit)
            # 4 what came of it: without the cloud's answer the device's own is shown, made now if need be
            late = asked & ~in_time
            finished = np.where(in_time, done, np.where(late, limit, answered))
            finished = np.where(late & direct, finished + local_s, finished)
            computed = np.where(direct & ~late, 0.0, local_s)
            waiting = np.where(asked, np.where(in_time, done, limit) - sent, 0.0)
            correct = np.where(in_time, pool.strong[row], pool.weak[row])
            spent = np.where(paid, cost, 0.0)
            latency = finished - arrival
            step = Step(
                direct=direct,
                asked=asked,
                from_cloud=in_time,
                correct=correct,
                weak=pool.weak[row],
                strong=pool.strong[row],
                latency_s=latency,
                energy_j=active * computed + idle * waiting,
                cost=spent,
                utility=correct - s.price_latency * latency - s.price_cost * spent,
            )
            steps.append(step)
            policy.observe(step)
            money = money - spent
            free_at = finished
            seen_rtt = np.where(in_time, seen_rtt + SMOOTHING * (rtt - seen_rtt), seen_rtt)
            seen_up = np.where(in_time, seen_up + SMOOTHING * (uplink - seen_up), seen_up)
            seen_down = np.where(in_time, seen_down + SMOOTHING * (downlink - seen_down), seen_down)
        return Run(policy.name, steps, s.budget)

    def _exchange(
        self,
        sent: Floats,
        up_bytes: Floats,
        down_bytes: Floats,
        cloud_s: Floats,
        edges: tuple[Floats, Floats],
    ) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """When the answer is there and when the request first went out (inf: never), and the link as it was.

        A link that is lost before the answer is in cuts the exchange; it is taken up when the link is back,
        with the same request (the gateway answers it once).
        """
        t, devices = self.traces, np.arange(len(sent))
        next_up, next_down = edges
        done, begun = np.full(len(sent), np.inf), np.full(len(sent), np.inf)
        rtt, uplink, downlink = np.zeros(len(sent)), np.zeros(len(sent)), np.zeros(len(sent))
        now = sent.copy()
        for _ in range(ATTEMPTS):
            at = t.index(np.where(np.isfinite(now), now, 0.0))
            start = np.where(np.isfinite(now), np.maximum(now, next_up[devices, at]), np.inf)
            alive = np.isfinite(start) & ~np.isfinite(done)
            if not alive.any():
                break
            at = t.index(np.where(alive, start, 0.0))
            r, u, d = t.rtt_s[devices, at], t.uplink[devices, at], t.downlink[devices, at]
            end = start + ROUND_TRIPS * r + up_bytes / u + down_bytes / d + cloud_s
            lost = next_down[devices, at]
            held = alive & (end <= lost)
            begun = np.where(alive, np.minimum(begun, start), begun)
            done = np.where(held, end, done)
            rtt, uplink, downlink = (
                np.where(held, r, rtt),
                np.where(held, u, uplink),
                np.where(held, d, downlink),
            )
            now = np.where(alive & ~held, lost, np.inf)
        return done, begun, rtt, uplink, downlink


def _interval(name: str, per_device: Floats, resamples: int = 500) -> dict[str, float]:
    rng = np.random.default_rng(0)
    drawn = per_device[rng.integers(0, len(per_device), (resamples, len(per_device)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
