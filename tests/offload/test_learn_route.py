"""Routers: learnt from outcomes, saved, applied, and refusing what they cannot learn from."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.errors import OffloadError, OutcomesError, RouterFileError
from offload.evaluate.routing import Deferral
from offload.learn.embed import embedded, named
from offload.learn.features import NGrams, hashed, prompt_figures
from offload.learn.fit_route import cross_validate, fit, folds
from offload.learn.ridge import logistic, ridge, sigmoid
from offload.learn.route import Router
from offload.outcomes import Outcome
from offload.types import Evidence, Token

GRAMS = NGrams(words=2, chars=(3,), bits=12)
EASY, HARD, HOPELESS = "turn on the lamp", "prove the lemma of", "what did I dream of"


def rows(n: int = 240, seed: int = 0, *, evidence: bool = False) -> list[Outcome]:
    """Prompts that both models get, only the strong one, or neither; evidence tells who is right."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        start = rng.choice([EASY, HARD, HOPELESS])
        weak, strong = {EASY: (0.9, 0.95), HARD: (0.15, 0.9), HOPELESS: (0.1, 0.1)}[start]
        w, s = rng.random() < weak, rng.random() < strong
        row = Outcome(f"{start} room {rng.randint(1, 99)} number {i}", w, s)
        if evidence:
            tokens = [Token(1, "a", -rng.random() * (0.3 if w else 3), 0.2, 0.3) for _ in range(5)]
            row = replace(row, evidence=Evidence.fold(tokens, "stop"), response="answer: 4")
        made.append(row)
    return made


def apgr(router: Router, test: list[Outcome]) -> float:
    value = Deferral.of(
        -router.gains(test), [r.weak_correct for r in test], [bool(r.strong_correct) for r in test]
    ).apgr()
    assert value is not None
    return value


@pytest.fixture(scope="module")
def router() -> Router:
    return fit(rows(evidence=True), inputs="prompt+evidence", ngrams=GRAMS, created=1_700_000_000)


@pytest.mark.parametrize("alpha", [0.5, 10.0])
def test_ridge_finds_what_the_normal_equations_give(alpha: float) -> None:
    rng = np.random.default_rng(0)
    wide = hashed([r.prompt for r in rows(60)], GRAMS).scaled(np.ones(GRAMS.size))
    dense, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    x = np.zeros((60, GRAMS.size))
    for i in range(60):
        part = slice(wide.starts[i], wide.starts[i + 1])
        x[i, wide.columns[part]] = wide.values[part]
    x = np.hstack([x, dense])
    exact = x.T @ np.linalg.solve(x @ x.T + alpha * np.eye(60), y)
    found = np.concatenate(ridge(wide, dense, y, alpha))
    np.testing.assert_allclose(x @ found, x @ exact, atol=0.03 * float(np.abs(y).max()))


def test_logistic_regression_stands_where_its_gradient_is_0() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    y = (rng.random(300) < sigmoid(x @ [1.5, -0.5] + 0.3)).astype(float)
    w, b = logistic(x, y, 2.0)
    residual = sigmoid(x @ w + b) - y
    np.testing.assert_allclose(x.T @ residual + 2.0 * w, 0, atol=1e-4)
    assert residual.sum() == pytest.approx(0, abs=1e-3)


def test_logistic_regression_survives_one_class_and_perfect_separation() -> None:
    x = np.array([[-1.0], [1.0]] * 20)
    w, b = logistic(x, np.ones(40), 1.0)
    assert w.tolist() == [0.0]
    assert b > 2
    w, _ = logistic(x, (x[:, 0] > 0).astype(float), 1e-6)
    assert np.isfinite(w).all()


def test_a_prompt_router_escalates_where_only_the_strong_model_is_right(router: Router) -> None:
    learnt = fit(rows(), inputs="prompt", ngrams=GRAMS)
    assert learnt.kind == "prompt"
    test = rows(seed=1)
    assert apgr(learnt, test) > 0.75
    gains = {start: learnt.before(f"{start} room 5")[1] for start in (EASY, HARD, HOPELESS)}
    assert gains[HARD] > 0.4 > max(gains[EASY], gains[HOPELESS])
    chance = {start: learnt.before(f"{start} room 5")[0] for start in (EASY, HARD, HOPELESS)}
    assert chance[EASY] > 0.7
    assert max(chance[HARD], chance[HOPELESS]) < 0.4


