"""Budgets: no window ever holds more than its limit, and the hardest queries get what there is."""

import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.budget import FULL, RESERVE, Budgets, Limit, Pacer
from offload.errors import PolicyError
from offload.policy import Policy, State, Target
from offload.rolling import BUCKETS, RollingAmount, RollingShare
from offload.router import decide
from offload.types import Confidence, Evidence, Message, Query

QUERY = Query("q", (Message("user", "?"),))
AFTER = Evidence(1, 1, -0.1, -0.1, -0.1, finish_reason="stop")
CLOUD = Target("cloud", True, cost=0.3, sent_bytes=100)


NOTHING = {"now": None, "entries": []}


def most_in_a_window(spendings, window):
    """The largest sum over half-open windows (t − window, t]: those that end at a spending suffice."""
    return max(
        (math.fsum(x for at, x in spendings if t - window < at <= t) for t, _ in spendings), default=0.0
    )


@given(
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 6)), max_size=60),
    st.floats(0.5, 10),
    st.floats(1, 60),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_window_of_time_holds_more_than_the_limit(steps, limit, window, back):
    ledger, now, real, spent = RollingAmount(limit, window), 1e6, -math.inf, []
    for gap, amount in steps:
        now += gap if not back or gap < 20 else -gap  # a clock that is set back now and then
        real = max(real, now)
        if ledger.spend(now, amount):
            spent.append((real, amount))
    assert most_in_a_window(spent, window) <= limit * (1 + 1e-12)


@given(st.lists(st.booleans(), max_size=200), st.floats(0.05, 1), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_no_run_of_queries_holds_more_escalations_than_its_share(wishes, share, window):
    if math.floor(share * window + 1e-9) == 0:
        return
    counter, done = RollingShare(share, window), []
    for wish in wishes:
        escalated = wish and counter.left() >= 1
        counter.record(escalated)
        done.append(escalated)
    most = max((sum(done[i : i + window]) for i in range(max(1, len(done) - window + 1))), default=0)
    assert most <= math.floor(share * window + 1e-9)
    if all(wishes) and len(wishes) >= window:  # and what is allowed is not withheld
        assert most == math.floor(share * window + 1e-9)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 30)), min_size=1, max_size=80),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.integers(0, 1_000),
)
@settings(max_examples=40, deadline=None)
def test_the_router_never_exceeds_a_budget_over_any_window(queries, share, seed):
    rng = np.random.default_rng(seed)
    budgets = Budgets(
        [
            Limit("share", "queries", share, 20),
            Limit("money", "cost", 1.0, 60.0),
            Limit("net", "bytes", 250, 30.0),
        ]
    )
    now, done, money, traffic = 0.0, [], [], []
    for p, gap in queries:
        now += gap
        target = replace(CLOUD, cost=float(rng.uniform(0, 0.5)), sent_bytes=float(rng.integers(0, 200)))
        state = State(
            policy=Policy(threshold=0.9),
            targets=(target,),
            confidence=Confidence(p, None, None),
            budgets=budgets.remaining(now),
        )
        budgets.observe(now, 1 - p, {"cost": target.cost, "bytes": target.sent_bytes})
        escalated = decide(QUERY, AFTER, state).action == "escalate"
        if escalated:
            assert budgets.reserve(now, target).refused is None
            money.append((now, target.cost))
            traffic.append((now, target.sent_bytes))
        else:
            budgets.passed()
        done.append(escalated)
    assert most_in_a_window(money, 60.0) <= 1.0 + 1e-12
    assert most_in_a_window(traffic, 30.0) <= 250
    assert max(sum(done[i : i + 20]) for i in range(len(done))) <= math.floor(share * 20 + 1e-9)


def run(n, share, seed, window=100, paced=True):
    """Escalated queries of a stream of confidences; unpaced: all below 0.9 while there is room."""
    rng = np.random.default_rng(seed)
    budgets = Budgets([Limit("share", "queries", share, window)])
    p = rng.random(n)
    done = np.zeros(n, bool)
    for i in range(n):
        (left,) = budgets.remaining(float(i))
        state = State(
            policy=Policy(threshold=0.9),
            targets=(CLOUD,),
            confidence=Confidence(float(p[i]), None, None),
            budgets=(left if paced else replace(left, least_gain=-math.inf),),
        )
        budgets.observe(float(i), 1 - p[i])
        done[i] = decide(QUERY, AFTER, state).action == "escalate"
        if done[i]:
            assert budgets.reserve(float(i), CLOUD).refused is None
        else:
            budgets.passed()
    return p, done


