"""Tables and pictures of the measured models: for `docs/models.md` and for the model cards.

Knows the figures that `measure.py` wrote. Does not know packages.

A column is a variant: a model in a scheme, such as `pocket int8`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Suites = Mapping[str, Mapping[str, Mapping[str, Any]]]
Measured = Mapping[str, Mapping[str, Any]]
"""By model: what `measured.json` holds."""
Variant = tuple[str, str]
"""(model, scheme)."""

NAMES = {
    "intent_accuracy": "intent accuracy",
    "frame_accuracy": "frame accuracy",
    "valid_json": "valid JSON",
    "none_rate_out_of_scope": "answered `none`, out-of-scope rows (clinc150)",
    "none_rate_in_domain": "answered `none`, in-domain rows (lower is better)",
    "auroc_verdict_mean_logprob": "AUROC of verdict and mean log-probability",
    "fpr95_verdict_mean_logprob": "false positives at 95 % true positives (lower is better)",
    "none_rate_clinc150_in_scope": "answered `none`, clinc150's in-scope rows (apart)",
}
SIGNALS = (
    "sum_logprob", "mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "mean_margin",
    "answer.mean_logprob", "answer.min_logprob", "answer.mean_entropy",
)  # fmt: skip
"""Signals of the tables; `edge-runtime evaluate` prints all."""
PROBLEMS, OOS = "problems", "oos"
TESTS = ("hwu64", "ha_intents", PROBLEMS)
COLOURS = {"pocket": "#4878a8", "pocket-cloud": "#d1793b"}
PALE = 0.45


def suites(measured: Measured, variant: Variant) -> Suites:
    """The figures of a variant by part."""
    found: Suites = measured[variant[0]]["schemes"][variant[1]]["suites"]
    return found


def variants(measured: Measured) -> list[Variant]:
    """Every variant that was measured, the device's before the cloud's."""
    return [(model, scheme) for model in sorted(measured) for scheme in measured[model]["schemes"]]


def show(metric: Mapping[str, Any] | None) -> str:
    """A share as percent with its interval."""
    if metric is None or metric["value"] is None:
        return "–"
    return f"{100 * metric['value']:.1f} ({100 * metric['low']:.1f}–{100 * metric['high']:.1f})"


def show_auroc(metric: Mapping[str, Any] | None) -> str:
    """A figure from 0 to 1 with its interval."""
    if metric is None or metric["value"] is None:
        return "–"
    return f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _columns(chosen: Sequence[Variant], unit: str = "") -> list[str]:
    several = len({model for model, _ in chosen}) > 1
    return [(f"{model} {scheme}" if several else scheme) + unit for model, scheme in chosen]


def _row(measured: Measured, chosen: Sequence[Variant], part: str, metric: str) -> list[Any]:
    """The metric of each variant, None where it has none."""
    return [suites(measured, variant).get(part, {}).get(metric) for variant in chosen]


def _n(cells: Sequence[Any]) -> str:
    return next((str(cell["n"]) for cell in cells if cell is not None), "–")


def _table(
    measured: Measured,
    chosen: Sequence[Variant],
    lines: Sequence[tuple[Sequence[str], str, str]],
    head: Sequence[str],
    unit: str = "",
) -> str:
    """A table of (first cells, part, metric); lines that no variant has are left out."""
    rows = []
    for cells, part, metric in lines:
        found = _row(measured, chosen, part, metric)
        if any(cell is not None for cell in found):
            shown = show_auroc if metric.startswith("auroc") else show
            rows.append([*cells, _n(found), *map(shown, found)])
    return table([*head, "n", *_columns(chosen, unit)], rows)


def accuracy_table(measured: Measured, chosen: Sequence[Variant]) -> str:
    """Accuracy per set."""
    names = list(dict.fromkeys(part for variant in chosen for part in suites(measured, variant)))
    lines = [
        ([part, label], part, metric)
        for part in names
        for metric, label in (
            ("intent_accuracy", "intent accuracy"),
            ("frame_accuracy", "frame accuracy"),
            ("accuracy", "right answer"),
            ("well_formed", "well-formed answer"),
        )
        if part != OOS and (metric != "well_formed" or part == PROBLEMS)
    ]
    return _table(measured, chosen, lines, ["rows", "metric"], ", %")


def problems_table(measured: Measured, chosen: Sequence[Variant], by: str) -> str:
    """Word problems by number of steps (`by` is `steps`) or by kind (`kind`)."""
    prefix = f"accuracy_{by}_"
    found = {
        name
        for variant in chosen
        for name in suites(measured, variant).get(PROBLEMS, {})
        if name.startswith(prefix)
    }
    lines = [([name.removeprefix(prefix)], PROBLEMS, name) for name in sorted(found)]
    return _table(measured, chosen, lines, [by], ", %")


def auroc_table(measured: Measured, chosen: Sequence[Variant]) -> str:
    """AUROC of raw signals for a right answer."""
    lines = [([part, signal], part, f"auroc_{signal}") for part in TESTS for signal in SIGNALS]
    return _table(measured, chosen, lines, ["rows", "signal"])


def oos_table(measured: Measured, chosen: Sequence[Variant]) -> str:
    """Telling what is none of its business, asked without task and dialect."""
    return _table(measured, chosen, [([label], OOS, name) for name, label in NAMES.items()], ["metric"])


def fidelity_table(measured: Measured, chosen: Sequence[Variant]) -> str:
    """Size, and what the scheme changed."""
    rows = []
    for model, scheme in chosen:
        entry = measured[model]["schemes"][scheme]
        f, size = entry.get("fidelity"), f"{entry['package_bytes'] / 1e6:.1f}"
        if f is None:
            rows.append([model, scheme, size, "–", "–", "–", "–"])
            continue
        figures = (f"{f['kl_mean']:.1e}", f"{f['kl_p99']:.1e}", f"{100 * f['top1_agreement']:.2f}")
        rows.append([model, scheme, size, *figures, f"{f['perplexity_ratio']:.4f}"])
    head = [
        "model", "scheme", "package, MB", "KL mean, nats", "KL 99th percentile", "same first choice, %",
        "perplexity ratio",
    ]  # fmt: skip
    return table(head, rows)


def figures_text(measured: Measured, shipped: Mapping[str, str]) -> str:
    """The figures of docs/models.md; `shipped` is the scheme of each model's package."""
    chosen, packages = variants(measured), [(model, shipped[model]) for model in sorted(measured)]
    said = " and ".join(f"`{model}` as `{scheme}`" for model, scheme in packages)
    return "\n\n".join(
        (
            f"The installation has {said}; the other columns are what those were chosen among.",
            accuracy_table(measured, chosen),
            "![Accuracy on the public test rows of both models, float32 and as shipped](images/pocket.png)",
            "### Word problems by number of steps",
            problems_table(measured, chosen, "steps"),
            "![Word problems answered right, by number of steps](images/problems.png)",
            "By kind (a problem may be of several; shipped packages):",
            problems_table(measured, packages, "kind"),
            "### What the raw signals tell",
            "AUROC of a signal for a right answer (one half is chance; `answer.…` is over the decisive "
            "tokens alone; shipped packages):",
            auroc_table(measured, packages),
            "### None of its business",
            "Asked without task and dialect (percent; AUROC from 0 to 1):",
            oos_table(measured, chosen),
            "### What quantization changed",
            "Over prompts and right answers of held-out rows:",
            fidelity_table(measured, chosen),
        )
    )


