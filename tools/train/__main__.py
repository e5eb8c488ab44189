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


def data_folder() -> Path:
    from platformdirs import user_data_path

    return Path(os.environ.get("EDGE_DATA_DIR") or user_data_path("edge-runtime") / "datasets")


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
    if any(os.environ.get(k) != value for k, value in MALLOC.items()):
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, "-m", "tools.train", *sys.argv[1:]])
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
@click.option(
    "--card", type=click.Path(path_type=Path), default=None, help="Folder with MODEL_CARD.md and LICENSE."
)
@click.option("--check/--no-check", default=True, help="Compare logits with transformers.")
def export(run: Path, out: Path, card: Path | None, check: bool) -> None:
    """Write a Hugging Face checkpoint folder of the averaged weights."""
    from . import export as exporting

    exporting.export(run, out, card)
    if check:
        found = exporting.difference(run, out)
        click.echo(f"largest logit difference to transformers: {found:.2e}")
        if found > 1e-3:
            raise click.ClickException(f"{out} is not the model in {run}: logits differ by {found}")


if __name__ == "__main__":
    main()
