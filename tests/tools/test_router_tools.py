"""The scripts behind the figures of docs/router.md, on little work."""

import math

import pytest

from offload.calibrate import Labelled
from offload.calibration import Calibration, Entry, Fingerprint
from offload.calibrators import Platt
from offload.types import Evidence
from tools import bench_router, early_stop, router_figures


def test_the_benchmark_of_the_router_measures_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_router, "BATCHES", 2)
    found = bench_router.measure()
    assert {"decision before", "decision during", "decision after"} < set(found)
    assert all(0 < x["least_us"] <= x["median_us"] <= x["most_us"] for x in found.values())


def test_a_stream_that_is_paced_gives_the_budget_to_the_hardest() -> None:
    paced = router_figures.stream("paced", 0.2, 100, n=2000)
    first = router_figures.stream("first come, first served", 0.2, 100, n=2000)
    assert paced[0] <= 0.2
    assert paced[1] > 2 * first[1]


def test_a_promise_is_counted_as_broken_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_figures, "DRAWS", 20)
    broken, nothing, kept = router_figures.promise(300, 0.2, 0.0, 4)
    assert broken <= 0.25
    assert nothing < 0.5
    assert 0.3 < kept < 1


def recorded(logprobs: tuple[float, ...], right: bool = True) -> early_stop.Recorded:
    n, total = len(logprobs), math.fsum(logprobs)
    evidence = Evidence(
        n, n, total, total / n, min(logprobs), mean_entropy=0.1, mean_margin=1.0, finish_reason="stop"
    )
    return early_stop.Recorded(Labelled(evidence, right, "frame"), logprobs, '{"intent":"x"}')


def test_the_exact_bound_saves_what_comes_after_the_token_that_decides() -> None:
    entry = Entry(
        "frame", ("min_logprob",), Platt(1.0, 0.0), 10, 5
    )  # the probability of the least likely token
    calibration = Calibration((entry,), Fingerprint("", "", ""), "m", "", {})
    rows = [recorded((-0.01, -3.0, -0.01, -0.01, -0.01)), recorded((-0.01,) * 5)]
    assert early_stop.exact_saved(calibration, rows, 0.5, 64) == (3, 0)
    assert [t.p_correct > 0.5 for t in early_stop.traces(calibration, rows)] == [False, True]


def test_the_parts_of_the_split_are_disjoint() -> None:
    rows = [recorded((-0.1 * (i + 1),)) for i in range(10)]
    parts = early_stop.thirds(rows, seed=3)
    assert [len(part) for part in parts] == [3, 3, 4]
    assert {row.logprobs for part in parts for row in part} == {row.logprobs for row in rows}
