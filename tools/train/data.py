"""The mixture of rows that the pocket models are trained on, and the rows held out to choose by."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from edge_runtime.evaluation.frames import NO_INTENT, Frame, normalise_text
from edge_runtime.evaluation.problems.generate import STEPS, generate

from . import vocabulary as v
from .assistant import HOME_OWNS, Gazetteer, Row, read_jsonl, split, to_row
from .augment import vary, vary_text
from .config import TrainConfig
from .homeassistant import Sample, Sampler, Templates, known_names
from .names import WORDS, Home
from .rephrase import rephrase

# In-scope intents of clinc150 that neither hwu64 nor Home Assistant has anything like:
# banking, work, cars, travel papers.
OUTSIDE = frozenset(WORDS["outside topics"])


@dataclass(frozen=True)
class Example:
    """A prompt and what answers it: a frame, or a worked solution."""

    tag: str
    text: str
    reference: Frame | str
    area: str | None = None

    def prompt(self) -> str:
        """The exact prompt string; the package's chat template renders the same (a test compares)."""
        area = f"{v.AREA}{normalise_text(self.area)}" if self.area else ""
        return f"{v.BOS}{self.tag}{area}{v.SAY}{normalise_text(self.text)}{v.ANSWER}"

    def answer(self) -> str:
        answer = self.reference if isinstance(self.reference, str) else self.reference.to_json()
        return answer + v.EOS


