"""`edge-runtime evaluate`: how good a package's answers are, on public test rows or on rows of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.options import model_options, open_model
from edge_runtime.cli.output import emit_json, json_option, print_table, progress, status

__all__ = ["command", "print_metrics"]


@click.command(name="evaluate")
@click.option(
    "--suite",
    "suite_name",
    type=click.Choice(["frames", "problems", "oos", "routing"]),
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
    help="JSON lines as in hwu64, ha_intents or clinc150; for problems, text and answer; for routing, "
    "recorded outcomes. "
    "[default: the public test rows in EDGE_DATA_DIR; for problems, a fixed generated set]",
)
@click.option("--limit", type=click.IntRange(1), help="Rows taken of each file.")
@click.option("--untagged", is_flag=True, help="Leave task and dialect to the model (oos always does).")
@click.option(
    "--rows",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every answer that can be marked to this file, with its evidence (JSON lines).",
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the fixed test rows of suite problems to this file and ask nothing.",
)
@click.option(
    "--router",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Suite routing: the router of `edge-runtime learn route` that is measured.",
)
@click.option(
    "--confidence",
    metavar="FIELD",
    help="Suite routing: the figure of each row that is measured, such as evidence.mean_logprob.",
)
@click.option("--embedder", metavar="NAME", help="Suite routing: the sentence embedder of the router.")
@json_option
def command(
    suite_name: str,
    model: str,
    threads: int | None,
    files: tuple[Path, ...],
    limit: int | None,
    untagged: bool,
    rows: Path | None,
    write: Path | None,
    router: Path | None,
    confidence: str | None,
    embedder: str | None,
    as_json: bool,
) -> None:
    """Measure a model's frames, its word problems, how it tells what is none of its business, or a router.

    Answers are greedy. Intervals are 95 % bootstrap intervals over the rows. The AUROC of a signal is the
    probability that a right answer scores above a wrong one, or in suite oos an in-domain utterance above an
    out-of-scope one ("verdict" takes the model's own answer `none` into account).
    """
    if write is not None:
        _write(suite_name, write, as_json)
        return
    if suite_name == "routing":
        from edge_runtime.cli.evaluate_routing import evaluate_routing

        _print(evaluate_routing(files, router, confidence, limit, embedder), as_json)
        return
    if router is not None or confidence is not None or embedder is not None:
        raise click.UsageError("--router, --confidence and --embedder belong to --suite routing")
    from edge_runtime.evaluation import ask, asker
    from edge_runtime.evaluation.catalogue import SUITES, report

    suite = SUITES[suite_name]
    cases = suite.cases(files, limit)
    with open_model(model, threads) as loaded, progress("evaluate", total=len(cases)) as advance:
        answer = asker(loaded, suite.max_tokens)
        tagged = suite.tagged and not untagged
        marked = ask(cases, answer, suite.mark, tagged=tagged, step=lambda: advance(1))
        name = loaded.id
    if rows is not None:
        # Calibration and routing read these rows, and want to know of each whether it was right.
        lines = (json.dumps(one.to_json(), ensure_ascii=False) for one in marked if one.right is not None)
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _print(report(suite, name, marked), as_json)


def _print(value: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(value)
        return
    for title, part in {"all rows": value, **value.get("sets", {})}.items():
        print_metrics(part["metrics"], f"{value['model']} · {value['suite']} · {title}")
    for line, figures in value.get("beside", {}).items():
        apgr = figures["apgr"]
        shown = _show(apgr["value"] if isinstance(apgr, dict) else apgr)
        status(f"beside it, {line.replace('_', ' ')}: APGR {shown}")


def print_metrics(metrics: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Metrics with their intervals as a table."""
    rows = [
        (name, m["n"], _show(m["value"]), f"{_show(m['low'])} to {_show(m['high'])}")
        for name, m in metrics.items()
    ]
    print_table(("metric", "n", "value", "95 % interval"), rows, title=title)


def _write(suite: str, path: Path, as_json: bool) -> None:
    from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST

    if suite != "problems":
        raise click.UsageError(
            f"--write has the rows of suite problems alone; those of {suite} are files in EDGE_DATA_DIR"
        )
    path.write_text(PROBLEMS_TEST.text(), encoding="utf-8")
    if as_json:
        emit_json({"file": str(path), "n": PROBLEMS_TEST.count, "sha256": PROBLEMS_TEST.sha256})
        return
    status(f"wrote {PROBLEMS_TEST.count} rows to {path} (SHA-256 {PROBLEMS_TEST.sha256})")


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
