"""The demo shows what was said, the frame, and how sure and how fast the model was."""

from io import StringIO
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from offload.types import Answer, Evidence, Token
from tools import demo


class FakeRuntime:
    """Answers every utterance with a frame that has rich's markup characters in it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.model = SimpleNamespace(
            engine=SimpleNamespace(info=SimpleNamespace(model_id="fake", threads=2)),
            manifest=None,
            load_s=0.05,
        )

    def answer(self, messages: Any) -> Answer:
        self.asked.append(messages)
        evidence = Evidence.fold([Token(1, "x", logprob=-0.125, entropy=0.5, margin=1.0)], "stop")
        text = '{"intent":"X","slots":{"date":["[bold]","now"]}}'
        return Answer("a", text, "device", "fake", evidence=evidence, timings={"tokens_per_s": 100.0})


def test_every_utterance_is_shown_with_its_frame_confidence_and_speed() -> None:
    runtime, page = FakeRuntime(), StringIO()
    demo.show(runtime, demo.UTTERANCES, Console(file=page, width=120, highlight=False))  # type: ignore[arg-type]
    shown = page.getvalue()
    assert all(said.text in shown for said in demo.UTTERANCES)
    assert shown.count('{"intent":"X","slots":{"date":["[bold]","now"]}}') == len(demo.UTTERANCES)
    assert shown.count("mean log-probability -0.125 (uncalibrated) · 1 tokens · 100 tokens/s") == len(
        demo.UTTERANCES
    )
    assert "it is no probability of being right" in shown


def test_the_room_of_the_speaker_is_given_as_the_pocket_format_says() -> None:
    assert demo.messages(demo.Said("lights on", area="kitchen")) == [
        {"role": "system", "content": "area: kitchen"},
        {"role": "user", "content": "lights on"},
    ]
