"""Measure what each quantization scheme and method costs on one checkpoint: a table, figures and a picture.

    python tools/compare_schemes.py CHECKPOINT --text FILE [--calibration-text FILE] --out FOLDER

Every variant is exported, compared with the float32 export on the same text (`quantize.report`), and deleted.
Random weights cannot rank schemes: use a checkpoint that was trained.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from edge_runtime.model import LoadedModel
from edge_runtime.tokenizer import Tokenizer
from quantize import Scheme, quantize_checkpoint
from quantize.calibration import calibrated_quantizer
from quantize.methods import CALIBRATED
from quantize.report import Fidelity, compare, draw
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
    best = "gptq" if calibrated else "search"
    found += [Variant("int4", best, 64, 4, 32), Variant("int4", best, 64, 16)]
    found += [Variant("int8", method, block) for block in (32, 128) for method in ("rtn", "search")]
    return [*found, Variant("fp16")]


def read(folder: Path, path: Path, tokens: int) -> list[list[int]]:
    """Rows of the text in the checkpoint's tokens."""
    return read_rows(path, Tokenizer.from_file(folder / "tokenizer.json").encode, limit=tokens)


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
            assert calibration is not None
            quantizer = stack.enter_context(
                calibrated_quantizer(checkpoint, calibration, scheme.method, workspace=folder)
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
    "--text", type=click.Path(path_type=Path, exists=True), required=True, help="Text to compare on."
)
@click.option(
    "--calibration-text", type=click.Path(path_type=Path, exists=True), help="Another text, to calibrate on."
)
@click.option("--tokens", type=int, default=TEXT_TOKENS, show_default=True, help="Tokens of each text.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for schemes.md, .json and .png."
)
@click.option("--only", help="Variants whose label contains this.")
def main(
    checkpoint: Path, text: Path, calibration_text: Path | None, tokens: int, out: Path, only: str | None
) -> None:
    """Compare quantization schemes on CHECKPOINT."""
    rows = read(checkpoint, text, tokens)
    calibration = read(checkpoint, calibration_text, tokens) if calibration_text else None
    chosen = [v for v in variants(calibration is not None) if only is None or only in v.label]
    results: dict[str, tuple[Fidelity, float]] = {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".schemes-") as temporary:
        folder = Path(temporary)
        full = quantize_checkpoint(checkpoint, folder / "float32", scheme=Scheme.named("fp32"))
        reference = LoadedModel.open(folder / "float32")
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
        "text": text.name,
        "calibration_text": calibration_text.name if calibration_text else None,
        "tokens": some.tokens,
        "perplexity_float32": some.perplexity_reference,
        "size_float32": some.reference_bytes,
        "machine": platform.machine(),
        "variants": {label: {**f.to_dict(), "seconds": round(s, 2)} for label, (f, s) in results.items()},
    }
    (out / "schemes.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "schemes.md").write_text(table(results), encoding="utf-8")
    draw({label: found for label, (found, _) in results.items()}, out / "schemes.png")
    click.echo(table(results))


if __name__ == "__main__":
    main()
