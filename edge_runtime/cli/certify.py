"""`edge-runtime certify`: what can be promised about wrong answers, from labelled rows."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.options import model_options, open_model
from edge_runtime.cli.output import emit_json, json_option, print_table, progress, status

if TYPE_CHECKING:
    from offload.guarantee import Certificate

__all__ = ["command"]

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(name="certify")
@model_options
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Labelled rows, as for `edge-runtime calibrate`; other ones than the calibration was fitted on.",
)
@click.option(
    "--promise",
    type=click.Choice(["selective", "overall", "conformal"]),
    default="selective",
    show_default=True,
    help="About the kept answers; about all answers, with the strong model's outcomes in the rows; about "
    "kept wrong answers among all queries, on average.",
)
@click.option(
    "--alpha", type=SHARE, default=0.1, show_default=True, help="Share of wrong answers promised at most."
)
@click.option(
    "--delta",
    type=SHARE,
    default=0.1,
    show_default=True,
    help="Probability that the promise may fail (not for `conformal`).",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=256, help="Tokens generated at most per answer."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, for `certificate` under `[router]` in the configuration.",
)
@json_option
def command(
    model: str,
    threads: int | None,
    data: Path,
    promise: str,
    alpha: float,
    delta: float,
    max_tokens: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find the confidence from which answers can be kept with a promise about how many are wrong.

    The model needs a calibration. The promise holds for queries like the rows: the same mix of tasks, the
    same model and template. When nothing can be promised, it says why and how many rows would be needed.
    """
    from edge_runtime.calibration import find_calibration
    from edge_runtime.evaluation.labelled import answer_all, read_rows
    from edge_runtime.evaluation.marked import asker
    from edge_runtime.routing import Certified, confidence_of, write_certified
    from offload.errors import GuaranteeError

    rows = read_rows(data)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    labelled = list(rows.labelled)
    with open_model(model, threads) as loaded:
        calibration, name = find_calibration(loaded), loaded.id
        if calibration is None:
            raise GuaranteeError(
                f"model '{name}' has no calibration, so its answers have no confidence to certify. "
                "Make one with: edge-runtime calibrate"
            )
        if calibration.data.get("sha256") == digest:
            raise GuaranteeError(
                f"{data} is what the calibration of '{name}' was fitted on; a promise needs rows that it has "
                "not seen. Split the file, calibrate on one part and certify on the other"
            )
        with progress("ask", total=len(rows.questions)) as advance:
            labelled += answer_all(rows.questions, asker(loaded, max_tokens), lambda: advance(1))
    confidence = confidence_of(calibration, labelled)
    certificate = _certify(promise, confidence, labelled, alpha, delta)
    if out is not None:
        write_certified(out, Certified(certificate, calibration.id, name, digest))
    unknown = sum(math.isnan(c) for c in confidence)
    if as_json:
        value: dict[str, Any] = {"model": name, "calibration": calibration.id, "without_confidence": unknown}
        emit_json({**value, **certificate.to_dict(), "file": None if out is None else str(out)})
        return
    _show(certificate, unknown)
    if out is not None:
        status(f"wrote {out}; name it as `certificate` under [router]")


def _certify(
    promise: str, confidence: list[float], labelled: list[Any], alpha: float, delta: float
) -> Certificate:
    from offload import guarantee
    from offload.errors import GuaranteeError

    correct = [row.correct for row in labelled]
    if promise == "conformal":
        return guarantee.conformal(confidence, correct, alpha)
    if promise == "selective":
        return guarantee.selective(confidence, correct, alpha, delta)
    strong = [row.strong_correct for row in labelled if row.strong_correct is not None]
    if len(strong) < len(labelled):
        raise GuaranteeError(
            f"{len(labelled) - len(strong)} of {len(labelled)} rows have no 'strong_correct': a promise "
            "about all answers needs to know how the stronger model does on the same rows"
        )
    return guarantee.overall(confidence, correct, strong, alpha, delta)


def _show(certificate: Certificate, unknown: int) -> None:
    c = certificate
    click.echo(c.explain())
    if c.threshold is not None:
        rows = [
            ("rows", str(c.n)),
            ("kept", f"{c.kept} ({c.coverage:.1%})"),
            ("wrong among them" if c.promise != "overall" else "wrong among all", str(c.errors)),
            ("keep from confidence", f"{c.threshold:.4f}"),
            ("bound", f"{c.bound:.4f}" if c.bound is not None else "-"),
        ]
        print_table(("what", "value"), rows)
    if unknown:
        status(f"{unknown} rows have no confidence and are never kept")
