"""Training data: templates, homes, augmentation and tokenizer keep utterance and frame in step."""

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("hassil", reason="hassil is not installed: pip install 'edge-runtime[test]'")
pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'edge-runtime[test]'")

from edge_runtime.chat_template import ChatTemplate
from edge_runtime.evaluation.frames import Frame, messages, pairs
from tools.train import vocabulary as v
from tools.train.assistant import Gazetteer, Row, split, to_row
from tools.train.augment import exchange, noise, slip, vary
from tools.train.data import OUTSIDE, Example
from tools.train.homeassistant import Sampler, Templates, number_words
from tools.train.names import NOUNS, Home

TEMPLATE = Path(v.__file__).with_name("chat_template.jinja")
COMMON = """
language: en
lists:
  brightness: {range: {type: percentage, from: 0, to: 100}}
  color: {values: [{in: "(red|crimson)", out: red}]}
  shopping_list_item: {wildcard: true}
expansion_rules:
  name: "[the] {name}"
  area: "[the] {area}"
skip_words: [please]
"""
LIGHT = """
language: en
intents:
  HassLightSet:
    data:
      - sentences: ["set <name> (to {brightness}[%];in <area>)"]
        requires_context: {domain: light}
      - sentences: ["make it {color} [in here]"]
        requires_context: {area: {slot: true}}
        slots: {domain: light}
  HassShoppingListAddItem:
    data:
      - sentences: ["add {shopping_list_item:item} to my list"]
"""


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    (tmp_path / "_common.yaml").write_text(COMMON, encoding="utf-8")
    (tmp_path / "light_HassLightSet.yaml").write_text(LIGHT, encoding="utf-8")
    return Templates(tmp_path)


def samples(templates: Templates, count: int = 400, seed: int = 0) -> list:
    rng = random.Random(seed)
    sampler = Sampler(templates, Home(rng, ["zorp", "quux"]), rng)
    return [sampler.draw() for _ in range(count)]


def test_every_copied_value_is_in_the_utterance(templates: Templates) -> None:
    for sample in samples(templates):
        for slot, value in sample.frame.slots.items():
            if slot in ("name", "item") or (slot == "area" and sample.area is None):
                assert str(value) in sample.text.lower()


def test_numbers_are_numbers_and_listed_values_their_output(templates: Templates) -> None:
    drawn = samples(templates)
    numbers = [s for s in drawn if "brightness" in s.frame.slots]
    assert numbers
    for sample in numbers:
        number = sample.frame.slots["brightness"]
        assert isinstance(number, int)
        assert str(number) in sample.text or number_words(number) in sample.text
    assert {s.frame.slots["color"] for s in drawn if "color" in s.frame.slots} == {"red"}
    assert any("crimson" in s.text for s in drawn)


def test_a_command_without_a_place_takes_the_speakers_area(templates: Templates) -> None:
    here = [s for s in samples(templates) if "color" in s.frame.slots]
    assert any(s.area for s in here)
    assert any(s.area is None for s in here)
    for sample in here:
        assert sample.frame.slots.get("area") == sample.area


def test_the_same_seed_draws_the_same_samples(templates: Templates) -> None:
    assert samples(templates, 50, seed=5) == samples(templates, 50, seed=5)
    assert samples(templates, 50, seed=5) != samples(templates, 50, seed=6)


def test_number_words_are_english() -> None:
    assert [number_words(n) for n in (0, 13, 20, 42, 100)] == [
        "zero",
        "thirteen",
        "twenty",
        "forty two",
        "one hundred",
    ]


def test_every_device_domain_has_names() -> None:
    home = Home(random.Random(0), ["zorp"])
    assert all(home.device(domain).strip() for domain in NOUNS for _ in range(20))


RAW = {
    "text": "Wake me at Five on monday",
    "intent": "alarm_set",
    "entities": [
        {"start": 19, "end": 25, "value": "monday", "entity": "date"},
        {"start": 11, "end": 15, "value": "Five", "entity": "time"},
    ],
}


def test_segments_join_to_the_utterance_and_give_its_frame() -> None:
    row = to_row(RAW)
    assert row.text == "wake me at five on monday"
    assert row.frame().to_json() == '{"intent":"alarm_set","slots":{"time":"five","date":"monday"}}'


def test_exchanged_and_varied_rows_keep_frame_and_utterance_in_step() -> None:
    row, rng = to_row(RAW), random.Random(0)
    gazetteer = Gazetteer([row, Row("x", (("noon", "time"), ("tomorrow", "date")))])
    for _ in range(300):
        for changed in (exchange(row, gazetteer, rng), vary(row, gazetteer, rng)):
            assert changed.intent == row.intent
            assert {slot for slot, _ in pairs(changed.frame().slots)} <= {"time", "date"}
            for _, value in pairs(changed.frame().slots):
                assert value in " ".join(changed.text.split())


