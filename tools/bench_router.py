"""What deciding costs: `python -m tools.bench_router [--json]`.

Times one decision in each of its three moments (with a calibration that combines several signals, three
targets and three budgets), the running evidence per token, and the bookkeeping of the budgets. Each figure is
the median over batches, with the quickest and the slowest batch beside it: on a busy machine the quickest
says most.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

from edge_runtime.generate import RunningEvidence
from offload.budget import Budgets, Limit
from offload.calibration import Calibration, Entry, Fingerprint
from offload.calibrators import Logistic, Platt
from offload.policy import Device, Policy, State, Target
from offload.router import decide
from offload.spans import decisive_spans
from offload.stopping import GRID, EarlyStop, StopTable
from offload.types import Evidence, Message, Query, Token

BATCHES = 30
TEXT = '{"intent":"HassTurnOn","slots":{"area":"kitchen","name":"lamp"}}'
QUERY = Query("q", (Message("user", "turn on the lamp in the kitchen"),), deadline_s=30.0, max_cost=0.05)


def calibration() -> Calibration:
    """A combiner of four signals for frames, one signal for solutions."""
    names = ("mean_logprob", "min_logprob", "answer.min_logprob", "mean_margin")
    combined = Logistic((0.4, 0.3, 0.6, 0.2), 0.1, (0.0,) * 4, (1.0,) * 4, (-9.0,) * 4, (9.0,) * 4)
    return Calibration(
        (
            Entry("frame", names, combined, 600, 500),
            Entry("solution", ("answer.min_logprob",), Platt(1.0, 0.0), 600, 300),
        ),
        Fingerprint("1" * 64, "2" * 64, "3" * 64),
        "bench",
        "2026-01-01T00:00:00Z",
    )


def tokens(n: int, seed: int = 0) -> list[Token]:
    """The text above as tokens with plausible evidence, repeated to n."""
    rng = random.Random(seed)
    pieces = [TEXT[i : i + 3] for i in range(0, len(TEXT), 3)]
    return [
        Token(i, pieces[i % len(pieces)], -rng.expovariate(8), rng.expovariate(5), rng.expovariate(0.2))
        for i in range(n)
    ]


def per_call(call: Callable[[], object], calls: int) -> dict[str, float]:
    """Microseconds per call: median, least and most over batches."""
    call()
    figures = []
    for _ in range(BATCHES):
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        figures.append((time.perf_counter() - begun) / calls * 1e6)
    return {"median_us": statistics.median(figures), "least_us": min(figures), "most_us": max(figures)}


def measure() -> dict[str, dict[str, float]]:
    """Every figure by name."""
    budgets = Budgets(
        [
            Limit("share", "queries", 0.2, 100),
            Limit("cost", "cost", 0.5, 86_400.0),
            Limit("traffic", "bytes", 3e6, 3600.0),
        ]
    )
    targets = (
        Target("near", True, quality=0.85, cost=0.001, latency_s=0.8, sent_bytes=900),
        Target("far", True, quality=0.95, cost=0.004, latency_s=1.6, sent_bytes=900),
        Target("larger", True, place="device", quality=0.8, latency_s=2.0, energy_j=6.0),
    )
    rng = random.Random(1)
    for i in range(2000):
        budgets.observe(i * 10.0, rng.random(), {"cost": 0.004, "bytes": 900.0})
        (budgets.reserve(i * 10.0, targets[1]) if rng.random() < 0.1 else budgets.passed())
    table = StopTable("sum_logprob", 0.02, GRID, tuple(-40 * (1 - g) for g in GRID), 400)
    state = State(
        policy=Policy(cost_weight=5.0, latency_weight=0.01),
        targets=targets,
        calibration=calibration(),
        text=TEXT,
        p_before=0.6,
        budgets=budgets.remaining(20_000.0),
        device=Device(latency_s=0.4, waiting=1, temperature_c=60.0),
        stop=EarlyStop({"frame": table}),
        tokens_left=200,
    )
    answer = tokens(24)
    after = Evidence.fold(answer, "stop", decisive_spans(answer))
    during = replace(after, finish_reason=None, spans={}, quantiles={})
    many = tokens(512)

    def running() -> Evidence:
        evidence = RunningEvidence()
        for token in many:
            evidence.add(token)
        return evidence.evidence()

    def running_and_asked() -> Evidence:
        evidence = RunningEvidence()
        for token in many:
            evidence.add(token)
            found = evidence.evidence()
        return found

    clock = [20_000.0]

    def bookkeeping() -> None:
        clock[0] += 10.0
        budgets.remaining(clock[0])
        budgets.observe(clock[0], 0.5, {"cost": 0.004, "bytes": 900.0})
        budgets.passed()

    found = {
        "decision before": per_call(lambda: decide(QUERY, None, state), 100),
        "decision during": per_call(lambda: decide(QUERY, during, state), 100),
        "decision after": per_call(lambda: decide(QUERY, after, state), 100),
        "budgets, per query": per_call(bookkeeping, 100),
    }
    for name, call in (("added", running), ("added and asked for", running_and_asked)):
        figures = per_call(call, 2)
        found[f"running evidence {name}, per token"] = {k: v / len(many) for k, v in figures.items()}
    assert all(math.isfinite(x) for figures in found.values() for x in figures.values())
    return found


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(as_json: bool) -> None:
    """Print what deciding costs on this machine."""
    found = measure()
    if as_json:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        spread = f"({figures['least_us']:.2f} to {figures['most_us']:.2f})"
        print(f"{name:46} {figures['median_us']:8.2f} µs   {spread}")


if __name__ == "__main__":
    main()
