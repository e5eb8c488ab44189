"""The decision: keep, escalate, queue or refuse; pure, total, and explained by its rule and numbers.

One function for three moments, told apart by the evidence:

- **before** (no evidence): is it worth trying the device at all?
- **during** (evidence without a `finish_reason`): can this answer still be kept?
- **after**: is it kept?

An answer is kept when its calibrated confidence p reaches a threshold that depends on everything *but* p, so
a surer answer is never treated worse. With q, c, l, e the quality, cost, latency and energy of the best
target that may be asked, the threshold is

- objective `budget`: `policy.threshold`, else the utility of asking, q − λc − μl − ηe; lowered to q − g where
  the budgets' pacing wants a gain of at least g (`offload.budget`);
- objective `quality`: the threshold of a certificate over all answers, else the accuracy wanted;
- objective `guarantee`: the certificate's; without one, nothing is kept.

Before generation the device tries unless its time and energy cost more than they save on average
(`offload.worth`): what a kept answer is worth beyond the threshold under the objective `budget`, the price of
asking where an answer reaches the threshold under the others.

Who may not be asked (residency, price, budgets, deadline, network) is left out before the choice. When an
answer should be escalated and nobody can be asked, it waits for the network, or the policy's fallback holds.
Knows: data. Does not know: clocks, networks, files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from offload.confidence import score
from offload.policy import DEFAULT_RESOLUTION, DEFAULT_THRESHOLD, Policy, Remaining, State, Target
from offload.types import Confidence, Decision, Evidence, Query
from offload.worth import chance_kept, worth_of_trying

__all__ = ["Moment", "decide", "moment_of", "utility"]

Moment = Literal["before", "during", "after"]


def moment_of(evidence: Evidence | None) -> Moment:
    """The moment that the evidence stands for."""
    if evidence is None:
        return "before"
    return "during" if evidence.finish_reason is None else "after"


def decide(query: Query, evidence: Evidence | None, state: State) -> Decision:
    """What to do with a query now.

    `keep` means: before, try the device; during, go on; after, answer with what the device said. `endpoint`
    names the target of `escalate` and `queue`. `fallback` marks a `keep` of an answer that should have gone
    elsewhere.

    Args:
        evidence: `None` before generation; running evidence has no `finish_reason`.
    """
    policy, moment = state.policy, moment_of(evidence)
    left = _seconds_left(query, state)
    options = [(target, _obstacle(query, target, state, left)) for target in state.targets]
    free = [target for target, obstacle in options if obstacle is None]
    # The threshold is that of the best target, even of one that cannot be asked now.
    best = max(free, key=lambda t: _rank(t, policy), default=None)
    wanted = best or max((t for t, _ in options if t.allowed), key=lambda t: _rank(t, policy), default=None)
    level, rule, why = _threshold(state, wanted)
    threshold = None if level is None else max(level, 0.0)
    numbers: dict[str, float] = {}
    if moment == "before":
        found = _before(query, state, best, level, left, numbers)
    else:
        assert evidence is not None
        found = _judge(evidence, state, moment, threshold, rule, why, numbers)
    if found.keep:
        return Decision(
            "keep", found.rule, found.reason, found.threshold, 0.0, _device_s(state), numbers=numbers
        )
    if best is not None:
        numbers["utility"] = utility(best, policy)
        return Decision(
            "escalate",
            found.rule,
            f"{found.reason}; {best.name} is asked" + _among(free, best),
            found.threshold,
            best.cost,
            best.latency_s,
            endpoint=best.name,
            numbers=numbers,
        )
    return _instead(query, state, moment, found, options, left, numbers)


def utility(target: Target, policy: Policy) -> float:
    """q − λ·cost − μ·latency − η·energy, in probability of a right answer.

    An unknown quality counts as 1 for the cloud, and as −∞ for another model on the device. An unknown
    latency counts as none.
    """
    quality = target.quality
    if quality is None or not math.isfinite(quality):
        quality = 1.0 if target.place == "cloud" else -math.inf
    return (
        quality
        - policy.cost_weight * target.cost
        - policy.latency_weight * (target.latency_s or 0.0)
        - policy.energy_weight * target.energy_j
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    keep: bool
    rule: str
    reason: str
    threshold: float | None = None


def _threshold(state: State, target: Target | None) -> tuple[float | None, str, str]:
    """The confidence from which an answer is kept, with its rule and words; `None`: nothing is kept.

    Below 0 where asking is worth less than a wrong answer: the pacing saves the budget for others.
    """
    policy, certificate = state.policy, state.policy.certificate
    if policy.objective == "guarantee":
        if certificate is None or certificate.threshold is None:
            return (
                None,
                "nothing-certified",
                certificate.explain() if certificate else "there is no certificate",
            )
        return certificate.threshold, "guarantee", certificate.explain()
    if policy.objective == "quality":
        wanted = policy.accuracy if policy.accuracy is not None else DEFAULT_THRESHOLD
        if certificate is not None and certificate.promise == "overall" and certificate.threshold is not None:
            return certificate.threshold, "quality", certificate.explain()
        return wanted, "quality", f"an answer is kept from the wanted accuracy {wanted:g} on"
    if policy.threshold is not None:
        threshold, why = policy.threshold, "the threshold of the configuration"
    elif target is not None and target.quality is not None:
        threshold, why = utility(target, policy), f"what asking {target.name} is worth"
    else:
        threshold, why = DEFAULT_THRESHOLD, "the default: the quality of the others is not known"
    if target is not None:
        paced = [b for b in state.budgets if _demand(target, b) > 0]
        if paced:
            strictest = max(paced, key=lambda b: b.least_gain)
            reached = (1.0 if target.quality is None else target.quality) - strictest.least_gain
            if reached < threshold:
                b = strictest
                why = (
                    f"budget '{b.name}' has {b.left:.4g} of {b.limit:.4g} left, "
                    f"spent on gains of {b.least_gain:.3f} or more"
                )
                return reached, "pacing", why
    return threshold, "threshold", why


def _judge(
    evidence: Evidence,
    state: State,
    moment: Moment,
    threshold: float | None,
    rule: str,
    why: str,
    numbers: dict[str, float],
) -> _Verdict:
    """During and after: whether the answer is kept."""
    policy = state.policy
    if state.preference == "device":
        return _Verdict(True, "preference-device", "the user wants answers from this device alone")
    if state.preference == "cloud":
        return _Verdict(False, "preference-cloud", "the user wants answers from the cloud")
    if threshold is None:
        return _Verdict(False, rule, why)
    if moment == "during":
        return _during(evidence, state, threshold)
    found = state.confidence if state.confidence is not None else _scored(evidence, state)
    p = _probability(found.p_correct)
    if p is None:
        said = found.reason or "the confidence has no probability"
        if policy.uncalibrated == "keep" and policy.objective != "guarantee":
            return _Verdict(True, "uncalibrated", f"{said}; the policy keeps such answers", threshold)
        return _Verdict(False, "uncalibrated", said, threshold)
    numbers["p_correct"] = p
    certified = policy.certified_calibration
    if policy.objective == "guarantee" and certified is not None and certified != found.calibration_id:
        return _Verdict(
            False,
            "nothing-certified",
            f"the certificate is about the calibration {certified}, and this confidence is of "
            f"{found.calibration_id or 'none'}: certify again",
        )
    if p >= threshold:
        return _Verdict(True, rule, f"confidence {p:.3f} reaches {threshold:.3f} ({why})", threshold)
    return _Verdict(False, rule, f"confidence {p:.3f} is below {threshold:.3f} ({why})", threshold)


def _during(evidence: Evidence, state: State, threshold: float) -> _Verdict:
    going_on = _Verdict(True, "going-on", "the answer can still be kept", threshold)
    if state.stop is None:
        return going_on
    ceiling = state.stop.ceiling(
        evidence,
        threshold,
        calibration=state.calibration,
        tokens_left=state.tokens_left,
        text=state.text,
    )
    if ceiling is None:
        return going_on
    rule = "early-stop-exact" if ceiling.exact else "early-stop"
    return _Verdict(False, rule, f"after {evidence.n} tokens {ceiling.reason}", threshold)


def _before(
    query: Query,
    state: State,
    best: Target | None,
    level: float | None,
    left: float,
    numbers: dict[str, float],
) -> _Verdict:
    """Before: whether the device tries. It does when nobody else can."""
    policy, device = state.policy, state.device
    threshold = None if level is None else max(level, 0.0)
    if state.preference == "device":
        return _Verdict(True, "preference-device", "the user wants answers from this device alone")
    if state.preference == "cloud":
        return _Verdict(False, "preference-cloud", "the user wants answers from the cloud")
    if best is None:
        return _Verdict(True, "try-device", "nobody else can be asked now", threshold)
    p = _probability(state.p_before)
    if p is not None:
        numbers["p_before"] = p
    mine, theirs = _device_s(state) or 0.0, best.latency_high_s or best.latency_s or 0.0
    if level is None or threshold is None:
        return _Verdict(False, "nothing-certified", "no answer of the device could be kept")
    hot = policy.max_temperature_c
    if hot is not None and device.temperature_c is not None and device.temperature_c > hot:
        return _Verdict(False, "device-hot", f"the device has {device.temperature_c:g} °C, above {hot:g} °C")
    if device.battery is not None and not device.charging and device.battery < policy.min_battery:
        return _Verdict(
            False, "battery-low", f"the battery is at {device.battery:.0%}, below {policy.min_battery:.0%}"
        )
    if mine > left:
        return _Verdict(False, "deadline", f"the device needs {mine:.2f} s and {left:.2f} s are left")
    if p is None:
        return _Verdict(True, "try-device", "nothing speaks against it", threshold)
    if p < threshold and mine + theirs > left:
        return _Verdict(
            False,
            "deadline",
            f"there is time for one attempt, and the device's chance of {p:.3f} is below {threshold:.3f}",
            threshold,
        )
    if p < threshold and p < policy.skip_below:
        return _Verdict(
            False, "hopeless", f"the prompt gives the device a chance of {p:.3f}, below {policy.skip_below:g}"
        )
    # Trying costs its time and energy for sure, and saves something where its answer is kept.
    price = policy.latency_weight * mine + policy.energy_weight * device.energy_j
    known = _probability(state.resolution)
    rho = DEFAULT_RESOLUTION if known is None else known
    if policy.objective == "budget":
        saved = worth_of_trying(p, level, rho)
    else:
        asking = (
            policy.cost_weight * best.cost
            + policy.latency_weight * (best.latency_s or 0.0)
            + policy.energy_weight * best.energy_j
        )
        saved = asking * chance_kept(p, threshold, rho)
    if price > saved:
        return _Verdict(
            False, "not-worth-trying", f"trying the device costs {price:.3f} and saves {saved:.3f} on average"
        )
    return _Verdict(True, "try-device", f"the prompt gives it a chance of {p:.3f}", threshold)


def _instead(
    query: Query,
    state: State,
    moment: Moment,
    found: _Verdict,
    options: list[tuple[Target, str | None]],
    left: float,
    numbers: Mapping[str, float],
) -> Decision:
    """What happens when an answer should be escalated and nobody can be asked."""
    policy = state.policy
    obstacles = "; ".join(f"{t.name}: {said}" for t, said in options) or "there is nobody else to ask"
    later = [t for t, _ in options if _may_wait(query, t, state, left)]
    if policy.queue and state.queued < policy.max_queue and later:
        target = max(later, key=lambda t: _rank(t, policy))
        wait = target.retry_s
        reason = f"{found.reason}; it waits for {target.name} ({obstacles})"
        seconds = None if wait is None else wait + (target.latency_s or 0.0)
        return Decision(
            "queue",
            "offline",
            reason,
            found.threshold,
            target.cost,
            seconds,
            endpoint=target.name,
            numbers=numbers,
        )
    reason = f"{found.reason}; but nobody can be asked ({obstacles})"
    if moment == "before":
        return Decision("keep", "try-device", reason, found.threshold, 0.0, _device_s(state), numbers=numbers)
    if policy.fallback == "refuse":
        return Decision("refuse", found.rule, reason, found.threshold, 0.0, 0.0, numbers=numbers)
    return Decision(
        "keep", found.rule, reason, found.threshold, 0.0, _device_s(state), fallback=True, numbers=numbers
    )


def _obstacle(query: Query, target: Target, state: State, left: float) -> str | None:
    """Why a target cannot be asked now; `None` when it can."""
    if not target.allowed:
        return f"residency forbids it{f' ({target.verdict})' if target.verdict else ''}"
    if target.place == "device" and utility(target, state.policy) == -math.inf:
        return "its quality is not known"
    if query.max_cost is not None and target.cost > query.max_cost:
        return f"costs up to {target.cost:g}, and the query may cost {query.max_cost:g}"
    for budget in state.budgets:
        demand = _demand(target, budget)
        if demand > 0 and not demand <= budget.left:
            return f"budget '{budget.name}' has {budget.left:g} of {budget.limit:g} left, it needs {demand:g}"
    down = _down(target, state)
    if down is not None:
        return down
    needs = target.latency_high_s if target.latency_high_s is not None else target.latency_s
    if needs is not None and needs > left:
        return f"needs up to {needs:.2f} s, and {max(left, 0.0):.2f} s are left"
    return None


def _down(target: Target, state: State) -> str | None:
    if target.place == "device":
        return None if target.reachable else "it is not loaded"
    if not state.online:
        return "there is no network"
    if state.metered and not state.policy.metered:
        return "the network is metered, and the policy does not use such"
    return None if target.reachable else "it does not answer"


def _may_wait(query: Query, target: Target, state: State, left: float) -> bool:
    """Whether only the network stands between this query and the target, and there is time to wait for it."""
    if not target.allowed or target.place == "device" or _down(target, state) is None:
        return False
    if query.max_cost is not None and target.cost > query.max_cost:
        return False
    if left == math.inf:
        return True
    return target.retry_s is not None and target.retry_s + (target.latency_s or 0.0) <= left


def _demand(target: Target, budget: Remaining) -> float:
    """What asking a target takes from a budget."""
    if budget.unit == "joules":
        return target.energy_j
    if target.place == "device":
        return 0.0
    return {"queries": 1.0, "cost": target.cost, "bytes": target.sent_bytes}[budget.unit]


def _rank(target: Target, policy: Policy) -> tuple[float, float, float, str]:
    """Better targets are larger: by utility, then cheaper, then quicker, then by name."""
    return (utility(target, policy), -target.cost, -(target.latency_s or 0.0), target.name)


def _among(free: list[Target], best: Target) -> str:
    others = [t.name for t in free if t is not best]
    return f", the best of {len(free)}" if others else ""


def _scored(evidence: Evidence, state: State) -> Confidence:
    return score(evidence, state.calibration, text=state.text)


def _probability(p: float | None) -> float | None:
    """p where it is a probability; anything else counts as unknown, never as sure."""
    return p if p is not None and math.isfinite(p) and 0 <= p <= 1 else None


def _seconds_left(query: Query, state: State) -> float:
    return math.inf if query.deadline_s is None else query.deadline_s - state.elapsed_s


def _device_s(state: State) -> float | None:
    """Expected seconds until the device has answered: those before it in the line, then this query."""
    own = state.device.latency_s
    return None if own is None else own * (1 + state.device.waiting)
