"""Drift: the statistic's mean while nothing changes, false alarms against their bound, changes found."""

from __future__ import annotations

import json
import math
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import CalibrationError
from offload.learn.drift import (
    CalibrationMonitor,
    Drift,
    DriftMonitor,
    Reference,
    _Bets,
    _p_value,
    ks_statistic,
    psi,
)
from offload.types import Evidence

ONE = ("mean_logprob",)


def answer(logprob: float) -> Evidence:
    return Evidence(
        n=9,
        n_scored=9,
        sum_logprob=9 * logprob,
        mean_logprob=logprob,
        min_logprob=3 * logprob,
        mean_entropy=-logprob,
        max_entropy=-2 * logprob,
        mean_margin=1.0,
    )


def answers(rng: np.random.Generator, n: int, shift: float = 0.0, spread: float = 1.0) -> list[Evidence]:
    return [answer(-math.exp(-2 + spread * z + shift)) for z in rng.standard_normal(n)]


def monitor(seed: int, every: int = 20_000, rows: int = 300) -> tuple[DriftMonitor, np.random.Generator]:
    rng = np.random.default_rng(seed)
    reference = Reference.of(answers(rng, rows), rng, calibration_id="cal-1", signals=ONE)
    return DriftMonitor(reference, rng, every), rng


def delay(watch: DriftMonitor, stream: list[Evidence | None]) -> int | None:
    return next((k for k, e in enumerate(stream, 1) if watch.update(e)), None)


def test_p_values_are_uniform_for_every_distribution_even_with_a_reference_of_three() -> None:
    rng = np.random.default_rng(0)
    for draw in (rng.standard_normal, lambda n: rng.integers(0, 3, n).astype(float)):
        found = []
        for _ in range(300):
            bag = array("d", sorted(draw(3)))
            found += [_p_value(bag, float(v), float(rng.random())) for v in draw(12)]
        counts = np.histogram(found, bins=10, range=(0, 1))[0]
        expected = len(found) / 10
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < 27.9, "beyond the .999 quantile of chi-square with 9 degrees of freedom"


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 1))
def test_a_p_value_is_the_rank_that_counting_gives(values: list[float], tie: float) -> None:
    bag = array("d", sorted(values[:-1]))
    below = sum(v < values[-1] for v in values)
    equal = sum(v == values[-1] for v in values)
    assert _p_value(bag, values[-1], tie) == pytest.approx((below + tie * equal) / len(values))
    assert list(bag) == sorted(values)


def test_the_statistic_grows_by_one_an_answer_on_average_while_nothing_changes() -> None:
    # Exactly: its mean over all values of x on a symmetric grid, from any state.
    bets = _Bets(1)
    for x in (0.3, -0.8, 0.9, 0.1):
        bets.update((x,))
    before = bets.to_dict()
    totals = []
    for x in np.linspace(-1, 1, 41):
        again = _Bets(1)
        again.restore(before)
        totals.append(again.update((float(x),)))
    assert np.mean(totals) == pytest.approx(sum(before["capital"]) + 1)


def test_false_alarms_are_as_rare_as_promised() -> None:
    runs, horizon, every = 120, 150, 600
    alarms = 0
    for seed in range(runs):
        watch, rng = monitor(seed, every, rows=60)
        alarms += delay(watch, list(answers(rng, horizon))) is not None
    promised = horizon / every
    assert alarms / runs <= promised + 3 * math.sqrt(promised * (1 - promised) / runs)


@pytest.mark.parametrize(("shift", "spread", "within"), [(1.0, 1.0, 90), (-1.0, 1.0, 90), (0.0, 3.0, 200)])
def test_a_change_is_found_soon_and_described(shift: float, spread: float, within: int) -> None:
    found = []
    for seed in range(1, 6):
        watch, rng = monitor(seed)
        assert delay(watch, list(answers(rng, 300))) is None
        found.append(delay(watch, list(answers(rng, 600, shift, spread))) or 10_000)
    assert np.median(found) <= within
    assert watch.alarm is not None
    assert watch.alarm.signal == "mean_logprob"
    assert abs(watch.alarm.since - 300) < 60
    assert watch.alarm.ks is not None
    assert watch.alarm.ks > 0.2
    for part in ("has drifted", "calibration cal-1", "`edge-runtime calibrate`"):
        assert part in watch.alarm.message


