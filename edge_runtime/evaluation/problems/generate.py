"""Stories of one to six arithmetic steps in varied English, with the steps written out.

A story follows a quantity through moves: somebody has 24 apples (no step), gets 18 more (`24+18=42`), sells
each for $3 (`42*3=126`), …. A move is a step or two; a story is drawn move by move until it has the steps
asked for, each move being possible only where its numbers come out whole and small. Sentences come from
`templates.txt`, whose families `train`, `val` and `test` share no line, so that a test asks for wordings
never trained on (the single words are all known).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_runtime.evaluation.problems.moves import LATE, MOVES, QUESTIONS, Impossible, Move, Story
from edge_runtime.evaluation.problems.templates import SPLITS, Split, Templates, load_templates

__all__ = ["STEPS", "Problem", "generate"]

STEPS = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Problem:
    """A story with its question; `solution` ends in `answer: …`; `kinds` names what it takes to solve it."""

    text: str
    solution: str
    answer: str
    steps: int
    kinds: tuple[str, ...]
    family: Split


def _story(rng: random.Random, family: Split, steps: int, templates: Templates) -> Problem:
    names = rng.sample(templates.words["names"], 8)
    things = rng.sample(templates.words["things"], 2)
    words = {"P": names[0], "B": names[1], "u": things[0], "v": things[1]}
    s = Story(rng, family, templates, words=words, others=names[2:])
    s.container()
    last: Move | None = None
    while s.state == "start" or len(s.written) < steps:
        left = steps - len(s.written)
        moves = [m for m in MOVES.get(s.state, ()) if m[0] <= left and m[2] is not last]
        if left > 3:
            moves = [m for m in moves if m[2] not in LATE]
        if not moves:
            raise Impossible
        _, _, last = rng.choices(moves, [weight for _, weight, _ in moves])[0]
        s.earlier, s.before = s.before, None
        last(s)
    state, _, clock = s.state.partition("@")
    s.say(QUESTIONS[state])
    *told, question = s.sentences
    if s.reversible and rng.random() < 0.3:  # "Ben has 5 more than Anna. Anna has 12."
        told[0], told[1] = told[1], told[0]
        s.kinds.add("order")
    if rng.random() < 0.35:
        s.somebody()
        s.say("distractor", n=rng.randint(3, 60), k=rng.randint(2, 9))
        told.insert(rng.randint(0, len(told)), s.sentences[-1])
        s.kinds.add("distractor")
    answer = clock or str(s.value)
    solution = "\n".join([*s.written, f"answer: {answer}"])
    return Problem(
        " ".join([*told, question]), solution, answer, len(s.written), tuple(sorted(s.kinds)), family
    )


def generate(
    seed: int,
    count: int,
    split: Split,
    steps: Sequence[int] | None = None,
    templates: Templates | None = None,
) -> Iterator[Problem]:
    """`count` problems of a family of wordings; the same arguments give the same problems on every Python.

    Args:
        seed: of `random.Random`.
        count: how many.
        split: the family of sentences.
        steps: step counts in turn, so a multiple of their number has equally many of each; by default 1 to 6.
        templates: other sentences than those of `templates.txt`.

    Raises:
        ValueError: a step count outside 1 to 6, or no such family.
    """
    wanted = tuple(STEPS if steps is None else steps)
    if not wanted or any(s not in STEPS for s in wanted):
        raise ValueError(f"steps {wanted}: a problem has {STEPS[0]} to {STEPS[-1]} steps")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {seed}")
    given = templates or load_templates()
    for i in range(count):
        while True:
            try:
                yield _story(rng, split, wanted[i % len(wanted)], given)
                break
            except Impossible:
                continue
