"""What a device model and a cloud model make of the same rows, in the format of `offload.outcomes`.

    python -m tools.pair_outcomes --suite frames --suite problems --out runs/pair/outcomes.jsonl

Every answer is kept in a file as it comes; an interrupted run goes on where it was. `latency_s`
is measured on this machine, from the messages to the last token, while whatever else runs on it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.output import emit_json, json_option, progress
from edge_runtime.evaluation.catalogue import SUITES, Suite
from edge_runtime.evaluation.marked import Case
from offload.outcomes import Outcome, write_outcomes
from tools.answers import AnswerBook


def outcomes(
    suite: Suite[Any, Any],
    cases: Sequence[Case],
    weak: AnswerBook,
    strong: AnswerBook,
    *,
    tagged: bool,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """An outcome for every case that can be marked; `step` is called after each case."""
    for number, case in enumerate(cases):
        messages = case.messages(tagged=tagged)
        answers = [book.ask(messages, suite.max_tokens) for book in (weak, strong)]
        here, there = (suite.mark(answer.text, answer.evidence, case) for answer in answers)
        step()
        if here.right is None:
            continue
        details = here.details()
        yield Outcome(
            prompt=case.text,
            weak_correct=here.right,
            strong_correct=there.right,
            response=here.text,
            evidence=here.evidence,
            latency_s={"weak": answers[0].seconds, "strong": answers[1].seconds},
            suite=case.kind,
            id=f"{suite.name}-{number}",
            extra={
                "strong_response": there.text,
                **{key: details[key] for key in ("reference", "area", "steps", "kinds") if details.get(key)},
            },
        )


@click.command()
@click.option("--weak", default="pocket", show_default=True, help="The device's package: name or folder.")
@click.option("--strong", default="pocket-cloud", show_default=True, help="The cloud's package.")
@click.option(
    "--suite",
    "suites",
    type=click.Choice(sorted(SUITES)),
    multiple=True,
    default=("frames", "problems"),
    show_default=True,
)
@click.option(
    "--data",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Rows of one's own for the one suite given; by default its test rows.",
)
@click.option("--limit", type=click.IntRange(1), help="Rows taken of each file.")
@click.option("--untagged", is_flag=True, help="Leave task and dialect to the models (oos always does).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option(
    "--answers",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/answers"),
    show_default=True,
    help="Where answers are kept; `tools.train measure` keeps its own there too.",
)
@json_option
def main(
    weak: str,
    strong: str,
    suites: tuple[str, ...],
    files: tuple[Path, ...],
    limit: int | None,
    untagged: bool,
    threads: int,
    out: Path,
    answers: Path,
    as_json: bool,
) -> None:
    """Ask both packages every row, and write who was right with the device's evidence."""
    if files and len(suites) != 1:
        raise click.UsageError("--data needs exactly one --suite: the rows of a file are of one form")
    chosen = [SUITES[name] for name in suites]
    cases = [suite.cases(files, limit) for suite in chosen]
    rows: list[Outcome] = []
    with (
        AnswerBook.of(weak, answers, threads) as here,
        AnswerBook.of(strong, answers, threads) as there,
        progress("pair", total=sum(map(len, cases))) as advance,
    ):
        for suite, part in zip(chosen, cases, strict=True):
            tagged = suite.tagged and not untagged
            rows += outcomes(suite, part, here, there, tagged=tagged, step=lambda: advance(1))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_outcomes(out, rows)
    kinds = sorted({row.suite or "" for row in rows})
    shares = {kind: _shares([row for row in rows if row.suite == kind]) for kind in kinds}
    if as_json:
        emit_json({"file": str(out), "n": len(rows), "suites": shares})
        return
    for kind, share in shares.items():
        click.echo(f"{kind}: n {share['n']}, device {share['weak']:.3f}, cloud {share['strong']:.3f}")


def _shares(rows: Sequence[Outcome]) -> dict[str, float]:
    n = len(rows)
    return {
        "n": n,
        "weak": sum(row.weak_correct for row in rows) / n,
        "strong": sum(bool(row.strong_correct) for row in rows) / n,
    }


if __name__ == "__main__":
    main()