def test_pacing_spends_most_of_the_share_on_the_hardest_queries_at_all_times():
    p, done = run(3000, 0.2, seed=1)
    late = slice(300, None)
    assert 0.16 <= done[late].mean() <= 0.2
    hardest = p < 0.04
    assert done[late][hardest[late]].mean() > 0.9
    assert done[late][p[late] > 0.35].mean() < 0.01
    _, unpaced = run(3000, 0.2, seed=1, paced=False)
    assert unpaced[late][hardest[late]].mean() < 0.3  # first come, first served: the hard ones starve


def test_pacing_keeps_something_for_a_burst_of_hard_queries():
    rng = np.random.default_rng(2)
    budgets = Budgets([Limit("share", "queries", 0.2, 100)])
    p = np.concatenate([rng.uniform(0.3, 1, 400), rng.uniform(0, 0.05, 5), rng.uniform(0.3, 1, 100)])
    served = 0
    for i, x in enumerate(p):
        (left,) = budgets.remaining(float(i))
        budgets.observe(float(i), 1 - x)
        if 1 - x >= left.least_gain and left.left >= 1:
            budgets.reserve(float(i), CLOUD)
            served += i in range(400, 405)
        else:
            budgets.passed()
    assert served == 5


def test_money_is_paced_by_what_it_pays_for():
    """0.5 a day for 1,000 queries of 0.005: a tenth of them, spread over the day, the hardest ones."""
    rng = np.random.default_rng(3)
    day = 86_400.0
    target = replace(CLOUD, cost=0.005)
    budgets = Budgets([Limit("money", "cost", 0.5, day)])
    p, at = rng.random(4000), np.sort(rng.uniform(0, 4 * day, 4000))
    done = np.zeros(4000, bool)
    for i in range(4000):
        (left,) = budgets.remaining(float(at[i]))
        budgets.observe(float(at[i]), 1 - p[i], {"cost": target.cost})
        if 1 - p[i] >= left.least_gain and left.left >= target.cost:
            assert budgets.reserve(float(at[i]), target).refused is None
            done[i] = True
        else:
            budgets.passed()
    later = at > day
    assert 0.08 <= done[later].mean() <= 0.1
    assert done[later & (p < 0.02)].mean() > 0.95
    quarters = [done[later & (at % day // (day / 4) == q)].mean() for q in range(4)]
    assert min(quarters) > 0.06


def paced(budgets, gains, times, cost=1.0):
    """Which of a stream of queries are escalated under budgets of money alone."""
    target, done = replace(CLOUD, cost=cost), np.zeros(len(gains), bool)
    for i, (gain, at) in enumerate(zip(gains, times, strict=True)):
        budgets.observe(float(at), float(gain), {"cost": cost})
        (left,) = budgets.remaining(float(at))
        done[i] = gain >= left.least_gain and left.left >= cost
        if done[i]:
            assert budgets.reserve(float(at), target).refused is None
        else:
            budgets.passed()
    return done


@pytest.mark.parametrize("per_window", [25, 100, 1000])
def test_a_history_of_many_windows_does_not_count_as_one(per_window):
    """A fifth of the queries is paid for, however many of the windows before are remembered."""
    rng = np.random.default_rng(5)
    budgets = Budgets([Limit("money", "cost", per_window / 5, 100.0)])
    times = np.cumsum(rng.exponential(100.0 / per_window, 3 * per_window + 400))
    done = paced(budgets, rng.random(len(times)), times)
    assert 0.15 <= done[times > 100].mean() <= 0.2


def test_the_first_window_is_spent_evenly_from_a_cold_start():
    fifths = np.zeros(5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        budgets = Budgets([Limit("money", "cost", 20.0, 6000.0)])
        times = np.cumsum(rng.exponential(60.0, 100))
        fifths += paced(budgets, rng.random(100), times).reshape(5, 20).mean(axis=1) / 20
    assert fifths.max() <= 0.24
    assert fifths.min() >= 0.13
    assert fifths.mean() >= 0.16


def test_a_burst_on_the_first_day_gets_something_and_leaves_most():
    rng = np.random.default_rng(6)
    budgets = Budgets([Limit("money", "cost", 100.0, 86_400.0)])
    done = paced(budgets, rng.random(40), np.arange(40) * 15.0)
    assert 2 <= done.sum() <= 10


def test_a_pause_is_not_taken_for_the_end_of_all_queries():
    """The first queries after some silent windows do not get what the window was meant for."""
    rng = np.random.default_rng(7)
    budgets = Budgets([Limit("money", "cost", 20.0, 100.0)])
    before = np.arange(800) * 1.0
    after = before[-1] + 250 + np.arange(100)
    done = paced(budgets, rng.random(900), np.concatenate([before, after]))[800:]
    assert done[:20].mean() <= 0.5
    assert done[50:].any()


def test_the_shares_window_is_released_as_it_fills():
    rng = np.random.default_rng(8)
    budgets, done = Budgets([Limit("share", "queries", 0.2, 100)]), []
    for i, gain in enumerate(rng.uniform(0.9, 1.0, 100)):  # all of them hard
        (left,) = budgets.remaining(float(i))
        budgets.observe(float(i), float(gain))
        done.append(bool(gain >= left.least_gain))
        if done[-1]:
            budgets.reserve(float(i), CLOUD)
        else:
            budgets.passed()
    assert 1 <= sum(done[:20]) <= 8
    assert sum(done[80:]) >= 2
    assert Budgets([Limit("all", "queries", 1.0, 10)]).remaining(0.0)[0].least_gain == -math.inf


def test_a_restart_does_not_begin_the_pacing_anew():
    rng = np.random.default_rng(9)
    limits = [Limit("money", "cost", 20.0, 100.0)]
    old, new = Budgets(limits), Budgets(limits)
    paced(old, rng.random(300), np.arange(300) * 1.0)
    new.restore(json.loads(json.dumps(old.to_dict())))
    later = rng.random(100), 300.0 + np.arange(100)
    assert (paced(new, *later) == paced(old, *later)).all()


def test_a_ledger_stays_small_and_errs_on_the_safe_side():
    ledger = RollingAmount(1e9, 100.0)
    for i in range(20_000):
        assert ledger.spend(i * 0.01, 1.0)
    assert len(ledger.to_dict()["entries"]) <= BUCKETS + 1
    exact = 100.0 / 0.01
    assert exact <= ledger.spent(199.99) <= exact * (1 + 2 / BUCKETS)


def test_what_was_reserved_too_much_is_given_back_in_its_own_time():
    budgets = Budgets([Limit("money", "cost", 1.0, 100.0)])
    first = budgets.reserve(0.0, replace(CLOUD, cost=0.8))
    assert budgets.reserve(50.0, replace(CLOUD, cost=0.3)).refused == "money"
    budgets.settle(first, {"cost": 0.1})
    second = budgets.reserve(50.0, replace(CLOUD, cost=0.3))
    assert second.refused is None
    assert budgets.remaining(50.0)[0].left == pytest.approx(0.6)
    budgets.settle(second, {"cost": 0.9})  # it took more than it said: counted all the same
    assert budgets.remaining(60.0)[0].left == 0.0
    assert budgets.remaining(120.0)[0].left == pytest.approx(0.1)
    budgets.settle(first, {"cost": 0.0})  # long gone
    assert budgets.remaining(120.0)[0].left == pytest.approx(0.1)


def test_a_reservation_takes_from_all_budgets_or_from_none():
    budgets = Budgets([Limit("money", "cost", 1.0, 100.0), Limit("net", "bytes", 150.0, 100.0)])
    assert budgets.reserve(0.0, CLOUD).refused is None
    assert budgets.reserve(1.0, CLOUD).refused == "net"
    assert budgets.remaining(1.0)[0].left == pytest.approx(0.7)


def test_threads_together_never_exceed_a_budget():
    budgets = Budgets([Limit("share", "queries", 0.5, 1000), Limit("money", "cost", 30.0, 1e6)])
    granted = []

    def ask():
        for _ in range(100):
            if budgets.reserve(0.0, replace(CLOUD, cost=0.1)).refused is None:
                granted.append(0.1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert math.fsum(granted) == pytest.approx(30.0, abs=0.11)
    assert math.fsum(granted) <= 30.0


def test_a_model_on_the_device_spends_energy_alone():
    budgets = Budgets([Limit("share", "queries", 0.5, 2), Limit("power", "joules", 10.0, 60.0)])
    larger = Target("larger", True, place="device", energy_j=4.0)
    for at in (0.0, 1.0):
        assert budgets.reserve(at, larger).refused is None
    assert [b.left for b in budgets.remaining(2.0)] == [1.0, 2.0]
    assert budgets.reserve(2.0, larger).refused == "power"


def test_a_restart_forgets_nothing():
    limits = [Limit("share", "queries", 0.5, 10), Limit("money", "cost", 1.0, 100.0)]
    old, new = Budgets(limits), Budgets(limits)
    for at in range(3):
        old.reserve(float(at), CLOUD)
    old.passed()
    new.restore(json.loads(json.dumps(old.to_dict())))
    assert new.remaining(3.0) == old.remaining(3.0)
    assert new.reserve(4.0, CLOUD).refused == old.reserve(4.0, CLOUD).refused == "money"


@pytest.mark.parametrize(
    "record",
    [
        {"amounts": {"money": {"entries": [[1, -5]], "now": 1}}},
        {"amounts": {"money": {"entries": [[2, 1], [1, 1]], "now": 2}}},
        {"amounts": {"money": {"entries": [["x", 1]], "now": 2}}},
        {"amounts": {"money": {"now": 2}}},
        {"amounts": 3},
        {"shares": {"share": {"last": [2]}}},
        {"shares": {"share": {}}},
        {"asked": {"money": {"begun": 1}}},
        {"asked": {"money": {"begun": math.nan, "last": NOTHING, "all": NOTHING}}},
        {"demand": {"money": -1}},
        {"demand": 3},
        {"gains": ["x"]},
        {"gains": 3},
    ],
)
def test_a_damaged_record_is_refused(record):
    budgets = Budgets([Limit("share", "queries", 0.5, 10), Limit("money", "cost", 1.0, 100.0)])
    with pytest.raises(PolicyError, match="damaged"):
        budgets.restore(record)


def test_impossible_budgets_are_refused():
    with pytest.raises(PolicyError, match="Widen the window to 200 queries or more"):
        RollingShare(0.005, 100)
    with pytest.raises(PolicyError, match="from 0 to 1"):
        RollingShare(1.5, 100)
    with pytest.raises(PolicyError, match="the window above 0"):
        RollingAmount(1.0, 0.0)
    with pytest.raises(PolicyError, match="a budget of nan"):
        RollingAmount(math.nan, 10.0)
    with pytest.raises(PolicyError, match="cannot be spent"):
        RollingAmount(1.0, 10.0).spend(0.0, math.nan)
    with pytest.raises(PolicyError, match="two budgets have the same name"):
        Budgets([Limit("a", "cost", 1, 1), Limit("a", "bytes", 1, 1)])
    with pytest.raises(PolicyError, match=r"less than the 0\.3 that one query to 'cloud'"):
        Budgets([Limit("money", "cost", 0.1, 60)]).check([CLOUD, replace(CLOUD, name="dear", cost=0.5)])
    full = RollingShare(0.5, 2)
    full.record(True)
    with pytest.raises(PolicyError, match="no more may be"):
        full.record(True)
    assert RollingShare(0.29, 100).limit == 29  # 0.29 * 100 is 28.999999999999996


def test_the_pacers_quantile_is_that_of_the_recent_gains():
    pacer, rng = Pacer(recent=50), np.random.default_rng(4)
    gains = rng.random(500)
    for gain in gains:
        pacer.observe(float(gain))
    pacer.observe(math.nan)
    assert len(pacer) == 50
    recent = np.sort(gains[-50:])
    sustained = 10 / RESERVE  # the level at which the share itself is let through
    assert pacer.least_gain(0.2, sustained, 100) == recent[-10]
    assert pacer.least_gain(0.2, sustained / 2, 100) == recent[-5]
    assert pacer.least_gain(0.2, 100, 100) == recent[-math.floor(0.2 * FULL * 50)]
    assert pacer.least_gain(1.0, 50, 100) == -math.inf
    assert pacer.least_gain(0.2, 0, 100) == math.inf
    assert Pacer().least_gain(0.2, sustained, 100) == pytest.approx(0.8)
    assert len(Pacer([0.1] * 30)) == 30
