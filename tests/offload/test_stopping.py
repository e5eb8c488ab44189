"""Stopping early: the exact bound is never wrong, the statistical one as seldom as it says."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.confidence import signal_value
from offload.errors import PolicyError
from offload.stopping import (
    RUNNING,
    EarlyStop,
    StopTable,
    Trace,
    best_value,
    fit_stop,
    form_so_far,
    tokens_saved,
)
from offload.types import Evidence, Token

EXACT = ("sum_logprob", "min_logprob", "mean_logprob", "max_entropy", "mean_entropy", "length")

TOKENS = st.lists(
    st.builds(
        lambda logprob, entropy: Token(0, "x", logprob, entropy, 1.0),
        st.floats(-9, -1e-6),
        st.floats(1e-6, 5),
    ),
    min_size=1,
    max_size=30,
)


@given(TOKENS, TOKENS)
@settings(max_examples=150, deadline=None)
def test_no_continuation_beats_the_exact_bound(begun, rest):
    running = Evidence.fold(begun)
    whole = Evidence.fold([*begun, *rest], "stop")
    for name in EXACT:
        bound = best_value(name, running, len(rest))
        value = signal_value(name, whole)
        assert bound is not None
        assert value is not None
        assert value <= bound + 1e-9


def test_signals_without_a_bound_have_none():
    e = Evidence.fold([Token(0, "x", -1.0, 1.0, 1.0)])
    assert best_value("mean_margin", e, 5) is None
    assert best_value("q10_logprob", e, 5) is None
    assert best_value("mean_logprob", e, None) is None
    assert best_value("sum_logprob", Evidence(0, 0), 5) is None
    assert best_value("sum_logprob", e, None) == -1.0


def answers(rng, n):
    """Traces of easy and hard answers; the confidence is the exponential of their mean log-probability."""
    made = []
    for _ in range(n):
        scale = rng.choice([0.02, 0.15, 1.5])
        logprobs = -rng.exponential(scale, rng.integers(10, 40))
        made.append(Trace(tuple(map(float, logprobs)), float(math.exp(logprobs.mean()))))
    return made


@pytest.mark.parametrize("signal", RUNNING)
def test_answers_that_would_be_kept_are_seldom_stopped(signal):
    rng, epsilon, wrongly, kept = np.random.default_rng(5), 0.05, 0, 0
    for _ in range(25):
        table = fit_stop(answers(rng, 150), epsilon=epsilon, at=0.7, signals=(signal,))
        new = tokens_saved(table, answers(rng, 200), 0.7)
        wrongly, kept = wrongly + new.wrongly_stopped, kept + new.kept
    rate = wrongly / kept
    assert rate <= epsilon + 4 * math.sqrt(epsilon * (1 - epsilon) / kept) + 0.01
    assert rate > epsilon / 4  # the bound is not bought by never stopping


def test_stopping_saves_most_of_the_tokens_of_hopeless_answers():
    rng = np.random.default_rng(6)
    table = fit_stop(answers(rng, 400), at=0.7)
    saved = tokens_saved(table, answers(rng, 400), 0.7)
    assert saved.share_of_escalated > 0.5
    assert saved.wrongly_stopped <= 0.06 * saved.kept
    assert saved.tokens < saved.tokens_escalated <= saved.tokens_all
    assert table.saved == pytest.approx(saved.share_of_escalated, abs=0.1)


def running(logprobs):
    return Evidence.fold([Token(0, "x", x, 0.1, 1.0) for x in logprobs])


def test_the_replay_is_what_the_ceiling_says_token_by_token():
    rng = np.random.default_rng(7)
    for signal in RUNNING:
        table = fit_stop(answers(rng, 200), at=0.7, signals=(signal,))
        stop, traces = EarlyStop({"text": table}), answers(rng, 20)
        tokens = 0
        for trace in traces:
            n = len(trace.logprobs)
            first = next(
                (
                    i
                    for i in range(1, n)
                    if stop.ceiling(running(trace.logprobs[:i]), 0.7, text="Well") is not None
                ),
                n,
            )
            tokens += 0 if trace.p_correct >= 0.7 else n - first
        assert tokens == tokens_saved(table, traces, 0.7).tokens


def table(bound=-2.0, signal="sum_logprob"):
    return StopTable(signal, 0.02, (0.5, 0.9), (bound, bound / 2), 100)


def test_the_reason_gives_the_numbers_and_the_risk():
    found = EarlyStop({"text": table()}).ceiling(running([-1.5, -1.0]), 0.6, text="Well")
    assert found is not None
    assert not found.exact
    assert found.reason == "sum_logprob -2.500 is below -2.000, as in at most 2% of kept answers"


def test_a_threshold_takes_the_bound_of_the_nearest_one_below():
    stop = EarlyStop({"text": table()})
    assert stop.ceiling(running([-1.5]), 0.89, text="Well") is None
    assert stop.ceiling(running([-1.5]), 0.9, text="Well") is not None
    assert stop.ceiling(running([-99.0]), 0.49, text="Well") is None


def test_while_the_form_is_open_every_table_has_to_agree():
    stop = EarlyStop({"frame": table(-1.0), "solution": table(-5.0)})
    e = running([-2.0])
    assert stop.ceiling(e, 0.6, text='{"intent"') is not None
    assert stop.ceiling(e, 0.6, text="24+18") is None
    assert stop.ceiling(e, 0.6, text="") is None
    assert stop.ceiling(running([-6.0]), 0.6, text="") is not None
    assert stop.ceiling(e, 0.6, text="Once upon") is None
    assert [form_so_far(t) for t in ("", ' {"a"', "3+4", "Answer: 3", "Well")] == [
        None,
        "frame",
        "solution",
        "solution",
        "text",
    ]


def test_a_table_survives_a_file():
    made = fit_stop(answers(np.random.default_rng(8), 60), at=0.7)
    assert -math.inf in made.bounds  # too few kept answers at high thresholds
    assert StopTable.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signal": "length"}, "has the signal 'length'"),
        ({"bounds": [1.0]}, "1 bounds for 2 thresholds"),
        ({"thresholds": [0.9, 0.5]}, "out of order"),
        ({"bounds": [math.nan, 1.0]}, "NaN bound"),
        ({"n": "many"}, "is damaged"),
    ],
)
def test_a_damaged_table_is_refused(change, said):
    with pytest.raises(PolicyError, match=said):
        StopTable.from_dict({**table().to_dict(), **change})


def test_traces_that_cannot_be_fitted_are_refused():
    with pytest.raises(PolicyError, match="no traces"):
        fit_stop([])
    with pytest.raises(PolicyError, match="epsilon is 1"):
        fit_stop([Trace((-1.0,), 0.5)], epsilon=1)
    with pytest.raises(PolicyError, match="trace 1:"):
        fit_stop([Trace((-1.0,), 0.5), Trace((math.nan,), 0.5)])


class FakeEntry:
    """A calibration entry whose probability is the exponential of its one signal."""

    def __init__(self, kind, signal, single=True):
        self.kind, self.signals, self.single = kind, (signal,), single

    @staticmethod
    def calibrator(x):
        return 1 / (1 + np.exp(-x[:, 0]))


class FakeCalibration:
    def __init__(self, *entries):
        self.entries = entries


def test_the_exact_bound_goes_through_every_entry_that_may_apply():
    e, stop = running([-0.5, -1.0]), EarlyStop()
    frames = FakeCalibration(FakeEntry("frame", "min_logprob"), FakeEntry("frame/hass", "sum_logprob"))
    found = stop.ceiling(e, 0.5, calibration=frames, text="{")
    assert found is not None
    assert found.exact
    # σ(s − log(1 − eˢ)) is eˢ: the least log-probability so far is −1.
    assert found.reason == "the confidence can reach 0.368 at most"
    assert stop.ceiling(e, 0.36, calibration=frames, text="{") is None
    assert stop.ceiling(e, 0.5, calibration=frames, text="12+3") is None
    mixed = FakeCalibration(FakeEntry("frame", "min_logprob"), FakeEntry("frame/x", "mean_margin"))
    assert stop.ceiling(e, 0.5, calibration=mixed, text="{") is None
    combined = FakeCalibration(FakeEntry("frame", "min_logprob", single=False))
    assert stop.ceiling(e, 0.5, calibration=combined, text="{") is None
