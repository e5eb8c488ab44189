"""The page's tables and pictures from the figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import MissingExtraError

__all__ = ["draw", "fill", "recorded_tables", "tables"]

LINKS = ("wifi", "lte", "rural")
COLOURS = {
    "local only": "#888888",
    "cloud": "#555555",
    "random": "#bbbbbb",
    "threshold": "#e6a000",
    "our router": "#0b62a4",
    "expected": "#5aa9e6",
    "hindsight": "#2f9e44",
    "PPO": "#c92a2a",
    "A2C": "#f08c8c",
}


def tables(figures: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    return {
        "fleet-limited": _fleet([r for r in figures["fleet"] if r["budget"]]),
        "fleet-unlimited": _fleet([r for r in figures["fleet"] if not r["budget"]]),
        "boards": _boards(figures["boards"]),
        "formula": _formula(figures["formula"]),
        "agents": _agents(figures["agents"]),
        "online": _online(figures["online"]),
        "drift": _drift(figures["drift"]),
        "drift-labels": _delays(figures["drift"]["labels"]),
    }


def recorded_tables(figures: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables of a run over recorded outcomes, by name."""
    rows, weak, strong = figures["rows"]["test"], figures["device_right"], figures["cloud_right"]
    sentence = (
        f"{figures['source']}. Of the {rows:,} rows that nothing was fitted on, the device is right on "
        f"{weak:.1%} and the cloud on {strong:.1%}; AUROC of the confidence {figures['auroc']:.3f}.\n"
    )
    limited = _fleet([r for r in figures["fleet"] if r["budget"]])
    unlimited = _fleet([r for r in figures["fleet"] if not r["budget"]])
    parts = (sentence, "With the budget:\n", limited, "Without:\n", unlimited)
    return {"recorded": "\n".join(parts)}


def fill(page: str, made: Mapping[str, str]) -> str:
    """The page with what stands between `<!-- table NAME -->` and `<!-- end -->` replaced.

    Raises:
        ValueError: a table that the page has no place for.
    """
    for name, table in made.items():
        head, mark, rest = page.partition(f"<!-- table {name} -->\n")
        if not mark or "<!-- end -->" not in rest:
            raise ValueError(f"the page has no '<!-- table {name} -->' with an '<!-- end -->' after it")
        page = head + mark + "\n" + table + "\n<!-- end -->" + rest.partition("<!-- end -->")[2]
    return page


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _fleet(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(r["policy"] for r in rows))
    lines = []
    for name in names:
        by_link = {r["link"]: r for r in rows if r["policy"] == name}
        lte = by_link["lte"]
        lines.append(
            (
                name,
                *(f"{by_link[k]['utility']:.3f}" for k in LINKS),
                f"{lte['utility_low']:.3f}–{lte['utility_high']:.3f}",
                f"{lte['quality']:.3f}",
                f"{lte['latency_mean_s']:.1f} / {lte['latency_p95_s']:.1f}",
                f"{100 * lte['escalated']:.0f} %",
                f"{1000 * lte['cost']:.2f}",
                f"{lte['energy_j']:.0f}",
                f"{100 * lte['over_budget']:.0f} %",
            )
        )
    head = (
        "policy",
        "utility wifi",
        "lte",
        "rural",
        "lte, 95 %",
        "right",
        "latency mean / p95, s",
        "escalated",
    )
    return _table((*head, "money per 1,000", "energy, J", "over budget"), lines)


def _boards(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("board", "policy", "utility", "right", "latency mean / p95, s", "escalated", "at once", "energy, J"),
        [
            (
                r["board"],
                r["policy"],
                f"{r['utility']:.3f}",
                f"{r['quality']:.3f}",
                f"{r['latency_mean_s']:.1f} / {r['latency_p95_s']:.1f}",
                f"{100 * r['escalated']:.0f} %",
                f"{100 * r['direct']:.0f} %",
                f"{r['energy_j']:.0f}",
            )
            for r in rows
        ],
    )


def _formula(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("board", "peak FLOPS, as published, s", "peak FLOPS, corrected, s", "measured speeds, s"),
        [(r["board"], *(f"{r[k]:.2f}" for k in ("published", "corrected", "measured"))) for r in rows],
    )


def _agents(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("agent", "budget", "runs", "decisions seen", "training, s", "utility first run", "last run"),
        [
            (
                r["name"],
                "20 %" if r["limited"] else "none",
                str(r["runs"]),
                f"{r['queries']:,} queries",
                f"{r['seconds']:.0f}",
                f"{r['curve'][0]:.3f}",
                f"{r['curve'][-1]:.3f}",
            )
            for r in rows
        ],
    )


