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


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
HEADLINES = ("intent_accuracy", "frame_accuracy", "accuracy", "none_rate_out_of_scope")
model_option = click.option(
    "--model", type=click.Choice(["pocket", "pocket-cloud"]), default="pocket", show_default=True
)


@click.group()
def main() -> None:
    """Train the shipped models and export them as Hugging Face checkpoints."""


@main.command()
@click.option("--model", type=click.Choice(["pocket", "pocket-cloud"]), default="pocket", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="By default runs/MODEL.")
@click.option("--minutes", type=float, default=None, help="Length of the schedule.")
@click.option("--seed", type=int, default=None)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=None)
@click.option("--workers", type=int, default=None, help="One-threaded processes.")
def train(
    model: str,
    out: Path | None,
    minutes: float | None,
    seed: int | None,
    dtype: str | None,
    workers: int | None,
) -> None:
    """Train, or resume what is in the folder."""
    keep_pages()
    from .config import RECIPES
    from .loop import start

    given = {"minutes": minutes, "seed": seed, "dtype": dtype, "workers": workers}
    start(
        replace(RECIPES[model], **{k: x for k, x in given.items() if x is not None}),
        data_folder(),
        (out or Path("runs") / model).resolve(),
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
@model_option
@click.option("--run", type=FOLDER, help="The training run. [default: runs/MODEL]")
@click.option("--checkpoint", type=FOLDER, help="[default: runs/MODEL-checkpoint]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/measured"), show_default=True)
@click.option("--answers", type=click.Path(path_type=Path), default=Path("runs/answers"), show_default=True)
@click.option("--scheme", "schemes", multiple=True, help="fp32 first. [default: those of the model's page]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Rows of each part, for a rehearsal.")
def measure(
    model: str,
    run: Path | None,
    checkpoint: Path | None,
    out: Path,
    answers: Path,
    schemes: tuple[str, ...],
    threads: int,
    limit: int | None,
) -> None:
    """Package the checkpoint in every scheme and measure each on the public test rows.

    Writes OUT/MODEL/measured.json. Answers are kept as they come, so an interrupted run goes on where it was.
    """
    from edge_runtime.cli.output import progress

    from .measure import measure as measuring

    with progress(f"measure {model}") as bar:
        value = measuring(
            model,
            run or Path("runs") / model,
            checkpoint or Path("runs") / f"{model}-checkpoint",
            out / model,
            answers=answers,
            schemes=schemes,
            threads=threads,
            limit=limit,
            bar=bar,
        )
    for scheme, entry in value["schemes"].items():
        for part, figures in entry["suites"].items():
            known = {k: figures[k]["value"] for k in HEADLINES if k in figures}
            shown = (f"{k} {x:.3f}" for k, x in known.items() if x is not None)
            click.echo(f"{model} {scheme} · {part}: {', '.join(shown)}")


@main.command()
@model_option
@click.option("--run", type=FOLDER, help="The training run. [default: runs/MODEL]")
@click.option("--checkpoint", type=FOLDER, help="[default: runs/MODEL-checkpoint]")
@click.option("--measured", type=FOLDER, default=Path("runs/measured"), show_default=True)
@click.option("--scheme", default="int8", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="[default: model_zoo/packages/MODEL]")
def ship(
    model: str, run: Path | None, checkpoint: Path | None, measured: Path, scheme: str, out: Path | None
) -> None:
    """Write the package with card, attribution and figures, and the figures into docs/models.md."""
    from .ship import PACKAGES
    from .ship import ship as write

    target = out or PACKAGES / model
    write(
        model,
        run or Path("runs") / model,
        checkpoint or Path("runs") / f"{model}-checkpoint",
        measured,
        scheme,
        target,
    )
    click.echo(f"wrote {target}")


@main.command()
@model_option
@click.option("--run", type=FOLDER, help="The training run. [default: runs/MODEL]")
@click.option("--package", type=FOLDER, help="[default: model_zoo/packages/MODEL]")
@click.option("--answers", type=click.Path(path_type=Path), default=Path("runs/answers"), show_default=True)
@click.option(
    "--pictures", type=click.Path(path_type=Path), help="Folder for reliability and deferral pictures."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Rows of each set, for a rehearsal.")
def calibrate(
    model: str,
    run: Path | None,
    package: Path | None,
    answers: Path,
    pictures: Path | None,
    threads: int,
    limit: int | None,
) -> None:
    """Calibrate the package on held-out rows and put the calibration into it."""
    from edge_runtime.cli.calibrate import draw, show
    from edge_runtime.cli.output import progress

    from .calibrate import calibrate as calibrating
    from .ship import PACKAGES

    folder = package or PACKAGES / model
    with progress(f"calibrate {model}") as bar:
        selection, value = calibrating(
            folder,
            run or Path("runs") / model,
            data_folder(),
            answers=answers,
            limit=limit,
            threads=threads,
            bar=bar,
        )
    show(value)
    for picture in draw(selection, model, pictures) if pictures is not None else ():
        click.echo(f"drew {picture}")
    click.echo(f"wrote calibration {value['id']} into {folder}")


@main.command()
@click.option("--steps", type=click.IntRange(8), default=60, show_default=True)
def precision(steps: int) -> None:
    """Compare loss and speed of bfloat16 and float32 training steps on this machine."""
    keep_pages()
    from .precision import compare, report

    click.echo(report(compare(data_folder(), steps)))


if __name__ == "__main__":
    main()
