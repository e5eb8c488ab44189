"""Training a router on recorded outcomes (`offload.learn.route` applies it); numpy alone.

Predicting the *gain* s − w orders queries for escalation better than predicting whether the weak model is
right: where both models fail there is nothing to win. What part 1 says of a row while part 2 is trained comes
from a model that has not seen the row (cross-fitting), since a ridge regression nearly knows its own rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from offload.errors import OutcomesError
from offload.evaluate.metrics import auroc
from offload.evaluate.routing import Deferral
from offload.learn.embed import Embedder, remembering
from offload.learn.features import PROMPT_FIGURES, Floats, Ints, NGrams, Rows, hashed
from offload.learn.ridge import logistic, ridge
from offload.learn.route import (
    CLIP,
    Columns,
    PromptModel,
    Router,
    Second,
    dense_figures,
    known_inputs,
    second_inputs,
)
from offload.outcomes import Outcome

__all__ = ["INPUTS", "cross_validate", "fit", "folds", "usable"]

INPUTS = ("auto", "prompt", "prompt+evidence")

ALPHAS = (10.0, 30.0)
"""Penalties tried for the prompt's regressions; n-gram rows have length 1. On a few hundred rows a wider
choice costs more by its own noise than it gains: all penalties from 5 to 80 do about equally well."""

PENALTIES = (3.0, 30.0, 300.0)
"""Penalties tried for the logistic regressions of the second part."""

FIGURE_WEIGHT = 0.1
"""Standardised figures beside n-gram rows of length 1: together as long as about a third of these."""

LEAST = 40
"""Rows below which nothing is trained."""

PRESENT = 0.9
"""Share of rows that must have an input for it to be used."""

KNOTS = 9

Step = Callable[[str], None]


def usable(rows: Sequence[Outcome]) -> None:
    """Check that a router can be learnt from these rows.

    Raises:
        OutcomesError: too few rows, a row without the strong model, or models that never differ.
    """
    if len(rows) < LEAST:
        raise OutcomesError(f"there are {len(rows)} rows; learning to route needs {LEAST} or more")
    for i, row in enumerate(rows, 1):
        if row.strong_correct is None:
            raise OutcomesError(
                f"row {i} (prompt {row.prompt[:40]!r}) has no strong_correct: learning to route needs both "
                "models' verdicts on every row"
            )
    if all(row.strong_correct == row.weak_correct for row in rows):
        raise OutcomesError(
            "weak_correct and strong_correct are the same on every row: there is no gain to learn; record "
            "outcomes where the models differ"
        )
    for name in ("weak_correct", "strong_correct"):
        if all(not getattr(row, name) for row in rows):
            raise OutcomesError(f"{name} is false on every row: one class only, nothing to learn")


def folds(n: int, k: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """(training rows, held-out rows) of k folds over shuffled rows."""
    order = np.random.default_rng(seed).permutation(n)
    for i in range(k):
        held = np.zeros(n, bool)
        held[order[i::k]] = True
        yield np.flatnonzero(~held), np.flatnonzero(held)


def fit(
    rows: Sequence[Outcome],
    *,
    inputs: str = "auto",
    ngrams: NGrams | None = None,
    embedder: tuple[str, Embedder] | None = None,
    seed: int = 0,
    created: float | None = None,
    step: Step | None = None,
) -> Router:
    """Train a router; `inputs` is `prompt`, `prompt+evidence`, or `auto` (the better in cross-validation).

    Args:
        embedder: a sentence embedder and its name, whose vectors join the prompt's features.
        created: Unix seconds for the record, by default now.
        step: called with a few words as the work goes on.

    Raises:
        OutcomesError: the rows do not suffice (`usable`), or evidence was asked for and there is none.
    """
    usable(rows)
    say = step or (lambda _: None)
    w = np.array([row.weak_correct for row in rows], np.float64)
    s = np.array([bool(row.strong_correct) for row in rows], np.float64)
    prompts = [row.prompt for row in rows]
    say("features")
    grams = ngrams or NGrams()
    embed = None if embedder is None else embedder[1]
    wide, figures = hashed(prompts, grams), dense_figures(prompts, embed)
    parts = list(folds(len(rows), 3 if len(rows) > 2_000 else 5, seed))

    held = np.zeros(len(rows))
    tried: list[tuple[float, float]] = []
    for alpha in ALPHAS:
        say(f"prompt, penalty {alpha:g}")
        for train, test in parts:
            view = _View.of(wide, figures, train)
            held[test] = view.solve(s[train] - w[train], alpha).on(view.rows(wide, figures, test))
        tried.append((_correlation(held, s - w), alpha))
    alpha = max(tried)[1]

    say("prompt, both models")
    scores = np.zeros((len(rows), 2))
    for train, test in parts:
        view = _View.of(wide, figures, train)
        apart = view.rows(wide, figures, test)
        for i, y in enumerate((w, s)):
            scores[test, i] = y[train].mean() + view.solve(y[train] - y[train].mean(), alpha).on(apart)
    slope, offset = logistic(scores[:, :1], w, 1e-3)
    prompt = _prompt_model(wide, figures, w, s, alpha, grams)
    if embedder is not None:
        prompt = replace(prompt, embedder=embedder[0], embed=embedder[1])
    found = {"prompt": _figures(scores[:, 0] - scores[:, 1], w, s)}

    second, names = None, _present(rows)
    if inputs != "prompt" and names:
        say("answers")
        second, p = _fit_second(rows, scores, names, w, s, parts)
        found["prompt+evidence"] = _figures(p[:, 0] - p[:, 1], w, s)
    elif inputs == "prompt+evidence":
        raise OutcomesError(
            "no row has a response, evidence or option_probs: record them, or train with --inputs prompt"
        )
    if inputs == "auto" and second is not None:
        better = (found["prompt+evidence"]["apgr"] or 0) > (found["prompt"]["apgr"] or 0)
        second = second if better else None
    trained: dict[str, Any] = {
        "n": len(rows),
        "created": round(time.time() if created is None else created),
        "weak": round(float(w.mean()), 6),
        "strong": round(float(s.mean()), 6),
        "alpha": alpha,
        "cross_validated": found,
        "seed": seed,
    }
    return Router(prompt, (float(slope[0]), offset), second, trained)


def cross_validate(
    rows: Sequence[Outcome],
    *,
    inputs: str = "auto",
    ngrams: NGrams | None = None,
    embedder: tuple[str, Embedder] | None = None,
    k: int = 5,
    seed: int = 0,
    step: Step | None = None,
) -> tuple[Floats, Floats]:
    """Gains and P(weak right) of every row by routers that have not seen it: all of `fit` runs in each fold.

    Raises:
        OutcomesError: as `fit`.
    """
    usable(rows)
    if embedder is not None:
        embedder = (embedder[0], remembering(embedder[1]))
    gains, p = np.zeros(len(rows)), np.zeros(len(rows))
    for i, (train, test) in enumerate(folds(len(rows), k, seed + 1), 1):
        if step is not None:
            step(f"fold {i} of {k}")
        part = [rows[j] for j in train]
        router = fit(part, inputs=inputs, ngrams=ngrams, embedder=embedder, seed=seed, created=0)
        apart = [rows[j] for j in test]
        gains[test], p[test] = router.gains(apart), router.weak_probabilities(apart)
    return gains, p


class _View:
    """What training rows make of the raw features: IDF, centre and scale come from them alone."""

    def __init__(self, wide: Rows, dense: Floats, idf: Floats, center: Floats, scale: Floats) -> None:
        self.wide, self.dense, self.idf, self.center, self.scale = wide, dense, idf, center, scale

    @classmethod
    def of(cls, wide: Rows, figures: Floats, train: Ints) -> _View:
        part = wide.take(train)
        seen = part.document_frequency()
        # Smoothed inverse document frequency, as scikit-learn's TfidfVectorizer; buckets never seen weigh 0.
        idf = np.where(seen > 0, np.log((1 + len(part)) / (1 + seen)) + 1, 0.0)
        center, deviation = figures[train].mean(axis=0), figures[train].std(axis=0)
        scale = np.where(deviation > 1e-9, deviation, 1.0) / _column_weights(figures)
        view = cls(part, figures[train], idf, center, scale)
        view.wide, view.dense = view.rows(wide, figures, train)
        return view

    def rows(self, wide: Rows, figures: Floats, chosen: Ints) -> tuple[Rows, Floats]:
        limit = CLIP * _column_weights(figures)
        dense = np.clip((figures[chosen] - self.center) / self.scale, -limit, limit)
        return wide.take(chosen).scaled(self.idf), dense

    def solve(self, y: Floats, alpha: float) -> _Linear:
        return _Linear(*ridge(self.wide, self.dense, y - y.mean(), alpha))


class _Linear:
    def __init__(self, buckets: Floats, figures: Floats) -> None:
        self.buckets, self.figures = buckets, figures

    def on(self, rows: tuple[Rows, Floats]) -> Floats:
        return np.asarray(rows[0].dot(self.buckets) + rows[1] @ self.figures, np.float64)


def _prompt_model(
    wide: Rows, figures: Floats, w: Floats, s: Floats, alpha: float, ngrams: NGrams
) -> PromptModel:
    view = _View.of(wide, figures, np.arange(len(w)))
    weak, strong = view.solve(w, alpha), view.solve(s, alpha)
    weights = _column_weights(figures)
    return PromptModel(
        ngrams,
        view.idf,
        weak.buckets,
        strong.buckets,
        view.center,
        view.scale * weights,
        weak.figures * weights,
        strong.figures * weights,
        float(w.mean()),
        float(s.mean()),
    )


def _column_weights(figures: Floats) -> Floats:
    """How much each dense column weighs: figures a little, an embedder's vector as much as the n-grams."""
    more = figures.shape[1] - len(PROMPT_FIGURES)
    return np.concatenate(
        [np.full(len(PROMPT_FIGURES), FIGURE_WEIGHT), np.full(more, 1 / np.sqrt(max(more, 1)))]
    )


