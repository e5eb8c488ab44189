"""Frames against the vectors of docs/pocket-format.md."""

import json
from pathlib import Path

import pytest

from edge_runtime.chat_template import ChatTemplate
from edge_runtime.errors import ChatTemplateError
from edge_runtime.evaluation.frames import (
    Frame,
    home_frame,
    hwu_frame,
    messages,
    normalise_value,
    parse_frame,
    same_frame,
)

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "pocket"
FRAMES = json.loads((VECTORS / "frames.json").read_text(encoding="utf-8"))
PROMPTS = json.loads((VECTORS / "prompts.json").read_text(encoding="utf-8"))
TEMPLATES = [ROOT / "tools" / "train" / "chat_template.jinja"]
PACKAGE = ROOT / "model_zoo" / "packages" / "pocket"
CLOUD = ROOT / "model_zoo" / "packages" / "pocket-cloud"


def read(text: str) -> Frame:
    frame = parse_frame(text)
    assert frame is not None
    return frame


@pytest.mark.parametrize(("left", "right"), FRAMES["same"])
def test_frames_that_mean_the_same_are_the_same(left: str, right: str) -> None:
    assert same_frame(read(left), read(right))
    assert same_frame(read(right), read(left))


@pytest.mark.parametrize(("left", "right"), FRAMES["different"])
def test_frames_that_differ_in_an_intent_a_slot_or_a_value_differ(left: str, right: str) -> None:
    assert not same_frame(read(left), read(right))
    assert not same_frame(read(right), read(left))


@pytest.mark.parametrize("text", FRAMES["no frame"])
def test_text_that_is_no_frame_is_none(text: str) -> None:
    assert parse_frame(text) is None


@pytest.mark.parametrize(("row", "normal"), FRAMES["home"])
def test_a_home_assistant_row_has_its_normal_form(row: dict, normal: str) -> None:
    frame = home_frame(row["intent"], row["slots"])
    assert frame.to_json() == normal
    assert same_frame(read(normal), Frame(row["intent"], row["slots"]))


@pytest.mark.parametrize(("row", "normal"), FRAMES["assistant"])
def test_entity_spans_become_slots_in_order_of_mention(row: dict, normal: str) -> None:
    assert hwu_frame(row["intent"], row["entities"]).to_json() == normal


def test_numbers_that_no_json_has_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="inf is not a finite number"):
        normalise_value(float("inf"))
    with pytest.raises(ValueError, match="None is neither text nor a number"):
        normalise_value(None)


@pytest.mark.parametrize("vector", PROMPTS, ids=lambda v: v["name"])
def test_messages_render_to_the_documented_prompt(vector: dict) -> None:
    template = ChatTemplate.from_file(TEMPLATES[0])
    assert template.render(vector["messages"]) == vector["prompt"]


@pytest.mark.skipif(
    not (PACKAGE / "manifest.json").is_file(), reason="the package `pocket` is not in this checkout"
)
def test_the_shipped_package_renders_and_encodes_the_documented_prompts() -> None:
    from tokenizers import Tokenizer

    template = ChatTemplate.from_file(PACKAGE / "chat_template.jinja")
    tokenizer = Tokenizer.from_file(str(PACKAGE / "tokenizer.json"))
    encoded = [vector for vector in PROMPTS if "ids" in vector]  # `tools.train ship` writes the ids
    assert len(encoded) >= 14
    for vector in encoded:
        prompt = template.render(vector["messages"])
        assert prompt == vector["prompt"]
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        assert ids == vector["ids"]
        assert tokenizer.decode(ids, skip_special_tokens=False) == prompt


@pytest.mark.skipif(
    not (CLOUD / "manifest.json").is_file(), reason="the package `pocket-cloud` is not in this checkout"
)
@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_both_shipped_models_speak_one_format(name: str) -> None:
    assert (CLOUD / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_an_unknown_dialect_is_refused_by_name() -> None:
    template = ChatTemplate.from_file(TEMPLATES[0])
    with pytest.raises(ChatTemplateError, match="frames: 'alexa' is unknown: write ha, hwu64 or auto"):
        template.render(messages("hello", "alexa"))


def test_an_unknown_task_is_refused_by_name() -> None:
    template = ChatTemplate.from_file(TEMPLATES[0])
    system = {"role": "system", "content": "Task: Translate it"}
    with pytest.raises(
        ChatTemplateError, match="task: 'translate it' is unknown: write problem, frames or auto"
    ):
        template.render([system, {"role": "user", "content": "hello"}])
