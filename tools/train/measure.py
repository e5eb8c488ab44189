"""Measure a trained checkpoint as packages of several schemes.

Figures come from the code behind `edge-runtime evaluate`, run on the public test rows; the scheme of the
shipped package is chosen on held-out rows alone. Answers are kept as they come (`tools.answers`): a run that
was interrupted goes on where it was, and `tools.pair_outcomes` finds them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.evaluation import FrameCase, ask
from edge_runtime.evaluation.catalogue import SUITES
from edge_runtime.evaluation.problems import generate
from edge_runtime.evaluation.problems.rows import to_case as to_problem
from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST
from edge_runtime.evaluation.rows import to_case
from edge_runtime.model import LoadedModel
from tools.answers import AnswerBook, identity_of

SCHEMES: Mapping[str, tuple[str, ...]] = {
    "pocket": ("fp32", "int8", "int4"),
    "pocket-cloud": ("fp32", "int8"),
}
FRAMES = {"hwu64": "hwu64/test.jsonl", "ha_intents": "ha_intents/tests_en.jsonl"}
HELD_OUT_PROBLEMS = {"seed": 2, "count": 300, "split": "val"}
UNTAGGED = ", no task asked"
FIDELITY_ROWS = 200


@dataclass(frozen=True)
class Part:
    """Rows that have figures of their own. `name` is a heading of the tables."""

    name: str
    suite: str
    cases: Sequence[Any]
    tagged: bool = True


def held_out_frames(data: Path, run: Path) -> Iterator[tuple[str, list[FrameCase]]]:
    """The training rows that the run held out, as cases."""
    from .config import TrainConfig
    from .data import Corpus

    told = json.loads((run / "config.json").read_text(encoding="utf-8"))
    same = {key: told[key] for key in ("seed", "home_samples", "validation_rows")}
    corpus = Corpus(data, replace(TrainConfig(), **same))
    hwu = []
    for row in corpus.validation:
        at, entities = 0, []
        for text, entity in row.segments:
            if entity:
                entities.append({"start": at, "end": at + len(text), "value": text, "entity": entity})
            at += len(text)
        hwu.append(to_case({"text": row.text, "intent": row.intent, "entities": entities}))
    yield "hwu64 held out", hwu
    yield (
        "templates held out",
        [
            to_case(
                {
                    "text": sample.text,
                    "intent": sample.frame.intent,
                    "slots": sample.frame.slots,
                    "context": {"area": sample.area} if sample.area else {},
                }
            )
            for sample in corpus.home_validation
        ],
    )


def held_out_problems() -> list[Any]:
    """(case, worked solution) of word problems in wordings that neither training nor test has."""
    return [
        (
            to_problem({"text": p.text, "answer": p.answer, "steps": p.steps, "kinds": list(p.kinds)}),
            p.solution,
        )
        for p in generate(**HELD_OUT_PROBLEMS)  # type: ignore[arg-type]
    ]


def parts(data: Path, held: Mapping[str, Sequence[FrameCase]]) -> list[Part]:
    """Everything that a package is asked. Rows that are asked twice in the same way are answered once."""
    from edge_runtime.evaluation import read

    found = [Part(name, "frames", cases) for name, cases in held.items()]
    found.append(Part("problems held out", "problems", [case for case, _ in held_out_problems()]))
    for name, path in FRAMES.items():
        cases = read(data / path)
        found += [Part(name, "frames", cases), Part(name + UNTAGGED, "frames", cases, tagged=False)]
    problems = SUITES["problems"].cases()
    found += [Part("problems", "problems", problems)]
    found += [Part("problems" + UNTAGGED, "problems", problems, tagged=False)]
    oos = SUITES["oos"].cases([data / path for path in SUITES["oos"].files])
    return [*found, Part("oos", "oos", oos, tagged=False)]


def measure_package(
    book: AnswerBook, asked: Sequence[Part], step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The figures of every part, each as {value, low, high, n}."""
    found = {}
    for part in asked:
        suite = SUITES[part.suite]
        marked = ask(part.cases, book.asker(suite.max_tokens), suite.mark, tagged=part.tagged, step=step)
        found[part.name] = {name: metric.to_json() for name, metric in suite.summarise(marked).items()}
    return found