def _online(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        (
            "world",
            "feedback",
            "gain per query (mean / worst seed)",
            "promise broken",
            "rule changed",
            "first change",
            "taken back",
            "explored",
        ),
        [
            (
                r["world"],
                r["feedback"],
                f"{r['lead']:+.4f} / {r['lead_low']:+.4f}",
                f"{r['broken']} of {r['seeds']}",
                f"{r['changed']} of {r['seeds']}",
                "–" if r["first"] is None else f"query {r['first']:,.0f}",
                f"{r['reverted']} of {r['seeds']}",
                f"{100 * r['explored']:.1f} %",
            )
            for r in rows
        ],
    )


def _drift(study: Mapping[str, Any]) -> str:
    runs, answers, every = study["seeds"], study["answers"], study["every"]
    sentence = (
        f"False alarms: {study['false_alarms']} in {runs} runs of {answers:,} answers, beside a bound of "
        f"{study['bound'] * runs:.1f} (one alarm in {every:,} answers).\n"
    )
    return sentence + "\n" + _delays(study["evidence"])


def _delays(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("shift", "found", "answers to the alarm, median", "90 %"),
        [
            (
                f"{r['shift']:+g}",
                f"{r['found']} of {r['of']}",
                "–" if r["median"] is None else f"{r['median']:.0f}",
                "–" if r["p90"] is None else f"{r['p90']:.0f}",
            )
            for r in rows
        ],
    )


def _colour(name: str) -> str:
    return next((c for key, c in COLOURS.items() if name.startswith(key)), "#000000")


def draw(
    figures: Mapping[str, Any], curves: Mapping[str, np.ndarray], epsilon: float, folder: Path
) -> list[Path]:
    """Pictures of the fleets, and of learning where there are curves of it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "drawing pictures") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    paths = [folder / "simulation_fleet.png", folder / "simulation_online.png"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axis, limited in zip(axes, (True, False), strict=True):
        rows = [r for r in figures["fleet"] if r["link"] == "lte" and bool(r["budget"]) == limited]
        rows.sort(key=lambda r: r["utility"])
        for y, r in enumerate(rows):
            within = r["over_budget"] <= 0.001
            axis.errorbar(
                r["utility"],
                y,
                xerr=[[r["utility"] - r["utility_low"]], [r["utility_high"] - r["utility"]]],
                fmt="o" if within else "x",
                color=_colour(r["policy"]),
                markersize=7,
                capsize=3,
            )
            label = r["policy"] + ("" if within else f" (over budget on {100 * r['over_budget']:.0f} %)")
            axis.annotate(
                label, (r["utility_high"], y), xytext=(8, -3), textcoords="offset points", fontsize=8.5
            )
        low, high = min(r["utility_low"] for r in rows), max(r["utility_high"] for r in rows)
        axis.set_xlim(low - 0.03 * (high - low), high + 0.6 * (high - low))
        axis.set_xticks([t for t in axis.get_xticks() if low - 0.03 * (high - low) <= t <= high])
        axis.set_title("Budget for 20 % of the queries" if limited else "No budget", fontsize=11)
        axis.set_xlabel("utility per query (right answers − 0.01 per second)")
        axis.set_yticks([])
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
    figure.suptitle("Four boards over LTE: mean utility with 95 % interval over devices", fontsize=12)
    figure.tight_layout()
    figure.savefig(paths[0], dpi=130)
    plt.close(figure)
    if not curves:
        return paths[:1]

    figure, axes = plt.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.5), sharey=False)
    for axis, (world, leads) in zip(axes, curves.items(), strict=True):
        t = np.arange(1, leads.shape[1] + 1)
        axis.plot(t, leads.T, color="#0b62a4", alpha=0.25, linewidth=0.8)
        axis.plot(t, leads.mean(axis=0), color="#0b62a4", linewidth=2, label="mean of the seeds")
        axis.plot(
            t, -epsilon * t, color="#c92a2a", linestyle="--", linewidth=1.2, label="promise: −ε per query"
        )
        axis.axhline(0, color="#888888", linewidth=0.8)
        axis.set_title(world, fontsize=10)
        axis.set_xlabel("query")
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("right answers ahead of the frozen rule,\nless the price of escalating", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False, loc="best")
    figure.tight_layout()
    figure.savefig(paths[1], dpi=130)
    plt.close(figure)
    return paths
