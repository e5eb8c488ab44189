"""Figures of docs/routing.md on real models' recorded answers, from the public sets in EDGE_DATA_DIR.

    python -m tools.routing_figures                        gsm8k, mmlu, llama13b
    python -m tools.routing_figures --pair runs/pair/outcomes.jsonl --calibration calibration.json
    python -m tools.routing_figures --page                 only tables and pictures again

Every piece is kept in docs/routing.json as it is done and not measured again (`--again PIECE` does); the
page's tables and pictures are made of that file. Everything is seeded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click
import numpy as np
import numpy.typing as npt

from edge_runtime.cli.output import progress, status
from offload.calibrate import fit_isotonic, fit_platt
from offload.calibration import Calibration
from offload.confidence import SIGNALS, signal_value
from offload.errors import GuaranteeError
from offload.evaluate import auroc, calibration_metrics, routing_metrics
from offload.evaluate.metrics import LEVEL
from offload.evaluate.routing import FRACTIONS, Deferral, area, oracle_gain
from offload.guarantee import selective
from offload.learn.fit_route import cross_validate, folds
from offload.outcomes import Outcome, number_of, read_outcomes
from tools.datasets import outcomes_of
from tools.routing_page import write_page

STORE = Path(__file__).resolve().parent.parent / "docs" / "routing.json"

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Figure = dict[str, Any]

RESAMPLES = 1_000
SPLITS = 500
PAIR_REPETITIONS = 3
DELTA = 0.1
ALPHAS = (0.1, 0.2, 0.3)


def columns(rows: Sequence[Outcome]) -> tuple[Bools, Bools]:
    return np.array([r.weak_correct for r in rows]), np.array([bool(r.strong_correct) for r in rows])


def averaged(orders: Sequence[Floats], weak: Bools, strong: Bools) -> Figure:
    """Metrics averaged over repetitions (one confidence each), with bootstrap intervals of the average."""

    def mean(at: npt.NDArray[np.int64] | slice, order: Sequence[Floats]) -> dict[str, float]:
        found = [routing_metrics(c[at], weak[at], strong[at], resamples=0) for c in order]
        return {
            name: float(np.mean([f[name].value for f in found]))
            for name in found[0]
            if all(f[name].value is not None for f in found)
        }

    value = mean(slice(None), orders)
    rng = np.random.default_rng(0)
    # A bootstrap of many repetitions measures the rows' noise as well as one of the first three does.
    drawn = [mean(rng.integers(0, len(weak), len(weak)), orders[:3]) for _ in range(RESAMPLES)]
    tail = (1 - LEVEL) / 2
    curve = np.mean([Deferral.of(c, weak, strong).accuracy(FRACTIONS) for c in orders], axis=0)
    return {
        "metrics": {
            name: {
                "value": round(x, 4),
                "low": round(float(np.quantile([d[name] for d in drawn if name in d], tail)), 4),
                "high": round(float(np.quantile([d[name] for d in drawn if name in d], 1 - tail)), 4),
            }
            for name, x in value.items()
        },
        "repetitions": [round(Deferral.of(c, weak, strong).apgr() or 0.0, 4) for c in orders],
        "curve": np.round(curve, 4).tolist(),
    }


def base(rows: Sequence[Outcome]) -> Figure:
    weak, strong = columns(rows)
    gap = float(strong.mean() - weak.mean())
    best = oracle_gain(weak, strong, FRACTIONS)
    return {
        "n": len(rows),
        "weak": round(float(weak.mean()), 4),
        "strong": round(float(strong.mean()), 4),
        "oracle": np.round(weak.mean() + best, 4).tolist(),
        "oracle_apgr": round(area(best) / gap, 4) if gap > 0 else None,
        "lines": {"prompt length": averaged([-lengths(rows)], weak, strong)},
    }


def stated_as(p: Floats, correct: Bools) -> Figure:
    found = calibration_metrics(p, correct, resamples=200)
    return {name: metric.to_json() for name, metric in found.items()}


def lengths(rows: Sequence[Outcome]) -> Floats:
    return np.array([float(len(r.prompt)) for r in rows])


def routed(rows: Sequence[Outcome], inputs: Sequence[str], repetitions: int) -> Figure:
    """A set of two models' answers: prompt length, and routers by repeated cross-validation."""
    weak, strong = columns(rows)
    value = base(rows)
    for kind in inputs:
        found = [cross_validate(rows, inputs=kind, seed=seed) for seed in range(repetitions)]
        value["lines"][f"router, {kind}"] = averaged([-gains for gains, _ in found], weak, strong)
        value["lines"][f"router, {kind}"]["calibration"] = stated_as(found[0][1], weak)
    return value


def gsm8k() -> Figure:
    return routed(outcomes_of("routing_gsm8k"), ("prompt", "prompt+evidence"), 10)


def mmlu() -> Figure:
    return routed(outcomes_of("routing_mmlu"), ("prompt",), 3)


def llama13b() -> Figure:
    """One model's option probabilities: calibration before and after, and the guarantee over re-splits."""
    rows = outcomes_of("llama13b_mmlu_probs")
    correct = np.array([r.weak_correct for r in rows])
    raw = np.array([number_of(r, "option_probs.max") or 0.0 for r in rows])
    calibrated = {"isotonic": np.zeros(len(rows)), "platt": np.zeros(len(rows))}
    for train, test in folds(len(rows), 10, 0):
        z = np.log(raw / (1 - raw))
        calibrated["platt"][test] = fit_platt(z[train], correct[train])(z[test][:, None])
        calibrated["isotonic"][test] = fit_isotonic(raw[train], correct[train])(raw[test][:, None])
    stated = {"as stated": raw, **calibrated}
    value: Figure = {
        "n": len(rows),
        "accuracy": round(float(correct.mean()), 4),
        "auroc": round(auroc(raw, correct) or 0.0, 4),
        "calibration": {name: stated_as(p, correct) for name, p in stated.items()},
        "reliability": {name: reliability(p, correct) for name, p in stated.items()},
        "guarantee": {},
    }
    for alpha in ALPHAS:
        value["guarantee"][str(alpha)] = resplit(raw, correct, alpha)
    return value


