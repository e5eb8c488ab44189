"""Command line of the training: `python -m tools.train --help`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

# Large tensors come and go at every step: keep their pages instead of giving them back to the system (half
# the time of a step goes into page faults otherwise). glibc reads these when a process starts.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


def keep_pages() -> None:
    """Start this process anew with the allocator's settings, unless it has them."""
    if any(os.environ.get(k) != value for k, value in MALLOC.items()):
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, "-m", "tools.train", *sys.argv[1:]])


def data_folder() -> Path:
    from edge_runtime.evaluation.rows import data_folder as folder

    return folder()


@click.group()
def main() -> None:
    """Train the shipped models and export them as Hugging Face checkpoints."""


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/pocket"), show_default=True)
@click.option("--minutes", type=float, default=None, help="Length of the schedule.")
@click.option("--seed", type=int, default=None)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=None)
@click.option("--workers", type=int, default=None, help="One-threaded processes.")
def train(out: Path, minutes: float | None, seed: int | None, dtype: str | None, workers: int | None) -> None:
    """Train, or resume what is in the folder."""
    keep_pages()
    from .config import TrainConfig
    from .loop import start

    given = {"minutes": minutes, "seed": seed, "dtype": dtype, "workers": workers}
    start(
        replace(TrainConfig(), **{k: x for k, x in given.items() if x is not None}),
        data_folder(),
        out.resolve(),
    )


@main.command()
@click.option(
    "--run", type=click.Path(path_type=Path, exists=True), default=Path("runs/pocket"), show_default=True
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/pocket-checkpoint"), show_default=True
)
@click.option("--check/--no-check", default=True, help="Compare logits with transformers.")
def export(run: Path, out: Path, check: bool) -> None:
    """Write a Hugging Face checkpoint folder of the averaged weights."""
    from . import export as exporting

    exporting.export(run, out)
    if check:
        found = exporting.difference(run, out)
        click.echo(f"largest logit difference to transformers: {found:.2e}")
        if found > 1e-3:
            raise click.ClickException(f"{out} is not the model in {run}: logits differ by {found}")


@main.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, exists=True), default=Path("runs/pocket-checkpoint")
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/measured"), show_default=True)
def measure(checkpoint: Path, out: Path) -> None:
    """Package the checkpoint in every scheme and measure each on the public test rows."""
    from .measure import measure as run

    value = run(checkpoint, out)
    for scheme, entry in value["schemes"].items():
        for suite in ("hwu64 held out", "templates held out", "hwu64", "ha_intents"):
            found = entry["suites"][suite]
            click.echo(
                f"{scheme} {suite}: intent {found['intent_accuracy']['value']:.3f} "
                f"frame {found['frame_accuracy']['value']:.3f}"
            )


@main.command()
@click.option("--run", type=click.Path(path_type=Path, exists=True), default=Path("runs/pocket"))
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, exists=True), default=Path("runs/pocket-checkpoint")
)
@click.option(
    "--measured", type=click.Path(path_type=Path, exists=True), default=Path("runs/measured/measured.json")
)
@click.option("--scheme", default="int8", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("model_zoo/packages/pocket"))
def ship(run: Path, checkpoint: Path, measured: Path, scheme: str, out: Path) -> None:
    """Write the package with card, attribution and figures, and the figures into docs/models.md."""
    from .ship import ship as write

    write(run, checkpoint, measured, scheme, out)
    click.echo(f"wrote {out}")


@main.command()
@click.option("--steps", type=click.IntRange(8), default=60, show_default=True)
def precision(steps: int) -> None:
    """Compare loss and speed of bfloat16 and float32 training steps on this machine."""
    keep_pages()
    from .precision import compare, report

    click.echo(report(compare(data_folder(), steps)))


if __name__ == "__main__":
    main()
