"""Rephrased word problems keep their numbers and their order, and never wander into a held-out family."""

import random
import re

from edge_runtime.evaluation.problems import generate
from tools.train.rephrase import held_out, rephrase


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?]) ", text.lower())


def test_held_out_sentences_are_recognised_and_training_ones_are_not() -> None:
    for split in ("val", "test"):
        for problem in generate(3, 200, split):  # type: ignore[arg-type]
            assert any(held_out().fullmatch(sentence) for sentence in sentences(problem.text))
    training = [s for problem in generate(3, 200, "train") for s in sentences(problem.text)]
    assert not [s for s in training if held_out().fullmatch(s)]


def test_rephrasing_keeps_numbers_and_stays_out_of_held_out_families() -> None:
    rng = random.Random(1)
    changed = 0
    for problem in generate(4, 600, "train"):
        text = rephrase(problem.text, rng)
        assert re.findall(r"[\d:]+%?", text) == re.findall(r"[\d:]+%?", problem.text)
        assert not [s for s in sentences(text) if held_out().fullmatch(s)]
        changed += text != problem.text.lower()
    assert changed > 500