def held_out_tokens(package: Path, held: Mapping[str, Sequence[FrameCase]], limit: int) -> list[list[int]]:
    """Prompts with their right answers, as the model meets them in use: `limit` rows of each kind."""
    pairs = [
        (case, case.reference.to_json())
        for cases in held.values()
        for case in cases[:limit]
        if case.reference is not None
    ]
    pairs += held_out_problems()[:limit]
    with LoadedModel.open(package, threads=1) as model:
        return [model.prompt(case.messages()) + model.tokenizer.encode(answer) for case, answer in pairs]


def fidelity(reference: Path, package: Path, rows: list[list[int]]) -> dict[str, Any]:
    """KL, top-1 agreement and perplexity ratio against the float32 package on `rows` of tokens."""
    from quantize.report import compare

    with LoadedModel.open(reference, threads=1) as a, LoadedModel.open(package, threads=1) as b:
        sizes = [sum(entry.size for entry in m.manifest.files.values()) for m in (a, b) if m.manifest]
        return compare(a.engine, b.engine, rows, reference_bytes=sizes[0], package_bytes=sizes[1]).to_dict()


def _spread(cases: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """At most `limit` cases, drawn from all over."""
    return cases if limit is None else random.Random(0).sample(list(cases), min(limit, len(cases)))


def measure(
    model: str,
    run: Path,
    checkpoint: Path,
    out: Path,
    *,
    answers: Path,
    schemes: Sequence[str] = (),
    threads: int = 1,
    limit: int | None = None,
    bar: Callable[..., None] = lambda *_, **__: None,
) -> dict[str, Any]:
    """Package `checkpoint` in every scheme under `out`, measure each, write `out/measured.json`.

    Args:
        model: the name of the packages, which chooses the schemes where none are given.
        run: the training run, which says what was held out.
        answers: the folder in which answers are kept.
        limit: rows of each part, for a rehearsal.
        bar: `edge_runtime.cli.output.progress`'s function.
    """
    from edge_runtime.evaluation.rows import find
    from quantize import Scheme, quantize_checkpoint

    data = find([FRAMES["hwu64"]])[0].parent.parent
    held = dict(held_out_frames(data, run))
    asked = [replace(part, cases=_spread(part.cases, limit)) for part in parts(data, held)]
    chosen = tuple(schemes) or SCHEMES[model]
    if chosen[0] != "fp32":
        raise ValueError(f"the first scheme is what the others are compared with: fp32, not {chosen[0]}")
    bar(0, total=len(chosen) * sum(len(part.cases) for part in asked))
    out.mkdir(parents=True, exist_ok=True)
    packages = {scheme: out / scheme for scheme in chosen}
    manifests = {
        scheme: quantize_checkpoint(
            checkpoint, package, scheme=Scheme.named(scheme), name=model, overwrite=True
        )
        for scheme, package in packages.items()
    }
    rows = held_out_tokens(packages["fp32"], held, min(limit or FIDELITY_ROWS, FIDELITY_ROWS))
    value: dict[str, Any] = {"model": model, "problems_sha256": PROBLEMS_TEST.sha256, "schemes": {}}
    for scheme, package in packages.items():
        with AnswerBook.of(package, answers, threads) as book:
            suites = measure_package(book, asked, step=lambda: bar(1))
        value["schemes"][scheme] = {
            "identity": identity_of(manifests[scheme]),
            "package_bytes": sum(path.stat().st_size for path in package.iterdir()),
            "suites": suites,
        }
        if scheme != "fp32":
            value["schemes"][scheme]["fidelity"] = fidelity(packages["fp32"], package, rows)
        (out / "measured.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return value
