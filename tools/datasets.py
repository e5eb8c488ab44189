"""Public data sets: where each comes from, fetching it, checking it, and turning it into recorded outcomes.

    python -m tools.datasets list
    python -m tools.datasets verify                      what is in EDGE_DATA_DIR against the known SHA-256
    python -m tools.datasets fetch clinc150              from its publisher, into EDGE_DATA_DIR
    python -m tools.datasets convert routing_gsm8k out.jsonl --weak mixtral_8x7b --strong gpt_4_1106

Nothing of these sets is part of the project. `docs/data.md` says what is known of each.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.output import emit_json, json_option, print_table, progress, status
from edge_runtime.errors import DataError, ModelZooError
from edge_runtime.evaluation.rows import data_folder
from offload.outcomes import Outcome, write_outcomes
from tools import data_sources as sources
from tools.data_sources import Source

OPTIONS = "ABCD"


@dataclass(frozen=True, slots=True)
class Known:
    """A file of a set in our row format: rows, SHA-256, and whether it has every row of the publisher's part.

    `sha256` is of the file as the project's figures were measured on it. A part that is not `whole` is a
    fixed selection of the publisher's rows (the others are kept for checking claims); fetching gives all.
    """

    rows: int
    sha256: str
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Dataset:
    """A set: what it is, whose, under which licence, what its files should be, where they come from.

    `outcome` turns a row into a recorded outcome, for sets of models' answers.
    """

    name: str
    what: str
    publisher: str
    licence: str
    files: Mapping[str, Known]
    source: Source | None
    outcome: Callable[[Mapping[str, Any], str, str], Outcome] | None = None
    models: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of further files that are kept as they are published."""


def of_gsm8k(row: Mapping[str, Any], weak: str, strong: str) -> Outcome:
    return Outcome(
        row["prompt"],
        bool(row[weak]["correct"]),
        bool(row[strong]["correct"]),
        response=row[weak]["response"],
        suite="gsm8k",
        id=str(row["index"]),
    )


def of_mmlu(row: Mapping[str, Any], weak: str, strong: str) -> Outcome:
    return Outcome(
        row["prompt"],
        bool(row[weak]),
        bool(row[strong]),
        suite="mmlu",
        id=f"{row['subject']}/{row['row']}",
        extra={"subject": row["subject"]},
    )


def of_probs(row: Mapping[str, Any], weak: str, strong: str) -> Outcome:
    """The set has no question texts: the prompt names the question. The answer is the likeliest option, by
    the mean over the wordings; no stronger model answered.
    """
    wordings = row["probs"]
    means = [sum(p[i] for p in wordings) / len(wordings) for i in range(len(wordings[0]))]
    best = max(range(len(means)), key=means.__getitem__)
    name = f"{row['subject']}/{row['row']}"
    return Outcome(
        f"MMLU {name}",
        best == row["target"],
        response=OPTIONS[best],
        option_probs=tuple(tuple(p) for p in wordings),
        suite="llama13b_mmlu",
        id=name,
        extra={"subject": row["subject"]},
    )


GSM8K_MODELS = (
    "mixtral_8x7b",
    "gpt_4_1106",
    "gpt3_6b_finetuning",
    "gpt3_6b_verification",
    "gpt3_175b_finetuning",
    "gpt3_175b_verification",
)