class Corpus:
    """All rows, read and split; `texts` feeds the tokenizer."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.seed = config.seed
        rng = random.Random(config.seed)
        rows = [to_row(r) for r in read_jsonl(folder / "hwu64" / "train.jsonl")]
        self.train, self.validation = split(rows, config.validation_rows, rng)
        self.gazetteer = Gazetteer(self.train)
        clinc = [
            (normalise_text(str(r["text"])), str(r["intent"]))
            for r in read_jsonl(folder / "clinc150" / "train.jsonl")
        ]
        self.topics = clinc
        self.outside = [text for text, intent in clinc if intent in OUTSIDE]
        self.oos = [
            normalise_text(str(r["text"])) for r in read_jsonl(folder / "clinc150" / "oos_train.jsonl")
        ]
        self.oos_validation = [
            normalise_text(str(r["text"])) for r in read_jsonl(folder / "clinc150" / "oos_val.jsonl")
        ]
        words = sorted({w for row in self.train for w in row.text.split() if w.isalpha() and 2 < len(w) < 12})
        home = folder / "ha_intents"
        templates = Templates(home / "sentences" / "en")
        known = known_names(home / "fixtures.yaml")
        self.home = self._sample(templates, Home(rng, words, known), rng, config.home_samples)
        held = random.Random(config.seed + 1)
        self.home_validation = self._sample(templates, Home(held, words, known), held, config.validation_rows)

    @staticmethod
    def _sample(templates: Templates, home: Home, rng: random.Random, count: int) -> list[Sample]:
        sampler = Sampler(templates, home, rng)
        return [sampler.draw() for _ in range(count)]

    def texts(self) -> Iterator[str]:
        for row in self.train:
            yield from (row.text,) * 3
        yield from (text for text, _ in self.topics)
        yield from self.oos
        yield from (sample.text.lower() for sample in self.home[:15_000])
        yield from (normalise_text(p.text) for p in generate(self.seed, 3_000, "train"))

    def values(self) -> Iterator[str]:
        """Slot values that are copied from an utterance, as often as in `texts`."""
        for row in self.train:
            yield from (normalise_text(text) for text, entity in row.segments if entity for _ in range(3))
        for sample in self.home[:15_000]:
            yield from (v for v in sample.frame.slots.values() if isinstance(v, str))

    def intents(self) -> set[str]:
        found = {row.intent for row in self.train} | {s.frame.intent for s in self.home}
        return found | {f"topic_{intent}" for _, intent in self.topics}

    def slots(self) -> set[str]:
        return {e for row in self.train for _, e in row.segments if e} | {
            k for s in self.home for k in s.frame.slots
        }


class Mixture:
    """An endless stream of examples in the shares that the configuration gives."""

    def __init__(
        self, corpus: Corpus, shares: dict[str, float], seed: int, steps: Sequence[float] = (1, 1, 1, 1, 1, 1)
    ) -> None:
        self.corpus, self.rng, self.steps = corpus, random.Random(seed), steps
        self.kinds, self.weights = list(shares), list(shares.values())
        self.decks: dict[str, list[int]] = {}
        self.auto_rows = [row for row in corpus.train if not row.intent.startswith(HOME_OWNS)]

    def _deal(self, name: str, size: int) -> int:
        """Indices without replacement, reshuffled when the deck is empty."""
        deck = self.decks.get(name)
        if not deck:
            deck = list(range(size))
            self.rng.shuffle(deck)
            self.decks[name] = deck
        return deck.pop()

    def draw(self) -> Example:
        rng, c = self.rng, self.corpus
        kind = rng.choices(self.kinds, self.weights)[0]
        if kind in ("problem", "problem_auto"):
            count = rng.choices(STEPS, self.steps)[0]
            problem = next(generate(rng.getrandbits(48), 1, "train", (count,)))
            tag = v.TAG_PROBLEM if kind == "problem" else v.TAG_AUTO
            text = rephrase(problem.text, rng) if rng.random() < 0.75 else problem.text
            return Example(tag, vary_text(text, rng, 0.02), problem.solution)
        if kind in ("hwu", "hwu_auto"):
            rows: list[Row] = c.train if kind == "hwu" else self.auto_rows
            row = vary(rows[self._deal(kind, len(rows))], c.gazetteer, rng)
            area = rng.choice(c.home).area if rng.random() < 0.05 else None
            return Example(v.TAG_HWU if kind == "hwu" else v.TAG_AUTO, row.text, row.frame(), area)
        if kind in ("home", "home_auto"):
            sample = c.home[self._deal("home", len(c.home))]
            return Example(
                v.TAG_HOME if kind == "home" else v.TAG_AUTO, sample.text, sample.frame, sample.area
            )
        if kind == "topic":
            text, intent = c.topics[self._deal(kind, len(c.topics))]
            return Example(v.TAG_TOPIC, vary_text(text, rng), Frame(f"topic_{intent}", {}))
        pick = rng.random()
        if pick < 0.25:
            text = c.oos[self._deal("oos", len(c.oos))]
        else:
            text = c.outside[self._deal("outside", len(c.outside))]
        tag = rng.choice((v.TAG_AUTO, v.TAG_AUTO, v.TAG_HWU, v.TAG_HOME))
        if tag == v.TAG_HOME and rng.random() < 0.5:  # what the assistant knows and the home does not
            text = self.auto_rows[self._deal("elsewhere", len(self.auto_rows))].text
        return Example(tag, vary_text(text, rng), Frame(NO_INTENT, {}))


def validation(corpus: Corpus) -> dict[str, list[Example]]:
    """Held-out rows by suite."""
    return {
        "hwu": [Example(v.TAG_HWU, row.text, row.frame()) for row in corpus.validation],
        "home": [Example(v.TAG_HOME, s.text, s.frame, s.area) for s in corpus.home_validation],
        "home_auto": [Example(v.TAG_AUTO, s.text, s.frame, s.area) for s in corpus.home_validation[:200]],
        "oos": [Example(v.TAG_AUTO, text, Frame(NO_INTENT, {})) for text in corpus.oos_validation],
        "problems": [Example(v.TAG_PROBLEM, p.text, p.solution) for p in generate(0, 240, "val")],
        "problems_short": [
            Example(v.TAG_PROBLEM, p.text, p.solution) for p in generate(1, 120, "val", (1, 2))
        ],
    }


def encode(tokenizer: Tokenizer, examples: Iterable[Example]) -> list[tuple[list[int], int]]:
    """(token ids of prompt and answer, length of the prompt) per example."""
    encoded = []
    for example in examples:
        prompt = tokenizer.encode(example.prompt(), add_special_tokens=False).ids
        encoded.append(
            (prompt + tokenizer.encode(example.answer(), add_special_tokens=False).ids, len(prompt))
        )
    return encoded
