"""`edge-runtime learn`: routers trained on recorded outcomes.

Knows: flags and tables. Does not know: how a router is trained (`offload.learn.fit_route` does).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.evaluate import print_metrics
from edge_runtime.cli.output import emit_json, json_option, progress, status

if TYPE_CHECKING:
    from offload.learn.features import Floats
    from offload.learn.route import Router
    from offload.outcomes import Outcome

__all__ = ["command", "route"]


@click.group(name="learn")
def command() -> None:
    """Learn from recorded outcomes what is worth escalating."""


@command.command()
@click.option(
    "--data",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="Recorded outcomes (JSON lines: prompt, weak_correct, strong_correct, …). May be given repeatedly.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the router is written.",
)
@click.option(
    "--inputs",
    type=click.Choice(["auto", "prompt", "prompt+evidence"]),
    default="auto",
    help="What the router looks at; auto takes what orders the rows better in cross-validation.",
)
@click.option(
    "--folds",
    type=click.IntRange(0, 50),
    default=5,
    help="Folds in which the whole training is repeated to measure it; 0 leaves the measuring out.",
)
@click.option(
    "--embedder",
    metavar="NAME",
    help="A sentence embedder whose vectors join the features: package.module:function, or a model of "
    "sentence-transformers. The router then needs it too.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Same seed, same folds.")
@json_option
def route(
    files: tuple[Path, ...],
    out: Path,
    inputs: str,
    folds: int,
    embedder: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train a router: what does it gain to send a prompt to the strong model?

    Looks at hashed n-grams, length, numbers and structure of the prompt, and where the rows have them at the
    answer's text and evidence. Needs no download. The file applies with `evaluate --suite routing --router`.
    """
    from offload.learn.embed import named, remembering
    from offload.learn.fit_route import cross_validate, fit, with_data
    from offload.outcomes import read_outcomes

    rows = [row for path in files for row in read_outcomes(path)]
    with progress("learn") as advance:

        def step(label: str) -> None:
            advance(1, label=label)

        embed = None if embedder is None else (embedder, remembering(named(embedder)))
        router = fit(rows, inputs=inputs, embedder=embed, seed=seed, step=step)
        measured: dict[str, Any] = {}
        if folds > 1:
            gains, p = cross_validate(rows, inputs=inputs, embedder=embed, k=folds, seed=seed, step=step)
            measured = _measure(rows, gains, p)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    router = with_data(router, ", ".join(path.name for path in files), digest)
    router.save(out)
    value = _report(router, out, measured)
    if as_json:
        emit_json(value)
        return
    if measured:
        print_metrics(measured, f"{router.kind} · measured in {folds} folds")
    status(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB), trained on {len(rows)} rows")


def _measure(rows: Sequence[Outcome], gains: Floats, p: Floats) -> dict[str, dict[str, float | int | None]]:
    from offload.evaluate import calibration_metrics, routing_metrics

    weak = [row.weak_correct for row in rows]
    strong = [bool(row.strong_correct) for row in rows]
    found = routing_metrics(-gains, weak, strong)
    if not any(map(math.isnan, p)):
        found |= calibration_metrics(p, weak)
    return {name: metric.to_json() for name, metric in found.items()}


def _report(router: Router, out: Path, measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "router": str(out),
        "kind": router.kind,
        "n": router.trained["n"],
        "bytes": out.stat().st_size,
        "trained": dict(router.trained),
        "metrics": measured,
    }
