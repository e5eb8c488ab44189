"""Device profiles, links and pools: figures that can be derived, files that are wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import SimulationError
from offload.evaluate.metrics import auroc
from offload.outcomes import Outcome
from offload.simulate import (
    NETWORKS,
    PROFILES,
    DeviceProfile,
    LinkState,
    ModelSize,
    NetworkModel,
    pool_from_outcomes,
    read_profile,
    read_trace,
    synthetic_pool,
    write_trace,
)
from offload.simulate.devices import _line
from offload.types import Evidence


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_a_profile_gives_back_about_what_was_measured(profile: DeviceProfile) -> None:
    for m in profile.measurements:
        if m.decode:
            assert 1 / profile.decode_seconds(m.size) == pytest.approx(m.decode, rel=0.25)
        if m.prefill:
            assert 1 / profile.prefill_seconds(m.size) == pytest.approx(m.prefill, rel=0.25)
        assert m.source


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.01, 10)), min_size=2, max_size=6))
def test_no_line_of_a_grid_fits_better_than_the_fitted_one(
    points: list[tuple[float, float]],
) -> None:
    a, b = _line(points)
    assert a >= 0
    assert b >= 0

    def loss(u: float, v: float) -> float:
        return sum(((u + v * x - y) / y) ** 2 for x, y in points)

    top = max(y for _, y in points)
    grid = [loss(i * top / 20, j * top / 2) for i in range(21) for j in range(21)]
    assert loss(a, b) <= min(grid) * (1 + 1e-6) + 1e-6


def test_prompts_are_never_read_slower_than_tokens_are_decoded() -> None:
    for profile in PROFILES.values():
        for billions in (0.01, 0.5, 3, 8):
            size = ModelSize(billions * 1e9, billions * 0.6e9)
            assert profile.prefill_seconds(size) <= profile.decode_seconds(size)


def test_a_board_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps(PROFILES["pi5"].to_json()), encoding="utf-8")
    assert read_profile(path) == PROFILES["pi5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active_watts": None}, "'active_watts' must be a positive number, not None"),
        ({"active_watts": -3}, "'active_watts' must be a positive number, not -3"),
        ({"measurements": []}, "needs at least one measurement with 'decode'"),
        ({"measurements": [{"model": "m"}]}, "needs the key 'parameters'"),
        ({"measurements": 3}, "not a device profile"),
    ],
)
def test_a_profile_that_is_wrong_says_what(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({**PROFILES["pi5"].to_json(), **change}), encoding="utf-8")
    with pytest.raises(SimulationError, match=message):
        read_profile(path)


def test_a_profile_that_is_not_there_or_no_json_says_so(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="cannot read the device profile"):
        read_profile(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(SimulationError, match="cannot read the device profile"):
        read_profile(tmp_path / "bad.json")


@pytest.mark.parametrize("model", NETWORKS.values(), ids=lambda m: m.name)
def test_links_are_up_as_often_as_their_model_says(model: NetworkModel) -> None:
    assert [sum(row) for row in model.moves] == pytest.approx([1.0] * len(model.moves))
    traces = model.generate(200, 20_000, np.random.default_rng(0), step_s=10.0)
    share = sum(p for p, s in zip(model.stationary(), model.states, strict=True) if s.up)
    assert traces.share_up() == pytest.approx(share, abs=0.015)
    assert model.source


def test_outages_last_as_long_as_their_model_says() -> None:
    up = LinkState("up", 200.0, 0.05, 1e6, 1e6)
    down = LinkState("down", 40.0, 0.05, 1e6, 1e6, up=False)
    model = NetworkModel("two", (up, down), ((0.0, 1.0), (1.0, 0.0)), "test")
    traces = model.generate(100, 6_000, np.random.default_rng(1))
    falls = (np.diff(traces.up.astype(int), axis=1) == -1).sum()
    assert falls > 1000
    assert (~traces.up).sum() / falls == pytest.approx(40.0, rel=0.08)


def test_the_next_change_of_a_link_is_where_looking_step_by_step_finds_it() -> None:
    traces = NETWORKS["rural"].generate(6, 900, np.random.default_rng(3), step_s=10.0)
    next_up, next_down = traces.edges()
    steps = traces.up.shape[1]
    for d in range(6):
        for k in range(steps):
            up = next((j * 10.0 for j in range(k, steps) if traces.up[d, j]), math.inf)
            down = next((j * 10.0 for j in range(k, steps) if not traces.up[d, j]), math.inf)
            assert (next_up[d, k], next_down[d, k]) == (up, down)


def test_a_written_trace_reads_back(tmp_path: Path) -> None:
    traces = NETWORKS["lte"].generate(2, 300, np.random.default_rng(0), step_s=2.0)
    write_trace(tmp_path / "t.csv", traces, device=1)
    back = read_trace(tmp_path / "t.csv", 300, step_s=2.0)
    np.testing.assert_array_equal(back.up[0], traces.up[1])
    np.testing.assert_allclose(back.rtt_s[0], traces.rtt_s[1], rtol=1e-5)
    np.testing.assert_allclose(back.uplink[0], traces.uplink[1], rtol=1e-5)


def test_a_recorded_trace_holds_between_samples_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "seconds,up,rtt_s,uplink_bps,downlink_bps\n0,1,0.1,8000,16000\n4,0,0,0,0\n6,1,0.2,8000,8000\n",
        "utf-8",
    )
    traces = read_trace(path, 20.0, step_s=1.0)
    assert traces.up[0].tolist() == ([True] * 4 + [False] * 2 + [True] * 2) * 2 + [True] * 4
    assert traces.uplink[0, 0] == 1000.0
    assert traces.downlink[0, 0] == 2000.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seconds,up,rtt_s,uplink_bps\n", "line 1: the column 'downlink_bps' is missing"),
        ("seconds,up,rtt_s,uplink_bps,downlink_bps\n", "the trace has no rows"),
        (
            "seconds,up,rtt_s,uplink_bps,downlink_bps\n0,1,x,1,1\n",
            "line 2: 'rtt_s' must be a positive .* not 'x'",
        ),
        ("seconds,up,rtt_s,uplink_bps,downlink_bps\n0,2,1,1,1\n", "line 2: 'up' must be 0 or 1, not '2'"),
        ("seconds,up,rtt_s,uplink_bps,downlink_bps\n0,1,1,0,1\n", "line 2: 'uplink_bps' must be a positive"),
        (
            "seconds,up,rtt_s,uplink_bps,downlink_bps\n0,1,1,nan,1\n",
            "line 2: 'uplink_bps' must be a positive",
        ),
        ("seconds,up,rtt_s,uplink_bps,downlink_bps\n0,1,1,1\n", "line 2: 'downlink_bps' must be .* not None"),
        (
            "seconds,up,rtt_s,uplink_bps,downlink_bps\n5,1,1,1,1\n5,1,1,1,1\n",
            "line 3: 'seconds' must rise from line to line; 5 follows 5",
        ),
    ],
)
def test_a_trace_that_is_wrong_names_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(SimulationError, match=message):
        read_trace(path, 10.0)


def test_a_trace_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="cannot read the trace"):
        read_trace(tmp_path / "none.csv", 10.0)


def test_the_generated_population_is_calibrated_and_as_accurate_as_asked() -> None:
    pool = synthetic_pool(60_000, 0, weak_accuracy=0.6, strong_accuracy=0.9)
    assert pool.weak.mean() == pytest.approx(0.6, abs=0.01)
    assert pool.strong.mean() == pytest.approx(0.9, abs=0.01)
    for probability in (pool.confidence, pool.prior):
        edges = np.quantile(probability, np.linspace(0, 1, 11)[1:-1])
        bins = np.digitize(probability, edges)
        for b in range(10):
            assert pool.weak[bins == b].mean() == pytest.approx(probability[bins == b].mean(), abs=0.03)
    after, prior = auroc(pool.confidence, pool.weak), auroc(pool.prior, pool.weak)
    assert after is not None
    assert prior is not None
    assert 0.5 < prior < after < 0.95


def test_a_shift_moves_the_truth_and_not_what_is_stated() -> None:
    pool, shifted = synthetic_pool(20_000, 0), synthetic_pool(20_000, 0, shift=-1.5)
    np.testing.assert_array_equal(pool.confidence, shifted.confidence)
    assert shifted.weak.mean() < pool.weak.mean() - 0.1


def test_a_pool_of_recorded_outcomes_takes_lengths_from_what_is_known() -> None:
    rows = [
        Outcome("2 + 2?", True, True, evidence=Evidence(n=7, n_scored=7, mean_logprob=-0.1)),
        Outcome("x" * 400, False, True, response="y" * 80),
        Outcome("4 + 4?", True, False),
    ]
    pool = pool_from_outcomes(
        rows, lambda r: 0.9 if r.evidence else None, lambda r: None if r.response else 0.5, strong_tokens=50
    )
    assert pool.weak_tokens.tolist() == [7.0, 20.0, 50.0]
    assert pool.prompt_tokens[1] == 100.0
    assert pool.strong_prior == pytest.approx([2 / 3] * 3)
    assert np.isnan(pool.confidence).tolist() == [False, True, True]
    assert np.isnan(pool.prior).tolist() == [False, True, False]


def test_pools_refuse_what_makes_no_sense() -> None:
    pool = synthetic_pool(10, 0)
    with pytest.raises(SimulationError, match="no outcomes"):
        pool_from_outcomes([], lambda r: None, lambda r: None)
    with pytest.raises(SimulationError, match="outcome 2 has no 'strong_correct'"):
        pool_from_outcomes([Outcome("a", True, True), Outcome("b", True)], lambda r: None, lambda r: None)
    with pytest.raises(SimulationError, match="differ in length: weak 10, strong 9"):
        replace(pool, strong=pool.strong[:9])
    with pytest.raises(SimulationError, match="'confidence' must be a probability"):
        replace(pool, confidence=pool.confidence + 1)
    with pytest.raises(SimulationError, match="at least one query"):
        pool.take(np.zeros(10, bool))
    with pytest.raises(SimulationError, match=r"10 queries cannot be split at a share of 0\.01"):
        pool.split(0.01, 0)


def test_a_split_has_every_row_once() -> None:
    pool = synthetic_pool(101, 0)
    left, right = pool.split(0.3, 5)
    assert (len(left), len(right)) == (30, 71)
    together = np.concatenate([left.confidence, right.confidence])
    np.testing.assert_array_equal(np.sort(together), np.sort(pool.confidence))
