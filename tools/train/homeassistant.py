"""Utterances with frames drawn from Home Assistant's sentence templates (the `hassil` template language).

A template is walked once per sample with a random choice at every alternative, so an utterance costs
microseconds and a template with a million expansions weighs no more than one with two. The repository's own
tests of these templates are never read here.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.evaluation.frames import Frame, home_frame

from .names import ANY_DEVICE, WORDS, Home


@dataclass(frozen=True)
class Sample:
    """An utterance, its frame, and the area of the speaker where that is known."""

    text: str
    frame: Frame
    area: str | None = None


class _Retry(Exception):  # noqa: N818 - a signal of the sampler to itself
    """The drawn expansion is not a sensible sentence."""


def known_names(fixtures: Path) -> dict[str, list[str]]:
    """Names by domain of the example home."""
    import yaml

    names: dict[str, list[str]] = defaultdict(list)
    for entity in yaml.safe_load(fixtures.read_text())["entities"]:
        names[str(entity["id"]).split(".")[0]].append(
            str(entity["name"]).replace("[", "").replace("]", "").lower()
        )
    return dict(names)


class Templates:
    """All template blocks of a folder of YAML files."""

    def __init__(self, folder: Path) -> None:
        import yaml
        from hassil.intents import Intents
        from hassil.util import merge_dict

        self.files: dict[str, list[tuple[str, Any]]] = {}
        common = yaml.safe_load((folder / "_common.yaml").read_text())
        for path in sorted(folder.glob("*_Hass*.yaml")):
            data: dict[str, Any] = {"language": "en", "intents": {}}
            merge_dict(data, {k: v for k, v in common.items() if k in ("lists", "expansion_rules")})
            merge_dict(data, yaml.safe_load(path.read_text()))
            intents = Intents.from_dict(data)
            self.rules, self.lists = intents.expansion_rules, intents.slot_lists
            self.files[path.stem] = [
                (name, block) for name, intent in intents.intents.items() for block in intent.data
            ]
        self.skip = [str(word) for word in common.get("skip_words", [])]
        # A file counts by the root of its number of blocks: the many sensor classes do not drown the lights.
        self.names = list(self.files)
        self.weights = [
            max(1.0, len(self.files[n]) ** 0.5) * (3 if "Turn" in n or "Light" in n else 1)
            for n in self.names
        ]


class Sampler:
    """Draws `Sample`s."""

    def __init__(self, templates: Templates, home: Home, rng: random.Random) -> None:
        self.t, self.home, self.rng = templates, home, rng

    def draw(self) -> Sample:
        while True:
            file = self.rng.choices(self.t.names, self.t.weights)[0]
            intent, block = self.rng.choice(self.t.files[file])
            try:
                return self._from_block(intent, block)
            except _Retry:
                continue

    def _from_block(self, intent: str, block: Any) -> Sample:
        rng = self.rng
        requires, slots = block.requires_context or {}, dict(block.slots or {})
        self.rules = {**self.t.rules, **(block.expansion_rules or {})}
        self.domain = self._domain(requires, block.excludes_context or {})
        self.slots: dict[str, Any] = {}
        text = " ".join(self._walk(rng.choice(block.sentences).expression).split())
        text = text.replace("floor floor", "floor").replace("the the ", "the ")
        if not text or len(text) > 140:
            raise _Retry
        slots.update(self.slots)
        area = None
        wanted = requires.get("area")
        if isinstance(wanted, dict) and wanted.get("slot"):
            if rng.random() < 0.75:
                area = self.home.area()
                slots["area"] = area
        elif rng.random() < 0.25:
            area = self.home.area()
        if rng.random() < 0.12 and self.t.skip:
            word = rng.choice(self.t.skip)
            text = f"{text} {word}" if word in ("please", "for me") else f"{word} {text}"
        if rng.random() < 0.12:
            text += rng.choice((".", "!", "?", "."))
        elif rng.random() < 0.4 and text.startswith(("is ", "are ", "what", "which", "how", "who", "where")):
            text += "?"
        return Sample(text, home_frame(intent, slots), area)

    def _domain(self, requires: dict[str, Any], excludes: dict[str, Any]) -> str:
        domain = requires.get("domain")
        if isinstance(domain, list):
            domain = self.rng.choice(domain)
        if isinstance(domain, dict):
            domain = domain.get("value")
        if isinstance(domain, str):
            return domain
        barred = excludes.get("domain", [])
        barred = [barred] if isinstance(barred, str) else barred
        return self.rng.choice([d for d in ANY_DEVICE if d not in barred])

    def _walk(self, node: Any) -> str:
        from hassil import expression as ex

        if isinstance(node, ex.TextChunk):
            return str(node.original_text)
        if isinstance(node, ex.ListReference):
            return self._fill(node)
        if isinstance(node, ex.RuleReference):
            return self._walk(self.rules[node.rule_name].expression)
        if isinstance(node, ex.Alternative):
            return self._walk(self.rng.choice(node.items))
        if isinstance(node, ex.Permutation):
            items = list(node.items)
            self.rng.shuffle(items)
            return " ".join(self._walk(item) for item in items)
        return "".join(self._walk(item) for item in node.items)

    def _fill(self, node: Any) -> str:
        from hassil.intents import RangeSlotList, TextSlotList

        name, slot = node.list_name, node.slot_name
        if name in ("name", "area", "floor"):
            said = {
                "name": lambda: self.home.device(self.domain),
                "area": self.home.area,
                "floor": self.home.floor,
            }[name]()
            if slot in self.slots:
                raise _Retry
            self.slots[slot] = said
            return said
        values = self.t.lists[name]
        if isinstance(values, TextSlotList):
            value = self.rng.choice(values.values)
            self._set(slot, value.value_out)
            return self._walk(value.text_in)
        if isinstance(values, RangeSlotList):
            number = self.rng.randint(values.start, values.stop)
            if self.rng.random() < 0.4:
                number = max(values.start, number // 5 * 5)
            self._set(slot, number)
            return number_words(number) if self.rng.random() < 0.2 else str(number)
        said = self.home.free(name)
        self._set(slot, said)
        return said

    def _set(self, slot: str, value: Any) -> None:
        if slot in self.slots and self.slots[slot] != value:
            raise _Retry
        self.slots[slot] = value


_ONES, _TENS = WORDS["ones"], WORDS["tens"]


def number_words(n: int) -> str:
    """English words for 0 to 100."""
    if n < 20:
        return _ONES[n]
    if n == 100:
        return "one hundred"
    return _TENS[n // 10] + ("" if n % 10 == 0 else f" {_ONES[n % 10]}")
