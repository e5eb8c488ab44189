"""Signals that ask the model again: what they ask, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from offload.errors import OffloadError
from offload.probes import SAMPLES, Messages, agreement, p_true, second_prompt, with_probes
from offload.types import Evidence

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 2+2"}]


class FakeProber:
    """Answers in turn; knows its own mind."""

    def __init__(self, *answers: str | None, options: Mapping[str, float] | None = None) -> None:
        self.answers, self.options = list(answers), options or {}
        self.seen: list[tuple[Messages, float, int]] = []

    def sample(self, messages: Messages, *, temperature: float, seed: int) -> str | None:
        self.seen.append((messages, temperature, seed))
        return self.answers[(len(self.seen) - 1) % len(self.answers)]

    def choice(self, messages: Messages, options: Sequence[str]) -> Mapping[str, float]:
        self.seen.append((messages, 0.0, 0))
        return self.options


def test_the_self_check_is_asked_question_and_answer_and_gives_the_share_of_true() -> None:
    prober = FakeProber(options={"True": 0.7, "False": 0.3})
    assert p_true(prober, ASKED, "answer: 4") == 0.7
    asked = prober.seen[0][0][0]["content"]
    assert "what is 2+2" in asked
    assert "answer: 4" in asked
    assert "be brief" not in asked
    assert p_true(FakeProber(), ASKED, "4") is None


def test_agreement_counts_answers_that_say_the_same_in_other_words() -> None:
    prober = FakeProber("2+2=4\nanswer: 4", "Answer: 4.0", "answer: 5", "4", "four")
    assert agreement(prober, ASKED, "answer: 4") == 3 / SAMPLES
    assert [seed for _, _, seed in prober.seen] == list(range(SAMPLES)), "every sample is another draw"
    assert all(temperature > 0 for _, temperature, _ in prober.seen)


def test_the_second_prompt_changes_the_last_user_message_alone() -> None:
    prober = FakeProber("answer: 4")
    turns = [*ASKED, {"role": "assistant", "content": "4"}, {"role": "user", "content": "and 1+3"}]
    assert second_prompt(prober, turns, "so #### 4") == 1.0
    asked, temperature, _ = prober.seen[0]
    assert [m["content"] for m in asked] == ["be brief", "what is 2+2", "4", "please and 1+3"]
    assert temperature == 0
    assert second_prompt(FakeProber("answer: 5"), ASKED, "answer: 4") == 0.0


def test_what_cannot_be_asked_is_left_out() -> None:
    evidence = Evidence(1, 0, extra={"grounded": 1.0})
    assert with_probes(evidence, ("agreement", "second_prompt"), FakeProber(None), ASKED, "4") is evidence
    assert second_prompt(FakeProber("x"), ASKED[:1], "4") is None


def test_probes_join_what_the_evidence_has() -> None:
    evidence = Evidence(1, 0, extra={"grounded": 1.0})
    found = with_probes(evidence, ("second_prompt",), FakeProber("four"), ASKED, "Four")
    assert found.extra == {"grounded": 1.0, "second_prompt": 1.0}
    with pytest.raises(OffloadError, match="no probe 'mood'; there are: p_true, agreement, second_prompt"):
        with_probes(evidence, ("mood",), FakeProber(), ASKED, "4")
