"""`edge-runtime calibrate`: from labelled answers to a probability of being right."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.options import model_options, open_model
from edge_runtime.cli.output import emit_json, json_option, print_table, progress, status

if TYPE_CHECKING:
    from edge_runtime.evaluation.marked import Asker
    from edge_runtime.model import LoadedModel
    from offload.calibrate import KindFit, Labelled, Selection
    from offload.calibration import Calibration
    from offload.types import Evidence

__all__ = ["asker_with_probes", "command", "draw", "report", "show"]

SHOWN = 5
"""Candidates and signals shown per kind of answer."""


@click.command(name="calibrate")
@model_options
@click.option(
    "--data",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="JSON lines: prompt or messages with reference (they are asked), or rows of "
    "`edge-runtime evaluate --rows` (they are not).",
)
@click.option("--limit", type=click.IntRange(1), help="Rows taken of each file.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=256, help="Tokens generated at most per answer."
)
@click.option(
    "--probe",
    "probes",
    type=click.Choice(["p_true", "agreement", "second_prompt"]),
    multiple=True,
    help="Also try this signal, which costs further passes of the model per answer, now and in use.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the folds.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. [default: where this model's answers find it, in the XDG state folder]",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for reliability and deferral pictures (needs the extra plot).",
)
@json_option
def command(
    model: str,
    threads: int | None,
    files: tuple[Path, ...],
    limit: int | None,
    max_tokens: int,
    probes: tuple[str, ...],
    seed: int,
    out: Path | None,
    pictures: Path | None,
    as_json: bool,
) -> None:
    """Learn from labelled rows what this model's evidence is worth, and write it down as a calibration.

    Answers are greedy. Several signals and methods are tried in five folds for every kind of answer; a richer
    one is taken only where it wins by more than a standard error. From then on answers of this model have a
    probability of being right.
    """
    from edge_runtime.calibration import fingerprint, user_file
    from edge_runtime.evaluation.labelled import answer_all, read_rows
    from edge_runtime.evaluation.marked import asker
    from offload.calibrate import make_calibration, select

    rows = [read_rows(path, limit) for path in files]
    labelled: list[Labelled] = [one for part in rows for one in part.labelled]
    questions = [question for part in rows for question in part.questions]
    with open_model(model, threads) as loaded:
        if loaded.manifest is None or loaded.manifest_sha256 is None:
            raise click.UsageError(f"{model} has no manifest to file a calibration under")
        with progress("ask", total=len(questions)) as advance:
            answer = asker_with_probes(loaded, probes, max_tokens) if probes else asker(loaded, max_tokens)
            labelled += answer_all(questions, answer, lambda: advance(1))
        identity, name, path = (
            fingerprint(loaded.manifest),
            loaded.id,
            out or user_file(loaded.manifest_sha256),
        )
    with progress("fit") as advance:
        selection = select(labelled, seed=seed, step=lambda kind: advance(1, label=f"fit {kind}"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    calibration = make_calibration(
        selection,
        identity,
        model_id=name,
        created=datetime.now(timezone.utc),
        data={"description": ", ".join(file.name for file in files), "sha256": digest},
        seed=seed,
    )
    calibration.save(path)
    drawn = draw(selection, name, pictures) if pictures is not None else []
    value = report(selection, calibration)
    if as_json:
        emit_json({**value, "file": str(path), "pictures": [str(picture) for picture in drawn]})
        return
    show(value)
    status(f"wrote calibration {calibration.id} to {path}")
    if out is not None:
        status("answers use it when it is a listed file of the package, or lies in the XDG state folder")
    for picture in drawn:
        status(f"drew {picture}")


def report(selection: Selection, calibration: Calibration) -> dict[str, Any]:
    """The object that `--json` prints: what was chosen for every kind, what else was tried, and all rows
    together before and after. Figures are out of fold.
    """
    import numpy as np

    from offload.evaluate.metrics import auroc
    from offload.evaluate.reliability import brier, ece, ece_floor

    p, at = selection.pooled()
    y = np.array([selection.usable[i].correct for i in at], bool)
    before = _uncalibrated(selection, at)
    both = {
        "before": {"brier": brier(before, y), "auroc": auroc(before, y), "ece": ece(before, y)},
        "after": {
            "brier": brier(p, y),
            "auroc": auroc(p, y),
            "ece": ece(p, y),
            "ece_floor": ece_floor(p),
        },
    }
    return {
        "model": calibration.model_id,
        "id": calibration.id,
        "n": calibration.data["n"],
        "skipped": dict(selection.skipped),
        "left_out": dict(selection.left_out),
        "kinds": [_kind(kind, selection.signal_auroc[kind.kind]) for kind in selection.kinds],
        "all": {when: _rounded(figures) for when, figures in both.items()},
    }


def _kind(kind: KindFit, aurocs: Mapping[str, float]) -> dict[str, Any]:
    return {
        "kind": kind.kind,
        "method": kind.entry.calibrator.method,
        "signal": kind.entry.label,
        "n": kind.entry.n,
        "n_correct": kind.entry.n_correct,
        "figures": dict(kind.entry.figures),
        "tried": [
            {"candidate": c.label, **_rounded({"brier": c.brier, "auroc": c.auroc, "ece": c.ece})}
            for c in kind.candidates
        ],
        "signal_auroc": _rounded(aurocs),
    }


def _rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 6) for name, value in figures.items()}


def _uncalibrated(selection: Selection, at: Any) -> Any:
    """What the model itself says: the mean probability of its tokens (geometric mean)."""
    import numpy as np

    means = [selection.usable[i].evidence.mean_logprob for i in at]
    return np.exp(np.array([-50.0 if mean is None else mean for mean in means]))


def show(value: Mapping[str, Any]) -> None:
    """Print a report as tables."""
    for kind in value["kinds"]:
        chosen = f"{kind['method']} · {kind['signal']}"
        title = (
            f"answers of kind {kind['kind']}: {kind['n']} rows, {kind['n_correct']} right; chosen: {chosen}"
        )
        lines = [
            (row["candidate"], f"{row['brier']:.4f}", f"{row['auroc']:.3f}", f"{row['ece']:.3f}")
            for row in kind["tried"][:SHOWN]
        ]
        print_table(("tried", "Brier", "AUROC", "ECE"), lines, title=title)
        best = list(kind["signal_auroc"].items())[:SHOWN]
        click.echo("best signals (AUROC): " + ", ".join(f"{name} {auroc:.3f}" for name, auroc in best) + "\n")
    lines = []
    for when, figures in value["all"].items():
        floor = figures.get("ece_floor")
        shown = [figures["brier"], figures["auroc"], figures["ece"], floor]
        lines.append((when, *("-" if x is None else f"{x:.3f}" for x in shown)))
    print_table(("all rows, out of fold", "Brier", "AUROC", "ECE", "ECE of chance alone"), lines)
    for what in ("left_out", "skipped"):
        for name, why in value[what].items():
            said = (
                f"kind {name} gets no entry: {why}" if what == "left_out" else f"{why} rows skipped: {name}"
            )
            status(said)


def draw(selection: Selection, name: str, folder: Path) -> Sequence[Path]:
    """Draw `reliability.png` and `deferral.png` of all rows, out of fold, into a folder.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import numpy as np

    from edge_runtime.evaluation.pictures import draw_deferral, draw_reliability

    p, at = selection.pooled()
    rows = [selection.usable[i] for i in at]
    y = np.array([row.correct for row in rows], bool)
    known = [row.strong_correct for row in rows if row.strong_correct is not None]
    strong = np.array(known, bool) if len(known) == len(rows) else None
    paths = [folder / "reliability.png", folder / "deferral.png"]
    title = f"{name}, {len(rows)} answers, out of fold"
    draw_reliability(paths[0], p, y, title=title, before=_uncalibrated(selection, at))
    draw_deferral(paths[1], p, y, title=title, strong_correct=strong)
    return paths


def asker_with_probes(loaded: LoadedModel, probes: Sequence[str], max_tokens: int) -> Asker:
    """Greedy answers with their evidence and the named signals that cost further passes."""
    from edge_runtime.evaluation.marked import asker
    from edge_runtime.probing import ModelProber
    from offload.probes import with_probes

    plain, prober = asker(loaded, max_tokens), ModelProber(loaded, max_tokens)

    def answer(messages: list[dict[str, str]]) -> tuple[str, Evidence]:
        text, evidence = plain(messages)
        return text, with_probes(evidence, probes, prober, messages, text)

    return answer
