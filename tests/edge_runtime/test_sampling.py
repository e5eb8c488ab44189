"""Sampling: the fast paths choose what a slow, plain sampler chooses, and evidence is never touched."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import random_scores

from edge_runtime.engines.base import Scores
from edge_runtime.errors import EngineError, GrammarError, SamplingError
from edge_runtime.sampling import Mask, Sampler, SamplingParams

VOCAB = 50


class NaiveSampler:
    """The specification, one step per line over the whole row."""

    def __init__(self, params: SamplingParams, prompt: list[int]) -> None:
        self.params, self.random = params, np.random.Generator(np.random.PCG64(params.seed))
        self.prompt, self.text = list(prompt), []

    def choose(self, row: Any, allowed: Any = None) -> int:
        p, x = self.params, row.astype(np.float64)
        for token in set(self.prompt + self.text):
            x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
        for token in set(self.text):
            x[token] -= p.presence_penalty + p.frequency_penalty * self.text.count(token)
        for token, value in p.logit_bias.items():
            x[token] += value
        if allowed is not None:
            x[~allowed] = -np.inf
        if p.temperature == 0:
            return int(np.argmax(x))
        x = x / p.temperature
        order = sorted(range(len(x)), key=lambda i: (-x[i], i))
        order = [i for i in order if x[i] > -np.inf]
        if p.top_k:
            order = order[: p.top_k]
        weights = np.exp(x[order] - x[order[0]])
        shares = weights / weights.sum()
        if p.top_p < 1:
            count = 1
            while shares[:count].sum() < p.top_p and count < len(order):
                count += 1
            order, weights = order[:count], weights[:count]
        if p.min_p > 0:
            keep = weights >= p.min_p * weights[0]
            order, weights = [i for i, k in zip(order, keep, strict=True) if k], weights[keep]
        if not p.top_k and p.top_p == 1 and p.min_p == 0:
            order = sorted(order)
            weights = np.exp(x[order] - x.max())
        cumulative = np.cumsum(weights)
        return order[
            min(
                int(np.searchsorted(cumulative, self.random.random() * cumulative[-1], "right")),
                len(order) - 1,
            )
        ]


def mask_of(allowed: Any) -> Mask:
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return Mask(np.packbits(bits, bitorder="little").view(np.int32))


params_strategy = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 8, 20, 49, 60]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3]),
    logit_bias=st.sampled_from([{}, {}, {3: 5.0, 7: -100.0}]),
    seed=st.integers(0, 1000),
)


@settings(max_examples=300, deadline=None)
@given(
    params=params_strategy,
    seed=st.integers(0, 10_000),
    masked=st.booleans(),
    spread=st.sampled_from([0.3, 3.0, 8.0]),
)
def test_every_path_chooses_what_the_plain_sampler_chooses(
    params: SamplingParams, seed: int, masked: bool, spread: float
) -> None:
    random = np.random.default_rng(seed)
    fast, naive = Sampler(params, [1, 2, 2]), NaiveSampler(params, [1, 2, 2])
    for _ in range(12):
        scores = random_scores(random, VOCAB, spread=spread)
        allowed = random.random(VOCAB) < 0.4 if masked else None
        if allowed is not None:
            allowed[random.integers(VOCAB)] = True
        if not fast.wants_row(8, masked=masked):
            given_scores = Scores(scores.topk_ids, scores.topk_logits, scores.lse, scores.entropy)
        else:
            given_scores = scores
        chosen = fast.choose(given_scores, 0, None if allowed is None else mask_of(allowed))
        assert chosen == naive.choose(scores.logits[0], allowed)
        fast.commit(chosen)
        naive.text.append(chosen)


@settings(max_examples=200, deadline=None)
@given(
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([1.0, 1.0, 0.6]),
        top_k=st.sampled_from([0, 0, 5]),
        top_p=st.sampled_from([1.0, 0.95, 0.6, 0.1]),
        min_p=st.sampled_from([0.0, 0.0, 0.1, 0.7]),
        seed=st.integers(0, 1000),
    ),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.3, 2.0, 6.0]),
)
def test_the_best_tokens_decide_alone_only_where_they_may(
    params: SamplingParams, seed: int, spread: float
) -> None:
    random, fast, naive = np.random.default_rng(seed), Sampler(params), NaiveSampler(params, [])
    for _ in range(8):
        scores = random_scores(random, VOCAB, spread=spread)
        assert fast.choose(scores) == naive.choose(scores.logits[0])


def test_of_equal_tokens_the_smaller_id_comes_first() -> None:
    rows = np.zeros((1, VOCAB), np.float32)
    rows[0, [4, 9, 30]] = 2.0
    scores = Scores(
        np.array([[4]]), np.array([[2.0]], np.float32), np.ones(1, np.float32), np.ones(1, np.float32), rows
    )
    for seed in range(30):
        params = SamplingParams(temperature=0.5, top_k=2, seed=seed)
        chosen = Sampler(params).choose(scores)
        assert chosen == NaiveSampler(params, []).choose(rows[0])
        assert chosen in (4, 9)


def test_same_seed_same_tokens_and_another_seed_others() -> None:
    def draw(seed: int) -> list[int]:
        sampler, random = Sampler(SamplingParams(temperature=1.5, seed=seed)), np.random.default_rng(0)
        return [sampler.choose(random_scores(random, VOCAB)) for _ in range(40)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))[None]
    scores = Scores(np.arange(4)[None], logits, np.zeros(1, np.float32), np.ones(1, np.float32), logits)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3))
    counts = np.bincount([sampler.choose(scores) for _ in range(4000)], minlength=4) / 4000
    # four standard errors of a proportion
    assert np.all(np.abs(counts - np.exp(logits[0])) < 4 * np.sqrt(0.25 / 4000))


@pytest.mark.parametrize(
    ("params", "masked", "wanted"),
    [
        (SamplingParams(), False, False),
        (SamplingParams(temperature=1, top_k=8), False, False),
        (SamplingParams(temperature=1, top_k=9), False, True),
        (SamplingParams(temperature=1, top_p=0.9), False, True),
        (SamplingParams(logit_bias={1: 1.0}), False, True),
        (SamplingParams(repetition_penalty=1.1), False, True),
        (SamplingParams(), True, True),
    ],
)
def test_the_whole_row_is_fetched_only_when_it_may_be_needed(
    params: SamplingParams, masked: bool, wanted: bool
) -> None:
    assert Sampler(params).wants_row(8, masked=masked) is wanted


def test_a_mask_that_allows_one_of_the_best_needs_no_row() -> None:
    scores = random_scores(np.random.default_rng(0), VOCAB)
    third = int(scores.topk_ids[0, 2])
    without_row = Scores(scores.topk_ids, scores.topk_logits, scores.lse, scores.entropy)
    assert Sampler(SamplingParams()).choose(without_row, 0, mask_of(np.arange(VOCAB) == third)) == third


def test_a_mask_without_tokens_is_an_error_and_not_a_token() -> None:
    scores = random_scores(np.random.default_rng(0), VOCAB)
    with pytest.raises(GrammarError, match="allows no token"):
        Sampler(SamplingParams()).choose(scores, 0, mask_of(np.zeros(VOCAB, bool)))


def test_scores_that_are_not_numbers_are_refused() -> None:
    scores = random_scores(np.random.default_rng(0), VOCAB)
    broken = Scores(scores.topk_ids, scores.topk_logits, np.array([math.nan], np.float32), scores.entropy)
    with pytest.raises(EngineError, match="damaged"):
        Sampler(SamplingParams()).choose(broken)


def test_a_mask_may_be_shorter_than_the_vocabulary() -> None:
    mask = Mask(np.array([-1], np.int32))
    assert mask.allowed(40).sum() == 32
    assert 31 in mask


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("temperature", -1, "temperature=-1 is out of range: it must be a number from 0 to 100"),
        ("temperature", math.nan, "temperature=nan"),
        ("top_k", -1, "top_k=-1 is out of range: it must be a whole number, 0 or more"),
        ("top_k", 2.5, "top_k=2.5"),
        ("top_p", 1.5, "top_p=1.5 is out of range: it must be a number from 0 to 1"),
        ("min_p", "high", "min_p='high'"),
        ("repetition_penalty", 0, "repetition_penalty=0 is out of range: it must be a number above 0"),
        ("presence_penalty", 3, "presence_penalty=3 is out of range: it must be a number from -2 to 2"),
        ("frequency_penalty", -3, "frequency_penalty=-3"),
        ("seed", -1, "seed=-1"),
        ("max_tokens", 0, "max_tokens=0 is out of range: it must be a whole number, 1 or more"),
        ("max_tokens", True, "max_tokens=True"),
        ("stop", ("",), "stop="),
        ("logit_bias", {"a": 1.0}, "logit_bias has the key 'a'"),
        ("logit_bias", {1: 1000.0}, r"logit_bias\[1\]=1000.0 is out of range"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value_and_range(
    field: str, value: Any, told: str
) -> None:
    with pytest.raises(SamplingError, match=told):
        SamplingParams(**{field: value})


def test_unknown_parameters_are_named() -> None:
    with pytest.raises(
        SamplingError, match=r"unknown sampling parameter 'temprature'; known ones: .*temperature"
    ):
        SamplingParams.from_mapping({"temprature": 1})


def test_parameters_of_a_request_may_leave_values_out() -> None:
    params = SamplingParams.from_mapping(
        {"temperature": None, "top_k": 3, "stop": "x", "logit_bias": {"4": 1}}
    )
    assert params == SamplingParams(top_k=3, stop=("x",), logit_bias={4: 1.0})


def test_a_bias_behind_the_vocabulary_is_an_error() -> None:
    with pytest.raises(SamplingError, match="names token 99, but the vocabulary has 50"):
        Sampler(SamplingParams(logit_bias={99: 1.0})).choose(random_scores(np.random.default_rng(0), VOCAB))
