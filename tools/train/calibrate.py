"""Calibrate a package on rows that its training held out, and put the calibration into it.

Rows: the held-out hwu64 and template rows with their dialect told, `oos_val.jsonl` of clinc150 without, and
word problems in wordings that neither training nor test has, every second one without its task told. The
public test rows are not looked at: `measure` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.calibration import fingerprint
from edge_runtime.cli.calibrate import report
from edge_runtime.evaluation import read
from edge_runtime.evaluation.catalogue import SUITES
from edge_runtime.evaluation.problems import STEPS, generate
from edge_runtime.evaluation.problems.rows import to_case as to_problem
from model_zoo import amend, open_package
from offload.calibrate import Labelled, Selection, make_calibration, select
from offload.calibration import FILE_NAME
from offload.spans import read as read_answer
from tools.answers import AnswerBook

from .measure import held_out_frames

PROBLEMS: dict[str, Any] = {"seed": 4, "count": 900, "split": "val", "steps": STEPS}
DESCRIPTION = (
    "rows held out of training: hwu64, Home Assistant templates, clinc150 oos_val, generated word problems "
    f"(seed {PROBLEMS['seed']}, wordings of their own)"
)


def cases(data: Path, run: Path, limit: int | None = None) -> Iterator[tuple[str, Any, bool]]:
    """(suite, case, whether its task is told) of every row, `limit` of each set."""
    for _, found in held_out_frames(data, run):
        yield from (("frames", case, True) for case in found[:limit])
    yield from (("frames", case, False) for case in read(data / "clinc150" / "oos_val.jsonl", limit))
    for at, p in enumerate(generate(**PROBLEMS)):
        if limit is None or at < limit:
            case = to_problem({"text": p.text, "answer": p.answer, "steps": p.steps, "kinds": list(p.kinds)})
            yield "problems", case, at % 2 == 0


def labelled(book: AnswerBook, rows: list[tuple[str, Any, bool]], step: Callable[[], None]) -> list[Labelled]:
    """Every row answered and marked."""
    found = []
    for suite, case, tagged in rows:
        text, evidence = book.asker(SUITES[suite].max_tokens)(case.messages(tagged=tagged))
        right = SUITES[suite].mark(text, evidence, case).right
        if right is not None:
            found.append(Labelled(evidence, right, read_answer(text).kind))
        step()
    return found


def calibrate(
    package: Path,
    run: Path,
    data: Path,
    *,
    answers: Path,
    limit: int | None = None,
    threads: int = 1,
    bar: Callable[..., None] = lambda *_, **__: None,
) -> tuple[Selection, dict[str, Any]]:
    """Calibrate the package in its folder; the same report as of `edge-runtime calibrate`.

    Args:
        run: the training run, which says what was held out.
        answers: the folder in which answers are kept: an interrupted run goes on where it was.
        bar: `edge_runtime.cli.output.progress`'s function.
    """
    rows = list(cases(data, run, limit))
    bar(0, total=len(rows))
    with AnswerBook.of(package, answers, threads) as book:
        found = labelled(book, rows, lambda: bar(1))
    selection = select(found)
    manifest = open_package(package).manifest
    calibration = make_calibration(
        selection,
        fingerprint(manifest),
        model_id=manifest.id,
        created=datetime.now(timezone.utc),
        data={"description": DESCRIPTION},
    )
    value = report(selection, calibration)
    evaluation = {**manifest.evaluation, "calibration": {"n": len(found), **value["all"]["after"]}}
    amend(package, {"evaluation": evaluation}, {FILE_NAME: calibration.to_json()})
    return selection, value
