"""Measure what each quantization scheme and method costs on one checkpoint: a table, figures and a picture.

    python tools/compare_schemes.py CHECKPOINT --text FILE [--calibration-text FILE] --out FOLDER

A text is plain, or `.jsonl` with a `text` per line, or rows of hwu64 or ha_intents, which become prompt and
right answer as the model was trained on them. Rows are drawn from all over a file, the same ones every
time. Every variant is exported, compared with the float32 export on the same text (`quantize.report`), and
deleted. Random weights cannot rank schemes: use a checkpoint that was trained."""

from __future__ import annotations

import contextlib
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from edge_runtime.evaluation import read as read_cases
from edge_runtime.model import LoadedModel
from quantize import Scheme, quantize_checkpoint
from quantize.calibration import calibrated_quantizer
from quantize.methods import CALIBRATED
from quantize.report import Fidelity, compare
from quantize.text import read_rows

TEXT_TOKENS = 16384


@dataclass(frozen=True)
class Variant:
    """One row of the table; None leaves a choice to the scheme."""

    scheme: str
    method: str | None = None
    block_size: int | None = None
    head_bits: int | None = None
    head_block_size: int | None = None
    own_text: bool = False

    @property
    def label(self) -> str:
        """Short name: scheme, block, method, head."""
        parts = [self.scheme]
        parts += [f"b{self.block_size}"] if self.block_size else []
        parts += [self.method] if self.method else []
        parts += (
            [f"head{self.head_bits}" + (f"/{self.head_block_size}" if self.head_block_size else "")]
            if self.head_bits
            else []
        )
        parts += ["own text"] if self.own_text else []
        return " ".join(parts)

    def resolve(self) -> Scheme:
        """The checked scheme."""
        return Scheme.named(
            self.scheme,
            method=self.method,
            block_size=self.block_size,
            head_bits=self.head_bits,
            head_block_size=self.head_block_size,
        )


def variants(calibrated: bool) -> list[Variant]:
    """What is compared: every method at every block size, then heads, then the other schemes."""
    methods = ["rtn", "search", *(CALIBRATED if calibrated else ())]
    found = [Variant("int4", method, block) for block in (32, 64, 128) for method in methods]
    found += [Variant("int4", "gptq", block, own_text=True) for block in (32, 64, 128)]
    found += [Variant("int4", "search", 64, 4, 32), Variant("int4", "search", 64, 16)]
    found += [Variant("int8", method, block) for block in (32, 128) for method in ("rtn", "search")]
    return [*found, Variant("fp16")]


def read(model: LoadedModel, paths: Sequence[Path], tokens: int) -> list[list[int]]:
    """About `tokens` tokens of the texts, in equal shares, as rows of the model's tokens."""
    rows: list[list[int]] = []
    for path in paths:
        share = tokens // len(paths)
        first = path.open(encoding="utf-8").readline()
        if path.suffix != ".jsonl" or '"intent"' not in first:
            rows += read_rows(path, model.tokenizer.encode, limit=share)
            continue
        cases = [case for case in read_cases(path) if case.reference is not None]
        random.Random(0).shuffle(cases)
        end = "".join(filter(None, map(model.tokenizer.token, model.tokenizer.eos_ids[:1])))
        taken = 0
        for case in cases:
            answer = model.tokenizer.encode(case.reference.to_json() + end)
            rows.append([*model.prompt(case.messages()), *answer])
            taken += len(rows[-1])
            if taken >= share:
                break
    return rows


def measure(
    checkpoint: Path,
    variant: Variant,
    reference: LoadedModel,
    reference_bytes: int,
    rows: list[list[int]],
    calibration: list[list[int]] | None,
    folder: Path,
) -> tuple[Fidelity, float]:
    """Export a variant and compare it; returns the figures and the seconds that the export took."""
    scheme, package = variant.resolve(), folder / "variant"
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        quantizer = None
        if scheme.method in CALIBRATED:
            rows_in = None if variant.own_text else calibration
            quantizer = stack.enter_context(
                calibrated_quantizer(checkpoint, rows_in, scheme.method, workspace=folder)
            )
        manifest = quantize_checkpoint(
            checkpoint, package, scheme=scheme, quantizer=quantizer, overwrite=True
        )
    seconds = time.perf_counter() - started
    candidate = LoadedModel.open(package)
    found = compare(
        reference.engine,
        candidate.engine,
        rows,
        reference_bytes=reference_bytes,
        package_bytes=manifest.size_bytes,
    )
    candidate.engine.close()
    return found, seconds


