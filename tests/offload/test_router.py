"""Decisions: each rule by its words, and what must hold for every state."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import PolicyError
from offload.guarantee import Certificate
from offload.policy import DEFAULT_THRESHOLD, Device, Policy, Remaining, State, Target, policy_from
from offload.router import decide, moment_of, utility
from offload.stopping import Ceiling
from offload.types import Confidence, Evidence, Message, Query

QUERY = Query("q", (Message("user", "How many apples are left?"),))
AFTER = Evidence(
    3, 3, -0.3, -0.1, -0.2, mean_entropy=0.1, max_entropy=0.2, mean_margin=2.0, finish_reason="stop"
)
DURING = replace(AFTER, finish_reason=None)
CLOUD = Target("cloud", True, quality=0.9, cost=0.002, latency_s=1.0)
CERTIFICATE = Certificate("selective", 0.1, 0.1, 0.8, 500, 300, 20, 0.09)


class FakeStop:
    """Says that nothing above a level can be reached."""

    def __init__(self, level, exact=True):
        self.level, self.exact = level, exact

    def ceiling(self, evidence, threshold, **_):
        return Ceiling(self.exact, f"it can reach {self.level}") if threshold > self.level else None


def sure(p, calibration_id="c1"):
    return Confidence(p, "mean_logprob", calibration_id)


def state(p=0.5, **changes):
    policy = changes.pop("policy", Policy(threshold=0.7))
    return State(**{"policy": policy, "targets": (CLOUD,), "confidence": sure(p), **changes})


def after(p=0.5, query=QUERY, **changes):
    return decide(query, AFTER, state(p, **changes))


def test_the_evidence_tells_the_moment():
    assert [moment_of(e) for e in (None, DURING, AFTER)] == ["before", "during", "after"]


def test_a_sure_answer_is_kept_and_an_unsure_one_escalated_with_the_numbers():
    kept = after(0.7)
    assert (kept.action, kept.rule, kept.threshold, kept.numbers["p_correct"]) == (
        "keep",
        "threshold",
        0.7,
        0.7,
    )
    assert "confidence 0.700 reaches 0.700" in kept.reason
    found = after(0.69)
    assert (found.action, found.endpoint, found.expected_cost, found.expected_latency_s) == (
        "escalate",
        "cloud",
        0.002,
        1.0,
    )
    assert found.reason == (
        "confidence 0.690 is below 0.700 (the threshold of the configuration); cloud is asked"
    )


def test_without_a_threshold_an_answer_is_kept_where_it_is_worth_more_than_asking():
    policy = Policy(cost_weight=50, latency_weight=0.1)  # 0.9 - 0.1 - 0.1 = 0.7
    assert utility(CLOUD, policy) == pytest.approx(0.7)
    assert after(0.71, policy=policy).action == "keep"
    found = after(0.69, policy=policy)
    assert (found.action, found.threshold) == ("escalate", pytest.approx(0.7))
    assert "what asking cloud is worth" in found.reason
    unknown = after(0.69, policy=Policy(), targets=(replace(CLOUD, quality=None),))
    assert unknown.threshold == DEFAULT_THRESHOLD


def test_the_best_of_several_is_asked_by_utility():
    near = Target("near", True, quality=0.8, cost=0.0, latency_s=0.2)
    far = Target("far", True, quality=0.95, cost=0.01, latency_s=3.0)
    larger = Target("larger", True, place="device", quality=0.75, latency_s=2.0, energy_j=5.0)
    targets = (near, far, larger)
    assert after(0.1, targets=targets).endpoint == "far"
    assert after(0.1, targets=targets, policy=Policy(latency_weight=0.1)).endpoint == "near"
    assert after(0.1, targets=targets, policy=Policy(cost_weight=20)).endpoint == "near"
    assert after(0.1, targets=(far, larger), online=False).endpoint == "larger"
    unknown = replace(larger, quality=None)
    assert "its quality is not known" in after(0.1, targets=(unknown,)).reason
    assert "the best of 3" in after(0.1, targets=targets).reason


def test_equal_targets_are_chosen_by_price_then_speed_then_name():
    dear, cheap = replace(CLOUD, name="a", cost=0.01), replace(CLOUD, name="b")
    slow = replace(CLOUD, name="z", latency_s=5.0)
    assert after(0.1, targets=(dear, slow, cheap)).endpoint == "b"


def test_residency_forbids_whatever_else_is_said():
    forbidden = replace(CLOUD, allowed=False, verdict="label 'health' stays at home")
    found = after(0.01, targets=(forbidden,))
    assert (found.action, found.fallback) == ("keep", True)
    assert "residency forbids it (label 'health' stays at home)" in found.reason
    assert after(0.01, targets=(forbidden,), preference="cloud").action == "keep"
    assert after(0.01, targets=(forbidden,), policy=Policy(otherwise="refuse")).action == "refuse"
    assert decide(QUERY, None, state(targets=(forbidden,), p_before=0.0)).action == "keep"


def test_a_missing_confidence_escalates_by_default_and_is_never_certain():
    for p in (None, math.nan, math.inf, -0.1, 1.1):
        found = after(p)
        assert (found.action, found.rule) == ("escalate", "uncalibrated")
    assert after(None, policy=Policy(uncalibrated="keep")).action == "keep"
    uncalibrated = decide(QUERY, AFTER, State(policy=Policy(), targets=(CLOUD,)))
    assert uncalibrated.rule == "uncalibrated"
    assert "no calibration" in uncalibrated.reason
    policy = Policy("guarantee", certificate=CERTIFICATE, uncalibrated="keep")
    assert after(None, policy=policy).action == "escalate"


def test_a_guarantee_keeps_what_the_certificate_says():
    policy = Policy("guarantee", certificate=CERTIFICATE, certified_calibration="c1")
    assert after(0.8, policy=policy).action == "keep"
    found = after(0.79, policy=policy)
    assert (found.action, found.rule) == ("escalate", "guarantee")
    assert "at most 0.1 wrong of the kept answers, with confidence 0.9" in found.reason
    assert after(0.79, policy=policy, targets=()).action == "refuse"
    assert after(0.79, policy=replace(policy, otherwise="keep"), targets=()).fallback


def test_what_is_not_certified_is_escalated_and_says_so():
    nothing = Certificate("selective", 0.1, 0.1, None, 10, reason="10 rows, but at least 22 are needed")
    policy = Policy("guarantee", certificate=nothing)
    for evidence in (None, DURING, AFTER):
        found = decide(QUERY, evidence, state(0.999, policy=policy, p_before=0.999))
        assert (found.action, found.rule) == ("escalate", "nothing-certified")
    assert "at least 22 are needed" in after(1.0, policy=policy).reason
    assert after(1.0, policy=policy, targets=()).action == "refuse"
    other = Policy("guarantee", certificate=CERTIFICATE, certified_calibration="c2")
    found = after(0.99, policy=other)
    assert (found.action, found.rule) == ("escalate", "nothing-certified")
    assert "the certificate is about the calibration c2" in found.reason


def test_a_quality_is_kept_at_the_lowest_cost():
    assert after(0.91, policy=Policy("quality", accuracy=0.9)).action == "keep"
    assert after(0.89, policy=Policy("quality", accuracy=0.9)).action == "escalate"
    looser = Certificate("overall", 0.1, 0.1, 0.6, 500, 400, 30, 0.09)
    assert after(0.61, policy=Policy("quality", accuracy=0.9, certificate=looser)).action == "keep"


def test_a_budget_that_is_spent_escalates_nothing_more():
    spent = Remaining("money", "cost", 0.001, 0.5)
    found = after(0.1, budgets=(spent,))
    assert (found.action, found.fallback) == ("keep", True)
    assert "budget 'money' has 0.001 of 0.5 left, it needs 0.002" in found.reason
    free = Target("larger", True, place="device", quality=0.8)
    assert after(0.1, budgets=(spent,), targets=(CLOUD, free)).endpoint == "larger"
    tight = Remaining("energy", "joules", 1.0, 10.0)
    assert after(0.1, budgets=(tight,), targets=(replace(free, energy_j=2.0),)).fallback


def test_pacing_leaves_the_budget_to_larger_gains():
    paced = (Remaining("share", "queries", 5, 20, 0.6), Remaining("money", "cost", 1, 2, 0.3))
    assert after(0.31, budgets=paced).action == "keep"  # gain 0.59
    found = after(0.29, budgets=paced)
    assert (found.action, found.rule) == ("escalate", "pacing")
    assert found.threshold == pytest.approx(0.3)
    assert "budget 'share' has 5 of 20 left, spent on gains of 0.600 or more" in found.reason
    assert after(0.0, budgets=(replace(paced[0], least_gain=math.inf),)).action == "keep"
    assert after(0.69, budgets=(replace(paced[0], least_gain=-math.inf),)).action == "escalate"


def test_what_a_query_may_cost_and_how_long_it_may_take_bind_the_choice():
    dear = replace(QUERY, max_cost=0.001)
    assert "costs up to 0.002, and the query may cost 0.001" in after(0.1, dear).reason
    hurried = replace(QUERY, deadline_s=2.0)
    assert after(0.1, hurried, elapsed_s=0.5).action == "escalate"
    late = after(0.1, hurried, elapsed_s=1.5)
    assert (late.action, late.fallback) == ("keep", True)
    assert "needs up to 1.00 s, and 0.50 s are left" in late.reason
    unsteady = replace(CLOUD, latency_high_s=4.0)
    assert after(0.1, hurried, targets=(unsteady,)).fallback


def test_without_a_network_a_query_waits_if_it_may():
    found = after(0.1, online=False)
    assert (found.action, found.rule, found.endpoint) == ("queue", "offline", "cloud")
    assert "there is no network" in found.reason
    assert after(0.1, targets=(replace(CLOUD, reachable=False),)).action == "queue"
    assert after(0.1, metered=True).action == "escalate"
    assert after(0.1, metered=True, policy=Policy(metered=False)).action == "queue"
    assert after(0.1, online=False, policy=Policy(queue=False)).fallback
    assert after(0.1, online=False, policy=Policy(max_queue=3), queued=3).fallback
    soon = replace(QUERY, deadline_s=10.0)
    assert after(0.1, soon, online=False).fallback  # nobody knows when the network is back
    back = (replace(CLOUD, retry_s=5.0),)
    assert after(0.1, soon, online=False, targets=back).expected_latency_s == 6.0
    assert after(0.1, soon, online=False, targets=back, elapsed_s=5.0).fallback
    home = (replace(CLOUD, allowed=False),)
    assert after(0.1, online=False, targets=home).action == "keep"
    assert after(0.1, replace(QUERY, max_cost=0.0), online=False).fallback


def test_the_users_preference_wins_over_the_confidence():
    assert after(0.0, preference="device").action == "keep"
    assert after(1.0, preference="cloud").action == "escalate"
    assert decide(QUERY, None, state(preference="cloud")).rule == "preference-cloud"
    assert decide(QUERY, DURING, state(preference="device", stop=FakeStop(0.0))).action == "keep"


def before(p, query=QUERY, **changes):
    return decide(query, None, state(p_before=p, **changes))


def test_before_generation_a_hopeless_attempt_is_skipped():
    assert before(None).rule == "try-device"
    assert before(0.5).action == "keep"
    found = before(0.01)
    assert (found.action, found.rule) == ("escalate", "hopeless")
    assert "a chance of 0.010, below 0.05" in found.reason
    assert before(0.01, online=False).action == "keep"
    slow = Device(latency_s=4.0)
    dear = Policy(threshold=0.7, latency_weight=0.1)
    found = before(0.3, device=slow, policy=dear)
    assert (found.action, found.rule) == ("escalate", "not-worth-trying")
    assert before(0.3, device=replace(slow, latency_s=0.1), policy=dear).action == "keep"
    assert before(0.69, device=replace(slow, latency_s=0.1), policy=dear).action == "keep"


def test_before_generation_trying_is_worth_what_its_kept_answers_are():
    device, policy = Device(latency_s=4.0), Policy(threshold=0.7, latency_weight=0.01)
    blind = before(0.6, device=device, policy=policy, resolution=0.0)  # the answer will tell nothing new
    assert (blind.action, blind.rule) == ("escalate", "not-worth-trying")
    assert "costs 0.040 and saves 0.000 on average" in blind.reason
    assert before(0.6, device=device, policy=policy, resolution=0.5).action == "keep"
    assert before(0.6, device=device, policy=policy, resolution=math.nan).action == "keep"
    slow = replace(device, latency_s=25.0)
    for rho in (0.0, 0.5, 1.0):  # likely right, and still not worth 25 s
        assert before(0.75, device=slow, policy=policy, resolution=rho).rule == "not-worth-trying"
    saving = Remaining("money", "cost", 5.0, 5.0, least_gain=math.inf)
    paced = replace(policy, threshold=None)
    assert before(0.1, device=slow, policy=paced).rule == "not-worth-trying"
    for p in (0.01, 0.1, 0.9):  # what the pacing saves for others is not spent to save time
        assert before(p, device=slow, policy=paced, budgets=(saving,)).action == "keep"


def test_before_generation_other_objectives_weigh_the_price_of_asking():
    device = Device(latency_s=1.0)
    strict = Policy(objective="quality", accuracy=0.9, latency_weight=0.1)
    assert before(0.8, device=device, policy=strict, resolution=1.0).rule == "not-worth-trying"
    assert before(0.8, device=device, policy=replace(strict, cost_weight=100.0), resolution=1.0).rule == (
        "try-device"
    )
    assert before(0.8, device=device, policy=replace(strict, latency_weight=0.0)).rule == "try-device"


def test_before_generation_the_deadline_decides_between_one_attempt_and_two():
    hurried = replace(QUERY, deadline_s=3.0)
    assert before(0.3, hurried, device=Device(latency_s=1.0)).action == "keep"
    found = before(0.3, hurried, device=Device(latency_s=2.5))
    assert (found.action, found.rule) == ("escalate", "deadline")
    assert "there is time for one attempt" in found.reason
    assert before(0.9, hurried, device=Device(latency_s=2.5)).action == "keep"
    assert before(0.9, hurried, device=Device(latency_s=2.5, waiting=1)).rule == "deadline"


def test_a_hot_or_empty_device_does_not_try_while_another_can_answer():
    warm = Policy(threshold=0.7, max_temperature_c=80, min_battery=0.2)
    assert before(0.9, policy=warm, device=Device(temperature_c=85)).rule == "device-hot"
    assert before(0.9, policy=warm, device=Device(temperature_c=85), targets=()).action == "keep"
    low = Device(battery=0.1, charging=False)
    assert before(0.9, policy=warm, device=low).rule == "battery-low"
    assert before(0.9, policy=warm, device=replace(low, charging=True)).action == "keep"


def test_an_answer_that_cannot_be_kept_is_stopped():
    found = decide(QUERY, DURING, state(stop=FakeStop(0.6)))
    assert (found.action, found.rule) == ("escalate", "early-stop-exact")
    assert "after 3 tokens it can reach 0.6" in found.reason
    assert decide(QUERY, DURING, state(stop=FakeStop(0.6, exact=False))).rule == "early-stop"
    assert decide(QUERY, DURING, state(stop=FakeStop(0.8))).rule == "going-on"
    assert decide(QUERY, DURING, state()).rule == "going-on"


CHOICES = {
    "p": st.one_of(st.none(), st.floats(0, 1), st.floats()),
    "objective": st.sampled_from(["budget", "quality", "guarantee"]),
    "moment": st.sampled_from([None, DURING, AFTER]),
}


@st.composite
def states(draw):
    share = st.floats(0, 1)
    amount = st.floats(0, 10)
    objective = draw(CHOICES["objective"])
    threshold = draw(st.one_of(st.none(), share))
    certificate = Certificate("selective", 0.1, 0.1, threshold, 100, reason="too few rows", bound=0.1)
    policy = Policy(
        objective,
        threshold=draw(st.one_of(st.none(), share)),
        accuracy=draw(share) if objective == "quality" else None,
        certificate=certificate if objective == "guarantee" else None,
        cost_weight=draw(amount),
        latency_weight=draw(amount),
        uncalibrated=draw(st.sampled_from(["escalate", "keep"])),
        otherwise=draw(st.sampled_from([None, "keep", "refuse"])),
        queue=draw(st.booleans()),
        skip_below=draw(share),
        max_temperature_c=draw(st.one_of(st.none(), st.floats(20, 90))),
        min_battery=draw(share),
        metered=draw(st.booleans()),
    )
    target = st.builds(
        Target,
        st.sampled_from(["a", "b", "c"]),
        st.booleans(),
        place=st.sampled_from(["cloud", "device"]),
        quality=st.one_of(st.none(), share),
        cost=amount,
        latency_s=st.one_of(st.none(), amount),
        sent_bytes=amount,
        energy_j=amount,
        reachable=st.booleans(),
        retry_s=st.one_of(st.none(), amount),
    )
    budget = st.builds(
        Remaining,
        st.just("x"),
        st.sampled_from(["queries", "cost", "bytes", "joules"]),
        st.floats(0, 5),
        st.just(5.0),
        st.one_of(st.just(-math.inf), st.just(math.inf), st.floats(-1, 1)),
    )
    return State(
        policy=policy,
        targets=tuple(draw(st.lists(target, max_size=3))),
        p_before=draw(CHOICES["p"]),
        budgets=tuple(draw(st.lists(budget, max_size=2))),
        device=Device(
            latency_s=draw(st.one_of(st.none(), amount)),
            waiting=draw(st.integers(0, 3)),
            temperature_c=draw(st.one_of(st.none(), st.floats(0, 100))),
            battery=draw(st.one_of(st.none(), share)),
            charging=draw(st.booleans()),
        ),
        preference=draw(st.sampled_from(["auto", "auto", "auto", "device", "cloud"])),
        elapsed_s=draw(amount),
        online=draw(st.booleans()),
        metered=draw(st.booleans()),
        stop=draw(st.one_of(st.none(), st.builds(FakeStop, share, st.booleans()))),
    )


QUERIES = st.builds(
    lambda deadline, cost: replace(QUERY, deadline_s=deadline, max_cost=cost),
    st.one_of(st.none(), st.floats(0, 20)),
    st.one_of(st.none(), st.floats(0, 10)),
)


@given(QUERIES, CHOICES["moment"], CHOICES["p"], states())
@settings(max_examples=300, deadline=None)
def test_a_decision_is_total_and_never_sends_where_it_must_not(query, evidence, p, world):
    world = replace(world, confidence=sure(p))
    found = decide(query, evidence, world)
    assert found == decide(query, evidence, world)
    assert found.action in ("keep", "escalate", "queue", "refuse")
    assert found.rule
    assert found.reason
    if found.action in ("escalate", "queue"):
        named = [t for t in world.targets if t.name == found.endpoint and t.allowed]
        assert named
        cheap = [t for t in named if query.max_cost is None or t.cost <= query.max_cost]
        assert cheap
        if found.action == "escalate":
            assert any(
                all(
                    {
                        "queries": 1.0 if t.place == "cloud" else 0.0,
                        "cost": t.cost if t.place == "cloud" else 0.0,
                        "bytes": t.sent_bytes if t.place == "cloud" else 0.0,
                        "joules": t.energy_j,
                    }[b.unit]
                    <= b.left
                    for b in world.budgets
                )
                for t in cheap
            )
    else:
        assert found.endpoint is None


@given(QUERIES, st.sampled_from([None, AFTER]), st.floats(0, 1), st.floats(0, 1), states())
@settings(max_examples=300, deadline=None)
def test_a_surer_answer_is_never_treated_worse(query, evidence, one, other, world):
    low, high = sorted((one, other))

    def kept(p):
        told = {"p_before": p} if evidence is None else {"confidence": sure(p)}
        return decide(query, evidence, replace(world, **told))

    less, more = kept(low), kept(high)
    if less.action == "keep" and not less.fallback:
        assert more.action == "keep"
        assert not more.fallback
    if less.action == "keep":
        assert more.action == "keep"
    if more.action != "keep":
        assert (less.action, less.endpoint) == (more.action, more.endpoint)


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"objective": "luck"}, "objective is 'luck', not one of budget, quality, guarantee"),
        ({"threshold": 1.5}, "threshold is 1.5: it is a share from 0 to 1"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"cost_weight": -1}, "cost_weight is -1: it is a finite number from 0 on"),
        ({"objective": "quality"}, "objective 'quality' needs accuracy"),
        ({"objective": "guarantee"}, "objective 'guarantee' needs a certificate: edge-runtime certify"),
        ({"otherwise": "pray"}, "otherwise is 'pray', not one of keep, refuse"),
        ({"max_queue": -1}, "max_queue is -1"),
        ({"treshold": 0.5}, "no setting 'treshold'"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(settings_, said):
    with pytest.raises(PolicyError, match=said):
        policy_from(settings_)


def test_settings_that_are_not_given_keep_their_defaults():
    assert policy_from({"threshold": None, "queue": False}) == Policy(queue=False)
