"""From a checkpoint and its figures to the shipped package, its card, and the page with the figures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST

from . import page
from .page import Measured

ROOT = Path(__file__).resolve().parents[2]
CARD = Path(__file__).with_name("card.md")
PAGE, IMAGES = ROOT / "docs" / "models.md", ROOT / "docs" / "images"
PACKAGES = ROOT / "model_zoo" / "packages"
PROMPTS = ROOT / "tests" / "vectors" / "pocket" / "prompts.json"
ATTRIBUTION = (
    "Liu et al. 2019, NLU-Evaluation-Data (hwu64), https://github.com/xliuhw/NLU-Evaluation-Data, CC BY 4.0",
    "Home Assistant intents, https://github.com/home-assistant/intents, CC BY 4.0",
    "Larson et al. 2019, clinc150, https://github.com/clinc/oos-eval, CC BY 3.0",
)
BEGIN, END = "<!-- figures: python -m tools.train ship -->", "<!-- end of figures -->"
IN_MANIFEST = {
    "hwu64": ("intent_accuracy", "frame_accuracy", "auroc_mean_logprob"),
    "ha_intents": ("intent_accuracy", "frame_accuracy", "auroc_mean_logprob"),
    "problems": (
        "accuracy", "well_formed", *(f"accuracy_steps_{i}" for i in range(1, 7)), "auroc_mean_logprob",
    ),
    "oos": ("auroc_verdict_mean_logprob", "none_rate_out_of_scope", "none_rate_in_domain"),
}  # fmt: skip
WIDTH = 120
PLACE = {
    "pocket": "It is made for boards as small as a Raspberry Pi Zero 2: the package takes {size} MB.",
    "pocket-cloud": "It is the larger sibling of `pocket` and stands in for a cloud model beside it: same "
    "format, same tokenizer, same chat template, so a query goes to either as it is. The package takes "
    "{size} MB.",
}


def share(metric: Mapping[str, Any]) -> str:
    """Percent without an interval."""
    return f"{100 * metric['value']:.0f}"


def mean_share(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Percent over rows of several metrics together."""
    rows = sum(m["n"] for m in metrics)
    return f"{100 * sum(m['value'] * m['n'] for m in metrics) / rows:.0f}"


def recipe(config: Mapping[str, Any]) -> str:
    """How the weights were moved, in a sentence's part."""
    adam = "AdamW"
    if config.get("matrix_rate"):
        adam = "Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest"
    arithmetic = {"float32": "float32", "bfloat16": "bfloat16"}[config["dtype"]]
    return f"{adam}, {arithmetic} arithmetic, {config['workers']} one-threaded processes on CPU cores"


def begun(config: Mapping[str, Any]) -> str:
    """What the weights were before the first step, as a sentence's end."""
    if not config.get("grow_from"):
        return "No weights of other models went into it"
    return (
        f"It began as the trained `{config['grow_from']}`, grown to twice its widths and with more blocks, "
        "which computes the same (Net2Net: Chen, Goodfellow and Shlens 2016); the tokens are those after "
        "that. No other weights went into it"
    )