def test_noise_of_rate_zero_changes_nothing_and_a_slip_changes_one_word() -> None:
    rng = random.Random(0)
    assert noise("turn off the lights", rng, 0.0) == "turn off the lights"
    assert any(slip("lights", rng) != "lights" for _ in range(10))
    assert slip("off", rng) == "off"


def test_held_out_rows_are_not_trained_on() -> None:
    rows = [Row("a", ((f"text {i % 40}", None),)) for i in range(60)]
    train, held = split(rows, 15, random.Random(0))
    assert held
    assert not {row.text for row in train} & {row.text for row in held}


@pytest.fixture(scope="module")
def tokenizer() -> object:
    texts = [
        "turn off the lights in the kitchen",
        "wake me at five on monday",
        "set the lamp to 50 percent",
    ] * 20
    return v.train_tokenizer(texts, 400, ["HassTurnOff", "alarm_set"], ["area", "time", "brightness"])


def test_a_word_has_the_same_ids_in_the_utterance_and_in_the_frame(tokenizer: object) -> None:
    example = Example(v.TAG_HOME, "lights off in the kitchen", Frame("HassTurnOff", {"area": "kitchen"}))
    word = tokenizer.encode("kitchen").ids
    prompt, answer = tokenizer.encode(example.prompt()).ids, tokenizer.encode(example.answer()).ids
    assert prompt[-1 - len(word) : -1] == word
    assert answer[4 : 4 + len(word)] == word


def test_a_frame_is_a_handful_of_tokens_and_decodes_unchanged(tokenizer: object) -> None:
    slots = {"area": "the kitchen", "brightness": 50, "time": ["five", "MÖ"]}
    example = Example(v.TAG_AUTO, "x", Frame("HassTurnOff", slots), "Kitchen")
    text = example.prompt() + example.answer()
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    tokens = [tokenizer.id_to_token(i) for i in tokenizer.encode(example.answer()).ids]
    assert tokens[:4] == ['{"intent":"', "HassTurnOff", '","slots":{', '"area":"']
    assert tokens[-2:] == ['"]}}', v.EOS]
    none = tokenizer.encode(Frame("none", {}).to_json()).ids
    assert len(none) == 2


def test_frequent_words_that_begin_no_value_take_the_space_before_them() -> None:
    texts = ["set the lamp of the kitchen to the mood"] * 50
    joined = v.joined_words(texts, ["kitchen", "mood"] * 50, rare=10)
    assert joined == ["the", "lamp", "of", "to"]
    tokenizer = v.train_tokenizer(texts, 400, ["HassTurnOff"], ["area"], joined)
    tokens = [tokenizer.id_to_token(i).replace("Ġ", "_") for i in tokenizer.encode(texts[0]).ids]
    assert tokens == ["set", "_the", "_lamp", "_of", "_the", "_", "kitchen", "_to", "_the", "_", "mood"]
    for text in (texts[0], "the theater of  the tomb", "Öl to the"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_worked_solution_ends_in_the_answer_line() -> None:
    tokenizer = v.train_tokenizer(["24+18=42 apples"] * 20, 350, ["HassTurnOff"], ["area"])
    example = Example(v.TAG_PROBLEM, "Anna has 24 apples.", "24+18=42\nanswer: 42")
    tokens = [tokenizer.id_to_token(i) for i in tokenizer.encode(example.answer()).ids]
    assert tokens[-4:] == [v.ANSWER_LINE, "4", "2", v.EOS]
    assert tokenizer.decode(tokenizer.encode(example.prompt()).ids, skip_special_tokens=False) == (
        "<s><|problem|><|say|>anna has 24 apples.<|answer|>"
    )


def test_training_prompts_are_the_templates_prompts() -> None:
    template = ChatTemplate.from_file(TEMPLATE)
    for text, area in (
        ("Turn  OFF the lights ", None),
        ("what’s up in Emma’s room", "Living Room"),
        ("21.5°C!", " A  b "),
    ):
        for tag, dialect in ((v.TAG_AUTO, None), (v.TAG_HOME, "ha"), (v.TAG_HWU, "hwu64")):
            ours = Example(tag, text, Frame("none", {}), area).prompt()
            assert template.render(messages(text, dialect, area)) == ours


def test_outside_topics_are_clinc_intents(data_dir: Path) -> None:
    lines = (data_dir / "clinc150" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["intent"] for line in lines} > OUTSIDE