def test_evidence_makes_a_better_router(router: Router) -> None:
    test = rows(seed=1, evidence=True)
    assert apgr(router, test) > apgr(fit(rows(), inputs="prompt", ngrams=GRAMS), test) + 0.02
    assert router.trained["cross_validated"]["prompt+evidence"]["apgr"] == pytest.approx(
        apgr(router, test), abs=0.08
    )


def test_a_router_never_looks_at_the_verdicts(router: Router) -> None:
    test = rows(20, seed=2, evidence=True)
    flipped = [replace(r, weak_correct=not r.weak_correct, strong_correct=None) for r in test]
    np.testing.assert_array_equal(router.gains(test), router.gains(flipped))


def test_a_row_without_the_evidence_has_no_figure(router: Router) -> None:
    test = rows(3, evidence=True)
    bare = [replace(test[0], evidence=None), test[1], replace(test[2], response=None)]
    assert np.isnan(router.gains(bare)).tolist() == [True, False, True]
    assert np.isnan(router.weak_probabilities(bare)).tolist() == [True, False, True]


def test_inputs_that_some_training_rows_lack_may_lack_later() -> None:
    train = rows(evidence=True)
    train = [replace(r, evidence=None) if i % 20 == 0 else r for i, r in enumerate(train)]
    learnt = fit(train, inputs="prompt+evidence", ngrams=GRAMS)
    assert np.isfinite(learnt.gains(train)).all()


def test_a_saved_router_says_the_same(router: Router, tmp_path: Path) -> None:
    path = tmp_path / "router.json"
    router.save(path)
    loaded = Router.load(path)
    test = rows(50, seed=3, evidence=True)
    np.testing.assert_allclose(
        loaded.gains(test), router.gains(test), atol=2e-3
    )  # weights are kept in float16
    assert loaded.trained == json.loads(json.dumps(router.trained))
    assert loaded.trained["created"] == 1_700_000_000
    again = tmp_path / "again.json"
    loaded.save(again)
    np.testing.assert_array_equal(Router.load(again).gains(test), loaded.gains(test))


def damaged(path: Path, **change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    for key, new in change.items():
        part, _, name = key.rpartition("__")
        (value[part] if part else value)[name] = new
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "edge-router/9"}, "has the format 'edge-router/9', not 'edge-router/1'"),
        ({"platt": [1.0]}, "is damaged"),
        ({"platt": [1.0, math.inf]}, "is damaged: ValueError: inf is not a finite number"),
        ({"prompt__idf": "AAAA"}, "is damaged"),
        ({"prompt__center": [1.0]}, "is damaged"),
        ({"prompt__figures": ["other"]}, "not those of this version"),
        ({"second__names": ["signal.magic"]}, "looks at signal.magic, which this version does not know"),
        ({"second__weak": [1.0]}, "is damaged"),
    ],
)
def test_a_damaged_router_is_refused(
    router: Router, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "router.json"
    router.save(path)
    damaged(path, **change)
    with pytest.raises(RouterFileError) as error:
        Router.load(path)
    assert said in str(error.value)
    assert "edge-runtime learn route" in str(error.value)


def test_no_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RouterFileError, match="cannot be read"):
        Router.load(tmp_path / "nowhere.json")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(RouterFileError, match="is not JSON"):
        Router.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (rows(20), "there are 20 rows; learning to route needs 40"),
        ([replace(r, strong_correct=None) for r in rows()], "row 1 .* has no strong_correct"),
        ([replace(r, strong_correct=r.weak_correct) for r in rows()], "the same on every row"),
        ([replace(r, weak_correct=False) for r in rows()], "weak_correct is false on every row: one class"),
    ],
)
def test_rows_that_nothing_can_be_learnt_from_are_refused(made: list[Outcome], said: str) -> None:
    with pytest.raises(OutcomesError, match=said):
        fit(made, ngrams=GRAMS)


