"""Latencies come from what was observed, and high quantiles hold for the next answer."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import PolicyError
from offload.latency import CAUTION, DeviceLatency, EndpointLatency, Ewma, LengthModel, Spread


def test_a_steady_device_is_predicted_exactly():
    model = DeviceLatency()
    assert model.expected(100, 50) is None
    for prompt, new in [(100, 50), (10, 200), (300, 5)]:
        model.observe(prompt, prompt / 250.0, new, (new - 1) / 20.0)
    assert model.expected(500, 41) == pytest.approx(2.0 + 2.0)
    assert model.expected(0, 1) == 0.0


def test_a_device_that_slows_down_is_followed():
    model = DeviceLatency(prefill=250.0, decode=20.0)
    assert model.expected(250, 21) == pytest.approx(2.0)
    for _ in range(60):
        model.observe(250, 2.0, 21, 2.0)
    assert model.expected(250, 21) == pytest.approx(4.0, rel=0.01)


def test_an_endpoint_is_its_first_token_its_upload_and_its_stream():
    model = EndpointLatency(first_token_s=2.0)
    assert model.expected(1000, 50) == 2.0
    for size in (1000, 50_000, 200_000):
        model.observe(size, 0.5 + size / 100_000, 101, 1.0, upload_s=size / 100_000)
    assert model.expected(100_000, 201) == pytest.approx(0.5 + 1.0 + 2.0, rel=0.01)
    assert EndpointLatency().expected(1, 1) is None
    assert EndpointLatency().high(1, 1) is None


def test_the_high_quantile_holds_for_the_next_answer():
    rng, misses, n = np.random.default_rng(1), 0, 600
    model = DeviceLatency(100.0, 10.0)
    for i in range(n + 80):
        noise = float(rng.lognormal(0.0, 0.4))
        seconds = noise * (1.0 + 4.9)
        if i >= 80:
            high = model.high(100, 50, 0.9)
            assert high is not None
            misses += seconds > high
        model.observe(100, noise * 1.0, 50, noise * 4.9)
    assert misses / n <= 0.1 + 4 * math.sqrt(0.09 / n)
    assert misses / n > 0.03


def test_few_observations_are_met_with_caution():
    spread = Spread()
    assert spread.quantile(0.9) == CAUTION
    spread.observe(9.0, 3.0)
    assert spread.quantile(0.9) == 3.0
    spread.observe(1.0, None)
    spread.observe(math.nan, 1.0)
    assert len(spread.ratios) == 1


@given(st.lists(st.floats(0.01, 1e4), min_size=8, max_size=64), st.floats(0.05, 0.99))
def test_a_spreads_quantile_is_an_order_statistic(ratios, level):
    value = Spread(ratios).quantile(level)
    rank = min(math.ceil(level * (len(ratios) + 1) - 1e-9), len(ratios))
    assert value == sorted(ratios)[rank - 1]


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9))
def test_the_first_observations_weigh_evenly(values):
    mean = Ewma(prior=123.0)
    for x in values:
        mean.observe(x)
    assert mean.value == pytest.approx(np.mean(values))


def test_what_is_no_observation_is_not_counted():
    mean = Ewma(5.0)
    for x in (0.0, -1.0, math.nan, math.inf):
        mean.observe(x)
    assert (mean.value, mean.n) == (5.0, 0)


def test_the_length_of_answers_is_learnt():
    model = LengthModel()
    for _ in range(40):
        model.observe(20)
    assert model.expected() == pytest.approx(20)
    assert model.high(0.95) == pytest.approx(20, rel=0.01)
    assert model.high(0.95, most=12) == 12


@pytest.mark.parametrize("kind", [DeviceLatency, EndpointLatency])
def test_a_restart_forgets_nothing(kind):
    model = kind(10.0, 20.0)
    for _ in range(12):
        model.observe(100, 0.5, 20, 1.0)
    again = kind.from_dict(json.loads(json.dumps(model.to_dict())))
    assert again.expected(100, 20) == model.expected(100, 20)
    assert again.high(100, 20) == model.high(100, 20)


@pytest.mark.parametrize(
    "change",
    [{"prefill": [0, 3]}, {"prefill": "fast"}, {"ratios": [math.nan]}, {"ratios": None}, {"decode": [1.0]}],
)
def test_a_damaged_record_is_refused(change):
    good = DeviceLatency(10.0, 20.0).to_dict()
    with pytest.raises(PolicyError, match="latencies is damaged"):
        DeviceLatency.from_dict({**good, **change})
    with pytest.raises(PolicyError, match="latencies is damaged"):
        DeviceLatency.from_dict({k: v for k, v in good.items() if k not in change})
