"""How many tokens stopping early saves: `python -m tools.early_stop --model pocket --run runs/pocket`.

Asks the rows that training held out (those of `tools.train calibrate`), keeps every token's log-probability,
and splits the answers at random into three parts: on the first a calibration is fitted (unless the package
has one), on the second the bounds of `offload.stopping`, and the third is replayed token by token. Printed
for several thresholds: what is saved of the tokens of the answers that are escalated anyway, and how many
answers were given up that would have been kept (ε at most is asked for).
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

from edge_runtime.calibration import find_calibration
from edge_runtime.cli.output import print_table, progress
from edge_runtime.evaluation.catalogue import SUITES
from edge_runtime.evaluation.rows import data_folder
from edge_runtime.model import LoadedModel
from edge_runtime.routing import confidence_of
from edge_runtime.sampling import SamplingParams
from offload.calibrate import Labelled, select
from offload.calibration import Calibration, Fingerprint
from offload.spans import read
from offload.stopping import EarlyStop, Trace, fit_stop, tokens_saved
from offload.types import Evidence
from tools.train.calibrate import cases

THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Recorded:
    """An answer with the log-probabilities of its tokens."""

    labelled: Labelled
    logprobs: tuple[float, ...]
    text: str


def record(model: LoadedModel, case: Any, suite: str, tagged: bool) -> Recorded | None:
    """Ask one case; `None` where nobody can say whether the answer is right, or a token has no evidence."""
    params = SamplingParams(temperature=0.0, max_tokens=SUITES[suite].max_tokens)
    done = model.generate(model.prompt(case.messages(tagged=tagged)), params)
    right = SUITES[suite].mark(done.text, done.evidence, case).right
    if right is None or any(token.logprob is None for token in done.tokens):
        return None
    logprobs = tuple(min(0.0, float(token.logprob or 0.0)) for token in done.tokens)
    return Recorded(Labelled(done.evidence, right, read(done.text).kind), logprobs, done.text)


def thirds(rows: list[Recorded], seed: int) -> tuple[list[Recorded], list[Recorded], list[Recorded]]:
    """A random split."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    third = len(rows) // 3
    return shuffled[:third], shuffled[third : 2 * third], shuffled[2 * third :]


def traces(calibration: Calibration, rows: list[Recorded]) -> list[Trace]:
    """Traces of the answers that have a confidence."""
    found = zip(rows, confidence_of(calibration, [row.labelled for row in rows]), strict=True)
    return [Trace(row.logprobs, p) for row, p in found if p == p]


def exact_saved(
    calibration: Calibration, rows: list[Recorded], threshold: float, most: int
) -> tuple[int, int]:
    """Tokens saved by the exact bound alone, and answers it gave up wrongly (none, or it is no bound)."""
    saved = wrong = 0
    for row, p in zip(rows, confidence_of(calibration, [row.labelled for row in rows]), strict=True):
        n, total, least = len(row.logprobs), 0.0, 0.0
        for i, x in enumerate(row.logprobs[:-1], 1):
            total, least = total + x, min(least, x)
            running = Evidence(i, i, total, total / i, least)
            if EarlyStop().ceiling(
                running, threshold, calibration=calibration, tokens_left=most - i, text=row.text
            ):
                saved += 0 if p >= threshold else n - i
                wrong += p >= threshold
                break
    return saved, wrong


def report(
    calibration: Calibration, fit: list[Recorded], test: list[Recorded], most: int
) -> list[dict[str, Any]]:
    """A row per threshold."""
    fitted, new = traces(calibration, fit), traces(calibration, test)
    rows = []
    for threshold in THRESHOLDS:
        table = fit_stop(fitted, at=threshold)
        saved = tokens_saved(table, new, threshold)
        exact, wrong = exact_saved(calibration, test, threshold, most)
        rows.append(
            {
                "threshold": threshold,
                "signal": table.signal,
                "bound": table.bound(threshold),
                "answers": len(new),
                "share_of_escalated": saved.share_of_escalated,
                "exact_share_of_escalated": exact / saved.tokens_escalated if saved.tokens_escalated else 0.0,
                "exact_wrongly_stopped": wrong,
                **asdict(saved),
            }
        )
    return rows


@click.command()
@click.option("--model", default="pocket", help="Name or folder of a package.")
@click.option("--run", type=click.Path(path_type=Path, exists=True), required=True, help="Its training run.")
@click.option("--suite", type=click.Choice(["frames", "problems"]), default="frames")
@click.option("--limit", type=int, default=300, help="Rows of each set.")
@click.option("--threads", type=int, default=1)
@click.option("--seed", type=int, default=0, help="Of the split.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(model: str, run: Path, suite: str, limit: int, threads: int, seed: int, as_json: bool) -> None:
    """Record answers, fit the bounds, and print what stopping early saves."""
    wanted = [(case, tagged) for kind, case, tagged in cases(data_folder(), run, limit) if kind == suite]
    recorded = []
    loaded = LoadedModel.open(model, engine_options={"threads": threads})
    try:
        own = find_calibration(loaded)
        with progress("ask", total=len(wanted)) as advance:
            for case, tagged in wanted:
                recorded.append(record(loaded, case, suite, tagged))
                advance(1)
    finally:
        loaded.close()
    first, fit, test = thirds([row for row in recorded if row is not None], seed)
    calibration = own
    if calibration is None:
        none = Fingerprint("", "", "")
        entries = select([row.labelled for row in first]).entries
        calibration = Calibration(entries, none, model, "", {"n": len(first)})
    rows = report(calibration, fit, test, SUITES[suite].max_tokens)
    if as_json:
        print(json.dumps({"model": model, "suite": suite, "calibration": own is not None, "rows": rows}))
        return
    print_table(
        (
            "keep from",
            "signal",
            "escalated tokens saved",
            "by the exact bound",
            "given up wrongly",
            "of kept",
        ),
        [
            (
                f"{row['threshold']:g}",
                row["signal"],
                f"{row['share_of_escalated']:.1%} of {row['tokens_escalated']}",
                f"{row['exact_share_of_escalated']:.1%}",
                str(row["wrongly_stopped"]),
                str(row["kept"]),
            )
            for row in rows
        ],
        title=f"{model}, {suite}: {rows[0]['answers']} answers replayed",
    )


if __name__ == "__main__":
    main()