def picture(found: dict[Variant, Fidelity], path: Path) -> None:
    """Mean KL against block size, a line per method; and the tails of a few variants."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    mean, tail = figure.subplots(1, 2)
    lines: dict[str, list[tuple[int, Fidelity]]] = {}
    for variant, figures in found.items():
        if variant.method and variant.block_size and not variant.head_bits:
            name = f"{variant.scheme} {variant.method}{' (own text)' if variant.own_text else ''}"
            lines.setdefault(name, []).append((variant.block_size, figures))
    for name, points in lines.items():
        blocks, values = [block for block, _ in points], [f.kl_mean for _, f in points]
        bars = [2 * f.kl_error for _, f in points]
        mean.errorbar(blocks, values, yerr=bars, marker="o", capsize=3, label=name)
    mean.set(xlabel="block size", ylabel="mean KL(float32 ‖ quantized), nats", title="What a method costs")
    mean.set(xscale="log", yscale="log")
    mean.set_xticks([32, 64, 128], ["32", "64", "128"])
    mean.minorticks_off()
    for variant, figures in found.items():
        shown = (
            variant.block_size in ((128,) if variant.scheme == "int8" else (64,)) and not variant.head_bits
        )
        if not shown or variant.method == "weighted":
            continue
        ordered = np.sort(np.maximum(figures.kl, 1e-7))
        tail.loglog(ordered, 1 - np.arange(len(ordered)) / len(ordered), label=variant.label)
    tail.set(
        xlabel="KL, nats", ylabel="share of tokens above", title="Tail of the divergence", xlim=(1e-5, None)
    )
    for axes in (mean, tail):
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def page(text: str, facts: dict[str, Any], rows: str) -> str:
    """The page with the part between its markers written anew.

    Raises:
        click.ClickException: the page has no markers.
    """
    begin, end = "<!-- schemes: written by tools/compare_schemes.py -->", "<!-- /schemes -->"
    if begin not in text or end not in text:
        raise click.ClickException(f"the page lacks the markers {begin} and {end}")
    told = (
        f"Checkpoint: {facts['checkpoint']}, {facts['parameters'] / 1e6:.1f} M parameters; "
        f"{facts['tokens']} tokens of {', '.join(facts['texts'])} (float32 perplexity "
        f"{facts['perplexity_float32']:.3f}, size {facts['size_float32'] / 2**20:.2f} MiB)"
    )
    if facts["calibration_tokens"]:
        told += (
            f"; calibrated on {facts['calibration_tokens']} tokens of {', '.join(facts['calibration_texts'])}"
        )
    head, rest = text.split(begin)[0], text.split(end)[1]
    return f"{head}{begin}\n\n{told}.\n\n{rows}\n{end}{rest}"


def table(results: dict[str, tuple[Fidelity, float]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| scheme | KL mean, nats | ± | KL p99 | top-1 agreement | perplexity ratio | size, MiB | time, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for label, (f, seconds) in results.items():
        lines.append(
            f"| {label} | {f.kl_mean:.5f} | {f.kl_error:.5f} | {f.kl_p99:.4f} | {f.top1_agreement:.2%} "
            f"| {f.perplexity_ratio:.4f} | {f.package_bytes / 2**20:.2f} | {seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    multiple=True,
    help="Text to compare on; several share the tokens.",
)
@click.option(
    "--calibration-text",
    "calibration_texts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Another text, to calibrate on.",
)
@click.option("--tokens", type=int, default=TEXT_TOKENS, show_default=True, help="Tokens of each text.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for schemes.md, .json and .png."
)
@click.option(
    "--page", "pages", type=click.Path(path_type=Path, exists=True), help="Page to write the table into."
)
@click.option("--only", help="Variants whose label contains this.")
def main(
    checkpoint: Path,
    texts: tuple[Path, ...],
    calibration_texts: tuple[Path, ...],
    tokens: int,
    out: Path,
    pages: Path | None,
    only: str | None,
) -> None:
    """Compare quantization schemes on CHECKPOINT."""
    chosen = [v for v in variants(bool(calibration_texts)) if only is None or only in v.label]
    results: dict[str, tuple[Fidelity, float]] = {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".schemes-") as temporary:
        folder = Path(temporary)
        full = quantize_checkpoint(checkpoint, folder / "float32", scheme=Scheme.named("fp32"))
        reference = LoadedModel.open(folder / "float32")
        rows = read(reference, texts, tokens)
        calibration = read(reference, calibration_texts, tokens // 2) if calibration_texts else None
        for variant in chosen:
            results[variant.label] = measure(
                checkpoint, variant, reference, full.size_bytes, rows, calibration, folder
            )
            found, seconds = results[variant.label]
            click.echo(
                f"{variant.label:28} KL {found.kl_mean:.5f} p99 {found.kl_p99:.4f} {seconds:.1f} s", err=True
            )
        reference.engine.close()
    some = next(iter(results.values()))[0]
    facts: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "parameters": full.parameters,
        "texts": [path.parent.name + "/" + path.name for path in texts],
        "calibration_texts": [path.parent.name + "/" + path.name for path in calibration_texts],
        "calibration_tokens": sum(map(len, calibration)) if calibration else 0,
        "tokens": some.tokens,
        "perplexity_float32": some.perplexity_reference,
        "size_float32": some.reference_bytes,
        "machine": platform.machine(),
        "variants": {label: {**f.to_dict(), "seconds": round(s, 2)} for label, (f, s) in results.items()},
    }
    (out / "schemes.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "schemes.md").write_text(table(results), encoding="utf-8")
    picture({variant: results[variant.label][0] for variant in chosen}, out / "schemes.png")
    if pages is not None:
        pages.write_text(page(pages.read_text(encoding="utf-8"), facts, table(results)), encoding="utf-8")
    click.echo(table(results))


if __name__ == "__main__":
    main()
