"""From a checkpoint and its figures to the shipped package, its card, and the page with the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
CARD = Path(__file__).with_name("card.md")
PAGE, PICTURE = ROOT / "docs" / "models.md", ROOT / "docs" / "images" / "pocket.png"
ATTRIBUTION = (
    "Liu et al. 2019, NLU-Evaluation-Data (hwu64), https://github.com/xliuhw/NLU-Evaluation-Data, CC BY 4.0",
    "Home Assistant intents, https://github.com/home-assistant/intents, CC BY 4.0",
    "Larson et al. 2019, clinc150, https://github.com/clinc/oos-eval, CC BY 3.0",
)
BEGIN, END = "<!-- figures: python -m tools.train ship -->", "<!-- end of figures -->"
NAMES = {
    "intent_accuracy": "intent accuracy",
    "frame_accuracy": "frame accuracy",
    "valid_json": "valid JSON",
    "none_rate_out_of_scope": "answered `none`, out-of-scope rows (clinc150)",
    "none_rate_in_domain": "answered `none`, in-domain rows (lower is better)",
    "auroc_verdict_mean_logprob": "AUROC of verdict and mean log-probability",
    "fpr95_verdict_mean_logprob": "false positives at 95 % true positives",
    "none_rate_clinc150_in_scope": "answered `none`, clinc150's in-scope rows (apart)",
}
Schemes = Mapping[str, Mapping[str, Any]]


def show(metric: Mapping[str, Any]) -> str:
    """A share as percent with its interval."""
    if metric["value"] is None:
        return "–"
    return f"{100 * metric['value']:.1f} ({100 * metric['low']:.1f}–{100 * metric['high']:.1f})"


def show_auroc(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "–"
    return f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(schemes: Schemes) -> str:
    """Intent and frame accuracy per set, a column per scheme."""
    first = next(iter(schemes.values()))["suites"]
    rows = []
    for suite in first:
        if suite == "oos":
            continue
        for metric in ("intent_accuracy", "frame_accuracy"):
            n = str(first[suite][metric]["n"])
            rows.append(
                [suite, NAMES[metric], n, *(show(s["suites"][suite][metric]) for s in schemes.values())]
            )
    return table(["rows", "metric", "n", *(f"{name}, %" for name in schemes)], rows)


def auroc_table(schemes: Schemes, suites: tuple[str, ...] = ("hwu64", "ha_intents")) -> str:
    """AUROC of each raw signal for a right frame."""
    first = next(iter(schemes.values()))["suites"]
    signals = [name for name in first["hwu64"] if name.startswith("auroc_")]
    rows = [
        [
            suite,
            name.removeprefix("auroc_"),
            *(show_auroc(s["suites"][suite][name]) for s in schemes.values()),
        ]
        for suite in suites
        for name in signals
    ]
    return table(["rows", "signal", *schemes], rows)


def oos_table(schemes: Schemes) -> str:
    """Telling what is none of its business, asked without a dialect."""
    first = next(iter(schemes.values()))["suites"]["oos"]
    rows = []
    for metric in NAMES:
        if metric in first:
            shown = show_auroc if metric.startswith("auroc") else show
            n = str(first[metric]["n"])
            rows.append([NAMES[metric], n, *(shown(s["suites"]["oos"][metric]) for s in schemes.values())])
    return table(["metric", "n", *(f"{name}" for name in schemes)], rows)


def fidelity_table(schemes: Schemes) -> str:
    """Size, and what the scheme changed."""
    rows = []
    for name, entry in schemes.items():
        f = entry.get("fidelity")
        size = f"{entry['package_bytes'] / 1e6:.1f}"
        if f is None:
            rows.append([name, size, "–", "–", "–", "–"])
            continue
        figures = (f"{f['kl_mean']:.1e}", f"{f['kl_p99']:.1e}", f"{100 * f['top1_agreement']:.2f}")
        rows.append([name, size, *figures, f"{f['perplexity_ratio']:.4f}"])
    head = [
        "scheme",
        "package, MB",
        "KL mean, nats",
        "KL 99th percentile",
        "same first choice, %",
        "perplexity ratio",
    ]
    return table(head, rows)


def draw(schemes: Schemes, path: Path) -> None:
    """Accuracy with intervals, and AUROC of the signals, as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    groups = [
        (f"{suite}\n{NAMES[metric].split()[0]}", suite, metric)
        for suite in ("hwu64", "ha_intents")
        for metric in ("intent_accuracy", "frame_accuracy")
    ]
    found = [entry["suites"]["hwu64"] for entry in schemes.values()]
    signals = [
        n for n in found[0] if n.startswith("auroc_") and all(f[n]["value"] is not None for f in found)
    ]
    width = 0.8 / len(schemes)
    for i, (name, entry) in enumerate(schemes.items()):
        suites = entry["suites"]
        bars = [suites[suite][metric] for _, suite, metric in groups]
        for axes, metrics in ((left, bars), (right, [suites["hwu64"][s] for s in signals])):
            values = [m["value"] for m in metrics]
            error = [[m["value"] - m["low"] for m in metrics], [m["high"] - m["value"] for m in metrics]]
            at = [x + (i - (len(schemes) - 1) / 2) * width for x in range(len(metrics))]
            axes.bar(at, values, width, yerr=error, label=name, capsize=2, error_kw={"lw": 0.8})
    left.set_xticks(range(len(groups)), [g[0] for g in groups])
    left.set_title("accuracy, public test rows")
    left.set_ylim(0, 1)
    right.set_xticks(range(len(signals)), [s.removeprefix("auroc_").replace("_", "\n") for s in signals])
    right.set_title("AUROC of raw signals for a right frame, hwu64")
    right.set_ylim(0.5, 1)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    left.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def card_text(run: Path, schemes: Schemes, scheme: str) -> str:
    """The model card with its figures."""
    config = json.loads((run / "config.json").read_text())
    state = json.loads((run / "summary.json").read_text())
    shape = config["model"]
    own = {name: schemes[name] for name in ("fp32", scheme)}
    hwu = schemes[scheme]["suites"]["hwu64"]["frame_accuracy"]["value"]
    f = schemes[scheme]["fidelity"]
    share = f"{100 * f['top1_agreement']:.2f}"
    fidelity = f"KL {f['kl_mean']:.1e} nats per token on average, {share} % the same first choice."
    return CARD.read_text(encoding="utf-8").format(
        figures=f"{accuracy_table(own)}\n\n{auroc_table(own)}\n\n{oos_table(own)}",
        fidelity=fidelity,
        parameters=f"{state['parameters'] / 1e6:.1f}",
        size=f"{schemes[scheme]['package_bytes'] / 1e6:.1f}",
        scheme=scheme,
        missed=f"{100 * (1 - hwu):.0f}",
        seed=config["seed"],
        vocabulary=state["vocabulary"],
        tokens=f"{state['tokens'] / 1e6:.1f}",
        minutes=f"{state['minutes']:.0f}",
        **{k: shape[k] for k in ("layers", "hidden", "heads", "kv_heads", "ffn")},
    )


