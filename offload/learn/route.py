"""A learned router: from a prompt, and where there is one from its answer, what escalating would gain.

Two parts, both linear in what they see, so that a decision takes well under a millisecond and no library
beside numpy:

1. Of the prompt: two ridge regressions on hashed n-grams (TF-IDF) and on plain figures, for the weak and for
   the strong model's correctness. Their difference is the ridge regression of the gain s − w itself.
2. With evidence: two logistic regressions on what part 1 says, on the answer's text and on its signals.

Knows: how a saved router is applied. Does not know: how it is trained (`offload.learn.fit_route`).
"""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offload.checks import CHECKS, check
from offload.confidence import SIGNALS, signal_value
from offload.errors import RouterFileError
from offload.learn.embed import Embedder, embedded, named
from offload.learn.features import (
    ANSWER_FIGURES,
    PROMPT_FIGURES,
    Floats,
    NGrams,
    answer_figures,
    hashed,
    prompt_figures,
)
from offload.learn.ridge import sigmoid
from offload.outcomes import Outcome, number_of

__all__ = ["FORMAT", "Columns", "PromptModel", "Router", "Second", "second_inputs"]

FORMAT = "edge-router/1"
MAX_BYTES = 16 * 1024 * 1024
CLIP = 4.0
"""Standardised inputs are held within ± this many deviations: a value never seen must not decide alone."""


@dataclass(frozen=True, slots=True)
class PromptModel:
    """Part 1. `weak` and `strong` are weights of buckets, `figures_…` of the standardised prompt figures.

    With an `embedder` (its name), `embed` is what makes its vectors, which stand after the figures.
    """

    ngrams: NGrams
    idf: Floats
    weak: Floats
    strong: Floats
    center: Floats
    scale: Floats
    figures_weak: Floats
    figures_strong: Floats
    mean_weak: float
    mean_strong: float
    embedder: str | None = None
    embed: Embedder | None = field(default=None, compare=False)

    def scores(self, prompts: Sequence[str]) -> Floats:
        """Expected correctness of the weak and the strong model, unbounded: float64 [prompts, 2]."""
        wide = hashed(prompts, self.ngrams).scaled(self.idf)
        dense = standardised(dense_figures(prompts, self.embed), self.center, self.scale)
        weak = wide.dot(self.weak) + dense @ self.figures_weak + self.mean_weak
        strong = wide.dot(self.strong) + dense @ self.figures_strong + self.mean_strong
        return np.stack([weak, strong], axis=1)


@dataclass(frozen=True, slots=True)
class Columns:
    """How the inputs of part 2 are prepared: each as deviations from its centre, and as its rank.

    `knots` are quantiles of each input, float64 [inputs, levels]: the rank is the place between them.
    `may_miss`: inputs that were missing in some training rows get an indicator; any other that is missing
    leaves the row without a figure.
    """

    names: tuple[str, ...]
    center: Floats
    scale: Floats
    knots: Floats
    may_miss: tuple[bool, ...]

    def design(self, values: Floats) -> Floats:
        """The columns for raw inputs [rows, inputs], NaN where missing; rows that cannot be told are NaN."""
        missing = ~np.isfinite(values)
        filled = np.where(missing, self.center, values)
        deviations = standardised(filled, self.center, self.scale)
        levels = np.linspace(-1, 1, self.knots.shape[1])
        ranks = np.stack(
            [np.interp(filled[:, i], self.knots[i], levels) for i in range(len(self.names))], axis=1
        )
        ranks[missing] = 0.0
        allowed = np.array(self.may_miss, bool)
        result: Floats = np.hstack([deviations, ranks, missing[:, allowed].astype(np.float64)])
        result[(missing & ~allowed).any(axis=1)] = np.nan
        return result


@dataclass(frozen=True, slots=True)
class Second:
    """Part 2: logistic regressions over `columns` for the weak and the strong model."""

    columns: Columns
    weak: Floats
    strong: Floats
    offset_weak: float
    offset_strong: float

    def probabilities(self, values: Floats) -> Floats:
        """P(weak right), P(strong right): float64 [rows, 2], NaN where the inputs do not suffice."""
        x = self.columns.design(values)
        weak, strong = x @ self.weak + self.offset_weak, x @ self.strong + self.offset_strong
        return np.stack([sigmoid(weak), sigmoid(strong)], axis=1)