def resplit(confidence: Floats, correct: Bools, alpha: float) -> Figure:
    """`SPLITS` times: certify a threshold on one half of the rows, look at the other half."""
    rng = np.random.default_rng(0)
    coverage, risk, certified = [], [], 0
    for _ in range(SPLITS):
        order = rng.permutation(len(correct))
        here, there = order[: len(order) // 2], order[len(order) // 2 :]
        try:
            threshold = selective(confidence[here], correct[here], alpha, DELTA).threshold
        except GuaranteeError:
            threshold = None
        kept = np.zeros(len(there), bool) if threshold is None else confidence[there] >= threshold
        certified += threshold is not None
        coverage.append(float(kept.mean()))
        risk.append(float((~correct[there])[kept].mean()) if kept.any() else 0.0)
    return {
        "splits": SPLITS,
        "certified": certified / SPLITS,
        "coverage": round(float(np.mean(coverage)), 4),
        "violations": round(float(np.mean(np.array(risk) > alpha)), 4),
        "risk": round(float(np.mean([r for r, c in zip(risk, coverage, strict=True) if c > 0] or [0.0])), 4),
    }


def reliability(p: Floats, correct: Bools, bins: int = 10) -> list[list[float]]:
    """[mean probability, share right, rows] of each tenth of the rows by probability."""
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return [[round(float(p[i].mean()), 4), round(float(correct[i].mean()), 4), len(i)] for i in parts]


def pair(path: Path, calibration: Path | None) -> Figure:
    """The device and the cloud model of the project on the rows of each suite."""
    rows = read_outcomes(path)
    made = Calibration.load(calibration) if calibration is not None else None
    suites: dict[str, list[Outcome]] = {}
    for row in rows:
        suites.setdefault(row.suite or "all", []).append(row)
    return {suite: of_pair(part, made) for suite, part in suites.items()}


def of_pair(rows: Sequence[Outcome], calibration: Calibration | None) -> Figure:
    weak, strong = columns(rows)
    value = base(rows)
    signals = {name: signal_of(name, rows) for name in SIGNALS}
    usual = {name: c for name, c in signals.items() if np.isfinite(c).mean() > 0.5}
    best = max(usual, key=lambda name: Deferral.of(usual[name], weak, strong).apgr() or 0.0)
    value["lines"]["mean_logprob"] = averaged([signals["mean_logprob"]], weak, strong)
    value["lines"][f"best signal on these rows ({best})"] = averaged([usual[best]], weak, strong)
    if calibration is not None:
        p = np.array([probability(calibration, row) for row in rows])
        value["lines"]["calibrated probability"] = averaged([p], weak, strong)
        told = np.isfinite(p)
        before = np.exp(np.nan_to_num(signals["mean_logprob"], nan=-np.inf))
        value["lines"]["calibrated probability"]["calibration"] = stated_as(p[told], weak[told])
        value["lines"]["mean_logprob"]["calibration"] = stated_as(before, weak)
    for kind in ("prompt", "prompt+evidence"):
        found = [cross_validate(rows, inputs=kind, seed=seed) for seed in range(PAIR_REPETITIONS)]
        value["lines"][f"router, {kind}"] = averaged([-gains for gains, _ in found], weak, strong)
        value["lines"][f"router, {kind}"]["calibration"] = stated_as(np.nan_to_num(found[0][1]), weak)
    return value


def signal_of(name: str, rows: Sequence[Outcome]) -> Floats:
    found = [None if r.evidence is None else signal_value(name, r.evidence) for r in rows]
    return np.array([np.nan if x is None else x for x in found], np.float64)


def probability(calibration: Calibration, row: Outcome) -> float:
    p = None if row.evidence is None else calibration.apply(row.evidence, row.response)
    return np.nan if p is None else p


PIECES: Mapping[str, Callable[[], Figure]] = {"gsm8k": gsm8k, "mmlu": mmlu, "llama13b": llama13b}


def keep(store: Path, name: str, value: Figure) -> None:
    held = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    held[name] = value
    partial = store.with_suffix(".partial")
    partial.write_text(json.dumps(held, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(store)


@click.command()
@click.option("--pair", "pair_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--again", multiple=True, metavar="PIECE", help="Measure this piece anew.")
@click.option("--page", is_flag=True, help="Measure nothing; make tables and pictures again.")
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), default=STORE, show_default=True)
def main(
    pair_file: Path | None, calibration: Path | None, again: tuple[str, ...], page: bool, store: Path
) -> None:
    """Measure what is missing, then write the page's tables and pictures."""
    pieces = dict(PIECES)
    if pair_file is not None:
        pieces["pair"] = lambda: pair(pair_file, calibration)
        again = (*again, "pair")
    held = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    wanted = [] if page else [name for name in pieces if name not in held or name in again]
    with progress("routing", total=len(wanted)) as advance:
        for name in wanted:
            status(f"measuring {name}")
            keep(store, name, pieces[name]())
            advance(1)
    write_page(json.loads(store.read_text("utf-8")))


if __name__ == "__main__":
    main()
