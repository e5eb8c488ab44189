"""`edge-runtime evaluate`: how good a package's answers are, on public test rows or on rows of one's own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.options import model_options, open_model
from edge_runtime.cli.output import emit_json, json_option, print_table, progress

if TYPE_CHECKING:
    from edge_runtime.evaluation import Case, Metric, Outcome

__all__ = ["command", "report"]

DEFAULT_FILES: Mapping[str, tuple[str, ...]] = {
    "frames": ("hwu64/test.jsonl", "ha_intents/tests_en.jsonl"),
    "oos": (
        "hwu64/test.jsonl",
        "ha_intents/tests_en.jsonl",
        "clinc150/oos_test.jsonl",
        "clinc150/test.jsonl",
    ),
}


def report(suite: str, model: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The object that `--json` prints: suite, model, n, metrics with intervals, and those of each set."""
    from edge_runtime.evaluation import summarise_frames, summarise_oos

    summaries: Mapping[str, Callable[[Sequence[Outcome]], dict[str, Metric]]] = {
        "frames": summarise_frames,
        "oos": summarise_oos,
    }
    found = {name: metric.to_json() for name, metric in summaries[suite](outcomes).items()}
    value: dict[str, Any] = {"suite": suite, "model": model, "n": len(outcomes), "metrics": found}
    if suite != "frames":
        return value
    sets: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        sets[outcome.case.kind].append(outcome)
    value["sets"] = {
        kind: {"n": len(part), "metrics": {k: m.to_json() for k, m in summarise_frames(part).items()}}
        for kind, part in sets.items()
        if kind != "clinc150"
    }
    return value


@click.command(name="evaluate")
@click.option(
    "--suite",
    type=click.Choice(["frames", "oos"]),
    default="frames",
    show_default=True,
    help="What is asked.",
)
@model_options
@click.option(
    "--data",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="JSON lines as in hwu64, ha_intents or clinc150. [default: the public test rows in EDGE_DATA_DIR]",
)
@click.option("--limit", type=click.IntRange(1), help="Rows taken of each file.")
@click.option("--untagged", is_flag=True, help="Leave the dialect to the model (suite frames).")
@click.option(
    "--rows",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every answer to this file (JSON lines).",
)
@json_option
def command(
    suite: str,
    model: str,
    threads: int | None,
    files: tuple[Path, ...],
    limit: int | None,
    untagged: bool,
    rows: Path | None,
    as_json: bool,
) -> None:
    """Measure a model's frames, or how it tells what is none of its business.

    Answers are greedy. Intervals are 95 % bootstrap intervals over the rows. The AUROC of a signal is the
    probability that a right frame scores above a wrong one (suite frames), or an in-domain utterance above an
    out-of-scope one (suite oos; "verdict" takes the model's own answer `none` into account).
    """
    from edge_runtime.evaluation import ask, asker
    from edge_runtime.evaluation.rows import find, read

    cases: list[Case] = []
    for path in files or find(DEFAULT_FILES[suite]):
        cases += read(path, limit)
    with open_model(model, threads) as loaded, progress("evaluate", total=len(cases)) as advance:
        outcomes = ask(
            cases, asker(loaded), tagged=suite == "frames" and not untagged, step=lambda: advance(1)
        )
        name = loaded.id
    if rows is not None:
        lines = (json.dumps(outcome.to_json(), ensure_ascii=False) for outcome in outcomes)
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    value = report(suite, name, outcomes)
    if as_json:
        emit_json(value)
        return
    for title, part in {"all rows": value, **value.get("sets", {})}.items():
        lines_shown = [
            (
                metric,
                figure["n"],
                _show(figure["value"]),
                f"{_show(figure['low'])} to {_show(figure['high'])}",
            )
            for metric, figure in part["metrics"].items()
        ]
        print_table(
            ("metric", "n", "value", "95 % interval"), lines_shown, title=f"{name} · {suite} · {title}"
        )


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