DATASETS: Mapping[str, Dataset] = {
    found.name: found
    for found in (
        Dataset(
            "clinc150",
            "150 intents and out-of-scope queries, written by people",
            "https://github.com/clinc/oos-eval (Larson et al. 2019)",
            "CC BY 3.0",
            {
                "train.jsonl": Known(
                    15_000, "a72e8f5e66164a3f9a2699c84c83270f6fd84c817a053a92180541309f721b5b"
                ),
                "val.jsonl": Known(3_000, "06f97ba3cbfafe01cac99b04f4df0a32c0eef754b55685bb3fd17dc66d241227"),
                "test.jsonl": Known(
                    2_280, "76e0d013f0e514d08ce659fb8565b6ce17044a9caa0186bd5bf88e37b9e847c9", whole=False
                ),
                "oos_train.jsonl": Known(
                    100, "7eb306a54c517822adae0b22e09c74ce01f7d9df1ff374e2050fd5a646b26999"
                ),
                "oos_val.jsonl": Known(
                    100, "54ac326d10c26cbd75481f40d2069ccafe6c65aee714673f651d12ad22cb4872"
                ),
                "oos_test.jsonl": Known(
                    513, "3fda26e1372d244d5660b8865c28afe1eb26f90dfef745b5b17cb0c8771ea39a", whole=False
                ),
            },
            sources.CLINC150,
        ),
        Dataset(
            "hwu64",
            "what people say to a home assistant robot, 64 intents with slots (fold 1)",
            "https://github.com/xliuhw/NLU-Evaluation-Data (Liu et al. 2019)",
            "CC BY 4.0",
            {
                "train.jsonl": Known(
                    9_960, "0147eef807035a1294660f7f9784947dcdda4fcec875808bd931595c5fe073f2"
                ),
                "test.jsonl": Known(
                    536, "e9409fc04a755510758fdb4dba5fd6583059cca9f024f720e7ef01166776320d", whole=False
                ),
            },
            sources.HWU64,
        ),
        Dataset(
            "ha_intents",
            "Home Assistant's English sentence templates, intents, test home and tests",
            "https://github.com/home-assistant/intents",
            "CC BY 4.0",
            {
                "tests_en.jsonl": Known(
                    528, "d25d817273e32f403b4630c134024ecbf93b247b43f1b6f27af515292ede90aa", whole=False
                )
            },
            sources.HA_INTENTS,
            also={
                "fixtures.yaml": "b98e5510569ba2017f3fff67c6d01fc299eeda160dc3d36900f1c63e050a4814",
                "intents.yaml": "159ff706db8be9a822f99bd6fc6ad93748402e6caf6bac10690f07bfe3b80d5e",
            },
        ),
        Dataset(
            "routing_gsm8k",
            "GSM8K test questions with six models' answers and whether they are right",
            "https://github.com/lm-sys/RouteLLM, https://github.com/openai/grade-school-math",
            "Apache-2.0, MIT",
            {
                "public.jsonl": Known(
                    670, "eda8da63232148da6fe0f221ea4efe65014f6fbe08dac6c8336fc3853b91e86a", whole=False
                )
            },
            sources.GSM8K,
            of_gsm8k,
            GSM8K_MODELS,
        ),
        Dataset(
            "routing_mmlu",
            "MMLU prompts and whether Mixtral-8x7B and GPT-4-1106 got them",
            "https://github.com/lm-sys/RouteLLM",
            "Apache-2.0",
            {
                "public.jsonl": Known(
                    7_091, "53bdc2e526009c95189870a0ced0c07a653c7c7bdb799b697b6f346c4ab71bec", whole=False
                )
            },
            sources.MMLU,
            of_mmlu,
            ("mixtral_8x7b", "gpt_4_1106"),
        ),
        Dataset(
            "llama13b_mmlu_probs",
            "LLaMA-13B's probabilities of the four options under ten prompts",
            "https://github.com/bhaweshiitk/ConformalLLM",
            "MIT",
            {
                "public.jsonl": Known(
                    1_458, "947c1fe9a4239b7facbb3188e576a368f0deb608ecfa0b8e26cb33558c541a2a", whole=False
                )
            },
            None,
            of_probs,
            ("llama13b",),
        ),
    )
}


def find(name: str) -> Dataset:
    """The set of a name.

    Raises:
        click.BadParameter: there is none; names them all.
    """
    if name not in DATASETS:
        raise click.BadParameter(f"there is no set '{name}'; there are {', '.join(DATASETS)}")
    return DATASETS[name]


