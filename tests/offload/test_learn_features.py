"""Features of texts: the same everywhere, equal to slow counting, and bounded."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.learn.features import (
    ANSWER_FIGURES,
    LONGEST,
    PROMPT_FIGURES,
    NGrams,
    Rows,
    answer_figures,
    hashed,
    prompt_figures,
)

TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=6)
SMALL = NGrams(words=2, chars=(3, 4), bits=12)


def naive_count(text: str, ngrams: NGrams) -> tuple[int, int]:
    """Distinct word n-grams, and distinct character n-grams within words padded by spaces."""
    words = re.findall(r"\w+", text.lower())
    of_words = {
        tuple(words[i : i + n]) for n in range(1, ngrams.words + 1) for i in range(len(words) - n + 1)
    }
    padded = [f" {word} " for word in text.lower().split()]
    of_chars = {word[i : i + n] for word in padded for n in ngrams.chars for i in range(len(word) - n + 1)}
    return len(of_words), len(of_chars)


def dense(rows: Rows) -> np.ndarray:
    matrix = np.zeros((len(rows), rows.width))
    for i in range(len(rows)):
        for at in range(rows.starts[i], rows.starts[i + 1]):
            matrix[i, rows.columns[at]] += rows.values[at]
    return matrix


@pytest.mark.parametrize(
    "text", ["Turn on the kitchen light, please!", "aa aa aa", "24+18=42", "", " ", "x", "Übermut tut gut"]
)
def test_ngrams_are_those_of_a_naive_walk(text: str) -> None:
    grams = NGrams(bits=22)  # so wide that collisions are unlikely
    columns = hashed([text], grams).columns
    of_words, of_chars = naive_count(text, grams)
    assert int((columns < grams.size // 2).sum()) == of_words
    assert int((columns >= grams.size // 2).sum()) == of_chars


def test_counts_enter_by_their_logarithm() -> None:
    grams = NGrams(words=1, chars=(), bits=16)
    values = hashed(["a b a c a b"], grams).values
    assert sorted(values) == pytest.approx(sorted(1 + math.log(n) for n in Counter("abacab").values()))


def test_buckets_are_the_same_in_every_process_and_release() -> None:
    assert hashed(["Turn it on"], NGrams(words=2, chars=(3,), bits=10)).columns.tolist() == [
        17, 100, 151, 400, 443, 552, 560, 775, 787, 827, 968, 988, 999,
    ]  # fmt: skip


@settings(deadline=None)
@given(TEXTS)
def test_a_sparse_matrix_does_what_a_dense_one_does(texts: list[str]) -> None:
    rows = hashed(texts, SMALL)
    full = dense(rows)
    rng = np.random.default_rng(0)
    right, left = rng.normal(size=rows.width), rng.normal(size=len(rows))
    np.testing.assert_allclose(rows.dot(right), full @ right, atol=1e-9)
    np.testing.assert_allclose(rows.transposed_dot(left), full.T @ left, atol=1e-9)
    chosen = rng.integers(0, len(rows), 4)
    np.testing.assert_array_equal(dense(rows.take(chosen)), full[chosen])
    np.testing.assert_array_equal(rows.document_frequency(), (full != 0).sum(axis=0))
    factor = rng.random(rows.width)
    scaled = full * factor
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    expected = np.divide(scaled, lengths, out=np.zeros_like(scaled), where=lengths > 0)
    np.testing.assert_allclose(dense(rows.scaled(factor)), expected, atol=1e-12)


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_finite_figures(prompt: str, answer: str) -> None:
    figures = prompt_figures([prompt, answer])
    assert figures.shape == (2, len(PROMPT_FIGURES))
    assert np.isfinite(figures).all()
    found = answer_figures([prompt], [answer])
    assert found.shape == (1, len(ANSWER_FIGURES))
    assert np.isfinite(found).all()


def figure(prompt: str, answer: str, name: str) -> float:
    return float(answer_figures([prompt], [answer])[0, ANSWER_FIGURES.index(name)])


def test_written_equations_are_worked_out_again() -> None:
    assert figure("", "3*4=12\n12 + 30 = $42", "wrong_equations") == 0
    assert figure("", "3*4=13 and 10/0=1", "wrong_equations") == 2
    assert figure("", "10/3=3.33", "wrong_equations") == 0
    assert figure("", "1,200-200=1000", "wrong_equations") == 0


def test_numbers_are_looked_up_in_the_prompt() -> None:
    prompt = "Ann has 24 pens and buys 18."
    assert figure(prompt, "24+18=42. answer: 42", "prompt_numbers_used") == 1
    assert figure(prompt, "24+18=42. answer: 42", "foreign_numbers") == 0
    assert figure(prompt, "24+7=31", "prompt_numbers_used") == 0.5
    assert figure(prompt, "answer: 5", "foreign_numbers") == 1
    assert figure(prompt, "answer: 5", "ends_in_number") == 1
    assert figure(prompt, "I do not know", "ends_in_number") == 0


def test_a_text_of_megabytes_is_cut() -> None:
    long = "word 12 " * LONGEST
    assert prompt_figures([long])[0, 0] == pytest.approx(math.log1p(LONGEST))
    assert len(hashed([long], SMALL).columns) < 100