def _present(rows: Sequence[Outcome]) -> tuple[str, ...]:
    """Inputs of the second part beyond the prompt's that enough rows have and that are not constant."""
    names = [name for name in known_inputs() if not name.startswith("prompt.")]
    if not any(row.response is not None for row in rows):
        names = [name for name in names if name.partition(".")[0] not in ("answer", "check")]
    if not any(row.evidence is not None for row in rows):
        names = [name for name in names if not name.startswith("signal.")]
    if not any(row.option_probs for row in rows):
        names = [name for name in names if name != "option_probs.max"]
    if not names:
        return ()
    values = second_inputs(rows, np.zeros((len(rows), 2)), names)
    finite = np.isfinite(values)
    kept = []
    for i, name in enumerate(names):
        column = values[finite[:, i], i]
        if len(column) >= PRESENT * len(rows) and np.ptp(column) > 1e-9:
            kept.append(name)
    return tuple(kept)


def _columns(values: Floats, names: Sequence[str]) -> Columns:
    center, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    knots = np.nanquantile(values, np.linspace(0, 1, KNOTS), axis=0).T
    # np.interp wants knots that rise: equal ones are spread by less than any difference that matters.
    knots = knots + np.arange(KNOTS) * 1e-9 * np.maximum(np.abs(knots).max(axis=1, keepdims=True), 1)
    may_miss = tuple(np.any(~np.isfinite(values), axis=0).tolist())
    return Columns(tuple(names), center, np.where(scale > 1e-9, scale, 1.0), knots, may_miss)