def _error(metrics: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [[m["value"] - m["low"] for m in metrics], [m["high"] - m["value"] for m in metrics]]


def draw_accuracy(measured: Measured, shipped: Mapping[str, str], path: Path) -> None:
    """Bars with intervals per suite: each model in float32 (pale) and as it is shipped."""
    from matplotlib import pyplot as plt

    groups = [
        ("hwu64\nintent", "hwu64", "intent_accuracy"),
        ("hwu64\nframe", "hwu64", "frame_accuracy"),
        ("ha_intents\nintent", "ha_intents", "intent_accuracy"),
        ("ha_intents\nframe", "ha_intents", "frame_accuracy"),
        ("word problems\nanswer", PROBLEMS, "accuracy"),
    ]
    bars = [
        (model, scheme) for model in sorted(measured) for scheme in dict.fromkeys(("fp32", shipped[model]))
    ]
    width = 0.84 / len(bars)
    figure, axes = plt.subplots(figsize=(9, 4), constrained_layout=True)
    for i, (model, scheme) in enumerate(bars):
        found = [suites(measured, (model, scheme))[part][metric] for _, part, metric in groups]
        at = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(groups))]
        values = [100 * m["value"] for m in found]
        axes.bar(
            at, values, 0.92 * width, label=f"{model} {scheme}", color=COLOURS.get(model),
            alpha=1.0 if scheme == shipped[model] else PALE,
            yerr=[[100 * x for x in side] for side in _error(found)], capsize=2, error_kw={"lw": 0.8},
        )  # fmt: skip
        for x, value in zip(at, values, strict=True):
            axes.text(x, 2, f"{value:.0f}", ha="center", va="bottom", fontsize=7.5)
    axes.set_xticks(range(len(groups)), [name for name, _, _ in groups])
    axes.set_ylabel("right, %")
    axes.set_ylim(0, 105)
    axes.set_title("Public test rows, 95 % intervals", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(bars), frameon=False)
    _save(figure, path)


def draw_problems(measured: Measured, shipped: Mapping[str, str], path: Path) -> None:
    """Word problems right by number of steps, a line per model with its intervals."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4), constrained_layout=True)
    for i, model in enumerate(sorted(measured)):
        found = suites(measured, (model, shipped[model]))[PROBLEMS]
        by_steps = {int(name.rpartition("_")[2]): m for name, m in found.items() if "_steps_" in name}
        steps = sorted(by_steps)
        metrics = [by_steps[s] for s in steps]
        axes.errorbar(
            [s + 0.04 * (i - 0.5) for s in steps], [100 * m["value"] for m in metrics],
            yerr=[[100 * x for x in side] for side in _error(metrics)], marker="o", capsize=3,
            label=f"{model} {shipped[model]}: {100 * found['accuracy']['value']:.0f} % overall",
            color=COLOURS.get(model),
        )  # fmt: skip
    axes.set_xlabel("steps of the problem")
    axes.set_ylabel("right, %")
    axes.set_ylim(0, 105)
    axes.set_title("Word problems in wordings not trained on, 100 rows per point", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