def test_evidence_that_is_not_there_cannot_be_asked_for() -> None:
    with pytest.raises(OutcomesError, match="--inputs prompt"):
        fit(rows(), inputs="prompt+evidence", ngrams=GRAMS)
    assert fit(rows(), inputs="auto", ngrams=GRAMS).kind == "prompt"


def test_cross_validation_learns_nothing_where_there_is_nothing_to_learn() -> None:
    rng = random.Random(5)
    noise = [Outcome(f"w{i} {rng.random()}", rng.random() < 0.4, rng.random() < 0.8) for i in range(400)]
    gains, _ = cross_validate(noise, ngrams=GRAMS)
    value = Deferral.of(
        -gains, [r.weak_correct for r in noise], [bool(r.strong_correct) for r in noise]
    ).apgr()
    assert value == pytest.approx(0.5, abs=0.08)


def test_folds_cover_every_row_once() -> None:
    seen = np.concatenate([test for _, test in folds(23, 5, 0)])
    assert sorted(seen.tolist()) == list(range(23))
    for train, test in folds(23, 5, 0):
        assert not set(train.tolist()) & set(test.tolist())


def test_figures_of_prompts_enter_too() -> None:
    """Length alone decides here: no n-gram is shared between rows."""
    rng = random.Random(0)
    made = [
        Outcome("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=k)), k < 30, True)
        for k in (rng.randint(5, 60) for _ in range(200))
    ]
    learnt = fit(made, inputs="prompt", ngrams=GRAMS)
    assert np.corrcoef(learnt.gains(made), prompt_figures([r.prompt for r in made])[:, 0])[0, 1] > 0.5


def length_vectors(texts: Sequence[str]) -> list[list[float]]:
    """A stand-in for a sentence embedder: what kind of prompt it is, and nothing of its words."""
    return [[float(text.startswith(HARD)), 0.5, float(len(text) % 2)] for text in texts]


def test_a_named_embedder_joins_and_is_asked_for_again(tmp_path: Path) -> None:
    name = f"{__name__}:length_vectors"
    bare = [replace(r, prompt=r.prompt[:30]) for r in rows()]
    learnt = fit(bare, inputs="prompt", ngrams=GRAMS, embedder=(name, named(name)))
    path = tmp_path / "router.json"
    learnt.save(path)
    loaded = Router.load(path, name)
    np.testing.assert_allclose(loaded.gains(bare), learnt.gains(bare), atol=2e-3)
    with pytest.raises(RouterFileError, match=r"trained with the sentence embedder .*: give --embedder"):
        Router.load(path)
    plain = tmp_path / "plain.json"
    fit(bare, inputs="prompt", ngrams=GRAMS).save(plain)
    with pytest.raises(RouterFileError, match=r"with no sentence embedder, .* leave --embedder out"):
        Router.load(plain, name)


def test_an_embedder_alone_can_carry_a_router() -> None:
    rng = random.Random(0)
    made = []
    for _ in range(200):
        text = "".join(rng.choices("abcdefghij", k=12))
        hard = rng.random() < 0.5
        made.append(Outcome(text + ("y" if hard else "z"), not hard, True))
    vectors = {r.prompt: [float(r.prompt.endswith("y")), rng.random()] for r in made}
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return [vectors[t] for t in texts]

    gains, _ = cross_validate(made, inputs="prompt", ngrams=GRAMS, embedder=("x:y", embed))
    weak = [r.weak_correct for r in made]
    assert (Deferral.of(-gains, weak, [True] * 200).apgr() or 0) > 0.7
    assert sorted(asked) == sorted(set(asked))  # each text once, over all folds


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package:f", "needs the Python package 'no_such_package'"),
        ("json:embed", "json has no 'embed'"),
    ],
)
def test_an_embedder_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(OffloadError, match=said):
        named(name)


def test_an_embedder_that_gives_no_vectors_is_refused() -> None:
    with pytest.raises(OffloadError, match=r"shape \(2,\) for 2 texts"):
        embedded(lambda texts: [1.0, 2.0], ["a", "b"])
