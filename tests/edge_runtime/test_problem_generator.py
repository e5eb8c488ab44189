"""Word problems: the written steps are right, families share no sentence, and a seed says it all."""

import hashlib
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.evaluation.problems import SPLITS, STEPS, Problem, generate, load_templates
from edge_runtime.evaluation.problems.templates import FILE

# The same on every Python: a changed story is a changed test set.
DIGEST = "361908f0cc30d4a70975dd8314b4d8f66311ab0fc548759c7be645a3c9f6bdbb"


def minutes(clock: str) -> int:
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def check_step(line: str) -> str:
    """Work a written step out again; returns its result."""
    match = re.fullmatch(r"([\d:]+%?)([-+*/])(\d+)=([\d:]+)", line)
    assert match, line
    left, operator, right, result = match.groups()
    if ":" in left:
        assert operator == "+"
        assert minutes(left) + int(right) == minutes(result), line
        return result
    value = Fraction(int(left.rstrip("%")), 100 if left.endswith("%") else 1)
    found = {"+": value + int(right), "-": value - int(right), "*": value * int(right)}
    found["/"] = value / int(right)
    assert found[operator] == int(result), line
    return result


def check(problem: Problem) -> None:
    *steps, last = problem.solution.split("\n")
    results = [check_step(step) for step in steps]
    assert len(steps) == problem.steps
    assert last == f"answer: {problem.answer}"
    assert results[-1] == problem.answer
    assert not re.search(r"[{}]", problem.text)
    # Every number of a step is told in the story or was worked out before it.
    known = set(re.findall(r"\d+:\d+|\d+", problem.text)) | {"2", "3", "7", "12", "60", "100", "1000"}
    for step, result in zip(steps, results, strict=True):
        used = re.split(r"[-+*/=]", step)[:2]
        assert all(number.rstrip("%") in known for number in used), (step, problem.text)
        known.add(result)


@given(st.integers(0, 10**9), st.sampled_from(SPLITS), st.sampled_from(STEPS))
def test_every_written_step_is_right_and_uses_known_numbers(seed: int, split: str, steps: int) -> None:
    for problem in generate(seed, 3, split, (steps,)):  # type: ignore[arg-type]
        check(problem)
        assert problem.steps == steps


def test_families_share_no_sentence_and_training_knows_every_word() -> None:
    sentences = load_templates().sentences
    words = {}
    for split in SPLITS:
        text = " ".join(s for families in sentences.values() for s in families[split])
        words[split] = set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text.lower())))
    for move, families in sentences.items():
        assert set(families) == set(SPLITS), move
        assert not set(families["train"]) & set(families["test"])
        assert not set(families["train"]) & set(families["val"])
    assert not words["test"] - words["train"]
    assert not words["val"] - words["train"]


def test_step_counts_come_in_turn() -> None:
    assert [p.steps for p in generate(1, 12, "test")] == [1, 2, 3, 4, 5, 6] * 2
    assert [p.steps for p in generate(1, 4, "val", (2, 5))] == [2, 5, 2, 5]


def test_a_seed_gives_the_same_problems_everywhere() -> None:
    stories = [p.text + p.solution for split in ("train", "val", "test") for p in generate(9, 300, split)]
    assert hashlib.sha256("\n".join(stories).encode()).hexdigest() == DIGEST


def test_kinds_of_all_sorts_occur() -> None:
    kinds = {kind for problem in generate(0, 600, "test") for kind in problem.kinds}
    assert kinds >= {
        "comparison", "difference", "distractor", "fraction", "groups", "money", "order", "percentage",
        "rate", "share", "sum", "time", "units",
    }  # fmt: skip


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"steps \(7,\): a problem has 1 to 6 steps"):
        next(generate(0, 1, "test", (7,)))
    with pytest.raises(ValueError, match="split 'public' is unknown: choose one of train, val, test"):
        next(generate(0, 1, "public"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[have]\ntrain: {P} has {n}.\ntest: {P} has {n}.\n",
            r"\[have\] has '\{P\} has \{n\}.' in two families",
        ),
        ("[have]\n{P} has {n}.\n", r"\[have\] has no family in the line"),
    ],
)
def test_a_wrong_line_of_the_template_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / FILE.name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_templates(path)