def test_evidence_that_disappears_is_drift_too() -> None:
    watch, rng = monitor(1)
    stream = [None if rng.random() < 0.5 else e for e in answers(rng, 300)]
    assert delay(watch, stream) is not None
    assert watch.alarm is not None
    assert "missing more often" in watch.alarm.message


def test_an_alarm_stays() -> None:
    watch, rng = monitor(2)
    delay(watch, list(answers(rng, 300, 2.0)))
    alarm = watch.alarm
    assert isinstance(alarm, Drift)
    assert watch.update(answer(-0.1)) is alarm


def test_a_watch_goes_on_after_a_restart() -> None:
    watch, rng = monitor(3)
    for e in [*answers(rng, 50), None]:
        watch.update(e)
    state = json.loads(json.dumps(watch.to_dict()))
    again = DriftMonitor.from_dict(state, np.random.default_rng(9))
    watch.rng = np.random.default_rng(9)
    for e in answers(rng, 100, 1.0):
        watch.update(e)
        again.update(e)
    assert again.alarm == watch.alarm
    assert again.to_dict() == watch.to_dict()


@pytest.mark.parametrize(
    "state", [{}, {"reference": 3}, {"reference": {"samples": {}}, "false_alarm_every": "x"}]
)
def test_a_state_that_is_none_says_so(state: dict[str, object]) -> None:
    with pytest.raises(CalibrationError, match=r"state of a watch|reference for drift"):
        DriftMonitor.from_dict(state, np.random.default_rng(0))


def test_a_reference_goes_to_json_and_back() -> None:
    rng = np.random.default_rng(0)
    reference = Reference.of([*answers(rng, 30), None], rng, calibration_id="c")
    assert Reference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference
    assert Reference.of(answers(rng, 30), rng, limit=7, signals=ONE).samples["mean_logprob"].__len__() == 7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an object with 'calibration_id' and 'samples'"),
        ({"samples": {"charm": [1.0]}}, "unknown signal 'charm'"),
        ({"samples": {"mean_logprob": ["x"]}}, "samples of 'mean_logprob' must be numbers or null"),
    ],
)
def test_a_reference_that_is_wrong_says_what(value: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Reference.from_dict(value)


def test_a_reference_needs_rows_and_signals_that_exist() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(CalibrationError, match="at least one row"):
        Reference.of([], rng)
    with pytest.raises(CalibrationError, match="no signal 'charm'"):
        Reference.of(answers(rng, 3), rng, signals=("charm",))


def test_a_calibration_that_holds_rarely_alarms_and_one_that_lies_soon_does() -> None:
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(60):
        sound = CalibrationMonitor(false_alarm_every=600)
        for p in rng.random(150):
            sound.update(float(p), bool(rng.random() < p))
        alarms += sound.alarm is not None
    assert alarms / 60 <= 0.25 + 3 * math.sqrt(0.25 * 0.75 / 60)
    for power, word in ((3.0, "stated 0."), (0.3, "stated 0.")):
        lying = CalibrationMonitor("cal-2")
        for p in rng.random(600):
            lying.update(float(p), bool(rng.random() < p**power))
        assert lying.alarm is not None
        assert lying.alarm.message.startswith("calibration cal-2 no longer holds")
        assert word in lying.alarm.message


def test_a_probability_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a probability, not 1\.5"):
        CalibrationMonitor().update(1.5, True)


@given(
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20),
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20),
)
def test_the_distance_of_two_samples_is_what_counting_gives(a: list[float], b: list[float]) -> None:
    slow = max(abs(sum(x <= t for x in a) / len(a) - sum(x <= t for x in b) / len(b)) for t in a + b)
    assert ks_statistic(np.array(a), np.array(b)) == pytest.approx(slow)
    assert psi(np.array(a), np.array(b)) >= 0


def test_the_stability_index_of_equal_samples_is_zero_and_of_disjoint_ones_large() -> None:
    x = np.arange(200.0)
    assert psi(x, x) == pytest.approx(0.0)
    assert psi(x, x + 500) > 1.0