def rows_of(dataset: Dataset, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of the set's one file of answers.

    Raises:
        DataError: the file is not there; says what to do.
    """
    path = folder / dataset.name / next(iter(dataset.files))
    if not path.is_file():
        raise DataError(
            f"{path} is not there: set EDGE_DATA_DIR to the folder of the data sets, or fetch the set with: "
            f"python -m tools.datasets fetch {dataset.name}"
        )
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def outcomes_of(
    name: str, *, weak: str | None = None, strong: str | None = None, folder: Path | None = None
) -> list[Outcome]:
    """A set of models' answers as recorded outcomes; the first two models unless others are named.

    Raises:
        DataError: the set holds questions alone, is not there, or has no such model.
    """
    dataset = find(name)
    if dataset.outcome is None:
        raise DataError(
            f"{name} holds questions, not models' answers: outcomes come from asking two models, with: "
            "python -m tools.pair_outcomes"
        )
    here = weak or dataset.models[0]
    there = strong or dataset.models[min(1, len(dataset.models) - 1)]
    for model in (here, there):
        if model not in dataset.models:
            raise DataError(f"{name} has no answers of '{model}'; it has {', '.join(dataset.models)}")
    return [dataset.outcome(row, here, there) for row in rows_of(dataset, folder or data_folder())]


def check(dataset: Dataset, folder: Path) -> Iterator[tuple[str, str]]:
    """(file, verdict) of every file of a set: `as measured`, `all rows`, `other rows`, or `missing`."""
    expected = {**{n: k.sha256 for n, k in dataset.files.items()}, **dataset.also}
    for name, digest in expected.items():
        path = folder / dataset.name / name
        if not path.is_file():
            yield name, "missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            yield name, "as measured"
        else:
            known = dataset.files.get(name)
            more = known is not None and not known.whole and _count(path) > known.rows
            yield name, "all rows" if more else "other rows"


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)


@click.group()
def main() -> None:
    """Look after public data sets."""


@main.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """Every set with publisher, licence and files."""
    if as_json:
        emit_json(
            [
                {
                    "name": d.name,
                    "what": d.what,
                    "publisher": d.publisher,
                    "licence": d.licence,
                    "source": list(d.source.addresses()) if d.source else [],
                    "files": {n: {"rows": k.rows, "sha256": k.sha256} for n, k in d.files.items()},
                }
                for d in DATASETS.values()
            ]
        )
        return
    rows = [
        (d.name, sum(k.rows for k in d.files.values()), d.licence, d.publisher) for d in DATASETS.values()
    ]
    print_table(("set", "rows", "licence", "publisher"), rows)


@main.command()
@click.argument("names", nargs=-1)
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Compare the files in EDGE_DATA_DIR with the known SHA-256; ends with 1 when one is neither."""
    folder = data_folder()
    found = [
        (name, file, verdict) for name in names or DATASETS for file, verdict in check(find(name), folder)
    ]
    if as_json:
        files = [{"set": name, "file": file, "is": verdict} for name, file, verdict in found]
        emit_json({"folder": str(folder), "files": files})
    else:
        print_table(("set", "file", "is"), found, title=str(folder))
    if any(verdict in ("missing", "other rows") for *_, verdict in found):
        raise SystemExit(1)


@main.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Fetch a set from its publisher into EDGE_DATA_DIR, unless it is there."""
    dataset = find(name)
    folder = data_folder()
    present = [file for file in (*dataset.files, *dataset.also) if (folder / name / file).is_file()]
    if len(present) == len(dataset.files) + len(dataset.also):
        status(f"{name} is in {folder} already")
        return
    if dataset.source is None:
        raise DataError(
            f"{name} is published as Python pickles, which can run code when read: it is not fetched. "
            f"See {dataset.publisher}, and docs/data.md for the rows that are needed"
        )
    with progress(f"fetch {name}") as advance:
        files = sources.fetch(dataset.source, folder / name / ".source", lambda done, total: advance(0))
        made = dataset.source.convert(files)
    for file, text in made.items():
        target = folder / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    for file, verdict in check(dataset, folder):
        known = dataset.files.get(file)
        if verdict == "other rows" and known is not None and known.whole:
            same = sources.rows_digest((folder / name / file).read_text("utf-8")) == sources.ROWS.get(
                f"{name}/{file}"
            )
            verdict = "the same rows in another order" if same else "other rows than were measured"
        status(f"{name}/{file}: {verdict}")


@main.command()
@click.argument("name")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--weak", help="The model in the device's place. [default: the set's first]")
@click.option("--strong", help="The model in the cloud's place. [default: the set's second]")
def convert(name: str, out: Path, weak: str | None, strong: str | None) -> None:
    """Write a set of models' answers as recorded outcomes."""
    rows = outcomes_of(name, weak=weak, strong=strong)
    write_outcomes(out, rows)
    status(f"wrote {len(rows)} outcomes to {out}")


if __name__ == "__main__":
    try:
        main()
    except (DataError, ModelZooError) as error:
        raise SystemExit(f"error: {error}") from error