@dataclass(frozen=True, slots=True)
class Router:
    """A trained router. `trained` says on what, when, and how well in cross-validation."""

    prompt: PromptModel
    platt: tuple[float, float]
    """(slope, offset): P(weak right) from part 1's score of the weak model."""
    second: Second | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`prompt`, or `prompt+evidence`."""
        return "prompt" if self.second is None else "prompt+evidence"

    def before(self, prompt: str) -> tuple[float, float]:
        """From the prompt alone: P(the weak model will be right), and the gain expected of escalating."""
        weak, strong = self.prompt.scores([prompt])[0]
        slope, offset = self.platt
        return float(sigmoid(np.array(slope * weak + offset))), float(strong - weak)

    def gains(self, rows: Sequence[Outcome]) -> Floats:
        """Expected gain of escalating each row: E[s − w], NaN where what a row has does not suffice.

        Only prompt, response, evidence and option probabilities are looked at, never the verdicts.
        """
        scores = self.prompt.scores([row.prompt for row in rows])
        if self.second is None:
            return np.asarray(scores[:, 1] - scores[:, 0], np.float64)
        p = self.second.probabilities(second_inputs(rows, scores, self.second.columns.names))
        return np.asarray(p[:, 1] - p[:, 0], np.float64)

    def weak_probabilities(self, rows: Sequence[Outcome]) -> Floats:
        """P(the weak model is right) of each row, NaN where what a row has does not suffice."""
        scores = self.prompt.scores([row.prompt for row in rows])
        if self.second is None:
            slope, offset = self.platt
            return sigmoid(slope * scores[:, 0] + offset)
        return self.second.probabilities(second_inputs(rows, scores, self.second.columns.names))[:, 0]

    def save(self, path: str | Path) -> None:
        """Write the router as JSON; the file is there whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(_to_json(self), allow_nan=False, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, embedder: str | None = None) -> Router:
        """Read a saved router.

        Args:
            embedder: the sentence embedder that it was trained with, if it was; `offload.learn.embed.named`.

        Raises:
            RouterFileError: the file is missing, of another format, damaged, or wants another embedder.
            OffloadError: there is no such embedder.
        """
        path = Path(path)
        again = "train one with: edge-runtime learn route"
        try:
            if path.stat().st_size > MAX_BYTES:
                raise RouterFileError(f"{path} is longer than {MAX_BYTES} bytes: not a router; {again}")
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RouterFileError(f"{path} cannot be read: {error.strerror or error}; {again}") from error
        except ValueError as error:
            raise RouterFileError(f"{path} is not JSON: {error}; {again}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else None
            raise RouterFileError(f"{path} has the format {found!r}, not '{FORMAT}'; {again}")
        wanted = value.get("embedder")
        if wanted != embedder:
            raise RouterFileError(
                f"{path} was trained with {_said(wanted)}, not with {_said(embedder)}: "
                + (f"give --embedder '{wanted}'" if wanted else "leave --embedder out")
            )
        embed = None if embedder is None else named(embedder)
        try:
            return _from_json(value, embedder, embed)
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            raise RouterFileError(f"{path} is damaged: {type(error).__name__}: {error}; {again}") from error


def dense_figures(prompts: Sequence[str], embed: Embedder | None) -> Floats:
    """The prompts' figures, and after them their vectors where there is an embedder: float64 [prompts, …]."""
    figures = prompt_figures(prompts)
    return figures if embed is None else np.hstack([figures, embedded(embed, prompts)])


def second_inputs(rows: Sequence[Outcome], scores: Floats, names: Sequence[str]) -> Floats:
    """Raw inputs of part 2 by name, NaN where a row has none: float64 [rows, names].

    `prompt.weak`, `prompt.strong` (part 1), `answer.…` (`ANSWER_FIGURES`), `check.…` (`offload.checks`),
    `signal.…` (`offload.confidence.SIGNALS`), `option_probs.max`.
    """
    table: dict[str, Floats] = {"prompt.weak": scores[:, 0], "prompt.strong": scores[:, 1]}
    heads = {name.partition(".")[0] for name in names}
    if "answer" in heads:
        figures = answer_figures([r.prompt for r in rows], [r.response or "" for r in rows])
        figures[[r.response is None for r in rows]] = np.nan
        table |= {f"answer.{name}": figures[:, i] for i, name in enumerate(ANSWER_FIGURES)}
    if "check" in heads:
        checks = [{} if r.response is None else check(r.prompt, r.response) for r in rows]
        table |= {f"check.{n}": np.array([c.get(n, math.nan) for c in checks]) for n in CHECKS}
    for name in names:
        head, _, tail = name.partition(".")
        if head == "signal":
            found = [None if r.evidence is None else signal_value(tail, r.evidence) for r in rows]
            table[name] = np.array([math.nan if x is None else x for x in found], np.float64)
    if "option_probs" in heads:
        sure = [number_of(r, "option_probs.max") for r in rows]
        table["option_probs.max"] = np.array([math.nan if x is None else x for x in sure], np.float64)
    return np.stack([table[name] for name in names], axis=1)


def known_inputs() -> tuple[str, ...]:
    """Every name that `second_inputs` knows."""
    return (
        "prompt.weak",
        "prompt.strong",
        *(f"answer.{name}" for name in ANSWER_FIGURES),
        *(f"check.{name}" for name in CHECKS),
        *(f"signal.{name}" for name in SIGNALS if name not in CHECKS),
        "option_probs.max",
    )


def standardised(values: Floats, center: Floats, scale: Floats) -> Floats:
    """(value − centre) / scale, held within ± CLIP."""
    return np.asarray(np.clip((values - center) / scale, -CLIP, CLIP), np.float64)


def _packed(x: Floats) -> str:
    """float16, compressed, base64: 2^17 weights as text of some hundred kB."""
    return base64.b64encode(zlib.compress(x.astype("<f2").tobytes(), 9)).decode("ascii")


def _unpacked(text: str, size: int) -> Floats:
    stream = zlib.decompressobj()
    data = stream.decompress(base64.b64decode(text, validate=True), 2 * size + 1)
    x = np.frombuffer(data, "<f2").astype(np.float64)
    if len(x) != size or not np.isfinite(x).all():
        raise ValueError(f"a table of weights has {len(x)} numbers, not {size} finite ones")
    return x


def _to_json(router: Router) -> dict[str, Any]:
    m, second = router.prompt, router.second
    value: dict[str, Any] = {
        "format": FORMAT,
        "kind": router.kind,
        "embedder": m.embedder,
        "trained": dict(router.trained),
        "prompt": {
            "ngrams": {"words": m.ngrams.words, "chars": list(m.ngrams.chars), "bits": m.ngrams.bits},
            "figures": list(PROMPT_FIGURES),
            **{name: getattr(m, name).tolist() for name in _FIGURE_TABLES},
            "mean_weak": m.mean_weak,
            "mean_strong": m.mean_strong,
            **{name: _packed(getattr(m, name)) for name in _BUCKET_TABLES},
        },
        "platt": list(router.platt),
    }
    if second is not None:
        c = second.columns
        value["second"] = {
            "names": list(c.names),
            "may_miss": list(c.may_miss),
            "center": c.center.tolist(),
            "scale": c.scale.tolist(),
            "knots": c.knots.tolist(),
            "weak": second.weak.tolist(),
            "strong": second.strong.tolist(),
            "offset_weak": second.offset_weak,
            "offset_strong": second.offset_strong,
        }
    return value


_BUCKET_TABLES = ("idf", "weak", "strong")
_FIGURE_TABLES = ("center", "scale", "figures_weak", "figures_strong")


def _said(embedder: str | None) -> str:
    return f"the sentence embedder '{embedder}'" if embedder else "no sentence embedder"


def _from_json(value: Mapping[str, Any], embedder: str | None, embed: Embedder | None) -> Router:
    p = value["prompt"]
    grams = p["ngrams"]
    ngrams = NGrams(int(grams["words"]), tuple(int(n) for n in grams["chars"]), int(grams["bits"]))
    if not 1 <= ngrams.bits <= 22 or tuple(p["figures"]) != PROMPT_FIGURES:
        raise ValueError("its prompt features are not those of this version")
    size = len(p["center"])
    if size < len(PROMPT_FIGURES) or (embed is None and size > len(PROMPT_FIGURES)):
        raise ValueError(f"'center' has {size} numbers")
    prompt = PromptModel(
        ngrams,
        **{name: _unpacked(p[name], ngrams.size) for name in _BUCKET_TABLES},
        **{name: _vector(p[name], size) for name in _FIGURE_TABLES},
        mean_weak=_number(p["mean_weak"]),
        mean_strong=_number(p["mean_strong"]),
        embedder=embedder,
        embed=embed,
    )
    slope, offset = (_number(x) for x in value["platt"])
    second = _second(value["second"]) if value["kind"] == "prompt+evidence" else None
    return Router(prompt, (slope, offset), second, dict(value["trained"]))


def _second(s: Mapping[str, Any]) -> Second:
    names, may_miss = tuple(map(str, s["names"])), tuple(map(bool, s["may_miss"]))
    unknown = sorted(set(names) - set(known_inputs()))
    if unknown:
        raise ValueError(f"it looks at {unknown[0]}, which this version does not know")
    count, width = len(names), 2 * len(names) + sum(may_miss)
    if len(may_miss) != count:
        raise ValueError("'may_miss' and 'names' differ in length")
    knots = np.stack([_vector(row, len(s["knots"][0])) for row in s["knots"]])
    columns = Columns(names, _vector(s["center"], count), _vector(s["scale"], count), knots, may_miss)
    return Second(
        columns,
        _vector(s["weak"], width),
        _vector(s["strong"], width),
        _number(s["offset_weak"]),
        _number(s["offset_strong"]),
    )


def _vector(value: Sequence[float], size: int) -> Floats:
    x = np.array(value, np.float64)
    if x.shape != (size,) or not np.isfinite(x).all():
        raise ValueError(f"a table has the shape {x.shape}, not ({size},), or numbers that are not finite")
    return x


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
