"""Signals that cost further passes of the model, behind one interface.

    p_true         the model's own verdict on its answer (Kadavath et al., arXiv 2207.05221)
    agreement      the share of sampled answers that say the same (Wang et al., arXiv 2203.11171)
    second_prompt  whether the question in other words gets the same answer

They are taken only where a calibration uses them, since each costs as much as an answer or several. Knows:
what is asked, and when two answers say the same (`offload.spans`). Does not know: engines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from offload.confidence import PROBES
from offload.errors import OffloadError
from offload.spans import read
from offload.types import Evidence

__all__ = [
    "SAMPLES",
    "TEMPERATURE",
    "Messages",
    "Prober",
    "agreement",
    "p_true",
    "second_prompt",
    "with_probes",
]

Messages = Sequence[Mapping[str, str]]

SAMPLES, TEMPERATURE = 5, 0.7
SELF_CHECK = (
    "Question: {question}\nProposed answer: {answer}\nIs the proposed answer true or false? "
    "Answer with one word, True or False."
)
YES, NO = "True", "False"


class Prober(Protocol):
    """A model that can be asked again."""

    def sample(self, messages: Messages, *, temperature: float, seed: int) -> str | None:
        """A whole answer, at temperature 0 the greedy one; `None` if it cannot be asked."""
        ...

    def choice(self, messages: Messages, options: Sequence[str]) -> Mapping[str, float]:
        """How likely the answer begins with each option, the options together 1; `{}` when it cannot say."""
        ...


def p_true(prober: Prober, messages: Messages, answer: str) -> float | None:
    """P("True") when the model is asked whether its answer is true, as a share of "True" and "False"."""
    question = "\n".join(m["content"] for m in messages if m["role"] != "system")
    asked = SELF_CHECK.format(question=question, answer=answer)
    found = prober.choice([{"role": "user", "content": asked}], (YES, NO)).get(YES)
    return found if found is not None and math.isfinite(found) else None


def agreement(prober: Prober, messages: Messages, answer: str) -> float | None:
    """The share of `SAMPLES` answers drawn at `TEMPERATURE` that say what the answer says."""
    wanted = read(answer).canonical
    same = 0
    for seed in range(SAMPLES):
        drawn = prober.sample(messages, temperature=TEMPERATURE, seed=seed)
        if drawn is None:
            return None
        same += read(drawn).canonical == wanted
    return same / SAMPLES


def second_prompt(prober: Prober, messages: Messages, answer: str) -> float | None:
    """1 if the same question with a "please" before it gets the same answer, else 0.

    A different wording that asks for the same: an answer that changes with it hangs on the wording.
    """
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        return None
    reworded = [
        {**m, "content": f"please {m['content']}"} if i == last else m for i, m in enumerate(messages)
    ]
    said = prober.sample(reworded, temperature=0.0, seed=0)
    return None if said is None else float(read(said).canonical == read(answer).canonical)


_PROBES: Mapping[str, Callable[[Prober, Messages, str], float | None]] = {
    "p_true": p_true,
    "agreement": agreement,
    "second_prompt": second_prompt,
}


def with_probes(
    evidence: Evidence, names: Sequence[str], prober: Prober, messages: Messages, answer: str
) -> Evidence:
    """The evidence with the named probes among its `extra` signals; one without a result is left out.

    Raises:
        OffloadError: there is no probe of that name.
    """
    unknown = [name for name in names if name not in _PROBES]
    if unknown:
        raise OffloadError(f"there is no probe '{unknown[0]}'; there are: {', '.join(PROBES)}")
    found = {name: _PROBES[name](prober, messages, answer) for name in names}
    known = {name: value for name, value in found.items() if value is not None}
    return replace(evidence, extra={**evidence.extra, **known}) if known else evidence
