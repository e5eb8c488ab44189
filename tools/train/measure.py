"""Measure a trained checkpoint as packages of several schemes, and write the figures into pages.

Figures come from the code behind `edge-runtime evaluate`, run on the public test rows; the scheme of the
shipped package is chosen on held-out training rows alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.evaluation import ask, asker, read
from edge_runtime.evaluation.rows import find
from edge_runtime.evaluation.suites import summarise_frames, summarise_oos
from edge_runtime.model import LoadedModel

SCHEMES = ("fp32", "int8", "int4")
FRAMES = {"hwu64": "hwu64/test.jsonl", "ha_intents": "ha_intents/tests_en.jsonl"}
OOS = (*FRAMES.values(), "clinc150/oos_test.jsonl", "clinc150/test.jsonl")


def held_out(data: Path, folder: Path) -> dict[str, Path]:
    """The held-out training rows as files in the public formats."""
    from .config import TrainConfig
    from .data import Corpus

    corpus = Corpus(data, TrainConfig())
    rows: dict[str, list[dict[str, Any]]] = {"hwu64 held out": [], "templates held out": []}
    for row in corpus.validation:
        at, entities = 0, []
        for text, entity in row.segments:
            if entity:
                entities.append({"start": at, "end": at + len(text), "value": text, "entity": entity})
            at += len(text)
        rows["hwu64 held out"].append({"text": row.text, "intent": row.intent, "entities": entities})
    for sample in corpus.home_validation:
        context = {"area": sample.area} if sample.area else {}
        frame = sample.frame
        rows["templates held out"].append(
            {"text": sample.text, "intent": frame.intent, "slots": frame.slots, "context": context}
        )
    paths = {}
    for name, lines in rows.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.jsonl"
        paths[name].write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return paths


def measure_package(package: Path, data: Path, validation: Mapping[str, Path]) -> dict[str, Any]:
    """All suites on one package; every metric as {value, low, high, n}."""
    found: dict[str, Any] = {}
    files = {**validation, **{name: data / path for name, path in FRAMES.items()}}
    with LoadedModel.open(package, threads=1) as model:
        answer = asker(model)
        for name, path in files.items():
            for tagged in (True, False):
                if not tagged and name not in FRAMES:
                    continue
                metrics = summarise_frames(ask(read(path), answer, tagged=tagged))
                found[name if tagged else f"{name}, no dialect asked"] = metrics
        cases = [case for name in OOS for case in read(data / name)]
        found["oos"] = summarise_oos(ask(cases, answer, tagged=False))
    return {suite: {name: m.to_json() for name, m in metrics.items()} for suite, metrics in found.items()}


def fidelity(reference: Path, package: Path, rows: list[list[int]]) -> dict[str, Any]:
    """KL, top-1 agreement and perplexity ratio against the float32 package on `rows` of tokens."""
    from quantize.report import compare

    with LoadedModel.open(reference, threads=1) as a, LoadedModel.open(package, threads=1) as b:
        sizes = [sum(entry.size for entry in m.manifest.files.values()) for m in (a, b)]
        return compare(a.engine, b.engine, rows, reference_bytes=sizes[0], package_bytes=sizes[1]).to_dict()


def held_out_tokens(package: Path, files: Mapping[str, Path], limit: int) -> list[list[int]]:
    """Prompts with their right answers, as the model meets them in use."""
    with LoadedModel.open(package, threads=1) as model:
        rows = []
        for path in files.values():
            for case in read(path, limit):
                assert case.reference is not None
                rows.append(model.prompt(case.messages()) + model.tokenizer.encode(case.reference.to_json()))
        return rows


def measure(checkpoint: Path, out: Path, schemes: tuple[str, ...] = SCHEMES) -> dict[str, Any]:
    """Package `checkpoint` in every scheme under `out`, measure each, write `out/measured.json`."""
    from quantize import Scheme, quantize_checkpoint

    data = find([FRAMES["hwu64"]])[0].parent.parent
    out.mkdir(parents=True, exist_ok=True)
    packages = {scheme: out / scheme for scheme in schemes}
    for scheme, package in packages.items():
        quantize_checkpoint(checkpoint, package, scheme=Scheme.named(scheme), name="pocket", overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        validation = held_out(data, Path(folder))
        rows = held_out_tokens(packages[schemes[0]], validation, 300)
        value: dict[str, Any] = {"schemes": {}}
        for scheme, package in packages.items():
            size = sum(path.stat().st_size for path in package.iterdir())
            entry: dict[str, Any] = {
                "package_bytes": size,
                "suites": measure_package(package, data, validation),
            }
            if scheme != schemes[0]:
                entry["fidelity"] = fidelity(packages[schemes[0]], package, rows)
            value["schemes"][scheme] = entry
            (out / "measured.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return value
