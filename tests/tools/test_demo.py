"""The demo shows what was said, the frame, and how sure and how fast the model was."""

from io import StringIO
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from offload.types import Answer, Confidence, Evidence, Token
from tools import demo

FRAME = '{"intent":"X","slots":{"date":["[bold]","now"]}}'


class FakeRuntime:
    """Answers everything with one text, by default a frame that has rich's markup characters in it."""

    def __init__(self, text: str = FRAME, confidence: Confidence | None = None) -> None:
        self.text, self.confidence = text, confidence
        self.asked: list[Any] = []
        self.model = SimpleNamespace(
            engine=SimpleNamespace(info=SimpleNamespace(model_id="fake", threads=2)),
            manifest=None,
            load_s=0.05,
        )

    def answer(self, messages: Any) -> Answer:
        self.asked.append(messages)
        evidence = Evidence.fold([Token(1, "x", logprob=-0.125, entropy=0.5, margin=1.0)], "stop")
        return Answer(
            "a",
            self.text,
            "device",
            "fake",
            confidence=self.confidence,
            evidence=evidence,
            timings={"tokens_per_s": 100.0},
        )


def shown(runtime: FakeRuntime, utterances: Any, problems: Any) -> str:
    page = StringIO()
    demo.show(runtime, utterances, problems, Console(file=page, width=120, highlight=False))  # type: ignore[arg-type]
    return page.getvalue()


def test_every_utterance_is_shown_with_its_frame_confidence_and_speed() -> None:
    text = shown(FakeRuntime(), demo.UTTERANCES, ())
    assert all(said.text in text for said in demo.UTTERANCES)
    assert text.count(FRAME) == len(demo.UTTERANCES)
    assert text.count("mean log-probability -0.125 (uncalibrated) · 1 tokens · 100 tokens/s") == len(
        demo.UTTERANCES
    )


def test_a_word_problem_is_shown_with_its_steps_and_whether_it_is_right() -> None:
    runtime = FakeRuntime("24+18=42\nanswer: 42")
    text = shown(runtime, (), (demo.Asked("a [b]?", "42"), demo.Asked("c?", "41")))
    assert "asked  a [b]?" in text
    assert "worked 24+18=42  answer: 42   right" in text
    assert "worked 24+18=42  answer: 42   wrong: it is 41" in text
    assert "Word problems: 1 of 2 right." in text
    assert runtime.asked == [[{"role": "user", "content": "a [b]?"}], [{"role": "user", "content": "c?"}]]


def test_what_is_said_about_confidence_is_what_is_shown() -> None:
    raw = shown(FakeRuntime(), demo.UTTERANCES, ())
    assert demo.RAW in raw
    assert demo.CALIBRATED not in raw
    calibrated = shown(FakeRuntime(confidence=Confidence(0.91, "mean_logprob", "c")), demo.UTTERANCES, ())
    assert "P(correct) 0.91" in calibrated
    assert demo.CALIBRATED in calibrated
    assert demo.RAW not in calibrated


def test_a_frame_in_place_of_a_solution_is_wrong() -> None:
    assert "0 of 3 right" in shown(FakeRuntime(), (), demo.PROBLEMS)


def test_the_room_of_the_speaker_is_given_as_the_pocket_format_says() -> None:
    assert demo.messages(demo.Said("lights on", area="kitchen")) == [
        {"role": "system", "content": "area: kitchen"},
        {"role": "user", "content": "lights on"},
    ]
