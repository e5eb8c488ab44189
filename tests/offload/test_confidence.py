"""Signals are as published and higher for surer; poor evidence never reads as sure."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.confidence import EXTRA, SIGNALS, not_whole, problem_with, score, signal_value
from offload.errors import OffloadError
from offload.types import Evidence, Token

LOGPROBS = (-0.1, -2.0, -0.5, -0.4)
TOKENS = [Token(i, "x", logprob=s, entropy=0.2 * i, margin=1.0 + i) for i, s in enumerate(LOGPROBS)]
WHOLE = Evidence.fold(TOKENS, "stop", {"answer": TOKENS[2:]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sum_logprob", -3.0),
        ("mean_logprob", -0.75),
        ("min_logprob", -2.0),
        ("q50_logprob", -0.45),
        ("q25_logprob", -0.875),
        ("mean_entropy", -0.3),
        ("max_entropy", -0.6),
        ("mean_margin", 2.5),
        ("length", -4.0),
        ("answer.sum_logprob", -0.9),
        ("answer.min_logprob", -0.5),
        ("answer.max_entropy", -0.6),
        ("answer.length", -2.0),
    ],
)
def test_a_signal_is_what_its_definition_says(name: str, value: float) -> None:
    assert signal_value(name, WHOLE) == pytest.approx(value)


def test_every_signal_says_where_it_is_from() -> None:
    documented = [f for name, f in SIGNALS.items() if name in ("sum_logprob", "mean_logprob", "min_logprob",
                  "mean_entropy", "max_entropy", "mean_margin")]  # fmt: skip
    for signal in documented:
        assert "arXiv" in (signal.__doc__ or ""), signal


def test_a_span_that_is_not_there_gives_nothing() -> None:
    assert signal_value("slots.mean_logprob", WHOLE) is None


def test_a_span_of_forced_tokens_gives_nothing() -> None:
    forced = Evidence.fold(TOKENS, "stop", {"answer": [Token(9, "x", forced=True)]})
    assert signal_value("answer.mean_logprob", forced) is None
    assert signal_value("answer.length", forced) is None


def test_an_unknown_signal_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(OffloadError, match=r"no signal 'mean_logprobs'\. Did you mean 'mean_logprob'"):
        signal_value("mean_logprobs", WHOLE)


def greedy_artefact(n: int) -> Evidence:
    """What an engine leaves that takes log-probabilities after a temperature of 0."""
    return Evidence.fold([Token(0, "x", logprob=0.0, entropy=0.0, margin=math.inf)] * n, "stop")


@pytest.mark.parametrize(
    ("evidence", "problem"),
    [
        (Evidence(0, 0), "no token has a log-probability"),
        (Evidence.fold([Token(0, "x")] * 3, "stop"), "no token has a log-probability"),
        (Evidence.fold([Token(0, "x", forced=True)] * 3, "stop"), "no token has a log-probability"),
        (greedy_artefact(4), "temperature of 0"),
        (Evidence(2, 2, sum_logprob=0.0, mean_logprob=0.0, min_logprob=0.0), "temperature of 0"),
        (dataclasses.replace(WHOLE, mean_logprob=math.nan), "not finite"),
        (dataclasses.replace(WHOLE, quantiles={0.5: -math.inf}), "not finite"),
        (dataclasses.replace(WHOLE, sum_logprob=0.5), "above 0"),
        (dataclasses.replace(WHOLE, mean_entropy=-1.0), "above 0"),
        (dataclasses.replace(WHOLE, n_scored=9), "only 4"),
    ],
)
def test_poor_evidence_has_no_signal_at_all(evidence: Evidence, problem: str) -> None:
    assert problem in (problem_with(evidence) or "")
    assert all(signal_value(name, evidence) is None for name in SIGNALS if name not in EXTRA)
    confidence = score(evidence)
    assert (confidence.p_correct, confidence.raw) == (None, None)
    assert problem in (confidence.reason or "")


def test_a_very_sure_model_is_not_taken_for_an_artefact() -> None:
    sure = Evidence.fold([Token(0, "x", logprob=0.0, entropy=1e-6, margin=17.0)] * 3, "stop")
    assert problem_with(sure) is None
    assert signal_value("mean_logprob", sure) == 0.0


@pytest.mark.parametrize("reason", ["length", "cancelled", "error"])
def test_an_answer_cut_short_is_not_whole(reason: str) -> None:
    cut = Evidence.fold(TOKENS, reason)  # type: ignore[arg-type]
    assert reason in (not_whole(cut) or "")
    assert signal_value("mean_logprob", cut) == -0.75


def test_an_uncalibrated_model_says_so() -> None:
    confidence = score(WHOLE)
    assert (confidence.p_correct, confidence.signal, confidence.calibration_id) == (
        None,
        "mean_logprob",
        None,
    )
    assert confidence.raw == -0.75
    assert "edge-runtime calibrate" in (confidence.reason or "")


def test_a_probe_counts_without_log_probabilities() -> None:
    probed = Evidence(3, 0, extra={"agreement": 0.8})
    assert signal_value("agreement", probed) == 0.8


NAMES = ("sum_logprob", "mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "mean_margin")
ANY = st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)
FIGURES = dict.fromkeys(NAMES, ANY)


@settings(deadline=None)
@given(
    n=st.integers(-2, 5),
    scored=st.integers(-2, 6),
    figures=st.fixed_dictionaries(FIGURES),
    extra=st.dictionaries(st.sampled_from(["grounded", "p_true"]), st.floats(), max_size=2),
)
def test_whatever_the_evidence_a_signal_is_finite_or_missing(
    n: int, scored: int, figures: dict[str, float | None], extra: dict[str, float]
) -> None:
    evidence = Evidence(n, scored, extra=extra, **figures)  # type: ignore[arg-type]
    for name in SIGNALS:
        value = signal_value(name, evidence)
        assert value is None or math.isfinite(value)
        if value is not None and name.endswith("logprob"):
            assert value <= 0
    score(evidence)


@settings(deadline=None)
@given(st.lists(st.floats(-20, -1e-6), min_size=1, max_size=12), st.integers(0, 11), st.floats(1e-6, 5))
def test_a_less_likely_token_never_makes_an_answer_surer(logprobs: list[float], at: int, less: float) -> None:
    at %= len(logprobs)
    lower = [s - less if i == at else s for i, s in enumerate(logprobs)]
    one, other = (
        Evidence.fold([Token(0, "x", logprob=s) for s in part], "stop") for part in (logprobs, lower)
    )
    for name in SIGNALS:
        a, b = signal_value(name, one), signal_value(name, other)
        if a is not None and b is not None:
            assert b <= a + 1e-9
