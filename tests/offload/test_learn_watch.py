"""A watched calibration: silent after a change, made anew from labels, and sound again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offload.calibrate import Labelled, select
from offload.calibration import Calibration, Fingerprint
from offload.learn.watch import Watch, references, refit
from offload.types import Evidence

NOW = "2026-01-31T12:00:00Z"


def rows(rng: np.random.Generator, n: int, shift: float = 0.0, truth: float = 0.0) -> list[Labelled]:
    """Answers whose log-odds of being right follow their mean log-probability, moved by `truth`."""
    made = []
    for z in rng.standard_normal(n):
        mean = -math.exp(-1.5 - float(z) + shift)
        evidence = Evidence(
            n=8,
            n_scored=8,
            sum_logprob=8 * mean,
            mean_logprob=mean,
            min_logprob=2 * mean,
            mean_entropy=-mean,
            max_entropy=-2 * mean,
            mean_margin=1.0,
            finish_reason="stop",
        )
        right = rng.random() < 1 / (1 + math.exp(-(1 + 2 * float(z) + truth)))
        made.append(Labelled(evidence, bool(right), "text"))
    return made


def watch(rng: np.random.Generator, **changes: object) -> Watch:
    fitted_on = rows(rng, 500)
    entries = select(fitted_on, combiners=()).entries
    calibration = Calibration(entries, Fingerprint("a" * 64, "b" * 64, "c" * 64), "m", NOW)
    settings = {"recalibrate": lambda old, new: refit(old, new, NOW), **changes}
    return Watch(calibration, references(fitted_on, rng, calibration.id), rng, **settings)  # type: ignore[arg-type]


def run(subject: Watch, stream: list[Labelled]) -> None:
    for row in stream:
        subject.confidence(row.evidence)
        subject.label(row.evidence, row.correct)


def test_while_nothing_changes_it_is_its_calibration() -> None:
    rng = np.random.default_rng(1)
    subject = watch(rng)
    for row in rows(rng, 200):
        assert subject.confidence(row.evidence) == subject.calibration.confidence(row.evidence)
        assert subject.label(row.evidence, row.correct) is None
    assert subject.notices == []


@pytest.mark.parametrize(
    ("shift", "truth", "says"), [(1.5, 0.0, "the evidence has drifted"), (0.0, -3.0, "no longer holds")]
)
def test_after_a_change_there_is_no_probability_until_it_is_calibrated_again(
    shift: float, truth: float, says: str
) -> None:
    rng = np.random.default_rng(2)
    subject = watch(rng)
    old = subject.calibration.id
    run(subject, rows(rng, 100))
    changed = rows(rng, 900, shift, truth)
    silent = None
    for row in changed:
        found = subject.confidence(row.evidence)
        silent = silent or (found if found.p_correct is None else None)
        # Where the evidence moves nobody has to label anything for it to be seen.
        if silent or truth:
            subject.label(row.evidence, row.correct)
    assert silent is not None
    assert silent.reason is not None
    assert says in silent.reason
    assert [notice.kind for notice in subject.notices] == ["drifted", "recalibrated"]
    assert f"replaces {old}" in subject.notices[1].message
    fresh = rows(rng, 800, shift, truth)
    stated = [subject.calibration.apply(row.evidence) or 0.0 for row in fresh]
    assert np.mean(stated) == pytest.approx(np.mean([row.correct for row in fresh]), abs=0.06)
    assert subject.calibration.data["replaces"] == old


def test_without_a_way_to_calibrate_it_only_tells() -> None:
    rng = np.random.default_rng(3)
    subject = watch(rng, recalibrate=None)
    run(subject, rows(rng, 700, shift=2.0))
    assert [notice.kind for notice in subject.notices] == ["drifted"]
    assert subject.confidence(rows(rng, 1)[0].evidence).p_correct is None


def test_labels_of_one_class_are_told_and_collecting_goes_on() -> None:
    rng = np.random.default_rng(4)
    subject = watch(rng, rows_wanted=60)
    run(subject, [Labelled(row.evidence, False, "text") for row in rows(rng, 200, shift=2.0)])
    kinds = [notice.kind for notice in subject.notices]
    assert kinds[:2] == ["drifted", "failed"]
    assert "could not be calibrated again" in subject.notices[1].message
    run(subject, rows(rng, 200, shift=2.0))
    assert "recalibrated" in [notice.kind for notice in subject.notices]


def test_a_kind_without_an_entry_is_none_of_its_business() -> None:
    rng = np.random.default_rng(5)
    subject = watch(rng)
    row = rows(rng, 1)[0]
    frame = '{"intent": "light_on", "slots": {}}'
    assert subject.confidence(row.evidence, frame).p_correct is None
    assert subject.label(row.evidence, True, frame) is None