def fill(page: Path, text: str) -> None:
    """Put `text` between the markers of a page.

    Raises:
        click.ClickException: the page has no markers.
    """
    old = page.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise click.ClickException(f"{page} has no lines '{BEGIN}' and '{END}' to write between")
    head, tail = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def figures_text(schemes: Schemes, scheme: str) -> str:
    """The figures of docs/models.md."""
    return "\n\n".join(
        (
            f"The shipped package is `{scheme}`.",
            accuracy_table(schemes),
            "![Accuracy with intervals, and AUROC of the raw signals](images/pocket.png)",
            "AUROC of the raw signals for a right frame (one half is chance):",
            auroc_table(schemes),
            "Telling what is none of its business, asked without a dialect:",
            oos_table(schemes),
            "What quantization changed, over prompts and right answers of held-out rows:",
            fidelity_table(schemes),
        )
    )


def ship(run: Path, checkpoint: Path, measured: Path, scheme: str, out: Path) -> None:
    """Write the package `out` in `scheme`, with card, licence, attribution and figures; fill the page."""
    from model_zoo.writer import amend
    from quantize import Scheme, quantize_checkpoint

    schemes: Schemes = json.loads(measured.read_text())["schemes"]
    (checkpoint / "MODEL_CARD.md").write_text(card_text(run, schemes, scheme), encoding="utf-8")
    (checkpoint / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())
    manifest = quantize_checkpoint(
        checkpoint, out, scheme=Scheme.named(scheme), name=out.name, overwrite=True, repository="tools/train"
    )
    suites = schemes[scheme]["suites"]
    evaluation = {
        suite: {name: suites[suite][name] for name in metrics}
        for suite, metrics in {
            "hwu64": ("intent_accuracy", "frame_accuracy", "auroc_mean_logprob"),
            "ha_intents": ("intent_accuracy", "frame_accuracy", "auroc_mean_logprob"),
            "oos": ("auroc_verdict_mean_logprob", "none_rate_out_of_scope", "none_rate_in_domain"),
        }.items()
    }
    licence = manifest.to_dict()["licence"] | {"id": "Apache-2.0", "attribution": list(ATTRIBUTION)}
    quantization = {k: v for k, v in schemes[scheme]["fidelity"].items() if k != "kl"}
    amend(out, {"licence": licence, "evaluation": {**evaluation, "quantization": quantization}})
    fill(PAGE, figures_text(schemes, scheme))
    draw(schemes, PICTURE)