def card_text(model: str, run: Path, measured: Measured, scheme: str) -> str:
    """The model card with its figures."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    state = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    own = [(model, name) for name in dict.fromkeys(("fp32", scheme))]
    figures = page.suites(measured, (model, scheme))
    entry = measured[model]["schemes"][scheme]
    size = f"{entry['package_bytes'] / 1e6:.1f}"
    by_steps = [figures["problems"][f"accuracy_steps_{i}"] for i in range(1, 7)]
    fidelity = "The package is the float32 checkpoint itself."
    if f := entry.get("fidelity"):
        fidelity = (
            f"KL {f['kl_mean']:.1e} nats per token on average, {100 * f['top1_agreement']:.2f} % the same "
            "first choice."
        )
    card = CARD.read_text(encoding="utf-8").format(
        model=model,
        place=PLACE[model].format(size=size),
        figures="\n\n".join(
            (
                page.accuracy_table(measured, own),
                "Word problems by number of steps:",
                page.problems_table(measured, own, "steps"),
                "AUROC of the raw signals for a right answer:",
                page.auroc_table(measured, own),
                "None of its business (asked without task and dialect):",
                page.oos_table(measured, own),
            )
        ),
        fidelity=fidelity,
        parameters=f"{state['parameters'] / 1e6:.1f}",
        scheme=scheme,
        missed=f"{100 * (1 - figures['hwu64']['frame_accuracy']['value']):.0f}",
        short=mean_share(by_steps[:2]),
        long=mean_share(by_steps[4:]),
        outside=share(figures["oos"]["none_rate_out_of_scope"]),
        seed=config["seed"],
        vocabulary=state["vocabulary"],
        tokens=f"{state['tokens'] / 1e6:.1f}",
        minutes=f"{state['minutes']:.0f}",
        recipe=recipe(config),
        begun=begun(config),
        held_out=config["validation_rows"],
        **{k: config["model"][k] for k in ("layers", "hidden", "heads", "kv_heads", "ffn")},
    )
    return "\n".join(_wrapped(line) for line in card.split("\n"))


def _wrapped(line: str) -> str:
    """The line in lines that fit a page; tables stay as they are."""
    if len(line) <= WIDTH or line.startswith("|"):
        return line
    indent = "  " if line.startswith(("- ", "  ")) else ""
    return textwrap.fill(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def fill(target: Path, text: str) -> None:
    """Put `text` between the markers of a page.

    Raises:
        click.ClickException: the page has no markers.
    """
    old = target.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise click.ClickException(f"{target} has no lines '{BEGIN}' and '{END}' to write between")
    head, tail = old.split(BEGIN)[0], old.split(END)[1]
    target.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def write_page(measured: Measured, shipped: Mapping[str, str]) -> None:
    """The figures and pictures of docs/models.md."""
    import matplotlib as mpl

    mpl.use("Agg")
    fill(PAGE, page.figures_text(measured, shipped))
    page.draw_accuracy(measured, shipped, IMAGES / "pocket.png")
    page.draw_problems(measured, shipped, IMAGES / "problems.png")


def write_ids(tokenizer_file: Path, vectors: Path = PROMPTS) -> None:
    """The token ids of the prompts in the vectors, which belong to the shipped tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = json.loads(vectors.read_text(encoding="utf-8"))
    for row in rows:
        row["ids"] = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    vectors.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_measured(folder: Path) -> dict[str, Any]:
    """What was measured, by model: `FOLDER/MODEL/measured.json`.

    Raises:
        click.ClickException: nothing was, or on word problems that are no longer the test set.
    """
    found = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*/measured.json"))
    }
    if not found:
        raise click.ClickException(
            f"{folder} has no MODEL/measured.json: run `python -m tools.train measure`"
        )
    for name, value in found.items():
        if value["problems_sha256"] != PROBLEMS_TEST.sha256:
            raise click.ClickException(
                f"{folder}: the figures of {name} are of another test set of word problems: run measure again"
            )
    return found


def shipped_schemes(measured: Measured, packages: Path = PACKAGES, default: str = "int8") -> dict[str, str]:
    """The scheme of each measured model's package; `default` where there is no package yet."""
    schemes = {}
    for model in measured:
        path = packages / model / "manifest.json"
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = told.get("quantization", {}).get("scheme", default)
        schemes[model] = found if found in measured[model]["schemes"] else default
    return schemes


def ship(model: str, run: Path, checkpoint: Path, folder: Path, scheme: str, out: Path) -> None:
    """Write the package `out` in `scheme`, with card, licence, attribution and figures; fill the page.

    Args:
        folder: that of the figures; those of other models are on the page too.

    Raises:
        click.ClickException: the model or the scheme was not measured, or the weights are others by now.
    """
    from model_zoo.writer import amend
    from quantize import Scheme, quantize_checkpoint
    from tools.answers import identity_of

    measured = read_measured(folder)
    if scheme not in measured.get(model, {}).get("schemes", {}):
        raise click.ClickException(f"{folder} has no figures of {model} in {scheme}: run measure first")
    entry = measured[model]["schemes"][scheme]
    kind = Scheme.named(scheme)
    trial = quantize_checkpoint(checkpoint, folder / model / scheme, scheme=kind, name=model, overwrite=True)
    if identity_of(trial) != entry["identity"]:
        raise click.ClickException(f"the figures in {folder} are not of {checkpoint}: run measure again")
    (checkpoint / "MODEL_CARD.md").write_text(card_text(model, run, measured, scheme), encoding="utf-8")
    (checkpoint / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())
    manifest = quantize_checkpoint(
        checkpoint, out, scheme=kind, name=model, overwrite=True, repository="tools/train"
    )
    evaluation = {
        part: {name: entry["suites"][part][name] for name in metrics} for part, metrics in IN_MANIFEST.items()
    }
    if "fidelity" in entry:
        evaluation["quantization"] = entry["fidelity"]
    licence = manifest.to_dict()["licence"] | {"id": "Apache-2.0", "attribution": list(ATTRIBUTION)}
    amend(out, {"licence": licence, "evaluation": evaluation})
    if model == "pocket":
        write_ids(out / "tokenizer.json")
    write_page(measured, {**shipped_schemes(measured), model: scheme})