def _fit_second(
    rows: Sequence[Outcome],
    scores: Floats,
    names: tuple[str, ...],
    w: Floats,
    s: Floats,
    parts: Sequence[tuple[Ints, Ints]],
) -> tuple[Second, Floats]:
    """Part 2 on all rows, and its out-of-fold probabilities [rows, 2] at the penalty chosen."""
    every = ("prompt.weak", "prompt.strong", *names)
    values = second_inputs(rows, scores, every)
    best: tuple[float, float, Floats] | None = None
    for penalty in PENALTIES:
        p = np.zeros((len(rows), 2))
        for train, test in parts:
            part = _second_of(values[train], every, w[train], s[train], penalty)
            p[test] = part.probabilities(values[test])
        quality = _correlation(np.nan_to_num(p[:, 1] - p[:, 0], nan=1.0), s - w)
        if best is None or quality > best[0]:
            best = (quality, penalty, p)
    assert best is not None  # there is at least one penalty
    return _second_of(values, every, w, s, best[1]), best[2]


def _second_of(values: Floats, names: Sequence[str], w: Floats, s: Floats, penalty: float) -> Second:
    columns = _columns(values, names)
    x = columns.design(values)
    (weak, offset_weak), (strong, offset_strong) = logistic(x, w, penalty), logistic(x, s, penalty)
    return Second(columns, weak, strong, offset_weak, offset_strong)


def _correlation(x: Floats, y: Floats) -> float:
    spread = float(x.std() * y.std())
    return float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0


def _figures(confidence: Floats, w: Floats, s: Floats) -> dict[str, float | None]:
    apgr, area = Deferral.of(confidence, w, s).apgr(), auroc(np.nan_to_num(confidence, nan=-1e9), w > 0.5)
    return {
        "apgr": None if apgr is None else round(apgr, 4),
        "auroc": None if area is None else round(area, 4),
    }


def with_data(router: Router, description: str, sha256: str) -> Router:
    """The router with a record of the file that it was trained on."""
    return replace(router, trained={"data": description, "sha256": sha256, **router.trained})
