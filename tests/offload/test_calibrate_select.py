"""The choice among calibrators, per kind of answer: the plain one unless the richer wins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from offload.calibrate import Labelled, Selection, choose, make_calibration, select
from offload.calibrate.selection import MIN_ROWS, wins
from offload.calibration import Calibration, Fingerprint
from offload.errors import CalibrationError
from offload.evaluate.reliability import brier, ece, ece_floor
from offload.learn.drift import Reference
from offload.spans import decisive_spans
from offload.types import Evidence, Token

FRAME, SOLUTION = '{"a":1}', "1+1=2\nanswer: 2"


def rows(
    n: int,
    kind: str = "frame",
    *,
    seed: int = 0,
    truth: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda z, hidden: z,  # type: ignore[type-arg]
    with_hidden: bool = False,
) -> list[Labelled]:
    """Answers whose tokens all have the probability σ(z); right with probability σ(truth(z, hidden)).

    The hidden half is seen in `grounded` alone.
    """
    rng = np.random.default_rng(seed)
    z, hidden = rng.normal(1.0, 1.5, n), rng.random(n) < 0.5
    right = rng.random(n) < 1 / (1 + np.exp(-truth(z, hidden)))
    text = SOLUTION if kind == "solution" else FRAME
    found = []
    for logit, seen, correct in zip(z, hidden, right, strict=True):
        s = float(-np.log1p(np.exp(-logit)))
        tokens = [Token(i, c, logprob=s, entropy=-s, margin=1.0) for i, c in enumerate(text)]
        extra = {"grounded": float(seen)} if with_hidden else {}
        evidence = Evidence.fold(tokens, "stop", decisive_spans(tokens))
        object.__setattr__(evidence, "extra", extra)
        found.append(Labelled(evidence, bool(correct), kind))
    return found


def fast(labelled: list[Labelled]) -> Selection:
    return select(labelled, combiners=("logistic",))


def test_where_one_signal_says_all_a_single_one_is_chosen() -> None:
    (kind,) = fast(rows(300)).kinds
    assert kind.entry.single
    assert kind.chosen.brier == min(c.brier for c in kind.candidates if len(c.signals) == 1)


def test_a_combiner_is_chosen_where_it_wins() -> None:
    (kind,) = fast(rows(300, truth=lambda z, h: z + 4.0 * h - 2.0, with_hidden=True)).kinds
    assert kind.entry.calibrator.method == "logistic"
    assert "grounded" in kind.entry.signals


def test_a_win_is_more_than_one_standard_error() -> None:
    y = np.array([True, False] * 50)
    plain = np.full(100, 0.5)
    noise = np.where(np.arange(100) < 52, np.where(y, 0.6, 0.4), np.where(y, 0.4, 0.6))
    assert wins(np.where(y, 0.6, 0.4), plain, y)
    assert not wins(noise, plain, y), "two rows more out of a hundred are chance"
    assert not wins(plain, plain, y)


def test_forms_are_never_pooled() -> None:
    labelled = rows(200) + rows(200, "solution", seed=1, truth=lambda z, h: z - 3)
    selection = fast(labelled)
    assert [kind.kind for kind in selection.kinds] == ["frame", "solution"]
    p, at = selection.pooled()
    assert list(at) == list(range(400))
    y = np.array([row.correct for row in labelled])
    assert ece(p, y) < ece_floor(p) + 0.03


def test_a_family_has_its_own_entry_only_where_it_differs() -> None:
    alike = fast(rows(200, "frame/alarm") + rows(200, "frame/hass", seed=1))
    assert [kind.kind for kind in alike.kinds] == ["frame"]
    apart = fast(rows(200, "frame/alarm") + rows(200, "frame/hass", seed=1, truth=lambda z, h: z - 4))
    assert len(apart.kinds) == 2
    assert sum(len(kind.rows) for kind in apart.kinds) == 400


def test_out_of_fold_figures_are_those_of_rows_not_fitted_on() -> None:
    labelled = rows(120, truth=lambda z, h: 0 * z)  # pure chance: nothing can be known
    (kind,) = fast(labelled).kinds
    assert kind.chosen.auroc < 0.65
    assert kind.chosen.brier > 0.24


def test_a_calibration_made_of_the_choice_states_the_fitted_probabilities() -> None:
    labelled = rows(300)
    selection = fast(labelled)
    moment = datetime(2026, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    c = make_calibration(
        selection, Fingerprint("", "", ""), model_id="m", created=moment, data={"sha256": "x"}
    )
    assert (c.created, c.data["n"], c.data["sha256"]) == ("2026-01-31T12:00:00Z", 300, "x")
    kept = Reference.from_dict({"calibration_id": c.id, "samples": c.data["reference"]["frame"]})
    assert kept.samples["length"] == (-7.0,) * 300
    again = Calibration.from_json(c.to_json())
    p = np.array([again.apply(row.evidence, FRAME) for row in labelled], float)
    y = np.array([row.correct for row in labelled])
    assert brier(p, y) <= selection.kinds[0].chosen.brier + 0.005
    assert abs(p.mean() - y.mean()) < 0.02


def test_rows_without_usable_evidence_are_counted_and_left_out() -> None:
    cut = Labelled(Evidence.fold([Token(0, "x", logprob=-1.0)], "length"), False, "frame")
    selection = fast([*rows(100), cut, Labelled(Evidence(0, 0), True, "frame")])
    assert len(selection.usable) == 100
    assert sum(selection.skipped.values()) == 2
    assert any("not whole" in reason for reason in selection.skipped)


def test_too_few_rows_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match=rf"needs {MIN_ROWS} with at least 10 of each") as error:
        fast(rows(30))
    assert "from 30 rows" in str(error.value)
    assert "kind 'frame'" in str(error.value)


def test_one_class_only_says_so() -> None:
    right = [Labelled(row.evidence, True, row.kind) for row in rows(200)]
    with pytest.raises(CalibrationError, match="200 right and 0 wrong rows"):
        fast(right)


def test_no_rows_at_all() -> None:
    with pytest.raises(CalibrationError, match="from 0 rows: there are none"):
        fast([])


def test_a_small_kind_beside_a_large_one_is_left_out_and_named() -> None:
    selection = fast(rows(200) + rows(20, "solution"))
    assert list(selection.left_out) == ["solution"]
    assert [kind.kind for kind in selection.kinds] == ["frame"]


def test_isotonic_is_tried_with_rows_enough_alone() -> None:
    def methods(n: int) -> set[str]:
        evidence = [row.evidence for row in rows(n)]
        _, tried, _ = choose(evidence, np.array([row.correct for row in rows(n)]))
        return {candidate.method for candidate in tried}

    assert methods(499) == {"temperature", "platt"}
    assert methods(500) == {"temperature", "platt", "isotonic"}


def test_the_same_rows_and_seed_give_the_same_choice() -> None:
    labelled = rows(150)
    assert fast(labelled).entries == fast(labelled).entries


def test_trees_can_be_chosen_and_state_what_was_fitted() -> None:
    labelled = rows(240, truth=lambda z, h: np.where(h, 3.0, -3.0) * np.sign(z - 1), with_hidden=True)
    y = np.array([row.correct for row in labelled])
    chosen, tried, calibrator = choose([row.evidence for row in labelled], y, combiners=("logistic", "gbdt"))
    assert (chosen.method, calibrator.method) == ("gbdt", "gbdt")
    assert chosen.auroc > max(c.auroc for c in tried if c.method != "gbdt")


def test_the_noise_floor_is_the_mean_error_of_a_perfect_forecast() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(200)
    drawn = [ece(p, rng.random(200) < p) for _ in range(400)]
    assert ece_floor(p) == pytest.approx(np.mean(drawn), rel=0.05)
    assert ece(p, p > 2) == pytest.approx(p.mean())
    edge = np.array([0.0, 1.0])
    assert (ece(edge, edge > 0.5), brier(edge, edge > 0.5)) == (0.0, 0.0)


def test_calibration_error_is_the_naive_sum_over_bins() -> None:
    rng = np.random.default_rng(6)
    p, y = rng.random(150), rng.random(150) < 0.4
    total = 0.0
    for b in range(15):
        inside = [i for i in range(150) if b / 15 <= p[i] < (b + 1) / 15]
        if inside:
            total += len(inside) / 150 * abs(p[inside].mean() - y[inside].mean())
    assert ece(p, y) == pytest.approx(total)
